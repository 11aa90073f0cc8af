//! AF_INET and AF_INET6 on the loopback, without packets.
//!
//! Reading order: this file (what the sockets share, routes), `address.rs`, `ports.rs`, `options.rs` (levels
//! `IPPROTO_IP` and `IPPROTO_IPV6`), `ancillary.rs` (their control messages), `tcp/`, `udp.rs`.

pub(crate) mod address;
pub(crate) mod ancillary;
pub(crate) mod options;
pub(crate) mod ports;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::errno::{EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENETUNREACH};
use abi::socket::af;
use base::cred::cap;

use crate::socket::Caller;
use address::Given;
use options::{IpOptions, ip, ipv6};
use ports::Ports;

/// What AF_INET and AF_INET6 sockets of a namespace share.
#[derive(Debug)]
pub struct Inet {
    pub(crate) tcp: Arc<Ports<tcp::Backlog>>,
    pub(crate) udp: Arc<Ports<udp::UdpSocket>>,
    /// Multicast groups that somebody joined.
    pub(crate) groups: udp::Groups,
    /// `net.ipv4.ip_local_port_range`: first and last.
    pub port_range: Arc<(AtomicU32, AtomicU32)>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port: AtomicU32,
}

impl Default for Inet {
    fn default() -> Self {
        let port_range = Arc::new((AtomicU32::new(32_768), AtomicU32::new(60_999)));
        Self {
            tcp: Ports::new(port_range.clone()),
            udp: Ports::new(port_range.clone()),
            groups: udp::Groups::default(),
            port_range,
            unprivileged_port: AtomicU32::new(1024),
        }
    }
}

/// Where a packet to `to` goes: the destination, with the unspecified address replaced, and the source address that it
/// gets. Only the loopback has a route.
pub(crate) fn route(to: Given) -> Result<(SocketAddr, IpAddr), Errno> {
    let port = to.addr.port();
    match to.addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() || ip.is_loopback() => {
            let to = if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip };
            Ok(((to, port).into(), Ipv4Addr::LOCALHOST.into()))
        }
        IpAddr::V6(ip) if ip.is_unspecified() || ip.is_loopback() => {
            let localhost = Ipv6Addr::LOCALHOST;
            Ok(((localhost, port).into(), localhost.into()))
        }
        _ => Err(ENETUNREACH),
    }
}

/// Checks that an address to connect to says on which link it is, where it must.
pub(crate) fn check_scope(to: Given) -> Result<(), Errno> {
    match to.addr.ip() {
        IpAddr::V6(ip) if is_link_local(ip) && to.scope == 0 => Err(EINVAL),
        _ => Ok(()),
    }
}

/// Whether the address means something on one link only.
pub(crate) const fn is_link_local(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02 || first & 0xff0f == 0xff01
}

/// Checks an address to bind to.
///
/// Source: Linux 6.12 net/ipv4/af_inet.c, `__inet_bind`; net/ipv6/af_inet6.c, `__inet6_bind`.
pub(crate) fn check_bind(
    net: &Inet,
    caller: &Caller<'_>,
    domain: u16,
    options: &IpOptions,
    bytes: &[u8],
) -> Result<Given, Errno> {
    let given = match address::parse(domain, bytes) {
        // Old programs leave the family away for the unspecified address.
        Err(EAFNOSUPPORT) if domain == af::INET && address::family(bytes) == Ok(af::UNSPEC) => {
            let as_v4 = [&af::INET.to_le_bytes(), bytes.get(2..).unwrap_or(&[])].concat();
            let given = address::parse_any(&as_v4)?;
            if !given.addr.ip().is_unspecified() {
                return Err(EAFNOSUPPORT);
            }
            given
        }
        other => other?,
    };
    if given.is_mapped && options.has6(ipv6::V6ONLY) {
        return Err(EINVAL);
    }
    let is_free = options.has(ip::FREEBIND) || options.has(ip::TRANSPARENT) || options.has6(78);
    let is_usable = match given.addr.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) if is_link_local(ip) && given.scope == 0 => return Err(EINVAL),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback() || ip.is_multicast(),
    };
    if !is_usable && !is_free {
        return Err(EADDRNOTAVAIL);
    }
    let port = given.addr.port();
    let first = net.unprivileged_port.load(Ordering::Relaxed);
    if port != 0 && u32::from(port) < first && !caller.cred.has(cap::NET_BIND_SERVICE) {
        return Err(EACCES);
    }
    Ok(given)
}
