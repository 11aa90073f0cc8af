//! Waiting for children (Linux kernel/exit.c, `do_wait`).

use abi::UserAddr;
use abi::errno::{EAGAIN, ECHILD, EFAULT, EINVAL, ESRCH};
use abi::signal::code;
use base::userns::IdKind;
use base::wait::Events;

use super::{Restart, Stop, SysResult};
use crate::kernel::{Kernel, Process, Tree};
use crate::signal::{SIGCHLD, SIGCONT};
use crate::task::block::Registration;
use crate::task::exit::exit_code;
use crate::task::{Ctx, Usage};

const WNOHANG: u32 = 1;
const WSTOPPED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// Whom a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Any,
    Process(i32),
    Group(i32),
}

/// What happened to a child.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// As the caller's PID namespace has it.
    pid: i32,
    uid: u32,
    /// As wait4(2) says it.
    status: i32,
    /// `si_code` and `si_status`.
    code: i32,
    value: i32,
    usage: Usage,
}

fn uid_of(p: &Process) -> u32 {
    p.group.first_thread().map_or(p.uid, |t| t.state.lock().cred.uid)
}

/// What child `id` has to report; `None` when it has nothing, `Err(())` when it never will.
fn report(cx: &Ctx<'_>, tree: &mut Tree, id: i32, options: u32) -> Result<Option<Event>, ()> {
    let kernel: &Kernel = &cx.task.kernel;
    let pid = cx.task.shown_id(id);
    let p = tree.processes.get(&id).ok_or(())?;
    let keep = options & WNOWAIT != 0;
    let uid = uid_of(p);
    let parent = Some(p.parent);
    let tracer = tree.tasks.get(&id).and_then(|t| t.trace.tracer());
    // Who traces it, if that is not its parent, hears of its end first.
    if tree.ended_tracees.contains_key(&id) {
        return Ok(None);
    }
    if let Some(status) = p.zombie {
        if options & WEXITED == 0 {
            return Err(());
        }
        let (code, value) = exit_code(status);
        let usage = kernel.zombie_usage(tree, &p.group.clone());
        if !keep {
            kernel.reap(tree, id, &usage);
        }
        return Ok(Some(Event { pid, uid, status, code, value, usage }));
    }
    let group = p.group.clone();
    let usage = || kernel.group_usage_in(tree, &group);
    let mut signals = group.signals.lock();
    let stop = &mut signals.stop;
    // The process's own tracer sees the stops of its threads instead.
    let is_ours = |t: crate::ptrace::Tracer| Some(t.pid) == parent;
    if tracer.is_some_and(is_ours) {
        return Ok(None);
    }
    if options & WSTOPPED != 0 && stop.stopped && stop.report_stop != 0 {
        let signo = stop.report_stop;
        if !keep {
            stop.report_stop = 0;
        }
        let (status, code) = (signo << 8 | 0x7f, code::CLD_STOPPED);
        return Ok(Some(Event { pid, uid, status, code, value: signo, usage: usage() }));
    }
    if options & WCONTINUED != 0 && stop.report_continue {
        if !keep {
            stop.report_continue = false;
        }
        let (status, code) = (0xffff, code::CLD_CONTINUED);
        return Ok(Some(Event { pid, uid, status, code, value: SIGCONT, usage: usage() }));
    }
    Ok(None)
}

fn is_wanted(p: &Process, pid: i32, whom: Whom, options: u32, tid: i32) -> bool {
    let chosen = match whom {
        Whom::Any => true,
        Whom::Process(id) => pid == id,
        Whom::Group(id) => p.pgid == id,
    };
    let by_clone = p.exit_signal != SIGCHLD;
    let is_traced = p.group.threads().iter().any(|t| t.tid == pid && t.trace.is_traced());
    chosen
        && (options & WALL != 0 || is_traced || p.ended_traced || by_clone == (options & WCLONE != 0))
        && (options & WNOTHREAD == 0 || p.parent_tid == tid)
}

