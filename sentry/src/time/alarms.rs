//! The thread that rings alarms: it sleeps until the next one, and does not exist before the first.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::alarm::{Alarm, AlarmClock, AlarmKey, Alarms};
use base::lock::{Condition, Lock, rank};

use super::{Clock, Timekeeper};

/// A clock that differs by more than this from where it should be was set.
const SET_NS: i64 = 20_000_000;

type Queue = BTreeMap<(i64, u64), Weak<dyn Alarm>>;

#[derive(Default)]
struct State {
    queues: [Queue; 3],
    /// Told when somebody sets `CLOCK_REALTIME`.
    watchers: Vec<Weak<dyn Alarm>>,
    sets: u64,
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC` when last looked at.
    offset: Option<i64>,
    /// Alarms set so far.
    count: u64,
    started: bool,
}

/// All alarms of a sandbox.
pub struct AlarmService {
    time: Arc<Timekeeper>,
    this: Weak<AlarmService>,
    state: Lock<State, { rank::ALARMS }>,
    changed: Condition,
}

impl std::fmt::Debug for AlarmService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlarmService").finish_non_exhaustive()
    }
}

const CLOCKS: [AlarmClock; 3] = [AlarmClock::Realtime, AlarmClock::Monotonic, AlarmClock::Boottime];

fn index(clock: AlarmClock) -> usize {
    match clock {
        AlarmClock::Realtime => 0,
        AlarmClock::Monotonic => 1,
        AlarmClock::Boottime => 2,
    }
}

impl AlarmService {
    /// One without alarms.
    pub fn new(time: Arc<Timekeeper>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            time,
            this: this.clone(),
            state: Lock::default(),
            changed: Condition::new(),
        })
    }

    /// Looks whether somebody has set `CLOCK_REALTIME`; called now and then.
    pub fn check_clock(&self) {
        let offset = self.now(AlarmClock::Realtime).saturating_sub(self.now(AlarmClock::Monotonic));
        let mut state = self.state.lock();
        let before = state.offset.replace(offset);
        if before.is_none_or(|b| offset.abs_diff(b) <= SET_NS.unsigned_abs()) {
            return;
        }
        state.sets += 1;
        state.watchers.retain(|w| w.strong_count() > 0);
        let watchers: Vec<_> = state.watchers.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        self.changed.notify_all();
        for w in watchers {
            w.ring();
        }
    }

    fn run(&self) {
        host::thread::set_timer_slack(1);
        let mut state = self.state.lock();
        loop {
            let mut due = Vec::new();
            let mut wait: Option<i64> = None;
            for clock in CLOCKS {
                let queue = &mut state.queues[index(clock)];
                if queue.is_empty() {
                    continue;
                }
                let now = self.now(clock);
                while let Some(entry) = queue.first_entry() {
                    let left = entry.key().0.saturating_sub(now);
                    if left > 0 {
                        wait = Some(wait.map_or(left, |w| w.min(left)));
                        break;
                    }
                    due.push(entry.remove());
                }
            }
            if due.is_empty() {
                match wait {
                    None => self.changed.wait(&mut state),
                    Some(ns) => {
                        self.changed.wait_for(&mut state, Duration::from_nanos(ns.unsigned_abs()));
                    }
                }
                continue;
            }
            drop(state);
            for alarm in due.iter().filter_map(Weak::upgrade) {
                alarm.ring();
            }
            state = self.state.lock();
        }
    }
}

impl Alarms for AlarmService {
    fn now(&self, clock: AlarmClock) -> i64 {
        let clock = match clock {
            AlarmClock::Realtime => Clock::Realtime,
            AlarmClock::Monotonic => Clock::Monotonic,
            AlarmClock::Boottime => Clock::Boottime,
        };
        self.time.now(clock).as_ns()
    }

    fn set(&self, clock: AlarmClock, at: i64, alarm: Weak<dyn Alarm>) -> AlarmKey {
        let mut state = self.state.lock();
        state.count += 1;
        let id = state.count;
        let queue = &mut state.queues[index(clock)];
        queue.insert((at, id), alarm);
        let is_first = queue.first_key_value().is_some_and(|(k, _)| *k == (at, id));
        let start = !std::mem::replace(&mut state.started, true);
        drop(state);
        if start {
            let started = self.this.upgrade().map(|this| {
                std::thread::Builder::new()
                    .name("alarms".into())
                    .stack_size(256 << 10)
                    .spawn(move || this.run())
            });
            if let Some(Err(e)) = started {
                log::error!("no thread for timers: {e}");
                self.state.lock().started = false;
            }
        } else if is_first {
            self.changed.notify_all();
        }
        AlarmKey { clock, at, id }
    }

    fn cancel(&self, key: &AlarmKey) {
        let removed = self.state.lock().queues[index(key.clock)].remove(&(key.at, key.id));
        drop(removed);
    }

    fn clock_sets(&self) -> u64 {
        self.state.lock().sets
    }

    fn watch_clock(&self, alarm: Weak<dyn Alarm>) {
        let mut state = self.state.lock();
        state.watchers.retain(|w| w.strong_count() > 0 && !w.ptr_eq(&alarm));
        state.watchers.push(alarm);
    }
}
