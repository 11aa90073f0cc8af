//! Memory policies, seals, and what one process does to the memory of another.

use std::sync::Arc;

use abi::errno::{EACCES, EBADF, EFAULT, EINTR, EINVAL, ENODEV, ENOENT, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::{PAGE_SIZE, page_up};

use super::SysResult;
use crate::mm::MemoryManager;
use crate::mm::policy::{NODES, Policy, mode};
use crate::proc::may_attach;
use crate::task::{Ctx, Task, pidfd};

/// What masks may be long at most: bits of a page.
const MASK_MAX: u64 = PAGE_SIZE * 8;
/// Nodes that Linux is built for.
const MAX_NODES: u64 = 1024;
/// `MPOL_MF_*`.
const STRICT: u32 = 1;
const MOVE: u32 = 2;
const MOVE_ALL: u32 = 4;

/// Reads a mask of nodes (`get_nodes`); the numbers of 64 and above are not there.
fn read_nodes(cx: &Ctx<'_>, mask: UserAddr, max: u64) -> Result<u64, Errno> {
    let bits = max.wrapping_sub(1);
    if bits == 0 || mask.is_null() {
        return Ok(0);
    }
    if bits > MASK_MAX {
        return Err(EINVAL);
    }
    let count = usize::try_from(bits.div_ceil(64)).map_err(|_| EINVAL)?;
    let mut words: Vec<u64> = cx.mm.read_array(mask, count)?;
    if let Some(last) = words.last_mut()
        && !bits.is_multiple_of(64)
    {
        *last &= (1 << (bits % 64)) - 1;
    }
    let known = usize::try_from(MAX_NODES / 64).unwrap_or(0);
    if words.iter().skip(known).any(|&w| w != 0) {
        return Err(EINVAL);
    }
    let first = words.first().copied().unwrap_or(0);
    // Nodes that are not there have no effect beside one that is, and alone they are refused like node 63.
    let others = words.iter().skip(1).any(|&w| w != 0);
    Ok(first | if others { 1 << 63 } else { 0 })
}

/// Stores a mask of nodes (`copy_nodes_to_user`).
fn write_nodes(cx: &Ctx<'_>, mask: UserAddr, max: u64, nodes: u64) -> Result<(), Errno> {
    let bytes = max.saturating_sub(1).div_ceil(64).saturating_mul(8);
    if bytes > PAGE_SIZE {
        return Err(EINVAL);
    }
    let mut out = vec![0; usize::try_from(bytes).map_err(|_| EINVAL)?];
    if let Some(first) = out.get_mut(..8) {
        first.copy_from_slice(&nodes.to_le_bytes());
    }
    cx.mm.write_all(mask, &out)
}

/// `set_mempolicy(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: the mode or its flags; `EFAULT`, `EINVAL`: the mask; `EINVAL`: they do not go together.
pub(super) fn sys_set_mempolicy(cx: &mut Ctx<'_>, raw: u32, mask: UserAddr, max: u64) -> SysResult {
    Policy::split(raw)?;
    let nodes = read_nodes(cx, mask, max)?;
    let policy = Policy::new(raw, nodes)?;
    cx.task.attributes.lock().policy = policy;
    Ok(0)
}

/// `get_mempolicy(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: room for no node, flags; `EFAULT`: nothing is mapped at the address; `EINVAL`; `EFAULT`.
pub(super) fn sys_get_mempolicy(
    cx: &mut Ctx<'_>,
    mode_at: UserAddr,
    mask: UserAddr,
    max: u64,
    addr: u64,
    flags: u32,
) -> SysResult {
    const NODE: u32 = 1;
    const ADDR: u32 = 2;
    const MEMS_ALLOWED: u32 = 4;
    if !mask.is_null() && max < 1 || flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
        return Err(EINVAL.into());
    }
    let (shown, nodes) = if flags & MEMS_ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(EINVAL.into());
        }
        (0, NODES)
    } else {
        let policy = if flags & ADDR != 0 {
            cx.mm.policy_at(addr)?
        } else if addr != 0 {
            return Err(EINVAL.into());
        } else {
            cx.task.attributes.lock().policy
        };
        let interleaves =
            policy.is_some_and(|p| matches!(p.mode, mode::INTERLEAVE | mode::WEIGHTED_INTERLEAVE));
        let shown = match flags & (NODE | ADDR) {
            NODE if interleaves => 0,
            NODE => return Err(EINVAL.into()),
            f if f & NODE != 0 => cx.mm.node_of(addr)?,
            _ => policy.map_or(0, |p| p.mode | p.flags).cast_signed(),
        };
        (shown, policy.map_or(0, |p| p.shown_nodes()))
    };
    if !mode_at.is_null() {
        cx.mm.write_value(mode_at, &shown)?;
    }
    if !mask.is_null() {
        write_nodes(cx, mask, max, nodes)?;
    }
    Ok(0)
}

