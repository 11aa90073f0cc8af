//! Propagation of mounts: which other mounts see what is mounted on or taken from one (mount_namespaces(7)).
//!
//! Peers share a group. A mount may follow a group as its slave, and have peers of its own at the same time. All of it
//! changes under `TREE`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{ENOMEM, EPERM};
use base::lock::{Lock, rank};

use super::mount::{Ids, Mount, MountFlags};
use super::ring::Ring;
use super::{Dentry, VfsPath};

static GROUPS: Ids = Ids::after(0);

/// Mounts that tell each other, and those that follow them.
#[derive(Debug)]
pub(super) struct PeerGroup {
    id: u64,
    members: Lock<Members, { rank::LEAF }>,
}

#[derive(Debug, Default)]
struct Members {
    peers: Ring,
    slaves: Ring,
}

impl PeerGroup {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The peers in their order, from the one behind `mount` on.
    fn peers_after(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        self.members.lock().peers.list_after(Some(mount))
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        self.members.lock().slaves.list_after(None)
    }
}

impl Drop for PeerGroup {
    fn drop(&mut self) {
        GROUPS.give(self.id);
    }
}

/// How a mount takes part (`MS_SHARED` and its like).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Tells its peers, and they it.
    Shared,
    /// Follows those who were its peers.
    Slave,
    /// Neither.
    Private,
    /// Neither, and cannot be bound.
    Unbindable,
}

/// What a copy of a mount becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyAs {
    /// A peer if it is shared, a slave if it is one.
    Same,
    /// A slave of the original, shared in turn or not.
    Slave { shared: bool },
    /// As `Same`, but no peer: for a namespace that may not act on the original.
    Inner,
}

impl Mount {
    fn join(self: &Arc<Self>, group: &Arc<PeerGroup>, peer: Option<&Arc<Self>>) {
        group.members.lock().peers.insert(self, peer);
        let mut standing = self.standing();
        standing.peers = Some(group.clone());
        standing.is_unbindable = false;
    }

    fn follow(self: &Arc<Self>, master: Option<Arc<PeerGroup>>, fellow: Option<&Arc<Self>>) {
        let old = std::mem::replace(&mut self.standing().master, master.clone());
        if let Some(old) = old {
            old.members.lock().slaves.remove(self);
        }
        if let Some(master) = master {
            master.members.lock().slaves.insert(self, fellow);
        }
    }

    /// Follows `master` as before.
    pub(super) fn follow_again(self: &Arc<Self>, master: Option<Arc<PeerGroup>>) {
        self.follow(master, None);
    }

    /// Makes it shared, alone if it was not.
    pub(super) fn share(self: &Arc<Self>) {
        if !self.is_shared() {
            let id = GROUPS.take();
            self.join(&Arc::new(PeerGroup { id, members: Lock::default() }), None);
        }
    }

    /// Leaves its peers and follows them; those who followed only it, follow whom it follows.
    ///
    /// Source: Linux 6.12 fs/pnode.c, `do_make_slave`.
    fn enslave(self: &Arc<Self>) {
        let (group, master) = {
            let mut standing = self.standing();
            (standing.peers.take(), standing.master.clone())
        };
        let Some(group) = group else { return };
        let is_last = {
            let mut members = group.members.lock();
            members.peers.remove(self);
            members.peers.is_empty()
        };
        if is_last {
            for slave in group.slaves() {
                slave.follow(master.clone(), None);
            }
        } else {
            self.follow(Some(group), None);
        }
    }

    /// Changes how it takes part.
    pub(super) fn set_propagation(self: &Arc<Self>, kind: Propagation) {
        match kind {
            Propagation::Shared => self.share(),
            Propagation::Slave => self.enslave(),
            Propagation::Private | Propagation::Unbindable => {
                self.enslave();
                self.follow(None, None);
                self.standing().is_unbindable = kind == Propagation::Unbindable;
            }
        }
    }

