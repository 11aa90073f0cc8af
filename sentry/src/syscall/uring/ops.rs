//! The operations: what each request does. Nothing here sleeps unless its [`Mode`] allows that; what would sleep says what
//! for.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EINVAL, EOPNOTSUPP};
use abi::io_uring::{op, setup, sqe};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::file::{FileDescription, oflag};

use super::prep::{POLL_MULTI, SPLICE_IN_FIXED, TIMEOUT_ETIME_SUCCESS};
use super::request::{Data, Request};
use super::ring::Ring;
use super::run::Mode;
use super::{control, net, prep};
use crate::syscall::splice::{self, Offset};
use crate::syscall::{Stop, SysResult, path, poll, range, sock};
use crate::task::Ctx;

/// `RWF_*` of preadv2(2).
const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 16;
const RWF_NOAPPEND: u32 = 32;

/// What carrying a request out has led to.
pub(super) enum Outcome {
    /// It has ended: the result, and flags of the answer.
    Done(i32, u32),
    /// Again when this file is ready for this.
    WaitFor(Arc<FileDescription>, Events),
    /// It ends at a time, after a count, or when it is cancelled.
    Wait,
    /// Again on a thread that may sleep.
    Sleep,
}

impl From<u64> for Outcome {
    fn from(value: u64) -> Self {
        Self::Done(value as i32, 0)
    }
}

/// Whether the request asks not to wait for its file.
pub(super) fn is_impatient(req: &Request) -> bool {
    match req.sqe.opcode {
        op::READV | op::READ | op::READ_FIXED | op::WRITEV | op::WRITE | op::WRITE_FIXED => {
            req.sqe.op_flags & RWF_NOWAIT != 0
        }
        op::SEND | op::SENDMSG | op::SEND_ZC | op::SENDMSG_ZC | op::RECV | op::RECVMSG => {
            req.sqe.op_flags & abi::socket::msg::DONTWAIT != 0
        }
        op::ACCEPT => req.sqe.ioprio & prep::ACCEPT_DONTWAIT != 0,
        _ => false,
    }
}

/// Whether it receives from a socket.
pub(super) fn receives(req: &Request) -> bool {
    matches!(req.sqe.opcode, op::RECV | op::RECVMSG)
}

/// Whether a result breaks a chain.
pub(super) fn has_failed(req: &Request, res: i32) -> bool {
    // Linux 6.12 io_uring/timeout.c, `io_req_task_link_timeout`, `io_disarm_linked_timeout`: however it ends, that is not a
    // failure of a linked timeout.
    if req.sqe.opcode == op::LINK_TIMEOUT && req.refused.is_none() {
        return false;
    }
    if res < 0 {
        let is_time = res == -abi::errno::ETIME.raw();
        return !(is_time && req.is_timeout() && req.sqe.op_flags & TIMEOUT_ETIME_SUCCESS != 0);
    }
    match req.sqe.opcode {
        op::READV | op::READ | op::READ_FIXED | op::WRITEV | op::WRITE | op::WRITE_FIXED => {
            let wanted: u64 = req.buffers().iter().map(|b| b.1).sum();
            !req.has(sqe::BUFFER_SELECT) && res as u64 != wanted
        }
        op::SEND | op::SENDMSG | op::SEND_ZC | op::SENDMSG_ZC | op::RECV | op::RECVMSG => {
            let waits = req.sqe.op_flags & abi::socket::msg::WAITALL != 0;
            waits && (res as u64) < req.buffers().iter().map(|b| b.1).sum()
        }
        _ => false,
    }
}

