//! The host's network (`--net host`): sockets of AF_INET and AF_INET6 that are sockets of the host.
//!
//! The host's kernel keeps the protocol, the ports and the queues. A thread watches all of them for changes of readiness
//! and tells those who wait here. Options reach the host only when they are in a list.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EAFNOSUPPORT, EAGAIN, EINPROGRESS, EINVAL, ENOPROTOOPT, EOPNOTSUPP};
use abi::socket::{af, ipproto, msg, so, sock, sol};
use base::cred::cap;
use base::io::Sink;
use base::lock::{Lock, rank};
use base::wait::Events;
use host::net as host_net;

use crate::message::{Incoming, Outgoing, parse_controls};
use crate::report::{InetReport, Report};
use crate::socket::{Caller, Socket};
use crate::{Common, Namespace};

/// Bytes that the host is given at once: so few that it has room for all of them when it says that it has some.
const PIECE: usize = 16 << 10;
/// The most bytes that one call moves.
const MOST: usize = 256 << 10;
/// The longest datagram that any family carries: its length has 16 bits.
const DATAGRAM_MAX: usize = 65535;

/// What watches the host's sockets.
#[derive(Debug)]
pub struct Host {
    watcher: host_net::Watcher,
    watched: Lock<HashMap<u64, Weak<Common>>, { rank::LEAF }>,
}

impl Host {
    /// Starts the thread that watches.
    ///
    /// # Errors
    /// What the host says.
    pub fn start() -> Result<Arc<Self>, Errno> {
        let this = Arc::new(Self { watcher: host_net::Watcher::new()?, watched: Lock::default() });
        let watching = this.clone();
        let thread = std::thread::Builder::new().name("host-net".into()).spawn(move || watching.run());
        thread.map_err(|e| e.raw_os_error().and_then(Errno::from_raw).unwrap_or(EAGAIN))?;
        Ok(this)
    }

    /// The watcher's life: as long as the process.
    fn run(&self) {
        loop {
            match self.watcher.wait() {
                Ok(changes) => {
                    for (key, events) in changes {
                        let common = self.watched.lock().get(&key).and_then(Weak::upgrade);
                        if let Some(common) = common {
                            common.wait.notify(events_of(events as u16));
                        }
                    }
                }
                Err(e) => {
                    log::error!("cannot watch the host's sockets: {e}");
                    return;
                }
            }
        }
    }
}

/// The host's `POLL*` or `EPOLL*`, with what always goes together.
fn events_of(bits: u16) -> Events {
    let mut events = Events::from_bits_truncate(bits.into());
    if events.contains(Events::IN) {
        events |= Events::READABLE;
    }
    if events.contains(Events::OUT) {
        events |= Events::WRITABLE;
    }
    events
}

/// Options that reach the host, by level and name; the same list as in the table of host calls.
const SETTABLE: &[(i32, &[i32])] = &[
    (
        sol::SOCKET,
        &[
            so::REUSEADDR,
            so::REUSEPORT,
            so::KEEPALIVE,
            so::BROADCAST,
            so::LINGER,
            so::OOBINLINE,
            so::SNDBUF,
            so::RCVBUF,
            so::RCVLOWAT,
            so::TIMESTAMP,
        ],
    ),
    // NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, DEFER_ACCEPT, QUICKACK, USER_TIMEOUT
    (sol::TCP, &[1, 3, 4, 5, 6, 9, 12, 18]),
    // TOS, TTL, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS
    (sol::IP, &[1, 2, 8, 10, 11, 12, 13]),
    // UNICAST_HOPS, RECVERR, V6ONLY, RECVPKTINFO, RECVHOPLIMIT, RECVTCLASS, TCLASS
    (sol::IPV6, &[16, 25, 26, 49, 51, 66, 67]),
];

