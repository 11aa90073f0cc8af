//! System V shared memory (shmget(2), shmop(2), shmctl(2); Linux ipc/shm.c).

use std::sync::atomic::Ordering;

use abi::errno::{EEXIST, EINVAL, ENOMEM, EPERM};
use abi::mman::{MAP_SHARED, MapFlags};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::{PAGE_SIZE, page_down};

use super::SysResult;
use crate::ipc::shm::{NewSegment, SHM_LOCKED, Segment, ShmOrigin};
use crate::ipc::{Object, Perm};
use crate::mm::{FileMapping, MapBacking, MapRequest};
use crate::task::Ctx;

const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100_000;
const SHM_HUGETLB: u32 = 0o4000;

/// Commands of shmctl, semctl and msgctl alike.
pub(super) const IPC_RMID: u32 = 0;
pub(super) const IPC_SET: u32 = 1;
pub(super) const IPC_STAT: u32 = 2;
pub(super) const IPC_INFO: u32 = 3;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;

/// `shmget(2)`.
///
/// # Errors
/// In the order checked: `ENOMEM`: `SHM_HUGETLB`, as there are no huge pages; then [`crate::ipc::IpcNamespace::shmget`]'s.
pub(super) fn sys_shmget(cx: &mut Ctx<'_>, key: i32, size: u64, flags: u32) -> SysResult {
    if flags & SHM_HUGETLB != 0 {
        return Err(ENOMEM.into());
    }
    let kernel = &cx.task.kernel;
    let new = NewSegment {
        key,
        size,
        flags,
        cred: &cx.cred,
        pid: cx.task.group.pid,
        total_memory: kernel.system.total_memory,
    };
    Ok(cx.task.ipc().shmget(&new, &kernel.memory, &kernel.time)? as u64)
}

/// `shmat(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative identifier, an address that is not a multiple of the page size, or
/// `SHM_REMAP` without one; `EINVAL`, `EIDRM`: no such segment; `EACCES`; `EINVAL`: something is mapped there; `ENOMEM`.
pub(super) fn sys_shmat(cx: &mut Ctx<'_>, id: i32, addr: u64, flags: u32) -> SysResult {
    const PROT_READ: u64 = 1;
    const PROT_WRITE: u64 = 2;
    const PROT_EXEC: u64 = 4;
    if id < 0 {
        return Err(EINVAL.into());
    }
    let mut at = addr;
    let mut map_flags = MAP_SHARED;
    if addr != 0 {
        if !addr.is_multiple_of(PAGE_SIZE) {
            if flags & SHM_RND == 0 {
                return Err(EINVAL.into());
            }
            at = page_down(addr);
            if at == 0 && flags & SHM_REMAP != 0 {
                return Err(EINVAL.into());
            }
        }
        let fixed = if flags & SHM_REMAP != 0 { MapFlags::FIXED } else { MapFlags::FIXED_NOREPLACE };
        map_flags |= fixed.bits();
    } else if flags & SHM_REMAP != 0 {
        return Err(EINVAL.into());
    }
    let (mut prot, mut wanted) = (PROT_READ, 0o444);
    let writable = flags & SHM_RDONLY == 0;
    if writable {
        prot |= PROT_WRITE;
        wanted |= 0o222;
    }
    if flags & SHM_EXEC != 0 {
        prot |= PROT_EXEC;
        wanted |= 0o111;
    }
    let segment = cx.task.ipc().shm.lock().get(id)?;
    let mapped = {
        let mut state = segment.state.lock();
        state.perm.check(&cx.cred, wanted)?;
        segment.mapped(&mut state)
    };
    let backing = MapBacking::File(FileMapping {
        file: Ok(mapped),
        offset: 0,
        readable: true,
        writable,
        append_only: false,
        noexec: false,
    });
    let request = MapRequest::from_raw(at, segment.size, prot, map_flags, backing, cx.privileges());
    let mapped = cx.mm.map(request);
    // An address that was rounded down to 0 is a fixed one all the same.
    Ok(mapped.map_err(|e| if e == EEXIST { EINVAL } else { e })?)
}

/// `shmdt(2)`.
///
/// # Errors
/// `EINVAL`: no segment is attached at `addr`.
pub(super) fn sys_shmdt(cx: &mut Ctx<'_>, addr: u64) -> SysResult {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL.into());
    }
    cx.mm.detach(addr, |origin| origin.as_any().downcast_ref::<ShmOrigin>().map(ShmOrigin::size))?;
    Ok(0)
}

