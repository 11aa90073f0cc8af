//! Bringing mounts to places: mount(2), bind, move, move_mount(2), open_tree(2).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EBUSY, EINVAL, ELOOP, ENOENT, ENOSPC, ENOTDIR, EPERM};
use base::cred::{Credentials, cap};

use super::mount::{Mount, MountFlags, SuperBlock, TREE, down};
use super::namespace::{Identity, Recursive};
use super::propagate::{
    Copied, CopyAs, Unbindable, copies_for, discard, leave_groups, receivers, take_groups,
};
use super::{FileType, Inode, MountNamespace, VfsPath};

/// Mounts that one namespace may have (`/proc/sys/fs/mount-max`).
pub static MOUNT_MAX: AtomicU64 = AtomicU64::new(100_000);

/// Where a mount comes to lie among those at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Over all of them.
    Top,
    /// Under the topmost (`MOVE_MOUNT_BENEATH`).
    Beneath,
}

/// What one change adds to the counts of namespaces.
#[derive(Default)]
struct Room(HashMap<*const Identity, u64>);

impl Room {
    /// # Errors
    /// `ENOSPC`: `ns` would have too many mounts (Linux `count_mounts`).
    fn claim(&mut self, ns: &Arc<Identity>, mounts: usize) -> Result<(), Errno> {
        let pending = self.0.entry(Arc::as_ptr(ns)).or_default();
        let sum = *pending + mounts as u64;
        if ns.count.load(Ordering::Relaxed) as u64 + sum > MOUNT_MAX.load(Ordering::Relaxed) {
            return Err(ENOSPC);
        }
        *pending = sum;
        Ok(())
    }
}

fn identity(mount: &Mount) -> Option<Arc<Identity>> {
    mount.standing().identity.clone()
}

impl MountNamespace {
    /// Mounts the file system under `root` at `at`; returns its root.
    ///
    /// # Errors
    /// As `mount_sb`.
    pub fn mount(
        &self,
        at: &VfsPath,
        root: Arc<dyn Inode>,
        fstype: &str,
        source: &str,
        readonly: bool,
    ) -> Result<VfsPath, Errno> {
        let flags = if readonly { MountFlags::RDONLY } else { MountFlags::empty() };
        self.mount_sb(at, &SuperBlock::new(root, fstype, readonly), source, flags)
    }

    /// Mounts a file system at `at`; returns its root.
    ///
    /// # Errors
    /// `ENOENT`: `at` was removed; `EINVAL`: `at` is in another namespace; `EBUSY`: the same file system is mounted there;
    /// `ENOTDIR`: one is a directory, the other is not; `ENOSPC`: too many mounts; `ENOMEM`.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_add_mount`.
    pub fn mount_sb(
        &self,
        at: &VfsPath,
        sb: &Arc<SuperBlock>,
        source: &str,
        flags: MountFlags,
    ) -> Result<VfsPath, Errno> {
        let mount = Mount::new(sb, sb.root(), source, flags)?;
        let _tree = TREE.lock();
        let at = target(at)?;
        if !self.has(&at.mount) {
            return Err(EINVAL);
        }
        if Arc::ptr_eq(at.mount.sb(), sb) && at.is_mount_root() && Arc::ptr_eq(&at.dentry, sb.root()) {
            return Err(EBUSY);
        }
        self.graft(&mount, at)?;
        Ok(mount.root_place())
    }

    /// Whether a mount of `sb` would show no more than the namespace sees already.
    ///
    /// # Errors
    /// `EPERM`: no mount here of such a file system shows everything that one with `flags` would (Linux
    /// `mount_too_revealing`).
    pub fn check_revealing(&self, sb: &SuperBlock, flags: MountFlags) -> Result<(), Errno> {
        if self.identity.owner.is_first() || !matches!(sb.fstype(), "proc" | "sysfs") {
            return Ok(());
        }
        let is_allowed = |mount: &Arc<Mount>| {
            let (kept, keeps_atime) = {
                let standing = mount.standing();
                (standing.kept, standing.keeps_atime)
            };
            let is_kept_readonly = kept.contains(MountFlags::RDONLY) || mount.sb().is_readonly();
            let has_other_atime = (mount.flags() ^ flags).intersects(MountFlags::ATIME);
            let hides = |child: &Arc<Mount>| {
                let (is_locked, at) = {
                    let standing = child.standing();
                    (standing.is_locked, standing.parent.clone())
                };
                is_locked && at.is_some_and(|at| !at.inode().is_always_empty())
            };
            mount.fstype() == sb.fstype()
                && Arc::ptr_eq(mount.root(), mount.sb().root())
                && (!is_kept_readonly || flags.contains(MountFlags::RDONLY))
                && !(keeps_atime && has_other_atime)
                && !mount.child_mounts().iter().any(hides)
        };
        if self.mounts().iter().any(is_allowed) { Ok(()) } else { Err(EPERM) }
    }

    /// Mounts a tree that is nowhere, and copies of it where `at` propagates to.
    fn graft(&self, tree: &Arc<Mount>, at: VfsPath) -> Result<(), Errno> {
        if at.dentry.is_dir() != tree.root().is_dir() {
            return Err(ENOTDIR);
        }
        self.attach(tree, at)
    }

