//! clone(2), fork(2), vfork(2) and the first task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use abi::errno::{EAGAIN, EEXIST, EINVAL, ENOMEM, EPERM};
use abi::signal::StackT;
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::lock::{Lock, rank};
use base::wait::{Events, Wake};
use platform::Context;

use super::patience::Awake;
use super::{
    Account, Attributes, Ctx, GroupAttributes, GroupSignals, Parker, Phase, Task, TaskState, ThreadGroup,
};
use crate::cgroup::Membership;
use crate::kernel::Process;
use crate::mm::{Limits, Writers};
use crate::ns::pid::{MAX_LEVEL, NewId, PidNs};
use crate::signal::{Handlers, Queue, SIGCHLD};
use crate::syscall::{Restart, Stop};

/// The number of the limit on a user's threads.
const RLIMIT_NPROC: usize = 6;

/// `CLONE_*` (sched.h).
#[expect(missing_docs, reason = "clone(2) explains each")]
pub mod flag {
    pub const VM: u64 = 0x100;
    pub const FS: u64 = 0x200;
    pub const FILES: u64 = 0x400;
    pub const SIGHAND: u64 = 0x800;
    pub const PIDFD: u64 = 0x1000;
    pub const PTRACE: u64 = 0x2000;
    pub const VFORK: u64 = 0x4000;
    pub const PARENT: u64 = 0x8000;
    pub const THREAD: u64 = 0x10000;
    pub const NEWNS: u64 = 0x20000;
    pub const SYSVSEM: u64 = 0x40000;
    pub const SETTLS: u64 = 0x80000;
    pub const PARENT_SETTID: u64 = 0x10_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    pub const DETACHED: u64 = 0x40_0000;
    pub const UNTRACED: u64 = 0x80_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
    pub const NEWCGROUP: u64 = 0x200_0000;
    pub const NEWUTS: u64 = 0x400_0000;
    pub const NEWIPC: u64 = 0x800_0000;
    pub const NEWUSER: u64 = 0x1000_0000;
    pub const NEWPID: u64 = 0x2000_0000;
    pub const NEWNET: u64 = 0x4000_0000;
    /// Of clone3 and unshare only: in clone it is a part of the signal.
    pub const NEWTIME: u64 = 0x80;
    pub const IO: u64 = 0x8000_0000;
    pub const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    pub const INTO_CGROUP: u64 = 0x2_0000_0000;
    /// What is done; the rest (cgroups) gets EINVAL.
    pub const SUPPORTED: u64 = INTO_CGROUP
        | VM
        | FS
        | FILES
        | SIGHAND
        | PIDFD
        | PTRACE
        | VFORK
        | PARENT
        | THREAD
        | SYSVSEM
        | SETTLS
        | PARENT_SETTID
        | CHILD_CLEARTID
        | DETACHED
        | UNTRACED
        | CHILD_SETTID
        | IO
        | CLEAR_SIGHAND
        | crate::ns::change::SUPPORTED;
}

/// What clone and clone3 ask for.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "clone(2) explains each")]
pub struct CloneArgs {
    pub flags: u64,
    pub exit_signal: i32,
    /// The child's stack pointer; 0 keeps the parent's.
    pub stack: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    pub tls: u64,
    /// Where the descriptor of `CLONE_PIDFD` is stored.
    pub pidfd: u64,
    /// The descriptor of the control group for `CLONE_INTO_CGROUP`.
    pub cgroup: i32,
    /// The numbers that it is to have, from its own PID namespace outwards.
    pub set_tid: SetTid,
}

/// `set_tid` of clone3(2).
pub type SetTid = ([i32; MAX_LEVEL], usize);

/// Tells a parent in vfork that the child let go of its address space.
#[derive(Debug)]
pub struct VforkDone {
    done: AtomicBool,
    parent: Arc<Parker>,
}

impl VforkDone {
    fn new(parent: Arc<Parker>) -> Self {
        Self { done: AtomicBool::new(false), parent }
    }

    /// Wakes the parent.
    pub fn finish(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.parent.wake(Events::IN);
    }

