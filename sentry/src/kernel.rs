//! The kernel: what all tasks of a sandbox share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use base::PAGE_SIZE;
use base::lock::{Condition, Lock, LockGuard, rank};
use base::memmap::{FixedPages, Memory};
use fs::tty::{Console, Terminal, Terminals};
use fs::vfs::MountNamespace;
use platform::Platform;

use crate::futex::FutexTable;
use crate::mm::{MemoryManager, Params};
use crate::signal::async_io;
use crate::signal::queue::QueuedSignals;
use crate::strace::Tracer;
use crate::system::System;
use crate::task::{Task, ThreadGroup};
use crate::time::{AlarmService, Timekeeper};

/// How often processor time is looked at while a process has a limit on it.
const CPU_LIMIT_WATCH: std::time::Duration = std::time::Duration::from_millis(50);
/// How often memory is looked at while more is promised than the limit allows.
const BUDGET_WATCH: std::time::Duration = std::time::Duration::from_millis(20);
/// After this time ringfence needs what started it no more.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(1);

/// Where a process stands in the tree.
#[derive(Debug)]
pub struct Process {
    /// The thread group.
    pub group: Arc<ThreadGroup>,
    /// The parent's process ID; 0 for the first process.
    pub parent: i32,
    /// Children that were not waited for.
    pub children: Vec<i32>,
    /// The process group.
    pub pgid: i32,
    /// The session.
    pub sid: i32,
    /// The wait status once the last thread has ended.
    pub zombie: Option<i32>,
    /// Its parent traced it when it ended, and may wait for it whatever kind of child it is.
    pub ended_traced: bool,
    /// The signal the parent gets; 0 for none.
    pub exit_signal: i32,
    /// Whether the process has called execve since it was forked.
    pub has_execed: bool,
    /// The parent's thread that made it.
    pub parent_tid: i32,
    /// Whom it acted for when it ended.
    pub uid: u32,
    /// The controlling terminal.
    pub tty: Option<Arc<Terminal>>,
    /// Of a session leader whose terminal was hung up: what was in the foreground then; 0 for nothing.
    pub hung_up_group: i32,
}

/// All processes and threads, by ID.
#[derive(Debug, Default)]
pub struct Tree {
    /// Processes by process ID, zombies included.
    pub processes: HashMap<i32, Process>,
    /// Living threads by thread ID.
    pub tasks: HashMap<i32, Arc<Task>>,
    /// Traced threads that have ended and that their tracers were not told of, by thread ID.
    pub ended_tracees: HashMap<i32, crate::ptrace::Ended>,
    last_id: i32,
    /// `kernel.pid_max`: IDs are below it; 0 for the default.
    pub pid_max: i32,
    /// All IDs were given out once.
    has_wrapped: bool,
    /// Of the numbers that are known in further namespaces, the innermost.
    pub(crate) nested: HashMap<i32, Arc<crate::ns::pid::PidNs>>,
}

/// The tree, locked.
pub type TreeGuard<'a> = LockGuard<'a, Tree, { rank::TASK_TREE }>;

/// `kernel.pid_max` at first.
pub const PID_MAX: i32 = 32768;

impl Tree {
    /// The ID given out last.
    pub fn last_id(&self) -> i32 {
        self.last_id
    }

    /// IDs are below it.
    pub fn id_limit(&self) -> i32 {
        if self.pid_max == 0 { PID_MAX } else { self.pid_max }
    }

    /// The next free ID, as Linux counts them: upwards, then from 300 again.
    pub fn new_id(&mut self) -> i32 {
        loop {
            if self.last_id >= self.id_limit() - 1 {
                self.last_id = 299;
                self.has_wrapped = true;
            }
            self.last_id += 1;
            let id = self.last_id;
            // A group or session keeps the number of a leader that has ended.
            let is_kept = self.nested.contains_key(&id)
                || self.has_wrapped && self.processes.values().any(|p| p.pgid == id || p.sid == id);
            if !self.is_alive(id) && !is_kept {
                return id;
            }
        }
    }

