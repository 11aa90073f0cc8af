//! Opening files, and making nodes and files without a name.

use std::sync::Arc;

use abi::errno::{E2BIG, EAGAIN, EFAULT, EINVAL, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::file::{FileDescription, oflag};
use fs::tmpfs::seal;
use fs::vfs::{Owner, Rules};

use super::path::{AT_EMPTY_PATH, AT_FDCWD};
use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

/// `O_TMPFILE` without `O_DIRECTORY`.
const TMPFILE_BIT: u32 = 0o20_000_000;

impl Ctx<'_> {
    /// Whom what the task makes belongs to.
    pub fn new_owner(&self) -> Owner {
        Owner { uid: self.cred.fsuid, gid: self.cred.fsgid }
    }

    /// Waits until an open is complete: a FIFO's waits for the other side.
    fn finish_open(&mut self, file: &Arc<FileDescription>) -> Result<(), Stop> {
        file.set_opener(&self.cred);
        match file.ops.finish_open() {
            Err(EAGAIN) => {}
            other => return Ok(other?),
        }
        let Some(queue) = file.ops.wait_queue() else { return Ok(()) };
        let _registration = Registration::new(queue, self.task.parker.clone(), Events::all());
        self.sleep_until(None, Restart::Sys, |_| match file.ops.finish_open() {
            Err(EAGAIN) => Ok(None),
            other => other.map(Some).map_err(Stop::Fail),
        })?;
        Ok(())
    }
}

fn open(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32, mode: u32) -> SysResult {
    let path = cx.path(path)?;
    cx.check_room()?;
    let file = cx.open_at(dirfd, &path, flags, mode)?;
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

impl Ctx<'_> {
    /// `openat(2)` of a path that was copied in.
    pub(super) fn open_at(
        &mut self,
        dirfd: i32,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<Arc<FileDescription>, Stop> {
        // Linux fs/open.c, `force_o_largefile`.
        let flags = flags | oflag::LARGEFILE;
        let mode = if flags & (oflag::CREAT | TMPFILE_BIT) != 0 { mode & 0o7777 } else { 0 };
        let file = self.past_leases(|cx| {
            // An empty path is refused after the flags.
            let walk = cx
                .walk_from(dirfd, path, AT_EMPTY_PATH)
                .map_err(|e| if path.is_empty() { ENOENT } else { e })?;
            walk.open(path, flags, mode)
        })?;
        self.finish_open(&file)?;
        Ok(file)
    }

    /// `openat2(2)` of a path and a `struct open_how` that were copied in.
    pub(super) fn open_how(
        &mut self,
        dirfd: i32,
        path: &[u8],
        how: OpenHow,
    ) -> Result<Arc<FileDescription>, Stop> {
        let makes = how.flags & (oflag::CREAT | TMPFILE_BIT) != 0;
        let file = self.past_leases(|cx| {
            let mut walk = cx.walk_from(dirfd, path, AT_EMPTY_PATH)?;
            if how.rules.intersects(Rules::BENEATH | Rules::IN_ROOT) {
                // The directory is the root even for a path that begins with a slash.
                if dirfd != AT_FDCWD {
                    walk.base = cx.file(dirfd)?.path.clone().ok_or(ENOTDIR)?;
                }
                walk.root = walk.base.clone();
            }
            walk.open_with(path, how.flags, if makes { how.mode } else { 0 }, how.rules)
        })?;
        self.finish_open(&file)?;
        Ok(file)
    }

    /// Copies in and checks a `struct open_how`.
    ///
    /// # Errors
    /// As openat2(2).
    ///
    /// Source: Linux 6.12 fs/open.c, `build_open_flags`.
    pub(super) fn read_open_how(&self, how: UserAddr, size: u64) -> Result<OpenHow, Errno> {
        /// All flags of open(2) that Linux knows (`VALID_OPEN_FLAGS`).
        const VALID: u64 = 0o37_777_703;
        const RESOLVE_CACHED: u64 = 0x20;
        const PATH_WITH: u64 = (oflag::DIRECTORY | oflag::NOFOLLOW | oflag::PATH | oflag::CLOEXEC) as u64;
        if size < 24 {
            return Err(EINVAL);
        }
        if size > 4096 {
            return Err(E2BIG);
        }
        let mut rest = vec![0u8; (size - 24) as usize];
        let [flags, mode, resolve]: [u64; 3] = self.mm.read_value(how)?;
        self.mm.read_exact(how.checked_add(24).ok_or(EFAULT)?, &mut rest)?;
        if rest.iter().any(|&b| b != 0) {
            return Err(E2BIG);
        }
        if flags & !VALID != 0 || resolve & !(u64::from(Rules::all().bits()) | RESOLVE_CACHED) != 0 {
            return Err(EINVAL);
        }
        let rules = Rules::from_bits_truncate(resolve as u32);
        if rules.contains(Rules::BENEATH | Rules::IN_ROOT) {
            return Err(EINVAL);
        }
        let makes = flags & u64::from(oflag::CREAT | TMPFILE_BIT) != 0;
        if (makes && mode & !0o7777 != 0) || (!makes && mode != 0) {
            return Err(EINVAL);
        }
        if flags & u64::from(oflag::PATH) != 0 && flags & !PATH_WITH != 0 {
            return Err(EINVAL);
        }
        if resolve & RESOLVE_CACHED != 0 && (makes || flags & u64::from(oflag::TRUNC) != 0) {
            return Err(EAGAIN);
        }
        Ok(OpenHow { flags: flags as u32, mode: mode as u32, rules })
    }
}

/// A checked `struct open_how`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenHow {
    pub(super) flags: u32,
    pub(super) mode: u32,
    rules: Rules,
}

