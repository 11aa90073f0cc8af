//! Bytes between the two ends of a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EAGAIN, EFAULT, EINVAL, EISCONN, ENOTCONN, EOPNOTSUPP, EPIPE};
use abi::socket::{Ucred, msg};
use base::io::Sink;
use base::wait::Events;
use fs::file::FileDescription;

use super::{End, RECEIVE, SEND, UnixSocket};
use crate::bytes::ByteRing;
use crate::message::{Incoming, Outgoing};
use crate::rights::Rights;
use crate::socket::Caller;

/// What a record counts for beside its bytes.
const OVERHEAD: usize = 256;

/// Bytes with credentials or files.
#[derive(Debug)]
struct Record {
    /// Positions in the stream.
    start: u64,
    end: u64,
    cred: Option<Ucred>,
    rights: Rights,
}

/// What was sent and not read.
#[derive(Debug, Default)]
pub(super) struct Stream {
    ring: ByteRing,
    /// Position of the ring's first byte.
    start: u64,
    /// In order, without overlaps; bytes between them came with neither credentials nor files.
    records: VecDeque<Record>,
    /// Position of the urgent byte, until it is read or passed.
    urgent: Option<u64>,
    /// Positions of urgent bytes that were read apart from the rest, in order: those bytes still lie in the ring, and are
    /// passed over.
    holes: VecDeque<u64>,
}

/// What lies at a position.
enum At {
    /// An ordinary byte, and where the next other one may be.
    Plain {
        until: u64,
    },
    Urgent,
    Hole,
}

impl Stream {
    /// Bytes that take room, and what is kept about them.
    pub(super) fn len(&self) -> usize {
        self.ring.len() + (self.records.len() + self.holes.len()) * OVERHEAD
    }

    /// Bytes that can be read.
    pub(super) fn unread(&self) -> usize {
        self.ring.len() - self.holes.len()
    }

    /// Whether nothing lies there, not even an urgent byte that was read.
    pub(super) const fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn end(&self) -> u64 {
        self.start + self.ring.len() as u64
    }

    fn at(&self, position: u64) -> At {
        let hole = self.holes.partition_point(|&h| h < position);
        let hole = self.holes.get(hole).copied().unwrap_or(u64::MAX);
        let urgent = self.urgent.filter(|&u| u >= position).unwrap_or(u64::MAX);
        match position {
            p if p == hole => At::Hole,
            p if p == urgent => At::Urgent,
            _ => At::Plain { until: hole.min(urgent).min(self.end()) },
        }
    }

    /// Whether the next byte is the urgent one, or was it: `SIOCATMARK`.
    ///
    /// Source: Linux 6.18 net/unix/af_unix.c, `unix_ioctl`.
    pub(super) fn is_at_mark(&self) -> bool {
        self.urgent == Some(self.start)
            || self.holes.front() == Some(&self.start)
                && (self.urgent.is_none() || self.urgent == Some(self.start + 1))
    }

    /// Whether there is urgent data to read.
    pub(super) const fn has_urgent(&self) -> bool {
        self.urgent.is_some()
    }

    pub(super) fn files(&self, each: &mut dyn FnMut(&Arc<FileDescription>)) {
        self.records.iter().flat_map(|r| r.rights.files()).for_each(each);
    }

    pub(super) fn take_files(&mut self) -> Vec<Rights> {
        self.records.iter_mut().map(|r| std::mem::take(&mut r.rights)).collect()
    }

    /// Says what the last `n` bytes came with.
    fn record(&mut self, n: usize, cred: Option<Ucred>, rights: Rights) {
        let end = self.end();
        let start = end - n as u64;
        if let Some(last) = self.records.back_mut()
            && last.end == start
            && last.cred == cred
            && last.rights.is_empty()
            && rights.is_empty()
        {
            last.end = end;
        } else if cred.is_some() || !rights.is_empty() {
            self.records.push_back(Record { start, end, cred, rights });
        }
    }

