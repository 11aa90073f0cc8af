//! Changes of a writable tree.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EOPNOTSUPP, EPERM, EXDEV};
use host::file;

use super::{HostInode, Place};
use crate::vfs::{FileType, Inode, Owner, SetAttributes};

/// The bits of a mode that say who may do what.
const PERMISSIONS: u32 = 0o7777;

fn own(dir: &HostInode, inode: &Arc<dyn Inode>) -> Result<Arc<HostInode>, Errno> {
    let inode = inode.as_any().downcast_ref::<HostInode>().ok_or(EXDEV)?;
    if Arc::ptr_eq(&inode.fs, &dir.fs) { inode.arc() } else { Err(EXDEV) }
}

pub(super) fn create(dir: &HostInode, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let c_name = file::name(name)?;
    let above = dir.fd()?;
    let fd = file::create_child(above.as_fd(), &c_name, mode & 0o7777)?;
    dir.changed();
    let mut stat = file::stat(fd.as_fd())?;
    if (stat.uid, stat.gid) != (owner.uid, owner.gid) {
        give(above.as_fd(), &c_name, owner)?;
        stat = file::stat(fd.as_fd())?;
    }
    if stat.mode & PERMISSIONS != mode & PERMISSIONS && !dir.hands_lists_on() {
        file::chmod(fd.as_fd(), mode & PERMISSIONS)?;
        stat = file::stat(fd.as_fd())?;
    }
    let inode = HostInode::new(&dir.fs, stat, Place { parent: Some(dir.arc()?), name: c_name });
    inode.keep_fd(Arc::new(fd));
    Ok(inode)
}

/// Makes a file without a name. It keeps its descriptor, since nothing else leads to it.
pub(super) fn tmpfile(dir: &HostInode, mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let fd = file::create_unnamed(dir.fd()?.as_fd(), mode & PERMISSIONS)?;
    let mut stat = file::stat(fd.as_fd())?;
    if (stat.uid, stat.gid) != (owner.uid, owner.gid) {
        owned(file::chown_open(fd.as_fd(), Some(owner.uid), Some(owner.gid)))?;
        stat = file::stat(fd.as_fd())?;
    }
    if stat.mode & PERMISSIONS != mode & PERMISSIONS && !dir.hands_lists_on() {
        file::chmod(fd.as_fd(), mode & PERMISSIONS)?;
        stat = file::stat(fd.as_fd())?;
    }
    let place = Place { parent: Some(dir.arc()?), name: CString::default() };
    let inode = HostInode::new(&dir.fs, stat, place);
    inode.fd.pin(fd);
    Ok(inode)
}

/// Makes `name` with `make` and gives it to `owner`, if the host lets us; it gets `mode`, whatever umask ringfence has.
pub(super) fn make(
    dir: &HostInode,
    name: &[u8],
    owner: Owner,
    mode: Option<u32>,
    make: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let c_name = file::name(name)?;
    let fd = dir.fd()?;
    make(fd.as_fd(), &c_name)?;
    dir.changed();
    let mut made = dir.find(name)?;
    if (made.stat.uid, made.stat.gid) != (owner.uid, owner.gid) {
        give(fd.as_fd(), &c_name, owner)?;
        made = dir.find(name)?;
    }
    if let Some(mode) = mode.map(|mode| mode & PERMISSIONS)
        && made.stat.mode & PERMISSIONS != mode
        && !dir.hands_lists_on()
    {
        change_attributes(&made, &SetAttributes { mode: Some(mode), ..SetAttributes::default() })?;
        made = dir.find(name)?;
    }
    Ok(made)
}

/// Gives what was made to its owner.
fn give(dir: BorrowedFd<'_>, name: &CStr, owner: Owner) -> Result<(), Errno> {
    owned(file::chown(dir, name, Some(owner.uid), Some(owner.gid)))
}

/// Without privileges on the host every file there is ours.
fn owned(given: Result<(), Errno>) -> Result<(), Errno> {
    match given {
        Ok(()) | Err(EPERM) => Ok(()),
        Err(e) => Err(e),
    }
}

pub(super) fn link(dir: &HostInode, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
    dir.want_write()?;
    let linked = own(dir, inode)?;
    let old = linked.place();
    let parent = old.parent.ok_or(EPERM)?;
    let c_name = file::name(name)?;
    linked.add_name();
    if old.name.is_empty() {
        file::link_open(linked.fd()?.as_fd(), dir.fd()?.as_fd(), &c_name)?;
        let place = Place { parent: Some(dir.arc()?), name: c_name };
        let unnamed = std::mem::replace(&mut *linked.place.lock(), place);
        drop(unnamed);
    } else {
        file::link(parent.fd()?.as_fd(), &old.name, dir.fd()?.as_fd(), &c_name)?;
    }
    linked.changed();
    dir.changed();
    dir.lookup(name)
}

pub(super) fn remove(dir: &HostInode, name: &[u8], is_dir: bool) -> Result<(), Errno> {
    dir.want_write()?;
    file::unlink(dir.fd()?.as_fd(), &file::name(name)?, is_dir)?;
    dir.changed();
    Ok(())
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
    file::rename(dir.fd()?.as_fd(), &old, parent.fd()?.as_fd(), &new, flags)?;
    dir.changed();
    parent.changed();
    Ok(())
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
    let result = change_attributes(inode, set);
    match set.size {
        Some(size) if result.is_ok() => inode.resized(size),
        _ => inode.changed(),
    }
    result
}

fn change_attributes(inode: &HostInode, set: &SetAttributes) -> Result<(), Errno> {
    let place = inode.place();
    let is_regular = inode.kind() == FileType::Regular;
    if let Some(size) = set.size {
        if !is_regular {
            return Err(EACCES);
        }
        let fd = inode.fd()?;
        let data = inode.data()?;
        let _writing = data.writing.lock();
        let grows_from =
            if data.has_pages() { Some(inode.size(&fd)?).filter(|&old| old < size) } else { None };
        file::set_len(fd.as_fd(), size)?;
        match grows_from {
            Some(old) => data.zero_tail(old),
            None => data.shrink(size),
        }
    }
    // The root's own name is not ours to use.
    let parent = place.parent.clone();
    let is_unnamed = parent.is_some() && place.name.is_empty();
    if is_unnamed && (set.uid.is_some() || set.gid.is_some()) {
        file::chown_open(inode.fd()?.as_fd(), set.uid, set.gid)?;
    } else if set.uid.is_some() || set.gid.is_some() {
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
        let pair = |t: base::time::Time| (t.sec, t.nsec);
        let (atime, mtime) = (set.atime.map(pair), set.mtime.map(pair));
        if is_unnamed {
            file::utimes_open(inode.fd()?.as_fd(), atime, mtime)?;
        } else {
            let dir = parent.as_ref().ok_or(EPERM)?.fd()?;
            file::utimes(dir.as_fd(), &place.name, atime, mtime)?;
        }
    }
    Ok(())
}
