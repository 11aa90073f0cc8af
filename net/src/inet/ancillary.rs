//! Control messages of levels `IPPROTO_IP` and `IPPROTO_IPV6`: what a sender sets for one datagram, and what a receiver
//! is told of one.
//!
//! Source: Linux 6.12 net/ipv4/ip_sockglue.c, `ip_cmsg_send`, `ip_cmsg_recv_offset`; net/ipv6/datagram.c.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::Errno;
use abi::errno::{EINVAL, ENODEV, EPERM};
use abi::socket::{af, scm, so, sol};
use base::cred::cap;
use base::time::Time;

use super::address;
use super::options::{IpOptions, LOOPBACK_INDEX, ip, ipv6};
use crate::Common;
use crate::message::Control;
use crate::options::int;
use crate::socket::Caller;
use crate::stamps::flag;

/// What a sender sets for one datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    /// The source address (`IP_PKTINFO`).
    pub(crate) source: Option<IpAddr>,
    /// `IP_TTL`, `IPV6_HOPLIMIT`.
    pub(crate) ttl: Option<u8>,
    /// `IP_TOS`, `IPV6_TCLASS`.
    pub(crate) tos: Option<u8>,
    /// `UDP_SEGMENT`.
    pub(crate) segment: Option<u16>,
    /// Flags of `SO_TIMESTAMPING` about sending, in place of the socket's.
    pub(crate) stamps: Option<u32>,
}

/// `UDP_SEGMENT`, as a control message too.
const UDP_SEGMENT: i32 = 103;

/// The device that a sender asks for.
fn check_interface(index: i32) -> Result<(), Errno> {
    if matches!(index, 0 | LOOPBACK_INDEX) { Ok(()) } else { Err(ENODEV) }
}

impl Marks {
    /// Reads a sender's control messages.
    pub(crate) fn parse(
        common: &Common,
        caller: Option<&Caller<'_>>,
        controls: &[Control],
    ) -> Result<Self, Errno> {
        let domain = common.domain();
        let mut marks = Self::default();
        for control in controls {
            let data = &control.data[..];
            match (control.level, control.kind) {
                (sol::IP, ip::PKTINFO) => {
                    let source: [u8; 4] = data.get(4..8).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
                    let source = Ipv4Addr::from(source);
                    marks.source = (!source.is_unspecified()).then_some(source.into());
                    check_interface(int(data)?)?;
                }
                (sol::IP, ip::TTL) => match int(data)? {
                    ttl @ 1..=255 => marks.ttl = Some(ttl as u8),
                    _ => return Err(EINVAL),
                },
                (sol::IP, ip::TOS) => match (int(data), data) {
                    (Ok(tos @ 0..=255), _) => marks.tos = Some(tos as u8),
                    (Err(_), [tos, ..]) => marks.tos = Some(*tos),
                    _ => return Err(EINVAL),
                },
                (sol::IP, _) => return Err(EINVAL),
                (sol::IPV6, ipv6::PKTINFO) if domain == af::INET6 => {
                    let source: [u8; 16] = data.get(..16).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
                    let source = Ipv6Addr::from(source);
                    check_interface(int(data.get(16..).ok_or(EINVAL)?)?)?;
                    marks.source = match source.to_ipv4_mapped() {
                        Some(v4) => Some(v4.into()),
                        None if source.is_unspecified() => None,
                        None => Some(source.into()),
                    };
                }
                (sol::IPV6, ipv6::HOPLIMIT) if domain == af::INET6 => match int(data)? {
                    -1 => {}
                    hops @ 0..=255 => marks.ttl = Some(hops as u8),
                    _ => return Err(EINVAL),
                },
                (sol::IPV6, ipv6::TCLASS) if domain == af::INET6 => match int(data)? {
                    -1 => {}
                    class @ 0..=255 => marks.tos = Some(class as u8),
                    _ => return Err(EINVAL),
                },
                (sol::IPV6, _) if domain == af::INET6 => return Err(EINVAL),
                (sol::UDP, UDP_SEGMENT) => {
                    let size = data.first_chunk::<2>().filter(|_| data.len() == 2).ok_or(EINVAL)?;
                    marks.segment = Some(u16::from_le_bytes(*size));
                }
                (sol::UDP, _) => return Err(EINVAL),
                (sol::SOCKET, _) => marks.socket_control(common, caller, control)?,
                _ => {}
            }
        }
        Ok(marks)
    }

