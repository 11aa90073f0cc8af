//! How long to wait awake, on either side.
//!
//! A hand-over to somebody who waits awake costs some hundred ns, to somebody asleep some µs. So each side waits awake for
//! about as long as the other one usually takes, if that is short, and not at all when processors are scarce.

/// Waits longer than this are slept through, in ticks of the time stamp counter.
const LONGEST: u64 = 60_000;
/// The sentry's first guess.
const FIRST: u64 = 20_000;
/// What is added to twice the usual time.
const MARGIN: u64 = 4_000;

/// Usual times of one context, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// In user code between two traps.
    guest: u64,
    /// In the sentry.
    sentry: u64,
    resumed: u64,
    trapped: u64,
}

impl Default for Spin {
    fn default() -> Self {
        Self { guest: FIRST, sentry: FIRST, resumed: 0, trapped: 0 }
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
        self.resumed = host::clock::tsc();
        if self.trapped != 0 {
            self.sentry = mean(self.sentry, self.resumed.wrapping_sub(self.trapped));
        }
        if !may_spin {
            return (0, 0);
        }
        (budget(self.guest), u32::try_from(budget(self.sentry)).unwrap_or(0))
    }

    /// Notes that user code stopped at `tsc`, which the guest says; returns the ticks that it ran.
    pub(crate) fn end(&mut self, tsc: u64) -> u64 {
        let now = host::clock::tsc();
        self.trapped = tsc.clamp(self.resumed, now);
        let ran = self.trapped - self.resumed;
        self.guest = mean(self.guest, ran);
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
            s.resumed = s.resumed.wrapping_sub(10 * LONGEST);
            s.end(u64::MAX);
        }
        assert_eq!(s.begin(true).0, 0);
        for _ in 0..40 {
            s.begin(true);
            s.end(0);
        }
        assert!(s.begin(true).0 > 0);
    }
}
