//! FUSE (Linux fs/fuse, include/uapi/linux/fuse.h): file systems that a program of the sandbox serves through /dev/fuse.
//!
//! A server is as untrusted as any program: its replies are checked, and whoever waits for one can be killed. No lock is
//! held meanwhile, so directories remember no names. What is not known: shared mappings that are written, locks of the
//! server's own, poll, ioctls, notifications.
//!
//! Reading order: this file (connections, requests), `device.rs` (the server's side), `inode.rs`, `file.rs`, `pages.rs`
//! (mappings).

mod device;
mod file;
mod inode;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EINTR, EIO, ENOTCONN};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

pub use device::{DEVICE, open};
pub use inode::{Mount, mount};

/// Requests that nobody waits for and that the server has not read: beyond, they are lost.
const UNREAD_MAX: usize = 65536;
/// The most that is read or written by one request (32 pages, as without `FUSE_MAX_PAGES`).
const DATA_MAX: u32 = 128 << 10;
/// Bytes before a request's and a reply's own.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// Operations.
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const REMOVEXATTR: u32 = 24;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const RENAME2: u32 = 45;
}

/// What FUSE needs of the kernel above.
pub trait Hooks: Send + Sync {
    /// User, group and process of the caller.
    fn caller(&self) -> (u32, u32, i32);
    /// Sleeps until `is_done` says so, looking whenever `queue` is notified; false when the caller must end.
    fn sleep(&self, queue: &WaitQueue, is_done: &mut dyn FnMut() -> bool) -> bool;
}

static HOOKS: OnceLock<Box<dyn Hooks>> = OnceLock::new();

/// Sets what FUSE needs of the kernel above; the first one stays.
pub fn set_hooks(hooks: Box<dyn Hooks>) {
    let _ = HOOKS.set(hooks);
}

fn caller() -> (u32, u32, i32) {
    HOOKS.get().map_or((0, 0, 0), |hooks| hooks.caller())
}

/// Where a reply comes.
#[derive(Debug, Default)]
struct Slot {
    reply: Lock<Option<Result<Vec<u8>, Errno>>, { rank::LEAF }>,
    queue: WaitQueue,
    /// Not forgotten before the server has answered: it still works with the file.
    keeps: Option<Arc<inode::FuseInode>>,
}

impl Slot {
    fn fill(&self, reply: Result<Vec<u8>, Errno>) {
        *self.reply.lock() = Some(reply);
        self.queue.notify(Events::all());
    }
}

/// A request that the server has not read.
#[derive(Debug)]
struct Request {
    unique: u64,
    bytes: Vec<u8>,
    slot: Option<Arc<Slot>>,
}

#[derive(Debug, Default)]
struct State {
    unread: VecDeque<Request>,
    /// Those that were read and not answered.
    asked: HashMap<u64, Arc<Slot>>,
    last_unique: u64,
    is_mounted: bool,
    is_over: bool,
}

/// A server and its file system.
#[derive(Debug, Default)]
pub struct Connection {
    state: Lock<State, { rank::LEAF }>,
    /// The server waits here.
    queue: WaitQueue,
    /// Others wait here for the server to be ready.
    ready: WaitQueue,
    max_write: AtomicU32,
}

/// A request's own bytes.
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn name(mut self, name: &[u8]) -> Self {
        self.0.extend_from_slice(name);
        self.0.push(0);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Reads a reply from its front; what is missing is an error of the server's.
struct Reply<'a>(&'a [u8]);

impl Reply<'_> {
    fn u32(&mut self) -> Result<u32, Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(EIO)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*head))
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(EIO)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*head))
    }
}

