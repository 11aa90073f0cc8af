//! Runs the cases of one program, natively or under a runner: many cases for one start, and what was left when a case took
//! the runner with it again from the next case on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::conformance::normal::normalise;
use crate::conformance::suite::{Case, Program};
use crate::outcome;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The process of the case exited.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It took longer than its limit, or the whole runner did while it ran.
    Timeout,
    /// The runner ended while it ran; what the runner said on standard error.
    RunnerDied(String),
    /// It said that something it needs is missing.
    Skip(String),
}

/// What a case did: its normalised output, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The output, normalised.
    pub output: String,
    /// How it ended.
    pub end: End,
}

/// A command that runs a program on some kernel.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    /// The words before the program; none: the host's own kernel.
    pub prefix: Vec<String>,
    /// Seconds that one case may take.
    pub limit: u64,
}

/// How often a program is started again after a case took the runner with it.
const RESTARTS: usize = 6;

impl Runner {
    /// The runner that a command prefix such as `runsc do` names.
    pub fn new(prefix: &str, limit: u64) -> Self {
        Self { prefix: prefix.split_whitespace().map(str::to_owned).collect(), limit }
    }

    /// Runs those cases of the program that `wanted` holds. The result has one entry for each of them.
    ///
    /// # Errors
    /// For people: the scratch folder cannot be made.
    pub fn run(&self, program: &Program, wanted: &[Case]) -> Result<BTreeMap<String, Observed>, String> {
        let mut seen = BTreeMap::new();
        for _ in 0..RESTARTS {
            let left: Vec<&Case> = wanted.iter().filter(|case| !seen.contains_key(&case.name)).collect();
            if left.is_empty() {
                return Ok(seen);
            }
            let before = seen.len();
            self.start(program, &left, &mut seen)?;
            if seen.len() == before {
                break;
            }
        }
        for case in wanted {
            let lost = || Observed { output: String::new(), end: End::RunnerDied("not run".to_owned()) };
            seen.entry(case.name.clone()).or_insert_with(lost);
        }
        Ok(seen)
    }

    /// One start: adds to `seen` what the cases did, as far as the runner came.
    fn start(
        &self,
        program: &Program,
        left: &[&Case],
        seen: &mut BTreeMap<String, Observed>,
    ) -> Result<(), String> {
        let scratch = Scratch::new()?;
        let place = scratch.0.to_string_lossy().into_owned();
        let mut argv = self.prefix.clone();
        argv.push(program.path.to_string_lossy().into_owned());
        if program.has_cases {
            let names: Vec<&str> = left.iter().map(|case| case.name.as_str()).collect();
            let limit = self.limit.to_string();
            argv.extend(["--dir", &place, "--limit", &limit, &names.join(",")].map(str::to_owned));
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        // A hung case ends at its own limit; this one is for a runner that hangs.
        let whole = if program.has_cases { self.limit * 2 + left.len() as u64 } else { self.limit * 6 };
        let outcome = outcome::run(command, b"", Duration::from_secs(whole));
        let text = String::from_utf8_lossy(&outcome.stdout);
        if !program.has_cases {
            let end = match outcome.status {
                None => End::Timeout,
                Some(status @ (125..=127)) if !self.prefix.is_empty() => {
                    End::RunnerDied(format!("status {status}: {}", outcome.stderr_text()))
                }
                Some(status) => End::Exit(status),
            };
            seen.insert(left[0].name.clone(), Observed { output: normalise(&text, &place), end });
            return Ok(());
        }
        let open = parse(&text, &place, seen);
        let died = || match outcome.status {
            None => End::Timeout,
            Some(status) => End::RunnerDied(format!("status {status}: {}", brief(&outcome.stderr_text()))),
        };
        if let Some((name, output)) = open {
            seen.insert(name, Observed { output, end: died() });
        } else if outcome.status != Some(0)
            && let Some(first) = left.iter().find(|case| !seen.contains_key(&case.name))
        {
            // Between two cases: the next one is charged, so that each start gets further.
            seen.insert(first.name.clone(), Observed { output: String::new(), end: died() });
        }
        Ok(())
    }
}

/// The last words of a runner, where its reason stands.
fn brief(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(600);
    text.chars().skip(skipped).collect()
}

/// Reads a program's report into `seen`; returns the case that has begun and not ended.
fn parse(text: &str, place: &str, seen: &mut BTreeMap<String, Observed>) -> Option<(String, String)> {
    let mut open: Option<(String, String)> = None;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_end_matches('\n');
        if let Some(name) = trimmed.strip_prefix("=== ") {
            open = Some((name.to_owned(), String::new()));
        } else if let Some(end) = trimmed.strip_prefix("--- ")
            && let Some((name, output)) = open.take()
        {
            let skip = output.lines().find_map(|line| line.strip_prefix("#skip ")).map(str::to_owned);
            let number = |text: &str| text.parse().unwrap_or(-1);
            let end = match (skip, end.split_once(' ')) {
                (Some(why), _) => End::Skip(why),
                (_, Some(("exit", status))) => End::Exit(number(status)),
                (_, Some(("signal", status))) => End::Signal(number(status)),
                _ => End::Timeout,
            };
            seen.insert(name, Observed { output: normalise(&output, place), end });
        } else if let Some((_, output)) = &mut open {
            output.push_str(line);
        }
    }
    open.map(|(name, output)| (name, normalise(&output, place)))
}

/// A folder of its own for one start, which goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // Padded: names of one length make paths of one length on both kernels.
        let path: PathBuf =
            Path::new("/tmp").join(format!("conformance-{:07}-{serial:06}", std::process::id() % 10_000_000));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a case made immutable or mounted stays behind: no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_into_cases() {
        let mut seen = BTreeMap::new();
        let text = "=== read.a\nx = 1\n--- exit 0\n=== read.b\n--- signal 11\n=== read.c\n#skip needs y\n--- exit 0\n\
                    === read.d\n--- timeout\n=== read.e\nhalf";
        let open = parse(text, "", &mut seen);
        assert_eq!(open, Some(("read.e".to_owned(), "half".to_owned())));
        let ends: Vec<&End> = seen.values().map(|observed| &observed.end).collect();
        assert_eq!(ends, [&End::Exit(0), &End::Signal(11), &End::Skip("needs y".to_owned()), &End::Timeout]);
        assert_eq!(seen["read.a"].output, "x = 1\n");
    }
}
