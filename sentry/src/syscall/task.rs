//! Processes, identities, limits, futexes.

use std::sync::atomic::Ordering;

use abi::errno::{E2BIG, EFAULT, EINVAL, ENODEV, ENOENT, ENOSYS, ENOTDIR, EPERM, ESRCH};
use abi::{Errno, UserAddr};

use super::{Stop, SysResult};
use crate::ns::pid::MAX_LEVEL;
use crate::task::Ctx;
use crate::task::clone::{CloneArgs, SetTid, flag};

/// `fork(2)`.
pub(super) fn sys_fork(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.clone_task(&CloneArgs { exit_signal: 17, ..CloneArgs::default() })? as u64)
}

/// `vfork(2)`.
pub(super) fn sys_vfork(cx: &mut Ctx<'_>) -> SysResult {
    let args = CloneArgs { flags: flag::VFORK | flag::VM, exit_signal: 17, ..CloneArgs::default() };
    Ok(cx.clone_task(&args)? as u64)
}

/// `clone(2)`.
pub(super) fn sys_clone(
    cx: &mut Ctx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> SysResult {
    // The upper half means nothing here: its flags are clone3's.
    let flags = flags & 0xffff_ffff;
    if flags & flag::PIDFD != 0 && flags & flag::PARENT_SETTID != 0 {
        return Err(EINVAL.into());
    }
    let args = CloneArgs {
        flags: flags & !0xff,
        exit_signal: (flags & 0xff) as i32,
        stack,
        parent_tid,
        child_tid,
        tls,
        pidfd: parent_tid,
        ..CloneArgs::default()
    };
    Ok(cx.clone_task(&args)? as u64)
}

/// `clone3(2)`.
pub(super) fn sys_clone3(cx: &mut Ctx<'_>, addr: UserAddr, size: u64) -> SysResult {
    const KNOWN: usize = 88;
    if size > 4096 {
        return Err(E2BIG.into());
    }
    if size < 64 {
        return Err(EINVAL.into());
    }
    let mut bytes = vec![0u8; (size as usize).max(KNOWN)];
    cx.mm.read_exact(addr, bytes.get_mut(..size as usize).ok_or(E2BIG)?)?;
    if bytes.iter().skip(KNOWN).any(|&b| b != 0) {
        return Err(E2BIG.into());
    }
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    let mut a = [0u64; 11];
    for (word, piece) in a.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = piece.try_into().map_or(0, u64::from_ne_bytes);
    }
    let bad_signal = a[4] > 64 || (a[4] != 0 && a[0] & (flag::THREAD | flag::PARENT) != 0);
    if bad_signal
        || a[0] & (0xff & !flag::NEWTIME | flag::DETACHED) != 0
        || (a[8] == 0) != (a[9] == 0)
        || a[9] > MAX_LEVEL as u64
        || (a[5] == 0) != (a[6] == 0)
    {
        return Err(EINVAL.into());
    }
    const FIRST_WITH_CGROUP: u64 = 88;
    if a[0] & flag::INTO_CGROUP != 0 && (a[10] > i32::MAX as u64 || size < FIRST_WITH_CGROUP) {
        return Err(EINVAL.into());
    }
    let mut set_tid = SetTid::default();
    set_tid.1 = a[9] as usize;
    for (i, slot) in set_tid.0.iter_mut().enumerate().take(set_tid.1) {
        *slot = cx.mm.read_value(UserAddr(a[8]).checked_add(4 * i as u64).ok_or(EFAULT)?)?;
    }
    let args = CloneArgs {
        flags: a[0],
        exit_signal: a[4] as i32,
        stack: if a[5] == 0 { 0 } else { a[5].checked_add(a[6]).ok_or(EINVAL)? },
        parent_tid: a[3],
        child_tid: a[2],
        tls: a[7],
        pidfd: a[1],
        cgroup: a[10] as i32,
        set_tid,
    };
    Ok(cx.clone_task(&args)? as u64)
}

/// `execve(2)`.
pub(super) fn sys_execve(cx: &mut Ctx<'_>, path: UserAddr, argv: UserAddr, envp: UserAddr) -> SysResult {
    let path = cx.path(path)?;
    let args = cx.strings(argv)?;
    let env = cx.strings(envp)?;
    cx.exec(&path, args, env)?;
    Err(Stop::NoReturn)
}

