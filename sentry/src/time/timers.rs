//! The timers of processes: POSIX timers and interval timers (Linux kernel/time/posix-timers.c, itimer.c).
//!
//! As in Linux a repeating timer that rang is set again only when its signal is delivered: what was missed meanwhile is
//! counted then, and a short interval cannot flood anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::EAGAIN;
use abi::signal::SigInfo;
use base::alarm::{Alarm, AlarmClock, Schedule, Timer};
use base::lock::{Lock, rank};

use super::cpu::{CpuClock, CpuTimer};
use crate::kernel::Kernel;
use crate::signal::queue::{Charge, Dequeued};
use crate::signal::{Pending, SIGALRM, Sender};
use crate::task::{Task, ThreadGroup};

/// Whom a POSIX timer tells.
#[derive(Clone, Debug)]
pub enum Target {
    /// Nobody: `SIGEV_NONE`.
    None,
    /// The process, with this signal.
    Process(i32),
    /// One thread of it: `SIGEV_THREAD_ID`.
    Thread(i32, Weak<Task>),
}

/// What a timer runs by.
#[derive(Debug)]
enum Source {
    Clock(Timer),
    Cpu(CpuTimer),
}

impl Source {
    fn now(&self) -> i64 {
        match self {
            Self::Clock(t) => t.now(),
            Self::Cpu(t) => t.now(),
        }
    }

    fn schedule(&mut self) -> &mut Schedule {
        match self {
            Self::Clock(t) => &mut t.schedule,
            Self::Cpu(t) => &mut t.schedule,
        }
    }

    fn start(&mut self, alarm: Weak<dyn Alarm>) {
        match self {
            Self::Clock(t) => t.start(alarm),
            Self::Cpu(t) => t.start(alarm),
        }
    }

    /// Who hears of it first, of a process.
    fn payer(&mut self) -> Option<Arc<Task>> {
        match self {
            Self::Clock(_) => None,
            Self::Cpu(t) => t.payer(),
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Clock(t) => t.stop(),
            Self::Cpu(t) => t.stop(),
        }
    }

    /// Whether the timer rang; a CPU-time one that did not looks again later.
    fn take_due(&mut self, alarm: Weak<dyn Alarm>) -> bool {
        match self {
            Self::Clock(t) => t.take_due(),
            Self::Cpu(t) => t.take_due(alarm),
        }
    }

    fn is_running(&self) -> bool {
        match self {
            Self::Clock(t) => t.is_running(),
            Self::Cpu(t) => t.is_running(),
        }
    }
}

#[derive(Debug)]
struct State {
    source: Source,
    /// Counts settings; a signal of an earlier one is out of date.
    setting: u64,
    /// The setting of the signal that is queued.
    queued: Option<u64>,
    /// Expirations beyond the delivered one.
    overrun: i64,
}

/// A POSIX timer.
pub struct PosixTimer {
    id: i32,
    this: Weak<PosixTimer>,
    kernel: Arc<Kernel>,
    group: Weak<ThreadGroup>,
    /// The clock that absolute times are of; the one that relative times are of may differ.
    clock: TimerClock,
    target: Target,
    value: u64,
    /// Its place in the user's count of queued signals.
    _charge: Charge,
    /// The signal was thrown away, since it is ignored: it is sent once it has an effect again.
    ignored: AtomicBool,
    state: Lock<State, { rank::TIMER }>,
}

impl fmt::Debug for PosixTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PosixTimer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The clock of a timer.
#[derive(Clone, Debug)]
pub enum TimerClock {
    /// One that alarms know; `tai` says that times are those of `CLOCK_TAI`.
    Alarm {
        /// The clock.
        clock: AlarmClock,
        /// Seconds that the times are ahead of `clock`.
        ahead_ns: i64,
    },
    /// Processor time.
    Cpu(CpuClock),
}

/// Value and interval, ns; the value is 0 when the timer is not set.
pub type Setting = (i64, i64);

impl PosixTimer {
    /// Sets the timer; returns what was left of the former setting.
    pub fn set(&self, value: i64, interval: i64, is_absolute: bool) -> Setting {
        let mut state = self.state.lock();
        let old = self.rest(&mut state);
        state.source.stop();
        state.setting += 1;
        self.ignored.store(false, Ordering::SeqCst);
        state.overrun = 0;
        *state.source.schedule() = Schedule::default();
        if value == 0 {
            return old;
        }
        let mut ahead = 0;
        if let (TimerClock::Alarm { clock, ahead_ns }, Source::Clock(timer)) =
            (&self.clock, &mut state.source)
        {
            // A relative time does not care how the clock is set.
            let monotonic = !is_absolute && *clock == AlarmClock::Realtime;
            timer.clock = if monotonic { AlarmClock::Monotonic } else { *clock };
            ahead = *ahead_ns;
        }
        let next =
            if is_absolute { value.saturating_sub(ahead) } else { state.source.now().saturating_add(value) };
        *state.source.schedule() = Schedule { next: Some(next), interval };
        if !matches!(self.target, Target::None) {
            state.source.start(self.alarm());
        }
        old
    }