/// Options that can be asked for beside those that can be set: `TCP_MAXSEG`, `TCP_INFO`, `TCP_CONGESTION`, `IP_MTU`,
/// `IPV6_MTU`.
const READABLE: &[(i32, &[i32])] = &[
    (sol::SOCKET, &[so::ERROR, so::ACCEPTCONN]),
    (sol::TCP, &[2, 11, 13]),
    (sol::IP, &[14]),
    (sol::IPV6, &[24]),
];

/// Control messages that a sender may add: `IP_TOS`, `IP_TTL`, `IP_PKTINFO`; `IPV6_PKTINFO`, `HOPLIMIT`, `TCLASS`.
const SENDABLE: &[(i32, &[i32])] = &[(sol::IP, &[1, 2, 8]), (sol::IPV6, &[50, 52, 67])];

fn is_in(list: &[(i32, &[i32])], level: i32, name: i32) -> bool {
    list.iter().any(|(l, names)| *l == level && names.contains(&name))
}

/// A socket of the host.
#[derive(Debug)]
pub struct HostSocket {
    host: Arc<Host>,
    common: Arc<Common>,
    fd: OwnedFd,
    /// A connection is under way.
    is_connecting: AtomicBool,
    /// Bytes taken from a program for which the host had no room after all.
    unsent: Lock<Vec<u8>, { rank::LEAF }>,
}

/// Makes a socket for TCP or UDP.
///
/// # Errors
/// The host's.
pub fn new(
    net: &Arc<Namespace>,
    host: &Arc<Host>,
    domain: u16,
    kind: u32,
    owner: (u32, u32),
) -> Result<Arc<HostSocket>, Errno> {
    let fd = host_net::socket(domain == af::INET6, kind == sock::STREAM)?;
    let protocol = if kind == sock::STREAM { ipproto::TCP } else { ipproto::UDP };
    HostSocket::with(host.clone(), Common::new(net, domain, kind, protocol, owner), fd)
}

impl HostSocket {
    fn with(host: Arc<Host>, common: Arc<Common>, fd: OwnedFd) -> Result<Arc<Self>, Errno> {
        host.watched.lock().insert(common.ino, Arc::downgrade(&common));
        if let Err(e) = host.watcher.watch(fd.as_fd(), common.ino) {
            host.watched.lock().remove(&common.ino);
            return Err(e);
        }
        Ok(Arc::new(Self { host, common, fd, is_connecting: false.into(), unsent: Lock::default() }))
    }

    fn host_events(&self) -> Events {
        let asked = Events::READABLE | Events::WRITABLE | Events::PRI | Events::RDHUP | Events::RDBAND;
        match host::stdio::poll(self.fd.as_fd(), asked.bits() as u16, false) {
            Ok(found) => Events::from_bits_truncate(found.into()),
            Err(_) => Events::ERR,
        }
    }

    /// Gives the host what it had no room for; whether something is left.
    fn flush(&self) -> bool {
        let mut unsent = self.unsent.lock();
        if unsent.is_empty() {
            return false;
        }
        match host_net::send(self.fd.as_fd(), &unsent, &[], &[], 0) {
            Ok(n) => drop(unsent.drain(..n)),
            Err(EAGAIN) => {}
            // The connection is over; the next send is told.
            Err(_) => unsent.clear(),
        }
        !unsent.is_empty()
    }

    /// Only families that such a socket can have an address of get to the host.
    fn check_family(address: &[u8]) -> Result<(), Errno> {
        match address.first_chunk::<2>().map(|f| u16::from_le_bytes(*f)) {
            Some(af::INET | af::INET6 | af::UNSPEC) => Ok(()),
            Some(_) => Err(EAFNOSUPPORT),
            None => Err(EINVAL),
        }
    }

    fn take_host_error(&self) -> Option<Errno> {
        let value = host_net::option(self.fd.as_fd(), sol::SOCKET, so::ERROR, 4).ok()?;
        let number = i32::from_ne_bytes(*value.first_chunk::<4>()?);
        Errno::from_raw(number)
    }
}

