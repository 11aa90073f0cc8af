//! One ring: the memory that it shares with programs, and what has happened to its requests.
//!
//! Programs may change the shared memory at any time. Everything is read once; what the kernel itself counts (the head of
//! the submission ring, the tail of the completion ring) it keeps for itself and only shows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use abi::Errno;
use abi::errno::EINVAL;
use abi::io_uring::{Cqe, Params, RingOffsets, Sqe, cqe, place, rings, setup, sq, sqe};
use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{FixedPages, MapError, Mappable, MemRange, Memory};
use base::wait::{Events, WaitQueue};
use zerocopy::{FromZeros, IntoBytes};

use super::owner::Job;
use super::pending::Pending;
use super::request::Request;
use super::sqpoll::Poller;
use super::tables::Tables;

/// Requests under way at once.
pub(super) const MAX_PENDING: usize = 1 << 16;
/// Answers kept for a program that does not fetch them; what comes then is counted as lost.
const MAX_OVERFLOW: usize = 1 << 17;

/// Who carried a request out: a thread of the program (or for it), or one that may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Task,
    Worker,
}

/// What is known about the rings' contents and their requests.
#[derive(Default)]
pub(super) struct State {
    sq_head: u32,
    dropped: u32,
    sq_flags: u32,
    cq_tail: u32,
    lost: u32,
    /// Nobody was told of some.
    lost_untold: bool,
    overflow: VecDeque<(Cqe, [u64; 2])>,
    /// Answers that timeouts count.
    events: u32,
    /// Answers of timeouts.
    times: u32,
    /// Timeouts that end after so many answers.
    counting: Vec<(u32, Arc<Pending>)>,
    /// Those that the last answer has ended.
    fired: Vec<Arc<Pending>>,
    /// Somebody ends those.
    is_firing: bool,
    /// Requests that wait for something.
    pending: HashMap<u64, Arc<Pending>>,
    last_id: u64,
    /// Requests that were started and have not ended.
    active: usize,
    /// Those that wait for all before them to end (`IOSQE_IO_DRAIN`), and those behind them.
    deferred: VecDeque<Box<Request>>,
    /// Threads that submit at the moment.
    submitters: usize,
    /// What they have answered is not told to the file that is to hear of it.
    is_telling_due: bool,
}

