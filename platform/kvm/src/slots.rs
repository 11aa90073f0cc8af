//! Memory slots: which guest-physical addresses have host memory behind them.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION shows host memory to the guest")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use abi::Errno;
use abi::errno::{EIO, ENOSPC};
use base::PAGE_SIZE;
use base::memmap::MemRange;
use host::mapping::Mapping;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use platform::memory::MemoryFile;

use crate::layout::{FLUSH_GPA, MEASURE_GPA};

/// `_IO(KVMIO, 0x44)`; `kvm-ioctls` does not have it.
const KVM_SET_NR_MMU_PAGES: libc::c_ulong = 0xae44;

/// The slot of the flush page.
const FLUSH_SLOT: u32 = 0;
/// The slot of the measurements.
const MEASURE_SLOT: u32 = 1;

/// Hands out slot numbers; KVM itself orders concurrent changes.
pub(crate) struct Slots {
    vm: Arc<VmFd>,
    next: AtomicU32,
    limit: u32,
    flush_page: Mapping,
}

impl Slots {
    pub(crate) fn new(vm: Arc<VmFd>, limit: usize) -> Result<Self, Errno> {
        let flush_page = Mapping::anonymous(PAGE_SIZE)?;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let slots = Self { vm, next: AtomicU32::new(MEASURE_SLOT + 1), limit, flush_page };
        slots.set(FLUSH_SLOT, FLUSH_GPA, PAGE_SIZE, slots.flush_page.address(0))?;
        Ok(slots)
    }

    /// Shows `len` bytes of `mapping` from `offset` to the guest at `gpa`.
    pub(crate) fn add(&self, gpa: u64, mapping: &Mapping, offset: u64, len: u64) -> Result<(), Errno> {
        self.add_at(gpa, mapping.address(offset), len)
    }

    /// Shows a new range of the memory file.
    pub(crate) fn add_memory(&self, gpa: u64, memory: &MemoryFile, range: MemRange) -> Result<(), Errno> {
        self.add_at(gpa, memory.host_address(range.offset), range.len)
    }

    fn add_at(&self, gpa: u64, address: u64, len: u64) -> Result<(), Errno> {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        if slot >= self.limit {
            return Err(ENOSPC);
        }
        self.set(slot, gpa, len, address)
    }

    fn set(&self, slot: u32, gpa: u64, len: u64, address: u64) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: address,
        };
        // SAFETY:
        // 1. The host addresses belong to a `Mapping` (or to the memory file's), which no Rust reference points into,
        //    so the guest may change the bytes.
        // 2. The mappings live in the platform as long as vCPUs can run.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|e| Errno::from_raw(e.errno()).unwrap_or(EIO))
    }

    /// Lets KVM keep so many shadow page tables; its own limit, 2 % of the guest's pages, is made for one kernel's
    /// tables, and beyond it the tables of running processes are thrown away.
    pub(crate) fn keep_shadow_pages(&self, pages: u32) {
        // SAFETY: the descriptor is a VM's, and the argument a number.
        let r = unsafe { libc::ioctl(self.vm.as_raw_fd(), KVM_SET_NR_MMU_PAGES, libc::c_ulong::from(pages)) };
        if r != 0 {
            log::info!("kvm: KVM_SET_NR_MMU_PAGES: {}", std::io::Error::last_os_error());
        }
    }

    /// Makes and removes a slot of `len` bytes that no guest uses; says how long the making takes.
    pub(crate) fn measure(&self, len: u64) -> Result<Duration, Errno> {
        let mapping = Mapping::anonymous(len)?;
        let started = Instant::now();
        self.set(MEASURE_SLOT, MEASURE_GPA, len, mapping.address(0))?;
        let took = started.elapsed();
        self.set(MEASURE_SLOT, MEASURE_GPA, 0, mapping.address(0))?;
        Ok(took)
    }

    /// Drops every translation that KVM holds for the machine, for all vCPUs, before it returns.
    ///
    /// Removing a slot, any slot, does it: Linux `kvm_arch_flush_shadow_memslot` calls `kvm_mmu_zap_all_fast`, which
    /// makes all shadow pages obsolete and waits until each vCPU has left them. Measured: 0.2 ms.
    pub(crate) fn flush_translations(&self) -> Result<(), Errno> {
        self.set(FLUSH_SLOT, FLUSH_GPA, 0, self.flush_page.address(0))?;
        self.set(FLUSH_SLOT, FLUSH_GPA, PAGE_SIZE, self.flush_page.address(0))
    }
}
