//! io_uring(7): requests and answers in shared memory. The requests are carried out by the same functions as the system
//! calls; none reaches the host.
//!
//! Reading order: this file (the calls); `ring.rs` (the shared memory); `submit.rs` and `prep.rs` (from an entry to a
//! request); `request.rs`; `run.rs` (carrying out, chains); `ops.rs`, `net.rs`, `control.rs` (the operations);
//! `pending.rs` (waiting); `owner.rs` (who goes on with what waited); `sqpoll.rs`; `tables.rs` and `register.rs`.
//!
//! Locks: a request's slot (`WAIT`), and leaves: a ring's state, its tables, an owner's list. No file is called under them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::errno::{EBADF, EBADFD, EBADR, EEXIST, EFAULT, EINTR, EINVAL, EOPNOTSUPP, EOWNERDEAD, ETIME};
use abi::io_uring::{FEATURES, MAX_CQ_ENTRIES, MAX_ENTRIES, Params, enter, setup};
use abi::{Errno, UserAddr};
use base::memmap::Mappable;
use base::wait::{Events, WaitQueue};
use fs::file::{FileDescription, FileOps, Metadata, oflag};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

mod control;
mod net;
mod ops;
mod owner;
mod pending;
mod prep;
mod register;
mod request;
mod ring;
mod run;
mod sqpoll;
mod submit;
mod tables;

pub use owner::{Job, Owner, Owners, leave, leave_all};
pub(super) use register::sys_io_uring_register;
pub use ring::Ring;
use ring::RingPages;

/// How long a polling thread goes on without requests if nobody says otherwise, in ms.
const DEFAULT_IDLE: u32 = 1000;

/// A ring as a file.
#[derive(Debug)]
struct RingFile(Arc<Ring>);

impl FileOps for RingFile {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(fs::anon::anon_metadata())
    }

    fn ready(&self) -> Events {
        self.0.ready()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::new(RingPages(self.0.clone())))
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[io_uring]".to_vec())
    }

    fn fdinfo(&self) -> String {
        self.0.report()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for RingFile {
    /// Nobody can ask for answers any more: what is under way ends.
    fn drop(&mut self) {
        let ring = &self.0;
        ring.is_closed.store(true, Ordering::SeqCst);
        let poller = ring.poller.lock().clone();
        if let Some(poller) = poller {
            poller.end();
        }
        drop(ring.take_deferred());
        for pending in ring.pending() {
            let _ = pending.cancel();
        }
        let tables = std::mem::take(&mut *ring.tables.lock());
        ring.has_eventfd.store(false, Ordering::SeqCst);
        drop(tables);
    }
}

/// The ring that `file` is.
pub fn ring_of(file: &FileDescription) -> Option<&Arc<Ring>> {
    file.ops.as_any().downcast_ref::<RingFile>().map(|f| &f.0)
}

/// `io_uring_setup(2)`.
///
/// Source: Linux 6.12 io_uring/io_uring.c, `io_uring_setup`, `io_uring_create`.
pub(super) fn sys_io_uring_setup(cx: &mut Ctx<'_>, entries: u32, at: UserAddr) -> SysResult {
    let mut params: Params = cx.mm.read_value(at)?;
    check_params(cx, entries, &mut params)?;
    params.features = FEATURES;
    let ring = Ring::new(&cx.task.kernel.memory, &mut params)?;
    if ring.has(setup::SINGLE_ISSUER) && !ring.has(setup::R_DISABLED) {
        ring.issuer.store(cx.task.tid, Ordering::SeqCst);
    }
    if ring.has(setup::SQPOLL) {
        let idle = if params.sq_thread_idle == 0 { DEFAULT_IDLE } else { params.sq_thread_idle };
        sqpoll::Poller::start(cx, &ring, Duration::from_millis(idle.into()))?;
    }
    let file = FileDescription::new(Box::new(RingFile(ring)), None, oflag::RDWR);
    cx.mm.write_value(at, &params)?;
    Ok(cx.install(file, true)? as u64)
}

fn check_params(cx: &Ctx<'_>, entries: u32, params: &mut Params) -> Result<(), Errno> {
    if params.resv != [0; 3] {
        return Err(EINVAL);
    }
    let flags = params.flags;
    let has = |flag: u32| flags & flag != 0;
    if flags & !setup::ALL != 0 || has(setup::REGISTERED_FD_ONLY) && !has(setup::NO_MMAP) {
        return Err(EINVAL);
    }
    if entries == 0 {
        return Err(EINVAL);
    }
    let mut entries = entries;
    if entries > MAX_ENTRIES {
        if !has(setup::CLAMP) {
            return Err(EINVAL);
        }
        entries = MAX_ENTRIES;
    }
    params.sq_entries = entries.next_power_of_two();
    if has(setup::CQSIZE) {
        if params.cq_entries == 0 {
            return Err(EINVAL);
        }
        if params.cq_entries > MAX_CQ_ENTRIES {
            if !has(setup::CLAMP) {
                return Err(EINVAL);
            }
            params.cq_entries = MAX_CQ_ENTRIES;
        }
        params.cq_entries = params.cq_entries.next_power_of_two();
        if params.cq_entries < params.sq_entries {
            return Err(EINVAL);
        }
    } else {
        params.cq_entries = 2 * params.sq_entries;
    }
    if has(setup::DEFER_TASKRUN) && !has(setup::SINGLE_ISSUER) {
        return Err(EINVAL);
    }
    if has(setup::SQPOLL) {
        if flags & (setup::COOP_TASKRUN | setup::TASKRUN_FLAG | setup::DEFER_TASKRUN) != 0 {
            return Err(EINVAL);
        }
    } else if has(setup::TASKRUN_FLAG) && flags & (setup::COOP_TASKRUN | setup::DEFER_TASKRUN) == 0 {
        return Err(EINVAL);
    }
    if has(setup::ATTACH_WQ) {
        let other = cx.file(params.wq_fd.cast_signed()).map_err(|_| abi::errno::ENXIO)?;
        ring_of(&other).ok_or(EINVAL)?;
    }
    if has(setup::SQ_AFF) {
        let cpu = params.sq_thread_cpu as usize;
        let exists = cx.task.kernel.system.cpus.get(cpu / 64).is_some_and(|w| w >> (cpu % 64) & 1 != 0);
        if !has(setup::SQPOLL) || !exists {
            return Err(EINVAL);
        }
    }
    if has(setup::NO_MMAP) {
        return Err(EINVAL);
    }
    Ok(())
}

/// `struct io_uring_getevents_arg`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct ExtArg {
    mask: u64,
    mask_size: u32,
    min_wait_us: u32,
    time: u64,
}