impl Connection {
    /// Puts a request where the server reads it.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn send(&self, op: u32, node: u64, body: &Body, slot: Option<Arc<Slot>>) -> Result<u64, Errno> {
        // What nobody waits for is sent wherever files are closed, with whatever locks; the caller's takes one of tasks.
        let (uid, gid, pid) = if slot.is_some() { caller() } else { (0, 0, 0) };
        self.send_as((uid, gid, pid), op, node, body, slot)
    }

    fn send_as(
        &self,
        (uid, gid, pid): (u32, u32, i32),
        op: u32,
        node: u64,
        body: &Body,
        slot: Option<Arc<Slot>>,
    ) -> Result<u64, Errno> {
        let len = (IN_HEADER + body.0.len()) as u32;
        let mut state = self.state.lock();
        if state.is_over {
            return Err(ENOTCONN);
        }
        let is_awaited = slot.as_ref().is_some_and(|slot| slot.keeps.is_none());
        if !is_awaited && state.unread.len().max(state.asked.len()) >= UNREAD_MAX {
            return Ok(0);
        }
        // Even numbers, as Linux has them: odd ones are interrupts'.
        state.last_unique += 2;
        let unique = state.last_unique;
        let head = Body::default().u32(len).u32(op).u64(unique).u64(node).u32(uid).u32(gid);
        let bytes = head.u32(pid.cast_unsigned()).u32(0).bytes(&body.0).0;
        state.unread.push_back(Request { unique, bytes, slot });
        drop(state);
        self.queue.notify(Events::READABLE);
        Ok(unique)
    }

    /// Asks the server and waits for its answer.
    ///
    /// # Errors
    /// The server's; `ENOTCONN`: it is gone; `EINTR`: the caller must end.
    fn ask(&self, op: u32, node: u64, body: Body) -> Result<Vec<u8>, Errno> {
        let hooks = HOOKS.get().ok_or(ENOTCONN)?;
        let mut is_ready = || self.max_write.load(Ordering::Acquire) > 0 || self.state.lock().is_over;
        if !is_ready() && !hooks.sleep(&self.ready, &mut is_ready) {
            return Err(EINTR);
        }
        let slot = Arc::new(Slot::default());
        let unique = self.send(op, node, &body, Some(slot.clone()))?;
        let has_answer = hooks.sleep(&slot.queue, &mut || slot.reply.lock().is_some());
        if !has_answer {
            let mut state = self.state.lock();
            state.unread.retain(|request| request.unique != unique);
            state.asked.remove(&unique);
            return Err(EINTR);
        }
        slot.reply.lock().take().unwrap_or(Err(EIO))
    }

    /// Tells the server that an open file of `inode` is closed; the inode is not forgotten before that is answered.
    fn release(&self, op: u32, inode: Arc<inode::FuseInode>, body: &Body) {
        let node = inode.node;
        let slot = Arc::new(Slot { keeps: Some(inode), ..Slot::default() });
        // What it keeps goes here when it is not sent, with no lock held.
        let _ = self.send_as((0, 0, 0), op, node, body, Some(slot.clone()));
        drop(slot);
    }

    /// Sends what has no answer that anybody waits for.
    fn tell(&self, op: u32, node: u64, body: &Body) {
        let _ = self.send(op, node, body, None);
    }

    /// The file system is mounted: the server is asked how it wants to be spoken to.
    fn begin(&self) {
        const MAJOR: u32 = 7;
        const MINOR: u32 = 31;
        const ASYNC_READ: u32 = 1;
        const BIG_WRITES: u32 = 0x20;
        self.state.lock().is_mounted = true;
        let body = Body::default().u32(MAJOR).u32(MINOR).u32(DATA_MAX).u32(ASYNC_READ | BIG_WRITES);
        let slot = Arc::new(Slot::default());
        let _ = self.send(op::INIT, 0, &body, Some(slot));
    }

    /// Takes the answer to that.
    fn init(&self, reply: &Result<Vec<u8>, Errno>) {
        const BIG_WRITES: u32 = 0x20;
        const SMALLEST: u32 = 4096;
        let parsed = reply.as_ref().ok().and_then(|bytes| {
            let mut reply = Reply(bytes);
            let (major, minor) = (reply.u32().ok()?, reply.u32().ok()?);
            let (_, flags, _) = (reply.u32().ok(), reply.u32().ok(), reply.u32().ok());
            let max_write = reply.u32().unwrap_or(SMALLEST);
            let is_big = flags.unwrap_or(0) & BIG_WRITES != 0;
            let max_write = if minor < 5 || !is_big { SMALLEST } else { max_write };
            (major == 7).then(|| max_write.clamp(SMALLEST, DATA_MAX))
        });
        match parsed {
            Some(max_write) => self.max_write.store(max_write, Ordering::Release),
            None => self.end(),
        }
        self.ready.notify(Events::all());
    }

    /// The server is gone, or the file system is: nobody waits any longer.
    fn end(&self) {
        let (unread, asked) = {
            let mut state = self.state.lock();
            state.is_over = true;
            (std::mem::take(&mut state.unread), std::mem::take(&mut state.asked))
        };
        for slot in unread.into_iter().filter_map(|request| request.slot).chain(asked.into_values()) {
            slot.fill(Err(ENOTCONN));
        }
        self.ready.notify(Events::all());
        self.queue.notify(Events::all());
    }
}
