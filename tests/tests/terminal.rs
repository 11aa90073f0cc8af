//! The terminal that ringfence is started on: the same dialogue natively and in the sandbox must give the same transcript.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringfence_tests::outcome::run;
use ringfence_tests::{PATH, have_kvm, have_program, ringfence, workspace};

fn driver() -> PathBuf {
    workspace().join("tests/pty/dialogue.py")
}

/// Holds dialogue `name` with what runs behind `prefix`.
fn dialogue(name: &str, prefix: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.arg(driver()).arg(name).args(prefix).env("PATH", PATH);
    let outcome = run(command, b"", Duration::from_secs(150));
    assert_eq!(outcome.status, Some(0), "{name} {prefix:?}: {}", outcome.stderr_text());
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

fn same(name: &str, programs: &[&str]) {
    if !have_kvm() || !programs.iter().all(|p| have_program(p)) || !have_program("python3") {
        return;
    }
    let ringfence = ringfence().to_str().expect("a path in UTF-8");
    let native = dialogue(name, &[]);
    let ours = dialogue(name, &[ringfence, "run", "--"]);
    assert_eq!(ours, native, "{name}: the transcript differs from the native one (right)");
}

#[test]
fn job_control_of_a_shell() {
    same("bash", &["bash", "ps", "stty"]);
}

#[test]
fn an_interactive_python() {
    same("python", &["python3"]);
}

#[test]
fn an_interrupt_ends_the_program() {
    same("interrupt", &["sleep"]);
}

#[test]
fn an_interrupt_runs_a_handler() {
    same("handler", &["bash"]);
}

#[test]
fn lines_and_their_end() {
    same("cat", &["cat"]);
}

#[test]
fn raw_mode() {
    same("raw", &["stty", "od"]);
}

#[test]
fn a_terminal_in_the_terminal() {
    same("script", &["script"]);
}

#[test]
fn a_hang_up() {
    same("hang-up", &["sh"]);
}
