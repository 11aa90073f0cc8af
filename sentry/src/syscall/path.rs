//! Names: opening, stat, directories, links.

use std::sync::Arc;

use abi::errno::{EINVAL, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ERANGE};
use abi::{Errno, UserAddr};
use base::cred::{CapSet, Credentials};
use base::time::Time;
use base::userns::IdKind;
use fs::file::Metadata;
use fs::vfs::{SetTime, VfsPath, Walk, iflag};

use super::SysResult;
use crate::task::Ctx;

pub(super) const AT_FDCWD: i32 = -100;
pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_REMOVEDIR: u32 = 0x200;
const AT_EACCESS: u32 = 0x200;
const AT_SYMLINK_FOLLOW: u32 = 0x400;
const AT_NO_AUTOMOUNT: u32 = 0x800;
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;

impl Ctx<'_> {
    /// A walk whose relative paths begin at directory descriptor `dirfd`.
    ///
    /// # Errors
    /// In the order checked: `ENOENT`: the path is empty; `EBADF`; `ENOTDIR`.
    pub(super) fn walk_at(&self, dirfd: i32, path: &[u8]) -> Result<Walk<'_>, Errno> {
        if path.is_empty() { Err(ENOENT) } else { self.walk_from(dirfd, path, AT_EMPTY_PATH) }
    }

    /// As `walk_at`; with `AT_EMPTY_PATH` in `flags` an empty path is what `dirfd` is open on.
    pub(super) fn walk_from(&self, dirfd: i32, path: &[u8], flags: u32) -> Result<Walk<'_>, Errno> {
        if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
            return Err(ENOENT);
        }
        let mut walk = self.walk();
        if dirfd != AT_FDCWD && path.first() != Some(&b'/') {
            let file = self.file(dirfd)?;
            walk.base = file.path.clone().ok_or(ENOTDIR)?;
            if !path.is_empty() && !walk.base.dentry.is_dir() {
                return Err(ENOTDIR);
            }
        }
        Ok(walk)
    }
}

/// Metadata with the numbers that users and groups have in the caller's user namespace.
fn shown(cx: &Ctx<'_>, mut meta: Metadata) -> Metadata {
    let ns = &cx.cred.user_ns;
    if !ns.is_first() {
        meta.uid = ns.shown(IdKind::User, meta.uid);
        meta.gid = ns.shown(IdKind::Group, meta.gid);
    }
    meta
}

/// `struct stat` of x86-64.
fn stat_bytes(m: &Metadata) -> [u8; 144] {
    let words: [u64; 18] = [
        m.dev,
        m.ino,
        m.nlink,
        u64::from(m.mode) | u64::from(m.uid) << 32,
        u64::from(m.gid),
        m.rdev,
        m.size,
        m.blksize,
        m.blocks,
        m.atime.sec as u64,
        m.atime.nsec.into(),
        m.mtime.sec as u64,
        m.mtime.nsec.into(),
        m.ctime.sec as u64,
        m.ctime.nsec.into(),
        0,
        0,
        0,
    ];
    let mut out = [0; 144];
    for (chunk, w) in out.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&w.to_le_bytes());
    }
    out
}

