//! For whom requests are carried out: an address space and a table of descriptors, and the threads that go on with what has
//! begun while the program does something else.
//!
//! Whoever notices that a request can go on (a file's queue, a clock) only puts it into the owner's list. A thread of the
//! program that waits in io_uring_enter(2) carries it out; when none does, the owner's service thread. What can only be done
//! asleep has threads of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::lock::{Condition, Lock, rank};
use base::wait::{Events, Wake};

use super::pending::Pending;
use super::register::RegisteredRings;
use super::ring::Ring;
use crate::mm::MemoryManager;
use crate::task::worker::{self, Place};
use crate::task::{Ctx, FdTable, FsContext, Parker, Task};

/// Threads that may sleep for one owner.
const MAX_SLEEPERS: usize = 32;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(1);

/// Something to go on with.
pub trait Job: Send + Sync {
    /// Goes on; does not sleep.
    fn run(self: Arc<Self>, cx: &mut Ctx<'_>);
}

#[derive(Default)]
struct State {
    work: VecDeque<Arc<dyn Job>>,
    /// Threads of the program that wait in a call and will look at `work`.
    waiters: Vec<Arc<Parker>>,
    has_service: bool,
    asleep: VecDeque<Arc<Pending>>,
    sleepers: usize,
    idle_sleepers: usize,
    /// The tasks of threads that do something at the moment.
    busy: Vec<Arc<Task>>,
    /// Threads that there are, pollers included.
    threads: usize,
    is_stopped: bool,
    rings: Vec<Weak<Ring>>,
    max_sleepers: [u32; 2],
}

/// See the module.
pub struct Owner {
    mm: Weak<MemoryManager>,
    files: Weak<FdTable>,
    fs: Weak<Lock<FsContext, { rank::FS_CONTEXT }>>,
    state: Lock<State, { rank::LEAF }>,
    /// Work came.
    service: Condition,
    /// Something to sleep on came.
    sleep: Condition,
    /// A thread ended what it did.
    done: Condition,
    /// Requests that wait for something.
    pub(super) armed: AtomicUsize,
    registered: Lock<RegisteredRings, { rank::LEAF }>,
}

/// The owners of one process: one, unless its threads have different descriptors.
#[derive(Default)]
pub struct Owners {
    list: Vec<Arc<Owner>>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").field("count", &self.list.len()).finish()
    }
}

impl Owner {
    /// The one for whom `cx` acts.
    pub fn of(cx: &Ctx<'_>) -> Arc<Self> {
        let mut owners = cx.task.group.rings.lock();
        let is_it = |o: &&Arc<Self>| {
            o.mm.as_ptr() == Arc::as_ptr(&cx.mm)
                && o.files.as_ptr() == Arc::as_ptr(&cx.files)
                && o.fs.as_ptr() == Arc::as_ptr(&cx.fs)
        };
        if let Some(owner) = owners.list.iter().find(is_it) {
            return owner.clone();
        }
        let owner = Arc::new(Self {
            mm: Arc::downgrade(&cx.mm),
            files: Arc::downgrade(&cx.files),
            fs: Arc::downgrade(&cx.fs),
            state: Lock::new(State {
                max_sleepers: [MAX_SLEEPERS as u32, MAX_SLEEPERS as u32],
                ..State::default()
            }),
            service: Condition::new(),
            sleep: Condition::new(),
            done: Condition::new(),
            armed: AtomicUsize::new(0),
            registered: Lock::default(),
        });
        // Those whose thread with descriptors of its own has ended; dropped without the lock.
        let is_used = |o: &Arc<Self>| {
            Arc::strong_count(o) > 1
                || o.armed.load(Ordering::SeqCst) > 0
                || o.mm.strong_count() > 0 && o.files.strong_count() > 0 && o.fs.strong_count() > 0
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut owners.list).into_iter().partition(is_used);
        owners.list = kept;
        owners.list.push(owner.clone());
        drop(owners);
        drop(gone);
        owner
    }

    /// What its threads act with, while the process still has it.
    pub(super) fn place(&self) -> Option<Place> {
        Some(Place { mm: self.mm.upgrade()?, files: self.files.upgrade()?, fs: self.fs.upgrade()? })
    }

    /// The rings that its threads have registered.
    pub(super) fn registered(&self) -> &Lock<RegisteredRings, { rank::LEAF }> {
        &self.registered
    }

    /// Remembers that requests in `ring` are its own.
    pub(super) fn note_ring(&self, ring: &Arc<Ring>) {
        let mut st = self.state.lock();
        if !st.rings.iter().any(|r| r.as_ptr() == Arc::as_ptr(ring)) {
            st.rings.retain(|r| r.strong_count() > 0);
            st.rings.push(Arc::downgrade(ring));
        }
    }

