//! Signals about files: SIGIO of `O_ASYNC` files, SIGURG of sockets with urgent data (fcntl(2), "Managing signals").
//!
//! Readiness is told with the locks of a file held, and sending a signal takes outer ones. So what is due is noted for
//! the host thread, which sends it once its system call holds no lock any more, or before it sleeps in it.
//!
//! Source: Linux 6.12 fs/fcntl.c, `send_sigio`, `send_sigurg`, `sigio_perm`.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EINVAL, ESRCH};
use abi::signal::SigInfo;
use base::cred::Credentials;
use base::landlock::{Domain, scope};
use base::lock::{Lock, rank};
use base::wait::{Events, Wake};
use fs::file::{AsyncOwner, FileDescription, oflag};

use super::{Pending, Sender};
use crate::kernel::Kernel;
use crate::task::{Task, ThreadGroup, current};

const SIGIO: i32 = 29;
const SIGURG: i32 = 23;

/// Who gets the signals.
#[derive(Clone, Debug, Default)]
enum Target {
    #[default]
    Nobody,
    Thread(Weak<Task>),
    Process(Weak<ThreadGroup>),
    Group(i32),
}

/// Kinds of owners, as `F_SETOWN_EX` numbers them.
pub const OWNER_TID: i32 = 0;
/// A process.
pub const OWNER_PID: i32 = 1;
/// A process group.
pub const OWNER_PGRP: i32 = 2;

#[derive(Clone, Debug, Default)]
struct Settings {
    target: Target,
    /// Real and effective user of who set the target.
    uid: u32,
    euid: u32,
    /// The domain of who set it, where another process was meant (landlock(7)).
    domain: Option<Arc<Domain>>,
    /// `F_SETSIG`; 0 for SIGIO without details.
    signal: i32,
    /// `O_ASYNC`, and the descriptor with which it was set.
    fd: Option<i32>,
    /// The descriptor of a lease or of `F_NOTIFY`.
    message_fd: i32,
}

/// The owner of an open file.
#[derive(Debug)]
pub struct Owner {
    this: Weak<Self>,
    kernel: Weak<Kernel>,
    /// What an open for reading, or for writing, wants to hear of.
    wanted: Events,
    is_socket: bool,
    settings: Lock<Settings, { rank::LEAF }>,
}

/// `POLL_*` of `si_code`, and the band that goes with it.
fn reason(events: Events, is_socket: bool) -> (i32, Events) {
    let wrband = Events::WRITABLE | Events::WRBAND;
    match events {
        e if e.intersects(Events::MSG) => (3, Events::READABLE | Events::MSG),
        // The end of a pipe is something to read.
        e if is_socket && e.intersects(Events::HUP) => (6, Events::HUP | Events::ERR),
        e if e.intersects(Events::PRI) => (5, Events::PRI | Events::RDBAND),
        e if e.intersects(Events::READABLE) => (1, Events::READABLE),
        e if e.intersects(Events::WRITABLE) => (2, wrband),
        _ => (4, Events::ERR),
    }
}

impl Owner {
    /// The owner of `file`, made at the first use.
    pub fn of(kernel: &Arc<Kernel>, file: &FileDescription) -> Arc<Self> {
        let mut wanted = Events::PRI | Events::HUP | Events::ERR;
        if file.is_readable() {
            wanted |= Events::READABLE;
        }
        if file.is_writable() {
            wanted |= Events::WRITABLE;
        }
        let make = || -> Arc<dyn AsyncOwner> {
            Arc::new_cyclic(|this| Self {
                this: this.clone(),
                kernel: Arc::downgrade(kernel),
                wanted,
                is_socket: net::SocketFile::of(file).is_some(),
                settings: Lock::default(),
            })
        };
        let owner: Arc<dyn Any + Send + Sync> = file.async_owner(make);
        // Nobody else makes owners.
        owner.downcast().unwrap_or_else(|_| unreachable!())
    }

    /// The owner of `file`, if it ever got one.
    pub fn existing(file: &FileDescription) -> Option<Arc<Self>> {
        let owner: Arc<dyn Any + Send + Sync> = file.existing_async_owner()?;
        owner.downcast().ok()
    }

