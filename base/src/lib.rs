//! What `fs`, `net` and `sentry` share.
//!
//! Reading order: `lock.rs` (ranks: the one list of the lock order), `io.rs` (cursors over guest memory), `memmap.rs`
//! (the memory file and what can be mapped), `wait.rs` (wait queues and readiness), `cred.rs`, `time.rs`,
//! `alarm.rs` (what happens at a time), `bpf.rs` (classic BPF), `kept.rs` (memory that the sentry keeps
//! for guests), `landlock.rs` (what tasks have forbidden themselves).

pub mod alarm;
pub mod bpf;
pub mod cred;
pub mod io;
pub mod kept;
pub mod landlock;
pub mod lock;
pub mod memmap;
pub mod time;
pub mod userns;
pub mod wait;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Rounds `n` up to a page boundary, or `None` when that overflows.
pub const fn page_up(n: u64) -> Option<u64> {
    match n.checked_add(PAGE_SIZE - 1) {
        Some(v) => Some(v & !(PAGE_SIZE - 1)),
        None => None,
    }
}

/// Rounds `n` down to a page boundary.
pub const fn page_down(n: u64) -> u64 {
    n & !(PAGE_SIZE - 1)
}
