//! A guest thread's context: enters a stub's thread, waits, and says what made it stop.
//!
//! A stay ends with a trap, which the stub's signal handler hands over, or with a request: a call from a patched site that
//! comes through the [mailbox](platform::window). Then the guest thread waits in the window until the context answers:
//! awake for a while, then asleep in the stub. Either side wakes the other if that sleeps.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use abi::regs::{FLAG_TF, UserRegs};
use platform::window::Zone;
use platform::window::mailbox::{Mailbox, State};
use platform::window::thread::FP_LEN;
use platform::{AddressSpace, Context, Error, FpState, Kick, ThreadPage, Trap};

use crate::counters::Counters;
use crate::kick::Runner;
use crate::lend::{self, Offer};
use crate::shared::Shared;
use crate::space::SystrapSpace;
use crate::spin::{Spin, WAKE_TICKS};
use crate::stub::{KICK, is_in_sleep};
use crate::thread::{Thread, Wait, is_canonical};
use crate::xstate;

const GENERAL_PROTECTION: u8 = 13;

/// How long a context sleeps before it looks whether its guest still answers.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that a kicked guest thread may let pass: user code can block the signal that kicks.
const DEAF: u32 = 5;
/// How long a thread that leaves the window is waited for awake, in ticks of the time stamp counter.
const LEAVING: u64 = 20_000;

/// One guest thread.
pub(crate) struct SystrapContext {
    shared: Arc<Shared>,
    runner: Arc<Runner>,
    /// The thread on the host, and the space that it is in. The space may be gone already.
    bound: Option<(Weak<SystrapSpace>, Thread)>,
    /// The floating-point state while no thread is bound; `None`: the initial one.
    fp: Option<FpState>,
    spin: Spin,
    /// The last stay ended with a fault, and the sentry has seen to it.
    has_faulted: bool,
    page: Option<ThreadPage>,
    /// The registers at a request that is not answered yet.
    taken: Option<UserRegs>,
    /// What the last answer told the guest thread to go on with.
    posted: Option<Posted>,
    /// The floating-point state that the thread is to go on with, while a request is unanswered.
    next_fp: Option<FpState>,
    /// For how many rounds the guest thread was told to wait awake.
    rounds: u32,
    /// Counted in [`Shared::busy`].
    is_busy: bool,
}

/// An answer.
struct Posted {
    regs: UserRegs,
    fp: Option<FpState>,
}

