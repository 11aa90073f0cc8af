//! futex(2) (Linux kernel/futex/).

use std::time::Duration;

use abi::UserAddr;
use abi::errno::{EAGAIN, EINVAL, ENOSYS, ETIMEDOUT};

use super::{Restart, Stop, SysResult};
use crate::mm::FutexScope;
use crate::task::Ctx;
use crate::time::Clock;

const FUTEX_WAIT: u32 = 0;
const FUTEX_WAKE: u32 = 1;
const FUTEX_REQUEUE: u32 = 3;
const FUTEX_CMP_REQUEUE: u32 = 4;
const FUTEX_WAKE_OP: u32 = 5;
const FUTEX_LOCK_PI: u32 = 6;
const FUTEX_UNLOCK_PI: u32 = 7;
const FUTEX_TRYLOCK_PI: u32 = 8;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_WAKE_BITSET: u32 = 10;
const FUTEX_WAIT_REQUEUE_PI: u32 = 11;
const FUTEX_CMP_REQUEUE_PI: u32 = 12;
const FUTEX_LOCK_PI2: u32 = 13;
const FUTEX_PRIVATE_FLAG: u32 = 128;
const FUTEX_CLOCK_REALTIME: u32 = 256;

/// `futex(2)`.
pub(super) fn sys_futex(
    cx: &mut Ctx<'_>,
    addr: UserAddr,
    op: u32,
    val: u32,
    timeout: UserAddr,
    addr2: UserAddr,
    val3: u32,
) -> SysResult {
    let scope = if op & FUTEX_PRIVATE_FLAG != 0 { FutexScope::Private } else { FutexScope::Shared };
    let command = op & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let realtime = op & FUTEX_CLOCK_REALTIME != 0;
    let deadline = match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET | FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI => {
            deadline(cx, command, realtime, timeout)?
        }
        _ => None,
    };
    if realtime && !matches!(command, FUTEX_WAIT_BITSET | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI) {
        return Err(ENOSYS.into());
    }
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bitset = if command == FUTEX_WAIT { u32::MAX } else { val3 };
            if bitset == 0 {
                return Err(EINVAL.into());
            }
            let deadline = cx.restart_deadline.take().or(deadline);
            wait(cx, addr, scope, val, bitset, deadline)
        }
        FUTEX_WAKE | FUTEX_WAKE_BITSET => {
            let bitset = if command == FUTEX_WAKE { u32::MAX } else { val3 };
            if bitset == 0 {
                return Err(EINVAL.into());
            }
            let key = cx.mm.futex_key(addr, scope)?;
            Ok(cx.task.kernel.futexes.wake(&key, (val as usize).max(1), bitset) as u64)
        }
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            let count = timeout.raw() as u32;
            if (val as i32) < 0 || (count as i32) < 0 {
                return Err(EINVAL.into());
            }
            let from = cx.mm.futex_key(addr, scope)?;
            let to = cx.mm.futex_key(addr2, scope)?;
            if command == FUTEX_CMP_REQUEUE && cx.mm.load_u32(addr)? != val3 {
                return Err(EAGAIN.into());
            }
            let (woken, moved) = cx.task.kernel.futexes.requeue(&from, &to, val as usize, count as usize);
            Ok((woken + moved) as u64)
        }
        FUTEX_WAIT_REQUEUE_PI => {
            let target = cx.mm.futex_key(addr2, scope)?;
            if cx.mm.futex_key(addr, scope)? == target {
                return Err(EINVAL.into());
            }
            let deadline = cx.restart_deadline.take().or(deadline);
            wait(cx, addr, scope, val, u32::MAX, deadline)?;
            cx.lock_pi(addr2, scope, deadline)
        }
        FUTEX_CMP_REQUEUE_PI => {
            let count = timeout.raw() as u32;
            // Linux kernel/futex/requeue.c: one is woken with the lock, the rest queue for it.
            if val != 1 || (count as i32) < 0 {
                return Err(EINVAL.into());
            }
            let from = cx.mm.futex_key(addr, scope)?;
            let to = cx.mm.futex_key(addr2, scope)?;
            if from == to {
                return Err(EINVAL.into());
            }
            if cx.mm.load_u32(addr)? != val3 {
                return Err(EAGAIN.into());
            }
            // Each goes on to queue for the lock itself.
            Ok(cx.task.kernel.futexes.wake(&from, (count as usize).saturating_add(1), u32::MAX) as u64)
        }
        FUTEX_WAKE_OP => wake_op(cx, addr, addr2, scope, val, timeout.raw() as u32, val3),
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => cx.lock_pi(addr, scope, deadline),
        FUTEX_TRYLOCK_PI => cx.try_lock_pi(addr, scope),
        FUTEX_UNLOCK_PI => cx.unlock_pi(addr, scope),
        _ => Err(ENOSYS.into()),
    }
}

