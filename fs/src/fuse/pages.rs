//! Pages of files that are mapped.
//!
//! A page fault must not wait for a server: it holds the locks of an address space, which others wait for who cannot be
//! killed. So what a mapping shows is read when it is made, by the caller, who can be; the bytes are those of then, and of
//! the file's last mapping. Shared mappings that could be written are refused, as Linux refuses them where it keeps no
//! pages.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBADF, EIO, ENODEV, ENOMEM};
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{MapError, Mappable, MemKind, MemRange, Memory};
use base::time::Time;

use crate::file::Metadata;
use crate::vfs::pages::PageMap;

/// The pages of all files of a server that are mapped, by node.
pub(super) struct Mapped {
    memory: Arc<dyn Memory>,
    files: Lock<HashMap<u64, Weak<Pages>>, { rank::LEAF }>,
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mapped")
    }
}

impl Mapped {
    pub(super) fn new(memory: Arc<dyn Memory>) -> Self {
        Self { memory, files: Lock::default() }
    }

    pub(super) fn of(&self, node: u64) -> Arc<Pages> {
        let mut files = self.files.lock();
        if let Some(known) = files.get(&node).and_then(Weak::upgrade) {
            return known;
        }
        if files.len().is_power_of_two() {
            files.retain(|_, pages| pages.strong_count() > 0);
        }
        let pages = Arc::new(Pages { memory: self.memory.clone(), state: Lock::default() });
        files.insert(node, Arc::downgrade(&pages));
        pages
    }
}

#[derive(Default)]
struct State {
    map: PageMap,
    /// Size and time of change of the file that the pages are of.
    version: (u64, Time),
}

/// What was read of one file.
pub(super) struct Pages {
    memory: Arc<dyn Memory>,
    state: Lock<State, { rank::PAGE_CACHE }>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    /// Reads the pages of `range` that are not there, by `read` (offset and number of bytes; fewer at the end).
    ///
    /// # Errors
    /// `read`'s; `ENOMEM`.
    pub(super) fn fill(
        &self,
        meta: &Metadata,
        range: Range<u64>,
        mut read: impl FnMut(u64, u32) -> Result<Vec<u8>, Errno>,
    ) -> Result<(), Errno> {
        let version = (meta.size, meta.mtime);
        {
            let mut state = self.state.lock();
            if state.version != version {
                state.map.clear(&*self.memory);
                state.version = version;
            }
        }
        let end = range.end.min(meta.size.next_multiple_of(PAGE_SIZE));
        let mut at = range.start & !(PAGE_SIZE - 1);
        while at < end {
            let free = {
                let state = self.state.lock();
                if let Some(run) = state.map.find(at) {
                    at += run.len;
                    continue;
                }
                state.map.next(at).unwrap_or(end).min(end) - at
            };
            // The server says how much there is, by sending it: a size alone takes no memory.
            let want = free.min(u64::from(super::DATA_MAX)) as u32;
            let mut bytes = read(at, want)?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.len() > want as usize {
                return Err(EIO);
            }
            let is_end = bytes.len() < want as usize;
            bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE as usize), 0);
            let len = bytes.len() as u64;
            let run = self.memory.allocate(len, PAGE_SIZE, MemKind::Shared).map_err(|_| ENOMEM)?;
            self.memory.write(run.offset, &bytes);
            let mut state = self.state.lock();
            let is_free =
                state.map.find(at).is_none() && state.map.next(at).is_none_or(|next| next >= at + len);
            if is_free && state.version == version {
                state.map.insert(at, run);
            } else {
                drop(state);
                self.memory.dec_ref(run);
            }
            at += len;
            if is_end {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.state.get_mut().map.clear(&*self.memory);
    }
}

impl Mappable for Pages {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        if write {
            return Err(MapError::Bus);
        }
        self.cached(offset, max_len).ok_or(MapError::Bus)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let state = self.state.lock();
        let mut run = state.map.find(offset)?;
        run.len = run.len.min(max_len);
        self.memory.inc_ref(run);
        Some(run)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, _range: Range<u64>) -> Result<(), Errno> {
        Err(EBADF)
    }
}

/// # Errors
/// `ENODEV`: a shared mapping that could be written.
pub(super) fn check(shared_and_writable: bool) -> Result<(), Errno> {
    if shared_and_writable { Err(ENODEV) } else { Ok(()) }
}
