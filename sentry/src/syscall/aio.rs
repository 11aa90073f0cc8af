//! Linux AIO (io_setup(2)): the calls. The contexts are in [`crate::aio`].
//!
//! Source: Linux 6.18 fs/aio.c.

use std::sync::Arc;

use abi::errno::{EBADF, EFAULT, EINPROGRESS, EINTR, EINVAL, ESPIPE};
use abi::mman::{MapFlags, Prot};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::anon::eventfd::EventFd;
use fs::file::FileDescription;
use fs::fuse::Hooks;
use fs::vfs::FileType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::file::check_end;
use super::{Restart, Stop, SysResult, ioprio, range};
use crate::aio::{Context, IoEvent, Poll, Ticket};
use crate::mm::{FileMapping, MapBacking, MapRequest, MapType, VmFlags};
use crate::task::Ctx;
use crate::task::block::{Registration, Servers};

/// `IOCB_CMD_*`.
mod command {
    pub(super) const PREAD: u16 = 0;
    pub(super) const PWRITE: u16 = 1;
    pub(super) const FSYNC: u16 = 2;
    pub(super) const FDSYNC: u16 = 3;
    pub(super) const POLL: u16 = 5;
    pub(super) const PREADV: u16 = 7;
    pub(super) const PWRITEV: u16 = 8;
}

/// `IOCB_FLAG_RESFD`, `IOCB_FLAG_IOPRIO`.
const FLAG_RESFD: u32 = 1;
const FLAG_IOPRIO: u32 = 2;
/// What the kernel stores in `aio_key`.
const KEY: u32 = 0;
/// Where `aio_key` is in a `struct iocb`.
const AT_KEY: u64 = 8;
/// Answers that are copied at once.
const BATCH: u64 = 128;

/// `struct iocb`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    count: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: i32,
}

/// The context that a program names by the address of its ring.
///
/// # Errors
/// `EINVAL`: there is none.
fn find(cx: &Ctx<'_>, context: u64) -> Result<Arc<Context>, Errno> {
    let id: u32 = cx.mm.read_value(UserAddr(context)).map_err(|_| EINVAL)?;
    cx.mm.aio.find(id, context).ok_or(EINVAL)
}

/// `io_setup(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`; `EINVAL`: the place for the context is not 0, or no requests are wanted; what
/// [`Context::new`] and the mapping of the ring give; `EFAULT`: the context cannot be stored.
pub(super) fn sys_io_setup(cx: &mut Ctx<'_>, count: u32, context: UserAddr) -> SysResult {
    let old: u64 = cx.mm.read_value(context)?;
    if old != 0 || count == 0 {
        return Err(EINVAL.into());
    }
    let kernel = &cx.task.kernel;
    let cpus: u32 = kernel.system.cpus.iter().map(|word| word.count_ones()).sum();
    let owner = std::ptr::from_ref(&*cx.mm).addr();
    let made = Context::new(&kernel.memory, &kernel.aio, count, cpus, owner)?;
    let request = MapRequest {
        kind: Some(MapType::Shared),
        backing: MapBacking::File(FileMapping {
            file: Ok(crate::mm::named(made.ring().clone(), b"/[aio] (deleted)")),
            offset: 0,
            readable: true,
            writable: true,
            append_only: false,
            noexec: false,
        }),
        extra: VmFlags::DONTEXPAND,
        ..MapRequest::anonymous(0, made.ring().bytes(), Prot::READ | Prot::WRITE, MapFlags::empty())
    };
    let addr = match cx.mm.map(request) {
        Ok(addr) => addr,
        Err(e) => {
            made.kill();
            return Err(e.into());
        }
    };
    cx.mm.aio.add(&made);
    if let Err(e) = cx.mm.write_value(context, &addr) {
        end(cx, &made);
        return Err(e.into());
    }
    Ok(0)
}

/// Destroys a context; says whether nobody else did.
fn end(cx: &Ctx<'_>, context: &Arc<Context>) -> bool {
    if !context.kill() {
        return false;
    }
    cx.mm.aio.remove(context);
    // Whatever the program has there now goes, as in Linux.
    let _ = cx.mm.unmap(context.addr(), context.ring().bytes());
    true
}

