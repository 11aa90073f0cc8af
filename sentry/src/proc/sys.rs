//! `/sys`: processors, one memory node, and what programs ask of huge pages.

use std::sync::{Arc, Weak};

use fs::generated::Builder;
use fs::vfs::{Inode, StatFs};
use host::system::{CpuMask, MAX_CPUS};

use super::cpuinfo::{Cache, Cpu};
use super::machine::made;
use super::sysctl::tree_of;
use crate::kernel::Kernel;
use crate::task::attributes::{cpu_numbers, list_text, mask_text};

/// The device number of every sysfs.
const DEV: u64 = 0xf;

type Files = Vec<(String, Arc<dyn Inode>)>;

/// Makes `/sys`.
pub fn new_sysfs(kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
    let builder = Builder::new(DEV, StatFs::SYSFS, 1).strict();
    let weak = Arc::downgrade(kernel);
    let mut files: Files = Vec::new();
    cpus(&builder, kernel, &mut files);
    node(&builder, &weak, kernel, &mut files);
    // Guests' memory is mapped in small pages, whatever they advise.
    let never = builder.text(|| "always madvise [never]\n".to_owned());
    files.push(("kernel/mm/transparent_hugepage/enabled".to_owned(), never));
    for dir in ["block", "bus", "class", "dev", "firmware", "fs/cgroup", "module"] {
        files.push((dir.to_owned(), builder.dir(Vec::new())));
    }
    tree_of(&builder, files)
}

fn mask_of(cpus: impl Iterator<Item = usize>) -> CpuMask {
    let mut mask = [0; MAX_CPUS / 64];
    for n in cpus.filter(|&n| n < MAX_CPUS) {
        mask[n / 64] |= 1 << (n % 64);
    }
    mask
}

fn cpus(builder: &Builder, kernel: &Kernel, files: &mut Files) {
    const CPU: &str = "devices/system/cpu";
    let limit = kernel.system.cpu_limit();
    let online: Vec<usize> = cpu_numbers(&kernel.system.cpus).collect();
    let offline = (0..limit).filter(|n| !online.contains(n));
    let mut put = |path: String, text: String| {
        let text = text + "\n";
        files.push((path, builder.text(move || text.clone())));
    };
    let all = list_text(0..limit);
    put(format!("{CPU}/possible"), all.clone());
    put(format!("{CPU}/present"), all);
    put(format!("{CPU}/online"), list_text(online.iter().copied()));
    put(format!("{CPU}/offline"), list_text(offline));
    put(format!("{CPU}/isolated"), String::new());
    put(format!("{CPU}/kernel_max"), (MAX_CPUS - 1).to_string());
    let caches = Cpu(kernel).caches();
    let together = kernel.system.cpus;
    for &n in &online {
        let alone = mask_of(std::iter::once(n));
        let pairs = [
            ("core_cpus", alone),
            ("thread_siblings", alone),
            ("core_siblings", together),
            ("die_cpus", together),
            ("package_cpus", together),
        ];
        for (name, mask) in pairs {
            put(format!("{CPU}/cpu{n}/topology/{name}"), mask_text(&mask, limit));
            put(format!("{CPU}/cpu{n}/topology/{name}_list"), list_text(cpu_numbers(&mask)));
        }
        put(format!("{CPU}/cpu{n}/topology/core_id"), n.to_string());
        put(format!("{CPU}/cpu{n}/topology/die_id"), "0".to_owned());
        put(format!("{CPU}/cpu{n}/topology/physical_package_id"), "0".to_owned());
        for (i, cache) in caches.iter().enumerate() {
            let at = format!("{CPU}/cpu{n}/cache/index{i}");
            // The last level is shared, as the package is.
            let sharers = if cache.level >= 3 { together } else { alone };
            put(format!("{at}/shared_cpu_map"), mask_text(&sharers, limit));
            put(format!("{at}/shared_cpu_list"), list_text(cpu_numbers(&sharers)));
            for (name, value) in cache_rows(cache) {
                put(format!("{at}/{name}"), value);
            }
        }
    }
}

fn cache_rows(c: &Cache) -> [(&'static str, String); 7] {
    let kind = match c.kind {
        1 => "Data",
        2 => "Instruction",
        _ => "Unified",
    };
    [
        ("level", c.level.to_string()),
        ("type", kind.to_owned()),
        ("size", format!("{}K", c.bytes() / 1024)),
        ("coherency_line_size", c.line.to_string()),
        ("physical_line_partition", c.partitions.to_string()),
        ("ways_of_associativity", c.ways.to_string()),
        ("number_of_sets", c.sets.to_string()),
    ]
}

fn node(builder: &Builder, weak: &Weak<Kernel>, kernel: &Kernel, files: &mut Files) {
    const NODE: &str = "devices/system/node";
    let cpus = kernel.system.cpus;
    let limit = kernel.system.cpu_limit();
    let fixed = [
        ("online", "0".to_owned()),
        ("possible", "0".to_owned()),
        ("has_cpu", "0".to_owned()),
        ("has_memory", "0".to_owned()),
        ("node0/cpulist", list_text(cpu_numbers(&cpus))),
        ("node0/cpumap", mask_text(&cpus, limit)),
        ("node0/distance", "10".to_owned()),
    ];
    for (path, text) in fixed {
        let text = text + "\n";
        files.push((format!("{NODE}/{path}"), builder.text(move || text.clone())));
    }
    let meminfo = made(weak, |k| {
        let m = k.memory_counts();
        let rows = [("MemTotal", m.total), ("MemFree", m.free()), ("MemUsed", m.used)];
        rows.iter()
            .map(|(name, bytes)| format!("Node 0 {:<16}{:>8} kB\n", format!("{name}:"), bytes / 1024))
            .collect()
    });
    files.push((format!("{NODE}/node0/meminfo"), builder.text(meminfo)));
    for n in cpu_numbers(&cpus) {
        files.push((format!("{NODE}/node0/cpu{n}"), builder.link(&format!("../../cpu/cpu{n}"))));
    }
}
