//! `--volume`: directories and files of the host that the sandbox sees.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EEXIST, EINVAL, ENOENT};
use base::cred::Credentials;
use base::memmap::Memory;
use fs::hostfs::Mode;
use fs::vfs::{Inode, MountNamespace, Walk};

/// `HOST:GUEST[:OPTIONS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    host: PathBuf,
    guest: Vec<u8>,
    mode: Mode,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(guest)) = (parts.next(), parts.next()) else {
            return Err("expected HOST:GUEST or HOST:GUEST:ro".to_owned());
        };
        if host.is_empty() || !guest.starts_with('/') {
            return Err("HOST must not be empty and GUEST must begin with /".to_owned());
        }
        let mut mode = Mode::SHARED;
        for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
            match option {
                "ro" => mode.is_writable = false,
                "rw" => mode.is_writable = true,
                "shared" => mode.is_shared = true,
                "exclusive" => mode.is_shared = false,
                other => {
                    return Err(format!("unknown option {other:?}: expected ro, rw, shared or exclusive"));
                }
            }
        }
        Ok(Self { host: host.into(), guest: guest.into(), mode })
    }
}

impl Volume {
    /// Whether guests may change it.
    pub(crate) fn is_writable(&self) -> bool {
        self.mode.is_writable
    }

    /// Whether the host may change it meanwhile.
    pub(crate) fn is_shared(&self) -> bool {
        self.mode.is_shared
    }

    /// Whether both show a file, or one is below the other's folder.
    fn meets(&self, other: &Self) -> bool {
        let place = |v: &Self| std::fs::canonicalize(&v.host).unwrap_or_else(|_| v.host.clone());
        let (a, b) = (place(self), place(other));
        a.starts_with(&b) || b.starts_with(&a)
    }

    /// Shows the volume in the sandbox; the place is made if it is not there.
    pub(crate) fn mount(&self, mounts: &Arc<MountNamespace>, memory: &Arc<dyn Memory>) -> Result<(), String> {
        let host = self.host.display();
        let tree = self.open(memory).map_err(|e| format!("--volume: {host}: {e}"))?;
        let is_dir = tree.metadata().is_ok_and(|m| m.is_dir());
        let cred = Credentials::root();
        let top = mounts.root();
        let walk = Walk { root: top.clone(), base: top, cred: &cred, umask: 0 };
        let source = self.host.to_string_lossy();
        make_place(&walk, &self.guest, is_dir)
            .and_then(|()| walk.resolve(&self.guest, true))
            .and_then(|at| mounts.mount(&at, tree, "hostfs", &source, !self.mode.is_writable))
            .map(drop)
            .map_err(|e| format!("--volume: {}: {e}", String::from_utf8_lossy(&self.guest)))
    }

    fn open(&self, memory: &Arc<dyn Memory>) -> Result<Arc<dyn Inode>, Errno> {
        let path = std::fs::canonicalize(&self.host).map_err(|e| errno(&e))?;
        if path.is_dir() {
            return fs::hostfs::new(memory.clone(), &path, self.mode);
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(EINVAL) };
        fs::hostfs::new(memory.clone(), Path::new(dir), self.mode)?.lookup(name.as_bytes())
    }
}

/// Each volume remembers by itself what it was told: an exclusive one must be the only way to its files.
///
/// # Errors
/// Two volumes of which one is exclusive and one is writable show the same files.
pub(crate) fn check_exclusive(volumes: &[Volume]) -> Result<(), String> {
    for (i, a) in volumes.iter().enumerate() {
        for b in volumes.iter().skip(i + 1) {
            let is_exclusive = !a.mode.is_shared || !b.mode.is_shared;
            if is_exclusive && (a.is_writable() || b.is_writable()) && a.meets(b) {
                let (a, b) = (a.host.display(), b.host.display());
                return Err(format!("--volume: {a} and {b} show the same files: make both shared"));
            }
        }
    }
    Ok(())
}

fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().and_then(Errno::from_raw).unwrap_or(EINVAL)
}

/// Makes what is missing of `path`: directories, and at the end a directory or an empty file.
fn make_place(walk: &Walk<'_>, path: &[u8], is_dir: bool) -> Result<(), Errno> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    for end in ends {
        match walk.mkdir(&path[..end], 0o755) {
            Ok(()) | Err(EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    match walk.resolve(path, true) {
        Err(ENOENT) if is_dir => walk.mkdir(path, 0o755),
        Err(ENOENT) => walk.mknod(path, 0o644, 0),
        other => other.map(drop),
    }
}
