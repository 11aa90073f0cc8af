//! Sending: where a datagram goes, how it is put together and cut, and who gets it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{
    EACCES, ECONNREFUSED, EDESTADDRREQ, EFAULT, EINVAL, EMSGSIZE, ENETUNREACH, EOPNOTSUPP, EPIPE,
};
use abi::socket::{af, msg};
use base::wait::Events;

use super::{SEND, UdpSocket};
use crate::inet::address::{self, Given};
use crate::inet::ancillary::{Header, Marks};
use crate::inet::options::{LOOPBACK_INDEX, LOOPBACK_MTU, ip, ipv6};
use crate::inet::{packets, wire};
use crate::message::Outgoing;
use crate::socket::Caller;
use crate::stamps::flag;

/// The most bytes in a datagram.
const LEN_MAX_V4: usize = 65_507;
const LEN_MAX_V6: usize = 65_527;
/// Most datagrams that one send is cut into (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 128;

/// What corked sends have put together.
#[derive(Debug)]
pub(super) struct Corked {
    data: Vec<u8>,
    destination: Destination,
    marks: Marks,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    to: SocketAddr,
    from: SocketAddr,
    /// More than one socket may get it.
    is_shared: bool,
}

impl UdpSocket {
    /// Destination and source of what is sent to `given`.
    pub(super) fn resolve(
        &self,
        given: Given,
        bound: Option<IpAddr>,
    ) -> Result<(SocketAddr, IpAddr, bool), Errno> {
        let options = self.ip.lock();
        match given.addr.ip() {
            IpAddr::V4(v4) if v4.is_multicast() => {
                // There is no route for groups: an address or an option must name the interface.
                let is_local = bound.is_some_and(|ip| ip.is_loopback());
                if options.multicast_if == 0 && !is_local {
                    return Err(ENETUNREACH);
                }
                // None of the loopback's addresses has more than the host's scope, so none is picked.
                Ok((given.addr, options.multicast_source().into(), true))
            }
            IpAddr::V4(v4) if v4.octets() == [127, 255, 255, 255] => {
                if !self.common.broadcast.load(Ordering::Relaxed) {
                    return Err(EACCES);
                }
                Ok((given.addr, std::net::Ipv4Addr::LOCALHOST.into(), true))
            }
            _ => {
                drop(options);
                self.common.net.inet.route(given).map(|(to, from)| (to, from, false))
            }
        }
    }

    /// Reads the address of a send.
    ///
    /// Source: Linux 6.12 net/ipv4/udp.c, `udp_sendmsg`; net/ipv6/udp.c, `udpv6_sendmsg`.
    fn given(&self, bytes: &[u8]) -> Result<Given, Errno> {
        let v6only = self.ip.lock().has6(ipv6::V6ONLY);
        let family = address::family(bytes)?;
        let given = match (self.common.domain(), family) {
            (af::INET6, af::INET) if v6only => return Err(ENETUNREACH),
            (af::INET6, af::INET) => address::parse(af::INET, bytes)?,
            (af::INET, af::UNSPEC) => {
                address::parse(af::INET, &[&af::INET.to_le_bytes(), bytes.get(2..).ok_or(EINVAL)?].concat())?
            }
            (domain, _) => address::parse(domain, bytes)?,
        };
        if given.addr.port() == 0 {
            return Err(EINVAL);
        }
        if given.is_mapped && v6only {
            return Err(ENETUNREACH);
        }
        Ok(given)
    }

    fn destination(&self, message: &Outgoing<'_>, marks: &Marks) -> Result<Destination, Errno> {
        let mut state = self.state.lock();
        let given = if message.to.is_empty() {
            let addr = state.remote.ok_or(EDESTADDRREQ)?;
            Given { addr, is_mapped: false, scope: LOOPBACK_INDEX as u32 }
        } else {
            self.given(message.to)?
        };
        let bound = state.ip.filter(|ip| !ip.is_unspecified());
        let (to, source, is_shared) = self.resolve(given, bound)?;
        self.autobind(&mut state)?;
        let port = state.held.as_ref().map_or(0, |h| h.port);
        let bound = bound.filter(|ip| !ip.is_multicast());
        if marks.source.is_some_and(|ip| !self.common.net.inet.device.is_local(ip)) {
            return Err(ENETUNREACH);
        }
        let from = marks.source.or(bound).unwrap_or(source);
        if from.is_ipv4() != to.is_ipv4() {
            return Err(ENETUNREACH);
        }
        Ok(Destination { to, from: (from, port).into(), is_shared })
    }

