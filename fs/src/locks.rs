//! Advisory locks on files: flock(2), and the record locks of fcntl(2) in both kinds, of processes and of open files.
//!
//! One table for all files, by device and inode number: locks are few, and most files have none. A lock belongs to a
//! table of descriptors (process locks, which go when any descriptor of the file is closed there) or to an open file
//! description (flock and `F_OFD_*`, which go with its last descriptor). Nobody sleeps here: who is refused registers in
//! the file's queue and tries again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::errno::{EAGAIN, EDEADLK, ENOLCK};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

/// The last byte that a range can have (`OFFSET_MAX`).
pub const LAST: u64 = i64::MAX as u64;
/// Records on one file at most: kernel memory that a guest fills has a bound.
const RECORDS_MAX: usize = 1 << 16;
/// Links of a chain of waiting owners that are followed (fs/locks.c, `MAX_DEADLK_ITERATIONS`).
const CHAIN_MAX: u32 = 10;

/// Device and inode number.
pub type FileId = (u64, u64);

/// Whom a lock belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A table of descriptors, by [`new_owner`]: the locks of a process.
    Process(u64),
    /// An open file description, by its id.
    Description(u64),
}

/// What a lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writers' locks.
    Shared,
    /// All locks.
    Exclusive,
}

/// A lock on a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub owner: Owner,
    /// The process that set it.
    pub pid: i32,
    /// What it excludes.
    pub kind: Kind,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Record {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.overlaps(other.start, other.end)
            && (self.kind == Kind::Exclusive || other.kind == Kind::Exclusive)
    }
}

/// The locks of one file.
#[derive(Debug, Default)]
struct Locks {
    whole: Vec<(u64, Kind)>,
    /// One owner's lie together, ordered by their first byte.
    records: Vec<Record>,
    queue: Arc<WaitQueue>,
    /// Who holds `queue` to wait.
    waiters: usize,
}

impl Locks {
    fn is_idle(&self) -> bool {
        self.whole.is_empty() && self.records.is_empty() && self.waiters == 0
    }
}

#[derive(Debug, Default)]
struct Table {
    files: HashMap<FileId, Locks>,
    /// Owners that wait for a record lock, and for whom.
    waiting: Vec<(Owner, Owner)>,
}

static TABLE: Lock<Option<Table>, { rank::LEAF }> = Lock::new(None);
/// Files with locks: none in most sandboxes, and then nothing needs a look.
static FILES: AtomicUsize = AtomicUsize::new(0);

/// A new owner for [`Owner::Process`] or [`Owner::Description`].
pub fn new_owner() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Works on the locks of `file`; wakes those who wait for it when `f` says true.
fn with<T>(file: FileId, f: impl FnOnce(&mut Locks, &mut Vec<(Owner, Owner)>) -> (T, bool)) -> T {
    let mut guard = TABLE.lock();
    let Table { files, waiting } = guard.get_or_insert_default();
    let locks = files.entry(file).or_default();
    let (result, wakes) = f(locks, waiting);
    let queue = (wakes && locks.waiters > 0).then(|| locks.queue.clone());
    if locks.is_idle() {
        files.remove(&file);
    }
    FILES.store(files.len(), Ordering::Relaxed);
    drop(guard);
    if let Some(queue) = queue {
        queue.notify(Events::all());
    }
    result
}

fn is_unused() -> bool {
    FILES.load(Ordering::Relaxed) == 0
}

/// `flock` without waiting; `None` unlocks. A lock of the other kind is given up first, even when this fails then, as in
/// Linux.
///
/// # Errors
/// `EAGAIN`.
pub fn flock(file: FileId, description: u64, kind: Option<Kind>) -> Result<(), Errno> {
    with(file, |locks, _| {
        let old = locks.whole.iter().position(|l| l.0 == description);
        if let (Some(i), Some(kind)) = (old, kind)
            && locks.whole.get(i).is_some_and(|l| l.1 == kind)
        {
            return (Ok(()), false);
        }
        if let Some(i) = old {
            locks.whole.remove(i);
        }
        let Some(kind) = kind else { return (Ok(()), old.is_some()) };
        if locks.whole.iter().any(|l| l.1 == Kind::Exclusive || kind == Kind::Exclusive) {
            return (Err(EAGAIN), old.is_some());
        }
        if locks.whole.len() >= RECORDS_MAX {
            return (Err(ENOLCK), old.is_some());
        }
        locks.whole.push((description, kind));
        (Ok(()), old.is_some())
    })
}

