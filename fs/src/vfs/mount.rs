//! Mounts: a file system's tree, or a part of it, at a place.
//!
//! A mount knows what is mounted on it, so a walk needs no namespace. Everything that changes the tree of mounts holds
//! one lock (`TREE`); the locks of single mounts are leaves.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBUSY, ENOMEM, EROFS};
use base::kept::Kept;
use base::lock::{Lock, RwLock, rank};
use base::userns::UserNamespace;
use bitflags::bitflags;

use super::namespace::Identity;
use super::propagate::PeerGroup;
use super::{Dentry, Inode, MountNamespace, VfsPath};
use crate::notify::Watches;

/// What a mount takes of the sentry's memory, about.
const MOUNT_MEMORY: usize = size_of::<Mount>() + 256;

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

impl MountFlags {
    /// What is told of access times.
    pub const ATIME: Self = Self::NOATIME.union(Self::STRICTATIME).union(Self::NODIRATIME);
}

/// What all mounts of one file system share.
#[derive(Debug)]
pub struct SuperBlock {
    fstype: String,
    dev: u64,
    /// Whose root may change it.
    owner: Arc<UserNamespace>,
    readonly: AtomicBool,
    /// Descriptions that can be written.
    writers: AtomicUsize,
    /// The root of the whole file system.
    root: Arc<Dentry>,
    /// Who watches all of it.
    pub(crate) watches: Watches,
}

impl SuperBlock {
    /// Makes one for the file system under `root`, which belongs to the first user namespace.
    pub fn new(root: Arc<dyn Inode>, fstype: &str, readonly: bool) -> Arc<Self> {
        Self::owned(root, fstype, readonly, UserNamespace::first())
    }

    /// As `new`; the file system belongs to user namespace `owner` (Linux `s_user_ns`).
    pub fn owned(root: Arc<dyn Inode>, fstype: &str, readonly: bool, owner: Arc<UserNamespace>) -> Arc<Self> {
        let dev = root.metadata().map_or(0, |m| m.dev);
        let root = Dentry::new(None, b"", root);
        // Asked now: under the lock of the tree the file system is not called.
        let _ = root.is_dir();
        Arc::new(Self {
            fstype: fstype.to_owned(),
            dev,
            owner,
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

    /// The user namespace that it belongs to.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
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
    /// The same, as long as it is in the tree, without keeping it alive.
    pub(super) identity: Option<Arc<Identity>>,
    /// Shared with these.
    pub(super) peers: Option<Arc<PeerGroup>>,
    /// Follows these.
    pub(super) master: Option<Arc<PeerGroup>>,
    pub(super) is_unbindable: bool,
    /// `MNT_EXPIRE` marked it.
    pub(super) is_expiring: bool,
    /// It may hide something from its namespace, so it does not go away alone (`MNT_LOCKED`).
    pub(super) is_locked: bool,
    /// Attributes that must stay (`MNT_LOCK_READONLY` and its like), and whether those of access times must.
    pub(super) kept: MountFlags,
    pub(super) keeps_atime: bool,
    /// It went from the tree together with its parent and still covers this.
    pub(super) stays_at: Option<Arc<Dentry>>,
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
    _kept: Kept,
}

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry) as usize
}

impl Mount {
    /// A mount that is nowhere yet, of `root` in the file system.
    ///
    /// # Errors
    /// `ENOMEM`: mounts and other things take all that the sentry may keep.
    pub(super) fn new(
        sb: &Arc<SuperBlock>,
        root: &Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> Result<Arc<Self>, Errno> {
        let kept = Kept::new(MOUNT_MEMORY + source.len()).map_err(|_| ENOMEM)?;
        Ok(Self::counted(sb, root, source, flags, kept))
    }

    /// As `new`, when its memory is counted already.
    pub(super) fn counted(
        sb: &Arc<SuperBlock>,
        root: &Arc<Dentry>,
        source: &str,
        flags: MountFlags,
        kept: Kept,
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
            _kept: kept,
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

    /// Puts it into a namespace, out of the one that it was in. With `TREE` held, or before anybody else knows it.
    pub(super) fn move_to_namespace(&self, namespace: &Weak<MountNamespace>, identity: &Arc<Identity>) {
        let mut standing = self.standing.lock();
        standing.namespace = namespace.clone();
        let old = standing.identity.replace(identity.clone());
        drop(standing);
        identity.count.fetch_add(1, Ordering::Relaxed);
        if let Some(old) = old {
            old.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes it out of its namespace. With `TREE` held.
    pub(super) fn leave_namespace(&self) {
        let mut standing = self.standing.lock();
        standing.namespace = Weak::new();
        let old = standing.identity.take();
        drop(standing);
        if let Some(old) = old {
            old.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Leaves the mount where it is on a parent that goes from the tree, or went: who has that open sees it, and not
    /// what it covers. With `TREE` held; returns the parent.
    pub(super) fn leave_behind(self: &Arc<Self>) -> Option<VfsPath> {
        let mut standing = self.standing.lock();
        let at = standing.parent.take()?;
        standing.stays_at = Some(at.dentry.clone());
        Some(at)
    }

    /// Whether a locked mount covers something of it at or below `dentry` (Linux `has_locked_children`).
    pub(super) fn has_locked_children(self: &Arc<Self>, dentry: &Arc<Dentry>) -> bool {
        self.child_mounts().iter().any(|child| {
            let (is_locked, at) = {
                let standing = child.standing.lock();
                (standing.is_locked, standing.parent.clone())
            };
            is_locked && at.is_some_and(|at| dentry.is_ancestor_of(&at.dentry))
        })
    }

    /// What lies on top at the mount's root.
    pub(super) fn topmost(self: &Arc<Self>) -> Arc<Self> {
        let mut top = self.clone();
        while let Some(over) = top.child_at(&top.root) {
            top = over;
        }
        top
    }

    /// Keeps a less privileged namespace from taking away what hides something, and from attributes of its own (Linux
    /// `lock_mnt_tree`).
    pub(super) fn lock_tree(self: &Arc<Self>) {
        for mount in self.tree() {
            let protects = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
            let kept = mount.flags() & protects;
            let mut standing = mount.standing.lock();
            standing.kept |= kept;
            standing.keeps_atime = true;
            standing.is_locked |= !Arc::ptr_eq(&mount, self);
        }
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
        if let Some(at) = self.standing.get_mut().stays_at.take() {
            at.remove_mount();
        }
        // What stayed on it goes one by one: a stack of mounts may be deep.
        let mut list: Vec<Arc<Self>> = self.children.get_mut().drain().map(|(_, m)| m).collect();
        while let Some(mount) = list.pop() {
            if let Some(mut mount) = Arc::into_inner(mount) {
                list.extend(mount.children.get_mut().drain().map(|(_, m)| m));
            }
        }
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
