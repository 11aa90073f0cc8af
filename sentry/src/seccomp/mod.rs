//! seccomp(2): filters that decide about each system call before it is dispatched (Linux kernel/seccomp.c).
//!
//! Reading order: this file (filters, modes, what verdicts do), `notify.rs` (asking another process).
//!
//! A task's filters may be replaced by another thread (`SECCOMP_FILTER_FLAG_TSYNC`): they are behind a lock, and a number
//! that is loaded at each call says whether the copy that the thread works with is current; 0 is "no filter". Calls that
//! all filters allow by their number alone are in a set that is made once, with the filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::errno::{EINVAL, ENOMEM, ENOSYS};
use abi::signal::SigInfo;
use base::bpf::{DATA_WORDS, Program};
use base::lock::{Lock, rank};

use crate::ptrace::event;
use crate::signal::SIGKILL;
use crate::syscall::{Stop, SysResult};
use crate::task::{Ctx, Task};
use notify::Notifier;

pub mod notify;

/// `SIGSYS`.
const SIGSYS: i32 = 31;
/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// The highest error number that a filter can give.
const MAX_ERRNO: u32 = 4095;
/// Instructions that all filters of a task may have, with 4 more for each filter (`MAX_INSNS_PER_PATH`).
const MAX_TOTAL: usize = 32768;
/// Numbers below this are in the set of calls that are always allowed.
const CACHED: usize = 512;

/// `SECCOMP_RET_*`.
#[expect(missing_docs, reason = "seccomp(2) explains each")]
pub mod action {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const MASK: u32 = 0xffff_0000;
    pub const ALL: [u32; 8] = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW];
}

/// How a task's calls are restricted; the numbers are those of `PR_GET_SECCOMP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    #[default]
    Disabled = 0,
    /// To read, write, exit and rt_sigreturn.
    Strict = 1,
    /// By filters.
    Filter = 2,
}

/// One filter and those that were there before it.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    before: Option<Arc<Filter>>,
    /// Where `USER_NOTIF` goes.
    pub notifier: Option<Arc<Notifier>>,
    /// Log what is not allowed.
    logs: bool,
    /// Calls that this filter and all before allow whatever their arguments are.
    allowed: [u64; CACHED / 64],
    /// Filters in the chain, and their instructions with what each costs more.
    depth: usize,
    total: usize,
}

impl Filter {
    /// Puts `program` before `before`.
    ///
    /// # Errors
    /// `ENOMEM`: there are too many instructions.
    pub fn new(
        program: Program,
        before: Option<Arc<Self>>,
        notifier: Option<Arc<Notifier>>,
        logs: bool,
    ) -> Result<Arc<Self>, Errno> {
        let total = program.cost() + before.as_ref().map_or(0, |f| f.total + 4);
        if total > MAX_TOTAL {
            return Err(ENOMEM);
        }
        let mut allowed = before.as_ref().map_or([u64::MAX; CACHED / 64], |f| f.allowed);
        for number in 0..CACHED {
            let verdict = program.constant(number as u32, ARCH);
            if verdict.is_none_or(|v| v & action::MASK != action::ALLOW) {
                allowed[number / 64] &= !(1 << (number % 64));
            }
        }
        let depth = before.as_ref().map_or(0, |f| f.depth) + 1;
        Ok(Arc::new(Self { program, before, notifier, logs, allowed, depth, total }))
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |f| f.before.as_deref())
    }

    /// Whether `other` is this filter or one that was there before it.
    pub fn descends_from(&self, other: Option<&Arc<Self>>) -> bool {
        other.is_none_or(|o| self.chain().any(|f| std::ptr::eq(f, Arc::as_ptr(o))))
    }

    /// Whether somebody listens to a filter of the chain.
    pub fn has_listener(&self) -> bool {
        self.chain().any(|f| f.notifier.is_some())
    }

    fn allows(&self, number: u64) -> bool {
        usize::try_from(number)
            .ok()
            .and_then(|n| self.allowed.get(n / 64).map(|word| word >> (n % 64) & 1 == 1))
            .unwrap_or(false)
    }

    /// The verdict that counts, and whose it is: the strictest, of equals that of the newest.
    fn judge(&self, data: &[u32; DATA_WORDS]) -> (u32, &Self) {
        let rank = |verdict: u32| (verdict & action::MASK).cast_signed();
        let mut strictest = (action::ALLOW, self);
        for filter in self.chain() {
            let verdict = filter.program.run(data);
            if rank(verdict) < rank(strictest.0) {
                strictest = (verdict, filter);
            }
        }
        strictest
    }
}

impl Drop for Filter {
    /// Long chains must not end in deep recursion.
    fn drop(&mut self) {
        if let Some(notifier) = &self.notifier {
            notifier.filter_is_gone();
        }
        let mut next = self.before.take();
        while let Some(filter) = next {
            next = Arc::into_inner(filter).and_then(|mut f| f.before.take());
        }
    }
}

/// What a task is restricted by.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// How.
    pub mode: Mode,
    /// The newest filter.
    pub filter: Option<Arc<Filter>>,
}

/// A task's restrictions.
#[derive(Debug, Default)]
pub struct Seccomp {
    /// 0 without restrictions, else another number after each change.
    generation: AtomicU32,
    state: Lock<State, { rank::LEAF }>,
}

impl Seccomp {
    /// Restrictions that a new thread inherits, or a thread that goes on under another number.
    pub fn with(state: State) -> Self {
        let generation = u32::from(state.mode != Mode::Disabled);
        Self { generation: AtomicU32::new(generation), state: Lock::new(state) }
    }

    /// Whether there are any.
    pub fn is_on(&self) -> bool {
        self.generation.load(Ordering::Acquire) != 0
    }

