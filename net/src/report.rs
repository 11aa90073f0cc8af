//! What a socket tells of itself, for `/proc/net` and socket diagnosis.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Common;
use crate::unix::Address;

/// What a socket tells of itself.
#[derive(Clone, Debug)]
pub enum Report {
    /// A socket of AF_INET or AF_INET6.
    Inet(InetReport),
    /// A socket of AF_UNIX.
    Unix(UnixReport),
    /// A socket of AF_NETLINK.
    Netlink(NetlinkReport),
    /// A socket of AF_PACKET.
    Packet(PacketReport),
}

/// A socket of AF_INET or AF_INET6.
#[derive(Clone, Debug)]
pub struct InetReport {
    /// AF_INET or AF_INET6.
    pub domain: u16,
    /// `IPPROTO_*`.
    pub protocol: i32,
    /// `TCP_*` state; others than TCP use some of them too.
    pub state: u8,
    /// Own address; for raw sockets the port is the protocol.
    pub local: SocketAddr,
    /// The peer's; zeros without one.
    pub remote: SocketAddr,
    /// Bytes not read, or connections not accepted.
    pub receive_queue: usize,
    /// Bytes not acknowledged, or the backlog's limit.
    pub send_queue: usize,
    /// The owner.
    pub uid: u32,
    /// The inode, 0 when no file stands for it any more.
    pub ino: u64,
    /// Whether it is for IPv6 alone.
    pub v6only: bool,
    /// Has a local port, so that it shows in tables.
    pub is_hashed: bool,
    /// Datagrams thrown away for lack of room.
    pub drops: u64,
    /// The congestion control's name.
    pub congestion: Vec<u8>,
    /// `struct tcp_info`; empty for others than TCP.
    pub info: Vec<u8>,
    /// `SO_RCVBUF`.
    pub receive_buffer: usize,
    /// `SO_SNDBUF`.
    pub send_buffer: usize,
    /// Left of `TIME_WAIT`, ms.
    pub time_left: Option<u32>,
    /// `SO_MARK`.
    pub mark: u32,
}

/// A socket of AF_UNIX.
#[derive(Clone, Debug)]
pub struct UnixReport {
    /// `SOCK_*`.
    pub kind: u32,
    /// Its name.
    pub name: Option<Address>,
    /// Device and inode of the name's file.
    pub place: Option<(u64, u64)>,
    /// Whether it takes connections.
    pub is_listening: bool,
    /// Whether it is connected.
    pub is_connected: bool,
    /// The inode.
    pub ino: u64,
    /// The peer's inode.
    pub peer_ino: Option<u64>,
    /// Inodes of connections that wait to be accepted.
    pub waiting: Vec<u64>,
    /// Bytes not read, or connections not accepted.
    pub receive_queue: usize,
    /// Bytes that the peer has not read, or the backlog's limit.
    pub send_queue: usize,
    /// `RECEIVE`, `SEND` as bits.
    pub shutdown: u8,
    /// The owner.
    pub uid: u32,
}

/// A socket of AF_NETLINK.
#[derive(Clone, Debug)]
pub struct NetlinkReport {
    /// `NETLINK_*`.
    pub protocol: i32,
    /// Its port.
    pub port: u32,
    /// The groups that it hears, as a mask.
    pub groups: u32,
    /// Bytes not read.
    pub receive_queue: usize,
    /// Messages thrown away for lack of room.
    pub drops: u32,
    /// The inode.
    pub ino: u64,
    /// A dump goes on.
    pub is_dumping: bool,
}

/// A socket of AF_PACKET.
#[derive(Clone, Debug)]
pub struct PacketReport {
    /// `SOCK_*`.
    pub kind: u32,
    /// `ETH_P_*`.
    pub protocol: u16,
    /// The device; 0 for all.
    pub index: i32,
    /// Bytes not read.
    pub receive_queue: usize,
    /// The owner.
    pub uid: u32,
    /// The inode.
    pub ino: u64,
}

impl InetReport {
    /// Of a socket of which nothing but the addresses is known.
    pub fn new(domain: u16, protocol: i32, local: SocketAddr, remote: Option<SocketAddr>) -> Self {
        let any: IpAddr = match local.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self {
            domain,
            protocol,
            state: 7,
            local,
            remote: remote.unwrap_or((any, 0).into()),
            receive_queue: 0,
            send_queue: 0,
            uid: 0,
            ino: 0,
            v6only: false,
            is_hashed: false,
            drops: 0,
            congestion: Vec::new(),
            info: Vec::new(),
            receive_buffer: 0,
            send_buffer: 0,
            time_left: None,
            mark: 0,
        }
    }

    /// The same with what every socket has.
    pub fn of(common: &Common, local: SocketAddr, remote: Option<SocketAddr>) -> Self {
        Self {
            uid: common.owner().0,
            ino: common.ino,
            receive_buffer: common.receive_limit(),
            send_buffer: common.send_limit(),
            mark: common.stored.lock().mark,
            ..Self::new(common.domain(), common.protocol, local, remote)
        }
    }
}
