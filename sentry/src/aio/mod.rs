//! Linux AIO (io_setup(2)): contexts, and the rings of answers that they share with programs.
//!
//! Reading order: this file; `poll.rs` (requests that wait for a file); `syscall/aio.rs` (the calls).
//!
//! Requests to read and write are carried out while they are submitted, as Linux does with files in its page cache. Only
//! polls stay under way.
//!
//! A context belongs to an address space and ends with it. Its ring can be written by the program at any time: the tail is
//! the kernel's own and only shown, and the head is taken modulo the ring's length.
//!
//! Locks: leaves only. Whoever is told of an answer (a waiter, an eventfd) is told without any.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EINVAL, ENOMEM};
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{FixedPages, MapError, Mappable, MappingSpace, MemRange, Memory};
use base::wait::{Events, WaitQueue};
use fs::file::FileDescription;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod poll;

pub use poll::Poll;

/// `fs.aio-max-nr` at the start.
const MAX_NR: u64 = 0x1_0000;
/// The bytes of a ring's head (`struct aio_ring`).
const HEADER: u64 = 32;
/// Where the fields of the head are.
const AT_ID: u64 = 0;
const AT_NR: u64 = 4;
const AT_HEAD: u64 = 8;
const AT_TAIL: u64 = 12;
const AT_MAGIC: u64 = 16;
const AT_COMPAT: u64 = 20;
const AT_INCOMPAT: u64 = 24;
const AT_HEADER_LENGTH: u64 = 28;
const MAGIC: u32 = 0xa10a_10a1;

/// `struct io_event`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IoEvent {
    /// `aio_data` of the request.
    pub data: u64,
    /// The address of the request.
    pub obj: u64,
    /// The result.
    pub res: i64,
    /// Always 0.
    pub res2: i64,
}

const EVENT: u64 = size_of::<IoEvent>() as u64;

/// How many requests all contexts may have together (`fs.aio-nr`, `fs.aio-max-nr`).
#[derive(Debug)]
pub struct Quota(Lock<(u64, u64), { rank::LEAF }>);

impl Default for Quota {
    fn default() -> Self {
        Self(Lock::new((0, MAX_NR)))
    }
}

impl Quota {
    /// `fs.aio-nr`.
    pub fn used(&self) -> u64 {
        self.0.lock().0
    }

    /// `fs.aio-max-nr`.
    pub fn max(&self) -> u64 {
        self.0.lock().1
    }

    /// Sets `fs.aio-max-nr`; contexts that there are stay.
    pub fn set_max(&self, max: u64) {
        self.0.lock().1 = max;
    }

    fn take(&self, count: u64) -> Result<(), Errno> {
        let mut st = self.0.lock();
        match st.0.checked_add(count) {
            Some(sum) if sum <= st.1 => {
                st.0 = sum;
                Ok(())
            }
            _ => Err(EAGAIN),
        }
    }

    fn give_back(&self, count: u64) {
        let mut st = self.0.lock();
        st.0 = st.0.saturating_sub(count);
    }
}

/// The pages of a ring, and where its program has mapped them.
pub struct Ring {
    pages: FixedPages,
    /// The address of the owner's [`MappingSpace`], which tells it from spaces that inherit the mapping.
    owner: usize,
    /// Where the owner maps it: the context's name, which changes with mremap(2).
    addr: AtomicU64,
}

impl Ring {
    /// Where byte `at` is in the memory file.
    fn at(&self, at: u64) -> u64 {
        self.pages.pages().offset + at
    }

    fn load(&self, at: u64) -> u32 {
        self.pages.memory().load_u32(self.at(at))
    }

    fn store(&self, at: u64, value: u32) {
        self.pages.memory().store_u32(self.at(at), value);
    }

    /// The bytes that are mapped.
    pub fn bytes(&self) -> u64 {
        self.pages.pages().len
    }
}

impl Mappable for Ring {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        self.pages.translate(offset, max_len, write)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        self.pages.cached(offset, max_len)
    }

    fn tracks_dirty(&self) -> bool {
        self.pages.tracks_dirty()
    }

    fn add_mapping(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, _len: u64, _write: bool) {
        if offset == 0 && space.as_ptr().cast::<()>().addr() == self.owner {
            self.addr.store(addr, Ordering::SeqCst);
        }
    }

    fn remove_mapping(&self, _: &Weak<dyn MappingSpace>, _: u64, _: u64, _: u64, _: bool) {}

    fn sync(&self, range: Range<u64>) -> Result<(), Errno> {
        self.pages.sync(range)
    }
}

