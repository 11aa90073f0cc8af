//! The stub: all code that runs in a guest process and is not the guest's.
//!
//! It is assembled here, copied once into a file of its own, and mapped at [`STUB_TEXT`] in every stub. It has no stack
//! that it trusts and calls nothing: its state is in registers, since user code of other threads can write all memory
//! but this page and the command page.
//!
//! - `mm`: the first thread of each stub, which never runs user code. It sleeps on the command page, makes the calls
//!   listed there, and reports by pwrite(2), since no memory that it can store to is out of the guest's reach.
//! - `thread`: the start of a guest thread: signal stack, signal mask, filter; then it traps for the first time.
//! - `handler`: the handler of all signals: hands over to the sentry, waits, and returns to user code.
//! - `ring`, `rest`: what the window's code needs to sleep until its request is answered ([`platform::window::Sleep`]).
//! - `lend`: lets `mm` run on the guest thread's processor ([`crate::lend`]).
#![expect(unsafe_code, reason = "holds assembly and reads its bytes")]

use std::arch::global_asm;

use libc::sock_filter;
use platform::window::{Sleep, thread as page};

use crate::filter;
use crate::layout::{AREA_LEN, AREAS, CONTROL_FD, STUB_MM, STUB_TEXT, STUB_TEXT_LEN, area, mm};
use crate::spin::WAKE_TICKS;
use crate::sys;

/// Whose turn it is in an area: [`area::TURN`].
pub(crate) mod turn {
    /// The thread has ended: the host stores it ([`libc::CLONE_CHILD_CLEARTID`]).
    pub(crate) const DEAD: u32 = 0;
    /// User code runs.
    pub(crate) const GUEST: u32 = 1;
    /// The sentry has the registers.
    pub(crate) const SENTRY: u32 = 2;
    /// The thread is to end.
    pub(crate) const EXIT: u32 = 3;
    /// User code runs, and its mailbox has a request, for a sentry that slept.
    pub(crate) const RUNG: u32 = 4;
    /// The sentry has the registers, and the thread is to lend its processor.
    pub(crate) const LEND: u32 = 5;
}

/// What a command makes, in its last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// Nothing but a call.
    Call = 0,
    /// A guest thread.
    Thread = 1,
    /// A stub of its own.
    Process = 2,
}

/// The signal that kicks a guest thread: a standard one, of which at most one waits.
pub(crate) const KICK: i32 = libc::SIGUSR1;
/// The signals that a guest thread takes.
pub(crate) const SIGNALS: [i32; 7] =
    [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, KICK];

