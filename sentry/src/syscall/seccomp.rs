//! seccomp(2), its two options of prctl(2), and what a listener asks of its descriptor.

use std::sync::Arc;

use abi::errno::{EACCES, EBUSY, EFAULT, EINVAL, EOPNOTSUPP, ESRCH};
use abi::{Errno, UserAddr};
use base::bpf::{Instruction, MAX_INSTRUCTIONS, Program};
use base::cred::cap;
use base::wait::Events;

use super::{Restart, Stop, SysResult};
use crate::seccomp::notify::{self, FLAG_CONTINUE, Notifier, Reply};
use crate::seccomp::{Filter, Mode, State, action};
use crate::task::Ctx;
use crate::task::block::Registration;

const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;
const FLAG_SPEC_ALLOW: u64 = 4;
const FLAG_NEW_LISTENER: u64 = 8;
const FLAG_TSYNC_ESRCH: u64 = 16;
const FLAG_WAIT_KILLABLE_RECV: u64 = 32;
const FLAGS: u64 =
    FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_NEW_LISTENER | FLAG_TSYNC_ESRCH | FLAG_WAIT_KILLABLE_RECV;

/// Bytes of `struct seccomp_notif`, `seccomp_notif_resp` and `seccomp_data`.
const NOTIF_SIZE: usize = 80;
const SIZES: [u16; 3] = [NOTIF_SIZE as u16, 24, 64];

/// `seccomp(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: an unknown operation or flag, flags that do not go together; `EFAULT`; `EINVAL`: the
/// length of the program; `EACCES`: neither `no_new_privs` nor `CAP_SYS_ADMIN`; `EFAULT`, `EINVAL`: the program;
/// `EMFILE`; `EINVAL`: strict mode is on; `ESRCH`, or a thread's number: a thread cannot follow; `EBUSY`: there is a
/// listener; `ENOMEM`.
pub(super) fn sys_seccomp(cx: &mut Ctx<'_>, operation: u32, flags: u32, args: UserAddr) -> SysResult {
    const SET_MODE_STRICT: u32 = 0;
    const SET_MODE_FILTER: u32 = 1;
    const GET_ACTION_AVAIL: u32 = 2;
    const GET_NOTIF_SIZES: u32 = 3;
    match operation {
        SET_MODE_STRICT if flags == 0 && args.is_null() => set_strict(cx),
        SET_MODE_FILTER => set_filter(cx, flags.into(), args),
        GET_ACTION_AVAIL if flags == 0 => {
            let wanted: u32 = cx.mm.read_value(args)?;
            if action::ALL.contains(&wanted) { Ok(0) } else { Err(EOPNOTSUPP.into()) }
        }
        GET_NOTIF_SIZES if flags == 0 => {
            cx.mm.write_value(args, &SIZES)?;
            Ok(0)
        }
        _ => Err(EINVAL.into()),
    }
}

/// `PR_SET_SECCOMP`.
pub(super) fn set_mode(cx: &mut Ctx<'_>, mode: u64, program: u64) -> SysResult {
    match mode {
        1 => set_strict(cx),
        2 => set_filter(cx, 0, UserAddr(program)),
        _ => Err(EINVAL.into()),
    }
}

fn set_strict(cx: &mut Ctx<'_>) -> SysResult {
    cx.restrict(State { mode: Mode::Strict, filter: None })?;
    Ok(0)
}

/// `struct sock_fprog` and what it points to.
fn read_program(cx: &Ctx<'_>, args: UserAddr) -> Result<Program, Errno> {
    let [len, list]: [u64; 2] = cx.mm.read_value(args)?;
    let len = usize::from(len as u16);
    if len == 0 || len > MAX_INSTRUCTIONS {
        return Err(EINVAL);
    }
    if !cx.task.attributes.lock().no_new_privs && !cx.cred.has_here(cap::SYS_ADMIN) {
        return Err(EACCES);
    }
    let raw: Vec<[u32; 2]> = cx.mm.read_array(UserAddr(list), len)?;
    let decode = |&[head, k]: &[u32; 2]| Instruction {
        code: head as u16,
        jt: (head >> 16) as u8,
        jf: (head >> 24) as u8,
        k,
    };
    Program::for_calls(raw.iter().map(decode).collect())
}

