//! An address space: a stub process, made when something is first mapped, and what it maps.
//!
//! What the sentry wants mapped and what the stub has mapped are two things. A change that takes something away is made
//! at once. One that only adds waits, for a fault there or for the next change that cannot wait: so many changes cost one
//! hand-over to the stub, and what is mapped and never touched costs none. Where what is mapped has been touched at once
//! again and again, it is made before user code goes on: that saves the fault.
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
use crate::nursery::{Nursery, Stub};
use crate::pieces::{Piece, Pieces};
use crate::plan::{Change, changes, is_urgent};
use crate::process::{Command, Failure, Process};
use crate::shared::Shared;
use crate::thread::Thread;

/// An address space.
pub(crate) struct SystrapSpace {
    shared: Arc<Shared>,
    this: Weak<Self>,
    state: Lock<State, { rank::PAGE_TABLE }>,
    /// Something waits to be mapped that user code must find.
    is_due: AtomicBool,
    /// Guest threads that no context uses at the moment.
    idle: Lock<Vec<Thread>, { rank::LEAF }>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    /// What is to be mapped.
    wanted: Pieces,
    /// What the stub maps.
    made: Pieces,
    /// Where the two may differ.
    dirty: Vec<Range<u64>>,
    /// What is about to be used once it is mapped.
    soon: Vec<Range<u64>>,
    /// What is mapped in the window, which stays when all else is dropped: no fault brings it back.
    window: Pieces,
    /// What the stub has yet to map there.
    due: Vec<Command>,
    /// What user code does with what is mapped.
    habit: Habit,
    /// The last change was refused.
    has_failed: bool,
    /// The thread that the stub came with, until it is used.
    first: Option<Thread>,
    threads: usize,
}

/// Whether user code touches at once what it has mapped.
#[derive(Default)]
struct Habit {
    /// Mapped last, and not touched yet.
    fresh: Option<Range<u64>>,
    /// How often it was touched before anything else happened to the mappings, less how often it was not.
    touched: u32,
    /// Mappings made at once since the last look.
    trusted: u32,
}

/// Touches in a row that make a habit.
const HABIT: u32 = 4;
/// Mappings made at once before the habit is looked at again.
const TRUST: u32 = 64;

impl Habit {
    /// Something is to be mapped; says whether that is to be made at once.
    fn maps(&mut self, range: Range<u64>) -> bool {
        if self.fresh.is_some() {
            self.fresh = None;
            self.touched = self.touched.saturating_sub(1);
        }
        if self.touched >= HABIT && self.trusted < TRUST {
            self.trusted += 1;
            return true;
        }
        self.trusted = 0;
        self.fresh = Some(range);
        false
    }

    /// User code has touched `addr`, which waits to be mapped.
    fn touches(&mut self, addr: u64) {
        if self.fresh.as_ref().is_some_and(|range| range.contains(&addr)) {
            self.fresh = None;
            self.touched = (self.touched + 1).min(2 * HABIT);
        }
    }
}

/// Changes that wait at most.
const MAX_DIRTY: usize = 256;

/// Mappings that the host may need beyond those of guest memory: the stub's own, and those that a split adds.
const SPARE: usize = 32;

impl SystrapSpace {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Counters::add(&shared.counters.spaces);
        Arc::new_cyclic(|this| Self {
            shared,
            this: this.clone(),
            state: Lock::default(),
            is_due: AtomicBool::new(false),
            idle: Lock::default(),
        })
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Before user code runs: makes the changes that it needs. With `all` those too that could wait for a fault, since
    /// there was one.
    pub(crate) fn prepare(&self, all: bool) -> Result<(), Error> {
        if !all && !self.is_due.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut st = self.state.lock();
        if all {
            // Mapped because it was touched: that says nothing.
            st.habit.fresh = None;
        }
        let result = st.flush(&self.shared);
        // Only now: who finds nothing to do goes on to run user code.
        self.is_due.store(false, Ordering::SeqCst);
        result
    }

    /// Whether a fault at `addr` was due to a change that waited; makes it, unless somebody else just has.
    pub(crate) fn resolve(&self, addr: u64, access: Access) -> bool {
        let mut st = self.state.lock();
        let allows = |pieces: &Pieces| {
            pieces.overlapping(addr..addr.saturating_add(1)).any(|(_, p)| p.access.contains(access))
        };
        if !allows(&st.wanted) {
            return false;
        }
        Counters::add(&self.shared.counters.resolved);
        st.habit.touches(addr);
        allows(&st.made) || st.flush(&self.shared).is_ok()
    }

