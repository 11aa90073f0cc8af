//! fanotify(7): events about files, directories, mounts and whole file systems, and questions whether somebody may open
//! or read a file.
//!
//! A mark hangs on what it is about (`notify.rs`). An event goes to a group once, whatever number of its marks it meets.
//! A question keeps the asking thread asleep until the group's reader has answered; a group that is closed has allowed
//! everything.
//!
//! Source: Linux 6.18 fs/notify/fanotify.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EINVAL, EJUKEBOX, ENOENT, ENOSPC, ENOTTY, EPERM};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::anon_metadata;
use super::pipe::FIONREAD;
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};
use crate::notify::{Counted, Watcher, event};
use crate::vfs::{Dentry, HANDLE_TYPE, Mount, VfsPath};

/// Flags of fanotify_init(2).
#[expect(missing_docs, reason = "fanotify_init(2) explains each")]
pub mod init {
    pub const CLOEXEC: u32 = 1;
    pub const NONBLOCK: u32 = 2;
    pub const CLASS_CONTENT: u32 = 4;
    pub const CLASS_PRE_CONTENT: u32 = 8;
    pub const UNLIMITED_QUEUE: u32 = 0x10;
    pub const UNLIMITED_MARKS: u32 = 0x20;
    pub const REPORT_PIDFD: u32 = 0x80;
    pub const REPORT_TID: u32 = 0x100;
    pub const REPORT_FID: u32 = 0x200;
    pub const REPORT_DIR_FID: u32 = 0x400;
    pub const REPORT_NAME: u32 = 0x800;
    pub const REPORT_TARGET_FID: u32 = 0x1000;
    /// All that make events name files by handles.
    pub const FIDS: u32 = REPORT_FID | REPORT_DIR_FID | REPORT_NAME | REPORT_TARGET_FID;
}

/// `FAN_OPEN_EXEC`.
pub const OPEN_EXEC: u32 = 0x1000;
/// `FAN_OPEN_PERM`.
pub const OPEN_PERM: u32 = 0x1_0000;
/// `FAN_ACCESS_PERM`.
pub const ACCESS_PERM: u32 = 0x2_0000;
/// `FAN_OPEN_EXEC_PERM`.
pub const OPEN_EXEC_PERM: u32 = 0x4_0000;
/// `FAN_RENAME`.
pub const RENAME: u32 = 0x1000_0000;
/// `FAN_EVENT_ON_CHILD`.
pub const ON_CHILD: u32 = 0x0800_0000;
/// All kinds of questions.
pub const QUESTIONS: u32 = OPEN_PERM | ACCESS_PERM | OPEN_EXEC_PERM;

/// Bytes of `struct fanotify_event_metadata`.
pub const METADATA_LEN: usize = 24;
/// Bytes of the record that holds a descriptor of the process.
const PIDFD_RECORD: usize = 8;
/// Events that wait in one group at most, and with `FAN_UNLIMITED_QUEUE`.
const QUEUE_MAX: usize = 16384;
const QUEUE_UNLIMITED: usize = 1 << 20;
/// Marks of one group at most.
const MARKS_MAX: usize = 65536;
/// How many events back one that is the same is looked for (`FANOTIFY_MAX_MERGE_EVENTS`).
const MERGE_MAX: usize = 128;

/// Marks that ask: while there are none, nobody is kept waiting.
static ASKING: AtomicUsize = AtomicUsize::new(0);
/// All marks.
static MARKS: AtomicUsize = AtomicUsize::new(0);

/// What a mark is on.
#[derive(Clone, Debug)]
pub enum Object {
    /// A file or directory.
    Inode(VfsPath),
    /// Everything that is reached through a mount.
    Mount(Arc<Mount>),
    /// Everything in the file system of this mount.
    FileSystem(Arc<Mount>),
}

impl Object {
    fn key(&self) -> (u8, usize) {
        match self {
            Self::Inode(place) => (0, Arc::as_ptr(&place.dentry).addr()),
            Self::Mount(mount) => (1, Arc::as_ptr(mount).addr()),
            Self::FileSystem(mount) => (2, Arc::as_ptr(mount.sb()).addr()),
        }
    }

    fn hang(&self, mark: &Arc<Mark>) {
        let watcher = Watcher::Fanotify(Arc::downgrade(mark));
        match self {
            Self::Inode(place) => place.dentry.make_watches().add(watcher),
            Self::Mount(mount) => mount.watches.add(watcher),
            Self::FileSystem(mount) => mount.sb().watches.add(watcher),
        }
    }
}

