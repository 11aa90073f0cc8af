//! `setsockopt(2)` and `getsockopt(2)` at level `SOL_SOCKET`.
//!
//! Source: socket(7); Linux 6.12 net/core/sock.c, `sk_setsockopt`, `sk_getsockopt`.

use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EDOM, EINVAL, ENODATA, ENODEV, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPERM};
use abi::socket::{Ucred, af, ipproto, so, sol};
use base::bpf::Instruction;
use base::cred::cap;

use crate::common::Common;
use crate::filter::Attached;
use crate::packet::PacketSocket;
use crate::socket::{Caller, Socket};

/// `SOCK_MIN_SNDBUF`, `SOCK_MIN_RCVBUF`.
const MIN_SEND: usize = 4608;
const MIN_RECEIVE: usize = 2304;

/// `IP_LOCAL_PORT_RANGE`.
const LOCAL_PORT_RANGE: i32 = 51;
/// Bits of `SO_BUF_LOCK`: the program chose the size of a buffer.
pub(crate) const SEND_LOCK: u32 = 1;
pub(crate) const RECEIVE_LOCK: u32 = 2;

/// The `int` at the start of an option's value.
///
/// # Errors
/// `EINVAL`: the value is shorter.
pub fn int(value: &[u8]) -> Result<i32, Errno> {
    let bytes = value.first_chunk::<4>().ok_or(EINVAL)?;
    Ok(i32::from_le_bytes(*bytes))
}

fn long(value: &[u8], at: usize) -> Result<i64, Errno> {
    let bytes = value.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or(EINVAL)?;
    Ok(i64::from_le_bytes(bytes))
}

/// A `struct timeval` as ns; 0 for none.
fn timeout(value: &[u8]) -> Result<u64, Errno> {
    if value.len() < 16 {
        return Err(EINVAL);
    }
    let (sec, usec) = (long(value, 0)?, long(value, 8)?);
    if !(0..1_000_000).contains(&usec) {
        return Err(EDOM);
    }
    // A negative timeout has passed already: a nanosecond is as good.
    Ok(u64::try_from(sec)
        .map_or(1, |sec| sec.saturating_mul(1_000_000_000).saturating_add(usec as u64 * 1000)))
}

fn set_send_buffer(common: &Common, value: usize) {
    common.send_buffer.store((value * 2).max(MIN_SEND), Ordering::Relaxed);
    common.wait.notify(base::wait::Events::WRITABLE);
}

fn set_receive_buffer(common: &Common, value: usize) {
    common.receive_buffer.store((value * 2).max(MIN_RECEIVE), Ordering::Relaxed);
}

