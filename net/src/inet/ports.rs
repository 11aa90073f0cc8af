//! Ports: who holds which, who receives what, and connections that linger.
//!
//! One table for each protocol. Nothing is called with its lock held.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOENT};
use base::lock::{Lock, rank};
use host::clock::HostClock;

use super::address::Local;
use super::wire::Frame;
use crate::Common;
use crate::filter::Attached;

/// How long a connection lingers (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_NS: i64 = 60_000_000_000;
/// After this a new connection may have the addresses of one that lingers (`net.ipv4.tcp_tw_reuse`, which is on for the
/// loopback).
const REUSE_NS: i64 = 1_000_000_000;
/// Most connections that linger (`net.ipv4.tcp_max_tw_buckets`).
const TIME_WAIT_MAX: usize = 65_536;

/// Local and remote address.
pub(crate) type Tuple = (SocketAddr, SocketAddr);

/// Who holds a port.
#[derive(Clone, Debug)]
enum Who {
    Socket(Weak<Common>),
    TimeWait { reuse: bool, reuse_port: bool, uid: u32 },
}

#[derive(Clone, Debug)]
struct Holder {
    local: Local,
    who: Who,
    /// Whether it takes connections.
    is_listening: bool,
    /// The port came by `bind` and not with a connection.
    is_bound: bool,
}

/// What arrives at a port goes to one of these.
#[derive(Debug)]
struct Receiver<S> {
    id: u64,
    local: Local,
    /// Only from there.
    remote: Option<SocketAddr>,
    socket: Weak<S>,
    reuse_port: bool,
}

#[derive(Debug)]
struct Port<S> {
    holders: HashMap<u64, Holder>,
    receivers: Vec<Receiver<S>>,
    /// What chooses among those that share the port at an address (`SO_ATTACH_REUSEPORT_CBPF`).
    choosers: Vec<(Local, Arc<Attached>)>,
}

impl<S> Port<S> {
    /// Takes a receiver away; the last one takes its place.
    fn remove_receiver(&mut self, id: u64) -> Option<Receiver<S>> {
        let at = self.receivers.iter().position(|r| r.id == id)?;
        let old = self.receivers.swap_remove(at);
        self.leave(old.local);
        Some(old)
    }

    /// A receiver has left `local`: takes away what chose there, if nobody shares the port there any more.
    fn leave(&mut self, local: Local) -> Option<Arc<Attached>> {
        if self.is_shared(local) {
            return None;
        }
        let at = self.choosers.iter().position(|(l, _)| *l == local)?;
        Some(self.choosers.swap_remove(at).1)
    }

    /// Whether somebody shares the port at `local`.
    fn is_shared(&self, local: Local) -> bool {
        self.receivers.iter().any(|r| r.reuse_port && r.local == local)
    }

    fn chooser(&self, local: Local) -> Option<&Arc<Attached>> {
        self.choosers.iter().find(|(l, _)| *l == local).map(|(_, chooser)| chooser)
    }
}

#[derive(Debug)]
struct Lingering {
    until: i64,
    port: u16,
    id: u64,
    tuple: Tuple,
}

#[derive(Debug)]
struct Tables<S> {
    ports: HashMap<u16, Port<S>>,
    /// Connections; for one that lingers the time when it began to.
    tuples: HashMap<Tuple, Option<i64>>,
    lingering: VecDeque<Lingering>,
    /// How many have lingered long enough.
    lingered: u64,
    last_id: u64,
    /// Where the search for a free port goes on.
    next_port: u16,
}

/// The ports of a protocol.
#[derive(Debug)]
pub(crate) struct Ports<S> {
    tables: Lock<Tables<S>, { rank::LEAF }>,
}

/// A port held by a socket, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<S: 'static> {
    ports: Arc<Ports<S>>,
    pub(crate) port: u16,
    id: u64,
    local: Local,
    tuple: Lock<Option<Tuple>, { rank::LEAF }>,
}

fn now() -> i64 {
    host::clock::now_ns(HostClock::Monotonic)
}

