//! timerfd_create(2): a timer to read from (Linux fs/timerfd.c).

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, ECANCELED, EFAULT, EINVAL};
use base::alarm::{Alarm, AlarmClock, Alarms, Schedule, Timer};
use base::io::Sink;
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::anon_metadata;
use crate::file::{FileDescription, FileOps, Metadata, oflag};

#[derive(Debug)]
struct State {
    timer: Timer,
    /// Expirations not read yet.
    ticks: u64,
    /// The timer rang and, if it repeats, waits for a reader to count the intervals since.
    expired: bool,
    /// `TFD_TIMER_CANCEL_ON_SET`: how often the clock had been set before.
    cancel_on_set: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    clock: AlarmClock,
    this: Weak<Shared>,
    state: Lock<State, { rank::QUEUE }>,
    queue: WaitQueue,
}

/// An open timerfd.
#[derive(Debug)]
pub struct TimerFd(Arc<Shared>);

/// A setting of a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until the next expiration, or with `is_absolute` its time, ns; 0 for never.
    pub value: i64,
    /// From one to the next, ns; 0 for just once.
    pub interval: i64,
    /// `TFD_TIMER_ABSTIME`.
    pub is_absolute: bool,
    /// `TFD_TIMER_CANCEL_ON_SET`.
    pub cancel_on_set: bool,
}

/// Makes a timer of `clock` that is not set; `flags` is `O_NONBLOCK` or 0.
pub fn new(alarms: Arc<dyn Alarms>, clock: AlarmClock, flags: u32) -> Arc<FileDescription> {
    let timer = Timer::new(alarms, clock);
    let state = State { timer, ticks: 0, expired: false, cancel_on_set: None };
    let shared = Arc::new_cyclic(|this| Shared {
        clock,
        this: this.clone(),
        state: Lock::new(state),
        queue: WaitQueue::new(),
    });
    FileDescription::new(Box::new(TimerFd(shared)), None, (flags & oflag::NONBLOCK) | oflag::RDWR)
}

impl Shared {
    fn alarm(&self) -> Weak<dyn Alarm> {
        self.this.clone()
    }

    /// Counts the intervals since the timer rang, and starts it again.
    fn catch_up(&self, state: &mut State) {
        if state.expired && state.timer.schedule.interval != 0 {
            let now = state.timer.now();
            let passed = state.timer.schedule.forward(now);
            state.ticks = state.ticks.saturating_add(passed.saturating_sub(1));
            state.timer.start(self.alarm());
            state.expired = false;
        }
    }

    /// Whether the clock was set since the timer was.
    fn take_cancelled(state: &mut State) -> bool {
        let sets = state.timer.alarms().clock_sets();
        match &mut state.cancel_on_set {
            Some(before) if *before != sets => {
                *before = sets;
                true
            }
            _ => false,
        }
    }
}

/// The time left and the interval, as timerfd_gettime(2) tells them.
fn rest(state: &State) -> (i64, i64) {
    let left = match state.timer.schedule.next {
        Some(next) if !state.expired => next.saturating_sub(state.timer.now()).max(0),
        _ => 0,
    };
    (left, state.timer.schedule.interval)
}

impl TimerFd {
    /// The clock that it was made for.
    pub fn clock(&self) -> AlarmClock {
        self.0.clock
    }

    /// Sets the timer; returns what was left of the former setting, and its interval.
    pub fn set(&self, new: &Setting) -> (i64, i64) {
        let mut state = self.0.state.lock();
        state.timer.stop();
        self.0.catch_up(&mut state);
        let old = rest(&state);
        state.timer.stop();
        state.ticks = 0;
        state.expired = false;
        let watches = new.cancel_on_set && new.is_absolute && self.0.clock == AlarmClock::Realtime;
        state.cancel_on_set = watches.then(|| state.timer.alarms().clock_sets());
        if watches {
            state.timer.alarms().watch_clock(self.0.alarm());
        }
        // A relative time does not care how the clock is set.
        let monotonic = !new.is_absolute && self.0.clock == AlarmClock::Realtime;
        state.timer.clock = if monotonic { AlarmClock::Monotonic } else { self.0.clock };
        let start = if new.is_absolute { 0 } else { state.timer.now() };
        let next = (new.value != 0).then(|| start.saturating_add(new.value));
        state.timer.schedule = Schedule { next, interval: if next.is_some() { new.interval } else { 0 } };
        state.timer.start(self.0.alarm());
        old
    }

    /// The time left, and the interval.
    pub fn get(&self) -> (i64, i64) {
        let mut state = self.0.state.lock();
        self.0.catch_up(&mut state);
        rest(&state)
    }
}

impl Alarm for Shared {
    fn ring(&self) {
        let mut state = self.state.lock();
        let due = state.timer.take_due();
        if due {
            state.expired = true;
            state.ticks = state.ticks.saturating_add(1);
        }
        let tell = due || state.cancel_on_set.is_some();
        drop(state);
        if tell {
            self.queue.notify(Events::READABLE);
        }
    }
}

impl FileOps for TimerFd {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(EINVAL);
        }
        let mut state = self.0.state.lock();
        if Shared::take_cancelled(&mut state) {
            self.0.catch_up(&mut state);
            state.ticks = 0;
            return Err(ECANCELED);
        }
        if state.ticks == 0 {
            return Err(EAGAIN);
        }
        self.0.catch_up(&mut state);
        state.expired = false;
        let ticks = std::mem::take(&mut state.ticks);
        drop(state);
        match dst.put(&ticks.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(EFAULT),
        }
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn ready(&self) -> Events {
        let state = self.0.state.lock();
        let cancelled = state.cancel_on_set.is_some_and(|before| before != state.timer.alarms().clock_sets());
        if state.ticks > 0 || cancelled { Events::IN } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[timerfd]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
