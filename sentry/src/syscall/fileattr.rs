//! Attributes of inodes (ioctl_iflags(2)): append-only, immutable and their like, by ioctl and by file_getattr(2); and
//! the ioctls that clone files, which no file system here does.

use std::sync::Arc;

use abi::errno::{E2BIG, EBADF, EFAULT, EINVAL, EISDIR, ENOTTY, EOPNOTSUPP, EPERM, EXDEV};
use abi::{Errno, UserAddr};
use base::cred::cap;
use fs::file::{FileDescription, oflag};
use fs::vfs::{FileType, VfsPath, iflag};

use super::SysResult;
use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::task::Ctx;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;
const FIDEDUPERANGE: u32 = 0xc018_9436;

/// `FS_*_FL` and what `FS_XFLAG_*` calls the same.
const XFLAGS: [(u32, u32); 4] =
    [(iflag::IMMUTABLE, 8), (iflag::APPEND, 0x10), (iflag::NOATIME, 0x40), (iflag::NODUMP, 0x80)];
/// All of `FS_XFLAG_*`.
const XFLAGS_KNOWN: u64 = 0x8001_ffff;

fn to_xflags(flags: u32) -> u32 {
    XFLAGS.iter().filter(|(fl, _)| flags & fl != 0).map(|(_, x)| x).sum()
}

/// # Errors
/// `EOPNOTSUPP`: a flag that the file systems here do not keep.
fn from_xflags(xflags: u64) -> Result<u32, Errno> {
    let known: u32 = XFLAGS.iter().map(|(_, x)| x).sum();
    if xflags & !u64::from(known) != 0 {
        return Err(EOPNOTSUPP);
    }
    Ok(XFLAGS.iter().filter(|(_, x)| xflags & u64::from(*x) != 0).map(|(fl, _)| fl).sum())
}

/// Source: Linux 6.18 fs/file_attr.c, `vfs_fileattr_set`, `fileattr_set_prepare`.
fn set(cx: &Ctx<'_>, place: &VfsPath, flags: u32) -> Result<(), Errno> {
    const PRIVILEGED: u32 = iflag::IMMUTABLE | iflag::APPEND;
    let inode = place.inode();
    let old = inode.flags()?;
    if place.mount.is_readonly() {
        return Err(abi::errno::EROFS);
    }
    let meta = inode.metadata()?;
    if meta.uid != cx.cred.fsuid && !cx.cred.has_over(meta.uid, meta.gid, cap::FOWNER) {
        return Err(EPERM);
    }
    if (old ^ flags) & PRIVILEGED != 0 && !cx.cred.has(cap::LINUX_IMMUTABLE) {
        return Err(EPERM);
    }
    if flags & !iflag::ALL != 0 {
        return Err(EOPNOTSUPP);
    }
    inode.set_flags(flags)
}

/// An ioctl that is the VFS's and not the file's; `None` for all others.
pub(super) fn ioctl(
    cx: &Ctx<'_>,
    file: &Arc<FileDescription>,
    request: u32,
    arg: u64,
) -> Result<Option<u64>, Errno> {
    let at = UserAddr(arg);
    let place = || file.path.as_ref().ok_or(ENOTTY);
    match request {
        GETFLAGS => cx.mm.write_value(at, &place()?.inode().flags()?)?,
        SETFLAGS => {
            place()?.inode().flags()?;
            let flags: u32 = cx.mm.read_value(at)?;
            set(cx, place()?, flags)?;
        }
        FSGETXATTR => {
            let flags = place()?.inode().flags()?;
            cx.mm.write_value(at, &[to_xflags(flags), 0, 0, 0, 0, 0, 0])?;
        }
        FSSETXATTR => {
            place()?.inode().flags()?;
            let [xflags, rest @ ..]: [u32; 7] = cx.mm.read_value(at)?;
            if rest[..4].iter().any(|&word| word != 0) {
                return Err(EOPNOTSUPP);
            }
            set(cx, place()?, from_xflags(xflags.into())?)?;
        }
        FICLONE => clone(cx, file, arg as i32)?,
        FICLONERANGE => {
            let [source, ..]: [i64; 4] = cx.mm.read_value(at)?;
            clone(cx, file, source as i32)?;
        }
        FIDEDUPERANGE if file.metadata()?.file_type() == FileType::Regular => return Err(EOPNOTSUPP),
        _ => return Ok(None),
    }
    Ok(Some(0))
}

/// Source: Linux 6.18 fs/remap_range.c, `vfs_clone_file_range`: what can be wrong before the file system is asked.
fn clone(cx: &Ctx<'_>, to: &FileDescription, from: i32) -> Result<(), Errno> {
    let from = cx.open_file(from)?;
    let (source, target) = (from.metadata()?, to.metadata()?);
    if source.dev != target.dev {
        return Err(EXDEV);
    }
    let kinds = (source.file_type(), target.file_type());
    if kinds.0 == FileType::Directory || kinds.1 == FileType::Directory {
        return Err(EISDIR);
    }
    if kinds != (FileType::Regular, FileType::Regular) {
        return Err(EINVAL);
    }
    if !from.is_readable() || !to.is_writable() || to.flags() & oflag::APPEND != 0 {
        return Err(EBADF);
    }
    Err(EOPNOTSUPP)
}

/// `struct file_attr` as it was first.
const ATTR_SIZE: u64 = 24;

fn check_call(flags: u32, size: u64) -> Result<(), Errno> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    if size < ATTR_SIZE { Err(EINVAL) } else { Ok(()) }
}

fn place(cx: &Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> Result<VfsPath, Errno> {
    if path.is_null() && flags & AT_EMPTY_PATH != 0 && dirfd != AT_FDCWD {
        return cx.file(dirfd)?.path.clone().ok_or(EOPNOTSUPP);
    }
    cx.place_at(dirfd, path, flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0)
}

/// What an ioctl does not know, a call does not support.
fn supported(e: Errno) -> Errno {
    if e == ENOTTY { EOPNOTSUPP } else { e }
}

/// `file_getattr(2)`.
pub(super) fn sys_file_getattr(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    attr: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    check_call(flags, size)?;
    let place = place(cx, dirfd, path, flags)?;
    let flags = place.inode().flags().map_err(supported)?;
    let mut out = vec![0u8; usize::try_from(size).map_err(|_| E2BIG)?];
    out[..8].copy_from_slice(&u64::from(to_xflags(flags)).to_le_bytes());
    cx.mm.write_all(attr, &out)?;
    Ok(0)
}

/// `file_setattr(2)`.
pub(super) fn sys_file_setattr(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    attr: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    check_call(flags, size)?;
    let [xflags, rest @ ..]: [u64; 3] = cx.mm.read_value(attr)?;
    let mut more = vec![0u8; usize::try_from(size - ATTR_SIZE).map_err(|_| E2BIG)?];
    cx.mm.read_exact(attr.checked_add(ATTR_SIZE).ok_or(EFAULT)?, &mut more)?;
    if more.iter().any(|&b| b != 0) {
        return Err(E2BIG.into());
    }
    if xflags & !XFLAGS_KNOWN != 0 {
        return Err(EINVAL.into());
    }
    let place = place(cx, dirfd, path, flags)?;
    place.inode().flags().map_err(supported)?;
    if rest.iter().any(|&word| word != 0) {
        return Err(EOPNOTSUPP.into());
    }
    set(cx, &place, from_xflags(xflags)?)?;
    Ok(0)
}
