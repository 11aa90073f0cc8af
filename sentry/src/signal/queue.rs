//! Signals that were sent and not yet delivered (Linux `struct sigpending`).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use abi::signal::{SigInfo, SigSet};
use base::lock::{Lock, rank};

/// Is told that its signal leaves the queue: a POSIX timer counts its overruns then.
pub trait Dequeued: Send + Sync {
    /// Completes `info`; false says that the signal is out of date and must be forgotten. Called without locks.
    fn dequeued(&self, info: &mut SigInfo) -> bool;

    /// The signal was thrown away, since it is ignored. Locks of signals are held.
    fn discarded(&self);
}

/// How many signals each user has queued, for `RLIMIT_SIGPENDING`.
#[derive(Debug, Default)]
pub struct QueuedSignals(Lock<HashMap<u32, u64>, { rank::LEAF }>);

impl QueuedSignals {
    /// Counts one more for `uid`, unless there are `limit` already.
    pub fn charge(self: &Arc<Self>, uid: u32, limit: u64) -> Option<Charge> {
        let mut counts = self.0.lock();
        let count = counts.entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Charge { counts: self.clone(), uid })
    }

    /// How many `uid` has queued.
    pub fn of(&self, uid: u32) -> u64 {
        self.0.lock().get(&uid).copied().unwrap_or(0)
    }
}

/// One queued signal of a user; counted until dropped.
#[derive(Debug)]
pub struct Charge {
    counts: Arc<QueuedSignals>,
    uid: u32,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// A signal that was sent and not yet delivered.
pub struct Pending {
    /// The number.
    pub signo: i32,
    /// What the handler is told.
    pub info: SigInfo,
    /// Who wants to hear that it is delivered.
    pub hook: Option<Arc<dyn Dequeued>>,
    /// Its place in the user's count.
    pub charge: Option<Charge>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("signo", &self.signo)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Pending {
    /// A signal without a hook.
    pub fn new(info: SigInfo, charge: Option<Charge>) -> Self {
        Self { signo: info.signo, info, hook: None, charge }
    }
}

/// The signals pending for a thread or for a process.
#[derive(Debug, Default)]
pub struct Queue {
    /// Which signals are pending. One without an entry has lost its details to `RLIMIT_SIGPENDING`.
    set: u64,
    list: VecDeque<Pending>,
}

impl Queue {
    /// The signals in it.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// Whether `signo` is in it.
    pub fn has(&self, signo: i32) -> bool {
        self.set & super::bit(signo) != 0
    }

    /// What is known of each signal, in the order of their coming.
    pub fn infos(&self) -> Vec<SigInfo> {
        self.list.iter().map(|p| p.info).collect()
    }

    /// Adds a signal.
    pub fn push(&mut self, pending: Pending) {
        self.set |= super::bit(pending.signo);
        self.list.push_back(pending);
    }

    /// Adds a signal without details.
    pub fn push_bare(&mut self, signo: i32) {
        self.set |= super::bit(signo);
    }

    /// Throws away the signals in `set`.
    pub fn flush(&mut self, set: u64) {
        if self.set & set != 0 {
            self.set &= !set;
            self.list.retain(|p| {
                let keeps = set & super::bit(p.signo) == 0;
                if let Some(hook) = p.hook.as_ref().filter(|_| !keeps) {
                    hook.discarded();
                }
                keeps
            });
        }
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.flush(u64::MAX);
    }

    /// Takes the first signal that an instruction raised and that `mask` does not block (`dequeue_synchronous_signal`).
    pub fn take_synchronous(&mut self, mask: u64) -> Option<Pending> {
        let wanted = SigSet::SYNCHRONOUS.0 & !mask;
        if self.set & wanted == 0 {
            return None;
        }
        let at = self.list.iter().position(|p| p.info.code > 0 && wanted & super::bit(p.signo) != 0)?;
        self.remove(at)
    }

    /// Takes the next signal that `mask` does not block: those that instructions raise first, then by number.
    pub fn take(&mut self, mask: u64) -> Option<Pending> {
        let mut open = self.set & !mask;
        if open & SigSet::SYNCHRONOUS.0 != 0 {
            open &= SigSet::SYNCHRONOUS.0;
        }
        if open == 0 {
            return None;
        }
        let signo = open.trailing_zeros() as i32 + 1;
        match self.list.iter().position(|p| p.signo == signo) {
            Some(at) => self.remove(at),
            None => {
                self.set &= !super::bit(signo);
                Some(Pending::new(SigInfo::kill(signo as u32, 0, 0, 0), None))
            }
        }
    }

    fn remove(&mut self, at: usize) -> Option<Pending> {
        let taken = self.list.remove(at)?;
        if !self.list.iter().any(|p| p.signo == taken.signo) {
            self.set &= !super::bit(taken.signo);
        }
        Some(taken)
    }
}
