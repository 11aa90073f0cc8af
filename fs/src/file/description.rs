//! Open file descriptions: what the descriptors of one open(2) share, and who is told of what happens through them.

use std::any::Any;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EBADF, EINVAL, EISDIR, ESPIPE};
use base::cred::Credentials;
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitKey, Wake};

use super::{DirEntry, FileOps, Metadata, oflag};
use crate::dnotify::Notice;
use crate::locks::FileId;
use crate::notify::{self, event};
use crate::vfs::{FileType, Forbidden, VfsPath, Writer};

/// Who is told of readiness by signals (`F_SETOWN`, `O_ASYNC`); the layer that knows signals implements it.
pub trait AsyncOwner: Wake + Any + Debug {
    /// Something other than readiness is to be told (`POLL_MSG`): a lease is broken, a directory has changed.
    fn message(&self, fd: i32);
}

/// An open file description (open(2), NOTES): shared by the descriptors that `dup` and `fork` make.
#[derive(Debug)]
pub struct FileDescription {
    /// What the file does.
    pub ops: Box<dyn FileOps>,
    /// Where it was opened; `None` for pipes and other anonymous files.
    pub path: Option<VfsPath>,
    flags: AtomicU32,
    is_dir: bool,
    is_silent: bool,
    is_created: bool,
    /// Keeps the file from being run while it can be written here.
    _writer: Option<Writer>,
    position: Lock<u64, { rank::FILE_POSITION }>,
    /// Set with the first lock that belongs to the description: the file, and its name as an owner.
    locked: OnceLock<(FileId, u64)>,
    /// Set with the first use of `F_SETOWN` and its like, for good.
    owner: OnceLock<(Arc<dyn AsyncOwner>, Option<WaitKey>)>,
    /// Set with the first use of `F_NOTIFY`.
    notice: OnceLock<Arc<Notice>>,
    /// `F_SET_RW_HINT` of a file without a path.
    write_hint: AtomicU8,
    /// Who opened it (`f_cred`), for what was opened by a path.
    opener: OnceLock<Arc<Credentials>>,
    /// What whoever opened it had forbidden itself (landlock(7)).
    forbidden: Forbidden,
}

impl FileDescription {
    /// Makes a description; `flags` are those of `open` without the creation flags.
    pub fn new(ops: Box<dyn FileOps>, path: Option<VfsPath>, flags: u32) -> Arc<Self> {
        Self::make(ops, path, flags, FileType::Regular, None, Forbidden::default())
    }

    /// As `new`, for a file of a known kind that was opened at `place`.
    pub(crate) fn opened(
        ops: Box<dyn FileOps>,
        place: VfsPath,
        flags: u32,
        kind: FileType,
        writer: Option<Writer>,
    ) -> Arc<Self> {
        Self::make(ops, Some(place), flags, kind, writer, Forbidden::default())
    }

    /// As `opened`, by somebody who has forbidden itself some of what can be done with it.
    pub(crate) fn opened_with(
        ops: Box<dyn FileOps>,
        place: VfsPath,
        flags: u32,
        kind: FileType,
        writer: Option<Writer>,
        forbidden: Forbidden,
    ) -> Arc<Self> {
        Self::make(ops, Some(place), flags, kind, writer, forbidden)
    }

    fn make(
        ops: Box<dyn FileOps>,
        path: Option<VfsPath>,
        flags: u32,
        kind: FileType,
        writer: Option<Writer>,
        forbidden: Forbidden,
    ) -> Arc<Self> {
        if let Some(path) = &path {
            path.dentry.add_open(only_reads(flags));
        }
        let is_dir = kind == FileType::Directory;
        const ONCE: u32 = oflag::CREAT
            | oflag::EXCL
            | oflag::NOCTTY
            | oflag::TRUNC
            | oflag::CLOEXEC
            | oflag::NONOTIFY
            | oflag::CREATED
            | oflag::EXEC;
        let is_silent = flags & oflag::NONOTIFY != 0;
        let kept = flags & !ONCE;
        Arc::new(Self {
            ops,
            path,
            flags: AtomicU32::new(kept),
            is_dir,
            is_silent,
            is_created: flags & oflag::CREATED != 0,
            _writer: writer,
            position: Lock::new(0),
            locked: OnceLock::new(),
            owner: OnceLock::new(),
            notice: OnceLock::new(),
            write_hint: AtomicU8::new(0),
            opener: OnceLock::new(),
            forbidden,
        })
    }

