//! The mounts that a task sees (mount_namespaces(7)): what a namespace is, its copies, attributes of mounts, pivot_root(2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBUSY, EINVAL, ENOENT, EPERM};
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::userns::UserNamespace;
use base::wait::Changes;

use super::mount::{Mount, MountFlags, SuperBlock, TREE, down};
use super::propagate::{CopyAs, MountChange, Unbindable, leave_groups};
use super::{Inode, VfsPath};

/// Inode numbers of namespaces begin here, as Linux's do.
static NEXT_NAMESPACE: AtomicU64 = AtomicU64::new(0xf000_0000);

/// What mounts know of their namespace without keeping it alive.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: u64,
    pub(super) is_anonymous: bool,
    /// The namespace that an anonymous one was copied from: others do not use it. 0 if it was copied from none.
    pub(super) origin: u64,
    /// The user namespace that it belongs to.
    pub(super) owner: Arc<UserNamespace>,
    /// How many mounts it has; changes under `TREE`.
    pub(super) count: AtomicUsize,
    /// Told when its tree or an attribute in it changes.
    pub(super) changes: Arc<Changes>,
}

/// The mounts that a task sees, or a tree that is mounted nowhere (`open_tree`, `fsmount`).
#[derive(Debug)]
pub struct MountNamespace {
    me: Weak<Self>,
    pub(super) identity: Arc<Identity>,
    pub(super) root: Lock<Arc<Mount>, { rank::LEAF }>,
}

impl MountNamespace {
    /// Makes a namespace whose only mount is the file system under `root`.
    pub fn new(root: Arc<dyn Inode>) -> Arc<Self> {
        Self::with_root(root, "overlay", "none", false)
    }

    /// As `new`, with what `/proc/mounts` shows of the root.
    pub fn with_root(root: Arc<dyn Inode>, fstype: &str, source: &str, readonly: bool) -> Arc<Self> {
        let sb = SuperBlock::new(root, fstype, readonly);
        let mount = Mount::counted(&sb, sb.root(), source, MountFlags::empty(), Kept::default());
        Self::of_tree(mount, None, &UserNamespace::first())
    }

    /// The namespace of a tree that is in none; `origin` says whether, and of what, it is an anonymous one.
    pub(super) fn of_tree(root: Arc<Mount>, origin: Option<u64>, owner: &Arc<UserNamespace>) -> Arc<Self> {
        let identity = Arc::new(Identity {
            id: NEXT_NAMESPACE.fetch_add(1, Ordering::Relaxed),
            is_anonymous: origin.is_some(),
            origin: origin.unwrap_or(0),
            owner: owner.clone(),
            count: AtomicUsize::new(0),
            changes: Arc::default(),
        });
        let ns = Arc::new_cyclic(|me| Self { me: me.clone(), identity, root: Lock::new(root.clone()) });
        for mount in root.tree() {
            mount.move_to_namespace(&ns.me, &ns.identity);
        }
        ns
    }

