//! Threads of the kernel's own that act for a process: what a ring started and has not finished. Programs do not see them
//! (Linux shows its own in `/proc/PID/task`); what they use counts as the process's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::errno::EAGAIN;
use base::cred::Credentials;
use base::lock::{Lock, rank};
use platform::{AddressSpace, Context, FpState, Kick, Trap};

use super::{Account, Attributes, Ctx, FdTable, FsContext, Parker, Task, TaskState};
use crate::mm::MemoryManager;
use crate::signal::Queue;

/// How many there may be in a sandbox.
const MAX_WORKERS: usize = 512;
static WORKERS: AtomicUsize = AtomicUsize::new(0);

/// The processor state of a thread that never runs user code.
struct NoContext;

impl Context for NoContext {
    fn switch(
        &mut self,
        _space: &Arc<dyn AddressSpace>,
        _regs: &mut abi::regs::UserRegs,
    ) -> Result<Trap, platform::Error> {
        Err(platform::Error::Broken("worker: it has no user code".into()))
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(NoKick)
    }

    fn fp_state(&mut self) -> Result<FpState, platform::Error> {
        Err(platform::Error::Broken("worker: it has no registers".into()))
    }

    fn set_fp_state(&mut self, _state: &FpState) -> Result<(), platform::Error> {
        Err(platform::Error::Broken("worker: it has no registers".into()))
    }

    fn park(&mut self) -> Result<(), platform::Error> {
        Ok(())
    }
}

/// Gets nobody out of user code.
struct NoKick;

impl Kick for NoKick {
    fn kick(&self) {}
}

/// What a worker acts with.
pub struct Place {
    /// The address space.
    pub mm: Arc<MemoryManager>,
    /// The descriptors.
    pub files: Arc<FdTable>,
    /// Root and working directory.
    pub fs: Arc<Lock<FsContext, { rank::FS_CONTEXT }>>,
}

/// Makes the task of a worker that acts for `model`'s process. It is in no list, and all signals are blocked.
pub fn task_like(model: &Task) -> Arc<Task> {
    let kernel = model.kernel.clone();
    let (name, cred) = {
        let state = model.state.lock();
        (state.name.clone(), state.cred.clone())
    };
    let state = TaskState {
        mask: u64::MAX,
        real_mask: None,
        pending: Queue::default(),
        stop_pending: false,
        stop_dequeued: false,
        stopped: false,
        name,
        cred,
        files: Arc::default(),
    };
    let mm = match kernel.empty_space() {
        Some(empty) => empty,
        None => model.mm.lock().clone(),
    };
    let cgroup = crate::cgroup::Membership::former(&model.cgroup());
    let namespaces = model.namespaces.lock().clone();
    let fs = model.fs.lock().clone();
    let kicker: Arc<dyn Kick> = Arc::new(NoKick);
    Arc::new(Task {
        tid: model.tid,
        shown_tid: model.shown_tid,
        // It is in no group: the thread that it works for is.
        cgroup: Lock::new(cgroup),
        is_held: AtomicBool::new(false),
        group: model.group.clone(),
        state: Lock::new(state),
        parker: Arc::new(Parker::default()),
        kicker: kicker.clone(),
        trace: crate::ptrace::Trace::default(),
        exit_code: AtomicI32::new(0),
        killed: AtomicBool::new(false),
        signal_pending: AtomicBool::new(false),
        parent_death_signal: AtomicI32::new(0),
        robust_list: AtomicU64::new(0),
        keys: Lock::default(),
        rseq_event: AtomicBool::new(false),
        seccomp: crate::seccomp::Seccomp::default(),
        namespaces: Lock::new(namespaces),
        sem_undo: Lock::default(),
        mm: Lock::new(mm),
        fs: Lock::new(fs),
        attributes: Lock::new(Attributes::new(kernel.system.cpus)),
        account: Arc::new(Account::new(kernel.boot_ns(), kernel.system.weights.clone(), kicker)),
        kernel,
    })
}

/// Starts a host thread that acts as `task`.
///
/// # Errors
/// `EAGAIN`: there are too many.
pub fn start(task: Arc<Task>, f: impl FnOnce(&Arc<Task>) + Send + 'static) -> Result<(), Errno> {
    if WORKERS.fetch_add(1, Ordering::SeqCst) >= MAX_WORKERS {
        WORKERS.fetch_sub(1, Ordering::SeqCst);
        return Err(EAGAIN);
    }
    let started = super::clone::spawn(task.tid, move || {
        super::current::set_current(Some(task.clone()));
        task.account.start();
        f(&task);
        let usage = task.account.usage();
        task.group.account.dead.lock().add(&usage);
        super::current::set_current(None);
        WORKERS.fetch_sub(1, Ordering::SeqCst);
    });
    if started.is_err() {
        WORKERS.fetch_sub(1, Ordering::SeqCst);
    }
    started
}

/// Lets `task` do something in `place`, on the thread that [`start`] made.
pub fn act<T>(
    task: &Arc<Task>,
    place: Place,
    cred: Arc<Credentials>,
    f: impl FnOnce(&mut Ctx<'_>) -> T,
) -> T {
    let Place { mm, files, fs } = place;
    let regs = abi::regs::UserRegs::new_user64();
    let mut context = NoContext;
    let mut cx = super::clone::new_ctx(task.clone(), mm, files, fs, cred, regs, &mut context);
    let done = f(&mut cx);
    crate::signal::async_io::send_due();
    done
}

impl Task {
    /// Makes a worker ready for something new.
    pub(crate) fn recall(&self) {
        self.killed.store(false, Ordering::SeqCst);
        self.signal_pending.store(false, Ordering::SeqCst);
    }

    /// Ends what a worker waits for, until the next [`recall`](Self::recall).
    pub(crate) fn dismiss(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.signal_pending.store(true, Ordering::SeqCst);
        self.parker.interrupt();
    }
}
