//! Every way out of user code: system calls, exceptions, kicks; and what user code cannot do.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/traps.rs"]
mod contract;

use base::memmap::Access;
use contract::{DIVIDE_BY_ZERO, check_exceptions, check_hostile_registers, host_tsc};
use guest::*;
use platform::{Platform, Trap, XsaveLayout};
use ringfence_platform_kvm::Entry;

#[test]
fn exceptions_arrive_with_vector_code_and_address() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    check_exceptions(&mut g);
    assert!(matches!(g.run(&[0x0f, 0x34]), Trap::Exception { vector: 13 | 6, .. })); // sysenter
    // QEMU's emulation of SSE raises no exceptions: there the system call behind is reached.
    let trap = g.run(&DIVIDE_BY_ZERO);
    assert!(trap == exception(19, 0) || (p.entry() == Entry::Stub && trap == Trap::Syscall), "{trap:?}");
}

#[test]
fn the_kernel_half_is_out_of_reach() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let base = 0xffff_ffff_8000_0000u64;
    // PDPT, GDT, IDT, stubs, a vCPU's page, an unmapped page, vsyscall.
    for page in [
        base + 0x1000,
        base + 0x1_0000,
        base + 0x1_1000,
        base + 0x1_2000,
        base + 0x4_0000,
        base + 0xff_f000,
        0xffff_ffff_ff60_0000,
        0xffff_8000_0000_0000,
    ] {
        assert_eq!(g.load(page), fault(page, Access::READ));
        assert_eq!(g.store(page, 1), fault(page, Access::WRITE));
        assert_eq!(g.call(page), fault(page, Access::EXEC));
    }
    // SYSCALL's targets: no way to harm, and no way to end the sandbox.
    for page in [base + 0x1_3000, base + 0x1_4000] {
        assert!(matches!(g.load(page), Trap::Fault { .. }));
        assert!(matches!(g.store(page, 1), Trap::Fault { .. }));
        g.regs.rcx = 0x1234;
        assert!(matches!(g.call(page), Trap::Fault { .. } | Trap::Syscall));
        assert!(matches!(g.call(page + 5), Trap::Fault { .. }));
        assert!(matches!(g.call(page + 16), Trap::Fault { .. }));
    }
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
    let xcr0 = g.regs.rsi;
    assert_eq!(g.run(&cpuid), Trap::Syscall);
    let of = |register: u64| register & 0xffff_ffff;
    assert!(of(g.regs.rbx) >= size as u64);
    // The nested software KVM lets XGETBV and CPUID through to the host, which names more.
    if p.entry() == Entry::Stub {
        assert_eq!((xcr0, of(g.regs.rax)), (features, features));
        assert_eq!((of(g.regs.rbx), of(g.regs.rsi)), (size as u64, size as u64));
    }
}

#[test]
fn the_time_stamp_counter_is_the_hosts() {
    let Some(p) = platform() else { return };
    let Some(offset) = p.tsc_offset() else {
        eprintln!("skipped: KVM cannot set the TSC offset");
        return;
    };
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

#[test]
fn the_probe_names_the_kind_of_kvm() {
    let Some(p) = platform() else { return };
    let nested = std::path::Path::new("/sys/module/kvm_pvm").exists();
    assert_eq!(p.entry() != Entry::Stub, nested, "{:?}", p.entry());
    let counters = p.counters();
    assert!(counters.iter().any(|(name, _)| *name == "exits"));
}
