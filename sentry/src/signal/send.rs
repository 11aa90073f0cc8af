//! Sending signals (Linux kernel/signal.c, `__send_signal_locked`, `prepare_signal`, `complete_signal`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EAGAIN, ESRCH};
use abi::signal::SigInfo;

use super::{
    GroupSignals, Pending, SIG_DFL, SIGCONT, SIGKILL, SIGRTMIN, STOPPING, UNBLOCKABLE, bit, dumps_core,
    is_ignored_by_default,
};
use crate::kernel::{Kernel, Tree};
use crate::task::{Task, TaskState, ThreadGroup};

/// Codes below 0 without `si_pid`: `SI_TIMER`, `SI_SIGIO`.
const NO_IDS: [i32; 2] = [-2, -5];

/// Who sends: says what a full queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel; never fails.
    Kernel,
    /// kill(2): without room a real-time signal loses its details.
    Kill,
    /// tgkill(2), tkill(2): a real-time signal fails without room.
    Thread,
    /// sigqueue(3) and its like: fails without room.
    Queue,
}

/// What the parent hears after the locks are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Nothing,
    Stopped(i32),
    Continued,
}

impl Task {
    /// Makes the thread look at its signals soon. The process's `signals` are locked, or the thread is the caller.
    pub fn signal_wake(&self) {
        self.signal_pending.store(true, Ordering::SeqCst);
        self.interrupt();
    }
}

/// Whether a signal has no effect for a thread: blocked ones are kept, since the action may change.
fn is_ignored(group: &GroupSignals, state: &TaskState, signo: i32, is_init: bool) -> bool {
    if (state.mask | state.real_mask.unwrap_or(0)) & bit(signo) != 0 {
        return false;
    }
    group.handlers.ignores(signo) || (is_init && group.handlers.get(signo).handler == SIG_DFL)
}

impl GroupSignals {
    /// The effects on job control that a signal has whether it is ignored or not.
    fn prepare(&mut self, signo: i32) -> Tell {
        if bit(signo) & STOPPING != 0 {
            self.flush_everywhere(bit(SIGCONT));
        } else if signo == SIGCONT {
            self.flush_everywhere(STOPPING);
            return self.resume();
        }
        Tell::Nothing
    }

    /// Throws away signals of the process and of all its threads.
    pub(crate) fn flush_everywhere(&mut self, set: u64) {
        self.pending.flush(set);
        for t in &self.threads {
            t.state.lock().pending.flush(set);
        }
    }

    /// Whether the thread would act on `signo` at once (`wants_signal`).
    fn wants(task: &Task, signo: i32) -> bool {
        let state = task.state.lock();
        if state.mask & bit(signo) != 0 {
            return false;
        }
        signo == SIGKILL || !state.stopped
    }

    /// Wakes a thread for a signal that was just queued, or ends the process at once if the signal does that.
    fn complete(&mut self, group: &ThreadGroup, signo: i32, target: &Arc<Task>, to_group: bool) {
        let busy = |t: &Task| t.signal_pending.load(Ordering::Relaxed);
        let chosen = if Self::wants(target, signo) && (!to_group || signo == SIGKILL || !busy(target)) {
            Some(target.clone())
        } else if !to_group {
            None
        } else {
            let n = self.threads.len();
            let from = self.turn;
            let open: Vec<usize> = (0..n)
                .map(|i| (from + i) % n.max(1))
                .filter(|&i| Self::wants(&self.threads[i], signo))
                .collect();
            let at =
                open.iter().copied().find(|&i| !busy(&self.threads[i])).or_else(|| open.first().copied());
            at.map(|i| {
                self.turn = i;
                self.threads[i].clone()
            })
        };
        let Some(chosen) = chosen else { return };
        let is_init = group.unkillable.load(Ordering::Relaxed);
        let fatal = signo == SIGKILL || {
            let real = chosen.state.lock().real_mask.unwrap_or(0);
            let default = self.handlers.get(signo).handler == SIG_DFL;
            let open = bit(signo) & STOPPING == 0 && real & bit(signo) == 0;
            default && !is_init && !is_ignored_by_default(signo) && open && !chosen.trace.is_traced()
        };
        if fatal && !dumps_core(signo) {
            // The process ends without going through the queue, so that it cannot be held up.
            self.end(group, signo);
            return;
        }
        chosen.signal_wake();
    }

    /// Starts the end of the process with wait status `status`; the first one to do so wins.
    pub(crate) fn end(&mut self, group: &ThreadGroup, status: i32) {
        let won = group.exit_status.compare_exchange(-1, status, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if won {
            self.stop.abandon();
            for t in &self.threads {
                t.state.lock().leave_stop();
                t.signal_wake();
            }
        }
    }
}

impl Kernel {
    /// Queues a signal for `target` or, with `to_group`, for its process.
    ///
    /// # Errors
    /// `EAGAIN`: a [`Sender::Thread`] or [`Sender::Queue`] has used up `RLIMIT_SIGPENDING`.
    pub fn send(
        &self,
        tree: &Tree,
        target: &Arc<Task>,
        to_group: bool,
        sender: Sender,
        pending: Pending,
    ) -> Result<(), Errno> {
        let group = target.group.clone();
        let signo = pending.signo;
        let mut pending = pending;
        // Signals that the kernel sends are from outside.
        let mut is_outside = true;
        if sender != Sender::Kernel
            && let Some(by) = crate::task::current()
        {
            is_outside = match (sender, pending.info.code) {
                (Sender::Kill | Sender::Thread, _) => by.translate_info(target, &mut pending.info, false),
                (_, code) if code < 0 && !NO_IDS.contains(&code) => {
                    by.translate_info(target, &mut pending.info, true)
                }
                _ => !target.pid_ns().sees(by.group.pid),
            };
        }
        let mut signals = group.signals.lock();
        let tell = signals.prepare(signo);
        let result = self.queue(&mut signals, target, to_group, sender, pending, is_outside);
        let listeners = signals.signalfd_listeners();
        drop(signals);
        for l in listeners {
            l.notify();
        }
        self.tell_parent(tree, &group, tell);
        result
    }

