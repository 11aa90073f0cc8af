//! `F_NOTIFY` of fcntl(2): signals about what happens in a directory (Linux fs/notify/dnotify/dnotify.c).

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::ENOTDIR;

use crate::file::FileDescription;
use crate::notify::{Counted, Event, Watcher, event};

/// `DN_*` of fcntl(2), and the events that each stands for.
const KINDS: [(u32, u32); 6] = [
    (1, event::ACCESS),
    (2, event::MODIFY),
    (4, event::CREATE | event::MOVED_TO),
    (8, event::DELETE | event::MOVED_FROM),
    (0x10, event::MOVED_FROM),
    (0x20, event::ATTRIB),
];
/// `DN_MULTISHOT`: more than one signal.
const MULTISHOT: u32 = 0x8000_0000;

/// What an open directory asked for.
#[derive(Debug)]
pub struct Notice {
    /// `DN_*`.
    wanted: AtomicU32,
    /// The descriptor that signals name.
    fd: AtomicI32,
    file: Weak<FileDescription>,
    _counted: Counted,
}

impl Notice {
    pub(crate) fn tell(&self, told: Event<'_>) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let mask: u32 = KINDS.iter().filter(|(bit, _)| wanted & bit != 0).map(|(_, mask)| mask).sum();
        let concerns_directory = !told.name.is_empty() || told.mask & event::ISDIR != 0;
        if !concerns_directory || mask & told.mask == 0 {
            return;
        }
        if wanted & MULTISHOT == 0 {
            self.wanted.store(0, Ordering::Relaxed);
        }
        if let Some(owner) = self.file.upgrade().and_then(|file| file.existing_async_owner()) {
            owner.message(self.fd.load(Ordering::Relaxed));
        }
    }
}

/// `F_NOTIFY`: adds to what `file`, open as `fd`, asked for; without kinds of events it asks for nothing any more. The
/// owner of the file has been set.
///
/// # Errors
/// `ENOTDIR`.
pub fn set(file: &Arc<FileDescription>, fd: i32, mask: u32) -> Result<(), Errno> {
    if mask & !MULTISHOT == 0 {
        end(file);
        return Ok(());
    }
    let place = file.path.as_ref().filter(|place| place.dentry.is_dir()).ok_or(ENOTDIR)?;
    let notice = file.notice(|| {
        let notice = Arc::new(Notice {
            wanted: AtomicU32::new(0),
            fd: AtomicI32::new(fd),
            file: Arc::downgrade(file),
            _counted: Counted::new(),
        });
        place.dentry.make_watches().add(Watcher::Dnotify(Arc::downgrade(&notice)));
        notice
    });
    notice.fd.store(fd, Ordering::Relaxed);
    notice.wanted.fetch_or(mask, Ordering::Relaxed);
    Ok(())
}

/// Ends what `file` asked for, as every close of a descriptor does.
pub fn end(file: &FileDescription) {
    if let Some(notice) = file.existing_notice() {
        notice.wanted.store(0, Ordering::Relaxed);
    }
}