fn metadata_at(cx: &Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> Result<Metadata, Errno> {
    found_at(cx, dirfd, path, flags).map(|(meta, _)| meta)
}

/// As `metadata_at`, with where the file is.
fn found_at(
    cx: &Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
) -> Result<(Metadata, Option<VfsPath>), Errno> {
    found(cx, dirfd, &path_or_empty(cx, path, flags)?, flags)
}

/// Copies in a path that may be NULL where it may be empty.
pub(super) fn path_or_empty(cx: &Ctx<'_>, path: UserAddr, flags: u32) -> Result<Vec<u8>, Errno> {
    if path.is_null() && flags & AT_EMPTY_PATH != 0 { Ok(Vec::new()) } else { cx.path(path) }
}

fn found(cx: &Ctx<'_>, dirfd: i32, bytes: &[u8], flags: u32) -> Result<(Metadata, Option<VfsPath>), Errno> {
    if bytes.is_empty() && flags & AT_EMPTY_PATH != 0 {
        if dirfd == AT_FDCWD {
            let cwd = cx.fs.lock().cwd.clone();
            return Ok((cwd.inode().metadata()?, Some(cwd)));
        }
        let file = cx.file(dirfd)?;
        return Ok((file.metadata()?, file.path.clone()));
    }
    let place = cx.walk_at(dirfd, bytes)?.resolve(bytes, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    Ok((place.dentry.inode().metadata()?, Some(place)))
}

/// `stat(2)`.
pub(super) fn sys_stat(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr) -> SysResult {
    sys_newfstatat(cx, AT_FDCWD, path, buf, 0)
}

/// `lstat(2)`.
pub(super) fn sys_lstat(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr) -> SysResult {
    sys_newfstatat(cx, AT_FDCWD, path, buf, AT_SYMLINK_NOFOLLOW)
}

/// `fstat(2)`.
pub(super) fn sys_fstat(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr) -> SysResult {
    let meta = cx.file(fd)?.metadata()?;
    cx.mm.write_value(buf, &stat_bytes(&shown(cx, meta)))?;
    Ok(0)
}

/// `newfstatat(2)`.
pub(super) fn sys_newfstatat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    buf: UserAddr,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let meta = metadata_at(cx, dirfd, path, flags)?;
    cx.mm.write_value(buf, &stat_bytes(&shown(cx, meta)))?;
    Ok(0)
}

/// `statx(2)`.
pub(super) fn sys_statx(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    mask: u32,
    buf: UserAddr,
) -> SysResult {
    let path = || path_or_empty(cx, path, flags);
    check_statx(flags, mask)?;
    statx_at(cx, dirfd, &path()?, flags, mask, buf)
}

/// Whether statx(2) knows the flags and what is asked for.
///
/// # Errors
/// `EINVAL`.
pub(super) fn check_statx(flags: u32, mask: u32) -> Result<(), Errno> {
    const SYNC_TYPE: u32 = 0x6000;
    if mask & 0x8000_0000 != 0 || flags & SYNC_TYPE == SYNC_TYPE {
        return Err(EINVAL);
    }
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | SYNC_TYPE) != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// `statx(2)` of a path that was copied in; `flags` and `mask` have been checked.
pub(super) fn statx_at(
    cx: &Ctx<'_>,
    dirfd: i32,
    path: &[u8],
    flags: u32,
    mask: u32,
    buf: UserAddr,
) -> SysResult {
    /// `STATX_MNT_ID`, `STATX_MNT_ID_UNIQUE`.
    const MNT_ID: u32 = 0x1000;
    const MNT_ID_UNIQUE: u32 = 0x4000;
    const ATTR_MOUNT_ROOT: u64 = 0x2000;
    const ATTR_KEPT: u32 = iflag::IMMUTABLE | iflag::APPEND | iflag::NODUMP;
    let (m, place) = found(cx, dirfd, path, flags)?;
    let m = shown(cx, m);
    let mut out = [0u8; 256];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let has_birth = m.btime != Time::default();
    let mut filled = 0x7ffu32 | if has_birth { 0x800 } else { 0 };
    if let Some(place) = &place {
        let is_root = std::sync::Arc::ptr_eq(&place.dentry, place.mount.root());
        let unique = mask & MNT_ID_UNIQUE != 0;
        filled |= if unique { MNT_ID_UNIQUE } else { MNT_ID };
        let id = if unique { place.mount.unique_id() } else { place.mount.id() };
        let known = if place.inode().flags().is_ok() { ATTR_KEPT.into() } else { 0 };
        let set = u64::from(m.flags) & known | if is_root { ATTR_MOUNT_ROOT } else { 0 };
        put(8, &set.to_le_bytes());
        put(56, &(known | ATTR_MOUNT_ROOT).to_le_bytes());
        put(144, &id.to_le_bytes());
    }
    put(0, &filled.to_le_bytes());
    put(4, &(m.blksize as u32).to_le_bytes());
    put(16, &(m.nlink as u32).to_le_bytes());
    put(20, &m.uid.to_le_bytes());
    put(24, &m.gid.to_le_bytes());
    put(28, &(m.mode as u16).to_le_bytes());
    put(32, &m.ino.to_le_bytes());
    put(40, &m.size.to_le_bytes());
    put(48, &m.blocks.to_le_bytes());
    for (at, t) in [(64, m.atime), (80, m.btime), (96, m.ctime), (112, m.mtime)] {
        put(at, &t.sec.to_le_bytes());
        put(at + 8, &t.nsec.to_le_bytes());
    }
    let major = |d: u64| ((d >> 8 & 0xfff) | (d >> 32 & !0xfff)) as u32;
    let minor = |d: u64| ((d & 0xff) | (d >> 12 & !0xff)) as u32;
    put(128, &major(m.rdev).to_le_bytes());
    put(132, &minor(m.rdev).to_le_bytes());
    put(136, &major(m.dev).to_le_bytes());
    put(140, &minor(m.dev).to_le_bytes());
    cx.mm.write_value(buf, &out)?;
    Ok(0)
}

/// `access(2)`.
pub(super) fn sys_access(cx: &mut Ctx<'_>, path: UserAddr, mode: u32) -> SysResult {
    sys_faccessat2(cx, AT_FDCWD, path, mode, 0)
}

/// `faccessat(2)`.
pub(super) fn sys_faccessat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, mode: u32) -> SysResult {
    sys_faccessat2(cx, dirfd, path, mode, 0)
}

