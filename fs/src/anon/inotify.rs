//! inotify(7): tells of what happens to files.
//!
//! A watch hangs on a dentry: what the VFS does there, and to the names in it, is told to its instance's queue. The
//! dentry stays in its directory's cache while it is watched, so one name has one dentry.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EEXIST, EINVAL, ENOSPC, ENOTTY};
use base::io::Sink;
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::anon_metadata;
use super::pipe::FIONREAD;
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};
use crate::vfs::{Dentry, VfsPath};

/// `IN_*` of inotify(7).
#[expect(missing_docs, reason = "inotify(7) explains each")]
pub mod event {
    pub const ACCESS: u32 = 1;
    pub const MODIFY: u32 = 2;
    pub const ATTRIB: u32 = 4;
    pub const CLOSE_WRITE: u32 = 8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const DONT_FOLLOW: u32 = 0x0200_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const MASK_CREATE: u32 = 0x1000_0000;
    pub const MASK_ADD: u32 = 0x2000_0000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
    /// What can be watched for.
    pub const ALL: u32 = 0xfff;
}

/// Events that wait in one instance at most (`/proc/sys/fs/inotify/max_queued_events`).
const QUEUE_MAX: usize = 16384;
/// Watches of one instance at most.
const WATCHES_MAX: usize = 65536;

/// All watches: while there are none, nothing looks for any.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

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
struct Watch {
    wd: i32,
    mask: AtomicU32,
    instance: Weak<Instance>,
    place: VfsPath,
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The watches on one dentry.
#[derive(Debug, Default)]
pub struct Watches(Lock<Vec<Weak<Watch>>, { rank::LEAF }>);

#[derive(Debug, Default)]
struct State {
    watches: HashMap<i32, Arc<Watch>>,
    events: VecDeque<Event>,
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
        if state.events.back() == Some(&event) {
            return;
        }
        if state.events.len() >= QUEUE_MAX {
            let overflow = Event { wd: -1, mask: event::Q_OVERFLOW, cookie: 0, name: Box::default() };
            if state.events.back() != Some(&overflow) {
                state.events.push_back(overflow);
            }
            return;
        }
        state.events.push_back(event);
        drop(state);
        self.queue.notify(Events::READABLE);
    }

    fn remove(&self, wd: i32) -> Option<Arc<Watch>> {
        let watch = self.state.lock().watches.remove(&wd)?;
        if let Some(on) = watch.place.dentry.watches() {
            on.0.lock().retain(|w| w.strong_count() > 0 && !std::ptr::eq(w.as_ptr(), &*watch));
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
            let list = on.0.lock();
            let instance = Arc::as_ptr(&self.0);
            list.iter().filter_map(Weak::upgrade).find(|w| std::ptr::eq(w.instance.as_ptr(), instance))
        };
        if let Some(watch) = own {
            if mask & event::MASK_CREATE != 0 {
                return Err(EEXIST);
            }
            let old = if mask & event::MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(old | kept, Ordering::Relaxed);
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
        WATCHES.fetch_add(1, Ordering::Relaxed);
        let watch =
            Arc::new(Watch { wd, mask: AtomicU32::new(kept), instance: Arc::downgrade(&self.0), place });
        state.watches.insert(wd, watch.clone());
        drop(state);
        let mut list = on.0.lock();
        list.retain(|w| w.strong_count() > 0);
        list.push(Arc::downgrade(&watch));
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
                let Some(next) = state.events.front() else { break };
                if next.len() > dst.remaining() {
                    if done == 0 {
                        return Err(EINVAL);
                    }
                    break;
                }
                state.events.pop_front()
            };
            let Some(event) = event else { break };
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

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        if request != FIONREAD {
            return Err(ENOTTY);
        }
        let len: usize = self.0.state.lock().events.iter().map(Event::len).sum();
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

/// Whether anything is watched at all.
pub(crate) fn is_used() -> bool {
    WATCHES.load(Ordering::Relaxed) > 0
}

/// A number that ties the two events of a rename together.
pub(crate) fn new_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Tells those who watch `dentry`; `name` is that of the child concerned, if one is.
fn tell(dentry: &Dentry, mask: u32, cookie: u32, name: &[u8], child_is_gone: bool) {
    let Some(on) = dentry.watches() else { return };
    let watches: Vec<Arc<Watch>> = on.0.lock().iter().filter_map(Weak::upgrade).collect();
    for watch in watches {
        let wanted = watch.mask.load(Ordering::Relaxed);
        if wanted & mask & event::ALL == 0 || child_is_gone && wanted & event::EXCL_UNLINK != 0 {
            continue;
        }
        let Some(instance) = watch.instance.upgrade() else { continue };
        instance.push(Event { wd: watch.wd, mask, cookie, name: name.into() });
        if wanted & event::ONESHOT != 0 {
            instance.remove(watch.wd);
        }
    }
}

/// Tells that something happened to the file: those who watch its directory, and those who watch the file itself.
pub(crate) fn happened(dentry: &Arc<Dentry>, mask: u32) {
    if !is_used() {
        return;
    }
    if let Some(parent) = dentry.parent()
        && parent.watches().is_some()
    {
        tell(&parent, mask, 0, &dentry.name(), dentry.is_dead());
    }
    tell(dentry, mask, 0, b"", false);
}

/// Tells those who watch the directory of something that concerns a name in it.
pub(crate) fn in_directory(dir: &Arc<Dentry>, mask: u32, cookie: u32, name: &[u8]) {
    if is_used() {
        tell(dir, mask, cookie, name, false);
    }
}

/// Tells those who watch the file, and not those who watch its directory.
pub(crate) fn to_itself(dentry: &Arc<Dentry>, mask: u32) {
    if is_used() {
        tell(dentry, mask, 0, b"", false);
    }
}

/// Tells that the file is gone for good, and ends the watches on it.
pub(crate) fn gone(dentry: &Arc<Dentry>) {
    let Some(on) = dentry.watches() else { return };
    tell(dentry, event::DELETE_SELF, 0, b"", false);
    let watches: Vec<Arc<Watch>> = on.0.lock().iter().filter_map(Weak::upgrade).collect();
    for watch in watches {
        if let Some(instance) = watch.instance.upgrade() {
            instance.remove(watch.wd);
        }
    }
}
