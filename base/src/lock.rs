//! Locks with a rank, and the one list of their order.
//!
//! A thread may take a lock only while every lock it holds has a lower rank; a debug build checks that for each thread
//! and panics with both ranks. Two locks of one rank are taken only by a helper that orders them by address and uses
//! [`Lock::lock_same_rank`]. No lock is held while a thread sleeps for a guest's sake or over a blocking host call.

use std::ops::{Deref, DerefMut};

/// The ranks, outermost first. Numbers have gaps for later ones.
pub mod rank {
    /// The table of a process's timers.
    pub const TIMERS: u16 = 5;
    /// A timer of a process; taken before the task tree, which tells how much processor time was used.
    pub const TIMER: u16 = 6;
    /// The task tree: parents, children, thread groups, process groups, sessions, PID tables.
    pub const TASK_TREE: u16 = 10;
    /// Signal state of a thread group (handlers, pending, masks).
    pub const SIGNALS: u16 = 20;
    /// Other state of one task or thread group.
    pub const TASK: u16 = 30;
    /// What a process does on each signal.
    pub const HANDLERS: u16 = 32;
    /// Mount tables.
    pub const MOUNT: u16 = 36;
    /// A task's root and working directory.
    pub const FS_CONTEXT: u16 = 38;
    /// A file descriptor table.
    pub const FD_TABLE: u16 = 40;
    /// An epoll instance's interest list.
    pub const EPOLL: u16 = 44;
    /// The position of a file description.
    pub const FILE_POSITION: u16 = 46;
    /// The rename lock of a file system: held while two directories are locked.
    pub const RENAME: u16 = 48;
    /// The children of a dentry.
    pub const DENTRY: u16 = 50;
    /// Copies from the lower to the upper layer of an overlay.
    pub const OVERLAY: u16 = 52;
    /// An inode, directories first; the upper layer of a stacked file system before the lower one.
    pub const INODE: u16 = 54;
    /// Files in messages between sockets: held while some are sent or received, and by the search for rings of them.
    pub const RIGHTS: u16 = 55;
    /// What a socket is bound and connected to.
    pub const SOCKET: u16 = 56;
    /// A pipe, socket, terminal or other byte queue.
    pub const QUEUE: u16 = 58;
    /// Futexes that pass from owner to owner; held over looks at their words.
    pub const PI_LOCKS: u16 = 59;
    /// The VMAs of an address space.
    pub const MM: u16 = 60;
    /// The links between keyrings.
    pub const KEYRINGS: u16 = 61;
    /// The tables of System V IPC; taken when the last area of a segment goes.
    pub const IPC: u16 = 62;
    /// All keys by number and name, and the quotas of their owners; taken when the last reference to a key goes.
    pub const KEYS: u16 = 63;
    /// One object of System V IPC. No guest memory is touched under it.
    pub const IPC_OBJECT: u16 = 64;
    /// One key.
    pub const KEY: u16 = 66;
    /// The page cache of one file (what a page fault may need; no copy to guest memory happens under it).
    pub const PAGE_CACHE: u16 = 70;
    /// The mappings of one file: who maps it where.
    pub const FILE_MAPPINGS: u16 = 72;
    /// The page tables of one address space.
    pub const PAGE_TABLE: u16 = 80;
    /// The calibration of the clocks.
    pub const TIMEKEEPER: u16 = 82;
    /// The allocator of the memory file.
    pub const MEMORY_FILE: u16 = 84;
    /// vCPU pools and memory slots.
    pub const PLATFORM: u16 = 88;
    /// Futex buckets and other wait queues: the innermost lock that may wake somebody.
    pub const WAIT: u16 = 92;
    /// Alarms that are set.
    pub const ALARMS: u16 = 94;
    /// A task's parking place, counters and other leaves: nothing is taken under it.
    pub const LEAF: u16 = 98;
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn enter(rank: u16, same: bool) {
        HELD.with_borrow_mut(|held| {
            if let Some(&top) = held.iter().max() {
                assert!(
                    top < rank || (same && top == rank),
                    "lock order: rank {rank} taken while rank {top} is held"
                );
            }
            held.push(rank);
        });
    }

    pub(super) fn push(rank: u16) {
        HELD.with_borrow_mut(|held| held.push(rank));
    }

    pub(super) fn leave(rank: u16) {
        // A guard may be dropped while the thread's locals are torn down.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(i) = held.iter().rposition(|&r| r == rank) {
                held.remove(i);
            }
        });
    }
}

#[cfg(not(debug_assertions))]
mod held {
    pub(super) fn enter(_rank: u16, _same: bool) {}
    pub(super) fn push(_rank: u16) {}
    pub(super) fn leave(_rank: u16) {}
}

/// A mutual exclusion lock of rank `RANK` around the fields it guards.
#[derive(Debug, Default)]
pub struct Lock<T: ?Sized, const RANK: u16>(parking_lot::Mutex<T>);

/// Holds a [`Lock`].
#[derive(Debug)]
pub struct LockGuard<'a, T: ?Sized, const RANK: u16>(parking_lot::MutexGuard<'a, T>);

