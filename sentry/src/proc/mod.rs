//! What `/proc` and `/sys` say.
//!
//! Reading order: this file (tasks as procfs sees them, who may look), `status.rs` (`stat`, `statm`, `status`),
//! `task.rs` (the other files of a task), `machine.rs` (`/proc/meminfo` and its like), `cpuinfo.rs`, `sysctl.rs`
//! (`/proc/sys`), `tunable.rs` (what of it can be set), `net.rs` (`/proc/net`), `sys.rs` (`/sys`).

mod cpuinfo;
mod machine;
mod net;
mod status;
mod sys;
pub mod sysctl;
mod task;
mod tunable;

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EACCES, EIO, ENOENT, EPERM, ESRCH};
use base::cred::{Credentials, cap};
use base::landlock::Domain;
use base::time::Time;
use base::wait::Changes;
use fs::file::{FileDescription, FileOps, Metadata};
use fs::generated::Named;
use fs::procfs::{Descriptor, OpenMemory, TaskAccess, TaskFile, TaskId, TaskLink, TaskMemory};
use fs::vfs::{Inode, Owner, VfsPath};

use crate::kernel::Kernel;
use crate::mm::MemoryManager;
use crate::ns::file::AnyNamespace;
use crate::ns::pid::PidNs;
use crate::task::current::current;
use crate::task::exec::FileOrigin;
use crate::task::{Attributes, DeadLeader, Task, ThreadGroup};
use crate::time::Clock;

pub(crate) use status::ticks;
pub use sys::new_sysfs;
pub use tunable::Settings;

/// Makes `/proc` for `kernel` as PID namespace `ns` sees it. `extra` are files of its root, `per_task` files of each task's directory, that other
/// parts of the kernel provide.
pub fn new_procfs(
    kernel: &Arc<Kernel>,
    ns: Arc<PidNs>,
    extra: Vec<Named>,
    mut per_task: Vec<Named>,
) -> Arc<dyn Inode> {
    let mut fixed = machine::files(kernel);
    per_task.push(net::folder(kernel));
    fixed.extend(extra);
    let system = Arc::new(ProcSystem(Arc::downgrade(kernel), ns));
    fs::procfs::new(system, fixed, per_task)
}

/// The process whose directory in `/proc` is open as `file`.
pub fn process_of(file: &FileDescription) -> Option<Arc<ThreadGroup>> {
    let task: Arc<dyn Any> = fs::procfs::process_of(file)?;
    task.downcast_ref::<ProcTask>().map(|t| t.group.clone())
}

struct ProcSystem(Weak<Kernel>, Arc<PidNs>);

impl fs::procfs::System for ProcSystem {
    fn current(&self) -> Option<TaskId> {
        let shown = |id| Some(self.1.shown(id)).filter(|&nr| nr != 0);
        let task = current()?;
        Some(TaskId { pid: shown(task.group.pid)?, tid: shown(task.tid)? })
    }

    fn processes(&self) -> Vec<i32> {
        let Some(kernel) = self.0.upgrade() else { return Vec::new() };
        let tree = kernel.tree.lock();
        let mut pids: Vec<i32> =
            tree.processes.keys().map(|&pid| self.1.shown(pid)).filter(|&nr| nr != 0).collect();
        drop(tree);
        pids.sort_unstable();
        pids
    }

    fn task(&self, id: i32) -> Option<Arc<dyn fs::procfs::Task>> {
        let kernel = self.0.upgrade()?;
        let id = self.1.id_of(id);
        let group = {
            let tree = kernel.tree.lock();
            match tree.processes.get(&id) {
                Some(p) => p.group.clone(),
                None => tree.tasks.get(&id)?.group.clone(),
            }
        };
        Some(Arc::new(ProcTask { kernel: self.0.clone(), ns: self.1.clone(), group, tid: id }))
    }

    fn path(&self, place: &VfsPath) -> Vec<u8> {
        let root = current().map(|t| t.root());
        match root.or_else(|| self.0.upgrade().map(|k| k.mounts.root())) {
            Some(root) => place.full_path(&root),
            None => Vec::new(),
        }
    }
}

