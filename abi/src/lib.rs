//! The Linux ABI as plain data: error numbers, registers, syscall numbers, flags and struct layouts. No behaviour.
//!
//! One module per subject, named after the Linux header or man page it mirrors.

pub mod addr;
pub mod auxv;
pub mod elf;
pub mod errno;
pub mod io_uring;
pub mod mman;
pub mod regs;
pub mod signal;
pub mod socket;

pub use addr::UserAddr;
pub use errno::Errno;
