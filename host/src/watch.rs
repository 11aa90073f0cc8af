//! What other programs do to files that ringfence watches (fanotify(7)). The files are named by descriptors, never by paths,
//! and each event says which process made it: ringfence's own are told apart.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;
use abi::errno::{EINTR, EIO};

use crate::memory::last_errno;

/// Bits of masks that inotify has not; the others are those of inotify(7).
#[expect(missing_docs, reason = "fanotify(7) explains each")]
pub mod bit {
    pub const Q_OVERFLOW: u64 = 0x4000;
    pub const EVENT_ON_CHILD: u64 = 0x0800_0000;
    pub const RENAME: u64 = 0x1000_0000;
    pub const ONDIR: u64 = 0x4000_0000;
}

/// What is told of a file or folder in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The file itself.
    Itself,
    /// The folder, and the name in it that is concerned.
    Folder,
    /// The folder that a name left.
    OldFolder,
    /// The folder that a name came to.
    NewFolder,
}

/// The most bytes of a file's handle (`MAX_HANDLE_SZ`).
const HANDLE_MAX: usize = 128;

/// Names a file of the host, as long as it exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileName {
    file_system: [u8; 8],
    kind: [u8; 4],
    handle: Box<[u8]>,
}

/// The files that are watched.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

fn check(r: libc::c_int) -> Result<libc::c_int, Errno> {
    if r < 0 { Err(last_errno()) } else { Ok(r) }
}

/// The name of the open file.
///
/// # Errors
/// What fstatfs(2) and name_to_handle_at(2) give: `EOPNOTSUPP` where files have no such names.
pub fn name_of(fd: BorrowedFd<'_>) -> Result<FileName, Errno> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: [u8; 4],
        handle: [u8; HANDLE_MAX],
    }
    let mut space = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `space` has room for the structure.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), space.as_mut_ptr()) })?;
    // SAFETY: it was zeroed, and all bytes are valid in all its fields.
    let space = unsafe { space.assume_init() };
    // SAFETY: `fsid_t` is two plain 32-bit numbers, of 8 bytes together, without padding.
    let file_system: [u8; 8] = unsafe { std::mem::transmute(space.f_fsid) };
    let mut handle = Handle { bytes: HANDLE_MAX as u32, kind: [0; 4], handle: [0; HANDLE_MAX] };
    let mut mount = 0i32;
    // SAFETY: the name is a C string, `handle` has the room that its first field tells, and `mount` is a number.
    let r = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if r < 0 {
        return Err(last_errno());
    }
    let len = usize::try_from(handle.bytes).map_err(|_| EIO)?;
    let bytes = handle.handle.get(..len).ok_or(EIO)?;
    Ok(FileName { file_system, kind: handle.kind, handle: bytes.into() })
}

/// An event: its mask, whether ringfence made it itself, and whom it is about, with the names in folders.
#[derive(Debug)]
pub struct Event<'a> {
    /// What happened, perhaps several things.
    pub mask: u64,
    /// This process did it.
    pub is_own: bool,
    /// Whom it is about.
    pub about: Vec<(About, FileName, &'a [u8])>,
}

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What fanotify_init(2) gives.
    pub fn new() -> Result<Self, Errno> {
        /// `FAN_CLOEXEC | FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME`.
        const FLAGS: libc::c_uint = 1 | 0x200 | 0x400 | 0x800;
        // SAFETY: no pointers are passed.
        let r = unsafe { libc::syscall(libc::SYS_fanotify_init, FLAGS, libc::O_RDONLY) };
        let fd = check(i32::try_from(r).map_err(|_| EIO)?)?;
        // SAFETY: the call just gave us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn mark(&self, flags: libc::c_uint, file: BorrowedFd<'_>, mask: u64) -> Result<(), Errno> {
        let (own, file) = (self.0.as_raw_fd(), file.as_raw_fd());
        let no_path = std::ptr::null::<libc::c_char>();
        // SAFETY: without a path the file is the one that the descriptor leads to; no other pointers are passed.
        let r = unsafe { libc::syscall(libc::SYS_fanotify_mark, own, flags, mask, file, no_path) };
        if r < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Watches the open file for `mask` too.
    ///
    /// # Errors
    /// What fanotify_mark(2) gives: `ENOSPC` when there are too many.
    pub fn add(&self, file: BorrowedFd<'_>, mask: u64) -> Result<(), Errno> {
        self.mark(1, file, mask)
    }

    /// Watches the open file for `mask` no longer.
    ///
    /// # Errors
    /// What fanotify_mark(2) gives.
    pub fn remove(&self, file: BorrowedFd<'_>, mask: u64) -> Result<(), Errno> {
        self.mark(2, file, mask)
    }

    /// Whether there are events that `wait` would not wait for.
    pub fn has_more(&self) -> bool {
        crate::stdio::poll(self.0.as_fd(), libc::POLLIN as u16, false).is_ok_and(|found| found != 0)
    }

    /// Waits for events and hands them on.
    ///
    /// # Errors
    /// What read(2) gives.
    pub fn wait(&self, mut tell: impl FnMut(Event<'_>)) -> Result<(), Errno> {
        let mut buf = vec![0u8; 16 << 10];
        // SAFETY: `buf` has the room that is told.
        let n = unsafe { libc::read(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        let n = match usize::try_from(n) {
            Ok(n) => n,
            Err(_) if last_errno() == EINTR => return Ok(()),
            Err(_) => return Err(last_errno()),
        };
        let mut rest = buf.get(..n).ok_or(EIO)?;
        while !rest.is_empty() {
            let (event, next) = parse(rest).ok_or(EIO)?;
            tell(event);
            rest = next;
        }
        Ok(())
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// One event, and what follows it (`struct fanotify_event_metadata`, `struct fanotify_event_info_fid`).
fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let len = u32::from_ne_bytes(number(bytes, 0)?) as usize;
    let head = usize::from(u16::from_ne_bytes(number(bytes, 6)?));
    let mask = u64::from_ne_bytes(number(bytes, 8)?);
    let is_own = u32::from_ne_bytes(number(bytes, 20)?) == std::process::id();
    let mut records = bytes.get(head..len)?;
    let mut about = Vec::new();
    while let Some([kind, _, l0, l1]) = number::<4>(records, 0) {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let record = records.get(..len)?;
        records = records.get(len.max(4)..)?;
        let whom = match kind {
            1 => About::Itself,
            2 | 3 => About::Folder,
            10 => About::OldFolder,
            12 => About::NewFolder,
            _ => continue,
        };
        let size = u32::from_ne_bytes(number(record, 12)?) as usize;
        let handle = record.get(20..20usize.checked_add(size)?)?;
        let name = record.get(20 + size..)?.split(|&b| b == 0).next()?;
        let file =
            FileName { file_system: number(record, 4)?, kind: number(record, 16)?, handle: handle.into() };
        about.push((whom, file, name));
    }
    Some((Event { mask, is_own, about }, bytes.get(len.max(24)..)?))
}
