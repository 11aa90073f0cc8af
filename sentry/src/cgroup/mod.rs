//! Control groups, version 2 (cgroups(7), Linux Documentation/admin-guide/cgroup-v2.rst): a tree of groups of threads,
//! with the controllers `cpu`, `memory` and `pids`.
//!
//! Reading order: this file (groups and who is in them), `control.rs` (what the files say and take), `tree.rs` (the file
//! system), `enforce.rs` (limits that are looked after from time to time, and groups that stand still).
//!
//! What ended threads have used is kept in their group; what living ones use is asked when somebody wants to know. The
//! locks here are leaves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EBUSY, ENODEV};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use crate::task::{Task, Usage};

mod control;
mod enforce;
mod tree;

pub use enforce::WATCH;
pub use tree::{group_of, new_root};

/// No limit.
pub const MAX: u64 = u64::MAX;
/// Groups of a sandbox at most: kernel memory that a guest fills has a bound.
const GROUPS_MAX: usize = 16384;

/// Controllers, as bits.
mod controller {
    pub(super) const CPU: u32 = 1;
    pub(super) const MEMORY: u32 = 2;
    pub(super) const PIDS: u32 = 4;
    pub(super) const ALL: u32 = CPU | MEMORY | PIDS;
    pub(super) const NAMES: [(&str, u32); 3] = [("cpu", CPU), ("memory", MEMORY), ("pids", PIDS)];
}

/// Processor time of the period that is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    /// When it began, monotonic ns.
    began: u64,
    /// What had been used then, ns; it grows by the quota where more was used.
    used: u64,
    periods: u64,
    throttled: u64,
    throttled_ns: u64,
    /// When the group was stopped, monotonic ns.
    since: u64,
}

/// How a group that is over `memory.high` is slowed down.
#[derive(Clone, Copy, Debug, Default)]
struct Slowing {
    /// Bytes that it had when it was looked at last.
    before: u64,
    /// Until when it stands still, monotonic ns.
    until: u64,
}

/// Values that files hold.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Controllers of the groups below.
    subtree: u32,
    pids_max: u64,
    memory_max: u64,
    memory_high: u64,
    memory_low: u64,
    memory_min: u64,
    swap_max: u64,
    oom_group: bool,
    /// Microseconds of each period.
    cpu_quota: u64,
    cpu_period: u64,
    cpu_weight: u64,
    max_depth: u64,
    max_descendants: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            subtree: 0,
            pids_max: MAX,
            memory_max: MAX,
            memory_high: MAX,
            memory_low: 0,
            memory_min: 0,
            swap_max: MAX,
            oom_group: false,
            cpu_quota: MAX,
            cpu_period: 100_000,
            cpu_weight: 100,
            max_depth: MAX,
            max_descendants: MAX,
        }
    }
}

/// Counts that only grow, and highest values.
#[derive(Debug, Default)]
struct Counts {
    pids_peak: AtomicI64,
    /// Forks that the limit refused.
    pids_max: AtomicU64,
    memory_peak: AtomicU64,
    /// How often the group was found to grow beyond `memory.high`.
    memory_high: AtomicU64,
    memory_max: AtomicU64,
    oom: AtomicU64,
    oom_kill: AtomicU64,
    oom_group_kill: AtomicU64,
}

/// Who owns a group's folder and files, where that was changed.
type Owners = BTreeMap<&'static str, (u32, u32, u32)>;

