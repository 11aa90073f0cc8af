//! The guest programs and their cases: `tests/guest/AREA/FILE.c`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::outcome::native;
use crate::{conformance::compile, workspace};

/// Areas that are not part of the suite: what is run in the sandbox only, or made from seeds.
const APART: [&str; 2] = ["hostile", "random"];

/// A case: one fact about one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// `CALL.TITLE`, as the program knows it; the file's name for a program that is one case.
    pub name: String,
    /// The system call that it is about; empty for a program that is one case.
    pub syscall: String,
}

/// A guest program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Folder of the source.
    pub area: String,
    /// The source's name without its ending.
    pub file: String,
    /// The built program.
    pub path: PathBuf,
    /// Its cases, in the order of the source.
    pub cases: Vec<Case>,
    /// Whether it is a file of cases; otherwise the whole program is one case, and takes no arguments.
    pub has_cases: bool,
}

impl Program {
    /// The full name of one of its cases: `AREA/FILE.CALL.TITLE`, where FILE is left out when it is CALL.
    pub fn full_name(&self, case: &Case) -> String {
        if !self.has_cases {
            format!("{}/{}", self.area, self.file)
        } else if case.syscall == self.file {
            format!("{}/{}", self.area, case.name)
        } else {
            format!("{}/{}/{}", self.area, self.file, case.name)
        }
    }
}

/// The areas of the suite, in order.
///
/// # Errors
/// For people: `tests/guest` cannot be listed.
pub fn areas() -> Result<Vec<String>, String> {
    let mut areas: Vec<String> = names(&workspace().join("tests/guest"))?
        .into_iter()
        .filter(|name| !name.contains('.') && !APART.contains(&name.as_str()))
        .collect();
    areas.sort();
    Ok(areas)
}

/// The sources of an area, in order.
///
/// # Errors
/// For people: the area cannot be listed.
pub fn sources(area: &str) -> Result<Vec<PathBuf>, String> {
    let dir = workspace().join("tests/guest").join(area);
    let mut list: Vec<PathBuf> =
        names(&dir)?.into_iter().filter(|name| name.ends_with(".c")).map(|name| dir.join(name)).collect();
    list.sort();
    Ok(list)
}

fn names(dir: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Builds a source and asks the program for its cases.
///
/// # Errors
/// For people: it does not compile, or does not answer.
pub fn program(source: &Path, cache: &Path) -> Result<Program, String> {
    let path = compile::compile(source, cache)?;
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let file = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let area = source.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    if !text.lines().any(|line| line.starts_with("CASE(")) {
        let cases = vec![Case { name: file.clone(), syscall: String::new() }];
        return Ok(Program { area, file, path, cases, has_cases: false });
    }
    let argv = [path.to_str().ok_or("a path that is not UTF-8")?, "--list"];
    let outcome = native(&argv, b"", std::time::Duration::from_secs(20));
    let listed = String::from_utf8_lossy(&outcome.stdout);
    let cases: Vec<Case> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, syscall)| Case { name: name.to_owned(), syscall: syscall.to_owned() })
        .collect();
    if outcome.status != Some(0) || cases.is_empty() {
        return Err(format!(
            "{}: --list: status {:?}, {} cases",
            source.display(),
            outcome.status,
            cases.len()
        ));
    }
    Ok(Program { area, file, path, cases, has_cases: true })
}
