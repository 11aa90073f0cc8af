//! What every socket has, whatever its family.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::socket::sock;
use base::lock::{Lock, rank};
use base::time::Time;
use base::wait::{Events, WaitQueue};
use host::clock::HostClock;

use crate::Namespace;
use crate::filter::Filters;
use crate::stamps::Stamps;

/// Options that are stored and, where nothing else says so, have no further effect.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "socket(7) explains each")]
pub struct Stored {
    pub debug: bool,
    pub dont_route: bool,
    pub no_check: bool,
    pub rxq_ovfl: bool,
    pub priority: i32,
    pub mark: u32,
    pub rcvmark: bool,
    /// `SO_TXTIME`: the clock, and flags.
    pub txtime: Option<(i32, u32)>,
    pub busy_poll: i32,
    pub max_pacing_rate: u64,
    pub incoming_cpu: i32,
    pub passsec: bool,
    /// Switches without an effect here, by number.
    pub switches: u64,
    pub no_rehash: bool,
    pub device: Vec<u8>,
    pub bound_if: u32,
    pub buf_lock: u32,
    /// `SO_LINGER`: seconds, when on.
    pub linger: Option<u32>,
    /// The seconds when it is off.
    pub linger_seconds: u32,
}

/// What every socket has.
#[derive(Debug)]
pub struct Common {
    /// What the sandbox's sockets share.
    pub net: Arc<Namespace>,
    /// `AF_*`.
    domain: AtomicU16,
    /// `SOCK_*`.
    pub kind: u32,
    /// `SO_PROTOCOL`.
    pub protocol: i32,
    /// The inode number.
    pub ino: u64,
    /// When it was made.
    pub created: Time,
    /// The owner.
    pub uid: AtomicU32,
    /// The owner's group.
    pub gid: AtomicU32,
    /// Permission bits of the inode.
    pub mode: AtomicU32,
    /// Those who wait.
    pub wait: WaitQueue,
    /// `SO_ERROR`: an error number, or 0.
    error: AtomicI32,
    /// `SO_SNDBUF`.
    pub send_buffer: AtomicUsize,
    /// `SO_RCVBUF`.
    pub receive_buffer: AtomicUsize,
    /// `SO_SNDTIMEO` in ns; 0 for none.
    pub send_timeout: AtomicU64,
    /// `SO_RCVTIMEO` in ns; 0 for none.
    pub receive_timeout: AtomicU64,
    /// `SO_RCVLOWAT`.
    pub low_water: AtomicUsize,
    /// `SO_PASSCRED`.
    pub passcred: AtomicBool,
    /// `SO_PASSPIDFD`.
    pub pass_pidfd: AtomicBool,
    /// `SO_REUSEADDR`.
    pub reuse_addr: AtomicBool,
    /// `SO_REUSEPORT`.
    pub reuse_port: AtomicBool,
    /// `SO_BROADCAST`.
    pub broadcast: AtomicBool,
    /// `SO_KEEPALIVE`.
    pub keepalive: AtomicBool,
    /// `SO_OOBINLINE`.
    pub oob_inline: AtomicBool,
    /// `IP_LOCAL_PORT_RANGE`: first and last port, in the lower and the upper half; 0 for no limit.
    pub port_range: AtomicU32,
    /// `SO_PEEK_OFF`; negative when off.
    pub peek_offset: AtomicI32,
    /// `SO_ZEROCOPY`.
    pub zerocopy: AtomicBool,
    /// `SO_SELECT_ERR_QUEUE`.
    pub select_err_queue: AtomicBool,
    /// What decides which messages arrive.
    pub filters: Filters,
    /// What is told of times.
    pub stamps: Stamps,
    /// The rest.
    pub stored: Lock<Stored, { rank::LEAF }>,
}

impl Common {
    /// For a new socket of user `uid` and group `gid`.
    pub fn new(
        net: &Arc<Namespace>,
        domain: u16,
        kind: u32,
        protocol: i32,
        (uid, gid): (u32, u32),
    ) -> Arc<Self> {
        Arc::new(Self {
            net: net.clone(),
            domain: domain.into(),
            kind,
            protocol,
            ino: net.new_ino(),
            created: now(),
            uid: AtomicU32::new(uid),
            gid: AtomicU32::new(gid),
            mode: AtomicU32::new(0o777),
            wait: WaitQueue::new(),
            error: AtomicI32::new(0),
            send_buffer: AtomicUsize::new(net.sysctl.wmem_default[0].size()),
            receive_buffer: AtomicUsize::new(net.sysctl.rmem_default[0].size()),
            send_timeout: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            low_water: AtomicUsize::new(1),
            passcred: AtomicBool::new(false),
            pass_pidfd: AtomicBool::new(false),
            reuse_addr: AtomicBool::new(false),
            reuse_port: AtomicBool::new(false),
            broadcast: AtomicBool::new(false),
            keepalive: AtomicBool::new(false),
            oob_inline: AtomicBool::new(false),
            port_range: AtomicU32::new(0),
            peek_offset: AtomicI32::new(-1),
            zerocopy: AtomicBool::new(false),
            select_err_queue: AtomicBool::new(false),
            filters: Filters::default(),
            stamps: Stamps::default(),
            stored: Lock::new(Stored { incoming_cpu: -1, max_pacing_rate: u64::MAX, ..Stored::default() }),
        })
    }

    /// `AF_*`.
    pub fn domain(&self) -> u16 {
        self.domain.load(Ordering::Relaxed)
    }

    /// An IPv6 socket becomes an IPv4 one.
    pub(crate) fn set_domain(&self, domain: u16) {
        self.domain.store(domain, Ordering::Relaxed);
    }

    /// The owner, and the owner's group.
    pub fn owner(&self) -> (u32, u32) {
        (self.uid.load(Ordering::Relaxed), self.gid.load(Ordering::Relaxed))
    }

    /// Whether bytes flow without boundaries.
    pub const fn is_stream(&self) -> bool {
        self.kind == sock::STREAM
    }

    /// Sets the pending error and wakes everybody.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.raw(), Ordering::SeqCst);
        self.wait.notify(Events::ERR | Events::READABLE | Events::WRITABLE);
    }

    /// Whether an error is pending.
    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::SeqCst) != 0
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> Option<Errno> {
        if !self.has_error() {
            return None;
        }
        Errno::from_raw(self.error.swap(0, Ordering::SeqCst))
    }

    /// Fails with the pending error, which is pending no more.
    ///
    /// # Errors
    /// That error.
    pub fn check_error(&self) -> Result<(), Errno> {
        self.take_error().map_or(Ok(()), Err)
    }

    /// `SO_SNDBUF`.
    pub fn send_limit(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// `SO_RCVBUF`.
    pub fn receive_limit(&self) -> usize {
        self.receive_buffer.load(Ordering::Relaxed)
    }
}

/// The time of day.
pub fn now() -> Time {
    Time::from_ns(host::clock::now_ns(HostClock::Realtime))
}
