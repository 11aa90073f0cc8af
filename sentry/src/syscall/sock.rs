//! Sockets: making, naming, connecting, options. What moves data is in `sockmsg.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{
    EAFNOSUPPORT, EAGAIN, EALREADY, EBADF, EFAULT, EINPROGRESS, EINVAL, ENODATA, ENOTSOCK, EOPNOTSUPP, EPERM,
    EPROTONOSUPPORT, ERANGE, ESOCKTNOSUPPORT, ESRCH,
};
use abi::socket::{Ucred, af, ipproto, shut, so, sock, sol};
use abi::{Errno, UserAddr};
use base::bpf::{Instruction, MAX_INSTRUCTIONS};
use base::cred::cap;
use base::landlock::port;
use base::userns::IdKind;
use base::wait::Events;
use fs::file::{FileDescription, oflag};
use net::socket::Socket;
use net::{Caller, SocketFile, inet, options, unix};

use super::{Stop, SysResult};
use crate::task::Ctx;

/// Size of `struct sockaddr_storage`.
pub(super) const ADDRESS_MAX: usize = 128;

impl Ctx<'_> {
    /// The socket behind `fd`, and its file.
    ///
    /// # Errors
    /// `EBADF`, `ENOTSOCK`.
    pub(super) fn socket(&self, fd: i32) -> Result<(Arc<FileDescription>, Arc<dyn Socket>), Errno> {
        let file = self.file(fd)?;
        if file.flags() & oflag::PATH != 0 {
            return Err(EBADF);
        }
        let socket = SocketFile::of(&file).ok_or(ENOTSOCK)?.clone();
        Ok((file, socket))
    }

    /// A new descriptor of a process.
    ///
    /// # Errors
    /// `ESRCH`: it has ended and was waited for; `EMFILE`.
    pub(super) fn process_descriptor(&self, pid: i32) -> Result<i32, Errno> {
        let group = {
            let tree = self.task.kernel.tree.lock();
            tree.processes.get(&pid).ok_or(ESRCH)?.group.clone()
        };
        self.install(crate::task::pidfd::new(group, 0), true)
    }

    /// Who calls, for an operation that names `address`.
    pub(super) fn caller(&self, address: &[u8]) -> Caller<'_> {
        // Only the path of an AF_UNIX socket is looked up in the file system.
        let is_path =
            address.first_chunk::<3>().is_some_and(|a| a[..2] == af::UNIX.to_le_bytes() && a[2] != 0);
        let walk = is_path.then(|| self.walk());
        let nofile = self.task.group.rlimits.lock()[7].0;
        let group = &self.task.group;
        Caller { cred: &self.cred, pid: group.pid, shown_pid: group.shown_pid, walk, nofile }
    }

    /// Copies in an address.
    ///
    /// # Errors
    /// `EINVAL` for a length that cannot be, `EFAULT`.
    pub(super) fn read_address(&self, addr: UserAddr, len: i32) -> Result<Vec<u8>, Errno> {
        let len = usize::try_from(len).ok().filter(|&n| n <= ADDRESS_MAX).ok_or(EINVAL)?;
        let mut bytes = vec![0; len];
        self.mm.read_exact(addr, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies out an address, cut to the length at `len`, where its own length is stored.
    ///
    /// # Errors
    /// `EINVAL` for a negative length, `EFAULT`.
    ///
    /// Source: Linux 6.12 net/socket.c, `move_addr_to_user`.
    pub(super) fn write_address(&self, bytes: &[u8], addr: UserAddr, len: UserAddr) -> Result<(), Errno> {
        let given: i32 = self.mm.read_value(len)?;
        let given = usize::try_from(given).map_err(|_| EINVAL)?;
        let cut = &bytes[..bytes.len().min(given)];
        if !cut.is_empty() {
            self.mm.write_all(addr, cut)?;
        }
        self.mm.write_value(len, &(bytes.len() as u32))
    }

    /// When an operation that begins now times out.
    pub(super) fn socket_deadline(&self, timeout_ns: u64) -> Option<u64> {
        (timeout_ns > 0).then(|| self.monotonic_ns().saturating_add(timeout_ns))
    }

    pub(super) fn install_socket(&self, socket: Arc<dyn Socket>, flags: u32) -> Result<i32, Errno> {
        self.install(SocketFile::describe(socket, flags & sock::NONBLOCK), flags & sock::CLOEXEC != 0)
    }
}

/// Splits the type from the flags beside it.
pub(super) fn split_type(kind: u32) -> Result<(u32, u32), Errno> {
    let flags = kind & !sock::TYPE_MASK;
    if flags & !(sock::NONBLOCK | sock::CLOEXEC) != 0 {
        return Err(EINVAL);
    }
    Ok((kind & sock::TYPE_MASK, flags))
}

/// Source: Linux 6.12 net/socket.c, `__sock_create`; net/unix/af_unix.c, `unix_create`.
pub(super) fn create(cx: &Ctx<'_>, domain: i32, kind: u32, protocol: i32) -> Result<Arc<dyn Socket>, Errno> {
    if !(0..af::MAX).contains(&domain) {
        return Err(EAFNOSUPPORT);
    }
    if kind > sock::PACKET {
        return Err(EINVAL);
    }
    let owner = (cx.cred.fsuid, cx.cred.fsgid);
    match u16::try_from(domain).map_err(|_| EAFNOSUPPORT)? {
        af::UNIX => {
            Ok(unix::new(&cx.task.net(), unix_type(kind, protocol)?, owner, cx.cred.landlock.clone()))
        }
        family @ (af::INET | af::INET6) => create_inet(cx, family, kind, protocol, owner),
        af::NETLINK => create_netlink(cx, kind, protocol, owner),
        af::PACKET => {
            let net = &cx.task.net();
            if !net.grants(&cx.cred, cap::NET_RAW) {
                return Err(EPERM);
            }
            // The host's packets are nobody's business here.
            match kind {
                _ if net.host.is_some() => Err(EAFNOSUPPORT),
                sock::RAW | sock::DGRAM => {
                    let protocol = (protocol as u16).swap_bytes();
                    Ok(net::packet::new(net, &cx.task.kernel.memory, kind, protocol, owner))
                }
                _ => Err(ESOCKTNOSUPPORT),
            }
        }
        _ => Err(EAFNOSUPPORT),
    }
}

/// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_create`.
fn create_netlink(
    cx: &Ctx<'_>,
    kind: u32,
    protocol: i32,
    owner: (u32, u32),
) -> Result<Arc<dyn Socket>, Errno> {
    if !matches!(kind, sock::RAW | sock::DGRAM) {
        return Err(ESOCKTNOSUPPORT);
    }
    let socket = net::netlink::new(&cx.task.net(), kind, protocol, owner).ok_or(EPROTONOSUPPORT)?;
    Ok(socket)
}

/// Source: Linux 6.12 net/ipv4/af_inet.c, `inet_create` and its table of protocols.
fn create_inet(
    cx: &Ctx<'_>,
    family: u16,
    kind: u32,
    protocol: i32,
    owner: (u32, u32),
) -> Result<Arc<dyn Socket>, Errno> {
    /// `IPPROTO_MAX`.
    const PROTOCOL_MAX: i32 = 263;
    if !(0..PROTOCOL_MAX).contains(&protocol) {
        return Err(EINVAL);
    }
    let net = &cx.task.net();
    if let Some(host) = &net.host {
        return match (kind, protocol) {
            (sock::STREAM, ipproto::IP | ipproto::TCP) | (sock::DGRAM, ipproto::IP | ipproto::UDP) => {
                Ok(net::hostnet::new(net, host, family, kind, owner)?)
            }
            (sock::RAW, _) if !cx.cred.has(cap::NET_RAW) => Err(EPERM),
            (sock::STREAM | sock::DGRAM | sock::RAW, _) => Err(EPROTONOSUPPORT),
            _ => Err(ESOCKTNOSUPPORT),
        };
    }
    match (kind, protocol) {
        (sock::STREAM, ipproto::IP | ipproto::TCP) => Ok(inet::tcp::new(net, family, owner)),
        (sock::DGRAM, ipproto::IP | ipproto::UDP) => Ok(inet::udp::new(net, family, ipproto::UDP, owner)),
        (sock::DGRAM, ipproto::UDPLITE) => Ok(inet::udp::new(net, family, ipproto::UDPLITE, owner)),
        (sock::DGRAM, ipproto::ICMP) if family == af::INET => {
            Ok(inet::raw::new_echo(net, family, &cx.caller(&[]), owner)?)
        }
        (sock::DGRAM, ipproto::ICMPV6) if family == af::INET6 => {
            Ok(inet::raw::new_echo(net, family, &cx.caller(&[]), owner)?)
        }
        (sock::RAW, 1..=255) if !net.grants(&cx.cred, cap::NET_RAW) => Err(EPERM),
        (sock::RAW, 1..=255) => Ok(inet::raw::new(net, family, protocol, owner)),
        (sock::STREAM | sock::DGRAM | sock::RAW, _) => Err(EPROTONOSUPPORT),
        _ => Err(ESOCKTNOSUPPORT),
    }
}

fn unix_type(kind: u32, protocol: i32) -> Result<u32, Errno> {
    if protocol != 0 && protocol != i32::from(af::UNIX) {
        return Err(EPROTONOSUPPORT);
    }
    match kind {
        sock::STREAM | sock::DGRAM | sock::SEQPACKET => Ok(kind),
        // "Believe it or not BSD has AF_UNIX, SOCK_RAW though nothing uses it."
        sock::RAW => Ok(sock::DGRAM),
        _ => Err(ESOCKTNOSUPPORT),
    }
}

/// `socket(2)`.
pub(super) fn sys_socket(cx: &mut Ctx<'_>, domain: i32, kind: u32, protocol: i32) -> SysResult {
    let (kind, flags) = split_type(kind)?;
    let socket = create(cx, domain, kind, protocol)?;
    Ok(cx.install_socket(socket, flags)? as u64)
}

/// `socketpair(2)`.
pub(super) fn sys_socketpair(
    cx: &mut Ctx<'_>,
    domain: i32,
    kind: u32,
    protocol: i32,
    fds: UserAddr,
) -> SysResult {
    let (kind, flags) = split_type(kind)?;
    if domain != i32::from(af::UNIX) {
        // The family must exist before it can be without pairs.
        create(cx, domain, kind, protocol)?;
        return Err(EOPNOTSUPP.into());
    }
    if kind > sock::PACKET {
        return Err(EINVAL.into());
    }
    let kind = unix_type(kind, protocol)?;
    let (a, b) = unix::pair(&cx.task.net(), kind, &cx.caller(&[]));
    let first = cx.install_socket(a, flags)?;
    let second = match cx.install_socket(b, flags) {
        Ok(fd) => fd,
        Err(e) => {
            drop(cx.files.remove(first));
            return Err(e.into());
        }
    };
    if let Err(e) = cx.mm.write_value(fds, &[first, second]) {
        drop(cx.files.remove(first));
        drop(cx.files.remove(second));
        return Err(e.into());
    }
    Ok(0)
}

/// `bind(2)`.
pub(super) fn sys_bind(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: i32) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let address = cx.read_address(addr, len)?;
    cx.landlock_port(&*socket, &address, port::BIND_TCP)?;
    socket.bind(&cx.caller(&address), &address)?;
    Ok(0)
}

