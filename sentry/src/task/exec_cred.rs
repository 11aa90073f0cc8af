//! What execve(2) does to credentials: set-user-ID programs and capabilities (Linux fs/exec.c `bprm_fill_uid`,
//! security/commoncap.c `cap_bprm_creds_from_file`).

use std::sync::Arc;

use base::cred::{CapSet, Credentials, cap};
use base::userns::IdKind;
use fs::file::{FileDescription, Metadata};
use fs::vfs::MountFlags;

use super::{Ctx, Task};

const ISUID: u32 = 0o4000;
/// Set-group-ID counts only where the group may execute; else it marks mandatory locking.
const ISGID_IXGRP: u32 = 0o2010;
/// `SECBIT_NOROOT`.
const NOROOT: u32 = 1;
/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u32 = 1 << 4;

/// Why a program may get no more than its caller has (`check_unsafe_exec`).
#[derive(Clone, Copy, Debug, Default)]
struct Doubts {
    /// `PR_SET_NO_NEW_PRIVS`.
    no_new_privs: bool,
    /// Another process has the same root and working directory (`CLONE_FS`).
    shares_fs: bool,
    /// A tracer without `CAP_SYS_PTRACE` looks on.
    traced: bool,
}

impl Doubts {
    fn any(self) -> bool {
        self.no_new_privs || self.shares_fs || self.traced
    }
}

/// The credentials of a new program.
pub(super) struct ExecCred {
    pub(super) cred: Credentials,
    /// `AT_SECURE`: the program must not trust its environment.
    pub(super) secure: bool,
}

/// A file's capabilities (`security.capability`, capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileCaps {
    permitted: u64,
    inheritable: u64,
    effective: bool,
}

impl FileCaps {
    /// Parses the attribute; `None` for a revision that is not known.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const REVISION_1: u32 = 0x0100_0000;
        const REVISION_2: u32 = 0x0200_0000;
        const REVISION_3: u32 = 0x0300_0000;
        let words: Vec<u64> =
            bytes.chunks_exact(4).map(|c| u64::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect();
        let magic = u32::try_from(*words.first()?).ok()?;
        let pair = |low: usize, high: Option<usize>| -> Option<u64> {
            let high = high.map_or(Some(0), |i| words.get(i).copied())?;
            Some((words.get(low).copied()? | high << 32) & CapSet::ALL.0)
        };
        let (permitted, inheritable) = match (magic & !0xff, bytes.len()) {
            (REVISION_1, 12) => (pair(1, None)?, pair(2, None)?),
            (REVISION_2, 20) => (pair(1, Some(3))?, pair(2, Some(4))?),
            // The last word names the root user of a user namespace: only the first namespace's counts here.
            (REVISION_3, 24) if words.get(5) == Some(&0) => (pair(1, Some(3))?, pair(2, Some(4))?),
            _ => return None,
        };
        Some(Self { permitted, inheritable, effective: magic & 1 != 0 })
    }
}

/// The rules themselves. `caps` are the file's.
fn after_exec(old: &Credentials, meta: &Metadata, caps: Option<FileCaps>, doubts: Doubts) -> ExecCred {
    let mut new = old.clone();
    let no_new_privs = doubts.no_new_privs;
    if !no_new_privs {
        // Only ids that exist in the user namespace count.
        let ns = &old.user_ns;
        let known =
            ns.inside(IdKind::User, meta.uid).is_some() && ns.inside(IdKind::Group, meta.gid).is_some();
        if known && meta.mode & ISUID != 0 {
            new.euid = meta.uid;
        }
        if known && meta.mode & ISGID_IXGRP == ISGID_IXGRP {
            new.egid = meta.gid;
        }
    }
    let mut effective = false;
    let mut permitted = 0;
    // Capabilities of files are those of the first namespace's root.
    let caps = caps.filter(|_| old.user_ns.is_first());
    if let Some(c) = caps {
        permitted = old.bounding.0 & c.permitted | old.inheritable.0 & c.inheritable;
        effective = c.effective;
    }
    let root = |id| old.is_root_here(id);
    let is_root = root(new.euid) || root(new.uid);
    // A set-user-ID root program with capabilities of its own gets only those.
    let own_caps = caps.is_some() && !root(new.uid) && root(new.euid);
    if new.securebits & NOROOT == 0 && is_root && !own_caps {
        permitted = old.bounding.0 | old.inheritable.0;
        effective |= root(new.euid);
    }
    let changes_ids = new.euid != old.euid || !old.in_group(new.egid);
    if (changes_ids || permitted & !old.permitted.0 != 0) && doubts.any() {
        if no_new_privs || !old.has_here(cap::SETUID) {
            (new.euid, new.egid) = (new.uid, new.gid);
        }
        permitted &= old.permitted.0;
    }
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    if caps.is_some() || changes_ids {
        new.ambient = CapSet::EMPTY;
    }
    permitted |= new.ambient.0;
    new.permitted = CapSet(permitted);
    new.effective = if effective { CapSet(permitted) } else { new.ambient };
    new.securebits &= !KEEP_CAPS;
    let gained = permitted & !new.ambient.0 != 0;
    let is_setid = changes_ids || new.euid != old.uid || new.egid != old.gid;
    let secure = is_setid || (!root(new.uid) && (effective || gained));
    ExecCred { cred: new, secure }
}

