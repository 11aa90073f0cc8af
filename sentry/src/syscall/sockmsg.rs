//! Sending and receiving on sockets.
//!
//! Source: send(2), recv(2), cmsg(3); Linux 6.12 net/socket.c.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EAGAIN, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, EPERM, EPIPE, ESRCH};
use abi::socket::{Ucred, af, ipproto, msg, scm, sol};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::io::{Sink, Source};
use base::userns::IdKind;
use base::wait::Events;
use fs::file::FileDescription;
use net::SocketFile;
use net::message::{Control, Discard, HEADER, Incoming, Outgoing, parse_controls};
use net::rights::Rights;
use net::socket::Socket;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::sock::ADDRESS_MAX;
use super::{Stop, SysResult};
use crate::mm::UIO_MAXIOV;
use crate::signal::SIGPIPE;
use crate::task::Ctx;

/// `struct msghdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct MsgHeader {
    pub(super) name: u64,
    pub(super) name_len: i32,
    _pad: u32,
    iov: u64,
    iov_len: u64,
    pub(super) control: u64,
    pub(super) control_len: u64,
    flags: u32,
    _pad2: u32,
}

impl MsgHeader {
    /// Bytes for control messages.
    pub(super) fn control_room(&self) -> u64 {
        if self.control == 0 { 0 } else { self.control_len }
    }
}

/// Offsets of what `recvmsg` stores.
const NAME_LEN: u64 = 8;
const CONTROL_LEN: u64 = 40;
const FLAGS: u64 = 48;
/// Size of `struct mmsghdr`, and the offset of its `msg_len`.
const MMSG_SIZE: u64 = 64;
const MMSG_LEN: u64 = 56;

/// What goes with the bytes.
pub(super) struct Envelope {
    pub(super) to: Vec<u8>,
    pub(super) flags: u32,
    rights: Rights,
    cred: Option<Ucred>,
    controls: Vec<Control>,
}

impl Envelope {
    pub(super) fn plain(flags: u32) -> Self {
        Self { to: Vec::new(), flags, rights: Rights::default(), cred: None, controls: Vec::new() }
    }
}

