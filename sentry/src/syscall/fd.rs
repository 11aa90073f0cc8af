//! Descriptors and pipes.

use std::sync::Arc;

use abi::errno::{EBADF, EINVAL, EMFILE, EPERM};
use abi::{Errno, UserAddr};
use base::userns::IdKind;
use fs::anon::pipe::{CAPACITY_MAX, PipeEnd};
use fs::file::{FileDescription, oflag};

use super::{SysResult, watch};
use crate::signal::async_io::{self, Owner};
use crate::task::Ctx;

impl Ctx<'_> {
    /// `RLIMIT_NOFILE`.
    pub(super) fn fd_limit(&self) -> u64 {
        self.task.group.rlimits.lock()[7].0
    }

    /// The file behind `fd`, unless it is a mere place (`O_PATH`).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn open_file(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        self.file(fd).and_then(|f| if f.flags() & oflag::PATH == 0 { Ok(f) } else { Err(EBADF) })
    }

    /// Whether there is a descriptor left: Linux asks before it opens or makes anything.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        if self.files.is_full(self.fd_limit()) { Err(EMFILE) } else { Ok(()) }
    }

    /// Puts `file` at the lowest free descriptor.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn install(&self, file: Arc<FileDescription>, cloexec: bool) -> Result<i32, Errno> {
        self.files.install(file, cloexec, 0, self.fd_limit())
    }
}

/// `close(2)`.
pub(super) fn sys_close(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    let closed = cx.files.remove(fd)?;
    cx.files.finish_close(closed);
    Ok(0)
}

/// `close_range(2)`.
pub(super) fn sys_close_range(cx: &mut Ctx<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        cx.files = cx.files.duplicate()?;
        let old = std::mem::replace(&mut cx.task.state.lock().files, cx.files.clone());
        drop(old);
    }
    cx.files.close_range(first as usize, last as usize, flags & CLOEXEC != 0);
    Ok(0)
}

/// `dup(2)`.
pub(super) fn sys_dup(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    let file = cx.file(fd)?;
    Ok(cx.install(file, false)? as u64)
}

fn replace(cx: &mut Ctx<'_>, old: i32, new: i32, cloexec: bool) -> SysResult {
    let file = cx.file(old)?;
    if let Some(closed) = cx.files.replace(new, file, cloexec, cx.fd_limit())? {
        cx.files.finish_close(closed);
    }
    Ok(new as u64)
}

/// `dup2(2)`.
pub(super) fn sys_dup2(cx: &mut Ctx<'_>, old: i32, new: i32) -> SysResult {
    if old == new {
        cx.file(old)?;
        return Ok(new as u64);
    }
    replace(cx, old, new, false)
}

/// `dup3(2)`.
pub(super) fn sys_dup3(cx: &mut Ctx<'_>, old: i32, new: i32, flags: u32) -> SysResult {
    if flags & !oflag::CLOEXEC != 0 || old == new {
        return Err(EINVAL.into());
    }
    replace(cx, old, new, flags & oflag::CLOEXEC != 0)
}

