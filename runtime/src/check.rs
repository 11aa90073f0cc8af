//! `ringfence check`: what this host offers, for people and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use platform_kvm::check::{Costs, Report};
use platform_kvm::{Entry, Options};
use platform_systrap::check::Report as Stubs;
use serde_json::{Value, json};

use crate::choose;

/// Exit status when ringfence itself fails.
const FAILED: i32 = 125;

/// Descriptors below which many guest threads or open files run into the host's limit.
const FEW_DESCRIPTORS: u64 = 4096;

/// One resource limit of this process that ringfence runs into before the guest does.
struct Limit {
    /// The name, as in `/proc/self/limits`.
    name: String,
    /// The value in force; none: unlimited.
    soft: Option<u64>,
    /// What it can be raised to; none: unlimited.
    hard: Option<u64>,
}

/// Measures what the host offers and prints it; returns the exit status: 0, or 125 when no platform works.
pub(crate) fn run(json: bool) -> i32 {
    run_with(&Options::default(), json)
}

/// As [`run`], with other options than the default ones.
pub(crate) fn run_with(options: &Options, json: bool) -> i32 {
    let limits = limits();
    let kvm = platform_kvm::check::check(options).map_err(|e| e.to_string());
    let systrap = platform_systrap::check::check().map_err(|e| e.to_string());
    if json {
        println!("{:#}", to_json(&kvm, &systrap, &limits));
    } else {
        print!("{}", to_text(&kvm, &systrap, &limits));
    }
    if kvm.is_ok() || systrap.is_ok() { 0 } else { FAILED }
}

/// What `--platform auto` would take: `choose.rs`, with the costs measured here.
fn choice(kvm: &Result<Report, String>, systrap: &Result<Stubs, String>) -> Option<&'static str> {
    match (kvm, systrap) {
        (Ok(kvm), Ok(_)) if !choose::prefers_kvm(kvm.costs.syscall) => Some("systrap"),
        (Ok(_), _) => Some("kvm"),
        (Err(_), Ok(_)) => Some("systrap"),
        (Err(_), Err(_)) => None,
    }
}

/// Why, for people.
fn reason(kvm: &Result<Report, String>, systrap: &Result<Stubs, String>) -> String {
    match (kvm, systrap) {
        (Err(_), Err(_)) => "no platform works".to_owned(),
        (Err(_), Ok(_)) => "kvm does not work".to_owned(),
        (Ok(_), Err(_)) => "systrap does not work".to_owned(),
        (Ok(kvm), Ok(_)) if kvm.costs.syscall <= choose::CHEAP => {
            format!("a system call there takes no more than {}", time(choose::CHEAP))
        }
        (Ok(_), Ok(_)) => format!("a system call on kvm takes more than {}", time(choose::CHEAP)),
    }
}

/// Name, time and meaning of each cost of systrap.
fn systrap_costs(costs: &platform_systrap::check::Costs) -> [(&'static str, Duration, &'static str); 7] {
    [
        ("start", costs.start, "make the first stub process"),
        ("syscall", costs.syscall, "system call to the sentry and back"),
        ("exception", costs.exception, "exception to the sentry and back"),
        ("fault", costs.fault, "page fault that the sentry answers by mapping the page"),
        ("touch", costs.touch, "first touch of a mapped page"),
        ("shootdown", costs.shootdown, "take a page away from running guests"),
        ("space", costs.space, "make, use and end an address space with a thread"),
    ]
}

fn systrap_text(text: &mut String, result: &Result<Stubs, String>) {
    text.push_str("platform systrap\n");
    match result {
        Err(message) => {
            let _ = writeln!(text, "  ! {message}");
        }
        Ok(report) => {
            let _ = writeln!(text, "  {:<18}{}", "guest memory", bytes(report.memory_limit));
            let xsave = report.xsave;
            let _ = writeln!(text, "  {:<18}{} bytes, features {:#x}", "XSAVE", xsave.size, xsave.features);
            let _ = writeln!(text, "  {:<18}{}", "mappings", report.map_limit);
            text.push_str("costs now\n");
            for (name, duration, meaning) in systrap_costs(&report.costs) {
                let _ = writeln!(text, "  {name:<18}{:>10}  {meaning}", time(duration));
            }
        }
    }
}

