//! What a socket is told about its sends later (`MSG_ERRQUEUE`): that nobody was there, when they left, that
//! `MSG_ZEROCOPY` is done with the memory.
//!
//! Source: Linux 6.12 net/ipv4/ip_sockglue.c, `ip_recv_error`; net/core/skbuff.c, `__skb_tstamp_tx`,
//! `__msg_zerocopy_callback`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::errno::EAGAIN;
use abi::socket::{af, msg, sol};
use base::io::Sink;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::time::Time;
use base::wait::Events;

use super::address;
use super::options::{ip, ipv6};
use crate::common::{Common, now};
use crate::message::{Control, Incoming};
use crate::stamps::{Step, flag};

/// Most entries; Linux counts them as received data.
const MOST: usize = 256;
/// What an entry takes beside its bytes.
const OVERHEAD: usize = 256;
/// `ee_origin`: who tells.
const LOCAL: u8 = 1;
const ICMP: u8 = 2;
const ICMP6: u8 = 3;
const TIMESTAMPING: u8 = 4;
const ZEROCOPY: u8 = 5;
const ECONNREFUSED: u32 = 111;
const ENOMSG: u32 = 42;
const EMSGSIZE: u32 = 90;
/// `SO_EE_CODE_ZEROCOPY_COPIED`.
const COPIED: u8 = 1;

#[derive(Debug)]
enum Entry {
    /// Nobody took this datagram.
    Refused { data: Box<[u8]>, to: SocketAddr },
    /// A datagram was too long to be sent there.
    TooLong { to: SocketAddr, most: u32 },
    /// A packet got so far; IPv6 says where from.
    Stamped { packet: Box<[u8]>, from: Option<SocketAddr>, step: Step, key: u32, time: Time },
    /// Sends with `MSG_ZEROCOPY`, by number, need their memory no more: it was copied.
    Copied { first: u32, last: u32 },
}

impl Entry {
    fn data(&self) -> &[u8] {
        match self {
            Self::Refused { data, .. } => data,
            Self::Stamped { packet, .. } => packet,
            Self::TooLong { .. } | Self::Copied { .. } => &[],
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    kept: Kept,
}

impl Queue {
    /// Charges what is there and one entry more of `more` bytes.
    fn charge(&mut self, more: Option<usize>) -> Result<(), Errno> {
        let count = self.entries.len() + usize::from(more.is_some());
        self.kept.resize(self.bytes + more.unwrap_or(0) + count * OVERHEAD)
    }
}

/// The error queue of a socket.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    queue: Lock<Queue, { rank::LEAF }>,
    /// The number of the next send with `MSG_ZEROCOPY`.
    next: AtomicU32,
}

impl Errors {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().entries.is_empty()
    }

    fn push(&self, common: &Common, entry: Entry) {
        let mut queue = self.queue.lock();
        let bytes = queue.bytes + entry.data().len();
        if queue.entries.len() >= MOST
            || bytes > common.receive_limit()
            || queue.charge(Some(entry.data().len())).is_err()
        {
            return;
        }
        queue.bytes = bytes;
        queue.entries.push_back(entry);
        drop(queue);
        common.wait.notify(Events::ERR);
    }

    /// Nobody took a datagram.
    pub(crate) fn refused(&self, common: &Common, data: &[u8], to: SocketAddr) {
        self.push(common, Entry::Refused { data: data.into(), to });
    }

    /// A datagram was too long; `most` is what fits into a packet.
    pub(crate) fn too_long(&self, common: &Common, to: SocketAddr, most: u32) {
        self.push(common, Entry::TooLong { to, most });
    }

    /// A packet was sent, for which `flags` of `SO_TIMESTAMPING` hold; `packet` makes what the program gets back of it,
    /// and its source. Between sockets of one machine all steps happen at once.
    pub(crate) fn sent(
        &self,
        common: &Common,
        flags: u32,
        key: u32,
        packet: impl Fn() -> (Vec<u8>, Option<SocketAddr>),
    ) {
        let steps = [
            (flag::TX_SCHED, Step::Queued),
            (flag::TX_SOFTWARE, Step::Sent),
            (flag::TX_ACK, Step::Acknowledged),
        ];
        for (_, step) in steps.into_iter().filter(|(flag, _)| flags & flag != 0) {
            let (packet, from) = if flags & flag::OPT_TSONLY == 0 { packet() } else { (Vec::new(), None) };
            self.push(common, Entry::Stamped { packet: packet.into(), from, step, key, time: now() });
        }
    }

