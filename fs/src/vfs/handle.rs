//! File handles (name_to_handle_at(2)): names of files that outlive their paths.
//!
//! A handle is the device and the inode number. Files are found again by a table of those that a handle was made of
//! lately; an older handle is stale, as it may be on any file system.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EOPNOTSUPP, ESTALE};
use base::lock::{Lock, rank};

use super::{Dentry, StatFs, VfsPath};

/// Bytes of a handle.
pub const HANDLE_LEN: usize = 16;
/// The type of our handles.
pub const HANDLE_TYPE: i32 = 0x52;
/// Files that are found again.
const KEPT: usize = 4096;

type Key = (u64, u64);

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, Arc<Dentry>>,
    order: VecDeque<Key>,
}

fn table() -> &'static Lock<Table, { rank::LEAF }> {
    static TABLE: OnceLock<Lock<Table, { rank::LEAF }>> = OnceLock::new();
    TABLE.get_or_init(Lock::default)
}

impl VfsPath {
    /// The handle of the file.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the file system has none.
    pub fn handle(&self) -> Result<[u8; HANDLE_LEN], Errno> {
        let inode = self.dentry.inode();
        if !inode.cacheable() || inode.statfs().is_ok_and(|s| s.kind == StatFs::PROC) {
            return Err(EOPNOTSUPP);
        }
        let meta = inode.metadata()?;
        let key = (meta.dev, meta.ino);
        let old = {
            let mut table = table().lock();
            let known = table.by_key.insert(key, self.dentry.clone());
            if known.is_none() {
                table.order.push_back(key);
            }
            let oldest = if table.order.len() > KEPT { table.order.pop_front() } else { None };
            (known, oldest.and_then(|key| table.by_key.remove(&key)))
        };
        drop(old);
        let mut handle = [0; HANDLE_LEN];
        handle[..8].copy_from_slice(&key.0.to_le_bytes());
        handle[8..].copy_from_slice(&key.1.to_le_bytes());
        Ok(handle)
    }

    /// The file that `handle` means on this place's mount.
    ///
    /// # Errors
    /// `ESTALE`: none, or none that is known still.
    pub fn by_handle(&self, handle: &[u8; HANDLE_LEN]) -> Result<Self, Errno> {
        let (dev, ino) = handle.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| ESTALE);
        let key = (word(dev)?, word(ino)?);
        let dentry = table().lock().by_key.get(&key).cloned().ok_or(ESTALE)?;
        let meta = dentry.inode().metadata().map_err(|_| ESTALE)?;
        if meta.nlink == 0 || key.0 != self.mount.sb().dev() && key.0 != self.dentry.inode().metadata()?.dev {
            return Err(ESTALE);
        }
        Ok(Self { mount: self.mount.clone(), dentry })
    }
}
