//! Memory that is mapped like a file but has none: shared anonymous mappings, System V shared memory, the vDSO.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::mman::Prot;
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{FixedPages, MapError, Mappable, MappedFile, MappingOrigin, MemKind, MemRange, Memory};

use super::MemoryManager;
use super::map::MapRequest;
use super::vma::{VmName, Vma};

/// The chunks in which pages are allocated; larger on demand.
const CHUNK: u64 = 64 << 10;
const CHUNK_MAX: u64 = 2 << 20;

static NEXT_INODE: AtomicU64 = AtomicU64::new(1024);

/// Zero-filled memory of a fixed length that several address spaces may map.
pub struct SharedMemory {
    memory: Arc<dyn Memory>,
    len: u64,
    /// Offset to pages; one reference on each.
    chunks: Lock<BTreeMap<u64, MemRange>, { rank::PAGE_CACHE }>,
}

impl SharedMemory {
    /// Makes `len` bytes, rounded up to pages; nothing is allocated before it is touched.
    pub fn new(memory: &Arc<dyn Memory>, len: u64) -> Arc<Self> {
        let len = base::page_up(len).unwrap_or(!(PAGE_SIZE - 1));
        Arc::new(Self { memory: memory.clone(), len, chunks: Lock::new(BTreeMap::new()) })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated.
    pub fn allocated(&self) -> u64 {
        self.chunks.lock().values().map(|r| r.len).sum()
    }

    /// What `MAP_SHARED | MAP_ANONYMOUS` maps: Linux shows it as the deleted file `/dev/zero`.
    pub(super) fn anonymous(memory: &Arc<dyn Memory>, len: u64) -> MappedFile {
        named(Self::new(memory, len), b"/dev/zero (deleted)")
    }
}

impl Mappable for SharedMemory {
    fn translate(&self, offset: u64, max_len: u64, _write: bool) -> Result<MemRange, MapError> {
        if offset >= self.len {
            return Err(MapError::Bus);
        }
        let mut chunks = self.chunks.lock();
        let below = chunks.range(..=offset).next_back().map(|(&s, &r)| (s, r));
        let (start, pages) = match below {
            Some((s, r)) if offset < s + r.len => (s, r),
            _ => {
                let low = below.map_or(0, |(s, r)| s + r.len).max(offset & !(CHUNK - 1));
                let high = chunks.range(offset..).next().map_or(self.len, |(&s, _)| s);
                let want = max_len.clamp(CHUNK, CHUNK_MAX);
                let end = (offset & !(CHUNK - 1)).saturating_add(want).min(high);
                let pages = self
                    .memory
                    .allocate(end - low, PAGE_SIZE, MemKind::Shared)
                    .map_err(|_| MapError::NoMemory)?;
                chunks.insert(low, pages);
                (low, pages)
            }
        };
        let skip = offset - start;
        let range = MemRange { offset: pages.offset + skip, len: (pages.len - skip).min(max_len) };
        self.memory.inc_ref(range);
        Ok(range)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        let chunks = self.chunks.lock();
        for (&start, pages) in chunks.range(..range.end) {
            let (from, to) = (start.max(range.start), (start + pages.len).min(range.end));
            if from < to {
                // The pages stay, so that nobody has to forget them; their memory goes.
                self.memory.discard(MemRange { offset: pages.offset + (from - start), len: to - from });
            }
        }
        Ok(())
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        for pages in self.chunks.get_mut().values() {
            self.memory.dec_ref(*pages);
        }
    }
}

/// `pages` as something to map that is shown under the name `path`.
pub fn named(pages: Arc<dyn Mappable>, path: &[u8]) -> MappedFile {
    let ino = NEXT_INODE.fetch_add(1, Ordering::Relaxed);
    MappedFile { pages, origin: Arc::new(NamedOrigin { path: path.to_vec(), id: (1, ino) }) }
}

impl MemoryManager {
    /// Maps `pages` wherever the program has the special area `name`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn replace_special(&self, name: &'static str, pages: &Arc<FixedPages>) -> Result<(), Errno> {
        let areas: Vec<(u64, u64)> = {
            let state = self.state.read();
            let named = |vma: &&Vma| matches!(vma.name, VmName::Special(own) if own == name);
            state.vmas.iter().filter(named).map(|vma| (vma.start, vma.end - vma.start)).collect()
        };
        for (addr, len) in areas {
            self.map(MapRequest::special(addr, len, pages, Prot::READ, name))?;
        }
        Ok(())
    }
}

/// `pages` as something to map; areas of it are named by [`super::VmName::Special`].
pub(super) fn special(pages: &Arc<FixedPages>) -> MappedFile {
    MappedFile { pages: pages.clone(), origin: Arc::new(NamedOrigin { path: Vec::new(), id: (0, 0) }) }
}

/// The name of memory without a file.
struct NamedOrigin {
    path: Vec<u8>,
    id: (u64, u64),
}

impl MappingOrigin for NamedOrigin {
    fn path(&self) -> Vec<u8> {
        self.path.clone()
    }

    fn id(&self) -> (u64, u64) {
        self.id
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
