//! Leases (fcntl(2), "Leases"): who holds one hears of others that open or truncate the file, and they wait meanwhile.
//!
//! One table for all files, as for locks: leases are few. An open that must wait fails with `EJUKEBOX`, and the system call
//! sleeps on [`queue`] and opens again.
//!
//! Source: Linux 6.18 fs/locks.c, `__break_lease`, `generic_add_lease`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EJUKEBOX};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};
use host::clock::{HostClock, now_ns};

use crate::file::{FileDescription, oflag};
use crate::locks::FileId;

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody else opens the file for writing.
    Read,
    /// Nobody else opens the file.
    Write,
}

#[derive(Debug)]
struct Lease {
    /// The open file, by its name as an owner of locks.
    owner: u64,
    kind: Kind,
    file: Weak<FileDescription>,
    fd: i32,
    /// What is to become of it, and when that happens without the holder: monotonic ns.
    breaks: Option<(Option<Kind>, i64)>,
}

static TABLE: Lock<Option<HashMap<FileId, Vec<Lease>>>, { rank::LEAF }> = Lock::new(None);
/// Leases there are: mostly none, and then an open needs no look.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static QUEUE: WaitQueue = WaitQueue::new();
/// `fs.lease-break-time`, in seconds.
pub const BREAK_SECONDS: i64 = 45;

/// Where opens wait for leases to go.
pub fn queue() -> &'static WaitQueue {
    &QUEUE
}

fn now() -> i64 {
    now_ns(HostClock::Monotonic)
}

fn with<T>(id: FileId, f: impl FnOnce(&mut Vec<Lease>) -> T) -> T {
    let mut guard = TABLE.lock();
    let table = guard.get_or_insert_default();
    let list = table.entry(id).or_default();
    let before = list.len();
    let result = f(list);
    let after = list.len();
    if list.is_empty() {
        table.remove(&id);
    }
    COUNT.fetch_add(after, Ordering::Relaxed);
    COUNT.fetch_sub(before, Ordering::Relaxed);
    result
}

/// Takes away what the time of a break has run out for.
fn expire(list: &mut Vec<Lease>) {
    let now = now();
    list.retain_mut(|lease| match lease.breaks {
        Some((target, at)) if at <= now => {
            lease.breaks = None;
            match target {
                Some(kind) => {
                    lease.kind = kind;
                    true
                }
                None => false,
            }
        }
        _ => true,
    });
}

/// `F_SETLEASE`; `None` gives the lease back. Who may, the caller has checked.
///
/// # Errors
/// `EAGAIN`: somebody has the file open in a way that it excludes; there is none to give back.
pub fn set(file: &Arc<FileDescription>, fd: i32, kind: Option<Kind>) -> Result<(), Errno> {
    let id = file.lock_id()?;
    let owner = file.lock_owner(id);
    let Some(kind) = kind else {
        let had = with(id, |list| {
            expire(list);
            let before = list.len();
            list.retain(|lease| lease.owner != owner);
            before > list.len()
        });
        QUEUE.notify(Events::all());
        return if had { Ok(()) } else { Err(EAGAIN) };
    };
    let place = file.path.as_ref().ok_or(EAGAIN)?;
    let (writers, readers) = place.dentry.openers();
    let writes = file.is_writable();
    let own = match kind {
        Kind::Read => writers == 0,
        Kind::Write => (writers, readers) == (usize::from(writes), usize::from(!writes)),
    };
    if !own {
        return Err(EAGAIN);
    }
    let result = with(id, |list| {
        expire(list);
        let others = |lease: &Lease| lease.owner != owner;
        let clashes =
            kind == Kind::Write || list.iter().any(|l| others(l) && matches!(l.breaks, Some((None, _))));
        if clashes && list.iter().any(others) {
            return Err(EAGAIN);
        }
        match list.iter_mut().find(|lease| lease.owner == owner) {
            Some(lease) => (lease.kind, lease.fd, lease.breaks) = (kind, fd, None),
            None => list.push(Lease { owner, kind, file: Arc::downgrade(file), fd, breaks: None }),
        }
        Ok(())
    });
    QUEUE.notify(Events::all());
    result
}

/// `F_GETLEASE`: while it is being broken, what it is to become.
///
/// # Errors
/// The file's own.
pub fn get(file: &Arc<FileDescription>) -> Result<Option<Kind>, Errno> {
    let id = file.lock_id()?;
    let owner = file.lock_owner(id);
    Ok(with(id, |list| {
        expire(list);
        let lease = list.iter().find(|lease| lease.owner == owner)?;
        lease.breaks.map_or(Some(lease.kind), |(target, _)| target)
    }))
}

/// Gives back what an open file held.
pub(crate) fn release(id: FileId, owner: u64) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    with(id, |list| list.retain(|lease| lease.owner != owner));
    QUEUE.notify(Events::all());
}

/// Whether somebody may open the file as `flags` say; tells those whose leases stand against it.
///
/// # Errors
/// `EJUKEBOX`: not yet; `EAGAIN` with `O_NONBLOCK`.
pub(crate) fn breaks(id: impl FnOnce() -> FileId, flags: u32) -> Result<(), Errno> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let writes = flags & (oflag::ACCMODE | oflag::TRUNC) != oflag::RDONLY;
    let target = if writes { None } else { Some(Kind::Read) };
    // Dropped without the lock: the last reference takes it.
    let mut told: Vec<(Arc<FileDescription>, i32)> = Vec::new();
    let stands = with(id(), |list| {
        expire(list);
        let at = now().saturating_add(BREAK_SECONDS * 1_000_000_000);
        let mut stands = false;
        for lease in list.iter_mut().filter(|l| writes || l.kind == Kind::Write) {
            stands = true;
            // A break that goes further than the one under way is told again.
            if lease.breaks.is_none_or(|(before, _)| before.is_some() && target.is_none()) {
                lease.breaks = Some((target, at));
                told.extend(lease.file.upgrade().map(|file| (file, lease.fd)));
            }
        }
        stands
    });
    for (file, fd) in told {
        if let Some(owner) = file.existing_async_owner() {
            owner.message(fd);
        }
    }
    match (stands, flags & oflag::NONBLOCK != 0) {
        (false, _) => Ok(()),
        (true, true) => Err(EAGAIN),
        (true, false) => Err(EJUKEBOX),
    }
}
