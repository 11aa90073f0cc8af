//! A writable view of a read-only tree: changes go to an in-memory upper layer.
//!
//! The upper layer marks a removed name with a character device 0:0 (a whiteout) and a directory that hides the lower
//! one with the attribute `trusted.overlay.opaque`, as Linux's overlayfs does. A file is copied up before it is written,
//! linked, renamed or given other attributes. A directory that is renamed takes its lower directory along.
//!
//! Reading order: this file (the inode), `copy_up.rs`, `names.rs` (changes of names), `open.rs` (open files).
//! Locks: `layers` and `children` are leaves, never held over a call of a layer; `copying` (rank `OVERLAY`) serialises the
//! copies of one file system and comes before the layers' inodes.

mod copy_up;
mod names;
mod open;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::errno::{EINVAL, EIO, ENODATA, ENOENT, ENOTDIR, ENOTTY, EOPNOTSUPP};
use base::lock::{Lock, rank};

use crate::file::{FileOps, Metadata};
use crate::vfs::{Inode, Owner, SetAttributes, StatFs, XattrFlags, mode};

/// The attribute of an upper directory that hides the lower one.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// What guests must not see of the layers.
const PRIVATE: &[u8] = b"trusted.overlay.";

struct Fs {
    dev: u64,
    lower_dev: u64,
    upper_root: OnceLock<Arc<dyn Inode>>,
    /// Serialises copies up.
    copying: Lock<(), { rank::OVERLAY }>,
    /// By upper inode number, what was copied up: the number that it had before, and the lower directory under a
    /// renamed one.
    origins: Lock<HashMap<u64, Origin>, { rank::LEAF }>,
    /// Shown in /proc/mounts.
    options: String,
}

#[derive(Clone)]
struct Origin {
    ino: u64,
    lower_dir: Option<Arc<dyn Inode>>,
}

/// Where a file is: in the upper layer, the lower one, or (directories) both.
#[derive(Clone)]
struct Layers {
    upper: Option<Arc<dyn Inode>>,
    lower: Option<Arc<dyn Inode>>,
    /// The directory that holds the name, for copies up; `None` at the root and when the name was removed.
    parent: Option<Arc<OverlayInode>>,
    name: Box<[u8]>,
}

/// The inodes of a directory's names that are in use: one name has one inode.
#[derive(Default)]
struct Known {
    by_name: HashMap<Box<[u8]>, Weak<OverlayInode>>,
    prune_at: usize,
}

impl Known {
    fn insert(&mut self, name: &[u8], inode: &Arc<OverlayInode>) {
        if self.by_name.len() >= self.prune_at {
            self.by_name.retain(|_, inode| inode.strong_count() > 0);
            self.prune_at = (self.by_name.len() * 2).max(64);
        }
        self.by_name.insert(name.into(), Arc::downgrade(inode));
    }
}

/// A file of an overlay.
struct OverlayInode {
    me: Weak<OverlayInode>,
    fs: Arc<Fs>,
    ino: u64,
    is_dir: bool,
    /// Whether there is an upper file: a look without the lock.
    has_upper: AtomicBool,
    layers: Lock<Layers, { rank::LEAF }>,
    known: Lock<Known, { rank::LEAF }>,
}

impl fmt::Debug for OverlayInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayInode").field("ino", &self.ino).finish_non_exhaustive()
    }
}

/// Lays the empty tmpfs under `upper` over the directory `lower`, which does not change.
///
/// # Errors
/// Those of reading the roots.
pub fn new(lower: Arc<dyn Inode>, upper: Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
    let meta = lower.metadata()?;
    upper.set_attributes(&SetAttributes {
        mode: Some(meta.mode & 0o7777),
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        atime: Some(meta.atime),
        mtime: Some(meta.mtime),
        ..SetAttributes::default()
    })?;
    let fs = Arc::new(Fs {
        dev: crate::vfs::new_dev(),
        lower_dev: meta.dev,
        upper_root: OnceLock::from(upper.clone()),
        copying: Lock::new(()),
        origins: Lock::new(HashMap::new()),
        options: String::new(),
    });
    let layers = Layers { upper: Some(upper), lower: Some(lower), parent: None, name: Box::default() };
    Ok(OverlayInode::new(&fs, meta.ino, true, layers))
}

