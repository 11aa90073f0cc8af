//! What all sockets of a sandbox share: the names, the ports, the limits of `/proc/sys/net`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::socket::ipproto;
use base::alarm::Alarms;
use base::cred::Credentials;
use base::lock::{Lock, rank};
use base::userns::UserNamespace;

use crate::device::iff;
use crate::inet::{Inet, tcp};
use crate::netlink::Ports;
use crate::report::Report;
use crate::rights::InFlight;
use crate::socket::Socket;
use crate::sysctl::Sysctl;
use crate::unix::Names;

/// A network namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    /// Limits and defaults.
    pub sysctl: Sysctl,
    /// Names of AF_UNIX sockets.
    pub unix: Names,
    /// Ports and connections of AF_INET and AF_INET6.
    pub inet: Inet,
    /// Files on their way between processes.
    pub in_flight: Arc<InFlight>,
    /// AF_NETLINK sockets.
    pub(crate) netlink: Ports,
    /// The host's network, which sockets of AF_INET and AF_INET6 use when it is there.
    pub host: Option<Arc<crate::hostnet::Host>>,
    /// What rings when a time has come.
    alarms: OnceLock<Arc<dyn Alarms>>,
    last_ino: Arc<AtomicU64>,
    /// The user namespace whose capabilities count; `None` for the first.
    owner: Option<Arc<UserNamespace>>,
    /// Sockets that are files, by inode number.
    sockets: Lock<BTreeMap<u64, Weak<dyn Socket>>, { rank::LEAF }>,
}

impl Namespace {
    /// A namespace without sockets, whose loopback device is up.
    pub fn new() -> Arc<Self> {
        let new = Self::new_down();
        new.inet.device.set_flags(iff::UP);
        new
    }

    /// A namespace that shares the host's network.
    pub fn with_host(host: Arc<crate::hostnet::Host>) -> Arc<Self> {
        let new = Self { host: Some(host), ..Self::default() };
        new.inet.device.set_flags(iff::UP);
        Arc::new(new)
    }

    /// A namespace whose loopback device is down.
    fn new_down() -> Arc<Self> {
        Arc::default()
    }

    /// A namespace as `unshare(CLONE_NEWNET)` makes it for `owner`: of its own, and its loopback device is down. Files are passed and
    /// inodes counted across all namespaces.
    pub fn unshared(&self, owner: &Arc<UserNamespace>) -> Arc<Self> {
        Arc::new(Self {
            owner: Some(owner.clone()),
            in_flight: self.in_flight.clone(),
            last_ino: self.last_ino.clone(),
            alarms: self.alarms.clone(),
            ..Self::default()
        })
    }

    /// Has the namespace, and those made from it, set its alarms by `alarms`. Without any, nothing happens by itself.
    pub fn set_alarms(&self, alarms: Arc<dyn Alarms>) {
        let _ = self.alarms.set(alarms);
    }

    pub(crate) fn alarms(&self) -> Option<&Arc<dyn Alarms>> {
        self.alarms.get()
    }

    /// Whether `cred` has capability `number` here.
    pub fn grants(&self, cred: &Credentials, number: u32) -> bool {
        self.owner.as_ref().map_or_else(|| cred.has(number), |owner| owner.grants(cred, number))
    }

    /// A new inode number for a socket.
    pub(crate) fn new_ino(&self) -> u64 {
        // Apart from those of pipes, which count from 1, for readers of /proc/PID/fd.
        (1 << 20) + self.last_ino.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_socket(&self, socket: &Arc<dyn Socket>) {
        self.sockets.lock().insert(socket.common().ino, Arc::downgrade(socket));
    }

    pub(crate) fn remove_socket(&self, ino: u64) {
        let removed = self.sockets.lock().remove(&ino);
        drop(removed);
    }

    /// How many sockets are open files.
    pub fn socket_count(&self) -> usize {
        self.sockets.lock().len()
    }

    /// Pages that queued bytes of TCP and of UDP take, rounded up.
    pub fn queued_pages(&self) -> (usize, usize) {
        let (mut tcp, mut udp) = (0, 0);
        for report in self.reports() {
            match report {
                Report::Inet(s) if s.protocol == ipproto::TCP && s.state != tcp::state::LISTEN => {
                    tcp += s.receive_queue;
                }
                Report::Inet(s) if s.protocol == ipproto::UDP => udp += s.receive_queue,
                _ => {}
            }
        }
        (tcp.div_ceil(4096), udp.div_ceil(4096))
    }

    /// What the sockets with inode numbers beyond `ino` tell of themselves, at most `count` of them; from where to go on,
    /// if there is more. Connections that linger come last.
    pub fn reports_after(&self, ino: u64, count: usize) -> (Vec<Report>, Option<u64>) {
        let from = ino.saturating_add(1);
        let sockets: Vec<(u64, Weak<dyn Socket>)> =
            self.sockets.lock().range(from..).take(count).map(|(ino, s)| (*ino, s.clone())).collect();
        let mut list = Vec::with_capacity(sockets.len());
        for socket in sockets.iter().filter_map(|(_, s)| s.upgrade()) {
            socket.report(&mut list);
        }
        let last = sockets.last().map(|(ino, _)| *ino);
        if last.is_none() {
            self.inet.report_lingering(&mut list);
        }
        (list, last)
    }

    /// What every socket tells of itself, by inode number; connections that wait to be accepted come with their
    /// listener.
    pub fn reports(&self) -> Vec<Report> {
        let sockets: Vec<Weak<dyn Socket>> = self.sockets.lock().values().cloned().collect();
        let mut list = Vec::with_capacity(sockets.len());
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            socket.report(&mut list);
        }
        self.inet.report_lingering(&mut list);
        list
    }
}
