//! What threads and processes have used (getrusage(2), times(2), `/proc/PID/stat`).
//!
//! A thread's processor time is that of its host thread, which the host's clock tells at any time. Where user code has a
//! host thread of its own the platform tells what that has used, which is user time. Elsewhere, how much of it was user
//! code is estimated from the time stamp counter, read at each way into and out of the guest, as Linux itself scales its
//! ticks (kernel/sched/cputime.c, `cputime_adjust`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use base::lock::{Lock, rank};
use platform::Kick;

use super::{Task, ThreadGroup};
use crate::kernel::{Kernel, Tree};
use crate::signal::{SIGKILL, SIGXCPU};

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Answers a system call or a fault.
    Kernel = 0,
    /// Runs user code.
    User = 1,
    /// Waits, and a signal ends the wait: `S`.
    Asleep = 2,
    /// Waits, and no signal ends the wait: `D`.
    Held = 3,
}

/// How busy each processor was, in ticks of the time stamp counter: weights, since a thread may have been preempted
/// meanwhile.
#[derive(Debug)]
pub struct CpuWeights(Box<[(AtomicU64, AtomicU64)]>);

impl CpuWeights {
    /// For `count` processors.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self((0..count.max(1)).map(|_| Default::default()).collect()))
    }

    fn add(&self, cpu: u32, user: u64, kernel: u64) {
        if let Some((u, k)) = self.0.get(cpu as usize) {
            u.fetch_add(user, Ordering::Relaxed);
            k.fetch_add(kernel, Ordering::Relaxed);
        }
    }

    /// User and kernel weights by processor.
    pub fn read(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|(u, k)| (u.load(Ordering::Relaxed), k.load(Ordering::Relaxed))).collect()
    }
}

/// What one thread has used.
pub struct Account {
    /// The host thread that runs it; 0 before it has started.
    host_tid: AtomicI32,
    phase: AtomicU8,
    /// The counter when the phase began or was last counted.
    since: AtomicU64,
    user: AtomicU64,
    kernel: AtomicU64,
    /// The processor it was last seen on.
    cpu: AtomicU32,
    faults: AtomicU64,
    sleeps: AtomicU64,
    interruptions: AtomicU64,
    /// Bytes read and written, calls that read and wrote.
    io: [AtomicU64; 4],
    /// Where the machine's processors were busy.
    cpus: Arc<CpuWeights>,
    /// `CLOCK_BOOTTIME` when it was made, ns.
    started_ns: u64,
    /// Knows what user code uses where it has a host thread of its own.
    guest: Arc<dyn Kick>,
    /// User and system time last shown, ns: they never fall.
    shown: Lock<(u64, u64), { rank::LEAF }>,
}

/// Bytes and calls of read(2), write(2) and their like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain")]
pub struct IoCounts {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Resources used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In user code, ns.
    pub user_ns: u64,
    /// In the kernel, ns.
    pub system_ns: u64,
    /// Page faults.
    pub faults: u64,
    /// Waits.
    pub sleeps: u64,
    /// Times that something else took the processor.
    pub interruptions: u64,
    /// Most memory present, bytes.
    pub max_rss: u64,
    /// Read and written.
    pub io: IoCounts,
}

impl Usage {
    /// All processor time, ns.
    pub fn cpu_ns(&self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    /// Adds what another used; of memory the larger counts.
    pub fn add(&mut self, other: &Self) {
        self.user_ns = self.user_ns.saturating_add(other.user_ns);
        self.system_ns = self.system_ns.saturating_add(other.system_ns);
        self.faults = self.faults.saturating_add(other.faults);
        self.sleeps = self.sleeps.saturating_add(other.sleeps);
        self.interruptions = self.interruptions.saturating_add(other.interruptions);
        self.max_rss = self.max_rss.max(other.max_rss);
        self.io.read_bytes = self.io.read_bytes.saturating_add(other.io.read_bytes);
        self.io.written_bytes = self.io.written_bytes.saturating_add(other.io.written_bytes);
        self.io.reads = self.io.reads.saturating_add(other.io.reads);
        self.io.writes = self.io.writes.saturating_add(other.io.writes);
    }
}

/// What a process's ended threads and reaped children have used.
#[derive(Debug, Default)]
pub struct GroupAccount {
    /// Ended threads.
    pub dead: Lock<Usage, { rank::LEAF }>,
    /// Children that were waited for, with theirs.
    pub children: Lock<Usage, { rank::LEAF }>,
    /// Most memory seen present, bytes.
    pub max_rss: AtomicU64,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("host_tid", &self.host_tid).finish_non_exhaustive()
    }
}