global_asm!(
    r#"
    .pushsection .text.ringfence_stub, "ax", @progbits
    .balign 64
    .globl ringfence_stub_start, ringfence_stub_handler, ringfence_stub_end
    .hidden ringfence_stub_start, ringfence_stub_handler, ringfence_stub_end
    .globl ringfence_stub_ring, ringfence_stub_rest, ringfence_stub_lend, ringfence_stub_rested
    .hidden ringfence_stub_ring, ringfence_stub_rest, ringfence_stub_lend, ringfence_stub_rested

    # The thread that changes mappings. r12: command page; r13d: the last batch.
ringfence_stub_start:
    movabs r12, {MM}
    xor r13d, r13d
20: # Wait for a batch.
    mov eax, [r12 + {SEQ}]
    cmp eax, r13d
    jne 23f
    mov eax, {FUTEX}
    lea rdi, [r12 + {SEQ}]
    xor esi, esi
    mov edx, r13d
    xor r10d, r10d
    syscall
    jmp 20b
23: mov r13d, eax
    mov r14d, [r12 + {COUNT}]
    mov rbp, [r12 + {NEW_PAGE}]
    lea rbx, [r12 + {COMMANDS}]
24: # One command.
    test r14d, r14d
    jz 28f
    mov r15, [rbx + 56]
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    syscall
    test r15d, r15d
    jz 25f
    test rax, rax
    jz 40f
25: cmp rax, -4095
    jae 26f
    add rbx, 64
    dec r14d
    jmp 24b
26: # It failed: a mark at the place of the error number.
    neg rax
    movzx eax, al
    mov r10, [r12 + {REPORT_AT}]
    lea r10, [r10 + rax + ({FAILED} - {REPORT})]
    mov eax, {PWRITE}
    mov edi, {CONTROL_FD}
    lea rsi, [r12 + {ONE}]
    mov edx, 1
    syscall
28: # All done.
    mov eax, {PWRITE}
    mov edi, {CONTROL_FD}
    lea rsi, [r12 + {SEQ}]
    mov edx, 4
    mov r10, [r12 + {REPORT_AT}]
    syscall
    # Both the sentry and a lender may sleep.
    mov eax, {FUTEX}
    lea rdi, [r12 + {REPORT}]
    mov esi, 1
    mov edx, 0x7fffffff
    syscall
    jmp 20b

40: # A child. r15d says of which kind, rbp has a new process's command page.
    cmp r15d, {THREAD}
    je 50f
    mov eax, {PRCTL}
    mov edi, 1
    mov esi, 9
    syscall
    mov eax, {GETPPID}
    syscall
    cmp eax, [rip + ringfence_stub_parent]
    jne 49f
    mov eax, {MMAP}
    mov rdi, r12
    mov esi, 4096
    mov edx, 1
    mov r10d, 0x11
    mov r8d, {CONTROL_FD}
    mov r9, rbp
    syscall
    cmp rax, r12
    jne 49f
    # The template's area, which has this process's ID, is not the guest's business.
    mov eax, {MUNMAP}
    movabs rdi, {AREAS}
    mov esi, {AREA_LEN}
    syscall
    test rax, rax
    jnz 49f
    xor r13d, r13d
    jmp 20b
49: mov eax, {EXIT_GROUP}
    mov edi, 1
    syscall
    ud2

50: # A guest thread: the stack pointer is the end of its area.
    lea rbx, [rsp - {AREA_LEN}]
    mov eax, {SIGALTSTACK}
    lea rdi, [rbx + {STACK}]
    xor esi, esi
    syscall
    test eax, eax
    jnz 52f
    mov eax, {SIGPROCMASK}
    mov edi, 2
    lea rsi, [rip + ringfence_stub_mask]
    xor edx, edx
    mov r10d, 8
    syscall
    test eax, eax
    jnz 52f
    mov eax, {PRCTL}
    mov edi, 59
    mov esi, 1
    movabs rdx, {TEXT}
    mov r10d, 4096
    xor r8d, r8d
    cmp dword ptr [rip + ringfence_stub_dispatch], 0
    je 51f
    syscall
51: mov eax, {SECCOMP}
    mov edi, 1
    xor esi, esi
    lea rdx, [rip + ringfence_stub_program]
    syscall
    test eax, eax
    jnz 52f
    mov eax, 4095
    syscall
52: mov eax, {EXIT}
    mov edi, 1
    syscall
    ud2

    # Every signal of a guest thread, on the signal stack in its area.
ringfence_stub_handler:
    mov rbx, rsp
    and rbx, -{AREA_LEN}
    mov [rbx + {SIGNAL}], edi
    mov [rbx + {FRAME}], rsp
    rdfsbase rax
    mov [rbx + {FS_BASE}], rax
    rdgsbase rax
    mov [rbx + {GS_BASE}], rax
    cmp dword ptr [rip + ringfence_stub_rdtscp], 0
    je 58f
    rdtscp
    inc ecx
    mov [rbx + {TRAP_CPU}], ecx
    jmp 59f
58: rdtsc
59: shl rdx, 32
    or rax, rdx
    mov r12, rax
    mov [rbx + {TRAP_TSC}], rax
    mov eax, {SENTRY}
    xchg [rbx + {TURN}], eax
    mov r13d, [rbx + {SPIN}]
    cmp dword ptr [rbx + {SENTRY_SLEEPS}], 0
    je 60f
    mov eax, {FUTEX}
    lea rdi, [rbx + {TURN}]
    mov esi, 1
    mov edx, 0x7fffffff
    syscall
    test r13d, r13d
    jz 63f
    add r13, {WAKE_TICKS}
60: # Wait awake, if the sentry has said for how long.
    test r13d, r13d
    jz 63f
    add r13, r12
61: pause
    cmp dword ptr [rbx + {TURN}], {SENTRY}
    jne 65f
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r13
    jb 61b
63: mov eax, 1
    xchg [rbx + {GUEST_SLEEPS}], eax
64: cmp dword ptr [rbx + {TURN}], {SENTRY}
    jne 65f
    mov eax, {FUTEX}
    lea rdi, [rbx + {TURN}]
    xor esi, esi
    mov edx, {SENTRY}
    xor r10d, r10d
    syscall
    jmp 64b
65: mov dword ptr [rbx + {GUEST_SLEEPS}], 0
    cmp dword ptr [rbx + {TURN}], {EXIT_TURN}
    je 52b
    cmp dword ptr [rbx + {TURN}], {LEND}
    je 69f
    mov rax, [rbx + {FS_BASE}]
    rdfsbase rcx
    cmp rax, rcx
    je 66f
    wrfsbase rax
66: mov rax, [rbx + {GS_BASE}]
    rdgsbase rcx
    cmp rax, rcx
    je 67f
    wrgsbase rax
67: rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rbx + {RESUME_TSC}], rax
    add rsp, 8
    mov eax, {SIGRETURN}
    syscall
    ud2