#[derive(Default)]
struct State {
    tail: u32,
    /// Requests that were begun and have no answer yet.
    active: u32,
    polls: BTreeMap<u64, Arc<Poll>>,
    last_poll: u64,
    is_dead: bool,
}

/// A context.
pub struct Context {
    ring: Arc<Ring>,
    /// The events that the ring has room for; one place stays empty.
    nr: u32,
    /// What it counts for in the quota.
    max_reqs: u32,
    quota: Arc<Quota>,
    state: Lock<State, { rank::LEAF }>,
    /// Those who wait for answers.
    pub queue: WaitQueue,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("nr", &self.nr).finish_non_exhaustive()
    }
}

/// Who is told that a request has ended, and of what.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The address of the request.
    pub obj: u64,
    /// `aio_data`.
    pub data: u64,
    /// `aio_resfd`.
    pub eventfd: Option<Arc<FileDescription>>,
}

impl Context {
    /// Makes a context for `max_reqs` requests at once, of the address space at address `owner`, on a machine with `cpus`
    /// processors. It has no place in a table yet.
    ///
    /// # Errors
    /// In the order checked: `EINVAL`: far too many; `EAGAIN`: more than there may be; `ENOMEM`; `EAGAIN`: too many with those
    /// of others.
    ///
    /// Source: Linux 6.18 fs/aio.c, `ioctx_alloc`, `aio_setup_ring`.
    pub fn new(
        memory: &Arc<dyn Memory>,
        quota: &Arc<Quota>,
        max_reqs: u32,
        cpus: u32,
        owner: usize,
    ) -> Result<Arc<Self>, Errno> {
        let wanted = max_reqs.max(cpus.saturating_mul(4)).wrapping_mul(2);
        if u64::from(wanted) > 0x1000_0000 / EVENT {
            return Err(EINVAL);
        }
        if wanted == 0 || u64::from(max_reqs) > quota.max() {
            return Err(EAGAIN);
        }
        let len = (HEADER + (u64::from(wanted) + 2) * EVENT).next_multiple_of(PAGE_SIZE);
        quota.take(max_reqs.into())?;
        let Ok(pages) = FixedPages::allocate(memory, len) else {
            quota.give_back(max_reqs.into());
            return Err(ENOMEM);
        };
        let nr = ((len - HEADER) / EVENT) as u32;
        let ring = Ring { pages, owner, addr: AtomicU64::new(0) };
        for (at, value) in [(AT_NR, nr), (AT_MAGIC, MAGIC), (AT_COMPAT, 1), (AT_INCOMPAT, 0)] {
            ring.store(at, value);
        }
        ring.store(AT_ID, u32::MAX);
        ring.store(AT_HEADER_LENGTH, HEADER as u32);
        Ok(Arc::new(Self {
            ring: Arc::new(ring),
            nr,
            max_reqs,
            quota: quota.clone(),
            state: Lock::default(),
            queue: WaitQueue::new(),
        }))
    }

    /// What the program maps.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Where the ring is mapped: the context's name.
    pub fn addr(&self) -> u64 {
        self.ring.addr.load(Ordering::SeqCst)
    }

    /// The most requests that one call takes.
    pub fn capacity(&self) -> u32 {
        self.nr
    }

    fn head(&self) -> u32 {
        self.ring.load(AT_HEAD) % self.nr
    }

