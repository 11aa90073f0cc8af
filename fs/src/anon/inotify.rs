//! inotify(7): tells of what happens to files.
//!
//! A watch hangs on an inode (`notify.rs`): what the VFS does there, and to the names in it, is told to its instance's
//! queue.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EEXIST, EINVAL, ENOSPC, ENOTTY};
use base::io::Sink;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::anon_metadata;
use super::pipe::FIONREAD;
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};
use crate::notify::{self, Counted, Watcher, event};
use crate::vfs::VfsPath;

/// Events that wait in one instance at most (`/proc/sys/fs/inotify/max_queued_events`).
pub static QUEUE_MAX: AtomicUsize = AtomicUsize::new(16384);
/// Watches of one instance at most.
const WATCHES_MAX: usize = 65536;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Event {
    /// Bytes that a read gives for it: the name is padded to multiples of the header's size.
    fn len(&self) -> usize {
        if self.name.is_empty() { 16 } else { 16 + (self.name.len() + 1).next_multiple_of(16) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&self.wd.to_le_bytes());
        out.extend_from_slice(&self.mask.to_le_bytes());
        out.extend_from_slice(&self.cookie.to_le_bytes());
        out.extend_from_slice(&((self.len() - 16) as u32).to_le_bytes());
        out.extend_from_slice(&self.name);
        out.resize(self.len(), 0);
        out
    }
}

/// A watch of one instance on one file.
#[derive(Debug)]
pub(crate) struct Watch {
    wd: i32,
    mask: AtomicU32,
    instance: Weak<Instance>,
    place: VfsPath,
    /// Has others tell of what they do to it, for the mask of now.
    outside: Outside,
    _counted: Counted,
}

#[derive(Default)]
struct Outside(Lock<Option<Box<dyn Any + Send + Sync>>, { rank::LEAF }>);

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outside")
    }
}

impl Outside {
    fn set(&self, place: &VfsPath, mask: u32) {
        let new = place.dentry.inode().watched(mask);
        let old = std::mem::replace(&mut *self.0.lock(), new);
        drop(old);
    }
}

impl Watch {
    pub(crate) fn tell(&self, told: notify::Event<'_>) {
        let wanted = self.mask.load(Ordering::Relaxed);
        if wanted & told.mask & event::ALL == 0 || told.is_gone && wanted & event::EXCL_UNLINK != 0 {
            return;
        }
        let Some(instance) = self.instance.upgrade() else { return };
        // What a watched directory does itself is not marked with `ISDIR`.
        let own = told.mask & (event::MOVE_SELF | event::DELETE_SELF) != 0;
        let mask = if own { told.mask & !event::ISDIR } else { told.mask };
        instance.push(Event { wd: self.wd, mask, cookie: told.cookie, name: told.name.into() });
        if wanted & event::ONESHOT != 0 {
            instance.remove(self.wd);
        }
    }

    /// Events were lost.
    pub(crate) fn overflow(&self) {
        if let Some(instance) = self.instance.upgrade() {
            instance.push(Event { wd: -1, mask: event::Q_OVERFLOW, cookie: 0, name: Box::default() });
        }
    }

