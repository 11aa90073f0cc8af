//! The KVM platform: guest processes as guest page tables of one virtual machine, their threads as vCPUs.
//!
//! Reading order: `layout.rs` (where things lie), `device.rs` (opening KVM), `machine.rs` (the VM and the start-up
//! probe), `ring0.rs` (stubs), `vcpu.rs`, `engine.rs` (a stay in the guest and its end), `window.rs`, `kick.rs`,
//! `pool.rs`; `context.rs` (with or without an exit), `companion.rs`, `policy.rs`;
//! `tables.rs`, `paging.rs`, `space.rs` (address spaces); `slots.rs`, `cpuid.rs`, `xsave.rs`, `counters.rs`, `stats.rs`;
//! `check.rs` (what the host offers).
//!
//! Locks, outer to inner: a pool's cell (held during a stay in the guest; others only try it), a space's tree
//! (`PAGE_TABLE`), the memory file (`MEMORY_FILE`), table pool, vCPU lists, runner list and companions (`PLATFORM`, never
//! two), a runner's state and a saved floating-point state (`LEAF`).

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use platform::memory::MemoryFile;
use platform::window::Window;
use platform::{AddressSpace, Context, Error, Platform, XsaveLayout};

pub mod check;
mod companion;
mod context;
mod counters;
mod cpuid;
mod device;
mod engine;
mod kick;
mod layout;
mod machine;
mod paging;
mod policy;
mod pool;
mod ring0;
mod slots;
mod space;
mod stats;
mod tables;
mod vcpu;
mod window;
mod xsave;

pub use machine::Entry;

/// How to make the platform.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device.
    pub device: PathBuf,
    /// Bytes of offsets that the memory file may have; less where the processor's addresses end earlier.
    pub memory_limit: u64,
    /// vCPUs at most, below what KVM allows: guest threads that can be in guest mode at once.
    pub vcpu_limit: usize,
    /// Offer a [window](Platform::window), so that call sites are patched.
    pub patch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: "/dev/kvm".into(), memory_limit: 1 << 40, vcpu_limit: usize::MAX, patch: true }
    }
}

/// The platform: one virtual machine.
pub struct KvmPlatform {
    machine: Arc<machine::Machine>,
}

impl KvmPlatform {
    /// Opens the device, makes the machine and finds out what kind of KVM it is.
    ///
    /// # Errors
    /// One line for people that says what to do.
    pub fn new(options: &Options) -> Result<Arc<Self>, Error> {
        host::thread::install_interrupt_handler()
            .map_err(|e| Error::Broken(format!("kvm: handler of the interrupt signal: {e}")))?;
        let kvm = device::open(&options.device)?;
        let machine = machine::Machine::new(&kvm, options)?;
        Ok(Arc::new(Self { machine }))
    }

    /// How system calls leave the guest: says which kind of KVM this is.
    pub fn entry(&self) -> Entry {
        self.machine.entry()
    }

    /// Bytes of host memory that guest page tables use.
    pub fn table_bytes(&self) -> u64 {
        self.machine.tables.pages() * base::PAGE_SIZE
    }

    /// Most vCPUs of the machine: guest threads that can be in guest mode at once.
    pub fn max_vcpus(&self) -> usize {
        self.machine.max_vcpus
    }
}

impl Platform for KvmPlatform {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn memory(&self) -> &Arc<MemoryFile> {
        &self.machine.memory
    }

    fn window(&self) -> Option<&Arc<Window>> {
        self.machine.window.as_ref()
    }

    fn guest_range(&self) -> Range<u64> {
        0..layout::USER_END
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(space::KvmSpace::new(self.machine.clone())?))
    }

    fn new_context(&self) -> Result<Box<dyn Context>, Error> {
        Ok(Box::new(context::KvmContext::new(self.machine.clone())))
    }

    fn xsave_layout(&self) -> XsaveLayout {
        self.machine.cpu.xsave
    }

    fn tsc_offset(&self) -> Option<i64> {
        self.machine.tsc_offset()
    }

    fn cpuid(&self, leaf: u32, index: u32) -> [u32; 4] {
        let host = std::arch::x86_64::__cpuid_count(leaf, index);
        // Nested software KVM does not intercept the instruction: the guest sees the host's processor.
        if self.machine.entry() != Entry::Stub {
            return [host.eax, host.ebx, host.ecx, host.edx];
        }
        self.machine.cpu.leaf(leaf, index).unwrap_or_default()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut list = self.machine.counters.list();
        list.extend(self.machine.window.iter().flat_map(|w| w.counts.list()));
        list.extend(self.machine.pool.settled_faults().map(|faults| ("faults_settled_by_kvm", faults)));
        list
    }
}
