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
        let own = &self.group.pid_ns;
        let reader = super::current().map_or_else(|| own.clone(), |t| t.pid_ns().clone());
        if self.group.live.load(Ordering::SeqCst) <= 0 {
            return "Pid:\t-1\nNSpid:\t-1\n".to_owned();
        }
        let pid = reader.shown(self.group.pid);
        let list = if own.is_within(&reader) { own.numbers(&reader, self.group.pid) } else { vec![0] };
        let list: String = list.iter().map(|nr| format!("\t{nr}")).collect();
        format!("Pid:\t{pid}\nNSpid:{list}\n")
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[pidfd]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
