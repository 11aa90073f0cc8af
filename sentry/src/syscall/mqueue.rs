//! POSIX message queues (mq_overview(7); Linux ipc/mqueue.c).

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EINVAL, EMSGSIZE, ENOENT, ENOTSOCK, ETIMEDOUT};
use abi::signal::SigInfo;
use abi::{Errno, UserAddr};
use base::time::Time;
use base::wait::Events;
use fs::file::{FileDescription, oflag};
use net::netlink::NetlinkSocket;

use super::{Restart, Stop, SysResult};
use crate::ipc::mqueue::{COOKIE_LEN, MQ_PRIO_MAX, Mqueue, Notice, Open, Tell, open_file, queue_of};
use crate::task::Ctx;
use crate::task::block::Registration;
use crate::time::Clock;

const RLIMIT_MSGQUEUE: usize = 12;

/// `mq_open(2)`.
///
/// # Errors
/// `EFAULT`; [`crate::ipc::mqueue::Queues::open`]'s; `EMFILE`.
pub(super) fn sys_mq_open(
    cx: &mut Ctx<'_>,
    name: UserAddr,
    flags: u32,
    mode: u32,
    attr: UserAddr,
) -> SysResult {
    let attr = if attr.is_null() {
        None
    } else {
        let words: [i64; 8] = cx.mm.read_value(attr)?;
        Some((words[1], words[2]))
    };
    let name = cx.path(name)?;
    if name.is_empty() {
        return Err(ENOENT.into());
    }
    let umask = cx.fs.lock().umask;
    let limit = cx.task.group.rlimits.lock()[RLIMIT_MSGQUEUE].0;
    let now = Time::from_ns(cx.task.kernel.time.now(Clock::Realtime).as_ns());
    let ipc = cx.task.ipc();
    let open = Open { name: &name, flags, mode: mode & !umask, attr, cred: &cx.cred, limit, now };
    let queue = ipc.mq.lock().open(&open, &ipc.budget, &ipc.limits)?;
    Ok(cx.install(open_file(queue, flags, &cx.task.group), true)? as u64)
}

/// `mq_unlink(2)`.
///
/// # Errors
/// `EFAULT`; [`crate::ipc::mqueue::Queues::unlink`]'s.
pub(super) fn sys_mq_unlink(cx: &mut Ctx<'_>, name: UserAddr) -> SysResult {
    let name = cx.path(name)?;
    let gone = cx.task.ipc().mq.lock().unlink(&name, &cx.cred)?;
    drop(gone);
    Ok(0)
}

fn queue_at(cx: &Ctx<'_>, fd: i32) -> Result<(Arc<FileDescription>, Arc<Mqueue>), Errno> {
    let file = cx.file(fd)?;
    let queue = queue_of(&file).ok_or(EBADF)?.clone();
    Ok((file, queue))
}

/// The end of a wait in monotonic ns, from an absolute time of the real-time clock.
fn deadline(cx: &Ctx<'_>, timeout: UserAddr) -> Result<Option<u64>, Errno> {
    let Some(ns) = super::time::timeout(cx, timeout)? else { return Ok(None) };
    let real = u64::try_from(cx.task.kernel.time.now(Clock::Realtime).as_ns()).unwrap_or(0);
    Ok(Some(cx.monotonic_ns().saturating_add(ns.saturating_sub(real))))
}

/// `mq_timedsend(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`, `EINVAL`: the timeout; `EINVAL`: the priority; `EBADF`; `EMSGSIZE`; `EFAULT`; `EAGAIN`;
/// `ETIMEDOUT`; `ENOMEM`.
pub(super) fn sys_mq_timedsend(
    cx: &mut Ctx<'_>,
    fd: i32,
    msg: UserAddr,
    len: u64,
    priority: u32,
    timeout: UserAddr,
) -> SysResult {
    let deadline = deadline(cx, timeout)?;
    if priority >= MQ_PRIO_MAX {
        return Err(EINVAL.into());
    }
    let (file, queue) = queue_at(cx, fd)?;
    if !file.is_writable() {
        return Err(EBADF.into());
    }
    if len > queue.max_size.cast_unsigned() {
        return Err(EMSGSIZE.into());
    }
    let mut text = vec![0; len as usize];
    cx.mm.read_exact(msg, &mut text)?;
    let told = match queue.send(priority, &text) {
        Err(EAGAIN) if !file.is_nonblocking() => {
            let _registration = Registration::new(queue.waiters(), cx.task.parker.clone(), Events::OUT);
            let sent = cx.sleep_until(deadline, Restart::Sys, |_| match queue.send(priority, &text) {
                Err(EAGAIN) => Ok(None),
                other => other.map(Some).map_err(Stop::from),
            })?;
            sent.ok_or(ETIMEDOUT)?
        }
        other => other?,
    };
    if let Some(Notice { pid: told, tell: Tell::Signal { signo, value } }) = told
        && signo != 0
    {
        const SI_MESGQ: i32 = -3;
        let (pid, uid) = (cx.task.group.pid, cx.cred.uid);
        let mut info = SigInfo::queue(signo.cast_unsigned(), SI_MESGQ, pid, uid, value);
        // The process may have ended.
        if let Some(target) = cx.task.kernel.process_thread(told) {
            cx.task.translate_info(&target, &mut info, false);
            let _ = cx.task.kernel.signal_process(told, signo, info);
        }
    }
    Ok(0)
}

