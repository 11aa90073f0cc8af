//! Debug registers (`u_debugreg` of `PTRACE_POKEUSER`): breakpoints and watchpoints.
//!
//! A tracer's breakpoints are not put into the processor. A thread that has any runs one instruction after the other, and
//! what each has changed is looked at: slower than the processor would, and much faster than a tracer could step. So a store that
//! leaves a value as it was is not seen, and reads cannot be watched.
//!
//! Source: Linux 6.18 arch/x86/kernel/ptrace.c, `ptrace_set_debugreg`; hw_breakpoint.c, `arch_parse_hw_breakpoint`.

use abi::errno::{EINVAL, EIO, ENOSPC};
use abi::signal::SigInfo;
use abi::{Errno, UserAddr};

use super::{Trace, flag};
use crate::mm::MemoryManager;
use crate::signal::SIGTRAP;
use crate::task::Ctx;

/// Bits of the status register that are always set.
const STATUS_FIXED: u64 = 0xffff_0ff0;
/// The status after a single step.
const STATUS_STEP: u64 = 0x4000;
/// `si_code`: a breakpoint of the processor.
const TRAP_HWBKPT: i32 = 4;

/// What a breakpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Execute,
    /// A store to so many bytes.
    Write(usize),
}

/// A thread's debug registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Debug {
    addresses: [u64; 4],
    control: u64,
    status: u64,
    /// What was at the addresses of watchpoints.
    seen: [u64; 4],
}

impl Debug {
    /// What breakpoint `n` is for, if it is on.
    ///
    /// # Errors
    /// `EINVAL`: there is no such kind, or the address does not fit; `ENOSPC`: reads cannot be watched.
    fn kind(&self, n: usize) -> Result<Option<Kind>, Errno> {
        if self.control >> (2 * n) & 3 == 0 {
            return Ok(None);
        }
        let bits = self.control >> (16 + 4 * n);
        let len = [1, 2, 8, 4][(bits >> 2 & 3) as usize];
        match (bits & 3, len) {
            (0, 1) => Ok(Some(Kind::Execute)),
            (0 | 2, _) => Err(EINVAL),
            _ if !self.addresses[n].is_multiple_of(len as u64) => Err(EINVAL),
            (1, _) => Ok(Some(Kind::Write(len))),
            _ => Err(ENOSPC),
        }
    }

    /// Register `n`, as a tracer sees it.
    pub(super) fn get(&self, n: usize) -> u64 {
        match n {
            0..=3 => self.addresses[n],
            6 => self.status ^ STATUS_FIXED,
            7 => self.control,
            _ => 0,
        }
    }

    /// Sets register `n`.
    ///
    /// # Errors
    /// `EIO`: there is no such register; `EINVAL`, `ENOSPC`.
    pub(super) fn set(&mut self, n: usize, value: u64) -> Result<(), Errno> {
        let mut new = *self;
        match n {
            0..=3 if value >= abi::mman::TASK_SIZE => return Err(EINVAL),
            0..=3 => new.addresses[n] = value,
            6 => new.status = value ^ STATUS_FIXED,
            7 => new.control = value,
            _ => return Err(EIO),
        }
        for n in 0..4 {
            new.kind(n)?;
        }
        *self = new;
        Ok(())
    }

    /// Looks at what is watched, and says which breakpoints (as bits) an instruction has hit after which the next one is
    /// at `rip`.
    fn look(&mut self, mm: &MemoryManager, rip: u64) -> u64 {
        let mut hits = 0;
        for n in 0..4 {
            let is_hit = match self.kind(n) {
                Ok(Some(Kind::Execute)) => self.addresses[n] == rip,
                Ok(Some(Kind::Write(len))) => {
                    let mut bytes = [0; 8];
                    let got = mm.peek(UserAddr(self.addresses[n]), bytes.get_mut(..len).unwrap_or_default());
                    let now = if got == Ok(len) { u64::from_le_bytes(bytes) } else { self.seen[n] };
                    std::mem::replace(&mut self.seen[n], now) != now
                }
                _ => false,
            };
            hits |= u64::from(is_hit) << n;
        }
        hits
    }

    fn is_on(&self) -> bool {
        (0..4).any(|n| self.kind(n).is_ok_and(|kind| kind.is_some()))
    }
}

impl Trace {
    /// Whether the thread has breakpoints.
    pub(crate) fn watches(&self) -> bool {
        self.has(flag::WATCH)
    }

    /// Sets a debug register.
    ///
    /// # Errors
    /// As [`Debug::set`].
    pub(super) fn set_debug(&self, n: usize, value: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.debug.set(n, value)?;
        self.set(flag::WATCH, state.debug.is_on());
        Ok(())
    }

    /// A debug register.
    pub(super) fn debug(&self, n: usize) -> u64 {
        self.state.lock().debug.get(n)
    }

    /// A new program has no breakpoints.
    pub(super) fn forget_debug(&self) {
        if self.is_traced() {
            self.state.lock().debug = Debug::default();
            self.set(flag::WATCH, false);
        }
    }
}

impl Ctx<'_> {
    /// Takes what is watched as it is.
    pub(super) fn refresh_debug(&self) {
        if self.task.trace.watches() {
            self.look_at_watched();
        }
    }

    fn look_at_watched(&self) -> u64 {
        // Guest memory is looked at without the lock; only the thread itself changes what was seen.
        let mut debug = self.task.trace.state.lock().debug;
        let hits = debug.look(&self.mm, self.regs.rip);
        self.task.trace.state.lock().debug.seen = debug.seen;
        hits
    }

    /// An instruction was carried out by a thread that had breakpoints when it began; the tracer may have ended since, and
    /// its breakpoints with it.
    pub(crate) fn debug_exception(&mut self) {
        let steps = self.task.trace.steps();
        if steps {
            self.regs.rflags &= !abi::regs::FLAG_TF;
        }
        let hits = self.look_at_watched();
        if hits == 0 && !steps {
            return;
        }
        self.task.trace.state.lock().debug.status = hits | if steps { STATUS_STEP } else { 0 };
        let code = if steps { 2 } else { TRAP_HWBKPT };
        self.force_signal(SigInfo::fault(SIGTRAP as u32, code, self.regs.rip));
    }

    /// A system call was made: it may have led to a breakpoint. What it wrote nobody is told of.
    pub(crate) fn debug_after_call(&mut self) {
        let before = self.task.trace.state.lock().debug;
        let hits = self.look_at_watched();
        let is_execute = |n: usize| before.kind(n) == Ok(Some(Kind::Execute));
        let hits: u64 = (0..4).filter(|&n| is_execute(n)).map(|n| hits & 1 << n).sum();
        if hits != 0 && !self.task.trace.steps() {
            self.task.trace.state.lock().debug.status = hits;
            self.force_signal(SigInfo::fault(SIGTRAP as u32, TRAP_HWBKPT, self.regs.rip));
        }
    }
}
