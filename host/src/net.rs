//! Sockets of the host, for `--net host`: TCP and UDP, never blocking. Addresses are passed as the program gave them; the
//! host's kernel judges them.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;
use abi::errno::{EINTR, EINVAL};

use crate::memory::last_errno;

/// Room for any address.
pub const ADDRESS_MAX: usize = 128;
/// Room for control messages that are received.
const CONTROL_MAX: usize = 512;
/// Events that one wait tells of.
const EVENTS_MAX: usize = 256;

fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Takes a descriptor that the host just made.
fn own(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    let fd = check(fd)?;
    // SAFETY: the call just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket: `is_v6` for AF_INET6, `is_stream` for TCP instead of UDP.
///
/// # Errors
/// What socket(2) gives.
pub fn socket(is_v6: bool, is_stream: bool) -> Result<OwnedFd, Errno> {
    let domain = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = if is_stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    // SAFETY: three numbers.
    own(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn with_address(fd: BorrowedFd<'_>, address: &[u8], call: AddressCall) -> Result<(), Errno> {
    let len = u32::try_from(address.len()).map_err(|_| EINVAL)?;
    // SAFETY: `address` is as long as is told; the kernel copies it whatever its alignment.
    check(unsafe { call(fd.as_raw_fd(), address.as_ptr().cast(), len) }).map(drop)
}

/// `bind`.
///
/// # Errors
/// What bind(2) gives.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    with_address(fd, address, libc::bind)
}

/// `connect`.
///
/// # Errors
/// What connect(2) gives.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    with_address(fd, address, libc::connect)
}

/// `listen`.
///
/// # Errors
/// What listen(2) gives.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: two numbers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `accept4`.
///
/// # Errors
/// What accept(2) gives.
pub fn accept(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    own(unsafe { libc::accept4(fd.as_raw_fd(), none, std::ptr::null_mut(), flags) })
}

/// `shutdown`.
///
/// # Errors
/// What shutdown(2) gives.
pub fn shutdown(fd: BorrowedFd<'_>, how: u32) -> Result<(), Errno> {
    // SAFETY: two numbers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how.cast_signed()) }).map(drop)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(fd: BorrowedFd<'_>, call: NameCall) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; ADDRESS_MAX];
    let mut len = ADDRESS_MAX as libc::socklen_t;
    // SAFETY: `bytes` has the room that `len` tells.
    check(unsafe { call(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len) })?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// `getsockname`.
///
/// # Errors
/// What getsockname(2) gives.
pub fn local_name(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    name(fd, libc::getsockname)
}

/// `getpeername`.
///
/// # Errors
/// What getpeername(2) gives.
pub fn peer_name(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    name(fd, libc::getpeername)
}

/// `getsockopt`, for values of up to 512 bytes.
///
/// # Errors
/// What getsockopt(2) gives.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; room.min(512)];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: `bytes` has the room that `len` tells.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, bytes.as_mut_ptr().cast(), &raw mut len) })?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// `setsockopt`.
///
/// # Errors
/// What setsockopt(2) gives.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let len = u32::try_from(value.len()).map_err(|_| EINVAL)?;
    // SAFETY: `value` is as long as is told.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) }).map(drop)
}

fn moved(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// Sends bytes, or a datagram; `to` is empty when the program named nobody, `control` holds control messages.
///
/// # Errors
/// What sendmsg(2) gives, but `EINTR`.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], to: &[u8], control: &[u8], flags: u32) -> Result<usize, Errno> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is an empty header.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if !to.is_empty() {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = u32::try_from(to.len()).map_err(|_| EINVAL)?;
    }
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    let flags = flags.cast_signed() | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: the header tells of three buffers with their lengths, which the call only reads.
        match moved(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) }) {
            Err(EINTR) => {}
            other => return other,
        }
    }
}

/// What came with bytes that were received.
#[derive(Debug, Default)]
pub struct Received {
    /// How many bytes there were; with `MSG_TRUNC` more than were stored.
    pub len: usize,
    /// The sender's address, when there is one.
    pub from: Vec<u8>,
    /// Control messages.
    pub control: Vec<u8>,
    /// `MSG_*`.
    pub flags: u32,
}

/// Receives bytes, or a datagram.
///
/// # Errors
/// What recvmsg(2) gives, but `EINTR`.
pub fn receive(fd: BorrowedFd<'_>, buf: &mut [u8], flags: u32) -> Result<Received, Errno> {
    let mut from = vec![0u8; ADDRESS_MAX];
    // Control messages begin at a boundary of eight bytes.
    let mut control = [0u64; CONTROL_MAX / 8];
    let mut vector = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let flags = flags.cast_signed() | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    loop {
        // SAFETY: all zeros is an empty header.
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_name = from.as_mut_ptr().cast();
        header.msg_namelen = ADDRESS_MAX as u32;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_MAX;
        // SAFETY: the header tells of three buffers with their lengths, which nobody else uses meanwhile.
        match moved(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) }) {
            Err(EINTR) => {}
            Err(e) => return Err(e),
            Ok(len) => {
                from.truncate(header.msg_namelen as usize);
                let mut bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
                bytes.truncate(header.msg_controllen);
                return Ok(Received { len, from, control: bytes, flags: header.msg_flags.cast_unsigned() });
            }
        }
    }
}

/// Tells of changes of readiness of many sockets.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// What epoll_create1(2) gives.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: a number.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Tells of each change of `fd` under the name `key`, until the descriptor is closed.
    ///
    /// # Errors
    /// What epoll_ctl(2) gives.
    pub fn watch(&self, fd: BorrowedFd<'_>, key: u64) -> Result<(), Errno> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: key };
        // SAFETY: one event is passed, which the call reads.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        })
        .map(drop)
    }

    /// Waits for changes; gives names and events (`EPOLL*`).
    ///
    /// # Errors
    /// What epoll_wait(2) gives, but `EINTR`.
    pub fn wait(&self) -> Result<Vec<(u64, u32)>, Errno> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        loop {
            // SAFETY: `events` has the room that is told.
            let n = unsafe {
                libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as libc::c_int, -1)
            };
            match check(n) {
                Err(EINTR) => {}
                Err(e) => return Err(e),
                Ok(n) => return Ok(events.iter().take(n as usize).map(|e| (e.u64, e.events)).collect()),
            }
        }
    }
}

/// `SIOCOUTQ` or `SIOCATMARK`.
///
/// # Errors
/// What the host says.
pub fn request(fd: BorrowedFd<'_>, is_mark: bool) -> Result<usize, Errno> {
    const SIOCOUTQ: libc::Ioctl = 0x5411;
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut value: libc::c_int = 0;
    let request = if is_mark { SIOCATMARK } else { SIOCOUTQ };
    // SAFETY: both requests store one `int`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}
