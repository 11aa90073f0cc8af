//! System V message queues (msgget(2), msgop(2), msgctl(2); Linux ipc/msg.c).

use abi::UserAddr;
use abi::errno::{EAGAIN, EFAULT, EINVAL, ENOMSG, EPERM};
use base::cred::cap;
use base::wait::Events;

use super::shm::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, check_ids, read_perm, write_ds};
use super::{Restart, Stop, SysResult};
use crate::ipc::msg::{Message, MsgQueue, Wanted};
use crate::ipc::{IPC_NOWAIT, Object};
use crate::task::Ctx;
use crate::task::block::Registration;
use crate::time::Clock;

const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;

const MSG_STAT: u32 = 11;
const MSG_INFO: u32 = 12;
const MSG_STAT_ANY: u32 = 13;

fn now(cx: &Ctx<'_>) -> i64 {
    cx.task.kernel.time.now(Clock::Realtime).as_ns().div_euclid(1_000_000_000)
}

/// `msgget(2)`.
///
/// # Errors
/// [`crate::ipc::IpcNamespace::msgget`]'s.
pub(super) fn sys_msgget(cx: &mut Ctx<'_>, key: i32, flags: u32) -> SysResult {
    Ok(cx.task.ipc().msgget(key, flags, &cx.cred, now(cx))? as u64)
}

/// `msgsnd(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`: the type; `EINVAL`: the size, a negative identifier, a type below 1; `EFAULT`; `EINVAL`,
/// `EIDRM`: no such queue; `EACCES`; `EAGAIN`: it is full and `IPC_NOWAIT` is set; `EINTR`.
pub(super) fn sys_msgsnd(cx: &mut Ctx<'_>, id: i32, msg: UserAddr, size: u64, flags: u32) -> SysResult {
    let kind: i64 = cx.mm.read_value(msg)?;
    if size > cx.task.ipc().limits.msgmax.load(std::sync::atomic::Ordering::Relaxed) || id < 0 || kind < 1 {
        return Err(EINVAL.into());
    }
    let ipc = cx.task.ipc();
    // The limit may have been set far above what messages may hold.
    let long = if size > crate::ipc::msg::MSGMAX { Some(ipc.budget.take(size)?) } else { None };
    let mut text = vec![0; size as usize];
    cx.mm.read_exact(msg.checked_add(8).ok_or(EFAULT)?, &mut text)?;
    drop(long);
    let queue = ipc.msg.lock().get(id)?;
    let mut message = Some(Message::new(&ipc.budget, kind, text)?);
    let pid = cx.task.group.pid;
    match queue.send(&cx.cred, pid, now(cx), &mut message) {
        Err(EAGAIN) if flags & IPC_NOWAIT == 0 => {}
        other => return other.map(|()| 0).map_err(Stop::from),
    }
    let _registration = Registration::new(&queue.waiters, cx.task.parker.clone(), Events::OUT);
    cx.sleep_until(None, Restart::NoHand, |cx| match queue.send(&cx.cred, pid, now(cx), &mut message) {
        Err(EAGAIN) => Ok(None),
        other => other.map(Some).map_err(Stop::from),
    })?;
    Ok(0)
}

/// `msgrcv(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative identifier or size, or flags that do not go with `MSG_COPY`; `EINVAL`,
/// `EIDRM`: no such queue; `EACCES`; `E2BIG`: the message is longer, and there is no `MSG_NOERROR`; `ENOMSG`: there is none
/// and `IPC_NOWAIT` is set; `EINTR`; `EFAULT`, when the message is gone.
pub(super) fn sys_msgrcv(
    cx: &mut Ctx<'_>,
    id: i32,
    msg: UserAddr,
    size: u64,
    kind: i64,
    flags: u32,
) -> SysResult {
    if id < 0 || size > i64::MAX as u64 {
        return Err(EINVAL.into());
    }
    let cut = flags & MSG_NOERROR != 0;
    if flags & MSG_COPY != 0 {
        if flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0 {
            return Err(EINVAL.into());
        }
        let queue = cx.task.ipc().msg.lock().get(id)?;
        let (kind, text) = queue.copy(&cx.cred, kind as u64, size, cut)?;
        return deliver(cx, msg, kind, &text);
    }
    let wanted = match kind {
        0 => Wanted::Any,
        i64::MIN..0 => Wanted::LessEqual(kind.checked_neg().unwrap_or(i64::MAX)),
        _ if flags & MSG_EXCEPT != 0 => Wanted::NotEqual(kind),
        _ => Wanted::Equal(kind),
    };
    let queue = cx.task.ipc().msg.lock().get(id)?;
    let pid = cx.task.group.pid;
    let message = match queue.receive(&cx.cred, pid, now(cx), wanted, size, cut) {
        Err(ENOMSG) if flags & IPC_NOWAIT == 0 => {
            let _registration = Registration::new(&queue.waiters, cx.task.parker.clone(), Events::IN);
            let received = cx.sleep_until(None, Restart::NoHand, |cx| {
                match queue.receive(&cx.cred, pid, now(cx), wanted, size, cut) {
                    Err(ENOMSG) => Ok(None),
                    other => other.map(Some).map_err(Stop::from),
                }
            })?;
            received.ok_or(ENOMSG)?
        }
        other => other?,
    };
    let len = message.text.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    deliver(cx, msg, message.kind, &message.text[..len])
}

