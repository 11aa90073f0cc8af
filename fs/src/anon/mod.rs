//! Files without a path: pipes, eventfd, timerfd, epoll, and the standard streams of the host.

pub mod epoll;
pub mod eventfd;
pub mod fanotify;
pub mod host_stream;
pub mod inotify;
pub mod pipe;
pub mod timerfd;

use std::sync::atomic::{AtomicU64, Ordering};

use base::time::Time;
use host::clock::HostClock;

/// The device numbers of the internal file systems that these files live on; they only need to differ from others.
const PIPE_DEV: u64 = 0xc;
const ANON_DEV: u64 = 0xd;

/// A new inode number for a file of this module.
fn new_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The time of day.
fn now() -> Time {
    Time::from_ns(host::clock::now_ns(HostClock::Realtime))
}

/// What `fstat` tells of the files that share Linux's one anonymous inode.
pub fn anon_metadata() -> crate::file::Metadata {
    crate::file::Metadata {
        dev: ANON_DEV,
        ino: 1,
        mode: 0o600,
        nlink: 1,
        blksize: 4096,
        ..Default::default()
    }
}
