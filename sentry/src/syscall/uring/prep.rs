//! Looking at a request when it is submitted: what can be told wrong then, and what has to be copied in.
//!
//! Source: Linux 6.12 io_uring/*.c, the functions `io_*_prep`; io_uring/opdef.c.

use abi::errno::{E2BIG, EBADF, EFAULT, EINVAL, EOVERFLOW, EPERM};
use abi::io_uring::{Sqe, op, sqe};
use abi::socket::{msg, sock};
use abi::{Errno, UserAddr};
use base::alarm::{AlarmClock, Alarms};
use fs::file::oflag;

use super::pending::Deadline;
use super::request::Data;
use super::ring::Ring;
use crate::syscall::path;
use crate::task::Ctx;

/// `IORING_POLL_ADD_MULTI`, `IORING_POLL_UPDATE_EVENTS`, `IORING_POLL_UPDATE_USER_DATA`.
pub(super) const POLL_MULTI: u32 = 1;
pub(super) const POLL_EVENTS: u32 = 2;
pub(super) const POLL_USER_DATA: u32 = 4;
/// `IORING_TIMEOUT_*`.
pub(super) const TIMEOUT_ABS: u32 = 1;
pub(super) const TIMEOUT_UPDATE: u32 = 2;
const TIMEOUT_BOOTTIME: u32 = 4;
const TIMEOUT_REALTIME: u32 = 8;
pub(super) const LINK_TIMEOUT_UPDATE: u32 = 16;
pub(super) const TIMEOUT_ETIME_SUCCESS: u32 = 32;
const TIMEOUT_MULTISHOT: u32 = 64;
/// `IORING_ASYNC_CANCEL_*`.
pub(super) const CANCEL_ALL: u32 = 1;
pub(super) const CANCEL_FD: u32 = 2;
pub(super) const CANCEL_ANY: u32 = 4;
pub(super) const CANCEL_FD_FIXED: u32 = 8;
pub(super) const CANCEL_USERDATA: u32 = 16;
pub(super) const CANCEL_OP: u32 = 32;
/// `IORING_RECVSEND_POLL_FIRST`, `IORING_RECV_MULTISHOT`.
pub(super) const POLL_FIRST: u16 = 1;
pub(super) const RECV_MULTISHOT: u16 = 2;
/// `IORING_RECVSEND_FIXED_BUF`, `IORING_SEND_ZC_REPORT_USAGE`.
const FIXED_BUF: u16 = 4;
pub(super) const REPORT_USAGE: u16 = 8;
/// `IORING_ACCEPT_*`.
pub(super) const ACCEPT_MULTISHOT: u16 = 1;
pub(super) const ACCEPT_DONTWAIT: u16 = 2;
pub(super) const ACCEPT_POLL_FIRST: u16 = 4;
/// `IORING_FSYNC_DATASYNC`.
const FSYNC_DATASYNC: u32 = 1;
/// `SPLICE_F_FD_IN_FIXED`, and all of splice(2).
pub(super) const SPLICE_IN_FIXED: u32 = 1 << 31;
const SPLICE_ALL: u32 = 0xf;
/// Most buffers of a group.
const MAX_BUFFERS: u64 = 1 << 16;

/// What holds for all requests with one operation.
#[derive(Clone, Copy)]
pub(super) struct Def {
    pub(super) needs_file: bool,
    pub(super) selects: bool,
    pub(super) has_ioprio: bool,
    /// It is for rings that poll for completions, too.
    pub(super) may_poll: bool,
}

