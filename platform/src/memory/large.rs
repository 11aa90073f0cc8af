//! Large memory: the upper end of the offsets, private memory of the host instead of the file.
//!
//! A page that KVM maps for a guest costs a fault of its own, a huge page one fault for 512 pages. Shared memory can have
//! huge pages only where the host's administrator allows it (`shmem_enabled`), private memory also where a program may
//! ask for it. So memory that is going to be used all over comes from here, in units of [`LARGE_PAGE`].
//!
//! What differs from the file:
//! - to drop the pages' translations loses the bytes, so they are *renewed* ([`Mapping::renew_translations`]). While that
//!   is under way KVM may be refused a page that a guest wants to read; [`MemoryFile::renewals`] tells.
//! - A unit whose pages were freed, discarded or renewed in part is *broken*: the host has made small pages of its huge
//!   one. It gets a new mapping before it is given out again.
//!
//! Where the host is a guest itself, a huge page may be dear: hosts hand free blocks of that size back to theirs (free page
//! reporting), and to touch such a block again takes 5 ms, twice as long as 512 small pages that were used a moment ago,
//! the guest's faults for them included. So the time is measured, and after a dear one units have small pages for a while.
//!
//! [`Mapping::renew_translations`]: host::mapping::Mapping::renew_translations

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::ENOMEM;
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{LARGE_PAGE, MemRange};
use host::mapping::HostPages;

use super::extents::Extents;
use super::{MemoryFile, STEP};

/// The first steps in which it grows; a slot costs time and memory by its length.
const SMALL_STEP: u64 = 128 << 20;
/// The pages of a unit.
const UNIT_PAGES: usize = (LARGE_PAGE / PAGE_SIZE) as usize;

/// The host's time for a huge page beyond which small pages are cheaper, a guest's faults for them included.
const DEAR_NS: i64 = 2_000_000;
/// How many units have small pages after the first dear huge page, and at most.
const PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 256;

/// The state of the large memory.
pub(super) struct Large {
    is_wanted: bool,
    /// The lowest offset; moves down.
    low: AtomicU64,
    /// Bytes that have a reference or wait to be freed.
    held: AtomicU64,
    /// For so many units huge pages are probably too dear.
    pause: AtomicU32,
    /// The length of the next pause.
    next_pause: AtomicU32,
    /// Odd while translations are renewed.
    renewals: AtomicU64,
    extents: Lock<Extents, { rank::MEMORY_FILE }>,
    broken: Lock<BTreeSet<u64>, { rank::MEMORY_FILE }>,
    /// Units that got small pages.
    small: Lock<BTreeSet<u64>, { rank::MEMORY_FILE }>,
    /// Held while translations are renewed: two at once could leave out the change that tells KVM.
    renewing: Lock<(), { rank::MEMORY_FILE }>,
}

impl Large {
    pub(super) fn new(limit: u64, is_wanted: bool) -> Self {
        Self {
            is_wanted,
            low: AtomicU64::new(limit),
            held: AtomicU64::new(0),
            pause: AtomicU32::new(0),
            next_pause: AtomicU32::new(PAUSE),
            renewals: AtomicU64::new(0),
            extents: Lock::new(Extents::default()),
            broken: Lock::new(BTreeSet::new()),
            small: Lock::new(BTreeSet::new()),
            renewing: Lock::new(()),
        }
    }

    /// The lowest offset of large memory.
    #[inline]
    pub(super) fn low(&self) -> u64 {
        self.low.load(Ordering::Acquire)
    }

