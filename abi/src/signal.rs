//! Signals: numbers, actions, `siginfo_t`, `stack_t` and the x86-64 signal context (signal(7), sigaction(2),
//! sigaltstack(2); `asm/signal.h`, `asm-generic/siginfo.h`, `asm/sigcontext.h`, `asm/ucontext.h`).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! numbers {
    ($($name:ident = $nr:literal, $action:ident, $text:literal;)*) => {
        $(#[doc = $text] pub const $name: u32 = $nr;)*

        /// The name in C, such as `SIGTERM`; `None` for real-time signals and for numbers that are no signals.
        pub const fn name(signo: u32) -> Option<&'static str> {
            match signo { $($nr => Some(stringify!($name)),)* _ => None }
        }

        /// What a signal does that is neither caught nor ignored (signal(7)).
        pub const fn default_action(signo: u32) -> DefaultAction {
            match signo { $($nr => DefaultAction::$action,)* _ => DefaultAction::Term }
        }
    };
}

numbers! {
    SIGHUP = 1, Term, "Hang-up of the controlling terminal.";
    SIGINT = 2, Term, "Interrupt from the keyboard.";
    SIGQUIT = 3, Core, "Quit from the keyboard.";
    SIGILL = 4, Core, "Illegal instruction.";
    SIGTRAP = 5, Core, "Breakpoint or single step.";
    SIGABRT = 6, Core, "abort(3).";
    SIGBUS = 7, Core, "Memory access that nothing can satisfy.";
    SIGFPE = 8, Core, "Arithmetic exception.";
    SIGKILL = 9, Term, "Kill; cannot be caught, blocked or ignored.";
    SIGUSR1 = 10, Term, "The first signal for programs' own use.";
    SIGSEGV = 11, Core, "Invalid memory reference.";
    SIGUSR2 = 12, Term, "The second signal for programs' own use.";
    SIGPIPE = 13, Term, "Write to a pipe without readers.";
    SIGALRM = 14, Term, "Timer of alarm(2).";
    SIGTERM = 15, Term, "Termination.";
    SIGSTKFLT = 16, Term, "Stack fault of a coprocessor; unused.";
    SIGCHLD = 17, Ign, "A child stopped, continued or ended.";
    SIGCONT = 18, Cont, "Continue when stopped.";
    SIGSTOP = 19, Stop, "Stop; cannot be caught, blocked or ignored.";
    SIGTSTP = 20, Stop, "Stop from the keyboard.";
    SIGTTIN = 21, Stop, "Terminal input of a background process.";
    SIGTTOU = 22, Stop, "Terminal output of a background process.";
    SIGURG = 23, Ign, "Urgent data on a socket.";
    SIGXCPU = 24, Core, "CPU time limit exceeded.";
    SIGXFSZ = 25, Core, "File size limit exceeded.";
    SIGVTALRM = 26, Term, "Virtual timer.";
    SIGPROF = 27, Term, "Profiling timer.";
    SIGWINCH = 28, Ign, "The window changed its size.";
    SIGIO = 29, Term, "I/O is possible.";
    SIGPWR = 30, Term, "Power failure.";
    SIGSYS = 31, Core, "Bad system call.";
}

/// The first real-time signal (of the kernel: the C library keeps two for itself).
pub const SIGRTMIN: u32 = 32;
/// The last signal, `_NSIG`.
pub const NSIG: u32 = 64;
/// The size of the kernel's `sigset_t`, which the `rt_sig*` calls demand.
pub const SIGSET_SIZE: u64 = 8;

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// `sigprocmask(2)`: add to the mask.
pub const SIG_BLOCK: u64 = 0;
/// `sigprocmask(2)`: take from the mask.
pub const SIG_UNBLOCK: u64 = 1;
/// `sigprocmask(2)`: replace the mask.
pub const SIG_SETMASK: u64 = 2;

/// What a signal does by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Ends the process.
    Term,
    /// Ends the process with a core dump.
    Core,
    /// Nothing.
    Ign,
    /// Stops the process.
    Stop,
    /// Continues the process.
    Cont,
}

/// Whether `signo` is a signal, `1..=64`.
pub const fn is_valid(signo: u32) -> bool {
    signo >= 1 && signo <= NSIG
}