/// Whether `new` may not have the port that `old` holds at an overlapping address.
///
/// Source: Linux 6.12 net/ipv4/inet_connection_sock.c, `inet_bind_conflict`.
fn conflicts(new: &Common, old: &Holder, is_exact: bool) -> bool {
    let (reuse, reuse_port, uid, is_time_wait) = match &old.who {
        Who::TimeWait { reuse, reuse_port, uid } => (*reuse, *reuse_port, *uid, true),
        Who::Socket(common) => match common.upgrade() {
            Some(c) => (
                c.reuse_addr.load(Ordering::Relaxed),
                c.reuse_port.load(Ordering::Relaxed),
                c.owner().0,
                false,
            ),
            None => return false,
        },
    };
    if !is_exact {
        // A port that the kernel picks is free of everything.
        return true;
    }
    let is_shared = new.reuse_addr.load(Ordering::Relaxed) && reuse && !old.is_listening;
    let is_grouped =
        new.reuse_port.load(Ordering::Relaxed) && reuse_port && (is_time_wait || uid == new.owner().0);
    !is_shared && !is_grouped
}

impl<S> Tables<S> {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn is_free(&self, common: &Common, own: u64, port: u16, local: Local, is_exact: bool) -> bool {
        let Some(port) = self.ports.get(&port) else { return true };
        let mut others = port.holders.iter().filter(|(id, h)| **id != own && h.local.overlaps(&local));
        !others.any(|(_, h)| conflicts(common, h, is_exact))
    }

    fn hold(&mut self, port: u16, id: u64, holder: Holder) {
        let port = self.ports.entry(port).or_insert_with(|| Port {
            holders: HashMap::new(),
            receivers: Vec::new(),
            choosers: Vec::new(),
        });
        port.holders.insert(id, holder);
    }

    fn release(&mut self, port: u16, id: u64) {
        if let Some(p) = self.ports.get_mut(&port) {
            p.holders.remove(&id);
            p.remove_receiver(id);
            if p.holders.is_empty() {
                self.ports.remove(&port);
            }
        }
    }

    /// Forgets connections that lingered long enough.
    fn sweep(&mut self, now: i64, most: usize) {
        while let Some(first) = self.lingering.front() {
            if first.until > now && self.lingering.len() <= most.min(TIME_WAIT_MAX) {
                break;
            }
            let Some(first) = self.lingering.pop_front() else { break };
            self.lingered += u64::from(first.until <= now);
            self.release(first.port, first.id);
            // The tuple may belong to a new connection by now.
            if self.tuples.get(&first.tuple) == Some(&Some(first.until - TIME_WAIT_NS)) {
                self.tuples.remove(&first.tuple);
            }
        }
    }

    fn has_tuple(&self, common: &Common, tuple: &Tuple, now: i64) -> bool {
        match self.tuples.get(tuple) {
            None => false,
            Some(None) => true,
            Some(Some(since)) if common.net.sysctl.tw_reuse[0].is_on() => now - since < REUSE_NS,
            Some(Some(since)) => now - since < TIME_WAIT_NS,
        }
    }
}

/// The candidates of a search: all ephemeral ports, beginning somewhere else each time.
fn candidates(common: &Common, start: u16) -> impl Iterator<Item = u16> {
    let [first, last] = &common.net.sysctl.port_range;
    let (first, last) = (first.get().clamp(1, 65_535) as u32, last.get().clamp(1, 65_535) as u32);
    // IP_LOCAL_PORT_RANGE narrows it.
    let own = common.port_range.load(Ordering::Relaxed);
    let (low, high) = (own & 0xffff, own >> 16);
    let first = if (first..=last).contains(&low) { low } else { first };
    let last = (if (first..=last).contains(&high) { high } else { last }).max(first);
    let count = last - first + 1;
    (0..count).map(move |i| (first + (u32::from(start) + i) % count) as u16)
}

