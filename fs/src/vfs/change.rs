//! System calls that change names and attributes.

use abi::Errno;
use abi::errno::{EACCES, EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV};
use base::cred::cap;
use base::landlock::access;
use base::lock::{Lock, rank};
use base::time::Time;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::acl;
use super::dentry::Children;
use super::landlock::{Between, Refer, Side, right_to_make};
use super::perm::{check_inode, is_fixed, is_owner, is_sticky, may};
use super::walk::Parent;
use super::xattr::drop_capabilities;
use super::{Dentry, FileType, Inode, Owner, SetAttributes, VfsPath, Walk, iflag, mode};
use crate::anon::fanotify::Renaming;
use crate::file::Metadata;
use crate::notify::{self, event};

/// Held by every rename, so that the tree above two directories does not change between check and move.
static RENAME: Lock<(), { rank::RENAME }> = Lock::new(());

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

/// A time stamp that `utimensat` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_OMIT`.
    Omit,
    /// `UTIME_NOW`, with the time that it is.
    Now(Time),
    /// A given time.
    To(Time),
}

impl SetTime {
    fn value(self) -> Option<Time> {
        match self {
            Self::Omit => None,
            Self::Now(t) | Self::To(t) => Some(t),
        }
    }
}

impl Walk<'_> {
    /// Makes the name `path` with `make`.
    fn make(
        &self,
        path: &[u8],
        bits: u32,
        kind: FileType,
        right: u16,
        make: impl FnOnce(&dyn Inode, &[u8], u32, Owner) -> Result<Arc<dyn Inode>, Errno>,
    ) -> Result<(), Errno> {
        let is_dir = kind == FileType::Directory;
        let Parent { dir, name, trailing } = self.parent(path)?;
        if matches!(name.as_slice(), b"" | b"." | b"..") {
            return Err(EEXIST);
        }
        self.check_search(&dir)?;
        let may_make = self.landlock(&dir, right);
        let mut children = dir.dentry.lock_cached();
        let found = match &mut children {
            Some(children) => dir.dentry.child_locked(children, &name),
            None => dir.dentry.child(&name),
        };
        match found {
            Ok(_) => return Err(EEXIST),
            Err(ENOENT) if trailing && !is_dir || dir.dentry.inode().fails_lookups() => return Err(ENOENT),
            Err(ENOENT) => {}
            Err(e) => return Err(e),
        }
        may_make.or_else(|e| dir.mount.want_write().and(Err(e)))?;
        let (owner, bits, lists) = self.prepare(&dir, bits, is_dir)?;
        let inode = make(&**dir.dentry.inode(), &name, bits, owner)?;
        if kind != FileType::Symlink {
            lists.give(&inode)?;
        }
        let made = children.as_mut().map(|children| dir.dentry.insert(children, &name, inode));
        drop(children);
        let is_dir = if is_dir { event::ISDIR } else { 0 };
        notify::in_directory(&dir.mount, &dir.dentry, event::CREATE | is_dir, 0, &name, made.as_ref());
        Ok(())
    }

    /// `mkdir`.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let (kind, right) = (FileType::Directory, access::MAKE_DIR);
        self.make(path, mode & 0o1777, kind, right, |dir, name, bits, owner| dir.mkdir(name, bits, owner))
    }

    /// `mknod`; `mode` holds the type.
    ///
    /// # Errors
    /// Those of mknod(2).
    pub fn mknod(&self, path: &[u8], mode: u32, rdev: u64) -> Result<(), Errno> {
        let kind = mode & mode::IFMT;
        let kind = match kind {
            0 => mode::IFREG,
            mode::IFREG | mode::IFCHR | mode::IFBLK | mode::IFIFO | mode::IFSOCK => kind,
            mode::IFDIR => return Err(EPERM),
            _ => return Err(EINVAL),
        };
        let has = self.cred.has(cap::MKNOD);
        let file_type = FileType::from_mode(kind);
        self.make(path, mode & 0o7777, file_type, right_to_make(file_type), |dir, name, bits, owner| {
            match kind {
                mode::IFREG => dir.create(name, bits, owner),
                // A whiteout is no device.
                mode::IFCHR | mode::IFBLK if !has && (kind, rdev) != (mode::IFCHR, 0) => Err(EPERM),
                mode::IFCHR | mode::IFBLK => dir.mknod(name, kind | bits, rdev, owner),
                _ => dir.mknod(name, kind | bits, 0, owner),
            }
        })
    }

    /// `symlink`.
    ///
    /// # Errors
    /// Those of symlink(2).
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(ENOENT);
        }
        let (kind, right) = (FileType::Symlink, access::MAKE_SYM);
        self.make(path, 0, kind, right, |dir, name, _, owner| dir.symlink(name, target, owner))
    }

    /// `link`: gives `old`, a place found already, the name `path`.
    ///
    /// # Errors
    /// Those of link(2).
    pub fn link(&self, old: &VfsPath, path: &[u8]) -> Result<(), Errno> {
        let Parent { dir, name, trailing } = self.parent(path)?;
        if matches!(name.as_slice(), b"" | b"." | b"..") {
            return Err(EEXIST);
        }
        self.check_search(&dir)?;
        let may_refer = self.may_link(old, &dir);
        let mut children = dir.dentry.lock_cached();
        let found = match &mut children {
            Some(children) => dir.dentry.child_locked(children, &name),
            None => dir.dentry.child(&name),
        };
        match found {
            Ok(_) => return Err(EEXIST),
            Err(ENOENT) if trailing || dir.dentry.inode().fails_lookups() => return Err(ENOENT),
            Err(ENOENT) => {}
            Err(e) => return Err(e),
        }
        dir.mount.want_write()?;
        if !Arc::ptr_eq(&old.mount, &dir.mount) {
            return Err(EXDEV);
        }
        let meta = old.dentry.inode().metadata()?;
        self.check_hard_link(old, &meta)?;
        may_refer?;
        self.prepare(&dir, 0, false)?;
        if is_fixed(&meta) {
            return Err(EPERM);
        }
        if meta.is_dir() {
            return Err(EPERM);
        }
        if meta.nlink == 0 && !old.dentry.is_linkable.load(Ordering::Acquire) {
            return Err(ENOENT);
        }
        old.dentry.gets_alias();
        let inode = dir.dentry.inode().link(&name, old.dentry.inode())?;
        if let Some(children) = &mut children {
            dir.dentry.insert(children, &name, inode);
        }
        drop(children);
        notify::to_itself(&old.mount, &old.dentry, event::ATTRIB);
        notify::in_directory(&dir.mount, &dir.dentry, event::CREATE, 0, &name, Some(&old.dentry));
        Ok(())
    }

    /// Whether landlock(7) lets `old` get a name in `dir`.
    fn may_link(&self, old: &VfsPath, dir: &VfsPath) -> Result<(), Errno> {
        if self.cred.landlock.is_none() || !Arc::ptr_eq(&old.mount, &dir.mount) {
            return Ok(());
        }
        let is_root = Arc::ptr_eq(&old.dentry, old.mount.root());
        let parent = if is_root { None } else { old.dentry.parent() };
        let dentry = parent.unwrap_or_else(|| old.dentry.clone());
        let from = VfsPath { mount: old.mount.clone(), dentry };
        let Some(between) = self.landlock_between(&from, dir) else { return Ok(()) };
        between.check(Side { file: Some(&old.dentry) }, Side { file: None }, Refer::Link)
    }

    /// `fs.protected_hardlinks`, which every distribution sets.
    ///
    /// Source: Linux 6.12 fs/namei.c, `may_linkat`.
    fn check_hard_link(&self, old: &VfsPath, meta: &Metadata) -> Result<(), Errno> {
        let is_safe = meta.mode & mode::IFMT == mode::IFREG
            && meta.mode & mode::ISUID == 0
            && meta.mode & (mode::ISGID | 0o010) != mode::ISGID | 0o010
            && check_inode(old.dentry.inode().as_ref(), meta, may::READ | may::WRITE, self.cred).is_ok();
        if is_safe || is_owner(meta, self.cred) { Ok(()) } else { Err(EPERM) }
    }

    /// Whether the victim may go from `dir`.
    ///
    /// Source: Linux 6.12 fs/namei.c, `may_delete`.
    fn check_delete(&self, dir: &VfsPath, victim: &Metadata) -> Result<(), Errno> {
        let meta = dir.dentry.inode().metadata()?;
        check_inode(dir.dentry.inode().as_ref(), &meta, may::WRITE | may::EXEC, self.cred)?;
        let is_kept =
            meta.flags & iflag::APPEND != 0 || is_fixed(victim) || is_sticky(&meta, victim, self.cred);
        if is_kept { Err(EPERM) } else { Ok(()) }
    }

    /// `unlink`.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn unlink(&self, path: &[u8]) -> Result<(), Errno> {
        let Parent { dir, name, trailing } = self.parent(path)?;
        if matches!(name.as_slice(), b"" | b"." | b"..") {
            return Err(EISDIR);
        }
        self.remove(&dir, &name, access::REMOVE_FILE, |meta| match meta.is_dir() {
            false if trailing => Err(ENOTDIR),
            false => Ok(()),
            true => Err(EISDIR),
        })
    }

    /// `rmdir`.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn rmdir(&self, path: &[u8]) -> Result<(), Errno> {
        let Parent { dir, name, .. } = self.parent(path)?;
        match name.as_slice() {
            b"" => return Err(EBUSY),
            b"." => return Err(EINVAL),
            b".." => return Err(ENOTEMPTY),
            _ => {}
        }
        self.remove(&dir, &name, access::REMOVE_DIR, |meta| if meta.is_dir() { Ok(()) } else { Err(ENOTDIR) })
    }

    fn remove(
        &self,
        dir: &VfsPath,
        name: &[u8],
        right: u16,
        check: impl FnOnce(&Metadata) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.check_search(dir)?;
        let may_remove = self.landlock(dir, right);
        let mut children = dir.dentry.lock_cached();
        let victim = match &mut children {
            Some(children) => dir.dentry.child_locked(children, name)?,
            None => dir.dentry.child(name)?,
        };
        dir.mount.want_write()?;
        may_remove?;
        let meta = victim.inode().metadata()?;
        self.check_delete(dir, &meta)?;
        check(&meta)?;
        if victim.is_mountpoint() {
            return Err(EBUSY);
        }
        if meta.is_dir() {
            // Nothing may be made in it between the file system's check and its death.
            let mut inside = children.is_some().then(|| victim.lock_same());
            dir.dentry.inode().rmdir(name)?;
            if let Some(inside) = &mut inside {
                inside.clear();
            }
            victim.kill();
        } else {
            dir.dentry.inode().unlink(name)?;
            victim.kill();
        }
        if let Some(children) = &mut children {
            dir.dentry.insert_missing(children, name);
        }
        drop(children);
        if notify::is_used() {
            if !meta.is_dir() {
                notify::to_itself(&dir.mount, &victim, event::ATTRIB);
            }
            let is_dir = if meta.is_dir() { event::ISDIR } else { 0 };
            if meta.is_dir() && !victim.is_open() {
                notify::gone(&dir.mount, &victim);
            }
            notify::in_directory(&dir.mount, &dir.dentry, event::DELETE | is_dir, 0, name, Some(&victim));
            if !meta.is_dir() && meta.nlink <= 1 && !victim.is_open() {
                notify::gone(&dir.mount, &victim);
            }
        }
        Ok(())
    }

    /// `rename` to `new_path` as `to` resolves it; `flags` are those of renameat2(2).
    ///
    /// # Errors
    /// Those of rename(2).
    ///
    /// Source: Linux 6.12 fs/namei.c, `do_renameat2`, `vfs_rename`.
    pub fn rename(&self, path: &[u8], to: &Self, new_path: &[u8], flags: u32) -> Result<(), Errno> {
        let known = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
        let clashes = flags & RENAME_EXCHANGE != 0 && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0;
        if flags & !known != 0 || clashes {
            return Err(EINVAL);
        }
        if flags & RENAME_WHITEOUT != 0 && !self.cred.has(cap::MKNOD) {
            return Err(EPERM);
        }
        let old = self.parent(path)?;
        let new = to.parent(new_path)?;
        if !Arc::ptr_eq(&old.dir.mount, &new.dir.mount) {
            return Err(EXDEV);
        }
        if matches!(old.name.as_slice(), b"" | b"." | b"..") {
            return Err(EBUSY);
        }
        if matches!(new.name.as_slice(), b"" | b"." | b"..") {
            return Err(if flags & RENAME_NOREPLACE != 0 { EEXIST } else { EBUSY });
        }
        self.check_search(&old.dir)?;
        self.check_search(&new.dir)?;
        let (from, into) = (&old.dir.dentry, &new.dir.dentry);
        let mut between = self.landlock_between(&old.dir, &new.dir);
        if !from.is_cached() || !into.is_cached() {
            return self.rename_uncached(&old, &new, flags, between.as_ref());
        }
        let tree = loop {
            let tree = RENAME.lock();
            if between.as_ref().is_none_or(Between::is_still_true) {
                break tree;
            }
            drop(tree);
            between = self.landlock_between(&old.dir, &new.dir);
        };
        let (mut from_children, mut into_children) = Dentry::lock_two(from, into);
        let source = from.child_locked(&mut from_children, &old.name)?;
        let target = {
            let children: &mut Children = into_children.as_mut().map_or(&mut *from_children, |c| &mut **c);
            match into.child_locked(children, &new.name) {
                Ok(target) => Some(target),
                Err(ENOENT) => None,
                Err(e) => return Err(e),
            }
        };
        if target.is_some() && flags & RENAME_NOREPLACE != 0 {
            return Err(EEXIST);
        }
        if target.is_none() && flags & RENAME_EXCHANGE != 0 {
            return Err(ENOENT);
        }
        let meta = source.inode().metadata()?;
        check_slashes((&old, &meta), (&new, target.as_ref()), flags)?;
        if source.is_ancestor_of(into) {
            return Err(EINVAL);
        }
        if target.as_ref().is_some_and(|t| t.is_ancestor_of(from)) {
            return Err(if flags & RENAME_EXCHANGE != 0 { EINVAL } else { ENOTEMPTY });
        }
        old.dir.mount.want_write()?;
        if let Some(between) = &between {
            between.check(Side { file: Some(&source) }, Side { file: target.as_ref() }, refer(flags))?;
        }
        let target_meta = target.as_ref().map(|t| t.inode().metadata()).transpose()?;
        if target_meta.as_ref().is_some_and(|t| (meta.dev, meta.ino) == (t.dev, t.ino)) {
            // Two names of one file: nothing happens, and nobody is asked (Linux fs/namei.c, `vfs_rename`).
            return Ok(());
        }
        self.check_delete(&old.dir, &meta)?;
        match target_meta {
            None => {
                self.prepare(&new.dir, 0, false)?;
            }
            Some(t_meta) => {
                self.check_delete(&new.dir, &t_meta)?;
                if flags & RENAME_EXCHANGE == 0 {
                    match (meta.is_dir(), t_meta.is_dir()) {
                        (true, false) => return Err(ENOTDIR),
                        (false, true) => return Err(EISDIR),
                        _ => {}
                    }
                }
            }
        }
        // A directory that moves to another parent changes its `..`.
        if meta.is_dir() && !Arc::ptr_eq(from, into) {
            check_inode(source.inode().as_ref(), &meta, may::WRITE, self.cred).map_err(|_| EACCES)?;
        }
        let is_busy = |d: &Arc<Dentry>| d.is_mountpoint();
        if is_busy(&source) || target.as_ref().is_some_and(is_busy) {
            return Err(EBUSY);
        }
        from.inode().rename(&old.name, into.inode(), &new.name, flags)?;
        {
            let children: &mut Children = into_children.as_mut().map_or(&mut *from_children, |c| &mut **c);
            children.insert(new.name.as_slice().into(), Some(source.clone()));
        }
        let mut gone = None;
        let mut exchanged = None;
        if flags & RENAME_EXCHANGE != 0 {
            if let Some(t) = target {
                from_children.insert(old.name.as_slice().into(), Some(t.clone()));
                t.move_to(from, &old.name);
                t.inode().moved(from.inode(), &old.name);
                let is_dir = notify::is_used() && t.inode().metadata().is_ok_and(|m| m.is_dir());
                exchanged = Some((t, is_dir));
            }
        } else {
            if flags & RENAME_WHITEOUT != 0 {
                // Something else is there now: asked when it is wanted.
                from_children.remove(old.name.as_slice());
            } else {
                from.insert_missing(&mut from_children, &old.name);
            }
            gone = target;
        }
        source.move_to(into, &new.name);
        source.inode().moved(into.inode(), &new.name);
        if let Some(t) = &gone {
            t.kill();
        }
        drop(into_children);
        drop(from_children);
        if let Some(t) = &gone {
            t.lock().clear();
        }
        drop(tree);
        if notify::is_used() {
            let mount = &new.dir.mount;
            let told = |is_dir: bool| if is_dir { event::ISDIR } else { 0 };
            let cookie = notify::new_cookie();
            let is_dir = told(meta.is_dir());
            let (before, after) = ((from, old.name.as_slice()), (into, new.name.as_slice()));
            notify::renamed(&Renaming { mount, old: before, new: after, file: &source, is_dir });
            notify::in_directory(mount, from, event::MOVED_FROM | is_dir, cookie, &old.name, Some(&source));
            notify::in_directory(mount, into, event::MOVED_TO | is_dir, cookie, &new.name, Some(&source));
            if let Some(t) = &gone {
                notify::to_itself(mount, t, event::ATTRIB);
            }
            notify::to_itself(mount, &source, event::MOVE_SELF | is_dir);
            if let Some((t, t_is_dir)) = &exchanged {
                let cookie = notify::new_cookie();
                let is_dir = told(*t_is_dir);
                notify::renamed(&Renaming { mount, old: after, new: before, file: t, is_dir });
                notify::in_directory(mount, into, event::MOVED_FROM | is_dir, cookie, &new.name, Some(t));
                notify::in_directory(mount, from, event::MOVED_TO | is_dir, cookie, &old.name, Some(t));
                notify::to_itself(mount, t, event::MOVE_SELF | is_dir);
            }
            if let Some(t) = gone.filter(|t| !t.is_open()) {
                notify::gone(mount, &t);
            }
        }
        Ok(())
    }

    /// `rename` where no names are remembered: the file system alone knows what is there.
    fn rename_uncached(
        &self,
        old: &Parent,
        new: &Parent,
        flags: u32,
        between: Option<&Between<'_>>,
    ) -> Result<(), Errno> {
        let (from, into) = (&old.dir.dentry, &new.dir.dentry);
        let source = from.child(&old.name)?;
        let target = match into.child(&new.name) {
            Ok(target) => Some(target),
            Err(ENOENT) if !into.inode().fails_lookups() => None,
            Err(e) => return Err(e),
        };
        if target.is_some() && flags & RENAME_NOREPLACE != 0 {
            return Err(EEXIST);
        }
        if target.is_none() && flags & RENAME_EXCHANGE != 0 {
            return Err(ENOENT);
        }
        let meta = source.inode().metadata()?;
        check_slashes((old, &meta), (new, target.as_ref()), flags)?;
        old.dir.mount.want_write()?;
        if let Some(between) = between {
            between.check(Side { file: Some(&source) }, Side { file: target.as_ref() }, refer(flags))?;
        }
        self.check_delete(&old.dir, &meta)?;
        match &target {
            Some(target) => self.check_delete(&new.dir, &target.inode().metadata()?)?,
            None => drop(self.prepare(&new.dir, 0, false)?),
        }
        if source.is_mountpoint() || target.is_some_and(|t| t.is_mountpoint()) {
            return Err(EBUSY);
        }
        from.inode().rename(&old.name, into.inode(), &new.name, flags)
    }

    /// `chmod` of a place; `mode` holds 07777 bits.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn chmod_at(&self, place: &VfsPath, mode: u32) -> Result<(), Errno> {
        place.mount.want_write()?;
        let meta = place.dentry.inode().metadata()?;
        if is_fixed(&meta) || !is_owner(&meta, self.cred) {
            return Err(EPERM);
        }
        let mut mode = mode & 0o7777;
        if !self.cred.in_group(meta.gid) && !self.cred.has_over(meta.uid, meta.gid, cap::FSETID) {
            mode &= !mode::ISGID;
        }
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        acl::chmod(place.dentry.inode().as_ref(), &meta, mode)?;
        self.change(place, &set, event::ATTRIB, &meta)
    }

    /// `chmod`.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn chmod(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        self.chmod_at(&self.resolve(path, true)?, mode)
    }

    /// `chown` of a place; `None` leaves an id as it is.
    ///
    /// # Errors
    /// Those of chown(2).
    ///
    /// Source: Linux 6.12 fs/attr.c, `setattr_prepare`; fs/open.c, `chown_common`.
    pub fn chown_at(&self, place: &VfsPath, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        place.mount.want_write()?;
        let meta = place.dentry.inode().metadata()?;
        if is_fixed(&meta) && (uid.is_some() || gid.is_some()) {
            return Err(EPERM);
        }
        let is_capable = self.cred.has_over(meta.uid, meta.gid, cap::CHOWN);
        if uid.is_some_and(|u| !(is_capable || self.cred.fsuid == meta.uid && u == meta.uid)) {
            return Err(EPERM);
        }
        let may_group = |g: u32| self.cred.fsuid == meta.uid && (self.cred.in_group(g) || g == meta.gid);
        if gid.is_some_and(|g| !(is_capable || may_group(g))) {
            return Err(EPERM);
        }
        let mut attributes = SetAttributes { uid, gid, ..SetAttributes::default() };
        if !meta.is_dir() {
            let mut mode = meta.mode & 0o7777 & !mode::ISUID;
            if mode & 0o010 != 0 {
                mode &= !mode::ISGID;
            }
            if mode != meta.mode & 0o7777 {
                attributes.mode = Some(mode);
            }
            drop_capabilities(place)?;
        }
        self.change(place, &attributes, event::ATTRIB, &meta)
    }

    /// Changes attributes and tells those who watch.
    fn change(&self, place: &VfsPath, set: &SetAttributes, mask: u32, meta: &Metadata) -> Result<(), Errno> {
        place.dentry.inode().set_attributes(set)?;
        let is_dir = if meta.is_dir() { event::ISDIR } else { 0 };
        notify::changed(&place.mount, &place.dentry, mask | is_dir);
        Ok(())
    }

    /// `chown`, or `lchown` without `follow_last`.
    ///
    /// # Errors
    /// Those of chown(2).
    pub fn chown(
        &self,
        path: &[u8],
        uid: Option<u32>,
        gid: Option<u32>,
        follow_last: bool,
    ) -> Result<(), Errno> {
        self.chown_at(&self.resolve(path, follow_last)?, uid, gid)
    }

    /// `utimensat` of a place.
    ///
    /// # Errors
    /// `EACCES` when only the current time is set, `EPERM` otherwise; `EROFS`.
    pub fn utimes_at(&self, place: &VfsPath, atime: SetTime, mtime: SetTime) -> Result<(), Errno> {
        if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
            return Ok(());
        }
        place.mount.want_write()?;
        let meta = place.dentry.inode().metadata()?;
        let is_now = matches!((atime, mtime), (SetTime::Now(_), SetTime::Now(_)));
        if meta.flags & iflag::IMMUTABLE != 0 || !is_now && is_fixed(&meta) {
            return Err(EPERM);
        }
        if !is_owner(&meta, self.cred) {
            match (atime, mtime) {
                (SetTime::Now(_), SetTime::Now(_)) => {
                    check_inode(place.dentry.inode().as_ref(), &meta, may::WRITE, self.cred)?;
                }
                _ => return Err(EPERM),
            }
        }
        let set = SetAttributes { atime: atime.value(), mtime: mtime.value(), ..SetAttributes::default() };
        // Linux 6.12 include/linux/fsnotify.h, `fsnotify_change`.
        let mask = match (set.atime, set.mtime) {
            (Some(_), None) => event::ACCESS,
            (None, Some(_)) => event::MODIFY,
            _ => event::ATTRIB,
        };
        self.change(place, &set, mask, &meta)
    }

    /// `utimensat`.
    ///
    /// # Errors
    /// As `utimes_at`, and those of `resolve`.
    pub fn utimes(
        &self,
        path: &[u8],
        atime: SetTime,
        mtime: SetTime,
        follow_last: bool,
    ) -> Result<(), Errno> {
        self.utimes_at(&self.resolve(path, follow_last)?, atime, mtime)
    }
}

fn refer(flags: u32) -> Refer {
    if flags & RENAME_EXCHANGE != 0 { Refer::Exchange } else { Refer::Rename }
}

/// A slash after a name wants a directory: that of the old name the source, that of the new one the source too, or what is
/// exchanged for it.
///
/// Source: Linux 6.18 fs/namei.c, `do_renameat2`.
fn check_slashes(
    (old, meta): (&Parent, &Metadata),
    (new, target): (&Parent, Option<&Arc<Dentry>>),
    flags: u32,
) -> Result<(), Errno> {
    let exchanges = flags & RENAME_EXCHANGE != 0;
    if exchanges && new.trailing && !target.map_or(Ok(false), |t| t.inode().metadata().map(|m| m.is_dir()))? {
        return Err(ENOTDIR);
    }
    let wants_dir = old.trailing || (!exchanges && new.trailing);
    if wants_dir && !meta.is_dir() { Err(ENOTDIR) } else { Ok(()) }
}