fn deliver(cx: &Ctx<'_>, msg: UserAddr, kind: i64, text: &[u8]) -> SysResult {
    cx.mm.write_value(msg, &kind)?;
    cx.mm.write_all(msg.checked_add(8).ok_or(EFAULT)?, text)?;
    Ok(text.len() as u64)
}

/// `msgctl(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative identifier, an unknown command, no such queue; `EIDRM`; `EACCES`, `EPERM`;
/// `EFAULT`.
pub(super) fn sys_msgctl(cx: &mut Ctx<'_>, id: i32, command: u32, buf: UserAddr) -> SysResult {
    if id < 0 {
        return Err(EINVAL.into());
    }
    let ipc = cx.task.ipc();
    match command {
        IPC_INFO | MSG_INFO => {
            let (all, highest) = {
                let table = ipc.msg.lock();
                (table.all(), table.highest())
            };
            let limits = &ipc.limits;
            let (most, bytes) = (
                limits.msgmax.load(std::sync::atomic::Ordering::Relaxed),
                limits.msgmnb.load(std::sync::atomic::Ordering::Relaxed),
            );
            let queues = ipc.msg.lock().max() as u64;
            let (mut pool, mut map, mut tql) = ((queues * bytes / 1024) as i32, bytes as i32, bytes as i32);
            let bounds = [most as i32, bytes as i32, queues as i32];
            if command == MSG_INFO {
                let (mut messages, mut bytes) = (0, 0);
                for q in &all {
                    let state = q.state.lock();
                    messages += MsgQueue::len(&state);
                    bytes += state.cbytes;
                }
                (pool, map, tql) = (all.len() as i32, messages as i32, bytes as i32);
            }
            let words = [pool, map, bounds[0], bounds[1], bounds[2], 16, tql, 0xffff];
            cx.mm.write_value(buf, &words)?;
            Ok(highest)
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let table = ipc.msg.lock();
            let q = if command == IPC_STAT { table.get(id)? } else { table.at(id)? };
            drop(table);
            let s = q.state.lock();
            if command != MSG_STAT_ANY {
                s.perm.check(&cx.cred, 0o444)?;
            }
            let shown = |pid| u64::from(cx.task.shown_id(pid).cast_unsigned());
            let pids = shown(s.lspid) | shown(s.lrpid) << 32;
            let words = [
                s.stime as u64,
                s.rtime as u64,
                s.ctime as u64,
                s.cbytes,
                MsgQueue::len(&s),
                s.qbytes,
                pids,
                0,
                0,
            ];
            let perm = s.perm;
            drop(s);
            write_ds(cx, buf, &perm, &words)?;
            Ok(if command == IPC_STAT { 0 } else { q.id() as u64 })
        }
        IPC_SET => {
            let [uid, gid, mode] = read_perm(cx, buf)?;
            let qbytes: u64 = cx.mm.read_value(buf.checked_add(88).ok_or(EFAULT)?)?;
            let q = ipc.msg.lock().get(id)?;
            let time = now(cx);
            let mut state = q.state.lock();
            state.perm.check_owner(&cx.cred)?;
            if qbytes > ipc.limits.msgmnb.load(std::sync::atomic::Ordering::Relaxed)
                && !cx.cred.has(cap::SYS_RESOURCE)
            {
                return Err(EPERM.into());
            }
            check_ids(uid, gid)?;
            state.perm.set(uid, gid, mode);
            state.qbytes = qbytes;
            state.ctime = time;
            drop(state);
            // Who waited may have lost the right to, or found room.
            q.waiters.notify(Events::IN | Events::OUT);
            Ok(0)
        }
        IPC_RMID => {
            ipc.remove_queue(id, &cx.cred)?;
            Ok(0)
        }
        _ => Err(EINVAL.into()),
    }
}
