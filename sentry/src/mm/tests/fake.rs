//! A machine without a processor: memory in a map of pages, page tables in a map of entries.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::ENOMEM;
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{
    Access, LARGE_PAGE, MapError, Mappable, MappedFile, MappingOrigin, MappingSpace, MemKind, MemRange,
    Memory,
};
use platform::{AddressSpace, Error};

use crate::mm::{Fault, Limits, MemoryManager, Params, SharedMemory};

const P: usize = PAGE_SIZE as usize;

struct Page {
    count: u32,
    bytes: Vec<u8>,
}

/// The memory file.
pub(crate) struct FakeMemory {
    pages: Lock<Pages, { rank::MEMORY_FILE }>,
    pub(super) populated: AtomicU64,
}

struct Pages {
    map: BTreeMap<u64, Page>,
    next: u64,
    next_large: u64,
    limit: usize,
}

/// Where large memory begins.
const LARGE: u64 = 1 << 40;

impl FakeMemory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            pages: Lock::new(Pages {
                map: BTreeMap::new(),
                next: PAGE_SIZE,
                next_large: LARGE,
                limit: usize::MAX,
            }),
            populated: AtomicU64::new(0),
        })
    }

    pub(super) fn in_use(&self) -> usize {
        self.pages.lock().map.len()
    }

    pub(super) fn set_limit(&self, pages: usize) {
        self.pages.lock().limit = pages;
    }

    pub(super) fn count(&self, offset: u64) -> u32 {
        self.pages.lock().map.get(&offset).map_or(0, |p| p.count)
    }

    fn each(&self, offset: u64, len: usize, mut f: impl FnMut(&mut Page, Range<usize>, usize)) {
        let mut pages = self.pages.lock();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let skip = (at % PAGE_SIZE) as usize;
            let n = (P - skip).min(len - done);
            let page = pages.map.get_mut(&(at - skip as u64)).expect("use of a freed page");
            if page.bytes.is_empty() {
                page.bytes = vec![0; P];
            }
            f(page, skip..skip + n, done);
            done += n;
        }
    }
}

impl Memory for FakeMemory {
    fn allocate(&self, len: u64, align: u64, _kind: MemKind) -> Result<MemRange, Errno> {
        assert!(len > 0 && len.is_multiple_of(PAGE_SIZE));
        let mut pages = self.pages.lock();
        if pages.map.len() + (len / PAGE_SIZE) as usize > pages.limit {
            return Err(ENOMEM);
        }
        let offset = pages.next.next_multiple_of(align);
        // A hole, so that pieces join only where they were allocated together.
        pages.next = offset + len + PAGE_SIZE;
        for i in 0..len / PAGE_SIZE {
            pages.map.insert(offset + i * PAGE_SIZE, Page { count: 1, bytes: Vec::new() });
        }
        Ok(MemRange { offset, len })
    }

    fn allocate_large(&self, len: u64) -> Option<MemRange> {
        assert!(len > 0 && len.is_multiple_of(LARGE_PAGE));
        let mut pages = self.pages.lock();
        if pages.map.len() + (len / PAGE_SIZE) as usize > pages.limit {
            return None;
        }
        let offset = pages.next_large;
        pages.next_large += len;
        for at in (offset..offset + len).step_by(P) {
            pages.map.insert(at, Page { count: 1, bytes: Vec::new() });
        }
        Some(MemRange { offset, len })
    }

    fn is_large(&self, offset: u64) -> bool {
        offset >= LARGE
    }

    fn inc_ref(&self, range: MemRange) {
        let mut pages = self.pages.lock();
        for at in (range.offset..range.end()).step_by(P) {
            pages.map.get_mut(&at).expect("inc_ref of a freed page").count += 1;
        }
    }

    fn dec_ref(&self, range: MemRange) {
        let mut pages = self.pages.lock();
        for at in (range.offset..range.end()).step_by(P) {
            let page = pages.map.get_mut(&at).expect("dec_ref of a freed page");
            page.count -= 1;
            if page.count == 0 {
                pages.map.remove(&at);
            }
        }
    }

    fn is_unique(&self, offset: u64) -> bool {
        self.count(offset & !(PAGE_SIZE - 1)) == 1
    }

    fn populate(&self, range: MemRange) {
        self.populated.fetch_add(range.len, Ordering::Relaxed);
        self.each(range.offset, range.len as usize, |_, _, _| {});
    }

    fn provided(&self, offset: u64, pages: &mut [u8]) {
        for (at, answer) in (offset..).step_by(P).zip(pages) {
            *answer = u8::from(!self.is_untouched(MemRange { offset: at, len: PAGE_SIZE }));
        }
    }

