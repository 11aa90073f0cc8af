//! Options of prctl(2) about privileges and what a task keeps about itself.

use abi::UserAddr;
use abi::errno::{EINVAL, EPERM};
use base::cred::{CapSet, Credentials, cap};

use std::sync::atomic::Ordering;

use super::SysResult;
use super::cred::KEEP_CAPS;
use crate::task::Ctx;

/// Numbers of `linux/prctl.h`.
mod option {
    pub(super) const GET_DUMPABLE: i32 = 3;
    pub(super) const SET_DUMPABLE: i32 = 4;
    pub(super) const GET_KEEPCAPS: i32 = 7;
    pub(super) const SET_KEEPCAPS: i32 = 8;
    pub(super) const GET_TIMING: i32 = 13;
    pub(super) const SET_TIMING: i32 = 14;
    pub(super) const GET_SECCOMP: i32 = 21;
    pub(super) const SET_SECCOMP: i32 = 22;
    pub(super) const CAPBSET_READ: i32 = 23;
    pub(super) const CAPBSET_DROP: i32 = 24;
    pub(super) const GET_TSC: i32 = 25;
    pub(super) const SET_TSC: i32 = 26;
    pub(super) const GET_SECUREBITS: i32 = 27;
    pub(super) const SET_SECUREBITS: i32 = 28;
    pub(super) const SET_TIMERSLACK: i32 = 29;
    pub(super) const GET_TIMERSLACK: i32 = 30;
    pub(super) const MCE_KILL: i32 = 33;
    pub(super) const MCE_KILL_GET: i32 = 34;
    pub(super) const SET_NO_NEW_PRIVS: i32 = 38;
    pub(super) const GET_NO_NEW_PRIVS: i32 = 39;
    pub(super) const GET_TID_ADDRESS: i32 = 40;
    pub(super) const SET_THP_DISABLE: i32 = 41;
    pub(super) const GET_THP_DISABLE: i32 = 42;
    pub(super) const SET_MM: i32 = 35;
    pub(super) const SET_MDWE: i32 = 65;
    pub(super) const GET_MDWE: i32 = 66;
    pub(super) const CAP_AMBIENT: i32 = 47;
    pub(super) const GET_AUXV: i32 = 0x4155_5856;
}

/// `PR_MCE_KILL_DEFAULT`.
const MCE_KILL_DEFAULT: u8 = 2;