    /// Notes who opened it.
    pub fn set_opener(&self, cred: &Arc<Credentials>) {
        let _ = self.opener.set(cred.clone());
    }

    /// What whoever opened it had forbidden itself.
    pub fn forbidden(&self) -> Forbidden {
        self.forbidden
    }

    /// Who opened it, if it was opened by a path.
    pub fn opener(&self) -> Option<&Arc<Credentials>> {
        self.opener.get()
    }

    /// What the file's locks are kept under.
    ///
    /// # Errors
    /// The file's own.
    pub fn lock_id(&self) -> Result<FileId, Errno> {
        let meta = self.metadata()?;
        Ok((meta.dev, meta.ino))
    }

    /// `fstat`. What a node stands for (a device, a FIFO) does not know where the node is: the node itself tells.
    ///
    /// # Errors
    /// The file's own.
    pub fn metadata(&self) -> Result<Metadata, Errno> {
        let meta = self.ops.metadata()?;
        match &self.path {
            Some(path) if !matches!(meta.file_type(), FileType::Regular | FileType::Directory) => {
                path.inode().metadata()
            }
            _ => Ok(meta),
        }
    }

    /// The name under which the description owns locks on `file`, which is its [`lock_id`](Self::lock_id); from now on
    /// they are released with it.
    pub fn lock_owner(&self, file: FileId) -> u64 {
        self.locked.get_or_init(|| (file, crate::locks::new_owner())).1
    }

    /// Tells those who watch the file (`IN_*` of inotify(7)).
    pub fn tell(&self, mask: u32) {
        if notify::is_used()
            && !self.is_silent
            && let Some(path) = &self.path
        {
            let is_dir = if self.is_dir { event::ISDIR } else { 0 };
            notify::happened(&path.mount, &path.dentry, mask | is_dir);
        }
    }

    /// The same of a change of the inode, whatever became of the name by which it was opened.
    pub fn tell_changed(&self, mask: u32) {
        if let Some(path) = &self.path {
            notify::changed(&path.mount, &path.dentry, mask);
        }
    }

    /// Whether nobody is told of what happens through the description.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether the open made the file: `F_CREATED_QUERY`.
    pub fn is_created(&self) -> bool {
        self.is_created
    }

    /// The status flags and access mode, as `F_GETFL` shows them.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Sets what `F_SETFL` may set.
    pub fn set_flags(&self, flags: u32) {
        const SETTABLE: u32 = oflag::APPEND | oflag::NONBLOCK | oflag::DIRECT | oflag::NOATIME;
        let new = (self.flags() & !SETTABLE) | (flags & SETTABLE);
        self.flags.store(new, Ordering::Relaxed);
        self.ops.set_flags(new);
    }

    /// Sets or clears `O_ASYNC`.
    pub fn set_async(&self, is_on: bool) {
        if is_on {
            self.flags.fetch_or(oflag::ASYNC, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!oflag::ASYNC, Ordering::Relaxed);
        }
    }

    /// Who is told of readiness by signals; `make` makes it at the first call, from which on it is woken.
    pub fn async_owner(&self, make: impl FnOnce() -> Arc<dyn AsyncOwner>) -> Arc<dyn AsyncOwner> {
        let (owner, _) = self.owner.get_or_init(|| {
            let owner = make();
            let queue = self.ops.wait_queue();
            let key = queue.map(|q| q.register(owner.clone(), Events::all()));
            (owner, key)
        });
        owner.clone()
    }

    /// Who is told of readiness by signals, if there ever was anybody.
    pub fn existing_async_owner(&self) -> Option<Arc<dyn AsyncOwner>> {
        self.owner.get().map(|(owner, _)| owner.clone())
    }

    /// What was asked for with `F_NOTIFY`; `make` makes it at the first call.
    pub(crate) fn notice(&self, make: impl FnOnce() -> Arc<Notice>) -> &Arc<Notice> {
        self.notice.get_or_init(make)
    }

    pub(crate) fn existing_notice(&self) -> Option<&Arc<Notice>> {
        self.notice.get()
    }

    /// Where the hint of `F_SET_RW_HINT` is: how long what is written will live, as fcntl(2) numbers it.
    pub fn write_hint(&self) -> &AtomicU8 {
        self.path.as_ref().map_or(&self.write_hint, |path| &path.dentry.write_hint)
    }

