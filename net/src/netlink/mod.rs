//! AF_NETLINK (netlink(7)): how programs ask about the loopback device, its addresses and routes (`NETLINK_ROUTE`), and
//! about sockets (`NETLINK_SOCK_DIAG`).
//!
//! Reading order: this file (the socket), `message.rs` (the format), `dump.rs` (answers that may be long), `route.rs`,
//! `link.rs`, `diag.rs`, `filter.rs` (the filters of socket diagnosis).

mod diag;
mod dump;
mod filter;
mod link;
pub mod message;
mod route;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{
    EADDRINUSE, EAGAIN, EBUSY, ECONNREFUSED, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, ENOPROTOOPT, EOPNOTSUPP,
    EPERM,
};
use abi::socket::{Ucred, af, msg, scm, sol};
use base::bpf::Packet;
use base::cred::cap;
use base::io::Sink;
use base::lock::{Lock, rank};
use base::wait::Events;

use crate::message::{Control, Incoming, Outgoing};
use crate::options::int;
use crate::report::{NetlinkReport, Report};
use crate::socket::{Caller, Socket};
use crate::{Common, Namespace};
use dump::Dump;
use message::{Request, acknowledge, flag, kind, u16_at, u32_at};

/// `NETLINK_ROUTE`.
pub const ROUTE: i32 = 0;
/// `NETLINK_SOCK_DIAG`.
pub const SOCK_DIAG: i32 = 4;
/// Protocols from here on are none (`MAX_LINKS`).
pub const PROTOCOL_MAX: i32 = 32;
/// Size of `struct sockaddr_nl`.
const ADDRESS: usize = 12;
/// The least and the most bytes of a dump that one receive gives.
const CHUNK_MIN: usize = 8 << 10;
const CHUNK_MAX: usize = 32 << 10;
/// What a message takes of the receiver's buffer beside its bytes.
const OVERHEAD: usize = 256;
/// Groups of `NETLINK_ROUTE` (`RTNLGRP_MAX`, rounded up).
const GROUPS: u32 = 64;

/// AF_NETLINK sockets by protocol and port.
#[derive(Debug, Default)]
pub struct Ports {
    table: Lock<HashMap<(i32, u32), Weak<NetlinkSocket>>, { rank::LEAF }>,
    /// The last port that was picked when a process's ID was taken already.
    last: AtomicU32,
}

#[derive(Debug)]
struct Message {
    data: Vec<u8>,
    /// The sender's port: 0 is the kernel.
    from: u32,
    /// The group it was sent to, as a number; 0 for none.
    group: u32,
    cred: Ucred,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    /// A message was lost, and the program has not been told.
    is_overrun: bool,
    drops: u32,
    dump: Option<Dump>,
}

#[derive(Debug, Default)]
struct State {
    /// 0 as long as it has none.
    port: u32,
    is_bound: bool,
    /// Where messages without an address go: port and groups.
    peer: (u32, u32),
}

/// Numbers of options of level `SOL_NETLINK`.
mod option {
    pub(super) const ADD_MEMBERSHIP: i32 = 1;
    pub(super) const DROP_MEMBERSHIP: i32 = 2;
    pub(super) const PKTINFO: i32 = 3;
    pub(super) const BROADCAST_ERROR: i32 = 4;
    pub(super) const NO_ENOBUFS: i32 = 5;
    pub(super) const LISTEN_ALL_NSID: i32 = 8;
    pub(super) const LIST_MEMBERSHIPS: i32 = 9;
    pub(super) const CAP_ACK: i32 = 10;
    pub(super) const EXT_ACK: i32 = 11;
    pub(super) const GET_STRICT_CHK: i32 = 12;
    /// Those that are on or off.
    pub(super) const SWITCHES: [i32; 7] =
        [PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK];
}

/// A socket of AF_NETLINK.
#[derive(Debug)]
pub struct NetlinkSocket {
    this: Weak<Self>,
    common: Arc<Common>,
    state: Lock<State, { rank::SOCKET }>,
    queue: Lock<Queue, { rank::QUEUE }>,
    /// Groups that it hears, bit N-1 for group N.
    groups: std::sync::atomic::AtomicU64,
    /// Options that are on, by number.
    switches: AtomicU32,
}

