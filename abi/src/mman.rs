//! Memory mapping: flags of mmap(2), mremap(2), madvise(2), msync(2), mlock(2) (`asm-generic/mman.h`, `linux/mman.h`).

use bitflags::bitflags;

bitflags! {
    /// `PROT_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Prot: u64 {
        /// Pages can be read.
        const READ = 1;
        /// Pages can be written.
        const WRITE = 2;
        /// Pages can be executed.
        const EXEC = 4;
        /// Pages may be used for atomic operations; without effect.
        const SEM = 8;
        /// mprotect(2): extends the change down to the start of a growing-down mapping.
        const GROWSDOWN = 0x0100_0000;
        /// mprotect(2): extends the change up to the end of a growing-up mapping.
        const GROWSUP = 0x0200_0000;
    }
}

bitflags! {
    /// `MAP_*` beside the type in the low four bits (`MAP_TYPE`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MapFlags: u64 {
        /// Place exactly at the address.
        const FIXED = 0x10;
        /// No file.
        const ANONYMOUS = 0x20;
        /// Place in the first 2 GiB.
        const BIT32 = 0x40;
        /// Place above 4 GiB.
        const ABOVE4G = 0x80;
        /// Grows down, as stacks do.
        const GROWSDOWN = 0x100;
        /// Ignored.
        const DENYWRITE = 0x800;
        /// Ignored.
        const EXECUTABLE = 0x1000;
        /// Lock the pages.
        const LOCKED = 0x2000;
        /// Do not account.
        const NORESERVE = 0x4000;
        /// Fault the pages in.
        const POPULATE = 0x8000;
        /// With `POPULATE`: do not block, that is, do not fault in.
        const NONBLOCK = 0x1_0000;
        /// Good for a stack; without effect.
        const STACK = 0x2_0000;
        /// Huge pages.
        const HUGETLB = 0x4_0000;
        /// Synchronous faults; for `SHARED_VALIDATE`.
        const SYNC = 0x8_0000;
        /// `FIXED`, but fails with `EEXIST` rather than replace.
        const FIXED_NOREPLACE = 0x10_0000;
        /// Contents of memory mapped are not cleared; without effect with an MMU.
        const UNINITIALIZED = 0x400_0000;
    }
}

/// Mask of the mapping's type in mmap(2)'s flags.
pub const MAP_TYPE: u64 = 0xf;
/// Changes are shared.
pub const MAP_SHARED: u64 = 1;
/// Changes are private.
pub const MAP_PRIVATE: u64 = 2;
/// `MAP_SHARED`, with unknown flags refused.
pub const MAP_SHARED_VALIDATE: u64 = 3;

bitflags! {
    /// `MREMAP_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RemapFlags: u64 {
        /// The mapping may move.
        const MAYMOVE = 1;
        /// The mapping moves to the given address.
        const FIXED = 2;
        /// The old range stays mapped, without pages.
        const DONTUNMAP = 4;
    }
}

bitflags! {
    /// `MS_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SyncFlags: u64 {
        /// Start writing.
        const ASYNC = 1;
        /// Invalidate other mappings.
        const INVALIDATE = 2;
        /// Write and wait.
        const SYNC = 4;
    }
}

bitflags! {
    /// `MCL_*` of mlockall(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LockAllFlags: u64 {
        /// Pages mapped now.
        const CURRENT = 1;
        /// Mappings made later.
        const FUTURE = 2;
        /// Only when faulted in.
        const ONFAULT = 4;
    }
}

/// mlock2(2): lock pages when they are faulted in.
pub const MLOCK_ONFAULT: u64 = 1;

/// Advice values of madvise(2).
#[expect(missing_docs, reason = "madvise(2) explains each")]
pub mod advice {
    pub const NORMAL: u64 = 0;
    pub const RANDOM: u64 = 1;
    pub const SEQUENTIAL: u64 = 2;
    pub const WILLNEED: u64 = 3;
    pub const DONTNEED: u64 = 4;
    pub const FREE: u64 = 8;
    pub const REMOVE: u64 = 9;
    pub const DONTFORK: u64 = 10;
    pub const DOFORK: u64 = 11;
    pub const MERGEABLE: u64 = 12;
    pub const UNMERGEABLE: u64 = 13;
    pub const HUGEPAGE: u64 = 14;
    pub const NOHUGEPAGE: u64 = 15;
    pub const DONTDUMP: u64 = 16;
    pub const DODUMP: u64 = 17;
    pub const WIPEONFORK: u64 = 18;
    pub const KEEPONFORK: u64 = 19;
    pub const COLD: u64 = 20;
    pub const PAGEOUT: u64 = 21;
    pub const POPULATE_READ: u64 = 22;
    pub const POPULATE_WRITE: u64 = 23;
    pub const DONTNEED_LOCKED: u64 = 24;
    pub const GUARD_INSTALL: u64 = 102;
    pub const GUARD_REMOVE: u64 = 103;
}

/// The end of the addresses that 64-bit user code may use (`TASK_SIZE_MAX` with 4-level paging).
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;