/// What a mark wants.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    mask: u32,
    ignored: u32,
    /// The ignored events stay ignored when the file is written.
    survives: bool,
}

/// A mark of one group on one object.
#[derive(Debug)]
pub struct Mark {
    group: Weak<Shared>,
    object: Object,
    wanted: Lock<Wanted, { rank::LEAF }>,
    _counted: Counted,
}

impl Mark {
    fn change(&self, f: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.wanted.lock();
        let asked = wanted.mask & QUESTIONS != 0;
        f(&mut wanted);
        match (asked, wanted.mask & QUESTIONS != 0) {
            (false, true) => drop(ASKING.fetch_add(1, Ordering::SeqCst)),
            (true, false) => drop(ASKING.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
    }

    /// The marked file is gone.
    pub(crate) fn end(&self) {
        let Some(group) = self.group.upgrade() else { return };
        let gone = group.state.lock().marks.remove(&self.object.key());
        drop(gone);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        MARKS.fetch_sub(1, Ordering::Relaxed);
        if self.wanted.get_mut().mask & QUESTIONS != 0 {
            ASKING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

const PENDING: u8 = 0;
const ALLOWED: u8 = 1;
const DENIED: u8 = 2;

/// A question that somebody waits to have answered.
#[derive(Debug, Default)]
pub struct Question(AtomicU8);

impl Question {
    fn answer(&self, answer: u8) {
        let _ = self.0.compare_exchange(PENDING, answer, Ordering::SeqCst, Ordering::SeqCst);
        crate::leases::queue().notify(Events::all());
    }
}

/// An event in a group's queue.
#[derive(Clone, Debug)]
pub struct Event {
    /// `FAN_*`.
    pub mask: u32,
    /// Whose doing it was.
    pub pid: i32,
    /// The file that the reader gets a descriptor of.
    pub place: Option<VfsPath>,
    /// Information records about handles.
    pub records: Vec<u8>,
    question: Option<Arc<Question>>,
}

impl Event {
    /// Bytes that a read by a group with `flags` gives for it.
    pub fn size(&self, flags: u32) -> usize {
        let pidfd = if flags & init::REPORT_PIDFD != 0 { PIDFD_RECORD } else { 0 };
        METADATA_LEN + self.records.len() + pidfd
    }

    fn is_same(&self, other: &Self) -> bool {
        let is_same_file = match (&self.place, &other.place) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            _ => false,
        };
        is_same_file
            && self.question.is_none()
            && other.question.is_none()
            && self.pid == other.pid
            && self.records == other.records
            && (self.mask ^ other.mask) & (event::ISDIR | RENAME) == 0
    }
}

#[derive(Debug, Default)]
struct State {
    marks: HashMap<(u8, usize), Arc<Mark>>,
    events: VecDeque<Event>,
    /// Questions that were read, by the descriptor that went with them.
    asked: Vec<(i32, Arc<Question>)>,
    is_closed: bool,
}

#[derive(Debug)]
struct Shared {
    flags: u32,
    state: Lock<State, { rank::LEAF }>,
    queue: WaitQueue,
}

impl Shared {
    fn push(&self, new: Event) {
        let mut state = self.state.lock();
        if state.is_closed {
            drop(state);
            if let Some(question) = &new.question {
                question.answer(ALLOWED);
            }
            return;
        }
        let known = state.events.iter_mut().rev().take(MERGE_MAX).find(|e| e.is_same(&new));
        if let Some(known) = known {
            known.mask |= new.mask;
            return;
        }
        let unlimited = self.flags & init::UNLIMITED_QUEUE != 0;
        if state.events.len() >= if unlimited { QUEUE_UNLIMITED } else { QUEUE_MAX } {
            if state.events.back().is_none_or(|e| e.mask != event::Q_OVERFLOW) {
                let overflow = Event {
                    mask: event::Q_OVERFLOW,
                    pid: 0,
                    place: None,
                    records: Vec::new(),
                    question: None,
                };
                state.events.push_back(overflow);
            }
            drop(state);
            if let Some(question) = &new.question {
                question.answer(ALLOWED);
            }
            return;
        }
        state.events.push_back(new);
        drop(state);
        self.queue.notify(Events::READABLE);
    }
}

/// An open group.
#[derive(Debug)]
pub struct Fanotify {
    shared: Arc<Shared>,
    /// How the files of events are opened.
    pub event_flags: u32,
    /// Its maker had no privileges: files are only told of by handles, and processes not at all.
    pub is_unprivileged: bool,
}

/// Makes a group; `flags` are those of fanotify_init(2), `event_flags` those with which files are opened.
pub fn new(flags: u32, event_flags: u32, is_unprivileged: bool) -> Arc<FileDescription> {
    let shared = Shared { flags, state: Lock::default(), queue: WaitQueue::new() };
    let ops = Fanotify { shared: Arc::new(shared), event_flags, is_unprivileged };
    let nonblocking = if flags & init::NONBLOCK != 0 { oflag::NONBLOCK } else { 0 };
    FileDescription::new(Box::new(ops), None, oflag::RDWR | nonblocking)
}

/// What fanotify_mark(2) changes.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Adds, or removes.
    pub adds: bool,
    /// `FAN_*`.
    pub mask: u32,
    /// It is about events that are not to be told.
    pub ignores: bool,
    /// `FAN_MARK_IGNORED_SURV_MODIFY`.
    pub survives: bool,
}

impl Fanotify {
    /// The flags it was made with.
    pub fn flags(&self) -> u32 {
        self.shared.flags
    }

    /// Changes the mark on `object`.
    ///
    /// # Errors
    /// `ENOENT`: there is none to remove from; `ENOSPC`: there are too many.
    pub fn mark(&self, object: Object, change: Change) -> Result<(), Errno> {
        if let Object::Inode(place) = &object
            && change.adds
            && change.ignores
            && !change.survives
            && place.dentry.openers().0 > 0
        {
            // The next write would end it (`fanotify_add_inode_mark`).
            return Ok(());
        }
        let key = object.key();
        let mut state = self.shared.state.lock();
        let known = state.marks.get(&key).cloned();
        let mark = match known {
            Some(mark) => {
                drop(state);
                mark
            }
            None if !change.adds => return Err(ENOENT),
            None if state.marks.len() >= MARKS_MAX => return Err(ENOSPC),
            None => {
                MARKS.fetch_add(1, Ordering::Relaxed);
                let mark = Arc::new(Mark {
                    group: Arc::downgrade(&self.shared),
                    object: object.clone(),
                    wanted: Lock::default(),
                    _counted: Counted::new(),
                });
                state.marks.insert(key, mark.clone());
                drop(state);
                object.hang(&mark);
                mark
            }
        };
        mark.change(|wanted| {
            let mask = if change.ignores { &mut wanted.ignored } else { &mut wanted.mask };
            if change.adds {
                *mask |= change.mask;
                wanted.survives |= change.ignores && change.survives;
            } else {
                *mask &= !change.mask;
            }
        });
        let wanted = *mark.wanted.lock();
        if (wanted.mask | wanted.ignored) & !(event::ISDIR | ON_CHILD) == 0 {
            mark.end();
        }
        Ok(())
    }

    /// Removes all marks on objects of the kind of `object`.
    pub fn flush(&self, is_kind: impl Fn(&Object) -> bool) {
        let mut gone = Vec::new();
        self.shared.state.lock().marks.retain(|_, mark| {
            let goes = is_kind(&mark.object);
            if goes {
                gone.push(mark.clone());
            }
            !goes
        });
    }

    /// Takes the next event if it is no longer than `room`.
    ///
    /// # Errors
    /// `EAGAIN`: there is none; `EINVAL`: it is longer.
    pub fn take(&self, room: usize) -> Result<Event, Errno> {
        let mut state = self.shared.state.lock();
        let flags = self.shared.flags;
        let len = state.events.front().map(|e| e.size(flags)).ok_or(abi::errno::EAGAIN)?;
        if len > room {
            return Err(EINVAL);
        }
        state.events.pop_front().ok_or(abi::errno::EAGAIN)
    }

    /// Says what became of an event that was taken: the reader has it, with descriptor `fd`, or it is lost.
    pub fn taken(&self, event: &Event, fd: Option<i32>) {
        let Some(question) = &event.question else { return };
        match fd {
            Some(fd) => self.shared.state.lock().asked.push((fd, question.clone())),
            None => question.answer(DENIED),
        }
    }

    /// The answer to the question that came with descriptor `fd`.
    ///
    /// # Errors
    /// `ENOENT`: there is none.
    pub fn answer(&self, fd: i32, allows: bool) -> Result<(), Errno> {
        let mut state = self.shared.state.lock();
        let at = state.asked.iter().position(|(asked, _)| *asked == fd).ok_or(ENOENT)?;
        let (_, question) = state.asked.swap_remove(at);
        drop(state);
        question.answer(if allows { ALLOWED } else { DENIED });
        Ok(())
    }
}

impl FileOps for Fanotify {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn ready(&self) -> Events {
        if self.shared.state.lock().events.is_empty() { Events::empty() } else { Events::READABLE }
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        if request != FIONREAD {
            return Err(ENOTTY);
        }
        // Without their records, whatever a read gives (`fanotify_ioctl`).
        let len = self.shared.state.lock().events.len() * METADATA_LEN;
        memory.write(arg, &(len as u32).to_le_bytes())?;
        Ok(0)
    }

    fn fdinfo(&self) -> String {
        format!("fanotify flags:{:x} event-flags:{:x}\n", self.shared.flags, self.event_flags)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[fanotify]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Fanotify {
    fn drop(&mut self) {
        let (marks, events, asked) = {
            let mut state = self.shared.state.lock();
            state.is_closed = true;
            let state = &mut *state;
            (
                std::mem::take(&mut state.marks),
                std::mem::take(&mut state.events),
                std::mem::take(&mut state.asked),
            )
        };
        drop(marks);
        let waiting = events.iter().filter_map(|e| e.question.as_ref()).chain(asked.iter().map(|(_, q)| q));
        waiting.for_each(|question| question.answer(ALLOWED));
    }
}

/// Something that happened, as fanotify wants to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happening<'a> {
    pub(crate) mask: u32,
    pub(crate) mount: &'a Arc<Mount>,
    /// It came by a path or an open file: marks on mounts hear of it, and readers can get a descriptor.
    pub(crate) has_path: bool,
    /// The file that it is about; of a change of a directory's names the directory.
    pub(crate) target: &'a Arc<Dentry>,
    /// Those who marked the file's directory hear of it too.
    pub(crate) tells_parent: bool,
    /// The name in the directory that changed, and the file that has or had it.
    pub(crate) entry: Option<(&'a [u8], Option<&'a Arc<Dentry>>)>,
}

/// Whether there are any marks.
pub(crate) fn is_used() -> bool {
    MARKS.load(Ordering::Relaxed) > 0
}

/// Whether anybody wants to be asked.
pub fn asks() -> bool {
    ASKING.load(Ordering::SeqCst) > 0
}

/// The groups that want to hear of what happened.
fn groups(what: &Happening<'_>) -> Vec<Arc<Shared>> {
    let mut marks: Vec<(Arc<Mark>, bool)> = Vec::new();
    let mut add = |list: Vec<Watcher>, of_parent: bool| {
        marks.extend(list.into_iter().filter_map(|w| match w {
            Watcher::Fanotify(mark) => mark.upgrade().map(|mark| (mark, of_parent)),
            _ => None,
        }));
    };
    if what.tells_parent
        && let Some(parent) = what.target.parent()
        && let Some(on) = parent.watches()
    {
        add(on.list(), true);
    }
    if let Some(on) = what.target.watches() {
        add(on.list(), false);
    }
    if what.has_path {
        add(what.mount.watches.list(), false);
    }
    add(what.mount.sb().watches.list(), false);
    let mut found: Vec<(Arc<Shared>, u32, u32)> = Vec::new();
    for (mark, of_parent) in marks {
        let Some(group) = mark.group.upgrade() else { continue };
        let mut wanted = mark.wanted.lock();
        if what.mask & event::MODIFY != 0 && !wanted.survives {
            wanted.ignored = 0;
        }
        let counts = !of_parent || wanted.mask & ON_CHILD != 0;
        // What happens to a directory counts only for marks that ask for directories.
        let is_right_kind = what.mask & event::ISDIR == 0 || wanted.mask & event::ISDIR != 0;
        let mask = if counts && is_right_kind { wanted.mask } else { 0 };
        let ignored = wanted.ignored;
        drop(wanted);
        match found.iter_mut().find(|(g, _, _)| Arc::ptr_eq(g, &group)) {
            Some((_, all, left)) => (*all, *left) = (*all | mask, *left | ignored),
            None => found.push((group, mask, ignored)),
        }
    }
    let told = what.mask & !(event::ISDIR | ON_CHILD);
    found.retain(|(group, mask, ignored)| {
        let has_data = what.has_path || group.flags & init::FIDS != 0;
        has_data && mask & !ignored & told != 0
    });
    found.into_iter().map(|(group, _, _)| group).collect()
}

/// A rename, as `FAN_RENAME` wants to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renaming<'a> {
    pub(crate) mount: &'a Arc<Mount>,
    /// The directory and the name in it, before and afterwards.
    pub(crate) old: (&'a Arc<Dentry>, &'a [u8]),
    pub(crate) new: (&'a Arc<Dentry>, &'a [u8]),
    pub(crate) file: &'a Arc<Dentry>,
    /// `IN_ISDIR` or 0.
    pub(crate) is_dir: u32,
}

/// Tells of a rename in one event: both names to those who watch the file system, otherwise those in directories that are
/// watched.
///
/// Source: Linux 6.18 fs/notify/fanotify/fanotify.c, `fanotify_alloc_event`.
pub(crate) fn tell_rename(what: &Renaming<'_>) {
    const FID: u8 = 1;
    const OLD_DFID_NAME: u8 = 10;
    const NEW_DFID_NAME: u8 = 12;
    const OLD: u8 = 1;
    const NEW: u8 = 2;
    let mut found: Vec<(Arc<Shared>, u8, u32)> = Vec::new();
    let of_dir = |dir: &Arc<Dentry>| dir.watches().map(|on| on.list()).unwrap_or_default();
    let lists =
        [(OLD, of_dir(what.old.0)), (NEW, of_dir(what.new.0)), (OLD | NEW, what.mount.sb().watches.list())];
    for (side, list) in lists {
        let marks = list.into_iter().filter_map(|w| match w {
            Watcher::Fanotify(mark) => mark.upgrade(),
            _ => None,
        });
        for mark in marks {
            let Some(group) = mark.group.upgrade() else { continue };
            let wanted = *mark.wanted.lock();
            let is_right_kind = what.is_dir == 0 || wanted.mask & event::ISDIR != 0;
            let side = if is_right_kind && wanted.mask & RENAME != 0 { side } else { 0 };
            match found.iter_mut().find(|(g, _, _)| Arc::ptr_eq(g, &group)) {
                Some((_, all, ignored)) => (*all, *ignored) = (*all | side, *ignored | wanted.ignored),
                None => found.push((group, side, wanted.ignored)),
            }
        }
    }
    let place = |dentry: &Arc<Dentry>| VfsPath { mount: what.mount.clone(), dentry: dentry.clone() };
    for (group, sides, ignored) in found {
        if sides == 0 || ignored & RENAME != 0 {
            continue;
        }
        let mut records = Vec::new();
        if sides & OLD != 0 {
            record(OLD_DFID_NAME, &place(what.old.0), Some(what.old.1), &mut records);
        }
        if sides & NEW != 0 {
            record(NEW_DFID_NAME, &place(what.new.0), Some(what.new.1), &mut records);
        }
        if group.flags & init::REPORT_TARGET_FID != 0 {
            record(FID, &place(what.file), None, &mut records);
        }
        let (pid, tid) = crate::notify::caller();
        let pid = if group.flags & init::REPORT_TID != 0 { tid } else { pid };
        group.push(Event { mask: RENAME | what.is_dir, pid, place: None, records, question: None });
    }
}

/// An information record: header, file system, handle, and a name.
fn record(kind: u8, place: &VfsPath, name: Option<&[u8]>, out: &mut Vec<u8>) {
    let Ok(handle) = place.handle() else { return };
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&place.mount.sb().dev().to_le_bytes());
    out.extend_from_slice(&(handle.len() as u32).to_le_bytes());
    out.extend_from_slice(&HANDLE_TYPE.to_le_bytes());
    out.extend_from_slice(&handle);
    if let Some(name) = name {
        out.extend_from_slice(name);
        out.push(0);
    }
    out.resize(out.len().next_multiple_of(4), 0);
    let len = (out.len() - start) as u16;
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&len.to_le_bytes());
    }
}