/// The real ids, with what they could do had they been taken on (Linux 6.12 fs/open.c, `access_override_creds`).
fn real_credentials(cred: &Credentials) -> Credentials {
    /// `SECBIT_NO_SETUID_FIXUP`.
    const NO_SETUID_FIXUP: u32 = 1 << 2;
    let mut real = Credentials { fsuid: cred.uid, fsgid: cred.gid, ..cred.clone() };
    if cred.securebits & NO_SETUID_FIXUP == 0 {
        real.effective = if cred.uid == 0 { cred.permitted } else { CapSet::EMPTY };
    }
    real
}

/// `faccessat2(2)`.
pub(super) fn sys_faccessat2(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    mode: u32,
    flags: u32,
) -> SysResult {
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let real;
    let mut walk = cx.walk_from(dirfd, &path, flags)?;
    if flags & AT_EACCESS == 0 {
        real = real_credentials(&cx.cred);
        walk.cred = &real;
    }
    let place = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        walk.base.clone()
    } else {
        walk.resolve(&path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    walk.access_at(&place, mode)?;
    Ok(0)
}

/// `readlinkat(2)`.
pub(super) fn sys_readlinkat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    buf: UserAddr,
    len: i32,
) -> SysResult {
    if len <= 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let target = if path.is_empty() && dirfd != AT_FDCWD {
        cx.file(dirfd)?
            .path
            .as_ref()
            .ok_or(ENOENT)?
            .inode()
            .read_link()
            .map_err(|e| if e == EINVAL { ENOENT } else { e })?
    } else {
        cx.walk_from(dirfd, &path, AT_EMPTY_PATH)?.read_link(&path)?
    };
    let n = target.len().min(len as usize);
    cx.mm.write_all(buf, &target[..n])?;
    Ok(n as u64)
}

/// `readlink(2)`.
pub(super) fn sys_readlink(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr, len: i32) -> SysResult {
    sys_readlinkat(cx, AT_FDCWD, path, buf, len)
}

/// `getcwd(2)`.
pub(super) fn sys_getcwd(cx: &mut Ctx<'_>, buf: UserAddr, len: u64) -> SysResult {
    let mut path = {
        let fs = cx.fs.lock();
        fs.cwd.cwd_path(&fs.root)?
    };
    path.push(0);
    if path.len() as u64 > len {
        return Err(ERANGE.into());
    }
    cx.mm.write_all(buf, &path)?;
    Ok(path.len() as u64)
}

fn check_enter(cx: &Ctx<'_>, place: &fs::vfs::VfsPath) -> Result<(), Errno> {
    if place.inode().metadata()?.mode & 0o170_000 != 0o040_000 {
        return Err(ENOTDIR);
    }
    cx.walk().access_at(place, 1)
}

fn enter(cx: &mut Ctx<'_>, place: fs::vfs::VfsPath) -> SysResult {
    check_enter(cx, &place)?;
    let old = std::mem::replace(&mut cx.fs.lock().cwd, place);
    drop(old);
    Ok(0)
}

/// `chdir(2)`.
pub(super) fn sys_chdir(cx: &mut Ctx<'_>, path: UserAddr) -> SysResult {
    let path = cx.path(path)?;
    let place = cx.walk().resolve(&path, true)?;
    enter(cx, place)
}

/// `fchdir(2)`.
pub(super) fn sys_fchdir(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    let file = cx.file(fd)?;
    let place = file.path.clone().ok_or(ENOTDIR)?;
    enter(cx, place)
}

