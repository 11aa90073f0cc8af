//! Options of levels `IPPROTO_IP` and `IPPROTO_IPV6` (ip(7), ipv6(7)).
//!
//! Source: Linux 6.12 net/ipv4/ip_sockglue.c, net/ipv6/ipv6_sockglue.c.

use std::net::{Ipv4Addr, Ipv6Addr};

use abi::Errno;
use abi::errno::{EADDRNOTAVAIL, EINVAL, ENODEV, ENOPROTOOPT, ENOTCONN, EPERM};
use abi::socket::{af, sock};
use base::cred::cap;

use super::groups::{Groups, Place, option};
use crate::options::int;
use crate::socket::Caller;
use crate::sysctl::Sysctl;

/// The one interface, `lo`.
pub(crate) const LOOPBACK_INDEX: i32 = 1;
/// Its maximum transmission unit.
pub(crate) const LOOPBACK_MTU: i32 = 65_536;

/// Options of level `IPPROTO_IP`.
pub(crate) mod ip {
    pub(crate) const TOS: i32 = 1;
    pub(crate) const TTL: i32 = 2;
    pub(crate) const HDRINCL: i32 = 3;
    pub(crate) const OPTIONS: i32 = 4;
    pub(crate) const PKTINFO: i32 = 8;
    pub(crate) const PKTOPTIONS: i32 = 9;
    pub(crate) const MTU_DISCOVER: i32 = 10;
    pub(crate) const RECVERR: i32 = 11;
    pub(crate) const RECVTTL: i32 = 12;
    pub(crate) const RECVTOS: i32 = 13;
    pub(crate) const MTU: i32 = 14;
    pub(crate) const FREEBIND: i32 = 15;
    pub(crate) const TRANSPARENT: i32 = 19;
    pub(crate) const RECVORIGDSTADDR: i32 = 20;
    pub(crate) const MINTTL: i32 = 21;
    pub(crate) const MULTICAST_IF: i32 = 32;
    pub(crate) const MULTICAST_TTL: i32 = 33;
    pub(crate) const MULTICAST_LOOP: i32 = 34;
    pub(crate) const ADD_MEMBERSHIP: i32 = 35;
    pub(crate) const DROP_MEMBERSHIP: i32 = 36;
    pub(crate) const RECVERR_RFC4884: i32 = 26;
    pub(crate) const MULTICAST_ALL: i32 = 49;
    pub(crate) const UNICAST_IF: i32 = 50;
    /// Options that are on or off.
    pub(crate) const SWITCHES: &[i32] = &[
        6,
        7,
        PKTINFO,
        RECVERR,
        RECVTTL,
        RECVTOS,
        FREEBIND,
        18,
        TRANSPARENT,
        RECVORIGDSTADDR,
        23,
        24,
        25,
        26,
        MULTICAST_LOOP,
        MULTICAST_ALL,
    ];
}

/// Options of level `IPPROTO_IPV6`.
pub(crate) mod ipv6 {
    pub(crate) const ADDRFORM: i32 = 1;
    pub(crate) const UNICAST_HOPS: i32 = 16;
    pub(crate) const MULTICAST_IF: i32 = 17;
    pub(crate) const MULTICAST_HOPS: i32 = 18;
    pub(crate) const MULTICAST_LOOP: i32 = 19;
    pub(crate) const JOIN_GROUP: i32 = 20;
    pub(crate) const LEAVE_GROUP: i32 = 21;
    pub(crate) const MTU_DISCOVER: i32 = 23;
    pub(crate) const MTU: i32 = 24;
    pub(crate) const RECVERR: i32 = 25;
    pub(crate) const V6ONLY: i32 = 26;
    pub(crate) const MULTICAST_ALL: i32 = 29;
    pub(crate) const RECVERR_RFC4884: i32 = 31;
    pub(crate) const RECVPKTINFO: i32 = 49;
    pub(crate) const PKTINFO: i32 = 50;
    pub(crate) const RECVHOPLIMIT: i32 = 51;
    pub(crate) const HOPLIMIT: i32 = 52;
    pub(crate) const RECVTCLASS: i32 = 66;
    pub(crate) const TCLASS: i32 = 67;
    pub(crate) const ADDR_PREFERENCES: i32 = 72;
    pub(crate) const MINHOPCOUNT: i32 = 73;
    pub(crate) const UNICAST_IF: i32 = 76;
    /// Those with a value that `set6` takes or refuses.
    const OTHERS: &[i32] = &[
        UNICAST_HOPS,
        MULTICAST_IF,
        MULTICAST_HOPS,
        MTU_DISCOVER,
        MTU,
        TCLASS,
        ADDR_PREFERENCES,
        MINHOPCOUNT,
        UNICAST_IF,
        64,
        65,
    ];

