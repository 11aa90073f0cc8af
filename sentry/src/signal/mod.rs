//! Signals: sending, delivery, handlers, stopping (signal(7), Linux kernel/signal.c).
//!
//! Reading order: `queue.rs` (what waits to be delivered), `send.rs`, `deliver.rs` (what a thread does with its signals),
//! `stop.rs` (job control), `frame.rs` (a handler's stack frame), `signalfd.rs`,
//! `async_io.rs` (SIGIO, SIGURG).
//!
//! A process's `signals` lock guards its handlers, its pending signals and, together with each thread's `state`, all that
//! decides which thread gets which signal. `Task::signal_pending` says without a lock whether a thread has something to
//! look at; it is set by whoever gives it something, and cleared only by the thread itself.

use std::sync::{Arc, Weak};

use abi::signal::{SigAction, SigSet};
use base::lock::{Lock, rank};

use crate::task::Task;

pub mod async_io;
pub mod deliver;
pub mod frame;
pub mod queue;
pub mod send;
pub mod signalfd;
pub mod stop;

pub use queue::{Pending, Queue};
pub use send::Sender;

pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGILL: i32 = 4;
pub(crate) const SIGTRAP: i32 = 5;
pub(crate) const SIGBUS: i32 = 7;
pub(crate) const SIGFPE: i32 = 8;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGSEGV: i32 = 11;
pub(crate) const SIGPIPE: i32 = 13;
pub(crate) const SIGALRM: i32 = 14;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGXCPU: i32 = 24;
pub(crate) const SIGCONT: i32 = 18;
pub(crate) const SIGXFSZ: i32 = 25;
pub(crate) const SIGSTOP: i32 = 19;
pub(crate) const SIGTTIN: i32 = 21;
pub(crate) const SIGTTOU: i32 = 22;
pub(crate) const ILL_ILLOPN: i32 = 2;
/// SIGKILL and SIGSTOP, which cannot be blocked.
pub(crate) const UNBLOCKABLE: u64 = SigSet::UNBLOCKABLE.0;
/// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
pub(crate) const STOPPING: u64 = SigSet::STOPPING.0;
/// The first signal that queues.
pub(crate) const SIGRTMIN: i32 = abi::signal::SIGRTMIN as i32;

pub(crate) const SIG_DFL: u64 = 0;
pub(crate) const SIG_IGN: u64 = 1;

/// The bit of `signo` in a mask; none for what is no signal.
pub(crate) const fn bit(signo: i32) -> u64 {
    if signo >= 1 && signo <= 64 { 1 << (signo - 1) } else { 0 }
}

/// Signals that do nothing by default: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
pub(crate) const fn is_ignored_by_default(signo: i32) -> bool {
    matches!(signo, 17 | 18 | 23 | 28)
}

/// Signals that stop by default.
pub(crate) const fn stops_by_default(signo: i32) -> bool {
    bit(signo) & STOPPING != 0
}

pub(crate) const fn dumps_core(signo: i32) -> bool {
    matches!(signo, 3 | 4 | 5 | 6 | 7 | 8 | 11 | 24 | 25 | 31)
}

/// What a process does on each signal; shared between processes by `CLONE_SIGHAND`.
#[derive(Debug)]
pub struct Handlers(Lock<[SigAction; 64], { rank::HANDLERS }>);

impl Default for Handlers {
    fn default() -> Self {
        Self::new([SigAction::default(); 64])
    }
}

impl Handlers {
    /// Handlers with these actions, by number - 1.
    pub const fn new(actions: [SigAction; 64]) -> Self {
        Self(Lock::new(actions))
    }

    /// All actions.
    pub fn copy(&self) -> [SigAction; 64] {
        *self.0.lock()
    }

    /// What happens on `signo`.
    pub fn get(&self, signo: i32) -> SigAction {
        self.0.lock().get((signo - 1) as usize).copied().unwrap_or_default()
    }

    /// Replaces an action; returns the former.
    pub fn replace(&self, signo: i32, action: SigAction) -> SigAction {
        match self.0.lock().get_mut((signo - 1) as usize) {
            Some(slot) => std::mem::replace(slot, action),
            None => action,
        }
    }

    /// A copy without handlers: what is ignored stays so (`flush_signal_handlers`).
    pub fn defaults(&self) -> Arc<Self> {
        Arc::new(Self::new(self.copy().map(|a| match a.handler {
            SIG_IGN => SigAction { handler: SIG_IGN, ..SigAction::default() },
            _ => SigAction::default(),
        })))
    }

    /// Whether `signo` does nothing.
    pub fn ignores(&self, signo: i32) -> bool {
        let handler = self.get(signo).handler;
        handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(signo))
    }
}

/// Signal state of a process.
#[derive(Debug, Default)]
pub struct GroupSignals {
    /// What each signal does.
    pub handlers: Arc<Handlers>,
    /// Sent to the process as a whole.
    pub pending: Queue,
    /// Its living threads, oldest first.
    pub threads: Vec<Arc<Task>>,
    /// Which thread was given the last signal of the process: the next may go to another.
    pub turn: usize,
    /// Job control.
    pub stop: stop::GroupStop,
    /// The signalfds that its threads wait on.
    pub signalfds: Vec<Weak<signalfd::Shared>>,
}

impl GroupSignals {
    /// execve(2): handlers of the old program mean nothing to the new one, which shares them with nobody.
    pub(crate) fn reset_handlers(&mut self) {
        self.handlers = self.handlers.defaults();
    }
}