/// `fcntl(2)`.
pub(super) fn sys_fcntl(cx: &mut Ctx<'_>, fd: i32, command: u32, arg: u64) -> SysResult {
    const F_DUPFD: u32 = 0;
    const F_GETFD: u32 = 1;
    const F_SETFD: u32 = 2;
    const F_GETFL: u32 = 3;
    const F_SETFL: u32 = 4;
    const F_SETOWN: u32 = 8;
    const F_GETOWN: u32 = 9;
    const F_SETSIG: u32 = 10;
    const F_GETSIG: u32 = 11;
    const F_SETOWN_EX: u32 = 15;
    const F_GETOWN_EX: u32 = 16;
    const F_GETOWNER_UIDS: u32 = 17;
    const F_SETLEASE: u32 = 1024;
    const F_GETLEASE: u32 = 1025;
    const F_NOTIFY: u32 = 1026;
    const F_GET_RW_HINT: u32 = 1035;
    const F_SET_RW_HINT: u32 = 1036;
    const F_DUPFD_CLOEXEC: u32 = 1030;
    const F_DUPFD_QUERY: u32 = 1027;
    const F_CREATED_QUERY: u32 = 1028;
    const F_SETPIPE_SZ: u32 = 1031;
    const F_GETPIPE_SZ: u32 = 1032;
    const F_ADD_SEALS: u32 = 1033;
    const F_GET_SEALS: u32 = 1034;
    let entry = cx.files.entry(fd)?;
    match command {
        F_CREATED_QUERY => Ok(entry.file.is_created().into()),
        F_DUPFD_QUERY => Ok(Arc::ptr_eq(&entry.file, &cx.file(arg as i32)?).into()),
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let limit = cx.fd_limit();
            if arg >= limit {
                return Err(EINVAL.into());
            }
            let min = usize::try_from(arg).map_err(|_| EINVAL)?;
            Ok(cx.files.install(entry.file, command == F_DUPFD_CLOEXEC, min, limit)? as u64)
        }
        F_GETFD => Ok(entry.cloexec.into()),
        F_SETFD => {
            cx.files.set_cloexec(fd, arg & 1 != 0)?;
            Ok(0)
        }
        F_GETFL => Ok(entry.file.flags().into()),
        F_SETFL => {
            if entry.file.flags() & oflag::PATH != 0 {
                return Err(EBADF.into());
            }
            let flags = arg as u32;
            // To a pipe it means packets.
            let takes_direct = entry.file.ops.can_be_direct() || pipe_end(&entry.file).is_ok();
            if flags & oflag::DIRECT != 0 && !takes_direct {
                return Err(EINVAL.into());
            }
            entry.file.set_flags(flags);
            async_io::set_async(&cx.task.kernel, &entry.file, fd, flags);
            Ok(0)
        }
        // All that works on more than the descriptor refuses `O_PATH`.
        _ if entry.file.flags() & oflag::PATH != 0 => Err(EBADF.into()),
        F_GETPIPE_SZ => Ok(pipe_end(&entry.file)?.capacity() as u64),
        F_SETPIPE_SZ => {
            let end = pipe_end(&entry.file)?;
            let size = pipe_size(arg as u32)?;
            let most = CAPACITY_MAX.load(std::sync::atomic::Ordering::Relaxed);
            if size > most && size > end.capacity() && !cx.cred.has(base::cred::cap::SYS_RESOURCE) {
                return Err(EPERM.into());
            }
            Ok(end.set_capacity(size)? as u64)
        }
        F_ADD_SEALS => {
            if !entry.file.is_writable() {
                return Err(EPERM.into());
            }
            entry.file.ops.add_seals(arg as u32)?;
            Ok(0)
        }
        F_GET_SEALS => Ok(entry.file.ops.seals()?.into()),
        F_SETOWN => {
            set_owner(cx, &entry.file, arg as i32)?;
            Ok(0)
        }
        F_GETOWN => Ok(i64::from(owner(cx, &entry.file)).cast_unsigned()),
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = cx.mm.read_value(UserAddr(arg))?;
            let id = cx.task.id_of(id);
            Owner::of(&cx.task.kernel, &entry.file).set(&cx.task.kernel, kind, id, &cx.cred)?;
            Ok(0)
        }
        F_GETOWN_EX => {
            let (kind, id) = Owner::existing(&entry.file).map_or((async_io::OWNER_TID, 0), |o| o.get());
            cx.mm.write_value(UserAddr(arg), &[kind, cx.task.shown_id(id)])?;
            Ok(0)
        }
        F_GETOWNER_UIDS => {
            let uids = Owner::existing(&entry.file).map_or([0, 0], |o| o.uids());
            let uids = uids.map(|uid| cx.cred.user_ns.shown(IdKind::User, uid));
            cx.mm.write_value(UserAddr(arg), &uids)?;
            Ok(0)
        }
        F_SETSIG if arg > 64 => Err(EINVAL.into()),
        F_SETSIG => {
            Owner::of(&cx.task.kernel, &entry.file).set_signal(arg as i32);
            Ok(0)
        }
        F_GETSIG => Ok(Owner::existing(&entry.file).map_or(0, |o| o.signal()) as u64),
        F_SETLEASE => watch::set_lease(cx, &entry.file, fd, arg),
        F_GETLEASE => watch::lease(&entry.file),
        F_NOTIFY => watch::notify(cx, &entry.file, fd, arg),
        F_GET_RW_HINT => watch::write_hint(cx, &entry.file, arg),
        F_SET_RW_HINT => watch::set_write_hint(cx, &entry.file, arg),
        _ if super::lock::is_command(command) => super::lock::record_lock(cx, fd, command, arg),
        _ => Err(EINVAL.into()),
    }
}

