use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP};

use super::*;

/// What `program` says to a call.
fn verdict(program: &[sock_filter], nr: i64, arch: u32, ip: u64, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend_from_slice(&(nr as u32).to_le_bytes());
    data.extend_from_slice(&arch.to_le_bytes());
    data.extend_from_slice(&ip.to_le_bytes());
    args.iter().for_each(|a| data.extend_from_slice(&a.to_le_bytes()));
    let (mut pc, mut acc) = (0, 0u32);
    loop {
        let i = program[pc];
        pc += 1;
        let code = u32::from(i.code);
        if code == BPF_LD | BPF_W | BPF_ABS {
            let at = i.k as usize;
            acc = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        } else if code == BPF_ALU | BPF_AND | BPF_K {
            acc &= i.k;
        } else if code == BPF_RET | BPF_K {
            return i.k;
        } else {
            let holds = if code == BPF_JMP | BPF_JEQ | BPF_K {
                acc == i.k
            } else {
                assert_eq!(code, BPF_JMP | BPF_JSET | BPF_K);
                acc & i.k != 0
            };
            pc += usize::from(if holds { i.jt } else { i.jf });
        }
    }
}

const IP: u64 = STUB_TEXT + 0x123;

#[test]
fn user_code_gets_nothing_but_what_harms_itself() {
    let narrow = narrow();
    for nr in (0..600).chain([-1, 4095, 0x4000_0000, 0x4000_000f]) {
        let args = [0, 0, 0, 0, 0, 0];
        let allowed = matches!(nr, libc::SYS_rt_sigreturn | libc::SYS_futex | libc::SYS_exit);
        let want = if allowed { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
        assert_eq!(verdict(&narrow, nr, ARCH_X86_64, IP, args), want, "{nr}");
        assert_eq!(verdict(&narrow, nr, ARCH_I386, IP, args), SECCOMP_RET_TRAP, "{nr}");
        for ip in [0x40_0000, STUB_TEXT - 1, STUB_TEXT + 4096, IP + (1 << 32), IP - (1 << 32), u64::MAX] {
            assert_eq!(verdict(&narrow, nr, ARCH_X86_64, ip, args), SECCOMP_RET_TRAP, "{nr} at {ip:#x}");
        }
    }
    let futex = |op| verdict(&narrow, libc::SYS_futex, ARCH_X86_64, IP, [0, op, 0, 0, 0, 0]);
    assert_eq!(futex(1), SECCOMP_RET_ALLOW);
    for op in [2, 3, 5, 9, 0x80, 1 << 32, 1 << 31] {
        assert_eq!(futex(op), SECCOMP_RET_TRAP, "{op:#x}");
    }
}

#[test]
fn the_thread_that_changes_mappings_gets_its_calls_only() {
    let wide = wide();
    let ask = |nr, args| verdict(&wide, nr, ARCH_X86_64, IP, args);
    let memory = MEMORY_FD.into();
    assert_eq!(ask(libc::SYS_mmap, [0x1000, 0x1000, 7, MAP_GUEST, memory, 0]), SECCOMP_RET_ALLOW);
    assert_eq!(ask(libc::SYS_mmap, [0x1000, 0x1000, 7, 0x22, memory, 0]), SECCOMP_RET_TRAP);
    assert_eq!(ask(libc::SYS_mmap, [0x1000, 0x1000, 8, MAP_GUEST, memory, 0]), SECCOMP_RET_TRAP);
    assert_eq!(ask(libc::SYS_clone, [CLONE_THREAD, 0, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
    assert_eq!(ask(libc::SYS_clone, [CLONE_PROCESS, 0, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
    assert_eq!(ask(libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), SECCOMP_RET_TRAP);
    assert_eq!(ask(libc::SYS_pwrite64, [CONTROL_FD.into(), 0, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
    assert_eq!(ask(libc::SYS_pwrite64, [memory, 0, 0, 0, 0, 0]), SECCOMP_RET_TRAP);
    for nr in
        [libc::SYS_open, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_read, libc::SYS_kill, libc::SYS_socket]
    {
        assert_eq!(ask(nr, [0; 6]), SECCOMP_RET_TRAP, "{nr}");
    }
}
