//! Extended attributes (xattr(7)).

use abi::errno::{E2BIG, EFAULT, EINVAL, ENAMETOOLONG, ERANGE};
use abi::{Errno, UserAddr};
use fs::vfs::{VfsPath, XattrFlags};

use super::SysResult;
use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::task::Ctx;

/// Longest value (`XATTR_SIZE_MAX`), and longest list of names (`XATTR_LIST_MAX`).
const SIZE_MAX: u64 = 65536;
/// Longest name.
const NAME_MAX: usize = 255;
const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const BOTH: u32 = CREATE | REPLACE;

/// Whether a symbolic link at a path's end is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Follow,
    Stay,
}

/// An attribute as a program names it, and what it is to be.
pub(super) struct Setting {
    name: Vec<u8>,
    value: Vec<u8>,
    flags: u32,
}

impl Ctx<'_> {
    /// Copies in what an attribute is to be set to.
    ///
    /// # Errors
    /// `EINVAL`: flags; `ERANGE`: the name's length; `E2BIG`: the value's; `EFAULT`.
    ///
    /// Source: Linux 6.18 fs/xattr.c, `setxattr_copy`.
    pub(super) fn xattr_setting(
        &self,
        name: UserAddr,
        value: UserAddr,
        size: u64,
        flags: u32,
    ) -> Result<Setting, Errno> {
        if flags & !BOTH != 0 {
            return Err(EINVAL);
        }
        let name = self.xattr_name(name)?;
        if size > SIZE_MAX {
            return Err(E2BIG);
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| E2BIG)?];
        self.mm.read_exact(value, &mut bytes)?;
        Ok(Setting { name, value: bytes, flags })
    }

    /// Copies in which attribute is asked for.
    ///
    /// # Errors
    /// `ERANGE`: the name's length; `EFAULT`.
    pub(super) fn xattr_question(&self, name: UserAddr) -> Result<Setting, Errno> {
        Ok(Setting { name: self.xattr_name(name)?, value: Vec::new(), flags: 0 })
    }

    /// Sets an attribute.
    pub(super) fn set_xattr(&self, place: &VfsPath, setting: &Setting) -> SysResult {
        let flags = match setting.flags {
            0 => XattrFlags::Any,
            REPLACE => XattrFlags::Replace,
            _ => XattrFlags::Create,
        };
        if setting.flags == BOTH {
            // They contradict each other: with one of two errors.
            self.walk().xattr(place, &setting.name)?;
        }
        self.walk().set_xattr(place, &setting.name, &setting.value, flags)?;
        Ok(0)
    }

    /// Stores an attribute's value in a guest's buffer; returns its length.
    pub(super) fn answer_xattr(
        &self,
        place: &VfsPath,
        question: &Setting,
        value: UserAddr,
        size: u64,
    ) -> SysResult {
        let found = self.walk().xattr(place, &question.name)?;
        self.answer(&found, value, size)
    }

    fn xattr_name(&self, name: UserAddr) -> Result<Vec<u8>, Errno> {
        match self.mm.read_cstr(name, NAME_MAX + 1) {
            Ok(name) if name.is_empty() => Err(ERANGE),
            Err(ENAMETOOLONG) => Err(ERANGE),
            other => other,
        }
    }

    fn xattr_place(&self, path: UserAddr, last: Last) -> Result<VfsPath, Errno> {
        let path = self.path(path)?;
        self.walk().resolve(&path, last == Last::Follow)
    }

    /// The place of an open file; one without a path has no attributes, and a descriptor like it none to set.
    fn xattr_file(&self, fd: i32) -> Result<VfsPath, Errno> {
        let file = self.open_file(fd)?;
        Ok(self.walk().place_of(&file))
    }

    /// What the calls with a directory descriptor mean.
    ///
    /// Source: Linux 6.18 fs/xattr.c, `path_setxattrat`.
    fn xattr_at(&self, dirfd: i32, path: UserAddr, flags: u32) -> Result<VfsPath, Errno> {
        let may_be_empty = flags & AT_EMPTY_PATH != 0;
        let is_file =
            may_be_empty && dirfd != AT_FDCWD && (path.is_null() || self.mm.read_value::<u8>(path)? == 0);
        if is_file {
            return self.xattr_file(dirfd);
        }
        self.place_at(dirfd, path, flags & AT_SYMLINK_NOFOLLOW == 0, may_be_empty)
    }

    /// Stores `bytes` in a guest's buffer of `size` bytes; returns their length, which is all for a size of 0.
    fn answer(&self, bytes: &[u8], at: UserAddr, size: u64) -> SysResult {
        let len = bytes.len() as u64;
        if size == 0 {
            return Ok(len);
        }
        if len > size {
            return Err(ERANGE.into());
        }
        self.mm.write_all(at, bytes)?;
        Ok(len)
    }
}

fn set(
    cx: &Ctx<'_>,
    place: impl FnOnce() -> Result<VfsPath, Errno>,
    name: UserAddr,
    value: UserAddr,
    size: u64,
    raw_flags: u32,
) -> SysResult {
    // Linux 6.18 fs/xattr.c: the arguments first, then the file.
    let setting = cx.xattr_setting(name, value, size, raw_flags)?;
    cx.set_xattr(&place()?, &setting)
}

fn get(
    cx: &Ctx<'_>,
    place: impl FnOnce() -> Result<VfsPath, Errno>,
    name: UserAddr,
    value: UserAddr,
    size: u64,
) -> SysResult {
    let question = cx.xattr_question(name)?;
    cx.answer_xattr(&place()?, &question, value, size)
}

