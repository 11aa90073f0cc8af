//! Alarms: something that happens when a clock reaches a time.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

/// A clock that alarms are set by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlarmClock {
    /// `CLOCK_REALTIME`: somebody may set it.
    Realtime,
    /// `CLOCK_MONOTONIC`.
    Monotonic,
    /// `CLOCK_BOOTTIME`: it goes on while the host sleeps.
    Boottime,
}

/// Whom an alarm is for.
pub trait Alarm: Send + Sync {
    /// The time has come, or may have: one that was cancelled or set anew may still ring. Called without locks by a thread
    /// that serves all alarms, so it must not wait.
    fn ring(&self);
}

/// An alarm that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmKey {
    /// The clock.
    pub clock: AlarmClock,
    /// When, in ns.
    pub at: i64,
    /// Tells alarms for one time apart.
    pub id: u64,
}

/// Sets alarms. Any lock but an innermost one may be held.
pub trait Alarms: Debug + Send + Sync {
    /// What a clock shows, in ns.
    fn now(&self, clock: AlarmClock) -> i64;
    /// Rings `alarm` once `clock` shows `at` ns.
    fn set(&self, clock: AlarmClock, at: i64, alarm: Weak<dyn Alarm>) -> AlarmKey;
    /// Takes an alarm back; it may be about to ring.
    fn cancel(&self, key: &AlarmKey);
    /// How often somebody has set `CLOCK_REALTIME`.
    fn clock_sets(&self) -> u64;
    /// Rings `alarm` whenever somebody sets `CLOCK_REALTIME`.
    fn watch_clock(&self, alarm: Weak<dyn Alarm>);
}

/// When something happens next, and how often after that: the arithmetic of timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// When, in ns of some clock; `None` when it is not set.
    pub next: Option<i64>,
    /// The time from one to the next; 0 for just once.
    pub interval: i64,
}

impl Schedule {
    /// Moves `next` by whole intervals until it lies after `now`; returns how many (`hrtimer_forward`).
    pub fn forward(&mut self, now: i64) -> u64 {
        let (Some(next), 1..) = (self.next, self.interval) else { return 0 };
        let late = now.saturating_sub(next);
        if late < 0 {
            return 0;
        }
        let count = late / self.interval + 1;
        self.next = Some(next.saturating_add(self.interval.saturating_mul(count)));
        count.unsigned_abs()
    }

    /// Whether the time has come at `now`.
    pub fn is_due(&self, now: i64) -> bool {
        self.next.is_some_and(|next| next <= now)
    }
}

/// A [`Schedule`] kept by a clock's alarms.
#[derive(Debug)]
pub struct Timer {
    alarms: Arc<dyn Alarms>,
    key: Option<AlarmKey>,
    /// The clock of `schedule`.
    pub clock: AlarmClock,
    /// When it rings.
    pub schedule: Schedule,
}

impl Timer {
    /// One that is not set.
    pub fn new(alarms: Arc<dyn Alarms>, clock: AlarmClock) -> Self {
        Self { alarms, key: None, clock, schedule: Schedule::default() }
    }

    /// The present time of its clock.
    pub fn now(&self) -> i64 {
        self.alarms.now(self.clock)
    }

    /// The alarms that it is kept by.
    pub fn alarms(&self) -> &Arc<dyn Alarms> {
        &self.alarms
    }

    /// Makes `alarm` ring at the schedule's next time.
    pub fn start(&mut self, alarm: Weak<dyn Alarm>) {
        self.stop();
        if let Some(next) = self.schedule.next {
            self.key = Some(self.alarms.set(self.clock, next, alarm));
        }
    }

    /// Takes the alarm back; the schedule stays.
    pub fn stop(&mut self) {
        if let Some(key) = self.key.take() {
            self.alarms.cancel(&key);
        }
    }

    /// Whether an alarm is set that has come due; it counts as rung then.
    pub fn take_due(&mut self) -> bool {
        let due = self.key.is_some() && self.schedule.is_due(self.now());
        if due {
            self.key = None;
        }
        due
    }

    /// Whether an alarm is set.
    pub fn is_running(&self) -> bool {
        self.key.is_some()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_counts_whole_intervals() {
        let mut s = Schedule { next: Some(100), interval: 10 };
        assert_eq!(s.forward(99), 0);
        assert_eq!(s.forward(100), 1);
        assert_eq!(s.next, Some(110));
        assert_eq!(s.forward(145), 4);
        assert_eq!(s.next, Some(150));
        let mut once = Schedule { next: Some(1), interval: 0 };
        assert_eq!(once.forward(50), 0);
        let mut huge = Schedule { next: Some(1), interval: i64::MAX };
        assert_eq!(huge.forward(i64::MAX), 1);
    }
}
