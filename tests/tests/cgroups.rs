//! Control groups: the host's are not the sandbox's to compare with, so what must be seen is written here.

use std::time::Duration;

use ringfence_tests::have_kvm;
use ringfence_tests::outcome::sandboxed;

fn shows(script: &str, wanted: &str) {
    if !have_kvm() {
        return;
    }
    let outcome = sandboxed(&["sh", "-c", script], b"", Duration::from_secs(120));
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, wanted, "status {:?}: {}", outcome.status, outcome.stderr_text());
}

const MAKE: &str =
    "cd /sys/fs/cgroup && echo '+pids +memory +cpu' >cgroup.subtree_control && mkdir a && cd a || exit 1;";

#[test]
fn processes_are_where_they_were_put() {
    let script = format!(
        "{MAKE} cat cgroup.type cgroup.controllers; echo $$ >cgroup.procs; cat /proc/self/cgroup pids.current cgroup.events; \
         rmdir ../a 2>/dev/null || echo busy; echo $$ >../cgroup.procs; cat cgroup.events; cd ..; rmdir a && ls -d a 2>/dev/null || echo gone"
    );
    shows(
        &script,
        "domain\ncpu memory pids\n0::/a\n2\npopulated 1\nfrozen 0\nbusy\npopulated 0\nfrozen 0\ngone\n",
    );
}

#[test]
fn no_more_processes_than_may_be() {
    let script = format!(
        "{MAKE} echo 3 >pids.max; python3 -c \"\nimport os\nopen('cgroup.procs','w').write('0')\nmade=0\n\
         for i in range(5):\n  try:\n    if os.fork()==0: os.read(r,1) if i<0 else __import__('signal').pause()\n    made+=1\n  except BlockingIOError: pass\n\
         print('made',made, open('pids.current').read().strip(), open('pids.events').read().strip(), flush=True)\n\
         open('../cgroup.procs','w').write('0')\nopen('cgroup.kill','w').write('1')\nfor i in range(made): print(os.wait()[1])\n\""
    );
    shows(&script, "made 2 3 max 3\n9\n9\n");
}

#[test]
fn the_memory_limit_ends_who_breaks_it() {
    let script = format!(
        "{MAKE} echo 40M >memory.max; cat memory.max; sh -c 'echo $$ >cgroup.procs; exec python3 -c \"\n\
         b=[]\nfor i in range(400): b.append(bytearray(b\\\"x\\\"*1000000))\nimport time\ntime.sleep(9)\"' ; echo $?; grep oom_kill memory.events"
    );
    shows(&script, "41943040\n137\noom_kill 1\n");
}

#[test]
fn the_processor_limit_slows_down() {
    // A tenth of a processor for a second of work would take ten; that it took more than three is enough.
    let script = format!(
        "{MAKE} echo 10000 100000 >cpu.max; sh -c 'echo $$ >cgroup.procs; exec python3 -c \"\n\
         import time\nt=time.monotonic()\nwhile time.process_time()<0.5: pass\nprint(time.monotonic()-t>3)\"'; \
         test $(sed -n 's/nr_throttled //p' cpu.stat) -gt 10 && echo throttled"
    );
    shows(&script, "True\nthrottled\n");
}

#[test]
fn a_frozen_group_stands_still_until_it_is_thawed() {
    let script = format!(
        "{MAKE} python3 -c \"\nimport os,time,signal\np=os.fork()\nif p==0:\n  while True: pass\n\
         open('cgroup.procs','w').write(str(p))\nopen('cgroup.freeze','w').write('1')\n\
         def still(): return 'frozen 1' in open('cgroup.events').read()\nwhile not still(): time.sleep(0.01)\n\
         def used(): return int(open('cpu.stat').read().split()[1])\nbefore=used()\ntime.sleep(1)\nprint(used()-before<200000, flush=True)\n\
         open('cgroup.freeze','w').write('0')\nwhile used()-before<300000: time.sleep(0.01)\n\
         print('goes on', flush=True)\nos.kill(p,9)\nos.wait()\n\""
    );
    shows(&script, "True\ngoes on\n");
}

#[test]
fn a_namespace_shows_its_own_root() {
    let script = format!(
        "{MAKE} echo $$ >cgroup.procs; unshare -C sh -c 'cat /proc/self/cgroup; mkdir -p /tmp/c; mount -t cgroup2 none /tmp/c; \
         cat /tmp/c/cgroup.type'; cat /proc/self/cgroup"
    );
    shows(&script, "0::/\ndomain\n0::/a\n");
}

#[test]
fn who_grows_beyond_the_high_mark_is_slowed_down() {
    // It gets as far as it can in two seconds, which without the mark is all, and nobody is killed.
    let script = format!(
        "{MAKE} echo 24M >memory.high; cat memory.high; sh -c 'echo $$ >cgroup.procs; exec python3 -c \"\n\
         import time\nt=time.monotonic()\nb=[]\n\
         while len(b)<300 and time.monotonic()-t<2: b.append(bytearray(b\\\"x\\\"*1000000))\n\
         print(len(b)<300)\"'; echo $?; grep -q 'high [1-9]' memory.events && echo counted; \
         grep -w max memory.events; echo max >memory.high; cat memory.high"
    );
    shows(&script, "25165824\nTrue\n0\ncounted\nmax 0\nmax\n");
}

#[test]
fn removed_groups_that_somebody_refers_to_are_counted() {
    let script = format!(
        "{MAKE} mkdir -p b/c; grep nr_ ../cgroup.stat; exec 5<b/c/cgroup.type; cd ..; rmdir a/b/c a/b; cat a/cgroup.stat; \
         rmdir a; cat cgroup.stat; exec 5<&-; cat cgroup.stat"
    );
    shows(
        &script,
        "nr_descendants 3\nnr_dying_descendants 0\nnr_descendants 0\nnr_dying_descendants 2\n\
         nr_descendants 0\nnr_dying_descendants 3\nnr_descendants 0\nnr_dying_descendants 0\n",
    );
}
