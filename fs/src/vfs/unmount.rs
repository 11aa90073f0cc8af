//! Taking mounts away: umount2(2), and what goes with a mount.

use std::collections::HashSet;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EBUSY, EINVAL};

use super::mount::{Mount, TREE, down};
use super::propagate::{leave_groups, receivers};
use super::{MountNamespace, VfsPath};

impl MountNamespace {
    /// The root of what lies on top at `at`, which who may mount here may take away.
    ///
    /// # Errors
    /// `EINVAL`: it is no root of a mount of this namespace, or it is locked.
    pub fn umount_target(&self, at: VfsPath) -> Result<VfsPath, Errno> {
        let at = down(at);
        let is_ours = at.is_mount_root() && self.has(&at.mount) && !at.mount.standing().is_locked;
        if is_ours { Ok(at) } else { Err(EINVAL) }
    }

    /// Takes away the mount whose root is `at`.
    ///
    /// # Errors
    /// `EINVAL`: `at` is no root of a mount of this namespace, it is the first, or it is locked; `EBUSY`: it is in use
    /// (not with `Detach`); `EAGAIN`: `Expire` has marked it.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `do_umount`.
    pub fn umount(&self, at: VfsPath, how: Unmount) -> Result<(), Errno> {
        /// Its place in the tree, and the caller's.
        const OWN_REFERENCES: usize = 2;
        let guard = TREE.lock();
        let VfsPath { mount, dentry } = down(at);
        if !Arc::ptr_eq(&dentry, mount.root()) || !self.has(&mount) || mount.standing().is_locked {
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
        let gone = dissolve(&mount, how);
        drop(guard);
        drop(gone);
        Ok(())
    }
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

/// Takes `mount`, what is mounted in it, and what propagation brought elsewhere, out of the tree. With `TREE` held;
/// what it returns is to be dropped without.
///
/// Source: Linux 6.12 fs/namespace.c, `umount_tree`; fs/pnode.c, `propagate_umount`.
fn dissolve(mount: &Arc<Mount>, how: Unmount) -> Vec<Arc<Mount>> {
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
    // What is locked elsewhere hides something there, as long as its parent stays. Parents come before their children.
    for child in gone.iter().skip(own) {
        let (is_locked, parent) = {
            let standing = child.standing();
            (standing.is_locked, standing.parent.as_ref().map(|at| Arc::as_ptr(&at.mount)))
        };
        if is_locked && parent.is_some_and(|p| !known.contains(&p)) {
            known.remove(&Arc::as_ptr(child));
        }
    }
    gone.retain(|m| known.contains(&Arc::as_ptr(m)));
    let mut told = HashSet::new();
    // Children first, so that each still knows its parent.
    for mount in gone.iter().rev() {
        let cover = mount.child_at(mount.root()).filter(|m| !known.contains(&Arc::as_ptr(m)));
        let stays = how == Unmount::Detach && {
            let standing = mount.standing();
            let parent = standing.parent.as_ref().map(|at| Arc::as_ptr(&at.mount));
            standing.is_locked && parent.is_some_and(|p| known.contains(&p))
        };
        let place = if stays { mount.leave_behind() } else { mount.take() };
        if let (Some(cover), Some(place)) = (cover, place) {
            cover.take();
            cover.put(place);
        }
        let ns = mount.standing().identity.clone();
        mount.leave_namespace();
        if let Some(ns) = ns.filter(|ns| told.insert(Arc::as_ptr(ns))) {
            ns.changes.tell();
        }
    }
    leave_groups(&gone);
    gone
}
