//! A request on its way: its entry as it was read, and what was copied in with it when it was submitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use abi::UserAddr;
use abi::io_uring::{Sqe, op, sqe};
use base::cred::Credentials;
use base::wait::Events;
use fs::file::FileDescription;

use super::owner::Owner;
use super::pending::{Deadline, Pending};
use super::ring::Origin;
use super::tables::Selected;
use crate::syscall::open::OpenHow;
use crate::syscall::sockmsg::MsgHeader;
use crate::syscall::xattr::Setting;

/// What belongs to a request beside its entry. It is copied in at submission: programs may use its memory again then.
#[derive(Default)]
pub(super) enum Data {
    #[default]
    None,
    /// Buffers.
    Buffers(Vec<(UserAddr, u64)>),
    /// A message: its header, its buffers, and whom it is for.
    Message(Box<MsgHeader>, Vec<(UserAddr, u64)>, Vec<u8>),
    /// The address of a socket.
    Address(Vec<u8>),
    /// A path.
    Path(Vec<u8>),
    /// Two paths.
    Paths(Vec<u8>, Vec<u8>),
    /// A path and how to open it.
    Open(Vec<u8>, OpenHow),
    /// When a timeout ends.
    Deadline(Deadline),
    /// An extended attribute, and of which file.
    Attribute(Box<Setting>, Vec<u8>),
    /// `struct epoll_event`.
    Event([u32; 3]),
}

/// A request.
pub(super) struct Request {
    pub(super) sqe: Sqe,
    pub(super) data: Data,
    /// Why it cannot be carried out: known at submission, told in its turn.
    pub(super) refused: Option<Errno>,
    pub(super) owner: Arc<Owner>,
    /// The thread that submitted it; 0 for one that polls the ring.
    pub(super) tid: i32,
    /// That thread has ended.
    pub(super) is_orphan: bool,
    /// Whom it acts for: the thread that submitted it was this then, whoever carries it out and when.
    pub(super) cred: Arc<Credentials>,
    /// Requests that start when this has ended.
    pub(super) next: Option<Box<Request>>,
    /// The timeout that ends it.
    pub(super) timeout: Option<Arc<Pending>>,
    pub(super) origin: Origin,
    /// Its file, once it is known.
    pub(super) file: Option<Arc<FileDescription>>,
    /// Bytes moved so far.
    pub(super) done: u64,
    /// A buffer that was chosen for it.
    pub(super) selected: Option<Selected>,
    /// It began something that goes on without it (connect).
    pub(super) has_begun: bool,
    /// It is kept behind others (`Ring::begin`), and counts as waiting for its owner.
    pub(super) is_kept: bool,
    pub(super) _counted: Counted,
    /// It must wait for its file once, or for a thread, before it is tried.
    pub(super) waits_first: bool,
}

/// Counts one request of a ring while it lives, alone or linked to another.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Request {
    /// It is kept no more, or starts: its owner's threads need not wait for it on that account.
    pub(super) fn leave_kept(&mut self) {
        if std::mem::take(&mut self.is_kept) {
            self.owner.armed.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Who submitted it, and what is linked to it, has ended.
    pub(super) fn orphan(&mut self) {
        let mut at = Some(self);
        while let Some(req) = at {
            req.is_orphan = true;
            at = req.next.as_deref_mut();
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.sqe.flags & flag != 0
    }

    pub(super) fn is_timeout(&self) -> bool {
        matches!(self.sqe.opcode, op::TIMEOUT | op::LINK_TIMEOUT)
    }

    /// Whether it, or one linked to it, waits for all before it.
    pub(super) fn drains(&self) -> bool {
        let mut at = Some(self);
        while let Some(req) = at {
            if req.has(sqe::IO_DRAIN) {
                return true;
            }
            at = req.next.as_deref();
        }
        false
    }

    /// How many requests hang together here.
    pub(super) fn len(&self) -> usize {
        let mut count = 0;
        let mut at = Some(self);
        while let Some(req) = at {
            count += 1;
            at = req.next.as_deref();
        }
        count
    }

    /// The buffers of a read or write.
    pub(super) fn buffers(&self) -> &[(UserAddr, u64)] {
        match &self.data {
            Data::Buffers(list) | Data::Message(_, list, _) => list,
            _ => &[],
        }
    }

    /// The events that a poll asks for.
    pub(super) fn poll_mask(&self) -> Events {
        Events::from_bits_truncate(self.sqe.op_flags) | Events::ERR | Events::HUP
    }
}

impl Drop for Request {
    /// A chain may be as long as the ring: it is not dropped recursively.
    fn drop(&mut self) {
        self.leave_kept();
        let mut next = self.next.take();
        while let Some(mut req) = next {
            next = req.next.take();
        }
    }
}
