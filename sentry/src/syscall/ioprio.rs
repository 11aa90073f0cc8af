//! Priorities for input and output (ioprio_set(2); Linux block/ioprio.c). They are kept and shown: the host schedules.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, EPERM, ESRCH};
use base::cred::cap;

use super::SysResult;
use crate::task::{Ctx, Task};

const CLASS_SHIFT: u32 = 13;
const CLASS_NONE: u32 = 0;
const CLASS_RT: u32 = 1;
const CLASS_BE: u32 = 2;
const CLASS_IDLE: u32 = 3;
const LEVEL_MASK: u32 = 7;

/// The threads that `which` and `who` name.
fn threads(cx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    const WHO_PROCESS: i32 = 1;
    const WHO_PGRP: i32 = 2;
    const WHO_USER: i32 = 3;
    let kernel = &cx.task.kernel;
    let found: Vec<Arc<Task>> = match which {
        WHO_PROCESS if who == 0 => vec![cx.task.clone()],
        WHO_PROCESS => cx.task.find(who).into_iter().collect(),
        WHO_PGRP => {
            let all = kernel.all_tasks();
            let tree = kernel.tree.lock();
            let group_of = |pid: i32| tree.processes.get(&pid).map(|p| p.pgid);
            let pgid = if who == 0 { group_of(cx.task.group.pid) } else { Some(cx.task.id_of(who)) };
            all.into_iter().filter(|t| group_of(t.group.pid) == pgid).collect()
        }
        WHO_USER => {
            let uid = if who == 0 { cx.cred.uid } else { who.cast_unsigned() };
            let sees = |t: &Arc<Task>| t.cred().uid == uid && cx.task.pid_ns().sees(t.tid);
            kernel.all_tasks().into_iter().filter(sees).collect()
        }
        _ => return Err(EINVAL),
    };
    if found.is_empty() { Err(ESRCH) } else { Ok(found) }
}

/// Whether the caller may have `priority`.
///
/// # Errors
/// `EPERM`: a real-time class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`; `EINVAL`: an unknown class, or a level for none.
pub(super) fn check(cx: &Ctx<'_>, priority: u32) -> Result<(), Errno> {
    match priority >> CLASS_SHIFT & LEVEL_MASK {
        CLASS_RT if !cx.cred.has(cap::SYS_ADMIN) && !cx.cred.has(cap::SYS_NICE) => Err(EPERM),
        CLASS_RT | CLASS_BE | CLASS_IDLE => Ok(()),
        CLASS_NONE if priority & LEVEL_MASK == 0 => Ok(()),
        _ => Err(EINVAL),
    }
}

/// `ioprio_set(2)`.
///
/// # Errors
/// In the order checked: `EPERM`: a real-time class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`; `EINVAL`: an unknown class,
/// or a level for none; `EINVAL`: `which`; `ESRCH`; `EPERM`: another user's.
pub(super) fn sys_ioprio_set(cx: &mut Ctx<'_>, which: i32, who: i32, priority: i32) -> SysResult {
    let priority = priority.cast_unsigned();
    check(cx, priority)?;
    for task in threads(cx, which, who)? {
        let them = task.cred();
        let same_user = them.uid == cx.cred.euid || them.uid == cx.cred.uid;
        if !same_user && !cx.cred.has(cap::SYS_NICE) {
            return Err(EPERM.into());
        }
        task.attributes.lock().io_priority = priority;
    }
    Ok(0)
}

/// `ioprio_get(2)`: the best of the threads'; 0 where none was set.
///
/// # Errors
/// `EINVAL`, `ESRCH`.
pub(super) fn sys_ioprio_get(cx: &mut Ctx<'_>, which: i32, who: i32) -> SysResult {
    let best = threads(cx, which, who)?.iter().map(|t| t.attributes.lock().io_priority).min();
    Ok(best.unwrap_or(0).into())
}
