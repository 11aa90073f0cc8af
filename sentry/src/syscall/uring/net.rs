//! Operations on sockets.
//!
//! Source: Linux 6.12 io_uring/net.c.

use std::sync::Arc;

use abi::UserAddr;
use abi::errno::{EAGAIN, EALREADY, EINPROGRESS, EINVAL, EISCONN, ENOBUFS, ENOTSOCK, EOPNOTSUPP, EPIPE};
use abi::io_uring::{cqe, op, sqe};
use abi::socket::{ipproto, msg, sock};
use base::io::{Sink, Source};
use base::landlock::port;
use base::wait::Events;
use fs::file::FileDescription;
use net::SocketFile;
use net::socket::Socket;

use super::ops::{self, Outcome};
use super::prep::{ACCEPT_MULTISHOT, ACCEPT_POLL_FIRST, POLL_FIRST, RECV_MULTISHOT, REPORT_USAGE};
use super::request::{Data, Request};
use super::ring::Ring;
use crate::syscall::sockmsg::Envelope;
use crate::syscall::{Stop, SysResult};
use crate::task::Ctx;

/// Connections, or messages, that one go takes.
const AT_ONCE: usize = 32;

fn socket_of(file: &FileDescription) -> Result<Arc<dyn Socket>, Stop> {
    SocketFile::of(file).cloned().ok_or(Stop::Fail(ENOTSOCK))
}