/// Sets an option of any level.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set(
    socket: &dyn Socket,
    caller: &Caller<'_>,
    level: i32,
    name: i32,
    value: &[u8],
) -> Result<(), Errno> {
    if level == sol::IP && name == LOCAL_PORT_RANGE && socket.has_ports() {
        let &range: &[u8; 4] = value.try_into().map_err(|_| EINVAL)?;
        let range = u32::from_le_bytes(range);
        let (first, last) = (range & 0xffff, range >> 16);
        if first != 0 && last != 0 && first > last {
            return Err(EINVAL);
        }
        socket.common().port_range.store(range, Ordering::Relaxed);
        return Ok(());
    }
    if level != sol::SOCKET || socket.owns_option(level, name) {
        return socket.set_option(caller, level, name, value);
    }
    let common = socket.common();
    let sysctl = &common.net.sysctl;
    if name == so::BINDTODEVICE {
        return bind_to_device(common, value);
    }
    let number = int(value)?;
    let is_on = number != 0;
    let size = |max: usize| (number.cast_unsigned() as usize).min(max).min(i32::MAX as usize / 2);
    let order = Ordering::Relaxed;
    match name {
        so::DEBUG if is_on && !caller.cred.has(cap::NET_ADMIN) => return Err(abi::errno::EACCES),
        so::DEBUG => common.stored.lock().debug = is_on,
        so::REUSEADDR => common.reuse_addr.store(is_on, order),
        so::REUSEPORT if is_on && !socket.has_ports() => return Err(EOPNOTSUPP),
        so::REUSEPORT => common.reuse_port.store(is_on, order),
        so::DONTROUTE => common.stored.lock().dont_route = is_on,
        so::BROADCAST => common.broadcast.store(is_on, order),
        so::SNDBUF => {
            set_send_buffer(common, size(sysctl.wmem_max[0].size()));
            common.stored.lock().buf_lock |= SEND_LOCK;
        }
        so::RCVBUF => {
            set_receive_buffer(common, size(sysctl.rmem_max[0].size()));
            common.stored.lock().buf_lock |= RECEIVE_LOCK;
        }
        so::SNDBUFFORCE | so::RCVBUFFORCE if !caller.cred.has(cap::NET_ADMIN) => return Err(EPERM),
        so::SNDBUFFORCE => set_send_buffer(common, number.max(0) as usize),
        so::RCVBUFFORCE => set_receive_buffer(common, number.max(0) as usize),
        so::KEEPALIVE => common.keepalive.store(is_on, order),
        so::OOBINLINE => common.oob_inline.store(is_on, order),
        so::NO_CHECK => common.stored.lock().no_check = is_on,
        so::PRIORITY if (0..=6).contains(&number) || caller.cred.has(cap::NET_ADMIN) => {
            common.stored.lock().priority = number;
        }
        so::PRIORITY => return Err(EPERM),
        so::LINGER => {
            let seconds = int(value.get(4..).ok_or(EINVAL)?)?.cast_unsigned();
            let mut stored = common.stored.lock();
            stored.linger = is_on.then_some(seconds);
            stored.linger_seconds = seconds;
        }
        so::BSDCOMPAT => {}
        so::PASSCRED
            if common.domain() != abi::socket::af::UNIX && common.domain() != abi::socket::af::NETLINK =>
        {
            return Err(EOPNOTSUPP);
        }
        so::PASSCRED => common.passcred.store(is_on, order),
        so::RCVLOWAT => {
            let low = if number < 0 { i32::MAX } else { number.max(1) };
            common.low_water.store(low as usize, order);
            common.wait.notify(base::wait::Events::READABLE);
        }
        so::RCVTIMEO | so::RCVTIMEO_NEW => common.receive_timeout.store(timeout(value)?, order),
        so::SNDTIMEO | so::SNDTIMEO_NEW => common.send_timeout.store(timeout(value)?, order),
        so::TIMESTAMP | so::TIMESTAMP_NEW | so::TIMESTAMPNS | so::TIMESTAMPNS_NEW => {
            common.stamps.set(name, is_on);
        }
        so::TIMESTAMPING | so::TIMESTAMPING_NEW => {
            common.stamps.set_flags(name, number.cast_unsigned(), || socket.stamp_base())?;
        }
        so::ZEROCOPY if !has_error_queue(common) => return Err(EOPNOTSUPP),
        so::ZEROCOPY if !(0..=1).contains(&number) => return Err(EINVAL),
        so::ZEROCOPY => common.zerocopy.store(is_on, order),
        so::TXTIME => set_transmit_time(common, caller, value)?,
        // No descriptor is a program of eBPF.
        so::ATTACH_BPF | so::ATTACH_REUSEPORT_EBPF => return Err(EINVAL),
        so::MARK if !caller.cred.has(cap::NET_RAW) && !caller.cred.has(cap::NET_ADMIN) => return Err(EPERM),
        so::MARK => common.stored.lock().mark = number.cast_unsigned(),
        so::RCVMARK => common.stored.lock().rcvmark = is_on,
        so::RXQ_OVFL => common.stored.lock().rxq_ovfl = is_on,
        so::PEEK_OFF if !socket.has_peek_offset() => return Err(EOPNOTSUPP),
        so::PEEK_OFF => common.peek_offset.store(number, order),
        so::SELECT_ERR_QUEUE => common.select_err_queue.store(is_on, order),
        so::BUSY_POLL if number < 0 => return Err(EINVAL),
        so::BUSY_POLL => common.stored.lock().busy_poll = number,
        so::MAX_PACING_RATE => {
            let rate = if value.len() >= 8 {
                long(value, 0)?.cast_unsigned()
            } else {
                number.cast_unsigned().into()
            };
            common.stored.lock().max_pacing_rate = rate;
        }
        so::INCOMING_CPU => common.stored.lock().incoming_cpu = number,
        so::PASSSEC | so::PASSPIDFD if common.domain() != af::UNIX => return Err(EOPNOTSUPP),
        so::PASSSEC => common.stored.lock().passsec = is_on,
        so::PASSPIDFD => common.pass_pidfd.store(is_on, order),
        so::DETACH_FILTER => common.filters.detach()?,
        so::DETACH_REUSEPORT_BPF => socket.set_chooser(None)?,
        so::LOCK_FILTER => common.filters.lock(is_on)?,
        so::WIFI_STATUS | so::NOFCS => {
            let mut stored = common.stored.lock();
            stored.switches = stored.switches & !(1 << name) | u64::from(is_on) << name;
        }
        // A hint that the route should be looked up again: that is done for each packet.
        so::CNX_ADVICE => {}
        so::TXREHASH if !common.is_stream() => return Err(EOPNOTSUPP),
        so::TXREHASH if !(-1..=1).contains(&number) => return Err(EINVAL),
        so::TXREHASH => common.stored.lock().no_rehash = number == 0,
        so::BINDTOIFINDEX => match number {
            0 | 1 => common.stored.lock().bound_if = number as u32,
            n if n < 0 => return Err(EINVAL),
            _ => return Err(ENODEV),
        },
        so::BUF_LOCK if number & !(SEND_LOCK | RECEIVE_LOCK) as i32 != 0 => return Err(EINVAL),
        so::BUF_LOCK => common.stored.lock().buf_lock = number as u32,
        _ => return Err(ENOPROTOOPT),
    }
    Ok(())
}

