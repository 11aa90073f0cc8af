//! Changes of names.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY};

use super::{OPAQUE, Origin, OverlayInode, find_lower, is_whiteout, open, optional};
use crate::file::oflag;
use crate::vfs::{FileType, Inode, Owner, XattrFlags, mode};

const ROOT: Owner = Owner { uid: 0, gid: 0 };
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

fn add_whiteout(upper: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
    upper.mknod(name, mode::IFCHR, 0, ROOT).map(drop)
}

/// Whether `name` of the upper directory is a whiteout; an error when it is something else.
fn has_whiteout(upper: &Arc<dyn Inode>, name: &[u8]) -> Result<bool, Errno> {
    match optional(upper.lookup(name))? {
        None => Ok(false),
        Some(found) if is_whiteout(&found.metadata()?) => Ok(true),
        Some(_) => Err(EEXIST),
    }
}

/// Removes the whiteouts from an upper directory that shows no files.
fn purge(upper: &Arc<dyn Inode>) -> Result<(), Errno> {
    let mut names = Vec::new();
    let dir = upper.clone().open(oflag::RDONLY | oflag::DIRECTORY)?;
    dir.read_dir(0, &mut |entry| {
        if entry.kind == FileType::Char.dt() {
            names.push(entry.name.to_vec());
        }
        true
    })?;
    for name in names {
        upper.unlink(&name)?;
    }
    Ok(())
}

impl OverlayInode {
    /// Makes `name` in the upper directory with `make`.
    pub(super) fn make(
        &self,
        name: &[u8],
        make: impl FnOnce(&Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let upper = self.copy_up()?;
        let was_removed = has_whiteout(&upper, name)?;
        if was_removed {
            upper.unlink(name)?;
        } else if find_lower(&self.layers(), name)?.is_some() {
            return Err(EEXIST);
        }
        match make(&upper) {
            Ok(made) => Ok(self.child(name, Some(made), None)?),
            Err(e) => {
                if was_removed {
                    add_whiteout(&upper, name)?;
                }
                Err(e)
            }
        }
    }

    /// Takes `name` from this directory; the inode lives on without a place.
    fn forget(&self, name: &[u8], child: &OverlayInode) {
        self.known.lock().by_name.remove(name);
        let parent = child.layers.lock().parent.take();
        drop(parent);
    }

    pub(super) fn remove(&self, name: &[u8], is_dir: bool) -> Result<(), Errno> {
        let child = self.find(name)?;
        match (is_dir, child.is_dir) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            (true, true) if !open::is_empty(&child)? => return Err(ENOTEMPTY),
            _ => {}
        }
        let upper = self.copy_up()?;
        if let Some(inode) = &child.layers().upper {
            if is_dir {
                purge(inode)?;
                upper.rmdir(name)?;
            } else {
                upper.unlink(name)?;
            }
        }
        if find_lower(&self.layers(), name)?.is_some() {
            add_whiteout(&upper, name)?;
        }
        self.forget(name, &child);
        Ok(())
    }

    pub(super) fn move_name(
        &self,
        old_name: &[u8],
        new_parent: &Self,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 {
            return Err(EINVAL);
        }
        let moved = self.find(old_name)?;
        if flags & RENAME_EXCHANGE != 0 {
            return self.exchange(old_name, &moved, new_parent, new_name);
        }
        let target = optional(new_parent.find(new_name))?;
        if let Some(target) = &target {
            if flags & RENAME_NOREPLACE != 0 {
                return Err(EEXIST);
            }
            match (moved.is_dir, target.is_dir) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) if !open::is_empty(target)? => return Err(ENOTEMPTY),
                _ => {}
            }
        }
        let from = self.copy_up()?;
        let into = new_parent.copy_up()?;
        let upper = moved.copy_up()?;
        moved.bind_lower(&upper)?;
        match optional(into.lookup(new_name))? {
            Some(found) if is_whiteout(&found.metadata()?) => into.unlink(new_name)?,
            Some(found) if moved.is_dir => {
                purge(&found)?;
                into.rmdir(new_name)?;
            }
            _ => {}
        }
        from.rename(old_name, &into, new_name, 0)?;
        if find_lower(&self.layers(), old_name)?.is_some() {
            add_whiteout(&from, old_name)?;
        }
        if let Some(target) = &target {
            new_parent.forget(new_name, target);
        }
        self.known.lock().by_name.remove(old_name);
        moved.settle(new_parent, new_name)
    }

    /// Makes the lower directory go along with the upper one, `upper`, when it moves; the one at the new place, if any,
    /// stays hidden.
    fn bind_lower(&self, upper: &Arc<dyn Inode>) -> Result<(), Errno> {
        if !self.is_dir {
            return Ok(());
        }
        let lower_dir = self.layers().lower;
        if lower_dir.is_none() {
            return upper.set_xattr(OPAQUE, b"y", XattrFlags::Any);
        }
        let upper_ino = upper.metadata()?.ino;
        self.fs.origins.lock().insert(upper_ino, Origin { ino: self.ino, lower_dir });
        Ok(())
    }

    /// Notes where the file is after a rename.
    fn settle(self: &Arc<Self>, parent: &Self, name: &[u8]) -> Result<(), Errno> {
        let above = parent.me.upgrade().ok_or(ENOENT)?;
        let old = {
            let mut layers = self.layers.lock();
            layers.name = name.into();
            layers.parent.replace(above)
        };
        drop(old);
        parent.known.lock().insert(name, self);
        Ok(())
    }

    fn exchange(
        &self,
        old_name: &[u8],
        moved: &Arc<Self>,
        new_parent: &Self,
        new_name: &[u8],
    ) -> Result<(), Errno> {
        let target = new_parent.find(new_name)?;
        let from = self.copy_up()?;
        let into = new_parent.copy_up()?;
        moved.bind_lower(&moved.copy_up()?)?;
        target.bind_lower(&target.copy_up()?)?;
        from.rename(old_name, &into, new_name, RENAME_EXCHANGE)?;
        moved.settle(new_parent, new_name)?;
        target.settle(self, old_name)
    }
}
