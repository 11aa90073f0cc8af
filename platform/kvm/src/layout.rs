//! Where things lie: guest-physical addresses, and the kernel half of every guest address space.
//!
//! ```text
//! guest-physical                                  guest-virtual
//! 0            ring-0 region, 16 MiB              KERNEL_BASE + the same offset
//! 32 MiB       one page: the flush slot           not mapped
//! 256 MiB      guest page tables, in 16 MiB slots not mapped
//! 4 GiB - …    hardware KVM's own pages (Intel)   not mapped
//! 4 GiB        the memory file, in 1 GiB slots    wherever an address space maps it
//! ```
//!
//! The kernel half also holds the [window](platform::window), whose pages are the memory file's.

use base::PAGE_SIZE;

/// First guest-virtual address of the ring-0 region: the top 2 GiB, as Linux's own kernel text.
pub(crate) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Bytes of the ring-0 region.
pub(crate) const RING0_LEN: u64 = 16 << 20;

/// A page whose slot comes and goes to make KVM drop all its translations.
pub(crate) const FLUSH_GPA: u64 = 32 << 20;

/// Where the measurements put a slot of at most 64 MiB.
pub(crate) const MEASURE_GPA: u64 = 64 << 20;

/// The first guest page table.
pub(crate) const TABLES_GPA: u64 = 256 << 20;
/// Bytes of guest page tables at most: enough for a terabyte of small pages.
pub(crate) const TABLES_LEN: u64 = 2560 << 20;
/// Bytes of a slot of guest page tables.
pub(crate) const TABLES_SLOT: u64 = 16 << 20;

/// Three pages that KVM on Intel processors without "unrestricted guest" uses for itself (KVM_SET_TSS_ADDR); the page
/// below them is its identity map.
pub(crate) const KVM_TSS_ADDR: usize = 0xfffb_d000;

/// Offset 0 of the memory file.
pub(crate) const MEMORY_GPA: u64 = 4 << 30;

/// Behind the last user address: the last page below the hole is left out, as Linux does (`TASK_SIZE_MAX`).
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;

/// Where user code jumps from patched call sites: in the kernel half, so no guest mapping is in its way.
pub(crate) const WINDOW: std::ops::Range<u64> =
    0xffff_ffff_c060_0000..0xffff_ffff_c060_0000 + platform::window::LEN;

/// Offsets in the ring-0 region.
pub(crate) mod ring0 {
    use super::PAGE_SIZE;

    /// Page-directory-pointer table of the kernel half.
    pub(crate) const PDPT: u64 = PAGE_SIZE;
    /// Its page directory.
    pub(crate) const PD: u64 = 2 * PAGE_SIZE;
    /// Eight leaf tables, enough for the region.
    pub(crate) const LEAVES: u64 = 3 * PAGE_SIZE;
    /// Segment descriptors.
    pub(crate) const GDT: u64 = 16 * PAGE_SIZE;
    /// Interrupt gates.
    pub(crate) const IDT: u64 = 17 * PAGE_SIZE;
    /// 256 stubs of 16 bytes.
    pub(crate) const STUBS: u64 = 18 * PAGE_SIZE;
    /// SYSCALL's target where SYSCALL enters ring 0.
    pub(crate) const LSTAR_STUB: u64 = 19 * PAGE_SIZE;
    /// SYSCALL's target where it does not: a page without memory, so that the fetch ends KVM_RUN.
    pub(crate) const LSTAR_TRAP: u64 = 20 * PAGE_SIZE;
    /// User code of the start-up probe.
    pub(crate) const PROBE: u64 = 21 * PAGE_SIZE;
    /// One page per vCPU: its task state segment below, its stack from the top.
    pub(crate) const CPUS: u64 = 64 * PAGE_SIZE;
}

/// vCPUs that the ring-0 region has pages for.
pub(crate) const MAX_VCPUS: usize = ((RING0_LEN - ring0::CPUS) / PAGE_SIZE) as usize;

/// The guest-virtual address of an offset in the ring-0 region.
pub(crate) const fn kernel_address(offset: u64) -> u64 {
    KERNEL_BASE + offset
}

/// Whether `rip` is in the ring-0 region.
pub(crate) const fn is_ring0(rip: u64) -> bool {
    rip >= KERNEL_BASE && rip < KERNEL_BASE + RING0_LEN
}
