//! Interrupting a context that runs user code, without a lost wake-up.
//!
//! A signal to the guest thread does it: in user code it is taken at once, and in the stub, where all signals are blocked,
//! it stays pending until the stub returns to user code. So a kick is lost neither before the entry nor on the way out.

use std::sync::Arc;

use base::lock::{Lock, rank};
use platform::Kick;

use crate::process::Process;
use crate::stub::KICK;
use crate::thread::Thread;

/// The part of a context that other threads reach.
#[derive(Default)]
pub(crate) struct Runner(Lock<State, { rank::LEAF }>);

#[derive(Default)]
struct State {
    /// `kick` was called and not yet reported.
    kicked: bool,
    /// Where the context runs now.
    inside: Option<(Arc<Process>, i32)>,
}

impl Runner {
    /// Announces that user code is about to run on `thread`; false: a kick came before, do not.
    pub(crate) fn enter(&self, thread: &Thread) -> bool {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.kicked) {
            return false;
        }
        state.inside = Some((thread.process().clone(), thread.tid()));
        true
    }

    /// Ends the stay. `interrupted` says that it ended without a trap, so a kick counts as delivered.
    pub(crate) fn leave(&self, interrupted: bool) {
        let mut state = self.0.lock();
        let inside = state.inside.take();
        if interrupted {
            state.kicked = false;
        }
        drop(state);
        drop(inside);
    }

    /// Whether a kick waits to be reported.
    pub(crate) fn is_kicked(&self) -> bool {
        self.0.lock().kicked
    }
}

impl Kick for Runner {
    fn kick(&self) {
        let mut state = self.0.lock();
        state.kicked = true;
        if let Some((process, tid)) = &state.inside {
            process.signal(*tid, KICK);
        }
    }
}
