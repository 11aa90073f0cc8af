//! Open files and directories of a server.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EIO, EISDIR, ENOSYS};
use base::io::{Sink, Source};
use base::memmap::Mappable;

use super::inode::FuseInode;
use super::pages::Pages;
use super::{Body, DATA_MAX, Reply, op};
use crate::file::{DirEntry, FileOps, Metadata, oflag};
use crate::vfs::{FileType, Inode, SetAttributes};

/// Bytes of a page of directory entries.
const DIR_PAGE: u32 = 4096;

#[derive(Debug)]
struct Handle {
    inode: Arc<FuseInode>,
    fh: u64,
    flags: u32,
    is_dir: bool,
}

impl Handle {
    fn read(&self, op: u32, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let body = Body::default().u64(self.fh).u64(offset).u32(size).u32(0).u64(0).u32(self.flags).u32(0);
        let bytes = self.inode.ask(op, body)?;
        if bytes.len() > size as usize { Err(EIO) } else { Ok(bytes) }
    }

    fn sync(&self) -> Result<(), Errno> {
        let op = if self.is_dir { op::FSYNCDIR } else { op::FSYNC };
        match self.inode.ask(op, Body::default().u64(self.fh).u32(0).u32(0)) {
            Err(ENOSYS) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let op = if self.is_dir { op::RELEASEDIR } else { op::RELEASE };
        let body = Body::default().u64(self.fh).u32(self.flags).u32(0).u64(0);
        self.inode.fs.connection.release(op, self.inode.clone(), &body);
    }
}

pub(super) fn open(inode: Arc<FuseInode>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
    const ONCE: u32 = oflag::CREAT | oflag::EXCL | oflag::NOCTTY | oflag::TRUNC;
    let is_dir = inode.file_type()? == FileType::Directory;
    let flags = flags & !(ONCE | oflag::NONOTIFY);
    let op = if is_dir { op::OPENDIR } else { op::OPEN };
    let fh = match inode.ask(op, Body::default().u32(flags).u32(0)) {
        Ok(bytes) => Reply(&bytes).u64()?,
        // A server that keeps no state.
        Err(ENOSYS) => 0,
        Err(e) => return Err(e),
    };
    let handle = Handle { inode, fh, flags, is_dir };
    if is_dir { Ok(Box::new(OpenDirectory(handle))) } else { Ok(Box::new(OpenFile(handle, OnceLock::new()))) }
}

#[derive(Debug)]
struct OpenFile(Handle, OnceLock<Arc<Pages>>);

impl FileOps for OpenFile {
    fn is_seekable(&self) -> bool {
        true
    }

    fn can_be_direct(&self) -> bool {
        true
    }

    /// Nothing is locked while the server is asked.
    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let most = match self.0.inode.fs.mount.max_read {
            0 => DATA_MAX,
            n => n.clamp(4096, DATA_MAX),
        };
        let mut done = 0;
        while dst.remaining() > 0 {
            let size = u32::try_from(dst.remaining()).unwrap_or(u32::MAX).min(most);
            let bytes = match self.0.read(op::READ, offset.saturating_add(done as u64), size) {
                Ok(bytes) => bytes,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            if bytes.is_empty() {
                break;
            }
            match dst.put(&bytes) {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            if bytes.len() < size as usize {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let most =
            self.0.inode.fs.connection.max_write.load(Ordering::Acquire).clamp(4096, DATA_MAX) as usize;
        let mut done = 0;
        while src.remaining() > 0 {
            let mut bytes = vec![0; src.remaining().min(most)];
            let n = match src.take(&mut bytes) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            let at = offset.saturating_add(done as u64);
            let body =
                Body::default().u64(self.0.fh).u64(at).u32(n as u32).u32(0).u64(0).u32(self.0.flags).u32(0);
            let asked = self.0.inode.ask(op::WRITE, body.bytes(bytes.get(..n).unwrap_or_default()));
            self.0.inode.forget_known();
            let written = match asked.and_then(|reply| Reply(&reply).u32()) {
                Ok(written) if written as usize <= n => written as usize,
                Ok(_) => return Err(EIO),
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            done += written;
            if written < n {
                break;
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.inode.metadata()
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.0.inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })
    }

    fn sync(&self) -> Result<(), Errno> {
        self.0.sync()
    }

    fn prepare_mapping(&self, range: Range<u64>, shared_and_writable: bool) -> Result<(), Errno> {
        super::pages::check(shared_and_writable)?;
        let meta = self.0.inode.metadata()?;
        self.pages().fill(&meta, range, |offset, size| self.0.read(op::READ, offset, size))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(self.pages())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl OpenFile {
    /// The pages of the file, which stay as long as it is open or mapped.
    fn pages(&self) -> Arc<Pages> {
        let inode = &self.0.inode;
        self.1.get_or_init(|| inode.fs.mapped.of(inode.node)).clone()
    }
}

/// An open directory.
#[derive(Debug)]
struct OpenDirectory(Handle);

impl FileOps for OpenDirectory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.inode.metadata()
    }

    fn sync(&self) -> Result<(), Errno> {
        self.0.sync()
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        /// A server that never ends is stopped there.
        const PAGES: u32 = 1 << 16;
        let mut at = offset;
        for _ in 0..PAGES {
            let bytes = self.0.read(op::READDIR, at, DIR_PAGE)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let mut rest = bytes.as_slice();
            let before = at;
            while rest.len() >= 24 {
                let mut reply = Reply(rest);
                let (ino, next) = (reply.u64()?, reply.u64()?);
                let (len, kind) = (reply.u32()? as usize, reply.u32()?);
                let name = reply.0.get(..len).filter(|n| !n.is_empty() && n.len() <= 255).ok_or(EIO)?;
                if name.contains(&b'/') || name.contains(&0) {
                    return Err(EIO);
                }
                if !emit(DirEntry { ino, next, kind: kind as u8, name }) {
                    return Ok(());
                }
                at = next;
                rest = rest.get((24 + len).next_multiple_of(8)..).unwrap_or_default();
            }
            if at == before {
                return Ok(());
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