/// A set of signals: the kernel's `sigset_t`, bit `n - 1` for signal `n`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Every signal.
    pub const ALL: Self = Self(u64::MAX);
    /// The two that no mask can hold: `SIGKILL` and `SIGSTOP`.
    pub const UNBLOCKABLE: Self = Self::of(&[SIGKILL, SIGSTOP]);
    /// The signals that an instruction raises (`SYNCHRONOUS_MASK`): delivered before all others.
    pub const SYNCHRONOUS: Self = Self::of(&[SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS]);
    /// The signals that stop by default.
    pub const STOPPING: Self = Self::of(&[SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);

    /// The set of `signals`; numbers that are no signals are left out.
    pub const fn of(signals: &[u32]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < signals.len() {
            bits |= Self::bit(signals[i]);
            i += 1;
        }
        Self(bits)
    }

    const fn bit(signo: u32) -> u64 {
        if is_valid(signo) { 1 << (signo - 1) } else { 0 }
    }

    /// Whether it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it holds `signo`.
    pub const fn contains(self, signo: u32) -> bool {
        self.0 & Self::bit(signo) != 0
    }

    /// Adds `signo`.
    pub const fn insert(&mut self, signo: u32) {
        self.0 |= Self::bit(signo);
    }

    /// Takes `signo` out.
    pub const fn remove(&mut self, signo: u32) {
        self.0 &= !Self::bit(signo);
    }

    /// The signals of this set that `other` does not hold.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// As a mask: without `SIGKILL` and `SIGSTOP`.
    pub const fn as_mask(self) -> Self {
        self.without(Self::UNBLOCKABLE)
    }

    /// The lowest signal in it.
    pub const fn first(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() + 1) }
    }

    /// The signals in it, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (1..=NSIG).filter(move |&n| self.contains(n))
    }
}

impl BitOr for SigSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for SigSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for SigSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for SigSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

bitflags! {
    /// `SA_*`: the flags of an action.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SaFlags: u64 {
        /// No `SIGCHLD` when a child stops.
        const NOCLDSTOP = 1;
        /// Children leave no zombies.
        const NOCLDWAIT = 2;
        /// The handler takes three arguments.
        const SIGINFO = 4;
        /// Reads as clear: how programs ask whether unknown flags are cleared.
        const UNSUPPORTED = 0x400;
        /// Tag bits of fault addresses are shown; no effect on x86.
        const EXPOSE_TAGBITS = 0x800;
        /// `restorer` is set; x86-64 demands it.
        const RESTORER = 0x0400_0000;
        /// Run on the alternate stack.
        const ONSTACK = 0x0800_0000;
        /// Restart interrupted calls.
        const RESTART = 0x1000_0000;
        /// Do not block the signal itself meanwhile.
        const NODEFER = 0x4000_0000;
        /// Back to the default on delivery.
        const RESETHAND = 0x8000_0000;
    }
}

impl SaFlags {
    /// Those that the kernel keeps (`UAPI_SA_FLAGS`).
    pub const KEPT: Self = Self::all().difference(Self::UNSUPPORTED);
}

/// `struct sigaction` as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SigAction {
    /// [`SIG_DFL`], [`SIG_IGN`] or the handler's address.
    pub handler: u64,
    /// [`SaFlags`], raw.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// What is blocked while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// The flags.
    pub const fn sa_flags(&self) -> SaFlags {
        SaFlags::from_bits_truncate(self.flags)
    }

    /// Whether it is a handler's address.
    pub const fn is_handler(&self) -> bool {
        self.handler != SIG_DFL && self.handler != SIG_IGN
    }
}

/// `si_code`: how a signal came about.
pub mod code {
    #![expect(missing_docs, reason = "sigaction(2) has the meaning of every name")]
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_ASYNCIO: i32 = -4;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPC: i32 = 1;
    pub const ILL_ILLOPN: i32 = 2;
    pub const ILL_PRVOPC: i32 = 5;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_INTOVF: i32 = 2;
    pub const FPE_FLTDIV: i32 = 3;
    pub const FPE_FLTOVF: i32 = 4;
    pub const FPE_FLTUND: i32 = 5;
    pub const FPE_FLTRES: i32 = 6;
    pub const FPE_FLTINV: i32 = 7;
    pub const FPE_FLTSUB: i32 = 8;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const SEGV_BNDERR: i32 = 3;
    pub const SEGV_PKUERR: i32 = 4;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const BUS_OBJERR: i32 = 3;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const TRAP_HWBKPT: i32 = 4;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const POLL_IN: i32 = 1;
    pub const POLL_OUT: i32 = 2;
    pub const POLL_MSG: i32 = 3;
    pub const POLL_ERR: i32 = 4;
    pub const POLL_PRI: i32 = 5;
    pub const POLL_HUP: i32 = 6;
    pub const SYS_SECCOMP: i32 = 1;
    pub const SYS_USER_DISPATCH: i32 = 2;
}