/// Lays the directory `upper` over `lowers`, the first of them on top, as mount(2) does; without `upper` nothing may be
/// written. What `upper` holds already counts. `options` are shown in /proc/mounts.
///
/// # Errors
/// `EINVAL`: there are fewer than two layers; those of reading the roots.
pub fn stack(
    lowers: Vec<Arc<dyn Inode>>,
    upper: Option<Arc<dyn Inode>>,
    options: String,
) -> Result<Arc<dyn Inode>, Errno> {
    // Lower layers are merged by laying them over each other; nothing is ever written to those.
    let mut layers: Vec<Arc<dyn Inode>> = upper.into_iter().chain(lowers).collect();
    let mut merged = layers.pop().ok_or(EINVAL)?;
    if layers.is_empty() {
        return Err(EINVAL);
    }
    while let Some(above) = layers.pop() {
        let options = if layers.is_empty() { options.clone() } else { String::new() };
        merged = over(merged, above, options)?;
    }
    Ok(merged)
}

fn over(lower: Arc<dyn Inode>, upper: Arc<dyn Inode>, options: String) -> Result<Arc<dyn Inode>, Errno> {
    lower.is_changed_untold();
    upper.is_changed_untold();
    let meta = upper.metadata()?;
    let fs = Arc::new(Fs {
        dev: crate::vfs::new_dev(),
        lower_dev: lower.metadata()?.dev,
        upper_root: OnceLock::from(upper.clone()),
        copying: Lock::new(()),
        origins: Lock::new(HashMap::new()),
        options,
    });
    let ino = fs.upper_ino(meta.ino);
    let layers = Layers { upper: Some(upper), lower: Some(lower), parent: None, name: Box::default() };
    Ok(OverlayInode::new(&fs, ino, true, layers))
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.mode & mode::IFMT == mode::IFCHR && meta.rdev == 0
}

impl Fs {
    /// The number that a file of the lower layer has here. Other host file systems below the root get numbers apart.
    fn lower_ino(&self, dev: u64, ino: u64) -> u64 {
        if dev == self.lower_dev { ino } else { ino ^ (dev & 0x3fff) << 45 }
    }

    /// The number of a file of the upper layer: its own, set apart, unless it was copied up.
    fn upper_ino(&self, ino: u64) -> u64 {
        self.origins.lock().get(&ino).map_or(ino | 1 << 44, |origin| origin.ino)
    }
}

impl OverlayInode {
    fn new(fs: &Arc<Fs>, ino: u64, is_dir: bool, layers: Layers) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            fs: fs.clone(),
            ino,
            is_dir,
            has_upper: AtomicBool::new(layers.upper.is_some()),
            layers: Lock::new(layers),
            known: Lock::new(Known::default()),
        })
    }

    fn arc(&self) -> Result<Arc<Self>, Errno> {
        self.me.upgrade().ok_or(EIO)
    }

    fn layers(&self) -> Layers {
        self.layers.lock().clone()
    }

    /// The layer that is seen.
    fn top(&self) -> Result<Arc<dyn Inode>, Errno> {
        let layers = self.layers.lock();
        layers.upper.as_ref().or(layers.lower.as_ref()).cloned().ok_or(ENOENT)
    }

    /// The inode for `name` from what the layers hold.
    fn child(
        &self,
        name: &[u8],
        upper: Option<Arc<dyn Inode>>,
        lower: Option<Arc<dyn Inode>>,
    ) -> Result<Arc<Self>, Errno> {
        let (ino, is_dir) = match (&upper, &lower) {
            (Some(upper), _) => {
                let meta = upper.metadata()?;
                (self.fs.upper_ino(meta.ino), meta.is_dir())
            }
            (None, Some(lower)) => {
                let meta = lower.metadata()?;
                (self.fs.lower_ino(meta.dev, meta.ino), meta.is_dir())
            }
            (None, None) => return Err(ENOENT),
        };
        let layers = Layers { upper, lower, parent: Some(self.arc()?), name: name.into() };
        let child = Self::new(&self.fs, ino, is_dir, layers);
        self.known.lock().insert(name, &child);
        Ok(child)
    }

    /// What is called `name` here.
    fn find(&self, name: &[u8]) -> Result<Arc<Self>, Errno> {
        if !self.is_dir {
            return Err(ENOTDIR);
        }
        let known = self.known.lock().by_name.get(name).and_then(Weak::upgrade);
        if let Some(known) = known {
            return Ok(known);
        }
        let layers = self.layers();
        let upper = match &layers.upper {
            Some(dir) => optional(dir.lookup(name))?,
            None => None,
        };
        let Some(found) = upper else {
            return self.child(name, None, find_lower(&layers, name)?);
        };
        let meta = found.metadata()?;
        if is_whiteout(&meta) {
            return Err(ENOENT);
        }
        let mut lower = None;
        if meta.is_dir() {
            lower = self.fs.origins.lock().get(&meta.ino).and_then(|o| o.lower_dir.clone());
            if lower.is_none() && found.xattr(OPAQUE).is_err() {
                lower = match find_lower(&layers, name)? {
                    Some(inode) if inode.metadata()?.is_dir() => Some(inode),
                    _ => None,
                };
            }
        }
        self.child(name, Some(found), lower)
    }
}

