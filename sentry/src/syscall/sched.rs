//! Scheduling: policies, nice values, affinity (sched(7); Linux kernel/sched/syscalls.c).
//!
//! Affinity is the host threads' own. Policies and nice values are kept and reported; the host schedules all guest
//! threads alike.

use std::sync::Arc;

use abi::errno::{E2BIG, EACCES, EBUSY, EFAULT, EINVAL, EOPNOTSUPP, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::cap;
use host::system::{CpuMask, MAX_CPUS};

use super::SysResult;
use crate::task::attributes::{Deadline, SCHED_DEADLINE, Scheduling, cpu_numbers};
use crate::task::{Ctx, Task};

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_EXT: u32 = 7;
const RESET_ON_FORK: u32 = 0x4000_0000;
const MAX_RT_PRIORITY: u32 = 99;
const RLIMIT_NICE: usize = 13;
const RLIMIT_RTPRIO: usize = 14;

const fn is_real_time(policy: u32) -> bool {
    matches!(policy, SCHED_FIFO | SCHED_RR)
}

/// The thread that a call names; 0 is the caller.
fn target(cx: &Ctx<'_>, tid: i32) -> Result<Arc<Task>, Errno> {
    match tid {
        i32::MIN..0 => Err(EINVAL),
        0 => Ok(cx.task.clone()),
        tid => cx.task.find(tid).ok_or(ESRCH),
    }
}

/// Whether the caller may change how `task` is scheduled.
fn may_change(cx: &Ctx<'_>, task: &Task) -> bool {
    let cred = task.cred();
    cx.cred.has(cap::SYS_NICE) || cx.cred.euid == cred.euid || cx.cred.euid == cred.uid
}

/// Whether `task` may take nice value `nice` (`can_nice`).
fn may_nice(cx: &Ctx<'_>, task: &Task, nice: i32) -> bool {
    let limit = task.group.rlimits.lock()[RLIMIT_NICE].0;
    cx.cred.has(cap::SYS_NICE) || u64::try_from(20 - nice).is_ok_and(|n| n <= limit)
}

/// `__sched_setscheduler`.
fn change(cx: &Ctx<'_>, task: &Task, new: Scheduling) -> Result<(), Errno> {
    let old = task.attributes.lock().scheduling;
    match new.policy {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE if new.priority == 0 => {}
        SCHED_FIFO | SCHED_RR if (1..=MAX_RT_PRIORITY).contains(&new.priority) => {}
        SCHED_DEADLINE if new.priority == 0 && is_sound(&new.deadline) => {}
        _ => return Err(EINVAL),
    }
    if !cx.cred.has(cap::SYS_NICE) {
        if new.policy == SCHED_DEADLINE {
            return Err(EPERM);
        }
        let rt_limit = task.group.rlimits.lock()[RLIMIT_RTPRIO].0;
        let rt_denied = is_real_time(new.policy)
            && ((new.policy != old.policy && rt_limit == 0)
                || (new.priority > old.priority && u64::from(new.priority) > rt_limit));
        let nice_denied = !is_real_time(new.policy) && new.nice < old.nice && !may_nice(cx, task, new.nice);
        let idle_denied =
            old.policy == SCHED_IDLE && new.policy != SCHED_IDLE && !may_nice(cx, task, old.nice);
        let reset_denied = old.reset_on_fork && !new.reset_on_fork;
        if rt_denied || nice_denied || idle_denied || reset_denied || !may_change(cx, task) {
            return Err(EPERM);
        }
    }
    if new.policy == SCHED_DEADLINE {
        admit(cx, task, &new)?;
    }
    task.attributes.lock().scheduling = new;
    Ok(())
}

/// Whether a thread could be scheduled so at all (`__checkparam_dl`).
fn is_sound(d: &Deadline) -> bool {
    const LEAST: u64 = 1 << 10;
    const SIGN: u64 = 1 << 63;
    // sched_deadline_period_min_us and _max_us.
    const PERIODS_NS: std::ops::RangeInclusive<u64> = 100_000..=4_194_304_000;
    d.deadline != 0
        && d.runtime >= LEAST
        && (d.deadline | d.period) & SIGN == 0
        && d.runtime <= d.deadline
        && d.deadline <= d.period
        && PERIODS_NS.contains(&d.period)
}

/// Promises a thread its share, of the 95 % of the processors that may be promised (`sched_dl_overflow`).
///
/// # Errors
/// `EPERM`: the thread may not use all processors; `EBUSY`: too much is promised.
fn admit(cx: &Ctx<'_>, task: &Task, new: &Scheduling) -> Result<(), Errno> {
    // to_ratio(1000000, 950000).
    const SHARE: u64 = 996_147;
    let system = &cx.task.kernel.system;
    if task.attributes.lock().cpus != system.cpus {
        return Err(EPERM);
    }
    let promised: u64 = cx
        .task
        .kernel
        .all_tasks()
        .iter()
        .filter(|t| !std::ptr::eq(&***t, task))
        .map(|t| t.attributes.lock().scheduling)
        .filter(|s| s.policy == SCHED_DEADLINE)
        .map(|s| s.deadline.bandwidth())
        .sum();
    let room = SHARE * system.cpu_count() as u64;
    if promised.saturating_add(new.deadline.bandwidth()) > room { Err(EBUSY) } else { Ok(()) }
}

/// `sched_setscheduler(2)`.
pub(super) fn sys_sched_setscheduler(cx: &mut Ctx<'_>, tid: i32, policy: i32, param: UserAddr) -> SysResult {
    if policy < 0 {
        return Err(EINVAL.into());
    }
    set_policy(cx, tid, Some(policy as u32), param)
}

/// `sched_setparam(2)`.
pub(super) fn sys_sched_setparam(cx: &mut Ctx<'_>, tid: i32, param: UserAddr) -> SysResult {
    set_policy(cx, tid, None, param)
}

fn set_policy(cx: &mut Ctx<'_>, tid: i32, policy: Option<u32>, param: UserAddr) -> SysResult {
    if param.is_null() || tid < 0 {
        return Err(EINVAL.into());
    }
    let priority: u32 = cx.mm.read_value(param)?;
    let task = target(cx, tid)?;
    let old = task.attributes.lock().scheduling;
    let (policy, reset_on_fork) = match policy {
        Some(p) => (p & !RESET_ON_FORK, p & RESET_ON_FORK != 0),
        None => (old.policy, old.reset_on_fork),
    };
    // Without what SCHED_DEADLINE needs.
    if policy == SCHED_DEADLINE {
        return Err(EINVAL.into());
    }
    change(cx, &task, Scheduling { policy, priority, reset_on_fork, ..old })?;
    Ok(0)
}

/// `sched_getscheduler(2)`.
pub(super) fn sys_sched_getscheduler(cx: &mut Ctx<'_>, tid: i32) -> SysResult {
    let s = target(cx, tid)?.attributes.lock().scheduling;
    Ok(u64::from(s.policy | if s.reset_on_fork { RESET_ON_FORK } else { 0 }))
}

/// `sched_getparam(2)`.
pub(super) fn sys_sched_getparam(cx: &mut Ctx<'_>, tid: i32, param: UserAddr) -> SysResult {
    if param.is_null() {
        return Err(EINVAL.into());
    }
    let priority = target(cx, tid)?.attributes.lock().scheduling.priority;
    cx.mm.write_value(param, &priority)?;
    Ok(0)
}

/// Bytes of `struct sched_attr` at first and now.
const ATTR_MIN: u32 = 48;
const ATTR_NOW: u32 = 56;

/// `sched_setattr(2)`.
pub(super) fn sys_sched_setattr(cx: &mut Ctx<'_>, tid: i32, attr: UserAddr, flags: u32) -> SysResult {
    const F_RESET_ON_FORK: u64 = 1;
    const F_KEEP_POLICY: u64 = 8;
    const F_KEEP_PARAMS: u64 = 16;
    const F_DEADLINE: u64 = 6;
    const F_CLAMP: u64 = 0x60;
    const F_ALL: u64 = 0x7f;
    if attr.is_null() || tid < 0 || flags != 0 {
        return Err(EINVAL.into());
    }
    let size: u32 = cx.mm.read_value(attr)?;
    let size = if size == 0 { ATTR_MIN } else { size };
    let too_big = |cx: &Ctx<'_>| {
        let _ = cx.mm.write_value(attr, &ATTR_NOW);
        Err(E2BIG.into())
    };
    if !(ATTR_MIN..=4096).contains(&size) {
        return too_big(cx);
    }
    let mut bytes = vec![0u8; size.max(ATTR_NOW) as usize];
    cx.mm.read_exact(attr, &mut bytes[..size as usize])?;
    if bytes[ATTR_NOW as usize..].iter().any(|&b| b != 0) {
        return too_big(cx);
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (policy, attr_flags) = (word(4), long(8));
    if policy as i32 == -1 || (policy as i32) < 0 || attr_flags & !F_ALL != 0 {
        return Err(EINVAL.into());
    }
    let task = target(cx, tid)?;
    if attr_flags & F_CLAMP != 0 {
        return Err(EOPNOTSUPP.into());
    }
    let old = task.attributes.lock().scheduling;
    let policy = if attr_flags & F_KEEP_POLICY != 0 { old.policy } else { policy };
    let mut new = Scheduling {
        policy,
        nice: (word(16) as i32).clamp(-20, 19),
        priority: word(20),
        reset_on_fork: attr_flags & F_RESET_ON_FORK != 0,
        deadline: Deadline {
            runtime: long(24),
            deadline: long(32),
            period: if long(40) == 0 { long(32) } else { long(40) },
            flags: attr_flags & F_DEADLINE,
        },
    };
    if attr_flags & F_KEEP_PARAMS != 0 {
        (new.nice, new.priority, new.deadline) = (old.nice, old.priority, old.deadline);
    } else if is_real_time(policy) {
        new.nice = old.nice;
    }
    change(cx, &task, new)?;
    Ok(0)
}

/// `sched_getattr(2)`.
pub(super) fn sys_sched_getattr(
    cx: &mut Ctx<'_>,
    tid: i32,
    attr: UserAddr,
    size: u32,
    flags: u32,
) -> SysResult {
    if attr.is_null() || tid < 0 || !(ATTR_MIN..=4096).contains(&size) || flags != 0 {
        return Err(EINVAL.into());
    }
    let s = target(cx, tid)?.attributes.lock().scheduling;
    let shown = size.min(ATTR_NOW);
    let mut out = vec![0u8; shown as usize];
    let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, shown);
    put(4, s.policy);
    let is_deadline = s.policy == SCHED_DEADLINE;
    put(8, u32::from(s.reset_on_fork) | if is_deadline { s.deadline.flags as u32 } else { 0 });
    if is_deadline {
        for (at, value) in [(24, s.deadline.runtime), (32, s.deadline.deadline), (40, s.deadline.period)] {
            put(at, value as u32);
            put(at + 4, (value >> 32) as u32);
        }
    }
    put(16, if is_real_time(s.policy) || is_deadline { 0 } else { s.nice as u32 });
    put(20, s.priority);
    if shown == ATTR_NOW {
        // sched_util_max: the full scale.
        put(52, 1024);
    }
    cx.mm.write_all(attr, &out)?;
    Ok(0)
}