    pub(crate) fn is_known(name: i32) -> bool {
        name != 22 && (SWITCHES.contains(&name) || OTHERS.contains(&name))
    }

    /// Options that are on or off.
    pub(crate) const SWITCHES: &[i32] = &[
        2,
        3,
        4,
        5,
        8,
        11,
        MULTICAST_LOOP,
        22,
        RECVERR,
        V6ONLY,
        MULTICAST_ALL,
        30,
        31,
        33,
        RECVPKTINFO,
        RECVHOPLIMIT,
        53,
        56,
        58,
        60,
        62,
        RECVTCLASS,
        70,
        74,
        75,
        77,
        78,
    ];
}

/// What a socket's IP options are set to.
#[derive(Clone, Debug)]
pub(crate) struct IpOptions {
    /// Switches of `IPPROTO_IP`, by number.
    switches: u128,
    /// Switches of `IPPROTO_IPV6`, by number.
    switches6: u128,
    pub(crate) tos: u8,
    /// What `net.ipv4.ip_default_ttl` was.
    default_ttl: u8,
    /// `None` is the default.
    ttl: Option<u8>,
    mtu_discover: i32,
    min_ttl: i32,
    pub(crate) multicast_ttl: i32,
    pub(crate) multicast_if: i32,
    multicast_addr: Ipv4Addr,
    unicast_if: u32,
    pub(crate) hops: i32,
    pub(crate) multicast_hops: i32,
    pub(crate) multicast_if6: i32,
    mtu_discover6: i32,
    mtu6: i32,
    pub(crate) tclass: i32,
    preferences: i32,
    unicast_if6: u32,
    min_hops: i32,
    pub(crate) groups: Groups,
}

impl IpOptions {
    /// Those of a new socket.
    pub(crate) fn new(sysctl: &Sysctl) -> Self {
        let v6only = u128::from(sysctl.bindv6only[0].is_on()) << ipv6::V6ONLY;
        let default_ttl = sysctl.default_ttl[0].get() as u8;
        Self {
            default_ttl,
            switches: 1 << ip::MULTICAST_LOOP | 1 << ip::MULTICAST_ALL,
            switches6: 1 << ipv6::MULTICAST_LOOP | 1 << ipv6::MULTICAST_ALL | 1 << 70 | v6only,
            tos: 0,
            ttl: None,
            mtu_discover: 1,
            min_ttl: 0,
            multicast_ttl: 1,
            multicast_if: 0,
            multicast_addr: Ipv4Addr::UNSPECIFIED,
            unicast_if: 0,
            hops: -1,
            multicast_hops: 1,
            multicast_if6: 0,
            mtu_discover6: 1,
            mtu6: 0,
            tclass: 0,
            preferences: 0x500,
            unicast_if6: 0,
            min_hops: 0,
            groups: Groups::default(),
        }
    }
}

/// What options ask of their socket.
pub(crate) struct Facts {
    /// `SOCK_*`.
    pub(crate) kind: u32,
    pub(crate) is_bound: bool,
    pub(crate) is_connected: bool,
}

/// A value of `IPPROTO_IP`: an `int`, or a byte where it is shorter.
fn value_of(value: &[u8]) -> i32 {
    int(value).unwrap_or_else(|_| value.first().copied().unwrap_or(0).into())
}

/// `IP_UNICAST_IF`, `IPV6_UNICAST_IF`: an index in the network's byte order.
fn unicast_interface(value: &[u8]) -> Result<u32, Errno> {
    let index = int(value)?.cast_unsigned().swap_bytes();
    if index <= LOOPBACK_INDEX as u32 { Ok(index) } else { Err(EADDRNOTAVAIL) }
}

