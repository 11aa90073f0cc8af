//! Waiting for descriptors: poll, select, epoll; and eventfd.

use std::sync::Arc;

use abi::errno::{EBADF, EFAULT, EINTR, EINVAL};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::anon::epoll::{self, Epoll};
use fs::file::{FileDescription, oflag};

use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

impl Ctx<'_> {
    /// A moment, in monotonic ns, `ns` from now.
    fn deadline_in(&self, ns: u64) -> u64 {
        self.monotonic_ns().saturating_add(ns)
    }

    /// Takes the mask that a call like ppoll(2) sets, if it gives one.
    pub(super) fn take_mask(&mut self, mask: UserAddr, size: u64) -> Result<(), Errno> {
        if mask.is_null() {
            return Ok(());
        }
        if size != 8 {
            return Err(EINVAL);
        }
        let new: u64 = self.mm.read_value(mask)?;
        self.set_temporary_mask(new);
        Ok(())
    }

    /// Ends `take_mask`: unless a signal ended the call, the old mask holds before signals are delivered.
    pub(super) fn end_mask(&mut self, result: &SysResult) {
        let is_interrupted = matches!(result, Err(Stop::Restart(_) | Stop::Fail(EINTR)));
        if !is_interrupted {
            self.restore_mask();
        }
    }

    /// Sleeps until one of `files` has something to tell: `look` counts what is ready.
    fn wait_for_files(
        &mut self,
        files: &[(Option<Arc<FileDescription>>, Events)],
        deadline: Option<u64>,
        kind: Restart,
        mut look: impl FnMut() -> u64,
    ) -> SysResult {
        // Most calls find something at once, or do not wait: no waker is needed then.
        let found = look();
        if found > 0 {
            return Ok(found);
        }
        let parker = self.task.parker.clone();
        let is_polling = deadline.is_some_and(|d| self.monotonic_ns() >= d);
        let registrations: Vec<_> = files
            .iter()
            .filter(|_| !is_polling)
            .filter_map(|(file, wanted)| {
                let queue = file.as_ref()?.ops.wait_queue()?;
                Some(Registration::new(queue, parker.clone(), *wanted))
            })
            .collect();
        let found = self.sleep_until(deadline, kind, |_| {
            let n = look();
            Ok((n > 0).then_some(n))
        })?;
        drop(registrations);
        Ok(found.unwrap_or(0))
    }
}

/// `struct pollfd`: descriptor, wanted events, events found.
fn parse_pollfd(e: &[u8; 8]) -> (i32, Events) {
    let fd = i32::from_le_bytes([e[0], e[1], e[2], e[3]]);
    (fd, Events::from_bits_truncate(u16::from_le_bytes([e[4], e[5]]).into()))
}

fn poll(cx: &mut Ctx<'_>, fds: UserAddr, count: u32, deadline: Option<u64>, kind: Restart) -> SysResult {
    if u64::from(count) > cx.fd_limit() {
        return Err(EINVAL.into());
    }
    let mut list: Vec<[u8; 8]> = cx.mm.read_array(fds, count as usize)?;
    let files: Vec<_> = list
        .iter()
        .map(|e| {
            let (fd, wanted) = parse_pollfd(e);
            (cx.open_file(fd).ok(), wanted)
        })
        .collect();
    let found = cx.wait_for_files(&files, deadline, kind, || {
        let mut n = 0u64;
        for ((file, wanted), entry) in files.iter().zip(list.iter_mut()) {
            let found = match file {
                _ if parse_pollfd(entry).0 < 0 => Events::empty(),
                None => Events::NVAL,
                Some(f) => f.ops.ready() & (*wanted | Events::ERR | Events::HUP),
            };
            entry[6..8].copy_from_slice(&(found.bits() as u16).to_le_bytes());
            n += u64::from(!found.is_empty());
        }
        n
    })?;
    for (i, e) in list.iter().enumerate() {
        let at = fds.checked_add(i as u64 * 8 + 6).ok_or(EFAULT)?;
        cx.mm.write_value(at, &[e[6], e[7]])?;
    }
    Ok(found)
}

