//! The part of a guest thread's context that enters the guest: borrows a vCPU, runs it, and says what made it leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::regs::{self, UserRegs};
use base::memmap::Access;
use platform::{Error, FpState, ThreadPage, Trap};

use crate::counters::Counters;
use crate::kick::Runner;
use crate::layout::{is_ring0, kernel_address, ring0};
use crate::machine::{Entry, Machine};
use crate::pool::{Cell, Fp, SavedFp, Seat};
use crate::ring0::{self as region, COMPAT_OFFSET, Frame};
use crate::space::KvmSpace;
use crate::vcpu::Exit;
use crate::window::Window;
use crate::xsave;

const DEBUG: u8 = 1;
const INVALID_OPCODE: u8 = 6;
pub(crate) const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const INT80: u8 = 0x80;

/// Page-fault error code: the access was a store, an instruction fetch.
const CODE_WRITE: u32 = 1 << 1;
const CODE_FETCH: u32 = 1 << 4;

/// What it takes to run a guest thread; used by one host thread at a time.
pub(crate) struct Engine {
    pub(crate) machine: Arc<Machine>,
    pub(crate) runner: Arc<Runner>,
    fp: Arc<SavedFp>,
    /// The vCPU used last; another context may have taken it since.
    cell: Option<Arc<Cell>>,
    window: Window,
    pub(crate) page: Option<ThreadPage>,
}

/// What a stay gave.
enum Stay {
    Trap(Trap),
    Interrupted,
}

impl Engine {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        let runner = Arc::new(Runner::default());
        machine.runners.add(runner.clone());
        Self {
            machine,
            runner,
            fp: Arc::new(SavedFp::new(Fp::Initial)),
            cell: None,
            window: Window::default(),
            page: None,
        }
    }

    /// Runs in `space` once; `Ok(None)`: the platform wants the context to come again.
    fn stay(&mut self, space: &KvmSpace, r: &mut UserRegs, stop: &AtomicBool) -> Result<Option<Trap>, Error> {
        let mut seat = loop {
            if let Some(seat) = self.cell.as_ref().and_then(|cell| cell.sit(&self.fp)) {
                break seat;
            }
            self.cell = Some(self.machine.pool.take(&self.machine, &self.fp)?);
        };
        if !self.runner.enter(seat.vcpu.immediate_exit(), space.id()) {
            return Ok(Some(Trap::Interrupted));
        }
        // Who sets it recalls the runner next: that came before `enter`, or interrupts this stay.
        if stop.load(Ordering::SeqCst) {
            self.runner.leave(false);
            return Ok(None);
        }
        let hidden_gs = self.page.map_or(0, |page| page.addr);
        seat.vcpu.load(r, space.enter(), hidden_gs);
        let result = run(&self.machine, &mut seat, &mut self.window, r);
        if r.gs_base == hidden_gs {
            r.gs_base = 0;
        }
        space.leave();
        let left = self.runner.leave(matches!(result, Ok(Stay::Interrupted)));
        drop(seat);
        let counters = &self.machine.counters;
        Counters::add(&counters.exits);
        match result? {
            Stay::Interrupted if left.recalled && !left.kicked => Ok(None),
            Stay::Interrupted => Ok(Some(Trap::Interrupted)),
            Stay::Trap(trap @ Trap::Fault { .. }) => {
                self.window.faulted();
                Ok(Some(trap))
            }
            Stay::Trap(trap) => Ok(Some(int80(&self.machine, space, r, trap))),
        }
    }

    /// Runs in `space` until there is something to report, or, with `None`, `stop` is set and the runner recalled.
    pub(crate) fn run(
        &mut self,
        space: &KvmSpace,
        r: &mut UserRegs,
        stop: &AtomicBool,
    ) -> Result<Option<Trap>, Error> {
        let machine = self.machine.clone();
        let counters = &machine.counters;
        loop {
            if let Some(trap) = self.stay(space, r, stop)? {
                Counters::add(match trap {
                    Trap::Syscall | Trap::Syscall32 => &counters.syscalls,
                    Trap::Fault { .. } => &counters.faults,
                    Trap::Exception { .. } => &counters.exceptions,
                    Trap::Interrupted => &counters.interruptions,
                });
                return Ok(Some(trap));
            }
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            if machine.pool.waiting.load(Ordering::Relaxed) > 0
                && let Some(cell) = self.cell.take()
            {
                // Recalled for another context's sake: let it take the vCPU, then queue up for one.
                cell.park(&machine.pool, &self.fp);
                std::thread::yield_now();
                self.cell = Some(cell);
            }
        }
    }

    /// The floating-point state.
    pub(crate) fn fp_state(&mut self) -> Result<FpState, Error> {
        let layout = self.machine.cpu.xsave;
        if let Some(seat) = self.cell.as_ref().and_then(|cell| cell.sit(&self.fp)) {
            return Ok(xsave::to_bytes(&seat.vcpu.xsave()?, layout));
        }
        Ok(match &*self.fp.lock() {
            Fp::Saved(state) => xsave::to_bytes(state, layout),
            Fp::Initial | Fp::Loaded => xsave::to_bytes(&xsave::initial(), layout),
        })
    }

    /// Sets the floating-point state.
    pub(crate) fn set_fp_state(&mut self, state: &FpState) -> Result<(), Error> {
        let area = xsave::from_bytes(state, self.machine.cpu.xsave);
        if let Some(seat) = self.cell.as_ref().and_then(|cell| cell.sit(&self.fp)) {
            return seat.vcpu.set_xsave(&area);
        }
        *self.fp.lock() = Fp::Saved(Box::new(area));
        Ok(())
    }

    /// Lets others have the vCPU.
    pub(crate) fn park(&self) {
        if let Some(cell) = &self.cell {
            cell.park(&self.machine.pool, &self.fp);
        }
    }
}

