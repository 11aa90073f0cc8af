//! The machine: one KVM VM, shared by all address spaces and contexts of the sandbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use abi::regs::UserRegs;
use base::memmap::{Access, Memory};
use host::mapping::Mapping;
use kvm_ioctls::{Kvm, VmFd};
use platform::Error;
use platform::memory::MemoryFile;
use platform::window::Window;

use crate::Options;
use crate::companion::Companions;
use crate::counters::Counters;
use crate::cpuid::CpuModel;
use crate::kick::Runners;
use crate::layout::{KVM_TSS_ADDR, MAX_VCPUS, MEMORY_GPA, RING0_LEN, WINDOW, kernel_address, ring0};
use crate::pool::Pool;
use crate::ring0 as region;
use crate::slots::Slots;
use crate::space::KvmSpace;
use crate::tables::TablePool;
use crate::vcpu::{Exit, Vcpu};

/// How a system call leaves the guest; found by the start-up probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Entry {
    /// SYSCALL enters ring 0, whose stub leaves with `out`: KVM on processors with VMX or SVM.
    Stub,
    /// SYSCALL stays in user mode; its target has no host memory, so the fetch ends `KVM_RUN` with `EFAULT`: nested
    /// software KVM, the cheapest way there.
    Unbacked,
    /// SYSCALL stays in user mode; its target is a supervisor page, so the fetch is a page fault.
    PageFault,
}

/// Shadow page tables that KVM may keep: 128 MiB of host memory at most, tables for 64 GiB of small pages.
const SHADOW_PAGES: u32 = 32_768;

/// Address of the probe's code.
const PROBE_ADDR: u64 = 0x1_0000;

/// CPUID leaf 7: FSGSBASE.
fn host_has_fsgsbase() -> bool {
    std::arch::x86_64::__cpuid_count(7, 0).ebx & 1 != 0
}

/// The VM and what belongs to it.
pub(crate) struct Machine {
    pub(crate) pool: Pool,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) ring0: Mapping,
    pub(crate) memory: Arc<MemoryFile>,
    pub(crate) tables: TablePool,
    pub(crate) cpu: CpuModel,
    pub(crate) runners: Runners,
    pub(crate) companions: Companions,
    pub(crate) counters: Arc<Counters>,
    pub(crate) max_vcpus: usize,
    cores: usize,
    /// Where patched call sites lead.
    pub(crate) window: Option<Arc<Window>>,
    entry: AtomicU8,
    has_tsc_offset: AtomicBool,
    /// Turns over the contexts when vCPUs must be shared.
    pub(crate) turn: AtomicUsize,
}

impl Machine {
    /// Makes a VM within the limits of `options`.
    pub(crate) fn new(kvm: &Kvm, options: &Options) -> Result<Arc<Self>, Error> {
        let cpu = CpuModel::new(kvm)?;
        let vm = Arc::new(kvm.create_vm().map_err(|e| match e.errno() {
            libc::ENOMEM | libc::EMFILE | libc::ENFILE => {
                Error::Exhausted(format!("kvm: KVM_CREATE_VM: {e}"))
            }
            _ => Error::Broken(format!("kvm: KVM_CREATE_VM: {e}")),
        })?);
        vm.set_tss_address(KVM_TSS_ADDR).map_err(|e| Error::Broken(format!("kvm: KVM_SET_TSS_ADDR: {e}")))?;
        let exhausted = |what: &str, e: abi::Errno| Error::Exhausted(format!("kvm: {what}: {e}"));
        let slots =
            Arc::new(Slots::new(vm.clone(), kvm.get_nr_memslots()).map_err(|e| exhausted("memory slot", e))?);
        slots.keep_shadow_pages(SHADOW_PAGES);
        let ring0 = region::build().map_err(|e| exhausted("ring-0 region", e))?;
        slots.add(0, &ring0, 0, RING0_LEN).map_err(|e| exhausted("memory slot of the ring-0 region", e))?;

        let physical_limit = 1u64 << cpu.physical_bits.clamp(33, 52);
        let limit = options.memory_limit.min(physical_limit - MEMORY_GPA);
        let memory = MemoryFile::with_large_memory(limit).map_err(|e| exhausted("memory file", e))?;
        let slots_of_memory = slots.clone();
        memory.set_on_grow(Box::new(move |memory, range| {
            slots_of_memory.add_memory(MEMORY_GPA + range.offset, memory, range)
        }));

        // The code there reads the bases of FS and GS by instructions.
        let window = if options.patch && host_has_fsgsbase() {
            let window = Window::new(&memory, WINDOW.start, cpu.xsave.features, None);
            Some(Arc::new(window.map_err(|e| exhausted("window of call sites", e))?))
        } else {
            None
        };

        let counters = Arc::new(Counters::default());
        let max_vcpus = kvm.get_max_vcpus().min(options.vcpu_limit).clamp(1, MAX_VCPUS);
        let machine = Arc::new(Self {
            pool: Pool::default(),
            tables: TablePool::new(slots.clone(), counters.clone())?,
            vm,
            slots,
            ring0,
            memory: Arc::new(memory),
            cpu,
            runners: Runners::default(),
            companions: Companions::default(),
            counters,
            max_vcpus,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            window,
            entry: AtomicU8::new(Entry::Stub as u8),
            has_tsc_offset: AtomicBool::new(true),
            turn: AtomicUsize::new(0),
        });
        machine.probe()?;
        Ok(machine)
    }

