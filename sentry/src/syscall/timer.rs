//! Timers: setitimer(2), alarm(2), timer_create(2), timerfd_create(2).

use std::sync::Arc;

use abi::errno::{EINVAL, EOPNOTSUPP, EPERM};
use abi::{Errno, UserAddr};
use base::alarm::AlarmClock;
use fs::anon::timerfd::{self, TimerFd};
use fs::file::{FileDescription, oflag};

use super::SysResult;
use super::time::clock_id;
use crate::task::Ctx;
use crate::time::ClockId;
use crate::time::timers::{PosixTimer, Setting, Target, TimerClock};

const SECOND: i64 = 1_000_000_000;

fn timespec(ns: i64) -> [i64; 2] {
    [ns / SECOND, ns % SECOND]
}

/// `struct itimerspec`: interval, value.
fn read_itimerspec(cx: &Ctx<'_>, addr: UserAddr) -> Result<Setting, Errno> {
    let words: [i64; 4] = cx.mm.read_value(addr)?;
    let ns = |sec: i64, nsec: i64| {
        if sec < 0 || !(0..SECOND).contains(&nsec) {
            return Err(EINVAL);
        }
        Ok(sec.saturating_mul(SECOND).saturating_add(nsec))
    };
    let interval = ns(words[0], words[1]);
    let value = ns(words[2], words[3])?;
    Ok((value, interval?))
}

fn write_itimerspec(cx: &Ctx<'_>, addr: UserAddr, (value, interval): Setting) -> Result<(), Errno> {
    let ([a, b], [c, d]) = (timespec(interval), timespec(value));
    cx.mm.write_value(addr, &[a, b, c, d])
}

/// `struct itimerval`: interval, value.
fn read_itimerval(cx: &Ctx<'_>, addr: UserAddr) -> Result<Setting, Errno> {
    let words: [i64; 4] = cx.mm.read_value(addr)?;
    let ns = |sec: i64, usec: i64| {
        if sec < 0 || !(0..1_000_000).contains(&usec) {
            return Err(EINVAL);
        }
        Ok(sec.saturating_mul(SECOND).saturating_add(usec * 1000))
    };
    Ok((ns(words[2], words[3])?, ns(words[0], words[1])?))
}

fn write_itimerval(cx: &Ctx<'_>, addr: UserAddr, (value, interval): Setting) -> Result<(), Errno> {
    let ([a, b], [c, d]) = (timespec(interval), timespec(value));
    cx.mm.write_value(addr, &[a, b / 1000, c, d / 1000])
}

/// `getitimer(2)`.
pub(super) fn sys_getitimer(cx: &mut Ctx<'_>, which: i32, value: UserAddr) -> SysResult {
    let timers = &cx.task.group.timers;
    let setting = match which {
        0 => timers.real(),
        1 => timers.cpu(0),
        2 => timers.cpu(1),
        _ => return Err(EINVAL.into()),
    };
    write_itimerval(cx, value, setting)?;
    Ok(0)
}

/// `setitimer(2)`.
pub(super) fn sys_setitimer(cx: &mut Ctx<'_>, which: i32, new: UserAddr, old: UserAddr) -> SysResult {
    // No new value turns the timer off.
    let setting = if new.is_null() { (0, 0) } else { read_itimerval(cx, new)? };
    let (kernel, group) = (cx.task.kernel.clone(), cx.task.group.clone());
    let before = match which {
        0 => group.timers.set_real(&kernel, &group, setting.0, setting.1),
        1 => group.timers.set_cpu(&kernel, &group, 0, setting),
        2 => group.timers.set_cpu(&kernel, &group, 1, setting),
        _ => return Err(EINVAL.into()),
    };
    if !old.is_null() {
        write_itimerval(cx, old, before)?;
    }
    Ok(0)
}

/// `alarm(2)`.
pub(super) fn sys_alarm(cx: &mut Ctx<'_>, seconds: u32) -> SysResult {
    let (kernel, group) = (cx.task.kernel.clone(), cx.task.group.clone());
    let seconds = i64::from(seconds.min(i32::MAX as u32));
    let (left, _) = group.timers.set_real(&kernel, &group, seconds * SECOND, 0);
    // To the nearest second, but never to "none".
    let rounds_up = (left < SECOND && left > 0) || left % SECOND >= SECOND / 2;
    Ok((left / SECOND + i64::from(rounds_up)).unsigned_abs())
}

