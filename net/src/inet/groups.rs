//! Multicast groups that a socket has joined, and from which sources it hears them.
//!
//! Source: ip(7), RFC 3678; Linux 6.12 net/ipv4/igmp.c, `ip_mc_join_group`, `ip_mc_source`, `ip_mc_msfilter`;
//! net/ipv6/mcast.c.

use std::net::{IpAddr, Ipv4Addr};

use abi::Errno;
use abi::errno::{EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV};
use abi::socket::af;

use super::address;
use super::options::LOOPBACK_INDEX;
use crate::options::int;

/// Most groups that one socket joins (`net.ipv4.igmp_max_memberships`).
const MEMBERSHIPS_MAX: usize = 20;
/// Most sources of one membership (`net.ipv4.igmp_max_msf`, `net.ipv6.mld_max_msf`).
const SOURCES_MAX_V4: usize = 10;
const SOURCES_MAX_V6: usize = 64;
/// Size of `struct sockaddr_storage`, and where it is in `struct group_req` and its like.
const STORAGE: usize = 128;
const STORAGE_AT: usize = 8;
/// `MCAST_EXCLUDE`, `MCAST_INCLUDE`.
const EXCLUDE: u32 = 0;
const INCLUDE: u32 = 1;

/// What both levels of options call alike.
pub(crate) mod option {
    pub(crate) const UNBLOCK_SOURCE_V4: i32 = 37;
    pub(crate) const BLOCK_SOURCE_V4: i32 = 38;
    pub(crate) const ADD_SOURCE_V4: i32 = 39;
    pub(crate) const DROP_SOURCE_V4: i32 = 40;
    pub(crate) const FILTER_V4: i32 = 41;
    pub(crate) const JOIN_GROUP: i32 = 42;
    pub(crate) const BLOCK_SOURCE: i32 = 43;
    pub(crate) const UNBLOCK_SOURCE: i32 = 44;
    pub(crate) const LEAVE_GROUP: i32 = 45;
    pub(crate) const JOIN_SOURCE: i32 = 46;
    pub(crate) const LEAVE_SOURCE: i32 = 47;
    pub(crate) const FILTER: i32 = 48;
}

/// A group that was joined.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    group: IpAddr,
    /// Hears the sources alone; else all but them.
    includes: bool,
    sources: Vec<IpAddr>,
    /// It has had a list of sources, which may be empty by now: that decides whether it can still be turned around.
    has_list: bool,
}

/// The groups of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups(Vec<Membership>);

/// Where a change is to be made, as a program gave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) group: IpAddr,
    /// The device's number, 0 where a route would have to lead to it.
    pub(crate) index: i32,
}

impl Place {
    fn check(&self) -> Result<(), Errno> {
        if !self.group.is_multicast() {
            return Err(EINVAL);
        }
        // No route leads to groups.
        if self.index == LOOPBACK_INDEX { Ok(()) } else { Err(ENODEV) }
    }
}

/// A `struct sockaddr_storage` of `domain`.
fn storage(domain: u16, value: &[u8], at: usize, other: Errno) -> Result<IpAddr, Errno> {
    let bytes = value.get(at..at + STORAGE).ok_or(EINVAL)?;
    if address::family(bytes)? != domain {
        return Err(other);
    }
    let given = address::parse_any(bytes)?;
    Ok(given.addr.ip())
}

fn v4_at(value: &[u8], at: usize) -> Result<Ipv4Addr, Errno> {
    let bytes: [u8; 4] = value.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
    Ok(bytes.into())
}

/// The device that has `addr`.
fn index_of(addr: Ipv4Addr) -> i32 {
    if addr.is_loopback() { LOOPBACK_INDEX } else { 0 }
}

fn u32_at(value: &[u8], at: usize) -> Result<u32, Errno> {
    int(value.get(at..).ok_or(EINVAL)?).map(i32::cast_unsigned)
}