    /// Has somebody go on with `job`. Any lock but an innermost one may be held.
    ///
    /// # Errors
    /// The job, when the process has ended or got another program.
    pub fn push(&self, job: Arc<dyn Job>) -> Result<(), Arc<dyn Job>> {
        let waiter = {
            let mut st = self.state.lock();
            if st.is_stopped {
                return Err(job);
            }
            st.work.push_back(job);
            st.waiters.last().cloned()
        };
        match waiter {
            Some(parker) => parker.wake(Events::IN),
            None => {
                self.service.notify_one();
            }
        }
        Ok(())
    }

    /// Makes sure that somebody goes on with what is pushed.
    pub fn serve(self: &Arc<Self>, model: &Arc<Task>) {
        {
            let mut st = self.state.lock();
            if st.has_service || st.is_stopped {
                return;
            }
            st.has_service = true;
            st.threads += 1;
        }
        let owner = self.clone();
        if worker::start(worker::task_like(model), move |task| owner.run_service(task)).is_err() {
            let mut st = self.state.lock();
            st.has_service = false;
            st.threads -= 1;
        }
    }

    fn run_service(&self, task: &Arc<Task>) {
        let mut st = self.state.lock();
        loop {
            if st.is_stopped {
                break;
            }
            // A thread that waits in a call does the work itself.
            if st.work.is_empty() || !st.waiters.is_empty() {
                let timed_out = self.service.wait_for(&mut st, IDLE);
                if timed_out && st.work.is_empty() && self.armed.load(Ordering::SeqCst) == 0 {
                    break;
                }
                if !st.waiters.is_empty() {
                    continue;
                }
            }
            let Some(job) = st.work.pop_front() else { continue };
            st.busy.push(task.clone());
            drop(st);
            if let Some(place) = self.place() {
                worker::act(task, place, task.cred(), |cx| {
                    job.run(cx);
                    while let Some(job) = self.next_job() {
                        job.run(cx);
                    }
                });
            } else {
                drop(job);
            }
            st = self.state.lock();
            st.busy.retain(|t| !Arc::ptr_eq(t, task));
            self.done.notify_all();
        }
        st.has_service = false;
        st.threads -= 1;
        drop(st);
        self.done.notify_all();
    }

    fn next_job(&self) -> Option<Arc<dyn Job>> {
        let mut st = self.state.lock();
        if st.is_stopped { None } else { st.work.pop_front() }
    }

    /// Goes on with what can go on, on the thread of a program that is in a call.
    pub(super) fn work(&self, cx: &mut Ctx<'_>) {
        /// A thread gets back to its own affairs.
        const MOST: usize = 4096;
        for _ in 0..MOST {
            let Some(job) = self.next_job() else { return };
            job.run(cx);
        }
        self.service.notify_one();
    }

    /// Says that a thread of the program is going to wait and looks at the work.
    pub(super) fn enter(&self, parker: &Arc<Parker>) {
        self.state.lock().waiters.push(parker.clone());
    }

    /// Ends `enter`; says whether work is left that nobody was told of.
    pub(super) fn leave(&self, parker: &Arc<Parker>) -> bool {
        let mut st = self.state.lock();
        if let Some(i) = st.waiters.iter().rposition(|p| Arc::ptr_eq(p, parker)) {
            st.waiters.remove(i);
        }
        !st.work.is_empty()
    }

    /// Has a thread that may sleep carry out `pending`.
    pub(super) fn sleep_on(self: &Arc<Self>, pending: Arc<Pending>, model: &Arc<Task>) {
        let grows = {
            let mut st = self.state.lock();
            if st.is_stopped {
                return;
            }
            st.asleep.push_back(pending);
            let most = (st.max_sleepers[0].max(st.max_sleepers[1]) as usize).min(MAX_SLEEPERS);
            let grows = st.idle_sleepers < st.asleep.len() && st.sleepers < most;
            if grows {
                st.sleepers += 1;
                st.threads += 1;
            }
            grows
        };
        if !grows {
            self.sleep.notify_one();
            return;
        }
        let owner = self.clone();
        if worker::start(worker::task_like(model), move |task| owner.run_sleeper(task)).is_err() {
            let mut st = self.state.lock();
            st.sleepers -= 1;
            st.threads -= 1;
        }
    }