    /// What is left, and the interval.
    pub fn get(&self) -> Setting {
        self.rest(&mut self.state.lock())
    }

    /// How often the timer expired beyond the delivered signal.
    pub fn overrun(&self) -> i32 {
        clamp(self.state.lock().overrun)
    }

    /// Ends it: its signals are forgotten.
    pub fn delete(&self) {
        let mut state = self.state.lock();
        state.source.stop();
        state.setting += 1;
        state.queued = None;
        self.ignored.store(false, Ordering::SeqCst);
        *state.source.schedule() = Schedule::default();
    }

    /// The signal has an effect again.
    pub fn unignored(&self, signo: i32) {
        if self.signo() != Some(signo) || !self.ignored.swap(false, Ordering::SeqCst) {
            return;
        }
        let due = {
            let mut state = self.state.lock();
            let due = state.queued.take() == Some(state.setting) && state.source.schedule().interval != 0;
            due.then_some(state.setting)
        };
        if let Some(setting) = due {
            self.send(setting);
        }
    }

    fn signo(&self) -> Option<i32> {
        match self.target {
            Target::None => None,
            Target::Process(signo) | Target::Thread(signo, _) => Some(signo),
        }
    }

    fn alarm(&self) -> Weak<dyn Alarm> {
        self.this.clone()
    }

    fn rest(&self, state: &mut State) -> Setting {
        let is_none = matches!(self.target, Target::None);
        let now = state.source.now();
        let waits = state.queued.is_some();
        if is_none || waits {
            let schedule = state.source.schedule();
            let passed = schedule.forward(now);
            if !is_none {
                state.overrun = state.overrun.saturating_add_unsigned(passed);
            }
        }
        let running = state.source.is_running();
        let schedule = *state.source.schedule();
        let Some(next) = schedule.next else { return (0, schedule.interval) };
        if !running && schedule.interval == 0 && !is_none {
            return (0, 0);
        }
        let left = next.saturating_sub(now);
        match left {
            1.. => (left, schedule.interval),
            // Expired and not told yet; one nanosecond says that it is set.
            _ if is_none => (0, schedule.interval),
            _ => (1, schedule.interval),
        }
    }

    /// Sends the signal of an expiration of setting number `setting`, unless the timer was set again since.
    fn send(&self, setting: u64) {
        let Some(group) = self.group.upgrade() else { return };
        let (signo, task, to_group) = match &self.target {
            Target::None => return,
            Target::Process(signo) => {
                let payer = self.state.lock().source.payer();
                (*signo, payer.or_else(|| group.first_thread()), true)
            }
            Target::Thread(signo, task) => {
                (*signo, task.upgrade().filter(|t| group.threads().iter().any(|o| Arc::ptr_eq(o, t))), false)
            }
        };
        let (Some(task), Some(hook)) = (task, self.this.upgrade()) else { return };
        {
            let mut state = self.state.lock();
            if state.setting != setting || state.queued == Some(setting) {
                return;
            }
            state.queued = Some(setting);
        }
        let mut pending = Pending::new(SigInfo::timer(signo as u32, self.id, 0, self.value), None);
        pending.hook = Some(hook);
        let tree = self.kernel.tree.lock();
        // The queue of a timer's signal is its own and cannot be full.
        let _ = self.kernel.send(&tree, &task, to_group, Sender::Kernel, pending);
    }
}

impl Alarm for PosixTimer {
    fn ring(&self) {
        let due = {
            let mut state = self.state.lock();
            state.source.take_due(self.alarm()).then_some(state.setting)
        };
        if let Some(setting) = due {
            self.send(setting);
        }
    }
}

impl Dequeued for PosixTimer {
    fn dequeued(&self, info: &mut SigInfo) -> bool {
        let mut state = self.state.lock();
        if state.queued.take() != Some(state.setting) {
            return false;
        }
        let now = state.source.now();
        let schedule = state.source.schedule();
        if schedule.interval == 0 {
            return true;
        }
        let passed = schedule.forward(now);
        state.source.start(self.alarm());
        let total = state.overrun.saturating_add_unsigned(passed).saturating_sub(1);
        state.overrun = total.max(0);
        info.set_overrun(clamp(total));
        true
    }

    fn discarded(&self) {
        self.ignored.store(true, Ordering::SeqCst);
    }
}

fn clamp(overrun: i64) -> i32 {
    i32::try_from(overrun.max(0)).unwrap_or(i32::MAX)
}