/// Carries out `req`. `has_waited`: not the first time.
///
/// # Errors
/// The request's result; `EAGAIN` with what `cx.waiting` says then.
pub(super) fn perform(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: &mut Request,
    has_waited: bool,
    mode: Mode,
) -> Result<Outcome, Stop> {
    let e = req.sqe;
    if prep::def(e.opcode).is_some_and(|d| d.needs_file) && req.file.is_none() {
        let file = if req.has(sqe::FIXED_FILE) { ring.fixed_file(e.fd)? } else { cx.open_file(e.fd)? };
        req.file = Some(file);
    }
    let file = req.file.clone();
    let file = || file.as_ref().ok_or(EBADF);
    let done = match e.opcode {
        op::NOP => u64::from(if e.op_flags & 1 != 0 { e.len } else { 0 }),
        op::READV | op::READ | op::READ_FIXED => return read(cx, ring, req, file()?),
        op::WRITEV | op::WRITE | op::WRITE_FIXED => return write(cx, ring, req, file()?),
        op::FSYNC => {
            file()?.ops.sync()?;
            0
        }
        op::SYNC_FILE_RANGE => range::sync_range(file()?, e.off.cast_signed(), i64::from(e.len), e.op_flags)?,
        // By a thread of the kernel's, as in Linux: a file that would get too large is no signal then.
        op::FALLOCATE | op::FTRUNCATE if mode == Mode::MustNotSleep => return Ok(Outcome::Sleep),
        op::FALLOCATE => range::allocate(cx, file()?, e.len, e.off.cast_signed(), e.addr.cast_signed())?,
        op::FADVISE => {
            let len = if e.addr != 0 { e.addr } else { e.len.into() };
            range::advise(file()?, len.cast_signed(), e.op_flags)?
        }
        op::MADVISE => {
            let len = if e.off != 0 { e.off } else { e.len.into() };
            cx.mm.advise(e.addr, len, e.op_flags.into())?;
            0
        }
        op::FTRUNCATE => truncate(cx, file()?, e.off)?,
        op::POLL_ADD => return poll_add(ring, req, file()?, has_waited),
        op::TIMEOUT => return Ok(Outcome::Wait),
        op::POLL_REMOVE => return control::poll_remove(ring, &e),
        op::TIMEOUT_REMOVE => control::timeout_remove(ring, req)?,
        op::ASYNC_CANCEL => control::cancel(cx, ring, req)?,
        op::MSG_RING => control::message(cx, ring, req, file()?)?,
        op::FILES_UPDATE => super::register::update_files_op(cx, ring, &e)?,
        op::FIXED_FD_INSTALL => cx.install(file()?.clone(), e.op_flags & 1 == 0)? as u64,
        op::PROVIDE_BUFFERS => {
            ring.provide(e.buf_index, e.off as u16, e.fd.cast_unsigned(), e.addr, e.len)?;
            0
        }
        op::REMOVE_BUFFERS => ring.withdraw(e.buf_index, e.fd.cast_unsigned())? as u64,
        op::ACCEPT => return net::accept(cx, ring, req, file()?, has_waited),
        op::CONNECT => return net::connect(cx, req, file()?),
        op::SEND | op::SENDMSG | op::SEND_ZC | op::SENDMSG_ZC => {
            return net::send(cx, req, file()?, has_waited);
        }
        op::RECV | op::RECVMSG => return net::receive(cx, ring, req, file()?, has_waited),
        op::SOCKET | op::BIND | op::LISTEN | op::SHUTDOWN => net::simple(cx, ring, req)?,
        op::SPLICE | op::TEE => {
            if mode == Mode::MustNotSleep {
                return Ok(Outcome::Sleep);
            }
            move_bytes(cx, ring, req, file()?)?
        }
        op::EPOLL_CTL => {
            let Data::Event(event) = req.data else { return Err(EINVAL.into()) };
            poll::control_epoll(cx, e.fd, e.len, e.off as i32, event)?
        }
        op::FSETXATTR | op::FGETXATTR | op::SETXATTR | op::GETXATTR => attribute(cx, req)?,
        _ => by_path(cx, ring, req, mode)?,
    };
    Ok(done.into())
}

/// Extended attributes.
fn attribute(cx: &Ctx<'_>, req: &Request) -> SysResult {
    let e = req.sqe;
    let Data::Attribute(setting, path) = &req.data else { return Err(EINVAL.into()) };
    let place = match &req.file {
        Some(file) => cx.walk().place_of(file),
        None => cx.walk().resolve(path, true)?,
    };
    match e.opcode {
        op::SETXATTR | op::FSETXATTR => cx.set_xattr(&place, setting),
        _ => cx.answer_xattr(&place, setting, UserAddr(e.off), e.len.into()),
    }
}

