//! `/proc/sysvipc` (Linux ipc/util.c, `sysvipc_proc_show`).

use std::fmt::Write as _;

use super::msg::MsgQueue;
use super::shm::Segment;
use super::{IpcNamespace, Object};

/// A process's number as the reader sees it.
fn shown(pid: i32) -> i32 {
    crate::task::current().map_or(pid, |task| task.shown_id(pid))
}

impl IpcNamespace {
    /// `/proc/sysvipc/shm`.
    pub fn shm_text(&self) -> String {
        let mut text = String::from(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
             atime      dtime      ctime                   rss                  swap\n",
        );
        let all = self.shm.lock().all();
        for s in all {
            use std::sync::atomic::Ordering::Relaxed;
            let state = s.state.lock();
            let p = state.perm;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:>10} {:>10}  {:>4o} {:>21} {:>5} {:>5}  {:>5} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10} {:>10} \
                 {:>21} {:>21}",
                p.key,
                s.id(),
                p.mode,
                s.size,
                shown(s.cpid),
                shown(s.lpid.load(Relaxed)),
                Segment::attachments(&state),
                p.uid,
                p.gid,
                p.cuid,
                p.cgid,
                s.atime.load(Relaxed),
                s.dtime.load(Relaxed),
                state.ctime,
                s.allocated().min(s.size.next_multiple_of(base::PAGE_SIZE)),
                0
            );
        }
        text
    }

    /// `/proc/sysvipc/sem`.
    pub fn sem_text(&self) -> String {
        let mut text = String::from(
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
        );
        let all = self.sem.lock().all();
        for s in all {
            let state = s.state.lock();
            let p = state.perm;
            let _ = writeln!(
                text,
                "{:>10} {:>10}  {:>4o} {:>10} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10}",
                p.key,
                s.id(),
                p.mode,
                state.semaphores.len(),
                p.uid,
                p.gid,
                p.cuid,
                p.cgid,
                state.otime,
                state.ctime
            );
        }
        text
    }

    /// `/proc/sysvipc/msg`.
    pub fn msg_text(&self) -> String {
        let mut text = String::from(
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
             stime      rtime      ctime\n",
        );
        let all = self.msg.lock().all();
        for q in all {
            let state = q.state.lock();
            let p = state.perm;
            let _ = writeln!(
                text,
                "{:>10} {:>10}  {:>4o}  {:>10} {:>10} {:>5} {:>5} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10} {:>10}",
                p.key,
                q.id(),
                p.mode,
                state.cbytes,
                MsgQueue::len(&state),
                shown(state.lspid),
                shown(state.lrpid),
                p.uid,
                p.gid,
                p.cuid,
                p.cgid,
                state.stime,
                state.rtime,
                state.ctime
            );
        }
        text
    }
}
