//! The end of threads and processes (Linux kernel/exit.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::UserAddr;
use abi::signal::{SaFlags, SigInfo, code};
use base::userns::IdKind;
use base::wait::Events;

use super::{Ctx, DeadLeader, Task, ThreadGroup, Usage};
use crate::kernel::{Kernel, Tree, TreeGuard};
use crate::mm::FutexScope;
use crate::signal::{SIG_IGN, SIGCHLD, SIGCONT, SIGHUP};
use crate::terminal::Leaving;

impl Ctx<'_> {
    /// Ends this thread, and with the last one the process.
    pub fn exit_thread(&mut self) {
        if self.ended {
            return;
        }
        let status = match self.task.group.exit_status.load(Ordering::SeqCst) {
            status if status >= 0 => status,
            _ => self.task.exit_code.load(Ordering::SeqCst),
        };
        self.trace_event(crate::ptrace::event::EXIT, status as u64);
        self.ended = true;
        if let Some(tracer) = &self.task.kernel.tracer {
            tracer.exited(self.task.tid, self.task.group.exit_status.load(Ordering::SeqCst).max(0));
        }
        if self.task.group.live.load(Ordering::SeqCst) == 1 {
            self.task.note_rss();
        }
        // While the host can tell what user code has used: that ends with the address space.
        self.task.account.times();
        let kernel = self.task.kernel.clone();
        let group = self.task.group.clone();
        if group.live.load(Ordering::SeqCst) == 1 {
            group.timers.clear(true);
        }
        let is_last = self.leave_signals();
        if is_last {
            self.account_end();
        }
        // Before anybody who waits for the thread goes on, as Linux does.
        crate::syscall::uring::leave(self, is_last);
        self.release_mm();
        self.task.seccomp.release();
        self.seccomp = crate::seccomp::Current::default();
        let undo = self.task.sem_undo.lock().take();
        drop(undo);
        drop(self.task.take_keys());
        // Descriptors are closed before the parent hears of the end, as Linux does: a reader sees EOF first.
        self.files = Arc::default();
        // Closing may ask a server of files, so nothing is locked meanwhile.
        let former = std::mem::replace(&mut self.task.state.lock().files, self.files.clone());
        drop(former);
        self.drop_space();
        kernel.tell_hangups();
        self.task.leave_cgroup();
        {
            let mut tree = kernel.tree.lock();
            let usage = self.task.account.usage();
            group.account.dead.lock().add(&usage);
            kernel.system.add_dead(&usage);
            if self.task.tid == group.pid {
                let leader = self.dead_leader();
                *group.dead_leader.lock() = Some(leader);
            }
            tree = self.close_pid_ns(&kernel, tree);
            tree.tasks.remove(&self.task.tid);
            kernel.leave_tracees(&mut tree, &self.task);
            if group.live.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.exit_process(&mut tree);
            } else {
                kernel.traced_end(&mut tree, &self.task, status, false);
                kernel.leave_children(&mut tree, &self.task);
            }
            // Also when a thread that is not the leader ends last.
            tree.release_id(self.task.tid);
        }
        if group.is_init() && group.live.load(Ordering::SeqCst) == 0 && kernel.accounting.is_on() {
            // acct_exit_ns: nobody is left whom the file could tell of.
            drop(kernel.accounting.set(self.task.pid_ns(), None));
        }
        group.child_events.notify(Events::IN);
        crate::signal::async_io::send_due();
        super::current::set_current(None);
    }

    /// Starts the end of this thread alone; `status` is how the process ended if it was the last one.
    pub(crate) fn end_thread(&mut self, status: i32) {
        let group = self.task.group.clone();
        let mut signals = group.signals.lock();
        self.task.exit_code.store(status, Ordering::SeqCst);
        self.task.killed.store(true, Ordering::SeqCst);
        self.task.signal_pending.store(true, Ordering::SeqCst);
        // The thread that ends last says how the process ended.
        if signals.threads.iter().all(|t| t.killed.load(Ordering::SeqCst)) {
            signals.end(&group, status);
        }
    }

    /// Takes the thread out of all that signals do with its process (`exit_signals`); says whether it was the last.
    fn leave_signals(&mut self) -> bool {
        let group = self.task.group.clone();
        let mut signals = group.signals.lock();
        signals.threads.retain(|t| !Arc::ptr_eq(t, &self.task));
        let mut state = self.task.state.lock();
        let open = !state.mask;
        let owed = std::mem::take(&mut state.stop_pending);
        state.pending.clear();
        drop(state);
        self.task.retarget(&signals, open);
        let complete = owed && signals.stop_reached();
        let is_last = signals.threads.is_empty();
        if is_last {
            signals.pending.clear();
            signals.signalfds.clear();
        }
        drop(signals);
        if complete {
            self.task.kernel.tell_stopped(&group);
        }
        is_last
    }

    /// Gives the memory back before anybody hears of the end: who waits for this process may need it at once.
    fn drop_space(&mut self) {
        let kernel = self.task.kernel.clone();
        if self.task.group.pid == 1 {
            // The sandbox ends with this process.
            return;
        }
        let Some(empty) = kernel.empty_space() else { return };
        let own = std::mem::replace(&mut self.mm, empty.clone());
        let shown = std::mem::replace(&mut *self.task.mm.lock(), empty);
        drop((own, shown));
    }

    /// With the last thread of a PID namespace's first process, all others in the namespace end before.
    fn close_pid_ns<'t>(&mut self, kernel: &'t Arc<Kernel>, mut tree: TreeGuard<'t>) -> TreeGuard<'t> {
        let group = self.task.group.clone();
        while group.is_init() && group.live.load(Ordering::SeqCst) == 1 {
            self.task.parker.prepare();
            if kernel.close_namespace(&mut tree, &self.task) {
                break;
            }
            drop(tree);
            self.task.parker.park(None);
            tree = kernel.tree.lock();
        }
        tree
    }

    fn dead_leader(&self) -> DeadLeader {
        let (name, mask) = {
            let state = self.task.state.lock();
            (state.name.clone(), state.mask)
        };
        DeadLeader {
            name,
            mask,
            cred: self.cred.clone(),
            attributes: self.task.attributes.lock().clone(),
            started_ns: self.task.account.started_ns(),
        }
    }

    /// Lets go of the address space: wakes who joins on the thread, who waits for its locks, and a parent in vfork.
    pub fn release_mm(&mut self) {
        self.release_window();
        self.leave_rseq();
        self.exit_robust_list();
        self.leave_pi_locks();
        if self.clear_tid != 0 {
            let addr = UserAddr(std::mem::take(&mut self.clear_tid));
            // Each task holds its space twice: here, and for others to look at. With nobody left in it, nobody waits
            // (kernel/fork.c, `mm_release`).
            let is_shared = Arc::strong_count(&self.mm) > 2;
            if is_shared
                && self.mm.write_value(addr, &0u32).is_ok()
                && let Ok(key) = self.mm.futex_key(addr, FutexScope::Shared)
            {
                self.task.kernel.futexes.wake(&key, 1, u32::MAX);
            }
        }
        if let Some(done) = self.vfork_done.take() {
            done.finish();
        }
    }

    fn exit_process(&mut self, tree: &mut Tree) {
        let kernel = self.task.kernel.clone();
        let group = self.task.group.clone();
        let pid = group.pid;
        let status = group.exit_status.load(Ordering::SeqCst).max(0);
        kernel.leave_terminal(tree, pid, Leaving::Exit);
        kernel.reparent_children(tree, &group);
        let Some(me) = tree.processes.get_mut(&pid) else { return };
        me.zombie = Some(status);
        me.uid = self.cred.uid;
        let (parent, pgid, exit_signal) = (me.parent, me.pgid, me.exit_signal);
        if pid == 1 {
            kernel.end(status);
            return;
        }
        if exit_signal != 0 {
            // The process's own end may leave its group without anybody to continue it.
            kernel.check_orphaned(tree, pgid, parent, pid);
        }
        if !kernel.traced_end(tree, &self.task, status, true) {
            kernel.tell_end(tree, pid);
        }
    }
}