fn interface(index: i32) -> Result<i32, Errno> {
    match index {
        0 | LOOPBACK_INDEX => Ok(index),
        _ => Err(ENODEV),
    }
}

fn v4_at(value: &[u8], at: usize) -> Result<Ipv4Addr, Errno> {
    let bytes: [u8; 4] = value.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
    Ok(bytes.into())
}

impl IpOptions {
    /// Whether a switch of `IPPROTO_IP` is on.
    pub(crate) const fn has(&self, name: i32) -> bool {
        self.switches >> name & 1 == 1
    }

    /// The source address of packets to groups: unspecified, unless the program chose one.
    pub(crate) const fn multicast_source(&self) -> Ipv4Addr {
        self.multicast_addr
    }

    /// The time to live of packets to one machine.
    pub(crate) fn ttl(&self) -> u8 {
        self.ttl.unwrap_or(self.default_ttl)
    }

    /// Whether a switch of `IPPROTO_IPV6` is on.
    pub(crate) const fn has6(&self, name: i32) -> bool {
        self.switches6 >> name & 1 == 1
    }

    /// A socket was bound to `given`: with an IPv6 address of its own it serves nothing else.
    ///
    /// Source: Linux 6.12 net/ipv6/af_inet6.c, `__inet6_bind`.
    pub(crate) const fn bound_to(&mut self, given: &super::address::Given) {
        if given.addr.is_ipv6() && !given.addr.ip().is_unspecified() {
            self.switches6 |= 1 << ipv6::V6ONLY;
        }
    }

