//! The seccomp filters: what a stub may ask of the host.
//!
//! Both let calls through only from the stub's first page, and only in the 64-bit ABI; everything else is `RET_TRAP`. Every
//! address space's first thread, which never runs user code, has the wide filter. Each guest thread adds the narrow one
//! before it runs its first user instruction. User code can jump to the page's `syscall` instructions with registers of
//! its choice, so the narrow filter allows only what harms nobody else:
//!
//! - `futex` with `FUTEX_WAIT` or `FUTEX_WAKE`: a thread can put itself to sleep, as it could by spinning, or wake
//!   sleepers of words that it can read, who all look again before they go on.
//! - `rt_sigreturn`: loads registers, the signal mask and the signal stack of the thread itself. A thread that blocks our
//!   signals so is ended by the next system call, or by the watch over kicks.
//! - `exit`: ends the thread, which the sentry is told and ends the process.

use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, seccomp_data,
    sock_filter,
};

use crate::layout::{CONTROL_FD, MEMORY_FD, STUB_TEXT};

/// `AUDIT_ARCH_X86_64`.
const ARCH_X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`: the ABI of `int 0x80`.
pub(crate) const ARCH_I386: u32 = 0x4000_0003;

const PAGE_MASK: u32 = !0xfff;

/// `CLONE_*` of a new process: a child of the sentry, not of who makes it, that sends no signal at its end.
pub(crate) const CLONE_PROCESS: u64 =
    (libc::CLONE_PARENT | libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_PARENT_SETTID) as u64;
/// `CLONE_*` of a new guest thread.
pub(crate) const CLONE_THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
/// `MAP_*` of guest memory.
pub(crate) const MAP_GUEST: u64 = (libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE) as u64;
/// `PR_SET_SYSCALL_USER_DISPATCH`.
const SET_USER_DISPATCH: u64 = 59;

/// What an argument must be.
enum Want {
    Equal(u32, u64),
    /// No bits but these.
    Within(u32, u32),
}

/// A call that is let through when the arguments are as wanted.
struct Rule(libc::c_long, Vec<Want>);

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: usize) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset as u32)
}

/// Goes on when the accumulator passes the test, else skips `otherwise` instructions.
fn test(kind: u32, k: u32, otherwise: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | kind | BPF_K) as u16, jt: 0, jf: otherwise, k }
}

fn ret(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

fn argument(i: u32) -> usize {
    offset_of!(seccomp_data, args) + 8 * i as usize
}

/// The program: everything traps but calls of the 64-bit ABI from the stub's first page that a rule allows.
fn program(rules: &[Rule]) -> Vec<sock_filter> {
    let ip = offset_of!(seccomp_data, instruction_pointer);
    let mut p = vec![
        load(ip + 4),
        test(BPF_JEQ, (STUB_TEXT >> 32) as u32, 5),
        load(ip),
        statement(BPF_ALU | BPF_AND | BPF_K, PAGE_MASK),
        test(BPF_JEQ, STUB_TEXT as u32, 2),
        load(offset_of!(seccomp_data, arch)),
        test(BPF_JEQ, ARCH_X86_64, 0),
        ret(libc::SECCOMP_RET_TRAP),
    ];
    // The three tests above jump to the `ret` when they fail; the last one over it when it holds.
    p[6] = sock_filter { jt: 1, jf: 0, ..p[6] };
    p[4].jf = 2;
    p[1].jf = 5;
    p.push(load(offset_of!(seccomp_data, nr)));
    for Rule(number, wants) in rules {
        // How many instructions each want takes; a rule ends with its own return and with a fresh load of the number.
        let body: Vec<sock_filter> = wants
            .iter()
            .flat_map(|want| match *want {
                Want::Equal(i, value) => vec![
                    load(argument(i)),
                    test(BPF_JEQ, value as u32, 0),
                    load(argument(i) + 4),
                    test(BPF_JEQ, (value >> 32) as u32, 0),
                ],
                Want::Within(i, bits) => vec![
                    load(argument(i)),
                    sock_filter { jt: 0, jf: 1, ..test(BPF_JSET, !bits, 0) },
                    // A bit outside: this load of a number that no rule knows makes the rest fail.
                    ret(libc::SECCOMP_RET_TRAP),
                    load(argument(i) + 4),
                    test(BPF_JEQ, 0, 0),
                ],
            })
            .collect();
        let len = body.len() + 1;
        p.push(test(BPF_JEQ, *number as u32, len as u8));
        for (at, mut instruction) in body.into_iter().enumerate() {
            let is_equal = u32::from(instruction.code) == BPF_JMP | BPF_JEQ | BPF_K;
            if is_equal {
                // To the trap behind the rule's own return.
                instruction.jf = (len - at - 1) as u8;
            }
            p.push(instruction);
        }
        p.push(ret(libc::SECCOMP_RET_ALLOW));
        if !wants.is_empty() {
            // Where failed tests land; a number that differs skips this one too.
            let jump = p.len() - 1 - len;
            p[jump].jf += 1;
            p.push(ret(libc::SECCOMP_RET_TRAP));
        }
    }
    p.push(ret(libc::SECCOMP_RET_TRAP));
    p
}

fn futex() -> Rule {
    Rule(libc::SYS_futex, vec![Want::Within(1, libc::FUTEX_WAKE as u32)])
}

/// The filter of guest threads.
pub(crate) fn narrow() -> Vec<sock_filter> {
    program(&[Rule(libc::SYS_rt_sigreturn, vec![]), futex(), Rule(libc::SYS_exit, vec![])])
}

/// The filter of the threads that change mappings, and of guest threads before they add [`narrow`].
pub(crate) fn wide() -> Vec<sock_filter> {
    use Want::{Equal, Within};
    let protection = Within(2, (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u32);
    let areas = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let populate = libc::MAP_POPULATE as u64;
    program(&[
        Rule(libc::SYS_rt_sigreturn, vec![]),
        futex(),
        Rule(
            libc::SYS_mmap,
            vec![protection, Within(3, (MAP_GUEST | areas | populate) as u32), Within(4, 7)],
        ),
        Rule(libc::SYS_munmap, vec![]),
        Rule(libc::SYS_mprotect, vec![]),
        Rule(libc::SYS_pwrite64, vec![Equal(0, CONTROL_FD.into())]),
        Rule(libc::SYS_clone, vec![Within(0, (CLONE_PROCESS | CLONE_THREAD) as u32)]),
        Rule(libc::SYS_sigaltstack, vec![]),
        Rule(libc::SYS_rt_sigprocmask, vec![]),
        Rule(libc::SYS_prctl, vec![Within(0, (libc::PR_SET_PDEATHSIG as u32) | SET_USER_DISPATCH as u32)]),
        Rule(libc::SYS_getppid, vec![]),
        Rule(libc::SYS_seccomp, vec![Equal(0, libc::SECCOMP_SET_MODE_FILTER.into())]),
        Rule(libc::SYS_exit, vec![]),
        Rule(libc::SYS_exit_group, vec![]),
    ])
}

const _: () = assert!(MEMORY_FD < 8 && CONTROL_FD < 8);

#[cfg(test)]
mod tests;
