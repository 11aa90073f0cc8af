//! Packets as bytes. Sockets of a sandbox hand each other data without any; they are made where a program looks at them:
//! raw sockets, socket filters, packet sockets, error queues.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use abi::socket::ipproto;
use base::bpf;
use host::clock::HostClock;

use super::options::LOOPBACK_INDEX;
use crate::device::TYPE;
use crate::packet::Kind;

/// Size of a link-layer header (Ethernet, with addresses of zeros on the loopback).
pub(crate) const LINK: usize = 14;
/// Sizes of the headers of IPv4 and IPv6 without options.
pub(crate) const IP4: usize = 20;
pub(crate) const IP6: usize = 40;
/// Size of the header of UDP.
pub(crate) const UDP: usize = 8;
/// Size of the header of TCP without options, and with a time stamp, as all segments on the loopback have that follow the
/// first two.
pub(crate) const TCP: usize = 20;
pub(crate) const TCP_STAMPED: usize = TCP + 12;
/// `ETH_P_IP`, `ETH_P_IPV6`.
pub(crate) const ETH_IP: u16 = 0x800;
pub(crate) const ETH_IPV6: u16 = 0x86dd;

/// What the header of IPv4 or IPv6 says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// `IPPROTO_*`.
    pub(crate) protocol: u8,
}

/// What the header of a TCP segment says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    /// `FIN` 1, `SYN` 2, `RST` 4, `PSH` 8, `ACK` 16, `URG` 32.
    pub(crate) flags: u8,
    pub(crate) window: u16,
}

impl Segment {
    /// The first of a connection.
    pub(crate) const SYN: Self = Self { sequence: 0, acknowledged: 0, flags: 2, window: 65_495 };
}

impl Segment {
    /// The options that the loopback's segments have: the first of each side the size of segments, selective
    /// acknowledgements and the window's scale, and all but answers to nobody a time stamp.
    fn options(&self) -> Vec<u8> {
        const SYN: u8 = 2;
        const RST: u8 = 4;
        if self.flags & RST != 0 {
            return Vec::new();
        }
        let now = (host::clock::now_ns(HostClock::Monotonic) / 1_000_000) as u32;
        let echoed = if self.acknowledged == 0 { 0 } else { now };
        let times = [now.to_be_bytes(), echoed.to_be_bytes()].concat();
        if self.flags & SYN == 0 {
            return [&[1, 1, 8, 10], &times[..]].concat();
        }
        [&[2, 4, 0xff, 0xd7, 4, 2, 8, 10], &times[..], &[1, 3, 3, 7]].concat()
    }
}

/// A packet with its link-layer header.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// `ETH_P_*`.
    pub(crate) protocol: u16,
    /// Where the transport header and the payload begin.
    pub(crate) transport: usize,
    pub(crate) payload: usize,
}

/// The sum of the internet protocols (RFC 1071) over `parts`, each of even length but the last, not folded.
fn sum(parts: &[&[u8]]) -> u64 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

/// The checksum over `parts`, each of even length but the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = sum(parts);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a transport header and what follows, with the pseudo header of `ip`.
pub(crate) fn transport_checksum(ip: &Ip, data: &[u8]) -> u16 {
    let len = (data.len() as u32).to_be_bytes();
    let protocol = [0, 0, 0, ip.protocol];
    match (ip.from, ip.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            checksum(&[&from.octets(), &to.octets(), &len, &protocol, data])
        }
        (from, to) => checksum(&[&octets6(from), &octets6(to), &len, &protocol, data]),
    }
}

