//! The guest's clocks, kept in step with the host's.
//!
//! A clock is a linear function of the time stamp counter; [`Timekeeper::refresh`] compares it with the host's clock about
//! once a second and bends it so that the two meet within a second. A clock never goes backwards (but `CLOCK_REALTIME` when
//! the host's is set). System calls and the vDSO use the same functions, so what they say agrees.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::Errno;
use base::lock::{Lock, rank};
use base::memmap::{MemRange, Memory};
use base::time::Time;
use host::clock::HostClock;
use loader::vdso::{ClockParams, CpuMode, TscMode, VvarPage};

use super::vvar::Published;
use crate::ns::time::Offsets;

/// Multipliers are nanoseconds per tick times two to this power: a part in 10^14 for counters around 1 GHz.
const SHIFT: u32 = 48;
const SECOND: i64 = 1_000_000_000;
/// A clock that lags behind the host's by more than this jumps; less is made up for within a second.
const JUMP_NS: i64 = 5_000;
/// How much faster or slower than the host's clock a clock may run, one part in so many: 500 ppm, as adjtime(3) does.
const SLEW: i64 = 2_000;
/// The same for a clock that is ahead by more than a millisecond, and must wait.
const WAIT_SLEW: i64 = 10;
const FAR_AHEAD_NS: i64 = 1_000_000;
/// A host's clock that is off by more than this and a fifth of the time since the last reading did not slew: it jumped.
const STEP_NS: u64 = 100_000;
/// Readings kept for the rate.
const HISTORY: usize = 4;
/// The first reading of the rate takes at least this long: an error of 30 ns in it is 30 ppm.
const FIRST_BASELINE_NS: i64 = 1_000_000;
const REFRESH_MIN: Duration = Duration::from_millis(10);
const REFRESH_MAX: Duration = Duration::from_secs(1);
/// Readings of which the best counts: at first, and at each refresh.
const FIRST_TRIES: usize = 20;
const TRIES: usize = 6;

/// A clock that a guest can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Clock {
    /// `CLOCK_REALTIME`.
    Realtime = 0,
    /// `CLOCK_MONOTONIC`.
    Monotonic = 1,
    /// `CLOCK_MONOTONIC_RAW`.
    MonotonicRaw = 4,
    /// `CLOCK_REALTIME_COARSE`: here as exact as the fine clock.
    RealtimeCoarse = 5,
    /// `CLOCK_MONOTONIC_COARSE`: here as exact as the fine clock.
    MonotonicCoarse = 6,
    /// `CLOCK_BOOTTIME`.
    Boottime = 7,
    /// `CLOCK_TAI`.
    Tai = 11,
}

impl Clock {
    /// The clock with this number; `None` for CPU-time and alarm clocks, dynamic clocks and numbers without a clock.
    pub const fn from_id(id: i32) -> Option<Self> {
        Some(match id {
            0 => Self::Realtime,
            1 => Self::Monotonic,
            4 => Self::MonotonicRaw,
            5 => Self::RealtimeCoarse,
            6 => Self::MonotonicCoarse,
            7 => Self::Boottime,
            11 => Self::Tai,
            _ => return None,
        })
    }

    /// What clock_getres(2) says.
    pub const fn resolution(self) -> Time {
        let nsec = match self {
            Self::RealtimeCoarse | Self::MonotonicCoarse => loader::vdso::COARSE_RESOLUTION_NS,
            _ => 1,
        };
        Time { sec: 0, nsec }
    }

    /// The entry of the vDSO's page that holds this clock.
    const fn page_index(self) -> usize {
        match self {
            Self::Tai => Self::Realtime as usize,
            c => c as usize,
        }
    }

    /// The host's clock that it follows.
    const fn host(self) -> HostClock {
        match self {
            Self::Realtime | Self::RealtimeCoarse => HostClock::Realtime,
            Self::Monotonic | Self::MonotonicCoarse => HostClock::Monotonic,
            Self::MonotonicRaw => HostClock::MonotonicRaw,
            Self::Boottime => HostClock::Boottime,
            Self::Tai => HostClock::Tai,
        }
    }
}

