//! The texts of `/proc/net` (proc(5)).
//!
//! Source of the layouts: Linux 6.12 net/ipv4/tcp_ipv4.c, udp.c, proc.c; net/ipv6; net/unix/af_unix.c.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::socket::{af, ipproto};

use crate::Namespace;
use crate::device::{INDEX, NAME};
use crate::report::{InetReport, NetlinkReport, Report, UnixReport};
use crate::unix::Address;

mod multicast;
mod statistics;

/// Makes a file's text.
pub type Make = fn(&Namespace) -> String;

/// The files, by name.
pub const FILES: &[(&str, Make)] = &[
    ("anycast6", |_| String::new()),
    ("arp", |_| {
        "IP address       HW type     Flags       HW address            Mask     Device\n".to_owned()
    }),
    ("dev", dev),
    // The loopback has no addresses of its own to listen to.
    ("dev_mcast", |_| String::new()),
    ("fib_trie", fib_trie),
    ("icmp", |net| v4_table(net, ipproto::ICMP)),
    ("icmp6", |net| v6_table(net, ipproto::ICMPV6)),
    ("if_inet6", if_inet6),
    ("igmp", multicast::igmp),
    ("igmp6", multicast::igmp6),
    ("ipv6_route", ipv6_route),
    ("netlink", netlink),
    ("netstat", statistics::netstat),
    ("packet", packet),
    ("ptype", ptype),
    ("raw", |net| v4_table(net, ipproto::RAW)),
    ("raw6", |net| v6_table(net, ipproto::RAW)),
    ("route", route),
    ("snmp", snmp),
    ("snmp6", statistics::snmp6),
    ("sockstat", sockstat),
    ("sockstat6", sockstat6),
    ("tcp", tcp),
    ("tcp6", tcp6),
    ("udp", |net| v4_table(net, ipproto::UDP)),
    ("udp6", |net| v6_table(net, ipproto::UDP)),
    ("udplite", |net| v4_table(net, ipproto::UDPLITE)),
    ("udplite6", |net| v6_table(net, ipproto::UDPLITE)),
    ("unix", unix),
];

/// A line of `seq_setwidth`: `width` columns and a newline.
fn padded(out: &mut String, line: &str, width: usize) {
    let _ = writeln!(out, "{line:<width$}");
}

fn v4_hex(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), addr.port())
}

fn v6_hex(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED,
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let words = ip.octets();
    let words = words.chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    let mut out: String = words.map(|w| format!("{w:08X}")).collect();
    let _ = write!(out, ":{:04X}", addr.port());
    out
}

/// The sockets of a family and protocol, those that listen first.
fn inets(net: &Namespace, domain: u16, protocol: i32) -> Vec<InetReport> {
    let is_it = |s: &InetReport| s.is_hashed && s.domain == domain && s.protocol == protocol;
    let mut list: Vec<InetReport> = net
        .reports()
        .into_iter()
        .filter_map(|r| if let Report::Inet(s) = r { Some(s) } else { None })
        .filter(is_it)
        .collect();
    list.sort_by_key(|s| s.state != LISTEN);
    list
}

const LISTEN: u8 = 10;

/// What follows the addresses in the tables of TCP.
fn tcp_rest(s: &InetReport) -> String {
    // The timer of TIME_WAIT is the third kind.
    let (timer, left, references) = match s.time_left {
        Some(ms) => (3, ms / 10, 3),
        None => (0, 0, 2 - i32::from(s.state == LISTEN)),
    };
    let send_queue = if s.state == LISTEN { 0 } else { s.send_queue };
    let head = format!(
        "{:02X} {send_queue:08X}:{:08X} {timer:02X}:{left:08X} {:08X} {:5} {:8} {} {references} {:016x}",
        s.state, s.receive_queue, 0, s.uid, 0, s.ino, 0,
    );
    match s.time_left {
        Some(_) => head,
        // Retransmission timeout, delayed acknowledgement, ping-pong, congestion window, slow start threshold.
        None if s.state == LISTEN => format!("{head} 100 0 0 10 0"),
        None => format!("{head} 20 4 30 10 -1"),
    }
}

