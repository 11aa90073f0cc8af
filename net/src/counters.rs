//! What `/proc/net/snmp` counts. Nothing is a packet here; each is counted where Linux would send one.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counters of a namespace.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: Counter,)*
        }
    };
}

counters! {
    /// IPv4 packets sent, each of which arrived.
    ip_packets,
    /// Bytes of IPv4 packets.
    ip_octets,
    /// IPv4 packets for which there was no way.
    ip_no_routes,
    /// IPv6 packets sent.
    ip6_packets,
    /// Bytes of IPv6 packets.
    ip6_octets,
    /// IPv6 packets for which there was no way.
    ip6_no_routes,
    /// Packets to IPv4 groups.
    multicasts,
    /// Bytes of them.
    multicast_octets,
    /// Packets to IPv6 groups.
    multicasts6,
    /// Bytes of them.
    multicast6_octets,
    /// Connections begun.
    tcp_active_opens,
    /// Connections taken.
    tcp_passive_opens,
    /// Connections refused.
    tcp_attempt_fails,
    /// Connections reset.
    tcp_resets,
    /// Attempts to connect for which a backlog had no room.
    tcp_overflows,
    /// Connections closed while there was something to read.
    tcp_aborts_unread,
    /// Connections closed by a reset on purpose.
    tcp_aborts,
    /// Segments with data.
    tcp_data_segments,
    /// Segments sent, each of which arrived.
    tcp_segments,
    /// Resets sent.
    tcp_resets_sent,
    /// Datagrams sent.
    udp_sent,
    /// Datagrams that a program received.
    udp_received,
    /// Datagrams for a port that nobody has.
    udp_no_ports,
    /// Datagrams for which a receiver had no room.
    udp_no_room,
    /// The same with IPv6.
    udp6_sent,
    /// The same with IPv6.
    udp6_received,
    /// The same with IPv6.
    udp6_no_ports,
    /// The same with IPv6.
    udp6_no_room,
    /// ICMPv6 messages sent: errors.
    icmp6_unreachable,
    /// ICMPv6 echo requests.
    icmp6_echoes,
    /// ICMPv6 echo replies.
    icmp6_replies,
    /// ICMP messages sent: errors.
    icmp_unreachable,
    /// ICMP echo requests.
    icmp_echoes,
    /// ICMP echo replies.
    icmp_replies,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