/// How long io_uring_enter(2) waits, and with which mask of signals.
struct Patience {
    mask: UserAddr,
    mask_size: u64,
    /// Of the monotonic clock, ns.
    deadline: Option<u64>,
    /// How long it waits for all that it wants; then one answer is enough. Of the monotonic clock, ns.
    early: Option<u64>,
}

/// The ring that the descriptor of a call names.
///
/// # Errors
/// `EINVAL`, `EBADF`: there is no such registered ring; `EBADF`; `EOPNOTSUPP`: it is no ring.
fn find_ring(cx: &Ctx<'_>, fd: u32, is_registered: bool) -> Result<Arc<FileDescription>, Errno> {
    let file =
        if is_registered { register::registered_ring(cx, fd)? } else { cx.open_file(fd.cast_signed())? };
    if ring_of(&file).is_none() {
        return Err(EOPNOTSUPP);
    }
    Ok(file)
}

/// `io_uring_enter(2)`.
///
/// Source: Linux 6.12 io_uring/io_uring.c.
pub(super) fn sys_io_uring_enter(
    cx: &mut Ctx<'_>,
    fd: u32,
    to_submit: u32,
    min_complete: u32,
    flags: u32,
    arg: UserAddr,
    size: u64,
) -> SysResult {
    const KNOWN: u32 = enter::GETEVENTS
        | enter::SQ_WAKEUP
        | enter::SQ_WAIT
        | enter::EXT_ARG
        | enter::REGISTERED_RING
        | enter::ABS_TIMER;
    if flags & !KNOWN != 0 {
        return Err(EINVAL.into());
    }
    let file = find_ring(cx, fd, flags & enter::REGISTERED_RING != 0)?;
    let ring = ring_of(&file).ok_or(EOPNOTSUPP)?.clone();
    if ring.is_disabled.load(Ordering::SeqCst) {
        return Err(EBADFD.into());
    }
    let mut submitted = 0;
    if ring.has(setup::SQPOLL) {
        let poller = ring.poller.lock().clone();
        let poller = poller.filter(|p| !p.is_gone()).ok_or(EOWNERDEAD)?;
        if flags & enter::SQ_WAKEUP != 0 {
            poller.wake();
        }
        if flags & enter::SQ_WAIT != 0 {
            wait_for_room(cx, &ring)?;
        }
        submitted = to_submit;
    } else if to_submit > 0 {
        let only = ring.has(setup::SINGLE_ISSUER);
        if only
            && ring
                .issuer
                .compare_exchange(0, cx.task.tid, Ordering::SeqCst, Ordering::SeqCst)
                .is_err_and(|t| t != cx.task.tid)
        {
            return Err(EEXIST.into());
        }
        submitted = submit::submit(cx, &ring, to_submit);
        if submitted != to_submit {
            return Ok(submitted.into());
        }
    }
    let mut result = Ok(());
    if flags & enter::GETEVENTS != 0 {
        result = if ring.has(setup::DEFER_TASKRUN) && ring.issuer.load(Ordering::SeqCst) != cx.task.tid {
            Err(Stop::Fail(EEXIST))
        } else {
            wait_for_answers(cx, &ring, min_complete, flags, arg, size)
        };
        if result.is_ok() && ring.take_lost() {
            result = Err(Stop::Fail(EBADR));
        }
    }
    match result {
        Err(stop) if submitted == 0 => Err(stop),
        _ => Ok(submitted.into()),
    }
}

