//! Keys (keyrings(7); Linux security/keys/keyctl.c).

use abi::errno::{
    EACCES, EAGAIN, EFAULT, EINVAL, ENODEV, ENOENT, ENOKEY, ENOMEM, ENOTDIR, EOPNOTSUPP, EPERM,
};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::userns::IdKind;

use super::SysResult;
use crate::keys::{Key, KeyRef, Kind, Lookup, NO_GROUP, NewKey, PERM_ALL, Quota, Wanted, need};
use crate::task::Ctx;

const TYPE_MAX: usize = 32;
const DESCRIPTION_MAX: usize = 4096;
const PAYLOAD_MAX: u64 = (1 << 20) - 1;
const PAGE: u64 = 4096;

/// A type's name (`key_get_type_from_user`).
fn type_name(cx: &Ctx<'_>, addr: UserAddr) -> Result<Vec<u8>, Errno> {
    let name = cx.mm.read_cstr(addr, TYPE_MAX).map_err(|e| if e == EFAULT { EFAULT } else { EINVAL })?;
    match name.first() {
        None => Err(EINVAL),
        Some(b'.') => Err(EPERM),
        Some(_) => Ok(name),
    }
}

/// A string of at most a page (`strndup_user`).
fn text(cx: &Ctx<'_>, addr: UserAddr) -> Result<Vec<u8>, Errno> {
    cx.mm.read_cstr(addr, DESCRIPTION_MAX).map_err(|e| if e == EFAULT { EFAULT } else { EINVAL })
}

fn payload(cx: &Ctx<'_>, addr: UserAddr, len: u64) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| ENOMEM)?];
    if !bytes.is_empty() {
        cx.mm.read_exact(addr, &mut bytes)?;
    }
    Ok(bytes)
}

fn number(key: &Key) -> u64 {
    u64::from(key.serial.cast_unsigned())
}

/// `add_key(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: a payload or name too long, `EPERM`: a name of the kernel's, `EFAULT`; those of looking the
/// keyring up; `ENODEV`: an unknown type; `EINVAL`, `ENOTDIR`, `EACCES`, `EDQUOT`, `ENOMEM` and those of a link.
pub(super) fn sys_add_key(
    cx: &mut Ctx<'_>,
    kind: UserAddr,
    description: UserAddr,
    data: UserAddr,
    len: u64,
    ring: i32,
) -> SysResult {
    if len > PAYLOAD_MAX {
        return Err(EINVAL.into());
    }
    let kind = type_name(cx, kind)?;
    let description = if description.is_null() { Vec::new() } else { text(cx, description)? };
    if description.first() == Some(&b'.') && kind.starts_with(b"keyring") {
        return Err(EPERM.into());
    }
    let payload = payload(cx, data, len)?;
    let ring = cx.lookup_key(ring, Lookup::or_make(need::WRITE))?;
    let kind = Kind::of(&kind).ok_or(ENODEV)?;
    if ring.key.kind != Kind::Keyring {
        return Err(ENOTDIR.into());
    }
    kind.check_payload(&payload)?;
    if description.is_empty() {
        return Err(EINVAL.into());
    }
    let keys = cx.keys();
    ring.key.check_open()?;
    if kind.is_updatable()
        && let Some(old) = keys.linked(&ring.key, kind, &description)
    {
        old.allows(ring.possessed, &cx.cred, need::WRITE)?;
        keys.update(&old, payload)?;
        return Ok(number(&old));
    }
    let new = NewKey {
        kind,
        description: &description,
        uid: cx.cred.fsuid,
        gid: cx.cred.fsgid,
        perm: kind.default_perm(),
        payload,
        quota: Quota::Counts,
        is_of_user: false,
    };
    let key = keys.make(new, &cx.cred)?;
    keys.link(&ring.key, &key)?;
    Ok(number(&key))
}