    /// Tells of a datagram that fits into no packet, if the program wants to know.
    ///
    /// Source: Linux 6.12 net/ipv4/ip_output.c, `__ip_append_data`; net/ipv6/ip6_output.c.
    fn tell_too_long(&self, to: SocketAddr, len: usize) {
        const PACKET_V4: u32 = 65_535;
        let options = self.ip.lock();
        let (wants, most) = match to.ip() {
            IpAddr::V4(_) => (options.has(ip::RECVERR) && len <= 0xffff, PACKET_V4),
            IpAddr::V6(_) => (options.has6(ipv6::RECVERR), LOOPBACK_MTU as u32),
        };
        drop(options);
        if wants {
            // IPv4 names the peer's port, which a socket without a peer does not have.
            let peer = self.state.lock().remote.map_or(0, |r| r.port());
            let port = if to.is_ipv4() { peer } else { to.port() };
            self.errors.too_long(&self.common, (to.ip(), port).into(), most);
        }
    }

    /// Bytes of each of the datagrams that a send is cut into.
    fn segment(&self, marks: &Marks) -> usize {
        match marks.segment.unwrap_or(self.options.lock().segment) {
            0 => usize::MAX,
            n => n.into(),
        }
    }

    /// `sendmsg(2)`.
    pub(super) fn send_message(
        &self,
        caller: Option<&Caller<'_>>,
        message: &mut Outgoing<'_>,
    ) -> Result<usize, Errno> {
        let len = message.data.remaining();
        // IPv6 finds out where it goes first.
        if len > 0xffff && self.common.domain() == af::INET {
            return Err(EMSGSIZE);
        }
        if message.flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let is_corked = message.flags & msg::MORE != 0 || self.options.lock().cork;
        let pending = self.state.lock().corked.take();
        let (marks, destination, mut data) = match pending {
            // What was begun keeps its destination.
            Some(corked) => (corked.marks, corked.destination, corked.data),
            None => {
                let marks = Marks::parse(&self.common, caller, message.controls)?;
                (marks, self.destination(message, &marks)?, Vec::new())
            }
        };
        let segment = self.segment(&marks);
        let longest = if destination.to.is_ipv4() { LEN_MAX_V4 } else { LEN_MAX_V6 };
        let begun = data.len();
        if begun + len > longest {
            self.tell_too_long(destination.to, len);
            return Err(EMSGSIZE);
        }
        // The checksums of what is cut are not the program's to leave out.
        let is_cut = segment != usize::MAX;
        if is_cut && (len.div_ceil(segment) > SEGMENTS_MAX || self.common.stored.lock().no_check) {
            return Err(EINVAL);
        }
        self.common.check_error()?;
        if self.shutdown.load(Ordering::SeqCst) & SEND != 0 {
            return Err(EPIPE);
        }
        data.resize(begun + len, 0);
        if len > 0 && message.data.take(&mut data[begun..])? < len {
            return Err(EFAULT);
        }
        if message.flags & msg::ZEROCOPY != 0 && len > 0 && self.common.zerocopy.load(Ordering::Relaxed) {
            self.errors.copied(&self.common);
        }
        if is_corked {
            self.state.lock().corked = Some(Corked { data, destination, marks });
            return Ok(len);
        }
        self.transmit(&data, destination, &marks, segment);
        // What is sent takes no room any more, of which edge-triggered waiters are told (`sock_wfree`).
        self.common.wait.notify(Events::WRITABLE);
        Ok(len)
    }

