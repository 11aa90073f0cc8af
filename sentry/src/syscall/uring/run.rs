//! Carrying requests out: attempts, waiting, ends, and what is linked.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::errno::{EAGAIN, ECANCELED, EFAULT, EINTR};
use abi::io_uring::{cqe, op, sqe};
use base::wait::Events;
use fs::file::FileDescription;

use super::net;
use super::ops::{self, Outcome};
use super::owner::Owner;
use super::pending::{Pending, Start};
use super::request::{Data, Request};
use super::ring::{Origin, Ring};
use crate::syscall::Stop;
use crate::task::Ctx;
use crate::task::block::{Obstacle, Waiting};

/// Whether the thread that carries a request out may sleep for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    MustNotSleep,
    MaySleep,
}

/// What an attempt has led to.
enum Attempt {
    Done(i32, u32),
    WaitFor(Arc<FileDescription>, Events),
    /// Until its time, or for good.
    Wait,
    /// Again on a thread that may sleep.
    Sleep,
}

/// Carries `req` out as far as that goes, and then what is linked to it. `pending` is its place if it has waited.
pub(super) fn go_on(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: Box<Request>,
    pending: Option<Arc<Pending>>,
    mode: Mode,
) {
    let owner = req.owner.clone();
    let ready = advance(cx, ring, req, pending, mode);
    start(cx, ring, &owner, ready);
}

/// Starts requests. Those of others, with whom the ring is shared, need another address space and other descriptors than
/// `cx` has, which are those of `owner`.
fn start(cx: &mut Ctx<'_>, ring: &Arc<Ring>, owner: &Arc<Owner>, mut ready: VecDeque<Box<Request>>) {
    while let Some(req) = ready.pop_front() {
        if req.is_orphan {
            ready.extend(refuse_orphan(ring, req));
        } else if Arc::ptr_eq(&req.owner, owner) {
            ready.extend(advance(cx, ring, req, None, Mode::MustNotSleep));
        } else {
            Start::push(ring, req);
        }
    }
}

/// Ends a request that could start now, but whose thread has ended; returns those that may start then.
///
/// Source: Linux 6.12 io_uring/io_uring.c, `io_req_task_submit`.
pub(super) fn refuse_orphan(ring: &Arc<Ring>, req: Box<Request>) -> VecDeque<Box<Request>> {
    finish(ring, req, -EFAULT.raw(), 0)
}

/// Ends a request with `res` and starts what may start then.
pub(super) fn end(cx: &mut Ctx<'_>, ring: &Arc<Ring>, req: Box<Request>, res: i32, flags: u32) {
    let owner = req.owner.clone();
    let ready = finish(ring, req, res, flags);
    start(cx, ring, &owner, ready);
}

fn advance(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    mut req: Box<Request>,
    pending: Option<Arc<Pending>>,
    mode: Mode,
) -> VecDeque<Box<Request>> {
    req.leave_kept();
    if mode == Mode::MaySleep || pending.is_some() && req.has(sqe::ASYNC) {
        req.origin = Origin::Worker;
    }
    if req.waits_first {
        // IOSQE_ASYNC: not by the thread that submits.
        req.waits_first = false;
        let owner = req.owner.clone();
        // It counts before somebody looks whether there is anything to serve.
        let pending = Pending::new(cx, ring, &req);
        owner.serve(&cx.task);
        pending.wait_until(req, None);
        pending.hand_over();
        return VecDeque::new();
    }
    let attempt = attempt(cx, ring, &mut req, pending.as_ref(), mode);
    let (res, flags) = match attempt {
        Attempt::Done(res, flags) => {
            if let Some(pending) = &pending {
                pending.wake_up();
                pending.forget(ring);
            }
            return finish(ring, req, res, flags);
        }
        Attempt::WaitFor(file, mask) => (Some((file, mask)), mode),
        Attempt::Wait => (None, Mode::MustNotSleep),
        Attempt::Sleep => (None, Mode::MaySleep),
    };
    let had_place = pending.is_some();
    let pending = pending.unwrap_or_else(|| Pending::new(cx, ring, &req));
    pending.wake_up();
    req.owner.serve(&cx.task);
    arm_linked_timeout(cx, ring, &mut req, &pending);
    match (res, flags) {
        (Some((file, mask)), _) => {
            // A poll for many events tells of changes only.
            let looks = !(had_place && req.sqe.opcode == op::POLL_ADD);
            pending.wait_for(req, &file, mask, looks);
        }
        (None, Mode::MaySleep) => pending.sleep(req, cx),
        (None, Mode::MustNotSleep) => {
            let (deadline, count) = match &req.data {
                Data::Deadline(deadline) => (Some(*deadline), req.sqe.off as u32),
                _ => (None, 0),
            };
            if count > 0 {
                ring.count_down(&pending, count);
            }
            pending.wait_until(req, deadline);
        }
    }
    VecDeque::new()
}

