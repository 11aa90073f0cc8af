//! Runs the suite: every program natively and, if there is a runner, under it, on several threads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::conformance::results::Row;
use crate::conformance::run::{Observed, Runner};
use crate::conformance::suite::{self, Case};
use crate::conformance::{compile, verdict};

/// What to run and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The sources.
    pub sources: Vec<PathBuf>,
    /// The runner under test; none: the native runs alone.
    pub runner: Option<Runner>,
    /// Only cases whose full name contains one of these, or whose system call is one; none: all.
    pub filters: Vec<String>,
    /// Programs at once.
    pub jobs: usize,
    /// Native runs of each case: more than one finds cases whose output is not the same each time.
    pub native_runs: usize,
    /// Seconds that one case may take.
    pub limit: u64,
    /// Whether to show how far it is, when standard error is a terminal.
    pub progress: bool,
}

impl Plan {
    fn wants(&self, full_name: &str, syscall: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| full_name.contains(f.as_str()) || f == syscall)
    }
}

/// Runs the plan: one row for each case, in the order of areas, files and cases.
///
/// # Errors
/// For people: a program does not compile, or a folder cannot be made.
pub fn measure(plan: &Plan) -> Result<Vec<Row>, String> {
    let cache = compile::cache()?;
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = plan.sources.get(index) else { return };
            let rows = suite::program(source, &cache).and_then(|program| one(plan, &program));
            found.lock().expect("no worker panics with the list").push((index, rows));
            plan.show(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(worker);
        }
    });
    let mut found = found.into_inner().expect("no worker panics with the list");
    found.sort_by_key(|(index, _)| *index);
    let mut rows = Vec::new();
    for (_, part) in found {
        rows.extend(part?);
    }
    Ok(rows)
}

impl Plan {
    /// A bar on a terminal; nothing elsewhere.
    fn show(&self, done: usize) {
        const WIDTH: usize = 40;
        let mut stderr = std::io::stderr().lock();
        if !self.progress || !stderr.is_terminal() {
            return;
        }
        let total = self.sources.len();
        let full = done * WIDTH / total.max(1);
        let end = if done == total { "\n" } else { "" };
        // A terminal that is gone is no reason to stop.
        let _ =
            write!(stderr, "\r[{}{}] {done}/{total} files{end}", "#".repeat(full), " ".repeat(WIDTH - full));
        let _ = stderr.flush();
    }
}

/// The cases that differ from the first native run and equal another one. What Linux does may depend on chance (which of
/// two threads is first, what an accounting that runs behind has seen), so the oracle is a set of outcomes: it is
/// asked again, never the runner under test.
fn allowed_too(
    host: &Runner,
    program: &suite::Program,
    wanted: &[Case],
    native: &BTreeMap<String, Observed>,
    other: &BTreeMap<String, Observed>,
) -> Result<BTreeSet<String>, String> {
    const SAMPLES: usize = 6;
    let mut found = BTreeSet::new();
    let passes =
        |native: &Observed, name: &str| verdict::beside(native, &other[name]).0 != verdict::Result::Fail;
    let mut differ: Vec<Case> =
        wanted.iter().filter(|case| !passes(&native[&case.name], &case.name)).cloned().collect();
    for _ in 0..SAMPLES {
        if differ.is_empty() {
            break;
        }
        let again = host.run(program, &differ)?;
        differ.retain(|case| {
            let same = verdict::beside(&again[&case.name], &other[&case.name]).0 == verdict::Result::Pass;
            if same {
                found.insert(case.name.clone());
            }
            !same
        });
    }
    Ok(found)
}

/// One program.
fn one(plan: &Plan, program: &suite::Program) -> Result<Vec<Row>, String> {
    let wanted: Vec<Case> = program
        .cases
        .iter()
        .filter(|case| plan.wants(&program.full_name(case), &case.syscall))
        .cloned()
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let host = Runner { prefix: Vec::new(), limit: plan.limit };
    let native = host.run(program, &wanted)?;
    let mut unsteady = Vec::new();
    for _ in 1..plan.native_runs {
        let again = host.run(program, &wanted)?;
        unsteady.extend(native.iter().filter(|(name, seen)| again[*name] != **seen).map(|(name, seen)| {
            let (was, is) = (seen.output.as_bytes(), again[name].output.as_bytes());
            (name.clone(), crate::outcome::diff("output", was, is))
        }));
    }
    let other = plan.runner.as_ref().map(|runner| runner.run(program, &wanted)).transpose()?;
    let also = match &other {
        Some(other) => allowed_too(&host, program, &wanted, &native, other)?,
        None => BTreeSet::new(),
    };
    let row = |case: &Case| {
        let seen = &native[&case.name];
        let (mut result, mut detail) = match &other {
            Some(_) if also.contains(&case.name) => {
                (verdict::Result::Pass, "as one of several native runs, which differ".to_owned())
            }
            Some(other) => verdict::beside(seen, &other[&case.name]),
            None if program.has_cases => verdict::alone(seen),
            None => (verdict::Result::Pass, String::new()),
        };
        if let Some((_, difference)) = unsteady.iter().find(|(name, _)| *name == case.name) {
            (result, detail) = (verdict::Result::Fail, format!("two native runs differ: {difference}"));
        }
        Row { name: program.full_name(case), syscall: case.syscall.clone(), result, detail }
    };
    Ok(wanted.iter().map(row).collect())
}
