//! `/proc/PID/stat`, `statm` and `status` (Linux fs/proc/array.c).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use base::PAGE_SIZE;
use base::userns::{IdKind, UserNamespace};
use fs::procfs::{Task as _, TaskAccess};

use super::{ProcTask, Standing, View};
use crate::kernel::Kernel;
use crate::mm::{ExecLayout, MemoryUse};
use crate::task::attributes::{cpu_numbers, list_text, mask_text};
use crate::task::current::current;
use crate::task::{Phase, Task, Usage};

/// `USER_HZ`.
pub(crate) const TICKS_PER_SEC: u64 = 100;
const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SEC;

/// Flags of `struct task_struct` that field 9 of `stat` shows.
const PF_EXITING: u32 = 0x4;
const PF_FORKNOEXEC: u32 = 0x40;
const PF_RANDOMIZE: u32 = 0x40_0000;

/// Nanoseconds as ticks.
pub(crate) const fn ticks(ns: u64) -> u64 {
    ns / NS_PER_TICK
}

/// The state of a thread: letter and word.
fn state_of(task: Option<&Task>) -> (char, &'static str) {
    let Some(task) = task else { return ('Z', "zombie") };
    if task.trace.is_stopped() {
        return ('t', "tracing stop");
    }
    if task.state.lock().stopped {
        return ('T', "stopped");
    }
    match task.account.phase() {
        Phase::User | Phase::Kernel => ('R', "running"),
        Phase::Asleep => ('S', "sleeping"),
        Phase::Held => ('D', "disk sleep"),
    }
}

/// Signal sets of a thread and its process.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    pending: u64,
    shared: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
    queued: u64,
}

/// The priority field: 20 + nice, or below -1 for real-time threads.
fn priority(view: &View) -> i64 {
    let s = &view.attributes.scheduling;
    match s.policy {
        1 | 2 => -1 - i64::from(s.priority),
        6 => -101,
        _ => 20 + i64::from(s.nice),
    }
}

fn escape_name(name: &[u8], all: bool) -> Vec<u8> {
    // Linux proc_task_name: newline and backslash, in `status` only.
    let mut out = Vec::with_capacity(name.len());
    for &b in name {
        match b {
            b'\n' if all => out.extend_from_slice(b"\\n"),
            b'\\' if all => out.extend_from_slice(b"\\\\"),
            b => out.push(b),
        }
    }
    out
}

impl ProcTask {
    fn signals(&self, view: &View) -> Signals {
        let mut s = Signals { blocked: view.mask, ..Signals::default() };
        let group = self.group.signals.lock();
        s.shared = group.pending.set();
        for (i, action) in group.handlers.copy().iter().enumerate() {
            match action.handler {
                0 => {}
                1 => s.ignored |= 1 << i,
                _ => s.caught |= 1 << i,
            }
        }
        drop(group);
        if let Some(task) = &view.task {
            s.queued = task.kernel.queued_signals.of(task.cred().uid);
            let state = task.state.lock();
            s.pending = state.pending.set();
        }
        s
    }

    fn memory_of(view: &View) -> Option<(MemoryUse, ExecLayout)> {
        let mm = view.task.as_ref()?.mm.lock().clone();
        Some((mm.memory_use(), mm.layout()))
    }

    fn usage(&self, kernel: &Kernel, view: &View, whole: bool) -> Usage {
        match &view.task {
            Some(task) if !whole => task.account.usage(),
            _ => kernel.group_usage(&self.group),
        }
    }

