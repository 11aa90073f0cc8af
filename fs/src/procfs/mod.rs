//! `/proc` (proc(5)): the tree of names. What the files say comes from the kernel above, through [`System`] and [`Task`].
//!
//! Reading order: this file (the traits, the root), `task.rs` (`/proc/PID`), `fd.rs` (`fd` and `fdinfo`).
//!
//! Names of tasks come and go by themselves, so no directory here is cached, and no lock of this module is held while the
//! kernel above is asked: it takes the locks of tasks, which are outer ones.

mod fd;
mod ns;
mod task;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, ENOENT};
use base::time::Time;
use base::wait::Changes;

use crate::file::{FileDescription, FileOps, Metadata};
use crate::generated::{Entry, Listing, Named, OpenDir, Stamp};
use crate::vfs::{FileType, Inode, Owner, StatFs, VfsPath, mode};

pub use task::{OpenMemory, TaskFile, TaskLink, TaskMemory};

/// The device number of every procfs.
pub const DEV: u64 = 0xe;

/// A task by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId {
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
}

/// An open descriptor of a task.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// The open file.
    pub file: Arc<FileDescription>,
    /// `FD_CLOEXEC`.
    pub cloexec: bool,
}

/// What the caller wants of another task (ptrace(2), "Ptrace access mode checking").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAccess {
    /// `PTRACE_MODE_READ`.
    Read,
    /// The same of the memory (`mm_access`).
    Memory,
    /// `PTRACE_MODE_ATTACH`.
    Attach,
}

/// The kernel above, as procfs sees it. "The caller" is the task whose system call is being answered.
pub trait System: Send + Sync {
    /// The caller.
    fn current(&self) -> Option<TaskId>;
    /// The IDs of all processes, in order.
    fn processes(&self) -> Vec<i32>;
    /// The process or thread with ID `id`.
    fn task(&self, id: i32) -> Option<Arc<dyn Task>>;
    /// The path of `place` as the caller sees it.
    fn path(&self, place: &VfsPath) -> Vec<u8>;
}

/// A process or a thread.
pub trait Task: Send + Sync + Any {
    /// Its numbers.
    fn id(&self) -> TaskId;
    /// Whether it is there still: as a zombie, too.
    fn exists(&self) -> bool;
    /// Whom the files belong to.
    fn owner(&self) -> Owner;
    /// When it began.
    fn start_time(&self) -> Time;
    /// The threads of the process, in order.
    fn threads(&self) -> Vec<i32>;
    /// Whether the caller may look at it.
    ///
    /// # Errors
    /// `EACCES`; `ESRCH` once it has ended.
    fn check(&self, access: TaskAccess) -> Result<(), Errno>;
    /// What opening `file` finds out, beside whether the caller may.
    ///
    /// # Errors
    /// `ESRCH`, `EINVAL`: the process has ended and has nothing of that any more.
    fn check_open(&self, _file: TaskFile) -> Result<(), Errno> {
        Ok(())
    }
    /// A text; `whole` asks for the numbers of the process, not of the thread alone.
    ///
    /// # Errors
    /// `ESRCH` once it has ended; `EACCES`.
    fn text(&self, file: TaskFile, whole: bool) -> Result<Vec<u8>, Errno>;
    /// Takes what was written to a file.
    ///
    /// # Errors
    /// As write(2) to the file; `EINVAL` where nothing can be written.
    fn write(&self, file: TaskFile, bytes: &[u8]) -> Result<usize, Errno>;

    /// Where changes of the mounts that it sees are told.
    fn mount_changes(&self) -> Option<Arc<Changes>>;
    /// Where a link leads.
    ///
    /// # Errors
    /// `EACCES`; `ENOENT` where there is nothing.
    fn link(&self, link: TaskLink) -> Result<VfsPath, Errno>;
    /// The open descriptors, in order.
    ///
    /// # Errors
    /// `EACCES`; `ESRCH`.
    fn descriptors(&self) -> Result<Vec<i32>, Errno>;
    /// The descriptor `fd`.
    ///
    /// # Errors
    /// `ENOENT` when it is not open.
    fn descriptor(&self, fd: i32) -> Result<Descriptor, Errno>;
    /// The names of `/proc/PID/ns`.
    fn namespaces(&self) -> &'static [&'static str];
    /// The file that stands for the namespace `name`.
    ///
    /// # Errors
    /// `EACCES`; `ENOENT`.
    fn namespace(&self, name: &str) -> Result<Arc<FileDescription>, Errno>;
    /// Opens the memory (`/proc/PID/mem`).
    ///
    /// # Errors
    /// `EACCES`.
    fn memory(&self, meta: Metadata) -> Result<Box<dyn FileOps>, Errno>;
}

