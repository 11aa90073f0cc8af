//! Where things go in a new address space.
//!
//! The vDSO has no place of its own: Linux 6.18 puts `[vvar]` and `[vdso]` where an ordinary `mmap` would go, after program and
//! interpreter are mapped.

use std::ops::Range;

use crate::{PAGE_SIZE, TASK_SIZE, page_up_wrapping};

/// Lowest base of a position-independent program (`ELF_ET_DYN_BASE`).
pub const PIE_BASE: u64 = TASK_SIZE / 3 * 2;

/// How far Linux keeps other mappings away from a stack (`stack_guard_gap`).
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;

/// Bits of page numbers that `mmap` and program bases vary in (`mmap_rnd_bits`, its default).
const MMAP_BITS: u32 = 28;
/// Bits of page numbers that the top of the stack varies in (`STACK_RND_MASK`).
const STACK_BITS: u32 = 22;
/// The stack's top varies below a page by this much, and so does what lies below the strings.
const STACK_FINE: u64 = 8192;
/// The heap starts up to this far behind the program.
const BRK_RANGE: u64 = 1 << 30;
/// Bounds of what is left below the stack's top.
const GAP_MIN: u64 = 128 << 20;
const GAP_MAX: u64 = TASK_SIZE / 6 * 5;

/// Random numbers for one address space, all bits of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Randomness {
    /// For `mmap_base`.
    pub mmap: u64,
    /// For the base of a position-independent program.
    pub pie: u64,
    /// For the top of the stack.
    pub stack: u64,
    /// For the gap below the strings on the stack.
    pub stack_gap: u64,
    /// For the start of the heap.
    pub brk: u64,
}

impl Randomness {
    /// Takes the numbers from 40 random bytes.
    pub fn from_bytes(bytes: [u8; 40]) -> Self {
        let word = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        Self { mmap: word(0), pie: word(1), stack: word(2), stack_gap: word(3), brk: word(4) }
    }
}

/// The fixed points of a new address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `mmap` without a hint searches downwards from here.
    pub mmap_base: u64,
    /// End of the stack; page-aligned.
    pub stack_top: u64,
    /// Base for a position-independent program with an interpreter: for [`crate::elf::Image::bias_for_base`].
    pub pie_base: u64,
    /// For [`crate::stack::StackInput::gap`].
    pub stack_gap: u64,
    brk_random: Option<u64>,
}

impl Layout {
    /// Chooses the fixed points, randomly or (`None`) as Linux does with `ADDR_NO_RANDOMIZE`. `stack_limit` is the soft
    /// `RLIMIT_STACK`, `u64::MAX` for none.
    ///
    /// Source: Linux 6.18 arch/x86/mm/mmap.c, `mmap_base`; fs/binfmt_elf.c, `randomize_stack_top`; fs/exec.c,
    /// `setup_arg_pages`.
    pub fn new(random: Option<&Randomness>, stack_limit: u64) -> Self {
        let pages = |n: u64, bits: u32| (n & ((1 << bits) - 1)) * PAGE_SIZE;
        let stack_pad = match random {
            Some(_) => ((1 << STACK_BITS) - 1) * PAGE_SIZE + STACK_GUARD_GAP,
            None => STACK_GUARD_GAP,
        };
        let gap = stack_limit.checked_add(stack_pad).unwrap_or(stack_limit).clamp(GAP_MIN, GAP_MAX);
        let mmap_random = random.map_or(0, |r| pages(r.mmap, MMAP_BITS));
        Self {
            mmap_base: page_up_wrapping(TASK_SIZE - gap - mmap_random),
            stack_top: random.map_or(TASK_SIZE, |r| {
                // Low bits choose pages, high bits the part below a page.
                let top = TASK_SIZE - pages(r.stack, STACK_BITS) - (r.stack >> 32) % STACK_FINE;
                page_up_wrapping(top & !15)
            }),
            pie_base: PIE_BASE + random.map_or(0, |r| pages(r.pie, MMAP_BITS)),
            stack_gap: random.map_or(0, |r| r.stack_gap % STACK_FINE),
            brk_random: random.map(|r| r.brk),
        }
    }

    /// Moves the stack and what lies below it down to where addresses end at `end`, a page boundary: a platform may need the
    /// last addresses itself.
    #[must_use]
    pub fn ending_at(self, end: u64) -> Self {
        let down = TASK_SIZE.saturating_sub(end);
        Self {
            mmap_base: self.mmap_base.saturating_sub(down),
            stack_top: self.stack_top.saturating_sub(down),
            ..self
        }
    }

    /// Where the heap starts. `program_end` is [`crate::elf::Placement::brk`] of the program; `moved` says that the program
    /// is `ET_DYN` without an interpreter: its heap goes to where other programs are, away from the `mmap` region.
    ///
    /// Source: Linux 6.18 fs/binfmt_elf.c, `load_elf_binary`; arch/x86/kernel/process.c, `arch_randomize_brk`.
    pub fn brk_start(&self, program_end: u64, moved: HeapPlace) -> u64 {
        let start = match moved {
            HeapPlace::BehindProgram => program_end,
            HeapPlace::Apart => page_up_wrapping(PIE_BASE),
        };
        let start = start.min(TASK_SIZE);
        let Some(random) = self.brk_random else { return start };
        let start = match moved {
            // Keeps an overrun of the program's data out of the heap.
            HeapPlace::BehindProgram => start.saturating_add(PAGE_SIZE),
            HeapPlace::Apart => start,
        };
        start.saturating_add(random % (BRK_RANGE / PAGE_SIZE) * PAGE_SIZE).min(TASK_SIZE)
    }

    /// The addresses that a search from `mmap_base` downwards may use, above the lowest mappable address.
    pub fn mmap_range(&self, mmap_min_addr: u64) -> Range<u64> {
        mmap_min_addr..self.mmap_base
    }
}

/// Where a program's heap goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapPlace {
    /// Behind the program's last segment.
    BehindProgram,
    /// To the region of position-independent programs: for `ET_DYN` without an interpreter.
    Apart,
}

impl HeapPlace {
    /// The place for a program.
    pub fn of(program: &crate::elf::Image) -> Self {
        if program.kind == crate::elf::Kind::Dyn && program.interp.is_none() {
            Self::Apart
        } else {
            Self::BehindProgram
        }
    }
}

#[cfg(test)]
mod tests;