fn tcp(net: &Namespace) -> String {
    const WIDTH: usize = 149;
    let mut out = String::new();
    let head =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    padded(&mut out, head, WIDTH);
    for (i, s) in inets(net, af::INET, ipproto::TCP).iter().enumerate() {
        let line = format!("{i:4}: {} {} {}", v4_hex(s.local), v4_hex(s.remote), tcp_rest(s));
        padded(&mut out, &line, WIDTH);
    }
    out
}

fn tcp6(net: &Namespace) -> String {
    let mut out = "  sl  local_address                         remote_address                        \
                   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        .to_owned();
    for (i, s) in inets(net, af::INET6, ipproto::TCP).iter().enumerate() {
        let _ = writeln!(out, "{i:4}: {} {} {}", v6_hex(s.local), v6_hex(s.remote), tcp_rest(s));
    }
    out
}

/// What follows the addresses in the tables of datagrams.
fn datagram_rest(s: &InetReport) -> String {
    format!(
        "{:02X} {:08X}:{:08X} 00:00000000 {:08X} {:5} {:8} {} 2 {:016x} {}",
        s.state, s.send_queue, s.receive_queue, 0, s.uid, 0, s.ino, 0, s.drops
    )
}

/// The table of an IPv4 protocol with datagrams.
fn v4_table(net: &Namespace, protocol: i32) -> String {
    const WIDTH: usize = 127;
    let mut out = String::new();
    let head = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode \
                ref pointer drops";
    // The table of raw sockets is a column narrower, and is not padded.
    if protocol == ipproto::RAW {
        let _ = writeln!(out, "{}", &head[1..]);
    } else {
        padded(&mut out, head, WIDTH);
    }
    for s in inets(net, af::INET, protocol) {
        let slot = s.local.port();
        let line = format!("{slot:5}: {} {} {}", v4_hex(s.local), v4_hex(s.remote), datagram_rest(&s));
        if protocol == ipproto::RAW {
            let _ = writeln!(out, "{}", &line[1..]);
        } else {
            padded(&mut out, &line, WIDTH);
        }
    }
    out
}

fn v6_table(net: &Namespace, protocol: i32) -> String {
    let mut out = "  sl  local_address                         remote_address                        \
                   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
        .to_owned();
    for s in inets(net, af::INET6, protocol) {
        let slot = s.local.port();
        let _ = writeln!(out, "{slot:5}: {} {} {}", v6_hex(s.local), v6_hex(s.remote), datagram_rest(&s));
    }
    out
}

fn unix(net: &Namespace) -> String {
    let mut out = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned();
    for report in net.reports() {
        let Report::Unix(s) = report else { continue };
        let _ = writeln!(out, "{}", unix_line(&s));
    }
    out
}

fn unix_line(s: &UnixReport) -> String {
    /// `__SO_ACCEPTCON`.
    const ACCEPTS: u32 = 0x1_0000;
    let flags = if s.is_listening { ACCEPTS } else { 0 };
    let state = if s.is_connected { 3 } else { 1 };
    let references = 2 + i32::from(s.is_connected);
    let mut line =
        format!("{:016x}: {references:08X} 00000000 {flags:08X} {:04X} {state:02X} {:5}", 0, s.kind, s.ino);
    match &s.name {
        Some(Address::Path(path)) => {
            let _ = write!(line, " {}", String::from_utf8_lossy(path));
        }
        Some(Address::Abstract(name)) => {
            // Zero bytes show as the first one does.
            let name: Vec<u8> = name.iter().map(|&b| if b == 0 { b'@' } else { b }).collect();
            let _ = write!(line, " @{}", String::from_utf8_lossy(&name));
        }
        Some(Address::Unnamed) | None => {}
    }
    line
}

fn netlink(net: &Namespace) -> String {
    let mut out =
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
            .to_owned();
    for report in net.reports() {
        let Report::Netlink(NetlinkReport { protocol, port, groups, receive_queue, drops, ino, is_dumping }) =
            report
        else {
            continue;
        };
        let _ = writeln!(
            out,
            "{:016x} {protocol:<3} {port:<10} {groups:08x} {receive_queue:<8} {:<8} {:<5} {:<8} {drops:<8} {ino:<8}",
            0,
            0,
            i32::from(is_dumping),
            2
        );
    }
    out
}

