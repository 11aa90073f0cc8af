//! What the host's programs do to files of shared trees that guests watch (inotify(7)).
//!
//! A guest's watch has one of the host behind it, as long as the first lives; ringfence's own changes are left out, since
//! the VFS tells of those at once. There is one watcher for all trees, made with the first watch, and a thread that waits
//! for what it tells.
//!
//! That a file has lost its last name is told with the change of its attributes. A folder that the host removes is told of
//! by those who watch the one above it: handles keep it alive.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use base::lock::{Lock, rank};
use host::watch::{About, Event, FileName, Watcher, bit, name_of};

use super::HostInode;
use crate::notify::{self, event};
use crate::vfs::FileType;

/// Files that are watched for guests at most: each costs the host kernel about 1 KiB.
const FILES_MAX: usize = 8192;

/// What of inotify's events the host can tell under the same bits.
const SAME: u32 = event::ACCESS
    | event::MODIFY
    | event::ATTRIB
    | event::CLOSE_WRITE
    | event::CLOSE_NOWRITE
    | event::OPEN
    | event::CREATE
    | event::DELETE
    | event::MOVE_SELF;

/// Device and number.
type Key = (u64, u64);

#[derive(Debug)]
struct Watched {
    /// Device and number, by which guests' watches are found.
    key: Key,
    inode: Weak<HostInode>,
    mask: u64,
    users: usize,
}

#[derive(Debug)]
struct Outside {
    watcher: Watcher,
    files: Lock<HashMap<FileName, Watched>, { rank::LEAF }>,
}

/// `None`: the host does not let us watch.
static OUTSIDE: OnceLock<Option<Arc<Outside>>> = OnceLock::new();

fn outside() -> Option<&'static Arc<Outside>> {
    OUTSIDE.get_or_init(start).as_ref()
}

fn start() -> Option<Arc<Outside>> {
    let watcher = match Watcher::new() {
        Ok(watcher) => watcher,
        Err(e) => {
            log::info!("volumes: the host does not tell of its changes: fanotify_init: {e}");
            return None;
        }
    };
    let outside = Arc::new(Outside { watcher, files: Lock::new(HashMap::new()) });
    let waiting = outside.clone();
    let wait = move || {
        let mut gone = Vec::new();
        while waiting.watcher.wait(|event| waiting.tell(&event, &mut gone)).is_ok() {
            // What happened to a file before it was gone has been told of when nothing more waits.
            if !gone.is_empty() && !waiting.watcher.has_more() {
                gone.drain(..).for_each(notify::outside_gone);
            }
        }
        log::warn!("volumes: the host tells of its changes no longer");
    };
    if let Err(e) = std::thread::Builder::new().name("volume-watch".into()).spawn(wait) {
        log::info!("volumes: the host's changes are not told: {e}");
        return None;
    }
    Some(outside)
}

/// Has the host tell of a file while it lives.
#[derive(Debug)]
pub(super) struct Guard {
    file: FileName,
    inode: Arc<HostInode>,
}

/// A descriptor of the file that can be watched.
fn watchable(inode: &HostInode) -> Result<Arc<OwnedFd>, Errno> {
    let fd = inode.fd()?;
    match inode.kind() {
        FileType::Directory => Ok(Arc::new(host::file::reopen_dir(fd.as_fd())?)),
        _ => Ok(fd),
    }
}

