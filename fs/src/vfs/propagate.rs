//! Propagation of mounts: which other mounts see what is mounted on or taken from one (mount_namespaces(7)).
//!
//! Peers share a group. A mount may follow a group as its slave, and have peers of its own at the same time. All of it
//! changes under `TREE`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use base::lock::{Lock, rank};

use super::mount::{Ids, Mount, MountFlags};
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
    peers: Vec<Weak<Mount>>,
    slaves: Vec<Weak<Mount>>,
}

fn living(list: &[Weak<Mount>]) -> Vec<Arc<Mount>> {
    list.iter().filter_map(Weak::upgrade).collect()
}

fn forget(list: &mut Vec<Weak<Mount>>, mount: &Arc<Mount>) {
    list.retain(|m| m.strong_count() > 0 && !std::ptr::eq(m.as_ptr(), Arc::as_ptr(mount)));
}

impl PeerGroup {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    fn peers(&self) -> Vec<Arc<Mount>> {
        living(&self.members.lock().peers)
    }

    /// The peers in their order, from the one behind `mount` on.
    fn peers_after(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut peers = self.peers();
        if let Some(at) = peers.iter().position(|m| Arc::ptr_eq(m, mount)) {
            peers.rotate_left(at);
            peers.remove(0);
        }
        peers
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        living(&self.members.lock().slaves)
    }
}

impl Drop for PeerGroup {
    fn drop(&mut self) {
        GROUPS.give(self.id);
    }
}

/// Puts `mount` behind `old`, or in front of all.
fn insert(list: &mut Vec<Weak<Mount>>, mount: &Arc<Mount>, old: Option<&Arc<Mount>>) {
    let behind = old.and_then(|old| list.iter().position(|m| std::ptr::eq(m.as_ptr(), Arc::as_ptr(old))));
    list.insert(behind.map_or(0, |at| at + 1), Arc::downgrade(mount));
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
}

impl Mount {
    fn join(self: &Arc<Self>, group: &Arc<PeerGroup>, peer: Option<&Arc<Self>>) {
        insert(&mut group.members.lock().peers, self, peer);
        let mut standing = self.standing();
        standing.peers = Some(group.clone());
        standing.is_unbindable = false;
    }