impl Ctx<'_> {
    /// Sends a message, or all of a stream's bytes; waits unless told otherwise.
    pub(super) fn send(
        &mut self,
        file: &Arc<FileDescription>,
        socket: &Arc<dyn Socket>,
        data: &mut dyn Source,
        mut envelope: Envelope,
    ) -> SysResult {
        let is_waiting = self.waits_for(file) && envelope.flags & msg::DONTWAIT == 0;
        if !is_waiting {
            envelope.flags |= msg::DONTWAIT;
        }
        let mut deadline = None;
        let mut done = 0u64;
        loop {
            let mut attempt = |cx: &mut Self| {
                let caller = cx.caller(&envelope.to);
                let mut message = Outgoing {
                    data: &mut *data,
                    to: &envelope.to,
                    flags: envelope.flags,
                    rights: &mut envelope.rights,
                    cred: envelope.cred,
                    controls: &envelope.controls,
                };
                socket.send(Some(&caller), &mut message)
            };
            let mut result = attempt(self).map_err(Stop::Fail);
            if result == Err(Stop::Fail(EAGAIN)) && is_waiting {
                let timeout = socket.common().send_timeout.load(Ordering::Relaxed);
                deadline = deadline.or_else(|| self.socket_deadline(timeout));
                result = self.blocking_until(file, Events::WRITABLE, deadline, attempt);
            }
            match result {
                Ok(n) => {
                    done += n as u64;
                    // The whole call is one send.
                    envelope.flags &= !msg::ZEROCOPY;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(stop) => {
                    let is_quiet = envelope.flags & msg::NOSIGNAL != 0 || !socket.raises_sigpipe();
                    if stop == Stop::Fail(EPIPE) && !is_quiet {
                        self.signal_self(SIGPIPE);
                    }
                    return Err(stop);
                }
            }
            if !socket.common().is_stream() || data.remaining() == 0 || !is_waiting {
                return Ok(done);
            }
        }
    }

    /// Receives a message, or bytes of a stream; waits unless told otherwise.
    pub(super) fn receive(
        &mut self,
        file: &Arc<FileDescription>,
        socket: &Arc<dyn Socket>,
        sink: &mut dyn Sink,
        mut flags: u32,
    ) -> Result<Incoming, Stop> {
        let common = socket.common().clone();
        let is_waiting = self.waits_for(file) && flags & (msg::DONTWAIT | msg::ERRQUEUE) == 0;
        if !is_waiting {
            flags |= msg::DONTWAIT;
        }
        let wanted = sink.remaining();
        let mut discard = Discard(wanted);
        let is_discarded = flags & msg::TRUNC != 0 && common.protocol == ipproto::TCP;
        let sink: &mut dyn Sink = if is_discarded { &mut discard } else { sink };
        let target = match (common.is_stream(), flags & msg::WAITALL != 0) {
            (false, _) => 0,
            (true, true) => wanted,
            (true, false) => common.low_water.load(Ordering::Relaxed).min(wanted),
        };
        let mut deadline = None;
        let mut whole: Option<Incoming> = None;
        loop {
            let mut result = socket.receive(sink, flags).map_err(Stop::Fail);
            let copied = whole.as_ref().map_or(0, |w| w.copied);
            let enough = copied > 0 && copied >= target;
            if matches!(result, Err(Stop::Fail(EAGAIN))) && is_waiting && !enough {
                let timeout = common.receive_timeout.load(Ordering::Relaxed);
                deadline = deadline.or_else(|| self.socket_deadline(timeout));
                result =
                    self.blocking_until(file, Events::READABLE, deadline, |_| socket.receive(sink, flags));
            }
            let next = match (result, whole.take()) {
                (Ok(next), None) => next,
                (Ok(next), Some(mut all)) => {
                    all.copied += next.copied;
                    all.full += next.full;
                    all.flags |= next.flags;
                    all.stops = next.stops;
                    all.controls.extend(next.controls);
                    all.rights.append(next.rights);
                    all
                }
                (Err(_), Some(all)) => return Ok(all),
                (Err(stop), None) => return Err(stop),
            };
            let is_done =
                next.stops || next.copied >= target || flags & msg::PEEK != 0 || sink.remaining() == 0;
            if is_done || !is_waiting {
                return Ok(next);
            }
            whole = Some(next);
        }
    }

    /// `read(2)` of a socket.
    pub(super) fn read_socket(
        &mut self,
        file: &Arc<FileDescription>,
        socket: &Arc<dyn Socket>,
        list: &[(UserAddr, u64)],
    ) -> SysResult {
        let mm = self.mm.clone();
        let mut sink = mm.sink_list(list)?;
        // sock_read_iter: nothing to read into is no read.
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let incoming = self.receive(file, socket, &mut sink, 0)?;
        Ok(incoming.copied as u64)
    }

    /// `write(2)` to a socket.
    pub(super) fn write_socket(
        &mut self,
        file: &Arc<FileDescription>,
        socket: &Arc<dyn Socket>,
        list: &[(UserAddr, u64)],
    ) -> SysResult {
        let mm = self.mm.clone();
        let mut source = mm.source_list(list)?;
        self.send(file, socket, &mut source, Envelope::plain(0))
    }

    /// Copies in a message's header and its list of buffers.
    ///
    /// Source: Linux 6.12 net/socket.c, `__copy_msghdr`.
    pub(super) fn read_header(&self, at: UserAddr) -> Result<(MsgHeader, Vec<(UserAddr, u64)>), Errno> {
        let mut header: MsgHeader = self.mm.read_value(at)?;
        if header.name == 0 {
            header.name_len = 0;
        }
        if header.name_len < 0 {
            return Err(EINVAL);
        }
        header.name_len = header.name_len.min(ADDRESS_MAX as i32);
        if header.iov_len > UIO_MAXIOV {
            return Err(EMSGSIZE);
        }
        let list = self.mm.read_iovec(UserAddr(header.iov), header.iov_len)?;
        Ok((header, list))
    }

    /// Takes the control messages of an AF_UNIX socket's sender apart.
    ///
    /// Source: Linux 6.12 net/core/scm.c, `__scm_send`.
    pub(super) fn read_controls(
        &self,
        header: &MsgHeader,
        domain: u16,
        envelope: &mut Envelope,
    ) -> Result<(), Errno> {
        let is_inet = matches!(domain, af::INET | af::INET6);
        if header.control_len == 0 || header.control == 0 {
            return Ok(());
        }
        let most = self.task.net().sysctl.optmem_max[0].size();
        let len = usize::try_from(header.control_len).ok().filter(|&n| n <= most).ok_or(ENOBUFS)?;
        let mut bytes = vec![0; len];
        self.mm.read_exact(UserAddr(header.control), &mut bytes)?;
        let mut files = Vec::new();
        for control in parse_controls(&bytes)? {
            match (control.level, control.kind) {
                (sol::SOCKET, scm::RIGHTS | scm::CREDENTIALS) if is_inet => envelope.controls.push(control),
                (sol::SOCKET, scm::RIGHTS) => {
                    let count = control.data.len() / 4;
                    if files.len() + count > scm::MAX_FD {
                        return Err(EINVAL);
                    }
                    for fd in control.data.chunks_exact(4) {
                        let fd = i32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]);
                        let file = self.file(fd)?;
                        // A ring that travels could hold the socket that it travels in.
                        if super::uring::ring_of(&file).is_some() {
                            return Err(EINVAL);
                        }
                        files.push(file);
                    }
                }
                (sol::SOCKET, scm::CREDENTIALS) => {
                    envelope.cred = Some(self.check_cred(Ucred::from_bytes(&control.data).ok_or(EINVAL)?)?);
                }
                _ => envelope.controls.push(control),
            }
        }
        envelope.rights = Rights::new(files);
        Ok(())
    }

    /// `scm_check_creds`: whom one may claim to be.
    fn check_cred(&self, claimed: Ucred) -> Result<Ucred, Errno> {
        let cred = &self.cred;
        let of_first = |kind, id| cred.user_ns.outside(kind, id).ok_or(EINVAL);
        let claimed = Ucred {
            uid: of_first(IdKind::User, claimed.uid)?,
            gid: of_first(IdKind::Group, claimed.gid)?,
            ..claimed
        };
        let is_uid = [cred.uid, cred.euid, cred.suid].contains(&claimed.uid) || cred.has(cap::SETUID);
        let is_gid = [cred.gid, cred.egid, cred.sgid].contains(&claimed.gid) || cred.has(cap::SETGID);
        let is_pid = claimed.pid == self.task.group.shown_pid || cred.has(cap::SYS_ADMIN);
        if !is_uid || !is_gid || !is_pid {
            return Err(EPERM);
        }
        let claimed = Ucred { pid: self.task.id_of(claimed.pid), ..claimed };
        let exists = claimed.pid == self.task.group.pid
            || self.task.kernel.tree.lock().processes.contains_key(&claimed.pid);
        if exists { Ok(claimed) } else { Err(ESRCH) }
    }

    /// Somebody's credentials in the numbers of the caller's namespaces.
    pub(super) fn shown_cred(&self, cred: Ucred) -> Ucred {
        let users = &self.cred.user_ns;
        // -1 says that there is nobody.
        let shown = |kind, id| if id == u32::MAX { id } else { users.shown(kind, id) };
        Ucred {
            pid: self.task.shown_id(cred.pid),
            uid: shown(IdKind::User, cred.uid),
            gid: shown(IdKind::Group, cred.gid),
        }
    }

    fn send_message(&mut self, fd: i32, at: UserAddr, flags: u32) -> SysResult {
        let (file, socket) = self.socket(fd)?;
        let (header, list) = self.read_header(at)?;
        let mut envelope = Envelope::plain(flags);
        if header.name_len > 0 {
            envelope.to = self.read_address(UserAddr(header.name), header.name_len)?;
        }
        let mm = self.mm.clone();
        let mut source = mm.source_list(&list)?;
        socket.before_send()?;
        self.read_controls(&header, socket.common().domain(), &mut envelope)?;
        self.send(&file, &socket, &mut source, envelope)
    }

    fn receive_message(&mut self, fd: i32, at: UserAddr, flags: u32) -> SysResult {
        let (file, socket) = self.socket(fd)?;
        let (header, list) = self.read_header(at)?;
        let mm = self.mm.clone();
        let mut sink = mm.sink_list(&list)?;
        let incoming = self.receive(&file, &socket, &mut sink, flags)?;
        self.store_message(at, &header, incoming, flags)
    }

    /// Stores what came beside a message's bytes; returns the call's result.
    pub(super) fn store_message(
        &self,
        at: UserAddr,
        header: &MsgHeader,
        incoming: Incoming,
        flags: u32,
    ) -> SysResult {
        let mut out_flags = incoming.flags | flags & msg::CMSG_CLOEXEC;
        let result = if flags & msg::TRUNC != 0 { incoming.full } else { incoming.copied };
        if header.name != 0
            && let Some(from) = &incoming.from
        {
            let cut = &from[..from.len().min(header.name_len as usize)];
            if !cut.is_empty() {
                self.mm.write_all(UserAddr(header.name), cut)?;
            }
            self.mm.write_value(at.saturating_add(NAME_LEN), &(from.len() as u32))?;
        } else if header.name != 0 {
            self.mm.write_value(at.saturating_add(NAME_LEN), &0u32)?;
        }
        let (used, is_cut) =
            self.put_controls(UserAddr(header.control), header.control_room(), incoming, flags)?;
        if is_cut {
            out_flags |= msg::CTRUNC;
        }
        self.mm.write_value(at.saturating_add(FLAGS), &out_flags)?;
        self.mm.write_value(at.saturating_add(CONTROL_LEN), &used)?;
        Ok(result as u64)
    }

    /// Stores control messages and passed files in `room` bytes at `at`; returns how many that used and whether something
    /// was left out.
    pub(super) fn put_controls(
        &self,
        at: UserAddr,
        room: u64,
        incoming: Incoming,
        flags: u32,
    ) -> Result<(u64, bool), Errno> {
        let mut buffer = ControlBuffer::new(at, room);
        for control in &incoming.controls {
            match Ucred::from_bytes(&control.data) {
                Some(cred) if (control.level, control.kind) == (sol::SOCKET, scm::CREDENTIALS) => {
                    let shown = self.shown_cred(cred).to_bytes();
                    buffer.put(self, &Control::new(sol::SOCKET, scm::CREDENTIALS, shown))?;
                }
                _ => buffer.put(self, control)?,
            }
        }
        buffer.put_rights(self, incoming.rights, flags & msg::CMSG_CLOEXEC != 0)?;
        if let Some(pid) = incoming.sender {
            buffer.put_sender(self, pid)?;
        }
        Ok((buffer.used, buffer.is_cut))
    }
}