    fn is_finished(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

fn new_group(
    id: NewId,
    pid_ns: Arc<PidNs>,
    signals: GroupSignals,
    limits: Arc<Limits>,
    rlimits: [(u64, u64); 16],
    exe: Vec<u8>,
    attributes: GroupAttributes,
) -> Arc<ThreadGroup> {
    Arc::new(ThreadGroup {
        pid: id.id,
        shown_pid: id.shown,
        unkillable: AtomicBool::new(id.shown == 1 && !pid_ns.is_first()),
        pid_ns,
        signals: Lock::new(signals),
        exit_status: AtomicI32::new(-1),
        execing: AtomicI32::new(0),
        subreaper: AtomicBool::new(false),
        barriers: AtomicI32::new(0),
        timers: crate::time::timers::GroupTimers::default(),
        live: AtomicI32::new(1),
        child_events: base::wait::WaitQueue::new(),
        limits,
        rlimits: Lock::new(rlimits),
        account: super::GroupAccount::default(),
        attributes: Lock::new(attributes),
        dead_leader: Lock::new(None),
        exe: Lock::new(exe),
        rings: Lock::default(),
    })
}

pub(crate) fn copy_limits(from: &Limits) -> Arc<Limits> {
    let copy = |v: &AtomicU64| AtomicU64::new(v.load(Ordering::Relaxed));
    Arc::new(Limits {
        address_space: copy(&from.address_space),
        data: copy(&from.data),
        stack: copy(&from.stack),
        memlock: copy(&from.memlock),
    })
}

/// Everything that makes the first task.
pub struct FirstTask {
    /// The kernel.
    pub kernel: Arc<crate::Kernel>,
    /// Descriptors.
    pub files: Arc<super::FdTable>,
    /// Root and working directory.
    pub fs: super::FsContext,
    /// The controlling terminal.
    pub terminal: Option<Arc<fs::tty::Terminal>>,
    /// Credentials.
    pub cred: base::cred::Credentials,
    /// The program's path.
    pub path: Vec<u8>,
    /// Arguments.
    pub args: Vec<Vec<u8>>,
    /// Environment.
    pub env: Vec<Vec<u8>>,
    /// Resource limits, soft and hard, by number (getrlimit(2)).
    pub rlimits: [(u64, u64); 16],
    /// The nice value, -20 to 19.
    pub nice: i32,
}

/// Starts the first process in its own host thread.
///
/// # Errors
/// execve's errors for the program.
pub fn start_first(first: FirstTask) -> Result<(), Errno> {
    let kernel = first.kernel;
    let mut context = kernel.platform.new_context().map_err(|_| ENOMEM)?;
    let pid = kernel.tree.lock().new_id();
    let limits = Arc::new(Limits::of(&first.rlimits));
    let group = new_group(
        NewId { id: pid, shown: pid },
        kernel.namespaces.pid_for_children.clone(),
        GroupSignals::default(),
        limits.clone(),
        first.rlimits,
        first.path.clone(),
        GroupAttributes::default(),
    );
    let cred = Arc::new(first.cred);
    let total_memory = kernel.system.total_memory;
    let mm = crate::mm::MemoryManager::new(
        &kernel.platform,
        limits,
        crate::mm::Params { mmap_base: 0x7fff_f7ff_f000, total_memory },
    )?;
    let fs = Arc::new(Lock::new(first.fs));
    let mut attributes = Attributes::new(kernel.system.cpus);
    attributes.scheduling.nice = first.nice;
    let task = Arc::new(Task {
        kernel: kernel.clone(),
        tid: pid,
        shown_tid: pid,
        group: group.clone(),
        state: Lock::new(TaskState {
            mask: 0,
            real_mask: None,
            pending: Queue::default(),
            stop_pending: false,
            stop_dequeued: false,
            stopped: false,
            name: Vec::new(),
            cred: cred.clone(),
            files: first.files.clone(),
        }),
        parker: Arc::new(Parker::default()),
        kicker: context.kicker(),
        trace: crate::ptrace::Trace::default(),
        exit_code: AtomicI32::new(0),
        killed: AtomicBool::new(false),
        signal_pending: AtomicBool::new(false),
        parent_death_signal: AtomicI32::new(0),
        robust_list: AtomicU64::new(0),
        keys: Lock::default(),
        rseq_event: AtomicBool::new(false),
        seccomp: crate::seccomp::Seccomp::default(),
        cgroup: Lock::new(Membership::new(&kernel.cgroups)),
        is_held: AtomicBool::new(false),
        namespaces: Lock::new(kernel.namespaces.clone()),
        sem_undo: Lock::default(),
        mm: Lock::new(mm.clone()),
        fs: Lock::new(fs.clone()),
        attributes: Lock::new(attributes),
        account: Arc::new(Account::new(kernel.boot_ns(), kernel.system.weights.clone(), context.kicker())),
    });
    {
        let mut tree = kernel.tree.lock();
        tree.tasks.insert(pid, task.clone());
        group.signals.lock().threads.push(task.clone());
        let process = Process {
            group,
            parent: 0,
            children: Vec::new(),
            pgid: pid,
            sid: pid,
            zombie: None,
            ended_traced: false,
            exit_signal: SIGCHLD,
            has_execed: false,
            parent_tid: 0,
            uid: cred.uid,
            tty: None,
            hung_up_group: 0,
        };
        tree.processes.insert(pid, process);
        if let Some(tty) = &first.terminal {
            tree.set_controlling(pid, tty);
        }
    }
    let (path, args, env) = (first.path, first.args, first.env);
    let files = first.files;
    let (sender, receiver) = std::sync::mpsc::channel();
    spawn(pid, move || {
        let mut cx = new_ctx(task, mm, files, fs, cred, abi::regs::UserRegs::new_user64(), context.as_mut());
        match cx.exec(&path, args, env) {
            Ok(()) => {
                let _ = sender.send(Ok(()));
                cx.run();
            }
            Err(e) => {
                let _ = sender.send(Err(e));
            }
        }
    })?;
    receiver.recv().map_err(|_| ENOMEM)?
}

pub(super) fn new_ctx<'a>(
    task: Arc<Task>,
    mm: Arc<crate::mm::MemoryManager>,
    files: Arc<super::FdTable>,
    fs: Arc<Lock<super::FsContext, { rank::FS_CONTEXT }>>,
    cred: Arc<base::cred::Credentials>,
    regs: abi::regs::UserRegs,
    context: &'a mut dyn Context,
) -> Ctx<'a> {
    super::current::set_current(Some(task.clone()));
    task.account.start();
    let offsets = task.offsets();
    Ctx {
        offsets,
        task,
        mm,
        files,
        fs,
        cred,
        regs,
        context,
        altstack: StackT::NONE,
        rseq: super::rseq::Rseq::default(),
        saved_mask: None,
        clear_tid: 0,
        restart_deadline: None,
        vfork_done: None,
        trap: crate::signal::frame::TrapInfo::default(),
        window_page: None,
        seccomp: crate::seccomp::Current::default(),
        waiting: super::block::Waiting::default(),
        ended: false,
    }
}

