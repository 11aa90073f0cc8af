//! The machine that a sandbox shows: its names, processors, memory and load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::lock::{Lock, rank};
use host::system::{CpuMask, MAX_CPUS};

use crate::kernel::Kernel;
use crate::task::account::CpuWeights;
use crate::task::attributes::cpu_numbers;
use crate::task::{Phase, Task, Usage};
use crate::time::Clock;

/// `uname -s`.
pub const SYSNAME: &str = "Linux";
/// `uname -r`: the version whose behaviour the sentry follows.
pub const RELEASE: &str = "6.12.0";
/// `uname -v`.
pub const VERSION: &str = "#1 SMP ringfence";
/// `uname -m`.
pub const MACHINE: &str = "x86_64";

/// The names that sethostname(2) and setdomainname(2) change, at most 64 bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `uname -n`.
    pub host: Vec<u8>,
    /// The NIS domain.
    pub domain: Vec<u8>,
}

impl Names {
    /// The names at the start.
    pub fn new(hostname: String) -> Self {
        let mut host = hostname.into_bytes();
        host.truncate(64);
        Self { host, domain: b"(none)".to_vec() }
    }
}

/// Seconds between two samples of the load, as in Linux.
const LOAD_STEP_NS: u64 = 5_000_000_000;

#[derive(Debug, Default)]
struct Load {
    /// Averages over 1, 5 and 15 minutes.
    averages: [f64; 3],
    sampled_ns: u64,
}

/// Busy time as shown last.
#[derive(Debug, Default)]
struct Busy {
    weights: Vec<(u64, u64)>,
    /// User and system time by processor, ns.
    times: Vec<(u64, u64)>,
    /// When that was, `CLOCK_BOOTTIME`.
    read_ns: u64,
}

/// The machine.
#[derive(Debug)]
pub struct System {
    /// The processors that the sandbox may use.
    pub cpus: CpuMask,
    /// Where they were busy.
    pub weights: Arc<CpuWeights>,
    /// Bytes of memory: the host's, or the sandbox's limit.
    pub total_memory: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Processes and threads ever made.
    forks: AtomicU64,
    /// What ended threads have used.
    dead: Lock<Usage, { rank::LEAF }>,
    load: Lock<Load, { rank::LEAF }>,
    busy: Lock<Busy, { rank::LEAF }>,
}

/// A random UUID (RFC 9562, version 4).
pub fn random_uuid() -> String {
    let mut b = [0u8; 16];
    if let Err(e) = host::file::random(&mut b) {
        log::warn!("random bytes: {e}");
    }
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: Vec<String> = b.iter().map(|v| format!("{v:02x}")).collect();
    let part = |r: std::ops::Range<usize>| hex.get(r).unwrap_or_default().concat();
    [part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)].join("-")
}

impl System {
    /// The machine with `total_memory` bytes of memory.
    pub fn new(total_memory: u64, boot_ns: u64) -> Self {
        let cpus = host::system::affinity(0).unwrap_or_else(|e| {
            log::warn!("sched_getaffinity: {e}");
            let mut one = [0; MAX_CPUS / 64];
            one[0] = 1;
            one
        });
        let count = cpu_numbers(&cpus).last().unwrap_or(0) + 1;
        Self {
            cpus,
            weights: CpuWeights::new(count),
            total_memory,
            boot_id: random_uuid(),
            forks: AtomicU64::new(1),
            dead: Lock::new(Usage::default()),
            load: Lock::new(Load { sampled_ns: boot_ns, ..Load::default() }),
            busy: Lock::new(Busy { read_ns: boot_ns, ..Busy::default() }),
        }
    }

    /// Processor numbers are below this.
    pub fn cpu_limit(&self) -> usize {
        cpu_numbers(&self.cpus).last().unwrap_or(0) + 1
    }

    /// How many processors there are.
    pub fn cpu_count(&self) -> usize {
        cpu_numbers(&self.cpus).count()
    }

