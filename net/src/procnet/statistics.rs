//! Counts of the protocols (`netstat`, `snmp6`). What cannot happen without a wire (losses, what is sent again, fragments)
//! has happened never.

use std::fmt::Write as _;

use crate::Namespace;

/// The columns of `TcpExt`, those of Linux 6.18.
#[rustfmt::skip]
const TCP: &[&str] = &[
    "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "EmbryonicRsts", "PruneCalled", "RcvPruned",
    "OfoPruned", "OutOfWindowIcmps", "LockDroppedIcmps", "ArpFilter", "TW", "TWRecycled", "TWKilled",
    "PAWSActive", "PAWSEstab", "BeyondWindow", "TSEcrRejected", "PAWSOldAck", "PAWSTimewait", "DelayedACKs",
    "DelayedACKLocked", "DelayedACKLost", "ListenOverflows", "ListenDrops", "TCPHPHits", "TCPPureAcks",
    "TCPHPAcks", "TCPRenoRecovery", "TCPSackRecovery", "TCPSACKReneging", "TCPSACKReorder", "TCPRenoReorder",
    "TCPTSReorder", "TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo", "TCPLossUndo", "TCPLostRetransmit",
    "TCPRenoFailures", "TCPSackFailures", "TCPLossFailures", "TCPFastRetrans", "TCPSlowStartRetrans",
    "TCPTimeouts", "TCPLossProbes", "TCPLossProbeRecovery", "TCPRenoRecoveryFail", "TCPSackRecoveryFail",
    "TCPRcvCollapsed", "TCPBacklogCoalesce", "TCPDSACKOldSent", "TCPDSACKOfoSent", "TCPDSACKRecv",
    "TCPDSACKOfoRecv", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory", "TCPAbortOnTimeout",
    "TCPAbortOnLinger", "TCPAbortFailed", "TCPMemoryPressures", "TCPMemoryPressuresChrono", "TCPSACKDiscard",
    "TCPDSACKIgnoredOld", "TCPDSACKIgnoredNoUndo", "TCPSpuriousRTOs", "TCPMD5NotFound", "TCPMD5Unexpected",
    "TCPMD5Failure", "TCPSackShifted", "TCPSackMerged", "TCPSackShiftFallback", "TCPBacklogDrop",
    "PFMemallocDrop", "TCPMinTTLDrop", "TCPDeferAcceptDrop", "IPReversePathFilter", "TCPTimeWaitOverflow",
    "TCPReqQFullDoCookies", "TCPReqQFullDrop", "TCPRetransFail", "TCPRcvCoalesce", "TCPOFOQueue",
    "TCPOFODrop", "TCPOFOMerge", "TCPChallengeACK", "TCPSYNChallenge", "TCPFastOpenActive",
    "TCPFastOpenActiveFail", "TCPFastOpenPassive", "TCPFastOpenPassiveFail", "TCPFastOpenListenOverflow",
    "TCPFastOpenCookieReqd", "TCPFastOpenBlackhole", "TCPSpuriousRtxHostQueues", "BusyPollRxPackets",
    "TCPAutoCorking", "TCPFromZeroWindowAdv", "TCPToZeroWindowAdv", "TCPWantZeroWindowAdv", "TCPSynRetrans",
    "TCPOrigDataSent", "TCPHystartTrainDetect", "TCPHystartTrainCwnd", "TCPHystartDelayDetect",
    "TCPHystartDelayCwnd", "TCPACKSkippedSynRecv", "TCPACKSkippedPAWS", "TCPACKSkippedSeq",
    "TCPACKSkippedFinWait2", "TCPACKSkippedTimeWait", "TCPACKSkippedChallenge", "TCPWinProbe", "TCPKeepAlive",
    "TCPMTUPFail", "TCPMTUPSuccess", "TCPDelivered", "TCPDeliveredCE", "TCPAckCompressed",
    "TCPZeroWindowDrop", "TCPRcvQDrop", "TCPWqueueTooBig", "TCPFastOpenPassiveAltKey", "TcpTimeoutRehash",
    "TcpDuplicateDataRehash", "TCPDSACKRecvSegs", "TCPDSACKIgnoredDubious", "TCPMigrateReqSuccess",
    "TCPMigrateReqFailure", "TCPPLBRehash", "TCPAORequired", "TCPAOBad", "TCPAOKeyNotFound", "TCPAOGood",
    "TCPAODroppedIcmps",
];

/// The columns of `IpExt`.
#[rustfmt::skip]
const IP: &[&str] = &[
    "InNoRoutes", "InTruncatedPkts", "InMcastPkts", "OutMcastPkts", "InBcastPkts", "OutBcastPkts", "InOctets",
    "OutOctets", "InMcastOctets", "OutMcastOctets", "InBcastOctets", "OutBcastOctets", "InCsumErrors",
    "InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts", "ReasmOverlaps",
];

