//! Keys and keyrings (keyrings(7); Linux security/keys/).
//!
//! Reading order: this file (keys, who may use them, quotas); `ring.rs` (links and searches); `task.rs` (a thread's
//! keyrings, and keys as calls name them); `report.rs` (/proc). The calls are in `syscall/keys.rs`.
//!
//! Locks: changes of links hold `KEYRINGS`, so that no ring of keyrings comes about; under it the tables (`KEYS`), then one
//! key (`KEY`). The last reference to a key is dropped under none of them. No guest memory is touched under any.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EDQUOT, EINVAL, EIO, EKEYEXPIRED, EKEYREVOKED, ENOKEY, ENOMEM, EOPNOTSUPP, EPERM};
use base::cred::Credentials;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::userns::UserNamespace;

use crate::time::{Clock, Timekeeper};

pub mod report;
mod ring;
mod task;

pub use ring::Wanted;
pub use task::{Lookup, TaskKeys};

/// What a caller wants to do with a key: bits of its permissions, seen from one of the four kinds of users.
#[expect(missing_docs, reason = "keyrings(7) explains each")]
pub mod need {
    pub const VIEW: u32 = 1;
    pub const READ: u32 = 2;
    pub const WRITE: u32 = 4;
    pub const SEARCH: u32 = 8;
    pub const LINK: u32 = 16;
    pub const SETATTR: u32 = 32;
}

/// `KEY_POS_ALL`.
pub const POS_ALL: u32 = 0x3f00_0000;
/// `KEY_POS_*`, `KEY_USR_*`, `KEY_GRP_*`, `KEY_OTH_*`.
pub const PERM_ALL: u32 = 0x3f3f_3f3f;
const POS: u32 = 24;
const USR: u32 = 16;
/// What a user's keyrings may be used for.
const USER_KEYRING_PERM: u32 = (POS_ALL & !(need::SETATTR << POS)) | 0x3f_0000;
/// `INVALID_GID`.
pub const NO_GROUP: u32 = u32::MAX;

/// The longest payload of `user` and `logon`.
const USER_MAX: usize = 32767;
const BIG_MAX: usize = 1 << 20;
/// What a payload of `big_key` counts for.
const BIG_QUOTA: u32 = 16;
/// What a link counts for in its keyring.
const LINK_BYTES: u32 = 4;
/// The sentry's own memory for a key, and for a link.
const KEY_MEMORY: usize = 512;
const LINK_MEMORY: usize = 16;

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Links to other keys.
    Keyring,
    /// Bytes.
    User,
    /// Bytes that no program can read.
    Logon,
    /// Many bytes.
    BigKey,
}

impl Kind {
    /// The type called `name`.
    pub fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"keyring" => Self::Keyring,
            b"user" => Self::User,
            b"logon" => Self::Logon,
            b"big_key" => Self::BigKey,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyring => "keyring",
            Self::User => "user",
            Self::Logon => "logon",
            Self::BigKey => "big_key",
        }
    }

    /// Whether a payload can be replaced.
    pub fn is_updatable(self) -> bool {
        self != Self::Keyring
    }

    /// Whether a payload can be read.
    pub fn is_readable(self) -> bool {
        self != Self::Logon
    }

    /// Whether `payload` will do.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn check_payload(self, payload: &[u8]) -> Result<(), Errno> {
        let fits = match self {
            Self::Keyring => payload.is_empty(),
            Self::User | Self::Logon => (1..=USER_MAX).contains(&payload.len()),
            Self::BigKey => (1..=BIG_MAX).contains(&payload.len()),
        };
        if fits { Ok(()) } else { Err(EINVAL) }
    }

    fn check_description(self, text: &[u8]) -> Result<(), Errno> {
        // A service comes first.
        let service = text.iter().position(|&b| b == b':');
        let is_bad = text.is_empty() || self == Self::Logon && matches!(service, None | Some(0));
        if is_bad { Err(EINVAL) } else { Ok(()) }
    }

    fn quota(self, payload: &[u8]) -> u32 {
        match self {
            Self::Keyring => 0,
            Self::BigKey => BIG_QUOTA,
            Self::User | Self::Logon => payload.len() as u32,
        }
    }

    /// Permissions of a key that somebody adds.
    pub fn default_perm(self) -> u32 {
        let mut possessor = need::VIEW | need::SEARCH | need::LINK | need::SETATTR;
        if self.is_readable() {
            possessor |= need::READ;
        }
        // Keyrings and what can be updated: all there are.
        possessor |= need::WRITE;
        possessor << POS | need::VIEW << USR
    }
}

