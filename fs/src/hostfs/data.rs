//! The bytes of a regular file, and those of its pages that are in the memory file.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EIO, ESTALE};
use base::PAGE_SIZE;
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::memmap::{MapError, Mappable, MappingSpace, MemKind, MemRange, Memory};
use host::file::{Stat, read_at, write_at};

use super::{Fs, HostInode, Mode, reclaim};
use crate::vfs::mappings::Mappings;
use crate::vfs::pages::PageMap;

/// Reading ahead for mappings: at least this much.
const AHEAD: u64 = 64 << 10;
/// At most this much at once.
const FILL_MAX: u64 = 1 << 20;
/// Files up to this size are kept when they are read; larger ones only as far as they are mapped.
const SMALL: u64 = 1 << 20;
/// The buffer between host and guest.
const BUFFER: usize = 128 << 10;

#[derive(Default)]
struct Cache {
    pages: PageMap,
    /// Offsets of pages written through mappings and not yet to the host.
    dirty: BTreeSet<u64>,
    /// Stamps and size when the pages were last known to be the host's.
    seen: Option<Seen>,
}

/// Modification, change of status, size.
type Seen = ((i64, u32), (i64, u32), u64);

pub(super) struct Data {
    /// The file's names in use, for opening it again.
    inodes: Lock<Vec<Weak<HostInode>>, { rank::LEAF }>,
    /// Kept while dirty pages need it.
    pinned: Lock<Option<Arc<OwnedFd>>, { rank::LEAF }>,
    memory: Arc<dyn Memory>,
    mode: Mode,
    /// Of a read-only file.
    size: u64,
    me: Weak<Data>,
    /// Read since the last look of who needs room.
    is_used: AtomicBool,
    /// In the queue of `reclaim`.
    is_queued: AtomicBool,
    cache: Lock<Cache, { rank::PAGE_CACHE }>,
    mappings: Mappings,
    /// One writer at a time.
    pub(super) writing: Lock<(), { rank::INODE }>,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Data {
    pub(super) fn new(fs: &Fs, stat: &Stat) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            is_used: AtomicBool::new(false),
            is_queued: AtomicBool::new(false),
            inodes: Lock::new(Vec::new()),
            pinned: Lock::new(None),
            memory: fs.memory.clone(),
            mode: fs.mode,
            size: stat.size,
            cache: Lock::new(Cache::default()),
            mappings: Mappings::default(),
            writing: Lock::new(()),
        })
    }

    fn fd(&self) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = self.pinned.lock().clone() {
            return Ok(fd);
        }
        let inode = self.inodes.lock().iter().find_map(Weak::upgrade);
        inode.ok_or(ESTALE)?.fd()
    }

    /// Tells of a name through which the file can be opened.
    pub(super) fn add_name(&self, inode: &Weak<HostInode>) {
        let mut inodes = self.inodes.lock();
        inodes.retain(|inode| inode.strong_count() > 0);
        inodes.push(inode.clone());
    }

    /// Keeps `fd`: the name may go while the file is open or mapped.
    pub(super) fn pin(&self, fd: &Arc<OwnedFd>) {
        if !self.mode.is_stable() {
            self.pinned.lock().get_or_insert_with(|| fd.clone());
        }
    }

    fn size(&self, fd: Option<&OwnedFd>) -> Result<u64, Errno> {
        if self.mode.is_stable() {
            return Ok(self.size);
        }
        if fd.is_none() && !self.mode.is_shared {
            let inode = self.inodes.lock().iter().find_map(Weak::upgrade);
            if let Some(inode) = inode {
                return inode.size(&*self.fd()?);
            }
        }
        match fd {
            Some(fd) => Ok(host::file::stat(fd.as_fd())?.size),
            None => Ok(host::file::stat(self.fd()?.as_fd())?.size),
        }
    }

    /// Compares with what was seen last, and forgets the pages of a file that somebody else changed: all but those
    /// that guests have written and the host has not seen. Called without locks of rank `MM` or inner.
    pub(super) fn notice(&self, stat: &Stat) {
        if !self.mode.is_shared {
            return;
        }
        let now = (stat.mtime, stat.ctime, stat.size);
        let old = {
            let mut cache = self.cache.lock();
            let old = cache.seen.replace(now);
            if old == Some(now) || cache.pages.bytes() == 0 {
                return;
            }
            let mut from = 0;
            let dirty: Vec<u64> = cache.dirty.iter().copied().collect();
            for page in dirty {
                self.remove_pages(&mut cache, from, page);
                from = page + PAGE_SIZE;
            }
            self.remove_pages(&mut cache, from, u64::MAX);
            old
        };
        self.mappings.invalidate(0..u64::MAX, false);
        if old.is_some_and(|(_, _, size)| stat.size < size) {
            self.shrink(stat.size);
        }
    }

    /// Whether it was read since this was asked last.
    pub(super) fn take_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    pub(super) fn has_pages(&self) -> bool {
        self.cache.lock().pages.bytes() > 0
    }

    /// It stands in the queue no more; the next page enters it again.
    pub(super) fn leave_queue(&self) {
        self.is_queued.store(false, Ordering::Relaxed);
    }

    /// Forgets the pages in `from..to`.
    fn remove_pages(&self, cache: &mut Cache, from: u64, to: u64) {
        let before = cache.pages.bytes();
        cache.pages.remove(from, to, &*self.memory);
        reclaim::uncount(before - cache.pages.bytes());
    }

    /// Takes the pages from all who map them.
    pub(super) fn unmap(&self) {
        self.mappings.invalidate(0..u64::MAX, false);
    }

    /// Forgets the pages that nobody maps and the host has too; returns how many bytes.
    pub(super) fn give_up(&self) -> u64 {
        let mut cache = self.cache.lock();
        let before = cache.pages.bytes();
        let runs: Vec<(u64, MemRange)> = cache.pages.runs().collect();
        for (start, run) in runs {
            let is_free = |at: u64, cache: &Cache| {
                self.memory.is_unique(run.offset + (at - start)) && !cache.dirty.contains(&at)
            };
            let (mut at, end) = (start, start + run.len);
            while at < end {
                let from = at;
                while at < end && is_free(at, &cache) {
                    at += PAGE_SIZE;
                }
                if from < at {
                    self.remove_pages(&mut cache, from, at);
                } else {
                    at += PAGE_SIZE;
                }
            }
        }
        before - cache.pages.bytes()
    }

    /// What a guest just changed is no change by others.
    fn wrote(&self, fd: &OwnedFd) {
        if self.mode.is_shared
            && self.cache.lock().pages.bytes() > 0
            && let Ok(stat) = host::file::stat(fd.as_fd())
        {
            self.cache.lock().seen = Some((stat.mtime, stat.ctime, stat.size));
        }
    }

    /// The pages from `offset` on with a reference on each, read from the host if they are not there.
    fn fill(&self, cache: &mut Cache, offset: u64, want: u64, size: u64) -> Result<MemRange, MapError> {
        if let Some(run) = cache.pages.find(offset) {
            let run = MemRange { len: run.len.min(want), ..run };
            self.memory.inc_ref(run);
            return Ok(run);
        }
        let end = size.next_multiple_of(PAGE_SIZE).min(cache.pages.next(offset).unwrap_or(u64::MAX));
        if offset >= end {
            return Err(MapError::Bus);
        }
        let len = want.clamp(AHEAD, FILL_MAX).min(end - offset);
        let fd = self.fd().map_err(|_| MapError::Bus)?;
        let run = self.memory.allocate(len, PAGE_SIZE, MemKind::PageCache).map_err(|_| MapError::NoMemory)?;
        if self.read_into(&fd, offset, run, size).is_err() {
            self.memory.dec_ref(run);
            return Err(MapError::Bus);
        }
        cache.pages.insert(offset, run);
        reclaim::count(run.len);
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            reclaim::enter(self.me.clone());
        }
        let run = MemRange { len: run.len.min(want), ..run };
        self.memory.inc_ref(run);
        Ok(run)
    }

    fn read_into(&self, fd: &OwnedFd, offset: u64, run: MemRange, size: u64) -> Result<(), Errno> {
        // A writer may have made the file longer than it was: what is there counts.
        let len = run.len;
        let mut buf = vec![0u8; BUFFER.min(len as usize)];
        let mut done = 0;
        while done < len {
            let piece = buf.len().min((len - done) as usize);
            let n = read_at(fd.as_fd(), offset + done, buf.get_mut(..piece).ok_or(EIO)?)?;
            if n == 0 {
                break;
            }
            self.memory.write(run.offset + done, buf.get(..n).ok_or(EIO)?);
            done += n as u64;
            if n < piece && offset + done >= size {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn read_at(
        &self,
        inode: &HostInode,
        fd: &OwnedFd,
        offset: u64,
        dst: &mut dyn Sink,
    ) -> Result<usize, Errno> {
        reclaim::make_room();
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        let size = inode.size(fd)?;
        let end = size.min(offset.saturating_add(dst.remaining() as u64));
        let mut at = offset;
        let mut buf = Vec::new();
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            let (held, until, is_asked) = self.cached_or_small(page, end, size);
            if is_asked {
                inode.was_read();
            }
            let (result, want) = match held {
                Some(run) => {
                    let len = (run.len - (at - page)).min(end - at);
                    let result = dst.put_memory(&*self.memory, run.offset + (at - page), len as usize);
                    self.memory.dec_ref(run);
                    (result, len)
                }
                None => {
                    let len = (until - at).min(BUFFER as u64);
                    buf.resize(len as usize, 0);
                    match read_at(fd.as_fd(), at, &mut buf) {
                        Ok(n) => (dst.put(buf.get(..n).ok_or(EIO)?), len),
                        Err(e) => (Err(e), len),
                    }
                }
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

    /// The cached pages at `page`, or how far none are cached; and whether the host is asked for bytes.
    fn cached_or_small(&self, page: u64, end: u64, size: u64) -> (Option<MemRange>, u64, bool) {
        let mut cache = self.cache.lock();
        let want = (end - page).next_multiple_of(PAGE_SIZE);
        if let Some(run) = cache.pages.find(page) {
            let run = MemRange { len: run.len.min(want), ..run };
            self.memory.inc_ref(run);
            return (Some(run), end, false);
        }
        let until = cache.pages.next(page).unwrap_or(end).min(end);
        let is_small = !self.mode.is_shared && size <= SMALL;
        if is_small {
            let all = (size - page).next_multiple_of(PAGE_SIZE);
            if let Ok(run) = self.fill(&mut cache, page, all, size) {
                return (Some(run), end, true);
            }
        }
        (None, until, true)
    }

    /// Writes to the host and to the cached pages; the caller holds `writing`.
    pub(super) fn write_at(&self, fd: &OwnedFd, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut buf = vec![0u8; BUFFER.min(src.remaining())];
        let mut at = offset;
        while src.remaining() > 0 {
            let want = buf.len().min(src.remaining());
            let result = src
                .take(buf.get_mut(..want).ok_or(EIO)?)
                .and_then(|n| Ok((n, write_at(fd.as_fd(), at, buf.get(..n).ok_or(EIO)?)?)));
            match result {
                Ok((taken, n)) => {
                    self.store(at, buf.get(..n).ok_or(EIO)?);
                    at += n as u64;
                    if taken < want || n < taken {
                        break;
                    }
                }
                Err(e) if at == offset => return Err(e),
                Err(_) => break,
            }
        }
        self.wrote(fd);
        Ok((at - offset) as usize)
    }

    /// Brings cached pages up to date.
    fn store(&self, offset: u64, bytes: &[u8]) {
        let cache = self.cache.lock();
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            match cache.pages.find(page) {
                Some(run) => {
                    let len = (run.len - (at - page)).min(end - at);
                    let from = (at - offset) as usize;
                    if let Some(piece) = bytes.get(from..from + len as usize) {
                        self.memory.write(run.offset + (at - page), piece);
                    }
                    at += len;
                }
                None => at = cache.pages.next(page).unwrap_or(end),
            }
        }
    }

    /// The file is going to be longer than `size`, where it ends now: what a mapping left behind the end is no part of it.
    pub(super) fn zero_tail(&self, size: u64) {
        let cache = self.cache.lock();
        let rest = size.next_multiple_of(PAGE_SIZE) - size;
        if rest > 0
            && let Some(run) = cache.pages.find(size + rest - PAGE_SIZE)
        {
            self.memory.zero(MemRange { offset: run.offset + PAGE_SIZE - rest, len: rest });
        }
    }

    /// Forgets what is behind the end of a file that got shorter; the caller holds `writing`.
    pub(super) fn shrink(&self, size: u64) {
        let keep = size.next_multiple_of(PAGE_SIZE);
        {
            let mut cache = self.cache.lock();
            self.remove_pages(&mut cache, keep, u64::MAX);
            cache.dirty.split_off(&keep);
            if !size.is_multiple_of(PAGE_SIZE)
                && let Some(run) = cache.pages.find(keep - PAGE_SIZE)
            {
                let skip = size % PAGE_SIZE;
                self.memory.zero(MemRange { offset: run.offset + skip, len: PAGE_SIZE - skip });
            }
        }
        self.mappings.invalidate(keep..u64::MAX, true);
    }

    /// `fallocate`: what was written through mappings goes to the host first, and what is cached from `offset` on is read
    /// again afterwards, since its place may have changed.
    pub(super) fn allocate(&self, fd: &OwnedFd, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        const KEEP_SIZE: u32 = 1;
        let _writing = self.writing.lock();
        if mode & !KEEP_SIZE != 0 {
            self.write_back(0..u64::MAX)?;
        }
        host::file::allocate(fd.as_fd(), mode, offset, len)?;
        if mode & !KEEP_SIZE != 0 {
            let from = offset & !(PAGE_SIZE - 1);
            {
                let mut cache = self.cache.lock();
                self.remove_pages(&mut cache, from, u64::MAX);
                cache.dirty.split_off(&from);
            }
            self.mappings.invalidate(from..u64::MAX, false);
        }
        self.wrote(fd);
        Ok(())
    }

    /// Sees to it that the host knows where data is.
    pub(super) fn sync_holes(&self) -> Result<(), Errno> {
        self.write_back(0..u64::MAX)
    }

    /// Writes dirty pages in `range` to the host. Mappings may go on writing: the pages stay dirty while one is there.
    pub(super) fn write_back(&self, range: Range<u64>) -> Result<(), Errno> {
        if !self.mode.is_writable || self.cache.lock().dirty.is_empty() {
            return Ok(());
        }
        let result = self.write_dirty(range);
        // Only now: what somebody heard between two of the writes is old.
        let names: Vec<Weak<HostInode>> = self.inodes.lock().clone();
        names.iter().filter_map(Weak::upgrade).for_each(|inode| inode.changed());
        result
    }

    fn write_dirty(&self, range: Range<u64>) -> Result<(), Errno> {
        let fd = self.fd()?;
        let size = self.size(Some(&fd))?;
        let keep = self.mappings.is_written();
        let mut buf = vec![0u8; PAGE_SIZE as usize];
        let mut next = range.start & !(PAGE_SIZE - 1);
        loop {
            let page = {
                let mut cache = self.cache.lock();
                let Some(&page) = cache.dirty.range(next..).next().filter(|&&p| p < range.end) else {
                    return Ok(());
                };
                if !keep {
                    cache.dirty.remove(&page);
                }
                if let Some(run) = cache.pages.find(page) {
                    self.memory.read(run.offset, &mut buf);
                }
                page
            };
            let len = size.saturating_sub(page).min(PAGE_SIZE) as usize;
            if len > 0 {
                write_at(fd.as_fd(), page, buf.get(..len).ok_or(EIO)?)?;
            }
            self.wrote(&fd);
            next = page + PAGE_SIZE;
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.write_back(0..u64::MAX).is_err() {
            log::warn!("hostfs: pages of a file that is gone could not be written");
        }
        let pages = &mut self.cache.get_mut().pages;
        reclaim::uncount(pages.bytes());
        pages.clear(&*self.memory);
    }
}

impl Mappable for Data {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        let size = self.size(None).map_err(|_| MapError::Bus)?;
        if offset >= size.next_multiple_of(PAGE_SIZE) {
            return Err(MapError::Bus);
        }
        reclaim::make_room();
        let mut cache = self.cache.lock();
        let run = self.fill(&mut cache, offset, max_len, size)?;
        if write && self.mode.is_writable {
            cache.dirty.extend((offset..offset + run.len).step_by(PAGE_SIZE as usize));
        }
        Ok(run)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let cache = self.cache.lock();
        let run = cache.pages.find(offset)?;
        let run = MemRange { len: run.len.min(max_len), ..run };
        self.memory.inc_ref(run);
        Some(run)
    }

    fn add_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        if !self.mode.is_stable()
            && let Ok(fd) = self.fd()
        {
            self.pin(&fd);
        }
        self.mappings.add(space, addr, offset, len, write);
    }

    fn remove_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        self.mappings.remove(space, addr, offset, len, write);
    }

    fn sync(&self, range: Range<u64>) -> Result<(), Errno> {
        self.write_back(range)?;
        if self.mode.is_writable { host::file::sync(self.fd()?.as_fd()) } else { Ok(()) }
    }
}
