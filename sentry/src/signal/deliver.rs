//! What a thread does with its signals before user code goes on (Linux kernel/signal.c, `get_signal`;
//! arch/x86/kernel/signal.c, `arch_do_signal_or_restart`).

use std::sync::atomic::Ordering;

use abi::signal::{SaFlags, SigAction, SigInfo, SigSet};

use super::{
    GroupSignals, Pending, SIG_DFL, SIG_IGN, SIGALRM, SIGKILL, SIGSEGV, SIGSTOP, UNBLOCKABLE, bit,
    dumps_core, frame, is_ignored_by_default, stops_by_default,
};
use crate::syscall::Restart;
use crate::task::{Ctx, Task, TaskState};

impl Task {
    /// Decides anew whether the thread has something to look at; for the thread itself (`recalc_sigpending`).
    pub(crate) fn recalc(&self, signals: &GroupSignals, state: &TaskState) {
        let open = (signals.pending.set() | state.pending.set()) & !state.mask;
        let pending = open != 0 || state.stop_pending || self.must_exit() || self.trace.is_interrupted();
        self.signal_pending.store(pending, Ordering::SeqCst);
    }

    /// Gives signals of the process in `set`, which this thread no longer takes, to others (`retarget_shared_pending`).
    pub(crate) fn retarget(&self, signals: &GroupSignals, set: u64) {
        let mut left = signals.pending.set() & set;
        for t in &signals.threads {
            if left == 0 {
                return;
            }
            if std::ptr::eq(t.as_ref(), self) {
                continue;
            }
            let takes = left & !t.state.lock().mask;
            if takes != 0 {
                left &= !takes;
                if !t.signal_pending.load(Ordering::SeqCst) {
                    t.signal_wake();
                }
            }
        }
    }
}

