use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base::memmap::MemKind;

use super::*;

/// Memory of a few pages that are never freed.
struct FakeMemory(Mutex<Vec<u8>>);

impl FakeMemory {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; 1 << 16])))
    }

    fn page(&self, range: MemRange) -> VvarPage {
        let bytes = self.0.lock().unwrap();
        let at = range.offset as usize;
        zerocopy::FromBytes::read_from_bytes(&bytes[at..at + size_of::<VvarPage>()]).unwrap()
    }
}

impl Memory for FakeMemory {
    fn allocate(&self, len: u64, _align: u64, _kind: MemKind) -> Result<MemRange, Errno> {
        Ok(MemRange { offset: 4096, len })
    }
    fn inc_ref(&self, _range: MemRange) {}
    fn dec_ref(&self, _range: MemRange) {}
    fn is_unique(&self, _offset: u64) -> bool {
        true
    }
    fn populate(&self, _range: MemRange) {}
    fn discard(&self, _range: MemRange) {}
    fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..buf.len()]);
    }
    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    fn zero(&self, _range: MemRange) {}
    fn copy(&self, _from: u64, _to: u64, _len: u64) {}
    fn load_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32 {
        let was = self.load_u32(offset);
        if was == old {
            self.write(offset, &new.to_le_bytes());
        }
        was
    }
    fn resident(&self) -> u64 {
        0
    }
}

/// A host whose counter runs at 2.6 GHz and whose clocks do what the test says.
struct Sim(Mutex<SimState>);

struct SimState {
    tsc: f64,
    monotonic: f64,
    /// Nanoseconds per tick of `CLOCK_MONOTONIC`.
    rate: f64,
    raw: f64,
    realtime_offset: i64,
    reads: u32,
}

const RAW_RATE: f64 = 1.0 / 2.6;

impl Sim {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(SimState {
            tsc: 5e12,
            monotonic: 1e12,
            rate: RAW_RATE,
            raw: 2e12,
            realtime_offset: 1_700_000_000_123_456_789,
            reads: 0,
        })))
    }

    fn pass(&self, time: Duration) {
        self.0.lock().unwrap().ticks(time.as_nanos() as f64 / RAW_RATE);
    }

    /// Makes `CLOCK_MONOTONIC` run `ppm` faster than the raw clock from now on.
    fn set_rate(&self, ppm: f64) {
        self.0.lock().unwrap().rate = RAW_RATE * (1.0 + ppm / 1e6);
    }
}

impl SimState {
    fn ticks(&mut self, ticks: f64) {
        self.tsc += ticks;
        self.monotonic += ticks * self.rate;
        self.raw += ticks * RAW_RATE;
    }
}

impl ClockSource for Arc<Sim> {
    fn tsc(&self) -> u64 {
        let mut s = self.0.lock().unwrap();
        s.reads += 1;
        // Each reading takes a while, some longer than others.
        let ticks = if s.reads.is_multiple_of(17) { 9000.0 } else { 50.0 };
        s.ticks(ticks);
        s.tsc as u64
    }

    fn now_ns(&self, clock: HostClock) -> i64 {
        let mut s = self.0.lock().unwrap();
        s.ticks(30.0);
        let ns = s.monotonic as i64;
        let result = match clock {
            HostClock::Monotonic => ns,
            HostClock::MonotonicRaw => s.raw as i64,
            HostClock::Realtime => ns + s.realtime_offset,
            HostClock::Tai => ns + s.realtime_offset + 37 * SECOND,
            HostClock::Boottime => ns + 77,
        };
        s.ticks(30.0);
        result
    }

    fn tsc_khz(&self) -> Option<u64> {
        None
    }
}

const OFFSET: i64 = -4_000_000_000_000;

fn keeper(sim: &Arc<Sim>) -> (Timekeeper, Arc<FakeMemory>) {
    let memory = FakeMemory::new();
    let calibration = Calibration::begin_with(sim);
    let keeper =
        Timekeeper::with_source(memory.clone(), calibration, Some(OFFSET), Box::new(Arc::clone(sim)))
            .unwrap();
    (keeper, memory)
}

/// How far the keeper's clock is at least ahead of the host's; negative when it is behind.
fn ahead(keeper: &Timekeeper, sim: &Arc<Sim>, clock: Clock) -> i64 {
    let before = sim.now_ns(clock.host());
    let mine = keeper.now(clock).as_ns();
    let after = sim.now_ns(clock.host());
    (mine - after).max(0) + (mine - before).min(0)
}

const ALL: [Clock; 7] = [
    Clock::Realtime,
    Clock::Monotonic,
    Clock::MonotonicRaw,
    Clock::RealtimeCoarse,
    Clock::MonotonicCoarse,
    Clock::Boottime,
    Clock::Tai,
];

/// Lets `seconds` pass with refreshes when they are due; all clocks must go forward, and stay within `limit_ns`.
fn run(keeper: &Timekeeper, sim: &Arc<Sim>, seconds: u64, limit_ns: i64) {
    let mut last = ALL.map(|c| keeper.now(c));
    let mut left = Duration::from_secs(seconds);
    while left > Duration::ZERO {
        let pause = keeper.refresh();
        for _ in 0..20 {
            sim.pass(pause / 20);
            for (clock, last) in ALL.into_iter().zip(&mut last) {
                let now = keeper.now(clock);
                assert!(now >= *last, "{clock:?} went back from {last:?} to {now:?}");
                *last = now;
                let ahead = ahead(keeper, sim, clock);
                assert!(ahead.abs() < limit_ns, "{clock:?} is {ahead} ns ahead, {left:?} to go");
            }
        }
        left = left.saturating_sub(pause);
    }
}

