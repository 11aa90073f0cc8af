//! System V semaphores (semget(2), semop(2), semctl(2); Linux ipc/sem.c).

use abi::errno::{E2BIG, EAGAIN, EINTR, EINVAL, ERANGE};
use abi::{Errno, UserAddr};

use super::shm::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, check_ids, read_perm, write_ds};
use super::{Restart, Stop, SysResult};
use crate::ipc::Object;
use crate::ipc::sem::{Begun, Call, Operation, SEM_UNDO, SEMVMX};
use crate::task::Ctx;

const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_STAT: u32 = 18;
const SEM_INFO: u32 = 19;
const SEM_STAT_ANY: u32 = 20;

/// `semget(2)`.
///
/// # Errors
/// [`crate::ipc::IpcNamespace::semget`]'s.
pub(super) fn sys_semget(cx: &mut Ctx<'_>, key: i32, count: i32, flags: u32) -> SysResult {
    Ok(cx.task.ipc().semget(key, count, flags, &cx.cred, &cx.task.kernel.time)? as u64)
}

/// `semop(2)`.
///
/// # Errors
/// As `semtimedop`.
pub(super) fn sys_semop(cx: &mut Ctx<'_>, id: i32, operations: UserAddr, count: u32) -> SysResult {
    sys_semtimedop(cx, id, operations, count, UserAddr(0))
}

/// `semtimedop(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`: the timeout; `E2BIG`: too many operations; `EINVAL`: none, or a negative identifier;
/// `EFAULT`; `EINVAL`: a bad timeout; `EINVAL`, `EIDRM`: no such set; `EFBIG`, `EACCES`, `ERANGE`; `EAGAIN`: it would
/// wait and must not, or the time ran out; `EINTR`: a signal, whatever `SA_RESTART` says.
pub(super) fn sys_semtimedop(
    cx: &mut Ctx<'_>,
    id: i32,
    operations: UserAddr,
    count: u32,
    timeout: UserAddr,
) -> SysResult {
    let raw: Option<[i64; 2]> = if timeout.is_null() { None } else { Some(cx.mm.read_value(timeout)?) };
    if u64::from(count) > cx.task.ipc().limits.semopm.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(E2BIG.into());
    }
    if count < 1 || id < 0 {
        return Err(EINVAL.into());
    }
    // The limit may have been set far above what is sound to keep; two lists are made of them.
    let _many = if u64::from(count) > crate::ipc::sem::SEMOPM {
        Some(cx.task.ipc().budget.take(u64::from(count) * 12)?)
    } else {
        None
    };
    let raws: Vec<[u16; 3]> = cx.mm.read_array(operations, count as usize)?;
    let deadline = match raw {
        None => None,
        Some([sec, nsec]) if sec >= 0 && (0..1_000_000_000).contains(&nsec) => {
            let ns = (sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64);
            Some(cx.monotonic_ns().saturating_add(ns))
        }
        Some(_) => return Err(EINVAL.into()),
    };
    let operations: Vec<Operation> =
        raws.iter().map(|&[num, op, flags]| Operation { num, op: op.cast_signed(), flags }).collect();
    let set = cx.task.ipc().sem.lock().get(id)?;
    let undo = operations.iter().any(|o| o.flags & SEM_UNDO != 0).then(|| cx.task.undo_list().join(&set));
    let call = Call { operations, pid: cx.task.group.pid, undo };
    let waiter = match set.begin(call, &cx.cred, &cx.task.parker)? {
        Begun::Done => return Ok(0),
        Begun::Waits(waiter) => waiter,
    };
    let slept = cx.sleep_until(deadline, Restart::Sys, |_| match waiter.result() {
        None => Ok(None),
        Some(result) => result.map(Some).map_err(Stop::from),
    });
    let given_up = match slept {
        Ok(Some(())) => return Ok(0),
        Err(Stop::Fail(e)) => return Err(e.into()),
        Ok(None) => EAGAIN,
        Err(_) => EINTR,
    };
    if set.cancel(&waiter) {
        return Err(given_up.into());
    }
    waiter.result().unwrap_or(Err(given_up)).map(|()| 0).map_err(Stop::from)
}