/// The records that a group with `flags` gets.
fn records(flags: u32, what: &Happening<'_>) -> Vec<u8> {
    const FID: u8 = 1;
    const DFID_NAME: u8 = 2;
    const DFID: u8 = 3;
    let place = |dentry: &Arc<Dentry>| VfsPath { mount: what.mount.clone(), dentry: dentry.clone() };
    let mut out = Vec::new();
    let names = flags & init::REPORT_NAME != 0;
    let (dir, name, child) = match what.entry {
        Some((name, child)) => {
            let child = child.filter(|_| flags & init::REPORT_TARGET_FID != 0);
            (Some(what.target.clone()), name.to_vec(), child.cloned())
        }
        None if what.mask & event::ISDIR != 0 => (Some(what.target.clone()), b".".to_vec(), None),
        // An event about the file and not its name has no directory.
        None if what.mask & (event::DELETE_SELF | event::MOVE_SELF) != 0 => {
            (None, Vec::new(), Some(what.target.clone()))
        }
        None => (what.target.parent(), what.target.name(), Some(what.target.clone())),
    };
    if flags & init::REPORT_DIR_FID != 0
        && let Some(dir) = &dir
    {
        let name = names.then_some(name.as_slice());
        record(if names { DFID_NAME } else { DFID }, &place(dir), name, &mut out);
        if flags & init::REPORT_FID != 0
            && let Some(child) = &child
        {
            record(FID, &place(child), None, &mut out);
        }
        return out;
    }
    let object = if what.entry.is_some() { Some(what.target.clone()) } else { child.or(dir) };
    if let Some(object) = object {
        record(FID, &place(&object), None, &mut out);
    }
    out
}

