//! POSIX message queues (mq_overview(7); Linux ipc/mqueue.c).

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, EMFILE, ENAMETOOLONG, ENOENT, ENOSPC, EPERM};
use base::cred::{Credentials, cap};
use base::io::Sink;
use base::lock::{Lock, rank};
use base::time::Time;
use base::wait::{Events, WaitQueue};
use fs::file::{FileDescription, FileOps, Metadata, oflag};
use fs::vfs::mode;
use net::netlink::NetlinkSocket;
use net::socket::Socket;

use super::Share;

/// Limits without `CAP_SYS_RESOURCE`: messages of a queue, bytes of a message, queues.
pub const MSG_MAX: i64 = 10;
/// The same for the bytes of a message.
pub const MSGSIZE_MAX: i64 = 8192;
/// The same for queues.
pub const QUEUES_MAX: usize = 256;
/// Limits with it.
pub(crate) const HARD_MSG_MAX: i64 = 65536;
pub(crate) const HARD_MSGSIZE_MAX: i64 = 16 << 20;
/// Priorities are below this.
pub const MQ_PRIO_MAX: u32 = 32768;
/// What Linux counts for a message and for a priority beside the text.
const NODE: u64 = 48;
/// `FILENT_SIZE`.
const FILE_SIZE: u64 = 80;

/// Whom to tell of the next message in an empty queue.
#[derive(Debug)]
pub struct Notice {
    /// The process.
    pub pid: i32,
    /// How.
    pub tell: Tell,
}

/// How a process is told.
#[derive(Debug)]
pub enum Tell {
    /// Not at all: only nobody else can register (`SIGEV_NONE`).
    Nothing,
    /// By a signal.
    Signal {
        /// The signal; 0 for none.
        signo: i32,
        /// `sigev_value`.
        value: u64,
    },
    /// By a message to a netlink socket, which a thread of the C library waits for (`SIGEV_THREAD`).
    Thread {
        /// A netlink socket.
        socket: Arc<dyn Socket>,
        /// What to send; the last byte says why.
        cookie: [u8; COOKIE_LEN],
    },
}

/// `NOTIFY_COOKIE_LEN`.
pub const COOKIE_LEN: usize = 32;
/// `NOTIFY_WOKENUP`: a message came.
const WOKEN_UP: u8 = 1;
/// `NOTIFY_REMOVED`: the registration has ended.
const REMOVED: u8 = 2;

impl Tell {
    fn send_cookie(&self, why: u8) {
        if let Self::Thread { socket, cookie } = self
            && let Some(netlink) = socket.as_any().downcast_ref::<NetlinkSocket>()
        {
            let mut data = cookie.to_vec();
            data[COOKIE_LEN - 1] = why;
            netlink.tell(data);
        }
    }

    /// What `/proc` and `read` show as `NOTIFY` and `SIGNO`.
    fn shown(&self) -> (i32, i32) {
        match self {
            Self::Nothing => (1, 0),
            Self::Signal { signo, .. } => (0, *signo),
            Self::Thread { .. } => (2, 0),
        }
    }
}

#[derive(Debug)]
struct Message {
    text: Vec<u8>,
    _share: Share,
}

#[derive(Debug, Default)]
struct State {
    messages: BTreeMap<u32, VecDeque<Message>>,
    count: i64,
    bytes: u64,
    /// Threads that wait for a message.
    receivers: usize,
    notice: Option<Notice>,
}

/// A queue.
#[derive(Debug)]
pub struct Mqueue {
    name: Vec<u8>,
    /// Most messages.
    pub max_messages: i64,
    /// Most bytes of a message.
    pub max_size: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    made: Time,
    ino: u64,
    _charge: Charge,
    budget: Arc<super::Budget>,
    state: Lock<State, { rank::IPC_OBJECT }>,
    waiters: WaitQueue,
}

/// Bytes by user that queues may take (`RLIMIT_MSGQUEUE`).
#[derive(Debug, Default)]
pub struct Charges(Lock<HashMap<u32, u64>, { rank::LEAF }>);

#[derive(Debug)]
struct Charge {
    charges: Arc<Charges>,
    uid: u32,
    bytes: u64,
}

