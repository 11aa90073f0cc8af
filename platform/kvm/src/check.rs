//! What this host's KVM offers, and what its ways cost now: for `ringfence check` and the benchmarks.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, MemRange, Memory};
use kvm_ioctls::{Cap, Kvm};
use platform::{AddressSpace, Context, Error, Platform, Trap, XsaveLayout};

use crate::vcpu::Vcpu;
use crate::{Entry, KvmPlatform, Options, device};

/// What a host's KVM offers.
#[derive(Clone, Debug)]
pub struct Report {
    /// How system calls leave the guest.
    pub entry: Entry,
    /// Name and value of each capability that matters; zero: absent.
    pub capabilities: Vec<(&'static str, i32)>,
    /// The version of the interface.
    pub api_version: i32,
    /// vCPUs of a machine: guest threads that can be in guest mode at once.
    pub max_vcpus: usize,
    /// Memory slots of a machine; the memory file needs one for each GiB.
    pub max_slots: usize,
    /// Bytes that the memory file may have.
    pub memory_limit: u64,
    /// Floating-point state.
    pub xsave: XsaveLayout,
    /// The guest's time stamp counter minus the host's, if it is known.
    pub tsc_offset: Option<i64>,
    /// Times measured.
    pub costs: Costs,
}

/// Times measured now, each the least of several rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// From opening the device to the end of the start-up probe.
    pub start: Duration,
    /// A system call to the sentry and back.
    pub syscall: Duration,
    /// An exception to the sentry and back.
    pub exception: Duration,
    /// A page fault to the sentry, which maps the page, and back to the instruction.
    pub fault: Duration,
    /// A first touch of a mapped page, which the host resolves alone.
    pub touch: Duration,
    /// The same for a page that the host has already, as after `populate`.
    pub touch_populated: Duration,
    /// Taking a page away from running guests.
    pub shootdown: Duration,
    /// Making a vCPU.
    pub vcpu: Duration,
    /// Making a machine.
    pub machine: Duration,
    /// Making a memory slot of 32 MiB.
    pub slot: Duration,
    /// Making an address space, mapping a page in it, and ending it.
    pub space: Duration,
}

impl Report {
    /// Whether this is KVM on a processor with VMX or SVM, rather than the nested software one.
    pub fn is_hardware(&self) -> bool {
        self.entry == Entry::Stub
    }
}

/// Opens KVM and measures; takes less than 0.3 s.
///
/// # Errors
/// As [`KvmPlatform::new`].
pub fn check(options: &Options) -> Result<Report, Error> {
    let kvm = device::open(&options.device)?;
    let started = Instant::now();
    let platform = KvmPlatform::new(options)?;
    let start = started.elapsed();
    let mut costs = measure(&platform)?;
    costs.start = start;
    // Closing one costs more; it is not measured.
    let mut machines = Vec::new();
    costs.machine = least(3, || {
        let machine = kvm.create_vm();
        machines.push(machine.map_err(|e| Error::Exhausted(format!("kvm: KVM_CREATE_VM: {e}")))?);
        Ok(())
    })?;
    Ok(Report {
        entry: platform.entry(),
        capabilities: capabilities(&kvm),
        api_version: kvm.get_api_version(),
        max_vcpus: platform.max_vcpus(),
        max_slots: kvm.get_nr_memslots(),
        memory_limit: platform.memory().limit(),
        xsave: platform.xsave_layout(),
        tsc_offset: platform.tsc_offset(),
        costs,
    })
}

fn capabilities(kvm: &Kvm) -> Vec<(&'static str, i32)> {
    [
        ("sync_regs", Cap::SyncRegs),
        ("immediate_exit", Cap::ImmediateExit),
        ("sync_mmu", Cap::SyncMmu),
        ("xcrs", Cap::Xcrs),
        ("xsave2", Cap::Xsave2),
        ("tsc_control", Cap::TscControl),
        ("readonly_mem", Cap::ReadonlyMem),
        ("max_vcpus", Cap::MaxVcpus),
        ("nr_memslots", Cap::NrMemslots),
    ]
    .into_iter()
    .map(|(name, cap)| (name, kvm.check_extension_int(cap)))
    .collect()
}

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x1000_0000;
const PAGE: u64 = base::PAGE_SIZE;
const ROUNDS: u32 = 3;
const SLOT_MEASURED: u64 = 32 << 20;

/// The shortest of `rounds` runs: what disturbs makes things longer only.
fn least(rounds: u32, mut run: impl FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
    let mut least = Duration::MAX;
    for _ in 0..rounds {
        let started = Instant::now();
        run()?;
        least = least.min(started.elapsed());
    }
    Ok(least)
}

/// The guest of the measurements.
struct Guest {
    space: Arc<dyn AddressSpace>,
    context: Box<dyn Context>,
    regs: UserRegs,
}

