//! The part of a context that other threads reach: kicks, and what user code has cost.
//!
//! A kick interrupts a context that runs user code, without a lost wake-up. A signal to the guest thread does it: in user
//! code it is taken at once, and in the stub, where all signals are blocked, it stays pending until the stub returns to
//! user code. So a kick is lost neither before the entry nor on the way out.
//!
//! The host tells what a guest thread has used while it lives. What was used since the last time that it told, and what is
//! too little to ask for, is estimated from the time stamp counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::lock::{Lock, rank};
use host::system::CpuMask;
use platform::{GuestCpu, Kick};

use crate::process::Process;
use crate::shared::Shared;
use crate::stub::KICK;
use crate::sys;
use crate::thread::Thread;

/// Less than this, ns, is estimated without asking the host. To ask makes entries in its /proc, and to remove these when the
/// stub is reaped takes a processor for half a millisecond.
const LITTLE: u64 = 5_000_000;
/// The host is asked all the same after this time, ns: what stays took is the guest's word.
const BELIEF: u64 = 50_000_000;

/// The part of a context that other threads reach.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    state: Lock<State, { rank::LEAF }>,
    /// Ticks of the time stamp counter in user code.
    ran: AtomicU64,
    /// Ticks that the sentry's thread has waited awake.
    waited: AtomicU64,
}

#[derive(Default)]
struct State {
    /// `kick` was called and not yet reported.
    kicked: bool,
    /// User code runs now, on `bound`.
    inside: bool,
    /// The time stamp counter when that began.
    since: u64,
    /// The guest thread that the context has.
    bound: Option<(Arc<Process>, i32)>,
    /// What the guest thread had used when it was bound, ns.
    before: u64,
    /// Told by the host last: what was used, ns, and [`Runner::ran`] then.
    known: (u64, u64),
    /// The time stamp counter when the host was asked last, or the guest thread was bound.
    asked: u64,
    /// What the earlier guest threads have used.
    earlier: u64,
}

impl State {
    /// How long the stay has taken at `now`, in ticks of the time stamp counter.
    fn stay(&self, now: u64) -> u64 {
        if self.inside { now.saturating_sub(self.since) } else { 0 }
    }
}

impl Runner {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: Lock::default(), ran: AtomicU64::new(0), waited: AtomicU64::new(0) }
    }

    /// Tells which guest thread the context has from now on.
    pub(crate) fn bind(&self, thread: &Thread) {
        let mut state = self.state.lock();
        state.bound = Some((thread.process().clone(), thread.tid()));
        state.before = thread.used_ns;
        state.asked = host::clock::tsc();
    }

    /// The context has no guest thread any more; what that has used since it was bound, ns.
    pub(crate) fn unbind(&self) -> u64 {
        self.user_ns();
        let ran = self.ran.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        let used = state.known.0 + self.shared.ticks_to_ns(ran.saturating_sub(state.known.1));
        let since = used.saturating_sub(state.earlier);
        (state.earlier, state.known) = (used, (used, ran));
        let bound = state.bound.take();
        drop(state);
        drop(bound);
        since
    }

    /// Announces that user code is about to run; false: a kick came before, do not.
    pub(crate) fn enter(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.kicked) {
            return false;
        }
        state.inside = true;
        state.since = host::clock::about_tsc();
        true
    }

    /// Ends the stay at `now`, which took `ran` ticks and in which this thread waited awake for `waited`. `interrupted` says that
    /// it ended without a trap, so a kick counts as delivered.
    pub(crate) fn leave(&self, interrupted: bool, ran: u64, waited: u64, now: u64) {
        self.waited.fetch_add(waited, Ordering::Relaxed);
        let mut state = self.state.lock();
        // It cannot have run for longer than the stay.
        self.ran.fetch_add(ran.min(state.stay(now)), Ordering::Relaxed);
        state.inside = false;
        if interrupted {
            state.kicked = false;
        }
    }

    /// The kick that ended the stay is not reported yet: a call came at the same time.
    pub(crate) fn report_later(&self) {
        self.state.lock().kicked = true;
    }

    /// Whether a kick waits to be reported.
    pub(crate) fn is_kicked(&self) -> bool {
        self.state.lock().kicked
    }

    /// What user code has used, ns.
    fn user_ns(&self) -> u64 {
        let state = self.state.lock();
        let ran = self.ran.load(Ordering::Relaxed) + state.stay(host::clock::tsc());
        let estimate = self.shared.ticks_to_ns(ran.saturating_sub(state.known.1));
        let belief = self.shared.ticks_to_ns(host::clock::tsc().saturating_sub(state.asked));
        if estimate < LITTLE && belief < BELIEF {
            return state.known.0 + estimate;
        }
        let bound = state.bound.clone();
        drop(state);
        let told = bound
            .filter(|(process, _)| !process.is_dead())
            .and_then(|(process, tid)| sys::thread_cpu_ns(process.pid(), tid));
        let mut state = self.state.lock();
        if let Some(told) = told {
            state.asked = host::clock::tsc();
            let used = state.earlier + told.saturating_sub(state.before);
            state.known = (used.max(state.known.0), ran);
        }
        state.known.0 + self.shared.ticks_to_ns(ran.saturating_sub(state.known.1))
    }
}

impl Kick for Runner {
    fn kick(&self) {
        let mut state = self.state.lock();
        state.kicked = true;
        if let Some((process, tid)) = state.bound.as_ref().filter(|_| state.inside) {
            process.signal(*tid, KICK);
        }
    }

    fn guest_cpu(&self) -> Option<GuestCpu> {
        let waited_ns = self.shared.ticks_to_ns(self.waited.load(Ordering::Relaxed));
        Some(GuestCpu { user_ns: self.user_ns(), waited_ns })
    }

    fn set_affinity(&self, mask: &CpuMask) {
        self.shared.has_affinity.store(true, Ordering::Relaxed);
        let bound = self.state.lock().bound.clone();
        if let Some((process, tid)) = bound {
            process.set_affinity(tid, mask);
        }
    }
}