impl<T, const RANK: u16> Lock<T, RANK> {
    /// Makes an open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::const_mutex(value))
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized, const RANK: u16> Lock<T, RANK> {
    /// Takes the lock.
    ///
    /// # Panics
    ///
    /// In a debug build, when the thread holds a lock of this rank or of an inner one.
    pub fn lock(&self) -> LockGuard<'_, T, RANK> {
        held::enter(RANK, false);
        LockGuard(self.0.lock())
    }

    /// Takes the lock while another lock of this rank may be held; the caller orders them (lower address first, or
    /// parent before child).
    pub fn lock_same_rank(&self) -> LockGuard<'_, T, RANK> {
        held::enter(RANK, true);
        LockGuard(self.0.lock())
    }

    /// Takes the lock if it is free; any rank may be held, since nobody waits.
    pub fn try_lock(&self) -> Option<LockGuard<'_, T, RANK>> {
        let guard = self.0.try_lock()?;
        held::push(RANK);
        Some(LockGuard(guard))
    }

    /// The value, without locking: `&mut self` proves that nobody else is here.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized, const RANK: u16> Deref for LockGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized, const RANK: u16> DerefMut for LockGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized, const RANK: u16> Drop for LockGuard<'_, T, RANK> {
    fn drop(&mut self) {
        held::leave(RANK);
    }
}

impl<'a, T: ?Sized, const RANK: u16> LockGuard<'a, T, RANK> {
    /// The `parking_lot` guard inside, for [`Condition::wait`].
    fn inner(&mut self) -> &mut parking_lot::MutexGuard<'a, T> {
        &mut self.0
    }
}

/// A condition variable for use with [`Lock`].
#[derive(Debug, Default)]
pub struct Condition(parking_lot::Condvar);

impl Condition {
    /// Makes a condition nobody waits for.
    pub const fn new() -> Self {
        Self(parking_lot::Condvar::new())
    }

    /// Releases the lock, sleeps until notified, takes the lock again. May wake without a reason.
    pub fn wait<T: ?Sized, const RANK: u16>(&self, guard: &mut LockGuard<'_, T, RANK>) {
        self.0.wait(guard.inner());
    }

    /// The same with a limit; returns true when the time ran out.
    pub fn wait_for<T: ?Sized, const RANK: u16>(
        &self,
        guard: &mut LockGuard<'_, T, RANK>,
        limit: std::time::Duration,
    ) -> bool {
        self.0.wait_for(guard.inner(), limit).timed_out()
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A readers–writer lock of rank `RANK`.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized, const RANK: u16>(parking_lot::RwLock<T>);

/// Holds a [`RwLock`] for reading.
#[derive(Debug)]
pub struct ReadGuard<'a, T: ?Sized, const RANK: u16>(parking_lot::RwLockReadGuard<'a, T>);

/// Holds a [`RwLock`] for writing.
#[derive(Debug)]
pub struct WriteGuard<'a, T: ?Sized, const RANK: u16>(parking_lot::RwLockWriteGuard<'a, T>);

impl<T, const RANK: u16> RwLock<T, RANK> {
    /// Makes an open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::const_rwlock(value))
    }
}

impl<T: ?Sized, const RANK: u16> RwLock<T, RANK> {
    /// Takes the lock for reading; never twice in one thread.
    pub fn read(&self) -> ReadGuard<'_, T, RANK> {
        held::enter(RANK, false);
        ReadGuard(self.0.read())
    }

    /// Takes the lock for writing.
    pub fn write(&self) -> WriteGuard<'_, T, RANK> {
        held::enter(RANK, false);
        WriteGuard(self.0.write())
    }

    /// [`RwLock::write`] while another lock of this rank may be held; the caller orders them.
    pub fn write_same_rank(&self) -> WriteGuard<'_, T, RANK> {
        held::enter(RANK, true);
        WriteGuard(self.0.write())
    }

    /// [`RwLock::read`] while another lock of this rank may be held; the caller orders them.
    pub fn read_same_rank(&self) -> ReadGuard<'_, T, RANK> {
        held::enter(RANK, true);
        ReadGuard(self.0.read())
    }

    /// The value, without locking.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized, const RANK: u16> Deref for ReadGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized, const RANK: u16> Deref for WriteGuard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized, const RANK: u16> DerefMut for WriteGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized, const RANK: u16> Drop for ReadGuard<'_, T, RANK> {
    fn drop(&mut self) {
        held::leave(RANK);
    }
}

impl<T: ?Sized, const RANK: u16> Drop for WriteGuard<'_, T, RANK> {
    fn drop(&mut self) {
        held::leave(RANK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_may_only_rise() {
        let outer: Lock<u8, 10> = Lock::new(1);
        let inner: Lock<u8, 20> = Lock::new(2);
        let a = outer.lock();
        let b = inner.lock();
        assert_eq!(*a + *b, 3);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: rank 10 taken while rank 20 is held")]
    fn a_falling_rank_panics_in_a_debug_build() {
        let outer: Lock<u8, 10> = Lock::new(1);
        let inner: Lock<u8, 20> = Lock::new(2);
        let _b = inner.lock();
        let _a = outer.lock();
    }
}