    fn run_sleeper(&self, task: &Arc<Task>) {
        let mut st = self.state.lock();
        loop {
            if st.is_stopped {
                break;
            }
            let Some(pending) = st.asleep.pop_front() else {
                st.idle_sleepers += 1;
                let timed_out = self.sleep.wait_for(&mut st, IDLE);
                st.idle_sleepers -= 1;
                if timed_out && st.asleep.is_empty() {
                    break;
                }
                continue;
            };
            st.busy.push(task.clone());
            drop(st);
            task.recall();
            if let Some(place) = self.place() {
                worker::act(task, place, task.cred(), |cx| pending.run_asleep(cx));
            } else {
                drop(pending);
            }
            st = self.state.lock();
            st.busy.retain(|t| !Arc::ptr_eq(t, task));
            self.done.notify_all();
        }
        st.sleepers -= 1;
        st.threads -= 1;
        drop(st);
        self.done.notify_all();
    }

    /// Notes a thread that takes requests from a ring by itself; says whether it may start.
    pub(super) fn add_thread(&self) -> bool {
        let mut st = self.state.lock();
        st.threads += usize::from(!st.is_stopped);
        !st.is_stopped
    }

    /// Ends `add_thread`.
    pub(super) fn remove_thread(&self) {
        self.state.lock().threads -= 1;
        self.done.notify_all();
    }

    /// The limits of `IORING_REGISTER_IOWQ_MAX_WORKERS`: sets those that are not 0, returns the former.
    pub(super) fn limit_sleepers(&self, new: [u32; 2]) -> [u32; 2] {
        let mut st = self.state.lock();
        let old = st.max_sleepers;
        for (now, new) in st.max_sleepers.iter_mut().zip(new) {
            if new != 0 {
                *now = new;
            }
        }
        old
    }

    /// Whether its process has ended, or got another program.
    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().is_stopped
    }

    fn rings(&self) -> Vec<Arc<Ring>> {
        self.state.lock().rings.iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends the requests that it has in all rings.
    fn cancel_all(self: &Arc<Self>) {
        for ring in self.rings() {
            for pending in ring.pending() {
                if Arc::ptr_eq(pending.owner(), self) {
                    let _ = pending.cancel();
                }
            }
            let deferred = ring.take_deferred();
            let (mine, others): (Vec<_>, Vec<_>) =
                deferred.into_iter().partition(|r| Arc::ptr_eq(&r.owner, self));
            for req in others {
                let _ = ring.begin(req, true);
            }
            drop(mine);
        }
    }

    /// The thread `tid` ends, or all do: see [`Pending::abandon`].
    fn abandon(self: &Arc<Self>, tid: Option<i32>) {
        let is_of = |t: i32| tid.is_none_or(|tid| tid == t);
        for ring in self.rings() {
            for pending in ring.pending() {
                if Arc::ptr_eq(pending.owner(), self) && is_of(pending.tid()) {
                    pending.abandon();
                }
            }
            ring.orphan_deferred(|req| Arc::ptr_eq(&req.owner, self) && is_of(req.tid));
        }
    }

    /// Ends what it does: nothing of that goes on when this returns. With `cancels`, all requests end; else those that need
    /// no process wait on.
    fn stop(self: &Arc<Self>, cancels: bool) {
        let (work, pollers) = {
            let mut st = self.state.lock();
            st.is_stopped = true;
            for task in &st.busy {
                task.dismiss();
            }
            let pollers: Vec<Arc<Ring>> = st.rings.iter().filter_map(Weak::upgrade).collect();
            st.asleep.clear();
            (std::mem::take(&mut st.work), pollers)
        };
        drop(work);
        self.service.notify_all();
        self.sleep.notify_all();
        for ring in &pollers {
            let poller = ring.poller.lock().clone();
            if let Some(poller) = poller.filter(|p| Arc::ptr_eq(p.owner(), self)) {
                poller.end();
            }
        }
        drop(pollers);
        if cancels {
            self.cancel_all();
        } else {
            self.abandon(None);
        }
        let registered = self.registered.lock().take(None);
        drop(registered);
        let mut st = self.state.lock();
        while !st.busy.is_empty() || st.threads > 0 {
            for task in &st.busy {
                task.dismiss();
            }
            self.done.wait_for(&mut st, Duration::from_millis(20));
        }
    }
}

/// The calling thread ends: what is done for it ends; with the last thread that of the process.
pub fn leave(cx: &Ctx<'_>, is_last: bool) {
    if is_last {
        return stop_all(cx, false);
    }
    let owners = cx.task.group.rings.lock().list.clone();
    for owner in owners {
        owner.abandon(Some(cx.task.tid));
        let registered = owner.registered.lock().take(Some(cx.task.tid));
        drop(registered);
    }
}

/// The process gets another program: all its requests end.
pub fn leave_all(cx: &Ctx<'_>) {
    stop_all(cx, true);
}

fn stop_all(cx: &Ctx<'_>, cancels: bool) {
    let owners = std::mem::take(&mut cx.task.group.rings.lock().list);
    for owner in owners {
        owner.stop(cancels);
    }
}
