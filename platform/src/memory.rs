//! The memory file: all guest memory in one sparse host file, with an allocator and a reference count per page.
//!
//! The file grows in steps of one GiB up to a limit; each step is mapped into one reservation of host addresses and told
//! to the platform, which must be able to show it to guests before a page of it can be allocated. Freed pages are
//! punched out of the file in batches, so the memory goes back to the host; some are kept for a while, for who stores to
//! them all before a guest sees them: to punch a page and to have it provided again costs far more than to copy one.
//!
//! The upper end of the offsets is not of the file: it is private memory of the host, which grows downwards and can have
//! large pages where shared memory mostly cannot (`large.rs`).
//!
//! Reading order: this file, `large.rs`, `extents.rs` (free ranges), `counts.rs` (reference counts).
//! Locks: `extents`, `freed` and those of `large.rs` have rank `MEMORY_FILE` and are never held together; `edges` is inside
//! them.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::ENOMEM;
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{LARGE_PAGE, MemKind, MemRange, Memory};
use host::mapping::Mapping;
use host::memory::Memfd;

use counts::Counts;
use extents::Extents;
use large::Large;

mod counts;
mod extents;
mod large;
#[cfg(test)]
mod tests;

/// The step in which the file grows, in bytes.
pub const STEP: u64 = 1 << 30;

/// Freed bytes that wait at most for their hole to be punched together with others.
const FREED_BATCH: u64 = 1 << 20;
/// Freed bytes that are kept at most, to be used again with what they hold.
const KEPT_MAX: u64 = 16 << 20;
/// Longer ranges are not kept: who wants so much mostly wants it untouched.
const KEPT_LEN: u64 = 1 << 20;
/// What the sentry keeps for guests may take this part of the host's memory, also where no budget is set.
const KEPT_SHARE: u64 = 4;

/// Longer ranges are not made present again: few of their pages will be needed soon.
const REVOKED_TOGETHER: u64 = 4 << 20;

/// Called with each new range of offsets before pages of it are given out.
pub type OnGrow = Box<dyn Fn(&MemoryFile, MemRange) -> Result<(), Errno> + Send + Sync>;

/// The memory file.
pub struct MemoryFile {
    file: Memfd,
    mapping: Mapping,
    /// Bytes of the file that exist; a multiple of [`STEP`].
    len: AtomicU64,
    large: Large,
    /// How far file and large memory have come towards each other; ahead of what can be used.
    edges: Lock<Range<u64>, { rank::LEAF }>,
    counts: Counts,
    /// Bytes with a reference, touched or not.
    allocated: AtomicU64,
    budget: AtomicU64,
    extents: Lock<Extents, { rank::MEMORY_FILE }>,
    /// Ranges without references whose holes are not yet punched.
    freed: Lock<Freed, { rank::MEMORY_FILE }>,
    /// Bytes in `freed`, for a look without the lock.
    freed_bytes: AtomicU64,
    /// Bytes that were recycled, and when [`MemoryFile::settle`] last looked.
    recycled: AtomicU64,
    settled: AtomicU64,
    on_grow: OnceLock<OnGrow>,
}

#[derive(Default)]
struct Freed {
    /// To be punched or kept.
    ranges: Vec<MemRange>,
    /// Of those.
    bytes: u64,
    /// Kept as they are.
    kept: Extents,
    kept_bytes: u64,
}

impl Freed {
    /// Keeps what was freed last, unless more than `most` bytes would be kept. `is_file` says which ranges can be.
    fn keep(&mut self, most: u64, is_file: impl Fn(&MemRange) -> bool) {
        if self.bytes > most.saturating_sub(self.kept_bytes) {
            return;
        }
        let Self { ranges, bytes, kept, kept_bytes } = self;
        ranges.retain(|range| {
            let stays = range.len > KEPT_LEN || !is_file(range);
            if !stays {
                kept.insert(range.offset, range.len);
                *kept_bytes += range.len;
                *bytes -= range.len;
            }
            stays
        });
    }
}

impl std::fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryFile")
            .field("len", &self.len)
            .field("allocated", &self.allocated)
            .finish_non_exhaustive()
    }
}

impl MemoryFile {
    /// Makes an empty file that may grow to `limit` bytes of offsets (rounded up to a [`STEP`]). All memory is the file's:
    /// there is no large memory.
    ///
    /// # Errors
    /// What memfd_create(2) and mmap(2) give.
    pub fn new(limit: u64) -> Result<Self, Errno> {
        Self::make(limit, false)
    }

    /// Like [`MemoryFile::new`], with large memory where the host has huge pages: for a platform that shows guests the
    /// host's mapping, and so needs no file behind it.
    ///
    /// # Errors
    /// What memfd_create(2) and mmap(2) give.
    pub fn with_large_memory(limit: u64) -> Result<Self, Errno> {
        Self::make(limit, host::system::has_huge_pages())
    }

