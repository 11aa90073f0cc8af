//! Suites of others, where they are installed: each of their tests becomes a case, run natively and under a runner.
//!
//! In reading order: `lists.rs` finds the tests of each suite, `parts.rs` reads from a test's output which parts of it
//! failed, `verdict.rs` says what two runs of it mean, `run.rs` runs them and keeps a journal, so that a run can be
//! continued, `record.rs` is what is stored, `beside.rs` makes one table of several stored runs.

pub mod beside;
mod lists;
mod parts;
pub mod record;
pub mod run;
mod verdict;

pub use lists::tests;

/// Whose test it is: says how its output is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Linux Test Project.
    Ltp,
    /// musl's libc-test.
    LibcTest,
    /// The tests of the GNU C library.
    Glibc,
    /// CPython's regression tests.
    Cpython,
    /// The tests of Go's standard library.
    Go,
    /// stress-ng's stressors.
    StressNg,
    /// The file system exerciser.
    Fsx,
    /// Many random operations on files at once.
    Fsstress,
}

/// One test of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Whose it is.
    pub kind: Kind,
    /// `SUITE/NAME`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Seconds that it may take natively; a runner gets at most four times as many.
    pub limit: u64,
}
