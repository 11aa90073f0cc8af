//! A thread's keyrings, and keys as system calls name them (Linux security/keys/process_keys.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EAGAIN, EINVAL, ENOKEY, EPERM};
use base::cred::Credentials;
use base::lock::{Lock, rank};
use base::userns::IdKind;

use super::{
    Key, KeyRef, Keys, Kind, NO_GROUP, NewKey, POS, POS_ALL, Quota, USER_KEYRING_PERM, USR, Wanted, need,
};
use crate::task::{Ctx, Task};

const THREAD: i32 = -1;
const PROCESS: i32 = -2;
const SESSION: i32 = -3;
const USER: i32 = -4;
const USER_SESSION: i32 = -5;
const GROUP: i32 = -6;
const REQUESTOR: i32 = -8;

/// The keyrings that a thread has.
#[derive(Clone, Debug, Default)]
pub struct TaskKeys {
    pub(crate) thread: Option<Arc<Key>>,
    pub(crate) process: Option<Arc<Key>>,
    pub(crate) session: Option<Arc<Key>>,
    /// `KEYCTL_SET_REQKEY_KEYRING`.
    pub(crate) default_ring: i32,
}

impl TaskKeys {
    /// Those of a new thread or process (`copy_creds`).
    pub fn forked(&self, is_thread: bool) -> Self {
        let process = if is_thread { self.process.clone() } else { None };
        Self { thread: None, process, ..self.clone() }
    }

    /// Those of a new program.
    pub fn executed(&self) -> Self {
        self.forked(false)
    }
}

/// How a key is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Special keyrings that are not there are made.
    pub create: bool,
    /// What is wanted: bits of [`need`]; nothing is checked for 0.
    pub need: u32,
    /// Whether a key that is revoked or expired will do.
    pub any_state: bool,
}

impl Lookup {
    /// To do `need`.
    pub fn to(need: u32) -> Self {
        Self { create: false, need, any_state: false }
    }

    /// To do `need`, with a keyring that may have to be made.
    pub fn or_make(need: u32) -> Self {
        Self { create: true, ..Self::to(need) }
    }
}

impl Keys {
    /// A keyring that belongs to nobody but its holder.
    fn new_ring(
        self: &Arc<Self>,
        name: &[u8],
        cred: &Credentials,
        user_perm: u32,
        quota: Quota,
    ) -> Result<Arc<Key>, Errno> {
        let new = NewKey {
            kind: Kind::Keyring,
            description: name,
            uid: cred.uid,
            gid: cred.gid,
            perm: POS_ALL | user_perm << USR,
            payload: Vec::new(),
            quota,
            is_of_user: false,
        };
        self.make(new, cred)
    }

    /// `_uid.N` and `_uid_ses.N`, made if need be (`look_up_user_keyrings`).
    fn user_rings(self: &Arc<Self>, cred: &Credentials) -> Result<(Arc<Key>, Arc<Key>), Errno> {
        let get = |rings: &Lock<super::UserRings, { rank::LEAF }>| match rings
            .lock()
            .get(&cred.uid)
            .map(Vec::as_slice)
        {
            Some([user, session]) => Some((user.clone(), session.clone())),
            _ => None,
        };
        if let Some(both) = get(&self.user_rings) {
            return Ok(both);
        }
        let shown = cred.user_ns.shown(IdKind::User, cred.uid);
        let make = |name: String| {
            let new = NewKey {
                kind: Kind::Keyring,
                description: name.as_bytes(),
                uid: cred.uid,
                gid: NO_GROUP,
                perm: USER_KEYRING_PERM,
                payload: Vec::new(),
                quota: Quota::Counts,
                is_of_user: true,
            };
            self.make(new, cred)
        };
        let (user, session) = (make(format!("_uid.{shown}"))?, make(format!("_uid_ses.{shown}"))?);
        self.link(&session, &user)?;
        let raced = {
            let mut rings = self.user_rings.lock();
            let list = rings.entry(cred.uid).or_default();
            if list.is_empty() {
                list.extend([user.clone(), session.clone()]);
                false
            } else {
                true
            }
        };
        if raced && let Some(both) = get(&self.user_rings) {
            return Ok(both);
        }
        Ok((user, session))
    }

