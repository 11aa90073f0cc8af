//! Files that live in the memory file: tmpfs, memfds, and the upper layer of an overlay.
//!
//! Reading order: this file (the inode), `dir.rs` (names), `data.rs` (the bytes of regular files), `space.rs` (limits and
//! mount options).

mod data;
mod dir;
mod space;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EEXIST, EINVAL, EISDIR, ENODATA, ENOTDIR, ENXIO, EPERM};
use base::lock::{Lock, rank};
use base::memmap::Memory;
use base::time::Time;

use crate::anon::pipe::Fifo;
use crate::file::{DirEntry, FileOps, Metadata};
use crate::vfs::{ACCESS, DEFAULT, FileType, Inode, Owner, SetAttributes, StatFs, XattrFlags, iflag, mode};
use data::Data;
pub use data::{new_memfd, seal, zero_pages};
use dir::Directory;
use space::{Options, Space};

/// How a device node of this file system is opened.
pub type OpenDevice = Arc<dyn Fn(&Arc<dyn Inode>, u64, u32) -> Result<Box<dyn FileOps>, Errno> + Send + Sync>;

/// What the inodes of one tmpfs share.
struct Fs {
    memory: Arc<dyn Memory>,
    dev: u64,
    next_ino: AtomicU64,
    /// Opens devices: gets the inode, `st_rdev` and the open flags.
    open_special: Option<OpenDevice>,
    space: Arc<Space>,
    /// Options that are shown: those of the root, and of huge pages.
    shown: String,
}

/// What a file is.
enum Body {
    Regular(Arc<Data>),
    Directory(Lock<Directory, { rank::INODE }>),
    Symlink(Symlink),
    /// A device or socket.
    Special(u64),
    Fifo(Fifo),
}

/// Where a symbolic link leads.
struct Symlink {
    target: Box<[u8]>,
    /// What it takes of the space: a page for a long one.
    taken: u64,
}

/// Targets of symbolic links that lie in the inode, with the final zero (Linux 6.12 mm/shmem.c, `SHORT_SYMLINK_LEN`).
const SHORT_SYMLINK_LEN: usize = 128;

/// What changes of every inode.
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    atime: Time,
    mtime: Time,
    ctime: Time,
    btime: Time,
    /// `iflag` bits.
    flags: u32,
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Attributes {
    /// Which access control lists there are, as `iflag` bits.
    fn lists(&self) -> u32 {
        if self.xattrs.is_empty() {
            return 0;
        }
        let bit = |name: &[u8], bit| if self.xattrs.contains_key(name) { bit } else { 0 };
        bit(ACCESS, iflag::ACL) | bit(DEFAULT, iflag::DEFAULT_ACL)
    }
}

/// A file of a tmpfs.
struct TmpInode {
    fs: Arc<Fs>,
    ino: u64,
    body: Body,
    attributes: Lock<Attributes, { rank::LEAF }>,
}

impl fmt::Debug for TmpInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TmpInode").field("ino", &self.ino).finish_non_exhaustive()
    }
}

/// The time that new stamps get.
pub(crate) fn now() -> Time {
    Time::from_ns(host::clock::now_ns(host::clock::HostClock::Realtime))
}

/// Makes an empty tmpfs; returns its root, of `mode` and user 0.
pub fn new(memory: Arc<dyn Memory>, mode: u32) -> Arc<dyn Inode> {
    with_devices(memory, mode, None)
}

/// Makes an empty tmpfs whose device nodes are opened by `open_special`.
pub fn with_devices(memory: Arc<dyn Memory>, mode: u32, open_special: Option<OpenDevice>) -> Arc<dyn Inode> {
    let space = Arc::new(Space::all_of(memory.total()));
    let fs = Arc::new(Fs {
        memory,
        dev: crate::vfs::new_dev(),
        next_ino: AtomicU64::new(1),
        open_special,
        space,
        shown: format!(",mode={mode:o}"),
    });
    let body = Body::Directory(Lock::new(Directory::default()));
    TmpInode::new(&fs, body, mode::IFDIR | mode & 0o7777, Owner { uid: 0, gid: 0 })
}