/// A range of whole pages; `None` when it is empty.
fn pages(start: u64, len: u64) -> Result<Option<std::ops::Range<u64>>, Errno> {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    // A length that overflows when rounded is 0 for Linux.
    let end = start.checked_add(page_up(len).unwrap_or(0)).ok_or(EINVAL)?;
    Ok((end > start).then_some(start..end))
}

/// `mbind(2)`. There is nowhere to move pages to.
///
/// # Errors
/// In the order checked: `EINVAL`: the mode; `EFAULT`, `EINVAL`: the mask; `EINVAL`: flags; `EPERM`: `MPOL_MF_MOVE_ALL`;
/// `EINVAL`: the range, or what does not go together; `EFAULT`: something is not mapped.
pub(super) fn sys_mbind(
    cx: &mut Ctx<'_>,
    start: u64,
    len: u64,
    raw: u64,
    mask: UserAddr,
    max: u64,
    flags: u32,
) -> SysResult {
    let raw = raw as u32;
    Policy::split(raw)?;
    let nodes = read_nodes(cx, mask, max)?;
    if flags & !(STRICT | MOVE | MOVE_ALL) != 0 {
        return Err(EINVAL.into());
    }
    if flags & MOVE_ALL != 0 && !cx.cred.has(cap::SYS_NICE) {
        return Err(EPERM.into());
    }
    let Some(range) = pages(start, len)? else { return Ok(0) };
    let policy = Policy::new(raw, nodes)?;
    cx.mm.bind(range, policy)?;
    Ok(0)
}

/// `set_mempolicy_home_node(2)`: the home is node 0 in any case.
///
/// # Errors
/// In the order checked: `EINVAL`: the range, flags, no such node; `EOPNOTSUPP`, `ENOENT`.
pub(super) fn sys_set_mempolicy_home_node(
    cx: &mut Ctx<'_>,
    start: u64,
    len: u64,
    home: u64,
    flags: u64,
) -> SysResult {
    if !start.is_multiple_of(PAGE_SIZE) || flags != 0 || home != 0 {
        return Err(EINVAL.into());
    }
    let Some(range) = pages(start, len)? else { return Ok(0) };
    cx.mm.set_home_node(range)?;
    Ok(0)
}

/// The thread that a call names, if the caller may look at its memory.
fn accessible(cx: &Ctx<'_>, pid: i32) -> Result<Arc<Task>, Errno> {
    if pid == 0 {
        return Ok(cx.task.clone());
    }
    let task = cx.task.find(pid).ok_or(ESRCH)?;
    may_attach(&cx.task, &task)?;
    Ok(task)
}

/// `migrate_pages(2)`: with one node all pages are where they may be.
///
/// # Errors
/// In the order checked: `EFAULT`, `EINVAL`: a mask; `ESRCH`; `EPERM`; `EINVAL`: none of the new nodes is there.
pub(super) fn sys_migrate_pages(
    cx: &mut Ctx<'_>,
    pid: i32,
    max: u64,
    old: UserAddr,
    new: UserAddr,
) -> SysResult {
    read_nodes(cx, old, max)?;
    let to = read_nodes(cx, new, max)?;
    accessible(cx, pid)?;
    if to & !NODES != 0 && !cx.cred.has(cap::SYS_NICE) {
        return Err(EPERM.into());
    }
    if to & NODES == 0 { Err(EINVAL.into()) } else { Ok(0) }
}

