//! epoll(7): waits for many files at once.
//!
//! Each item is a waker in its file's queue. A wake-up only puts it on the ready list; whether the file is ready is
//! asked when events are collected, with no lock held, so that files may take their own.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EEXIST, EINVAL, ELOOP, ENOENT, EPERM};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitKey, WaitQueue, Wake};

use super::anon_metadata;
use crate::file::{FileDescription, FileOps, Metadata, oflag};

/// `EPOLLEXCLUSIVE`.
pub const EXCLUSIVE: u32 = 1 << 28;
/// `EPOLLWAKEUP`; nothing here suspends, so it is accepted and has no effect.
pub const WAKEUP: u32 = 1 << 29;
/// `EPOLLONESHOT`.
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`.
pub const ET: u32 = 1 << 31;

const FLAGS: u32 = EXCLUSIVE | WAKEUP | ONESHOT | ET;
/// What may stand beside `EPOLLEXCLUSIVE` (fs/eventpoll.c, `EPOLLEXCLUSIVE_OK_BITS`).
const EXCLUSIVE_OK: u32 = Events::IN.bits()
    | Events::OUT.bits()
    | Events::ERR.bits()
    | Events::HUP.bits()
    | WAKEUP
    | ET
    | EXCLUSIVE;
/// How many epolls may watch each other in a row (`EP_MAX_NESTS`).
const MAX_NESTS: u32 = 4;

/// Held while one epoll is added to another, so that two such calls cannot close a circle together.
static NESTING: Lock<(), { rank::EPOLL - 1 }> = Lock::new(());

/// A descriptor and the description that it named: Linux's key too.
type Key = (i32, usize);

#[derive(Clone, Copy, Debug)]
struct Interest {
    /// Events and flags; no events after a one-shot.
    events: u32,
    data: u64,
}

struct Item {
    key: Key,
    /// The weak reference keeps the address in `key` from being used again.
    file: Weak<FileDescription>,
    epoll: Weak<Shared>,
    this: Weak<Item>,
    interest: Lock<Interest, { rank::LEAF }>,
    /// Whether it is on the ready list; changed under that list's lock.
    queued: AtomicBool,
    registration: Lock<Option<WaitKey>, { rank::LEAF }>,
}

impl Item {
    /// What the file is ready for among what was asked.
    fn found(&self, file: &FileDescription, interest: Interest) -> Events {
        let asked = Events::from_bits_truncate(interest.events & !FLAGS);
        if asked.is_empty() {
            return asked;
        }
        file.ops.ready() & (asked | Events::ERR | Events::HUP)
    }

    fn unregister(&self) {
        let registration = self.registration.lock().take();
        if let (Some(key), Some(file)) = (registration, self.file.upgrade())
            && let Some(queue) = file.ops.wait_queue()
        {
            queue.unregister(key);
            if let Some(inner) = file.ops.as_any().downcast_ref::<Epoll>() {
                let mut watchers = inner.0.watchers.lock();
                if let Some(i) = watchers.iter().position(|w| Weak::ptr_eq(w, &self.epoll)) {
                    watchers.swap_remove(i);
                }
            }
        }
    }

    /// The item's interest as it is stored: errors and hang-ups are always asked for, so that an item without events
    /// of its own differs from a one-shot that fired.
    fn stored(events: u32, data: u64) -> Interest {
        Interest { events: events | (Events::ERR | Events::HUP).bits(), data }
    }
}

impl Wake for Item {
    fn wake(&self, events: Events) {
        let asked = self.interest.lock().events & !FLAGS;
        if asked & events.bits() == 0 {
            return;
        }
        // The item lives in another file's queue and may outlast its epoll.
        let Some(epoll) = self.epoll.upgrade() else { return };
        if let Some(this) = self.this.upgrade() {
            epoll.enqueue(this);
        }
    }
}

#[derive(Default)]
struct Items {
    all: HashMap<Key, Arc<Item>>,
    /// Size at which items of closed files are looked for.
    sweep_at: usize,
}

struct Shared {
    items: Lock<Items, { rank::EPOLL }>,
    ready: Lock<VecDeque<Arc<Item>>, { rank::LEAF }>,
    queue: WaitQueue,
    /// The epolls that watch this one, once for each item.
    watchers: Lock<Vec<Weak<Shared>>, { rank::LEAF }>,
}

impl Shared {
    fn enqueue(&self, item: Arc<Item>) {
        let mut ready = self.ready.lock();
        if !item.queued.swap(true, Ordering::Relaxed) {
            ready.push_back(item);
        }
        drop(ready);
        self.queue.notify(Events::READABLE);
    }

    fn remove(&self, key: Key) -> Option<Arc<Item>> {
        let mut items = self.items.lock();
        let item = items.all.remove(&key)?;
        // A wake-up under way may queue it once more; without events nothing is found then.
        item.interest.lock().events = 0;
        drop(items);
        let mut ready = self.ready.lock();
        if item.queued.swap(false, Ordering::Relaxed) {
            ready.retain(|i| !Arc::ptr_eq(i, &item));
        }
        drop(ready);
        Some(item)
    }

    /// How many epolls watch each other in a row from here down.
    ///
    /// # Errors
    /// `ELOOP`: `target` is one of them, or they are too many.
    ///
    /// Source: Linux 6.18 fs/eventpoll.c, `ep_loop_check_proc`.
    fn depth(&self, target: &Shared, left: u32, seen: &mut HashMap<usize, u32>) -> Result<u32, Errno> {
        if std::ptr::eq(self, target) {
            return Err(ELOOP);
        }
        let key = std::ptr::from_ref(self).addr();
        if let Some(&depth) = seen.get(&key) {
            return Ok(depth);
        }
        let files: Vec<_> = self.items.lock().all.values().map(|i| i.file.clone()).collect();
        let mut depth = 0;
        for file in files.iter().filter_map(Weak::upgrade) {
            if let Some(inner) = file.ops.as_any().downcast_ref::<Epoll>() {
                let left = left.checked_sub(1).ok_or(ELOOP)?;
                depth = depth.max(inner.0.depth(target, left, seen)? + 1);
            }
        }
        seen.insert(key, depth);
        Ok(depth)
    }

    /// How many epolls watch each other in a row from here up.
    fn height(&self, left: u32, seen: &mut HashMap<usize, u32>) -> Result<u32, Errno> {
        let key = std::ptr::from_ref(self).addr();
        if let Some(&height) = seen.get(&key) {
            return Ok(height);
        }
        let mut above: Vec<Arc<Shared>> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        above.sort_by_key(|epoll| Arc::as_ptr(epoll).addr());
        above.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut height = 0;
        for epoll in above {
            let left = left.checked_sub(1).ok_or(ELOOP)?;
            height = height.max(epoll.height(left, seen)? + 1);
        }
        seen.insert(key, height);
        Ok(height)
    }
}

/// An open epoll instance.
pub struct Epoll(Arc<Shared>);

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("queue", &self.0.queue).finish_non_exhaustive()
    }
}

/// Makes an epoll instance; find it again with `description.ops.as_any().downcast_ref::<Epoll>()`.
pub fn new() -> Arc<FileDescription> {
    let shared = Shared {
        items: Lock::new(Items { all: HashMap::new(), sweep_at: 64 }),
        ready: Lock::new(VecDeque::new()),
        queue: WaitQueue::new(),
        watchers: Lock::default(),
    };
    FileDescription::new(Box::new(Epoll(Arc::new(shared))), None, oflag::RDWR)
}

impl Epoll {
    fn check(&self, file: &FileDescription) -> Result<(), Errno> {
        if file.ops.wait_queue().is_none() {
            return Err(EPERM);
        }
        match file.ops.as_any().downcast_ref::<Self>() {
            Some(other) if Arc::ptr_eq(&other.0, &self.0) => Err(EINVAL),
            _ => Ok(()),
        }
    }

    fn key(fd: i32, file: &Arc<FileDescription>) -> Key {
        (fd, Arc::as_ptr(file).addr())
    }

    /// `EPOLL_CTL_ADD`; `events` with its flags as the guest gave them.
    ///
    /// # Errors
    /// `EPERM`: the file cannot be waited for; `EINVAL`, `ELOOP`, `EEXIST` as epoll_ctl(2) says.
    pub fn add(&self, fd: i32, file: &Arc<FileDescription>, events: u32, data: u64) -> Result<(), Errno> {
        self.check(file)?;
        let nested = file.ops.as_any().downcast_ref::<Self>();
        if events & EXCLUSIVE != 0 && (nested.is_some() || events & !EXCLUSIVE_OK != 0) {
            return Err(EINVAL);
        }
        let nesting = nested.map(|_| NESTING.lock());
        if let Some(inner) = nested {
            let below = inner.0.depth(&self.0, MAX_NESTS, &mut HashMap::new())?;
            if below + 1 + self.0.height(MAX_NESTS, &mut HashMap::new())? > MAX_NESTS {
                return Err(ELOOP);
            }
        }
        let key = Self::key(fd, file);
        let interest = Item::stored(events, data);
        let item = Arc::new_cyclic(|this| Item {
            key,
            file: Arc::downgrade(file),
            epoll: Arc::downgrade(&self.0),
            this: this.clone(),
            interest: Lock::new(interest),
            queued: AtomicBool::new(false),
            registration: Lock::new(None),
        });
        let mut items = self.0.items.lock();
        if items.all.contains_key(&key) {
            return Err(EEXIST);
        }
        if items.all.len() >= items.sweep_at {
            items.all.retain(|_, i| i.file.strong_count() > 0);
            items.sweep_at = (items.all.len() * 2).max(64);
        }
        items.all.insert(key, item.clone());
        if let Some(queue) = file.ops.wait_queue() {
            // The waker compares with the interest of the moment, so the registration need not follow it.
            let registration = if events & EXCLUSIVE != 0 {
                queue.register_exclusive(item.clone(), Events::from_bits_truncate(events))
            } else {
                queue.register(item.clone(), Events::all())
            };
            *item.registration.lock() = Some(registration);
        }
        drop(items);
        if let Some(inner) = nested {
            let mut watchers = inner.0.watchers.lock();
            watchers.retain(|w| w.strong_count() > 0);
            watchers.push(Arc::downgrade(&self.0));
        }
        drop(nesting);
        if !item.found(file, interest).is_empty() {
            self.0.enqueue(item);
        }
        Ok(())
    }

    /// `EPOLL_CTL_MOD`.
    ///
    /// # Errors
    /// As `add`, and `ENOENT`.
    pub fn modify(&self, fd: i32, file: &Arc<FileDescription>, events: u32, data: u64) -> Result<(), Errno> {
        self.check(file)?;
        if events & EXCLUSIVE != 0 {
            return Err(EINVAL);
        }
        let items = self.0.items.lock();
        let item = items.all.get(&Self::key(fd, file)).cloned().ok_or(ENOENT)?;
        let interest = Item::stored(events, data);
        let mut current = item.interest.lock();
        if current.events & EXCLUSIVE != 0 {
            return Err(EINVAL);
        }
        *current = interest;
        drop(current);
        drop(items);
        if !item.found(file, interest).is_empty() {
            self.0.enqueue(item);
        }
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`, `ENOENT`.
    pub fn delete(&self, fd: i32, file: &Arc<FileDescription>) -> Result<(), Errno> {
        self.check(file)?;
        self.0.remove(Self::key(fd, file)).ok_or(ENOENT)?.unregister();
        Ok(())
    }

    /// Hands up to `max` events that hold now, with the data of their items, to `take`; waits for none. Returns how many
    /// were taken; the one that `take` refuses (returns false) stays, and ends the call.
    pub fn collect(&self, max: usize, take: &mut dyn FnMut(u32, u64) -> bool) -> usize {
        let mut taken = 0;
        let mut again = Vec::new();
        let mut refused = None;
        let mut left = self.0.ready.lock().len();
        while taken < max && left > 0 {
            left -= 1;
            let mut ready = self.0.ready.lock();
            let Some(item) = ready.pop_front() else { break };
            item.queued.store(false, Ordering::Relaxed);
            drop(ready);
            let Some(file) = item.file.upgrade() else {
                self.0.remove(item.key);
                continue;
            };
            let interest = *item.interest.lock();
            let found = item.found(&file, interest);
            if found.is_empty() {
                continue;
            }
            if interest.events & ONESHOT != 0 {
                let mut current = item.interest.lock();
                // Another thread may have taken the one shot meanwhile.
                if current.events & !FLAGS == 0 {
                    continue;
                }
                current.events &= FLAGS;
            }
            if !take(found.bits(), interest.data) {
                if interest.events & ONESHOT != 0 {
                    *item.interest.lock() = interest;
                }
                refused = Some(item);
                break;
            }
            taken += 1;
            if interest.events & (ONESHOT | ET) == 0 {
                again.push(item);
            }
        }
        let mut ready = self.0.ready.lock();
        if let Some(item) = refused
            && !item.queued.swap(true, Ordering::Relaxed)
        {
            ready.push_front(item);
        }
        for item in again {
            if !item.queued.swap(true, Ordering::Relaxed) {
                ready.push_back(item);
            }
        }
        let more = !ready.is_empty();
        drop(ready);
        if more {
            // Whoever looked while these items were off the list must look again.
            self.0.queue.notify(Events::READABLE);
        }
        taken
    }
}