/// `semctl(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative identifier, an unknown command, no such set; `EIDRM`; `ERANGE`: a value;
/// `EACCES`, `EPERM`; `EINVAL`: no such semaphore; `EFAULT`.
pub(super) fn sys_semctl(cx: &mut Ctx<'_>, id: i32, num: i32, command: u32, arg: u64) -> SysResult {
    if id < 0 {
        return Err(EINVAL.into());
    }
    let ipc = cx.task.ipc();
    let buf = UserAddr(arg);
    match command {
        IPC_INFO | SEM_INFO => {
            let table = ipc.sem.lock();
            let (all, highest) = (table.all(), table.highest());
            drop(table);
            // semusz and semaem: what Linux says, or what is in use.
            let (sets, used) = if command == SEM_INFO {
                let used: usize = all.iter().map(|s| s.state.lock().semaphores.len()).sum();
                (all.len() as i32, used as i32)
            } else {
                (20, SEMVMX)
            };
            let limits = &ipc.limits;
            let load = |value: &std::sync::atomic::AtomicU64| {
                value.load(std::sync::atomic::Ordering::Relaxed) as i32
            };
            let (opm, msl, mns) = (load(&limits.semopm), load(&limits.semmsl), load(&limits.semmns));
            let mni = ipc.sem.lock().max() as i32;
            let words = [mns, mni, mns, mns, msl, opm, opm, sets, SEMVMX, used];
            cx.mm.write_value(buf, &words)?;
            Ok(highest)
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let table = ipc.sem.lock();
            let s = if command == IPC_STAT { table.get(id)? } else { table.at(id)? };
            drop(table);
            let state = s.state.lock();
            if command != SEM_STAT_ANY {
                state.perm.check(&cx.cred, 0o444)?;
            }
            let (perm, count) = (state.perm, state.semaphores.len() as u64);
            let words = [state.otime as u64, 0, state.ctime as u64, 0, count, 0, 0];
            drop(state);
            write_ds(cx, buf, &perm, &words)?;
            Ok(if command == IPC_STAT { 0 } else { s.id() as u64 })
        }
        IPC_SET => {
            let [uid, gid, mode] = read_perm(cx, buf)?;
            let s = ipc.sem.lock().get(id)?;
            let mut state = s.state.lock();
            state.perm.check_owner(&cx.cred)?;
            check_ids(uid, gid)?;
            state.perm.set(uid, gid, mode);
            s.touch(&mut state);
            Ok(0)
        }
        IPC_RMID => {
            ipc.remove_set(id, &cx.cred)?;
            Ok(0)
        }
        SETVAL => {
            let value = arg as i32;
            if !(0..=SEMVMX).contains(&value) {
                return Err(ERANGE.into());
            }
            let s = ipc.sem.lock().get(id)?;
            let mut state = s.state.lock();
            let at = index(num, state.semaphores.len())?;
            state.perm.check(&cx.cred, 0o222)?;
            s.set_values(&mut state, at, &[value], cx.task.group.pid);
            Ok(0)
        }
        GETALL => {
            let s = ipc.sem.lock().get(id)?;
            let state = s.state.lock();
            state.perm.check(&cx.cred, 0o444)?;
            let bytes: Vec<u8> =
                state.semaphores.iter().flat_map(|s| (s.value as u16).to_ne_bytes()).collect();
            drop(state);
            cx.mm.write_all(buf, &bytes)?;
            Ok(0)
        }
        SETALL => {
            let s = ipc.sem.lock().get(id)?;
            let count = {
                let state = s.state.lock();
                state.perm.check(&cx.cred, 0o222)?;
                state.semaphores.len()
            };
            let raw: Vec<u16> = cx.mm.read_array(buf, count)?;
            let values: Vec<i32> = raw.into_iter().map(i32::from).collect();
            if values.iter().any(|&v| v > SEMVMX) {
                return Err(ERANGE.into());
            }
            s.set_values(&mut s.state.lock(), 0, &values, cx.task.group.pid);
            Ok(0)
        }
        GETPID | GETVAL | GETNCNT | GETZCNT => {
            let s = ipc.sem.lock().get(id)?;
            let state = s.state.lock();
            state.perm.check(&cx.cred, 0o444)?;
            let at = index(num, state.semaphores.len())?;
            let sem = state.semaphores.get(at).copied().unwrap_or_default();
            Ok(match command {
                GETPID => cx.task.shown_id(sem.pid) as u64,
                GETVAL => sem.value as u64,
                _ => state.waiting(at, command == GETZCNT),
            })
        }
        _ => Err(EINVAL.into()),
    }
}

fn index(num: i32, count: usize) -> Result<usize, Errno> {
    usize::try_from(num).ok().filter(|&n| n < count).ok_or(EINVAL)
}
