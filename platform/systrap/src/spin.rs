//! How long to wait awake, on either side.
//!
//! A hand-over to somebody who waits awake costs some hundred ns, to somebody asleep some µs. So each side waits awake for
//! about as long as the other one usually takes, if that is short, and not at all when processors are scarce. Where the
//! other one had to be woken it waits for that too: if both slept then, neither would ever be found awake. Waits awake
//! that end asleep show that the host is busy: they are made more and more rarely.

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

/// Usual times of one context, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// In user code between two traps.
    guest: u64,
    /// In the sentry.
    sentry: u64,
    /// When the sentry was given the registers last.
    trapped: u64,
    /// Stays to come without waiting awake, and the pause after the next wait in vain.
    pause: u32,
    next_pause: u32,
    /// Whether this stay began with waiting awake.
    awake: bool,
}

impl Default for Spin {
    fn default() -> Self {
        Self { guest: FIRST, sentry: FIRST, trapped: 0, pause: 0, next_pause: 1, awake: false }
    }
}

/// The mean moves an eighth of the way.
fn mean(old: u64, new: u64) -> u64 {
    let new = new.min(4 * LONGEST);
    old - old / 8 + new / 8
}

fn budget(usual: u64) -> u64 {
    if usual > LONGEST { 0 } else { 2 * usual + MARGIN }
}

impl Spin {
    /// Notes that user code is about to run; how long the sentry, and then the stub, are to wait awake.
    pub(crate) fn begin(&mut self, may_spin: bool) -> (u64, u32) {
        if self.trapped != 0 {
            self.sentry = mean(self.sentry, host::clock::tsc().wrapping_sub(self.trapped));
        }
        self.awake = false;
        if !may_spin {
            return (0, 0);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return (0, 0);
        }
        let mine = budget(self.guest);
        self.awake = mine > 0;
        (mine, u32::try_from(budget(self.sentry)).unwrap_or(0))
    }

    /// Notes that user code stopped after `ran` ticks, which the guest says: without the time that it took to wake it.
    /// `slept` says that this side slept at last. Returns what can be believed.
    pub(crate) fn end(&mut self, ran: u64, slept: bool) -> u64 {
        if self.awake && slept && ran < LONGEST {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        } else if self.awake {
            self.next_pause = (self.next_pause / 2).max(1);
        }
        let ran = ran.min(MOST);
        self.guest = mean(self.guest, ran);
        self.trapped = host::clock::tsc();
        ran
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_usually_takes_long_is_not_waited_for_awake() {
        let mut s = Spin::default();
        assert!(s.begin(true).0 > 0);
        assert_eq!(s.begin(false), (0, 0));
        for _ in 0..40 {
            s.begin(true);
            s.end(u64::MAX, true);
        }
        assert_eq!(s.begin(true).0, 0);
        for _ in 0..40 {
            s.begin(true);
            s.end(0, false);
        }
        assert!(s.begin(true).0 > 0);
        // In vain, again and again.
        let awake = (0..2000).filter(|_| {
            let awake = s.begin(true).0 > 0;
            s.end(0, true);
            awake
        });
        assert!(awake.count() < 20);
    }
}