/// Where counter and clocks come from: the host, or a test.
pub trait ClockSource: Send + Sync {
    /// The host's time stamp counter.
    fn tsc(&self) -> u64;
    /// What a clock of the host shows, in nanoseconds.
    fn now_ns(&self, clock: HostClock) -> i64;
    /// The counter's frequency, if the processor states it.
    fn tsc_khz(&self) -> Option<u64>;
}

/// The host's counter and clocks.
#[derive(Clone, Copy, Debug)]
struct HostSource;

impl ClockSource for HostSource {
    fn tsc(&self) -> u64 {
        host::clock::tsc()
    }

    fn now_ns(&self, clock: HostClock) -> i64 {
        host::clock::now_ns(clock)
    }

    fn tsc_khz(&self) -> Option<u64> {
        host::clock::tsc_khz()
    }
}

/// A clock of the host and the counter, read at the same moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    tsc: u64,
    ns: i64,
}

impl Reading {
    /// Reads the clock between two readings of the counter, several times; the closest pair counts, so an interruption
    /// does no harm.
    fn take(source: &dyn ClockSource, clock: HostClock, tries: usize) -> Self {
        let mut best = Self { tsc: source.tsc(), ns: source.now_ns(clock) };
        let mut best_window = u64::MAX;
        for _ in 0..tries {
            let before = source.tsc();
            let ns = source.now_ns(clock);
            let window = source.tsc().saturating_sub(before);
            if window < best_window {
                best_window = window;
                best = Self { tsc: before + window / 2, ns };
            }
        }
        best
    }

    /// What the clock shows at `tsc` if it runs with multiplier `mult`.
    fn at(self, tsc: u64, mult: u64) -> i64 {
        let ticks = i128::from(tsc) - i128::from(self.tsc);
        saturate(i128::from(self.ns) + ((ticks * i128::from(mult)) >> SHIFT))
    }
}

