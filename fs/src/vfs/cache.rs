//! Which names are remembered: all directories together hold a bounded number of dentries, and forget those that were
//! not used since they were looked at last (a clock).
//!
//! Names are entered in the queue under the lock of their directory's children (rank `DENTRY`); they are forgotten at the
//! beginning of a walk, when no such lock is held.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use base::lock::{Lock, rank};

use super::Dentry;

/// Names remembered unless [`set_limit`] says otherwise.
const DEFAULT: usize = 64 << 10;
/// Names looked at in one go, so that no walk pays for many.
const BATCH: usize = 64;

/// A remembered name.
enum Entry {
    /// Of a file.
    Known(Weak<Dentry>),
    /// That does not exist, in this directory.
    Missing(Weak<Dentry>, Box<[u8]>),
}

static QUEUE: Lock<VecDeque<Entry>, { rank::LEAF }> = Lock::new(VecDeque::new());
/// The queue's length: a look without its lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(DEFAULT);

/// Bounds how many names are remembered.
pub fn set_limit(names: usize) {
    LIMIT.store(names.max(BATCH), Ordering::Relaxed);
}

/// How many names are remembered.
pub fn remembered() -> usize {
    COUNT.load(Ordering::Relaxed)
}

fn push(entry: Entry) {
    let mut queue = QUEUE.lock();
    queue.push_back(entry);
    COUNT.store(queue.len(), Ordering::Relaxed);
}

pub(super) fn add(dentry: &Arc<Dentry>) {
    push(Entry::Known(Arc::downgrade(dentry)));
}

pub(super) fn add_missing(dir: &Arc<Dentry>, name: &[u8]) {
    push(Entry::Missing(Arc::downgrade(dir), name.into()));
}

/// Forgets some names if there are too many. Called without locks of dentries.
pub(super) fn trim() {
    let limit = LIMIT.load(Ordering::Relaxed);
    if COUNT.load(Ordering::Relaxed) > limit {
        forget(BATCH, limit);
    }
}

/// Forgets all names that nobody uses: memory is short. Called without locks of dentries.
pub fn shrink() {
    // Twice: the first round only takes the marks of use away. What is above a forgotten name becomes free after it.
    for _ in 0..2 {
        forget(COUNT.load(Ordering::Relaxed), 0);
    }
}

/// Looks at up to `tries` names, until `limit` are left.
fn forget(tries: usize, limit: usize) {
    let mut left = tries;
    while left > 0 {
        let batch: Vec<Entry> = {
            let mut queue = QUEUE.lock();
            let len = queue.len();
            let n = left.min(BATCH).min(len.saturating_sub(limit));
            let batch = queue.drain(..n).collect();
            COUNT.store(queue.len(), Ordering::Relaxed);
            batch
        };
        if batch.is_empty() {
            return;
        }
        left -= batch.len();
        let kept: Vec<Entry> = batch.into_iter().filter(|entry| !is_forgotten(entry)).collect();
        if !kept.is_empty() {
            let mut queue = QUEUE.lock();
            queue.extend(kept);
            COUNT.store(queue.len(), Ordering::Relaxed);
        }
    }
}

/// Forgets the name unless somebody uses it, or has since the last look.
fn is_forgotten(entry: &Entry) -> bool {
    match entry {
        Entry::Known(dentry) => {
            let Some(dentry) = dentry.upgrade() else { return true };
            if dentry.take_used() {
                return false;
            }
            dentry.is_dead() || dentry.forget()
        }
        Entry::Missing(dir, name) => {
            if let Some(dir) = dir.upgrade() {
                dir.forget_missing(name);
            }
            true
        }
    }
}