/// A request that waits: the timeout that is linked to it begins.
fn arm_linked_timeout(cx: &Ctx<'_>, ring: &Arc<Ring>, req: &mut Request, target: &Arc<Pending>) {
    if !req.next.as_ref().is_some_and(|n| n.sqe.opcode == op::LINK_TIMEOUT && n.refused.is_none()) {
        return;
    }
    let Some(mut timeout) = req.next.take() else { return };
    req.next = timeout.next.take();
    let Data::Deadline(deadline) = timeout.data else { return };
    let pending = Pending::new(cx, ring, &timeout);
    pending.aim(target);
    req.timeout = Some(pending.clone());
    pending.wait_until(timeout, Some(deadline));
}

fn attempt(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    req: &mut Request,
    pending: Option<&Arc<Pending>>,
    mode: Mode,
) -> Attempt {
    if let Some(e) = req.refused {
        return Attempt::Done(-e.raw(), 0);
    }
    let own_cred = std::mem::replace(&mut cx.cred, req.cred.clone());
    cx.waiting = match mode {
        Mode::MustNotSleep => Waiting::Fails(Obstacle::None),
        Mode::MaySleep => Waiting::Sleeps,
    };
    let result = ops::perform(cx, ring, req, pending.is_some(), mode);
    let waiting = std::mem::take(&mut cx.waiting);
    cx.cred = own_cred;
    let done = |req: &mut Request, res: i32, flags: u32| {
        let chosen = req.selected.take();
        let flags = match chosen {
            // The end of a connection takes no buffer (Linux io_uring/net.c, `io_recv`); that of a file does.
            Some(buffer) if res > 0 || res == 0 && !ops::receives(req) => {
                flags | cqe::BUFFER | u32::from(buffer.id) << 16
            }
            Some(buffer) => {
                ring.unselect(buffer);
                flags
            }
            None => flags,
        };
        Attempt::Done(res, flags)
    };
    match result {
        Ok(Outcome::Done(res, flags)) => done(req, res, flags),
        Ok(Outcome::WaitFor(file, mask)) => Attempt::WaitFor(file, mask),
        Ok(Outcome::Wait) => Attempt::Wait,
        Ok(Outcome::Sleep) => Attempt::Sleep,
        Err(Stop::Fail(EAGAIN)) => {
            if let Some(buffer) = req.selected.take() {
                ring.unselect(buffer);
            }
            match waiting {
                Waiting::Fails(Obstacle::File(file, mask)) if !ops::is_impatient(req) => {
                    Attempt::WaitFor(file, mask)
                }
                Waiting::Fails(Obstacle::Other) => Attempt::Sleep,
                _ => Attempt::Done(-EAGAIN.raw(), 0),
            }
        }
        Err(Stop::Fail(e)) => done(req, -e.raw(), 0),
        Err(Stop::Restart(_)) => {
            let e = if pending.is_some_and(|p| p.is_cancelled()) { ECANCELED } else { EINTR };
            done(req, -e.raw(), 0)
        }
        Err(Stop::NoReturn) => done(req, 0, 0),
    }
}

/// Tells how a request has ended; returns those that may start now.
pub(super) fn finish(
    ring: &Arc<Ring>,
    mut req: Box<Request>,
    res: i32,
    flags: u32,
) -> VecDeque<Box<Request>> {
    let failed = ops::has_failed(&req, res);
    if net::has_loan(&req) {
        ring.answer(&req, res, flags | cqe::MORE);
        ring.answer(&req, net::end_of_loan(&req), cqe::NOTIF);
    } else if failed || !req.has(sqe::CQE_SKIP_SUCCESS) || flags & cqe::MORE != 0 {
        ring.answer(&req, res, flags);
    }
    let mut ready = ring.end();
    if let Some(timeout) = req.timeout.take() {
        timeout.end_with(-ECANCELED.raw());
    }
    let mut next = req.next.take();
    // A timeout for a request that has not waited.
    if next.as_ref().is_some_and(|n| n.sqe.opcode == op::LINK_TIMEOUT && n.refused.is_none())
        && let Some(mut timeout) = next.take()
    {
        next = timeout.next.take();
        if timeout.has(sqe::CQE_SKIP_SUCCESS) {
            ready.extend(ring.end());
        } else {
            cancel_one(ring, &timeout, &mut ready);
        }
    }
    if failed && !req.has(sqe::IO_HARDLINK) {
        let skips = req.has(sqe::CQE_SKIP_SUCCESS);
        while let Some(mut linked) = next {
            next = linked.next.take();
            if skips {
                // Linux 6.12 io_uring/timeout.c, `io_fail_links`: silence is passed on.
                linked.sqe.flags |= sqe::CQE_SKIP_SUCCESS;
                ready.extend(ring.end());
            } else {
                cancel_one(ring, &linked, &mut ready);
            }
        }
    } else if let Some(mut linked) = next {
        linked.origin = req.origin;
        ready.push_front(linked);
    }
    ready
}

fn cancel_one(ring: &Arc<Ring>, req: &Request, ready: &mut VecDeque<Box<Request>>) {
    let e = req.refused.unwrap_or(ECANCELED);
    ring.answer(req, -e.raw(), 0);
    ready.extend(ring.end());
}