/// Makes a tmpfs as mount(2) does, with its options; returns its root.
///
/// # Errors
/// `EINVAL`: an option or value is not known.
pub fn mountable(
    memory: Arc<dyn Memory>,
    options: &[u8],
    open_special: Option<OpenDevice>,
) -> Result<Arc<dyn Inode>, Errno> {
    let total = memory.total();
    let options = Options::parse(options, total)?;
    let space = Space::half_of(total);
    space.apply(&options)?;
    let (mode, uid, gid) =
        (options.mode.unwrap_or(0o1777), options.uid.unwrap_or(0), options.gid.unwrap_or(0));
    let mut shown = String::new();
    if mode != 0o1777 {
        shown = format!(",mode={mode:03o}");
    }
    for (name, id) in [("uid", uid), ("gid", gid)] {
        if id != 0 {
            shown += &format!(",{name}={id}");
        }
    }
    if let Some(huge) = options.huge.filter(|h| h != "never") {
        shown += &format!(",huge={huge}");
    }
    let fs = Arc::new(Fs {
        memory,
        dev: crate::vfs::new_dev(),
        next_ino: AtomicU64::new(1),
        open_special,
        space: Arc::new(space),
        shown,
    });
    let body = Body::Directory(Lock::new(Directory::default()));
    Ok(TmpInode::new(&fs, body, mode::IFDIR | mode, Owner { uid, gid }))
}

/// Whether mount options for a tmpfs in a sandbox of `total` bytes can be understood.
///
/// # Errors
/// `EINVAL`.
pub fn check_options(options: &[u8], total: u64) -> Result<(), Errno> {
    Options::parse(options, total).map(drop)
}

impl TmpInode {
    fn new(fs: &Arc<Fs>, body: Body, mode: u32, owner: Owner) -> Arc<Self> {
        fs.space.add_inode();
        let now = now();
        let nlink = if matches!(body, Body::Directory(_)) { 2 } else { 1 };
        Arc::new(Self {
            fs: fs.clone(),
            ino: fs.next_ino.fetch_add(1, Ordering::Relaxed),
            body,
            attributes: Lock::new(Attributes {
                mode,
                uid: owner.uid,
                gid: owner.gid,
                nlink,
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
                flags: 0,
                xattrs: BTreeMap::new(),
            }),
        })
    }

    fn regular(fs: &Arc<Fs>, mode: u32, owner: Owner) -> Arc<Self> {
        let data = Data::new(fs.memory.clone(), fs.space.clone());
        Self::new(fs, Body::Regular(data), mode::IFREG | mode & 0o7777, owner)
    }