    /// A copy of this mount alone, with `root` as its root, that is nowhere yet.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `clone_mnt`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn copy(self: &Arc<Self>, root: &Arc<Dentry>, copy_as: CopyAs) -> Result<Arc<Self>, Errno> {
        let copy = Self::new(self.sb(), root, self.source(), self.flags())?;
        let (peers, master, is_unbindable, kept, keeps_atime) = {
            let s = self.standing();
            (s.peers.clone(), s.master.clone(), s.is_unbindable, s.kept, s.keeps_atime)
        };
        {
            let mut standing = copy.standing();
            (standing.kept, standing.keeps_atime) = (kept, keeps_atime);
        }
        match copy_as {
            CopyAs::Inner if peers.is_some() => {
                copy.follow(peers, None);
                copy.standing().is_unbindable = is_unbindable;
            }
            CopyAs::Same | CopyAs::Inner => {
                if let Some(group) = &peers {
                    copy.join(group, Some(self));
                }
                copy.follow(master, Some(self));
                copy.standing().is_unbindable = is_unbindable;
            }
            CopyAs::Slave { shared } => {
                copy.follow(peers, None);
                if shared {
                    copy.share();
                }
            }
        }
        Ok(copy)
    }

    /// A copy of this mount from `root` down, with what is mounted below: a tree that is nowhere yet. The first pair is
    /// this mount and the copy's root.
    ///
    /// # Errors
    /// `ENOMEM`; `EPERM`: something is locked and cannot be copied.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `copy_tree`.
    pub(super) fn copy_tree(
        self: &Arc<Self>,
        root: &Arc<Dentry>,
        copy_as: CopyAs,
        unbindable: Unbindable,
    ) -> Result<Vec<Pair>, Errno> {
        let mut pairs = vec![(self.clone(), self.copy(root, copy_as)?)];
        let result = Self::copy_below(&mut pairs, root, copy_as, unbindable);
        if let (Err(_), Some((_, top))) = (&result, pairs.first()) {
            discard(top);
        }
        result.map(|()| pairs)
    }

    fn copy_below(
        pairs: &mut Vec<Pair>,
        root: &Arc<Dentry>,
        copy_as: CopyAs,
        unbindable: Unbindable,
    ) -> Result<(), Errno> {
        // Each mount with what is below before the next one beside it: so the copies are numbered.
        let mut waiting = Vec::new();
        let below = |old: &Arc<Self>, new: &Arc<Self>| {
            let children = old.child_mounts().into_iter().rev();
            children.map(|child| (child, new.clone())).collect::<Vec<_>>()
        };
        if let Some((old, new)) = pairs.first() {
            let is_inside = |m: &Arc<Self>| m.parent().is_some_and(|at| root.is_ancestor_of(&at.dentry));
            waiting.extend(below(old, new).into_iter().filter(|(child, _)| is_inside(child)));
        }
        while let Some((child, parent)) = waiting.pop() {
            let Some(at) = child.parent() else { continue };
            let is_locked = child.standing().is_locked;
            if unbindable == Unbindable::LeaveOut && child.is_unbindable() {
                if is_locked {
                    return Err(EPERM);
                }
                continue;
            }
            let copy = child.copy(child.root(), copy_as)?;
            copy.standing().is_locked = is_locked;
            copy.put(VfsPath { mount: parent, dentry: at.dentry });
            waiting.extend(below(&child, &copy));
            pairs.push((child, copy));
        }
        Ok(())
    }
}

/// A mount and its copy.
pub(super) type Pair = (Arc<Mount>, Arc<Mount>);

/// What becomes of unbindable mounts when a tree is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbindable {
    /// They are copied too.
    Copy,
    /// They are not.
    LeaveOut,
}

/// Takes a tree apart that never came to be mounted. With `TREE` held.
pub(super) fn discard(top: &Arc<Mount>) {
    let gone = top.tree();
    leave_groups(&gone);
    for mount in gone.iter().rev() {
        mount.take();
    }
}

/// Makes all of `gone` private, as `set_propagation` does with one: each group is looked at once.
pub(super) fn leave_groups(gone: &[Arc<Mount>]) {
    type Group = Arc<PeerGroup>;
    // The groups that nobody is left in, with the one that each follows.
    let mut left: HashMap<*const PeerGroup, (Group, Option<Group>)> = HashMap::new();
    for mount in gone {
        let (peers, master) = {
            let mut standing = mount.standing();
            standing.is_unbindable = false;
            (standing.peers.take(), standing.master.take())
        };
        if let Some(master) = &master {
            master.members.lock().slaves.remove(mount);
        }
        if let Some(peers) = peers {
            let is_last = {
                let mut members = peers.members.lock();
                members.peers.remove(mount);
                members.peers.is_empty()
            };
            if is_last {
                left.insert(Arc::as_ptr(&peers), (peers, master));
            }
        }
    }
    // Who followed a group that is no more, follows whom that followed.
    let mut heirs: HashMap<*const PeerGroup, Option<Group>> = HashMap::new();
    for (group, _) in left.values() {
        let slaves = group.slaves();
        if slaves.is_empty() {
            continue;
        }
        // A chain of groups may be as long as all of them: each part of it is gone along once.
        let (mut path, mut heir) = (Vec::new(), Some(group.clone()));
        while let Some(at) = heir.as_ref().map(Arc::as_ptr) {
            if let Some(found) = heirs.get(&at) {
                heir = found.clone();
                break;
            }
            let Some((_, above)) = left.get(&at) else { break };
            path.push(at);
            heir = above.clone();
        }
        heirs.extend(path.into_iter().map(|at| (at, heir.clone())));
        for slave in slaves {
            slave.follow(heir.clone(), None);
        }
    }
}

