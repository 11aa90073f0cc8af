//! The command line's bad cases: one clear line on standard error, and the exit status of `docs/usage.md`.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use ringfence_tests::outcome::{Outcome, run};
use ringfence_tests::{have_kvm, have_program, ringfence, scratch};

const LIMIT: Duration = Duration::from_secs(60);

fn ringfence_with(args: &[&str]) -> Outcome {
    let mut command = Command::new(ringfence());
    command.args(args);
    run(command, b"", LIMIT)
}

/// ringfence's own failure: nothing on standard output, one line with its prefix, and the status.
#[track_caller]
fn assert_fails(args: &[&str], status: i32, mentions: &str) {
    let outcome = ringfence_with(args);
    let text = outcome.stderr_text();
    assert_eq!(outcome.status, Some(status), "{args:?}: {text}");
    assert!(outcome.stdout.is_empty(), "{args:?}: something on standard output");
    assert!(text.starts_with("ringfence: "), "{args:?}: no prefix: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: not one line: {text}");
    assert!(text.contains(mentions), "{args:?}: does not mention {mentions:?}: {text}");
}

/// A file of the test's own, with the given mode.
fn file(name: &str, contents: &[u8], mode: u32) -> String {
    let path = scratch().join(name);
    std::fs::write(&path, contents).expect("the file can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("the mode can be set");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_program_that_is_not_there_is_127() {
    if have_kvm() {
        assert_fails(&["run", "--", "/no/such/program"], 127, "/no/such/program");
        assert_fails(&["run", "--", "no-such-program-in-path"], 127, "no-such-program-in-path");
    }
}

#[test]
fn a_program_that_may_not_be_executed_is_126() {
    if have_kvm() {
        let path = file("not-executable", b"#!/bin/sh\n", 0o644);
        assert_fails(&["run", "--", &path], 126, &path);
        assert_fails(&["run", "--", "/etc"], 126, "/etc");
    }
}

#[test]
fn a_program_that_is_no_elf_file_is_126() {
    if have_kvm() {
        let path = file("not-an-elf", b"\x00\x01\x02\x03 nothing that runs", 0o755);
        assert_fails(&["run", "--", &path], 126, &path);
        let path = file("cut-off-elf", b"\x7fELF\x02\x01\x01", 0o755);
        assert_fails(&["run", "--", &path], 126, &path);
    }
}

#[test]
fn a_script_whose_interpreter_is_missing_is_127() {
    if have_kvm() {
        let path = file("no-interpreter", b"#!/no/such/interpreter\n", 0o755);
        assert_fails(&["run", "--", &path], 127, "no-interpreter");
    }
}

#[test]
fn an_unknown_option_is_125() {
    assert_fails(&["run", "--no-such-option", "--", "/bin/true"], 125, "--no-such-option");
    assert_fails(&["--no-such-option"], 125, "--no-such-option");
    assert_fails(&["no-such-command"], 125, "no-such-command");
}

#[test]
fn a_value_that_means_nothing_is_125() {
    assert_fails(&["run", "--platform", "abacus", "--", "/bin/true"], 125, "abacus");
    assert_fails(&["run", "--memory", "plenty", "--", "/bin/true"], 125, "plenty");
}

#[test]
fn no_program_is_125() {
    assert_fails(&["run"], 125, "PROGRAM");
}

#[test]
fn a_root_that_is_not_there_is_125() {
    if have_kvm() {
        assert_fails(&["run", "--root", "/no/such/root", "--", "/bin/true"], 125, "/no/such/root");
    }
}

#[test]
fn a_device_that_is_missing_is_125_and_says_what_to_do() {
    assert_fails(
        &["run", "--platform", "kvm", "--kvm-device", "/nonexistent", "--", "/bin/true"],
        125,
        "/nonexistent",
    );
}

#[test]
fn a_device_that_is_not_kvm_is_125() {
    assert_fails(
        &["run", "--platform", "kvm", "--kvm-device", "/dev/null", "--", "/bin/true"],
        125,
        "/dev/null",
    );
}

#[test]
fn a_device_without_permission_is_125() {
    // Root may open anything.
    if have_program("setpriv") && is_root() && std::fs::metadata(ringfence()).is_ok() {
        let copy = std::env::temp_dir().join(format!("ringfence-test-{}", std::process::id()));
        std::fs::copy(ringfence(), &copy).expect("the binary can be copied");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(&copy).args(["run", "--", "/bin/true"]);
        let outcome = run(command, b"", LIMIT);
        std::fs::remove_file(&copy).expect("the copy can be removed");
        let text = outcome.stderr_text();
        if outcome.status == Some(0) {
            // The device is open to everybody here.
            return;
        }
        assert_eq!(outcome.status, Some(125), "{text}");
        assert!(text.starts_with("ringfence: ") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn too_few_descriptors_is_125_or_works() {
    if have_kvm() {
        for limit in [3, 4, 5, 6, 8, 12] {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" run -- /bin/true")])
                .arg(ringfence());
            let outcome = run(command, b"", LIMIT);
            let text = outcome.stderr_text();
            match outcome.status {
                Some(0) => {}
                // The dynamic linker needs a descriptor before ringfence runs.
                Some(127) if !text.starts_with("ringfence: ") => {}
                Some(125) => {
                    assert!(text.starts_with("ringfence: ") && text.lines().count() == 1, "{limit}: {text}");
                }
                status => panic!("{limit} descriptors: {status:?}: {text}"),
            }
        }
    }
}

/// Runs `/bin/true` on systrap by a shell that sets limits first; says what helps where that does not work.
fn with_limit(limit: &str) -> (Option<i32>, String) {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{limit}; exec \"$0\" run --platform systrap -- /bin/true")])
        .arg(ringfence());
    let outcome = run(command, b"", LIMIT);
    (outcome.status, outcome.stderr_text())
}

