//! `IORING_SETUP_SQPOLL`: a thread that takes requests from the ring by itself. After a while without any it sleeps and
//! says so in the ring.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use abi::Errno;
use abi::errno::EAGAIN;
use abi::io_uring::sq;
use base::wait::{Events, Wake};

use super::owner::Owner;
use super::ring::Ring;
use super::submit;
use crate::task::worker;
use crate::task::{Ctx, Parker};

/// How long it sleeps between two looks: longer the longer nothing comes.
const SHORTEST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_micros(200);

/// Such a thread, as others see it.
pub(super) struct Poller {
    owner: Arc<Owner>,
    parker: Arc<Parker>,
    pid: i32,
    is_ended: AtomicBool,
    is_gone: AtomicBool,
}

impl Poller {
    /// Starts one for `ring`; it sleeps after `idle` without requests.
    ///
    /// # Errors
    /// `EAGAIN`: there are too many threads.
    pub(super) fn start(cx: &Ctx<'_>, ring: &Arc<Ring>, idle: Duration) -> Result<(), Errno> {
        let owner = Owner::of(cx);
        owner.note_ring(ring);
        if !owner.add_thread() {
            return Err(EAGAIN);
        }
        let task = worker::task_like(&cx.task);
        let poller = Arc::new(Self {
            owner: owner.clone(),
            parker: task.parker.clone(),
            pid: cx.task.tid,
            is_ended: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        });
        *ring.poller.lock() = Some(poller.clone());
        let (weak, cred) = (Arc::downgrade(ring), cx.cred.clone());
        let started = worker::start(task, move |task| {
            while let (false, Some(place)) = (poller.is_ended.load(Ordering::SeqCst), poller.owner.place()) {
                let goes_on = worker::act(task, place, cred.clone(), |cx| poller.run(cx, &weak, idle));
                if !goes_on {
                    break;
                }
                poller.parker.prepare();
                if !poller.is_ended.load(Ordering::SeqCst) && !has_requests(&weak) {
                    poller.parker.park(None);
                }
                if let Some(ring) = weak.upgrade() {
                    ring.show_flag(sq::NEED_WAKEUP, false);
                }
            }
            poller.is_gone.store(true, Ordering::SeqCst);
            if let Some(ring) = weak.upgrade() {
                ring.queue.notify(Events::all());
            }
            poller.owner.remove_thread();
        });
        if started.is_err() {
            owner.remove_thread();
            *ring.poller.lock() = None;
        }
        started
    }

    /// Takes requests until there were none for a while; says whether there may be more later.
    fn run(&self, cx: &mut Ctx<'_>, ring: &Weak<Ring>, idle: Duration) -> bool {
        let mut last = Instant::now();
        let mut pause = SHORTEST;
        loop {
            let Some(ring) = ring.upgrade() else { return false };
            if self.is_ended.load(Ordering::SeqCst) || ring.is_closed.load(Ordering::SeqCst) {
                return false;
            }
            let is_enabled = !ring.is_disabled.load(Ordering::SeqCst);
            if is_enabled && submit::submit(cx, &ring, ring.sq_entries) > 0 {
                ring.queue.notify(Events::WRITABLE);
                last = Instant::now();
                pause = SHORTEST;
                continue;
            }
            if last.elapsed() >= idle {
                ring.show_flag(sq::NEED_WAKEUP, true);
                return true;
            }
            drop(ring);
            self.parker.prepare();
            if self.is_ended.load(Ordering::SeqCst) {
                return false;
            }
            self.parker.park(Some(pause));
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Makes it look at the ring.
    pub(super) fn wake(&self) {
        self.parker.wake(Events::IN);
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.parker.interrupt();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// What `/proc/PID/fdinfo` shows: its thread and its processor.
    pub(super) fn shown(&self) -> (i32, i32) {
        if self.is_gone() { (-1, -1) } else { (self.pid, 0) }
    }
}

fn has_requests(ring: &Weak<Ring>) -> bool {
    ring.upgrade().is_none_or(|ring| {
        ring.is_closed.load(Ordering::SeqCst)
            || !ring.is_disabled.load(Ordering::SeqCst) && ring.waiting_requests() > 0
    })
}
