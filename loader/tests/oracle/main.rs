//! The host's kernel as the oracle: crafted files are executed natively, and the loader must foretell what happens.
//!
//! Everything that runs here is a few instructions which print the arguments and exit; the rest of a file is `int3`.

mod craft;
mod elf;
mod predict;
mod script;
mod stack;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

/// What execve(2) did.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It failed with this errno.
    Errno(i32),
    /// The program was killed by a signal, at the latest in its first instruction.
    Killed,
    /// The program ran and printed this.
    Ran(Vec<u8>),
}

/// A directory for the files of one test.
struct Dir {
    path: PathBuf,
    /// Processes are made one after the other: a child that is forked while a file is being written keeps it busy.
    _alone: MutexGuard<'static, ()>,
}

impl Dir {
    fn new(name: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = std::env::temp_dir().join(format!("ringfence-oracle-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self { path, _alone: alone }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, bytes).expect("a temporary file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions of a file of ours");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Executes a file with these arguments (the first is `argv[0]`) and one environment string.
fn execute(path: &Path, args: &[&str]) -> Outcome {
    loop {
        let mut command = Command::new(path);
        command.arg0(args[0]).args(&args[1..]).env_clear().env("E", "1");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        return match child.map(std::process::Child::wait_with_output) {
            Ok(Ok(output)) if output.status.signal().is_some() => Outcome::Killed,
            Ok(Ok(output)) if output.status.code() == Some(craft::EXIT_CODE) => Outcome::Ran(output.stdout),
            Ok(other) => panic!("{}: {other:?}", path.display()),
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => continue,
            Err(e) => Outcome::Errno(e.raw_os_error().expect("an errno")),
        };
    }
}