    /// Sets an option of `IPPROTO_IP`.
    pub(crate) fn set(
        &mut self,
        caller: &Caller<'_>,
        facts: &Facts,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        if let Some(result) = self.groups.set(af::INET, name, value) {
            return result;
        }
        let number = value_of(value);
        match name {
            ip::TRANSPARENT
                if number != 0 && !caller.cred.has(cap::NET_RAW) && !caller.cred.has(cap::NET_ADMIN) =>
            {
                return Err(EPERM);
            }
            ip::RECVERR | ip::MULTICAST_LOOP | ip::MULTICAST_ALL if value.is_empty() => return Err(EINVAL),
            ip::MULTICAST_ALL | ip::RECVERR_RFC4884 if !(0..=1).contains(&number) => return Err(EINVAL),
            name if ip::SWITCHES.contains(&name) => {
                self.switches = self.switches & !(1 << name) | u128::from(number != 0) << name;
            }
            // The low two bits of a stream are the congestion notification's.
            ip::TOS if facts.kind == sock::STREAM => self.tos = number as u8 & !3 | self.tos & 3,
            ip::TOS => self.tos = number as u8,
            ip::TTL if value.is_empty() => return Err(EINVAL),
            ip::TTL => match number {
                -1 => self.ttl = None,
                1..=255 => self.ttl = Some(number as u8),
                _ => return Err(EINVAL),
            },
            ip::OPTIONS if value.is_empty() => {}
            ip::MTU_DISCOVER if (0..=5).contains(&number) => self.mtu_discover = number,
            ip::MINTTL if (0..=255).contains(&number) => self.min_ttl = number,
            ip::MULTICAST_TTL if facts.kind == sock::STREAM => return Err(EINVAL),
            ip::MULTICAST_TTL if (-1..=255).contains(&number) => {
                self.multicast_ttl = if number == -1 { 1 } else { number };
            }
            ip::MULTICAST_IF => self.set_multicast_if(facts, value)?,
            ip::ADD_MEMBERSHIP | ip::DROP_MEMBERSHIP => {
                let group = v4_at(value, 0)?;
                let addr = v4_at(value, 4)?;
                let index = if value.len() >= 12 { int(&value[8..])? } else { 0 };
                let index = if index == 0 && addr.is_loopback() { LOOPBACK_INDEX } else { index };
                if name == ip::ADD_MEMBERSHIP {
                    self.groups.join(Place { group: group.into(), index })?;
                } else if index != LOOPBACK_INDEX {
                    return Err(ENODEV);
                } else {
                    self.groups.leave(group.into())?;
                }
            }
            option::ADD_SOURCE_V4
            | option::DROP_SOURCE_V4
            | option::BLOCK_SOURCE_V4
            | option::UNBLOCK_SOURCE_V4 => self.groups.set_source_v4(name, value)?,
            option::FILTER_V4 => self.groups.set_filter_v4(value)?,
            ip::UNICAST_IF => self.unicast_if = unicast_interface(value)?,
            ip::MTU_DISCOVER | ip::MINTTL | ip::MULTICAST_TTL | ip::OPTIONS => return Err(EINVAL),
            _ => return Err(ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_multicast_if(&mut self, facts: &Facts, value: &[u8]) -> Result<(), Errno> {
        if facts.kind == sock::STREAM {
            return Err(EINVAL);
        }
        let (addr, index) = match value.len() {
            12.. => (v4_at(value, 4)?, int(&value[8..])?),
            8.. => (v4_at(value, 4)?, 0),
            4.. => (v4_at(value, 0)?, 0),
            _ => return Err(EINVAL),
        };
        self.multicast_if = if index != 0 { interface(index)? } else { find_interface(addr)? };
        self.multicast_addr = addr;
        Ok(())
    }

    /// An option of `IPPROTO_IP`.
    pub(crate) fn get(&self, facts: &Facts, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        let number = match name {
            name if ip::SWITCHES.contains(&name) => self.has(name).into(),
            ip::TOS => self.tos.into(),
            ip::TTL => self.ttl().into(),
            ip::HDRINCL | 5 | 22 => 0,
            ip::OPTIONS => return Ok(Vec::new()),
            ip::PKTOPTIONS if facts.kind == sock::STREAM => return Ok(Vec::new()),
            ip::MTU_DISCOVER => self.mtu_discover,
            // An IPv4 packet is no longer.
            ip::MTU if facts.is_connected => 65_535,
            ip::MTU => return Err(ENOTCONN),
            ip::MINTTL => self.min_ttl,
            ip::MULTICAST_TTL => self.multicast_ttl,
            ip::MULTICAST_IF => return Ok(self.multicast_addr.octets().to_vec()),
            ip::UNICAST_IF => (self.unicast_if.swap_bytes()).cast_signed(),
            option::FILTER_V4 => return self.groups.filter_of_v4(given),
            option::FILTER => return self.groups.filter_of(af::INET, given),
            _ => return Err(ENOPROTOOPT),
        };
        // A buffer too short for an int gets a byte.
        if (1..4).contains(&given.len()) && (0..=255).contains(&number) {
            return Ok(vec![number as u8]);
        }
        Ok(number.to_le_bytes().to_vec())
    }

    /// `IPV6_ADDR_PREFERENCES` (RFC 5014): of each group of choices at most one is named; others stay.
    ///
    /// Source: Linux 6.12 include/net/ipv6.h, `ip6_sock_set_addr_preferences`.
    fn prefer(&mut self, number: i32) -> Result<(), Errno> {
        let mut kept = !0;
        for group in [0x0103, 0x0404, 0x0808] {
            match number & group {
                0 => {}
                n if n.count_ones() == 1 => kept &= !group,
                _ => return Err(EINVAL),
            }
        }
        self.preferences = self.preferences & kept | number & 0x0f0f;
        Ok(())
    }

    /// Sets an option of `IPPROTO_IPV6`.
    pub(crate) fn set6(
        &mut self,
        _caller: &Caller<'_>,
        facts: &Facts,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        if let Some(result) = self.groups.set(af::INET6, name, value) {
            return result;
        }
        match name {
            ipv6::JOIN_GROUP | ipv6::LEAVE_GROUP => {
                let group: [u8; 16] = value.get(..16).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
                let index = int(value.get(16..).ok_or(EINVAL)?)?;
                let group = Ipv6Addr::from(group).into();
                let place = Place { group, index };
                let groups = &mut self.groups;
                return if name == ipv6::JOIN_GROUP { groups.join(place) } else { groups.leave(group) };
            }
            ipv6::PKTINFO => return Ok(()),
            _ => {}
        }
        if !ipv6::is_known(name) {
            return Err(if name == 22 && value.len() < 4 { EINVAL } else { ENOPROTOOPT });
        }
        // Some take a byte too.
        let number = if matches!(name, 62 | 70 | 77) { value_of(value) } else { int(value)? };
        match name {
            ipv6::V6ONLY if facts.is_bound => return Err(EINVAL),
            ipv6::MULTICAST_LOOP | ipv6::RECVERR_RFC4884 if !(0..=1).contains(&number) => return Err(EINVAL),
            name if ipv6::SWITCHES.contains(&name) => {
                self.switches6 = self.switches6 & !(1 << name) | u128::from(number != 0) << name;
            }
            ipv6::UNICAST_HOPS if (-1..=255).contains(&number) => self.hops = number,
            ipv6::MULTICAST_HOPS if facts.kind == sock::STREAM => return Err(ENOPROTOOPT),
            ipv6::MULTICAST_HOPS if (-1..=255).contains(&number) => {
                self.multicast_hops = if number == -1 { 1 } else { number };
            }
            ipv6::MULTICAST_IF if facts.kind == sock::STREAM => return Err(ENOPROTOOPT),
            ipv6::MULTICAST_IF => self.multicast_if6 = interface(number)?,
            ipv6::MTU_DISCOVER if (0..=5).contains(&number) => self.mtu_discover6 = number,
            ipv6::MTU if number == 0 || number >= 1280 => self.mtu6 = number,
            ipv6::TCLASS if (-1..=255).contains(&number) => self.tclass = number.max(0),
            ipv6::ADDR_PREFERENCES => self.prefer(number)?,
            ipv6::UNICAST_IF => self.unicast_if6 = unicast_interface(value)?,
            ipv6::MINHOPCOUNT if (0..=255).contains(&number) => self.min_hops = number,
            64 | 65 | ipv6::MINHOPCOUNT => return Err(EINVAL),
            ipv6::UNICAST_HOPS | ipv6::MULTICAST_HOPS | ipv6::MTU_DISCOVER | ipv6::MTU | ipv6::TCLASS => {
                return Err(EINVAL);
            }
            _ => return Err(ENOPROTOOPT),
        }
        Ok(())
    }

    /// An option of `IPPROTO_IPV6`.
    pub(crate) fn get6(&self, facts: &Facts, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        let number = match name {
            name if ipv6::SWITCHES.contains(&name) => self.has6(name).into(),
            ipv6::UNICAST_HOPS if self.hops < 0 => 64,
            ipv6::UNICAST_HOPS => self.hops,
            ipv6::MULTICAST_HOPS => self.multicast_hops,
            ipv6::MULTICAST_IF => self.multicast_if6,
            ipv6::MTU_DISCOVER => self.mtu_discover6,
            ipv6::MTU if facts.is_connected => LOOPBACK_MTU,
            ipv6::MTU => return Err(ENOTCONN),
            ipv6::TCLASS => self.tclass,
            ipv6::ADDR_PREFERENCES => self.preferences,
            ipv6::UNICAST_IF => (self.unicast_if6.swap_bytes()).cast_signed(),
            ipv6::MINHOPCOUNT => self.min_hops,
            ipv6::ADDRFORM if !facts.is_connected => return Err(ENOTCONN),
            ipv6::ADDRFORM => af::INET6.into(),
            // Headers that no packet is sent with.
            54 | 55 | 57 | 59 => return Ok(Vec::new()),
            80 if facts.kind != sock::STREAM => return Err(ENOPROTOOPT),
            option::FILTER => return self.groups.filter_of(af::INET6, given),
            32 | 61 | 64 | 65 | 68 | 69 | 80 => return Err(EINVAL),
            _ => return Err(ENOPROTOOPT),
        };
        Ok(number.to_le_bytes().to_vec())
    }
}

/// The interface that has `addr`; 0 for none in particular.
fn find_interface(addr: Ipv4Addr) -> Result<i32, Errno> {
    if addr.is_unspecified() {
        return Ok(0);
    }
    if addr.is_loopback() { Ok(LOOPBACK_INDEX) } else { Err(EADDRNOTAVAIL) }
}
