//! The data page of the vDSO.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Clock IDs that the page covers, as bits: `CLOCK_REALTIME`, `_MONOTONIC`, `_MONOTONIC_RAW`, `_REALTIME_COARSE`,
/// `_MONOTONIC_COARSE`, `_BOOTTIME`. All others need the system call.
pub const CLOCKS_COVERED: u8 = 0b1111_0011;

/// What clock_getres(2) says of the coarse clocks: a tick of a kernel with 250 a second. They are in fact exact.
pub const COARSE_RESOLUTION_NS: u32 = 4_000_000;

/// Whether clocks can be read from the time stamp counter: [`VvarPage::mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TscMode {
    /// No: every function does its system call.
    Syscall = 0,
    /// Yes.
    Tsc = 1,
}

/// How `getcpu` finds its answer: [`VvarPage::cpu_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CpuMode {
    /// By the system call.
    Syscall = 0,
    /// It is always [`VvarPage::cpu`] and [`VvarPage::node`].
    Fixed = 1,
    /// From TSC_AUX by RDTSCP: the processor in bits 0 to 11, the node above, as Linux sets it.
    TscAux = 2,
}

/// A clock as a linear function of the time stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ClockParams {
    /// Seconds at [`VvarPage::tsc_base`].
    pub sec: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nsec: u64,
    /// Nanoseconds per tick of the counter, times `1 << VvarPage::shift`.
    pub mult: u64,
    /// Zero.
    pub reserved: u64,
}

impl ClockParams {
    /// What the clock shows when the guest's counter is `tsc`, by the arithmetic of the vDSO: seconds and nanoseconds.
    pub fn time_at(&self, tsc_base: u64, shift: u32, tsc: u64) -> (i64, u32) {
        const SECOND: u64 = 1_000_000_000;
        // A counter that is a little behind on another processor must not wrap around.
        let ticks = tsc.saturating_sub(tsc_base);
        let product = u128::from(ticks) * u128::from(self.mult);
        let ns = ((product >> (shift & 63)) as u64).wrapping_add(self.nsec);
        (self.sec.wrapping_add((ns / SECOND) as i64), (ns % SECOND) as u32)
    }
}

/// The data that the vDSO reads: fills the start of the page, zeros follow.
///
/// `seq` is odd while the rest changes; a reader starts again when it was odd or has changed meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VvarPage {
    /// The sequence counter.
    pub seq: u32,
    /// A [`TscMode`].
    pub mode: u32,
    /// The guest's time stamp counter at which the clocks have their base values.
    pub tsc_base: u64,
    /// By how many bits a product is shifted to the right; below 64.
    pub shift: u32,
    /// A [`CpuMode`].
    pub cpu_mode: u32,
    /// The processor, for [`CpuMode::Fixed`].
    pub cpu: u32,
    /// Its node, for [`CpuMode::Fixed`].
    pub node: u32,
    /// `tz_minuteswest` of gettimeofday(2): zero.
    pub tz_minuteswest: i32,
    /// `tz_dsttime` of gettimeofday(2): zero.
    pub tz_dsttime: i32,
    /// Zero.
    pub reserved: [u64; 3],
    /// One entry per clock ID; entries of clocks that are not covered are zero.
    pub clocks: [ClockParams; 8],
}

impl VvarPage {
    /// What the clock shows when the guest's counter is `tsc`, by the arithmetic of the vDSO: seconds and nanoseconds.
    /// `None` for a clock that is not covered.
    pub fn time_at(&self, clock: usize, tsc: u64) -> Option<(i64, u32)> {
        let params = self.clocks.get(clock).filter(|_| CLOCKS_COVERED >> clock & 1 == 1)?;
        Some(params.time_at(self.tsc_base, self.shift, tsc))
    }
}
