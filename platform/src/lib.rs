//! What the sentry knows of the machine beneath it: [`Platform`], [`AddressSpace`], [`Context`], [`Trap`] and the
//! [memory file](memory::MemoryFile). How a trap comes about is the platform's secret; see `docs/architecture.md`.
//!
//! Reading order: this file, `memory.rs`, `window.rs` (where patched call sites lead); then the crate `platform/kvm`.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use abi::regs::UserRegs;
use base::memmap::{Access, MemRange};

pub mod memory;
pub mod window;

/// Why user code stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A `syscall` instruction. RIP is behind it; RAX holds the number; RCX and R11 are as the processor leaves them.
    Syscall,
    /// `int 0x80`. RIP is behind it.
    Syscall32,
    /// A page fault at `addr`; RIP is on the instruction.
    Fault {
        /// The faulting address (CR2).
        addr: u64,
        /// What the instruction wanted to do; exactly one bit.
        access: Access,
    },
    /// Any other exception: vector (Intel SDM vol. 3, 6.3.1) and error code (0 where the vector has none). RIP is as
    /// the processor reports it: on the instruction for faults, behind it for traps (`int3`, single step).
    Exception {
        /// The vector, 0 to 31.
        vector: u8,
        /// The error code.
        code: u32,
    },
    /// [`Kick::kick`] was called, or the host delivered a signal; registers are those at the interruption.
    Interrupted,
}

/// A failure of the platform itself. It is never the guest's doing; `OutOfMemory` may end the guest process that
/// asked, the rest ends the sandbox.
#[derive(Debug)]
pub enum Error {
    /// The host is out of memory, descriptors, vCPUs or slots: the text says of what.
    Exhausted(String),
    /// Anything else: text for people (subject, cause, value).
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted(s) | Self::Broken(s) => f.write_str(s),
        }
    }
}

impl std::error::Error for Error {}

/// A machine that runs user code: makes address spaces and contexts.
pub trait Platform: Send + Sync {
    /// The name on the command line, such as `kvm`.
    fn name(&self) -> &'static str;
    /// The memory file, which holds all guest memory.
    fn memory(&self) -> &Arc<memory::MemoryFile>;
    /// The addresses that a guest may map.
    fn guest_range(&self) -> Range<u64>;
    /// Makes an empty address space.
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error>;
    /// Makes a context for one guest thread, with the initial floating-point state.
    fn new_context(&self) -> Result<Box<dyn Context>, Error>;
    /// Size in bytes of the XSAVE area that [`FpState`] holds, and the XCR0 features in it.
    fn xsave_layout(&self) -> XsaveLayout;
    /// Where patched call sites lead; `None`: none are to be patched.
    fn window(&self) -> Option<&Arc<window::Window>> {
        None
    }
    /// The guest's time stamp counter (RDTSC) minus the host's, the same in every context; `None` when it is not known.
    fn tsc_offset(&self) -> Option<i64> {
        None
    }
    /// EAX, EBX, ECX and EDX that the CPUID instruction gives a guest for `leaf` and `index`.
    fn cpuid(&self, leaf: u32, index: u32) -> [u32; 4] {
        let r = std::arch::x86_64::__cpuid_count(leaf, index);
        [r.eax, r.ebx, r.ecx, r.edx]
    }
    /// Ends what runs on the host outside of this process. No context runs user code afterwards.
    fn shutdown(&self) {}
    /// What happened so far, by name, for `--log` and the benchmarks (`exits`, `syscalls`, `faults`, `shootdowns`, …).
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// The guest's XSAVE area (standard, not compacted format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    /// Bytes, at least 576.
    pub size: usize,
    /// The XCR0 bits enabled in the guest.
    pub features: u64,
}

