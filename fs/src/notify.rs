//! Who is told of what happens to files: inotify, dnotify and fanotify hang here.
//!
//! A watcher hangs on an inode. The dentry by which it came stays in its directory's cache and knows the inode's watchers;
//! a table by inode number is asked only once some watched inode has other names, or names that are not cached. The VFS
//! calls the functions below after a change, with no lock of its own held.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use base::lock::{Lock, rank};

use crate::anon::fanotify::{self, Happening, Mark};
use crate::anon::inotify::Watch;
use crate::dnotify::Notice;
use crate::vfs::{Dentry, Mount};

/// Events: `IN_*` of inotify(7), which are Linux's own numbers (`FS_*`).
#[expect(missing_docs, reason = "inotify(7) explains each")]
pub mod event {
    pub const ACCESS: u32 = 1;
    pub const MODIFY: u32 = 2;
    pub const ATTRIB: u32 = 4;
    pub const CLOSE_WRITE: u32 = 8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const DONT_FOLLOW: u32 = 0x0200_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const MASK_CREATE: u32 = 0x1000_0000;
    pub const MASK_ADD: u32 = 0x2000_0000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
    /// What inotify can watch for.
    pub const ALL: u32 = 0xfff;
}

/// All watchers: while there are none, nothing looks for any.
static WATCHERS: AtomicUsize = AtomicUsize::new(0);

/// Counts a watcher while it lives.
#[derive(Debug)]
pub(crate) struct Counted(());

impl Counted {
    pub(crate) fn new() -> Self {
        WATCHERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        WATCHERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody who watches.
#[derive(Clone, Debug)]
pub(crate) enum Watcher {
    Inotify(Weak<Watch>),
    Dnotify(Weak<Notice>),
    Fanotify(Weak<Mark>),
}

impl Watcher {
    fn is_alive(&self) -> bool {
        match self {
            Self::Inotify(w) => w.strong_count() > 0,
            Self::Dnotify(w) => w.strong_count() > 0,
            Self::Fanotify(w) => w.strong_count() > 0,
        }
    }
}

type Inodes = BTreeMap<(u64, u64), Weak<Watches>>;

/// Who watches which inode, by device and number.
static INODES: Lock<Inodes, { rank::LEAF }> = Lock::new(BTreeMap::new());

/// Whether some watched inode was ever reached by more than one dentry.
static HAS_ALIASES: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_aliases() -> bool {
    HAS_ALIASES.load(Ordering::Relaxed)
}

pub(crate) fn set_aliases() {
    HAS_ALIASES.store(true, Ordering::Relaxed);
}

/// Those who watch the inode, if anybody ever did.
pub(crate) fn by_inode(inode: (u64, u64)) -> Option<Arc<Watches>> {
    INODES.lock().get(&inode)?.upgrade()
}

/// Those who watch the inode.
pub(crate) fn make_by_inode(inode: (u64, u64)) -> Arc<Watches> {
    let mut inodes = INODES.lock();
    if let Some(known) = inodes.get(&inode).and_then(Weak::upgrade) {
        return known;
    }
    if inodes.len().is_power_of_two() {
        inodes.retain(|_, watches| watches.strong_count() > 0);
    }
    let made = Arc::new(Watches::default());
    inodes.insert(inode, Arc::downgrade(&made));
    made
}

/// Those who watch one inode.
#[derive(Debug, Default)]
pub struct Watches(Lock<Vec<Watcher>, { rank::LEAF }>);

impl Watches {
    pub(crate) fn add(&self, watcher: Watcher) {
        let mut list = self.0.lock();
        list.retain(Watcher::is_alive);
        list.push(watcher);
    }

    /// Leaves out those who are gone, and those for whom `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(&Watcher) -> bool) {
        self.0.lock().retain(|w| w.is_alive() && keep(w));
    }

    pub(crate) fn list(&self) -> Vec<Watcher> {
        self.0.lock().clone()
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) mask: u32,
    /// Ties the two events of a rename together.
    pub(crate) cookie: u32,
    /// The name in the watched directory that is concerned; empty when it is the watched file itself.
    pub(crate) name: &'a [u8],
    /// It came by a path whose name is one no longer.
    pub(crate) is_gone: bool,
}

/// Whether anything is watched at all.
pub(crate) fn is_used() -> bool {
    WATCHERS.load(Ordering::Relaxed) > 0
}

/// A number that ties the two events of a rename together.
pub(crate) fn new_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn tell(dentry: &Dentry, event: Event<'_>) {
    let Some(on) = dentry.watches() else { return };
    for watcher in on.list() {
        match watcher {
            Watcher::Inotify(watch) => {
                if let Some(watch) = watch.upgrade() {
                    watch.tell(event);
                }
            }
            Watcher::Dnotify(notice) => {
                if let Some(notice) = notice.upgrade() {
                    notice.tell(event);
                }
            }
            // Told once for all its marks.
            Watcher::Fanotify(_) => {}
        }
    }
}

fn plain(mask: u32) -> Event<'static> {
    Event { mask, cookie: 0, name: b"", is_gone: false }
}

