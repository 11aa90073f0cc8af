//! POSIX access control lists (acl(5)), kept as the extended attributes `system.posix_acl_access` and
//! `system.posix_acl_default` in the form of `linux/posix_acl_xattr.h`, with numbers of the first user namespace.
//!
//! Source: Linux 6.18 fs/posix_acl.c.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ENODATA, EOPNOTSUPP, EPERM};
use base::cred::{Credentials, cap};
use base::userns::{IdKind, UserNamespace};

use super::perm::{is_fixed, is_owner};
use super::{FileType, Inode, SetAttributes, VfsPath, Walk, XattrFlags, iflag, mode};
use crate::file::Metadata;

/// The list that says who may access the file.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The list that new files in the directory get.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// No number (`ACL_UNDEFINED_ID`).
const UNDEFINED: u32 = u32::MAX;

/// Whom an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    UserObj,
    User(u32),
    GroupObj,
    Group(u32),
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u32,
}

/// A valid list: its entries are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

/// Whether the attribute is one of the lists.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

impl Acl {
    /// Reads a list whose numbers are those of `ns`; `None` for one without entries.
    ///
    /// # Errors
    /// `EINVAL`: no list, or not a valid one; `EOPNOTSUPP`: of another version.
    pub(crate) fn parse(bytes: &[u8], ns: &UserNamespace) -> Result<Option<Self>, Errno> {
        match Self::read(bytes, ns)? {
            Some(acl) if !acl.is_valid() => Err(EINVAL),
            acl => Ok(acl),
        }
    }

    /// As `parse`, whether the list is valid or not.
    fn read(bytes: &[u8], ns: &UserNamespace) -> Result<Option<Self>, Errno> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (head, rest) = bytes.split_at_checked(HEADER).ok_or(EINVAL)?;
        if head != VERSION.to_le_bytes() {
            return Err(EOPNOTSUPP);
        }
        if !rest.len().is_multiple_of(ENTRY) {
            return Err(EINVAL);
        }
        let mut entries = Vec::with_capacity(rest.len() / ENTRY);
        for raw in rest.chunks_exact(ENTRY) {
            let half = |i: usize| raw.get(i..i + 2).map_or(0, |b| u32::from(b[0]) | u32::from(b[1]) << 8);
            let id = half(4) | half(6) << 16;
            let tag = match half(0) {
                1 => Tag::UserObj,
                2 => Tag::User(ns.outside(IdKind::User, id).filter(|_| id != UNDEFINED).ok_or(EINVAL)?),
                4 => Tag::GroupObj,
                8 => Tag::Group(ns.outside(IdKind::Group, id).filter(|_| id != UNDEFINED).ok_or(EINVAL)?),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return Err(EINVAL),
            };
            entries.push(Entry { tag, perm: half(2) });
        }
        if entries.is_empty() { Ok(None) } else { Ok(Some(Self(entries))) }
    }

    /// `posix_acl_valid`.
    fn is_valid(&self) -> bool {
        let step = |tag: Tag| match tag {
            Tag::UserObj => 0,
            Tag::User(_) => 1,
            Tag::GroupObj => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        };
        let steps: Vec<u8> = self.0.iter().map(|e| step(e.tag)).collect();
        let count = |wanted: u8| steps.iter().filter(|&&s| s == wanted).count();
        let needs_mask = count(1) + count(3) > 0;
        steps.is_sorted()
            && self.0.iter().all(|e| e.perm <= 7)
            && (count(0), count(2), count(5)) == (1, 1, 1)
            && (count(4) == 1 || count(4) == 0 && !needs_mask)
    }

    /// The list as an attribute with the numbers of `ns`.
    pub(crate) fn bytes(&self, ns: &UserNamespace) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let (tag, id) = match entry.tag {
                Tag::UserObj => (1u16, UNDEFINED),
                Tag::User(id) => (2, ns.shown(IdKind::User, id)),
                Tag::GroupObj => (4, UNDEFINED),
                Tag::Group(id) => (8, ns.shown(IdKind::Group, id)),
                Tag::Mask => (0x10, UNDEFINED),
                Tag::Other => (0x20, UNDEFINED),
            };
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&(entry.perm as u16).to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    /// The list that `inode` keeps under `name`.
    fn of(inode: &dyn Inode, name: &[u8]) -> Option<Self> {
        let bytes = inode.xattr(name).ok()?;
        Self::parse(&bytes, &UserNamespace::first()).ok().flatten()
    }

    /// Whether it lets `cred` do what `want` says with a file of `meta` (`posix_acl_permission`).
    fn allows(&self, meta: &Metadata, want: u32, cred: &Credentials) -> bool {
        let grants = |e: &Entry| e.perm & want == want;
        let mask = self.0.iter().find(|e| e.tag == Tag::Mask);
        let masked = |e: &Entry| grants(e) && mask.is_none_or(grants);
        let mut is_in_group = false;
        for entry in &self.0 {
            match entry.tag {
                Tag::UserObj if meta.uid == cred.fsuid => return grants(entry),
                Tag::User(id) if id == cred.fsuid => return masked(entry),
                Tag::GroupObj | Tag::Group(_) => {
                    let gid = if let Tag::Group(id) = entry.tag { id } else { meta.gid };
                    if cred.in_group(gid) {
                        is_in_group = true;
                        if grants(entry) {
                            return masked(entry);
                        }
                    }
                }
                Tag::Other => return !is_in_group && grants(entry),
                _ => {}
            }
        }
        false
    }

    /// The permission bits that say as much as the list can be told by (`posix_acl_equiv_mode`), and whether it says no
    /// more than they do.
    fn equivalent(&self) -> (u32, bool) {
        let mut bits = 0;
        let mut is_equal = true;
        for entry in &self.0 {
            match entry.tag {
                Tag::UserObj => bits |= entry.perm << 6,
                Tag::GroupObj => bits |= entry.perm << 3,
                Tag::Mask => {
                    bits = bits & !0o070 | entry.perm << 3;
                    is_equal = false;
                }
                Tag::Other => bits |= entry.perm,
                Tag::User(_) | Tag::Group(_) => is_equal = false,
            }
        }
        (bits, is_equal)
    }

    /// The entry that the group's permission bits are.
    fn class_mut(&mut self) -> Option<&mut Entry> {
        let tag = if self.0.iter().any(|e| e.tag == Tag::Mask) { Tag::Mask } else { Tag::GroupObj };
        self.0.iter_mut().find(|e| e.tag == tag)
    }

    fn each_class(&mut self, mut f: impl FnMut(&mut Entry, u32)) {
        if let Some(class) = self.class_mut() {
            f(class, 3);
        }
        for entry in &mut self.0 {
            match entry.tag {
                Tag::UserObj => f(entry, 6),
                Tag::Other => f(entry, 0),
                _ => {}
            }
        }
    }

    /// Takes from the list and from `bits` what only one of both allows (`posix_acl_create_masq`); returns the bits.
    fn restrict(&mut self, bits: u32) -> u32 {
        let mut result = bits & !0o777;
        self.each_class(|entry, shift| {
            entry.perm &= bits >> shift;
            result |= entry.perm << shift;
        });
        result
    }

    /// Takes over permission bits (`__posix_acl_chmod_masq`).
    fn chmod(&mut self, bits: u32) {
        self.each_class(|entry, shift| entry.perm = bits >> shift & 7);
    }
}