impl Kernel {
    /// What a zombie and its children have used.
    pub fn zombie_usage(&self, tree: &Tree, child: &Arc<ThreadGroup>) -> Usage {
        let mut usage = self.group_usage_in(tree, child);
        usage.add(&child.account.children.lock());
        usage
    }

    /// Forgets a zombie that was waited for; what it used, its parent's children now have used.
    pub fn reap(&self, tree: &mut Tree, pid: i32, usage: &Usage) {
        if let Some((_, Some(parent))) = tree.forget(pid) {
            parent.account.children.lock().add(usage);
        }
    }

    /// Tells the parent that process `pid` is a zombie; reaps it when the parent does not care.
    pub(crate) fn tell_end(&self, tree: &mut Tree, pid: i32) {
        let Some(me) = tree.processes.get(&pid) else { return };
        let (Some(status), parent_pid, exit_signal, uid) = (me.zombie, me.parent, me.exit_signal, me.uid)
        else {
            return;
        };
        let usage = self.group_usage_in(tree, &me.group);
        let Some(parent) = tree.processes.get(&parent_pid).map(|p| p.group.clone()) else {
            tree.forget(pid);
            return;
        };
        let action = parent.signals.lock().handlers.get(SIGCHLD);
        let ignored = exit_signal == SIGCHLD && action.handler == SIG_IGN;
        let reap = exit_signal == SIGCHLD && (ignored || action.sa_flags().contains(SaFlags::NOCLDWAIT));
        if (1..=64).contains(&exit_signal) && !ignored {
            let (code, value) = exit_code(status);
            let ticks = |ns: u64| (ns / 10_000_000) as i64;
            let mut info =
                parent.child_info(code, pid, uid, value, ticks(usage.user_ns), ticks(usage.system_ns));
            info.signo = exit_signal;
            let _ = self.signal_process_in(tree, parent_pid, exit_signal, info);
        }
        if reap {
            tree.forget(pid);
        }
        parent.child_events.notify(Events::IN);
    }

