//! What all sockets of a sandbox share: the names, the ports, the limits of `/proc/sys/net`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::inet::Inet;
use crate::rights::InFlight;
use crate::unix::Names;

/// Values of `/proc/sys/net`, with Linux's defaults.
#[derive(Debug)]
pub struct Sysctl {
    /// `net.core.somaxconn`.
    pub somaxconn: AtomicUsize,
    /// `net.core.rmem_default`.
    pub rmem_default: AtomicUsize,
    /// `net.core.rmem_max`.
    pub rmem_max: AtomicUsize,
    /// `net.core.wmem_default`.
    pub wmem_default: AtomicUsize,
    /// `net.core.wmem_max`.
    pub wmem_max: AtomicUsize,
    /// `net.core.optmem_max`.
    pub optmem_max: AtomicUsize,
    /// `net.unix.max_dgram_qlen`.
    pub max_dgram_qlen: AtomicUsize,
}

impl Default for Sysctl {
    fn default() -> Self {
        Self {
            somaxconn: AtomicUsize::new(4096),
            rmem_default: AtomicUsize::new(212_992),
            rmem_max: AtomicUsize::new(4 << 20),
            wmem_default: AtomicUsize::new(212_992),
            wmem_max: AtomicUsize::new(4 << 20),
            optmem_max: AtomicUsize::new(128 << 10),
            max_dgram_qlen: AtomicUsize::new(10),
        }
    }
}

/// A network namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    /// Limits and defaults.
    pub sysctl: Sysctl,
    /// Names of AF_UNIX sockets.
    pub unix: Names,
    /// Ports and connections of AF_INET and AF_INET6.
    pub inet: Inet,
    /// Files on their way between processes.
    pub in_flight: Arc<InFlight>,
    last_ino: AtomicU64,
    sockets: AtomicI64,
}

impl Namespace {
    /// An empty namespace.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A new inode number for a socket.
    pub(crate) fn new_ino(&self) -> u64 {
        // Apart from those of pipes, which count from 1, for readers of /proc/PID/fd.
        (1 << 20) + self.last_ino.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn count_socket(&self, change: i64) {
        self.sockets.fetch_add(change, Ordering::Relaxed);
    }

    /// How many sockets there are.
    pub fn socket_count(&self) -> i64 {
        self.sockets.load(Ordering::Relaxed)
    }
}
