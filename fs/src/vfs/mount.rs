//! Mounts: a file system's tree, or a part of it, at a place.
//!
//! A mount knows what is mounted on it, so a walk needs no namespace. Everything that changes the tree of mounts holds
//! one lock (`TREE`); the locks of single mounts are leaves.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBUSY, EROFS};
use base::lock::{Lock, RwLock, rank};
use bitflags::bitflags;

use super::propagate::PeerGroup;
use super::{Dentry, Inode, MountNamespace, VfsPath};
use crate::notify::Watches;

/// Held by whoever changes the tree of mounts, in any namespace.
pub(super) static TREE: Lock<(), { rank::MOUNT }> = Lock::new(());

/// The id of what is below the first mount of a namespace: Linux's rootfs, which nobody sees.
pub const ROOTFS_ID: u64 = 1;
static NEXT_UNIQUE: AtomicU64 = AtomicU64::new(1 << 32 | (ROOTFS_ID + 1));
static IDS: Ids = Ids::after(ROOTFS_ID);
static NEXT_DEV: AtomicU64 = AtomicU64::new(0x10);

/// Numbers of which the lowest free one is given out, as Linux's IDA does.
pub(super) struct Ids(Lock<Numbers, { rank::LEAF }>);

struct Numbers {
    /// From here on none was given out.
    next: u64,
    /// Those below that were given back.
    free: BTreeSet<u64>,
}

impl Ids {
    pub(super) const fn after(last: u64) -> Self {
        Self(Lock::new(Numbers { next: last + 1, free: BTreeSet::new() }))
    }

    pub(super) fn take(&self) -> u64 {
        let mut numbers = self.0.lock();
        numbers.free.pop_first().unwrap_or_else(|| {
            let id = numbers.next;
            numbers.next += 1;
            id
        })
    }

    pub(super) fn give(&self, id: u64) {
        let mut numbers = self.0.lock();
        numbers.free.insert(id);
        while let Some(&last) = numbers.free.last()
            && last + 1 == numbers.next
        {
            numbers.free.pop_last();
            numbers.next = last;
        }
    }
}

/// A device number for a file system without a device.
pub fn new_dev() -> u64 {
    let minor = NEXT_DEV.fetch_add(1, Ordering::Relaxed);
    minor & 0xff | (minor & !0xff) << 12
}

bitflags! {
    /// Attributes of a mount: the bits of `MOUNT_ATTR_*` (mount_setattr(2)). Without `NOATIME` and `STRICTATIME`
    /// access times are kept as with `relatime`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Nothing can be written.
        const RDONLY = 1;
        /// Programs gain no privileges.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// Programs cannot be run.
        const NOEXEC = 8;
        /// Access times stay as they are.
        const NOATIME = 0x10;
        /// Access times follow each access.
        const STRICTATIME = 0x20;
        /// Access times of directories stay as they are.
        const NODIRATIME = 0x80;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x20_0000;
    }
}

/// What all mounts of one file system share.
#[derive(Debug)]
pub struct SuperBlock {
    fstype: String,
    dev: u64,
    readonly: AtomicBool,
    /// Descriptions that can be written.
    writers: AtomicUsize,
    /// The root of the whole file system.
    root: Arc<Dentry>,
    /// Who watches all of it.
    pub(crate) watches: Watches,
}

impl SuperBlock {
    /// Makes one for the file system under `root`.
    pub fn new(root: Arc<dyn Inode>, fstype: &str, readonly: bool) -> Arc<Self> {
        let dev = root.metadata().map_or(0, |m| m.dev);
        let root = Dentry::new(None, b"", root);
        // Asked now: under the lock of the tree the file system is not called.
        let _ = root.is_dir();
        Arc::new(Self {
            fstype: fstype.to_owned(),
            dev,
            readonly: AtomicBool::new(readonly),
            writers: AtomicUsize::new(0),
            root,
            watches: Watches::default(),
        })
    }

    /// The name of the file system, such as `tmpfs`.
    pub fn fstype(&self) -> &str {
        &self.fstype
    }

    /// `st_dev`.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// The root.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// Whether nothing may be written, whatever the mount.
    pub fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Relaxed)
    }

    /// Makes it read-only or writable.
    ///
    /// # Errors
    /// `EBUSY`: somebody can write to a file of it.
    pub fn set_readonly(&self, readonly: bool) -> Result<(), Errno> {
        if readonly && self.writers.load(Ordering::Acquire) > 0 {
            return Err(EBUSY);
        }
        self.readonly.store(readonly, Ordering::Relaxed);
        Ok(())
    }

    /// What the file system shows of its own options, each with a comma before it.
    pub fn options(&self) -> String {
        self.root.inode().mount_options()
    }
}

/// Where a mount is, and whom it tells of changes.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) parent: Option<VfsPath>,
    pub(super) namespace: Weak<MountNamespace>,
    /// Shared with these.
    pub(super) peers: Option<Arc<PeerGroup>>,
    /// Follows these.
    pub(super) master: Option<Arc<PeerGroup>>,
    pub(super) is_unbindable: bool,
    /// `MNT_EXPIRE` marked it.
    pub(super) is_expiring: bool,
}

