//! Everything at once: threads that store, fault, unmap, protect, punch, fork, change address spaces and kick each other.
//!
//! Each thread knows the state of its own pages, so a store that should fault and does not (a stale translation) is
//! found as well as a wrong byte. `RINGFENCE_STRESS_SECONDS` sets the time, `RINGFENCE_STRESS_THREADS` the threads.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/stress.rs"]
mod contract;
