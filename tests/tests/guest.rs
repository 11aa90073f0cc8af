//! Small guest programs (`tests/guest/AREA/NAME.c`): natively first, since the host kernel is the oracle, then in the
//! sandbox; the outputs must match. `tests/guest/hostile` is only run in the sandbox, which must survive it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringfence_tests::known::Known;
use ringfence_tests::outcome::{run, same_as_native, sandboxed};
use ringfence_tests::{have_kvm, have_program, loud, ringfence, scratch, workspace};

/// Compiles a guest program statically; the same binary runs on both kernels.
fn compile(source: &Path) -> PathBuf {
    let name = source.file_stem().unwrap_or_default();
    let area = source.parent().and_then(Path::file_name).unwrap_or_default();
    let dir = scratch().join("guest").join(area);
    std::fs::create_dir_all(&dir).expect("a folder for guest programs");
    let program = dir.join(name);
    let partial = dir.join(format!("{}.{}", name.to_string_lossy(), std::process::id()));
    let output = Command::new("gcc")
        .args(["-O1", "-g", "-static", "-pthread", "-Wall", "-Wno-unused-result", "-o"])
        .args([&partial, source])
        .output()
        .expect("gcc runs");
    assert!(output.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&partial, &program).expect("the program can be put in its place");
    program
}

fn sources(area: &str) -> Vec<PathBuf> {
    let dir = workspace().join("tests/guest").join(area);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut list: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "c")).collect();
    list.sort();
    assert!(!list.is_empty(), "{}: no programs", dir.display());
    list
}

fn area_matches(area: &str) {
    if !have_kvm() || !have_program("gcc") {
        return;
    }
    let (known, mut wrong) = (Known::load(), Vec::new());
    for source in sources(area) {
        let name = format!("guest/{area}/{}", source.file_stem().unwrap_or_default().to_string_lossy());
        let program = compile(&source);
        let program = program.to_str().expect("a path in UTF-8");
        let result = same_as_native(&[program], b"", Duration::from_secs(60));
        match (result, known.reason(&name)) {
            (Ok(()), None) => {}
            (Err(_), Some(reason)) => loud(&format!("known failure: {name}: {reason}")),
            (Ok(()), Some(_)) => {
                wrong.push(format!("{name}: passes: delete its line in tests/known-failures.txt"))
            }
            (Err(report), None) => wrong.push(format!("{name}:\n{report}")),
        }
    }
    assert!(wrong.is_empty(), "differs from the native run:\n{}", wrong.join("\n"));
}

#[test]
fn memory() {
    area_matches("memory");
}

#[test]
fn cred() {
    area_matches("cred");
}

#[test]
fn proc() {
    area_matches("proc");
}

#[test]
fn sched() {
    area_matches("sched");
}

#[test]
fn signals() {
    area_matches("signals");
}

#[test]
fn timers() {
    area_matches("timers");
}

#[test]
fn traps() {
    area_matches("traps");
}

#[test]
fn known_failures_name_programs_that_exist() {
    for known in Known::load().names().filter_map(|name| name.strip_prefix("guest/")) {
        let source = workspace().join("tests/guest").join(known).with_extension("c");
        assert!(source.is_file(), "known-failures.txt: no such program: guest/{known}");
    }
}

#[test]
fn random_system_calls_do_not_end_the_sandbox() {
    if !have_kvm() || !have_program("gcc") {
        return;
    }
    let seconds = std::env::var("RINGFENCE_HOSTILE_SECONDS").unwrap_or_else(|_| "6".to_owned());
    let limit =
        Duration::from_secs(seconds.parse::<u64>().expect("RINGFENCE_HOSTILE_SECONDS is a number") + 60);
    let program = compile(&workspace().join("tests/guest/hostile/random_syscalls.c"));
    let program = program.to_str().expect("a path in UTF-8");
    for seed in ["1", "20"] {
        let outcome = sandboxed(&[program, &seconds, seed], b"", limit);
        assert_eq!(outcome.stdout, b"survived\n", "seed {seed}: {}", outcome.stderr_text());
    }
}

#[test]
fn the_memory_limit_ends_the_process_that_breaks_it() {
    if !have_kvm() || !have_program("gcc") {
        return;
    }
    let program = compile(&workspace().join("tests/guest/hostile/eats_memory.c"));
    let mut command = Command::new(ringfence());
    command.args(["run", "--memory", "64M", "--"]).arg(program);
    let outcome = run(command, b"", Duration::from_secs(60));
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, "child ended by signal 9\nparent lives\n", "{}", outcome.stderr_text());
    assert_eq!(outcome.status, Some(0));
}
