//! Where things lie: the stub's pages at the top of every guest address space, and the control file behind them.
//!
//! ```text
//! WINDOW         where patched call sites lead, among the guest's own addresses
//! STUB_TEXT      the stub's code and its filters: the same two pages in every stub, read and execute
//! STUB_MM        commands for the thread that changes mappings: one page of the control file, read only
//! AREAS          an area for each guest thread: a page of data, then its signal stack; read and write
//! STUB_END       the end of the addresses of 64-bit processes with four levels of page tables
//! ```
//!
//! The control file holds the command pages (from offset 0) and the areas (from [`AREAS_AT`]).

use base::PAGE_SIZE;

/// First address of the stub; guests may use what lies below.
pub const STUB_TEXT: u64 = 0x7fff_c000_0000;
/// Bytes of code and filters.
pub const STUB_TEXT_LEN: u64 = 2 * PAGE_SIZE;
/// The page with commands for the thread that changes mappings.
pub(crate) const STUB_MM: u64 = STUB_TEXT + 0x1_0000;
/// The area of the first guest thread; the next one's lies [`AREA_LEN`] above.
pub const AREAS: u64 = STUB_TEXT + 0x10_0000;
/// Bytes of an area, and its alignment.
pub const AREA_LEN: u64 = 4 * PAGE_SIZE;
/// Behind the last area.
pub(crate) const STUB_END: u64 = 0x7fff_ffff_f000;
/// Areas that fit.
pub(crate) const MAX_AREAS: u64 = (STUB_END - AREAS) / AREA_LEN;

/// Where patched call sites lead: the highest place in the lower 2 GiB, where their jumps reach, that is below what
/// sanitizers map at fixed addresses (0x7fff8000).
pub(crate) const WINDOW: std::ops::Range<u64> = 0x7e60_0000..0x7e60_0000 + platform::window::LEN;

/// The descriptors of a stub: the memory file and the control file.
pub(crate) const MEMORY_FD: u32 = 3;
pub(crate) const CONTROL_FD: u32 = 4;

/// Command pages in the control file, so address spaces at once.
pub(crate) const MAX_SPACES: u64 = 40_000;
/// Where the areas begin in the control file.
pub(crate) const AREAS_AT: u64 = 256 << 20;
/// Areas in the control file, so threads at once.
pub(crate) const MAX_THREADS: u64 = 45_000;
/// Bytes of the control file.
pub(crate) const CONTROL_LEN: u64 = 1 << 30;

const _: () = assert!(MAX_SPACES * PAGE_SIZE <= AREAS_AT);
const _: () = assert!(AREAS_AT + MAX_THREADS * AREA_LEN <= CONTROL_LEN);
const _: () = assert!(AREAS.is_multiple_of(AREA_LEN));

/// Fields of a command page. A guest cannot write them; what the stub reports it writes through the descriptor.
pub(crate) mod mm {
    /// Counts batches; the stub runs one when it changes.
    pub(crate) const SEQ: u64 = 0;
    /// Commands in the batch.
    pub(crate) const COUNT: u64 = 8;
    /// This page's offset in the control file, plus [`REPORT`].
    pub(crate) const REPORT_AT: u64 = 16;
    /// The command page of a process that the batch makes: its offset in the control file.
    pub(crate) const NEW_PAGE: u64 = 24;
    /// The byte 1, which the stub writes at `FAILED` plus the error number when a command fails.
    pub(crate) const ONE: u64 = 40;
    /// The `SEQ` of the last batch that is done.
    pub(crate) const REPORT: u64 = 64;
    /// Where the template's set-up failed, and with which error number.
    pub(crate) const SETUP_STEP: u64 = 72;
    pub(crate) const SETUP_ERRNO: u64 = 76;
    /// A byte for each error number.
    pub(crate) const FAILED: u64 = 128;
    /// Error numbers with a byte.
    pub(crate) const ERRNOS: u64 = 256;
    /// The commands: the number of the call, six arguments, and [`super::Kind`].
    pub(crate) const COMMANDS: u64 = 512;
    /// Bytes of a command.
    pub(crate) const COMMAND_LEN: u64 = 64;
    /// Commands that fit.
    pub(crate) const MAX_COMMANDS: usize = 56;
}

