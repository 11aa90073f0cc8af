//! An address space: a stub process, made when something is first mapped, and what it maps.
//!
//! What is mapped where nothing was waits until somebody needs it: the next entry of a guest thread, or the next change
//! that takes something away. So many mappings cost one hand-over to the stub.
//!
//! The host's kernel limits how many mappings a process may have. What is mapped here is only a cache of what the sentry
//! knows, since a fault brings it back: near the limit all of it is dropped, and the guest goes on.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{Access, MemRange};
use platform::{AddressSpace, Error};

use crate::counters::Counters;
use crate::layout::{STUB_TEXT, WINDOW};
use crate::pieces::{Piece, Pieces};
use crate::process::{Command, Failure, Process};
use crate::shared::Shared;
use crate::thread::Thread;

/// An address space.
pub(crate) struct SystrapSpace {
    shared: Arc<Shared>,
    this: Weak<Self>,
    state: Lock<State, { rank::PAGE_TABLE }>,
    /// For a look at `pending` without the lock.
    has_pending: AtomicBool,
    /// Guest threads that no context uses at the moment.
    idle: Lock<Vec<Thread>, { rank::LEAF }>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    pieces: Pieces,
    /// What is mapped in the window, which stays when all else is dropped: no fault brings it back.
    window: Pieces,
    /// Mappings in `pieces` and `window` that the stub has not made yet.
    pending: Vec<Command>,
    /// The last mapping was refused.
    has_failed: bool,
    threads: usize,
}

/// Mappings that wait at most.
const MAX_PENDING: usize = 256;

/// Mappings that the host may need beyond those of guest memory: the stub's own, and those that a split adds.
const SPARE: usize = 32;

impl SystrapSpace {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Counters::add(&shared.counters.spaces);
        Arc::new_cyclic(|this| Self {
            shared,
            this: this.clone(),
            state: Lock::default(),
            has_pending: AtomicBool::new(false),
            idle: Lock::default(),
        })
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Makes the mappings that wait. Before user code runs: it may need them.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        if !self.has_pending.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut st = self.state.lock();
        let result = st.flush(&self.shared);
        // Only now: who finds nothing to do goes on to run user code.
        self.has_pending.store(false, Ordering::SeqCst);
        result
    }

    /// A guest thread in this space that nobody uses, and whether it is a new one.
    pub(crate) fn take_thread(&self) -> Result<(Thread, bool), Error> {
        if let Some(thread) = self.idle.lock().pop() {
            return Ok((thread, false));
        }
        let mut st = self.state.lock();
        let process = st.process(&self.shared)?;
        st.threads += 1;
        Counters::add(&self.shared.counters.threads);
        Thread::start(&self.shared, process).map(|thread| (thread, true))
    }

    /// Gives a thread back.
    pub(crate) fn give_thread(&self, thread: Thread) {
        self.idle.lock().push(thread);
    }
}

impl State {
    /// The stub; makes it first if need be.
    fn process(&mut self, shared: &Shared) -> Result<Arc<Process>, Error> {
        if let Some(process) = &self.process {
            return Ok(process.clone());
        }
        let process = shared.family.new_process()?;
        self.process = Some(process.clone());
        Ok(process)
    }

    /// Drops all guest mappings when `more` could break the host's limit.
    fn make_room(&mut self, shared: &Shared, more: usize) {
        if self.pieces.len() + self.window.len() + self.threads + SPARE + more > shared.map_limit {
            self.drop_all(shared);
        }
    }

    /// Drops all guest mappings: faults bring back what is needed.
    fn drop_all(&mut self, shared: &Shared) {
        self.pieces.clear();
        self.pending.clear();
        let Some(process) = &self.process else { return };
        Counters::add(&shared.counters.evictions);
        let all = [PAGE_SIZE..WINDOW.start, WINDOW.end..STUB_TEXT];
        let mut commands: Vec<Command> = all.map(|r| Command::unmap(r.start, r.end - r.start)).into();
        // The last of them may not have been made yet.
        for (start, p) in self.window.overlapping(WINDOW) {
            commands.push(Command::map(start, p.end - start, p.access.bits().into(), p.offset));
        }
        if let Err(Failure::Call(errno)) = process.run(&commands) {
            log::error!("systrap: unmapping all: error {errno}");
            process.kill_and_wait();
        }
    }

