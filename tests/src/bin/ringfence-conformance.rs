//! Measures how far a kernel follows Linux: `ringfence-conformance --runner "ringfence run --"`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use ringfence_tests::conformance::adapters;
use ringfence_tests::conformance::adapters::beside;
use ringfence_tests::conformance::adapters::record::Stored;
use ringfence_tests::conformance::measure::{Plan, measure};
use ringfence_tests::conformance::page::{self, Heading, Marks};
use ringfence_tests::conformance::random::Search;
use ringfence_tests::conformance::results::{Row, compare, count, judge, of_json, to_json};
use ringfence_tests::conformance::run::Runner;
use ringfence_tests::conformance::suite;
use ringfence_tests::conformance::verdict::Result as Verdict;
use ringfence_tests::known::Known;

/// Runs small cases about system calls natively and under a runner, and compares.
///
/// Exit status: 0 when nothing unexpected happened, 1 when something did, 2 when it could not run.
#[derive(Debug, Parser)]
#[command(name = "ringfence-conformance", version)]
struct Options {
    /// The words before a program that run it on the kernel under test, such as "ringfence run --" or "runsc do";
    /// without it the cases run natively only
    #[arg(long, value_name = "PREFIX")]
    runner: Option<String>,
    /// Only cases whose name contains NAME, or that are about the system call NAME (may be given more than once)
    #[arg(long, value_name = "NAME")]
    filter: Vec<String>,
    /// Programs at once [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Seconds that one case may take [default: 20; for suites of others what each needs], natively in suites of others,
    /// where a runner gets more
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as HTML
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the results between the marks of a page in Markdown, or as a new page
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Compare two results and name what changed
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Vec<PathBuf>,
    /// The list of known failures [default: that of ringfence when the runner is ringfence, otherwise none]
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Run each case natively so often, to find cases whose output is not the same each time
    #[arg(long, value_name = "N", default_value_t = 1)]
    native_runs: usize,
    /// Run a suite of others instead: ltp=DIR, libc-test=DIR, glibc=DIR, cpython, go, stress-ng, fsx[=PROGRAM] or
    /// fsstress[=PROGRAM]
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// With --suite: only the tests that FILE names, one a line (`#` begins a comment)
    #[arg(long, value_name = "FILE", requires = "suite")]
    tests: Option<PathBuf>,
    /// With --suite: take the native results from FILE, which another run wrote
    #[arg(long, value_name = "FILE", requires = "suite")]
    native: Option<PathBuf>,
    /// With --suite and --json: go on where an interrupted run stopped
    #[arg(long, requires = "suite", requires = "json")]
    resume: bool,
    /// Make one table of several stored results; with --markdown written into that page
    #[arg(long, num_args = 1.., value_name = "FILE")]
    beside: Vec<PathBuf>,
    /// Compare random programs of system calls for so long, instead of the cases
    #[arg(long, value_name = "SECONDS")]
    random: Option<u64>,
    /// The seed of the first random program [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// List the cases and do not run them
    #[arg(long)]
    list: bool,
    /// Print the whole difference of each unexpected failure
    #[arg(long, short)]
    verbose: bool,
}