    /// `F_SETOWN_EX`.
    ///
    /// # Errors
    /// `EINVAL`: no such kind; `ESRCH`: nobody has the ID.
    pub fn set(&self, kernel: &Kernel, kind: i32, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let (target, is_own) = {
            let tree = kernel.tree.lock();
            let target = match kind {
                OWNER_TID | OWNER_PID | OWNER_PGRP if id == 0 => Target::Nobody,
                OWNER_TID => Target::Thread(Arc::downgrade(tree.tasks.get(&id).ok_or(ESRCH)?)),
                OWNER_PID => Target::Process(Arc::downgrade(&tree.processes.get(&id).ok_or(ESRCH)?.group)),
                OWNER_PGRP if tree.processes.values().any(|p| p.pgid == id) => Target::Group(id),
                OWNER_PGRP => return Err(ESRCH),
                _ => return Err(EINVAL),
            };
            let own = current().map(|task| task.group.pid);
            let is_own = match kind {
                OWNER_TID => tree.tasks.get(&id).map(|t| t.group.pid) == own,
                // Its members may be anybody later.
                OWNER_PGRP => false,
                _ => Some(id) == own,
            };
            (target, is_own)
        };
        let domain = if is_own { None } else { cred.landlock.clone() };
        let former = {
            let mut settings = self.settings.lock();
            settings.target = target;
            (settings.uid, settings.euid) = (cred.uid, cred.euid);
            std::mem::replace(&mut settings.domain, domain)
        };
        // With the last of its tasks gone it lets go of files here.
        drop(former);
        Ok(())
    }

    /// `F_GETOWN_EX`: kind and ID; 0 for nobody, or one that has ended.
    pub fn get(&self) -> (i32, i32) {
        match &self.settings.lock().target {
            Target::Nobody => (OWNER_TID, 0),
            Target::Thread(t) => (OWNER_TID, t.upgrade().map_or(0, |t| t.tid)),
            Target::Process(g) => (OWNER_PID, g.upgrade().map_or(0, |g| g.pid)),
            Target::Group(id) => (OWNER_PGRP, *id),
        }
    }

    /// `F_GETOWNER_UIDS`.
    pub fn uids(&self) -> [u32; 2] {
        let settings = self.settings.lock();
        [settings.uid, settings.euid]
    }

    /// `F_SETSIG`.
    pub fn set_signal(&self, signal: i32) {
        self.settings.lock().signal = signal;
    }

    /// `F_GETSIG`.
    pub fn signal(&self) -> i32 {
        self.settings.lock().signal
    }

    /// Sets `O_ASYNC` on or off.
    fn set_async(&self, fd: Option<i32>) {
        self.settings.lock().fd = fd;
    }

    fn may_signal(settings: &Settings, task: &Task) -> bool {
        let cred = task.cred();
        if settings.domain.as_ref().is_some_and(|d| d.keeps_from(cred.landlock.as_ref(), scope::SIGNAL)) {
            return false;
        }
        settings.euid == 0
            || [cred.suid, cred.uid].iter().any(|id| *id == settings.euid || *id == settings.uid)
    }
}

impl Tell for Owner {
    /// Sends what `events` give rise to.
    fn tell(&self, events: Events) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        let settings = self.settings.lock().clone();
        let urgent = events.intersects(Events::PRI).then(|| SigInfo::kernel(SIGURG as u32));
        let is_message = events.intersects(Events::MSG);
        let fd = if is_message { Some(settings.message_fd) } else { settings.fd };
        let io = fd.filter(|_| urgent.is_none() || settings.signal != 0).map(|fd| {
            let (code, band) = reason(events, self.is_socket);
            match settings.signal {
                0 => SigInfo::kernel(SIGIO as u32),
                signal => SigInfo::poll(signal as u32, code, band.bits().into(), fd),
            }
        });
        let tree = kernel.tree.lock();
        let mut targets: Vec<(Arc<Task>, bool)> = Vec::new();
        match &settings.target {
            Target::Nobody => {}
            Target::Thread(task) => targets.extend(task.upgrade().map(|t| (t, false))),
            Target::Process(group) => {
                targets.extend(group.upgrade().and_then(|g| g.first_thread()).map(|t| (t, true)));
            }
            Target::Group(id) => {
                let members = tree.processes.values().filter(|p| p.pgid == *id && p.zombie.is_none());
                targets.extend(members.filter_map(|p| p.group.first_thread()).map(|t| (t, true)));
            }
        }
        for (task, to_group) in targets.iter().filter(|(t, _)| Self::may_signal(&settings, t)) {
            for info in urgent.iter().chain(&io) {
                let pending = Pending::new(*info, None);
                let queued = kernel.send(&tree, task, *to_group, Sender::Queue, pending);
                if queued.is_err() {
                    let plain = Pending::new(SigInfo::kernel(SIGIO as u32), None);
                    let _ = kernel.send(&tree, task, *to_group, Sender::Kernel, plain);
                }
            }
        }
    }
}

