//! What is stored of a run: the rows as the suite's own results have them, and what a later run needs beside them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::conformance::results::{self, Row};
use crate::conformance::verdict::Result as Verdict;

/// The result of one test.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Name, result and why.
    pub row: Row,
    /// How long its run took: that under the runner, where there is one.
    pub seconds: f64,
    /// How long it took natively.
    pub native_seconds: f64,
    /// The parts of it that failed natively.
    pub failed: BTreeSet<String>,
}

/// What was run, and its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The suite's name; `conformance` for our own cases.
    pub suite: String,
    /// The runner's words; `native` without one.
    pub runner: String,
    /// The records.
    pub records: Vec<Record>,
}

impl Record {
    /// What its native run alone gave: only what passes natively is run under a runner.
    #[must_use]
    pub fn natively(mut self) -> Self {
        if self.row.result != Verdict::Skip {
            self.row.result = Verdict::Pass;
            self.row.detail.clear();
        }
        self.seconds = self.native_seconds;
        self
    }

    /// As one entry of `cases`.
    pub fn to_json(&self) -> Value {
        let mut value = results::case_to_json(&self.row);
        let rounded = |seconds: f64| json!((seconds * 10.0).round() / 10.0);
        value["seconds"] = rounded(self.seconds);
        value["native_seconds"] = rounded(self.native_seconds);
        if !self.failed.is_empty() {
            value["failed"] = json!(self.failed);
        }
        value
    }

    /// Reads what [`Record::to_json`] wrote, or a row of our own suite.
    ///
    /// # Errors
    /// For people: it has another form.
    pub fn of_json(case: &Value) -> Result<Self, String> {
        let failed = case["failed"].as_array().into_iter().flatten();
        Ok(Self {
            row: results::case_of_json(case)?,
            seconds: case["seconds"].as_f64().unwrap_or(0.0),
            native_seconds: case["native_seconds"].as_f64().unwrap_or(0.0),
            failed: failed.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

impl Stored {
    /// The form of [`results::to_json`], with suite, runner and what a later run needs.
    pub fn to_json(&self) -> Value {
        let rows: Vec<Row> = self.records.iter().map(|record| record.row.clone()).collect();
        let mut value = results::to_json(&rows);
        value["suite"] = json!(self.suite);
        value["runner"] = json!(self.runner);
        value["cases"] = self.records.iter().map(Record::to_json).collect();
        value
    }

    /// Reads what [`Stored::to_json`] or our own suite wrote.
    ///
    /// # Errors
    /// For people: it has another form.
    pub fn of_json(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let word = |key: &str, default: &str| value[key].as_str().unwrap_or(default).to_owned();
        let cases = value["cases"].as_array().ok_or("no list of cases")?;
        let records = cases.iter().map(Record::of_json).collect::<Result<_, String>>()?;
        Ok(Self { suite: word("suite", "conformance"), runner: word("runner", "native"), records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_can_be_read_back_also_as_plain_results() {
        let row = |name: &str| Row {
            name: name.to_owned(),
            syscall: String::new(),
            result: Verdict::Pass,
            detail: String::new(),
        };
        let failed: BTreeSet<String> = ["x".to_owned()].into();
        let records = vec![
            Record { row: row("go/os"), seconds: 1.5, native_seconds: 0.5, failed },
            Record { row: row("go/io"), seconds: 0.0, native_seconds: 0.0, failed: BTreeSet::new() },
        ];
        let stored = Stored { suite: "go".to_owned(), runner: "runsc do".to_owned(), records };
        let text = stored.to_json().to_string();
        assert_eq!(Stored::of_json(&text), Ok(stored.clone()));
        assert_eq!(results::of_json(&text).map(|rows| rows.len()), Ok(2));
        let plain = results::to_json(&[row("files/read.a")]).to_string();
        assert_eq!(Stored::of_json(&plain).map(|stored| stored.suite), Ok("conformance".to_owned()));
    }
}