    fn deliver_shared(&self, data: &[u8], destination: &Destination, header: Header) {
        let inet = &self.common.net.inet;
        let group = destination.to.ip();
        if group.is_multicast() {
            let c = &inet.counters;
            let (packets, octets, head) = match group {
                IpAddr::V4(_) => (&c.multicasts, &c.multicast_octets, wire::IP4),
                IpAddr::V6(_) => (&c.multicasts6, &c.multicast6_octets, wire::IP6),
            };
            packets.one();
            octets.add((head + wire::UDP + data.len()) as u64);
            // IP_MULTICAST_LOOP means copies for the sender's machine; what goes out on the loopback is none.
            if inet.groups.lock().get(&group).is_none_or(|joined| joined.count <= 0) {
                return;
            }
        }
        // Who is bound to the group, and who to everything.
        for receiver in self.ports().find_all(destination.to, destination.from) {
            if let Some(receiver) = receiver.upgrade().filter(|r| r.hears(group, destination.from.ip())) {
                receiver.deliver_pieces(data, destination.from, header);
            }
        }
    }

    /// Sends one datagram, or several of `segment` bytes, which may arrive in one piece.
    fn transmit(&self, data: &[u8], destination: Destination, marks: &Marks, segment: usize) {
        let options = self.ip.lock();
        let (ttl, tos) = match destination.to.ip() {
            to if to.is_ipv4() && to.is_multicast() => (options.multicast_ttl as u8, options.tos),
            IpAddr::V4(_) => (options.ttl(), options.tos),
            to if to.is_multicast() => (options.multicast_hops as u8, options.tclass as u8),
            IpAddr::V6(_) => (u8::try_from(options.hops).unwrap_or(64), options.tclass as u8),
        };
        drop(options);
        let header = Header {
            to: destination.to,
            ttl: marks.ttl.unwrap_or(ttl),
            tos: marks.tos.unwrap_or(tos),
            time: None,
            segment: if data.len() > segment { segment as u16 } else { 0 },
        };
        let inet = &self.common.net.inet;
        inet.count(destination.to.ip(), 1, data.len() as u64);
        let counters = &inet.counters;
        if destination.to.is_ipv4() {
            counters.udp_sent.one()
        } else {
            counters.udp6_sent.one()
        }
        let stamps = marks.stamp_flags(&self.common);
        if stamps & (flag::RECORD & !flag::TX_ACK) != 0 {
            let from = (self.common.domain() == af::INET6).then_some(destination.from);
            let packet = || (self.frame(data, destination.from, &header).bytes, from);
            self.errors.sent(&self.common, stamps & !flag::TX_ACK, self.common.stamps.next_key(), packet);
        }
        if destination.is_shared {
            inet.show_if_watched(|| self.frame(data, destination.from, &header));
            self.deliver_shared(data, &destination, header);
            return;
        }
        inet.show_if_watched(|| self.frame(data, destination.from, &header));
        let found = self
            .ports()
            .find(destination.to, destination.from, || self.frame(data, destination.from, &header));
        let found = found.and_then(|s| s.upgrade());
        let is_there = found.is_some_and(|s| s.deliver_pieces(data, destination.from, header));
        if !is_there {
            self.fail(data, destination, &header);
        }
    }

    /// Sends what was corked (`UDP_CORK` off).
    pub(super) fn uncork(&self) {
        let corked = self.state.lock().corked.take();
        if let Some(corked) = corked {
            self.transmit(&corked.data, corked.destination, &corked.marks, self.segment(&corked.marks));
        }
    }

    /// Nobody is there: an ICMP message would say so.
    fn fail(&self, data: &[u8], destination: Destination, header: &Header) {
        let Destination { to, from, .. } = destination;
        let inet = &self.common.net.inet;
        inet.show_if_watched(|| packets::port_unreachable(&self.frame(data, from, header), from, to));
        let counters = &self.common.net.inet.counters;
        if to.is_ipv4() {
            counters.udp_no_ports.one();
            counters.icmp_unreachable.one();
        } else {
            counters.udp6_no_ports.one();
            counters.icmp6_unreachable.one();
        }
        let wants_errors = {
            let options = self.ip.lock();
            if to.is_ipv4() { options.has(ip::RECVERR) } else { options.has6(ipv6::RECVERR) }
        };
        if wants_errors {
            self.errors.refused(&self.common, data, to);
        }
        let is_peer = self.state.lock().remote == Some(to);
        if wants_errors || is_peer {
            self.common.set_error(ECONNREFUSED);
        }
    }
}
