//! A guest thread's area as the sentry uses it: registers in the signal frame, and whose turn it is.
//!
//! All of it can be changed by user code at any time. What is read here are registers, which are the guest's to choose
//! anyway; the offsets are our own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::regs::{USER_CS, USER_DS, USER_FIXED_FLAGS, USER_SETTABLE_FLAGS, USER32_CS, UserRegs};
use base::memmap::Access;
use host::mapping::Mapping;
use platform::window::mailbox::{Mailbox, State};
use platform::{Error, FpState, Trap};

use crate::control::Area;
use crate::filter::ARCH_I386;
use crate::layout::{AREA_LEN, area, frame};
use crate::process::{Bound, Failure, Process};
use crate::shared::{FrameLayout, Shared};
use crate::stub::{KICK, turn};
use crate::xstate::Xstate;

const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u64 = 14;
/// Page-fault error code: the access was a store, an instruction fetch.
const CODE_WRITE: u64 = 1 << 1;
const CODE_FETCH: u64 = 1 << 4;

/// How long a new thread may take to come up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A guest thread on the host.
pub(crate) struct Thread {
    process: Arc<Process>,
    area: Arc<Area>,
    /// Where that is in the stub.
    at: u64,
    layout: FrameLayout,
    tid: i32,
    /// What contexts that had it before have used, ns.
    pub(crate) used_ns: u64,
    /// The registers that the frame holds.
    loaded: UserRegs,
    /// It may not run on one of the processors: see [`Thread::part`].
    is_kept_off: bool,
}

/// How a wait for the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The sentry's turn.
    Trapped,
    /// The mailbox has a request.
    Requested,
    /// The thread or its process has ended.
    Dead,
    /// The limit is over.
    TimedOut,
}

/// What a wait cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    /// Ticks of the time stamp counter that it waited awake, as of the last look at it.
    pub(crate) awake: u64,
    /// Whether it slept then.
    pub(crate) slept: bool,
}

