//! TCP between two sockets of the sandbox (tcp(7)): what one end writes lies in the other's ring at once.
//!
//! Segments, acknowledgements and their timers have nothing to do on such a path. What a program can see of them is
//! kept: states, refused and reset connections, half-closed ones, the backlog and its limit, `TIME_WAIT`, urgent data,
//! the options.
//!
//! Reading order: this file (the socket), `end.rs` (an end of a connection: bytes and flags), `hold.rs` (what is held back), `connect.rs` (connections
//! and their end), `show.rs` (what packets there would have been), `options.rs`.

mod connect;
mod end;
mod hold;
mod options;
mod show;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EINVAL, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPIPE};
use abi::socket::{af, ipproto, msg, sock, sol};
use base::io::Sink;
use base::lock::{Lock, rank};
use base::wait::Events;

use crate::filter::Attached;
use crate::message::{Incoming, Outgoing};
use crate::report::{InetReport, Report};
use crate::socket::{Caller, Socket};
use crate::stamps::flag;
use crate::{Common, Namespace};
pub(crate) use connect::Backlog;
use connect::Connecting;
use end::End;
use hold::Waits;
use options::TcpOptions;

use super::address::{self, Local};
use super::ancillary::Marks;
use super::become_ipv4;
use super::errors::Errors;
use super::options::{Facts, IpOptions, ipv6};
use super::ports::Held;

/// `TCP_*` states (`net/tcp_states.h`).
#[expect(missing_docs, reason = "RFC 9293 explains each")]
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LISTEN: u8 = 10;
}

/// A connection as one of its sockets has it.
#[derive(Debug)]
struct Link {
    own: Arc<End>,
    peer: Arc<End>,
    local: SocketAddr,
    remote: SocketAddr,
}

#[derive(Debug, Default)]
enum Phase {
    /// Not connected: new, or disconnected.
    #[default]
    Closed,
    /// A connection was refused; whoever asks gets to know.
    Refused,
    Listening(Arc<Backlog>),
    /// Waits until the listener has room.
    Connecting(Arc<Connecting>),
    Linked(Arc<Link>),
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Linux's `SS_CONNECTING`: a call of `connect` has not been told yet how it went.
    is_connecting: bool,
    /// The port, once there is one.
    held: Option<Arc<Held<Backlog>>>,
    /// The address that `bind` or a connection gave.
    ip: Option<std::net::IpAddr>,
    /// Whether `bind` gave the address.
    is_bound: bool,
}

/// A TCP socket.
#[derive(Debug)]
pub struct TcpSocket {
    this: Weak<Self>,
    common: Arc<Common>,
    state: Lock<State, { rank::SOCKET }>,
    options: Lock<TcpOptions, { rank::LEAF }>,
    ip: Lock<IpOptions, { rank::LEAF }>,
    errors: Errors,
    /// `RECEIVE`, `SEND`: `shutdown` was called without a connection.
    shut_early: AtomicU32,
    /// `TCP_CORK`.
    cork: AtomicBool,
}

/// Bits of a shutdown.
const RECEIVE: u32 = 1;

/// `SO_SNDBUF` of a connected socket, as far as `net.ipv4.tcp_wmem` allows it.
const SEND_BUFFER_TUNED: usize = 3_939_840;

/// Makes a socket of `domain`.
pub fn new(net: &Arc<Namespace>, domain: u16, owner: (u32, u32)) -> Arc<TcpSocket> {
    let common = Common::new(net, domain, sock::STREAM, ipproto::TCP, owner);
    common.send_buffer.store(net.sysctl.tcp_wmem[1].size(), Ordering::Relaxed);
    common.receive_buffer.store(net.sysctl.tcp_rmem[1].size(), Ordering::Relaxed);
    TcpSocket::with(common)
}

