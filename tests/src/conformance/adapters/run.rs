//! Runs tests of a suite and writes each result down at once, so that an interrupted run loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::conformance::adapters::record::{Record, Stored};
use crate::conformance::adapters::verdict::{self, Ended};
use crate::conformance::adapters::{Kind, Test};
use crate::conformance::results::Row;
use crate::conformance::run::Runner;
use crate::conformance::verdict::Result as Verdict;
use crate::outcome;

/// What to run and how.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The tests.
    pub tests: Vec<Test>,
    /// The runner under test; none: the native runs alone.
    pub runner: Option<Runner>,
    /// Tests at once.
    pub jobs: usize,
    /// Seconds that one test may take natively, instead of its suite's limit.
    pub limit: Option<u64>,
    /// Results of another run, by name: what is there is not run natively again.
    pub natively: BTreeMap<String, Record>,
    /// Results that are taken as they are, by name.
    pub done: BTreeMap<String, Record>,
    /// Where each result is written at once, a line of JSON each.
    pub journal: Option<PathBuf>,
}

/// The records of a stored run by name.
pub fn by_name(stored: Stored) -> BTreeMap<String, Record> {
    stored.records.into_iter().map(|record| (record.row.name.clone(), record)).collect()
}

/// Reads a journal; a line that was cut short is left out.
pub fn read_journal(path: &Path) -> BTreeMap<String, Record> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| Record::of_json(&serde_json::from_str(line).ok()?).ok())
        .map(|record| (record.row.name.clone(), record))
        .collect()
}

/// Runs the plan: a record for each test and for what is done, in the order of their names. `tell` hears of each that is run.
///
/// # Errors
/// For people: the journal cannot be written.
pub fn run(plan: &Plan, tell: impl Fn(&Record) + Sync) -> Result<Vec<Record>, String> {
    let journal = plan.journal.as_deref().map(|path| journal(path, &plan.done)).transpose()?;
    let journal = Mutex::new(journal);
    let (next, records) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> Result<(), String> {
        while let Some(test) = plan.tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let record = match plan.done.get(&test.name) {
                Some(record) => record.clone(),
                None => {
                    let record = plan.one(test);
                    tell(&record);
                    if let Some(file) = &mut *journal.lock().expect("no worker panics with the journal") {
                        writeln!(file, "{}", record.to_json()).map_err(|e| format!("the journal: {e}"))?;
                    }
                    record
                }
            };
            records.lock().expect("no worker panics with the list").push(record);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut records = records.into_inner().expect("no worker panics with the list");
    // What an earlier run of other tests of the suite found stays.
    let names: BTreeSet<&String> = plan.tests.iter().map(|test| &test.name).collect();
    records.extend(plan.done.values().filter(|record| !names.contains(&record.row.name)).cloned());
    records.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    Ok(records)
}

/// A journal that begins with what is done already.
fn journal(path: &Path, done: &BTreeMap<String, Record>) -> Result<File, String> {
    let text: String = done.values().map(|record| format!("{}\n", record.to_json())).collect();
    let open = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    };
    open().map_err(|e: std::io::Error| format!("{}: {e}", path.display()))
}

impl Plan {
    fn one(&self, test: &Test) -> Record {
        let limit = self.limit.unwrap_or(test.limit);
        let native = match self.natively.get(&test.name) {
            Some(record) => record.clone().natively(),
            None => natively(test, limit),
        };
        match &self.runner {
            Some(runner) if native.row.result == Verdict::Pass => under(runner, test, limit, &native),
            _ => native,
        }
    }
}

fn natively(test: &Test, limit: u64) -> Record {
    let (ended, seconds) = timed(test.kind, &test.argv, Duration::from_secs(limit));
    let (result, detail) = verdict::natively(test.kind, &ended);
    let failed = if result == Verdict::Pass { ended.failed } else { BTreeSet::new() };
    record(test, (result, detail), [seconds; 2], failed)
}

fn under(runner: &Runner, test: &Test, limit: u64, native: &Record) -> Record {
    let argv: Vec<String> = runner.prefix.iter().chain(&test.argv).cloned().collect();
    let (ended, seconds) = timed(test.kind, &argv, limit_there(limit, native.seconds));
    let verdict = verdict::there(&native.failed, &ended);
    record(test, verdict, [seconds, native.seconds], native.failed.clone())
}

