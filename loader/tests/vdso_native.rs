//! Runs the vDSO image in this process, beside the host's own.
#![expect(unsafe_code, reason = "maps the image and calls into it")]

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

use goblin::elf::Elf;
use ringfence_loader::vdso::{self, ClockParams, CpuMode, TscMode, VVAR_SIZE, VvarPage};
use zerocopy::IntoBytes;

const CLOCKS: [i32; 6] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_MONOTONIC_RAW,
    libc::CLOCK_REALTIME_COARSE,
    libc::CLOCK_MONOTONIC_COARSE,
    libc::CLOCK_BOOTTIME,
];
const SHIFT: u32 = 48;

type ClockFn = extern "C" fn(i32, *mut libc::timespec) -> i32;
type DayFn = extern "C" fn(*mut libc::timeval, *mut [i32; 2]) -> i32;
type TimeFn = extern "C" fn(*mut i64) -> i64;
type CpuFn = extern "C" fn(*mut u32, *mut u32, usize) -> i32;

/// The page and the image in memory of this process.
struct Mapped {
    base: *mut u8,
}

impl Mapped {
    fn new() -> Self {
        let image = vdso::IMAGE;
        let len = VVAR_SIZE as usize + image.len();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) }.cast::<u8>();
        assert_ne!(base.cast(), libc::MAP_FAILED);
        // SAFETY: the mapping is longer than a page.
        let text = unsafe { base.add(VVAR_SIZE as usize) };
        // SAFETY: `image.len()` bytes are mapped there, and nobody else knows of them.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), text, image.len()) };
        // SAFETY: the pages are ours; nothing refers to them as data from here on.
        let result = unsafe { libc::mprotect(text.cast(), image.len(), libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(result, 0);
        Self { base }
    }

    fn publish(&self, page: &VvarPage) {
        // SAFETY: the first page is mapped, writable and aligned; no other thread reads it now.
        unsafe { std::ptr::copy_nonoverlapping(page.as_bytes().as_ptr(), self.base, size_of::<VvarPage>()) };
    }

    fn address_of(&self, name: &str) -> *const u8 {
        let elf = Elf::parse(vdso::IMAGE).expect("an ELF file");
        let sym =
            elf.dynsyms.iter().find(|s| elf.dynstrtab.get_at(s.st_name) == Some(name)).expect("a symbol");
        // SAFETY: symbols lie inside the image, which is mapped behind the data page.
        unsafe { self.base.add(VVAR_SIZE as usize + sym.st_value as usize) }
    }

    fn clock_gettime(&self) -> ClockFn {
        // SAFETY: the symbol is a function of this type by the definition of a vDSO.
        unsafe { std::mem::transmute(self.address_of("__vdso_clock_gettime")) }
    }

    fn clock_getres(&self) -> ClockFn {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.address_of("__vdso_clock_getres")) }
    }

    fn gettimeofday(&self) -> DayFn {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.address_of("__vdso_gettimeofday")) }
    }

    fn time(&self) -> TimeFn {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.address_of("__vdso_time")) }
    }

    fn getcpu(&self) -> CpuFn {
        // SAFETY: as above.
        unsafe { std::mem::transmute(self.address_of("getcpu")) }
    }
}

fn host(clock: i32) -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a timespec.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut ts) }, 0);
    ts.tv_sec * 1_000_000_000 + ts.tv_nsec
}

