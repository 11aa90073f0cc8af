//! Raw sockets (raw(7)) and ICMP echo sockets (icmp(7)): packets between own addresses, and the answers to echo requests.

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{
    EACCES, EADDRINUSE, EAFNOSUPPORT, EAGAIN, EDESTADDRREQ, EFAULT, EINVAL, EMSGSIZE, ENETUNREACH,
    ENOPROTOOPT, ENOTCONN, EOPNOTSUPP,
};
use abi::socket::{af, ipproto, msg, sock, sol};
use base::io::Sink;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::wait::Events;

use super::address::{self, Given};
use super::ancillary::{Header, Marks};
use super::options::{Facts, IpOptions, ip};
use super::packets::{self, ECHO, ECHO_HEADER, REPLY, seal};
use super::wire::{self, Frame, Ip, transport_checksum};
use super::{check_bind, check_scope};
use crate::common;
use crate::message::{Incoming, Outgoing};
use crate::options::int;
use crate::report::{InetReport, Report};
use crate::socket::{Caller, Socket};
use crate::{Common, Namespace};

/// Bits of `shutdown`.
const RECEIVE: u32 = 1;
const SEND: u32 = 2;
/// The longest packet.
const LEN_MAX: usize = 65_535;
/// `IPV6_CHECKSUM`.
const CHECKSUM: i32 = 7;
/// What a packet takes of the receiver's buffer beside its bytes.
const OVERHEAD: usize = 768;

#[derive(Debug)]
struct Packet {
    data: Vec<u8>,
    from: SocketAddr,
    header: Header,
    _kept: Kept,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
    drops: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    ip: Option<IpAddr>,
    /// The port is what the program gave, and means nothing.
    remote: Option<SocketAddr>,
}

/// A raw socket, or one for ICMP echo alone.
#[derive(Debug)]
pub struct RawSocket {
    this: Weak<Self>,
    common: Arc<Common>,
    state: Lock<State, { rank::LEAF }>,
    queue: Lock<Queue, { rank::QUEUE }>,
    shutdown: AtomicU32,
    /// The identifier of an echo socket.
    ident: AtomicU16,
    ip: Lock<IpOptions, { rank::LEAF }>,
    /// `ICMP_FILTER` or `ICMP6_FILTER`: types that are not wanted.
    filter: Lock<[u32; 8], { rank::LEAF }>,
    has_header: AtomicBool,
    /// `IPV6_CHECKSUM`: where the checksum lies that is set and looked at; -1 for none.
    checksum_at: AtomicI32,
}

/// Makes a raw socket of `protocol`.
pub fn new(net: &Arc<Namespace>, domain: u16, protocol: i32, owner: (u32, u32)) -> Arc<RawSocket> {
    make(net, domain, sock::RAW, protocol, owner)
}

/// Makes an ICMP echo socket.
///
/// # Errors
/// `EACCES`: none of the caller's groups is in `net.ipv4.ping_group_range`.
pub fn new_echo(
    net: &Arc<Namespace>,
    domain: u16,
    caller: &Caller<'_>,
    owner: (u32, u32),
) -> Result<Arc<RawSocket>, Errno> {
    let [first, last] = &net.sysctl.ping_group_range;
    let range = first.get()..=last.get();
    let mut groups = caller.cred.groups.iter().chain([&caller.cred.egid]);
    if !groups.any(|g| range.contains(&i64::from(*g))) {
        return Err(EACCES);
    }
    let protocol = if domain == af::INET6 { ipproto::ICMPV6 } else { ipproto::ICMP };
    Ok(make(net, domain, sock::DGRAM, protocol, owner))
}