/// Makes a socket of `protocol`; `None` when there is no such protocol.
pub fn new(net: &Arc<Namespace>, kind: u32, protocol: i32, owner: (u32, u32)) -> Option<Arc<NetlinkSocket>> {
    if !matches!(protocol, ROUTE | SOCK_DIAG) {
        return None;
    }
    let common = Common::new(net, af::NETLINK, kind, protocol, owner);
    Some(Arc::new_cyclic(|this| NetlinkSocket {
        this: this.clone(),
        common,
        state: Lock::new(State::default()),
        queue: Lock::new(Queue::default()),
        groups: 0.into(),
        switches: AtomicU32::new(0),
    }))
}

fn to_bytes(port: u32, groups: u32) -> Vec<u8> {
    let family = u32::from(af::NETLINK);
    [family, port, groups].iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// The mask of `sockaddr_nl` for a group's number.
fn group_bit(group: u32) -> u32 {
    if (1..=32).contains(&group) { 1 << (group - 1) } else { 0 }
}

/// Port and groups of a `sockaddr_nl`.
fn parse(bytes: &[u8]) -> Result<(u32, u32), Errno> {
    if bytes.len() < ADDRESS || u16_at(bytes, 0) != af::NETLINK {
        return Err(EINVAL);
    }
    Ok((u32_at(bytes, 4), u32_at(bytes, 8)))
}

/// Who asks, and what it may.
pub(crate) struct Asker<'a> {
    pub(crate) net: &'a Arc<Namespace>,
    pub(crate) port: u32,
    pub(crate) is_admin: bool,
}

/// What the kernel answers to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// An error, or an acknowledgement if that was asked for.
    Result(Result<(), Errno>),
    /// One message, and an acknowledgement if that was asked for.
    Message(Vec<u8>),
    Dump(Dump),
}

impl NetlinkSocket {
    fn has(&self, name: i32) -> bool {
        self.switches.load(Ordering::Relaxed) >> name & 1 == 1
    }

    /// Takes `port`, or one that is free for 0.
    ///
    /// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_autobind`, `netlink_insert`.
    fn take_port(&self, state: &mut State, port: u32, pid: i32) -> Result<(), Errno> {
        let ports = &self.common.net.netlink;
        let protocol = self.common.protocol;
        let mut table = ports.table.lock();
        let is_free =
            |port: u32| table.get(&(protocol, port)).is_none_or(|s| s.strong_count() == 0) && port != 0;
        let mut chosen = if port == 0 { pid.cast_unsigned() } else { port };
        while !is_free(chosen) {
            if port != 0 {
                return Err(EADDRINUSE);
            }
            // Ports beyond all process IDs: as negative numbers from -4097 downwards.
            chosen = (-4097i32).cast_unsigned().wrapping_sub(ports.last.fetch_add(1, Ordering::Relaxed));
        }
        table.insert((protocol, chosen), self.this.clone());
        drop(table);
        state.port = chosen;
        state.is_bound = true;
        Ok(())
    }

    fn bound_port(&self, caller: Option<&Caller<'_>>) -> Result<u32, Errno> {
        let mut state = self.state.lock();
        if !state.is_bound {
            self.take_port(&mut state, 0, caller.map_or(0, |c| c.shown_pid))?;
        }
        Ok(state.port)
    }

    /// Asks the socket's filter about a message, which may be cut; whether it is for the program.
    fn passes(&self, data: &mut Vec<u8>) -> bool {
        let packet = |bytes| Packet { bytes, protocol: self.common.protocol as u16, ..Packet::default() };
        let left = self.common.filters.keep(|run| run(&packet(data))).left(0, data.len());
        data.truncate(left.unwrap_or(0));
        left.is_some()
    }