/// Tells that something happened to the file, by a path or an open file: those who watch its directory, and those who
/// watch the file itself.
pub(crate) fn happened(mount: &Arc<Mount>, dentry: &Arc<Dentry>, mask: u32) {
    told(mount, dentry, mask, true);
}

/// The same of a change that names no path: of attributes.
pub(crate) fn changed(mount: &Arc<Mount>, dentry: &Arc<Dentry>, mask: u32) {
    told(mount, dentry, mask, false);
}

fn told(mount: &Arc<Mount>, dentry: &Arc<Dentry>, mask: u32, has_path: bool) {
    if !is_used() {
        return;
    }
    // Who came by a path that is one no longer may not be heard of (`IN_EXCL_UNLINK`).
    let is_gone = has_path && dentry.is_dead();
    if let Some(parent) = dentry.parent()
        && parent.watches().is_some()
    {
        tell(&parent, Event { name: &dentry.name(), is_gone, ..plain(mask) });
    }
    tell(dentry, Event { is_gone, ..plain(mask) });
    if fanotify::is_used() {
        fanotify::tell(&Happening { mask, mount, has_path, target: dentry, tells_parent: true, entry: None });
    }
}

/// Tells those who watch the directory of something that concerns a name in it, which leads or led to `child`.
pub(crate) fn in_directory(
    mount: &Arc<Mount>,
    dir: &Arc<Dentry>,
    mask: u32,
    cookie: u32,
    name: &[u8],
    child: Option<&Arc<Dentry>>,
) {
    if !is_used() {
        return;
    }
    tell(dir, Event { cookie, name, ..plain(mask) });
    if fanotify::is_used() {
        let entry = Some((name, child));
        fanotify::tell(&Happening { mask, mount, has_path: false, target: dir, tells_parent: false, entry });
    }
}

/// Tells of a rename as one event, before the two of it.
pub(crate) fn renamed(what: &fanotify::Renaming<'_>) {
    if fanotify::is_used() {
        fanotify::tell_rename(what);
    }
}

/// Tells those who watch the file, and not those who watch its directory.
pub(crate) fn to_itself(mount: &Arc<Mount>, dentry: &Arc<Dentry>, mask: u32) {
    if !is_used() {
        return;
    }
    tell(dentry, plain(mask));
    if fanotify::is_used() {
        let what =
            Happening { mask, mount, has_path: false, target: dentry, tells_parent: false, entry: None };
        fanotify::tell(&what);
    }
}

/// Tells that the file is gone for good, and ends the watches on it.
pub(crate) fn gone(mount: &Arc<Mount>, dentry: &Arc<Dentry>) {
    if !is_used() {
        return;
    }
    to_itself(mount, dentry, event::DELETE_SELF);
    let Some(on) = dentry.watches() else { return };
    for watcher in on.list() {
        match watcher {
            Watcher::Inotify(watch) => {
                if let Some(watch) = watch.upgrade() {
                    watch.end();
                }
            }
            Watcher::Fanotify(mark) => {
                if let Some(mark) = mark.upgrade() {
                    mark.end();
                }
            }
            Watcher::Dnotify(_) => {}
        }
    }
}

fn inotify_watches(inode: (u64, u64)) -> Vec<Arc<Watch>> {
    let list = by_inode(inode).map(|on| on.list()).unwrap_or_default();
    let inotify = |w: Watcher| if let Watcher::Inotify(w) = w { w.upgrade() } else { None };
    list.into_iter().filter_map(inotify).collect()
}

/// Tells those who watch the inode with inotify of something that did not come by the VFS.
pub(crate) fn outside(inode: (u64, u64), mask: u32, cookie: u32, name: &[u8]) {
    for watch in inotify_watches(inode) {
        watch.tell(Event { mask, cookie, name, is_gone: false });
    }
}

/// Tells them that it has lost its last name, and ends their watches.
pub(crate) fn outside_gone(inode: (u64, u64)) {
    for watch in inotify_watches(inode) {
        watch.tell(plain(event::DELETE_SELF));
        watch.end();
    }
}

/// Tells them that something happened that is not known any more.
pub(crate) fn outside_lost(inode: (u64, u64)) {
    inotify_watches(inode).iter().for_each(|watch| watch.overflow());
}

thread_local! {
    /// For whom the calling thread works: process and thread.
    static CALLER: Cell<(i32, i32)> = const { Cell::new((0, 0)) };
}

/// Says for which process and thread the calling thread works.
pub fn set_caller(pid: i32, tid: i32) {
    CALLER.set((pid, tid));
}

pub(crate) fn caller() -> (i32, i32) {
    CALLER.get()
}