fn make(net: &Arc<Namespace>, domain: u16, kind: u32, protocol: i32, owner: (u32, u32)) -> Arc<RawSocket> {
    let common = Common::new(net, domain, kind, protocol, owner);
    let socket = Arc::new_cyclic(|this| RawSocket {
        this: this.clone(),
        state: Lock::default(),
        queue: Lock::default(),
        shutdown: AtomicU32::new(0),
        ident: AtomicU16::new(0),
        ip: Lock::new(IpOptions::new(&common.net.sysctl)),
        filter: Lock::new([0; 8]),
        has_header: (protocol == ipproto::RAW).into(),
        checksum_at: if protocol == ipproto::ICMPV6 { 2 } else { -1 }.into(),
        common,
    });
    net.inet.watchers.add_raw(socket.this.clone(), socket.is_echo());
    socket
}

impl RawSocket {
    fn is_echo(&self) -> bool {
        self.common.kind == sock::DGRAM
    }

    /// Puts a packet in the queue if it is for this socket.
    ///
    /// Source: Linux 6.12 net/ipv4/raw.c, `raw_rcv`; net/ipv6/raw.c, `rawv6_rcv`; net/ipv4/ping.c, `ping_rcv`.
    pub(crate) fn hear(&self, frame: &Frame, ip: &Ip) {
        let is_v6 = ip.to.is_ipv6();
        if i32::from(ip.protocol) != self.common.protocol || is_v6 != (self.common.domain() == af::INET6) {
            return;
        }
        let state = *self.state.lock();
        let is_bound_elsewhere = state.ip.is_some_and(|own| !own.is_unspecified() && own != ip.to);
        if is_bound_elsewhere || state.remote.is_some_and(|peer| peer.ip() != ip.from) {
            return;
        }
        let message = frame.bytes.get(frame.transport..).unwrap_or(&[]);
        let kind = message.first().copied().unwrap_or(0);
        if self.is_echo() {
            let ident = message.get(4..6).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
            if kind != REPLY[usize::from(is_v6)] || ident != self.ident() {
                return;
            }
        } else if matches!(self.common.protocol, ipproto::ICMP | ipproto::ICMPV6)
            && self.filter.lock()[usize::from(kind >> 5)] >> (kind & 31) & 1 == 1
            && (is_v6 || kind < 32)
        {
            return;
        }
        let is_checked = is_v6 && self.checksum_at.load(Ordering::Relaxed) >= 0;
        if is_checked && transport_checksum(ip, message) != 0 {
            return;
        }
        let start = if is_v6 || self.is_echo() { frame.transport } else { wire::LINK };
        let whole = frame.bytes.get(start..).unwrap_or(&[]);
        let Some(left) = self.common.filters.keep(|run| run(&frame.view(start))).left(0, whole.len()) else {
            return;
        };
        let data = whole[..left].to_vec();
        let time = self.common.stamps.wants_arrival().then(common::now);
        let header = Header { to: (ip.to, 0).into(), ttl: ip.ttl, tos: ip.tos, time, segment: 0 };
        let mut queue = self.queue.lock();
        let kept = Kept::new(data.len() + OVERHEAD).ok();
        let Some(kept) = kept.filter(|_| queue.bytes <= self.common.receive_limit()) else {
            queue.drops += 1;
            return;
        };
        queue.bytes += data.len() + OVERHEAD;
        queue.packets.push_back(Packet { data, from: (ip.from, 0).into(), header, _kept: kept });
        drop(queue);
        self.common.wait.notify(Events::READABLE);
    }

    /// An echo socket's identifier; a raw socket's port is its protocol.
    fn port(&self) -> u16 {
        if self.is_echo() { self.ident() } else { self.common.protocol as u16 }
    }

    fn ident(&self) -> u16 {
        self.ident.load(Ordering::Relaxed)
    }

    /// Gives an echo socket an identifier: `wanted`, or a free one for 0. False: it has one already.
    fn identify(&self, wanted: u16) -> Result<bool, Errno> {
        // One at a time.
        let turn = self.common.net.inet.identifying.lock();
        if self.ident() != 0 {
            return Ok(false);
        }
        let raws = self.common.net.inet.watchers.raws();
        let is_rival = |r: &&Arc<Self>| r.is_echo() && r.common.domain() == self.common.domain();
        let taken: HashSet<u16> = raws.iter().filter(is_rival).map(|r| r.ident()).collect();
        let mut ident = wanted;
        if ident == 0 {
            ident = (1..=u16::MAX).find(|i| !taken.contains(i)).ok_or(EADDRINUSE)?;
        } else if taken.contains(&ident) {
            return Err(EADDRINUSE);
        }
        self.ident.store(ident, Ordering::Relaxed);
        drop(turn);
        Ok(true)
    }

