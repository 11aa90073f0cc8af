//! More threads than processors, or than vCPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use platform::Trap;

use super::guest::*;

/// Lets two threads that never leave by themselves and four that make system calls run until `wait` returns; the least
/// number of calls that one of the four made. Each must find its own registers.
pub(crate) fn take_turns(p: &Arc<Tested>, wait: impl FnOnce()) -> u64 {
    let a = Guest::new(p);
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
        wait();
        stop.store(true, Ordering::SeqCst);
        kicks.iter().for_each(|kick| kick.kick());
    });
    slowest.into_inner()
}
