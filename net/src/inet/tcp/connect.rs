//! Connections: making them and ending them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{
    EAGAIN, EALREADY, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINVAL, EISCONN, ENETUNREACH,
    ENOTCONN,
};
use abi::socket::{af, shut};
use base::alarm::{Alarm, AlarmClock};
use base::lock::{Lock, rank};
use base::wait::Events;

use super::end::End;
use super::{Link, Phase, SEND_BUFFER_TUNED, State, TcpSocket, show};
use crate::common::Common;
use crate::filter::Verdict;
use crate::inet::address::{self, Given};
use crate::inet::options::ipv6;
use crate::inet::ports::Tuple;
use crate::inet::wire::{Frame, Segment};
use crate::inet::{check_bind, check_scope};
use crate::options::SEND_LOCK;
use crate::socket::Caller;

/// When a SYN that was dropped is sent again, in ns.
const AGAIN_NS: i64 = 1_000_000_000;

/// A socket that waits for room in a backlog.
#[derive(Debug)]
pub(super) struct Connecting {
    socket: Weak<TcpSocket>,
    local: SocketAddr,
    pub(super) remote: SocketAddr,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Connections that nobody has accepted.
    sockets: VecDeque<Arc<TcpSocket>>,
    limit: usize,
    is_closed: bool,
    /// Those who wait until one is accepted: Linux drops their SYNs, and they send them again.
    connecting: VecDeque<Arc<Connecting>>,
    /// An alarm is set to try them.
    is_trying: bool,
}

impl Waiting {
    /// `sk_acceptq_is_full`: one more than the backlog says.
    fn is_full(&self) -> bool {
        self.sockets.len() > self.limit
    }
}

/// What a listener has to accept.
#[derive(Debug)]
pub(crate) struct Backlog {
    this: Weak<Self>,
    listener: Weak<TcpSocket>,
    waiting: Lock<Waiting, { rank::QUEUE }>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().sockets.is_empty()
    }

    /// The connections.
    pub(super) fn sockets(&self) -> Vec<Arc<TcpSocket>> {
        self.waiting.lock().sockets.iter().cloned().collect()
    }

    /// Length and limit, for `TCP_INFO` and `ss`.
    pub(super) fn fill(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.sockets.len(), waiting.limit)
    }

    /// Connects `client`, whose state is locked, with a new socket to accept.
    ///
    /// # Errors
    /// `EAGAIN`: there is no room; `ECONNREFUSED`: it listens no more.
    fn establish(
        &self,
        client: &TcpSocket,
        state: &mut State,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), Errno> {
        let listener = self.listener.upgrade().ok_or(ECONNREFUSED)?;
        if self.waiting.lock().is_full() {
            return Err(EAGAIN);
        }
        let verdict = listener.common.filters.keep(|run| {
            let syn = Frame::tcp(local, remote, &Segment::SYN, &[]);
            run(&syn.view(syn.transport))
        });
        if verdict == Verdict::Nothing {
            self.try_later(&listener.common);
            return Err(EAGAIN);
        }
        let server = listener.child();
        let held = server.common.net.inet.tcp.accept(&server.common, (remote, local));
        let (client_end, server_end) = (
            End::new(&client.common, local, state.held.clone()),
            End::new(&server.common, remote, Some(held.clone())),
        );
        let ends = [(&client_end, &server_end), (&server_end, &client_end)];
        for (end, other) in ends {
            let _ = end.other.set(Arc::downgrade(other));
        }
        {
            // Nobody else knows the new socket, so its lock is free whatever is held.
            let mut new = server.state.lock_same_rank();
            new.held = Some(held);
            new.ip = Some(remote.ip());
            new.is_bound = true;
            let link =
                Link { own: server_end.clone(), peer: client_end.clone(), local: remote, remote: local };
            new.phase = Phase::Linked(Arc::new(link));
        }
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Err(ECONNREFUSED);
        }
        if waiting.is_full() {
            return Err(EAGAIN);
        }
        waiting.sockets.push_back(server.clone());
        state.phase = Phase::Linked(Arc::new(Link { own: client_end, peer: server_end, local, remote }));
        drop(waiting);
        if let Phase::Linked(link) = &state.phase {
            link.own.show_opening(&link.peer);
        }
        client.common.net.inet.counters.tcp_passive_opens.one();
        client.count(remote, 2, 0);
        tune(&client.common);
        tune(&server.common);
        listener.common.wait.notify(Events::READABLE);
        Ok(())
    }

    /// Has those who wait tried again after a while: a filter may let them in then.
    fn try_later(&self, common: &Common) {
        let Some(alarms) = common.net.alarms() else { return };
        if std::mem::replace(&mut self.waiting.lock().is_trying, true) {
            return;
        }
        let this = self.this.clone();
        let at = alarms.now(AlarmClock::Monotonic).saturating_add(AGAIN_NS);
        let _ = alarms.set(AlarmClock::Monotonic, at, this);
    }

    /// Lets in those who wait, while there is room.
    fn admit(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            if waiting.is_full() {
                return;
            }
            let Some(next) = waiting.connecting.pop_front() else { return };
            drop(waiting);
            let Some(client) = next.socket.upgrade() else { continue };
            let mut state = client.state.lock();
            // It may have given up meanwhile, and begun something else.
            if !matches!(&state.phase, Phase::Connecting(c) if Arc::ptr_eq(c, &next)) {
                continue;
            }
            match self.establish(&client, &mut state, next.local, next.remote) {
                Err(EAGAIN) => {
                    self.waiting.lock().connecting.push_front(next);
                    return;
                }
                Err(_) => client.refuse(&mut state, (next.local, next.remote)),
                Ok(()) => {}
            }
            drop(state);
            client.common.wait.notify(Events::WRITABLE);
        }
    }

    /// Ends what nobody accepted.
    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        let sockets = std::mem::take(&mut waiting.sockets);
        let connecting = std::mem::take(&mut waiting.connecting);
        drop(waiting);
        for socket in sockets {
            socket.end_with(true);
        }
        for next in connecting {
            let Some(client) = next.socket.upgrade() else { continue };
            let mut state = client.state.lock();
            if matches!(&state.phase, Phase::Connecting(c) if Arc::ptr_eq(c, &next)) {
                client.refuse(&mut state, (next.local, next.remote));
            }
        }
    }
}

