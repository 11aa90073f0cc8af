//! What a case's two runs mean, and how all of them add up.

use crate::conformance::run::{End, Observed};
use crate::outcome::diff;

/// The result of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Result {
    /// As on the host (natively: it ended by itself).
    Pass,
    /// Not as on the host.
    Fail,
    /// Something that it needs is missing.
    Skip,
    /// Not done within its limit.
    Timeout,
}

impl Result {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Skip, Self::Timeout];

    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Timeout => "timeout",
        }
    }

    /// The result that the word names.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.word() == word)
    }
}

/// The verdict on a native run, which has nothing to be compared with: a case that ends by itself passes.
pub fn alone(native: &Observed) -> (Result, String) {
    match &native.end {
        End::Exit(0) => (Result::Pass, String::new()),
        End::Skip(why) => (Result::Skip, why.clone()),
        End::Timeout => (Result::Timeout, native.output.clone()),
        End::Exit(status) => (Result::Fail, format!("exit status {status}\n{}", native.output)),
        End::Signal(number) => (Result::Fail, format!("signal {number}\n{}", native.output)),
        End::RunnerDied(why) => (Result::Fail, why.clone()),
    }
}

/// The verdict on a run beside the native one.
pub fn beside(native: &Observed, other: &Observed) -> (Result, String) {
    match alone(native) {
        (Result::Pass, _) => {}
        (Result::Skip, why) => return (Result::Skip, format!("natively: {why}")),
        // A whole program may say how it ended by its status.
        _ if matches!(native.end, End::Exit(1..=124)) => {}
        (_, why) => return (Result::Fail, format!("the case itself fails natively: {why}")),
    }
    if native == other {
        return (Result::Pass, String::new());
    }
    let difference = diff("output", native.output.as_bytes(), other.output.as_bytes());
    match &other.end {
        End::Timeout => (Result::Timeout, difference),
        End::Skip(why) => (Result::Fail, format!("skipped there only: {why}")),
        End::RunnerDied(why) => (Result::Fail, format!("the runner died: {why}\n{difference}")),
        end if *end == native.end => (Result::Fail, difference),
        end => (Result::Fail, format!("{end:?}, natively {:?}\n{difference}", native.end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(output: &str, end: End) -> Observed {
        Observed { output: output.to_owned(), end }
    }

    #[test]
    fn equal_runs_pass_and_others_name_the_line() {
        let native = observed("a\nb\n", End::Exit(0));
        assert_eq!(beside(&native, &native.clone()).0, Result::Pass);
        let (result, detail) = beside(&native, &observed("a\nc\n", End::Exit(0)));
        assert_eq!(result, Result::Fail);
        assert!(detail.contains("from line 2"), "{detail}");
    }

    #[test]
    fn a_hung_case_is_a_timeout_and_a_dead_runner_a_failure() {
        let native = observed("a\n", End::Exit(0));
        assert_eq!(beside(&native, &observed("", End::Timeout)).0, Result::Timeout);
        assert_eq!(beside(&native, &observed("", End::RunnerDied("x".to_owned()))).0, Result::Fail);
    }

    #[test]
    fn what_skips_natively_is_skipped_and_what_skips_only_there_fails() {
        let skip = observed("", End::Skip("no x".to_owned()));
        assert_eq!(beside(&skip, &observed("a", End::Exit(0))).0, Result::Skip);
        assert_eq!(beside(&observed("", End::Exit(0)), &skip).0, Result::Fail);
    }

    #[test]
    fn a_case_that_crashes_natively_is_a_fault_of_the_suite() {
        let crash = observed("", End::Signal(11));
        assert_eq!(beside(&crash, &crash.clone()).0, Result::Fail);
    }
}
