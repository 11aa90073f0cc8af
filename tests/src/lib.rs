//! Integration tests of the `ringfence` binary: what they share.
//!
//! `lib.rs` finds the binary and says what is skipped; `outcome.rs` runs a command within a time limit and compares two
//! runs; `known.rs` reads the list of known failures; `conformance/` is the suite of guest programs. `tests/layers.rs` checks the dependencies of the crates,
//! `tests/programs.rs` compares real programs with native runs, `tests/cli.rs` tries the command line's bad cases.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub mod conformance;
pub mod known;
pub mod outcome;

/// The search path of every program that a test runs: Debian's own programs, not a user's.
pub const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Whether `program` is the binary under test, or one of its name. Unlike [`ringfence`] it builds nothing.
fn is_ringfence(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "ringfence")
        || BINARY.get().is_some_and(|binary| binary == program)
}

/// The binary under test: `$RINGFENCE`, or the one beside this test, brought up to date once.
///
/// # Panics
/// When it does not build.
pub fn ringfence() -> &'static Path {
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("RINGFENCE") {
            return path.into();
        }
        let profile_dir = profile_dir();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).args(["build", "--quiet", "--bin", "ringfence"]);
        if profile_dir.ends_with("release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(profile_dir.parent().expect("a profile's folder has a parent"));
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "cargo build --bin ringfence: {status}");
        profile_dir.join("ringfence")
    })
}

/// `target/debug` or `target/release`: tests lie in its folder `deps`.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the test knows its own path");
    exe.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// A folder for programs that tests build, the same at every run.
///
/// # Panics
/// When it cannot be made.
pub fn scratch() -> PathBuf {
    let dir = profile_dir().join("test-programs");
    std::fs::create_dir_all(&dir).expect("the folder for test programs can be made");
    dir
}

/// Whether guests can run: `/dev/kvm` can be opened, or `RINGFENCE_PLATFORM` asks for a platform that needs none. Says
/// loudly that the test is skipped when they cannot.
pub fn have_kvm() -> bool {
    if std::env::var_os("RINGFENCE_PLATFORM").is_some_and(|platform| platform == "systrap") {
        return true;
    }
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(e) => {
            skipped("no /dev/kvm", &e.to_string());
            false
        }
    }
}

/// Whether `name` is in [`PATH`] (or is there, when it is a path); says loudly that the test is skipped when it is not.
pub fn have_program(name: &str) -> bool {
    let found = if name.contains('/') {
        Path::new(name).exists()
    } else {
        PATH.split(':').any(|dir| Path::new(dir).join(name).exists())
    };
    if !found {
        skipped(&format!("no {name}"), "install it with .ci/install");
    }
    found
}

/// Says that a test is skipped, past the test harness's capture of the output.
pub fn skipped(why: &str, more: &str) {
    loud(&format!("skipped: {why} ({more})"));
}

/// Writes a line that is seen even when the test passes: the harness captures `eprintln!`, not the stream itself.
pub fn loud(line: &str) {
    use std::io::Write as _;
    // Nobody to tell when standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
