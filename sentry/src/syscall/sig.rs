//! Signals.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOENT, EPERM, ESRCH};
use abi::signal::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SaFlags, SigAction, SigInfo, SigSet, StackT, code};
use abi::{Errno, UserAddr};
use base::landlock::{Domain, scope};
use fs::file::oflag;

use super::{Restart, Stop, SysResult};
use crate::kernel::{Kernel, Tree};
use crate::signal::signalfd::{self, SignalFd};
use crate::signal::{Pending, SIGCONT, Sender, UNBLOCKABLE, bit, frame};
use crate::task::{Ctx, Task, pidfd};

/// `rt_sigaction(2)`.
pub(super) fn sys_rt_sigaction(
    cx: &mut Ctx<'_>,
    signo: i32,
    new: UserAddr,
    old: UserAddr,
    size: u64,
) -> SysResult {
    if size != 8 {
        return Err(EINVAL.into());
    }
    let action: Option<SigAction> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    if !(1..=64).contains(&signo) || (action.is_some() && bit(signo) & UNBLOCKABLE != 0) {
        return Err(EINVAL.into());
    }
    let mut unignored = false;
    let before = {
        let mut signals = cx.task.group.signals.lock();
        match action {
            None => signals.handlers.get(signo),
            Some(mut a) => {
                // Flags that the kernel does not know read as clear: programs find out so.
                a.flags &= SaFlags::KEPT.bits();
                a.mask = a.mask.as_mask();
                let ignored = signals.handlers.ignores(signo);
                let before = signals.handlers.replace(signo, a);
                unignored = ignored && !signals.handlers.ignores(signo);
                if signals.handlers.ignores(signo) {
                    signals.flush_everywhere(bit(signo));
                }
                before
            }
        }
    };
    if unignored {
        cx.task.group.timers.unignored(signo);
    }
    if !old.is_null() {
        cx.mm.write_value(old, &before)?;
    }
    Ok(0)
}

/// `rt_sigprocmask(2)`.
pub(super) fn sys_rt_sigprocmask(
    cx: &mut Ctx<'_>,
    how: u32,
    new: UserAddr,
    old: UserAddr,
    size: u64,
) -> SysResult {
    if size != 8 {
        return Err(EINVAL.into());
    }
    let before = cx.task.state.lock().mask;
    if !new.is_null() {
        let set: u64 = cx.mm.read_value(new)?;
        let set = set & !UNBLOCKABLE;
        let mask = match u64::from(how) {
            SIG_BLOCK => before | set,
            SIG_UNBLOCK => before & !set,
            SIG_SETMASK => set,
            _ => return Err(EINVAL.into()),
        };
        cx.set_mask(mask);
    }
    if !old.is_null() {
        cx.mm.write_value(old, &before)?;
    }
    Ok(0)
}

/// `rt_sigpending(2)`.
pub(super) fn sys_rt_sigpending(cx: &mut Ctx<'_>, set: UserAddr, size: u64) -> SysResult {
    if size > 8 {
        return Err(EINVAL.into());
    }
    let pending = {
        let signals = cx.task.group.signals.lock();
        let state = cx.task.state.lock();
        (signals.pending.set() | state.pending.set()) & state.mask
    };
    cx.mm.write_all(set, &pending.to_ne_bytes()[..size as usize])?;
    Ok(0)
}

/// `rt_sigreturn(2)`.
pub(super) fn sys_rt_sigreturn(cx: &mut Ctx<'_>) -> SysResult {
    let layout = cx.task.kernel.platform.xsave_layout();
    let restored = frame::pop(&cx.mm, &mut cx.regs, layout);
    let Ok(restored) = restored else {
        cx.force_segv(0);
        return Err(Stop::NoReturn);
    };
    cx.set_mask(restored.mask.0);
    let _ = frame::set_altstack(&mut cx.altstack, &restored.altstack, cx.regs.rsp);
    if cx.context.set_fp_state(&restored.fp).is_err() {
        cx.force_segv(0);
    }
    Err(Stop::NoReturn)
}

/// `sigaltstack(2)`.
pub(super) fn sys_sigaltstack(cx: &mut Ctx<'_>, new: UserAddr, old: UserAddr) -> SysResult {
    let set: Option<StackT> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    let before = frame::altstack_report(&cx.altstack, cx.regs.rsp);
    if let Some(stack) = set {
        frame::set_altstack(&mut cx.altstack, &stack, cx.regs.rsp)?;
    }
    if !old.is_null() {
        cx.mm.write_value(old, &before)?;
    }
    Ok(0)
}