/// The receiver's buffer for control messages.
struct ControlBuffer {
    at: UserAddr,
    left: usize,
    used: u64,
    is_cut: bool,
}

impl ControlBuffer {
    fn new(at: UserAddr, room: u64) -> Self {
        Self { at, left: usize::try_from(room).unwrap_or(usize::MAX), used: 0, is_cut: false }
    }

    /// Source: Linux 6.12 net/core/scm.c, `put_cmsg`.
    fn put(&mut self, cx: &Ctx<'_>, control: &Control) -> Result<(), Errno> {
        if self.left < HEADER {
            self.is_cut = true;
            return Ok(());
        }
        let len = control.len().min(self.left);
        self.is_cut |= len < control.len();
        let mut bytes = Vec::with_capacity(control.len());
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&control.level.to_le_bytes());
        bytes.extend_from_slice(&control.kind.to_le_bytes());
        bytes.extend_from_slice(&control.data);
        cx.mm.write_all(self.at, bytes.get(..len).ok_or(EFAULT)?)?;
        self.advance(len);
        Ok(())
    }

    fn advance(&mut self, len: usize) {
        let space = len.next_multiple_of(8).min(self.left);
        self.at = self.at.saturating_add(space as u64);
        self.left -= space;
        self.used += space as u64;
    }

    /// Gives the sender's process a descriptor (`SCM_PIDFD`).
    ///
    /// Source: Linux 6.12 include/net/scm.h, `scm_pidfd_recv`.
    fn put_sender(&mut self, cx: &Ctx<'_>, pid: i32) -> Result<(), Errno> {
        if self.left < HEADER + 4 {
            self.is_cut = true;
            return Ok(());
        }
        let fd = match cx.process_descriptor(pid) {
            Ok(fd) => fd,
            Err(e) => -e.raw(),
        };
        let stored = self.put(cx, &Control::new(sol::SOCKET, scm::PIDFD, fd.to_le_bytes()));
        if stored.is_err() && fd >= 0 {
            // Nobody was told of it.
            drop(cx.files.remove(fd));
        }
        stored
    }

    /// Gives passed files descriptors, as many as the buffer has room for.
    ///
    /// Source: Linux 6.12 net/core/scm.c, `scm_detach_fds`.
    fn put_rights(&mut self, cx: &Ctx<'_>, rights: Rights, cloexec: bool) -> Result<(), Errno> {
        let files = rights.into_files();
        if files.is_empty() {
            return Ok(());
        }
        let count = files.len();
        let room = self.left.saturating_sub(HEADER) / 4;
        let mut fds: Vec<i32> = Vec::new();
        for file in files.iter().take(room) {
            match cx.install(file.clone(), cloexec) {
                Ok(fd) => fds.push(fd),
                Err(_) => break,
            }
        }
        drop(Rights::new(files));
        self.is_cut |= fds.len() < count;
        if !fds.is_empty() {
            let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_le_bytes()).collect();
            self.put(cx, &Control::new(sol::SOCKET, scm::RIGHTS, data))?;
        }
        Ok(())
    }
}

