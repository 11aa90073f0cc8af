//! File handles, and quotas, which no file system here has.

use abi::errno::{EBADF, EINVAL, ENODEV, ENOSYS, ENOTBLK, EOVERFLOW, EPERM, ESTALE};
use abi::{Errno, UserAddr};
use base::cred::cap;
use fs::file::oflag;
use fs::vfs::{FileType, HANDLE_LEN, HANDLE_TYPE, VfsPath};

use super::SysResult;
use super::path::AT_FDCWD;
use crate::task::Ctx;

/// The longest handle that a caller has room for.
const MAX_HANDLE_SZ: u32 = 128;
/// Bytes before the handle itself: its length and type.
const HEADER: u64 = 8;

/// `name_to_handle_at(2)`.
///
/// Source: Linux 6.12 fs/fhandle.c, `do_sys_name_to_handle`.
pub(super) fn sys_name_to_handle_at(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    handle: UserAddr,
    mount_id: UserAddr,
    flags: u32,
) -> SysResult {
    const FOLLOW: u32 = 0x400;
    const EMPTY_PATH: u32 = 0x1000;
    const FID: u32 = 0x200;
    const UNIQUE: u32 = 1;
    if flags & !(FOLLOW | EMPTY_PATH | FID | UNIQUE) != 0 {
        return Err(EINVAL.into());
    }
    let place = cx.place_at(dirfd, path, flags & FOLLOW != 0, flags & EMPTY_PATH != 0)?;
    let bytes = place.handle()?;
    let room: u32 = cx.mm.read_value(handle)?;
    if room > MAX_HANDLE_SZ {
        return Err(EINVAL.into());
    }
    if flags & UNIQUE != 0 {
        cx.mm.write_value(mount_id, &place.mount.unique_id())?;
    } else {
        cx.mm.write_value(mount_id, &(place.mount.id() as u32))?;
    }
    cx.mm.write_value(handle, &(HANDLE_LEN as u32))?;
    if (room as usize) < HANDLE_LEN {
        return Err(EOVERFLOW.into());
    }
    let kind = handle.checked_add(4).ok_or(abi::errno::EFAULT)?;
    cx.mm.write_value(kind, &HANDLE_TYPE)?;
    cx.mm.write_all(handle.checked_add(HEADER).ok_or(abi::errno::EFAULT)?, &bytes)?;
    Ok(0)
}

/// `open_by_handle_at(2)`.
///
/// Source: Linux 6.12 fs/fhandle.c, `handle_to_path`.
pub(super) fn sys_open_by_handle_at(
    cx: &mut Ctx<'_>,
    mount_fd: i32,
    handle: UserAddr,
    flags: u32,
) -> SysResult {
    let anchor: VfsPath = match mount_fd {
        AT_FDCWD => cx.fs.lock().cwd.clone(),
        fd => cx.file(fd)?.path.clone().ok_or(EBADF)?,
    };
    if !cx.cred.has(cap::DAC_READ_SEARCH) {
        return Err(EPERM.into());
    }
    let [len, kind]: [u32; 2] = cx.mm.read_value(handle)?;
    if len > MAX_HANDLE_SZ || len == 0 {
        return Err(EINVAL.into());
    }
    if len as usize != HANDLE_LEN || kind != HANDLE_TYPE as u32 {
        return Err(ESTALE.into());
    }
    let bytes: [u8; HANDLE_LEN] = cx.mm.read_value(handle.checked_add(HEADER).ok_or(abi::errno::EFAULT)?)?;
    let place = anchor.by_handle(&bytes)?;
    let file = cx.past_leases(|cx| cx.walk().open_place(place.clone(), flags | oflag::LARGEFILE))?;
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

/// Kinds of quotas (users, groups, projects).
const KINDS: u32 = 3;

/// `quotactl(2)`.
///
/// Source: Linux 6.12 fs/quota/quota.c.
pub(super) fn sys_quotactl(
    cx: &mut Ctx<'_>,
    command: u32,
    special: UserAddr,
    _id: u32,
    _addr: UserAddr,
) -> SysResult {
    const SYNC: u32 = 0x80_0001;
    if command & 0xff >= KINDS {
        return Err(EINVAL.into());
    }
    if special.is_null() {
        return if command >> 8 == SYNC { Ok(0) } else { Err(ENODEV.into()) };
    }
    let path = cx.path(special)?;
    let place = cx.walk().resolve(&path, true)?;
    let is_block = place.dentry.file_type()? == FileType::Block;
    let e: Errno = if is_block { ENODEV } else { ENOTBLK };
    Err(e.into())
}

/// `quotactl_fd(2)`.
pub(super) fn sys_quotactl_fd(
    cx: &mut Ctx<'_>,
    fd: i32,
    command: u32,
    _id: u32,
    _addr: UserAddr,
) -> SysResult {
    let _file = cx.file(fd)?;
    if command & 0xff >= KINDS {
        return Err(EINVAL.into());
    }
    Err(ENOSYS.into())
}
