//! AF_UNIX (unix(7)).
//!
//! Reading order: this file (the socket and its end of a connection), `names.rs`, `connect.rs` (connections and their
//! end), `stream.rs` (bytes), `datagram.rs` (messages: datagrams and sequenced packets).

mod connect;
mod datagram;
mod names;
mod stream;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::errno::{EINVAL, ENOTCONN, EOPNOTSUPP, EPERM, ETOOMANYREFS};
use abi::socket::{Ucred, af, scm, sock, sol};
use base::cred::cap;
use base::io::Sink;
use base::landlock::{Domain, scope};
use base::lock::{Lock, rank};
use base::wait::Events;
use fs::file::FileDescription;

use connect::Backlog;
pub use connect::pair;
use datagram::Message;
use names::Key;
pub use names::{Address, Bound, Names};
use stream::Stream;

use crate::message::{Control, Incoming, Outgoing};
use crate::report::{Report, UnixReport};
use crate::rights::Rights;
use crate::socket::{Caller, PeerCred, Socket};
use crate::{Common, Namespace};

/// Bits of [`End::shutdown`].
const RECEIVE: u32 = 1;
const SEND: u32 = 2;
const BOTH: u32 = RECEIVE | SEND;

/// What a socket's peers know of it. It outlives the socket while they do.
#[derive(Debug)]
struct End {
    common: Arc<Common>,
    name: OnceLock<Arc<Bound>>,
    /// `RECEIVE`, `SEND`; changed with the queue locked.
    shutdown: AtomicU32,
    /// Bytes in messages that it sent and nobody has received; bytes of a stream are counted where they lie.
    sent: AtomicUsize,
    /// The domain of whoever made the socket (landlock(7)).
    domain: Option<Arc<Domain>>,
    queue: Lock<Queue, { rank::QUEUE }>,
}

/// What was sent to a socket.
#[derive(Debug, Default)]
struct Queue {
    stream: Stream,
    messages: VecDeque<Message>,
    is_dead: bool,
    /// The one datagram socket that may send here, by address.
    only_from: Option<usize>,
    /// Those who wait until there is room.
    waiting: Vec<Weak<Common>>,
}

impl End {
    fn new(common: &Arc<Common>, domain: Option<Arc<Domain>>) -> Arc<Self> {
        Arc::new(Self {
            common: common.clone(),
            name: OnceLock::new(),
            shutdown: AtomicU32::new(0),
            sent: AtomicUsize::new(0),
            domain,
            queue: Lock::new(Queue::default()),
        })
    }

    /// Whether the caller may reach the socket by its abstract name.
    ///
    /// # Errors
    /// `EPERM`: its domain keeps it from that.
    fn check_scope(&self, caller: &Caller<'_>) -> Result<(), Errno> {
        let Some(domain) = &caller.cred.landlock else { return Ok(()) };
        let is_abstract = self.name.get().is_some_and(|n| matches!(n.address, Address::Abstract(_)));
        let is_kept = is_abstract && domain.keeps_from(self.domain.as_ref(), scope::ABSTRACT_UNIX_SOCKET);
        if is_kept { Err(EPERM) } else { Ok(()) }
    }

    fn is_shut(&self, bits: u32) -> bool {
        self.shutdown.load(Ordering::SeqCst) & bits == bits
    }

    fn shut(&self, bits: u32) {
        let queue = self.queue.lock();
        self.shutdown.fetch_or(bits, Ordering::SeqCst);
        drop(queue);
        self.common.wait.notify(shut_events(bits));
    }

    fn name_bytes(&self) -> Vec<u8> {
        self.name.get().map_or(Address::Unnamed, |b| b.address.clone()).to_bytes()
    }
}

fn shut_events(bits: u32) -> Events {
    let mut events = Events::empty();
    if bits & RECEIVE != 0 {
        events |= Events::READABLE | Events::RDHUP;
    }
    if bits & SEND != 0 {
        events |= Events::WRITABLE;
    }
    if bits == BOTH {
        events |= Events::HUP;
    }
    events
}

/// Tells those who waited for room in a queue.
fn wake_waiting(waiting: Vec<Weak<Common>>) {
    for common in waiting.iter().filter_map(Weak::upgrade) {
        common.wait.notify(Events::WRITABLE);
    }
}

/// Remembers that `common` waits for room.
fn wait_for_room(waiting: &mut Vec<Weak<Common>>, common: &Arc<Common>) {
    waiting.retain(|w| w.strong_count() > 0);
    if !waiting.iter().any(|w| w.as_ptr() == Arc::as_ptr(common)) {
        waiting.push(Arc::downgrade(common));
    }
}

/// What changes of a socket by its own calls.
#[derive(Debug, Default)]
struct State {
    key: Option<Key>,
    backlog: Option<Arc<Backlog>>,
    /// Whom datagrams go to.
    peer: Option<Arc<End>>,
    peer_cred: Option<PeerCred>,
}