    /// Whether `read` is allowed.
    pub fn is_readable(&self) -> bool {
        matches!(self.flags() & oflag::ACCMODE, oflag::RDONLY | oflag::RDWR)
            && self.flags() & oflag::PATH == 0
    }

    /// Whether `write` is allowed.
    pub fn is_writable(&self) -> bool {
        matches!(self.flags() & oflag::ACCMODE, oflag::WRONLY | oflag::RDWR)
            && self.flags() & oflag::PATH == 0
    }

    /// Whether an operation that would wait returns `EAGAIN`.
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & oflag::NONBLOCK != 0
    }

    /// `read(2)` at the position.
    ///
    /// # Errors
    /// `EBADF`: not open for reading; and the file's own.
    pub fn read(&self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.is_readable() {
            return Err(EBADF);
        }
        if !self.ops.is_seekable() {
            return self.ops.read_at(0, dst).inspect(|&n| self.tell_if(n, event::ACCESS));
        }
        if self.ops.takes_outer_locks() {
            let position = self.position();
            let n = self.ops.read_at(position, dst)?;
            *self.position.lock() = position + n as u64;
            self.tell_if(n, event::ACCESS);
            return Ok(n);
        }
        let mut position = self.position.lock();
        let n = self.ops.read_at(*position, dst)?;
        *position += n as u64;
        drop(position);
        self.tell_if(n, event::ACCESS);
        Ok(n)
    }

    /// Tells of a call that moved `n` bytes.
    fn tell_if(&self, n: usize, mask: u32) {
        if n > 0 {
            self.tell(mask);
        }
    }

    /// `write(2)` at the position, or at the end with `O_APPEND`.
    ///
    /// # Errors
    /// `EBADF`: not open for writing; and the file's own.
    pub fn write(&self, src: &mut dyn Source) -> Result<usize, Errno> {
        if !self.is_writable() {
            return Err(EBADF);
        }
        if !self.ops.is_seekable() {
            return self.ops.write_at(0, src).inspect(|&n| self.tell_if(n, event::MODIFY));
        }
        if self.ops.takes_outer_locks() {
            let position = self.position();
            let n = self.ops.write_at(position, src)?;
            *self.position.lock() = position + n as u64;
            self.tell_if(n, event::MODIFY);
            return Ok(n);
        }
        let mut position = self.position.lock();
        if self.flags() & oflag::APPEND != 0 && src.remaining() > 0 {
            let (n, end) = self.ops.append(src)?;
            *position = end;
            drop(position);
            self.tell_if(n, event::MODIFY);
            return Ok(n);
        }
        let n = self.ops.write_at(*position, src)?;
        *position += n as u64;
        drop(position);
        self.tell_if(n, event::MODIFY);
        Ok(n)
    }

    /// `pread(2)`.
    ///
    /// # Errors
    /// `ESPIPE`: the file has no position; `EBADF`; and the file's own.
    pub fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        self.check_position()?;
        if !self.is_readable() {
            return Err(EBADF);
        }
        self.ops.read_at(offset, dst).inspect(|&n| self.tell_if(n, event::ACCESS))
    }

    /// Linux asks for a position before it asks for the right to read or write.
    ///
    /// # Errors
    /// `EBADF`: a mere place (`O_PATH`); `ESPIPE`: the file has no position.
    pub fn check_position(&self) -> Result<(), Errno> {
        match (self.flags() & oflag::PATH != 0, self.ops.is_seekable()) {
            (true, _) => Err(EBADF),
            (false, true) => Ok(()),
            (false, false) => Err(ESPIPE),
        }
    }

    /// `pwrite(2)`; appends with `O_APPEND`, as Linux does.
    ///
    /// # Errors
    /// `ESPIPE`: the file has no position; `EBADF`; and the file's own.
    pub fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        self.check_position()?;
        if !self.is_writable() {
            return Err(EBADF);
        }
        if self.flags() & oflag::APPEND != 0 {
            return self.ops.append(src).map(|(n, _)| n).inspect(|&n| self.tell_if(n, event::MODIFY));
        }
        self.ops.write_at(offset, src).inspect(|&n| self.tell_if(n, event::MODIFY))
    }

    /// `lseek(2)`.
    ///
    /// # Errors
    /// `ESPIPE`, `EINVAL`, `ENXIO`, `EOVERFLOW` as lseek(2) says.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        use abi::errno::{ENXIO, EOVERFLOW};
        if self.flags() & oflag::PATH != 0 {
            return Err(EBADF);
        }
        if whence > 4 {
            return Err(EINVAL);
        }
        if self.ops.stays_at_the_start() {
            return Ok(0);
        }
        if !self.ops.is_seekable() {
            // Linux's anonymous inodes accept the call and stay where they are (`noop_llseek`).
            const ACCEPT: [&[u8]; 6] =
                [b"[eventfd]", b"[eventpoll]", b"[timerfd]", b"[signalfd]", b"[fanotify]", b"inotify"];
            let name = self.ops.anonymous_name().unwrap_or_default();
            let accepts = name.strip_prefix(b"anon_inode:").is_some_and(|kind| ACCEPT.contains(&kind));
            return if accepts { Ok(0) } else { Err(ESPIPE) };
        }
        if self.ops.is_memory() {
            let mut position = self.position.lock();
            *position = match whence {
                0 => offset.cast_unsigned(),
                1 => position.wrapping_add_signed(offset),
                _ => return Err(EINVAL),
            };
            return Ok(*position);
        }
        if whence > 1 && !self.ops.has_end() {
            return Err(EINVAL);
        }
        // The sizes that stat(2) shows of some directories are counts, which are no places in them.
        // A server may have to be asked: no lock is held.
        let meta = if whence > 1 { Some(self.ops.metadata()?) } else { None };
        let size = meta.filter(|m| !m.is_dir()).map_or(0, |m| m.size);
        let mut position = self.position.lock();
        let base = match whence {
            0 => 0,
            1 => *position,
            2 => size,
            3 | 4 => {
                let at = u64::try_from(offset).map_err(|_| ENXIO)?;
                if at >= size {
                    return Err(ENXIO);
                }
                *position = match whence {
                    3 => self.ops.seek_data(at, size)?,
                    _ => self.ops.seek_hole(at, size)?,
                };
                return Ok(*position);
            }
            _ => return Err(EINVAL),
        };
        let base = i64::try_from(base).map_err(|_| EOVERFLOW)?;
        let new = base.checked_add(offset).ok_or(EINVAL)?;
        *position = u64::try_from(new).map_err(|_| EINVAL)?;
        Ok(*position)
    }

    /// `getdents64(2)`: entries from the position on; `emit` returns false for an entry that does not fit.
    ///
    /// # Errors
    /// `ENOTDIR`; and the file system's.
    pub fn read_dir(&self, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        if self.ops.takes_outer_locks() {
            let mut position = self.position();
            let result = self.read_dir_from(&mut position, emit);
            *self.position.lock() = position;
            self.tell(event::ACCESS);
            return result;
        }
        let result = self.read_dir_from(&mut self.position.lock(), emit);
        self.tell(event::ACCESS);
        result
    }

    fn read_dir_from(
        &self,
        position: &mut u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut next = *position;
        let result = self.ops.read_dir(*position, &mut |entry| {
            let taken = emit(entry);
            if taken {
                next = entry.next;
            }
            taken
        });
        *position = next;
        result
    }

    /// The position, for `/proc/PID/fdinfo`.
    pub fn position(&self) -> u64 {
        *self.position.lock()
    }

    /// The error of `read` for a directory.
    pub fn directory_error() -> Errno {
        EISDIR
    }
}

/// Whether a description with `flags` reads, and does nothing else.
fn only_reads(flags: u32) -> bool {
    flags & (oflag::ACCMODE | oflag::PATH) == oflag::RDONLY
}

impl Drop for FileDescription {
    fn drop(&mut self) {
        if let Some((_, Some(key))) = self.owner.take()
            && let Some(queue) = self.ops.wait_queue()
        {
            queue.unregister(key);
        }
        if let Some(&(file, owner)) = self.locked.get() {
            crate::locks::release(file, owner);
            crate::leases::release(file, owner);
        }
        if self.flags() & oflag::PATH == 0 {
            self.tell(if self.is_writable() { event::CLOSE_WRITE } else { event::CLOSE_NOWRITE });
        }
        if let Some(path) = &self.path
            && path.dentry.remove_open(only_reads(self.flags()))
            && path.dentry.is_dead()
            && notify::is_used()
            && path.inode().metadata().is_ok_and(|m| m.nlink == 0)
        {
            notify::gone(&path.mount, &path.dentry);
        }
    }
}
