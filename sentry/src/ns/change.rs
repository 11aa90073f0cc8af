//! unshare(2), setns(2) and the namespace flags of clone(2) (Linux kernel/nsproxy.c, kernel/fork.c `ksys_unshare`).

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, EPERM, EUSERS};
use base::cred::{CapSet, Credentials, cap};
use base::lock::Lock;
use base::userns::UserNamespace;

use super::file::AnyNamespace;
use super::pid::PidNs;
use super::time::TimeNs;
use super::{Namespace, Namespaces, new_ino};
use crate::ipc::IpcNamespace;
use crate::task::clone::flag;
use crate::task::{Ctx, FsContext};

/// Flags that ask for a namespace that there is.
pub const SUPPORTED: u64 = flag::NEWNS
    | flag::NEWUTS
    | flag::NEWIPC
    | flag::NEWUSER
    | flag::NEWNET
    | flag::NEWCGROUP
    | flag::NEWPID
    | flag::NEWTIME;
/// All flags that ask for a namespace.
pub const ALL: u64 = SUPPORTED;

/// What a task with new namespaces has.
pub struct Changed {
    /// Its credentials: other ones in a new user namespace.
    pub cred: Arc<Credentials>,
    /// Its namespaces.
    pub namespaces: Arc<Namespaces>,
}

/// The credentials of a task that enters user namespace `ns` with all capabilities (`set_cred_user_ns`).
fn in_user_ns(cred: &Credentials, ns: Arc<UserNamespace>) -> Arc<Credentials> {
    Arc::new(Credentials {
        securebits: 0,
        inheritable: CapSet::EMPTY,
        permitted: CapSet::ALL,
        effective: CapSet::ALL,
        bounding: CapSet::ALL,
        ambient: CapSet::EMPTY,
        user_ns: ns,
        ..cred.clone()
    })
}

