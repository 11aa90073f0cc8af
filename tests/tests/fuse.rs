//! FUSE with a server of Debian's inside the sandbox.

use std::time::Duration;

use ringfence_tests::outcome::sandboxed;
use ringfence_tests::{have_kvm, have_program};

#[test]
fn bindfs_serves_files() {
    if !have_kvm() || !have_program("bindfs") {
        return;
    }
    let script = "mkdir -p /tmp/src/d /tmp/mnt; echo hello >/tmp/src/a; ln -s a /tmp/src/l
        bindfs -f /tmp/src /tmp/mnt & until grep -q ' /tmp/mnt fuse' /proc/mounts; do sleep 0.05; done
        ls /tmp/mnt; cat /tmp/mnt/a; readlink /tmp/mnt/l; echo more >>/tmp/mnt/a; cat /tmp/src/a
        mv /tmp/mnt/a /tmp/mnt/d/b; mkdir /tmp/mnt/e; rmdir /tmp/mnt/e; find /tmp/src | sort
        head -c 3000000 /dev/urandom >/tmp/mnt/big; cmp /tmp/mnt/big /tmp/src/big && echo equal
        kill -STOP $!; timeout 1 cat /tmp/mnt/d/b; echo $?; kill -CONT $!
        umount /tmp/mnt; wait $!; echo $?";
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(120));
    let wanted =
        "a\nd\nl\nhello\na\nhello\nmore\n/tmp/src\n/tmp/src/d\n/tmp/src/d/b\n/tmp/src/l\nequal\n124\n0\n";
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), wanted, "{}", outcome.stderr_text());
}
