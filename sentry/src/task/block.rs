//! Sleeping: a task's parking place.

use std::sync::Arc;
use std::time::Duration;

use abi::Errno;
use abi::errno::{EAGAIN, EINTR};
use base::lock::{Condition, Lock, rank};
use base::wait::{Events, WaitQueue, Wake};
use fs::file::FileDescription;

use super::{Ctx, Phase};
use crate::syscall::{Restart, Stop};

#[derive(Debug, Default)]
struct Flags {
    woken: bool,
    interrupted: bool,
}

/// Where a thread sleeps.
#[derive(Debug, Default)]
pub struct Parker {
    flags: Lock<Flags, { rank::LEAF }>,
    changed: Condition,
}

impl Parker {
    /// Ends the sleep because of a signal.
    pub fn interrupt(&self) {
        self.flags.lock().interrupted = true;
        self.changed.notify_all();
    }

    /// Forgets earlier wake-ups and interrupts: call it, then check the conditions, then `park`.
    pub fn prepare(&self) {
        *self.flags.lock() = Flags::default();
    }

    /// Sleeps until a wake-up, an interrupt, or the limit; returns false when the time ran out.
    pub fn park(&self, limit: Option<Duration>) -> bool {
        let mut flags = self.flags.lock();
        while !flags.woken && !flags.interrupted {
            match limit {
                None => self.changed.wait(&mut flags),
                Some(d) => {
                    if self.changed.wait_for(&mut flags, d) {
                        return flags.woken || flags.interrupted;
                    }
                }
            }
        }
        true
    }
}

impl Wake for Parker {
    fn wake(&self, _events: Events) {
        self.flags.lock().woken = true;
        self.changed.notify_all();
    }
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

    /// Sleeps in the task's parking place: see [`Parker::park`].
    pub fn park(&mut self, limit: Option<Duration>) -> bool {
        crate::signal::async_io::send_due();
        self.context.relax();
        self.task.account.enter(Phase::Asleep);
        let woken = self.task.parker.park(limit);
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
            Err(EAGAIN) if !file.is_nonblocking() => {}
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