impl Ctx<'_> {
    /// Makes the namespaces that `flags` ask for. `fs` is the context of whoever gets them, shared with nobody else when
    /// `flags` has `NEWNS`: its places move to the new mounts.
    ///
    /// # Errors
    /// `EINVAL`: a kind that there is not; `EPERM`: no `CAP_SYS_ADMIN` in the user namespace that they will belong to;
    /// `ENOSPC`, `ENOMEM`.
    pub(crate) fn new_namespaces(&self, flags: u64, fs: &mut FsContext) -> Result<Changed, Errno> {
        let mut cred = self.cred.clone();
        let mut namespaces = self.task.namespaces.lock().clone();
        if flags & ALL & !SUPPORTED != 0 {
            return Err(EINVAL);
        }
        if flags & flag::NEWUSER != 0 {
            cred = in_user_ns(&cred, UserNamespace::new(&cred, new_ino())?);
        }
        if flags & SUPPORTED & !flag::NEWUSER == 0 {
            return Ok(Changed { cred, namespaces });
        }
        if !cred.has_here(cap::SYS_ADMIN) {
            return Err(EPERM);
        }
        let owner = &cred.user_ns;
        let mut new = (*namespaces).clone();
        if flags & flag::NEWUTS != 0 {
            let names = new.uts.lock().clone();
            new.uts = Namespace::new(owner, Lock::new(names));
        }
        if flags & flag::NEWIPC != 0 {
            new.ipc = Namespace::new(owner, IpcNamespace::new(new.budget.clone()));
        }
        if flags & flag::NEWPID != 0 {
            // Only who is in the innermost that it made can go deeper.
            if !Arc::ptr_eq(&new.pid_for_children, self.task.pid_ns()) {
                return Err(EINVAL);
            }
            new.pid_for_children = PidNs::within(self.task.pid_ns(), owner)?;
        }
        if flags & flag::NEWTIME != 0 {
            new.time_for_children = TimeNs::like(&new.time_for_children, owner);
        }
        if flags & flag::NEWNET != 0 {
            let net = new.net.unshared(owner);
            new.net = Namespace::new(owner, net);
        }
        if flags & flag::NEWCGROUP != 0 {
            new.cgroup = Namespace::new(owner, self.task.cgroup());
        }
        if flags & flag::NEWNS != 0 {
            let mounts = fs.mounts.clone().duplicate(&mut [&mut fs.root, &mut fs.cwd], owner)?;
            fs.mounts = mounts.clone();
            new.mount = Namespace::new(owner, mounts);
        }
        namespaces = Arc::new(new);
        Ok(Changed { cred, namespaces })
    }

    /// Takes namespaces over.
    fn take_namespaces(&mut self, changed: Changed) {
        if !Arc::ptr_eq(&changed.cred, &self.cred) {
            self.set_cred((*changed.cred).clone());
        }
        let former = std::mem::replace(&mut *self.task.namespaces.lock(), changed.namespaces);
        drop(former);
    }

    /// unshare(2).
    ///
    /// # Errors
    /// `EINVAL`: an unknown flag, or what threads share cannot be split; and those of `new_namespaces`.
    pub(crate) fn unshare(&mut self, flags: u64) -> Result<(), Errno> {
        const KNOWN: u64 =
            flag::THREAD | flag::FS | flag::SIGHAND | flag::VM | flag::FILES | flag::SYSVSEM | ALL;
        let mut flags = flags;
        if flags & flag::NEWUSER != 0 {
            flags |= flag::THREAD | flag::FS;
        }
        if flags & flag::VM != 0 {
            flags |= flag::SIGHAND;
        }
        if flags & flag::SIGHAND != 0 {
            flags |= flag::THREAD;
        }
        if flags & flag::NEWNS != 0 {
            flags |= flag::FS;
        }
        if flags & !KNOWN != 0 {
            return Err(EINVAL);
        }
        let alone = self.task.group.signals.lock().threads.len() == 1;
        if flags & flag::THREAD != 0 && !alone {
            return Err(EINVAL);
        }
        let mut fs = self.fs.lock().clone();
        let changed = self.new_namespaces(flags, &mut fs)?;
        if flags & flag::FS != 0 {
            self.set_fs(fs);
        }
        if flags & flag::FILES != 0 && Arc::strong_count(&self.files) > 2 {
            self.files = self.files.duplicate()?;
            let former = std::mem::replace(&mut self.task.state.lock().files, self.files.clone());
            drop(former);
        }
        if flags & (flag::SYSVSEM | flag::NEWIPC) != 0 {
            let former = self.task.sem_undo.lock().take();
            drop(former);
        }
        self.take_namespaces(changed);
        Ok(())
    }

    /// A root and working directory of its own.
    fn set_fs(&mut self, fs: FsContext) {
        let fs = Arc::new(Lock::new(fs));
        self.fs = fs.clone();
        let former = std::mem::replace(&mut *self.task.fs.lock(), fs);
        drop(former);
    }

    /// setns(2): enters the namespaces of `list`, all or none; user namespaces first.
    ///
    /// # Errors
    /// `EINVAL`: threads share what would change, or the user namespace is the own one; `EPERM`.
    pub(crate) fn enter(&mut self, mut list: Vec<AnyNamespace>) -> Result<(), Errno> {
        list.sort_by_key(|ns| !matches!(ns, AnyNamespace::User(_)));
        let mut cred = self.cred.clone();
        let mut new = (**self.task.namespaces.lock()).clone();
        let mut fs = None;
        for ns in list {
            let owner = match &ns {
                AnyNamespace::User(user) => user.clone(),
                other => other.owner().ok_or(EPERM)?,
            };
            if let AnyNamespace::User(user) = &ns {
                let alone = self.task.group.signals.lock().threads.len() == 1;
                if *user == cred.user_ns || !alone || Arc::strong_count(&self.fs) > 2 {
                    return Err(EINVAL);
                }
                if !user.grants(&cred, cap::SYS_ADMIN) {
                    return Err(EPERM);
                }
                cred = in_user_ns(&cred, user.clone());
                continue;
            }
            if !owner.grants(&cred, cap::SYS_ADMIN) || !cred.has_here(cap::SYS_ADMIN) {
                return Err(EPERM);
            }
            match ns {
                AnyNamespace::Cgroup(n) => new.cgroup = n,
                AnyNamespace::Ipc(n) => new.ipc = n,
                AnyNamespace::Net(n) => new.net = n,
                AnyNamespace::Uts(n) => new.uts = n,
                AnyNamespace::Mount(n) => {
                    if !cred.has_here(cap::SYS_CHROOT) {
                        return Err(EPERM);
                    }
                    if Arc::strong_count(&self.fs) > 2 {
                        return Err(EINVAL);
                    }
                    let umask = self.fs.lock().umask;
                    let root = n.root();
                    fs = Some(FsContext { mounts: (*n).clone(), cwd: root.clone(), root, umask });
                    new.mount = n;
                }
                AnyNamespace::Pid(n) => {
                    if !n.is_within(self.task.pid_ns()) {
                        return Err(EINVAL);
                    }
                    new.pid_for_children = n;
                }
                AnyNamespace::Time(n) => {
                    if self.task.group.signals.lock().threads.len() > 1 {
                        return Err(EUSERS);
                    }
                    n.enter(&self.task.kernel)?;
                    new.time = n.clone();
                    new.time_for_children = n;
                }
                AnyNamespace::User(_) => {}
            }
        }
        if let Some(fs) = fs {
            self.set_fs(fs);
        }
        let times_change = !Arc::ptr_eq(&new.time, &self.task.namespaces.lock().time);
        self.take_namespaces(Changed { cred, namespaces: Arc::new(new) });
        if times_change {
            let mm = self.mm.clone();
            self.task.show_clocks(&mm)?;
            self.offsets = self.task.offsets();
        }
        Ok(())
    }
}
