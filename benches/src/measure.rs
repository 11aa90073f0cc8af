//! Runs all targets in turns.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::results::Results;
use crate::rows;
use crate::target::Target;

/// Runs whole programs; returns what failed, for people. The first round of each is not counted.
///
/// # Errors
/// For people: no row has the name.
pub fn programs(
    targets: &[Target],
    rounds: usize,
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
        if let Some(program) = rows::missing(row) {
            eprintln!("skipped: {}: no {program}", row.name);
            continue;
        }
        let mut broken = vec![false; targets.len()];
        for round in 0..=rounds {
            let mut native: Option<Output> = None;
            for (index, target) in targets.iter().enumerate() {
                if broken[index] {
                    continue;
                }
                let (time, output) = timed(target.command(&row.argv))?;
                let wrong = match &native {
                    None => !output.status.success(),
                    Some(native) => native.status != output.status || native.stdout != output.stdout,
                };
                if wrong {
                    let text = String::from_utf8_lossy(&output.stderr);
                    let line = text.lines().next().unwrap_or("the output differs");
                    failures.push(format!("{} on {}: {}: {line}", row.name, target.name, output.status));
                    broken[index] = true;
                } else if round > 0 {
                    results.add(row.name, &target.name, time.as_nanos() as f64);
                }
                native.get_or_insert(output);
            }
        }
    }
    Ok(failures)
}

fn timed(mut command: Command) -> Result<(Duration, Output), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    Ok((started.elapsed(), output))
}

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
                let (_, output) = timed(target.command(&argv))?;
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