/// `PACKET_FANOUT_DATA`, whose value is a program as well.
pub const FANOUT_DATA: i32 = 22;

/// Attaches a program: `SO_ATTACH_FILTER` or `SO_ATTACH_REUSEPORT_CBPF`, `PACKET_FANOUT_DATA`.
///
/// # Errors
/// `EPERM`: filters are locked; `EINVAL`: it is no program; `ENOMEM`; `EOPNOTSUPP`: the host's kernel receives.
pub fn attach(socket: &dyn Socket, name: i32, list: Vec<Instruction>) -> Result<(), Errno> {
    let common = socket.common();
    if common.net.host.is_some() && matches!(common.domain(), af::INET | af::INET6) {
        return Err(EOPNOTSUPP);
    }
    if name == so::ATTACH_FILTER {
        return common.filters.attach(list);
    }
    common.filters.check_lock()?;
    if let Some(packet) = socket.as_any().downcast_ref::<PacketSocket>()
        && name == FANOUT_DATA
    {
        return packet.set_fanout_program(Attached::new(list)?);
    }
    socket.set_chooser(Some(Attached::new(list)?))
}

/// Whether `MSG_ZEROCOPY` means something.
pub fn has_error_queue(common: &Common) -> bool {
    let is_inet = matches!(common.domain(), af::INET | af::INET6);
    is_inet && matches!(common.protocol, ipproto::TCP | ipproto::UDP)
}

