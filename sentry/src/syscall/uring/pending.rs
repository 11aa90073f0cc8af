//! A request that waits: for a file, for a time, for a thread that may sleep.
//!
//! Whoever takes the request out of its place goes on with it: a thread that found the file ready, or one that cancels. So
//! each request ends once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EALREADY, ECANCELED, ETIME};
use abi::io_uring::{op, setup};
use base::alarm::{Alarm, AlarmClock, AlarmKey, Alarms};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitKey, Wake};
use fs::file::FileDescription;

use super::owner::{Job, Owner};
use super::request::Request;
use super::ring::{Origin, Ring};
use super::run;
use crate::task::{Ctx, Task};

/// When a timeout ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) clock: AlarmClock,
    pub(super) at: i64,
    /// The time from one end to the next (`IORING_TIMEOUT_MULTISHOT`), and how many are left; 0 for no limit.
    pub(super) interval: i64,
    pub(super) left: u32,
}

#[derive(Default)]
struct Slot {
    req: Option<Box<Request>>,
    registration: Option<(Arc<FileDescription>, WaitKey)>,
    /// What it waits for there.
    mask: Option<Events>,
    deadline: Option<Deadline>,
    alarm: Option<AlarmKey>,
    /// The task that carries it out asleep.
    runner: Option<Arc<Task>>,
}

