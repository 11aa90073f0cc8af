//! What a walk's owner has forbidden itself (landlock(7)): asked where a file is opened or a name changed, never on the way
//! there.
//!
//! Rules about a directory hold for all beneath it, across mounts. So an access is looked for from its place upwards. Where
//! the children of a directory are locked nobody else's metadata may be asked for: that is done before.
//!
//! Source: Linux 6.18 security/landlock/fs.c.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EXDEV};
use base::landlock::{Denied, Domain, FileKey, access};

use super::walk::OpenFileInode;
use super::{Dentry, FileType, VfsPath, Walk};
use crate::file::oflag;

/// The key of the file that a name leads to.
fn key(dentry: &Dentry) -> Option<FileKey> {
    dentry.inode().metadata().ok().map(|meta| (meta.dev, meta.ino))
}

fn grant(domain: &Domain, dentry: &Dentry, denied: &mut Denied) {
    if let Some(key) = key(dentry) {
        domain.grant(key, denied);
    }
}

fn is_granted(denied: &Denied) -> bool {
    denied.iter().all(|&layer| layer == 0)
}

/// Keeps only what was asked for.
fn narrow(denied: &mut Denied, request: u16) {
    denied.iter_mut().for_each(|layer| *layer &= request);
}

/// The place above. One that was moved out of what is mounted goes on with the mount's root.
fn above(mut at: VfsPath) -> Option<VfsPath> {
    while Arc::ptr_eq(&at.dentry, at.mount.root()) {
        at = at.mount.parent()?;
    }
    let dentry = at.dentry.parent().unwrap_or_else(|| at.mount.root().clone());
    Some(VfsPath { mount: at.mount, dentry })
}

/// Whether the file is one that no path leads to: a pipe, a socket, a memfd.
fn is_pathless(dentry: &Dentry) -> bool {
    dentry.inode().as_any().is::<OpenFileInode>()
}

/// The right to make a file of a kind.
pub(super) fn right_to_make(kind: FileType) -> u16 {
    match kind {
        FileType::Symlink => access::MAKE_SYM,
        FileType::Directory => access::MAKE_DIR,
        FileType::Char => access::MAKE_CHAR,
        FileType::Block => access::MAKE_BLOCK,
        FileType::Fifo => access::MAKE_FIFO,
        FileType::Socket => access::MAKE_SOCK,
        FileType::Regular | FileType::Anonymous => access::MAKE_REG,
    }
}

/// What of `request` nothing from `place` upwards grants.
fn denied_at(domain: &Domain, place: &VfsPath, request: u16) -> Denied {
    let mut denied = domain.denied(request);
    if is_pathless(&place.dentry) {
        return Denied::default();
    }
    let mut at = Some(place.clone());
    while let Some(here) = at
        && !is_granted(&denied)
    {
        grant(domain, &here.dentry, &mut denied);
        at = above(here);
    }
    denied
}

/// What an open file may not do later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forbidden {
    /// `ftruncate`.
    pub truncate: bool,
    /// `ioctl`, of a device.
    pub ioctl: bool,
}

/// A directory and those above it, with their keys.
struct Ancestors(Vec<(Arc<Dentry>, Option<FileKey>)>);

impl Ancestors {
    /// Those of `dir`, up to the root of its mount.
    fn of(dir: &VfsPath) -> Self {
        let mut list = Vec::new();
        let mut at = Some(dir.dentry.clone());
        while let Some(dentry) = at {
            let is_root = Arc::ptr_eq(&dentry, dir.mount.root());
            at = if is_root { None } else { dentry.parent() };
            let key = key(&dentry);
            list.push((dentry, key));
        }
        Self(list)
    }

    /// Whether they are where they were.
    fn are_still_there(&self) -> bool {
        self.0.windows(2).all(|pair| match pair {
            [(child, _), (parent, _)] => child.parent().is_some_and(|p| Arc::ptr_eq(&p, parent)),
            _ => true,
        })
    }

    fn denied(&self, domain: &Domain) -> Denied {
        let mut denied = domain.denied(access::ALL);
        self.0.iter().filter_map(|(_, key)| *key).for_each(|key| domain.grant(key, &mut denied));
        denied
    }
}

/// What one side of a rename or a link asks for.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// What is there.
    pub(super) file: Option<&'a Arc<Dentry>>,
}

impl Side<'_> {
    fn kind(self) -> Option<FileType> {
        self.file.map(|file| file.file_type().unwrap_or(FileType::Regular))
    }

    fn right_to_make(self) -> u16 {
        self.kind().map_or(0, right_to_make)
    }

    fn right_to_remove(self) -> u16 {
        match self.kind() {
            Some(FileType::Directory) => access::REMOVE_DIR,
            Some(_) => access::REMOVE_FILE,
            None => 0,
        }
    }

    /// What rules about the file itself leave denied, and which rights mean something for it.
    fn own(self, domain: &Domain) -> (Denied, u16) {
        let mut denied = domain.denied(access::ALL);
        if let Some(file) = self.file {
            grant(domain, file, &mut denied);
        }
        (denied, if self.kind() == Some(FileType::Directory) { access::ALL } else { access::FILE })
    }
}

/// How a name comes to another place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refer {
    Link,
    Rename,
    Exchange,
}

/// What is known of the two directories of a rename or link before their children are locked.
pub(super) struct Between<'a> {
    domain: &'a Domain,
    is_same: bool,
    old: Ancestors,
    new: Ancestors,
    /// The mount's root and what is above it.
    outside: Vec<Option<FileKey>>,
}