fn saturate(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// A first reading, taken as early as possible: what happens until [`Timekeeper::new`] makes its rate more exact and is no
/// time lost.
#[derive(Clone, Copy, Debug)]
pub struct Calibration {
    monotonic: Reading,
    raw: Reading,
}

impl Calibration {
    /// Reads the host's clocks.
    pub fn begin() -> Self {
        Self::begin_with(&HostSource)
    }

    fn begin_with(source: &dyn ClockSource) -> Self {
        Self {
            monotonic: Reading::take(source, HostClock::Monotonic, FIRST_TRIES),
            raw: Reading::take(source, HostClock::MonotonicRaw, FIRST_TRIES),
        }
    }
}

/// A clock that follows one of the host's by rate and correction.
#[derive(Debug)]
struct Track {
    clock: HostClock,
    history: VecDeque<Reading>,
    /// The host's rate as last measured.
    rate: u64,
    /// What was published last, and for which counter (the host's).
    tsc_base: u64,
    base_ns: i64,
    mult: u64,
}

impl Track {
    fn new(clock: HostClock, first: Reading, rate: u64) -> Self {
        Self {
            clock,
            history: VecDeque::from([first]),
            rate,
            tsc_base: first.tsc,
            base_ns: first.ns,
            mult: rate,
        }
    }

    /// Reads the host's clock and measures its rate.
    fn measure(&mut self, source: &dyn ClockSource, tries: usize) {
        let reading = Reading::take(source, self.clock, tries);
        if let Some(&last) = self.history.back() {
            let expected = last.at(reading.tsc, self.rate);
            let elapsed = expected.saturating_sub(last.ns).max(0);
            // No slew is as steep: the host's clock or the counter jumped (a restored snapshot), so the rate is not news.
            if self.rate != 0 && reading.ns.abs_diff(expected) > elapsed.unsigned_abs() / 5 + STEP_NS {
                self.history.clear();
            }
        }
        if let Some(&old) = self.history.front()
            && let Some(rate) = rate_between(old, reading)
        {
            self.rate = rate;
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(reading);
    }

    /// What the host's clock shows at `tsc`, from the last reading.
    fn host_at(&self, tsc: u64) -> i64 {
        self.history.back().map_or(self.base_ns, |r| r.at(tsc, self.rate))
    }

    /// Starts at the host's value.
    fn start(&mut self, tsc: u64) {
        self.base_ns = self.host_at(tsc);
        self.tsc_base = tsc;
        self.mult = self.rate;
    }

    /// Goes on from `tsc` towards the host's value.
    fn follow(&mut self, tsc: u64) {
        // One more than the value there: fractions that the old function had and the new one lacks must not show.
        let reached = Reading { tsc: self.tsc_base, ns: self.base_ns }.at(tsc, self.mult).saturating_add(1);
        let host = self.host_at(tsc);
        let behind = host.saturating_sub(reached);
        self.tsc_base = tsc;
        if behind > JUMP_NS {
            self.base_ns = host;
            self.mult = self.rate;
            return;
        }
        let rate = i128::from(self.rate);
        let slowest = if behind < -FAR_AHEAD_NS { WAIT_SLEW } else { SLEW };
        let bend = rate * i128::from(behind) / i128::from(SECOND);
        let bend = bend.clamp(-rate / i128::from(slowest), rate / i128::from(SLEW));
        self.base_ns = reached;
        self.mult = u64::try_from(rate + bend).unwrap_or(self.rate);
    }

    /// The parameters of a clock that is `offset` ahead of this one.
    fn params(&self, offset: i64) -> ClockParams {
        let ns = self.base_ns.saturating_add(offset);
        ClockParams {
            sec: ns.div_euclid(SECOND),
            nsec: ns.rem_euclid(SECOND).unsigned_abs(),
            mult: self.mult,
            reserved: 0,
        }
    }
}

/// The multiplier of a clock that was read twice; `None` when the readings make no sense.
fn rate_between(old: Reading, new: Reading) -> Option<u64> {
    let ticks = u128::from(new.tsc.checked_sub(old.tsc).filter(|&t| t != 0)?);
    let ns = u128::try_from(new.ns.checked_sub(old.ns).filter(|&n| n > 0)?).ok()?;
    u64::try_from((ns << SHIFT) / ticks).ok().filter(|&rate| rate != 0)
}

/// How far a clock of the host is ahead of `CLOCK_MONOTONIC`: a constant until somebody sets the clock.
#[derive(Debug)]
struct Offset {
    clock: HostClock,
    ns: i64,
}

impl Offset {
    fn new(source: &dyn ClockSource, clock: HostClock) -> Self {
        Self { clock, ns: Self::measure(source, clock, FIRST_TRIES).0 }
    }

    /// The offset, and by how much it may be wrong.
    fn measure(source: &dyn ClockSource, clock: HostClock, tries: usize) -> (i64, i64) {
        let mut best = (0, i64::MAX);
        for _ in 0..tries.max(1) {
            let before = source.now_ns(HostClock::Monotonic);
            let ns = source.now_ns(clock);
            let window = source.now_ns(HostClock::Monotonic).saturating_sub(before);
            if window < best.1 {
                best = (ns.saturating_sub(before).saturating_sub(window / 2), window);
            }
        }
        best
    }

    /// Takes a new value only when the clock was set: else the clock would shake by the error of the measurement.
    fn refresh(&mut self, source: &dyn ClockSource) {
        let (ns, error) = Self::measure(source, self.clock, TRIES);
        if ns.abs_diff(self.ns) > error.unsigned_abs() + 1_000 {
            self.ns = Self::measure(source, self.clock, FIRST_TRIES).0;
        }
    }
}

/// A page for vDSOs whose clocks are ahead of the others (time_namespaces(7)).
pub struct ShiftedPage {
    published: Published,
    offsets: Offsets,
}

impl std::fmt::Debug for ShiftedPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShiftedPage").field("offsets", &self.offsets).finish_non_exhaustive()
    }
}

