//! Extended attributes of host files: those of users and of security modules, and access control lists, which the host
//! keeps and applies to its own programs; what the host's file systems keep for themselves (other names in `system.`,
//! `trusted.`) is not shown.
//!
//! Whether a file has a list that counts is asked of the host once somebody's access depends on it, and again once the
//! file's time of change is another. Lists that folders hand on are asked for once any was seen in the tree.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ENODATA, EOPNOTSUPP, EPERM};

use host::file::Stat;

use super::HostInode;
use crate::vfs::{ACCESS, DEFAULT, FileType, XattrFlags, iflag};

/// What is known of the lists of a tree.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The host's file system keeps none.
    are_missing: AtomicBool,
    /// Some folder hands lists on.
    are_inherited: AtomicBool,
}

/// A file's time of change, as one number; 0 is none.
#[derive(Debug, Default)]
pub(super) struct Moment(AtomicU64);

impl Moment {
    /// Times of change that are so near may be told twice, in ns.
    const COARSE: i64 = 50_000_000;

    fn of(stat: &Stat) -> u64 {
        (stat.ctime.0 as u64) << 30 | u64::from(stat.ctime.1)
    }

    fn is(&self, stat: &Stat) -> bool {
        self.0.load(Ordering::Relaxed) == Self::of(stat)
    }

    fn set(&self, stat: &Stat) {
        let at = stat.ctime.0.saturating_mul(1_000_000_000).saturating_add(i64::from(stat.ctime.1));
        let age = host::clock::now_ns(host::clock::HostClock::Realtime).saturating_sub(at);
        if age > Self::COARSE {
            self.0.store(Self::of(stat), Ordering::Relaxed);
        }
    }
}

fn is_list(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

fn is_shown(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"security.") || is_list(name)
}

fn c_name(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| EINVAL)
}

impl HostInode {
    /// Calls `f` with a descriptor that the calls on attributes take; `None` for what has none of its own.
    fn with_xattrs<T>(
        &self,
        f: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<Option<T>, Errno> {
        match self.kind() {
            FileType::Regular => f(self.fd()?.as_fd()).map(Some),
            FileType::Directory => f(host::file::reopen_dir(self.fd()?.as_fd())?.as_fd()).map(Some),
            _ => Ok(None),
        }
    }

    /// Which lists the file may have, as `iflag` bits.
    pub(super) fn list_flags(&self, stat: &Stat) -> u32 {
        let lists = &self.fs.lists;
        if lists.are_missing.load(Ordering::Relaxed) || self.kind() == FileType::Symlink {
            return 0;
        }
        let access = if self.unlisted.is(stat) { 0 } else { iflag::ACL };
        let is_inherited = self.kind() == FileType::Directory && lists.are_inherited.load(Ordering::Relaxed);
        access | if is_inherited { iflag::DEFAULT_ACL } else { 0 }
    }

    /// Whether the folder hands a list on: what is made in it has the mode that the list and the host say.
    pub(super) fn hands_lists_on(&self) -> bool {
        self.kind() == FileType::Directory && self.xattr_value(DEFAULT).is_ok()
    }

    pub(super) fn xattr_value(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if !is_list(name) {
            return self.value_of(name);
        }
        let lists = &self.fs.lists;
        if lists.are_missing.load(Ordering::Relaxed) {
            return Err(EOPNOTSUPP);
        }
        // Before the list, so that a change meanwhile has another time.
        let stat = self.stat()?;
        if name == ACCESS && self.unlisted.is(&stat) {
            return Err(ENODATA);
        }
        let value = self.value_of(name);
        match &value {
            Ok(_) if name == DEFAULT => lists.are_inherited.store(true, Ordering::Relaxed),
            Err(ENODATA) if name == ACCESS => self.unlisted.set(&stat),
            Err(EOPNOTSUPP) => lists.are_missing.store(true, Ordering::Relaxed),
            _ => {}
        }
        value
    }

    fn value_of(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if !is_shown(name) {
            return Err(ENODATA);
        }
        let c_name = c_name(name)?;
        match self.with_xattrs(|fd| host::xattr::value(fd, &c_name)) {
            Ok(Some(value)) => Ok(value),
            // What we cannot open has none that matter to a guest.
            Ok(None) | Err(EACCES | EPERM) => Err(ENODATA),
            Err(e) => Err(e),
        }
    }

    pub(super) fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = match self.with_xattrs(host::xattr::names) {
            Ok(names) => names.unwrap_or_default(),
            Err(EACCES | EPERM | EOPNOTSUPP) => Vec::new(),
            Err(e) => return Err(e),
        };
        names.retain(|name| is_shown(name));
        Ok(names)
    }

    pub(super) fn change_xattr(&self, name: &[u8], value: Option<(&[u8], XattrFlags)>) -> Result<(), Errno> {
        self.want_write()?;
        if !is_shown(name) {
            return Err(EOPNOTSUPP);
        }
        let c_name = c_name(name)?;
        let done = self.with_xattrs(|fd| match value {
            Some((value, flags)) => {
                let flags = match flags {
                    XattrFlags::Any => 0,
                    XattrFlags::Create => 1,
                    XattrFlags::Replace => 2,
                };
                host::xattr::set(fd, &c_name, value, flags)
            }
            None => host::xattr::remove(fd, &c_name),
        });
        self.changed();
        if name == DEFAULT && value.is_some() {
            self.fs.lists.are_inherited.store(true, Ordering::Relaxed);
        }
        let done = done?;
        done.ok_or(EOPNOTSUPP)
    }
}
