//! `/proc/PID` and `/proc/PID/task/TID`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{ENOENT, ESRCH};
use base::io::{Sink, Source};

use super::fd::{FdDir, FdView};
use super::ns::NsDir;
use super::{Proc, Task, TaskAccess, denied, parse_id};
use crate::file::{FileOps, Metadata};
use crate::generated::{Entry, Listing, OpenDir, OpenText, Stamp, Text, Watched, accept_size_only};
use crate::vfs::{FileType, Inode, MagicTarget, SetAttributes, StatFs, mode};

/// The texts of a task's directory, named as in proc(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "proc(5) explains each")]
pub enum TaskFile {
    Auxv,
    Cgroup,
    Children,
    Cmdline,
    Comm,
    CoredumpFilter,
    Environ,
    GidMap,
    Io,
    Limits,
    Maps,
    MountInfo,
    MountStats,
    Mounts,
    OomScore,
    OomScoreAdj,
    Personality,
    SetGroups,
    Smaps,
    SmapsRollup,
    NumaMaps,
    Stat,
    Statm,
    Status,
    Timerslack,
    TimensOffsets,
    UidMap,
    Wchan,
}

/// The links of a task's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "proc(5) explains each")]
pub enum TaskLink {
    Cwd,
    Exe,
    Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text(TaskFile),
    Link(TaskLink),
    Memory,
    Threads,
    Descriptors(FdView),
    Namespaces,
}

/// Who sees a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Everywhere,
    /// In `/proc/PID` only.
    Process,
    /// In `/proc/PID/task/TID` only.
    Thread,
}

struct Row {
    name: &'static str,
    /// Permission bits.
    mode: u32,
    kind: Kind,
    place: Where,
}

const fn row(name: &'static str, mode: u32, kind: Kind, place: Where) -> Row {
    Row { name, mode, kind, place }
}

/// Linux fs/proc/base.c, `tgid_base_stuff` and `tid_base_stuff`, as far as there is something real to show.
const ROWS: &[Row] = &[
    row("task", 0o555, Kind::Threads, Where::Process),
    row("fd", 0o500, Kind::Descriptors(FdView::Links), Where::Everywhere),
    row("fdinfo", 0o555, Kind::Descriptors(FdView::Info), Where::Everywhere),
    row("ns", 0o511, Kind::Namespaces, Where::Everywhere),
    row("environ", 0o400, Kind::Text(TaskFile::Environ), Where::Everywhere),
    row("auxv", 0o400, Kind::Text(TaskFile::Auxv), Where::Everywhere),
    row("status", 0o444, Kind::Text(TaskFile::Status), Where::Everywhere),
    row("personality", 0o400, Kind::Text(TaskFile::Personality), Where::Everywhere),
    row("limits", 0o444, Kind::Text(TaskFile::Limits), Where::Everywhere),
    row("comm", 0o644, Kind::Text(TaskFile::Comm), Where::Everywhere),
    row("cmdline", 0o444, Kind::Text(TaskFile::Cmdline), Where::Everywhere),
    row("stat", 0o444, Kind::Text(TaskFile::Stat), Where::Everywhere),
    row("statm", 0o444, Kind::Text(TaskFile::Statm), Where::Everywhere),
    row("maps", 0o444, Kind::Text(TaskFile::Maps), Where::Everywhere),
    row("children", 0o444, Kind::Text(TaskFile::Children), Where::Thread),
    row("mem", 0o600, Kind::Memory, Where::Everywhere),
    row("cwd", 0o777, Kind::Link(TaskLink::Cwd), Where::Everywhere),
    row("root", 0o777, Kind::Link(TaskLink::Root), Where::Everywhere),
    row("exe", 0o777, Kind::Link(TaskLink::Exe), Where::Everywhere),
    row("mounts", 0o444, Kind::Text(TaskFile::Mounts), Where::Everywhere),
    row("mountinfo", 0o444, Kind::Text(TaskFile::MountInfo), Where::Everywhere),
    row("mountstats", 0o400, Kind::Text(TaskFile::MountStats), Where::Process),
    row("numa_maps", 0o444, Kind::Text(TaskFile::NumaMaps), Where::Everywhere),
    row("smaps", 0o444, Kind::Text(TaskFile::Smaps), Where::Everywhere),
    row("smaps_rollup", 0o444, Kind::Text(TaskFile::SmapsRollup), Where::Everywhere),
    row("wchan", 0o444, Kind::Text(TaskFile::Wchan), Where::Everywhere),
    row("cgroup", 0o444, Kind::Text(TaskFile::Cgroup), Where::Everywhere),
    row("oom_score", 0o444, Kind::Text(TaskFile::OomScore), Where::Everywhere),
    row("oom_score_adj", 0o644, Kind::Text(TaskFile::OomScoreAdj), Where::Everywhere),
    row("coredump_filter", 0o644, Kind::Text(TaskFile::CoredumpFilter), Where::Process),
    row("io", 0o400, Kind::Text(TaskFile::Io), Where::Everywhere),
    row("uid_map", 0o644, Kind::Text(TaskFile::UidMap), Where::Everywhere),
    row("gid_map", 0o644, Kind::Text(TaskFile::GidMap), Where::Everywhere),
    row("setgroups", 0o644, Kind::Text(TaskFile::SetGroups), Where::Everywhere),
    row("timens_offsets", 0o644, Kind::Text(TaskFile::TimensOffsets), Where::Process),
    row("timerslack_ns", 0o666, Kind::Text(TaskFile::Timerslack), Where::Process),
];