    /// `IP_HDRINCL` or `IPV6_HDRINCL`, by the family.
    fn is_header_option(&self, level: i32, name: i32) -> bool {
        const HDRINCL6: i32 = 36;
        let own =
            if self.common.domain() == af::INET { (sol::IP, ip::HDRINCL) } else { (sol::IPV6, HDRINCL6) };
        !self.is_echo() && (level, name) == own
    }

    /// Sets the checksum where `IPV6_CHECKSUM` says.
    ///
    /// Source: Linux 6.12 net/ipv6/raw.c, `rawv6_push_pending_frames`.
    fn set_checksum(&self, data: &mut [u8], ip: &Ip) -> Result<(), Errno> {
        let Ok(at) = usize::try_from(self.checksum_at.load(Ordering::Relaxed)) else { return Ok(()) };
        if ip.to.is_ipv4() || self.is_echo() {
            return Ok(());
        }
        let field = at..at + 2;
        data.get_mut(field.clone()).ok_or(EINVAL)?.fill(0);
        let sum = transport_checksum(ip, data);
        data.get_mut(field).ok_or(EINVAL)?.copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }

    fn given(&self, bytes: &[u8]) -> Result<Given, Errno> {
        let given = address::parse(self.common.domain(), bytes)?;
        if given.is_mapped {
            return Err(ENETUNREACH);
        }
        Ok(given)
    }

    fn facts(&self) -> Facts {
        let state = self.state.lock();
        Facts { kind: self.common.kind, is_bound: state.ip.is_some(), is_connected: state.remote.is_some() }
    }

    fn set_raw_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        /// `ICMP_FILTER`, `ICMP6_FILTER`.
        const FILTER: i32 = 1;
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        match (level, self.common.protocol) {
            (sol::RAW, ipproto::ICMP) | (sol::ICMPV6, ipproto::ICMPV6) if name == FILTER => {
                let words = words(value);
                if words.is_empty() {
                    return Err(EINVAL);
                }
                let mut filter = self.filter.lock();
                filter.iter_mut().zip(words).for_each(|(old, new)| *old = new);
                Ok(())
            }
            (sol::RAW | sol::IPV6, _) if self.common.domain() == af::INET6 && name == CHECKSUM => {
                let at = int(value)?;
                if self.common.protocol == ipproto::ICMPV6 && level == sol::IPV6 || at > 0 && at % 2 == 1 {
                    return Err(EINVAL);
                }
                self.checksum_at.store(at.max(-1), Ordering::Relaxed);
                Ok(())
            }
            _ => Err(if level == sol::RAW { EOPNOTSUPP } else { ENOPROTOOPT }),
        }
    }
}