/// `sendto(2)`.
pub(super) fn sys_sendto(
    cx: &mut Ctx<'_>,
    fd: i32,
    buf: UserAddr,
    len: u64,
    flags: u32,
    addr: UserAddr,
    addr_len: i32,
) -> SysResult {
    let mm = cx.mm.clone();
    let mut source = mm.source(buf, len)?;
    let (file, socket) = cx.socket(fd)?;
    let mut envelope = Envelope::plain(flags);
    if !addr.is_null() {
        envelope.to = cx.read_address(addr, addr_len)?;
    }
    cx.send(&file, &socket, &mut source, envelope)
}

/// `recvfrom(2)`.
pub(super) fn sys_recvfrom(
    cx: &mut Ctx<'_>,
    fd: i32,
    buf: UserAddr,
    len: u64,
    flags: u32,
    addr: UserAddr,
    addr_len: UserAddr,
) -> SysResult {
    let mm = cx.mm.clone();
    let mut sink = mm.sink(buf, len)?;
    let (file, socket) = cx.socket(fd)?;
    let incoming = cx.receive(&file, &socket, &mut sink, flags)?;
    if !addr.is_null() {
        cx.write_address(&incoming.from.unwrap_or_default(), addr, addr_len)?;
    }
    Ok(if flags & msg::TRUNC != 0 { incoming.full } else { incoming.copied } as u64)
}

