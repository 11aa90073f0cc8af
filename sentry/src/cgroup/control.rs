//! What the files of a group say and take.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBUSY, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, ERANGE, ESRCH};
use abi::signal::SigInfo;
use base::PAGE_SIZE;
use base::cred::Credentials;
use fs::vfs::{check_permission, may, mode};

use super::{Cgroup, MAX, Settings, controller, members, times};
use crate::kernel::Kernel;
use crate::task::{Task, current};

/// A file of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) mode: u32,
    /// Controllers without which it is not there.
    needs: u32,
    in_root: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Everywhere,
    NotInRoot,
}

const fn file(name: &'static str, mode: u32, needs: u32, in_root: Where) -> File {
    File { name, mode, needs, in_root }
}

use Where::{Everywhere, NotInRoot};
use controller::{CPU, MEMORY, PIDS};

/// All files, in the order in which they are listed.
pub(super) const FILES: &[File] = &[
    file("cgroup.controllers", 0o444, 0, Everywhere),
    file("cgroup.events", 0o444, 0, NotInRoot),
    file("cgroup.freeze", 0o644, 0, NotInRoot),
    file("cgroup.kill", 0o200, 0, NotInRoot),
    file("cgroup.max.depth", 0o644, 0, Everywhere),
    file("cgroup.max.descendants", 0o644, 0, Everywhere),
    file("cgroup.procs", 0o644, 0, Everywhere),
    file("cgroup.stat", 0o444, 0, Everywhere),
    file("cgroup.subtree_control", 0o644, 0, Everywhere),
    file("cgroup.threads", 0o644, 0, Everywhere),
    file("cgroup.type", 0o644, 0, NotInRoot),
    file("cpu.stat", 0o444, 0, Everywhere),
    file("cpu.max", 0o644, CPU, NotInRoot),
    file("cpu.weight", 0o644, CPU, NotInRoot),
    file("cpu.weight.nice", 0o644, CPU, NotInRoot),
    file("memory.current", 0o444, MEMORY, NotInRoot),
    file("memory.events", 0o444, MEMORY, NotInRoot),
    file("memory.high", 0o644, MEMORY, NotInRoot),
    file("memory.low", 0o644, MEMORY, NotInRoot),
    file("memory.max", 0o644, MEMORY, NotInRoot),
    file("memory.min", 0o644, MEMORY, NotInRoot),
    file("memory.oom.group", 0o644, MEMORY, NotInRoot),
    file("memory.peak", 0o444, MEMORY, NotInRoot),
    file("memory.stat", 0o444, MEMORY, Everywhere),
    file("memory.swap.current", 0o444, MEMORY, NotInRoot),
    file("memory.swap.max", 0o644, MEMORY, NotInRoot),
    file("pids.current", 0o444, PIDS, NotInRoot),
    file("pids.events", 0o444, PIDS, NotInRoot),
    file("pids.max", 0o644, PIDS, NotInRoot),
    file("pids.peak", 0o444, PIDS, NotInRoot),
];

/// `sched_prio_to_weight`, for nice values from -20 on, scaled as `cpu.weight.nice` scales it.
const NICE_WEIGHTS: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121,
    2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29,
    23, 18, 15,
];

fn max_text(value: u64) -> String {
    if value == MAX { "max\n".to_owned() } else { format!("{value}\n") }
}

fn names(controllers: u32) -> String {
    let list: Vec<&str> =
        controller::NAMES.iter().filter(|(_, bit)| controllers & bit != 0).map(|(name, _)| *name).collect();
    list.join(" ") + "\n"
}

fn word(bytes: &[u8]) -> Result<&str, Errno> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| EINVAL)
}

/// A count, or `max`.
fn count(bytes: &[u8], top: u64) -> Result<u64, Errno> {
    match word(bytes)? {
        "max" => Ok(MAX),
        text => text.parse::<i64>().map_err(|_| EINVAL).and_then(|n| {
            let n = u64::try_from(n).map_err(|_| ERANGE)?;
            if n <= top { Ok(n) } else { Err(ERANGE) }
        }),
    }
}

/// Bytes with a suffix (`memparse`), or `max`; whole pages.
fn size(bytes: &[u8]) -> Result<u64, Errno> {
    let text = word(bytes)?;
    if text == "max" {
        return Ok(MAX);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(EINVAL),
    };
    let number: u64 = digits.parse().map_err(|_| EINVAL)?;
    let value = number.checked_mul(1 << shift).unwrap_or(MAX);
    Ok(if value > i64::MAX as u64 { MAX } else { value & !(PAGE_SIZE - 1) })
}