/// The operation's rules; `None` when it is not carried out here.
pub(super) fn def(opcode: u8) -> Option<Def> {
    let (needs_file, selects, has_ioprio) = match opcode {
        op::NOP => (false, false, true),
        op::READV | op::READ => (true, true, true),
        op::WRITEV | op::WRITE | op::READ_FIXED | op::WRITE_FIXED => (true, false, true),
        op::RECVMSG | op::RECV => (true, true, true),
        op::SENDMSG | op::SEND | op::ACCEPT | op::SEND_ZC | op::SENDMSG_ZC => (true, false, true),
        op::FSYNC | op::SYNC_FILE_RANGE | op::FALLOCATE | op::FADVISE | op::POLL_ADD => (true, false, false),
        op::CONNECT | op::SHUTDOWN | op::BIND | op::LISTEN | op::FTRUNCATE => (true, false, false),
        op::SPLICE | op::TEE | op::FIXED_FD_INSTALL | op::MSG_RING => (true, false, false),
        op::FSETXATTR | op::FGETXATTR => (true, false, false),
        op::POLL_REMOVE | op::TIMEOUT | op::TIMEOUT_REMOVE | op::ASYNC_CANCEL | op::LINK_TIMEOUT => {
            (false, false, false)
        }
        op::OPENAT | op::OPENAT2 | op::CLOSE | op::STATX | op::MADVISE | op::EPOLL_CTL | op::SOCKET => {
            (false, false, false)
        }
        op::FILES_UPDATE | op::PROVIDE_BUFFERS | op::REMOVE_BUFFERS => (false, false, false),
        op::RENAMEAT | op::UNLINKAT | op::MKDIRAT | op::SYMLINKAT | op::LINKAT => (false, false, false),
        op::SETXATTR | op::GETXATTR => (false, false, false),
        _ => return None,
    };
    let may_poll = matches!(
        opcode,
        op::NOP
            | op::READV
            | op::WRITEV
            | op::READ_FIXED
            | op::WRITE_FIXED
            | op::READ
            | op::WRITE
            | op::FILES_UPDATE
            | op::PROVIDE_BUFFERS
            | op::REMOVE_BUFFERS
            | op::MSG_RING
    );
    Some(Def { needs_file, selects, has_ioprio, may_poll })
}

fn none(fields: &[u64]) -> Result<(), Errno> {
    if fields.iter().all(|&f| f == 0) { Ok(()) } else { Err(EINVAL) }
}

/// Whether the request is about a path and not about a registered file.
fn no_fixed(e: &Sqe) -> Result<(), Errno> {
    if e.flags & sqe::FIXED_FILE != 0 { Err(EBADF) } else { Ok(()) }
}