/// `poll(2)`.
pub(super) fn sys_poll(cx: &mut Ctx<'_>, fds: UserAddr, count: u32, timeout_ms: i32) -> SysResult {
    let limit = u64::try_from(timeout_ms).ok().map(|ms| cx.deadline_in(ms * 1_000_000));
    let limit = cx.restart_deadline.take().or(limit);
    let result = poll(cx, fds, count, limit, Restart::Block);
    if matches!(result, Err(Stop::Restart(Restart::Block))) {
        cx.restart_deadline = limit;
    }
    result
}

/// What is left until `deadline`, as seconds and ns.
fn rest(cx: &Ctx<'_>, deadline: u64) -> (u64, u64) {
    let left = deadline.saturating_sub(cx.monotonic_ns());
    (left / 1_000_000_000, left % 1_000_000_000)
}

/// Where the time that is left is stored when a call ends.
///
/// Source: Linux 6.12 fs/select.c, `poll_select_finish`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RestAs {
    Timespec,
    Timeval,
}

/// personality(2): the time that is left is not stored.
const STICKY_TIMEOUTS: u32 = 0x400_0000;

fn finish(
    cx: &mut Ctx<'_>,
    at: UserAddr,
    limit: Option<(u64, u64)>,
    unit: RestAs,
    result: SysResult,
) -> SysResult {
    cx.end_mask(&result);
    if cx.task.attributes.lock().personality & STICKY_TIMEOUTS != 0 {
        return match result {
            Err(Stop::Restart(Restart::NoHand)) => Err(EINTR.into()),
            other => other,
        };
    }
    // A timeout of zero is not written back.
    let Some((_, deadline)) = limit.filter(|l| l.0 > 0) else { return result };
    let (sec, nsec) = rest(cx, deadline);
    let small = if unit == RestAs::Timeval { nsec / 1000 } else { nsec };
    match (cx.mm.write_value(at, &[sec, small]), result) {
        (Err(_), Err(Stop::Restart(Restart::NoHand))) => Err(EINTR.into()),
        (_, result) => result,
    }
}

/// `ppoll(2)`.
pub(super) fn sys_ppoll(
    cx: &mut Ctx<'_>,
    fds: UserAddr,
    count: u32,
    timeout: UserAddr,
    mask: UserAddr,
    size: u64,
) -> SysResult {
    let limit = super::time::timeout(cx, timeout)?.map(|ns| (ns, cx.deadline_in(ns)));
    cx.take_mask(mask, size)?;
    let result = poll(cx, fds, count, limit.map(|l| l.1), Restart::NoHand);
    finish(cx, timeout, limit, RestAs::Timespec, result)
}

/// Linux 6.12 fs/select.c: what select's three sets mean (`POLLIN_SET`, `POLLOUT_SET`, `POLLEX_SET`).
const SELECT: [Events; 3] = [
    Events::READABLE.union(Events::RDBAND).union(Events::HUP).union(Events::ERR),
    Events::WRITABLE.union(Events::WRBAND).union(Events::ERR),
    Events::PRI,
];

fn select(cx: &mut Ctx<'_>, count: i32, sets: [UserAddr; 3], deadline: Option<u64>) -> SysResult {
    let count = usize::try_from(count).map_err(|_| EINVAL)?.min(cx.files.capacity());
    let words = count.div_ceil(64);
    let mut asked: [Vec<u64>; 3] = Default::default();
    for (words_of, at) in asked.iter_mut().zip(sets) {
        *words_of = if at.is_null() { vec![0; words] } else { cx.mm.read_array(at, words)? };
    }
    let has = |set: &[u64], fd: usize| set.get(fd / 64).is_some_and(|w| w >> (fd % 64) & 1 != 0);
    let mut numbers = Vec::new();
    let mut files = Vec::new();
    for fd in 0..count {
        let mut wanted = Events::empty();
        for (set, events) in asked.iter().zip(SELECT) {
            if has(set, fd) {
                wanted |= events;
            }
        }
        if !wanted.is_empty() {
            let file = cx.open_file(i32::try_from(fd).map_err(|_| EBADF)?)?;
            numbers.push(fd);
            files.push((Some(file), wanted));
        }
    }
    let mut found: [Vec<u64>; 3] = std::array::from_fn(|_| vec![0; words]);
    let total = cx.wait_for_files(&files, deadline, Restart::NoHand, || {
        let mut n = 0;
        for (&fd, (file, _)) in numbers.iter().zip(&files) {
            let ready = file.as_ref().map_or(Events::empty(), |f| f.ops.ready());
            for ((out, set), events) in found.iter_mut().zip(&asked).zip(SELECT) {
                if has(set, fd)
                    && ready.intersects(events)
                    && let Some(word) = out.get_mut(fd / 64)
                {
                    *word |= 1 << (fd % 64);
                    n += 1;
                }
            }
        }
        n
    })?;
    for (set, at) in found.iter().zip(sets) {
        if !at.is_null() {
            let bytes: Vec<u8> = set.iter().flat_map(|w| w.to_le_bytes()).collect();
            cx.mm.write_all(at, &bytes)?;
        }
    }
    Ok(total)
}