/// `siginfo_t`: 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SigInfo {
    /// `si_signo`.
    pub signo: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    pad: i32,
    /// The union `_sifields`.
    fields: [u8; 112],
}

impl SigInfo {
    /// One with an empty union.
    pub const fn new(signo: u32, code: i32) -> Self {
        Self { signo: signo as i32, errno: 0, code, pad: 0, fields: [0; 112] }
    }

    /// From the kernel itself, with nothing more to say.
    pub const fn kernel(signo: u32) -> Self {
        Self::new(signo, code::SI_KERNEL)
    }

    /// Of kill(2) (`SI_USER`) or tgkill(2) (`SI_TKILL`) by process `pid` of user `uid`.
    pub fn kill(signo: u32, code: i32, pid: i32, uid: u32) -> Self {
        Self::new(signo, code).put(0, &pid.to_ne_bytes()).put(4, &uid.to_ne_bytes())
    }

    /// Of an exception at or about `addr`.
    pub fn fault(signo: u32, code: i32, addr: u64) -> Self {
        Self::new(signo, code).put(0, &addr.to_ne_bytes())
    }

    /// `SIGCHLD` about child `pid`: `status` is its exit status or signal; times are in clock ticks (`USER_HZ`).
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, utime: i64, stime: i64) -> Self {
        Self::kill(SIGCHLD, code, pid, uid)
            .put(8, &status.to_ne_bytes())
            .put(16, &utime.to_ne_bytes())
            .put(24, &stime.to_ne_bytes())
    }

    /// Of POSIX timer `id`.
    pub fn timer(signo: u32, id: i32, overrun: i32, value: u64) -> Self {
        Self::new(signo, code::SI_TIMER)
            .put(0, &id.to_ne_bytes())
            .put(4, &overrun.to_ne_bytes())
            .put(8, &value.to_ne_bytes())
    }

    /// Of sigqueue(3) and its like: with a value.
    pub fn queue(signo: u32, code: i32, pid: i32, uid: u32, value: u64) -> Self {
        Self::kill(signo, code, pid, uid).put(8, &value.to_ne_bytes())
    }

    /// `SIGIO` about descriptor `fd`.
    pub fn poll(signo: u32, code: i32, band: i64, fd: i32) -> Self {
        Self::new(signo, code).put(0, &band.to_ne_bytes()).put(8, &fd.to_ne_bytes())
    }

    /// `SIGSYS` about system call `nr` of `arch` (`AUDIT_ARCH_*`), made at `call_addr`.
    pub fn sys(code: i32, call_addr: u64, nr: i32, arch: u32, errno: i32) -> Self {
        let mut info = Self::new(SIGSYS, code)
            .put(0, &call_addr.to_ne_bytes())
            .put(8, &nr.to_ne_bytes())
            .put(12, &arch.to_ne_bytes());
        info.errno = errno;
        info
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        if let Some(to) = self.fields.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.fields.get(at..).and_then(|f| f.first_chunk()).copied().unwrap_or([0; N])
    }

    /// `si_pid`, or the timer's id.
    pub fn pid(&self) -> i32 {
        i32::from_ne_bytes(self.field(0))
    }

    /// Replaces `si_pid`.
    pub fn set_pid(&mut self, pid: i32) {
        *self = self.put(0, &pid.to_ne_bytes());
    }

    /// Replaces `si_uid`.
    pub fn set_uid(&mut self, uid: u32) {
        *self = self.put(4, &uid.to_ne_bytes());
    }

    /// `si_uid`.
    pub fn uid(&self) -> u32 {
        u32::from_ne_bytes(self.field(4))
    }

    /// `si_overrun` of a timer.
    pub fn overrun(&self) -> i32 {
        i32::from_ne_bytes(self.field(4))
    }

    /// Sets `si_overrun`, which is known only when the signal is delivered.
    pub fn set_overrun(&mut self, overrun: i32) {
        *self = self.put(4, &overrun.to_ne_bytes());
    }

    /// `si_status`.
    pub fn status(&self) -> i32 {
        i32::from_ne_bytes(self.field(8))
    }

    /// `si_value`, as the wider of the union.
    pub fn value(&self) -> u64 {
        u64::from_ne_bytes(self.field(8))
    }

    /// `si_addr`.
    pub fn addr(&self) -> u64 {
        u64::from_ne_bytes(self.field(0))
    }

    /// `si_utime` of a child, in clock ticks.
    pub fn utime(&self) -> i64 {
        i64::from_ne_bytes(self.field(16))
    }

    /// `si_stime` of a child, in clock ticks.
    pub fn stime(&self) -> i64 {
        i64::from_ne_bytes(self.field(24))
    }

    /// `si_band` of `SIGIO`.
    pub fn band(&self) -> i64 {
        i64::from_ne_bytes(self.field(0))
    }

    /// `si_fd` of `SIGIO`.
    pub fn fd(&self) -> i32 {
        i32::from_ne_bytes(self.field(8))
    }
}

