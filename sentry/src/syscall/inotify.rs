//! inotify(7).

use abi::UserAddr;
use abi::errno::{EACCES, EINVAL, ENOTDIR};
use fs::anon::inotify::{self, Inotify};
use fs::file::oflag;
use fs::notify::event;
use fs::vfs::may;

use super::SysResult;
use crate::task::Ctx;

/// `inotify_init1(2)`.
pub(super) fn sys_inotify_init1(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    if flags & !(oflag::CLOEXEC | oflag::NONBLOCK) != 0 {
        return Err(EINVAL.into());
    }
    let file = inotify::new(flags & oflag::NONBLOCK);
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

/// `inotify_init(2)`.
pub(super) fn sys_inotify_init(cx: &mut Ctx<'_>) -> SysResult {
    sys_inotify_init1(cx, 0)
}

/// `inotify_add_watch(2)`.
pub(super) fn sys_inotify_add_watch(cx: &mut Ctx<'_>, fd: i32, path: UserAddr, mask: u32) -> SysResult {
    const FLAGS: u32 = event::ONLYDIR
        | event::DONT_FOLLOW
        | event::EXCL_UNLINK
        | event::MASK_CREATE
        | event::MASK_ADD
        | event::ISDIR
        | event::ONESHOT
        | event::UNMOUNT
        | event::Q_OVERFLOW
        | event::IGNORED;
    if mask & (event::ALL | FLAGS) == 0 {
        return Err(EINVAL.into());
    }
    let file = cx.open_file(fd)?;
    if mask & event::MASK_ADD != 0 && mask & event::MASK_CREATE != 0 {
        return Err(EINVAL.into());
    }
    let instance = file.ops.as_any().downcast_ref::<Inotify>().ok_or(EINVAL)?;
    let path = cx.path(path)?;
    let walk = cx.walk();
    let place = walk.resolve(&path, mask & event::DONT_FOLLOW == 0)?;
    let meta = place.inode().metadata()?;
    if mask & event::ONLYDIR != 0 && !meta.is_dir() {
        return Err(ENOTDIR.into());
    }
    fs::vfs::check_inode(place.inode().as_ref(), &meta, may::READ, &cx.cred).map_err(|_| EACCES)?;
    Ok(instance.add(place, mask)? as u64)
}

/// `inotify_rm_watch(2)`.
pub(super) fn sys_inotify_rm_watch(cx: &mut Ctx<'_>, fd: i32, wd: i32) -> SysResult {
    let file = cx.open_file(fd)?;
    file.ops.as_any().downcast_ref::<Inotify>().ok_or(EINVAL)?.remove(wd)?;
    Ok(0)
}
