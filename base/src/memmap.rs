//! The memory file as seen from above, and the contract between files that can be mapped and address spaces.

use std::ops::Range;
use std::sync::{Arc, Weak};

use abi::Errno;
use bitflags::bitflags;

use crate::PAGE_SIZE;

bitflags! {
    /// What an instruction does, or what a mapping allows. The values are `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXEC = 4;
    }
}

/// A range of the memory file; both ends are multiples of the page size where pages are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemRange {
    /// Byte offset in the memory file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl MemRange {
    /// The offset behind the last byte.
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// The length of a large page: what one entry of a page directory maps.
pub const LARGE_PAGE: u64 = 2 << 20;

/// What memory is used for; for accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemKind {
    /// Anonymous memory of processes.
    Anonymous,
    /// Page cache of host files: can be dropped.
    PageCache,
    /// tmpfs, shared memory, pipes: cannot be dropped.
    Shared,
}

/// The memory file: one sparse host file that holds every page a guest can see.
///
/// Each page has a reference count; a page whose count falls to zero is given back to the host and reads as zeros when
/// it is allocated again. All accesses are volatile copies: guests may change the bytes at any time. Offsets passed in
/// come from `allocate`, never from a guest; an offset beyond the file is our bug and panics.
pub trait Memory: Send + Sync {
    /// Allocates `len` bytes (a multiple of the page size) at a multiple of `align` (a power of two, at least a page),
    /// zeroed, with a count of one for each page. The host provides a page when it is first touched.
    ///
    /// # Errors
    /// `ENOMEM`: the limit of the sandbox is reached.
    fn allocate(&self, len: u64, align: u64, kind: MemKind) -> Result<MemRange, Errno>;

    /// Allocates `len` bytes of pages that were freed and still hold what was in them, another process's bytes among it,
    /// with a count of one for each page: the caller overwrites them all before a guest can see one. The host has provided
    /// them, mostly. `None`: there are none; [`Memory::allocate`] may work.
    fn recycle(&self, len: u64) -> Option<MemRange> {
        let _ = len;
        None
    }

    /// Allocates `len` bytes (a multiple of [`LARGE_PAGE`]) at a multiple of [`LARGE_PAGE`] for anonymous memory that is
    /// going to be used all over: provided at once, zeroed, with a count of one for each page. Where such a range is
    /// mapped at a multiple of [`LARGE_PAGE`], the platform can use large pages, which cost one fault each. `None`: there
    /// are none to be had; [`Memory::allocate`] may work.
    fn allocate_large(&self, len: u64) -> Option<MemRange> {
        let _ = len;
        None
    }

    /// Whether the page at `offset` came from [`Memory::allocate_large`].
    fn is_large(&self, offset: u64) -> bool {
        let _ = offset;
        false
    }

    /// Adds one to the count of each page in `range`.
    fn inc_ref(&self, range: MemRange);

    /// Takes one from the count of each page in `range`; frees those that reach zero.
    fn dec_ref(&self, range: MemRange);

    /// Whether the page at `offset` has exactly one reference.
    fn is_unique(&self, offset: u64) -> bool;

    /// How many references the page at `offset` has.
    fn references(&self, offset: u64) -> u32 {
        if self.is_unique(offset) { 1 } else { 2 }
    }

    /// Makes the host provide the pages of `range` now, in one call: cheaper than one fault each.
    fn populate(&self, range: MemRange);

    /// Says for each page from `offset` on whether the host has provided it: a byte of `pages` becomes 1 or 0.
    fn provided(&self, offset: u64, pages: &mut [u8]) {
        let _ = offset;
        pages.fill(1);
    }

    /// Whether no page of `range` was ever stored to since it was allocated or discarded, so that all are zero. False when
    /// the host does not say. Unlike [`Memory::provided`] this counts pages that the host has swapped out.
    fn is_untouched(&self, range: MemRange) -> bool {
        let _ = range;
        false
    }

    /// Gives the pages' memory back to the host; they read as zeros afterwards. The references stay.
    fn discard(&self, range: MemRange);

    /// Copies out of the file.
    fn read(&self, offset: u64, buf: &mut [u8]);

    /// Copies into the file.
    fn write(&self, offset: u64, bytes: &[u8]);

    /// Stores zeros.
    fn zero(&self, range: MemRange);

    /// Copies within the file; the ranges do not overlap.
    fn copy(&self, from: u64, to: u64, len: u64);

    /// Loads the aligned 32-bit word at `offset` atomically (sequentially consistent).
    fn load_u32(&self, offset: u64) -> u32;

    /// Replaces the aligned word at `offset` if it equals `old`; returns what was there.
    fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32;

    /// Stores the aligned word at `offset` in one piece. A guest that changes it all the time may find its own value there.
    fn store_u32(&self, offset: u64, value: u32) {
        /// A guest's stores cannot meet all of these.
        const TRIES: u32 = 64;
        let mut old = self.load_u32(offset);
        for _ in 0..TRIES {
            let seen = self.compare_exchange_u32(offset, old, value);
            if seen == old {
                return;
            }
            old = seen;
        }
    }