/// What a list says about the access: `None` when there is none that counts.
pub(super) fn check(inode: &dyn Inode, meta: &Metadata, want: u32, cred: &Credentials) -> Option<bool> {
    if meta.flags & iflag::ACL == 0 || meta.uid == cred.fsuid || meta.mode & 0o070 == 0 {
        return None;
    }
    Acl::of(inode, ACCESS).map(|acl| acl.allows(meta, want, cred))
}

/// The lists of a new file.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    access: Option<Acl>,
    default: Option<Acl>,
}

impl Inherited {
    /// What a new file in the directory `dir` gets, and its permission bits; the umask counts where there is no list.
    ///
    /// Source: Linux 6.18 fs/posix_acl.c, `posix_acl_create`.
    pub(super) fn from(dir: &dyn Inode, meta: &Metadata, bits: u32, umask: u32, is_dir: bool) -> (Self, u32) {
        let list = if meta.flags & iflag::DEFAULT_ACL != 0 { Acl::of(dir, DEFAULT) } else { None };
        let Some(default) = list else { return (Self::default(), bits & !umask) };
        let mut access = default.clone();
        let bits = access.restrict(bits);
        let access = if access.equivalent().1 { None } else { Some(access) };
        (Self { access, default: is_dir.then_some(default) }, bits)
    }

    /// Gives them to the new file.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn give(self, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        if inode.inherits_lists() {
            return Ok(());
        }
        let ns = UserNamespace::first();
        for (name, list) in [(ACCESS, self.access), (DEFAULT, self.default)] {
            if let Some(list) = list {
                inode.set_xattr(name, &list.bytes(&ns), XattrFlags::Any)?;
            }
        }
        Ok(())
    }
}

/// Makes the access list follow new permission bits.
pub(super) fn chmod(inode: &dyn Inode, meta: &Metadata, bits: u32) -> Result<(), Errno> {
    if meta.flags & iflag::ACL == 0 {
        return Ok(());
    }
    let Some(mut acl) = Acl::of(inode, ACCESS) else { return Ok(()) };
    acl.chmod(bits);
    inode.set_xattr(ACCESS, &acl.bytes(&UserNamespace::first()), XattrFlags::Any)
}

