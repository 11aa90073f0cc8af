//! Real programs: output and exit status in the sandbox are, byte for byte, those of a native run.
//!
//! One table, one test for each program. A case listed in `known-failures.txt` may fail, loudly; it may not pass.

use std::process::Command;
use std::time::Duration;

use ringfence_tests::known::Known;
use ringfence_tests::outcome::same_as_native;
use ringfence_tests::{have_kvm, have_program, loud, scratch, skipped};

/// A run that must be as it is natively.
struct Case {
    /// What it shows; `PROGRAM/NAME` in the list of known failures.
    name: &'static str,
    /// Program and arguments.
    argv: &'static [&'static str],
    /// Standard input.
    stdin: &'static str,
    /// Seconds that it may take in the sandbox.
    seconds: u64,
}

const fn case(name: &'static str, argv: &'static [&'static str]) -> Case {
    Case { name, argv, stdin: "", seconds: 60 }
}

const fn reads(name: &'static str, argv: &'static [&'static str], stdin: &'static str) -> Case {
    Case { name, argv, stdin, seconds: 60 }
}

const fn long(name: &'static str, argv: &'static [&'static str]) -> Case {
    Case { name, argv, stdin: "", seconds: 240 }
}

/// Runs the cases of one program and fails with all that differ.
fn check(program: &str, cases: &[Case]) {
    let (known, mut wrong) = (Known::load(), Vec::new());
    for case in cases {
        let name = format!("{program}/{}", case.name);
        let result = same_as_native(case.argv, case.stdin.as_bytes(), Duration::from_secs(case.seconds));
        match (result, known.reason(&name)) {
            (Ok(()), None) => {}
            (Err(_), Some(reason)) => loud(&format!("known failure: {name}: {reason}")),
            (Ok(()), Some(_)) => {
                wrong.push(format!("{name}: passes: delete its line in tests/known-failures.txt"));
            }
            (Err(report), None) => wrong.push(format!("{name}:\n{report}")),
        }
    }
    assert!(wrong.is_empty(), "differs from the native run:\n{}", wrong.join("\n"));
}

/// One test and one group of cases for each program, and a table of all names.
macro_rules! programs {
    ($($(#[doc = $doc:literal])* $program:ident needs [$($needs:literal),*] { $($case:expr,)* })*) => {
        $(
            $(#[doc = $doc])*
            #[test]
            fn $program() {
                if [$($needs),*].iter().all(|name: &&str| have_program(name)) && have_kvm() {
                    check(stringify!($program), &[$($case),*]);
                }
            }
        )*

        #[test]
        fn known_failures_name_cases_that_exist() {
            let mut names: Vec<String> = Vec::new();
            $($(names.push(format!("{}/{}", stringify!($program), $case.name));)*)*
            names.extend(BUILT.iter().map(|program| format!("built/{}", program.name)));
            let elsewhere = |name: &str| name.starts_with("guest/") || name.starts_with("suite/");
            for known in Known::load().names().filter(|name| !elsewhere(name)) {
                assert!(names.iter().any(|name| name == known), "known-failures.txt: no such case: {known}");
            }
        }
    };
}

/// A script of bash.
macro_rules! bash {
    ($script:expr) => {
        &["/bin/bash", "-c", $script]
    };
}

/// A fresh folder that goes away; its name is never printed.
macro_rules! bash_in_folder {
    ($script:expr) => {
        &[
            "/bin/bash",
            "-c",
            concat!(
                "d=$(mktemp -d) && cd \"$d\" || exit 99\n",
                $script,
                "\nr=$?; cd /; rm -rf \"$d\"; exit $r"
            ),
        ]
    };
}

programs! {
    /// Debuggers.
    debuggers needs ["gdb", "strace", "cc"] {
        case("gdb", bash_in_folder!("printf 'int add(int a, int b) { return a + b; }\nint main(void) { int s = 0; for (int i = 0; i < 3; i++) s = add(s, i); return s; }\n' >a.c; cc -g -O0 -o a a.c; gdb -q -batch -nx -ex 'break add' -ex run -ex bt -ex finish -ex 'stepi 3' -ex 'print s' -ex continue -ex continue -ex continue ./a 2>&1 | sed 's/0x[0-9a-f]*/X/g; s/process [0-9]*/process N/; s|/tmp/[^/]*/|/|'")),
        case("strace", bash_in_folder!("strace -f -o o sh -c 'true | cat; exit 3'; echo $?; grep -o '[+].*' o | sort")),
        case("strace_in_a_namespace", bash_in_folder!("strace -f -o o unshare -pf sh -c 'echo $$; exit 4'; echo $?; grep -o '[+].*' o | sort")),
    }
    /// Programs that make namespaces.
    namespaces needs ["unshare", "bwrap", "ps"] {
        case("ps_sees_its_namespace", bash!("unshare -Urpf --mount-proc ps -o pid=,ppid=,args= ax | tr -s ' '")),
        case("nested", bash!("unshare -pf unshare -pf --mount-proc grep NS /proc/self/status")),
        case("init_takes_all_along", bash!("unshare -pf sh -c 'sleep 1000 & echo $!'; echo $?")),
        case("bwrap", bash!("bwrap --ro-bind / / --proc /proc --dev /dev --unshare-all sh -c 'echo $$; ls /dev'")),
        case("bwrap_is_init", bash!("bwrap --ro-bind / / --proc /proc --unshare-pid --as-pid-1 sh -c 'echo $$; ls -d /proc/[0-9]*'")),
        case("bwrap_user", bash!("bwrap --ro-bind / / --proc /proc --unshare-all --uid 1000 --gid 1000 id")),
    }
    small_tools needs [] {
        case("echo", &["/bin/echo", "hello", "world"]),
        case("true", &["/bin/true"]),
        case("false", &["/bin/false"]),
        case("printf", &["/usr/bin/printf", "%05d %s\\n", "42", "x"]),
        case("seq", &["/usr/bin/seq", "1", "3", "10000"]),
        case("expr", &["/usr/bin/expr", "6", "*", "7"]),
        case("env", &["/usr/bin/env", "-i", "A=1", "/usr/bin/env"]),
        case("usage_error", &["/bin/ls", "--no-such-option"]),
        case("missing_file", &["/bin/cat", "/no/such/file"]),
    }
    coreutils needs [] {
        case("ls", &["/bin/ls", "/usr/share"]),
        case("ls_long", &["/bin/ls", "-l", "/usr/share/common-licenses"]),
        case("cat", &["/bin/cat", "/etc/os-release", "/usr/share/common-licenses/GPL-3"]),
        reads("cat_stdin", &["/bin/cat", "-n"], "one\ntwo\nthree"),
        case("wc", &["/usr/bin/wc", "/usr/share/common-licenses/GPL-3"]),
        case("sort", &["/usr/bin/sort", "-u", "/usr/share/common-licenses/GPL-3"]),
        reads("sort_stdin", &["/usr/bin/sort", "-n"], "10\n9\n8\n100\n"),
        case("sha256sum", &["/usr/bin/sha256sum", "/usr/share/common-licenses/GPL-3", "/bin/bash"]),
        reads("tr", &["/usr/bin/tr", "a-z", "A-Z"], "shout\n"),
        case("head", &["/usr/bin/head", "-n", "5", "/usr/share/common-licenses/GPL-3"]),
        case("stat", &["/usr/bin/stat", "-c", "%s %a %F %u %g", "/bin/bash", "/etc"]),
        // The owner of the host's own device is the host's affair.
        case("stat_device", &["/usr/bin/stat", "-c", "%s %a %F %t %T", "/dev/null"]),
        case("readlink", &["/usr/bin/readlink", "-f", "/bin/sh"]),
        case("cp_mv_ln_rm", bash_in_folder!("echo a >a && cp a b && mv b c && ln c d && ln -s d e && cat e && stat -c '%h %s' c && mkdir -p x/y/z && rmdir x/y/z && ls -R . && rm -r x")),
        case("dd", bash_in_folder!("head -c 1000000 /dev/zero >z && dd if=z of=y bs=4096 skip=3 seek=1 status=none && stat -c %s y && md5sum <y")),
        case("truncate", bash_in_folder!("truncate -s 5000000 f && echo end >>f && stat -c %s f && tail -c 4 f")),
        case("touch_and_date", bash_in_folder!("touch -d '2020-02-03 04:05:06.789 UTC' f && stat -c '%y %Y' f && date -r f +%s.%N")),
        case("chmod", bash_in_folder!("umask 027; echo a >f; stat -c %a f; chmod u=rw,go= f; stat -c %a f; mkdir d; stat -c %a d")),
        case("split_join", bash_in_folder!("seq 1 5000 >n && split -l 1000 n p && cat p* | cmp - n && ls && paste -d, paa pab | tail -1")),
        case("timeout", &["/usr/bin/timeout", "0.2", "/bin/sleep", "30"]),
    }
    procps needs ["ps", "top", "free", "pgrep", "vmstat", "uptime"] {
        case("own_row", &["/bin/bash", "-c", "ps -o ni=,pri=,nlwp=,user=,comm=,args= -p $$; cat /proc/$$/cmdline | tr '\\0' '|'; echo done"]),
        case("children", bash!("exec 2>/dev/null; sleep 60 & until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.01; done; ps -o stat=,comm=,args= --ppid $$ | grep '[s]leep'; kill -STOP $!; sleep 0.2; ps -o stat= -p $!; kill -KILL $!; wait 2>/dev/null; true")),
        case("zombie", bash!("(sleep 0.1 & exec sleep 20) & for i in {1..80}; do ps -o stat= --ppid $! | grep -q Z && break; sleep 0.1; done; ps -o stat=,comm= --ppid $!; kill $!; wait")),
        case("columns", bash!("ps aux | head -1; top -b -n1 | sed -n 7p; free | head -1; free | awk '{print $1, NF}'; vmstat | head -2; uptime | wc -l")),
        case("pgrep", bash!("sleep 4711 & until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.01; done; pgrep -xaf 'sleep 4711' | cut -d' ' -f2-; pkill -xf 'sleep 4711'; wait $!; echo $?")),
        case("pmap_pwdx", bash!("cd /usr/share; pwdx $$ | cut -d' ' -f2; pmap $$ | grep -c stack; pmap -x $$ | head -2 | tail -1")),
        case("threads", &["/bin/bash", "-c", "ps -eLo nlwp,comm | grep -c bash >/dev/null && echo yes"]),
    }
    psmisc needs ["pstree", "killall", "fuser"] {
        case("pstree", bash!("sleep 60 & until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.01; done; sleep 60 & until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.01; done; t=$(pstree -A $$); tr -s '-' <<< \"$t\"; kill %1 %2; wait")),
        case("killall", bash!("cp /bin/sleep /tmp/sleep-$$; /tmp/sleep-$$ 60 & until [ $(cat /proc/$!/comm) = sleep-$$ ]; do sleep 0.01; done; killall -q sleep-$$; wait $!; echo $?; rm /tmp/sleep-$$")),
    }
    busybox_proc needs ["busybox"] {
        case("ps", bash!("busybox ps | head -1; busybox ps -o comm | grep -q busybox && echo listed; busybox nproc; busybox free | head -2 | awk '{print $1, NF}'; busybox uptime | grep -c load")),
    }
    proc_readers needs ["python3", "nproc", "taskset", "chrt", "setpriv", "prlimit", "lscpu"] {
        case("processors", bash!("nproc; nproc --all; getconf _NPROCESSORS_ONLN; getconf _NPROCESSORS_CONF; taskset -c 0 nproc; lscpu -p=cpu; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online /sys/devices/system/cpu/possible")),
        case("python", &["python3", "-c", "import os; print(os.cpu_count(), sorted(os.sched_getaffinity(0)), os.sysconf('SC_PAGE_SIZE'), os.sysconf('SC_CLK_TCK'), len(os.getloadavg()), os.getpriority(0, 0), os.path.basename(os.readlink('/proc/self/exe'))[:6], {'0', '1', '2'} <= set(os.listdir('/proc/self/fd')))"]),
        case("scheduling", bash!("nice; nice -n 7 nice; chrt -p $$ | cut -d: -f2; taskset -p $$ | cut -d: -f2; chrt -f 5 chrt -p 0 2>/dev/null | cut -d: -f2; setpriv --reuid 65534 --clear-groups id -u")),
        case("limits", bash!("ulimit -n 123; cat /proc/self/limits | grep files; prlimit --nofile --output SOFT,HARD --noheadings; ulimit -Hn")),
        case("stdin_by_name", bash!("echo through | cat /dev/stdin; cat <(echo substituted) /dev/fd/0 </dev/null; echo out >/dev/stdout; echo x | tee /dev/stderr")),
        case("uname", bash!("uname -s -m; cat /proc/sys/kernel/ostype; hostname | cmp - /proc/sys/kernel/hostname; test \"$(uname -r)\" = \"$(cat /proc/sys/kernel/osrelease)\" && echo same; setarch i686 uname -m")),
    }
    bash needs ["bash"] {
        case("arithmetic", &["/bin/bash", "-c", "for ((i = 0, s = 0; i < 1000; i++)); do ((s += i * i)); done; echo $s"]),
        case("pipeline", &["/bin/bash", "-c", "seq 1 1000 | sort -r | head -5 | tr 0-9 a-j; echo ${PIPESTATUS[@]}"]),
        case("subshell", &["/bin/bash", "-c", "x=1; (x=2; (x=3; echo $x $BASH_SUBSHELL); echo $x); echo $x; exit 7"]),
        case("substitution", &["/bin/bash", "-c", "a=$(echo $(echo in) out); echo \"$a\"; diff <(seq 3) <(seq 4)"]),
        case("trap_exit", &["/bin/bash", "-c", "trap 'echo bye' EXIT; echo hi; exit 3"]),
        case("trap_signal", &["/bin/bash", "-c", "trap 'echo got USR1' USR1; kill -USR1 $$; kill -USR1 $$; echo end"]),
        case("trap_in_wait", &["/bin/bash", "-c", "trap 'echo chld' TERM; (sleep 0.2; kill -TERM $$) & wait; echo $?; wait; echo $?"]),
        case("background", &["/bin/bash", "-c", "for i in 3 1 2; do (sleep 0.$i; exit $i) & p[$i]=$!; done; for i in 1 2 3; do wait ${p[$i]}; echo $?; done"]),
        case("here_document", &["/bin/bash", "-c", "cat <<E | wc -c\n$(seq 1 20000)\nE\ncat <<<word"]),
        case("redirections", bash_in_folder!("{ echo out; echo err >&2; } >o 2>e; cat e o; exec 5<>o; read -u 5 l; echo more >&5; cat o; echo x >|/dev/full; echo $?; set -C; echo y >o; echo $?")),
        case("glob", &["/bin/bash", "-c", "cd /usr/share/common-licenses; echo G*; shopt -s extglob; echo !(G*|L*)"]),
        case("killed", &["/bin/bash", "-c", "kill -KILL $$"]),
        case("child_killed", &["/bin/bash", "-c", "bash -c 'kill -TERM $$'; echo $?; { bash -c 'kill -SEGV $$'; } 2>/dev/null; echo $?"]),
        case("sigpipe", &["/bin/bash", "-c", "yes | head -1; echo ${PIPESTATUS[@]}"]),
        case("not_found", &["/bin/bash", "-c", "no-such-program; echo $?; /etc; echo $?; /etc/passwd; echo $?"]),
        reads("read_loop", &["/bin/bash", "-c", "while IFS=: read -r a b; do echo \"$b-$a\"; done"], "1:a\n2:b\n3:c\n"),
        reads("script_on_stdin", &["/bin/bash"], "echo one\nread x\ntwo\necho $x\nexit 5\n"),
        case("ulimit", &["/bin/bash", "-c", "ulimit -n 64; ulimit -n; ulimit -c 0; ulimit -c"]),
        case("fork_loop", &["/bin/bash", "-c", "for i in {1..100}; do /bin/true || echo bad; done; for i in {1..200}; do (exit 3) && echo bad; done; echo ok"]),
    }
    busybox needs ["busybox"] {
        case("echo", &["/bin/busybox", "echo", "static"]),
        case("sh", &["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo $i; done | busybox tail -n 2"]),
        case("md5sum", &["/bin/busybox", "md5sum", "/bin/busybox"]),
        case("find", &["/bin/busybox", "find", "/usr/share/common-licenses"]),
        case("ls", &["/bin/busybox", "ls", "-ln", "/usr/share/common-licenses"]),
    }
    text_tools needs ["grep", "sed", "gawk", "find"] {
        case("find_names", &["/bin/bash", "-c", "find /usr/include -name '*.h' | LC_ALL=C sort | head -3000 | md5sum"]),
        long("find_types", &["/bin/bash", "-c", "find /usr/include -maxdepth 3 -printf '%y %m %s %P\\n' | sort | sha1sum"]),
        long("grep_tree", &["/bin/bash", "-c", "grep -rhc define /usr/include/linux | sort -n | uniq -c"]),
        case("grep_regex", &["/bin/grep", "-nE", "(free|open) +soft.*\\b", "/usr/share/common-licenses/GPL-3"]),
        case("sed", &["/bin/sed", "-nE", "s/([a-z]+) ([a-z]+)/\\2 \\1/gp", "/usr/share/common-licenses/GPL-3"]),
        case("sed_in_place", bash_in_folder!("cp /usr/share/common-licenses/GPL-3 f && sed -i.old s/GNU/gnu/g f && diff f f.old | tail -4; ls")),
        long("gawk_words", &["/usr/bin/gawk", "{for (i = 1; i <= NF; i++) n[$i]++} END {for (w in n) if (n[w] > 50) print n[w], w | \"sort\"}", "/usr/share/common-licenses/GPL-3", "/usr/share/common-licenses/GPL-2"]),
        case("gawk_maths", &["/usr/bin/gawk", "BEGIN {for (i = 0; i < 100000; i++) s += sin(i); printf \"%.9f\\n\", s}"]),
        long("xargs", &["/bin/bash", "-c", "find /usr/include/linux -name 'a*.h' -print0 | sort -z | xargs -0 -n 10 wc -l"]),
    }
    archives needs ["tar", "gzip", "xz"] {
        long("tar", bash_in_folder!("tar cf a.tar -C /usr/include linux && mkdir o && tar xf a.tar -C o && diff -r o/linux /usr/include/linux && tar tf a.tar | sort | md5sum")),
        case("gzip", bash_in_folder!("cat /usr/share/common-licenses/* >f && gzip -9nk f && zcat f.gz | cmp - f && md5sum <f.gz && gzip -l f.gz | tail -1")),
        case("xz", bash_in_folder!("cat /usr/share/common-licenses/* >f && xz -T1 -k f && xzcat f.xz | cmp - f && md5sum <f.xz")),
        long("xz_threads", bash_in_folder!("seq 1 300000 >f && xz -T2 --block-size=500000 -k f && xz -dc f.xz | cmp - f && md5sum <f.xz")),
        case("tar_through_gzip", bash_in_folder!("tar czf a.tgz -C /usr/share common-licenses && tar xzf a.tgz && ls -l common-licenses | awk '{print $1,$5,$9}'")),
    }
    python needs ["/usr/bin/python3"] {
        case("pass", &["/usr/bin/python3", "-c", "pass"]),
        case("exit_status", &["/usr/bin/python3", "-c", "import sys; sys.exit(9)"]),
        case("traceback", &["/usr/bin/python3", "-c", "def f(): return 1/0\nf()"]),
        case("json", &["/usr/bin/python3", "-c", "import json; d={'k%d'%i:[i,i/7,None,str(i)*3] for i in range(2000)}; s=json.dumps(d,sort_keys=True); assert json.loads(s)==d; print(len(s), s[:99])"]),
        case("re", &["/usr/bin/python3", "-c", "import re; t=open('/usr/share/common-licenses/GPL-3').read(); w=re.findall(r'\\b[a-z]{5}\\b',t); print(len(w), sorted(set(w))[:20])"]),
        case("hashlib", &["/usr/bin/python3", "-c", "import hashlib; b=bytes(range(256))*40000\nfor n in ('md5','sha1','sha256','sha3_512','blake2b'): print(n, hashlib.new(n,b).hexdigest())"]),
        case("sqlite3", &["/usr/bin/python3", "-c", "import sqlite3; c=sqlite3.connect(':memory:'); c.execute('create table t(a integer primary key,b)'); c.executemany('insert into t values(?,?)',((i,i*i%97) for i in range(20000))); print(c.execute('select b,count(*),sum(a) from t group by b order by 2 desc,1 limit 5').fetchall())"]),
        case("subprocess", &["/usr/bin/python3", "-c", "import subprocess as s; print(s.run(['tr','a-z','A-Z'],input=b'abc'*9999,capture_output=True).stdout[-6:]); print(s.run('exit 4',shell=True).returncode, s.run(['sh','-c','kill -9 $$']).returncode)\ntry: s.run(['sleep','9'],timeout=.2)\nexcept s.TimeoutExpired: print('timeout')"]),
        case("threading", &["/usr/bin/python3", "-c", "import threading as t,queue\nq=queue.Queue(); l=t.Lock(); n=[0]\ndef f(i):\n for k in range(500):\n  with l: n[0]+=k\n q.put(i)\nts=[t.Thread(target=f,args=(i,)) for i in range(16)]\n[x.start() for x in ts]; [x.join() for x in ts]; print(n, sorted(q.get() for _ in ts))"]),
        long("multiprocessing", &["/usr/bin/python3", "-c", "import multiprocessing as m\ndef f(x): return sum(i*i for i in range(x))\nif __name__=='__main__':\n with m.Pool(3) as p: print(p.map(f,range(0,20000,997)))\n q=m.Queue(); x=m.Process(target=q.put,args=('from the child',)); x.start(); print(q.get()); x.join(); print(x.exitcode)"]),
        case("asyncio", &["/usr/bin/python3", "-c", "import asyncio\nasync def f(i):\n await asyncio.sleep(i/50); return i\nasync def g():\n print(await asyncio.gather(*(f(i) for i in (3,1,2))))\n p=await asyncio.create_subprocess_exec('cat',stdin=-1,stdout=-1); print(await p.communicate(b'piped'))\nasyncio.run(g())"]),
        case("asyncio_unix", &["/usr/bin/python3", "-c", "import asyncio,os,tempfile\nasync def h(r,w):\n while d:=await r.readline(): w.write(d.upper()); await w.drain()\n w.close()\nasync def c(p,i):\n r,w=await asyncio.open_unix_connection(p); w.write(b'hello %d\\n'%i*1000); w.write_eof(); d=await r.read(); w.close(); return d[:9],len(d)\nasync def g():\n with tempfile.TemporaryDirectory() as t:\n  s=await asyncio.start_unix_server(h,t+'/s'); print(await asyncio.gather(*(c(t+'/s',i) for i in range(9)))); s.close()\nasyncio.run(g())"]),
        case("unix_sockets", &["/usr/bin/python3", "-c", "import socket as s,os,threading as t\na,b=s.socketpair()\nr,w=os.pipe(); s.send_fds(a,[b'fd'],[w]); os.close(w); d,f,_,_=s.recv_fds(b,9,9); os.write(f[0],b'through'); os.close(f[0]); print(d,os.read(r,99))\nl=s.socket(s.AF_UNIX); l.bind('\\0ringfence-test'); l.listen()\ndef serve():\n c,_=l.accept(); n=0\n while x:=c.recv(70000): n+=len(x)\n c.sendall(b'%d'%n); c.close()\nt.Thread(target=serve).start()\nc=s.socket(s.AF_UNIX); c.connect('\\0ringfence-test'); c.sendall(bytes(3000000)); c.shutdown(s.SHUT_WR); print(c.recv(99), c.getpeername())\nc.settimeout(.1); a.settimeout(.1)\ntry: a.recv(1)\nexcept TimeoutError: print('timeout')\nb.close()\ntry: a.send(b'x')\nexcept BrokenPipeError as e: print(e)"]),
        case("signals", &["/usr/bin/python3", "-c", "import signal,os\nsignal.signal(signal.SIGALRM,lambda s,f:print('alarm',s)); signal.setitimer(signal.ITIMER_REAL,.1); signal.pause(); os.kill(os.getpid(),signal.SIGTERM)"]),
        case("mmap", &["/usr/bin/python3", "-c", "import mmap,tempfile\nf=tempfile.TemporaryFile(); f.truncate(100000); m=mmap.mmap(f.fileno(),0); m[50000:50005]=b'hello'; f.seek(50000); print(f.read(5)); m.close()"]),
        case("segv", &["/usr/bin/python3", "-c", "import ctypes; ctypes.string_at(8)"]),
        case("walk", &["/usr/bin/python3", "-c", "import os; print(sorted((d,len(s),len(f)) for d,s,f in os.walk('/usr/include/linux')))"]),
    }
    perl needs ["perl"] {
        case("words", &["/usr/bin/perl", "-ne", "$n{lc $_}++ for /\\w+/g; END {print \"$_ $n{$_}\\n\" for (sort {$n{$b} <=> $n{$a} || $a cmp $b} keys %n)[0..20]}", "/usr/share/common-licenses/GPL-3"]),
        case("fork", &["/usr/bin/perl", "-e", "$|=1; for (1..5) {if (!fork) {exit $_}} $s += $? >> 8 while wait > 0; print \"$s\\n\"; die \"end\\n\""]),
        case("backticks", &["/usr/bin/perl", "-e", "print scalar `seq 1 5`; open P,'|sort -r' or die; print P \"$_\\n\" for 1..5; close P"]),
        case("alarm", &["/usr/bin/perl", "-e", "$SIG{ALRM}=sub{die \"late\\n\"}; alarm 1; eval {sleep 30}; print $@"]),
    }
    gcc needs ["gcc"] {
        long("compile_and_run", bash_in_folder!("{ echo '#include <stdio.h>'; for i in $(seq 1 330); do printf 'static unsigned f%d(unsigned x) {\\n    return x * %du + (x >> 3) ^ %du;\\n}\\n' $i $((i*7+1)) $((i*31)); done; echo 'int main(void) { unsigned x = 1;'; for i in $(seq 1 330); do echo \"x = f$i(x);\"; done; echo 'printf(\"%u\\n\", x); return x & 63; }'; } >p.c; wc -l <p.c; gcc -O2 -o p p.c && ./p")),
        long("error", bash_in_folder!("echo 'int main(void) { return y; }' >e.c; gcc -c e.c")),
        long("static_library", bash_in_folder!("echo 'int a(void) { return 40; }' >a.c; echo 'int a(void); int main(void) { return a() + 2; }' >m.c; gcc -c a.c m.c && ar rcs liba.a a.o && gcc -static -o m m.o -L. -la && ./m")),
    }
    git needs ["git"] {
        long("commit_and_log", bash_in_folder!("export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' HOME=$PWD; git init -q -b main r && cd r && cp -r /usr/share/common-licenses l && git add . && git commit -q -m first && echo more >>l/GPL-3 && git diff --stat && git commit -qam second && git log --stat && git status && git checkout -qb side HEAD~1 && echo s >s && git add s && git commit -qm side && git merge -q -m merged main && git log --oneline --graph && git gc -q && git fsck --strict")),
    }
    sqlite needs ["sqlite3"] {
        long("hundred_thousand_rows", bash_in_folder!("sqlite3 t.db \"create table t(a integer primary key, b text); with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) insert into t select i, hex(i * 7919 % 100003) from n; create index x on t(b); select count(*), sum(a), min(b), max(b) from t; select * from t where b like '31%' order by b limit 5; delete from t where a % 3 = 0; vacuum; pragma integrity_check; select count(*) from t\" && stat -c %s t.db")),
        long("write_ahead_log", bash_in_folder!("sqlite3 w.db \"pragma journal_mode=wal; create table t(a); insert into t values(1),(2); select sum(a) from t\"; ls; sqlite3 w.db 'select * from t'")),
    }
}

/// A program that the test builds on the host, then runs natively and in the sandbox.
struct Built {
    name: &'static str,
    file: &'static str,
    source: &'static str,
    /// The compiler's command; the source file and `-o PROGRAM` follow, in the order that `go build` wants.
    compiler: &'static [&'static str],
}

const BUILT: [Built; 5] = [
    Built { name: "c_static", file: "c_static.c", source: C_HELLO, compiler: &["gcc", "-O2", "-static"] },
    Built {
        name: "c_static_pie",
        file: "c_static_pie.c",
        source: C_HELLO,
        compiler: &["gcc", "-O2", "-static-pie"],
    },
    Built {
        name: "rust_static",
        file: "rust_static.rs",
        source: RUST_THREADS,
        compiler: &["rustc", "--edition=2024", "-O", "-Ctarget-feature=+crt-static"],
    },
    Built {
        name: "rust_threads",
        file: "rust_threads.rs",
        source: RUST_THREADS,
        compiler: &["rustc", "--edition=2024", "-O"],
    },
    Built { name: "go", file: "go_program.go", source: GO_PROGRAM, compiler: &["go", "build"] },
];

const C_HELLO: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) { printf("hello from C, %d\n", argc); return 3; }
"#;

const RUST_THREADS: &str = r#"
use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex, mpsc};
fn main() {
    let (map, barrier) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(Barrier::new(8)));
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..8u64)
        .map(|i| {
            let (map, barrier, send) = (map.clone(), barrier.clone(), send.clone());
            std::thread::spawn(move || {
                barrier.wait();
                for k in 0..1000 { *map.lock().unwrap().entry(k % 17).or_insert(0) += i * k; }
                send.send(i).unwrap();
            })
        })
        .collect();
    drop(send);
    let sum: u64 = receive.iter().sum();
    for thread in threads { thread.join().unwrap(); }
    println!("hello from Rust: {sum} {:?}", map.lock().unwrap());
    std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
    std::process::exit(7);
}
"#;

const GO_PROGRAM: &str = r#"
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

func main() {
	var wait sync.WaitGroup
	results := make(chan int, 100)
	for i := 0; i < 100; i++ {
		wait.Add(1)
		go func(n int) {
			defer wait.Done()
			sum := 0
			for k := 0; k < 100; k++ {
				block := make([]byte, 10000)
				block[n] = byte(k)
				sum += int(block[n])
			}
			results <- sum * n
		}(i)
	}
	wait.Wait()
	close(results)
	total := 0
	for r := range results {
		total += r
	}
	runtime.GC()
	fmt.Println("hello from Go:", total)
	os.Exit(4)
}
"#;

impl Built {
    /// Builds the program; none, said loudly, where the compiler is missing.
    fn build(&self) -> Option<String> {
        let (dir, path) = (scratch(), std::env::var("PATH").unwrap_or_default());
        let (source, program) = (dir.join(self.file), dir.join(self.name));
        std::fs::write(&source, self.source).expect("the source can be written");
        let mut command = Command::new(self.compiler[0]);
        command
            .args(&self.compiler[1..])
            .arg("-o")
            .arg(&program)
            .arg(&source)
            .env("PATH", path)
            .current_dir(&dir);
        match command.output() {
            Err(e) => {
                skipped(&format!("built/{}: no {}", self.name, self.compiler[0]), &e.to_string());
                None
            }
            Ok(output) if !output.status.success() => {
                panic!("{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
            }
            Ok(_) => Some(program.to_string_lossy().into_owned()),
        }
    }
}

/// Panics of a Rust thread print its id, so only the standard output and status of those programs are compared.
#[test]
fn built() {
    if !have_kvm() {
        return;
    }
    let mut cases = Vec::new();
    for built in &BUILT {
        if let Some(program) = built.build() {
            let name: &'static str = built.name;
            let command: &'static str = format!("{program} 2>/dev/null").leak();
            let argv: &'static [&'static str] = vec!["/bin/sh", "-c", command].leak();
            let direct: &'static [&'static str] = vec![&*program.leak()].leak();
            let argv = if name.starts_with("rust") { argv } else { direct };
            cases.push(Case { name, argv, stdin: "", seconds: 120 });
        }
    }
    check("built", &cases);
}