    fn follow(self: &Arc<Self>, master: Option<Arc<PeerGroup>>, fellow: Option<&Arc<Self>>) {
        let old = std::mem::replace(&mut self.standing().master, master.clone());
        if let Some(old) = old {
            forget(&mut old.members.lock().slaves, self);
        }
        if let Some(master) = master {
            insert(&mut master.members.lock().slaves, self, fellow);
        }
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
        forget(&mut group.members.lock().peers, self);
        if group.peers().is_empty() {
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
    pub(super) fn copy(self: &Arc<Self>, root: &Arc<Dentry>, copy_as: CopyAs) -> Arc<Self> {
        let copy = Self::new(self.sb(), root, self.source(), self.flags());
        let (peers, master, is_unbindable) = {
            let standing = self.standing();
            (standing.peers.clone(), standing.master.clone(), standing.is_unbindable)
        };
        match copy_as {
            CopyAs::Same => {
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
        copy
    }

    /// A copy of this mount from `root` down, with what is mounted below: a tree that is nowhere yet.
    ///
    /// Source: Linux 6.12 fs/namespace.c, `copy_tree`.
    pub(super) fn copy_tree(
        self: &Arc<Self>,
        root: &Arc<Dentry>,
        copy_as: CopyAs,
        unbindable_too: bool,
    ) -> Vec<(Arc<Self>, Arc<Self>)> {
        let mut pairs = vec![(self.clone(), self.copy(root, copy_as))];
        let mut next = 0;
        while let Some((old, new)) = pairs.get(next).cloned() {
            next += 1;
            for child in old.child_mounts() {
                let Some(at) = child.parent() else { continue };
                let is_inside = next > 1 || root.is_ancestor_of(&at.dentry);
                if !is_inside || !unbindable_too && child.is_unbindable() {
                    continue;
                }
                let copy = child.copy(child.root(), copy_as);
                copy.put(VfsPath { mount: new.clone(), dentry: at.dentry });
                pairs.push((child, copy));
            }
        }
        pairs
    }
}

/// Makes all of `gone` private, as `set_propagation` does with one: each group is looked at once.
pub(super) fn leave_groups(gone: &[Arc<Mount>]) {
    type Group = Arc<PeerGroup>;
    let leaving: HashSet<*const Mount> = gone.iter().map(Arc::as_ptr).collect();
    let stays = |m: &Weak<Mount>| m.strong_count() > 0 && !leaving.contains(&m.as_ptr());
    // The groups that they leave, with the one that each follows; and those that they follow.
    let mut left: HashMap<*const PeerGroup, (Group, Option<Group>)> = HashMap::new();
    let mut followed: HashMap<*const PeerGroup, Group> = HashMap::new();
    for mount in gone {
        let (peers, master) = {
            let mut standing = mount.standing();
            standing.is_unbindable = false;
            (standing.peers.take(), standing.master.take())
        };
        if let Some(master) = &master {
            followed.insert(Arc::as_ptr(master), master.clone());
        }
        if let Some(peers) = peers {
            left.insert(Arc::as_ptr(&peers), (peers, master));
        }
    }
    for group in followed.values() {
        group.members.lock().slaves.retain(stays);
    }
    left.retain(|_, (group, _)| {
        let mut members = group.members.lock();
        members.peers.retain(stays);
        members.peers.is_empty()
    });
    // Who followed a group that is no more, follows whom that followed.
    for (group, master) in left.values() {
        let mut heir = master.clone();
        while let Some((_, above)) = heir.as_ref().and_then(|h| left.get(&Arc::as_ptr(h))) {
            heir = above.clone();
        }
        let slaves = std::mem::take(&mut group.members.lock().slaves);
        for slave in living(&slaves) {
            slave.follow(heir.clone(), None);
        }
    }
}

/// Who sees what happens on `mount`, except itself: peers, slaves, their peers and slaves.
pub(super) fn receivers(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut seen = HashSet::from([Arc::as_ptr(mount)]);
    let own = mount.standing().peers.clone();
    let mut groups: Vec<(Arc<PeerGroup>, Arc<Mount>)> = own.into_iter().map(|g| (g, mount.clone())).collect();
    let (mut found, mut next) = (Vec::new(), 0);
    while let Some((group, from)) = groups.get(next).cloned() {
        next += 1;
        for m in [from.clone()].into_iter().chain(group.peers_after(&from)).chain(group.slaves()) {
            if seen.insert(Arc::as_ptr(&m)) {
                if let Some(own) = m.standing().peers.clone()
                    && !groups.iter().any(|(g, _)| Arc::ptr_eq(g, &own))
                {
                    groups.push((own, m.clone()));
                }
                found.push(m);
            }
        }
    }
    found
}

/// Copies `tree`, which is going to be mounted at `at`, for all who see what happens there; returns each copy with its
/// place. The mounts of `tree` are shared already if `at.mount` is.
///
/// Source: Linux 6.12 fs/pnode.c, `propagate_mnt`.
pub(super) fn copies_for(tree: &Arc<Mount>, at: &VfsPath) -> Vec<(Arc<Mount>, VfsPath)> {
    let Some(first) = at.mount.standing().peers.clone() else { return Vec::new() };
    let mut seen = HashSet::from([Arc::as_ptr(&at.mount)]);
    if tree.parent().is_none() {
        // A new tree may hold peers of the place itself: nothing is mounted on them (`IS_MNT_NEW`).
        let mut new = vec![tree.clone()];
        while let Some(mount) = new.pop() {
            seen.insert(Arc::as_ptr(&mount));
            new.extend(mount.child_mounts());
        }
    }
    // Each group with the tree that its members' copies are peers of, or follow if it has none of its own yet.
    let mut groups = vec![(first, at.mount.clone(), tree.clone(), true)];
    let (mut copies, mut next) = (Vec::new(), 0);
    while let Some((group, from, mut template, mut is_own)) = groups.get(next).cloned() {
        next += 1;
        for m in [from.clone()].into_iter().chain(group.peers_after(&from)) {
            if !seen.insert(Arc::as_ptr(&m)) || !m.root().is_ancestor_of(&at.dentry) {
                continue;
            }
            let copy_as = if is_own { CopyAs::Same } else { CopyAs::Slave { shared: true } };
            let copy = copy_of(&template, copy_as);
            if !is_own {
                (template, is_own) = (copy.clone(), true);
            }
            copies.push((copy, VfsPath { mount: m, dentry: at.dentry.clone() }));
        }
        for m in group.slaves() {
            let own = m.standing().peers.clone();
            if let Some(own) = own {
                if !groups.iter().any(|(g, _, _, _)| Arc::ptr_eq(g, &own)) {
                    groups.push((own, m, template.clone(), false));
                }
                continue;
            }
            if seen.insert(Arc::as_ptr(&m)) && m.root().is_ancestor_of(&at.dentry) {
                let copy = copy_of(&template, CopyAs::Slave { shared: false });
                copies.push((copy, VfsPath { mount: m, dentry: at.dentry.clone() }));
            }
        }
    }
    copies
}

fn copy_of(tree: &Arc<Mount>, copy_as: CopyAs) -> Arc<Mount> {
    let pairs = tree.copy_tree(tree.root(), copy_as, true);
    // The first pair is the tree's own root.
    pairs.into_iter().next().map_or_else(|| tree.copy(tree.root(), copy_as), |(_, copy)| copy)
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
