//! UDP between the sockets of the sandbox (udp(7)): a datagram goes straight into the receiver's queue.
//!
//! Reading order: this file (the socket, receiving, options), `send.rs`.

mod send;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{
    EAFNOSUPPORT, EAGAIN, EBUSY, EFAULT, EINVAL, ENETUNREACH, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP,
};
use abi::socket::{af, ipproto, msg, sock, sol};
use base::io::Sink;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::wait::Events;

use super::address::{self, Local};
use super::ancillary::Header;
use super::errors::Errors;
use super::groups::Groups as Memberships;
use super::options::{Facts, IpOptions, ip, ipv6};
use super::packets;
use super::ports::{Held, Ports};
use super::wire::{self, Frame};
use super::{become_ipv4, check_bind, check_scope};
use crate::common;
use crate::filter::Attached;
use crate::message::{Control, Incoming, Outgoing};
use crate::options::int;
use crate::report::{InetReport, Report};
use crate::socket::{Caller, Socket};
use crate::{Common, Namespace};
use send::Corked;

/// Bits of `shutdown`.
const RECEIVE: u32 = 1;
const SEND: u32 = 2;
/// What a datagram takes of the receiver's buffer beside its bytes.
const OVERHEAD: usize = 768;

/// Groups that somebody joined, and how often.
pub(crate) type Groups = Lock<HashMap<IpAddr, Joined>, { rank::LEAF }>;

/// A group that somebody joined.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Joined {
    /// How often. Below 0 for a moment, when the thread that left counts before the one that joined.
    pub(crate) count: isize,
    /// Higher than that of all groups that were joined before.
    pub(crate) order: u64,
}

/// How many groups were joined first.
static JOINED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct Datagram {
    data: Box<[u8]>,
    from: SocketAddr,
    header: Header,
    _kept: Kept,
}

#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    /// Datagrams thrown away for lack of room.
    drops: u64,
    is_closed: bool,
}

/// Options of level `IPPROTO_UDP` (udp(7)).
#[derive(Debug, Default)]
struct UdpOptions {
    cork: bool,
    no_check6_tx: bool,
    no_check6_rx: bool,
    /// `UDP_SEGMENT`: bytes of a datagram that a longer send is cut into; 0 for no cutting.
    segment: u16,
    gro: bool,
    /// `UDPLITE_SEND_CSCOV`, `UDPLITE_RECV_CSCOV`: bytes that the checksum covers; nothing is ever damaged here.
    coverage: [u16; 2],
}

const UDP_CORK: i32 = 1;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const UDPLITE_SEND_CSCOV: i32 = 10;
const UDPLITE_RECV_CSCOV: i32 = 11;
#[derive(Debug, Default)]
struct State {
    corked: Option<Corked>,
    held: Option<Arc<Held<UdpSocket>>>,
    /// The address that `bind` or `connect` gave.
    ip: Option<IpAddr>,
    /// Whether `bind` gave it.
    is_bound: bool,
    /// Whether `bind` chose the port.
    has_port: bool,
    remote: Option<SocketAddr>,
}

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    this: Weak<Self>,
    common: Arc<Common>,
    state: Lock<State, { rank::SOCKET }>,
    queue: Lock<Queue, { rank::QUEUE }>,
    shutdown: AtomicU32,
    options: Lock<UdpOptions, { rank::LEAF }>,
    ip: Lock<IpOptions, { rank::LEAF }>,
    errors: Errors,
}

/// Makes a socket of `domain`; `protocol` is UDP or UDP-Lite.
pub fn new(net: &Arc<Namespace>, domain: u16, protocol: i32, owner: (u32, u32)) -> Arc<UdpSocket> {
    let common = Common::new(net, domain, sock::DGRAM, protocol, owner);
    Arc::new_cyclic(|this| UdpSocket {
        this: this.clone(),
        state: Lock::new(State::default()),
        queue: Lock::new(Queue::default()),
        shutdown: AtomicU32::new(0),
        options: Lock::new(UdpOptions::default()),
        ip: Lock::new(IpOptions::new(&common.net.sysctl)),
        errors: Errors::default(),
        common,
    })
}