/// How a new key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// It does, and must fit.
    Counts,
    /// It does, and may be too much.
    Overruns,
    /// It does not.
    Free,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) perm: u32,
    /// Seconds of `CLOCK_REALTIME`.
    pub(crate) expiry: Option<i64>,
    revoked_at: Option<i64>,
    pub(crate) is_invalidated: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) links: Vec<Arc<Key>>,
    /// Nothing may be linked any more.
    is_restricted: bool,
    in_quota: bool,
    /// Bytes that it counts for.
    quota: u32,
    kept: Kept,
}

/// A key or keyring.
#[derive(Debug)]
pub struct Key {
    /// Its number.
    pub serial: i32,
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub description: Box<[u8]>,
    /// One of the two keyrings of a user.
    pub(crate) is_of_user: bool,
    /// Where its name is known.
    user_ns: Arc<UserNamespace>,
    home: Weak<Keys>,
    pub(crate) state: Lock<State, { rank::KEY }>,
}

/// A key as somebody found it: whoever possesses it may do more.
#[derive(Clone, Debug)]
pub struct KeyRef {
    /// The key.
    pub key: Arc<Key>,
    /// It was found in one of the thread's keyrings.
    pub possessed: bool,
}

/// What keys of a user count for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct User {
    pub(crate) keys: u32,
    pub(crate) quota_keys: u32,
    pub(crate) quota_bytes: u32,
}

#[derive(Debug, Default)]
struct Tables {
    serials: BTreeMap<i32, Weak<Key>>,
    names: HashMap<Vec<u8>, Vec<(i32, Weak<Key>)>>,
    users: BTreeMap<u32, User>,
}

/// `/proc/sys/kernel/keys`.
#[derive(Debug)]
#[expect(missing_docs, reason = "keyrings(7) explains each")]
pub struct Settings {
    pub maxkeys: AtomicU32,
    pub maxbytes: AtomicU32,
    pub root_maxkeys: AtomicU32,
    pub root_maxbytes: AtomicU32,
    pub gc_delay: AtomicU32,
    pub persistent_keyring_expiry: AtomicU32,
}

/// The keyrings that a user has without asking: `_uid.N`, `_uid_ses.N`, `_persistent.N`.
type UserRings = HashMap<u32, Vec<Arc<Key>>>;

/// All keys of the sandbox.
#[derive(Debug)]
pub struct Keys {
    /// What they may take.
    pub settings: Settings,
    time: Arc<Timekeeper>,
    structure: Lock<(), { rank::KEYRINGS }>,
    tables: Lock<Tables, { rank::KEYS }>,
    user_rings: Lock<UserRings, { rank::LEAF }>,
    persistent: Lock<HashMap<u32, Arc<Key>>, { rank::LEAF }>,
}

/// What a new key is to be.
pub struct NewKey<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub description: &'a [u8],
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Who may do what.
    pub perm: u32,
    /// What is in it.
    pub payload: Vec<u8>,
    /// How it counts.
    pub quota: Quota,
    /// Whether it is one of a user's keyrings.
    pub is_of_user: bool,
}

