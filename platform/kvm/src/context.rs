//! A guest thread's context: in the guest with its own thread, or polling the thread's mailbox while a companion is there.
//!
//! **Direct**: the context's thread runs the vCPU, and each system call ends `KVM_RUN`. **Polling**: a companion runs the
//! vCPU, and calls from patched sites come through the [mailbox](platform::window): the guest thread stays in the guest
//! and spins until the answer is there. That takes two cores, so it is done only while calls come one soon after another
//! and cores are free (`policy.rs`). Everything else that ends a stay (faults, exceptions, kicks) ends polling.
//!
//! Between two calls of `switch` a context that polls has taken a request and not answered it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::regs::UserRegs;
use platform::window::mailbox::{Mailbox, State};
use platform::window::thread::FP_LEN;
use platform::window::{Window, Zone};
use platform::{AddressSpace, Context, Error, FpState, Kick, ThreadPage, Trap};

use crate::companion::{Companion, Job, Outcome};
use crate::engine::{Engine, GENERAL_PROTECTION};
use crate::machine::Machine;
use crate::policy::{End, POLL, POLL_CROWDED, Policy, ROUNDS, WAKE};
use crate::space::KvmSpace;
use crate::vcpu::is_canonical;
use crate::xsave;

/// Never set: for stays of the context's own thread.
static NEVER: AtomicBool = AtomicBool::new(false);

/// One guest thread.
pub(crate) struct KvmContext {
    machine: Arc<Machine>,
    /// `None` while a companion has it.
    engine: Option<Box<Engine>>,
    kicker: Arc<crate::kick::Runner>,
    page: Option<ThreadPage>,
    policy: Policy,
    polling: Option<Polling>,
    /// What the last answer told the guest thread to go on with.
    posted: Option<Posted>,
    /// The floating-point state that the thread is to go on with, while a request is unanswered.
    next_fp: Option<FpState>,
}

/// An answer.
struct Posted {
    regs: UserRegs,
    fp: Option<FpState>,
}

/// A companion is in the guest, or has just left it.
struct Polling {
    companion: Arc<Companion>,
    space: Arc<dyn AddressSpace>,
    /// The registers at the last request, which is not answered yet.
    taken: UserRegs,
    /// Calls that came through the mailbox.
    calls: u64,
}