const PROGRAM: [u8; 49] = [
    0x0f, 0x05, 0xeb, 0xfc, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 0: syscall; jmp 0; 4: ud2
    0x88, 0x07, 0x0f, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 16: mov [rdi], al; syscall
    0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, // 32: mov [rdi], al; add rdi, 4096
    0x48, 0xff, 0xce, 0x75, 0xf2, 0x0f, 0x05, 0x90, // dec rsi; jnz 32; syscall
];

impl Guest {
    fn go(&mut self, want: Trap) -> Result<(), Error> {
        let trap = self.context.switch(&self.space, &mut self.regs)?;
        if trap == want {
            return Ok(());
        }
        Err(Error::Broken(format!("kvm: {trap:?} instead of {want:?} at {:#x}", self.regs.rip)))
    }
}

fn measure(platform: &Arc<KvmPlatform>) -> Result<Costs, Error> {
    let memory = platform.memory();
    let allocate = |pages: u64| {
        memory
            .allocate(pages * PAGE, PAGE, MemKind::Anonymous)
            .map_err(|e| Error::Exhausted(format!("kvm: memory file: {e}")))
    };
    let program = allocate(1)?;
    memory.write(program.offset, &PROGRAM);
    let space = platform.new_address_space()?;
    space.map(CODE, program, Access::READ | Access::EXEC)?;
    let mut guest = Guest {
        space,
        context: platform.new_context()?,
        regs: UserRegs { rip: CODE, rsp: DATA, ..UserRegs::new_user64() },
    };
    let mut costs = Costs::default();

    let calls = 100;
    guest.go(Trap::Syscall)?;
    costs.syscall = least(ROUNDS, || (0..calls).try_for_each(|_| guest.go(Trap::Syscall)))? / calls;
    let invalid = Trap::Exception { vector: 6, code: 0 };
    guest.regs.rip = CODE + 4;
    costs.exception = least(ROUNDS, || (0..calls).try_for_each(|_| guest.go(invalid)))? / calls;

    let pages = 64u32;
    let data = allocate(u64::from(pages))?;
    memory.populate(data);
    let rw = Access::READ | Access::WRITE;
    let both = least(ROUNDS, || {
        for i in 0..u64::from(pages) {
            let (addr, page) = (DATA + i * PAGE, MemRange { offset: data.offset + i * PAGE, len: PAGE });
            guest.regs.rip = CODE + 16;
            guest.regs.rdi = addr;
            guest.go(Trap::Fault { addr, access: Access::WRITE })?;
            guest.space.map(addr, page, rw)?;
            guest.go(Trap::Syscall)?;
        }
        guest.space.unmap(DATA, u64::from(pages) * PAGE);
        Ok(())
    })? / pages;
    costs.fault = both.saturating_sub(costs.syscall);

    let many = 1024u32;
    let fresh = allocate(u64::from(many))?;
    for (populated, cost) in [(false, &mut costs.touch), (true, &mut costs.touch_populated)] {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            memory.discard(fresh);
            if populated {
                memory.populate(fresh);
            }
            guest.space.map(DATA, fresh, rw)?;
            guest.regs.rip = CODE + 32;
            guest.regs.rdi = DATA;
            guest.regs.rsi = many.into();
            let started = Instant::now();
            guest.go(Trap::Syscall)?;
            best = best.min(started.elapsed());
        }
        *cost = best.saturating_sub(costs.syscall) / many;
    }

    // Pages that were touched: their translations exist.
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        guest.space.map(DATA, data, rw)?;
        guest.regs.rip = CODE + 32;
        guest.regs.rdi = DATA;
        guest.regs.rsi = pages.into();
        guest.go(Trap::Syscall)?;
        let started = Instant::now();
        for i in 0..u64::from(pages) {
            guest.space.unmap(DATA + i * PAGE, PAGE);
        }
        best = best.min(started.elapsed());
    }
    costs.shootdown = best / pages;

    let spaces = 20;
    costs.space = least(ROUNDS, || {
        (0..spaces).try_for_each(|_| platform.new_address_space()?.map(CODE, program, Access::READ))
    })? / spaces;

    let machine = &platform.machine;
    costs.vcpu = least(3, || {
        if let Some(index) = machine.pool.next_index(machine.max_vcpus) {
            machine.pool.give(Vcpu::new(machine, index)?);
        }
        Ok(())
    })?;
    costs.slot = machine
        .slots
        .measure(SLOT_MEASURED)
        .map_err(|e| Error::Exhausted(format!("kvm: memory slot: {e}")))?;
    for range in [program, data, fresh] {
        memory.dec_ref(range);
    }
    Ok(costs)
}

/// Whether the device is there at all, for `--platform auto`.
pub fn is_present(options: &Options) -> bool {
    Path::new(&options.device).exists()
}
