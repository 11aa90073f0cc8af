//! What execve(2) needs to know before anything is mapped: bytes in, a plan out. No I/O, no unsafe code, and no trust in
//! the bytes.
//!
//! Reading order: [`script`] and [`elf`] tell what a file is, [`layout`] says where things go, [`elf::Image::place`] which
//! pieces to map, [`stack`] what the new stack holds; [`vdso`] is the shared object that every process gets.
//!
//! The way of Linux's `load_elf_binary`: [`elf::parse`] and [`elf::parse_interpreter`] give the errors that execve(2)
//! returns. What fails after them ([`elf::Image::place`], the mapping itself) comes after Linux's point of no return and
//! ends the process by `SIGSEGV`.

pub mod elf;
pub mod layout;
pub mod script;
pub mod stack;
pub mod vdso;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// The first address behind a 64-bit process: `TASK_SIZE` with four-level page tables.
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// Longest path, with its NUL.
pub const PATH_MAX: usize = 4096;

const fn page_down(n: u64) -> u64 {
    n & !(PAGE_SIZE - 1)
}

const fn page_offset(n: u64) -> u64 {
    n & (PAGE_SIZE - 1)
}

/// Rounds up to a page; wraps, as Linux's `ELF_PAGEALIGN` does.
const fn page_up_wrapping(n: u64) -> u64 {
    page_down(n.wrapping_add(PAGE_SIZE - 1))
}