impl KvmContext {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        let engine = Box::new(Engine::new(machine.clone()));
        Self {
            kicker: engine.runner.clone(),
            engine: Some(engine),
            machine,
            page: None,
            policy: Policy::default(),
            polling: None,
            posted: None,
            next_fp: None,
        }
    }

    /// Runs the guest with the calling thread.
    fn direct(&mut self, space: &KvmSpace, regs: &mut UserRegs) -> Result<Trap, Error> {
        let machine = self.machine.clone();
        let Some(engine) = &mut self.engine else {
            return Err(Error::Broken("kvm: a context without its engine".into()));
        };
        if let Some(page) = self.page {
            Mailbox::new(&*machine.memory, page).reset();
        }
        let began = host::clock::tsc();
        machine.companions.enter();
        let trap = engine.run(space, regs, &NEVER);
        machine.companions.leave();
        let trap = trap?.unwrap_or(Trap::Interrupted);
        let is_site = trap == Trap::Syscall && machine.window.as_ref().is_some_and(|w| w.contains(regs.rip));
        self.policy.direct(is_site, host::clock::tsc().wrapping_sub(began));
        self.settle(trap, regs)
    }

    /// What `trap` is where the guest thread was interrupted in the window's code.
    fn settle(&mut self, trap: Trap, regs: &mut UserRegs) -> Result<Trap, Error> {
        let (Some(page), Some(window)) = (self.page, &self.machine.window) else { return Ok(trap) };
        if !window.contains(regs.rip) {
            return Ok(trap);
        }
        let mailbox = Mailbox::new(&*self.machine.memory, page);
        match window.zone(regs.rip) {
            Some(Zone::Borrowed) => regs.rsp = mailbox.borrowed_rsp(),
            Some(Zone::Saved) => (regs.rsp, regs.rflags) = (mailbox.borrowed_rsp(), mailbox.saved_rflags()),
            Some(Zone::Requested) => {
                if mailbox.state() != State::Idle {
                    mailbox.take(regs);
                    mailbox.reset();
                    if trap == Trap::Interrupted {
                        // Reported next: a call came at the same time.
                        self.kicker.kick();
                    }
                    return Ok(Trap::Syscall);
                }
                if let Some(posted) = &self.posted {
                    *regs = posted.regs;
                    if let (Some(fp), Some(engine)) = (&posted.fp, &mut self.engine) {
                        engine.set_fp_state(fp)?;
                    }
                }
            }
            _ => {}
        }
        Ok(trap)
    }

    /// Lets a companion run the guest and polls; `None`: there is no companion.
    fn begin_polling(
        &mut self,
        window: &Window,
        space: &Arc<dyn AddressSpace>,
        page: ThreadPage,
        regs: &mut UserRegs,
    ) -> Option<Result<Trap, Error>> {
        let processors = host::system::affinity(0).ok()?;
        if processors.iter().map(|word| word.count_ones()).sum::<u32>() < 2 {
            return None;
        }
        let companion = self.machine.companions.take(self.machine.cores())?;
        let Some(engine) = self.engine.take() else {
            self.machine.companions.give(companion);
            return None;
        };
        window.counts.polls.fetch_add(1, Ordering::Relaxed);
        Mailbox::new(&*self.machine.memory, page).open(ROUNDS);
        companion.begin(Job { engine, space: space.clone(), regs: *regs, processors });
        let began = host::clock::tsc();
        while !companion.has_begun() {
            // Asleep, or waiting for a core.
            if host::clock::tsc().wrapping_sub(began) > WAKE
                && let Some(job) = companion.cancel()
            {
                self.engine = Some(job.engine);
                self.machine.companions.give(companion);
                self.policy.polled(0, End::Late);
                return None;
            }
            std::hint::spin_loop();
        }
        self.polling = Some(Polling { companion, space: space.clone(), taken: *regs, calls: 0 });
        Some(self.poll(window, page, regs))
    }

    /// Waits for a request, or for the companion's return.
    fn poll(&mut self, window: &Window, page: ThreadPage, regs: &mut UserRegs) -> Result<Trap, Error> {
        let machine = self.machine.clone();
        let mailbox = Mailbox::new(&*machine.memory, page);
        let began = host::clock::tsc();
        loop {
            let Some(polling) = &mut self.polling else {
                return Err(Error::Broken("kvm: polling without a companion".into()));
            };
            let limit = if machine.companions.is_crowded(machine.cores()) { POLL_CROWDED } else { POLL };
            let is_late = host::clock::tsc().wrapping_sub(began) > limit;
            if mailbox.state() == State::Request || is_late && !mailbox.close() {
                self.kicker.hold();
                mailbox.take(&mut polling.taken);
                polling.calls += 1;
                window.counts.mailed.fetch_add(1, Ordering::Relaxed);
                *regs = polling.taken;
                return Ok(Trap::Syscall);
            }
            if polling.companion.is_done() || is_late {
                if is_late {
                    window.counts.poll_failures.fetch_add(1, Ordering::Relaxed);
                }
                let (trap, left_with) = self.recover(is_late)?;
                *regs = left_with;
                // Without a trap nothing happened in the guest: the caller comes again, and goes in itself.
                return self.settle(trap.unwrap_or(Trap::Interrupted), regs);
            }
            std::hint::spin_loop();
        }
    }

    /// Ends polling: gets the companion out of the guest. Returns what the guest thread trapped with, if anything, and its
    /// registers, both as the vCPU has them.
    fn recover(&mut self, failed: bool) -> Result<(Option<Trap>, UserRegs), Error> {
        let Some(polling) = self.polling.take() else {
            return Err(Error::Broken("kvm: no companion to come back".into()));
        };
        if !polling.companion.is_done() {
            polling.companion.stop.store(true, Ordering::SeqCst);
            self.kicker.recall(None);
        }
        let outcome = polling.companion.finish();
        self.kicker.end_hold();
        self.machine.companions.give(polling.companion);
        let Some(Outcome { engine, regs, trap }) = outcome else {
            return Err(Error::Broken("kvm: a companion without an outcome".into()));
        };
        self.engine = Some(engine);
        let end = match trap {
            _ if failed => End::Late,
            Ok(Some(Trap::Interrupted)) => End::Kick,
            _ => End::Trap,
        };
        self.policy.polled(polling.calls, end);
        log::trace!("kvm: {end:?} after {} calls: {trap:?} at {:#x}", polling.calls, regs.rip);
        Ok((trap?, regs))
    }

    /// Ends polling while a request is unanswered: the guest thread goes on with registers that the caller has. Says
    /// whether a kick came.
    fn drop_request(&mut self, failed: bool) -> Result<bool, Error> {
        let (trap, _) = self.recover(failed)?;
        if let Some(page) = self.page {
            Mailbox::new(&*self.machine.memory, page).reset();
        }
        if let (Some(fp), Some(engine)) = (self.next_fp.take(), &mut self.engine) {
            engine.set_fp_state(&fp)?;
        }
        Ok(trap == Some(Trap::Interrupted))
    }

    /// Goes on with `regs` while a request is unanswered; `None`: the guest thread is not in the guest any more, and the
    /// caller goes on.
    fn answer(&mut self, space: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Result<Option<Trap>, Error> {
        let (Some(polling), Some(page), Some(window)) =
            (&self.polling, self.page, self.machine.window.clone())
        else {
            return Ok(None);
        };
        let mailbox = Mailbox::new(&*self.machine.memory, page);
        if self.kicker.release() {
            return Ok(Some(Trap::Interrupted));
        }
        if !polling.companion.is_done()
            && Arc::ptr_eq(&polling.space, space)
            && mailbox.answer(&polling.taken, regs, self.next_fp.as_ref().map(|fp| &fp.0[..]), true)
        {
            self.posted = Some(Posted { regs: *regs, fp: self.next_fp.take() });
            return self.poll(&window, page, regs).map(Some);
        }
        if mailbox.state() == State::Left {
            window.counts.left.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.drop_request(false)?.then_some(Trap::Interrupted))
    }

    /// The floating-point state of a guest thread that waits for an answer, from the thread itself.
    fn ask_fp(&self) -> Option<FpState> {
        let (polling, page) = (self.polling.as_ref()?, self.page?);
        let layout = self.machine.cpu.xsave;
        if !self.machine.cpu.has_xsave || layout.size as u64 > FP_LEN {
            return None;
        }
        let mailbox = Mailbox::new(&*self.machine.memory, page);
        if !mailbox.ask_fp() {
            return None;
        }
        let began = host::clock::tsc();
        while mailbox.state() == State::Busy {
            if polling.companion.is_done() || host::clock::tsc().wrapping_sub(began) > POLL {
                return None;
            }
            std::hint::spin_loop();
        }
        (mailbox.state() == State::Request).then(|| FpState(mailbox.fp(layout.size)))
    }

    /// The engine, after getting it back from a companion.
    fn engine(&mut self) -> Result<&mut Engine, Error> {
        if self.polling.is_some() && self.drop_request(false)? {
            self.kicker.kick();
        }
        self.engine.as_deref_mut().ok_or_else(|| Error::Broken("kvm: a context without its engine".into()))
    }
}