/// `open(2)`.
pub(super) fn sys_open(cx: &mut Ctx<'_>, path: UserAddr, flags: u32, mode: u32) -> SysResult {
    open(cx, AT_FDCWD, path, flags, mode)
}

/// `openat(2)`.
pub(super) fn sys_openat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32, mode: u32) -> SysResult {
    open(cx, dirfd, path, flags, mode)
}

/// `creat(2)`.
pub(super) fn sys_creat(cx: &mut Ctx<'_>, path: UserAddr, mode: u32) -> SysResult {
    open(cx, AT_FDCWD, path, oflag::CREAT | oflag::WRONLY | oflag::TRUNC, mode)
}

/// `openat2(2)`.
pub(super) fn sys_openat2(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    how: UserAddr,
    size: u64,
) -> SysResult {
    let how = cx.read_open_how(how, size)?;
    let path = cx.path(path)?;
    let file = cx.open_how(dirfd, &path, how)?;
    Ok(cx.install(file, how.flags & oflag::CLOEXEC != 0)? as u64)
}

/// `mknodat(2)`.
pub(super) fn sys_mknodat(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, mode: u32, dev: u32) -> SysResult {
    let path = cx.path(path)?;
    let mode = mode & 0o177_777;
    cx.walk_at(dirfd, &path)?.mknod(&path, mode, dev.into())?;
    Ok(0)
}

/// `mknod(2)`.
pub(super) fn sys_mknod(cx: &mut Ctx<'_>, path: UserAddr, mode: u32, dev: u32) -> SysResult {
    sys_mknodat(cx, AT_FDCWD, path, mode, dev)
}

/// `memfd_create(2)`.
pub(super) fn sys_memfd_create(cx: &mut Ctx<'_>, name: UserAddr, flags: u32) -> SysResult {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const HUGETLB: u32 = 4;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    const HUGE_SIZE: u32 = 0x3f << 26;
    /// `NAME_MAX` without "memfd:".
    const LONGEST: usize = 249;
    let known = CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC | HUGETLB;
    let known = if flags & HUGETLB != 0 { known | HUGE_SIZE } else { known };
    if flags & !known != 0 || flags & EXEC != 0 && flags & NOEXEC_SEAL != 0 {
        return Err(EINVAL.into());
    }
    let name = cx.mm.read_cstr(name, LONGEST + 1).map_err(|e: Errno| match e {
        ENAMETOOLONG => EINVAL,
        e => e,
    })?;
    if flags & HUGETLB != 0 {
        // As a kernel without huge pages.
        return Err(ENOSYS.into());
    }
    let (mode, seals) = match flags & (ALLOW_SEALING | NOEXEC_SEAL) {
        0 => (0o777, seal::SEAL),
        ALLOW_SEALING => (0o777, 0),
        _ => (0o666, seal::EXEC),
    };
    let memory = cx.task.kernel.memory.clone();
    let ops = fs::tmpfs::new_memfd(memory, &name, mode, cx.new_owner(), seals);
    let file = FileDescription::new(ops, None, oflag::RDWR | oflag::LARGEFILE);
    Ok(cx.install(file, flags & CLOEXEC != 0)? as u64)
}
