//! Every way out of user code: system calls, exceptions, kicks; and what user code cannot do.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/traps.rs"]
mod contract;

use abi::regs::{USER_CS, USER32_CS};
use base::memmap::Access;
use contract::{DIVIDE_BY_ZERO, check_exceptions, check_hostile_registers, host_tsc};
use guest::*;
use platform::{Platform, Trap, XsaveLayout};

#[test]
fn exceptions_arrive_with_vector_code_and_address() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    check_exceptions(&mut g);
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
    assert_eq!(g.run(&DIVIDE_BY_ZERO), exception(19, 0));
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
    check_hostile_registers(&mut g);
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