/// A group.
#[derive(Debug)]
pub struct Cgroup {
    id: u64,
    name: Vec<u8>,
    parent: Option<Arc<Cgroup>>,
    depth: u32,
    shared: Arc<Shared>,
    children: Lock<BTreeMap<Vec<u8>, Arc<Cgroup>>, { rank::LEAF }>,
    settings: Lock<Settings, { rank::LEAF }>,
    counts: Counts,
    /// Threads here and below.
    threads: AtomicI64,
    /// Threads here.
    own: AtomicI64,
    /// What ended threads have used here: user and system, ns.
    ended: Lock<(u64, u64), { rank::LEAF }>,
    period: Lock<Period, { rank::LEAF }>,
    is_throttled: AtomicBool,
    /// It is over `memory.high` and grows.
    is_slowed: AtomicBool,
    slowing: Lock<Slowing, { rank::LEAF }>,
    /// Groups below that are removed and still referred to.
    dying: AtomicUsize,
    is_frozen: AtomicBool,
    is_removed: AtomicBool,
    /// Whom removals and ends of threads are told to (`cgroup.events`).
    events: WaitQueue,
    event_count: AtomicU64,
    owners: Lock<Owners, { rank::LEAF }>,
}

/// What all groups of a sandbox share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    next_id: AtomicU64,
    groups: AtomicUsize,
    /// Groups with limits that need looking after.
    limited: AtomicUsize,
    /// Groups that stand still.
    pub(crate) held: AtomicUsize,
}

impl Cgroup {
    /// The root of a sandbox's groups.
    pub fn root() -> Arc<Self> {
        let shared = Arc::new(Shared { next_id: AtomicU64::new(1), ..Shared::default() });
        Self::make(&shared, None, Vec::new())
    }

