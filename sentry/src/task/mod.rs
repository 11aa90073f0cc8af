//! Tasks (threads) and thread groups (processes).
//!
//! Reading order: this file; `run.rs` (the loop of a guest thread); `block.rs` (sleeping); `exec.rs`; `clone.rs`; `exit.rs`
//! (ending and waiting); `fd.rs` (descriptor tables); `account.rs` (time used); `acct.rs` (acct(2)); `attributes.rs` (prctl, scheduling);
//! `rseq.rs` (restartable sequences);
//! `current.rs`; `window.rs` (patched call sites); `worker.rs` (threads of the kernel's own).
//!
//! Locks: the tree (`Kernel::tree`) outermost, then signal state of a group, then a task's own state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use base::cred::Credentials;
use base::lock::{Lock, rank};
use fs::vfs::{MountNamespace, VfsPath};
use platform::Kick;

use crate::kernel::Kernel;
use crate::mm::{Limits, MemoryManager};
use crate::signal::Queue;

pub mod account;
pub mod acct;
pub mod attributes;
pub mod block;
pub mod clone;
pub mod current;
pub mod exec;
mod exec_cred;
pub mod exit;
pub mod fd;
mod patience;
pub mod pi;
pub mod pidfd;
pub mod robust;
pub mod rseq;
pub mod run;
mod window;
pub mod worker;

pub use crate::signal::GroupSignals;
pub use account::{Account, GroupAccount, Phase, Usage};
pub use attributes::{Attributes, GroupAttributes};
pub use block::Parker;
pub use current::current;
pub use fd::FdTable;
pub use run::Ctx;
pub use window::WindowPage;

/// A process.
#[derive(Debug)]
pub struct ThreadGroup {
    /// The process ID, in the first PID namespace.
    pub pid: i32,
    /// The process ID in its own PID namespace.
    pub shown_pid: i32,
    /// Its PID namespace.
    pub pid_ns: Arc<crate::ns::pid::PidNs>,
    /// Only signals from outside of its PID namespace end it by default (`SIGNAL_UNKILLABLE`).
    pub unkillable: AtomicBool,
    /// Handlers, pending signals, threads, job control.
    pub signals: Lock<GroupSignals, { rank::SIGNALS }>,
    /// Set once the whole group is to end: the wait status, or -1. Changes under the lock of `signals`.
    pub exit_status: AtomicI32,
    /// The thread that survives an exec while others end; 0 else. Changes under the lock of `signals`.
    pub execing: AtomicI32,
    /// What the process has registered for with membarrier(2).
    pub barriers: AtomicI32,
    /// Orphans among its descendants become its children (`PR_SET_CHILD_SUBREAPER`).
    pub subreaper: AtomicBool,
    /// Timers.
    pub timers: crate::time::timers::GroupTimers,
    /// Threads alive.
    pub live: AtomicI32,
    /// Woken when a child changes state or a thread ends.
    pub child_events: base::wait::WaitQueue,
    /// Memory limits.
    pub limits: Arc<Limits>,
    /// All 16 resource limits, soft and hard.
    pub rlimits: Lock<[(u64, u64); 16], { rank::LEAF }>,
    /// What ended threads and children have used.
    pub account: GroupAccount,
    /// For prctl(2) and /proc.
    pub attributes: Lock<GroupAttributes, { rank::LEAF }>,
    /// The leader, once its thread has ended: /proc still shows it.
    pub dead_leader: Lock<Option<DeadLeader>, { rank::LEAF }>,
    /// The program's name for /proc, as given to execve.
    pub exe: Lock<Vec<u8>, { rank::LEAF }>,
    /// What it does through io_uring.
    pub rings: Lock<crate::syscall::uring::Owners, { rank::LEAF }>,
}

/// What /proc shows of a process whose leader has ended.
#[derive(Clone, Debug)]
pub struct DeadLeader {
    /// comm.
    pub name: Vec<u8>,
    /// Its credentials.
    pub cred: Arc<Credentials>,
    /// Blocked signals.
    pub mask: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// `CLOCK_BOOTTIME` when it was made, ns.
    pub started_ns: u64,
}

