//! What all of a platform's spaces and contexts share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};

use base::PAGE_SIZE;
use host::clock::HostClock;
use host::system::CpuMask;
use platform::XsaveLayout;
use platform::memory::MemoryFile;
use platform::window::Window;

use crate::counters::Counters;
use crate::nursery::Nursery;
use crate::process::Family;
use crate::xstate::Xstate;

pub(crate) struct Shared {
    pub(crate) memory: Arc<MemoryFile>,
    pub(crate) family: Arc<Family>,
    pub(crate) nursery: Nursery,
    pub(crate) counters: Counters,
    /// The addresses that guests may map.
    pub(crate) range: Range<u64>,
    /// Where patched call sites lead, once the platform is made.
    pub(crate) window: OnceLock<Arc<Window>>,
    /// Ticks of the time stamp counter that a round of waiting in the window takes.
    pub(crate) round: u64,
    /// `vm.max_map_count`.
    pub(crate) map_limit: usize,
    /// Processors that the sandbox may use.
    pub(crate) cpus: usize,
    /// Which.
    pub(crate) processors: CpuMask,
    /// Whether guest threads that wait awake can lend their processors.
    pub(crate) lends: bool,
    /// Where signal frames lie in an area, and what is in them: found out with the first guest thread, before any user
    /// code runs.
    pub(crate) frame: OnceLock<FrameLayout>,
    /// Contexts whose guest thread runs.
    pub(crate) running: AtomicUsize,
    /// Contexts that do not wait for anything: their guest thread or the sentry's wants a processor.
    pub(crate) busy: AtomicUsize,
    /// Some guest thread was bound to processors.
    pub(crate) has_affinity: AtomicBool,
    /// The sandbox ends: stubs die, and nobody is to be told.
    pub(crate) is_ending: AtomicBool,
    /// Time stamp counter and clock at the start.
    pub(crate) started: (u64, i64),
}

/// What all signal frames have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLayout {
    /// The frame's offset in the area.
    pub(crate) frame: u64,
    /// The offset of the floating-point state in the area.
    pub(crate) fp: u64,
    pub(crate) xstate: Xstate,
}

impl Shared {
    /// The guest's XSAVE area.
    pub(crate) fn xsave_layout(&self) -> XsaveLayout {
        // Known since the platform was made; x87 and SSE are what every processor has.
        self.frame.get().map_or(XsaveLayout { size: 576, features: 3 }, |f| f.xstate.layout)
    }

    /// What `ticks` of the time stamp counter are in ns, by what it and the clock have shown since the start.
    pub(crate) fn ticks_to_ns(&self, ticks: u64) -> u64 {
        let (tsc, ns) = self.started;
        let all_ticks = u128::from(host::clock::tsc().saturating_sub(tsc).max(1));
        let all_ns = host::clock::now_ns(HostClock::MonotonicRaw).saturating_sub(ns).max(0).unsigned_abs();
        u64::try_from(u128::from(ticks) * u128::from(all_ns) / all_ticks).unwrap_or(u64::MAX)
    }

    /// Whether the sandbox may use processor `cpu`.
    pub(crate) fn may_use(&self, cpu: usize) -> bool {
        self.processors.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// Panics on a range that no guest can have asked for: the sentry checks what guests ask.
    pub(crate) fn check(&self, addr: u64, len: u64) {
        assert!(
            addr.is_multiple_of(PAGE_SIZE)
                && len.is_multiple_of(PAGE_SIZE)
                && addr >= self.range.start
                && addr.checked_add(len).is_some_and(|end| end <= self.range.end),
            "systrap: {addr:#x}+{len:#x} is outside the guest's range"
        );
    }
}