/// `select(2)`.
pub(super) fn sys_select(
    cx: &mut Ctx<'_>,
    count: i32,
    read: UserAddr,
    write: UserAddr,
    except: UserAddr,
    timeout: UserAddr,
) -> SysResult {
    let limit = if timeout.is_null() {
        None
    } else {
        let [sec, usec]: [i64; 2] = cx.mm.read_value(timeout)?;
        let sec = sec.checked_add(usec / 1_000_000).ok_or(EINVAL)?;
        if sec < 0 || usec < 0 {
            return Err(EINVAL.into());
        }
        let ns = (sec as u64).saturating_mul(1_000_000_000).saturating_add((usec % 1_000_000) as u64 * 1000);
        Some((ns, cx.deadline_in(ns)))
    };
    let result = select(cx, count, [read, write, except], limit.map(|l| l.1));
    finish(cx, timeout, limit, RestAs::Timeval, result)
}

/// `pselect6(2)`.
pub(super) fn sys_pselect6(
    cx: &mut Ctx<'_>,
    count: i32,
    read: UserAddr,
    write: UserAddr,
    except: UserAddr,
    timeout: UserAddr,
    mask: UserAddr,
) -> SysResult {
    let (mask, size) = if mask.is_null() {
        (UserAddr::NULL, 8)
    } else {
        let [at, size]: [u64; 2] = cx.mm.read_value(mask)?;
        (UserAddr(at), size)
    };
    let limit = super::time::timeout(cx, timeout)?.map(|ns| (ns, cx.deadline_in(ns)));
    cx.take_mask(mask, size)?;
    let result = select(cx, count, [read, write, except], limit.map(|l| l.1));
    finish(cx, timeout, limit, RestAs::Timespec, result)
}

/// `epoll_create1(2)`.
pub(super) fn sys_epoll_create1(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    if flags & !oflag::CLOEXEC != 0 {
        return Err(EINVAL.into());
    }
    Ok(cx.install(epoll::new(), flags & oflag::CLOEXEC != 0)? as u64)
}

/// `epoll_create(2)`.
pub(super) fn sys_epoll_create(cx: &mut Ctx<'_>, size: i32) -> SysResult {
    if size <= 0 {
        return Err(EINVAL.into());
    }
    sys_epoll_create1(cx, 0)
}

/// `epoll_ctl(2)`.
pub(super) fn sys_epoll_ctl(cx: &mut Ctx<'_>, epfd: i32, op: u32, fd: i32, event: UserAddr) -> SysResult {
    const DEL: u32 = 2;
    // struct epoll_event is packed: u32 events, u64 data.
    let event = if op == DEL { [0; 3] } else { cx.mm.read_value(event)? };
    control_epoll(cx, epfd, op, fd, event)
}

