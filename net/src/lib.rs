//! Sockets: the layer between the socket calls and the protocol families, and the families.
//!
//! Reading order: `socket.rs` (what a family provides, and the file that a socket is), `common.rs` (what every socket
//! has), `options.rs` (`SOL_SOCKET`), `filter.rs` (socket filters), `message.rs` (what one send or receive carries), `stamps.rs` (times of packets),
//! `namespace.rs` (what all sockets of a sandbox share), `sysctl.rs`, `device.rs` (the loopback device), `ioctl.rs`,
//! `counters.rs`; then a family: `unix/`, `inet/`, `hostnet.rs` (the host's network), `netlink/`, `packet.rs`; `report.rs` and
//! `procnet.rs` (what `/proc/net` shows).
//!
//! Locks, outer to inner: a socket's state (`rank::SOCKET`), a queue of bytes, messages or connections (`rank::QUEUE`),
//! wait queues. No lock of one socket's queue is held while another's is taken. Passed files are dropped with no lock
//! held.

pub mod bytes;
pub mod common;
pub mod counters;
pub mod device;
pub mod filter;
pub mod hostnet;
pub mod inet;
pub mod ioctl;
pub mod message;
pub mod namespace;
pub mod netlink;
pub mod options;
pub mod packet;
pub mod procnet;
pub mod report;
pub mod rights;
pub mod socket;
pub mod stamps;
pub mod sysctl;
pub mod unix;

pub use common::Common;
pub use namespace::Namespace;
pub use socket::{Caller, Socket, SocketFile};
