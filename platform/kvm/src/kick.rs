//! Interrupting a context that runs user code, without a lost wake-up.
//!
//! Two devices work together: the flag `immediate_exit` in the vCPU's run page makes `KVM_RUN` return before it enters
//! the guest; a signal makes it return when it is inside. Both are used under one lock, which the context takes just
//! before and just after its stay, so a kick finds it outside (and is remembered) or inside (and both devices work).

use std::sync::Arc;

use base::lock::{Lock, rank};
use platform::Kick;

use crate::vcpu::ImmediateExit;

/// The part of a context that other threads reach.
#[derive(Default)]
pub(crate) struct Runner(Lock<State, { rank::LEAF }>);

#[derive(Default)]
struct State {
    /// `kick` was called and not yet reported.
    kicked: bool,
    /// The context's own thread is outside, while a companion is inside and the guest thread waits for an answer: kicks
    /// are remembered only.
    held: bool,
    /// The platform wants the context to leave and come again.
    recalled: bool,
    inside: Option<Inside>,
}

/// Where the context runs now.
struct Inside {
    immediate_exit: ImmediateExit,
    thread: i32,
    space: u64,
}

/// What a stay ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) kicked: bool,
    pub(crate) recalled: bool,
}

impl Runner {
    /// Announces that the calling thread is about to enter `space`; false: a kick came before, do not enter.
    pub(crate) fn enter(&self, immediate_exit: &ImmediateExit, space: u64) -> bool {
        let thread = host::thread::current_id();
        let mut state = self.0.lock();
        if std::mem::take(&mut state.kicked) {
            return false;
        }
        state.recalled = false;
        immediate_exit.set(false);
        state.inside = Some(Inside { immediate_exit: immediate_exit.clone(), thread, space });
        true
    }

    /// Ends the stay. `interrupted` says that it ended without a trap, so a kick counts as delivered.
    pub(crate) fn leave(&self, interrupted: bool) -> Left {
        let mut state = self.0.lock();
        state.inside = None;
        let left = Left { kicked: state.kicked, recalled: state.recalled };
        if interrupted {
            state.kicked = false;
        }
        left
    }

    /// From now on kicks need not reach the guest.
    pub(crate) fn hold(&self) {
        self.0.lock().held = true;
    }

    /// From now on they must; true: one came meanwhile, which counts as delivered, and nothing changes.
    pub(crate) fn release(&self) -> bool {
        let mut state = self.0.lock();
        let kicked = std::mem::take(&mut state.kicked);
        state.held = kicked;
        kicked
    }

    /// The same without a look at kicks.
    pub(crate) fn end_hold(&self) {
        self.0.lock().held = false;
    }

    /// Makes the context leave and come again, if it runs in `space` (`None`: anywhere).
    pub(crate) fn recall(&self, space: Option<u64>) {
        let mut state = self.0.lock();
        let Some(inside) = &state.inside else { return };
        if space.is_some_and(|space| space != inside.space) {
            return;
        }
        inside.interrupt();
        state.recalled = true;
    }
}

impl Inside {
    fn interrupt(&self) {
        self.immediate_exit.set(true);
        host::thread::interrupt(self.thread);
    }
}

impl Kick for Runner {
    fn kick(&self) {
        let mut state = self.0.lock();
        state.kicked = true;
        if let Some(inside) = state.inside.as_ref().filter(|_| !state.held) {
            inside.interrupt();
        }
    }
}

/// All contexts, so that those in one space can be recalled.
#[derive(Default)]
pub(crate) struct Runners(Lock<Vec<Arc<Runner>>, { rank::PLATFORM }>);

impl Runners {
    pub(crate) fn add(&self, runner: Arc<Runner>) {
        self.0.lock().push(runner);
    }

    pub(crate) fn remove(&self, runner: &Arc<Runner>) {
        let mut list = self.0.lock();
        if let Some(i) = list.iter().position(|r| Arc::ptr_eq(r, runner)) {
            list.swap_remove(i);
        }
    }

    /// Recalls every context that runs in `space`.
    pub(crate) fn recall_space(&self, space: u64) {
        for runner in self.0.lock().iter() {
            runner.recall(Some(space));
        }
    }

    /// Recalls one context, another one each time.
    pub(crate) fn recall_one(&self, turn: usize) {
        let list = self.0.lock();
        if let Some(runner) = list.get(turn.checked_rem(list.len()).unwrap_or(0)) {
            runner.recall(None);
        }
    }
}
