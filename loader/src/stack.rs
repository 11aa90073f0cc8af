//! The initial stack: strings, auxiliary vector, `argc`, `argv`, `envp`.
//!
//! From the top: eight zero bytes, the path given to execve(2), the environment strings, the argument strings, a random
//! gap, the platform string, 16 random bytes, padding, the auxiliary vector, `envp`, `argv`, `argc`.

use std::ops::Range;

use abi::Errno;
use abi::auxv::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_FLAGS, AT_GID, AT_HWCAP, AT_HWCAP2,
    AT_MINSIGSTKSZ, AT_NULL, AT_PAGESZ, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PLATFORM, AT_RANDOM, AT_RSEQ_ALIGN,
    AT_RSEQ_FEATURE_SIZE, AT_SECURE, AT_SYSINFO_EHDR, AT_UID,
};
use abi::errno::{E2BIG, EINVAL};

use crate::elf::PHDR_SIZE;
use crate::{PAGE_SIZE, page_down, page_up_wrapping};

/// Longest argument or environment string, with its NUL.
pub const MAX_ARG_STRLEN: usize = 128 * 1024;
/// What arguments and environment may always use.
const ARG_MAX: u64 = 128 * 1024;
/// What they may use at most: three quarters of Linux's default stack limit.
const ARG_LIMIT: u64 = 6 << 20;
/// How far Linux makes the stack larger than its strings at first.
const STACK_EXPAND: u64 = 128 * 1024;
/// Clock ticks per second of times(2).
const CLOCK_TICKS: u64 = 100;
/// The kernel's name of the processor.
const PLATFORM: &[u8] = b"x86_64\0";

/// Values for the auxiliary vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxInput {
    /// Address of the vDSO image; `None` leaves `AT_SYSINFO_EHDR` out.
    pub vdso: Option<u64>,
    /// Bytes that a signal frame needs: `AT_MINSIGSTKSZ`.
    pub min_signal_stack: u64,
    /// EDX of CPUID leaf 1.
    pub hwcap: u64,
    /// `HWCAP2_*`.
    pub hwcap2: u64,
    /// Address of the program headers: [`crate::elf::Placement::phdr`] of the program.
    pub phdr: u64,
    /// How many there are.
    pub phdr_count: u64,
    /// Bias of the interpreter; 0 without one.
    pub interp_base: u64,
    /// Entry point of the program itself.
    pub entry: u64,
    /// Real user ID.
    pub uid: u32,
    /// Effective user ID.
    pub euid: u32,
    /// Real group ID.
    pub gid: u32,
    /// Effective group ID.
    pub egid: u32,
    /// Whether the program gained privileges.
    pub secure: bool,
    /// Bytes that the kernel fills in `struct rseq` (28 in Linux 6.18) and its alignment (32); `None` without rseq(2).
    pub rseq: Option<(u32, u32)>,
}

/// Everything on a new stack, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackPlan {
    /// The bytes from `sp` to the top.
    pub bytes: Vec<u8>,
    /// The stack pointer at the entry point; a multiple of 16.
    pub sp: u64,
    /// Argument strings: `/proc/PID/cmdline`.
    pub args: Range<u64>,
    /// Environment strings: `/proc/PID/environ`.
    pub env: Range<u64>,
    /// The auxiliary vector with its `AT_NULL`: `/proc/PID/auxv`.
    pub auxv: Vec<(u64, u64)>,
    /// Where the strings end below: what Linux calls `start_stack` lies at `sp`.
    pub strings_start: u64,
}

