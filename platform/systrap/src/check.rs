//! What the platform costs on this host, for `ringfence check`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, MemRange, Memory};
use platform::{AddressSpace, Context, Error, Platform, Trap, XsaveLayout};

use crate::{Options, SystrapPlatform};

/// Least times that were measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// Make the platform.
    pub start: Duration,
    /// A system call to the sentry and back.
    pub syscall: Duration,
    /// An exception to the sentry and back.
    pub exception: Duration,
    /// A page fault that the sentry answers by mapping the page.
    pub fault: Duration,
    /// The first touch of a mapped page.
    pub touch: Duration,
    /// Take a page away from running guests.
    pub shootdown: Duration,
    /// Make, use and end an address space.
    pub space: Duration,
}

/// What the host offers.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Measured now.
    pub costs: Costs,
    /// Mappings that a guest process may have before all are dropped and come back by faults.
    pub map_limit: usize,
    /// The guest's floating-point state.
    pub xsave: XsaveLayout,
    /// Bytes of guest memory at most.
    pub memory_limit: u64,
}

/// Makes the platform and measures it.
///
/// # Errors
/// One line for people that says what to do.
pub fn check() -> Result<Report, Error> {
    let started = Instant::now();
    let platform = SystrapPlatform::new(&Options::default())?;
    let start = started.elapsed();
    let costs = measure(&platform)?;
    let report = Report {
        costs: Costs { start, ..costs },
        map_limit: platform.shared.map_limit,
        xsave: platform.xsave_layout(),
        memory_limit: platform.memory().limit(),
    };
    platform.shutdown();
    Ok(report)
}

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x1000_0000;
const PAGE: u64 = base::PAGE_SIZE;
const ROUNDS: u32 = 3;
const RW: Access = Access::READ.union(Access::WRITE);

const PROGRAM: [u8; 49] = [
    0x0f, 0x05, 0xeb, 0xfc, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 0: syscall; jmp 0; 4: ud2
    0x88, 0x07, 0x0f, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 16: mov [rdi], al; syscall
    0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, // 32: mov [rdi], al; add rdi, 4096
    0x48, 0xff, 0xce, 0x75, 0xf2, 0x0f, 0x05, 0x90, // dec rsi; jnz 32; syscall
];

/// The guest of the measurements.
struct Guest {
    space: Arc<dyn AddressSpace>,
    context: Box<dyn Context>,
    regs: UserRegs,
}

impl Guest {
    fn go(&mut self, want: Trap) -> Result<(), Error> {
        let trap = self.context.switch(&self.space, &mut self.regs)?;
        if trap == want {
            return Ok(());
        }
        Err(Error::Broken(format!("systrap: {trap:?} instead of {want:?} at {:#x}", self.regs.rip)))
    }

    /// Touches `pages` pages at [`DATA`].
    fn touch(&mut self, pages: u32) -> Result<Duration, Error> {
        (self.regs.rip, self.regs.rdi, self.regs.rsi) = (CODE + 32, DATA, pages.into());
        let started = Instant::now();
        self.go(Trap::Syscall)?;
        Ok(started.elapsed())
    }
}

/// The shortest of some runs: what disturbs makes things longer only.
fn least(mut run: impl FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        run()?;
        least = least.min(started.elapsed());
    }
    Ok(least)
}

fn measure(platform: &Arc<SystrapPlatform>) -> Result<Costs, Error> {
    let memory = platform.memory();
    let allocate = |pages: u64| {
        memory
            .allocate(pages * PAGE, PAGE, MemKind::Anonymous)
            .map_err(|e| Error::Exhausted(format!("systrap: memory file: {e}")))
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
    costs.syscall = least(|| (0..calls).try_for_each(|_| guest.go(Trap::Syscall)))? / calls;
    let invalid = Trap::Exception { vector: 6, code: 0 };
    guest.regs.rip = CODE + 4;
    costs.exception = least(|| (0..calls).try_for_each(|_| guest.go(invalid)))? / calls;

    let pages = 64u32;
    let data = allocate(pages.into())?;
    memory.populate(data);
    let both = least(|| {
        for i in 0..u64::from(pages) {
            // Every second page, so that no two mappings are one.
            let (addr, page) = (DATA + 2 * i * PAGE, MemRange { offset: data.offset + i * PAGE, len: PAGE });
            (guest.regs.rip, guest.regs.rdi) = (CODE + 16, addr);
            guest.go(Trap::Fault { addr, access: Access::WRITE })?;
            guest.space.map(addr, page, RW)?;
            guest.go(Trap::Syscall)?;
        }
        guest.space.unmap(DATA, 2 * u64::from(pages) * PAGE);
        Ok(())
    })? / pages;
    costs.fault = both.saturating_sub(costs.syscall);

    let many = 1024u32;
    let fresh = allocate(many.into())?;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        memory.discard(fresh);
        guest.space.map(DATA, fresh, RW)?;
        best = best.min(guest.touch(many)?);
    }
    costs.touch = best.saturating_sub(costs.syscall) / many;

    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        guest.space.map(DATA, data, RW)?;
        guest.touch(pages)?;
        let started = Instant::now();
        for i in 0..u64::from(pages) {
            guest.space.unmap(DATA + i * PAGE, PAGE);
        }
        best = best.min(started.elapsed());
    }
    costs.shootdown = best / pages;

    let spaces = 5;
    costs.space = least(|| {
        (0..spaces).try_for_each(|_| {
            let mut other = Guest {
                space: platform.new_address_space()?,
                context: platform.new_context()?,
                regs: UserRegs { rip: CODE, rsp: DATA, ..UserRegs::new_user64() },
            };
            other.space.map(CODE, program, Access::READ | Access::EXEC)?;
            other.go(Trap::Syscall)
        })
    })? / spaces;
    for range in [program, data, fresh] {
        memory.dec_ref(range);
    }
    Ok(costs)
}
