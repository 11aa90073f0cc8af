//! Signals: sending, delivery, handlers (signal(7), Linux kernel/signal.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::ESRCH;
use abi::signal::{SigAction, SigInfo, SigSet};

use crate::kernel::Kernel;
use crate::syscall::Restart;
use crate::task::{Ctx, Pending, Task, ThreadGroup};

pub mod frame;

pub(crate) const SIGILL: i32 = 4;
pub(crate) const SIGTRAP: i32 = 5;
pub(crate) const SIGBUS: i32 = 7;
pub(crate) const SIGFPE: i32 = 8;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGSEGV: i32 = 11;
pub(crate) const SIGPIPE: i32 = 13;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGSTOP: i32 = 19;
pub(crate) const ILL_ILLOPN: i32 = 2;
/// SIGKILL and SIGSTOP, which cannot be blocked.
pub(crate) const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);

const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;

/// The bit of `signo` in a mask.
pub(crate) const fn bit(signo: i32) -> u64 {
    1 << (signo - 1)
}

/// Signals that do nothing by default: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const fn is_ignored_by_default(signo: i32) -> bool {
    matches!(signo, 17 | 18 | 23 | 28)
}

/// Signals that stop by default.
const fn stops_by_default(signo: i32) -> bool {
    matches!(signo, 19..=22)
}

const fn dumps_core(signo: i32) -> bool {
    matches!(signo, 3 | 4 | 5 | 6 | 7 | 8 | 11 | 24 | 25 | 31)
}

fn queue(list: &mut Vec<Pending>, signo: i32, info: SigInfo) {
    // Standard signals do not queue.
    if signo < 32 && list.iter().any(|p| p.signo == signo) {
        return;
    }
    list.push(Pending { signo, info });
}

impl ThreadGroup {
    fn ignores(&self, signo: i32) -> bool {
        let handler = self.signals.lock().actions[(signo - 1) as usize].handler;
        handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(signo))
    }
}

impl Kernel {
    /// Sends a signal to one thread.
    pub fn signal_task(&self, task: &Arc<Task>, signo: i32, info: SigInfo) {
        let blocked = task.state.lock().mask & bit(signo) != 0;
        if !blocked && signo != SIGKILL && task.group.ignores(signo) {
            return;
        }
        queue(&mut task.state.lock().pending, signo, info);
        task.interrupt();
    }

    /// Sends a signal to a process: to one of its threads that does not block it.
    ///
    /// # Errors
    /// `ESRCH`: there is no such process.
    pub fn signal_process(&self, pid: i32, signo: i32, info: SigInfo) -> Result<(), Errno> {
        let tree = self.tree.lock();
        let process = tree.processes.get(&pid).ok_or(ESRCH)?;
        if process.zombie.is_some() || signo == 0 {
            return Ok(());
        }
        let group = process.group.clone();
        let threads: Vec<_> =
            tree.tasks.values().filter(|t| Arc::ptr_eq(&t.group, &group)).cloned().collect();
        drop(tree);
        let blocked_by_all = threads.iter().all(|t| t.state.lock().mask & bit(signo) != 0);
        if !blocked_by_all && signo != SIGKILL && group.ignores(signo) {
            return Ok(());
        }
        queue(&mut group.signals.lock().pending, signo, info);
        let chosen = threads
            .iter()
            .find(|t| t.tid == pid && t.state.lock().mask & bit(signo) == 0)
            .or_else(|| threads.iter().find(|t| t.state.lock().mask & bit(signo) == 0));
        if let Some(t) = chosen {
            t.interrupt();
        }
        Ok(())
    }
}