    /// Whether all IDs are in use.
    pub(crate) fn is_full(&self) -> bool {
        const FIRST: i32 = 300;
        let room = usize::try_from(self.id_limit() - FIRST).unwrap_or(0);
        // A process may keep three: its own, its group's and its session's.
        let most = self.tasks.len() + 3 * self.processes.len() + self.ended_tracees.len() + self.nested.len();
        if most < room {
            return false;
        }
        let mut used: std::collections::HashSet<i32> = self.tasks.keys().copied().collect();
        used.extend(self.ended_tracees.keys().chain(self.nested.keys()));
        used.extend(self.processes.iter().flat_map(|(&pid, p)| [pid, p.pgid, p.sid]));
        used.iter().filter(|&&id| id >= FIRST).count() >= room
    }

    /// Whether a thread, a process or one that its tracer still has to hear of has number `id`.
    pub(crate) fn is_alive(&self, id: i32) -> bool {
        self.tasks.contains_key(&id)
            || self.processes.contains_key(&id)
            || self.ended_tracees.contains_key(&id)
    }
}

/// What the host's main thread waits for.
#[derive(Debug, Default)]
struct Outcome {
    /// The first process's wait status.
    ended: Option<i32>,
    /// All processes have stopped.
    stopped: bool,
    /// Signals about files that threads other than the guest's found due.
    due: async_io::Due,
}

/// The kernel of one sandbox.
pub struct Kernel {
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// The memory file.
    pub memory: Arc<dyn Memory>,
    /// The clocks.
    pub time: Arc<Timekeeper>,
    /// What rings at a time.
    pub alarms: Arc<AlarmService>,
    /// Mounts.
    pub mounts: Arc<MountNamespace>,
    /// Sockets.
    pub net: Arc<net::Namespace>,
    /// The root of all control groups.
    pub cgroups: Arc<crate::cgroup::Cgroup>,
    /// The first task's namespaces.
    pub namespaces: Arc<crate::ns::Namespaces>,
    /// Futexes.
    pub futexes: FutexTable,
    /// Futexes that pass from owner to owner.
    pub pi_locks: Lock<crate::task::pi::PiLocks, { rank::PI_LOCKS }>,
    /// The processes.
    pub tree: Lock<Tree, { rank::TASK_TREE }>,
    /// The vDSO image and its data page.
    pub vdso: Arc<FixedPages>,
    /// The data page below the image.
    pub vvar: Arc<FixedPages>,
    /// Randomise the address space.
    pub aslr: bool,
    /// Names, processors, memory and load of the machine.
    pub system: System,
    /// Threads that the sandbox may have at once; clone gives `EAGAIN` beyond.
    pub max_tasks: usize,
    /// Tells of system calls.
    pub tracer: Option<Tracer>,
    /// How many requests AIO contexts may have.
    pub aio: Arc<crate::aio::Quota>,
    /// How many signals each user has queued.
    pub queued_signals: Arc<QueuedSignals>,
    /// Syscalls and faults handled.
    pub syscalls: AtomicU64,
    /// Page faults handled.
    pub faults: AtomicU64,
    /// `/proc/sys`.
    pub settings: crate::proc::Settings,
    /// What syslog(2) reads.
    pub log: crate::klog::KernelLog,
    /// What acct(2) has switched on.
    pub accounting: crate::task::acct::Accounting,
    /// Keys and keyrings.
    pub keys: Arc<crate::keys::Keys>,
    /// Threads that rseq(2) has no number for.
    pub(crate) without_number: crate::task::rseq::WithoutNumber,
    /// Some process has a limit on its processor time.
    pub(crate) has_cpu_limits: AtomicBool,
    /// An address space without anything in it, for threads that end.
    empty_space: OnceLock<Option<Arc<MemoryManager>>>,
    /// Terminals.
    pub terminals: Arc<Terminals>,
    /// The terminal that ringfence was started on.
    pub console: OnceLock<Arc<Console>>,
    /// Terminals hung up whose sessions have not heard of it.
    pub(crate) hangups: crate::terminal::Hangups,
    outcome: Lock<Outcome, { rank::LEAF }>,
    outcome_changed: Condition,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

/// What a sandbox is made from.
pub struct Setup {
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Clock calibration begun at start.
    pub calibration: crate::time::Calibration,
    /// The mounts.
    pub mounts: Arc<MountNamespace>,
    /// Terminals.
    pub terminals: Arc<Terminals>,
    /// Randomise the address space.
    pub aslr: bool,
    /// `uname -n`.
    pub hostname: String,
    /// Threads that the sandbox may have at once.
    pub max_tasks: usize,
    /// Tells of system calls.
    pub tracer: Option<Tracer>,
    /// The network of the first processes.
    pub net: Arc<net::Namespace>,
}

impl Kernel {
    /// Makes a kernel without tasks.
    ///
    /// # Errors
    /// `ENOMEM`: no memory for the vDSO.
    pub fn new(setup: Setup) -> Result<Arc<Self>, Errno> {
        let memory: Arc<dyn Memory> = setup.platform.memory().clone();
        let time = Arc::new(Timekeeper::new(memory.clone(), setup.calibration, setup.platform.tsc_offset())?);
        // The timekeeper keeps its own reference for as long as it publishes.
        memory.inc_ref(time.vvar_page());
        let vvar = Arc::new(FixedPages::new(&memory, time.vvar_page()));
        // Debuggers read the whole area, which is as long as Linux's.
        let image = memory.allocate(2 * PAGE_SIZE, PAGE_SIZE, base::memmap::MemKind::Shared)?;
        memory.write(image.offset, loader::vdso::IMAGE);
        let vdso = Arc::new(FixedPages::new(&memory, image));
        let boot_ns = time.now(crate::time::Clock::Boottime).as_ns();
        let total = memory.total();
        let system = System::new(total, u64::try_from(boot_ns).unwrap_or(0));
        let net = setup.net;
        let names = crate::system::Names::new(setup.hostname);
        let cgroups = crate::cgroup::Cgroup::root();
        let namespaces =
            crate::ns::Namespaces::first(names, net.clone(), setup.mounts.clone(), cgroups.clone());
        let alarms = AlarmService::new(time.clone());
        net.set_alarms(alarms.clone());
        let kernel = Arc::new(Self {
            platform: setup.platform,
            memory,
            alarms,
            settings: crate::proc::Settings::new(setup.max_tasks),
            log: crate::klog::KernelLog::default(),
            accounting: crate::task::acct::Accounting::default(),
            keys: crate::keys::Keys::new(time.clone()),
            time,
            mounts: setup.mounts,
            net,
            cgroups,
            namespaces,
            futexes: FutexTable::new(),
            pi_locks: Lock::default(),
            tree: Lock::new(Tree::default()),
            vdso,
            vvar,
            aslr: setup.aslr,
            system,
            max_tasks: setup.max_tasks,
            tracer: setup.tracer,
            aio: Arc::default(),
            queued_signals: Arc::default(),
            syscalls: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            without_number: crate::task::rseq::WithoutNumber::default(),
            has_cpu_limits: AtomicBool::new(false),
            empty_space: OnceLock::new(),
            terminals: setup.terminals,
            console: OnceLock::new(),
            hangups: crate::terminal::Hangups::default(),
            outcome: Lock::default(),
            outcome_changed: Condition::new(),
        });
        let jobs: std::sync::Weak<dyn fs::tty::Jobs> = Arc::<Self>::downgrade(&kernel);
        kernel.terminals.set_jobs(jobs);
        let banner =
            format!("Linux version {} (ringfence) {}", crate::system::RELEASE, crate::system::VERSION);
        kernel.log.add(crate::klog::NOTICE, 0, &banner);
        fs::fuse::set_hooks(Box::new(crate::task::block::Servers));
        Ok(kernel)
    }