    fn make(shared: &Arc<Shared>, parent: Option<Arc<Self>>, name: Vec<u8>) -> Arc<Self> {
        shared.groups.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            id: shared.next_id.fetch_add(1, Ordering::Relaxed),
            name,
            depth: parent.as_ref().map_or(0, |p| p.depth + 1),
            parent,
            shared: shared.clone(),
            children: Lock::default(),
            settings: Lock::default(),
            counts: Counts::default(),
            threads: AtomicI64::new(0),
            own: AtomicI64::new(0),
            ended: Lock::default(),
            period: Lock::default(),
            is_throttled: AtomicBool::new(false),
            is_slowed: AtomicBool::new(false),
            slowing: Lock::default(),
            dying: AtomicUsize::new(0),
            is_frozen: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            events: WaitQueue::new(),
            event_count: AtomicU64::new(0),
            owners: Lock::default(),
        })
    }

    /// The group and those above it, from below.
    fn upwards(self: &Arc<Self>) -> impl Iterator<Item = Arc<Self>> + use<> {
        std::iter::successors(Some(self.clone()), |group| group.parent.clone())
    }

    /// The group and all below it.
    fn subtree(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut list = vec![self.clone()];
        let mut next = 0;
        while let Some(group) = list.get(next).cloned() {
            list.extend(group.children.lock().values().cloned());
            next += 1;
        }
        list
    }

    fn is_below(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        self.upwards().any(|group| Arc::ptr_eq(&group, other))
    }

    /// The path from `root`, with `/..` for each step up to a group that is above it.
    pub fn path_from(self: &Arc<Self>, root: &Arc<Self>) -> Vec<u8> {
        let mut top = root.clone();
        let mut path = Vec::new();
        while !self.is_below(&top) {
            path.extend_from_slice(b"/..");
            let Some(parent) = top.parent.clone() else { break };
            top = parent;
        }
        let names: Vec<Arc<Self>> = self.upwards().take_while(|group| !Arc::ptr_eq(group, &top)).collect();
        for group in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&group.name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if self.is_removed.load(Ordering::Relaxed) {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }

    /// The controllers that it has.
    fn controllers(&self) -> u32 {
        self.parent.as_ref().map_or(controller::ALL, |parent| parent.settings.lock().subtree)
    }

    /// A new group in this one.
    ///
    /// # Errors
    /// `EEXIST`, `EAGAIN`: a limit is reached; `ENOENT`: it is removed.
    fn add_child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        if self.is_removed.load(Ordering::Relaxed) {
            return Err(abi::errno::ENOENT);
        }
        if self.shared.groups.load(Ordering::Relaxed) >= GROUPS_MAX {
            return Err(EAGAIN);
        }
        for (level, group) in (1u64..).zip(self.upwards()) {
            let settings = *group.settings.lock();
            let has_room =
                settings.max_descendants == MAX || (group.subtree().len() as u64) <= settings.max_descendants;
            if level > settings.max_depth || !has_room {
                return Err(EAGAIN);
            }
        }
        let child = Self::make(&self.shared, Some(self.clone()), name.to_vec());
        let mut children = self.children.lock();
        if children.contains_key(name) {
            drop(children);
            return Err(abi::errno::EEXIST);
        }
        children.insert(name.to_vec(), child.clone());
        Ok(child)
    }

    /// Removes the empty group `name`.
    ///
    /// # Errors
    /// `ENOENT`; `EBUSY`: somebody is in it, or another group.
    fn remove_child(&self, name: &[u8]) -> Result<(), Errno> {
        let child = self.children.lock().get(name).cloned().ok_or(abi::errno::ENOENT)?;
        if child.threads.load(Ordering::SeqCst) > 0 || !child.children.lock().is_empty() {
            return Err(EBUSY);
        }
        child.is_removed.store(true, Ordering::SeqCst);
        child.thaw();
        let former = std::mem::take(&mut *child.settings.lock());
        child.count_limits(&former, &Settings::default());
        let used = *child.ended.lock();
        let mut ended = self.ended.lock();
        (ended.0, ended.1) = (ended.0 + used.0, ended.1 + used.1);
        drop(ended);
        for above in child.upwards().skip(1) {
            above.dying.fetch_add(1, Ordering::Relaxed);
        }
        let gone = self.children.lock().remove(name);
        drop(gone);
        Ok(())
    }

    /// Whether processes may be put in: a group that gives controllers on has none of its own.
    ///
    /// # Errors
    /// `EBUSY`; `ENODEV`: it is removed.
    fn check_joinable(&self) -> Result<(), Errno> {
        if self.is_removed.load(Ordering::SeqCst) {
            return Err(ENODEV);
        }
        let gives_on = self.parent.is_some() && self.settings.lock().subtree != 0;
        if gives_on { Err(EBUSY) } else { Ok(()) }
    }

    /// Tells of a change of `cgroup.events`.
    fn tell(&self) {
        self.event_count.fetch_add(1, Ordering::SeqCst);
        self.events.notify(Events::PRI | Events::ERR);
    }

    /// The group whose `cgroup.procs` a move from here to `other` must be allowed to write to.
    fn common(self: &Arc<Self>, other: &Arc<Self>) -> Option<Arc<Self>> {
        self.upwards().find(|group| other.is_below(group))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.shared.groups.fetch_sub(1, Ordering::Relaxed);
        // Groups lie as deep as a guest wants: a chain of parents, each held by the next one only, is taken apart without
        // recursion.
        let mut dead = usize::from(*self.is_removed.get_mut());
        let mut next = self.parent.take();
        while let Some(parent) = next {
            next = match Arc::try_unwrap(parent) {
                Ok(mut last) => {
                    dead += usize::from(*last.is_removed.get_mut());
                    last.parent.take()
                }
                Err(parent) => {
                    for above in parent.upwards() {
                        above.dying.fetch_sub(dead, Ordering::Relaxed);
                    }
                    None
                }
            };
        }
    }
}

/// A thread's place in a group; it leaves with this.
#[derive(Debug)]
pub struct Membership {
    group: Arc<Cgroup>,
    /// What the thread had used when it came: user and system, ns.
    before: (u64, u64),
    counts: bool,
}

impl Membership {
    /// Puts a thread into `group`, whatever the limits.
    pub fn new(group: &Arc<Cgroup>) -> Self {
        for above in group.upwards() {
            if above.threads.fetch_add(1, Ordering::SeqCst) == 0 {
                above.tell();
            }
        }
        group.own.fetch_add(1, Ordering::SeqCst);
        Self { group: group.clone(), before: (0, 0), counts: true }
    }

