//! What administrators do to the machine: the log, accounting, swapping, the end; and the list of security modules.

use abi::UserAddr;
use abi::errno::{E2BIG, EFAULT, EINVAL, EOPNOTSUPP, EPERM};
use base::cred::cap;
use base::wait::Events;
use fs::file::oflag;
use fs::vfs::FileType;

use super::path::AT_FDCWD;
use super::{Restart, Stop, SysResult};
use crate::klog::CAPACITY;
use crate::task::Ctx;
use crate::task::block::Registration;

/// `acct(2)`.
///
/// # Errors
/// In the order checked: `EPERM`: no `CAP_SYS_PACCT`; those of opening the file; `EACCES`: not a regular one.
pub(super) fn sys_acct(cx: &mut Ctx<'_>, name: UserAddr) -> SysResult {
    if !cx.cred.has(cap::SYS_PACCT) {
        return Err(EPERM.into());
    }
    let file = match name.is_null() {
        true => None,
        false => {
            let path = cx.path(name)?;
            let file = cx.open_at(AT_FDCWD, &path, oflag::WRONLY | oflag::APPEND, 0)?;
            if file.ops.metadata()?.file_type() != FileType::Regular {
                return Err(abi::errno::EACCES.into());
            }
            Some(file)
        }
    };
    let former = cx.task.kernel.accounting.set(cx.task.pid_ns(), file);
    if let Some(former) = former {
        cx.account_last(&former);
    }
    Ok(0)
}