impl Task {
    /// What `/` means for the task.
    pub fn root(&self) -> VfsPath {
        let fs = self.fs.lock().clone();
        let fs = fs.lock();
        fs.root.clone()
    }
}

/// A process or thread that somebody looks at. It may end meanwhile.
struct ProcTask {
    kernel: Weak<Kernel>,
    /// The namespace that numbers are shown in.
    ns: Arc<PidNs>,
    group: Arc<ThreadGroup>,
    tid: i32,
}

/// Where a process stands, copied out of the tree.
#[derive(Clone, Debug)]
struct Standing {
    parent: i32,
    children: Vec<i32>,
    pgid: i32,
    sid: i32,
    is_zombie: bool,
    exit_signal: i32,
    has_execed: bool,
    /// The device number of the controlling terminal and its foreground process group; 0 and -1 without.
    terminal: u64,
    foreground: i32,
    /// The living threads, by ID.
    threads: Vec<Arc<Task>>,
}

/// What is known of a thread, alive or not.
#[derive(Clone, Debug)]
struct View {
    /// `None` when the thread has ended: it is the leader then.
    task: Option<Arc<Task>>,
    name: Vec<u8>,
    cred: Arc<Credentials>,
    mask: u64,
    attributes: Attributes,
    started_ns: u64,
}

impl ProcTask {
    fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.kernel.upgrade().ok_or(ESRCH)
    }

    /// Where the process stands.
    ///
    /// # Errors
    /// `ESRCH` once it has been waited for, or its number belongs to another.
    fn standing(&self) -> Result<Standing, Errno> {
        let kernel = self.kernel()?;
        let tree = kernel.tree.lock();
        let p = tree.processes.get(&self.group.pid).ok_or(ESRCH)?;
        if !Arc::ptr_eq(&p.group, &self.group) {
            return Err(ESRCH);
        }
        let mut threads: Vec<Arc<Task>> =
            tree.tasks.values().filter(|t| Arc::ptr_eq(&t.group, &self.group)).cloned().collect();
        threads.sort_unstable_by_key(|t| t.tid);
        Ok(Standing {
            parent: p.parent,
            children: p.children.clone(),
            pgid: p.pgid,
            sid: p.sid,
            is_zombie: p.zombie.is_some(),
            exit_signal: p.exit_signal,
            has_execed: p.has_execed,
            terminal: p.tty.as_ref().map_or(0, |tty| tty.device()),
            foreground: p
                .tty
                .as_ref()
                .map_or(-1, |tty| tty.foreground.load(std::sync::atomic::Ordering::SeqCst)),
            threads,
        })
    }

    /// The thread, if it is alive.
    fn task(&self) -> Result<Arc<Task>, Errno> {
        let task = self.kernel()?.task(self.tid).ok_or(ESRCH)?;
        if Arc::ptr_eq(&task.group, &self.group) { Ok(task) } else { Err(ESRCH) }
    }

    /// Whether nobody has waited for the process yet.
    fn is_known(&self) -> bool {
        let Ok(kernel) = self.kernel() else { return false };
        let tree = kernel.tree.lock();
        tree.processes.get(&self.group.pid).is_some_and(|p| Arc::ptr_eq(&p.group, &self.group))
    }

    fn view(&self) -> Result<View, Errno> {
        if let Ok(task) = self.task() {
            let (name, cred, mask) = {
                let state = task.state.lock();
                (state.name.clone(), state.cred.clone(), state.mask)
            };
            let attributes = task.attributes.lock().clone();
            let started_ns = task.account.started_ns();
            return Ok(View { task: Some(task), name, cred, mask, attributes, started_ns });
        }
        let is_left = self.tid == self.group.pid && self.is_known();
        let dead = if is_left { self.group.dead_leader.lock().clone() } else { None };
        let DeadLeader { name, cred, mask, attributes, started_ns } = dead.ok_or(ESRCH)?;
        Ok(View { task: None, name, cred, mask, attributes, started_ns })
    }

    fn mm(&self) -> Result<Arc<MemoryManager>, Errno> {
        Ok(self.task()?.mm.lock().clone())
    }
}

