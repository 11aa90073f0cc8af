//! Resource limits (getrlimit(2); Linux kernel/sys.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EFAULT, EINVAL, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::cap;

use super::SysResult;
use crate::task::{Ctx, ThreadGroup};

const RLIMIT_CPU: usize = 0;
const RLIMIT_DATA: usize = 2;
const RLIMIT_STACK: usize = 3;
const RLIMIT_NOFILE: usize = 7;
const RLIMIT_MEMLOCK: usize = 8;
const RLIMIT_AS: usize = 9;
const RLIM_NLIMITS: usize = 16;

/// The process whose limits the caller may see and set (`check_prlimit_permission`).
fn group_of(cx: &Ctx<'_>, pid: i32) -> Result<Arc<ThreadGroup>, Errno> {
    if pid == 0 {
        return Ok(cx.task.group.clone());
    }
    let task = cx.task.find(pid).ok_or(ESRCH)?;
    let (c, t) = (&cx.cred, task.cred());
    let same = [t.euid, t.suid, t.uid].iter().all(|&id| id == c.uid)
        && [t.egid, t.sgid, t.gid].iter().all(|&id| id == c.gid);
    let mine = Arc::ptr_eq(&task.group, &cx.task.group);
    if mine || same || c.has(cap::SYS_RESOURCE) { Ok(task.group.clone()) } else { Err(EPERM) }
}

fn set_limit(cx: &Ctx<'_>, group: &ThreadGroup, resource: usize, soft: u64, hard: u64) -> Result<(), Errno> {
    if soft > hard {
        return Err(EINVAL);
    }
    if resource == RLIMIT_NOFILE && hard > cx.task.kernel.settings.nr_open.load(Ordering::Relaxed) {
        return Err(EPERM);
    }
    let mut limits = group.rlimits.lock();
    if hard > limits[resource].1 && !cx.cred.has(cap::SYS_RESOURCE) {
        return Err(EPERM);
    }
    limits[resource] = (soft, hard);
    if resource == RLIMIT_CPU && soft != u64::MAX {
        cx.task.kernel.has_cpu_limits.store(true, Ordering::Relaxed);
    }
    let mm = &group.limits;
    match resource {
        RLIMIT_DATA => mm.data.store(soft, Ordering::Relaxed),
        RLIMIT_STACK => mm.stack.store(soft, Ordering::Relaxed),
        RLIMIT_MEMLOCK => mm.memlock.store(soft, Ordering::Relaxed),
        RLIMIT_AS => mm.address_space.store(soft, Ordering::Relaxed),
        _ => {}
    }
    Ok(())
}

/// `prlimit64(2)`.
///
/// # Errors
/// `EINVAL`: no such resource, or the soft limit is above the hard one; `EFAULT`; `ESRCH`; `EPERM`: another user's
/// process, or the hard limit is raised.
pub(super) fn sys_prlimit64(
    cx: &mut Ctx<'_>,
    pid: i32,
    resource: u32,
    new: UserAddr,
    old: UserAddr,
) -> SysResult {
    let resource = resource as usize;
    let wanted: Option<[u64; 2]> = if new.is_null() { None } else { Some(cx.mm.read_value(new)?) };
    let group = group_of(cx, pid)?;
    if resource >= RLIM_NLIMITS {
        return Err(EINVAL.into());
    }
    let before = group.rlimits.lock()[resource];
    if let Some([soft, hard]) = wanted {
        set_limit(cx, &group, resource, soft, hard)?;
    }
    if !old.is_null() {
        cx.mm.write_value(old, &[before.0, before.1])?;
    }
    Ok(0)
}

/// `getrlimit(2)`.
pub(super) fn sys_getrlimit(cx: &mut Ctx<'_>, resource: u32, limit: UserAddr) -> SysResult {
    if resource as usize >= RLIM_NLIMITS {
        return Err(EINVAL.into());
    }
    if limit.is_null() {
        return Err(EFAULT.into());
    }
    sys_prlimit64(cx, 0, resource, UserAddr::NULL, limit)
}

/// `setrlimit(2)`.
pub(super) fn sys_setrlimit(cx: &mut Ctx<'_>, resource: u32, limit: UserAddr) -> SysResult {
    if limit.is_null() {
        return Err(EFAULT.into());
    }
    sys_prlimit64(cx, 0, resource, limit, UserAddr::NULL)
}
