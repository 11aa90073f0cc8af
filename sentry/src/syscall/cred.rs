//! Users, groups and capabilities (credentials(7), capabilities(7); Linux kernel/sys.c, security/commoncap.c).

use std::sync::Arc;

use abi::errno::{EFAULT, EINVAL, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::{CapSet, Credentials, cap};
use base::userns::IdKind;

use super::SysResult;
use crate::task::Ctx;

/// Most supplementary groups (`linux/limits.h`).
pub const NGROUPS_MAX: usize = 65536;

/// "Leave it as it is" in the set*id calls.
const KEEP: u32 = u32::MAX;

/// `SECBIT_NO_SETUID_FIXUP`.
const NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
pub(super) const KEEP_CAPS: u32 = 1 << 4;

/// Capabilities that follow the file system user (`CAP_FS_SET`).
const FS_CAPS: u64 = 1 << cap::CHOWN
    | 1 << cap::MKNOD
    | 1 << cap::DAC_OVERRIDE
    | 1 << cap::DAC_READ_SEARCH
    | 1 << cap::FOWNER
    | 1 << cap::FSETID
    | 1 << cap::LINUX_IMMUTABLE
    | 1 << 32;

/// What a change of user ids does to capabilities (`cap_emulate_setxuid`).
fn fix_caps(old: &Credentials, new: &mut Credentials) {
    if new.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let is_root = |id| old.is_root_here(id);
    let was_root = is_root(old.uid) || is_root(old.euid) || is_root(old.suid);
    if was_root && !is_root(new.uid) && !is_root(new.euid) && !is_root(new.suid) {
        if new.securebits & KEEP_CAPS == 0 {
            new.permitted = CapSet::EMPTY;
            new.effective = CapSet::EMPTY;
        }
        new.ambient = CapSet::EMPTY;
    }
    if is_root(old.euid) && !is_root(new.euid) {
        new.effective = CapSet::EMPTY;
    }
    if !is_root(old.euid) && is_root(new.euid) {
        new.effective = new.permitted;
    }
}

impl Ctx<'_> {
    /// Takes new credentials, and what goes with a change of identity (Linux kernel/cred.c, `commit_creds`).
    fn commit_cred(&mut self, new: Credentials) {
        let old = self.cred.clone();
        let ids = |c: &Credentials| (c.euid, c.egid, c.fsuid, c.fsgid);
        if ids(&old) != ids(&new) || new.permitted.0 & !old.permitted.0 != 0 {
            self.task.group.attributes.lock().dumpable = 0;
        }
        self.set_cred(new);
    }
}

/// `getuid(2)`.
pub(super) fn sys_getuid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.cred.user_ns.shown(IdKind::User, cx.cred.uid).into())
}

/// `geteuid(2)`.
pub(super) fn sys_geteuid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.cred.user_ns.shown(IdKind::User, cx.cred.euid).into())
}

/// `getgid(2)`.
pub(super) fn sys_getgid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.cred.user_ns.shown(IdKind::Group, cx.cred.gid).into())
}

/// `getegid(2)`.
pub(super) fn sys_getegid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(cx.cred.user_ns.shown(IdKind::Group, cx.cred.egid).into())
}

/// The number that `id`, given by the caller, has everywhere; "leave it" stays so.
fn outside(cx: &Ctx<'_>, kind: IdKind, id: u32) -> Result<u32, Errno> {
    if id == KEEP { Ok(KEEP) } else { cx.cred.user_ns.outside(kind, id).ok_or(EINVAL) }
}

fn write_three(cx: &Ctx<'_>, kind: IdKind, ids: [u32; 3], to: [UserAddr; 3]) -> SysResult {
    for (id, addr) in ids.into_iter().zip(to) {
        cx.mm.write_value(addr, &cx.cred.user_ns.shown(kind, id))?;
    }
    Ok(0)
}

/// `getresuid(2)`.
pub(super) fn sys_getresuid(cx: &mut Ctx<'_>, uid: UserAddr, euid: UserAddr, suid: UserAddr) -> SysResult {
    write_three(cx, IdKind::User, [cx.cred.uid, cx.cred.euid, cx.cred.suid], [uid, euid, suid])
}

