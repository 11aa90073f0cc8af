//! The report as one HTML file without scripts or anything from elsewhere, and the page `docs/compatibility.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::conformance::results::{Row, count};
use crate::conformance::verdict::Result as Verdict;

/// What stands above the results.
#[derive(Clone, Debug, Default)]
pub struct Heading {
    /// What was measured: the runner's command, or `native`.
    pub runner: String,
    /// The machine and its kernel.
    pub machine: String,
    /// The command that made the results.
    pub command: String,
    /// Rows of the table of system calls that are marked full and have no case.
    pub uncovered: Vec<String>,
}

/// Rows by area, areas in order.
fn by_area(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut areas: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        areas.entry(row.area()).or_default().push(row);
    }
    areas
}

/// Counts in the order of [`Verdict::ALL`].
fn counts(rows: &[&Row]) -> [usize; 4] {
    Verdict::ALL.map(|result| rows.iter().filter(|row| row.result == result).count())
}

/// Passes among what was run, as `97.3 %`.
pub(super) fn share(pass: usize, skip: usize, total: usize) -> String {
    match total - skip {
        0 => "–".to_owned(),
        run => format!("{:.1} %", pass as f64 * 100.0 / run as f64),
    }
}

/// Number of system calls with at least one case.
fn covered(rows: &[Row]) -> usize {
    let mut names: Vec<&str> =
        rows.iter().map(|row| row.syscall.as_str()).filter(|s| !s.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}

/// The page in Markdown: totals, areas, every case that does not pass.
pub fn markdown(rows: &[Row], heading: &Heading) -> String {
    let (pass, skip) = (count(rows, Verdict::Pass), count(rows, Verdict::Skip));
    let mut text = format!(
        "{} cases over {} system calls: {pass} pass, {} fail, {skip} are skipped, {} take too long: **{}** of those that \
         ran.\n\nRunner `{}` on {}.\n\n| area | cases | pass | fail | skip | timeout | share |\n|---|--:|--:|--:|--:|--:|--:|\n",
        rows.len(),
        covered(rows),
        count(rows, Verdict::Fail),
        count(rows, Verdict::Timeout),
        share(pass, skip, rows.len()),
        heading.runner,
        heading.machine,
    );
    for (area, rows) in by_area(rows) {
        let [pass, fail, skip, timeout] = counts(&rows);
        let share = share(pass, skip, rows.len());
        let _ =
            writeln!(text, "| {area} | {} | {pass} | {fail} | {skip} | {timeout} | {share} |", rows.len());
    }
    let failing: Vec<&Row> =
        rows.iter().filter(|row| matches!(row.result, Verdict::Fail | Verdict::Timeout)).collect();
    if !failing.is_empty() {
        text += "\n| case | result | why |\n|---|---|---|\n";
        for row in failing {
            let why = row.detail.lines().next().unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {} | {} |", row.name, row.result.word(), why);
        }
    }
    if !heading.uncovered.is_empty() {
        let _ = writeln!(text, "\nMarked full and without a case: {}.", heading.uncovered.join(", "));
    }
    text
}

/// What stands between marks of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The results of our own cases.
    Results,
    /// The table of several runs.
    Beside,
}

impl Marks {
    const fn lines(self) -> (&'static str, &'static str) {
        match self {
            Self::Results => (
                "<!-- results: written by ringfence-conformance --markdown -->\n",
                "<!-- end of results -->\n",
            ),
            Self::Beside => {
                ("<!-- beside: written by ringfence-conformance --beside -->\n", "<!-- end of beside -->\n")
            }
        }
    }
}

