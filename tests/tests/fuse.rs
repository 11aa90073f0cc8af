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

/// Programs run from a server's files and map them; a server that hangs meanwhile keeps nobody from being killed.
#[test]
fn files_of_a_server_are_run_and_mapped() {
    if !have_kvm() || !have_program("bindfs") || !have_program("python3") {
        return;
    }
    let script = r#"d=$(mktemp -d); cd $d; mkdir src mnt; cp /bin/echo src/prog; printf '#!/bin/sh\necho script\n' >src/s
        chmod +x src/s; head -c 300000 /dev/urandom >src/big; echo hello >src/f
        bindfs -f $d/src $d/mnt & server=$!
        for i in $(seq 200); do grep -q " $d/mnt fuse" /proc/mounts && break; sleep 0.05; done
        mnt/prog ran; mnt/s; cp src/prog src/other
        python3 -c '
import mmap
def whole(name, **how):
    with open(name, "rb") as f, mmap.mmap(f.fileno(), 0, **how) as m: return m[:]
print(whole("mnt/big", prot=mmap.PROT_READ) == open("src/big", "rb").read())
with open("mnt/f", "r+b") as f, mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE) as m:
    m[0:2] = b"HE"; print(m[:5], open("mnt/f").read().strip())
open("src/f", "a").write("world")
print(whole("mnt/f", flags=mmap.MAP_PRIVATE))
try:
    with open("mnt/f", "r+b") as f: mmap.mmap(f.fileno(), 0)
except OSError as e: print(e.strerror)
'
        kill -STOP $server; timeout -s KILL 1 mnt/other not; echo $?; kill -CONT $server
        mnt/other again; umount $d/mnt; wait $server; echo $?"#;
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(120));
    let wanted = "ran\nscript\nTrue\nb'HEllo' hello\nb'hello\\nworld'\nNo such device\n137\nagain\n0\n";
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), wanted, "{}", outcome.stderr_text());
}

/// A server of libfuse's first generation, whose threads work side by side, and that counts no links of its root.
#[test]
fn an_archive_is_served() {
    if !have_kvm() || !have_program("archivemount") {
        return;
    }
    let script = "d=$(mktemp -d); cd $d; mkdir src mnt; echo hello >src/f; tar -cf t.tar -C src .; archivemount t.tar mnt
        for i in $(seq 200); do grep -q \" $d/mnt fuse\" /proc/mounts && break; sleep 0.05; done
        ls mnt; cat mnt/f; for i in 1 2 3 4 5; do echo $i >mnt/new; cat mnt/new; done; umount $d/mnt";
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(60));
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "f\nhello\n1\n2\n3\n4\n5\n",
        "{}",
        outcome.stderr_text()
    );
}