    /// Mounts a tree that is nowhere, in an anonymous namespace, or elsewhere in this namespace, at `at`, beneath what is
    /// mounted there; and copies of it where `at` propagates to. Nothing is changed when it fails.
    ///
    /// Source: Linux 6.18 fs/namespace.c, `attach_recursive_mnt`.
    fn attach(&self, tree: &Arc<Mount>, at: VfsPath) -> Result<(), Errno> {
        let list = tree.tree();
        let moves = self.has(tree);
        let mut room = Room::default();
        let ns = identity(&at.mount).ok_or(EINVAL)?;
        if !moves {
            room.claim(&ns, list.len())?;
        }
        let mut copies = Vec::new();
        if at.mount.is_shared() {
            let alone: Vec<Arc<Mount>> = list.iter().filter(|m| !m.is_shared()).cloned().collect();
            alone.iter().for_each(Mount::share);
            let may_mount = |m: &Arc<Mount>| match identity(m) {
                Some(ns) => room.claim(&ns, list.len()),
                None => Ok(()),
            };
            if let Err(e) = copies_for(tree, &at, !moves, &mut copies, may_mount) {
                copies.iter().for_each(|(copy, _)| discard(copy));
                leave_own_groups(&alone);
                return Err(e);
            }
        }
        let old = tree.take();
        self.settle((tree.clone(), at));
        for copied in copies {
            self.settle(copied);
        }
        drop(old);
        Ok(())
    }

    /// Puts a tree to its place, under what lies there already.
    fn settle(&self, (tree, place): Copied) {
        let (namespace, ns) = {
            let standing = place.mount.standing();
            (standing.namespace.clone(), standing.identity.clone())
        };
        let Some(ns) = ns else { return };
        if ns.owner != self.identity.owner {
            tree.lock_tree();
        }
        // Before it is covered by what may be a deep stack.
        let top = tree.topmost();
        for mount in tree.tree() {
            mount.move_to_namespace(&namespace, &ns);
        }
        let covered = place.mount.child_at(&place.dentry);
        if let Some(covered) = &covered {
            covered.take();
        }
        tree.put(place);
        if let Some(covered) = covered {
            // What hid the place hides it no more; the new one does.
            if std::mem::take(&mut covered.standing().is_locked) {
                tree.standing().is_locked = true;
            }
            covered.put(top.root_place());
        }
        ns.changes.tell();
    }

    /// Shows the tree under `from` at `at` too (`MS_BIND`), with the mounts in it when `recursive`.
    ///
    /// # Errors
    /// `EINVAL`: `from` is in another namespace, unbindable, or without the mounts in it would show what they hide; and
    /// those of `mount_sb`.
    pub fn bind(&self, at: &VfsPath, from: &VfsPath, recursive: Recursive) -> Result<VfsPath, Errno> {
        let _tree = TREE.lock();
        let at = target(at)?;
        if !self.has(&at.mount) {
            return Err(EINVAL);
        }
        let copy = self.copy_of(from, recursive)?;
        if let Err(e) = self.graft(&copy, at) {
            discard(&copy);
            return Err(e);
        }
        Ok(copy.root_place())
    }

    /// Source: Linux 6.18 fs/namespace.c, `__do_loopback`.
    fn copy_of(&self, from: &VfsPath, recursive: Recursive) -> Result<Arc<Mount>, Errno> {
        if from.mount.is_unbindable() || !self.may_use(&from.mount) {
            return Err(EINVAL);
        }
        if recursive == Recursive::No {
            if from.mount.has_locked_children(&from.dentry) {
                return Err(EINVAL);
            }
            return from.mount.copy(&from.dentry, CopyAs::Same);
        }
        let pairs = from.mount.copy_tree(&from.dentry, CopyAs::Same, Unbindable::LeaveOut)?;
        pairs.into_iter().next().map(|(_, copy)| copy).ok_or(EINVAL)
    }

    /// A copy of what is under `from` that is mounted nowhere (`OPEN_TREE_CLONE`).
    ///
    /// # Errors
    /// As `bind`.
    pub fn clone_tree(&self, from: &VfsPath, recursive: Recursive) -> Result<Arc<Self>, Errno> {
        let _tree = TREE.lock();
        let ns = identity(&from.mount).ok_or(EINVAL)?;
        let origin = if ns.is_anonymous { ns.origin } else { ns.id };
        let copy = self.copy_of(from, recursive)?;
        Ok(Self::of_tree(copy, Some(origin), &self.identity.owner))
    }