/// Page tables of one guest address space. All methods may be called from any thread while others run in it. All
/// addresses and lengths are multiples of the page size and inside [`Platform::guest_range`], or for `map` and `unmap`
/// inside the [window](Platform::window).
pub trait AddressSpace: Send + Sync + Any {
    /// Maps `range` of the memory file at `addr` with `access`; replaces what was there.
    ///
    /// Whole runs are made present at once; the host fills the pages behind them when they are touched.
    fn map(&self, addr: u64, range: MemRange, access: Access) -> Result<(), Error>;

    /// Says that the mapped pages in `addr..addr + len` are about to be used, all of them. False: the caller is to have the
    /// host provide their memory ([`Memory::populate`](base::memmap::Memory::populate)), which is all that helps here.
    fn provide(&self, addr: u64, len: u64) -> bool {
        let _ = (addr, len);
        false
    }

    /// Removes all mappings in `addr..addr + len`. When it returns no thread can use the old translations.
    fn unmap(&self, addr: u64, len: u64);

    /// Sets the access of those pages in `addr..addr + len` that are mapped. When it returns no thread can use
    /// a translation that allows more.
    fn protect(&self, addr: u64, len: u64, access: Access);

    /// Copies the translations of `ranges` into `child` and removes the write access from both sides, for a fork.
    /// Cheaper than one `protect` and `map` a piece. When it returns no thread can write through an old translation.
    fn fork_into(&self, child: &dyn AddressSpace, ranges: &[Range<u64>]) -> Result<(), Error>;

    /// For downcasts by the platform's own contexts.
    fn as_any(&self) -> &dyn Any;
}

/// The processor state of one guest thread, used by the one host thread that runs it.
pub trait Context: Send {
    /// Runs user code in `space` from `regs` until a trap; `regs` are updated. RFLAGS and the segment selectors in
    /// `regs` are sanitised, so a guest-made register set can do no harm.
    fn switch(&mut self, space: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Result<Trap, Error>;

    /// A handle that makes `switch` return [`Trap::Interrupted`].
    fn kicker(&self) -> Arc<dyn Kick>;

    /// The floating-point state as an XSAVE area of [`XsaveLayout::size`] bytes.
    fn fp_state(&mut self) -> Result<FpState, Error>;

    /// Sets the floating-point state. Bad contents (reserved MXCSR bits, XSTATE_BV beyond the features) are sanitised.
    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Error>;

    /// The thread's page in the [window](Platform::window) from the next `switch` on. While the guest's GS base is 0 the
    /// register leads there, and `switch` reports 0.
    fn set_thread_page(&mut self, page: Option<ThreadPage>) {
        let _ = page;
    }

    /// Says that the thread is about to sleep: what spins for an answer to it need not go on.
    fn relax(&mut self) {}

    /// Says that the thread will block for long: the platform may give its processor to another thread meanwhile.
    fn park(&mut self) -> Result<(), Error>;
}

/// A thread's page in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadPage {
    /// Where user code sees it.
    pub addr: u64,
    /// Its offset in the memory file.
    pub offset: u64,
}

/// Interrupts a context from another thread.
pub trait Kick: Send + Sync {
    /// Makes the current or, when none is under way, the next [`Context::switch`] return [`Trap::Interrupted`].
    /// Never lost; several kicks before a return may count as one.
    fn kick(&self);

    /// What user code of the context has cost on host threads of its own; `None` when it runs on the thread that calls
    /// [`Context::switch`].
    fn guest_cpu(&self) -> Option<GuestCpu> {
        None
    }

    /// Lets the host threads of the context's own, if it has any, run on the processors in `mask` only. The thread that
    /// calls [`Context::switch`] is the caller's to set.
    fn set_affinity(&self, mask: &host::system::CpuMask) {
        let _ = mask;
    }
}

/// Processor time of user code that runs on other threads than the sentry's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCpu {
    /// What user code has used, ns.
    pub user_ns: u64,
    /// What the thread that calls [`Context::switch`] has used to wait awake meanwhile, ns: nobody's.
    pub waited_ns: u64,
}

/// A floating-point state: an XSAVE area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpState(pub Vec<u8>);