impl UdpSocket {
    fn local(&self, ip: IpAddr) -> Local {
        Local { ip, v6only: self.ip.lock().has6(ipv6::V6ONLY) }
    }

    /// The ports of its protocol.
    fn ports(&self) -> &Arc<Ports<Self>> {
        let inet = &self.common.net.inet;
        if self.common.protocol == ipproto::UDPLITE { &inet.udplite } else { &inet.udp }
    }

    fn any(&self) -> IpAddr {
        address::any(self.common.domain())
    }

    /// Takes what arrives, from the peer alone when connected.
    fn register(&self, state: &State) {
        if let Some(held) = &state.held {
            let local = self.local(state.ip.unwrap_or(self.any()));
            held.receive(self.this.clone(), local, state.remote, &self.common);
        }
    }

    /// Picks a port, where there is none.
    fn autobind(&self, state: &mut State) -> Result<(), Errno> {
        if state.held.is_none() {
            let local = self.local(state.ip.unwrap_or(self.any()));
            let held = self.ports().bind(&self.common, local, 0).map_err(|_| EAGAIN)?;
            state.held = Some(held);
            self.register(state);
        }
        Ok(())
    }

    /// Local and remote address, for `/proc/net/udp`.
    pub fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let state = self.state.lock();
        let port = state.held.as_ref().map_or(0, |h| h.port);
        ((state.ip.unwrap_or(self.any()), port).into(), state.remote)
    }

    /// A datagram with all its headers.
    fn frame(&self, data: &[u8], from: SocketAddr, header: &Header) -> Frame {
        Frame::udp(self.common.protocol, from, header.to, header.ttl, header.tos, data)
    }

    /// Takes datagrams that were sent in one piece: as they are (`UDP_GRO`), or one by one.
    fn deliver_pieces(&self, data: &[u8], from: SocketAddr, header: Header) -> bool {
        if header.segment == 0 || self.options.lock().gro {
            return self.deliver(data, from, header);
        }
        let header_of_one = Header { segment: 0, ..header };
        data.chunks(header.segment.into()).all(|piece| self.deliver(piece, from, header_of_one))
    }

    /// Puts a datagram in the queue, unless that is full or closed. Says whether somebody was there.
    fn deliver(&self, data: &[u8], from: SocketAddr, header: Header) -> bool {
        let verdict = self.common.filters.keep(|run| {
            let frame = self.frame(data, from, &header);
            run(&frame.view(frame.transport))
        });
        let Some(left) = verdict.left(wire::UDP, data.len()) else {
            self.queue.lock().drops += 1;
            return true;
        };
        let data = &data[..left];
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return false;
        }
        let size = data.len() + OVERHEAD;
        // Like Linux's, the last datagram may go beyond the limit.
        let kept = Kept::new(size).ok().filter(|_| queue.bytes <= self.common.receive_limit());
        let Some(kept) = kept else {
            queue.drops += 1;
            let counters = &self.common.net.inet.counters;
            if from.is_ipv4() {
                counters.udp_no_room.one()
            } else {
                counters.udp6_no_room.one()
            }
            return true;
        };
        queue.bytes += size;
        let time = self.common.stamps.wants_arrival().then(common::now);
        queue.datagrams.push_back(Datagram {
            data: data.into(),
            from,
            header: Header { time, ..header },
            _kept: kept,
        });
        drop(queue);
        self.common.wait.notify(Events::READABLE);
        true
    }

    /// Whether a group's datagrams come here.
    fn hears(&self, group: IpAddr, from: IpAddr) -> bool {
        if !group.is_multicast() {
            return true;
        }
        let options = self.ip.lock();
        let hears_all = match group {
            IpAddr::V4(_) => options.has(ip::MULTICAST_ALL),
            IpAddr::V6(_) => options.has6(ipv6::MULTICAST_ALL),
        };
        options.groups.hears(group, from).unwrap_or(hears_all)
    }

    fn set_udp_option(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        let number = int(value)?;
        let mut options = self.options.lock();
        match name {
            UDP_CORK => options.cork = number != 0,
            UDP_NO_CHECK6_TX => options.no_check6_tx = number != 0,
            UDP_NO_CHECK6_RX => options.no_check6_rx = number != 0,
            UDP_SEGMENT => options.segment = u16::try_from(number).map_err(|_| EINVAL)?,
            UDP_GRO => options.gro = number != 0,
            UDPLITE_SEND_CSCOV | UDPLITE_RECV_CSCOV if self.common.protocol == ipproto::UDPLITE => {
                // The header is eight bytes long, and 0 stands for all.
                let bytes = if number == 0 { 0 } else { number.clamp(8, 0xffff) };
                options.coverage[usize::from(name == UDPLITE_RECV_CSCOV)] = bytes as u16;
            }
            _ => return Err(ENOPROTOOPT),
        }
        drop(options);
        if name == UDP_CORK && number == 0 {
            self.uncork();
        }
        Ok(())
    }

    fn udp_option(&self, name: i32) -> Result<Vec<u8>, Errno> {
        let options = self.options.lock();
        let number: i32 = match name {
            UDP_CORK => options.cork.into(),
            100 => 0,
            UDP_NO_CHECK6_TX => options.no_check6_tx.into(),
            UDP_NO_CHECK6_RX => options.no_check6_rx.into(),
            UDP_SEGMENT => options.segment.into(),
            UDP_GRO => options.gro.into(),
            UDPLITE_SEND_CSCOV if self.common.protocol == ipproto::UDPLITE => options.coverage[0].into(),
            UDPLITE_RECV_CSCOV if self.common.protocol == ipproto::UDPLITE => options.coverage[1].into(),
            _ => return Err(ENOPROTOOPT),
        };
        Ok(number.to_le_bytes().to_vec())
    }

    fn facts(&self) -> Facts {
        let state = self.state.lock();
        Facts { kind: sock::DGRAM, is_bound: state.held.is_some(), is_connected: state.remote.is_some() }
    }

    /// Keeps the namespace's count of joined groups. In whatever order the changes of two threads are counted, the sum is
    /// the same.
    fn count_groups(&self, before: &Memberships, after: &Memberships) {
        let joined = after.all().filter(|group| !before.contains(*group)).map(|group| (group, 1));
        let left = before.all().filter(|group| !after.contains(*group)).map(|group| (group, -1));
        let mut groups = self.common.net.inet.groups.lock();
        for (group, change) in joined.chain(left) {
            let new = || Joined { count: 0, order: JOINED.fetch_add(1, Ordering::Relaxed) };
            let joined = groups.entry(group).or_insert_with(new);
            joined.count += change;
            if joined.count == 0 {
                groups.remove(&group);
            }
        }
    }

    /// Changes options, and counts the groups that are joined and left by it.
    fn change_ip_options<T>(&self, change: impl FnOnce(&mut IpOptions) -> T) -> T {
        let mut options = self.ip.lock();
        let before = options.groups.clone();
        let result = change(&mut options);
        let after = options.groups.clone();
        drop(options);
        if before != after {
            self.count_groups(&before, &after);
        }
        result
    }

    fn set_ip_option(&self, caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let facts = self.facts();
        if level == sol::IPV6 && name == ipv6::ADDRFORM {
            let remote = self.state.lock().remote;
            if int(value)? == i32::from(af::INET) && self.state.lock().corked.is_some() {
                return Err(EBUSY);
            }
            let v6only = self.ip.lock().has6(ipv6::V6ONLY);
            become_ipv4(&self.common, remote, v6only, value)?;
            self.change_ip_options(|options| options.groups.leave_ipv6());
            return Ok(());
        }
        self.change_ip_options(|options| {
            if level == sol::IP {
                options.set(caller, &facts, name, value)
            } else {
                options.set6(caller, &facts, name, value)
            }
        })
    }
}

