//! unshare(2) and setns(2).

use abi::errno::{EBADF, EINVAL, ESRCH};

use super::SysResult;
use crate::ns::change::ALL;
use crate::ns::file::{AnyNamespace, namespace_of};
use crate::proc::may_attach;
use crate::task::clone::flag;
use crate::task::{Ctx, pidfd};

/// `unshare(2)`.
///
/// # Errors
/// [`Ctx::unshare`]'s.
pub(super) fn sys_unshare(cx: &mut Ctx<'_>, flags: u64) -> SysResult {
    cx.unshare(flags)?;
    Ok(0)
}

/// `setns(2)`.
///
/// # Errors
/// In the order checked: `EBADF`; `EINVAL`: the descriptor is of another kind, or the flags do not go with it; `ESRCH`: the
/// process has ended; `EPERM`; and [`Ctx::enter`]'s.
pub(super) fn sys_setns(cx: &mut Ctx<'_>, fd: i32, kinds: u32) -> SysResult {
    let kinds = u64::from(kinds);
    let file = cx.file(fd)?;
    if let Some(ns) = namespace_of(&file) {
        if kinds != 0 && kinds != ns.kind().0 {
            return Err(EINVAL.into());
        }
        let ns = ns.clone();
        cx.enter(vec![ns])?;
        return Ok(0);
    }
    let group = pidfd::group_of(&file).map_err(|e| if e == EBADF { EINVAL } else { e })?;
    if kinds == 0 || kinds & !ALL != 0 {
        return Err(EINVAL.into());
    }
    let task = group.first_thread().ok_or(ESRCH)?;
    may_attach(&cx.task, &task)?;
    let names: [(u64, &str); 8] = [
        (flag::NEWUSER, "user"),
        (flag::NEWNS, "mnt"),
        (flag::NEWUTS, "uts"),
        (flag::NEWIPC, "ipc"),
        (flag::NEWPID, "pid"),
        (flag::NEWCGROUP, "cgroup"),
        (flag::NEWNET, "net"),
        (flag::NEWTIME, "time"),
    ];
    let wanted = names.iter().filter(|(kind, _)| kinds & kind != 0);
    let list = wanted.filter_map(|(_, name)| AnyNamespace::of(&task, name)).collect();
    cx.enter(list)?;
    Ok(0)
}