    /// Puts a message in the queue; without room it is lost, and the program gets to know.
    fn deliver(&self, mut message: Message) {
        if !self.passes(&mut message.data) {
            return;
        }
        let mut queue = self.queue.lock();
        let size = message.data.len() + OVERHEAD;
        if queue.bytes + size > self.common.receive_limit() && !queue.messages.is_empty() {
            queue.drops += 1;
            if !self.has(option::NO_ENOBUFS) {
                queue.is_overrun = true;
                drop(queue);
                self.common.set_error(ENOBUFS);
            }
            return;
        }
        queue.bytes += size;
        queue.messages.push_back(message);
        drop(queue);
        self.common.wait.notify(Events::READABLE);
    }

    fn answer(&self, data: Vec<u8>, group: u32) {
        self.deliver(Message { data, from: 0, group, cred: Ucred { pid: 0, uid: 0, gid: 0 } });
    }

    /// Puts in its queue what another part of the kernel has to say, as mq_notify(2) does.
    pub fn tell(&self, data: Vec<u8>) {
        self.answer(data, 0);
    }

    /// Handles what a program sent to the kernel.
    ///
    /// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_rcv_skb`, `__netlink_dump_start`.
    fn ask(&self, asker: &Asker<'_>, mut bytes: &[u8]) {
        while let Some(request) = Request::next(&mut bytes) {
            if request.flags & flag::REQUEST == 0 {
                if request.flags & flag::ACK != 0 {
                    self.acknowledge(&request, Ok(()), asker.port);
                }
                continue;
            }
            let answer = match (self.common.protocol, request.kind) {
                (_, ..kind::MIN_TYPE) => Answer::Result(Ok(())),
                (ROUTE, _) => route::answer(asker, &request),
                _ => diag::answer(asker, &request),
            };
            match answer {
                Answer::Result(result) => {
                    if result.is_err() || request.flags & flag::ACK != 0 {
                        self.acknowledge(&request, result, asker.port);
                    }
                }
                Answer::Message(data) => {
                    self.answer(data, 0);
                    if request.flags & flag::ACK != 0 {
                        self.acknowledge(&request, Ok(()), asker.port);
                    }
                }
                Answer::Dump(dump) => {
                    let mut queue = self.queue.lock();
                    let is_busy = queue.dump.is_some();
                    if !is_busy {
                        queue.dump = Some(dump);
                    }
                    drop(queue);
                    if is_busy {
                        self.acknowledge(&request, Err(EBUSY), asker.port);
                    } else {
                        self.common.wait.notify(Events::READABLE);
                    }
                }
            }
        }
    }

    fn acknowledge(&self, request: &Request<'_>, result: Result<(), Errno>, port: u32) {
        self.answer(acknowledge(request, result, port, self.has(option::CAP_ACK)), 0);
    }

    fn set_groups(&self, protocol_groups: u64) {
        self.groups.store(protocol_groups, Ordering::Relaxed);
    }