/// Seconds that a case of our own may take by default.
const LIMIT: u64 = 20;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("ringfence-conformance: {e}");
            ExitCode::from(2)
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn run(options: &Options) -> Result<bool, String> {
    if let [old, new] = &options.compare[..] {
        let rows = |path: &Path| of_json(&read(path)?).map_err(|e| format!("{}: {e}", path.display()));
        let changes = compare(&rows(old)?, &rows(new)?);
        changes.iter().for_each(|line| println!("{line}"));
        println!("{} changed", changes.len());
        return Ok(changes.iter().all(|line| line.ends_with("-> pass")));
    }
    if !options.beside.is_empty() {
        return one_table(options);
    }
    if let Some(seconds) = options.random {
        return random(options, seconds);
    }
    if let Some(name) = &options.suite {
        return suite_of_others(options, name);
    }
    let mut sources = Vec::new();
    for area in suite::areas()? {
        sources.extend(suite::sources(&area)?);
    }
    let limit = options.limit.unwrap_or(LIMIT);
    let plan = Plan {
        sources,
        runner: options.runner.as_ref().map(|prefix| Runner::new(prefix, limit)),
        filters: options.filter.clone(),
        jobs: jobs(options),
        native_runs: options.native_runs,
        limit,
        progress: true,
    };
    if options.list {
        let cache = ringfence_tests::conformance::compile::cache()?;
        for source in &plan.sources {
            let program = suite::program(source, &cache)?;
            program.cases.iter().for_each(|case| println!("{}", program.full_name(case)));
        }
        return Ok(true);
    }
    let mut rows = measure(&plan)?;
    if rows.is_empty() {
        return Err("no case has this name".to_owned());
    }
    let judged = judge("guest", &mut rows, &known(options)?);
    report(options, "conformance", &rows)?;
    for row in &judged.unexpected {
        println!("{}: {}", row.result.word(), row.name);
        let lines = if options.verbose { usize::MAX } else { 12 };
        row.detail.lines().take(lines).for_each(|line| println!("    {line}"));
    }
    for name in &judged.mended {
        println!("unexpected pass: {name}: delete its line in the list of known failures");
    }
    println!(
        "{} cases: {} pass, {} fail ({} known), {} skip, {} timeout",
        rows.len(),
        count(&rows, Verdict::Pass),
        count(&rows, Verdict::Fail),
        judged.known.len(),
        count(&rows, Verdict::Skip),
        count(&rows, Verdict::Timeout),
    );
    Ok(judged.unexpected.is_empty() && judged.mended.is_empty())
}

fn jobs(options: &Options) -> usize {
    options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Results by the names of their tests, stored.
fn stored(path: &Path) -> Result<Stored, String> {
    Stored::of_json(&read(path)?).map_err(|e| format!("{}: {e}", path.display()))
}

fn one_table(options: &Options) -> Result<bool, String> {
    let runs = options.beside.iter().map(|path| stored(path)).collect::<Result<Vec<_>, _>>()?;
    let known = options.known.as_ref().map(|path| read(path)).transpose()?;
    let text = beside::markdown(&runs, &known.map_or_else(Known::load, |text| Known::parse(&text)));
    let Some(path) = &options.markdown else {
        print!("{text}");
        return Ok(true);
    };
    let page = fs::read_to_string(path).unwrap_or_default();
    write(path, &page::between_marks(&page, Marks::Beside, &text))?;
    Ok(true)
}

/// A suite of others: prints each test that does not pass. Each result is written at once, to `FILE.journal` beside the
/// file for JSON.
fn suite_of_others(options: &Options, name: &str) -> Result<bool, String> {
    let listed = options.tests.as_ref().map(|path| read(path)).transpose()?;
    let listed: Option<BTreeSet<&str>> = listed
        .as_ref()
        .map(|text| text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).collect());
    let wanted =
        |name: &str| options.filter.is_empty() || options.filter.iter().any(|f| name.contains(f.as_str()));
    let tests = adapters::tests(name, |name| {
        let short = name.split_once('/').map_or("", |(_, short)| short);
        listed.as_ref().is_none_or(|l| l.contains(short) || l.contains(name)) && wanted(name)
    })?;
    let journal = options.json.as_ref().map(|path| PathBuf::from(format!("{}.journal", path.display())));
    let mut plan = adapters::run::Plan {
        tests,
        runner: options.runner.as_ref().map(|prefix| Runner::new(prefix, options.limit.unwrap_or(LIMIT))),
        jobs: jobs(options),
        limit: options.limit,
        journal,
        ..Default::default()
    };
    if let Some(path) = &options.native {
        plan.natively = adapters::run::by_name(stored(path)?);
    }
    if let (true, Some(journal), Some(json)) = (options.resume, &plan.journal, &options.json) {
        plan.done = adapters::run::read_journal(journal);
        if plan.done.is_empty() && json.exists() {
            plan.done = adapters::run::by_name(stored(json)?);
        }
    }
    if options.list {
        plan.tests.iter().for_each(|test| println!("{}", test.name));
        return Ok(true);
    }
    let records = adapters::run::run(&plan, |record| {
        let first = record.row.detail.lines().next().unwrap_or_default();
        println!("{}: {} ({:.0} s) {first}", record.row.result.word(), record.row.name, record.seconds);
    })?;
    let mut rows: Vec<Row> = records.iter().map(|record| record.row.clone()).collect();
    let judged = judge("suite", &mut rows, &known(options)?);
    report(options, name, &rows)?;
    if let Some(path) = &options.json {
        let suite = name.split('=').next().unwrap_or(name).to_owned();
        let run = Stored { suite, runner: runner_name(options), records };
        write(path, &format!("{:#}\n", run.to_json()))?;
        plan.journal.iter().for_each(|path| drop(fs::remove_file(path)));
    }
    judged.mended.iter().for_each(|name| println!("unexpected pass: {name}"));
    let [pass, fail, skip, timeout] = Verdict::ALL.map(|result| count(&rows, result));
    let known = judged.known.len();
    println!("{} tests: {pass} pass, {fail} fail, {skip} skip, {timeout} timeout, {known} known", rows.len());
    Ok(judged.unexpected.is_empty() && judged.mended.is_empty())
}

