//! Who waits on which futex word.
//!
//! No lock is held while the word is read, since reading guest memory takes outer locks. A waiter registers first and
//! compares the word then; a waker changes the word first and looks for waiters then. So one of the two sees the other:
//! the waiter that read the old word is found by the wake-up that follows the change. A waiter that finds another value
//! cancels; when a wake-up has hit it meanwhile, it must return 0 instead of `EAGAIN`, as it took the wake-up from
//! somebody else.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use base::lock::{Lock, LockGuard, rank};
use base::wait::{Events, Wake};

use crate::mm::FutexKey;

/// `FUTEX_BITSET_MATCH_ANY`.
pub const MATCH_ANY: u32 = u32::MAX;

const BUCKETS: usize = 256;

type Queue = VecDeque<Arc<Waiter>>;
type Guard<'a> = LockGuard<'a, Queue, { rank::WAIT }>;

/// A waiter in the table.
struct Waiter {
    /// Which bucket holds it; changes by requeueing, under the locks of both buckets.
    bucket: AtomicUsize,
    /// What it waits for; read and changed under its bucket's lock.
    key: Lock<FutexKey, { rank::LEAF }>,
    bitset: u32,
    /// Set under the bucket's lock when it is taken from the queue by a wake-up.
    woken: AtomicBool,
    waker: Arc<dyn Wake>,
}

/// A place in a queue. Dropping it cancels.
pub struct FutexWait<'a> {
    table: &'a FutexTable,
    waiter: Arc<Waiter>,
    queued: bool,
}

impl fmt::Debug for FutexWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FutexWait").field("woken", &self.is_woken()).finish_non_exhaustive()
    }
}

impl FutexWait<'_> {
    /// Whether a wake-up has hit it.
    pub fn is_woken(&self) -> bool {
        self.waiter.woken.load(Ordering::Acquire)
    }

    /// Leaves the queue; returns whether a wake-up came first. When it did, the caller reports success.
    pub fn cancel(mut self) -> bool {
        self.leave()
    }

    fn leave(&mut self) -> bool {
        if self.queued {
            self.queued = false;
            self.table.remove(&self.waiter);
        }
        self.is_woken()
    }
}

impl Drop for FutexWait<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// All futex waiters of the sandbox, by hash of the key.
pub struct FutexTable {
    buckets: Box<[Bucket]>,
    hasher: BuildHasherDefault<DefaultHasher>,
}

#[derive(Default)]
struct Bucket {
    /// How many wait here, so that a wake-up without waiters takes no lock.
    len: AtomicUsize,
    queue: Lock<Queue, { rank::WAIT }>,
}

impl Default for FutexTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FutexTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FutexTable").field("waiters", &self.waiters()).finish_non_exhaustive()
    }
}

impl FutexTable {
    /// A table without waiters.
    pub fn new() -> Self {
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS).collect();
        Self { buckets, hasher: BuildHasherDefault::default() }
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.buckets.iter().map(|b| b.len.load(Ordering::Relaxed)).sum()
    }

    fn index(&self, key: &FutexKey) -> usize {
        (self.hasher.hash_one(key) % BUCKETS as u64) as usize
    }

    /// Queues a waiter for `key`. The caller then compares the word, and sleeps until [`FutexWait::is_woken`] or leaves
    /// with [`FutexWait::cancel`].
    pub fn wait_prepare(&self, key: FutexKey, bitset: u32, waker: Arc<dyn Wake>) -> FutexWait<'_> {
        let index = self.index(&key);
        let waiter = Arc::new(Waiter {
            bucket: AtomicUsize::new(index),
            key: Lock::new(key),
            bitset,
            woken: AtomicBool::new(false),
            waker,
        });
        let bucket = &self.buckets[index];
        let mut queue = bucket.queue.lock();
        queue.push_back(waiter.clone());
        bucket.len.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        // Pairs with the fence of `wake`: the count above, then the caller's look at the word.
        fence(Ordering::SeqCst);
        FutexWait { table: self, waiter, queued: true }
    }

    fn remove(&self, waiter: &Arc<Waiter>) {
        loop {
            if waiter.woken.load(Ordering::Acquire) {
                return;
            }
            let index = waiter.bucket.load(Ordering::Acquire);
            let bucket = &self.buckets[index];
            let mut queue = bucket.queue.lock();
            // Requeued between the load and the lock.
            if waiter.bucket.load(Ordering::Acquire) != index {
                continue;
            }
            let at = queue.iter().position(|w| Arc::ptr_eq(w, waiter));
            // The last reference to a waker never goes under the lock: `waiter` holds another one.
            if let Some(at) = at {
                queue.remove(at);
                bucket.len.store(queue.len(), Ordering::SeqCst);
            }
            return;
        }
    }

    /// Wakes up to `n` waiters for `key` whose bitset meets `bitset`, first come, first served; returns how many.
    pub fn wake(&self, key: &FutexKey, n: usize, bitset: u32) -> usize {
        // The caller changed the word first: see the module's head.
        fence(Ordering::SeqCst);
        let bucket = &self.buckets[self.index(key)];
        if n == 0 || bucket.len.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let mut queue = bucket.queue.lock();
        let woken = take(&mut queue, key, n, bitset);
        bucket.len.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        let count = woken.len();
        for w in woken {
            w.waker.wake(Events::IN);
        }
        count
    }

    /// Wakes up to `wake` waiters for `from` and moves up to `requeue` further ones to `to`; returns both counts.
    ///
    /// For `FUTEX_CMP_REQUEUE` the caller compares the word before; a change between the two is as one just after.
    pub fn requeue(&self, from: &FutexKey, to: &FutexKey, wake: usize, requeue: usize) -> (usize, usize) {
        fence(Ordering::SeqCst);
        let (i, j) = (self.index(from), self.index(to));
        let (first, second) = (i.min(j), i.max(j));
        // Two locks of one rank: the lower bucket first.
        let mut low: Guard<'_> = self.buckets[first].queue.lock();
        let mut high: Option<Guard<'_>> =
            (first != second).then(|| self.buckets[second].queue.lock_same_rank());
        let mut moved = VecDeque::new();
        let woken;
        {
            let source: &mut Queue = match &mut high {
                Some(high) if i == second => high,
                _ => &mut low,
            };
            woken = take(source, from, wake, MATCH_ANY);
            let mut kept = VecDeque::with_capacity(source.len());
            while let Some(w) = source.pop_front() {
                if moved.len() < requeue && *w.key.lock() == *from {
                    *w.key.lock() = *to;
                    w.bucket.store(j, Ordering::Release);
                    moved.push_back(w);
                } else {
                    kept.push_back(w);
                }
            }
            *source = kept;
            self.buckets[i].len.store(source.len(), Ordering::SeqCst);
        }
        let count = moved.len();
        {
            let target: &mut Queue = match &mut high {
                Some(high) if j == second => high,
                _ => &mut low,
            };
            target.append(&mut moved);
            self.buckets[j].len.store(target.len(), Ordering::SeqCst);
        }
        drop(high);
        drop(low);
        let wakes = woken.len();
        for w in woken {
            w.waker.wake(Events::IN);
        }
        (wakes, count)
    }
}

