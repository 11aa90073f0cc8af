//! Processor time of threads and processes as clocks, and timers that run by them.
//!
//! The host tells nobody when a thread has used some time, so a timer looks now and then: after as long as the time could
//! be used up at the earliest, and more and more rarely while it stands still.

use std::sync::{Arc, Weak};

use base::alarm::{Alarm, AlarmClock, AlarmKey, Alarms, Schedule};

use crate::kernel::Kernel;
use crate::task::{Task, ThreadGroup};

/// The shortest and the longest pause between two looks at a clock that stands still, ns.
const SHORTEST: i64 = 1_000_000;
const LONGEST: i64 = 32_000_000;

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
}

impl std::fmt::Debug for CpuTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuTimer").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

impl CpuTimer {
    /// One that is not set.
    pub fn new(kernel: Arc<Kernel>, clock: CpuClock) -> Self {
        Self { kernel, clock, schedule: Schedule::default(), key: None, seen: 0, pause: SHORTEST }
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
