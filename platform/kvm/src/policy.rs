//! When a context polls its mailbox.
//!
//! Polling pays while calls come one soon after another and a core is free; nobody can ask for the latter. So it is
//! tried after a few short stays, and each disappointment makes the pause before the next try longer.

/// Ticks of the time stamp counter that a poll lasts without a request: about as long as the way out of the guest takes.
pub(crate) const POLL: u64 = 200_000;
/// The same while another thread wants the core.
pub(crate) const POLL_CROWDED: u64 = 20_000;
/// Ticks that a companion may take to begin.
pub(crate) const WAKE: u64 = 1_000_000;
/// Rounds that a guest thread waits for its answer.
pub(crate) const ROUNDS: u32 = 4000;
/// A stay that was shorter, with the way out of the guest, would have been worth polling for.
const SHORT: u64 = 350_000;
/// Such stays in a row before polling is tried.
const STREAK: u32 = 8;
/// Calls through the mailbox that pay for a try.
const PAID: u64 = 4;
/// Stays without a try after the first disappointment, and at most.
const FIRST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 4096;

/// Why polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No call came in time.
    Late,
    /// A kick, which says nothing about the next time.
    Kick,
    /// The guest thread left with a fault or a call that did not come through the mailbox.
    Trap,
}

/// What a context has seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    streak: u32,
    pause: u32,
    next_pause: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { streak: 0, pause: 0, next_pause: FIRST_PAUSE }
    }
}

impl Policy {
    /// A stay of the context's own thread ended after `ticks`: at a patched site, or otherwise.
    pub(crate) fn direct(&mut self, at_site: bool, ticks: u64) {
        self.pause = self.pause.saturating_sub(1);
        if at_site {
            self.streak = if ticks < SHORT { self.streak.saturating_add(1) } else { 0 };
        } else {
            self.streak = self.streak.saturating_sub(1);
        }
    }

    /// Whether to poll now.
    pub(crate) fn wants_polling(&self) -> bool {
        self.pause == 0 && self.streak >= STREAK
    }

    /// Polling ended after `calls` calls through the mailbox.
    pub(crate) fn polled(&mut self, calls: u64, end: End) {
        if calls >= PAID {
            self.next_pause = (self.next_pause / 2).max(FIRST_PAUSE);
        } else if end != End::Kick {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        }
        if end == End::Late {
            self.streak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_begins_after_short_stays_and_rests_after_disappointments() {
        let mut p = Policy::default();
        assert!(!p.wants_polling());
        let stay = |p: &mut Policy| p.direct(true, SHORT / 2);
        (0..STREAK).for_each(|_| stay(&mut p));
        assert!(p.wants_polling());
        let mut tries = 0;
        for _ in 0..20_000 {
            if p.wants_polling() {
                tries += 1;
                p.polled(0, End::Late);
            }
            stay(&mut p);
        }
        assert!(tries < 20, "{tries}");
        p.polled(1000, End::Late);
        (0..5000).for_each(|_| stay(&mut p));
        let mut tries = 0;
        for _ in 0..1000 {
            if p.wants_polling() {
                tries += 1;
                p.polled(1000, End::Trap);
            }
            stay(&mut p);
        }
        assert!(tries > 900, "{tries}");
    }

    #[test]
    fn long_stays_are_no_reason_to_poll() {
        let mut p = Policy::default();
        for _ in 0..100 {
            p.direct(true, SHORT * 2);
            assert!(!p.wants_polling());
        }
    }
}
