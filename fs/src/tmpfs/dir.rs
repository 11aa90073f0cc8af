//! The names in a directory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV};
use base::lock::{LockGuard, rank};

use super::{Body, TmpInode};
use crate::vfs::{Inode, Owner, mode};

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

/// Names and inodes, in the order in which they came, so that a position stays valid whatever else changes.
pub(super) struct Directory {
    by_name: HashMap<Arc<[u8]>, (u64, Arc<TmpInode>)>,
    by_cookie: BTreeMap<u64, (Arc<[u8]>, Arc<TmpInode>)>,
    next: u64,
}

impl Default for Directory {
    fn default() -> Self {
        // Positions 1 and 2 are behind `.` and `..`.
        Self { by_name: HashMap::new(), by_cookie: BTreeMap::new(), next: 3 }
    }
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Arc<TmpInode>> {
        self.by_name.get(name).map(|(_, inode)| inode.clone())
    }

    /// Enters `inode`, in the place of what had the name.
    pub(super) fn insert(&mut self, name: &[u8], inode: Arc<TmpInode>) {
        if let Some(entry) = self.by_name.get_mut(name) {
            if let Some(place) = self.by_cookie.get_mut(&entry.0) {
                place.1 = inode.clone();
            }
            entry.1 = inode;
            return;
        }
        let name: Arc<[u8]> = name.into();
        self.by_cookie.insert(self.next, (name.clone(), inode.clone()));
        self.by_name.insert(name, (self.next, inode));
        self.next += 1;
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<TmpInode>> {
        let (cookie, inode) = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie);
        Some(inode)
    }

    /// Hands on the entries behind position `after` until `f` returns false: the newest first, as Linux's tmpfs does,
    /// so that what is made meanwhile is not met.
    pub(super) fn each(&self, after: u64, mut f: impl FnMut(u64, &[u8], &TmpInode) -> bool) {
        let below = if after <= 2 { u64::MAX } else { after };
        for (&cookie, (name, inode)) in self.by_cookie.range(..below).rev() {
            if !f(cookie, name, inode) {
                return;
            }
        }
    }
}

fn own<'a>(dir: &TmpInode, inode: &'a Arc<dyn Inode>) -> Result<&'a TmpInode, Errno> {
    let inode = inode.as_any().downcast_ref::<TmpInode>().ok_or(EXDEV)?;
    if Arc::ptr_eq(&dir.fs, &inode.fs) { Ok(inode) } else { Err(EXDEV) }
}

pub(super) fn link(dir: &TmpInode, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
    own(dir, inode)?;
    let any: Arc<dyn std::any::Any + Send + Sync> = inode.clone();
    let child = any.downcast::<TmpInode>().map_err(|_| EXDEV)?;
    if child.is_dir() {
        return Err(EPERM);
    }
    let mut names = dir.dir()?.lock();
    if dir.attributes.lock().nlink == 0 {
        return Err(ENOENT);
    }
    if names.find(name).is_some() {
        return Err(EEXIST);
    }
    child.add_links(1);
    names.insert(name, child.clone());
    dir.touch_modified();
    Ok(child)
}

pub(super) fn unlink(dir: &TmpInode, name: &[u8]) -> Result<(), Errno> {
    let mut names = dir.dir()?.lock();
    let child = names.find(name).ok_or(ENOENT)?;
    if child.is_dir() {
        return Err(EISDIR);
    }
    names.remove(name);
    child.add_links(-1);
    dir.touch_modified();
    drop(names);
    Ok(())
}

pub(super) fn rmdir(dir: &TmpInode, name: &[u8]) -> Result<(), Errno> {
    let mut names = dir.dir()?.lock();
    let child = names.find(name).ok_or(ENOENT)?;
    if child.dir()?.lock_same_rank().len() != 0 {
        return Err(ENOTEMPTY);
    }
    names.remove(name);
    child.add_links(-2);
    dir.add_links(-1);
    dir.touch_modified();
    Ok(())
}

type Names<'a> = LockGuard<'a, Directory, { rank::INODE }>;

/// Locks two directories, lower address first; the second is `None` when they are one.
fn lock_two<'a>(a: &'a TmpInode, b: &'a TmpInode) -> Result<(Names<'a>, Option<Names<'a>>), Errno> {
    let (first, second) = (a.dir()?, b.dir()?);
    if std::ptr::eq(a, b) {
        return Ok((first.lock(), None));
    }
    if std::ptr::from_ref(a) < std::ptr::from_ref(b) {
        let one = first.lock();
        Ok((one, Some(second.lock_same_rank())))
    } else {
        let two = second.lock();
        Ok((first.lock_same_rank(), Some(two)))
    }
}

pub(super) fn rename(
    dir: &TmpInode,
    old_name: &[u8],
    new_parent: &Arc<dyn Inode>,
    new_name: &[u8],
    flags: u32,
) -> Result<(), Errno> {
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) != 0 {
        return Err(EINVAL);
    }
    let parent = own(dir, new_parent)?;
    let (mut from, mut into) = lock_two(dir, parent)?;
    let moved = from.find(old_name).ok_or(ENOENT)?;
    let target = match &into {
        Some(into) => into.find(new_name),
        None => from.find(new_name),
    };
    if let Some(target) = &target {
        if flags & RENAME_NOREPLACE != 0 {
            return Err(EEXIST);
        }
        if Arc::ptr_eq(target, &moved) {
            return Ok(());
        }
        if flags & RENAME_EXCHANGE != 0 {
            from.insert(old_name, target.clone());
            match &mut into {
                Some(into) => into.insert(new_name, moved.clone()),
                None => from.insert(new_name, moved.clone()),
            }
            let shift = i64::from(target.is_dir()) - i64::from(moved.is_dir());
            dir.add_links(shift);
            parent.add_links(-shift);
            dir.touch_modified();
            parent.touch_modified();
            return Ok(());
        }
        match (moved.is_dir(), target.is_dir()) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            (true, true) if target.dir()?.lock_same_rank().len() != 0 => return Err(ENOTEMPTY),
            _ => {}
        }
        target.add_links(if target.is_dir() { -2 } else { -1 });
        if target.is_dir() {
            parent.add_links(-1);
        }
    } else if flags & RENAME_EXCHANGE != 0 {
        return Err(ENOENT);
    }
    from.remove(old_name);
    if moved.is_dir() {
        dir.add_links(-1);
        parent.add_links(1);
    }
    moved.add_links(0);
    match &mut into {
        Some(into) => into.insert(new_name, moved),
        None => from.insert(new_name, moved),
    }
    if flags & RENAME_WHITEOUT != 0 {
        let owner = Owner { uid: 0, gid: 0 };
        from.insert(old_name, TmpInode::new(&dir.fs, Body::Special(0), mode::IFCHR, owner));
    }
    dir.touch_modified();
    parent.touch_modified();
    Ok(())
}
