//! Traces of system calls, printed as strace(1) prints them, and the summary of `strace -c`.
//!
//! `flags.rs` holds names, `args.rs` says how each argument is shown. Lines go to stderr, one whole line a call, with the
//! thread's ID in front as with `strace -f`.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::time::{Duration, Instant};

use abi::signal::SigInfo;
use base::lock::{Lock, rank};

use crate::syscall::{Restart, Stop, SysResult, table};
use crate::task::Ctx;

mod args;
mod flags;

/// What is traced.
#[derive(Debug, Default)]
pub struct Tracer {
    /// Print calls.
    pub lines: bool,
    /// Only these calls; all when empty.
    pub only: BTreeSet<String>,
    /// Count calls.
    pub summary: bool,
    counts: Lock<HashMap<u64, Count>, { rank::LEAF }>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    calls: u64,
    errors: u64,
    time: Duration,
}

impl Tracer {
    /// Makes a tracer. `names` are the calls to print, separated by commas; empty for all.
    ///
    /// # Errors
    /// The first name that no call has.
    pub fn new(lines: bool, names: &str, summary: bool) -> Result<Self, String> {
        let mut only = BTreeSet::new();
        for name in names.split(',').filter(|n| !n.is_empty()) {
            if !table::ROWS.iter().any(|r| r.name == name) {
                return Err(name.to_owned());
            }
            only.insert(name.to_owned());
        }
        Ok(Self { lines, only, summary, counts: Lock::default() })
    }

    /// Handles a call and tells of it.
    ///
    /// # Errors
    /// The handler's.
    pub fn call(&self, cx: &mut Ctx<'_>, number: u64, raw: [u64; 6]) -> SysResult {
        let name = crate::syscall::name(number).map_or_else(|| format!("syscall_{number:#x}"), str::to_owned);
        let shown = self.lines && (self.only.is_empty() || self.only.contains(&name));
        let before = if shown { args::before(cx, &name, raw) } else { Vec::new() };
        let tid = cx.task.tid;
        if shown && matches!(name.as_str(), "exit" | "exit_group" | "rt_sigreturn") {
            let list: Vec<String> = before.iter().flatten().cloned().collect();
            print_line(tid, &call_text(&name, &list, "?"));
        }
        let start = Instant::now();
        let result = table::call(cx, number, raw);
        if self.summary {
            let mut counts = self.counts.lock();
            let count = counts.entry(number).or_default();
            count.calls += 1;
            count.errors += u64::from(matches!(result, Err(Stop::Fail(_) | Stop::Restart(_))));
            count.time += start.elapsed();
        }
        if shown && !matches!(name.as_str(), "exit" | "exit_group" | "rt_sigreturn") {
            let list = args::after(cx, &name, raw, before, result);
            print_line(tid, &call_text(&name, &list, &result_text(&name, raw, result)));
        }
        result
    }

    /// Tells of a signal that is being delivered.
    pub fn signal(&self, tid: i32, info: &SigInfo) {
        if self.lines && self.only.is_empty() {
            print_line(tid, &args::signal_text(info));
        }
    }

    /// Tells of the end of a thread: its process's wait status.
    pub fn exited(&self, tid: i32, status: i32) {
        if !self.lines || !self.only.is_empty() {
            return;
        }
        let text = if status & 0x7f == 0 {
            format!("+++ exited with {} +++", status >> 8 & 0xff)
        } else {
            let core = if status & 0x80 != 0 { " (core dumped)" } else { "" };
            format!("+++ killed by {}{core} +++", args::signal_name(status & 0x7f))
        };
        print_line(tid, &text);
    }