/// A ring.
pub struct Ring {
    /// `IORING_SETUP_*`.
    pub(super) setup: u32,
    pub(super) sq_entries: u32,
    pub(super) cq_entries: u32,
    rings: FixedPages,
    sqes: FixedPages,
    /// Where the array of indices begins; `None` without one.
    array: Option<u64>,
    /// Requests that live, with those that are linked to others.
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) state: Lock<State, { rank::LEAF }>,
    pub(super) tables: Lock<Tables, { rank::LEAF }>,
    /// Those who wait for answers.
    pub(super) queue: WaitQueue,
    /// It takes no requests yet (`IORING_SETUP_R_DISABLED`).
    pub(super) is_disabled: AtomicBool,
    pub(super) is_closed: AtomicBool,
    /// The only thread that may submit; 0 before the first.
    pub(super) issuer: AtomicI32,
    /// Some file is told of answers.
    pub(super) has_eventfd: AtomicBool,
    /// Work that waits for the ring's thread to ask for answers.
    work: Lock<VecDeque<Arc<dyn Job>>, { rank::LEAF }>,
    /// `IOSQE_CQE_SKIP_SUCCESS` was used: nothing can be drained any more.
    pub(super) skips: AtomicBool,
    pub(super) poller: Lock<Option<Arc<Poller>>, { rank::LEAF }>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("sq_entries", &self.sq_entries).finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes a ring with the sizes and flags in `params`, and says there where everything is.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(memory: &Arc<dyn Memory>, params: &mut Params) -> Result<Arc<Self>, Errno> {
        let (sq_entries, cq_entries) = (params.sq_entries, params.cq_entries);
        let has_array = params.flags & setup::NO_SQARRAY == 0;
        let cqe_size = if params.flags & setup::CQE32 != 0 { 32 } else { 16 };
        let sqe_size = if params.flags & setup::SQE128 != 0 { 128 } else { 64 };
        let array = (rings::CQES + cq_entries * cqe_size).next_multiple_of(64);
        let len = if has_array { array + sq_entries * 4 } else { array };
        let size = |bytes: u32| u64::from(bytes).next_multiple_of(PAGE_SIZE);
        let ring_pages = FixedPages::allocate(memory, size(len))?;
        let sqes = FixedPages::allocate(memory, size(sq_entries * sqe_size))?;
        for (at, value) in [
            (rings::SQ_MASK, sq_entries - 1),
            (rings::CQ_MASK, cq_entries - 1),
            (rings::SQ_ENTRIES, sq_entries),
            (rings::CQ_ENTRIES, cq_entries),
        ] {
            memory.store_u32(ring_pages.pages().offset + u64::from(at), value);
        }
        params.sq_off = RingOffsets {
            head: rings::SQ_HEAD,
            tail: rings::SQ_TAIL,
            ring_mask: rings::SQ_MASK,
            ring_entries: rings::SQ_ENTRIES,
            flags: rings::SQ_FLAGS,
            dropped: rings::SQ_DROPPED,
            array: if has_array { array } else { 0 },
            ..RingOffsets::default()
        };
        params.cq_off = RingOffsets {
            head: rings::CQ_HEAD,
            tail: rings::CQ_TAIL,
            ring_mask: rings::CQ_MASK,
            ring_entries: rings::CQ_ENTRIES,
            flags: rings::CQ_OVERFLOW,
            dropped: rings::CQES,
            array: rings::CQ_FLAGS,
            ..RingOffsets::default()
        };
        Ok(Arc::new(Self {
            setup: params.flags,
            sq_entries,
            cq_entries,
            rings: ring_pages,
            sqes,
            array: has_array.then_some(u64::from(array)),
            requests: Arc::default(),
            state: Lock::default(),
            tables: Lock::default(),
            queue: WaitQueue::new(),
            is_disabled: AtomicBool::new(params.flags & setup::R_DISABLED != 0),
            is_closed: AtomicBool::new(false),
            issuer: AtomicI32::new(0),
            has_eventfd: AtomicBool::new(false),
            work: Lock::default(),
            skips: AtomicBool::new(false),
            poller: Lock::default(),
        }))
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.setup & flag != 0
    }

    fn load(&self, at: u32) -> u32 {
        self.rings.memory().load_u32(self.rings.pages().offset + u64::from(at))
    }

    fn store(&self, at: u32, value: u32) {
        self.rings.memory().store_u32(self.rings.pages().offset + u64::from(at), value);
    }

    /// Requests that the program has put in the ring and that were not taken.
    pub(super) fn waiting_requests(&self) -> u32 {
        let head = self.state.lock().sq_head;
        self.load(rings::SQ_TAIL).wrapping_sub(head).min(self.sq_entries)
    }

    /// Takes the next request and those linked to it, at most `most`; returns how many entries of the ring that used, or
    /// `None` when there are no more. An index that cannot be is counted as dropped, and ends the submission.
    pub(super) fn take_chain(&self, most: u32, chain: &mut Vec<Sqe>) -> Option<u32> {
        let mut st = self.state.lock();
        let ready = self.load(rings::SQ_TAIL).wrapping_sub(st.sq_head).min(self.sq_entries).min(most);
        let mut used = 0;
        while used < ready {
            let slot = st.sq_head & (self.sq_entries - 1);
            let index = match self.array {
                None => slot,
                Some(array) => {
                    self.rings.memory().load_u32(self.rings.pages().offset + array + u64::from(slot) * 4)
                }
            };
            st.sq_head = st.sq_head.wrapping_add(1);
            if index >= self.sq_entries {
                st.dropped = st.dropped.wrapping_add(1);
                self.store(rings::SQ_DROPPED, st.dropped);
                break;
            }
            used += 1;
            let mut entry = Sqe::new_zeroed();
            let size = if self.has(setup::SQE128) { 128 } else { 64 };
            self.sqes.memory().read(self.sqes.pages().offset + u64::from(index) * size, entry.as_mut_bytes());
            chain.push(entry);
            if entry.flags & (sqe::IO_LINK | sqe::IO_HARDLINK) == 0 {
                break;
            }
        }
        self.store(rings::SQ_HEAD, st.sq_head);
        (used > 0).then_some(used)
    }

    /// Sets or clears what the ring's flags tell.
    pub(super) fn show_flag(&self, flag: u32, is_set: bool) {
        self.change_flags(&mut self.state.lock(), flag, is_set);
    }

    fn change_flags(&self, st: &mut State, flag: u32, is_set: bool) {
        let new = if is_set { st.sq_flags | flag } else { st.sq_flags & !flag };
        if new != st.sq_flags {
            st.sq_flags = new;
            self.store(rings::SQ_FLAGS, new);
        }
    }

    /// How many timeouts have ended: each wakes who waits.
    pub(super) fn times(&self) -> u32 {
        self.state.lock().times
    }

    /// Answers that the program has not fetched.
    pub(super) fn answers(&self) -> u32 {
        let tail = self.state.lock().cq_tail;
        tail.wrapping_sub(self.load(rings::CQ_HEAD)).min(self.cq_entries)
    }

    /// Stores an answer; tells nobody.
    fn put(&self, st: &mut State, answer: Cqe, extra: [u64; 2], counts: bool) {
        if !counts {
            st.times = st.times.wrapping_add(1);
        } else {
            st.events = st.events.wrapping_add(1);
        }
        if st.overflow.is_empty() && self.write(st, answer, extra) {
            // It is there.
        } else if st.overflow.len() < MAX_OVERFLOW {
            st.overflow.push_back((answer, extra));
            self.change_flags(st, sq::CQ_OVERFLOW, true);
        } else {
            st.lost = st.lost.wrapping_add(1);
            st.lost_untold = true;
            self.store(rings::CQ_OVERFLOW, st.lost);
        }
        let events = st.events;
        let is_due = |target: u32| target.wrapping_sub(events).cast_signed() <= 0;
        if counts && st.counting.iter().any(|(target, _)| is_due(*target)) {
            let (due, rest) = std::mem::take(&mut st.counting).into_iter().partition(|(t, _)| is_due(*t));
            st.counting = rest;
            let due: Vec<(u32, Arc<Pending>)> = due;
            st.fired.extend(due.into_iter().map(|(_, p)| p));
        }
    }

    /// Writes an answer into the ring, if there is room.
    fn write(&self, st: &mut State, answer: Cqe, extra: [u64; 2]) -> bool {
        let used = st.cq_tail.wrapping_sub(self.load(rings::CQ_HEAD));
        if used >= self.cq_entries {
            return false;
        }
        let slot = u64::from(st.cq_tail & (self.cq_entries - 1));
        let size = if self.has(setup::CQE32) { 32 } else { 16 };
        let at = self.rings.pages().offset + u64::from(rings::CQES) + slot * size;
        self.rings.memory().write(at, answer.as_bytes());
        if size == 32 {
            self.rings.memory().write(at + 16, extra.as_bytes());
        }
        st.cq_tail = st.cq_tail.wrapping_add(1);
        self.store(rings::CQ_TAIL, st.cq_tail);
        true
    }

    /// Whether another answer would have to wait outside the ring.
    pub(super) fn is_full(&self) -> bool {
        let st = self.state.lock();
        !st.overflow.is_empty() || st.cq_tail.wrapping_sub(self.load(rings::CQ_HEAD)) >= self.cq_entries
    }

    /// Moves answers that found no room into the ring.
    pub(super) fn flush(&self) {
        let mut st = self.state.lock();
        while let Some(&(answer, extra)) = st.overflow.front() {
            if !self.write(&mut st, answer, extra) {
                return;
            }
            st.overflow.pop_front();
        }
        self.change_flags(&mut st, sq::CQ_OVERFLOW, false);
    }

    /// Whether answers were lost since the last call.
    pub(super) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.state.lock().lost_untold)
    }

    /// Whether answers wait outside the ring.
    pub(super) fn overflows(&self) -> bool {
        !self.state.lock().overflow.is_empty()
    }

    /// Stores an answer and tells those who wait for it. `counts`: timeouts that wait for a number of answers count it.
    pub(super) fn post(&self, answer: Cqe, origin: Origin, counts: bool) {
        self.post_wide(answer, [0; 2], origin, counts);
    }

    fn post_wide(&self, answer: Cqe, extra: [u64; 2], origin: Origin, counts: bool) {
        self.put(&mut self.state.lock(), answer, extra, counts);
        self.announce(origin);
        // A timeout that ends is an answer in turn, which may end others: one call ends them all, however many there are.
        let mut is_mine = false;
        loop {
            let fired = {
                let mut st = self.state.lock();
                if st.is_firing && !is_mine {
                    return;
                }
                let fired = std::mem::take(&mut st.fired);
                is_mine = !fired.is_empty();
                st.is_firing = is_mine;
                fired
            };
            if fired.is_empty() {
                return;
            }
            for timeout in fired {
                timeout.end_with(0);
            }
        }
    }

    /// Tells those who wait that there are answers.
    pub(super) fn announce(&self, origin: Origin) {
        self.queue.notify(Events::READABLE);
        if self.has_eventfd.load(Ordering::SeqCst) {
            if origin == Origin::Task {
                let mut st = self.state.lock();
                if st.submitters > 0 {
                    st.is_telling_due = true;
                    return;
                }
            }
            self.tell_eventfd(origin);
        }
    }

    /// A thread begins to submit: what is answered meanwhile is told once, at the end.
    ///
    /// Source: Linux 6.12 io_uring/io_uring.c, `io_submit_state_end`, `__io_submit_flush_completions`.
    pub(super) fn begin_submission(&self) {
        self.state.lock().submitters += 1;
    }

    /// Ends `begin_submission`.
    pub(super) fn end_submission(&self) {
        let is_due = {
            let mut st = self.state.lock();
            st.submitters -= 1;
            st.submitters == 0 && std::mem::take(&mut st.is_telling_due)
        };
        if is_due {
            self.tell_eventfd(Origin::Task);
        }
    }

    /// Tells the file that is to hear of answers.
    pub(super) fn tell_eventfd(&self, origin: Origin) {
        if self.load(rings::CQ_FLAGS) & 1 == 0 {
            let eventfd = self.tables.lock().eventfd.clone();
            if let Some((file, only_later)) = eventfd
                && (!only_later || origin == Origin::Worker)
            {
                let _ = file.ops.write_at(0, &mut &1u64.to_le_bytes()[..]);
            }
        }
    }

    /// Answers a request or a part of one.
    pub(super) fn answer(&self, req: &Request, res: i32, flags: u32) {
        let answer = Cqe { user_data: req.sqe.user_data, res, flags };
        let canceled = -abi::errno::ECANCELED.raw();
        let is_time = req.sqe.opcode == abi::io_uring::op::TIMEOUT && res != canceled;
        self.post(answer, req.origin, !is_time);
    }

    /// Tells of an event of a request that goes on; says whether there was room for it, without which it ends.
    pub(super) fn answer_more(&self, req: &Request, res: i32, flags: u32) -> bool {
        if self.is_full() {
            return false;
        }
        self.answer(req, res, flags | cqe::MORE);
        true
    }

    /// Notes a request that waits; gives it its number.
    pub(super) fn add_pending(&self, make: impl FnOnce(u64) -> Arc<Pending>) -> Arc<Pending> {
        let mut st = self.state.lock();
        st.last_id += 1;
        let id = st.last_id;
        let pending = make(id);
        st.pending.insert(id, pending.clone());
        pending
    }

    /// Forgets a request that has ended.
    pub(super) fn remove_pending(&self, id: u64) {
        let removed = {
            let mut st = self.state.lock();
            st.counting.retain(|(_, p)| p.id() != id);
            st.pending.remove(&id)
        };
        drop(removed);
    }

    /// The requests that wait, oldest first.
    pub(super) fn pending(&self) -> Vec<Arc<Pending>> {
        let mut all: Vec<_> = self.state.lock().pending.values().cloned().collect();
        all.sort_by_key(|p| p.id());
        all
    }

    pub(super) fn has_room(&self) -> bool {
        self.requests.load(Ordering::SeqCst) < MAX_PENDING
    }

    /// Makes `timeout` end after `count` more answers.
    pub(super) fn count_down(&self, timeout: &Arc<Pending>, count: u32) {
        let mut st = self.state.lock();
        let target = st.events.wrapping_add(count);
        st.counting.push((target, timeout.clone()));
    }

    /// Notes that a request starts. With `drains`, or behind one that does, it is kept for later while others are under way
    /// (`None`).
    pub(super) fn begin(&self, mut req: Box<Request>, drains: bool) -> Option<Box<Request>> {
        let mut st = self.state.lock();
        if !st.deferred.is_empty() || drains && st.active > 0 {
            if !std::mem::replace(&mut req.is_kept, true) {
                req.owner.armed.fetch_add(1, Ordering::SeqCst);
            }
            st.deferred.push_back(req);
            return None;
        }
        st.active += req.len();
        Some(req)
    }

    /// Notes that a request has ended; returns those that may start now.
    pub(super) fn end(&self) -> VecDeque<Box<Request>> {
        let mut st = self.state.lock();
        st.active = st.active.saturating_sub(1);
        let mut free = VecDeque::new();
        while let Some(next) = st.deferred.front() {
            if next.drains() && st.active > 0 {
                break;
            }
            let Some(next) = st.deferred.pop_front() else { break };
            st.active += next.len();
            free.push_back(next);
        }
        free
    }

    /// Takes all requests that were kept for later.
    pub(super) fn take_deferred(&self) -> VecDeque<Box<Request>> {
        std::mem::take(&mut self.state.lock().deferred)
    }

    /// Marks those that are kept for later and whose thread ends.
    pub(super) fn orphan_deferred(&self, is_it: impl Fn(&Request) -> bool) {
        self.state.lock().deferred.iter_mut().filter(|req| is_it(req)).for_each(|req| req.orphan());
    }

    /// Tells a program that looks for it that a call is needed to get on.
    pub(super) fn tell_of_work(&self) {
        if self.has(setup::TASKRUN_FLAG) {
            self.show_flag(sq::TASKRUN, true);
        }
    }

    /// Keeps work until the ring's thread asks for answers (`IORING_SETUP_DEFER_TASKRUN`). Says whether a file is to hear
    /// of that.
    pub(super) fn keep_work(&self, job: Arc<dyn Job>) -> bool {
        let is_first = {
            let mut work = self.work.lock();
            work.push_back(job);
            work.len() == 1
        };
        self.tell_of_work();
        self.queue.notify(Events::READABLE);
        is_first && self.has_eventfd.load(Ordering::SeqCst)
    }

    /// The next piece of work that was kept.
    pub(super) fn next_work(&self) -> Option<Arc<dyn Job>> {
        let mut work = self.work.lock();
        let job = work.pop_front();
        if job.is_none() && self.has(setup::TASKRUN_FLAG) {
            drop(work);
            self.show_flag(sq::TASKRUN, false);
        }
        job
    }

    /// What poll(2) finds.
    pub(super) fn ready(&self) -> Events {
        let head = self.state.lock().sq_head;
        let mut events = Events::empty();
        let queued = self.load(rings::SQ_TAIL).wrapping_sub(head);
        events.set(Events::WRITABLE, queued < self.sq_entries);
        let is_readable = self.answers() > 0 || self.overflows() || !self.work.lock().is_empty();
        events.set(Events::READABLE, is_readable);
        events
    }

    /// What `/proc/PID/fdinfo` shows of it.
    ///
    /// Source: Linux 6.12 io_uring/fdinfo.c.
    pub(super) fn report(&self) -> String {
        use std::fmt::Write;
        let (sq_head, cq_tail) = {
            let st = self.state.lock();
            (st.sq_head, st.cq_tail)
        };
        let (shown_head, tail) = (self.load(rings::SQ_HEAD), self.load(rings::SQ_TAIL));
        let cq_head = self.load(rings::CQ_HEAD);
        let mut text = format!(
            "SqMask:\t{:#x}\nSqHead:\t{shown_head}\nSqTail:\t{tail}\nCachedSqHead:\t{sq_head}\nCqMask:\t{:#x}\nCqHead:\t{cq_head}\nCqTail:\t{cq_tail}\nCachedCqTail:\t{cq_tail}\nSQEs:\t{}\n",
            self.sq_entries - 1,
            self.cq_entries - 1,
            tail.wrapping_sub(sq_head).min(self.sq_entries),
        );
        let answers = cq_tail.wrapping_sub(cq_head).min(self.cq_entries);
        let _ = writeln!(text, "CQEs:\t{answers}");
        let poller = self.poller.lock().clone();
        let (pid, cpu) = poller.map_or((-1, -1), |p| p.shown());
        let tables = self.tables.lock();
        let _ = write!(
            text,
            "SqThread:\t{pid}\nSqThreadCpu:\t{cpu}\nSqTotalTime:\t0\nSqWorkTime:\t0\nUserFiles:\t{}\n",
            tables.files.len(),
        );
        let _ = writeln!(text, "UserBufs:\t{}", tables.buffers.len());
        drop(tables);
        text.push_str("PollList:\nCqOverflowList:\n");
        for (answer, _) in &self.state.lock().overflow {
            let _ = writeln!(
                text,
                "  user_data={}, res={}, flags={:x}",
                answer.user_data, answer.res, answer.flags
            );
        }
        text
    }

    /// Whether `len` bytes may be mapped from `offset`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn check_mapping(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let part = match offset {
            place::SQ_RING | place::CQ_RING => &self.rings,
            place::SQES => &self.sqes,
            _ => return Err(EINVAL),
        };
        if len.next_multiple_of(PAGE_SIZE) > part.pages().len { Err(EINVAL) } else { Ok(()) }
    }
}

/// The rings as something to map.
pub(super) struct RingPages(pub(super) Arc<Ring>);

impl Mappable for RingPages {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        let (base, part) = match offset {
            place::SQES.. => (place::SQES, &self.0.sqes),
            place::CQ_RING.. => (place::CQ_RING, &self.0.rings),
            _ => (place::SQ_RING, &self.0.rings),
        };
        part.translate(offset - base, max_len, write)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }
}