/// The process whose directory `file` has open, as pidfd_send_signal(2) takes it (Linux `tgid_pidfd_to_pid`).
pub fn process_of(file: &FileDescription) -> Option<Arc<dyn Task>> {
    let inode = file.path.as_ref()?.inode();
    task::process_of(inode.as_ref())
}

/// What the nodes of one procfs share.
pub(crate) struct Proc {
    system: Arc<dyn System>,
    /// Files of the root whose names do not change.
    fixed: Vec<Named>,
    /// The same in every `/proc/PID`: `net`.
    per_task: Vec<Named>,
    time: Time,
}

impl Proc {
    fn stamp(&self, ino: u64) -> Stamp {
        Stamp { dev: DEV, ino, uid: 0, gid: 0, time: self.time, kind: StatFs::PROC }
    }
}

/// Numbers that [`crate::generated::Builder`] may give to `fixed` nodes begin here.
pub const FIRST_INO: u64 = 0x1000;
/// The inode number of the root, as in Linux.
const ROOT_INO: u64 = 1;
const SELF_INO: u64 = 2;
const THREAD_SELF_INO: u64 = 3;

/// Makes a procfs; returns its root. `fixed` are the files of the root that belong to no task, `per_task` those that
/// every task's directory shows too.
pub fn new(system: Arc<dyn System>, fixed: Vec<Named>, per_task: Vec<Named>) -> Arc<dyn Inode> {
    Arc::new(Root(Arc::new(Proc { system, fixed, per_task, time: crate::tmpfs::now() })))
}

/// Parses the name of a task or descriptor: a number without sign, blanks or leading zeros.
fn parse_id(name: &[u8]) -> Option<i32> {
    let is_plain = name.first().is_some_and(|&b| b != b'0' || name.len() == 1);
    if !is_plain || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

struct Root(Arc<Proc>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("procfs::Root")
    }
}

impl Listing for Root {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        let mut entries = Vec::new();
        for (name, inode) in &self.0.fixed {
            let meta = inode.metadata()?;
            entries.push(Entry { name: name.clone().into_bytes(), ino: meta.ino, kind: meta.file_type() });
        }
        for (name, ino) in [(&b"self"[..], SELF_INO), (b"thread-self", THREAD_SELF_INO)] {
            entries.push(Entry { name: name.to_vec(), ino, kind: FileType::Symlink });
        }
        for pid in self.0.system.processes() {
            entries.push(Entry {
                name: pid.to_string().into_bytes(),
                ino: task::dir_ino(pid),
                kind: FileType::Directory,
            });
        }
        Ok(entries)
    }
}

impl Inode for Root {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let tasks = self.0.system.processes().len() as u64;
        Ok(self.0.stamp(ROOT_INO).metadata(mode::IFDIR | 0o555, tasks + 2, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some((_, inode)) = self.0.fixed.iter().find(|(n, _)| n.as_bytes() == name) {
            return Ok(inode.clone());
        }
        match name {
            b"self" => return Ok(Arc::new(SelfLink { proc: self.0.clone(), thread: false })),
            b"thread-self" => return Ok(Arc::new(SelfLink { proc: self.0.clone(), thread: true })),
            _ => {}
        }
        let task = self.0.system.task(parse_id(name).ok_or(ENOENT)?).ok_or(ENOENT)?;
        Ok(task::directory(&self.0, task, true))
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        true
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.0.stamp(ROOT_INO).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}

/// `/proc/self` and `/proc/thread-self`.
struct SelfLink {
    proc: Arc<Proc>,
    thread: bool,
}

impl fmt::Debug for SelfLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfLink").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Inode for SelfLink {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Symlink)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let ino = if self.thread { THREAD_SELF_INO } else { SELF_INO };
        Ok(self.proc.stamp(ino).metadata(mode::IFLNK | 0o777, 1, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        let TaskId { pid, tid } = self.proc.system.current().ok_or(ENOENT)?;
        let text = if self.thread { format!("{pid}/task/{tid}") } else { pid.to_string() };
        Ok(text.into_bytes())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.proc.stamp(SELF_INO).statfs())
    }
}

/// The error for a caller that may not look.
fn denied<T>(result: Result<T, Errno>) -> Result<T, Errno> {
    result.map_err(|e| if e == abi::errno::EPERM { EACCES } else { e })
}
