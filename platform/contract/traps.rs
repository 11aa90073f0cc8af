//! Every way out of user code: system calls, exceptions, kicks; and what user code cannot do.

use std::time::{Duration, Instant};

use abi::regs::{USER_CS, USER_DS, USER32_CS, UserRegs};
use platform::{Context, FpState, Platform, Trap};

use super::guest::*;

#[test]
fn a_system_call_keeps_every_register() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    g.memory().write(g.code.offset, &[0x0f, 0x05, 0x0f, 0x05]);
    let before = UserRegs {
        r15: 15,
        r14: 14,
        r13: 13,
        r12: 12,
        rbp: 11,
        rbx: 10,
        r11: 9,
        r10: 8,
        r9: 7,
        r8: 6,
        rax: 39,
        rcx: 4,
        rdx: 3,
        rsi: 2,
        rdi: 1,
        rip: CODE,
        rflags: 0x202 | 0xcd5,
        rsp: 0x1234_5678,
        fs_base: 0x7fff_0000_1000,
        gs_base: 0x10,
        ..UserRegs::new_user64()
    };
    g.regs = before;
    assert_eq!(g.go(), Trap::Syscall);
    let after = UserRegs { rip: CODE + 2, rcx: CODE + 2, r11: before.rflags, ..before };
    assert_eq!(g.regs, after);
    g.regs.fs_base = 0x2000;
    g.regs.rax = 1;
    assert_eq!(g.go(), Trap::Syscall);
    assert_eq!((g.regs.fs_base, g.regs.rax, g.regs.rip), (0x2000, 1, CODE + 4));
}

#[test]
fn a_single_step_traps_behind_the_instruction() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    g.memory().write(g.code.offset, &[0x90, 0x90, 0x0f, 0x05, 0x90, 0x90]);
    g.regs.rip = CODE;
    g.regs.rflags = 0x302;
    assert_eq!(g.go(), exception(1, 0));
    assert_eq!((g.regs.rip, g.regs.rflags & 0x100), (CODE + 1, 0x100));
    assert_eq!(g.go(), exception(1, 0));
    assert_eq!(g.regs.rip, CODE + 2);
    assert_eq!(g.go(), Trap::Syscall);
    assert_eq!((g.regs.rip, g.regs.rflags & 0x100), (CODE + 4, 0x100));
    assert_eq!(g.go(), exception(1, 0));
    g.regs.rflags &= !0x100;
    // "mov ss; syscall" under TF: on processors the step is delayed into ring 0.
    g.regs.rax = USER_DS;
    g.memory().write(g.code.offset, &[0x8e, 0xd0, 0x0f, 0x05]);
    g.regs.rip = CODE;
    g.regs.rflags = 0x302;
    g.regs.rsp = STACK + 0x100;
    let trap = loop {
        match g.go() {
            Trap::Exception { vector: 1, .. } => {}
            trap => break trap,
        }
    };
    assert_eq!((trap, g.regs.rip, g.regs.rsp), (Trap::Syscall, CODE + 4, STACK + 0x100));
}

#[test]
fn code_of_32_bits_runs_and_returns() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    // In 32-bit mode 48 is "dec eax"; in 64-bit mode a prefix: 48 ff c0 48 0f 0b.
    g.memory().write(g.code.offset, &[0x48, 0x40, 0x0f, 0x0b]);
    g.regs =
        UserRegs { rip: CODE, cs: USER32_CS, ds: USER_DS, es: USER_DS, rax: 5, rsp: STACK + 64, ..g.regs };
    assert_eq!(g.go(), exception(6, 0));
    assert_eq!((g.regs.rip, g.regs.rax as u32, g.regs.cs), (CODE + 2, 5, USER32_CS));
    g.memory().write(g.code.offset, &[0xcd, 0x80]);
    g.regs.rip = CODE;
    assert_eq!(g.go(), Trap::Syscall32);
    // jmp 0x33:CODE+16 (ljmp); then in 64-bit mode: syscall
    g.memory().write(g.code.offset, &[0xea, 0x10, 0, 0x40, 0, 0x33, 0]);
    g.memory().write(g.code.offset + 16, &[0x0f, 0x05]);
    g.regs.rip = CODE;
    assert_eq!((g.go(), g.regs.cs), (Trap::Syscall, USER_CS));
}

#[test]
fn fs_and_gs_bases_can_be_written_by_user_code() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    g.regs.rax = 0x7fff_1234_5000;
    // wrfsbase rax; wrgsbase rax; syscall
    assert_eq!(
        g.run(&[0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xd8, 0x0f, 0x05]),
        Trap::Syscall
    );
    assert_eq!((g.regs.fs_base, g.regs.gs_base), (0x7fff_1234_5000, 0x7fff_1234_5000));
}

