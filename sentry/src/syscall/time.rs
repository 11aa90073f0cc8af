//! Clocks and sleeping.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use abi::errno::{EINVAL, EOPNOTSUPP, EPERM};
use abi::{Errno, UserAddr};
use base::alarm::{Alarm, AlarmClock, Timer};
use base::wait::{Events, Wake};

use super::{Restart, Stop, SysResult};
use crate::task::{Ctx, Parker};
use crate::time::cpu::{CpuClock, CpuTimer};
use crate::time::{Clock, ClockId};

pub(super) fn read_timespec(cx: &Ctx<'_>, addr: UserAddr) -> Result<u64, Errno> {
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

/// The clock with number `id`, of processes and threads too.
///
/// # Errors
/// `EINVAL`: there is none.
pub(super) fn clock_id(cx: &Ctx<'_>, id: i32) -> Result<ClockId, Errno> {
    let alarm = |alarm, wakes| {
        let ahead_ns = match alarm {
            AlarmClock::Realtime => 0,
            AlarmClock::Monotonic => cx.offsets.monotonic_ns,
            AlarmClock::Boottime => cx.offsets.boottime_ns,
        };
        Ok(ClockId::Alarm { alarm, wakes, ahead_ns })
    };
    match id {
        0 => alarm(AlarmClock::Realtime, false),
        1 => alarm(AlarmClock::Monotonic, false),
        2 => Ok(ClockId::Cpu(CpuClock::Process(Arc::downgrade(&cx.task.group)))),
        3 => Ok(ClockId::Cpu(CpuClock::Thread(Arc::downgrade(&cx.task)))),
        7 => alarm(AlarmClock::Boottime, false),
        8 => alarm(AlarmClock::Realtime, true),
        9 => alarm(AlarmClock::Boottime, true),
        11 => {
            let now = |clock| cx.task.kernel.time.now(clock).as_ns();
            let ahead = now(Clock::Tai).saturating_sub(now(Clock::Realtime));
            let ahead_ns = ahead.saturating_add(500_000_000).div_euclid(1_000_000_000) * 1_000_000_000;
            Ok(ClockId::Alarm { alarm: AlarmClock::Realtime, wakes: false, ahead_ns })
        }
        id if id < 0 => cpu_clock_id(cx, id).map(ClockId::Cpu),
        _ => Clock::from_id(id).map(ClockId::Plain).ok_or(EINVAL),
    }
}

/// A processor clock of another process or thread (Linux include/linux/posix-timers_types.h).
fn cpu_clock_id(cx: &Ctx<'_>, id: i32) -> Result<CpuClock, Errno> {
    const PER_THREAD: i32 = 4;
    const VIRT: i32 = 1;
    const MAX: i32 = 3;
    let (pid, which) = (!(id >> 3), id & 3);
    if which >= MAX {
        return Err(EINVAL);
    }
    if id & PER_THREAD != 0 {
        let task = if pid == 0 { Some(cx.task.clone()) } else { cx.task.find(pid) };
        let task = task.filter(|t| Arc::ptr_eq(&t.group, &cx.task.group)).ok_or(EINVAL)?;
        let task = Arc::downgrade(&task);
        return Ok(if which == VIRT { CpuClock::ThreadUser(task) } else { CpuClock::Thread(task) });
    }
    let group = if pid == 0 {
        cx.task.group.clone()
    } else {
        let pid = cx.task.id_of(pid);
        cx.task.kernel.tree.lock().processes.get(&pid).map(|p| p.group.clone()).ok_or(EINVAL)?
    };
    let group = Arc::downgrade(&group);
    Ok(if which == VIRT { CpuClock::User(group) } else { CpuClock::Process(group) })
}

fn clock_ns(cx: &Ctx<'_>, clock: i32) -> Result<u64, Errno> {
    if clock == 3 {
        return Ok(cx.task.account.usage().cpu_ns());
    }
    if clock == 2 || clock < 0 {
        let ClockId::Cpu(cpu) = clock_id(cx, clock)? else { return Err(EINVAL) };
        return Ok(cpu.now(&cx.task.kernel).unsigned_abs());
    }
    let clock = match clock {
        8 => Clock::Realtime,
        9 => Clock::Boottime,
        c => Clock::from_id(c).ok_or(EINVAL)?,
    };
    let ns = cx.task.kernel.time.now(clock).as_ns().saturating_add(cx.offsets.of(clock));
    Ok(u64::try_from(ns).unwrap_or(0))
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

/// Wakes a sleeper when its clock has come far enough.
#[derive(Debug)]
struct WakeUp(Arc<Parker>);

impl Alarm for WakeUp {
    fn ring(&self) {
        self.0.wake(Events::IN);
    }
}

/// Sleeps until `now` reaches `until`, by a clock that may be set or stand still: `start` sets an alarm for it.
fn sleep_by(
    cx: &mut Ctx<'_>,
    until: i64,
    kind: Restart,
    now: impl Fn() -> i64,
    mut start: impl FnMut(Weak<dyn Alarm>),
) -> Result<(), Stop> {
    let wake_up: Arc<dyn Alarm> = Arc::new(WakeUp(cx.task.parker.clone()));
    cx.sleep_until(None, kind, |_| {
        if now() >= until {
            return Ok(Some(()));
        }
        start(Arc::downgrade(&wake_up));
        Ok(None)
    })?;
    Ok(())
}

/// Ends a sleep: tells what is left of a relative one.
fn finish_sleep(
    cx: &mut Ctx<'_>,
    slept: Result<(), Stop>,
    until: u64,
    now: impl FnOnce(&Ctx<'_>) -> u64,
    rest: UserAddr,
    absolute: bool,
) -> SysResult {
    let Err(stop) = slept else { return Ok(0) };
    if !absolute {
        if !rest.is_null() {
            let left = until.saturating_sub(now(cx));
            cx.mm.write_value(rest, &[left / 1_000_000_000, left % 1_000_000_000])?;
        }
        cx.restart_deadline = Some(until);
    }
    Err(stop)
}

fn sleep_monotonic(cx: &mut Ctx<'_>, until: u64, rest: UserAddr, absolute: bool) -> SysResult {
    let until = cx.restart_deadline.take().unwrap_or(until);
    let kind = if absolute { Restart::NoHand } else { Restart::Block };
    let slept = cx.sleep_until(Some(until), kind, |_| Ok(None::<()>)).map(drop);
    finish_sleep(cx, slept, until, |cx| cx.monotonic_ns(), rest, absolute)
}

/// `nanosleep(2)`.
pub(super) fn sys_nanosleep(cx: &mut Ctx<'_>, request: UserAddr, rest: UserAddr) -> SysResult {
    let ns = read_timespec(cx, request)?;
    let deadline = cx.monotonic_ns().saturating_add(ns);
    sleep_monotonic(cx, deadline, rest, false)
}

/// `clock_nanosleep(2)`.
pub(super) fn sys_clock_nanosleep(
    cx: &mut Ctx<'_>,
    clock: i32,
    flags: u32,
    request: UserAddr,
    rest: UserAddr,
) -> SysResult {
    const CAP_WAKE_ALARM: u32 = 35;
    let id = clock_id(cx, clock)?;
    // Nobody can sleep by these.
    if clock == 3 || matches!(id, ClockId::Plain(_)) {
        return Err(EOPNOTSUPP.into());
    }
    let ns = read_timespec(cx, request)?;
    let absolute = flags & 1 != 0;
    match id {
        ClockId::Alarm { wakes: true, .. } if !cx.cred.has(CAP_WAKE_ALARM) => Err(EPERM.into()),
        ClockId::Alarm { alarm: AlarmClock::Monotonic, ahead_ns, .. } if absolute => {
            let ns = ns.saturating_add_signed(ahead_ns.saturating_neg());
            sleep_monotonic(cx, ns, rest, true)
        }
        ClockId::Alarm { alarm, ahead_ns, .. } if absolute => {
            let until = i64::try_from(ns).unwrap_or(i64::MAX).saturating_sub(ahead_ns);
            let alarms = cx.task.kernel.alarms.clone();
            let timer = RefCell::new(Timer::new(alarms, alarm));
            timer.borrow_mut().schedule.next = Some(until);
            let start = |wake_up| timer.borrow_mut().start(wake_up);
            sleep_by(cx, until, Restart::NoHand, || timer.borrow().now(), start)?;
            Ok(0)
        }
        ClockId::Alarm { .. } => {
            let until = cx.monotonic_ns().saturating_add(ns);
            sleep_monotonic(cx, until, rest, false)
        }
        ClockId::Plain(_) => Err(EOPNOTSUPP.into()),
        ClockId::Cpu(cpu) => {
            if matches!(&cpu, CpuClock::Thread(t) | CpuClock::ThreadUser(t) if t.as_ptr() == Arc::as_ptr(&cx.task))
            {
                return Err(EINVAL.into());
            }
            let kernel = cx.task.kernel.clone();
            let ns = i64::try_from(ns).unwrap_or(i64::MAX);
            let from_start = if absolute { ns } else { cpu.now(&kernel).saturating_add(ns) };
            let kept = cx.restart_deadline.take().and_then(|d| i64::try_from(d).ok());
            let until = kept.unwrap_or(from_start);
            let timer = RefCell::new(CpuTimer::new(kernel.clone(), cpu.clone()));
            timer.borrow_mut().schedule.next = Some(until);
            let start = |wake_up| timer.borrow_mut().start(wake_up);
            let kind = if absolute { Restart::NoHand } else { Restart::Block };
            let slept = sleep_by(cx, until, kind, || cpu.now(&kernel), start);
            let now = |_: &Ctx<'_>| cpu.now(&kernel).unsigned_abs();
            finish_sleep(cx, slept, until.unsigned_abs(), now, rest, absolute)
        }
    }
}

/// `clock_settime(2)`: the clocks are the host's.
pub(super) fn sys_clock_settime(cx: &mut Ctx<'_>, clock: i32, time: UserAddr) -> SysResult {
    match clock {
        0 => {
            read_timespec(cx, time)?;
            Err(EPERM.into())
        }
        1 | 2 | 3 | 4..=9 | 11 => Err(EINVAL.into()),
        _ => {
            clock_id(cx, clock)?;
            Err(EPERM.into())
        }
    }
}

/// `struct timex` of a clock that nobody steers: Linux's values before anything has set them (kernel/time/ntp.c).
///
/// # Errors
/// `EPERM`: something is to be changed, which nobody may.
fn steering(cx: &mut Ctx<'_>, addr: UserAddr) -> SysResult {
    const ADJ_OFFSET_SS_READ: u32 = 0xa001;
    const STA_UNSYNC: u32 = 0x40;
    const TIME_ERROR: u64 = 5;
    let mut words: [u64; 26] = cx.mm.read_value(addr)?;
    let modes = words[0] as u32;
    if modes != 0 && modes != ADJ_OFFSET_SS_READ {
        return Err(EPERM.into());
    }
    let now = u64::try_from(cx.task.kernel.time.now(Clock::Realtime).as_ns()).unwrap_or(0);
    words[1..].fill(0);
    // maxerror and esterror: NTP_PHASE_LIMIT; constant; precision: 1 us; tolerance: MAXFREQ_SCALED; tick: 10 ms.
    (words[3], words[4], words[5]) = (16_000_000, 16_000_000, STA_UNSYNC.into());
    (words[6], words[7], words[8]) = (2, 1, 500 << 16);
    (words[9], words[10], words[11]) = (now / 1_000_000_000, now % 1_000_000_000 / 1000, 10_000);
    cx.mm.write_value(addr, &words)?;
    Ok(TIME_ERROR)
}

/// `adjtimex(2)`: the state of a clock that is not synchronised by the sandbox.
///
/// # Errors
/// `EFAULT`; `EPERM`.
pub(super) fn sys_adjtimex(cx: &mut Ctx<'_>, addr: UserAddr) -> SysResult {
    steering(cx, addr)
}

/// `clock_adjtime(2)`.
///
/// # Errors
/// `EFAULT`; `EINVAL`: no such clock; `EOPNOTSUPP`: it cannot be steered; `EPERM`.
pub(super) fn sys_clock_adjtime(cx: &mut Ctx<'_>, clock: i32, addr: UserAddr) -> SysResult {
    let _: [u64; 26] = cx.mm.read_value(addr)?;
    clock_id(cx, clock)?;
    if clock == 0 { steering(cx, addr) } else { Err(EOPNOTSUPP.into()) }
}

/// `settimeofday(2)`: the clocks are the host's.
///
/// # Errors
/// In the order checked: `EFAULT`, `EINVAL`: the time; `EFAULT`: the zone; `EINVAL`; `EPERM`, always.
pub(super) fn sys_settimeofday(cx: &mut Ctx<'_>, time: UserAddr, zone: UserAddr) -> SysResult {
    let mut seconds = 0;
    if !time.is_null() {
        let [sec, micros]: [i64; 2] = cx.mm.read_value(time)?;
        if !(0..=1_000_000).contains(&micros) {
            return Err(EINVAL.into());
        }
        seconds = sec;
        if micros == 1_000_000 {
            seconds = -1;
        }
    }
    if !zone.is_null() {
        let _: [u32; 2] = cx.mm.read_value(zone)?;
    }
    // What ktime can hold.
    if !(0..=i64::MAX / 1_000_000_000).contains(&seconds) {
        return Err(EINVAL.into());
    }
    Err(EPERM.into())
}