impl Groups {
    /// The groups.
    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|m| m.group)
    }

    /// Whether `group` was joined.
    pub(crate) fn contains(&self, group: IpAddr) -> bool {
        self.0.iter().any(|m| m.group == group)
    }

    /// Leaves those of IPv6.
    pub(crate) fn leave_ipv6(&mut self) {
        self.0.retain(|m| m.group.is_ipv4());
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether what `from` sends to `group` is heard; `None` when the group was not joined.
    pub(crate) fn hears(&self, group: IpAddr, from: IpAddr) -> Option<bool> {
        let membership = self.0.iter().find(|m| m.group == group)?;
        Some(membership.sources.contains(&from) == membership.includes)
    }

    fn find(&mut self, group: IpAddr) -> Option<&mut Membership> {
        self.0.iter_mut().find(|m| m.group == group)
    }

    pub(crate) fn join(&mut self, place: Place) -> Result<(), Errno> {
        self.join_as(place, false)
    }

    fn join_as(&mut self, place: Place, includes: bool) -> Result<(), Errno> {
        place.check()?;
        if self.find(place.group).is_some() {
            return Err(EADDRINUSE);
        }
        if self.0.len() >= MEMBERSHIPS_MAX {
            return Err(ENOBUFS);
        }
        self.0.push(Membership { group: place.group, includes, sources: Vec::new(), has_list: false });
        Ok(())
    }

    pub(crate) fn leave(&mut self, group: IpAddr) -> Result<(), Errno> {
        let at = self.0.iter().position(|m| m.group == group).ok_or(EADDRNOTAVAIL)?;
        self.0.remove(at);
        Ok(())
    }

    /// Adds a source or takes it away, in a membership that includes or excludes.
    fn source(&mut self, place: Place, source: IpAddr, includes: bool, is_added: bool) -> Result<(), Errno> {
        place.check()?;
        let most = if place.group.is_ipv4() { SOURCES_MAX_V4 } else { SOURCES_MAX_V6 };
        let membership = self.find(place.group).ok_or(EINVAL)?;
        if membership.includes != includes {
            if membership.has_list {
                return Err(EINVAL);
            }
            membership.includes = includes;
        }
        let at = membership.sources.iter().position(|s| *s == source);
        match (is_added, at) {
            (false, None) => return Err(EADDRNOTAVAIL),
            // Nobody is heard any more.
            (false, Some(_)) if includes && membership.sources.len() == 1 => return self.leave(place.group),
            (false, Some(at)) => {
                membership.sources.remove(at);
            }
            (true, _) if membership.sources.len() >= most => return Err(ENOBUFS),
            (true, Some(_)) => return Err(EADDRNOTAVAIL),
            (true, None) => {
                membership.sources.push(source);
                membership.has_list = true;
            }
        }
        Ok(())
    }

    /// What an option about a source asks for.
    fn change_source(&mut self, name: i32, place: Place, source: IpAddr) -> Result<(), Errno> {
        match name {
            option::BLOCK_SOURCE | option::BLOCK_SOURCE_V4 => self.source(place, source, false, true),
            option::UNBLOCK_SOURCE | option::UNBLOCK_SOURCE_V4 => self.source(place, source, false, false),
            option::JOIN_SOURCE | option::ADD_SOURCE_V4 => {
                // A membership that there is gets one source more.
                match self.join_as(place, true) {
                    Err(EADDRINUSE) | Ok(()) => self.source(place, source, true, true),
                    other => other,
                }
            }
            _ => self.source(place, source, true, false),
        }
    }

    /// Replaces all sources of a group.
    fn filter(&mut self, place: Place, mode: u32, sources: Vec<IpAddr>) -> Result<(), Errno> {
        if !place.group.is_multicast() || !matches!(mode, INCLUDE | EXCLUDE) {
            return Err(EINVAL);
        }
        place.check()?;
        if mode == INCLUDE && sources.is_empty() {
            return self.leave(place.group);
        }
        let membership = self.find(place.group).ok_or(EINVAL)?;
        membership.includes = mode == INCLUDE;
        membership.has_list = !sources.is_empty();
        membership.sources = sources;
        Ok(())
    }

    /// Sets one of the options that both levels have, for addresses of `domain`; `None` when it is none of them.
    pub(crate) fn set(&mut self, domain: u16, name: i32, value: &[u8]) -> Option<Result<(), Errno>> {
        Some(match name {
            option::JOIN_GROUP | option::LEAVE_GROUP => self.set_group(domain, name, value),
            option::BLOCK_SOURCE | option::UNBLOCK_SOURCE | option::JOIN_SOURCE | option::LEAVE_SOURCE => {
                self.set_source(domain, name, value)
            }
            option::FILTER => self.set_filter(domain, value),
            _ => return None,
        })
    }

    /// `struct group_req`.
    fn set_group(&mut self, domain: u16, name: i32, value: &[u8]) -> Result<(), Errno> {
        let other = if domain == af::INET { EINVAL } else { EADDRNOTAVAIL };
        let place = Place { group: storage(domain, value, STORAGE_AT, other)?, index: int(value)? };
        if name == option::JOIN_GROUP {
            return self.join(place);
        }
        if place.index != 0 && domain == af::INET && place.index != LOOPBACK_INDEX {
            return Err(ENODEV);
        }
        self.leave(place.group)
    }

    /// `struct group_source_req`.
    fn set_source(&mut self, domain: u16, name: i32, value: &[u8]) -> Result<(), Errno> {
        if value.len() < STORAGE_AT + 2 * STORAGE {
            return Err(EINVAL);
        }
        let group = storage(domain, value, STORAGE_AT, EADDRNOTAVAIL)?;
        let source = storage(domain, value, STORAGE_AT + STORAGE, EADDRNOTAVAIL)?;
        self.change_source(name, Place { group, index: int(value)? }, source)
    }

    /// `struct group_filter`.
    fn set_filter(&mut self, domain: u16, value: &[u8]) -> Result<(), Errno> {
        const HEAD: usize = STORAGE_AT + STORAGE + 8;
        if value.len() < HEAD {
            return Err(EINVAL);
        }
        let count = u32_at(value, HEAD - 4)? as usize;
        let most = if domain == af::INET { SOURCES_MAX_V4 } else { SOURCES_MAX_V6 };
        if count > most {
            return Err(ENOBUFS);
        }
        if value.len() < HEAD + count * STORAGE {
            return Err(EINVAL);
        }
        let group = storage(domain, value, STORAGE_AT, EINVAL)?;
        let sources: Result<Vec<IpAddr>, Errno> =
            (0..count).map(|i| storage(domain, value, HEAD + i * STORAGE, EADDRNOTAVAIL)).collect();
        self.filter(Place { group, index: int(value)? }, u32_at(value, HEAD - 8)?, sources?)
    }

    /// `struct ip_mreq_source`.
    pub(crate) fn set_source_v4(&mut self, name: i32, value: &[u8]) -> Result<(), Errno> {
        const SIZE: usize = 12;
        if value.len() != SIZE {
            return Err(EINVAL);
        }
        let place = Place { group: v4_at(value, 0)?.into(), index: index_of(v4_at(value, 4)?) };
        self.change_source(name, place, v4_at(value, 8)?.into())
    }

    /// `struct ip_msfilter`.
    pub(crate) fn set_filter_v4(&mut self, value: &[u8]) -> Result<(), Errno> {
        const HEAD: usize = 16;
        if value.len() < HEAD {
            return Err(EINVAL);
        }
        let count = u32_at(value, 12)? as usize;
        if count > SOURCES_MAX_V4 {
            return Err(ENOBUFS);
        }
        if value.len() < HEAD + count * 4 {
            return Err(EINVAL);
        }
        let sources: Result<Vec<IpAddr>, Errno> =
            (0..count).map(|i| Ok(v4_at(value, HEAD + i * 4)?.into())).collect();
        let place = Place { group: v4_at(value, 0)?.into(), index: index_of(v4_at(value, 4)?) };
        self.filter(place, u32_at(value, 8)?, sources?)
    }
}

