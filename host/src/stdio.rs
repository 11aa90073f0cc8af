//! The standard streams that we were started with: reads, writes, readiness, and the terminal behind them.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;
use abi::errno::{EAGAIN, EINTR};

use crate::memory::last_errno;

/// The kernel's `struct termios`, which is not the C library's: four words of flags, the line discipline, 19 characters.
pub type Termios = [u8; 36];
/// `struct winsize`: rows, columns, and two sizes in pixels.
pub type WindowSize = [u8; 8];

/// When changed terminal settings take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `TCSETS`.
    Now,
    /// `TCSETSW`: when all output is written.
    Drain,
    /// `TCSETSF`: the same, and unread input is thrown away.
    Flush,
}

/// Makes a duplicate of standard stream `number` above the streams, and tells the access mode (`O_ACCMODE` bits); `None`
/// when that stream is closed.
pub fn duplicate(number: u8) -> Option<(OwnedFd, u32)> {
    let number = libc::c_int::from(number);
    // SAFETY: fcntl takes any number; no pointers are passed.
    let flags = u32::try_from(unsafe { libc::fcntl(number, libc::F_GETFL) }).ok()?;
    // SAFETY: as above.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return None;
    }
    // SAFETY: fcntl just made this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Some((fd, flags & libc::O_ACCMODE as u32))
}

/// Reads at the descriptor's own position.
///
/// # Errors
/// What read(2) gives, but `EINTR`.
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: `buf` has the room that is told.
        let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match last_errno() {
                EINTR => {}
                e => return Err(e),
            },
        }
    }
}

/// Writes at the descriptor's own position, and waits until there is room.
///
/// # Errors
/// What write(2) gives, but `EINTR` and `EAGAIN`.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: `bytes` is as long as is told.
        let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match last_errno() {
                EINTR => {}
                // Whoever started us may have left the description non-blocking.
                EAGAIN => {
                    poll(fd, libc::POLLOUT as u16, true)?;
                }
                e => return Err(e),
            },
        }
    }
}

/// Which of `events` (`POLL*`), or of errors and hang-ups, hold; with `wait`, waits until any does.
///
/// # Errors
/// What poll(2) gives, but `EINTR`.
pub fn poll(fd: BorrowedFd<'_>, events: u16, wait: bool) -> Result<u16, Errno> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: events.cast_signed(), revents: 0 };
    loop {
        // SAFETY: one entry is passed and told.
        let n = unsafe { libc::poll(&raw mut entry, 1, if wait { -1 } else { 0 }) };
        if n >= 0 {
            return Ok(entry.revents.cast_unsigned());
        }
        match last_errno() {
            EINTR => {}
            e => return Err(e),
        }
    }
}

/// An ioctl whose argument is `data`, read or written by the host.
///
/// # Safety
/// `request` reads or writes no more than `N` bytes through its argument.
unsafe fn terminal<const N: usize>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    data: &mut [u8; N],
) -> Result<(), Errno> {
    // The kernel's structures hold 32-bit words; copy_to_user and copy_from_user need no alignment.
    loop {
        // SAFETY: the caller says that the request keeps within `data`.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), request, data.as_mut_ptr()) };
        if r >= 0 {
            return Ok(());
        }
        match last_errno() {
            EINTR => {}
            e => return Err(e),
        }
    }
}

/// `TCGETS`.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn termios(fd: BorrowedFd<'_>) -> Result<Termios, Errno> {
    let mut data = [0; 36];
    // SAFETY: the kernel's termios has 36 bytes (include/uapi/asm-generic/termbits.h).
    unsafe { terminal(fd, libc::TCGETS, &mut data) }?;
    Ok(data)
}

/// `TCSETS`, `TCSETSW`, `TCSETSF`.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn set_termios(fd: BorrowedFd<'_>, when: When, mut data: Termios) -> Result<(), Errno> {
    let request = match when {
        When::Now => libc::TCSETS,
        When::Drain => libc::TCSETSW,
        When::Flush => libc::TCSETSF,
    };
    // SAFETY: as for `termios`.
    unsafe { terminal(fd, request, &mut data) }
}

/// `TIOCGWINSZ`.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn window_size(fd: BorrowedFd<'_>) -> Result<WindowSize, Errno> {
    let mut data = [0; 8];
    // SAFETY: `struct winsize` has 8 bytes.
    unsafe { terminal(fd, libc::TIOCGWINSZ, &mut data) }?;
    Ok(data)
}

/// `TIOCSWINSZ`.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn set_window_size(fd: BorrowedFd<'_>, mut data: WindowSize) -> Result<(), Errno> {
    // SAFETY: `struct winsize` has 8 bytes.
    unsafe { terminal(fd, libc::TIOCSWINSZ, &mut data) }
}

/// `FIONREAD`: how many bytes can be read at once.
///
/// # Errors
/// `ENOTTY` when the file does not know.
pub fn available(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut data = [0; 4];
    // SAFETY: the request writes one `int`.
    unsafe { terminal(fd, libc::FIONREAD, &mut data) }?;
    Ok(u32::from_ne_bytes(data))
}