pub(super) fn spawn(tid: i32, f: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let builder = std::thread::Builder::new().name(format!("task {tid}")).stack_size(512 << 10);
    let run = move || {
        let _awake = Awake::new();
        f();
    };
    builder.spawn(run).map(drop).map_err(|_| EAGAIN)
}

impl Ctx<'_> {
    /// clone(2): makes a thread or process; returns its ID.
    ///
    /// # Errors
    /// `EINVAL` for contradicting or unsupported flags; `EAGAIN`, `ENOMEM` without resources.
    pub fn clone_task(&mut self, args: &CloneArgs) -> Result<i32, Stop> {
        let f = args.flags;
        if f & !flag::SUPPORTED != 0
            || (f & flag::SIGHAND != 0 && f & flag::VM == 0)
            || (f & flag::THREAD != 0 && f & flag::SIGHAND == 0)
            || (f & flag::SIGHAND != 0 && f & flag::CLEAR_SIGHAND != 0)
            || (f & flag::FS != 0 && f & (flag::NEWNS | flag::NEWUSER) != 0)
            || (f & flag::THREAD != 0 && f & (flag::NEWUSER | flag::NEWPID) != 0)
            || (f & flag::PARENT != 0 && self.task.group.is_init())
            || (f & flag::SYSVSEM != 0 && f & flag::NEWIPC != 0)
            || (f & flag::PIDFD != 0 && f & (flag::DETACHED | flag::THREAD) != 0)
        {
            return Err(EINVAL.into());
        }
        if self.has_signal() {
            return Err(Stop::Restart(Restart::NoIntr));
        }
        let scheduling = self.task.attributes.lock().scheduling;
        if scheduling.policy == super::attributes::SCHED_DEADLINE && !scheduling.reset_on_fork {
            return Err(EAGAIN.into());
        }
        // As ARCH_SET_FS of arch_prctl(2).
        if f & flag::SETTLS != 0 && args.tls >= self.mm.task_size() {
            return Err(EPERM.into());
        }
        let kernel = self.task.kernel.clone();
        let mut context = kernel.platform.new_context().map_err(|_| EAGAIN)?;
        let fp = self.context.fp_state().map_err(|_| ENOMEM)?;
        let is_thread = f & flag::THREAD != 0;
        let limits =
            if is_thread { self.task.group.limits.clone() } else { copy_limits(&self.task.group.limits) };
        let mm = if f & flag::VM != 0 {
            if f & flag::VFORK == 0 {
                self.mm.cpu_numbers.share(kernel.system.cpu_limit());
            }
            self.mm.clone()
        } else {
            // A task refers to its address space twice: in what others see of it and in what it runs with.
            let alone = Arc::strong_count(&self.mm) <= 2;
            self.mm.fork(limits.clone(), if alone { Writers::None } else { Writers::Others })?
        };
        let files = if f & flag::FILES != 0 { self.files.clone() } else { self.files.duplicate()? };
        let mut own_fs = self.fs.lock().clone();
        let crate::ns::change::Changed { cred, namespaces } = self.new_namespaces(f, &mut own_fs)?;
        let fs = if f & flag::FS != 0 { self.fs.clone() } else { Arc::new(Lock::new(own_fs)) };
        let mut regs = self.regs;
        regs.rax = 0;
        regs.orig_rax = u64::MAX;
        if args.stack != 0 {
            regs.rsp = args.stack;
        }
        if f & flag::SETTLS != 0 {
            regs.fs_base = args.tls;
        }
        let (mask, name) = {
            let state = self.task.state.lock();
            (self.saved_mask.unwrap_or(state.mask), state.name.clone())
        };
        let handlers = {
            let signals = self.task.group.signals.lock();
            if f & flag::SIGHAND != 0 {
                signals.handlers.clone()
            } else {
                let handlers = signals.handlers.clone();
                let clear = f & flag::CLEAR_SIGHAND != 0;
                if clear { handlers.defaults() } else { Arc::new(Handlers::new(handlers.copy())) }
            }
        };
        let rlimits = *self.task.group.rlimits.lock();
        let exe = self.task.group.exe.lock().clone();
        let (namespaces, enters_time) =
            if f & flag::VM == 0 { namespaces.on_fork() } else { (namespaces, false) };
        let pid_ns = namespaces.pid_for_children.clone();
        if is_thread && !Arc::ptr_eq(&pid_ns, self.task.pid_ns()) {
            return Err(EINVAL.into());
        }
        let from = self.task.cgroup();
        let into = match f & flag::INTO_CGROUP {
            0 => from,
            _ => crate::cgroup::for_child(&*self.open_file(args.cgroup)?, &from, &self.cred)?,
        };
        let new_id = {
            let mut tree = kernel.tree.lock();
            let most = kernel.settings.threads_max.load(Ordering::Relaxed) as usize;
            if tree.tasks.len() >= kernel.max_tasks.min(most) || tree.is_full() {
                return Err(EAGAIN.into());
            }
            self.check_process_limit(&tree, rlimits[RLIMIT_NPROC].0)?;
            let (wanted, count) = &args.set_tid;
            tree.allocate(&pid_ns, wanted.get(..*count).unwrap_or_default(), &self.cred)?
        };
        let tid = new_id.id;
        let seen = self.task.shown_id(tid);
        let cgroup = match Membership::forked(&into) {
            Ok(cgroup) => cgroup,
            Err(e) => {
                kernel.tree.lock().release_id(tid);
                return Err(e.into());
            }
        };
        kernel.system.count_fork();
        let attributes = self.task.attributes.lock().inherit();
        let undo = (f & flag::SYSVSEM != 0).then(|| self.task.undo_list());
        let group = if is_thread {
            self.task.group.clone()
        } else {
            let attributes = *self.task.group.attributes.lock();
            let signals = GroupSignals { handlers, ..GroupSignals::default() };
            new_group(new_id, pid_ns, signals, limits, rlimits, exe, attributes)
        };
        let keys = self.task.keys.lock().forked(is_thread);
        let task = Arc::new(Task {
            kernel: kernel.clone(),
            tid,
            shown_tid: new_id.shown,
            group: group.clone(),
            state: Lock::new(TaskState {
                mask,
                real_mask: None,
                pending: Queue::default(),
                stop_pending: false,
                stop_dequeued: false,
                stopped: false,
                name,
                cred: cred.clone(),
                files: files.clone(),
            }),
            parker: Arc::new(Parker::default()),
            kicker: context.kicker(),
            trace: crate::ptrace::Trace::default(),
            exit_code: AtomicI32::new(0),
            killed: AtomicBool::new(false),
            signal_pending: AtomicBool::new(into.is_held()),
            parent_death_signal: AtomicI32::new(0),
            robust_list: AtomicU64::new(0),
            keys: Lock::new(keys),
            rseq_event: AtomicBool::new(false),
            seccomp: crate::seccomp::Seccomp::with(self.task.seccomp.state()),
            cgroup: Lock::new(cgroup),
            is_held: AtomicBool::new(false),
            namespaces: Lock::new(namespaces),
            sem_undo: Lock::new(undo),
            mm: Lock::new(mm.clone()),
            fs: Lock::new(fs.clone()),
            attributes: Lock::new(attributes),
            account: Arc::new(Account::new(
                kernel.boot_ns(),
                kernel.system.weights.clone(),
                context.kicker(),
            )),
        });
        if enters_time && let Err(e) = task.show_clocks(&mm) {
            kernel.tree.lock().release_id(tid);
            return Err(e.into());
        }
        let pidfd =
            if f & flag::PIDFD != 0 { self.make_pidfd(&group, args.pidfd).map(Some) } else { Ok(None) };
        let pidfd = match pidfd {
            Ok(fd) => fd,
            Err(e) => {
                kernel.tree.lock().release_id(tid);
                return Err(e.into());
            }
        };
        let event = self.trace_event_of(args);
        let is_adopted = f & flag::UNTRACED == 0 && crate::ptrace::calls::adopt(&self.task, &task, event);
        if let Err(stop) = self.add_to_tree(&task, args) {
            if let Some(fd) = pidfd {
                drop(self.files.remove(fd));
            }
            kernel.tree.lock().release_id(tid);
            return Err(stop);
        }
        if f & flag::PARENT_SETTID != 0 {
            let _ = self.mm.write_value(UserAddr(args.parent_tid), &seen);
        }
        let vfork = (f & flag::VFORK != 0).then(|| Arc::new(VforkDone::new(self.task.parker.clone())));
        let child_vfork = vfork.clone();
        let altstack = if f & flag::VM != 0 && f & flag::VFORK == 0 { StackT::NONE } else { self.altstack };
        let rseq = if f & flag::VM == 0 { self.rseq.forked() } else { super::rseq::Rseq::default() };
        let args = *args;
        let child = task.clone();
        let spawned = spawn(tid, move || {
            let mut cx = new_ctx(task, mm, files, fs, cred, regs, context.as_mut());
            cx.altstack = altstack;
            cx.rseq = rseq;
            cx.vfork_done = child_vfork;
            if cx.context.set_fp_state(&fp).is_err() {
                cx.start_group_exit(9);
            }
            if f & flag::CHILD_SETTID != 0 {
                let _ = cx.mm.write_value(UserAddr(args.child_tid), &new_id.shown);
            }
            if f & flag::CHILD_CLEARTID != 0 {
                cx.clear_tid = args.child_tid;
            }
            cx.run();
        });
        if let Err(e) = spawned {
            let mut tree = kernel.tree.lock();
            tree.tasks.remove(&tid);
            child.group.signals.lock().threads.retain(|t| !Arc::ptr_eq(t, &child));
            if is_thread {
                child.group.live.fetch_sub(1, Ordering::SeqCst);
            } else {
                tree.forget(tid);
            }
            tree.release_id(tid);
            return Err(e.into());
        }
        drop(child);
        if is_adopted {
            self.trace_event(event, self.tracer_sees(tid));
        }
        if let Some(done) = vfork {
            self.task.account.enter(Phase::Held);
            self.wait_for_vfork(&done);
            self.task.account.enter(Phase::Kernel);
            self.trace_event(crate::ptrace::event::VFORK_DONE, self.tracer_sees(tid));
        }
        Ok(seen)
    }

    /// Refuses a new thread of a user who has as many as `limit` allows; the root user and who may exceed limits are
    /// exempt.
    fn check_process_limit(&self, tree: &crate::kernel::Tree, limit: u64) -> Result<(), Errno> {
        let exempt = self.cred.uid == 0 || self.cred.has(cap::SYS_RESOURCE) || self.cred.has(cap::SYS_ADMIN);
        if exempt || tree.tasks.len() as u64 <= limit {
            return Ok(());
        }
        let uid = self.cred.uid;
        let held = tree.tasks.values().filter(|t| t.state.lock().cred.uid == uid).count();
        if held as u64 >= limit { Err(EAGAIN) } else { Ok(()) }
    }

    /// Which event a tracer is told of (Linux kernel/fork.c, `kernel_clone`).
    fn trace_event_of(&self, args: &CloneArgs) -> u32 {
        use crate::ptrace::event;
        match args {
            a if a.flags & flag::VFORK != 0 => event::VFORK,
            a if a.exit_signal != SIGCHLD => event::CLONE,
            _ => event::FORK,
        }
    }

    /// Makes a descriptor for the new process and stores its number at `addr`.
    fn make_pidfd(&self, group: &Arc<ThreadGroup>, addr: u64) -> Result<i32, Errno> {
        let fd = self.install(super::pidfd::new(group.clone(), 0), true)?;
        if let Err(e) = self.mm.write_value(UserAddr(addr), &fd) {
            drop(self.files.remove(fd));
            return Err(e);
        }
        Ok(fd)
    }

    /// Makes a new task known; from then on it gets signals.
    fn add_to_tree(&mut self, task: &Arc<Task>, args: &CloneArgs) -> Result<(), Stop> {
        let f = args.flags;
        let pid = self.task.group.pid;
        let mut tree = self.task.kernel.tree.lock();
        // The numbers were given with the tree unlocked since: their namespace may have ended, and a number that was asked
        // for may have been given twice.
        if task.group.pid_ns.is_closed() {
            return Err(Stop::Fail(ENOMEM));
        }
        if tree.is_alive(task.tid) {
            return Err(Stop::Fail(EEXIST));
        }
        let mut signals = self.task.group.signals.lock();
        // A signal to a group of processes, or the end of this one, must not miss the new task.
        if self.has_signal() {
            return Err(Stop::Restart(Restart::NoIntr));
        }
        if f & flag::THREAD != 0 {
            let mut state = task.state.lock();
            state.stop_pending = signals.stop.to_stop > 0;
            if state.stop_pending {
                signals.stop.to_stop += 1;
                task.signal_pending.store(true, Ordering::SeqCst);
            }
            drop(state);
            signals.threads.push(task.clone());
            drop(signals);
            self.task.group.live.fetch_add(1, Ordering::SeqCst);
        } else {
            drop(signals);
            task.group.signals.lock().threads.push(task.clone());
            let me = tree.processes.get(&pid);
            let (my_parent, my_parent_tid, pgid, sid) =
                me.map_or((0, 0, pid, pid), |p| (p.parent, p.parent_tid, p.pgid, p.sid));
            let (parent, parent_tid) =
                if f & flag::PARENT != 0 { (my_parent, my_parent_tid) } else { (pid, self.task.tid) };
            let process = Process {
                group: task.group.clone(),
                parent,
                children: Vec::new(),
                pgid,
                sid,
                zombie: None,
                ended_traced: false,
                exit_signal: args.exit_signal,
                has_execed: false,
                parent_tid,
                uid: self.cred.uid,
                tty: me.and_then(|p| p.tty.clone()),
                hung_up_group: 0,
            };
            tree.processes.insert(task.tid, process);
            if let Some(p) = tree.processes.get_mut(&parent) {
                p.children.push(task.tid);
            }
        }
        tree.tasks.insert(task.tid, task.clone());
        if let Some(by) = task.trace.tracer()
            && let Some(by) = tree.tasks.get(&by.tid)
        {
            by.trace.tracees.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Waits until the child of vfork(2) lets go of the address space; only the end of the thread cuts it short.
    fn wait_for_vfork(&mut self, done: &VforkDone) {
        loop {
            self.task.parker.prepare();
            if done.is_finished() || self.task.must_exit() {
                return;
            }
            self.task.parker.park(None);
        }
    }
}