impl FileOps for Epoll {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn ready(&self) -> Events {
        let items: Vec<_> = self.0.ready.lock().iter().cloned().collect();
        let any = items.iter().any(|item| {
            let interest = *item.interest.lock();
            item.file.upgrade().is_some_and(|file| !item.found(&file, interest).is_empty())
        });
        if any { Events::READABLE } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[eventpoll]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.0.items.lock().all);
        for item in all.values() {
            item.unregister();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anon::{eventfd, pipe};

    fn ep(file: &Arc<FileDescription>) -> &Epoll {
        file.ops.as_any().downcast_ref().unwrap()
    }

    fn collected(file: &Arc<FileDescription>) -> Vec<(u32, u64)> {
        let mut events = Vec::new();
        ep(file).collect(8, &mut |e, data| {
            events.push((e, data));
            true
        });
        events
    }

    #[test]
    fn level_edge_and_one_shot() {
        let file = new();
        let event = eventfd::new(1, false, 0);
        let input = Events::IN.bits();
        assert_eq!(ep(&file).add(3, &event, input, 7), Ok(()));
        assert_eq!(ep(&file).add(3, &event, input, 7), Err(EEXIST));
        assert_eq!(collected(&file), [(1, 7)]);
        assert_eq!(collected(&file), [(1, 7)]);
        assert_eq!(ep(&file).modify(3, &event, input | ET, 8), Ok(()));
        assert_eq!(collected(&file), [(1, 8)]);
        assert_eq!(collected(&file), []);
        event.write(&mut &1u64.to_le_bytes()[..]).unwrap();
        assert_eq!(collected(&file), [(1, 8)]);
        assert_eq!(ep(&file).modify(3, &event, input | ONESHOT, 9), Ok(()));
        assert_eq!(collected(&file), [(1, 9)]);
        event.write(&mut &1u64.to_le_bytes()[..]).unwrap();
        assert_eq!(collected(&file), []);
        assert_eq!(ep(&file).delete(3, &event), Ok(()));
        assert_eq!(ep(&file).delete(3, &event), Err(ENOENT));
    }

    #[test]
    fn closed_files_leave_and_circles_are_refused() {
        let (a, b) = (new(), new());
        assert_eq!(ep(&a).add(3, &a, 1, 0), Err(EINVAL));
        assert_eq!(ep(&a).add(3, &b, 1, 5), Ok(()));
        assert_eq!(ep(&b).add(4, &a, 1, 0), Err(ELOOP));
        let (r, w) = pipe::new(0, crate::vfs::Owner { uid: 0, gid: 0 });
        assert_eq!(ep(&b).add(5, &r, 1, 6), Ok(()));
        assert_eq!(collected(&a), []);
        w.write(&mut &b"x"[..]).unwrap();
        assert_eq!(collected(&a), [(1, 5)]);
        drop(r);
        assert_eq!(collected(&b), []);
        assert_eq!(collected(&a), []);
    }
}
