//! The conformance suite (`tests/guest/AREA/FILE.c`): natively first, since the host kernel is the oracle, then in the
//! sandbox; what the cases print must match. `tests/guest/hostile` is only run in the sandbox, which must survive it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringfence_tests::conformance::compile::{cache, compile};
use ringfence_tests::conformance::measure::{Plan, measure};
use ringfence_tests::conformance::random::Search;
use ringfence_tests::conformance::results::judge;
use ringfence_tests::conformance::run::Runner;
use ringfence_tests::conformance::suite;
use ringfence_tests::known::Known;
use ringfence_tests::outcome::{run, sandboxed};
use ringfence_tests::{have_kvm, have_program, loud, ringfence, workspace};

/// Seconds that a case may take: generous, since other tests run beside it.
const LIMIT: u64 = 30;

fn area_matches(area: &str) {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let prefix = [&ringfence().to_string_lossy(), "run", "--cwd", "/", "--"].map(str::to_owned).to_vec();
    let plan = Plan {
        sources: suite::sources(area).expect("the area's folder"),
        runner: Some(Runner { prefix, limit: LIMIT }),
        filters: Vec::new(),
        jobs: 1,
        native_runs: 1,
        limit: LIMIT,
        progress: false,
    };
    let mut rows = measure(&plan).expect("the suite runs");
    assert!(!rows.is_empty(), "{area}: no cases");
    let judged = judge("guest", &mut rows, &Known::load());
    if !judged.known.is_empty() {
        loud(&format!("{area}: {} known failures of {} cases", judged.known.len(), rows.len()));
    }
    // Loud, not wrong: who mends a case that somebody else's change also touches shall not find the tests broken.
    for name in &judged.mended {
        loud(&format!("unexpected pass: {name}: delete its line in tests/known-failures.txt"));
    }
    let wrong: Vec<String> =
        judged.unexpected.iter().map(|row| format!("{}: {}", row.name, row.detail)).collect();
    assert!(wrong.is_empty(), "differs from the native run:\n{}", wrong.join("\n"));
}

/// A test for each area, and the list of them.
macro_rules! areas {
    ($($area:ident)*) => {
        $(#[test]
        fn $area() {
            area_matches(stringify!($area));
        })*

        const AREAS: &[&str] = &[$(stringify!($area)),*];
    };
}

areas! { cred files ipc memory misc patch paths poll proc process ptrace sched signals sock sockets time timers traps tty uring }

#[test]
fn every_area_has_its_test() {
    assert_eq!(suite::areas().expect("tests/guest"), AREAS, "the list of areas in tests/tests/guest.rs");
}

#[test]
fn known_failures_name_cases_that_exist() {
    if !have_program("cc") {
        return;
    }
    let cache = cache().expect("the folder for programs");
    let mut names = Vec::new();
    for area in AREAS {
        for source in suite::sources(area).expect("the area's folder") {
            let program = suite::program(&source, &cache).expect("the program builds");
            names.extend(program.cases.iter().map(|case| format!("guest/{}", program.full_name(case))));
        }
    }
    for known in Known::load().names().filter(|name| name.starts_with("guest/")) {
        assert!(names.iter().any(|name| name == known), "known-failures.txt: no such case: {known}");
    }
    names.sort();
    let doubled: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(doubled.is_empty(), "cases of one name: {doubled:?}");
}

fn hostile(file: &str) -> PathBuf {
    let cache = cache().expect("the folder for programs");
    compile(&workspace().join("tests/guest/hostile").join(file), &cache).expect("the program builds")
}

#[test]
fn random_system_calls_do_not_end_the_sandbox() {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let seconds = std::env::var("RINGFENCE_HOSTILE_SECONDS").unwrap_or_else(|_| "6".to_owned());
    let limit =
        Duration::from_secs(seconds.parse::<u64>().expect("RINGFENCE_HOSTILE_SECONDS is a number") + 60);
    let program = hostile("random_syscalls.c");
    let program = program.to_str().expect("a path in UTF-8");
    for seed in ["1", "20"] {
        let outcome = sandboxed(&[program, &seconds, seed], b"", limit);
        assert_eq!(outcome.stdout, b"survived\n", "seed {seed}: {}", outcome.stderr_text());
    }
}

/// The same seeds each time; `RINGFENCE_RANDOM_SECONDS=600` is the long run.
#[test]
fn random_programs_behave_as_natively() {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let seconds = std::env::var("RINGFENCE_RANDOM_SECONDS").unwrap_or_else(|_| "8".to_owned());
    let time = Duration::from_secs(seconds.parse().expect("RINGFENCE_RANDOM_SECONDS is a number"));
    let prefix = [&ringfence().to_string_lossy(), "run", "--"].map(str::to_owned);
    let search =
        Search::new(&prefix, &cache().expect("the folder for programs")).expect("the program builds");
    let mut found = Vec::new();
    let ran = search
        .run(1, time, |difference| {
            if difference.repeats {
                found.push(format!("{}\n{}", difference.command(), difference.detail));
            } else {
                loud(&format!("random programs: {}: {}", difference.command(), difference.detail));
            }
        })
        .expect("the programs run");
    assert!(ran > 0 && found.is_empty(), "{} of {ran} differ:\n{}", found.len(), found.join("\n"));
}

/// `RINGFENCE_STRESS_SECONDS=600` is the long run.
#[test]
fn contended_locks_lose_no_wake_up() {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let seconds = std::env::var("RINGFENCE_STRESS_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let limit =
        Duration::from_secs(seconds.parse::<u64>().expect("RINGFENCE_STRESS_SECONDS is a number") + 240);
    let program = hostile("futex_stress.c");
    let program = program.to_str().expect("a path in UTF-8");
    let outcome = sandboxed(&[program, &seconds], b"", limit);
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "done\n", "{}", outcome.stderr_text());
}

/// A hostile program in the sandbox, with limits for it to run into: it must be able to say that it survived.
fn survives(file: &str, arguments: &[&str], limit: Duration) {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let mut command = Command::new(ringfence());
    command.args(["run", "--memory", "2G", "--pids", "1000", "--"]).arg(hostile(file)).args(arguments);
    let outcome = run(command, b"", limit);
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, "survived\n", "{file}: status {:?}: {}", outcome.status, outcome.stderr_text());
}

#[test]
fn arguments_that_change_while_they_are_read_do_not_end_the_sandbox() {
    survives("changing_arguments.c", &["4"], Duration::from_secs(120));
}

#[test]
fn a_lying_server_of_files_harms_only_its_clients() {
    for seed in ["1", "7"] {
        survives("fuse_liar.c", &["4", seed], Duration::from_secs(120));
    }
}

#[test]
fn malformed_programs_do_not_end_the_sandbox() {
    survives("bad_elf.c", &["4", "1"], Duration::from_secs(120));
}

#[test]
fn what_uses_everything_up_does_not_end_the_sandbox() {
    for name in [
        "descriptors",
        "pipes",
        "timers",
        "processes",
        "threads",
        "queued signals",
        "nested epoll",
        "in flight",
    ] {
        survives("exhaustion.c", &[name], Duration::from_secs(120));
    }
}

#[test]
fn the_memory_limit_ends_the_process_that_breaks_it() {
    if !have_kvm() || !have_program("cc") {
        return;
    }
    let program = hostile("eats_memory.c");
    let mut command = Command::new(ringfence());
    command.args(["run", "--memory", "64M", "--"]).arg(program);
    let outcome = run(command, b"", Duration::from_secs(60));
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, "child ended by signal 9\nparent lives\n", "{}", outcome.stderr_text());
    assert_eq!(outcome.status, Some(0));
}