/// The page with new text between its marks; a page without marks gets them at its end.
pub fn between_marks(page: &str, marks: Marks, text: &str) -> String {
    let (begin, end) = marks.lines();
    let parts = page.split_once(begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
    let (head, tail) = parts.unwrap_or((page, ""));
    format!("{head}{begin}{text}{end}{tail}")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --dim: #768390; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { color: var(--dim); margin: .2rem 0; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
.big { font-size: 2.4rem; font-weight: 600; color: inherit; }
.row { display: grid; grid-template-columns: 9rem 1fr repeat(5, 4.2rem); gap: .6rem; align-items: center; padding: .25rem .4rem; }
.row > * { text-align: right; } .row > :first-child { text-align: left; font-weight: 600; }
.head { color: var(--dim); font-size: .85rem; border-bottom: 1px solid var(--line); }
.head > :first-child { font-weight: normal; }
.bar { display: flex; height: .7rem; border-radius: .35rem; overflow: hidden; background: var(--line); }
.bar i { display: block; height: 100%; } .good { background: var(--good); } .bad { background: var(--bad); } .dim { background: var(--dim); }
details { border-bottom: 1px solid var(--line); } summary { cursor: pointer; list-style: none; }
summary::-webkit-details-marker { display: none; } summary .row > :first-child::before { content: '▸ '; color: var(--dim); }
details[open] > summary .row > :first-child::before { content: '▾ '; }
.call { border: 0; margin-left: 1.4rem; } .call > summary::before { content: '▸ '; color: var(--dim); }
.call[open] > summary::before { content: '▾ '; }
ul { margin: .2rem 0 .5rem 1.4rem; padding: 0; list-style: none; } pre { margin: .2rem 0 .5rem 1rem; padding: .5rem; overflow: auto; background: #8881; border-radius: .3rem; }
b.pass { color: var(--good); } b.fail, b.timeout { color: var(--bad); } b.skip { color: var(--dim); } b { font-weight: 600; }
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A bar of passes, failures and the rest.
fn bar([pass, fail, skip, timeout]: [usize; 4]) -> String {
    let total = (pass + fail + skip + timeout).max(1) as f64;
    let part = |class: &str, n: usize| {
        format!("<i class={class} style=\"width:{:.2}%\"></i>", n as f64 * 100.0 / total)
    };
    format!(
        "<span class=bar>{}{}{}</span>",
        part("good", pass),
        part("bad", fail + timeout),
        part("dim", skip)
    )
}

/// The report: a table by area; an area opens to its system calls, a system call to its cases.
pub fn html(rows: &[Row], heading: &Heading) -> String {
    let (pass, skip) = (count(rows, Verdict::Pass), count(rows, Verdict::Skip));
    let mut text = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\n\
         <title>Conformance: {runner}</title>\n<style>{STYLE}</style>\n<h1>Conformance of {runner}</h1>\n\
         <p class=big>{}</p><p>{pass} of {} cases behave as on the host's kernel; {} system calls have cases.</p>\n\
         <p>{}</p><p><code>{}</code></p>\n<h2>By area</h2>\n\
         <div class=\"row head\"><span>area</span><span></span><span>cases</span><span>pass</span><span>fail</span>\
         <span>skip</span><span>share</span></div>\n",
        share(pass, skip, rows.len()),
        rows.len() - skip,
        covered(rows),
        escaped(&heading.machine),
        escaped(&heading.command),
        runner = escaped(&heading.runner),
    );
    for (area, rows) in by_area(rows) {
        let all @ [pass, fail, skip, timeout] = counts(&rows);
        let _ = writeln!(
            text,
            "<details><summary><div class=row><span>{}</span>{}<span>{}</span><span>{pass}</span><span>{}</span>\
             <span>{skip}</span><span>{}</span></div></summary>",
            escaped(area),
            bar(all),
            rows.len(),
            fail + timeout,
            share(pass, skip, rows.len()),
        );
        let mut calls: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            let call = if row.syscall.is_empty() { "whole programs" } else { &row.syscall };
            calls.entry(call).or_default().push(row);
        }
        for (call, rows) in calls {
            let [pass, fail, _, timeout] = counts(&rows);
            let open = if fail + timeout > 0 { " open" } else { "" };
            let _ = writeln!(
                text,
                "<details class=call{open}><summary><code>{}</code> {pass}/{}</summary><ul>",
                escaped(call),
                rows.len()
            );
            for row in rows {
                let word = row.result.word();
                let _ = write!(text, "<li><b class={word}>{word}</b> <code>{}</code>", escaped(&row.name));
                if !row.detail.is_empty() {
                    let _ = write!(text, "<pre>{}</pre>", escaped(row.detail.trim_end()));
                }
                text += "\n";
            }
            text += "</ul></details>\n";
        }
        text += "</details>\n";
    }
    if !heading.uncovered.is_empty() {
        let _ =
            writeln!(text, "<h2>Marked full and without a case</h2><p>{}</p>", heading.uncovered.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |name: &str, result, detail: &str| Row {
            name: name.to_owned(),
            syscall: "read".to_owned(),
            result,
            detail: detail.to_owned(),
        };
        vec![
            row("files/read.a", Verdict::Pass, ""),
            row("files/read.b", Verdict::Fail, "<got> | \"x\"\nmore"),
        ]
    }

    #[test]
    fn the_report_holds_no_script_and_nothing_unescaped() {
        let text = html(&rows(), &Heading::default());
        assert!(text.contains("&lt;got&gt;") && !text.contains("<got>"), "{text}");
        assert!(!text.contains("<script") && !text.contains("http"), "{text}");
        assert!(text.contains("50.0 %"));
    }

    #[test]
    fn new_results_replace_the_old_ones_only() {
        let page = between_marks("# Title\n", Marks::Results, "one\n") + "after\n";
        let again = between_marks(&page, Marks::Results, "two\n");
        assert!(again.starts_with("# Title\n") && again.ends_with("after\n"));
        assert!(again.contains("two") && !again.contains("one\n"));
    }

    #[test]
    fn the_page_names_each_failure_in_one_line() {
        let text = markdown(&rows(), &Heading::default());
        assert!(text.contains("| `files/read.b` | fail | <got> \\| \"x\" |"), "{text}");
        assert!(text.contains("| files | 2 | 1 | 1 | 0 | 0 | 50.0 % |"), "{text}");
    }
}
