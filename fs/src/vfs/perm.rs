//! Who may do what.

use abi::Errno;
use abi::errno::{EACCES, EPERM};
use base::cred::{Credentials, cap};

use super::{Inode, acl, iflag, mode};
use crate::file::Metadata;

/// Bits of an access request (access(2)).
#[expect(missing_docs, reason = "access(2) explains each")]
pub mod may {
    pub const EXEC: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const READ: u32 = 4;
}

/// Whether `cred` may access the file as `want` (`may::*`) says.
///
/// # Errors
/// `EPERM`: to write what is immutable; `EACCES`.
///
/// Source: Linux 6.12 fs/namei.c, `generic_permission`.
pub fn check_permission(meta: &Metadata, want: u32, cred: &Credentials) -> Result<(), Errno> {
    check(meta, want, cred, None)
}

/// `listed` is what an access control list says, if one counts.
fn check(meta: &Metadata, want: u32, cred: &Credentials, listed: Option<bool>) -> Result<(), Errno> {
    let shift = if meta.uid == cred.fsuid {
        6
    } else if cred.in_group(meta.gid) {
        3
    } else {
        0
    };
    let want = want & 7;
    if want & may::WRITE != 0 && meta.flags & iflag::IMMUTABLE != 0 {
        return Err(EPERM);
    }
    if listed.unwrap_or(want & !(meta.mode >> shift) == 0) {
        return Ok(());
    }
    if meta.is_dir() {
        if want & may::WRITE == 0 && cred.has_over(meta.uid, meta.gid, cap::DAC_READ_SEARCH) {
            return Ok(());
        }
        return if cred.has_over(meta.uid, meta.gid, cap::DAC_OVERRIDE) { Ok(()) } else { Err(EACCES) };
    }
    if want == may::READ && cred.has_over(meta.uid, meta.gid, cap::DAC_READ_SEARCH) {
        return Ok(());
    }
    // A program can be run by nobody while no x bit is set.
    if (want & may::EXEC == 0 || meta.mode & 0o111 != 0)
        && cred.has_over(meta.uid, meta.gid, cap::DAC_OVERRIDE)
    {
        return Ok(());
    }
    Err(EACCES)
}

/// As [`check_permission`], for an inode that may have an access control list or make exceptions.
///
/// # Errors
/// As [`check_permission`].
pub fn check_inode(inode: &dyn Inode, meta: &Metadata, want: u32, cred: &Credentials) -> Result<(), Errno> {
    // A list takes nothing from who may do everything, and is not asked for then.
    let counts = meta.flags & iflag::ACL != 0 && check(meta, want, cred, Some(false)).is_err();
    let listed = if counts { acl::check(inode, meta, want & 7, cred) } else { None };
    check(meta, want, cred, listed).or_else(|e| if inode.allows(want) { Ok(()) } else { Err(e) })
}

/// Whether the sticky bit of directory `dir` keeps `cred` from removing `victim`.
pub(super) fn is_sticky(dir: &Metadata, victim: &Metadata, cred: &Credentials) -> bool {
    dir.mode & mode::ISVTX != 0
        && victim.uid != cred.fsuid
        && dir.uid != cred.fsuid
        && !cred.has_over(victim.uid, victim.gid, cap::FOWNER)
}

/// Whether the file's attributes keep it from being changed otherwise than by appending.
pub(super) fn is_fixed(meta: &Metadata) -> bool {
    meta.flags & (iflag::IMMUTABLE | iflag::APPEND) != 0
}

/// Whether `cred` owns the file or may act as if.
pub(super) fn is_owner(meta: &Metadata, cred: &Credentials) -> bool {
    meta.uid == cred.fsuid || cred.has_over(meta.uid, meta.gid, cap::FOWNER)
}
