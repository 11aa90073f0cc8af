//! Options of prctl(2) about privileges and what a task keeps about itself.

use abi::UserAddr;
use abi::errno::{EINVAL, EPERM};
use base::cred::{CapSet, Credentials, cap};

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
