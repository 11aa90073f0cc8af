//! Messages: datagrams and sequenced packets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EAGAIN, ECONNREFUSED, EFAULT, EMSGSIZE, ENOTCONN, EOPNOTSUPP, EPERM, EPIPE};
use abi::socket::{Ucred, msg, sock};
use base::bpf::Packet;
use base::io::Sink;
use base::kept::Kept;
use base::lock::{LockGuard, rank};
use base::time::Time;
use base::wait::Events;
use fs::file::FileDescription;

use super::names::{Address, Bound};
use super::{End, Queue, RECEIVE, SEND, UnixSocket, wait_for_room, wake_waiting};
use crate::common;
use crate::message::{Incoming, Outgoing};
use crate::rights::Rights;
use crate::socket::Caller;

/// What a message takes of the sender's buffer beside its bytes (an skb and its data's rounding).
const OVERHEAD: usize = 640;

/// Whether a message must wait while the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fullness {
    Matters,
    DoesNot,
}

/// A message and whom its bytes are charged to.
#[derive(Debug)]
pub(super) struct Message {
    data: Box<[u8]>,
    from: Option<Arc<Bound>>,
    cred: Option<Ucred>,
    time: Option<Time>,
    rights: Rights,
    _charge: Charge,
}

impl Message {
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<FileDescription>> {
        self.rights.files().iter()
    }

    pub(super) fn take_files(&mut self) -> Rights {
        std::mem::take(&mut self.rights)
    }
}

/// Bytes of a sender's buffer, free again when dropped.
#[derive(Debug)]
struct Charge {
    sender: Arc<End>,
    bytes: usize,
    _kept: Kept,
}

impl Charge {
    fn new(sender: &Arc<End>, len: usize) -> Result<Self, Errno> {
        let bytes = len + OVERHEAD;
        let kept = Kept::new(bytes)?;
        sender.sent.fetch_add(bytes, Ordering::SeqCst);
        Ok(Self { sender: sender.clone(), bytes, _kept: kept })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.sender.sent.fetch_sub(self.bytes, Ordering::SeqCst);
        let limit = self.sender.common.send_limit();
        if before.saturating_mul(4) > limit && (before - self.bytes).saturating_mul(4) <= limit {
            self.sender.common.wait.notify(Events::WRITABLE);
        }
    }
}

impl UnixSocket {
    /// Whether messages from here must wait: the peer's queue is full, unless the two are each other's.
    fn is_full(&self, queue: &Queue) -> bool {
        let own = Arc::as_ptr(&self.end).addr();
        let is_mutual = self.common.kind == sock::SEQPACKET || queue.only_from == Some(own);
        let limit = self.common.net.sysctl.max_dgram_qlen[0].size();
        !is_mutual && queue.messages.len() > limit
    }

