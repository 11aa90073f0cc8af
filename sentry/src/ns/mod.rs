//! Namespaces (namespaces(7)): what a task sees of the system.
//!
//! Reading order: this file, `change.rs` (unshare(2), setns(2), the flags of clone(2)), `pid.rs`, `time.rs`, `file.rs` (`/proc/PID/ns`). User
//! namespaces are in `base::userns`, since file systems ask them; a task's is in its credentials.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::lock::{Lock, rank};
use base::userns::UserNamespace;
use fs::vfs::MountNamespace;

use self::pid::{PidNs, PidNumbers};
use self::time::{TimeNs, TimeOffsets};
use crate::cgroup::Cgroup;
use crate::ipc::sem::UndoList;
use crate::ipc::{Budget, IpcNamespace};
use crate::system::Names;
use crate::task::Task;

pub mod change;
pub mod file;
pub mod pid;
pub mod time;

/// Inode numbers of the first namespaces (Linux include/linux/proc_ns.h).
mod first {
    pub(super) const IPC: u64 = 0xefff_ffff;
    pub(super) const UTS: u64 = 0xefff_fffe;
    pub(super) const PID: u64 = 0xefff_fffc;
    pub(super) const CGROUP: u64 = 0xefff_fffb;
    pub(super) const TIME: u64 = 0xefff_fffa;
}

/// The next inode number of a namespace (`PROC_DYNAMIC_FIRST`).
static NEXT_INO: AtomicU64 = AtomicU64::new(0xf000_0000);

fn new_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

/// A namespace of some kind.
#[derive(Debug)]
pub struct Namespace<T> {
    /// Its inode number.
    pub ino: u64,
    /// The user namespace whose capabilities count in it.
    pub owner: Arc<UserNamespace>,
    it: T,
}

impl<T> Namespace<T> {
    fn first(ino: u64, it: T) -> Arc<Self> {
        Arc::new(Self { ino, owner: UserNamespace::first(), it })
    }

    fn new(owner: &Arc<UserNamespace>, it: T) -> Arc<Self> {
        Arc::new(Self { ino: new_ino(), owner: owner.clone(), it })
    }
}

impl<T> Deref for Namespace<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.it
    }
}

/// Host name and domain name.
pub type Uts = Namespace<Lock<Names, { rank::LEAF }>>;

/// The namespaces of a task but that of its user; replaced as a whole.
#[derive(Clone)]
pub struct Namespaces {
    /// Names of the machine.
    pub uts: Arc<Uts>,
    /// System V IPC and POSIX message queues.
    pub ipc: Arc<Namespace<Arc<IpcNamespace>>>,
    /// Sockets and interfaces.
    pub net: Arc<Namespace<Arc<net::Namespace>>>,
    /// Mounts; the task's root and working directory lie in it.
    pub mount: Arc<Namespace<Arc<MountNamespace>>>,
    /// What is shown as the root of control groups.
    pub cgroup: Arc<Namespace<Arc<Cgroup>>>,
    /// The PID namespace of the processes that it makes.
    pub pid_for_children: Arc<PidNs>,
    /// Offsets of clocks.
    pub time: Arc<TimeNs>,
    /// The time namespace of the processes that it makes.
    pub time_for_children: Arc<TimeNs>,
    /// What all IPC namespaces share.
    pub budget: Arc<Budget>,
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespaces").finish_non_exhaustive()
    }
}

impl Namespaces {
    /// Those of the first task.
    pub fn first(
        names: Names,
        net: Arc<net::Namespace>,
        mounts: Arc<MountNamespace>,
        cgroups: Arc<Cgroup>,
    ) -> Arc<Self> {
        let budget = Arc::<Budget>::default();
        let time = Namespace::first(first::TIME, TimeOffsets::default());
        Arc::new(Self {
            uts: Namespace::first(first::UTS, Lock::new(names)),
            ipc: Namespace::first(first::IPC, IpcNamespace::new(budget.clone())),
            net: Namespace::first(new_ino(), net),
            mount: Namespace::first(new_ino(), mounts),
            cgroup: Namespace::first(first::CGROUP, cgroups),
            pid_for_children: Namespace::first(first::PID, PidNumbers::first()),
            time_for_children: time.clone(),
            time,
            budget,
        })
    }
}

impl Task {
    /// The names of the machine.
    pub fn uts(&self) -> Arc<Uts> {
        self.namespaces.lock().uts.clone()
    }

    /// The IPC namespace.
    pub fn ipc(&self) -> Arc<IpcNamespace> {
        self.namespaces.lock().ipc.it.clone()
    }

    /// The network.
    pub fn net(&self) -> Arc<net::Namespace> {
        self.namespaces.lock().net.it.clone()
    }

    /// What semop(2) notes to be undone at the end.
    pub fn undo_list(&self) -> Arc<UndoList> {
        let mut slot = self.sem_undo.lock();
        slot.get_or_insert_with(|| UndoList::new(self.group.pid)).clone()
    }
}