impl Thread {
    /// Makes a thread in a stub.
    pub(crate) fn start(shared: &Shared, process: Arc<Process>) -> Result<Self, Error> {
        let (area, at) = process.new_thread()?;
        let m = area.memory();
        let offset = area.offset();
        let started = std::time::Instant::now();
        loop {
            match m.load_u32(offset + area::TURN) {
                turn::SENTRY => break,
                turn::DEAD => {
                    return Err(Failure::Dead.into_error(
                        "setting up a guest thread (a container's seccomp profile must allow seccomp(2), sigaltstack(2) \
                         and rt_sigprocmask(2))",
                    ));
                }
                now if started.elapsed() < START_LIMIT => {
                    m.swap_u32(offset + area::SENTRY_SLEEPS, 1);
                    host::futex::wait(m, offset + area::TURN, now, Some(Duration::from_millis(100)));
                    m.swap_u32(offset + area::SENTRY_SLEEPS, 0);
                    if process.is_dead() {
                        return Err(Failure::Dead.into_error("a guest thread"));
                    }
                }
                _ => return Err(Error::Exhausted("systrap: a guest thread does not start".into())),
            }
        }
        let layout = match shared.frame.get() {
            Some(layout) => *layout,
            None => {
                let layout = find_frame(m, offset, at)?;
                *shared.frame.get_or_init(|| layout)
            }
        };
        let tid = m.load_u32(offset + area::TID).cast_signed();
        // From now on it runs where its task may: where tasks differ in that, the calling thread has the mask, its own or its
        // parent's, or binding the thread to a context sets it.
        let differ = shared.has_affinity.load(Ordering::Relaxed);
        match if differ { host::system::affinity(0) } else { Ok(shared.processors) } {
            Ok(mask) => process.set_affinity(tid, &mask),
            Err(e) => log::debug!("systrap: affinity: {e}"),
        }
        let mut thread = Self {
            process,
            area,
            at,
            layout,
            tid,
            used_ns: 0,
            loaded: UserRegs::default(),
            is_kept_off: false,
        };
        thread.loaded = thread.registers();
        Ok(thread)
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Where its area is in the control file.
    pub(crate) fn area(&self) -> u64 {
        self.area.offset()
    }

    /// Where its area is in the stub.
    pub(crate) fn area_in_stub(&self) -> u64 {
        self.at
    }

    fn m(&self) -> &Mapping {
        self.area.memory()
    }

    fn frame(&self, field: u64) -> u64 {
        self.area.offset() + self.layout.frame + field
    }

    fn word(&self, field: u64) -> u64 {
        self.m().load_u64(self.frame(field))
    }

    /// The registers in the frame.
    fn registers(&self) -> UserRegs {
        let segments = self.word(frame::SEGMENTS);
        let data = |field| self.m().load_u64(self.area.offset() + field);
        UserRegs {
            r15: self.word(frame::R15),
            r14: self.word(frame::R14),
            r13: self.word(frame::R13),
            r12: self.word(frame::R12),
            rbp: self.word(frame::RBP),
            rbx: self.word(frame::RBX),
            r11: self.word(frame::R11),
            r10: self.word(frame::R10),
            r9: self.word(frame::R9),
            r8: self.word(frame::R8),
            rax: self.word(frame::RAX),
            rcx: self.word(frame::RCX),
            rdx: self.word(frame::RDX),
            rsi: self.word(frame::RSI),
            rdi: self.word(frame::RDI),
            orig_rax: u64::MAX,
            rip: self.word(frame::RIP),
            cs: segments & 0xffff,
            rflags: self.word(frame::RFLAGS),
            rsp: self.word(frame::RSP),
            ss: segments >> 48,
            fs_base: data(area::FS_BASE),
            gs_base: data(area::GS_BASE),
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        }
    }

    /// Puts `r` into the frame, what is not there yet. GS leads to `hidden_gs` while `r` has 0 there.
    pub(crate) fn load(&mut self, r: &UserRegs, hidden_gs: u64) {
        let old = self.loaded;
        let put = |field: u64, new: u64, old: u64| {
            if new != old {
                self.m().store_u64(self.frame(field), new);
            }
        };
        put(frame::R15, r.r15, old.r15);
        put(frame::R14, r.r14, old.r14);
        put(frame::R13, r.r13, old.r13);
        put(frame::R12, r.r12, old.r12);
        put(frame::RBP, r.rbp, old.rbp);
        put(frame::RBX, r.rbx, old.rbx);
        put(frame::R11, r.r11, old.r11);
        put(frame::R10, r.r10, old.r10);
        put(frame::R9, r.r9, old.r9);
        put(frame::R8, r.r8, old.r8);
        put(frame::RAX, r.rax, old.rax);
        put(frame::RCX, r.rcx, old.rcx);
        put(frame::RDX, r.rdx, old.rdx);
        put(frame::RSI, r.rsi, old.rsi);
        put(frame::RDI, r.rdi, old.rdi);
        put(frame::RIP, r.rip, old.rip);
        put(frame::RSP, r.rsp, old.rsp);
        put(frame::RFLAGS, (r.rflags & USER_SETTABLE_FLAGS) | USER_FIXED_FLAGS, old.rflags);
        let cs = if r.cs == USER32_CS { USER32_CS } else { USER_CS };
        put(frame::SEGMENTS, cs | USER_DS << 48, old.cs | old.ss << 48);
        let base = |base: u64| if is_canonical(base) { base } else { 0 };
        let put = |field: u64, new: u64, old: u64| {
            if new != old {
                self.m().store_u64(self.area.offset() + field, new);
            }
        };
        put(area::FS_BASE, base(r.fs_base), old.fs_base);
        let gs_base = if r.gs_base == 0 { hidden_gs } else { base(r.gs_base) };
        put(area::GS_BASE, gs_base, old.gs_base);
    }

    /// Lets user code run. The stub waits awake for `spin` ticks of the time stamp counter when it traps again. Says whether
    /// it had to be woken.
    pub(crate) fn resume(&self, spin: u32) -> bool {
        let (m, at) = (self.m(), self.area.offset());
        if m.load_u32(at + area::SPIN) != spin {
            m.swap_u32(at + area::SPIN, spin);
        }
        m.swap_u32(at + area::TURN, turn::GUEST);
        let sleeps = m.load_u32(at + area::GUEST_SLEEPS) != 0;
        if sleeps {
            host::futex::wake(m, at + area::TURN);
        }
        sleeps
    }

    /// Keeps the thread off the calling thread's processor, if it trapped there. The host's scheduler leaves two threads that
    /// wake each other on one processor, in virtual machines also where another one idles; then neither can wait awake for
    /// the other. Says whether it did.
    pub(crate) fn part(&mut self, shared: &Shared) -> bool {
        let mine = host::system::current_cpu();
        let theirs = area::processor(self.m().load_u32(self.area.offset() + area::TRAP_CPU));
        if theirs != Some(mine) {
            return false;
        }
        let Some(mask) = Bound::AllBut(mine).mask(&shared.processors) else { return false };
        self.process.set_affinity(self.tid, &mask);
        self.is_kept_off = true;
        true
    }

    /// Lets the thread run wherever the sandbox may.
    pub(crate) fn join(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.is_kept_off) {
            self.process.set_affinity(self.tid, &shared.processors);
        }
    }