/// `rt_sigsuspend(2)`.
pub(super) fn sys_rt_sigsuspend(cx: &mut Ctx<'_>, mask: UserAddr, size: u64) -> SysResult {
    if size != 8 {
        return Err(EINVAL.into());
    }
    let mask: u64 = cx.mm.read_value(mask)?;
    cx.set_temporary_mask(mask);
    sys_pause(cx)
}

/// `pause(2)`.
pub(super) fn sys_pause(cx: &mut Ctx<'_>) -> SysResult {
    cx.sleep_until(None, Restart::NoHand, |_| Ok(None::<()>))?;
    Err(EFAULT.into())
}

/// `rt_sigtimedwait(2)`.
pub(super) fn sys_rt_sigtimedwait(
    cx: &mut Ctx<'_>,
    set: UserAddr,
    info: UserAddr,
    timeout: UserAddr,
    size: u64,
) -> SysResult {
    if size != 8 {
        return Err(EINVAL.into());
    }
    let wanted: u64 = cx.mm.read_value::<u64>(set)? & !UNBLOCKABLE;
    let limit = super::time::timeout(cx, timeout)?;
    let found = match cx.dequeue(!wanted) {
        None if limit != Some(0) => {
            let deadline = limit.map(|ns| cx.monotonic_ns().saturating_add(ns));
            wait_for_signal(cx, wanted, deadline)
        }
        None => Err(EAGAIN),
        Some(p) => Ok(p),
    }?;
    if !info.is_null() {
        cx.mm.write_value(info, &found.info)?;
    }
    Ok(found.signo as u64)
}

fn wait_for_signal(cx: &mut Ctx<'_>, wanted: u64, deadline: Option<u64>) -> Result<Pending, Errno> {
    let task = cx.task.clone();
    {
        let signals = task.group.signals.lock();
        let mut state = task.state.lock();
        state.real_mask = Some(state.mask);
        state.mask &= !wanted;
        task.recalc(&signals, &state);
    }
    let slept = cx.sleep_until(deadline, Restart::Sys, |_| Ok(None::<()>));
    {
        let signals = task.group.signals.lock();
        let mut state = task.state.lock();
        if let Some(mask) = state.real_mask.take() {
            state.mask = mask;
        }
        task.recalc(&signals, &state);
    }
    cx.dequeue(!wanted).ok_or(if slept.is_err() { EINTR } else { EAGAIN })
}

/// Whether the caller may send `signo` to a process of which `target` is a thread (kill(2), "permission").
fn check(cx: &Ctx<'_>, tree: &Tree, target: &Task, signo: i32) -> Result<(), Errno> {
    if !(0..=64).contains(&signo) {
        return Err(EINVAL);
    }
    if Arc::ptr_eq(&target.group, &cx.task.group) {
        return Ok(());
    }
    let them = target.state.lock().cred.clone();
    let me = &cx.cred;
    let is_kept = |d: &Arc<Domain>| d.keeps_from(them.landlock.as_ref(), scope::SIGNAL);
    if me.landlock.as_ref().is_some_and(is_kept) {
        return Err(EPERM);
    }
    let alike = [me.uid, me.euid].iter().any(|&id| id == them.uid || id == them.suid);
    if alike || me.has(base::cred::cap::KILL) {
        return Ok(());
    }
    let sid = |pid: i32| tree.processes.get(&pid).map(|p| p.sid);
    let same_session = signo == SIGCONT && sid(target.group.pid) == sid(cx.task.group.pid);
    if same_session { Ok(()) } else { Err(EPERM) }
}

/// Sends to one process; one that is a zombie takes signals without effect.
fn to_process(
    cx: &Ctx<'_>,
    tree: &Tree,
    pid: i32,
    signo: i32,
    info: SigInfo,
    sender: Sender,
) -> Result<(), Errno> {
    let process = tree.processes.get(&pid).ok_or(ESRCH)?;
    let Some(first) = process.group.first_thread() else {
        return if (0..=64).contains(&signo) { Ok(()) } else { Err(EINVAL) };
    };
    check(cx, tree, &first, signo)?;
    if signo == 0 {
        return Ok(());
    }
    cx.task.kernel.send(tree, &first, true, sender, Pending::new(info, None))
}

/// Sends to all processes that `chosen` picks; succeeds if one of them can be sent to.
fn to_many(
    cx: &Ctx<'_>,
    kernel: &Kernel,
    signo: i32,
    info: SigInfo,
    chosen: impl Fn(&Tree, i32) -> bool,
) -> Result<(u64, Errno), Errno> {
    let tree = kernel.tree.lock();
    let mut targets: Vec<i32> = tree.processes.keys().copied().filter(|&id| chosen(&tree, id)).collect();
    targets.sort_unstable();
    let (mut sent, mut last) = (0, ESRCH);
    for id in targets {
        match to_process(cx, &tree, id, signo, info, Sender::Kill) {
            Ok(()) => sent += 1,
            Err(e) => last = e,
        }
    }
    if sent > 0 { Ok((sent, last)) } else { Err(last) }
}