    /// `stat`.
    pub(super) fn stat_text(&self, whole: bool) -> Result<Vec<u8>, Errno> {
        let kernel = self.kernel()?;
        let view = self.view()?;
        let st = self.standing()?;
        let permitted = self.check(TaskAccess::Read).is_ok();
        let memory = Self::memory_of(&view);
        let (sizes, layout) = memory.map(|(m, l)| (m, Some(l))).unwrap_or_default();
        let usage = self.usage(&kernel, &view, whole);
        let children = *self.group.account.children.lock();
        let signals = self.signals(&view);
        let (letter, _) = state_of(view.task.as_deref());
        let shown = layout.as_ref().filter(|_| permitted);
        let of = |f: fn(&ExecLayout) -> u64| shown.map_or(0, f);
        let public = |f: fn(&ExecLayout) -> u64| layout.as_ref().map_or(0, f);
        // Without permission Linux shows 1, so that a zero still tells a kernel thread or a zombie.
        let code = |f: fn(&ExecLayout) -> u64| public(f).min(if permitted { u64::MAX } else { 1 });
        let mut flags = if kernel.aslr { PF_RANDOMIZE } else { 0 };
        if !st.has_execed {
            flags |= PF_FORKNOEXEC;
        }
        if view.task.is_none() {
            flags |= PF_EXITING;
        }
        let exit_code = match self.group.exit_status.load(Ordering::SeqCst) {
            status if permitted && st.is_zombie => status.max(0),
            _ => 0,
        };
        let exit_signal = if self.tid == self.group.pid { st.exit_signal } else { -1 };
        let rss_limit = self.group.rlimits.lock()[5].0;
        let cpu = view.task.as_ref().map_or(0, |t| t.account.cpu());
        let scheduling = view.attributes.scheduling;
        let ahead_ns = current().map_or(0, |t| t.offsets().boottime_ns);
        let shown = |id| self.ns.shown(id);
        let mut out = format!("{} (", shown(self.tid)).into_bytes();
        out.extend_from_slice(&escape_name(&view.name, false));
        let fields: Vec<i128> = vec![
            shown(st.parent).into(),
            shown(st.pgid).into(),
            shown(st.sid).into(),
            st.terminal.into(),
            shown(st.foreground).into(),
            flags.into(),
            usage.faults.into(),
            children.faults.into(),
            0,
            0,
            ticks(usage.user_ns).into(),
            ticks(usage.system_ns).into(),
            ticks(children.user_ns).into(),
            ticks(children.system_ns).into(),
            priority(&view).into(),
            scheduling.nice.into(),
            (st.threads.len().max(1) as u64).into(),
            0,
            ticks(view.started_ns.saturating_add_signed(ahead_ns)).into(),
            sizes.sizes.total.into(),
            (sizes.rss() / PAGE_SIZE).into(),
            rss_limit.into(),
            code(|l| l.start_code).into(),
            code(|l| l.end_code).into(),
            of(|l| l.start_stack).into(),
            0,
            0,
            // Signal sets in decimal hold 31 bits only: proc(5) says to use status.
            (signals.pending & 0x7fff_ffff).into(),
            (signals.blocked & 0x7fff_ffff).into(),
            (signals.ignored & 0x7fff_ffff).into(),
            (signals.caught & 0x7fff_ffff).into(),
            0,
            0,
            0,
            exit_signal.into(),
            cpu.into(),
            scheduling.priority.into(),
            scheduling.policy.into(),
            0,
            0,
            0,
            of(|l| l.start_data).into(),
            of(|l| l.end_data).into(),
            of(|l| l.start_brk).into(),
            of(|l| l.arg_start).into(),
            of(|l| l.arg_end).into(),
            of(|l| l.env_start).into(),
            of(|l| l.env_end).into(),
            exit_code.into(),
        ];
        let mut rest = format!(") {letter}");
        for field in fields {
            // Writing to a String cannot fail.
            let _ = write!(rest, " {field}");
        }
        rest.push('\n');
        out.extend_from_slice(rest.as_bytes());
        Ok(out)
    }

    /// `statm`.
    pub(super) fn statm_text(&self) -> Result<Vec<u8>, Errno> {
        let view = self.view()?;
        let m = Self::memory_of(&view).map(|(m, _)| m).unwrap_or_default();
        let pages = |bytes: u64| bytes / PAGE_SIZE;
        let text = format!(
            "{} {} {} {} 0 {} 0\n",
            pages(m.sizes.total),
            pages(m.rss()),
            pages(m.rss_file),
            pages(m.text),
            pages(m.sizes.data + m.sizes.stack),
        );
        Ok(text.into_bytes())
    }

    /// `status`.
    pub(super) fn status_text(&self) -> Result<Vec<u8>, Errno> {
        let kernel = self.kernel()?;
        let view = self.view()?;
        let st = self.standing()?;
        let mut out = b"Name:\t".to_vec();
        out.extend_from_slice(&escape_name(&view.name, true));
        out.push(b'\n');
        let mut t = String::new();
        self.push_ids(&mut t, &view, &st);
        if let Some((m, _)) = Self::memory_of(&view) {
            push_memory(&mut t, &m);
        }
        self.push_rest(&mut t, &kernel, &view, &st);
        out.extend_from_slice(t.as_bytes());
        Ok(out)
    }

