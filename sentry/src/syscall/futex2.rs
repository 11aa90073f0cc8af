//! futex_waitv(2) and the calls futex_wake, futex_wait and futex_requeue (Linux kernel/futex/syscalls.c).

use std::sync::Arc;
use std::time::Duration;

use abi::errno::{EAGAIN, EFAULT, EINVAL, ETIMEDOUT};
use abi::{Errno, UserAddr};

use super::futex::wait;
use super::{Restart, Stop, SysResult};
use crate::futex::MATCH_ANY;
use crate::mm::FutexScope;
use crate::task::Ctx;
use crate::time::Clock;

const SIZE_MASK: u32 = 3;
const SIZE_U32: u32 = 2;
const PRIVATE: u32 = 128;
/// `FUTEX_WAITV_MAX`.
const WAITV_MAX: u32 = 128;

/// What the flags of a futex say about its scope; only words of 32 bits exist.
fn scope_of(flags: u32) -> Result<FutexScope, Errno> {
    if flags & !(SIZE_MASK | PRIVATE) != 0 || flags & SIZE_MASK != SIZE_U32 {
        return Err(EINVAL);
    }
    Ok(if flags & PRIVATE != 0 { FutexScope::Private } else { FutexScope::Shared })
}

fn word(value: u64) -> Result<u32, Errno> {
    u32::try_from(value).map_err(|_| EINVAL)
}

/// The end of a wait in monotonic ns, from an absolute time of `clock`.
fn deadline(cx: &Ctx<'_>, timeout: UserAddr, clock: i32) -> Result<Option<u64>, Errno> {
    if timeout.is_null() {
        return Ok(None);
    }
    if clock != 0 && clock != 1 {
        return Err(EINVAL);
    }
    let Some(ns) = super::time::timeout(cx, timeout)? else { return Ok(None) };
    if clock == 1 {
        return Ok(Some(ns.saturating_add_signed(cx.offsets.monotonic_ns.saturating_neg())));
    }
    let real = u64::try_from(cx.task.kernel.time.now(Clock::Realtime).as_ns()).unwrap_or(0);
    Ok(Some(cx.monotonic_ns().saturating_add(ns.saturating_sub(real))))
}

/// `struct futex_waitv`, checked.
struct Entry {
    value: u32,
    addr: UserAddr,
    scope: FutexScope,
}

fn entries(cx: &Ctx<'_>, list: UserAddr, count: u32) -> Result<Vec<Entry>, Errno> {
    let mut out = Vec::with_capacity(count as usize);
    for i in 0..u64::from(count) {
        let at = list.checked_add(i * 24).ok_or(EFAULT)?;
        let [value, addr, rest]: [u64; 3] = cx.mm.read_value(at)?;
        let (flags, reserved) = (rest as u32, rest >> 32);
        if reserved != 0 {
            return Err(EINVAL);
        }
        let scope = scope_of(flags)?;
        out.push(Entry { value: word(value)?, addr: UserAddr(addr), scope });
    }
    Ok(out)
}