/// `ITIMER_REAL` of a process.
struct RealTimer {
    this: Weak<RealTimer>,
    kernel: Arc<Kernel>,
    group: Weak<ThreadGroup>,
    timer: Lock<Timer, { rank::TIMER }>,
}

impl Alarm for RealTimer {
    fn ring(&self) {
        // The lock is held until the signal is sent: who turns the timer off sees none of it afterwards.
        let mut timer = self.timer.lock();
        if timer.take_due()
            && let Some(group) = self.group.upgrade()
        {
            let info = SigInfo::kernel(SIGALRM as u32);
            let _ = self.kernel.signal_process(group.pid, SIGALRM, info);
        }
    }
}

impl RealTimer {
    fn alarm(&self) -> Weak<dyn Alarm> {
        self.this.clone()
    }
}

/// `ITIMER_VIRTUAL` or `ITIMER_PROF` of a process, or its `RLIMIT_CPU`.
struct CpuInterval {
    this: Weak<CpuInterval>,
    kernel: Arc<Kernel>,
    group: Weak<ThreadGroup>,
    signo: i32,
    timer: Lock<CpuTimer, { rank::TIMER }>,
}

impl Alarm for CpuInterval {
    fn ring(&self) {
        let alarm: Weak<dyn Alarm> = self.this.clone();
        // Held until the signal is sent, as for `ITIMER_REAL`.
        let mut timer = self.timer.lock();
        if !timer.take_due(alarm.clone()) {
            return;
        }
        let now = timer.now();
        if timer.schedule.forward(now) == 0 {
            timer.schedule.next = None;
        }
        let payer = timer.payer();
        timer.start(alarm);
        let Some(group) = self.group.upgrade() else { return };
        let info = SigInfo::kernel(self.signo as u32);
        let tree = self.kernel.tree.lock();
        if let Some(task) = payer.or_else(|| group.first_thread()) {
            let _ = self.kernel.send(&tree, &task, true, Sender::Kernel, Pending::new(info, None));
        }
    }
}

#[derive(Default)]
struct Table {
    posix: BTreeMap<i32, Arc<PosixTimer>>,
    next_id: i32,
    real: Option<Arc<RealTimer>>,
    /// `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    cpu: [Option<Arc<CpuInterval>>; 2],
}

/// The timers of one process.
#[derive(Default)]
pub struct GroupTimers(Lock<Table, { rank::TIMERS }>);

impl fmt::Debug for GroupTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupTimers").finish_non_exhaustive()
    }
}

impl GroupTimers {
    /// Makes a POSIX timer; returns its ID.
    ///
    /// # Errors
    /// `EAGAIN`: the user has used up `RLIMIT_SIGPENDING`.
    pub fn create(
        &self,
        kernel: &Arc<Kernel>,
        group: &Arc<ThreadGroup>,
        clock: TimerClock,
        target: Target,
        value: Option<u64>,
        uid: u32,
    ) -> Result<i32, Errno> {
        let limit = group.rlimits.lock()[11].0;
        let charge = kernel.queued_signals.charge(uid, limit).ok_or(EAGAIN)?;
        let mut table = self.0.lock();
        let mut id = table.next_id;
        while table.posix.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        table.next_id = id.checked_add(1).unwrap_or(0);
        let source = match &clock {
            TimerClock::Alarm { clock, .. } => Source::Clock(Timer::new(kernel.alarms.clone(), *clock)),
            TimerClock::Cpu(clock) => Source::Cpu(CpuTimer::new(kernel.clone(), clock.clone())),
        };
        let timer = Arc::new_cyclic(|this| PosixTimer {
            id,
            this: this.clone(),
            kernel: kernel.clone(),
            group: Arc::downgrade(group),
            clock,
            target,
            value: value.unwrap_or(id.unsigned_abs().into()),
            _charge: charge,
            ignored: AtomicBool::new(false),
            state: Lock::new(State { source, setting: 0, queued: None, overrun: 0 }),
        });
        table.posix.insert(id, timer);
        Ok(id)
    }

    /// The POSIX timer `id`.
    pub fn posix(&self, id: i32) -> Option<Arc<PosixTimer>> {
        self.0.lock().posix.get(&id).cloned()
    }

    /// Deletes a POSIX timer; says whether there was one.
    pub fn delete(&self, id: i32) -> bool {
        let timer = self.0.lock().posix.remove(&id);
        if let Some(t) = &timer {
            t.delete();
        }
        timer.is_some()
    }

    /// Deletes all POSIX timers, and with `all` the interval timers.
    pub fn clear(&self, all: bool) {
        let (posix, rest) = {
            let mut table = self.0.lock();
            let posix = std::mem::take(&mut table.posix);
            table.next_id = 0;
            let rest = all.then(|| (table.real.take(), std::mem::take(&mut table.cpu)));
            (posix, rest)
        };
        for timer in posix.values() {
            timer.delete();
        }
        drop(rest);
    }