    /// Moves the mount whose root is `from`, of this namespace or the first of a detached tree, to `at` (`MS_MOVE`,
    /// move_mount(2)). `root` is the caller's root directory.
    ///
    /// # Errors
    /// `EINVAL`: `from` is no root of a mount or locked, only one of both is a directory, one is in another namespace, or
    /// propagation forbids it; `ENOENT`: `at` was removed; `ELOOP`: `at` is in what moves; `ENOSPC`, `ENOMEM`.
    ///
    /// Source: Linux 6.18 fs/namespace.c, `do_move_mount`.
    pub fn move_mount(&self, at: &VfsPath, from: &VfsPath, onto: Onto, root: &VfsPath) -> Result<(), Errno> {
        let _tree = TREE.lock();
        let mount = &from.mount;
        if !from.is_mount_root() || at.dentry.is_dir() != from.dentry.is_dir() {
            return Err(EINVAL);
        }
        let (spot, over) = match onto {
            Onto::Top => (target(at)?, None),
            Onto::Beneath if !at.is_mount_root() => return Err(EINVAL),
            Onto::Beneath => {
                let over = at.mount.topmost();
                (over.parent().ok_or(EINVAL)?, Some(over))
            }
        };
        if self.has(mount) {
            let parent = mount.parent().ok_or(EINVAL)?;
            if mount.standing().is_locked || parent.mount.is_shared() || !self.has(&spot.mount) {
                return Err(EINVAL);
            }
        } else {
            let ns = identity(mount).ok_or(EINVAL)?;
            let is_same = identity(&spot.mount).is_some_and(|other| Arc::ptr_eq(&ns, &other));
            if !ns.is_anonymous || mount.parent().is_some() || is_same || !self.may_use(&spot.mount) {
                return Err(EINVAL);
            }
        }
        if let Some(over) = over {
            self.may_slip(mount, &over, &spot, root)?;
        }
        if spot.mount.is_shared() && mount.tree().iter().any(|m| m.is_unbindable()) {
            return Err(EINVAL);
        }
        if is_ancestor(mount, &spot.mount) {
            return Err(ELOOP);
        }
        self.attach(mount, spot)
    }

    /// Whether `mount` may come between `over` and what it is mounted on.
    ///
    /// # Errors
    /// `EINVAL`: it may not.
    ///
    /// Source: Linux 6.18 fs/namespace.c, `can_move_mount_beneath`.
    fn may_slip(
        &self,
        mount: &Arc<Mount>,
        over: &Arc<Mount>,
        spot: &VfsPath,
        root: &VfsPath,
    ) -> Result<(), Errno> {
        let would_cover = |to: &Arc<Mount>| {
            spot.mount.is_shared()
                && Arc::ptr_eq(to.root(), &spot.dentry)
                && receivers(&spot.mount).iter().any(|m| Arc::ptr_eq(m, to))
        };
        let is_refused = over.standing().is_locked
            || mount.child_at(mount.root()).is_some()
            || Arc::ptr_eq(over, &root.mount)
            || is_ancestor(over, mount)
            || would_cover(over)
            || self.has(mount) && would_cover(mount);
        if is_refused { Err(EINVAL) } else { Ok(()) }
    }

    /// Gives the mount whose root is `to` the groups of that whose root is `from` (`MOVE_MOUNT_SET_GROUP`).
    ///
    /// # Errors
    /// `EINVAL`: one is no root of a mount or in no namespace; `EPERM`: `cred` may not mount there; `EINVAL`: they are not
    /// of one file system, `to` is not in `from` or hidden there, `to` has groups, or `from` has none.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_set_group`.
    pub fn set_group(&self, to: &VfsPath, from: &VfsPath, cred: &Credentials) -> Result<(), Errno> {
        let _tree = TREE.lock();
        for place in [from, to] {
            let ns = identity(&place.mount).ok_or(EINVAL)?;
            if !ns.owner.grants(cred, cap::SYS_ADMIN) {
                return Err(EPERM);
            }
        }
        let has_groups = |m: &Mount| m.groups() != (None, None);
        let (source, target) = (&from.mount, &to.mount);
        let is_right = from.is_mount_root()
            && to.is_mount_root()
            && Arc::ptr_eq(source.sb(), target.sb())
            && source.root().is_ancestor_of(target.root())
            && !source.has_locked_children(target.root())
            && !has_groups(target)
            && has_groups(source);
        if !is_right {
            return Err(EINVAL);
        }
        take_groups(target, source);
        Ok(())
    }
}

/// The place that a mount at `at` covers.
///
/// # Errors
/// `ENOENT`: it was removed.
fn target(at: &VfsPath) -> Result<VfsPath, Errno> {
    let at = down(at.clone());
    // Links of /proc go away with what they stand for (Linux 6.12 fs/proc, d_dont_cantmount).
    if at.dentry.is_dead() || at.dentry.file_type()? == FileType::Symlink {
        return Err(ENOENT);
    }
    Ok(at)
}

/// Whether `mount` is `other` or `other` is mounted below it.
fn is_ancestor(mount: &Arc<Mount>, other: &Arc<Mount>) -> bool {
    let mut above = Some(other.clone());
    while let Some(m) = above {
        if Arc::ptr_eq(&m, mount) {
            return true;
        }
        above = m.parent().map(|place| place.mount);
    }
    false
}

/// Makes private what was made shared for a change that failed.
fn leave_own_groups(mounts: &[Arc<Mount>]) {
    let masters: Vec<_> = mounts.iter().map(|m| m.standing().master.clone()).collect();
    leave_groups(mounts);
    for (mount, master) in mounts.iter().zip(masters) {
        mount.follow_again(master);
    }
}
