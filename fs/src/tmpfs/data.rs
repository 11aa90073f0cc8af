//! The bytes of regular files.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBUSY, EFBIG, EINVAL, ENOSPC, ENXIO, EOPNOTSUPP, EPERM};
use base::PAGE_SIZE;
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::memmap::{MapError, Mappable, MappingSpace, MemKind, MemRange, Memory};
use base::time::Time;

use super::space::Space;
use super::{Body, Fs, TmpInode};
use crate::file::{FileOps, Metadata, oflag};
use crate::vfs::mappings::Mappings;
use crate::vfs::pages::PageMap;
use crate::vfs::{Inode, Owner, SetAttributes};

/// Pages are allocated in runs of at most this, so that large files have few of them.
const RUN_MAX: u64 = 2 << 20;
/// Runs for mappings, whose later pages come cheaply.
const MAP_RUN: u64 = 64 << 10;
/// The largest file (Linux `MAX_LFS_FILESIZE` for tmpfs).
const SIZE_MAX: u64 = i64::MAX as u64;

/// The pages of one file.
pub(super) struct Data {
    memory: Arc<dyn Memory>,
    space: Arc<Space>,
    /// Changed under `pages` (and, by writers, under `writing`).
    size: AtomicU64,
    pages: Lock<PageMap, { rank::PAGE_CACHE }>,
    mappings: Mappings,
    /// One writer at a time: writes and appends are whole.
    writing: Lock<(), { rank::INODE }>,
    /// `F_SEAL_*`; changed under `writing`.
    seals: AtomicU32,
    /// When somebody last wrote through a mapping, if the inode does not know yet: ns.
    mapped_write: AtomicI64,
}

