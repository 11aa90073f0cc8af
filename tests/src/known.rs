//! The list of known failures: cases that fail today, each with a reason and a date.

use std::collections::BTreeMap;

/// Name of a case, and why it fails.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, String>);

impl Known {
    /// Reads `known-failures.txt`.
    ///
    /// # Panics
    /// When the file is missing or a line is not `name | reason | YYYY-MM-DD`.
    pub fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/known-failures.txt");
        Self::parse(&std::fs::read_to_string(path).expect("known-failures.txt can be read"))
    }

    /// Reads the list's text; see [`Known::load`].
    ///
    /// # Panics
    /// As [`Known::load`].
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let mut map = BTreeMap::new();
        for line in lines {
            let fields: Vec<_> = line.split('|').map(str::trim).collect();
            let [name, reason, date] = fields[..] else {
                panic!("known-failures.txt: not `name | reason | date`: {line}");
            };
            assert!(!reason.is_empty() && date.len() == 10, "known-failures.txt: no reason or date: {line}");
            assert!(
                map.insert(name.to_owned(), format!("{reason}, {date}")).is_none(),
                "known-failures.txt: twice: {name}"
            );
        }
        Self(map)
    }

    /// Why the case fails, if it is known to.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of the list.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_name_reason_date() {
        let known = Known::parse("# why\n\ngit/log | no rename | 2026-11-23\n");
        assert_eq!(known.reason("git/log"), Some("no rename, 2026-11-23"));
        assert_eq!(known.reason("git"), None);
    }

    #[test]
    #[should_panic(expected = "no reason or date")]
    fn a_line_without_a_reason_is_refused() {
        Known::parse("git/log | | 2026-11-23");
    }
}
