//! FUSE with a server of Debian's inside the sandbox.

use std::time::Duration;

use ringfence_tests::outcome::sandboxed;
use ringfence_tests::{have_kvm, have_program};

#[test]
fn bindfs_serves_files() {
    if !have_kvm() || !have_program("bindfs") {
        return;
    }
    let script = "d=$(mktemp -d); cd $d; mkdir -p src/d mnt; echo hello >src/a; ln -s a src/l
        bindfs -f $d/src $d/mnt &
        for i in $(seq 200); do grep -q \" $d/mnt fuse\" /proc/mounts && break; sleep 0.05; done
        ls mnt; cat mnt/a; readlink mnt/l; echo more >>mnt/a; cat src/a
        mv mnt/a mnt/d/b; mkdir mnt/e; rmdir mnt/e; find src | sort
        head -c 3000000 /dev/urandom >mnt/big; cmp mnt/big src/big && echo equal
        kill -STOP $!; timeout 1 cat mnt/d/b; echo $?; kill -CONT $!
        umount $d/mnt; wait $!; echo $?";
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(120));
    let wanted = "a\nd\nl\nhello\na\nhello\nmore\nsrc\nsrc/d\nsrc/d/b\nsrc/l\nequal\n124\n0\n";
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), wanted, "{}", outcome.stderr_text());
}
