//! The loop of a guest thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::regs::UserRegs;
use abi::signal::SigInfo;
use base::cred::Credentials;
use base::lock::{Lock, rank};
use platform::{Context, Trap};

use super::{FdTable, FsContext, Phase, Task};
use crate::mm::{Fault, MemoryManager};
use crate::signal::frame::TrapInfo;
use crate::signal::{ILL_ILLOPN, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGTRAP};
use crate::syscall::{Restart, Stop};

/// What a thread owns while it runs; handlers get it as `cx`.
pub struct Ctx<'a> {
    /// The thread.
    pub task: Arc<Task>,
    /// Its address space.
    pub mm: Arc<MemoryManager>,
    /// Its descriptors.
    pub files: Arc<FdTable>,
    /// Root and working directory.
    pub fs: Arc<Lock<FsContext, { rank::FS_CONTEXT }>>,
    /// Credentials.
    pub cred: Arc<Credentials>,
    /// User registers.
    pub regs: UserRegs,
    /// The processor state.
    pub context: &'a mut dyn Context,
    /// The alternate signal stack.
    pub altstack: abi::signal::StackT,
    /// rseq(2).
    pub rseq: super::rseq::Rseq,
    /// A mask to be restored once the signal that ended `sigsuspend` or `ppoll` is delivered.
    pub saved_mask: Option<u64>,
    /// `set_tid_address`.
    pub clear_tid: u64,
    /// The deadline that a restarted sleep goes on with.
    pub restart_deadline: Option<u64>,
    /// The parent that waits in vfork.
    pub vfork_done: Option<Arc<super::clone::VforkDone>>,
    /// The last exception, for signal frames.
    pub trap: TrapInfo,
    /// The thread's page in the window, when the address space has patched call sites.
    pub window_page: Option<super::WindowPage>,
    /// The restrictions that its calls are checked against.
    pub seccomp: crate::seccomp::Current,
    /// How far its clocks are ahead, in its time namespace.
    pub offsets: crate::ns::time::Offsets,
    /// What calls that would wait do.
    pub waiting: super::block::Waiting,
    /// Set when the thread has ended.
    pub ended: bool,
}