/// See the module.
pub(super) struct Pending {
    id: u64,
    this: Weak<Pending>,
    ring: Weak<Ring>,
    owner: Arc<Owner>,
    tid: i32,
    user_data: u64,
    alarms: Arc<dyn Alarms>,
    slot: Lock<Slot, { rank::WAIT }>,
    /// It is in the owner's list.
    is_queued: AtomicBool,
    /// Something happened while somebody had the request.
    again: AtomicBool,
    is_cancelled: AtomicBool,
    is_over: AtomicBool,
    /// The thread that submitted it has ended.
    is_orphan: AtomicBool,
    /// It is for a thread that may sleep.
    sleeps: AtomicBool,
    /// What a linked timeout ends.
    target: Lock<Weak<Pending>, { rank::LEAF }>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pending {
    /// Gives `req` a place among the ring's requests that wait; the caller puts it in.
    pub(super) fn new(cx: &Ctx<'_>, ring: &Arc<Ring>, req: &Request) -> Arc<Self> {
        let owner = req.owner.clone();
        owner.note_ring(ring);
        owner.armed.fetch_add(1, Ordering::SeqCst);
        ring.add_pending(|id| {
            Arc::new_cyclic(|this| Self {
                id,
                this: this.clone(),
                ring: Arc::downgrade(ring),
                owner,
                tid: req.tid,
                user_data: req.sqe.user_data,
                alarms: cx.task.kernel.alarms.clone(),
                slot: Lock::default(),
                is_queued: AtomicBool::new(false),
                again: AtomicBool::new(false),
                is_cancelled: AtomicBool::new(false),
                is_over: AtomicBool::new(false),
                is_orphan: AtomicBool::new(req.is_orphan),
                sleeps: AtomicBool::new(false),
                target: Lock::new(Weak::new()),
            })
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// What names the request to the program, as it was submitted.
    pub(super) fn user_data(&self) -> u64 {
        self.user_data
    }

    pub(super) fn tid(&self) -> i32 {
        self.tid
    }

    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// Asks something about the request, if nobody has it at the moment.
    pub(super) fn look<T>(&self, f: impl FnOnce(&mut Request) -> T) -> Option<T> {
        self.slot.lock().req.as_deref_mut().map(f)
    }

    /// Takes the request; the caller goes on with it or ends it.
    fn take(&self) -> Option<Box<Request>> {
        self.slot.lock().req.take()
    }

    /// Waits for nothing any more.
    pub(super) fn disarm(&self) {
        let (registration, alarm) = {
            let mut slot = self.slot.lock();
            (slot.registration.take(), slot.alarm.take())
        };
        if let Some((file, key)) = registration
            && let Some(queue) = file.ops.wait_queue()
        {
            queue.unregister(key);
        }
        if let Some(key) = alarm {
            self.alarms.cancel(&key);
        }
    }

    /// The request has ended, or goes on without waiting.
    pub(super) fn forget(&self, ring: &Ring) {
        self.is_over.store(true, Ordering::SeqCst);
        self.disarm();
        ring.remove_pending(self.id);
        self.owner.armed.fetch_sub(1, Ordering::SeqCst);
    }

    /// Puts the request back and looks whether something happened meanwhile.
    fn put(&self, req: Box<Request>) {
        self.slot.lock().req = Some(req);
        let is_forlorn = || self.is_orphan.load(Ordering::SeqCst) && self.sleeps.load(Ordering::SeqCst);
        if self.is_cancelled.load(Ordering::SeqCst) || is_forlorn() {
            let _ = self.cancel();
        } else if self.again.swap(false, Ordering::SeqCst) {
            self.queue();
        }
    }

    /// Waits until `file` may be ready for `mask`. `looks`: it may be ready already, and that counts.
    pub(super) fn wait_for(
        self: &Arc<Self>,
        req: Box<Request>,
        file: &Arc<FileDescription>,
        mask: Events,
        looks: bool,
    ) {
        let mut looks = looks;
        self.slot.lock().mask = Some(mask);
        if let Some(queue) = file.ops.wait_queue() {
            let is_registered = self.slot.lock().registration.is_some();
            if !is_registered {
                let waker: Arc<dyn Wake> = self.clone();
                let key = queue.register(waker, mask);
                self.slot.lock().registration = Some((file.clone(), key));
                // Nobody has told of what came before.
                looks = true;
            }
        }
        self.put(req);
        if looks && file.ops.ready().intersects(mask | Events::ERR | Events::HUP) {
            self.queue();
        }
    }

    /// Waits for a time.
    pub(super) fn wait_until(self: &Arc<Self>, req: Box<Request>, deadline: Option<Deadline>) {
        self.slot.lock().deadline = deadline;
        self.put(req);
        self.set_alarm();
    }

    fn set_alarm(&self) {
        // Under the lock: it may ring and be set again by another thread before its key is noted here.
        let mut slot = self.slot.lock();
        let Some(deadline) = slot.deadline else { return };
        let this: Weak<Pending> = self.this.clone();
        let key = self.alarms.set(deadline.clock, deadline.at, this);
        let old = slot.alarm.replace(key);
        drop(slot);
        if let Some(old) = old {
            self.alarms.cancel(&old);
        }
    }

    /// Changes when a timeout ends.
    pub(super) fn move_deadline(&self, new: Deadline) {
        {
            let mut slot = self.slot.lock();
            slot.deadline = Some(new);
        }
        self.set_alarm();
    }

    /// Ends `target` too when the time comes.
    pub(super) fn aim(&self, target: &Arc<Pending>) {
        *self.target.lock() = Arc::downgrade(target);
    }

    /// Has a thread that may sleep carry the request out.
    pub(super) fn sleep(self: &Arc<Self>, req: Box<Request>, cx: &Ctx<'_>) {
        self.sleeps.store(true, Ordering::SeqCst);
        self.put(req);
        self.owner.sleep_on(self.clone(), &cx.task);
    }

    /// Puts it into the owner's list.
    pub(super) fn queue(&self) {
        if self.is_queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let Some(this) = self.this.upgrade() else { return };
        if let Some(ring) = self.ring.upgrade() {
            if ring.has(setup::DEFER_TASKRUN) {
                if ring.keep_work(this) {
                    let _ = self.owner.push(Arc::new(Tell(ring)));
                }
                return;
            }
            ring.tell_of_work();
            if let Err(job) = self.owner.push(this) {
                // Who shares the ring with a process that has ended goes on with what that has left.
                let _ = ring.keep_work(job);
            }
        }
    }

    /// Has a thread of the owner's own carry the request out.
    pub(super) fn hand_over(&self) {
        self.is_queued.store(true, Ordering::SeqCst);
        if let Some(this) = self.this.upgrade() {
            let _ = self.owner.push(this);
        }
    }

    /// Carries the request out on a thread that may sleep.
    pub(super) fn run_asleep(self: Arc<Self>, cx: &mut Ctx<'_>) {
        let Some(ring) = self.ring.upgrade() else { return };
        let req = {
            let mut slot = self.slot.lock();
            let req = slot.req.take();
            if req.is_some() {
                slot.runner = Some(cx.task.clone());
            }
            req
        };
        let Some(req) = req else { return };
        run::go_on(cx, &ring, req, Some(self), run::Mode::MaySleep);
    }

    /// Nobody carries it out asleep any more.
    pub(super) fn wake_up(&self) {
        self.slot.lock().runner = None;
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    /// Ends the request with `ECANCELED`.
    ///
    /// # Errors
    /// `EALREADY`: it is being carried out; it ends soon.
    pub(super) fn cancel(&self) -> Result<(), Errno> {
        self.is_cancelled.store(true, Ordering::SeqCst);
        match self.take() {
            Some(req) => {
                self.finish(req, -ECANCELED.raw());
                Ok(())
            }
            None => {
                // Under the lock: the thread must not be at something else already.
                if let Some(task) = &self.slot.lock().runner {
                    task.dismiss();
                }
                Err(EALREADY)
            }
        }
    }

    /// The thread that submitted the request ends. A wait for a time or for a file goes on, and what would follow it fails;
    /// what a thread of the kernel's does for it, and a poll of a ring, which could hold itself, end.
    ///
    /// Source: Linux 6.12 io_uring/io_uring.c, `io_uring_cancel_generic` and `io_match_task_safe`, `io_should_terminate_tw`.
    pub(super) fn abandon(&self) {
        self.is_orphan.store(true, Ordering::SeqCst);
        let ends = self.look(|req| {
            req.orphan();
            let is_ring = |file: &Arc<FileDescription>| super::ring_of(file).is_some();
            self.sleeps.load(Ordering::SeqCst) || req.file.as_ref().is_some_and(is_ring)
        });
        if ends.unwrap_or_else(|| self.slot.lock().runner.is_some()) {
            let _ = self.cancel();
        } else if self.owner.is_stopped() {
            // It may have been in the list of what the process had to do.
            self.is_queued.store(false, Ordering::SeqCst);
            self.queue();
        }
    }

    /// Whether somebody has the request who gives it back or ends it in a moment, without sleeping.
    fn is_in_hand(&self) -> bool {
        let slot = self.slot.lock();
        slot.req.is_none() && slot.runner.is_none() && !self.is_over.load(Ordering::SeqCst)
    }

    /// Ends the request with `res` if nobody else does.
    pub(super) fn end_with(&self, res: i32) -> bool {
        let Some(req) = self.take() else { return false };
        self.finish(req, res);
        true
    }

    fn finish(&self, req: Box<Request>, res: i32) {
        let Some(ring) = self.ring.upgrade() else { return };
        self.forget(&ring);
        let mut next = run::finish(&ring, req, res, 0);
        while let Some(req) = next.pop_front() {
            if req.is_orphan {
                next.extend(run::refuse_orphan(&ring, req));
            } else {
                // Who cancels may hold locks, and has no descriptors to act with: the owner goes on.
                Start::push(&ring, req);
            }
        }
    }

    /// Something has happened for a request whose thread has ended: a time passes as for any other, a file that is ready
    /// is nobody's any more.
    fn run_orphan(self: &Arc<Self>, cx: &mut Ctx<'_>, ring: &Arc<Ring>, req: Box<Request>) {
        let is_early = || self.slot.lock().deadline.is_some_and(|d| d.at > self.alarms.now(d.clock));
        if req.sqe.opcode == op::TIMEOUT || req.is_timeout() && is_early() {
            return self.expire(cx, ring, req);
        }
        let waits = {
            let slot = self.slot.lock();
            slot.registration.as_ref().zip(slot.mask).map(|((file, _), mask)| (file.clone(), mask))
        };
        let is_ready =
            |file: &FileDescription, mask| file.ops.ready().intersects(mask | Events::ERR | Events::HUP);
        match waits {
            Some((file, mask)) if !is_ready(&file, mask) => {
                self.put(req);
                if is_ready(&file, mask) {
                    self.queue();
                }
            }
            _ => self.finish(req, -ECANCELED.raw()),
        }
    }

    /// The time has come for a timeout.
    fn expire(self: &Arc<Self>, cx: &mut Ctx<'_>, ring: &Arc<Ring>, req: Box<Request>) {
        let (deadline, now) = {
            let Some(deadline) = self.slot.lock().deadline else { return self.put(req) };
            (deadline, self.alarms.now(deadline.clock))
        };
        if deadline.at > now {
            self.slot.lock().req = Some(req);
            return self.set_alarm();
        }
        let time = -ETIME.raw();
        let target = self.target.lock().upgrade();
        if let Some(target) = target {
            if target.is_in_hand() {
                self.put(req);
                std::thread::yield_now();
                return self.queue();
            }
            let res = match target.cancel() {
                Err(e) if !target.is_over.load(Ordering::SeqCst) => -e.raw(),
                // What ended at this very moment was too late too (Linux io_uring/timeout.c, io_req_task_link_timeout).
                _ => time,
            };
            self.forget(ring);
            return run::end(cx, ring, req, res, 0);
        }
        if deadline.interval > 0 && deadline.left != 1 && ring.answer_more(&req, time, 0) {
            let at = deadline.at.saturating_add(deadline.interval);
            let left = deadline.left.saturating_sub(1);
            self.slot.lock().deadline = Some(Deadline { at, left, ..deadline });
            self.put(req);
            return self.set_alarm();
        }
        self.forget(ring);
        run::end(cx, ring, req, time, 0);
    }
}

impl Wake for Pending {
    fn wake(&self, _events: Events) {
        self.queue();
    }
}

impl Alarm for Pending {
    fn ring(&self) {
        self.queue();
    }
}

impl Job for Pending {
    fn run(self: Arc<Self>, cx: &mut Ctx<'_>) {
        self.is_queued.store(false, Ordering::SeqCst);
        let Some(ring) = self.ring.upgrade() else { return };
        let Some(req) = self.take() else {
            // Whoever has it looks when it puts it back; it may have done so already.
            self.again.store(true, Ordering::SeqCst);
            let is_back = self.slot.lock().req.is_some();
            if is_back && self.again.swap(false, Ordering::SeqCst) {
                self.queue();
            }
            return;
        };
        if self.is_orphan.load(Ordering::SeqCst) {
            return self.run_orphan(cx, &ring, req);
        }
        if req.is_timeout() {
            return self.expire(cx, &ring, req);
        }
        run::go_on(cx, &ring, req, Some(self), run::Mode::MustNotSleep);
    }
}

/// Tells an eventfd of work that was kept: whoever keeps it may hold locks.
struct Tell(Arc<Ring>);

impl Job for Tell {
    fn run(self: Arc<Self>, _cx: &mut Ctx<'_>) {
        self.0.tell_eventfd(Origin::Task);
    }
}

/// Requests that may start now.
pub(super) struct Start {
    ring: Arc<Ring>,
    req: Lock<Option<Box<Request>>, { rank::LEAF }>,
}

impl Start {
    /// Has the owner of `req` start it.
    pub(super) fn push(ring: &Arc<Ring>, req: Box<Request>) {
        let owner = req.owner.clone();
        let _ = owner.push(Arc::new(Self { ring: ring.clone(), req: Lock::new(Some(req)) }));
    }
}

impl Job for Start {
    fn run(self: Arc<Self>, cx: &mut Ctx<'_>) {
        let req = self.req.lock().take();
        if let Some(req) = req {
            run::go_on(cx, &self.ring, req, None, run::Mode::MustNotSleep);
        }
    }
}
