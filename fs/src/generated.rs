//! Files whose contents are made when they are read: what procfs and sysfs are built of.
//!
//! A text is made anew by a read at offset 0, as Linux's `seq_file` does; later reads go on in the same text. The makers
//! take locks of tasks, so these files never run under the position's lock ([`FileOps::takes_outer_locks`]).

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EACCES, EINVAL, EIO, ENOENT};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::time::Time;
use base::wait::{Changes, Events, WaitQueue};

use crate::file::{DirEntry, FileOps, Metadata, oflag};
use crate::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, mode};

/// Most bytes that one write hands on.
const WRITE_MAX: usize = 4096;

/// Makes and takes the bytes of a file.
pub trait Text: Send + Sync {
    /// All bytes.
    ///
    /// # Errors
    /// The file's.
    fn read(&self) -> Result<Vec<u8>, Errno>;

    /// Takes what was written, at most a page; returns how many bytes count as written.
    ///
    /// # Errors
    /// The file's; `EIO` when it cannot be written.
    fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<usize, Errno> {
        Err(EIO)
    }

    /// What poll(2) tells of while the file is open; asked when it is opened.
    fn watched(&self) -> Watched {
        Watched::No
    }
}

/// What poll(2) tells of a file.
pub enum Watched {
    /// It cannot be waited for.
    No,
    /// Nothing ever happens.
    Still,
    /// `POLLERR | POLLPRI` once after each change; `writable` says what it is ready for else.
    Changing {
        /// What changes.
        changes: Arc<Changes>,
        /// `POLLOUT` is told too, while nothing has changed.
        writable: bool,
    },
}

/// What an open text keeps of a [`Watched`].
enum Watch {
    Still(WaitQueue),
    Changing { changes: Arc<Changes>, writable: bool, seen: AtomicU64 },
}

impl Watch {
    fn new(watched: Watched) -> Option<Self> {
        match watched {
            Watched::No => None,
            Watched::Still => Some(Self::Still(WaitQueue::new())),
            Watched::Changing { changes, writable } => {
                let seen = AtomicU64::new(changes.count());
                Some(Self::Changing { changes, writable, seen })
            }
        }
    }
}

/// What `stat` tells of a generated file.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The device number of the file system.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All time stamps.
    pub time: Time,
    /// What statfs(2) calls the file system.
    pub kind: u64,
}

impl Stamp {
    /// The metadata of a file with `mode`, which holds the type too.
    pub fn metadata(&self, mode: u32, nlink: u64, size: u64) -> Metadata {
        Metadata {
            dev: self.dev,
            ino: self.ino,
            mode,
            nlink,
            uid: self.uid,
            gid: self.gid,
            size,
            blksize: if self.kind == StatFs::PROC { 1024 } else { 4096 },
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            ..Metadata::default()
        }
    }

    /// statfs(2).
    pub fn statfs(&self) -> StatFs {
        StatFs { kind: self.kind, block_size: 4096, name_len: 255, ..StatFs::default() }
    }
}

/// An open text.
pub struct OpenText {
    source: Arc<dyn Text>,
    meta: Metadata,
    text: Lock<Option<Arc<[u8]>>, { rank::LEAF }>,
    watch: Option<Watch>,
}

impl OpenText {
    /// Opens a text.
    pub fn new(source: Arc<dyn Text>, meta: Metadata) -> Self {
        let watched = source.watched();
        Self::with(source, meta, watched)
    }

    fn with(source: Arc<dyn Text>, meta: Metadata, watched: Watched) -> Self {
        Self { source, meta, text: Lock::new(None), watch: Watch::new(watched) }
    }

    fn text(&self, anew: bool) -> Result<Arc<[u8]>, Errno> {
        if !anew && let Some(text) = self.text.lock().clone() {
            return Ok(text);
        }
        let text: Arc<[u8]> = self.source.read()?.into();
        *self.text.lock() = Some(text.clone());
        Ok(text)
    }
}

impl fmt::Debug for OpenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenText").field("ino", &self.meta.ino).finish_non_exhaustive()
    }
}