impl Data {
    pub(super) fn new(memory: Arc<dyn Memory>, space: Arc<Space>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            space,
            size: AtomicU64::new(0),
            pages: Lock::new(PageMap::default()),
            mappings: Mappings::default(),
            writing: Lock::new(()),
            seals: AtomicU32::new(seal::SEAL),
            mapped_write: AtomicI64::new(0),
        })
    }

    /// When somebody wrote through a mapping since this was last asked.
    pub(super) fn take_mapped_write(&self) -> Option<Time> {
        match self.mapped_write.load(Ordering::Relaxed) {
            0 => None,
            _ => Some(Time::from_ns(self.mapped_write.swap(0, Ordering::Relaxed))),
        }
    }

    pub(super) fn has_seal(&self, seals: u32) -> bool {
        self.seals.load(Ordering::Acquire) & seals != 0
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn allocated(&self) -> u64 {
        self.pages.lock().bytes()
    }

    /// The pages from `offset` on, allocated if they are not there: at least one, at most `max_len` bytes. The caller
    /// gets a reference on each.
    fn pages(&self, offset: u64, max_len: u64) -> Result<MemRange, Errno> {
        let mut pages = self.pages.lock();
        self.pages_locked(&mut pages, offset, max_len)
    }

    fn pages_locked(&self, pages: &mut PageMap, offset: u64, max_len: u64) -> Result<MemRange, Errno> {
        let mut range = match pages.find(offset) {
            Some(range) => range,
            None => {
                let end = pages.next(offset).unwrap_or(!(PAGE_SIZE - 1));
                let len = max_len.min(RUN_MAX).min(end - offset).max(PAGE_SIZE);
                let len = self.space.take(len)?;
                match self.memory.allocate(len, PAGE_SIZE, MemKind::Shared) {
                    Ok(run) => {
                        pages.insert(offset, run);
                        run
                    }
                    Err(_) => {
                        self.space.give(len);
                        return Err(ENOSPC);
                    }
                }
            }
        };
        range.len = range.len.min(max_len);
        self.memory.inc_ref(range);
        Ok(range)
    }

    /// Frees the pages in `from..to`.
    fn free(&self, pages: &mut PageMap, from: u64, to: u64) {
        let before = pages.bytes();
        pages.remove(from, to, &*self.memory);
        self.space.give(before - pages.bytes());
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut at = offset;
        let end = self.size().min(offset.saturating_add(dst.remaining() as u64));
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            let skip = at - page;
            let (held, hole) = {
                let pages = self.pages.lock();
                match pages.find(page) {
                    Some(mut run) => {
                        run.len = run.len.min(base::page_up(end - page).unwrap_or(run.len));
                        self.memory.inc_ref(run);
                        (Some(run), 0)
                    }
                    None => (None, pages.next(page).unwrap_or(end).min(end) - at),
                }
            };
            let (result, want) = match held {
                Some(run) => {
                    let len = (run.len - skip).min(end - at);
                    let r = dst.put_memory(&*self.memory, run.offset + skip, len as usize);
                    self.memory.dec_ref(run);
                    (r, len)
                }
                None => (dst.put_zeros(hole as usize), hole),
            };
            match result {
                Ok(n) => {
                    at += n as u64;
                    if (n as u64) < want {
                        break;
                    }
                }
                Err(e) if at == offset => return Err(e),
                Err(_) => break,
            }
        }
        Ok((at - offset.min(at)) as usize)
    }

    fn write_locked(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let len = src.remaining() as u64;
        if len == 0 {
            return Ok(0);
        }
        if offset >= SIZE_MAX {
            return Err(EFBIG);
        }
        let mut end = offset.saturating_add(len).min(SIZE_MAX);
        if self.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(EPERM);
        }
        if self.has_seal(seal::GROW) {
            end = end.min(self.size());
            if offset >= end {
                return Err(EPERM);
            }
        }
        if offset > self.size() {
            self.clear_tail(self.size());
        }
        let mut at = offset;
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            let skip = at - page;
            let want = (skip + (end - at)).next_multiple_of(PAGE_SIZE);
            let run = match self.pages(page, want) {
                Ok(run) => run,
                Err(e) if at == offset => return Err(e),
                Err(_) => break,
            };
            let len = (run.len - skip).min(end - at);
            let result = src.take_memory(&*self.memory, run.offset + skip, len as usize);
            self.memory.dec_ref(run);
            match result {
                Ok(n) => {
                    at += n as u64;
                    self.size.fetch_max(at, Ordering::AcqRel);
                    if (n as u64) < len {
                        break;
                    }
                }
                Err(e) if at == offset => return Err(e),
                Err(_) => break,
            }
        }
        Ok((at - offset) as usize)
    }

    pub(super) fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > SIZE_MAX {
            return Err(EFBIG);
        }
        let _writing = self.writing.lock();
        let old = self.size();
        if size > old && self.has_seal(seal::GROW) || size < old && self.has_seal(seal::SHRINK) {
            return Err(EPERM);
        }
        if size > old {
            self.clear_tail(old);
        }
        self.size.store(size, Ordering::Release);
        if size >= old {
            return Ok(());
        }
        let keep = size.next_multiple_of(PAGE_SIZE);
        {
            let mut pages = self.pages.lock();
            self.free(&mut pages, keep, u64::MAX);
            if !size.is_multiple_of(PAGE_SIZE)
                && let Some(run) = pages.find(keep - PAGE_SIZE)
            {
                let skip = size % PAGE_SIZE;
                self.memory.zero(MemRange { offset: run.offset + skip, len: PAGE_SIZE - skip });
            }
        }
        self.mappings.invalidate(keep..u64::MAX, true);
        Ok(())
    }

    /// Clears what mappings stored behind the end, `size`, in its page, before the file grows over it.
    fn clear_tail(&self, size: u64) {
        let skip = size % PAGE_SIZE;
        if skip != 0
            && let Some(run) = self.pages.lock().find(size - skip)
        {
            self.memory.zero(MemRange { offset: run.offset + skip, len: PAGE_SIZE - skip });
        }
    }

    /// Takes memory for all pages in `range`, or for none.
    fn reserve(&self, range: Range<u64>) -> Result<(), Errno> {
        let end = range.end.next_multiple_of(PAGE_SIZE);
        let mut new: Vec<Range<u64>> = Vec::new();
        let mut pages = self.pages.lock();
        let mut at = range.start & !(PAGE_SIZE - 1);
        // What cannot be had at all is refused before the work begins: it could take minutes.
        let wanted = end.saturating_sub(at).saturating_sub(pages.bytes());
        let is_too_much = wanted > self.memory.total().saturating_sub(self.memory.resident());
        if is_too_much || !self.space.has_room(wanted) {
            return Err(abi::errno::ENOSPC);
        }
        while at < end {
            let found = pages.find(at).is_some();
            match self.pages_locked(&mut pages, at, end - at) {
                Ok(run) => {
                    self.memory.dec_ref(run);
                    if !found {
                        new.push(at..at + run.len);
                    }
                    at += run.len;
                }
                Err(e) => {
                    for piece in new {
                        self.free(&mut pages, piece.start, piece.end);
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn zero_range(&self, range: Range<u64>) {
        let (inner_from, inner_to) = (range.start.next_multiple_of(PAGE_SIZE), range.end & !(PAGE_SIZE - 1));
        {
            let mut pages = self.pages.lock();
            let edge = |from: u64, to: u64| {
                if from < to
                    && let Some(run) = pages.find(from & !(PAGE_SIZE - 1))
                {
                    let at = run.offset + from % PAGE_SIZE;
                    self.memory.zero(MemRange { offset: at, len: to - from });
                }
            };
            edge(range.start, inner_from.min(range.end));
            edge(inner_to.max(range.start), range.end);
            if inner_from < inner_to {
                self.free(&mut pages, inner_from, inner_to);
            }
        }
        if inner_from < inner_to {
            self.mappings.invalidate(inner_from..inner_to, false);
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let pages = self.pages.get_mut();
        self.space.give(pages.bytes());
        pages.clear(&*self.memory);
    }
}

impl Mappable for Data {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        if write {
            let now = host::clock::now_ns(host::clock::HostClock::Realtime);
            self.mapped_write.store(now, Ordering::Relaxed);
        }
        let mut pages = self.pages.lock();
        let end = self.size().next_multiple_of(PAGE_SIZE);
        if offset >= end {
            return Err(MapError::Bus);
        }
        let want = max_len.max(MAP_RUN).min(end - offset);
        let run = self.pages_locked(&mut pages, offset, want).map_err(|_| {
            // A full file system is a bus error; without memory the rule for that decides.
            if self.space.has_room(PAGE_SIZE) { MapError::NoMemory } else { MapError::Bus }
        })?;
        if run.len > max_len {
            let rest = MemRange { offset: run.offset + max_len, len: run.len - max_len };
            self.memory.dec_ref(rest);
            return Ok(MemRange { len: max_len, ..run });
        }
        Ok(run)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let pages = self.pages.lock();
        let end = self.size().next_multiple_of(PAGE_SIZE);
        let mut run = pages.find(offset)?;
        run.len = run.len.min(max_len).min(end.checked_sub(offset).filter(|&l| l > 0)?);
        self.memory.inc_ref(run);
        Some(run)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        let _writing = self.writing.lock();
        if self.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(EPERM);
        }
        self.zero_range(range);
        Ok(())
    }

    fn add_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        self.mappings.add(space, addr, offset, len, write);
    }

    fn remove_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        self.mappings.remove(space, addr, offset, len, write);
    }

    fn sync(&self, _range: Range<u64>) -> Result<(), Errno> {
        Ok(())
    }
}

/// An open regular file.
#[derive(Debug)]
pub(super) struct OpenFile {
    inode: Arc<TmpInode>,
    /// `O_NOATIME`.
    keeps_atime: AtomicBool,
    /// What `/proc/PID/fd` shows of a memfd.
    name: Option<Vec<u8>>,
}

impl OpenFile {
    pub(super) fn new(inode: Arc<TmpInode>, flags: u32) -> Self {
        Self { inode, keeps_atime: AtomicBool::new(flags & oflag::NOATIME != 0), name: None }
    }

    fn data(&self) -> Result<&Arc<Data>, Errno> {
        match &self.inode.body {
            Body::Regular(data) => Ok(data),
            _ => Err(EINVAL),
        }
    }
}

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;

impl FileOps for OpenFile {
    fn inode(&self) -> Option<&dyn Inode> {
        Some(&*self.inode)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_be_direct(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let n = self.data()?.read_at(offset, dst)?;
        if !self.keeps_atime.load(Ordering::Relaxed) {
            self.inode.touch();
        }
        Ok(n)
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let data = self.data()?;
        let writing = data.writing.lock();
        let n = data.write_locked(offset, src)?;
        drop(writing);
        if n > 0 {
            self.inode.touch_modified();
        }
        Ok(n)
    }

    fn append(&self, src: &mut dyn Source) -> Result<(usize, u64), Errno> {
        let data = self.data()?;
        let writing = data.writing.lock();
        let end = data.size();
        let n = data.write_locked(end, src)?;
        drop(writing);
        if n > 0 {
            self.inode.touch_modified();
        }
        Ok((n, end + n as u64))
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.data()?.truncate(size)?;
        self.inode.touch_modified();
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        // Linux's memfds take part of the modes only (mm/shmem.c, `shmem_fallocate`).
        if self.name.is_some() && mode & !(KEEP_SIZE | PUNCH_HOLE) != 0 {
            return Err(EOPNOTSUPP);
        }
        let data = self.data()?;
        let end = offset.checked_add(len).filter(|&e| e <= SIZE_MAX).ok_or(EFBIG)?;
        let writing = data.writing.lock();
        let is_hole = mode & (PUNCH_HOLE | ZERO_RANGE) != 0;
        if is_hole && data.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(EPERM);
        }
        if mode & KEEP_SIZE == 0 && end > data.size() && data.has_seal(seal::GROW) {
            return Err(EPERM);
        }
        match mode {
            m if m == PUNCH_HOLE | KEEP_SIZE => data.zero_range(offset..end),
            m if m & !KEEP_SIZE == ZERO_RANGE => data.zero_range(offset..end),
            0 | KEEP_SIZE => data.reserve(offset..end)?,
            _ => return Err(EOPNOTSUPP),
        }
        if mode & KEEP_SIZE == 0 {
            if end > data.size() {
                data.clear_tail(data.size());
            }
            data.size.fetch_max(end, Ordering::AcqRel);
        }
        drop(writing);
        self.inode.touch_modified();
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn seek_data(&self, offset: u64, size: u64) -> Result<u64, Errno> {
        let pages = self.data()?.pages.lock();
        let found = pages.next(offset & !(PAGE_SIZE - 1)).ok_or(ENXIO)?.max(offset);
        if found < size { Ok(found) } else { Err(ENXIO) }
    }

    fn seek_hole(&self, offset: u64, size: u64) -> Result<u64, Errno> {
        let pages = self.data()?.pages.lock();
        let mut at = offset;
        while at < size {
            let page = at & !(PAGE_SIZE - 1);
            match pages.find(page) {
                Some(run) => at = page + run.len,
                None => break,
            }
        }
        Ok(at.min(size))
    }

    fn seals(&self) -> Result<u32, Errno> {
        Ok(self.data()?.seals.load(Ordering::Acquire))
    }

    /// Source: Linux 6.12 mm/memfd.c, `memfd_add_seals`.
    fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        if seals & !seal::ALL != 0 {
            return Err(EINVAL);
        }
        let data = self.data()?;
        let _writing = data.writing.lock();
        if data.has_seal(seal::SEAL) {
            return Err(EPERM);
        }
        if seals & seal::WRITE != 0 && !data.has_seal(seal::WRITE) && data.mappings.is_written() {
            return Err(EBUSY);
        }
        let mut all = seals;
        // Whoever cannot make it a program any more, cannot write one into it either.
        if seals & seal::EXEC != 0 && self.inode.attributes.lock().mode & 0o111 != 0 {
            all |= seal::SHRINK | seal::GROW | seal::WRITE | seal::FUTURE_WRITE;
        }
        data.seals.fetch_or(all, Ordering::AcqRel);
        Ok(())
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        self.inode.set_attributes(attributes)
    }

    fn reopen(&self, flags: u32) -> Result<Option<Box<dyn FileOps>>, Errno> {
        Ok(Some(Box::new(Self { name: self.name.clone(), ..Self::new(self.inode.clone(), flags) })))
    }

    fn set_flags(&self, flags: u32) {
        self.keeps_atime.store(flags & oflag::NOATIME != 0, Ordering::Relaxed);
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.inode.touch();
        Ok(self.data()?.clone())
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        self.name.clone()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `F_SEAL_*` of fcntl(2).
#[expect(missing_docs, reason = "fcntl(2) explains each")]
pub mod seal {
    pub const SEAL: u32 = 1;
    pub const SHRINK: u32 = 2;
    pub const GROW: u32 = 4;
    pub const WRITE: u32 = 8;
    pub const FUTURE_WRITE: u32 = 0x10;
    pub const EXEC: u32 = 0x20;
    pub(super) const ALL: u32 = 0x3f;
}

/// Makes the file behind a new `memfd_create(2)` descriptor; `name` is what the guest gave.
pub fn new_memfd(
    memory: Arc<dyn Memory>,
    name: &[u8],
    mode: u32,
    owner: Owner,
    seals: u32,
) -> Box<dyn FileOps> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let ino = NEXT.fetch_add(1, Ordering::Relaxed);
    let fs = Arc::new(Fs {
        memory,
        dev: 1,
        next_ino: AtomicU64::new(ino),
        open_special: None,
        space: Arc::new(Space::unlimited()),
        shown: String::new(),
    });
    let inode = TmpInode::regular(&fs, mode, owner);
    if let Body::Regular(data) = &inode.body {
        data.seals.store(seals, Ordering::Release);
    }
    inode.attributes.lock().nlink = 0;
    let shown = [b"/memfd:", name, b" (deleted)"].concat();
    Box::new(OpenFile { name: Some(shown), ..OpenFile::new(inode, 0) })
}

/// Makes endless zeroed memory that can be mapped: what `mmap` of `/dev/zero` gives, each time anew.
pub fn zero_pages(memory: Arc<dyn Memory>) -> Arc<dyn Mappable> {
    let data = Data::new(memory, Arc::new(Space::unlimited()));
    data.size.store(SIZE_MAX, Ordering::Release);
    data
}
