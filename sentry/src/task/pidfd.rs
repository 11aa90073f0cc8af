//! Process file descriptors (pidfd_open(2); Linux fs/pidfs.c).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::EBADF;
use base::wait::{Events, WaitQueue};
use fs::file::{FileDescription, FileOps, Metadata, oflag};

use super::ThreadGroup;

/// An open reference to a process; readable once it has ended.
#[derive(Debug)]
pub struct PidFd {
    group: Arc<ThreadGroup>,
}

/// Makes a descriptor for the process; `flags` is `O_NONBLOCK` or 0.
pub fn new(group: Arc<ThreadGroup>, flags: u32) -> Arc<FileDescription> {
    FileDescription::new(Box::new(PidFd { group }), None, (flags & oflag::NONBLOCK) | oflag::RDWR)
}

/// The process that a descriptor of this kind means.
///
/// # Errors
/// `EBADF`: it is of another kind.
pub fn process_of(file: &FileDescription) -> Result<i32, Errno> {
    group_of(file).map(|g| g.pid)
}

/// The same as a thread group.
///
/// # Errors
/// `EBADF`: it is of another kind.
pub fn group_of(file: &FileDescription) -> Result<&Arc<ThreadGroup>, Errno> {
    file.ops.as_any().downcast_ref::<PidFd>().map(|p| &p.group).ok_or(EBADF)
}

impl FileOps for PidFd {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(fs::anon::anon_metadata())
    }

    fn ready(&self) -> Events {
        match self.group.live.load(Ordering::SeqCst) {
            0 => Events::READABLE,
            n if n < 0 => Events::READABLE | Events::HUP,
            _ => Events::empty(),
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.group.child_events)
    }

    fn fdinfo(&self) -> String {
        let pid = if self.group.live.load(Ordering::SeqCst) > 0 { self.group.pid } else { -1 };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[pidfd]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