#[test]
fn clocks_are_right_from_the_start_and_stay_so() {
    let sim = Sim::new();
    sim.set_rate(-37.0);
    let (keeper, _) = keeper(&sim);
    for clock in ALL {
        assert!(ahead(&keeper, &sim, clock).abs() < 200, "{clock:?}");
    }
    run(&keeper, &sim, 60, 2_000);
}

#[test]
fn a_change_of_the_hosts_rate_is_followed_without_a_step_back() {
    let sim = Sim::new();
    let (keeper, _) = keeper(&sim);
    run(&keeper, &sim, 20, 2_000);
    for ppm in [1.0, -1.0, 0.5] {
        sim.set_rate(ppm);
        run(&keeper, &sim, 20, 3_500);
    }
    // As chrony slews after a start.
    for ppm in [300.0, -300.0] {
        sim.set_rate(ppm);
        run(&keeper, &sim, 30, 2_000_000);
        run(&keeper, &sim, 5, 3_000);
    }
}

#[test]
fn a_late_refresh_does_no_harm() {
    let sim = Sim::new();
    sim.set_rate(12.0);
    let (keeper, _) = keeper(&sim);
    run(&keeper, &sim, 10, 2_000);
    for ppm in [13.0, 11.0] {
        sim.set_rate(ppm);
        sim.pass(Duration::from_secs(7200));
        // Two hours at one ppm, and a little.
        assert!(ahead(&keeper, &sim, Clock::Monotonic).abs() < 16_000_000);
        run(&keeper, &sim, 30, 16_000_000);
        run(&keeper, &sim, 5, 3_000);
    }
}

#[test]
fn the_real_time_clock_follows_when_it_is_set() {
    let sim = Sim::new();
    let (keeper, _) = keeper(&sim);
    run(&keeper, &sim, 3, 2_000);
    for step in [3600 * SECOND, -2 * SECOND, 5_000] {
        sim.0.lock().unwrap().realtime_offset += step;
        keeper.refresh();
        run(&keeper, &sim, 3, 2_000);
    }
    assert_eq!(keeper.now(Clock::Tai).sec - keeper.now(Clock::Realtime).sec, 37);
}

#[test]
fn a_host_that_slept_is_caught_up_with_at_once() {
    let sim = Sim::new();
    let (keeper, _) = keeper(&sim);
    run(&keeper, &sim, 3, 2_000);
    sim.0.lock().unwrap().monotonic += 5e9;
    keeper.refresh();
    assert!(ahead(&keeper, &sim, Clock::Monotonic).abs() < 1_000);
}

#[test]
fn the_page_says_what_the_sentry_says() {
    let sim = Sim::new();
    let (keeper, memory) = keeper(&sim);
    for _ in 0..5 {
        sim.pass(keeper.refresh());
        let page = memory.page(keeper.vvar_page());
        assert_eq!((page.seq % 2, page.mode), (0, TscMode::Tsc as u32));
        for clock in ALL.into_iter().filter(|&c| c != Clock::Tai) {
            let before = keeper.now(clock);
            let tsc = sim.tsc().wrapping_add_signed(OFFSET);
            let (sec, nsec) = page.time_at(clock as usize, tsc).unwrap();
            let after = keeper.now(clock);
            assert!((before..=after).contains(&Time { sec, nsec }), "{clock:?}");
        }
    }
}

#[test]
fn without_a_counter_the_host_is_asked() {
    let sim = Sim::new();
    let memory = FakeMemory::new();
    let calibration = Calibration::begin_with(&sim);
    let keeper =
        Timekeeper::with_source(memory.clone(), calibration, None, Box::new(Arc::clone(&sim))).unwrap();
    assert_eq!(memory.page(keeper.vvar_page()).mode, TscMode::Syscall as u32);
    assert!(ahead(&keeper, &sim, Clock::Realtime).abs() < 1_000);
    assert_eq!(keeper.refresh(), REFRESH_MAX);
}

#[test]
fn on_this_host_threads_never_see_time_go_back() {
    let start = std::time::Instant::now();
    let keeper = Timekeeper::new(FakeMemory::new(), Calibration::begin(), Some(12345)).unwrap();
    println!("start-up: {:?}", start.elapsed());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = ALL.map(|c| keeper.now(c));
                while !stop.load(Ordering::Relaxed) {
                    for (clock, last) in ALL.into_iter().zip(&mut last) {
                        let now = keeper.now(clock);
                        assert!(now >= *last, "{clock:?} went back from {last:?} to {now:?}");
                        *last = now;
                    }
                }
            });
        }
        let end = std::time::Instant::now() + Duration::from_secs(2);
        while std::time::Instant::now() < end {
            let due = keeper.refresh();
            std::thread::sleep(due.min(Duration::from_millis(50)));
            for clock in ALL {
                // The smallest of several: the host may take the processor away between two readings.
                let difference = (0..20)
                    .map(|_| {
                        let before = host::clock::now_ns(clock.host());
                        let mine = keeper.now(clock).as_ns();
                        let after = host::clock::now_ns(clock.host());
                        (before - mine).max(mine - after).max(0)
                    })
                    .min();
                assert!(difference < Some(2_000), "{clock:?}: {difference:?} ns");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
