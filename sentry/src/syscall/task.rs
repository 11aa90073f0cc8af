//! Processes, identities, limits, futexes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::errno::{E2BIG, EAGAIN, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH, ETIMEDOUT};
use abi::{Errno, UserAddr};

use super::{Restart, Stop, SysResult};
use crate::mm::FutexScope;
use crate::task::Ctx;
use crate::task::clone::{CloneArgs, flag};

/// `fork(2)`.
pub(super) fn sys_fork(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.clone_task(&CloneArgs { exit_signal: 17, ..CloneArgs::default() })? as u64)
}

/// `vfork(2)`.
pub(super) fn sys_vfork(cx: &mut Ctx<'_>) -> SysResult {
    let args = CloneArgs { flags: flag::VFORK | flag::VM, exit_signal: 17, ..CloneArgs::default() };
    Ok(cx.clone_task(&args)? as u64)
}

/// `clone(2)`.
pub(super) fn sys_clone(
    cx: &mut Ctx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> SysResult {
    let args = CloneArgs {
        flags: flags & !0xff,
        exit_signal: (flags & 0xff) as i32,
        stack,
        parent_tid,
        child_tid,
        tls,
    };
    Ok(cx.clone_task(&args)? as u64)
}

/// `clone3(2)`.
pub(super) fn sys_clone3(cx: &mut Ctx<'_>, addr: UserAddr, size: u64) -> SysResult {
    if size < 64 {
        return Err(EINVAL.into());
    }
    if size > 4096 {
        return Err(E2BIG.into());
    }
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    let a: [u64; 8] = cx.mm.read_value(addr)?;
    let mut rest = vec![0u8; usize::try_from(size - 64).map_err(|_| E2BIG)?];
    cx.mm.read_exact(addr.checked_add(64).ok_or(EFAULT)?, &mut rest)?;
    if rest.iter().any(|&b| b != 0) || a[0] & 0xff != 0 || a[4] > 64 || (a[5] == 0) != (a[6] == 0) {
        return Err(EINVAL.into());
    }
    let args = CloneArgs {
        flags: a[0],
        exit_signal: a[4] as i32,
        stack: if a[5] == 0 { 0 } else { a[5].checked_add(a[6]).ok_or(EINVAL)? },
        parent_tid: a[3],
        child_tid: a[2],
        tls: a[7],
    };
    Ok(cx.clone_task(&args)? as u64)
}

/// `execve(2)`.
pub(super) fn sys_execve(cx: &mut Ctx<'_>, path: UserAddr, argv: UserAddr, envp: UserAddr) -> SysResult {
    let path = cx.path(path)?;
    let args = cx.strings(argv)?;
    let env = cx.strings(envp)?;
    cx.exec(&path, args, env)?;
    Err(Stop::NoReturn)
}

/// `exit(2)`.
pub(super) fn sys_exit(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    let group = cx.task.group.clone();
    let mut signals = group.signals.lock();
    cx.task.killed.store(true, Ordering::SeqCst);
    cx.task.signal_pending.store(true, Ordering::SeqCst);
    // The thread that ends last says how the process ended.
    if signals.threads.iter().all(|t| t.killed.load(Ordering::SeqCst)) {
        signals.end(&group, (code & 0xff) << 8);
    }
    Err(Stop::NoReturn)
}

/// `exit_group(2)`.
pub(super) fn sys_exit_group(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    cx.start_group_exit((code & 0xff) << 8);
    Err(Stop::NoReturn)
}

/// `getpid(2)`.
pub(super) fn sys_getpid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.task.group.pid as u64)
}

/// `gettid(2)`.
pub(super) fn sys_gettid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.task.tid as u64)
}

/// `getppid(2)`.
pub(super) fn sys_getppid(cx: &mut Ctx<'_>) -> SysResult {
    let tree = cx.task.kernel.tree.lock();
    Ok(tree.processes.get(&cx.task.group.pid).map_or(0, |p| p.parent) as u64)
}

fn process_ids(cx: &Ctx<'_>, pid: i32) -> Result<(i32, i32), Errno> {
    let pid = if pid == 0 { cx.task.group.pid } else { pid };
    let tree = cx.task.kernel.tree.lock();
    tree.processes.get(&pid).map(|p| (p.pgid, p.sid)).ok_or(ESRCH)
}