    /// `_persistent.N` (`key_get_persistent`).
    pub(crate) fn persistent(self: &Arc<Self>, uid: u32, cred: &Credentials) -> Result<Arc<Key>, Errno> {
        let now = self.now();
        let found = self.persistent.lock().get(&uid).cloned();
        if let Some(ring) = found.filter(|ring| ring.validate(now).is_ok()) {
            return Ok(ring);
        }
        let name = format!("_persistent.{}", cred.user_ns.shown(IdKind::User, uid));
        let user = need::VIEW | need::READ;
        let all_but_setattr = POS_ALL & !(need::SETATTR << POS);
        let new = NewKey {
            kind: Kind::Keyring,
            description: name.as_bytes(),
            uid,
            gid: NO_GROUP,
            perm: all_but_setattr | user << USR,
            payload: Vec::new(),
            quota: Quota::Free,
            is_of_user: false,
        };
        let ring = self.make(new, cred)?;
        let former = self.persistent.lock().insert(uid, ring.clone());
        drop(former);
        Ok(ring)
    }

    /// When a persistent keyring that is used now is to go.
    pub(crate) fn renew_persistent(&self, ring: &Key) {
        let after = self.settings.persistent_keyring_expiry.load(Ordering::Relaxed);
        ring.state.lock().expiry = Some(self.now().saturating_add(after.into()));
    }
}

impl Task {
    /// Takes the thread's keyrings: it ends, or another program begins.
    pub(crate) fn take_keys(&self) -> TaskKeys {
        std::mem::take(&mut *self.keys.lock())
    }
}