impl<S> Ports<S> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            tables: Lock::new(Tables {
                ports: HashMap::new(),
                tuples: HashMap::new(),
                lingering: VecDeque::new(),
                lingered: 0,
                last_id: 0,
                // Nobody should guess the next port.
                next_port: RandomState::new().build_hasher().finish() as u16,
            }),
        })
    }

    /// Holds `port`, or a free one for 0, at `local`.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub(crate) fn bind(
        self: &Arc<Self>,
        common: &Arc<Common>,
        local: Local,
        port: u16,
    ) -> Result<Arc<Held<S>>, Errno> {
        let mut tables = self.tables.lock();
        tables.sweep(now(), TIME_WAIT_MAX);
        let port = if port == 0 {
            let start = tables.next_port;
            tables.next_port = start.wrapping_add(1);
            candidates(common, start)
                .find(|&p| tables.is_free(common, 0, p, local, false))
                .ok_or(EADDRINUSE)?
        } else if tables.is_free(common, 0, port, local, true) {
            port
        } else {
            return Err(EADDRINUSE);
        };
        let id = tables.new_id();
        let who = Who::Socket(Arc::downgrade(common));
        tables.hold(port, id, Holder { local, who, is_listening: false, is_bound: true });
        Ok(self.held(port, id, local, None))
    }

    fn held(self: &Arc<Self>, port: u16, id: u64, local: Local, tuple: Option<Tuple>) -> Arc<Held<S>> {
        Arc::new(Held { ports: self.clone(), port, id, local, tuple: Lock::new(tuple) })
    }

    /// Holds a port for a connection from address `local` to `remote`, whose port nobody chose.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: all are in use.
    pub(crate) fn connect(
        self: &Arc<Self>,
        common: &Arc<Common>,
        local: Local,
        remote: SocketAddr,
    ) -> Result<Arc<Held<S>>, Errno> {
        let now = now();
        let mut tables = self.tables.lock();
        tables.sweep(now, TIME_WAIT_MAX);
        let start = tables.next_port;
        tables.next_port = start.wrapping_add(1);
        let is_free = |p: &u16| {
            let is_bound = tables.ports.get(p).is_some_and(|p| p.holders.values().any(|h| h.is_bound));
            !is_bound && !tables.has_tuple(common, &((local.ip, *p).into(), remote), now)
        };
        let port = candidates(common, start).find(is_free).ok_or(EADDRNOTAVAIL)?;
        let id = tables.new_id();
        let who = Who::Socket(Arc::downgrade(common));
        tables.hold(port, id, Holder { local, who, is_listening: false, is_bound: false });
        let tuple = ((local.ip, port).into(), remote);
        tables.tuples.insert(tuple, None);
        Ok(self.held(port, id, local, Some(tuple)))
    }

    /// Holds the port of a listener for a connection that it took.
    pub(crate) fn accept(self: &Arc<Self>, common: &Arc<Common>, tuple: Tuple) -> Arc<Held<S>> {
        let local = Local { ip: tuple.0.ip(), v6only: false };
        let port = tuple.0.port();
        let mut tables = self.tables.lock();
        let id = tables.new_id();
        let who = Who::Socket(Arc::downgrade(common));
        tables.hold(port, id, Holder { local, who, is_listening: false, is_bound: true });
        tables.tuples.insert(tuple, None);
        drop(tables);
        self.held(port, id, local, Some(tuple))
    }

    /// Who receives what comes from `from` to `to`: the closest match; among equals that share the port
    /// (`SO_REUSEPORT`) the one that their program chooses by the payload of `frame`, else one that depends on the
    /// addresses.
    pub(crate) fn find(
        &self,
        to: SocketAddr,
        from: SocketAddr,
        frame: impl FnOnce() -> Frame,
    ) -> Option<Weak<S>> {
        let tables = self.tables.lock();
        let port = tables.ports.get(&to.port())?;
        let receivers = &port.receivers;
        let mut best: Option<(u32, &Receiver<S>)> = None;
        let mut count = 0u32;
        let mut chosen = None;
        for receiver in receivers {
            let Some(score) = receiver.score(to, from) else { continue };
            match &best {
                Some((high, first)) if *high == score && first.reuse_port && receiver.reuse_port => {
                    // Reservoir sampling with a hash of the addresses as the source of chance.
                    count += 1;
                    if spread(from, count) == 0 {
                        chosen = Some(receiver);
                    }
                }
                // Among equals the newest.
                Some((high, _)) if *high > score => {}
                _ => {
                    best = Some((score, receiver));
                    chosen = Some(receiver);
                    count = 1;
                }
            }
        }
        let (score, first) = best?;
        let chosen = chosen.map(|r| r.socket.clone());
        if !first.reuse_port || port.choosers.is_empty() {
            return chosen;
        }
        let Some(chooser) = port.chooser(first.local).cloned() else { return chosen };
        let is_equal = |r: &&Receiver<S>| r.reuse_port && r.score(to, from) == Some(score);
        let equals: Vec<Weak<S>> = receivers.iter().filter(is_equal).map(|r| r.socket.clone()).collect();
        drop(tables);
        let frame = frame();
        let index = chooser.run(&frame.view(frame.payload)) as usize;
        equals.get(index).cloned().or(chosen)
    }

    /// Connections that linger, and how long they still do, in ms.
    pub(crate) fn lingering(&self) -> Vec<(Tuple, u32)> {
        let now = now();
        let mut tables = self.tables.lock();
        tables.sweep(now, TIME_WAIT_MAX);
        let left = |l: &Lingering| u32::try_from((l.until - now).max(0) / 1_000_000).unwrap_or(0);
        let is_there = |l: &&Lingering| tables.tuples.get(&l.tuple) == Some(&Some(l.until - TIME_WAIT_NS));
        tables.lingering.iter().filter(is_there).map(|l| (l.tuple, left(l))).collect()
    }

    /// How many connections have lingered long enough.
    pub(crate) fn lingered(&self) -> u64 {
        let mut tables = self.tables.lock();
        tables.sweep(now(), TIME_WAIT_MAX);
        tables.lingered
    }

    /// How many addresses of `port` have something that chooses.
    #[cfg(test)]
    pub(crate) fn choosers(&self, port: u16) -> usize {
        self.tables.lock().ports.get(&port).map_or(0, |p| p.choosers.len())
    }

    /// All who receive what is sent to many: multicast and broadcast.
    pub(crate) fn find_all(&self, to: SocketAddr, from: SocketAddr) -> Vec<Weak<S>> {
        let tables = self.tables.lock();
        let Some(port) = tables.ports.get(&to.port()) else { return Vec::new() };
        port.receivers.iter().filter(|r| r.score(to, from).is_some()).map(|r| r.socket.clone()).collect()
    }
}

