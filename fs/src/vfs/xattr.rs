//! Extended attributes: who may read and change which (xattr(7)).

use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::errno::{EINVAL, ENODATA, EOPNOTSUPP, EPERM};
use base::cred::cap;

use super::acl::is_acl;
use super::perm::{check_inode, is_fixed, is_owner, may};
use super::{VfsPath, Walk, XattrFlags, mode};
use crate::notify::{self, event};

/// The kinds of names (xattr(7), "Extended attribute namespaces").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
    /// What is no access control list.
    System,
    Unknown,
}

fn space(name: &[u8]) -> Space {
    let has = |prefix: &[u8]| name.starts_with(prefix);
    match () {
        () if has(b"user.") => Space::User,
        () if has(b"trusted.") => Space::Trusted,
        () if has(b"security.") => Space::Security,
        () if has(b"system.") => Space::System,
        () => Space::Unknown,
    }
}

/// A file's capabilities (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

/// Whether any file was ever given capabilities: until then writes need not look for them.
static ANY_CAPABILITIES: AtomicBool = AtomicBool::new(false);

/// Whether there may be files with capabilities that change with a write.
pub(super) fn any_capabilities() -> bool {
    ANY_CAPABILITIES.load(Ordering::Relaxed)
}

/// An attribute called `name` comes to a file that can be written.
pub(crate) fn note_attribute(name: &[u8]) {
    if name == CAPABILITY {
        ANY_CAPABILITIES.store(true, Ordering::Relaxed);
    }
}

/// Takes the capabilities from a file that is written or gets another owner.
///
/// # Errors
/// The file system's.
///
/// Source: Linux 6.18 security/commoncap.c, `cap_inode_killpriv`.
pub(super) fn drop_capabilities(place: &VfsPath) -> Result<(), Errno> {
    if !any_capabilities() {
        return Ok(());
    }
    let inode = place.dentry.inode();
    match inode.xattr(CAPABILITY) {
        Ok(_) => inode.remove_xattr(CAPABILITY),
        Err(_) => Ok(()),
    }
}

/// What is to be done with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

impl Walk<'_> {
    /// Source: Linux 6.12 fs/xattr.c, `xattr_permission`; security/commoncap.c, `cap_inode_setxattr`.
    fn check_xattr(&self, place: &VfsPath, name: &[u8], access: Use) -> Result<(), Errno> {
        self.may_use_xattr(place, name, access)?;
        // A space without a name, which is found out last (`xattr_resolve_name`).
        if matches!(name, b"user." | b"trusted." | b"security.") { Err(EINVAL) } else { Ok(()) }
    }

    fn may_use_xattr(&self, place: &VfsPath, name: &[u8], access: Use) -> Result<(), Errno> {
        let is_write = access == Use::Write;
        if is_write {
            place.mount.want_write()?;
        }
        let meta = place.dentry.inode().metadata()?;
        if is_write && is_fixed(&meta) {
            return Err(EPERM);
        }
        match space(name) {
            Space::Trusted if !self.cred.has(cap::SYS_ADMIN) => {
                return Err(if is_write { EPERM } else { ENODATA });
            }
            Space::Trusted => return Ok(()),
            Space::User => {
                if !matches!(meta.mode & mode::IFMT, mode::IFREG | mode::IFDIR) {
                    return Err(if is_write { EPERM } else { ENODATA });
                }
                let is_sticky_dir = meta.is_dir() && meta.mode & mode::ISVTX != 0;
                if is_write && is_sticky_dir && !is_owner(&meta, self.cred) {
                    return Err(EPERM);
                }
            }
            Space::Security if is_write && !self.cred.has(cap::SYS_ADMIN) => return Err(EPERM),
            Space::Security => return Ok(()),
            Space::System | Space::Unknown => return Err(EOPNOTSUPP),
        }
        let want = if is_write { may::WRITE } else { may::READ };
        check_inode(place.dentry.inode().as_ref(), &meta, want, self.cred)
    }

    /// `getxattr`.
    ///
    /// # Errors
    /// Those of getxattr(2).
    pub fn xattr(&self, place: &VfsPath, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if is_acl(name) {
            return self.acl(place, name);
        }
        self.check_xattr(place, name, Use::Read)?;
        place.dentry.inode().xattr(name)
    }

    /// `setxattr`.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn set_xattr(
        &self,
        place: &VfsPath,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        if is_acl(name) {
            self.set_acl(place, name, Some(value))?;
        } else {
            self.check_xattr(place, name, Use::Write)?;
            note_attribute(name);
            place.dentry.inode().set_xattr(name, value, flags)?;
        }
        self.tell_attribute(place);
        Ok(())
    }

    /// `listxattr`; `trusted.` attributes are shown to those who may read them.
    ///
    /// # Errors
    /// Those of listxattr(2).
    pub fn list_xattrs(&self, place: &VfsPath) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = place.dentry.inode().list_xattrs()?;
        if !self.cred.has(cap::SYS_ADMIN) {
            names.retain(|name| space(name) != Space::Trusted);
        }
        Ok(names)
    }

    /// `removexattr`.
    ///
    /// # Errors
    /// Those of removexattr(2).
    pub fn remove_xattr(&self, place: &VfsPath, name: &[u8]) -> Result<(), Errno> {
        if is_acl(name) {
            self.set_acl(place, name, None)?;
        } else {
            self.check_xattr(place, name, Use::Write)?;
            place.dentry.inode().remove_xattr(name)?;
        }
        self.tell_attribute(place);
        Ok(())
    }

    fn tell_attribute(&self, place: &VfsPath) {
        if notify::is_used() {
            let is_dir = place.dentry.inode().metadata().is_ok_and(|m| m.is_dir());
            let is_dir = if is_dir { event::ISDIR } else { 0 };
            notify::changed(&place.mount, &place.dentry, event::ATTRIB | is_dir);
        }
    }
}
