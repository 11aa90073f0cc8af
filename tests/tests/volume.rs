//! `--volume`: what the sandbox does to a directory of the host, and what the host does to it meanwhile.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringfence_tests::outcome::{Outcome, run};
use ringfence_tests::{have_kvm, have_program, loud, ringfence, scratch};

const LIMIT: Duration = Duration::from_secs(60);

/// An empty directory of the test's own.
fn fresh(name: &str) -> PathBuf {
    let dir = scratch().join("volumes").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    dir
}

fn with_volume(volume: &str, argv: &[&str]) -> Outcome {
    let mut command = Command::new(ringfence());
    command.args(["run", "-v", volume, "--"]).args(argv);
    run(command, b"", LIMIT)
}

fn bash(volume: &str, script: &str) -> String {
    let outcome = with_volume(volume, &["bash", "-c", script]);
    format!("{}{}", String::from_utf8_lossy(&outcome.stdout), outcome.stderr_text())
}

#[test]
fn changes_reach_the_host() {
    if !have_kvm() {
        return;
    }
    let dir = fresh("changes");
    let script = "cd /data && echo text > f && mkdir d && ln f d/hard && ln -s f sym && mv d e && chmod 600 f && \
                  touch -d @1000000000 sym f && truncate -s 8192 e/big && printf x | dd of=e/big bs=1 seek=8191 conv=notrunc \
                  status=none && fallocate -p -o 0 -l 4096 e/big && stat -c '%n %s %h %Y %a' f e/big && rm sym && cat e/hard";
    let text = bash(&format!("{}:/data", dir.display()), script);
    assert!(text.starts_with("f 5 2 1000000000 600\ne/big 8192 1 "), "{text}");
    assert!(text.ends_with("\ntext\n"), "{text}");
    assert_eq!(std::fs::read(dir.join("f")).expect("the file is there"), b"text\n");
    let meta = std::fs::metadata(dir.join("e/hard")).expect("the link is there");
    assert_eq!((meta.mtime(), meta.permissions().mode() & 0o777, meta.nlink()), (1_000_000_000, 0o600, 2));
    assert!(std::fs::symlink_metadata(dir.join("sym")).is_err());
    assert_eq!(std::fs::read(dir.join("e/big")).expect("the file is there").last(), Some(&b'x'));
}

/// What is written through mappings reaches the host: after `munmap` and `close`, after `msync`, and when the sandbox ends.
#[test]
fn mapped_writes_reach_the_host() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    let dir = fresh("mapped");
    let script = "
import mmap, os
def mapped(name):
    f = open('/data/' + name, 'w+b')
    f.truncate(10000)
    m = mmap.mmap(f.fileno(), 10000)
    m[:5] = m[9000:9005] = b'hello'
    return f, m
f, m = mapped('closed')
m.close()
f.close()
f, m = mapped('synced')
m.flush()
if os.fork() == 0:
    f, m = mapped('ended')
    os.kill(os.getppid(), 15)
    import time
    time.sleep(60)
os.wait()
";
    let _ = with_volume(&format!("{}:/data", dir.display()), &["python3", "-c", script]);
    for name in ["closed", "synced", "ended"] {
        let bytes = std::fs::read(dir.join(name)).expect(name);
        assert_eq!(
            (bytes.len(), &bytes[..5], &bytes[9000..9005]),
            (10000, &b"hello"[..], &b"hello"[..]),
            "{name}"
        );
    }
}

/// Guests meet at FIFOs and sockets in a volume, and give them the modes that they want.
#[test]
fn fifos_and_sockets_work_in_a_volume() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    let dir = fresh("meeting");
    let script = "
import os, socket
os.chdir('/data')
s = socket.socket(socket.AF_UNIX)
s.bind('sock')
os.chmod('sock', 0o777)
s.listen()
os.mkfifo('fifo', 0o600)
os.chmod('fifo', 0o640)
if os.fork() == 0:
    c = socket.socket(socket.AF_UNIX)
    c.connect('sock')
    c.send(b'by socket')
    open('fifo', 'w').write('by fifo')
    os._exit(0)
print(s.accept()[0].recv(100).decode(), open('fifo').read())
for name in 'sock', 'fifo': print(oct(os.stat(name).st_mode))
";
    let outcome = with_volume(&format!("{}:/data", dir.display()), &["python3", "-c", script]);
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text, "by socket by fifo\n0o140777\n0o10640\n", "{}", outcome.stderr_text());
}

