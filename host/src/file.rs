//! Files of the host, reached by single names beneath an open directory.
//!
//! A name is one component: never empty, `.` or `..`, never with a slash. The callers check it; [`name`] does it again,
//! since this is the boundary.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use abi::Errno;
use abi::errno::{EINVAL, EIO};

use crate::memory::last_errno;

/// What the host tells of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) explains each")]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blksize: u64,
    pub blocks: u64,
    /// Seconds and nanoseconds.
    pub atime: (i64, u32),
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
}

/// How a child is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A directory, as a place only.
    Directory,
    /// A regular file for reading.
    Read,
    /// A regular file for reading and writing.
    ReadWrite,
}

/// Checks that `bytes` is a single name and makes it a C string.
///
/// # Errors
/// `EINVAL`.
pub fn name(bytes: &[u8]) -> Result<CString, Errno> {
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(EINVAL);
    }
    CString::new(bytes).map_err(|_| EINVAL)
}

/// The number of fchmodat2(2), which libc does not name everywhere.
pub(crate) const SYS_FCHMODAT2: libc::c_long = 452;

fn check(r: libc::c_int) -> Result<(), Errno> {
    if r < 0 { Err(last_errno()) } else { Ok(()) }
}

fn owned(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the directory that a file system shows, by a path that the operator gave.
///
/// # Errors
/// What open(2) gives.
pub fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| EINVAL)?;
    // SAFETY: `path` is a C string.
    owned(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) })
}

/// Opens `name` in `dir`; never follows a symbolic link, never waits.
///
/// # Errors
/// What openat(2) gives.
pub fn open_child(dir: BorrowedFd<'_>, name: &CStr, how: How) -> Result<OwnedFd, Errno> {
    let flags = match how {
        How::Directory => libc::O_PATH | libc::O_DIRECTORY,
        How::Read => libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
        How::ReadWrite => libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY,
    };
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags) })
}

/// Makes the regular file `name` in `dir`, which must not exist.
///
/// # Errors
/// What openat(2) gives.
pub fn create_child(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode as libc::c_uint) })
}

/// Makes a regular file without a name on the file system of `dir` (`O_TMPFILE`).
///
/// # Errors
/// What openat(2) gives.
pub fn create_unnamed(dir: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_TMPFILE | libc::O_CLOEXEC;
    // SAFETY: the name is a C string.
    owned(unsafe { libc::openat(dir.as_raw_fd(), c".".as_ptr(), flags, mode as libc::c_uint) })
}

/// Gives the open file `fd` the name `new_name` in `new_dir`. Before Linux 6.10 that takes `CAP_DAC_READ_SEARCH`.
///
/// # Errors
/// What linkat(2) gives.
pub fn link_open(fd: BorrowedFd<'_>, new_dir: BorrowedFd<'_>, new_name: &CStr) -> Result<(), Errno> {
    let (old, new) = (fd.as_raw_fd(), new_dir.as_raw_fd());
    // SAFETY: both names are C strings.
    check(unsafe { libc::linkat(old, c"".as_ptr(), new, new_name.as_ptr(), libc::AT_EMPTY_PATH) })
}

/// `fchownat` of the open file `fd`; `None` leaves an id.
///
/// # Errors
/// What fchownat(2) gives.
pub fn chown_open(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the name is a C string.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
}

fn from_raw(s: &libc::stat) -> Stat {
    Stat {
        dev: s.st_dev,
        ino: s.st_ino,
        mode: s.st_mode,
        nlink: s.st_nlink,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: u64::try_from(s.st_size).unwrap_or(0),
        blksize: u64::try_from(s.st_blksize).unwrap_or(4096),
        blocks: u64::try_from(s.st_blocks).unwrap_or(0),
        atime: (s.st_atime, s.st_atime_nsec as u32),
        mtime: (s.st_mtime, s.st_mtime_nsec as u32),
        ctime: (s.st_ctime, s.st_ctime_nsec as u32),
    }
}

/// `fstat`.
///
/// # Errors
/// What fstat(2) gives.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for the structure.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded, so it filled the structure.
    Ok(from_raw(unsafe { stat.assume_init_ref() }))
}

/// `lstat` of `name` in `dir`.
///
/// # Errors
/// What fstatat(2) gives.
pub fn stat_child(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `name` is a C string and `stat` has room for the structure.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: fstatat succeeded, so it filled the structure.
    Ok(from_raw(unsafe { stat.assume_init_ref() }))
}

/// `readlink` of `name` in `dir`.
///
/// # Errors
/// What readlinkat(2) gives.
pub fn read_link(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; 4096];
    // SAFETY: `name` is a C string and `buf` has the room that is told.
    let n = unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = usize::try_from(n).map_err(|_| last_errno())?;
    buf.truncate(n);
    Ok(buf)
}

/// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
///
/// # Errors
/// What pread(2) gives.
pub fn read_at(fd: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| EINVAL)?;
    loop {
        // SAFETY: `buf` has the room that is told.
        let n = unsafe { libc::pread(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), offset) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match last_errno() {
                abi::errno::EINTR => {}
                e => return Err(e),
            },
        }
    }
}

/// Writes up to `bytes.len()` bytes at `offset`.
///
/// # Errors
/// What pwrite(2) gives.
pub fn write_at(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| EINVAL)?;
    loop {
        // SAFETY: `bytes` is as long as is told.
        let n = unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match last_errno() {
                abi::errno::EINTR => {}
                e => return Err(e),
            },
        }
    }
}

/// `ftruncate`.
///
/// # Errors
/// What ftruncate(2) gives.
pub fn set_len(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let len = libc::off_t::try_from(len).map_err(|_| EINVAL)?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) })
}

/// `fallocate`; `mode` holds `FALLOC_FL_*`.
///
/// # Errors
/// What fallocate(2) gives.
pub fn allocate(fd: BorrowedFd<'_>, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| EINVAL)?;
    let len = libc::off_t::try_from(len).map_err(|_| EINVAL)?;
    let mode = libc::c_int::try_from(mode).map_err(|_| EINVAL)?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) })
}

fn seek(fd: BorrowedFd<'_>, offset: u64, whence: libc::c_int) -> Result<u64, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| EINVAL)?;
    // SAFETY: no pointers are passed.
    let at = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    u64::try_from(at).map_err(|_| last_errno())
}

/// The first byte of data at or behind `offset`; the descriptor's own position means nothing to us.
///
/// # Errors
/// `ENXIO`: none follows; what lseek(2) gives.
pub fn seek_data(fd: BorrowedFd<'_>, offset: u64) -> Result<u64, Errno> {
    seek(fd, offset, libc::SEEK_DATA)
}

/// The first byte of a hole at or behind `offset`; the end of the file counts as one.
///
/// # Errors
/// What lseek(2) gives.
pub fn seek_hole(fd: BorrowedFd<'_>, offset: u64) -> Result<u64, Errno> {
    seek(fd, offset, libc::SEEK_HOLE)
}

/// `fsync`.
///
/// # Errors
/// What fsync(2) gives.
pub fn sync(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fsync(fd.as_raw_fd()) })
}

/// `syncfs` of the file system that the directory is on.
///
/// # Errors
/// What openat(2) and syncfs(2) give.
pub fn sync_fs(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let dir = reopen_dir(dir)?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::syncfs(dir.as_raw_fd()) })
}

/// Calls `f` with inode number, type (`DT_*`) and name of each entry of `dir`, without `.` and `..`.
///
/// # Errors
/// What openat(2) and getdents64(2) give.
pub fn read_dir(dir: BorrowedFd<'_>, mut f: impl FnMut(u64, u8, &[u8])) -> Result<(), Errno> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the name is a C string.
    let fd = owned(unsafe { libc::openat(dir.as_raw_fd(), c".".as_ptr(), flags) })?;
    let mut buf = vec![0u8; 32 << 10];
    loop {
        // SAFETY: `buf` has the room that is told; it needs no alignment, since we read it bytewise.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buf.as_mut_ptr(), buf.len()) };
        let n = usize::try_from(n).map_err(|_| last_errno())?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = buf.get(..n).ok_or(EIO)?;
        // linux_dirent64: ino 8, off 8, reclen 2, type 1, name with a zero byte.
        while let Some((head, _)) = rest.split_first_chunk::<19>() {
            let [i0, i1, i2, i3, i4, i5, i6, i7, _, _, _, _, _, _, _, _, l0, l1, kind] = *head;
            let len = usize::from(u16::from_le_bytes([l0, l1]));
            let text = rest.get(19..len).ok_or(EIO)?;
            let text = text.split(|&b| b == 0).next().unwrap_or_default();
            if !matches!(text, b"." | b"..") {
                f(u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]), kind, text);
            }
            rest = rest.get(len..).ok_or(EIO)?;
        }
    }
}

/// `mkdirat`.
///
/// # Errors
/// What mkdirat(2) gives.
pub fn mkdir(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `name` is a C string.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

/// Makes a FIFO or socket node; never a device.
///
/// # Errors
/// `EPERM` for a device; what mknodat(2) gives.
pub fn mknod(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    if !matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK) {
        return Err(abi::errno::EPERM);
    }
    // SAFETY: `name` is a C string.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) })
}