/// Reads uid, gid and mode for `IPC_SET` from a `struct ipc64_perm`.
pub(super) fn read_perm(cx: &Ctx<'_>, buf: UserAddr) -> Result<[u32; 3], Errno> {
    let words: [u32; 6] = cx.mm.read_value(buf)?;
    Ok([words[1], words[2], words[5]])
}

/// Checks the ids of `IPC_SET`.
pub(super) fn check_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    if uid == u32::MAX || gid == u32::MAX { Err(EINVAL) } else { Ok(()) }
}

/// A `struct *_ds`: permissions, then 64-bit words.
pub(super) fn write_ds(cx: &Ctx<'_>, buf: UserAddr, perm: &Perm, words: &[u64]) -> Result<(), Errno> {
    let mut bytes = perm.bytes().to_vec();
    bytes.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
    cx.mm.write_all(buf, &bytes)
}

/// `shmctl(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a negative identifier or command, an unknown command, no such segment; `EIDRM`;
/// `EACCES`, `EPERM`; `EFAULT`.
pub(super) fn sys_shmctl(cx: &mut Ctx<'_>, id: i32, command: u32, buf: UserAddr) -> SysResult {
    if id < 0 {
        return Err(EINVAL.into());
    }
    let ipc = cx.task.ipc();
    match command {
        IPC_INFO => {
            let highest = ipc.shm.lock().highest();
            let max = ipc.limits.shmmax.load(std::sync::atomic::Ordering::Relaxed);
            let all = ipc.limits.shmall.load(std::sync::atomic::Ordering::Relaxed);
            let count = ipc.shm.lock().max() as u64;
            let words = [max, 1, count, count, all, 0, 0, 0, 0];
            cx.mm.write_value(buf, &words)?;
            Ok(highest)
        }
        SHM_INFO => {
            let (all, highest) = {
                let table = ipc.shm.lock();
                (table.all(), table.highest())
            };
            let total: u64 = all.iter().map(|s| s.size.div_ceil(PAGE_SIZE)).sum();
            let resident: u64 = all.iter().map(|s| s.allocated() / PAGE_SIZE).sum();
            cx.mm.write_value(buf, &[all.len() as u64, total, resident, 0, 0, 0])?;
            Ok(highest)
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let table = ipc.shm.lock();
            let s = if command == IPC_STAT { table.get(id)? } else { table.at(id)? };
            drop(table);
            let state = s.state.lock();
            if command != SHM_STAT_ANY {
                state.perm.check(&cx.cred, 0o444)?;
            }
            let (perm, ctime, attached) = (state.perm, state.ctime, Segment::attachments(&state));
            drop(state);
            let pids = u64::from(cx.task.shown_id(s.cpid).cast_unsigned())
                | u64::from(cx.task.shown_id(s.lpid.load(Ordering::Relaxed)).cast_unsigned()) << 32;
            let (atime, dtime) = (s.atime.load(Ordering::Relaxed), s.dtime.load(Ordering::Relaxed));
            let words = [s.size, atime as u64, dtime as u64, ctime as u64, pids, attached, 0, 0];
            write_ds(cx, buf, &perm, &words)?;
            Ok(if command == IPC_STAT { 0 } else { s.id() as u64 })
        }
        IPC_SET => {
            let [uid, gid, mode] = read_perm(cx, buf)?;
            let s = ipc.shm.lock().get(id)?;
            let mut state = s.state.lock();
            state.perm.check_owner(&cx.cred)?;
            check_ids(uid, gid)?;
            state.perm.set(uid, gid, mode);
            s.touch(&mut state);
            Ok(0)
        }
        IPC_RMID => {
            ipc.remove_segment(id, &cx.cred)?;
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let s = ipc.shm.lock().get(id)?;
            let mut state = s.state.lock();
            if !cx.cred.has(cap::IPC_LOCK) {
                let owner = cx.cred.euid == state.perm.uid || cx.cred.euid == state.perm.cuid;
                let limit = cx.task.group.limits.memlock.load(Ordering::Relaxed);
                if !owner || (command == SHM_LOCK && limit == 0) {
                    return Err(EPERM.into());
                }
            }
            // Nothing is ever swapped out.
            if command == SHM_LOCK {
                state.perm.mode |= SHM_LOCKED;
            } else {
                state.perm.mode &= !SHM_LOCKED;
            }
            Ok(0)
        }
        _ => Err(EINVAL.into()),
    }
}
