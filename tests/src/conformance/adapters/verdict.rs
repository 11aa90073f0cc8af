//! What a native run and a run under a runner mean: the test passes when it ends there as it does natively.

use std::collections::BTreeSet;

use crate::conformance::adapters::Kind;
use crate::conformance::verdict::Result as Verdict;
use crate::outcome::Outcome;

/// How one run of a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The exit status; none when it did not end in time.
    pub(super) status: Option<i32>,
    /// The parts that failed, where it says so.
    pub(super) failed: BTreeSet<String>,
    /// Its last words.
    pub(super) words: String,
}

impl Ended {
    pub(super) fn new(kind: Kind, outcome: &Outcome) -> Self {
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned() + &outcome.stderr_text();
        Self { status: outcome.status, failed: super::parts::failed(kind, &text), words: last_words(&text) }
    }
}

/// The statuses that say that something is missing.
const fn says_missing(kind: Kind, status: i32) -> bool {
    match kind {
        Kind::Ltp => status == 32,
        Kind::Glibc => status == 77,
        // CPython: no test ran; all were skipped.
        Kind::Cpython => status == 4,
        // No resources, or not there on this machine.
        Kind::StressNg => status == 3 || status == 4,
        _ => false,
    }
}

/// The native run alone: what can be compared passes.
pub(super) fn natively(kind: Kind, here: &Ended) -> (Verdict, String) {
    match here.status {
        None => (Verdict::Skip, "takes too long natively".to_owned()),
        Some(status) if says_missing(kind, status) => {
            (Verdict::Skip, "it needs something that is not here".to_owned())
        }
        Some(0) => (Verdict::Pass, String::new()),
        Some(_) if !here.failed.is_empty() => {
            (Verdict::Pass, format!("natively fail: {}", list(&here.failed)))
        }
        Some(status) => (Verdict::Skip, format!("exit status {status} natively")),
    }
}

/// A run under a runner, after a native one that passed with these parts failing.
pub(super) fn there(failed_natively: &BTreeSet<String>, there: &Ended) -> (Verdict, String) {
    let more: BTreeSet<String> = there.failed.difference(failed_natively).cloned().collect();
    match there.status {
        None => (Verdict::Timeout, there.words.clone()),
        Some(0) => (Verdict::Pass, String::new()),
        Some(_) if !there.failed.is_empty() && more.is_empty() => {
            (Verdict::Pass, format!("as natively fail: {}", list(&there.failed)))
        }
        Some(status) if !more.is_empty() => {
            (Verdict::Fail, format!("{}\nexit status {status}\n{}", list(&more), there.words))
        }
        Some(status) => (Verdict::Fail, format!("exit status {status}\n{}", there.words)),
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The end of what a run said.
fn last_words(text: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<i32>, failed: &[&str]) -> Ended {
        Ended { status, failed: names(failed), words: "said".to_owned() }
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_cannot_be_compared_is_skipped() {
        assert_eq!(natively(Kind::Go, &ended(Some(1), &[])).0, Verdict::Skip);
        assert_eq!(natively(Kind::Go, &ended(None, &[])).0, Verdict::Skip);
        assert_eq!(natively(Kind::Ltp, &ended(Some(32), &[])).0, Verdict::Skip);
        assert_eq!(natively(Kind::StressNg, &ended(Some(4), &[])).0, Verdict::Skip);
        assert_eq!(natively(Kind::Go, &ended(Some(0), &[])).0, Verdict::Pass);
    }

    #[test]
    fn parts_that_fail_natively_may_fail_there_and_no_others() {
        assert_eq!(natively(Kind::Cpython, &ended(Some(2), &["a"])).0, Verdict::Pass);
        assert_eq!(there(&names(&["a"]), &ended(Some(2), &["a"])).0, Verdict::Pass);
        assert_eq!(there(&names(&["a"]), &ended(Some(0), &[])).0, Verdict::Pass);
        let (result, detail) = there(&names(&["a"]), &ended(Some(2), &["a", "b"]));
        assert_eq!((result, detail.as_str()), (Verdict::Fail, "b\nexit status 2\nsaid"));
        assert_eq!(there(&names(&["a"]), &ended(Some(139), &[])).0, Verdict::Fail);
        assert_eq!(there(&names(&[]), &ended(None, &[])).0, Verdict::Timeout);
    }
}