/// An AF_UNIX socket.
#[derive(Debug)]
pub struct UnixSocket {
    this: Weak<Self>,
    common: Arc<Common>,
    end: Arc<End>,
    /// The other end, for types with connections.
    link: OnceLock<Arc<End>>,
    state: Lock<State, { rank::SOCKET }>,
}

/// Makes a socket; `kind` is stream, datagram or sequenced packet, `domain` that of whoever makes it (landlock(7)).
pub fn new(
    net: &Arc<Namespace>,
    kind: u32,
    owner: (u32, u32),
    domain: Option<Arc<Domain>>,
) -> Arc<UnixSocket> {
    let common = Common::new(net, af::UNIX, kind, 0, owner);
    UnixSocket::with(common, domain)
}

impl UnixSocket {
    fn with(common: Arc<Common>, domain: Option<Arc<Domain>>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            end: End::new(&common, domain),
            common,
            link: OnceLock::new(),
            state: Lock::new(State::default()),
        })
    }

    /// Names it, unless it has a name.
    fn bind_to(&self, caller: Option<&Caller<'_>>, address: Address) -> Result<bool, Errno> {
        // Without the state's lock: making a file takes locks of the file system.
        if self.end.name.get().is_some() && !matches!(address, Address::Path(_)) {
            return Ok(false);
        }
        let (key, bound) = self.common.net.unix.bind(caller, self, address)?;
        let mut state = self.state.lock();
        if self.end.name.set(Arc::new(bound)).is_err() {
            drop(state);
            self.common.net.unix.remove(&key);
            return Ok(false);
        }
        state.key = Some(key);
        Ok(true)
    }

    /// Gives a socket that tells credentials a name to answer to, as Linux does.
    fn autobind(&self) -> Result<(), Errno> {
        if self.common.passcred.load(Ordering::Relaxed) {
            self.bind_to(None, Address::Unnamed)?;
        }
        Ok(())
    }

    /// The credentials that go with a message to `peer`, if one of both wants to know.
    fn credentials(&self, caller: Option<&Caller<'_>>, message: &Outgoing<'_>, peer: &End) -> Option<Ucred> {
        let wanted = |c: &Common| c.passcred.load(Ordering::Relaxed) || c.pass_pidfd.load(Ordering::Relaxed);
        message.cred.or_else(|| {
            (wanted(&self.common) || wanted(&peer.common)).then(|| caller.map(Caller::ucred)).flatten()
        })
    }

    /// `too_many_unix_fds`: whoever has many files in flight sends no more.
    fn check_rights(&self, caller: Option<&Caller<'_>>, rights: &Rights) -> Result<(), Errno> {
        let Some(caller) = caller.filter(|_| !rights.is_empty()) else { return Ok(()) };
        let is_many = self.common.net.in_flight.files() as u64 > caller.nofile;
        if is_many && !caller.cred.has(cap::SYS_RESOURCE) && !caller.cred.has(cap::SYS_ADMIN) {
            return Err(ETOOMANYREFS);
        }
        Ok(())
    }

    /// Tells the receiver of the sender's credentials, as far as it wants to know.
    fn tell_cred(&self, incoming: &mut Incoming, cred: Option<Ucred>) {
        let wanted = |switch: &AtomicBool| switch.load(Ordering::Relaxed);
        if wanted(&self.common.passcred) {
            let cred = cred.unwrap_or(Ucred::NOBODY).to_bytes();
            incoming.controls.push(Control::new(sol::SOCKET, scm::CREDENTIALS, cred));
        }
        incoming.sender = cred.filter(|_| wanted(&self.common.pass_pidfd)).map(|cred| cred.pid);
    }

    /// Whether its state shows in `/proc/net/unix` as connected.
    pub fn is_connected(&self) -> bool {
        self.link.get().is_some() || self.state.lock().peer.is_some()
    }

    /// The name that it is bound to.
    pub fn name(&self) -> Option<Arc<Bound>> {
        self.end.name.get().cloned()
    }
}