/// `vpcmpeqd ymm0, ymm0, ymm0; syscall`, then `vmovdqu [rdi], ymm0; syscall`.
const YMM: [u8; 16] =
    [0xc5, 0xfd, 0x76, 0xc0, 0x0f, 0x05, 0xc5, 0xfe, 0x7f, 0x07, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90];

#[test]
fn floating_point_state_stays_with_its_context() {
    let Some(p) = platform() else { return };
    if p.xsave_layout().features & 4 == 0 {
        eprintln!("skipped: no AVX");
        return;
    }
    let mut a = Guest::new(&p);
    let page = a.page(0);
    let addr = 0x1000_0000;
    a.space.map(addr, page, RW).unwrap();
    a.regs.rdi = addr;
    let initial = a.context.fp_state().unwrap();
    assert_eq!(a.run(&YMM), Trap::Syscall);
    let set = a.context.fp_state().unwrap();
    assert_ne!(initial, set);
    // Parked, its vCPU goes to others sooner or later; the state comes back either way.
    a.context.park().unwrap();
    let mut others: Vec<Guest> = (0..20).map(|_| a.thread()).collect();
    for other in &mut others {
        other.regs.rip = CODE + 6;
        assert_eq!(other.go(), Trap::Syscall);
        let mut bytes = [1; 32];
        other.memory().read(page.offset, &mut bytes);
        assert_eq!(bytes, [0; 32], "a new context starts with the initial state");
        other.context.park().unwrap();
    }
    assert_eq!(a.context.fp_state().unwrap(), set);
    assert_eq!(a.go(), Trap::Syscall);
    let mut bytes = [0; 32];
    a.memory().read(page.offset, &mut bytes);
    assert_eq!(bytes, [0xff; 32]);
    // To another context, as fork does it; and hostile bytes, as a signal frame may hold them.
    others[0].context.set_fp_state(&set).unwrap();
    a.memory().write(page.offset, &[0; 32]);
    others[0].regs.rip = CODE + 6;
    assert_eq!(others[0].go(), Trap::Syscall);
    a.memory().read(page.offset, &mut bytes);
    assert_eq!(bytes, [0xff; 32]);
    for other in &mut others[..2] {
        other.context.set_fp_state(&FpState(vec![0xff; 5000])).unwrap();
        other.regs.rip = CODE + 6;
        assert_eq!(other.go(), Trap::Syscall);
    }
    drop(others);
    // vCPUs that come back are clean.
    let mut fresh = a.thread();
    fresh.regs.rip = CODE + 6;
    assert_eq!(fresh.go(), Trap::Syscall);
    a.memory().read(page.offset, &mut bytes);
    assert_eq!(bytes, [0; 32]);
}

#[test]
fn avx512_works_where_the_processor_has_it() {
    let Some(p) = platform() else { return };
    if p.xsave_layout().features & 0xe0 == 0 {
        eprintln!("skipped: no AVX-512");
        return;
    }
    let mut g = Guest::new(&p);
    assert_eq!(g.run(&[0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0, 0x0f, 0x05]), Trap::Syscall); // vpxord zmm0
    assert!(p.xsave_layout().size >= 2688);
}

#[allow(unsafe_code, reason = "RDTSC has no safe wrapper")]
pub(super) fn host_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter and is never trapped for user code on Linux unless it asked for that.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[test]
fn a_kick_interrupts_a_running_guest_and_one_before_the_entry_counts() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let kick = g.context.kicker();
    kick.kick();
    kick.kick();
    g.regs.rip = CODE;
    assert_eq!(g.go(), Trap::Interrupted);
    assert_eq!(g.run(&[0x0f, 0x05]), Trap::Syscall, "the kicks counted as one");
    let started = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        kick.kick();
    });
    assert_eq!(g.run(&[0xeb, 0xfe]), Trap::Interrupted); // jmp $
    assert_eq!(g.regs.rip, CODE);
    assert!(started.elapsed() >= Duration::from_millis(40));
    thread.join().unwrap();
}