    /// Makes the mappings that wait. When the host refuses one, all go, and faults bring back what is needed: that is
    /// enough room for a few.
    fn flush(&mut self, shared: &Shared) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let process = self.process(shared)?;
        match process.run(&self.pending) {
            Ok(()) => {
                self.pending.clear();
                self.has_failed = false;
                Ok(())
            }
            Err(e @ Failure::Call(_)) if !self.has_failed => {
                log::debug!("systrap: mapping guest memory: {e:?}");
                self.has_failed = true;
                self.drop_all(shared);
                Ok(())
            }
            Err(e) => Err(e.into_error("mapping guest memory")),
        }
    }

    /// Makes calls that only take away, after the mappings that wait. They can fail only at the limit on mappings, and
    /// then everything goes.
    fn restrict(&mut self, shared: &Shared, commands: &[Command]) {
        if commands.is_empty() {
            return;
        }
        self.pending.extend_from_slice(commands);
        let Some(process) = &self.process else { return };
        match process.run(&self.pending) {
            Err(Failure::Call(errno)) => {
                log::debug!("systrap: {commands:x?}: error {errno}");
                self.drop_all(shared);
            }
            Ok(()) | Err(Failure::Dead) => self.pending.clear(),
        }
    }
}

/// What of `range` lies below the window and above it.
fn around_window(range: Range<u64>) -> [Range<u64>; 2] {
    let (below, above) = (range.end.min(WINDOW.start), range.start.max(WINDOW.end));
    [range.start..below.max(range.start), above..range.end.max(above)]
}

impl AddressSpace for SystrapSpace {
    fn map(&self, addr: u64, range: MemRange, access: Access) -> Result<(), Error> {
        self.shared.check(addr, range.len);
        let mut st = self.state.lock();
        st.make_room(&self.shared, 2);
        let pieces = if WINDOW.contains(&addr) { &mut st.window } else { &mut st.pieces };
        let replaces = pieces.intersects(addr..addr + range.len);
        pieces.insert(addr, Piece { end: addr + range.len, offset: range.offset, access });
        st.pending.push(Command::map(addr, range.len, access.bits().into(), range.offset));
        if replaces || st.pending.len() >= MAX_PENDING {
            // What was there is the caller's to give to others.
            return st.flush(&self.shared);
        }
        self.has_pending.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn unmap(&self, addr: u64, len: u64) {
        self.shared.check(addr, len);
        let mut st = self.state.lock();
        for part in around_window(addr..addr + len) {
            if st.pieces.intersects(part.clone()) {
                st.restrict(&self.shared, &[Command::unmap(part.start, part.end - part.start)]);
                st.pieces.remove(part);
            }
        }
    }

    fn protect(&self, addr: u64, len: u64, access: Access) {
        self.shared.check(addr, len);
        let mut st = self.state.lock();
        let runs = st.pieces.protect(addr..addr + len, access);
        let commands: Vec<Command> =
            runs.iter().map(|r| Command::protect(r.start, r.end - r.start, access.bits().into())).collect();
        st.restrict(&self.shared, &commands);
    }

    fn fork_into(&self, child: &dyn AddressSpace, ranges: &[Range<u64>]) -> Result<(), Error> {
        let Some(child) = child.as_any().downcast_ref::<Self>() else {
            return Err(Error::Broken("systrap: fork into another platform's address space".into()));
        };
        let mut st = self.state.lock();
        let mut to = child.state.lock_same_rank();
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for range in ranges {
            self.shared.check(range.start, range.end - range.start);
            let found: Vec<(u64, Piece)> = st.pieces.overlapping(range.clone()).collect();
            for (start, piece) in found {
                let access = piece.access - Access::WRITE;
                let (len, bits) = (piece.end - start, access.bits().into());
                if access != piece.access {
                    st.pieces.protect(start..piece.end, access);
                    ours.push(Command::protect(start, len, bits));
                }
                if !access.is_empty() {
                    theirs.push((
                        start,
                        Piece { access, ..piece },
                        Command::map(start, len, bits, piece.offset),
                    ));
                }
            }
        }
        // First, and also when the child cannot be made: the sentry believes that nobody writes these pages.
        st.restrict(&self.shared, &ours);
        to.make_room(&self.shared, theirs.len());
        for (start, piece, command) in theirs {
            to.pieces.insert(start, piece);
            to.pending.push(command);
        }
        child.has_pending.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SystrapSpace {
    fn drop(&mut self) {
        self.idle.get_mut().clear();
        if let Some(process) = self.state.get_mut().process.take() {
            process.finish();
        }
    }
}