    fn is_untouched(&self, range: MemRange) -> bool {
        let pages = self.pages.lock();
        let is_new = |at| pages.map.get(&at).is_some_and(|page| page.bytes.is_empty());
        (range.offset..range.end()).step_by(P).all(is_new)
    }

    fn discard(&self, range: MemRange) {
        self.zero(range);
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        self.each(offset, buf.len(), |p, r, done| buf[done..done + r.len()].copy_from_slice(&p.bytes[r]));
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.each(offset, bytes.len(), |p, r, done| {
            let n = r.len();
            p.bytes[r].copy_from_slice(&bytes[done..done + n]);
        });
    }

    fn zero(&self, range: MemRange) {
        self.each(range.offset, range.len as usize, |p, r, _| p.bytes[r].fill(0));
    }

    fn copy(&self, from: u64, to: u64, len: u64) {
        let mut buf = vec![0; len as usize];
        self.read(from, &mut buf);
        self.write(to, &buf);
    }

    fn load_u32(&self, offset: u64) -> u32 {
        let mut b = [0; 4];
        self.read(offset, &mut b);
        u32::from_ne_bytes(b)
    }

    fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32 {
        let seen = self.load_u32(offset);
        if seen == old {
            self.write(offset, &new.to_ne_bytes());
        }
        seen
    }

    fn resident(&self) -> u64 {
        self.in_use() as u64 * PAGE_SIZE
    }
}

/// Page tables.
#[derive(Default)]
pub(super) struct FakeSpace {
    pub(super) entries: Lock<BTreeMap<u64, (u64, Access)>, { rank::PAGE_TABLE }>,
    pub(super) maps: AtomicU64,
}

impl AddressSpace for FakeSpace {
    fn map(&self, addr: u64, range: MemRange, access: Access) -> Result<(), Error> {
        assert!(!access.is_empty());
        self.maps.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock();
        for i in (0..range.len).step_by(P) {
            entries.insert(addr + i, (range.offset + i, access));
        }
        Ok(())
    }

    fn unmap(&self, addr: u64, len: u64) {
        let mut entries = self.entries.lock();
        let gone: Vec<u64> = entries.range(addr..addr + len).map(|(&a, _)| a).collect();
        for a in gone {
            entries.remove(&a);
        }
    }

    fn protect(&self, addr: u64, len: u64, access: Access) {
        for (_, entry) in self.entries.lock().range_mut(addr..addr + len) {
            entry.1 = access;
        }
    }

