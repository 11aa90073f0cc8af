//! When a context polls its mailbox.
//!
//! Polling pays while calls come one soon after another and a core is free; nobody can ask for the latter. So it is
//! tried after a few short stays, and each disappointment makes the pause before the next try longer.

/// Ticks of the time stamp counter that a poll lasts without a request: about as long as the way out of the guest takes.
pub(crate) const POLL: u64 = 200_000;
/// Ticks that a companion may take to begin.
pub(crate) const WAKE: u64 = 1_000_000;
/// Rounds that a guest thread waits for its answer.
pub(crate) const ROUNDS: u32 = 1500;
/// A stay that was shorter, with the way out of the guest, would have been worth polling for.
const SHORT: u64 = 500_000;
/// Such stays in a row before polling is tried.
const STREAK: u32 = 3;
/// Calls through the mailbox that pay for a try.
const PAID: u64 = 4;
/// Stays without a try after the first disappointment, and at most.
const FIRST_PAUSE: u32 = 8;
const LONGEST_PAUSE: u32 = 4096;

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

    /// Polling ended after `calls` calls through the mailbox; `failed`: no other came in time.
    pub(crate) fn polled(&mut self, calls: u64, failed: bool) {
        if calls >= PAID {
            self.next_pause = (self.next_pause / 2).max(FIRST_PAUSE);
        }
        if calls < PAID {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        }
        if failed {
            self.streak = 0;
        }
    }
}