/// Checks an entry and copies in what it names. `is_second`: the entry before it in its chain, if there is one.
///
/// # Errors
/// As the operation's preparation in Linux.
pub(super) fn prepare(cx: &Ctx<'_>, ring: &Ring, e: &Sqe, before: Option<u8>) -> Result<Data, Errno> {
    let (len, off, addr, flags) = (u64::from(e.len), e.off, e.addr, u64::from(e.op_flags));
    let (buf, extra) = (u64::from(e.buf_index), u64::from(e.file_index));
    let path = |addr: u64| cx.path(UserAddr(addr));
    match e.opcode {
        op::NOP => none(&[flags & !1])?,
        op::READV | op::WRITEV => {
            check_priority(e.ioprio)?;
            if e.flags & sqe::BUFFER_SELECT != 0 {
                let list = cx.mm.read_iovec(UserAddr(addr), len)?;
                return if list.len() == 1 { Ok(Data::Buffers(list)) } else { Err(EINVAL) };
            }
            return Ok(Data::Buffers(cx.mm.read_iovec(UserAddr(addr), len)?));
        }
        op::READ | op::WRITE => {
            check_priority(e.ioprio)?;
            if e.flags & sqe::BUFFER_SELECT == 0 {
                cx.mm.check_range(UserAddr(addr), len)?;
            }
            return Ok(Data::Buffers(vec![(UserAddr(addr), len)]));
        }
        op::READ_FIXED | op::WRITE_FIXED => {
            check_priority(e.ioprio)?;
            return Ok(Data::Buffers(vec![ring.fixed_buffer(e.buf_index, addr, len)?]));
        }
        op::FSYNC => none(&[addr, buf, extra, flags & !u64::from(FSYNC_DATASYNC)])?,
        op::SYNC_FILE_RANGE => none(&[addr, buf, extra])?,
        op::FALLOCATE => none(&[buf, flags, extra])?,
        op::FADVISE | op::MADVISE => none(&[buf, extra])?,
        op::STATX => {
            none(&[buf, extra])?;
            no_fixed(e)?;
            return Ok(Data::Path(path::path_or_empty(cx, UserAddr(addr), e.op_flags)?));
        }
        op::OPENAT => {
            none(&[buf])?;
            no_fixed(e)?;
            if e.file_index != 0 && e.op_flags & oflag::CLOEXEC != 0 {
                path(addr)?;
                return Err(EINVAL);
            }
            return Ok(Data::Path(path(addr)?));
        }
        op::OPENAT2 => {
            if len < 24 {
                return Err(EINVAL);
            }
            none(&[buf])?;
            no_fixed(e)?;
            let how = cx.read_open_how(UserAddr(off), len)?;
            if e.file_index != 0 && how.flags & oflag::CLOEXEC != 0 {
                return Err(EINVAL);
            }
            return Ok(Data::Open(path(addr)?, how));
        }
        op::CLOSE => {
            none(&[off, addr, len, flags, buf])?;
            no_fixed(e)?;
            none(&[if e.file_index != 0 { u64::from(e.fd.cast_unsigned()) } else { 0 }])?;
        }
        op::RENAMEAT | op::LINKAT => {
            none(&[buf, extra])?;
            no_fixed(e)?;
            return Ok(Data::Paths(
                if e.opcode == op::LINKAT {
                    path::path_or_empty(cx, UserAddr(addr), e.op_flags)?
                } else {
                    path(addr)?
                },
                path(off)?,
            ));
        }
        op::UNLINKAT => {
            none(&[off, len, buf, extra])?;
            no_fixed(e)?;
            none(&[flags & !0x200])?;
            return Ok(Data::Path(path(addr)?));
        }
        op::MKDIRAT => {
            none(&[off, flags, buf, extra])?;
            no_fixed(e)?;
            return Ok(Data::Path(path(addr)?));
        }
        op::SYMLINKAT => {
            none(&[len, flags, buf, extra])?;
            no_fixed(e)?;
            return Ok(Data::Paths(path(addr)?, path(off)?));
        }
        op::SHUTDOWN => none(&[off, addr, flags, buf, extra])?,
        op::SENDMSG | op::SEND | op::RECVMSG | op::RECV => return prepare_message(cx, e),
        op::SEND_ZC | op::SENDMSG_ZC => return prepare_lent(cx, ring, e),
        op::FSETXATTR | op::FGETXATTR | op::SETXATTR | op::GETXATTR => return prepare_attribute(cx, e),
        op::ACCEPT => {
            none(&[len, buf])?;
            none(&[u64::from(e.ioprio & !(ACCEPT_MULTISHOT | ACCEPT_DONTWAIT | ACCEPT_POLL_FIRST))])?;
            if e.file_index != 0
                && (e.op_flags & sock::CLOEXEC != 0
                    || e.ioprio & ACCEPT_MULTISHOT != 0 && e.file_index != u32::MAX)
            {
                return Err(EINVAL);
            }
            none(&[flags & !u64::from(sock::CLOEXEC | sock::NONBLOCK)])?;
        }
        op::CONNECT | op::BIND => {
            none(&[len, buf, flags, extra])?;
            let size = i32::try_from(off).map_err(|_| EINVAL)?;
            return Ok(Data::Address(cx.read_address(UserAddr(addr), size)?));
        }
        op::LISTEN => none(&[addr, buf, flags, extra, off])?,
        op::SOCKET => {
            none(&[addr, flags, buf])?;
            let kind = off as u32;
            let given = kind & !sock::TYPE_MASK;
            if e.file_index != 0 && given & sock::CLOEXEC != 0
                || given & !(sock::CLOEXEC | sock::NONBLOCK) != 0
            {
                return Err(EINVAL);
            }
        }
        op::EPOLL_CTL => {
            const DEL: u32 = 2;
            none(&[buf, extra])?;
            if e.len != DEL {
                return Ok(Data::Event(cx.mm.read_value(UserAddr(addr))?));
            }
            return Ok(Data::Event([0; 3]));
        }
        op::SPLICE => none(&[flags & !u64::from(SPLICE_IN_FIXED | SPLICE_ALL)])?,
        op::TEE => none(&[addr, off, flags & !u64::from(SPLICE_IN_FIXED | SPLICE_ALL)])?,
        op::PROVIDE_BUFFERS => {
            none(&[flags, extra])?;
            let count = u64::try_from(e.fd).map_err(|_| E2BIG)?;
            if count == 0 || count > MAX_BUFFERS {
                return Err(E2BIG);
            }
            let size = len.checked_mul(count).ok_or(EOVERFLOW)?;
            addr.checked_add(size).ok_or(EOVERFLOW)?;
            cx.mm.check_range(UserAddr(addr), size).map_err(|_| EFAULT)?;
            if off >= MAX_BUFFERS {
                return Err(E2BIG);
            }
            if off + count > MAX_BUFFERS {
                return Err(EINVAL);
            }
        }
        op::REMOVE_BUFFERS => {
            none(&[flags, addr, len, off, extra])?;
            if u64::try_from(e.fd).map_or(true, |n| n == 0 || n > MAX_BUFFERS) {
                return Err(EINVAL);
            }
        }
        op::POLL_ADD => {
            none(&[buf, off, addr, len & !u64::from(POLL_MULTI)])?;
            if e.len & POLL_MULTI != 0 && e.flags & sqe::CQE_SKIP_SUCCESS != 0 {
                return Err(EINVAL);
            }
        }
        op::POLL_REMOVE => {
            none(&[buf, extra, len & !u64::from(POLL_MULTI | POLL_EVENTS | POLL_USER_DATA)])?;
            if e.len == POLL_MULTI
                || e.len & POLL_USER_DATA == 0 && off != 0
                || e.len & POLL_EVENTS == 0 && flags != 0
            {
                return Err(EINVAL);
            }
        }
        op::TIMEOUT | op::LINK_TIMEOUT => return prepare_timeout(cx, e, before),
        op::TIMEOUT_REMOVE => return prepare_timeout_change(cx, e),
        op::ASYNC_CANCEL => {
            const ALL: u32 =
                CANCEL_ALL | CANCEL_FD | CANCEL_ANY | CANCEL_FD_FIXED | CANCEL_USERDATA | CANCEL_OP;
            none(&[u64::from(e.flags & sqe::BUFFER_SELECT), off, extra, flags & !u64::from(ALL)])?;
            if e.op_flags & (CANCEL_FD | CANCEL_OP) != 0 && e.op_flags & CANCEL_ANY != 0 {
                return Err(EINVAL);
            }
        }
        op::MSG_RING => none(&[buf, u64::from(e.personality), flags & !3])?,
        op::FILES_UPDATE => {
            none(&[u64::from(e.flags & (sqe::FIXED_FILE | sqe::BUFFER_SELECT)), flags, extra])?;
            if len == 0 {
                return Err(EINVAL);
            }
        }
        op::FIXED_FD_INSTALL => {
            none(&[off, addr, len, buf, extra, e.addr3])?;
            if e.flags & sqe::FIXED_FILE == 0 {
                return Err(EBADF);
            }
            none(&[flags & !1])?;
            if e.personality != 0 {
                return Err(EPERM);
            }
        }
        op::FTRUNCATE => none(&[flags, addr, len, buf, extra, e.addr3])?,
        _ => return Err(EINVAL),
    }
    Ok(Data::None)
}