fn find_lower(layers: &Layers, name: &[u8]) -> Result<Option<Arc<dyn Inode>>, Errno> {
    match &layers.lower {
        Some(dir) => optional(dir.lookup(name)),
        None => Ok(None),
    }
}

fn optional<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(v) => Ok(Some(v)),
        Err(ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The inode as its own type; `EXDEV` when it belongs to another file system.
fn own(fs: &Arc<Fs>, inode: &Arc<dyn Inode>) -> Result<Arc<OverlayInode>, Errno> {
    let inode = inode.as_any().downcast_ref::<OverlayInode>().ok_or(abi::errno::EXDEV)?;
    if Arc::ptr_eq(&inode.fs, fs) { inode.arc() } else { Err(abi::errno::EXDEV) }
}

impl Inode for OverlayInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let (top, is_merged) = {
            let layers = self.layers.lock();
            let top = layers.upper.as_ref().or(layers.lower.as_ref()).cloned().ok_or(ENOENT)?;
            (top, layers.upper.is_some() && layers.lower.is_some())
        };
        let mut meta = top.metadata()?;
        meta.dev = self.fs.dev;
        meta.ino = self.ino;
        if is_merged && self.is_dir && meta.nlink > 0 {
            // Nobody counts the subdirectories of both layers; 1 says so to find(1), as in Linux.
            meta.nlink = 1;
        }
        Ok(meta)
    }

    fn file_type(&self) -> Result<crate::vfs::FileType, Errno> {
        self.top()?.file_type()
    }

    fn mount_options(&self) -> String {
        self.fs.options.clone()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    /// What is written goes to the upper layer.
    fn statfs(&self) -> Result<StatFs, Errno> {
        let upper = self.fs.upper_root.get().ok_or(EIO)?;
        Ok(StatFs { kind: StatFs::OVERLAY, ..upper.statfs()? })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.find(name)?)
    }

    fn create(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |upper| upper.create(name, mode, owner))
    }

    fn tmpfile(&self, mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let upper = self.copy_up()?.tmpfile(mode, owner)?;
        let ino = self.fs.upper_ino(upper.metadata()?.ino);
        let layers = Layers { upper: Some(upper), lower: None, parent: None, name: Box::default() };
        Ok(Self::new(&self.fs, ino, false, layers))
    }

    fn mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |upper| {
            let made = upper.mkdir(name, mode, owner)?;
            made.set_xattr(OPAQUE, b"y", XattrFlags::Any)?;
            Ok(made)
        })
    }

    fn mknod(&self, name: &[u8], mode: u32, rdev: u64, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        if mode & mode::IFMT == mode::IFCHR && rdev == 0 {
            // It would read as a whiteout.
            return Err(abi::errno::EPERM);
        }
        self.make(name, |upper| upper.mknod(name, mode, rdev, owner))
    }

    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |upper| upper.symlink(name, target, owner))
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
        let old = own(&self.fs, inode)?;
        let source = old.copy_up()?;
        self.make(name, |upper| upper.link(name, &source))
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove(name, true)
    }

    fn rename(
        &self,
        old_name: &[u8],
        new_parent: &Arc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        self.move_name(old_name, &*own(&self.fs, new_parent)?, new_name, flags)
    }

    fn accessed(&self) {
        let upper = self.layers.lock().upper.clone();
        if let Some(upper) = upper {
            upper.accessed();
        }
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        self.top()?.read_link()
    }

    fn set_attributes(&self, set: &SetAttributes) -> Result<(), Errno> {
        self.copy_up()?.set_attributes(set)
    }

    fn flags(&self) -> Result<u32, Errno> {
        match self.top()?.flags() {
            // Not kept below, but the upper layer can.
            Err(ENOTTY) => Ok(0),
            other => other,
        }
    }

    fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        self.copy_up()?.set_flags(flags)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if name.starts_with(PRIVATE) {
            return Err(ENODATA);
        }
        match self.top()?.xattr(name) {
            // The host's attributes are not shown, but new ones can be set.
            Err(EOPNOTSUPP) => Err(ENODATA),
            other => other,
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        if name.starts_with(PRIVATE) {
            return Err(abi::errno::EPERM);
        }
        self.copy_up()?.set_xattr(name, value, flags)
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = self.top()?.list_xattrs()?;
        names.retain(|name| !name.starts_with(PRIVATE));
        Ok(names)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.xattr(name)?;
        self.copy_up()?.remove_xattr(name)
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        open::open(self, flags)
    }
}