    /// The kind of pages for the next unit.
    fn next_pages(&self) -> HostPages {
        let less = |pause: u32| pause.checked_sub(1);
        match self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => HostPages::Small,
            Err(_) => HostPages::Huge,
        }
    }

    /// Takes note that the host needed `ns` for a huge page.
    fn learn(&self, ns: i64) {
        if ns < DEAR_NS {
            self.next_pause.store(PAUSE, Ordering::Relaxed);
        } else {
            let pause = self.next_pause.load(Ordering::Relaxed);
            self.pause.store(pause, Ordering::Relaxed);
            self.next_pause.store((pause * 2).min(LONGEST_PAUSE), Ordering::Relaxed);
        }
    }

    /// Takes note that much memory was freed: the host may have huge pages that were just in use.
    pub(super) fn hope(&self) {
        self.pause.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn contains(&self, offset: u64) -> bool {
        offset >= self.low()
    }
}

/// The whole units in `range`.
fn whole(range: MemRange) -> std::ops::Range<u64> {
    range.offset.next_multiple_of(LARGE_PAGE)..range.end() & !(LARGE_PAGE - 1)
}

impl MemoryFile {
    /// A number that changes when the renewal of translations begins and when it ends; odd in between. When `KVM_RUN` says
    /// that there is no memory, and the number was odd before or is another now, the guest is to be run again.
    #[inline]
    pub fn renewals(&self) -> u64 {
        self.large.renewals.load(Ordering::SeqCst)
    }

    /// Allocates units in one piece, provided.
    pub(super) fn take_large(&self, len: u64) -> Option<MemRange> {
        assert!(
            len > 0 && len.is_multiple_of(LARGE_PAGE),
            "memory file: bad allocation of {len:#x} in units"
        );
        if !self.large.is_wanted || len > self.limit() || self.exceeds_budget(len) {
            return None;
        }
        let mut flushed = false;
        let offset = loop {
            let mut extents = self.large.extents.lock();
            if let Some(offset) = extents.take(len, LARGE_PAGE) {
                break offset;
            }
            if !flushed && self.freed_bytes.load(Ordering::Relaxed) > 0 {
                drop(extents);
                self.flush_freed();
                flushed = true;
                continue;
            }
            self.grow_large(&mut extents).ok()?;
        };
        let range = MemRange { offset, len };
        self.mend(range);
        for unit in (offset..offset + len).step_by(LARGE_PAGE as usize) {
            self.provide_unit(unit);
        }
        self.counts.start(range);
        self.large.held.fetch_add(len, Ordering::Relaxed);
        self.allocated.fetch_add(len, Ordering::Relaxed);
        Some(range)
    }

    /// Makes the host provide a unit that nobody uses yet.
    fn provide_unit(&self, unit: u64) {
        let pages = self.large.next_pages();
        // Processor time: what other threads do meanwhile does not count.
        let started = host::clock::thread_cpu_ns();
        self.mapping.populate_private(unit, LARGE_PAGE, pages);
        match pages {
            HostPages::Huge => self.large.learn(host::clock::thread_cpu_ns() - started),
            HostPages::Small => {
                self.large.small.lock().insert(unit);
            }
        }
    }

    /// Adds a step. `extents` is locked by the caller, so steps come one at a time.
    fn grow_large(&self, extents: &mut Extents) -> Result<(), Errno> {
        let end = self.large.low();
        let len = if self.limit() - end < STEP { SMALL_STEP } else { STEP };
        let step = MemRange { offset: end.checked_sub(len).ok_or(ENOMEM)?, len };
        {
            let mut edges = self.edges.lock();
            if step.offset < edges.start {
                return Err(ENOMEM);
            }
            edges.end = step.offset;
        }
        if let Err(e) = self.mapping.map_zeroed(step.offset, len).and_then(|()| self.show(step)) {
            self.edges.lock().end = end;
            return Err(e);
        }
        self.large.low.store(step.offset, Ordering::Release);
        extents.insert(step.offset, len);
        Ok(())
    }

