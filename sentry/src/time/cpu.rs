//! Processor time of threads and processes as clocks, and timers that run by them.
//!
//! The host tells nobody when a thread has used some time, so a timer looks now and then: after as long as the time could
//! be used up at the earliest, and more and more rarely while it stands still.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use base::alarm::{Alarm, AlarmClock, AlarmKey, Alarms, Schedule};

use crate::kernel::Kernel;
use crate::task::{Task, ThreadGroup};

/// The shortest and the longest pause between two looks at a clock that stands still, ns.
const SHORTEST: i64 = 1_000_000;
const LONGEST: i64 = 32_000_000;

/// The most that a thread is ahead of or behind others in paying for signals, ns.
const MOST_OWED: i64 = 100_000_000;

/// A clock of processor time.
#[derive(Clone, Debug)]
pub enum CpuClock {
    /// All that a process uses.
    Process(Weak<ThreadGroup>),
    /// What a process uses in user code.
    User(Weak<ThreadGroup>),
    /// All that a thread uses.
    Thread(Weak<Task>),
    /// What a thread uses in user code.
    ThreadUser(Weak<Task>),
}

impl CpuClock {
    /// What the clock shows, ns; 0 once its process or thread is gone. Looks at the tree of tasks.
    pub fn now(&self, kernel: &Kernel) -> i64 {
        let ns = match self {
            Self::Process(group) => group.upgrade().map(|g| kernel.group_usage(&g).cpu_ns()),
            Self::User(group) => group.upgrade().map(|g| kernel.group_usage(&g).user_ns),
            Self::Thread(task) => task.upgrade().map(|t| t.account.usage().cpu_ns()),
            Self::ThreadUser(task) => task.upgrade().map(|t| t.account.usage().user_ns),
        };
        i64::try_from(ns.unwrap_or(0)).unwrap_or(i64::MAX)
    }

    /// How many threads drive it.
    fn threads(&self) -> i64 {
        match self {
            Self::Process(group) | Self::User(group) => {
                group.upgrade().map_or(1, |g| i64::try_from(g.threads().len()).unwrap_or(1))
            }
            Self::Thread(_) | Self::ThreadUser(_) => 1,
        }
    }
}

/// What a thread of a process has used, as a timer of the process sees it.
struct Share {
    tid: i32,
    /// What it had used at the last look, ns.
    seen: i64,
    /// How much of that no signal stands for.
    owed: i64,
}

/// A timer by processor time.
pub struct CpuTimer {
    kernel: Arc<Kernel>,
    clock: CpuClock,
    /// When it rings, by its clock.
    pub schedule: Schedule,
    key: Option<AlarmKey>,
    /// What the clock showed at the last look.
    seen: i64,
    pause: i64,
    /// Of a timer of a process: what its threads used.
    shares: Vec<Share>,
}

impl std::fmt::Debug for CpuTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuTimer").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

impl CpuTimer {
    /// One that is not set.
    pub fn new(kernel: Arc<Kernel>, clock: CpuClock) -> Self {
        Self {
            kernel,
            clock,
            schedule: Schedule::default(),
            key: None,
            seen: 0,
            pause: SHORTEST,
            shares: Vec::new(),
        }
    }

    /// The thread that a signal to the process goes to first. Linux takes the one that runs when the time is over; as its
    /// choices do over time, these agree with how much each thread has used.
    ///
    /// Source: Linux 6.12 kernel/time/posix-cpu-timers.c, `check_process_timers`; `posixtimer_get_target`.
    pub fn payer(&mut self) -> Option<Arc<Task>> {
        let (threads, total) = self.count();
        let heaviest = self.shares.iter_mut().max_by_key(|share| share.owed)?;
        heaviest.owed = heaviest.owed.saturating_sub(total).max(-MOST_OWED);
        let tid = heaviest.tid;
        threads.into_iter().find(|t| t.tid == tid)
    }

    /// Counts what the threads used since the last look: returns them and the sum.
    fn count(&mut self) -> (Vec<Arc<Task>>, i64) {
        let (CpuClock::Process(group) | CpuClock::User(group)) = &self.clock else { return (Vec::new(), 0) };
        let threads = group.upgrade().map(|group| group.threads()).unwrap_or_default();
        let is_user = matches!(self.clock, CpuClock::User(_));
        let mut former: HashMap<i32, Share> = self.shares.drain(..).map(|share| (share.tid, share)).collect();
        let mut total = 0i64;
        for thread in &threads {
            let usage = thread.account.usage();
            let used =
                i64::try_from(if is_user { usage.user_ns } else { usage.cpu_ns() }).unwrap_or(i64::MAX);
            let mut share = former.remove(&thread.tid).unwrap_or(Share { tid: thread.tid, seen: 0, owed: 0 });
            let more = used.saturating_sub(share.seen).max(0);
            total = total.saturating_add(more);
            share.owed = share.owed.saturating_add(more).min(MOST_OWED);
            share.seen = used;
            self.shares.push(share);
        }
        (threads, total)
    }

    /// What its clock shows.
    pub fn now(&self) -> i64 {
        self.clock.now(&self.kernel)
    }

    /// Makes `alarm` ring when it is time for a look.
    pub fn start(&mut self, alarm: Weak<dyn Alarm>) {
        self.stop();
        self.pause = SHORTEST;
        self.seen = self.now();
        if self.shares.is_empty() {
            // What they used before is none of this timer's.
            self.count();
            self.shares.iter_mut().for_each(|share| share.owed = 0);
        }
        self.look_later(alarm);
    }

    fn look_later(&mut self, alarm: Weak<dyn Alarm>) {
        let Some(next) = self.schedule.next else { return };
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let threads = self.clock.threads().clamp(1, cpus);
        let earliest = next.saturating_sub(self.seen) / threads;
        let alarms = &self.kernel.alarms;
        let at = alarms.now(AlarmClock::Monotonic).saturating_add(earliest.max(self.pause));
        self.key = Some(alarms.set(AlarmClock::Monotonic, at, alarm));
    }

    /// Takes the alarm back; the schedule stays.
    pub fn stop(&mut self) {
        if let Some(key) = self.key.take() {
            self.kernel.alarms.cancel(&key);
        }
    }

    /// Whether the time has come; looks again later when it has not.
    pub fn take_due(&mut self, alarm: Weak<dyn Alarm>) -> bool {
        if self.key.is_none() {
            return false;
        }
        self.stop();
        let now = self.now();
        if self.schedule.is_due(now) {
            return true;
        }
        self.pause = if now > self.seen { SHORTEST } else { self.pause.saturating_mul(2).min(LONGEST) };
        self.seen = now;
        self.look_later(alarm);
        false
    }

    /// Whether it is set.
    pub fn is_running(&self) -> bool {
        self.key.is_some()
    }
}

impl Drop for CpuTimer {
    fn drop(&mut self) {
        self.stop();
    }
}