/// `listen(2)`.
pub(super) fn sys_listen(cx: &mut Ctx<'_>, fd: i32, backlog: i32) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let most = cx.task.net().sysctl.somaxconn[0].size();
    // Linux compares without signs: a negative backlog is the largest.
    let backlog = (backlog.cast_unsigned() as usize).min(most);
    socket.listen(&cx.caller(&[]), backlog)?;
    Ok(0)
}

/// `accept(2)`.
pub(super) fn sys_accept(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> SysResult {
    sys_accept4(cx, fd, addr, len, 0)
}

/// `accept4(2)`.
pub(super) fn sys_accept4(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: UserAddr, flags: u32) -> SysResult {
    if flags & !(sock::NONBLOCK | sock::CLOEXEC) != 0 {
        return Err(EINVAL.into());
    }
    let (file, socket) = cx.socket(fd)?;
    let accepted = match socket.accept() {
        Err(EAGAIN) if !file.is_nonblocking() => {
            let deadline = cx.socket_deadline(socket.common().receive_timeout.load(Ordering::Relaxed));
            cx.blocking_until(&file, Events::READABLE, deadline, |_| socket.accept())?
        }
        other => other?,
    };
    let name = if addr.is_null() { Vec::new() } else { accepted.peer_name().unwrap_or_default() };
    let new = cx.install_socket(accepted, flags)?;
    if !addr.is_null()
        && let Err(e) = cx.write_address(&name, addr, len)
    {
        drop(cx.files.remove(new));
        return Err(e.into());
    }
    Ok(new as u64)
}

/// `connect(2)`.
pub(super) fn sys_connect(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: i32) -> SysResult {
    let (file, socket) = cx.socket(fd)?;
    let address = cx.read_address(addr, len)?;
    cx.landlock_port(&*socket, &address, port::CONNECT_TCP)?;
    let deadline = |cx: &Ctx<'_>| cx.socket_deadline(socket.common().send_timeout.load(Ordering::Relaxed));
    let mut result = socket.connect(&cx.caller(&address), &address);
    if file.is_nonblocking() {
        result?;
        return Ok(0);
    }
    let deadline = deadline(cx);
    if result == Err(EAGAIN) {
        let again = cx.blocking_until(&file, Events::WRITABLE, deadline, |cx| {
            match socket.connect(&cx.caller(&address), &address) {
                Err(EINPROGRESS) => Ok(Err(EINPROGRESS)),
                other => other.map(Ok),
            }
        })?;
        result = again;
    }
    if matches!(result, Err(EINPROGRESS | EALREADY)) {
        let waited = cx.blocking_until(&file, Events::WRITABLE, deadline, |_| socket.connected());
        // inet_stream_connect: what goes on without the caller is under way, not out of time.
        return match waited {
            Err(Stop::Fail(EAGAIN)) => Err(result.err().unwrap_or(EINPROGRESS).into()),
            other => other.map(|()| 0),
        };
    }
    result?;
    Ok(0)
}

/// `getsockname(2)`.
pub(super) fn sys_getsockname(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let name = socket.local_name()?;
    cx.write_address(&name, addr, len)?;
    Ok(0)
}

/// `getpeername(2)`.
pub(super) fn sys_getpeername(cx: &mut Ctx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let name = socket.peer_name()?;
    cx.write_address(&name, addr, len)?;
    Ok(0)
}

/// `shutdown(2)`.
pub(super) fn sys_shutdown(cx: &mut Ctx<'_>, fd: i32, how: u32) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    if how > shut::RDWR {
        return Err(EINVAL.into());
    }
    socket.shutdown(how)?;
    Ok(0)
}

