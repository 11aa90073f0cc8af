//! User code that attacks the stub in its own address space: it may end its own process and nothing else.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

use std::time::{Duration, Instant};

use base::memmap::Access;
use guest::*;
use platform::{Platform, ThreadPage, Trap};
use ringfence_platform_systrap::layout::{AREA_LEN, AREAS, STUB_TEXT};

/// Offsets of the stub's system call instructions, as user code can read them.
fn syscalls(g: &mut Guest) -> Vec<u64> {
    let bytes: Vec<u8> = (0..4096)
        .map(|i| {
            assert_eq!(g.load(STUB_TEXT + i), Trap::Syscall);
            g.al()
        })
        .collect();
    (0..4095u64).filter(|&i| bytes[i as usize..i as usize + 2] == [0x0f, 0x05]).collect()
}

#[test]
fn the_stubs_system_calls_are_of_no_use_to_user_code() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let places = syscalls(&mut g);
    assert!(places.len() > 10, "{places:?}");
    // mmap, mprotect, munmap, pwrite64, clone, fork, execve, kill, ptrace, prctl, seccomp, rt_sigaction, sigaltstack,
    // rt_sigprocmask, exit_group, open, io_uring_setup, and numbers of other ABIs.
    let calls = [
        9,
        10,
        11,
        18,
        56,
        57,
        59,
        62,
        101,
        157,
        317,
        13,
        131,
        14,
        231,
        2,
        425,
        0x4000_000f,
        4095,
        0xffff_ffff,
    ];
    for &place in &places {
        for rax in calls {
            g.regs.rip = STUB_TEXT + place;
            (g.regs.rax, g.regs.rdi, g.regs.rsi, g.regs.rdx) = (rax, CODE, PAGE, 7);
            (g.regs.r10, g.regs.r8, g.regs.r9) = (0x11, 3, 0);
            assert_eq!(g.go(), Trap::Syscall, "{place:#x} {rax}");
            assert_eq!((g.regs.rip, g.regs.rax), (STUB_TEXT + place + 2, rax));
        }
    }
    // futex(FUTEX_WAIT) puts the thread to sleep, and a kick wakes it.
    let kick = g.context.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        kick.kick();
    });
    g.memory().write(g.code.offset + PAGE, &[0; 8]);
    g.regs.rip = STUB_TEXT + places[0];
    (g.regs.rax, g.regs.rdi, g.regs.rsi, g.regs.rdx, g.regs.r10) = (202, STACK, 0, 0, 0);
    assert_eq!(g.go(), Trap::Interrupted);
    thread.join().unwrap();
}

#[test]
fn the_stubs_pages_cannot_be_written_and_are_nobodys_but_the_stubs() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let mm = STUB_TEXT + 0x1_0000;
    for addr in [STUB_TEXT, STUB_TEXT + PAGE, mm] {
        assert_eq!(g.store(addr, 1), fault(addr, Access::WRITE));
        assert_eq!(g.load(addr), Trap::Syscall);
    }
    for addr in [STUB_TEXT + 2 * PAGE, mm - PAGE, mm + PAGE, AREAS - PAGE, AREAS + AREA_LEN] {
        assert_eq!(g.load(addr), fault(addr, Access::READ), "{addr:#x}");
    }
    assert_eq!(g.call(AREAS), fault(AREAS, Access::EXEC));
}

#[test]
fn a_thread_that_ends_itself_ends_its_process_only() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let mut other = Guest::new(&p);
    let place = syscalls(&mut g)[0];
    g.regs.rip = STUB_TEXT + place;
    g.regs.rax = 60;
    let error = g.context.switch(&g.space, &mut g.regs).unwrap_err();
    assert!(error.to_string().contains("has died"), "{error}");
    assert_eq!(other.run(&[0x0f, 0x05]), Trap::Syscall);
    drop(g);
    assert_eq!(Guest::new(&p).run(&[0x0f, 0x05]), Trap::Syscall);
}

#[test]
fn an_area_full_of_rubbish_harms_its_process_only() {
    let Some(p) = platform() else { return };
    let mut other = Guest::new(&p);
    // cld; rep stosb; syscall: over the data page, the frame, and the whole of it.
    for (from, len) in [(0, 512), (PAGE, AREA_LEN - PAGE), (0, AREA_LEN)] {
        for byte in [0u64, 1, 0x7f, 0xff] {
            let mut g = Guest::new(&p);
            let kick = g.context.kicker();
            (g.regs.rdi, g.regs.rcx, g.regs.rax) = (AREAS + from, len, byte);
            g.memory().write(g.code.offset, &[0xfc, 0xf3, 0xaa, 0x0f, 0x05]);
            g.regs.rip = CODE;
            let watch = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                kick.kick();
            });
            let started = Instant::now();
            // Whatever comes: it comes, and soon.
            for _ in 0..3 {
                let _ = g.context.switch(&g.space, &mut g.regs);
                let _ = g.context.fp_state().unwrap();
            }
            assert!(started.elapsed() < Duration::from_secs(20));
            watch.join().unwrap();
            assert_eq!(other.run(&[0x0f, 0x05]), Trap::Syscall);
        }
    }
}

#[test]
fn a_thread_that_blocks_our_signals_is_ended() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let place = syscalls(&mut g)[0];
    // `struct ucontext`: registers at 40, the mask at 296. It goes on at `jmp $`, with all signals blocked.
    let mut frame = [0u8; 512];
    let mut put = |at: usize, value: u64| frame[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(40 + 120, STACK + PAGE / 2);
    put(40 + 128, CODE + 64);
    put(40 + 136, 0x202);
    put(40 + 144, 0x33 | 0x2b << 48);
    put(40 + 256, u64::MAX);
    g.memory().write(g.code.offset + PAGE, &frame);
    g.memory().write(g.code.offset + 64, &[0xeb, 0xfe]);
    (g.regs.rip, g.regs.rsp, g.regs.rax) = (STUB_TEXT + place, STACK, 15);
    let kick = g.context.kicker();
    let watch = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        kick.kick();
    });
    let error = g.context.switch(&g.space, &mut g.regs).unwrap_err();
    assert!(error.to_string().contains("has died"), "{error}");
    watch.join().unwrap();
}

#[test]
fn who_lies_about_time_is_charged_what_the_host_says() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let window = p.window().unwrap();
    let page = g.page(0);
    let own = ThreadPage { addr: window.thread_page(0), offset: page.offset };
    g.space.map(own.addr, page, RW).unwrap();
    g.context.set_thread_page(Some(own));
    // It uses the processor until the sentry sleeps, makes a request without its own code, and never says when.
    let [a, b, c, d] = (own.addr as u32).to_le_bytes();
    let code = [
        0xb9, 0, 0, 0, 0x08, // mov ecx, 1 << 27
        0xff, 0xc9, 0x75, 0xfc, // dec ecx; jnz
        0xc7, 0x04, 0x25, a, b, c, d, 2, 0, 0, 0, // mov dword [page], REQUEST
        0x83, 0x3c, 0x25, a, b, c, d, 2, 0x74, 0xf6, // cmp dword [page], REQUEST; je
        0xeb, 0xe0, // jmp to the start
    ];
    g.memory().write(g.code.offset, &code);
    g.regs.rip = CODE;
    for _ in 0..2 {
        assert_eq!(g.go(), Trap::Syscall);
        g.regs.rip = CODE + 20;
    }
    let used = g.context.kicker().guest_cpu().unwrap().user_ns;
    assert!(used > 10_000_000, "charged {used} ns");
}
