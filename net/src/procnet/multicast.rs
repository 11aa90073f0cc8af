//! Groups that the loopback device hears.
//!
//! Source: Linux 6.12 net/ipv4/igmp.c, `igmp_mc_seq_show`; net/ipv6/mcast.c, `igmp6_mc_seq_show`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Namespace;
use crate::device::{INDEX, NAME};
use crate::inet::udp::Joined;

/// The groups that somebody joined, and how often; the newest first.
fn joined(net: &Namespace) -> Vec<(IpAddr, usize)> {
    let mut list: Vec<_> = net.inet.groups.lock().iter().map(|(ip, joined)| (*ip, *joined)).collect();
    list.sort_by_key(|(_, joined)| std::cmp::Reverse(joined.order));
    let count = |joined: Joined| usize::try_from(joined.count).ok().filter(|&count| count > 0);
    list.into_iter().filter_map(|(ip, joined)| Some((ip, count(joined)?))).collect()
}

pub(super) fn igmp(net: &Namespace) -> String {
    /// All machines.
    const ALL: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
    let mut out = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n".to_owned();
    let mut list: Vec<(Ipv4Addr, usize)> = joined(net)
        .into_iter()
        .filter_map(|(ip, n)| if let IpAddr::V4(ip) = ip { Some((ip, n)) } else { None })
        .collect();
    if net.inet.device.settings().is_up() {
        list.push((ALL, 1));
    }
    if list.is_empty() {
        return out;
    }
    let _ = writeln!(out, "{INDEX}\t{NAME:<10}: {:5} {:>7}", list.len(), "V3");
    for (ip, users) in list {
        let _ = writeln!(out, "\t\t\t\t{:08X} {users:5} 0:{:08X}\t\t0", u32::from_ne_bytes(ip.octets()), 0);
    }
    out
}

pub(super) fn igmp6(net: &Namespace) -> String {
    /// `MAF_LAST_REPORTER`, `MAF_NOREPORT`.
    const LAST: u32 = 4;
    const SILENT: u32 = 8;
    let mut out = String::new();
    let mut line = |ip: Ipv6Addr, users: usize, flags: u32| {
        let _ = writeln!(out, "{INDEX:<4} {NAME:<15} {:032x} {users:5} {flags:08X} 0", ip.to_bits());
    };
    for (ip, users) in joined(net) {
        if let IpAddr::V6(ip) = ip {
            line(ip, users, LAST);
        }
    }
    let settings = net.inet.device.settings();
    if settings.is_up() && settings.addresses.iter().any(|a| a.ip.is_ipv6()) {
        line(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 1, LAST | SILENT);
        line(Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1), 1, SILENT);
    }
    out
}