    /// What it watches is gone.
    pub(crate) fn end(&self) {
        if let Some(instance) = self.instance.upgrade() {
            instance.remove(self.wd);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    watches: HashMap<i32, Arc<Watch>>,
    /// With what each takes of the sandbox's memory: the limit of their number can be raised.
    events: VecDeque<(Event, Kept)>,
    last_wd: i32,
}

#[derive(Debug)]
struct Instance {
    state: Lock<State, { rank::LEAF }>,
    queue: WaitQueue,
}

impl Instance {
    fn push(&self, event: Event) {
        let mut state = self.state.lock();
        let is_last =
            |state: &State, event: &Event| state.events.back().is_some_and(|(last, _)| last == event);
        if is_last(&state, &event) {
            return;
        }
        let has_room = state.events.len() < QUEUE_MAX.load(Ordering::Relaxed);
        let kept = has_room.then(|| Kept::new(size_of::<(Event, Kept)>() + event.name.len()));
        let Some(Ok(kept)) = kept else {
            let overflow = Event { wd: -1, mask: event::Q_OVERFLOW, cookie: 0, name: Box::default() };
            if !is_last(&state, &overflow) {
                state.events.push_back((overflow, Kept::default()));
            }
            return;
        };
        state.events.push_back((event, kept));
        drop(state);
        self.queue.notify(Events::READABLE);
    }

    fn remove(&self, wd: i32) -> Option<Arc<Watch>> {
        let watch = self.state.lock().watches.remove(&wd)?;
        if let Some(on) = watch.place.dentry.watches() {
            on.retain(|w| !matches!(w, Watcher::Inotify(w) if std::ptr::eq(w.as_ptr(), &*watch)));
        }
        self.push(Event { wd, mask: event::IGNORED, cookie: 0, name: Box::default() });
        Some(watch)
    }
}

/// An open inotify instance.
#[derive(Debug)]
pub struct Inotify(Arc<Instance>);

/// Makes an inotify instance; `flags` is `O_NONBLOCK` or 0.
pub fn new(flags: u32) -> Arc<FileDescription> {
    let instance = Instance { state: Lock::new(State::default()), queue: WaitQueue::new() };
    FileDescription::new(Box::new(Inotify(Arc::new(instance))), None, flags & oflag::NONBLOCK)
}

impl Inotify {
    /// `inotify_add_watch`, on a place that was found and may be read.
    ///
    /// # Errors
    /// `EEXIST`: `IN_MASK_CREATE`, and it is watched; `ENOSPC`: too many watches.
    pub fn add(&self, place: VfsPath, mask: u32) -> Result<i32, Errno> {
        let dentry = place.dentry.clone();
        let on = dentry.make_watches();
        let kept = mask & (event::ALL | event::EXCL_UNLINK | event::ONESHOT);
        let own = {
            let instance = Arc::as_ptr(&self.0);
            let all = on.list().into_iter().filter_map(|w| match w {
                Watcher::Inotify(w) => w.upgrade(),
                Watcher::Dnotify(_) | Watcher::Fanotify(_) => None,
            });
            let mut all = all.filter(|w| std::ptr::eq(w.instance.as_ptr(), instance));
            all.next()
        };
        if let Some(watch) = own {
            if mask & event::MASK_CREATE != 0 {
                return Err(EEXIST);
            }
            let old = if mask & event::MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(old | kept, Ordering::Relaxed);
            watch.outside.set(&watch.place, old | kept);
            return Ok(watch.wd);
        }
        let mut state = self.0.state.lock();
        if state.watches.len() >= WATCHES_MAX {
            return Err(ENOSPC);
        }
        let mut wd = state.last_wd;
        loop {
            wd = if wd == i32::MAX { 1 } else { wd + 1 };
            if !state.watches.contains_key(&wd) {
                break;
            }
        }
        state.last_wd = wd;
        let watch = Arc::new(Watch {
            wd,
            mask: AtomicU32::new(kept),
            instance: Arc::downgrade(&self.0),
            place,
            outside: Outside::default(),
            _counted: Counted::new(),
        });
        state.watches.insert(wd, watch.clone());
        drop(state);
        on.add(Watcher::Inotify(Arc::downgrade(&watch)));
        watch.outside.set(&watch.place, kept);
        Ok(wd)
    }

    /// `inotify_rm_watch`.
    ///
    /// # Errors
    /// `EINVAL`: there is no such watch.
    pub fn remove(&self, wd: i32) -> Result<(), Errno> {
        self.0.remove(wd).map(drop).ok_or(EINVAL)
    }
}

impl FileOps for Inotify {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let event = {
                let mut state = self.0.state.lock();
                let Some((next, _)) = state.events.front() else { break };
                if next.len() > dst.remaining() {
                    if done == 0 {
                        return Err(EINVAL);
                    }
                    break;
                }
                state.events.pop_front()
            };
            let Some((event, _kept)) = event else { break };
            let bytes = event.bytes();
            match dst.put(&bytes) {
                Ok(n) if n == bytes.len() => done += n,
                // As in Linux, the event is gone.
                Ok(_) | Err(_) if done > 0 => break,
                Ok(_) => return Err(abi::errno::EFAULT),
                Err(e) => return Err(e),
            }
        }
        if done == 0 { Err(EAGAIN) } else { Ok(done) }
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn ready(&self) -> Events {
        if self.0.state.lock().events.is_empty() { Events::empty() } else { Events::READABLE }
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    /// Source: Linux 6.12 fs/notify/fdinfo.c, `inotify_fdinfo`, without file handles.
    fn fdinfo(&self) -> String {
        /// IN_ALL_EVENTS, IN_EXCL_UNLINK, IN_ONESHOT.
        const SHOWN: u32 = 0x8400_0fff;
        let mut watches: Vec<Arc<Watch>> = self.0.state.lock().watches.values().cloned().collect();
        // The newest first.
        watches.sort_by_key(|watch| std::cmp::Reverse(watch.wd));
        watches.iter().fold(String::new(), |mut text, watch| {
            let (ino, dev) = watch.place.dentry.inode().metadata().map_or((0, 0), |m| (m.ino, m.dev));
            let mask = watch.mask.load(Ordering::Relaxed) & SHOWN;
            let _ = writeln!(
                text,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0",
                watch.wd
            );
            text
        })
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        if request != FIONREAD {
            return Err(ENOTTY);
        }
        let len: usize = self.0.state.lock().events.iter().map(|(event, _)| event.len()).sum();
        memory.write(arg, &(len as u32).to_le_bytes())?;
        Ok(0)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:inotify".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = std::mem::take(&mut self.0.state.lock().watches);
        drop(watches);
    }
}