    /// A copy.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Replaces them.
    pub fn set(&self, state: State) {
        let former = std::mem::replace(&mut *self.state.lock(), state);
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(former);
    }

    /// Lets go of the filters: the thread ends.
    pub fn release(&self) {
        let former = std::mem::take(&mut *self.state.lock());
        drop(former);
    }

    /// How many filters there are, for /proc.
    pub fn depth(&self) -> usize {
        self.state.lock().filter.as_ref().map_or(0, |f| f.depth)
    }
}

/// Who was asked about a call already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nobody,
    Tracer,
}

/// The copy that a thread works with.
#[derive(Debug, Default)]
pub struct Current {
    generation: u32,
    state: State,
}

impl Ctx<'_> {
    /// Dispatches a call of a thread with restrictions, if they allow it.
    pub(crate) fn restricted_call(&mut self, number: u64, args: [u64; 6]) -> SysResult {
        let generation = self.task.seccomp.generation.load(Ordering::Acquire);
        if self.seccomp.generation != generation {
            self.seccomp = Current { generation, state: self.task.seccomp.state() };
        }
        if self.task.trace.suspends_seccomp() {
            return crate::syscall::dispatch(self, number, args);
        }
        match (self.seccomp.state.mode, &self.seccomp.state.filter) {
            (Mode::Filter, Some(filter)) => {
                if filter.allows(number) {
                    return crate::syscall::dispatch(self, number, args);
                }
                let filter = filter.clone();
                self.filtered_call(&filter, number, args, Asked::Nobody)
            }
            // read, write, rt_sigreturn, exit.
            (Mode::Strict, _) if !matches!(number, 0 | 1 | 15 | 60) => {
                self.end_thread(SIGKILL);
                Err(Stop::NoReturn)
            }
            _ => crate::syscall::dispatch(self, number, args),
        }
    }

    fn filtered_call(&mut self, filter: &Filter, number: u64, args: [u64; 6], asked: Asked) -> SysResult {
        let halves = |v: u64| [v as u32, (v >> 32) as u32];
        let mut data = [0; DATA_WORDS];
        data[0] = number as u32;
        data[1] = ARCH;
        let words = std::iter::once(self.regs.rip).chain(args).flat_map(halves);
        data[2..].iter_mut().zip(words).for_each(|(slot, word)| *slot = word);
        let (verdict, from) = filter.judge(&data);
        let low = verdict & !action::MASK;
        let what = verdict & action::MASK;
        if from.logs && what != action::ALLOW || what == action::LOG {
            let name = crate::syscall::name(number).unwrap_or("unknown");
            log::info!("seccomp: task {} calls {name} ({number}): {verdict:#x}", self.task.tid);
        }
        match what {
            action::ALLOW | action::LOG => crate::syscall::dispatch(self, number, args),
            action::ERRNO => match Errno::from_raw(low.min(MAX_ERRNO).cast_signed()) {
                Some(e) => Err(Stop::Fail(e)),
                None => Ok(0),
            },
            action::TRAP => {
                // The handler sees the registers as they were at the call.
                self.regs.rax = number;
                const SYS_SECCOMP: i32 = 1;
                let nr = number as i32;
                self.force_signal(SigInfo::sys(SYS_SECCOMP, self.regs.rip, nr, ARCH, low.cast_signed()));
                Err(Stop::NoReturn)
            }
            action::USER_NOTIF => match &from.notifier {
                Some(notifier) => {
                    let notifier = notifier.clone();
                    match self.ask(&notifier, data)? {
                        Some(value) => Ok(value),
                        None => crate::syscall::dispatch(self, number, args),
                    }
                }
                None => Err(ENOSYS.into()),
            },
            action::TRACE if asked == Asked::Tracer => crate::syscall::dispatch(self, number, args),
            action::TRACE => self.ask_tracer(filter, low),
            action::KILL_THREAD if self.task.group.live.load(Ordering::SeqCst) > 1 => {
                self.end_thread(SIGSYS);
                Err(Stop::NoReturn)
            }
            _ => {
                self.kill_group(SIGSYS);
                Err(Stop::NoReturn)
            }
        }
    }

    /// Lets the tracer decide about a call: it may change it, and what it makes of it is looked at once more, or forbid it
    /// by a number below 0. The result is then what it left there.
    ///
    /// Source: Linux 6.18 kernel/seccomp.c, `__seccomp_filter`.
    fn ask_tracer(&mut self, filter: &Filter, message: u32) -> SysResult {
        if !self.task.trace.has_event(event::SECCOMP) {
            return Err(ENOSYS.into());
        }
        self.trace_event(event::SECCOMP, message.into());
        let r = &self.regs;
        let number = r.orig_rax as u32;
        if self.task.must_exit() || number.cast_signed() < 0 {
            return Ok(r.rax);
        }
        let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        self.filtered_call(filter, number.into(), args, Asked::Tracer)
    }

    /// Adds restrictions to the calling thread.
    ///
    /// # Errors
    /// `EINVAL`: it has others.
    pub(crate) fn restrict(&mut self, state: State) -> Result<(), Errno> {
        let old = self.task.seccomp.state();
        if old.mode != Mode::Disabled && old.mode != state.mode {
            return Err(EINVAL);
        }
        self.task.seccomp.set(state);
        Ok(())
    }
}

impl Task {
    /// Whether the thread could take over `filter`, which is another thread's (`seccomp_can_sync_threads`).
    pub(crate) fn may_take_over(&self, filter: Option<&Arc<Filter>>) -> bool {
        let state = self.seccomp.state();
        match state.mode {
            Mode::Disabled => true,
            Mode::Strict => false,
            Mode::Filter => filter.is_some_and(|f| f.descends_from(state.filter.as_ref())),
        }
    }
}