impl ShiftedPage {
    /// The page in the memory file. The reference stays here.
    pub fn page(&self) -> MemRange {
        self.published.page()
    }

    /// What it says where the first page says `page`.
    fn shift(&self, page: VvarPage) -> VvarPage {
        let mut page = page;
        for clock in [Clock::Monotonic, Clock::MonotonicCoarse, Clock::MonotonicRaw, Clock::Boottime] {
            let params = &mut page.clocks[clock.page_index()];
            let ns = i64::try_from(params.nsec).unwrap_or(0).saturating_add(self.offsets.of(clock));
            params.sec = params.sec.saturating_add(ns.div_euclid(SECOND));
            params.nsec = ns.rem_euclid(SECOND).unsigned_abs();
        }
        page
    }
}

#[derive(Debug)]
struct State {
    /// Pages that are published along with the first.
    shifted: Vec<Weak<ShiftedPage>>,
    monotonic: Track,
    raw: Track,
    realtime: Offset,
    boottime: Offset,
    started_ns: i64,
}

/// Keeps the guest's clocks.
pub struct Timekeeper {
    source: Box<dyn ClockSource>,
    /// The guest's counter less the host's; `None` when counters are of no use.
    tsc_offset: Option<i64>,
    /// `CLOCK_TAI` less `CLOCK_REALTIME`.
    tai_offset_sec: i64,
    published: Published,
    state: Lock<State, { rank::TIMEKEEPER }>,
}

impl std::fmt::Debug for Timekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timekeeper").field("tsc_offset", &self.tsc_offset).finish_non_exhaustive()
    }
}

impl Timekeeper {
    /// Calibrates the clocks and publishes them; takes a millisecond less what has passed since `calibration`.
    ///
    /// The guest's time stamp counter shows the host's plus `tsc_offset`. `None`, or an unreliable counter: the vDSO makes
    /// system calls, and those ask the host.
    ///
    /// # Errors
    /// `ENOMEM`: no memory for the page.
    pub fn new(
        memory: Arc<dyn Memory>,
        calibration: Calibration,
        tsc_offset: Option<i64>,
    ) -> Result<Self, Errno> {
        let tsc_offset = tsc_offset.filter(|_| host::clock::tsc_is_reliable());
        Self::with_source(memory, calibration, tsc_offset, Box::new(HostSource))
    }

    fn with_source(
        memory: Arc<dyn Memory>,
        calibration: Calibration,
        tsc_offset: Option<i64>,
        source: Box<dyn ClockSource>,
    ) -> Result<Self, Errno> {
        let started_ns = calibration.monotonic.ns;
        let track = |clock, first: Reading| {
            let stated = source
                .tsc_khz()
                .and_then(|khz| u64::try_from((1_000_000u128 << SHIFT) / u128::from(khz)).ok());
            let mut track = Track::new(clock, first, stated.unwrap_or(0));
            while source.now_ns(clock).saturating_sub(first.ns) < FIRST_BASELINE_NS {
                std::hint::spin_loop();
            }
            track.measure(source.as_ref(), FIRST_TRIES);
            // The stated frequency is exact, the first measurement is not; but a statement may be wrong altogether.
            if let Some(stated) = stated
                && stated.abs_diff(track.rate) < track.rate / 1000
            {
                track.rate = stated;
            }
            track
        };
        let monotonic = track(HostClock::Monotonic, calibration.monotonic);
        let raw = track(HostClock::MonotonicRaw, calibration.raw);
        let realtime = Offset::new(source.as_ref(), HostClock::Realtime);
        let boottime = Offset::new(source.as_ref(), HostClock::Boottime);
        let tai = source.now_ns(HostClock::Tai).saturating_sub(source.now_ns(HostClock::Realtime));
        let state = State { shifted: Vec::new(), monotonic, raw, realtime, boottime, started_ns };
        let keeper = Self {
            source,
            tsc_offset,
            tai_offset_sec: tai.saturating_add(SECOND / 2).div_euclid(SECOND),
            published: Published::new(memory)?,
            state: Lock::new(state),
        };
        keeper.publish(&mut keeper.state.lock(), Track::start);
        Ok(keeper)
    }

