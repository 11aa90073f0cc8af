//! A directory of the host.
//!
//! Every file is reached by single names from the directory above it, never by a path and never through a symbolic
//! link of the host's. Descriptors are a cache: few are held, and one that was closed is opened again by name and
//! compared with the file that was seen first.
//! A tree is `shared` when the host may change it while guests look: then names are checked whenever they are used, and
//! cached pages are dropped once the file's stamps or size are not what they were. An exclusive tree that guests may only
//! read stays as it is: what was read once is not asked again. Of an exclusive one that they write, it is asked again once
//! they have changed it.
//!
//! Reading order: this file (the inode), `fds.rs` (descriptors), `known.rs` (what is not asked
//! again), `data.rs` (bytes and pages), `change.rs` (writable
//! trees), `open.rs`, `outside.rs` (changes of the host's that guests watch), `reclaim.rs` (how many pages are kept).

mod change;
mod data;
mod fds;
mod known;
mod open;
mod outside;
mod reclaim;
#[cfg(test)]
mod tests;
mod xattr;

use std::any::Any;
use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR, ENXIO, EROFS};
use base::lock::{Lock, rank};
use base::memmap::Memory;
use base::time::Time;
use host::file::{Stat, stat_child};

use crate::anon::pipe::Fifo;
use crate::file::{FileOps, Metadata};
use crate::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, XattrFlags, mode};
use data::Data;
use fds::Fds;
use known::Known;
pub use reclaim::{cached_bytes, flush, reclaim, set_cache_limit};

/// Who changes the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Guests may.
    pub is_writable: bool,
    /// The host may meanwhile: what was seen once is asked again.
    pub is_shared: bool,
}

impl Mode {
    /// Nobody changes anything.
    pub const READ_ONLY: Self = Self { is_writable: false, is_shared: false };
    /// Guests and the host do.
    pub const SHARED: Self = Self { is_writable: true, is_shared: true };

    /// Whether nothing ever changes.
    const fn is_stable(self) -> bool {
        !self.is_writable && !self.is_shared
    }
}

struct Fs {
    memory: Arc<dyn Memory>,
    mode: Mode,
    fds: Fds,
    /// The pages of files with several names, by device and inode number.
    shared: Lock<HashMap<(u64, u64), Weak<Data>>, { rank::LEAF }>,
    /// Goes up with each change that may concern what other inodes know.
    generation: AtomicU64,
    /// Another file system changes names without the VFS.
    is_changed_untold: AtomicBool,
    lists: xattr::Lists,
}

/// Where a file was found. `parent` is `None` at the root; without a name (`O_TMPFILE`) the file is below `parent` still.
#[derive(Clone)]
struct Place {
    parent: Option<Arc<HostInode>>,
    name: CString,
}

/// A file of the host.
struct HostInode {
    me: Weak<HostInode>,
    fs: Arc<Fs>,
    /// As it was when the file was found; of a writable tree only type, device and number count.
    stat: Stat,
    place: Lock<Place, { rank::LEAF }>,
    fd: fds::Slot,
    known: Lock<Known, { rank::LEAF }>,
    /// It was given another name.
    was_linked: AtomicBool,
    /// When it was found to have no access control list.
    unlisted: xattr::Moment,
    data: OnceLock<Arc<Data>>,
    /// What writers and readers of a FIFO share: guests meet there, the host does not take part.
    fifo: OnceLock<Box<Fifo>>,
}

impl fmt::Debug for HostInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostInode").field("ino", &self.stat.ino).finish_non_exhaustive()
    }
}

/// Shows the host's directory `dir`, which is opened here once; returns its root.
///
/// # Errors
/// What opening gives.
pub fn new(memory: Arc<dyn Memory>, dir: &Path, mode: Mode) -> Result<Arc<dyn Inode>, Errno> {
    let root = host::file::open_root(dir)?;
    let stat = host::file::stat(root.as_fd())?;
    let fs = Arc::new(Fs {
        memory,
        mode,
        fds: Fds::default(),
        shared: Lock::new(HashMap::new()),
        generation: AtomicU64::new(0),
        is_changed_untold: AtomicBool::new(false),
        lists: xattr::Lists::default(),
    });
    let place = Place { parent: None, name: CString::default() };
    let inode = HostInode::new(&fs, stat, place);
    inode.fd.pin(root);
    inode.hands_lists_on();
    Ok(inode)
}