/// Source: Linux 6.12 block/ioprio.c, `ioprio_check_cap`, as far as it says what exists.
fn check_priority(priority: u16) -> Result<(), Errno> {
    match priority >> 13 {
        0 if priority & 7 == 0 => Ok(()),
        1..=3 => Ok(()),
        _ => Err(EINVAL),
    }
}

fn prepare_message(cx: &Ctx<'_>, e: &Sqe) -> Result<Data, Errno> {
    let receives = matches!(e.opcode, op::RECVMSG | op::RECV);
    let known = if receives { POLL_FIRST | RECV_MULTISHOT } else { POLL_FIRST };
    if e.opcode != op::SEND && (e.off != 0 || e.file_index != 0)
        || e.opcode == op::SEND && e.file_index >> 16 != 0
        || e.ioprio & !known != 0
    {
        return Err(EINVAL);
    }
    message_data(cx, e)
}

/// `SEND_ZC`, `SENDMSG_ZC`: the program lends its memory until it is told that it was used.
///
/// Source: Linux 6.12 io_uring/net.c, `io_send_zc_prep`.
fn prepare_lent(cx: &Ctx<'_>, ring: &Ring, e: &Sqe) -> Result<Data, Errno> {
    let is_fixed = e.ioprio & FIXED_BUF != 0;
    let is_message = e.opcode == op::SENDMSG_ZC;
    if e.pad2 != 0
        || e.addr3 != 0
        || e.flags & sqe::CQE_SKIP_SUCCESS != 0
        || e.ioprio & !(POLL_FIRST | FIXED_BUF | REPORT_USAGE) != 0
        || is_message && (e.off != 0 || e.file_index != 0 || is_fixed)
        || !is_message && e.file_index >> 16 != 0
    {
        return Err(EINVAL);
    }
    let mut data = message_data(cx, e)?;
    if is_fixed && let Data::Buffers(list) | Data::Message(_, list, _) = &mut data {
        *list = vec![ring.fixed_buffer(e.buf_index, e.addr, e.len.into())?];
    }
    Ok(data)
}

