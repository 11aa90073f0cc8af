//! Packets on the loopback: who looks at them, and where those go that programs made as bytes (raw and packet sockets).
//!
//! What sockets hand each other directly becomes a packet only while somebody looks (`Inet::is_watched`).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::socket::ipproto;
use base::lock::{Lock, rank};

use super::raw::RawSocket;
use super::wire::{self, Frame, Ip, checksum, transport_checksum};
use super::{Inet, udp};
use crate::Namespace;
use crate::packet::fanout::Fanout;
use crate::packet::{Kind, PacketSocket};
use crate::socket::Socket;
use crate::sysctl::Sysctl;

/// Types of ICMP messages: request and reply, in both versions.
pub(crate) const ECHO: [u8; 2] = [8, 128];
pub(crate) const REPLY: [u8; 2] = [0, 129];
/// Size of an ICMP echo header.
pub(crate) const ECHO_HEADER: usize = 8;
/// The longest part of a packet that an ICMP error brings back, beside its headers.
const QUOTED: usize = 548;

/// Who looks at packets.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// Raw sockets, and echo sockets, which look at what programs sent alone.
    raws: Lock<Vec<(Weak<RawSocket>, bool)>, { rank::LEAF }>,
    /// How many of them are raw.
    raw_count: AtomicUsize,
    taps: Lock<Vec<Weak<PacketSocket>>, { rank::LEAF }>,
    /// Groups of packet sockets that share packets.
    groups: Lock<Vec<Arc<Fanout>>, { rank::QUEUE }>,
    /// Packet sockets that see all packets, and groups.
    tap_count: AtomicUsize,
    group_count: AtomicUsize,
}

impl Watchers {
    fn change_raws(&self, change: impl FnOnce(&mut Vec<(Weak<RawSocket>, bool)>)) {
        let mut raws = self.raws.lock();
        change(&mut raws);
        self.raw_count.store(raws.iter().filter(|(_, is_echo)| !is_echo).count(), Ordering::Relaxed);
    }

    pub(crate) fn add_raw(&self, socket: Weak<RawSocket>, is_echo: bool) {
        self.change_raws(|raws| raws.push((socket, is_echo)));
    }

    pub(crate) fn remove_raw(&self, socket: &RawSocket) {
        self.change_raws(|raws| raws.retain(|(raw, _)| !std::ptr::eq(raw.as_ptr(), socket)));
    }

    /// All raw and echo sockets.
    pub(crate) fn raws(&self) -> Vec<Arc<RawSocket>> {
        self.raws.lock().iter().filter_map(|(raw, _)| raw.upgrade()).collect()
    }

    fn change_taps(&self, change: impl FnOnce(&mut Vec<Weak<PacketSocket>>)) {
        let mut taps = self.taps.lock();
        change(&mut taps);
        self.tap_count.store(taps.len(), Ordering::Relaxed);
    }

    pub(crate) fn add_tap(&self, socket: &Weak<PacketSocket>) {
        self.change_taps(|taps| {
            taps.retain(|tap| tap.strong_count() > 0 && !tap.ptr_eq(socket));
            taps.push(socket.clone());
        });
    }

    pub(crate) fn remove_tap(&self, socket: &PacketSocket) {
        self.change_taps(|taps| taps.retain(|tap| !std::ptr::eq(tap.as_ptr(), socket)));
    }

    /// Changes the groups that share packets.
    pub(crate) fn change_groups<T>(&self, change: impl FnOnce(&mut Vec<Arc<Fanout>>) -> T) -> T {
        let mut groups = self.groups.lock();
        let result = change(&mut groups);
        self.group_count.store(groups.len(), Ordering::Relaxed);
        result
    }

    fn groups(&self) -> Vec<Arc<Fanout>> {
        if self.group_count.load(Ordering::Relaxed) == 0 { Vec::new() } else { self.groups.lock().clone() }
    }