    /// The page that goes directly below the vDSO in every address space, read-only.
    pub fn vvar_page(&self) -> MemRange {
        self.published.page()
    }

    /// Makes a page for vDSOs whose clocks are ahead by `offsets`; it is kept current as long as somebody holds it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn shifted(&self, memory: &Arc<dyn Memory>, offsets: Offsets) -> Result<Arc<ShiftedPage>, Errno> {
        let made = Arc::new(ShiftedPage { published: Published::new(memory.clone())?, offsets });
        let mut state = self.state.lock();
        state.shifted.push(Arc::downgrade(&made));
        self.publish(&mut state, Track::follow);
        Ok(made)
    }

    /// Brings the clocks back to the host's. Returns when to call it again: soon at first, later each second.
    pub fn refresh(&self) -> Duration {
        if self.tsc_offset.is_none() {
            return REFRESH_MAX;
        }
        let mut state = self.state.lock();
        let source = self.source.as_ref();
        state.realtime.refresh(source);
        state.boottime.refresh(source);
        state.raw.measure(source, TRIES);
        state.monotonic.measure(source, TRIES);
        self.publish(&mut state, Track::follow);
        let age = state.monotonic.base_ns.saturating_sub(state.started_ns);
        Duration::from_nanos(age.max(0).unsigned_abs()).clamp(REFRESH_MIN, REFRESH_MAX)
    }

    fn publish(&self, state: &mut State, step: impl Fn(&mut Track, u64)) {
        let Some(tsc_offset) = self.tsc_offset else { return };
        state.shifted.retain(|page| page.strong_count() > 0);
        let shifted: Vec<Arc<ShiftedPage>> = state.shifted.iter().filter_map(Weak::upgrade).collect();
        shifted.iter().for_each(|s| s.published.begin());
        self.published.update(|| {
            let tsc = self.source.tsc();
            step(&mut state.monotonic, tsc);
            step(&mut state.raw, tsc);
            let mut page = VvarPage {
                mode: TscMode::Tsc as u32,
                tsc_base: tsc.wrapping_add_signed(tsc_offset),
                shift: SHIFT,
                cpu_mode: CpuMode::Syscall as u32,
                ..VvarPage::default()
            };
            let (realtime, monotonic) =
                (state.monotonic.params(state.realtime.ns), state.monotonic.params(0));
            for (clock, params) in [
                (Clock::Realtime, realtime),
                (Clock::RealtimeCoarse, realtime),
                (Clock::Monotonic, monotonic),
                (Clock::MonotonicCoarse, monotonic),
                (Clock::MonotonicRaw, state.raw.params(0)),
                (Clock::Boottime, state.monotonic.params(state.boottime.ns)),
            ] {
                page.clocks[clock.page_index()] = params;
            }
            shifted.iter().for_each(|s| s.published.finish(s.shift(page)));
            page
        });
    }

    /// What the clock shows, as the vDSO would say it. Takes no lock.
    pub fn now(&self, clock: Clock) -> Time {
        let Some(tsc_offset) = self.tsc_offset else {
            return Time::from_ns(self.source.now_ns(clock.host()));
        };
        let tsc = || self.source.tsc().wrapping_add_signed(tsc_offset);
        let (sec, nsec) = self.published.read(clock.page_index(), tsc).unwrap_or_default();
        match clock {
            Clock::Tai => Time { sec: sec.saturating_add(self.tai_offset_sec), nsec },
            _ => Time { sec, nsec },
        }
    }
}

#[cfg(test)]
mod tests;
