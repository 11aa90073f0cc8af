//! Reference counts of the memory file's pages, one `u32` each, in chunks that exist only where pages were allocated.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use base::PAGE_SIZE;
use base::memmap::MemRange;

use super::STEP;

/// Pages of a chunk: 2 MiB of memory, 2 KiB of counts.
const CHUNK: usize = 512;
/// Chunks in a step of the file.
const CHUNKS: usize = (STEP / PAGE_SIZE) as usize / CHUNK;

type Chunk = Box<[AtomicU32; CHUNK]>;
type Step = Box<[OnceLock<Chunk>; CHUNKS]>;

/// The counts. Taking or dropping a reference needs no lock; who calls holds a reference or has just allocated.
pub(super) struct Counts(Vec<OnceLock<Step>>);

impl Counts {
    pub(super) fn new(limit: u64) -> Self {
        Self((0..limit / STEP).map(|_| OnceLock::new()).collect())
    }

    fn count(&self, page: u64) -> &AtomicU32 {
        let page = page as usize;
        let step =
            self.0[page / (CHUNK * CHUNKS)].get_or_init(|| Box::new([const { OnceLock::new() }; CHUNKS]));
        let chunk =
            step[page / CHUNK % CHUNKS].get_or_init(|| Box::new([const { AtomicU32::new(0) }; CHUNK]));
        &chunk[page % CHUNK]
    }

    fn pages(range: MemRange) -> std::ops::Range<u64> {
        debug_assert!(range.offset.is_multiple_of(PAGE_SIZE) && range.len.is_multiple_of(PAGE_SIZE));
        range.offset / PAGE_SIZE..range.end() / PAGE_SIZE
    }

    /// Sets the counts of fresh pages to one.
    pub(super) fn start(&self, range: MemRange) {
        for page in Self::pages(range) {
            let old = self.count(page).swap(1, Ordering::Relaxed);
            debug_assert_eq!(old, 0, "memory file: page {page:#x} was allocated twice");
        }
    }

    pub(super) fn increment(&self, range: MemRange) {
        for page in Self::pages(range) {
            let old = self.count(page).fetch_add(1, Ordering::Relaxed);
            // A count that wraps would free a page in use: stop before it can.
            assert!(old != 0 && old < u32::MAX / 2, "memory file: count of page {page:#x} is {old}");
        }
    }

    /// Takes one from each count and reports the runs that reached zero.
    pub(super) fn decrement(&self, range: MemRange, mut free: impl FnMut(MemRange)) {
        let mut run: Option<MemRange> = None;
        for page in Self::pages(range) {
            let old = self.count(page).fetch_sub(1, Ordering::AcqRel);
            assert!(old != 0, "memory file: page {page:#x} has no reference to drop");
            if old != 1 {
                run.take().into_iter().for_each(&mut free);
                continue;
            }
            match &mut run {
                Some(run) => run.len += PAGE_SIZE,
                None => run = Some(MemRange { offset: page * PAGE_SIZE, len: PAGE_SIZE }),
            }
        }
        run.into_iter().for_each(free);
    }

    pub(super) fn load(&self, offset: u64) -> u32 {
        self.count(offset / PAGE_SIZE).load(Ordering::Acquire)
    }
}