impl SystrapContext {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let runner = Arc::new(Runner::new(shared.clone()));
        Self {
            shared,
            runner,
            bound: None,
            fp: None,
            spin: Spin::default(),
            has_faulted: false,
            page: None,
            taken: None,
            posted: None,
            next_fp: None,
            rounds: 0,
            is_busy: false,
        }
    }

    fn is_in(&self, space: &SystrapSpace) -> bool {
        matches!(&self.bound, Some((at, _)) if std::ptr::eq(at.as_ptr(), space))
    }

    /// Makes sure that a thread in `space` is bound.
    fn bind(&mut self, space: &SystrapSpace) -> Result<(), Error> {
        if self.is_in(space) {
            return Ok(());
        }
        self.unbind()?;
        let thread = space.take_thread()?;
        self.runner.bind(&thread);
        if self.shared.has_affinity.load(Ordering::Relaxed)
            && let Ok(mask) = host::system::affinity(0)
        {
            thread.process().set_affinity(thread.tid(), &mask);
        }
        let state = self.fp.take().unwrap_or_else(|| xstate::initial(self.shared.xsave_layout()));
        thread.set_fp_state(&state);
        self.bound = Some((space.weak(), thread));
        self.introduce();
        Ok(())
    }

    /// Tells the window's code where the bound thread's area is.
    fn introduce(&self) {
        if let (Some((_, thread)), Some(page)) = (&self.bound, self.page) {
            Mailbox::new(&*self.shared.memory, page).set_area(thread.area_in_stub());
        }
    }

    /// Wakes a guest thread that waits for an answer, if it sleeps; says whether it does.
    fn wake(&self, mailbox: &Mailbox<'_>) -> bool {
        let sleeps = mailbox.sleeps();
        if sleeps {
            self.shared.memory.wake(mailbox.word_to_wake());
        }
        sleeps
    }

    /// Does not want a processor any more.
    fn rest(&mut self) {
        if std::mem::take(&mut self.is_busy) {
            self.shared.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives the thread back, and keeps the floating-point state.
    fn unbind(&mut self) -> Result<(), Error> {
        let called = self.call_out();
        if let Some((space, mut thread)) = self.bound.take() {
            self.fp = Some(thread.fp_state());
            thread.used_ns += self.runner.unbind();
            if let Some(space) = space.upgrade()
                && called.is_ok()
            {
                space.give_thread(thread);
            }
        }
        called
    }

    /// Makes a guest thread that waits for an answer leave the window, as for a trap.
    fn call_out(&mut self) -> Result<(), Error> {
        lend::withdraw();
        let Some(taken) = self.taken.take() else { return Ok(()) };
        let shared = self.shared.clone();
        let Some(page) = self.page else { return Ok(()) };
        let mailbox = Mailbox::new(&*shared.memory, page);
        let mut spin = LEAVING;
        for looks in 0.. {
            mailbox.dismiss();
            if self.wake(&mailbox) {
                spin = 0;
            }
            let Some((_, thread)) = &self.bound else { return Ok(()) };
            if mailbox.state() == State::Busy {
                // It may store its state yet and then wait on, for nobody.
                thread.process().signal(thread.tid(), KICK);
            }
            match thread.wait(host::clock::tsc(), spin, LOOK, None, || true).0 {
                Wait::Trapped => break,
                Wait::Dead => return Err(dead(&shared)),
                Wait::TimedOut | Wait::Requested => {}
            }
            spin = 0;
            thread.process().signal(thread.tid(), KICK);
            if looks > DEAF {
                thread.process().kill_and_wait();
            }
        }
        log::trace!("systrap: called out of the window, from {:#x}", taken.rip);
        let Some((_, thread)) = &mut self.bound else { return Ok(()) };
        thread.refresh();
        mailbox.reset();
        if let Some(fp) = self.next_fp.take() {
            thread.set_fp_state(&fp);
        }
        Ok(())
    }

    /// Answers the request with `regs`, if there is one and the guest thread still waits; says whether that slept. `None`:
    /// it has trapped.
    fn answer(
        &mut self,
        regs: &UserRegs,
        stays_awake: bool,
        rounds: u32,
        has_lent: bool,
    ) -> Result<Option<bool>, Error> {
        let (Some(taken), Some(page)) = (&self.taken, self.page) else { return Ok(None) };
        let shared = self.shared.clone();
        let mailbox = Mailbox::new(&*shared.memory, page);
        if has_lent {
            // It may not be back yet.
            lend::until(|| mailbox.state() != State::Busy);
        }
        // The guest thread polls the line that this is in; about as long is good enough.
        let is_about = self.rounds / 2 <= rounds && rounds <= self.rounds.saturating_mul(2);
        if !is_about || (rounds == 0) != (self.rounds == 0) {
            mailbox.set_rounds(rounds);
            self.rounds = rounds;
        }
        if mailbox.answer(taken, regs, self.next_fp.as_ref().map(|fp| &fp.0[..]), stays_awake) {
            let slept = self.wake(&mailbox);
            self.taken = None;
            self.posted = Some(Posted { regs: *regs, fp: self.next_fp.take() });
            return Ok(Some(slept));
        }
        if mailbox.state() == State::Left
            && let Some(window) = self.shared.window.get()
        {
            window.counts.left.fetch_add(1, Ordering::Relaxed);
        }
        self.call_out()?;
        Ok(None)
    }

    /// What `trap` is where the guest thread was interrupted in the window's code.
    fn settle(&mut self, trap: Trap, regs: &mut UserRegs) -> Trap {
        let (Some(page), Some(window)) = (self.page, self.shared.window.get()) else { return trap };
        let zone = match window.zone(regs.rip) {
            None if is_in_sleep(regs.rip) => Some(Zone::Requested),
            zone => zone,
        };
        let mailbox = Mailbox::new(&*self.shared.memory, page);
        match zone {
            Some(Zone::Borrowed) => regs.rsp = mailbox.borrowed_rsp(),
            Some(Zone::Saved) => (regs.rsp, regs.rflags) = (mailbox.borrowed_rsp(), mailbox.saved_rflags()),
            Some(Zone::Requested) => {
                if mailbox.state() != State::Idle {
                    mailbox.take(regs);
                    mailbox.reset();
                    if trap == Trap::Interrupted {
                        self.runner.report_later();
                    }
                    return Trap::Syscall;
                }
                if let Some(posted) = &self.posted {
                    *regs = posted.regs;
                    if let (Some(fp), Some((_, thread))) = (&posted.fp, &self.bound) {
                        thread.set_fp_state(fp);
                    }
                }
            }
            _ => {}
        }
        trap
    }

    /// The floating-point state of a guest thread that waits for an answer, from the thread itself.
    fn ask_fp(&self) -> Option<FpState> {
        self.taken.as_ref()?;
        let layout = self.shared.frame.get()?;
        let size = layout.xstate.layout.size;
        if size as u64 > FP_LEN {
            return None;
        }
        let mailbox = Mailbox::new(&*self.shared.memory, self.page?);
        lend::until(|| mailbox.state() != State::Busy);
        let state = |mailbox: Mailbox<'_>| layout.xstate.sanitised(&FpState(mailbox.fp(size)));
        if mailbox.sleeps() {
            return (mailbox.state() == State::Request).then(|| state(mailbox));
        }
        if !mailbox.ask_fp() {
            return None;
        }
        let began = host::clock::tsc();
        while mailbox.state() == State::Busy {
            if host::clock::tsc().wrapping_sub(began) > LEAVING {
                return None;
            }
            std::hint::spin_loop();
        }
        (mailbox.state() == State::Request).then(|| state(mailbox))
    }

    /// Runs user code and waits for the end of the stay.
    fn stay(&mut self, regs: &mut UserRegs) -> Result<Trap, Error> {
        let shared = self.shared.clone();
        let running = shared.running.fetch_add(1, Ordering::Relaxed) + 1;
        let budgets = self.spin.begin(running * 2 <= shared.cpus);
        let mine = budgets.sentry;
        let rounds = (budgets.call / shared.round) as u32;
        let has_lent = lend::withdraw();
        let answered = self.answer(regs, mine > 0, rounds, has_lent).inspect_err(|_| {
            shared.running.fetch_sub(1, Ordering::Relaxed);
        })?;
        let Some((_, thread)) = &mut self.bound else {
            return Err(Error::Broken("systrap: no thread".into()));
        };
        let is_alone = || shared.running.load(Ordering::Relaxed) * 2 <= shared.cpus;
        let is_sole = || shared.busy.load(Ordering::Relaxed) * 2 <= shared.cpus;
        if self.spin.is_slow() || !is_sole() {
            thread.join(&shared);
        }
        let hidden_gs = self.page.map_or(0, |page| page.addr);
        let mailbox = self.page.map(|page| Mailbox::new(&*shared.memory, page));
        let began = host::clock::about_tsc();
        let woken = if let Some(slept) = answered {
            slept
        } else {
            thread.load(regs, hidden_gs);
            match mailbox {
                // Who steps through the window gets out of it at the first look at the mailbox.
                Some(mailbox) if regs.rflags & FLAG_TF != 0 => mailbox.reset(),
                Some(mailbox) if mine > 0 => mailbox.open(rounds),
                Some(mailbox) => mailbox.open_asleep(rounds),
                None => {}
            }
            self.rounds = rounds;
            thread.resume(budgets.trap)
        };
        self.spin.answered(began);
        let mut spin = if woken && mine > 0 { mine + WAKE_TICKS } else { mine };
        let (mut awake, mut slept) = (0, false);
        let mut deaf = None;
        let end = loop {
            let (end, ticks) = thread.wait(began, spin, LOOK, mailbox, is_alone);
            awake += ticks.awake;
            if ticks.slept {
                slept = true;
                Counters::add(&shared.counters.sleeps);
            }
            if end != Wait::TimedOut {
                break end;
            }
            spin = 0;
            if self.runner.is_kicked() {
                thread.nudge();
                self.runner.kick();
                if deaf.get_or_insert_with(Instant::now).elapsed() > LOOK * DEAF {
                    log::warn!("systrap: a guest thread does not answer");
                    thread.process().kill_and_wait();
                }
            }
        };
        shared.running.fetch_sub(1, Ordering::Relaxed);
        // To read the counter again would hold up the answer.
        let now = if slept { host::clock::tsc() } else { began + awake };
        // Without the time that it took to wake either. The guest's clocks are the guest's word.
        let from = match (answered, mailbox) {
            (Some(true), Some(mailbox)) => mailbox.woke().max(began),
            (Some(_), _) => began,
            (None, _) => thread.resumed(),
        };
        let (trap, to) = match (end, mailbox, shared.window.get()) {
            (Wait::Requested, Some(mailbox), Some(window)) => {
                let to = if slept { mailbox.rang() } else { now };
                mailbox.take(regs);
                self.taken = Some(*regs);
                if rounds > 0 {
                    let (process, area) = (thread.process().page(), thread.area());
                    lend::offer(&shared, Offer { process, area, mailbox: self.page, was_asked: false });
                }
                window.counts.mailed.fetch_add(1, Ordering::Relaxed);
                (Ok(Trap::Syscall), to)
            }
            (Wait::Trapped, ..) => {
                if budgets.trap > 0 {
                    let (process, area) = (thread.process().page(), thread.area());
                    lend::offer(&shared, Offer { process, area, mailbox: None, was_asked: false });
                }
                (thread.trap(regs, hidden_gs), thread.trapped())
            }
            _ => (Err(dead(&shared)), 0),
        };
        let ran = to.saturating_sub(from);
        let ran = self.spin.end(ran, slept, now);
        if slept
            && shared.lends
            && self.spin.is_brisk()
            && is_sole()
            && !shared.has_affinity.load(Ordering::Relaxed)
            && thread.part(&shared)
        {
            Counters::add(&shared.counters.parted);
            self.spin.forgive();
        }
        self.runner.leave(matches!(trap, Ok(Trap::Interrupted)), ran, awake, now);
        if end == Wait::Requested {
            return trap;
        }
        trap.map(|trap| self.settle(trap, regs))
    }
}

/// The error when a stub has died. While the sandbox ends there is nobody to tell.
fn dead(shared: &Shared) -> Error {
    while shared.is_ending.load(Ordering::SeqCst) {
        // The process ends any moment.
        std::thread::sleep(LOOK);
    }
    Error::Exhausted("systrap: the stub of a guest process has died".into())
}

impl Context for SystrapContext {
    fn switch(&mut self, space: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Result<Trap, Error> {
        let Some(space) = space.as_any().downcast_ref::<SystrapSpace>() else {
            return Err(Error::Broken("systrap: an address space of another platform".into()));
        };
        if !is_canonical(regs.rip) {
            // IRET or SYSRET on Linux would fault as well.
            return Ok(Trap::Exception { vector: GENERAL_PROTECTION, code: 0 });
        }
        if !std::mem::replace(&mut self.is_busy, true) {
            self.shared.busy.fetch_add(1, Ordering::Relaxed);
        }
        self.bind(space)?;
        space.prepare(std::mem::take(&mut self.has_faulted))?;
        let trap = loop {
            if !self.runner.enter() {
                return Ok(Trap::Interrupted);
            }
            match self.stay(regs) {
                Ok(Trap::Fault { addr, access }) if space.resolve(addr, access) => {}
                trap => break trap,
            }
        };
        self.has_faulted = matches!(trap, Ok(Trap::Fault { .. }));
        let counters = &self.shared.counters;
        Counters::add(match &trap {
            Ok(Trap::Syscall | Trap::Syscall32) => &counters.syscalls,
            Ok(Trap::Fault { .. }) => &counters.faults,
            Ok(Trap::Interrupted) => &counters.interruptions,
            _ => &counters.exceptions,
        });
        trap
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.runner.clone()
    }

    fn fp_state(&mut self) -> Result<FpState, Error> {
        if let Some(fp) = &self.next_fp {
            return Ok(fp.clone());
        }
        if let Some(fp) = self.ask_fp() {
            return Ok(fp);
        }
        self.call_out()?;
        Ok(match (&self.bound, &self.fp) {
            (Some((_, thread)), _) => thread.fp_state(),
            (None, Some(state)) => state.clone(),
            (None, None) => xstate::initial(self.shared.xsave_layout()),
        })
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Error> {
        match (&self.bound, self.shared.frame.get()) {
            (Some(_), Some(layout)) if self.taken.is_some() => {
                self.next_fp = Some(layout.xstate.sanitised(state));
            }
            (Some((_, thread)), _) => thread.set_fp_state(state),
            (None, _) => self.fp = Some(state.clone()),
        }
        Ok(())
    }

    fn set_thread_page(&mut self, page: Option<ThreadPage>) {
        if let Err(e) = self.call_out() {
            log::error!("{e}");
        }
        self.page = page;
        self.posted = None;
        self.introduce();
    }

    fn relax(&mut self) {
        self.rest();
        if let (Some(_), Some(page)) = (&self.taken, self.page)
            && self.rounds > 0
        {
            Mailbox::new(&*self.shared.memory, page).set_rounds(0);
            self.rounds = 0;
        }
    }

    fn park(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for SystrapContext {
    fn drop(&mut self) {
        self.rest();
        if let Err(e) = self.unbind() {
            log::debug!("{e}");
        }
    }
}