    /// Bytes that the host holds for the file now.
    fn resident(&self) -> u64;

    /// Bytes that the host may hold for the file: the sandbox's limit, or what memory the host has.
    fn total(&self) -> u64 {
        u64::MAX
    }
}

/// Why a page of a mapped file cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Beyond the end of the file, or the host failed to read it: SIGBUS.
    Bus,
    /// No memory: the out-of-memory rule.
    NoMemory,
}

/// A file that can be mapped: tmpfs files, cached host files, shared anonymous memory, `/dev/zero`.
pub trait Mappable: Send + Sync {
    /// The memory-file pages that hold the file's bytes from `offset` on: at least one page, at most `max_len` bytes,
    /// contiguous in both; filled from the backing store. `offset` and `max_len` are multiples of the page size.
    ///
    /// With `write` the pages are going to be written through a shared mapping (they are marked dirty). The caller
    /// gets one reference on each page.
    ///
    /// # Errors
    /// `Bus` when `offset` is at or beyond the end of the file rounded up to a page.
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError>;

    /// As `translate` for reading, but only pages that need no filling; `None` when the first one does. For mapping
    /// ahead what costs nothing.
    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let _ = (offset, max_len);
        None
    }

    /// Whether it matters that only pages which are going to be written are translated with `write`. False where
    /// nothing is ever written back: shared memory, tmpfs.
    fn tracks_dirty(&self) -> bool {
        true
    }

    /// Frees the whole pages in `range` (byte offsets), which read as zeros afterwards: `madvise(MADV_REMOVE)`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the file cannot have holes.
    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        let _ = range;
        Err(abi::errno::EOPNOTSUPP)
    }

    /// Tells that `space` maps `len` bytes from `offset` on; until `remove_mapping` with the same arguments it is told of
    /// pages that go away. Pieces of an added mapping may be removed one by one. Nothing to note where none ever do.
    fn add_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        let _ = (space, addr, offset, len, write);
    }

    /// Ends `add_mapping`.
    fn remove_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        let _ = (space, addr, offset, len, write);
    }

    /// Writes dirty pages in `range` (byte offsets) to the backing store, if there is one: `msync(MS_SYNC)`.
    ///
    /// # Errors
    /// `EIO` and what the backing store gives.
    fn sync(&self, range: Range<u64>) -> Result<(), Errno> {
        let _ = range;
        Ok(())
    }
}

/// Pages that were allocated once and stay as they are: the vDSO's, those of rings that the sentry shares with a program.
pub struct FixedPages {
    memory: Arc<dyn Memory>,
    pages: MemRange,
}

impl std::fmt::Debug for FixedPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FixedPages").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl FixedPages {
    /// Takes over the references on `pages`.
    pub fn new(memory: &Arc<dyn Memory>, pages: MemRange) -> Self {
        Self { memory: memory.clone(), pages }
    }

    /// Allocates `len` bytes, a multiple of the page size, to be shared with programs.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn allocate(memory: &Arc<dyn Memory>, len: u64) -> Result<Self, Errno> {
        Ok(Self::new(memory, memory.allocate(len, PAGE_SIZE, MemKind::Shared)?))
    }

    /// The memory that they are of.
    pub fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    /// Where they are.
    pub const fn pages(&self) -> MemRange {
        self.pages
    }
}

impl Mappable for FixedPages {
    fn translate(&self, offset: u64, max_len: u64, _write: bool) -> Result<MemRange, MapError> {
        self.cached(offset, max_len).ok_or(MapError::Bus)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let len = self.pages.len.checked_sub(offset).filter(|&l| l > 0)?.min(max_len);
        let range = MemRange { offset: self.pages.offset + offset, len };
        self.memory.inc_ref(range);
        Some(range)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }
}

impl Drop for FixedPages {
    fn drop(&mut self) {
        self.memory.dec_ref(self.pages);
    }
}

/// An address space, as a mapped file sees it.
pub trait MappingSpace: Send + Sync {
    /// The pages mapped at `addr..addr + len` from the file are gone (truncated, or dropped from the cache): forget
    /// translations and references; the next access asks the file again. Private copies (already written) stay unless
    /// `private_too`, which truncation sets.
    fn invalidate(&self, addr: u64, len: u64, private_too: bool);
}

/// A mappable file and what keeps it and its name alive.
#[derive(Clone)]
pub struct MappedFile {
    /// The pages.
    pub pages: Arc<dyn Mappable>,
    /// For `/proc/PID/maps` and as the reference that keeps the file open.
    pub origin: Arc<dyn MappingOrigin>,
}

/// What a mapping's file is, for `/proc/PID/maps`.
pub trait MappingOrigin: Send + Sync {
    /// The path as `/proc/PID/maps` shows it.
    fn path(&self) -> Vec<u8>;
    /// Device and inode number.
    fn id(&self) -> (u64, u64);
    /// Whether both stand for one open file, so that neighbouring mappings of it can be one area.
    fn is_same_file(&self, other: &dyn MappingOrigin) -> bool {
        let _ = other;
        false
    }
    /// For downcasts.
    fn as_any(&self) -> &dyn std::any::Any;
}