/// What programs ask of a group's sources.
impl Groups {
    /// Mode and sources of a group that was joined on device `index`.
    fn sources_of(&self, group: IpAddr, index: Option<i32>) -> Result<(u32, &[IpAddr]), Errno> {
        let joined = self.0.iter().find(|m| m.group == group).ok_or(EADDRNOTAVAIL)?;
        if index.is_some_and(|index| index != LOOPBACK_INDEX) {
            return Err(EADDRNOTAVAIL);
        }
        Ok((if joined.includes { INCLUDE } else { EXCLUDE }, &joined.sources))
    }

    /// `MCAST_MSFILTER`: a `struct group_filter`, of which `given` has the head and how many sources there is room for.
    pub(crate) fn filter_of(&self, domain: u16, given: &[u8]) -> Result<Vec<u8>, Errno> {
        const HEAD: usize = STORAGE_AT + STORAGE + 8;
        let head = given.get(..HEAD).ok_or(EINVAL)?;
        let other = if domain == af::INET { EINVAL } else { EADDRNOTAVAIL };
        let group = storage(domain, head, STORAGE_AT, other)?;
        if !group.is_multicast() {
            return Err(EINVAL);
        }
        let room = u32_at(head, HEAD - 4)? as usize;
        let (mode, sources) = self.sources_of(group, Some(int(head)?))?;
        let mut out = head.to_vec();
        out.truncate(HEAD - 8);
        out.extend_from_slice(&mode.to_ne_bytes());
        out.extend_from_slice(&(sources.len() as u32).to_ne_bytes());
        for source in sources.iter().take(room) {
            let end = out.len() + STORAGE;
            out.extend_from_slice(&address::to_bytes(domain, (*source, 0).into()));
            out.resize(end, 0);
        }
        Ok(out)
    }