#[test]
fn a_read_only_volume_stays_as_it_is() {
    if !have_kvm() {
        return;
    }
    let dir = fresh("read-only");
    std::fs::write(dir.join("f"), "here\n").expect("the file can be written");
    let text = bash(
        &format!("{}:/new/place:ro", dir.display()),
        "cat /new/place/f; (echo x > /new/place/f) 2>&1 | cut -d: -f4; rm /new/place/f",
    );
    assert_eq!(
        text,
        "here\n Read-only file system\nrm: cannot remove '/new/place/f': Read-only file system\n"
    );
    let volume = format!("{}:/etc/one:ro", dir.join("f").display());
    let text = bash(&volume, "cat /etc/one; grep -o '/etc/one hostfs ro,' /proc/mounts");
    assert_eq!(text, "here\n/etc/one hostfs ro,\n");
}

#[test]
fn bad_volumes_are_refused() {
    for bad in ["/tmp", "/tmp:relative", ":/x", "/tmp:/x:sometimes", "/no/such/dir:/x"] {
        if bad.starts_with("/no") && !have_kvm() {
            continue;
        }
        let outcome = with_volume(bad, &["true"]);
        assert_eq!(outcome.status, Some(125), "{bad}: {}", outcome.stderr_text());
    }
}

/// What an exclusive volume remembers would be wrong if another one led to the same files.
#[test]
fn an_exclusive_volume_is_the_only_way_to_its_files() {
    if !have_kvm() {
        return;
    }
    let dir = fresh("twice");
    std::fs::create_dir(dir.join("inner")).expect("the directory can be made");
    let (outer, inner) = (dir.display().to_string(), dir.join("inner").display().to_string());
    let both = |first: String, second: String| {
        let mut command = Command::new(ringfence());
        command.args(["run", "-v", &first, "-v", &second, "--", "true"]);
        run(command, b"", LIMIT)
    };
    let refused = both(format!("{outer}:/a:exclusive"), format!("{inner}:/b"));
    assert_eq!(refused.status, Some(125));
    assert!(refused.stderr_text().contains("make both shared"), "{}", refused.stderr_text());
    for (first, second) in [("", ""), (":ro,exclusive", ":ro")] {
        let outcome = both(format!("{outer}:/a{first}"), format!("{inner}:/b{second}"));
        assert_eq!(outcome.status, Some(0), "{}", outcome.stderr_text());
    }
}

/// A guest maps a file; the host cuts it. The guest gets SIGBUS, and everything else goes on.
#[test]
fn a_file_that_shrinks_under_a_mapping_is_a_bus_error_of_the_guest() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    let dir = fresh("shrinks");
    std::fs::write(dir.join("f"), vec![b'a'; 1 << 20]).expect("the file can be written");
    let script = "
import mmap, os, signal, time
f = open('/data/f', 'r+b')
pid = os.fork()
if pid == 0:
    m = mmap.mmap(f.fileno(), 1 << 20)
    assert m[0] == 97 and m[700000] == 97
    open('/data/mapped', 'w').close()
    while not os.path.exists('/data/cut'): time.sleep(0.02)
    assert os.fstat(f.fileno()).st_size == 10
    assert m[5] == 97 and m[4095] == 0
    m[700000]
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS)
";
    let (host, volume) = (dir.clone(), format!("{}:/data", dir.display()));
    let cutter = std::thread::spawn(move || {
        let end = std::time::Instant::now() + LIMIT;
        while !host.join("mapped").exists() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let file = std::fs::OpenOptions::new().write(true).open(host.join("f")).expect("the file opens");
        file.set_len(10).expect("the file can be cut");
        std::fs::write(host.join("cut"), "").expect("the sign can be given");
    });
    let outcome = with_volume(&volume, &["python3", "-c", script]);
    cutter.join().expect("the host's side ends");
    assert_eq!(outcome.stdout, b"True\n", "{}", outcome.stderr_text());
}

/// What the host does between two looks is seen by the second.
#[test]
fn the_hosts_changes_are_seen() {
    if !have_kvm() {
        return;
    }
    let dir = fresh("seen");
    std::fs::write(dir.join("f"), "old").expect("the file can be written");
    let script = "cd /data; cat f; [ -e g ] && echo early; touch ready; while [ ! -e done ]; do sleep 0.02; done; cat f g; [ -e h ] || echo gone";
    std::fs::write(dir.join("h"), "").expect("the file can be written");
    let host = dir.clone();
    let other = std::thread::spawn(move || {
        let end = std::time::Instant::now() + LIMIT;
        while !host.join("ready").exists() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::write(host.join("f"), "new and longer").expect("the file can be written");
        std::fs::write(host.join("g.tmp"), " second\n").expect("the file can be written");
        std::fs::rename(host.join("g.tmp"), host.join("g")).expect("the file can be moved");
        std::fs::remove_file(host.join("h")).expect("the file can be removed");
        std::fs::write(host.join("done"), "").expect("the sign can be given");
    });
    let text = bash(&format!("{}:/data", dir.display()), script);
    other.join().expect("the host's side ends");
    assert_eq!(text, "oldnew and longer second\ngone\n");
}

