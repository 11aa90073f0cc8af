//! The conformance suite: small cases about system calls, the host kernel as the oracle.
//!
//! In reading order: `suite.rs` finds the guest programs and their cases, `compile.rs` builds them, `run.rs` runs a
//! program's cases natively or under a runner, `normal.rs` takes out what differs from run to run, `verdict.rs` says what
//! the two runs mean, `measure.rs` does it for all on several threads, `results.rs` reads, writes and compares JSON,
//! `page.rs` writes the report, `random.rs` compares random programs of system calls,
//! `adapters.rs` runs suites of others.

pub mod adapters;
pub mod compile;
pub mod measure;
pub mod normal;
pub mod page;
pub mod random;
pub mod results;
pub mod run;
pub mod suite;
pub mod verdict;