/// The most bytes of an option's value that are looked at.
const OPTION_MAX: usize = 64 << 10;

/// `setsockopt(2)`.
pub(super) fn sys_setsockopt(
    cx: &mut Ctx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: UserAddr,
    len: i32,
) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    let mut bytes = vec![0; len.min(OPTION_MAX)];
    if !bytes.is_empty() {
        cx.mm.read_exact(value, &mut bytes)?;
    }
    if level == sol::SOCKET && matches!(name, so::ATTACH_FILTER | so::ATTACH_REUSEPORT_CBPF) {
        return attach_program(cx, &*socket, name, &bytes);
    }
    if level == net::packet::SOL_PACKET
        && name == options::FANOUT_DATA
        && socket.common().domain() == af::PACKET
    {
        return attach_program(cx, &*socket, name, &bytes);
    }
    options::set(&*socket, &cx.caller(&[]), level, name, &bytes)?;
    Ok(0)
}

/// `SO_ATTACH_FILTER`, `SO_ATTACH_REUSEPORT_CBPF`, `PACKET_FANOUT_DATA`: `value` is a `struct sock_fprog`.
///
/// Source: Linux 6.12 net/core/filter.c, `__get_filter`.
fn attach_program(cx: &Ctx<'_>, socket: &dyn Socket, name: i32, value: &[u8]) -> SysResult {
    let &[l0, l1, _, _, _, _, _, _, ref list @ ..]: &[u8; 16] = value.try_into().map_err(|_| EINVAL)?;
    let len = usize::from(u16::from_ne_bytes([l0, l1]));
    socket.common().filters.check_lock()?;
    let list = UserAddr(u64::from_ne_bytes(*list));
    if list.is_null() || len == 0 || len > MAX_INSTRUCTIONS {
        return Err(EINVAL.into());
    }
    let list: Vec<[u8; Instruction::SIZE]> = cx.mm.read_array(list, len)?;
    options::attach(socket, name, list.iter().map(Instruction::from_bytes).collect())?;
    Ok(0)
}