impl Ctx<'_> {
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.task.kernel.keys.clone()
    }

    /// Changes the thread's keyrings; what is replaced goes afterwards.
    fn set_keys(&self, change: impl FnOnce(&mut TaskKeys)) {
        let mut new = self.task.keys.lock().clone();
        change(&mut new);
        let former = std::mem::replace(&mut *self.task.keys.lock(), new);
        drop(former);
    }

    /// `join_session_keyring` without a name.
    fn new_session(&self) -> Result<Arc<Key>, Errno> {
        let has_one = self.task.keys.lock().session.is_some();
        let quota = if has_one { Quota::Counts } else { Quota::Overruns };
        let ring = self.keys().new_ring(b"_ses", &self.cred, need::VIEW | need::READ, quota)?;
        self.set_keys(|k| k.session = Some(ring.clone()));
        Ok(ring)
    }

    /// `KEYCTL_JOIN_SESSION_KEYRING`; returns the number.
    ///
    /// # Errors
    /// `EPERM`: a name of the kernel's; `EDQUOT`, `ENOMEM`, `EINVAL`.
    pub(crate) fn join_session(&self, name: Option<&[u8]>) -> Result<i32, Errno> {
        let Some(name) = name else { return Ok(self.new_session()?.serial) };
        if name.first() == Some(&b'.') {
            return Err(EPERM);
        }
        let keys = self.keys();
        let ring = match keys.named(name, &self.cred) {
            Some(ring) => ring,
            None => {
                let user = need::VIEW | need::READ | need::LINK;
                keys.new_ring(name, &self.cred, user, Quota::Counts)?
            }
        };
        if self.task.keys.lock().session.as_ref().is_some_and(|own| Arc::ptr_eq(own, &ring)) {
            return Ok(0);
        }
        self.set_keys(|k| k.session = Some(ring.clone()));
        Ok(ring.serial)
    }

    /// A special keyring (`lookup_user_key`).
    fn special(&self, id: i32, create: bool) -> Result<Arc<Key>, Errno> {
        let keys = self.keys();
        let own = self.task.keys.lock().clone();
        match id {
            THREAD | PROCESS => {
                let (have, name): (_, &[u8]) =
                    if id == THREAD { (own.thread, b"_tid") } else { (own.process, b"_pid") };
                if let Some(ring) = have {
                    return Ok(ring);
                }
                if !create {
                    return Err(ENOKEY);
                }
                let ring = keys.new_ring(name, &self.cred, need::VIEW, Quota::Overruns)?;
                self.set_keys(|k| {
                    *(if id == THREAD { &mut k.thread } else { &mut k.process }) = Some(ring.clone())
                });
                Ok(ring)
            }
            SESSION => match own.session {
                Some(ring) if !(ring.is_of_user && create) => Ok(ring),
                _ if create => self.new_session(),
                _ => {
                    let (_, session) = keys.user_rings(&self.cred)?;
                    self.set_keys(|k| k.session = Some(session.clone()));
                    Ok(session)
                }
            },
            USER => Ok(keys.user_rings(&self.cred)?.0),
            USER_SESSION => Ok(keys.user_rings(&self.cred)?.1),
            GROUP => Err(EINVAL),
            // No thread here ever instantiates a key for another.
            REQUESTOR..THREAD => Err(ENOKEY),
            _ => Err(EINVAL),
        }
    }

    /// The key that a call names (`lookup_user_key`).
    ///
    /// # Errors
    /// `ENOKEY`; `EINVAL`: no such special keyring; `EKEYREVOKED`, `EKEYEXPIRED`; `EACCES`; those of making a keyring.
    pub(crate) fn lookup_key(&self, id: i32, how: Lookup) -> Result<KeyRef, Errno> {
        let keys = self.keys();
        let found = if id < 0 {
            KeyRef { key: self.special(id, how.create)?, possessed: true }
        } else if id == 0 {
            return Err(EINVAL);
        } else {
            let key = keys.get(id)?;
            let possessed = self.search_own(Wanted::This(&key)).is_ok();
            KeyRef { key, possessed }
        };
        if !how.any_state {
            found.key.validate(keys.now())?;
        }
        found.key.allows(found.possessed, &self.cred, how.need)?;
        Ok(found)
    }

    /// Searches the thread's keyrings (`search_process_keyrings_rcu`).
    ///
    /// # Errors
    /// `EAGAIN`: it is not there; others as [`Keys::search`].
    pub(crate) fn search_own(&self, wanted: Wanted<'_>) -> Result<KeyRef, Errno> {
        let keys = self.keys();
        let own = self.task.keys.lock().clone();
        let fallback = || keys.user_rings.lock().get(&self.cred.uid).and_then(|rings| rings.get(1).cloned());
        let session = own.session.clone().or_else(fallback);
        let mut absent = None;
        let mut other = EAGAIN;
        for ring in [own.thread, own.process, session].into_iter().flatten() {
            match keys.search(&KeyRef { key: ring, possessed: true }, &self.cred, wanted) {
                Ok(found) => return Ok(found),
                Err(EAGAIN) => absent = absent.or(Some(EAGAIN)),
                Err(e) => other = e,
            }
        }
        Err(if other == EAGAIN { absent.unwrap_or(EAGAIN) } else { absent.unwrap_or(other) })
    }

    /// `KEYCTL_SESSION_TO_PARENT`.
    ///
    /// # Errors
    /// `EPERM`: the parent is another's, or has threads; those of looking the session's keyring up.
    pub(crate) fn give_session_to_parent(&self) -> Result<(), Errno> {
        let session = self.lookup_key(SESSION, Lookup::to(need::LINK))?.key;
        let kernel = &self.task.kernel;
        let parent = {
            let tree = kernel.tree.lock();
            let pid = tree.processes.get(&self.task.group.pid).map_or(0, |p| p.parent);
            tree.processes.get(&pid).filter(|_| pid > 1).map(|p| p.group.clone())
        };
        let parent = parent.ok_or(EPERM)?;
        let thread = parent.first_thread().ok_or(EPERM)?;
        let its = thread.keys.lock().clone();
        if its.session.as_ref().is_some_and(|ring| Arc::ptr_eq(ring, &session)) {
            return Ok(());
        }
        let (mine, theirs) = (&self.cred, thread.cred());
        let ids = |c: &Credentials| [c.uid, c.euid, c.suid, c.gid, c.egid, c.sgid];
        let owner = |ring: &Arc<Key>| ring.state.lock().uid;
        if parent.live.load(Ordering::SeqCst) != 1
            || ids(mine) != ids(&theirs)
            || its.session.as_ref().is_some_and(|ring| owner(ring) != mine.euid)
            || owner(&session) != mine.euid
        {
            return Err(EPERM);
        }
        let former = thread.keys.lock().session.replace(session);
        drop(former);
        Ok(())
    }

    /// Whether the caller may give a key away, or see another's.
    pub(crate) fn is_key_admin(&self) -> Result<(), Errno> {
        if self.cred.has(base::cred::cap::SYS_ADMIN) { Ok(()) } else { Err(EACCES) }
    }
}