/// `F_SETOWN`, `FIOSETOWN`: a process, or a process group as a negative number.
///
/// # Errors
/// `EINVAL`: no group has that number; `ESRCH`.
///
/// Source: Linux 6.12 fs/fcntl.c, `f_setown`.
pub(super) fn set_owner(cx: &Ctx<'_>, file: &FileDescription, who: i32) -> Result<(), Errno> {
    let (kind, id) = match who {
        i32::MIN => return Err(EINVAL),
        _ if who < 0 => (async_io::OWNER_PGRP, cx.task.id_of(-who)),
        _ => (async_io::OWNER_PID, cx.task.id_of(who)),
    };
    Owner::of(&cx.task.kernel, file).set(&cx.task.kernel, kind, id, &cx.cred)
}

/// `F_GETOWN`, `FIOGETOWN`.
pub(super) fn owner(cx: &Ctx<'_>, file: &FileDescription) -> i32 {
    match Owner::existing(file).map(|o| o.get()) {
        Some((async_io::OWNER_PGRP, id)) => -cx.task.shown_id(id),
        Some((_, id)) => cx.task.shown_id(id),
        None => 0,
    }
}

fn pipe_end(file: &FileDescription) -> Result<&PipeEnd, Errno> {
    file.ops.as_any().downcast_ref().ok_or(EBADF)
}

/// Linux 6.12 fs/pipe.c, `round_pipe_size`; more than a guest can be given memory for is refused.
fn pipe_size(size: u32) -> Result<usize, Errno> {
    const LARGEST: u32 = 1 << 26;
    match size {
        0..=4096 => Ok(4096),
        4097..=LARGEST => Ok(size.next_power_of_two() as usize),
        _ => Err(EINVAL),
    }
}

/// `pipe2(2)`.
pub(super) fn sys_pipe2(cx: &mut Ctx<'_>, fds: UserAddr, flags: u32) -> SysResult {
    if flags & !(oflag::CLOEXEC | oflag::NONBLOCK | oflag::DIRECT) != 0 {
        return Err(EINVAL.into());
    }
    let (read, write) = fs::anon::pipe::new(flags & (oflag::NONBLOCK | oflag::DIRECT), cx.new_owner());
    let cloexec = flags & oflag::CLOEXEC != 0;
    let r = cx.install(read, cloexec)?;
    let w = match cx.install(write, cloexec) {
        Ok(w) => w,
        Err(e) => {
            drop(cx.files.remove(r));
            return Err(e.into());
        }
    };
    if let Err(e) = cx.mm.write_value(fds, &[r, w]) {
        drop(cx.files.remove(r));
        drop(cx.files.remove(w));
        return Err(e.into());
    }
    Ok(0)
}

/// `pipe(2)`.
pub(super) fn sys_pipe(cx: &mut Ctx<'_>, fds: UserAddr) -> SysResult {
    sys_pipe2(cx, fds, 0)
}