impl Walk<'_> {
    /// A list, with the numbers of the caller's user namespace.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub(super) fn acl(&self, place: &VfsPath, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if place.dentry.file_type()? == FileType::Symlink {
            return Err(EOPNOTSUPP);
        }
        let bytes = place.dentry.inode().xattr(name)?;
        let acl = Acl::parse(&bytes, &UserNamespace::first())?.ok_or(ENODATA)?;
        Ok(acl.bytes(&self.cred.user_ns))
    }

    /// Replaces a list; `None` removes it.
    ///
    /// # Errors
    /// `EROFS`, `EPERM`, `EOPNOTSUPP`, `EACCES`: a default list for what is no directory; `EINVAL`: no valid list.
    pub(super) fn set_acl(&self, place: &VfsPath, name: &[u8], value: Option<&[u8]>) -> Result<(), Errno> {
        place.mount.want_write()?;
        let mut acl = match value {
            Some(bytes) => Acl::read(bytes, &self.cred.user_ns)?,
            None => None,
        };
        let inode = place.dentry.inode();
        let meta = inode.metadata()?;
        if is_fixed(&meta) {
            return Err(EPERM);
        }
        if meta.file_type() == FileType::Symlink || matches!(inode.xattr(name), Err(EOPNOTSUPP)) {
            return Err(EOPNOTSUPP);
        }
        if name == DEFAULT && !meta.is_dir() {
            return if acl.is_none() { Ok(()) } else { Err(EACCES) };
        }
        if !is_owner(&meta, self.cred) {
            return Err(EPERM);
        }
        if acl.as_ref().is_some_and(|acl| !acl.is_valid()) {
            return Err(EINVAL);
        }
        if name == ACCESS
            && let Some(list) = &acl
        {
            let (bits, is_equal) = list.equivalent();
            let mut bits = meta.mode & 0o7000 | bits;
            if !self.cred.in_group(meta.gid) && !self.cred.has_over(meta.uid, meta.gid, cap::FSETID) {
                bits &= !mode::ISGID;
            }
            inode.set_attributes(&SetAttributes { mode: Some(bits), ..SetAttributes::default() })?;
            if is_equal {
                acl = None;
            }
        }
        match acl {
            Some(acl) => inode.set_xattr(name, &acl.bytes(&UserNamespace::first()), XattrFlags::Any),
            None => match inode.remove_xattr(name) {
                Err(ENODATA) => Ok(()),
                other => other,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Result<Option<Acl>, Errno> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        Acl::parse(&bytes, &UserNamespace::first())
    }

    #[test]
    fn only_ordered_and_complete_lists_are_valid() {
        assert!(acl(&[(1, 6, 0), (4, 4, 0), (0x20, 4, 0)]).unwrap().is_some());
        assert!(acl(&[]).unwrap().is_none());
        assert_eq!(acl(&[(1, 6, 0), (0x20, 4, 0)]), Err(EINVAL));
        assert_eq!(acl(&[(1, 6, 0), (2, 6, 5), (4, 4, 0), (0x20, 4, 0)]), Err(EINVAL));
        assert_eq!(acl(&[(4, 4, 0), (1, 6, 0), (0x20, 4, 0)]), Err(EINVAL));
        assert_eq!(acl(&[(1, 9, 0), (4, 4, 0), (0x20, 4, 0)]), Err(EINVAL));
        assert_eq!(Acl::parse(b"\x02\0\0", &UserNamespace::first()), Err(EINVAL));
        assert_eq!(Acl::parse(b"\x01\0\0\0", &UserNamespace::first()), Err(EOPNOTSUPP));
    }

    #[test]
    fn the_mask_bounds_named_users_and_groups() {
        let list =
            acl(&[(1, 7, 0), (2, 7, 5), (4, 5, 0), (8, 7, 9), (0x10, 5, 0), (0x20, 1, 0)]).unwrap().unwrap();
        let meta = Metadata { uid: 1, gid: 1, mode: 0o100_751, ..Metadata::default() };
        let asks = |uid, gid, want| list.allows(&meta, want, &Credentials::user(uid, gid));
        assert!(asks(5, 5, 5) && !asks(5, 5, 2));
        assert!(asks(6, 9, 4) && !asks(6, 9, 2));
        assert!(asks(6, 1, 5) && !asks(6, 1, 2));
        assert!(asks(6, 6, 1) && !asks(6, 6, 4));
        assert_eq!(list.equivalent(), (0o751, false));
    }
}