/// The lines of `snmp6`.
#[rustfmt::skip]
const SIX: &[&str] = &[
    "Ip6InReceives", "Ip6InHdrErrors", "Ip6InTooBigErrors", "Ip6InNoRoutes", "Ip6InAddrErrors",
    "Ip6InUnknownProtos", "Ip6InTruncatedPkts", "Ip6InDiscards", "Ip6InDelivers", "Ip6OutForwDatagrams",
    "Ip6OutRequests", "Ip6OutDiscards", "Ip6OutNoRoutes", "Ip6ReasmTimeout", "Ip6ReasmReqds", "Ip6ReasmOKs",
    "Ip6ReasmFails", "Ip6FragOKs", "Ip6FragFails", "Ip6FragCreates", "Ip6InMcastPkts", "Ip6OutMcastPkts",
    "Ip6InOctets", "Ip6OutOctets", "Ip6InMcastOctets", "Ip6OutMcastOctets", "Ip6InBcastOctets",
    "Ip6OutBcastOctets", "Ip6InNoECTPkts", "Ip6InECT1Pkts", "Ip6InECT0Pkts", "Ip6InCEPkts", "Ip6OutTransmits",
    "Icmp6InMsgs", "Icmp6InErrors", "Icmp6OutMsgs", "Icmp6OutErrors", "Icmp6InCsumErrors",
    "Icmp6OutRateLimitHost", "Icmp6InDestUnreachs", "Icmp6InPktTooBigs", "Icmp6InTimeExcds",
    "Icmp6InParmProblems", "Icmp6InEchos", "Icmp6InEchoReplies", "Icmp6InGroupMembQueries",
    "Icmp6InGroupMembResponses", "Icmp6InGroupMembReductions", "Icmp6InRouterSolicits",
    "Icmp6InRouterAdvertisements", "Icmp6InNeighborSolicits", "Icmp6InNeighborAdvertisements",
    "Icmp6InRedirects", "Icmp6InMLDv2Reports", "Icmp6OutDestUnreachs", "Icmp6OutPktTooBigs",
    "Icmp6OutTimeExcds", "Icmp6OutParmProblems", "Icmp6OutEchos", "Icmp6OutEchoReplies",
    "Icmp6OutGroupMembQueries", "Icmp6OutGroupMembResponses", "Icmp6OutGroupMembReductions",
    "Icmp6OutRouterSolicits", "Icmp6OutRouterAdvertisements", "Icmp6OutNeighborSolicits",
    "Icmp6OutNeighborAdvertisements", "Icmp6OutRedirects", "Icmp6OutMLDv2Reports", "Udp6InDatagrams",
    "Udp6NoPorts", "Udp6InErrors", "Udp6OutDatagrams", "Udp6RcvbufErrors", "Udp6SndbufErrors",
    "Udp6InCsumErrors", "Udp6IgnoredMulti", "Udp6MemErrors", "UdpLite6InDatagrams", "UdpLite6NoPorts",
    "UdpLite6InErrors", "UdpLite6OutDatagrams", "UdpLite6RcvbufErrors", "UdpLite6SndbufErrors",
    "UdpLite6InCsumErrors", "UdpLite6MemErrors",
];

fn row(out: &mut String, name: &str, columns: &[&str], value: impl Fn(&str) -> u64) {
    let values: Vec<String> = columns.iter().map(|c| value(c).to_string()).collect();
    let _ = writeln!(out, "{name}: {}\n{name}: {}", columns.join(" "), values.join(" "));
}

pub(super) fn netstat(net: &Namespace) -> String {
    let c = &net.inet.counters;
    let mut out = String::new();
    row(&mut out, "TcpExt", TCP, |name| match name {
        "TW" => net.inet.tcp.lingered(),
        "ListenOverflows" | "ListenDrops" => c.tcp_overflows.get(),
        "TCPAbortOnData" => c.tcp_aborts.get(),
        "TCPAbortOnClose" => c.tcp_aborts_unread.get(),
        "TCPOrigDataSent" => c.tcp_data_segments.get(),
        // With the first of each connection.
        "TCPDelivered" => c.tcp_data_segments.get() + c.tcp_passive_opens.get(),
        _ => 0,
    });
    row(&mut out, "IpExt", IP, |name| match name {
        "InMcastPkts" | "OutMcastPkts" => c.multicasts.get(),
        "InMcastOctets" | "OutMcastOctets" => c.multicast_octets.get(),
        "InOctets" | "OutOctets" => c.ip_octets.get(),
        "InNoECTPkts" => c.ip_packets.get(),
        _ => 0,
    });
    out
}

pub(super) fn snmp6(net: &Namespace) -> String {
    let c = &net.inet.counters;
    let (errors, echoes, replies) = (c.icmp6_unreachable.get(), c.icmp6_echoes.get(), c.icmp6_replies.get());
    let value = |name: &str| match name {
        "Ip6InReceives" | "Ip6InDelivers" | "Ip6OutRequests" | "Ip6OutTransmits" | "Ip6InNoECTPkts" => {
            c.ip6_packets.get()
        }
        "Ip6OutNoRoutes" => c.ip6_no_routes.get(),
        "Ip6InOctets" | "Ip6OutOctets" => c.ip6_octets.get(),
        "Ip6InMcastPkts" | "Ip6OutMcastPkts" => c.multicasts6.get(),
        "Ip6InMcastOctets" | "Ip6OutMcastOctets" => c.multicast6_octets.get(),
        "Icmp6InMsgs" | "Icmp6OutMsgs" => errors + echoes + replies,
        "Icmp6InDestUnreachs" | "Icmp6OutDestUnreachs" => errors,
        "Icmp6InEchos" | "Icmp6OutEchos" => echoes,
        "Icmp6InEchoReplies" | "Icmp6OutEchoReplies" => replies,
        "Udp6InDatagrams" => c.udp6_received.get(),
        "Udp6NoPorts" => c.udp6_no_ports.get(),
        "Udp6InErrors" | "Udp6RcvbufErrors" => c.udp6_no_room.get(),
        "Udp6OutDatagrams" => c.udp6_sent.get(),
        _ => 0,
    };
    SIX.iter().map(|name| format!("{name:<32}\t{}\n", value(name))).collect()
}
