//! Registers of a user-mode thread, in the order of Linux's `user_regs_struct` (`asm/user_64.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Code segment selector of 64-bit user code.
pub const USER_CS: u64 = 0x33;
/// Code segment selector of 32-bit user code.
pub const USER32_CS: u64 = 0x23;
/// Stack and data segment selector of user code.
pub const USER_DS: u64 = 0x2b;

/// RFLAGS bits that user code may set: CF PF AF ZF SF TF DF OF NT RF AC ID (Linux's `FIX_EFLAGS` and a little more).
pub const USER_SETTABLE_FLAGS: u64 = 1
    | (1 << 2)
    | (1 << 4)
    | (1 << 6)
    | (1 << 7)
    | (1 << 8)
    | (1 << 10)
    | (1 << 11)
    | (1 << 16)
    | (1 << 18)
    | (1 << 21);
/// RFLAGS that are always set in user mode: bit 1 and IF.
pub const USER_FIXED_FLAGS: u64 = 0x202;
/// RFLAGS trap flag.
pub const FLAG_TF: u64 = 1 << 8;

/// All integer registers of a user-mode thread; the layout is `struct user_regs_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the processor's registers")]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The syscall number while a system call is handled, else `u64::MAX`; not a register.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

impl UserRegs {
    /// The registers of a fresh 64-bit user thread: everything zero but the segments and RFLAGS.
    pub fn new_user64() -> Self {
        Self { cs: USER_CS, ss: USER_DS, rflags: USER_FIXED_FLAGS, orig_rax: u64::MAX, ..Self::default() }
    }
}
