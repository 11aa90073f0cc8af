//! Memory files (memfd_create(2)): the host's side of guest memory.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;

/// The calling thread's errno.
pub(crate) fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Errno::from_raw(raw).unwrap_or(abi::errno::EIO)
}

/// A sparse file without a name, in the host's memory.
#[derive(Debug)]
pub struct Memfd(OwnedFd);

impl Memfd {
    /// Makes an empty one; `name` shows in `/proc/PID/maps`.
    ///
    /// # Errors
    /// What memfd_create(2) gives.
    pub fn create(name: &CStr) -> Result<Self, Errno> {
        // SAFETY: `name` is a C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the call just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sets the length; new bytes are zero and take no memory.
    ///
    /// # Errors
    /// What ftruncate(2) gives.
    pub fn set_len(&self, len: u64) -> Result<(), Errno> {
        // SAFETY: no pointers are passed.
        let r = unsafe { libc::ftruncate(self.0.as_raw_fd(), len as libc::off_t) };
        if r != 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Gives the memory of `len` bytes at `offset` back; they read as zeros, and all translations of them are gone.
    ///
    /// # Errors
    /// What fallocate(2) gives.
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: no pointers are passed.
            let r = unsafe {
                libc::fallocate(self.0.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t)
            };
            if r == 0 {
                return Ok(());
            }
            let errno = last_errno();
            if errno != abi::errno::EINTR {
                return Err(errno);
            }
        }
    }

    /// Where the next byte from `offset` on is that the host has memory for; `None` when there is none.
    ///
    /// # Errors
    /// What lseek(2) gives.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, Errno> {
        match crate::file::seek_data(self.0.as_fd(), offset) {
            Ok(at) => Ok(Some(at)),
            Err(abi::errno::ENXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Bytes that the host holds for the file.
    ///
    /// # Errors
    /// What fstat(2) gives.
    pub fn allocated(&self) -> Result<u64, Errno> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` has room for the structure.
        let r = unsafe { libc::fstat(self.0.as_raw_fd(), stat.as_mut_ptr()) };
        if r != 0 {
            return Err(last_errno());
        }
        // SAFETY: fstat succeeded, so it filled the structure.
        let stat = unsafe { stat.assume_init() };
        Ok((stat.st_blocks as u64).saturating_mul(512))
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
