//! Tracees and tracers that end, and what wait(2) reports of tracees.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::{SigInfo, code};
use base::wait::Events;

use super::{Tracer, option};
use crate::kernel::{Kernel, Tree};
use crate::signal::{SIGCHLD, SIGKILL};
use crate::task::exit::exit_code;
use crate::task::{Task, ThreadGroup};

/// A traced thread that has ended, until its tracer was told.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub(crate) tracer: Tracer,
    /// As wait4(2) says it.
    pub(crate) status: i32,
    pub(crate) uid: u32,
    /// The process whose end its parent does not hear of before; for other threads `None`.
    pub(crate) process: Option<i32>,
}

/// What wait(2) has to say of a tracee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceReport {
    /// As the tracer's PID namespace has it.
    pub(crate) tid: i32,
    pub(crate) uid: u32,
    pub(crate) status: i32,
    pub(crate) code: i32,
    pub(crate) value: i32,
}

impl Kernel {
    /// A traced thread ends with `status`: its tracer hears of it. `whole`: the process ends with it; the tracer is then
    /// told before the parent, unless it is that. Says whether the parent must wait.
    pub(crate) fn traced_end(&self, tree: &mut Tree, task: &Arc<Task>, status: i32, whole: bool) -> bool {
        let Some(tracer) = task.trace.tracer() else { return false };
        self.forget_tracee(tree, tracer);
        task.trace.end(0);
        let parent = tree.processes.get(&task.group.pid).map_or(0, |p| p.parent);
        let is_process = whole && task.tid == task.group.pid;
        if is_process
            && parent == tracer.pid
            && let Some(process) = tree.processes.get_mut(&task.group.pid)
        {
            process.ended_traced = true;
        }
        if (is_process && parent == tracer.pid) || (!whole && task.tid == task.group.pid) {
            return false;
        }
        let uid = task.state.lock().cred.uid;
        let process = is_process.then_some(task.group.pid);
        tree.ended_tracees.insert(task.tid, Ended { tracer, status, uid, process });
        let (code, value) = exit_code(status);
        if let Some(p) = tree.processes.get(&tracer.pid) {
            let info = p.group.child_info(code, task.tid, uid, value, 0, 0);
            let _ = self.signal_process_in(tree, tracer.pid, SIGCHLD, info);
            p.group.child_events.notify(Events::IN);
        }
        process.is_some()
    }

    /// One tracee fewer.
    pub(crate) fn forget_tracee(&self, tree: &Tree, tracer: Tracer) {
        if let Some(t) = tree.tasks.get(&tracer.tid) {
            let _ = t.trace.tracees.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        }
    }

    /// A tracer's thread ends: its tracees go on, or are killed if it said so (`exit_ptrace`).
    pub(crate) fn leave_tracees(&self, tree: &mut Tree, tracer: &Task) {
        if tracer.trace.tracees.load(Ordering::SeqCst) > 0 {
            let own = |t: &&Arc<Task>| t.trace.tracer().is_some_and(|by| by.tid == tracer.tid);
            let tracees: Vec<Arc<Task>> = tree.tasks.values().filter(own).cloned().collect();
            for t in tracees {
                let kill = t.trace.state.lock().options & option::EXITKILL != 0;
                t.trace.end(0);
                if kill {
                    let info = SigInfo::kernel(SIGKILL as u32);
                    let _ = self.signal_process_in(tree, t.group.pid, SIGKILL, info);
                }
                t.signal_wake();
            }
        }
        if tree.ended_tracees.is_empty() {
            return;
        }
        let ended: Vec<i32> =
            tree.ended_tracees.iter().filter(|(_, e)| e.tracer.tid == tracer.tid).map(|(&t, _)| t).collect();
        for tid in ended {
            self.reap_tracee(tree, tid);
        }
    }

    /// Forgets a tracee that has ended; now its parent hears of it.
    pub(crate) fn reap_tracee(&self, tree: &mut Tree, tid: i32) {
        match tree.ended_tracees.remove(&tid) {
            Some(Ended { process: Some(pid), .. }) => self.tell_end(tree, pid),
            _ => tree.release_id(tid),
        }
    }

    /// What the tracees of `tracer` (with `thread`, of that thread of it alone) have to report; the second value says whether
    /// it has any that `wants` accepts.
    pub(crate) fn trace_report(
        &self,
        tree: &mut Tree,
        tracer: &ThreadGroup,
        thread: Option<i32>,
        exits: bool,
        keep: bool,
        wants: impl Fn(&Tree, i32, i32) -> bool,
    ) -> (Option<TraceReport>, bool) {
        let pid = tracer.pid;
        let is_ours = |t: Tracer| t.pid == pid && thread.is_none_or(|tid| tid == t.tid);
        let mut any = false;
        let has_tracees = tree
            .processes
            .get(&pid)
            .is_some_and(|p| p.group.threads().iter().any(|t| t.trace.tracees.load(Ordering::SeqCst) > 0));
        if has_tracees {
            for task in tree.tasks.values() {
                let mut state = match task.trace.is_traced() {
                    true => task.trace.state.lock(),
                    false => continue,
                };
                if !state.tracer.is_some_and(is_ours) {
                    continue;
                }
                let found = state.stop.filter(|s| !s.is_reported && !s.is_listening);
                drop(state);
                if !wants(tree, task.tid, task.group.pid) {
                    continue;
                }
                any = true;
                let Some(stop) = found else { continue };
                if !keep {
                    state = task.trace.state.lock();
                    if let Some(s) = &mut state.stop {
                        s.is_reported = true;
                    }
                    drop(state);
                }
                let report = TraceReport {
                    tid: tracer.pid_ns.shown(task.tid),
                    uid: task.state.lock().cred.uid,
                    status: (stop.code << 8 | 0x7f) as i32,
                    code: code::CLD_TRAPPED,
                    value: stop.code as i32,
                };
                return (Some(report), true);
            }
        }
        let ended = tree
            .ended_tracees
            .iter()
            .find(|(tid, e)| is_ours(e.tracer) && wants(tree, **tid, e.process.unwrap_or(0)))
            .map(|(&tid, &e)| (tid, e));
        match ended {
            Some((tid, e)) if exits => {
                let shown = tracer.pid_ns.shown(tid);
                if !keep {
                    self.reap_tracee(tree, tid);
                }
                let (code, value) = exit_code(e.status);
                (Some(TraceReport { tid: shown, uid: e.uid, status: e.status, code, value }), true)
            }
            Some(_) => (None, true),
            None => (None, any),
        }
    }
}
