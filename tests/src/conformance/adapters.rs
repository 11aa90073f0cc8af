//! Suites of others, where they are installed: each of their tests becomes a case, run natively and under a runner.
//!
//! A test passes when it ends under the runner as it does natively; what fails natively is skipped and says so.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::conformance::results::Row;
use crate::conformance::run::Runner;
use crate::conformance::verdict::Result as Verdict;
use crate::outcome::{self, Outcome, native};

/// One test of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// `SUITE/NAME`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Seconds that it may take natively; a runner gets four times as many.
    pub limit: u64,
}

/// The exit status of a test that finds something missing: LTP's `TCONF`.
const NOT_CONFIGURED: i32 = 32;

/// The tests of a suite: `ltp=DIR` (installed, with `runtest/syscalls`), `libc-test=DIR` (built), `cpython`, `go`,
/// `stress-ng`.
///
/// # Errors
/// For people: no such suite, or it is not installed.
pub fn tests(suite: &str) -> Result<Vec<Test>, String> {
    let (kind, place) = suite.split_once('=').unwrap_or((suite, ""));
    match kind {
        "ltp" => ltp(Path::new(place)),
        "libc-test" => libc_test(Path::new(place)),
        "cpython" => cpython(),
        "go" => go(),
        "stress-ng" => stress_ng(),
        _ => Err(format!("{kind}: no such suite (there are ltp=DIR, libc-test=DIR, cpython, go, stress-ng)")),
    }
}

fn test(suite: &str, name: &str, argv: &[&str], limit: u64) -> Test {
    Test { name: format!("{suite}/{name}"), argv: argv.iter().map(|s| (*s).to_owned()).collect(), limit }
}

/// What a program prints.
fn printed(argv: &[&str]) -> Result<String, String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().map_err(|e| format!("{}: {e}", argv[0]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A `runtest` file has a line `NAME COMMAND…` for each test.
fn ltp(dir: &Path) -> Result<Vec<Test>, String> {
    let list = dir.join("runtest/syscalls");
    let text = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    Ok(runtest(&text, &dir.to_string_lossy()))
}

fn runtest(text: &str, dir: &str) -> Vec<Test> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, command)| {
            // The test must not be process 1: LTP takes that for the sign that its parent has died.
            let script = format!(
                "export LTPROOT={dir} PATH={dir}/testcases/bin:$PATH; cd /tmp; {}; exit $?",
                command.trim()
            );
            test("ltp", name, &["/bin/sh", "-c", &script], 60)
        })
        .collect()
}

