//! Runs all targets in turns.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::results::Results;
use crate::rows;
use crate::target::Target;

/// How long whole programs may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rounds at most.
    pub rounds: usize,
    /// For one row, all targets and rounds together: no round begins that would go beyond it.
    pub row: Duration,
    /// For one run: a target that needs longer is left out of the row.
    pub run: Duration,
}

/// Runs whole programs; returns what failed, for people. The first round of each is not counted, unless there is time for
/// one only.
///
/// # Errors
/// For people: no row has the name.
pub fn programs(
    targets: &[Target],
    limits: Limits,
    only: &[String],
    results: &mut Results,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let rows: Vec<_> = rows::all()
        .into_iter()
        .filter(|row| only.is_empty() || only.iter().any(|only| only == row.name))
        .collect();
    if rows.is_empty() {
        return Err("--only: no row has this name".to_owned());
    }
    for row in &rows {
        match rows::missing(row) {
            Some(program) => eprintln!("skipped: {}: no {program}", row.name),
            None => one_program(row, targets, limits, results, &mut failures)?,
        }
    }
    Ok(failures)
}

/// One row on all targets in turns.
fn one_program(
    row: &rows::Row,
    targets: &[Target],
    limits: Limits,
    results: &mut Results,
    failures: &mut Vec<String>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut broken = vec![false; targets.len()];
    for round in 0..=limits.rounds {
        let began = Instant::now();
        let mut native: Option<Output> = None;
        let mut times = Vec::new();
        for (index, target) in targets.iter().enumerate() {
            if broken[index] {
                continue;
            }
            let (time, output) = timed(target.command(&row.argv)?, limits.run)?;
            let wrong = match &native {
                _ if time >= limits.run => true,
                None => !output.status.success(),
                Some(native) => native.status != output.status || native.stdout != output.stdout,
            };
            if wrong {
                let text = String::from_utf8_lossy(&output.stderr);
                let line = match text.lines().next() {
                    _ if time >= limits.run => "longer than --limit",
                    line => line.unwrap_or("the output differs"),
                };
                failures.push(format!("{} on {}: {}: {line}", row.name, target.name, output.status));
                broken[index] = true;
            } else {
                times.push((&target.name, time.as_nanos() as f64));
            }
            native.get_or_insert(output);
        }
        let is_last = started.elapsed() + began.elapsed() > limits.row;
        if round > 0 || is_last {
            times.into_iter().for_each(|(target, time)| results.add(row.name, target, time));
        }
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Runs a command to its end; at the limit its whole process group is killed.
fn timed(mut command: Command, limit: Duration) -> Result<(Duration, Output), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |e: std::io::Error| format!("{name}: {e}");
    let child = command.spawn().map_err(failed)?;
    let group = format!("-{}", child.id());
    let (ended, end) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            // It may have ended just now.
            let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        }
    });
    let output = child.wait_with_output().map_err(failed)?;
    let time = started.elapsed();
    drop(ended);
    watch.join().map_err(|_| "the watch over a run panicked")?;
    Ok((time, output))
}

/// For all operations of one source.
const OPERATIONS_LIMIT: Duration = Duration::from_secs(600);

/// Runs single operations: the programs of `benches/guest` time themselves and print `name nanoseconds`.
///
/// # Errors
/// For people: a program does not compile.
pub fn operations(
    targets: &[Target],
    rounds: usize,
    only: &[String],
    results: &mut Results,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let dir = std::env::temp_dir().join(format!("ringfence-benches-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for source in sources()? {
        let program = compile(&source, &dir)?;
        let argv: Vec<String> =
            std::iter::once(program.to_string_lossy().into_owned()).chain(only.iter().cloned()).collect();
        let mut broken = vec![false; targets.len()];
        for _ in 0..rounds {
            for (index, target) in targets.iter().enumerate() {
                if broken[index] {
                    continue;
                }
                let (_, output) = timed(target.command(&argv)?, OPERATIONS_LIMIT)?;
                for line in String::from_utf8_lossy(&output.stdout).lines() {
                    if let Some((name, ns)) = line.split_once(' ')
                        && let Ok(ns) = ns.trim().parse()
                    {
                        results.add(name, &target.name, ns);
                    }
                }
                if !output.status.success() {
                    let text = String::from_utf8_lossy(&output.stderr);
                    let line = text.lines().next().unwrap_or("it says nothing");
                    failures.push(format!("{} on {}: {}: {line}", argv[0], target.name, output.status));
                    broken[index] = true;
                }
            }
        }
    }
    // A folder left behind is no reason to fail.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(failures)
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut list: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "c")).collect();
    list.sort();
    Ok(list)
}

fn compile(source: &Path, dir: &Path) -> Result<PathBuf, String> {
    let program = dir.join(source.file_stem().unwrap_or_default());
    let output = Command::new("cc")
        .args(["-O2", "-static", "-pthread", "-w", "-o"])
        .args([&program, source])
        .output()
        .map_err(|e| format!("cc: {e}: install a C compiler"))?;
    if output.status.success() {
        return Ok(program);
    }
    Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)))
}