    /// An address space without anything in it; `None` when the platform has no room for one.
    pub fn empty_space(&self) -> Option<Arc<MemoryManager>> {
        let make = || {
            let params = Params { mmap_base: 0x7fff_f7ff_f000, total_memory: 0 };
            MemoryManager::new(&self.platform, Arc::default(), params).ok()
        };
        self.empty_space.get_or_init(make).clone()
    }

    /// Ends the sandbox with the first process's wait status.
    pub fn end(&self, status: i32) {
        self.outcome.lock().ended = Some(status);
        self.outcome_changed.notify_all();
    }

    /// Leaves signals about a file to the host's main thread.
    pub(crate) fn defer_readiness(&self, whom: Arc<dyn async_io::Tell>, events: base::wait::Events) {
        async_io::note(&mut self.outcome.lock().due, whom, events);
        self.outcome_changed.notify_all();
    }

    /// A process has stopped: when no other runs, the host's process stops too, so that whoever started it can see that
    /// and continue it.
    pub(crate) fn process_stopped(&self, tree: &Tree) {
        let runs = |p: &Process| p.zombie.is_none() && !p.group.signals.lock().stop.stopped;
        if !tree.processes.values().any(runs) {
            self.outcome.lock().stopped = true;
            self.outcome_changed.notify_all();
        }
    }

