//! The files of `/proc` that belong to no task.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use fs::generated::{Builder, Named};
use fs::procfs::{DEV, FIRST_INO};
use fs::vfs::StatFs;

use super::status::{TICKS_PER_SEC, ticks};
use super::{cpuinfo, sysctl};
use crate::ipc::IpcNamespace;
use crate::kernel::Kernel;
use crate::system::{RELEASE, VERSION};
use crate::task::Task;
use crate::task::attributes::cpu_numbers;
use crate::task::current::current;
use crate::time::Clock;

type Make = fn(&Kernel) -> String;

const FILES: &[(&str, Make)] = &[
    ("cmdline", |_| "\n".to_owned()),
    ("cpuinfo", cpuinfo::text),
    ("devices", devices),
    ("diskstats", |_| String::new()),
    ("filesystems", filesystems),
    ("loadavg", loadavg),
    ("meminfo", meminfo),
    ("partitions", |_| "major minor  #blocks  name\n\n".to_owned()),
    ("stat", stat),
    ("swaps", |_| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()),
    ("uptime", uptime),
    ("version", |_| format!("Linux version {RELEASE} (ringfence) {VERSION}\n")),
    ("vmstat", vmstat),
];

/// Makes a text from the kernel; empty once the kernel has gone.
pub(super) fn made(
    kernel: &Weak<Kernel>,
    make: impl Fn(&Kernel) -> String + Send + Sync + 'static,
) -> impl Fn() -> String + Send + Sync + 'static {
    let kernel = kernel.clone();
    move || kernel.upgrade().map(|k| make(&k)).unwrap_or_default()
}

/// All of them, and `/proc/sys`.
pub(super) fn files(kernel: &Arc<Kernel>) -> Vec<Named> {
    let builder = Builder::new(DEV, StatFs::PROC, FIRST_INO);
    let weak = Arc::downgrade(kernel);
    let mut list: Vec<Named> =
        FILES.iter().map(|&(name, make)| (name.to_owned(), builder.text(made(&weak, make)))).collect();
    list.push(("sysvipc".to_owned(), sysvipc(&builder)));
    let reader = |make: fn(&Kernel, &Task) -> String| {
        let weak = weak.clone();
        builder.text(move || match (weak.upgrade(), current()) {
            (Some(kernel), Some(task)) => make(&kernel, &task),
            _ => String::new(),
        })
    };
    list.push(("key-users".to_owned(), reader(|kernel, task| kernel.keys.users_text(task))));
    list.push(("keys".to_owned(), reader(|kernel, task| kernel.keys.text(task))));
    list.push(("mounts".to_owned(), builder.link("self/mounts")));
    list.push(("net".to_owned(), builder.link("self/net")));
    list.push(("sys".to_owned(), sysctl::tree(kernel)));
    list
}

/// `/proc/sysvipc`: of the reader's namespace.
fn sysvipc(builder: &Builder) -> Arc<dyn fs::vfs::Inode> {
    let file = |make: fn(&IpcNamespace) -> String| {
        builder.text(move || current().map(|t| make(&t.ipc())).unwrap_or_default())
    };
    builder.dir(vec![
        ("msg".to_owned(), file(IpcNamespace::msg_text)),
        ("sem".to_owned(), file(IpcNamespace::sem_text)),
        ("shm".to_owned(), file(IpcNamespace::shm_text)),
    ])
}

fn filesystems(_: &Kernel) -> String {
    crate::filesystems::NAMES.iter().map(|name| format!("nodev\t{name}\n")).collect()
}

fn devices(_: &Kernel) -> String {
    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n".to_owned()
}

fn loadavg(kernel: &Kernel) -> String {
    kernel.sample_load();
    let [one, five, fifteen] = kernel.system.load();
    let (running, _) = kernel.running();
    let (all, last) = {
        let tree = kernel.tree.lock();
        (tree.tasks.len(), tree.last_id())
    };
    format!("{one:.2} {five:.2} {fifteen:.2} {running}/{all} {last}\n")
}