/// `timer_create(2)`.
pub(super) fn sys_timer_create(cx: &mut Ctx<'_>, clock: i32, event: UserAddr, id: UserAddr) -> SysResult {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    const SIGEV_THREAD_ID: i32 = 4;
    const CAP_WAKE_ALARM: u32 = 35;
    // struct sigevent: value, number, kind, thread; 64 bytes in all.
    let given: Option<[u32; 16]> = if event.is_null() { None } else { Some(cx.mm.read_value(event)?) };
    let clock = match clock_id(cx, clock)? {
        ClockId::Alarm { alarm, wakes, ahead_ns } => {
            if wakes && !cx.cred.has(CAP_WAKE_ALARM) {
                return Err(EPERM.into());
            }
            TimerClock::Alarm { clock: alarm, ahead_ns }
        }
        ClockId::Cpu(clock) => TimerClock::Cpu(clock),
        ClockId::Plain(_) => return Err(EOPNOTSUPP.into()),
    };
    let group = cx.task.group.clone();
    let (target, value) = match given {
        None => (Target::Process(crate::signal::SIGALRM), None),
        Some(words) => {
            let value = u64::from(words[0]) | u64::from(words[1]) << 32;
            let (signo, kind, tid) = (words[2].cast_signed(), words[3].cast_signed(), words[4].cast_signed());
            let valid = (1..=64).contains(&signo);
            let target = match kind {
                SIGEV_NONE => Target::None,
                SIGEV_SIGNAL | SIGEV_THREAD if valid => Target::Process(signo),
                SIGEV_THREAD_ID if valid => {
                    let thread = group.threads().into_iter().find(|t| t.shown_tid == tid).ok_or(EINVAL)?;
                    Target::Thread(signo, Arc::downgrade(&thread))
                }
                _ => return Err(EINVAL.into()),
            };
            (target, Some(value))
        }
    };
    let made = group.timers.create(&cx.task.kernel, &group, clock, target, value, cx.cred.uid)?;
    if let Err(e) = cx.mm.write_value(id, &made) {
        group.timers.delete(made);
        return Err(e.into());
    }
    Ok(0)
}

fn posix(cx: &Ctx<'_>, id: i32) -> Result<Arc<PosixTimer>, Errno> {
    cx.task.group.timers.posix(id).ok_or(EINVAL)
}

/// `timer_settime(2)`.
pub(super) fn sys_timer_settime(
    cx: &mut Ctx<'_>,
    id: i32,
    flags: i32,
    new: UserAddr,
    old: UserAddr,
) -> SysResult {
    if new.is_null() {
        return Err(EINVAL.into());
    }
    let (value, interval) = read_itimerspec(cx, new)?;
    let before = posix(cx, id)?.set(value, interval, flags & 1 != 0);
    if !old.is_null() {
        write_itimerspec(cx, old, before)?;
    }
    Ok(0)
}

/// `timer_gettime(2)`.
pub(super) fn sys_timer_gettime(cx: &mut Ctx<'_>, id: i32, value: UserAddr) -> SysResult {
    let setting = posix(cx, id)?.get();
    write_itimerspec(cx, value, setting)?;
    Ok(0)
}

/// `timer_getoverrun(2)`.
pub(super) fn sys_timer_getoverrun(cx: &mut Ctx<'_>, id: i32) -> SysResult {
    Ok(posix(cx, id)?.overrun() as u64)
}

/// `timer_delete(2)`.
pub(super) fn sys_timer_delete(cx: &mut Ctx<'_>, id: i32) -> SysResult {
    if cx.task.group.timers.delete(id) { Ok(0) } else { Err(EINVAL.into()) }
}

/// `timerfd_create(2)`.
pub(super) fn sys_timerfd_create(cx: &mut Ctx<'_>, clock: i32, flags: u32) -> SysResult {
    const CAP_WAKE_ALARM: u32 = 35;
    if flags & !(oflag::CLOEXEC | oflag::NONBLOCK) != 0 {
        return Err(EINVAL.into());
    }
    let (clock, wakes) = match clock {
        0 => (AlarmClock::Realtime, false),
        1 => (AlarmClock::Monotonic, false),
        7 => (AlarmClock::Boottime, false),
        8 => (AlarmClock::Realtime, true),
        9 => (AlarmClock::Boottime, true),
        _ => return Err(EINVAL.into()),
    };
    if wakes && !cx.cred.has(CAP_WAKE_ALARM) {
        return Err(EPERM.into());
    }
    let file = timerfd::new(cx.task.kernel.alarms.clone(), clock, flags);
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

fn timerfd_of(file: &FileDescription) -> Result<&TimerFd, Errno> {
    file.ops.as_any().downcast_ref::<TimerFd>().ok_or(EINVAL)
}

/// `timerfd_settime(2)`.
pub(super) fn sys_timerfd_settime(
    cx: &mut Ctx<'_>,
    fd: i32,
    flags: u32,
    new: UserAddr,
    old: UserAddr,
) -> SysResult {
    const ABSTIME: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    let setting = read_itimerspec(cx, new)?;
    if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(EINVAL.into());
    }
    let file = cx.open_file(fd)?;
    let timer = timerfd_of(&file)?;
    let ahead_ns = match timer.clock() {
        AlarmClock::Realtime => 0,
        AlarmClock::Monotonic => cx.offsets.monotonic_ns,
        AlarmClock::Boottime => cx.offsets.boottime_ns,
    };
    // What is past there is due; 0 would turn the timer off.
    let value = match setting.0 {
        ns if ns != 0 && flags & ABSTIME != 0 => ns.saturating_sub(ahead_ns).max(1),
        ns => ns,
    };
    let before = timer.set(&timerfd::Setting {
        value,
        interval: setting.1,
        is_absolute: flags & ABSTIME != 0,
        cancel_on_set: flags & CANCEL_ON_SET != 0,
    });
    if !old.is_null() {
        write_itimerspec(cx, old, before)?;
    }
    Ok(0)
}

/// `timerfd_gettime(2)`.
pub(super) fn sys_timerfd_gettime(cx: &mut Ctx<'_>, fd: i32, value: UserAddr) -> SysResult {
    let file = cx.open_file(fd)?;
    let setting = timerfd_of(&file)?.get();
    write_itimerspec(cx, value, setting)?;
    Ok(0)
}