/// `getpgrp(2)`.
pub(super) fn sys_getpgrp(cx: &mut Ctx<'_>) -> SysResult {
    Ok(process_ids(cx, 0)?.0 as u64)
}

/// `getpgid(2)`.
pub(super) fn sys_getpgid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(process_ids(cx, pid)?.0 as u64)
}

/// `getsid(2)`.
pub(super) fn sys_getsid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(process_ids(cx, pid)?.1 as u64)
}

/// `setpgid(2)`.
pub(super) fn sys_setpgid(cx: &mut Ctx<'_>, pid: i32, pgid: i32) -> SysResult {
    let me = cx.task.group.pid;
    let pid = if pid == 0 { me } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return Err(EINVAL.into());
    }
    let mut tree = cx.task.kernel.tree.lock();
    let sid = tree.processes.get(&me).map_or(0, |p| p.sid);
    let target = tree.processes.get(&pid).ok_or(ESRCH)?;
    if pid != me {
        if target.parent != me {
            return Err(ESRCH.into());
        }
        if target.sid != sid {
            return Err(EPERM.into());
        }
        if target.has_execed {
            return Err(abi::errno::EACCES.into());
        }
    }
    if target.sid == pid {
        return Err(EPERM.into());
    }
    if pgid != pid && !tree.processes.values().any(|p| p.pgid == pgid && p.sid == sid) {
        return Err(EPERM.into());
    }
    if let Some(p) = tree.processes.get_mut(&pid) {
        p.pgid = pgid;
    }
    Ok(0)
}

/// `setsid(2)`.
pub(super) fn sys_setsid(cx: &mut Ctx<'_>) -> SysResult {
    let pid = cx.task.group.pid;
    let mut tree = cx.task.kernel.tree.lock();
    if tree.processes.values().any(|p| p.pgid == pid) {
        return Err(EPERM.into());
    }
    if let Some(p) = tree.processes.get_mut(&pid) {
        p.pgid = pid;
        p.sid = pid;
    }
    Ok(pid as u64)
}

/// `set_tid_address(2)`.
pub(super) fn sys_set_tid_address(cx: &mut Ctx<'_>, addr: UserAddr) -> SysResult {
    cx.clear_tid = addr.raw();
    Ok(cx.task.tid as u64)
}

/// `set_robust_list(2)`.
pub(super) fn sys_set_robust_list(cx: &mut Ctx<'_>, head: UserAddr, len: u64) -> SysResult {
    if len != 24 {
        return Err(EINVAL.into());
    }
    cx.robust_list = head.raw();
    Ok(0)
}