    fn fork_into(&self, child: &dyn AddressSpace, ranges: &[Range<u64>]) -> Result<(), Error> {
        let child = child.as_any().downcast_ref::<Self>().expect("a fake space");
        let mut entries = self.entries.lock();
        let mut to = child.entries.lock_same_rank();
        for range in ranges {
            for (&addr, entry) in entries.range_mut(range.clone()) {
                entry.1 -= Access::WRITE;
                to.insert(addr, *entry);
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The addresses of the fake machine.
pub(super) const RANGE: Range<u64> = 0..abi::mman::TASK_SIZE;
/// Where mappings go downwards from.
pub(super) const BASE: u64 = 0x7000_0000_0000;

/// An empty address space on `memory`.
pub(crate) fn manager(memory: &Arc<FakeMemory>) -> Arc<MemoryManager> {
    manager_with(memory, Arc::default())
}

pub(super) fn manager_with(memory: &Arc<FakeMemory>, limits: Arc<Limits>) -> Arc<MemoryManager> {
    MemoryManager::on(
        memory.clone(),
        Arc::new(|| Ok(Arc::new(FakeSpace::default()))),
        RANGE,
        None,
        limits,
        Params { mmap_base: BASE, total_memory: 64 << 30 },
    )
    .expect("an address space")
}

/// The page tables of `mm`.
pub(super) fn space(mm: &MemoryManager) -> &FakeSpace {
    mm.space.as_any().downcast_ref().expect("a fake space")
}

/// Where a guest's access goes: through the page tables, with faults as on a processor.
fn guest(mm: &MemoryManager, addr: u64, access: Access) -> Result<u64, Fault> {
    let page = addr & !(PAGE_SIZE - 1);
    for _ in 0..3 {
        if let Some(&(off, allowed)) = space(mm).entries.lock().get(&page)
            && allowed.contains(access)
        {
            return Ok(off + (addr - page));
        }
        mm.handle_fault(addr, access)?;
    }
    panic!("{addr:#x} faults for ever");
}

/// A guest's load of one byte.
pub(super) fn load(mm: &MemoryManager, addr: u64) -> Result<u8, Fault> {
    let mut b = [0];
    mm.memory.read(guest(mm, addr, Access::READ)?, &mut b);
    Ok(b[0])
}

/// A guest's store of one byte.
pub(super) fn store(mm: &MemoryManager, addr: u64, value: u8) -> Result<(), Fault> {
    mm.memory.write(guest(mm, addr, Access::WRITE)?, &[value]);
    Ok(())
}

/// Panics unless page tables, pieces and areas of `mm` say the same.
pub(super) fn check(mm: &MemoryManager) {
    let st = mm.state.read();
    st.vmas.check();
    st.pmas.check();
    let entries = space(mm).entries.lock();
    let mut present = 0;
    for (start, p) in st.pmas.iter() {
        for at in (start..p.end).step_by(P) {
            let v = st.vmas.find(at).expect("a page outside areas");
            assert_eq!(p.access, v.flags.access(p.writable), "{at:#x}");
            assert!(!p.anon || !v.flags.contains(crate::mm::VmFlags::MAYSHARE));
            let entry = entries.get(&at);
            if p.access.is_empty() {
                assert_eq!(entry, None);
            } else {
                assert_eq!(entry, Some(&(p.off + (at - start), p.access)), "{at:#x}");
                present += 1;
            }
        }
    }
    assert_eq!(entries.len(), present, "translations without pages");
}

/// A file of whole pages; `len` may shrink.
pub(super) struct FakeFile {
    content: Arc<SharedMemory>,
    len: AtomicU64,
    /// Page address by space, with offset.
    pub(super) mappings: Lock<BTreeMap<(usize, u64), u64>, { rank::FILE_MAPPINGS }>,
    /// Pages translated for writing.
    pub(super) dirtied: AtomicU64,
    watchers: Lock<Vec<Weak<dyn MappingSpace>>, { rank::LEAF }>,
}

impl FakeFile {
    /// A file whose page `i` begins with the byte `i + 1`.
    pub(super) fn new(memory: &Arc<FakeMemory>, pages: u64) -> Arc<Self> {
        let dyn_memory: Arc<dyn Memory> = memory.clone();
        let content = SharedMemory::new(&dyn_memory, pages * PAGE_SIZE);
        for i in 0..pages {
            let at = content.translate(i * PAGE_SIZE, PAGE_SIZE, true).expect("a page");
            memory.write(at.offset, &[i as u8 + 1]);
            memory.dec_ref(at);
        }
        Arc::new(Self {
            content,
            len: AtomicU64::new(pages * PAGE_SIZE),
            mappings: Lock::new(BTreeMap::new()),
            dirtied: AtomicU64::new(0),
            watchers: Lock::new(Vec::new()),
        })
    }

    pub(super) fn mapped(self: &Arc<Self>) -> MappedFile {
        MappedFile { pages: self.clone(), origin: self.clone() }
    }

    pub(super) fn truncate(&self, pages: u64) {
        let old = self.len.swap(pages * PAGE_SIZE, Ordering::SeqCst);
        let hit: Vec<(usize, u64)> = {
            let mappings = self.mappings.lock();
            mappings
                .iter()
                .filter(|&(_, &off)| off >= pages * PAGE_SIZE && off < old)
                .map(|(&key, _)| key)
                .collect()
        };
        let watchers: Vec<_> = self.watchers.lock().clone();
        for (id, addr) in hit {
            for w in watchers.iter().filter(|w| w.as_ptr().cast::<()>() as usize == id) {
                if let Some(space) = w.upgrade() {
                    space.invalidate(addr, PAGE_SIZE, true);
                    break;
                }
            }
        }
    }
}

impl Mappable for FakeFile {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        let len = self.len.load(Ordering::SeqCst);
        if offset >= len {
            return Err(MapError::Bus);
        }
        let range = self.content.translate(offset, max_len.min(len - offset), write)?;
        if write {
            self.dirtied.fetch_add(range.len / PAGE_SIZE, Ordering::Relaxed);
        }
        Ok(range)
    }

    fn add_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, _write: bool) {
        let id = space.as_ptr().cast::<()>() as usize;
        self.watchers.lock().push(space.clone());
        let mut mappings = self.mappings.lock();
        for i in (0..len).step_by(P) {
            assert_eq!(mappings.insert((id, addr + i), offset + i), None, "mapped twice");
        }
    }

    fn remove_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, _write: bool) {
        let id = space.as_ptr().cast::<()>() as usize;
        let mut mappings = self.mappings.lock();
        for i in (0..len).step_by(P) {
            assert_eq!(mappings.remove(&(id, addr + i)), Some(offset + i), "not mapped so");
        }
    }

    fn sync(&self, _range: Range<u64>) -> Result<(), Errno> {
        Ok(())
    }
}

impl MappingOrigin for FakeFile {
    fn path(&self) -> Vec<u8> {
        b"/fake".to_vec()
    }

    fn id(&self) -> (u64, u64) {
        (0x801, 7)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