fn systrap_json(result: &Result<Stubs, String>) -> Value {
    match result {
        Err(message) => json!({"usable": false, "error": message}),
        Ok(report) => {
            let costs: serde_json::Map<_, _> = systrap_costs(&report.costs)
                .into_iter()
                .map(|(name, d, _)| (name.to_owned(), json!(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))))
                .collect();
            json!({
                "usable": true,
                "memory_limit": report.memory_limit,
                "max_mappings": report.map_limit,
                "xsave": {"size": report.xsave.size, "features": report.xsave.features},
                "costs_ns": costs,
            })
        }
    }
}

/// The limits that bite, from proc(5), `/proc/pid/limits`. Empty when the file cannot be read.
fn limits() -> Vec<Limit> {
    std::fs::read_to_string("/proc/self/limits").map(|text| parse_limits(&text)).unwrap_or_default()
}

fn parse_limits(text: &str) -> Vec<Limit> {
    let wanted =
        ["Max open files", "Max processes", "Max locked memory", "Max address space", "Max file size"];
    wanted
        .iter()
        .filter_map(|name| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            let mut words = rest.split_whitespace();
            let mut next = || {
                let word = words.next()?;
                Some(if word == "unlimited" { None } else { Some(word.parse::<u64>().ok()?) })
            };
            Some(Limit { name: name["Max ".len()..].to_owned(), soft: next()?, hard: next()? })
        })
        .collect()
}

fn kind(report: &Report) -> &'static str {
    if report.is_hardware() { "hardware (VMX or SVM)" } else { "software, nested" }
}

fn entry(entry: Entry) -> String {
    format!("{entry:?}").to_lowercase()
}

/// Name, nanoseconds and meaning of each cost.
fn costs(costs: &Costs) -> [(&'static str, Duration, &'static str); 11] {
    [
        ("start", costs.start, "open the device, make the machine, probe it"),
        ("syscall", costs.syscall, "system call to the sentry and back"),
        ("exception", costs.exception, "exception to the sentry and back"),
        ("fault", costs.fault, "page fault that the sentry answers by mapping the page"),
        ("touch", costs.touch, "first touch of a mapped page"),
        ("touch_populated", costs.touch_populated, "first touch of a page the host has already"),
        ("shootdown", costs.shootdown, "take a page away from running guests"),
        ("space", costs.space, "make, use and end an address space"),
        ("vcpu", costs.vcpu, "make a vCPU"),
        ("machine", costs.machine, "make a virtual machine"),
        ("slot", costs.slot, "make a memory slot of 32 MiB"),
    ]
}

/// What will stop a large sandbox on this host, one line each.
fn warnings(report: &Report, limits: &[Limit]) -> Vec<String> {
    let mut lines = Vec::new();
    for limit in limits {
        match (limit.name.as_str(), limit.soft) {
            ("open files", Some(soft)) if soft < FEW_DESCRIPTORS => lines.push(format!(
                "open files: {soft}: each vCPU and each open host file takes one: raise it (ulimit -n)"
            )),
            ("address space", Some(soft)) => lines.push(format!(
                "address space: {soft} bytes: the memory file is mapped whole: lift it (ulimit -v unlimited)"
            )),
            ("file size", Some(soft)) => {
                lines.push(format!(
                    "file size: {soft} bytes: the memory file cannot grow past it (ulimit -f)"
                ));
            }
            _ => {}
        }
    }
    if report.max_vcpus < 64 {
        lines.push(format!("vCPUs: {}: more guest threads than that take turns", report.max_vcpus));
    }
    let by_slots = (report.max_slots as u64).saturating_mul(1 << 30);
    if by_slots < report.memory_limit {
        lines.push(format!("memory slots: {}: guest memory ends at {}", report.max_slots, bytes(by_slots)));
    }
    lines
}

fn bytes(n: u64) -> String {
    match n {
        _ if n >= 1 << 40 => format!("{} TiB", n >> 40),
        _ if n >= 1 << 30 => format!("{} GiB", n >> 30),
        _ => format!("{} MiB", n >> 20),
    }
}

/// A time with three digits that count.
fn time(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    match us {
        _ if us >= 1e4 => format!("{:.1} ms", us / 1e3),
        _ if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        _ if us >= 10.0 => format!("{us:.1} µs"),
        _ => format!("{us:.2} µs"),
    }
}