/// What a message's entry names.
fn message_data(cx: &Ctx<'_>, e: &Sqe) -> Result<Data, Errno> {
    let receives = matches!(e.opcode, op::RECVMSG | op::RECV);
    if e.ioprio & RECV_MULTISHOT != 0 {
        let selects = e.flags & sqe::BUFFER_SELECT != 0;
        if !selects || e.op_flags & msg::WAITALL != 0 || e.opcode == op::RECV && e.len != 0 {
            return Err(EINVAL);
        }
    }
    let at = UserAddr(e.addr);
    match e.opcode {
        op::SENDMSG | op::RECVMSG | op::SENDMSG_ZC => {
            let (mut header, list) = cx.read_header(at)?;
            if receives && e.ioprio & RECV_MULTISHOT != 0 {
                // Room for a name is asked for without a place: it goes into the chosen buffer.
                let len: i32 = cx.mm.read_value(at.saturating_add(8))?;
                header.name_len = if len < 0 { return Err(EINVAL) } else { len };
            }
            let mut to = Vec::new();
            if !receives && header.name_len > 0 {
                to = cx.read_address(UserAddr(header.name), header.name_len)?;
            }
            if e.flags & sqe::BUFFER_SELECT != 0 && list.len() > 1 {
                return Err(EINVAL);
            }
            Ok(Data::Message(Box::new(header), list, to))
        }
        op::SEND | op::SEND_ZC if e.off != 0 => {
            let size = i32::from((e.file_index as u16).cast_signed());
            let to = cx.read_address(UserAddr(e.off), size)?;
            let header = Box::default();
            cx.mm.check_range(at, e.len.into())?;
            Ok(Data::Message(header, vec![(at, e.len.into())], to))
        }
        _ => {
            if e.flags & sqe::BUFFER_SELECT == 0 {
                cx.mm.check_range(at, e.len.into())?;
            }
            Ok(Data::Buffers(vec![(at, e.len.into())]))
        }
    }
}

/// Source: Linux 6.12 io_uring/xattr.c.
fn prepare_attribute(cx: &Ctx<'_>, e: &Sqe) -> Result<Data, Errno> {
    let by_path = matches!(e.opcode, op::SETXATTR | op::GETXATTR);
    if by_path {
        no_fixed(e)?;
    }
    let (name, value) = (UserAddr(e.addr), UserAddr(e.off));
    let setting = match e.opcode {
        op::SETXATTR | op::FSETXATTR => cx.xattr_setting(name, value, e.len.into(), e.op_flags)?,
        _ => {
            none(&[e.op_flags.into()])?;
            cx.xattr_question(name)?
        }
    };
    let path = if by_path { cx.path(UserAddr(e.addr3))? } else { Vec::new() };
    Ok(Data::Attribute(Box::new(setting), path))
}