/// A file system at a place of the tree.
#[derive(Debug)]
pub struct Mount {
    id: u64,
    unique_id: u64,
    /// Descriptions that can be written through it.
    writers: AtomicUsize,
    sb: Arc<SuperBlock>,
    root: Arc<Dentry>,
    source: String,
    flags: AtomicU32,
    /// Who watches what is reached through it.
    pub(crate) watches: Watches,
    standing: Lock<Standing, { rank::LEAF }>,
    /// What is mounted on its directories and files, by the dentry's address, which the mount keeps alive.
    children: RwLock<HashMap<usize, Arc<Mount>>, { rank::LEAF }>,
}

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry) as usize
}

impl Mount {
    /// A mount that is nowhere yet, of `root` in the file system.
    pub(super) fn new(
        sb: &Arc<SuperBlock>,
        root: &Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: IDS.take(),
            unique_id: NEXT_UNIQUE.fetch_add(1, Ordering::Relaxed),
            writers: AtomicUsize::new(0),
            sb: sb.clone(),
            root: root.clone(),
            source: source.to_owned(),
            flags: AtomicU32::new(flags.bits()),
            watches: Watches::default(),
            standing: Lock::default(),
            children: RwLock::new(HashMap::new()),
        })
    }

    /// The id that `/proc/PID/mountinfo` shows.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The id that is never used again, for statmount(2).
    pub fn unique_id(&self) -> u64 {
        self.unique_id
    }

    /// The file system.
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.sb
    }

    /// The root of the mounted tree.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The root as a place.
    pub fn root_place(self: &Arc<Self>) -> VfsPath {
        VfsPath { mount: self.clone(), dentry: self.root.clone() }
    }

    /// Where it is mounted; `None` for the first mount of a namespace and for what is detached.
    pub fn parent(&self) -> Option<VfsPath> {
        self.standing.lock().parent.clone()
    }

    /// Whether nothing may be written through this mount.
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY) || self.sb.is_readonly()
    }

    /// Its attributes.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces its attributes.
    pub(super) fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether somebody can write through it.
    pub(super) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    pub(super) fn add_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
        self.sb.writers.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
        self.sb.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether reading leaves the access time as it is.
    pub fn keeps_atime(&self, is_dir: bool) -> bool {
        let flags = self.flags();
        flags.contains(MountFlags::NOATIME) || is_dir && flags.contains(MountFlags::NODIRATIME)
    }

    /// The name of the file system, such as `tmpfs`.
    pub fn fstype(&self) -> &str {
        &self.sb.fstype
    }

    /// What is mounted, as `/proc/mounts` shows it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The groups it is shared with and follows, for mountinfo.
    pub fn groups(&self) -> (Option<u64>, Option<u64>) {
        let standing = self.standing.lock();
        (standing.peers.as_ref().map(|g| g.id()), standing.master.as_ref().map(|g| g.id()))
    }

    /// Whether it cannot be bound to another place.
    pub fn is_unbindable(&self) -> bool {
        self.standing.lock().is_unbindable
    }

    /// The namespace that it is in.
    pub fn namespace(&self) -> Option<Arc<MountNamespace>> {
        self.standing.lock().namespace.upgrade()
    }

    /// # Errors
    /// `EROFS`.
    pub(super) fn want_write(&self) -> Result<(), Errno> {
        if self.is_readonly() { Err(EROFS) } else { Ok(()) }
    }

    pub(super) fn standing(&self) -> base::lock::LockGuard<'_, Standing, { rank::LEAF }> {
        self.standing.lock()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.standing.lock().peers.is_some()
    }

    /// What is mounted at `dentry` of this mount.
    pub(super) fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Self>> {
        self.children.read().get(&key(dentry)).cloned()
    }

    pub(super) fn has_children(&self) -> bool {
        !self.children.read().is_empty()
    }

    /// The mounts on it, in the order of mounting.
    pub(super) fn child_mounts(&self) -> Vec<Arc<Self>> {
        let mut list: Vec<Arc<Self>> = self.children.read().values().cloned().collect();
        list.sort_by_key(|m| m.unique_id);
        list
    }

    /// Puts the mount at a place where nothing is. With `TREE` held.
    pub(super) fn put(self: &Arc<Self>, at: VfsPath) {
        at.dentry.add_mount();
        at.mount.children.write().insert(key(&at.dentry), self.clone());
        let old = self.standing.lock().parent.replace(at);
        drop(old);
    }

    /// Takes the mount from its place. With `TREE` held.
    pub(super) fn take(self: &Arc<Self>) -> Option<VfsPath> {
        let at = self.standing.lock().parent.take()?;
        let me = at.mount.children.write().remove(&key(&at.dentry));
        at.dentry.remove_mount();
        drop(me);
        Some(at)
    }

    /// The mount and all below it, parents first.
    pub(super) fn tree(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut list = vec![self.clone()];
        let mut next = 0;
        while let Some(mount) = list.get(next).cloned() {
            list.extend(mount.child_mounts());
            next += 1;
        }
        list
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        IDS.give(self.id);
    }
}

/// Goes to the root of what is mounted at `at`, if anything is.
pub(super) fn down(mut at: VfsPath) -> VfsPath {
    while at.dentry.is_mountpoint() {
        let Some(mount) = at.mount.child_at(&at.dentry) else { break };
        let dentry = mount.root.clone();
        at = VfsPath { mount, dentry };
    }
    at
}