impl AsyncOwner for Owner {
    fn message(&self, fd: i32) {
        self.settings.lock().message_fd = fd;
        self.due(Events::MSG);
    }
}

impl Wake for Owner {
    fn wake(&self, events: Events) {
        let settings = self.settings.lock();
        let events = events & self.wanted;
        let is_urgent = events.intersects(Events::PRI);
        let is_nobody = matches!(settings.target, Target::Nobody);
        if is_nobody || events.is_empty() || settings.fd.is_none() && !is_urgent {
            return;
        }
        drop(settings);
        self.due(events);
    }
}

impl Owner {
    /// Notes that there is something to tell.
    fn due(&self, events: Events) {
        let Some(this) = self.this.upgrade() else { return };
        due(&self.kernel, this, events);
    }
}

/// Somebody who is to hear of readiness when no lock is held.
pub trait Tell: Debug + Send + Sync {
    /// `events` have come; no lock is held.
    fn tell(&self, events: Events);

    /// Whether it sees to it that it is noted once at a time.
    fn is_noted_once(&self) -> bool {
        false
    }
}

/// Those that are to hear of something.
pub type Due = Vec<(Arc<dyn Tell>, Events)>;

/// Notes that `whom` is to hear of `events` once the calling thread holds no lock any more.
pub fn due(kernel: &Weak<Kernel>, whom: Arc<dyn Tell>, events: Events) {
    if current::is_task() {
        DUE.with_borrow_mut(|due| note(due, whom, events));
    } else if let Some(kernel) = kernel.upgrade() {
        kernel.defer_readiness(whom, events);
    }
}

/// Adds to what is due; each hears of several changes at once.
pub fn note(due: &mut Due, whom: Arc<dyn Tell>, events: Events) {
    let is_noted = |o: &Arc<dyn Tell>| std::ptr::addr_eq(Arc::as_ptr(o), Arc::as_ptr(&whom));
    let before = if whom.is_noted_once() { None } else { due.iter_mut().find(|(o, _)| is_noted(o)) };
    match before {
        Some((_, before)) => *before |= events,
        None => due.push((whom, events)),
    }
}

thread_local! {
    static DUE: RefCell<Due> = const { RefCell::new(Vec::new()) };
}

/// Sends what is due by the calling thread, which holds no lock.
pub fn send_due() {
    // Who is told may make others due.
    while !DUE.with_borrow(Vec::is_empty) {
        send(DUE.take());
    }
}

/// Sends what is due.
pub fn send(due: Due) {
    for (owner, events) in due {
        owner.tell(events);
    }
}

/// Sets `O_ASYNC` of a file that can have it as `flags` say; `fd` is told with each signal.
pub fn set_async(kernel: &Arc<Kernel>, file: &FileDescription, fd: i32, flags: u32) {
    if !file.ops.tells_of_readiness() {
        return;
    }
    let is_on = flags & oflag::ASYNC != 0;
    // Who sets it again by another descriptor hears of the first one (`setfl` looks for a change).
    if is_on == (file.flags() & oflag::ASYNC != 0) {
        return;
    }
    if is_on {
        Owner::of(kernel, file).set_async(Some(fd));
    } else if let Some(owner) = Owner::existing(file) {
        owner.set_async(None);
    }
    file.set_async(is_on);
}