    fn make(limit: u64, has_large_memory: bool) -> Result<Self, Errno> {
        let limit = limit.checked_next_multiple_of(STEP).ok_or(ENOMEM)?.max(STEP);
        base::kept::set_limit(host::system::total_memory() / KEPT_SHARE);
        Ok(Self {
            file: Memfd::create(c"ringfence-memory")?,
            mapping: Mapping::reserve_aligned(limit, LARGE_PAGE)?,
            len: AtomicU64::new(0),
            large: Large::new(limit, has_large_memory),
            edges: Lock::new(0..limit),
            counts: Counts::new(limit),
            allocated: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            extents: Lock::new(Extents::default()),
            freed: Lock::new(Freed::default()),
            freed_bytes: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            on_grow: OnceLock::new(),
        })
    }

    /// Sets the function that is told of each new range. The platform calls this once, before the first allocation.
    ///
    /// # Panics
    /// When called twice or too late.
    pub fn set_on_grow(&self, on_grow: OnGrow) {
        assert!(self.len.load(Ordering::Acquire) == 0, "memory file: in use before the platform");
        assert!(self.on_grow.set(on_grow).is_ok(), "memory file: has a platform");
    }

    /// The file itself, for a platform that maps it into other processes.
    pub fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.file)
    }

    /// Wakes who sleeps on the word at `offset`, in whatever process. Of a file without large memory.
    pub fn wake(&self, offset: u64) {
        host::futex::wake(&self.mapping, offset);
    }

    /// The most bytes of offsets that the file may have.
    pub fn limit(&self) -> u64 {
        self.mapping.len()
    }

    /// Bytes that have a reference, whether the host holds memory for them or not.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Sets how many bytes of the host's memory the file may hold, with what the sentry keeps for guests beside it, which
    /// may be half of them: who fills queues is told so before the sandbox is out of memory.
    pub fn set_budget(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::Relaxed);
        base::kept::set_limit((bytes / 2).min(host::system::total_memory() / KEPT_SHARE));
    }

    /// The budget; `u64::MAX` without one.
    pub fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// Whether `len` more bytes could break the budget. What is allocated and was never touched counts for a quarter
    /// only, so that sparse use is not punished; who touches it later is found by [`Self::is_over_budget`].
    fn exceeds_budget(&self, len: u64) -> bool {
        let budget = self.budget();
        let len = len.saturating_add(base::kept::bytes());
        let allocated = self.allocated().saturating_add(len);
        allocated > budget
            && (allocated > budget.saturating_mul(4) || self.resident().saturating_add(len) > budget)
    }

    /// Whether [`Self::is_over_budget`] is worth asking, which costs a call.
    pub fn may_be_over_budget(&self) -> bool {
        self.allocated().saturating_add(base::kept::bytes()) > self.budget()
    }

    /// Whether the host holds more memory for the file, and the sentry for the guests, than the budget allows.
    pub fn is_over_budget(&self) -> bool {
        self.may_be_over_budget() && self.resident().saturating_add(base::kept::bytes()) > self.budget()
    }

    /// The host address of `offset`, for memory slots.
    pub fn host_address(&self, offset: u64) -> u64 {
        self.mapping.address(offset)
    }

    /// Drops all translations of the pages that guests have; the bytes stay. False: the host refused, and the platform
    /// has to make KVM forget everything.
    #[must_use]
    pub fn drop_translations(&self, range: MemRange) -> bool {
        self.check(range.offset, range.len);
        let (file, large) = self.parts(range);
        file.is_none_or(|r| self.mapping.drop_pages(r.offset, r.len)) && large.is_none_or(|r| self.renew(r))
    }

    /// [`Self::drop_translations`] for pages that stay in use: the host's own translations come back at once, so that
    /// KVM finds the pages without asking and maps several at a time.
    #[must_use]
    pub fn revoke(&self, range: MemRange) -> bool {
        if !self.drop_translations(range) {
            return false;
        }
        if let (Some(file), _) = self.parts(range)
            && file.len <= REVOKED_TOGETHER
        {
            self.mapping.repopulate(file.offset, file.len);
        }
        true
    }

    /// Cuts a range into what is of the file and what is large memory.
    fn parts(&self, range: MemRange) -> (Option<MemRange>, Option<MemRange>) {
        let border = self.large.low().clamp(range.offset, range.end());
        let part = |from: u64, to: u64| (from < to).then(|| MemRange { offset: from, len: to - from });
        (part(range.offset, border), part(border, range.end()))
    }

    /// Punches the holes that wait, also of what is kept.
    pub fn flush_freed(&self) {
        let mut freed = std::mem::take(&mut *self.freed.lock());
        freed.ranges.extend(freed.kept.drain().map(|(offset, len)| MemRange { offset, len }));
        self.give_back(freed.ranges, freed.bytes + freed.kept_bytes);
    }

    /// To be called now and then: gives back what was kept and not used since the last call.
    pub fn settle(&self) {
        let recycled = self.recycled.load(Ordering::Relaxed);
        if self.settled.swap(recycled, Ordering::Relaxed) == recycled
            && self.freed_bytes.load(Ordering::Relaxed) > 0
        {
            self.flush_freed();
        }
    }

    /// Bytes that may be kept: the host holds them, and the budget is for all that it holds.
    fn most_kept(&self) -> u64 {
        KEPT_MAX.min(self.budget().saturating_sub(self.allocated()))
    }

    /// Keeps or punches what was freed last.
    fn sort_freed(&self) {
        let mut freed = self.freed.lock();
        freed.keep(self.most_kept(), |range| range.end() <= self.large.low());
        let (ranges, bytes) = (std::mem::take(&mut freed.ranges), std::mem::take(&mut freed.bytes));
        drop(freed);
        self.give_back(ranges, bytes);
    }

    /// Punches holes, `bytes` in all.
    fn give_back(&self, mut ranges: Vec<MemRange>, bytes: u64) {
        if ranges.is_empty() {
            return;
        }
        self.freed_bytes.fetch_sub(bytes, Ordering::Relaxed);
        ranges.sort_unstable_by_key(|r| r.offset);
        let mut merged: Vec<MemRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end() == range.offset => last.len += range.len,
                _ => merged.push(range),
            }
        }
        let (files, larges): (Vec<_>, Vec<_>) = merged.into_iter().map(|range| self.parts(range)).unzip();
        for range in files.iter().flatten() {
            self.punch(*range);
        }
        let mut extents = self.extents.lock();
        for range in files.into_iter().flatten() {
            extents.insert(range.offset, range.len);
        }
        drop(extents);
        self.free_large(larges.into_iter().flatten());
        if bytes >= LARGE_PAGE {
            self.large.hope();
        }
    }

    /// Frees the host's memory behind a range of the file, and makes it read as zeros also where the host cannot punch
    /// holes.
    fn punch(&self, range: MemRange) {
        if let Err(e) = self.file.punch_hole(range.offset, range.len) {
            log::warn!("memory file: punching {:#x}+{:#x}: {e}; storing zeros", range.offset, range.len);
            self.mapping.zero(range.offset, range.len);
            self.mapping.drop_pages(range.offset, range.len);
        }
    }

    /// Adds one step to the file. `extents` is locked by the caller, so steps come one at a time.
    fn grow(&self, extents: &mut Extents) -> Result<(), Errno> {
        let at = self.len.load(Ordering::Acquire);
        let end = at + STEP;
        {
            let mut edges = self.edges.lock();
            if end > edges.end {
                return Err(ENOMEM);
            }
            edges.start = end;
        }
        let step = MemRange { offset: at, len: STEP };
        let result = self.file.set_len(end).and_then(|()| {
            self.mapping.map_file(at, std::os::fd::AsFd::as_fd(&self.file), at, STEP)?;
            self.show(step)
        });
        if let Err(e) = result {
            self.edges.lock().start = at;
            return Err(e);
        }
        self.len.store(end, Ordering::Release);
        extents.insert(at, STEP);
        Ok(())
    }

    /// Tells the platform of a new range.
    fn show(&self, range: MemRange) -> Result<(), Errno> {
        let Some(on_grow) = self.on_grow.get() else { return Ok(()) };
        on_grow(self, range).map_err(|e| {
            log::warn!("memory file: the platform cannot show {:#x} to guests: {e}", range.offset);
            ENOMEM
        })
    }

    /// Panics unless `offset..offset + len` exists: such an offset is our bug, never a guest's number.
    #[inline]
    fn check(&self, offset: u64, len: u64) {
        let exists = |end: u64| {
            end <= self.len.load(Ordering::Acquire) || (offset >= self.large.low() && end <= self.limit())
        };
        assert!(
            offset.checked_add(len).is_some_and(exists),
            "memory file: {offset:#x}+{len:#x} is beyond the end"
        );
    }
}

