//! What files leave in memory is given back when programs want it.

use std::process::Command;
use std::time::Duration;

use ringfence_tests::outcome::run;
use ringfence_tests::{have_kvm, have_program, ringfence};

#[test]
fn the_page_cache_makes_room_for_programs() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    // More than the limit is read and mapped before the memory is wanted.
    let script = "
import glob, mmap
total = 0
for name in glob.glob('/usr/lib/x86_64-linux-gnu/*.so*') + glob.glob('/usr/bin/*'):
    try:
        with open(name, 'rb') as f:
            total += len(f.read(1 << 20))
            m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
            m[::4096]
            m.close()
    except (OSError, ValueError):
        pass
    if total > 150 << 20: break
data = bytearray(36 << 20)
data[::4096] = bytes(len(data) // 4096)
print('there is room')
";
    let mut command = Command::new(ringfence());
    command.args(["run", "--memory", "64M", "--", "python3", "-c", script]);
    let outcome = run(command, b"", Duration::from_secs(120));
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, "there is room\n", "status {:?}: {}", outcome.status, outcome.stderr_text());
}