    /// Reads the control messages of level `SOL_SOCKET` alone, as for streams.
    pub(crate) fn of_socket(
        common: &Common,
        caller: Option<&Caller<'_>>,
        controls: &[Control],
    ) -> Result<Self, Errno> {
        let mut marks = Self::default();
        for control in controls.iter().filter(|c| c.level == sol::SOCKET) {
            marks.socket_control(common, caller, control)?;
        }
        Ok(marks)
    }

    /// Source: Linux 6.12 net/core/sock.c, `__sock_cmsg_send`.
    fn socket_control(
        &mut self,
        common: &Common,
        caller: Option<&Caller<'_>>,
        control: &Control,
    ) -> Result<(), Errno> {
        let has = |cap| caller.is_some_and(|c| common.net.grants(c.cred, cap));
        match control.kind {
            so::MARK if !has(cap::NET_RAW) && !has(cap::NET_ADMIN) => return Err(EPERM),
            so::MARK if control.data.len() == 4 => {}
            so::TIMESTAMPING if control.data.len() == 4 => {
                let flags = int(&control.data)?.cast_unsigned();
                if flags & !flag::RECORD != 0 {
                    return Err(EINVAL);
                }
                self.stamps = Some(flags);
            }
            // Nothing on the loopback waits for its time.
            so::TXTIME if common.stored.lock().txtime.is_some() && control.data.len() == 8 => {}
            // Those of AF_UNIX; nobody looks at them here.
            scm::RIGHTS | scm::CREDENTIALS => {}
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    /// The flags of `SO_TIMESTAMPING` that hold for a send.
    pub(crate) fn stamp_flags(&self, common: &Common) -> u32 {
        let flags = common.stamps.flags();
        self.stamps.map_or(flags, |own| flags & !flag::RECORD | own)
    }
}

/// What a receiver may ask of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) time: Option<Time>,
    /// Bytes of each of the datagrams that were put together; 0 when it is one.
    pub(crate) segment: u16,
}

impl IpOptions {
    /// What a receiver in `domain` is told.
    pub(crate) fn tell(&self, domain: u16, header: &Header) -> Vec<Control> {
        let mut list = Vec::new();
        if domain == af::INET6 {
            self.tell_v6(header, &mut list);
        }
        if let IpAddr::V4(to) = header.to.ip() {
            self.tell_v4(header, to, &mut list);
        }
        list
    }

    fn tell_v4(&self, header: &Header, to: Ipv4Addr, list: &mut Vec<Control>) {
        if self.has(ip::PKTINFO) {
            // The address that answers go out from is the destination, unless many have it.
            let own = if to.is_multicast() || to.is_broadcast() { Ipv4Addr::LOCALHOST } else { to };
            let data = [LOOPBACK_INDEX.to_le_bytes(), own.octets(), to.octets()].concat();
            list.push(Control::new(sol::IP, ip::PKTINFO, data));
        }
        if self.has(ip::RECVTTL) {
            list.push(Control::new(sol::IP, ip::TTL, i32::from(header.ttl).to_le_bytes()));
        }
        if self.has(ip::RECVTOS) {
            list.push(Control::new(sol::IP, ip::TOS, [header.tos]));
        }
        if self.has(ip::RECVORIGDSTADDR) {
            list.push(Control::new(sol::IP, ip::RECVORIGDSTADDR, address::to_bytes(af::INET, header.to)));
        }
    }

    fn tell_v6(&self, header: &Header, list: &mut Vec<Control>) {
        if self.has6(ipv6::RECVPKTINFO) {
            let to = match header.to.ip() {
                IpAddr::V4(to) => to.to_ipv6_mapped(),
                IpAddr::V6(to) => to,
            };
            let data = [&to.octets()[..], &LOOPBACK_INDEX.to_le_bytes()].concat();
            list.push(Control::new(sol::IPV6, ipv6::PKTINFO, data));
        }
        if header.to.is_ipv4() {
            return;
        }
        if self.has6(ipv6::RECVHOPLIMIT) {
            list.push(Control::new(sol::IPV6, ipv6::HOPLIMIT, i32::from(header.ttl).to_le_bytes()));
        }
        if self.has6(ipv6::RECVTCLASS) {
            list.push(Control::new(sol::IPV6, ipv6::TCLASS, i32::from(header.tos).to_le_bytes()));
        }
    }
}