/// Whether `cred` may move somebody from `from` to `to`: both must be in its hands, and what is above them both.
///
/// # Errors
/// `EACCES`.
pub(super) fn check_move(from: &Arc<Cgroup>, to: &Arc<Cgroup>, cred: &Credentials) -> Result<(), Errno> {
    for group in [Some(to.clone()), from.common(to)].into_iter().flatten() {
        let (uid, gid, bits) = group.owner("cgroup.procs", 0o644);
        let meta = fs::file::Metadata { uid, gid, mode: mode::IFREG | bits, ..Default::default() };
        check_permission(&meta, may::WRITE, cred)?;
    }
    Ok(())
}

impl Cgroup {
    /// The files that it has.
    pub(super) fn files(&self) -> impl Iterator<Item = &'static File> + use<> {
        let controllers = self.controllers();
        let is_root = self.parent.is_none();
        FILES
            .iter()
            .filter(move |f| f.needs & !controllers == 0 && !(is_root && f.in_root == Where::NotInRoot))
    }

    /// User, group and permission bits of a file, or with an empty name of the folder.
    pub(super) fn owner(&self, name: &str, bits: u32) -> (u32, u32, u32) {
        self.owners.lock().get(name).copied().unwrap_or((0, 0, bits))
    }

    /// What threads here and below have used: user and system, ns.
    pub(super) fn used(self: &Arc<Self>, kernel: &Weak<Kernel>) -> (u64, u64) {
        let mut sum = (0, 0);
        for group in self.subtree() {
            let ended = *group.ended.lock();
            sum = (sum.0 + ended.0, sum.1 + ended.1);
        }
        for task in members(kernel, self) {
            let used = times(&task.account.usage());
            let before = task.cgroup.lock().before;
            sum = (sum.0 + used.0.saturating_sub(before.0), sum.1 + used.1.saturating_sub(before.1));
        }
        sum
    }

    /// Memory of the processes here and below: anonymous, of files.
    pub(super) fn memory(self: &Arc<Self>, kernel: &Weak<Kernel>) -> (u64, u64) {
        let mut spaces: Vec<_> = members(kernel, self).iter().map(|t| t.mm.lock().clone()).collect();
        spaces.sort_by_key(|mm| mm.id());
        spaces.dedup_by_key(|mm| mm.id());
        let sum = spaces
            .iter()
            .map(|mm| mm.memory_use())
            .fold((0, 0), |sum, m| (sum.0 + m.rss_anon, sum.1 + m.rss_file));
        self.counts.memory_peak.fetch_max(sum.0 + sum.1, Ordering::Relaxed);
        sum
    }

    /// What a file says.
    pub(super) fn text(self: &Arc<Self>, kernel: &Weak<Kernel>, name: &str) -> Result<String, Errno> {
        if self.is_removed.load(Ordering::SeqCst) {
            return Err(ENODEV);
        }
        let s = *self.settings.lock();
        let on = |flag: bool| format!("{}\n", u8::from(flag));
        Ok(match name {
            "cgroup.controllers" => names(self.controllers()),
            "cgroup.subtree_control" => names(s.subtree),
            "cgroup.events" => {
                let populated = self.threads.load(Ordering::SeqCst) > 0;
                format!("populated {}\nfrozen {}\n", u8::from(populated), u8::from(self.stands_still(kernel)))
            }
            "cgroup.freeze" => on(self.is_frozen.load(Ordering::SeqCst)),
            "cgroup.max.depth" => max_text(s.max_depth),
            "cgroup.max.descendants" => max_text(s.max_descendants),
            "cgroup.procs" => self.list(kernel, false),
            "cgroup.threads" => self.list(kernel, true),
            "cgroup.stat" => {
                let dying = self.dying.load(Ordering::Relaxed);
                format!("nr_descendants {}\nnr_dying_descendants {dying}\n", self.subtree().len() - 1)
            }
            "cgroup.type" => "domain\n".to_owned(),
            "cpu.stat" => self.cpu_stat(kernel),
            "cpu.max" if s.cpu_quota == MAX => format!("max {}\n", s.cpu_period),
            "cpu.max" => format!("{} {}\n", s.cpu_quota, s.cpu_period),
            "cpu.weight" => format!("{}\n", s.cpu_weight),
            "cpu.weight.nice" => {
                let scaled = s.cpu_weight * 1024 / 100;
                let nearest = (0i64..).zip(NICE_WEIGHTS).min_by_key(|(_, w)| w.abs_diff(scaled));
                format!("{}\n", nearest.map_or(0, |(i, _)| i - 20))
            }
            "memory.current" => {
                let (anon, files) = self.memory(kernel);
                format!("{}\n", anon + files)
            }
            "memory.peak" => {
                let (anon, files) = self.memory(kernel);
                format!("{}\n", self.counts.memory_peak.load(Ordering::Relaxed).max(anon + files))
            }
            "memory.stat" => {
                let (anon, files) = self.memory(kernel);
                format!("anon {anon}\nfile {files}\n")
            }
            "memory.events" => format!(
                "low 0\nhigh {}\nmax {}\noom {}\noom_kill {}\noom_group_kill {}\n",
                self.counts.memory_high.load(Ordering::Relaxed),
                self.counts.memory_max.load(Ordering::Relaxed),
                self.counts.oom.load(Ordering::Relaxed),
                self.counts.oom_kill.load(Ordering::Relaxed),
                self.counts.oom_group_kill.load(Ordering::Relaxed),
            ),
            "memory.max" => max_text(s.memory_max),
            "memory.high" => max_text(s.memory_high),
            "memory.low" => max_text(s.memory_low),
            "memory.min" => max_text(s.memory_min),
            "memory.swap.max" => max_text(s.swap_max),
            "memory.swap.current" => "0\n".to_owned(),
            "memory.oom.group" => on(s.oom_group),
            "pids.current" => format!("{}\n", self.threads.load(Ordering::SeqCst)),
            "pids.max" => max_text(s.pids_max),
            "pids.peak" => format!("{}\n", self.counts.pids_peak.load(Ordering::Relaxed)),
            "pids.events" => format!("max {}\n", self.counts.pids_max.load(Ordering::Relaxed)),
            _ => return Err(EINVAL),
        })
    }

    fn cpu_stat(self: &Arc<Self>, kernel: &Weak<Kernel>) -> String {
        let (user, system) = self.used(kernel);
        let (user, system) = (user / 1000, system / 1000);
        let mut text = format!("usage_usec {}\nuser_usec {user}\nsystem_usec {system}\n", user + system);
        if self.parent.is_some() && self.controllers() & CPU != 0 {
            let p = *self.period.lock();
            let _ = write!(
                text,
                "nr_periods {}\nnr_throttled {}\nthrottled_usec {}\n",
                p.periods,
                p.throttled,
                p.throttled_ns / 1000
            );
        }
        text
    }

    fn list(self: &Arc<Self>, kernel: &Weak<Kernel>, threads: bool) -> String {
        let Some(kernel) = kernel.upgrade() else { return String::new() };
        let reader = current();
        let own = kernel.all_tasks().into_iter().filter(|task| Arc::ptr_eq(&task.cgroup(), self));
        let mut ids: Vec<i32> = own.map(|t| if threads { t.tid } else { t.group.pid }).collect();
        ids.sort_unstable();
        ids.dedup();
        // Numbers as the reader knows them; 0 for who is in none of its namespaces.
        let shown = |id: i32| reader.as_ref().map_or(id, |reader| reader.shown_id(id));
        ids.into_iter().map(|id| format!("{}\n", shown(id))).collect()
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock();
        let before = *settings;
        change(&mut settings);
        let after = *settings;
        drop(settings);
        self.count_limits(&before, &after);
    }

    /// Takes what was written to a file.
    ///
    /// # Errors
    /// Those of the files (Linux Documentation/admin-guide/cgroup-v2.rst).
    pub(super) fn take(
        self: &Arc<Self>,
        kernel: &Weak<Kernel>,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        if self.is_removed.load(Ordering::SeqCst) {
            return Err(ENODEV);
        }
        match name {
            "cgroup.procs" => return self.move_here(kernel, bytes),
            "cgroup.threads" => return self.move_thread(bytes),
            "cgroup.subtree_control" => return self.set_subtree(bytes),
            "cgroup.type" => {
                // Groups of single threads are not known.
                return Err(if word(bytes)? == "threaded" { EOPNOTSUPP } else { EINVAL });
            }
            "cgroup.freeze" => match word(bytes)? {
                "0" => self.thaw_members(kernel),
                "1" => self.freeze(kernel),
                text if text.parse::<i32>().is_ok() => return Err(ERANGE),
                _ => return Err(EINVAL),
            },
            "cgroup.kill" => match word(bytes)? {
                "1" => self.kill(kernel),
                text if text.parse::<i32>().is_ok() => return Err(ERANGE),
                _ => return Err(EINVAL),
            },
            "cgroup.max.depth" => {
                let value = count(bytes, i32::MAX as u64)?;
                self.set(|s| s.max_depth = value);
            }
            "cgroup.max.descendants" => {
                let value = count(bytes, i32::MAX as u64)?;
                self.set(|s| s.max_descendants = value);
            }
            "cpu.max" => {
                let mut words = word(bytes)?.split_ascii_whitespace();
                let quota = match words.next().ok_or(EINVAL)? {
                    "max" => MAX,
                    text => text.parse().map_err(|_| EINVAL)?,
                };
                let period = match words.next() {
                    Some(text) => text.parse().map_err(|_| EINVAL)?,
                    None => self.settings.lock().cpu_period,
                };
                if !(1000..=1_000_000).contains(&period) || quota < 1000 {
                    return Err(EINVAL);
                }
                self.set(|s| (s.cpu_quota, s.cpu_period) = (quota, period));
            }
            "cpu.weight" => {
                let weight: u64 = word(bytes)?.parse().map_err(|_| EINVAL)?;
                if !(1..=10_000).contains(&weight) {
                    return Err(ERANGE);
                }
                self.set(|s| s.cpu_weight = weight);
            }
            "cpu.weight.nice" => {
                let nice: i64 = word(bytes)?.parse().map_err(|_| EINVAL)?;
                let at = usize::try_from(nice.saturating_add(20)).map_err(|_| ERANGE)?;
                let weight = NICE_WEIGHTS.get(at).ok_or(ERANGE)?;
                self.set(|s| s.cpu_weight = (weight * 100 + 512) / 1024);
            }
            "memory.max" => {
                let value = size(bytes)?;
                self.set(|s| s.memory_max = value);
            }
            "memory.high" => {
                let value = size(bytes)?;
                self.set(|s| s.memory_high = value);
            }
            "memory.low" => {
                let value = size(bytes)?;
                self.set(|s| s.memory_low = value);
            }
            "memory.min" => {
                let value = size(bytes)?;
                self.set(|s| s.memory_min = value);
            }
            "memory.swap.max" => {
                let value = size(bytes)?;
                self.set(|s| s.swap_max = value);
            }
            "memory.oom.group" => {
                let value = match word(bytes)? {
                    "0" => false,
                    "1" => true,
                    _ => return Err(EINVAL),
                };
                self.set(|s| s.oom_group = value);
            }
            "pids.max" => {
                let value = count(bytes, 1 << 22).map_err(|_| EINVAL)?;
                self.set(|s| s.pids_max = value);
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    /// The task that the writer's number means; 0 is the writer.
    fn written_task(bytes: &[u8]) -> Result<Arc<Task>, Errno> {
        let id: i32 = word(bytes)?.parse().map_err(|_| EINVAL)?;
        let writer = current().ok_or(ESRCH)?;
        match id {
            ..0 => Err(EINVAL),
            0 => Ok(writer),
            id => writer.find(id).ok_or(ESRCH),
        }
    }

    /// Moves a process here, with all its threads.
    fn move_here(self: &Arc<Self>, kernel: &Weak<Kernel>, bytes: &[u8]) -> Result<(), Errno> {
        let kernel = kernel.upgrade().ok_or(ESRCH)?;
        let task = Self::written_task(bytes)?;
        let writer = current().ok_or(ESRCH)?;
        check_move(&task.cgroup(), self, &writer.cred())?;
        self.check_joinable()?;
        let threads: Vec<_> =
            kernel.all_tasks().into_iter().filter(|t| Arc::ptr_eq(&t.group, &task.group)).collect();
        threads.iter().for_each(|t| t.join(self));
        Ok(())
    }

    fn move_thread(self: &Arc<Self>, bytes: &[u8]) -> Result<(), Errno> {
        let task = Self::written_task(bytes)?;
        // Threads of a process are not apart: that would take a threaded group.
        if Arc::ptr_eq(&task.cgroup(), self) { Ok(()) } else { Err(EOPNOTSUPP) }
    }

    /// `+cpu -memory`.
    fn set_subtree(self: &Arc<Self>, bytes: &[u8]) -> Result<(), Errno> {
        let (mut on, mut off) = (0, 0);
        for text in word(bytes)?.split_ascii_whitespace() {
            let (set, name) = match text.split_at_checked(1) {
                Some(("+", name)) => (&mut on, name),
                Some(("-", name)) => (&mut off, name),
                _ => return Err(EINVAL),
            };
            let (_, bit) = controller::NAMES.iter().find(|(n, _)| *n == name).ok_or(EINVAL)?;
            *set |= bit;
        }
        let old = self.settings.lock().subtree;
        let new = (old | on) & !off;
        if on & !self.controllers() != 0 {
            return Err(ENOENT);
        }
        let children: Vec<_> = self.children.lock().values().cloned().collect();
        if children.iter().any(|child| child.settings.lock().subtree & off != 0) {
            return Err(EBUSY);
        }
        if self.parent.is_some() && new != 0 && self.own.load(Ordering::SeqCst) > 0 {
            return Err(EBUSY);
        }
        self.set(|s| s.subtree = new);
        Ok(())
    }

    fn kill(self: &Arc<Self>, kernel: &Weak<Kernel>) {
        let Some(strong) = kernel.upgrade() else { return };
        let mut pids: Vec<i32> = members(kernel, self).iter().map(|t| t.group.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        for pid in pids {
            let _ = strong.signal_process(pid, 9, SigInfo::kernel(9));
        }
    }
}