/// The clock that the flags name.
fn clock(flags: u32) -> Result<AlarmClock, Errno> {
    match flags & (TIMEOUT_BOOTTIME | TIMEOUT_REALTIME) {
        0 => Ok(AlarmClock::Monotonic),
        TIMEOUT_BOOTTIME => Ok(AlarmClock::Boottime),
        TIMEOUT_REALTIME => Ok(AlarmClock::Realtime),
        _ => Err(EINVAL),
    }
}

/// A `struct timespec` with a time that is not negative, in ns.
pub(super) fn read_time(cx: &Ctx<'_>, addr: UserAddr) -> Result<i64, Errno> {
    let [sec, nsec]: [i64; 2] = cx.mm.read_value(addr)?;
    if sec < 0 || nsec < 0 {
        return Err(EINVAL);
    }
    Ok(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
}

fn deadline(cx: &Ctx<'_>, flags: u32, time: i64) -> Result<Deadline, Errno> {
    let clock = clock(flags)?;
    let at =
        if flags & TIMEOUT_ABS != 0 { time } else { cx.task.kernel.alarms.now(clock).saturating_add(time) };
    Ok(Deadline { clock, at, interval: 0, left: 0 })
}

/// Source: Linux 6.12 io_uring/timeout.c, `__io_timeout_prep`.
fn prepare_timeout(cx: &Ctx<'_>, e: &Sqe, before: Option<u8>) -> Result<Data, Errno> {
    const KNOWN: u32 =
        TIMEOUT_ABS | TIMEOUT_BOOTTIME | TIMEOUT_REALTIME | TIMEOUT_ETIME_SUCCESS | TIMEOUT_MULTISHOT;
    let is_link = e.opcode == op::LINK_TIMEOUT;
    let count = e.off as u32;
    none(&[e.buf_index.into(), u64::from(e.len != 1), e.file_index.into()])?;
    if count != 0 && is_link {
        return Err(EINVAL);
    }
    let flags = e.op_flags;
    if flags & !KNOWN != 0 {
        return Err(EINVAL);
    }
    clock(flags)?;
    if flags & TIMEOUT_MULTISHOT != 0 && flags & TIMEOUT_ABS != 0 {
        return Err(EINVAL);
    }
    let time = read_time(cx, UserAddr(e.addr))?;
    if is_link && before.is_none_or(|b| b == op::LINK_TIMEOUT) {
        return Err(EINVAL);
    }
    let mut deadline = deadline(cx, flags, time)?;
    if flags & TIMEOUT_MULTISHOT != 0 && !is_link {
        deadline.interval = time.max(1);
        deadline.left = count;
    }
    Ok(Data::Deadline(deadline))
}

/// Source: Linux 6.12 io_uring/timeout.c, `io_timeout_remove_prep`.
fn prepare_timeout_change(cx: &Ctx<'_>, e: &Sqe) -> Result<Data, Errno> {
    none(&[u64::from(e.flags & (sqe::FIXED_FILE | sqe::BUFFER_SELECT))])?;
    none(&[e.buf_index.into(), e.len.into(), e.file_index.into()])?;
    let updates = TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE;
    if e.op_flags & updates == 0 {
        none(&[e.op_flags.into()])?;
        return Ok(Data::None);
    }
    clock(e.op_flags)?;
    let known = updates | TIMEOUT_ABS | TIMEOUT_BOOTTIME | TIMEOUT_REALTIME;
    if e.op_flags & !known != 0 {
        return Err(EINVAL);
    }
    let time = read_time(cx, UserAddr(e.off))?;
    Ok(Data::Deadline(deadline(cx, e.op_flags, time)?))
}
