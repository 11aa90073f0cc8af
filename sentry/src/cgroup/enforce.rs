//! Limits that are looked after from time to time (`cpu.max`, `memory.max`, `memory.high`), and groups that stand still.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::signal::SigInfo;
use base::PAGE_SIZE;

use super::{Cgroup, MAX, Settings, members};
use crate::kernel::Kernel;
use crate::task::{Ctx, Phase, Task};

/// How often limits are looked after while there are any.
pub const WATCH: Duration = Duration::from_millis(5);

fn is_limited(s: &Settings) -> bool {
    s.cpu_quota != MAX || s.memory_max != MAX || s.memory_high != MAX
}

impl Cgroup {
    /// Keeps count of groups with limits; one more needs the main thread's attention at once.
    pub(super) fn count_limits(&self, before: &Settings, after: &Settings) {
        match (is_limited(before), is_limited(after)) {
            (false, true) => drop(self.shared.limited.fetch_add(1, Ordering::SeqCst)),
            (true, false) => {
                self.shared.limited.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        if after.cpu_quota == MAX {
            self.hold(&self.is_throttled, false);
        }
        if after.memory_high == MAX {
            self.hold(&self.is_slowed, false);
        }
    }

    /// Whether there are limits to look after, in the whole tree.
    pub fn has_limits(&self) -> bool {
        self.shared.limited.load(Ordering::SeqCst) > 0
    }

    /// Whether its threads must stand still.
    pub(crate) fn is_held(self: &Arc<Self>) -> bool {
        self.shared.held.load(Ordering::SeqCst) > 0
            && self.upwards().any(|group| {
                group.is_frozen.load(Ordering::SeqCst)
                    || group.is_throttled.load(Ordering::SeqCst)
                    || group.is_slowed.load(Ordering::SeqCst)
            })
    }

    fn hold(&self, which: &std::sync::atomic::AtomicBool, on: bool) {
        if which.swap(on, Ordering::SeqCst) != on {
            if on {
                self.shared.held.fetch_add(1, Ordering::SeqCst);
            } else {
                self.shared.held.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    pub(super) fn freeze(self: &Arc<Self>, kernel: &Weak<Kernel>) {
        self.hold(&self.is_frozen, true);
        for task in members(kernel, self) {
            task.signal_pending.store(true, Ordering::SeqCst);
            task.interrupt();
        }
        // A group without threads is frozen already.
        self.subtree().iter().for_each(|group| group.tell());
    }

    /// Not frozen any more; its threads find out by themselves.
    pub(super) fn thaw(&self) {
        self.hold(&self.is_frozen, false);
    }

    pub(super) fn thaw_members(self: &Arc<Self>, kernel: &Weak<Kernel>) {
        self.thaw();
        members(kernel, self).iter().for_each(|task| task.parker.interrupt());
        self.subtree().iter().for_each(|group| group.tell());
    }

    /// Whether all threads stand still because the group, or one above it, is frozen.
    pub(super) fn stands_still(self: &Arc<Self>, kernel: &Weak<Kernel>) -> bool {
        self.upwards().any(|group| group.is_frozen.load(Ordering::SeqCst))
            && members(kernel, self).iter().all(|task| task.is_held.load(Ordering::SeqCst))
    }

    /// Looks after the limits of all groups; called by one thread.
    pub fn enforce(self: &Arc<Self>, kernel: &Arc<Kernel>, now: u64) {
        let weak = Arc::downgrade(kernel);
        for group in self.subtree() {
            let settings = *group.settings.lock();
            if settings.cpu_quota != MAX {
                group.enforce_cpu(&weak, &settings, now);
            }
            if settings.memory_max != MAX {
                group.enforce_memory(kernel, &weak, &settings);
            }
            if settings.memory_high != MAX {
                group.enforce_high(&weak, &settings, now);
            }
        }
    }

    fn enforce_cpu(self: &Arc<Self>, kernel: &Weak<Kernel>, settings: &Settings, now: u64) {
        let (user, system) = self.used(kernel);
        let used = user + system;
        let (quota, length) = (settings.cpu_quota.saturating_mul(1000), settings.cpu_period * 1000);
        let mut period = self.period.lock();
        if period.began == 0 {
            (period.began, period.used) = (now, used);
        }
        let was_throttled = self.is_throttled.load(Ordering::SeqCst);
        let passed = now.saturating_sub(period.began) / length;
        if passed > 0 {
            // What was used beyond the quota is owed by the next periods.
            period.began += passed * length;
            period.periods += passed;
            let allowed = quota.saturating_mul(passed);
            period.used = period.used.saturating_add(allowed).min(used);
        }
        let is_over = used.saturating_sub(period.used) >= quota;
        if is_over && !was_throttled {
            period.throttled += 1;
            period.since = now;
        } else if !is_over && was_throttled {
            period.throttled_ns += now.saturating_sub(period.since);
        }
        drop(period);
        if is_over == was_throttled {
            return;
        }
        self.hold(&self.is_throttled, is_over);
        if is_over && self.settings.lock().cpu_quota == MAX {
            // The limit went away meanwhile, and nobody may look again.
            self.hold(&self.is_throttled, false);
            return;
        }
        self.tell_members(kernel, is_over);
    }

    /// Stops the threads, or lets them look whether they may go on.
    fn tell_members(self: &Arc<Self>, kernel: &Weak<Kernel>, stop: bool) {
        for task in members(kernel, self) {
            if stop {
                // Who sleeps may sleep on: only who runs is stopped.
                task.signal_pending.store(true, Ordering::SeqCst);
                task.kicker.kick();
            } else {
                task.parker.interrupt();
            }
        }
    }

    /// A group that grows beyond `memory.high` stands still for a while after each growth, the longer the more it is
    /// beyond: as long as Linux lets who allocates wait (mm/memcontrol.c, `calculate_high_delay`). What it had of files
    /// could be given up, and does not count.
    fn enforce_high(self: &Arc<Self>, kernel: &Weak<Kernel>, settings: &Settings, now: u64) {
        /// Pages that Linux charges at a time.
        const BATCH: u64 = 64;
        const LONGEST_NS: u64 = 2_000_000_000;
        let (anon, _) = self.memory(kernel);
        let high = settings.memory_high;
        let mut slowing = self.slowing.lock();
        let grown = anon.saturating_sub(slowing.before);
        slowing.before = anon;
        if anon > high && grown > 0 {
            self.counts.memory_high.fetch_add(1, Ordering::Relaxed);
            // Parts of 1024: their square, 64 s of it for each batch of pages.
            let over = ((anon - high).saturating_mul(1024) / high.max(PAGE_SIZE)).min(1 << 16);
            let batches = (grown / PAGE_SIZE).div_ceil(BATCH);
            let delay = (over * over).saturating_mul(64_000_000_000 >> 20).saturating_mul(batches);
            slowing.until = now.saturating_add(delay.min(LONGEST_NS));
        }
        let is_slow = now < slowing.until;
        drop(slowing);
        let was_slow = self.is_slowed.load(Ordering::SeqCst);
        if is_slow == was_slow {
            return;
        }
        self.hold(&self.is_slowed, is_slow);
        if is_slow && self.settings.lock().memory_high == MAX {
            self.hold(&self.is_slowed, false);
            return;
        }
        self.tell_members(kernel, is_slow);
    }

    fn enforce_memory(self: &Arc<Self>, kernel: &Arc<Kernel>, weak: &Weak<Kernel>, settings: &Settings) {
        let (anon, files) = self.memory(weak);
        // What files hold could be given up.
        let _ = files;
        if anon <= settings.memory_max {
            return;
        }
        let tasks = members(weak, self);
        if tasks.iter().any(|task| task.must_exit()) {
            // Somebody is ending already.
            return;
        }
        self.counts.memory_max.fetch_add(1, Ordering::Relaxed);
        self.counts.oom.fetch_add(1, Ordering::Relaxed);
        let badness = |t: &Arc<Task>| kernel.oom_badness(t).map(|points| (points, t.group.pid));
        let worst = tasks.iter().filter_map(badness).max();
        let mut victims: Vec<i32> = if settings.oom_group {
            tasks.iter().map(|t| t.group.pid).collect()
        } else {
            worst.map(|(_, pid)| pid).into_iter().collect()
        };
        victims.sort_unstable();
        victims.dedup();
        if settings.oom_group && !victims.is_empty() {
            self.counts.oom_group_kill.fetch_add(1, Ordering::Relaxed);
        }
        for pid in victims {
            self.counts.oom_kill.fetch_add(1, Ordering::Relaxed);
            let _ = kernel.signal_process(pid, 9, SigInfo::kernel(9));
        }
    }
}

impl Ctx<'_> {
    /// Stands still while the thread's control group does; called where signals are delivered.
    pub(crate) fn wait_while_held(&mut self) {
        if self.task.cgroup_root().shared.held.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.release_number();
        while self.task.cgroup().is_held() && !self.task.must_exit() {
            self.task.parker.prepare();
            if !self.task.is_held.swap(true, Ordering::SeqCst) {
                // It may have been the last one that a frozen group waited for.
                let groups: Vec<_> = self.task.cgroup().upwards().collect();
                if groups.iter().any(|group| group.is_frozen.load(Ordering::SeqCst)) {
                    groups.iter().for_each(|group| group.tell());
                }
            }
            self.task.account.enter(Phase::Asleep);
            self.task.parker.park(Some(Duration::from_millis(50)));
            self.task.account.enter(Phase::Kernel);
        }
        self.task.is_held.store(false, Ordering::SeqCst);
    }
}

impl Task {
    fn cgroup_root(&self) -> &Arc<Cgroup> {
        &self.kernel.cgroups
    }
}