/// The modes of what guests make are theirs, whatever umask ringfence was started with.
#[test]
fn the_hosts_umask_does_not_count() {
    if !have_kvm() {
        return;
    }
    let dir = fresh("umask");
    let script = "cd /data && umask 0 && touch f && mkdir d && mkfifo p && umask 027 && touch g && stat -c '%n %a' f d p g";
    for policy in ["shared", "exclusive"] {
        let volume = format!("{}:/data:rw,{policy}", dir.display());
        let command =
            format!("umask 077; exec {} run -v {volume} -- bash -c \"{script}\"", ringfence().display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]);
        let outcome = run(shell, b"", LIMIT);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), "f 666\nd 777\np 666\ng 640\n", "{policy}");
        for name in ["f", "p", "g"] {
            std::fs::remove_file(dir.join(name)).expect(name);
        }
        std::fs::remove_dir(dir.join("d")).expect("d");
    }
}

/// A script does in a volume what it does natively in a folder beside it.
fn as_natively(name: &str, script: &str) {
    let (native, volume) = (fresh(&format!("{name}-native")), fresh(name));
    let wanted = bash_natively(&format!("cd {}; {script}", native.display()));
    let text = bash(&format!("{}:/data", volume.display()), &format!("cd /data; {script}"));
    assert_eq!(text, wanted);
}

fn bash_natively(script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    let outcome = run(command, b"", LIMIT);
    format!("{}{}", String::from_utf8_lossy(&outcome.stdout), outcome.stderr_text())
}

#[test]
fn files_without_names_get_names_in_a_volume() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    let program = r#"
import os
os.umask(0)
os.mkdir("d")
fd = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o640)
print(os.write(fd, b"unnamed"), os.listdir("d"), os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode))
os.fchmod(fd, 0o604)
os.utime(fd, (1000, 2000))
print(oct(os.fstat(fd).st_mode), os.fstat(fd).st_mtime)
os.link(f"/proc/self/fd/{fd}", "d/named", follow_symlinks=True)
print(os.listdir("d"), os.stat("d/named").st_nlink, open("d/named").read())
os.pwrite(fd, b"UN", 0)
print(open("d/named").read(), os.stat("d/named").st_ino == os.fstat(fd).st_ino)
os.chmod("d/named", 0o600); os.utime(fd, (5, 5)); os.ftruncate(fd, 3)
print(oct(os.fstat(fd).st_mode), open("d/named").read(), os.stat("d/named").st_mtime == os.fstat(fd).st_mtime)
os.unlink("d/named")
print(os.fstat(fd).st_nlink, os.pread(fd, 9, 0))
ex = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_EXCL, 0o600)
try: os.link(f"/proc/self/fd/{ex}", "e", follow_symlinks=True)
except OSError as e: print(e.strerror)
print(sorted(os.listdir(".")))
"#;
    as_natively("unnamed", &format!("python3 -c '{program}'"));
}

#[test]
fn access_control_lists_of_a_volume_count() {
    if !have_kvm() || !have_program("setfacl") || !have_program("setpriv") {
        return;
    }
    let user = "setpriv --reuid 1234 --regid 1234 --clear-groups";
    let script = format!(
        "umask 022; echo one >f; chmod 640 f; mkdir d; chmod 750 d; chmod 755 .
        {user} cat f; setfacl -m u:1234:r f; getfacl -p f; stat -c %a f; {user} cat f
        chmod 600 f; getfacl -p f; {user} cat f; chmod 640 f; {user} cat f; {user} sh -c 'echo two >>f'
        setfacl -m u:1234:rwx,d:u:1234:rw,d:g::r,d:o::- d; {user} touch d/own; touch d/other; mkdir d/sub
        (umask 077; echo three >d/masked); ls -ln d | cut -c1-11; getfacl -p -R d
        {user} sh -c 'echo four >>d/other; cat d/masked d/other'; setfacl -x u:1234 f; {user} cat f
        setfacl -b f; getfacl -p f; setfacl -m u:5:z f; setfacl -d -m u:5:r f"
    );
    as_natively("lists", &script);
}

