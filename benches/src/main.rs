//! Native and in the sandbox, side by side: `ringfence-benches [--micro] [--ringfence PATH] [--rounds N] [--only NAME]`.
//! Whole programs, or with `--micro` single operations (`micro.rs`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

mod micro;

/// The search path of both sides: Debian's own programs.
const PATH: &str = "/usr/bin:/bin";

/// One row: its name, the program, and at most how many rounds it is worth.
struct Row {
    name: &'static str,
    argv: Vec<String>,
    rounds: usize,
}

struct Options {
    micro: bool,
    ringfence: PathBuf,
    rounds: usize,
    only: Option<String>,
}

fn main() -> ExitCode {
    match options(std::env::args_os().skip(1)).and_then(|o| if o.micro { micro::run(&o) } else { run(&o) }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("benches: {e}");
            ExitCode::from(2)
        }
    }
}

fn options(mut args: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let exe = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let mut options =
        Options { micro: false, ringfence: exe.with_file_name("ringfence"), rounds: 0, only: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{}: a value is missing", arg.display()));
        match arg.to_str() {
            Some("--micro") => options.micro = true,
            Some("--ringfence") => options.ringfence = value()?.into(),
            Some("--rounds") => {
                let text = value()?;
                let rounds = text.to_str().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                options.rounds =
                    rounds.ok_or_else(|| format!("--rounds {}: not a number", text.display()))?;
            }
            Some("--only") => options.only = Some(value()?.to_string_lossy().into_owned()),
            _ => {
                return Err(format!(
                    "{}: unknown option (there are --micro, --ringfence PATH, --rounds N, --only NAME)",
                    arg.display()
                ));
            }
        }
    }
    if options.rounds == 0 {
        options.rounds = if options.micro { 5 } else { 30 };
    }
    if !options.ringfence.is_file() {
        return Err(format!(
            "{}: not there: cargo build --release --bin ringfence, or give --ringfence PATH",
            options.ringfence.display()
        ));
    }
    Ok(options)
}

/// The rows. Standard input is a file of 64 MiB, so both sides read the host's page cache.
fn rows() -> Vec<Row> {
    let row = |name, argv: &[&str], rounds| Row {
        name,
        argv: argv.iter().map(|s| (*s).to_owned()).collect(),
        rounds,
    };
    vec![
        row("true", &["/bin/true"], usize::MAX),
        row("python_pass", &["/usr/bin/python3", "-c", "pass"], usize::MAX),
        row(
            "cpu_loop",
            &["/usr/bin/python3", "-c", "s = 0\nfor i in range(5000000): s += i * i\nprint(s)"],
            9,
        ),
        row("sha256_64MiB", &["/usr/bin/sha256sum"], 9),
        row(
            "fork_exec_50",
            &["/bin/sh", "-c", "i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i+1)); done"],
            9,
        ),
    ]
}

/// Runs all rows and prints the table; false when a row failed.
fn run(options: &Options) -> Result<bool, String> {
    let data = Data::new().map_err(|e| format!("the file of 64 MiB: {e}"))?;
    let rows: Vec<_> =
        rows().into_iter().filter(|row| options.only.as_ref().is_none_or(|only| only == row.name)).collect();
    if rows.is_empty() {
        return Err("--only: no row has this name".to_owned());
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("commit {}, {cores} cores, wall times in ms, native then ringfence", commit());
    println!(
        "{:<14}{:>4}{:>10}{:>10}{:>10}{:>11}{:>10}{:>10}{:>9}{:>10}",
        "row", "n", "least", "median", "p99", "least", "median", "p99", "ratio", "more"
    );
    let mut all_ran = true;
    for row in &rows {
        match measure(row, options, data.path()) {
            Ok((native, ringfence)) => print_row(row.name, &native, &ringfence),
            Err(e) => {
                println!("{:<14}failed: {e}", row.name);
                all_ran = false;
            }
        }
    }
    Ok(all_ran)
}

/// Sorted times of both sides, run in turns; the first round of each is not counted.
fn measure(row: &Row, options: &Options, data: &Path) -> Result<(Vec<Duration>, Vec<Duration>), String> {
    let (mut native_times, mut ringfence_times) = (Vec::new(), Vec::new());
    let mut sandboxed_argv = vec![options.ringfence.to_string_lossy().into_owned()];
    sandboxed_argv.extend(["run".to_owned(), "--".to_owned()]);
    sandboxed_argv.extend(row.argv.iter().cloned());
    for round in 0..=options.rounds.min(row.rounds) {
        let (native_time, native) = once(&row.argv, data)?;
        let (ringfence_time, ringfence) = once(&sandboxed_argv, data)?;
        if !native.status.success() {
            return Err(format!("natively: {}", native.status));
        }
        if ringfence.status != native.status || ringfence.stdout != native.stdout {
            let text = String::from_utf8_lossy(&ringfence.stderr);
            let line = text.lines().next().unwrap_or("the output differs");
            return Err(format!("in the sandbox: {}: {line}", ringfence.status));
        }
        if round > 0 {
            native_times.push(native_time);
            ringfence_times.push(ringfence_time);
        }
    }
    native_times.sort_unstable();
    ringfence_times.sort_unstable();
    Ok((native_times, ringfence_times))
}

fn once(argv: &[String], data: &Path) -> Result<(Duration, Output), String> {
    let stdin = std::fs::File::open(data).map_err(|e| format!("{}: {e}", data.display()))?;
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().env("PATH", PATH).current_dir("/");
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().map_err(|e| format!("{}: {e}", argv[0]))?;
    Ok((started.elapsed(), output))
}

/// The value below which `percent` of the sorted times lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank.min(sorted.len()) - 1]
}

fn print_row(name: &str, native: &[Duration], ringfence: &[Duration]) {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let (native_median, median) = (ms(percentile(native, 50)), ms(percentile(ringfence, 50)));
    println!(
        "{name:<14}{:>4}{:>10.2}{native_median:>10.2}{:>10.2}{:>11.2}{median:>10.2}{:>10.2}{:>9.3}{:>10.2}",
        native.len(),
        ms(native[0]),
        ms(percentile(native, 99)),
        ms(ringfence[0]),
        ms(percentile(ringfence, 99)),
        median / native_median,
        median - native_median,
    );
}

/// The commit that the folder is at, marked when files differ from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(name) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => name,
        _ => format!("{name}, changed"),
    }
}

/// A file of 64 MiB that goes away with its owner.
struct Data(PathBuf);

impl Data {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringfence-benches-{}", std::process::id()));
        let bytes: Vec<u8> = (0..64u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let data = Self(path);
        std::fs::write(&data.0, bytes)?;
        Ok(data)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // A file left in the temporary folder is no reason to fail.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_three_is_the_middle_one() {
        let sorted = [1, 2, 9].map(Duration::from_millis);
        assert_eq!(percentile(&sorted, 50), Duration::from_millis(2));
        assert_eq!(percentile(&sorted, 99), Duration::from_millis(9));
    }
}
