//! Everything at once: threads that store, fault, unmap, protect, punch, fork, change address spaces and kick each other.
//!
//! Each thread knows the state of its own pages, so a store that should fault and does not (a stale translation) is
//! found as well as a wrong byte. `RINGFENCE_STRESS_SECONDS` sets the time, `RINGFENCE_STRESS_THREADS` the threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::guest::*;
use base::memmap::{Access, MemKind, MemRange, Memory};
use platform::{AddressSpace, Kick, Platform, Trap};

/// `mov [rdi], rax; syscall`, and at +16 `mov rax, [rdi]; syscall`.
const PROGRAM: [u8; 21] =
    [0x48, 0x89, 0x07, 0x0f, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0x8b, 0x07, 0x0f, 0x05];
const PAGES: u64 = 1024;
const ZONES: u64 = 0x3000_0000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Absent,
    ReadOnly,
    Writable,
}

/// xorshift64*: the test is the same for the same seed but for the interleaving.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// One thread: a zone of pages in a space that a sibling shares.
struct Worker {
    id: u64,
    guest: Guest,
    child: Guest,
    zone: u64,
    data: MemRange,
    state: Vec<State>,
    value: Vec<u64>,
    random: Random,
    interruptions: u64,
}

impl Worker {
    fn new(id: u64, platform: &Arc<Tested>, program: MemRange, space: Arc<dyn AddressSpace>) -> Self {
        let mut guest = Guest::new(platform);
        guest.code = program;
        guest.space = space;
        let child = guest.thread();
        // Every second thread's pages are large where they can be.
        let large = if id.is_multiple_of(2) { platform.memory().allocate_large(PAGES * PAGE) } else { None };
        let small = || platform.memory().allocate(PAGES * PAGE, PAGE, MemKind::Anonymous).unwrap();
        let data = large.unwrap_or_else(small);
        let n = PAGES as usize;
        Self {
            id,
            guest,
            child,
            zone: ZONES + id * PAGES * PAGE,
            data,
            state: vec![State::Absent; n],
            value: vec![0; n],
            random: Random(0x9e37_79b9 * (id + 1)),
            interruptions: 0,
        }
    }

    fn page(&self, i: u64) -> MemRange {
        MemRange { offset: self.data.offset + i * PAGE, len: PAGE }
    }

    /// Runs `guest` from `rip` until something else than an interruption.
    fn go(guest: &mut Guest, rip: u64, addr: u64, rax: u64, interruptions: &mut u64) -> Trap {
        guest.regs.rip = rip;
        guest.regs.rdi = addr;
        guest.regs.rax = rax;
        loop {
            match guest.go() {
                Trap::Interrupted => *interruptions += 1,
                trap => return trap,
            }
        }
    }

    fn store(&mut self, i: u64) {
        let addr = self.zone + i * PAGE;
        let tag = self.random.below(1 << 30) << 32 | self.id << 16 | 1;
        let mut trap = Self::go(&mut self.guest, CODE, addr, tag, &mut self.interruptions);
        if self.state[i as usize] != State::Writable {
            let want = fault(addr, Access::WRITE);
            assert_eq!(trap, want, "thread {}: stale: {:?}", self.id, self.state[i as usize]);
            if self.state[i as usize] == State::ReadOnly && self.random.below(2) == 0 {
                self.guest.space.protect(addr, PAGE, RW);
            } else {
                self.guest.space.map(addr, self.page(i), RW).unwrap();
            }
            self.state[i as usize] = State::Writable;
            trap = Self::go(&mut self.guest, CODE, addr, tag, &mut self.interruptions);
        }
        assert_eq!(trap, Trap::Syscall, "thread {}: page {i}", self.id);
        self.value[i as usize] = tag;
        self.check(i);
    }

    fn check(&self, i: u64) {
        let mut bytes = [0; 8];
        self.guest.memory().read(self.page(i).offset, &mut bytes);
        assert_eq!(u64::from_le_bytes(bytes), self.value[i as usize], "thread {}: page {i}", self.id);
    }

    fn set(&mut self, pages: std::ops::Range<u64>, state: State) {
        self.state[pages.start as usize..pages.end as usize].fill(state);
    }

    /// A fork of the zone: both sides lose the write access; the child reads what the parent wrote.
    fn fork(&mut self, program: MemRange) {
        let child = self.guest.platform.new_address_space().unwrap();
        child.map(CODE, program, RX).unwrap();
        let range = self.zone..self.zone + PAGES * PAGE;
        self.guest.space.fork_into(&*child, std::slice::from_ref(&range)).unwrap();
        self.child.space = child;
        for state in &mut self.state {
            if *state == State::Writable {
                *state = State::ReadOnly;
            }
        }
        for _ in 0..4 {
            let i = self.random.below(PAGES);
            let addr = self.zone + i * PAGE;
            let trap = Self::go(&mut self.child, CODE + 16, addr, 0, &mut self.interruptions);
            if self.state[i as usize] == State::Absent {
                assert_eq!(trap, fault(addr, Access::READ), "thread {}: child", self.id);
            } else {
                assert_eq!(trap, Trap::Syscall);
                assert_eq!(self.child.regs.rax, self.value[i as usize]);
                let trap = Self::go(&mut self.child, CODE, addr, 1, &mut self.interruptions);
                assert_eq!(trap, fault(addr, Access::WRITE), "thread {}: child", self.id);
            }
        }
    }

