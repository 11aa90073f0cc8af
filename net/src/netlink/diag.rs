//! `NETLINK_SOCK_DIAG` (sock_diag(7)): what `ss` shows.
//!
//! Source: Linux 6.12 net/core/sock_diag.c; net/ipv4/inet_diag.c, `inet_sk_diag_fill`; net/unix/diag.c.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::Errno;
use abi::errno::{EINVAL, ENOENT, EOPNOTSUPP, EPERM};
use abi::socket::{af, ipproto, sock};

use super::dump::{Dump, Source};
use super::filter::Filter;
use super::message::{Builder, Request, find, flag, u8_at, u16_at, u32_at};
use super::{Answer, Asker};
use crate::report::{InetReport, NetlinkReport, Report, UnixReport};
use crate::unix::Address;

/// `TCPDIAG_GETSOCK`, `DCCPDIAG_GETSOCK`, `SOCK_DIAG_BY_FAMILY`, `SOCK_DESTROY`.
const TCPDIAG: u16 = 18;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// A socket without a cookie (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: u32 = u32::MAX;

/// Answers a request.
pub(super) fn answer(asker: &Asker<'_>, request: &Request<'_>) -> Answer {
    let result = match request.kind {
        BY_FAMILY => by_family(asker, request),
        TCPDIAG => Err(EOPNOTSUPP),
        DESTROY if !asker.is_admin => Err(EPERM),
        DESTROY => Err(EOPNOTSUPP),
        _ => Err(EINVAL),
    };
    result.unwrap_or_else(|e| Answer::Result(Err(e)))
}

fn by_family(asker: &Asker<'_>, request: &Request<'_>) -> Result<Answer, Errno> {
    let body = request.body();
    if body.len() < 2 {
        return Err(EINVAL);
    }
    match u16::from(u8_at(body, 0)) {
        af::INET | af::INET6 => inet(asker, request),
        af::UNIX => unix(asker, request),
        af::NETLINK => netlink(asker, request),
        // There are no sockets of that family.
        af::PACKET if request.flags & flag::DUMP != 0 => Ok(dump(asker, request, |_| None)),
        _ => Err(ENOENT),
    }
}

fn dump(
    asker: &Asker<'_>,
    request: &Request<'_>,
    make: impl Fn(&Report) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Answer {
    Answer::Dump(Dump::new(request.seq, asker.port, Source::Sockets(Box::new(make))))
}

/// Cookies are inode numbers here: as unique, and as telling.
fn cookie(ino: u64) -> [u8; 8] {
    ino.to_ne_bytes()
}

/// An address as `struct inet_diag_sockid` holds it, for a socket of `domain`.
fn diag_ip(domain: u16, ip: IpAddr) -> [u8; 16] {
    match (domain, ip) {
        (af::INET, IpAddr::V4(ip)) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&ip.octets());
            out
        }
        (_, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => [0; 16],
        (_, IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        (_, IpAddr::V6(ip)) => ip.octets(),
    }
}

fn ip_of(family: u16, bytes: &[u8]) -> IpAddr {
    if family == af::INET {
        bytes.first_chunk::<4>().map_or(Ipv4Addr::UNSPECIFIED, |b| (*b).into()).into()
    } else {
        let ip = bytes.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |b| (*b).into());
        ip.to_ipv4_mapped().map_or(ip.into(), IpAddr::V4)
    }
}

/// What a request for sockets of AF_INET and AF_INET6 asks.
struct InetQuery {
    family: u16,
    protocol: i32,
    extensions: u8,
    states: u32,
    filter: Option<Filter>,
}

impl InetQuery {
    fn wants(&self, socket: &InetReport) -> bool {
        socket.is_hashed
            && socket.domain == self.family
            && socket.protocol == self.protocol
            && self.states >> socket.state & 1 == 1
            && self.filter.as_ref().is_none_or(|f| f.accepts(socket))
    }