/// `SO_TXTIME` (`struct sock_txtime`): on the loopback no packet waits for its time.
///
/// Source: Linux 6.12 net/core/sock.c, `sk_setsockopt`.
fn set_transmit_time(common: &Common, caller: &Caller<'_>, value: &[u8]) -> Result<(), Errno> {
    const FLAGS: u32 = 3;
    const MONOTONIC: i32 = 1;
    let (clock, flags) = (int(value)?, int(value.get(4..).ok_or(EINVAL)?)?.cast_unsigned());
    if value.len() != 8 || flags & !FLAGS != 0 {
        return Err(EINVAL);
    }
    if clock != MONOTONIC && !common.net.grants(caller.cred, cap::NET_ADMIN) {
        return Err(EPERM);
    }
    common.stored.lock().txtime = Some((clock, flags));
    Ok(())
}

/// `SO_BINDTODEVICE`: there is `lo` only.
fn bind_to_device(common: &Common, value: &[u8]) -> Result<(), Errno> {
    let name = value.split(|&b| b == 0).next().unwrap_or(&[]);
    if !name.is_empty() && name != b"lo" {
        return Err(ENODEV);
    }
    let mut stored = common.stored.lock();
    stored.device = name.to_vec();
    stored.bound_if = u32::from(!name.is_empty());
    Ok(())
}