/// Waits for a child to report something; `None` with `WNOHANG` when none has.
fn wait(cx: &mut Ctx<'_>, whom: Whom, options: u32) -> Result<Option<Event>, Stop> {
    let me = cx.task.group.clone();
    let _registration = Registration::new(&me.child_events, cx.task.parker.clone(), Events::IN);
    let found = cx.sleep_until(None, Restart::Sys, |cx| {
        let mut tree = cx.task.kernel.tree.lock();
        let Some(process) = tree.processes.get(&me.pid) else { return Err(ECHILD.into()) };
        let wanted: Vec<i32> = process
            .children
            .iter()
            .copied()
            .filter(|c| tree.processes.get(c).is_some_and(|p| is_wanted(p, *c, whom, options, cx.task.tid)))
            .collect();
        let mut any = false;
        for child in wanted {
            match report(cx, &mut tree, child, options) {
                Ok(Some(event)) => return Ok(Some(Some(event))),
                Ok(None) => any = true,
                Err(()) => {}
            }
        }
        let thread = (options & WNOTHREAD != 0).then_some(cx.task.tid);
        let keep = options & WNOWAIT != 0;
        let wants = |tree: &Tree, tid: i32, process: i32| match whom {
            Whom::Any => true,
            Whom::Process(id) => tid == id,
            Whom::Group(id) => tree.processes.get(&process).is_some_and(|p| p.pgid == id),
        };
        let kernel = cx.task.kernel.clone();
        let exits = options & WEXITED != 0;
        let (report, has_tracees) = kernel.trace_report(&mut tree, &me, thread, exits, keep, wants);
        if let Some(r) = report {
            let usage = Usage::default();
            let (pid, uid, status, code, value) = (r.tid, r.uid, r.status, r.code, r.value);
            return Ok(Some(Some(Event { pid, uid, status, code, value, usage })));
        }
        if !any && !has_tracees {
            return Err(ECHILD.into());
        }
        Ok((options & WNOHANG != 0).then_some(None))
    })?;
    Ok(found.flatten())
}

fn own_group(cx: &Ctx<'_>) -> i32 {
    let tree = cx.task.kernel.tree.lock();
    tree.processes.get(&cx.task.group.pid).map_or(0, |p| p.pgid)
}

/// `wait4(2)`.
pub(super) fn sys_wait4(
    cx: &mut Ctx<'_>,
    pid: i32,
    status: UserAddr,
    options: u32,
    usage: UserAddr,
) -> SysResult {
    if options & !(WNOHANG | WSTOPPED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(EINVAL.into());
    }
    let whom = match pid {
        i32::MIN => return Err(ESRCH.into()),
        -1 => Whom::Any,
        0 => Whom::Group(own_group(cx)),
        p if p < 0 => Whom::Group(cx.task.id_of(-p)),
        p => Whom::Process(cx.task.id_of(p)),
    };
    let Some(event) = wait(cx, whom, options | WEXITED)? else { return Ok(0) };
    if !status.is_null() {
        cx.mm.write_value(status, &event.status)?;
    }
    if !usage.is_null() {
        cx.mm.write_value(usage, &super::system::rusage_words(&event.usage))?;
    }
    Ok(event.pid as u64)
}

/// `waitid(2)`.
pub(super) fn sys_waitid(
    cx: &mut Ctx<'_>,
    which: u32,
    id: i32,
    info: UserAddr,
    options: u32,
    usage: UserAddr,
) -> SysResult {
    let result = waitid(cx, which, id, options);
    let (result, event) = match result {
        Ok(event) => (Ok(0), event),
        Err(stop) => (Err(stop), None),
    };
    if let Some(e) = &event
        && !usage.is_null()
    {
        cx.mm.write_value(usage, &super::system::rusage_words(&e.usage))?;
    }
    if info.is_null() || matches!(result, Err(Stop::Restart(_))) {
        return result;
    }
    // Linux writes these fields whatever happened: zeros when no child had anything to report.
    let (signo, code, pid, uid, value) = event.map_or((0, 0, 0, 0, 0), |e| {
        let uid = cx.cred.user_ns.shown(IdKind::User, e.uid);
        (SIGCHLD, e.code, e.pid, uid as i32, e.value)
    });
    cx.mm.check_range(info, 128).map_err(|_| EFAULT)?;
    cx.mm.write_value(info, &[signo, 0, code])?;
    cx.mm.write_value(info.saturating_add(16), &[pid, uid, value])?;
    result
}

fn waitid(cx: &mut Ctx<'_>, which: u32, id: i32, options: u32) -> Result<Option<Event>, Stop> {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    const KINDS: u32 = WEXITED | WSTOPPED | WCONTINUED;
    if options & !(WNOHANG | WNOWAIT | KINDS | WNOTHREAD | WCLONE | WALL) != 0 || options & KINDS == 0 {
        return Err(EINVAL.into());
    }
    let mut options = options;
    let mut nonblocking = false;
    let whom = match which {
        P_ALL => Whom::Any,
        P_PID if id > 0 => Whom::Process(cx.task.id_of(id)),
        P_PGID if id == 0 => Whom::Group(own_group(cx)),
        P_PGID if id > 0 => Whom::Group(cx.task.id_of(id)),
        P_PIDFD if id >= 0 => {
            let file = cx.file(id)?;
            let pid = crate::task::pidfd::process_of(&file)?;
            if file.is_nonblocking() && options & WNOHANG == 0 {
                options |= WNOHANG;
                nonblocking = true;
            }
            Whom::Process(pid)
        }
        _ => return Err(EINVAL.into()),
    };
    match wait(cx, whom, options)? {
        None if nonblocking => Err(EAGAIN.into()),
        event => Ok(event),
    }
}
