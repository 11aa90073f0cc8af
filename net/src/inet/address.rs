//! Addresses of AF_INET and AF_INET6 (ip(7), ipv6(7)).
//!
//! An IPv4 address that an AF_INET6 socket uses (`::ffff:a.b.c.d`) is an IPv4 address everywhere but at the border to
//! the program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use abi::Errno;
use abi::errno::{EAFNOSUPPORT, EINVAL};
use abi::socket::af;

/// Size of `struct sockaddr_in`.
const SIZE_V4: usize = 16;
/// Size of `struct sockaddr_in6`, and without the scope (RFC 2133).
const SIZE_V6: usize = 28;
const SIZE_V6_OLD: usize = 24;

/// The family at the start of an address.
///
/// # Errors
/// `EINVAL`: it is shorter than a family.
pub(crate) fn family(bytes: &[u8]) -> Result<u16, Errno> {
    bytes.first_chunk::<2>().map(|f| u16::from_le_bytes(*f)).ok_or(EINVAL)
}

/// An address that a program gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Address and port; IPv4 where the IPv6 address holds one.
    pub(crate) addr: SocketAddr,
    /// Whether the IPv6 address held it.
    pub(crate) is_mapped: bool,
    /// `sin6_scope_id`.
    pub(crate) scope: u32,
}

/// Takes a `struct sockaddr_in` or `struct sockaddr_in6` apart, as a socket of `domain` reads it.
///
/// # Errors
/// `EINVAL`: too short; `EAFNOSUPPORT`: another family.
pub(crate) fn parse(domain: u16, bytes: &[u8]) -> Result<Given, Errno> {
    let size = if domain == af::INET6 { SIZE_V6_OLD } else { SIZE_V4 };
    if bytes.len() < size {
        return Err(EINVAL);
    }
    if family(bytes)? != domain {
        return Err(EAFNOSUPPORT);
    }
    parse_any(bytes)
}

/// As `parse`, in whatever family the address is.
pub(crate) fn parse_any(bytes: &[u8]) -> Result<Given, Errno> {
    let port = u16::from_be_bytes([*bytes.get(2).ok_or(EINVAL)?, *bytes.get(3).ok_or(EINVAL)?]);
    if family(bytes)? == af::INET {
        let ip: [u8; 4] = bytes.get(4..8).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
        return Ok(Given { addr: (Ipv4Addr::from(ip), port).into(), is_mapped: false, scope: 0 });
    }
    let ip: [u8; 16] = bytes.get(8..24).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
    let scope = bytes.get(24..28).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let ip = Ipv6Addr::from(ip);
    Ok(match ip.to_ipv4_mapped() {
        Some(v4) => Given { addr: (v4, port).into(), is_mapped: true, scope },
        None => Given { addr: SocketAddrV6::new(ip, port, 0, scope).into(), is_mapped: false, scope },
    })
}

/// The address as a socket of `domain` shows it.
pub(crate) fn to_bytes(domain: u16, addr: SocketAddr) -> Vec<u8> {
    let port = addr.port().to_be_bytes();
    if domain == af::INET {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        return [&af::INET.to_le_bytes()[..], &port, &ip.octets(), &[0; 8]].concat();
    }
    let (ip, scope) = match addr {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    let mut out = Vec::with_capacity(SIZE_V6);
    out.extend_from_slice(&af::INET6.to_le_bytes());
    out.extend_from_slice(&port);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&scope.to_le_bytes());
    out
}

/// The address that stands for all of a family.
pub(crate) const fn any(domain: u16) -> IpAddr {
    if domain == af::INET6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

/// An address that a socket is bound to, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// The address; `::` of a socket that is not for IPv6 alone covers IPv4 too.
    pub(crate) ip: IpAddr,
    /// `IPV6_V6ONLY`.
    pub(crate) v6only: bool,
}

impl Local {
    const fn v4(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(ip) if ip.is_unspecified() && !self.v6only => Some(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => None,
        }
    }

    const fn v6(&self) -> Option<Ipv6Addr> {
        match self.ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        }
    }

    /// Whether some address is covered by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let v4 = match (self.v4(), other.v4()) {
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => false,
        };
        let v6 = match (self.v6(), other.v6()) {
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => false,
        };
        v4 || v6
    }

    /// How well it fits what is sent to `ip`: higher is closer; `None` when it does not.
    pub(crate) fn score(&self, ip: IpAddr) -> Option<u32> {
        match (self.ip, ip) {
            (a, b) if a == b => Some(2),
            (IpAddr::V4(a), IpAddr::V4(_)) if a.is_unspecified() => Some(1),
            (IpAddr::V6(a), IpAddr::V6(_)) if a.is_unspecified() => Some(1),
            (IpAddr::V6(a), IpAddr::V4(_)) if a.is_unspecified() && !self.v6only => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ip: &str, v6only: bool) -> Local {
        Local { ip: ip.parse().unwrap(), v6only }
    }

    #[test]
    fn dual_stack_covers_both() {
        let dual = local("::", false);
        assert!(dual.overlaps(&local("127.0.0.1", false)));
        assert!(dual.overlaps(&local("::1", true)));
        assert!(!local("::", true).overlaps(&local("0.0.0.0", false)));
        assert!(!local("127.0.0.1", false).overlaps(&local("127.0.0.2", false)));
        assert_eq!(dual.score("127.0.0.1".parse().unwrap()), Some(0));
        assert_eq!(local("0.0.0.0", false).score("::1".parse().unwrap()), None);
    }

    #[test]
    fn mapped_addresses_are_ipv4_inside() {
        let bytes = to_bytes(af::INET6, "127.0.0.1:80".parse().unwrap());
        let given = parse(af::INET6, &bytes).unwrap();
        assert_eq!((given.addr, given.is_mapped), ("127.0.0.1:80".parse().unwrap(), true));
        assert_eq!(parse(af::INET, &bytes), Err(EAFNOSUPPORT));
        assert_eq!(parse(af::INET6, &bytes[..23]), Err(EINVAL));
        assert_eq!(to_bytes(af::INET, "1.2.3.4:258".parse().unwrap())[..8], [2, 0, 1, 2, 1, 2, 3, 4]);
    }
}