impl Ctx<'_> {
    /// Whether a signal waits that the thread does not block, or the thread must stop or end.
    pub fn has_signal(&self) -> bool {
        self.task.signal_pending.load(Ordering::SeqCst)
    }

    /// Sets the mask of blocked signals (`set_current_blocked`); returns the former.
    pub fn set_mask(&mut self, mask: u64) -> u64 {
        let signals = self.task.group.signals.lock();
        let mut state = self.task.state.lock();
        let old = std::mem::replace(&mut state.mask, mask & !UNBLOCKABLE);
        let newly = state.mask & !old;
        self.task.recalc(&signals, &state);
        drop(state);
        if signals.pending.set() & newly != 0 {
            self.task.retarget(&signals, newly);
        }
        old
    }

    /// Sets a signal mask for the length of one call. A call that no signal ends brings the old one back itself; else it
    /// comes back once signals are delivered.
    pub fn set_temporary_mask(&mut self, mask: u64) {
        self.saved_mask = Some(self.set_mask(mask));
    }

    /// Brings back the mask that [`Ctx::set_temporary_mask`] replaced.
    pub fn restore_mask(&mut self) {
        if let Some(mask) = self.saved_mask.take() {
            self.set_mask(mask);
        }
    }

    /// Takes the next of the thread's signals that `mask` does not block.
    pub(crate) fn dequeue(&mut self, mask: u64) -> Option<Pending> {
        loop {
            let mut is_shared = false;
            let mut pending = {
                let mut signals = self.task.group.signals.lock();
                let mut state = self.task.state.lock();
                let taken =
                    state.pending.take_synchronous(mask).or_else(|| state.pending.take(mask)).or_else(|| {
                        is_shared = true;
                        signals.pending.take(mask)
                    });
                if let Some(p) = &taken
                    && stops_by_default(p.signo)
                {
                    state.stop_dequeued = true;
                }
                self.task.recalc(&signals, &state);
                taken?
            };
            pending.charge = None;
            if is_shared && pending.signo == SIGALRM {
                self.task.group.timers.alarm_delivered();
            }
            match pending.hook.take() {
                Some(hook) if !hook.dequeued(&mut pending.info) => {}
                _ => return Some(pending),
            }
        }
    }

    /// Sends the thread a signal that it cannot escape: when it is blocked or ignored, the default action is taken
    /// (`force_sig_info_to_task`). It is delivered before user code goes on.
    pub fn force_signal(&mut self, info: SigInfo) {
        let signo = info.signo;
        let signals = self.task.group.signals.lock();
        let mut state = self.task.state.lock();
        let mut action = signals.handlers.get(signo);
        if state.mask & bit(signo) != 0 || action.handler == SIG_IGN {
            action.handler = SIG_DFL;
            signals.handlers.replace(signo, action);
            state.mask &= !bit(signo);
        }
        if action.handler == SIG_DFL && !self.task.trace.is_traced() {
            self.task.group.unkillable.store(false, Ordering::Relaxed);
        }
        if !state.pending.has(signo) {
            state.pending.push(Pending::new(info, None));
        }
        self.task.signal_pending.store(true, Ordering::SeqCst);
    }

    /// A frame cannot be built or read: SIGSEGV, for which there is no handler if its own delivery failed
    /// (`force_sigsegv`).
    pub(crate) fn force_segv(&mut self, delivering: i32) {
        if delivering == SIGSEGV {
            self.kill_group(SIGSEGV);
        } else {
            self.force_signal(SigInfo::kernel(SIGSEGV as u32));
        }
    }

    /// Ends the process as signal `signo` does.
    pub fn kill_group(&mut self, signo: i32) {
        let core = if dumps_core(signo) && self.core_limit() { 0x80 } else { 0 };
        self.start_group_exit(signo | core);
    }

    fn core_limit(&self) -> bool {
        self.task.group.rlimits.lock()[4].0 > 0
    }

    /// Starts the end of the whole process with wait status `status`.
    pub fn start_group_exit(&mut self, status: i32) {
        self.task.group.start_exit(status);
    }

    /// The next signal that has a handler; all others are acted on. `None` when there is nothing to do.
    fn next_handled(&mut self) -> Option<(Pending, SigAction)> {
        loop {
            if self.task.must_exit() {
                return None;
            }
            if self.task.state.lock().stop_pending {
                self.stop_here();
                continue;
            }
            if self.task.trace.is_interrupted() {
                self.trace_interrupt();
                continue;
            }
            let mask = self.task.state.lock().mask;
            let mut p = self.dequeue(mask)?;
            if self.task.trace.is_traced() && p.signo != SIGKILL {
                let Some(info) = self.trace_signal(p.info) else { continue };
                p = Pending::new(info, None);
                if self.task.must_exit() {
                    return None;
                }
                if self.task.state.lock().mask & bit(p.signo) != 0 {
                    self.task.state.lock().pending.push(p);
                    continue;
                }
            }
            let action = {
                let signals = self.task.group.signals.lock();
                let action = signals.handlers.get(p.signo);
                if action.is_handler() && action.sa_flags().contains(SaFlags::RESETHAND) {
                    signals.handlers.replace(p.signo, SigAction { handler: SIG_DFL, ..action });
                }
                action
            };
            if let Some(tracer) = &self.task.kernel.tracer {
                tracer.signal(self.task.tid, &p.info);
            }
            match action.handler {
                SIG_IGN => {}
                SIG_DFL if is_ignored_by_default(p.signo) => {}
                // What was blocked when it came does nothing to the first process of a namespace either.
                SIG_DFL
                    if self.task.group.unkillable.load(Ordering::Relaxed)
                        && bit(p.signo) & UNBLOCKABLE == 0 => {}
                SIG_DFL if stops_by_default(p.signo) => {
                    // Nobody could continue a process group without a parent in the session.
                    if p.signo == SIGSTOP || !self.in_orphaned_group() {
                        self.task.group.signals.lock().start_stop(&self.task, p.signo);
                    }
                }
                SIG_DFL => {
                    self.kill_group(p.signo);
                    return None;
                }
                _ => return Some((p, action)),
            }
        }
    }

    /// Acts on pending signals before user code goes on. `restart` says that a system call was interrupted.
    pub fn deliver_signals(&mut self, mut restart: Option<Restart>) {
        self.wait_while_held();
        self.task.kernel.tell_hangups();
        if let Some(kind) = restart {
            self.regs.rax = crate::ptrace::restart_code(kind);
        }
        while let Some((p, action)) = self.next_handled() {
            self.check_restart(&mut restart);
            if let Some(kind) = restart.take() {
                let again = match kind {
                    Restart::NoIntr => true,
                    Restart::Sys => action.sa_flags().contains(SaFlags::RESTART),
                    Restart::NoHand | Restart::Block => false,
                };
                self.finish_restart(again);
            }
            if self.push_handler(&action, &p) {
                self.trace_handler();
            } else {
                self.force_segv(p.signo);
            }
        }
        if self.task.must_exit() {
            return;
        }
        self.check_restart(&mut restart);
        if restart.is_some() {
            self.finish_restart(true);
        }
        self.restore_mask();
    }

    /// A tracer that changed the number or the result of the call wants no restart.
    fn check_restart(&self, restart: &mut Option<Restart>) {
        if let Some(kind) = *restart
            && (self.regs.orig_rax == u64::MAX || self.regs.rax != crate::ptrace::restart_code(kind))
        {
            *restart = None;
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
        // A sleep in the handler must not go on with the deadline of the one that it interrupts.
        self.restart_deadline = None;
        self.restart_for_signal(p.signo);
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
        if !action.sa_flags().contains(SaFlags::NODEFER) {
            mask |= bit(p.signo);
        }
        self.set_mask(mask);
        true
    }
}