fn group_of_caller(tree: &Tree, pid: i32) -> i32 {
    tree.processes.get(&pid).map_or(0, |p| p.pgid)
}

/// `kill(2)`.
pub(super) fn sys_kill(cx: &mut Ctx<'_>, pid: i32, signo: i32) -> SysResult {
    let kernel = cx.task.kernel.clone();
    let info = SigInfo::kill(signo as u32, code::SI_USER, cx.task.group.pid, cx.cred.uid);
    let own = cx.task.group.pid;
    match pid {
        i32::MIN => return Err(ESRCH.into()),
        p if p > 0 => {
            let p = cx.task.id_of(p);
            let tree = kernel.tree.lock();
            // A thread's ID stands for its process.
            let pid = tree.tasks.get(&p).map_or(p, |t| t.group.pid);
            to_process(cx, &tree, pid, signo, info, Sender::Kill)?;
        }
        -1 => match to_many(cx, &kernel, signo, info, |_, id| cx.task.shown_id(id) > 1 && id != own) {
            // Processes that may not be sent to are passed over.
            Ok(_) | Err(EPERM) => {}
            Err(e) => return Err(e.into()),
        },
        p => {
            to_many(cx, &kernel, signo, info, |tree, id| {
                let pgid = if p == 0 { group_of_caller(tree, own) } else { cx.task.id_of(-p) };
                tree.processes.get(&id).is_some_and(|q| q.pgid == pgid)
            })?;
        }
    }
    Ok(0)
}

fn to_thread(
    cx: &Ctx<'_>,
    tgid: Option<i32>,
    tid: i32,
    signo: i32,
    info: SigInfo,
    sender: Sender,
) -> SysResult {
    let kernel = &cx.task.kernel;
    let tree = kernel.tree.lock();
    let task =
        tree.tasks.get(&tid).filter(|t| tgid.is_none_or(|g| t.group.pid == g)).cloned().ok_or(ESRCH)?;
    check(cx, &tree, &task, signo)?;
    if signo != 0 {
        kernel.send(&tree, &task, false, sender, Pending::new(info, None))?;
    }
    Ok(0)
}

/// `tgkill(2)`.
pub(super) fn sys_tgkill(cx: &mut Ctx<'_>, tgid: i32, tid: i32, signo: i32) -> SysResult {
    if tid <= 0 || tgid <= 0 {
        return Err(EINVAL.into());
    }
    let info = SigInfo::kill(signo as u32, code::SI_TKILL, cx.task.group.pid, cx.cred.uid);
    to_thread(cx, Some(cx.task.id_of(tgid)), cx.task.id_of(tid), signo, info, Sender::Thread)
}

/// `tkill(2)`.
pub(super) fn sys_tkill(cx: &mut Ctx<'_>, tid: i32, signo: i32) -> SysResult {
    if tid <= 0 {
        return Err(EINVAL.into());
    }
    let info = SigInfo::kill(signo as u32, code::SI_TKILL, cx.task.group.pid, cx.cred.uid);
    to_thread(cx, None, cx.task.id_of(tid), signo, info, Sender::Thread)
}

/// Copies in a `siginfo_t` for `signo`.
fn read_info(cx: &Ctx<'_>, signo: i32, addr: UserAddr) -> Result<SigInfo, Errno> {
    let mut info: SigInfo = cx.mm.read_value(addr)?;
    info.signo = signo;
    Ok(info)
}

/// Only the kernel says that a signal is its own or kill(2)'s; a process may pretend so to itself.
fn may_claim(info: &SigInfo) -> bool {
    info.code < 0 && info.code != code::SI_TKILL
}

/// `rt_sigqueueinfo(2)`.
pub(super) fn sys_rt_sigqueueinfo(cx: &mut Ctx<'_>, pid: i32, signo: i32, info: UserAddr) -> SysResult {
    let info = read_info(cx, signo, info)?;
    let pid = cx.task.id_of(pid);
    if !may_claim(&info) && pid != cx.task.tid {
        return Err(EPERM.into());
    }
    let kernel = cx.task.kernel.clone();
    let tree = kernel.tree.lock();
    // A thread's ID stands for its process.
    let pid = tree.tasks.get(&pid).map_or(pid, |t| t.group.pid);
    to_process(cx, &tree, pid, signo, info, Sender::Queue)?;
    Ok(0)
}

