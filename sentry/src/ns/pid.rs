//! PID namespaces (pid_namespaces(7); Linux kernel/pid.c, kernel/pid_namespace.c).
//!
//! Everywhere in the sentry the numbers of threads, processes, process groups and sessions are those of the first
//! namespace. They are translated where a program reads or gives them; in the first namespace that costs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EEXIST, EINVAL, ENOMEM, ENOSPC, EPERM};
use abi::signal::{SigAction, SigInfo};
use base::cred::{Credentials, cap};
use base::lock::{Lock, rank};
use base::userns::{IdKind, UserNamespace};
use base::wait::{Events, Wake};

use super::Namespace;
use crate::kernel::{Kernel, PID_MAX, Tree};
use crate::signal::{Handlers, SIG_IGN, SIGCHLD, SIGKILL};
use crate::task::{Parker, Task, ThreadGroup};

/// Namespaces may lie this deep in each other (`MAX_PID_NS_LEVEL`).
pub const MAX_LEVEL: usize = 32;
/// A number that nobody ever has.
const NOBODY: i32 = i32::MAX;

/// A PID namespace.
pub type PidNs = Namespace<PidNumbers>;

/// The numbers in a PID namespace.
#[derive(Debug)]
pub struct PidNumbers {
    /// The namespace around it; `None` for the first.
    pub parent: Option<Arc<PidNs>>,
    /// How deep it lies; 0 for the first.
    pub level: usize,
    table: Lock<Table, { rank::LEAF }>,
}

#[derive(Debug, Default)]
struct Table {
    /// By number here, the number in the first namespace.
    ids: HashMap<i32, i32>,
    /// The other way.
    shown: HashMap<i32, i32>,
    last: i32,
    /// The first process's number in the first namespace; 0 while there was none.
    init: i32,
    /// The first process has ended: nobody can come in any more.
    is_closed: bool,
    /// The first process, which waits for the ends of all others.
    ending: Option<Arc<Parker>>,
}

/// The numbers of a new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewId {
    /// In the first namespace.
    pub id: i32,
    /// In the one that it is made in.
    pub shown: i32,
}

impl PidNumbers {
    /// Whether nobody can come in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.table.lock().is_closed
    }

    pub(super) fn first() -> Self {
        Self { parent: None, level: 0, table: Lock::default() }
    }

    /// Whether it is the first.
    pub fn is_first(&self) -> bool {
        self.parent.is_none()
    }

    /// The number here of what has number `id` in the first namespace; 0 when it cannot be seen from here.
    pub fn shown(&self, id: i32) -> i32 {
        if self.is_first() || id <= 0 {
            return id;
        }
        self.table.lock().shown.get(&id).copied().unwrap_or(0)
    }

    /// The number in the first namespace of what has number `shown` here; one that nobody has when there is nothing.
    pub fn id_of(&self, shown: i32) -> i32 {
        if self.is_first() || shown <= 0 {
            return shown;
        }
        self.table.lock().ids.get(&shown).copied().unwrap_or(NOBODY)
    }

    /// Whether a thread of this namespace can see number `id` of the first one.
    pub fn sees(&self, id: i32) -> bool {
        self.is_first() || self.table.lock().shown.contains_key(&id)
    }

    /// The first process, whose children orphans become: its number in the first namespace.
    pub fn init(&self) -> i32 {
        if self.is_first() { 1 } else { self.table.lock().init }
    }

    /// How many numbers are in use.
    fn count(&self) -> usize {
        self.table.lock().ids.len()
    }

    fn give(&self, id: i32, wanted: Option<i32>) -> Result<i32, Errno> {
        let mut table = self.table.lock();
        let mut tries = 0;
        let shown = match wanted {
            Some(nr) => nr,
            None => loop {
                table.last = if table.last >= PID_MAX - 1 { 300 } else { table.last + 1 };
                if !table.ids.contains_key(&table.last) {
                    break table.last;
                }
                tries += 1;
                if tries >= PID_MAX {
                    return Err(EAGAIN);
                }
            },
        };
        if shown == 1 {
            table.init = id;
            table.last = table.last.max(1);
        }
        table.ids.insert(shown, id);
        table.shown.insert(id, shown);
        Ok(shown)
    }

    fn take_back(&self, id: i32) {
        let mut table = self.table.lock();
        if let Some(shown) = table.shown.remove(&id) {
            table.ids.remove(&shown);
        }
        let ending = table.ending.clone();
        drop(table);
        if let Some(parker) = ending {
            parker.wake(Events::IN);
        }
    }

    /// Whether number `nr` may be given to a new thread.
    fn check_wanted(&self, nr: i32) -> Result<(), Errno> {
        let table = self.table.lock();
        if nr != 1 && table.init == 0 {
            return Err(EINVAL);
        }
        if table.ids.contains_key(&nr) { Err(EEXIST) } else { Ok(()) }
    }
}