#[test]
fn no_kick_is_lost_while_system_calls_and_faults_go_on() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let (sent, seen) = (std::sync::atomic::AtomicU32::new(0), std::sync::atomic::AtomicU32::new(0));
    let kick = g.context.kicker();
    use std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..1000u64 {
                // At every point of a stay: it takes some tens of microseconds.
                let until = Instant::now() + Duration::from_micros(i * 7 % 150);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                sent.fetch_add(1, SeqCst);
                kick.kick();
                // Each kick waits for its report: a lost one hangs here, and the guest's loop gives up.
                let started = Instant::now();
                while seen.load(SeqCst) < sent.load(SeqCst) {
                    if started.elapsed() > Duration::from_secs(20) {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        });
        let mut last = Instant::now();
        while seen.load(SeqCst) < 1000 {
            let n = seen.load(SeqCst);
            let trap = match n % 3 {
                0 => g.run(&[0x0f, 0x05]),
                1 => g.load(0x6000_0000),
                _ => g.run(&[0x0f, 0x0b]),
            };
            match trap {
                Trap::Interrupted => {
                    seen.fetch_add(1, SeqCst);
                    last = Instant::now();
                }
                Trap::Syscall => assert_eq!(n % 3, 0),
                Trap::Fault { addr, .. } => assert_eq!((n % 3, addr), (1, 0x6000_0000)),
                Trap::Exception { vector, .. } => assert_eq!((n % 3, vector), (2, 6)),
                trap => panic!("{trap:?}"),
            }
            assert!(last.elapsed() < Duration::from_secs(15), "a kick was lost");
        }
    });
}

fn _context_is_send(c: Box<dyn Context>) -> impl Send {
    c
}

/// The exceptions that are alike everywhere.
pub(crate) fn check_exceptions(g: &mut Guest) {
    assert_eq!(g.run(&[0x31, 0xc9, 0xf7, 0xf1]), exception(0, 0)); // xor ecx,ecx; div ecx
    assert_eq!(g.regs.rip, CODE + 2);
    assert_eq!(g.run(&[0xcc]), exception(3, 0));
    assert_eq!(g.regs.rip, CODE + 1);
    assert_eq!(g.run(&[0x0f, 0x0b]), exception(6, 0)); // ud2
    assert_eq!(g.regs.rip, CODE);
    assert_eq!(g.run(&[0xf4]), exception(13, 0)); // hlt
    assert_eq!(g.run(&[0xfa]), exception(13, 0)); // cli
    assert_eq!(g.run(&[0xe6, 0x41]), exception(13, 0)); // out
    assert_eq!(g.run(&[0x0f, 0x22, 0xd8]), exception(13, 0)); // mov cr3, rax
    assert_eq!(g.run(&[0x0f, 0x30]), exception(13, 0)); // wrmsr
    assert_eq!(g.run(&[0x0f, 0x01, 0xf8]), exception(13, 0)); // swapgs
    assert!(matches!(g.run(&[0xcd, 0x20]), Trap::Exception { vector: 13 | 6, .. })); // int 0x20
    assert_eq!(g.run(&[0xcd, 0x80, 0x90]), Trap::Syscall32);
    assert_eq!(g.regs.rip, CODE + 2);
    // mov rax, 1<<63; mov al, [rax]: not canonical
    assert_eq!(g.run(&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8a, 0x00]), exception(13, 0));
    // Unaligned movaps: #GP.
    assert_eq!(g.run(&[0x0f, 0x28, 0x44, 0x24, 0x01]), exception(13, 0));
}

/// Divides by zero in SSE with the exception unmasked, then makes a system call: `push 0x1d80; ldmxcsr [rsp]; xorps, divps`.
pub(crate) const DIVIDE_BY_ZERO: [u8; 24] = [
    0x68, 0x80, 0x1d, 0, 0, 0x0f, 0xae, 0x14, 0x24, 0x0f, 0x57, 0xc9, 0x66, 0x0f, 0x76, 0xc0, 0x0f, 0x5b,
    0xc0, 0x0f, 0x5e, 0xc1, 0x0f, 0x05,
];

/// Instruction pointers beyond the user's half, and a register set as a hostile signal frame may hold it.
pub(crate) fn check_hostile_registers(g: &mut Guest) {
    g.regs.rip = 0x8000_0000_0000_0000;
    assert_eq!(g.go(), exception(13, 0));
    g.regs.rip = 0x0000_8000_0000_0000;
    assert_eq!(g.go(), exception(13, 0));
    // Hostile register sets: as a guest's signal frame may hold them.
    g.memory().write(g.code.offset, &[0x0f, 0x05]);
    g.regs = UserRegs {
        rip: CODE,
        cs: 0x10,
        ss: 0x18,
        ds: 0x18,
        es: !0,
        fs: 0x40,
        gs: 8,
        rflags: !0,
        rsp: !0,
        fs_base: 1 << 63,
        gs_base: 1 << 47,
        ..UserRegs::default()
    };
    let trap = g.go();
    assert!(matches!(trap, Trap::Syscall | Trap::Exception { vector: 1, .. }), "{trap:?}");
    assert_eq!((g.regs.cs, g.regs.ss, g.regs.fs_base, g.regs.gs_base), (USER_CS, USER_DS, 0, 0));
    assert_eq!(g.regs.rflags & 0x3000, 0, "IOPL");
}