    fn push_ids(&self, t: &mut String, view: &View, st: &Standing) {
        let (letter, word) = state_of(view.task.as_deref());
        if let Some(task) = &view.task {
            let fs = task.fs.lock().clone();
            let umask = fs.lock().umask;
            let _ = writeln!(t, "Umask:\t{umask:04o}");
        }
        let c = &view.cred;
        let fd_size = view.task.as_ref().map_or(0, |task| {
            let files = task.state.lock().files.clone();
            // Linux's tables hold 64 descriptors at first and double.
            files.numbers().last().map_or(64, |&n| (n.unsigned_abs() + 1).next_power_of_two().max(64))
        });
        let reader = current().map_or_else(UserNamespace::first, |t| t.cred().user_ns.clone());
        let user = |id| reader.shown(IdKind::User, id);
        let group = |id| reader.shown(IdKind::Group, id);
        let shown = |id| self.ns.shown(id);
        let all = |id| -> String {
            let list = self.group.pid_ns.numbers(&self.ns, id);
            list.iter().map(|nr| format!("\t{nr}")).collect()
        };
        let groups: String = c.groups.iter().map(|&g| format!("{} ", group(g))).collect();
        let _ = write!(
            t,
            "State:\t{letter} ({word})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{parent}\nTracerPid:\t{tracer}\n\
             Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{fd_size}\nGroups:\t{groups}\n\
             NStgid:{}\nNSpid:{}\nNSpgid:{}\nNSsid:{}\nKthread:\t0\n",
            user(c.uid),
            user(c.euid),
            user(c.suid),
            user(c.fsuid),
            group(c.gid),
            group(c.egid),
            group(c.sgid),
            group(c.fsgid),
            all(self.group.pid),
            all(self.tid),
            all(st.pgid),
            all(st.sid),
            pid = shown(self.group.pid),
            tid = shown(self.tid),
            parent = shown(st.parent),
            tracer = view.task.as_ref().and_then(|t| t.trace.tracer()).map_or(0, |t| shown(t.tid)),
        );
    }

    fn push_rest(&self, t: &mut String, kernel: &Arc<Kernel>, view: &View, st: &Standing) {
        let s = self.signals(view);
        let limit = self.group.rlimits.lock()[11].0;
        let c = &view.cred;
        let seccomp = view.task.as_ref().map(|t| &t.seccomp);
        let _ = write!(
            t,
            "Threads:\t{}\nSigQ:\t{}/{limit}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\n\
             SigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\n\
             CapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\n",
            st.threads.len().max(1),
            s.queued,
            s.pending,
            s.shared,
            s.blocked,
            s.ignored,
            s.caught,
            c.inheritable.0,
            c.permitted.0,
            c.effective.0,
            c.bounding.0,
            c.ambient.0,
            u8::from(view.attributes.no_new_privs),
            seccomp.map_or(0, |s| s.state().mode as u8),
            seccomp.map_or(0, crate::seccomp::Seccomp::depth),
        );
        let usage = view.task.as_ref().map(|task| task.account.usage()).unwrap_or_default();
        let cpus = &view.attributes.cpus;
        let _ = write!(
            t,
            "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
             voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
            mask_text(cpus, kernel.system.cpu_limit()),
            list_text(cpu_numbers(cpus)),
            usage.sleeps,
            usage.interruptions,
        );
    }
}

/// The `Vm*` lines (Linux fs/proc/task_mmu.c, `task_mem`).
fn push_memory(t: &mut String, m: &MemoryUse) {
    let library = m.sizes.exec.saturating_sub(m.text);
    let rows = [
        ("VmPeak", m.peak_vm.max(m.sizes.total)),
        ("VmSize", m.sizes.total),
        ("VmLck", m.sizes.locked),
        ("VmPin", 0),
        ("VmHWM", m.peak_rss.max(m.rss())),
        ("VmRSS", m.rss()),
        ("RssAnon", m.rss_anon),
        ("RssFile", m.rss_file),
        ("RssShmem", 0),
        ("VmData", m.sizes.data),
        ("VmStk", m.sizes.stack),
        ("VmExe", m.text),
        ("VmLib", library),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in rows {
        let _ = writeln!(t, "{name}:\t{:>8} kB", bytes / 1024);
    }
    t.push_str("CoreDumping:\t0\nTHP_enabled:\t0\n");
}
