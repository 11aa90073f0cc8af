//! Taking requests from a ring.
//!
//! Source: Linux 6.12 io_uring/io_uring.c, `io_submit_sqes`, `io_submit_sqe`, `io_init_req`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, EOPNOTSUPP};
use abi::io_uring::{Sqe, op, setup, sqe};

use super::owner::Owner;
use super::prep;
use super::request::{Counted, Data, Request};
use super::ring::{Origin, Ring};
use super::run::{self, Mode};
use crate::task::Ctx;

/// Takes and starts at most `most` requests; returns how many.
pub(super) fn submit(cx: &mut Ctx<'_>, ring: &Arc<Ring>, most: u32) -> u32 {
    let mut owner: Option<Arc<Owner>> = None;
    let mut chain: Vec<Sqe> = Vec::new();
    let mut taken = 0;
    // What the program adds meanwhile is for the next call.
    let most = most.min(ring.waiting_requests());
    ring.begin_submission();
    while taken < most && ring.has_room() {
        chain.clear();
        let Some(used) = ring.take_chain(most - taken, &mut chain) else { break };
        taken += used;
        let owner = owner.get_or_insert_with(|| Owner::of(cx));
        let all_are_good = start(cx, ring, owner, &chain);
        if !all_are_good && !ring.has(setup::SUBMIT_ALL) {
            break;
        }
    }
    ring.end_submission();
    taken
}

/// Starts the requests of one chain; says whether all were good.
fn start(cx: &mut Ctx<'_>, ring: &Arc<Ring>, owner: &Arc<Owner>, chain: &[Sqe]) -> bool {
    let mut requests: VecDeque<Box<Request>> = VecDeque::with_capacity(chain.len());
    let mut first_error = None;
    for (i, entry) in chain.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chain.get(i)).map(|e| e.opcode);
        let req = new_request(cx, ring, owner, entry, before);
        first_error = first_error.or(req.refused);
        requests.push_back(req);
    }
    if first_error.is_some() && requests.len() > 1 {
        // One that is wrong takes the whole chain with it.
        for req in &mut requests {
            req.refused = req.refused.or(Some(abi::errno::ECANCELED));
        }
    }
    let mut head: Option<Box<Request>> = None;
    while let Some(mut req) = requests.pop_back() {
        req.next = head.take();
        head = Some(req);
    }
    if let Some(head) = head {
        let drains = head.drains();
        if let Some(req) = ring.begin(head, drains) {
            run::go_on(cx, ring, req, None, Mode::MustNotSleep);
        } else {
            owner.note_ring(ring);
            owner.serve(&cx.task);
        }
    }
    first_error.is_none()
}

fn new_request(
    cx: &Ctx<'_>,
    ring: &Arc<Ring>,
    owner: &Arc<Owner>,
    entry: &Sqe,
    before: Option<u8>,
) -> Box<Request> {
    let mut req = Box::new(Request {
        sqe: *entry,
        data: Data::None,
        refused: None,
        owner: owner.clone(),
        tid: if ring.has(setup::SQPOLL) { 0 } else { cx.task.tid },
        is_orphan: false,
        cred: cx.cred.clone(),
        next: None,
        timeout: None,
        origin: Origin::Task,
        file: None,
        done: 0,
        selected: None,
        has_begun: false,
        is_kept: false,
        _counted: Counted::new(&ring.requests),
        waits_first: entry.flags & sqe::ASYNC != 0,
    });
    match check(cx, ring, &mut req, before) {
        Ok(data) => req.data = data,
        Err(e) => {
            req.refused = Some(e);
            req.waits_first = false;
        }
    }
    req
}

fn check(cx: &Ctx<'_>, ring: &Ring, req: &mut Request, before: Option<u8>) -> Result<Data, Errno> {
    let entry = req.sqe;
    if entry.opcode >= op::LAST {
        return Err(EINVAL);
    }
    if entry.flags & !sqe::ALL != 0 {
        return Err(EINVAL);
    }
    let def = prep::def(entry.opcode);
    if entry.flags & sqe::BUFFER_SELECT != 0 && !def.is_some_and(|d| d.selects) {
        return Err(EOPNOTSUPP);
    }
    if entry.flags & sqe::CQE_SKIP_SUCCESS != 0 {
        ring.skips.store(true, Ordering::SeqCst);
    }
    if entry.flags & sqe::IO_DRAIN != 0 && ring.skips.load(Ordering::SeqCst) {
        return Err(EOPNOTSUPP);
    }
    {
        let rules = ring.tables.lock().restrictions;
        if rules.are_set {
            let links = sqe::IO_LINK | sqe::IO_HARDLINK;
            let flags = entry.flags & !links;
            let is_allowed = rules.ops >> entry.opcode & 1 != 0
                && entry.flags & rules.flags_required == rules.flags_required
                && flags & !(rules.flags_allowed | rules.flags_required) == 0;
            if !is_allowed {
                return Err(EACCES);
            }
        }
    }
    let def = def.ok_or(EOPNOTSUPP)?;
    if entry.ioprio != 0 && !def.has_ioprio || ring.has(setup::IOPOLL) && !def.may_poll {
        return Err(EINVAL);
    }
    if entry.personality != 0 {
        let cred = ring.tables.lock().personalities.get(&entry.personality).cloned();
        req.cred = cred.ok_or(EINVAL)?;
    }
    prep::prepare(cx, ring, &entry, before)
}
