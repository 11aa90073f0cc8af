//! User namespaces (user_namespaces(7); Linux kernel/user_namespace.c). Everywhere else user and group numbers are those
//! of the first namespace; they are translated where a program reads or gives them.

use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EINVAL, ENOSPC, EPERM};

use crate::cred::{Credentials, cap};
use crate::lock::{Lock, rank};

/// Namespaces may lie this deep in each other.
const MAX_LEVEL: u32 = 32;
/// Lines of a map (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_EXTENTS: usize = 340;
/// What a number is shown as that has none here (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_ID: u32 = 65534;
/// The inode number of the first user namespace (`PROC_USER_INIT_INO`).
pub const FIRST_INO: u64 = 0xefff_fffd;

/// Which of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// Of users.
    User,
    /// Of groups.
    Group,
}

/// A range of numbers: `inside..inside + count` are `outside..` of the first namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

#[derive(Clone, Debug, Default)]
struct Maps {
    users: Vec<Extent>,
    groups: Vec<Extent>,
    /// setgroups(2) is refused for good.
    no_setgroups: bool,
}

/// A user namespace.
#[derive(Debug)]
pub struct UserNamespace {
    /// Its inode number.
    pub ino: u64,
    /// The one that it was made in; `None` for the first.
    pub parent: Option<Arc<UserNamespace>>,
    level: u32,
    /// The user who made it.
    pub owner: u32,
    group: u32,
    maps: Lock<Maps, { rank::LEAF }>,
}

impl PartialEq for UserNamespace {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for UserNamespace {}

impl UserNamespace {
    /// The namespace that everybody is in at first.
    pub fn first() -> Arc<Self> {
        static FIRST: OnceLock<Arc<UserNamespace>> = OnceLock::new();
        let make = || {
            let all = vec![Extent { inside: 0, outside: 0, count: u32::MAX }];
            let maps = Maps { users: all.clone(), groups: all, no_setgroups: false };
            Arc::new(Self {
                ino: FIRST_INO,
                parent: None,
                level: 0,
                owner: 0,
                group: 0,
                maps: Lock::new(maps),
            })
        };
        FIRST.get_or_init(make).clone()
    }

    /// A namespace in `cred`'s, made by it.
    ///
    /// # Errors
    /// `ENOSPC`: too deep; `EPERM`: the maker has no number in its own namespace.
    pub fn new(cred: &Credentials, ino: u64) -> Result<Arc<Self>, Errno> {
        let parent = cred.user_ns.clone();
        if parent.level > MAX_LEVEL {
            return Err(ENOSPC);
        }
        if parent.inside(IdKind::User, cred.euid).is_none()
            || parent.inside(IdKind::Group, cred.egid).is_none()
        {
            return Err(EPERM);
        }
        let maps = Maps { no_setgroups: parent.maps.lock().no_setgroups, ..Maps::default() };
        Ok(Arc::new(Self {
            ino,
            level: parent.level + 1,
            parent: Some(parent),
            owner: cred.euid,
            group: cred.egid,
            maps: Lock::new(maps),
        }))
    }

    /// Whether it is the first.
    pub fn is_first(&self) -> bool {
        self.parent.is_none()
    }

    /// The number here of `id` of the first namespace.
    pub fn inside(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.is_first() {
            return Some(id);
        }
        let maps = self.maps.lock();
        let list = if kind == IdKind::User { &maps.users } else { &maps.groups };
        list.iter().find(|e| id.wrapping_sub(e.outside) < e.count).map(|e| e.inside + (id - e.outside))
    }

    /// The same, or what stands for those without a number.
    pub fn shown(&self, kind: IdKind, id: u32) -> u32 {
        self.inside(kind, id).unwrap_or(OVERFLOW_ID)
    }