/// `chroot(2)`.
pub(super) fn sys_chroot(cx: &mut Ctx<'_>, path: UserAddr) -> SysResult {
    let path = cx.path(path)?;
    let place = cx.walk().resolve(&path, true)?;
    check_enter(cx, &place)?;
    if !cx.cred.has_here(base::cred::cap::SYS_CHROOT) {
        return Err(EPERM.into());
    }
    let old = std::mem::replace(&mut cx.fs.lock().root, place);
    drop(old);
    Ok(0)
}

/// `mkdirat(2)`.
pub(super) fn sys_mkdirat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, mode: u32) -> SysResult {
    let path = cx.path(path)?;
    cx.walk_at(dirfd, &path)?.mkdir(&path, mode)?;
    Ok(0)
}

/// `mkdir(2)`.
pub(super) fn sys_mkdir(cx: &mut Ctx<'_>, path: UserAddr, mode: u32) -> SysResult {
    sys_mkdirat(cx, AT_FDCWD, path, mode)
}

/// `unlinkat(2)`.
pub(super) fn sys_unlinkat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> SysResult {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let walk = cx.walk_at(dirfd, &path)?;
    if flags & AT_REMOVEDIR != 0 {
        walk.rmdir(&path)?
    } else {
        walk.unlink(&path)?
    }
    Ok(0)
}

/// `unlink(2)`.
pub(super) fn sys_unlink(cx: &mut Ctx<'_>, path: UserAddr) -> SysResult {
    sys_unlinkat(cx, AT_FDCWD, path, 0)
}

/// `rmdir(2)`.
pub(super) fn sys_rmdir(cx: &mut Ctx<'_>, path: UserAddr) -> SysResult {
    sys_unlinkat(cx, AT_FDCWD, path, AT_REMOVEDIR)
}

/// `renameat2(2)`.
pub(super) fn sys_renameat2(
    cx: &mut Ctx<'_>,
    old_dir: i32,
    old: UserAddr,
    new_dir: i32,
    new: UserAddr,
    flags: u32,
) -> SysResult {
    const EXCHANGE: u32 = 2;
    // Both are copied in first; what is wrong with the second shows once the first one's folder is found.
    let (old, new) = (cx.path(old), cx.path(new));
    if flags & !7 != 0 || flags & EXCHANGE != 0 && flags & !EXCHANGE != 0 {
        return Err(EINVAL.into());
    }
    let old = old?;
    let from = cx.walk_at(old_dir, &old)?;
    match new.and_then(|new| Ok((cx.walk_at(new_dir, &new)?, new))) {
        Ok((to, new)) => from.rename(&old, &to, &new, flags)?,
        Err(e) => {
            from.resolve_parent(&old)?;
            return Err(e.into());
        }
    }
    Ok(0)
}

/// `renameat(2)`.
pub(super) fn sys_renameat(
    cx: &mut Ctx<'_>,
    old_dir: i32,
    old: UserAddr,
    new_dir: i32,
    new: UserAddr,
) -> SysResult {
    sys_renameat2(cx, old_dir, old, new_dir, new, 0)
}