/// A number below `count` that depends on the address alone.
fn spread(from: SocketAddr, count: u32) -> u32 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (from, count).hash(&mut hasher);
    (hasher.finish() % u64::from(count.max(1))) as u32
}

impl<S> Receiver<S> {
    fn score(&self, to: SocketAddr, from: SocketAddr) -> Option<u32> {
        let score = self.local.score(to.ip())?;
        match self.remote {
            None => Some(score),
            Some(remote) if remote == from => Some(score + 4),
            Some(_) => None,
        }
    }
}

impl<S> Held<S> {
    /// Adds the connection's addresses.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: another connection has both.
    pub(crate) fn set_tuple(&self, common: &Common, tuple: Tuple) -> Result<(), Errno> {
        let now = now();
        let mut tables = self.ports.tables.lock();
        if tables.has_tuple(common, &tuple, now) {
            return Err(EADDRNOTAVAIL);
        }
        tables.tuples.insert(tuple, None);
        drop(tables);
        *self.tuple.lock() = Some(tuple);
        Ok(())
    }

    fn take_tuple(&self) -> Option<Tuple> {
        self.tuple.lock().take()
    }

    /// Takes the connection's addresses away again.
    pub(crate) fn clear_tuple(&self) {
        if let Some(tuple) = self.take_tuple() {
            self.ports.tables.lock().tuples.remove(&tuple);
        }
    }

