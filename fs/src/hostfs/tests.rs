//! Tests with a directory of the host.

use std::path::PathBuf;
use std::sync::Arc;

use abi::errno::*;
use base::cred::Credentials;

use super::{Mode, new};
use crate::file::oflag;
use crate::vfs::testing::TestMemory;
use crate::vfs::{MountNamespace, Walk};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hostfs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/f"), b"hello").unwrap();
        std::os::unix::fs::symlink("/etc", path.join("out")).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn with(dir: &Dir, mode: Mode, f: impl FnOnce(&Walk<'_>, &Arc<TestMemory>)) {
    let memory = TestMemory::new();
    let root = new(memory.clone(), &dir.0, mode).unwrap();
    let (ns, cred) = (MountNamespace::new(root), Credentials::root());
    f(&Walk { root: ns.root(), base: ns.root(), cred: &cred, umask: 0 }, &memory);
}

#[test]
fn a_read_only_tree_is_read_and_mapped() {
    let dir = Dir::new("ro");
    std::fs::write(dir.0.join("big"), vec![9u8; 3 << 20]).unwrap();
    with(&dir, Mode::READ_ONLY, |w, memory| {
        let file = w.open(b"/a/b/f", oflag::RDONLY, 0).unwrap();
        for _ in 0..2 {
            let mut text = Vec::new();
            file.read_at(1, &mut text).unwrap();
            assert_eq!(text, b"ello");
        }
        let pages = file.ops.mappable().unwrap();
        let run = pages.translate(0, 1 << 20, false).unwrap();
        assert_eq!(run.len, 4096);
        use base::memmap::Memory as _;
        let mut bytes = [0; 6];
        memory.read(run.offset, &mut bytes);
        assert_eq!(&bytes, b"hello\0");
        assert!(pages.translate(4096, 4096, false).is_err());
        let big = w.open(b"/big", oflag::RDONLY, 0).unwrap();
        let mut text = Vec::new();
        assert_eq!(big.read(&mut text).unwrap(), 3 << 20);
        let run = big.ops.mappable().unwrap().translate(1 << 20, 4096, false).unwrap();
        assert_eq!(run.len, 4096);
        assert_eq!(big.ops.mappable().unwrap().cached((1 << 20) + 4096, 1 << 20).unwrap().len, 60 << 10);
        // The host's link leads nowhere outside.
        assert_eq!(w.resolve(b"/out/passwd", true).unwrap_err(), ENOENT);
        assert_eq!(w.mkdir(b"/new", 0o755), Err(EROFS));
        assert_eq!(w.open(b"/a/b/f", oflag::WRONLY, 0).map(drop), Ok(()));
        let file = w.open(b"/a/b/f", oflag::WRONLY, 0).unwrap();
        assert_eq!(file.write(&mut &b"x"[..]), Err(EROFS));
    });
}

#[test]
fn a_writable_tree_changes_the_host() {
    let dir = Dir::new("rw");
    with(&dir, Mode::SHARED, |w, memory| {
        use base::memmap::Memory as _;
        let file = w.open(b"/a/new", oflag::CREAT | oflag::RDWR, 0o640).unwrap();
        file.write(&mut &b"0123456789"[..]).unwrap();
        let pages = file.ops.mappable().unwrap();
        let run = pages.translate(0, 4096, true).unwrap();
        file.write_at(2, &mut &b"xx"[..]).unwrap();
        memory.write(run.offset, b"m");
        let mut text = Vec::new();
        file.read_at(0, &mut text).unwrap();
        assert_eq!(text, b"m1xx456789");
        pages.sync(0..4096).unwrap();
        assert_eq!(std::fs::read(dir.0.join("a/new")).unwrap(), b"m1xx456789");
        w.rename(b"/a/new", w, b"/a/b/moved", 0).unwrap();
        w.truncate(b"/a/b/moved", 3, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read(dir.0.join("a/b/moved")).unwrap(), b"m1x");
        w.chmod(b"/a/b/moved", 0o600).unwrap();
        assert_eq!(w.stat(b"/a/b/moved", true).unwrap().mode & 0o777, 0o600);
        w.unlink(b"/a/b/moved").unwrap();
        assert_eq!(file.ops.metadata().unwrap().nlink, 0);
        w.rename(b"/a", w, b"/c", 0).unwrap();
        let mut text = Vec::new();
        w.open(b"/c/b/f", oflag::RDONLY, 0).unwrap().read(&mut text).unwrap();
        assert_eq!(text, b"hello");
    });
}

#[test]
fn a_shared_tree_shows_what_the_host_does() {
    let dir = Dir::new("shared");
    with(&dir, Mode { is_writable: false, is_shared: true }, |w, memory| {
        use base::memmap::Memory as _;
        assert_eq!(w.stat(b"/a/new", true).unwrap_err(), ENOENT);
        std::fs::write(dir.0.join("a/new"), b"one").unwrap();
        assert_eq!(w.stat(b"/a/new", true).unwrap().size, 3);
        let file = w.open(b"/a/new", oflag::RDONLY, 0).unwrap();
        let pages = file.ops.mappable().unwrap();
        let run = pages.translate(0, 4096, false).unwrap();
        let mut bytes = [0; 4];
        memory.read(run.offset, &mut bytes);
        assert_eq!(&bytes, b"one\0");
        std::fs::write(dir.0.join("a/new"), vec![b'2'; 5000]).unwrap();
        let mut text = Vec::new();
        file.read_at(0, &mut text).unwrap();
        assert_eq!(text, vec![b'2'; 5000]);
        let run = pages.translate(4096, 4096, false).unwrap();
        memory.read(run.offset, &mut bytes);
        assert_eq!(&bytes, b"2222");
        // It gets shorter under the mapping.
        std::fs::write(dir.0.join("a/new"), b"3").unwrap();
        assert_eq!(file.metadata().unwrap().size, 1);
        assert!(pages.translate(4096, 4096, false).is_err());
        // Another file takes the name, and then none has it.
        std::fs::rename(dir.0.join("a/b/f"), dir.0.join("a/new")).unwrap();
        assert_eq!(w.stat(b"/a/new", true).unwrap().size, 5);
        assert_eq!(w.stat(b"/a/b/f", true).unwrap_err(), ENOENT);
        std::fs::remove_file(dir.0.join("a/new")).unwrap();
        assert_eq!(w.stat(b"/a/new", true).unwrap_err(), ENOENT);
        assert_eq!(w.mkdir(b"/x", 0o755), Err(EROFS));
    });
}

/// What is remembered of an exclusive tree follows what guests do to it.
#[test]
fn an_exclusive_tree_shows_each_change() {
    let dir = Dir::new("exclusive");
    let mode = Mode { is_writable: true, is_shared: false };
    with(&dir, mode, |w, _| {
        let file = w.open(b"/a/b/f", oflag::RDWR, 0).unwrap();
        let stat = || w.stat(b"/a/b/f", true).unwrap();
        assert_eq!((stat().size, stat().nlink), (5, 1));
        file.write_at(3, &mut &b"lo world"[..]).unwrap();
        assert_eq!(stat().size, 11);
        let mut text = Vec::new();
        file.read_at(0, &mut text).unwrap();
        assert_eq!(text, b"hello world");
        file.ops.truncate(2).unwrap();
        file.ops.truncate(4).unwrap();
        text.clear();
        file.read_at(0, &mut text).unwrap();
        assert_eq!((text.as_slice(), stat().size, file.ops.metadata().unwrap().size), (&b"he\0\0"[..], 4, 4));
        // Another name, and a change through it.
        let here = w.resolve(b"/a/b/f", false).unwrap();
        w.link(&here, b"/a/g").unwrap();
        assert_eq!(stat().nlink, 2);
        let other = w.open(b"/a/g", oflag::RDWR, 0).unwrap();
        other.write_at(0, &mut &b"0123456789"[..]).unwrap();
        text.clear();
        file.read_at(0, &mut text).unwrap();
        assert_eq!((text.as_slice(), stat().size), (&b"0123456789"[..], 10));
        w.unlink(b"/a/b/f").unwrap();
        assert_eq!(file.ops.metadata().unwrap().nlink, 1);
        other.write_at(10, &mut &b"ab"[..]).unwrap();
        assert_eq!(file.ops.metadata().unwrap().size, 12);
        w.unlink(b"/a/g").unwrap();
        assert_eq!((file.ops.metadata().unwrap().nlink, other.ops.metadata().unwrap().nlink), (0, 0));
        // Directories count what is in them.
        let links = || w.stat(b"/a", true).unwrap().nlink;
        let before = links();
        w.mkdir(b"/a/new", 0o777).unwrap();
        assert_eq!((links(), w.stat(b"/a/new", true).unwrap().mode & 0o7777), (before + 1, 0o777));
        w.rename(b"/a/new", w, b"/a/b/new", 0).unwrap();
        assert_eq!(links(), before);
        w.rmdir(b"/a/b/new").unwrap();
        assert_eq!(w.stat(b"/a/b", true).unwrap().nlink, 2);
    });
}

/// A name that is gone and still open has the same bytes as the one that is left.
#[test]
fn an_exclusive_file_that_lost_a_name_stays_one() {
    let dir = Dir::new("lost-name");
    std::fs::hard_link(dir.0.join("a/b/f"), dir.0.join("a/g")).unwrap();
    let mode = Mode { is_writable: true, is_shared: false };
    with(&dir, mode, |w, _| {
        let gone = w.open(b"/a/g", oflag::RDWR, 0).unwrap();
        w.unlink(b"/a/g").unwrap();
        let left = w.open(b"/a/b/f", oflag::RDWR, 0).unwrap();
        let text = |file: &crate::file::FileDescription| {
            let mut text = Vec::new();
            file.read_at(0, &mut text).unwrap();
            text
        };
        assert_eq!(text(&left), b"hello");
        gone.write_at(0, &mut &b"HELL"[..]).unwrap();
        assert_eq!(text(&left), b"HELLo");
        left.write_at(4, &mut &b"O!"[..]).unwrap();
        assert_eq!((text(&gone).as_slice(), gone.ops.metadata().unwrap().size), (&b"HELLO!"[..], 6));
    });
}
