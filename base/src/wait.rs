//! Wait queues and readiness.
//!
//! Whoever can be waited for owns a [`WaitQueue`]. Whoever waits registers a [`Wake`] with a mask first, checks the
//! condition then, and sleeps only when it does not hold: a wake-up between the two is not lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bitflags::bitflags;

use crate::lock::{Lock, rank};

bitflags! {
    /// Readiness, with the values of `EPOLL*`, which are those of `POLL*` where both exist.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        /// Data to read, or a connection to accept.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Room to write.
        const OUT = 0x4;
        /// An error; always reported.
        const ERR = 0x8;
        /// Hang-up; always reported.
        const HUP = 0x10;
        /// The descriptor is not open (`poll` only).
        const NVAL = 0x20;
        /// Normal data.
        const RDNORM = 0x40;
        /// Priority band data.
        const RDBAND = 0x80;
        /// Room for normal data.
        const WRNORM = 0x100;
        /// Room for priority data.
        const WRBAND = 0x200;
        /// Something else has happened (`POLLMSG`): never what a file is ready for.
        const MSG = 0x400;
        /// The peer closed its writing half.
        const RDHUP = 0x2000;
        /// `IN | RDNORM`.
        const READABLE = 0x41;
        /// `OUT | WRNORM`.
        const WRITABLE = 0x104;
    }
}

/// Somebody who waits: a task's parking place, an epoll item.
pub trait Wake: Send + Sync {
    /// `events` may have become ready. Called without the queue's lock, but with whatever locks the notifier holds; may
    /// come once more after the registration has been removed.
    fn wake(&self, events: Events);
}

/// Names a registration in one [`WaitQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitKey(u64);

struct Entry {
    key: WaitKey,
    mask: Events,
    exclusive: bool,
    waker: Arc<dyn Wake>,
}

/// Those who wait for something.
#[derive(Default)]
pub struct WaitQueue {
    /// How many entries there are, so that `notify` on a queue without waiters is one load.
    len: AtomicUsize,
    next: AtomicU64,
    entries: Lock<Vec<Entry>, { rank::WAIT }>,
}

impl std::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitQueue").field("len", &self.len).finish_non_exhaustive()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { len: AtomicUsize::new(0), next: AtomicU64::new(0), entries: Lock::new(Vec::new()) }
    }

    /// Adds a waiter for any of `mask` (`ERR` and `HUP` are always in it).
    pub fn register(&self, waker: Arc<dyn Wake>, mask: Events) -> WaitKey {
        self.insert(waker, mask, false)
    }

    /// Adds a waiter of which a notification wakes only one.
    pub fn register_exclusive(&self, waker: Arc<dyn Wake>, mask: Events) -> WaitKey {
        self.insert(waker, mask, true)
    }

    fn insert(&self, waker: Arc<dyn Wake>, mask: Events, exclusive: bool) -> WaitKey {
        let key = WaitKey(self.next.fetch_add(1, Ordering::Relaxed));
        let mut entries = self.entries.lock();
        entries.push(Entry { key, mask: mask | Events::ERR | Events::HUP, exclusive, waker });
        self.len.store(entries.len(), Ordering::SeqCst);
        key
    }

    /// Removes a waiter; a wake-up of it may still be under way in another thread.
    pub fn unregister(&self, key: WaitKey) {
        let mut entries = self.entries.lock();
        // Order matters: exclusive waiters are woken first come, first served.
        if let Some(i) = entries.iter().position(|e| e.key == key) {
            let removed = entries.remove(i);
            self.len.store(entries.len(), Ordering::SeqCst);
            drop(entries);
            drop(removed);
        }
    }

    /// Wakes every waiter whose mask meets `events`, and of the exclusive ones the first; an error or a hang-up, which
    /// no single waiter consumes, wakes them all.
    pub fn notify(&self, events: Events) {
        // Pairs with the store in `insert`: the waiter registers, then checks its condition; we changed the condition
        // first, so one of the two sees the other.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut exclusive_left = if events.intersects(Events::ERR | Events::HUP) { usize::MAX } else { 1 };
        // The wakers may take locks of their own, so they are called when ours is free.
        let entries = self.entries.lock();
        let wakers: Vec<Arc<dyn Wake>> = entries
            .iter()
            .filter(|e| e.mask.intersects(events))
            .filter(|e| {
                let take = !e.exclusive || exclusive_left > 0;
                exclusive_left -= usize::from(e.exclusive && take);
                take
            })
            .map(|e| e.waker.clone())
            .collect();
        drop(entries);
        for waker in wakers {
            waker.wake(events);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }
}
/// Something whose changes are counted and told, as by files that poll(2) reports `POLLPRI` for.
#[derive(Debug, Default)]
pub struct Changes {
    count: AtomicU64,
    queue: WaitQueue,
}

impl Changes {
    /// Nothing has changed yet.
    pub const fn new() -> Self {
        Self { count: AtomicU64::new(0), queue: WaitQueue::new() }
    }

    /// It has changed.
    pub fn tell(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.queue.notify(Events::ERR | Events::PRI);
    }

    /// How often it has changed.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Who waits for a change.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}
