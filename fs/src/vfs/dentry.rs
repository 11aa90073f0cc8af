//! The tree of names.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{ENAMETOOLONG, ENOENT, ETXTBSY};
use base::lock::{Lock, LockGuard, rank};

use super::{FileType, Inode, Mount, cache};
use crate::notify::{self, Watches};

/// `None` is a negative entry: the name is known not to exist.
pub(super) type Children = HashMap<Box<[u8]>, Option<Arc<Dentry>>>;
pub(super) type ChildrenGuard<'a> = LockGuard<'a, Children, { rank::DENTRY }>;

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
}

/// A name in a directory and the inode behind it.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    is_cacheable: bool,
    /// Its names may change behind our back.
    names_change: bool,
    /// Somebody looked it up since the cache was last swept.
    is_used: AtomicBool,
    /// The name was removed; the directory or file lives on while it is open.
    is_dead: AtomicBool,
    /// What the inode is, once somebody asked: that never changes.
    kind: OnceLock<FileType>,
    /// How many mounts, of all namespaces, are on it.
    mounts: AtomicUsize,
    /// How many mounts are on it or below, if its directory does not remember its names: it does this one meanwhile.
    pins: AtomicUsize,
    symlink: OnceLock<Box<[u8]>>,
    /// A file without a name that `linkat` may give one (`O_TMPFILE` without `O_EXCL`).
    pub(super) is_linkable: AtomicBool,
    /// Descriptions that write, or (negative) programs that run: never both, ETXTBSY says so.
    writers: AtomicI32,
    /// Those of the inode, once they were asked for through this name.
    watches: OnceLock<Arc<Watches>>,
    /// Descriptions through this name.
    opens: AtomicUsize,
    /// Those of them that only read.
    readers: AtomicUsize,
    /// `F_SET_RW_HINT`.
    pub(crate) write_hint: AtomicU8,
    place: Lock<Place, { rank::LEAF }>,
    children: Lock<Children, { rank::DENTRY }>,
}

impl Dentry {
    pub(super) fn new(parent: Option<Arc<Self>>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Self> {
        let (is_cacheable, names_change) = (inode.cacheable(), inode.names_change());
        Arc::new(Self {
            inode,
            is_cacheable,
            names_change,
            is_used: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
            kind: OnceLock::new(),
            mounts: AtomicUsize::new(0),
            pins: AtomicUsize::new(0),
            symlink: OnceLock::new(),
            is_linkable: AtomicBool::new(false),
            writers: AtomicI32::new(0),
            watches: OnceLock::new(),
            opens: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            write_hint: AtomicU8::new(0),
            place: Lock::new(Place { parent, name: name.into() }),
            children: Lock::new(HashMap::new()),
        })
    }

    /// The inode.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// What the file is.
    ///
    /// # Errors
    /// The file system's.
    pub fn file_type(&self) -> Result<FileType, Errno> {
        if let Some(kind) = self.kind.get() {
            return Ok(*kind);
        }
        let kind = self.inode.file_type()?;
        Ok(*self.kind.get_or_init(|| kind))
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type().is_ok_and(|kind| kind == FileType::Directory)
    }

    /// Whether something is mounted on it, in any namespace.
    pub fn is_mountpoint(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    pub(super) fn add_mount(self: &Arc<Self>) {
        self.mounts.fetch_add(1, Ordering::AcqRel);
        self.each_unremembered(|dir, child| {
            let mut children = dir.children.lock();
            child.pins.fetch_add(1, Ordering::AcqRel);
            children.insert(child.name().into(), Some(child.clone()));
        });
    }

    pub(super) fn remove_mount(self: &Arc<Self>) {
        self.mounts.fetch_sub(1, Ordering::AcqRel);
        self.each_unremembered(|dir, child| {
            let mut children = dir.children.lock();
            if child.pins.fetch_sub(1, Ordering::AcqRel) == 1 {
                children.remove(child.name().as_slice());
            }
        });
    }

    /// Calls `f` for every directory above that does not remember its names, with the name there that leads here.
    fn each_unremembered(self: &Arc<Self>, f: impl Fn(&Self, &Arc<Self>)) {
        let mut child = self.clone();
        while let Some(dir) = child.parent() {
            if !dir.is_cacheable {
                f(&dir, &child);
            }
            child = dir;
        }
    }

    /// The directory that holds the name; `None` at the root of a file system.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// The name.
    pub fn name(&self) -> Vec<u8> {
        self.place.lock().name.to_vec()
    }

    /// Whether the name was removed.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    pub(super) fn kill(&self) {
        self.is_dead.store(true, Ordering::Release);
        self.inode().lost_name();
    }

    /// Who watches it, if anybody ever did.
    pub(crate) fn watches(&self) -> Option<Arc<Watches>> {
        if let Some(known) = self.watches.get() {
            return Some(known.clone());
        }
        if !notify::has_aliases() || self.is_remembered() && self.is_dir() {
            return None;
        }
        let meta = self.inode.metadata().ok()?;
        if self.is_remembered() && meta.nlink <= 1 {
            return None;
        }
        let found = notify::by_inode((meta.dev, meta.ino))?;
        Some(self.watches.get_or_init(|| found).clone())
    }

    /// Those who watch the inode: all of its names share them.
    pub(crate) fn make_watches(&self) -> Arc<Watches> {
        if let Some(known) = self.watches.get() {
            return known.clone();
        }
        let Ok(meta) = self.inode.metadata() else { return self.watches.get_or_init(Arc::default).clone() };
        if !self.is_remembered() || meta.nlink > 1 && !meta.is_dir() {
            notify::set_aliases();
        }
        self.watches.get_or_init(|| notify::make_by_inode((meta.dev, meta.ino))).clone()
    }

    /// Whether its directory gives the same dentry for its name each time.
    fn is_remembered(&self) -> bool {
        self.parent().is_none_or(|parent| parent.is_cacheable)
    }

    /// Another name is about to lead to the inode.
    pub(super) fn gets_alias(&self) {
        if self.watches.get().is_some() {
            notify::set_aliases();
        }
    }

    /// Whether it is a file without a name that may get one (`O_TMPFILE`).
    pub fn is_linkable(&self) -> bool {
        self.is_linkable.load(Ordering::Acquire)
    }

    /// Counts somebody who writes (Linux `get_write_access`).
    ///
    /// # Errors
    /// `ETXTBSY`: the program runs.
    fn add_writer(&self) -> Result<(), Errno> {
        let add = |n: i32| (n >= 0).then_some(n + 1);
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).map(drop).map_err(|_| ETXTBSY)
    }

