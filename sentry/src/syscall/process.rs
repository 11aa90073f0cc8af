//! Calls that reach into another process: its memory, its descriptors, what it shares.

use std::cmp::Ordering;
use std::sync::Arc;

use abi::errno::{EBADF, EINVAL, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::io::{Sink, Source};

use super::SysResult;
use crate::mm::{MemoryManager, UIO_MAXIOV};
use crate::proc::may_attach;
use crate::task::{Ctx, Task, pidfd};

/// Bytes that are moved between two address spaces at once.
const CHUNK: usize = 64 << 10;

/// The other process's pieces of memory.
///
/// # Errors
/// `EINVAL`: too many, or a length that is negative; `EFAULT`.
fn remote_pieces(cx: &Ctx<'_>, iov: UserAddr, count: u64) -> Result<Vec<[u64; 2]>, Errno> {
    if count > UIO_MAXIOV {
        return Err(EINVAL);
    }
    let list: Vec<[u64; 2]> = cx.mm.read_array(iov, usize::try_from(count).map_err(|_| EINVAL)?)?;
    if list.iter().any(|[_, len]| *len > i64::MAX as u64) { Err(EINVAL) } else { Ok(list) }
}

/// The address space of thread `tid`, if the caller may use it.
///
/// # Errors
/// `ESRCH`, `EPERM`.
fn memory_of(cx: &Ctx<'_>, tid: i32) -> Result<Arc<MemoryManager>, Errno> {
    let task = cx.task.find(tid).ok_or(ESRCH)?;
    if !Arc::ptr_eq(&task.group, &cx.task.group) {
        may_attach(&cx.task, &task)?;
    }
    let mm = task.mm.lock().clone();
    // A thread that ends has given its memory back.
    if task.must_exit() && !Arc::ptr_eq(&mm, &cx.mm) { Err(ESRCH) } else { Ok(mm) }
}

/// `process_vm_readv(2)`: copies from another process's memory; returns the bytes copied.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, or too many pieces; `EFAULT`: a list; `ESRCH`; `EPERM`; `EFAULT`: not even the
/// first byte can be copied.
pub(super) fn sys_process_vm_readv(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: UserAddr,
    local_count: u64,
    remote: UserAddr,
    remote_count: u64,
    flags: u64,
) -> SysResult {
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let mm = cx.mm.clone();
    let mut sink = mm.sink_iovec(local, local_count)?;
    if sink.remaining() == 0 {
        return Ok(0);
    }
    let pieces = remote_pieces(cx, remote, remote_count)?;
    if pieces.iter().all(|[_, len]| *len == 0) {
        return Ok(0);
    }
    let theirs = memory_of(cx, pid)?;
    let mut buf = vec![0; CHUNK.min(sink.remaining())];
    move_pieces(&pieces, |addr, len| {
        let want = len.min(CHUNK).min(sink.remaining());
        let Some(part) = buf.get_mut(..want) else { return Ok((0, true)) };
        let n = theirs.copy_in(UserAddr(addr), part)?;
        let stored = sink.put(&part[..n])?;
        Ok((stored, stored < want || sink.remaining() == 0))
    })
}

/// `process_vm_writev(2)`: copies to another process's memory; returns the bytes copied.
///
/// # Errors
/// As `process_vm_readv`.
pub(super) fn sys_process_vm_writev(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: UserAddr,
    local_count: u64,
    remote: UserAddr,
    remote_count: u64,
    flags: u64,
) -> SysResult {
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let mm = cx.mm.clone();
    let mut source = mm.source_iovec(local, local_count)?;
    if source.remaining() == 0 {
        return Ok(0);
    }
    let pieces = remote_pieces(cx, remote, remote_count)?;
    if pieces.iter().all(|[_, len]| *len == 0) {
        return Ok(0);
    }
    let theirs = memory_of(cx, pid)?;
    let mut buf = vec![0; CHUNK.min(source.remaining())];
    move_pieces(&pieces, |addr, len| {
        let want = len.min(CHUNK).min(source.remaining());
        let Some(part) = buf.get_mut(..want) else { return Ok((0, true)) };
        let n = source.take(part)?;
        let stored = theirs.copy_out(UserAddr(addr), &part[..n])?;
        Ok((stored, stored < want || source.remaining() == 0))
    })
}

/// Calls `step` with address and length of what is left of each piece until it says that this was all.
fn move_pieces(
    pieces: &[[u64; 2]],
    mut step: impl FnMut(u64, usize) -> Result<(usize, bool), Errno>,
) -> SysResult {
    let mut total = 0u64;
    for &[start, len] in pieces {
        let mut done = 0;
        while done < len {
            let left = usize::try_from(len - done).unwrap_or(usize::MAX);
            match step(start.saturating_add(done), left) {
                Err(e) if total == 0 => return Err(e.into()),
                Err(_) => return Ok(total),
                Ok((moved, over)) => {
                    done += moved as u64;
                    total += moved as u64;
                    if over {
                        return Ok(total);
                    }
                }
            }
        }
    }
    Ok(total)
}

/// `kcmp(2)`: compares two kernel objects: 0 when they are the same, else 1 or 2 by an order that has no meaning.
///
/// # Errors
/// In the order checked: `ESRCH`; `EPERM`; `EBADF`: no such descriptor; `EINVAL`: an unknown kind.
pub(super) fn sys_kcmp(
    cx: &mut Ctx<'_>,
    pid1: i32,
    pid2: i32,
    kind: i32,
    index1: u64,
    index2: u64,
) -> SysResult {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    const FS: i32 = 3;
    const SIGHAND: i32 = 4;
    const IO: i32 = 5;
    const SYSVSEM: i32 = 6;
    let (a, b) = (cx.task.find(pid1).ok_or(ESRCH)?, cx.task.find(pid2).ok_or(ESRCH)?);
    for t in [&a, &b] {
        if !Arc::ptr_eq(&t.group, &cx.task.group) {
            may_attach(&cx.task, t)?;
        }
    }
    let file = |t: &Task, index: u64| -> Result<usize, Errno> {
        let files = t.state.lock().files.clone();
        let fd = i32::try_from(index as u32).map_err(|_| EBADF)?;
        files.file(fd).map(|f| Arc::as_ptr(&f).addr())
    };
    let of = |t: &Arc<Task>| -> Option<usize> {
        Some(match kind {
            VM => Arc::as_ptr(&t.mm.lock()).addr(),
            FILES => Arc::as_ptr(&t.state.lock().files).addr(),
            FS => Arc::as_ptr(&t.fs.lock()).addr(),
            SIGHAND => Arc::as_ptr(&t.group.signals.lock().handlers).addr(),
            // What is kept for input and output is the priority, and each thread has its own once it is set.
            IO if t.attributes.lock().io_priority == 0 => 0,
            IO => Arc::as_ptr(t).addr(),
            SYSVSEM => t.sem_undo.lock().as_ref().map_or(0, |u| Arc::as_ptr(u).addr()),
            _ => return None,
        })
    };
    let pair = if kind == FILE {
        (file(&a, index1)?, file(&b, index2)?)
    } else {
        (of(&a).ok_or(EINVAL)?, of(&b).ok_or(EINVAL)?)
    };
    Ok(match pair.0.cmp(&pair.1) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    })
}

/// `pidfd_getfd(2)`: a descriptor for what another process has open.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EBADF`: no descriptor of a process; `ESRCH`: it has ended; `EPERM`; `EBADF`: it
/// has no such descriptor; `EMFILE`.
pub(super) fn sys_pidfd_getfd(cx: &mut Ctx<'_>, fd: i32, target: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let file = cx.file(fd)?;
    let group = pidfd::group_of(&file)?;
    let task = group.first_thread().ok_or(ESRCH)?;
    if !Arc::ptr_eq(&task.group, &cx.task.group) {
        may_attach(&cx.task, &task).map_err(|_| EPERM)?;
    }
    let files = task.state.lock().files.clone();
    let theirs = files.file(target)?;
    Ok(cx.install(theirs, true)? as u64)
}
