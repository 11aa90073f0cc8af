//! Links between keyrings, and searches (Linux security/keys/keyring.c).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{
    EACCES, EAGAIN, EDEADLK, EEXIST, EKEYEXPIRED, EKEYREVOKED, ELOOP, ENOENT, ENOMEM, ENOTDIR, EPERM,
};
use base::cred::Credentials;

use super::{Key, KeyRef, Keys, Kind, LINK_BYTES, LINK_MEMORY, need};

/// How deep a search goes.
const DEPTH_MAX: usize = 6;

/// What a search looks for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A key by type and name that can be used.
    Named(Kind, &'a [u8]),
    /// This key, in whatever state it is.
    This(&'a Key),
}

impl Wanted<'_> {
    fn matches(&self, key: &Key) -> bool {
        match *self {
            Wanted::Named(kind, description) => key.kind == kind && *key.description == *description,
            Wanted::This(this) => std::ptr::eq(this, key),
        }
    }
}

/// A search under way.
struct Search<'a> {
    keys: &'a Keys,
    cred: &'a Credentials,
    wanted: Wanted<'a>,
    possessed: bool,
    now: i64,
    /// Keyrings that were looked at, and how deep they were found: a keyring may be reached by many ways.
    seen: HashMap<i32, usize>,
    /// What is said when nothing is found.
    result: Errno,
}

impl Search<'_> {
    /// Whether `key` is what is looked for (`keyring_search_iterator`).
    fn accepts(&mut self, key: &Arc<Key>) -> bool {
        if !self.wanted.matches(key) {
            return false;
        }
        if matches!(self.wanted, Wanted::Named(..)) {
            match key.validate(self.now) {
                Ok(()) => {}
                Err(EKEYEXPIRED) => {
                    self.result = EKEYEXPIRED;
                    return false;
                }
                Err(_) => {
                    self.result = EKEYREVOKED;
                    return false;
                }
            }
        }
        if key.allows(self.possessed, self.cred, need::SEARCH).is_err() {
            self.result = EACCES;
            return false;
        }
        true
    }

    fn descend(&mut self, ring: &Arc<Key>, depth: usize) -> Option<Arc<Key>> {
        if self.seen.get(&ring.serial).is_some_and(|&before| before <= depth) || ring.is_revoked() {
            return None;
        }
        self.seen.insert(ring.serial, depth);
        let links = self.keys.links(ring);
        if let Some(found) = links.iter().find(|key| self.accepts(key)) {
            return Some(found.clone());
        }
        if depth >= DEPTH_MAX {
            return None;
        }
        for inner in links.iter().filter(|key| key.kind == Kind::Keyring) {
            if inner.allows(self.possessed, self.cred, need::SEARCH).is_err() {
                continue;
            }
            if let Some(found) = self.descend(inner, depth + 1) {
                return Some(found);
            }
        }
        None
    }
}