/// The directory of process `pid`.
pub(super) fn dir_ino(pid: i32) -> u64 {
    ino(pid, true, 0)
}

/// Numbers of the inodes below a task: the task, which of its two directories, and the file.
pub(super) fn ino(tid: i32, is_process: bool, index: u64) -> u64 {
    1 << 52 | u64::from(tid.unsigned_abs()) << 20 | u64::from(is_process) << 19 | index
}

/// A task as the nodes below its directory know it.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) proc: Arc<Proc>,
    pub(super) task: Arc<dyn Task>,
    /// The directory is that of the process.
    pub(super) whole: bool,
}

impl Handle {
    pub(super) fn stamp(&self, index: u64) -> Stamp {
        let owner = self.task.owner();
        Stamp {
            uid: owner.uid,
            gid: owner.gid,
            time: self.task.start_time(),
            ..self.proc.stamp(ino(self.task.id().tid, self.whole, index))
        }
    }

    pub(super) fn check_exists(&self) -> Result<(), Errno> {
        if self.task.exists() { Ok(()) } else { Err(ENOENT) }
    }

    fn rows(&self) -> impl Iterator<Item = (u64, &'static Row)> + use<> {
        let hidden = if self.whole { Where::Thread } else { Where::Process };
        ROWS.iter().enumerate().filter(move |(_, r)| r.place != hidden).map(|(i, r)| (i as u64 + 1, r))
    }
}

/// The directory of `task`: `/proc/PID`, or with `whole` false `/proc/PID/task/TID`.
pub(super) fn directory(proc: &Arc<Proc>, task: Arc<dyn Task>, whole: bool) -> Arc<dyn Inode> {
    Arc::new(TaskDir(Handle { proc: proc.clone(), task, whole }))
}

/// The process whose directory `inode` is.
pub(super) fn process_of(inode: &dyn Inode) -> Option<Arc<dyn Task>> {
    inode.as_any().downcast_ref::<TaskDir>().filter(|d| d.0.whole).map(|d| d.0.task.clone())
}

macro_rules! opaque_debug {
    ($($ty:ident),*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!("procfs::", stringify!($ty)))
            }
        }
    )*};
}
pub(super) use opaque_debug;

struct TaskDir(Handle);
opaque_debug!(TaskDir, ThreadsDir, TaskNode, OpenMemory);

impl Listing for TaskDir {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        self.0.check_exists()?;
        let mut entries = Vec::new();
        for (index, r) in self.0.rows() {
            let kind = match r.kind {
                Kind::Text(_) | Kind::Memory => FileType::Regular,
                Kind::Link(_) => FileType::Symlink,
                Kind::Threads | Kind::Descriptors(_) | Kind::Namespaces => FileType::Directory,
            };
            let ino = ino(self.0.task.id().tid, self.0.whole, index);
            entries.push(Entry { name: r.name.as_bytes().to_vec(), ino, kind });
        }
        for (name, inode) in &self.0.proc.per_task {
            let meta = inode.metadata()?;
            entries.push(Entry { name: name.clone().into_bytes(), ino: meta.ino, kind: meta.file_type() });
        }
        Ok(entries)
    }
}