/// The value of an option of any level; the caller cuts it to the buffer's length.
///
/// # Errors
/// Those of getsockopt(2).
pub fn get(socket: &dyn Socket, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
    if level == sol::IP && name == LOCAL_PORT_RANGE && socket.has_ports() {
        return Ok(socket.common().port_range.load(Ordering::Relaxed).to_le_bytes().to_vec());
    }
    if level != sol::SOCKET || socket.owns_option(level, name) {
        return socket.option(level, name, given);
    }
    let common = socket.common();
    let stored = common.stored.lock().clone();
    let order = Ordering::Relaxed;
    let number: i32 = match name {
        so::DEBUG => stored.debug.into(),
        so::REUSEADDR => common.reuse_addr.load(order).into(),
        so::REUSEPORT => common.reuse_port.load(order).into(),
        so::TYPE => common.kind as i32,
        so::PROTOCOL => common.protocol,
        so::DOMAIN => common.domain().into(),
        so::ERROR => common.take_error().map_or(0, Errno::raw),
        so::DONTROUTE => stored.dont_route.into(),
        so::BROADCAST => common.broadcast.load(order).into(),
        so::SNDBUF => common.send_limit() as i32,
        so::RCVBUF => common.receive_limit() as i32,
        so::KEEPALIVE => common.keepalive.load(order).into(),
        so::OOBINLINE => common.oob_inline.load(order).into(),
        so::NO_CHECK => stored.no_check.into(),
        so::PRIORITY => stored.priority,
        so::LINGER => {
            let on = u32::from(stored.linger.is_some());
            return Ok([on.to_le_bytes(), stored.linger_seconds.to_le_bytes()].concat());
        }
        so::BSDCOMPAT => 0,
        so::PASSCRED if !has_credentials(common) => return Err(EOPNOTSUPP),
        so::PASSCRED => common.passcred.load(order).into(),
        so::PEERCRED => {
            let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
            return Ok(socket.peer_cred().map_or(nobody, |c| c.ucred).to_bytes().to_vec());
        }
        so::PEERGROUPS => {
            let groups = socket.peer_cred().ok_or(ENODATA)?.groups;
            return Ok(groups.iter().flat_map(|g| g.to_le_bytes()).collect());
        }
        so::PEERNAME => return socket.peer_name().map_err(|_| ENOTCONN),
        so::RCVLOWAT => common.low_water.load(order) as i32,
        so::SNDLOWAT => 1,
        so::RCVTIMEO | so::RCVTIMEO_NEW => return Ok(timeval(common.receive_timeout.load(order))),
        so::SNDTIMEO | so::SNDTIMEO_NEW => return Ok(timeval(common.send_timeout.load(order))),
        so::TIMESTAMP | so::TIMESTAMP_NEW | so::TIMESTAMPNS | so::TIMESTAMPNS_NEW => {
            common.stamps.get(name).into()
        }
        so::TIMESTAMPING | so::TIMESTAMPING_NEW => {
            return Ok([common.stamps.shown_flags(name).to_le_bytes(), [0; 4]].concat());
        }
        so::ACCEPTCONN => socket.is_listening().into(),
        so::MARK => stored.mark as i32,
        so::RCVMARK => stored.rcvmark.into(),
        so::RXQ_OVFL => stored.rxq_ovfl.into(),
        so::LOCK_FILTER => common.filters.is_locked().into(),
        so::WIFI_STATUS | so::NOFCS => (stored.switches >> name & 1) as i32,
        // SKF_AD_MAX: what filters can ask about a packet.
        so::BPF_EXTENSIONS => 64,
        so::INCOMING_NAPI_ID | so::PREFER_BUSY_POLL | so::RESERVE_MEM => 0,
        so::TXREHASH if !common.is_stream() => return Err(EOPNOTSUPP),
        so::TXREHASH => (!stored.no_rehash).into(),
        so::TXTIME => {
            let (clock, flags) = stored.txtime.unwrap_or_default();
            return Ok([clock.to_le_bytes(), flags.to_le_bytes()].concat());
        }
        so::PEERPIDFD if common.domain() != af::UNIX => return Err(ENODATA),
        so::ZEROCOPY => common.zerocopy.load(order).into(),
        so::PEEK_OFF if !socket.has_peek_offset() => return Err(EOPNOTSUPP),
        so::PEEK_OFF => common.peek_offset.load(order),
        so::SELECT_ERR_QUEUE => common.select_err_queue.load(order).into(),
        so::BUSY_POLL => stored.busy_poll,
        so::MAX_PACING_RATE if given.len() >= 8 => return Ok(stored.max_pacing_rate.to_le_bytes().to_vec()),
        so::MAX_PACING_RATE => u32::try_from(stored.max_pacing_rate).unwrap_or(u32::MAX).cast_signed(),
        so::INCOMING_CPU => stored.incoming_cpu,
        so::PASSSEC | so::PASSPIDFD if common.domain() != af::UNIX => return Err(EOPNOTSUPP),
        so::PASSSEC => stored.passsec.into(),
        so::PASSPIDFD => common.pass_pidfd.load(order).into(),
        so::BINDTODEVICE if stored.device.is_empty() => return Ok(Vec::new()),
        so::BINDTODEVICE => return Ok([&stored.device[..], &[0]].concat()),
        so::BINDTOIFINDEX => stored.bound_if as i32,
        so::COOKIE => {
            return if given.len() < 8 { Err(EINVAL) } else { Ok(common.ino.to_le_bytes().to_vec()) };
        }
        so::NETNS_COOKIE => {
            return if given.len() == 8 { Ok(1u64.to_le_bytes().to_vec()) } else { Err(EINVAL) };
        }
        so::BUF_LOCK => stored.buf_lock as i32,
        so::MEMINFO => return Ok(memory_info(socket)),
        _ => return Err(ENOPROTOOPT),
    };
    Ok(number.to_le_bytes().to_vec())
}

/// Whether messages can tell who sent them.
fn has_credentials(common: &Common) -> bool {
    matches!(common.domain(), af::UNIX | af::NETLINK)
}

/// `SK_MEMINFO_*`.
fn memory_info(socket: &dyn Socket) -> Vec<u8> {
    let common = socket.common();
    let queued = socket.readable_bytes().unwrap_or(0);
    let sent = socket.unsent_bytes().unwrap_or(0);
    let words = [queued, common.receive_limit(), sent, common.send_limit(), 0, 0, 0, 0, 0];
    words.iter().flat_map(|&w| u32::try_from(w).unwrap_or(u32::MAX).to_le_bytes()).collect()
}

fn timeval(ns: u64) -> Vec<u8> {
    [(ns / 1_000_000_000).to_le_bytes(), (ns % 1_000_000_000 / 1000).to_le_bytes()].concat()
}