/// `sched_get_priority_max(2)`.
pub(super) fn sys_sched_get_priority_max(_cx: &mut Ctx<'_>, policy: u32) -> SysResult {
    priority_limit(policy, MAX_RT_PRIORITY)
}

/// `sched_get_priority_min(2)`.
pub(super) fn sys_sched_get_priority_min(_cx: &mut Ctx<'_>, policy: u32) -> SysResult {
    priority_limit(policy, 1)
}

fn priority_limit(policy: u32, real_time: u32) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(real_time.into()),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE | SCHED_EXT => Ok(0),
        _ => Err(EINVAL.into()),
    }
}

/// What a thread of `SCHED_RR` runs at a time: Linux's default, `/proc/sys/kernel/sched_rr_timeslice_ms`.
const RR_SLICE_NS: i64 = 100_000_000;

/// `sched_rr_get_interval(2)`: what the host gives each thread.
pub(super) fn sys_sched_rr_get_interval(cx: &mut Ctx<'_>, tid: i32, interval: UserAddr) -> SysResult {
    let policy = target(cx, tid)?.attributes.lock().scheduling.policy;
    let ns = match policy {
        SCHED_FIFO | SCHED_DEADLINE => 0,
        SCHED_RR => RR_SLICE_NS,
        _ => host::system::time_slice_ns()?,
    };
    cx.mm.write_value(interval, &[ns / 1_000_000_000, ns % 1_000_000_000])?;
    Ok(0)
}