/// A datagram came as a packet.
pub(crate) fn arrive(net: &Namespace, from: SocketAddr, to: SocketAddr, ttl: u8, tos: u8, data: &[u8]) {
    let header = Header { to, ttl, tos, time: None, segment: 0 };
    let frame = || Frame::udp(ipproto::UDP, from, to, ttl, tos, data);
    let found = net.inet.udp.find(to, from, frame).and_then(|s| s.upgrade());
    if !found.is_some_and(|s| s.deliver(data, from, header)) {
        net.inet.show_if_watched(|| packets::port_unreachable(&frame(), from, to));
    }
}

impl Socket for UdpSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let options = self.ip.lock().clone();
        let given = check_bind(&self.common.net, caller, self.common.domain(), &options, bytes)?;
        let mut state = self.state.lock();
        if state.held.is_some() || state.remote.is_some() {
            return Err(EINVAL);
        }
        let ip = given.addr.ip();
        state.held = Some(self.ports().bind(&self.common, self.local(ip), given.addr.port())?);
        state.ip = Some(ip);
        state.is_bound = !ip.is_unspecified();
        state.has_port = given.addr.port() != 0;
        self.ip.lock().bound_to(&given);
        self.register(&state);
        Ok(())
    }

    /// Source: Linux 6.12 net/ipv4/datagram.c, `__ip4_datagram_connect`; net/ipv4/udp.c, `__udp_disconnect`.
    fn connect(&self, _caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if address::family(bytes)? == af::UNSPEC {
            state.remote = None;
            if !state.is_bound {
                state.ip = None;
            }
            let old = if state.has_port { None } else { state.held.take() };
            self.register(&state);
            drop(state);
            drop(old);
            return Ok(());
        }
        let given = match address::parse(self.common.domain(), bytes) {
            Err(EAFNOSUPPORT) if self.common.domain() == af::INET6 && address::family(bytes)? == af::INET => {
                address::parse(af::INET, bytes)?
            }
            other => other?,
        };
        if (given.is_mapped || given.addr.is_ipv4()) && self.ip.lock().has6(ipv6::V6ONLY) {
            return Err(ENETUNREACH);
        }
        check_scope(given)?;
        let bound = state.ip.filter(|_| state.is_bound);
        let (to, source, _) = self.resolve(given, bound)?;
        self.autobind(&mut state)?;
        state.ip = Some(bound.unwrap_or(source));
        state.remote = Some(to);
        self.register(&state);
        Ok(())
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        Ok(address::to_bytes(self.common.domain(), self.addresses().0))
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let remote = self.state.lock().remote.filter(|r| r.port() != 0).ok_or(ENOTCONN)?;
        Ok(address::to_bytes(self.common.domain(), remote))
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        // An unconnected socket is shut down all the same.
        self.shutdown.fetch_or(how + 1, Ordering::SeqCst);
        self.common.wait.notify(Events::READABLE | Events::WRITABLE | Events::RDHUP | Events::HUP);
        if self.state.lock().remote.is_some() { Ok(()) } else { Err(ENOTCONN) }
    }

    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        self.send_message(caller, message)
    }

    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        if flags & msg::ERRQUEUE != 0 {
            return self.errors.receive(&self.common, dst);
        }
        self.common.check_error()?;
        let is_peek = flags & msg::PEEK != 0;
        let offset = self.common.peek_offset.load(Ordering::Relaxed);
        let mut skip = if is_peek { offset.max(0) as usize } else { 0 };
        let mut queue = self.queue.lock();
        let mut index = 0;
        while skip > 0 && queue.datagrams.get(index).is_some_and(|d| skip >= d.data.len()) {
            skip -= queue.datagrams.get(index).map_or(0, |d| d.data.len());
            index += 1;
        }
        let Some(datagram) = queue.datagrams.get(index) else {
            let is_over = self.shutdown.load(Ordering::SeqCst) & RECEIVE != 0 && flags & msg::DONTWAIT == 0;
            return if is_over { Ok(Incoming { stops: true, ..Incoming::default() }) } else { Err(EAGAIN) };
        };
        let data = datagram.data.get(skip..).unwrap_or(&[]);
        let piece = &data[..data.len().min(dst.remaining())];
        let stored = if piece.is_empty() { Ok(0) } else { dst.put(piece) };
        let mut incoming = Incoming {
            copied: piece.len(),
            full: data.len(),
            flags: if piece.len() < data.len() { msg::TRUNC } else { 0 },
            from: Some(address::to_bytes(self.common.domain(), datagram.from)),
            stops: true,
            ..Incoming::default()
        };
        let header = datagram.header;
        if is_peek {
            if offset >= 0 {
                self.common.peek_offset.fetch_add(piece.len() as i32, Ordering::Relaxed);
            }
        } else if let Some(taken) = queue.datagrams.remove(index) {
            let counters = &self.common.net.inet.counters;
            if taken.from.is_ipv4() {
                counters.udp_received.one()
            } else {
                counters.udp6_received.one()
            }
            queue.bytes = queue.bytes.saturating_sub(taken.data.len() + OVERHEAD);
            if offset > 0 {
                self.common.peek_offset.store((offset - taken.data.len() as i32).max(0), Ordering::Relaxed);
            }
        }
        drop(queue);
        // The datagram is gone even when it could not be stored.
        if stored? < incoming.copied {
            return Err(EFAULT);
        }
        incoming.controls.extend(self.common.stamps.tell(header.time));
        if header.segment != 0 {
            let size = i32::from(header.segment).to_le_bytes();
            incoming.controls.push(Control::new(sol::UDP, UDP_GRO, size));
        }
        incoming.controls.extend(self.ip.lock().tell(self.common.domain(), &header));
        Ok(incoming)
    }

    /// Source: Linux 6.12 net/core/datagram.c, `datagram_poll`.
    fn ready(&self) -> Events {
        let mut events = Events::WRITABLE | Events::WRBAND;
        let queue = self.queue.lock();
        if !queue.datagrams.is_empty() {
            events |= Events::READABLE;
        }
        drop(queue);
        let has_failure = !self.errors.is_empty();
        if has_failure || self.common.has_error() {
            events |= Events::ERR;
            if self.common.select_err_queue.load(Ordering::Relaxed) {
                events |= Events::PRI;
            }
        }
        let shutdown = self.shutdown.load(Ordering::SeqCst);
        if shutdown & RECEIVE != 0 {
            events |= Events::READABLE | Events::RDHUP;
        }
        if shutdown == RECEIVE | SEND {
            events |= Events::HUP;
        }
        events
    }

    fn set_option(&self, caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        match level {
            sol::UDP | sol::UDPLITE if level == self.common.protocol => self.set_udp_option(name, value),
            sol::IP => self.set_ip_option(caller, level, name, value),
            sol::IPV6 if self.common.domain() == af::INET6 => self.set_ip_option(caller, level, name, value),
            _ => Err(ENOPROTOOPT),
        }
    }

    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        let facts = self.facts();
        match level {
            sol::UDP | sol::UDPLITE if level == self.common.protocol => self.udp_option(name),
            sol::IP => self.ip.lock().get(&facts, name, given),
            sol::IPV6 if self.common.domain() == af::INET6 => self.ip.lock().get6(&facts, name, given),
            _ => Err(EOPNOTSUPP),
        }
    }

    fn has_ports(&self) -> bool {
        true
    }

    fn set_chooser(&self, chooser: Option<Arc<Attached>>) -> Result<(), Errno> {
        let state = self.state.lock();
        match &state.held {
            Some(held) => held.set_chooser(&self.common, chooser),
            None => {
                let shares = self.common.reuse_port.load(Ordering::Relaxed);
                self.common.filters.choose_later(shares, chooser)
            }
        }
    }

    fn has_peek_offset(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.queue.lock().datagrams.front().map_or(0, |d| d.data.len()))
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn report(&self, list: &mut Vec<Report>) {
        let (local, remote) = self.addresses();
        let is_hashed = self.state.lock().held.is_some();
        let (receive_queue, drops) = {
            let queue = self.queue.lock();
            (queue.bytes, queue.drops)
        };
        let v6only = self.ip.lock().has6(ipv6::V6ONLY);
        list.push(Report::Inet(InetReport {
            // Linux borrows two states of TCP: connected, and not.
            state: if remote.is_some() { 1 } else { 7 },
            is_hashed,
            receive_queue,
            drops,
            v6only,
            ..InetReport::of(&self.common, local, remote)
        }));
    }

    fn close(&self) {
        let held = self.state.lock().held.take();
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        let datagrams = std::mem::take(&mut queue.datagrams);
        drop(queue);
        self.change_ip_options(|options| options.groups.clear());
        drop((held, datagrams));
    }
}