impl TcpSocket {
    fn with(common: Arc<Common>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            state: Lock::new(State::default()),
            options: Lock::new(TcpOptions::new(&common.net.sysctl)),
            ip: Lock::new(IpOptions::new(&common.net.sysctl)),
            errors: Errors::default(),
            shut_early: AtomicU32::new(0),
            cork: AtomicBool::new(false),
            common,
        })
    }

    fn link(&self) -> Option<Arc<Link>> {
        match &self.state.lock().phase {
            Phase::Linked(link) => Some(link.clone()),
            _ => None,
        }
    }

    /// What `bind` to `ip` covers.
    fn local(&self, ip: std::net::IpAddr) -> Local {
        Local { ip, v6only: self.ip.lock().has6(ipv6::V6ONLY) }
    }

    /// The state as `TCP_INFO` and `/proc/net/tcp` show it.
    pub fn tcp_state(&self) -> u8 {
        match &self.state.lock().phase {
            Phase::Closed | Phase::Refused => state::CLOSE,
            Phase::Listening(_) => state::LISTEN,
            Phase::Connecting(_) => state::SYN_SENT,
            Phase::Linked(link) => link.own.tcp_state(),
        }
    }

    fn facts(&self) -> Facts {
        let state = self.state.lock();
        Facts {
            kind: sock::STREAM,
            is_bound: state.held.is_some(),
            is_connected: matches!(state.phase, Phase::Linked(_)),
        }
    }

    /// Local and remote address, for `/proc/net/tcp`.
    pub fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let any = address::any(self.common.domain());
        let state = self.state.lock();
        let port = state.held.as_ref().map_or(0, |h| h.port);
        let local = (state.ip.unwrap_or(any), port).into();
        match &state.phase {
            Phase::Linked(link) => (link.local, Some(link.remote)),
            Phase::Connecting(c) => (local, Some(c.remote)),
            _ => (local, None),
        }
    }
}