    /// Begins a request: every one has room for its answer.
    ///
    /// # Errors
    /// `EAGAIN`: there is none.
    pub fn begin(&self) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let unread = (st.tail + self.nr - self.head()) % self.nr;
        if st.is_dead || st.active + unread >= self.nr - 1 {
            return Err(EAGAIN);
        }
        st.active += 1;
        Ok(())
    }

    /// Ends a request without an answer.
    pub fn give_up(&self) {
        self.state.lock().active -= 1;
        self.queue.notify(Events::READABLE);
    }

    /// Ends a request; the caller holds no lock.
    pub fn complete(&self, ticket: &Ticket, res: i64) {
        let event = IoEvent { data: ticket.data, obj: ticket.obj, res, res2: 0 };
        {
            let mut st = self.state.lock();
            let at = self.ring.at(HEADER + u64::from(st.tail) * EVENT);
            self.ring.pages.memory().write(at, event.as_bytes());
            st.tail = (st.tail + 1) % self.nr;
            st.active -= 1;
            self.ring.store(AT_TAIL, st.tail);
        }
        if let Some(eventfd) = &ticket.eventfd {
            let _ = eventfd.ops.write_at(0, &mut &1u64.to_le_bytes()[..]);
        }
        self.queue.notify(Events::READABLE);
    }

    /// Where the answers begin that nobody has fetched, and how many there are.
    pub fn unread(&self) -> (u32, u32) {
        // As the ring shows it: a program may reap by itself.
        let (shown, tail) = (self.ring.load(AT_HEAD), self.ring.load(AT_TAIL) % self.nr);
        let head = shown % self.nr;
        if head != shown {
            let _st = self.state.lock();
            self.ring.store(AT_HEAD, head);
        }
        (head, (tail + self.nr - head) % self.nr)
    }

    /// `count` answers, the first of them at place `from`.
    pub fn answers(&self, from: u64, count: usize) -> Vec<IoEvent> {
        let mut events = vec![IoEvent::default(); count];
        for (i, event) in (from..).zip(&mut events) {
            let at = self.ring.at(HEADER + i % u64::from(self.nr) * EVENT);
            self.ring.pages.memory().read(at, event.as_mut_bytes());
        }
        events
    }

    /// Takes `count` answers that [`Self::unread`] found at `head`; says whether nobody else did meanwhile.
    pub fn advance(&self, head: u32, count: u64) -> bool {
        let _st = self.state.lock();
        if self.head() != head {
            return false;
        }
        self.ring.store(AT_HEAD, ((u64::from(head) + count) % u64::from(self.nr)) as u32);
        true
    }

    /// Whether it was destroyed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().is_dead
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.state.lock().active == 0
    }

    /// Cancels the first poll that was submitted as `obj`.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn cancel(&self, obj: u64) -> Result<(), Errno> {
        let found = self.state.lock().polls.values().find(|p| p.obj() == obj).cloned();
        let poll = found.ok_or(EINVAL)?;
        poll.finish(self, Events::empty());
        Ok(())
    }

    /// Ends everything that waits, and gives back what it had of the quota. Only the first call does.
    pub fn kill(&self) -> bool {
        let polls = {
            let mut st = self.state.lock();
            if std::mem::replace(&mut st.is_dead, true) {
                return false;
            }
            st.polls.clone()
        };
        self.quota.give_back(self.max_reqs.into());
        for poll in polls.into_values() {
            poll.finish(self, Events::empty());
        }
        self.queue.notify(Events::READABLE);
        true
    }
}

/// The contexts of one address space; they end with it, when no lock is held.
#[derive(Debug, Default)]
pub struct Contexts(Lock<Vec<Option<Arc<Context>>>, { rank::LEAF }>);

impl Contexts {
    /// Gives a context its number.
    pub fn add(&self, context: &Arc<Context>) {
        let mut list = self.0.lock();
        let free = list.iter().position(Option::is_none).unwrap_or(list.len());
        if free == list.len() {
            list.push(None);
        }
        context.ring.store(AT_ID, free as u32);
        list[free] = Some(context.clone());
    }

    /// The context with number `id`, if it is mapped at `addr`.
    pub fn find(&self, id: u32, addr: u64) -> Option<Arc<Context>> {
        let context = self.0.lock().get(id as usize)?.clone()?;
        (context.addr() == addr).then_some(context)
    }

    /// Forgets a context.
    pub fn remove(&self, context: &Arc<Context>) {
        let mut list = self.0.lock();
        let place = list.iter_mut().find(|c| c.as_ref().is_some_and(|c| Arc::ptr_eq(c, context)));
        let removed = place.and_then(Option::take);
        drop(list);
        drop(removed);
    }
}

impl Drop for Contexts {
    fn drop(&mut self) {
        for context in self.0.get_mut().drain(..).flatten() {
            context.kill();
        }
    }
}
