//! Files that stand for namespaces: `/proc/PID/ns` (Linux fs/nsfs.c).

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, ENOTTY, EPERM, ESRCH};
use base::userns::{IdKind, UserNamespace};
use fs::file::{FileDescription, FileOps, Metadata};
use fs::vfs::MountNamespace;

use super::pid::PidNs;
use super::time::TimeNs;
use super::{Namespace, Uts};
use crate::ipc::IpcNamespace;
use crate::syscall::SysResult;
use crate::task::clone::flag;
use crate::task::{Ctx, Task};

/// The device number of nsfs.
const DEV: u64 = 4;

/// A namespace of any kind.
#[derive(Clone)]
#[expect(missing_docs, reason = "namespaces(7) explains each")]
pub enum AnyNamespace {
    Cgroup(Arc<Namespace<Arc<crate::cgroup::Cgroup>>>),
    Ipc(Arc<Namespace<Arc<IpcNamespace>>>),
    Mount(Arc<Namespace<Arc<MountNamespace>>>),
    Net(Arc<Namespace<Arc<net::Namespace>>>),
    Pid(Arc<PidNs>),
    Time(Arc<TimeNs>),
    User(Arc<UserNamespace>),
    Uts(Arc<Uts>),
}

/// The names in `/proc/PID/ns`, in order.
pub const NAMES: [&str; 10] =
    ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"];

impl AnyNamespace {
    /// The kind's flag in clone(2), and its name.
    pub fn kind(&self) -> (u64, &'static str) {
        match self {
            Self::Cgroup(_) => (flag::NEWCGROUP, "cgroup"),
            Self::Ipc(_) => (flag::NEWIPC, "ipc"),
            Self::Mount(_) => (flag::NEWNS, "mnt"),
            Self::Net(_) => (flag::NEWNET, "net"),
            Self::Pid(_) => (flag::NEWPID, "pid"),
            Self::Time(_) => (flag::NEWTIME, "time"),
            Self::User(_) => (flag::NEWUSER, "user"),
            Self::Uts(_) => (flag::NEWUTS, "uts"),
        }
    }

    /// The inode number.
    pub fn ino(&self) -> u64 {
        match self {
            Self::Cgroup(n) => n.ino,
            Self::Time(n) => n.ino,
            Self::Pid(n) => n.ino,
            Self::Ipc(n) => n.ino,
            Self::Mount(n) => n.ino,
            Self::Net(n) => n.ino,
            Self::User(n) => n.ino,
            Self::Uts(n) => n.ino,
        }
    }

    /// The user namespace that owns it; a user namespace's is its parent.
    pub fn owner(&self) -> Option<Arc<UserNamespace>> {
        match self {
            Self::Cgroup(n) => Some(n.owner.clone()),
            Self::Time(n) => Some(n.owner.clone()),
            Self::Pid(n) => Some(n.owner.clone()),
            Self::Ipc(n) => Some(n.owner.clone()),
            Self::Mount(n) => Some(n.owner.clone()),
            Self::Net(n) => Some(n.owner.clone()),
            Self::User(n) => n.parent.clone(),
            Self::Uts(n) => Some(n.owner.clone()),
        }
    }

    /// The namespace that `name` in `/proc/PID/ns` stands for.
    pub fn of(task: &Task, name: &str) -> Option<Self> {
        let ns = task.namespaces.lock().clone();
        Some(match name {
            "cgroup" => Self::Cgroup(ns.cgroup.clone()),
            "ipc" => Self::Ipc(ns.ipc.clone()),
            "mnt" => Self::Mount(ns.mount.clone()),
            "net" => Self::Net(ns.net.clone()),
            "pid" => Self::Pid(task.pid_ns().clone()),
            // There is nothing to open before the first process.
            "pid_for_children" if ns.pid_for_children.init() == 0 => return None,
            "pid_for_children" => Self::Pid(ns.pid_for_children.clone()),
            "time" => Self::Time(ns.time.clone()),
            "time_for_children" => Self::Time(ns.time_for_children.clone()),
            "user" => Self::User(task.cred().user_ns.clone()),
            "uts" => Self::Uts(ns.uts.clone()),
            _ => return None,
        })
    }