fn libc_test(dir: &Path) -> Result<Vec<Test>, String> {
    let mut tests = Vec::new();
    for part in ["functional", "regression", "math"] {
        let dir = dir.join("src").join(part);
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|ending| ending == "exe") {
                let name = format!("{part}/{}", path.file_stem().unwrap_or_default().to_string_lossy());
                tests.push(test("libc-test", &name, &[&path.to_string_lossy()], 30));
            }
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// CPython's regression tests, a case for each module.
fn cpython() -> Result<Vec<Test>, String> {
    let list = printed(&["/usr/bin/python3", "-m", "test", "--list-tests"])?;
    let tests: Vec<Test> = list
        .lines()
        .filter(|name| name.starts_with("test_"))
        .map(|name| test("cpython", name, &["/usr/bin/python3", "-m", "test", "-q", name], 300))
        .collect();
    if tests.is_empty() {
        return Err("cpython: no tests: install libpython3-testsuite".to_owned());
    }
    Ok(tests)
}

/// Go's standard library: each package's tests, compiled natively once, then run.
fn go() -> Result<Vec<Test>, String> {
    let root = printed(&["go", "env", "GOROOT"])?;
    let list = printed(&["go", "list", "std"])?;
    let dir = std::env::temp_dir().join("ringfence-go-tests");
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut tests = Vec::new();
    for package in
        list.lines().filter(|package| !package.contains("internal") && !package.starts_with("vendor"))
    {
        let program = dir.join(package.replace('/', "_"));
        if !program.exists() {
            // A package without tests makes no program.
            let _ = Command::new("go").args(["test", "-c", "-o"]).arg(&program).arg(package).output();
        }
        if program.exists() {
            let script =
                format!("cd {}/src/{package} && exec {} -test.short", root.trim(), program.display());
            tests.push(test("go", package, &["/bin/sh", "-c", &script], 120));
        }
    }
    Ok(tests)
}

fn stress_ng() -> Result<Vec<Test>, String> {
    let list = printed(&["/usr/bin/stress-ng", "--stressors"])?;
    Ok(list
        .split_whitespace()
        .map(|name| {
            let option = format!("--{name}");
            let argv = [
                "/usr/bin/stress-ng",
                &option,
                "1",
                "--verify",
                "--timeout",
                "2",
                "--temp-path",
                "/tmp",
                "-q",
            ];
            test("stress-ng", name, &argv, 30)
        })
        .collect())
}

/// Runs the tests natively and under the runner on `jobs` threads; without a runner natively only. `tell` hears of each.
pub fn run(tests: &[Test], runner: Option<&Runner>, jobs: usize, tell: impl Fn(&Row) + Sync) -> Vec<Row> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = one(test, runner);
                    tell(&row);
                    rows.lock().expect("no worker panics with the list").push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no worker panics with the list");
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn one(test: &Test, runner: Option<&Runner>) -> Row {
    let argv: Vec<&str> = test.argv.iter().map(String::as_str).collect();
    let here = native(&argv, b"", Duration::from_secs(test.limit));
    let there = runner.filter(|_| matches!(here.status, Some(0))).map(|runner| {
        let words: Vec<&str> = runner.prefix.iter().map(String::as_str).chain(argv.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        outcome::run(command, b"", Duration::from_secs(test.limit * 4))
    });
    let (result, detail) = verdict(&here, there.as_ref());
    Row { name: test.name.clone(), syscall: String::new(), result, detail }
}

fn verdict(here: &Outcome, there: Option<&Outcome>) -> (Verdict, String) {
    match (here.status, there.map(|there| there.status)) {
        (Some(NOT_CONFIGURED), _) => (Verdict::Skip, "it needs something that is not here".to_owned()),
        (None, _) => (Verdict::Skip, "takes too long natively".to_owned()),
        (Some(0), None | Some(Some(0))) => (Verdict::Pass, String::new()),
        (Some(0), Some(None)) => (Verdict::Timeout, last_words(there)),
        (Some(0), Some(Some(status))) => {
            (Verdict::Fail, format!("exit status {status}\n{}", last_words(there)))
        }
        (Some(status), _) => (Verdict::Skip, format!("exit status {status} natively")),
    }
}

/// The end of what a run said.
fn last_words(run: Option<&Outcome>) -> String {
    const LINES: usize = 12;
    let Some(run) = run else { return String::new() };
    let text = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr_text();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<i32>) -> Outcome {
        Outcome { status, stdout: b"said\n".to_vec(), stderr: Vec::new() }
    }

    #[test]
    fn a_runtest_file_gives_a_test_for_each_line() {
        let tests = runtest("# comment\n\nabort01 abort01\nread02\tread02 -x 1\n", "/opt/ltp");
        assert_eq!(tests.len(), 2);
        assert_eq!(tests[1].name, "ltp/read02");
        assert!(tests[1].argv[2].ends_with("; read02 -x 1; exit $?"), "{:?}", tests[1].argv);
    }

    #[test]
    fn what_fails_natively_is_skipped_and_what_fails_only_there_fails() {
        assert_eq!(verdict(&ended(Some(1)), None).0, Verdict::Skip);
        assert_eq!(verdict(&ended(Some(32)), None).0, Verdict::Skip);
        assert_eq!(verdict(&ended(Some(0)), Some(&ended(Some(0)))).0, Verdict::Pass);
        let (result, detail) = verdict(&ended(Some(0)), Some(&ended(Some(2))));
        assert_eq!((result, detail.as_str()), (Verdict::Fail, "exit status 2\nsaid"));
        assert_eq!(verdict(&ended(Some(0)), Some(&ended(None))).0, Verdict::Timeout);
    }

    #[test]
    fn an_unknown_suite_is_named() {
        assert!(super::tests("nonesuch").is_err_and(|e| e.contains("nonesuch")));
    }
}