    /// A thread ends while others of its process go on: its children become theirs.
    fn leave_children(&self, tree: &mut Tree, ended: &Arc<Task>) {
        let heir = ended.group.first_thread().map_or(ended.group.pid, |t| t.tid);
        let children = tree.processes.get(&ended.group.pid).map(|p| p.children.clone()).unwrap_or_default();
        for child in children {
            if let Some(c) = tree.processes.get_mut(&child)
                && c.parent_tid == ended.tid
            {
                c.parent_tid = heir;
                let group = c.group.clone();
                self.send_parent_death(tree, &group);
            }
        }
    }

    fn send_parent_death(&self, tree: &Tree, child: &ThreadGroup) {
        for t in child.threads() {
            let signo = t.parent_death_signal.load(Ordering::Relaxed);
            if signo != 0 {
                let info = SigInfo::kill(signo as u32, 0, 0, 0);
                let _ = self.signal_process_in(tree, child.pid, signo, info);
            }
        }
    }

    /// Gives the children of a process that ends to the nearest subreaper above it, or to the first process.
    fn reparent_children(&self, tree: &mut Tree, ended: &Arc<ThreadGroup>) {
        let pid = ended.pid;
        let Some(me) = tree.processes.get_mut(&pid) else { return };
        let children = std::mem::take(&mut me.children);
        let init = ended.pid_ns.init();
        let mut reaper = me.parent;
        while let Some(p) = tree.processes.get(&reaper) {
            if p.group.pid_ns.level != ended.pid_ns.level {
                reaper = init;
                break;
            }
            if reaper == init || (p.group.subreaper.load(Ordering::Relaxed) && p.zombie.is_none()) {
                break;
            }
            reaper = p.parent;
        }
        if !tree.processes.contains_key(&reaper) {
            reaper = init;
        }
        if pid == 1 || !tree.processes.contains_key(&reaper) {
            // The sandbox ends with its first process.
            return;
        }
        for &child in &children {
            let Some(c) = tree.processes.get_mut(&child) else { continue };
            c.parent = reaper;
            c.parent_tid = reaper;
            c.exit_signal = SIGCHLD;
            let (group, zombie, pgid) = (c.group.clone(), c.zombie.is_some(), c.pgid);
            if let Some(r) = tree.processes.get_mut(&reaper) {
                r.children.push(child);
            }
            self.send_parent_death(tree, &group);
            if zombie {
                self.tell_end(tree, child);
            }
            self.check_orphaned(tree, pgid, pid, 0);
        }
    }

