//! The ring-0 region: descriptors, gates, stubs, and the tables that map them into every address space.
//!
//! No loop and no decision is made in ring 0: a stub is one `out`, whose port or address says what happened.

use abi::Errno;
use base::PAGE_SIZE;
use host::mapping::Mapping;

use crate::layout::{RING0_LEN, kernel_address, ring0};
use crate::paging::{kernel_entry, table_entry};

/// Port of the exception stubs; the stub's address says which vector.
pub(crate) const PORT_VECTOR: u16 = 0x40;
/// Port of the SYSCALL stub.
pub(crate) const PORT_SYSCALL: u16 = 0x41;
/// Port of the stub for SYSCALL in 32-bit code.
pub(crate) const PORT_SYSCALL_COMPAT: u16 = 0x42;

/// Bytes between two exception stubs.
const STUB_LEN: u64 = 16;
/// Where 32-bit code's SYSCALL goes, behind the 64-bit one's target.
pub(crate) const COMPAT_OFFSET: u64 = 16;

/// Kernel selectors; the user ones are in `abi::regs`.
pub(crate) const KERNEL_CS: u16 = 0x10;
pub(crate) const KERNEL_DS: u16 = 0x18;
pub(crate) const TSS: u16 = 0x40;
pub(crate) const TSS_LIMIT: u32 = 0x67;
/// Bytes of the descriptor table, less one.
pub(crate) const GDT_LIMIT: u16 = 7 * 8 - 1;
/// Bytes of the gate table, less one.
pub(crate) const IDT_LIMIT: u16 = 256 * 16 - 1;

/// What an exception leaves on the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) code: u32,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
}

/// Whether the processor pushes an error code for `vector` (Intel SDM vol. 3, table 6-1).
const fn has_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Makes the region.
///
/// # Errors
/// What mmap(2) gives.
pub(crate) fn build() -> Result<Mapping, Errno> {
    let m = Mapping::anonymous(RING0_LEN)?;
    let entry = |table: u64, index: u64, value: u64| m.store_u64(table + 8 * index, value);
    // KERNEL_BASE is entry 511 of the root and 510 of this table.
    entry(ring0::PDPT, 510, table_entry(ring0::PD));
    for i in 0..RING0_LEN >> 21 {
        entry(ring0::PD, i, table_entry(ring0::LEAVES + i * PAGE_SIZE));
    }
    let page = |offset: u64, writable: bool, user: bool| {
        entry(ring0::LEAVES, offset / PAGE_SIZE, kernel_entry(offset, writable, user));
    };
    page(ring0::GDT, false, false);
    page(ring0::IDT, false, false);
    page(ring0::STUBS, false, false);
    page(ring0::LSTAR_STUB, false, false);

    // Flat segments, accessed bits set since the table is read-only: kernel code and data, user 32-bit code, data,
    // 64-bit code (SYSRET's order).
    let descriptors = [
        (KERNEL_CS, 0x00af_9b00_0000_ffff_u64),
        (KERNEL_DS, 0x00cf_9300_0000_ffff),
        (abi::regs::USER32_CS as u16, 0x00cf_fb00_0000_ffff),
        (abi::regs::USER_DS as u16, 0x00cf_f300_0000_ffff),
        (abi::regs::USER_CS as u16, 0x00af_fb00_0000_ffff),
    ];
    for (selector, descriptor) in descriptors {
        m.store_u64(ring0::GDT + u64::from(selector & !7), descriptor);
    }

    for vector in 0..=255u8 {
        let stub = ring0::STUBS + u64::from(vector) * STUB_LEN;
        m.write(stub, &[0xe6, PORT_VECTOR as u8, 0xf4]); // out, hlt
        let handler = kernel_address(stub);
        // int3, into and int 0x80 are for user code; an interrupt gate, always on the stack that IST 1 names: an
        // exception that user code manages to delay into ring 0 ("mov ss; syscall" with TF) must not use its RSP.
        let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        let kind = 0x8e | dpl << 5;
        let low = (handler & 0xffff)
            | u64::from(KERNEL_CS) << 16
            | 1 << 32
            | kind << 40
            | (handler >> 16 & 0xffff) << 48;
        m.store_u64(ring0::IDT + u64::from(vector) * 16, low);
        m.store_u64(ring0::IDT + u64::from(vector) * 16 + 8, handler >> 32);
    }
    m.write(ring0::LSTAR_STUB, &[0xe6, PORT_SYSCALL as u8, 0xf4]);
    m.write(ring0::LSTAR_STUB + COMPAT_OFFSET, &[0xe6, PORT_SYSCALL_COMPAT as u8, 0xf4]);
    m.write(ring0::PROBE, &[0x0f, 0x05]); // syscall
    m.protect_none(ring0::LSTAR_TRAP, PAGE_SIZE)?;
    Ok(m)
}

/// Maps SYSCALL's target without memory, which user code reaches: only where SYSCALL does not enter ring 0.
pub(crate) fn map_trap_page(m: &Mapping) {
    let entry = ring0::LEAVES + 8 * (ring0::LSTAR_TRAP / PAGE_SIZE);
    m.store_u64(entry, kernel_entry(ring0::LSTAR_TRAP, false, true));
}

/// Offset of a vCPU's page.
const fn cpu_page(index: usize) -> u64 {
    ring0::CPUS + index as u64 * PAGE_SIZE
}

/// Makes a vCPU's page: a task state segment whose stacks start at the page's end. Returns the segment's address.
pub(crate) fn add_cpu(m: &Mapping, index: usize) -> u64 {
    let page = cpu_page(index);
    let top = kernel_address(page + PAGE_SIZE).to_le_bytes();
    m.write(page + 4, &top); // RSP0
    m.write(page + 0x24, &top); // IST1
    m.write(page + 0x66, &(TSS_LIMIT as u16 + 1).to_le_bytes()); // no I/O bitmap: every port is closed
    let leaf = ring0::LEAVES + (page >> 21) * PAGE_SIZE;
    m.store_u64(leaf + 8 * (page / PAGE_SIZE % 512), kernel_entry(page, true, false));
    kernel_address(page)
}

/// The vector whose stub left at `rip`, on the `out` or behind it.
pub(crate) fn vector_at(rip: u64) -> Option<u8> {
    u8::try_from(rip.checked_sub(kernel_address(ring0::STUBS))? / STUB_LEN).ok()
}

/// The frame of the exception that vCPU `index` took last.
pub(crate) fn frame(m: &Mapping, index: usize, vector: u8) -> Frame {
    let top = cpu_page(index) + PAGE_SIZE;
    let word = |below: u64| m.load_u64(top - below);
    Frame {
        code: if has_code(vector) { word(48) as u32 } else { 0 },
        rip: word(40),
        cs: word(32),
        rflags: word(24),
        rsp: word(16),
    }
}