fn set_filter(cx: &mut Ctx<'_>, flags: u64, args: UserAddr) -> SysResult {
    let tsync = flags & FLAG_TSYNC != 0;
    let listens = flags & FLAG_NEW_LISTENER != 0;
    if flags & !FLAGS != 0
        || (tsync && listens && flags & FLAG_TSYNC_ESRCH == 0)
        || (flags & FLAG_WAIT_KILLABLE_RECV != 0 && !listens)
    {
        return Err(EINVAL.into());
    }
    let program = read_program(cx, args)?;
    let group = cx.task.group.clone();
    // Threads are made under this lock: none escapes.
    let notifier = listens.then(|| Notifier::new(flags & FLAG_WAIT_KILLABLE_RECV != 0));
    let fd = match &notifier {
        Some(n) => Some(cx.install(notify::listener(n.clone()), true)?),
        None => None,
    };
    let done = {
        let signals = group.signals.lock();
        add_filter(cx, &signals.threads, program, flags, notifier)
    };
    match (done, fd) {
        (Ok(0), Some(fd)) => Ok(fd as u64),
        (Ok(tid), None) => Ok(tid),
        (failed, Some(fd)) => {
            drop(cx.files.remove(fd));
            failed
        }
        (failed, None) => failed,
    }
}

/// Adds a filter to the caller and, with `TSYNC`, to `threads`; gives the number of a thread that cannot follow.
fn add_filter(
    cx: &mut Ctx<'_>,
    threads: &[Arc<crate::task::Task>],
    program: Program,
    flags: u64,
    notifier: Option<Arc<Notifier>>,
) -> SysResult {
    let old = cx.task.seccomp.state();
    if old.mode == Mode::Strict {
        return Err(EINVAL.into());
    }
    if notifier.is_some() && old.filter.as_ref().is_some_and(|f| f.has_listener()) {
        return Err(EBUSY.into());
    }
    let others = || threads.iter().filter(|t| !Arc::ptr_eq(t, &cx.task));
    if flags & FLAG_TSYNC != 0
        && let Some(stuck) = others().find(|t| !t.may_take_over(old.filter.as_ref()))
    {
        return if flags & FLAG_TSYNC_ESRCH != 0 { Err(ESRCH.into()) } else { Ok(stuck.shown_tid as u64) };
    }
    let filter = Filter::new(program, old.filter.clone(), notifier, flags & FLAG_LOG != 0)?;
    let state = State { mode: Mode::Filter, filter: Some(filter) };
    if flags & FLAG_TSYNC != 0 {
        let no_new_privs = cx.task.attributes.lock().no_new_privs;
        for t in others() {
            t.seccomp.set(state.clone());
            // It may run where ids are answered without a call.
            t.interrupt();
            if no_new_privs {
                t.attributes.lock().no_new_privs = true;
            }
        }
    }
    cx.restrict(state)?;
    Ok(0)
}

