//! Stubs made ahead, each with a guest thread: a fork or an exec takes one that is there instead of waiting for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::lock::{Condition, Lock, rank};
use host::system::CpuMask;
use platform::Error;

use crate::process::{Bound, Process};
use crate::shared::Shared;
use crate::thread::Thread;

/// A stub without guest memory, and its first thread.
pub(crate) struct Stub {
    pub(crate) process: Arc<Process>,
    pub(crate) thread: Thread,
}

/// The stubs that wait for an address space, and the thread that makes them.
#[derive(Default)]
pub(crate) struct Nursery {
    state: Lock<State, { rank::LEAF }>,
    changed: Condition,
}

#[derive(Default)]
struct State {
    ready: Vec<Stub>,
    /// Address spaces that took a stub, or would have.
    taken: usize,
    /// The thread runs.
    is_started: bool,
    /// Its number on the host, and the processor that it may not run on.
    tid: Option<i32>,
    kept_off: Option<usize>,
    /// Nobody needs stubs any more.
    is_over: bool,
}

/// Stubs that wait at most: a process that forks executes a program next, mostly.
const READY: usize = 2;
/// A sandbox that has so many address spaces will have more.
const FEW: usize = 3;

impl Stub {
    /// Makes a stub.
    pub(crate) fn new(shared: &Shared) -> Result<Self, Error> {
        let process = shared.family.new_process()?;
        let thread = Thread::start(shared, process.clone())?;
        Ok(Self { process, thread })
    }
}

impl Nursery {
    /// Takes a stub back that nobody has used.
    pub(crate) fn give(&self, stub: Stub) {
        self.state.lock().ready.push(stub);
    }

    /// A stub, if there is one; more are made meanwhile, on another processor than the caller's if there is one: the host
    /// would wake the thread on this one, and let it go first.
    pub(crate) fn take(&self, processors: &CpuMask) -> Option<Stub> {
        let mut state = self.state.lock();
        state.taken += 1;
        let stub = state.ready.pop();
        let mine = host::system::current_cpu();
        if let Some(tid) = state.tid
            && state.kept_off != Some(mine)
            && let Some(mask) = Bound::AllBut(mine).mask(processors)
            && host::system::set_affinity(tid, &mask).is_ok()
        {
            state.kept_off = Some(mine);
        }
        drop(state);
        self.changed.notify_all();
        stub.filter(|stub| !stub.process.is_dead())
    }

    /// Starts the thread that makes stubs, once the sandbox has shown that it needs more than a few.
    pub(crate) fn start(shared: &Arc<Shared>) {
        let mut state = shared.nursery.state.lock();
        if state.is_started || state.is_over || state.taken < FEW {
            return;
        }
        state.is_started = true;
        drop(state);
        let own = shared.clone();
        let serve = move || own.nursery.serve(&own);
        if let Err(e) =
            std::thread::Builder::new().name("stub-nursery".into()).stack_size(256 << 10).spawn(serve)
        {
            log::info!("systrap: no thread that makes stubs ahead: {e}");
        }
    }

    fn serve(&self, shared: &Shared) {
        self.state.lock().tid = Some(host::thread::current_id());
        loop {
            let mut state = self.state.lock();
            while state.ready.len() >= READY && !state.is_over {
                self.changed.wait(&mut state);
            }
            if state.is_over {
                state.tid = None;
                return;
            }
            drop(state);
            match Stub::new(shared) {
                Ok(stub) => self.give(stub),
                // Who needs one finds out, and tells.
                Err(e) => {
                    if !shared.is_ending.load(Ordering::SeqCst) {
                        log::info!("{e}");
                    }
                    let mut state = self.state.lock();
                    (state.is_started, state.tid, state.kept_off) = (false, None, None);
                    return;
                }
            }
        }
    }

    /// Ends the thread.
    pub(crate) fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }
}
