//! Limits of mounts that belong to the whole sandbox, so that no case can be run natively beside others.

use std::time::Duration;

use ringfence_tests::have_kvm;
use ringfence_tests::outcome::sandboxed;

#[test]
fn a_namespace_has_no_more_mounts_than_the_sysctl_says() {
    if !have_kvm() {
        return;
    }
    let script = "f=/proc/sys/fs/mount-max; cat $f; echo 0 >$f 2>/dev/null || echo refused
        d=$(mktemp -d); mkdir $d/a $d/b $d/c; mount -t tmpfs t $d/a; n=$(wc -l </proc/self/mountinfo)
        echo $((n + 1)) >$f
        mount -t tmpfs t $d/b && echo one more; mount -t tmpfs t $d/c 2>/dev/null || echo full
        umount $d/b; mount --bind $d/a $d/c && echo again; umount $d/c
        mount --make-shared $d/a; mkdir $d/a/in; mount --bind $d/a $d/b
        mount -t tmpfs t $d/a/in 2>/dev/null || echo the copy has no place; umount $d/b
        mount -t tmpfs t $d/a/in && echo alone it has; mount --move $d/a/in $d/c 2>/dev/null || echo shared
        mount --make-private $d/a; mount --move $d/a/in $d/c && echo moved; umount $d/c $d/a
        wc -l </proc/self/mountinfo | grep -qx $((n - 1)) && echo none left over";
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(60));
    let wanted = "100000\nrefused\none more\nfull\nagain\nthe copy has no place\nalone it has\nshared\nmoved\n\
        none left over\n";
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), wanted, "{}", outcome.stderr_text());
}