    /// The number in the first namespace of `id` here.
    pub fn outside(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.is_first() {
            return Some(id);
        }
        let maps = self.maps.lock();
        let list = if kind == IdKind::User { &maps.users } else { &maps.groups };
        list.iter().find(|e| id.wrapping_sub(e.inside) < e.count).map(|e| e.outside + (id - e.inside))
    }

    /// Whether `cred` has capability `number` in this namespace (`cap_capable`).
    pub fn grants(self: &Arc<Self>, cred: &Credentials, number: u32) -> bool {
        let mut at = self;
        loop {
            if *at == cred.user_ns {
                return cred.effective.has(number);
            }
            if at.level <= cred.user_ns.level {
                return false;
            }
            let Some(parent) = &at.parent else { return false };
            if *parent == cred.user_ns && at.owner == cred.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether `self` is `other` or lies in it.
    pub fn is_within(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        std::iter::successors(Some(self), |ns| ns.parent.as_ref()).any(|ns| ns == other)
    }

    /// Whether setgroups(2) is allowed: there is a map of groups, and nobody denied it.
    pub fn allows_setgroups(&self) -> bool {
        let maps = self.maps.lock();
        !maps.no_setgroups && !maps.groups.is_empty()
    }

    /// `/proc/PID/setgroups`.
    pub fn setgroups_text(&self) -> &'static str {
        if self.maps.lock().no_setgroups { "deny\n" } else { "allow\n" }
    }

    /// A line written to `/proc/PID/setgroups`.
    ///
    /// # Errors
    /// `EINVAL`: neither `allow` nor `deny`; `EPERM`: too late.
    pub fn set_setgroups(&self, text: &[u8]) -> Result<(), Errno> {
        // Longer texts do not fit Linux's buffer, whatever they hold.
        if text.len() >= 8 {
            return Err(EINVAL);
        }
        let word = before_nul(text).trim_ascii_end();
        let mut maps = self.maps.lock();
        match word {
            b"allow" if maps.no_setgroups => Err(EPERM),
            b"allow" => Ok(()),
            b"deny" if maps.groups.is_empty() => {
                maps.no_setgroups = true;
                Ok(())
            }
            b"deny" if maps.no_setgroups => Ok(()),
            b"deny" => Err(EPERM),
            _ => Err(EINVAL),
        }
    }

    /// The text of a map, as a reader in `reader` sees it: the second column is the reader's number, or the parent's when
    /// the reader is in this namespace.
    pub fn map_text(&self, kind: IdKind, reader: &UserNamespace) -> String {
        let list = {
            let maps = self.maps.lock();
            if kind == IdKind::User { maps.users.clone() } else { maps.groups.clone() }
        };
        let lower = if self == reader { self.parent.as_deref().unwrap_or(self) } else { reader };
        let line = |e: &Extent| {
            let outside = lower.inside(kind, e.outside).unwrap_or(u32::MAX);
            format!("{:>10} {outside:>10} {:>10}\n", e.inside, e.count)
        };
        list.iter().map(line).collect()
    }

    /// Takes a map that `cred` writes (`map_write`).
    ///
    /// # Errors
    /// In the order checked: `EPERM`: there is one, or `cred` has no `CAP_SYS_ADMIN` here; `EINVAL`: the text; `EPERM`: the
    /// numbers are not the writer's to give, or have none in the parent.
    pub fn set_map(self: &Arc<Self>, kind: IdKind, cred: &Credentials, text: &[u8]) -> Result<(), Errno> {
        let parent = self.parent.clone().ok_or(EPERM)?;
        if cred.user_ns != *self && cred.user_ns != parent {
            return Err(EPERM);
        }
        let is_set = {
            let maps = self.maps.lock();
            !(if kind == IdKind::User { &maps.users } else { &maps.groups }).is_empty()
        };
        if is_set || !self.grants(cred, cap::SYS_ADMIN) {
            return Err(EPERM);
        }
        let mut list = parse_map(text)?;
        if !self.may_map(&parent, kind, cred, &list) {
            return Err(EPERM);
        }
        for e in &mut list {
            let last = parent.outside(kind, e.outside + (e.count - 1)).ok_or(EPERM)?;
            let first = parent.outside(kind, e.outside).ok_or(EPERM)?;
            if last.checked_sub(first) != Some(e.count - 1) {
                return Err(EPERM);
            }
            e.outside = first;
        }
        let mut maps = self.maps.lock();
        let slot = if kind == IdKind::User { &mut maps.users } else { &mut maps.groups };
        if !slot.is_empty() {
            return Err(EPERM);
        }
        *slot = list;
        Ok(())
    }

    /// Linux `new_idmap_permitted`.
    fn may_map(
        self: &Arc<Self>,
        parent: &Arc<Self>,
        kind: IdKind,
        cred: &Credentials,
        list: &[Extent],
    ) -> bool {
        if let [one] = list
            && one.count == 1
            && self.owner == cred.euid
        {
            let id = parent.outside(kind, one.outside);
            match kind {
                IdKind::User if id == Some(cred.euid) => return true,
                IdKind::Group if id == Some(cred.egid) && self.maps.lock().no_setgroups => return true,
                _ => {}
            }
        }
        let needed = if kind == IdKind::User { cap::SETUID } else { cap::SETGID };
        parent.grants(cred, needed)
    }

    /// The group of its maker.
    pub fn owner_group(&self) -> u32 {
        self.group
    }
}

/// Linux takes what is written for a C string.
fn before_nul(text: &[u8]) -> &[u8] {
    text.split(|&b| b == 0).next().unwrap_or_default()
}

fn parse_map(text: &[u8]) -> Result<Vec<Extent>, Errno> {
    if text.len() >= crate::PAGE_SIZE as usize {
        return Err(EINVAL);
    }
    let text = std::str::from_utf8(before_nul(text)).map_err(|_| EINVAL)?;
    let mut list: Vec<Extent> = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let numbers: Vec<u32> = line
            .split_ascii_whitespace()
            .map(|word| word.parse().map_err(|_| EINVAL))
            .collect::<Result<_, _>>()?;
        let [inside, outside, count] = numbers.as_slice() else { return Err(EINVAL) };
        let new = Extent { inside: *inside, outside: *outside, count: *count };
        let fits = |first: u32| first != u32::MAX && first.checked_add(new.count).is_some();
        if new.count == 0 || !fits(new.inside) || !fits(new.outside) {
            return Err(EINVAL);
        }
        let meets = |a: u32, n: u32, b: u32, m: u32| a < b.saturating_add(m) && b < a.saturating_add(n);
        let overlaps = |e: &Extent| {
            meets(e.inside, e.count, new.inside, new.count)
                || meets(e.outside, e.count, new.outside, new.count)
        };
        if list.iter().any(overlaps) || list.len() >= MAX_EXTENTS {
            return Err(EINVAL);
        }
        list.push(new);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_translate_both_ways_and_are_set_once() {
        let root = Credentials::root();
        let ns = UserNamespace::new(&root, 1).expect("a namespace");
        assert_eq!(ns.shown(IdKind::User, 0), OVERFLOW_ID);
        assert_eq!(ns.set_map(IdKind::User, &root, b"0 1000 10\n20 5 1\n"), Ok(()));
        assert_eq!(ns.inside(IdKind::User, 1003), Some(3));
        assert_eq!(ns.outside(IdKind::User, 20), Some(5));
        assert_eq!(ns.inside(IdKind::User, 999), None);
        assert_eq!(ns.set_map(IdKind::User, &root, b"0 0 1\n"), Err(EPERM));
        for bad in [&b""[..], b"0 0\n", b"0 0 0\n", b"0 0 2\n1 9 1\n", b"0 4294967295 1\n", b"x 0 1\n"] {
            assert_eq!(ns.set_map(IdKind::Group, &root, bad), Err(EINVAL), "{bad:?}");
        }
    }
}
