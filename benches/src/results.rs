//! Times by row and target; stored as JSON, compared with an earlier run.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::target::Target;

/// Times of one row on one target, ns, in the order measured.
pub type Times = Vec<f64>;

/// All times of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Kernel and processors.
    pub machine: String,
    /// The commit that was measured.
    pub commit: String,
    /// Names of the targets, the host's kernel first.
    pub targets: Vec<String>,
    /// Names of the rows, in the order measured.
    pub rows: Vec<String>,
    /// Times by row and target.
    pub times: BTreeMap<(String, String), Times>,
}

/// The middle and the spread of some times, ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// Half the distance between the quartiles.
    pub spread: f64,
}

/// The value below which `part` of the sorted times lie.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil().max(1.0) as usize;
    sorted[rank.min(sorted.len()) - 1]
}

impl Results {
    /// An empty run of these targets on this machine.
    pub fn new(targets: &[Target]) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            machine: format!(
                "Linux {}, {cores} × {}",
                kernel.trim(),
                model.trim_start_matches([':', '\t', ' '])
            ),
            commit: commit(),
            targets: targets.iter().map(|target| target.name.clone()).collect(),
            ..Self::default()
        }
    }

    /// Adds a time in ns.
    pub fn add(&mut self, row: &str, target: &str, ns: f64) {
        if !self.rows.iter().any(|known| known == row) {
            self.rows.push(row.to_owned());
        }
        self.times.entry((row.to_owned(), target.to_owned())).or_default().push(ns);
    }

    /// What the times of a row on a target say; none without times.
    pub fn summary(&self, row: &str, target: &str) -> Option<Summary> {
        let mut sorted = self.times.get(&(row.to_owned(), target.to_owned()))?.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, median) = (*sorted.first()?, quantile(&sorted, 0.5));
        let spread = (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / 2.0;
        Some(Summary { least, median, spread })
    }

    /// How many times were taken of a row.
    pub fn count(&self, row: &str) -> usize {
        self.times
            .iter()
            .filter(|((name, _), _)| name == row)
            .map(|(_, times)| times.len())
            .max()
            .unwrap_or(0)
    }

    /// The ratio of the least times: the load adds to a time and never takes from it.
    pub fn ratio(&self, row: &str, target: &str) -> Option<f64> {
        let native = self.targets.first()?;
        Some(self.summary(row, target)?.least / self.summary(row, native)?.least)
    }

    /// `{"machine", "commit", "targets", "rows": [{"name", "times": {TARGET: [ns…]}}]}`.
    pub fn to_json(&self) -> Value {
        let row = |name: &String| {
            let times: BTreeMap<&String, &Times> = self
                .targets
                .iter()
                .filter_map(|target| Some((target, self.times.get(&(name.clone(), target.clone()))?)))
                .collect();
            json!({"name": name, "times": times})
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({"machine": self.machine, "commit": self.commit, "targets": self.targets, "rows": rows})
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// For people: it has another form.
    pub fn of_json(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut results =
            Self { machine: word(&value["machine"]), commit: word(&value["commit"]), ..Self::default() };
        results.targets = value["targets"].as_array().ok_or("no list of targets")?.iter().map(word).collect();
        for row in value["rows"].as_array().ok_or("no list of rows")? {
            for (target, times) in row["times"].as_object().ok_or("a row without times")? {
                for time in times.as_array().into_iter().flatten() {
                    results.add(
                        &word(&row["name"]),
                        target,
                        time.as_f64().ok_or("a time that is no number")?,
                    );
                }
            }
        }
        Ok(results)
    }

    /// What got slower than in `old` beyond the noise of both, relative to native times, which move with the machine.
    pub fn slower_than(&self, old: &Self) -> Vec<String> {
        /// Less than this is never called slower.
        const TENTH: f64 = 0.10;
        let mut lines = Vec::new();
        for row in &self.rows {
            for target in self.targets.iter().skip(1) {
                let (Some(now), Some(then)) = (self.ratio(row, target), old.ratio(row, target)) else {
                    continue;
                };
                let noise = |results: &Self| {
                    let part = |name: &str| results.summary(row, name).map_or(0.0, |s| s.spread / s.median);
                    part(target) + results.targets.first().map_or(0.0, |native| part(native))
                };
                if now / then > 1.0 + TENTH.max(noise(self)).max(noise(old)) {
                    lines.push(format!("{row} on {target}: {then:.2} times native, now {now:.2}"));
                }
            }
        }
        lines
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ringfence: &[f64]) -> Results {
        let targets = vec!["native".to_owned(), "ringfence".to_owned()];
        let mut results = Results { targets, ..Results::default() };
        for time in [10.0, 11.0, 10.5] {
            results.add("read", "native", time);
        }
        ringfence.iter().for_each(|&time| results.add("read", "ringfence", time));
        results
    }

    #[test]
    fn the_median_of_three_is_the_middle_one() {
        let summary = run(&[1.0, 9.0, 2.0]).summary("read", "ringfence");
        assert_eq!(summary, Some(Summary { least: 1.0, median: 2.0, spread: 4.0 }));
    }

    #[test]
    fn json_can_be_read_back() {
        let results = run(&[20.0, 21.0]);
        assert_eq!(Results::of_json(&results.to_json().to_string()), Ok(results));
        assert!(Results::of_json("{}").is_err());
    }

    #[test]
    fn only_what_goes_beyond_the_noise_is_slower() {
        let old = run(&[20.0, 20.5, 21.0]);
        assert_eq!(run(&[21.0, 21.5, 22.0]).slower_than(&old), [""; 0]);
        assert_eq!(run(&[40.0, 41.0, 42.0]).slower_than(&old).len(), 1);
        assert_eq!(run(&[26.0, 80.0, 90.0]).slower_than(&old), [""; 0], "a wide spread is noise");
    }
}