/// Whether the caller may look at `task` (ptrace(2), "Ptrace access mode checking"; Linux kernel/ptrace.c,
/// `__ptrace_may_access` with `PTRACE_MODE_FSCREDS`).
///
/// # Errors
/// `EPERM`.
pub fn may_access(caller: &Task, group: &Arc<ThreadGroup>, target: &Credentials) -> Result<(), Errno> {
    if Arc::ptr_eq(&caller.group, group) {
        return Ok(());
    }
    let cred = caller.cred();
    if !Domain::is_around(cred.landlock.as_ref(), target.landlock.as_ref()) {
        return Err(EPERM);
    }
    if cred.has(cap::SYS_PTRACE) {
        return Ok(());
    }
    let same_user = [target.uid, target.euid, target.suid].iter().all(|&id| id == cred.fsuid)
        && [target.gid, target.egid, target.sgid].iter().all(|&id| id == cred.fsgid);
    let no_more_caps = target.permitted.0 & !cred.effective.0 == 0;
    if same_user && no_more_caps && group.attributes.lock().dumpable == 1 { Ok(()) } else { Err(EPERM) }
}

/// Whether the caller may reach into `target` (`PTRACE_MODE_ATTACH_REALCREDS`).
///
/// # Errors
/// `EPERM`.
pub fn may_attach(caller: &Task, target: &Task) -> Result<(), Errno> {
    if Arc::ptr_eq(&caller.group, &target.group) {
        return Ok(());
    }
    let (cred, them) = (caller.cred(), target.cred());
    if !Domain::is_around(cred.landlock.as_ref(), them.landlock.as_ref()) {
        return Err(EPERM);
    }
    if cred.has(cap::SYS_PTRACE) {
        return Ok(());
    }
    let same_user = [them.uid, them.euid, them.suid].iter().all(|&id| id == cred.uid)
        && [them.gid, them.egid, them.sgid].iter().all(|&id| id == cred.gid);
    let no_more_caps = them.permitted.0 & !cred.permitted.0 == 0;
    if same_user && no_more_caps && target.group.attributes.lock().dumpable == 1 {
        Ok(())
    } else {
        Err(EPERM)
    }
}

impl fs::procfs::Task for ProcTask {
    fn id(&self) -> TaskId {
        TaskId { pid: self.ns.shown(self.group.pid), tid: self.ns.shown(self.tid) }
    }

    fn exists(&self) -> bool {
        self.view().is_ok() && self.standing().is_ok()
    }

    fn owner(&self) -> Owner {
        match self.view() {
            Ok(v) if self.group.attributes.lock().dumpable == 1 => {
                Owner { uid: v.cred.euid, gid: v.cred.egid }
            }
            _ => Owner { uid: 0, gid: 0 },
        }
    }

    fn start_time(&self) -> Time {
        let (Ok(kernel), Ok(view)) = (self.kernel(), self.view()) else { return Time::default() };
        let ago = kernel.boot_ns().saturating_sub(view.started_ns);
        let now = kernel.time.now(Clock::Realtime).as_ns();
        Time::from_ns(now.saturating_sub_unsigned(ago))
    }

    fn threads(&self) -> Vec<i32> {
        let Ok(standing) = self.standing() else { return Vec::new() };
        let mut ids: Vec<i32> = standing.threads.iter().map(|t| t.tid).collect();
        // A leader that has ended is there until the process is.
        if !ids.contains(&self.group.pid) {
            ids.insert(0, self.group.pid);
        }
        if !self.ns.is_first() {
            ids.iter_mut().for_each(|id| *id = self.ns.shown(*id));
            ids.sort_unstable();
        }
        ids
    }

