//! `/dev/pts`: the terminals by number, and `ptmx`, which makes new ones (pts(4), Linux fs/devpts/inode.c).

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EIO, EISDIR, ENOENT, ENOSPC};
use base::lock::{Lock, rank};
use base::time::Time;

use super::{MasterFile, SlaveFile, Terminal, Terminals};
use crate::devfs::PTMX;
use crate::file::{DirEntry, FileOps, Metadata};
use crate::tmpfs::now;
use crate::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, mode};

/// Most terminals of one instance (Linux's `kernel.pty.max`).
const MAX: usize = 4096;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// The inode of terminal 0.
const FIRST_INO: u64 = 3;

static NEXT_DEV: AtomicU64 = AtomicU64::new(0x4000);

/// What mount options say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The group of new terminals; their maker's without.
    pub gid: Option<u32>,
    /// The user of new terminals; their maker without.
    pub uid: Option<u32>,
    /// The permissions of new terminals.
    pub mode: u32,
    /// The permissions of `ptmx`.
    pub ptmx_mode: u32,
}

impl Default for Options {
    /// As container runtimes mount it: `gid=5,mode=620,ptmxmode=666`.
    fn default() -> Self {
        Self { gid: Some(5), uid: None, mode: 0o620, ptmx_mode: 0o666 }
    }
}

/// What can be changed of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
}

impl Attributes {
    fn new(mode: u32, owner: Owner) -> Self {
        let now = now();
        Self { mode, uid: owner.uid, gid: owner.gid, atime: now, mtime: now, ctime: now }
    }

    fn set(&mut self, new: &SetAttributes) {
        self.mode = new.mode.unwrap_or(self.mode);
        self.uid = new.uid.unwrap_or(self.uid);
        self.gid = new.gid.unwrap_or(self.gid);
        self.atime = new.atime.unwrap_or(self.atime);
        self.mtime = new.mtime.unwrap_or(self.mtime);
        self.ctime = now();
    }
}

/// An instance of the file system.
pub struct Devpts {
    all: Weak<Terminals>,
    options: Options,
    dev: u64,
    slots: Lock<Vec<Option<Arc<Terminal>>>, { rank::LEAF }>,
    root: Lock<Attributes, { rank::LEAF }>,
    ptmx: Lock<Attributes, { rank::LEAF }>,
}

impl fmt::Debug for Devpts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devpts").field("dev", &self.dev).finish_non_exhaustive()
    }
}

impl Devpts {
    /// Makes an instance without terminals.
    pub fn new(all: &Arc<Terminals>, options: Options) -> Arc<Self> {
        let root = Owner { uid: 0, gid: 0 };
        Arc::new(Self {
            all: Arc::downgrade(all),
            options,
            dev: NEXT_DEV.fetch_add(1, Ordering::Relaxed),
            slots: Lock::new(Vec::new()),
            root: Lock::new(Attributes::new(mode::IFDIR | 0o755, root)),
            ptmx: Lock::new(Attributes::new(mode::IFCHR | options.ptmx_mode & 0o7777, root)),
        })
    }

    /// The root directory.
    pub fn root(self: &Arc<Self>) -> Arc<dyn Inode> {
        Arc::new(Node { fs: self.clone(), kind: Kind::Root })
    }

    /// Makes a terminal with nobody's program on it, locked as `ptmx` leaves it.
    ///
    /// # Errors
    /// `ENOSPC`: there are too many.
    pub fn allocate(self: &Arc<Self>) -> Result<Arc<Terminal>, Errno> {
        let maker = self
            .all
            .upgrade()
            .and_then(|all| all.jobs())
            .map_or(Owner { uid: 0, gid: 0 }, |jobs| jobs.owner());
        let owner =
            Owner { uid: self.options.uid.unwrap_or(maker.uid), gid: self.options.gid.unwrap_or(maker.gid) };
        let attributes = Attributes::new(mode::IFCHR | self.options.mode & 0o7777, owner);
        let mut slots = self.slots.lock();
        let at = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        if at >= MAX {
            return Err(ENOSPC);
        }
        let index = u32::try_from(at).map_err(|_| ENOSPC)?;
        let tty = Terminal::new(self.all.clone(), Arc::downgrade(self), index, attributes);
        if at == slots.len() {
            slots.push(None);
        }
        slots[at] = Some(tty.clone());
        Ok(tty)
    }

