//! Keeps the pages that host files have in the memory file within a bound, and gives them back when memory is short.
//!
//! Files with pages stand in a queue. Who needs room looks at the first: a file that was read since the last look goes to
//! the end, another gives up its pages that are neither mapped nor newer than the host's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use base::lock::{Lock, rank};

use super::data::Data;

static FILES: Lock<VecDeque<Weak<Data>>, { rank::LEAF }> = Lock::new(VecDeque::new());
/// Bytes that all files hold.
static HELD: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicU64 = AtomicU64::new(256 << 20);

/// Bounds how many bytes of host files are kept in the memory file when nobody maps them.
pub fn set_cache_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// Bytes of host files in the memory file.
pub fn cached_bytes() -> u64 {
    HELD.load(Ordering::Relaxed)
}

pub(super) fn count(added: u64) {
    HELD.fetch_add(added, Ordering::Relaxed);
}

pub(super) fn uncount(removed: u64) {
    HELD.fetch_sub(removed, Ordering::Relaxed);
}

/// Enters a file that has got its first pages.
pub(super) fn enter(data: Weak<Data>) {
    FILES.lock().push_back(data);
}

/// Gives pages up until the bound holds, within reason. Called without the lock of a page cache.
pub(super) fn make_room() {
    /// Files looked at in one go.
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        if HELD.load(Ordering::Relaxed) <= LIMIT.load(Ordering::Relaxed) {
            return;
        }
        let Some(data) = next() else { return };
        if data.take_used() || data.give_up() > 0 || data.has_pages() {
            enter(Arc::downgrade(&data));
        } else {
            data.leave_queue();
        }
    }
}

fn next() -> Option<Arc<Data>> {
    loop {
        let data = FILES.lock().pop_front()?;
        if let Some(data) = data.upgrade() {
            return Some(data);
        }
    }
}

/// Writes to the host what guests wrote through mappings: the sandbox ends.
pub fn flush() {
    let files: Vec<Weak<Data>> = FILES.lock().iter().cloned().collect();
    for data in files.iter().filter_map(Weak::upgrade) {
        if data.write_back(0..u64::MAX).is_err() {
            log::warn!("hostfs: pages written through a mapping could not be written");
        }
    }
}

/// Gives up all pages that can be: memory is short. Mapped ones only if there are no others, and enough of them that it is
/// worth while: what a program needs to run would come back at once, at the price of what it wants the memory for.
/// Returns how many bytes, 0 if too few to go on with. Called without locks of inodes, address
/// spaces or page caches.
pub fn reclaim() -> u64 {
    /// Less than this is no room.
    const WORTH: u64 = 256 << 10;
    let files: Vec<Weak<Data>> = FILES.lock().iter().cloned().collect();
    let files: Vec<Arc<Data>> = files.iter().filter_map(Weak::upgrade).collect();
    let freed: u64 = files.iter().map(|data| data.give_up()).sum();
    if freed >= WORTH {
        return freed;
    }
    if HELD.load(Ordering::Relaxed) <= LIMIT.load(Ordering::Relaxed) / 2 {
        return 0;
    }
    // What is mapped comes back with the next touch.
    files
        .iter()
        .map(|data| {
            data.unmap();
            data.give_up()
        })
        .sum()
}