impl Socket for HostSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        Self::check_family(address)?;
        // The sandbox's rule comes before the host's, whatever ringfence itself may do there.
        let port = address.get(2..4).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]));
        let first = self.common.net.sysctl.unprivileged_port[0].get();
        if port != 0 && i64::from(port) < first && !caller.cred.has(cap::NET_BIND_SERVICE) {
            return Err(EACCES);
        }
        host_net::bind(self.fd.as_fd(), address)
    }

    fn listen(&self, _caller: &Caller<'_>, backlog: usize) -> Result<(), Errno> {
        if !self.common.is_stream() {
            return Err(EOPNOTSUPP);
        }
        host_net::listen(self.fd.as_fd(), i32::try_from(backlog).unwrap_or(i32::MAX))
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        let fd = host_net::accept(self.fd.as_fd())?;
        let from = &self.common;
        let common = Common::new(&from.net, from.domain(), from.kind, from.protocol, from.owner());
        for (from, to) in
            [(&from.send_timeout, &common.send_timeout), (&from.receive_timeout, &common.receive_timeout)]
        {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(Self::with(self.host.clone(), common, fd)?)
    }

    fn connect(&self, _caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        Self::check_family(address)?;
        let result = host_net::connect(self.fd.as_fd(), address);
        self.is_connecting.store(result == Err(EINPROGRESS), Ordering::Relaxed);
        result
    }

    fn connected(&self) -> Result<(), Errno> {
        if !self.is_connecting.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.host_events().intersects(Events::WRITABLE | Events::ERR | Events::HUP) {
            return Err(EAGAIN);
        }
        self.is_connecting.store(false, Ordering::Relaxed);
        self.take_host_error().map_or(Ok(()), Err)
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        host_net::local_name(self.fd.as_fd())
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        host_net::peer_name(self.fd.as_fd())
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        self.flush();
        host_net::shutdown(self.fd.as_fd(), how)
    }

    fn send(&self, _caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        const FLAGS: u32 = msg::OOB | msg::DONTROUTE | msg::EOR | msg::MORE | msg::CONFIRM;
        if !message.to.is_empty() {
            Self::check_family(message.to)?;
        }
        let mut control = Vec::new();
        for c in message.controls {
            if !is_in(SENDABLE, c.level, c.kind) {
                return Err(EINVAL);
            }
            control.extend_from_slice(&(c.len() as u64).to_le_bytes());
            control.extend_from_slice(&c.level.to_le_bytes());
            control.extend_from_slice(&c.kind.to_le_bytes());
            control.extend_from_slice(&c.data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        if self.flush() {
            return Err(EAGAIN);
        }
        let is_ready = || self.host_events().intersects(Events::WRITABLE | Events::ERR | Events::HUP);
        // What is taken from the source cannot be given back, so nothing is before the host has room.
        if !is_ready() {
            return Err(EAGAIN);
        }
        let flags = message.flags & FLAGS;
        if !self.common.is_stream() {
            let len = message.data.remaining();
            if len > DATAGRAM_MAX {
                return Err(abi::errno::EMSGSIZE);
            }
            let mut data = vec![0; len];
            if !data.is_empty() && message.data.take(&mut data)? < data.len() {
                return Err(abi::errno::EFAULT);
            }
            return host_net::send(self.fd.as_fd(), &data, message.to, &control, flags);
        }
        let mut data = vec![0; message.data.remaining().min(PIECE)];
        if data.is_empty() {
            return host_net::send(self.fd.as_fd(), &[], message.to, &control, flags);
        }
        let mut done = 0;
        while message.data.remaining() > 0 && done < MOST && (done == 0 || is_ready()) {
            let taken = match message.data.take(&mut data) {
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            let bytes = data.get(..taken).unwrap_or(&[]);
            match host_net::send(self.fd.as_fd(), bytes, message.to, &control, flags) {
                Ok(n) if n == taken => done += n,
                Ok(n) => {
                    *self.unsent.lock() = bytes.get(n..).unwrap_or(&[]).to_vec();
                    return Ok(done + taken);
                }
                Err(EAGAIN) => {
                    *self.unsent.lock() = bytes.to_vec();
                    return Ok(done + taken);
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        const FLAGS: u32 = msg::OOB | msg::PEEK | msg::TRUNC | msg::ERRQUEUE;
        let is_stream = self.common.is_stream();
        let mut passed = flags & FLAGS;
        if !is_stream {
            // So that the length is told.
            passed |= msg::TRUNC;
        } else if flags & msg::TRUNC != 0 {
            passed &= !msg::TRUNC;
        }
        let mut data = vec![0; dst.remaining().min(MOST)];
        let got = host_net::receive(self.fd.as_fd(), &mut data, passed)?;
        let bytes = data.get(..got.len.min(data.len())).unwrap_or(&[]);
        let copied = if bytes.is_empty() { 0 } else { dst.put(bytes)? };
        if copied < bytes.len() {
            return Err(abi::errno::EFAULT);
        }
        let is_end = is_stream && bytes.is_empty() && !data.is_empty();
        Ok(Incoming {
            copied,
            full: got.len,
            flags: got.flags & (msg::TRUNC | msg::CTRUNC | msg::OOB | msg::ERRQUEUE),
            from: Some(got.from),
            controls: parse_controls(&got.control).unwrap_or_default(),
            stops: !is_stream || is_end || flags & msg::OOB != 0,
            ..Incoming::default()
        })
    }

    fn ready(&self) -> Events {
        let has_unsent = self.flush();
        let events = self.host_events();
        if has_unsent { events - Events::WRITABLE } else { events }
    }

    fn set_option(&self, _caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if !is_in(SETTABLE, level, name) {
            return Err(ENOPROTOOPT);
        }
        host_net::set_option(self.fd.as_fd(), level, name, value)
    }

    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        if !is_in(SETTABLE, level, name) && !is_in(READABLE, level, name) {
            return Err(ENOPROTOOPT);
        }
        host_net::option(self.fd.as_fd(), level, name, given.len())
    }

    fn owns_option(&self, level: i32, name: i32) -> bool {
        level == sol::SOCKET && (is_in(SETTABLE, level, name) || is_in(READABLE, level, name))
    }

    fn is_listening(&self) -> bool {
        let value = host_net::option(self.fd.as_fd(), sol::SOCKET, so::ACCEPTCONN, 4);
        value.is_ok_and(|v| v.first().is_some_and(|b| *b != 0))
    }

    fn has_ports(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        host::stdio::available(self.fd.as_fd()).map(|n| n as usize)
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        host_net::request(self.fd.as_fd(), false)
    }

    fn at_mark(&self) -> Result<bool, Errno> {
        host_net::request(self.fd.as_fd(), true).map(|n| n != 0)
    }

    fn report(&self, list: &mut Vec<Report>) {
        let address = |bytes: Result<Vec<u8>, Errno>| {
            bytes.ok().and_then(|b| crate::inet::address::parse_any(&b).ok()).map(|g| g.addr)
        };
        let Some(local) = address(self.local_name()) else { return };
        let remote = address(self.peer_name());
        let info = host_net::option(self.fd.as_fd(), sol::TCP, 11, 512).unwrap_or_default();
        let state = info.first().copied().unwrap_or(if remote.is_some() { 1 } else { 7 });
        list.push(Report::Inet(InetReport {
            state,
            is_hashed: local.port() != 0,
            receive_queue: self.readable_bytes().unwrap_or(0),
            send_queue: self.unsent_bytes().unwrap_or(0),
            info,
            ..InetReport::of(&self.common, local, remote)
        }));
    }

    fn close(&self) {
        self.flush();
        let gone = self.host.watched.lock().remove(&self.common.ino);
        drop(gone);
    }
}