    /// Wakes the thread once more: a guest may have made it forget that it sleeps.
    pub(crate) fn nudge(&self) {
        host::futex::wake(self.m(), self.area.offset() + area::TURN);
    }

    /// What the guest says. That it has rung counts once, and only if there is a request.
    fn state(&self, mailbox: Option<Mailbox<'_>>) -> Option<Wait> {
        let at = self.area.offset() + area::TURN;
        match self.m().load_u32(at) {
            turn::GUEST => None,
            turn::DEAD => Some(Wait::Dead),
            turn::RUNG => {
                // It may trap at the same time.
                self.m().compare_exchange_u32(at, turn::RUNG, turn::GUEST);
                mailbox.is_some_and(|m| m.state() == State::Request).then_some(Wait::Requested)
            }
            _ => Some(Wait::Trapped),
        }
    }

    /// Waits for the guest's next trap, or for a request in `mailbox`: awake for `spin` ticks from `start` on and while
    /// `may_spin`, then asleep.
    pub(crate) fn wait(
        &self,
        start: u64,
        spin: u64,
        limit: Duration,
        mailbox: Option<Mailbox<'_>>,
        may_spin: impl Fn() -> bool,
    ) -> (Wait, Ticks) {
        let mut ticks = Ticks { awake: 0, slept: false };
        if spin > 0 {
            while ticks.awake <= spin && may_spin() {
                if mailbox.is_some_and(|m| m.state() == State::Request) {
                    return (Wait::Requested, ticks);
                }
                if let Some(end) = self.state(mailbox) {
                    return (end, ticks);
                }
                std::hint::spin_loop();
                ticks.awake = host::clock::tsc().saturating_sub(start);
            }
        } else if let Some(end) = self.state(mailbox) {
            return (end, ticks);
        }
        if mailbox.is_some_and(|m| !m.fall_asleep()) {
            // What the thread says of itself counts only while it has not trapped since.
            return (self.state(mailbox).unwrap_or(Wait::Requested), ticks);
        }
        let (m, at) = (self.m(), self.area.offset());
        m.swap_u32(at + area::SENTRY_SLEEPS, 1);
        let end = match self.state(mailbox) {
            Some(end) => Some(end),
            None => {
                ticks.slept = true;
                host::futex::wait(m, at + area::TURN, turn::GUEST, Some(limit));
                self.state(mailbox)
            }
        };
        m.swap_u32(at + area::SENTRY_SLEEPS, 0);
        match end {
            Some(end) => (end, ticks),
            None if self.process.is_dead() => (Wait::Dead, ticks),
            None => (Wait::TimedOut, ticks),
        }
    }

    /// The time stamp counter when the thread trapped, as the guest has it.
    pub(crate) fn trapped(&self) -> u64 {
        self.m().load_u64(self.area.offset() + area::TRAP_TSC)
    }

