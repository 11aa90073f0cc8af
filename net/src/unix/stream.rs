//! Bytes between the two ends of a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EAGAIN, EINVAL, EISCONN, ENOTCONN, EOPNOTSUPP, EPIPE};
use abi::socket::{Ucred, msg};
use base::io::Sink;
use base::wait::Events;
use fs::file::FileDescription;

use super::{End, RECEIVE, SEND, UnixSocket};
use crate::bytes::ByteRing;
use crate::message::{Incoming, Outgoing};
use crate::rights::Rights;
use crate::socket::Caller;

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
}

impl Stream {
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn files(&self, each: &mut dyn FnMut(&Arc<FileDescription>)) {
        self.records.iter().flat_map(|r| r.rights.files()).for_each(each);
    }

    pub(super) fn take_files(&mut self) -> Vec<Rights> {
        self.records.iter_mut().map(|r| std::mem::take(&mut r.rights)).collect()
    }

    /// Says what the last `n` bytes came with.
    fn record(&mut self, n: usize, cred: Option<Ucred>, rights: Rights) {
        let end = self.start + self.ring.len() as u64;
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

    /// Drops what was read; what its messages came with goes too.
    fn consume(&mut self, n: usize) {
        self.ring.consume(n);
        self.start += n as u64;
        while self.records.front().is_some_and(|r| r.end <= self.start) {
            self.records.pop_front();
        }
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
        if message.flags & msg::OOB != 0 {
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
        drop(queue);
        drop(moving);
        peer.common.wait.notify(Events::READABLE);
        Ok(n)
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_stream_read_generic`.
    pub(super) fn receive_bytes(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        let peer = self.link.get().ok_or(EINVAL)?;
        let is_peek = flags & msg::PEEK != 0;
        let offset = self.common.peek_offset.load(Ordering::Relaxed);
        let skip = if is_peek { offset.max(0) as usize } else { 0 };
        let from = peer.name.get().map_or_else(Vec::new, |b| b.address.to_bytes());
        let mut incoming = Incoming { from: Some(from), ..Incoming::default() };

        let moving = self.common.net.in_flight.moving();
        let mut queue = self.end.queue.lock();
        let stream = &mut queue.stream;
        let before = stream.len();
        if before <= skip {
            self.common.check_error()?;
            if self.end.is_shut(RECEIVE) {
                incoming.stops = true;
                return Ok(incoming);
            }
            return Err(EAGAIN);
        }
        let wants_cred = self.common.passcred.load(Ordering::Relaxed);
        let mut first: Option<Option<Ucred>> = None;
        let mut done = 0;
        let mut index = 0;
        let result = loop {
            let at = stream.start + (skip + done) as u64;
            let end = stream.start + before as u64;
            while stream.records.get(index).is_some_and(|r| r.end <= at) {
                index += 1;
            }
            let record = stream.records.get_mut(index);
            let (piece_end, cred, record) = match record {
                Some(r) if r.start <= at => (r.end, r.cred, Some(r)),
                Some(r) => (r.start, None, None),
                None => (end, None, None),
            };
            if at >= end || (wants_cred && first.is_some_and(|f| f != cred)) {
                incoming.stops = at < end;
                break Ok(());
            }
            first = first.or(Some(cred));
            let n = match stream.ring.peek(skip + done, dst, (piece_end - at) as usize) {
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
        if is_peek {
            if offset >= 0 {
                self.common.peek_offset.fetch_add(done as i32, Ordering::Relaxed);
            }
        } else {
            stream.consume(done);
            if offset > 0 {
                self.common.peek_offset.store((offset - done as i32).max(0), Ordering::Relaxed);
            }
        }
        let after = stream.len();
        drop(queue);
        drop(moving);
        let limit = peer.common.send_limit();
        if !is_writable(before, limit) && is_writable(after, limit) {
            peer.common.wait.notify(Events::WRITABLE);
        }
        incoming.controls.extend(self.cred_control(first.flatten()));
        (incoming.copied, incoming.full) = (done, done);
        Ok(incoming)
    }

    pub(super) fn ready_stream(&self) -> Events {
        let mut events = Events::empty();
        if let Some(peer) = self.link.get() {
            let queue = self.end.queue.lock();
            if queue.stream.len() > 0 || !queue.messages.is_empty() {
                events |= Events::READABLE;
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
