//! What runs a program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The search path of all programs: Debian's own.
pub const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Something that runs programs: the host's kernel, or a sandbox.
#[derive(Clone, Debug)]
pub struct Target {
    /// The column's name.
    pub name: String,
    /// The words before the program.
    pub prefix: Vec<String>,
}

impl Target {
    /// The command that runs `argv` here, with a clean environment.
    pub fn command(&self, argv: &[String]) -> Command {
        let words: Vec<&String> = self.prefix.iter().chain(argv).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().env("PATH", PATH).current_dir("/");
        command
    }
}

/// The host's kernel first, then ringfence on each of the platforms, then what else is installed.
///
/// # Errors
/// For people: there is no ringfence.
pub fn all(ringfence: Option<PathBuf>, platforms: &[String]) -> Result<Vec<Target>, String> {
    let ringfence = match ringfence {
        Some(path) => path,
        None => {
            let exe = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
            // target/release/ringfence-benches or target/release/deps/micro-HASH
            let dir = exe.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).unwrap_or(Path::new("."));
            dir.join("ringfence")
        }
    };
    if !ringfence.is_file() {
        return Err(format!(
            "{}: not there: cargo build --release --bin ringfence, or give --ringfence PATH",
            ringfence.display()
        ));
    }
    let ringfence = ringfence.to_string_lossy().into_owned();
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut targets = vec![Target { name: "native".to_owned(), prefix: Vec::new() }];
    if platforms.is_empty() {
        targets.push(Target { name: "ringfence".to_owned(), prefix: words(&[&ringfence, "run", "--"]) });
    }
    for platform in platforms {
        let prefix = words(&[&ringfence, "run", "--platform", platform, "--"]);
        targets.push(Target { name: platform.clone(), prefix });
    }
    let is_installed = |name: &str| PATH.split(':').any(|dir| Path::new(dir).join(name).exists());
    if is_installed("runsc") {
        // Its KVM platform hangs on software KVM.
        let prefix = words(&["runsc", "--platform=ptrace", "--network=none", "do"]);
        targets.push(Target { name: "runsc".to_owned(), prefix });
    }
    Ok(targets)
}