/// `mq_timedreceive(2)`: returns the length of the message.
///
/// # Errors
/// In the order checked: `EFAULT`, `EINVAL`: the timeout; `EBADF`; `EMSGSIZE`; `EAGAIN`; `ETIMEDOUT`; `EFAULT`, when the
/// message is gone.
pub(super) fn sys_mq_timedreceive(
    cx: &mut Ctx<'_>,
    fd: i32,
    msg: UserAddr,
    len: u64,
    priority: UserAddr,
    timeout: UserAddr,
) -> SysResult {
    let deadline = deadline(cx, timeout)?;
    let (file, queue) = queue_at(cx, fd)?;
    if !file.is_readable() {
        return Err(EBADF.into());
    }
    if len < queue.max_size.cast_unsigned() {
        return Err(EMSGSIZE.into());
    }
    let (level, text) = match queue.receive() {
        Err(EAGAIN) if !file.is_nonblocking() => {
            let _registration = Registration::new(queue.waiters(), cx.task.parker.clone(), Events::IN);
            queue.wait_for_message(true);
            let got = cx.sleep_until(deadline, Restart::Sys, |_| match queue.receive() {
                Err(EAGAIN) => Ok(None),
                other => other.map(Some).map_err(Stop::from),
            });
            queue.wait_for_message(false);
            got?.ok_or(ETIMEDOUT)?
        }
        other => other?,
    };
    if !priority.is_null() {
        cx.mm.write_value(priority, &level)?;
    }
    cx.mm.write_all(msg, &text)?;
    Ok(text.len() as u64)
}

/// `mq_notify(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`; `EINVAL`: an unknown kind or signal; `EBADF`; `EBUSY`.
pub(super) fn sys_mq_notify(cx: &mut Ctx<'_>, fd: i32, event: UserAddr) -> SysResult {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    let pid = cx.task.group.pid;
    let notice = if event.is_null() {
        None
    } else {
        // sigev_value, sigev_signo, sigev_notify.
        let [value, rest]: [u64; 2] = cx.mm.read_value(event)?;
        let (signo, how) = ((rest as u32).cast_signed(), ((rest >> 32) as u32).cast_signed());
        match how {
            SIGEV_SIGNAL if (0..=64).contains(&signo) => {
                Some(Notice { pid, tell: Tell::Signal { signo, value } })
            }
            SIGEV_NONE => Some(Notice { pid, tell: Tell::Nothing }),
            SIGEV_THREAD => Some(Notice { pid, tell: netlink_of(cx, signo, value)? }),
            _ => return Err(EINVAL.into()),
        }
    };
    let (_, queue) = queue_at(cx, fd)?;
    queue.notify(pid, notice)?;
    Ok(0)
}

/// The socket and the cookie of `SIGEV_THREAD` (Linux 6.12 ipc/mqueue.c, `do_mq_notify`; net/netlink/af_netlink.c,
/// `netlink_getsockbyfd`).
fn netlink_of(cx: &Ctx<'_>, fd: i32, cookie: u64) -> Result<Tell, Errno> {
    let cookie: [u8; COOKIE_LEN] = cx.mm.read_value(UserAddr(cookie))?;
    let file = cx.file(fd)?;
    let socket = super::sockmsg::as_socket(&file).ok_or(ENOTSOCK)?;
    if !socket.as_any().is::<NetlinkSocket>() {
        return Err(EINVAL);
    }
    Ok(Tell::Thread { socket, cookie })
}

/// `mq_getsetattr(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`; `EINVAL`: a flag other than `O_NONBLOCK`; `EBADF`.
pub(super) fn sys_mq_getsetattr(cx: &mut Ctx<'_>, fd: i32, new: UserAddr, old: UserAddr) -> SysResult {
    let nonblock = i64::from(oflag::NONBLOCK);
    let wanted: Option<[i64; 8]> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    if wanted.is_some_and(|w| w[0] & !nonblock != 0) {
        return Err(EINVAL.into());
    }
    let (file, queue) = queue_at(cx, fd)?;
    let flags = file.flags();
    let shown = [i64::from(flags) & nonblock, queue.max_messages, queue.max_size, queue.len(), 0, 0, 0, 0];
    if let Some(w) = wanted {
        file.set_flags(flags & !oflag::NONBLOCK | (w[0] & nonblock) as u32);
    }
    if !old.is_null() {
        cx.mm.write_value(old, &shown)?;
    }
    Ok(0)
}