/// `epoll_ctl(2)` with a `struct epoll_event` that was copied in.
pub(super) fn control_epoll(cx: &Ctx<'_>, epfd: i32, op: u32, fd: i32, event: [u32; 3]) -> SysResult {
    const ADD: u32 = 1;
    const DEL: u32 = 2;
    const MOD: u32 = 3;
    let [events, low, high] = event;
    let data = u64::from(low) | u64::from(high) << 32;
    let ep_file = cx.open_file(epfd)?;
    let file = cx.open_file(fd)?;
    if file.ops.wait_queue().is_none() {
        return Err(abi::errno::EPERM.into());
    }
    let ep = ep_file.ops.as_any().downcast_ref::<Epoll>().ok_or(EINVAL)?;
    match op {
        ADD => ep.add(fd, &file, events, data)?,
        DEL => ep.delete(fd, &file)?,
        MOD => ep.modify(fd, &file, events, data)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

fn epoll_wait(cx: &mut Ctx<'_>, epfd: i32, buf: UserAddr, max: i32, limit: Option<u64>) -> SysResult {
    const MAX_EVENTS: i32 = i32::MAX / 12;
    if max <= 0 || max > MAX_EVENTS {
        return Err(EINVAL.into());
    }
    let max = max as usize;
    cx.mm.check_range(buf, max as u64 * 12)?;
    let file = cx.open_file(epfd)?;
    let ep = file.ops.as_any().downcast_ref::<Epoll>().ok_or(EINVAL)?;
    let mm = cx.mm.clone();
    let collect = || {
        let mut at = buf;
        let mut failed = false;
        let n = ep.collect(max, &mut |events, data| {
            let entry = [events, data as u32, (data >> 32) as u32];
            failed = mm.write_value(at, &entry).is_err();
            at = at.saturating_add(12);
            !failed
        });
        if failed && n == 0 { Err(EFAULT) } else { Ok(n as u64) }
    };
    let n = collect()?;
    if n > 0 || limit == Some(0) {
        return Ok(n);
    }
    let deadline = limit.map(|ns| cx.deadline_in(ns));
    let registration =
        file.ops.wait_queue().map(|q| Registration::new(q, cx.task.parker.clone(), Events::READABLE));
    let result = cx.sleep_until(deadline, Restart::Sys, |_| {
        let n = collect()?;
        Ok((n > 0).then_some(n))
    });
    drop(registration);
    match result {
        Ok(n) => Ok(n.unwrap_or(0)),
        // Never restarted, handler or not (signal(7)).
        Err(Stop::Restart(_)) => Err(EINTR.into()),
        Err(stop) => Err(stop),
    }
}

fn milliseconds(ms: i32) -> Option<u64> {
    u64::try_from(ms).ok().map(|ms| ms * 1_000_000)
}

/// `epoll_wait(2)`.
pub(super) fn sys_epoll_wait(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: UserAddr,
    max: i32,
    timeout_ms: i32,
) -> SysResult {
    epoll_wait(cx, epfd, events, max, milliseconds(timeout_ms))
}

/// `epoll_pwait(2)`.
pub(super) fn sys_epoll_pwait(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: UserAddr,
    max: i32,
    timeout_ms: i32,
    mask: UserAddr,
    size: u64,
) -> SysResult {
    cx.take_mask(mask, size)?;
    let result = epoll_wait(cx, epfd, events, max, milliseconds(timeout_ms));
    cx.end_mask(&result);
    result
}

/// `epoll_pwait2(2)`.
pub(super) fn sys_epoll_pwait2(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: UserAddr,
    max: i32,
    timeout: UserAddr,
    mask: UserAddr,
    size: u64,
) -> SysResult {
    let limit = super::time::timeout(cx, timeout)?;
    cx.take_mask(mask, size)?;
    let result = epoll_wait(cx, epfd, events, max, limit);
    cx.end_mask(&result);
    result
}

/// `eventfd2(2)`.
pub(super) fn sys_eventfd2(cx: &mut Ctx<'_>, initial: u32, flags: u32) -> SysResult {
    const SEMAPHORE: u32 = 1;
    if flags & !(SEMAPHORE | oflag::CLOEXEC | oflag::NONBLOCK) != 0 {
        return Err(EINVAL.into());
    }
    let semaphore = flags & SEMAPHORE != 0;
    let file = fs::anon::eventfd::new(initial.into(), semaphore, flags & oflag::NONBLOCK);
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

/// `eventfd(2)`.
pub(super) fn sys_eventfd(cx: &mut Ctx<'_>, initial: u32) -> SysResult {
    sys_eventfd2(cx, initial, 0)
}