    /// How system calls leave the guest.
    pub(crate) fn entry(&self) -> Entry {
        match self.entry.load(Ordering::Relaxed) {
            1 => Entry::Unbacked,
            2 => Entry::PageFault,
            _ => Entry::Stub,
        }
    }

    /// Cores for threads in the guest and threads that poll; 0 where leaving the guest costs too little for polling.
    pub(crate) fn cores(&self) -> usize {
        if self.entry() == Entry::Stub { 0 } else { self.cores }
    }

    /// Offset of SYSCALL's target in the ring-0 region.
    pub(crate) fn lstar(&self) -> u64 {
        match self.entry() {
            Entry::Unbacked => ring0::LSTAR_TRAP,
            Entry::Stub | Entry::PageFault => ring0::LSTAR_STUB,
        }
    }

    /// The guest's time stamp counter minus the host's, when it is known.
    pub(crate) fn tsc_offset(&self) -> Option<i64> {
        self.has_tsc_offset.load(Ordering::Relaxed).then_some(0)
    }

    pub(crate) fn forget_tsc_offset(&self) {
        self.has_tsc_offset.store(false, Ordering::Relaxed);
    }

    pub(crate) fn read_memory(&self, offset: u64, buf: &mut [u8]) {
        self.memory.read(offset, buf);
    }

    /// Runs one SYSCALL and looks where it lands; leaves the first vCPU in the pool.
    fn probe(self: &Arc<Self>) -> Result<(), Error> {
        let mut vcpu = Vcpu::new(self, self.pool.next_index(self.max_vcpus).unwrap_or(0))?;
        let space = KvmSpace::new(self.clone())?;
        space.map_raw(PROBE_ADDR, ring0::PROBE, Access::READ | Access::EXEC)?;
        let stub = kernel_address(ring0::LSTAR_STUB);
        let entry = match self.probe_run(&mut vcpu, &space) {
            Exit::Out(region::PORT_SYSCALL) if vcpu.cpl() == 0 => Entry::Stub,
            Exit::Out(region::PORT_VECTOR)
                if region::vector_at(vcpu.rip()) == Some(14)
                    && region::frame(&self.ring0, vcpu.index, 14).rip == stub =>
            {
                region::map_trap_page(&self.ring0);
                self.entry.store(Entry::Unbacked as u8, Ordering::Relaxed);
                vcpu.configure(self)?;
                match self.probe_run(&mut vcpu, &space) {
                    Exit::NoMemory if vcpu.rip() == kernel_address(ring0::LSTAR_TRAP) => Entry::Unbacked,
                    other => {
                        log::info!(
                            "kvm: a fetch without memory ends with {other:?}; system calls as page faults"
                        );
                        Entry::PageFault
                    }
                }
            }
            other => {
                return Err(Error::Broken(format!(
                    "kvm: the start-up probe ended with {other:?} at {:#x}: this KVM cannot run the platform",
                    vcpu.rip()
                )));
            }
        };
        self.entry.store(entry as u8, Ordering::Relaxed);
        if entry != Entry::Unbacked {
            vcpu.configure(self)?;
        }
        log::debug!("kvm: system calls leave as {entry:?}");
        self.pool.give(vcpu);
        Ok(())
    }

    fn probe_run(&self, vcpu: &mut Vcpu, space: &KvmSpace) -> Exit {
        let registers = UserRegs { rip: PROBE_ADDR, rsp: PROBE_ADDR, ..UserRegs::new_user64() };
        vcpu.load(&registers, space.enter(), 0);
        let exit = loop {
            match vcpu.run() {
                Exit::Interrupted | Exit::Window => {}
                exit => break exit,
            }
        };
        space.leave();
        exit
    }
}