fn octets6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Ip {
    /// The header, before `len` bytes.
    pub(crate) fn header(&self, len: usize) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from, self.to) else {
            let mut out = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
            out.extend_from_slice(&(len as u16).to_be_bytes());
            out.extend_from_slice(&[self.protocol, self.ttl]);
            out.extend_from_slice(&octets6(self.from));
            out.extend_from_slice(&octets6(self.to));
            return out;
        };
        let mut out = vec![0x45, self.tos];
        out.extend_from_slice(&((IP4 + len) as u16).to_be_bytes());
        // No number, for it is never cut: "don't fragment".
        out.extend_from_slice(&[0, 0, 0x40, 0, self.ttl, self.protocol, 0, 0]);
        out.extend_from_slice(&from.octets());
        out.extend_from_slice(&to.octets());
        let sum = checksum(&[&out]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

impl Frame {
    /// A packet of any protocol; `data` begins with the transport header.
    pub(crate) fn ip(ip: &Ip, data: &[u8]) -> Self {
        let protocol = if ip.to.is_ipv4() { ETH_IP } else { ETH_IPV6 };
        let header = ip.header(data.len());
        let mut bytes = Vec::with_capacity(LINK + header.len() + data.len());
        bytes.resize(LINK - 2, 0);
        bytes.extend_from_slice(&protocol.to_be_bytes());
        bytes.extend_from_slice(&header);
        let transport = bytes.len();
        bytes.extend_from_slice(data);
        let own = match i32::from(ip.protocol) {
            ipproto::UDP | ipproto::UDPLITE | ipproto::ICMP | ipproto::ICMPV6 => UDP,
            ipproto::TCP => data.get(12).map_or(TCP, |size| usize::from(size >> 4) * 4),
            _ => 0,
        };
        let payload = (transport + own).min(bytes.len());
        Self { bytes, protocol, transport, payload }
    }

    /// A packet whose IPv4 header is the program's, in which the kernel sets lengths and checksum, and what is missing.
    ///
    /// Source: Linux 6.12 net/ipv4/raw.c, `raw_send_hdrinc`.
    ///
    /// A header of IPv6 stays as it is (net/ipv6/raw.c, `rawv6_send_hdrinc`).
    pub(crate) fn with_header(packet: &[u8], from: IpAddr) -> Option<Self> {
        if from.is_ipv6() {
            let mut bytes = vec![0; LINK - 2];
            bytes.extend_from_slice(&ETH_IPV6.to_be_bytes());
            bytes.extend_from_slice(packet);
            return (packet.len() >= IP6).then(|| Self::of_device(bytes, ETH_IPV6));
        }
        let size = usize::from(packet.first()? & 15) * 4;
        if size < IP4 || packet.len() < size {
            return None;
        }
        let mut bytes = vec![0; LINK - 2];
        bytes.extend_from_slice(&ETH_IP.to_be_bytes());
        bytes.extend_from_slice(packet);
        let header = &mut bytes[LINK..LINK + size];
        header[2..4].copy_from_slice(&(packet.len() as u16).to_be_bytes());
        if header[12..16] == [0; 4]
            && let IpAddr::V4(from) = from
        {
            header[12..16].copy_from_slice(&from.octets());
        }
        header[10..12].fill(0);
        let sum = checksum(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let transport = LINK + size;
        Some(Self { bytes, protocol: ETH_IP, transport, payload: transport })
    }

    /// What a program sends on the device, link-layer header first; `protocol` where that has no room for it.
    pub(crate) fn of_device(bytes: Vec<u8>, protocol: u16) -> Self {
        let mut frame = Self { transport: bytes.len(), payload: bytes.len(), bytes, protocol };
        let first = frame.bytes.get(LINK).copied().unwrap_or(0);
        let header = match protocol {
            ETH_IP => usize::from(first & 15) * 4,
            ETH_IPV6 => IP6,
            _ => return frame,
        };
        frame.transport = frame.transport.min(LINK + header);
        frame
    }

    /// For whom the device takes it, by its address.
    pub(crate) fn kind(&self) -> Kind {
        match self.bytes.get(..6) {
            Some([0, 0, 0, 0, 0, 0]) | None => Kind::Host,
            Some([255, 255, 255, 255, 255, 255]) => Kind::Broadcast,
            Some([first, ..]) if first & 1 == 1 => Kind::Multicast,
            Some(_) => Kind::OtherHost,
        }
    }

    /// What its IP header says, if it has a good one.
    pub(crate) fn ip_header(&self) -> Option<Ip> {
        let header = self.bytes.get(LINK..)?;
        match self.protocol {
            ETH_IP => {
                let h = header.first_chunk::<IP4>()?;
                let size = usize::from(h[0] & 15) * 4;
                let whole = usize::from(u16::from_be_bytes([h[2], h[3]]));
                let is_good = h[0] >> 4 == 4 && size >= IP4 && whole >= size && whole <= header.len();
                if !is_good || checksum(&[header.get(..size)?]) != 0 {
                    return None;
                }
                let at = |i: usize| IpAddr::from([h[i], h[i + 1], h[i + 2], h[i + 3]]);
                Some(Ip { from: at(12), to: at(16), ttl: h[8], tos: h[1], protocol: h[9] })
            }
            ETH_IPV6 => {
                let h = header.first_chunk::<IP6>()?;
                let address = |i: usize| h.get(i..i + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
                let tos = h[0] << 4 | h[1] >> 4;
                let (from, to) = (IpAddr::from(address(8)?), IpAddr::from(address(24)?));
                (h[0] >> 4 == 6).then_some(Ip { from, to, ttl: h[7], tos, protocol: h[6] })
            }
            _ => None,
        }
    }

    /// A datagram.
    pub(crate) fn udp(
        protocol: i32,
        from: SocketAddr,
        to: SocketAddr,
        ttl: u8,
        tos: u8,
        data: &[u8],
    ) -> Self {
        let ip = Ip { from: from.ip(), to: to.ip(), ttl, tos, protocol: protocol as u8 };
        let len = (UDP + data.len()) as u16;
        let mut out = Vec::with_capacity(UDP + data.len());
        for word in [from.port(), to.port(), len, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(data);
        let sum = match transport_checksum(&ip, &out) {
            // Nothing would mean that there is none.
            0 => 0xffff,
            sum => sum,
        };
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        Self::ip(&ip, &out)
    }

    /// A segment of TCP.
    pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, segment: &Segment, data: &[u8]) -> Self {
        let protocol = ipproto::TCP as u8;
        let ip = Ip { from: from.ip(), to: to.ip(), ttl: 64, tos: 0, protocol };
        let options = segment.options();
        let mut out = Vec::with_capacity(TCP + options.len() + data.len());
        out.extend_from_slice(&from.port().to_be_bytes());
        out.extend_from_slice(&to.port().to_be_bytes());
        out.extend_from_slice(&segment.sequence.to_be_bytes());
        out.extend_from_slice(&segment.acknowledged.to_be_bytes());
        out.extend_from_slice(&[((TCP + options.len()) as u8 / 4) << 4, segment.flags]);
        out.extend_from_slice(&segment.window.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&options);
        out.extend_from_slice(data);
        let sum = transport_checksum(&ip, &out);
        out[16..18].copy_from_slice(&sum.to_be_bytes());
        Self::ip(&ip, &out)
    }

    /// What a filter sees whose offsets begin at `data`.
    pub(crate) fn view(&self, data: usize) -> bpf::Packet<'_> {
        bpf::Packet {
            bytes: &self.bytes,
            data,
            network: LINK,
            link: Some(0),
            payload: Some(self.payload),
            protocol: self.protocol,
            kind: 0,
            device: Some((LOOPBACK_INDEX as u32, TYPE)),
            ..bpf::Packet::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_hold() {
        let frame =
            Frame::udp(17, "127.0.0.1:5".parse().unwrap(), "127.0.0.2:6".parse().unwrap(), 64, 0, b"abc");
        assert_eq!(checksum(&[&frame.bytes[LINK..LINK + IP4]]), 0);
        let ip = Ip {
            from: "127.0.0.1".parse().unwrap(),
            to: "127.0.0.2".parse().unwrap(),
            ttl: 64,
            tos: 0,
            protocol: 17,
        };
        assert_eq!(transport_checksum(&ip, &frame.bytes[frame.transport..]), 0);
        assert_eq!(frame.view(frame.transport).payload, Some(LINK + IP4 + UDP));
        let segment = Segment { sequence: 1, acknowledged: 2, flags: 16, window: 512 };
        let frame = Frame::tcp("[::1]:5".parse().unwrap(), "[::1]:6".parse().unwrap(), &segment, b"odd");
        let ip =
            Ip { from: "::1".parse().unwrap(), to: "::1".parse().unwrap(), ttl: 64, tos: 0, protocol: 6 };
        assert_eq!(transport_checksum(&ip, &frame.bytes[frame.transport..]), 0);
    }
}
