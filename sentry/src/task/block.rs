//! Sleeping: a task's parking place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use abi::Errno;
use abi::errno::{EAGAIN, EINTR};
use base::lock::{Condition, Lock, rank};
use base::wait::{Events, WaitQueue, Wake};
use fs::file::FileDescription;

use super::patience::{AWAKE, Patience};
use super::{Ctx, Phase};
use crate::syscall::{Restart, Stop};

/// A wake-up came, an interrupt came, the thread sleeps.
const WOKEN: u32 = 1;
const INTERRUPTED: u32 = 2;
const ASLEEP: u32 = 4;

/// Where a thread sleeps. Whoever wakes a thread that is not asleep yet asks nothing of the host.
#[derive(Debug, Default)]
pub struct Parker {
    state: AtomicU32,
    patience: Patience,
    sleeping: Lock<(), { rank::LEAF }>,
    changed: Condition,
}

impl Parker {
    /// Ends the sleep because of a signal.
    pub fn interrupt(&self) {
        self.end_sleep(INTERRUPTED);
    }

    fn end_sleep(&self, why: u32) {
        let before = self.state.fetch_or(why, Ordering::SeqCst);
        if before == ASLEEP {
            // The sleeper holds the lock from its last look on until it sleeps.
            drop(self.sleeping.lock());
            self.changed.notify_one();
        }
    }

    /// Forgets earlier wake-ups and interrupts: call it, then check the conditions, then `park`.
    pub fn prepare(&self) {
        self.state.store(0, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.state.load(Ordering::SeqCst) & (WOKEN | INTERRUPTED) != 0
    }

    /// Sleeps until a wake-up, an interrupt, or the limit; returns false when the time ran out.
    pub fn park(&self, limit: Option<Duration>) -> bool {
        if self.is_over() {
            return true;
        }
        AWAKE.fetch_sub(1, Ordering::Relaxed);
        let mut sleeping = self.sleeping.lock();
        let mut is_over = self.state.fetch_or(ASLEEP, Ordering::SeqCst) & (WOKEN | INTERRUPTED) != 0;
        while !is_over {
            let is_late = match limit {
                None => {
                    self.changed.wait(&mut sleeping);
                    false
                }
                Some(limit) => self.changed.wait_for(&mut sleeping, limit),
            };
            is_over = self.is_over();
            if is_late {
                break;
            }
        }
        self.state.fetch_and(!ASLEEP, Ordering::SeqCst);
        drop(sleeping);
        AWAKE.fetch_add(1, Ordering::Relaxed);
        is_over
    }
}

impl Wake for Parker {
    fn wake(&self, _events: Events) {
        self.end_sleep(WOKEN);
    }
}

/// What a call that would have to wait does: one that a ring makes must not hold up the thread that submits it.
#[derive(Debug, Default)]
pub enum Waiting {
    /// It sleeps.
    #[default]
    Sleeps,
    /// It fails with `EAGAIN` and says what it would have waited for.
    Fails(Obstacle),
}

/// What a call would have waited for.
#[derive(Debug, Default)]
pub enum Obstacle {
    /// Nothing: it has an answer.
    #[default]
    None,
    /// These events of this file.
    File(Arc<FileDescription>, Events),
    /// Something else.
    Other,
}

impl Ctx<'_> {
    /// Sleeps until `ready` gives a result, `deadline` (monotonic ns) passes (`Ok(None)`), or a signal comes.
    ///
    /// # Errors
    /// `Stop::Restart(kind)` for a signal.
    pub fn sleep_until<T>(
        &mut self,
        deadline: Option<u64>,
        kind: Restart,
        mut ready: impl FnMut(&mut Self) -> Result<Option<T>, Stop>,
    ) -> Result<Option<T>, Stop> {
        if matches!(self.waiting, Waiting::Fails(_)) {
            if let Some(v) = ready(self)? {
                return Ok(Some(v));
            }
            self.waiting = Waiting::Fails(Obstacle::Other);
            return Err(Stop::Fail(EAGAIN));
        }
        loop {
            self.task.parker.prepare();
            if let Some(v) = ready(self)? {
                return Ok(Some(v));
            }
            if self.has_signal() {
                return Err(Stop::Restart(kind));
            }
            let limit = match deadline {
                None => None,
                Some(d) => {
                    let now = self.monotonic_ns();
                    if now >= d {
                        return Ok(None);
                    }
                    Some(Duration::from_nanos(d - now))
                }
            };
            self.park(limit);
        }
    }

