//! Open files and directories.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use abi::errno::EISDIR;
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::memmap::Mappable;

use super::HostInode;
use super::data::Data;
use crate::file::{DirEntry, FileOps, Metadata, oflag};
use crate::vfs::{FileType, Inode, SetAttributes};

/// An open regular file.
#[derive(Debug)]
pub(super) struct OpenFile {
    inode: Arc<HostInode>,
    data: Arc<Data>,
    /// Of a writable tree, where the name may go while the file is open.
    pinned: Option<Arc<OwnedFd>>,
    /// `O_SYNC` or `O_DSYNC`: a write is on the disk when it returns.
    syncs: bool,
}

impl OpenFile {
    pub(super) fn new(inode: Arc<HostInode>, fd: Arc<OwnedFd>, flags: u32) -> Result<Self, Errno> {
        let data = inode.data()?.clone();
        data.pin(&fd);
        let pinned = (!inode.fs.mode.is_stable()).then_some(fd);
        Ok(Self { inode, data, pinned, syncs: flags & oflag::DSYNC != 0 })
    }

    fn written(&self, fd: &OwnedFd, n: usize) -> Result<usize, Errno> {
        if self.syncs && n > 0 {
            host::file::sync(fd.as_fd())?;
        }
        Ok(n)
    }

    /// Writes to the host; the caller holds `writing`.
    fn write_to(&self, fd: &OwnedFd, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if self.data.has_pages() {
            let size = self.inode.size(fd)?;
            if offset > size {
                self.data.zero_tail(size);
            }
        }
        let result = self.data.write_at(fd, offset, src);
        match result {
            Ok(0) => {}
            Ok(n) => self.inode.written_to(offset + n as u64),
            Err(_) => self.inode.changed(),
        }
        result
    }

    fn fd(&self) -> Result<Arc<OwnedFd>, Errno> {
        match &self.pinned {
            Some(fd) => Ok(fd.clone()),
            None => self.inode.fd(),
        }
    }
}

impl FileOps for OpenFile {
    fn is_seekable(&self) -> bool {
        true
    }

    fn can_be_direct(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        self.data.read_at(&self.inode, &*self.fd()?, offset, dst)
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        self.inode.want_write()?;
        let fd = self.fd()?;
        let n = {
            let _writing = self.data.writing.lock();
            self.write_to(&fd, offset, src)?
        };
        self.written(&fd, n)
    }

    fn append(&self, src: &mut dyn Source) -> Result<(usize, u64), Errno> {
        self.inode.want_write()?;
        let fd = self.fd()?;
        let (n, end) = {
            let _writing = self.data.writing.lock();
            let end = self.inode.size(&fd)?;
            (self.write_to(&fd, end, src)?, end)
        };
        Ok((self.written(&fd, n)?, end + n as u64))
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        match &self.pinned {
            Some(fd) => {
                let stat = self.inode.known_or(|| host::file::stat(fd.as_fd()))?;
                self.data.notice(&stat);
                Ok(self.inode.shown(&stat))
            }
            None => self.inode.metadata(),
        }
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        self.inode.want_write()?;
        let fd = self.fd()?;
        let result = self.data.allocate(&fd, mode, offset, len);
        self.inode.changed();
        result
    }

    fn seek_data(&self, offset: u64, _size: u64) -> Result<u64, Errno> {
        self.data.sync_holes()?;
        host::file::seek_data(self.fd()?.as_fd(), offset)
    }

    fn seek_hole(&self, offset: u64, _size: u64) -> Result<u64, Errno> {
        self.data.sync_holes()?;
        host::file::seek_hole(self.fd()?.as_fd(), offset)
    }

    fn sync(&self) -> Result<(), Errno> {
        match &self.pinned {
            Some(_) => self.data.sync(0..u64::MAX),
            None => Ok(()),
        }
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(self.data.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for OpenFile {
    /// What was written through mappings goes to the host with the last of them, at the latest.
    fn drop(&mut self) {
        if self.data.write_back(0..u64::MAX).is_err() {
            log::warn!("hostfs: pages written through a mapping could not be written");
        }
    }
}

#[derive(Debug)]
struct Entry {
    ino: u64,
    kind: u8,
    name: Box<[u8]>,
}

/// An open directory: the names as they were when reading began.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    inode: Arc<HostInode>,
    entries: Lock<Option<Arc<Vec<Entry>>>, { rank::LEAF }>,
}

impl OpenDirectory {
    pub(super) fn new(inode: Arc<HostInode>) -> Self {
        Self { inode, entries: Lock::new(None) }
    }
}

impl FileOps for OpenDirectory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _: u64, _: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let known = if offset == 0 { None } else { self.entries.lock().clone() };
        let entries = match known {
            Some(entries) => entries,
            None => {
                let fd = self.inode.fd()?;
                let mut entries = Vec::new();
                host::file::read_dir(fd.as_fd(), |ino, kind, name| {
                    entries.push(Entry { ino, kind, name: name.into() });
                })?;
                let entries = Arc::new(entries);
                let old = self.entries.lock().replace(entries.clone());
                drop(old);
                entries
            }
        };
        let dir = FileType::Directory.dt();
        let own = self.inode.stat.ino;
        let above = self.inode.place().parent.map_or(own, |p| p.stat.ino);
        let fixed: [(u64, u8, &[u8]); 2] = [(own, dir, b"."), (above, dir, b"..")];
        // Straight to the place: a step for each entry before it would make long directories quadratic.
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let first = fixed.get(at..).unwrap_or_default();
        let rest = entries.get(at.saturating_sub(fixed.len())..).unwrap_or_default();
        let all = first.iter().copied().chain(rest.iter().map(|e| (e.ino, e.kind, &*e.name)));
        for ((ino, kind, name), next) in all.zip(offset.saturating_add(1)..) {
            if !emit(DirEntry { ino, next, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
