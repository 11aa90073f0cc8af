//! Random differential testing: programs of system calls made from seeds (`tests/guest/random/ops.c`), run natively and
//! under a runner, their outputs compared; a difference is made smaller until each step left is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::conformance::compile::compile;
use crate::conformance::normal::normalise;
use crate::outcome;

/// Steps of one program.
const STEPS: usize = 300;
/// Programs in one start of the runner.
const BATCH: u64 = 8;
/// Seconds for one start.
const LIMIT: u64 = 120;
/// Runs that making one difference smaller may take.
const SHRINK_RUNS: usize = 120;

/// A program whose two runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its seed.
    pub seed: u64,
    /// The steps that are needed for it; none: all.
    pub steps: Vec<usize>,
    /// Where the outputs part, for people.
    pub detail: String,
    /// Whether it was seen a second time. What was not may be chance, on either kernel.
    pub repeats: bool,
}

impl Difference {
    /// What to type to see it again, without the runner's words.
    pub fn command(&self) -> String {
        if self.steps.is_empty() {
            return format!("ops {STEPS} {}", self.seed);
        }
        let steps: Vec<String> = self.steps.iter().map(usize::to_string).collect();
        format!("ops --steps ,{}, {STEPS} {}", steps.join(","), self.seed)
    }
}

/// Two kernels and the program.
#[derive(Debug)]
pub struct Search {
    program: PathBuf,
    prefix: Vec<String>,
}

impl Search {
    /// Builds the program; `prefix` holds the runner's words.
    ///
    /// # Errors
    /// For people: it does not compile.
    pub fn new(prefix: &[String], cache: &Path) -> Result<Self, String> {
        let source = crate::workspace().join("tests/guest/random/ops.c");
        Ok(Self { program: compile(&source, cache)?, prefix: prefix.to_vec() })
    }

    /// Tries seeds from `first` on until the time is over; `tell` hears of each difference at once. Returns how many
    /// programs ran.
    ///
    /// # Errors
    /// For people: a folder cannot be made.
    pub fn run(&self, first: u64, time: Duration, mut tell: impl FnMut(&Difference)) -> Result<u64, String> {
        let end = Instant::now() + time;
        let mut seed = first;
        while Instant::now() < end {
            let seeds: Vec<u64> = (seed..seed + BATCH).collect();
            seed += BATCH;
            let (native, other) = (self.once(&[], &seeds, None)?, self.once(&self.prefix, &seeds, None)?);
            for seed in seeds {
                let [here, there] = [&native, &other].map(|all| all.get(&seed).map_or("", String::as_str));
                if here != there {
                    tell(&self.smaller(seed, &outcome::diff("output", here.as_bytes(), there.as_bytes()))?);
                }
            }
        }
        Ok(seed - first)
    }

    /// One start: the output of each seed's program.
    fn once(
        &self,
        prefix: &[String],
        seeds: &[u64],
        steps: Option<&[usize]>,
    ) -> Result<BTreeMap<u64, String>, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("random-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let place = dir.to_string_lossy().into_owned();
        let mut argv = prefix.to_vec();
        argv.push(self.program.to_string_lossy().into_owned());
        argv.extend(["--dir".to_owned(), place.clone()]);
        if let Some(steps) = steps {
            let list: Vec<String> = steps.iter().map(usize::to_string).collect();
            argv.extend(["--steps".to_owned(), format!(",{},", list.join(","))]);
        }
        argv.push(STEPS.to_string());
        argv.extend(seeds.iter().map(u64::to_string));
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        let outcome = outcome::run(command, b"", Duration::from_secs(LIMIT));
        // What a program made unremovable stays: no reason to stop.
        let _ = std::fs::remove_dir_all(&dir);
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let mut parts = BTreeMap::new();
        for part in text.split("=== ").skip(1) {
            let (name, output) = part.split_once('\n').unwrap_or((part, ""));
            if let Ok(seed) = name.trim().parse() {
                parts.insert(seed, normalise(output, &place));
            }
        }
        if outcome.status != Some(0)
            && let Some(mut last) = parts.last_entry()
        {
            // The runner itself went down.
            last.get_mut().push_str(&format!("the run ended with {:?}\n", outcome.status));
        }
        Ok(parts)
    }

    /// The difference of one seed with the steps that it takes, or fewer; `seen` is what was seen first.
    fn smaller(&self, seed: u64, seen: &str) -> Result<Difference, String> {
        let all: Vec<usize> = (0..STEPS).collect();
        let detail = |steps: &[usize]| -> Result<Option<String>, String> {
            let native = self.once(&[], &[seed], Some(steps))?.remove(&seed).unwrap_or_default();
            let other = self.once(&self.prefix, &[seed], Some(steps))?.remove(&seed).unwrap_or_default();
            let text = outcome::diff("output", native.as_bytes(), other.as_bytes());
            Ok((!text.is_empty()).then_some(text))
        };
        let mut runs = 0;
        let Some(mut text) = detail(&all)? else {
            return Ok(Difference {
                seed,
                steps: Vec::new(),
                detail: format!("it did not happen again; seen once:\n{seen}"),
                repeats: false,
            });
        };
        let steps = shrink(all, |steps| {
            runs += 1;
            if runs > SHRINK_RUNS {
                return Ok(false);
            }
            let found = detail(steps)?;
            if let Some(found) = &found {
                text.clone_from(found);
            }
            Ok(found.is_some())
        })?;
        Ok(Difference { seed, steps, detail: text, repeats: true })
    }
}

/// Leaves out pieces of the list, larger ones first, as long as `differs` holds for the rest.
fn shrink(
    mut steps: Vec<usize>,
    mut differs: impl FnMut(&[usize]) -> Result<bool, String>,
) -> Result<Vec<usize>, String> {
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        // From the end: what comes after the difference is never needed.
        let mut end = steps.len();
        while end > 0 {
            let start = end.saturating_sub(piece);
            let rest: Vec<usize> = steps[..start].iter().chain(&steps[end..]).copied().collect();
            if differs(&rest)? {
                steps = rest;
            }
            end = start;
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn shrinking_keeps_exactly_what_is_needed() {
        let needed = [3, 57, 200];
        let left = shrink((0..300).collect(), |steps| Ok(needed.iter().all(|n| steps.contains(n))));
        assert_eq!(left, Ok(needed.to_vec()));
    }

    #[test]
    fn what_never_shrinks_stays_whole() {
        let left = shrink((0..10).collect(), |steps| Ok(steps.len() == 10));
        assert_eq!(left, Ok((0..10).collect::<Vec<_>>()));
    }
}
