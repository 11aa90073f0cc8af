//! Keys of the auxiliary vector (`linux/auxvec.h`, `asm/auxvec.h`, getauxval(3)).

/// End of the vector.
pub const AT_NULL: u64 = 0;
/// Address of the program headers.
pub const AT_PHDR: u64 = 3;
/// Size of a program header.
pub const AT_PHENT: u64 = 4;
/// Number of program headers.
pub const AT_PHNUM: u64 = 5;
/// Page size.
pub const AT_PAGESZ: u64 = 6;
/// Load bias of the interpreter, 0 without one.
pub const AT_BASE: u64 = 7;
/// Flags; 0.
pub const AT_FLAGS: u64 = 8;
/// Entry point of the program, not of its interpreter.
pub const AT_ENTRY: u64 = 9;
/// Real user ID.
pub const AT_UID: u64 = 11;
/// Effective user ID.
pub const AT_EUID: u64 = 12;
/// Real group ID.
pub const AT_GID: u64 = 13;
/// Effective group ID.
pub const AT_EGID: u64 = 14;
/// Address of the platform string.
pub const AT_PLATFORM: u64 = 15;
/// Processor features: EDX of CPUID leaf 1.
pub const AT_HWCAP: u64 = 16;
/// Clock ticks per second of times(2).
pub const AT_CLKTCK: u64 = 17;
/// Whether the program gained privileges.
pub const AT_SECURE: u64 = 23;
/// Address of 16 random bytes.
pub const AT_RANDOM: u64 = 25;
/// Processor features that the kernel enabled.
pub const AT_HWCAP2: u64 = 26;
/// Bytes of `struct rseq` that the kernel fills.
pub const AT_RSEQ_FEATURE_SIZE: u64 = 27;
/// Alignment of `struct rseq`.
pub const AT_RSEQ_ALIGN: u64 = 28;
/// Address of the path that execve(2) was given.
pub const AT_EXECFN: u64 = 31;
/// Address of the vDSO's ELF header.
pub const AT_SYSINFO_EHDR: u64 = 33;
/// Smallest signal stack that holds a signal frame.
pub const AT_MINSIGSTKSZ: u64 = 51;

/// `AT_HWCAP2`: MONITOR and MWAIT work in user mode.
pub const HWCAP2_RING3MWAIT: u64 = 1;
/// `AT_HWCAP2`: RDFSBASE and its kin work in user mode.
pub const HWCAP2_FSGSBASE: u64 = 2;
