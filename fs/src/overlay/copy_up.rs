//! Copies from the lower to the upper layer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EIO, ENOENT, EOPNOTSUPP};

use super::{Origin, OverlayInode};
use crate::file::oflag;
use crate::vfs::{FileType, Inode, Owner, SetAttributes, XattrFlags, note_attribute};

/// Bytes moved at a time.
const PIECE: usize = 256 << 10;

/// Whether a copy takes the bytes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Copied,
    /// The file is truncated next.
    Dropped,
}

impl OverlayInode {
    /// The upper file, made if there is none.
    pub(super) fn copy_up(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.copy_up_with(Contents::Copied)
    }

    pub(super) fn copy_up_with(&self, contents: Contents) -> Result<Arc<dyn Inode>, Errno> {
        if self.has_upper.load(Ordering::Acquire) {
            return self.top();
        }
        let _copying = self.fs.copying.lock();
        self.copy_up_locked(contents)
    }

    /// Directories first, from the top: the depth is that of the lower tree.
    fn copy_up_locked(&self, contents: Contents) -> Result<Arc<dyn Inode>, Errno> {
        let layers = self.layers();
        if let Some(upper) = layers.upper {
            return Ok(upper);
        }
        let lower = layers.lower.ok_or(ENOENT)?;
        let meta = lower.metadata()?;
        let owner = Owner { uid: meta.uid, gid: meta.gid };
        let mode = meta.mode & 0o7777;
        let name = &*layers.name;
        let parent = match &layers.parent {
            Some(parent) => Some(parent.copy_up_locked(Contents::Copied)?),
            None => None,
        };
        let upper = match (meta.file_type(), &parent) {
            (FileType::Regular, _) => {
                let root = self.upper_root(parent.as_ref())?;
                let file = root.tmpfile(mode, owner)?;
                if contents == Contents::Copied {
                    copy_bytes(&lower, &file, meta.size)?;
                }
                file
            }
            (_, None) => return Err(ENOENT),
            (FileType::Directory, Some(dir)) => dir.mkdir(name, mode, owner)?,
            (FileType::Symlink, Some(dir)) => dir.symlink(name, &lower.read_link()?, owner)?,
            (_, Some(dir)) => dir.mknod(name, meta.mode, meta.rdev, owner)?,
        };
        for name in lower.list_xattrs()? {
            match lower.xattr(&name) {
                Ok(value) => {
                    note_attribute(&name);
                    upper.set_xattr(&name, &value, XattrFlags::Any)?;
                }
                Err(EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        upper.set_attributes(&SetAttributes {
            mode: Some(mode),
            atime: Some(meta.atime),
            mtime: Some(meta.mtime),
            ..SetAttributes::default()
        })?;
        let origin = Origin { ino: self.ino, lower_dir: None };
        let upper_ino = upper.metadata()?.ino;
        self.fs.origins.lock().insert(upper_ino, origin);
        if meta.file_type() == FileType::Regular
            && let Some(dir) = &parent
        {
            dir.link(name, &upper)?;
        }
        let mut layers = self.layers.lock();
        layers.upper = Some(upper.clone());
        // A directory stays merged; what is dropped, is dropped without the lock.
        let old = if self.is_dir { None } else { layers.lower.take() };
        drop(layers);
        drop(old);
        self.has_upper.store(true, Ordering::Release);
        Ok(upper)
    }

    /// An upper directory in which a file without a name can be made.
    fn upper_root(&self, parent: Option<&Arc<dyn Inode>>) -> Result<Arc<dyn Inode>, Errno> {
        match parent {
            Some(dir) => Ok(dir.clone()),
            None => self.fs.upper_root.get().cloned().ok_or(EIO),
        }
    }
}

/// Copies `size` bytes; pieces of zeros stay holes.
fn copy_bytes(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
    let from = from.clone().open(oflag::RDONLY)?;
    let to = to.clone().open(oflag::RDWR)?;
    let mut buf = vec![0u8; PIECE.min(usize::try_from(size).unwrap_or(PIECE)).max(1)];
    let mut at = 0;
    while at < size {
        let mut sink = buf.as_mut_slice();
        let n = from.read_at(at, &mut sink)?;
        if n == 0 {
            break;
        }
        let piece = buf.get(..n).ok_or(EIO)?;
        if piece.iter().any(|&b| b != 0) {
            let mut source = piece;
            if to.write_at(at, &mut source)? != n {
                return Err(EIO);
            }
        }
        at += n as u64;
    }
    to.truncate(size)
}
