//! AF_INET and AF_INET6 on the loopback, without packets.
//!
//! Reading order: this file (what the sockets share, routes), `address.rs`, `ports.rs`, `options.rs` (levels
//! `IPPROTO_IP` and `IPPROTO_IPV6`), `groups.rs` (multicast groups), `ancillary.rs` (control messages), `errors.rs` (error queues), `wire.rs` (packets as bytes), `packets.rs` (who looks at them), `tcp/`, `udp/`, `raw.rs`.

pub(crate) mod address;
pub(crate) mod ancillary;
pub(crate) mod errors;
pub(crate) mod groups;
pub(crate) mod options;
pub(crate) mod packets;
pub(crate) mod ports;
pub mod raw;
pub mod tcp;
pub mod udp;
pub(crate) mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENETUNREACH, ENOTCONN};
use abi::socket::{af, ipproto};
use base::cred::cap;
use base::lock::{Lock, rank};

use crate::counters::Counters;
use crate::device::Device;
use crate::options::int;
use crate::report::{InetReport, Report};
use crate::socket::Caller;
use crate::{Common, Namespace};
use address::Given;
use options::{IpOptions, ip, ipv6};
use ports::Ports;

/// What AF_INET and AF_INET6 sockets of a namespace share.
#[derive(Debug)]
pub struct Inet {
    pub(crate) tcp: Arc<Ports<tcp::Backlog>>,
    pub(crate) udp: Arc<Ports<udp::UdpSocket>>,
    pub(crate) udplite: Arc<Ports<udp::UdpSocket>>,
    /// Who looks at packets.
    pub(crate) watchers: packets::Watchers,
    /// Held while an echo socket gets its identifier.
    pub(crate) identifying: Lock<(), { rank::SOCKET }>,
    /// Multicast groups that somebody joined.
    pub(crate) groups: udp::Groups,
    /// The loopback device.
    pub device: Device,
    /// What is counted.
    pub counters: Counters,
}

impl Default for Inet {
    fn default() -> Self {
        Self {
            tcp: Ports::new(),
            udp: Ports::new(),
            udplite: Ports::new(),
            watchers: packets::Watchers::default(),
            identifying: Lock::default(),
            groups: udp::Groups::default(),
            device: Device::new(),
            counters: Counters::default(),
        }
    }
}

impl Inet {
    /// Where a packet to `to` goes: the destination, with the unspecified address replaced, and the source address that
    /// it gets. Only own addresses have a route.
    ///
    /// # Errors
    /// `ENETUNREACH`.
    pub(crate) fn route(&self, to: Given) -> Result<(SocketAddr, IpAddr), Errno> {
        let ip = match to.addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let Some(source) = self.device.source_for(ip) else {
            match ip {
                IpAddr::V4(_) => self.counters.ip_no_routes.one(),
                IpAddr::V6(_) => self.counters.ip6_no_routes.one(),
            }
            return Err(ENETUNREACH);
        };
        Ok(((ip, to.addr.port()).into(), source))
    }

    /// Counts packets to `ip` with `data` bytes between them.
    pub(crate) fn count(&self, ip: IpAddr, packets: u64, data: u64) {
        /// Bytes before the data: headers of IP and of TCP with time stamps. Only statistics know of them.
        const HEADERS: u64 = 52;
        let c = &self.counters;
        let (of_packets, of_octets) = match ip {
            IpAddr::V4(_) => (&c.ip_packets, &c.ip_octets),
            IpAddr::V6(_) => (&c.ip6_packets, &c.ip6_octets),
        };
        of_packets.add(packets);
        of_octets.add(data + packets * HEADERS);
    }

    /// Packets and bytes that the device sent and received.
    pub fn traffic(&self) -> (u64, u64) {
        let c = &self.counters;
        let (others, other_bytes) = self.device.traffic();
        let packets = c.ip_packets.get() + c.ip6_packets.get();
        let octets = c.ip_octets.get() + c.ip6_octets.get();
        (packets + others, octets + packets * wire::LINK as u64 + other_bytes)
    }

    /// Connections that linger, as reports.
    pub(crate) fn report_lingering(&self, list: &mut Vec<Report>) {
        for ((local, remote), left_ms) in self.tcp.lingering() {
            let domain = if local.is_ipv4() { af::INET } else { af::INET6 };
            list.push(Report::Inet(InetReport {
                time_left: Some(left_ms),
                state: tcp::state::TIME_WAIT,
                is_hashed: true,
                ..InetReport::new(domain, ipproto::TCP, local, Some(remote))
            }));
        }
    }
}

/// Checks that an address to connect to says on which link it is, where it must.
pub(crate) fn check_scope(to: Given) -> Result<(), Errno> {
    match to.addr.ip() {
        IpAddr::V6(ip) if is_link_local(ip) && to.scope == 0 => Err(EINVAL),
        _ => Ok(()),
    }
}

/// `IPV6_ADDRFORM`: an IPv6 socket whose peer has an IPv4 address becomes an IPv4 socket.
///
/// Source: Linux 6.12 net/ipv6/ipv6_sockglue.c, `do_ipv6_setsockopt`.
pub(crate) fn become_ipv4(
    common: &Common,
    remote: Option<SocketAddr>,
    v6only: bool,
    value: &[u8],
) -> Result<(), Errno> {
    if int(value)? != i32::from(af::INET) {
        return Err(EINVAL);
    }
    let remote = remote.ok_or(ENOTCONN)?;
    if v6only || remote.is_ipv6() {
        return Err(EADDRNOTAVAIL);
    }
    common.set_domain(af::INET);
    Ok(())
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
    net: &Namespace,
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
    let is_free = options.has(ip::FREEBIND)
        || options.has(ip::TRANSPARENT)
        || options.has6(78)
        || net.sysctl.nonlocal_bind[0].is_on();
    let is_usable = match given.addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() => true,
        IpAddr::V6(ip) if is_link_local(ip) && given.scope == 0 => return Err(EINVAL),
        IpAddr::V6(ip) if ip.is_unspecified() || ip.is_multicast() => true,
        ip => net.inet.device.is_local(ip),
    };
    if !is_usable && !is_free {
        return Err(EADDRNOTAVAIL);
    }
    let port = given.addr.port();
    let first = net.sysctl.unprivileged_port[0].get();
    if port != 0 && i64::from(port) < first && !net.grants(caller.cred, cap::NET_BIND_SERVICE) {
        return Err(EACCES);
    }
    Ok(given)
}
