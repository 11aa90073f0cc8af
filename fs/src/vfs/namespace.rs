//! The mounts that a task sees, and how they change (mount(2), umount2(2), pivot_root(2), move_mount(2)).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EBUSY, EINVAL, ELOOP, ENOENT, ENOSPC, ENOTDIR};
use base::lock::{Lock, rank};

use super::mount::{Mount, MountFlags, SuperBlock, TREE, down};
use super::propagate::{CopyAs, MountChange, copies_for, leave_groups, receivers};
use super::{FileType, Inode, VfsPath};

/// Mounts that one namespace may have (`fs.mount-max`).
const MOUNTS_MAX: usize = 100_000;
/// Inode numbers of namespaces begin here, as Linux's do.
static NEXT_NAMESPACE: AtomicU64 = AtomicU64::new(0xf000_0000);

/// The mounts that a task sees, or a tree that is mounted nowhere (`open_tree`, `fsmount`).
#[derive(Debug)]
pub struct MountNamespace {
    id: u64,
    me: Weak<Self>,
    root: Lock<Arc<Mount>, { rank::LEAF }>,
    is_anonymous: bool,
}

impl MountNamespace {
    /// Makes a namespace whose only mount is the file system under `root`.
    pub fn new(root: Arc<dyn Inode>) -> Arc<Self> {
        Self::with_root(root, "overlay", "none", false)
    }

    /// As `new`, with what `/proc/mounts` shows of the root.
    pub fn with_root(root: Arc<dyn Inode>, fstype: &str, source: &str, readonly: bool) -> Arc<Self> {
        let sb = SuperBlock::new(root, fstype, readonly);
        Self::of_tree(Mount::new(&sb, sb.root(), source, MountFlags::empty()), false)
    }

    fn of_tree(root: Arc<Mount>, is_anonymous: bool) -> Arc<Self> {
        let ns = Arc::new_cyclic(|me| Self {
            id: NEXT_NAMESPACE.fetch_add(1, Ordering::Relaxed),
            me: me.clone(),
            root: Lock::new(root.clone()),
            is_anonymous,
        });
        ns.adopt(&root);
        ns
    }

    /// A mount of `sb` that is nowhere yet.
    pub fn detached(sb: &Arc<SuperBlock>, source: &str, flags: MountFlags) -> Arc<Self> {
        Self::of_tree(Mount::new(sb, sb.root(), source, flags), true)
    }

    /// The number that `/proc/PID/ns/mnt` shows.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is a tree that is mounted nowhere.
    pub fn is_anonymous(&self) -> bool {
        self.is_anonymous
    }

    /// The first mount.
    pub fn root_mount(&self) -> Arc<Mount> {
        self.root.lock().clone()
    }

    /// The root, below everything mounted on it.
    pub fn root(&self) -> VfsPath {
        down(self.root_mount().root_place())
    }

    fn adopt(&self, tree: &Arc<Mount>) {
        for mount in tree.tree() {
            mount.standing().namespace = self.me.clone();
        }
    }

    fn has(&self, mount: &Mount) -> bool {
        std::ptr::eq(mount.standing().namespace.as_ptr(), self)
    }

