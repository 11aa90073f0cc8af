//! `SECCOMP_RET_USER_NOTIF`: another process decides (seccomp_unotify(2)).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EINPROGRESS, ENOENT, ENOSYS};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue, Wake};
use fs::file::{FileDescription, FileOps, Metadata, oflag};

use crate::syscall::{Restart, Stop};
use crate::task::{Ctx, FdTable, Task};
use base::bpf::DATA_WORDS;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
pub const FLAG_CONTINUE: u32 = 1;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Sent,
    Replied(Reply),
}

/// A listener's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the call returns when `error` is 0.
    pub value: i64,
    /// A negative error number.
    pub error: i32,
    /// The call is to be made after all.
    pub goes_on: bool,
}

/// A call that waits for a decision.
#[derive(Debug)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// Who calls.
    pub task: Arc<Task>,
    /// `struct seccomp_data`.
    pub data: [u32; DATA_WORDS],
}

#[derive(Debug, Default)]
struct Requests {
    list: VecDeque<(Arc<Request>, Stage)>,
    /// The listener has closed its descriptor.
    is_closed: bool,
    /// The last task with the filter has ended.
    is_over: bool,
}

/// What a filter and its listener share.
#[derive(Debug)]
pub struct Notifier {
    next: AtomicU64,
    requests: Lock<Requests, { rank::IPC_OBJECT }>,
    waiters: WaitQueue,
    /// Only SIGKILL ends the wait of a caller whose request the listener has read.
    pub is_killable_only: bool,
    /// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`.
    flags: AtomicI32,
}

impl Notifier {
    /// One without requests.
    pub fn new(is_killable_only: bool) -> Arc<Self> {
        let mut seed = [0; 8];
        // The numbers need not be secret; without random bytes they begin at 1.
        let _ = host::file::random(&mut seed);
        Arc::new(Self {
            next: AtomicU64::new(u64::from_ne_bytes(seed) >> 1 | 1),
            requests: Lock::default(),
            waiters: WaitQueue::new(),
            is_killable_only,
            flags: AtomicI32::new(0),
        })
    }

    /// The last task with the filter has ended.
    pub(super) fn filter_is_gone(&self) {
        self.requests.lock().is_over = true;
        self.waiters.notify(Events::HUP);
    }

    /// The oldest request that nobody has read yet; it counts as read now.
    ///
    /// # Errors
    /// `ENOENT`: no more can come.
    pub fn receive(&self) -> Result<Option<Arc<Request>>, Errno> {
        let mut requests = self.requests.lock();
        if let Some((request, stage)) = requests.list.iter_mut().find(|(_, s)| *s == Stage::New) {
            *stage = Stage::Sent;
            let request = request.clone();
            drop(requests);
            self.waiters.notify(Events::OUT);
            return Ok(Some(request));
        }
        if requests.is_over { Err(ENOENT) } else { Ok(None) }
    }

    /// Makes a request unread again: it could not be stored.
    pub fn put_back(&self, id: u64) {
        let mut requests = self.requests.lock();
        if let Some((_, stage)) = requests.list.iter_mut().find(|(r, s)| r.id == id && *s == Stage::Sent) {
            *stage = Stage::New;
        }
        drop(requests);
        self.waiters.notify(Events::IN);
    }

    /// Decides.
    ///
    /// # Errors
    /// `ENOENT`: the request has gone; `EINPROGRESS`: it was not read, or is decided.
    pub fn reply(&self, id: u64, reply: Reply) -> Result<(), Errno> {
        let mut requests = self.requests.lock();
        let (request, stage) = requests.list.iter_mut().find(|(r, _)| r.id == id).ok_or(ENOENT)?;
        if *stage != Stage::Sent {
            return Err(EINPROGRESS);
        }
        *stage = Stage::Replied(reply);
        let request = request.clone();
        drop(requests);
        request.task.parker.wake(Events::IN);
        Ok(())
    }

