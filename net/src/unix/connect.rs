//! Connections: making them and ending them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, EOPNOTSUPP};
use abi::socket::{af, sock};
use base::lock::{Lock, rank};
use base::wait::Events;

use super::names::Address;
use super::{BOTH, RECEIVE, UnixSocket, wait_for_room, wake_waiting};
use crate::common::Common;
use crate::socket::{Caller, Socket, has_connections};
use crate::{Namespace, unix};

#[derive(Debug, Default)]
struct Waiting {
    sockets: VecDeque<Arc<UnixSocket>>,
    limit: usize,
    is_closed: bool,
    /// Those who wait until one is accepted.
    connecting: Vec<Weak<Common>>,
}

/// Connections that nobody has accepted.
#[derive(Debug, Default)]
pub(super) struct Backlog(Lock<Waiting, { rank::QUEUE }>);

impl Backlog {
    pub(super) fn sockets(&self) -> Vec<Arc<UnixSocket>> {
        self.0.lock().sockets.iter().cloned().collect()
    }

    /// How many connections may wait.
    pub(super) fn limit(&self) -> usize {
        self.0.lock().limit
    }
}

/// Makes two sockets that are connected with each other (`socketpair(2)`).
pub fn pair(net: &Arc<Namespace>, kind: u32, caller: &Caller<'_>) -> (Arc<UnixSocket>, Arc<UnixSocket>) {
    let owner = (caller.cred.fsuid, caller.cred.fsgid);
    let make = || unix::new(net, kind, owner, caller.cred.landlock.clone());
    let (a, b) = (make(), make());
    for (this, other) in [(&a, &b), (&b, &a)] {
        let mut state = this.state.lock();
        if has_connections(kind) {
            // Nobody else knows the new socket, so the cell is empty.
            let _ = this.link.set(other.end.clone());
        } else {
            state.peer = Some(other.end.clone());
            this.end.queue.lock().only_from = Some(Arc::as_ptr(&other.end).addr());
        }
        state.peer_cred = Some(caller.peer_cred());
    }
    (a, b)
}

