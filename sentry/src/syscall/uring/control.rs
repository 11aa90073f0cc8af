//! Operations on requests and rings: cancelling, changing polls and timeouts, messages from ring to ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EALREADY, EBADF, EBADFD, ECANCELED, EINVAL, ENOENT};
use abi::io_uring::{Cqe, Sqe, op, sqe};
use fs::file::FileDescription;

use super::ops::Outcome;
use super::pending::Pending;
use super::prep::{
    CANCEL_ALL, CANCEL_ANY, CANCEL_FD, CANCEL_FD_FIXED, CANCEL_OP, CANCEL_USERDATA, LINK_TIMEOUT_UPDATE,
    POLL_EVENTS, POLL_MULTI, POLL_USER_DATA, TIMEOUT_UPDATE,
};
use super::request::{Data, Request};
use super::ring::{Origin, Ring};
use crate::syscall::{Stop, SysResult};
use crate::task::Ctx;

/// What a cancellation looks for.
pub(super) struct Target {
    pub(super) user_data: u64,
    pub(super) flags: u32,
    pub(super) file: Option<Arc<FileDescription>>,
    pub(super) opcode: u8,
}

impl Target {
    fn matches(&self, req: &Request) -> bool {
        if self.flags & CANCEL_ANY != 0 {
            return true;
        }
        if self.flags & CANCEL_FD != 0 {
            let same = |f: &Arc<FileDescription>| req.file.as_ref().is_some_and(|r| Arc::ptr_eq(r, f));
            if !self.file.as_ref().is_some_and(same) {
                return false;
            }
        }
        if self.flags & CANCEL_OP != 0 && req.sqe.opcode != self.opcode {
            return false;
        }
        let by_data = self.flags & (CANCEL_FD | CANCEL_OP) == 0 || self.flags & CANCEL_USERDATA != 0;
        !by_data || req.sqe.user_data == self.user_data
    }
}

/// Cancels what `target` names.
///
/// # Errors
/// `ENOENT`: there is none; `EALREADY`: it is being carried out.
///
/// Source: Linux 6.12 io_uring/cancel.c, `__io_async_cancel`.
pub(super) fn cancel_matching(ring: &Ring, target: &Target) -> Result<u64, Errno> {
    let all = target.flags & (CANCEL_ALL | CANCEL_ANY) != 0;
    let mut count = 0;
    let mut busy = false;
    for pending in ring.pending() {
        // One that somebody has at the moment cannot be looked at: it ends soon, or is found by its owner's next look.
        match pending.look(|req| target.matches(req)) {
            Some(true) => {}
            Some(false) => continue,
            None if target.flags == 0 && pending.user_data() == target.user_data => {}
            None => continue,
        }
        match pending.cancel() {
            Ok(()) if !all => return Ok(0),
            Ok(()) => count += 1,
            Err(_) => busy = true,
        }
    }
    match (all, busy) {
        (true, _) => Ok(count),
        (false, true) => Err(EALREADY),
        (false, false) => Err(ENOENT),
    }
}

/// `ASYNC_CANCEL`.
pub(super) fn cancel(cx: &Ctx<'_>, ring: &Ring, req: &Request) -> SysResult {
    let e = req.sqe;
    let mut file = None;
    if e.op_flags & CANCEL_FD != 0 {
        let is_fixed = req.has(sqe::FIXED_FILE) || e.op_flags & CANCEL_FD_FIXED != 0;
        file = Some(if is_fixed { ring.fixed_file(e.fd)? } else { cx.open_file(e.fd)? });
    }
    let target = Target { user_data: e.addr, flags: e.op_flags, file, opcode: e.len as u8 };
    Ok(cancel_matching(ring, &target)?)
}

fn find(ring: &Ring, user_data: u64, is_it: impl Fn(&Request) -> bool) -> Option<Arc<Pending>> {
    let matches = |p: &Arc<Pending>| p.look(|r| r.sqe.user_data == user_data && is_it(r)) == Some(true);
    ring.pending().into_iter().find(matches)
}

