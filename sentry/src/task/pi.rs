//! Futexes that the kernel hands from owner to owner (futex(2), "priority-inheritance futexes"; Linux kernel/futex/pi.c).
//!
//! The word holds the owner's thread ID and `FUTEX_WAITERS`. Who waits is known here, and whoever unlocks stores the next
//! owner's ID for it. One lock is held over the look at a word and the change that follows, so no waiter is overlooked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use abi::errno::{EAGAIN, EDEADLK, EPERM, ESRCH, ETIMEDOUT};
use abi::{Errno, UserAddr};
use base::wait::{Events, Wake};

use super::robust::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use super::{Ctx, Parker};
use crate::mm::{FutexKey, FutexScope};
use crate::syscall::{Restart, Stop, SysResult};

const WAITING: u8 = 0;
const OWNER: u8 = 1;
/// The owner ended: the waiter owns the lock, and says so in the word itself.
const HEIR: u8 = 2;

#[derive(Debug)]
struct Waiter {
    tid: i32,
    /// What its own PID namespace calls it.
    shown: i32,
    state: AtomicU8,
    parker: Arc<Parker>,
}

/// Futexes that somebody waits for.
#[derive(Debug, Default)]
pub struct PiLocks {
    queues: HashMap<FutexKey, PiLock>,
}

#[derive(Debug, Default)]
struct PiLock {
    owner: i32,
    waiters: VecDeque<Arc<Waiter>>,
}

/// What the look at a word showed.
enum Look {
    Taken,
    OwnedBy(i32),
}