/// Who sees what happens on `mount`, except itself: peers, slaves, their peers and slaves.
pub(super) fn receivers(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut seen = HashSet::from([Arc::as_ptr(mount)]);
    let own = mount.standing().peers.clone();
    let mut known: HashSet<*const PeerGroup> = own.iter().map(Arc::as_ptr).collect();
    let mut groups: Vec<(Arc<PeerGroup>, Arc<Mount>)> = own.into_iter().map(|g| (g, mount.clone())).collect();
    let (mut found, mut next) = (Vec::new(), 0);
    while let Some((group, from)) = groups.get(next).cloned() {
        next += 1;
        for m in [from.clone()].into_iter().chain(group.peers_after(&from)).chain(group.slaves()) {
            if seen.insert(Arc::as_ptr(&m)) {
                if let Some(own) = m.standing().peers.clone()
                    && known.insert(Arc::as_ptr(&own))
                {
                    groups.push((own, m.clone()));
                }
                found.push(m);
            }
        }
    }
    found
}

/// A copy of a tree and where it is to be mounted.
pub(super) type Copied = (Arc<Mount>, VfsPath);

/// Copies `tree`, which is going to be mounted at `at`, for all who see what happens there; adds each copy with its
/// place to `copies`. The mounts of `tree` are shared already if `at.mount` is; `is_new` says that the tree is mounted
/// nowhere else. `may_mount` is asked for each place before.
///
/// # Errors
/// `may_mount`'s, and those of copying. The copies made so far are in `copies`.
///
/// Source: Linux 6.12 fs/pnode.c, `propagate_mnt`.
pub(super) fn copies_for(
    tree: &Arc<Mount>,
    at: &VfsPath,
    is_new: bool,
    copies: &mut Vec<Copied>,
    mut may_mount: impl FnMut(&Arc<Mount>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(first) = at.mount.standing().peers.clone() else { return Ok(()) };
    let mut seen = HashSet::from([Arc::as_ptr(&at.mount)]);
    // The tree, and copies of it, may hold peers of the place itself, or what follows it: nothing is mounted on what is
    // new, or there would be no end (`IS_MNT_NEW`).
    if is_new {
        seen.extend(tree.tree().iter().map(Arc::as_ptr));
    }
    let is_placed = |m: &Mount| m.standing().identity.is_some();
    // Each group with the tree that its members' copies are peers of, or follow if it has none of its own yet.
    let mut known = HashSet::from([Arc::as_ptr(&first)]);
    let mut groups = vec![(first, at.mount.clone(), tree.clone(), true)];
    let mut next = 0;
    while let Some((group, from, mut template, mut is_own)) = groups.get(next).cloned() {
        next += 1;
        for m in [from.clone()].into_iter().chain(group.peers_after(&from)) {
            if !seen.insert(Arc::as_ptr(&m)) || !is_placed(&m) || !m.root().is_ancestor_of(&at.dentry) {
                continue;
            }
            may_mount(&m)?;
            let copy_as = if is_own { CopyAs::Same } else { CopyAs::Slave { shared: true } };
            let copy = copy_of(&template, copy_as)?;
            if !is_own {
                (template, is_own) = (copy.clone(), true);
            }
            copies.push((copy, VfsPath { mount: m, dentry: at.dentry.clone() }));
        }
        for m in group.slaves().into_iter().filter(|m| is_placed(m)) {
            let own = m.standing().peers.clone();
            if let Some(own) = own {
                if known.insert(Arc::as_ptr(&own)) {
                    groups.push((own, m, template.clone(), false));
                }
                continue;
            }
            if seen.insert(Arc::as_ptr(&m)) && m.root().is_ancestor_of(&at.dentry) {
                may_mount(&m)?;
                let copy = copy_of(&template, CopyAs::Slave { shared: false })?;
                copies.push((copy, VfsPath { mount: m, dentry: at.dentry.clone() }));
            }
        }
    }
    Ok(())
}

fn copy_of(tree: &Arc<Mount>, copy_as: CopyAs) -> Result<Arc<Mount>, Errno> {
    let pairs = tree.copy_tree(tree.root(), copy_as, Unbindable::Copy)?;
    pairs.into_iter().next().map(|(_, copy)| copy).ok_or(ENOMEM)
}

/// Gives `to` the groups of `from` (`MOVE_MOUNT_SET_GROUP`); `to` has none.
pub(super) fn take_groups(to: &Arc<Mount>, from: &Arc<Mount>) {
    let (peers, master) = {
        let standing = from.standing();
        (standing.peers.clone(), standing.master.clone())
    };
    if let Some(master) = master {
        to.follow(Some(master), Some(from));
    }
    if let Some(peers) = peers {
        to.join(&peers, Some(from));
    }
}

/// Attributes that `mount_setattr` sets and clears.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountChange {
    /// To set.
    pub set: MountFlags,
    /// To clear first.
    pub clear: MountFlags,
    /// Propagation.
    pub propagation: Option<Propagation>,
}