/// `request_key(2)`: nobody is asked to make a key that is not there.
///
/// # Errors
/// As add_key(2); `ENOKEY`: it is not there; `ENOENT`: it is not, and there is no program that makes one.
pub(super) fn sys_request_key(
    cx: &mut Ctx<'_>,
    kind: UserAddr,
    description: UserAddr,
    callout: UserAddr,
    ring: i32,
) -> SysResult {
    let kind = type_name(cx, kind)?;
    let description = text(cx, description)?;
    if !callout.is_null() {
        text(cx, callout)?;
    }
    let ring = match ring {
        0 => None,
        id => Some(cx.lookup_key(id, Lookup::or_make(need::WRITE))?),
    };
    let kind = Kind::of(&kind).ok_or(ENOKEY)?;
    match cx.search_own(Wanted::Named(kind, &description)) {
        Ok(found) => {
            link_found(cx, &found, ring.as_ref())?;
            Ok(number(&found.key))
        }
        Err(EAGAIN) if callout.is_null() => Err(ENOKEY.into()),
        Err(EAGAIN) if kind == Kind::Keyring => Err(EPERM.into()),
        Err(EAGAIN) => Err(ENOENT.into()),
        Err(e) => Err(e.into()),
    }
}

fn link_found(cx: &Ctx<'_>, found: &KeyRef, ring: Option<&KeyRef>) -> Result<(), Errno> {
    let Some(ring) = ring else { return Ok(()) };
    found.key.allows(found.possessed, &cx.cred, need::LINK)?;
    cx.keys().link(&ring.key, &found.key)
}

/// What the possessor of a key may always look up, in whatever state the key is.
fn attributes(need: u32) -> Lookup {
    Lookup { create: true, need, any_state: false }
}

/// `keyctl(2)`.
///
/// # Errors
/// `EOPNOTSUPP`: an unknown operation; else as keyctl(2) has them.
pub(super) fn sys_keyctl(cx: &mut Ctx<'_>, operation: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> SysResult {
    let (id, second) = (a2 as i32, a3 as i32);
    let keys = cx.keys();
    match operation {
        0 => {
            let create = second != 0;
            let how = Lookup { create, ..Lookup::to(need::SEARCH) };
            return Ok(number(&cx.lookup_key(id, how)?.key));
        }
        1 => {
            let name = if a2 == 0 { None } else { Some(text(cx, UserAddr(a2))?) };
            return Ok(u64::from(cx.join_session(name.as_deref())?.cast_unsigned()));
        }
        2 => {
            if a4 > PAGE {
                return Err(EINVAL.into());
            }
            let payload = payload(cx, UserAddr(a3), a4)?;
            let found = cx.lookup_key(id, Lookup::to(need::WRITE))?;
            keys.update(&found.key, payload)?;
        }
        3 => {
            let found = match cx.lookup_key(id, Lookup::to(need::WRITE)) {
                Err(EACCES) => cx.lookup_key(id, Lookup::to(need::SETATTR)),
                other => other,
            }?;
            keys.revoke(&found.key);
        }
        4 => chown(cx, id, a3 as u32, a4 as u32)?,
        5 => {
            let perm = a3 as u32;
            if perm & !PERM_ALL != 0 {
                return Err(EINVAL.into());
            }
            let key = cx.lookup_key(id, attributes(need::SETATTR))?.key;
            let mut state = key.state.lock();
            if state.uid != cx.cred.fsuid && !cx.cred.has(cap::SYS_ADMIN) {
                return Err(EACCES.into());
            }
            state.perm = perm;
        }
        6 => return describe(cx, id, UserAddr(a3), a4),
        7 => keys.clear(&cx.lookup_key(id, Lookup::or_make(need::WRITE))?.key)?,
        8 => {
            let ring = cx.lookup_key(second, Lookup::or_make(need::WRITE))?;
            let found = cx.lookup_key(id, Lookup::or_make(need::LINK))?;
            keys.link(&ring.key, &found.key)?;
        }
        9 => {
            let ring = cx.lookup_key(second, Lookup::to(need::WRITE))?;
            let found = cx.lookup_key(id, Lookup { any_state: true, ..Lookup::to(0) })?;
            keys.unlink(&ring.key, &found.key)?;
        }
        10 => return search(cx, id, UserAddr(a3), UserAddr(a4), a5 as i32),
        11 => return read(cx, id, UserAddr(a3), a4),
        // Nobody is asked to make keys, so nobody may.
        12 if a4 > PAYLOAD_MAX => return Err(EINVAL.into()),
        12 | 13 | 20 => return Err(EPERM.into()),
        19 => {
            let error = a4 as u32;
            let is_bad = error == 0 || error >= 4095 || (512..=516).contains(&error);
            return Err(if is_bad { EINVAL } else { EPERM }.into());
        }
        14 => return default_ring(cx, id),
        15 => {
            let key = cx.lookup_key(id, attributes(need::SETATTR))?.key;
            let seconds = a3 as u32;
            let at = (seconds > 0).then(|| keys.now().saturating_add(seconds.into()));
            key.state.lock().expiry = at;
        }
        16 => {
            return match id {
                i32::MIN..0 => Err(EINVAL.into()),
                0 => Ok(0),
                _ => Err(ENOKEY.into()),
            };
        }
        17 => {
            cx.lookup_key(id, Lookup::to(need::VIEW))?;
            // There is no security module to label keys.
            if a3 != 0 && a4 > 0 {
                cx.mm.write_all(UserAddr(a3), b"\0")?;
            }
            return Ok(1);
        }
        18 => cx.give_session_to_parent()?,
        21 => keys.invalidate(&cx.lookup_key(id, Lookup::to(need::SEARCH))?.key),
        22 => return persistent(cx, a2 as u32, second),
        29 => {
            let ring = cx.lookup_key(id, Lookup::to(need::SETATTR))?;
            if a3 != 0 {
                type_name(cx, UserAddr(a3))?;
                if a4 == 0 {
                    return Err(EINVAL.into());
                }
                text(cx, UserAddr(a4))?;
                // No type here knows restrictions.
                return Err(if ring.key.kind == Kind::Keyring { ENOENT } else { ENOTDIR }.into());
            }
            if a4 != 0 {
                return Err(EINVAL.into());
            }
            keys.restrict(&ring.key)?;
        }
        30 => {
            const EXCL: u64 = 1;
            if a5 & !EXCL != 0 {
                return Err(EINVAL.into());
            }
            let found = cx.lookup_key(id, Lookup::or_make(need::LINK))?;
            let from = cx.lookup_key(second, Lookup::to(need::WRITE))?;
            let to = cx.lookup_key(a4 as i32, Lookup::or_make(need::WRITE))?;
            keys.relink(&found.key, &from.key, &to.key, a5 & EXCL != 0)?;
        }
        31 => return capabilities(cx, UserAddr(a2), a3),
        _ => return Err(EOPNOTSUPP.into()),
    }
    Ok(0)
}