/// The first lock that `wanted` would have to wait for.
pub fn conflict(file: FileId, wanted: &Record) -> Option<Record> {
    if is_unused() {
        return None;
    }
    with(file, |locks, _| (locks.records.iter().find(|r| r.conflicts(wanted)).copied(), false))
}

/// Whether `description` has a record in the file that meets `start..=end`.
pub fn own_record(file: FileId, owner: Owner, start: u64, end: u64) -> Option<Record> {
    with(file, |locks, _| {
        (locks.records.iter().find(|r| r.owner == owner && r.overlaps(start, end)).copied(), false)
    })
}

/// Sets a record lock, without waiting.
///
/// # Errors
/// `EAGAIN`; `ENOLCK` when there are too many.
pub fn set(file: FileId, wanted: Record) -> Result<(), Errno> {
    with(file, |locks, _| {
        if locks.records.iter().any(|r| r.conflicts(&wanted)) {
            return (Err(EAGAIN), false);
        }
        if locks.records.len() >= RECORDS_MAX {
            return (Err(ENOLCK), false);
        }
        // A lock that becomes weaker may let others in.
        cut(&mut locks.records, wanted.owner, wanted.start, wanted.end);
        insert(&mut locks.records, wanted);
        (Ok(()), true)
    })
}

/// Unlocks `start..=end`.
pub fn clear(file: FileId, owner: Owner, start: u64, end: u64) {
    if is_unused() {
        return;
    }
    with(file, |locks, _| {
        let changed = cut(&mut locks.records, owner, start, end);
        ((), changed)
    });
}

/// Takes `start..=end` out of the owner's records; says whether there was something.
fn cut(records: &mut Vec<Record>, owner: Owner, start: u64, end: u64) -> bool {
    let mut changed = false;
    let mut i = 0;
    while let Some(r) = records.get(i).copied() {
        if r.owner != owner || !r.overlaps(start, end) {
            i += 1;
            continue;
        }
        changed = true;
        records.remove(i);
        if r.start < start {
            records.insert(i, Record { end: start - 1, ..r });
            i += 1;
        }
        if r.end > end {
            records.insert(i, Record { start: end + 1, ..r });
            i += 1;
        }
    }
    changed
}

/// Puts a record where none of its owner's is, and joins it with its neighbours of the same kind.
fn insert(records: &mut Vec<Record>, mut new: Record) {
    while let Some(i) = records.iter().position(|r| {
        r.owner == new.owner
            && r.kind == new.kind
            && (r.end.checked_add(1) == Some(new.start) || new.end.checked_add(1) == Some(r.start))
    }) {
        let old = records.remove(i);
        new.start = new.start.min(old.start);
        new.end = new.end.max(old.end);
    }
    let first = records.iter().position(|r| r.owner == new.owner);
    let at = match first {
        None => records.len(),
        Some(first) => {
            let own = records.iter().skip(first).take_while(|r| r.owner == new.owner && r.start < new.start);
            first + own.count()
        }
    };
    records.insert(at, new);
}

/// Releases what a table of descriptors holds on a file of which it closes a descriptor.
pub fn close(file: FileId, owner: u64) {
    clear(file, Owner::Process(owner), 0, LAST);
}

/// Releases what a description holds on a file.
pub(crate) fn release(file: FileId, description: u64) {
    if is_unused() {
        return;
    }
    with(file, |locks, _| {
        let before = locks.whole.len() + locks.records.len();
        locks.whole.retain(|l| l.0 != description);
        locks.records.retain(|r| r.owner != Owner::Description(description));
        ((), locks.whole.len() + locks.records.len() < before)
    });
}

/// A place in the queue of those who wait for a file's locks. While it lives the queue is told of every lock that goes.
#[derive(Debug)]
pub struct Waiting {
    file: FileId,
    queue: Arc<WaitQueue>,
    owner: Option<Owner>,
}

impl Waiting {
    /// Begins to wait.
    pub fn new(file: FileId) -> Self {
        let queue = with(file, |locks, _| {
            locks.waiters += 1;
            (locks.queue.clone(), false)
        });
        Self { file, queue, owner: None }
    }

