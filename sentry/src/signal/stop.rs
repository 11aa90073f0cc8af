//! Stopping and continuing processes (Linux kernel/signal.c, `do_signal_stop`, `do_notify_parent_cldstop`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::{SaFlags, code};
use base::wait::Events;

use super::send::Tell;
use super::{GroupSignals, SIG_IGN, SIGCHLD, SIGCONT};
use crate::kernel::{Kernel, Tree};
use crate::task::{Ctx, Task, TaskState, ThreadGroup};

/// Where a process stands in job control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStop {
    /// The signal of the stop that is under way or reached; 0 for none.
    pub signo: i32,
    /// Threads that have yet to stop.
    pub to_stop: usize,
    /// All threads have stopped.
    pub stopped: bool,
    /// The signal that wait reports with `WUNTRACED`; 0 when it has been reported.
    pub report_stop: i32,
    /// Wait reports that the process goes on, with `WCONTINUED`.
    pub report_continue: bool,
}

impl GroupStop {
    /// The process ends: no stop any more.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }
}

impl TaskState {
    /// Ends a stop of this thread, reached or not.
    pub(super) fn leave_stop(&mut self) {
        self.stop_pending = false;
        self.stop_dequeued = false;
        self.stopped = false;
    }
}

impl GroupSignals {
    /// SIGCONT: all threads go on.
    pub(super) fn resume(&mut self) -> Tell {
        for t in &self.threads {
            let mut state = t.state.lock();
            let was = state.stopped || state.stop_pending;
            state.leave_stop();
            drop(state);
            if was {
                t.interrupt();
            }
        }
        let stop = &mut self.stop;
        let tell = match (stop.stopped, stop.to_stop) {
            (true, _) => Tell::Continued,
            (false, 0) => return Tell::Nothing,
            (false, _) => Tell::Stopped(stop.signo),
        };
        *stop = GroupStop { report_continue: true, ..GroupStop::default() };
        tell
    }

    /// Starts a stop by `signo`, which `task` dequeued; false when SIGCONT came in between.
    pub(super) fn start_stop(&mut self, task: &Arc<Task>, signo: i32) -> bool {
        if !std::mem::take(&mut task.state.lock().stop_dequeued)
            || task.group.exit_status.load(Ordering::SeqCst) >= 0
        {
            return false;
        }
        if !self.stop.stopped {
            self.stop.signo = signo;
        }
        let mut to_stop = 0;
        for t in &self.threads {
            let mut state = t.state.lock();
            if state.stopped {
                continue;
            }
            state.stop_pending = true;
            to_stop += 1;
            drop(state);
            if !Arc::ptr_eq(t, task) {
                t.signal_wake();
            }
        }
        self.stop.to_stop = to_stop;
        true
    }

    /// One thread fewer has to stop: it stopped or ended. Says whether that completed the stop.
    pub(crate) fn stop_reached(&mut self) -> bool {
        let stop = &mut self.stop;
        if stop.to_stop == 0 {
            return false;
        }
        stop.to_stop -= 1;
        if stop.to_stop != 0 || stop.stopped {
            return false;
        }
        stop.stopped = true;
        stop.report_stop = stop.signo;
        stop.report_continue = false;
        true
    }
}

impl Kernel {
    /// Tells the parent of a change that [`GroupSignals::prepare`] or a stop brought.
    pub(super) fn tell_parent(&self, tree: &Tree, group: &ThreadGroup, tell: Tell) {
        let (code, status) = match tell {
            Tell::Nothing => return,
            Tell::Stopped(signo) => (code::CLD_STOPPED, signo),
            Tell::Continued => (code::CLD_CONTINUED, SIGCONT),
        };
        let Some(process) = tree.processes.get(&group.pid) else { return };
        let Some(parent) = tree.processes.get(&process.parent) else { return };
        let action = parent.group.signals.lock().handlers.get(SIGCHLD);
        if action.handler != SIG_IGN && !action.sa_flags().contains(SaFlags::NOCLDSTOP) {
            let uid = group.first_thread().map_or(0, |t| t.state.lock().cred.uid);
            let info = parent.group.child_info(code, group.pid, uid, status, 0, 0);
            let _ = self.signal_process_in(tree, process.parent, SIGCHLD, info);
        }
        parent.group.child_events.notify(Events::IN);
    }

    /// Tells the parent that all threads of `group` have stopped.
    pub(crate) fn tell_stopped(&self, group: &ThreadGroup) {
        let tree = self.tree.lock();
        let stop = group.signals.lock().stop;
        if stop.stopped {
            self.tell_parent(&tree, group, Tell::Stopped(stop.signo));
            self.process_stopped(&tree);
        }
    }
}

impl Ctx<'_> {
    /// Takes part in a stop of the process: sleeps until it goes on or ends.
    pub(super) fn stop_here(&mut self) {
        let group = self.task.group.clone();
        let complete = {
            let mut signals = group.signals.lock();
            let mut state = self.task.state.lock();
            if !std::mem::take(&mut state.stop_pending) {
                return;
            }
            state.stopped = true;
            drop(state);
            signals.stop_reached()
        };
        if complete {
            self.task.kernel.tell_stopped(&group);
        }
        let signo = group.signals.lock().stop.signo;
        if self.task.trace.is_traced() {
            self.trace_group_stop(signo);
            self.task.state.lock().stopped = false;
            return;
        }
        if let Err(e) = self.context.park() {
            log::warn!("task {}: {e}", self.task.tid);
        }
        loop {
            self.task.parker.prepare();
            if !self.task.state.lock().stopped || self.task.must_exit() {
                break;
            }
            if self.task.trace.is_traced() {
                self.trace_group_stop(signo);
                break;
            }
            self.park(None);
        }
        self.task.state.lock().stopped = false;
    }
}