/// How long a runner may take: by how long the test takes natively, so that a hang of a short one costs little.
fn limit_there(limit: u64, native: f64) -> Duration {
    const TIMES: f64 = 12.0;
    const START: f64 = 40.0;
    let most = Duration::from_secs(limit.saturating_mul(4));
    Duration::try_from_secs_f64(native * TIMES + START).unwrap_or(most).min(most)
}

fn record(
    test: &Test,
    (result, detail): (Verdict, String),
    [seconds, native_seconds]: [f64; 2],
    failed: BTreeSet<String>,
) -> Record {
    let row = Row { name: test.name.clone(), syscall: String::new(), result, detail };
    Record { row, seconds, native_seconds, failed }
}

fn timed(kind: Kind, argv: &[String], limit: Duration) -> (Ended, f64) {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]);
    let started = Instant::now();
    let outcome = outcome::run(command, b"", limit);
    (Ended::new(kind, &outcome), started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Test {
        Test {
            kind: Kind::Go,
            name: format!("go/{name}"),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            limit: 20,
        }
    }

    /// A runner under which `$THERE` is set.
    fn runner() -> Option<Runner> {
        Some(Runner::new("/usr/bin/env THERE=1", 20))
    }

    fn results(records: &[Record]) -> Vec<(&str, Verdict)> {
        records.iter().map(|record| (record.row.name.as_str(), record.row.result)).collect()
    }

    #[test]
    fn a_test_passes_when_it_ends_as_natively() {
        let fails = "echo '--- FAIL: A (0s)'; [ -z $THERE ] || echo '--- FAIL: B (0s)'; exit 1";
        let tests = vec![
            shell("a", "exit 0"),
            shell("b", "[ -z $THERE ]"),
            shell("c", "exit 3"),
            shell("d", fails),
            shell("e", "echo '--- FAIL: A (0s)'; exit 1"),
        ];
        let records =
            run(&Plan { tests, runner: runner(), jobs: 2, ..Plan::default() }, |_| {}).expect("it runs");
        let want = [
            ("go/a", Verdict::Pass),
            ("go/b", Verdict::Fail),
            ("go/c", Verdict::Skip),
            ("go/d", Verdict::Fail),
            ("go/e", Verdict::Pass),
        ];
        assert_eq!(results(&records), want);
        assert!(records[3].row.detail.starts_with("B\n"), "{}", records[3].row.detail);
    }

    #[test]
    fn an_interrupted_run_goes_on_where_it_was() {
        let path = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
        let tests = vec![shell("a", "exit 0"), shell("b", "exit 0")];
        let mut plan = Plan { tests, jobs: 1, journal: Some(path.clone()), ..Plan::default() };
        run(&plan, |_| {}).expect("it runs");
        let mut text = fs::read_to_string(&path).expect("the journal");
        text.truncate(text.len() - 10);
        fs::write(&path, text).expect("the journal can be cut");
        plan.done = read_journal(&path);
        assert_eq!(plan.done.len(), 1);
        let ran = AtomicUsize::new(0);
        let records = run(&plan, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        })
        .expect("it runs");
        assert_eq!((records.len(), ran.into_inner()), (2, 1));
        assert_eq!(read_journal(&path).len(), 2);
        fs::remove_file(&path).expect("the journal is there");
    }

    #[test]
    fn stored_native_results_are_not_run_again() {
        let tests = vec![shell("a", "[ $THERE ]")];
        let natively = record(&tests[0], (Verdict::Fail, String::new()), [9.0, 0.1], BTreeSet::new());
        let natively = BTreeMap::from([("go/a".to_owned(), natively)]);
        let plan = Plan { tests, runner: runner(), natively, ..Plan::default() };
        assert_eq!(results(&run(&plan, |_| {}).expect("it runs")), [("go/a", Verdict::Pass)]);
    }

    #[test]
    fn a_hang_of_a_short_test_costs_little() {
        assert_eq!(limit_there(120, 0.0), Duration::from_secs(40));
        assert_eq!(limit_there(120, 1e9), Duration::from_secs(480));
        assert_eq!(limit_there(120, f64::NAN), Duration::from_secs(480));
    }
}