    /// The queue to register in.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Sets a record lock, or says for whom the owner waits now.
    ///
    /// # Errors
    /// `EAGAIN`: it has to wait; `EDEADLK`: the lock's holder waits for this owner.
    pub fn set(&mut self, wanted: Record) -> Result<(), Errno> {
        self.forget();
        match set(self.file, wanted) {
            Err(EAGAIN) => {}
            other => return other,
        }
        let result = with(self.file, |locks, waiting| {
            let Some(holder) = locks.records.iter().find(|r| r.conflicts(&wanted)) else {
                return (Err(EAGAIN), true);
            };
            if matches!(wanted.owner, Owner::Process(_)) {
                if closes_circle(waiting, wanted.owner, holder.owner) {
                    return (Err(EDEADLK), false);
                }
                waiting.push((wanted.owner, holder.owner));
            }
            (Err(EAGAIN), false)
        });
        if result == Err(EAGAIN) && matches!(wanted.owner, Owner::Process(_)) {
            self.owner = Some(wanted.owner);
        }
        result
    }

    fn forget(&mut self) {
        if let Some(owner) = self.owner.take()
            && let Some(table) = TABLE.lock().as_mut()
            && let Some(i) = table.waiting.iter().position(|w| w.0 == owner)
        {
            table.waiting.remove(i);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.forget();
        with(self.file, |locks, _| {
            locks.waiters = locks.waiters.saturating_sub(1);
            ((), false)
        });
    }
}

/// Whether `holder` waits, in a few steps, for `owner`.
fn closes_circle(waiting: &[(Owner, Owner)], owner: Owner, holder: Owner) -> bool {
    let mut at = holder;
    for _ in 0..CHAIN_MAX {
        if at == owner {
            return true;
        }
        match waiting.iter().find(|w| w.0 == at) {
            Some(next) => at = next.1,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: u64, kind: Kind, start: u64, end: u64) -> Record {
        Record { owner: Owner::Process(owner), pid: 1, kind, start, end }
    }

    #[test]
    fn records_split_join_and_exclude() {
        let file = (900, 1);
        set(file, record(1, Kind::Exclusive, 0, 99)).unwrap();
        assert_eq!(set(file, record(2, Kind::Shared, 50, 60)), Err(EAGAIN));
        clear(file, Owner::Process(1), 40, 59);
        set(file, record(2, Kind::Shared, 40, 59)).unwrap();
        assert_eq!(
            conflict(file, &record(3, Kind::Shared, 0, LAST)).map(|r| (r.start, r.end)),
            Some((0, 39))
        );
        assert_eq!(set(file, record(1, Kind::Exclusive, 0, 99)), Err(EAGAIN));
        set(file, record(1, Kind::Shared, 0, 99)).unwrap();
        assert_eq!(
            conflict(file, &record(3, Kind::Exclusive, 99, 99)).map(|r| (r.start, r.end)),
            Some((0, 99))
        );
        close(file, 1);
        close(file, 2);
        assert_eq!(conflict(file, &record(3, Kind::Exclusive, 0, LAST)), None);
    }

    #[test]
    fn circles_are_found() {
        let file = (900, 2);
        set(file, record(11, Kind::Exclusive, 0, 0)).unwrap();
        set(file, record(12, Kind::Exclusive, 1, 1)).unwrap();
        let mut a = Waiting::new(file);
        assert_eq!(a.set(record(11, Kind::Exclusive, 1, 1)), Err(EAGAIN));
        let mut b = Waiting::new(file);
        assert_eq!(b.set(record(12, Kind::Exclusive, 0, 0)), Err(EDEADLK));
        close(file, 12);
        assert_eq!(a.set(record(11, Kind::Exclusive, 1, 1)), Ok(()));
        close(file, 11);
    }

    #[test]
    fn flock_changes_its_kind() {
        let file = (900, 3);
        flock(file, 1, Some(Kind::Shared)).unwrap();
        flock(file, 2, Some(Kind::Shared)).unwrap();
        assert_eq!(flock(file, 1, Some(Kind::Exclusive)), Err(EAGAIN));
        flock(file, 2, Some(Kind::Exclusive)).unwrap();
        release(file, 2);
        flock(file, 1, Some(Kind::Exclusive)).unwrap();
        flock(file, 1, None).unwrap();
    }
}