    /// The table of `strace -c`.
    pub fn summary_text(&self) -> String {
        const LINE: &str = "------ ----------- ----------- --------- --------- ----------------\n";
        let counts = self.counts.lock();
        let total: Duration = counts.values().map(|c| c.time).sum();
        let mut rows: Vec<_> = counts.iter().map(|(n, c)| (*n, *c)).collect();
        rows.sort_by_key(|(n, c)| (std::cmp::Reverse(c.time), *n));
        let mut out = format!(
            "{:>6} {:>11} {:>11} {:>9} {:>9} {}\n{LINE}",
            "% time", "seconds", "usecs/call", "calls", "errors", "syscall"
        );
        let mut row = |c: Count, name: &str| {
            let share =
                if total.is_zero() { 0.0 } else { 100.0 * c.time.as_secs_f64() / total.as_secs_f64() };
            let each = c.time.as_micros() / u128::from(c.calls.max(1));
            let errors = if c.errors == 0 { String::new() } else { c.errors.to_string() };
            out += &format!(
                "{share:>6.2} {:>11.6} {each:>11} {:>9} {errors:>9} {name}\n",
                c.time.as_secs_f64(),
                c.calls
            );
        };
        let mut sum = Count::default();
        for (number, c) in rows {
            row(c, crate::syscall::name(number).unwrap_or("unknown"));
            sum.calls += c.calls;
            sum.errors += c.errors;
            sum.time += c.time;
        }
        row(sum, "total");
        let at = out.trim_end().rfind('\n').map_or(0, |i| i + 1);
        out.insert_str(at, LINE);
        out
    }
}

fn print_line(tid: i32, text: &str) {
    // One write a line, so that threads do not mix; a reader that went away is no reason to stop.
    let _ = std::io::stderr().lock().write_all(format!("[pid {tid:>5}] {text}\n").as_bytes());
}

/// strace pads `name(arguments)` to column 39 before ` = `.
fn call_text(name: &str, list: &[String], result: &str) -> String {
    let call = format!("{name}({})", list.join(", "));
    format!("{call:<39} = {result}")
}

fn result_text(name: &str, raw: [u64; 6], result: SysResult) -> String {
    match result {
        Ok(v) => match (name, raw[1]) {
            ("mmap" | "brk" | "mremap" | "shmat", _) => format!("{v:#x}"),
            ("fcntl", 1) if v == 1 => "0x1 (flags FD_CLOEXEC)".to_owned(),
            ("fcntl", 3) => format!("{v:#x} (flags {})", args::open_flags(v)),
            ("poll" | "ppoll" | "select" | "pselect6", _) if v == 0 => "0 (Timeout)".to_owned(),
            _ => v.cast_signed().to_string(),
        },
        Err(Stop::Fail(e)) => format!("-1 {} ({})", e.name(), e.text()),
        Err(Stop::Restart(Restart::Sys)) => "? ERESTARTSYS (To be restarted if SA_RESTART is set)".to_owned(),
        Err(Stop::Restart(Restart::NoIntr)) => "? ERESTARTNOINTR (To be restarted)".to_owned(),
        Err(Stop::Restart(Restart::NoHand)) => "? ERESTARTNOHAND (To be restarted if no handler)".to_owned(),
        Err(Stop::Restart(Restart::Block)) => "? ERESTART_RESTARTBLOCK (Interrupted by signal)".to_owned(),
        Err(Stop::NoReturn) if name == "execve" => "0".to_owned(),
        Err(Stop::NoReturn) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_straces_columns_and_a_total() {
        let tracer = Tracer::new(false, "", true).unwrap();
        tracer.counts.lock().insert(0, Count { calls: 4, errors: 1, time: Duration::from_micros(40) });
        let text = tracer.summary_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "% time     seconds  usecs/call     calls    errors syscall");
        assert_eq!(lines[2], "100.00    0.000040          10         4         1 read");
        assert_eq!(lines[4], "100.00    0.000040          10         4         1 total");
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!(Tracer::new(true, "read,raed", false).unwrap_err(), "raed");
    }

    #[test]
    fn short_calls_are_padded_as_strace_pads_them() {
        assert_eq!(call_text("getpid", &[], "1"), "getpid()                                = 1");
    }
}