/// `stack_t`: an alternate signal stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StackT {
    /// The lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: u32,
    /// Unused.
    pub pad: u32,
    /// Length in bytes; 0 when there is none.
    pub size: u64,
}

impl Default for StackT {
    fn default() -> Self {
        Self::NONE
    }
}

impl StackT {
    /// No stack: what a thread starts with.
    pub const NONE: Self = Self { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };
}

/// The thread runs on the stack.
pub const SS_ONSTACK: u32 = 1;
/// There is no stack.
pub const SS_DISABLE: u32 = 2;
/// The stack is taken away while a handler runs.
pub const SS_AUTODISARM: u32 = 1 << 31;
/// The smallest alternate stack.
pub const MINSIGSTKSZ: u64 = 2048;

/// `uc_flags`: there is an XSAVE area.
pub const UC_FP_XSTATE: u64 = 1;
/// `uc_flags`: `ss` is saved.
pub const UC_SIGCONTEXT_SS: u64 = 2;
/// `uc_flags`: `ss` is restored as it stands.
pub const UC_STRICT_RESTORE_SS: u64 = 4;

/// `struct sigcontext` (64 bit): the registers of the interrupted code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the processor's registers")]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    /// Address of the floating-point state, or 0.
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `struct ucontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct UContext {
    /// `UC_*`.
    pub flags: u64,
    /// Always 0.
    pub link: u64,
    /// The alternate stack.
    pub stack: StackT,
    /// The registers.
    pub mcontext: SigContext,
    /// The signal mask to return to.
    pub sigmask: SigSet,
}

/// `struct rt_sigframe` (64 bit): what a handler finds at RSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RtSigFrame {
    /// The return address: `sa_restorer`.
    pub pretcode: u64,
    /// The context.
    pub uc: UContext,
    /// Why.
    pub info: SigInfo,
}

/// `FP_XSTATE_MAGIC1`, in [`FpxSwBytes`].
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// `FP_XSTATE_MAGIC2`, behind the XSAVE area.
pub const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where [`FpxSwBytes`] lies in the FXSAVE area, whose last 48 bytes are software's.
pub const FPX_SW_BYTES_OFFSET: usize = 464;

/// `struct _fpx_sw_bytes`: what the frame says of its XSAVE area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FpxSwBytes {
    /// [`FP_XSTATE_MAGIC1`].
    pub magic1: u32,
    /// The length of the area with the second magic number.
    pub extended_size: u32,
    /// The features in it.
    pub xfeatures: u64,
    /// The length of the area.
    pub xstate_size: u32,
    /// Zero.
    pub padding: [u32; 7],
}

const _: () = {
    assert!(size_of::<SigAction>() == 32);
    assert!(size_of::<SigInfo>() == 128);
    assert!(size_of::<StackT>() == 24);
    assert!(size_of::<SigContext>() == 256);
    assert!(size_of::<UContext>() == 304);
    assert!(size_of::<RtSigFrame>() == 440);
    assert!(size_of::<FpxSwBytes>() == 48);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_signals_and_nothing_else() {
        let mut set = SigSet::of(&[SIGHUP, 64, 0, 65]);
        assert_eq!(set.0, 1 | 1 << 63);
        set.remove(1);
        assert_eq!(set.first(), Some(64));
        assert_eq!(SigSet::ALL.as_mask().iter().count(), 62);
    }

    #[test]
    fn every_signal_has_linux_default() {
        assert_eq!(default_action(SIGCHLD), DefaultAction::Ign);
        assert_eq!(default_action(SIGSYS), DefaultAction::Core);
        assert_eq!(default_action(40), DefaultAction::Term);
        assert_eq!(name(SIGTERM), Some("SIGTERM"));
    }
}
