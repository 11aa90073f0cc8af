//! Calls through a patched site, with a mailbox, while other threads kick: every call gets its answer, no kick is lost,
//! and registers are as SYSCALL leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::memmap::{Access, MemRange};
use platform::window::stub;
use platform::{Platform, ThreadPage, Trap};

use crate::guest::{CODE, Guest, PAGE, RW, RX, Tested, platform};

/// getppid: not answered from the thread's page.
const NUMBER: u32 = 110;

/// A guest with one patched site: `mov $NUMBER,%eax; syscall` at [`CODE`], then `tail`.
fn patched(platform: &Arc<Tested>, tail: &[u8]) -> Option<Guest> {
    let window = platform.window()?;
    let mut guest = Guest::new(platform);
    let displaced = [0xb8, NUMBER as u8, 0, 0, 0];
    let mut code = window.jump(0).to_vec();
    code.extend(tail);
    guest.memory().write(guest.code.offset, &code);
    let sites = guest.page(0);
    let ((slot_at, slot), (stub_at, stub)) = window.site(0, displaced, Some(NUMBER), CODE + 7);
    guest.memory().write(sites.offset + slot_at, &slot);
    guest.memory().write(sites.offset + stub_at, &stub);
    let (addr, page) = window.code_page();
    guest.space.map(addr, page, RX).expect("a mapping");
    guest.space.map(window.site_page(0), sites, RX).expect("a mapping");
    let page: MemRange = guest.page(0);
    let own = ThreadPage { addr: window.thread_page(0), offset: page.offset };
    guest.space.map(own.addr, MemRange { len: PAGE, ..page }, RW).expect("a mapping");
    guest.context.set_thread_page(Some(own));
    guest.regs.rip = CODE;
    guest.regs.rdi = 0x1111;
    Some(guest)
}

/// What the sentry does with a trap in the window: true for a system call.
fn is_call(guest: &mut Guest, trap: Trap) -> bool {
    let window = guest.platform.window().cloned().expect("a window");
    if trap == Trap::Syscall {
        if window.contains(guest.regs.rip) {
            assert_eq!(guest.regs.rip, window.stub(0) + stub::BEHIND);
            guest.regs.rip = CODE + 7;
        }
        return true;
    }
    assert_eq!(trap, Trap::Interrupted, "at {:#x}", guest.regs.rip);
    if window.contains(guest.regs.rip) {
        // Before the call: it is made again.
        guest.regs.rip = CODE;
        guest.regs.rdi = 0x1111;
    }
    false
}

