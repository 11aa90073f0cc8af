//! More threads than vCPUs, and what people are told when KVM cannot be had.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guest::*;
use platform::{Platform, Trap};
use ringfence_platform_kvm::{KvmPlatform, Options};

fn moves(p: &KvmPlatform) -> u64 {
    p.counters().iter().find(|(name, _)| *name == "vcpu_moves").unwrap().1
}

#[test]
fn threads_share_the_vcpus_that_there_are() {
    if platform().is_none() {
        return;
    }
    let options = Options { vcpu_limit: 2, ..Options::default() };
    let p = KvmPlatform::new(&options).unwrap();
    let a = Guest::new(&p);
    // `movq xmm0, rbx; 1: syscall; movq rcx, xmm0; cmp rcx, rbx; je 1b; ud2`: the state must be the thread's own.
    let own = [
        0x66, 0x48, 0x0f, 0x6e, 0xc3, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xc1, 0x48, 0x39, 0xd9, 0x74, 0xf4,
        0x0f, 0x0b,
    ];
    a.memory().write(a.code.offset, &own);
    a.memory().write(a.code.offset + 64, &[0xeb, 0xfe]); // jmp $
    let stop = AtomicBool::new(false);
    let slowest = AtomicU64::new(u64::MAX);
    std::thread::scope(|s| {
        let mut kicks = Vec::new();
        // Two that never leave by themselves, and four that make system calls.
        for spinner in 0..2 {
            let mut g = a.thread();
            kicks.push(g.context.kicker());
            let stop = &stop;
            s.spawn(move || {
                g.regs.rip = CODE + 64;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(g.go(), Trap::Interrupted, "spinner {spinner}");
                }
            });
        }
        for id in 0..4u64 {
            let mut g = a.thread();
            kicks.push(g.context.kicker());
            let (stop, slowest) = (&stop, &slowest);
            s.spawn(move || {
                g.regs.rip = CODE;
                g.regs.rbx = id * 0x1111_1111_1111 + 1;
                let mut n = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    match g.go() {
                        Trap::Syscall => n += 1,
                        Trap::Interrupted => {}
                        trap => panic!("thread {id}: {trap:?}: another thread's registers"),
                    }
                }
                slowest.fetch_min(n, Ordering::SeqCst);
            });
        }
        let started = Instant::now();
        // A busy host takes longer until every thread has had its turns.
        while moves(&p) <= 10 && started.elapsed() < Duration::from_secs(40) {
            std::thread::sleep(Duration::from_secs(2));
        }
        stop.store(true, Ordering::SeqCst);
        kicks.iter().for_each(|kick| kick.kick());
    });
    let counters = p.counters();
    assert!(moves(&p) > 10, "{counters:?}");
    assert!(slowest.into_inner() >= 3, "a thread starved: {counters:?}");
}

fn refusal(device: &str) -> String {
    let options = Options { device: device.into(), ..Options::default() };
    KvmPlatform::new(&options).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn without_kvm_one_line_says_what_to_do() {
    let absent = refusal("/nonexistent/kvm");
    assert!(absent.starts_with("kvm: /nonexistent/kvm: not present: load kvm_intel or kvm_amd"), "{absent}");
    let other = refusal("/dev/null");
    assert!(other.contains("API version -1 instead of 12"), "{other}");
    for text in [absent, other] {
        assert!(!text.contains('\n'));
    }
}