#[test]
fn what_a_host_forbids_is_one_line_with_the_remedy() {
    for (limit, help) in [("ulimit -n 12", "ulimit -n"), ("ulimit -v 4000000", "ulimit -v")] {
        let (status, text) = with_limit(limit);
        assert_eq!(status, Some(125), "{limit}: {text}");
        assert!(text.starts_with("ringfence: ") && text.lines().count() == 1, "{limit}: {text}");
        assert!(text.contains(help), "{limit}: {text}");
    }
}

#[test]
fn systrap_needs_no_privileges() {
    if have_program("setpriv") && is_root() {
        let copy = std::env::temp_dir().join(format!("ringfence-user-{}", std::process::id()));
        std::fs::copy(ringfence(), &copy).expect("the binary can be copied");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(["--bounding-set=-all", "--no-new-privs", "--"]).arg(&copy);
        command.args(["run", "--platform", "systrap", "--", "/bin/echo", "works"]);
        let outcome = run(command, b"", LIMIT);
        std::fs::remove_file(&copy).expect("the copy can be removed");
        assert_eq!(outcome.status, Some(0), "{}", outcome.stderr_text());
    }
}

#[test]
fn a_fatal_signal_is_128_and_its_number() {
    if have_kvm() {
        for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("ABRT", 6), ("USR1", 10)] {
            let outcome = ringfence_with(&["run", "--", "/bin/sh", "-c", &format!("kill -{name} $$")]);
            assert_eq!(outcome.status, Some(128 + number), "{name}: {}", outcome.stderr_text());
        }
    }
}

#[test]
fn the_exit_status_is_the_programs_own() {
    if have_kvm() {
        for status in [0, 1, 42, 125, 255] {
            let outcome = ringfence_with(&["run", "--", "/bin/sh", "-c", &format!("exit {status}")]);
            assert_eq!(outcome.status, Some(status), "{}", outcome.stderr_text());
            assert!(outcome.stderr.is_empty(), "{}", outcome.stderr_text());
        }
    }
}

#[test]
fn check_prints_json() {
    if have_kvm() {
        let outcome = ringfence_with(&["check", "--json"]);
        assert_eq!(outcome.status, Some(0), "{}", outcome.stderr_text());
        let value: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
        assert_eq!(value["platforms"]["kvm"]["usable"], true, "{value}");
        assert!(value["platforms"]["kvm"]["costs_ns"]["syscall"].as_u64() > Some(0), "{value}");
    }
}

#[test]
fn help_and_version_are_0() {
    for args in [["--help"], ["--version"]] {
        let outcome = ringfence_with(&args);
        assert_eq!(outcome.status, Some(0), "{args:?}: {}", outcome.stderr_text());
        assert!(!outcome.stdout.is_empty(), "{args:?}: nothing printed");
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

#[test]
fn limits_creation_mask_and_nice_value_are_inherited() {
    if !have_kvm() || !have_program("bash") {
        return;
    }
    let shown = |runner: &[&str]| {
        let set =
            "ulimit -Sn 321; ulimit -Hn 3210; ulimit -s 4096; ulimit -c 7; umask 027; exec nice -n 3 \"$@\"";
        let show = "ulimit -Sn; ulimit -Hn; ulimit -s; ulimit -c; umask; nice";
        let mut command = Command::new("/bin/bash");
        command.args(["-c", set, "bash"]).args(runner).args(["/bin/bash", "-c", show]);
        String::from_utf8_lossy(&run(command, b"", LIMIT).stdout).into_owned()
    };
    let natively = shown(&[]);
    assert!(natively.starts_with("321\n3210\n4096\n7\n0027\n"), "{natively}");
    let ringfence = ringfence();
    assert_eq!(shown(&[ringfence.to_str().expect("a path in UTF-8"), "run", "--"]), natively);
}

#[test]
fn every_thread_is_behind_the_filter() {
    if !have_kvm() || !have_program("sleep") {
        return;
    }
    let mut child =
        Command::new(ringfence()).args(["run", "--", "/bin/sleep", "20"]).spawn().expect("ringfence starts");
    let tasks = format!("/proc/{}/task", child.id());
    let is_confined = |status: String| status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1");
    let confined = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let folders: Vec<_> = std::fs::read_dir(&tasks).expect("it lives").flatten().collect();
        folders.len() > 1
            && folders.iter().all(|f| std::fs::read_to_string(f.path().join("status")).is_ok_and(is_confined))
    });
    child.kill().expect("it can be killed");
    child.wait().expect("it is ours");
    assert!(confined, "a thread of ringfence runs without the filter");
}

#[test]
fn the_page_of_system_calls_is_current() {
    let outcome = ringfence_with(&["syscalls", "--markdown"]);
    let stored =
        std::fs::read(ringfence_tests::workspace().join("docs/syscalls.md")).expect("the page is there");
    assert!(outcome.stdout == stored, "run: ringfence syscalls --markdown >docs/syscalls.md");
}
