//! `/proc/keys` and `/proc/key-users` (Linux security/keys/proc.c).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base::userns::IdKind;

use super::{Key, Keys, Kind, NO_GROUP, need};
use crate::task::Task;

/// How long a key has, as four characters.
fn rest(expiry: Option<i64>, now: i64) -> String {
    const UNITS: [(i64, i64, char); 4] =
        [(60, 1, 's'), (3600, 60, 'm'), (86400, 3600, 'h'), (7 * 86400, 86400, 'd')];
    match expiry.map(|at| at - now) {
        None => "perm".to_owned(),
        Some(left) if left <= 0 => "expd".to_owned(),
        Some(left) => match UNITS.iter().find(|(below, ..)| left < *below) {
            Some((_, unit, letter)) => format!("{}{letter}", left / unit),
            None => format!("{}w", left / (7 * 86400)),
        },
    }
}

impl Keys {
    /// `/proc/keys`: what `reader` may view.
    pub fn text(&self, reader: &Task) -> String {
        let cred = reader.cred();
        let own = reader.keys.lock().clone();
        let now = self.now();
        let mut possessed = HashMap::new();
        for ring in [own.thread, own.process, own.session].into_iter().flatten() {
            self.reach(&ring, &cred, &mut possessed, 0);
        }
        let mut text = String::new();
        for key in self.all() {
            let is_possessed = possessed.contains_key(&key.serial);
            let owner = key.state.lock().uid;
            if cred.user_ns.inside(IdKind::User, owner).is_none()
                || key.allows(is_possessed, &cred, need::VIEW).is_err()
            {
                continue;
            }
            // Ours is one of the references.
            let count = Arc::strong_count(&key) - 1;
            let line = key.line(count, now, |kind, id| cred.user_ns.shown(kind, id));
            text.push_str(&line);
        }
        text
    }

    /// `/proc/key-users`.
    pub fn users_text(&self, reader: &Task) -> String {
        let ns = reader.cred().user_ns.clone();
        let mut text = String::new();
        for (uid, user) in self.users() {
            let Some(shown) = ns.inside(IdKind::User, uid) else { continue };
            let (keys, bytes) = self.limits_of(uid);
            let n = user.keys;
            let (qk, qb) = (user.quota_keys, user.quota_bytes);
            let _ = writeln!(text, "{shown:5}: {n:5} {n}/{n} {qk}/{keys} {qb}/{bytes}");
        }
        text
    }
}

impl Key {
    fn line(&self, count: usize, now: i64, shown: impl Fn(IdKind, u32) -> u32) -> String {
        let state = self.state.lock();
        let flag = |is: bool, letter: char| if is { letter } else { '-' };
        let gid = if state.gid == NO_GROUP { 65534 } else { shown(IdKind::Group, state.gid) };
        let about = match self.kind {
            Kind::Keyring if state.links.is_empty() => ": empty".to_owned(),
            Kind::Keyring => format!(": {}", state.links.len()),
            Kind::BigKey => format!(": {} [buff]", state.payload.len()),
            Kind::User | Kind::Logon => format!(": {}", state.payload.len()),
        };
        format!(
            "{:08x} I{}-{}--{} {count:5} {:>4} {:08x} {:5} {gid:5} {:<9} {}{about}\n",
            self.serial,
            flag(state.revoked_at.is_some(), 'R'),
            flag(state.in_quota, 'Q'),
            flag(state.is_invalidated, 'i'),
            rest(state.expiry, now),
            state.perm,
            shown(IdKind::User, state.uid),
            self.kind.name(),
            String::from_utf8_lossy(&self.description),
        )
    }
}