/// Fields of the data page of an area. A guest may write all of them.
pub mod area {
    /// Whose turn it is: see `Turn` in `thread.rs`.
    pub(crate) const TURN: u64 = 0;
    /// The guest thread sleeps on `TURN`.
    pub(crate) const GUEST_SLEEPS: u64 = 4;
    /// The sentry sleeps on `TURN`.
    pub(crate) const SENTRY_SLEEPS: u64 = 8;
    /// How long the guest thread waits awake for an answer, in ticks of the time stamp counter.
    pub(crate) const SPIN: u64 = 12;
    /// The signal that ended the guest's stay.
    pub(crate) const SIGNAL: u64 = 16;
    /// The thread's number on the host.
    pub(crate) const TID: u64 = 20;
    /// The stack pointer that the handler began with.
    pub(crate) const FRAME: u64 = 24;
    /// FS.base and GS.base.
    pub(crate) const FS_BASE: u64 = 32;
    pub(crate) const GS_BASE: u64 = 40;
    /// `stack_t` of the signal stack.
    pub(crate) const STACK: u64 = 48;
    /// The time stamp counter when the stay ended.
    pub(crate) const TRAP_TSC: u64 = 72;
    /// The time stamp counter when the stay began.
    pub(crate) const RESUME_TSC: u64 = 80;
    /// The processor that the thread lent last, plus 1, as `IA32_TSC_AUX` has it; 0: none yet.
    pub(crate) const LENT: u64 = 88;
    /// The processor of the last trap, or of the last request that woke the sentry, as in `LENT`.
    pub(crate) const TRAP_CPU: u64 = 92;
    /// The bits of `IA32_TSC_AUX` that are the processor's number on Linux (`VDSO_CPUNODE_BITS` in asm/segment.h).
    const PROCESSOR: u32 = 0xfff;

    /// The processor in `LENT` or `TRAP_CPU`, as the guest has it.
    pub(crate) fn processor(word: u32) -> Option<usize> {
        Some((word.checked_sub(1)? & PROCESSOR) as usize)
    }
}

/// Fields of the signal frame, from the stack pointer that the handler begins with (Linux
/// arch/x86/include/asm/sigframe.h, `struct rt_sigframe`).
pub(crate) mod frame {
    /// `uc_mcontext`: `struct sigcontext_64`.
    pub(crate) const CONTEXT: u64 = 48;
    pub(crate) const R8: u64 = CONTEXT;
    pub(crate) const R9: u64 = CONTEXT + 8;
    pub(crate) const R10: u64 = CONTEXT + 16;
    pub(crate) const R11: u64 = CONTEXT + 24;
    pub(crate) const R12: u64 = CONTEXT + 32;
    pub(crate) const R13: u64 = CONTEXT + 40;
    pub(crate) const R14: u64 = CONTEXT + 48;
    pub(crate) const R15: u64 = CONTEXT + 56;
    pub(crate) const RDI: u64 = CONTEXT + 64;
    pub(crate) const RSI: u64 = CONTEXT + 72;
    pub(crate) const RBP: u64 = CONTEXT + 80;
    pub(crate) const RBX: u64 = CONTEXT + 88;
    pub(crate) const RDX: u64 = CONTEXT + 96;
    pub(crate) const RAX: u64 = CONTEXT + 104;
    pub(crate) const RCX: u64 = CONTEXT + 112;
    pub(crate) const RSP: u64 = CONTEXT + 120;
    pub(crate) const RIP: u64 = CONTEXT + 128;
    pub(crate) const RFLAGS: u64 = CONTEXT + 136;
    /// CS, GS, FS, SS, 16 bits each.
    pub(crate) const SEGMENTS: u64 = CONTEXT + 144;
    pub(crate) const ERR: u64 = CONTEXT + 152;
    pub(crate) const TRAPNO: u64 = CONTEXT + 160;
    pub(crate) const CR2: u64 = CONTEXT + 176;
    pub(crate) const FPSTATE: u64 = CONTEXT + 184;
    /// `struct siginfo`.
    pub(crate) const INFO: u64 = CONTEXT + 256 + 8;
    /// `si_errno` and `si_code` are behind `si_signo`; of SIGSYS, `si_arch` is the last word.
    pub(crate) const INFO_ARCH: u64 = INFO + 28;
}