impl Memory for MemoryFile {
    fn allocate(&self, len: u64, align: u64, _kind: MemKind) -> Result<MemRange, Errno> {
        assert!(
            len > 0 && len.is_multiple_of(PAGE_SIZE) && align.is_power_of_two() && align >= PAGE_SIZE,
            "memory file: bad allocation of {len:#x} at {align:#x}"
        );
        if len > self.limit() {
            return Err(ENOMEM);
        }
        let freed = self.freed_bytes.load(Ordering::Relaxed);
        if freed > 0 && self.allocated().saturating_add(len).saturating_add(freed) > self.budget() {
            // What waits to be punched is still the host's to hold.
            self.flush_freed();
        }
        if self.exceeds_budget(len) {
            return Err(ENOMEM);
        }
        let mut flushed = false;
        let offset = loop {
            let mut extents = self.extents.lock();
            if let Some(offset) = extents.take(len, align) {
                break offset;
            }
            // What waits to be punched may fill the request; growing costs a slot of a GiB.
            if !flushed && self.freed_bytes.load(Ordering::Relaxed) >= len {
                drop(extents);
                self.flush_freed();
                flushed = true;
                continue;
            }
            self.grow(&mut extents)?;
        };
        let range = MemRange { offset, len };
        self.counts.start(range);
        self.allocated.fetch_add(len, Ordering::Relaxed);
        Ok(range)
    }