/// `execveat(2)`.
pub(super) fn sys_execveat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    argv: UserAddr,
    envp: UserAddr,
    flags: u32,
) -> SysResult {
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    const AT_FDCWD: i32 = -100;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(path)?;
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let relative = path.first() != Some(&b'/');
    let mut inaccessible = false;
    let program = if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(ENOENT.into());
    } else if path.is_empty() && dirfd != AT_FDCWD {
        let entry = cx.files.entry(dirfd)?;
        inaccessible = entry.cloexec;
        cx.program_of(&entry.file)?
    } else {
        let mut walk = cx.walk();
        if relative && dirfd != AT_FDCWD {
            let entry = cx.files.entry(dirfd)?;
            inaccessible = entry.cloexec;
            walk.base = entry.file.path.clone().ok_or(ENOTDIR)?;
        }
        let place = if path.is_empty() { walk.base.clone() } else { walk.resolve(&path, follow)? };
        cx.program_at(place)?
    };
    let shown = match (relative && dirfd != AT_FDCWD, path.is_empty()) {
        (false, _) => path,
        (true, true) => format!("/dev/fd/{dirfd}").into_bytes(),
        (true, false) => [format!("/dev/fd/{dirfd}/").as_bytes(), &path].concat(),
    };
    let args = cx.strings(argv)?;
    let env = cx.strings(envp)?;
    cx.exec_program(program, &shown, inaccessible, args, env)?;
    Err(Stop::NoReturn)
}

/// `exit(2)`.
pub(super) fn sys_exit(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    cx.end_thread((code & 0xff) << 8);
    Err(Stop::NoReturn)
}

/// `exit_group(2)`.
pub(super) fn sys_exit_group(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    cx.start_group_exit((code & 0xff) << 8);
    Err(Stop::NoReturn)
}

/// `getpid(2)`.
pub(super) fn sys_getpid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.task.group.shown_pid as u64)
}

/// `gettid(2)`.
pub(super) fn sys_gettid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.task.shown_tid as u64)
}

/// `getppid(2)`.
pub(super) fn sys_getppid(cx: &mut Ctx<'_>) -> SysResult {
    let tree = cx.task.kernel.tree.lock();
    let parent = tree.processes.get(&cx.task.group.pid).map_or(0, |p| p.parent);
    Ok(cx.task.shown_id(parent) as u64)
}

fn process_ids(cx: &Ctx<'_>, pid: i32) -> Result<(i32, i32), Errno> {
    let pid = if pid == 0 { cx.task.group.pid } else { cx.task.id_of(pid) };
    let tree = cx.task.kernel.tree.lock();
    let shown = |id| cx.task.shown_id(id);
    tree.processes.get(&pid).map(|p| (shown(p.pgid), shown(p.sid))).ok_or(ESRCH)
}

/// `getpgrp(2)`.
pub(super) fn sys_getpgrp(cx: &mut Ctx<'_>) -> SysResult {
    Ok(process_ids(cx, 0)?.0 as u64)
}

/// `getpgid(2)`.
pub(super) fn sys_getpgid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(process_ids(cx, pid)?.0 as u64)
}

/// `getsid(2)`.
pub(super) fn sys_getsid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(process_ids(cx, pid)?.1 as u64)
}

/// `setpgid(2)`.
pub(super) fn sys_setpgid(cx: &mut Ctx<'_>, pid: i32, pgid: i32) -> SysResult {
    let me = cx.task.group.pid;
    let pid = if pid == 0 { me } else { cx.task.id_of(pid) };
    let pgid = if pgid == 0 { pid } else { cx.task.id_of(pgid) };
    if pgid < 0 {
        return Err(EINVAL.into());
    }
    let mut tree = cx.task.kernel.tree.lock();
    let sid = tree.processes.get(&me).map_or(0, |p| p.sid);
    let target = tree.processes.get(&pid).ok_or(ESRCH)?;
    if pid != me {
        if target.parent != me {
            return Err(ESRCH.into());
        }
        if target.sid != sid {
            return Err(EPERM.into());
        }
        if target.has_execed {
            return Err(abi::errno::EACCES.into());
        }
    }
    if target.sid == pid {
        return Err(EPERM.into());
    }
    if pgid != pid && !tree.processes.values().any(|p| p.pgid == pgid && p.sid == sid) {
        return Err(EPERM.into());
    }
    if let Some(p) = tree.processes.get_mut(&pid) {
        let former = std::mem::replace(&mut p.pgid, pgid);
        tree.release_id(former);
    }
    Ok(0)
}