/// `symlinkat`.
///
/// # Errors
/// What symlinkat(2) gives.
pub fn symlink(target: &[u8], dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let target = CString::new(target).map_err(|_| EINVAL)?;
    // SAFETY: both are C strings.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })
}

/// `linkat`, without following.
///
/// # Errors
/// What linkat(2) gives.
pub fn link(
    old_dir: BorrowedFd<'_>,
    old_name: &CStr,
    new_dir: BorrowedFd<'_>,
    new_name: &CStr,
) -> Result<(), Errno> {
    let (old, new) = (old_dir.as_raw_fd(), new_dir.as_raw_fd());
    // SAFETY: both names are C strings.
    check(unsafe { libc::linkat(old, old_name.as_ptr(), new, new_name.as_ptr(), 0) })
}

/// `unlinkat`, of a directory with `AT_REMOVEDIR`.
///
/// # Errors
/// What unlinkat(2) gives.
pub fn unlink(dir: BorrowedFd<'_>, name: &CStr, is_dir: bool) -> Result<(), Errno> {
    let flags = if is_dir { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `name` is a C string.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) })
}

/// `renameat2`.
///
/// # Errors
/// What renameat2(2) gives.
pub fn rename(
    old_dir: BorrowedFd<'_>,
    old_name: &CStr,
    new_dir: BorrowedFd<'_>,
    new_name: &CStr,
    flags: u32,
) -> Result<(), Errno> {
    let (old, new) = (old_dir.as_raw_fd(), new_dir.as_raw_fd());
    // SAFETY: both names are C strings.
    let r =
        unsafe { libc::syscall(libc::SYS_renameat2, old, old_name.as_ptr(), new, new_name.as_ptr(), flags) };
    if r < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Sets the permission bits of what is no symbolic link. The kernel's call follows links, so the file is opened first.
///
/// # Errors
/// What fchmod(2) gives.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode & 0o7777) })
}

/// `fchmodat2` of `name` in `dir`, without following: for what cannot be opened. `ENOSYS` before Linux 6.6.
///
/// # Errors
/// What fchmodat2(2) gives.
pub fn chmod_child(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` is a C string.
    let r = unsafe { libc::syscall(SYS_FCHMODAT2, dir.as_raw_fd(), name.as_ptr(), mode & 0o7777, flags) };
    if r < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Opens the directory `dir` itself for calls that refuse `O_PATH`.
///
/// # Errors
/// What openat(2) gives.
pub fn reopen_dir(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the name is a C string.
    owned(unsafe { libc::openat(dir.as_raw_fd(), c".".as_ptr(), flags) })
}

/// `fchownat` of `name` in `dir`, without following; `None` leaves an id.
///
/// # Errors
/// What fchownat(2) gives.
pub fn chown(dir: BorrowedFd<'_>, name: &CStr, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` is a C string.
    check(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) })
}

/// `utimensat` of `name` in `dir`, without following; `None` leaves a stamp.
///
/// # Errors
/// What utimensat(2) gives.
pub fn utimes(
    dir: BorrowedFd<'_>,
    name: &CStr,
    atime: Option<(i64, u32)>,
    mtime: Option<(i64, u32)>,
) -> Result<(), Errno> {
    let times = [stamp(atime), stamp(mtime)];
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` is a C string and `times` has two elements.
    check(unsafe { libc::utimensat(dir.as_raw_fd(), name.as_ptr(), times.as_ptr(), flags) })
}

fn stamp(time: Option<(i64, u32)>) -> libc::timespec {
    match time {
        Some((sec, nsec)) => libc::timespec { tv_sec: sec, tv_nsec: i64::from(nsec) },
        None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
    }
}

/// `futimens` of the open file `fd`; `None` leaves a stamp.
///
/// # Errors
/// What utimensat(2) gives.
pub fn utimes_open(
    fd: BorrowedFd<'_>,
    atime: Option<(i64, u32)>,
    mtime: Option<(i64, u32)>,
) -> Result<(), Errno> {
    let times = [stamp(atime), stamp(mtime)];
    // SAFETY: `times` has two elements.
    check(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) })
}

/// Fills `buf` with random bytes of the host's.
///
/// # Errors
/// What getrandom(2) gives.
pub fn random(buf: &mut [u8]) -> Result<(), Errno> {
    let mut rest = buf;
    while !rest.is_empty() {
        // SAFETY: `rest` has the room that is told.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => rest = rest.get_mut(n..).ok_or(EIO)?,
            Err(_) => match last_errno() {
                abi::errno::EINTR => {}
                e => return Err(e),
            },
        }
    }
    Ok(())
}