/// `move_pages(2)`: tells of pages that they are on node 0, or why not.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EPERM`: `MPOL_MF_MOVE_ALL`; `ESRCH`; `EPERM`; `EFAULT`; `ENODEV`: no such node.
pub(super) fn sys_move_pages(
    cx: &mut Ctx<'_>,
    pid: i32,
    count: u64,
    list: UserAddr,
    nodes: UserAddr,
    status: UserAddr,
    flags: u32,
) -> SysResult {
    if flags & !(MOVE | MOVE_ALL) != 0 {
        return Err(EINVAL.into());
    }
    if flags & MOVE_ALL != 0 && !cx.cred.has(cap::SYS_NICE) {
        return Err(EPERM.into());
    }
    let task = accessible(cx, pid)?;
    let mm: Arc<MemoryManager> = task.mm.lock().clone();
    for i in 0..count {
        let at = |base: UserAddr, size: u64| {
            i.checked_mul(size).and_then(|offset| base.checked_add(offset)).ok_or(EFAULT)
        };
        let addr: u64 = cx.mm.read_value(at(list, 8)?)?;
        if !nodes.is_null() {
            let node: i32 = cx.mm.read_value(at(nodes, 4)?)?;
            if node != 0 {
                return Err(ENODEV.into());
            }
        }
        let found: i32 = match mm.is_present(addr) {
            Ok(true) => 0,
            Ok(false) => -ENOENT.raw(),
            Err(e) => -e.raw(),
        };
        cx.mm.write_value(at(status, 4)?, &found)?;
        if i % 1024 == 1023 && cx.task.must_exit() {
            return Err(EINTR.into());
        }
    }
    Ok(0)
}

/// `mseal(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, the range; `ENOMEM`: something in it is not mapped.
pub(super) fn sys_mseal(cx: &mut Ctx<'_>, start: u64, len: u64, flags: u64) -> SysResult {
    if flags != 0 || !start.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL.into());
    }
    let end = page_up(len).and_then(|len| start.checked_add(len)).ok_or(EINVAL)?;
    if end > start {
        cx.mm.seal(start..end)?;
    }
    Ok(0)
}

/// `process_madvise(2)`: returns the bytes advised.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, too many ranges; `EFAULT`; `EBADF`; `ESRCH`; `EINVAL`: an advice that is not for
/// others; `EPERM`; what madvise(2) gives for the first range.
pub(super) fn sys_process_madvise(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    advice: i32,
    flags: u32,
) -> SysResult {
    const WILLNEED: i32 = 3;
    const COLD: i32 = 20;
    const PAGEOUT: i32 = 21;
    const COLLAPSE: i32 = 25;
    /// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`.
    const SELF: [i32; 2] = [-10000, -10001];
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let ranges = cx.mm.read_iovec(iov, count)?;
    let task = if SELF.contains(&fd) {
        cx.task.clone()
    } else {
        let file = cx.file(fd)?;
        let group = pidfd::group_of(&file)?.clone();
        group.first_thread().ok_or(ESRCH)?
    };
    let mm: Arc<MemoryManager> = task.mm.lock().clone();
    let is_own = Arc::ptr_eq(&mm, &cx.mm);
    if !is_own {
        if task.must_exit() {
            return Err(ESRCH.into());
        }
        may_attach(&cx.task, &task).map_err(|_| EACCES)?;
        if !matches!(advice, WILLNEED | COLD | PAGEOUT | COLLAPSE) {
            return Err(EINVAL.into());
        }
        if !cx.cred.has(cap::SYS_NICE) {
            return Err(EPERM.into());
        }
    }
    let mut done = 0;
    for (addr, len) in ranges {
        match mm.advise(addr.raw(), len, u64::from(advice.cast_unsigned())) {
            Ok(()) => done += len,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `process_mrelease(2)`: what a process that was killed holds is given back by its threads themselves, at once.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EBADF`; `ESRCH`: it has ended; `EINVAL`: nobody killed it.
pub(super) fn sys_process_mrelease(cx: &mut Ctx<'_>, fd: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let file = cx.file(fd)?;
    let group = pidfd::group_of(&file).map_err(|_| EBADF)?;
    let task = group.first_thread().ok_or(ESRCH)?;
    if !task.must_exit() {
        return Err(EINVAL.into());
    }
    for t in group.threads() {
        t.signal_wake();
    }
    Ok(0)
}
