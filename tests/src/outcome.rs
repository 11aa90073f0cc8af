//! Running a command within a time limit, and comparing a sandboxed run with a native one.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::{PATH, is_ringfence, ringfence};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status; 128+N after signal N, as a shell says it. None: it was killed at the time limit.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// The environment of every program that a test runs.
pub const ENVIRONMENT: [(&str, &str); 4] = [("PATH", PATH), ("HOME", "/tmp"), ("LC_ALL", "C"), ("TZ", "UTC")];

/// How long the rest of the output may take after the command has ended: something may still hold the pipe.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs `argv` on the host.
pub fn native(argv: &[&str], stdin: &[u8], limit: Duration) -> Outcome {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    run(command, stdin, limit)
}

/// Runs `argv` in a fresh sandbox, with the same environment.
pub fn sandboxed(argv: &[&str], stdin: &[u8], limit: Duration) -> Outcome {
    let mut command = Command::new(ringfence());
    command.arg("run").args(["--cwd", "/"]);
    for (key, value) in ENVIRONMENT {
        command.arg("--env").arg(format!("{key}={value}"));
    }
    command.arg("--").args(argv);
    run(command, stdin, limit)
}

/// Runs a command in a process group of its own, with [`ENVIRONMENT`] and `/` as its folder; kills the whole group at
/// the limit.
///
/// # Panics
/// When the command cannot be started.
pub fn run(mut command: Command, stdin: &[u8], limit: Duration) -> Outcome {
    command
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if is_ringfence(Path::new(command.get_program()))
        && let Some(platform) = std::env::var_os("RINGFENCE_PLATFORM")
    {
        command.env("RINGFENCE_PLATFORM", platform);
    }
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    if let Some(mut pipe) = child.stdin.take() {
        let bytes = stdin.to_vec();
        // A program may end without reading its input: EPIPE is its right.
        thread::spawn(move || drop(pipe.write_all(&bytes)));
    }
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let status = wait(&mut child, limit);
    if status.is_none() {
        kill_group(&child);
    }
    let outcome = Outcome { status, stdout: drain(stdout), stderr: drain(stderr) };
    if status.is_none() {
        // Killed: reap it.
        let _ = child.wait();
    }
    outcome
}

/// Reads a stream to its end on another thread, which hands over piece by piece.
fn collect(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n) = stream.read(&mut piece) {
            if n == 0 || send.send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

fn drain(output: Option<Receiver<Vec<u8>>>) -> Vec<u8> {
    let deadline = Instant::now() + DRAIN;
    let mut bytes = Vec::new();
    if let Some(output) = output {
        while let Ok(piece) = output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            bytes.extend(piece);
        }
    }
    bytes
}

fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            return status.code().or_else(|| status.signal().map(|n| 128 + n));
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn kill_group(child: &Child) {
    let killed = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
    assert!(killed.is_ok_and(|status| status.success()), "process group {} cannot be killed", child.id());
}

/// Runs `argv` natively and in the sandbox and compares standard output, standard error and exit status. What Linux does
/// may depend on chance, so where they differ the host is asked again, never the sandbox.
///
/// # Errors
/// What differs, for people.
pub fn same_as_native(argv: &[&str], stdin: &[u8], limit: Duration) -> Result<(), String> {
    /// Native runs at most beside the first one.
    const SAMPLES: usize = 3;
    let want = native(argv, stdin, limit);
    if want.status.is_none() {
        return Err(format!("the native run takes more than {limit:?}: the case is wrong"));
    }
    let got = sandboxed(argv, stdin, limit);
    if got.status.is_some() && want != got && (0..SAMPLES).any(|_| native(argv, stdin, limit) == got) {
        return Ok(());
    }
    let mut report = String::new();
    if want.status != got.status {
        let shown = got.status.map_or(format!("none within {limit:?}"), |n| n.to_string());
        report += &format!("exit status: {shown}, natively {}\n", want.status.unwrap_or(-1));
    }
    report += &diff("stdout", &want.stdout, &got.stdout);
    report += &diff("stderr", &want.stderr, &got.stderr);
    if report.is_empty() { Ok(()) } else { Err(report) }
}

/// Says where two outputs part: the first line that differs, two before it and some after it; empty when equal.
pub fn diff(name: &str, want: &[u8], got: &[u8]) -> String {
    const SHOWN: usize = 6;
    const WIDTH: usize = 200;
    if want == got {
        return String::new();
    }
    let lines = |bytes: &[u8]| -> Vec<String> {
        bytes.split_inclusive(|&b| b == b'\n').map(|l| l.escape_ascii().to_string()).collect()
    };
    let (want_lines, got_lines) = (lines(want), lines(got));
    let same = want_lines.iter().zip(&got_lines).take_while(|(a, b)| a == b).count();
    let mut out = format!("{name}: {} bytes, natively {}; from line {}:\n", got.len(), want.len(), same + 1);
    let mut put = |sign: char, lines: &[String]| {
        for line in lines {
            out.extend([' ', ' ', sign]);
            out.extend(line.chars().take(WIDTH));
            out.push('\n');
        }
    };
    put(' ', &want_lines[same.saturating_sub(2)..same]);
    put('-', &want_lines[same..want_lines.len().min(same + SHOWN)]);
    put('+', &got_lines[same..got_lines.len().min(same + SHOWN)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_128_and_its_number() {
        let outcome = native(&["/bin/sh", "-c", "kill -TERM $$"], b"", Duration::from_secs(10));
        assert_eq!(outcome.status, Some(143));
    }

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let outcome = native(&["/bin/cat"], b"a\nb\n", Duration::from_secs(10));
        assert_eq!((outcome.status, outcome.stdout), (Some(0), b"a\nb\n".to_vec()));
    }

    #[test]
    fn the_limit_ends_the_whole_group() {
        let started = Instant::now();
        let outcome = native(&["/bin/sh", "-c", "sleep 60; true"], b"", Duration::from_millis(100));
        assert_eq!(outcome.status, None);
        assert!(started.elapsed() < DRAIN);
    }

    #[test]
    fn a_difference_names_its_line() {
        assert_eq!(diff("stdout", b"a\nb\n", b"a\nb\n"), "");
        let text = diff("stdout", b"a\nb\n", b"a\nc\n");
        assert!(text.contains("from line 2") && text.contains("-b") && text.contains("+c"), "{text}");
    }
}
