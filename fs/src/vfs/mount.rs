//! Mounts and the namespace that holds them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EBUSY, EINVAL, EROFS};
use base::lock::{RwLock, rank};

use super::{Dentry, Inode, VfsPath};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A file system at a place of the tree.
#[derive(Debug)]
pub struct Mount {
    id: u64,
    root: Arc<Dentry>,
    parent: Option<VfsPath>,
    readonly: AtomicBool,
    fstype: String,
    source: String,
}

impl Mount {
    /// The id that `/proc/PID/mountinfo` shows.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The root of the mounted tree.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// Where it is mounted; `None` for the first mount.
    pub fn parent(&self) -> Option<&VfsPath> {
        self.parent.as_ref()
    }

    /// Whether nothing may be written through this mount.
    pub fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Relaxed)
    }

    /// Remounts read-only or writable.
    pub fn set_readonly(&self, readonly: bool) {
        self.readonly.store(readonly, Ordering::Relaxed);
    }

    /// The name of the file system, such as `tmpfs`.
    pub fn fstype(&self) -> &str {
        &self.fstype
    }

    /// What is mounted, as `/proc/mounts` shows it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// # Errors
    /// `EROFS`.
    pub(super) fn want_write(&self) -> Result<(), Errno> {
        if self.is_readonly() { Err(EROFS) } else { Ok(()) }
    }
}

/// The mounts that a task sees.
#[derive(Debug)]
pub struct MountNamespace {
    root: VfsPath,
    /// In the order of mounting; the last at a place covers the earlier ones.
    mounts: RwLock<Vec<Arc<Mount>>, { rank::MOUNT }>,
}

impl MountNamespace {
    /// Makes a namespace whose only mount is the file system under `root`.
    pub fn new(root: Arc<dyn Inode>) -> Arc<Self> {
        Self::with_root(root, "overlay", "none", false)
    }

    /// As `new`, with what `/proc/mounts` shows of the root.
    pub fn with_root(root: Arc<dyn Inode>, fstype: &str, source: &str, readonly: bool) -> Arc<Self> {
        let dentry = Dentry::new(None, b"", root);
        let mount = Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root: dentry.clone(),
            parent: None,
            readonly: AtomicBool::new(readonly),
            fstype: fstype.to_owned(),
            source: source.to_owned(),
        });
        Arc::new(Self { root: VfsPath { mount: mount.clone(), dentry }, mounts: RwLock::new(vec![mount]) })
    }

    /// The root, below everything mounted on it.
    pub fn root(&self) -> VfsPath {
        self.down(self.root.clone())
    }

    /// Mounts the file system under `root` at `at`; returns its root.
    ///
    /// # Errors
    /// `ENOENT`: `at` was removed.
    pub fn mount(
        &self,
        at: &VfsPath,
        root: Arc<dyn Inode>,
        fstype: &str,
        source: &str,
        readonly: bool,
    ) -> Result<VfsPath, Errno> {
        self.attach(at, Dentry::new(None, b"", root), fstype, source, readonly)
    }

    /// Shows the tree under `from` at `at` too (`MS_BIND`, not recursive).
    ///
    /// # Errors
    /// As `mount`.
    pub fn bind(&self, at: &VfsPath, from: &VfsPath, readonly: bool) -> Result<VfsPath, Errno> {
        let (fstype, source) = (from.mount.fstype.clone(), from.mount.source.clone());
        self.attach(at, from.dentry.clone(), &fstype, &source, readonly)
    }

    fn attach(
        &self,
        at: &VfsPath,
        root: Arc<Dentry>,
        fstype: &str,
        source: &str,
        readonly: bool,
    ) -> Result<VfsPath, Errno> {
        if at.dentry.is_dead() {
            return Err(abi::errno::ENOENT);
        }
        let mut mounts = self.mounts.write();
        let mount = Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root: root.clone(),
            parent: Some(at.clone()),
            readonly: AtomicBool::new(readonly),
            fstype: fstype.to_owned(),
            source: source.to_owned(),
        });
        at.dentry.is_mountpoint.store(true, Ordering::Release);
        mounts.push(mount.clone());
        Ok(VfsPath { mount, dentry: root })
    }

    /// Takes away the mount whose root is `at`. Files open in it stay usable.
    ///
    /// # Errors
    /// `EINVAL`: `at` is no root of a mount; `EBUSY`: something is mounted in it, or it is the first.
    pub fn umount(&self, at: &VfsPath) -> Result<(), Errno> {
        if !Arc::ptr_eq(&at.dentry, &at.mount.root) {
            return Err(EINVAL);
        }
        let Some(below) = at.mount.parent() else { return Err(EBUSY) };
        let mut mounts = self.mounts.write();
        if mounts.iter().any(|m| m.parent().is_some_and(|p| Arc::ptr_eq(&p.mount, &at.mount))) {
            return Err(EBUSY);
        }
        let index = mounts.iter().position(|m| Arc::ptr_eq(m, &at.mount)).ok_or(EINVAL)?;
        mounts.remove(index);
        let still = mounts.iter().any(|m| m.parent().is_some_and(|p| Arc::ptr_eq(&p.dentry, &below.dentry)));
        below.dentry.is_mountpoint.store(still, Ordering::Release);
        Ok(())
    }

    /// Goes to the root of what is mounted at `at`, if anything is.
    pub(super) fn down(&self, mut at: VfsPath) -> VfsPath {
        while at.dentry.is_mountpoint.load(Ordering::Acquire) {
            let mounts = self.mounts.read();
            let Some(m) = mounts.iter().rev().find(|m| m.parent().is_some_and(|p| p.is_same(&at))) else {
                break;
            };
            let next = VfsPath { mount: m.clone(), dentry: m.root.clone() };
            drop(mounts);
            at = next;
        }
        at
    }

    /// The mounts, in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.read().clone()
    }

    /// What `/proc/mounts` shows.
    pub fn mounts_text(&self) -> String {
        let mut text = String::new();
        for mount in self.mounts() {
            let mode = if mount.is_readonly() { "ro" } else { "rw" };
            let at = self.mount_point(&mount);
            let _ = writeln!(
                text,
                "{} {at} {} {mode},relatime 0 0",
                escape(mount.source.as_bytes()),
                mount.fstype
            );
        }
        text
    }

    /// The mount point's path, escaped as in `/proc/mounts`.
    pub fn mount_point(&self, mount: &Mount) -> String {
        mount.parent().map_or_else(|| "/".to_owned(), |p| escape(&p.full_path(&self.root())))
    }
}

/// Blanks, newlines and backslashes as octal escapes (Linux `mangle`).
fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                ' ' | '\t' | '\n' | '\\' | '#' => {
                    let _ = write!(out, "\\{:03o}", c as u32);
                }
                c => out.push(c),
            }
        }
        for _ in piece.invalid() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}
