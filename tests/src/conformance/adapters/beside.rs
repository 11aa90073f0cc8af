//! One table of several stored runs: a row for each suite, a column for each runner.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::conformance::adapters::record::{Record, Stored};
use crate::conformance::page::share;
use crate::conformance::verdict::Result as Verdict;
use crate::known::Known;

/// The table in Markdown, and for each run under ringfence what does not pass. A test that is skipped, since it does not
/// pass natively or needs what is not there, counts nowhere but in its own column.
pub fn markdown(runs: &[Stored], known: &Known) -> String {
    let mut runners: Vec<String> = Vec::new();
    let mut suites: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    for run in runs {
        let name = shown(&run.runner);
        if !runners.contains(&name) {
            runners.push(name);
        }
        suites.entry(&run.suite).or_default().push(run);
    }
    let mut text = "| suite |".to_owned();
    runners.iter().for_each(|name| text += &format!(" `{name}` |"));
    text += "\n|---|";
    text += &"---|".repeat(runners.len());
    for (suite, runs) in &suites {
        let _ = write!(text, "\n| {suite} |");
        for runner in &runners {
            let cell = runs
                .iter()
                .find(|run| shown(&run.runner) == *runner)
                .map_or("–".to_owned(), |run| cell(run));
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
    for run in
        runs.iter().filter(|run| run.suite != "conformance" && shown(&run.runner).starts_with("ringfence"))
    {
        failures(&mut text, run, known);
    }
    text
}

/// A runner's words without the folders of its program: a page names no place of one machine.
pub fn shown(runner: &str) -> String {
    let (program, rest) = runner.split_once(' ').unwrap_or((runner, ""));
    format!("{} {rest}", program.rsplit('/').next().unwrap_or(program)).trim_end().to_owned()
}

fn count(run: &Stored, result: Verdict) -> usize {
    run.records.iter().filter(|record| record.row.result == result).count()
}

fn cell(run: &Stored) -> String {
    let [pass, skip] = [Verdict::Pass, Verdict::Skip].map(|result| count(run, result));
    let total = run.records.len();
    let skipped = if skip > 0 { format!(", {skip} skipped") } else { String::new() };
    format!("**{}**: {pass} of {}{skipped}", share(pass, skip, total), total - skip)
}

fn failures(text: &mut String, run: &Stored, known: &Known) {
    let failing: Vec<&Record> = run
        .records
        .iter()
        .filter(|record| matches!(record.row.result, Verdict::Fail | Verdict::Timeout))
        .collect();
    if failing.is_empty() {
        return;
    }
    let _ =
        write!(text, "\n{}: {} do not pass under `{}`:\n\n", run.suite, failing.len(), shown(&run.runner));
    *text += "| test | result | what fails |\n|---|---|---|\n";
    for record in failing {
        let row = &record.row;
        let first = row.detail.lines().next().unwrap_or_default();
        let what = known.reason(&format!("suite/{}", row.name)).unwrap_or(first);
        let _ = writeln!(text, "| `{}` | {} | {} |", row.name, row.result.word(), what.replace('|', "\\|"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::conformance::results::Row;

    fn run(suite: &str, runner: &str, results: &[Verdict]) -> Stored {
        let record = |(n, &result): (usize, &Verdict)| Record {
            row: Row {
                name: format!("{suite}/t{n}"),
                syscall: String::new(),
                result,
                detail: "exit status 1\nmore".to_owned(),
            },
            seconds: 0.0,
            native_seconds: 0.0,
            failed: BTreeSet::new(),
        };
        let records = results.iter().enumerate().map(record).collect();
        Stored { suite: suite.to_owned(), runner: runner.to_owned(), records }
    }

    #[test]
    fn a_row_for_each_suite_and_a_column_for_each_runner() {
        use Verdict::{Fail, Pass, Skip, Timeout};
        let runs = [
            run("go", "/opt/x/ringfence run --", &[Pass, Pass, Fail, Skip]),
            run("go", "runsc do", &[Pass, Timeout, Fail, Skip]),
            run("stress-ng", "/opt/x/ringfence run --", &[Pass]),
        ];
        let text = markdown(&runs, &Known::parse("suite/go/t2 | why | 2026-11-23"));
        assert!(text.starts_with("| suite | `ringfence run --` | `runsc do` |\n"), "{text}");
        assert!(
            text.contains("| go | **66.7 %**: 2 of 3, 1 skipped | **33.3 %**: 1 of 3, 1 skipped |"),
            "{text}"
        );
        assert!(text.contains("| stress-ng | **100.0 %**: 1 of 1 | – |"), "{text}");
        assert!(text.contains("| `go/t2` | fail | why, 2026-11-23 |") && !text.contains("go/t1"), "{text}");
        assert!(!text.contains("/opt"), "{text}");
    }
}
