//! `NETLINK_ROUTE` (rtnetlink(7)): addresses, routes and rules; the device itself is in `link.rs`.
//!
//! Source: Linux 6.12 net/core/rtnetlink.c, `rtnetlink_rcv_msg`; net/ipv4/devinet.c, fib_frontend.c, route.c.

use std::net::{IpAddr, Ipv4Addr};

use abi::Errno;
use abi::errno::{EADDRNOTAVAIL, EINVAL, ENETUNREACH, ENODEV, EOPNOTSUPP, EPERM};
use abi::socket::af;

use super::dump::{Dump, Source};
use super::message::{Builder, Request, find, flag, u8_at, u32_at};
use super::{Answer, Asker, link, tell};
use crate::device::{Assigned, INDEX, NAME, SCOPE_HOST, Settings};
use crate::inet::address::Given;

/// Types of messages (`RTM_*`).
pub(super) mod rtm {
    pub(crate) const NEWLINK: u16 = 16;
    pub(crate) const DELLINK: u16 = 17;
    pub(crate) const GETLINK: u16 = 18;
    pub(crate) const SETLINK: u16 = 19;
    pub(crate) const NEWADDR: u16 = 20;
    pub(crate) const DELADDR: u16 = 21;
    pub(crate) const GETADDR: u16 = 22;
    pub(crate) const NEWROUTE: u16 = 24;
    pub(crate) const GETROUTE: u16 = 26;
    pub(crate) const GETNEIGH: u16 = 30;
    pub(crate) const NEWRULE: u16 = 32;
    pub(crate) const GETRULE: u16 = 34;
    pub(crate) const NEWQDISC: u16 = 36;
    pub(crate) const GETQDISC: u16 = 38;
    pub(crate) const NEWNETCONF: u16 = 80;
    pub(crate) const GETNETCONF: u16 = 82;
}

/// Groups (`RTNLGRP_*`).
pub(super) mod group {
    pub(crate) const LINK: u32 = 1;
    pub(crate) const IPV4_IFADDR: u32 = 5;
    pub(crate) const IPV6_IFADDR: u32 = 9;
}

/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;
/// Types of routes.
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;
/// Tables of routes.
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
const TABLE_DEFAULT: u8 = 253;
/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;
/// `IFA_F_PERMANENT`.
const PERMANENT: u8 = 0x80;

/// The bytes of an address.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The address of `family` that `bytes` are.
fn ip_of(family: u16, bytes: &[u8]) -> Result<IpAddr, Errno> {
    if family == af::INET {
        bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into()).ok_or(EINVAL)
    } else {
        bytes.first_chunk::<16>().map(|b| std::net::Ipv6Addr::from(*b).into()).ok_or(EINVAL)
    }
}

fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { af::INET as u8 } else { af::INET6 as u8 }
}

/// Answers a request.
pub(super) fn answer(asker: &Asker<'_>, request: &Request<'_>) -> Answer {
    /// `RTM_MAX`.
    const LAST: u16 = 123;
    if request.kind > LAST {
        return Answer::Result(Err(EOPNOTSUPP));
    }
    if request.body().is_empty() {
        return Answer::Result(Ok(()));
    }
    let is_get = request.kind & 3 == 2;
    if !is_get && !asker.is_admin {
        return Answer::Result(Err(EPERM));
    }
    if is_get && request.flags & flag::DUMP != 0 {
        return match dump(asker, request) {
            Some(list) => Answer::Dump(Dump::new(request.seq, asker.port, Source::Made(list))),
            None => Answer::Result(Err(EOPNOTSUPP)),
        };
    }
    match request.kind {
        rtm::GETLINK => link::get(asker, request).map_or_else(|e| Answer::Result(Err(e)), Answer::Message),
        rtm::NEWLINK | rtm::SETLINK => Answer::Result(link::set(asker, request)),
        rtm::DELLINK => Answer::Result(link::find(request).and(Err(EOPNOTSUPP))),
        rtm::NEWADDR | rtm::DELADDR => Answer::Result(change_address(asker, request)),
        rtm::GETROUTE => route_to(asker, request).map_or_else(|e| Answer::Result(Err(e)), Answer::Message),
        _ => Answer::Result(Err(EOPNOTSUPP)),
    }
}