fn wait_for_room(cx: &mut Ctx<'_>, ring: &Arc<Ring>) -> Result<(), Stop> {
    let _registration = Registration::new(&ring.queue, cx.task.parker.clone(), Events::WRITABLE);
    let is_gone = |ring: &Ring| ring.poller.lock().as_ref().is_none_or(|p| p.is_gone());
    let waited = cx.sleep_until(None, Restart::Sys, |_| {
        Ok((ring.waiting_requests() < ring.sq_entries || is_gone(ring)).then_some(()))
    });
    match waited {
        // Linux's io_sqpoll_wait_sq does not tell of signals.
        Err(Stop::Restart(_)) | Ok(_) => Ok(()),
        Err(stop) => Err(stop),
    }
}

/// How long the caller is going to wait.
fn read_patience(cx: &Ctx<'_>, flags: u32, arg: UserAddr, size: u64) -> Result<Patience, Errno> {
    if flags & enter::EXT_ARG == 0 {
        return Ok(Patience { mask: arg, mask_size: size, deadline: None, early: None });
    }
    if size != size_of::<ExtArg>() as u64 {
        return Err(EINVAL);
    }
    let ext: ExtArg = cx.mm.read_value(arg)?;
    let mut deadline = None;
    if ext.time != 0 {
        let [sec, nsec]: [i64; 2] = cx.mm.read_value(UserAddr(ext.time)).map_err(|_| EFAULT)?;
        let time = sec.saturating_mul(1_000_000_000).saturating_add(nsec);
        let time = u64::try_from(time).unwrap_or(0);
        let is_absolute = flags & enter::ABS_TIMER != 0;
        deadline = Some(if is_absolute { time } else { cx.monotonic_ns().saturating_add(time) });
    }
    let wait = u64::from(ext.min_wait_us) * 1000;
    let early = (wait > 0).then(|| cx.monotonic_ns().saturating_add(wait));
    Ok(Patience { mask: UserAddr(ext.mask), mask_size: ext.mask_size.into(), deadline, early })
}

fn wait_for_answers(
    cx: &mut Ctx<'_>,
    ring: &Arc<Ring>,
    wanted: u32,
    flags: u32,
    arg: UserAddr,
    size: u64,
) -> Result<(), Stop> {
    let patience = read_patience(cx, flags, arg, size)?;
    let wanted = wanted.min(ring.cq_entries);
    let owner = Owner::of(cx);
    catch_up(cx, ring, &owner);
    // No file here is polled, so there is never one to poll (Linux's `io_iopoll_check`).
    let polls = ring.has(setup::IOPOLL) && !ring.has(setup::SQPOLL);
    if polls || ring.answers() >= wanted {
        return Ok(());
    }
    if !patience.mask.is_null() {
        if patience.mask_size != 8 {
            return Err(EINVAL.into());
        }
        let mask: u64 = cx.mm.read_value(patience.mask)?;
        cx.set_temporary_mask(mask);
    }
    let times = ring.times();
    let parker = cx.task.parker.clone();
    owner.enter(&parker);
    let registration = Registration::new(&ring.queue, parker.clone(), Events::READABLE);
    let wait = |cx: &mut Ctx<'_>, wanted: u32, deadline: Option<u64>| {
        cx.sleep_until(deadline, Restart::Sys, |cx| {
            catch_up(cx, ring, &owner);
            Ok((ring.answers() >= wanted || ring.times() != times).then_some(()))
        })
    };
    // Linux 6.12 io_uring/io_uring.c, `io_cqring_min_timer_wakeup`.
    let waited = match (patience.early, patience.deadline) {
        (Some(early), Some(deadline)) if early < deadline => match wait(cx, wanted, Some(early)) {
            Ok(None) if ring.answers() == 0 => wait(cx, 1, Some(deadline)),
            other => other,
        },
        (Some(early), _) => wait(cx, wanted, Some(early)),
        (None, deadline) => wait(cx, wanted, deadline),
    };
    drop(registration);
    if owner.leave(&parker) {
        catch_up(cx, ring, &owner);
        owner.serve(&cx.task);
    }
    let result = match waited {
        Ok(Some(())) => Ok(()),
        // What has come is there for the caller to see.
        _ if ring.answers() > 0 => Ok(()),
        Ok(None) => Err(Stop::Fail(ETIME)),
        Err(Stop::Restart(_)) => Err(Stop::Fail(EINTR)),
        Err(stop) => Err(stop),
    };
    if result != Err(Stop::Fail(EINTR)) {
        cx.restore_mask();
    }
    result
}

/// Goes on with what can go on, and moves answers into the ring.
fn catch_up(cx: &mut Ctx<'_>, ring: &Arc<Ring>, owner: &Arc<Owner>) {
    while let Some(job) = ring.next_work() {
        job.run(cx);
    }
    owner.work(cx);
    ring.flush();
}

/// The file that descriptor `fd` names must not be a ring.
fn no_ring(file: &FileDescription) -> Result<(), Errno> {
    if ring_of(file).is_some() { Err(EBADF) } else { Ok(()) }
}