fn guest(clock_gettime: ClockFn, clock: i32) -> i64 {
    let mut ts = libc::timespec { tv_sec: -1, tv_nsec: -1 };
    assert_eq!(clock_gettime(clock, &raw mut ts), 0);
    assert!((0..1_000_000_000).contains(&ts.tv_nsec));
    ts.tv_sec * 1_000_000_000 + ts.tv_nsec
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

/// The fine clock whose value a clock has here.
fn fine(clock: i32) -> i32 {
    match clock {
        libc::CLOCK_REALTIME_COARSE => libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC_COARSE => libc::CLOCK_MONOTONIC,
        c => c,
    }
}

fn calibrated() -> VvarPage {
    let samples = || {
        CLOCKS.map(|c| {
            let best = (0..20)
                .map(|_| (tsc(), host(fine(c)), tsc()))
                .min_by_key(|(a, _, b)| b - a)
                .expect("20 readings");
            (best.0 + (best.2 - best.0) / 2, best.1)
        })
    };
    let first = samples();
    std::thread::sleep(Duration::from_millis(50));
    let second = samples();
    let mut page =
        VvarPage { seq: 2, mode: TscMode::Tsc as u32, tsc_base: tsc(), shift: SHIFT, ..VvarPage::default() };
    for (i, clock) in CLOCKS.into_iter().enumerate() {
        let ticks = second[i].0 - first[i].0;
        let mult = ((second[i].1 - first[i].1) as u128) << SHIFT;
        let mult = (mult / u128::from(ticks)) as u64;
        let since = page.tsc_base - second[i].0;
        let now = second[i].1 + ((u128::from(since) * u128::from(mult)) >> SHIFT) as i64;
        let (sec, nsec) = (now / 1_000_000_000, (now % 1_000_000_000) as u64);
        page.clocks[clock as usize] = ClockParams { sec, nsec, mult, reserved: 0 };
    }
    page
}

#[test]
fn clocks_agree_with_the_hosts() {
    let mapped = Mapped::new();
    mapped.publish(&calibrated());
    let clock_gettime = mapped.clock_gettime();
    for clock in CLOCKS {
        // The smallest of several differences: the host may take the processor away between two readings.
        let difference =
            (0..100).map(|_| (guest(clock_gettime, clock) - host(fine(clock))).abs()).min().unwrap();
        assert!(difference < 50_000, "clock {clock}: {difference} ns");
    }
    let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut tz = [9, 9];
    assert_eq!(mapped.gettimeofday()(&raw mut tv, &raw mut tz), 0);
    let now = host(libc::CLOCK_REALTIME) / 1000;
    assert!((now - tv.tv_sec * 1_000_000 - tv.tv_usec).abs() < 100_000);
    assert_eq!(tz, [0, 0]);
    assert_eq!(mapped.gettimeofday()(std::ptr::null_mut(), std::ptr::null_mut()), 0);
    let mut t = 0;
    let returned = mapped.time()(&raw mut t);
    assert_eq!(t, returned);
    assert!((host(libc::CLOCK_REALTIME) / 1_000_000_000 - t).abs() <= 1);
    assert_eq!(mapped.time()(std::ptr::null_mut()) / 10, t / 10);
}

#[test]
fn clocks_never_go_backwards() {
    let mapped = Mapped::new();
    mapped.publish(&calibrated());
    let clock_gettime = mapped.clock_gettime();
    for clock in CLOCKS {
        let mut last = guest(clock_gettime, clock);
        for _ in 0..1_000_000 {
            let now = guest(clock_gettime, clock);
            assert!(now >= last);
            last = now;
        }
    }
}

#[test]
fn seconds_carry_over_however_old_the_page_is() {
    let mapped = Mapped::new();
    let mut page = calibrated();
    // A page that was made two hours ago.
    let ago = 7200 * 1_000_000_000u128;
    for c in &mut page.clocks {
        c.sec -= 7200;
    }
    let mult = u128::from(page.clocks[1].mult);
    page.tsc_base = page.tsc_base.wrapping_sub(((ago << SHIFT) / mult) as u64);
    if page.tsc_base > tsc() {
        return println!("skipped: this machine has been up for less than two hours");
    }
    mapped.publish(&page);
    let clock = libc::CLOCK_MONOTONIC;
    assert!((guest(mapped.clock_gettime(), clock) - host(clock)).abs() < 50_000_000);
}

#[test]
fn everything_else_is_left_to_the_system_call() {
    let mapped = Mapped::new();
    let (clock_gettime, clock_getres) = (mapped.clock_gettime(), mapped.clock_getres());
    // An empty page, a page that stays under change: all clocks by system call, and they are right.
    for page in [VvarPage::default(), VvarPage { seq: 1, ..calibrated() }] {
        mapped.publish(&page);
        for clock in CLOCKS {
            assert!((guest(clock_gettime, clock) - host(clock)).abs() < 1_000_000_000);
        }
    }
    mapped.publish(&calibrated());
    let cpu = guest(clock_gettime, libc::CLOCK_PROCESS_CPUTIME_ID);
    assert!(cpu <= host(libc::CLOCK_PROCESS_CPUTIME_ID));
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    for bad in [-1, 8, 9, 12, 1 << 30] {
        // SAFETY: `ts` is a timespec.
        let native = unsafe { libc::syscall(libc::SYS_clock_gettime, bad, &raw mut ts) } == 0;
        assert_eq!(clock_gettime(bad, &raw mut ts) == 0, native, "{bad}");
    }
    for clock in -2..=12 {
        let (mut mine, mut native) = (ts, ts);
        // SAFETY: `native` is a timespec.
        let expected = unsafe { libc::syscall(libc::SYS_clock_getres, clock, &raw mut native) } == 0;
        assert_eq!(clock_getres(clock, &raw mut mine) == 0, expected, "{clock}");
        if expected && mine.tv_nsec != native.tv_nsec {
            // Kernels differ in the length of a tick only.
            assert!(clock == libc::CLOCK_REALTIME_COARSE || clock == libc::CLOCK_MONOTONIC_COARSE, "{clock}");
        }
        if expected {
            assert_eq!(clock_getres(clock, std::ptr::null_mut()), 0);
        }
    }
}

#[test]
fn getcpu_answers_in_each_mode() {
    let mapped = Mapped::new();
    let getcpu = mapped.getcpu();
    let (mut cpu, mut node) = (9999, 9999);
    for mode in [CpuMode::Syscall, CpuMode::TscAux] {
        // The host's kernel keeps TSC_AUX as the vDSO expects it.
        mapped.publish(&VvarPage { cpu_mode: mode as u32, ..VvarPage::default() });
        assert_eq!(getcpu(&raw mut cpu, &raw mut node, 0), 0);
        assert!(cpu < 4096 && node < 1024, "{mode:?}: {cpu} {node}");
        assert_eq!(getcpu(std::ptr::null_mut(), std::ptr::null_mut(), 0), 0);
    }
    mapped.publish(&VvarPage { cpu_mode: CpuMode::Fixed as u32, cpu: 3, node: 1, ..VvarPage::default() });
    assert_eq!(getcpu(&raw mut cpu, &raw mut node, 0), 0);
    assert_eq!((cpu, node), (3, 1));
}

/// Not a test of speed, which depends on the load: prints the figures (`--nocapture`), and fails far from them only.
#[test]
fn a_reading_costs_about_what_the_hosts_costs() {
    extern "C" fn native(clock: i32, ts: *mut libc::timespec) -> i32 {
        // SAFETY: the caller gives a timespec.
        unsafe { libc::clock_gettime(clock, ts) }
    }
    let cost = |f: ClockFn| {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let rounds = (0..10).map(|_| {
            let start = Instant::now();
            for _ in 0..100_000 {
                f(libc::CLOCK_MONOTONIC, &raw mut ts);
            }
            start.elapsed().as_nanos() as f64 / 1e5
        });
        rounds.fold(f64::MAX, f64::min)
    };
    let mapped = Mapped::new();
    mapped.publish(&calibrated());
    let (mine, host) = (cost(mapped.clock_gettime()), cost(native));
    println!("clock_gettime: {mine:.1} ns, the host's {host:.1} ns, ratio {:.2}", mine / host);
    assert!(mine < host * 4.0);
}
