//! Tests of the path walk over a tmpfs.

use std::sync::Arc;

use abi::errno::*;
use base::cred::Credentials;

use super::testing::TestMemory;
use super::*;
use crate::file::oflag;
use crate::tmpfs;

fn namespace() -> Arc<MountNamespace> {
    MountNamespace::new(tmpfs::new(TestMemory::new(), 0o755))
}

fn walk<'a>(ns: &MountNamespace, cred: &'a Credentials) -> Walk<'a> {
    Walk { root: ns.root(), base: ns.root(), cred, umask: 0 }
}

#[test]
fn paths_lead_where_linux_says() {
    let (ns, cred) = (namespace(), Credentials::root());
    let w = walk(&ns, &cred);
    w.mkdir(b"/a", 0o755).unwrap();
    w.mkdir(b"/a/b/", 0o755).unwrap();
    assert_eq!(w.mkdir(b"/a", 0o755), Err(EEXIST));
    assert_eq!(w.mkdir(b"/", 0o755), Err(EEXIST));
    assert_eq!(w.mkdir(b"/none/x", 0o755), Err(ENOENT));
    w.symlink(b"../a/./b", b"/a/link").unwrap();
    w.symlink(b"loop", b"/loop").unwrap();
    w.open(b"/a/b/file", oflag::CREAT | oflag::RDWR, 0o644).unwrap();
    let found = w.resolve(b"a//link/../b/./file", true).unwrap();
    assert_eq!(found.full_path(&ns.root()), b"/a/b/file");
    assert_eq!(w.resolve(b"/../..", true).unwrap().full_path(&ns.root()), b"/");
    assert_eq!(w.resolve(b"/a/b/file/", true).unwrap_err(), ENOTDIR);
    assert_eq!(w.resolve(b"/a/b/file/x", true).unwrap_err(), ENOTDIR);
    assert_eq!(w.resolve(b"", true).unwrap_err(), ENOENT);
    assert_eq!(w.resolve(b"/loop", true).unwrap_err(), ELOOP);
    assert_eq!(w.resolve(&[b'x'; 256], true).unwrap_err(), ENAMETOOLONG);
    assert_eq!(w.resolve(&b"/".repeat(4096), true).unwrap_err(), ENAMETOOLONG);
    assert_eq!(w.open(b"/a", oflag::WRONLY, 0).unwrap_err(), EISDIR);
    assert_eq!(w.open(b"/a/link", oflag::NOFOLLOW, 0).unwrap_err(), ELOOP);
    assert_eq!(w.open(b"/a/b/file", oflag::CREAT | oflag::EXCL, 0).unwrap_err(), EEXIST);
    assert_eq!(w.open(b"/a/b/file", oflag::DIRECTORY, 0).unwrap_err(), ENOTDIR);
    assert_eq!(w.open(b"/new/", oflag::CREAT | oflag::RDWR, 0).unwrap_err(), EISDIR);
    assert_eq!(w.rmdir(b"/a/b"), Err(ENOTEMPTY));
    assert_eq!(w.unlink(b"/a/b"), Err(EISDIR));
    assert_eq!(w.rename(b"/a", &w, b"/a/b/c", 0), Err(EINVAL));
    w.rename(b"/a/b/file", &w, b"/file", 0).unwrap();
    assert_eq!(w.resolve(b"/a/b/file", true).unwrap_err(), ENOENT);
    w.rmdir(b"/a/b").unwrap();
    let file = w.resolve(b"/file", true).unwrap();
    w.link(&file, b"/a/other").unwrap();
    assert_eq!(w.stat(b"/a/other", true).unwrap().nlink, 2);
    w.unlink(b"/file").unwrap();
    assert_eq!(w.stat(b"/a/other", true).unwrap().nlink, 1);
}

#[test]
fn permissions_keep_others_out() {
    let (ns, root, user) = (namespace(), Credentials::root(), Credentials::user(7, 7));
    let (w, u) = (walk(&ns, &root), walk(&ns, &user));
    w.mkdir(b"/tmp", 0o1777).unwrap();
    w.chmod(b"/tmp", 0o1777).unwrap();
    w.mkdir(b"/secret", 0o700).unwrap();
    w.open(b"/tmp/roots", oflag::CREAT | oflag::RDWR, 0o644).unwrap();
    assert_eq!(u.open(b"/secret/x", 0, 0).unwrap_err(), EACCES);
    assert_eq!(u.mkdir(b"/d", 0o755), Err(EACCES));
    assert_eq!(u.unlink(b"/tmp/roots"), Err(EPERM));
    assert_eq!(u.open(b"/tmp/roots", oflag::RDWR, 0).unwrap_err(), EACCES);
    assert_eq!(u.chmod(b"/tmp/roots", 0o777), Err(EPERM));
    u.open(b"/tmp/mine", oflag::CREAT | oflag::WRONLY, 0).unwrap();
    assert_eq!(u.open(b"/tmp/mine", oflag::RDONLY, 0).unwrap_err(), EACCES);
    u.unlink(b"/tmp/mine").unwrap();
}

#[test]
fn mounts_cover_and_can_be_read_only() {
    let (ns, cred) = (namespace(), Credentials::root());
    let w = walk(&ns, &cred);
    w.mkdir(b"/m", 0o755).unwrap();
    let at = w.resolve(b"/m", true).unwrap();
    let inner = tmpfs::new(TestMemory::new(), 0o755);
    inner.create(b"f", 0o644, Owner { uid: 0, gid: 0 }).unwrap();
    ns.mount(&at, inner, "tmpfs", "none", true).unwrap();
    let f = w.resolve(b"/m/f", true).unwrap();
    assert_eq!(f.full_path(&ns.root()), b"/m/f");
    assert_eq!(w.resolve(b"/m/..", true).unwrap().full_path(&ns.root()), b"/");
    assert_eq!(w.open(b"/m/f", oflag::RDWR, 0).unwrap_err(), EROFS);
    assert_eq!(w.open(b"/m/g", oflag::RDWR | oflag::CREAT, 0).unwrap_err(), EROFS);
    assert_eq!(w.rename(b"/m/f", &w, b"/f", 0), Err(EXDEV));
    assert_eq!(w.rmdir(b"/m"), Err(EBUSY));
    let text = ns.mounts_text(&ns.root());
    assert!(String::from_utf8(text).unwrap().contains("none /m tmpfs ro"));
    assert_eq!(ns.umount(w.resolve(b"/m", true).unwrap(), Unmount::Now), Err(EBUSY));
    drop(f);
    ns.umount(w.resolve(b"/m", true).unwrap(), Unmount::Now).unwrap();
    assert_eq!(w.resolve(b"/m/f", true).unwrap_err(), ENOENT);
}