#[test]
fn no_kick_and_no_call_is_lost() {
    let Some(platform) = platform() else { return };
    // add %rax,%rbx; inc %r12; jmp CODE
    let Some(mut guest) = patched(&platform, &[0x48, 0x01, 0xc3, 0x49, 0xff, 0xc4, 0xeb, 0xf1]) else {
        eprintln!("skipped: no window here");
        return;
    };
    let kicker = guest.context.kicker();
    let (sent, seen, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (mut calls, mut sum) = (0u64, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wait = 1u64;
            while !stop.load(Ordering::SeqCst) {
                sent.fetch_add(1, Ordering::SeqCst);
                kicker.kick();
                let began = Instant::now();
                while seen.load(Ordering::SeqCst) < sent.load(Ordering::SeqCst) {
                    assert!(began.elapsed() < Duration::from_secs(20), "a kick was lost");
                    std::thread::sleep(Duration::from_micros(20));
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
                wait = wait * 7 % 1009;
                std::thread::sleep(Duration::from_micros(wait));
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let space = guest.space.clone();
            let before = sent.load(Ordering::SeqCst);
            let trap = guest.context.switch(&space, &mut guest.regs).unwrap();
            assert!(guest.regs.rsp < 1 << 47 && guest.regs.gs_base == 0);
            assert_eq!(guest.regs.rdi, 0x1111);
            if is_call(&mut guest, trap) {
                assert_eq!(guest.regs.rax, u64::from(NUMBER));
                assert_eq!((guest.regs.rbx, guest.regs.r12), (sum, calls));
                calls += 1;
                sum = sum.wrapping_add(calls);
                guest.regs.rax = calls;
            } else {
                seen.store(before.max(sent.load(Ordering::SeqCst)), Ordering::SeqCst);
            }
            if calls.is_multiple_of(97) {
                // Needs the vCPU, be it with a companion.
                let state = guest.context.fp_state().unwrap();
                guest.context.set_fp_state(&state).unwrap();
            }
            if calls.is_multiple_of(41) {
                guest.context.relax();
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    eprintln!("{calls} calls, {:?}", platform.counters());
    assert!(calls > 100, "{calls}");
    assert!(seen.load(Ordering::SeqCst) > 5);
}

#[test]
fn an_answer_may_change_all_registers() {
    let Some(platform) = platform() else { return };
    // mov %rbp,%r13; jmp CODE
    let Some(mut guest) = patched(&platform, &[0x49, 0x89, 0xed, 0xeb, 0xf4]) else { return };
    for round in 0..2000u64 {
        let space = guest.space.clone();
        let trap = guest.context.switch(&space, &mut guest.regs).unwrap();
        if !is_call(&mut guest, trap) {
            continue;
        }
        if round % 3 == 0 {
            let r = &mut guest.regs;
            (r.rbx, r.rbp, r.r8, r.r15, r.rsi) = (round, round + 1, round + 2, round + 3, round + 4);
            r.rsp -= 8;
            r.rflags ^= 0x401;
            let (want, flags) = (*r, r.rflags & 0x401);
            loop {
                let trap = guest.context.switch(&space, &mut guest.regs).unwrap();
                if is_call(&mut guest, trap) {
                    break;
                }
            }
            let r = &guest.regs;
            assert_eq!((r.rbx, r.rbp, r.r8, r.r15, r.rsi), (want.rbx, want.rbp, want.r8, want.r15, want.rsi));
            assert_eq!((r.rsp, r.r13, r.rflags & 0x401), (want.rsp, want.rbp, flags));
        }
    }
}

#[test]
fn mappings_change_while_calls_and_faults_wait() {
    const DATA: u64 = 0x5000_0000;
    const MANY: u64 = 120;
    let Some(platform) = platform() else { return };
    // mov (%rax),%rbx; inc %r12; jmp CODE
    let Some(mut guest) = patched(&platform, &[0x48, 0x8b, 0x18, 0x49, 0xff, 0xc4, 0xeb, 0xf1]) else {
        return;
    };
    let pages = [guest.page(1), guest.page(2)];
    let mut want = None;
    for round in 0..3000usize {
        let space = guest.space.clone();
        let mut faults = 0;
        loop {
            let trap = guest.context.switch(&space, &mut guest.regs).unwrap();
            if let Trap::Fault { addr, access } = trap {
                // Taken away when the call was answered.
                assert_eq!((addr, access), (DATA, Access::READ));
                space.map(DATA, pages[round % 2], Access::READ).unwrap();
                want = Some(u64::from(guest.byte(pages[round % 2])));
                faults += 1;
                assert!(faults == 1, "a fault comes back");
            } else if is_call(&mut guest, trap) {
                break;
            }
        }
        if let Some(want) = want.take() {
            assert_eq!(guest.regs.rbx, want, "round {round}");
        }
        guest.regs.rax = DATA;
        match round % 4 {
            0 => space.unmap(DATA, PAGE),
            1 => {
                space.map(DATA, pages[round % 2], RW).unwrap();
                want = Some(u64::from(guest.byte(pages[round % 2])));
            }
            // Each change waits for the one before it to be over.
            2 => {
                space.map(DATA, pages[0], RW).unwrap();
                space.protect(DATA, PAGE, Access::empty());
                space.protect(DATA, PAGE, Access::READ);
                want = Some(u64::from(guest.byte(pages[0])));
            }
            // More than fit into one batch.
            _ if round % 60 == 3 => {
                for i in 0..MANY {
                    space.map(DATA + 2 * i * PAGE, pages[(i % 2) as usize], Access::READ).unwrap();
                }
                space.unmap(DATA, 2 * MANY * PAGE);
            }
            _ => {}
        }
    }
    eprintln!("{:?}", platform.counters());
}
