//! Extended attributes of host files that are open.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use abi::Errno;
use abi::errno::{EIO, ERANGE};

use crate::memory::last_errno;

/// Longest value and longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const SIZE_MAX: usize = 65536;

/// Calls `read` with a buffer that is large enough: small at first, then the largest.
fn read(mut read: impl FnMut(&mut [u8]) -> libc::ssize_t) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; 256];
    loop {
        match usize::try_from(read(&mut buf)) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(_) => match last_errno() {
                ERANGE if buf.len() < SIZE_MAX => buf.resize(SIZE_MAX, 0),
                e => return Err(e),
            },
        }
    }
}

/// `fgetxattr`.
///
/// # Errors
/// What fgetxattr(2) gives.
pub fn value(fd: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_raw_fd();
    read(|buf| {
        // SAFETY: `name` is a C string and `buf` has the room that is told.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) }
    })
}

/// `flistxattr`: the names.
///
/// # Errors
/// What flistxattr(2) gives.
pub fn names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let fd = fd.as_raw_fd();
    let list = read(|buf| {
        // SAFETY: `buf` has the room that is told.
        unsafe { libc::flistxattr(fd, buf.as_mut_ptr().cast(), buf.len()) }
    })?;
    Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
}

/// `fsetxattr`.
///
/// # Errors
/// What fsetxattr(2) gives.
pub fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    // SAFETY: `name` is a C string and `value` as long as is told.
    let r =
        unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    if r < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `fremovexattr`.
///
/// # Errors
/// What fremovexattr(2) gives.
pub fn remove(fd: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` is a C string.
    let r = unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) };
    match r {
        0 => Ok(()),
        -1 => Err(last_errno()),
        _ => Err(EIO),
    }
}