impl Charges {
    fn take(self: &Arc<Self>, uid: u32, bytes: u64, limit: u64) -> Result<Charge, Errno> {
        let mut held = self.0.lock();
        let sum = held.get(&uid).copied().unwrap_or(0).checked_add(bytes).filter(|&sum| sum <= limit);
        held.insert(uid, sum.ok_or(EMFILE)?);
        Ok(Charge { charges: self.clone(), uid, bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.charges.0.lock();
        if let Some(sum) = held.get_mut(&self.uid) {
            *sum = sum.saturating_sub(self.bytes);
            if *sum == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

/// The queues of an IPC namespace by name.
#[derive(Debug, Default)]
pub struct Queues {
    named: HashMap<Vec<u8>, Arc<Mqueue>>,
    charges: Arc<Charges>,
    last_ino: u64,
}

/// What mq_open(2) is asked for.
#[derive(Debug)]
pub struct Open<'a> {
    /// The name, without a slash.
    pub name: &'a [u8],
    /// `O_*`.
    pub flags: u32,
    /// Permission bits of a new queue, without the umask's.
    pub mode: u32,
    /// `mq_maxmsg` and `mq_msgsize` of a new queue.
    pub attr: Option<(i64, i64)>,
    /// The caller.
    pub cred: &'a Credentials,
    /// The caller's `RLIMIT_MSGQUEUE`.
    pub limit: u64,
    /// The time.
    pub now: Time,
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() {
        return Err(ENOENT);
    }
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err(EACCES);
    }
    if name.len() > 255 { Err(ENAMETOOLONG) } else { Ok(()) }
}

impl Queues {
    /// mq_open(2).
    ///
    /// # Errors
    /// In the order checked: `ENOENT`, `EACCES`, `ENAMETOOLONG`: the name; `EEXIST`; `ENOENT`: there is none; `EINVAL`: the
    /// limits of a new queue or the access; `ENOSPC`, `EMFILE`; `EACCES`.
    pub fn open(
        &mut self,
        open: &Open<'_>,
        budget: &Arc<super::Budget>,
        limits: &super::IpcLimits,
    ) -> Result<Arc<Mqueue>, Errno> {
        check_name(open.name)?;
        if let Some(queue) = self.named.get(open.name) {
            if open.flags & oflag::CREAT != 0 && open.flags & oflag::EXCL != 0 {
                return Err(EEXIST);
            }
            queue.check_access(open)?;
            return Ok(queue.clone());
        }
        if open.flags & oflag::CREAT == 0 {
            return Err(ENOENT);
        }
        let privileged = open.cred.has(cap::SYS_RESOURCE);
        let limit = |value: &std::sync::atomic::AtomicU64| {
            value.load(std::sync::atomic::Ordering::Relaxed).cast_signed()
        };
        let bound = (limit(&limits.mq_msg_max), limit(&limits.mq_msgsize_max));
        let usual = (limit(&limits.mq_msg_default), limit(&limits.mq_msgsize_default));
        let (max_messages, max_size) = open.attr.unwrap_or((usual.0.min(bound.0), usual.1.min(bound.1)));
        let (most, largest) = if privileged { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { bound };
        if !(1..=most).contains(&max_messages) || !(1..=largest).contains(&max_size) {
            return Err(EINVAL);
        }
        if self.named.len() as u64 >= limit(&limits.mq_queues_max).cast_unsigned() && !privileged {
            return Err(ENOSPC);
        }
        let (n, size) = (max_messages.cast_unsigned(), max_size.cast_unsigned());
        let bytes = n * NODE + n.min(MQ_PRIO_MAX.into()) * NODE + n * size;
        let charge = self.charges.take(open.cred.uid, bytes, open.limit)?;
        self.last_ino += 1;
        let queue = Arc::new(Mqueue {
            name: open.name.to_vec(),
            max_messages,
            max_size,
            mode: open.mode & 0o7777,
            uid: open.cred.fsuid,
            gid: open.cred.fsgid,
            made: open.now,
            ino: self.last_ino,
            _charge: charge,
            budget: budget.clone(),
            state: Lock::default(),
            waiters: WaitQueue::new(),
        });
        self.named.insert(open.name.to_vec(), queue.clone());
        Ok(queue)
    }

    /// The queue called `name`.
    pub(super) fn find(&self, name: &[u8]) -> Option<Arc<Mqueue>> {
        self.named.get(name).cloned()
    }

    /// All queues.
    pub(super) fn all(&self) -> Vec<Arc<Mqueue>> {
        self.named.values().cloned().collect()
    }

    /// mq_unlink(2): the queue stays until it is closed everywhere.
    ///
    /// # Errors
    /// Those of the name; `ENOENT`; `EPERM`: another user's.
    pub fn unlink(&mut self, name: &[u8], cred: &Credentials) -> Result<Arc<Mqueue>, Errno> {
        check_name(name)?;
        let queue = self.named.get(name).ok_or(ENOENT)?;
        // The directory has the sticky bit and is root's.
        let owns = queue.uid == cred.fsuid || cred.fsuid == 0;
        if !owns && !cred.has_over(queue.uid, queue.gid, cap::FOWNER) {
            return Err(EPERM);
        }
        self.named.remove(name).ok_or(ENOENT)
    }
}

impl Mqueue {
    /// The name, without a slash.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    fn check_access(&self, open: &Open<'_>) -> Result<(), Errno> {
        const READ: u32 = 4;
        const WRITE: u32 = 2;
        let want = match open.flags & 3 {
            0 => READ,
            1 => WRITE,
            2 => READ | WRITE,
            _ => return Err(EINVAL),
        };
        fs::vfs::check_permission(&self.describe(), want, open.cred)
    }

    pub(super) fn describe(&self) -> Metadata {
        Metadata {
            dev: 0x14,
            ino: self.ino,
            mode: mode::IFREG | self.mode,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            size: FILE_SIZE,
            blksize: 4096,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            ..Metadata::default()
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> i64 {
        self.state.lock().count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those who wait for messages (`IN`) or room (`OUT`).
    pub fn waiters(&self) -> &WaitQueue {
        &self.waiters
    }

    /// Counts a thread that begins or ends to wait for a message.
    pub fn wait_for_message(&self, begins: bool) {
        let mut state = self.state.lock();
        state.receivers = if begins { state.receivers + 1 } else { state.receivers.saturating_sub(1) };
    }

    /// Queues a message; says whom to tell.
    ///
    /// # Errors
    /// `EAGAIN`: the queue is full; `ENOMEM`.
    pub fn send(&self, priority: u32, text: &[u8]) -> Result<Option<Notice>, Errno> {
        let mut state = self.state.lock();
        if state.count >= self.max_messages {
            return Err(EAGAIN);
        }
        let share = self.budget.take(text.len() as u64 + NODE)?;
        let message = Message { text: text.to_vec(), _share: share };
        state.messages.entry(priority).or_default().push_back(message);
        state.count += 1;
        state.bytes += text.len() as u64;
        // Who waits takes the message before anybody is told of it.
        let told = if state.count == 1 && state.receivers == 0 { state.notice.take() } else { None };
        drop(state);
        self.waiters.notify(Events::READABLE);
        if let Some(notice) = &told {
            notice.tell.send_cookie(WOKEN_UP);
        }
        Ok(told)
    }

    /// Takes the oldest message of the highest priority.
    ///
    /// # Errors
    /// `EAGAIN`: there is none.
    pub fn receive(&self) -> Result<(u32, Vec<u8>), Errno> {
        let mut state = self.state.lock();
        let mut last = state.messages.last_entry().ok_or(EAGAIN)?;
        let priority = *last.key();
        let message = last.get_mut().pop_front().ok_or(EAGAIN)?;
        if last.get().is_empty() {
            last.remove();
        }
        state.count -= 1;
        state.bytes -= message.text.len() as u64;
        drop(state);
        self.waiters.notify(Events::WRITABLE);
        Ok((priority, message.text))
    }

    /// mq_notify(3): registers `notice`, or with `None` ends the registration of process `pid`.
    ///
    /// # Errors
    /// `EBUSY`: a process is registered.
    pub fn notify(&self, pid: i32, notice: Option<Notice>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let removed = match notice {
            Some(_) if state.notice.is_some() => {
                drop(state);
                return Err(EBUSY);
            }
            Some(_) => {
                state.notice = notice;
                None
            }
            None => state.notice.take_if(|n| n.pid == pid),
        };
        drop(state);
        if let Some(removed) = removed {
            removed.tell.send_cookie(REMOVED);
        }
        Ok(())
    }
}

/// An open queue.
#[derive(Debug)]
struct OpenQueue {
    queue: Arc<Mqueue>,
    /// Who opened it: a registration goes with the last descriptor.
    opener: Weak<crate::task::ThreadGroup>,
}

/// What an open of `queue` by its name in the file system does.
pub(super) fn open_ops(queue: Arc<Mqueue>, opener: &Arc<crate::task::ThreadGroup>) -> Box<dyn FileOps> {
    Box::new(OpenQueue { queue, opener: Arc::downgrade(opener) })
}

/// An open file description of `queue`.
pub fn open_file(
    queue: Arc<Mqueue>,
    flags: u32,
    opener: &Arc<crate::task::ThreadGroup>,
) -> Arc<FileDescription> {
    let ops = OpenQueue { queue, opener: Arc::downgrade(opener) };
    FileDescription::new(Box::new(ops), None, flags & (3 | oflag::NONBLOCK))
}

/// The queue that a file stands for, if it does.
pub fn queue_of(file: &FileDescription) -> Option<&Arc<Mqueue>> {
    file.ops.as_any().downcast_ref::<OpenQueue>().map(|o| &o.queue)
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        if let Some(group) = self.opener.upgrade() {
            let _ = self.queue.notify(group.pid, None);
        }
    }
}

impl FileOps for OpenQueue {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.queue.describe())
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = {
            let state = self.queue.state.lock();
            let ((how, signo), pid) = state.notice.as_ref().map_or(((0, 0), 0), |n| (n.tell.shown(), n.pid));
            let pid = crate::task::current().map_or(pid, |task| task.shown_id(pid));
            format!("QSIZE:{:<10} NOTIFY:{how:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n", state.bytes)
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        dst.put(text.as_bytes().get(start..).unwrap_or_default())
    }

    fn ready(&self) -> Events {
        let count = self.queue.len();
        let mut events = Events::empty();
        if count > 0 {
            events |= Events::READABLE;
        }
        if count < self.queue.max_messages {
            events |= Events::WRITABLE;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue.waiters)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some([b"/", self.queue.name.as_slice()].concat())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