/// `io_destroy(2)`: cancels what waits and waits for what is being carried out.
///
/// # Errors
/// `EINVAL`: there is no such context.
pub(super) fn sys_io_destroy(cx: &mut Ctx<'_>, context: u64) -> SysResult {
    let context = find(cx, context)?;
    if !end(cx, &context) {
        return Err(EINVAL.into());
    }
    Servers.sleep(&context.queue, &mut || context.is_idle());
    Ok(0)
}

/// `io_submit(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative count, no such context; what is wrong with the first request.
pub(super) fn sys_io_submit(cx: &mut Ctx<'_>, context: u64, count: i64, list: UserAddr) -> SysResult {
    let count = u64::try_from(count).map_err(|_| EINVAL)?;
    let context = find(cx, context)?;
    let mut done = 0;
    while done < count.min(context.capacity().into()) {
        let place = list.checked_add(done * 8).ok_or(EFAULT);
        let result = place
            .and_then(|place| cx.mm.read_value::<u64>(place))
            .map_err(Stop::from)
            .and_then(|at| submit_one(cx, &context, UserAddr(at)));
        match result {
            Ok(()) => done += 1,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn submit_one(cx: &mut Ctx<'_>, context: &Arc<Context>, at: UserAddr) -> Result<(), Stop> {
    let iocb: Iocb = cx.mm.read_value(at)?;
    if iocb.reserved != 0 || iocb.count > i64::MAX as u64 {
        return Err(EINVAL.into());
    }
    context.begin()?;
    let result = begin(cx, context, at, &iocb);
    if result.is_err() {
        context.give_up();
    }
    result
}

/// Carries a request out, or has it wait. With an error it has no answer.
fn begin(cx: &mut Ctx<'_>, context: &Arc<Context>, at: UserAddr, iocb: &Iocb) -> Result<(), Stop> {
    let file = cx.open_file(iocb.fd)?;
    let mut ticket = Ticket { obj: at.0, data: iocb.data, eventfd: None };
    if iocb.flags & FLAG_RESFD != 0 {
        let eventfd = cx.open_file(iocb.resfd)?;
        if !eventfd.ops.as_any().is::<EventFd>() {
            return Err(EINVAL.into());
        }
        ticket.eventfd = Some(eventfd);
    }
    cx.mm.write_value(at.checked_add(AT_KEY).ok_or(EFAULT)?, &KEY)?;
    let result = match iocb.opcode {
        command::PREAD | command::PREADV => {
            let (offset, list) = prepare(cx, &file, iocb, false)?;
            read(cx, &file, offset, &list)
        }
        command::PWRITE | command::PWRITEV => {
            let (offset, list) = prepare(cx, &file, iocb, true)?;
            write(cx, &file, offset, &list, iocb.rw_flags)
        }
        command::FSYNC | command::FDSYNC => {
            if iocb.buf != 0 || iocb.offset != 0 || iocb.count != 0 || iocb.rw_flags != 0 {
                return Err(EINVAL.into());
            }
            match file.ops.sync() {
                // It cannot be synchronised.
                Err(EINVAL) => return Err(EINVAL.into()),
                other => other.map(|()| 0).map_err(Stop::from),
            }
        }
        command::POLL => {
            let events = u16::try_from(iocb.buf).map_err(|_| EINVAL)?;
            if iocb.offset != 0 || iocb.count != 0 || iocb.rw_flags != 0 {
                return Err(EINVAL.into());
            }
            let events = Events::from_bits_truncate(events.into());
            return Ok(Poll::start(&cx.task.kernel, context, &file, events, ticket)?);
        }
        _ => return Err(EINVAL.into()),
    };
    let res = match result {
        Ok(n) => n.cast_signed(),
        Err(Stop::Fail(e)) => -i64::from(e.raw()),
        Err(_) => -i64::from(EINTR.raw()),
    };
    context.complete(&ticket, res);
    Ok(())
}

/// What of a request to read or write is checked before it is carried out; returns its offset and its buffers.
///
/// Source: `aio_prep_rw`, `aio_read`, `aio_write`.
fn prepare(
    cx: &Ctx<'_>,
    file: &FileDescription,
    iocb: &Iocb,
    writes: bool,
) -> Result<(u64, Vec<(UserAddr, u64)>), Errno> {
    if iocb.flags & FLAG_IOPRIO != 0 {
        ioprio::check(cx, u32::from(iocb.priority.cast_unsigned()))?;
    }
    range::check_flags(iocb.rw_flags)?;
    if !(if writes { file.is_writable() } else { file.is_readable() }) {
        return Err(EBADF);
    }
    // What can only be read or written one buffer at a time.
    let lacks_vectors = match file.ops.metadata()?.file_type() {
        FileType::Directory => true,
        _ => writes && file.ops.as_any().is::<EventFd>(),
    };
    if lacks_vectors {
        return Err(EINVAL);
    }
    let buf = UserAddr(iocb.buf);
    let list = match iocb.opcode {
        command::PREADV | command::PWRITEV => cx.mm.read_iovec(buf, iocb.count)?,
        _ => vec![(buf, iocb.count)],
    };
    let count = cx.mm.sink_list(&list).map(|sink| base::io::Sink::remaining(&sink) as u64)?;
    let offset = u64::try_from(iocb.offset).map_err(|_| EINVAL)?;
    check_end(offset, count)?;
    Ok((offset, list))
}

/// A file with a position is read at the request's; a socket has none, and other streams do not look at it.
fn read(cx: &mut Ctx<'_>, file: &Arc<FileDescription>, offset: u64, list: &[(UserAddr, u64)]) -> SysResult {
    if file.ops.is_seekable() {
        cx.ask_to_read(file)?;
        let mm = cx.mm.clone();
        let mut sink = mm.sink_list(list)?;
        return Ok(file.read_at(offset, &mut sink)? as u64);
    }
    if offset != 0 && super::sockmsg::as_socket(file).is_some() {
        return Err(ESPIPE.into());
    }
    cx.read_into(file, list)
}

fn write(
    cx: &mut Ctx<'_>,
    file: &Arc<FileDescription>,
    offset: u64,
    list: &[(UserAddr, u64)],
    flags: u32,
) -> SysResult {
    let result = if file.ops.is_seekable() {
        let mm = cx.mm.clone();
        let mut source = mm.source_list(list)?;
        let n = range::write_flagged(cx, file, &mut source, Some(offset), flags)?;
        if n > 0 {
            file.tell(fs::notify::event::MODIFY);
        }
        Ok(n)
    } else if offset != 0 && super::sockmsg::as_socket(file).is_some() {
        Err(ESPIPE.into())
    } else {
        cx.write_from(file, list)
    };
    if flags & range::RWF_SYNCS != 0 && matches!(result, Ok(1..)) {
        let _ = file.ops.sync();
    }
    result
}

/// `io_cancel(2)`: what is cancelled ends with an answer.
///
/// # Errors
/// In the order checked: `EFAULT`; `EINVAL`: no request, no such context, or nothing that could be cancelled; `EINPROGRESS`:
/// it is cancelled.
pub(super) fn sys_io_cancel(
    cx: &mut Ctx<'_>,
    context: u64,
    request: UserAddr,
    _result: UserAddr,
) -> SysResult {
    let key: u32 = cx.mm.read_value(request.checked_add(AT_KEY).ok_or(EFAULT)?)?;
    if key != KEY {
        return Err(EINVAL.into());
    }
    find(cx, context)?.cancel(request.0)?;
    Err(EINPROGRESS.into())
}

/// A timeout in ns. A negative one never ends: in Linux its sum with the time counts as an overflow (`ktime_add_safe`).
fn read_timeout(cx: &Ctx<'_>, at: UserAddr) -> Result<Option<u64>, Errno> {
    if at.is_null() {
        return Ok(None);
    }
    let [sec, nsec]: [i64; 2] = cx.mm.read_value(at)?;
    let ns = sec.saturating_mul(1_000_000_000).saturating_add(nsec);
    Ok(u64::try_from(ns).ok())
}

/// Copies answers to `to`; returns how many. At most `most` are taken.
///
/// # Errors
/// `EFAULT`: not even the first could be stored; `EINVAL`: the context was destroyed.
fn take(cx: &Ctx<'_>, context: &Context, to: UserAddr, most: u64) -> Result<u64, Errno> {
    let (done, result) = loop {
        // The program may write the ring's head meanwhile: what there is, is looked up once.
        let (head, unread) = context.unread();
        let wanted = most.min(unread.into());
        let (mut done, mut result) = (0, Ok(()));
        while done < wanted && result.is_ok() {
            let events = context.answers(u64::from(head) + done, (wanted - done).min(BATCH) as usize);
            let place = to.checked_add(done * size_of::<IoEvent>() as u64).ok_or(EFAULT);
            result = place.and_then(|place| cx.mm.write_all(place, events.as_bytes()));
            if result.is_ok() {
                done += events.len() as u64;
            }
        }
        // No guest memory is touched under a context's lock: it looks afterwards whether the answers are still its own.
        if done == 0 || context.advance(head, done) {
            break (done, result);
        }
        if cx.has_signal() {
            break (0, Ok(()));
        }
    };
    match result {
        Err(e) if done == 0 => Err(e),
        _ if context.is_dead() && done == 0 => Err(EINVAL),
        _ => Ok(done),
    }
}

fn wait(
    cx: &mut Ctx<'_>,
    context: u64,
    min: i64,
    count: i64,
    events: UserAddr,
    timeout: Option<u64>,
) -> SysResult {
    let context = find(cx, context)?;
    if min > count || min < 0 {
        return Err(EINVAL.into());
    }
    let (min, count) = (min.cast_unsigned(), count.cast_unsigned());
    let mut done = take(cx, &context, events, count)?;
    if done >= min || timeout == Some(0) {
        return Ok(done);
    }
    let deadline = timeout.map(|ns| cx.monotonic_ns().saturating_add(ns));
    let _registration = Registration::new(&context.queue, cx.task.parker.clone(), Events::READABLE);
    let waited = cx.sleep_until(deadline, Restart::NoHand, |cx| {
        let to = events.checked_add(done * 32).ok_or(EFAULT)?;
        match take(cx, &context, to, count - done) {
            Ok(n) => done += n,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => return Ok(Some(())),
        }
        Ok((done >= min).then_some(()))
    });
    match waited {
        Err(stop) if done == 0 => Err(stop),
        _ => Ok(done),
    }
}

/// `io_getevents(2)`.
///
/// # Errors
/// In the order checked: `EFAULT`: the timeout; `EINVAL`: no such context, or `min` is negative or more than `count`;
/// `EFAULT`: the answers cannot be stored; `EINTR`.
pub(super) fn sys_io_getevents(
    cx: &mut Ctx<'_>,
    context: u64,
    min: i64,
    count: i64,
    events: UserAddr,
    timeout: UserAddr,
) -> SysResult {
    let timeout = read_timeout(cx, timeout)?;
    match wait(cx, context, min, count, events, timeout) {
        Err(Stop::Restart(_)) => Err(EINTR.into()),
        // Linux asks for signals even if it has not slept.
        Ok(0) if cx.has_signal() => Err(EINTR.into()),
        other => other,
    }
}

/// `io_pgetevents(2)`.
///
/// # Errors
/// As [`sys_io_getevents`]; before the context, `EFAULT` and `EINVAL` for the mask.
pub(super) fn sys_io_pgetevents(
    cx: &mut Ctx<'_>,
    context: u64,
    min: i64,
    count: i64,
    events: UserAddr,
    timeout: UserAddr,
    mask: UserAddr,
) -> SysResult {
    let timeout = read_timeout(cx, timeout)?;
    let [set, size]: [u64; 2] = if mask.is_null() { [0; 2] } else { cx.mm.read_value(mask)? };
    cx.take_mask(UserAddr(set), size)?;
    let result = wait(cx, context, min, count, events, timeout);
    if !cx.has_signal() {
        cx.restore_mask();
        return result;
    }
    // The handler runs before the old mask holds again, even if there are answers.
    match result {
        Ok(0) => Err(Stop::Restart(Restart::NoHand)),
        other => other,
    }
}
