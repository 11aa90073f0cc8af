//! `/proc/PID/fd` and `/proc/PID/fdinfo`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use abi::Errno;
use abi::errno::ENOENT;

use super::task::{Handle, ino, opaque_debug};
use super::{Descriptor, denied, parse_id};
use crate::file::{FileOps, Metadata, oflag};
use crate::generated::{Entry, Listing, OpenDir, OpenText, Text};
use crate::vfs::{FileType, Inode, MagicTarget, StatFs, mode};

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FdView {
    /// `fd`.
    Links,
    /// `fdinfo`.
    Info,
}

/// Behind the numbers of a directory's fixed files.
const FIRST_FD: u64 = 0x100;
const FIRST_INFO: u64 = 0x4_0100;

impl FdView {
    fn ino(self, handle: &Handle, fd: i32) -> u64 {
        let first = if self == Self::Links { FIRST_FD } else { FIRST_INFO };
        ino(handle.task.id().tid, handle.whole, first + u64::from(fd.unsigned_abs()))
    }
}

/// `fd` or `fdinfo`.
pub(super) struct FdDir {
    pub(super) handle: Handle,
    pub(super) view: FdView,
    pub(super) index: u64,
    pub(super) mode: u32,
}

opaque_debug!(FdDir, FdNode);

impl Listing for FdDir {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        let kind = if self.view == FdView::Links { FileType::Symlink } else { FileType::Regular };
        let fds = denied(self.handle.task.descriptors())?;
        Ok(fds
            .into_iter()
            .map(|fd| Entry { name: fd.to_string().into_bytes(), ino: self.view.ino(&self.handle, fd), kind })
            .collect())
    }
}

impl Inode for FdDir {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.handle.check_exists()?;
        // The number of open descriptors, since Linux 6.2.
        let size = match self.view {
            FdView::Links => self.handle.task.descriptors().map_or(0, |d| d.len() as u64),
            FdView::Info => 0,
        };
        Ok(self.handle.stamp(self.index).metadata(mode::IFDIR | self.mode, 2, size))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let fd = parse_id(name).ok_or(ENOENT)?;
        self.handle.task.descriptor(fd).map_err(|e| if e == abi::errno::EBADF { ENOENT } else { e })?;
        Ok(Arc::new(FdNode { handle: self.handle.clone(), view: self.view, fd }))
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        true
    }

    /// A process sees its own descriptors, whoever its files belong to (Linux `proc_fd_permission`).
    fn allows(&self, _want: u32) -> bool {
        self.handle.proc.system.current().is_some_and(|me| me.pid == self.handle.task.id().pid)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}

/// One descriptor.
struct FdNode {
    handle: Handle,
    view: FdView,
    fd: i32,
}

impl FdNode {
    fn descriptor(&self) -> Result<Descriptor, Errno> {
        self.handle.task.descriptor(self.fd).map_err(|_| ENOENT)
    }
}

impl Inode for FdNode {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(match self.view {
            FdView::Info => FileType::Regular,
            FdView::Links => FileType::Symlink,
        })
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let file = self.descriptor()?.file;
        let (bits, size) = match self.view {
            FdView::Info => (mode::IFREG | 0o444, 0),
            FdView::Links => {
                let read = if file.is_readable() { 0o500 } else { 0 };
                let write = if file.is_writable() { 0o300 } else { 0 };
                (mode::IFLNK | read | write, 64)
            }
        };
        let ino = self.view.ino(&self.handle, self.fd);
        let mut meta = self.handle.stamp(0).metadata(bits, 1, size);
        meta.ino = ino;
        Ok(meta)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        let file = self.descriptor()?.file;
        match &file.path {
            Some(place) => Ok(self.handle.proc.system.path(place)),
            None => file.ops.anonymous_name().ok_or(ENOENT),
        }
    }

    fn magic_link(&self) -> Option<MagicTarget> {
        match self.view {
            FdView::Links => self.descriptor().ok().map(|d| MagicTarget::File(d.file)),
            FdView::Info => None,
        }
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenText::new(self, meta)))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }
}

impl Text for FdNode {
    /// Linux fs/proc/fd.c, `seq_show`.
    fn read(&self) -> Result<Vec<u8>, Errno> {
        let d = self.descriptor()?;
        let cloexec = if d.cloexec { oflag::CLOEXEC } else { 0 };
        let mount = d.file.path.as_ref().map_or(0, |p| p.mount.id());
        let ino = d.file.ops.metadata().map_or(0, |m| m.ino);
        let text = format!(
            "pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{mount}\nino:\t{ino}\n{}",
            d.file.position(),
            d.file.flags() | cloexec,
            d.file.ops.fdinfo(),
        );
        Ok(text.into_bytes())
    }
}