/// What execve(2) puts on the stack.
#[derive(Clone, Copy, Debug)]
pub struct StackInput<'a> {
    /// Page-aligned end of the stack.
    pub top: u64,
    /// The soft `RLIMIT_STACK`; `u64::MAX` for none.
    pub stack_limit: u64,
    /// The path given to execve(2): `AT_EXECFN`.
    pub path: &'a [u8],
    /// Arguments; without any the program gets one empty argument.
    pub args: &'a [Vec<u8>],
    /// Environment strings.
    pub env: &'a [Vec<u8>],
    /// 16 random bytes for `AT_RANDOM`.
    pub random: [u8; 16],
    /// Bytes of a random gap below the strings; 0 without ASLR, else below 8192.
    pub gap: u64,
    /// The auxiliary vector.
    pub aux: AuxInput,
}

/// Checks the sizes of what execve(2) was given; for a call before the strings are all read, and the first thing that
/// [`StackPlan::new`] does.
///
/// # Errors
/// `E2BIG`: a string of more than `MAX_ARG_STRLEN` bytes with its NUL; strings and the pointers to them need more than a
/// quarter of the stack limit or 6 MiB (128 KiB are always allowed), or more than the whole limit.
///
/// Source: Linux 6.18 fs/exec.c, `bprm_stack_limits`, `copy_strings`.
pub fn check_sizes(path: &[u8], args: &[Vec<u8>], env: &[Vec<u8>], stack_limit: u64) -> Result<(), Errno> {
    let pointers = (args.len().max(1) as u64).saturating_add(env.len() as u64).saturating_mul(8);
    let limit = ARG_LIMIT.min(stack_limit / 4).max(ARG_MAX);
    let left = limit.checked_sub(pointers).filter(|&left| left != 0).ok_or(E2BIG)?;
    let mut used = 0u64;
    let empty = args.is_empty().then_some(&[][..]);
    let strings =
        [path].into_iter().chain(env.iter().map(Vec::as_slice)).chain(args.iter().map(Vec::as_slice));
    for string in strings.chain(empty) {
        if string.len() >= MAX_ARG_STRLEN {
            return Err(E2BIG);
        }
        used += string.len() as u64 + 1;
        if used > left {
            return Err(E2BIG);
        }
    }
    // The strings are written to a stack that grows within its limit; its first page is there already.
    let pages = page_up_wrapping(used + 8);
    if pages > stack_limit.max(PAGE_SIZE) { Err(E2BIG) } else { Ok(()) }
}

impl StackPlan {
    /// Lays out a new stack.
    ///
    /// # Errors
    /// - `E2BIG`: see [`check_sizes`].
    /// - `EINVAL`: `top` is too low for the contents, which a layout of ours never is.
    ///
    /// Source: Linux 6.18 fs/exec.c, `do_execveat_common`; fs/binfmt_elf.c, `create_elf_tables`.
    pub fn new(input: &StackInput<'_>) -> Result<Self, Errno> {
        check_sizes(input.path, input.args, input.env, input.stack_limit)?;
        let no_args = [Vec::new()];
        let args = if input.args.is_empty() { &no_args } else { input.args };

        let mut strings = Vec::new();
        let args_len = append_all(&mut strings, args);
        let env_len = append_all(&mut strings, input.env);
        append(&mut strings, input.path);
        strings.extend([0; 8]);
        let args_start = input.top.checked_sub(strings.len() as u64).ok_or(EINVAL)?;
        let env_start = args_start + args_len;
        let path_addr = env_start + env_len;

        // Below the strings come fixed sizes and 8 bytes a string, all within the limit checked above.
        let aligned = args_start.checked_sub(input.gap).ok_or(EINVAL)? & !15;
        let platform_addr = aligned.checked_sub(PLATFORM.len() as u64).ok_or(EINVAL)?;
        let random_addr = platform_addr.checked_sub(16).ok_or(EINVAL)?;
        let auxv = aux_vector(&input.aux, random_addr, path_addr, platform_addr);
        let words = 1 + args.len() + 1 + input.env.len() + 1 + auxv.len() * 2;
        let sp = random_addr.checked_sub(words as u64 * 8).ok_or(EINVAL)? & !15;

        let mut bytes = Vec::with_capacity(usize::try_from(input.top - sp).map_err(|_| EINVAL)?);
        put(&mut bytes, args.len() as u64);
        put_pointers(&mut bytes, args_start, args);
        put_pointers(&mut bytes, env_start, input.env);
        for &(key, value) in &auxv {
            put(&mut bytes, key);
            put(&mut bytes, value);
        }
        let pad_to = |bytes: &mut Vec<u8>, addr: u64| bytes.resize((addr - sp) as usize, 0);
        pad_to(&mut bytes, random_addr);
        bytes.extend(input.random);
        bytes.extend(PLATFORM);
        pad_to(&mut bytes, args_start);
        bytes.extend(strings);
        Ok(Self {
            bytes,
            sp,
            args: args_start..env_start,
            env: env_start..path_addr,
            auxv,
            strings_start: args_start,
        })
    }