/// The nested software KVM does not know `int 0x80`: an invalid opcode whose bytes are `cd 80` is one.
fn int80(machine: &Machine, space: &KvmSpace, r: &mut UserRegs, trap: Trap) -> Trap {
    if trap == (Trap::Exception { vector: INVALID_OPCODE, code: 0 })
        && machine.entry() != Entry::Stub
        && space.peek(r.rip) == Some([0xcd, INT80])
    {
        r.rip += 2;
        r.rflags &= !RESUME;
        return Trap::Syscall32;
    }
    trap
}

/// RFLAGS.RF: the processor sets it in the frame of a fault.
const RESUME: u64 = 1 << 16;

/// Stays in the guest until there is something to report; `r` becomes the registers of user code.
fn run(machine: &Machine, seat: &mut Seat, window: &mut Window, r: &mut UserRegs) -> Result<Stay, Error> {
    let mut has_window = machine.entry() == Entry::Unbacked && window.is_wanted();
    seat.vcpu.request_window(has_window);
    loop {
        let renewals = machine.memory.renewals();
        match seat.vcpu.run() {
            Exit::Interrupted if seat.vcpu.is_leaving() => {
                // Half-way out: what is reported next belongs to these registers. A kick stays pending.
                seat.vcpu.immediate_exit().set(false);
            }
            Exit::Interrupted => {
                seat.vcpu.store(r);
                return Ok(Stay::Interrupted);
            }
            Exit::Window => {
                has_window = false;
                if seat.vcpu.rip() == kernel_address(ring0::LSTAR_TRAP) {
                    window.paid();
                    seat.vcpu.store(r);
                    return Ok(Stay::Trap(syscall(r, r.rsp)));
                }
                window.disappointed();
                seat.vcpu.request_window(false);
            }
            Exit::Out(port) => return out(machine, seat, r, port).map(Stay::Trap),
            // Pages whose translations were just being renewed: they are there.
            Exit::NoMemory
                if !is_ring0(seat.vcpu.rip())
                    && (!renewals.is_multiple_of(2) || renewals != machine.memory.renewals()) => {}
            Exit::NoMemory => {
                if has_window {
                    window.disappointed();
                }
                return no_memory(machine, seat, r).map(Stay::Trap);
            }
            Exit::Lost(what) => {
                // A triple fault, a failed entry or an emulation that gave up. Which guest instruction did it cannot
                // be told on every processor, so the registers stay those before the stay.
                let rip = seat.vcpu.rip();
                log::debug!("kvm: vCPU {}: {what} at {rip:#x}", seat.vcpu.index);
                Counters::add(&machine.counters.resets);
                seat.vcpu.reset(machine)?;
                return Ok(Stay::Trap(Trap::Exception { vector: GENERAL_PROTECTION, code: 0 }));
            }
            Exit::Failed(e) => return Err(Error::Broken(format!("kvm: KVM_RUN: {e}"))),
        }
    }
}