69: # Lend the processor, then wait for another while.
    rdtscp
    inc ecx
    mov [rbx + {LENT}], ecx
    mov r14, rbx
    lea rbx, [rip + 68f]
    jmp 73f
68: mov rbx, r14
    mov eax, {LEND}
    mov ecx, {SENTRY}
    lock cmpxchg [rbx + {TURN}], ecx
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    mov r13d, [rbx + {SPIN}]
    jmp 60b

    # In user code: GS leads to the thread's page, RBX to where it goes on.
ringfence_stub_ring:
    mov rdi, gs:[{PAGE_AREA}]
    cmp dword ptr [rip + ringfence_stub_rdtscp], 0
    je 78f
    rdtscp
    inc ecx
    mov [rdi + {TRAP_CPU}], ecx
    jmp 79f
78: rdtsc
79: shl rdx, 32
    or rax, rdx
    mov gs:[{PAGE_RANG}], rax
    mov eax, {RUNG}
    xchg [rdi + {TURN}], eax
    cmp dword ptr [rdi + {SENTRY_SLEEPS}], 0
    je 70f
    mov eax, {FUTEX}
    lea rdi, [rdi + {TURN}]
    mov esi, 1
    mov edx, 0x7fffffff
    syscall
70: jmp rbx
ringfence_stub_rest:
    mov eax, 1
    xchg gs:[{PAGE_SLEEPS}], eax
71: cmp dword ptr gs:[{PAGE_STATE}], {REQUEST}
    jne 72f
    mov eax, {FUTEX}
    rdgsbase rdi
    lea rdi, [rdi + {PAGE_STATE}]
    xor esi, esi
    mov edx, {REQUEST}
    xor r10d, r10d
    syscall
    jmp 71b
72: rdtsc
    shl rdx, 32
    or rax, rdx
    mov gs:[{PAGE_WOKE}], rax
    mov dword ptr gs:[{PAGE_SLEEPS}], 0
    jmp rbx
ringfence_stub_lend:
    rdtscp
    inc ecx
    mov rdi, gs:[{PAGE_AREA}]
    mov [rdi + {LENT}], ecx
73: mov eax, {FUTEX}
    movabs rdi, {MM} + {SEQ}
    mov esi, 1
    mov edx, 0x7fffffff
    syscall
74: movabs rdi, {MM}
    mov edx, [rdi + {REPORT}]
    cmp edx, [rdi + {SEQ}]
    je 75f
    mov eax, {FUTEX}
    lea rdi, [rdi + {REPORT}]
    xor esi, esi
    xor r10d, r10d
    syscall
    jmp 74b
75: jmp rbx
ringfence_stub_rested:
    .balign 8
    # Data that is filled in when the image is made: see `Image`.
ringfence_stub_mask:
    .quad 0
ringfence_stub_program:
    .quad 0
    .quad 0
ringfence_stub_parent:
    .long 0
ringfence_stub_dispatch:
    .long 0
ringfence_stub_rdtscp:
    .quad 0
ringfence_stub_end:
    .popsection
    "#,
    MM = const STUB_MM,
    TEXT = const STUB_TEXT,
    AREA_LEN = const AREA_LEN,
    CONTROL_FD = const CONTROL_FD,
    SEQ = const mm::SEQ,
    COUNT = const mm::COUNT,
    SPIN = const area::SPIN,
    REPORT_AT = const mm::REPORT_AT,
    NEW_PAGE = const mm::NEW_PAGE,
    ONE = const mm::ONE,
    REPORT = const mm::REPORT,
    FAILED = const mm::FAILED,
    COMMANDS = const mm::COMMANDS,
    TURN = const area::TURN,
    GUEST_SLEEPS = const area::GUEST_SLEEPS,
    SENTRY_SLEEPS = const area::SENTRY_SLEEPS,
    SIGNAL = const area::SIGNAL,
    FRAME = const area::FRAME,
    FS_BASE = const area::FS_BASE,
    GS_BASE = const area::GS_BASE,
    STACK = const area::STACK,
    TRAP_TSC = const area::TRAP_TSC,
    RESUME_TSC = const area::RESUME_TSC,
    WAKE_TICKS = const WAKE_TICKS,
    SENTRY = const turn::SENTRY,
    EXIT_TURN = const turn::EXIT,
    RUNG = const turn::RUNG,
    LEND = const turn::LEND,
    LENT = const area::LENT,
    TRAP_CPU = const area::TRAP_CPU,
    PAGE_AREA = const page::AREA,
    PAGE_SLEEPS = const page::SLEEPS,
    PAGE_RANG = const page::RANG,
    PAGE_WOKE = const page::WOKE,
    PAGE_STATE = const page::STATE,
    REQUEST = const page::REQUEST,
    THREAD = const Kind::Thread as u64,
    FUTEX = const libc::SYS_futex,
    PWRITE = const libc::SYS_pwrite64,
    PRCTL = const libc::SYS_prctl,
    GETPPID = const libc::SYS_getppid,
    MMAP = const libc::SYS_mmap,
    MUNMAP = const libc::SYS_munmap,
    AREAS = const AREAS,
    EXIT_GROUP = const libc::SYS_exit_group,
    EXIT = const libc::SYS_exit,
    SIGALTSTACK = const libc::SYS_sigaltstack,
    SIGPROCMASK = const libc::SYS_rt_sigprocmask,
    SECCOMP = const libc::SYS_seccomp,
    SIGRETURN = const libc::SYS_rt_sigreturn,
);