    fn membership(&self, group: i32, is_member: bool) -> Result<(), Errno> {
        let group = u32::try_from(group).ok().filter(|g| (1..=GROUPS).contains(g)).ok_or(EINVAL)?;
        let bit = 1u64 << (group - 1);
        if is_member {
            self.groups.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.groups.fetch_and(!bit, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Tells the members of a group of `NETLINK_ROUTE` of a change.
fn tell(net: &Namespace, group: u32, data: &[u8]) {
    let members: Vec<Arc<NetlinkSocket>> = {
        let table = net.netlink.table.lock();
        table.iter().filter(|((p, _), _)| *p == ROUTE).filter_map(|(_, s)| s.upgrade()).collect()
    };
    let hears = |s: &&Arc<NetlinkSocket>| s.groups.load(Ordering::Relaxed) >> (group - 1) & 1 == 1;
    for member in members.iter().filter(hears) {
        member.answer(data.to_vec(), group);
    }
}

impl Socket for NetlinkSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    /// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_bind`.
    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        let (port, groups) = parse(address)?;
        // Everybody may hear the groups of NETLINK_ROUTE; those of SOCK_DIAG tell what others do.
        if groups != 0 && self.common.protocol != ROUTE && !caller.cred.has(cap::NET_ADMIN) {
            return Err(EPERM);
        }
        let mut state = self.state.lock();
        if state.is_bound {
            if port != state.port {
                return Err(EINVAL);
            }
        } else {
            self.take_port(&mut state, port, caller.shown_pid)?;
        }
        let high = self.groups.load(Ordering::Relaxed) & !u64::from(u32::MAX);
        self.set_groups(high | u64::from(groups));
        Ok(())
    }

    fn connect(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        if address.len() < 2 {
            return Err(EINVAL);
        }
        let mut state = self.state.lock();
        if u16_at(address, 0) == af::UNSPEC {
            state.peer = (0, 0);
            return Ok(());
        }
        let (port, groups) = parse(address)?;
        if (port != 0 || groups != 0) && !caller.cred.has(cap::NET_ADMIN) {
            return Err(EPERM);
        }
        if !state.is_bound {
            self.take_port(&mut state, 0, caller.shown_pid)?;
        }
        state.peer = (port, groups);
        Ok(())
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        let port = self.state.lock().port;
        Ok(to_bytes(port, self.groups.load(Ordering::Relaxed) as u32))
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let (port, groups) = self.state.lock().peer;
        Ok(to_bytes(port, groups))
    }

    fn shutdown(&self, _how: u32) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_sendmsg`.
    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        if message.flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let is_admin = caller.is_some_and(|c| self.common.net.grants(c.cred, cap::NET_ADMIN));
        let (port, groups) = if message.to.is_empty() {
            self.state.lock().peer
        } else {
            let (port, groups) = parse(message.to)?;
            if (port != 0 || groups != 0) && !is_admin {
                return Err(EPERM);
            }
            (port, groups)
        };
        let own = self.bound_port(caller)?;
        let len = message.data.remaining();
        if len > self.common.send_limit().saturating_sub(32) {
            return Err(EMSGSIZE);
        }
        let mut data = vec![0; len];
        if len > 0 && message.data.take(&mut data)? < len {
            return Err(EFAULT);
        }
        let cred = message.cred.or(caller.map(Caller::ucred)).unwrap_or(Ucred::NOBODY);
        if groups != 0 {
            let group = groups.trailing_zeros() + 1;
            let members: Vec<_> = {
                let table = self.common.net.netlink.table.lock();
                let ours = table.iter().filter(|((p, port), _)| *p == self.common.protocol && *port != own);
                ours.filter_map(|(_, s)| s.upgrade()).collect()
            };
            for member in members.iter().filter(|m| m.groups.load(Ordering::Relaxed) as u32 & groups != 0) {
                member.deliver(Message { data: data.clone(), from: own, group, cred });
            }
        }
        if port != 0 {
            let peer = self
                .common
                .net
                .netlink
                .table
                .lock()
                .get(&(self.common.protocol, port))
                .and_then(Weak::upgrade);
            peer.ok_or(ECONNREFUSED)?.deliver(Message { data, from: own, group: 0, cred });
        } else {
            self.ask(&Asker { net: &self.common.net, port: own, is_admin }, &data);
        }
        Ok(len)
    }

    /// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_recvmsg`.
    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        if flags & msg::OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        self.common.check_error()?;
        let mut queue = self.queue.lock();
        if queue.messages.is_empty()
            && let Some(mut dump) = queue.dump.take()
        {
            drop(queue);
            // Making it takes locks of other sockets.
            let (mut data, is_done) =
                dump.next_chunk(&self.common.net, dst.remaining().clamp(CHUNK_MIN, CHUNK_MAX));
            queue = self.queue.lock();
            if !is_done {
                queue.dump = Some(dump);
            }
            if !self.passes(&mut data) {
                return Err(EAGAIN);
            }
            queue.bytes += data.len() + OVERHEAD;
            let cred = Ucred { pid: 0, uid: 0, gid: 0 };
            queue.messages.push_back(Message { data, from: 0, group: 0, cred });
        }
        let message = queue.messages.front().ok_or(EAGAIN)?;
        let piece = &message.data[..message.data.len().min(dst.remaining())];
        let stored = if piece.is_empty() { Ok(0) } else { dst.put(piece) };
        let mut incoming = Incoming {
            copied: piece.len(),
            full: message.data.len(),
            flags: if piece.len() < message.data.len() { msg::TRUNC } else { 0 },
            from: Some(to_bytes(message.from, group_bit(message.group))),
            stops: true,
            ..Incoming::default()
        };
        if self.has(option::PKTINFO) {
            let data = message.group.to_ne_bytes();
            incoming.controls.push(Control::new(sol::NETLINK, option::PKTINFO, data));
        }
        if self.common.passcred.load(Ordering::Relaxed) {
            let cred = message.cred.to_bytes();
            incoming.controls.push(Control::new(sol::SOCKET, scm::CREDENTIALS, cred));
        }
        if flags & msg::PEEK == 0
            && let Some(taken) = queue.messages.pop_front()
        {
            queue.bytes = queue.bytes.saturating_sub(taken.data.len() + OVERHEAD);
            if queue.messages.is_empty() {
                queue.is_overrun = false;
            }
        }
        drop(queue);
        if stored? < incoming.copied {
            return Err(EFAULT);
        }
        Ok(incoming)
    }

    fn ready(&self) -> Events {
        let queue = self.queue.lock();
        let mut events = Events::WRITABLE | Events::WRBAND;
        if !queue.messages.is_empty() || queue.dump.is_some() {
            events |= Events::READABLE;
        }
        if self.common.has_error() {
            events |= Events::ERR;
        }
        events
    }

    fn raises_sigpipe(&self) -> bool {
        false
    }

    fn set_option(&self, caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if level != sol::NETLINK {
            return Err(ENOPROTOOPT);
        }
        let number = if value.len() >= 4 { int(value)? } else { 0 };
        match name {
            option::ADD_MEMBERSHIP | option::DROP_MEMBERSHIP => {
                if self.common.protocol != ROUTE && !caller.cred.has(cap::NET_ADMIN) {
                    return Err(EPERM);
                }
                self.membership(number, name == option::ADD_MEMBERSHIP)
            }
            option::LISTEN_ALL_NSID if !caller.cred.has(cap::NET_BROADCAST) => Err(EPERM),
            name if option::SWITCHES.contains(&name) => {
                let bit = 1u32 << name;
                if number != 0 {
                    self.switches.fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.switches.fetch_and(!bit, Ordering::Relaxed);
                }
                Ok(())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        if level != sol::NETLINK {
            return Err(ENOPROTOOPT);
        }
        match name {
            option::LIST_MEMBERSHIPS => Ok(self.groups.load(Ordering::Relaxed).to_ne_bytes()[..].to_vec()),
            name if option::SWITCHES.contains(&name) && name != option::LISTEN_ALL_NSID => {
                if given.len() < 4 {
                    return Err(EINVAL);
                }
                Ok(i32::from(self.has(name)).to_ne_bytes().to_vec())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        // datagrams know none of it: sock_no_ioctl.
        Err(abi::errno::ENOTTY)
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        Err(abi::errno::ENOTTY)
    }

    fn report(&self, list: &mut Vec<Report>) {
        let port = self.state.lock().port;
        let queue = self.queue.lock();
        list.push(Report::Netlink(NetlinkReport {
            protocol: self.common.protocol,
            port,
            groups: self.groups.load(Ordering::Relaxed) as u32,
            receive_queue: queue.bytes,
            drops: queue.drops,
            ino: self.common.ino,
            is_dumping: queue.dump.is_some(),
        }));
    }

    fn close(&self) {
        let port = self.state.lock().port;
        let mut table = self.common.net.netlink.table.lock();
        let key = (self.common.protocol, port);
        if table.get(&key).is_some_and(|s| std::ptr::eq(s.as_ptr(), self)) {
            table.remove(&key);
        }
        drop(table);
        let mut queue = self.queue.lock();
        let old = std::mem::take(&mut *queue);
        drop(queue);
        drop(old);
    }
}
