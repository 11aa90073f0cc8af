//! `/proc/PID/ns`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use abi::Errno;
use abi::errno::ENOENT;

use super::denied;
use super::task::{Handle, ino, opaque_debug};
use crate::file::{FileOps, Metadata};
use crate::generated::{Entry, Listing, OpenDir};
use crate::vfs::{FileType, Inode, MagicTarget, StatFs, mode};

/// Behind the numbers of a directory's descriptors.
const FIRST: u64 = 0x8_0100;

/// The directory.
pub(super) struct NsDir {
    pub(super) handle: Handle,
    pub(super) index: u64,
    pub(super) mode: u32,
}

/// One link.
struct NsLink {
    handle: Handle,
    name: &'static str,
    index: u64,
}

opaque_debug!(NsDir, NsLink);

impl NsDir {
    fn number(&self, index: u64) -> u64 {
        ino(self.handle.task.id().tid, self.handle.whole, FIRST + index)
    }
}

impl Listing for NsDir {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        self.handle.check_exists()?;
        let names = self.handle.task.namespaces().iter().zip(0..);
        Ok(names
            .map(|(name, i)| Entry {
                name: name.as_bytes().to_vec(),
                ino: self.number(i),
                kind: FileType::Symlink,
            })
            .collect())
    }
}

impl Inode for NsDir {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.handle.check_exists()?;
        Ok(self.handle.stamp(self.index).metadata(mode::IFDIR | self.mode, 2, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let names = self.handle.task.namespaces();
        let at = names.iter().position(|n| n.as_bytes() == name).ok_or(ENOENT)?;
        let name = names.get(at).copied().ok_or(ENOENT)?;
        Ok(Arc::new(NsLink { handle: self.handle.clone(), name, index: self.number(at as u64) }))
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        true
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}

impl Inode for NsLink {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Symlink)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.handle.check_exists()?;
        let mut meta = self.handle.stamp(0).metadata(mode::IFLNK | 0o777, 1, 0);
        meta.ino = self.index;
        Ok(meta)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        denied(self.handle.task.namespace(self.name))?.ops.anonymous_name().ok_or(ENOENT)
    }

    fn magic_link(&self) -> Option<MagicTarget> {
        self.handle.task.namespace(self.name).ok().map(MagicTarget::File)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}