/// `rename(2)`.
pub(super) fn sys_rename(cx: &mut Ctx<'_>, old: UserAddr, new: UserAddr) -> SysResult {
    sys_renameat2(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `symlinkat(2)`.
pub(super) fn sys_symlinkat(cx: &mut Ctx<'_>, target: UserAddr, dirfd: i32, path: UserAddr) -> SysResult {
    let target = cx.path(target)?;
    let path = cx.path(path)?;
    cx.walk_at(dirfd, &path)?.symlink(&target, &path)?;
    Ok(0)
}

/// `symlink(2)`.
pub(super) fn sys_symlink(cx: &mut Ctx<'_>, target: UserAddr, path: UserAddr) -> SysResult {
    sys_symlinkat(cx, target, AT_FDCWD, path)
}

/// `linkat(2)`.
pub(super) fn sys_linkat(
    cx: &mut Ctx<'_>,
    old_dir: i32,
    old: UserAddr,
    new_dir: i32,
    new: UserAddr,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let new = cx.path(new);
    let old = cx.path(old)?;
    link_at(cx, (old_dir, &old), (new_dir, new.as_deref().map_err(|&e| e)), flags)
}

/// The file that `linkat` gives another name: the caller's own, or the caller could have found it.
///
/// Source: Linux 6.18 fs/namei.c, `path_init` (`LOOKUP_LINKAT_EMPTY`).
fn linked_file(cx: &Ctx<'_>, fd: i32) -> Result<VfsPath, Errno> {
    const DAC_READ_SEARCH: u32 = base::cred::cap::DAC_READ_SEARCH;
    let file = cx.file(fd)?;
    let may = match file.opener() {
        Some(opener) => Arc::ptr_eq(opener, &cx.cred) || opener.user_ns.grants(&cx.cred, DAC_READ_SEARCH),
        None => cx.cred.has(DAC_READ_SEARCH),
    };
    if may { file.path.clone().ok_or(ENOENT) } else { Err(ENOENT) }
}

/// `linkat(2)` of paths that were copied in; what is wrong with the second shows once the first is found.
pub(super) fn link_at(
    cx: &Ctx<'_>,
    (old_dir, old): (i32, &[u8]),
    (new_dir, new): (i32, Result<&[u8], Errno>),
    flags: u32,
) -> SysResult {
    let place = if old.is_empty() && flags & AT_EMPTY_PATH != 0 {
        match old_dir {
            AT_FDCWD => cx.fs.lock().cwd.clone(),
            _ => linked_file(cx, old_dir)?,
        }
    } else {
        cx.walk_at(old_dir, old)?.resolve(old, flags & AT_SYMLINK_FOLLOW != 0)?
    };
    let new = new?;
    cx.walk_at(new_dir, new)?.link(&place, new)?;
    Ok(0)
}

/// `link(2)`.
pub(super) fn sys_link(cx: &mut Ctx<'_>, old: UserAddr, new: UserAddr) -> SysResult {
    sys_linkat(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `fchmodat(2)`.
pub(super) fn sys_fchmodat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, mode: u32) -> SysResult {
    let path = cx.path(path)?;
    cx.walk_at(dirfd, &path)?.chmod(&path, mode & 0o7777)?;
    Ok(0)
}

/// `fchmodat2(2)`.
pub(super) fn sys_fchmodat2(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    mode: u32,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let walk = cx.walk_from(dirfd, &path, flags)?;
    let place = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        walk.base.clone()
    } else {
        walk.resolve(&path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    if place.inode().metadata()?.mode & 0o170_000 == 0o120_000 {
        return Err(EOPNOTSUPP.into());
    }
    walk.chmod_at(&place, mode & 0o7777)?;
    Ok(0)
}

/// `chmod(2)`.
pub(super) fn sys_chmod(cx: &mut Ctx<'_>, path: UserAddr, mode: u32) -> SysResult {
    sys_fchmodat(cx, AT_FDCWD, path, mode)
}

/// `fchmod(2)`.
pub(super) fn sys_fchmod(cx: &mut Ctx<'_>, fd: i32, mode: u32) -> SysResult {
    let file = cx.open_file(fd)?;
    let walk = cx.walk();
    walk.chmod_at(&walk.place_of(&file), mode & 0o7777)?;
    Ok(0)
}

/// An owner that chown(2) is given; `None` leaves it.
fn owner(cx: &Ctx<'_>, kind: IdKind, id: u32) -> Result<Option<u32>, Errno> {
    if id == u32::MAX { Ok(None) } else { cx.cred.user_ns.outside(kind, id).map(Some).ok_or(EINVAL) }
}

/// `fchownat(2)`.
pub(super) fn sys_fchownat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    uid: u32,
    gid: u32,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let walk = cx.walk_from(dirfd, &path, flags)?;
    let place = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        walk.base.clone()
    } else {
        walk.resolve(&path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    walk.chown_at(&place, owner(cx, IdKind::User, uid)?, owner(cx, IdKind::Group, gid)?)?;
    Ok(0)
}

/// `chown(2)`.
pub(super) fn sys_chown(cx: &mut Ctx<'_>, path: UserAddr, uid: u32, gid: u32) -> SysResult {
    sys_fchownat(cx, AT_FDCWD, path, uid, gid, 0)
}

/// `lchown(2)`.
pub(super) fn sys_lchown(cx: &mut Ctx<'_>, path: UserAddr, uid: u32, gid: u32) -> SysResult {
    sys_fchownat(cx, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

/// `fchown(2)`.
pub(super) fn sys_fchown(cx: &mut Ctx<'_>, fd: i32, uid: u32, gid: u32) -> SysResult {
    let file = cx.open_file(fd)?;
    let walk = cx.walk();
    walk.chown_at(&walk.place_of(&file), owner(cx, IdKind::User, uid)?, owner(cx, IdKind::Group, gid)?)?;
    Ok(0)
}

/// Stamps to set; `None` means the time that it is, for both.
type Stamps = Option<(SetTime, SetTime)>;

fn set_times(cx: &Ctx<'_>, dirfd: i32, path: UserAddr, stamps: Stamps, flags: u32) -> SysResult {
    let now = cx.now();
    let (atime, mtime) = stamps.unwrap_or((SetTime::Now(now), SetTime::Now(now)));
    if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
        // Linux does not even look for the file.
        return Ok(0);
    }
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    if path.is_null() && dirfd != AT_FDCWD {
        if flags != 0 {
            return Err(EINVAL.into());
        }
        let file = cx.open_file(dirfd)?;
        let walk = cx.walk();
        walk.utimes_at(&walk.place_of(&file), atime, mtime)?;
        return Ok(0);
    }
    let path = cx.path(path)?;
    let walk = cx.walk_from(dirfd, &path, flags)?;
    let place = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        walk.base.clone()
    } else {
        walk.resolve(&path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    walk.utimes_at(&place, atime, mtime)?;
    Ok(0)
}

impl Ctx<'_> {
    /// The time of day.
    fn now(&self) -> Time {
        self.task.kernel.time.now(crate::time::Clock::Realtime)
    }
}

/// `utimensat(2)`.
pub(super) fn sys_utimensat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    times: UserAddr,
    flags: u32,
) -> SysResult {
    const UTIME_NOW: i64 = (1 << 30) - 1;
    const UTIME_OMIT: i64 = (1 << 30) - 2;
    if times.is_null() {
        return set_times(cx, dirfd, path, None, flags);
    }
    let raw: [i64; 4] = cx.mm.read_value(times)?;
    let now = cx.now();
    let parse = |sec: i64, nsec: i64| match nsec {
        UTIME_NOW => Ok(SetTime::Now(now)),
        UTIME_OMIT => Ok(SetTime::Omit),
        0..1_000_000_000 => Ok(SetTime::To(Time { sec, nsec: nsec as u32 })),
        _ => Err(EINVAL),
    };
    let stamps = (parse(raw[0], raw[1])?, parse(raw[2], raw[3])?);
    set_times(cx, dirfd, path, Some(stamps), flags)
}

/// `futimesat(2)`.
pub(super) fn sys_futimesat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, times: UserAddr) -> SysResult {
    if times.is_null() {
        return set_times(cx, dirfd, path, None, 0);
    }
    let raw: [i64; 4] = cx.mm.read_value(times)?;
    let parse = |sec: i64, usec: i64| match usec {
        0..1_000_000 => Ok(SetTime::To(Time { sec, nsec: usec as u32 * 1000 })),
        _ => Err(EINVAL),
    };
    let stamps = (parse(raw[0], raw[1])?, parse(raw[2], raw[3])?);
    set_times(cx, dirfd, path, Some(stamps), 0)
}

/// `utimes(2)`.
pub(super) fn sys_utimes(cx: &mut Ctx<'_>, path: UserAddr, times: UserAddr) -> SysResult {
    sys_futimesat(cx, AT_FDCWD, path, times)
}

/// `utime(2)`.
pub(super) fn sys_utime(cx: &mut Ctx<'_>, path: UserAddr, times: UserAddr) -> SysResult {
    if times.is_null() {
        return set_times(cx, AT_FDCWD, path, None, 0);
    }
    let raw: [i64; 2] = cx.mm.read_value(times)?;
    let [atime, mtime] = raw.map(|sec| SetTime::To(Time { sec, nsec: 0 }));
    set_times(cx, AT_FDCWD, path, Some((atime, mtime)), 0)
}

/// `truncate(2)`.
pub(super) fn sys_truncate(cx: &mut Ctx<'_>, path: UserAddr, len: i64) -> SysResult {
    let len = u64::try_from(len).map_err(|_| EINVAL)?;
    let path = cx.path(path)?;
    cx.past_leases(|cx| cx.walk().truncate(&path, len, |meta| cx.check_growth(meta.size, len)))?;
    Ok(0)
}

/// `umask(2)`.
pub(super) fn sys_umask(cx: &mut Ctx<'_>, mask: u32) -> SysResult {
    let mut fs = cx.fs.lock();
    Ok(std::mem::replace(&mut fs.umask, mask & 0o777).into())
}