    /// An open file that stands for it.
    pub fn open(self) -> Arc<FileDescription> {
        FileDescription::new(Box::new(NsFile(self)), None, 0)
    }
}

/// An open namespace.
struct NsFile(AnyNamespace);

impl std::fmt::Debug for NsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NsFile({}:[{}])", self.0.kind().1, self.0.ino())
    }
}

/// The namespace that a file stands for, if it does.
pub fn namespace_of(file: &FileDescription) -> Option<&AnyNamespace> {
    file.ops.as_any().downcast_ref::<NsFile>().map(|f| &f.0)
}

impl FileOps for NsFile {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let anon = fs::anon::anon_metadata();
        Ok(Metadata { dev: DEV, ino: self.0.ino(), mode: fs::vfs::mode::IFREG | 0o444, ..anon })
    }

    fn reopen(&self, _flags: u32) -> Result<Option<Box<dyn FileOps>>, Errno> {
        Ok(Some(Box::new(Self(self.0.clone()))))
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(format!("{}:[{}]", self.0.kind().1, self.0.ino()).into_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What ioctl(2) tells of a namespace (ioctl_ns(2)).
///
/// # Errors
/// `ENOTTY`: an unknown request; `EPERM`: the answer lies outside of what the caller may see; `EINVAL`: the kind has no
/// parent, or no owner; `EFAULT`, `EMFILE`.
pub(crate) fn ioctl(cx: &mut Ctx<'_>, ns: &AnyNamespace, request: u32, arg: abi::UserAddr) -> SysResult {
    const GET_USERNS: u32 = 0xb701;
    const GET_PARENT: u32 = 0xb702;
    const GET_NSTYPE: u32 = 0xb703;
    const GET_OWNER_UID: u32 = 0xb704;
    const GET_PID_FROM: u32 = 0x8004_b706;
    const GET_TGID_FROM: u32 = 0x8004_b707;
    const GET_PID_IN: u32 = 0x8004_b708;
    const GET_TGID_IN: u32 = 0x8004_b709;
    match request {
        GET_USERNS | GET_PARENT => {
            if request == GET_PARENT && !matches!(ns, AnyNamespace::User(_) | AnyNamespace::Pid(_)) {
                return Err(EINVAL.into());
            }
            if request == GET_PARENT
                && let AnyNamespace::Pid(pids) = ns
            {
                let parent = pids.parent.as_ref().filter(|p| p.is_within(cx.task.pid_ns())).ok_or(EPERM)?;
                return Ok(cx.install(AnyNamespace::Pid(parent.clone()).open(), true)? as u64);
            }
            let owner = ns.owner().filter(|o| o.is_within(&cx.cred.user_ns)).ok_or(EPERM)?;
            Ok(cx.install(AnyNamespace::User(owner).open(), true)? as u64)
        }
        GET_NSTYPE => Ok(ns.kind().0),
        GET_OWNER_UID => {
            let AnyNamespace::User(user) = ns else { return Err(EINVAL.into()) };
            cx.mm.write_value(arg, &cx.cred.user_ns.shown(IdKind::User, user.owner))?;
            Ok(0)
        }
        GET_PID_FROM | GET_TGID_FROM | GET_PID_IN | GET_TGID_IN => {
            let AnyNamespace::Pid(pids) = ns else { return Err(EINVAL.into()) };
            let given = arg.raw() as i32;
            let is_from = matches!(request, GET_PID_FROM | GET_TGID_FROM);
            let id = if is_from { pids.id_of(given) } else { cx.task.id_of(given) };
            let task = cx.task.kernel.task(id).ok_or(ESRCH)?;
            let is_process = matches!(request, GET_TGID_FROM | GET_TGID_IN);
            let id = if is_process { task.group.pid } else { task.tid };
            let shown = if is_from { cx.task.shown_id(id) } else { pids.shown(id) };
            if shown == 0 { Err(ESRCH.into()) } else { Ok(shown as u64) }
        }
        _ => Err(ENOTTY.into()),
    }
}