    fn recycle(&self, len: u64) -> Option<MemRange> {
        if len > KEPT_LEN || self.freed_bytes.load(Ordering::Relaxed) < len || self.exceeds_budget(len) {
            return None;
        }
        let mut freed = self.freed.lock();
        let offset = freed.kept.take(len, PAGE_SIZE).or_else(|| {
            freed.keep(self.most_kept(), |range| range.end() <= self.large.low());
            freed.kept.take(len, PAGE_SIZE)
        })?;
        freed.kept_bytes -= len;
        drop(freed);
        self.freed_bytes.fetch_sub(len, Ordering::Relaxed);
        self.recycled.fetch_add(len, Ordering::Relaxed);
        let range = MemRange { offset, len };
        self.counts.start(range);
        self.allocated.fetch_add(len, Ordering::Relaxed);
        Some(range)
    }

    fn allocate_large(&self, len: u64) -> Option<MemRange> {
        self.take_large(len)
    }

    fn is_large(&self, offset: u64) -> bool {
        self.large.contains(offset)
    }

    fn inc_ref(&self, range: MemRange) {
        self.check(range.offset, range.len);
        self.counts.increment(range);
    }

    fn dec_ref(&self, range: MemRange) {
        self.check(range.offset, range.len);
        let mut ranges = Vec::new();
        self.counts.decrement(range, |free| ranges.push(free));
        let bytes: u64 = ranges.iter().map(|r| r.len).sum();
        if bytes == 0 {
            return;
        }
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        let mut freed = self.freed.lock();
        freed.bytes += bytes;
        self.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
        freed.ranges.append(&mut ranges);
        let full = freed.bytes >= FREED_BATCH;
        drop(freed);
        if full {
            self.sort_freed();
        }
    }

    fn is_unique(&self, offset: u64) -> bool {
        self.check(offset, 1);
        self.counts.load(offset) == 1
    }

    fn references(&self, offset: u64) -> u32 {
        self.check(offset, 1);
        self.counts.load(offset)
    }

    fn populate(&self, range: MemRange) {
        self.check(range.offset, range.len);
        self.mapping.populate(range.offset, range.len);
    }

    fn discard(&self, range: MemRange) {
        self.check(range.offset, range.len);
        let (file, large) = self.parts(range);
        file.into_iter().for_each(|range| self.punch(range));
        large.into_iter().for_each(|range| self.drop_large(range));
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        self.check(offset, buf.len() as u64);
        self.mapping.read(offset, buf);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.check(offset, bytes.len() as u64);
        self.mapping.write(offset, bytes);
    }

    fn zero(&self, range: MemRange) {
        self.check(range.offset, range.len);
        self.mapping.zero(range.offset, range.len);
    }

    fn copy(&self, from: u64, to: u64, len: u64) {
        self.check(from, len);
        self.check(to, len);
        self.mapping.copy(from, to, len);
    }

    fn load_u32(&self, offset: u64) -> u32 {
        self.check(offset, 4);
        self.mapping.load_u32(offset)
    }

    fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32 {
        self.check(offset, 4);
        self.mapping.compare_exchange_u32(offset, old, new)
    }

    fn provided(&self, offset: u64, pages: &mut [u8]) {
        self.check(offset, pages.len() as u64 * PAGE_SIZE);
        self.mapping.residency(offset, pages);
    }

    fn is_untouched(&self, range: MemRange) -> bool {
        self.check(range.offset, range.len);
        let is_file = !self.large.contains(range.end() - 1);
        is_file && self.file.next_data(range.offset).is_ok_and(|at| at.is_none_or(|at| at >= range.end()))
    }

    fn total(&self) -> u64 {
        self.budget().min(host::system::total_memory())
    }

    fn resident(&self) -> u64 {
        // What has no reference any more is not counted as held.
        if self.freed_bytes.load(Ordering::Relaxed) > 0 {
            self.flush_freed();
        }
        self.file.allocated().unwrap_or_else(|_| self.allocated()) + self.resident_large()
    }
}
