//! Signals.

use abi::errno::{EFAULT, EINVAL, EPERM, ESRCH};
use abi::signal::{SigAction, SigInfo, StackT};
use abi::{Errno, UserAddr};

use super::{Restart, Stop, SysResult};
use crate::signal::{SIGKILL, SIGSTOP, UNBLOCKABLE, frame};
use crate::task::Ctx;

impl Ctx<'_> {
    /// Sets a signal mask for the length of one call; the old one comes back once signals are delivered.
    pub fn set_temporary_mask(&mut self, mask: u64) {
        let mut state = self.task.state.lock();
        self.saved_mask = Some(std::mem::replace(&mut state.mask, mask & !UNBLOCKABLE));
    }
}

/// `rt_sigaction(2)`.
pub(super) fn sys_rt_sigaction(
    cx: &mut Ctx<'_>,
    signo: i32,
    new: UserAddr,
    old: UserAddr,
    size: u64,
) -> SysResult {
    if size != 8 || !(1..=64).contains(&signo) {
        return Err(EINVAL.into());
    }
    let action: Option<SigAction> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    if action.is_some() && (signo == SIGKILL || signo == SIGSTOP) {
        return Err(EINVAL.into());
    }
    let before = {
        let mut signals = cx.task.group.signals.lock();
        let slot = &mut signals.actions[(signo - 1) as usize];
        let before = *slot;
        if let Some(a) = action {
            *slot = a;
        }
        before
    };
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
    let set: Option<u64> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    let before = cx.task.state.lock().mask;
    if let Some(set) = set {
        let mask = match how {
            0 => before | set,
            1 => before & !set,
            2 => set,
            _ => return Err(EINVAL.into()),
        };
        cx.task.state.lock().mask = mask & !UNBLOCKABLE;
    }
    if !old.is_null() {
        cx.mm.write_value(old, &before)?;
    }
    Ok(0)
}

/// `rt_sigreturn(2)`.
pub(super) fn sys_rt_sigreturn(cx: &mut Ctx<'_>) -> SysResult {
    let layout = cx.task.kernel.platform.xsave_layout();
    let Ok(restored) = frame::pop(&cx.mm, &mut cx.regs, layout) else {
        cx.kill_group(11);
        return Err(Stop::NoReturn);
    };
    cx.task.state.lock().mask = restored.mask.0 & !UNBLOCKABLE;
    let _ = frame::set_altstack(&mut cx.altstack, &restored.altstack, cx.regs.rsp);
    if cx.context.set_fp_state(&restored.fp).is_err() {
        cx.kill_group(11);
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

/// kill(2), "permission".
fn may_signal(cx: &Ctx<'_>, target: &crate::task::Task) -> bool {
    let them = target.state.lock().cred.clone();
    let me = &cx.cred;
    me.has(base::cred::cap::KILL) || [me.uid, me.euid].iter().any(|&id| id == them.uid || id == them.suid)
}

fn check(cx: &Ctx<'_>, pid: i32) -> Result<(), Errno> {
    match cx.task.kernel.task(pid) {
        Some(t) if !may_signal(cx, &t) => Err(EPERM),
        _ => Ok(()),
    }
}

/// `kill(2)`.
pub(super) fn sys_kill(cx: &mut Ctx<'_>, pid: i32, signo: i32) -> SysResult {
    if !(0..=64).contains(&signo) {
        return Err(EINVAL.into());
    }
    let kernel = cx.task.kernel.clone();
    let info = SigInfo::kill(signo as u32, 0, cx.task.group.pid, cx.cred.uid);
    if pid > 0 {
        check(cx, pid)?;
        kernel.signal_process(pid, signo, info)?;
        return Ok(0);
    }
    let own = cx.task.group.pid;
    let targets: Vec<i32> = {
        let tree = kernel.tree.lock();
        let pgid = if pid == 0 { tree.processes.get(&own).map_or(0, |p| p.pgid) } else { pid.wrapping_neg() };
        let all = pid == -1;
        tree.processes
            .iter()
            .filter(|(id, p)| if all { **id != 1 && **id != own } else { p.pgid == pgid })
            .map(|(id, _)| *id)
            .collect()
    };
    let mut result = Err(ESRCH);
    for id in targets {
        let one = check(cx, id).and_then(|()| kernel.signal_process(id, signo, info));
        if result.is_err() {
            result = one;
        }
    }
    result?;
    Ok(0)
}

fn to_thread(cx: &mut Ctx<'_>, tgid: Option<i32>, tid: i32, signo: i32) -> SysResult {
    if tid <= 0 || tgid.is_some_and(|t| t <= 0) || !(0..=64).contains(&signo) {
        return Err(EINVAL.into());
    }
    let kernel = cx.task.kernel.clone();
    let task = kernel.task(tid).filter(|t| tgid.is_none_or(|g| t.group.pid == g)).ok_or(ESRCH)?;
    if !may_signal(cx, &task) {
        return Err(EPERM.into());
    }
    if signo != 0 {
        const SI_TKILL: i32 = -6;
        let info = SigInfo::kill(signo as u32, SI_TKILL, cx.task.group.pid, cx.cred.uid);
        kernel.signal_task(&task, signo, info);
    }
    Ok(0)
}

/// `tgkill(2)`.
pub(super) fn sys_tgkill(cx: &mut Ctx<'_>, tgid: i32, tid: i32, signo: i32) -> SysResult {
    to_thread(cx, Some(tgid), tid, signo)
}

/// `tkill(2)`.
pub(super) fn sys_tkill(cx: &mut Ctx<'_>, tid: i32, signo: i32) -> SysResult {
    to_thread(cx, None, tid, signo)
}