/// Source: Linux 6.12 net/packet/af_packet.c, `packet_seq_show`.
fn packet(net: &Namespace) -> String {
    let mut out = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_owned();
    for report in net.reports() {
        let Report::Packet(s) = report else { continue };
        let _ = writeln!(
            out,
            "{:016x} {:<6} {:<4} {:04x}   {:<5} {} {:<6} {:<6} {:<6}",
            0,
            3,
            s.kind,
            s.protocol,
            s.index,
            i32::from(s.protocol != 0),
            s.receive_queue,
            s.uid,
            s.ino
        );
    }
    out
}

/// Who takes packets: packet sockets, then the protocols.
///
/// Source: Linux 6.12 net/core/net-procfs.c, `ptype_seq_show`.
fn ptype(net: &Namespace) -> String {
    /// `ETH_P_ALL`.
    const ALL: u16 = 3;
    let mut taps = Vec::new();
    for report in net.reports() {
        if let Report::Packet(s) = report
            && s.index == 0
            && s.protocol != 0
        {
            taps.push(s.protocol);
        }
    }
    let mut out = "Type Device      Function\n".to_owned();
    for _ in taps.iter().filter(|p| **p == ALL) {
        let _ = writeln!(out, "ALL  {:8} packet_rcv", "");
    }
    for (protocol, own) in [(0x800, "ip_rcv"), (0x86dd, "ipv6_rcv")] {
        let _ = writeln!(out, "{protocol:04x} {:8} {own}", "");
    }
    for protocol in taps.iter().filter(|p| **p != ALL) {
        let _ = writeln!(out, "{protocol:04x} {:8} packet_rcv", "");
    }
    out
}

fn dev(net: &Namespace) -> String {
    let (packets, bytes) = net.inet.traffic();
    format!(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
         {NAME:>6}: {bytes:7} {packets:7} {:4} {:4} {:4} {:5} {:10} {:9} {bytes:8} {packets:7} {:4} {:4} {:4} {:5} {:7} {:10}\n",
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    )
}

/// The main table, which is empty: all routes are local ones.
fn route(_: &Namespace) -> String {
    let mut out = String::new();
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    padded(&mut out, head, 127);
    out
}

fn if_inet6(net: &Namespace) -> String {
    let mut out = String::new();
    for a in net.inet.device.settings().addresses {
        let IpAddr::V6(ip) = a.ip else { continue };
        // The scope as the kernel's address types have it: that of the host.
        let scope = if ip.is_loopback() { 0x10 } else { 0 };
        let _ = writeln!(out, "{:032x} {INDEX:02x} {:02x} {scope:02x} 80 {NAME:>8}", ip.to_bits(), a.prefix);
    }
    out
}

fn ipv6_route(net: &Namespace) -> String {
    let mut out = String::new();
    let settings = net.inet.device.settings();
    for a in settings.addresses.iter().filter(|_| settings.is_up()) {
        let IpAddr::V6(ip) = a.ip else { continue };
        // RTF_UP | RTF_NONEXTHOP | RTF_LOCAL
        let _ = writeln!(
            out,
            "{:032x} 80 {:032x} 00 {:032x} 00000000 00000002 00000000 80200001 {NAME:>8}",
            ip.to_bits(),
            0,
            0
        );
    }
    out
}

/// The tree of local routes, as programs read it that look for own addresses: main, then local.
fn fib_trie(net: &Namespace) -> String {
    let settings = net.inet.device.settings();
    let mut out = String::new();
    for (i, table) in ["Main", "Local"].iter().enumerate() {
        let _ = writeln!(out, "{table}:");
        if i == 0 {
            continue;
        }
        for a in &settings.addresses {
            let IpAddr::V4(ip) = a.ip else { continue };
            if let (Some(network), 0..32) = (a.network(), a.prefix) {
                let _ = writeln!(out, "  +-- {network}/{} 2 0 2\n     |-- {network}", a.prefix);
                let _ = writeln!(out, "        /{} host LOCAL", a.prefix);
            }
            let _ = writeln!(out, "     |-- {ip}\n        /32 host LOCAL");
            if let Some(broadcast) = a.broadcast() {
                let _ = writeln!(out, "     |-- {broadcast}\n        /32 link BROADCAST");
            }
        }
    }
    out
}