    fn add_running(&self) -> Result<(), Errno> {
        let add = |n: i32| (n <= 0).then_some(n - 1);
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).map(drop).map_err(|_| ETXTBSY)
    }

    /// Counts a description; `reads` says that it reads and does nothing else.
    pub(crate) fn add_open(&self, reads: bool) {
        self.opens.fetch_add(1, Ordering::AcqRel);
        if reads {
            self.readers.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How many descriptions write, and how many only read.
    pub(crate) fn openers(&self) -> (usize, usize) {
        let writers = usize::try_from(self.writers.load(Ordering::Acquire)).unwrap_or(0);
        (writers, self.readers.load(Ordering::Acquire))
    }

    /// Takes a description back; says whether it was the last.
    pub(crate) fn remove_open(&self, reads: bool) -> bool {
        if reads {
            self.readers.fetch_sub(1, Ordering::AcqRel);
        }
        self.opens.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether a description is open through this name.
    pub(crate) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }

    pub(super) fn lock(&self) -> ChildrenGuard<'_> {
        self.children.lock()
    }

    /// Whether the directory remembers its names.
    pub(super) fn is_cached(&self) -> bool {
        self.is_cacheable
    }

    /// The children, locked, of a directory that remembers them. What is not cached takes locks that must come before
    /// this one, such as those of tasks.
    pub(super) fn lock_cached(&self) -> Option<ChildrenGuard<'_>> {
        self.is_cacheable.then(|| self.children.lock())
    }

    /// Locks the children while the parent's are locked.
    pub(super) fn lock_same(&self) -> ChildrenGuard<'_> {
        self.children.lock_same_rank()
    }

    /// Locks the children of two directories in a fixed order; the second is `None` when they are one.
    pub(super) fn lock_two<'a>(
        a: &'a Arc<Self>,
        b: &'a Arc<Self>,
    ) -> (ChildrenGuard<'a>, Option<ChildrenGuard<'a>>) {
        if Arc::ptr_eq(a, b) {
            return (a.children.lock(), None);
        }
        if Arc::as_ptr(a) < Arc::as_ptr(b) {
            let first = a.children.lock();
            let second = b.children.lock_same_rank();
            (first, Some(second))
        } else {
            let second = b.children.lock();
            let first = a.children.lock_same_rank();
            (first, Some(second))
        }
    }

    /// The child called `name`; asks the file system when the cache does not know.
    pub(super) fn child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        if !self.is_cacheable {
            // No lock is held while the file system is asked.
            let pinned = self.children.lock().get(name).cloned().flatten();
            if let Some(child) = pinned {
                return Ok(child);
            }
            return Ok(Self::new(Some(self.clone()), name, self.inode.lookup(name)?));
        }
        let mut children = self.children.lock();
        self.child_locked(&mut children, name)
    }

    /// As `child`, with the children locked.
    pub(super) fn child_locked(
        self: &Arc<Self>,
        children: &mut Children,
        name: &[u8],
    ) -> Result<Arc<Self>, Errno> {
        match children.get(name) {
            Some(Some(child)) if self.believes(child, name) => {
                if !child.is_used.load(Ordering::Relaxed) {
                    child.is_used.store(true, Ordering::Relaxed);
                }
                return Ok(child.clone());
            }
            Some(Some(child)) => {
                child.kill();
                children.remove(name);
            }
            Some(None) if !self.names_change => return Err(ENOENT),
            _ => {}
        }
        if self.is_dead() {
            return Err(ENOENT);
        }
        match self.inode.lookup(name) {
            Ok(inode) => Ok(self.insert(children, name, inode)),
            Err(ENOENT) if !self.names_change => {
                self.insert_missing(children, name);
                Err(ENOENT)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a remembered child is still there. What is mounted on stays.
    fn believes(&self, child: &Self, name: &[u8]) -> bool {
        !self.names_change || child.is_mountpoint() || child.inode.is_still(name)
    }

    /// Remembers a child.
    pub(super) fn insert(
        self: &Arc<Self>,
        children: &mut Children,
        name: &[u8],
        inode: Arc<dyn Inode>,
    ) -> Arc<Self> {
        let child = Self::new(Some(self.clone()), name, inode);
        if self.is_cacheable {
            children.insert(name.into(), Some(child.clone()));
            cache::add(&child);
        }
        child
    }

    /// Remembers that there is no such name.
    pub(super) fn insert_missing(self: &Arc<Self>, children: &mut Children, name: &[u8]) {
        children.insert(name.into(), None);
        cache::add_missing(self, name);
    }

    /// Whether it was looked up since this was asked last.
    pub(super) fn take_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// Takes the name out of its directory's children, unless somebody has the dentry; says whether it is out.
    pub(super) fn forget(self: &Arc<Self>) -> bool {
        /// The directory's, and the caller's.
        const OWN_REFERENCES: usize = 2;
        let (parent, name) = {
            let place = self.place.lock();
            (place.parent.clone(), place.name.clone())
        };
        let Some(parent) = parent else { return true };
        let mut children = parent.children.lock();
        let is_here = matches!(children.get(&name), Some(Some(child)) if Arc::ptr_eq(child, self));
        if is_here && Arc::strong_count(self) > OWN_REFERENCES {
            return false;
        }
        let gone = if is_here { children.remove(&name) } else { None };
        give_back(&mut children);
        drop(children);
        drop(gone);
        true
    }

    /// Forgets that there is no such name.
    pub(super) fn forget_missing(&self, name: &[u8]) {
        let mut children = self.children.lock();
        if matches!(children.get(name), Some(None)) {
            children.remove(name);
            give_back(&mut children);
        }
    }

    /// Gives the dentry another place, after the file system renamed it.
    pub(super) fn move_to(&self, parent: &Arc<Self>, name: &[u8]) {
        let mut place = self.place.lock();
        let old = place.parent.replace(parent.clone());
        place.name = name.into();
        drop(place);
        // The old parent may be dropped here, with locks of its own.
        drop(old);
    }

    /// Whether `self` is `other` or above it.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut at = Some(other.clone());
        while let Some(d) = at {
            if Arc::ptr_eq(&d, self) {
                return true;
            }
            at = d.parent();
        }
        false
    }

    /// The target of a symbolic link, read once where links do not change.
    pub(super) fn link_target(&self) -> Result<Vec<u8>, Errno> {
        if let Some(target) = self.symlink.get() {
            return Ok(target.to_vec());
        }
        let target = self.inode.read_link()?;
        if self.is_cacheable && self.parent().is_some_and(|p| p.is_cacheable) {
            let _ = self.symlink.set(target.as_slice().into());
        }
        Ok(target)
    }
}

/// Shrinks the table once most of it is empty.
fn give_back(children: &mut Children) {
    if children.capacity() > 64 && children.len() < children.capacity() / 8 {
        children.shrink_to(children.len() * 2);
    }
}

impl fmt::Debug for Dentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dentry").field(&String::from_utf8_lossy(&self.name())).finish()
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A deep chain of parents, each held by the next, is taken apart without recursion.
        let mut next = self.place.get_mut().parent.take();
        while let Some(parent) = next {
            next = match Arc::try_unwrap(parent) {
                Ok(mut last) => last.place.get_mut().parent.take(),
                Err(_) => None,
            };
        }
    }
}