    /// Sends SIGHUP and SIGCONT to a process group with stopped members that nobody outside it in its session looks after
    /// any more (`kill_orphaned_pgrp`). `parent` was such a process; `leaving` does not count as a member.
    fn check_orphaned(&self, tree: &Tree, pgid: i32, parent: i32, leaving: i32) {
        let Some(p) = tree.processes.get(&parent) else { return };
        let sid = tree.processes.values().find(|m| m.pgid == pgid).map_or(0, |m| m.sid);
        if p.pgid == pgid || p.sid != sid || !tree.is_orphaned(pgid, leaving) {
            return;
        }
        let stopped = tree
            .processes
            .values()
            .any(|m| m.pgid == pgid && m.zombie.is_none() && m.group.signals.lock().stop.stopped);
        if stopped {
            self.signal_group_in(tree, pgid, SIGHUP);
            self.signal_group_in(tree, pgid, SIGCONT);
        }
    }
}

impl ThreadGroup {
    /// What the process is told of its child or tracee `id`, whose user is `uid`: in the numbers of its own namespaces.
    pub(crate) fn child_info(
        &self,
        code: i32,
        id: i32,
        uid: u32,
        status: i32,
        utime: i64,
        stime: i64,
    ) -> SigInfo {
        let uid = match self.first_thread().map(|t| t.cred()) {
            Some(cred) => cred.user_ns.shown(IdKind::User, uid),
            None => uid,
        };
        SigInfo::child(code, self.pid_ns.shown(id), uid, status, utime, stime)
    }
}

impl Tree {
    /// Whether no member of process group `pgid` but `leaving` has a parent in the same session and another group. The
    /// parent of the first process is whoever started the sandbox.
    pub fn is_orphaned(&self, pgid: i32, leaving: i32) -> bool {
        !self.processes.iter().any(|(&pid, p)| {
            p.pgid == pgid
                && pid != leaving
                && p.zombie.is_none()
                && self.processes.get(&p.parent).map_or(p.parent == 0, |q| q.pgid != pgid && q.sid == p.sid)
        })
    }

    /// Takes a zombie out of the tree; returns its group and its parent's.
    pub(crate) fn forget(&mut self, pid: i32) -> Option<(Arc<ThreadGroup>, Option<Arc<ThreadGroup>>)> {
        let p = self.processes.remove(&pid)?;
        for id in [pid, p.pgid, p.sid] {
            self.release_id(id);
        }
        // What a pidfd shows once nothing is left of the process.
        p.group.live.store(-1, Ordering::SeqCst);
        let parent = self.processes.get_mut(&p.parent).map(|parent| {
            parent.children.retain(|&c| c != pid);
            parent.group.clone()
        });
        Some((p.group, parent))
    }
}

impl Ctx<'_> {
    /// Whether the process's group is orphaned: terminal stop signals have no effect then.
    pub fn in_orphaned_group(&self) -> bool {
        let tree = self.task.kernel.tree.lock();
        tree.processes.get(&self.task.group.pid).is_none_or(|p| tree.is_orphaned(p.pgid, 0))
    }
}

/// `si_code` and `si_status` of a child that ended with wait status `status`.
pub fn exit_code(status: i32) -> (i32, i32) {
    match status & 0x7f {
        0 => (code::CLD_EXITED, status >> 8 & 0xff),
        signo if status & 0x80 != 0 => (code::CLD_DUMPED, signo),
        signo => (code::CLD_KILLED, signo),
    }
}
