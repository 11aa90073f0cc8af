//! The other files of `/proc/PID`.

use std::fmt::Write as _;
use std::sync::Arc;

use abi::errno::{EACCES, EINVAL, EPERM, ERANGE, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::userns::{IdKind, UserNamespace};
use fs::generated::parse_number;
use fs::procfs::{Task as _, TaskAccess, TaskFile};
use fs::vfs::{MountNamespace, VfsPath};

use super::ProcTask;
use crate::mm::{CoredumpFilter, Detail, MemoryManager, Sharing};
use crate::task::current::current;

/// Most bytes of a command line or an environment that are read at once.
const STRINGS_MAX: u64 = 8 << 20;

impl ProcTask {
    /// Makes the text of `file`.
    pub(super) fn make_text(&self, file: TaskFile, whole: bool) -> Result<Vec<u8>, Errno> {
        if self.view().is_err() || !self.is_known() {
            // The strings are those of the memory, which is empty now.
            return if file == TaskFile::Environ { Ok(Vec::new()) } else { Err(ESRCH) };
        }
        match file {
            TaskFile::Stat => self.stat_text(whole),
            TaskFile::Statm => self.statm_text(),
            TaskFile::Status => self.status_text(),
            TaskFile::Comm => {
                let mut name = self.view()?.name;
                name.push(b'\n');
                Ok(name)
            }
            TaskFile::Cmdline => Ok(self.space()?.map(|mm| command_line(&mm)).unwrap_or_default()),
            TaskFile::CoredumpFilter => Ok(self
                .space()?
                .map(|mm| format!("{:08x}\n", mm.layout().coredump_filter.bits()).into_bytes())
                .unwrap_or_default()),
            TaskFile::Environ => Ok(self.space()?.map(|mm| environment(&mm)).unwrap_or_default()),
            TaskFile::Auxv => Ok(self.space()?.map(|mm| mm.layout().auxv).unwrap_or_default()),
            TaskFile::Maps => Ok(self.space()?.map(|mm| mm.maps_text()).unwrap_or_default()),
            TaskFile::Smaps => Ok(self.space()?.map(|mm| mm.smaps_text()).unwrap_or_default()),
            TaskFile::NumaMaps => {
                let Ok(task) = self.task() else { return Ok(Vec::new()) };
                let own = task.attributes.lock().policy;
                Ok(self.space()?.map(|mm| mm.numa_maps_text(own)).unwrap_or_default())
            }
            TaskFile::SmapsRollup => {
                let mm = self.space()?.ok_or(ESRCH)?;
                Ok(rollup(&mm).into_bytes())
            }
            TaskFile::Limits => Ok(limits_text(&self.group.rlimits.lock()).into_bytes()),
            TaskFile::Mounts => {
                let (mounts, root) = self.mounts()?;
                Ok(mounts.mounts_text(&root))
            }
            TaskFile::MountInfo => {
                let (mounts, root) = self.mounts()?;
                Ok(mounts.mountinfo_text(&root))
            }
            TaskFile::MountStats => {
                let (mounts, root) = self.mounts()?;
                Ok(mounts.mountstats_text(&root))
            }
            TaskFile::Children => {
                // Which thread made a child is not kept: the leader shows all.
                let list = if self.tid == self.group.pid { self.standing()?.children } else { Vec::new() };
                Ok(list
                    .iter()
                    .map(|&pid| format!("{} ", self.ns.shown(pid)))
                    .collect::<String>()
                    .into_bytes())
            }
            TaskFile::OomScore => Ok(format!("{}\n", self.oom_score()?).into_bytes()),
            TaskFile::OomScoreAdj => {
                self.view()?;
                Ok(format!("{}\n", self.group.attributes.lock().oom_score_adj).into_bytes())
            }
            TaskFile::Personality => {
                self.check_read()?;
                Ok(format!("{:08x}\n", self.view()?.attributes.personality).into_bytes())
            }
            TaskFile::Timerslack => Ok(format!("{}\n", self.view()?.attributes.timer_slack_ns).into_bytes()),
            TaskFile::Wchan => Ok(b"0".to_vec()),
            TaskFile::Cgroup => {
                let root = current().map(|t| (**t.namespaces.lock().cgroup).clone());
                let (Ok(task), Some(root)) = (self.task(), root) else { return Ok(b"0::/\n".to_vec()) };
                Ok([&b"0::"[..], &task.cgroup().path_from(&root), b"\n"].concat())
            }
            TaskFile::UidMap | TaskFile::GidMap => {
                let reader = current().map_or_else(UserNamespace::first, |t| t.cred().user_ns.clone());
                Ok(self.view()?.cred.user_ns.map_text(id_kind(file), &reader).into_bytes())
            }
            TaskFile::SetGroups => Ok(self.view()?.cred.user_ns.setgroups_text().as_bytes().to_vec()),
            TaskFile::TimensOffsets => {
                let Ok(task) = self.task() else { return Ok(Vec::new()) };
                let time = task.namespaces.lock().time_for_children.clone();
                Ok(time.text().into_bytes())
            }
            TaskFile::Io => self.io_text(whole),
        }
    }

    /// Takes what was written to `file`.
    pub(super) fn take_text(&self, file: TaskFile, bytes: &[u8]) -> Result<usize, Errno> {
        match file {
            TaskFile::Comm => {
                let caller = current().ok_or(ESRCH)?;
                if !Arc::ptr_eq(&caller.group, &self.group) {
                    return Err(EINVAL);
                }
                let name = bytes.get(..15).unwrap_or(bytes);
                let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
                self.task()?.state.lock().name = name[..end].to_vec();
                Ok(bytes.len())
            }
            TaskFile::OomScoreAdj => {
                let value: i32 = parse_number(bytes)?;
                if !(-1000..=1000).contains(&value) {
                    return Err(EINVAL);
                }
                let caller = current().ok_or(ESRCH)?.cred();
                let privileged = caller.has(cap::SYS_RESOURCE);
                let mut attributes = self.group.attributes.lock();
                if value < attributes.oom_score_adj_min && !privileged {
                    return Err(EACCES);
                }
                attributes.oom_score_adj = value;
                if privileged {
                    attributes.oom_score_adj_min = value;
                }
                Ok(bytes.len())
            }
            TaskFile::CoredumpFilter => {
                let bits = parse_c_number(bytes)?;
                let mm = self.space()?.ok_or(ESRCH)?;
                mm.set_layout(|l| l.coredump_filter = CoredumpFilter::from_bits(bits));
                Ok(bytes.len())
            }
            TaskFile::Timerslack => {
                let value: u64 = parse_number(bytes)?;
                let task = self.task()?;
                let caller = current().ok_or(ESRCH)?;
                if !Arc::ptr_eq(&caller.group, &self.group) && !caller.cred().has(cap::SYS_NICE) {
                    return Err(EPERM);
                }
                let mut attributes = task.attributes.lock();
                attributes.timer_slack_ns =
                    if value == 0 { attributes.default_timer_slack_ns } else { value };
                Ok(bytes.len())
            }
            // The one user namespace has its maps from the beginning.
            TaskFile::UidMap | TaskFile::GidMap => {
                let writer = current().ok_or(ESRCH)?.cred();
                self.view()?.cred.user_ns.set_map(id_kind(file), &writer, bytes)?;
                Ok(bytes.len())
            }
            TaskFile::TimensOffsets => {
                let kernel = self.kernel()?;
                let writer = current().ok_or(ESRCH)?.cred();
                let time = self.task()?.namespaces.lock().time_for_children.clone();
                let is_first = Arc::ptr_eq(&time, &kernel.namespaces.time);
                time.set(&kernel, &writer, bytes, is_first)
            }
            TaskFile::SetGroups => {
                let writer = current().ok_or(ESRCH)?.cred();
                let ns = self.view()?.cred.user_ns.clone();
                if !ns.grants(&writer, cap::SYS_ADMIN) {
                    return Err(EPERM);
                }
                ns.set_setgroups(bytes)?;
                Ok(bytes.len())
            }
            _ => Err(EINVAL),
        }
    }

    /// What opening a file of a process finds out that has ended: who has no memory, and no mounts.
    pub(super) fn check_zombie(&self, file: TaskFile) -> Result<(), Errno> {
        match file {
            TaskFile::Environ
            | TaskFile::Auxv
            | TaskFile::Maps
            | TaskFile::Smaps
            | TaskFile::SmapsRollup
            | TaskFile::NumaMaps
            | TaskFile::MountInfo
            | TaskFile::MountStats
            | TaskFile::Mounts
                if self.task().is_ok() =>
            {
                Ok(())
            }
            TaskFile::Environ | TaskFile::Auxv | TaskFile::SmapsRollup => Err(ESRCH),
            TaskFile::MountInfo | TaskFile::MountStats | TaskFile::Mounts => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// The address space; `None` for a zombie.
    fn space(&self) -> Result<Option<Arc<MemoryManager>>, Errno> {
        if self.task().is_err() {
            return self.view().map(|_| None);
        }
        self.mm().map(Some)
    }

    fn check_read(&self) -> Result<(), Errno> {
        self.check(TaskAccess::Read).map_err(|e| if e == EPERM { EACCES } else { e })
    }

    /// The mounts that it sees, and what `/` is for it.
    pub(super) fn mounts(&self) -> Result<(Arc<MountNamespace>, VfsPath), Errno> {
        let task = self.task().map_err(|_| EINVAL)?;
        let fs = task.fs.lock().clone();
        let fs = fs.lock();
        Ok((fs.mounts.clone(), fs.root.clone()))
    }

    /// Linux fs/proc/base.c, `proc_oom_score`.
    fn oom_score(&self) -> Result<i64, Errno> {
        let kernel = self.kernel()?;
        let total = kernel.total_pages();
        let Ok(task) = self.task() else { return self.view().map(|_| 0) };
        let Some(badness) = kernel.oom_badness(&task) else { return Ok(0) };
        Ok((1000 + badness.saturating_mul(1000) / total) * 2 / 3)
    }

    fn io_text(&self, whole: bool) -> Result<Vec<u8>, Errno> {
        self.check_read()?;
        let usage =
            if whole { self.kernel()?.group_usage(&self.group) } else { self.task()?.account.usage() };
        // There is no block device: nothing is read from or written to storage that the sandbox knows of.
        let text = format!(
            "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: 0\nwrite_bytes: 0\n\
             cancelled_write_bytes: 0\n",
            usage.io.read_bytes, usage.io.written_bytes, usage.io.reads, usage.io.writes,
        );
        Ok(text.into_bytes())
    }
}

/// A number in C's notation: decimal, octal after `0`, hexadecimal after `0x` (`kstrtouint_from_user` with base 0).
fn parse_c_number(bytes: &[u8]) -> Result<u32, Errno> {
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, base) = match hex {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(EINVAL);
    }
    u32::from_str_radix(digits, base).map_err(|_| ERANGE)
}

fn id_kind(file: TaskFile) -> IdKind {
    if file == TaskFile::UidMap { IdKind::User } else { IdKind::Group }
}

fn peek(mm: &MemoryManager, from: u64, to: u64) -> Vec<u8> {
    let len = usize::try_from(to.saturating_sub(from).min(STRINGS_MAX)).unwrap_or(0);
    let mut bytes = vec![0; len];
    let n = if len == 0 { 0 } else { mm.peek(UserAddr(from), &mut bytes).unwrap_or(0) };
    bytes.truncate(n);
    bytes
}

/// The arguments; or what a program that overwrote them put there (Linux fs/proc/base.c, `get_mm_cmdline`).
fn command_line(mm: &MemoryManager) -> Vec<u8> {
    let l = mm.layout();
    let args = peek(mm, l.arg_start, l.arg_end);
    if args.last().is_none_or(|&b| b == 0) {
        return args;
    }
    let end = l.env_end.max(l.arg_end).min(l.arg_start.saturating_add(base::PAGE_SIZE));
    let mut title = peek(mm, l.arg_start, end);
    if let Some(nul) = title.iter().position(|&b| b == 0) {
        title.truncate(nul + 1);
    }
    title
}

fn environment(mm: &MemoryManager) -> Vec<u8> {
    let l = mm.layout();
    peek(mm, l.env_start, l.env_end)
}

fn rollup(mm: &MemoryManager) -> String {
    let regions = mm.regions(Detail::Pages);
    let (start, end) = match (regions.first(), regions.last()) {
        (Some(a), Some(b)) => (a.range.start, b.range.end),
        _ => (0, 0),
    };
    let mut sharing = Sharing::default();
    regions.iter().for_each(|r| sharing.add(&r.sharing));
    let [pss, pss_dirty, pss_anon] = sharing.pss();
    let anon: u64 = regions.iter().map(|r| r.anon).sum();
    let file: u64 = regions.iter().map(|r| r.file).sum();
    let locked = mm.memory_use().sizes.locked.min(anon + file);
    let mut text = format!("{:<73}[rollup]\n", format!("{start:08x}-{end:08x} ---p 00000000 00:00 0 "));
    let rows = [
        ("Rss", anon + file),
        ("Pss", pss),
        ("Pss_Dirty", pss_dirty),
        ("Pss_Anon", pss_anon),
        ("Pss_File", pss - pss_anon),
        ("Pss_Shmem", 0),
        ("Shared_Clean", sharing.shared_clean),
        ("Shared_Dirty", sharing.shared_dirty),
        ("Private_Clean", sharing.private_clean),
        ("Private_Dirty", sharing.private_dirty),
        ("Referenced", anon + file),
        ("Anonymous", anon),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    ];
    for (name, bytes) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
    text
}

/// Linux fs/proc/base.c, `lnames`.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits_text(limits: &[(u64, u64); 16]) -> String {
    let show = |v: u64| if v == u64::MAX { "unlimited".to_owned() } else { v.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMITS.iter().zip(limits) {
        let unit = if unit.is_empty() { String::new() } else { format!("{unit:<10}") };
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit}", show(*soft), show(*hard));
    }
    text
}