fn dump(asker: &Asker<'_>, request: &Request<'_>) -> Option<Vec<Vec<u8>>> {
    let device = &asker.net.inet.device;
    let settings = device.settings();
    let family = u8_at(request.body(), 0);
    let wants = |ip: IpAddr| family == 0 || family == family_of(ip);
    let begin = |kind| Builder::new(kind, flag::MULTI, request.seq, asker.port);
    Some(match request.kind {
        rtm::GETLINK if family == 7 => Vec::new(),
        rtm::GETLINK if u16::from(family) == af::INET6 => {
            vec![link::message_v6(begin(rtm::NEWLINK), device)]
        }
        rtm::GETLINK => vec![link::message(begin(rtm::NEWLINK), asker.net)],
        rtm::GETADDR => {
            let index = u32_at(request.body(), 4);
            let is_other = index != 0 && index != INDEX as u32;
            let list = settings.addresses.iter().filter(|a| wants(a.ip) && !is_other);
            list.map(|a| address_message(begin(rtm::NEWADDR), a)).collect()
        }
        rtm::GETROUTE => {
            let table = u8_at(request.body(), 4);
            let routes = routes(&settings).into_iter().filter(|r| wants(r.to));
            // Linux dumps every table unless asked strictly for one.
            let _ = table;
            routes.map(|r| r.message(begin(rtm::NEWROUTE))).collect()
        }
        rtm::GETRULE => rules(family, begin),
        rtm::GETNEIGH => Vec::new(),
        rtm::GETQDISC => vec![qdisc(begin(rtm::NEWQDISC))],
        rtm::GETNETCONF => netconf(family, begin),
        _ => return None,
    })
}

fn address_message(mut out: Builder, a: &Assigned) -> Vec<u8> {
    out.put(&[family_of(a.ip), a.prefix, PERMANENT, a.scope]).put(&INDEX.to_ne_bytes());
    let bytes = octets(a.ip);
    out.attr(1, &bytes);
    if a.ip.is_ipv4() {
        out.attr(2, &bytes);
        if a.scope != SCOPE_HOST
            && let Some(broadcast) = a.broadcast()
        {
            out.attr(4, &broadcast.octets());
        }
        out.attr(3, &[NAME.as_bytes(), &[0]].concat());
    }
    let life = [u32::MAX, u32::MAX, a.since, a.since];
    let life: Vec<u8> = life.iter().flat_map(|w| w.to_ne_bytes()).collect();
    if a.ip.is_ipv4() {
        out.attr32(8, PERMANENT.into()).attr(6, &life);
    } else {
        out.attr(6, &life).attr32(8, PERMANENT.into());
        if a.is_kernels {
            // IFAPROT_KERNEL_LO
            out.attr(11, &[1]);
        }
    }
    out.finish()
}

/// `RTM_NEWADDR`, `RTM_DELADDR`.
fn change_address(asker: &Asker<'_>, request: &Request<'_>) -> Result<(), Errno> {
    let body = request.body();
    let family = u16::from(u8_at(body, 0));
    if body.len() < 8 || !matches!(family, af::INET | af::INET6) {
        return Err(if body.len() < 8 { EINVAL } else { EOPNOTSUPP });
    }
    let (prefix, scope, index) = (u8_at(body, 1), u8_at(body, 3), u32_at(body, 4));
    let attributes = request.attributes(8);
    let own = find(&attributes, 2).or(find(&attributes, 1)).ok_or(EINVAL)?;
    let ip = ip_of(family, own)?;
    if index != INDEX as u32 {
        return Err(ENODEV);
    }
    let device = &asker.net.inet.device;
    let kind = request.kind;
    if kind == rtm::NEWADDR {
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(EADDRNOTAVAIL);
        }
        device.add_address(ip, prefix, scope)?;
    }
    let assigned = device.settings().addresses.into_iter().find(|a| a.ip == ip);
    if kind == rtm::DELADDR {
        device.remove_address(ip, Some(prefix))?;
    }
    if let Some(assigned) = assigned {
        let data = address_message(Builder::new(kind, 0, request.seq, asker.port), &assigned);
        tell(asker.net, if ip.is_ipv4() { group::IPV4_IFADDR } else { group::IPV6_IFADDR }, &data);
    }
    Ok(())
}

/// A route that the device's addresses give.
#[derive(Debug)]
struct Route {
    to: IpAddr,
    prefix: u8,
    scope: u8,
    kind: u8,
    source: IpAddr,
}

/// The routes of the local table.
fn routes(settings: &Settings) -> Vec<Route> {
    let mut list: Vec<Route> = Vec::new();
    for a in &settings.addresses {
        let own = |to, prefix, scope, kind| Route { to, prefix, scope, kind, source: a.ip };
        match (a.network(), a.broadcast()) {
            (Some(network), broadcast) => {
                if a.prefix < 32 {
                    list.push(own(network.into(), a.prefix, SCOPE_HOST, LOCAL));
                }
                list.push(own(a.ip, 32, SCOPE_HOST, LOCAL));
                list.extend(broadcast.map(|b| own(b.into(), 32, SCOPE_LINK, BROADCAST)));
            }
            _ => list.push(own(a.ip, 128, 0, LOCAL)),
        }
    }
    list.sort_by_key(|r| (r.to, r.prefix));
    list.dedup_by_key(|r| (r.to, r.prefix));
    list
}