/// How many sockets of TCP there are: open, lingering, listening or connected ones.
fn tcp_counts(net: &Namespace) -> (usize, usize, usize) {
    let (mut v4, mut v6, mut waiting) = (0, 0, 0);
    for report in net.reports() {
        if let Report::Inet(InetReport { protocol: ipproto::TCP, domain, time_left, .. }) = report {
            match (time_left, domain) {
                (Some(_), _) => waiting += 1,
                (None, af::INET6) => v6 += 1,
                (None, _) => v4 += 1,
            }
        }
    }
    (v4, v6, waiting)
}

fn count(net: &Namespace, domain: u16, protocol: i32) -> usize {
    inets(net, domain, protocol).len()
}

fn sockstat(net: &Namespace) -> String {
    let (v4, v6, waiting) = tcp_counts(net);
    let udp = count(net, af::INET, ipproto::UDP);
    let raw = count(net, af::INET, ipproto::RAW);
    let pages = net.queued_pages();
    format!(
        "sockets: used {}\nTCP: inuse {} orphan 0 tw {waiting} alloc {} mem {}\nUDP: inuse {udp} mem {}\n\
         UDPLITE: inuse {}\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n",
        net.socket_count(),
        inets(net, af::INET, ipproto::TCP).iter().filter(|s| s.time_left.is_none()).count(),
        v4 + v6,
        pages.0,
        pages.1,
        count(net, af::INET, ipproto::UDPLITE),
    )
}

fn sockstat6(net: &Namespace) -> String {
    let tcp = inets(net, af::INET6, ipproto::TCP).iter().filter(|s| s.time_left.is_none()).count();
    format!(
        "TCP6: inuse {tcp}\nUDP6: inuse {}\nUDPLITE6: inuse {}\nRAW6: inuse {}\nFRAG6: inuse 0 memory 0\n",
        count(net, af::INET6, ipproto::UDP),
        count(net, af::INET6, ipproto::UDPLITE),
        count(net, af::INET6, ipproto::RAW),
    )
}

fn snmp(net: &Namespace) -> String {
    let c = &net.inet.counters;
    let established = net
        .reports()
        .iter()
        .filter(|r| matches!(r, Report::Inet(s) if s.protocol == ipproto::TCP && matches!(s.state, 1 | 8)))
        .count();
    let packets = c.ip_packets.get();
    let (errors, echoes, replies) = (c.icmp_unreachable.get(), c.icmp_echoes.get(), c.icmp_replies.get());
    let icmp = errors + echoes + replies;
    let segments = c.tcp_segments.get();
    let no_room = c.udp_no_room.get();
    format!(
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards \
         InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails \
         FragCreates OutTransmits\n\
         Ip: {} {} {packets} 0 0 0 0 0 {packets} {packets} 0 {} 0 0 0 0 0 0 0 {packets}\n\
         Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos \
         InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal \
         OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps \
         OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps\n\
         Icmp: {icmp} 0 0 {errors} 0 0 0 0 {echoes} {replies} 0 0 0 0 {icmp} 0 0 0 {errors} 0 0 0 0 {echoes} {replies} \
         0 0 0 0\n\
         Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs \
         OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
         Tcp: 1 200 120000 -1 {} {} {} {} {established} {segments} {segments} 0 0 {} 0\n\
         Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
         Udp: {} {} {no_room} {} {no_room} 0 0 0 0\n\
         UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti \
         MemErrors\nUdpLite: 0 0 0 0 0 0 0 0 0\n",
        if net.sysctl.ip_forward[0].is_on() { 1 } else { 2 },
        net.sysctl.default_ttl[0].get(),
        c.ip_no_routes.get(),
        c.tcp_active_opens.get(),
        c.tcp_passive_opens.get(),
        c.tcp_attempt_fails.get(),
        c.tcp_resets.get(),
        c.tcp_resets_sent.get(),
        c.udp_received.get(),
        c.udp_no_ports.get(),
        c.udp_sent.get(),
    )
}
