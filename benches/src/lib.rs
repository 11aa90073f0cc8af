//! Native and in the sandbox, side by side: whole programs and single operations.
//!
//! In reading order: `target.rs` says what runs a program (the host's kernel, ringfence on each platform, others that are
//! installed; `crun.rs` makes a container of one), `rows.rs` what is run, `measure.rs` runs all targets in turns so that the load falls on all alike,
//! `results.rs` holds, stores and compares the times, `page.rs` prints the table, the plot and the page.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

mod crun;
pub mod measure;
pub mod page;
pub mod results;
pub mod rows;
pub mod target;

use results::Results;

/// Measures programs and single operations natively and under ringfence.
///
/// Exit status: 0 when all ran and nothing got slower beyond the noise, 1 otherwise, 2 when it could not start.
#[derive(Debug, Parser)]
#[command(name = "ringfence-benches", version)]
pub struct Options {
    /// Single operations instead of whole programs
    #[arg(long)]
    micro: bool,
    /// The binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    ringfence: Option<PathBuf>,
    /// Platforms of ringfence to measure, with commas [default: what `auto` chooses]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    platform: Vec<String>,
    /// How often each is run at most [default: 9, single operations 5]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds for all rounds of one program on all targets together
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    row_seconds: u64,
    /// Seconds for one run of one program; a target that needs longer is left out
    #[arg(long, value_name = "SECONDS", default_value_t = 12)]
    limit: u64,
    /// Only rows of these names (may be given more than once)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the times as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write table and plot into a page in Markdown; the plot goes beside it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Compare with a stored run, and fail when something got slower beyond the noise
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// The command line's work.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    match run(&Options::parse_from(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("ringfence-benches: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let targets = target::all(options.ringfence.clone(), &options.platform)?;
    let mut results = Results::new(&targets);
    let failures = if options.micro {
        measure::operations(&targets, options.rounds.unwrap_or(5), &options.only, &mut results)?
    } else {
        let limits = measure::Limits {
            rounds: options.rounds.unwrap_or(9),
            row: Duration::from_secs(options.row_seconds),
            run: Duration::from_secs(options.limit),
        };
        measure::programs(&targets, limits, &options.only, &mut results)?
    };
    targets.iter().for_each(target::Target::clear);
    println!("{}", page::table(&results));
    for failure in &failures {
        println!("failed: {failure}");
    }
    if let Some(path) = &options.json {
        write(path, &format!("{:#}\n", results.to_json()))?;
    }
    if let Some(path) = &options.markdown {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        page::write(path, options.micro, &results, &command)?;
    }
    let mut slower = Vec::new();
    if let Some(path) = &options.against {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let old = Results::of_json(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        slower = results.slower_than(&old);
        for line in &slower {
            println!("slower: {line}");
        }
    }
    Ok(failures.is_empty() && slower.is_empty())
}

fn write(path: &std::path::Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