    /// Counts a new process or thread.
    pub fn count_fork(&self) {
        self.forks.fetch_add(1, Ordering::Relaxed);
    }

    /// Processes and threads ever made.
    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    /// Keeps what an ended thread has used.
    pub fn add_dead(&self, usage: &Usage) {
        self.dead.lock().add(usage);
    }

    /// The load averages over 1, 5 and 15 minutes.
    pub fn load(&self) -> [f64; 3] {
        self.load.lock().averages
    }
}

/// Memory of the sandbox, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryCounts {
    /// All.
    pub total: u64,
    /// What the host holds for the sandbox.
    pub used: u64,
    /// Of `used`: private memory of processes.
    pub anon: u64,
    /// File pages that processes map.
    pub mapped: u64,
}

impl MemoryCounts {
    /// Not used.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// Pages of files, tmpfs included.
    pub fn cached(&self) -> u64 {
        self.used.saturating_sub(self.anon)
    }
}

impl Kernel {
    /// `CLOCK_BOOTTIME`, ns.
    pub fn boot_ns(&self) -> u64 {
        u64::try_from(self.time.now(Clock::Boottime).as_ns()).unwrap_or(0)
    }

    /// All living threads.
    pub fn all_tasks(&self) -> Vec<Arc<Task>> {
        self.tree.lock().tasks.values().cloned().collect()
    }

    /// What all threads, also ended ones, have used.
    pub fn total_usage(&self) -> Usage {
        let tree = self.tree.lock();
        let mut usage = *self.system.dead.lock();
        for task in tree.tasks.values() {
            usage.add(&task.account.usage());
        }
        usage
    }

    /// Threads that run, and threads that wait for something no signal ends.
    pub fn running(&self) -> (usize, usize) {
        let tree = self.tree.lock();
        let count = |held: bool| {
            let is_it = |t: &&Arc<Task>| match t.account.phase() {
                Phase::User | Phase::Kernel => !held,
                Phase::Held => held,
                Phase::Asleep => false,
            };
            tree.tasks.values().filter(is_it).count()
        };
        (count(false), count(true))
    }

    /// Brings the load averages up to now (Linux kernel/sched/loadavg.c, `calc_load`).
    pub fn sample_load(&self) {
        let now = self.boot_ns();
        let steps = now.saturating_sub(self.system.load.lock().sampled_ns) / LOAD_STEP_NS;
        if steps == 0 {
            return;
        }
        let (running, held) = self.running();
        let active = (running + held) as f64;
        let mut load = self.system.load.lock();
        load.sampled_ns = load.sampled_ns.saturating_add(steps.saturating_mul(LOAD_STEP_NS));
        for (average, minutes) in load.averages.iter_mut().zip([1.0, 5.0, 15.0]) {
            let keep = (-5.0 * steps as f64 / (60.0 * minutes)).exp();
            *average = *average * keep + active * (1.0 - keep);
        }
    }

    /// User and system time of each processor, ns. The sum is what all threads have used; how it spreads follows where
    /// they were seen.
    pub fn cpu_times(&self) -> Vec<(u64, u64)> {
        let total = self.total_usage();
        let weights = self.system.weights.read();
        let now = self.boot_ns();
        let mut busy = self.system.busy.lock();
        busy.weights.resize(weights.len(), (0, 0));
        busy.times.resize(weights.len(), (0, 0));
        let shown = busy.times.iter().fold((0u64, 0u64), |a, t| (a.0 + t.0, a.1 + t.1));
        // A processor cannot have been busy for longer than it was since the last look.
        let elapsed = now.saturating_sub(busy.read_ns);
        let mut room = vec![0; weights.len()];
        for n in cpu_numbers(&self.system.cpus).filter(|&n| n < weights.len()) {
            room[n] = elapsed;
        }
        let since: Vec<(u64, u64)> = weights
            .iter()
            .zip(&busy.weights)
            .map(|(new, old)| (new.0.saturating_sub(old.0), new.1.saturating_sub(old.1)))
            .collect();
        let user: Vec<u64> = since.iter().map(|w| w.0).collect();
        let system: Vec<u64> = since.iter().map(|w| w.1).collect();
        let user = spread(total.user_ns.saturating_sub(shown.0), &user, &mut room);
        let system = spread(total.system_ns.saturating_sub(shown.1), &system, &mut room);
        for (time, (user, system)) in busy.times.iter_mut().zip(user.iter().zip(&system)) {
            time.0 += user;
            time.1 += system;
        }
        busy.weights = weights;
        busy.read_ns = now;
        busy.times.clone()
    }