impl Socket for TcpSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        self.bind_to(caller, address)
    }

    fn listen(&self, _caller: &Caller<'_>, backlog: usize) -> Result<(), Errno> {
        self.listen_for(backlog)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        self.accept_next().map(|s| s as Arc<dyn Socket>)
    }

    fn connect(&self, _caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        self.connect_to(address)
    }

    fn connected(&self) -> Result<(), Errno> {
        self.connect_result()
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        Ok(address::to_bytes(self.common.domain(), self.addresses().0))
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let link = self.link().filter(|l| !l.own.is_over()).ok_or(ENOTCONN)?;
        Ok(address::to_bytes(self.common.domain(), link.remote))
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        self.shut(how)
    }

    /// Source: Linux 6.12 net/ipv4/tcp.c, `tcp_sendmsg_locked`.
    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        let link = match &self.state.lock().phase {
            Phase::Linked(link) => link.clone(),
            Phase::Connecting(_) => return Err(EAGAIN),
            _ => return Err(self.common.take_error().unwrap_or(EPIPE)),
        };
        let marks = Marks::of_socket(&self.common, caller, message.controls)?;
        let waits = match message.flags & msg::MORE {
            _ if self.cork.load(Ordering::Relaxed) => Waits::Cork,
            0 => Waits::Not,
            _ => Waits::More,
        };
        let n = link.own.send(&link.peer, message.data, message.flags & msg::OOB != 0, waits)?;
        if message.flags & msg::ZEROCOPY != 0 && n > 0 && self.common.zerocopy.load(Ordering::Relaxed) {
            self.errors.copied(&self.common);
        }
        let stamps = marks.stamp_flags(&self.common);
        if stamps & flag::RECORD != 0 && message.data.remaining() == 0 && n > 0 {
            let key = self.common.stamps.key_of(link.own.sent_bytes.load(Ordering::Relaxed));
            self.errors.sent(&self.common, stamps, key, || (Vec::new(), None));
        }
        Ok(n)
    }

    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        if flags & msg::ERRQUEUE != 0 {
            return self.errors.receive(&self.common, dst);
        }
        let link = match &self.state.lock().phase {
            Phase::Linked(link) => link.clone(),
            Phase::Connecting(_) => return Err(EAGAIN),
            Phase::Refused => {
                self.common.check_error()?;
                return Ok(Incoming { stops: true, from: Some(Vec::new()), ..Incoming::default() });
            }
            Phase::Closed | Phase::Listening(_) => {
                self.common.check_error()?;
                return if self.shut_early.load(Ordering::Relaxed) & RECEIVE != 0 {
                    Ok(Incoming { stops: true, from: Some(Vec::new()), ..Incoming::default() })
                } else {
                    Err(ENOTCONN)
                };
            }
        };
        link.own.receive(&link.peer, dst, flags)
    }

    /// Source: Linux 6.12 net/ipv4/tcp.c, `tcp_poll`.
    fn ready(&self) -> Events {
        let mut events = Events::empty();
        if self.common.has_error() || !self.errors.is_empty() {
            events |= Events::ERR;
        }
        let state = self.state.lock();
        let link = match &state.phase {
            Phase::Closed if self.shut_early.load(Ordering::Relaxed) & RECEIVE != 0 => {
                return events | Events::HUP | Events::WRITABLE | Events::READABLE | Events::RDHUP;
            }
            Phase::Closed => return events | Events::HUP | Events::WRITABLE,
            Phase::Refused => {
                return events | Events::HUP | Events::WRITABLE | Events::READABLE | Events::RDHUP;
            }
            Phase::Listening(backlog) => {
                return if backlog.is_empty() { events } else { events | Events::READABLE };
            }
            Phase::Connecting(_) => return events,
            Phase::Linked(link) => link.clone(),
        };
        drop(state);
        events | link.own.ready(&link.peer)
    }

    fn set_option(&self, caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        match level {
            sol::TCP => self.set_tcp_option(caller, name, value),
            sol::IP => {
                let facts = self.facts();
                self.ip.lock().set(caller, &facts, name, value)
            }
            sol::IPV6 if self.common.domain() == af::INET6 && name == ipv6::ADDRFORM => {
                let remote =
                    self.link().filter(|l| l.own.tcp_state() == state::ESTABLISHED).map(|l| l.remote);
                let v6only = self.ip.lock().has6(ipv6::V6ONLY);
                become_ipv4(&self.common, remote, v6only, value)
            }
            sol::IPV6 if self.common.domain() == af::INET6 => {
                let facts = self.facts();
                self.ip.lock().set6(caller, &facts, name, value)
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        match level {
            sol::TCP => self.tcp_option(name, given),
            sol::IP => {
                let facts = self.facts();
                self.ip.lock().get(&facts, name, given)
            }
            sol::IPV6 if self.common.domain() == af::INET6 => {
                let facts = self.facts();
                self.ip.lock().get6(&facts, name, given)
            }
            _ => Err(EOPNOTSUPP),
        }
    }

    fn stamp_base(&self) -> Result<u64, Errno> {
        let link = self.link().filter(|l| !l.own.is_over()).ok_or(EINVAL)?;
        Ok(link.own.sent_bytes.load(Ordering::Relaxed))
    }

    fn is_listening(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Listening(_))
    }

    fn has_ports(&self) -> bool {
        true
    }

    fn set_chooser(&self, chooser: Option<Arc<Attached>>) -> Result<(), Errno> {
        let state = self.state.lock();
        match (&state.held, &state.phase) {
            (Some(held), Phase::Listening(_)) => held.set_chooser(&self.common, chooser),
            _ => {
                let shares = self.common.reuse_port.load(Ordering::Relaxed);
                self.common.filters.choose_later(shares, chooser)
            }
        }
    }

    fn has_peek_offset(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        match &self.state.lock().phase {
            Phase::Listening(_) => Err(EINVAL),
            Phase::Linked(link) => Ok(link.own.readable_bytes()),
            _ => Ok(0),
        }
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        match &self.state.lock().phase {
            Phase::Listening(_) => Err(EINVAL),
            Phase::Linked(link) => Ok(link.own.unsent(&link.peer)),
            _ => Ok(0),
        }
    }

    fn at_mark(&self) -> Result<bool, Errno> {
        Ok(self.link().is_some_and(|link| link.own.is_at_mark()))
    }

    fn report(&self, list: &mut Vec<Report>) {
        let state = self.tcp_state();
        let (local, remote) = self.addresses();
        let is_hashed = self.state.lock().held.is_some() && state != state::CLOSE;
        let phase = self.state.lock();
        let backlog = match &phase.phase {
            Phase::Listening(backlog) => Some(backlog.clone()),
            _ => None,
        };
        drop(phase);
        let (receive_queue, send_queue) = match &backlog {
            Some(backlog) => backlog.fill(),
            None => (self.readable_bytes().unwrap_or(0), self.unsent_bytes().unwrap_or(0)),
        };
        let v6only = self.ip.lock().has6(ipv6::V6ONLY);
        list.push(Report::Inet(InetReport {
            state,
            is_hashed,
            receive_queue,
            send_queue,
            v6only,
            congestion: self.congestion(),
            info: self.info(),
            ..InetReport::of(&self.common, local, remote)
        }));
        for waiting in backlog.map(|b| b.sockets()).unwrap_or_default() {
            let from = list.len();
            waiting.report(list);
            for report in list.iter_mut().skip(from) {
                if let Report::Inet(r) = report {
                    r.ino = 0;
                }
            }
        }
        if let Some(link) = self.link()
            && let Some(state) = link.own.orphaned_peer(&link.peer)
        {
            list.push(Report::Inet(InetReport {
                state,
                is_hashed: true,
                ..InetReport::new(self.common.domain(), ipproto::TCP, link.remote, Some(link.local))
            }));
        }
    }

    fn close(&self) {
        self.end();
    }
}
