//! The host's clocks and the processor's time stamp counter.
#![expect(unsafe_code, reason = "calls the C library and reads the counter")]

use std::arch::x86_64::{__cpuid, __cpuid_count, _mm_lfence, _rdtsc};

/// A clock of the host that clock_gettime(2) answers without a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum HostClock {
    /// `CLOCK_REALTIME`.
    Realtime = libc::CLOCK_REALTIME,
    /// `CLOCK_MONOTONIC`.
    Monotonic = libc::CLOCK_MONOTONIC,
    /// `CLOCK_MONOTONIC_RAW`.
    MonotonicRaw = libc::CLOCK_MONOTONIC_RAW,
    /// `CLOCK_BOOTTIME`.
    Boottime = libc::CLOCK_BOOTTIME,
    /// `CLOCK_TAI`.
    Tai = libc::CLOCK_TAI,
}

/// Nanoseconds that `clock` shows.
pub fn now_ns(clock: HostClock) -> i64 {
    read(clock as i32)
}

/// Nanoseconds of processor time that the calling thread has used.
pub fn thread_cpu_ns() -> i64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds of processor time that this process has used.
pub fn process_cpu_ns() -> i64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Nanoseconds of processor time that thread `tid` of this process has used; `None` once it has ended.
pub fn cpu_ns_of(tid: i32) -> Option<i64> {
    // Linux include/linux/posix-timers.h, `MAKE_THREAD_CPUCLOCK` with `CPUCLOCK_SCHED`.
    let clock = (!tid).checked_shl(3)? | 6;
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a `timespec` of our own, which the call fills.
    let r = unsafe { libc::clock_gettime(clock, &raw mut ts) };
    (r == 0).then(|| ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec))
}

/// Reads one of the clocks above; they all exist on every kernel that we run on, so the call cannot fail.
fn read(clock: i32) -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a `timespec` of our own, which the call fills.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec)
}

/// The time stamp counter, not read before earlier instructions are done.
pub fn tsc() -> u64 {
    // SAFETY: LFENCE is part of SSE2, which every x86-64 processor has; it touches no memory.
    unsafe { _mm_lfence() };
    // SAFETY: RDTSC touches no memory; Linux leaves it enabled unless prctl(PR_SET_TSC) was called, which we do not.
    unsafe { _rdtsc() }
}

/// The time stamp counter, read some ns earlier or later than what stands around it: to account for time, at half the cost.
pub fn about_tsc() -> u64 {
    // SAFETY: as in `tsc`.
    unsafe { _rdtsc() }
}

/// The counter's frequency in kHz as the processor or the hypervisor states it, if it does.
///
/// Source: Intel SDM vol. 2, CPUID leaf 15H; Linux 6.18 arch/x86/kernel/cpu/vmware.c for leaf 0x4000_0010, which KVM and
/// others took over.
pub fn tsc_khz() -> Option<u64> {
    const HYPERVISOR: u32 = 0x4000_0000;
    const TIMING: u32 = 0x4000_0010;
    let is_guest = __cpuid(1).ecx >> 31 & 1 == 1;
    if is_guest && (TIMING..TIMING + 0xff).contains(&__cpuid(HYPERVISOR).eax) {
        let khz = __cpuid(TIMING).eax;
        if khz != 0 {
            return Some(u64::from(khz));
        }
    }
    if __cpuid(0).eax >= 0x15 {
        let leaf = __cpuid_count(0x15, 0);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            return Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax) / 1000);
        }
    }
    None
}

/// Whether the counter runs at one rate on all processors, in sleep too: the processor says so, or Linux found it good
/// enough to keep its own time by.
pub fn tsc_is_reliable() -> bool {
    const POWER: u32 = 0x8000_0007;
    let is_invariant = __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx >> 8 & 1 == 1;
    is_invariant || std::fs::read(CLOCKSOURCE).is_ok_and(|name| name.trim_ascii() == b"tsc")
}

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_counter_move_together() {
        let (tsc0, ns0) = (tsc(), now_ns(HostClock::Monotonic));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (tsc1, ns1) = (tsc(), now_ns(HostClock::Monotonic));
        assert!(ns1 - ns0 >= 20_000_000);
        let measured = (tsc1 - tsc0) as f64 * 1e6 / (ns1 - ns0) as f64;
        assert!(measured > 100_000.0, "{measured} kHz");
        if let Some(khz) = tsc_khz() {
            assert!((measured / khz as f64 - 1.0).abs() < 0.01, "measured {measured}, stated {khz}");
        }
        assert!(thread_cpu_ns() <= process_cpu_ns());
    }
}