impl FileOps for OpenText {
    fn is_seekable(&self) -> bool {
        true
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        // A text of unknown length, as `seq_file` makes it.
        self.meta.size > 0
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = self.text(offset == 0)?;
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        if rest.is_empty() { Ok(0) } else { dst.put(&rest[..rest.len().min(dst.remaining())]) }
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut bytes = vec![0; src.remaining().min(WRITE_MAX)];
        let n = src.take(&mut bytes)?;
        self.source.write(offset, bytes.get(..n).unwrap_or_default())
    }

    /// A change is told once: to be asked is to have been told (Linux fs/proc_namespace.c, `mounts_poll`).
    fn ready(&self) -> Events {
        match &self.watch {
            Some(Watch::Changing { changes, writable, seen }) => {
                let now = changes.count();
                if seen.swap(now, Ordering::AcqRel) != now {
                    Events::READABLE | Events::ERR | Events::PRI
                } else if *writable {
                    Events::READABLE | Events::WRITABLE
                } else {
                    Events::READABLE
                }
            }
            _ => Events::READABLE | Events::WRITABLE,
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        match self.watch.as_ref()? {
            Watch::Still(queue) => Some(queue),
            Watch::Changing { changes, .. } => Some(changes.queue()),
        }
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        // `O_TRUNC`, as in `echo 1 > file`, is no error in procfs.
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.meta)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One name in a generated directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// The inode number.
    pub ino: u64,
    /// The type.
    pub kind: FileType,
}

/// Lists a directory.
pub trait Listing: Send + Sync {
    /// All names but `.` and `..`.
    ///
    /// # Errors
    /// The directory's.
    fn list(&self) -> Result<Vec<Entry>, Errno>;
}

/// An open directory.
pub struct OpenDir {
    source: Arc<dyn Listing>,
    meta: Metadata,
    entries: Lock<Option<Arc<[Entry]>>, { rank::LEAF }>,
}

impl OpenDir {
    /// Opens a directory.
    pub fn new(source: Arc<dyn Listing>, meta: Metadata) -> Self {
        Self { source, meta, entries: Lock::new(None) }
    }
}

impl fmt::Debug for OpenDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDir").field("ino", &self.meta.ino).finish_non_exhaustive()
    }
}

impl FileOps for OpenDir {
    fn is_seekable(&self) -> bool {
        true
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(abi::errno::EISDIR)
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let known = if offset == 0 { None } else { self.entries.lock().clone() };
        let entries = match known {
            Some(entries) => entries,
            None => {
                let list: Arc<[Entry]> = self.source.list()?.into();
                *self.entries.lock() = Some(list.clone());
                list
            }
        };
        let dots = [&b"."[..], b".."];
        let names = dots
            .iter()
            .map(|name| (*name, self.meta.ino, FileType::Directory))
            .chain(entries.iter().map(|e| (e.name.as_slice(), e.ino, e.kind)));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (name, ino, kind)) in names.enumerate().skip(skip) {
            if !emit(DirEntry { ino, next: i as u64 + 1, kind: kind.dt(), name }) {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.meta)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes trees whose names do not change: sysfs, `/proc/sys`.
#[derive(Debug)]
pub struct Builder {
    dev: u64,
    kind: u64,
    time: Time,
    next_ino: AtomicU64,
    strict: bool,
}

/// A node's name in its directory.
pub type Named = (String, Arc<dyn Inode>);

impl Builder {
    /// Begins a tree on a file system with device number `dev`; `kind` is what statfs(2) calls it, `first_ino` the
    /// first inode number to use.
    pub fn new(dev: u64, kind: u64, first_ino: u64) -> Self {
        Self { dev, kind, time: crate::tmpfs::now(), next_ino: AtomicU64::new(first_ino), strict: false }
    }

    /// From now on files without a write bit cannot be opened for writing; no capability helps (Linux
    /// `proc_sys_permission`, `kernfs_fop_open`).
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            dev: self.dev,
            ino: self.next_ino.fetch_add(1, Ordering::Relaxed),
            uid: 0,
            gid: 0,
            time: self.time,
            kind: self.kind,
        }
    }

    /// A directory.
    pub fn dir(&self, children: Vec<Named>) -> Arc<dyn Inode> {
        Arc::new(StaticDir { stamp: self.stamp(), children })
    }