/// Somebody who writes to a file; while one is there it cannot be run.
#[derive(Debug)]
pub(crate) struct Writer(VfsPath);

impl Writer {
    /// # Errors
    /// `ETXTBSY`: the program runs.
    pub(super) fn new(place: &VfsPath) -> Result<Self, Errno> {
        place.dentry.add_writer()?;
        place.mount.add_writer();
        Ok(Self(place.clone()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.dentry.writers.fetch_sub(1, Ordering::AcqRel);
        self.0.mount.remove_writer();
    }
}

/// Keeps a program from being written while it runs.
#[derive(Debug)]
pub struct Running(Arc<Dentry>);

impl Running {
    /// Begins to keep `dentry` from being written (Linux `deny_write_access`).
    ///
    /// # Errors
    /// `ETXTBSY`: somebody has it open for writing.
    pub fn new(dentry: &Arc<Dentry>) -> Result<Self, Errno> {
        dentry.add_running()?;
        Ok(Self(dentry.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.writers.fetch_add(1, Ordering::AcqRel);
    }
}

/// A place in the tree of mounts.
#[derive(Clone, Debug)]
pub struct VfsPath {
    /// The mount that the place is in.
    pub mount: Arc<Mount>,
    /// The place in the mounted file system.
    pub dentry: Arc<Dentry>,
}

impl VfsPath {
    /// The inode.
    pub fn inode(&self) -> Arc<dyn Inode> {
        self.dentry.inode.clone()
    }

    /// Whether both are the same place.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether it is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, self.mount.root())
    }

    /// The place above, across mounts; `None` at the root of the namespace.
    pub(super) fn up(&self) -> Option<Self> {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                at = at.mount.parent()?;
                continue;
            }
            let parent = at.dentry.parent()?;
            return Some(Self { mount: at.mount, dentry: parent });
        }
    }

    /// The absolute path as seen from `root`, with ` (deleted)` behind a removed name; of a place outside `root` the path
    /// from its last mount on, as `/proc` shows it (Linux fs/d_path.c, `d_path`).
    pub fn full_path(&self, root: &Self) -> Vec<u8> {
        self.climb(root).0
    }

    /// The path as [`VfsPath::full_path`] has it, and whether it leads from `root`.
    pub(super) fn climb(&self, root: &Self) -> (Vec<u8>, bool) {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = self.clone();
        let mut reached = true;
        while !at.is_same(root) {
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                match at.mount.parent() {
                    Some(above) => at = above,
                    None => {
                        reached = false;
                        break;
                    }
                }
                continue;
            }
            names.push(at.dentry.name());
            match at.dentry.parent() {
                Some(parent) => at.dentry = parent,
                None => {
                    reached = false;
                    break;
                }
            }
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if names.is_empty() {
            path.push(b'/');
        }
        if self.dentry.is_dead() {
            path.extend_from_slice(b" (deleted)");
        }
        (path, reached)
    }

    /// As `full_path`, for getcwd(2), which puts `(unreachable)` before a place outside `root`.
    ///
    /// # Errors
    /// `ENOENT`: the directory was removed.
    pub fn cwd_path(&self, root: &Self) -> Result<Vec<u8>, Errno> {
        if self.dentry.is_dead() {
            return Err(ENOENT);
        }
        let (mut path, reached) = self.climb(root);
        if !reached {
            path.splice(..0, *b"(unreachable)");
        }
        if path.len() >= 4096 { Err(ENAMETOOLONG) } else { Ok(path) }
    }
}