fn chown(cx: &Ctx<'_>, id: i32, uid: u32, gid: u32) -> Result<(), Errno> {
    const SAME: u32 = u32::MAX;
    let ns = &cx.cred.user_ns;
    let outside = |kind, id| if id == SAME { Ok(None) } else { ns.outside(kind, id).map(Some).ok_or(EINVAL) };
    let (uid, gid) = (outside(IdKind::User, uid)?, outside(IdKind::Group, gid)?);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let key = cx.lookup_key(id, attributes(need::SETATTR))?.key;
    let (owner, group) = {
        let state = key.state.lock();
        (state.uid, state.gid)
    };
    let is_own_group = |gid| gid == group || cx.cred.fsgid == gid || cx.cred.in_group(gid);
    if uid.is_some_and(|uid| uid != owner) || gid.is_some_and(|gid| !is_own_group(gid)) {
        cx.is_key_admin()?;
    }
    cx.keys().chown(&key, uid, gid)
}

fn describe(cx: &Ctx<'_>, id: i32, buf: UserAddr, len: u64) -> SysResult {
    let key = cx.lookup_key(id, Lookup::to(need::VIEW))?.key;
    let ns = &cx.cred.user_ns;
    let mut answer = {
        let state = key.state.lock();
        let gid = if state.gid == NO_GROUP { 65534 } else { ns.shown(IdKind::Group, state.gid) };
        let uid = ns.shown(IdKind::User, state.uid);
        format!("{};{uid};{gid};{:08x};", key.kind.name(), state.perm).into_bytes()
    };
    answer.extend_from_slice(&key.description);
    answer.push(0);
    if !buf.is_null() && len >= answer.len() as u64 {
        cx.mm.write_all(buf, &answer)?;
    }
    Ok(answer.len() as u64)
}