/// `getsockopt(2)`.
pub(super) fn sys_getsockopt(
    cx: &mut Ctx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: UserAddr,
    len: UserAddr,
) -> SysResult {
    let (_, socket) = cx.socket(fd)?;
    let given: i32 = cx.mm.read_value(len)?;
    let given = usize::try_from(given).map_err(|_| EINVAL)?;
    // Some options read what they are to be asked about from the buffer.
    let mut bytes = vec![0; given.min(OPTION_MAX)];
    let got = if bytes.is_empty() { 0 } else { cx.mm.copy_in(value, &mut bytes).unwrap_or(0) };
    bytes[got..].fill(0);
    if level == sol::SOCKET && name == so::PEERPIDFD {
        // Nobody, or a socket that has no peer, has no process.
        let pid = socket.peer_cred().map(|peer| peer.ucred.pid).filter(|&pid| pid != 0).ok_or(ENODATA)?;
        let fd = cx.process_descriptor(pid)?;
        let bytes = fd.to_le_bytes();
        let cut = bytes.get(..given.min(4)).unwrap_or(&bytes);
        let stored = cx.mm.write_all(value, cut).and_then(|()| cx.mm.write_value(len, &(cut.len() as u32)));
        if let Err(e) = stored {
            // Nobody was told of it.
            drop(cx.files.remove(fd));
            return Err(e.into());
        }
        return Ok(0);
    }
    if level == sol::SOCKET && name == so::ATTACH_FILTER {
        // Lengths are numbers of instructions here.
        let (list, count) = socket.common().filters.program(given)?;
        cx.mm.write_all(value, &list)?;
        cx.mm.write_value(len, &(count as u32))?;
        return Ok(0);
    }
    let mut answer = options::get(&*socket, level, name, &bytes)?;
    match (level, name) {
        (sol::SOCKET, so::PEERCRED) => {
            if let Some(cred) = Ucred::from_bytes(&answer) {
                answer = cx.shown_cred(cred).to_bytes().to_vec();
            }
        }
        (sol::SOCKET, so::PEERGROUPS) if answer.len() > given => {
            cx.mm.write_value(len, &(answer.len() as u32))?;
            return Err(ERANGE.into());
        }
        (sol::SOCKET, so::PEERGROUPS) if !cx.cred.user_ns.is_first() => {
            for group in answer.chunks_exact_mut(4) {
                let id = u32::from_le_bytes([group[0], group[1], group[2], group[3]]);
                group.copy_from_slice(&cx.cred.user_ns.shown(IdKind::Group, id).to_le_bytes());
            }
        }
        _ => {}
    }
    let cut = answer.get(..answer.len().min(given)).ok_or(EFAULT)?;
    if !cut.is_empty() {
        cx.mm.write_all(value, cut)?;
    }
    cx.mm.write_value(len, &(cut.len() as u32))?;
    Ok(0)
}
