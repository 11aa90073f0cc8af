//! The filter on ringfence itself: what has a row works, what has none ends the process and says so.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use ringfence_host::filter::{Needs, confine};

const DEED: &str = "RINGFENCE_TEST_DEED";

/// Runs this test program again, confined, to do one deed.
fn confined(deed: &str) -> Output {
    let me = std::env::current_exe().expect("this program has a path");
    let args = ["--exact", "does_the_deed", "--nocapture", "--test-threads=1"];
    Command::new(me).args(args).env(DEED, deed).output().expect("this program starts")
}

/// Not a test of its own: the confined process of the others.
#[test]
fn does_the_deed() {
    let Ok(deed) = std::env::var(DEED) else { return };
    confine(Needs::default()).expect("the host has seccomp");
    match deed.as_str() {
        "thread" => {
            let answer = std::thread::spawn(|| std::fs::read("/etc/hostname").is_ok()).join();
            println!("thread: {}", answer.is_ok());
        }
        "program" => drop(Command::new("/bin/true").status()),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "write" => drop(std::fs::write("/tmp/ringfence-must-not-be", "")),
        other => panic!("unknown deed {other}"),
    }
}

#[track_caller]
fn assert_refused(deed: &str, number: i64) {
    let output = confined(deed);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{deed}: {text}");
    let line = text.lines().find(|line| line.starts_with("ringfence: ")).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.contains(&number.to_string().as_str()), "{deed}: does not name call {number}: {text}");
}

#[test]
fn threads_and_reads_work() {
    let output = confined("thread");
    assert!(String::from_utf8_lossy(&output.stdout).contains("thread: true"), "{output:?}");
}

#[test]
fn sockets_are_refused() {
    assert_refused("socket", libc::SYS_socket);
}

#[test]
fn files_are_not_opened_for_writing() {
    assert_refused("write", libc::SYS_openat);
    assert!(!std::path::Path::new("/tmp/ringfence-must-not-be").exists());
}

#[test]
fn no_program_starts() {
    // The C library blocks signals there, so that SIGSYS itself may be the end.
    let status = confined("program").status;
    assert!(status.code() == Some(125) || status.signal() == Some(libc::SIGSYS), "{status:?}");
}