/// `futex_waitv(2)`: waits for any of the words; returns the index of one that was woken.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, a bad count, a bad clock; `EFAULT`, `EINVAL`: the timeout; `EFAULT`, `EINVAL`: an
/// entry; `EAGAIN`: a word has another value; `ETIMEDOUT`.
pub(super) fn sys_futex_waitv(
    cx: &mut Ctx<'_>,
    list: UserAddr,
    count: u32,
    flags: u32,
    timeout: UserAddr,
    clock: i32,
) -> SysResult {
    if flags != 0 || count == 0 || count > WAITV_MAX || list.is_null() {
        return Err(EINVAL.into());
    }
    let deadline = deadline(cx, timeout, clock)?;
    let entries = entries(cx, list, count)?;
    let kernel = cx.task.kernel.clone();
    let keys = entries.iter().map(|e| cx.mm.futex_key(e.addr, e.scope)).collect::<Result<Vec<_>, _>>()?;
    cx.task.parker.prepare();
    let mut waits = Vec::with_capacity(keys.len());
    let mut trouble = None;
    for (entry, key) in entries.iter().zip(keys) {
        waits.push(kernel.futexes.wait_prepare(key, MATCH_ANY, cx.task.parker.clone()));
        match cx.mm.load_u32(entry.addr) {
            Ok(v) if v == entry.value => {}
            Ok(_) => trouble = Some(Stop::Fail(EAGAIN)),
            Err(e) => trouble = Some(e.into()),
        }
        if trouble.is_some() {
            break;
        }
    }
    loop {
        if trouble.is_none() {
            if waits.iter().any(crate::futex::FutexWait::is_woken) {
                trouble = Some(Stop::Fail(EAGAIN));
            } else if cx.has_signal() {
                trouble = Some(Stop::Restart(Restart::Sys));
            }
        }
        let mut limit = None;
        if let Some(d) = deadline {
            let now = cx.monotonic_ns();
            if now >= d && trouble.is_none() {
                trouble = Some(Stop::Fail(ETIMEDOUT));
            }
            limit = Some(Duration::from_nanos(d.saturating_sub(now)));
        }
        if let Some(stop) = trouble {
            // A wake-up that came meanwhile counts. Linux tells the last one.
            let woken: Vec<bool> = waits.into_iter().map(crate::futex::FutexWait::cancel).collect();
            return woken.iter().rposition(|&w| w).map_or(Err(stop), |i| Ok(i as u64));
        }
        cx.park(limit);
        cx.task.parker.prepare();
    }
}

/// `futex_wake(2)`.
///
/// # Errors
/// `EINVAL`: flags, or no bits; `EFAULT`.
pub(super) fn sys_futex_wake(
    cx: &mut Ctx<'_>,
    addr: UserAddr,
    mask: u64,
    count: i32,
    flags: u32,
) -> SysResult {
    let scope = scope_of(flags)?;
    let mask = word(mask)?;
    if mask == 0 {
        return Err(EINVAL.into());
    }
    let key = cx.mm.futex_key(addr, scope)?;
    if count == 0 {
        return Ok(0);
    }
    let count = usize::try_from(count).unwrap_or(1);
    Ok(cx.task.kernel.futexes.wake(&key, count, mask) as u64)
}

/// `futex_wait(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, a value or mask of more than 32 bits, a bad clock; `EFAULT`, `EINVAL`: the
/// timeout; `EINVAL`: no bits; `EFAULT`; `EAGAIN`; `ETIMEDOUT`.
pub(super) fn sys_futex_wait(
    cx: &mut Ctx<'_>,
    addr: UserAddr,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserAddr,
    clock: i32,
) -> SysResult {
    let scope = scope_of(flags)?;
    let (value, mask) = (word(value)?, word(mask)?);
    let deadline = deadline(cx, timeout, clock)?;
    if mask == 0 {
        return Err(EINVAL.into());
    }
    let deadline = cx.restart_deadline.take().or(deadline);
    wait(cx, addr, scope, value, mask, deadline)
}

/// `futex_requeue(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, no list; `EFAULT`, `EINVAL`: an entry; `EINVAL`: a negative count; `EAGAIN`: the
/// first word has another value.
pub(super) fn sys_futex_requeue(
    cx: &mut Ctx<'_>,
    list: UserAddr,
    flags: u32,
    wake: i32,
    requeue: i32,
) -> SysResult {
    if flags != 0 || list.is_null() {
        return Err(EINVAL.into());
    }
    let entries = entries(cx, list, 2)?;
    let (Ok(wake), Ok(requeue)) = (usize::try_from(wake), usize::try_from(requeue)) else {
        return Err(EINVAL.into());
    };
    let [from, to] = entries.as_slice() else { return Err(EINVAL.into()) };
    let kernel = Arc::clone(&cx.task.kernel);
    let source = cx.mm.futex_key(from.addr, from.scope)?;
    let target = cx.mm.futex_key(to.addr, to.scope)?;
    if cx.mm.load_u32(from.addr)? != from.value {
        return Err(EAGAIN.into());
    }
    let (woken, moved) = kernel.futexes.requeue(&source, &target, wake, requeue);
    Ok((woken + moved) as u64)
}