unsafe extern "C" {
    static ringfence_stub_start: u8;
    static ringfence_stub_handler: u8;
    static ringfence_stub_ring: u8;
    static ringfence_stub_rest: u8;
    static ringfence_stub_lend: u8;
    static ringfence_stub_rested: u8;
    static ringfence_stub_end: u8;
}

/// Bytes of the data at the end of the code.
const DATA_LEN: usize = 40;

/// Where a symbol of the code is in a stub.
fn in_stub(symbol: *const u8) -> u64 {
    STUB_TEXT + (symbol.addr() - (&raw const ringfence_stub_start).addr()) as u64
}

/// The routines in which user code waits for the sentry.
pub(crate) fn sleep() -> Sleep {
    Sleep {
        ring: in_stub(&raw const ringfence_stub_ring),
        rest: in_stub(&raw const ringfence_stub_rest),
        lend: in_stub(&raw const ringfence_stub_lend),
    }
}

/// Whether `rip` is in one of them.
pub(crate) fn is_in_sleep(rip: u64) -> bool {
    (sleep().ring..in_stub(&raw const ringfence_stub_rested)).contains(&rip)
}

/// The pages at [`STUB_TEXT`].
pub(crate) struct Image {
    bytes: Vec<u8>,
    handler: u64,
}

impl Image {
    /// Makes the image for stubs of the process `parent`; `dispatch`: system calls are caught by syscall user dispatch, and
    /// the filter catches what that lets through.
    pub(crate) fn new(parent: u32, dispatch: bool) -> Self {
        let (start, end) = (&raw const ringfence_stub_start, &raw const ringfence_stub_end);
        let code_len = end.addr() - start.addr();
        assert!(code_len <= 4096, "the stub's code has one page");
        // SAFETY: the symbols are the ends of the code above, which nobody changes.
        let code = unsafe { std::slice::from_raw_parts(start, code_len) };
        let handler = in_stub(&raw const ringfence_stub_handler);
        let mut bytes = vec![0xcc; STUB_TEXT_LEN as usize];
        bytes[..code_len].copy_from_slice(code);

        let program = filter::narrow();
        let mut at = 4096;
        let program_at = STUB_TEXT + at as u64;
        for sock_filter { code, jt, jf, k } in &program {
            bytes[at..at + 2].copy_from_slice(&code.to_le_bytes());
            bytes[at + 2] = *jt;
            bytes[at + 3] = *jf;
            bytes[at + 4..at + 8].copy_from_slice(&k.to_le_bytes());
            at += 8;
        }
        let taken = SIGNALS.iter().fold(0u64, |set, &signal| set | 1 << (signal - 1));
        let mut data = Vec::with_capacity(DATA_LEN);
        data.extend_from_slice(&(!taken).to_le_bytes());
        data.extend_from_slice(&(program.len() as u64).to_le_bytes());
        data.extend_from_slice(&program_at.to_le_bytes());
        data.extend_from_slice(&parent.to_le_bytes());
        data.extend_from_slice(&u32::from(dispatch).to_le_bytes());
        data.extend_from_slice(&u64::from(sys::has_rdtscp()).to_le_bytes());
        bytes[code_len - DATA_LEN..code_len].copy_from_slice(&data);
        Self { bytes, handler }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The address of the signal handler in a stub.
    pub(crate) fn handler(&self) -> u64 {
        self.handler
    }
}
