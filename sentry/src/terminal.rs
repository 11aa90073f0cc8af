//! Sessions and their controlling terminals (Linux drivers/tty/tty_jobctrl.c): what the terminals of `fs::tty` ask of the
//! processes, and what the processes' ends and sessions do to terminals.
//!
//! A process's terminal, and a terminal's session and foreground group, change under the lock of the process tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::errno::{EIO, ERESTARTSYS};
use abi::signal::SigInfo;
use base::cred::cap;
use base::lock::{Lock, rank};
use fs::file::oflag;
use fs::tty::{Jobs, Terminal};
use fs::vfs::Owner;

use crate::kernel::{Kernel, Tree};
use crate::signal::{SIGCONT, SIGHUP, SIGTTIN};
use crate::task::{Ctx, current};

/// Terminals hung up whose sessions have not heard of it: a file may be closed where no process can be signalled.
#[derive(Debug, Default)]
pub(crate) struct Hangups {
    is_any: AtomicBool,
    list: Lock<Vec<Arc<Terminal>>, { rank::LEAF }>,
}

/// Why a session leader parts from its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It ends.
    Exit,
    /// `TIOCNOTTY`.
    Request,
}

impl Tree {
    /// Makes `tty` the controlling terminal of process `pid` and its session, with the process's group in front.
    pub(crate) fn set_controlling(&mut self, pid: i32, tty: &Arc<Terminal>) {
        let Some(p) = self.processes.get_mut(&pid) else { return };
        tty.session.store(p.sid, Ordering::SeqCst);
        tty.foreground.store(p.pgid, Ordering::SeqCst);
        p.hung_up_group = 0;
        p.tty = Some(tty.clone());
    }

    /// Takes their terminal from all processes of a session.
    pub(crate) fn clear_session(&mut self, sid: i32) {
        for p in self.processes.values_mut().filter(|p| p.sid == sid) {
            p.tty = None;
        }
    }

    /// The controlling terminal of process `pid`.
    pub(crate) fn terminal_of(&self, pid: i32) -> Option<Arc<Terminal>> {
        self.processes.get(&pid)?.tty.clone()
    }
}

impl Kernel {
    /// Parts session leader `pid` and its session from the terminal (`disassociate_ctty`).
    pub(crate) fn leave_terminal(&self, tree: &mut Tree, pid: i32, why: Leaving) {
        let Some(p) = tree.processes.get_mut(&pid) else { return };
        if p.sid != pid {
            return;
        }
        let former = std::mem::take(&mut p.hung_up_group);
        let Some(tty) = p.tty.clone() else {
            if why == Leaving::Exit && former != 0 {
                self.signal_group_in(tree, former, SIGHUP);
                self.signal_group_in(tree, former, SIGCONT);
            }
            return;
        };
        let front = tty.foreground.swap(0, Ordering::SeqCst);
        tty.session.store(0, Ordering::SeqCst);
        tree.clear_session(pid);
        if front != 0 {
            self.signal_group_in(tree, front, SIGHUP);
            if why == Leaving::Request {
                self.signal_group_in(tree, front, SIGCONT);
            }
        }
    }

    /// Tells the sessions of terminals that were hung up (`tty_signal_session_leader`).
    pub(crate) fn tell_hangups(&self) {
        if !self.hangups.is_any.swap(false, Ordering::SeqCst) {
            return;
        }
        let list = std::mem::take(&mut *self.hangups.list.lock());
        for tty in list {
            let mut tree = self.tree.lock();
            let front = tty.foreground.swap(0, Ordering::SeqCst);
            let sid = tty.session.swap(0, Ordering::SeqCst);
            if sid == 0 {
                continue;
            }
            for p in tree.processes.values_mut().filter(|p| p.sid == sid) {
                if p.tty.as_ref().is_some_and(|own| Arc::ptr_eq(own, &tty)) {
                    p.tty = None;
                }
            }
            if let Some(leader) = tree.processes.get_mut(&sid) {
                leader.hung_up_group = front;
                for signo in [SIGHUP, SIGCONT] {
                    let _ = self.signal_process_in(&tree, sid, signo, SigInfo::kernel(signo as u32));
                }
            }
        }
    }