    /// The time stamp counter when the thread last returned from a trap, as the guest has it.
    pub(crate) fn resumed(&self) -> u64 {
        self.m().load_u64(self.area.offset() + area::RESUME_TSC)
    }

    /// Takes the registers of a trap that is known already from elsewhere.
    pub(crate) fn refresh(&mut self) {
        self.loaded = self.registers();
    }

    /// What the trap was, and the registers at it; a GS base of `hidden_gs` is told as 0.
    pub(crate) fn trap(&mut self, r: &mut UserRegs, hidden_gs: u64) -> Result<Trap, Error> {
        let signal = self.m().load_u32(self.area.offset() + area::SIGNAL).cast_signed();
        self.refresh();
        let (ds, es, fs, gs) = (r.ds, r.es, r.fs, r.gs);
        *r = UserRegs { orig_rax: r.orig_rax, ds, es, fs, gs, ..self.loaded };
        if r.gs_base == hidden_gs {
            r.gs_base = 0;
        }
        r.cs = if r.cs == USER32_CS { USER32_CS } else { USER_CS };
        r.ss = USER_DS;
        let number = self.word(frame::TRAPNO);
        let code = self.word(frame::ERR);
        Ok(match signal {
            libc::SIGSYS if self.m().load_u32(self.frame(frame::INFO_ARCH)) == ARCH_I386 => Trap::Syscall32,
            libc::SIGSYS => Trap::Syscall,
            KICK => Trap::Interrupted,
            libc::SIGBUS if number == PAGE_FAULT => {
                let cr2 = self.word(frame::CR2);
                return Err(Error::Exhausted(format!(
                    "systrap: the host has no memory for a guest page ({cr2:#x})"
                )));
            }
            _ if number == PAGE_FAULT => {
                let access = if code & CODE_FETCH != 0 {
                    Access::EXEC
                } else if code & CODE_WRITE != 0 {
                    Access::WRITE
                } else {
                    Access::READ
                };
                Trap::Fault { addr: self.word(frame::CR2), access }
            }
            _ => match u8::try_from(number) {
                Ok(vector @ 0..32) => Trap::Exception { vector, code: code as u32 },
                _ => Trap::Exception { vector: GENERAL_PROTECTION, code: 0 },
            },
        })
    }

    fn fp_at(&self) -> u64 {
        self.area.offset() + self.layout.fp
    }

    pub(crate) fn fp_state(&self) -> FpState {
        self.layout.xstate.read(self.m(), self.fp_at())
    }

    pub(crate) fn set_fp_state(&self, state: &FpState) {
        self.layout.xstate.write(self.m(), self.fp_at(), state);
    }
}

/// Whether a processor loads `addr` as a segment's base or as RIP.
pub(crate) fn is_canonical(addr: u64) -> bool {
    let sign = (addr as i64) >> 47;
    sign == 0 || sign == -1
}

/// Where frames lie, from the first one. No user code has run yet, so what the stub and the host stored is true.
fn find_frame(m: &Mapping, offset: u64, at: u64) -> Result<FrameLayout, Error> {
    let bad = |what: &str, value: u64| {
        Error::Broken(format!("systrap: {what} of the first signal frame: {value:#x}"))
    };
    let inside = |addr: u64, len: u64| {
        addr.checked_sub(at).filter(|&from| from >= base::PAGE_SIZE && from + len <= AREA_LEN)
    };
    let address = m.load_u64(offset + area::FRAME);
    let frame_at = inside(address, frame::INFO + 128).ok_or_else(|| bad("address", address))?;
    let fp_address = m.load_u64(offset + frame_at + frame::FPSTATE);
    let fp = inside(fp_address, 576).ok_or_else(|| bad("state", fp_address))?;
    let xstate = Xstate::of_frame(m, offset + fp)?;
    inside(fp_address, xstate.layout.size as u64).ok_or_else(|| bad("size of the state", fp_address))?;
    Ok(FrameLayout { frame: frame_at, fp, xstate })
}