fn make(group: &Shared, what: &Happening<'_>, question: Option<Arc<Question>>) -> Event {
    let (pid, tid) = crate::notify::caller();
    let pid = if group.flags & init::REPORT_TID != 0 { tid } else { pid };
    if group.flags & init::FIDS != 0 {
        let records = records(group.flags, what);
        return Event { mask: what.mask, pid, place: None, records, question };
    }
    let place = VfsPath { mount: what.mount.clone(), dentry: what.target.clone() };
    Event { mask: what.mask & !event::ISDIR, pid, place: Some(place), records: Vec::new(), question }
}

/// Tells the groups that want to hear of it.
pub(crate) fn tell(what: &Happening<'_>) {
    for group in groups(what) {
        let told = make(&group, what, None);
        group.push(told);
    }
}

struct Asked {
    dentry: usize,
    mask: u32,
    questions: Vec<Arc<Question>>,
}

thread_local! {
    /// What the calling thread has asked about the file that it is opening or reading.
    static ASKED: RefCell<Vec<Asked>> = const { RefCell::new(Vec::new()) };
}

/// Whether the calling thread has asked something.
pub fn is_asking() -> bool {
    ASKED.with_borrow(|asked| !asked.is_empty())
}

/// The calling thread does not open or read any more.
pub fn forget() {
    for asked in ASKED.take() {
        asked.questions.iter().for_each(|question| question.answer(ALLOWED));
    }
}