    fn message(&self, mut out: Builder, s: &InetReport) -> Vec<u8> {
        /// The timer of `TIME_WAIT`.
        const TIMER_TIME_WAIT: u8 = 3;
        let timer = if s.time_left.is_some() { TIMER_TIME_WAIT } else { 0 };
        out.put(&[s.domain as u8, s.state, timer, 0]);
        out.put(&s.local.port().to_be_bytes()).put(&s.remote.port().to_be_bytes());
        out.put(&diag_ip(s.domain, s.local.ip())).put(&diag_ip(s.domain, s.remote.ip()));
        out.put(&[0; 4]).put(&cookie(s.ino));
        let words =
            [s.time_left.unwrap_or(0), s.receive_queue as u32, s.send_queue as u32, s.uid, s.ino as u32];
        words.iter().for_each(|w| {
            out.put(&w.to_ne_bytes());
        });
        if s.time_left.is_some() {
            return out.finish();
        }
        let asks = |extension: u16| self.extensions >> (extension - 1) & 1 == 1;
        out.attr(8, &[0]);
        if s.domain == af::INET6 && matches!(s.state, 7 | 10) {
            out.attr(11, &[s.v6only.into()]);
        }
        if asks(5) {
            out.attr(5, &[0]);
        }
        if s.mark != 0 {
            out.attr32(15, s.mark);
        }
        if asks(1) {
            let memory = [s.receive_queue as u32, 0, 0, s.send_queue as u32];
            out.attr(1, &memory.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>());
        }
        if asks(7) {
            let is_listening = s.state == 10;
            let queued = |n: usize| if is_listening { 0 } else { n as u32 };
            let memory = [
                queued(s.receive_queue),
                s.receive_buffer as u32,
                0,
                s.send_buffer as u32,
                0,
                queued(s.send_queue),
                0,
                0,
                s.drops as u32,
            ];
            out.attr(7, &memory.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>());
        }
        if asks(2) && !s.info.is_empty() {
            out.attr(2, &s.info);
        }
        if asks(4) && !s.congestion.is_empty() {
            out.attr(4, &[&s.congestion[..], &[0]].concat());
        }
        out.finish()
    }
}

fn inet(asker: &Asker<'_>, request: &Request<'_>) -> Result<Answer, Errno> {
    /// Size of `struct inet_diag_req_v2`.
    const FIXED: usize = 56;
    /// `INET_DIAG_REQ_BYTECODE`.
    const BYTECODE: u16 = 1;
    let body = request.body();
    if body.len() < FIXED {
        return Err(EINVAL);
    }
    let attributes = request.attributes(FIXED);
    let is_dump = request.flags & flag::DUMP != 0;
    let program = find(&attributes, BYTECODE).filter(|p| !p.is_empty() && is_dump);
    let query = InetQuery {
        family: u8_at(body, 0).into(),
        protocol: u8_at(body, 1).into(),
        extensions: u8_at(body, 2),
        states: u32_at(body, 4),
        filter: program.map(Filter::new).transpose()?,
    };
    // Other protocols' modules do not exist.
    if !matches!(query.protocol, ipproto::TCP | ipproto::UDP | ipproto::RAW) {
        return Err(ENOENT);
    }
    let (seq, port) = (request.seq, asker.port);
    if is_dump {
        return Ok(dump(asker, request, move |report| match report {
            Report::Inet(s) if query.wants(s) => {
                Some(query.message(Builder::new(BY_FAMILY, flag::MULTI, seq, port), s))
            }
            _ => None,
        }));
    }
    let be16 = |at| u16_at(body, at).swap_bytes();
    let at = |port, from: usize| -> SocketAddr {
        (ip_of(query.family, body.get(from..).unwrap_or(&[])), port).into()
    };
    let (local, remote) = (at(be16(8), 12), at(be16(10), 28));
    let wanted = (u32_at(body, 48), u32_at(body, 52));
    let is_it = |s: &InetReport| {
        let is_peer = s.remote == remote || s.remote.port() == 0;
        s.is_hashed && s.protocol == query.protocol && s.local == local && is_peer
    };
    let reports = asker.net.reports();
    let inets = || reports.iter().filter_map(|r| if let Report::Inet(s) = r { Some(s) } else { None });
    let exact = inets().filter(|s| is_it(s)).max_by_key(|s| s.remote == remote);
    let found = exact.ok_or(ENOENT)?;
    let cookie = (found.ino as u32, (found.ino >> 32) as u32);
    if wanted != (NO_COOKIE, NO_COOKIE) && wanted != cookie {
        return Err(abi::errno::ESTALE);
    }
    Ok(Answer::Message(query.message(Builder::new(BY_FAMILY, 0, seq, port), found)))
}