    /// A mount of `sb` that is nowhere yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn detached(
        &self,
        sb: &Arc<SuperBlock>,
        source: &str,
        flags: MountFlags,
    ) -> Result<Arc<Self>, Errno> {
        Ok(Self::of_tree(Mount::new(sb, sb.root(), source, flags)?, Some(0), &self.identity.owner))
    }

    /// The number that `/proc/PID/ns/mnt` shows.
    pub fn id(&self) -> u64 {
        self.identity.id
    }

    /// The user namespace that it belongs to.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.identity.owner
    }

    /// What is told when its tree or an attribute in it changes.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.identity.changes
    }

    /// The first mount.
    pub fn root_mount(&self) -> Arc<Mount> {
        self.root.lock().clone()
    }

    /// The root, below everything mounted on it.
    pub fn root(&self) -> VfsPath {
        down(self.root_mount().root_place())
    }

    /// Whether the mount is here (Linux `check_mnt`).
    pub(super) fn has(&self, mount: &Mount) -> bool {
        mount.standing().identity.as_ref().is_some_and(|ns| Arc::ptr_eq(ns, &self.identity))
    }

    /// Whether the mount is here, or in an anonymous namespace that is for this one (Linux `may_use_mount`).
    pub(super) fn may_use(&self, mount: &Mount) -> bool {
        let Some(ns) = mount.standing().identity.clone() else { return false };
        Arc::ptr_eq(&ns, &self.identity)
            || ns.is_anonymous && (ns.origin == 0 || ns.origin == self.identity.id)
    }

    /// The mounts, in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut list = self.root_mount().tree();
        list.sort_by_key(|m| m.unique_id());
        list
    }

    /// An independent copy of all mounts, of user namespace `owner`; `places` are moved along into the copy.
    ///
    /// # Errors
    /// `ENOMEM`.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `copy_mnt_ns`.
    pub fn duplicate(
        &self,
        places: &mut [&mut VfsPath],
        owner: &Arc<UserNamespace>,
    ) -> Result<Arc<Self>, Errno> {
        // Until the copies are in the namespace: they have peers already, whose changes come to them only there.
        let _tree = TREE.lock();
        let root = self.root_mount();
        let is_inner = *owner != self.identity.owner;
        let copy_as = if is_inner { CopyAs::Inner } else { CopyAs::Same };
        let pairs = root.copy_tree(root.root(), copy_as, Unbindable::Copy)?;
        let places_of: HashMap<*const Mount, &Arc<Mount>> =
            pairs.iter().map(|(old, new)| (Arc::as_ptr(old), new)).collect();
        for place in places {
            if let Some(new) = places_of.get(&Arc::as_ptr(&place.mount)) {
                place.mount = (*new).clone();
            }
        }
        let copy = pairs.into_iter().next().map_or(root, |(_, copy)| copy);
        if is_inner {
            copy.lock_tree();
            // As if it lay on a root that nobody sees.
            copy.standing().is_locked = true;
        }
        Ok(Self::of_tree(copy, None, owner))
    }

    /// What `change` would set for `mount`.
    ///
    /// # Errors
    /// `EPERM`: a more privileged namespace keeps what would go (Linux `can_change_locked_flags`).
    fn changed_flags(mount: &Mount, change: MountChange) -> Result<MountFlags, Errno> {
        let old = mount.flags();
        let new = old.difference(change.clear).union(change.set);
        let standing = mount.standing();
        let moves_atime = standing.keeps_atime && (old ^ new).intersects(MountFlags::ATIME);
        if !new.contains(standing.kept) || moves_atime { Err(EPERM) } else { Ok(new) }
    }

    /// Whether `change` could be made of the mount at `at`; that somebody writes is not looked at.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`: as `change`.
    pub fn may_change(&self, at: &VfsPath, change: MountChange) -> Result<(), Errno> {
        if !at.is_mount_root() || !self.has(&at.mount) {
            return Err(EINVAL);
        }
        Self::changed_flags(&at.mount, change).map(drop)
    }

    /// Changes attributes and propagation of the mount whose root is `at`, and with `recursive` of those below.
    ///
    /// # Errors
    /// `EINVAL`: `at` is no root of a mount of this namespace, nor of a detached tree; `EPERM`: a more privileged
    /// namespace keeps an attribute; `EBUSY`: somebody writes to what would be read-only.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_mount_setattr`, `mount_setattr_prepare`.
    pub fn change(&self, at: &VfsPath, change: MountChange, recursive: Recursive) -> Result<(), Errno> {
        let _tree = TREE.lock();
        if !at.is_mount_root() {
            return Err(EINVAL);
        }
        let is_detached = {
            let standing = at.mount.standing();
            standing.parent.is_none() && standing.identity.as_ref().is_some_and(|ns| ns.is_anonymous)
        };
        if !is_detached && !self.has(&at.mount) {
            return Err(EINVAL);
        }
        let list = if recursive == Recursive::Yes { at.mount.tree() } else { vec![at.mount.clone()] };
        let mut changed = Vec::with_capacity(list.len());
        for mount in list {
            let flags = Self::changed_flags(&mount, change)?;
            let becomes_readonly = (flags - mount.flags()).contains(MountFlags::RDONLY);
            if becomes_readonly && mount.has_writers() {
                return Err(EBUSY);
            }
            changed.push((mount, flags));
        }
        if change.propagation.is_none() || !(change.set | change.clear).is_empty() {
            self.identity.changes.tell();
        }
        for (mount, flags) in changed {
            mount.set_flags(flags);
            if let Some(kind) = change.propagation {
                mount.set_propagation(kind);
            }
        }
        Ok(())
    }

    /// `pivot_root(2)`: the mount at `new` becomes the first, `put_old` shows what was at `root`. The caller moves the
    /// tasks along.
    ///
    /// # Errors
    /// As pivot_root(2).
    ///
    /// Source: Linux 6.12 fs/namespace.c, `pivot_root`.
    pub fn pivot_root(&self, root: &VfsPath, new: &VfsPath, put_old: &VfsPath) -> Result<(), Errno> {
        let _tree = TREE.lock();
        let (root_mount, new_mount) = (&root.mount, &new.mount);
        let put_old = down(put_old.clone());
        let parent_is_shared = |m: &Mount| m.parent().is_some_and(|p| p.mount.is_shared());
        if put_old.mount.is_shared() || parent_is_shared(new_mount) || parent_is_shared(root_mount) {
            return Err(EINVAL);
        }
        if !self.has(root_mount) || !self.has(new_mount) {
            return Err(EINVAL);
        }
        if new_mount.standing().is_locked {
            return Err(EINVAL);
        }
        if new.dentry.is_dead() || put_old.dentry.is_dead() {
            return Err(ENOENT);
        }
        if Arc::ptr_eq(new_mount, root_mount) || Arc::ptr_eq(&put_old.mount, root_mount) {
            return Err(EBUSY);
        }
        if !root.is_mount_root() || !new.is_mount_root() {
            return Err(EINVAL);
        }
        if !is_below(&put_old, new) || !is_below(new, root) {
            return Err(EINVAL);
        }
        new_mount.take().ok_or(EINVAL)?;
        self.identity.changes.tell();
        if std::mem::take(&mut root_mount.standing().is_locked) {
            new_mount.standing().is_locked = true;
        }
        let above = root_mount.take();
        root_mount.put(put_old);
        match above {
            Some(place) => new_mount.put(place),
            None => {
                let old = std::mem::replace(&mut *self.root.lock(), new_mount.clone());
                drop(old);
            }
        }
        Ok(())
    }
}

/// Whether a change or copy takes in the mounts below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain")]
pub enum Recursive {
    No,
    Yes,
}

/// Whether `place` lies under `top`, across mounts.
fn is_below(place: &VfsPath, top: &VfsPath) -> bool {
    let mut at = place.clone();
    while !Arc::ptr_eq(&at.mount, &top.mount) {
        match at.mount.parent() {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    top.dentry.is_ancestor_of(&at.dentry)
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let root = self.root.get_mut().clone();
        // A detached tree that was mounted belongs to another namespace now.
        if self.has(&root) {
            let gone = {
                let _tree = TREE.lock();
                let gone = root.tree();
                for mount in gone.iter().rev() {
                    mount.leave_behind();
                    mount.leave_namespace();
                }
                leave_groups(&gone);
                gone
            };
            drop(gone);
        }
    }
}