    /// Leaves the connection's addresses behind, for a while.
    pub(crate) fn linger(&self, common: &Common) {
        let Some(tuple) = self.take_tuple() else { return };
        let since = now();
        let who = Who::TimeWait {
            reuse: common.reuse_addr.load(Ordering::Relaxed),
            reuse_port: common.reuse_port.load(Ordering::Relaxed),
            uid: common.owner().0,
        };
        let local = Local { ip: tuple.0.ip(), v6only: false };
        let mut tables = self.ports.tables.lock();
        let is_bound =
            tables.ports.get(&self.port).and_then(|p| p.holders.get(&self.id)).is_some_and(|h| h.is_bound);
        let id = tables.new_id();
        tables.hold(self.port, id, Holder { local, who, is_listening: false, is_bound });
        tables.tuples.insert(tuple, Some(since));
        tables.lingering.push_back(Lingering { until: since + TIME_WAIT_NS, port: self.port, id, tuple });
        tables.sweep(since, common.net.sysctl.tw_buckets[0].size());
    }

    /// Makes `socket` receive what arrives, from `remote` alone when given.
    pub(crate) fn receive(&self, socket: Weak<S>, local: Local, remote: Option<SocketAddr>, common: &Common) {
        let reuse_port = common.reuse_port.load(Ordering::Relaxed);
        let chooser = if reuse_port { common.filters.chooser.lock().clone() } else { None };
        let mut tables = self.ports.tables.lock();
        let Some(port) = tables.ports.get_mut(&self.port) else { return };
        let was_shared = port.is_shared(local);
        let new = Receiver { id: self.id, local, remote, socket, reuse_port };
        let left = match port.receivers.iter_mut().find(|r| r.id == self.id) {
            Some(old) => {
                let old = std::mem::replace(old, new);
                port.leave(old.local)
            }
            None => {
                port.receivers.push(new);
                None
            }
        };
        // What chose where it was goes with it.
        if reuse_port
            && !was_shared
            && let Some(chooser) = left.or(chooser)
        {
            port.choosers.push((local, chooser));
        }
    }

    /// Sets or removes what chooses among those that share the port at its address.
    ///
    /// # Errors
    /// `EINVAL`: nobody does; `ENOENT`: there is nothing to remove.
    pub(crate) fn set_chooser(&self, common: &Common, new: Option<Arc<Attached>>) -> Result<(), Errno> {
        let none = if common.reuse_port.load(Ordering::Relaxed) { ENOENT } else { EINVAL };
        let mut tables = self.ports.tables.lock();
        let port = tables.ports.get_mut(&self.port);
        let shared = port.and_then(|port| {
            let own = port.receivers.iter().find(|r| r.id == self.id && r.reuse_port)?;
            Some((own.local, port))
        });
        let Some((local, port)) = shared else { return Err(if new.is_some() { EINVAL } else { none }) };
        let at = port.choosers.iter().position(|(l, _)| *l == local);
        let old = at.map(|at| port.choosers.swap_remove(at));
        let is_known = new.is_some() || old.is_some();
        port.choosers.extend(new.map(|new| (local, new)));
        drop(tables);
        drop(old);
        if is_known { Ok(()) } else { Err(ENOENT) }
    }

    /// Takes connections from now on, unless another socket does so at an overlapping address.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub(crate) fn listen(&self, common: &Common) -> Result<(), Errno> {
        let mut tables = self.ports.tables.lock();
        if !tables.is_free(common, self.id, self.port, self.local, true) {
            return Err(EADDRINUSE);
        }
        if let Some(holder) = tables.ports.get_mut(&self.port).and_then(|p| p.holders.get_mut(&self.id)) {
            holder.is_listening = true;
        }
        Ok(())
    }

    /// Takes and receives nothing any more.
    pub(crate) fn stop(&self) {
        let mut tables = self.ports.tables.lock();
        let Some(port) = tables.ports.get_mut(&self.port) else { return };
        port.remove_receiver(self.id);
        if let Some(holder) = port.holders.get_mut(&self.id) {
            holder.is_listening = false;
        }
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        self.clear_tuple();
        self.ports.tables.lock().release(self.port, self.id);
    }
}