/// All secure bits, and those that are locks of others.
const SECURE_ALL: u32 = 0xff;
const SECURE_LOCKS: u32 = 0xaa;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`.
const NO_AMBIENT_RAISE: u32 = 1 << 6;

/// The options that are not about names, memory or signals.
pub(super) fn other(cx: &mut Ctx<'_>, option: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> SysResult {
    match option {
        option::GET_DUMPABLE => Ok(cx.task.group.attributes.lock().dumpable.into()),
        option::SET_DUMPABLE => {
            let value = u8::try_from(a2).ok().filter(|v| *v <= 1).ok_or(EINVAL)?;
            cx.task.group.attributes.lock().dumpable = value;
            Ok(0)
        }
        option::GET_KEEPCAPS => Ok(u64::from(cx.cred.securebits & KEEP_CAPS != 0)),
        option::SET_KEEPCAPS => {
            if a2 > 1 {
                return Err(EINVAL.into());
            }
            if cx.cred.securebits & (KEEP_CAPS << 1) != 0 {
                return Err(EPERM.into());
            }
            let mut cred = (*cx.cred).clone();
            cred.securebits = cred.securebits & !KEEP_CAPS | if a2 == 1 { KEEP_CAPS } else { 0 };
            cx.set_cred(cred);
            Ok(0)
        }
        option::GET_TIMING => Ok(0),
        option::SET_TIMING => {
            if a2 == 0 {
                Ok(0)
            } else {
                Err(EINVAL.into())
            }
        }
        option::GET_SECCOMP => Ok(cx.task.seccomp.state().mode as u64),
        option::SET_SECCOMP => super::seccomp::set_mode(cx, a2, a3),
        option::CAPBSET_READ => {
            let number = capability(a2)?;
            Ok(u64::from(cx.cred.bounding.has(number)))
        }
        option::CAPBSET_DROP => {
            if !cx.cred.has_here(cap::SETPCAP) {
                return Err(EPERM.into());
            }
            let number = capability(a2)?;
            let mut cred = (*cx.cred).clone();
            cred.bounding.0 &= !(1 << number);
            cx.set_cred(cred);
            Ok(0)
        }
        option::GET_TSC => {
            cx.mm.write_value(UserAddr(a2), &1u32)?;
            Ok(0)
        }
        // The counter cannot be taken away from a guest.
        option::SET_TSC => {
            if a2 == 1 {
                Ok(0)
            } else {
                Err(EINVAL.into())
            }
        }
        option::GET_SECUREBITS => Ok(cx.cred.securebits.into()),
        option::SET_SECUREBITS => set_securebits(cx, a2),
        option::SET_TIMERSLACK => {
            let mut attributes = cx.task.attributes.lock();
            attributes.timer_slack_ns = if a2 as i64 <= 0 { attributes.default_timer_slack_ns } else { a2 };
            Ok(0)
        }
        option::GET_TIMERSLACK => Ok(cx.task.attributes.lock().timer_slack_ns),
        option::SET_NO_NEW_PRIVS => {
            if a2 != 1 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            cx.task.attributes.lock().no_new_privs = true;
            Ok(0)
        }
        option::GET_NO_NEW_PRIVS => {
            if a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            Ok(cx.task.attributes.lock().no_new_privs.into())
        }
        option::GET_TID_ADDRESS => {
            cx.mm.write_value(UserAddr(a2), &cx.clear_tid)?;
            Ok(0)
        }
        option::MCE_KILL => {
            const EARLY: u64 = 1;
            let value = match (a2, a3) {
                (0, 0) | (1, 2) => MCE_KILL_DEFAULT,
                (1, 0..=EARLY) => a3 as u8,
                _ => return Err(EINVAL.into()),
            };
            if a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            cx.task.group.attributes.lock().machine_check_kill = value;
            Ok(0)
        }
        option::MCE_KILL_GET => {
            if a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            Ok(cx.task.group.attributes.lock().machine_check_kill.into())
        }
        option::SET_THP_DISABLE => {
            if a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            cx.task.group.attributes.lock().no_huge_pages = a2 != 0;
            Ok(0)
        }
        option::GET_THP_DISABLE => {
            if a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            Ok(cx.task.group.attributes.lock().no_huge_pages.into())
        }
        option::SET_MDWE => {
            const REFUSE_EXEC_GAIN: u64 = 1;
            const NO_INHERIT: u64 = 2;
            if a3 != 0
                || a4 != 0
                || a5 != 0
                || a2 & !(REFUSE_EXEC_GAIN | NO_INHERIT) != 0
                || a2 & NO_INHERIT != 0 && a2 & REFUSE_EXEC_GAIN == 0
            {
                return Err(EINVAL.into());
            }
            let old = cx.mm.mdwe.load(Ordering::Relaxed);
            if old != 0 && u64::from(old) != a2 {
                return Err(EPERM.into());
            }
            cx.mm.mdwe.store(a2 as u8, Ordering::Relaxed);
            Ok(0)
        }
        option::GET_MDWE => {
            if a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            Ok(cx.mm.mdwe.load(Ordering::Relaxed).into())
        }
        option::SET_MM => set_mm(cx, a2, a3, a4, a5),
        option::CAP_AMBIENT => ambient(cx, a2, a3, a4, a5),
        option::GET_AUXV => {
            if a4 != 0 || a5 != 0 {
                return Err(EINVAL.into());
            }
            let auxv = cx.mm.layout().auxv;
            let n = usize::try_from(a3).unwrap_or(usize::MAX).min(auxv.len());
            cx.mm.write_all(UserAddr(a2), &auxv[..n])?;
            Ok(auxv.len() as u64)
        }
        _ => Err(EINVAL.into()),
    }
}

/// `PR_SET_MM`: changes what /proc tells of the program, and where brk(2) begins (Linux kernel/sys.c, `prctl_set_mm`).
fn set_mm(cx: &mut Ctx<'_>, what: u64, addr: u64, a4: u64, a5: u64) -> SysResult {
    const START_CODE: u64 = 1;
    const AUXV: u64 = 12;
    const EXE_FILE: u64 = 13;
    const MAP: u64 = 14;
    const MAP_SIZE: u64 = 15;
    if a5 != 0 || (a4 != 0 && what != AUXV && what != MAP && what != MAP_SIZE) {
        return Err(EINVAL.into());
    }
    match what {
        MAP => return set_mm_map(cx, addr, a4),
        MAP_SIZE => {
            cx.mm.write_value(UserAddr(addr), &MM_MAP_SIZE)?;
            return Ok(0);
        }
        _ => {}
    }
    if !cx.cred.has(cap::SYS_RESOURCE) {
        return Err(EPERM.into());
    }
    match what {
        EXE_FILE => {
            let fd = i32::try_from(addr).map_err(|_| abi::errno::EBADF)?;
            let file = cx.file(fd)?;
            cx.replace_exe(file)?;
            return Ok(0);
        }
        AUXV => {
            if addr == 0 || a4 > AUXV_MAX.into() {
                return Err(EINVAL.into());
            }
            let mut bytes = vec![0; usize::try_from(a4).map_err(|_| EINVAL)?];
            cx.mm.read_exact(UserAddr(addr), &mut bytes)?;
            // The last entry is AT_NULL, whatever was given.
            if bytes.len() >= 16 {
                let end = bytes.len() - 16;
                bytes[end..].fill(0);
            }
            cx.mm.set_layout(|l| l.auxv = bytes);
            return Ok(0);
        }
        _ => {}
    }
    if addr >= cx.mm.task_size() || addr < crate::mm::MMAP_MIN_ADDR {
        return Err(EINVAL.into());
    }
    let is_mapped = cx.mm.is_present(addr).is_ok();
    let mut new = cx.mm.layout();
    let slot = match what {
        START_CODE => &mut new.start_code,
        2 => &mut new.end_code,
        3 => &mut new.start_data,
        4 => &mut new.end_data,
        5 => &mut new.start_stack,
        6 => &mut new.start_brk,
        7 => &mut new.brk,
        8 => &mut new.arg_start,
        9 => &mut new.arg_end,
        10 => &mut new.env_start,
        11 => &mut new.env_end,
        _ => return Err(EINVAL.into()),
    };
    *slot = addr;
    // validate_prctl_map_addr.
    let (data_limit, _) = cx.task.group.rlimits.lock()[2];
    let used =
        new.brk.saturating_sub(new.start_brk).saturating_add(new.end_data.saturating_sub(new.start_data));
    if new.start_code >= new.end_code
        || new.start_data > new.end_data
        || new.start_brk > new.brk
        || new.arg_start > new.arg_end
        || new.env_start > new.env_end
        || new.start_brk <= new.end_data && matches!(what, 4 | 6)
        || used > data_limit
    {
        return Err(EINVAL.into());
    }
    if matches!(what, 5 | 8..=11) && !is_mapped {
        return Err(abi::errno::EFAULT.into());
    }
    cx.mm.set_layout(|l| *l = new);
    Ok(0)
}

/// Bytes of `struct prctl_mm_map`, and of the saved auxiliary vector at most.
const MM_MAP_SIZE: u32 = 104;
const AUXV_MAX: u32 = 8 * 2 * 24;

/// `PR_SET_MM_MAP` (`prctl_set_mm_map`).
///
/// # Errors
/// In the order checked: `EINVAL`: another size; `EFAULT`; `EINVAL`: addresses that are none, or in a wrong order, too much
/// data, a wrong vector; `EFAULT`; `EPERM`: a program without `CAP_CHECKPOINT_RESTORE`; those of setting it.
fn set_mm_map(cx: &mut Ctx<'_>, addr: u64, size: u64) -> SysResult {
    const NO_FILE: u32 = u32::MAX;
    const RLIMIT_DATA: usize = 2;
    if size != u64::from(MM_MAP_SIZE) {
        return Err(EINVAL.into());
    }
    let words: [u64; 13] = cx.mm.read_value(UserAddr(addr))?;
    let [
        start_code,
        end_code,
        start_data,
        end_data,
        start_brk,
        brk,
        _,
        args,
        args_end,
        env,
        env_end,
        auxv,
        last,
    ] = words;
    let (auxv_size, exe_fd) = (last as u32, (last >> 32) as u32);
    let is_user = |at: &u64| (crate::mm::MMAP_MIN_ADDR..cx.mm.task_size()).contains(at);
    let (data_limit, _) = cx.task.group.rlimits.lock()[RLIMIT_DATA];
    let ordered = start_code < end_code
        && start_data <= end_data
        && start_brk <= brk
        && args <= args_end
        && env <= env_end;
    if !words[..11].iter().all(is_user)
        || !ordered
        || (brk - start_brk).saturating_add(end_data - start_data) > data_limit
        || auxv_size > 0 && (auxv == 0 || auxv_size > AUXV_MAX)
    {
        return Err(EINVAL.into());
    }
    let mut saved = vec![0u8; auxv_size as usize];
    cx.mm.read_exact(UserAddr(auxv), &mut saved)?;
    if exe_fd != NO_FILE {
        let may = [cap::CHECKPOINT_RESTORE, cap::SYS_ADMIN].iter().any(|&c| cx.cred.has_here(c));
        if !may {
            return Err(EPERM.into());
        }
        let fd = i32::try_from(exe_fd).map_err(|_| abi::errno::EBADF)?;
        let file = cx.file(fd)?;
        cx.replace_exe(file)?;
    }
    cx.mm.set_layout(|l| {
        let slots = [
            &mut l.start_code,
            &mut l.end_code,
            &mut l.start_data,
            &mut l.end_data,
            &mut l.start_brk,
            &mut l.brk,
            &mut l.start_stack,
            &mut l.arg_start,
            &mut l.arg_end,
            &mut l.env_start,
            &mut l.env_end,
        ];
        for (slot, word) in slots.into_iter().zip(words) {
            *slot = word;
        }
        if !saved.is_empty() {
            // The last entry is AT_NULL, whatever was given.
            if let Some(end) = saved.len().checked_sub(16) {
                saved[end..].fill(0);
            }
            l.auxv = saved;
        }
    });
    Ok(0)
}

fn capability(raw: u64) -> Result<u32, abi::Errno> {
    u32::try_from(raw).ok().filter(|&n| n <= cap::LAST).ok_or(EINVAL)
}

/// Linux security/commoncap.c, `cap_task_prctl`.
fn set_securebits(cx: &mut Ctx<'_>, raw: u64) -> SysResult {
    let old = cx.cred.securebits;
    let Ok(new) = u32::try_from(raw) else { return Err(EPERM.into()) };
    let locked = (old & SECURE_LOCKS) >> 1;
    if locked & (old ^ new) != 0
        || old & SECURE_LOCKS & !new != 0
        || new & !SECURE_ALL != 0
        || !cx.cred.has_here(cap::SETPCAP)
    {
        return Err(EPERM.into());
    }
    let cred = Credentials { securebits: new, ..(*cx.cred).clone() };
    cx.set_cred(cred);
    Ok(0)
}

fn ambient(cx: &mut Ctx<'_>, what: u64, a3: u64, a4: u64, a5: u64) -> SysResult {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    if what == CLEAR_ALL {
        if a3 != 0 || a4 != 0 || a5 != 0 {
            return Err(EINVAL.into());
        }
        let cred = Credentials { ambient: CapSet::EMPTY, ..(*cx.cred).clone() };
        cx.set_cred(cred);
        return Ok(0);
    }
    let number = capability(a3)?;
    if a4 != 0 || a5 != 0 {
        return Err(EINVAL.into());
    }
    let mut cred = (*cx.cred).clone();
    match what {
        IS_SET => return Ok(cred.ambient.has(number).into()),
        RAISE => {
            let allowed = cred.permitted.has(number) && cred.inheritable.has(number);
            if !allowed || cred.securebits & NO_AMBIENT_RAISE != 0 {
                return Err(EPERM.into());
            }
            cred.ambient.0 |= 1 << number;
        }
        LOWER => cred.ambient.0 &= !(1 << number),
        _ => return Err(EINVAL.into()),
    }
    cx.set_cred(cred);
    Ok(0)
}