/// Operations on names, and `close`.
fn by_path(cx: &mut Ctx<'_>, ring: &Arc<Ring>, req: &Request, mode: Mode) -> SysResult {
    let e = req.sqe;
    // Linux 6.12 io_uring/openclose.c, `io_openat2`: the submitting thread does not wait for a FIFO's other side.
    let makes = oflag::CREAT | oflag::TRUNC | (oflag::TMPFILE & !oflag::DIRECTORY);
    let hurries = |flags: u32| mode == Mode::MustNotSleep && flags & makes == 0 && !req.has(sqe::ASYNC);
    let extra = |flags: u32| if hurries(flags) { oflag::NONBLOCK } else { 0 };
    let calm = |file: &FileDescription, flags: u32| {
        if flags & oflag::NONBLOCK == 0 {
            file.set_flags(file.flags() & !oflag::NONBLOCK);
        }
    };
    match (e.opcode, &req.data) {
        (op::OPENAT, Data::Path(path)) => {
            if e.file_index == 0 {
                cx.check_room()?;
            }
            let file = cx.open_at(e.fd, path, e.op_flags | extra(e.op_flags), e.len)?;
            calm(&file, e.op_flags);
            place_file(cx, ring, file, e.op_flags & oflag::CLOEXEC != 0, e.file_index)
        }
        (op::OPENAT2, Data::Open(path, how)) => {
            let mut hurried = *how;
            hurried.flags |= extra(how.flags);
            let file = cx.open_how(e.fd, path, hurried)?;
            calm(&file, how.flags);
            place_file(cx, ring, file, how.flags & oflag::CLOEXEC != 0, e.file_index)
        }
        (op::CLOSE, _) if e.file_index != 0 => {
            ring.remove_fixed(e.file_index - 1)?;
            Ok(0)
        }
        (op::CLOSE, _) => {
            let named = cx.open_file(e.fd)?;
            if super::ring_of(&named).is_some() {
                return Err(EBADF.into());
            }
            let closed = cx.files.remove(e.fd)?;
            cx.files.finish_close(closed);
            Ok(0)
        }
        (op::STATX, Data::Path(path)) => {
            path::check_statx(e.op_flags, e.len)?;
            path::statx_at(cx, e.fd, path, e.op_flags, e.len, UserAddr(e.off))
        }
        (op::RENAMEAT, Data::Paths(old, new)) => {
            let to = cx.walk_at(e.len.cast_signed(), new)?;
            cx.walk_at(e.fd, old)?.rename(old, &to, new, e.op_flags)?;
            Ok(0)
        }
        (op::UNLINKAT, Data::Path(path)) => {
            let walk = cx.walk_at(e.fd, path)?;
            if e.op_flags != 0 {
                walk.rmdir(path)?
            } else {
                walk.unlink(path)?
            }
            Ok(0)
        }
        (op::MKDIRAT, Data::Path(path)) => {
            cx.walk_at(e.fd, path)?.mkdir(path, e.len)?;
            Ok(0)
        }
        (op::SYMLINKAT, Data::Paths(target, path)) => {
            cx.walk_at(e.fd, path)?.symlink(target, path)?;
            Ok(0)
        }
        (op::LINKAT, Data::Paths(old, new)) => {
            /// `AT_SYMLINK_FOLLOW | AT_EMPTY_PATH`.
            const KNOWN: u32 = 0x1400;
            if e.op_flags & !KNOWN != 0 {
                return Err(EINVAL.into());
            }
            path::link_at(cx, (e.fd, old), (e.len.cast_signed(), Ok(new)), e.op_flags)
        }
        _ => Err(EINVAL.into()),
    }
}

/// Gives a new file a descriptor, or with `slot` a place among the registered files.
pub(super) fn place_file(
    cx: &Ctx<'_>,
    ring: &Ring,
    file: Arc<FileDescription>,
    cloexec: bool,
    slot: u32,
) -> SysResult {
    if slot == 0 {
        return Ok(cx.install(file, cloexec)? as u64);
    }
    Ok(ring.install_fixed(file, slot)? as u64)
}

/// The flags of a read or write.
///
/// Source: Linux 6.12 io_uring/rw.c, `io_rw_init_file`.
fn check_flags(ring: &Ring, flags: u32, known: u32) -> Result<(), Errno> {
    // No file here can be polled for completions, and only rings that do may ask for that.
    if flags & !known != 0 || ring.has(setup::IOPOLL) {
        return Err(EOPNOTSUPP);
    }
    if flags & RWF_HIPRI != 0 { Err(EINVAL) } else { Ok(()) }
}

/// The offset of a read or write; `None` is the file's position.
fn offset_of(req: &Request, file: &FileDescription) -> Result<Option<u64>, Errno> {
    if req.sqe.off == u64::MAX || !file.ops.is_seekable() {
        return Ok(None);
    }
    let len: u64 = req.buffers().iter().map(|b| b.1).fold(0, u64::saturating_add);
    if req.sqe.off.cast_signed() < 0 {
        return Err(EINVAL);
    }
    crate::syscall::file::check_end(req.sqe.off, len.min(crate::mm::MAX_RW_COUNT))?;
    Ok(Some(req.sqe.off))
}

fn read(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: &mut Request,
    file: &Arc<FileDescription>,
) -> Result<Outcome, Stop> {
    let flags = req.sqe.op_flags;
    if !file.is_readable() {
        return Err(EBADF.into());
    }
    check_flags(ring, flags, RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND)?;
    let offset = offset_of(req, file)?;
    let chosen;
    let list: &[(UserAddr, u64)] = if req.has(sqe::BUFFER_SELECT) {
        let most = req.buffers().first().map_or(0, |b| b.1);
        let buffer = ring.select(&cx.mm, req.sqe.buf_index, most)?;
        req.selected = Some(buffer);
        chosen = [(UserAddr(buffer.addr), buffer.len)];
        &chosen
    } else {
        req.buffers()
    };
    let n = match offset {
        Some(offset) => {
            let mm = cx.mm.clone();
            let mut sink = mm.sink_list(list)?;
            file.read_at(offset, &mut sink)? as u64
        }
        None => cx.read_into(file, list)?,
    };
    Ok(n.into())
}

