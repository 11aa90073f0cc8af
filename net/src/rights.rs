//! Files on their way from one process to another (`SCM_RIGHTS`, unix(7)).
//!
//! A socket can be sent over itself, or two over each other; when their last descriptors are closed nobody can receive
//! them any more, and only a search finds that out ([`InFlight::collect`]).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use base::lock::{Lock, ReadGuard, RwLock, rank};
use fs::file::FileDescription;

use crate::socket::SocketFile;

/// How often each socket is in flight, by the address of its description, which the weak reference keeps from being
/// used again.
type Sockets = HashMap<usize, (Weak<FileDescription>, usize)>;

/// The files in messages that nobody has received.
#[derive(Debug, Default)]
pub struct InFlight {
    files: AtomicUsize,
    sockets: Lock<Sockets, { rank::LEAF }>,
    /// Sockets closed since rings were looked for.
    closed: AtomicUsize,
    /// Held for reading while files move between descriptor tables and queues, for writing while rings are looked for.
    moving: RwLock<(), { rank::RIGHTS }>,
}

impl InFlight {
    /// Keeps [`InFlight::collect`] out while files are put in a queue or taken from one; taken before the queue's lock.
    pub(crate) fn moving(&self) -> ReadGuard<'_, (), { rank::RIGHTS }> {
        self.moving.read()
    }

    /// How many files are in flight.
    pub fn files(&self) -> usize {
        self.files.load(Ordering::Relaxed)
    }

    fn add(&self, files: &[Arc<FileDescription>]) {
        self.files.fetch_add(files.len(), Ordering::Relaxed);
        for file in files.iter().filter(|f| SocketFile::of(f).is_some()) {
            let key = Arc::as_ptr(file).addr();
            self.sockets.lock().entry(key).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
        }
    }

    fn subtract(&self, files: &[Arc<FileDescription>]) {
        self.files.fetch_sub(files.len(), Ordering::Relaxed);
        for file in files.iter().filter(|f| SocketFile::of(f).is_some()) {
            let key = Arc::as_ptr(file).addr();
            let mut sockets = self.sockets.lock();
            if let Some((_, count)) = sockets.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    sockets.remove(&key);
                }
            }
        }
    }

    /// Finds sockets that are in flight and can be received by nobody, and empties their queues; called when a socket
    /// was closed.
    ///
    /// Source: Linux 6.6 net/unix/garbage.c, whose first paragraph tells of the mark and sweep done here.
    pub(crate) fn collect(&self) {
        let count = self.sockets.lock().len();
        // A search looks at all of them: the more there are, the more sockets must close for one.
        if count == 0 || self.closed.fetch_add(1, Ordering::Relaxed) < count / 16 {
            return;
        }
        self.closed.store(0, Ordering::Relaxed);
        let guard = self.moving.write();
        let table = self.sockets.lock().clone();
        // Who holds one of these has it from a queue: no descriptor, no call under way.
        let candidates: HashMap<usize, Arc<FileDescription>> = table
            .iter()
            .filter(|(_, (file, in_flight))| file.strong_count() == *in_flight)
            .filter_map(|(&address, (file, _))| Some((address, file.upgrade()?)))
            .collect();
        let queued_in = |file: &FileDescription| {
            let mut list = Vec::new();
            if let Some(socket) = SocketFile::of(file) {
                socket.queued_files(&mut |f| list.push(Arc::as_ptr(f).addr()));
            }
            list
        };
        let mut inside: HashMap<usize, usize> = HashMap::new();
        for file in candidates.values() {
            for address in queued_in(file) {
                *inside.entry(address).or_default() += 1;
            }
        }
        // One that also lies in the queue of somebody else can be received, and what lies in its queue then.
        let is_outside =
            |a: &usize| table.get(a).is_some_and(|(_, n)| *n > inside.get(a).copied().unwrap_or(0));
        let mut reached: HashSet<usize> = candidates.keys().copied().filter(is_outside).collect();
        let mut left: Vec<usize> = reached.iter().copied().collect();
        while let Some(address) = left.pop() {
            for next in candidates.get(&address).map(|f| queued_in(f)).unwrap_or_default() {
                if reached.insert(next) {
                    left.push(next);
                }
            }
        }
        let unreached = candidates.iter().filter(|(address, _)| !reached.contains(address));
        let emptied: Vec<_> =
            unreached.filter_map(|(_, f)| SocketFile::of(f)).map(|socket| socket.take_queue()).collect();
        drop(guard);
        drop(candidates);
        drop(emptied);
    }
}

/// Passed files. Dropping them may close sockets whose queues hold files again, and so on: that chain, as long as the
/// guest likes, is taken apart in a loop.
#[derive(Debug, Default)]
pub struct Rights {
    files: Vec<Arc<FileDescription>>,
    /// Where they are counted, once sent.
    counted: Option<Arc<InFlight>>,
}

impl Rights {
    /// Files that are about to be sent, or were received.
    pub const fn new(files: Vec<Arc<FileDescription>>) -> Self {
        Self { files, counted: None }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files.
    pub fn files(&self) -> &[Arc<FileDescription>] {
        &self.files
    }

    /// Takes the files out to put them in a message.
    pub(crate) fn send(&mut self, counted: &Arc<InFlight>) -> Self {
        let files = std::mem::take(&mut self.files);
        counted.add(&files);
        Self { counted: (!files.is_empty()).then(|| counted.clone()), files }
    }

    /// A second reference to the same files, for `MSG_PEEK`.
    pub(crate) fn peek(&self) -> Self {
        Self::new(self.files.clone())
    }

    /// Takes the files out of a message.
    pub(crate) fn receive(&mut self) -> Self {
        let files = std::mem::take(&mut self.files);
        if let Some(counted) = &self.counted {
            counted.subtract(&files);
        }
        Self::new(files)
    }

    /// Adds files that were received.
    pub fn append(&mut self, mut more: Self) {
        self.files.append(&mut more.receive().files);
    }

    /// Takes the files out to install them.
    pub fn into_files(mut self) -> Vec<Arc<FileDescription>> {
        std::mem::take(&mut self.receive().files)
    }
}

thread_local! {
    /// Files to be dropped, while this thread drops some.
    static DISCARDED: RefCell<Option<Vec<Arc<FileDescription>>>> = const { RefCell::new(None) };
}

impl Drop for Rights {
    fn drop(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let mut files = std::mem::take(&mut self.files);
        if let Some(counted) = &self.counted {
            counted.subtract(&files);
        }
        let is_nested = DISCARDED.with_borrow_mut(|list| match list {
            Some(list) => {
                list.append(&mut files);
                true
            }
            None => {
                *list = Some(Vec::new());
                false
            }
        });
        drop(files);
        if is_nested {
            return;
        }
        while let Some(file) = next_discarded() {
            drop(file);
        }
    }
}

/// The next file to drop; the list goes with the last.
fn next_discarded() -> Option<Arc<FileDescription>> {
    DISCARDED.with_borrow_mut(|list| {
        let next = list.as_mut().and_then(Vec::pop);
        if next.is_none() {
            *list = None;
        }
        next
    })
}