impl Ctx<'_> {
    /// The credentials that `file`'s program runs with.
    pub(super) fn exec_cred(&self, file: &FileDescription, meta: &Metadata) -> ExecCred {
        let attribute = file.path.as_ref().and_then(|p| p.inode().xattr(b"security.capability").ok());
        let caps = attribute.and_then(|bytes| FileCaps::parse(&bytes));
        // A mount may forbid it, too (fs/exec.c, `mnt_may_suid`).
        let nosuid = file.path.as_ref().is_some_and(|p| p.mount.flags().contains(MountFlags::NOSUID));
        let caps = if nosuid { None } else { caps };
        let meta =
            if nosuid { &Metadata { mode: meta.mode & !(ISUID | ISGID_IXGRP), ..*meta } } else { meta };
        after_exec(&self.cred, meta, caps, self.doubts())
    }

    fn doubts(&self) -> Doubts {
        let no_new_privs = self.task.attributes.lock().no_new_privs;
        let tracer = self.task.trace.tracer();
        // The task and this context are two.
        if tracer.is_none() && Arc::strong_count(&self.fs) <= 2 {
            return Doubts { no_new_privs, ..Doubts::default() };
        }
        let tree = self.task.kernel.tree.lock();
        let shares_fs = tree
            .tasks
            .values()
            .any(|t| !Arc::ptr_eq(&t.group, &self.task.group) && Arc::ptr_eq(&*t.fs.lock(), &self.fs));
        let tracer = tracer.map(|t| tree.tasks.get(&t.tid).cloned());
        drop(tree);
        let may_look_on = |t: Arc<Task>| self.cred.user_ns.grants(&t.cred(), cap::SYS_PTRACE);
        let traced = tracer.is_some_and(|t| !t.is_some_and(may_look_on));
        Doubts { no_new_privs, shares_fs, traced }
    }

    /// Takes the credentials of a new program, past the point of no return.
    pub(super) fn take_exec_cred(&mut self, new: ExecCred) {
        let c = &new.cred;
        let old = &self.cred;
        let ids = |c: &Credentials| (c.euid, c.egid, c.fsuid, c.fsgid);
        // begin_new_exec, and commit_creds after it.
        let dumpable =
            c.euid == c.uid && c.egid == c.gid && ids(old) == ids(c) && c.permitted.0 & !old.permitted.0 == 0;
        self.task.group.attributes.lock().dumpable = dumpable.into();
        if *c != *self.cred {
            self.set_cred(new.cred);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_NEW_PRIVS: Doubts = Doubts { no_new_privs: true, shares_fs: false, traced: false };

    fn file(mode: u32, uid: u32, gid: u32) -> Metadata {
        Metadata { mode: 0o100_755 | mode, uid, gid, ..Metadata::default() }
    }

    #[test]
    fn root_gets_the_bounding_set() {
        let mut old = Credentials::root();
        old.bounding.0 &= !(1 << 5);
        let new = after_exec(&old, &file(0, 0, 0), None, Doubts::default());
        assert_eq!(new.cred.permitted, old.bounding);
        assert_eq!(new.cred.effective, old.bounding);
        assert!(!new.secure);
    }

    #[test]
    fn a_set_user_id_program_changes_the_effective_user() {
        let old = Credentials::user(1000, 1000);
        let new = after_exec(&old, &file(0o4000, 0, 0), None, Doubts::default());
        assert_eq!((new.cred.uid, new.cred.euid, new.cred.suid, new.cred.fsuid), (1000, 0, 0, 0));
        assert_eq!(new.cred.effective, CapSet::ALL);
        assert!(new.secure);
        let new = after_exec(&old, &file(0o4000, 0, 0), None, NO_NEW_PRIVS);
        assert_eq!((new.cred.euid, new.cred.permitted), (1000, CapSet::EMPTY));
        assert!(!new.secure);
        let doubts = Doubts { shares_fs: true, ..Doubts::default() };
        let new = after_exec(&old, &file(0o4000, 0, 0), None, doubts);
        assert_eq!((new.cred.euid, new.cred.suid, new.cred.permitted), (1000, 1000, CapSet::EMPTY));
    }

    #[test]
    fn ambient_capabilities_survive_an_ordinary_program() {
        let mut old = Credentials::user(1000, 1000);
        for set in [&mut old.permitted, &mut old.inheritable, &mut old.ambient] {
            set.0 = 1 << 10;
        }
        let new = after_exec(&old, &file(0, 0, 0), None, Doubts::default());
        assert_eq!((new.cred.permitted.0, new.cred.effective.0), (1 << 10, 1 << 10));
        let new = after_exec(&old, &file(0o2010, 0, 7), None, Doubts::default());
        assert_eq!((new.cred.permitted.0, new.cred.ambient.0, new.cred.egid), (0, 0, 7));
    }

    #[test]
    fn file_capabilities_are_granted() {
        let old = Credentials::user(1000, 1000);
        // cap_net_raw=ep, revision 2.
        let bytes = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let caps = FileCaps::parse(&bytes);
        assert_eq!(caps, Some(FileCaps { permitted: 1 << 13, inheritable: 0, effective: true }));
        let new = after_exec(&old, &file(0, 0, 0), caps, Doubts::default());
        assert_eq!(new.cred.effective.0, 1 << 13);
        assert!(new.secure);
        assert_eq!(FileCaps::parse(&bytes[..12]), None);
    }
}