impl Inode for TaskDir {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        // Linux fs/proc/base.c, `proc_pid_permission`.
        self.0.check_exists().map_err(|_| ESRCH)?;
        Ok(self.0.stamp(0).metadata(mode::IFDIR | 0o555, if self.0.whole { 9 } else { 7 }, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.0.check_exists().map_err(|_| ESRCH)?;
        if let Some((_, inode)) = self.0.proc.per_task.iter().find(|(n, _)| n.as_bytes() == name) {
            return Ok(inode.clone());
        }
        let (index, row) = self.0.rows().find(|(_, r)| r.name.as_bytes() == name).ok_or(ENOENT)?;
        let handle = self.0.clone();
        Ok(match row.kind {
            Kind::Threads => Arc::new(ThreadsDir { handle, index }),
            Kind::Descriptors(view) => Arc::new(FdDir { handle, view, index, mode: row.mode }),
            Kind::Namespaces => Arc::new(NsDir { handle, index, mode: row.mode }),
            Kind::Text(_) | Kind::Link(_) | Kind::Memory => Arc::new(TaskNode { handle, row, index }),
        })
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        true
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.0.proc.stamp(0).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}

/// `/proc/PID/task`.
struct ThreadsDir {
    handle: Handle,
    index: u64,
}

impl Listing for ThreadsDir {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        self.handle.check_exists()?;
        let threads = self.handle.task.threads().into_iter();
        Ok(threads
            .map(|tid| Entry {
                name: tid.to_string().into_bytes(),
                ino: ino(tid, false, 0),
                kind: FileType::Directory,
            })
            .collect())
    }
}

impl Inode for ThreadsDir {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.handle.check_exists()?;
        let threads = self.handle.task.threads().len() as u64;
        Ok(self.handle.stamp(self.index).metadata(mode::IFDIR | 0o555, threads + 2, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let task = self.handle.proc.system.task(parse_id(name).ok_or(ENOENT)?).ok_or(ENOENT)?;
        if task.id().pid != self.handle.task.id().pid {
            return Err(ENOENT);
        }
        Ok(directory(&self.handle.proc, task, false))
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        true
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }

    fn cacheable(&self) -> bool {
        false
    }
}

/// A file or link of a task's directory.
struct TaskNode {
    handle: Handle,
    row: &'static Row,
    index: u64,
}

/// Files that open only for who may look at the task (Linux `proc_mem_open`, `mm_access`).
fn is_private(file: TaskFile) -> bool {
    matches!(
        file,
        TaskFile::Auxv
            | TaskFile::Environ
            | TaskFile::Maps
            | TaskFile::Smaps
            | TaskFile::SmapsRollup
            | TaskFile::NumaMaps
    )
}

impl Inode for TaskNode {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(if matches!(self.row.kind, Kind::Link(_)) { FileType::Symlink } else { FileType::Regular })
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.handle.check_exists()?;
        let kind = if matches!(self.row.kind, Kind::Link(_)) { mode::IFLNK } else { mode::IFREG };
        Ok(self.handle.stamp(self.index).metadata(kind | self.row.mode, 1, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        let Kind::Link(link) = self.row.kind else { return Err(abi::errno::EINVAL) };
        let place = denied(self.handle.task.link(link))?;
        Ok(self.handle.proc.system.path(&place))
    }

    fn magic_link(&self) -> Option<MagicTarget> {
        let Kind::Link(link) = self.row.kind else { return None };
        self.handle.task.link(link).ok().map(MagicTarget::Path)
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        accept_size_only(attributes)
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata().map_err(|_| ESRCH)?;
        match self.row.kind {
            Kind::Memory => {
                denied(self.handle.task.check(TaskAccess::Attach))?;
                self.handle.task.memory(meta)
            }
            Kind::Text(file) => {
                if is_private(file) {
                    denied(self.handle.task.check(TaskAccess::Memory))?;
                }
                self.handle.task.check_open(file)?;
                Ok(Box::new(OpenText::new(self, meta)))
            }
            Kind::Link(_) | Kind::Threads | Kind::Descriptors(_) | Kind::Namespaces => Err(abi::errno::ENXIO),
        }
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.handle.proc.stamp(0).statfs())
    }
}

impl Text for TaskNode {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        match self.row.kind {
            Kind::Text(file) => self.handle.task.text(file, self.handle.whole),
            _ => Err(abi::errno::EINVAL),
        }
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        match self.row.kind {
            Kind::Text(file) => self.handle.task.write(file, bytes),
            _ => Err(abi::errno::EINVAL),
        }
    }

    fn watched(&self) -> Watched {
        match self.row.kind {
            Kind::Text(TaskFile::Mounts | TaskFile::MountInfo) => match self.handle.task.mount_changes() {
                Some(changes) => Watched::Changing { changes, writable: false },
                None => Watched::No,
            },
            _ => Watched::No,
        }
    }
}

/// A task's memory, as an open file reads and writes it.
pub trait TaskMemory: Send + Sync {
    /// Copies bytes at `addr` out; fewer when the rest is not mapped.
    ///
    /// # Errors
    /// `EIO`: nothing is mapped at `addr`.
    fn peek(&self, addr: u64, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Copies bytes in at `addr`.
    ///
    /// # Errors
    /// As `peek`.
    fn poke(&self, addr: u64, bytes: &[u8]) -> Result<usize, Errno>;
}

/// An open `/proc/PID/mem`.
pub struct OpenMemory {
    memory: Box<dyn TaskMemory>,
    meta: Metadata,
}

impl OpenMemory {
    /// Opens `memory`.
    pub fn new(memory: Box<dyn TaskMemory>, meta: Metadata) -> Self {
        Self { memory, meta }
    }
}

const PIECE: usize = 4096;

impl FileOps for OpenMemory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn is_memory(&self) -> bool {
        true
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buf = [0; PIECE];
        while dst.remaining() > 0 {
            let Some(addr) = offset.checked_add(done as u64) else { break };
            let want = dst.remaining().min(PIECE);
            let step = match self.memory.peek(addr, &mut buf[..want]) {
                Ok(0) => break,
                Ok(n) => dst.put(&buf[..n]).map(|put| (put, put < want)),
                Err(e) => Err(e),
            };
            match step {
                Ok((n, short)) => {
                    done += n;
                    if short {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buf = [0; PIECE];
        while src.remaining() > 0 {
            let Some(addr) = offset.checked_add(done as u64) else { break };
            let want = src.remaining().min(PIECE);
            let step = src.take(&mut buf[..want]).and_then(|n| self.memory.poke(addr, &buf[..n]));
            match step {
                Ok(n) => {
                    done += n;
                    if n < want {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.meta)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