    /// Stops with the processes, and makes the first one's group go on when the host continues us.
    fn stop_with_all(&self) {
        if let Some(console) = self.console.get() {
            console.release();
        }
        host::thread::stop_process();
        if let Some(console) = self.console.get() {
            console.resume();
        }
        let pgid = self.tree.lock().processes.get(&1).map(|p| p.pgid);
        if let Some(pgid) = pgid {
            self.signal_group(pgid, crate::signal::SIGCONT);
        }
    }

    /// Makes the main thread look around.
    pub(crate) fn wake_main(&self) {
        self.outcome_changed.notify_all();
    }

    /// Waits until the first process has ended; returns its wait status. Keeps the clocks current meanwhile.
    pub fn wait_for_end(self: &Arc<Self>) -> i32 {
        let mut limit = self.time.refresh();
        let started = std::time::Instant::now();
        let mut has_settled = false;
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(status) = outcome.ended {
                return status;
            }
            if !outcome.due.is_empty() {
                let due = std::mem::take(&mut outcome.due);
                drop(outcome);
                async_io::send(due);
                outcome = self.outcome.lock();
            } else if std::mem::take(&mut outcome.stopped) {
                drop(outcome);
                self.stop_with_all();
                outcome = self.outcome.lock();
            } else if self.outcome_changed.wait_for(&mut outcome, self.watch(limit)) {
                drop(outcome);
                self.tell_hangups();
                self.look_after_groups();
                self.ask_without_number();
                limit = self.time.refresh();
                self.alarms.check_clock();
                self.sample_load();
                if !has_settled && started.elapsed() > SETTLED {
                    has_settled = true;
                    host::system::drop_code();
                }
                if self.has_cpu_limits.load(Ordering::Relaxed) {
                    self.check_cpu_limits();
                    limit = limit.min(CPU_LIMIT_WATCH);
                }
                let file = self.platform.memory();
                file.settle();
                if file.may_be_over_budget() {
                    limit = limit.min(BUDGET_WATCH);
                    if file.is_over_budget() && fs::hostfs::reclaim() == 0 {
                        self.kill_largest();
                    }
                }
                outcome = self.outcome.lock();
            }
        }
    }

    /// How long to wait for something to do: less while control groups have limits.
    fn watch(&self, limit: std::time::Duration) -> std::time::Duration {
        let limit = self.ask_without_number_in().map_or(limit, |pause| pause.min(limit));
        if self.cgroups.has_limits() { limit.min(crate::cgroup::WATCH) } else { limit }
    }

    fn look_after_groups(self: &Arc<Self>) {
        if self.cgroups.has_limits() {
            let now = self.time.now(crate::time::Clock::Monotonic).as_ns();
            self.cgroups.enforce(self, u64::try_from(now).unwrap_or(0));
        }
    }

    /// Kills the process that is worst by `oom_badness`: the sandbox is over its limit.
    fn kill_largest(&self) {
        let tasks: Vec<Arc<Task>> = self.tree.lock().tasks.values().cloned().collect();
        let badness = |t: &Arc<Task>| self.oom_badness(t).map(|points| (points, t.clone()));
        if let Some((_, victim)) = tasks.iter().filter_map(badness).max_by_key(|(points, _)| *points) {
            log::warn!("out of memory: killing process {}", victim.group.pid);
            let text = format!("Out of memory: Killed process {}", victim.group.pid);
            self.log.add(crate::klog::NOTICE, self.boot_ns(), &text);
            let info = abi::signal::SigInfo::kernel(9);
            let _ = self.signal_process(victim.group.pid, 9, info);
        }
    }

    /// A living thread of process `pid`.
    pub fn process_thread(&self, pid: i32) -> Option<Arc<Task>> {
        let group = self.tree.lock().processes.get(&pid)?.group.clone();
        group.first_thread()
    }

    /// The living task with thread ID `tid`.
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tree.lock().tasks.get(&tid).cloned()
    }

    /// Counts one system call.
    pub fn count_syscall(&self) {
        self.syscalls.fetch_add(1, Ordering::Relaxed);
    }
}