impl Ctx<'_> {
    /// Takes the lock if nobody has it; else, with `mark`, says in the word that somebody waits.
    fn look_pi(&self, addr: UserAddr, contended: bool, mark: bool) -> Result<Look, Errno> {
        let me = self.task.shown_tid as u32;
        let mut value = self.mm.load_u32(addr)?;
        loop {
            let owner = value & FUTEX_TID_MASK;
            if owner == me {
                return Err(EDEADLK);
            }
            let new = if owner == 0 {
                me | (value & FUTEX_OWNER_DIED) | if contended { FUTEX_WAITERS } else { 0 }
            } else if mark {
                value | FUTEX_WAITERS
            } else {
                return Ok(Look::OwnedBy(owner.cast_signed()));
            };
            let seen = self.mm.compare_exchange_u32(addr, value, new)?;
            if seen == value {
                return Ok(if owner == 0 { Look::Taken } else { Look::OwnedBy(owner.cast_signed()) });
            }
            value = seen;
        }
    }

    /// `FUTEX_TRYLOCK_PI`.
    pub fn try_lock_pi(&mut self, addr: UserAddr, scope: FutexScope) -> SysResult {
        let key = self.mm.futex_key(addr, scope)?;
        let kernel = self.task.kernel.clone();
        let locks = kernel.pi_locks.lock();
        match self.look_pi(addr, locks.queues.contains_key(&key), false)? {
            Look::Taken => Ok(0),
            Look::OwnedBy(_) => Err(EAGAIN.into()),
        }
    }

    /// `FUTEX_LOCK_PI`, until `deadline` (monotonic ns).
    pub fn lock_pi(&mut self, addr: UserAddr, scope: FutexScope, deadline: Option<u64>) -> SysResult {
        let key = self.mm.futex_key(addr, scope)?;
        let kernel = self.task.kernel.clone();
        let waiter = Arc::new(Waiter {
            tid: self.task.tid,
            shown: self.task.shown_tid,
            state: AtomicU8::new(WAITING),
            parker: self.task.parker.clone(),
        });
        {
            let mut locks = kernel.pi_locks.lock();
            let owner = match self.look_pi(addr, locks.queues.contains_key(&key), true)? {
                Look::Taken => return Ok(0),
                Look::OwnedBy(owner) => owner,
            };
            let queue = locks.queues.entry(key).or_default();
            queue.owner = self.task.id_of(owner);
            queue.waiters.push_back(waiter.clone());
        }
        // An owner that ended before we were in the queue has not seen us.
        if !self.owner_lives(&key) && self.leave_pi(&key, &waiter) {
            return Err(ESRCH.into());
        }
        loop {
            self.task.parker.prepare();
            match waiter.state.load(Ordering::SeqCst) {
                WAITING => {}
                OWNER => return Ok(0),
                _ => {
                    let waiters =
                        if kernel.pi_locks.lock().queues.contains_key(&key) { FUTEX_WAITERS } else { 0 };
                    let me = self.task.shown_tid as u32;
                    self.mm.fetch_update_u32(addr, |_| me | waiters | FUTEX_OWNER_DIED)?;
                    return Ok(0);
                }
            }
            let mut limit = None;
            let mut stop = self.has_signal().then_some(Stop::Restart(Restart::NoIntr));
            if let Some(d) = deadline {
                let now = self.monotonic_ns();
                if now >= d {
                    stop = Some(Stop::Fail(ETIMEDOUT));
                }
                limit = Some(Duration::from_nanos(d.saturating_sub(now)));
            }
            match stop {
                Some(stop) if self.leave_pi(&key, &waiter) => return Err(stop),
                // The lock was handed over meanwhile.
                Some(_) => {}
                None => {
                    self.park(limit);
                }
            }
        }
    }

    fn owner_lives(&self, key: &FutexKey) -> bool {
        let owner = self.task.kernel.pi_locks.lock().queues.get(key).map(|q| q.owner);
        owner.is_none_or(|tid| self.task.kernel.task(tid).is_some())
    }

    /// Stops waiting; false when the lock was handed over already.
    fn leave_pi(&self, key: &FutexKey, waiter: &Arc<Waiter>) -> bool {
        let mut locks = self.task.kernel.pi_locks.lock();
        let Some(queue) = locks.queues.get_mut(key) else { return false };
        let before = queue.waiters.len();
        queue.waiters.retain(|w| !Arc::ptr_eq(w, waiter));
        let left = queue.waiters.len() < before;
        if queue.waiters.is_empty() {
            locks.queues.remove(key);
        }
        left
    }

    /// `FUTEX_UNLOCK_PI`.
    pub fn unlock_pi(&mut self, addr: UserAddr, scope: FutexScope) -> SysResult {
        let me = self.task.shown_tid as u32;
        if self.mm.load_u32(addr)? & FUTEX_TID_MASK != me {
            return Err(EPERM.into());
        }
        let key = self.mm.futex_key(addr, scope)?;
        let kernel = self.task.kernel.clone();
        let mut locks = kernel.pi_locks.lock();
        let next = locks.queues.get(&key).and_then(|q| q.waiters.front()).cloned();
        let new = match &next {
            None => 0,
            // The bit stays even for the last waiter, as in Linux: the next unlock comes here and clears it.
            Some(w) => w.shown as u32 | FUTEX_WAITERS,
        };
        let mut value = self.mm.load_u32(addr)?;
        loop {
            if value & FUTEX_TID_MASK != me {
                return Err(EPERM.into());
            }
            let seen = self.mm.compare_exchange_u32(addr, value, new)?;
            if seen == value {
                break;
            }
            value = seen;
        }
        if let Some(w) = next {
            locks.pass_on(&key, OWNER);
            drop(locks);
            w.parker.wake(Events::IN);
        }
        Ok(0)
    }

    /// Passes on the locks that this thread owns and somebody waits for: it ends.
    pub(super) fn leave_pi_locks(&self) {
        let mut locks = self.task.kernel.pi_locks.lock();
        if locks.queues.is_empty() {
            return;
        }
        let mine = |q: &PiLock| q.owner == self.task.tid;
        let keys: Vec<FutexKey> = locks.queues.iter().filter(|(_, q)| mine(q)).map(|(k, _)| *k).collect();
        let heirs: Vec<_> = keys.iter().filter_map(|key| locks.pass_on(key, HEIR)).collect();
        drop(locks);
        for w in heirs {
            w.parker.wake(Events::IN);
        }
    }
}

impl PiLocks {
    /// Makes the first waiter the owner.
    fn pass_on(&mut self, key: &FutexKey, state: u8) -> Option<Arc<Waiter>> {
        let queue = self.queues.get_mut(key)?;
        let waiter = queue.waiters.pop_front()?;
        queue.owner = waiter.tid;
        if queue.waiters.is_empty() {
            self.queues.remove(key);
        }
        waiter.state.store(state, Ordering::SeqCst);
        Some(waiter)
    }
}