    fn taps(&self) -> Vec<Arc<PacketSocket>> {
        self.taps.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Inet {
    /// Whether packets are to be made of what sockets hand each other.
    pub(crate) fn is_watched(&self) -> bool {
        let watchers = &self.watchers;
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        count(&watchers.tap_count) + count(&watchers.raw_count) + count(&watchers.group_count) > 0
    }

    /// Shows a packet to all who look: as it leaves, and as it arrives. Its sender, a packet socket, does not see it leave.
    pub(crate) fn show(&self, frame: &Frame, sender: Option<&PacketSocket>) {
        for tap in self.watchers.taps() {
            if !sender.is_some_and(|s| std::ptr::eq(s, &raw const *tap)) {
                tap.hear(frame, Kind::Outgoing);
            }
            tap.hear(frame, frame.kind());
        }
        for group in self.watchers.groups() {
            if !sender.is_some_and(|s| group.has(s)) {
                group.hear(frame, Kind::Outgoing);
            }
            group.hear(frame, frame.kind());
        }
        if frame.kind() == Kind::Host
            && let Some(ip) = frame
                .ip_header()
                .filter(|ip| sender.is_none_or(|s| self.is_input(&s.common().net.sysctl, ip)))
        {
            for raw in self.watchers.raws() {
                raw.hear(frame, &ip);
            }
        }
    }

    /// Whether what came from the device, and not from this machine's own IP layer, is taken: an IPv4 address of the
    /// machine's own, or one of the loopback, is suspicious there.
    ///
    /// Source: Linux 6.12 net/ipv4/route.c, `ip_route_input_slow`; fib_frontend.c, `__fib_validate_source`.
    fn is_input(&self, sysctl: &Sysctl, ip: &Ip) -> bool {
        let IpAddr::V4(from) = ip.from else { return true };
        let takes_local = sysctl.accept_local[0].is_on() || sysctl.accept_local_all[0].is_on();
        let takes_loopback = sysctl.route_localnet[0].is_on() || sysctl.route_localnet_all[0].is_on();
        // One that an interface has, not all of its network.
        let is_own = || self.device.settings().addresses.iter().any(|a| a.ip == ip.from);
        let has_loopback = from.is_loopback() || ip.to.is_loopback();
        (takes_loopback || !has_loopback) && (takes_local || !is_own())
    }

    /// Shows a packet that `make` makes, if somebody looks.
    pub(crate) fn show_if_watched(&self, make: impl FnOnce() -> Frame) {
        if self.is_watched() {
            self.show(&make(), None);
        }
    }
}

/// Sends a packet that a program made.
pub(crate) fn send(net: &Arc<Namespace>, frame: &Frame, sender: Option<&PacketSocket>) {
    let inet = &net.inet;
    let ip = frame.ip_header();
    match &ip {
        Some(ip) => inet.count(ip.to, 1, (frame.bytes.len() - frame.transport) as u64),
        None => inet.device.count(frame.bytes.len() as u64),
    }
    inet.show(frame, sender);
    let Some(ip) = ip.filter(|ip| frame.kind() == Kind::Host && inet.device.is_local(ip.to)) else { return };
    let data = frame.bytes.get(frame.transport..).unwrap_or(&[]);
    if sender.is_some() && !inet.is_input(&net.sysctl, &ip) {
        return;
    }
    match i32::from(ip.protocol) {
        ipproto::ICMP if ip.to.is_ipv4() => echo(net, &ip, data),
        ipproto::ICMPV6 if ip.to.is_ipv6() => echo(net, &ip, data),
        ipproto::UDP => receive_udp(net, &ip, data),
        _ => {}
    }
}

/// Answers an echo request.
fn echo(net: &Arc<Namespace>, ip: &Ip, data: &[u8]) {
    let v = usize::from(ip.to.is_ipv6());
    let sum = if v == 1 { transport_checksum(ip, data) } else { checksum(&[data]) };
    if data.len() < ECHO_HEADER || sum != 0 {
        return;
    }
    let counters = &net.inet.counters;
    let (echoes, replies) = match v {
        0 => (&counters.icmp_echoes, &counters.icmp_replies),
        _ => (&counters.icmp6_echoes, &counters.icmp6_replies),
    };
    if data[0] == REPLY[v] {
        replies.one();
    }
    if data[0] != ECHO[v] {
        return;
    }
    echoes.one();
    if v == 0 && net.sysctl.echo_ignore_all[0].is_on() {
        return;
    }
    let mut data = data.to_vec();
    data[0] = REPLY[v];
    let answer = Ip { from: ip.to, to: ip.from, ttl: 64, ..*ip };
    seal(&mut data, &answer);
    send(net, &Frame::ip(&answer, &data), None);
}

/// Sets an ICMP message's checksum.
pub(crate) fn seal(message: &mut [u8], ip: &Ip) {
    let Some(at) = message.get_mut(2..4) else { return };
    at.fill(0);
    let sum = if ip.to.is_ipv6() { transport_checksum(ip, message) } else { checksum(&[message]) };
    if let Some(at) = message.get_mut(2..4) {
        at.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Gives a datagram to the socket that it is for.
fn receive_udp(net: &Arc<Namespace>, ip: &Ip, data: &[u8]) {
    let Some((header, rest)) = data.split_first_chunk::<{ wire::UDP }>() else { return };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let Some(len) = usize::from(word(4)).checked_sub(wire::UDP).filter(|&len| len <= rest.len()) else {
        return;
    };
    let has_checksum = word(6) != 0;
    if !has_checksum && ip.to.is_ipv6()
        || has_checksum && transport_checksum(ip, &data[..wire::UDP + len]) != 0
    {
        return;
    }
    let (from, to) = ((ip.from, word(0)).into(), (ip.to, word(2)).into());
    udp::arrive(net, from, to, ip.ttl, ip.tos, &rest[..len]);
}

/// The ICMP message that nobody has the port a datagram was for.
pub(crate) fn port_unreachable(frame: &Frame, from: SocketAddr, to: SocketAddr) -> Frame {
    let quoted = frame.bytes.get(wire::LINK..).unwrap_or(&[]);
    let quoted = &quoted[..quoted.len().min(QUOTED)];
    let (protocol, head) = match to.ip() {
        IpAddr::V4(_) => (ipproto::ICMP, [3u8, 3]),
        IpAddr::V6(_) => (ipproto::ICMPV6, [1, 4]),
    };
    let ip = Ip { from: to.ip(), to: from.ip(), ttl: 64, tos: 0xc0, protocol: protocol as u8 };
    let mut message = [&head[..], &[0; 6], quoted].concat();
    seal(&mut message, &ip);
    Frame::ip(&ip, &message)
}
