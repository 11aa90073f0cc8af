//! Sockets: families, types, flags and option numbers (`linux/socket.h`, `asm-generic/socket.h`, `linux/net.h`).

/// Address families.
#[expect(missing_docs, reason = "address_families(7) explains each")]
pub mod af {
    pub const UNSPEC: u16 = 0;
    pub const UNIX: u16 = 1;
    pub const INET: u16 = 2;
    pub const INET6: u16 = 10;
    pub const NETLINK: u16 = 16;
    pub const PACKET: u16 = 17;
    /// Numbers from here on are no families (`NPROTO`).
    pub const MAX: i32 = 46;
}

/// Types of `socket(2)` and the flags beside them.
#[expect(missing_docs, reason = "socket(2) explains each")]
pub mod sock {
    pub const STREAM: u32 = 1;
    pub const DGRAM: u32 = 2;
    pub const RAW: u32 = 3;
    pub const RDM: u32 = 4;
    pub const SEQPACKET: u32 = 5;
    pub const DCCP: u32 = 6;
    pub const PACKET: u32 = 10;
    pub const TYPE_MASK: u32 = 0xf;
    pub const NONBLOCK: u32 = 0o4000;
    pub const CLOEXEC: u32 = 0o2_000_000;
}

/// Protocols (`linux/in.h`).
#[expect(missing_docs, reason = "protocols(5) names each")]
pub mod ipproto {
    pub const IP: i32 = 0;
    pub const ICMP: i32 = 1;
    pub const TCP: i32 = 6;
    pub const UDP: i32 = 17;
    pub const IPV6: i32 = 41;
    pub const ICMPV6: i32 = 58;
    pub const UDPLITE: i32 = 136;
    pub const RAW: i32 = 255;
}

/// Flags of `send(2)` and `recv(2)`.
#[expect(missing_docs, reason = "send(2) and recv(2) explain each")]
pub mod msg {
    pub const OOB: u32 = 0x1;
    pub const PEEK: u32 = 0x2;
    pub const DONTROUTE: u32 = 0x4;
    pub const CTRUNC: u32 = 0x8;
    pub const PROBE: u32 = 0x10;
    pub const TRUNC: u32 = 0x20;
    pub const DONTWAIT: u32 = 0x40;
    pub const EOR: u32 = 0x80;
    pub const WAITALL: u32 = 0x100;
    pub const CONFIRM: u32 = 0x800;
    pub const ERRQUEUE: u32 = 0x2000;
    pub const NOSIGNAL: u32 = 0x4000;
    pub const MORE: u32 = 0x8000;
    pub const WAITFORONE: u32 = 0x1_0000;
    pub const ZEROCOPY: u32 = 0x400_0000;
    pub const FASTOPEN: u32 = 0x2000_0000;
    pub const CMSG_CLOEXEC: u32 = 0x4000_0000;
}

/// Levels of options and control messages.
#[expect(missing_docs, reason = "setsockopt(2) and the protocols' pages explain each")]
pub mod sol {
    pub const IP: i32 = 0;
    pub const SOCKET: i32 = 1;
    pub const TCP: i32 = 6;
    pub const UDP: i32 = 17;
    pub const IPV6: i32 = 41;
    pub const ICMPV6: i32 = 58;
    pub const UDPLITE: i32 = 136;
    pub const RAW: i32 = 255;
    pub const NETLINK: i32 = 270;
}