fn to_text(kvm: &Result<Report, String>, systrap: &Result<Stubs, String>, limits: &[Limit]) -> String {
    let mut text = match kvm {
        Ok(report) => kvm_text(report),
        Err(message) => format!("platform kvm\n  ! {message}\n"),
    };
    systrap_text(&mut text, systrap);
    let _ = writeln!(
        text,
        "auto would take now: {} ({})",
        choice(kvm, systrap).unwrap_or("none"),
        reason(kvm, systrap)
    );
    text.push_str("limits\n");
    let shown = |value: Option<u64>| value.map_or("unlimited".to_owned(), |n| n.to_string());
    for limit in limits {
        let _ = writeln!(
            text,
            "  {:<18}{} (can be raised to {})",
            limit.name,
            shown(limit.soft),
            shown(limit.hard)
        );
    }
    if let Ok(report) = kvm {
        for warning in warnings(report, limits) {
            let _ = writeln!(text, "  ! {warning}");
        }
    }
    text
}

fn kvm_text(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "  {name:<18}{value}");
    };
    line("kind", kind(report).to_owned());
    line("entry", format!("{} (how SYSCALL leaves the guest, found by probing)", entry(report.entry)));
    line("api version", report.api_version.to_string());
    line("vCPUs", report.max_vcpus.to_string());
    line("memory slots", report.max_slots.to_string());
    line("guest memory", bytes(report.memory_limit));
    line("XSAVE", format!("{} bytes, features {:#x}", report.xsave.size, report.xsave.features));
    line("TSC offset", report.tsc_offset.map_or("unknown".to_owned(), |n| n.to_string()));
    let list: Vec<_> = report.capabilities.iter().map(|(name, value)| format!("{name}={value}")).collect();
    line("capabilities", list.join(" "));
    let mut text = format!("platform kvm\n{out}costs now\n");
    for (name, duration, meaning) in costs(&report.costs) {
        let _ = writeln!(text, "  {name:<18}{:>10}  {meaning}", time(duration));
    }
    text
}

fn to_json(result: &Result<Report, String>, systrap: &Result<Stubs, String>, limits: &[Limit]) -> Value {
    let limits_json: serde_json::Map<_, _> = limits
        .iter()
        .map(|limit| (limit.name.replace(' ', "_"), json!({"soft": limit.soft, "hard": limit.hard})))
        .collect();
    let kvm = match result {
        Err(message) => json!({"usable": false, "error": message}),
        Ok(report) => {
            let costs: serde_json::Map<_, _> = costs(&report.costs)
                .into_iter()
                .map(|(name, d, _)| (name.to_owned(), json!(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))))
                .collect();
            let capabilities: serde_json::Map<_, _> =
                report.capabilities.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            json!({
                "usable": true,
                "hardware": report.is_hardware(),
                "entry": entry(report.entry),
                "api_version": report.api_version,
                "max_vcpus": report.max_vcpus,
                "max_slots": report.max_slots,
                "memory_limit": report.memory_limit,
                "xsave": {"size": report.xsave.size, "features": report.xsave.features},
                "tsc_offset": report.tsc_offset,
                "capabilities": capabilities,
                "costs_ns": costs,
                "warnings": warnings(report, limits),
            })
        }
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "platforms": {"kvm": kvm, "systrap": systrap_json(systrap)},
        "auto": choice(result, systrap),
        "auto_reason": reason(result, systrap),
        "limits": limits_json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_table_of_proc() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max address space         unlimited            unlimited            bytes     \n";
        let limits = parse_limits(text);
        assert_eq!(limits.len(), 2);
        assert_eq!(
            (limits[0].name.as_str(), limits[0].soft, limits[0].hard),
            ("open files", Some(1024), Some(1_048_576))
        );
        assert_eq!((limits[1].name.as_str(), limits[1].soft), ("address space", None));
    }

    #[test]
    fn json_says_why_no_platform_works() {
        let value = to_json(&Err("kvm: /dev/kvm: not present".to_owned()), &Err("no".to_owned()), &[]);
        assert_eq!(value["auto"], Value::Null);
        assert_eq!(value["platforms"]["kvm"]["usable"], false);
        assert_eq!(value["platforms"]["kvm"]["error"], "kvm: /dev/kvm: not present");
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(time(Duration::from_nanos(31_260)), "31.3 µs");
        assert_eq!(time(Duration::from_micros(1250)), "1.25 ms");
    }
}