impl Keys {
    /// None yet.
    pub fn new(time: Arc<Timekeeper>) -> Arc<Self> {
        Arc::new(Self {
            settings: Settings {
                maxkeys: AtomicU32::new(200),
                maxbytes: AtomicU32::new(20_000),
                root_maxkeys: AtomicU32::new(1_000_000),
                root_maxbytes: AtomicU32::new(25_000_000),
                gc_delay: AtomicU32::new(300),
                persistent_keyring_expiry: AtomicU32::new(3 * 24 * 3600),
            },
            time,
            structure: Lock::default(),
            tables: Lock::default(),
            user_rings: Lock::default(),
            persistent: Lock::default(),
        })
    }

    /// Seconds of `CLOCK_REALTIME`.
    pub(crate) fn now(&self) -> i64 {
        self.time.now(Clock::Realtime).sec
    }

    pub(crate) fn limits_of(&self, uid: u32) -> (u32, u32) {
        let s = &self.settings;
        let (keys, bytes) =
            if uid == 0 { (&s.root_maxkeys, &s.root_maxbytes) } else { (&s.maxkeys, &s.maxbytes) };
        (keys.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Makes a key (`key_alloc`, `key_instantiate_and_link` without the link).
    ///
    /// # Errors
    /// `EINVAL`: a bad name; `EDQUOT`; `ENOMEM`.
    pub fn make(self: &Arc<Self>, new: NewKey<'_>, cred: &Credentials) -> Result<Arc<Key>, Errno> {
        new.kind.check_description(new.description)?;
        let kept = Kept::new(KEY_MEMORY + new.description.len() + new.payload.len()).map_err(|_| ENOMEM)?;
        let bytes = (new.description.len() as u32 + 1).saturating_add(new.kind.quota(&new.payload));
        let in_quota = new.quota != Quota::Free;
        let mut random = [0u8; 4];
        let mut tables = self.tables.lock();
        if in_quota {
            let (max_keys, max_bytes) = self.limits_of(new.uid);
            let user = tables.users.get(&new.uid).copied().unwrap_or_default();
            let fits = user.quota_keys < max_keys
                && user.quota_bytes.checked_add(bytes).is_some_and(|sum| sum <= max_bytes);
            if !fits && new.quota == Quota::Counts {
                return Err(EDQUOT);
            }
        }
        let serial = loop {
            host::file::random(&mut random).map_err(|_| EIO)?;
            let serial = i32::from_ne_bytes(random) & i32::MAX;
            if serial >= 3 && !tables.serials.contains_key(&serial) {
                break serial;
            }
        };
        tables.enter(new.uid, in_quota, bytes);
        let key = Arc::new(Key {
            serial,
            kind: new.kind,
            description: new.description.into(),
            is_of_user: new.is_of_user,
            user_ns: cred.user_ns.clone(),
            home: Arc::downgrade(self),
            state: Lock::new(State {
                uid: new.uid,
                gid: new.gid,
                perm: new.perm,
                expiry: None,
                revoked_at: None,
                is_invalidated: false,
                payload: new.payload,
                links: Vec::new(),
                is_restricted: false,
                in_quota,
                quota: bytes,
                kept,
            }),
        });
        tables.serials.insert(serial, Arc::downgrade(&key));
        if new.kind == Kind::Keyring && new.description.first() != Some(&b'.') {
            let list = tables.names.entry(new.description.to_vec()).or_default();
            list.push((serial, Arc::downgrade(&key)));
        }
        Ok(key)
    }

    /// The key with number `serial`.
    ///
    /// # Errors
    /// `ENOKEY`.
    pub fn get(&self, serial: i32) -> Result<Arc<Key>, Errno> {
        let found = self.tables.lock().serials.get(&serial).and_then(Weak::upgrade);
        found.filter(|key| !key.state.lock().is_invalidated).ok_or(ENOKEY)
    }

    /// All keys, in order.
    pub(crate) fn all(&self) -> Vec<Arc<Key>> {
        self.tables.lock().serials.values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn users(&self) -> Vec<(u32, User)> {
        self.tables.lock().users.iter().map(|(&uid, &user)| (uid, user)).collect()
    }

    /// A keyring called `name` that `cred` may search (`find_keyring_by_name`).
    pub(crate) fn named(&self, name: &[u8], cred: &Credentials) -> Option<Arc<Key>> {
        let all: Vec<Arc<Key>> = {
            let tables = self.tables.lock();
            tables.names.get(name)?.iter().filter_map(|(_, key)| key.upgrade()).collect()
        };
        let fits = |key: &Arc<Key>| {
            Arc::ptr_eq(&key.user_ns, &cred.user_ns)
                && key.state.lock().revoked_at.is_none()
                && key.allows(false, cred, need::SEARCH).is_ok()
        };
        all.iter().find(|key| fits(key)).cloned()
    }

    /// Makes `key` count for `bytes` from now on (`key_payload_reserve`). The caller holds `structure`.
    fn charge(&self, key: &Key, bytes: u32) -> Result<(), Errno> {
        let (uid, in_quota, before) = {
            let state = key.state.lock();
            (state.uid, state.in_quota, state.quota)
        };
        if in_quota {
            let (_, max) = self.limits_of(uid);
            let mut tables = self.tables.lock();
            let user = tables.users.entry(uid).or_default();
            let sum = user.quota_bytes.saturating_sub(before).checked_add(bytes).ok_or(EDQUOT)?;
            if bytes > before && sum > max {
                return Err(EDQUOT);
            }
            user.quota_bytes = sum;
        }
        key.state.lock().quota = bytes;
        Ok(())
    }

    /// Replaces the payload of `key`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: a keyring; `EINVAL`: it will not do; `EDQUOT`; `ENOMEM`.
    pub fn update(&self, key: &Key, payload: Vec<u8>) -> Result<(), Errno> {
        if !key.kind.is_updatable() {
            return Err(EOPNOTSUPP);
        }
        key.kind.check_payload(&payload)?;
        let bytes = key.base_quota().saturating_add(key.kind.quota(&payload));
        let kept = Kept::new(KEY_MEMORY + key.description.len() + payload.len()).map_err(|_| ENOMEM)?;
        let _changes = self.structure.lock();
        self.charge(key, bytes)?;
        let mut state = key.state.lock();
        state.payload = payload;
        state.kept = kept;
        state.expiry = None;
        Ok(())
    }

    /// Makes `key` useless; what it holds goes (`key_revoke`).
    pub fn revoke(&self, key: &Key) {
        let now = self.now();
        let changes = self.structure.lock();
        let mut state = key.state.lock();
        if state.revoked_at.is_some() {
            return;
        }
        state.revoked_at = Some(now);
        let gone = (std::mem::take(&mut state.payload), std::mem::take(&mut state.links));
        drop(state);
        // Less can always be had.
        let _ = self.charge(key, 0);
        drop(changes);
        drop(gone);
    }

    /// Makes `key` disappear.
    pub fn invalidate(&self, key: &Key) {
        key.state.lock().is_invalidated = true;
    }

    /// Gives `key` to other owners (`keyctl_chown_key`).
    ///
    /// # Errors
    /// `EDQUOT`.
    pub fn chown(&self, key: &Key, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let _changes = self.structure.lock();
        let (old, in_quota, bytes) = {
            let state = key.state.lock();
            (state.uid, state.in_quota, state.quota)
        };
        if let Some(new) = uid.filter(|&new| new != old) {
            let (max_keys, max_bytes) = self.limits_of(new);
            let mut tables = self.tables.lock();
            let user = tables.users.get(&new).copied().unwrap_or_default();
            let fits = user.quota_keys < max_keys
                && user.quota_bytes.checked_add(bytes).is_some_and(|sum| sum <= max_bytes);
            if in_quota && !fits {
                return Err(EDQUOT);
            }
            tables.leave(old, in_quota, bytes);
            tables.enter(new, in_quota, bytes);
        }
        let mut state = key.state.lock();
        state.uid = uid.unwrap_or(state.uid);
        state.gid = gid.unwrap_or(state.gid);
        Ok(())
    }
}

impl Tables {
    fn enter(&mut self, uid: u32, in_quota: bool, bytes: u32) {
        let user = self.users.entry(uid).or_default();
        user.keys += 1;
        if in_quota {
            user.quota_keys += 1;
            user.quota_bytes = user.quota_bytes.saturating_add(bytes);
        }
    }

    fn leave(&mut self, uid: u32, in_quota: bool, bytes: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.keys = user.keys.saturating_sub(1);
        if in_quota {
            user.quota_keys = user.quota_keys.saturating_sub(1);
            user.quota_bytes = user.quota_bytes.saturating_sub(bytes);
        }
        if user.keys == 0 {
            self.users.remove(&uid);
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let (mut work, uid, in_quota, bytes) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.links), state.uid, state.in_quota, state.quota)
        };
        if let Some(home) = self.home.upgrade() {
            let mut tables = home.tables.lock();
            tables.serials.remove(&self.serial);
            tables.leave(uid, in_quota, bytes);
            if let Some(list) = tables.names.get_mut(&*self.description) {
                list.retain(|&(serial, _)| serial != self.serial);
                if list.is_empty() {
                    tables.names.remove(&*self.description);
                }
            }
        }
        // A chain of keyrings may be longer than the stack.
        while let Some(key) = work.pop() {
            if let Some(last) = Arc::into_inner(key) {
                work.append(&mut last.state.lock().links);
            }
        }
    }
}

impl Key {
    fn base_quota(&self) -> u32 {
        self.description.len() as u32 + 1
    }