fn unix(asker: &Asker<'_>, request: &Request<'_>) -> Result<Answer, Errno> {
    /// Size of `struct unix_diag_req`.
    const FIXED: usize = 24;
    let body = request.body();
    if body.len() < FIXED {
        return Err(EINVAL);
    }
    let (states, ino, show) = (u32_at(body, 4), u32_at(body, 8), u32_at(body, 12));
    let (seq, port) = (request.seq, asker.port);
    if request.flags & flag::DUMP != 0 {
        return Ok(dump(asker, request, move |report| match report {
            Report::Unix(s) if states >> unix_state(s) & 1 == 1 => {
                Some(unix_message(Builder::new(BY_FAMILY, flag::MULTI, seq, port), s, show))
            }
            _ => None,
        }));
    }
    if ino == 0 {
        return Err(EINVAL);
    }
    let reports = asker.net.reports();
    let found = reports.iter().find_map(|r| match r {
        Report::Unix(s) if s.ino as u32 == ino => Some(s),
        _ => None,
    });
    let found = found.ok_or(ENOENT)?;
    Ok(Answer::Message(unix_message(Builder::new(BY_FAMILY, 0, seq, port), found, show)))
}

/// TCP's numbers, which AF_UNIX borrows.
fn unix_state(s: &UnixReport) -> u8 {
    match s {
        s if s.is_listening => 10,
        s if s.is_connected => 1,
        _ => 7,
    }
}

fn unix_message(mut out: Builder, s: &UnixReport, show: u32) -> Vec<u8> {
    let kind = if s.kind == sock::RAW { sock::DGRAM } else { s.kind };
    out.put(&[af::UNIX as u8, kind as u8, unix_state(s), 0]);
    out.put(&(s.ino as u32).to_ne_bytes()).put(&cookie(s.ino));
    match &s.name {
        Some(Address::Path(path)) if show & 1 != 0 => {
            out.attr(0, &[&path[..], &[0]].concat());
        }
        Some(Address::Abstract(name)) if show & 1 != 0 => {
            out.attr(0, &[&[0], &name[..]].concat());
        }
        _ => {}
    }
    if show & 2 != 0
        && let Some((dev, ino)) = s.place
    {
        out.attr(1, &[(ino as u32).to_ne_bytes(), (dev as u32).to_ne_bytes()].concat());
    }
    if show & 4 != 0
        && let Some(peer) = s.peer_ino
    {
        out.attr32(2, peer as u32);
    }
    if show & 8 != 0 && s.is_listening {
        out.attr(3, &s.waiting.iter().flat_map(|ino| (*ino as u32).to_ne_bytes()).collect::<Vec<u8>>());
    }
    if show & 0x10 != 0 {
        let lengths = [s.receive_queue as u32, s.send_queue as u32];
        out.attr(4, &lengths.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>());
    }
    out.attr(6, &[s.shutdown]);
    if show & 0x40 != 0 {
        out.attr32(7, s.uid);
    }
    out.finish()
}

fn netlink(asker: &Asker<'_>, request: &Request<'_>) -> Result<Answer, Errno> {
    /// Size of `struct netlink_diag_req`; `NDIAG_PROTO_ALL`, `NDIAG_SHOW_MEMINFO`, `NDIAG_SHOW_GROUPS`.
    const FIXED: usize = 20;
    const ALL: u8 = 255;
    const GROUPS: u32 = 2;
    let body = request.body();
    if body.len() < FIXED {
        return Err(EINVAL);
    }
    if request.flags & flag::DUMP == 0 {
        return Err(EOPNOTSUPP);
    }
    let (protocol, show) = (u8_at(body, 1), u32_at(body, 8));
    if protocol != ALL && i32::from(protocol) >= super::PROTOCOL_MAX {
        return Err(ENOENT);
    }
    let (seq, port) = (request.seq, asker.port);
    let make = move |s: &NetlinkReport| {
        let mut out = Builder::new(BY_FAMILY, flag::MULTI, seq, port);
        out.put(&[af::NETLINK as u8, sock::RAW as u8, s.protocol as u8, 0]);
        for word in [s.port, 0, 0, s.ino as u32] {
            out.put(&word.to_ne_bytes());
        }
        out.put(&cookie(s.ino));
        if show & GROUPS != 0 {
            out.attr32(1, s.groups);
        }
        out.finish()
    };
    Ok(dump(asker, request, move |report| match report {
        Report::Netlink(s) if protocol == ALL || s.protocol == i32::from(protocol) => Some(make(s)),
        _ => None,
    }))
}