    fn queue(
        &self,
        signals: &mut GroupSignals,
        target: &Arc<Task>,
        to_group: bool,
        sender: Sender,
        mut pending: Pending,
        is_outside: bool,
    ) -> Result<(), Errno> {
        let (group, signo) = (&target.group, pending.signo);
        if signals.threads.is_empty() || group.exit_status.load(Ordering::SeqCst) >= 0 {
            return Ok(());
        }
        let uid = {
            let state = target.state.lock();
            // The first process of a namespace is killed and stopped from outside only.
            let protects =
                group.unkillable.load(Ordering::Relaxed) && !(is_outside && bit(signo) & UNBLOCKABLE != 0);
            if (signo != SIGKILL || protects)
                && !target.trace.is_traced()
                && is_ignored(signals, &state, signo, protects)
            {
                if let Some(hook) = &pending.hook {
                    hook.discarded();
                }
                return Ok(());
            }
            let held = if to_group { signals.pending.has(signo) } else { state.pending.has(signo) };
            // Standard signals do not queue.
            if signo < SIGRTMIN && held && pending.hook.is_none() {
                return Ok(());
            }
            state.cred.uid
        };
        let mut bare = false;
        if pending.charge.is_none() && pending.hook.is_none() {
            let limit = group.rlimits.lock()[11].0;
            let is_queued = matches!(sender, Sender::Thread | Sender::Queue);
            let counted = signo >= SIGRTMIN || is_queued;
            pending.charge = self.queued_signals.charge(uid, if counted { limit } else { u64::MAX });
            if pending.charge.is_none() {
                if is_queued && signo >= SIGRTMIN {
                    return Err(EAGAIN);
                }
                bare = true;
            }
        }
        let mut state = target.state.lock();
        let queue = if to_group { &mut signals.pending } else { &mut state.pending };
        if bare {
            queue.push_bare(signo);
        } else {
            queue.push(pending);
        }
        drop(state);
        signals.complete(group, signo, target, to_group);
        Ok(())
    }

    /// Sends a signal of the kernel's to one thread.
    pub fn signal_task(&self, task: &Arc<Task>, signo: i32, info: SigInfo) {
        debug_assert_eq!(signo, info.signo);
        let tree = self.tree.lock();
        // The kernel's own signals cannot fail.
        let _ = self.send(&tree, task, false, Sender::Kernel, Pending::new(info, None));
    }

    /// Sends a signal of the kernel's to a process; signal 0 only looks.
    ///
    /// # Errors
    /// `ESRCH`: there is no such process.
    pub fn signal_process(&self, pid: i32, signo: i32, info: SigInfo) -> Result<(), Errno> {
        let tree = self.tree.lock();
        self.signal_process_in(&tree, pid, signo, info)
    }

    /// [`Kernel::signal_process`] with the tree locked.
    ///
    /// # Errors
    /// `ESRCH`: there is no such process.
    pub fn signal_process_in(&self, tree: &Tree, pid: i32, signo: i32, info: SigInfo) -> Result<(), Errno> {
        let process = tree.processes.get(&pid).ok_or(ESRCH)?;
        match process.group.first_thread() {
            Some(t) if signo != 0 => self.send(tree, &t, true, Sender::Kernel, Pending::new(info, None)),
            _ => Ok(()),
        }
    }

    /// Sends a signal of the kernel's to every process of a process group.
    pub fn signal_group(&self, pgid: i32, signo: i32) {
        let tree = self.tree.lock();
        self.signal_group_in(&tree, pgid, signo);
    }

    /// [`Kernel::signal_group`] with the tree locked.
    pub fn signal_group_in(&self, tree: &Tree, pgid: i32, signo: i32) {
        let members = tree.processes.iter().filter(|(_, p)| p.pgid == pgid && p.zombie.is_none());
        for (&pid, _) in members {
            let _ = self.signal_process_in(tree, pid, signo, SigInfo::kernel(signo as u32));
        }
    }
}

impl ThreadGroup {
    /// The leader, or when that has ended the oldest thread.
    pub fn first_thread(&self) -> Option<Arc<Task>> {
        self.signals.lock().threads.first().cloned()
    }

    /// All living threads.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.signals.lock().threads.clone()
    }

    /// Starts the end of the process with wait status `status`; the first one to do so wins.
    pub fn start_exit(&self, status: i32) {
        self.signals.lock().end(self, status);
    }
}

impl Task {
    /// Whether a blockable signal is blocked or ignored, for terminals.
    pub fn disregards(&self, signo: i32) -> bool {
        let signals = self.group.signals.lock();
        let blocked = self.state.lock().mask & bit(signo) & !UNBLOCKABLE != 0;
        blocked || signals.handlers.get(signo).handler == super::SIG_IGN
    }
}