    /// Whether it can be used (`key_validate`).
    ///
    /// # Errors
    /// `ENOKEY`, `EKEYREVOKED`, `EKEYEXPIRED`.
    pub fn validate(&self, now: i64) -> Result<(), Errno> {
        let state = self.state.lock();
        match () {
            () if state.is_invalidated => Err(ENOKEY),
            () if state.revoked_at.is_some() => Err(EKEYREVOKED),
            () if state.expiry.is_some_and(|at| now >= at) => Err(EKEYEXPIRED),
            () => Ok(()),
        }
    }

    /// Whether something may be linked to it, or put in the place of what is.
    ///
    /// # Errors
    /// `EPERM`.
    pub(crate) fn check_open(&self) -> Result<(), Errno> {
        if self.state.lock().is_restricted { Err(EPERM) } else { Ok(()) }
    }

    /// Whether the key is revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.state.lock().revoked_at.is_some()
    }

    /// Whether it is to disappear from keyrings.
    fn is_gone(&self, now: i64, delay: u32) -> bool {
        let state = self.state.lock();
        let is_old = |at: Option<i64>| at.is_some_and(|at| now >= at.saturating_add(delay.into()));
        state.is_invalidated || is_old(state.revoked_at) || is_old(state.expiry)
    }

    /// Whether `cred` may do what `wanted` says (`key_task_permission`).
    ///
    /// # Errors
    /// `EACCES`.
    pub fn allows(&self, possessed: bool, cred: &Credentials, wanted: u32) -> Result<(), Errno> {
        let (uid, gid, perm) = {
            let state = self.state.lock();
            (state.uid, state.gid, state.perm)
        };
        let is_member =
            gid != NO_GROUP && (perm >> 8) & 0x3f != 0 && (cred.fsgid == gid || cred.in_group(gid));
        let mut granted = match () {
            () if uid == cred.fsuid => perm >> USR,
            () if is_member => perm >> 8,
            () => perm,
        };
        if possessed {
            granted |= perm >> POS;
        }
        if granted & wanted == wanted { Ok(()) } else { Err(EACCES) }
    }
}