/// Has the host tell of what others do to the file, as far as `mask` of inotify asks for it. Nothing if it cannot.
pub(super) fn watch(inode: &HostInode, mask: u32) -> Option<Guard> {
    if !inode.fs.mode.is_shared || !matches!(inode.kind(), FileType::Directory | FileType::Regular) {
        return None;
    }
    let outside = outside()?;
    let inode = inode.arc().ok()?;
    let fd = watchable(&inode).ok()?;
    let file = name_of(fd.as_fd()).ok()?;
    // Whether a file has lost its last name is seen by its attributes.
    let mut wanted = u64::from(mask & SAME | event::ATTRIB) | bit::ONDIR;
    if inode.kind() == FileType::Directory {
        wanted |= bit::EVENT_ON_CHILD;
        if mask & (event::MOVED_FROM | event::MOVED_TO) != 0 {
            wanted |= bit::RENAME;
        }
    } else {
        wanted &= !u64::from(event::CREATE | event::DELETE);
    }
    let mut files = outside.files.lock();
    if files.len() >= FILES_MAX && !files.contains_key(&file) {
        return None;
    }
    outside.watcher.add(fd.as_fd(), wanted).ok()?;
    let key = (inode.stat.dev, inode.stat.ino);
    let watched = Watched { key, inode: Arc::downgrade(&inode), mask: 0, users: 0 };
    let watched = files.entry(file.clone()).or_insert(watched);
    watched.mask |= wanted;
    watched.users += 1;
    watched.inode = Arc::downgrade(&inode);
    drop(files);
    Some(Guard { file, inode })
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(outside) = outside() else { return };
        let fd = watchable(&self.inode);
        let mut files = outside.files.lock();
        let Some(watched) = files.get_mut(&self.file) else { return };
        watched.users -= 1;
        if watched.users == 0
            && let Some(watched) = files.remove(&self.file)
            && let Ok(fd) = fd
        {
            // A file that is gone takes it along.
            let _ = outside.watcher.remove(fd.as_fd(), watched.mask);
        }
    }
}

impl Outside {
    /// Device and number of a file that is watched, and the file while it is there.
    fn known(&self, file: &FileName) -> Option<(Key, Option<Arc<HostInode>>)> {
        self.files.lock().get(file).map(|watched| (watched.key, watched.inode.upgrade()))
    }

    /// Tells guests of an event; what has no name any longer is added to `gone`.
    fn tell(&self, told: &Event<'_>, gone: &mut Vec<Key>) {
        if told.mask & bit::Q_OVERFLOW != 0 {
            let keys: Vec<Key> = self.files.lock().values().map(|watched| watched.key).collect();
            keys.into_iter().for_each(notify::outside_lost);
            return;
        }
        if told.is_own {
            return;
        }
        let is_dir = if told.mask & bit::ONDIR != 0 { event::ISDIR } else { 0 };
        let cookie = if told.mask & bit::RENAME != 0 { notify::new_cookie() } else { 0 };
        for (about, file, name) in &told.about {
            let Some((key, inode)) = self.known(file) else { continue };
            match about {
                About::OldFolder => notify::outside(key, event::MOVED_FROM | is_dir, cookie, name),
                About::NewFolder => notify::outside(key, event::MOVED_TO | is_dir, cookie, name),
                About::Folder if *name != b"." => notify_each(told.mask, key, is_dir, name),
                About::Folder | About::Itself => {
                    notify_each(told.mask, key, is_dir, b"");
                    let is_gone = inode.is_some_and(|inode| {
                        inode.kind() == FileType::Regular
                            && inode
                                .fd()
                                .and_then(|fd| host::file::stat(fd.as_fd()))
                                .is_ok_and(|s| s.nlink == 0)
                    });
                    if is_gone {
                        gone.push(key);
                    }
                }
            }
        }
    }
}

/// Tells of each thing that a mask says: what happened to one file may come as one event.
fn notify_each(mask: u64, key: Key, is_dir: u32, name: &[u8]) {
    const ORDER: [u32; 9] = [
        event::CREATE,
        event::OPEN,
        event::ACCESS,
        event::MODIFY,
        event::ATTRIB,
        event::CLOSE_WRITE,
        event::CLOSE_NOWRITE,
        event::DELETE,
        event::MOVE_SELF,
    ];
    for bit in ORDER.into_iter().filter(|&bit| mask & u64::from(bit) != 0) {
        notify::outside(key, bit | is_dir, 0, name);
    }
}