fn runner_name(options: &Options) -> String {
    options.runner.clone().unwrap_or_else(|| "native".to_owned())
}

/// Random programs: prints each difference with its seed and the steps that are needed for it.
fn random(options: &Options, seconds: u64) -> Result<bool, String> {
    let runner =
        options.runner.as_deref().ok_or("--random needs --runner: there is nothing to compare with")?;
    let cache = ringfence_tests::conformance::compile::cache()?;
    let search = Search::new(&Runner::new(runner, LIMIT).prefix, &cache)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let first = options.seed.unwrap_or(now);
    println!("first seed: {first}");
    let mut found = 0;
    let ran = search.run(first, Duration::from_secs(seconds), |difference| {
        found += 1;
        println!("seed {}: {}\n{}", difference.seed, difference.command(), difference.detail);
    })?;
    println!("{ran} programs, {found} differ");
    Ok(found == 0)
}

/// The list of known failures that applies.
fn known(options: &Options) -> Result<Known, String> {
    match (&options.known, &options.runner) {
        (Some(path), _) => Ok(Known::parse(&read(path)?)),
        (None, Some(runner)) if runner.contains("ringfence") => Ok(Known::load()),
        _ => Ok(Known::default()),
    }
}

/// Writes the files that were asked for; suites of others have their own form of JSON and their own page.
fn report(options: &Options, suite: &str, rows: &[Row]) -> Result<(), String> {
    if let Some(path) = options.json.as_ref().filter(|_| suite == "conformance") {
        let mut value = to_json(rows);
        value["suite"] = suite.into();
        value["runner"] = runner_name(options).into();
        write(path, &format!("{value:#}\n"))?;
    }
    if options.html.is_none() && options.markdown.is_none() {
        return Ok(());
    }
    let heading = Heading {
        runner: beside::shown(&runner_name(options)),
        machine: machine(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        uncovered: uncovered(options, rows),
    };
    if let Some(path) = &options.html {
        write(path, &page::html(rows, &heading))?;
    }
    if let Some(path) = &options.markdown {
        let old = fs::read_to_string(path).unwrap_or_default();
        write(path, &page::between_marks(&old, Marks::Results, &page::markdown(rows, &heading)))?;
    }
    Ok(())
}

/// The kernel and the processors.
fn machine() -> String {
    let word = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cores} processors", word("/proc/sys/kernel/osrelease"))
}

/// Calls that the runner's own table marks full and that no case is about; only ringfence has such a table.
fn uncovered(options: &Options, rows: &[Row]) -> Vec<String> {
    let Some(runner) = options.runner.as_deref().filter(|runner| runner.contains("ringfence")) else {
        return Vec::new();
    };
    let binary = runner.split_whitespace().next().unwrap_or_default();
    let Ok(output) = Command::new(binary).args(["syscalls", "--json"]).output() else { return Vec::new() };
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let covered: BTreeSet<&str> = rows.iter().map(|row| row.syscall.as_str()).collect();
    let full = table.as_array().into_iter().flatten().filter(|row| row["support"] == "full");
    full.filter_map(|row| row["name"].as_str())
        .filter(|name| !covered.contains(name))
        .map(str::to_owned)
        .collect()
}