fn metadata(stat: &Stat) -> Metadata {
    let time = |(sec, nsec)| Time { sec, nsec };
    Metadata {
        dev: stat.dev,
        ino: stat.ino,
        mode: stat.mode,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        size: stat.size,
        blksize: stat.blksize,
        blocks: stat.blocks,
        atime: time(stat.atime),
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
        btime: time(stat.ctime),
        flags: 0,
    }
}

impl HostInode {
    fn new(fs: &Arc<Fs>, stat: Stat, place: Place) -> Arc<Self> {
        let inode = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            fs: fs.clone(),
            stat,
            place: Lock::new(place),
            fd: fds::Slot::default(),
            known: Lock::default(),
            was_linked: AtomicBool::new(false),
            unlisted: xattr::Moment::default(),
            data: OnceLock::new(),
            fifo: OnceLock::new(),
        });
        inode.learn();
        inode
    }

    fn arc(&self) -> Result<Arc<Self>, Errno> {
        self.me.upgrade().ok_or(ENOENT)
    }

    fn kind(&self) -> FileType {
        FileType::from_mode(self.stat.mode)
    }

    fn place(&self) -> Place {
        self.place.lock().clone()
    }

    /// What the VFS sees of what the host tells.
    fn shown(&self, stat: &Stat) -> Metadata {
        Metadata { flags: self.list_flags(stat), ..metadata(stat) }
    }

    fn is_writable(&self) -> bool {
        self.fs.mode.is_writable
    }

    /// # Errors
    /// `EROFS`.
    fn want_write(&self) -> Result<(), Errno> {
        if self.is_writable() { Ok(()) } else { Err(EROFS) }
    }

    /// What the host says now, or said when nothing changes.
    fn stat(&self) -> Result<Stat, Errno> {
        if self.fs.mode.is_stable() {
            return Ok(self.stat);
        }
        let stat = self.known_or(|| match self.fd.current() {
            Some(fd) => host::file::stat(fd.as_fd()),
            None => {
                let place = self.place();
                match place.parent {
                    Some(parent) => stat_child(parent.fd()?.as_fd(), &place.name),
                    None => host::file::stat(self.fd()?.as_fd()),
                }
            }
        })?;
        if let Some(data) = self.data.get() {
            data.notice(&stat);
        }
        Ok(stat)
    }

    /// The file that has `name` in this directory.
    fn find(&self, name: &[u8]) -> Result<Arc<Self>, Errno> {
        if self.kind() != FileType::Directory {
            return Err(ENOTDIR);
        }
        let name = host::file::name(name)?;
        let stat = stat_child(self.fd()?.as_fd(), &name)?;
        Ok(Self::new(&self.fs, stat, Place { parent: Some(self.arc()?), name }))
    }

    /// The bytes of a regular file; one for all its names.
    fn data(&self) -> Result<&Arc<Data>, Errno> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let key = (self.stat.dev, self.stat.ino);
        let mut shared = self.fs.shared.lock();
        // Another name of it may be gone that is still open.
        let known = shared.get(&key).and_then(Weak::upgrade);
        let data = match known {
            Some(data) => data,
            None => {
                let data = Data::new(&self.fs, &self.stat);
                if self.has_names() {
                    shared.retain(|_, data| data.strong_count() > 0);
                    shared.insert(key, Arc::downgrade(&data));
                }
                data
            }
        };
        drop(shared);
        data.add_name(&self.me);
        Ok(self.data.get_or_init(|| data))
    }

    /// The file is going to get another name: what is found there shares its bytes.
    fn add_name(&self) {
        self.was_linked.store(true, Ordering::SeqCst);
        if let Some(data) = self.data.get() {
            let key = (self.stat.dev, self.stat.ino);
            self.fs.shared.lock().insert(key, Arc::downgrade(data));
        }
        self.changed();
    }
}