    /// `IP_MSFILTER`: a `struct ip_msfilter`.
    pub(crate) fn filter_of_v4(&self, given: &[u8]) -> Result<Vec<u8>, Errno> {
        const HEAD: usize = 16;
        let head = given.get(..HEAD).ok_or(EINVAL)?;
        let group: IpAddr = v4_at(head, 0)?.into();
        if !group.is_multicast() {
            return Err(EINVAL);
        }
        if index_of(v4_at(head, 4)?) == 0 {
            return Err(ENODEV);
        }
        let room = u32_at(head, 12)? as usize;
        let (mode, sources) = self.sources_of(group, None)?;
        let mut out = head[..8].to_vec();
        out.extend_from_slice(&mode.to_ne_bytes());
        out.extend_from_slice(&(sources.len() as u32).to_ne_bytes());
        for source in sources.iter().take(room) {
            if let IpAddr::V4(source) = source {
                out.extend_from_slice(&source.octets());
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_decide_what_is_heard() {
        let mut groups = Groups::default();
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let place = Place { group: ip("239.1.1.1"), index: 1 };
        let (a, b) = (ip("127.0.0.1"), ip("127.0.0.2"));
        assert_eq!(groups.hears(place.group, a), None);
        assert_eq!(groups.change_source(option::BLOCK_SOURCE, place, a), Err(EINVAL));
        assert_eq!(groups.join(place), Ok(()));
        assert_eq!(groups.join(place), Err(EADDRINUSE));
        assert_eq!(groups.change_source(option::BLOCK_SOURCE, place, a), Ok(()));
        assert_eq!(groups.change_source(option::BLOCK_SOURCE, place, a), Err(EADDRNOTAVAIL));
        assert_eq!(groups.change_source(option::JOIN_SOURCE, place, b), Err(EINVAL));
        assert_eq!((groups.hears(place.group, a), groups.hears(place.group, b)), (Some(false), Some(true)));
        assert_eq!(groups.change_source(option::UNBLOCK_SOURCE, place, a), Ok(()));
        assert_eq!(groups.change_source(option::JOIN_SOURCE, place, b), Err(EINVAL));
        assert_eq!(groups.leave(place.group), Ok(()));
        assert_eq!(groups.change_source(option::JOIN_SOURCE, place, b), Ok(()));
        assert_eq!((groups.hears(place.group, a), groups.hears(place.group, b)), (Some(false), Some(true)));
        assert_eq!(groups.change_source(option::LEAVE_SOURCE, place, b), Ok(()));
        assert_eq!(groups.hears(place.group, b), None);
        assert_eq!(groups.set(af::INET, option::FILTER, &[0; 20]), Some(Err(EINVAL)));
    }
}