/// A stub left with `out`.
fn out(machine: &Machine, seat: &mut Seat, r: &mut UserRegs, port: u16) -> Result<Trap, Error> {
    let vcpu = &mut seat.vcpu;
    vcpu.store(r);
    match port {
        region::PORT_SYSCALL => return Ok(syscall(r, r.rsp)),
        region::PORT_SYSCALL_COMPAT => return Ok(compat_syscall(r)),
        region::PORT_VECTOR => {}
        _ => return Err(Error::Broken(format!("kvm: out to port {port:#x} at {:#x}", r.rip))),
    }
    let Some(vector) = region::vector_at(r.rip) else {
        return Err(Error::Broken(format!("kvm: exception stub at {:#x}", r.rip)));
    };
    let frame = region::frame(&machine.ring0, vcpu.index, vector);
    let lstar = kernel_address(machine.lstar());
    if machine.entry() == Entry::PageFault && vector == PAGE_FAULT && vcpu.cr2() == frame.rip {
        if frame.rip == lstar {
            return Ok(syscall(r, frame.rsp));
        }
        if frame.rip == lstar + COMPAT_OFFSET {
            return Ok(compat_syscall(r));
        }
    }
    if frame.cs & 3 == 0 {
        // "mov ss" delays a single step until SYSCALL is in ring 0 (CVE-2018-8897): the system call counts.
        if vector == DEBUG && frame.rip == lstar {
            return Ok(syscall(r, frame.rsp));
        }
        if vector == DEBUG && frame.rip == lstar + COMPAT_OFFSET {
            return Ok(compat_syscall(r));
        }
        return Err(Error::Broken(format!("kvm: exception {vector} in ring 0: {frame:x?}")));
    }
    Ok(exception(vcpu.cr2(), r, vector, frame))
}

/// An exception in user code.
fn exception(cr2: u64, r: &mut UserRegs, vector: u8, frame: Frame) -> Trap {
    r.rip = frame.rip;
    r.rsp = frame.rsp;
    r.rflags = frame.rflags;
    r.cs = if frame.cs & 0xffff == regs::USER32_CS { regs::USER32_CS } else { regs::USER_CS };
    // Long mode may push a null selector; user code has one stack segment.
    r.ss = regs::USER_DS;
    match vector {
        PAGE_FAULT => {
            let access = if frame.code & CODE_FETCH != 0 {
                Access::EXEC
            } else if frame.code & CODE_WRITE != 0 {
                Access::WRITE
            } else {
                Access::READ
            };
            Trap::Fault { addr: cr2, access }
        }
        INT80 => Trap::Syscall32,
        0..32 => Trap::Exception { vector, code: frame.code },
        // No gate but 0x80 lets user code in, and no device interrupts: only KVM itself could.
        _ => Trap::Exception { vector: GENERAL_PROTECTION, code: 0 },
    }
}

/// SYSCALL in 64-bit code: the processor put RIP in RCX and RFLAGS in R11.
fn syscall(r: &mut UserRegs, rsp: u64) -> Trap {
    r.rip = r.rcx;
    r.rflags = r.r11;
    r.rsp = rsp;
    (r.cs, r.ss) = (regs::USER_CS, regs::USER_DS);
    Trap::Syscall
}

/// SYSCALL in 32-bit code, which only AMD processors have: an invalid opcode, as on Intel's.
fn compat_syscall(r: &mut UserRegs) -> Trap {
    r.rip = r.rcx.wrapping_sub(2);
    r.rflags = r.r11;
    (r.cs, r.ss) = (regs::USER32_CS, regs::USER_DS);
    Trap::Exception { vector: INVALID_OPCODE, code: 0 }
}

/// The guest touched a page that has no host memory.
fn no_memory(machine: &Machine, seat: &mut Seat, r: &mut UserRegs) -> Result<Trap, Error> {
    seat.vcpu.store(r);
    let page = kernel_address(ring0::LSTAR_TRAP);
    if machine.entry() == Entry::Unbacked {
        if r.rip == page {
            return Ok(syscall(r, r.rsp));
        }
        if r.rip == page + COMPAT_OFFSET && r.cs == regs::USER32_CS {
            return Ok(compat_syscall(r));
        }
        if is_ring0(r.rip) {
            // A jump into the page, which Linux would not have mapped either.
            return Ok(Trap::Fault { addr: r.rip, access: Access::EXEC });
        }
        // A load or store there, by user code that went looking; KVM does not tell the address. The host being out of
        // memory looks the same, and ends the guest process in the same way.
        return Ok(Trap::Fault { addr: page, access: Access::READ });
    }
    Err(Error::Exhausted(format!("kvm: the host has no memory for a guest page (at {:#x})", r.rip)))
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.machine.runners.remove(&self.runner);
        if let Some(cell) = self.cell.take() {
            cell.give_back(&self.machine.pool, &self.fp);
        }
    }
}
