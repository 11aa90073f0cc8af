//! The table, the plot and the page.

use std::fmt::Write as _;
use std::path::Path;

use crate::results::Results;

/// A time for people.
fn shown(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// The table in Markdown: median and spread on each target, and how many times native the least time is.
pub fn table(results: &Results) -> String {
    let mut text = "| row | n |".to_owned();
    for (index, target) in results.targets.iter().enumerate() {
        let _ = write!(text, " {target} | {}", if index > 0 { "× native | " } else { "" });
    }
    text = text.trim_end().to_owned() + "\n|---|--:|";
    text += &"--:|".repeat(results.targets.len() * 2 - 1);
    text.push('\n');
    for row in &results.rows {
        let _ = write!(text, "| {row} | {} |", results.count(row));
        for (index, target) in results.targets.iter().enumerate() {
            match results.summary(row, target) {
                Some(summary) => {
                    let _ = write!(
                        text,
                        " {} ± {:.0} % |",
                        shown(summary.median),
                        summary.spread * 100.0 / summary.median
                    );
                }
                None => text += " – |",
            }
            if index > 0 {
                let ratio =
                    results.ratio(row, target).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(text, " {ratio} |");
            }
        }
        text.push('\n');
    }
    text
}

const COLOURS: [&str; 4] = ["#2563eb", "#d97706", "#059669", "#9333ea"];

/// A plot of the ratios to native on a logarithmic scale: a bar for each row and target.
pub fn plot(results: &Results) -> String {
    const LEFT: f64 = 150.0;
    const WIDE: f64 = 560.0;
    const BAR: f64 = 9.0;
    let others: Vec<&String> = results.targets.iter().skip(1).collect();
    let step = BAR * others.len() as f64 + 8.0;
    let ratios =
        || results.rows.iter().flat_map(|row| others.iter().filter_map(|target| results.ratio(row, target)));
    let most = ratios().fold(2.0, f64::max);
    let least = ratios().fold(1.0, f64::min);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let x = |ratio: f64| LEFT + WIDE * (ratio.log10() - low) / (high - low).max(1.0);
    let height = 46.0 + step * results.rows.len() as f64 + 24.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"800\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\" font-weight=\"600\">Time, as a multiple of native (least times, logarithmic)</text>\n"
    );
    for (index, target) in others.iter().enumerate() {
        let at = LEFT + index as f64 * 130.0;
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            text,
            "<rect x=\"{at}\" y=\"26\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"35\">{target}</text>",
            at + 15.0
        );
    }
    let mut exponent = low;
    while exponent <= high {
        let (at, value) = (x(10f64.powf(exponent)), 10f64.powf(exponent));
        let colour = if exponent == 0.0 { "#111" } else { "#ddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"42\" y2=\"{}\" stroke=\"{colour}\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}×</text>",
            height - 22.0,
            height - 8.0
        );
        exponent += 1.0;
    }
    for (place, row) in results.rows.iter().enumerate() {
        let top = 46.0 + place as f64 * step;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{row}</text>",
            LEFT - 8.0,
            top + step / 2.0
        );
        for (index, target) in others.iter().enumerate() {
            let Some(ratio) = results.ratio(row, target) else { continue };
            let (from, to, y) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)), top + index as f64 * BAR);
            let _ = writeln!(
                text,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" fill=\"#333\">{ratio:.2}</text>",
                (to - from).max(1.0),
                BAR - 1.0,
                COLOURS[index % COLOURS.len()],
                to + 4.0,
                y + BAR - 2.0
            );
        }
    }
    text + "</svg>\n"
}

/// Puts table and plot between the marks of a page; the plot is a file beside it.
///
/// # Errors
/// For people: a file cannot be written.
pub fn write(path: &Path, micro: bool, results: &Results, command: &str) -> Result<(), String> {
    let kind = if micro { "operations" } else { "programs" };
    let (begin, end) =
        (format!("<!-- {kind}: written by ringfence-benches -->\n"), format!("<!-- end of {kind} -->\n"));
    let name = format!("performance-{kind}.svg");
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let parts = old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = parts.unwrap_or((&old, ""));
    let text = format!(
        "{head}{begin}`ringfence-benches {command}`, commit {}, on {}. Median ± half the distance between the quartiles; \
         `× native` compares the least times.\n\n{}\n![{kind}]({name})\n{end}{tail}",
        results.commit,
        results.machine,
        table(results)
    );
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    let svg = path.with_file_name(name);
    std::fs::write(&svg, plot(results)).map_err(|e| format!("{}: {e}", svg.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let targets = vec!["native".to_owned(), "kvm".to_owned()];
        let mut results = Results { targets, ..Results::default() };
        results.add("read", "native", 100.0);
        results.add("read", "kvm", 250.0);
        results.add("gone", "native", 100.0);
        results
    }

    #[test]
    fn the_table_has_a_ratio_for_what_ran_and_a_dash_for_what_did_not() {
        let text = table(&results());
        assert!(text.contains("| read | 1 | 100 ns ± 0 % | 250 ns ± 0 % | 2.50 |"), "{text}");
        assert!(text.contains("| gone | 1 | 100 ns ± 0 % | – | – |"), "{text}");
    }

    #[test]
    fn the_plot_is_one_picture_without_missing_numbers() {
        let text = plot(&results());
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
