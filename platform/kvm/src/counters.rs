//! What happened so far, for `--log`, `ringfence check` and the benchmarks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Event counts; exact only while nothing runs.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) exits: AtomicU64,
    pub(crate) syscalls: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) exceptions: AtomicU64,
    pub(crate) interruptions: AtomicU64,
    pub(crate) shootdowns: AtomicU64,
    pub(crate) rebuilds: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) spaces: AtomicU64,
    pub(crate) vcpus: AtomicU64,
    pub(crate) vcpu_moves: AtomicU64,
    pub(crate) resets: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let of = |c: &AtomicU64| c.load(Ordering::Relaxed);
        vec![
            ("exits", of(&self.exits)),
            ("syscalls", of(&self.syscalls)),
            ("faults", of(&self.faults)),
            ("exceptions", of(&self.exceptions)),
            ("interruptions", of(&self.interruptions)),
            ("shootdowns", of(&self.shootdowns)),
            ("table_rebuilds", of(&self.rebuilds)),
            ("translation_flushes", of(&self.flushes)),
            ("address_spaces", of(&self.spaces)),
            ("vcpus", of(&self.vcpus)),
            ("vcpu_moves", of(&self.vcpu_moves)),
            ("vcpu_resets", of(&self.resets)),
        ]
    }
}