    fn check(&self, access: TaskAccess) -> Result<(), Errno> {
        let view = self.view()?;
        let caller = current().ok_or(ESRCH)?;
        let cred = caller.cred();
        if access == TaskAccess::Memory && (cred.has(cap::PERFMON) || cred.has(cap::SYS_ADMIN)) {
            // Linux 6.18 kernel/fork.c, `may_access_mm`.
            return Ok(());
        }
        may_access(&caller, &self.group, &view.cred)
    }

    fn check_open(&self, file: TaskFile) -> Result<(), Errno> {
        self.check_zombie(file)
    }

    fn text(&self, file: TaskFile, whole: bool) -> Result<Vec<u8>, Errno> {
        self.make_text(file, whole)
    }

    fn write(&self, file: TaskFile, bytes: &[u8]) -> Result<usize, Errno> {
        self.take_text(file, bytes)
    }

    fn link(&self, link: TaskLink) -> Result<VfsPath, Errno> {
        self.check(TaskAccess::Read).map_err(|e| if e == EPERM { EACCES } else { e })?;
        let task = self.task().map_err(|_| ENOENT)?;
        match link {
            TaskLink::Exe => {
                let mm = task.mm.lock().clone();
                let exe = mm.layout().exe.ok_or(ENOENT)?;
                let origin = exe.as_any().downcast_ref::<FileOrigin>().ok_or(ENOENT)?;
                origin.file.path.clone().ok_or(ENOENT)
            }
            TaskLink::Cwd => {
                let fs = task.fs.lock().clone();
                let fs = fs.lock();
                Ok(fs.cwd.clone())
            }
            TaskLink::Root => Ok(task.root()),
        }
    }

    fn mount_changes(&self) -> Option<Arc<Changes>> {
        Some(self.mounts().ok()?.0.changes().clone())
    }

    fn descriptors(&self) -> Result<Vec<i32>, Errno> {
        self.check(TaskAccess::Read).map_err(|e| if e == EPERM { EACCES } else { e })?;
        let Ok(task) = self.task() else { return Ok(Vec::new()) };
        let files = task.state.lock().files.clone();
        Ok(files.numbers())
    }

    fn descriptor(&self, fd: i32) -> Result<Descriptor, Errno> {
        self.check(TaskAccess::Read).map_err(|e| if e == EPERM { EACCES } else { e })?;
        let task = self.task().map_err(|_| ENOENT)?;
        let files = task.state.lock().files.clone();
        let entry = files.entry(fd)?;
        Ok(Descriptor { file: entry.file, cloexec: entry.cloexec })
    }

    fn namespaces(&self) -> &'static [&'static str] {
        &crate::ns::file::NAMES
    }

    fn namespace(&self, name: &str) -> Result<Arc<FileDescription>, Errno> {
        self.check(TaskAccess::Read).map_err(|e| if e == EPERM { EACCES } else { e })?;
        let Ok(task) = self.task() else {
            // What a zombie still belongs to.
            let kept = match name {
                "user" => AnyNamespace::User(self.view()?.cred.user_ns.clone()),
                "pid" => AnyNamespace::Pid(self.group.pid_ns.clone()),
                _ => return Err(ENOENT),
            };
            return Ok(kept.open());
        };
        Ok(AnyNamespace::of(&task, name).ok_or(ENOENT)?.open())
    }

    fn memory(&self, meta: Metadata) -> Result<Box<dyn FileOps>, Errno> {
        let memory = TaskSpace(Arc::downgrade(&self.mm()?));
        Ok(Box::new(OpenMemory::new(Box::new(memory), meta)))
    }
}

/// An address space behind `/proc/PID/mem`: nothing to read once nobody runs in it.
struct TaskSpace(Weak<MemoryManager>);

impl TaskMemory for TaskSpace {
    fn peek(&self, addr: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        mm.peek(abi::UserAddr(addr), buf).map_err(|_| EIO)
    }

    fn poke(&self, addr: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        mm.poke(abi::UserAddr(addr), bytes).map_err(|_| EIO)
    }
}
