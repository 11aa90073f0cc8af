//! An end of a connection: what arrived there, and how far the connection is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, ECONNRESET, EFAULT, EINVAL, EPIPE};
use abi::socket::msg;
use base::io::{Sink, Source};
use base::lock::{Lock, LockGuard, rank};
use base::time::Time;
use base::wait::Events;

use super::hold::{Hold, Waits};
use super::show::flag;
use super::{Backlog, state};
use crate::Common;
use crate::bytes::ByteRing;
use crate::common::now;
use crate::inet::ports::Held;
use crate::message::Incoming;

/// Bytes of a send that are copied at once.
const PIECE: usize = 32 << 10;
/// Bytes in the longest segment on the loopback.
pub(super) const SEGMENT_DATA: u64 = 65_483;
/// Bytes taken from a source that nobody will read.
const SCRATCH: usize = 64 << 10;

/// What arrived.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// What was sent, also what is held back at its end.
    pub(super) ring: ByteRing,
    pub(super) hold: Hold,
    /// Position of the ring's first byte in the stream.
    start: u64,
    /// The peer sends no more.
    pub(super) has_fin: bool,
    /// The connection was reset.
    pub(super) is_reset: bool,
    /// Nobody reads any more: the socket was closed.
    pub(super) is_closed: bool,
    /// `SHUT_RD`.
    is_shut: bool,
    /// A writer was told to wait.
    has_waiting: bool,
    /// When the last bytes came, if somebody wants to know.
    time: Option<Time>,
    urgent: Urgent,
}

impl Arrived {
    /// Bytes that can be read.
    pub(super) fn readable(&self) -> usize {
        self.ring.len().saturating_sub(self.hold.hidden)
    }
}

/// What arrived, locked.
pub(super) type ArrivedGuard<'a> = LockGuard<'a, Arrived, { rank::QUEUE }>;

/// The last urgent byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Urgent {
    #[default]
    None,
    /// At this position, not read yet.
    Valid(u64),
    /// At this position, read with `MSG_OOB`; reading still stops there.
    Read(u64),
}

impl Urgent {
    const fn position(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Valid(at) | Self::Read(at) => Some(at),
        }
    }
}

/// An end of a connection. The one of a closed socket lives while its peer does.
#[derive(Debug)]
pub(super) struct End {
    pub(super) common: Arc<Common>,
    /// The own address.
    pub(super) address: SocketAddr,
    /// Keeps port and addresses until both sides have ended.
    held: Lock<Option<Arc<Held<Backlog>>>, { rank::LEAF }>,
    /// `SHUT_WR`; changed with the peer's queue locked.
    has_sent_fin: AtomicBool,
    pub(super) arrived: Lock<Arrived, { rank::QUEUE }>,
    /// The other end.
    pub(super) other: OnceLock<Weak<Self>>,
    /// Bytes in each direction, for `TCP_INFO`.
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
}

/// How an end's connection stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    has_fin: bool,
    has_sent_fin: bool,
    is_reset: bool,
}