    /// Drops what was read. Returns what its messages came with and nobody took, to be dropped without locks: the last
    /// reference to a socket closes it.
    fn consume(&mut self, n: usize) -> Vec<Rights> {
        self.ring.consume(n);
        self.start += n as u64;
        let mut left = Vec::new();
        while self.records.front().is_some_and(|r| r.end <= self.start) {
            left.extend(self.records.pop_front().map(|r| r.rights).filter(|rights| !rights.is_empty()));
        }
        while self.holes.front().is_some_and(|&h| h < self.start) {
            self.holes.pop_front();
        }
        self.urgent = self.urgent.filter(|&u| u >= self.start);
        left
    }
}

/// Linux's unix_writable: room for three quarters.
fn is_writable(used: usize, limit: usize) -> bool {
    used.saturating_mul(4) <= limit
}

impl UnixSocket {
    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_stream_sendmsg`.
    pub(super) fn send_bytes(
        &self,
        caller: Option<&Caller<'_>>,
        message: &mut Outgoing<'_>,
    ) -> Result<usize, Errno> {
        let is_urgent = message.flags & msg::OOB != 0;
        if is_urgent && message.data.remaining() == 0 {
            return Err(EOPNOTSUPP);
        }
        let peer = self.link.get();
        if !message.to.is_empty() {
            return Err(if peer.is_some() { EISCONN } else { EOPNOTSUPP });
        }
        let peer = peer.ok_or(ENOTCONN)?;
        if self.end.is_shut(SEND) {
            return Err(EPIPE);
        }
        self.check_rights(caller, message.rights)?;
        if message.data.remaining() == 0 {
            return Ok(0);
        }
        let cred = self.credentials(caller, message, peer);
        let moving = (!message.rights.is_empty()).then(|| self.common.net.in_flight.moving());
        let mut queue = peer.queue.lock();
        if self.end.is_shut(SEND) || peer.is_shut(RECEIVE) {
            return Err(EPIPE);
        }
        self.common.check_error()?;
        let room = self.common.send_limit().saturating_sub(queue.stream.len());
        if room == 0 {
            return Err(EAGAIN);
        }
        let n = queue.stream.ring.fill(message.data, room)?;
        queue.stream.record(n, cred, message.rights.send(&self.common.net.in_flight));
        let mut events = Events::READABLE;
        if is_urgent && message.data.remaining() == 0 {
            // An earlier one that was not read becomes an ordinary byte.
            queue.stream.urgent = Some(queue.stream.end() - 1);
            events |= Events::PRI;
        }
        drop(queue);
        drop(moving);
        peer.common.wait.notify(events);
        Ok(n)
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_stream_read_generic`.
    pub(super) fn receive_bytes(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        let peer = self.link.get().ok_or(EINVAL)?;
        if flags & msg::OOB != 0 {
            return self.receive_urgent(dst, flags);
        }
        let is_peek = flags & msg::PEEK != 0;
        let is_inline = self.common.oob_inline.load(Ordering::Relaxed);
        let offset = self.common.peek_offset.load(Ordering::Relaxed);
        let skip = if is_peek { offset.max(0) as usize } else { 0 };
        let from = peer.name.get().map_or_else(Vec::new, |b| b.address.to_bytes());
        let mut incoming = Incoming { from: Some(from), ..Incoming::default() };

        let moving = self.common.net.in_flight.moving();
        let mut queue = self.end.queue.lock();
        let stream = &mut queue.stream;
        let before = stream.len();
        let is_full = dst.remaining() == 0;
        if stream.ring.len() <= skip {
            self.common.check_error()?;
            if self.end.is_shut(RECEIVE) {
                incoming.stops = true;
                return Ok(incoming);
            }
            return Err(EAGAIN);
        }
        let wants_cred =
            self.common.passcred.load(Ordering::Relaxed) || self.common.pass_pidfd.load(Ordering::Relaxed);
        let mut first: Option<Option<Ucred>> = None;
        let mut done = 0;
        // Urgent bytes that are passed over.
        let mut passed = 0;
        let mut index = 0;
        let result = loop {
            let at = stream.start + (skip + done + passed) as u64;
            let end = stream.end();
            let plain_end = match stream.at(at) {
                _ if at >= end => end,
                At::Plain { until } => until,
                At::Hole if done == 0 || stream.urgent.is_some() => {
                    passed += 1;
                    continue;
                }
                // Reading stops there, so that SIOCATMARK can be asked.
                At::Urgent | At::Hole if done > 0 => {
                    incoming.stops = true;
                    break Ok(());
                }
                _ => {
                    if !is_peek {
                        stream.urgent = None;
                    }
                    if !is_inline {
                        passed += 1;
                        continue;
                    }
                    at + 1
                }
            };
            while stream.records.get(index).is_some_and(|r| r.end <= at) {
                index += 1;
            }
            let record = stream.records.get_mut(index);
            let (piece_end, cred, record) = match record {
                Some(r) if r.start <= at => (r.end, r.cred, Some(r)),
                Some(r) => (r.start, None, None),
                None => (end, None, None),
            };
            let piece_end = piece_end.min(plain_end);
            if at >= end || (wants_cred && first.is_some_and(|f| f != cred)) {
                incoming.stops = at < end;
                break Ok(());
            }
            first = first.or(Some(cred));
            let n = match stream.ring.peek(skip + done + passed, dst, (piece_end - at) as usize) {
                Ok(n) => n,
                Err(e) if done == 0 => break Err(e),
                Err(_) => break Ok(()),
            };
            done += n;
            let mut had_files = false;
            if let Some(record) = record.filter(|r| !r.rights.is_empty()) {
                had_files = true;
                let rights = if is_peek { record.rights.peek() } else { record.rights.receive() };
                incoming.rights.append(rights);
            }
            if had_files || at + (n as u64) < piece_end || dst.remaining() == 0 {
                incoming.stops = had_files;
                break Ok(());
            }
        };
        result?;
        let mut forgotten = Vec::new();
        if is_peek {
            if offset >= 0 {
                self.common.peek_offset.fetch_add(done as i32, Ordering::Relaxed);
            }
        } else {
            forgotten = stream.consume(done + passed);
            if offset > 0 {
                self.common.peek_offset.store((offset - done as i32).max(0), Ordering::Relaxed);
            }
        }
        let after = stream.len();
        drop(queue);
        drop(moving);
        drop(forgotten);
        let limit = peer.common.send_limit();
        if !is_writable(before, limit) && is_writable(after, limit) {
            peer.common.wait.notify(Events::WRITABLE);
        }
        if done == 0 && passed > 0 && !is_full {
            // There was nothing but urgent data that nobody wanted.
            self.common.check_error()?;
            incoming.stops = true;
            return if self.end.is_shut(RECEIVE) { Ok(incoming) } else { Err(EAGAIN) };
        }
        self.tell_cred(&mut incoming, first.flatten());
        (incoming.copied, incoming.full) = (done, done);
        Ok(incoming)
    }