    fn dir(&self) -> Result<&Lock<Directory, { rank::INODE }>, Errno> {
        match &self.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(ENOTDIR),
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn kind(&self) -> FileType {
        match self.body {
            Body::Regular(_) => FileType::Regular,
            Body::Directory(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
            Body::Fifo(_) => FileType::Fifo,
            Body::Special(_) => FileType::from_mode(self.attributes.lock().mode),
        }
    }

    /// Contents changed: both stamps.
    fn touch_modified(&self) {
        let now = now();
        let mut a = self.attributes.lock();
        a.mtime = now;
        a.ctime = now;
    }

    fn add_links(&self, n: i64) {
        let mut a = self.attributes.lock();
        a.nlink = a.nlink.saturating_add_signed(n);
        a.ctime = now();
    }

    /// Enters a new file into this directory.
    fn enter(&self, name: &[u8], child: Arc<Self>) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.space.check_inodes()?;
        let mut dir = self.dir()?.lock();
        if self.attributes.lock().nlink == 0 {
            return Err(abi::errno::ENOENT);
        }
        if dir.find(name).is_some() {
            return Err(EEXIST);
        }
        dir.insert(name, child.clone());
        if child.is_dir() {
            self.add_links(1);
        }
        self.touch_modified();
        Ok(child)
    }

    fn set_size(&self, size: u64) -> Result<(), Errno> {
        match &self.body {
            Body::Regular(data) => data.truncate(size),
            Body::Directory(_) => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }

    /// Somebody read: the stamp follows as with the mount option `relatime`.
    ///
    /// Source: Linux 6.12 fs/inode.c, `relatime_need_update`.
    fn touch(&self) {
        const DAY: i64 = 24 * 60 * 60;
        let now = now();
        let mut a = self.attributes.lock();
        if a.flags & iflag::NOATIME != 0 {
            return;
        }
        if a.atime <= a.mtime || a.atime <= a.ctime || now.sec - a.atime.sec >= DAY {
            a.atime = now;
        }
    }

    /// Takes over what was written through mappings.
    fn absorb_mapped_writes(&self) {
        if let Body::Regular(data) = &self.body
            && let Some(time) = data.take_mapped_write()
        {
            let mut a = self.attributes.lock();
            a.mtime = time;
            a.ctime = time;
        }
    }
}

impl Inode for TmpInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        self.absorb_mapped_writes();
        let (size, blocks, rdev) = match &self.body {
            Body::Regular(data) => (data.size(), data.allocated() / 512, 0),
            Body::Directory(dir) => (dir.lock().len() as u64 * 20 + 40, 0, 0),
            Body::Symlink(link) => (link.target.len() as u64, link.taken / 512, 0),
            Body::Fifo(_) => (0, 0, 0),
            Body::Special(rdev) => (0, 0, *rdev),
        };
        let a = self.attributes.lock();
        Ok(Metadata {
            dev: self.fs.dev,
            ino: self.ino,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev,
            size,
            blksize: 4096,
            blocks,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            btime: a.btime,
            flags: a.flags | a.lists(),
        })
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(self.kind())
    }

    fn mount_options(&self) -> String {
        self.fs.space.show() + &self.fs.shown
    }

    fn reconfigure(&self, options: &[u8]) -> Result<(), Errno> {
        self.fs.space.apply(&Options::parse(options, self.fs.memory.total())?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.dir()?.lock().find(name);
        found.map(|inode| inode as Arc<dyn Inode>).ok_or(abi::errno::ENOENT)
    }

    fn create(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.enter(name, Self::regular(&self.fs, mode, owner))
    }

    fn tmpfile(&self, mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let inode = Self::regular(&self.fs, mode, owner);
        self.fs.space.check_inodes()?;
        inode.attributes.lock().nlink = 0;
        Ok(inode)
    }

    fn mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let body = Body::Directory(Lock::new(Directory::default()));
        self.enter(name, Self::new(&self.fs, body, mode::IFDIR | mode & 0o7777, owner))
    }

