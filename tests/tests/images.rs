//! erofs images of Debian's `mkfs.erofs` as the root: what is read of them is what was put in.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ringfence_tests::outcome::run;
use ringfence_tests::{have_kvm, have_program, ringfence, scratch};

const LIMIT: Duration = Duration::from_secs(120);

fn shell(script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-ec", script]);
    let outcome = run(command, b"", LIMIT);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr_text());
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

/// A tree with a program and files of all kinds of contents.
fn tree(dir: &Path) {
    shell(&format!(
        "rm -rf {dir}; mkdir -p {dir}/data/d; cd {dir}
        for f in $(ldd /usr/bin/sha256sum | grep -o '/[^ ]*'); do mkdir -p .$(dirname $f); cp -L $f .$f; done
        mkdir -p usr/bin; cp /usr/bin/sha256sum usr/bin; cd data
        head -c 1000000 /dev/urandom >random; head -c 3000000 /dev/zero >zeros; : >empty; echo x >small; seq 200000 >text
        cp /usr/bin/bash program; (head -c 5000 /dev/urandom; seq 3000; head -c 70000 /dev/zero; seq 9000) >mixed
        for i in $(seq 300); do seq $i >d/$i; done",
        dir = dir.display()
    ));
}

#[test]
fn compressed_images_are_read() {
    if !have_kvm() || !have_program("mkfs.erofs") {
        return;
    }
    let dir = scratch().join("images");
    tree(&dir.join("tree"));
    let sums = "find data -type f | sort | sed 's|^|/|'";
    let files = shell(&format!("cd {}/tree; {sums}", dir.display()));
    let files: Vec<&str> = files.lines().collect();
    let wanted = shell(&format!("cd {}/tree; {sums} | sed 's|^|.|' | xargs sha256sum", dir.display()));
    let kinds = ["", "-zlz4", "-zlz4hc", "-zlz4hc -C65536", "-zlz4 -C16384"];
    for kind in kinds {
        let image = dir.join("image");
        shell(&format!(
            "rm -f {image}; mkfs.erofs {kind} {image} {dir}/tree >/dev/null 2>&1",
            image = image.display(),
            dir = dir.display()
        ));
        let mut command = Command::new(ringfence());
        command.args(["run", "--root"]).arg(&image).args(["--", "/usr/bin/sha256sum"]).args(&files);
        let outcome = run(command, b"", LIMIT);
        let text = String::from_utf8_lossy(&outcome.stdout).replace(" /", " ./");
        assert_eq!(text, wanted, "{kind}: {}", outcome.stderr_text());
    }
}
