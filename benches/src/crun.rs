//! crun as a target: a container without a kernel of its own, over the host's own files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::target::{PATH, Target};

/// What a container may do: what the rows need.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_FSETID",
];

/// In a mount namespace of its own: crun takes no groups of version 1 beside those of version 2, and its root must be a mount.
const START: &str = "mount --make-rprivate / && umount -l /sys/fs/cgroup 2>/dev/null; \
    mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; mount --bind / \"$1/rootfs\" && \
    exec crun --cgroup-manager=disabled run -b \"$1\" \"bench-$$\"";

/// The target, when a container can run here.
///
/// # Errors
/// For people: it cannot.
pub(crate) fn target() -> Result<Target, String> {
    let bundle = std::env::temp_dir().join(format!("ringfence-benches-crun-{}", std::process::id()));
    let place = |e: std::io::Error| format!("{}: {e}", bundle.display());
    std::fs::create_dir_all(bundle.join("rootfs")).map_err(place)?;
    // What an earlier process of this number left.
    let _ = std::fs::remove_file(bundle.join("config.json"));
    let made = Command::new("crun").arg("spec").current_dir(&bundle).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return Err("crun spec: it fails".to_owned());
    }
    let words = ["unshare", "-m", "/bin/sh", "-c", START, "crun", &bundle.to_string_lossy()];
    let prefix = words.map(str::to_owned).to_vec();
    let target = Target { name: "crun".to_owned(), prefix, bundle: Some(bundle) };
    let output = target.command(&["/bin/true".to_owned()])?.output().map_err(|e| format!("unshare: {e}"))?;
    if output.status.success() {
        return Ok(target);
    }
    Err(format!("no container runs here: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// Names the program in the bundle's configuration.
///
/// # Errors
/// For people: it cannot be read or written.
pub(crate) fn configure(bundle: &Path, argv: &[String]) -> Result<(), String> {
    let path: PathBuf = bundle.join("config.json");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let mut config: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let process = &mut config["process"];
    process["terminal"] = json!(false);
    process["args"] = json!(argv);
    process["env"] = json!([format!("PATH={PATH}")]);
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(CAPABILITIES);
    }
    config["root"] = json!({"path": "rootfs", "readonly": false});
    std::fs::write(&path, config.to_string()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_the_program_and_keeps_the_rest() {
        let dir = std::env::temp_dir().join(format!("bundle-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder can be made");
        let path = dir.join("config.json");
        std::fs::write(&path, r#"{"ociVersion": "1.0.0", "process": {"cwd": "/"}}"#)
            .expect("it can be written");
        configure(&dir, &["/bin/echo".to_owned(), "a b".to_owned()]).expect("it can be configured");
        let text = std::fs::read_to_string(&path).expect("it is there");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(config["process"]["args"], json!(["/bin/echo", "a b"]));
        assert_eq!((&config["ociVersion"], &config["process"]["cwd"]), (&json!("1.0.0"), &json!("/")));
        std::fs::remove_dir_all(&dir).expect("it is there");
    }
}