/// `syslog(2)`.
///
/// # Errors
/// In the order checked: `EPERM`; `EINVAL`: an unknown action, a bad length or no buffer; `EFAULT`.
pub(super) fn sys_syslog(cx: &mut Ctx<'_>, action: i32, buf: UserAddr, len: i32) -> SysResult {
    const READ: i32 = 2;
    const READ_ALL: i32 = 3;
    const READ_CLEAR: i32 = 4;
    const SIZE_BUFFER: i32 = 10;
    let kernel = cx.task.kernel.clone();
    let log = &kernel.log;
    let is_restricted = log.restrict.load(std::sync::atomic::Ordering::Relaxed) != 0;
    let is_open = !is_restricted && matches!(action, READ_ALL | SIZE_BUFFER);
    if !is_open && !cx.cred.has(cap::SYSLOG) {
        return Err(EPERM.into());
    }
    if matches!(action, READ..=READ_CLEAR) {
        let room = usize::try_from(len).ok().filter(|_| !buf.is_null()).ok_or(EINVAL)?;
        if room == 0 {
            return Ok(0);
        }
        cx.mm.check_range(buf, room as u64)?;
        let room = room.min(CAPACITY);
        let text = if action == READ {
            let _registration = Registration::new(&log.queue, cx.task.parker.clone(), Events::IN);
            let next = |_: &mut Ctx<'_>| Ok(Some(log.take(room)).filter(|text| !text.is_empty()));
            cx.sleep_until(None, Restart::Sys, next)?.unwrap_or_default()
        } else {
            log.last(room, action == READ_CLEAR)
        };
        cx.mm.write_all(buf, &text)?;
        return Ok(text.len() as u64);
    }
    match action {
        0 | 1 => {}
        5 => log.clear(),
        6 => log.set_console(false),
        7 => log.set_console(true),
        8 if (1..=8).contains(&len) => log.set_level(len),
        9 => return Ok(log.unread() as u64),
        SIZE_BUFFER => return Ok(CAPACITY as u64),
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

/// `swapon(2)`: nothing can be swapped to.
///
/// # Errors
/// In the order checked: `EINVAL`: unknown flags; `EPERM`; those of opening the file; `EINVAL`.
pub(super) fn sys_swapon(cx: &mut Ctx<'_>, path: UserAddr, flags: u32) -> SysResult {
    const VALID: u32 = 0x7_ffff;
    if flags & !VALID != 0 {
        return Err(EINVAL.into());
    }
    open_swap(cx, path, oflag::RDWR | oflag::EXCL)
}

/// `swapoff(2)`: nothing is swapped to.
///
/// # Errors
/// In the order checked: `EPERM`; those of opening the file; `EINVAL`.
pub(super) fn sys_swapoff(cx: &mut Ctx<'_>, path: UserAddr) -> SysResult {
    open_swap(cx, path, oflag::RDWR)
}

fn open_swap(cx: &mut Ctx<'_>, path: UserAddr, flags: u32) -> SysResult {
    if !cx.cred.has(cap::SYS_ADMIN) {
        return Err(EPERM.into());
    }
    let path = cx.path(path)?;
    cx.open_at(AT_FDCWD, &path, flags, 0)?;
    Err(EINVAL.into())
}

/// `reboot(2)`: ends the PID namespace, as in a container; the first one is the sandbox.
///
/// # Errors
/// In the order checked: `EPERM`; `EINVAL`: a wrong magic number, or a command that ends nothing.
pub(super) fn sys_reboot(cx: &mut Ctx<'_>, magic: u32, magic2: u32, command: u32) -> SysResult {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    const SIGHUP: i32 = 1;
    const SIGINT: i32 = 2;
    let ns = cx.task.pid_ns().clone();
    if !ns.owner().grants(&cx.cred, cap::SYS_BOOT) {
        return Err(EPERM.into());
    }
    if magic != MAGIC || !MAGIC2.contains(&magic2) {
        return Err(EINVAL.into());
    }
    // reboot_pid_ns: the parent of init sees which it was.
    let status = match command {
        0x0123_4567 | 0xa1b2_c3d4 => SIGHUP,
        0x4321_fedc | 0xcdef_0123 => SIGINT,
        _ => return Err(EINVAL.into()),
    };
    let init = ns.id_of(1);
    let group = cx.task.kernel.tree.lock().processes.get(&init).map(|p| p.group.clone());
    if let Some(group) = group {
        group.start_exit(status);
    }
    cx.end_thread(0);
    Err(Stop::NoReturn)
}

/// `LSM_ID_CAPABILITY`: the one module there is.
const MODULES: [u64; 1] = [100];

/// `lsm_list_modules(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EFAULT`; `E2BIG`.
pub(super) fn sys_lsm_list_modules(cx: &mut Ctx<'_>, ids: UserAddr, size: UserAddr, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let room: u32 = cx.mm.read_value(size)?;
    let total = size_of_val(&MODULES) as u32;
    cx.mm.write_value(size, &total)?;
    if room < total {
        return Err(E2BIG.into());
    }
    cx.mm.write_value(ids, &MODULES)?;
    Ok(MODULES.len() as u64)
}

/// `lsm_get_self_attr(2)`: no module keeps any.
///
/// # Errors
/// In the order checked: `EINVAL`: no attribute, no size, unknown flags; `EFAULT`; `EOPNOTSUPP`.
pub(super) fn sys_lsm_get_self_attr(
    cx: &mut Ctx<'_>,
    attribute: u32,
    context: UserAddr,
    size: UserAddr,
    flags: u32,
) -> SysResult {
    const SINGLE: u32 = 1;
    if attribute == 0 || size.is_null() {
        return Err(EINVAL.into());
    }
    let _room: u32 = cx.mm.read_value(size)?;
    if flags != 0 {
        if flags != SINGLE || context.is_null() {
            return Err(EINVAL.into());
        }
        let [id, ..]: [u64; 4] = cx.mm.read_value(context)?;
        if id == 0 {
            return Err(EINVAL.into());
        }
    }
    cx.mm.write_value(size, &0u32)?;
    Err(EOPNOTSUPP.into())
}

/// `lsm_set_self_attr(2)`: no module keeps any.
///
/// # Errors
/// In the order checked: `EINVAL`: flags, or too small; `E2BIG`; `EFAULT`; `EINVAL`: lengths that do not fit; `EOPNOTSUPP`.
pub(super) fn sys_lsm_set_self_attr(
    cx: &mut Ctx<'_>,
    _attribute: u32,
    context: UserAddr,
    size: u32,
    flags: u32,
) -> SysResult {
    const HEAD: u32 = 32;
    const PAGE: u32 = 4096;
    if flags != 0 || size < HEAD {
        return Err(EINVAL.into());
    }
    if size > PAGE {
        return Err(E2BIG.into());
    }
    let mut bytes = vec![0u8; size as usize];
    cx.mm.read_exact(context, &mut bytes)?;
    let word = |at: usize| {
        let piece = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        piece.map(u64::from_ne_bytes).ok_or(EFAULT)
    };
    let (len, context_len) = (word(16)?, word(24)?);
    let required = context_len.checked_add(HEAD.into()).ok_or(EINVAL)?;
    if u64::from(size) < len || len < required {
        return Err(EINVAL.into());
    }
    Err(EOPNOTSUPP.into())
}