impl End {
    pub(super) fn new(
        common: &Arc<Common>,
        address: SocketAddr,
        held: Option<Arc<Held<Backlog>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            common: common.clone(),
            address,
            held: Lock::new(held),
            has_sent_fin: AtomicBool::new(false),
            arrived: Lock::new(Arrived::default()),
            other: OnceLock::new(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn has_sent_fin(&self) -> bool {
        self.has_sent_fin.load(Ordering::SeqCst)
    }

    fn standing(&self) -> Standing {
        let arrived = self.arrived.lock();
        self.standing_of(&arrived)
    }

    fn standing_of(&self, arrived: &Arrived) -> Standing {
        let has_sent_fin = self.has_sent_fin.load(Ordering::SeqCst);
        Standing { has_fin: arrived.has_fin, has_sent_fin, is_reset: arrived.is_reset }
    }

    /// Whether nothing can come or go any more: `TCP_CLOSE`.
    pub(super) fn is_over(&self) -> bool {
        let s = self.standing();
        s.is_reset || s.has_fin && s.has_sent_fin
    }

    /// The state of the peer's end, when its socket is closed but the connection is not over.
    pub(super) fn orphaned_peer(&self, peer: &Self) -> Option<u8> {
        let is_closed = peer.arrived.lock().is_closed;
        (is_closed && !peer.is_over() && !std::ptr::eq(self, peer)).then(|| peer.tcp_state())
    }

    pub(super) fn tcp_state(&self) -> u8 {
        let s = self.standing();
        match (s.has_sent_fin, s.has_fin) {
            _ if s.is_reset => state::CLOSE,
            (false, false) => state::ESTABLISHED,
            (true, false) => state::FIN_WAIT2,
            (false, true) => state::CLOSE_WAIT,
            (true, true) => state::CLOSE,
        }
    }

    /// Bytes that a peer may have on the way beside what its own buffer holds: this end's window.
    fn window(&self) -> usize {
        self.common.receive_limit() / 2
    }

    /// How much of a sender's buffer is taken when `unread` bytes lie in `to`.
    fn buffered(unread: usize, to: &Self) -> usize {
        unread.saturating_sub(to.window())
    }

    /// `sk_stream_is_writeable`: a third of the buffer is free.
    fn is_writable(&self, unread: usize, to: &Self) -> bool {
        Self::buffered(unread, to).saturating_mul(3) <= self.common.send_limit().saturating_mul(2)
    }

    /// Sends as much as fits, or holds it back as long as `waits` says.
    pub(super) fn send(
        &self,
        peer: &Arc<Self>,
        data: &mut dyn Source,
        is_urgent: bool,
        waits: Waits,
    ) -> Result<usize, Errno> {
        if self.common.has_error() || self.has_sent_fin.load(Ordering::SeqCst) {
            return Err(self.common.take_error().unwrap_or(EPIPE));
        }
        let mut arrived = peer.arrived.lock();
        if self.has_sent_fin.load(Ordering::SeqCst) || arrived.is_reset {
            return Err(EPIPE);
        }
        if arrived.is_closed {
            drop(arrived);
            return self.send_to_nobody(peer, data);
        }
        if data.remaining() == 0 {
            return Ok(0);
        }
        let buffered = Self::buffered(arrived.ring.len(), peer);
        let window_left = peer.window().saturating_sub(arrived.ring.len());
        let room = self.common.send_limit().saturating_sub(buffered) + window_left;
        if buffered >= self.common.send_limit() || room == 0 {
            arrived.has_waiting = true;
            return Err(EAGAIN);
        }
        let wanted = data.remaining();
        let mut n = arrived.ring.fill(data, room)?;
        if n < wanted.min(room) {
            // What lies in one piece of the buffer with a byte that cannot be read is not sent.
            let kept = n / PIECE * PIECE;
            arrived.ring.take_back(n - kept);
            n = kept;
            if n == 0 {
                return Err(EFAULT);
            }
        }
        if peer.common.stamps.wants_arrival() {
            arrived.time = Some(now());
        }
        if is_urgent && n == wanted {
            arrived.urgent = Urgent::Valid(arrived.start + arrived.ring.len() as u64 - 1);
        }
        let is_last = n == wanted && !is_urgent;
        let going = arrived.hold.add(n, if is_last { waits } else { Waits::Not });
        self.go(peer, arrived, going, is_urgent);
        Ok(n)
    }

    /// Puts the next `going` bytes that are held back on the way.
    pub(super) fn go(&self, peer: &Arc<Self>, mut arrived: ArrivedGuard<'_>, going: usize, is_urgent: bool) {
        if going == 0 {
            peer.watch(&mut arrived);
            return;
        }
        let inet = &self.common.net.inet;
        let shown = inet.is_watched().then(|| {
            let mut last = arrived.ring.last(going + arrived.hold.corked);
            last.truncate(going);
            last
        });
        self.sent_bytes.fetch_add(going as u64, Ordering::Relaxed);
        let has_come = peer.judge(self, &mut arrived);
        peer.watch(&mut arrived);
        drop(arrived);
        let segments = (going as u64).div_ceil(SEGMENT_DATA);
        inet.counters.tcp_segments.add(segments);
        inet.counters.tcp_data_segments.add(segments);
        inet.count(self.address.ip(), segments, going as u64);
        if let Some(shown) = shown {
            self.show_data(peer, &shown, is_urgent);
        }
        peer.received_bytes.fetch_add(going as u64, Ordering::Relaxed);
        let urgent = if is_urgent { Events::PRI } else { Events::empty() };
        if has_come || is_urgent {
            peer.common.wait.notify(Events::READABLE | urgent);
        }
    }

    /// The peer's socket is closed: it takes the bytes and answers with a reset.
    fn send_to_nobody(&self, peer: &Self, data: &mut dyn Source) -> Result<usize, Errno> {
        let mut scratch = vec![0; data.remaining().min(SCRATCH)];
        if scratch.is_empty() {
            return Ok(0);
        }
        let n = data.take(&mut scratch)?;
        peer.show(self, flag::RST);
        self.reset(peer);
        Ok(n)
    }

    /// Ends the connection at this end: a reset arrived.
    ///
    /// Source: Linux 6.12 net/ipv4/tcp_input.c, `tcp_reset`.
    pub(super) fn reset(&self, by: &Self) {
        if !self.takes_segment(by, flag::RST | flag::ACK) {
            return;
        }
        let mut arrived = self.arrived.lock();
        let is_over = arrived.is_reset || arrived.has_fin && self.has_sent_fin.load(Ordering::SeqCst);
        if !is_over {
            self.common.net.inet.counters.tcp_resets.one();
            self.common.net.inet.counters.tcp_resets_sent.one();
        }
        let error = if arrived.has_fin { EPIPE } else { ECONNRESET };
        arrived.is_reset = true;
        let is_closed = arrived.is_closed;
        drop(arrived);
        self.has_sent_fin.store(true, Ordering::SeqCst);
        self.release(false);
        if !is_over && !is_closed {
            self.common.set_error(error);
        }
        let all = Events::READABLE | Events::WRITABLE | Events::HUP | Events::RDHUP | Events::ERR;
        self.common.wait.notify(all);
    }

    /// Gives port and addresses back, or leaves the latter behind for a while.
    fn release(&self, lingers: bool) {
        let held = self.held.lock().take();
        if let Some(held) = held {
            if lingers { held.linger(&self.common) } else { held.clear_tuple() }
        }
    }

    /// Sends no more (`SHUT_WR`): the peer reads to the end.
    pub(super) fn finish(self: &Arc<Self>, peer: &Arc<Self>) {
        self.flush(peer);
        let mut arrived = peer.arrived.lock();
        if self.has_sent_fin.swap(true, Ordering::SeqCst) || arrived.is_reset {
            return;
        }
        if arrived.hold.hidden > 0 || !peer.takes_segment(self, flag::FIN | flag::ACK) {
            arrived.hold.has_fin = true;
            peer.watch(&mut arrived);
            return;
        }
        self.finished(peer, arrived);
    }

    /// The peer gets to know that nothing more comes.
    pub(super) fn finished(self: &Arc<Self>, peer: &Arc<Self>, mut arrived: ArrivedGuard<'_>) {
        arrived.has_fin = true;
        self.common.net.inet.counters.tcp_segments.add(2);
        self.common.net.inet.count(self.address.ip(), 2, 0);
        let was_first = !peer.has_sent_fin.load(Ordering::SeqCst);
        drop(arrived);
        self.show(peer, flag::FIN | flag::ACK);
        peer.show(self, flag::ACK);
        peer.flush_more(self);
        let mut events = Events::READABLE | Events::RDHUP;
        if !was_first {
            // Both have ended. Whoever began keeps the addresses for a while.
            peer.release(true);
            self.release(false);
            events |= Events::HUP;
            self.common.wait.notify(Events::HUP | Events::WRITABLE);
        }
        peer.common.wait.notify(events);
    }

    /// Reads no more (`SHUT_RD`); what still comes can be read all the same.
    pub(super) fn stop_reading(&self) {
        self.arrived.lock().is_shut = true;
        self.common.wait.notify(Events::READABLE | Events::RDHUP);
    }

    /// The socket is closed. `aborts`: with a reset (`SO_LINGER` of 0, or a connection that nobody accepted).
    pub(super) fn close(self: &Arc<Self>, peer: &Arc<Self>, aborts: bool) {
        let mut arrived = self.arrived.lock();
        arrived.is_closed = true;
        let unread = arrived.readable() > 0;
        arrived.hold.hidden = 0;
        let waiting = std::mem::take(&mut arrived.has_waiting);
        let ring = std::mem::take(&mut arrived.ring);
        let is_over = arrived.is_reset || arrived.has_fin && self.has_sent_fin.load(Ordering::SeqCst);
        drop(arrived);
        drop(ring);
        if waiting {
            peer.common.wait.notify(Events::WRITABLE);
        }
        if is_over {
            return;
        }
        if unread || aborts {
            let counters = &self.common.net.inet.counters;
            if unread {
                counters.tcp_aborts_unread.one()
            } else {
                counters.tcp_aborts.one()
            }
            self.arrived.lock().is_reset = true;
            self.has_sent_fin.store(true, Ordering::SeqCst);
            self.release(false);
            self.show(peer, flag::RST | flag::ACK);
            peer.reset(self);
        } else {
            self.finish(peer);
        }
    }

    /// Source: Linux 6.12 net/ipv4/tcp.c, `tcp_recvmsg_locked`.
    pub(super) fn receive(&self, peer: &Self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        if flags & msg::OOB != 0 {
            return self.receive_urgent(dst, flags);
        }
        let is_peek = flags & msg::PEEK != 0;
        let offset = self.common.peek_offset.load(Ordering::Relaxed);
        let mut skip = if is_peek { offset.max(0) as usize } else { 0 };
        let is_inline = self.common.oob_inline.load(Ordering::Relaxed);
        let mut incoming = Incoming { from: Some(Vec::new()), ..Incoming::default() };

        let mut arrived = self.arrived.lock();
        let before = arrived.readable();
        let mut limit = dst.remaining();
        if let Some(mark) = arrived.urgent.position() {
            let at = arrived.start + skip as u64;
            if mark == at && before > skip {
                // The mark is here: the urgent byte is not part of the stream, unless it is to be inline.
                if !is_inline {
                    if is_peek {
                        skip += 1;
                    } else {
                        arrived.ring.consume(1);
                        arrived.start += 1;
                    }
                }
                if !is_peek && limit > 0 {
                    arrived.urgent = Urgent::None;
                }
            } else if mark > at {
                limit = limit.min((mark - at) as usize);
            }
        }
        if arrived.readable() <= skip {
            let is_end = arrived.has_fin || arrived.is_shut || arrived.is_reset;
            let has_fin = arrived.has_fin;
            drop(arrived);
            if !has_fin {
                self.common.check_error()?;
            }
            incoming.stops = true;
            return if is_end { Ok(incoming) } else { Err(EAGAIN) };
        }
        if flags & msg::WAITALL != 0 && is_peek && arrived.readable() - skip < dst.remaining() {
            let is_end = arrived.has_fin || arrived.is_shut || arrived.is_reset;
            if !is_end && flags & msg::DONTWAIT == 0 {
                return Err(EAGAIN);
            }
        }
        let n = arrived.ring.peek(skip, dst, limit.min(arrived.readable() - skip))?;
        if is_peek {
            if offset >= 0 {
                self.common.peek_offset.fetch_add(n as i32, Ordering::Relaxed);
            }
        } else {
            arrived.ring.consume(n);
            arrived.start += n as u64;
            if offset > 0 {
                self.common.peek_offset.store((offset - n as i32).max(0), Ordering::Relaxed);
            }
        }
        // At the mark reading stops, so that SIOCATMARK can be asked.
        let now_at = arrived.start + if is_peek { (skip + n) as u64 } else { 0 };
        incoming.stops = arrived.urgent.position() == Some(now_at);
        let after = arrived.ring.len();
        let wakes = arrived.has_waiting && peer.is_writable(after, self);
        if wakes {
            arrived.has_waiting = false;
        }
        let time = arrived.time;
        drop(arrived);
        if wakes {
            peer.common.wait.notify(Events::WRITABLE);
        }
        if n > 0 && time.is_some() {
            incoming.controls = self.common.stamps.tell(time);
        }
        (incoming.copied, incoming.full) = (n, n);
        Ok(incoming)
    }

    /// Source: Linux 6.12 net/ipv4/tcp.c, `tcp_recv_urg`.
    fn receive_urgent(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        let is_inline = self.common.oob_inline.load(Ordering::Relaxed);
        let mut arrived = self.arrived.lock();
        let Urgent::Valid(at) = arrived.urgent else {
            // Not there, or read already.
            return Err(EINVAL);
        };
        if is_inline {
            return Err(EINVAL);
        }
        let skip = usize::try_from(at.saturating_sub(arrived.start)).unwrap_or(usize::MAX);
        let mut incoming =
            Incoming { flags: msg::OOB, stops: true, from: Some(Vec::new()), ..Incoming::default() };
        if dst.remaining() == 0 {
            incoming.flags |= msg::TRUNC;
            return Ok(incoming);
        }
        let n = arrived.ring.peek(skip, dst, 1)?;
        if flags & msg::PEEK == 0 {
            arrived.urgent = Urgent::Read(at);
        }
        (incoming.copied, incoming.full) = (n, n);
        Ok(incoming)
    }

    pub(super) fn is_at_mark(&self) -> bool {
        let arrived = self.arrived.lock();
        arrived.urgent.position() == Some(arrived.start)
    }

    pub(super) fn readable_bytes(&self) -> usize {
        let arrived = self.arrived.lock();
        match arrived.urgent.position() {
            // tcp_inq: up to the mark.
            Some(mark) if mark > arrived.start => (mark - arrived.start) as usize,
            _ => arrived.readable(),
        }
    }

    /// What `SIOCOUTQ` counts: sent, and beyond the peer's window.
    pub(super) fn unsent(&self, peer: &Self) -> usize {
        let arrived = peer.arrived.lock();
        Self::buffered(arrived.readable(), peer) + arrived.hold.hidden
    }

    pub(super) fn ready(&self, peer: &Self) -> Events {
        let mut events = Events::empty();
        let arrived = self.arrived.lock();
        let s = self.standing_of(&arrived);
        let ends_reading = s.has_fin || arrived.is_shut || s.is_reset;
        if s.is_reset || ends_reading && s.has_sent_fin {
            events |= Events::HUP;
        }
        if ends_reading {
            events |= Events::READABLE | Events::RDHUP;
        }
        let low = self.common.low_water.load(Ordering::Relaxed);
        let at_mark = arrived.urgent.position() == Some(arrived.start)
            && !self.common.oob_inline.load(Ordering::Relaxed);
        let len = arrived.readable().saturating_sub(at_mark.into());
        if len > 0 && len >= low.min(self.common.receive_limit()) {
            events |= Events::READABLE;
        }
        if matches!(arrived.urgent, Urgent::Valid(_)) {
            events |= Events::PRI;
        }
        drop(arrived);
        let mut there = peer.arrived.lock();
        if s.has_sent_fin || s.is_reset || self.is_writable(there.ring.len(), peer) {
            events |= Events::WRITABLE;
        } else {
            there.has_waiting = true;
        }
        events
    }
}
