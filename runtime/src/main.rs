//! The `ringfence` binary: `run`, `check` and `syscalls`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod choose;
mod measure;
mod run;
mod streams;
mod volume;

/// Runs Linux programs on a kernel of their own.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in a fresh sandbox.
    Run(Box<run::Options>),
    /// Say what this host offers: the kind of KVM, its costs and limits.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List every system call: full, partial or absent.
    Syscalls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print the page docs/syscalls.md.
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
    },
}

/// The exit status when ringfence itself fails.
const FAILED: u8 = 125;

/// Prints one line for people on stderr.
fn complain(text: &str) {
    eprintln!("ringfence: {text}");
}

/// A panic is our bug: it ends the sandbox at once, whichever thread it is in, and never leaves half of it running.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        host::terminal::restore();
        let place = info.location().map_or_else(String::new, |l| format!("{}:{}: ", l.file(), l.line()));
        let payload = info.payload();
        let owned = payload.downcast_ref::<String>().map(String::as_str);
        let text = payload.downcast_ref::<&str>().copied().or(owned).unwrap_or("panic");
        let _ = writeln!(std::io::stderr(), "ringfence: internal error: {place}{text}; please report it");
        std::process::exit(FAILED.into());
    }));
}

fn main() -> ExitCode {
    end_on_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            print!("{e}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let text = e.to_string();
            let first: Vec<&str> = text.lines().take_while(|l| !l.is_empty()).map(str::trim).collect();
            let line = first.join(" ");
            complain(&format!("{}; see ringfence --help", line.trim_start_matches("error: ")));
            return ExitCode::from(FAILED);
        }
    };
    match cli.command {
        Command::Run(options) => ExitCode::from(run::run(&options)),
        Command::Check { json } => ExitCode::from(u8::try_from(check::run(json)).unwrap_or(FAILED)),
        Command::Syscalls { markdown: true, .. } => {
            print!("{}", syscalls_page());
            ExitCode::SUCCESS
        }
        Command::Syscalls { json, .. } => {
            syscalls(json);
            ExitCode::SUCCESS
        }
    }
}

/// The compatibility table: what `docs/syscalls.md` holds.
fn syscalls_page() -> String {
    use sentry::syscall::Support;
    use sentry::syscall::table::ROWS;
    let count = |f: fn(&Support) -> bool| ROWS.iter().filter(|r| f(&r.support)).count();
    let mut page = format!(
        "# System calls\n\nMade by `ringfence syscalls --markdown` from the syscall table. {} calls: {} full, {} partial, {} \
         absent (`ENOSYS`).\n\n| number | call | support | what is missing |\n|---|---|---|---|\n",
        ROWS.len(),
        count(|s| matches!(s, Support::Full)),
        count(|s| matches!(s, Support::Partial(_))),
        count(|s| matches!(s, Support::Absent)),
    );
    for r in ROWS {
        let (support, note) = match r.support {
            Support::Full => ("full", ""),
            Support::Partial(note) => ("partial", note),
            Support::Absent => ("absent", ""),
        };
        page += &format!("| {} | {} | {support} | {note} |\n", r.number, r.name);
    }
    page
}

fn syscalls(json: bool) {
    use sentry::syscall::Support;
    use sentry::syscall::table::ROWS;
    let describe = |s: Support| match s {
        Support::Full => ("full", ""),
        Support::Partial(note) => ("partial", note),
        Support::Absent => ("absent", ""),
    };
    if json {
        let rows: Vec<_> = ROWS
            .iter()
            .map(|r| {
                let (support, note) = describe(r.support);
                serde_json::json!({"number": r.number, "name": r.name, "support": support, "note": note})
            })
            .collect();
        println!("{}", serde_json::Value::Array(rows));
        return;
    }
    for r in ROWS {
        let (support, note) = describe(r.support);
        println!("{:>4}  {:<24} {support:<8} {note}", r.number, r.name);
    }
}
