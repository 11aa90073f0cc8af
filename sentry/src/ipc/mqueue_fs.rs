//! The file system `mqueue`: the POSIX message queues of an IPC namespace by name (mq_overview(7), "Mounting the message
//! queue filesystem").

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, EISDIR, ENOENT, EPERM};
use base::io::Sink;
use base::time::Time;
use fs::file::{DirEntry, FileOps, Metadata, oflag};
use fs::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, mode};

use super::IpcNamespace;
use super::mqueue::{Mqueue, Open, open_ops};
use crate::task::{Task, current};

/// `MQUEUE_MAGIC`.
const MAGIC: u64 = 0x1980_0202;
const DEV: u64 = 0x14;
/// Above those of queues.
const ROOT_INO: u64 = 1 << 40;
const RLIMIT_MSGQUEUE: usize = 12;

#[derive(Debug)]
struct Root {
    ipc: Arc<IpcNamespace>,
    made: Time,
}

/// The root of the file system of `task`'s IPC namespace.
pub fn new_root(task: &Task) -> Arc<dyn Inode> {
    Arc::new(Root { ipc: task.ipc(), made: now() })
}

fn now() -> Time {
    Time::from_ns(host::clock::now_ns(host::clock::HostClock::Realtime))
}

fn statfs() -> StatFs {
    StatFs { kind: MAGIC, block_size: 4096, name_len: 255, ..StatFs::default() }
}

impl Inode for Root {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let time = self.made;
        Ok(Metadata {
            dev: DEV,
            ino: ROOT_INO,
            mode: mode::IFDIR | mode::ISVTX | 0o777,
            nlink: 2,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            ..Metadata::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let queue = self.ipc.mq.lock().find(name).ok_or(ENOENT)?;
        Ok(Arc::new(Node(queue)))
    }

    fn create(&self, name: &[u8], mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let task = current().ok_or(EPERM)?;
        let limit = task.group.rlimits.lock()[RLIMIT_MSGQUEUE].0;
        let cred = task.cred();
        let flags = oflag::CREAT | oflag::EXCL;
        let open = Open { name, flags, mode, attr: None, cred: &cred, limit, now: now() };
        let queue = self.ipc.mq.lock().open(&open, &self.ipc.budget, &self.ipc.limits)?;
        Ok(Arc::new(Node(queue)))
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        let task = current().ok_or(EPERM)?;
        // Before the table is locked: tasks come first.
        let cred = task.cred();
        let gone = self.ipc.mq.lock().unlink(name, &cred)?;
        drop(gone);
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(OpenRoot(self)))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(statfs())
    }

    /// Queues come and go by system calls of their own.
    fn cacheable(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct OpenRoot(Arc<Root>);

impl FileOps for OpenRoot {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let mut queues = self.0.ipc.mq.lock().all();
        queues.sort_by(|a, b| a.name().cmp(b.name()));
        let dir = FileType::Directory.dt();
        let mut entries: Vec<(u64, u8, &[u8])> = vec![(ROOT_INO, dir, b"."), (ROOT_INO, dir, b"..")];
        entries.extend(queues.iter().map(|q| (q.describe().ino, FileType::Regular.dt(), q.name())));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (ino, kind, name)) in entries.iter().enumerate().skip(skip) {
            if !emit(DirEntry { ino: *ino, next: i as u64 + 1, kind: *kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A queue as a file.
#[derive(Debug)]
struct Node(Arc<Mqueue>);

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.0.describe())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attributes(&self, _attributes: &SetAttributes) -> Result<(), Errno> {
        Err(EINVAL)
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let task = current().ok_or(EPERM)?;
        Ok(open_ops(self.0.clone(), &task.group))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(statfs())
    }
}