fn write(cx: &mut Ctx<'_>, ring: &Ring, req: &Request, file: &Arc<FileDescription>) -> Result<Outcome, Stop> {
    let flags = req.sqe.op_flags;
    if !file.is_writable() {
        return Err(EBADF.into());
    }
    let known = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND;
    check_flags(ring, flags, known)?;
    if flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        return Err(EINVAL.into());
    }
    let offset = offset_of(req, file)?;
    let appends = file.flags() & oflag::APPEND != 0 && flags & RWF_NOAPPEND == 0 || flags & RWF_APPEND != 0;
    let n = match offset {
        Some(offset) => {
            let mm = cx.mm.clone();
            let mut source = mm.source_list(req.buffers())?;
            cx.limit_write(file, Some(offset), &mut source)?;
            let n = if appends {
                file.ops.append(&mut source)?.0
            } else {
                file.ops.write_at(offset, &mut source)?
            };
            file.tell(fs::notify::event::MODIFY);
            n as u64
        }
        None if appends != (file.flags() & oflag::APPEND != 0) && file.ops.is_seekable() => {
            let mm = cx.mm.clone();
            let mut source = mm.source_list(req.buffers())?;
            let n = range::write_flagged(cx, file, &mut source, None, flags)?;
            file.tell(fs::notify::event::MODIFY);
            n
        }
        None => cx.write_from(file, req.buffers())?,
    };
    if flags & (RWF_DSYNC | RWF_SYNC) != 0 {
        let _ = file.ops.sync();
    }
    Ok(n.into())
}

fn truncate(cx: &Ctx<'_>, file: &Arc<FileDescription>, size: u64) -> SysResult {
    if size.cast_signed() < 0 || !file.is_writable() {
        return Err(EINVAL.into());
    }
    crate::syscall::file::check_truncate(file)?;
    cx.check_size(file, size)?;
    cx.before_write(file, 1)?;
    file.ops.truncate(size)?;
    file.tell(fs::notify::event::MODIFY);
    Ok(0)
}

fn poll_add(
    ring: &Ring,
    req: &Request,
    file: &Arc<FileDescription>,
    has_waited: bool,
) -> Result<Outcome, Stop> {
    let mask = req.poll_mask();
    let found = file.ops.ready() & mask;
    let is_multi = req.sqe.len & POLL_MULTI != 0;
    if found.is_empty() {
        return Ok(Outcome::WaitFor(file.clone(), mask));
    }
    let result = found.bits().cast_signed();
    if !is_multi || !ring.answer_more(req, result, 0) {
        return Ok(Outcome::Done(result, 0));
    }
    let _ = has_waited;
    Ok(Outcome::WaitFor(file.clone(), mask))
}

fn move_bytes(cx: &mut Ctx<'_>, ring: &Arc<Ring>, req: &Request, output: &Arc<FileDescription>) -> SysResult {
    let e = req.sqe;
    let fd = e.file_index.cast_signed();
    let input = if e.op_flags & SPLICE_IN_FIXED != 0 { ring.fixed_file(fd)? } else { cx.open_file(fd)? };
    let flags = e.op_flags & !SPLICE_IN_FIXED;
    if e.len == 0 {
        return Ok(0);
    }
    if e.opcode == op::TEE {
        return splice::tee(cx, &input, output, e.len.into(), flags);
    }
    let offset = |at: u64| if at == u64::MAX { Offset::Own } else { Offset::Value(at.cast_signed()) };
    splice::splice(cx, (&input, offset(e.addr)), (output, offset(e.off)), e.len.into(), flags)
}

/// `EAGAIN` while there is nothing: for those who ask what a socket would say.
pub(super) fn would_wait(stop: &Stop) -> bool {
    *stop == Stop::Fail(EAGAIN)
}

/// Makes the socket that a request asks for.
pub(super) fn new_socket(cx: &Ctx<'_>, ring: &Ring, req: &Request) -> SysResult {
    let e = req.sqe;
    let (kind, flags) = sock::split_type(e.off as u32)?;
    let socket = sock::create(cx, e.fd, kind, e.len.cast_signed())?;
    let file = ::net::SocketFile::describe(socket, flags & abi::socket::sock::NONBLOCK);
    place_file(cx, ring, file, flags & abi::socket::sock::CLOEXEC != 0, e.file_index)
}