impl Account {
    /// Begins now, which is `started_ns` of `CLOCK_BOOTTIME`.
    pub fn new(started_ns: u64, cpus: Arc<CpuWeights>, guest: Arc<dyn Kick>) -> Self {
        Self {
            cpus,
            guest,
            host_tid: AtomicI32::new(0),
            phase: AtomicU8::new(Phase::Kernel as u8),
            since: AtomicU64::new(host::clock::tsc()),
            user: AtomicU64::new(0),
            kernel: AtomicU64::new(0),
            cpu: AtomicU32::new(0),
            faults: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            interruptions: AtomicU64::new(0),
            io: Default::default(),
            started_ns,
            shown: Lock::new((0, 0)),
        }
    }

    /// `CLOCK_BOOTTIME` when the thread was made, ns.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// The processor that the thread was last seen on.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::Relaxed)
    }

    /// The host thread, once it runs.
    pub fn host_tid(&self) -> Option<i32> {
        Some(self.host_tid.load(Ordering::Relaxed)).filter(|&tid| tid != 0)
    }

    /// What the thread does at the moment.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            1 => Phase::User,
            2 => Phase::Asleep,
            3 => Phase::Held,
            _ => Phase::Kernel,
        }
    }

    /// Says that the calling host thread runs the task.
    pub fn start(&self) {
        self.host_tid.store(host::thread::current_id(), Ordering::Relaxed);
        self.note_cpu();
        self.since.store(host::clock::tsc(), Ordering::Relaxed);
    }

    /// Begins another phase; only the thread itself calls it. Returns the one before.
    pub fn enter(&self, phase: Phase) -> Phase {
        let before = self.phase();
        if phase != Phase::User {
            self.note_cpu();
        }
        if matches!(phase, Phase::Asleep | Phase::Held) {
            self.sleeps.fetch_add(1, Ordering::Relaxed);
        }
        self.commit();
        self.phase.store(phase as u8, Ordering::Relaxed);
        before
    }

    /// Counts a page fault.
    pub fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that user code was interrupted.
    pub fn count_interruption(&self) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the time since the last look towards the phase. Whoever exchanges `since` counts that piece.
    fn commit(&self) {
        let now = host::clock::about_tsc();
        let spent = now.saturating_sub(self.since.swap(now, Ordering::Relaxed));
        match self.phase() {
            Phase::User => {
                self.user.fetch_add(spent, Ordering::Relaxed);
                self.cpus.add(self.cpu(), spent, 0);
            }
            Phase::Kernel => {
                self.kernel.fetch_add(spent, Ordering::Relaxed);
                self.cpus.add(self.cpu(), 0, spent);
            }
            Phase::Asleep | Phase::Held => {}
        }
    }

    fn note_cpu(&self) {
        self.cpu.store(host::system::current_cpu() as u32, Ordering::Relaxed);
    }

    /// User and system time, ns.
    pub fn times(&self) -> (u64, u64) {
        let total = self
            .host_tid()
            .and_then(|tid| {
                if tid == host::thread::current_id() {
                    Some(host::clock::thread_cpu_ns())
                } else {
                    host::clock::cpu_ns_of(tid)
                }
            })
            .and_then(|ns| u64::try_from(ns).ok());
        let guest = self.guest.guest_cpu();
        let mut shown = self.shown.lock();
        // Once the host thread has ended the last times stand.
        let Some(total) = total else { return *shown };
        self.commit();
        if let Some(guest) = guest {
            let system_ns = total.saturating_sub(guest.waited_ns);
            *shown = (guest.user_ns.max(shown.0), system_ns.max(shown.1));
            return *shown;
        }
        let user = u128::from(self.user.load(Ordering::Relaxed));
        let all = (user + u128::from(self.kernel.load(Ordering::Relaxed))).max(1);
        let scaled = u64::try_from(u128::from(total) * user / all).unwrap_or(total);
        let user_ns = scaled.max(shown.0);
        let system_ns = total.saturating_sub(user_ns).max(shown.1);
        let user_ns = total.saturating_sub(system_ns).max(shown.0);
        *shown = (user_ns, system_ns);
        *shown
    }

    /// All that the thread has used.
    pub fn usage(&self) -> Usage {
        let (user_ns, system_ns) = self.times();
        Usage {
            user_ns,
            system_ns,
            faults: self.faults.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            interruptions: self.interruptions.load(Ordering::Relaxed),
            max_rss: 0,
            io: IoCounts {
                read_bytes: self.io[0].load(Ordering::Relaxed),
                written_bytes: self.io[1].load(Ordering::Relaxed),
                reads: self.io[2].load(Ordering::Relaxed),
                writes: self.io[3].load(Ordering::Relaxed),
            },
        }
    }

    /// Counts a call that has read or written, by its number and result.
    pub fn count_io(&self, number: u64, bytes: u64) {
        // read, pread64, readv, preadv, preadv2; write, pwrite64, writev, pwritev, pwritev2; sendfile, copy_file_range.
        let (read, write) = match number {
            0 | 17 | 19 | 295 | 327 => (true, false),
            1 | 18 | 20 | 296 | 328 => (false, true),
            40 | 326 => (true, true),
            _ => return,
        };
        let [read_bytes, written_bytes, reads, writes] = &self.io;
        if read {
            read_bytes.fetch_add(bytes, Ordering::Relaxed);
            reads.fetch_add(1, Ordering::Relaxed);
        }
        if write {
            written_bytes.fetch_add(bytes, Ordering::Relaxed);
            writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Task {
    /// Notes how much memory the address space holds, for `ru_maxrss`.
    pub fn note_rss(&self) {
        let mm = self.mm.lock().clone();
        self.group.account.max_rss.fetch_max(mm.memory_use().rss(), Ordering::Relaxed);
    }
}

impl Kernel {
    /// What the process has used, with its ended threads and without its children.
    pub fn group_usage(&self, group: &Arc<ThreadGroup>) -> Usage {
        let tree = self.tree.lock();
        self.group_usage_in(&tree, group)
    }

    /// Signals the processes that have used more processor time than they may (`RLIMIT_CPU`; Linux
    /// kernel/time/posix-cpu-timers.c, `check_process_timers`): SIGXCPU for each second beyond the soft limit, SIGKILL at
    /// the hard one.
    pub(crate) fn check_cpu_limits(&self) {
        const RLIMIT_CPU: usize = 0;
        let mut used: HashMap<i32, (Arc<ThreadGroup>, u64)> = HashMap::new();
        {
            let tree = self.tree.lock();
            for task in tree.tasks.values().filter(|t| t.group.rlimits.lock()[RLIMIT_CPU].0 != u64::MAX) {
                let group = &task.group;
                let entry = used.entry(group.pid).or_insert_with(|| {
                    let dead = group.account.dead.lock().cpu_ns();
                    (group.clone(), dead)
                });
                entry.1 += task.account.usage().cpu_ns();
            }
        }
        for (pid, (group, ns)) in used {
            let seconds = ns / 1_000_000_000;
            let signo = {
                let mut limits = group.rlimits.lock();
                let (soft, hard) = limits[RLIMIT_CPU];
                if seconds >= hard {
                    SIGKILL
                } else if seconds >= soft {
                    limits[RLIMIT_CPU].0 = soft.saturating_add(1);
                    SIGXCPU
                } else {
                    continue;
                }
            };
            // It may have ended meanwhile.
            let _ = self.signal_process(pid, signo, abi::signal::SigInfo::kernel(signo.cast_unsigned()));
        }
    }

    /// [`Kernel::group_usage`] with the tree locked.
    pub fn group_usage_in(&self, tree: &Tree, group: &Arc<ThreadGroup>) -> Usage {
        let mut usage = *group.account.dead.lock();
        for task in tree.tasks.values().filter(|t| Arc::ptr_eq(&t.group, group)) {
            usage.add(&task.account.usage());
        }
        usage.max_rss = group.account.max_rss.load(Ordering::Relaxed);
        usage
    }
}