    /// What sequenced packets find out before they look at the message.
    ///
    /// Source: Linux 6.18 net/unix/af_unix.c, `unix_seqpacket_sendmsg`.
    pub(super) fn check_packets(&self) -> Result<(), Errno> {
        if self.common.kind != sock::SEQPACKET {
            return Ok(());
        }
        self.common.check_error()?;
        if self.link.get().is_some() { Ok(()) } else { Err(ENOTCONN) }
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_dgram_sendmsg`.
    pub(super) fn send_message(
        &self,
        caller: Option<&Caller<'_>>,
        message: &mut Outgoing<'_>,
    ) -> Result<usize, Errno> {
        let is_packet = self.common.kind == sock::SEQPACKET;
        self.check_packets()?;
        if message.flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let address =
            if message.to.is_empty() || is_packet { None } else { Some(Address::parse(message.to)?) };
        if address == Some(Address::Unnamed) {
            return Err(abi::errno::EINVAL);
        }
        let connected = match self.link.get() {
            Some(peer) => Some(peer.clone()),
            None => self.state.lock().peer.clone(),
        };
        self.autobind()?;
        let len = message.data.remaining();
        if len > self.common.send_limit().saturating_sub(32) {
            return Err(EMSGSIZE);
        }
        self.check_rights(caller, message.rights)?;
        self.common.check_error()?;
        if self.end.is_shut(SEND) {
            return Err(EPIPE);
        }
        if self.end.sent.load(Ordering::SeqCst) >= self.common.send_limit() {
            return Err(EAGAIN);
        }
        let peer = connected.as_ref().map(|peer| Arc::as_ptr(peer).addr());
        let target = match (&address, caller) {
            (None, _) => connected.ok_or(ENOTCONN)?,
            (Some(address), Some(caller)) => {
                self.common.net.unix.find(caller, address, sock::DGRAM)?.end.clone()
            }
            (Some(_), None) => return Err(ENOTCONN),
        };
        let cred = self.credentials(caller, message, &target);
        let time = target.common.stamps.is_on().then(common::now);
        let scope = caller.filter(|c| {
            let is_peer = is_packet || peer.is_some_and(|peer| peer == Arc::as_ptr(&target).addr());
            c.cred.landlock.is_some() && !is_peer
        });
        let mut judged = None;
        if target.common.filters.is_on() {
            // No lock is held while a program of the receiver's runs. What it lets through is sent even if the queue is
            // full by then, for it cannot be put back.
            drop(self.admit(&target, scope, Fullness::Matters)?);
            let charge = Charge::new(&self.end, len)?;
            let mut data = Self::take(message, len)?;
            let verdict =
                target.common.filters.keep(|run| run(&Packet { bytes: &data, ..Packet::default() }));
            let Some(left) = verdict.left(0, len) else {
                // The sender does not get to know.
                return Ok(len);
            };
            data.truncate(left);
            judged = Some((data, charge));
        }
        let moving = (!message.rights.is_empty()).then(|| self.common.net.in_flight.moving());
        let fullness = if judged.is_some() { Fullness::DoesNot } else { Fullness::Matters };
        let mut queue = self.admit(&target, scope, fullness)?;
        let (data, charge) = match judged {
            Some(judged) => judged,
            None => {
                let charge = Charge::new(&self.end, len)?;
                (Self::take(message, len)?, charge)
            }
        };
        queue.messages.push_back(Message {
            data: data.into(),
            from: self.end.name.get().cloned(),
            cred,
            time,
            rights: message.rights.send(&self.common.net.in_flight),
            _charge: charge,
        });
        drop(queue);
        drop(moving);
        target.common.wait.notify(Events::READABLE);
        Ok(len)
    }

    /// The bytes of a message.
    fn take(message: &mut Outgoing<'_>, len: usize) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; len];
        if len > 0 && message.data.take(&mut data)? < len {
            return Err(EFAULT);
        }
        Ok(data)
    }

    /// Locks the queue of `target` if a message may go there now; `scope` is who needs leave of its domain.
    fn admit<'a>(
        &self,
        target: &'a Arc<End>,
        scope: Option<&Caller<'_>>,
        fullness: Fullness,
    ) -> Result<LockGuard<'a, Queue, { rank::QUEUE }>, Errno> {
        let is_packet = self.common.kind == sock::SEQPACKET;
        let mut queue = target.queue.lock();
        if queue.is_dead {
            drop(queue);
            let error = if is_packet { EPIPE } else { self.disconnect(target) };
            return Err(self.refused(error));
        }
        let own = Arc::as_ptr(&self.end).addr();
        if !is_packet && queue.only_from.is_some_and(|only| only != own) {
            drop(queue);
            return Err(self.refused(EPERM));
        }
        if target.is_shut(RECEIVE) {
            drop(queue);
            return Err(self.refused(EPIPE));
        }
        if let Some(caller) = scope
            && let Err(e) = target.check_scope(caller)
        {
            drop(queue);
            return Err(self.refused(e));
        }
        if fullness == Fullness::Matters && self.is_full(&queue) {
            wait_for_room(&mut queue.waiting, &self.common);
            return Err(EAGAIN);
        }
        Ok(queue)
    }

    /// What became of a message that was made and not sent: its room is free again, of which waiters are told.
    ///
    /// Source: Linux 6.18 net/unix/af_unix.c, `unix_write_space`.
    fn refused(&self, error: Errno) -> Errno {
        self.common.wait.notify(Events::WRITABLE);
        error
    }

    /// Forgets a peer that is gone.
    fn disconnect(&self, dead: &Arc<End>) -> Errno {
        let mut state = self.state.lock();
        if state.peer.as_ref().is_some_and(|p| Arc::ptr_eq(p, dead)) {
            let old = state.peer.take();
            // unix_dgram_disconnected: what it sent is forgotten.
            let forgotten = {
                let mut queue = self.end.queue.lock();
                queue.only_from = None;
                std::mem::take(&mut queue.messages)
            };
            drop(state);
            drop(forgotten);
            drop(old);
        }
        ECONNREFUSED
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `__unix_dgram_recvmsg`.
    pub(super) fn receive_message(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        let is_packet = self.common.kind == sock::SEQPACKET;
        if is_packet && self.link.get().is_none() {
            return Err(ENOTCONN);
        }
        self.common.check_error()?;
        let is_peek = flags & msg::PEEK != 0;
        let offset = self.common.peek_offset.load(Ordering::Relaxed);
        let mut skip = if is_peek { offset.max(0) as usize } else { 0 };

        let moving = self.common.net.in_flight.moving();
        let mut queue = self.end.queue.lock();
        let mut index = 0;
        while skip > 0 && queue.messages.get(index).is_some_and(|m| skip >= m.len()) {
            skip -= queue.messages.get(index).map_or(0, Message::len);
            index += 1;
        }
        let Some(message) = queue.messages.get_mut(index) else {
            let is_over = self.end.is_shut(RECEIVE) && (is_packet || flags & msg::DONTWAIT == 0);
            return if is_over { Ok(Incoming { stops: true, ..Incoming::default() }) } else { Err(EAGAIN) };
        };
        let mut incoming = Incoming { stops: true, ..Incoming::default() };
        let data = message.data.get(skip..).unwrap_or(&[]);
        let piece = &data[..data.len().min(dst.remaining())];
        let copied = if piece.is_empty() { Ok(0) } else { dst.put(piece) };
        incoming.full = data.len();
        incoming.copied = piece.len();
        if piece.len() < data.len() {
            incoming.flags |= msg::TRUNC;
        }
        incoming.from = message.from.as_ref().map(|b| b.address.to_bytes()).or_else(|| Some(Vec::new()));
        let (cred, time) = (message.cred, message.time);
        let mut taken = None;
        let mut waiting = Vec::new();
        if is_peek {
            incoming.rights = message.rights.peek();
            if offset >= 0 {
                self.common.peek_offset.fetch_add(piece.len() as i32, Ordering::Relaxed);
            }
        } else {
            let len = message.len();
            incoming.rights = message.rights.receive();
            if offset > 0 {
                self.common.peek_offset.store((offset - len as i32).max(0), Ordering::Relaxed);
            }
            taken = queue.messages.pop_front();
            waiting = std::mem::take(&mut queue.waiting);
        }
        drop(queue);
        drop(moving);
        drop(taken);
        wake_waiting(waiting);
        // The message is gone even when it could not be stored.
        if copied? < incoming.copied {
            return Err(EFAULT);
        }
        incoming.controls.extend(self.common.stamps.tell(time));
        self.tell_cred(&mut incoming, cred);
        Ok(incoming)
    }

    pub(super) fn ready_datagram(&self) -> Events {
        let mut events = Events::empty();
        if !self.end.queue.lock().messages.is_empty() {
            events |= Events::READABLE;
        }
        let limit = self.common.send_limit();
        if self.end.sent.load(Ordering::SeqCst).saturating_mul(4) > limit {
            return events;
        }
        let peer = self.state.lock().peer.clone();
        if let Some(peer) = peer {
            let mut queue = peer.queue.lock();
            if !queue.is_dead && self.is_full(&queue) {
                wait_for_room(&mut queue.waiting, &self.common);
                return events;
            }
        }
        events | Events::WRITABLE | Events::WRBAND
    }
}