impl Keys {
    /// What `ring` links to, without what is gone.
    pub(crate) fn links(&self, ring: &Key) -> Vec<Arc<Key>> {
        let links = ring.state.lock().links.clone();
        let delay = self.settings.gc_delay.load(Ordering::Relaxed);
        let now = self.now();
        if !links.iter().any(|key| key.is_gone(now, delay)) {
            return links;
        }
        let changes = self.structure.lock();
        // Who searches meanwhile sees all or what is left.
        let all = ring.state.lock().links.clone();
        let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|key| key.is_gone(now, delay));
        self.set_links(ring, left.clone());
        drop(changes);
        drop(gone);
        left
    }

    /// Gives `ring` fewer links. The caller holds `structure`.
    fn set_links(&self, ring: &Key, links: Vec<Arc<Key>>) {
        let bytes = ring.base_quota() + LINK_BYTES * links.len() as u32;
        let _ = self.charge(ring, bytes);
        let mut state = ring.state.lock();
        let _ = state.kept.resize(super::KEY_MEMORY + ring.description.len() + LINK_MEMORY * links.len());
        state.links = links;
    }

    /// Searches `ring` and the keyrings in it (`keyring_search_rcu`).
    ///
    /// # Errors
    /// `ENOTDIR`; `EACCES`; `EAGAIN`: it is not there; `EKEYREVOKED`, `EKEYEXPIRED`: it is there, and so.
    pub fn search(&self, ring: &KeyRef, cred: &Credentials, wanted: Wanted<'_>) -> Result<KeyRef, Errno> {
        if ring.key.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        ring.key.allows(ring.possessed, cred, need::SEARCH)?;
        let mut search = Search {
            keys: self,
            cred,
            wanted,
            possessed: ring.possessed,
            now: self.now(),
            seen: HashMap::new(),
            result: EAGAIN,
        };
        let found =
            if search.accepts(&ring.key) { Some(ring.key.clone()) } else { search.descend(&ring.key, 0) };
        match found {
            Some(key) => Ok(KeyRef { key, possessed: ring.possessed }),
            None => Err(search.result),
        }
    }

    /// Numbers of all keys that can be reached from `ring` by searches.
    pub(crate) fn reach(
        &self,
        ring: &Arc<Key>,
        cred: &Credentials,
        seen: &mut HashMap<i32, usize>,
        depth: usize,
    ) {
        if ring.allows(true, cred, need::SEARCH).is_err()
            || seen.get(&ring.serial).is_some_and(|&before| before <= depth)
        {
            return;
        }
        seen.insert(ring.serial, depth);
        if depth > DEPTH_MAX {
            return;
        }
        for key in self.links(ring) {
            if key.kind == Kind::Keyring {
                self.reach(&key, cred, seen, depth + 1);
            } else if key.allows(true, cred, need::SEARCH).is_ok() {
                seen.insert(key.serial, 0);
            }
        }
    }

    /// Whether a link from `ring` to `key` would make a ring, or too deep a tree (`keyring_detect_cycle`).
    fn check_cycle(&self, ring: &Key, key: &Arc<Key>) -> Result<(), Errno> {
        let mut seen: HashMap<i32, usize> = HashMap::new();
        let mut work = vec![(key.clone(), 0)];
        while let Some((at, depth)) = work.pop() {
            if at.serial == ring.serial {
                return Err(EDEADLK);
            }
            if depth > DEPTH_MAX {
                return Err(ELOOP);
            }
            if seen.get(&at.serial).is_some_and(|&before| before >= depth) {
                continue;
            }
            seen.insert(at.serial, depth);
            let links = at.state.lock().links.clone();
            work.extend(links.into_iter().filter(|k| k.kind == Kind::Keyring).map(|k| (k, depth + 1)));
        }
        Ok(())
    }

    /// Links `key` into `ring`, instead of one of its type and name (`key_link`).
    ///
    /// # Errors
    /// `ENOTDIR`; `EKEYREVOKED`; `EPERM`: nothing may be linked there; `EDEADLK`, `ELOOP`; `EDQUOT`; `ENOMEM`.
    pub fn link(&self, ring: &Key, key: &Arc<Key>) -> Result<(), Errno> {
        let changes = self.structure.lock();
        let replaced = self.link_locked(ring, key);
        drop(changes);
        replaced.map(drop)
    }

    fn link_locked(&self, ring: &Key, key: &Arc<Key>) -> Result<Option<Arc<Key>>, Errno> {
        if ring.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        let (is_revoked, is_restricted, count, at) = {
            let state = ring.state.lock();
            let same = |k: &Arc<Key>| k.kind == key.kind && k.description == key.description;
            let at = state.links.iter().position(same);
            (state.revoked_at.is_some(), state.is_restricted, state.links.len(), at)
        };
        if is_revoked {
            return Err(EKEYREVOKED);
        }
        if is_restricted {
            return Err(EPERM);
        }
        if key.kind == Kind::Keyring {
            self.check_cycle(ring, key)?;
        }
        if at.is_none() {
            self.charge(ring, ring.base_quota() + LINK_BYTES * (count as u32 + 1))?;
        }
        let mut state = ring.state.lock();
        if let Some(slot) = at.and_then(|at| state.links.get_mut(at)) {
            return Ok(Some(std::mem::replace(slot, key.clone())));
        }
        let size = super::KEY_MEMORY + ring.description.len() + LINK_MEMORY * (count + 1);
        if state.kept.resize(size).is_err() {
            drop(state);
            let _ = self.charge(ring, ring.base_quota() + LINK_BYTES * count as u32);
            return Err(ENOMEM);
        }
        state.links.push(key.clone());
        Ok(None)
    }

    /// Removes the link from `ring` to `key`.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT`.
    pub fn unlink(&self, ring: &Key, key: &Key) -> Result<(), Errno> {
        if ring.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        let changes = self.structure.lock();
        let links = ring.state.lock().links.clone();
        let at = links.iter().position(|k| std::ptr::eq(&**k, key)).ok_or(ENOENT)?;
        let mut left = links;
        let gone = left.remove(at);
        self.set_links(ring, left);
        drop(changes);
        drop(gone);
        Ok(())
    }

    /// Moves the link to `key` from one keyring to another (`key_move`).
    ///
    /// # Errors
    /// As for [`Keys::link`] and [`Keys::unlink`]; `EEXIST`: `exclusive`, and there is one of its type and name.
    pub fn relink(&self, key: &Arc<Key>, from: &Key, to: &Key, exclusive: bool) -> Result<(), Errno> {
        if std::ptr::eq(from, to) {
            return Ok(());
        }
        if from.kind != Kind::Keyring || to.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        let changes = self.structure.lock();
        let links = from.state.lock().links.clone();
        let at = links.iter().position(|k| Arc::ptr_eq(k, key)).ok_or(ENOENT)?;
        let same = |k: &Arc<Key>| k.kind == key.kind && k.description == key.description;
        if exclusive && to.state.lock().links.iter().any(same) {
            return Err(EEXIST);
        }
        let replaced = self.link_locked(to, key)?;
        let mut left = links;
        let gone = left.remove(at);
        self.set_links(from, left);
        drop(changes);
        drop((replaced, gone));
        Ok(())
    }

    /// Removes all links of `ring`.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn clear(&self, ring: &Key) -> Result<(), Errno> {
        if ring.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        let changes = self.structure.lock();
        let gone = std::mem::take(&mut ring.state.lock().links);
        self.set_links(ring, Vec::new());
        drop(changes);
        drop(gone);
        Ok(())
    }

    /// Forbids new links (`keyring_restrict` without a type).
    ///
    /// # Errors
    /// `ENOTDIR`; `EEXIST`: it is so already.
    pub fn restrict(&self, ring: &Key) -> Result<(), Errno> {
        if ring.kind != Kind::Keyring {
            return Err(ENOTDIR);
        }
        let was = std::mem::replace(&mut ring.state.lock().is_restricted, true);
        if was { Err(EEXIST) } else { Ok(()) }
    }

    /// What `ring` links to by type and name, and can be updated.
    pub(crate) fn linked(&self, ring: &Key, kind: Kind, description: &[u8]) -> Option<Arc<Key>> {
        let links = self.links(ring);
        let same = |k: &&Arc<Key>| k.kind == kind && *k.description == *description && !k.is_revoked();
        links.iter().find(same).cloned()
    }
}
