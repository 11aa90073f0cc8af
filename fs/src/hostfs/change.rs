//! Changes of a writable tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EOPNOTSUPP, EPERM, EXDEV};
use host::file;

use super::{HostInode, Place};
use crate::vfs::{FileType, Inode, Owner, SetAttributes};

fn own(dir: &HostInode, inode: &Arc<dyn Inode>) -> Result<Arc<HostInode>, Errno> {
    let inode = inode.as_any().downcast_ref::<HostInode>().ok_or(EXDEV)?;
    if Arc::ptr_eq(&inode.fs, &dir.fs) { inode.arc() } else { Err(EXDEV) }
}

pub(super) fn create(dir: &HostInode, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
    make(dir, name, owner, |dir, name| file::create_child(dir, name, mode & 0o7777).map(drop))
}

/// Makes `name` with `make` and gives it to `owner`, if the host lets us.
pub(super) fn make(
    dir: &HostInode,
    name: &[u8],
    owner: Owner,
    make: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let c_name = file::name(name)?;
    let fd = dir.fd()?;
    make(fd.as_fd(), &c_name)?;
    match file::chown(fd.as_fd(), &c_name, Some(owner.uid), Some(owner.gid)) {
        // Without privileges on the host every file there is ours.
        Ok(()) | Err(EPERM) => {}
        Err(e) => return Err(e),
    }
    dir.lookup(name)
}

pub(super) fn link(dir: &HostInode, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let old = own(dir, inode)?.place();
    let parent = old.parent.ok_or(EPERM)?;
    let c_name = file::name(name)?;
    file::link(parent.fd()?.as_fd(), &old.name, dir.fd()?.as_fd(), &c_name)?;
    dir.lookup(name)
}

pub(super) fn remove(dir: &HostInode, name: &[u8], is_dir: bool) -> Result<(), Errno> {
    dir.want_write()?;
    file::unlink(dir.fd()?.as_fd(), &file::name(name)?, is_dir)
}

pub(super) fn rename(
    dir: &HostInode,
    old_name: &[u8],
    new_parent: &Arc<dyn Inode>,
    new_name: &[u8],
    flags: u32,
) -> Result<(), Errno> {
    dir.want_write()?;
    let parent = own(dir, new_parent)?;
    let (old, new) = (file::name(old_name)?, file::name(new_name)?);
    file::rename(dir.fd()?.as_fd(), &old, parent.fd()?.as_fd(), &new, flags)
}

/// Tells the inode where it is now.
pub(super) fn moved(inode: &HostInode, new_parent: &Arc<dyn Inode>, name: &[u8]) {
    if let (Ok(parent), Ok(name)) = (own(inode, new_parent), file::name(name)) {
        let place = Place { parent: Some(parent), name };
        let old = std::mem::replace(&mut *inode.place.lock(), place);
        drop(old);
    }
}

pub(super) fn set_attributes(inode: &HostInode, set: &SetAttributes) -> Result<(), Errno> {
    inode.want_write()?;
    let place = inode.place();
    let is_regular = inode.kind() == FileType::Regular;
    if let Some(size) = set.size {
        if !is_regular {
            return Err(EACCES);
        }
        let fd = inode.fd()?;
        let data = inode.data()?;
        let _writing = data.writing.lock();
        file::set_len(fd.as_fd(), size)?;
        data.shrink(size);
    }
    // The root's own name is not ours to use.
    let parent = place.parent.clone();
    if set.uid.is_some() || set.gid.is_some() {
        let dir = parent.as_ref().ok_or(EPERM)?.fd()?;
        file::chown(dir.as_fd(), &place.name, set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode {
        match inode.kind() {
            FileType::Regular => file::chmod(inode.fd()?.as_fd(), mode)?,
            FileType::Directory => file::chmod(file::reopen_dir(inode.fd()?.as_fd())?.as_fd(), mode)?,
            FileType::Symlink => return Err(EOPNOTSUPP),
            _ => {
                let dir = parent.as_ref().ok_or(EPERM)?.fd()?;
                file::chmod_child(dir.as_fd(), &place.name, mode)?;
            }
        }
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let dir = parent.as_ref().ok_or(EPERM)?.fd()?;
        let pair = |t: base::time::Time| (t.sec, t.nsec);
        file::utimes(dir.as_fd(), &place.name, set.atime.map(pair), set.mtime.map(pair))?;
    }
    Ok(())
}
