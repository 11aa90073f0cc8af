//! Which parts of a test failed, read from its output: a module of CPython holds hundreds of tests, and one that fails
//! natively too must not hide the others.

use std::collections::BTreeSet;

use crate::conformance::adapters::Kind;

/// The parts that failed, by names that are the same at each run; none when the output says nothing of parts.
pub(super) fn failed(kind: Kind, text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| part(kind, line)).map(str::to_owned).collect()
}

fn part(kind: Kind, line: &str) -> Option<&str> {
    match kind {
        Kind::Cpython => of_python(line),
        // `--- FAIL: TestRead/short (0.00s)`, indented for a test inside another.
        Kind::Go => line.trim_start().strip_prefix("--- FAIL: ")?.split_whitespace().next(),
        // `read02.c:57: TFAIL: read() succeeded`: the place, since the words may hold numbers.
        Kind::Ltp => {
            let fails = [" TFAIL", " TBROK", ":TFAIL", ":TBROK"];
            fails.iter().any(|word| line.contains(word)).then(|| place(line)).flatten()
        }
        // `src/functional/pthread.c:35: pthread_join failed: …`, or `FAIL ./functional/pthread.exe [status 1]`.
        Kind::LibcTest => place(line).filter(|place| place.contains(".c:")),
        // `tst-open.c:40: numeric comparison failure`, `error: tst-open.c:40: not true: …`.
        Kind::Glibc => {
            place(line.strip_prefix("error: ").unwrap_or(line)).filter(|place| place.contains(".c:"))
        }
        Kind::StressNg | Kind::Fsx | Kind::Fsstress => None,
    }
}

/// `FAIL: test_x (test.test_os.FDTests.test_x) (i=3)`: the name without the values of a subtest.
fn of_python(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("FAIL: ").or_else(|| line.strip_prefix("ERROR: "))?;
    match rest.find(')') {
        Some(end) if rest.contains(" (") => Some(&rest[..=end]),
        _ => None,
    }
}

/// `FILE:LINE` at the start of a line.
fn place(line: &str) -> Option<&str> {
    let colon = line.find(':')?;
    let digits = line[colon + 1..].bytes().take_while(u8::is_ascii_digit).count();
    let file = &line[..colon];
    (digits > 0 && !file.is_empty() && !file.contains(' ')).then(|| &line[..colon + 1 + digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(kind: Kind, text: &str) -> Vec<String> {
        failed(kind, text).into_iter().collect()
    }

    #[test]
    fn python_names_the_tests_of_a_module() {
        let text = "ERROR: test_b (test.test_os.C.test_b) [x]\nFAIL: test_a (test.test_os.C.test_a) (i=3)\n\
                    FAIL: test_a (test.test_os.C.test_a) (i=4)\nERROR: no module\nFAILED (failures=2)\n";
        assert_eq!(
            list(Kind::Cpython, text),
            ["test_a (test.test_os.C.test_a)", "test_b (test.test_os.C.test_b)"]
        );
    }

    #[test]
    fn go_names_tests_and_those_inside() {
        let text = "--- FAIL: TestRead (0.00s)\n    --- FAIL: TestRead/short (0.01s)\n--- SKIP: TestX (0.00s)\nFAIL\n";
        assert_eq!(list(Kind::Go, text), ["TestRead", "TestRead/short"]);
    }

    #[test]
    fn the_others_name_places_in_their_sources() {
        assert_eq!(list(Kind::Ltp, "a.c:57: TFAIL: read() gave 3\na.c:58: TPASS: fine\n"), ["a.c:57"]);
        assert_eq!(
            list(Kind::LibcTest, "src/functional/x.c:35: f() failed\nFAIL ./x.exe [status 1]\n"),
            ["src/functional/x.c:35"]
        );
        assert_eq!(list(Kind::Glibc, "error: t.c:4: not true: x\ninfo: 3\n"), ["t.c:4"]);
        assert_eq!(list(Kind::StressNg, "stress-ng: fail: x.c:3: y\n"), [""; 0]);
    }
}
