//! Files without a path: pipes, eventfd, timerfd, epoll, and the standard streams of the host.

pub mod host_stream;
pub mod pipe;

use std::sync::atomic::{AtomicU64, Ordering};

use base::time::Time;
use host::clock::HostClock;

/// The device numbers of the internal file systems that these files live on; they only need to differ from others.
const PIPE_DEV: u64 = 0xc;

/// A new inode number for a file of this module.
fn new_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The time of day.
fn now() -> Time {
    Time::from_ns(host::clock::now_ns(HostClock::Realtime))
}
