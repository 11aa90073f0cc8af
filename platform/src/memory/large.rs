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
//! [`Mapping::renew_translations`]: host::mapping::Mapping::renew_translations

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::ENOMEM;
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{LARGE_PAGE, MemRange};

use super::extents::Extents;
use super::{MemoryFile, STEP};

/// The first steps in which it grows; a slot costs time and memory by its length.
const SMALL_STEP: u64 = 128 << 20;
/// The pages of a unit.
const UNIT_PAGES: usize = (LARGE_PAGE / PAGE_SIZE) as usize;

/// The state of the large memory.
pub(super) struct Large {
    is_wanted: bool,
    /// The lowest offset; moves down.
    low: AtomicU64,
    /// Bytes that have a reference or wait to be freed.
    held: AtomicU64,
    /// Odd while translations are renewed.
    renewals: AtomicU64,
    extents: Lock<Extents, { rank::MEMORY_FILE }>,
    broken: Lock<BTreeSet<u64>, { rank::MEMORY_FILE }>,
    /// Held while translations are renewed: two at once could leave out the change that tells KVM.
    renewing: Lock<(), { rank::MEMORY_FILE }>,
}

impl Large {
    pub(super) fn new(limit: u64, is_wanted: bool) -> Self {
        Self {
            is_wanted,
            low: AtomicU64::new(limit),
            held: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            extents: Lock::new(Extents::default()),
            broken: Lock::new(BTreeSet::new()),
            renewing: Lock::new(()),
        }
    }

    /// The lowest offset of large memory.
    #[inline]
    pub(super) fn low(&self) -> u64 {
        self.low.load(Ordering::Acquire)
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
        self.mapping.populate_huge(offset, len);
        self.counts.start(range);
        self.large.held.fetch_add(len, Ordering::Relaxed);
        self.allocated.fetch_add(len, Ordering::Relaxed);
        Some(range)
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

    /// Gives the broken units in `range`, which nobody uses, new mappings, so that they can be huge pages again.
    fn mend(&self, range: MemRange) {
        let broken: Vec<u64> = {
            let mut set = self.large.broken.lock();
            let found: Vec<u64> = set.range(range.offset..range.end()).copied().collect();
            found.iter().for_each(|unit| {
                set.remove(unit);
            });
            found
        };
        for run in broken.chunk_by(|a, b| a + LARGE_PAGE == *b) {
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
