//! Every way out of user code: system calls, exceptions, kicks; and what user code cannot do.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/traps.rs"]
mod contract;

use abi::regs::{USER_CS, USER_DS, USER32_CS, UserRegs};
use base::memmap::Access;
use contract::host_tsc;
use guest::*;
use platform::{Platform, Trap, XsaveLayout};

#[test]
fn exceptions_arrive_with_vector_code_and_address() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
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
    // sysenter: as on Linux a call of the 32-bit ABI, with arguments on the stack, that returns to the vDSO's place: the
    // same one for all, not the sentry's. An exception where there is no such ABI.
    let trap = g.run(&[0x0f, 0x34]);
    match trap {
        Trap::Fault { addr, access: Access::EXEC } => assert_eq!((addr, g.regs.cs), (g.regs.rip, USER32_CS)),
        Trap::Exception { vector: 13 | 6, .. } => {}
        trap => panic!("{trap:?}"),
    }
    (g.regs.cs, g.regs.rbp) = (USER_CS, STACK);
    let again = g.run(&[0x0f, 0x34]);
    assert!(again == Trap::Syscall32 || matches!(trap, Trap::Exception { .. }), "{again:?}");
    g.regs.cs = USER_CS;
    // mov rax, 1<<63; mov al, [rax]: not canonical
    assert_eq!(g.run(&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8a, 0x00]), exception(13, 0));
    // Unaligned movaps: #GP; fninit; x87 and SSE division with the exception unmasked.
    assert_eq!(g.run(&[0x0f, 0x28, 0x44, 0x24, 0x01]), exception(13, 0));
    // push 0x1f00 (divide-by-zero unmasked: 0x1d80); ldmxcsr [rsp]; xorps, divps
    let simd = [
        0x68, 0x80, 0x1d, 0, 0, 0x0f, 0xae, 0x14, 0x24, 0x0f, 0x57, 0xc9, 0x66, 0x0f, 0x76, 0xc0, 0x0f, 0x5b,
        0xc0, 0x0f, 0x5e, 0xc1, 0x0f, 0x05,
    ];
    assert_eq!(g.run(&simd), exception(19, 0));
}

#[test]
fn the_kernel_half_is_out_of_reach() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let base = 0xffff_ffff_8000_0000u64;
    for page in [base + 0x1000, base + 0xff_f000, 0xffff_8000_0000_0000] {
        assert_eq!(g.load(page), fault(page, Access::READ));
        assert_eq!(g.store(page, 1), fault(page, Access::WRITE));
        assert_eq!(g.call(page), fault(page, Access::EXEC));
    }
    // The vsyscall page: the host emulates its calls, and they trap as others do.
    let vsyscall = 0xffff_ffff_ff60_0000;
    assert_eq!(g.load(vsyscall), fault(vsyscall, Access::READ));
    assert_eq!(g.store(vsyscall, 1), fault(vsyscall, Access::WRITE));
    (g.regs.rax, g.regs.rdi, g.regs.rsi) = (vsyscall, 0, 0);
    assert_eq!(g.run(&[0xff, 0xd0, 0x0f, 0x05]), Trap::Syscall); // call rax
    assert_eq!((g.regs.rax, g.regs.rip), (96, CODE + 2));
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

#[test]
fn xgetbv_cpuid_and_the_layout_agree() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    g.regs.rcx = 0;
    assert_eq!(g.run(&[0x0f, 0x01, 0xd0, 0x48, 0x89, 0xc6, 0x0f, 0x05]), Trap::Syscall); // xgetbv; mov rsi, rax
    let XsaveLayout { size, features } = p.xsave_layout();
    assert_eq!(g.regs.rsi & features, features);
    // mov eax, 13; xor ecx, ecx; cpuid; mov rsi, rcx; syscall
    let cpuid = [0xb8, 13, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x48, 0x89, 0xce, 0x0f, 0x05];
    assert_eq!(g.run(&cpuid), Trap::Syscall);
    let of = |register: u64| register & 0xffff_ffff;
    assert!(of(g.regs.rbx) >= size as u64);
}

#[test]
fn the_time_stamp_counter_is_the_hosts() {
    let Some(p) = platform() else { return };
    let offset = p.tsc_offset().unwrap();
    let mut g = Guest::new(&p);
    let host = || {
        // SAFETY-free: the guest's own RDTSC is bracketed by two of ours, through the same instruction.
        std::arch::x86_64::__cpuid(0);
        host_tsc()
    };
    let before = host();
    // rdtsc; shl rdx, 32; or rax, rdx; syscall
    assert_eq!(g.run(&[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x0f, 0x05]), Trap::Syscall);
    let after = host();
    let guest = g.regs.rax.wrapping_sub(offset as u64);
    assert!((before..=after).contains(&guest), "{before} {guest} {after}");
}