impl Ctx<'_> {
    /// Whether a signal waits that the thread does not block, or the thread must end.
    pub fn has_signal(&self) -> bool {
        if self.task.must_exit() {
            return true;
        }
        let group = self.task.group.signals.lock();
        let state = self.task.state.lock();
        let open = |p: &Pending| state.mask & bit(p.signo) == 0 || bit(p.signo) & UNBLOCKABLE != 0;
        state.pending.iter().any(open) || group.pending.iter().any(open)
    }

    fn take_signal(&self) -> Option<Pending> {
        let mut group = self.task.group.signals.lock();
        let mut state = self.task.state.lock();
        let mask = state.mask & !UNBLOCKABLE;
        let pick = |list: &[Pending]| {
            let open = list.iter().enumerate().filter(|(_, p)| mask & bit(p.signo) == 0);
            open.min_by_key(|(_, p)| p.signo).map(|(i, _)| i)
        };
        if let Some(i) = pick(&state.pending) {
            return Some(state.pending.remove(i));
        }
        pick(&group.pending).map(|i| group.pending.remove(i))
    }

    /// Sends the thread a signal that it cannot escape: when it is blocked or ignored, the default action is taken.
    pub fn force_signal(&mut self, info: SigInfo) {
        let signo = info.signo;
        {
            let mut group = self.task.group.signals.lock();
            let mut state = self.task.state.lock();
            let action = &mut group.actions[(signo - 1) as usize];
            if state.mask & bit(signo) != 0 || action.handler == SIG_IGN {
                action.handler = SIG_DFL;
                state.mask &= !bit(signo);
            }
            state.pending.insert(0, Pending { signo, info });
        }
        self.deliver_signals(None);
    }

    /// Ends the process as signal `signo` does.
    pub fn kill_group(&mut self, signo: i32) {
        let core = if dumps_core(signo) && self.core_limit() { 0x80 } else { 0 };
        self.start_group_exit(signo | core);
    }

    fn core_limit(&self) -> bool {
        self.task.group.rlimits.lock()[4].0 > 0
    }

    /// Acts on pending signals before user code goes on. `restart` says that a system call was interrupted.
    pub fn deliver_signals(&mut self, mut restart: Option<Restart>) {
        while let Some(p) = self.take_signal() {
            let action = {
                let mut group = self.task.group.signals.lock();
                let slot = &mut group.actions[(p.signo - 1) as usize];
                let action = *slot;
                if action.handler > SIG_IGN && action.flags & SA_RESETHAND != 0 {
                    slot.handler = SIG_DFL;
                }
                action
            };
            if let Some(tracer) = &self.task.kernel.tracer {
                tracer.signal(self.task.tid, &p.info);
            }
            match action.handler {
                SIG_IGN => {}
                SIG_DFL if is_ignored_by_default(p.signo) => {}
                SIG_DFL if stops_by_default(p.signo) && p.signo != SIGSTOP && self.task.group.pid == 1 => {}
                SIG_DFL if stops_by_default(p.signo) => {
                    // Stopping is part of job control, which the next milestone brings: seen in the log until then.
                    log::warn!("task {}: stop signal {} is not supported", self.task.tid, p.signo);
                }
                SIG_DFL => return self.kill_group(p.signo),
                _ => {
                    if let Some(kind) = restart.take() {
                        let again = match kind {
                            Restart::Sys => action.flags & SA_RESTART != 0,
                            Restart::NoHand | Restart::Block => false,
                        };
                        self.finish_restart(again);
                    }
                    if !self.push_handler(&action, &p) {
                        return self.kill_group(SIGSEGV);
                    }
                }
            }
        }
        if let Some(kind) = restart {
            let _ = kind;
            if self.task.must_exit() {
                return;
            }
            self.finish_restart(true);
        }
        if let Some(mask) = self.saved_mask.take() {
            self.task.state.lock().mask = mask;
        }
    }

    fn finish_restart(&mut self, again: bool) {
        if again {
            self.regs.rax = self.regs.orig_rax;
            self.regs.rip = self.regs.rip.wrapping_sub(2);
        } else {
            self.restart_deadline = None;
            self.regs.rax = (-i64::from(abi::errno::EINTR.raw())) as u64;
        }
    }

    fn push_handler(&mut self, action: &SigAction, p: &Pending) -> bool {
        let Ok(fp) = self.context.fp_state() else { return false };
        let layout = self.task.kernel.platform.xsave_layout();
        let current = self.task.state.lock().mask;
        let old_mask = self.saved_mask.take().unwrap_or(current);
        let delivery = frame::Delivery {
            action,
            info: &p.info,
            old_mask: SigSet(old_mask),
            fp: &fp,
            xfeatures: layout.features,
            trap: self.trap,
        };
        if frame::push(&self.mm, &mut self.regs, &mut self.altstack, &delivery).is_err()
            || self.context.set_fp_state(&frame::initial_fp(layout)).is_err()
        {
            return false;
        }
        let mut mask = current | action.mask.0;
        if action.flags & SA_NODEFER == 0 {
            mask |= bit(p.signo);
        }
        self.task.state.lock().mask = mask & !UNBLOCKABLE;
        true
    }

    /// Starts the end of the whole process with wait status `status`.
    pub fn start_group_exit(&mut self, status: i32) {
        let group = self.task.group.clone();
        if group.exit_status.compare_exchange(-1, status, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let threads: Vec<_> = {
                let tree = self.task.kernel.tree.lock();
                tree.tasks.values().filter(|t| Arc::ptr_eq(&t.group, &group)).cloned().collect()
            };
            for t in threads {
                t.interrupt();
            }
        }
    }
}