/// `sched_setaffinity(2)`.
///
/// # Errors
/// `EFAULT`; `ESRCH`; `EPERM`: another user's thread; `EINVAL`: no processor of the mask is there.
pub(super) fn sys_sched_setaffinity(cx: &mut Ctx<'_>, tid: i32, len: u32, mask: UserAddr) -> SysResult {
    let mut bytes = [0u8; MAX_CPUS / 8];
    let n = usize::try_from(len).map_or(bytes.len(), |n| n.min(bytes.len()));
    cx.mm.read_exact(mask, &mut bytes[..n])?;
    let task = if tid < 0 { return Err(ESRCH.into()) } else { target(cx, tid)? };
    if !may_change(cx, &task) {
        return Err(EPERM.into());
    }
    let mut wanted: CpuMask = [0; MAX_CPUS / 64];
    for ((word, chunk), have) in wanted.iter_mut().zip(bytes.chunks_exact(8)).zip(&cx.task.kernel.system.cpus)
    {
        *word = u64::from_le_bytes(chunk.try_into().map_err(|_| EFAULT)?) & have;
    }
    if cpu_numbers(&wanted).next().is_none() {
        return Err(EINVAL.into());
    }
    // A promise of processor time is for all processors.
    let is_promised = task.attributes.lock().scheduling.policy == SCHED_DEADLINE;
    if is_promised && wanted != cx.task.kernel.system.cpus {
        return Err(EBUSY.into());
    }
    if let Some(host_tid) = task.account.host_tid() {
        host::system::set_affinity(host_tid, &wanted)?;
        task.kicker.set_affinity(&wanted);
    }
    task.attributes.lock().cpus = wanted;
    task.restart_soon();
    Ok(0)
}