    /// A symbolic link.
    pub fn link(&self, target: &str) -> Arc<dyn Inode> {
        Arc::new(StaticLink { stamp: self.stamp(), target: target.into() })
    }

    /// A file that nobody can write.
    pub fn text(&self, read: impl Fn() -> String + Send + Sync + 'static) -> Arc<dyn Inode> {
        self.file(0o444, ReadOnly(read))
    }

    /// A file with permission bits `mode`.
    pub fn file(&self, mode: u32, source: impl Text + 'static) -> Arc<dyn Inode> {
        Arc::new(StaticText { stamp: self.stamp(), mode, strict: self.strict, source: Arc::new(source) })
    }
}

struct ReadOnly<F>(F);

impl<F: Fn() -> String + Send + Sync> Text for ReadOnly<F> {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        Ok((self.0)().into_bytes())
    }
}

struct StaticDir {
    stamp: Stamp,
    children: Vec<Named>,
}

impl fmt::Debug for StaticDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticDir").field("ino", &self.stamp.ino).finish_non_exhaustive()
    }
}

impl Listing for StaticDir {
    fn list(&self) -> Result<Vec<Entry>, Errno> {
        self.children
            .iter()
            .map(|(name, inode)| {
                let meta = inode.metadata()?;
                Ok(Entry { name: name.clone().into_bytes(), ino: meta.ino, kind: meta.file_type() })
            })
            .collect()
    }
}

impl Inode for StaticDir {
    fn is_always_empty(&self) -> bool {
        self.children.is_empty()
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let dirs = self.children.iter().filter(|(_, c)| c.as_any().is::<Self>()).count();
        Ok(self.stamp.metadata(mode::IFDIR | 0o555, dirs as u64 + 2, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.children.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, inode)| inode.clone()).ok_or(ENOENT)
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let meta = self.metadata()?;
        Ok(Box::new(OpenDir::new(self, meta)))
    }

    fn fails_lookups(&self) -> bool {
        self.stamp.kind == StatFs::PROC
    }

    /// What has no way to make files says so (fs/namei.c, `lookup_open`).
    fn create(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EACCES)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.stamp.statfs())
    }
}

struct StaticText {
    stamp: Stamp,
    mode: u32,
    strict: bool,
    source: Arc<dyn Text>,
}

impl fmt::Debug for StaticText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticText").field("ino", &self.stamp.ino).finish_non_exhaustive()
    }
}

impl Inode for StaticText {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Regular)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let size = if self.stamp.kind == StatFs::SYSFS { 4096 } else { 0 };
        Ok(self.stamp.metadata(mode::IFREG | self.mode, 1, size))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        accept_size_only(attributes)
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        if self.strict && flags & oflag::ACCMODE != oflag::RDONLY && self.mode & 0o222 == 0 {
            return Err(EACCES);
        }
        let meta = self.metadata()?;
        let watched = match self.source.watched() {
            // All of /proc but the tasks can be waited for (Linux fs/proc/inode.c, `proc_reg_poll`; proc_sysctl.c).
            Watched::No if self.stamp.kind == StatFs::PROC => Watched::Still,
            watched => watched,
        };
        Ok(Box::new(OpenText::with(self.source.clone(), meta, watched)))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.stamp.statfs())
    }
}

/// `truncate` of a generated file does nothing; other attributes stay as they are.
pub(crate) fn accept_size_only(attributes: &SetAttributes) -> Result<(), Errno> {
    if attributes.mode.is_some() || attributes.uid.is_some() || attributes.gid.is_some() {
        return Err(abi::errno::EPERM);
    }
    Ok(())
}

#[derive(Debug)]
struct StaticLink {
    stamp: Stamp,
    target: Vec<u8>,
}

impl Inode for StaticLink {
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Symlink)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.stamp.metadata(mode::IFLNK | 0o777, 1, 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        Ok(self.target.clone())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(self.stamp.statfs())
    }
}

/// Parses what was written to a file that holds one number.
///
/// # Errors
/// `EINVAL`.
pub fn parse_number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0').parse().map_err(|_| EINVAL)
}