/// Mounts, working directory, root and umask; shared with `CLONE_FS`.
#[derive(Clone, Debug)]
pub struct FsContext {
    /// The mounts that the task sees. Namespaces of mounts are not shared with `CLONE_FS`, so they can live here.
    pub mounts: Arc<MountNamespace>,
    /// `/`.
    pub root: VfsPath,
    /// `.`.
    pub cwd: VfsPath,
    /// umask(2).
    pub umask: u32,
}

/// What other threads may look at.
#[derive(Debug)]
pub struct TaskState {
    /// Blocked signals.
    pub mask: u64,
    /// What is blocked once sigtimedwait(2), which unblocks for its duration, is over.
    pub real_mask: Option<u64>,
    /// Sent to this thread.
    pub pending: Queue,
    /// It must take part in a stop of the process.
    pub stop_pending: bool,
    /// It took a stop signal from its queue, and no SIGCONT came since.
    pub stop_dequeued: bool,
    /// It takes part in a stop.
    pub stopped: bool,
    /// comm, 15 bytes.
    pub name: Vec<u8>,
    /// Its credentials.
    pub cred: Arc<Credentials>,
    /// Its descriptors.
    pub files: Arc<FdTable>,
}

/// A thread.
pub struct Task {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// The thread ID, in the first PID namespace.
    pub tid: i32,
    /// The thread ID in its own PID namespace.
    pub shown_tid: i32,
    /// The process.
    pub group: Arc<ThreadGroup>,
    /// State.
    pub state: Lock<TaskState, { rank::TASK }>,
    /// Where it sleeps.
    pub parker: Arc<Parker>,
    /// Gets it out of user mode.
    pub kicker: Arc<dyn Kick>,
    /// ptrace(2).
    pub trace: crate::ptrace::Trace,
    /// What the thread itself ended with, as wait4(2) says it.
    pub exit_code: AtomicI32,
    /// Must end now (exec by another thread).
    pub killed: AtomicBool,
    /// There are signals to look at, or the thread must stop or end: see the module `signal`.
    pub signal_pending: AtomicBool,
    /// `set_robust_list`.
    pub robust_list: AtomicU64,
    /// Its keyrings.
    pub keys: Lock<crate::keys::TaskKeys, { rank::LEAF }>,
    /// It must look at its rseq before it goes on: another thread says so.
    pub rseq_event: AtomicBool,
    /// What it is sent when the thread that made its process ends (`PR_SET_PDEATHSIG`).
    pub parent_death_signal: AtomicI32,
    /// Which calls it may make.
    pub seccomp: crate::seccomp::Seccomp,
    /// Its control group.
    pub cgroup: Lock<crate::cgroup::Membership, { rank::LEAF }>,
    /// It stands still with its control group.
    pub is_held: AtomicBool,
    /// What it sees of the system.
    pub namespaces: Lock<Arc<crate::ns::Namespaces>, { rank::LEAF }>,
    /// Semaphore operations to be undone at its end; shared with `CLONE_SYSVSEM`.
    pub sem_undo: Lock<Option<Arc<crate::ipc::sem::UndoList>>, { rank::LEAF }>,
    /// The address space, for /proc and ptrace.
    pub mm: Lock<Arc<MemoryManager>, { rank::LEAF }>,
    /// For prctl(2), sched(7), personality(2).
    pub attributes: Lock<Attributes, { rank::LEAF }>,
    /// What it has used.
    pub account: Arc<Account>,
    /// Root and working directory.
    pub fs: Lock<Arc<Lock<FsContext, { rank::FS_CONTEXT }>>, { rank::LEAF }>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("tid", &self.tid).finish_non_exhaustive()
    }
}

impl Task {
    /// Makes the thread look at its signals soon.
    pub fn interrupt(&self) {
        // A thread looks before it goes to sleep or back to user code.
        if current::is_current(self) {
            return;
        }
        self.parker.interrupt();
        self.kicker.kick();
    }

    /// Whether the thread must end.
    pub fn must_exit(&self) -> bool {
        self.killed.load(Ordering::SeqCst) || self.group.exit_status.load(Ordering::SeqCst) >= 0
    }
}