fn list(cx: &Ctx<'_>, place: &VfsPath, buf: UserAddr, size: u64) -> SysResult {
    let names = cx.walk().list_xattrs(place)?;
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend_from_slice(&name);
        bytes.push(0);
    }
    if bytes.len() as u64 > SIZE_MAX {
        return Err(E2BIG.into());
    }
    cx.answer(&bytes, buf, size)
}

fn remove(cx: &Ctx<'_>, place: impl FnOnce() -> Result<VfsPath, Errno>, name: UserAddr) -> SysResult {
    let name = cx.xattr_name(name)?;
    cx.walk().remove_xattr(&place()?, &name)?;
    Ok(0)
}

/// `setxattr(2)`.
pub(super) fn sys_setxattr(
    cx: &mut Ctx<'_>,
    path: UserAddr,
    name: UserAddr,
    value: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    set(cx, || cx.xattr_place(path, Last::Follow), name, value, size, flags)
}

/// `lsetxattr(2)`.
pub(super) fn sys_lsetxattr(
    cx: &mut Ctx<'_>,
    path: UserAddr,
    name: UserAddr,
    value: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    set(cx, || cx.xattr_place(path, Last::Stay), name, value, size, flags)
}

/// `fsetxattr(2)`.
pub(super) fn sys_fsetxattr(
    cx: &mut Ctx<'_>,
    fd: i32,
    name: UserAddr,
    value: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    set(cx, || cx.xattr_file(fd), name, value, size, flags)
}

/// `getxattr(2)`.
pub(super) fn sys_getxattr(
    cx: &mut Ctx<'_>,
    path: UserAddr,
    name: UserAddr,
    value: UserAddr,
    size: u64,
) -> SysResult {
    get(cx, || cx.xattr_place(path, Last::Follow), name, value, size)
}

/// `lgetxattr(2)`.
pub(super) fn sys_lgetxattr(
    cx: &mut Ctx<'_>,
    path: UserAddr,
    name: UserAddr,
    value: UserAddr,
    size: u64,
) -> SysResult {
    get(cx, || cx.xattr_place(path, Last::Stay), name, value, size)
}

/// `fgetxattr(2)`.
pub(super) fn sys_fgetxattr(
    cx: &mut Ctx<'_>,
    fd: i32,
    name: UserAddr,
    value: UserAddr,
    size: u64,
) -> SysResult {
    get(cx, || cx.xattr_file(fd), name, value, size)
}

/// `listxattr(2)`.
pub(super) fn sys_listxattr(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr, size: u64) -> SysResult {
    list(cx, &cx.xattr_place(path, Last::Follow)?, buf, size)
}

/// `llistxattr(2)`.
pub(super) fn sys_llistxattr(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr, size: u64) -> SysResult {
    list(cx, &cx.xattr_place(path, Last::Stay)?, buf, size)
}

/// `flistxattr(2)`.
pub(super) fn sys_flistxattr(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, size: u64) -> SysResult {
    list(cx, &cx.xattr_file(fd)?, buf, size)
}

/// `removexattr(2)`.
pub(super) fn sys_removexattr(cx: &mut Ctx<'_>, path: UserAddr, name: UserAddr) -> SysResult {
    remove(cx, || cx.xattr_place(path, Last::Follow), name)
}

/// `lremovexattr(2)`.
pub(super) fn sys_lremovexattr(cx: &mut Ctx<'_>, path: UserAddr, name: UserAddr) -> SysResult {
    remove(cx, || cx.xattr_place(path, Last::Stay), name)
}

/// `fremovexattr(2)`.
pub(super) fn sys_fremovexattr(cx: &mut Ctx<'_>, fd: i32, name: UserAddr) -> SysResult {
    remove(cx, || cx.xattr_file(fd), name)
}

fn check_at(flags: u32) -> Result<(), Errno> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 { Err(EINVAL) } else { Ok(()) }
}

/// `struct xattr_args`: where the value is, its size, flags.
fn xattr_args(cx: &Ctx<'_>, args: UserAddr, size: u64) -> Result<(UserAddr, u64, u32), Errno> {
    const SIZE: u64 = 16;
    if size < SIZE {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let [value, rest]: [u64; 2] = cx.mm.read_value(args)?;
    let mut more = vec![0u8; (size - SIZE) as usize];
    cx.mm.read_exact(args.checked_add(SIZE).ok_or(EFAULT)?, &mut more)?;
    if more.iter().any(|&b| b != 0) {
        return Err(E2BIG);
    }
    Ok((UserAddr(value), rest & 0xffff_ffff, (rest >> 32) as u32))
}

/// `setxattrat(2)`.
pub(super) fn sys_setxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
    args: UserAddr,
    size: u64,
) -> SysResult {
    let (value, len, set_flags) = xattr_args(cx, args, size)?;
    check_at(flags)?;
    set(cx, || cx.xattr_at(dirfd, path, flags), name, value, len, set_flags)
}

/// `getxattrat(2)`.
pub(super) fn sys_getxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
    args: UserAddr,
    size: u64,
) -> SysResult {
    let (value, len, none) = xattr_args(cx, args, size)?;
    if none != 0 {
        return Err(EINVAL.into());
    }
    check_at(flags)?;
    get(cx, || cx.xattr_at(dirfd, path, flags), name, value, len)
}

/// `listxattrat(2)`.
pub(super) fn sys_listxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    buf: UserAddr,
    size: u64,
) -> SysResult {
    check_at(flags)?;
    list(cx, &cx.xattr_at(dirfd, path, flags)?, buf, size)
}

/// `removexattrat(2)`.
pub(super) fn sys_removexattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
) -> SysResult {
    check_at(flags)?;
    remove(cx, || cx.xattr_at(dirfd, path, flags), name)
}