    /// A send with `MSG_ZEROCOPY` was made, and its bytes were copied.
    pub(crate) fn copied(&self, common: &Common) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        if let Some(Entry::Copied { last, .. }) = queue.entries.back_mut()
            && *last == number.wrapping_sub(1)
        {
            *last = number;
            drop(queue);
            common.wait.notify(Events::ERR);
            return;
        }
        drop(queue);
        self.push(common, Entry::Copied { first: number, last: number });
    }

    /// Receives the next entry.
    pub(crate) fn receive(&self, common: &Common, dst: &mut dyn Sink) -> Result<Incoming, Errno> {
        let mut queue = self.queue.lock();
        let entry = queue.entries.pop_front().ok_or(EAGAIN)?;
        queue.bytes -= entry.data().len();
        // Less never fails.
        let _ = queue.charge(None);
        let is_refused = |e: &Entry| matches!(e, Entry::Refused { .. });
        let was_last = is_refused(&entry) && !queue.entries.iter().any(is_refused);
        drop(queue);
        if was_last {
            common.take_error();
        }
        let data = entry.data();
        let piece = &data[..data.len().min(dst.remaining())];
        let copied = if piece.is_empty() { 0 } else { dst.put(piece)? };
        let cut = if copied < data.len() { msg::TRUNC } else { 0 };
        let mut incoming = Incoming {
            copied,
            full: data.len(),
            flags: msg::ERRQUEUE | cut,
            stops: true,
            ..Incoming::default()
        };
        match entry {
            Entry::Refused { to, .. } => {
                incoming.from = Some(address::to_bytes(common.domain(), to));
                let (origin, kind, code) = if to.is_ipv4() { (ICMP, 3, 3) } else { (ICMP6, 1, 4) };
                incoming.controls.push(extended(
                    common.domain(),
                    ECONNREFUSED,
                    [origin, kind, code, 0],
                    (0, 0),
                    Some(to),
                ));
            }
            Entry::TooLong { to, most } => {
                incoming.from = Some(address::to_bytes(common.domain(), to));
                let what = [LOCAL, 0, 0, 0];
                incoming.controls.push(extended(common.domain(), EMSGSIZE, what, (most, 0), None));
            }
            Entry::Stamped { from, step, key, time, .. } => {
                if common.stamps.flags() & flag::SOFTWARE != 0 {
                    incoming.controls.push(common.stamps.three(time));
                }
                let about = (step as u32, key);
                incoming.controls.push(extended(
                    common.domain(),
                    ENOMSG,
                    [TIMESTAMPING, 0, 0, 0],
                    about,
                    from,
                ));
            }
            Entry::Copied { first, last } => {
                incoming.controls.push(extended(
                    common.domain(),
                    0,
                    [ZEROCOPY, 0, COPIED, 0],
                    (first, last),
                    None,
                ));
            }
        }
        Ok(incoming)
    }
}

/// `struct sock_extended_err`, and the address of whoever reported it.
fn extended(domain: u16, errno: u32, what: [u8; 4], about: (u32, u32), by: Option<SocketAddr>) -> Control {
    let mut data = errno.to_le_bytes().to_vec();
    data.extend_from_slice(&what);
    data.extend_from_slice(&about.0.to_le_bytes());
    data.extend_from_slice(&about.1.to_le_bytes());
    let (level, kind, len) =
        if domain == af::INET6 { (sol::IPV6, ipv6::RECVERR, 28) } else { (sol::IP, ip::RECVERR, 16) };
    match by {
        Some(by) => data.extend_from_slice(&address::to_bytes(domain, (by.ip(), 0).into())),
        None => data.resize(data.len() + len, 0),
    }
    Control::new(level, kind, data)
}