    /// Gives the units in `range`, which nobody uses, new mappings if they have small pages, so that they can have huge
    /// ones again.
    fn mend(&self, range: MemRange) {
        let take = |set: &mut BTreeSet<u64>| {
            let mut taken = set.split_off(&range.offset);
            set.append(&mut taken.split_off(&range.end()));
            taken
        };
        let mut units = take(&mut self.large.broken.lock());
        units.append(&mut take(&mut self.large.small.lock()));
        let units = Vec::from_iter(units);
        for run in units.chunk_by(|a, b| a + LARGE_PAGE == *b) {
            if let Err(e) = self.mapping.map_zeroed(run[0], run.len() as u64 * LARGE_PAGE) {
                // It is zeroed and usable, in small pages.
                log::debug!("memory file: mapping {:#x} anew: {e}", run[0]);
            }
        }
    }

    /// Remembers the units that `range` covers in part.
    fn break_units(&self, range: MemRange) {
        let whole = whole(range);
        let first = range.offset & !(LARGE_PAGE - 1);
        let mut broken = self.large.broken.lock();
        if first < whole.start {
            broken.insert(first);
        }
        if range.end() > whole.end && whole.end >= range.offset {
            broken.insert(whole.end);
        }
    }

    /// Drops the translations that guests have. False: the host refused.
    pub(super) fn renew(&self, range: MemRange) -> bool {
        self.break_units(range);
        let renewing = self.large.renewing.lock();
        self.large.renewals.fetch_add(1, Ordering::SeqCst);
        let done = self.mapping.renew_translations(range.offset, range.len);
        self.large.renewals.fetch_add(1, Ordering::SeqCst);
        drop(renewing);
        done
    }

    /// Gives the memory of pages that stay allocated back to the host; they read as zeros.
    pub(super) fn drop_large(&self, range: MemRange) {
        // Before the pages go: who counts what is resident then looks at them.
        self.break_units(range);
        let whole = whole(range);
        self.large.broken.lock().extend((whole.start..whole.end).step_by(LARGE_PAGE as usize));
        self.empty(range);
    }

    /// Takes ranges without references back.
    pub(super) fn free_large(&self, ranges: impl Iterator<Item = MemRange>) {
        for range in ranges {
            self.break_units(range);
            self.empty(range);
            self.large.held.fetch_sub(range.len, Ordering::Relaxed);
            self.large.extents.lock().insert(range.offset, range.len);
        }
    }

    /// Frees the host's memory; the pages read as zeros.
    fn empty(&self, range: MemRange) {
        if !self.mapping.drop_pages(range.offset, range.len) {
            log::warn!("memory file: the host does not take {:#x}+{:#x} back", range.offset, range.len);
            self.mapping.zero(range.offset, range.len);
        }
    }

    /// Bytes that the host holds. Units are provided as a whole, so only broken ones have to be looked at.
    pub(super) fn resident_large(&self) -> u64 {
        let broken: Vec<u64> = self.large.broken.lock().iter().copied().collect();
        let mut missing = 0;
        let mut answers = [0; UNIT_PAGES];
        for unit in broken {
            self.mapping.residency(unit, &mut answers);
            let is_missing = |&(i, &answer): &(usize, &u8)| {
                answer == 0 && self.counts.load(unit + i as u64 * PAGE_SIZE) > 0
            };
            missing += answers.iter().enumerate().filter(is_missing).count() as u64 * PAGE_SIZE;
        }
        self.large.held.load(Ordering::Relaxed).saturating_sub(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_pages_make_longer_and_longer_pauses_and_a_cheap_one_ends_that() {
        let large = Large::new(STEP, true);
        let pause = || (0..).take_while(|_| large.next_pages() == HostPages::Small).count();
        assert_eq!(pause(), 0);
        large.learn(5_000_000);
        assert_eq!(pause(), 4);
        large.learn(5_000_000);
        assert_eq!(pause(), 8);
        large.learn(5_000_000);
        large.hope();
        assert_eq!(pause(), 0);
        large.learn(300_000);
        large.learn(5_000_000);
        assert_eq!(pause(), 4);
    }
}
