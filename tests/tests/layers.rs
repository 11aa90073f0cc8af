//! The arrows between the crates: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of ours that it may use; `docs/architecture.md` says why.
const ARROWS: [(&str, &[&str]); 13] = [
    ("ringfence-abi", &[]),
    ("ringfence-base", &["abi"]),
    ("ringfence-host", &["abi"]),
    ("ringfence-platform", &["abi", "base", "host"]),
    ("ringfence-platform-kvm", &["abi", "base", "host", "platform"]),
    ("ringfence-platform-systrap", &["abi", "base", "host", "platform"]),
    ("ringfence-loader", &["abi"]),
    ("ringfence-fs", &["abi", "base", "host"]),
    ("ringfence-net", &["abi", "base", "host", "fs"]),
    ("ringfence-sentry", &["abi", "base", "host", "platform", "loader", "fs", "net"]),
    (
        "ringfence",
        &[
            "abi",
            "base",
            "host",
            "platform",
            "platform-kvm",
            "platform-systrap",
            "loader",
            "fs",
            "net",
            "sentry",
        ],
    ),
    // These see the binary only.
    ("ringfence-tests", &[]),
    ("ringfence-benches", &[]),
];

/// Crates of others that only one of ours may use.
const ONLY_IN: [(&str, &[&str]); 2] =
    [("kvm-ioctls", &["ringfence-platform-kvm"]), ("kvm-bindings", &["ringfence-platform-kvm"])];

/// Normal and build dependencies (not those of tests) of each crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(ringfence_tests::workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().expect("everything has a name").to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let used = list(&package["dependencies"]);
            let used = used.iter().filter(|used| used["kind"] != "dev").map(name).collect();
            (name(package), used)
        })
        .collect()
}

#[test]
fn dependencies_never_point_up() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut wrong = Vec::new();
    for (package, used) in dependencies() {
        let Some(allowed) = arrows.get(package.as_str()) else {
            wrong.push(format!("{package}: not in the table of this test: add it and say why it is there"));
            continue;
        };
        for used in used.iter().filter(|used| arrows.contains_key(used.as_str())) {
            let short = used.strip_prefix("ringfence-").unwrap_or(used);
            if !allowed.contains(&short) {
                wrong.push(format!("{package}: depends on {used}; it may use {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn kvm_is_reached_through_its_own_crate_only() {
    for (package, used) in dependencies() {
        for (name, places) in ONLY_IN {
            assert!(
                !used.contains(name) || places.contains(&package.as_str()),
                "{package}: depends on {name}"
            );
        }
    }
}