    fn step(&mut self, program: MemRange, kicks: &Mutex<Vec<Arc<dyn Kick>>>) {
        let i = self.random.below(PAGES);
        let addr = self.zone + i * PAGE;
        self.store(i);
        match self.random.below(16) {
            0..=3 => {
                self.guest.space.unmap(addr, PAGE);
                self.set(i..i + 1, State::Absent);
            }
            4 | 5 => {
                self.guest.space.protect(addr, PAGE, Access::READ);
                self.set(i..i + 1, State::ReadOnly);
            }
            6 => {
                let end = (i + self.random.below(256) + 1).min(PAGES);
                self.guest.space.unmap(addr, (end - i) * PAGE);
                self.set(i..end, State::Absent);
            }
            7 => {
                // The zone all over, and its memory back to the host.
                self.guest.space.unmap(self.zone, PAGES * PAGE);
                self.set(0..PAGES, State::Absent);
                self.guest.memory().discard(self.data);
                self.value.fill(0);
                self.check(i);
            }
            8 => {
                // A run at once, as a fault handler that fills ahead.
                let end = (i + 64).min(PAGES);
                let range = MemRange { len: (end - i) * PAGE, ..self.page(i) };
                self.guest.space.map(addr, range, RW).unwrap();
                self.set(i..end, State::Writable);
            }
            9 if self.random.below(4) == 0 => self.fork(program),
            14 => {
                // All of it, then a unit or all with less access: large pages as a whole.
                self.guest.space.map(self.zone, self.data, RW).unwrap();
                self.set(0..PAGES, State::Writable);
                self.store(i);
                let pages = 512 * self.random.below(2)..PAGES - 512 * self.random.below(2);
                let (addr, len) = (self.zone + pages.start * PAGE, (pages.end - pages.start) * PAGE);
                if self.random.below(2) == 0 {
                    self.guest.space.protect(addr, len, Access::READ);
                    self.set(pages, State::ReadOnly);
                } else {
                    self.guest.space.unmap(addr, len);
                    self.set(pages, State::Absent);
                }
            }
            15 => {
                // Pages lose their memory and stay mapped.
                let end = (i + self.random.below(64) + 1).min(PAGES);
                self.guest.memory().discard(MemRange { len: (end - i) * PAGE, ..self.page(i) });
                self.value[i as usize..end as usize].fill(0);
                self.check(i);
            }
            10 => self.guest.context.park().unwrap(),
            11..=13 => {
                let kicks = kicks.lock().unwrap();
                kicks[self.random.below(kicks.len() as u64) as usize].kick();
            }
            _ => {}
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn no_byte_is_wrong_under_load() {
    let Some(platform) = platform() else { return };
    let seconds = number("RINGFENCE_STRESS_SECONDS", 2);
    let threads = number("RINGFENCE_STRESS_THREADS", 8);
    let program = platform.memory().allocate(PAGE, PAGE, MemKind::Anonymous).unwrap();
    platform.memory().write(program.offset, &PROGRAM);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (steps, interruptions) = (AtomicU64::new(0), AtomicU64::new(0));
    let kicks: Mutex<Vec<Arc<dyn Kick>>> = Mutex::new(Vec::new());
    let spaces: Vec<Arc<dyn AddressSpace>> =
        (0..threads.div_ceil(2)).map(|_| platform.new_address_space().unwrap()).collect();
    for space in &spaces {
        space.map(CODE, program, RX).unwrap();
    }
    std::thread::scope(|s| {
        for id in 0..threads {
            let (platform, spaces) = (&platform, &spaces);
            let (steps, interruptions, kicks) = (&steps, &interruptions, &kicks);
            s.spawn(move || {
                let pair = (id / 2) as usize;
                let shared = spaces[pair].clone();
                let mut worker = Worker::new(id, platform, program, shared.clone());
                kicks.lock().unwrap().push(worker.guest.context.kicker());
                let mut n = 0u64;
                while Instant::now() < end {
                    for _ in 0..200 {
                        worker.step(program, kicks);
                    }
                    n += 200;
                    // In turns in the space that a sibling shares, and in fresh ones.
                    worker.guest.space.unmap(worker.zone, PAGES * PAGE);
                    worker.set(0..PAGES, State::Absent);
                    worker.guest.space = if n.is_multiple_of(400) {
                        shared.clone()
                    } else {
                        let fresh = platform.new_address_space().unwrap();
                        fresh.map(CODE, program, RX).unwrap();
                        fresh
                    };
                }
                steps.fetch_add(n, Ordering::Relaxed);
                interruptions.fetch_add(worker.interruptions, Ordering::Relaxed);
            });
        }
    });
    println!(
        "{threads} threads, {seconds} s: {} steps, {} interruptions; {:?}",
        steps.into_inner(),
        interruptions.into_inner(),
        platform.counters()
    );
}
