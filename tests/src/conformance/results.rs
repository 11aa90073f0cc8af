//! Results as JSON, what was not expected in them, and what changed between two.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::conformance::verdict::Result as Verdict;
use crate::known::Known;

/// The result of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The full name: `AREA/CALL.TITLE`.
    pub name: String,
    /// The system call that it is about; may be empty.
    pub syscall: String,
    /// The result.
    pub result: Verdict,
    /// Why, for people; empty for a pass.
    pub detail: String,
}

impl Row {
    /// The area: what stands before the first slash.
    pub fn area(&self) -> &str {
        self.name.split_once('/').map_or("", |(area, _)| area)
    }
}

/// How many rows have this result.
pub fn count(rows: &[Row], result: Verdict) -> usize {
    rows.iter().filter(|row| row.result == result).count()
}

/// One entry of `cases`.
pub(super) fn case_to_json(row: &Row) -> Value {
    json!({"name": row.name, "syscall": row.syscall, "result": row.result.word(), "detail": row.detail})
}

/// Reads what [`case_to_json`] wrote.
pub(super) fn case_of_json(case: &Value) -> Result<Row, String> {
    let word = |key: &str| {
        case[key].as_str().map(str::to_owned).ok_or_else(|| format!("a case without {key}: {case}"))
    };
    let result = word("result")?;
    let result = Verdict::of_word(&result).ok_or_else(|| format!("not a result: {result}"))?;
    Ok(Row { name: word("name")?, syscall: word("syscall")?, result, detail: word("detail")? })
}

/// `{"summary": {"total", "pass", "fail", "skip", "timeout"}, "cases": [{"name", "syscall", "result", "detail"}]}`.
pub fn to_json(rows: &[Row]) -> Value {
    let cases: Vec<Value> = rows.iter().map(case_to_json).collect();
    let mut summary = json!({"total": rows.len()});
    for result in Verdict::ALL {
        summary[result.word()] = count(rows, result).into();
    }
    json!({"summary": summary, "cases": cases})
}

/// Reads what [`to_json`] wrote.
///
/// # Errors
/// For people: it has another form.
pub fn of_json(text: &str) -> Result<Vec<Row>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let cases = value["cases"].as_array().ok_or("no list of cases")?;
    cases.iter().map(case_of_json).collect()
}

/// What a list of known failures makes of the rows.
#[derive(Debug, Default)]
pub struct Judged {
    /// Failures that the list does not have.
    pub unexpected: Vec<Row>,
    /// Cases that the list has and that pass.
    pub mended: Vec<String>,
    /// Failures that the list has, with its reason.
    pub known: Vec<(String, String)>,
}

/// Marks known failures in the rows' details, and sorts out what was not expected. The list's names begin with `kind`:
/// `guest` for our own cases, `suite` for those of others.
pub fn judge(kind: &str, rows: &mut [Row], known: &Known) -> Judged {
    let mut judged = Judged::default();
    for row in rows {
        let reason = known.reason(&format!("{kind}/{}", row.name));
        match (row.result, reason) {
            (Verdict::Fail | Verdict::Timeout, Some(reason)) => {
                row.detail = format!("known failure: {reason}\n{}", row.detail);
                judged.known.push((row.name.clone(), reason.to_owned()));
            }
            (Verdict::Fail | Verdict::Timeout, None) => judged.unexpected.push(row.clone()),
            (Verdict::Pass, Some(_)) => judged.mended.push(row.name.clone()),
            _ => {}
        }
    }
    judged
}

/// What changed from `old` to `new`, a line for each case: worse first.
pub fn compare(old: &[Row], new: &[Row]) -> Vec<String> {
    let by_name = |rows: &[Row]| -> BTreeMap<String, Verdict> {
        rows.iter().map(|row| (row.name.clone(), row.result)).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let word = |result: Option<&Verdict>| result.map_or("absent", |result| result.word());
    let mut lines: Vec<(bool, String)> = names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| {
            let (was, is) = (old.get(name), new.get(name));
            (is == Some(&Verdict::Pass), format!("{name}: {} -> {}", word(was), word(is)))
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, result: Verdict) -> Row {
        Row { name: name.to_owned(), syscall: "read".to_owned(), result, detail: String::new() }
    }

    #[test]
    fn json_has_the_promised_form_and_can_be_read_back() {
        let rows = [row("files/read.a", Verdict::Pass), row("files/read.b", Verdict::Timeout)];
        let value = to_json(&rows);
        assert_eq!(value["summary"], json!({"total": 2, "pass": 1, "fail": 0, "skip": 0, "timeout": 1}));
        let first = json!({"name": "files/read.a", "syscall": "read", "result": "pass", "detail": ""});
        assert_eq!(value["cases"][0], first);
        assert_eq!(of_json(&value.to_string()), Ok(rows.to_vec()));
        assert!(of_json("{}").is_err() && of_json("nothing").is_err());
    }

    #[test]
    fn a_comparison_names_what_changed_worse_first() {
        let old = [row("a/x", Verdict::Fail), row("a/y", Verdict::Pass), row("a/z", Verdict::Pass)];
        let new = [row("a/x", Verdict::Pass), row("a/y", Verdict::Fail), row("a/z", Verdict::Pass)];
        assert_eq!(compare(&old, &new), ["a/y: pass -> fail", "a/x: fail -> pass"]);
        assert_eq!(compare(&old, &old), [""; 0]);
        assert_eq!(compare(&old, &new[..2]).len(), 3);
    }

    #[test]
    fn known_failures_are_expected_and_their_passes_are_not() {
        let known = Known::parse("guest/a/x | why | 2026-11-23\nguest/a/y | why | 2026-11-23\n");
        let mut rows = [row("a/x", Verdict::Fail), row("a/y", Verdict::Pass), row("a/z", Verdict::Timeout)];
        let judged = judge("guest", &mut rows, &known);
        assert_eq!(judged.mended, ["a/y"]);
        assert_eq!(judged.unexpected.len(), 1);
        assert_eq!(judged.unexpected[0].name, "a/z");
        assert!(rows[0].detail.starts_with("known failure: why"));
    }
}