impl Ctx<'_> {
    /// Runs user code until the thread ends.
    pub fn run(&mut self) {
        loop {
            if self.has_signal() {
                self.deliver_signals(None);
                if self.task.must_exit() {
                    self.exit_thread();
                    return;
                }
            }
            if !self.prepare_rseq() {
                continue;
            }
            self.prepare_window();
            let space = self.mm.space().clone();
            self.task.account.enter(Phase::User);
            let watches = self.task.trace.watches();
            if watches {
                self.regs.rflags |= abi::regs::FLAG_TF;
            }
            let trap = self.context.switch(&space, &mut self.regs);
            self.task.account.enter(Phase::Kernel);
            if watches && !self.task.trace.steps() {
                self.regs.rflags &= !abi::regs::FLAG_TF;
            }
            let trap = match trap {
                Ok(trap) => match self.outside_window(trap) {
                    Some(trap) => Ok(trap),
                    None => continue,
                },
                e => e,
            };
            match trap {
                Ok(Trap::Syscall) => self.system_call(),
                Ok(Trap::Syscall32) => {
                    // The i386 table is absent: every number is unknown.
                    self.regs.rax = (-i64::from(abi::errno::ENOSYS.raw())) as u64;
                }
                Ok(Trap::Fault { addr, access }) => self.page_fault(addr, access),
                Ok(Trap::Exception { vector: 1, .. }) if watches => self.debug_exception(),
                Ok(Trap::Exception { vector, code }) => self.exception(vector, code),
                Ok(Trap::Interrupted) => self.task.account.count_interruption(),
                Err(e) => {
                    log::error!("task {}: {e}", self.task.tid);
                    self.kill_group(SIGKILL);
                }
            }
        }
    }

    fn page_fault(&mut self, addr: u64, access: base::memmap::Access) {
        self.task.kernel.faults.fetch_add(1, Ordering::Relaxed);
        self.task.account.count_fault();
        let bits = match access {
            a if a.contains(base::memmap::Access::WRITE) => 2,
            a if a.contains(base::memmap::Access::EXEC) => 16,
            _ => 0,
        };
        self.trap = TrapInfo { trapno: 14, err: 4 | bits, cr2: addr };
        let result = self.mm.handle_fault(addr, access);
        // The processor's "protection" bit: there is a page, and it does not allow this. Linux sets it for kernel
        // addresses too, so that nobody learns what is mapped there (arch/x86/mm/fault.c, sanitize_error_code).
        let is_present = match &result {
            Err(Fault::Denied) => {
                access != base::memmap::Access::READ
                    && self.mm.handle_fault(addr, base::memmap::Access::READ).is_ok()
            }
            Err(Fault::NotMapped) => addr >= self.mm.task_size(),
            _ => false,
        };
        self.trap.err |= u64::from(is_present);
        let info = match result {
            Ok(()) => return,
            Err(Fault::NotMapped) => SigInfo::fault(SIGSEGV as u32, 1, addr),
            Err(Fault::Denied) => SigInfo::fault(SIGSEGV as u32, 2, addr),
            Err(Fault::Bus) => SigInfo::fault(SIGBUS as u32, 2, addr),
            // With what host files leave behind given back, the fault comes again.
            Err(Fault::OutOfMemory) if fs::hostfs::reclaim() > 0 => return,
            Err(Fault::OutOfMemory) => return self.kill_group(SIGKILL),
            Err(Fault::Platform(e)) => {
                log::error!("task {}: {e}", self.task.tid);
                return self.kill_group(SIGKILL);
            }
        };
        self.force_signal(info);
    }

    /// Linux arch/x86/kernel/traps.c: which exception becomes which signal.
    fn exception(&mut self, vector: u8, code: u32) {
        let (vector, code) =
            if vector == 6 { self.software_interrupt().unwrap_or((6, code)) } else { (vector, code) };
        let rip = self.regs.rip;
        self.trap = TrapInfo { trapno: vector.into(), err: code.into(), cr2: self.trap.cr2 };
        if vector == 1 && self.task.trace.steps() {
            self.regs.rflags &= !abi::regs::FLAG_TF;
        }
        let info = match vector {
            0 => SigInfo::fault(SIGFPE as u32, 1, rip),
            1 => SigInfo::fault(SIGTRAP as u32, 2, rip),
            3 => SigInfo::kernel(SIGTRAP as u32),
            4 => SigInfo::kernel(SIGSEGV as u32),
            6 => SigInfo::fault(SIGILL as u32, ILL_ILLOPN, rip),
            16 | 19 => SigInfo::fault(SIGFPE as u32, 3, rip),
            17 => SigInfo::fault(SIGBUS as u32, 1, 0),
            _ => SigInfo::kernel(SIGSEGV as u32),
        };
        self.force_signal(info);
    }

    /// `int N`, which the software KVM reports as an invalid opcode: what the processor makes of it. Only the gates of
    /// vectors 3 and 4 are open to user code; the platform knows 0x80 itself.
    fn software_interrupt(&mut self) -> Option<(u8, u32)> {
        let [opcode, vector]: [u8; 2] = self.mm.read_value(abi::UserAddr(self.regs.rip)).ok()?;
        match (opcode, vector) {
            (0xcd, 3 | 4) => {
                self.regs.rip = self.regs.rip.wrapping_add(2);
                Some((vector, 0))
            }
            (0xcd, n) => Some((13, u32::from(n) * 8 + 2)),
            _ => None,
        }
    }

    fn system_call(&mut self) {
        let nr = self.regs.rax;
        self.mm.count_call(self.regs.rip.wrapping_sub(2), nr);
        self.regs.orig_rax = nr;
        self.regs.rax = (-i64::from(abi::errno::ENOSYS.raw())) as u64;
        self.task.kernel.count_syscall();
        let args = [self.regs.rdi, self.regs.rsi, self.regs.rdx, self.regs.r10, self.regs.r8, self.regs.r9];
        let (nr, args, made) = self.traced_entry(nr, args);
        let result = if !made {
            Ok(self.regs.rax)
        } else if self.task.seccomp.is_on() {
            self.restricted_call(nr, args)
        } else {
            crate::syscall::dispatch(self, nr, args)
        };
        crate::signal::async_io::send_due();
        let restart = match result {
            Ok(v) => {
                self.task.account.count_io(nr, v);
                self.regs.rax = v;
                None
            }
            Err(Stop::Fail(e)) => {
                self.regs.rax = (-i64::from(e.raw())) as u64;
                None
            }
            Err(Stop::Restart(kind)) => Some(kind),
            Err(Stop::NoReturn) => None,
        };
        if !matches!(restart, Some(Restart::Block)) {
            self.restart_deadline = None;
        }
        if self.mm.take_out_of_memory() {
            self.kill_group(SIGKILL);
        }
        if self.ended {
            return;
        }
        if self.task.trace.is_traced() {
            if let Some(kind) = restart {
                self.regs.rax = crate::ptrace::restart_code(kind);
            }
            self.trace_call_exit();
        }
        if self.task.trace.watches() {
            self.debug_after_call();
        }
        if restart.is_some() || self.has_signal() || self.saved_mask.is_some() {
            self.deliver_signals(restart);
        }
        self.regs.orig_rax = u64::MAX;
    }

    /// A tracer may look at a call before it is made, change it, and forbid it.
    fn traced_entry(&mut self, nr: u64, args: [u64; 6]) -> (u64, [u64; 6], bool) {
        if !self.task.trace.stops_at_calls() {
            return (nr, args, true);
        }
        let made = self.trace_call_entry();
        let r = &self.regs;
        let nr = r.orig_rax;
        (nr, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], made && nr.cast_signed() >= 0)
    }

    /// CLOCK_MONOTONIC in ns.
    pub fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.task.kernel.time.now(crate::time::Clock::Monotonic).as_ns()).unwrap_or(0)
    }
}