impl Context for KvmContext {
    fn switch(&mut self, space: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Result<Trap, Error> {
        let Some(tables) = space.as_any().downcast_ref::<KvmSpace>() else {
            return Err(Error::Broken("kvm: an address space of another platform".into()));
        };
        if !is_canonical(regs.rip) {
            // Processors refuse to enter the guest; IRET or SYSRET on Linux would fault as well.
            return Ok(Trap::Exception { vector: GENERAL_PROTECTION, code: 0 });
        }
        if self.polling.is_some()
            && let Some(trap) = self.answer(space, regs)?
        {
            return Ok(trap);
        }
        if let (Some(page), Some(window)) = (self.page, self.machine.window.clone())
            && self.policy.wants_polling()
            && regs.gs_base == 0
            && let Some(result) = self.begin_polling(&window, space, page, regs)
        {
            return result;
        }
        self.direct(tables, regs)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }

    fn fp_state(&mut self) -> Result<FpState, Error> {
        if let Some(fp) = &self.next_fp {
            return Ok(fp.clone());
        }
        match self.ask_fp() {
            Some(fp) => Ok(fp),
            None => self.engine()?.fp_state(),
        }
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Error> {
        if self.polling.is_some() && self.machine.cpu.has_xsave {
            self.next_fp = Some(xsave::sanitised(state, self.machine.cpu.xsave));
            return Ok(());
        }
        self.engine()?.set_fp_state(state)
    }

    fn set_thread_page(&mut self, page: Option<ThreadPage>) {
        if let Err(e) = self.engine().map(|engine| engine.page = page) {
            log::error!("{e}");
        }
        self.page = page;
        self.posted = None;
    }

    fn relax(&mut self) {
        if let (Some(polling), Some(page)) = (&self.polling, self.page)
            && !polling.companion.is_done()
        {
            Mailbox::new(&*self.machine.memory, page).dismiss();
        }
    }

    fn park(&mut self) -> Result<(), Error> {
        if let Some(engine) = &self.engine {
            engine.park();
        }
        Ok(())
    }
}

impl Drop for KvmContext {
    fn drop(&mut self) {
        if self.polling.is_some()
            && let Err(e) = self.drop_request(false)
        {
            log::error!("{e}");
        }
    }
}