/// `sched_getaffinity(2)`: returns the bytes written.
///
/// # Errors
/// `EINVAL`: `len` is no multiple of 8 or too short; `ESRCH`; `EFAULT`.
pub(super) fn sys_sched_getaffinity(cx: &mut Ctx<'_>, tid: i32, len: u32, mask: UserAddr) -> SysResult {
    let words = cx.task.kernel.system.cpu_limit().div_ceil(64);
    let len = len as usize;
    if len < words * 8 || !len.is_multiple_of(8) {
        return Err(EINVAL.into());
    }
    let task = if tid < 0 { return Err(ESRCH.into()) } else { target(cx, tid)? };
    let cpus = task.attributes.lock().cpus;
    let bytes: Vec<u8> = cpus[..words].iter().flat_map(|w| w.to_le_bytes()).collect();
    cx.mm.write_all(mask, &bytes)?;
    Ok(bytes.len() as u64)
}

/// The threads that getpriority(2) and setpriority(2) name.
///
/// # Errors
/// `EINVAL`: `which` is unknown; `ESRCH`: there is none.
fn threads(cx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    let kernel = &cx.task.kernel;
    let all = kernel.all_tasks();
    let found: Vec<Arc<Task>> = match which {
        0 => all
            .into_iter()
            .filter(|t| t.tid == if who == 0 { cx.task.tid } else { cx.task.id_of(who) })
            .collect(),
        1 => {
            let tree = kernel.tree.lock();
            let group_of = |pid: i32| tree.processes.get(&pid).map(|p| p.pgid);
            let pgid = if who == 0 { group_of(cx.task.group.pid) } else { Some(cx.task.id_of(who)) };
            all.into_iter().filter(|t| group_of(t.group.pid) == pgid).collect()
        }
        2 => {
            let uid = if who == 0 { cx.cred.uid } else { who as u32 };
            all.into_iter().filter(|t| t.cred().uid == uid && cx.task.pid_ns().sees(t.tid)).collect()
        }
        _ => return Err(EINVAL),
    };
    if found.is_empty() { Err(ESRCH) } else { Ok(found) }
}

/// `getpriority(2)`: 20 minus the lowest nice value.
pub(super) fn sys_getpriority(cx: &mut Ctx<'_>, which: i32, who: i32) -> SysResult {
    let nice = threads(cx, which, who)?.iter().map(|t| t.attributes.lock().scheduling.nice).min();
    Ok(u64::try_from(20 - nice.unwrap_or(0)).unwrap_or(20))
}

/// `setpriority(2)`.
///
/// # Errors
/// `EINVAL`, `ESRCH`; `EPERM`: another user's; `EACCES`: a lower value than allowed.
pub(super) fn sys_setpriority(cx: &mut Ctx<'_>, which: i32, who: i32, nice: i32) -> SysResult {
    let nice = nice.clamp(-20, 19);
    let mut result = Ok(());
    for task in threads(cx, which, who)? {
        let old = task.attributes.lock().scheduling.nice;
        if !may_change(cx, &task) {
            result = Err(EPERM);
        } else if nice < old && !may_nice(cx, &task, nice) {
            result = Err(EACCES);
        } else {
            task.attributes.lock().scheduling.nice = nice;
        }
    }
    result?;
    Ok(0)
}