/// What ioctl(2) does on a listener's descriptor.
///
/// # Errors
/// `EINVAL`: an unknown request, bad flags, or a buffer that is not zero; `EFAULT`; `ENOENT`: the caller has gone;
/// `EINPROGRESS`: it was not read, or is decided; `EBADF`, `EMFILE`.
pub(super) fn listener_ioctl(
    cx: &mut Ctx<'_>,
    notifier: &Arc<Notifier>,
    request: u32,
    arg: UserAddr,
) -> SysResult {
    const RECV: u32 = 0xc050_2100;
    const SEND: u32 = 0xc018_2101;
    const ID_VALID: u32 = 0x4008_2102;
    const ID_VALID_WRONG_DIR: u32 = 0x8008_2102;
    const ADDFD: u32 = 0x4018_2103;
    const SET_FLAGS: u32 = 0x4008_2104;
    match request {
        RECV => receive(cx, notifier, arg),
        SEND => {
            let [id, value, rest]: [u64; 3] = cx.mm.read_value(arg)?;
            let (error, flags) = ((rest as u32).cast_signed(), (rest >> 32) as u32);
            let goes_on = flags & FLAG_CONTINUE != 0;
            if flags & !FLAG_CONTINUE != 0 || (goes_on && (error != 0 || value != 0)) {
                return Err(EINVAL.into());
            }
            notifier.reply(id, Reply { value: value.cast_signed(), error, goes_on })?;
            Ok(0)
        }
        ID_VALID | ID_VALID_WRONG_DIR => {
            let id: u64 = cx.mm.read_value(arg)?;
            match notifier.pending(id) {
                Ok(_) => Ok(0),
                Err(_) => Err(abi::errno::ENOENT.into()),
            }
        }
        ADDFD => add_fd(cx, notifier, arg),
        SET_FLAGS => {
            const SYNC_WAKE_UP: u64 = 1;
            if arg.raw() & !SYNC_WAKE_UP != 0 {
                return Err(EINVAL.into());
            }
            notifier.set_flags(arg.raw() as i32);
            Ok(0)
        }
        _ => Err(EINVAL.into()),
    }
}

fn receive(cx: &mut Ctx<'_>, notifier: &Arc<Notifier>, arg: UserAddr) -> SysResult {
    let before: [u8; NOTIF_SIZE] = cx.mm.read_value(arg)?;
    if before != [0; NOTIF_SIZE] {
        return Err(EINVAL.into());
    }
    let got = match notifier.receive()? {
        Some(request) => request,
        None => {
            let _registration = Registration::new(notifier.waiters(), cx.task.parker.clone(), Events::IN);
            let got = cx.sleep_until(None, Restart::Sys, |_| notifier.receive().map_err(Stop::from))?;
            got.ok_or(EFAULT)?
        }
    };
    let mut bytes = got.id.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&cx.task.shown_id(got.task.tid).to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(got.data.iter().flat_map(|w| w.to_ne_bytes()));
    if let Err(e) = cx.mm.write_all(arg, &bytes) {
        notifier.put_back(got.id);
        return Err(e.into());
    }
    Ok(0)
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD`: gives the caller a descriptor.
fn add_fd(cx: &mut Ctx<'_>, notifier: &Arc<Notifier>, arg: UserAddr) -> SysResult {
    const SETFD: u32 = 1;
    const SEND: u32 = 2;
    const O_CLOEXEC: u32 = 0o2_000_000;
    const RLIMIT_NOFILE: usize = 7;
    let [id, source, target]: [u64; 3] = cx.mm.read_value(arg)?;
    let (flags, source) = (source as u32, (source >> 32) as u32);
    let (new_fd, new_flags) = (target as u32, (target >> 32) as u32);
    if flags & !(SETFD | SEND) != 0 || new_flags & !O_CLOEXEC != 0 || (new_fd != 0 && flags & SETFD == 0) {
        return Err(EINVAL.into());
    }
    let file = cx.file(source.cast_signed())?;
    let request = notifier.pending(id)?;
    let files = request.files();
    let limit = request.task.group.rlimits.lock()[RLIMIT_NOFILE].0;
    let cloexec = new_flags & O_CLOEXEC != 0;
    let fd = if flags & SETFD != 0 {
        let former = files.replace(new_fd.cast_signed(), file, cloexec, limit)?;
        if let Some(former) = former {
            files.finish_close(former);
        }
        new_fd.cast_signed()
    } else {
        files.install(file, cloexec, 0, limit)?
    };
    if flags & SEND != 0 {
        notifier.reply(id, Reply { value: fd.into(), error: 0, goes_on: false })?;
    }
    Ok(fd as u64)
}