/// `sendmsg(2)`.
pub(super) fn sys_sendmsg(cx: &mut Ctx<'_>, fd: i32, message: UserAddr, flags: u32) -> SysResult {
    cx.send_message(fd, message, flags)
}

/// `recvmsg(2)`.
pub(super) fn sys_recvmsg(cx: &mut Ctx<'_>, fd: i32, message: UserAddr, flags: u32) -> SysResult {
    cx.receive_message(fd, message, flags)
}

/// `sendmmsg(2)`.
pub(super) fn sys_sendmmsg(cx: &mut Ctx<'_>, fd: i32, list: UserAddr, count: u32, flags: u32) -> SysResult {
    cx.socket(fd)?;
    let count = u64::from(count).min(UIO_MAXIOV);
    for i in 0..count {
        let at = list.saturating_add(i * MMSG_SIZE);
        let sent = cx
            .send_message(fd, at, flags)
            .and_then(|n| Ok(cx.mm.write_value(at.saturating_add(MMSG_LEN), &(n as u32))?));
        match sent {
            Ok(()) => {}
            Err(stop) if i == 0 => return Err(stop),
            Err(_) => return Ok(i),
        }
    }
    Ok(count)
}

/// `recvmmsg(2)`.
///
/// Source: Linux 6.12 net/socket.c, `do_recvmmsg`.
pub(super) fn sys_recvmmsg(
    cx: &mut Ctx<'_>,
    fd: i32,
    list: UserAddr,
    count: u32,
    flags: u32,
    timeout: UserAddr,
) -> SysResult {
    let limit = super::time::timeout(cx, timeout)?;
    let deadline = limit.map(|ns| cx.monotonic_ns().saturating_add(ns));
    let (_, socket) = cx.socket(fd)?;
    socket.common().check_error()?;
    let mut flags = flags;
    let mut done = 0u64;
    let mut failed = None;
    while done < count.into() {
        let at = list.saturating_add(done * MMSG_SIZE);
        let received = cx
            .receive_message(fd, at, flags & !msg::WAITFORONE)
            .and_then(|n| Ok(cx.mm.write_value(at.saturating_add(MMSG_LEN), &(n as u32))?));
        if let Err(stop) = received {
            failed = Some(stop);
            break;
        }
        done += 1;
        if flags & msg::WAITFORONE != 0 {
            flags |= msg::DONTWAIT;
        }
        if deadline.is_some_and(|d| cx.monotonic_ns() >= d) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        let rest = deadline.saturating_sub(cx.monotonic_ns());
        cx.mm.write_value(timeout, &[rest / 1_000_000_000, rest % 1_000_000_000])?;
    }
    match failed {
        Some(stop) if done == 0 => Err(stop),
        Some(Stop::Fail(e)) if e != EAGAIN => {
            // The next call tells of it.
            socket.common().set_error(e);
            Ok(done)
        }
        _ => Ok(done),
    }
}

/// The socket that `file` is, for `read` and `write`.
pub(super) fn as_socket(file: &FileDescription) -> Option<Arc<dyn Socket>> {
    SocketFile::of(file).cloned()
}