    /// The request, if the listener has read it and it still waits.
    ///
    /// # Errors
    /// As [`Notifier::reply`].
    pub fn pending(&self, id: u64) -> Result<Arc<Request>, Errno> {
        let requests = self.requests.lock();
        let (request, stage) = requests.list.iter().find(|(r, _)| r.id == id).ok_or(ENOENT)?;
        if *stage == Stage::Sent { Ok(request.clone()) } else { Err(EINPROGRESS) }
    }

    /// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`.
    pub fn set_flags(&self, flags: i32) {
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Those who wait for requests.
    pub fn waiters(&self) -> &WaitQueue {
        &self.waiters
    }

    fn stage(&self, id: u64) -> Option<Stage> {
        self.requests.lock().list.iter().find(|(r, _)| r.id == id).map(|(_, s)| *s)
    }

    fn forget(&self, id: u64) {
        let mut requests = self.requests.lock();
        let gone = requests.list.iter().position(|(r, _)| r.id == id).and_then(|i| requests.list.remove(i));
        drop(requests);
        drop(gone);
    }
}

impl Ctx<'_> {
    /// Asks the listener about a call: a result for it, or `None` when the call is to be made.
    pub(super) fn ask(
        &mut self,
        notifier: &Arc<Notifier>,
        data: [u32; DATA_WORDS],
    ) -> Result<Option<u64>, Stop> {
        let id = notifier.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut requests = notifier.requests.lock();
            if requests.is_closed {
                return Err(ENOSYS.into());
            }
            let request = Arc::new(Request { id, task: self.task.clone(), data });
            requests.list.push_back((request, Stage::New));
        }
        notifier.waiters.notify(Events::IN);
        let reply = loop {
            self.task.parker.prepare();
            match notifier.stage(id) {
                Some(Stage::Replied(reply)) => break reply,
                None => break Reply { value: 0, error: -ENOSYS.raw(), goes_on: false },
                Some(stage) => {
                    let holds_out = notifier.is_killable_only && stage == Stage::Sent;
                    if self.task.must_exit() || (self.has_signal() && !holds_out) {
                        notifier.forget(id);
                        return Err(Stop::Restart(Restart::Sys));
                    }
                }
            }
            self.park(None);
        };
        notifier.forget(id);
        if reply.goes_on {
            return Ok(None);
        }
        match reply.error {
            0 => Ok(Some(reply.value.cast_unsigned())),
            // Linux stores whatever the listener says, be it an error number or not.
            e => Ok(Some(i64::from(e).cast_unsigned())),
        }
    }
}

/// The listener's descriptor.
#[derive(Debug)]
struct Listener(Arc<Notifier>);

/// Makes the listener's file.
pub fn listener(notifier: Arc<Notifier>) -> Arc<FileDescription> {
    FileDescription::new(Box::new(Listener(notifier)), None, oflag::RDWR)
}

/// The notifier behind a file, if it is a listener's.
pub fn notifier_of(file: &FileDescription) -> Option<&Arc<Notifier>> {
    file.ops.as_any().downcast_ref::<Listener>().map(|l| &l.0)
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut requests = self.0.requests.lock();
        requests.is_closed = true;
        let waiting = std::mem::take(&mut requests.list);
        drop(requests);
        for (request, _) in waiting {
            request.task.parker.wake(Events::IN);
        }
    }
}

impl FileOps for Listener {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(fs::anon::anon_metadata())
    }

    fn ready(&self) -> Events {
        let requests = self.0.requests.lock();
        let mut events = Events::empty();
        for (_, stage) in &requests.list {
            match stage {
                Stage::New => events |= Events::READABLE,
                Stage::Sent => events |= Events::WRITABLE,
                Stage::Replied(_) => {}
            }
        }
        if requests.is_over {
            events |= Events::HUP;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.waiters)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:seccomp notify".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Request {
    /// The caller's descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.task.state.lock().files.clone()
    }
}