/// `SOCKET`, `BIND`, `LISTEN`, `SHUTDOWN`.
pub(super) fn simple(cx: &mut Ctx<'_>, ring: &Ring, req: &Request) -> SysResult {
    let e = req.sqe;
    if e.opcode == op::SOCKET {
        return ops::new_socket(cx, ring, req);
    }
    let socket = socket_of(req.file.as_ref().ok_or(ENOTSOCK)?)?;
    match (e.opcode, &req.data) {
        (op::BIND, Data::Address(address)) => {
            cx.landlock_port(&*socket, address, port::BIND_TCP)?;
            socket.bind(&cx.caller(address), address)?;
        }
        (op::LISTEN, _) => {
            let most = cx.task.net().sysctl.somaxconn[0].size();
            socket.listen(&cx.caller(&[]), (e.len as usize).min(most))?;
        }
        (op::SHUTDOWN, _) if e.len <= abi::socket::shut::RDWR => socket.shutdown(e.len)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

/// `ACCEPT`.
pub(super) fn accept(
    cx: &mut Ctx<'_>,
    ring: &Ring,
    req: &mut Request,
    file: &Arc<FileDescription>,
    has_waited: bool,
) -> Result<Outcome, Stop> {
    let e = req.sqe;
    if e.ioprio & ACCEPT_POLL_FIRST != 0 && !has_waited {
        return Ok(Outcome::WaitFor(file.clone(), Events::READABLE));
    }
    let socket = socket_of(file)?;
    for _ in 0..AT_ONCE {
        let accepted = match socket.accept() {
            Err(EAGAIN) if !ops::is_impatient(req) => {
                return Ok(Outcome::WaitFor(file.clone(), Events::READABLE));
            }
            other => other?,
        };
        let name = accepted.peer_name().unwrap_or_default();
        let new = SocketFile::describe(accepted, e.op_flags & sock::NONBLOCK);
        let fd = ops::place_file(cx, ring, new, e.op_flags & sock::CLOEXEC != 0, e.file_index)?;
        if e.addr != 0 {
            cx.write_address(&name, UserAddr(e.addr), UserAddr(e.off))?;
        }
        if e.ioprio & ACCEPT_MULTISHOT == 0 || !ring.answer_more(req, fd as i32, 0) {
            return Ok(fd.into());
        }
    }
    Ok(Outcome::WaitFor(file.clone(), Events::READABLE))
}

/// `CONNECT`.
pub(super) fn connect(
    cx: &mut Ctx<'_>,
    req: &mut Request,
    file: &Arc<FileDescription>,
) -> Result<Outcome, Stop> {
    let socket = socket_of(file)?;
    let Data::Address(address) = &req.data else { return Err(EINVAL.into()) };
    if !req.has_begun {
        cx.landlock_port(&*socket, address, port::CONNECT_TCP)?;
        match socket.connect(&cx.caller(address), address) {
            Err(EINPROGRESS) => req.has_begun = true,
            Err(EAGAIN) => {}
            other => {
                other?;
                return Ok(Outcome::Done(0, 0));
            }
        }
        return Ok(Outcome::WaitFor(file.clone(), Events::WRITABLE));
    }
    match socket.connected() {
        Err(EAGAIN | EALREADY | EINPROGRESS) => Ok(Outcome::WaitFor(file.clone(), Events::WRITABLE)),
        Err(EISCONN) | Ok(()) => Ok(Outcome::Done(0, 0)),
        Err(e) => Err(e.into()),
    }
}

/// Whether its memory is to be lent.
fn is_lent(req: &Request) -> bool {
    matches!(req.sqe.opcode, op::SEND_ZC | op::SENDMSG_ZC)
}

/// Whether a second answer says when a loan ends, which is at once, since the memory is copied. It is announced before the
/// rest of the entry is looked at: most that are refused have it, too.
pub(super) fn has_loan(req: &Request) -> bool {
    let e = &req.sqe;
    let has_begun = e.pad2 == 0 && e.addr3 == 0 && !req.has(sqe::CQE_SKIP_SUCCESS);
    is_lent(req) && has_begun
}

/// The second answer's result (`IORING_NOTIF_USAGE_ZC_COPIED`).
pub(super) fn end_of_loan(req: &Request) -> i32 {
    if req.sqe.ioprio & REPORT_USAGE != 0 { i32::MIN } else { 0 }
}

/// `SEND`, `SENDMSG`, `SEND_ZC`, `SENDMSG_ZC`.
pub(super) fn send(
    cx: &mut Ctx<'_>,
    req: &mut Request,
    file: &Arc<FileDescription>,
    has_waited: bool,
) -> Result<Outcome, Stop> {
    let socket = socket_of(file)?;
    if is_lent(req) && !::net::options::has_error_queue(socket.common()) {
        return Err(EOPNOTSUPP.into());
    }
    if req.sqe.ioprio & POLL_FIRST != 0 && !has_waited {
        return Ok(Outcome::WaitFor(file.clone(), Events::WRITABLE));
    }
    let all = req.sqe.op_flags & msg::WAITALL != 0 && socket.common().is_stream();
    let flags = req.sqe.op_flags | msg::NOSIGNAL;
    loop {
        let mm = cx.mm.clone();
        let rest = behind(req.buffers(), req.done);
        let mut source = mm.source_list(&rest)?;
        let wanted = source.remaining() as u64;
        let mut envelope = Envelope::plain(flags);
        if let Data::Message(header, _, to) = &req.data {
            envelope.to.clone_from(to);
            if req.done == 0 {
                cx.read_controls(header, socket.common().domain(), &mut envelope)?;
            }
        }
        match cx.send(file, &socket, &mut source, envelope) {
            Ok(n) => {
                req.done += n;
                if !all || n == 0 || n >= wanted {
                    return Ok(req.done.into());
                }
            }
            Err(stop) if ops::would_wait(&stop) || req.done == 0 => return Err(stop),
            Err(Stop::Fail(EPIPE)) | Err(_) => return Ok(req.done.into()),
        }
    }
}

/// The buffers without their first `done` bytes.
fn behind(list: &[(UserAddr, u64)], done: u64) -> Vec<(UserAddr, u64)> {
    let mut skip = done;
    let mut rest = Vec::with_capacity(list.len());
    for &(addr, len) in list {
        let n = skip.min(len);
        skip -= n;
        if len > n || list.len() == 1 {
            rest.push((addr.saturating_add(n), len - n));
        }
    }
    rest
}

/// `RECV` and `RECVMSG`.
pub(super) fn receive(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: &mut Request,
    file: &Arc<FileDescription>,
    has_waited: bool,
) -> Result<Outcome, Stop> {
    let socket = socket_of(file)?;
    if req.sqe.ioprio & POLL_FIRST != 0 && !has_waited {
        return Ok(Outcome::WaitFor(file.clone(), Events::READABLE));
    }
    let is_multi = req.sqe.ioprio & RECV_MULTISHOT != 0;
    for _ in 0..AT_ONCE {
        let (n, is_over) = receive_once(cx, ring, req, file, &socket)?;
        let flags = more_to_read(&socket);
        if !is_multi || is_over {
            return Ok(Outcome::Done(n as i32, flags));
        }
        let chosen = req.selected.take();
        let with_buffer = chosen.map_or(0, |b| cqe::BUFFER | u32::from(b.id) << 16);
        if !ring.answer_more(req, n as i32, flags | with_buffer) {
            req.selected = chosen;
            return Ok(Outcome::Done(n as i32, flags));
        }
        req.done = 0;
    }
    Ok(Outcome::WaitFor(file.clone(), Events::READABLE))
}

/// `IORING_CQE_F_SOCK_NONEMPTY`, of the sockets that know.
fn more_to_read(socket: &Arc<dyn Socket>) -> u32 {
    let knows = socket.common().protocol == ipproto::TCP;
    // Linux 6.12 net/ipv4/tcp.c, `tcp_inq_hint`: an end that was not read counts as a byte.
    let more =
        |s: &Arc<dyn Socket>| s.readable_bytes().is_ok_and(|n| n > 0) || s.ready().contains(Events::RDHUP);
    if knows && more(socket) { cqe::SOCK_NONEMPTY } else { 0 }
}

/// Size of `struct io_uring_recvmsg_out`.
const RECVMSG_OUT: u64 = 16;

/// Says how many bytes went into the buffers, and whether the message had none.
fn receive_once(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: &mut Request,
    file: &Arc<FileDescription>,
    socket: &Arc<dyn Socket>,
) -> Result<(u64, bool), Stop> {
    let mm = cx.mm.clone();
    let flags = req.sqe.op_flags;
    let mut list = req.buffers().to_vec();
    if req.has(sqe::BUFFER_SELECT) {
        let most = list.first().map_or(0, |b| b.1);
        let buffer = ring.select(&cx.mm, req.sqe.buf_index, most)?;
        list = vec![(UserAddr(buffer.addr), buffer.len)];
        req.selected = Some(buffer);
    }
    if req.sqe.ioprio & RECV_MULTISHOT != 0 && req.sqe.opcode == op::RECVMSG {
        return receive_packed(cx, req, file, socket);
    }
    let all = flags & msg::WAITALL != 0 && socket.common().is_stream();
    let once = flags & !msg::WAITALL;
    loop {
        let rest = behind(&list, req.done);
        let mut sink = mm.sink_list(&rest)?;
        let wanted = sink.remaining() as u64;
        let incoming = match cx.receive(file, socket, &mut sink, once) {
            Ok(incoming) => incoming,
            Err(stop) if ops::would_wait(&stop) && req.selected.is_some() && req.done > 0 => {
                return Ok((req.done, false));
            }
            Err(stop) if ops::would_wait(&stop) || req.done == 0 => return Err(stop),
            Err(_) => return Ok((req.done, req.done == 0)),
        };
        let n = if flags & msg::TRUNC != 0 { incoming.full } else { incoming.copied } as u64;
        if let Data::Message(header, _, _) = &req.data {
            cx.store_message(UserAddr(req.sqe.addr), header, incoming, flags)?;
        }
        req.done += n;
        if !all || n == 0 || n >= wanted || flags & msg::PEEK != 0 {
            return Ok((req.done, req.done == 0));
        }
    }
}

/// A message of a `RECVMSG` for many: its header, its sender's name, control messages and bytes one behind the other in
/// the chosen buffer.
fn receive_packed(
    cx: &mut Ctx<'_>,
    req: &Request,
    file: &Arc<FileDescription>,
    socket: &Arc<dyn Socket>,
) -> Result<(u64, bool), Stop> {
    let (Data::Message(header, _, _), Some(buffer)) = (&req.data, &req.selected) else {
        return Err(EINVAL.into());
    };
    let (name_room, control_room) = (u64::from(header.name_len.cast_unsigned()), header.control_len);
    let head = (RECVMSG_OUT + name_room).checked_add(control_room).ok_or(ENOBUFS)?;
    let room = buffer.len.checked_sub(head).ok_or(ENOBUFS)?;
    let mm = cx.mm.clone();
    let at = UserAddr(buffer.addr);
    let mut sink = mm.sink(at.saturating_add(head), room)?;
    let incoming = cx.receive(file, socket, &mut sink, req.sqe.op_flags & !msg::WAITALL)?;
    let (copied, full) = (incoming.copied as u64, incoming.full as u64);
    let mut flags = incoming.flags;
    let mut name_len = 0u32;
    if let Some(from) = &incoming.from {
        name_len = from.len() as u32;
        let cut = &from[..from.len().min(name_room as usize)];
        if !cut.is_empty() {
            mm.write_all(at.saturating_add(RECVMSG_OUT), cut)?;
        }
    }
    let place = at.saturating_add(RECVMSG_OUT + name_room);
    let (used, is_cut) = cx.put_controls(place, control_room, incoming, req.sqe.op_flags)?;
    if is_cut {
        flags |= msg::CTRUNC;
    }
    mm.write_value(at, &[name_len, used as u32, full as u32, flags])?;
    Ok((head + copied, copied == 0))
}