    /// Source: Linux 6.18 net/unix/af_unix.c, `unix_stream_recv_urg`.
    fn receive_urgent(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        let mut queue = self.end.queue.lock();
        let stream = &mut queue.stream;
        let is_inline = self.common.oob_inline.load(Ordering::Relaxed);
        let at = stream.urgent.filter(|_| !is_inline).ok_or(EINVAL)?;
        let skip = usize::try_from(at - stream.start).map_err(|_| EINVAL)?;
        if flags & msg::PEEK == 0 {
            stream.urgent = None;
            stream.holes.push_back(at);
        }
        if stream.ring.peek(skip, dst, 1)? == 0 {
            return Err(EFAULT);
        }
        Ok(Incoming {
            copied: 1,
            full: 1,
            flags: msg::OOB,
            from: Some(Vec::new()),
            stops: true,
            ..Incoming::default()
        })
    }

    pub(super) fn ready_stream(&self) -> Events {
        let mut events = Events::empty();
        if let Some(peer) = self.link.get() {
            let queue = self.end.queue.lock();
            if !queue.stream.is_empty() || !queue.messages.is_empty() {
                events |= Events::READABLE;
            }
            if queue.stream.has_urgent() {
                events |= Events::PRI;
            }
            drop(queue);
            if is_writable(self.unread_by(peer), self.common.send_limit()) {
                events |= Events::WRITABLE | Events::WRBAND;
            }
        } else {
            match self.has_waiting() {
                Some(true) => events |= Events::READABLE,
                Some(false) => {}
                None => events |= Events::HUP | Events::WRITABLE | Events::WRBAND,
            }
        }
        events
    }

    fn unread_by(&self, peer: &End) -> usize {
        self.end.sent.load(Ordering::SeqCst) + peer.queue.lock().stream.len()
    }
}
