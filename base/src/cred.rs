//! Credentials: whom a task acts for.

use std::sync::Arc;

use crate::landlock::Domain;
use crate::userns::UserNamespace;

/// A set of capabilities, as bits (`CAP_CHOWN` is bit 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

/// Numbers of the capabilities (`linux/capability.h`).
#[expect(missing_docs, reason = "capabilities(7) explains each")]
pub mod cap {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const LINUX_IMMUTABLE: u32 = 9;
    pub const NET_BIND_SERVICE: u32 = 10;
    pub const NET_BROADCAST: u32 = 11;
    pub const NET_ADMIN: u32 = 12;
    pub const NET_RAW: u32 = 13;
    pub const IPC_LOCK: u32 = 14;
    pub const IPC_OWNER: u32 = 15;
    pub const SYS_CHROOT: u32 = 18;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_PACCT: u32 = 20;
    pub const SYS_ADMIN: u32 = 21;
    pub const PERFMON: u32 = 38;
    pub const CHECKPOINT_RESTORE: u32 = 40;
    pub const SYS_BOOT: u32 = 22;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_RESOURCE: u32 = 24;
    pub const SYS_TIME: u32 = 25;
    pub const SYS_TTY_CONFIG: u32 = 26;
    pub const MKNOD: u32 = 27;
    pub const LEASE: u32 = 28;
    pub const SYSLOG: u32 = 34;
    pub const LAST: u32 = 40;
}

impl CapSet {
    /// Every capability that exists.
    pub const ALL: Self = Self((1 << (cap::LAST + 1)) - 1);
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Whether capability number `cap` is in the set.
    pub const fn has(self, cap: u32) -> bool {
        cap < 64 && self.0 >> cap & 1 == 1
    }
}

/// A task's credentials (credentials(7)); immutable, shared, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are Linux's, see credentials(7) and capabilities(7)")]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    pub permitted: CapSet,
    pub effective: CapSet,
    pub inheritable: CapSet,
    pub bounding: CapSet,
    pub ambient: CapSet,
    /// `SECBIT_*` of prctl(2).
    pub securebits: u32,
    /// Where the capabilities count.
    pub user_ns: Arc<UserNamespace>,
    /// What the task has forbidden itself.
    pub landlock: Option<Arc<Domain>>,
}

impl Credentials {
    /// User 0 with every capability.
    pub fn root() -> Self {
        Self::user(0, 0)
    }

    /// User `uid` in group `gid` without supplementary groups: every capability for user 0, none for others.
    pub fn user(uid: u32, gid: u32) -> Self {
        let caps = if uid == 0 { CapSet::ALL } else { CapSet::EMPTY };
        Self {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: Arc::from([]),
            permitted: caps,
            effective: caps,
            inheritable: CapSet::EMPTY,
            bounding: CapSet::ALL,
            ambient: CapSet::EMPTY,
            securebits: 0,
            user_ns: UserNamespace::first(),
            landlock: None,
        }
    }

    /// Whether capability `cap` is effective for what belongs to no namespace: only in the first user namespace.
    pub fn has(&self, cap: u32) -> bool {
        self.effective.has(cap) && self.user_ns.is_first()
    }

    /// Whether capability `cap` is effective in the task's own user namespace.
    pub fn has_here(&self, cap: u32) -> bool {
        self.effective.has(cap)
    }

    /// Whether capability `cap` counts for a file of user `uid` and group `gid`: both must have a number in the task's
    /// user namespace (`capable_wrt_inode_uidgid`).
    pub fn has_over(&self, uid: u32, gid: u32, cap: u32) -> bool {
        use crate::userns::IdKind::{Group, User};
        let ns = &self.user_ns;
        self.effective.has(cap) && ns.inside(User, uid).is_some() && ns.inside(Group, gid).is_some()
    }

    /// Whether user `uid` is the root of the task's user namespace.
    pub fn is_root_here(&self, uid: u32) -> bool {
        self.user_ns.inside(crate::userns::IdKind::User, uid) == Some(0)
    }

    /// Whether `gid` is the file system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }
}
