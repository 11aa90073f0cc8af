//! Clocks and sleeping.

use abi::errno::EINVAL;
use abi::{Errno, UserAddr};

use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::time::Clock;

fn read_timespec(cx: &Ctx<'_>, addr: UserAddr) -> Result<u64, Errno> {
    let [sec, nsec]: [i64; 2] = cx.mm.read_value(addr)?;
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(EINVAL);
    }
    Ok((sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64))
}

/// A timeout in ns from a `timespec` pointer that may be NULL.
pub(super) fn timeout(cx: &Ctx<'_>, addr: UserAddr) -> Result<Option<u64>, Errno> {
    if addr.is_null() { Ok(None) } else { read_timespec(cx, addr).map(Some) }
}

fn clock_ns(cx: &Ctx<'_>, clock: i32) -> Result<u64, Errno> {
    match clock {
        2 => Ok(cx.task.kernel.group_usage(&cx.task.group).cpu_ns()),
        3 => Ok(host::clock::thread_cpu_ns().unsigned_abs()),
        _ => {
            let clock = Clock::from_id(clock).ok_or(EINVAL)?;
            Ok(u64::try_from(cx.task.kernel.time.now(clock).as_ns()).unwrap_or(0))
        }
    }
}

/// `clock_gettime(2)`.
pub(super) fn sys_clock_gettime(cx: &mut Ctx<'_>, clock: i32, buf: UserAddr) -> SysResult {
    let ns = clock_ns(cx, clock)?;
    cx.mm.write_value(buf, &[ns / 1_000_000_000, ns % 1_000_000_000])?;
    Ok(0)
}

/// `clock_getres(2)`.
pub(super) fn sys_clock_getres(cx: &mut Ctx<'_>, clock: i32, buf: UserAddr) -> SysResult {
    clock_ns(cx, clock)?;
    if !buf.is_null() {
        let ns: u64 = if matches!(clock, 5 | 6) { 4_000_000 } else { 1 };
        cx.mm.write_value(buf, &[0, ns])?;
    }
    Ok(0)
}

/// `gettimeofday(2)`.
pub(super) fn sys_gettimeofday(cx: &mut Ctx<'_>, tv: UserAddr, tz: UserAddr) -> SysResult {
    let ns = clock_ns(cx, 0)?;
    if !tv.is_null() {
        cx.mm.write_value(tv, &[ns / 1_000_000_000, ns % 1_000_000_000 / 1000])?;
    }
    if !tz.is_null() {
        cx.mm.write_value(tz, &[0u32; 2])?;
    }
    Ok(0)
}

/// `time(2)`.
pub(super) fn sys_time(cx: &mut Ctx<'_>, buf: UserAddr) -> SysResult {
    let sec = clock_ns(cx, 0)? / 1_000_000_000;
    if !buf.is_null() {
        cx.mm.write_value(buf, &sec)?;
    }
    Ok(sec)
}

fn sleep(cx: &mut Ctx<'_>, deadline: u64, rest: UserAddr, absolute: bool) -> SysResult {
    let deadline = cx.restart_deadline.take().unwrap_or(deadline);
    let kind = if absolute { Restart::NoHand } else { Restart::Block };
    match cx.sleep_until(Some(deadline), kind, |_| Ok(None::<()>)) {
        Ok(_) => Ok(0),
        Err(stop) => {
            if !absolute && !rest.is_null() {
                let left = deadline.saturating_sub(cx.monotonic_ns());
                cx.mm.write_value(rest, &[left / 1_000_000_000, left % 1_000_000_000])?;
            }
            if kind == Restart::Block {
                cx.restart_deadline = Some(deadline);
            }
            Err(stop)
        }
    }
}

/// `nanosleep(2)`.
pub(super) fn sys_nanosleep(cx: &mut Ctx<'_>, request: UserAddr, rest: UserAddr) -> SysResult {
    let ns = read_timespec(cx, request)?;
    let deadline = cx.monotonic_ns().saturating_add(ns);
    sleep(cx, deadline, rest, false)
}

/// `clock_nanosleep(2)`.
pub(super) fn sys_clock_nanosleep(
    cx: &mut Ctx<'_>,
    clock: i32,
    flags: u32,
    request: UserAddr,
    rest: UserAddr,
) -> SysResult {
    if clock == 3 {
        return Err(Stop::Fail(EINVAL));
    }
    let now = clock_ns(cx, clock)?;
    let ns = read_timespec(cx, request)?;
    let monotonic = cx.monotonic_ns();
    if flags & 1 != 0 {
        return sleep(cx, monotonic.saturating_add(ns.saturating_sub(now)), rest, true);
    }
    sleep(cx, monotonic.saturating_add(ns), rest, false)
}
