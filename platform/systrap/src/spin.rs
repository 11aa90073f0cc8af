//! How long to wait awake, on either side.
//!
//! A hand-over to somebody who waits awake costs some hundred ns, to somebody asleep some µs. So each side waits awake for
//! about as long as the other one usually takes, if that is short, and not at all when processors are scarce. Where it often
//! takes longer than that, but less than a sleep and a wake-up, it waits awake for as long as those take. Where the
//! other one had to be woken it waits for that too: if both slept then, neither would ever be found awake. Waits awake
//! that end asleep show that the host is busy: they are made more and more rarely. Before that the two are parted, where
//! both are on one processor ([`crate::thread::Thread::part`]).

/// Waits longer than this are slept through, in ticks of the time stamp counter.
const LONGEST: u64 = 100_000;
/// What it takes to wake a thread on a processor that idles in a virtual machine.
pub(crate) const WAKE_TICKS: u64 = 120_000;
/// Stays without waiting awake at most, after waits that were in vain.
const LONGEST_PAUSE: u32 = 256;
/// No stay is longer than this, some hours, whatever the guest says.
const MOST: u64 = 1 << 45;
/// The sentry's first guess.
const FIRST: u64 = 20_000;
/// User code that usually takes less than this between two traps calls often.
const BRISK: u64 = 30_000;
/// What is added to twice the usual time.
const MARGIN: u64 = 4_000;

/// How many ticks of the time stamp counter a round of waiting in the window takes.
pub(crate) fn round_ticks() -> u64 {
    const ROUNDS: u64 = 64;
    let once = || {
        let start = host::clock::tsc();
        (0..ROUNDS).for_each(|_| std::hint::spin_loop());
        host::clock::tsc().wrapping_sub(start) / ROUNDS
    };
    (0..4).map(|_| once()).min().unwrap_or(0).clamp(10, 1000)
}

/// How long one side usually takes.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// The mean, in ticks.
    ticks: u64,
    /// Rises when it took longer than that, but less than to sleep and to be woken, and falls when it took even longer.
    patience: u8,
}

/// Patience that is acted upon, and the most there is.
const PATIENT: u8 = 8;

impl Usual {
    /// It took `ticks`. The mean moves an eighth of the way.
    fn note(&mut self, ticks: u64) {
        if ticks > LONGEST {
            self.patience /= 2;
        } else if ticks > self.short() {
            self.patience = (self.patience + 1).min(2 * PATIENT);
        }
        self.ticks = self.ticks - self.ticks / 8 + ticks.min(4 * LONGEST) / 8;
    }

    /// How long to wait awake where waiting has a price of its own: who traps and does not run lets the host change the
    /// mappings for less.
    fn short(self) -> u64 {
        if self.ticks > LONGEST { 0 } else { 2 * self.ticks + MARGIN }
    }

    /// How long to wait awake.
    fn budget(self) -> u64 {
        if self.ticks <= LONGEST && self.patience >= PATIENT { LONGEST } else { self.short() }
    }
}

/// How long to wait awake, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budgets {
    /// The sentry, for user code to stop.
    pub(crate) sentry: u64,
    /// The guest thread, for the sentry to see to a trap.
    pub(crate) trap: u32,
    /// The guest thread, for the sentry to answer a request.
    pub(crate) call: u64,
}

/// What one context knows of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// User code between two traps.
    guest: Usual,
    /// The sentry.
    sentry: Usual,
    /// When the sentry was given the registers last.
    trapped: u64,
    /// Stays to come without waiting awake, and the pause after the next wait in vain.
    pause: u32,
    next_pause: u32,
    /// For how long this stay's end was waited for awake.
    awake: u64,
}

impl Default for Spin {
    fn default() -> Self {
        let first = Usual { ticks: FIRST, patience: 0 };
        Self { guest: first, sentry: first, trapped: 0, pause: 0, next_pause: 1, awake: 0 }
    }
}

impl Spin {
    /// User code calls often: whoever it calls should wait awake, on another processor.
    pub(crate) fn is_brisk(&self) -> bool {
        self.guest.ticks < BRISK
    }

    /// User code takes longer between two traps than it is waited for awake.
    pub(crate) fn is_slow(&self) -> bool {
        self.guest.ticks > LONGEST
    }

    /// What made waiting awake be in vain is over.
    pub(crate) fn forgive(&mut self) {
        (self.pause, self.next_pause) = (0, 1);
    }

    /// Notes that user code is about to run; how long to wait awake.
    pub(crate) fn begin(&mut self, may_spin: bool) -> Budgets {
        self.awake = 0;
        if !may_spin {
            return Budgets::default();
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Budgets::default();
        }
        self.awake = self.guest.budget();
        let trap = u32::try_from(self.sentry.short()).unwrap_or(0);
        Budgets { sentry: self.awake, trap, call: self.sentry.budget() }
    }

    /// Notes that user code has what it waited for, at `now`.
    pub(crate) fn answered(&mut self, now: u64) {
        if self.trapped != 0 {
            self.sentry.note(now.wrapping_sub(self.trapped));
        }
    }

    /// Notes at `now` that user code stopped after `ran` ticks, which the guest says: without the time that it took to wake it.
    /// `slept` says that this side slept at last. Returns what can be believed.
    pub(crate) fn end(&mut self, ran: u64, slept: bool, now: u64) -> u64 {
        if self.awake > 0 && slept && ran < self.awake {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        } else if self.awake > 0 && !slept {
            self.next_pause = (self.next_pause / 2).max(1);
        }
        let ran = ran.min(MOST);
        self.guest.note(ran);
        self.trapped = now;
        ran
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_usually_takes_long_is_not_waited_for_awake() {
        let mut s = Spin::default();
        assert!(s.begin(true).sentry > 0);
        assert_eq!(s.begin(false), Budgets::default());
        for _ in 0..40 {
            s.begin(true);
            s.end(u64::MAX, true, 1);
        }
        assert_eq!(s.begin(true).sentry, 0);
        for _ in 0..40 {
            s.begin(true);
            s.end(0, false, 1);
        }
        assert!(s.begin(true).sentry > 0);
        // In vain, again and again.
        let awake = (0..2000).filter(|_| {
            let awake = s.begin(true).sentry > 0;
            s.end(0, true, 1);
            awake
        });
        assert!(awake.count() < 20);
    }

    #[test]
    fn who_often_takes_longer_but_less_than_a_wake_up_is_waited_for() {
        let mut usual = Usual { ticks: 1000, patience: 0 };
        assert!(usual.budget() < LONGEST / 2);
        for i in 0..200 {
            usual.note(if i % 8 == 0 { LONGEST / 2 } else { 1000 });
        }
        assert_eq!(usual.budget(), LONGEST);
        assert!(usual.short() < LONGEST);
        // Now and then much longer: awake would be in vain.
        for i in 0..200 {
            usual.note(if i % 8 == 0 { 3 * LONGEST } else { 1000 });
        }
        assert!(usual.budget() < LONGEST);
    }
}