    /// Opens `ptmx`.
    pub(super) fn open_master(self: &Arc<Self>, inode: Arc<dyn Inode>) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(MasterFile::new(self.allocate()?, inode)))
    }

    pub(super) fn free(&self, index: u32) {
        let freed = self.slots.lock().get_mut(index as usize).and_then(Option::take);
        drop(freed);
    }

    /// The terminal of this number that somebody is behind.
    fn find(&self, index: u32) -> Option<Arc<Terminal>> {
        let found = self.slots.lock().get(index as usize).cloned().flatten();
        found.filter(|tty| tty.has_master())
    }
}

#[derive(Clone)]
enum Kind {
    Root,
    Ptmx,
    Slave(Arc<Terminal>),
}

/// A file of the instance.
struct Node {
    fs: Arc<Devpts>,
    kind: Kind,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("ino", &self.ino()).finish_non_exhaustive()
    }
}

/// A decimal number without leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let value: u32 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

impl Node {
    fn ino(&self) -> u64 {
        match &self.kind {
            Kind::Root => ROOT_INO,
            Kind::Ptmx => PTMX_INO,
            Kind::Slave(tty) => FIRST_INO + u64::from(tty.index),
        }
    }

    fn attributes(&self) -> &Lock<Attributes, { rank::LEAF }> {
        match &self.kind {
            Kind::Root => &self.fs.root,
            Kind::Ptmx => &self.fs.ptmx,
            Kind::Slave(tty) => &tty.attributes,
        }
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let a = *self.attributes().lock();
        Ok(Metadata {
            dev: self.fs.dev,
            ino: self.ino(),
            mode: a.mode,
            nlink: if matches!(self.kind, Kind::Root) { 2 } else { 1 },
            uid: a.uid,
            gid: a.gid,
            rdev: match &self.kind {
                Kind::Root => 0,
                Kind::Ptmx => PTMX,
                Kind::Slave(tty) => tty.device(),
            },
            blksize: 1024,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            ..Metadata::default()
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if !matches!(self.kind, Kind::Root) {
            return Err(abi::errno::ENOTDIR);
        }
        let kind = match name {
            b"ptmx" => Kind::Ptmx,
            name => Kind::Slave(number(name).and_then(|n| self.fs.find(n)).ok_or(ENOENT)?),
        };
        Ok(Arc::new(Self { fs: self.fs.clone(), kind }))
    }

    fn create(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EACCES)
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        let mut a = self.attributes().lock();
        let kind = a.mode & mode::IFMT;
        a.set(attributes);
        a.mode = kind | a.mode & 0o7777;
        Ok(())
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        match &self.kind {
            Kind::Root => Ok(Box::new(OpenRoot(self))),
            Kind::Ptmx => self.fs.clone().open_master(self),
            Kind::Slave(tty) if tty.has_master() => {
                Ok(Box::new(SlaveFile::open(&tty.clone(), self.clone(), flags)?))
            }
            Kind::Slave(_) => Err(EIO),
        }
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
        Ok(StatFs { kind: DEVPTS_SUPER_MAGIC, block_size: 4096, name_len: 255, ..StatFs::default() })
    }

    fn mount_options(&self) -> String {
        let o = &self.fs.options;
        let id = |name: &str, id: Option<u32>| id.map_or(String::new(), |id| format!(",{name}={id}"));
        let ids = id("uid", o.uid) + &id("gid", o.gid);
        format!("{ids},mode={:03o},ptmxmode={:03o}", o.mode, o.ptmx_mode)
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The open directory.
#[derive(Debug)]
struct OpenRoot(Arc<Node>);

impl FileOps for OpenRoot {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn base::io::Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let dir = FileType::Directory.dt();
        let char = FileType::Char.dt();
        let mut entries: Vec<(u64, u8, Vec<u8>)> = vec![
            (ROOT_INO, dir, b".".to_vec()),
            (ROOT_INO, dir, b"..".to_vec()),
            (PTMX_INO, char, b"ptmx".to_vec()),
        ];
        let present: Vec<Arc<Terminal>> = self.0.fs.slots.lock().iter().flatten().cloned().collect();
        let living = present.iter().filter(|tty| tty.has_master());
        entries.extend(living.map(|tty| {
            let index = tty.index;
            (FIRST_INO + u64::from(index), char, index.to_string().into_bytes())
        }));
        for (i, (ino, kind, name)) in
            entries.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
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
