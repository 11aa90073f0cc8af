//! Single operations: the programs of `benches/guest`, which time themselves, natively and in the sandbox in turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{Options, PATH};

/// Least times by row, ns.
type Least = BTreeMap<String, f64>;

/// Runs what `options` ask for and prints the table; false when a program failed. The rows are in the programs' order.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let scratch = Scratch::new().map_err(|e| format!("a folder for programs: {e}"))?;
    let mut all_ran = true;
    println!(
        "{:<26}{:>14}{:>14}{:>9}   least of {} rounds, ns",
        "row", "native", "ringfence", "ratio", options.rounds
    );
    for source in sources()? {
        let program = compile(&source, &scratch.0)?;
        let (mut native, mut sandboxed, mut order) = (Least::new(), Least::new(), Vec::new());
        for _ in 0..options.rounds {
            let (one, other) = (Command::new(&program), {
                let mut command = Command::new(&options.ringfence);
                command.args(["run", "--"]).arg(&program);
                command
            });
            all_ran &= take(one, options, &mut native, &mut order)?;
            all_ran &= take(other, options, &mut sandboxed, &mut order)?;
        }
        for row in &order {
            if let (Some(native), Some(sandboxed)) = (native.get(row), sandboxed.get(row)) {
                println!("{row:<26}{native:>14.0}{sandboxed:>14.0}{:>9.2}", sandboxed / native);
            }
        }
    }
    Ok(all_ran)
}

/// Runs a program once and keeps the least times; false when it failed.
fn take(
    mut command: Command,
    options: &Options,
    least: &mut Least,
    order: &mut Vec<String>,
) -> Result<bool, String> {
    command.args(&options.only).env_clear().env("PATH", PATH).current_dir("/").stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    for (row, ns) in text.lines().filter_map(parse) {
        if !order.iter().any(|known| known == row) {
            order.push(row.to_owned());
        }
        let least = least.entry(row.to_owned()).or_insert(f64::INFINITY);
        *least = least.min(ns);
    }
    if !output.status.success() {
        report(&command, &output);
    }
    Ok(output.status.success())
}

/// A line `row nanoseconds`.
fn parse(line: &str) -> Option<(&str, f64)> {
    let (row, ns) = line.split_once(' ')?;
    Some((row, ns.parse().ok()?))
}

fn report(command: &Command, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    println!("{command:?}: {}: {}", output.status, text.lines().next().unwrap_or("no message"));
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut list: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "c")).collect();
    list.sort();
    Ok(list)
}

/// Compiles a program statically; the same binary runs on both sides.
fn compile(source: &Path, dir: &Path) -> Result<PathBuf, String> {
    let program = dir.join(source.file_stem().unwrap_or_default());
    let output = Command::new("gcc")
        .args(["-O2", "-static", "-pthread", "-o"])
        .args([&program, source])
        .output()
        .map_err(|e| format!("gcc: {e}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)));
    }
    Ok(program)
}

/// A folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringfence-micro-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder left behind is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_row_and_its_time() {
        assert_eq!(parse("touch_64m 1250"), Some(("touch_64m", 1250.0)));
        assert_eq!(parse("touch_64m"), None);
        assert_eq!(parse("# a word"), None);
    }
}
