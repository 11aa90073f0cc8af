//! The tests of each suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::PATH;
use crate::conformance::adapters::{Kind, Test};

/// The tests of a suite: `ltp=DIR` (installed, with `runtest/syscalls`), `libc-test=DIR` (built), `glibc=DIR` (a build
/// folder after `make check`), `cpython`, `go`, `stress-ng`, `fsx[=PROGRAM]`, `fsstress[=PROGRAM]`. Only those whose name
/// is `wanted`, and only these are built.
///
/// # Errors
/// For people: no such suite, or it is not installed.
pub fn tests(suite: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Test>, String> {
    let (kind, place) = suite.split_once('=').unwrap_or((suite, ""));
    let mut found = match kind {
        "ltp" => ltp(Path::new(place)),
        "libc-test" => libc_test(Path::new(place)),
        "glibc" => glibc(Path::new(place)),
        "cpython" => cpython(),
        "go" => go(&wanted),
        "stress-ng" => stress_ng(),
        "fsx" => program("fsx", place).and_then(|program| Ok(fsx(&program, &printed(&[&program, "-h"])?))),
        "fsstress" => program("fsstress", place).map(|program| fsstress(&program)),
        _ => Err(format!(
            "{kind}: no such suite (there are ltp=DIR, libc-test=DIR, glibc=DIR, cpython, go, stress-ng, fsx, fsstress)"
        )),
    }?;
    found.retain(|test| wanted(&test.name));
    if found.is_empty() { Err(format!("{suite}: it has no tests")) } else { Ok(found) }
}

fn test(kind: Kind, name: String, argv: &[&str], limit: u64) -> Test {
    Test { kind, name, argv: argv.iter().map(|s| (*s).to_owned()).collect(), limit }
}

/// What a program prints.
fn printed(argv: &[&str]) -> Result<String, String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().map_err(|e| format!("{}: {e}", argv[0]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program at `place`, or the one of that name in the search path.
fn program(name: &str, place: &str) -> Result<String, String> {
    let there = |path: &PathBuf| path.is_file();
    let found = match place {
        "" => PATH.split(':').map(|dir| Path::new(dir).join(name)).find(there),
        place => Some(PathBuf::from(place)).filter(there),
    };
    let path = found.ok_or_else(|| format!("{name}: not installed: give {name}=PROGRAM"))?;
    let path = fs::canonicalize(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A `runtest` file has a line `NAME COMMAND…` for each test.
fn ltp(dir: &Path) -> Result<Vec<Test>, String> {
    let list = dir.join("runtest/syscalls");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    Ok(runtest(&text, &dir.to_string_lossy()))
}

fn runtest(text: &str, dir: &str) -> Vec<Test> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, command)| {
            // The test must not be process 1: LTP takes that for the sign that its parent has died.
            let script = format!(
                "export LTPROOT={dir} PATH={dir}/testcases/bin:$PATH; cd /tmp; {}; exit $?",
                command.trim()
            );
            test(Kind::Ltp, format!("ltp/{name}"), &["/bin/sh", "-c", &script], 60)
        })
        .collect()
}

/// The entries of a folder, in order.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let read = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut list: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    list.sort();
    Ok(list)
}

/// Each `src/PART/NAME.exe`; `NAME-static.exe` beside it is the same test again, linked statically.
fn libc_test(dir: &Path) -> Result<Vec<Test>, String> {
    let dir = fs::canonicalize(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut tests = Vec::new();
    for part in ["functional", "regression", "math"] {
        for path in entries(&dir.join("src").join(part))? {
            if path.extension().is_some_and(|ending| ending == "exe") {
                let name = format!("libc-test/{part}/{}", path.file_stem().unwrap_or_default().display());
                tests.push(test(Kind::LibcTest, name, &[&path.to_string_lossy()], 30));
            }
        }
    }
    Ok(tests)
}

/// `make check` leaves `SUBFOLDER/NAME.test-result` for each test; those whose program lies beside it can be run again,
/// with the library of the build, by its `testrun.sh`.
fn glibc(dir: &Path) -> Result<Vec<Test>, String> {
    let dir = fs::canonicalize(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let runner = dir.join("testrun.sh");
    if !runner.is_file() {
        return Err(format!("{}: not there: give the build folder, after `make check`", runner.display()));
    }
    let mut tests = Vec::new();
    for part in entries(&dir)?.iter().filter(|path| path.is_dir()) {
        for path in entries(part)? {
            let program = path.with_extension("");
            if path.extension().is_some_and(|ending| ending == "test-result") && program.is_file() {
                let name = program.strip_prefix(&dir).unwrap_or(&program);
                let argv = [&*runner.to_string_lossy(), &*program.to_string_lossy()];
                tests.push(test(Kind::Glibc, format!("glibc/{}", name.display()), &argv, 60));
            }
        }
    }
    Ok(tests)
}

/// CPython's regression tests, a case for each module.
fn cpython() -> Result<Vec<Test>, String> {
    let list = printed(&["/usr/bin/python3", "-m", "test", "--list-tests"])?;
    if list.trim().is_empty() {
        return Err("cpython: no tests: install libpython3-testsuite".to_owned());
    }
    Ok(modules(&list))
}

fn modules(list: &str) -> Vec<Test> {
    list.lines()
        .filter(|name| name.starts_with("test_"))
        .map(|name| {
            // Not as process 1: what becomes an orphan would be its child, and a leak in its eyes.
            let script = format!("/usr/bin/python3 -m test -q -W {name}; exit $?");
            test(Kind::Cpython, format!("cpython/{name}"), &["/bin/sh", "-c", &script], 180)
        })
        .collect()
}

/// Go's standard library: each package's tests, compiled natively once, then run.
fn go(wanted: impl Fn(&str) -> bool) -> Result<Vec<Test>, String> {
    let root = printed(&["go", "env", "GOROOT"])?;
    let list = printed(&["go", "list", "std"])?;
    let dir = std::env::temp_dir().join("ringfence-go-tests");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut tests = Vec::new();
    for package in packages(&list).filter(|package| wanted(&format!("go/{package}"))) {
        let program = dir.join(package.replace('/', "_"));
        if !program.exists() {
            // A package without tests makes no program.
            let _ = Command::new("go").args(["test", "-c", "-o"]).arg(&program).arg(package).output();
        }
        if program.exists() {
            let source = Path::new(root.trim()).join("src").join(package);
            tests.push(go_test(package, &source, &program));
        }
    }
    Ok(tests)
}

fn packages(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|package| {
        let mut parts = package.split('/');
        !package.is_empty() && !parts.any(|part| part == "internal" || part == "vendor")
    })
}

fn go_test(package: &str, source: &Path, program: &Path) -> Test {
    // The tests of a package find their data in its folder.
    let script =
        format!("cd {} && {} -test.short -test.timeout 110s; exit $?", source.display(), program.display());
    test(Kind::Go, format!("go/{package}"), &["/bin/sh", "-c", &script], 120)
}

fn stress_ng() -> Result<Vec<Test>, String> {
    Ok(stressors(&printed(&["/usr/bin/stress-ng", "--stressors"])?))
}

fn stressors(list: &str) -> Vec<Test> {
    list.split_whitespace()
        .map(|name| {
            let option = format!("--{name}");
            let argv = [
                "/usr/bin/stress-ng",
                &option,
                "1",
                "--verify",
                "--timeout",
                "2",
                "--temp-path",
                "/tmp",
                "-q",
            ];
            test(Kind::StressNg, format!("stress-ng/{name}"), &argv, 30)
        })
        .collect()
}

/// How fsx is run: the name of the way, and its options. All read back what they wrote, by `read` and by mappings, and
/// say what is wrong.
const FSX_WAYS: [(&str, &str); 4] = [
    ("mixed", ""),
    ("no-mappings", "-R -W"),
    ("pages", "-r 4096 -w 4096 -t 4096"),
    ("long", "-l 4194304 -o 262144"),
];
/// Seeds for each way.
const FSX_SEEDS: u32 = 3;

/// `help` is what the program says of itself: LTP's rewrite has fewer options, and makes file and seed itself.
fn fsx(program: &str, help: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    if help.contains("LTPROOT") {
        for (way, options) in [("mixed", ""), ("pages", "-r 4096 -w 4096 -t 4096")] {
            let script = format!("{program} -N 5000 {options}; exit $?");
            tests.push(test(Kind::Fsx, format!("fsx/ltp-{way}"), &["/bin/sh", "-c", &script], 120));
        }
        return tests;
    }
    for (way, options) in FSX_WAYS {
        for seed in 1..=FSX_SEEDS {
            let script = format!(
                "f=$(mktemp -d) && {program} -q -N 5000 -S {seed} {options} $f/file; r=$?; rm -rf $f; exit $r"
            );
            tests.push(test(Kind::Fsx, format!("fsx/{way}-{seed}"), &["/bin/sh", "-c", &script], 120));
        }
    }
    tests
}

fn fsstress(program: &str) -> Vec<Test> {
    let ways = [("one", 1, 2000), ("four", 4, 1000), ("sixteen", 16, 200)];
    ways.iter()
        .map(|(way, processes, operations)| {
            let script = format!(
                "d=$(mktemp -d) && {program} -d $d -n {operations} -p {processes} -s 7; r=$?; rm -rf $d; exit $r"
            );
            test(Kind::Fsstress, format!("fsstress/{way}"), &["/bin/sh", "-c", &script], 120)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own with these files in it, the executable bit set; goes away with its owner.
    struct Folder(PathBuf);

    impl Folder {
        fn with(name: &str, files: &[&str]) -> Self {
            let dir = std::env::temp_dir().join(format!("adapters-{name}-{}", std::process::id()));
            for file in files {
                let path = dir.join(file);
                fs::create_dir_all(path.parent().expect("it lies in the folder"))
                    .expect("a folder can be made");
                fs::write(&path, "").expect("a file can be made");
            }
            Self(dir)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn names(tests: &[Test]) -> Vec<&str> {
        tests.iter().map(|test| test.name.as_str()).collect()
    }

    #[test]
    fn a_runtest_file_gives_a_test_for_each_line() {
        let tests = runtest("# comment\n\nabort01 abort01\nread02\tread02 -x 1\n", "/opt/ltp");
        assert_eq!(names(&tests), ["ltp/abort01", "ltp/read02"]);
        assert!(tests[1].argv[2].ends_with("; read02 -x 1; exit $?"), "{:?}", tests[1].argv);
    }

    #[test]
    fn a_built_libc_test_gives_a_test_for_each_program() {
        let files = ["functional/argv.exe", "functional/argv.o", "regression/a-static.exe", "math/acos.exe"];
        let folder =
            Folder::with("libc-test", &files.map(|file| format!("src/{file}")).each_ref().map(|f| &**f));
        let tests = libc_test(&folder.0).expect("the folder is there");
        let want = ["libc-test/functional/argv", "libc-test/regression/a-static", "libc-test/math/acos"];
        assert_eq!(names(&tests), want);
        assert!(super::tests("libc-test=/nonesuch", |_| true).is_err());
    }

    #[test]
    fn a_build_of_glibc_gives_a_test_for_each_result_that_has_a_program() {
        let files = [
            "testrun.sh",
            "io/tst-open",
            "io/tst-open.test-result",
            "io/lint.test-result",
            "nptl/tst-a",
            "elf/x.o",
        ];
        let folder = Folder::with("glibc", &files);
        let tests = glibc(&folder.0).expect("the folder is there");
        assert_eq!(names(&tests), ["glibc/io/tst-open"]);
        assert!(tests[0].argv[0].ends_with("/testrun.sh") && tests[0].argv[1].ends_with("/io/tst-open"));
        fs::remove_file(folder.0.join("testrun.sh")).expect("it is there");
        assert!(glibc(&folder.0).is_err_and(|e| e.contains("make check")));
    }

    #[test]
    fn lists_are_read_as_the_programs_print_them() {
        assert_eq!(names(&modules("test_os\ntest_io\nusage: x\n")), ["cpython/test_os", "cpython/test_io"]);
        assert_eq!(names(&stressors("access af-alg\n")), ["stress-ng/access", "stress-ng/af-alg"]);
        let list = "os\nos/exec\ninternal/poll\nnet/http/internal\nvendor/golang.org/x/net\n\n";
        assert_eq!(packages(list).collect::<Vec<_>>(), ["os", "os/exec"]);
        let test = go_test("os", Path::new("/go/src/os"), Path::new("/tmp/os"));
        assert!(test.argv[2].starts_with("cd /go/src/os && /tmp/os -test.short"), "{:?}", test.argv);
    }

    #[test]
    fn programs_of_one_name_are_found_or_named_as_missing() {
        assert_eq!(fsx("/opt/fsx", "usage: fsx").len(), FSX_WAYS.len() * FSX_SEEDS as usize);
        assert!(fsx("/opt/fsx", "")[0].argv[2].contains("/opt/fsx -q -N 5000 -S 1"));
        assert_eq!(names(&fsx("/opt/fsx-linux", "LTPROOT  Prefix")), ["fsx/ltp-mixed", "fsx/ltp-pages"]);
        assert!(fsstress("/opt/fsstress")[1].argv[2].contains("-p 4 -s 7"));
        assert!(super::tests("fsx=/nonesuch", |_| true).is_err_and(|e| e.contains("fsx=PROGRAM")));
        assert!(super::tests("nonesuch", |_| true).is_err_and(|e| e.contains("nonesuch")));
    }
}