    /// Whether a call waits until `file` is ready. A request of a ring does, whatever the file's flags say.
    pub fn waits_for(&self, file: &FileDescription) -> bool {
        matches!(self.waiting, Waiting::Fails(_)) || !file.is_nonblocking()
    }

    /// Sleeps in the task's parking place: see [`Parker::park`].
    pub fn park(&mut self, limit: Option<Duration>) -> bool {
        crate::signal::async_io::send_due();
        self.release_number();
        self.context.relax();
        self.task.account.enter(Phase::Asleep);
        let parker = &self.task.parker;
        let woken = parker.patience.wait(|| parker.is_over()) || parker.park(limit);
        self.task.account.enter(Phase::Kernel);
        woken
    }

    /// Runs `op`, and while it says `EAGAIN` and the file is blocking, waits for `mask` and runs it again.
    ///
    /// # Errors
    /// Those of `op`; a restart for a signal.
    pub fn blocking<T>(
        &mut self,
        file: &Arc<FileDescription>,
        mask: Events,
        mut op: impl FnMut(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Stop> {
        match op(self) {
            Err(EAGAIN) if self.waits_for(file) => {}
            other => return other.map_err(Stop::from),
        }
        self.blocking_until(file, mask, None, op)
    }

    /// Runs `op`, and while it says `EAGAIN` waits for `mask` and runs it again, until `deadline` (monotonic ns).
    ///
    /// # Errors
    /// Those of `op`; `EAGAIN` when the time ran out; for a signal a restart, or `EINTR` with a deadline, as a socket's
    /// timeouts have it.
    pub fn blocking_until<T>(
        &mut self,
        file: &Arc<FileDescription>,
        mask: Events,
        deadline: Option<u64>,
        mut op: impl FnMut(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Stop> {
        let Some(queue) = file.ops.wait_queue() else { return Err(Stop::Fail(EAGAIN)) };
        if matches!(self.waiting, Waiting::Fails(_)) {
            self.waiting = Waiting::Fails(Obstacle::File(file.clone(), mask));
            return Err(Stop::Fail(EAGAIN));
        }
        let _registration = Registration::new(queue, self.task.parker.clone(), mask);
        let done = self.sleep_until(deadline, Restart::Sys, |cx| match op(cx) {
            Err(EAGAIN) => Ok(None),
            other => other.map(Some).map_err(Stop::from),
        });
        match done {
            Err(Stop::Restart(_)) if deadline.is_some() => Err(Stop::Fail(EINTR)),
            other => other?.ok_or(Stop::Fail(EAGAIN)),
        }
    }
}

/// A waker in a queue, removed when dropped.
pub struct Registration<'a> {
    queue: &'a WaitQueue,
    key: base::wait::WaitKey,
}

impl<'a> Registration<'a> {
    /// Registers `waker` for `mask`.
    pub fn new(queue: &'a WaitQueue, waker: Arc<dyn Wake>, mask: Events) -> Self {
        Self { queue, key: queue.register(waker, mask) }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.queue.unregister(self.key);
    }
}

/// What file systems that programs serve need of tasks.
#[derive(Debug)]
pub struct Servers;

impl fs::fuse::Hooks for Servers {
    fn caller(&self) -> (u32, u32, i32) {
        super::current().map_or((0, 0, 0), |task| {
            let cred = task.cred();
            (cred.fsuid, cred.fsgid, task.group.pid)
        })
    }

    fn sleep(&self, queue: &WaitQueue, is_done: &mut dyn FnMut() -> bool) -> bool {
        let Some(task) = super::current() else { return is_done() };
        let _registration = Registration::new(queue, task.parker.clone(), Events::all());
        crate::signal::async_io::send_due();
        loop {
            task.parker.prepare();
            if is_done() {
                return true;
            }
            if task.must_exit() {
                return false;
            }
            task.account.enter(Phase::Asleep);
            task.parker.park(None);
            task.account.enter(Phase::Kernel);
        }
    }
}