    /// A guest thread in this space that nobody uses.
    pub(crate) fn take_thread(&self) -> Result<Thread, Error> {
        if let Some(thread) = self.idle.lock().pop() {
            return Ok(thread);
        }
        let mut st = self.state.lock();
        let process = st.process(&self.shared)?;
        st.threads += 1;
        Counters::add(&self.shared.counters.threads);
        if let Some(thread) = st.first.take() {
            drop(st);
            Nursery::start(&self.shared);
            return Ok(thread);
        }
        Thread::start(&self.shared, process)
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
        let Stub { process, thread } = match shared.nursery.take(&shared.processors) {
            Some(stub) => stub,
            None => Stub::new(shared)?,
        };
        self.process = Some(process.clone());
        self.first = Some(thread);
        Ok(process)
    }

    /// Drops all guest mappings when `more` could break the host's limit.
    fn make_room(&mut self, shared: &Shared, more: usize) {
        let most = self.wanted.len().max(self.made.len());
        if most + self.window.len() + self.threads + SPARE + more > shared.map_limit {
            self.drop_all(shared);
        }
    }

    /// Drops all guest mappings: faults bring back what is needed.
    fn drop_all(&mut self, shared: &Shared) {
        self.wanted.clear();
        self.made.clear();
        self.dirty.clear();
        self.soon.clear();
        self.due.clear();
        let Some(process) = &self.process else { return };
        Counters::add(&shared.counters.evictions);
        let all = [PAGE_SIZE..WINDOW.start, WINDOW.end..STUB_TEXT];
        let mut commands: Vec<Command> = all.map(|r| Command::unmap(r.start, r.end - r.start)).into();
        // The last of them may not have been made yet.
        for (start, p) in self.window.overlapping(WINDOW) {
            commands.push(Command::map(start, p.end - start, p.access.bits().into(), p.offset));
        }
        if let Err(Failure::Call(errno)) = process.run_beside(shared, &commands) {
            log::error!("systrap: unmapping all: error {errno}");
            process.kill_and_wait();
        }
    }

    /// Notes that something in `range` is to change; does it at once if that takes something away.
    fn change(&mut self, shared: &Shared, range: Range<u64>) -> Result<(), Error> {
        let is_urgent = is_urgent(&self.made, &self.wanted, range.clone());
        self.dirty.push(range);
        if is_urgent || self.dirty.len() >= MAX_DIRTY { self.flush(shared) } else { Ok(()) }
    }

    /// The same for what cannot fail: then everything goes.
    fn restrict(&mut self, shared: &Shared, range: Range<u64>) {
        if let Err(e) = self.change(shared, range) {
            log::debug!("systrap: {e}");
            self.drop_all(shared);
        }
    }