impl Socket for UnixSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn before_send(&self) -> Result<(), Errno> {
        self.check_packets()
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_bind`.
    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        match Address::parse(address)? {
            // A second bind without a name succeeds and does nothing.
            Address::Unnamed => self.bind_to(Some(caller), Address::Unnamed).map(drop),
            address => {
                if self.bind_to(Some(caller), address)? {
                    Ok(())
                } else {
                    Err(EINVAL)
                }
            }
        }
    }

    fn listen(&self, caller: &Caller<'_>, backlog: usize) -> Result<(), Errno> {
        self.listen_for(caller, backlog)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        self.accept_next().map(|s| s as Arc<dyn Socket>)
    }

    fn connect(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        if self.common.kind == sock::DGRAM {
            self.connect_datagram(caller, address)
        } else {
            self.connect_stream(caller, address)
        }
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        Ok(self.end.name_bytes())
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        match self.link.get() {
            Some(peer) => Ok(peer.name_bytes()),
            None => self.state.lock().peer.as_ref().map(|p| p.name_bytes()).ok_or(ENOTCONN),
        }
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let bits = how + 1;
        self.end.shut(bits);
        if let Some(peer) = self.link.get() {
            let mirrored = (bits & RECEIVE) << 1 | (bits & SEND) >> 1;
            peer.shut(mirrored);
        }
        Ok(())
    }

    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        // __scm_send: other levels are not ours to judge.
        if message.controls.iter().any(|c| c.level == sol::SOCKET) {
            return Err(EINVAL);
        }
        if self.common.kind == sock::STREAM {
            self.send_bytes(caller, message)
        } else {
            self.send_message(caller, message)
        }
    }

    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        match self.common.kind {
            sock::STREAM => self.receive_bytes(dst, flags),
            _ if flags & abi::socket::msg::OOB != 0 => Err(EOPNOTSUPP),
            _ => self.receive_message(dst, flags),
        }
    }

    fn ready(&self) -> Events {
        let mut events = Events::empty();
        if self.common.has_error() {
            events |= Events::ERR;
        }
        if self.end.is_shut(BOTH) {
            events |= Events::HUP;
        }
        if self.end.is_shut(RECEIVE) {
            events |= Events::RDHUP | Events::READABLE;
        }
        events | if self.common.kind == sock::DGRAM { self.ready_datagram() } else { self.ready_stream() }
    }

    fn peer_cred(&self) -> Option<PeerCred> {
        self.state.lock().peer_cred.clone()
    }

    fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    fn has_peek_offset(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        if self.is_listening() {
            return Err(EINVAL);
        }
        let queue = self.end.queue.lock();
        Ok(match self.common.kind {
            sock::STREAM => queue.stream.unread(),
            sock::SEQPACKET => queue.messages.iter().map(Message::len).sum(),
            _ => queue.messages.front().map_or(0, Message::len),
        })
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        let in_stream = self.link.get().map_or(0, |peer| peer.queue.lock().stream.len());
        Ok(in_stream + self.end.sent.load(Ordering::Relaxed))
    }

    fn at_mark(&self) -> Result<bool, Errno> {
        Ok(self.end.queue.lock().stream.is_at_mark())
    }

    fn queued_files(&self, each: &mut dyn FnMut(&Arc<FileDescription>)) {
        let backlog = self.state.lock().backlog.clone();
        let queue = self.end.queue.lock();
        queue.stream.files(each);
        queue.messages.iter().flat_map(Message::files).for_each(&mut *each);
        drop(queue);
        for waiting in backlog.map(|b| b.sockets()).unwrap_or_default() {
            waiting.queued_files(each);
        }
    }

    fn take_queue(&self) -> Vec<Rights> {
        let backlog = self.state.lock().backlog.clone();
        let mut queue = self.end.queue.lock();
        let mut list = queue.stream.take_files();
        list.extend(queue.messages.iter_mut().map(Message::take_files));
        drop(queue);
        for waiting in backlog.map(|b| b.sockets()).unwrap_or_default() {
            list.extend(waiting.take_queue());
        }
        list
    }

    fn report(&self, list: &mut Vec<Report>) {
        let (backlog, peer) = {
            let state = self.state.lock();
            (state.backlog.clone(), state.peer.clone())
        };
        let peer = self.link.get().cloned().or(peer);
        let name = self.end.name.get();
        let waiting = backlog.as_ref().map(|b| b.sockets()).unwrap_or_default();
        let (receive_queue, send_queue) = match &backlog {
            Some(backlog) => (waiting.len(), backlog.limit()),
            None => (self.readable_bytes().unwrap_or(0), self.unsent_bytes().unwrap_or(0)),
        };
        list.push(Report::Unix(UnixReport {
            kind: self.common.kind,
            name: name.map(|n| n.address.clone()),
            place: name.and_then(|n| n.file()),
            is_listening: backlog.is_some(),
            is_connected: peer.is_some(),
            ino: self.common.ino,
            peer_ino: peer.map(|p| p.common.ino),
            waiting: waiting.iter().filter_map(|w| w.link.get()).map(|end| end.common.ino).collect(),
            receive_queue,
            send_queue,
            shutdown: self.end.shutdown.load(Ordering::Relaxed) as u8,
            uid: self.common.owner().0,
        }));
        for socket in waiting {
            socket.report(list);
        }
    }

    fn close(&self) {
        self.close_with(false);
        self.common.net.in_flight.collect();
    }
}