/// Options of level `SOL_SOCKET`.
#[expect(missing_docs, reason = "socket(7) explains each")]
pub mod so {
    pub const DEBUG: i32 = 1;
    pub const REUSEADDR: i32 = 2;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const DONTROUTE: i32 = 5;
    pub const BROADCAST: i32 = 6;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const KEEPALIVE: i32 = 9;
    pub const OOBINLINE: i32 = 10;
    pub const NO_CHECK: i32 = 11;
    pub const PRIORITY: i32 = 12;
    pub const LINGER: i32 = 13;
    pub const BSDCOMPAT: i32 = 14;
    pub const REUSEPORT: i32 = 15;
    pub const PASSCRED: i32 = 16;
    pub const PEERCRED: i32 = 17;
    pub const RCVLOWAT: i32 = 18;
    pub const SNDLOWAT: i32 = 19;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const BINDTODEVICE: i32 = 25;
    pub const ATTACH_FILTER: i32 = 26;
    pub const DETACH_FILTER: i32 = 27;
    pub const PEERNAME: i32 = 28;
    pub const TIMESTAMP: i32 = 29;
    pub const ACCEPTCONN: i32 = 30;
    pub const PEERSEC: i32 = 31;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const PASSSEC: i32 = 34;
    pub const TIMESTAMPNS: i32 = 35;
    pub const MARK: i32 = 36;
    pub const TIMESTAMPING: i32 = 37;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
    pub const RXQ_OVFL: i32 = 40;
    pub const WIFI_STATUS: i32 = 41;
    pub const PEEK_OFF: i32 = 42;
    pub const NOFCS: i32 = 43;
    pub const LOCK_FILTER: i32 = 44;
    pub const SELECT_ERR_QUEUE: i32 = 45;
    pub const BUSY_POLL: i32 = 46;
    pub const MAX_PACING_RATE: i32 = 47;
    pub const BPF_EXTENSIONS: i32 = 48;
    pub const INCOMING_CPU: i32 = 49;
    pub const ATTACH_BPF: i32 = 50;
    pub const ATTACH_REUSEPORT_CBPF: i32 = 51;
    pub const ATTACH_REUSEPORT_EBPF: i32 = 52;
    pub const CNX_ADVICE: i32 = 53;
    pub const MEMINFO: i32 = 55;
    pub const INCOMING_NAPI_ID: i32 = 56;
    pub const COOKIE: i32 = 57;
    pub const PEERGROUPS: i32 = 59;
    pub const ZEROCOPY: i32 = 60;
    pub const TXTIME: i32 = 61;
    pub const BINDTOIFINDEX: i32 = 62;
    pub const TIMESTAMP_NEW: i32 = 63;
    pub const TIMESTAMPNS_NEW: i32 = 64;
    pub const TIMESTAMPING_NEW: i32 = 65;
    pub const DETACH_REUSEPORT_BPF: i32 = 68;
    pub const RCVTIMEO_NEW: i32 = 66;
    pub const SNDTIMEO_NEW: i32 = 67;
    pub const PREFER_BUSY_POLL: i32 = 69;
    pub const BUSY_POLL_BUDGET: i32 = 70;
    pub const NETNS_COOKIE: i32 = 71;
    pub const BUF_LOCK: i32 = 72;
    pub const RESERVE_MEM: i32 = 73;
    pub const TXREHASH: i32 = 74;
    pub const RCVMARK: i32 = 75;
    pub const PASSPIDFD: i32 = 76;
    pub const PEERPIDFD: i32 = 77;
}

/// Types of control messages of level `SOL_SOCKET`.
#[expect(missing_docs, reason = "unix(7) explains each")]
pub mod scm {
    pub const RIGHTS: i32 = 1;
    pub const CREDENTIALS: i32 = 2;
    pub const SECURITY: i32 = 3;
    pub const PIDFD: i32 = 4;
    /// Most descriptors in one message.
    pub const MAX_FD: usize = 253;
}

/// `how` of `shutdown(2)`.
#[expect(missing_docs, reason = "shutdown(2) explains each")]
pub mod shut {
    pub const RD: u32 = 0;
    pub const WR: u32 = 1;
    pub const RDWR: u32 = 2;
}

/// `struct ucred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "unix(7) explains each")]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Ucred {
    /// What is told where nothing is known (`scm_set_cred` without credentials).
    pub const NOBODY: Self = Self { pid: 0, uid: 65534, gid: 65534 };

    /// The layout in memory.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.pid.to_le_bytes());
        out[4..8].copy_from_slice(&self.uid.to_le_bytes());
        out[8..].copy_from_slice(&self.gid.to_le_bytes());
        out
    }

    /// From the layout in memory; `None` unless it has 12 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| bytes.get(i..i + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        if bytes.len() != 12 {
            return None;
        }
        Some(Self { pid: word(0)? as i32, uid: word(4)?, gid: word(8)? })
    }
}
