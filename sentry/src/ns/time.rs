//! Time namespaces (time_namespaces(7); Linux kernel/time/namespace.c): clocks that show more or less than the first
//! namespace's.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, EPERM, ERANGE};
use base::cred::{Credentials, cap};
use base::lock::{Lock, rank};
use base::memmap::FixedPages;
use base::userns::UserNamespace;

use super::{Namespace, Namespaces};
use crate::kernel::Kernel;
use crate::mm::{MemoryManager, VVAR};
use crate::task::Task;
use crate::time::Clock;
use crate::time::clock::ShiftedPage;

const SECOND: i64 = 1_000_000_000;
/// What a clock may show at most, in seconds (`KTIME_SEC_MAX / 2`).
const MAX_SECONDS: i64 = i64::MAX / SECOND / 2;

/// How far the clocks of a namespace are ahead of the first one's, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of `CLOCK_MONOTONIC` and its variants.
    pub monotonic_ns: i64,
    /// Of `CLOCK_BOOTTIME`.
    pub boottime_ns: i64,
}

impl Offsets {
    /// How far `clock` is ahead.
    pub const fn of(self, clock: Clock) -> i64 {
        match clock {
            Clock::Monotonic | Clock::MonotonicCoarse | Clock::MonotonicRaw => self.monotonic_ns,
            Clock::Boottime => self.boottime_ns,
            Clock::Realtime | Clock::RealtimeCoarse | Clock::Tai => 0,
        }
    }
}

/// A time namespace.
pub type TimeNs = Namespace<TimeOffsets>;

/// The offsets of a time namespace.
#[derive(Debug, Default)]
pub struct TimeOffsets {
    state: Lock<State, { rank::LEAF }>,
}

#[derive(Debug, Default)]
struct State {
    offsets: Offsets,
    /// Somebody is or was in it, so the offsets stay; the page that its vDSO reads, but for the first namespace.
    page: Option<Arc<VvarPage>>,
}

/// The page that the vDSO of a namespace reads.
#[derive(Debug)]
pub struct VvarPage {
    /// Keeps it current.
    _published: Arc<ShiftedPage>,
    /// To be mapped.
    pub pages: Arc<FixedPages>,
}

impl TimeOffsets {
    /// How far its clocks are ahead.
    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// Somebody enters: from now on the offsets stay. Returns the page of the vDSO.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn enter(&self, kernel: &Kernel) -> Result<Arc<VvarPage>, Errno> {
        let (offsets, page) = {
            let state = self.state.lock();
            (state.offsets, state.page.clone())
        };
        if let Some(page) = page {
            return Ok(page);
        }
        let published = kernel.time.shifted(&kernel.memory, offsets)?;
        kernel.memory.inc_ref(published.page());
        let pages = Arc::new(FixedPages::new(&kernel.memory, published.page()));
        let made = Arc::new(VvarPage { _published: published, pages });
        let mut state = self.state.lock();
        if state.offsets != offsets {
            // Set meanwhile: nobody has seen the page yet.
            drop(state);
            return self.enter(kernel);
        }
        Ok(state.page.get_or_insert(made).clone())
    }

    /// `/proc/PID/timens_offsets`.
    pub fn text(&self) -> String {
        let offsets = self.offsets();
        let line = |name: &str, ns: i64| {
            format!("{name:<10} {:>10} {:>9}\n", ns.div_euclid(SECOND), ns.rem_euclid(SECOND))
        };
        line("monotonic", offsets.monotonic_ns) + &line("boottime", offsets.boottime_ns)
    }
}

impl TimeNs {
    /// One with the offsets of `former`, owned by `owner`.
    pub(super) fn like(former: &Self, owner: &Arc<UserNamespace>) -> Arc<Self> {
        let state = State { offsets: former.offsets(), page: None };
        Self::new(owner, TimeOffsets { state: Lock::new(state) })
    }

    /// Takes what was written to `/proc/PID/timens_offsets`, two lines at most; returns how many bytes that was.
    ///
    /// # Errors
    /// In the order checked: `EINVAL`: not lines of clock, seconds and nanoseconds; `EPERM`; `ERANGE`: a clock would show
    /// too much or less than 0; `EACCES`: somebody is in the namespace.
    pub fn set(
        &self,
        kernel: &Kernel,
        writer: &Credentials,
        bytes: &[u8],
        is_first: bool,
    ) -> Result<usize, Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| EINVAL)?;
        let mut wanted: Vec<(Clock, i64, i64)> = Vec::new();
        let mut taken = 0;
        for line in text.split_inclusive('\n').take(2) {
            taken += line.len();
            let mut words = line.split_ascii_whitespace();
            let clock = match words.next() {
                Some("monotonic" | "1") => Clock::Monotonic,
                Some("boottime" | "7") => Clock::Boottime,
                _ => return Err(EINVAL),
            };
            let mut number = || words.next().and_then(|w| w.parse::<i64>().ok()).ok_or(EINVAL);
            let (sec, nsec) = (number()?, number()?);
            if !(0..SECOND).contains(&nsec) || words.next().is_some() {
                return Err(EINVAL);
            }
            wanted.push((clock, sec, nsec));
        }
        if wanted.is_empty() {
            return Err(EINVAL);
        }
        if !self.owner.grants(writer, cap::SYS_TIME) {
            return Err(EPERM);
        }
        for &(clock, sec, _) in &wanted {
            let now = kernel.time.now(clock).as_ns() / SECOND;
            if !(-MAX_SECONDS..=MAX_SECONDS).contains(&sec) || !(0..=MAX_SECONDS).contains(&(now + sec)) {
                return Err(ERANGE);
            }
        }
        let mut state = self.state.lock();
        if is_first || state.page.is_some() {
            return Err(EACCES);
        }
        for (clock, sec, nsec) in wanted {
            let ns = sec.saturating_mul(SECOND).saturating_add(nsec);
            match clock {
                Clock::Boottime => state.offsets.boottime_ns = ns,
                _ => state.offsets.monotonic_ns = ns,
            }
        }
        Ok(taken)
    }
}

impl Task {
    /// How far the clocks that the thread sees are ahead.
    pub fn offsets(&self) -> Offsets {
        let time = self.namespaces.lock().time.clone();
        if Arc::ptr_eq(&time, &self.kernel.namespaces.time) { Offsets::default() } else { time.offsets() }
    }

    /// The page for the vDSO of the thread's time namespace.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn vvar(&self) -> Result<Arc<FixedPages>, Errno> {
        let time = self.namespaces.lock().time.clone();
        if Arc::ptr_eq(&time, &self.kernel.namespaces.time) {
            return Ok(self.kernel.vvar.clone());
        }
        Ok(time.enter(&self.kernel)?.pages.clone())
    }

    /// Makes the vDSO in `mm` show the clocks of the thread's time namespace (`vdso_join_timens`).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn show_clocks(&self, mm: &MemoryManager) -> Result<(), Errno> {
        mm.replace_special(VVAR, &self.vvar()?)
    }
}

impl Namespaces {
    /// Those of a process that is made with these, or of one that executes: it enters the time namespace that its maker's
    /// children are to be in (`timens_on_fork`).
    pub(crate) fn on_fork(self: Arc<Self>) -> (Arc<Self>, bool) {
        if Arc::ptr_eq(&self.time, &self.time_for_children) {
            return (self, false);
        }
        let new = Self { time: self.time_for_children.clone(), ..(*self).clone() };
        (Arc::new(new), true)
    }
}
