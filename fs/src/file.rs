//! Open files: what every kind of file can do once it is open; `description.rs`: what the descriptors of one share.
//!
//! Nothing here blocks for a guest's sake: an operation that would wait returns `EAGAIN`, and the syscall layer waits on
//! [`FileOps::wait_queue`] and tries again.

mod description;

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, ENODEV, ENOTDIR, ENOTTY, EPERM};
use base::io::{Sink, Source};
use base::memmap::Mappable;
use base::time::Time;
use base::wait::{Events, WaitQueue};

pub use description::{AsyncOwner, FileDescription};

use crate::vfs::{Inode, SetAttributes};

/// `open(2)` flags (x86-64).
#[expect(missing_docs, reason = "open(2) explains each")]
pub mod oflag {
    pub const ACCMODE: u32 = 0o3;
    pub const RDONLY: u32 = 0;
    pub const WRONLY: u32 = 1;
    pub const RDWR: u32 = 2;
    pub const CREAT: u32 = 0o100;
    pub const EXCL: u32 = 0o200;
    pub const NOCTTY: u32 = 0o400;
    pub const TRUNC: u32 = 0o1000;
    pub const APPEND: u32 = 0o2000;
    pub const NONBLOCK: u32 = 0o4000;
    pub const DSYNC: u32 = 0o10000;
    pub const ASYNC: u32 = 0o20000;
    pub const DIRECT: u32 = 0o40000;
    pub const LARGEFILE: u32 = 0o100000;
    pub const DIRECTORY: u32 = 0o200000;
    pub const NOFOLLOW: u32 = 0o400000;
    pub const NOATIME: u32 = 0o1000000;
    pub const CLOEXEC: u32 = 0o2000000;
    pub const SYNC: u32 = 0o4010000;
    pub const PATH: u32 = 0o10000000;
    pub const TMPFILE: u32 = 0o20200000;
    /// No flag of open(2): nobody is told of what happens through the description.
    pub const NONOTIFY: u32 = 0o400000000;
    /// No flag of open(2): the open made the file.
    pub const CREATED: u32 = 0o1000000000;
    /// No flag of open(2): the file is opened to be run.
    pub const EXEC: u32 = 0o2000000000;
}

/// What `stat(2)` tells of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) explains each")]
pub struct Metadata {
    pub dev: u64,
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blksize: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// `vfs::iflag` bits, where the file system keeps any.
    pub flags: u32,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The inode number.
    pub ino: u64,
    /// The position behind this entry, for `lseek`.
    pub next: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

/// Where an ioctl's argument points: guest memory, or a test's.
pub trait IoctlMemory {
    /// Copies in all of `buf`.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), Errno>;
    /// Copies out all of `bytes`.
    ///
    /// # Errors
    /// `EFAULT`.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Whether the caller has a capability (`base::cred::cap`).
    fn has_capability(&self, _capability: u32) -> bool {
        false
    }
}

/// What an open file can do. The defaults are those of a file that cannot.
pub trait FileOps: Debug + Send + Sync + Any {
    /// Whether the file has a position: `read_at` and `write_at` take offsets and `lseek` works. Streams ignore offsets.
    fn is_seekable(&self) -> bool {
        false
    }

    /// Whether the file may be open with `O_DIRECT` (`FMODE_CAN_ODIRECT`).
    fn can_be_direct(&self) -> bool {
        false
    }

    /// Whether `lseek` leaves the position at 0 whatever it is asked (`null_lseek`).
    fn stays_at_the_start(&self) -> bool {
        false
    }