impl Socket for RawSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let options = self.ip.lock().clone();
        let given = check_bind(&self.common.net, caller, self.common.domain(), &options, bytes)?;
        if self.is_echo() && !self.identify(given.addr.port())? {
            return Err(EINVAL);
        }
        self.state.lock().ip = Some(given.addr.ip());
        Ok(())
    }

    fn connect(&self, _caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        if address::family(bytes)? == af::UNSPEC {
            self.state.lock().remote = None;
            return Ok(());
        }
        let given = self.given(bytes)?;
        check_scope(given)?;
        let (to, source) = self.common.net.inet.route(given)?;
        if self.is_echo() {
            self.identify(0)?;
        }
        let mut state = self.state.lock();
        state.ip.get_or_insert(source);
        state.remote = Some((to.ip(), given.addr.port()).into());
        Ok(())
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        let state = *self.state.lock();
        let ip = state.ip.unwrap_or(address::any(self.common.domain()));
        Ok(address::to_bytes(self.common.domain(), (ip, self.port()).into()))
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let remote = self.state.lock().remote.filter(|r| r.port() != 0).ok_or(ENOTCONN)?;
        Ok(address::to_bytes(self.common.domain(), remote))
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        self.shutdown.fetch_or(how + 1, Ordering::SeqCst);
        self.common.wait.notify(Events::READABLE | Events::WRITABLE | Events::RDHUP | Events::HUP);
        if self.state.lock().remote.is_some() { Ok(()) } else { Err(ENOTCONN) }
    }

    /// Source: Linux 6.12 net/ipv4/raw.c, `raw_sendmsg`; net/ipv4/ping.c, `ping_v4_sendmsg`.
    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        let len = message.data.remaining();
        if len > LEN_MAX {
            return Err(EMSGSIZE);
        }
        if message.flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        if self.is_echo() && len < ECHO_HEADER {
            return Err(EINVAL);
        }
        let marks = Marks::parse(&self.common, caller, message.controls)?;
        let state = *self.state.lock();
        let (to, source) = if message.to.is_empty() {
            let remote = state.remote.ok_or(EDESTADDRREQ)?;
            (remote.ip(), state.ip)
        } else {
            let given = match self.given(message.to) {
                Err(EAFNOSUPPORT) if self.common.domain() == af::INET6 => return Err(EINVAL),
                other => other?,
            };
            let (to, source) = self.common.net.inet.route(given)?;
            (to.ip(), state.ip.filter(|ip| !ip.is_unspecified()).or(Some(source)))
        };
        if self.is_echo() {
            self.identify(0)?;
        }
        let ident = self.ident();
        let has_header = self.has_header.load(Ordering::Relaxed);
        if to.is_ipv4() && !has_header && len > LEN_MAX - wire::IP4 {
            return Err(EMSGSIZE);
        }
        let mut data = vec![0; len];
        if len > 0 && message.data.take(&mut data)? < len {
            return Err(EFAULT);
        }
        let from = marks.source.or(source).unwrap_or(to);
        let v = usize::from(to.is_ipv6());
        if self.is_echo() {
            if data[0] != ECHO[v] || data[1] != 0 {
                return Err(EINVAL);
            }
            data[4..6].copy_from_slice(&ident.to_be_bytes());
        }
        let (ttl, tos) = {
            let options = self.ip.lock();
            let hops = u8::try_from(options.hops).unwrap_or(64);
            if to.is_ipv4() { (options.ttl(), options.tos) } else { (hops, options.tclass as u8) }
        };
        let ip = Ip {
            from,
            to,
            ttl: marks.ttl.unwrap_or(ttl),
            tos: marks.tos.unwrap_or(tos),
            protocol: self.common.protocol as u8,
        };
        let frame = if has_header {
            Frame::with_header(&data, from).ok_or(EINVAL)?
        } else {
            if self.is_echo() {
                seal(&mut data, &ip);
            }
            self.set_checksum(&mut data, &ip)?;
            Frame::ip(&ip, &data)
        };
        packets::send(&self.common.net, &frame, None);
        Ok(len)
    }

    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        if flags & msg::ERRQUEUE != 0 {
            return Err(EAGAIN);
        }
        if flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        self.common.check_error()?;
        let mut queue = self.queue.lock();
        let Some(packet) = queue.packets.front() else {
            let is_over = self.shutdown.load(Ordering::SeqCst) & RECEIVE != 0;
            return if is_over { Ok(Incoming { stops: true, ..Incoming::default() }) } else { Err(EAGAIN) };
        };
        let piece = &packet.data[..packet.data.len().min(dst.remaining())];
        let stored = if piece.is_empty() { Ok(0) } else { dst.put(piece) };
        let header = packet.header;
        let mut incoming = Incoming {
            copied: piece.len(),
            full: packet.data.len(),
            flags: if piece.len() < packet.data.len() { msg::TRUNC } else { 0 },
            from: Some(address::to_bytes(self.common.domain(), packet.from)),
            stops: true,
            ..Incoming::default()
        };
        if flags & msg::PEEK == 0
            && let Some(taken) = queue.packets.pop_front()
        {
            queue.bytes = queue.bytes.saturating_sub(taken.data.len() + OVERHEAD);
        }
        drop(queue);
        if stored? < incoming.copied {
            return Err(EFAULT);
        }
        incoming.controls.extend(self.common.stamps.tell(header.time));
        incoming.controls.extend(self.ip.lock().tell(self.common.domain(), &header));
        Ok(incoming)
    }

    fn ready(&self) -> Events {
        let mut events = Events::WRITABLE | Events::WRBAND;
        if !self.queue.lock().packets.is_empty() {
            events |= Events::READABLE;
        }
        if self.common.has_error() {
            events |= Events::ERR;
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
            sol::IP | sol::IPV6 if self.is_header_option(level, name) => {
                self.has_header.store(int(value)? != 0, Ordering::Relaxed);
                Ok(())
            }
            // What is about IPv4 means nothing to a raw socket of IPv6.
            sol::IP if self.common.domain() == af::INET6 && !self.is_echo() => Err(ENOPROTOOPT),
            sol::IP => {
                let facts = self.facts();
                self.ip.lock().set(caller, &facts, name, value)
            }
            sol::IPV6 if self.common.domain() == af::INET6 && (name != CHECKSUM || self.is_echo()) => {
                let facts = self.facts();
                self.ip.lock().set6(caller, &facts, name, value)
            }
            _ => self.set_raw_option(level, name, value),
        }
    }

    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        let facts = self.facts();
        match level {
            sol::IP | sol::IPV6 if self.is_header_option(level, name) => {
                Ok(i32::from(self.has_header.load(Ordering::Relaxed)).to_le_bytes().to_vec())
            }
            sol::IP if self.common.domain() == af::INET6 && !self.is_echo() => Err(ENOPROTOOPT),
            sol::IP => self.ip.lock().get(&facts, name, given),
            sol::RAW | sol::IPV6
                if self.common.domain() == af::INET6 && name == CHECKSUM && !self.is_echo() =>
            {
                Ok(self.checksum_at.load(Ordering::Relaxed).to_le_bytes().to_vec())
            }
            sol::IPV6 if self.common.domain() == af::INET6 => self.ip.lock().get6(&facts, name, given),
            sol::RAW if self.common.protocol == ipproto::ICMP && name == 1 => {
                Ok(self.filter.lock()[0].to_ne_bytes().to_vec())
            }
            sol::ICMPV6 if self.common.protocol == ipproto::ICMPV6 && name == 1 => {
                Ok(self.filter.lock().iter().flat_map(|w| w.to_ne_bytes()).collect())
            }
            _ => Err(EOPNOTSUPP),
        }
    }

    fn raises_sigpipe(&self) -> bool {
        false
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.queue.lock().packets.front().map_or(0, |p| p.data.len()))
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn report(&self, list: &mut Vec<Report>) {
        let state = *self.state.lock();
        let any = address::any(self.common.domain());
        let port = self.port();
        let (receive_queue, drops) = {
            let queue = self.queue.lock();
            (queue.bytes, queue.drops)
        };
        let protocol = if self.is_echo() { self.common.protocol } else { ipproto::RAW };
        let local = (state.ip.unwrap_or(any), port).into();
        list.push(Report::Inet(InetReport {
            protocol,
            state: if state.remote.is_some() { 1 } else { 7 },
            is_hashed: true,
            receive_queue,
            drops,
            ..InetReport::of(&self.common, local, state.remote.map(|r| (r.ip(), 0).into()))
        }));
    }

    fn close(&self) {
        self.common.net.inet.watchers.remove_raw(self);
        let queue = std::mem::take(&mut *self.queue.lock());
        drop(queue);
    }
}