    /// Signal `signo` is no longer ignored.
    pub fn unignored(&self, signo: i32) {
        let timers: Vec<_> = self.0.lock().posix.values().cloned().collect();
        for t in timers {
            t.unignored(signo);
        }
    }

    /// What is left of `ITIMER_REAL`, and its interval.
    pub fn real(&self) -> Setting {
        let Some(real) = self.0.lock().real.clone() else { return (0, 0) };
        let timer = real.timer.lock();
        rest_of_real(&timer)
    }

    /// Sets `ITIMER_REAL`; returns what was left.
    pub fn set_real(
        &self,
        kernel: &Arc<Kernel>,
        group: &Arc<ThreadGroup>,
        value: i64,
        interval: i64,
    ) -> Setting {
        let real = {
            let mut table = self.0.lock();
            let make = || {
                Arc::new_cyclic(|this| RealTimer {
                    this: this.clone(),
                    kernel: kernel.clone(),
                    group: Arc::downgrade(group),
                    timer: Lock::new(Timer::new(kernel.alarms.clone(), AlarmClock::Monotonic)),
                })
            };
            if value == 0 && table.real.is_none() {
                return (0, 0);
            }
            table.real.get_or_insert_with(make).clone()
        };
        let mut timer = real.timer.lock();
        let old = rest_of_real(&timer);
        timer.stop();
        let now = timer.now();
        let next = (value != 0).then(|| now.saturating_add(value));
        timer.schedule = Schedule { next, interval: if next.is_some() { interval } else { 0 } };
        timer.start(real.alarm());
        old
    }

    /// A SIGALRM of the process was delivered: a repeating `ITIMER_REAL` runs again.
    pub fn alarm_delivered(&self) {
        let Some(real) = self.0.lock().real.clone() else { return };
        let mut timer = real.timer.lock();
        if timer.is_running() || timer.schedule.interval == 0 || timer.schedule.next.is_none() {
            return;
        }
        let now = timer.now();
        timer.schedule.forward(now);
        timer.start(real.alarm());
    }

    /// What is left of `ITIMER_VIRTUAL` (0) or `ITIMER_PROF` (1), and its interval.
    pub fn cpu(&self, which: usize) -> Setting {
        let Some(Some(t)) = self.0.lock().cpu.get(which).cloned() else { return (0, 0) };
        let timer = t.timer.lock();
        rest_of_cpu(&timer)
    }

    /// Sets `ITIMER_VIRTUAL` (0) or `ITIMER_PROF` (1); returns what was left.
    pub fn set_cpu(
        &self,
        kernel: &Arc<Kernel>,
        group: &Arc<ThreadGroup>,
        which: usize,
        (value, interval): Setting,
    ) -> Setting {
        let (signo, clock) = if which == 0 {
            (abi::signal::SIGVTALRM, CpuClock::User(Arc::downgrade(group)))
        } else {
            (abi::signal::SIGPROF, CpuClock::Process(Arc::downgrade(group)))
        };
        let interval_timer = {
            let mut table = self.0.lock();
            let Some(slot) = table.cpu.get_mut(which) else { return (0, 0) };
            if value == 0 && slot.is_none() {
                return (0, 0);
            }
            let make = || {
                Arc::new_cyclic(|this| CpuInterval {
                    this: this.clone(),
                    kernel: kernel.clone(),
                    group: Arc::downgrade(group),
                    signo: signo as i32,
                    timer: Lock::new(CpuTimer::new(kernel.clone(), clock)),
                })
            };
            slot.get_or_insert_with(make).clone()
        };
        // Reading processor time looks at the tree of tasks, so it comes before the timer's lock.
        let mut timer = interval_timer.timer.lock();
        let old = rest_of_cpu(&timer);
        timer.stop();
        let now = timer.now();
        let next = (value != 0).then(|| now.saturating_add(value));
        timer.schedule = Schedule { next, interval: if next.is_some() { interval } else { 0 } };
        timer.start(interval_timer.this.clone());
        old
    }
}

fn rest_of_real(timer: &Timer) -> Setting {
    let interval = timer.schedule.interval;
    match timer.schedule.next {
        // One that is about to ring is not off.
        Some(next) if timer.is_running() => (next.saturating_sub(timer.now()).max(1000), interval),
        _ => (0, interval),
    }
}

fn rest_of_cpu(timer: &CpuTimer) -> Setting {
    let interval = timer.schedule.interval;
    match timer.schedule.next {
        Some(next) if timer.is_running() => (next.saturating_sub(timer.now()).max(1000), interval),
        _ => (0, interval),
    }
}
