//! Extended attributes of host files: those of users and of security modules; what the host's file systems keep for
//! themselves (`system.`, `trusted.`) is not shown.

use std::ffi::CString;
use std::os::fd::AsFd;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ENODATA, EOPNOTSUPP, EPERM};

use super::HostInode;
use crate::vfs::{FileType, XattrFlags};

fn is_shown(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"security.")
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

    pub(super) fn xattr_value(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
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
        let done = done?;
        done.ok_or(EOPNOTSUPP)
    }
}