#[test]
fn access_control_lists_of_the_host_count() {
    if !have_kvm() || !have_program("setfacl") || !have_program("setpriv") {
        return;
    }
    let dir = fresh("lists-of-the-host");
    let set = "chmod 755 .; echo x >f; chmod 640 f; setfacl -m u:1234:r,g::- f";
    let look = "getfacl f; for who in 1234:5 4321:0; do                 setpriv --reuid ${who%:*} --regid ${who#*:} --clear-groups cat f; done";
    let wanted = bash_natively(&format!("cd {}; {set}; {look}", dir.display()));
    for kind in ["ro", "rw"] {
        assert_eq!(bash(&format!("{}:/data:{kind}", dir.display()), &format!("cd /data; {look}")), wanted);
    }
}

/// Watches of a guest hear of what the host does to a shared folder and to a file in it, and of the guest's own changes once.
#[test]
fn watches_hear_of_the_hosts_changes() {
    if !have_kvm() || !have_program("python3") {
        return;
    }
    // The host tells of changes by fanotify, which a container around the tests may forbid.
    let asks = "import ctypes; exit(ctypes.CDLL(None).fanotify_init(0xe01, 0) < 0)";
    if !Command::new("python3").args(["-c", asks]).status().is_ok_and(|s| s.success()) {
        loud("skipped: no fanotify");
        return;
    }
    let dir = fresh("watched");
    std::fs::write(dir.join("file"), "1").expect("a file");
    let program = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None)
os.chdir("/data")
fd = libc.inotify_init1(0)
names = {}
for path, mask in ((".", 0x3ce), ("file", 0xc0e), ("sub", 0x300)):
    os.makedirs("sub", exist_ok=True)
    names[libc.inotify_add_watch(fd, path.encode(), mask)] = path
libc.inotify_rm_watch(fd, 3)
def events(until):
    # That the file is gone for good is told when nothing else is left to tell.
    seen, awaited = [], 2
    while awaited:
        buf = os.read(fd, 65536)
        at = 0
        while at < len(buf):
            wd, mask, cookie, size = struct.unpack_from("iIII", buf, at)
            name = buf[at + 16:at + 16 + size].rstrip(bytes(1)).decode()
            at += 16 + size
            if name == until and mask == 0x8: awaited -= 1
            if name == until: continue
            if names[wd] == "file" and mask == 0x8000: awaited -= 1
            seen.append((names[wd], hex(mask), name, cookie))
    return seen
open("own", "w").close()
os.rename("own", "renamed")
os.mkdir("ready")
seen = [e for e in events("done") if e[2] != "ready"]
moves = [e for e in seen if e[3] and e[2] in ("made", "moved")]
print(len(moves), len(set(e[3] for e in moves)))
for e in sorted(set(e[:3] for e in seen)): print(*e)
print(sum(e[2] == "own" for e in seen))
"#;
    let host = std::thread::spawn({
        let dir = dir.clone();
        move || {
            let end = std::time::Instant::now() + LIMIT;
            while !dir.join("ready").exists() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::fs::write(dir.join("made"), "text").expect("a file");
            std::fs::set_permissions(dir.join("file"), std::fs::Permissions::from_mode(0o640))
                .expect("a mode");
            std::fs::rename(dir.join("made"), dir.join("moved")).expect("a rename");
            std::fs::create_dir(dir.join("folder")).expect("a folder");
            std::fs::remove_dir(dir.join("folder")).expect("no folder");
            std::fs::write(dir.join("sub/unwatched"), "").expect("a file");
            std::fs::write(dir.join("file"), "other").expect("a file");
            std::fs::remove_file(dir.join("file")).expect("no file");
            std::fs::write(dir.join("done"), "").expect("a file");
        }
    });
    let text = bash(&format!("{}:/data:shared", dir.display()), &format!("python3 -c '{program}'"));
    host.join().expect("the host's changes");
    let wanted = "2 1
. 0x100 made
. 0x100 own
. 0x2 file
. 0x2 made
. 0x200 file
. 0x4 file
. 0x40 made
. 0x40 own
. 0x40000100 folder
. 0x40000200 folder
. 0x8 file
. 0x8 made
. 0x8 own
. 0x80 moved
. 0x80 renamed
file 0x2 
file 0x4 
file 0x400 
file 0x8 
file 0x8000 
sub 0x8000 
3
";
    assert_eq!(text, wanted);
}