impl Alarm for Backlog {
    fn ring(&self) {
        self.waiting.lock().is_trying = false;
        self.admit();
    }
}

/// A connection's send buffer grows, unless the program chose its size.
fn tune(common: &Common) {
    if common.stored.lock().buf_lock & SEND_LOCK == 0 {
        let most = common.net.sysctl.tcp_wmem[2].size();
        common.send_buffer.store(SEND_BUFFER_TUNED.min(most), Ordering::Relaxed);
    }
}

impl TcpSocket {
    pub(super) fn bind_to(&self, caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let net = &self.common.net.inet;
        let options = self.ip.lock().clone();
        let given = check_bind(&self.common.net, caller, self.common.domain(), &options, bytes)?;
        let mut state = self.state.lock();
        if state.held.is_some() || !matches!(state.phase, Phase::Closed | Phase::Refused) {
            return Err(EINVAL);
        }
        let local = self.local(given.addr.ip());
        state.held = Some(net.tcp.bind(&self.common, local, given.addr.port())?);
        state.ip = Some(given.addr.ip());
        state.is_bound = !given.addr.ip().is_unspecified();
        self.ip.lock().bound_to(&given);
        Ok(())
    }

    /// Source: Linux 6.12 net/ipv4/af_inet.c, `__inet_listen_sk`; inet_connection_sock.c, `inet_csk_listen_start`.
    pub(super) fn listen_for(&self, backlog: usize) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if let Phase::Listening(old) = &state.phase {
            let old = old.clone();
            drop(state);
            old.waiting.lock().limit = backlog;
            old.admit();
            return Ok(());
        }
        if !matches!(state.phase, Phase::Closed | Phase::Refused) {
            return Err(EINVAL);
        }
        let ip = state.ip.unwrap_or(address::any(self.common.domain()));
        let local = self.local(ip);
        let held = match &state.held {
            Some(held) => held.clone(),
            None => self.common.net.inet.tcp.bind(&self.common, local, 0)?,
        };
        held.listen(&self.common)?;
        let waiting = Waiting { limit: backlog, ..Waiting::default() };
        let new = Arc::new_cyclic(|this| Backlog {
            this: this.clone(),
            listener: self.this.clone(),
            waiting: Lock::new(waiting),
        });
        held.receive(Arc::downgrade(&new), local, None, &self.common);
        state.held = Some(held);
        state.ip = Some(ip);
        state.phase = Phase::Listening(new);
        state.is_connecting = false;
        drop(state);
        self.common.wait.notify(Events::WRITABLE);
        Ok(())
    }

    pub(super) fn accept_next(&self) -> Result<Arc<Self>, Errno> {
        let backlog = match &self.state.lock().phase {
            Phase::Listening(backlog) => backlog.clone(),
            _ => return Err(EINVAL),
        };
        let socket = backlog.waiting.lock().sockets.pop_front().ok_or(EAGAIN)?;
        backlog.admit();
        Ok(socket)
    }

    /// A new socket with a listener's options.
    fn child(&self) -> Arc<Self> {
        let order = Ordering::Relaxed;
        let from = &self.common;
        let new = super::new(&from.net, from.domain(), from.owner());
        let to = &new.common;
        let flags = [
            (&from.reuse_addr, &to.reuse_addr),
            (&from.reuse_port, &to.reuse_port),
            (&from.keepalive, &to.keepalive),
            (&from.oob_inline, &to.oob_inline),
            (&from.broadcast, &to.broadcast),
        ];
        for (from, to) in flags {
            to.store(from.load(order), order);
        }
        to.send_buffer.store(from.send_buffer.load(order), order);
        to.receive_buffer.store(from.receive_buffer.load(order), order);
        to.low_water.store(from.low_water.load(order), order);
        to.send_timeout.store(from.send_timeout.load(order), order);
        to.receive_timeout.store(from.receive_timeout.load(order), order);
        to.stamps.inherit(&from.stamps);
        to.filters.inherit(&from.filters);
        let stored = from.stored.lock().clone();
        *to.stored.lock() = stored;
        new.cork.store(self.cork.load(order), order);
        let options = self.options.lock().clone();
        *new.options.lock() = options;
        let mut ip = self.ip.lock().clone();
        ip.groups.clear();
        *new.ip.lock() = ip;
        new
    }

    /// Counts segments of the connection.
    fn count(&self, remote: SocketAddr, segments: u64, bytes: u64) {
        let inet = &self.common.net.inet;
        inet.counters.tcp_segments.add(segments);
        inet.count(remote.ip(), segments, bytes);
    }

    /// Nobody listens there.
    fn refuse(&self, state: &mut State, tuple: Tuple) {
        show::refused(&self.common.net, self.common.ino, tuple);
        self.common.net.inet.counters.tcp_attempt_fails.one();
        self.common.net.inet.counters.tcp_resets_sent.one();
        state.phase = Phase::Refused;
        if let Some(held) = &state.held {
            held.clear_tuple();
        }
        if !state.is_bound {
            state.ip = None;
        }
        self.common.set_error(ECONNREFUSED);
    }

    /// Begins a connection; how it went, often known at once, `connect_result` tells.
    ///
    /// Source: Linux 6.12 net/ipv4/af_inet.c, `__inet_stream_connect`; tcp_ipv4.c, `tcp_v4_connect`.
    pub(super) fn connect_to(&self, bytes: &[u8]) -> Result<(), Errno> {
        if address::family(bytes)? == af::UNSPEC {
            return self.disconnect();
        }
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Linked(link) if state.is_connecting => {
                let is_over = link.own.is_over();
                state.is_connecting = false;
                return if is_over { Err(self.forget(&mut state)) } else { Ok(()) };
            }
            Phase::Linked(_) | Phase::Listening(_) => return Err(EISCONN),
            Phase::Connecting(_) => return Err(EALREADY),
            Phase::Refused if state.is_connecting => return Err(self.forget(&mut state)),
            Phase::Closed | Phase::Refused => {}
        }
        let given = address::parse(self.common.domain(), bytes)?;
        self.begin(&mut state, given)?;
        state.is_connecting = true;
        drop(state);
        self.common.wait.notify(Events::WRITABLE);
        Err(EINPROGRESS)
    }

    fn begin(&self, state: &mut State, given: Given) -> Result<(), Errno> {
        if given.is_mapped && self.ip.lock().has6(ipv6::V6ONLY) {
            return Err(ENETUNREACH);
        }
        check_scope(given)?;
        let (remote, source) = self.common.net.inet.route(given)?;
        let ip = state.ip.filter(|_| state.is_bound).unwrap_or(source);
        if ip.is_ipv4() != remote.is_ipv4() {
            return Err(ENETUNREACH);
        }
        let inet = &self.common.net.inet;
        let tcp = &inet.tcp;
        let local: SocketAddr = match &state.held {
            Some(held) => {
                let local = (ip, held.port).into();
                held.set_tuple(&self.common, (local, remote))?;
                local
            }
            None => {
                let held = tcp.connect(&self.common, self.local(ip), remote)?;
                let local = (ip, held.port).into();
                state.held = Some(held);
                local
            }
        };
        state.ip = Some(ip);
        self.shut_early.store(0, Ordering::Relaxed);
        inet.counters.tcp_active_opens.one();
        self.count(remote, 1, 0);
        // What an earlier connection left behind is forgotten.
        self.common.take_error();
        if local == remote {
            // Both ends at once (RFC 9293, 3.5: simultaneous open).
            let own = End::new(&self.common, local, state.held.clone());
            let _ = own.other.set(Arc::downgrade(&own));
            let peer = own.clone();
            state.phase = Phase::Linked(Arc::new(Link { own, peer, local, remote }));
            return Ok(());
        }
        let Some(backlog) = tcp
            .find(remote, local, || Frame::tcp(local, remote, &Segment::SYN, &[]))
            .and_then(|b| b.upgrade())
        else {
            self.refuse(state, (local, remote));
            return Ok(());
        };
        match backlog.establish(self, state, local, remote) {
            Err(EAGAIN) => {
                inet.counters.tcp_overflows.one();
                let next = Arc::new(Connecting { socket: self.this.clone(), local, remote });
                let mut waiting = backlog.waiting.lock();
                if waiting.is_closed {
                    drop(waiting);
                    self.refuse(state, (local, remote));
                } else {
                    waiting.connecting.retain(|c| c.socket.strong_count() > 0);
                    waiting.connecting.push_back(next.clone());
                    state.phase = Phase::Connecting(next);
                }
            }
            Err(_) => self.refuse(state, (local, remote)),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Takes the error of a connection that failed.
    fn forget(&self, state: &mut State) -> Errno {
        state.phase = Phase::Closed;
        state.is_connecting = false;
        if !state.is_bound {
            state.ip = None;
        }
        self.common.take_error().unwrap_or(ECONNABORTED)
    }

    pub(super) fn connect_result(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Connecting(_) => Err(EAGAIN),
            Phase::Linked(link) if !link.own.is_over() => {
                state.is_connecting = false;
                Ok(())
            }
            _ => Err(self.forget(&mut state)),
        }
    }

    /// `connect` to `AF_UNSPEC`.
    ///
    /// Source: Linux 6.12 net/ipv4/tcp.c, `tcp_disconnect`.
    fn disconnect(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let old = std::mem::take(&mut state.phase);
        state.is_connecting = false;
        if let Some(held) = &state.held {
            held.stop();
            if !matches!(old, Phase::Linked(_)) {
                held.clear_tuple();
            }
        }
        if !state.is_bound {
            state.ip = None;
        }
        drop(state);
        match old {
            Phase::Listening(backlog) => backlog.close(),
            Phase::Linked(link) => {
                link.own.close(&link.peer, true);
                self.common.set_error(ECONNRESET);
            }
            Phase::Connecting(_) => self.common.set_error(ECONNRESET),
            Phase::Closed | Phase::Refused => {}
        }
        self.common.wait.notify(Events::HUP);
        Ok(())
    }

    /// Source: Linux 6.12 net/ipv4/af_inet.c, `inet_shutdown`.
    pub(super) fn shut(&self, how: u32) -> Result<(), Errno> {
        let state = self.state.lock();
        let link = match &state.phase {
            Phase::Linked(link) => link.clone(),
            Phase::Listening(_) if how == shut::WR => return Ok(()),
            Phase::Listening(_) | Phase::Connecting(_) => {
                drop(state);
                return self.disconnect();
            }
            Phase::Closed | Phase::Refused => {
                self.shut_early.fetch_or(how + 1, Ordering::Relaxed);
                drop(state);
                self.common.wait.notify(Events::READABLE | Events::RDHUP | Events::HUP);
                return Err(ENOTCONN);
            }
        };
        drop(state);
        if link.own.is_over() {
            return Err(ENOTCONN);
        }
        if how != shut::WR {
            link.own.stop_reading();
        }
        if how != shut::RD {
            link.own.finish(&link.peer);
        }
        Ok(())
    }

    /// Ends the socket.
    pub(super) fn end(&self) {
        let linger = self.common.stored.lock().linger;
        self.end_with(linger == Some(0));
    }

    fn end_with(&self, aborts: bool) {
        let mut state = self.state.lock();
        let old = std::mem::take(&mut state.phase);
        let held = state.held.take();
        drop(state);
        if let Some(held) = &held {
            held.stop();
        }
        match old {
            Phase::Listening(backlog) => backlog.close(),
            Phase::Linked(link) => link.own.close(&link.peer, aborts),
            Phase::Closed | Phase::Refused | Phase::Connecting(_) => {}
        }
        drop(held);
    }
}