    /// Hands a signal that ringfence itself got on to the first process.
    pub fn forward_signal(&self, signo: i32) {
        let info = SigInfo::kill(signo as u32, 0, 0, 0);
        let _ = self.signal_process(1, signo, info);
    }

    /// Hands a signal from the host's terminal on to all that run in its foreground: the first process's group.
    pub fn forward_to_group(&self, signo: i32) {
        let pgid = self.tree.lock().processes.get(&1).map(|p| p.pgid);
        if let Some(pgid) = pgid {
            self.signal_group(pgid, signo);
        }
    }
}

impl Jobs for Kernel {
    fn signal_group(&self, pgid: i32, signo: i32) {
        Self::signal_group(self, pgid, signo);
    }

    /// Source: Linux drivers/tty/tty_jobctrl.c, `tty_open_proc_set_tty`.
    fn opened(&self, tty: &Arc<Terminal>, flags: u32) {
        let Some(task) = current() else { return };
        if flags & oflag::ACCMODE == oflag::WRONLY {
            return;
        }
        let mut tree = self.tree.lock();
        let pid = task.group.pid;
        let may = tree.processes.get(&pid).is_some_and(|p| p.sid == pid && p.tty.is_none());
        if may && tty.session.load(Ordering::SeqCst) == 0 {
            tree.set_controlling(pid, tty);
        }
    }

    fn controlling(&self) -> Option<Arc<Terminal>> {
        let pid = current()?.group.pid;
        self.tree.lock().terminal_of(pid)
    }

    fn hung_up(&self, tty: &Arc<Terminal>) {
        self.hangups.list.lock().push(tty.clone());
        self.hangups.is_any.store(true, Ordering::SeqCst);
        // The thread that caused it tells of it before it goes on; without one, the main thread does.
        match current() {
            Some(task) => task.signal_pending.store(true, Ordering::SeqCst),
            None => self.wake_main(),
        }
    }

    fn owner(&self) -> Owner {
        match current().map(|task| task.cred()) {
            Some(cred) => Owner { uid: cred.fsuid, gid: cred.fsgid },
            None => Owner { uid: 0, gid: 0 },
        }
    }

    fn is_admin(&self) -> bool {
        current().is_none_or(|task| task.cred().has(cap::SYS_ADMIN))
    }
}

impl Ctx<'_> {
    /// Whether the process may use its controlling terminal now, if `tty` is that: from the background it is stopped by
    /// `signo` instead (`__tty_check_change`).
    ///
    /// # Errors
    /// `EIO`: it cannot be stopped; `ERESTARTSYS`: its group was sent `signo`.
    pub(crate) fn check_foreground(&mut self, tty: &Arc<Terminal>, signo: i32) -> Result<(), Errno> {
        let front = tty.foreground.load(Ordering::SeqCst);
        if front == 0 {
            return Ok(());
        }
        let kernel = self.task.kernel.clone();
        let tree = kernel.tree.lock();
        let Some(p) = tree.processes.get(&self.task.group.pid) else { return Ok(()) };
        let is_own = p.tty.as_ref().is_some_and(|own| Arc::ptr_eq(own, tty));
        if !is_own || p.pgid == tty.foreground.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.task.disregards(signo) {
            return if signo == SIGTTIN { Err(EIO) } else { Ok(()) };
        }
        if tree.is_orphaned(p.pgid, 0) {
            return Err(EIO);
        }
        kernel.signal_group_in(&tree, p.pgid, signo);
        drop(tree);
        self.task.signal_pending.store(true, Ordering::SeqCst);
        Err(ERESTARTSYS)
    }
}