/// `POLL_REMOVE`: ends or changes a poll.
///
/// Source: Linux 6.12 io_uring/poll.c, `io_poll_remove`.
pub(super) fn poll_remove(ring: &Arc<Ring>, e: &Sqe) -> Result<Outcome, Stop> {
    let found = find(ring, e.addr, |r| r.sqe.opcode == op::POLL_ADD).ok_or(ENOENT)?;
    if e.len & (POLL_EVENTS | POLL_USER_DATA) == 0 {
        found.cancel()?;
        return Ok(Outcome::Done(0, 0));
    }
    let changed = found.look(|req| {
        if e.len & POLL_EVENTS != 0 {
            req.sqe.op_flags = e.op_flags;
            req.sqe.len = e.len & POLL_MULTI;
        }
        if e.len & POLL_USER_DATA != 0 {
            req.sqe.user_data = e.off;
        }
    });
    changed.ok_or(EALREADY)?;
    if e.len & POLL_EVENTS != 0 {
        // It is registered for the former events.
        found.disarm();
    }
    // What it asks for now may be there already.
    found.queue();
    Ok(Outcome::Done(0, 0))
}

/// `TIMEOUT_REMOVE`: ends or changes a timeout.
pub(super) fn timeout_remove(ring: &Arc<Ring>, req: &Request) -> SysResult {
    let e = req.sqe;
    let wanted = if e.op_flags & LINK_TIMEOUT_UPDATE != 0 { op::LINK_TIMEOUT } else { op::TIMEOUT };
    let found = find(ring, e.addr, |r| r.sqe.opcode == wanted).ok_or(ENOENT)?;
    if e.op_flags & (TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE) == 0 {
        let ended = found.end_with(-ECANCELED.raw());
        return if ended { Ok(0) } else { Err(EALREADY.into()) };
    }
    let Data::Deadline(deadline) = req.data else { return Err(EINVAL.into()) };
    found.move_deadline(deadline);
    Ok(0)
}

/// `MSG_RING`: an answer in another ring.
///
/// Source: Linux 6.12 io_uring/msg_ring.c.
pub(super) fn message(
    cx: &Ctx<'_>,
    ring: &Arc<Ring>,
    req: &Request,
    file: &Arc<FileDescription>,
) -> SysResult {
    const DATA: u64 = 0;
    const SEND_FD: u64 = 1;
    const CQE_SKIP: u32 = 1;
    const FLAGS_PASS: u32 = 2;
    let e = req.sqe;
    let target = super::ring_of(file).ok_or(EBADFD)?;
    let answer = |res: i32, flags: u32| Cqe { user_data: e.off, res, flags };
    match e.addr {
        DATA => {
            let passes = e.op_flags & FLAGS_PASS != 0;
            if e.addr3 != 0 || e.op_flags & !FLAGS_PASS != 0 || !passes && e.file_index != 0 {
                return Err(EINVAL.into());
            }
            if target.is_disabled.load(Ordering::SeqCst) {
                return Err(EBADFD.into());
            }
            let flags = if passes { e.file_index } else { 0 };
            target.post(answer(e.len.cast_signed(), flags), Origin::Task, true);
            Ok(0)
        }
        SEND_FD => {
            if e.len != 0 || Arc::ptr_eq(target, ring) {
                return Err(EINVAL.into());
            }
            if target.is_disabled.load(Ordering::SeqCst) {
                return Err(EBADFD.into());
            }
            let source = ring.fixed_file(i32::try_from(e.addr3).map_err(|_| EBADF)?)?;
            let placed = target.install_fixed(source, e.file_index)?;
            if e.op_flags & CQE_SKIP == 0 {
                target.post(answer(placed, 0), Origin::Task, true);
            }
            let _ = cx;
            Ok(placed as u64)
        }
        _ => Err(EINVAL.into()),
    }
}