/// `arch_prctl(2)`.
pub(super) fn sys_arch_prctl(cx: &mut Ctx<'_>, code: u32, addr: UserAddr) -> SysResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    match code {
        SET_FS | SET_GS if addr.raw() >= cx.mm.task_size() => return Err(EPERM.into()),
        SET_FS => cx.regs.fs_base = addr.raw(),
        SET_GS => cx.regs.gs_base = addr.raw(),
        GET_FS => cx.mm.write_value(addr, &cx.regs.fs_base)?,
        GET_GS => cx.mm.write_value(addr, &cx.regs.gs_base)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

/// `prctl(2)`.
pub(super) fn sys_prctl(cx: &mut Ctx<'_>, option: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> SysResult {
    const PR_SET_PDEATHSIG: i32 = 1;
    const PR_GET_PDEATHSIG: i32 = 2;
    const PR_SET_CHILD_SUBREAPER: i32 = 36;
    const PR_GET_CHILD_SUBREAPER: i32 = 37;
    const PR_SET_NAME: i32 = 15;
    const PR_GET_NAME: i32 = 16;
    const PR_SET_VMA: i32 = 0x5356_4d41;
    match option {
        PR_SET_PDEATHSIG => {
            if a2 > 64 {
                return Err(EINVAL.into());
            }
            cx.task.parent_death_signal.store(a2 as i32, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_PDEATHSIG => {
            cx.mm.write_value(UserAddr(a2), &cx.task.parent_death_signal.load(Ordering::Relaxed))?;
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            cx.task.group.subreaper.store(a2 != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            let on = i32::from(cx.task.group.subreaper.load(Ordering::Relaxed));
            cx.mm.write_value(UserAddr(a2), &on)?;
            Ok(0)
        }
        PR_SET_NAME => {
            let mut name = [0u8; 16];
            let n = cx.mm.copy_in(UserAddr(a2), &mut name[..15])?;
            let end = name[..n].iter().position(|&b| b == 0).unwrap_or(n);
            cx.task.state.lock().name = name[..end].to_vec();
            Ok(0)
        }
        PR_GET_NAME => {
            let mut name = [0u8; 16];
            let current = cx.task.state.lock().name.clone();
            name[..current.len().min(15)].copy_from_slice(&current[..current.len().min(15)]);
            cx.mm.write_all(UserAddr(a2), &name)?;
            Ok(0)
        }
        PR_SET_VMA if a2 == 0 => {
            let name = if a5 == 0 { None } else { Some(cx.mm.read_cstr(UserAddr(a5), 80)?) };
            cx.mm.set_anon_name(a3, a4, name.as_deref())?;
            Ok(0)
        }
        _ => super::prctl::other(cx, option, a2, a3, a4, a5),
    }
}

/// `getrandom(2)`.
pub(super) fn sys_getrandom(cx: &mut Ctx<'_>, buf: UserAddr, len: u64, flags: u32) -> SysResult {
    if flags & !7 != 0 || flags & 6 == 6 {
        return Err(EINVAL.into());
    }
    let len = len.min(i32::MAX as u64);
    cx.mm.check_range(buf, len)?;
    let mut done = 0;
    let mut piece = [0u8; 4096];
    while done < len {
        let n = (len - done).min(4096) as usize;
        host::file::random(&mut piece[..n])?;
        let copied = match cx.mm.copy_out(buf.saturating_add(done), &piece[..n]) {
            Ok(c) => c,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        };
        done += copied as u64;
        if copied < n {
            break;
        }
    }
    Ok(done)
}

/// `sched_yield(2)`.
pub(super) fn sys_sched_yield(_cx: &mut Ctx<'_>) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}

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
    const PRIVATE: u32 = 128;
    const REALTIME: u32 = 256;
    let scope = if op & PRIVATE != 0 { FutexScope::Private } else { FutexScope::Shared };
    let command = op & !(PRIVATE | REALTIME);
    match command {
        0 | 9 => {
            let bitset = if command == 9 { val3 } else { u32::MAX };
            if bitset == 0 {
                return Err(EINVAL.into());
            }
            let mut deadline = super::time::timeout(cx, timeout)?;
            if let Some(ns) = &mut deadline {
                let now = cx.monotonic_ns();
                if command == 0 {
                    *ns = now.saturating_add(*ns);
                } else if op & REALTIME != 0 {
                    let real = cx.task.kernel.time.now(crate::time::Clock::Realtime).as_ns();
                    *ns = now.saturating_add(ns.saturating_sub(u64::try_from(real).unwrap_or(0)));
                }
            }
            let deadline = cx.restart_deadline.take().or(deadline);
            futex_wait(cx, addr, scope, val, bitset, deadline)
        }
        1 | 10 => {
            let bitset = if command == 10 { val3 } else { u32::MAX };
            if bitset == 0 {
                return Err(EINVAL.into());
            }
            let key = cx.mm.futex_key(addr, scope)?;
            Ok(cx.task.kernel.futexes.wake(&key, (val as usize).max(1), bitset) as u64)
        }
        3 | 4 => {
            let count = timeout.raw() as u32;
            if (val as i32) < 0 || (count as i32) < 0 {
                return Err(EINVAL.into());
            }
            let from = cx.mm.futex_key(addr, scope)?;
            let to = cx.mm.futex_key(addr2, scope)?;
            if command == 4 && cx.mm.load_u32(addr)? != val3 {
                return Err(EAGAIN.into());
            }
            let (woken, moved) = cx.task.kernel.futexes.requeue(&from, &to, val as usize, count as usize);
            Ok((woken + if command == 4 { moved } else { 0 }) as u64)
        }
        _ => Err(ENOSYS.into()),
    }
}

fn futex_wait(
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