    fn mknod(&self, name: &[u8], mode: u32, rdev: u64, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        match mode & mode::IFMT {
            mode::IFREG => self.create(name, mode, owner),
            mode::IFIFO => self.enter(name, Self::new(&self.fs, Body::Fifo(Fifo::default()), mode, owner)),
            mode::IFCHR | mode::IFBLK | mode::IFSOCK => {
                self.enter(name, Self::new(&self.fs, Body::Special(rdev), mode, owner))
            }
            _ => Err(EINVAL),
        }
    }

    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let is_long = target.len() >= SHORT_SYMLINK_LEN;
        let taken = if is_long { self.fs.space.take(base::PAGE_SIZE)? } else { 0 };
        let body = Body::Symlink(Symlink { target: target.into(), taken });
        self.enter(name, Self::new(&self.fs, body, mode::IFLNK | 0o777, owner))
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
        dir::link(self, name, inode)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        dir::unlink(self, name)
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        dir::rmdir(self, name)
    }

    fn rename(
        &self,
        old_name: &[u8],
        new_parent: &Arc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        dir::rename(self, old_name, new_parent, new_name, flags)
    }

    /// Without a limit of their own, files take what memory the sandbox has left.
    fn statfs(&self) -> Result<StatFs, Errno> {
        let (total, used) = match self.fs.space.bytes() {
            Some(limits) => limits,
            None => (self.fs.memory.total(), self.fs.memory.resident()),
        };
        let free = total.saturating_sub(used) / base::PAGE_SIZE;
        let (files, inodes) = self.fs.space.inodes().unwrap_or_default();
        Ok(StatFs {
            files,
            files_free: files.saturating_sub(inodes),
            kind: StatFs::TMPFS,
            block_size: base::PAGE_SIZE,
            blocks: total / base::PAGE_SIZE,
            free,
            available: free,
            name_len: 255,
        })
    }

    fn accessed(&self) {
        self.touch();
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        match &self.body {
            Body::Symlink(link) => Ok(link.target.to_vec()),
            _ => Err(EINVAL),
        }
    }

    fn set_attributes(&self, set: &SetAttributes) -> Result<(), Errno> {
        if let Some(size) = set.size {
            self.set_size(size)?;
        }
        self.absorb_mapped_writes();
        let now = now();
        let mut a = self.attributes.lock();
        if let Some(mode) = set.mode {
            if let Body::Regular(data) = &self.body
                && data.has_seal(seal::EXEC)
                && (mode ^ a.mode) & 0o111 != 0
            {
                return Err(EPERM);
            }
            a.mode = a.mode & mode::IFMT | mode & 0o7777;
        }
        a.uid = set.uid.unwrap_or(a.uid);
        a.gid = set.gid.unwrap_or(a.gid);
        if set.size.is_some() {
            a.mtime = now;
        }
        a.atime = set.atime.unwrap_or(a.atime);
        a.mtime = set.mtime.unwrap_or(a.mtime);
        a.ctime = now;
        Ok(())
    }

    fn flags(&self) -> Result<u32, Errno> {
        Ok(self.attributes.lock().flags)
    }

    fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        let mut a = self.attributes.lock();
        a.flags = flags;
        a.ctime = now();
        Ok(())
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.attributes.lock().xattrs.get(name).map(|v| v.to_vec()).ok_or(ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let mut a = self.attributes.lock();
        match (flags, a.xattrs.contains_key(name)) {
            (XattrFlags::Create, true) => return Err(EEXIST),
            (XattrFlags::Replace, false) => return Err(ENODATA),
            _ => {}
        }
        // Kernel memory that a guest fills has a bound.
        let held: usize = a.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if held + name.len() + value.len() > 256 << 10 {
            return Err(abi::errno::ENOSPC);
        }
        a.xattrs.insert(name.into(), value.into());
        a.ctime = now();
        Ok(())
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.attributes.lock().xattrs.keys().map(|k| k.to_vec()).collect())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let mut a = self.attributes.lock();
        a.xattrs.remove(name).ok_or(ENODATA)?;
        a.ctime = now();
        Ok(())
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        match &self.body {
            Body::Regular(_) => Ok(Box::new(data::OpenFile::new(self, flags))),
            Body::Directory(_) => Ok(Box::new(OpenDirectory(self))),
            Body::Symlink(_) => Err(abi::errno::ELOOP),
            Body::Fifo(fifo) => {
                let inode: Arc<dyn Inode> = self.clone();
                fifo.open(&inode, flags)
            }
            Body::Special(rdev) => {
                let rdev = *rdev;
                let open = self.fs.open_special.clone().ok_or(ENXIO)?;
                let inode: Arc<dyn Inode> = self;
                open(&inode, rdev, flags)
            }
        }
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.fs.space.remove_inode();
        if let Body::Symlink(link) = &self.body
            && link.taken > 0
        {
            self.fs.space.give(link.taken);
        }
    }
}

/// An open directory.
#[derive(Debug)]
struct OpenDirectory(Arc<TmpInode>);

impl FileOps for OpenDirectory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _: u64, _: &mut dyn base::io::Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        self.0.touch();
        let dots: [(&[u8], u64); 2] = [(b".", 1), (b"..", 2)];
        for (name, next) in dots.into_iter().filter(|&(_, next)| next > offset) {
            // The number of `..` is the directory's own: the file system does not know what is above its root.
            let entry = DirEntry { ino: self.0.ino, next, kind: FileType::Directory.dt(), name };
            if !emit(entry) {
                return Ok(());
            }
        }
        self.0.dir()?.lock().each(offset.max(2), |cookie, name, child| {
            let kind = child.kind().dt();
            emit(DirEntry { ino: child.ino, next: cookie, kind, name })
        });
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
