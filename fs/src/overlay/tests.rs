//! Tests of copies up, whiteouts and merged directories, with a tmpfs below.

use std::sync::Arc;

use abi::errno::*;
use base::cred::Credentials;

use crate::file::oflag;
use crate::tmpfs;
use crate::vfs::testing::TestMemory;
use crate::vfs::{Inode, MountNamespace, Owner, Walk};

const ROOT: Owner = Owner { uid: 0, gid: 0 };

fn put(dir: &Arc<dyn Inode>, name: &[u8], text: &[u8]) {
    let file = dir.create(name, 0o644, ROOT).unwrap().open(oflag::RDWR).unwrap();
    let mut text = text;
    file.write_at(0, &mut text).unwrap();
}

fn names(w: &Walk<'_>, path: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    w.open(path, oflag::RDONLY | oflag::DIRECTORY, 0)
        .unwrap()
        .read_dir(&mut |e| {
            names.push(String::from_utf8(e.name.to_vec()).unwrap());
            true
        })
        .unwrap();
    names.retain(|n| !n.starts_with('.'));
    names.sort();
    names
}

fn text(w: &Walk<'_>, path: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    w.open(path, oflag::RDONLY, 0).unwrap().read(&mut text).unwrap();
    text
}

#[test]
fn changes_stay_in_the_upper_layer() {
    let memory = TestMemory::new();
    let lower = tmpfs::new(memory.clone(), 0o755);
    let etc = lower.mkdir(b"etc", 0o755, ROOT).unwrap();
    let sub = etc.mkdir(b"sub", 0o755, ROOT).unwrap();
    put(&etc, b"passwd", b"root");
    put(&etc, b"hosts", b"local");
    put(&sub, b"deep", b"deep");
    let root = super::new(lower.clone(), tmpfs::new(memory.clone(), 0o755)).unwrap();
    let (ns, cred) = (MountNamespace::new(root), Credentials::root());
    let w = Walk { root: ns.root(), base: ns.root(), cred: &cred, umask: 0 };

    // Copy up on a write, seen by a file that was open before; the inode number stays.
    let before = w.stat(b"/etc/passwd", true).unwrap();
    let early = w.open(b"/etc/passwd", oflag::RDONLY, 0).unwrap();
    let file = w.open(b"/etc/passwd", oflag::WRONLY | oflag::APPEND, 0).unwrap();
    file.write(&mut &b":x"[..]).unwrap();
    assert_eq!(text(&w, b"/etc/passwd"), b"root:x");
    let mut seen = Vec::new();
    early.read(&mut seen).unwrap();
    assert_eq!(seen, b"root:x");
    let after = w.stat(b"/etc/passwd", true).unwrap();
    assert_eq!((before.dev, before.ino, before.mode), (after.dev, after.ino, after.mode));
    assert_eq!(etc.lookup(b"passwd").unwrap().metadata().unwrap().size, 4);

    // Removal and making again.
    w.unlink(b"/etc/hosts").unwrap();
    assert_eq!(w.open(b"/etc/hosts", 0, 0).unwrap_err(), ENOENT);
    assert_eq!(names(&w, b"/etc"), ["passwd", "sub"]);
    w.open(b"/etc/hosts", oflag::CREAT | oflag::WRONLY, 0o600).unwrap();
    assert_eq!(text(&w, b"/etc/hosts"), b"");

    // A lower directory moves with what is in it; a new one in its place is empty.
    w.rename(b"/etc/sub", &w, b"/moved", 0).unwrap();
    assert_eq!(text(&w, b"/moved/deep"), b"deep");
    assert_eq!(names(&w, b"/etc"), ["hosts", "passwd"]);
    w.mkdir(b"/etc/sub", 0o755).unwrap();
    assert!(names(&w, b"/etc/sub").is_empty());
    assert_eq!(w.rmdir(b"/moved"), Err(ENOTEMPTY));
    w.unlink(b"/moved/deep").unwrap();
    w.rmdir(b"/moved").unwrap();
    w.rmdir(b"/etc/sub").unwrap();

    // A rename over a file, and a removed file that changes while it is open.
    w.rename(b"/etc/hosts", &w, b"/etc/passwd", 0).unwrap();
    assert_eq!(text(&w, b"/etc/passwd"), b"");
    assert_eq!(names(&w, b"/etc"), ["passwd"]);
    let place = w.resolve(b"/etc/passwd", true).unwrap();
    w.unlink(b"/etc/passwd").unwrap();
    w.chmod_at(&place, 0o600).unwrap();
    assert!(names(&w, b"/etc").is_empty());
    assert_eq!(etc.lookup(b"hosts").unwrap().metadata().unwrap().size, 5);
}