/// Takes up to `n` matching waiters out of the queue and marks them woken. Their wakers run after the lock is released.
fn take(queue: &mut Queue, key: &FutexKey, n: usize, bitset: u32) -> Vec<Arc<Waiter>> {
    let mut woken = Vec::new();
    let mut i = 0;
    while woken.len() < n && i < queue.len() {
        if queue.get(i).is_some_and(|w| w.bitset & bitset != 0 && *w.key.lock() == *key) {
            if let Some(w) = queue.remove(i) {
                w.woken.store(true, Ordering::Release);
                woken.push(w);
            }
        } else {
            i += 1;
        }
    }
    woken
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread::{self, Thread};

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(&self, _: Events) {
            self.0.unpark();
        }
    }

    fn me() -> Arc<dyn Wake> {
        Arc::new(Unpark(thread::current()))
    }

    fn key(addr: u64) -> FutexKey {
        FutexKey::Private { mm: 1, addr, scope: crate::mm::FutexScope::Private }
    }

    fn wait(table: &FutexTable, word: &AtomicU32, expected: u32) {
        let wait = table.wait_prepare(key(4), MATCH_ANY, me());
        if word.load(Ordering::SeqCst) == expected {
            while !wait.is_woken() {
                thread::park();
            }
        }
    }

    #[test]
    fn a_wake_up_between_registering_and_sleeping_is_not_lost() {
        // A mutex of three states (Drepper, "Futexes are tricky"); a lost wake-up hangs.
        let table = FutexTable::new();
        let word = AtomicU32::new(0);
        let total = AtomicU32::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..5000 {
                        if word.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                            while word.swap(2, Ordering::SeqCst) != 0 {
                                wait(&table, &word, 2);
                            }
                        }
                        let seen = total.load(Ordering::Relaxed);
                        total.store(seen + 1, Ordering::Relaxed);
                        if word.swap(0, Ordering::SeqCst) == 2 {
                            table.wake(&key(4), 1, MATCH_ANY);
                        }
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 20000);
        assert_eq!(table.waiters(), 0);
    }

    #[test]
    fn bitsets_select_and_order_is_kept() {
        let table = FutexTable::new();
        let a = table.wait_prepare(key(4), 1, me());
        let b = table.wait_prepare(key(4), 2, me());
        let c = table.wait_prepare(key(4), 3, me());
        assert_eq!(table.wake(&key(8), 9, MATCH_ANY), 0);
        assert_eq!(table.wake(&key(4), 1, 2), 1);
        assert!(!a.is_woken() && b.is_woken() && !c.is_woken());
        assert!(b.cancel());
        assert!(!a.cancel());
        assert_eq!(table.wake(&key(4), 9, MATCH_ANY), 1);
        assert!(c.cancel());
    }

    #[test]
    fn requeueing_moves_waiters_and_they_can_still_leave() {
        let table = FutexTable::new();
        for to in (8..4000).step_by(4) {
            let waits: Vec<_> = (0..4).map(|_| table.wait_prepare(key(4), MATCH_ANY, me())).collect();
            assert_eq!(table.requeue(&key(4), &key(to), 1, 2), (1, 2));
            assert_eq!(table.wake(&key(to), 1, MATCH_ANY), 1);
            assert_eq!(table.requeue(&key(to), &key(to), 0, 9), (0, 1));
            let woken: Vec<_> = waits.into_iter().map(FutexWait::cancel).collect();
            assert_eq!(woken, [true, true, false, false]);
            assert_eq!(table.waiters(), 0);
        }
    }
}
