//! What runs a program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::crun;

/// The search path of all programs: Debian's own.
pub const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Something that runs programs: the host's kernel, or a sandbox.
#[derive(Clone, Debug)]
pub struct Target {
    /// The column's name.
    pub name: String,
    /// The words before the program.
    pub prefix: Vec<String>,
    /// The folder of a bundle whose configuration names the program, for a runtime that takes it from there.
    pub bundle: Option<PathBuf>,
}

impl Target {
    fn new(name: &str, prefix: &[&str]) -> Self {
        let prefix = prefix.iter().map(|word| (*word).to_owned()).collect();
        Self { name: name.to_owned(), prefix, bundle: None }
    }

    /// The command that runs `argv` here, with a clean environment.
    ///
    /// # Errors
    /// For people: the bundle's configuration cannot be written.
    pub fn command(&self, argv: &[String]) -> Result<Command, String> {
        let mut words: Vec<&String> = self.prefix.iter().collect();
        match &self.bundle {
            Some(bundle) => crun::configure(bundle, argv)?,
            None => words.extend(argv),
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().env("PATH", PATH).current_dir("/");
        Ok(command)
    }

    /// Removes what was made for it.
    pub fn clear(&self) {
        // A folder left behind is no reason to fail.
        self.bundle.iter().for_each(|bundle| drop(std::fs::remove_dir_all(bundle)));
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
    let mut targets = vec![Target { name: "native".to_owned(), prefix: Vec::new(), bundle: None }];
    if platforms.is_empty() {
        targets.push(Target::new("ringfence", &[&ringfence, "run", "--"]));
    }
    for platform in platforms {
        targets.push(Target::new(platform, &[&ringfence, "run", "--platform", platform, "--"]));
    }
    let is_installed = |name: &str| PATH.split(':').any(|dir| Path::new(dir).join(name).exists());
    if is_installed("runsc") {
        // Its KVM platform hangs on software KVM.
        targets.push(Target::new("runsc", &["runsc", "--platform=ptrace", "--network=none", "do"]));
    }
    if is_installed("crun") {
        match crun::target() {
            Ok(target) => targets.push(target),
            Err(e) => eprintln!("skipped: crun: {e}"),
        }
    }
    Ok(targets)
}