impl Between<'_> {
    /// Whether the two directories are where they were when they were looked at.
    pub(super) fn is_still_true(&self) -> bool {
        self.old.are_still_there() && self.new.are_still_there()
    }

    /// Whether `old` may get the name where `new` is, or vice versa as well.
    ///
    /// # Errors
    /// `EACCES`: a name may not be made or removed there; `EXDEV`: the file would get rights that it does not have.
    ///
    /// Source: Linux 6.18 security/landlock/fs.c, `current_check_refer_path`, `is_access_to_paths_allowed`.
    pub(super) fn check(&self, old: Side<'_>, new: Side<'_>, how: Refer) -> Result<(), Errno> {
        let mut at_old = if how == Refer::Exchange { new.right_to_make() } else { 0 };
        let mut at_new = old.right_to_make();
        if how != Refer::Link {
            at_old |= old.right_to_remove();
            at_new |= new.right_to_remove();
        }
        if self.is_same {
            let mut denied = self.new.denied(self.domain);
            narrow(&mut denied, at_old | at_new);
            self.outside.iter().flatten().for_each(|&key| self.domain.grant(key, &mut denied));
            return if is_granted(&denied) { Ok(()) } else { Err(EACCES) };
        }
        at_old |= access::REFER;
        at_new |= access::REFER;
        let (mut from, mut into) = (self.old.denied(self.domain), self.new.denied(self.domain));
        if is_granted(&from) && is_granted(&into) {
            return Ok(());
        }
        let (old_own, old_rights) = old.own(self.domain);
        let new_own = if how == Refer::Exchange { Some(new.own(self.domain)) } else { None };
        // Whether nothing that moves is denied less where it goes.
        let gains_nothing = |from: &Denied, into: &Denied| {
            let there = from.iter().zip(&old_own).zip(into);
            let back = |(own, rights): &(Denied, u16)| {
                into.iter().zip(own).zip(from).all(|((above, own), to)| above & own & rights & !to == 0)
            };
            there.into_iter().all(|((above, own), to)| above & own & old_rights & !to == 0)
                && new_own.as_ref().is_none_or(back)
        };
        let mut gains = true;
        let mut keys = self.outside.iter();
        loop {
            if gains && gains_nothing(&from, &into) {
                gains = false;
                narrow(&mut from, at_old);
                narrow(&mut into, at_new);
            }
            if is_granted(&from) && is_granted(&into) {
                return Ok(());
            }
            let Some(key) = keys.next() else { break };
            if let Some(key) = *key {
                self.domain.grant(key, &mut from);
                self.domain.grant(key, &mut into);
            }
        }
        let refuses = |denied: &Denied, asked: u16| denied.iter().any(|d| d & asked & !access::REFER != 0);
        Err(if refuses(&from, at_old) || refuses(&into, at_new) { EACCES } else { EXDEV })
    }
}

impl Walk<'_> {
    /// Whether `right` (`access::*`) is granted at `place`.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn landlock(&self, place: &VfsPath, right: u16) -> Result<(), Errno> {
        match &self.cred.landlock {
            Some(domain) if !is_granted(&denied_at(domain, place, right)) => Err(EACCES),
            _ => Ok(()),
        }
    }

    /// Whether the file at `place` may be opened, and what may not be done with it later.
    ///
    /// # Errors
    /// `EACCES`.
    ///
    /// Source: Linux 6.18 security/landlock/fs.c, `hook_file_open`.
    pub(super) fn landlock_open(
        &self,
        place: &VfsPath,
        flags: u32,
        kind: FileType,
    ) -> Result<Forbidden, Errno> {
        let Some(domain) = &self.cred.landlock else { return Ok(Forbidden::default()) };
        let (reads, writes) = match flags & oflag::ACCMODE {
            oflag::RDONLY => (true, false),
            oflag::WRONLY => (false, true),
            oflag::RDWR => (true, true),
            _ => (false, false),
        };
        let mut wanted = 0;
        if reads && kind == FileType::Directory {
            wanted = access::READ_DIR;
        } else {
            for (is_wanted, right) in [
                (reads, access::READ_FILE),
                (writes, access::WRITE_FILE),
                (flags & oflag::EXEC != 0, access::EXECUTE),
            ] {
                wanted |= if is_wanted { right } else { 0 };
            }
        }
        let is_device = matches!(kind, FileType::Char | FileType::Block);
        let later = access::TRUNCATE | if is_device { access::IOCTL_DEV } else { 0 };
        let denied = denied_at(domain, place, wanted | later).iter().fold(0, |all, layer| all | layer);
        if denied & wanted != 0 {
            return Err(EACCES);
        }
        Ok(Forbidden { truncate: denied & access::TRUNCATE != 0, ioctl: denied & access::IOCTL_DEV != 0 })
    }

    /// What is to be known of two directories before a name moves from `old` to `new`; `None` without a domain. Their mounts
    /// are the same.
    pub(super) fn landlock_between(&self, old: &VfsPath, new: &VfsPath) -> Option<Between<'_>> {
        let domain = self.cred.landlock.as_deref()?;
        let mut outside = Vec::new();
        let mut at = Some(new.mount.root_place());
        while let Some(here) = at {
            outside.push(key(&here.dentry));
            at = above(here);
        }
        let is_same = Arc::ptr_eq(&old.dentry, &new.dentry);
        Some(Between { domain, is_same, old: Ancestors::of(old), new: Ancestors::of(new), outside })
    }
}
