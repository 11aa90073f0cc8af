//! What names cost: `cargo bench -p ringfence-fs --bench names [MAX]`.
//!
//! For directories of 100 to MAX (default 1,000,000) entries: making, finding (remembered and not), listing and removing
//! one; then a path of 1 to 1000 components. Nanoseconds of processor time, the best of several rounds; the columns must not grow with the
//! size of the directory or the length of the path.

use std::hint::black_box;
use std::sync::Arc;

use abi::Errno;
use abi::errno::ENOMEM;
use base::cred::Credentials;
use base::memmap::{MemKind, MemRange, Memory};
use ringfence_fs::file::oflag;
use ringfence_fs::vfs::{MountNamespace, Walk, cache};

/// Files stay empty: nothing asks for memory.
struct NoMemory;

impl Memory for NoMemory {
    fn allocate(&self, _: u64, _: u64, _: MemKind) -> Result<MemRange, Errno> {
        Err(ENOMEM)
    }
    fn inc_ref(&self, _: MemRange) {}
    fn dec_ref(&self, _: MemRange) {}
    fn is_unique(&self, _: u64) -> bool {
        false
    }
    fn populate(&self, _: MemRange) {}
    fn discard(&self, _: MemRange) {}
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, _: u64, _: &[u8]) {}
    fn zero(&self, _: MemRange) {}
    fn copy(&self, _: u64, _: u64, _: u64) {}
    fn load_u32(&self, _: u64) -> u32 {
        0
    }
    fn compare_exchange_u32(&self, _: u64, _: u32, _: u32) -> u32 {
        0
    }
    fn resident(&self) -> u64 {
        0
    }
}

/// The best of `rounds` times, in ns for each of `n`.
fn best(rounds: usize, n: usize, mut f: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = host::clock::thread_cpu_ns();
        f();
        best = best.min((host::clock::thread_cpu_ns() - start) as f64 / n as f64);
    }
    best
}

/// Path names in an order that is not that of the directory.
fn names(dir: &str, n: usize, count: usize) -> Vec<Vec<u8>> {
    let name = |i: usize| format!("{dir}/file-{:07}", i.wrapping_mul(7919) % n).into_bytes();
    (0..count).map(name).collect()
}

fn directory(w: &Walk<'_>, dir: &str, n: usize, writable: bool) {
    let all: Vec<Vec<u8>> = (0..n).map(|i| format!("{dir}/file-{i:07}").into_bytes()).collect();
    let make = if writable {
        best(1, n, || {
            for name in &all {
                w.open(name, oflag::CREAT | oflag::WRONLY, 0o644).map(drop).expect("made");
            }
        })
    } else {
        0.0
    };
    let some = names(dir, n, n.min(20_000));
    let look = |list: &[Vec<u8>]| {
        for name in list {
            black_box(w.stat(name, true).expect("found"));
        }
    };
    let mut first = f64::MAX;
    for _ in 0..3 {
        cache::shrink();
        first = first.min(best(1, some.len(), || look(&some)));
    }
    let again = best(5, some.len(), || look(&some));
    let open = best(5, some.len(), || {
        for name in &some {
            black_box(w.open(name, oflag::RDONLY, 0).expect("opened"));
        }
    });
    let list = best(3, n, || {
        let file = w.open(dir.as_bytes(), oflag::RDONLY | oflag::DIRECTORY, 0).expect("opened");
        let mut seen = 0;
        loop {
            // As getdents64 with a buffer of 32 KiB does.
            let (before, mut room) = (seen, 800);
            file.read_dir(&mut |entry| {
                black_box(entry.name);
                room -= 1;
                seen += usize::from(room >= 0);
                room >= 0
            })
            .expect("listed");
            if seen == before {
                break;
            }
        }
        assert!(seen >= n, "{seen} of {n}");
    });
    let remove = if writable {
        best(1, n, || all.iter().for_each(|name| w.unlink(name).expect("removed")))
    } else {
        0.0
    };
    println!(
        "{dir:>14} {n:>8} entries: make {make:6.0}  find first {first:6.0}  again {again:6.0}  open+close {open:6.0}  \
         list {list:5.0}  remove {remove:6.0}"
    );
}

fn main() {
    let max = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    let memory: Arc<dyn Memory> = Arc::new(NoMemory);
    let host = std::env::temp_dir().join(format!("ringfence-names-{}", std::process::id()));
    std::fs::create_dir_all(&host).expect("a directory on the host");
    let lower = ringfence_fs::hostfs::new(memory.clone(), &host, ringfence_fs::hostfs::Mode::READ_ONLY)
        .expect("hostfs");
    let upper = ringfence_fs::tmpfs::new(memory.clone(), 0o755);
    let ns = MountNamespace::new(ringfence_fs::overlay::new(lower, upper).expect("overlay"));
    let cred = Credentials::root();
    let w = Walk { root: ns.root(), base: ns.root(), cred: &cred, umask: 0 };
    for n in [100, 1000, 10_000, 100_000, 1_000_000].into_iter().filter(|&n| n <= max) {
        let name = format!("lower-{n}");
        let dir = host.join(&name);
        std::fs::create_dir(&dir).expect("a directory on the host");
        for i in 0..n {
            std::fs::File::create(dir.join(format!("file-{i:07}"))).expect("a file on the host");
        }
        directory(&w, &format!("/{name}"), n, false);
        std::fs::remove_dir_all(&dir).expect("removed");
        let name = format!("/upper-{n}");
        w.mkdir(name.as_bytes(), 0o755).expect("made");
        directory(&w, &name, n, true);
    }
    let mut path = Vec::new();
    for depth in 1..=1000 {
        path.extend_from_slice(b"/d");
        w.mkdir(&path, 0o755).expect("made");
        if matches!(depth, 1 | 10 | 100 | 1000) {
            let each = best(5, 1000 * depth, || {
                for _ in 0..1000 {
                    black_box(w.stat(&path, true).expect("found"));
                }
            });
            println!("{depth:>14} components: {each:6.0} each");
        }
    }
    std::fs::remove_dir_all(&host).expect("removed");
}
