//! A guest thread's context: enters a stub's thread, waits, and says what made it stop.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::regs::UserRegs;
use platform::{AddressSpace, Context, Error, FpState, Kick, Trap};

use crate::counters::Counters;
use crate::kick::Runner;
use crate::shared::Shared;
use crate::space::SystrapSpace;
use crate::spin::{Spin, WAKE_TICKS};
use crate::thread::{Thread, Wait, is_canonical};
use crate::xstate;

const GENERAL_PROTECTION: u8 = 13;

/// How long a context sleeps before it looks whether its guest still answers.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that a kicked guest thread may let pass: user code can block the signal that kicks.
const DEAF: u32 = 5;

/// One guest thread.
pub(crate) struct SystrapContext {
    shared: Arc<Shared>,
    runner: Arc<Runner>,
    /// The thread on the host, and the space that it is in. The space may be gone already.
    bound: Option<(Weak<SystrapSpace>, Thread)>,
    /// The floating-point state while no thread is bound; `None`: the initial one.
    fp: Option<FpState>,
    spin: Spin,
}

impl SystrapContext {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let runner = Arc::new(Runner::new(shared.clone()));
        Self { shared, runner, bound: None, fp: None, spin: Spin::default() }
    }

    /// Makes sure that a thread in `space` is bound.
    fn bind(&mut self, space: &SystrapSpace) -> Result<&mut Thread, Error> {
        let here = matches!(&self.bound, Some((at, _)) if std::ptr::eq(at.as_ptr(), space));
        if !here {
            self.unbind();
            let (thread, is_fresh) = space.take_thread()?;
            self.runner.bind(&thread, is_fresh);
            if !is_fresh
                && self.shared.has_affinity.load(Ordering::Relaxed)
                && let Ok(mask) = host::system::affinity(0)
            {
                thread.process().set_affinity(thread.tid(), &mask);
            }
            let state = self.fp.take().unwrap_or_else(|| xstate::initial(self.shared.xsave_layout()));
            thread.set_fp_state(&state);
            self.bound = Some((space.weak(), thread));
        }
        match &mut self.bound {
            Some((_, thread)) => Ok(thread),
            None => Err(Error::Broken("systrap: no thread".into())),
        }
    }

    /// Gives the thread back, and keeps the floating-point state.
    fn unbind(&mut self) {
        if let Some((space, thread)) = self.bound.take() {
            self.fp = Some(thread.fp_state());
            self.runner.unbind();
            if let Some(space) = space.upgrade() {
                space.give_thread(thread);
            }
        }
    }
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
        self.bind(space)?;
        space.flush()?;
        let Some((_, thread)) = &mut self.bound else {
            return Err(Error::Broken("systrap: no thread".into()));
        };
        if !self.runner.enter() {
            return Ok(Trap::Interrupted);
        }
        thread.load(regs);
        let shared = &*self.shared;
        let running = shared.running.fetch_add(1, Ordering::Relaxed) + 1;
        let (mine, guests) = self.spin.begin(running * 2 <= shared.cpus);
        let woken = thread.resume(guests);
        let mut spin = if woken && mine > 0 { mine + WAKE_TICKS } else { mine };
        let (mut deaf, mut awake, mut slept) = (0, 0, false);
        let end = loop {
            let (end, ticks) = thread.wait(spin, LOOK);
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
                deaf += 1;
                thread.nudge();
                self.runner.kick();
                if deaf > DEAF {
                    log::warn!("systrap: a guest thread does not answer");
                    thread.process().kill_and_wait();
                }
            }
        };
        shared.running.fetch_sub(1, Ordering::Relaxed);
        let trap = match end {
            Wait::Trapped => thread.trap(regs),
            _ if shared.is_ending.load(Ordering::SeqCst) => loop {
                // The process ends any moment; there is nobody to tell.
                std::thread::sleep(LOOK);
            },
            _ => Err(Error::Exhausted("systrap: the stub of a guest process has died".into())),
        };
        let ran = self.spin.end(thread.ran(), slept);
        self.runner.leave(matches!(trap, Ok(Trap::Interrupted)), ran, awake);
        let counters = &shared.counters;
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
        Ok(match (&self.bound, &self.fp) {
            (Some((_, thread)), _) => thread.fp_state(),
            (None, Some(state)) => state.clone(),
            (None, None) => xstate::initial(self.shared.xsave_layout()),
        })
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Error> {
        match &self.bound {
            Some((_, thread)) => thread.set_fp_state(state),
            None => self.fp = Some(state.clone()),
        }
        Ok(())
    }

    fn park(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for SystrapContext {
    fn drop(&mut self) {
        self.unbind();
    }
}