    /// Puts a new thread into `group`.
    ///
    /// # Errors
    /// `EAGAIN`: `pids.max` of a group above.
    pub fn forked(group: &Arc<Cgroup>) -> Result<Self, Errno> {
        let member = Self::new(group);
        let refusing = group.upwards().find(|above| {
            let max = above.settings.lock().pids_max;
            max != MAX && above.threads.load(Ordering::SeqCst) > i64::try_from(max).unwrap_or(i64::MAX)
        });
        match refusing {
            Some(above) => {
                above.counts.pids_max.fetch_add(1, Ordering::Relaxed);
                Err(EAGAIN)
            }
            None => {
                for above in group.upwards() {
                    above.counts.pids_peak.fetch_max(above.threads.load(Ordering::SeqCst), Ordering::Relaxed);
                }
                Ok(member)
            }
        }
    }

    /// The place of a thread that has ended, which still shows where it was.
    pub(crate) fn former(group: &Arc<Cgroup>) -> Self {
        Self { group: group.clone(), before: (0, 0), counts: false }
    }

    /// The group.
    pub fn group(&self) -> &Arc<Cgroup> {
        &self.group
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        self.group.own.fetch_sub(1, Ordering::SeqCst);
        for above in self.group.upwards() {
            if above.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
                above.tell();
            }
        }
    }
}

fn times(usage: &Usage) -> (u64, u64) {
    (usage.user_ns, usage.system_ns)
}

impl Task {
    /// Its control group.
    pub fn cgroup(&self) -> Arc<Cgroup> {
        self.cgroup.lock().group.clone()
    }

    /// Moves it to `group`; what it has used so far stays with the former one.
    fn join(&self, group: &Arc<Cgroup>) {
        let used = times(&self.account.usage());
        let mut member = Membership::new(group);
        member.before = used;
        let former = std::mem::replace(&mut *self.cgroup.lock(), member);
        former.settle(used);
        if group.is_held() {
            self.signal_pending.store(true, Ordering::SeqCst);
            self.interrupt();
        }
    }

    /// Its place in its group, for the thread that goes on in its stead.
    pub(crate) fn hand_over_cgroup(&self) -> Membership {
        let group = self.cgroup();
        std::mem::replace(&mut *self.cgroup.lock(), Membership::former(&group))
    }

    /// It ends: its group keeps what it has used.
    pub(crate) fn leave_cgroup(&self) {
        let used = times(&self.account.usage());
        let group = self.cgroup();
        let former = std::mem::replace(&mut *self.cgroup.lock(), Membership::former(&group));
        former.settle(used);
    }
}

impl Membership {
    /// Leaves what a thread has used here with the group.
    fn settle(&self, used: (u64, u64)) {
        let mut ended = self.group.ended.lock();
        ended.0 += used.0.saturating_sub(self.before.0);
        ended.1 += used.1.saturating_sub(self.before.1);
    }
}

/// A group that a descriptor names, for `CLONE_INTO_CGROUP`.
///
/// # Errors
/// `EBADF`: no folder of groups; `EBUSY`, `ENODEV`; `EACCES`: the caller may not put processes there.
pub fn for_child(
    file: &fs::file::FileDescription,
    from: &Arc<Cgroup>,
    cred: &base::cred::Credentials,
) -> Result<Arc<Cgroup>, Errno> {
    let group = group_of(file).ok_or(abi::errno::EBADF)?;
    control::check_move(from, &group, cred)?;
    group.check_joinable()?;
    Ok(group)
}

/// Living threads of a sandbox, for sums over groups.
fn members(kernel: &Weak<crate::kernel::Kernel>, group: &Arc<Cgroup>) -> Vec<Arc<Task>> {
    let Some(kernel) = kernel.upgrade() else { return Vec::new() };
    kernel.all_tasks().into_iter().filter(|task| task.cgroup().is_below(group)).collect()
}
