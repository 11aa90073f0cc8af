//! The end of threads and processes, and waiting for it (Linux kernel/exit.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::UserAddr;
use abi::signal::SigInfo;
use base::wait::Events;

use super::{Ctx, DeadLeader, ThreadGroup, Usage};
use crate::mm::FutexScope;
use crate::signal::SIGCHLD;

impl Ctx<'_> {
    /// Ends this thread, and with the last one the process.
    pub fn exit_thread(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(tracer) = &self.task.kernel.tracer {
            tracer.exited(self.task.tid, self.task.group.exit_status.load(Ordering::SeqCst).max(0));
        }
        if self.task.group.live.load(Ordering::SeqCst) == 1 {
            self.task.note_rss();
        }
        self.release_mm();
        let kernel = self.task.kernel.clone();
        let group = self.task.group.clone();
        // Descriptors are closed before the parent hears of the end, as Linux does: a reader sees EOF first.
        self.files = Arc::default();
        self.task.state.lock().files = self.files.clone();
        let last = {
            let mut tree = kernel.tree.lock();
            let usage = self.task.account.usage();
            group.account.dead.lock().add(&usage);
            kernel.system.add_dead(&usage);
            if self.task.tid == group.pid {
                let leader = self.dead_leader();
                *group.dead_leader.lock() = Some(leader);
            }
            tree.tasks.remove(&self.task.tid);
            group.live.fetch_sub(1, Ordering::SeqCst) == 1
        };
        group.child_events.notify(Events::IN);
        if last {
            self.exit_process();
        }
        super::current::set_current(None);
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

    /// Lets go of the address space: wakes who joins on the thread and a parent in vfork.
    pub fn release_mm(&mut self) {
        if self.clear_tid != 0 {
            let addr = UserAddr(std::mem::take(&mut self.clear_tid));
            if self.mm.write_value(addr, &0u32).is_ok()
                && let Ok(key) = self.mm.futex_key(addr, FutexScope::Shared)
            {
                self.task.kernel.futexes.wake(&key, 1, u32::MAX);
            }
        }
        if let Some(done) = self.vfork_done.take() {
            done.finish();
        }
    }

    fn exit_process(&mut self) {
        let kernel = self.task.kernel.clone();
        let group = self.task.group.clone();
        let pid = group.pid;
        let status = group.exit_status.load(Ordering::SeqCst).max(0);
        let mut tree = kernel.tree.lock();
        let Some(me) = tree.processes.get_mut(&pid) else { return };
        me.zombie = Some(status);
        let parent = me.parent;
        let exit_signal = me.exit_signal;
        let orphans = std::mem::take(&mut me.children);
        for &child in &orphans {
            if let Some(p) = tree.processes.get_mut(&child) {
                p.parent = 1;
            }
        }
        if pid != 1
            && let Some(init) = tree.processes.get_mut(&1)
        {
            init.children.extend(orphans);
        }
        let parent_group = tree.processes.get(&parent).map(|p| p.group.clone());
        drop(tree);
        if pid == 1 {
            kernel.end(status);
            return;
        }
        let Some(parent_group) = parent_group else { return };
        let action = parent_group.signals.lock().actions[(SIGCHLD - 1) as usize];
        const SA_NOCLDWAIT: u64 = 2;
        if exit_signal == SIGCHLD && (action.handler == 1 || action.flags & SA_NOCLDWAIT != 0) {
            kernel.forget(pid);
        }
        if exit_signal != 0 {
            let (code, value) = if status & 0x7f == 0 {
                (1, status >> 8 & 0xff)
            } else {
                (if status & 0x80 != 0 { 3 } else { 2 }, status & 0x7f)
            };
            let info = SigInfo::child(code, pid, self.cred.uid, value, 0, 0);
            let _ = kernel.signal_process(parent, exit_signal, info);
        }
        parent_group.child_events.notify(Events::IN);
    }
}

impl crate::kernel::Kernel {
    /// Forgets a zombie that was waited for; returns what it and its children have used, which the parent's children now
    /// have used.
    pub fn reap(&self, pid: i32) -> Usage {
        let Some((child, parent)) = self.forget(pid) else { return Usage::default() };
        let mut usage = self.group_usage(&child);
        usage.add(&child.account.children.lock());
        if let Some(parent) = parent {
            parent.account.children.lock().add(&usage);
        }
        usage
    }

    /// Takes a zombie out of the tree; returns its group and its parent's.
    fn forget(&self, pid: i32) -> Option<(Arc<ThreadGroup>, Option<Arc<ThreadGroup>>)> {
        let mut tree = self.tree.lock();
        let p = tree.processes.remove(&pid)?;
        let parent = tree.processes.get_mut(&p.parent).map(|parent| {
            parent.children.retain(|&c| c != pid);
            parent.group.clone()
        });
        Some((p.group, parent))
    }
}
