//! Descriptors of host files, as a cache.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EISDIR, ENOENT, EROFS, ESTALE, ETXTBSY};
use base::lock::{Lock, rank};
use host::file::{How, open_child, stat};

use super::HostInode;
use crate::vfs::FileType;

/// Descriptors that all host file systems together keep open without need.
const KEPT_MAX: u64 = 4096;
static KEPT: AtomicU64 = AtomicU64::new(0);

/// An inode's descriptor, if it is open.
#[derive(Debug, Default)]
pub(super) struct Slot(Lock<Held, { rank::LEAF }>);

#[derive(Debug, Default)]
struct Held {
    fd: Option<Arc<OwnedFd>>,
    /// Counted in `KEPT`.
    is_counted: bool,
}

impl Slot {
    pub(super) fn current(&self) -> Option<Arc<OwnedFd>> {
        self.0.lock().fd.clone()
    }

    /// Keeps `fd` for good.
    pub(super) fn pin(&self, fd: OwnedFd) {
        *self.0.lock() = Held { fd: Some(Arc::new(fd)), is_counted: false };
    }

    fn keep(&self, fd: Arc<OwnedFd>) {
        let mut held = self.0.lock();
        if held.fd.is_none() {
            *held = Held { fd: Some(fd), is_counted: true };
            KEPT.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        let old = {
            let mut held = self.0.lock();
            if !held.is_counted {
                return;
            }
            std::mem::take(&mut *held)
        };
        KEPT.fetch_sub(1, Ordering::Relaxed);
        drop(old);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.get_mut().is_counted {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The inodes with open descriptors, oldest first.
#[derive(Default)]
pub(super) struct Fds(Lock<VecDeque<Weak<HostInode>>, { rank::LEAF }>);

impl Fds {
    fn add(&self, inode: &HostInode) {
        let old = {
            let mut queue = self.0.lock();
            queue.push_back(inode.me.clone());
            // Entries of inodes that are gone leave with the same step.
            let is_full = KEPT.load(Ordering::Relaxed) > KEPT_MAX || queue.len() as u64 > 4 * KEPT_MAX;
            if is_full { [queue.pop_front(), queue.pop_front()] } else { [None, None] }
        };
        for inode in old.into_iter().flatten().filter_map(|weak| weak.upgrade()) {
            inode.fd.close();
        }
    }
}

impl HostInode {
    /// The file's descriptor: a place for directories, otherwise open for reading and, where possible, writing.
    pub(super) fn fd(&self) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = self.fd.current() {
            return Ok(fd);
        }
        // What is above may be closed too: go up to what is open, then down again, without recursion.
        let mut closed = vec![self.arc()?];
        let mut dir = loop {
            let parent = closed.last().and_then(|i| i.place().parent).ok_or(ENOENT)?;
            match parent.fd.current() {
                Some(fd) => break fd,
                None => closed.push(parent),
            }
        };
        while let Some(inode) = closed.pop() {
            dir = Arc::new(inode.open_in(&dir)?);
            inode.keep_fd(dir.clone());
        }
        Ok(dir)
    }

    /// Keeps a descriptor until room is needed.
    pub(super) fn keep_fd(&self, fd: Arc<OwnedFd>) {
        self.fd.keep(fd);
        self.fs.fds.add(self);
    }

    fn open_in(&self, dir: &OwnedFd) -> Result<OwnedFd, Errno> {
        let name = self.place().name;
        let fd = match self.kind() {
            FileType::Directory => open_child(dir.as_fd(), &name, How::Directory)?,
            FileType::Regular if self.is_writable() => match open_child(dir.as_fd(), &name, How::ReadWrite) {
                Err(EACCES | EROFS | ETXTBSY | EISDIR) => open_child(dir.as_fd(), &name, How::Read)?,
                other => other?,
            },
            FileType::Regular => open_child(dir.as_fd(), &name, How::Read)?,
            _ => return Err(EACCES),
        };
        if self.is_writable() && !self.fs.mode.is_shared {
            return Ok(fd);
        }
        let now = stat(fd.as_fd())?;
        // Somebody outside put another file there.
        if (now.dev, now.ino) != (self.stat.dev, self.stat.ino) {
            return Err(ESTALE);
        }
        Ok(fd)
    }
}