    /// The mounts, in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut list = self.root_mount().tree();
        list.sort_by_key(|m| m.unique_id());
        list
    }

    /// An independent copy of all mounts; `places` are moved along into the copy.
    pub fn duplicate(&self, places: &mut [&mut VfsPath]) -> Arc<Self> {
        let tree = TREE.lock();
        let root = self.root_mount();
        let pairs = root.copy_tree(root.root(), CopyAs::Same, true);
        for place in places {
            if let Some((_, new)) = pairs.iter().find(|(old, _)| Arc::ptr_eq(old, &place.mount)) {
                place.mount = new.clone();
            }
        }
        let copy = pairs.into_iter().next().map_or(root, |(_, copy)| copy);
        drop(tree);
        Self::of_tree(copy, false)
    }

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
    /// `EINVAL`: `at` is in another namespace; `EBUSY`: the same file system is mounted there; `ENOENT`: `at` was removed;
    /// `ENOTDIR`: one is a directory, the other is not; `ENOSPC`: too many mounts.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_add_mount`.
    pub fn mount_sb(
        &self,
        at: &VfsPath,
        sb: &Arc<SuperBlock>,
        source: &str,
        flags: MountFlags,
    ) -> Result<VfsPath, Errno> {
        let _tree = TREE.lock();
        let at = self.target(at)?;
        if Arc::ptr_eq(at.mount.sb(), sb) && Arc::ptr_eq(&at.dentry, at.mount.root()) {
            return Err(EBUSY);
        }
        let mount = Mount::new(sb, sb.root(), source, flags);
        self.graft(&mount, at)?;
        Ok(mount.root_place())
    }

    /// The place that a mount at `at` covers.
    fn target(&self, at: &VfsPath) -> Result<VfsPath, Errno> {
        let at = down(at.clone());
        // Links of /proc go away with what they stand for (Linux 6.12 fs/proc, d_dont_cantmount).
        if at.dentry.is_dead() || at.dentry.file_type()? == FileType::Symlink {
            return Err(ENOENT);
        }
        if self.has(&at.mount) { Ok(at) } else { Err(EINVAL) }
    }

    /// Attaches a tree that is nowhere, and copies of it where `at` propagates to.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `attach_recursive_mnt`.
    fn graft(&self, tree: &Arc<Mount>, at: VfsPath) -> Result<(), Errno> {
        if at.dentry.is_dir() != tree.root().is_dir() {
            return Err(ENOTDIR);
        }
        let list = tree.tree();
        if self.root_mount().tree().len() + list.len() > MOUNTS_MAX {
            return Err(ENOSPC);
        }
        if at.mount.is_shared() {
            list.iter().for_each(Mount::share);
        }
        let copies = copies_for(tree, &at);
        tree.put(at);
        self.adopt(tree);
        for (copy, place) in copies {
            let ns = place.mount.standing().namespace.clone();
            // Before it is covered by what may be a deep stack.
            for mount in copy.tree() {
                mount.standing().namespace = ns.clone();
            }
            // What is mounted there already stays on top.
            let covered = place.mount.child_at(&place.dentry);
            if let Some(covered) = &covered {
                covered.take();
            }
            copy.put(place);
            if let Some(covered) = covered {
                covered.put(copy.root_place());
            }
        }
        Ok(())
    }

    /// Shows the tree under `from` at `at` too (`MS_BIND`), with the mounts in it when `recursive`.
    ///
    /// # Errors
    /// `EINVAL`: `from` is in another namespace or unbindable; and those of `mount_sb`.
    pub fn bind(&self, at: &VfsPath, from: &VfsPath, recursive: Recursive) -> Result<VfsPath, Errno> {
        let _tree = TREE.lock();
        let at = self.target(at)?;
        let copy = self.copy_of(from, recursive)?;
        self.graft(&copy, at)?;
        Ok(copy.root_place())
    }

    fn copy_of(&self, from: &VfsPath, recursive: Recursive) -> Result<Arc<Mount>, Errno> {
        if from.mount.is_unbindable() || !self.has(&from.mount) {
            return Err(EINVAL);
        }
        match recursive {
            Recursive::No => Ok(from.mount.copy(&from.dentry, CopyAs::Same)),
            Recursive::Yes => {
                let pairs = from.mount.copy_tree(&from.dentry, CopyAs::Same, false);
                pairs.into_iter().next().map(|(_, copy)| copy).ok_or(EINVAL)
            }
        }
    }

    /// A copy of what is under `from` that is mounted nowhere (`OPEN_TREE_CLONE`).
    ///
    /// # Errors
    /// As `bind`.
    pub fn clone_tree(&self, from: &VfsPath, recursive: Recursive) -> Result<Arc<Self>, Errno> {
        let copy = {
            let _tree = TREE.lock();
            self.copy_of(from, recursive)?
        };
        Ok(Self::of_tree(copy, true))
    }

    /// Mounts at `at` what `detached` holds; nothing is left in that.
    ///
    /// # Errors
    /// `EINVAL`: it was mounted already; those of `mount_sb`.
    pub fn attach(&self, at: &VfsPath, detached: &Arc<Self>) -> Result<(), Errno> {
        let _tree = TREE.lock();
        let at = self.target(at)?;
        let root = detached.root_mount();
        if !detached.is_anonymous || !detached.has(&root) || root.parent().is_some() {
            return Err(EINVAL);
        }
        if at.mount.is_shared() && root.tree().iter().any(|m| m.is_unbindable()) {
            return Err(EINVAL);
        }
        self.graft(&root, at)
    }

    /// Moves the mount whose root is `from` to `at` (`MS_MOVE`).
    ///
    /// # Errors
    /// `EINVAL`: `from` is no root of a mount, or propagation forbids it; `ELOOP`: `at` is in what moves.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_move_mount`.
    pub fn move_mount(&self, at: &VfsPath, from: &VfsPath) -> Result<(), Errno> {
        let _tree = TREE.lock();
        let at = self.target(at)?;
        let mount = &from.mount;
        if !self.has(mount) || !Arc::ptr_eq(&from.dentry, mount.root()) {
            return Err(EINVAL);
        }
        let parent = mount.parent().ok_or(EINVAL)?;
        if parent.mount.is_shared() {
            return Err(EINVAL);
        }
        if at.mount.is_shared() && mount.tree().iter().any(|m| m.is_unbindable()) {
            return Err(EINVAL);
        }
        let mut above = Some(at.clone());
        while let Some(place) = above {
            if Arc::ptr_eq(&place.mount, mount) {
                return Err(ELOOP);
            }
            above = place.mount.parent();
        }
        mount.take();
        if let Err(e) = self.graft(mount, at) {
            mount.put(parent);
            return Err(e);
        }
        Ok(())
    }

    /// Takes away the mount whose root is `at`.
    ///
    /// # Errors
    /// `EINVAL`: `at` is no root of a mount of this namespace, or it is the first; `EBUSY`: it is in use (not with
    /// `Detach`); `EAGAIN`: `Expire` has marked it.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_umount`.
    pub fn umount(&self, at: VfsPath, how: Unmount) -> Result<(), Errno> {
        /// Its place in the tree, and the caller's.
        const OWN_REFERENCES: usize = 2;
        let guard = TREE.lock();
        let VfsPath { mount, dentry } = down(at);
        if !Arc::ptr_eq(&dentry, mount.root()) || !self.has(&mount) {
            return Err(EINVAL);
        }
        drop(dentry);
        let parent = mount.parent().ok_or(EINVAL)?;
        if how == Unmount::Expire {
            if mount.has_children() || Arc::strong_count(&mount) > OWN_REFERENCES {
                return Err(EBUSY);
            }
            if !std::mem::replace(&mut mount.standing().is_expiring, true) {
                return Err(EAGAIN);
            }
        }
        if how != Unmount::Detach {
            if mount.has_children() || Arc::strong_count(&mount) > OWN_REFERENCES {
                return Err(EBUSY);
            }
            for other in receivers(&parent.mount) {
                if let Some(child) = other.child_at(&parent.dentry)
                    && !child.has_children()
                    && Arc::strong_count(&child) > OWN_REFERENCES
                {
                    return Err(EBUSY);
                }
            }
        }
        drop(parent);
        let gone = dissolve(&mount);
        drop(guard);
        drop(gone);
        Ok(())
    }

    /// Changes attributes and propagation of the mount whose root is `at`, and with `recursive` of those below.
    ///
    /// # Errors
    /// `EINVAL`: `at` is no root of a mount of this namespace.
    pub fn change(&self, at: &VfsPath, change: MountChange, recursive: Recursive) -> Result<(), Errno> {
        // Dropped after the lock: the last reference takes it.
        let namespace = at.mount.namespace();
        let _tree = TREE.lock();
        if !Arc::ptr_eq(&at.dentry, at.mount.root()) {
            return Err(EINVAL);
        }
        let is_ours = self.has(&at.mount) || namespace.as_ref().is_some_and(|ns| ns.is_anonymous);
        if !is_ours {
            return Err(EINVAL);
        }
        let list = if recursive == Recursive::Yes { at.mount.tree() } else { vec![at.mount.clone()] };
        let becomes_readonly = change.set.contains(MountFlags::RDONLY);
        let is_busy = |m: &Arc<Mount>| !m.flags().contains(MountFlags::RDONLY) && m.has_writers();
        if becomes_readonly && list.iter().any(is_busy) {
            return Err(EBUSY);
        }
        for mount in list {
            mount.set_flags(mount.flags().difference(change.clear).union(change.set));
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
        if new.dentry.is_dead() || put_old.dentry.is_dead() {
            return Err(ENOENT);
        }
        if Arc::ptr_eq(new_mount, root_mount) || Arc::ptr_eq(&put_old.mount, root_mount) {
            return Err(EBUSY);
        }
        let is_root = |p: &VfsPath| Arc::ptr_eq(&p.dentry, p.mount.root());
        if !is_root(root) || !is_root(new) {
            return Err(EINVAL);
        }
        if !is_below(&put_old, new) || !is_below(new, root) {
            return Err(EINVAL);
        }
        new_mount.take().ok_or(EINVAL)?;
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

/// How a mount is taken away (umount2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// If nobody uses it.
    Now,
    /// From the tree; who uses it goes on.
    Detach,
    /// If nobody has used it since the last such call.
    Expire,
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

/// Takes `mount`, what is mounted in it, and what propagation brought elsewhere, out of the tree. With `TREE` held;
/// what it returns is to be dropped without.
///
/// Source: Linux 6.12 fs/namespace.c, `umount_tree`; fs/pnode.c, `propagate_umount`.
fn dissolve(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut gone = mount.tree();
    let own = gone.len();
    let mut known: HashSet<*const Mount> = gone.iter().map(Arc::as_ptr).collect();
    // Who is in a group sees what happens at a place of it once.
    let mut told = HashSet::new();
    let mut next = 0;
    while let Some(at) = gone.get(next).and_then(|m| m.parent()) {
        next += 1;
        let Some(group) = at.mount.standing().peers.clone() else { continue };
        if !told.insert((Arc::as_ptr(&group), Arc::as_ptr(&at.dentry))) {
            continue;
        }
        for other in receivers(&at.mount) {
            if let Some(child) = other.child_at(&at.dentry)
                && known.insert(Arc::as_ptr(&child))
            {
                gone.push(child);
            }
        }
    }
    // What covers its root alone takes its place; anything else that stays keeps it. Children were found after parents.
    for child in gone.iter().skip(own).rev() {
        let covers = child.child_at(child.root());
        let is_cover = |m: &Arc<Mount>| covers.as_ref().is_some_and(|c| Arc::ptr_eq(c, m));
        if !child.child_mounts().iter().all(|m| known.contains(&Arc::as_ptr(m)) || is_cover(m)) {
            known.remove(&Arc::as_ptr(child));
        }
    }
    gone.retain(|m| known.contains(&Arc::as_ptr(m)));
    // Children first, so that each still knows its parent.
    for mount in gone.iter().rev() {
        let cover = mount.child_at(mount.root()).filter(|m| !known.contains(&Arc::as_ptr(m)));
        let place = mount.take();
        if let (Some(cover), Some(place)) = (cover, place) {
            cover.take();
            cover.put(place);
        }
        mount.standing().namespace = Weak::new();
    }
    leave_groups(&gone);
    gone
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let root = self.root.get_mut().clone();
        // A detached tree that was mounted belongs to another namespace now.
        if std::ptr::eq(root.standing().namespace.as_ptr(), self) {
            let gone = {
                let _tree = TREE.lock();
                let gone = root.tree();
                for mount in gone.iter().rev() {
                    mount.take();
                }
                leave_groups(&gone);
                gone
            };
            drop(gone);
        }
    }
}