/// Asks whether the calling thread may do what `mask` ([`QUESTIONS`]) says; to be called again until it does not say
/// `EJUKEBOX`, and [`forget`] then.
///
/// # Errors
/// `EJUKEBOX`: no answer yet; `EPERM`: no.
pub fn ask(place: &VfsPath, mask: u32) -> Result<(), Errno> {
    let key = Arc::as_ptr(&place.dentry).addr();
    let answers = ASKED.with_borrow(|asked| {
        let asked = asked.iter().find(|asked| asked.dentry == key && asked.mask == mask)?;
        Some(asked.questions.iter().map(|q| q.0.load(Ordering::SeqCst)).max_by_key(|a| match *a {
            DENIED => 2,
            PENDING => 1,
            _ => 0,
        }))
    });
    match answers {
        Some(Some(DENIED)) => return Err(EPERM),
        Some(Some(PENDING)) => return Err(EJUKEBOX),
        Some(_) => return Ok(()),
        None => {}
    }
    let is_dir = if place.dentry.is_dir() { event::ISDIR } else { 0 };
    let what = Happening {
        mask: mask | is_dir,
        mount: &place.mount,
        has_path: true,
        target: &place.dentry,
        tells_parent: true,
        entry: None,
    };
    let mut questions = Vec::new();
    for group in groups(&what) {
        let question = Arc::new(Question::default());
        let event = make(&group, &what, Some(question.clone()));
        group.push(event);
        questions.push(question);
    }
    if questions.is_empty() {
        return Ok(());
    }
    ASKED.with_borrow_mut(|asked| asked.push(Asked { dentry: key, mask, questions }));
    Err(EJUKEBOX)
}
