//! What happened so far, for `--log`, `ringfence check` and the benchmarks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Event counts; exact only while nothing runs.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) syscalls: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) exceptions: AtomicU64,
    pub(crate) interruptions: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    pub(crate) wakes: AtomicU64,
    /// Guest threads that were kept off the sentry's processor.
    pub(crate) parted: AtomicU64,
    pub(crate) evictions: AtomicU64,
    /// Faults where something waited to be mapped.
    pub(crate) resolved: AtomicU64,
    /// Batches of changes that stubs made.
    pub(crate) batches: AtomicU64,
    /// Those of them that were made on the processor of a guest thread that waited.
    pub(crate) lent: AtomicU64,
    pub(crate) spaces: AtomicU64,
    pub(crate) threads: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let of = |c: &AtomicU64| c.load(Ordering::Relaxed);
        vec![
            ("syscalls", of(&self.syscalls)),
            ("faults", of(&self.faults)),
            ("exceptions", of(&self.exceptions)),
            ("interruptions", of(&self.interruptions)),
            ("sleeps", of(&self.sleeps)),
            ("wakes", of(&self.wakes)),
            ("parted", of(&self.parted)),
            ("evictions", of(&self.evictions)),
            ("late_mappings", of(&self.resolved)),
            ("mapping_batches", of(&self.batches)),
            ("lent_batches", of(&self.lent)),
            ("address_spaces", of(&self.spaces)),
            ("threads", of(&self.threads)),
        ]
    }
}