impl UnixSocket {
    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_listen`.
    pub(super) fn listen_for(&self, caller: &Caller<'_>, backlog: usize) -> Result<(), Errno> {
        if !has_connections(self.common.kind) {
            return Err(EOPNOTSUPP);
        }
        if self.end.name.get().is_none() || self.link.get().is_some() {
            return Err(EINVAL);
        }
        let mut state = self.state.lock();
        let waiting = state.backlog.get_or_insert_default().clone();
        state.peer_cred = Some(caller.peer_cred());
        drop(state);
        let mut waiting = waiting.0.lock();
        let woken =
            if backlog > waiting.limit { std::mem::take(&mut waiting.connecting) } else { Vec::new() };
        waiting.limit = backlog;
        drop(waiting);
        wake_waiting(woken);
        // It was a hang-up until now.
        self.common.wait.notify(Events::WRITABLE);
        Ok(())
    }

    pub(super) fn accept_next(&self) -> Result<Arc<Self>, Errno> {
        if !has_connections(self.common.kind) {
            return Err(EOPNOTSUPP);
        }
        let backlog = self.state.lock().backlog.clone().ok_or(EINVAL)?;
        let mut waiting = backlog.0.lock();
        let Some(socket) = waiting.sockets.pop_front() else {
            return Err(if self.end.is_shut(RECEIVE) { EINVAL } else { EAGAIN });
        };
        let connecting = std::mem::take(&mut waiting.connecting);
        drop(waiting);
        wake_waiting(connecting);
        Ok(socket)
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_stream_connect`.
    pub(super) fn connect_stream(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        let address = Address::parse(address)?;
        if address == Address::Unnamed {
            return Err(EINVAL);
        }
        self.autobind()?;
        let listener = self.common.net.unix.find(caller, &address, self.common.kind)?;
        let (backlog, cred) = {
            let state = listener.state.lock();
            (state.backlog.clone().ok_or(ECONNREFUSED)?, state.peer_cred.clone())
        };
        let owner = listener.common.owner();
        let domain = listener.end.domain.clone();
        let accepted = unix::new(&self.common.net, self.common.kind, owner, domain);
        let order = Ordering::Relaxed;
        accepted.common.passcred.store(listener.common.passcred.load(order), order);
        if let Some(name) = listener.end.name.get() {
            let _ = accepted.end.name.set(name.clone());
        }
        accepted.state.lock().peer_cred = Some(caller.peer_cred());

        let mut state = self.state.lock();
        let mut waiting = backlog.0.lock();
        if waiting.is_closed || listener.end.is_shut(RECEIVE) {
            return Err(ECONNREFUSED);
        }
        if waiting.sockets.len() > waiting.limit {
            wait_for_room(&mut waiting.connecting, &self.common);
            return Err(EAGAIN);
        }
        if state.backlog.is_some() {
            return Err(EINVAL);
        }
        if self.link.get().is_none() {
            listener.end.check_scope(caller)?;
        }
        if self.link.set(accepted.end.clone()).is_err() {
            return Err(EISCONN);
        }
        // Only now: a socket that is dropped ends what it is linked with.
        let _ = accepted.link.set(self.end.clone());
        state.peer_cred = cred;
        waiting.sockets.push_back(accepted);
        drop(waiting);
        drop(state);
        listener.common.wait.notify(Events::READABLE);
        self.common.wait.notify(Events::WRITABLE);
        Ok(())
    }

    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_dgram_connect`.
    pub(super) fn connect_datagram(&self, caller: &Caller<'_>, address: &[u8]) -> Result<(), Errno> {
        let family = address.first_chunk::<2>().ok_or(EINVAL)?;
        let peer = if u16::from_le_bytes(*family) == af::UNSPEC {
            None
        } else {
            let address = Address::parse(address)?;
            if address == Address::Unnamed {
                return Err(EINVAL);
            }
            self.autobind()?;
            Some(self.common.net.unix.find(caller, &address, sock::DGRAM)?.end.clone())
        };
        let own = Arc::as_ptr(&self.end).addr();
        if let Some(peer) = &peer
            && peer.queue.lock().only_from.is_some_and(|only| only != own)
        {
            return Err(abi::errno::EPERM);
        }
        if let Some(peer) = &peer {
            let is_peer = self.state.lock().peer.as_ref().is_some_and(|old| Arc::ptr_eq(old, peer));
            if !is_peer {
                peer.check_scope(caller)?;
            }
        }
        let mut state = self.state.lock();
        let new = peer.as_ref().map(|p| Arc::as_ptr(p).addr());
        let old = std::mem::replace(&mut state.peer, peer);
        let changed = old.as_ref().map(|p| Arc::as_ptr(p).addr()) != new;
        let mut queue = self.end.queue.lock();
        queue.only_from = new;
        // unix_dgram_disconnected: what the old peer sent is forgotten.
        let forgotten =
            if old.is_some() && changed { std::mem::take(&mut queue.messages) } else { Default::default() };
        drop(queue);
        drop(state);
        if let Some(old) = old.filter(|_| !forgotten.is_empty()) {
            let was_mutual = {
                let queue = old.queue.lock();
                !queue.is_dead && queue.only_from == Some(own)
            };
            if was_mutual {
                old.common.set_error(ECONNRESET);
            }
        }
        drop(forgotten);
        self.common.wait.notify(Events::WRITABLE);
        Ok(())
    }

    /// Ends the socket; `was_waiting` says that nobody had accepted it.
    ///
    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_release_sock`.
    pub(super) fn close_with(&self, was_waiting: bool) {
        let mut state = self.state.lock();
        let key = state.key.take();
        let backlog = state.backlog.take();
        let peer = state.peer.take();
        drop(state);
        if let Some(key) = key {
            self.common.net.unix.remove(&key);
        }
        let mut queue = self.end.queue.lock();
        queue.is_dead = true;
        self.end.shutdown.store(BOTH, Ordering::SeqCst);
        let stream = std::mem::take(&mut queue.stream);
        let messages = std::mem::take(&mut queue.messages);
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        wake_waiting(waiting);
        if let Some(other) = self.link.get() {
            // Linux 6.18 takes an empty message at the head for a mark that urgent data has left.
            let is_mark = usize::from(messages.front().is_some_and(|m| m.len() == 0));
            if stream.unread() > 0 || messages.len() > is_mark || was_waiting {
                other.common.set_error(ECONNRESET);
            }
            other.shut(BOTH);
        }
        if let Some(backlog) = backlog {
            let mut waiting = backlog.0.lock();
            waiting.is_closed = true;
            let sockets = std::mem::take(&mut waiting.sockets);
            let connecting = std::mem::take(&mut waiting.connecting);
            drop(waiting);
            wake_waiting(connecting);
            for socket in sockets {
                socket.close_with(true);
            }
        }
        drop((stream, messages, peer));
    }

    pub(super) fn has_waiting(&self) -> Option<bool> {
        let backlog = self.state.lock().backlog.clone()?;
        let waiting = backlog.0.lock();
        Some(!waiting.sockets.is_empty())
    }
}

/// A socket is dropped once nobody can reach it; one that was never made a file still has to be closed.
impl Drop for UnixSocket {
    fn drop(&mut self) {
        if !self.end.queue.lock().is_dead {
            self.close();
        }
    }
}
