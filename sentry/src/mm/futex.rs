//! What futexes need of memory: an identity for a word, and atomic access to it.

use std::sync::Arc;

use abi::errno::{EFAULT, EINVAL};
use abi::{Errno, UserAddr};
use base::memmap::Access;

use super::MemoryManager;
use super::vma::{Backing, VmFlags};

/// Names a futex word, the same for all who mean the same word: Linux's `union futex_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FutexKey {
    /// A word in private memory of one address space.
    Private {
        /// [`MemoryManager::id`].
        mm: u64,
        /// Its address.
        addr: u64,
        /// Who promised that it is private does not meet who did not (`FUT_OFF_MMSHARED`).
        scope: FutexScope,
    },
    /// A word in a file or in shared memory.
    Shared {
        /// The file's identity: where its pages live in the sentry. Should the file go and another take its place
        /// while somebody still waits on the former, a wake-up may be spurious, which futexes allow.
        object: usize,
        /// The byte offset in it.
        offset: u64,
    },
}

impl MemoryManager {
    /// The key of the word at `addr`; `scope` says whether the caller promised not to share it (`FUTEX_PRIVATE_FLAG`).
    ///
    /// # Errors
    /// In the order checked: `EINVAL` for an address that is not a multiple of 4; `EFAULT` for one that is not a user's
    /// or, unless private, cannot be read.
    pub fn futex_key(&self, addr: UserAddr, scope: FutexScope) -> Result<FutexKey, Errno> {
        if !addr.is_aligned(4) {
            return Err(EINVAL);
        }
        self.check_range(addr, 4)?;
        let key = FutexKey::Private { mm: self.id, addr: addr.raw(), scope };
        if scope == FutexScope::Private {
            return Ok(key);
        }
        self.walk(addr, 4, Access::READ, |_, _, _| {})?;
        let st = self.state.read();
        let vma = st.vmas.find(addr.raw()).ok_or(EFAULT)?;
        match &vma.backing {
            Backing::File { file, .. } if vma.flags.contains(VmFlags::MAYSHARE) => Ok(FutexKey::Shared {
                object: Arc::as_ptr(&file.pages).cast::<()>() as usize,
                offset: vma.file_offset(addr.raw()),
            }),
            _ => Ok(key),
        }
    }

    /// Loads the aligned word at `addr` atomically.
    ///
    /// # Errors
    /// `EFAULT`: it cannot be read, or is not aligned.
    pub fn load_u32(&self, addr: UserAddr) -> Result<u32, Errno> {
        self.word(addr, Access::READ, |off| self.memory.load_u32(off))
    }

    /// Stores `new` in the aligned word at `addr` if it equals `old`; returns what was there.
    ///
    /// # Errors
    /// `EFAULT`: it cannot be written, or is not aligned.
    pub fn compare_exchange_u32(&self, addr: UserAddr, old: u32, new: u32) -> Result<u32, Errno> {
        self.word(addr, Access::WRITE, |off| self.memory.compare_exchange_u32(off, old, new))
    }

    /// Replaces the aligned word at `addr` by `f` of it, atomically; returns what was there.
    ///
    /// # Errors
    /// `EFAULT`: it cannot be written, or is not aligned.
    pub fn fetch_update_u32(&self, addr: UserAddr, f: impl Fn(u32) -> u32) -> Result<u32, Errno> {
        self.word(addr, Access::WRITE, |off| {
            let mut old = self.memory.load_u32(off);
            loop {
                let seen = self.memory.compare_exchange_u32(off, old, f(old));
                if seen == old {
                    return old;
                }
                old = seen;
            }
        })
    }

    fn word(&self, addr: UserAddr, access: Access, f: impl Fn(u64) -> u32) -> Result<u32, Errno> {
        if !addr.is_aligned(4) {
            return Err(EFAULT);
        }
        let mut value = None;
        self.walk(addr, 4, access, |off, _, _| value = Some(f(off)))?;
        value.ok_or(EFAULT)
    }
}

/// Whether a futex is promised to be used by one address space only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FutexScope {
    /// `FUTEX_PRIVATE_FLAG`.
    Private,
    /// Without it.
    Shared,
}