impl PidNs {
    /// The user namespace whose capabilities count for it.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// A namespace in `parent`, owned by `owner`.
    ///
    /// # Errors
    /// `EINVAL`: `owner` does not lie in the owner of `parent`; `ENOSPC`: too deep.
    pub(super) fn within(parent: &Arc<Self>, owner: &Arc<UserNamespace>) -> Result<Arc<Self>, Errno> {
        if !owner.is_within(&parent.owner) {
            return Err(EINVAL);
        }
        if parent.level >= MAX_LEVEL {
            return Err(ENOSPC);
        }
        let numbers =
            PidNumbers { parent: Some(parent.clone()), level: parent.level + 1, table: Lock::default() };
        Ok(Self::new(owner, numbers))
    }

    /// This namespace and those around it, from the inside out.
    fn chain(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |ns| ns.parent.as_ref())
    }

    /// Whether it is `outer` or lies in it.
    pub fn is_within(self: &Arc<Self>, outer: &Arc<Self>) -> bool {
        self.chain().any(|ns| Arc::ptr_eq(ns, outer))
    }

    /// The numbers of `id` in `outer` and in all namespaces between that and this one, from the outside in, as `NSpid` in
    /// `/proc/PID/status` shows them.
    pub fn numbers(self: &Arc<Self>, outer: &Arc<Self>, id: i32) -> Vec<i32> {
        let mut list: Vec<i32> =
            self.chain().take_while(|ns| ns.level >= outer.level).map(|ns| ns.shown(id)).collect();
        list.reverse();
        list
    }
}

impl Tree {
    /// Gives a new thread its numbers in `ns` and all namespaces around that (`alloc_pid`). `wanted` are numbers that its
    /// maker, who has `cred`, chose, from the inside out.
    ///
    /// # Errors
    /// In the order checked: `EINVAL`: more numbers than namespaces, or a bad one; `EPERM`; `EEXIST`; `ENOMEM`: the
    /// namespace's first process has ended; `EAGAIN`.
    pub fn allocate(&mut self, ns: &Arc<PidNs>, wanted: &[i32], cred: &Credentials) -> Result<NewId, Errno> {
        if ns.is_first() && wanted.is_empty() {
            let id = self.new_id();
            return Ok(NewId { id, shown: id });
        }
        if wanted.len() > ns.level + 1 {
            return Err(EINVAL);
        }
        for (level, &nr) in ns.chain().zip(wanted) {
            if !(1..PID_MAX).contains(&nr) {
                return Err(EINVAL);
            }
            let may = [cap::CHECKPOINT_RESTORE, cap::SYS_ADMIN].iter().any(|&c| level.owner.grants(cred, c));
            match level.check_wanted(nr) {
                Err(EINVAL) if !level.is_first() => return Err(EINVAL),
                _ if !may => return Err(EPERM),
                _ if level.is_first() && (self.is_used(nr) || self.nested.contains_key(&nr)) => {
                    return Err(EEXIST);
                }
                Err(EEXIST) => return Err(EEXIST),
                _ => {}
            }
        }
        if ns.table.lock().is_closed {
            return Err(ENOMEM);
        }
        let id = wanted.get(ns.level).copied().unwrap_or_else(|| self.new_id());
        let mut innermost = id;
        for (i, level) in ns.chain().enumerate().filter(|(_, level)| !level.is_first()) {
            match level.give(id, wanted.get(i).copied()) {
                Ok(shown) if i == 0 => innermost = shown,
                Ok(_) => {}
                Err(e) => {
                    ns.chain().for_each(|level| level.take_back(id));
                    return Err(e);
                }
            }
        }
        if !ns.is_first() {
            self.nested.insert(id, ns.clone());
        }
        Ok(NewId { id, shown: innermost })
    }