    /// The lowest address of the stack's mapping at first, for a stack that ends at `top`: 128 KiB below the strings, within
    /// the limit, and low enough for the contents (Linux's `setup_arg_pages`).
    pub fn mapping_start(&self, top: u64, stack_limit: u64) -> u64 {
        let strings = top - page_down(self.strings_start);
        let size = (strings + STACK_EXPAND).min(page_down(stack_limit)).max(strings);
        top.saturating_sub(size).min(page_down(self.sp))
    }

    /// The auxiliary vector as bytes.
    pub fn auxv_bytes(&self) -> Vec<u8> {
        self.auxv
            .iter()
            .flat_map(|&(key, value)| [key.to_le_bytes(), value.to_le_bytes()])
            .flatten()
            .collect()
    }
}

/// The auxiliary vector in Linux's order (`ARCH_DLINFO` and `create_elf_tables`).
fn aux_vector(aux: &AuxInput, random: u64, path: u64, platform: u64) -> Vec<(u64, u64)> {
    let mut v = Vec::with_capacity(24);
    v.extend(aux.vdso.map(|addr| (AT_SYSINFO_EHDR, addr)));
    v.extend([
        (AT_MINSIGSTKSZ, aux.min_signal_stack),
        (AT_HWCAP, aux.hwcap),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, CLOCK_TICKS),
        (AT_PHDR, aux.phdr),
        (AT_PHENT, u64::from(PHDR_SIZE)),
        (AT_PHNUM, aux.phdr_count),
        (AT_BASE, aux.interp_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, aux.entry),
        (AT_UID, u64::from(aux.uid)),
        (AT_EUID, u64::from(aux.euid)),
        (AT_GID, u64::from(aux.gid)),
        (AT_EGID, u64::from(aux.egid)),
        (AT_SECURE, u64::from(aux.secure)),
        (AT_RANDOM, random),
        (AT_HWCAP2, aux.hwcap2),
        (AT_EXECFN, path),
        (AT_PLATFORM, platform),
    ]);
    if let Some((size, align)) = aux.rseq {
        v.extend([(AT_RSEQ_FEATURE_SIZE, u64::from(size)), (AT_RSEQ_ALIGN, u64::from(align))]);
    }
    v.push((AT_NULL, 0));
    v
}

fn append(to: &mut Vec<u8>, string: &[u8]) {
    to.extend(string);
    to.push(0);
}

/// Appends strings with their NULs; returns the number of bytes.
fn append_all(to: &mut Vec<u8>, strings: &[Vec<u8>]) -> u64 {
    let before = to.len();
    strings.iter().for_each(|s| append(to, s));
    (to.len() - before) as u64
}

fn put(to: &mut Vec<u8>, word: u64) {
    to.extend(word.to_le_bytes());
}

/// Appends the addresses of strings that lie one behind the other from `addr` on, and a NULL.
fn put_pointers(to: &mut Vec<u8>, mut addr: u64, strings: &[Vec<u8>]) {
    for string in strings {
        put(to, addr);
        addr += string.len() as u64 + 1;
    }
    put(to, 0);
}

#[cfg(test)]
mod tests;