    /// Makes the changes that wait. When the host refuses one, all mappings go, and faults bring back what is needed:
    /// that is enough room for a few.
    fn flush(&mut self, shared: &Shared) -> Result<(), Error> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable_by_key(|r| r.start);
        let mut list = Vec::new();
        let mut ranges = dirty.into_iter().peekable();
        while let Some(mut range) = ranges.next() {
            while let Some(next) = ranges.next_if(|next| next.start <= range.end) {
                range.end = range.end.max(next.end);
            }
            list.extend(changes(&self.made, &self.wanted, range));
        }
        let mut commands = std::mem::take(&mut self.due);
        let soon = std::mem::take(&mut self.soon);
        for change in &list {
            match *change {
                Change::Map(at, p) => map_commands(&mut commands, at, p, &soon),
                Change::Protect(from, to, access) => {
                    commands.push(Command::protect(from, to - from, access.bits().into()));
                }
                Change::Unmap(from, to) => commands.push(Command::unmap(from, to - from)),
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        let process = self.process(shared)?;
        Counters::add(&shared.counters.batches);
        match process.run_beside(shared, &commands) {
            Ok(()) => {
                for change in list {
                    match change {
                        Change::Map(at, piece) => self.made.insert(at, piece),
                        Change::Protect(from, to, access) => drop(self.made.protect(from..to, access)),
                        Change::Unmap(from, to) => self.made.remove(from..to),
                    }
                }
                self.has_failed = false;
                Ok(())
            }
            Err(e) => {
                log::debug!("systrap: mapping guest memory: {e:?}");
                // Also what the host did of the changes, which is not noted, must go.
                self.drop_all(shared);
                if matches!(e, Failure::Call(_)) && !std::mem::replace(&mut self.has_failed, true) {
                    return Ok(());
                }
                Err(e.into_error("mapping guest memory"))
            }
        }
    }
}

/// Maps a piece, and has the host make its translations where it is used `soon`.
fn map_commands(commands: &mut Vec<Command>, start: u64, piece: Piece, soon: &[Range<u64>]) {
    let mut at = start;
    while at < piece.end {
        let near = soon.iter().filter(|r| r.end > at && r.start < piece.end).min_by_key(|r| r.start);
        let is_soon = near.is_some_and(|r| r.start <= at);
        let end = near.map_or(piece.end, |r| if is_soon { r.end } else { r.start }).min(piece.end);
        let offset = piece.offset + (at - start);
        let map = if is_soon { Command::map_filled } else { Command::map };
        commands.push(map(at, end - at, piece.access.bits().into(), offset));
        at = end;
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
        let piece = Piece { end: addr + range.len, offset: range.offset, access };
        if WINDOW.contains(&addr) {
            let replaces = st.window.intersects(addr..piece.end);
            st.window.insert(addr, piece);
            st.due.push(Command::map(addr, range.len, access.bits().into(), range.offset));
            self.is_due.store(true, Ordering::SeqCst);
            // What was there is the caller's to give to others.
            return if replaces { st.flush(&self.shared) } else { Ok(()) };
        }
        st.wanted.insert(addr, piece);
        if st.habit.maps(addr..piece.end) || st.made.len() == 0 {
            // User code is about to begin here.
            self.is_due.store(true, Ordering::SeqCst);
        }
        st.change(&self.shared, addr..piece.end)
    }

    fn provide(&self, addr: u64, len: u64) -> bool {
        let mut st = self.state.lock();
        if st.soon.len() >= MAX_DIRTY {
            st.soon.clear();
        }
        match st.soon.last_mut() {
            Some(last) if last.end == addr => last.end = addr + len,
            _ => st.soon.push(addr..addr + len),
        }
        true
    }

    fn unmap(&self, addr: u64, len: u64) {
        self.shared.check(addr, len);
        let mut st = self.state.lock();
        for part in around_window(addr..addr + len) {
            if st.wanted.intersects(part.clone()) || st.made.intersects(part.clone()) {
                st.wanted.remove(part.clone());
                st.soon.retain(|soon| soon.end <= part.start || soon.start >= part.end);
                st.restrict(&self.shared, part);
            }
        }
    }

    fn protect(&self, addr: u64, len: u64, access: Access) {
        self.shared.check(addr, len);
        let mut st = self.state.lock();
        for run in st.wanted.protect(addr..addr + len, access) {
            st.restrict(&self.shared, run.clone());
            if !st.dirty.is_empty() && st.habit.maps(run) {
                self.is_due.store(true, Ordering::SeqCst);
            }
        }
    }

    fn fork_into(&self, child: &dyn AddressSpace, ranges: &[Range<u64>]) -> Result<(), Error> {
        let Some(child) = child.as_any().downcast_ref::<Self>() else {
            return Err(Error::Broken("systrap: fork into another platform's address space".into()));
        };
        let mut st = self.state.lock();
        let mut to = child.state.lock_same_rank();
        let mut theirs = Vec::new();
        let mut is_changed = false;
        for range in ranges {
            self.shared.check(range.start, range.end - range.start);
            let found: Vec<(u64, Piece)> = st.wanted.overlapping(range.clone()).collect();
            for (start, piece) in found {
                let access = piece.access - Access::WRITE;
                if access != piece.access {
                    st.wanted.protect(start..piece.end, access);
                    st.dirty.push(start..piece.end);
                    is_changed = true;
                }
                if !access.is_empty() {
                    theirs.push((start, Piece { access, ..piece }));
                }
            }
        }
        // First, and also when the child cannot be made: the sentry believes that nobody writes these pages.
        if is_changed && let Err(e) = st.flush(&self.shared) {
            log::debug!("systrap: {e}");
            st.drop_all(&self.shared);
        }
        to.make_room(&self.shared, theirs.len());
        for (start, piece) in theirs {
            to.wanted.insert(start, piece);
            to.dirty.push(start..piece.end);
        }
        child.is_due.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SystrapSpace {
    fn drop(&mut self) {
        self.idle.get_mut().clear();
        self.state.get_mut().first = None;
        if let Some(process) = self.state.get_mut().process.take() {
            process.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_at_once_again_and_again_is_made_at_once() {
        let mut habit = Habit::default();
        for _ in 0..HABIT {
            assert!(!habit.maps(0x1000..0x2000));
            habit.touches(0x1800);
        }
        for _ in 0..TRUST {
            assert!(habit.maps(0x1000..0x2000));
        }
        // A look whether it still is so: not any more.
        for _ in 0..2 * HABIT {
            assert!(!habit.maps(0x1000..0x2000));
            habit.touches(0x2000);
        }
        assert!(!habit.maps(0x1000..0x2000));
    }
}
