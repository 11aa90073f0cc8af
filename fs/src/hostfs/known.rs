//! What is known of the files of an exclusive tree, so that the host is asked once.
//!
//! Nobody but guests changes such a tree, and their changes come by here: each one makes what is known void, or changes it
//! (`version` tells a question that was under way meanwhile). A file with several names may be known as several inodes. So
//! nothing is kept of it, and changes of it make what is known of all files of the tree void: it may have looked like one
//! with a single name to another inode.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use abi::Errno;
use host::clock::{HostClock, now_ns};
use host::file::Stat;

use super::HostInode;

#[derive(Debug, Default)]
pub(super) struct Known {
    stat: Option<Stat>,
    /// Size, type, number and device are known, the rest is not.
    is_size_only: bool,
    /// The tree's, when it was asked.
    generation: u64,
    version: u64,
}

/// How long reading does not change the time of the last one (`relatime`), in s.
const DAY: i64 = 24 * 60 * 60;

impl HostInode {
    fn is_remembered(&self) -> bool {
        let mode = self.fs.mode;
        mode.is_writable
            && !mode.is_shared
            && !self.has_names()
            && !self.fs.is_changed_untold.load(Ordering::Relaxed)
    }

    /// Whether the file has or had several names.
    pub(super) fn has_names(&self) -> bool {
        self.stat.nlink > 1 && self.kind() != crate::vfs::FileType::Directory
            || self.was_linked.load(Ordering::Relaxed)
    }

    /// What was just heard of the file when it was found.
    pub(super) fn learn(&self) {
        let generation = self.fs.generation.load(Ordering::SeqCst);
        if self.is_remembered() {
            let mut known = self.known.lock();
            *known = Known { stat: Some(self.stat), is_size_only: false, generation, version: known.version };
        }
    }

    /// What is known, or what `ask` hears from the host.
    pub(super) fn known_or(&self, ask: impl FnOnce() -> Result<Stat, Errno>) -> Result<Stat, Errno> {
        self.ask_unless(|known| !known.is_size_only, ask)
    }

    /// The file's size, as far as guests may read now; `fd` is open for the file.
    pub(super) fn size(&self, fd: &OwnedFd) -> Result<u64, Errno> {
        if self.fs.mode.is_stable() {
            return Ok(self.stat.size);
        }
        let stat = self.ask_unless(|_| true, || host::file::stat(fd.as_fd()))?;
        if let Some(data) = self.data.get() {
            data.notice(&stat);
        }
        Ok(stat.size)
    }

    fn ask_unless(
        &self,
        suffices: impl FnOnce(&Known) -> bool,
        ask: impl FnOnce() -> Result<Stat, Errno>,
    ) -> Result<Stat, Errno> {
        if !self.is_remembered() {
            return ask();
        }
        let generation = self.fs.generation.load(Ordering::SeqCst);
        let version = {
            let known = self.known.lock();
            match known.stat {
                Some(stat) if known.generation == generation && suffices(&known) => return Ok(stat),
                _ => known.version,
            }
        };
        let stat = ask()?;
        let mut known = self.known.lock();
        if known.version == version && self.is_remembered() {
            *known = Known { stat: Some(stat), is_size_only: false, generation, version };
        }
        Ok(stat)
    }

    /// The file was changed.
    pub(super) fn changed(&self) {
        self.change(|_| None);
    }

    /// The file was written up to `end`.
    pub(super) fn written_to(&self, end: u64) {
        self.change(|stat| Some(Stat { size: stat.size.max(end), ..stat }));
    }

    /// The file has `size` bytes now.
    pub(super) fn resized(&self, size: u64) {
        self.change(|stat| Some(Stat { size, ..stat }));
    }

    fn change(&self, size_of: impl FnOnce(Stat) -> Option<Stat>) {
        if self.fs.mode.is_shared {
            return;
        }
        if self.has_names() {
            self.fs.generation.fetch_add(1, Ordering::SeqCst);
        }
        let mut known = self.known.lock();
        known.version += 1;
        known.stat = known.stat.take().and_then(size_of);
        known.is_size_only = true;
    }

    /// The host was asked for bytes of the file, and may have noted the time.
    pub(super) fn was_read(&self) {
        let mut known = self.known.lock();
        let is_noted = known.stat.is_some_and(|stat| {
            let age = now_ns(HostClock::Realtime) / 1_000_000_000 - stat.atime.0;
            stat.atime <= stat.mtime || stat.atime <= stat.ctime || age >= DAY
        });
        if is_noted {
            known.version += 1;
            known.is_size_only = true;
        }
    }
}