/// `rt_tgsigqueueinfo(2)`.
pub(super) fn sys_rt_tgsigqueueinfo(
    cx: &mut Ctx<'_>,
    tgid: i32,
    tid: i32,
    signo: i32,
    info: UserAddr,
) -> SysResult {
    let info = read_info(cx, signo, info)?;
    if tid <= 0 || tgid <= 0 {
        return Err(EINVAL.into());
    }
    let (tgid, tid) = (cx.task.id_of(tgid), cx.task.id_of(tid));
    if !may_claim(&info) && tid != cx.task.tid {
        return Err(EPERM.into());
    }
    to_thread(cx, Some(tgid), tid, signo, info, Sender::Queue)
}

/// `signalfd4(2)`.
pub(super) fn sys_signalfd4(cx: &mut Ctx<'_>, fd: i32, mask: UserAddr, size: u64, flags: u32) -> SysResult {
    if size != 8 {
        return Err(EINVAL.into());
    }
    let mask: SigSet = cx.mm.read_value(mask)?;
    if flags & !(oflag::CLOEXEC | oflag::NONBLOCK) != 0 {
        return Err(EINVAL.into());
    }
    if fd == -1 {
        return Ok(cx.install(signalfd::new(mask.0, flags), flags & oflag::CLOEXEC != 0)? as u64);
    }
    let file = cx.file(fd)?;
    file.ops.as_any().downcast_ref::<SignalFd>().ok_or(EINVAL)?.set_mask(mask.0);
    Ok(fd as u64)
}

/// `signalfd(2)`.
pub(super) fn sys_signalfd(cx: &mut Ctx<'_>, fd: i32, mask: UserAddr, size: u64) -> SysResult {
    sys_signalfd4(cx, fd, mask, size, 0)
}

/// `pidfd_open(2)`.
pub(super) fn sys_pidfd_open(cx: &mut Ctx<'_>, pid: i32, flags: u32) -> SysResult {
    if flags & !oflag::NONBLOCK != 0 || pid <= 0 {
        return Err(EINVAL.into());
    }
    let group = {
        let pid = cx.task.id_of(pid);
        let tree = cx.task.kernel.tree.lock();
        match tree.processes.get(&pid) {
            Some(p) => p.group.clone(),
            None if tree.tasks.contains_key(&pid) => return Err(ENOENT.into()),
            None => return Err(ESRCH.into()),
        }
    };
    Ok(cx.install(pidfd::new(group, flags), true)? as u64)
}

/// `pidfd_send_signal(2)`.
pub(super) fn sys_pidfd_send_signal(
    cx: &mut Ctx<'_>,
    fd: i32,
    signo: i32,
    info: UserAddr,
    flags: u32,
) -> SysResult {
    const THREAD: u32 = 1;
    const THREAD_GROUP: u32 = 2;
    const PROCESS_GROUP: u32 = 4;
    if !matches!(flags, 0 | THREAD | THREAD_GROUP | PROCESS_GROUP) {
        return Err(EINVAL.into());
    }
    let file = cx.file(fd)?;
    if file.flags() & oflag::PATH != 0 {
        return Err(EBADF.into());
    }
    let group = match pidfd::group_of(&file) {
        Ok(group) => group.clone(),
        Err(e) => crate::proc::process_of(&file).ok_or(e)?,
    };
    let own = SigInfo::kill(signo as u32, code::SI_USER, cx.task.group.pid, cx.cred.uid);
    let (info, sender) = if info.is_null() {
        (own, Sender::Kill)
    } else {
        let given: SigInfo = cx.mm.read_value(info)?;
        if given.signo != signo {
            return Err(EINVAL.into());
        }
        if !may_claim(&given) && group.pid != cx.task.tid {
            return Err(EPERM.into());
        }
        (given, Sender::Queue)
    };
    let kernel = cx.task.kernel.clone();
    if flags == THREAD {
        return to_thread(cx, Some(group.pid), group.pid, signo, info, sender);
    }
    let tree = kernel.tree.lock();
    let alive = tree.processes.get(&group.pid).filter(|p| Arc::ptr_eq(&p.group, &group));
    let pgid = alive.ok_or(ESRCH)?.pgid;
    if flags != PROCESS_GROUP {
        to_process(cx, &tree, group.pid, signo, info, sender)?;
        return Ok(0);
    }
    drop(tree);
    to_many(cx, &kernel, signo, info, |tree, id| tree.processes.get(&id).is_some_and(|p| p.pgid == pgid))?;
    Ok(0)
}

/// `restart_syscall(2)`: sleeps that a signal stopped go on by themselves, so there is nothing to restart.
///
/// # Errors
/// `EINTR`, always.
pub(super) fn sys_restart_syscall(_cx: &mut Ctx<'_>) -> SysResult {
    Err(abi::errno::EINTR.into())
}