    /// How much the end of a process would help, in pages; `None` for one that must not be killed (Linux
    /// mm/oom_kill.c, `oom_badness`).
    pub fn oom_badness(&self, task: &Task) -> Option<i64> {
        let adj = i64::from(task.group.attributes.lock().oom_score_adj);
        if adj == -1000 {
            return None;
        }
        let mm = task.mm.lock().clone();
        let rss = i64::try_from(mm.memory_use().rss() / base::PAGE_SIZE).unwrap_or(0);
        Some(rss.saturating_add(adj.saturating_mul(self.total_pages() / 1000)))
    }

    /// Pages of memory.
    pub fn total_pages(&self) -> i64 {
        i64::try_from(self.system.total_memory / base::PAGE_SIZE).unwrap_or(i64::MAX).max(1)
    }

    /// How the sandbox's memory is used.
    pub fn memory_counts(&self) -> MemoryCounts {
        let mut spaces: Vec<_> = self.all_tasks().iter().map(|t| t.mm.lock().clone()).collect();
        spaces.sort_by_key(|mm| mm.id());
        spaces.dedup_by_key(|mm| mm.id());
        let used = self.memory.resident();
        let mut counts = MemoryCounts { total: self.system.total_memory, used, ..Default::default() };
        for mm in &spaces {
            let m = mm.memory_use();
            counts.anon += m.rss_anon;
            counts.mapped += m.rss_file;
        }
        // A page that processes share after a fork counts for each.
        counts.anon = counts.anon.min(used);
        counts.mapped = counts.mapped.min(counts.cached());
        counts
    }
}

/// Gives `amount` out by weight as far as there is room, then to whoever has most room left, then to the first.
fn spread(amount: u64, weights: &[u64], room: &mut [u64]) -> Vec<u64> {
    let sum = weights.iter().map(|&w| u128::from(w)).sum::<u128>().max(1);
    let mut rest = amount;
    let mut parts: Vec<u64> = weights
        .iter()
        .zip(room.iter_mut())
        .map(|(&w, room)| {
            let fair = u64::try_from(u128::from(amount) * u128::from(w) / sum).unwrap_or(0);
            let part = fair.min(rest).min(*room);
            rest -= part;
            *room -= part;
            part
        })
        .collect();
    while rest > 0
        && let Some(i) = (0..parts.len()).max_by_key(|&i| room[i]).filter(|&i| room[i] > 0)
    {
        let part = rest.min(room[i]);
        rest -= part;
        room[i] -= part;
        parts[i] += part;
    }
    if let Some(first) = parts.first_mut() {
        *first += rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spreads_without_loss() {
        let mut room = [100, 100, 100];
        assert_eq!(spread(100, &[1, 3, 0], &mut room), [25, 75, 0]);
        assert_eq!(room, [75, 25, 100]);
        assert_eq!(spread(7, &[0, 0], &mut [0, 9]), [0, 7]);
        assert_eq!(spread(9, &[5, 1], &mut [4, 2]), [7, 2], "what has no room is not lost");
    }

    #[test]
    fn a_uuid_looks_like_one() {
        let id = random_uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, random_uuid());
    }
}