/// `getresgid(2)`.
pub(super) fn sys_getresgid(cx: &mut Ctx<'_>, gid: UserAddr, egid: UserAddr, sgid: UserAddr) -> SysResult {
    write_three(cx, IdKind::Group, [cx.cred.gid, cx.cred.egid, cx.cred.sgid], [gid, egid, sgid])
}

/// `setuid(2)`.
///
/// # Errors
/// `EINVAL`: `uid` is -1; `EPERM`: neither privileged nor an id that the thread has.
pub(super) fn sys_setuid(cx: &mut Ctx<'_>, uid: u32) -> SysResult {
    if uid == KEEP {
        return Err(EINVAL.into());
    }
    let uid = outside(cx, IdKind::User, uid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    if old.has_here(cap::SETUID) {
        new.uid = uid;
        new.suid = uid;
    } else if uid != old.uid && uid != old.suid {
        return Err(EPERM.into());
    }
    new.euid = uid;
    new.fsuid = uid;
    fix_caps(&old, &mut new);
    cx.commit_cred(new);
    Ok(0)
}

/// `setgid(2)`.
///
/// # Errors
/// As `setuid`.
pub(super) fn sys_setgid(cx: &mut Ctx<'_>, gid: u32) -> SysResult {
    if gid == KEEP {
        return Err(EINVAL.into());
    }
    let gid = outside(cx, IdKind::Group, gid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    if old.has_here(cap::SETGID) {
        new.gid = gid;
        new.sgid = gid;
    } else if gid != old.gid && gid != old.sgid {
        return Err(EPERM.into());
    }
    new.egid = gid;
    new.fsgid = gid;
    cx.commit_cred(new);
    Ok(0)
}

/// `setreuid(2)`.
///
/// # Errors
/// `EPERM`: not privileged, and no id that the thread has.
pub(super) fn sys_setreuid(cx: &mut Ctx<'_>, uid: u32, euid: u32) -> SysResult {
    let uid = outside(cx, IdKind::User, uid)?;
    let euid = outside(cx, IdKind::User, euid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    let privileged = old.has_here(cap::SETUID);
    if uid != KEEP {
        if !privileged && uid != old.uid && uid != old.euid {
            return Err(EPERM.into());
        }
        new.uid = uid;
    }
    if euid != KEEP {
        if !privileged && ![old.uid, old.euid, old.suid].contains(&euid) {
            return Err(EPERM.into());
        }
        new.euid = euid;
    }
    if uid != KEEP || (euid != KEEP && euid != old.uid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    fix_caps(&old, &mut new);
    cx.commit_cred(new);
    Ok(0)
}

/// `setregid(2)`.
///
/// # Errors
/// As `setreuid`.
pub(super) fn sys_setregid(cx: &mut Ctx<'_>, gid: u32, egid: u32) -> SysResult {
    let gid = outside(cx, IdKind::Group, gid)?;
    let egid = outside(cx, IdKind::Group, egid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    let privileged = old.has_here(cap::SETGID);
    if gid != KEEP {
        if !privileged && gid != old.gid && gid != old.egid {
            return Err(EPERM.into());
        }
        new.gid = gid;
    }
    if egid != KEEP {
        if !privileged && ![old.gid, old.egid, old.sgid].contains(&egid) {
            return Err(EPERM.into());
        }
        new.egid = egid;
    }
    if gid != KEEP || (egid != KEEP && egid != old.gid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    cx.commit_cred(new);
    Ok(0)
}

/// `setresuid(2)`.
///
/// # Errors
/// As `setreuid`.
pub(super) fn sys_setresuid(cx: &mut Ctx<'_>, uid: u32, euid: u32, suid: u32) -> SysResult {
    let uid = outside(cx, IdKind::User, uid)?;
    let euid = outside(cx, IdKind::User, euid)?;
    let suid = outside(cx, IdKind::User, suid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    let known = [old.uid, old.euid, old.suid];
    let allowed = |id: u32| id == KEEP || known.contains(&id);
    if ![uid, euid, suid].into_iter().all(allowed) && !old.has_here(cap::SETUID) {
        return Err(EPERM.into());
    }
    for (id, slot) in [(uid, &mut new.uid), (euid, &mut new.euid), (suid, &mut new.suid)] {
        if id != KEEP {
            *slot = id;
        }
    }
    new.fsuid = new.euid;
    fix_caps(&old, &mut new);
    cx.commit_cred(new);
    Ok(0)
}

/// `setresgid(2)`.
///
/// # Errors
/// As `setreuid`.
pub(super) fn sys_setresgid(cx: &mut Ctx<'_>, gid: u32, egid: u32, sgid: u32) -> SysResult {
    let gid = outside(cx, IdKind::Group, gid)?;
    let egid = outside(cx, IdKind::Group, egid)?;
    let sgid = outside(cx, IdKind::Group, sgid)?;
    let old = cx.cred.clone();
    let mut new = (*old).clone();
    let known = [old.gid, old.egid, old.sgid];
    let allowed = |id: u32| id == KEEP || known.contains(&id);
    if ![gid, egid, sgid].into_iter().all(allowed) && !old.has_here(cap::SETGID) {
        return Err(EPERM.into());
    }
    for (id, slot) in [(gid, &mut new.gid), (egid, &mut new.egid), (sgid, &mut new.sgid)] {
        if id != KEEP {
            *slot = id;
        }
    }
    new.fsgid = new.egid;
    cx.commit_cred(new);
    Ok(0)
}

/// `setfsuid(2)`: returns the former id; whether it changed shows in the next call.
pub(super) fn sys_setfsuid(cx: &mut Ctx<'_>, uid: u32) -> SysResult {
    let old = cx.cred.clone();
    let uid = outside(cx, IdKind::User, uid).unwrap_or(KEEP);
    let known = [old.uid, old.euid, old.suid, old.fsuid];
    if uid != KEEP && uid != old.fsuid && (known.contains(&uid) || old.has_here(cap::SETUID)) {
        let mut new = (*old).clone();
        new.fsuid = uid;
        if new.securebits & NO_SETUID_FIXUP == 0 {
            if old.is_root_here(old.fsuid) {
                new.effective.0 &= !FS_CAPS;
            }
            if old.is_root_here(uid) {
                new.effective.0 |= new.permitted.0 & FS_CAPS;
            }
        }
        cx.commit_cred(new);
    }
    Ok(old.user_ns.shown(IdKind::User, old.fsuid).into())
}

/// `setfsgid(2)`.
pub(super) fn sys_setfsgid(cx: &mut Ctx<'_>, gid: u32) -> SysResult {
    let old = cx.cred.clone();
    let gid = outside(cx, IdKind::Group, gid).unwrap_or(KEEP);
    let known = [old.gid, old.egid, old.sgid, old.fsgid];
    if gid != KEEP && gid != old.fsgid && (known.contains(&gid) || old.has_here(cap::SETGID)) {
        cx.commit_cred(Credentials { fsgid: gid, ..(*old).clone() });
    }
    Ok(old.user_ns.shown(IdKind::Group, old.fsgid).into())
}

/// `getgroups(2)`.
pub(super) fn sys_getgroups(cx: &mut Ctx<'_>, size: i32, list: UserAddr) -> SysResult {
    let groups = cx.cred.groups.clone();
    let size = usize::try_from(size).map_err(|_| EINVAL)?;
    if size != 0 {
        if size < groups.len() {
            return Err(EINVAL.into());
        }
        let bytes: Vec<u8> =
            groups.iter().flat_map(|&g| cx.cred.user_ns.shown(IdKind::Group, g).to_le_bytes()).collect();
        cx.mm.write_all(list, &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// `setgroups(2)`.
///
/// # Errors
/// `EPERM`: no `CAP_SETGID`; `EINVAL`: too many, or one is -1; `EFAULT`.
pub(super) fn sys_setgroups(cx: &mut Ctx<'_>, size: i32, list: UserAddr) -> SysResult {
    let ns = cx.cred.user_ns.clone();
    if !ns.allows_setgroups() || !cx.cred.has_here(cap::SETGID) {
        return Err(EPERM.into());
    }
    let size = usize::try_from(size).ok().filter(|&n| n <= NGROUPS_MAX).ok_or(EINVAL)?;
    let mut bytes = vec![0u8; size * 4];
    cx.mm.read_exact(list, &mut bytes)?;
    let mut groups: Vec<u32> = Vec::with_capacity(size);
    for chunk in bytes.chunks_exact(4) {
        let id = u32::from_le_bytes(chunk.try_into().map_err(|_| EFAULT)?);
        if id == KEEP {
            return Err(EINVAL.into());
        }
        groups.push(ns.outside(IdKind::Group, id).ok_or(EINVAL)?);
    }
    groups.sort_unstable();
    cx.commit_cred(Credentials { groups: Arc::from(groups), ..(*cx.cred).clone() });
    Ok(0)
}

/// How many 32-bit words each set of `capget`'s data has; writes the newest version for one that is not known.
fn cap_words(cx: &Ctx<'_>, header: UserAddr) -> Result<usize, Errno> {
    const NEWEST: u32 = 0x2008_0522;
    let version: u32 = cx.mm.read_value(header)?;
    match version {
        0x1998_0330 => Ok(1),
        0x2007_1026 | NEWEST => Ok(2),
        _ => {
            cx.mm.write_value(header, &NEWEST)?;
            Err(EINVAL)
        }
    }
}

/// `capget(2)`.
///
/// # Errors
/// `EFAULT`; `EINVAL`: the version is not known, or the thread ID is negative; `ESRCH`.
pub(super) fn sys_capget(cx: &mut Ctx<'_>, header: UserAddr, data: UserAddr) -> SysResult {
    let words = match cap_words(cx, header) {
        Err(EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    if data.is_null() {
        return Ok(0);
    }
    let tid: i32 = cx.mm.read_value(header.checked_add(4).ok_or(EFAULT)?)?;
    let cred = match tid {
        i32::MIN..0 => return Err(EINVAL.into()),
        0 => cx.cred.clone(),
        tid => cx.task.find(tid).ok_or(ESRCH)?.cred(),
    };
    let mut bytes = Vec::new();
    for i in 0..words {
        for set in [cred.effective, cred.permitted, cred.inheritable] {
            bytes.extend_from_slice(&((set.0 >> (32 * i)) as u32).to_le_bytes());
        }
    }
    cx.mm.write_all(data, &bytes)?;
    Ok(0)
}

/// `capset(2)`.
///
/// # Errors
/// `EFAULT`; `EINVAL`: the version is not known; `EPERM`: another thread, or more than the thread may have.
pub(super) fn sys_capset(cx: &mut Ctx<'_>, header: UserAddr, data: UserAddr) -> SysResult {
    let words = cap_words(cx, header)?;
    let tid: i32 = cx.mm.read_value(header.checked_add(4).ok_or(EFAULT)?)?;
    if tid != 0 && tid != cx.task.shown_tid {
        return Err(EPERM.into());
    }
    let mut bytes = vec![0u8; words * 12];
    cx.mm.read_exact(data, &mut bytes)?;
    let mut sets = [0u64; 3];
    for (i, chunk) in bytes.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes(chunk.try_into().map_err(|_| EFAULT)?);
        sets[i % 3] |= u64::from(word) << (i / 3 * 32);
    }
    let [effective, permitted, inheritable] = sets.map(|s| s & CapSet::ALL.0);
    let old = cx.cred.clone();
    let added = |new: u64, allowed: u64| new & !allowed != 0;
    if (!old.has_here(cap::SETPCAP) && added(inheritable, old.inheritable.0 | old.permitted.0))
        || added(inheritable, old.inheritable.0 | old.bounding.0)
        || added(permitted, old.permitted.0)
        || added(effective, permitted)
    {
        return Err(EPERM.into());
    }
    cx.commit_cred(Credentials {
        effective: CapSet(effective),
        permitted: CapSet(permitted),
        inheritable: CapSet(inheritable),
        ambient: CapSet(old.ambient.0 & permitted & inheritable),
        ..(*old).clone()
    });
    Ok(0)
}