/// Time of all processors that nobody used, ns.
fn idle_ns(kernel: &Kernel, busy: u64) -> u64 {
    kernel.boot_ns().saturating_mul(kernel.system.cpu_count() as u64).saturating_sub(busy)
}

fn uptime(kernel: &Kernel) -> String {
    let ahead = current().map_or(0, |t| t.offsets().boottime_ns);
    let up = kernel.boot_ns().saturating_add_signed(ahead) / 10_000_000;
    let idle = idle_ns(kernel, kernel.total_usage().cpu_ns()) / 10_000_000;
    format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100)
}

fn stat(kernel: &Kernel) -> String {
    let times = kernel.cpu_times();
    let up = kernel.boot_ns();
    let line = |name: &str, user: u64, system: u64, idle: u64| {
        format!("{name} {} 0 {} {} 0 0 0 0 0 0\n", ticks(user), ticks(system), ticks(idle))
    };
    let cpus: Vec<(usize, u64, u64, u64)> = cpu_numbers(&kernel.system.cpus)
        .map(|n| {
            let (user, system) = times.get(n).copied().unwrap_or_default();
            (n, user, system, up.saturating_sub(user + system))
        })
        .collect();
    let sum = cpus.iter().fold((0u64, 0u64, 0u64), |a, c| (a.0 + c.1, a.1 + c.2, a.2 + c.3));
    let mut text = line("cpu ", sum.0, sum.1, sum.2);
    for (n, user, system, idle) in cpus {
        text += &line(&format!("cpu{n}"), user, system, idle);
    }
    let usage = kernel.total_usage();
    let (running, held) = kernel.running();
    let real = kernel.time.now(Clock::Realtime).as_ns();
    let boot = real.saturating_sub_unsigned(up).div_euclid(1_000_000_000);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "intr {}\nctxt {}\nbtime {boot}\nprocesses {}\nprocs_running {running}\nprocs_blocked {held}\n\
         softirq{}\n",
        // What interrupts a processor here has no number of its own.
        usage.interruptions,
        usage.sleeps + usage.interruptions,
        kernel.system.forks(),
        // All of them, and each of ten kinds: nothing is put off to them here.
        " 0".repeat(11),
    );
    text
}

fn meminfo(kernel: &Kernel) -> String {
    let m = kernel.memory_counts();
    let rows = [
        ("MemTotal", m.total),
        ("MemFree", m.free()),
        // What a cache could give back is not counted: this much there is for certain.
        ("MemAvailable", m.free()),
        ("Buffers", 0),
        ("Cached", m.cached()),
        ("SwapCached", 0),
        // What processes have mapped now is in use; the rest of the files' pages is not.
        ("Active", m.anon + m.mapped),
        ("Inactive", m.cached().saturating_sub(m.mapped)),
        ("Active(anon)", m.anon),
        ("Inactive(anon)", 0),
        ("Active(file)", m.mapped),
        ("Inactive(file)", m.cached().saturating_sub(m.mapped)),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("AnonPages", m.anon),
        ("Mapped", m.mapped),
    ];
    rows.iter().map(|(name, bytes)| format!("{:<16}{:>8} kB\n", format!("{name}:"), bytes / 1024)).collect()
}

fn vmstat(kernel: &Kernel) -> String {
    let m = kernel.memory_counts();
    let pages = |bytes: u64| bytes / base::PAGE_SIZE;
    format!(
        "nr_free_pages {}\nnr_anon_pages {}\nnr_mapped {}\nnr_file_pages {}\npgfault {}\n",
        pages(m.free()),
        pages(m.anon),
        pages(m.mapped),
        pages(m.cached()),
        kernel.faults.load(std::sync::atomic::Ordering::Relaxed),
    )
}

const _: () = assert!(TICKS_PER_SEC == 100, "USER_HZ is part of the ABI");