/// `set_tid_address(2)`.
pub(super) fn sys_set_tid_address(cx: &mut Ctx<'_>, addr: UserAddr) -> SysResult {
    cx.clear_tid = addr.raw();
    Ok(cx.task.shown_tid as u64)
}

/// `set_robust_list(2)`.
pub(super) fn sys_set_robust_list(cx: &mut Ctx<'_>, head: UserAddr, len: u64) -> SysResult {
    if len != 24 {
        return Err(EINVAL.into());
    }
    cx.task.robust_list.store(head.raw(), Ordering::Relaxed);
    Ok(0)
}

/// `get_robust_list(2)`.
pub(super) fn sys_get_robust_list(cx: &mut Ctx<'_>, pid: i32, head: UserAddr, len: UserAddr) -> SysResult {
    let task = if pid == 0 { cx.task.clone() } else { cx.task.find(pid).ok_or(ESRCH)? };
    let them = task.cred();
    let same_user = [them.uid, them.euid, them.suid].iter().all(|&id| id == cx.cred.uid);
    if !same_user && !cx.cred.has(base::cred::cap::SYS_PTRACE) {
        return Err(EPERM.into());
    }
    cx.mm.write_value(len, &24u64)?;
    cx.mm.write_value(head, &task.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// `membarrier(2)`.
pub(super) fn sys_membarrier(cx: &mut Ctx<'_>, command: i32, flags: u32, cpu: i32) -> SysResult {
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 2;
    const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
    const PRIVATE_EXPEDITED: i32 = 8;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 16;
    const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 32;
    const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 64;
    const PRIVATE_EXPEDITED_RSEQ: i32 = 128;
    const REGISTER_PRIVATE_EXPEDITED_RSEQ: i32 = 256;
    const GET_REGISTRATIONS: i32 = 512;
    const ALL: i32 = 511 | GET_REGISTRATIONS;
    const FLAG_CPU: u32 = 1;
    // A processor may be named, of those that sequences run on: here all start again.
    let takes_cpu = command == PRIVATE_EXPEDITED_RSEQ && flags == FLAG_CPU;
    if flags != 0 && !takes_cpu {
        return Err(EINVAL.into());
    }
    let registered = &cx.task.group.barriers;
    let register = |what: i32| {
        host::thread::barrier()?;
        registered.fetch_or(what, Ordering::SeqCst);
        Ok(0)
    };
    match command {
        0 => Ok(if host::thread::barrier().is_ok() { ALL as u64 } else { 0 }),
        REGISTER_GLOBAL_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
        | REGISTER_PRIVATE_EXPEDITED_RSEQ => register(command),
        GET_REGISTRATIONS => {
            // Who asks for one of the special kinds registers for the plain one, which is not ready by that.
            const SPECIAL: i32 = REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | REGISTER_PRIVATE_EXPEDITED_RSEQ;
            let set = registered.load(Ordering::SeqCst);
            let plain = if set & SPECIAL != 0 { REGISTER_PRIVATE_EXPEDITED } else { 0 };
            Ok((set | plain) as u64)
        }
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE | PRIVATE_EXPEDITED_RSEQ
            if registered.load(Ordering::SeqCst) & command << 1 == 0 =>
        {
            Err(EPERM.into())
        }
        PRIVATE_EXPEDITED_RSEQ => {
            let is_there =
                |cpu: i32| usize::try_from(cpu).is_ok_and(|n| n < cx.task.kernel.system.cpu_limit());
            if (!takes_cpu || is_there(cpu)) && !cx.restart_others() {
                return Err(Stop::Restart(super::Restart::NoIntr));
            }
            host::thread::barrier()?;
            Ok(0)
        }
        // All guest threads are threads of one host process, and its barrier takes them out of the guest.
        GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE => {
            host::thread::barrier()?;
            Ok(0)
        }
        _ => Err(EINVAL.into()),
    }
}

/// `arch_prctl(2)`.
pub(super) fn sys_arch_prctl(cx: &mut Ctx<'_>, code: u32, addr: UserAddr) -> SysResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    const GET_CPUID: u32 = 0x1011;
    const SET_CPUID: u32 = 0x1012;
    match code {
        SET_FS | SET_GS if addr.raw() >= cx.mm.task_size() => return Err(EPERM.into()),
        SET_FS => cx.regs.fs_base = addr.raw(),
        SET_GS => cx.regs.gs_base = addr.raw(),
        // CPUID is always there for guests.
        GET_CPUID => return Ok(1),
        SET_CPUID => return Err(ENODEV.into()),
        GET_FS => cx.mm.write_value(addr, &cx.regs.fs_base)?,
        GET_GS => cx.mm.write_value(addr, &cx.regs.gs_base)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

/// `modify_ldt(2)`: there are no local descriptors. Errors are 32-bit numbers, as in Linux.
pub(super) fn sys_modify_ldt(cx: &mut Ctx<'_>, func: i32, ptr: UserAddr, bytes: u64) -> SysResult {
    const DEFAULT_SIZE: u64 = 128;
    const ENTRIES: u32 = 8192;
    let fails = |e: Errno| Ok(u64::from((-e.raw()).cast_unsigned()));
    match func {
        0 => Ok(0),
        2 => {
            let size = bytes.min(DEFAULT_SIZE);
            match cx.mm.write_all(ptr, &vec![0; size as usize]) {
                Ok(()) => Ok(size),
                Err(e) => fails(e),
            }
        }
        1 | 0x11 if bytes != 16 => fails(EINVAL),
        1 | 0x11 => match cx.mm.read_value::<[u32; 4]>(ptr) {
            Err(e) => fails(e),
            Ok([entry, ..]) if entry >= ENTRIES => fails(EINVAL),
            Ok(_) => fails(ENOSYS),
        },
        _ => fails(ENOSYS),
    }
}

/// `prctl(2)`.
pub(super) fn sys_prctl(cx: &mut Ctx<'_>, option: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> SysResult {
    const PR_SET_PDEATHSIG: i32 = 1;
    const PR_GET_PDEATHSIG: i32 = 2;
    const PR_SET_CHILD_SUBREAPER: i32 = 36;
    const PR_GET_CHILD_SUBREAPER: i32 = 37;
    const PR_SET_NAME: i32 = 15;
    const PR_GET_NAME: i32 = 16;
    const PR_SET_VMA: i32 = 0x5356_4d41;
    match option {
        PR_SET_PDEATHSIG => {
            if a2 > 64 {
                return Err(EINVAL.into());
            }
            cx.task.parent_death_signal.store(a2 as i32, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_PDEATHSIG => {
            cx.mm.write_value(UserAddr(a2), &cx.task.parent_death_signal.load(Ordering::Relaxed))?;
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            cx.task.group.subreaper.store(a2 != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            let on = i32::from(cx.task.group.subreaper.load(Ordering::Relaxed));
            cx.mm.write_value(UserAddr(a2), &on)?;
            Ok(0)
        }
        PR_SET_NAME => {
            let mut name = [0u8; 16];
            let n = cx.mm.copy_in(UserAddr(a2), &mut name[..15])?;
            let end = name[..n].iter().position(|&b| b == 0).unwrap_or(n);
            cx.task.state.lock().name = name[..end].to_vec();
            Ok(0)
        }
        PR_GET_NAME => {
            let mut name = [0u8; 16];
            let current = cx.task.state.lock().name.clone();
            name[..current.len().min(15)].copy_from_slice(&current[..current.len().min(15)]);
            cx.mm.write_all(UserAddr(a2), &name)?;
            Ok(0)
        }
        PR_SET_VMA if a2 == 0 => {
            let name = if a5 == 0 { None } else { Some(cx.mm.read_cstr(UserAddr(a5), 80)?) };
            cx.mm.set_anon_name(a3, a4, name.as_deref())?;
            Ok(0)
        }
        _ => super::prctl::other(cx, option, a2, a3, a4, a5),
    }
}

/// `getrandom(2)`.
pub(super) fn sys_getrandom(cx: &mut Ctx<'_>, buf: UserAddr, len: u64, flags: u32) -> SysResult {
    if flags & !7 != 0 || flags & 6 == 6 {
        return Err(EINVAL.into());
    }
    let len = len.min(i32::MAX as u64);
    cx.mm.check_range(buf, len)?;
    let mut done = 0;
    let mut piece = [0u8; 4096];
    while done < len {
        let n = (len - done).min(4096) as usize;
        host::file::random(&mut piece[..n])?;
        let copied = match cx.mm.copy_out(buf.saturating_add(done), &piece[..n]) {
            Ok(c) => c,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        };
        done += copied as u64;
        if copied < n {
            break;
        }
    }
    Ok(done)
}

/// `sched_yield(2)`.
pub(super) fn sys_sched_yield(_cx: &mut Ctx<'_>) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}