impl Route {
    fn message(&self, mut out: Builder) -> Vec<u8> {
        let family = family_of(self.to);
        out.put(&[family, self.prefix, 0, 0, TABLE_LOCAL, KERNEL, self.scope, self.kind]).put(&[0; 4]);
        out.attr32(15, TABLE_LOCAL.into()).attr(1, &octets(self.to));
        if self.to.is_ipv4() {
            out.attr(7, &octets(self.source)).attr32(4, INDEX as u32);
        } else {
            out.attr32(6, 0).attr32(4, INDEX as u32).attr(12, &[0; 32]).attr(20, &[0]);
        }
        out.finish()
    }
}

/// `RTM_GETROUTE` for one destination.
fn route_to(asker: &Asker<'_>, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    /// `RTCF_LOCAL | RTM_F_CLONED`.
    const FLAGS: u32 = 0x8000_0200;
    let family = u16::from(u8_at(request.body(), 0));
    if !matches!(family, af::INET | af::INET6) {
        return Err(EOPNOTSUPP);
    }
    let attributes = request.attributes(12);
    let to = match find(&attributes, 1) {
        Some(bytes) => ip_of(family, bytes)?,
        None => return Err(EINVAL),
    };
    let given = Given { addr: (to, 0).into(), is_mapped: false, scope: 0 };
    let (to, source) = asker.net.inet.route(given).map_err(|_| ENETUNREACH)?;
    let (to, len) = (to.ip(), octets(to.ip()).len() as u8 * 8);
    let mut out = Builder::new(rtm::NEWROUTE, 0, request.seq, asker.port);
    let (table, protocol) = if to.is_ipv4() { (TABLE_MAIN, 0) } else { (TABLE_LOCAL, KERNEL) };
    let flags = if to.is_ipv4() { FLAGS } else { FLAGS & 0xffff };
    out.put(&[family as u8, len, 0, 0, table, protocol, 0, LOCAL]).put(&flags.to_ne_bytes());
    out.attr32(15, table.into()).attr(1, &octets(to)).attr32(4, INDEX as u32).attr(7, &octets(source));
    if to.is_ipv4() {
        // The user on whose behalf: none in particular.
        out.attr32(25, 0);
    }
    out.attr(12, &[0; 32]);
    Ok(out.finish())
}

fn rules(family: u8, begin: impl Fn(u16) -> Builder) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    for (of, tables) in [
        (af::INET, &[(TABLE_LOCAL, 0u32), (TABLE_MAIN, 32_766), (TABLE_DEFAULT, 32_767)][..]),
        (af::INET6, &[(TABLE_LOCAL, 0), (TABLE_MAIN, 32_766)][..]),
    ] {
        for &(table, priority) in tables.iter().filter(|_| family == 0 || u16::from(family) == of) {
            let mut out = begin(rtm::NEWRULE);
            // FR_ACT_TO_TBL
            out.put(&[of as u8, 0, 0, 0, table, 0, 0, 1]).put(&[0; 4]);
            out.attr32(15, table.into()).attr32(14, u32::MAX).attr(21, &[KERNEL]);
            if priority != 0 {
                out.attr32(6, priority);
            }
            list.push(out.finish());
        }
    }
    list
}

fn qdisc(mut out: Builder) -> Vec<u8> {
    out.put(&[0; 4]).put(&INDEX.to_ne_bytes()).put(&[0; 4]).put(&u32::MAX.to_ne_bytes());
    out.put(&2u32.to_ne_bytes());
    out.attr(1, b"noqueue\0").attr(12, &[0]);
    out.finish()
}

/// Forwarding and its like, all off: of the device, of all, and of new ones.
fn netconf(family: u8, begin: impl Fn(u16) -> Builder) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    for (of, names) in [(af::INET, &[2u16, 3, 4, 8, 5, 6][..]), (af::INET6, &[2, 4, 5, 6][..])] {
        if family != 0 && u16::from(family) != of {
            continue;
        }
        for index in [INDEX, -1, -2] {
            let mut out = begin(rtm::NEWNETCONF);
            out.put(&[of as u8, 0, 0, 0]).attr32(1, index.cast_unsigned());
            for &name in names {
                out.attr32(name, 0);
            }
            list.push(out.finish());
        }
    }
    list
}