fn search(cx: &Ctx<'_>, ring: i32, kind: UserAddr, description: UserAddr, dest: i32) -> SysResult {
    let kind = type_name(cx, kind)?;
    let description = text(cx, description)?;
    let ring = cx.lookup_key(ring, Lookup::to(need::SEARCH))?;
    let dest = match dest {
        0 => None,
        id => Some(cx.lookup_key(id, Lookup::or_make(need::WRITE))?),
    };
    let kind = Kind::of(&kind).ok_or(ENOKEY)?;
    let found = cx.keys().search(&ring, &cx.cred, Wanted::Named(kind, &description));
    let found = found.map_err(|e| if e == EAGAIN { ENOKEY } else { e })?;
    link_found(cx, &found, dest.as_ref())?;
    Ok(number(&found.key))
}

fn read(cx: &Ctx<'_>, id: i32, buf: UserAddr, len: u64) -> SysResult {
    let any = Lookup { any_state: true, ..Lookup::to(0) };
    let found = cx.lookup_key(id, any).map_err(|_| ENOKEY)?;
    // Who found it by a search may read it as well.
    if found.key.allows(found.possessed, &cx.cred, need::READ).is_err() && !found.possessed {
        return Err(EACCES.into());
    }
    if !found.key.kind.is_readable() {
        return Err(EOPNOTSUPP.into());
    }
    let keys = cx.keys();
    found.key.validate(keys.now())?;
    // keyring_read, which is told of no more than a page at first.
    if found.key.kind == Kind::Keyring && !buf.is_null() && len <= PAGE && !len.is_multiple_of(4) {
        return Err(EINVAL.into());
    }
    let bytes = match found.key.kind {
        Kind::Keyring => keys.links(&found.key).iter().flat_map(|key| key.serial.to_ne_bytes()).collect(),
        _ => found.key.state.lock().payload.clone(),
    };
    if !buf.is_null() && !bytes.is_empty() && len >= bytes.len() as u64 {
        cx.mm.write_all(buf, &bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn default_ring(cx: &Ctx<'_>, value: i32) -> SysResult {
    const NO_CHANGE: i32 = -1;
    const THREAD: i32 = 1;
    const PROCESS: i32 = 2;
    let before = cx.task.keys.lock().default_ring;
    match value {
        NO_CHANGE => {}
        // -1 and -2 are the special keyrings.
        THREAD | PROCESS => drop(cx.lookup_key(-value, Lookup::or_make(0))?),
        0 | 3..=5 | 7 => {}
        _ => return Err(EINVAL.into()),
    }
    if value != NO_CHANGE {
        cx.task.keys.lock().default_ring = value;
    }
    Ok(before as u64)
}

fn persistent(cx: &Ctx<'_>, uid: u32, dest: i32) -> SysResult {
    let uid = match uid {
        u32::MAX => cx.cred.uid,
        uid => {
            let uid = cx.cred.user_ns.outside(IdKind::User, uid).ok_or(EINVAL)?;
            if uid != cx.cred.uid && uid != cx.cred.euid && !cx.cred.has_here(cap::SETUID) {
                return Err(EPERM.into());
            }
            uid
        }
    };
    let dest = cx.lookup_key(dest, Lookup::or_make(need::WRITE))?;
    if dest.key.kind != Kind::Keyring {
        return Err(ENOTDIR.into());
    }
    let keys = cx.keys();
    let ring = keys.persistent(uid, &cx.cred)?;
    ring.allows(true, &cx.cred, need::LINK)?;
    keys.link(&dest.key, &ring)?;
    keys.renew_persistent(&ring);
    Ok(number(&ring))
}

fn capabilities(cx: &Ctx<'_>, buf: UserAddr, len: u64) -> SysResult {
    // CAPABILITIES, PERSISTENT_KEYRINGS, BIG_KEY, INVALIDATE, RESTRICT_KEYRING, MOVE; NS_KEYRING_NAME, NS_KEY_TAG.
    const HAVE: [u8; 2] = [0x01 | 0x02 | 0x10 | 0x20 | 0x40 | 0x80, 0x01 | 0x02];
    let len = usize::try_from(len).map_err(|_| EFAULT)?;
    if len > 0 {
        let shown = len.min(HAVE.len());
        cx.mm.write_all(buf, &HAVE[..shown])?;
        let rest = len - shown;
        if rest > 0 {
            let at = buf.checked_add(shown as u64).ok_or(EFAULT)?;
            cx.mm.check_range(at, rest as u64)?;
            if cx.mm.zero_out(at, rest)? != rest {
                return Err(EFAULT.into());
            }
        }
    }
    Ok(HAVE.len() as u64)
}