impl Inode for HostInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(self.shown(&self.stat()?))
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(self.kind())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn sync_fs(&self) -> Result<(), Errno> {
        if !self.is_writable() {
            return Ok(());
        }
        flush();
        host::file::sync_fs(self.fd()?.as_fd())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        // What cannot be opened, such as a symbolic link, is on its directory's file system.
        let fd = match (self.fd(), self.place().parent) {
            (Err(_), Some(parent)) => parent.fd()?,
            (fd, _) => fd?,
        };
        let s = host::system::fs_space(fd.as_fd())?;
        Ok(StatFs {
            kind: s.kind,
            block_size: s.block_size,
            blocks: s.blocks,
            free: s.free,
            available: s.available,
            files: s.files,
            files_free: s.files_free,
            name_len: s.name_len,
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.find(name)?)
    }

    fn names_change(&self) -> bool {
        self.fs.mode.is_shared
    }

    fn watched(&self, mask: u32) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(outside::watch(self, mask)?))
    }

    fn inherits_lists(&self) -> bool {
        true
    }

    fn is_still(&self, name: &[u8]) -> bool {
        let place = self.place();
        let (Some(parent), Ok(name)) = (place.parent, host::file::name(name)) else { return false };
        let now = parent.fd().and_then(|fd| stat_child(fd.as_fd(), &name));
        now.is_ok_and(|now| {
            (now.dev, now.ino, now.mode & mode::IFMT)
                == (self.stat.dev, self.stat.ino, self.stat.mode & mode::IFMT)
        })
    }

    fn create(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        change::create(self, name, mode, owner)
    }

    fn tmpfile(&self, mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        change::tmpfile(self, mode, owner)
    }

    fn mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        change::make(self, name, owner, Some(mode), |dir, name| host::file::mkdir(dir, name, mode & 0o7777))
    }

    fn mknod(&self, name: &[u8], mode: u32, _rdev: u64, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        change::make(self, name, owner, Some(mode), |dir, name| host::file::mknod(dir, name, mode))
    }

    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        change::make(self, name, owner, None, |dir, name| host::file::symlink(target, dir, name))
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
        change::link(self, name, inode)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        change::remove(self, name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        change::remove(self, name, true)
    }

    fn rename(
        &self,
        old_name: &[u8],
        new_parent: &Arc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        change::rename(self, old_name, new_parent, new_name, flags)
    }

    fn lost_name(&self) {
        self.changed();
    }

    fn is_changed_untold(&self) {
        self.fs.is_changed_untold.store(true, Ordering::SeqCst);
    }

    fn moved(&self, new_parent: &Arc<dyn Inode>, new_name: &[u8]) {
        self.changed();
        change::moved(self, new_parent, new_name);
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        if self.kind() != FileType::Symlink {
            return Err(EINVAL);
        }
        let place = self.place();
        let parent = place.parent.ok_or(ENOENT)?;
        host::file::read_link(parent.fd()?.as_fd(), &place.name)
    }

    fn set_attributes(&self, set: &SetAttributes) -> Result<(), Errno> {
        change::set_attributes(self, set)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattr_value(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        self.change_xattr(name, Some((value, flags)))
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        self.xattr_names()
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.change_xattr(name, None)
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        match self.kind() {
            FileType::Regular => {
                // Whether the host lets us, is said now.
                let fd = self.fd()?;
                Ok(Box::new(open::OpenFile::new(self, fd, flags)?))
            }
            FileType::Directory => Ok(Box::new(open::OpenDirectory::new(self))),
            FileType::Symlink => Err(ELOOP),
            FileType::Char | FileType::Block => Err(EACCES),
            FileType::Fifo => {
                let inode: Arc<dyn Inode> = self.clone();
                self.fifo.get_or_init(Box::default).open(&inode, flags)
            }
            FileType::Socket | FileType::Anonymous => Err(ENXIO),
        }
    }
}

impl Drop for HostInode {
    fn drop(&mut self) {
        // A deep chain of parents is taken apart without recursion.
        let mut next = self.place.get_mut().parent.take();
        while let Some(parent) = next {
            next = match Arc::try_unwrap(parent) {
                Ok(mut last) => last.place.get_mut().parent.take(),
                Err(_) => None,
            };
        }
    }
}