    /// Reads up to `dst.remaining()` bytes at byte `offset` (0 for streams).
    ///
    /// # Errors
    /// `EAGAIN` when it would wait.
    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EINVAL)
    }

    /// Writes at byte `offset`.
    ///
    /// # Errors
    /// `EAGAIN` when it would wait; `EPIPE` (the syscall layer raises SIGPIPE).
    fn write_at(&self, _offset: u64, _src: &mut dyn Source) -> Result<usize, Errno> {
        Err(EINVAL)
    }

    /// Appends (`O_APPEND`); returns the bytes written and the position behind them.
    ///
    /// # Errors
    /// As `write_at`.
    fn append(&self, src: &mut dyn Source) -> Result<(usize, u64), Errno> {
        let end = self.metadata()?.size;
        let n = self.write_at(end, src)?;
        Ok((n, end + n as u64))
    }

    /// `fstat`.
    ///
    /// # Errors
    /// The file system's.
    fn metadata(&self) -> Result<Metadata, Errno>;

    /// `ftruncate`, size already checked to be at most `i64::MAX`.
    ///
    /// # Errors
    /// `EINVAL` when it is no regular file.
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(EINVAL)
    }

    /// `fallocate`.
    ///
    /// # Errors
    /// `ENODEV` when it is no regular file, `EOPNOTSUPP` for an unsupported mode.
    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(ENODEV)
    }

    /// Data and metadata to the backing store.
    ///
    /// # Errors
    /// `EINVAL` when the file cannot be synchronised.
    fn sync(&self) -> Result<(), Errno> {
        Err(EINVAL)
    }

    /// Hands entries from position `offset` on to `emit` until it returns false.
    ///
    /// # Errors
    /// `ENOTDIR` for what is no directory.
    fn read_dir(&self, _offset: u64, _emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        Err(ENOTDIR)
    }

    /// What the file is ready for now.
    fn ready(&self) -> Events {
        Events::READABLE | Events::WRITABLE
    }

    /// Where changes of readiness are told; `None` for files that are always ready.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// `ioctl`; returns the call's result.
    ///
    /// # Errors
    /// `ENOTTY` for an unknown request.
    fn ioctl(&self, _request: u32, _arg: u64, _memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        Err(ENOTTY)
    }

    /// Bytes of `range` are going to be mapped, `shared_and_writable` or not. Called with no lock held, where it may wait.
    ///
    /// # Errors
    /// `ENODEV`: they cannot be mapped so; the file's.
    fn prepare_mapping(&self, _range: Range<u64>, _shared_and_writable: bool) -> Result<(), Errno> {
        Ok(())
    }

    /// The pages, when the file can be mapped.
    ///
    /// # Errors
    /// `ENODEV`.
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Err(ENODEV)
    }

    /// Whether the open is complete: a FIFO's waits for the other side.
    ///
    /// # Errors
    /// `EAGAIN` while it must wait.
    fn finish_open(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Opens a file without a path once more, through `/proc/PID/fd`; `None` shares the description instead.
    ///
    /// # Errors
    /// As `Inode::open`.
    fn reopen(&self, _flags: u32) -> Result<Option<Box<dyn FileOps>>, Errno> {
        Ok(None)
    }

    /// Whether `lseek` knows the file's end: `SEEK_END`, `SEEK_DATA`, `SEEK_HOLE`. Directories of tmpfs, devpts and mqueue and
    /// merged ones of overlayfs do not (Linux 6.18 fs/libfs.c, `offset_dir_llseek`, `dcache_dir_lseek`).
    fn has_end(&self) -> bool {
        true
    }

    /// Whether positions are addresses (`mem_lseek`): any, also those that are negative as numbers, and without an end.
    fn is_memory(&self) -> bool {
        false
    }

    /// The first byte at or behind `offset` that is data (`SEEK_DATA`), or in a hole (`SEEK_HOLE`): the end of the file
    /// counts as a hole. `offset` lies below `size`.
    ///
    /// # Errors
    /// `ENXIO`: no data follows.
    fn seek_data(&self, offset: u64, _size: u64) -> Result<u64, Errno> {
        Ok(offset)
    }

    /// See `seek_data`.
    ///
    /// # Errors
    /// The file system's.
    fn seek_hole(&self, _offset: u64, size: u64) -> Result<u64, Errno> {
        Ok(size)
    }

    /// The seals (`F_SEAL_*` of fcntl(2)).
    ///
    /// # Errors
    /// `EINVAL`: the file cannot have any.
    fn seals(&self) -> Result<u32, Errno> {
        Err(EINVAL)
    }

    /// Adds seals.
    ///
    /// # Errors
    /// `EINVAL`; `EPERM`: sealed against seals; `EBUSY`: it is mapped for writing.
    fn add_seals(&self, _seals: u32) -> Result<(), Errno> {
        Err(EINVAL)
    }

    /// Changes attributes of a file without a path; what has one is changed through its inode.
    ///
    /// # Errors
    /// `EPERM`: it has none of its own.
    fn set_attributes(&self, _attributes: &SetAttributes) -> Result<(), Errno> {
        Err(EPERM)
    }

    /// Tells that the status flags (`O_NONBLOCK`, `O_APPEND`, …) were set by `fcntl`.
    fn set_flags(&self, _flags: u32) {}

    /// Whether `O_ASYNC` means something: changes of readiness can be told by a signal.
    fn tells_of_readiness(&self) -> bool {
        false
    }

    /// What `/proc/PID/fd/N` shows for a file without a path, such as `pipe:[5]`.
    fn anonymous_name(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether reading, writing and listing take locks that come before a position's (those of tasks): then the
    /// position is not locked meanwhile.
    fn takes_outer_locks(&self) -> bool {
        false
    }

    /// The inode, where the file has no path and its inode keeps extended attributes: a memfd's.
    fn inode(&self) -> Option<&dyn Inode> {
        None
    }

    /// Lines that `/proc/PID/fdinfo/N` shows for this kind of file alone, each with its newline.
    fn fdinfo(&self) -> String {
        String::new()
    }

    /// For downcasts: `epoll_ctl` must know its own kind, `pipe` ioctls theirs.
    fn as_any(&self) -> &dyn Any;
}
