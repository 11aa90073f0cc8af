//! Builds guest programs, once for each content: the program's name holds a hash of its source, of `case.h` and of the flags.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// Static, so that the same bytes run on every kernel and a start costs no dynamic loading.
const FLAGS: [&str; 10] = [
    "-O1",
    "-g0",
    "-static",
    "-pthread",
    "-Wall",
    "-Wno-unused-result",
    "-Wno-nonnull",
    "-fmax-errors=5",
    "-ftrack-macro-expansion=0",
    "-fno-diagnostics-show-caret",
];

/// Where built programs are kept between runs.
///
/// # Errors
/// For people: the folder cannot be made.
pub fn cache() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    // target/PROFILE/ringfence-conformance or target/PROFILE/deps/TEST
    let profile = exe.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).unwrap_or(Path::new("/tmp"));
    let dir = profile.join("guest-programs");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

/// What cases of one area share.
fn headers_beside(source: &Path) -> Vec<PathBuf> {
    let entries = source.parent().and_then(|dir| fs::read_dir(dir).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut list: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "h")).collect();
    list.sort();
    list
}

/// The program built from `source`, from the cache if it was built before.
///
/// # Errors
/// For people: the source cannot be read or does not compile.
pub fn compile(source: &Path, cache: &Path) -> Result<PathBuf, String> {
    let read = |path: &Path| fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut hasher = DefaultHasher::new();
    FLAGS.hash(&mut hasher);
    read(source)?.hash(&mut hasher);
    let header = source.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("case.h");
    read(&header)?.hash(&mut hasher);
    for beside in headers_beside(source) {
        read(&beside)?.hash(&mut hasher);
    }
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let area = source.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let program = cache.join(format!("{area}-{stem}-{:016x}", hasher.finish()));
    if program.is_file() {
        return Ok(program);
    }
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let partial = cache.join(format!("partial-{}-{serial}", std::process::id()));
    let output = Command::new("cc")
        .args(FLAGS)
        .arg("-o")
        .args([&partial, source])
        .output()
        .map_err(|e| format!("cc: {e}: install a C compiler"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&partial, &program).map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(program)
}