/// The end of a wait, in monotonic ns.
fn deadline(
    cx: &Ctx<'_>,
    command: u32,
    realtime: bool,
    timeout: UserAddr,
) -> Result<Option<u64>, abi::Errno> {
    let Some(ns) = super::time::timeout(cx, timeout)? else { return Ok(None) };
    let now = cx.monotonic_ns();
    let by_realtime = realtime || command == FUTEX_LOCK_PI;
    Ok(Some(match command {
        FUTEX_WAIT => now.saturating_add(ns),
        _ if by_realtime => {
            let real = u64::try_from(cx.task.kernel.time.now(Clock::Realtime).as_ns()).unwrap_or(0);
            now.saturating_add(ns.saturating_sub(real))
        }
        _ => ns.saturating_add_signed(cx.offsets.monotonic_ns.saturating_neg()),
    }))
}

/// `FUTEX_WAKE_OP`: changes the word at `addr2`, wakes waiters of `addr`, and if the word compares, of `addr2`.
fn wake_op(
    cx: &Ctx<'_>,
    addr: UserAddr,
    addr2: UserAddr,
    scope: FutexScope,
    count: u32,
    count2: u32,
    encoded: u32,
) -> SysResult {
    const OPARG_SHIFT: u32 = 8;
    let sign_extend = |v: u32| (v << 20).cast_signed() >> 20;
    let (op, cmp) = (encoded >> 28 & 15, encoded >> 24 & 15);
    let (oparg, cmparg) = (sign_extend(encoded >> 12 & 0xfff), sign_extend(encoded & 0xfff));
    let oparg = if op & OPARG_SHIFT != 0 { 1i32.wrapping_shl(oparg as u32 & 31) } else { oparg };
    let change: fn(i32, i32) -> i32 = match op & 7 {
        0 => |_, arg| arg,
        1 => i32::wrapping_add,
        2 => |old, arg| old | arg,
        3 => |old, arg| old & !arg,
        4 => |old, arg| old ^ arg,
        _ => return Err(ENOSYS.into()),
    };
    let key = cx.mm.futex_key(addr, scope)?;
    let key2 = cx.mm.futex_key(addr2, scope)?;
    let old =
        cx.mm.fetch_update_u32(addr2, |v| change(v.cast_signed(), oparg).cast_unsigned())?.cast_signed();
    let holds = match cmp {
        0 => old == cmparg,
        1 => old != cmparg,
        2 => old < cmparg,
        3 => old <= cmparg,
        4 => old > cmparg,
        5 => old >= cmparg,
        _ => return Err(ENOSYS.into()),
    };
    let futexes = &cx.task.kernel.futexes;
    let mut woken = futexes.wake(&key, (count as usize).max(1), u32::MAX);
    if holds {
        woken += futexes.wake(&key2, (count2 as usize).max(1), u32::MAX);
    }
    Ok(woken as u64)
}

pub(super) fn wait(
    cx: &mut Ctx<'_>,
    addr: UserAddr,
    scope: FutexScope,
    val: u32,
    bitset: u32,
    deadline: Option<u64>,
) -> SysResult {
    let kernel = cx.task.kernel.clone();
    let key = cx.mm.futex_key(addr, scope)?;
    cx.task.parker.prepare();
    let waiter = kernel.futexes.wait_prepare(key, bitset, cx.task.parker.clone());
    match cx.mm.load_u32(addr) {
        Ok(v) if v == val => {}
        other => {
            return match (waiter.cancel(), other) {
                (true, _) => Ok(0),
                (false, Err(e)) => Err(e.into()),
                (false, Ok(_)) => Err(EAGAIN.into()),
            };
        }
    }
    loop {
        if waiter.is_woken() {
            return Ok(0);
        }
        if cx.has_signal() {
            if waiter.cancel() {
                return Ok(0);
            }
            if deadline.is_some() {
                cx.restart_deadline = deadline;
                return Err(Stop::Restart(Restart::Block));
            }
            return Err(Stop::Restart(Restart::Sys));
        }
        let limit = match deadline {
            None => None,
            Some(d) => {
                let now = cx.monotonic_ns();
                if now >= d {
                    return if waiter.cancel() { Ok(0) } else { Err(ETIMEDOUT.into()) };
                }
                Some(Duration::from_nanos(d - now))
            }
        };
        cx.park(limit);
        cx.task.parker.prepare();
    }
}