    /// Whether `id` stands for anything still.
    fn is_used(&self, id: i32) -> bool {
        self.is_alive(id) || self.processes.values().any(|p| p.pgid == id || p.sid == id)
    }

    /// Something that had number `id` has ended or left: once it stands for nothing, its numbers in namespaces are free.
    pub fn release_id(&mut self, id: i32) {
        if self.nested.is_empty() || !self.nested.contains_key(&id) || self.is_used(id) {
            return;
        }
        if let Some(ns) = self.nested.remove(&id) {
            ns.chain().for_each(|level| level.take_back(id));
        }
    }
}

impl ThreadGroup {
    /// Whether it is the first process of a namespace within the first.
    pub fn is_init(&self) -> bool {
        self.shown_pid == 1 && !self.pid_ns.is_first()
    }
}

impl Task {
    /// The namespace that numbers are shown in to the thread.
    pub fn pid_ns(&self) -> &Arc<PidNs> {
        &self.group.pid_ns
    }

    /// What the thread sees as the number of `id`; 0 for what it cannot see.
    pub fn shown_id(&self, id: i32) -> i32 {
        self.group.pid_ns.shown(id)
    }

    /// The living thread that this one means by the number `shown`.
    pub fn find(&self, shown: i32) -> Option<Arc<Self>> {
        self.kernel.task(self.id_of(shown))
    }

    /// What the thread means by the number `shown`.
    pub fn id_of(&self, shown: i32) -> i32 {
        self.group.pid_ns.id_of(shown)
    }

    /// Makes a signal's details those that `target` may see: numbers of its namespaces. `is_given`: the program that
    /// sends wrote them itself. Says whether the sender lies outside of the target's PID namespace
    /// (`send_signal_locked`).
    pub(crate) fn translate_info(&self, target: &Task, info: &mut SigInfo, is_given: bool) -> bool {
        let is_outside = !target.pid_ns().sees(self.group.pid);
        if is_outside {
            info.set_pid(0);
        } else if !is_given {
            info.set_pid(target.shown_id(info.pid()));
        }
        let here = self.cred().user_ns.clone();
        let there = target.cred().user_ns.clone();
        if !is_given {
            info.set_uid(there.shown(IdKind::User, info.uid()));
        } else if here != there {
            let uid = here.outside(IdKind::User, info.uid());
            info.set_uid(uid.map_or(base::userns::OVERFLOW_ID, |uid| there.shown(IdKind::User, uid)));
        }
        is_outside
    }
}

impl Kernel {
    /// The last thread of a namespace's first process ends: all others there are killed and forgotten. Says whether that
    /// is done; else the caller's parking place is woken when to ask again (`zap_pid_ns_processes`).
    pub(crate) fn close_namespace(&self, tree: &mut Tree, init: &Arc<Task>) -> bool {
        let (group, ns) = (&init.group, &init.group.pid_ns);
        {
            let mut table = ns.table.lock();
            table.is_closed = true;
            table.ending = Some(init.parker.clone());
        }
        let handlers: Arc<Handlers> = group.signals.lock().handlers.clone();
        handlers.replace(SIGCHLD, SigAction { handler: SIG_IGN, ..SigAction::default() });
        // What it traces ends without telling it.
        self.leave_tracees(tree, init);
        let others: Vec<i32> =
            tree.processes.keys().copied().filter(|&pid| pid != group.pid && ns.sees(pid)).collect();
        for pid in others {
            let _ = self.signal_process_in(tree, pid, SIGKILL, SigInfo::kernel(SIGKILL as u32));
        }
        let children = tree.processes.get(&group.pid).map(|p| p.children.clone()).unwrap_or_default();
        for child in children {
            let is_zombie = tree.processes.get(&child).is_some_and(|p| p.zombie.is_some());
            if is_zombie && !tree.ended_tracees.contains_key(&child) {
                tree.forget(child);
            }
        }
        // The process's own number, and that of its last thread if that is another one.
        let own = if init.tid == group.pid { 1 } else { 2 };
        let done = ns.count() <= own;
        if done {
            ns.table.lock().ending = None;
        }
        done
    }
}
