//! vCPUs and who uses them.
//!
//! A context keeps its vCPU from one stay to the next, since moving the floating-point state costs two host calls. It
//! loses it only when it has parked, or when all vCPUs exist and another context needs one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::lock::{Lock, rank};
use kvm_bindings::kvm_xsave;
use parking_lot::{Mutex, MutexGuard};
use platform::Error;

use crate::counters::Counters;
use crate::machine::Machine;
use crate::vcpu::Vcpu;
use crate::xsave;

/// vCPUs that are made without looking for a parked one: making one costs as much as ten moves.
const MADE_FREELY: usize = 8;

/// Where a context's floating-point state is.
#[derive(Default)]
pub(crate) enum Fp {
    /// As at the start of a program.
    #[default]
    Initial,
    /// In the context's vCPU.
    Loaded,
    /// Here.
    Saved(Box<kvm_xsave>),
}

/// The part of a context that outlives its turn on a vCPU. The lock is taken while a [`Cell`] is locked.
pub(crate) type SavedFp = Lock<Fp, { rank::LEAF }>;

/// A vCPU and its user.
pub(crate) struct Cell {
    /// Held by the user for its whole stay in the guest. Only the seat of a free vCPU is waited for, by nobody who holds
    /// another lock, so it needs no rank.
    seat: Mutex<Seat>,
    /// The cell is in the list of parked ones.
    queued: AtomicBool,
}

/// What a cell's lock guards.
pub(crate) struct Seat {
    pub(crate) vcpu: Vcpu,
    /// Whose floating-point state is in the vCPU.
    owner: Option<Arc<SavedFp>>,
    /// The vCPU's floating-point state is the initial one.
    fresh: bool,
    parked: bool,
}

/// All vCPUs of the machine.
#[derive(Default)]
pub(crate) struct Pool {
    lists: Lock<Lists, { rank::PLATFORM }>,
    made: AtomicUsize,
    /// Contexts that found no vCPU and ask those inside to share.
    pub(crate) waiting: AtomicUsize,
}

#[derive(Default)]
struct Lists {
    all: Vec<Arc<Cell>>,
    free: Vec<Arc<Cell>>,
    /// Cells whose users have parked, the longest first; users may have come back since.
    parked: VecDeque<Arc<Cell>>,
}

impl Pool {
    /// The index of a vCPU to make, or `None` when all exist.
    pub(crate) fn next_index(&self, max: usize) -> Option<usize> {
        self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).ok()
    }

    /// vCPUs that exist.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Adds a new vCPU without a user.
    pub(crate) fn give(&self, vcpu: Vcpu) {
        let seat = Seat { vcpu, owner: None, fresh: true, parked: false };
        let cell = Arc::new(Cell { seat: Mutex::new(seat), queued: AtomicBool::new(false) });
        let mut lists = self.lists.lock();
        lists.all.push(cell.clone());
        lists.free.push(cell);
    }

    /// Finds or makes a vCPU for the context whose state is `fp`, and loads the state. Another context may take it
    /// again before the caller sits down.
    pub(crate) fn take(&self, machine: &Machine, fp: &Arc<SavedFp>) -> Result<Arc<Cell>, Error> {
        let mut asked = false;
        let result = loop {
            let free = self.lists.lock().free.pop();
            if let Some(cell) = free {
                let mut seat = cell.seat.lock();
                break seat.change_owner(machine, fp).map(|()| drop(seat)).map(|()| cell);
            }
            if self.made() >= MADE_FREELY.min(machine.max_vcpus)
                && let Some(cell) = self.steal_parked(machine, fp)?
            {
                break Ok(cell);
            }
            if let Some(index) = self.next_index(machine.max_vcpus) {
                match Vcpu::new(machine, index) {
                    Ok(vcpu) => {
                        Counters::add(&machine.counters.vcpus);
                        self.give(vcpu);
                        continue;
                    }
                    // Without memory or descriptors for another one, those that exist must do.
                    Err(Error::Exhausted(text)) if self.made() > 1 => {
                        log::warn!("{text}; sharing the vCPUs that exist");
                        std::thread::yield_now();
                    }
                    Err(e) => break Err(e),
                }
            }
            if let Some(cell) = self.steal_any(machine, fp)? {
                break Ok(cell);
            }
            if !std::mem::replace(&mut asked, true) {
                self.waiting.fetch_add(1, Ordering::Relaxed);
            }
            machine.runners.recall_one(machine.turn.fetch_add(1, Ordering::Relaxed));
            std::thread::yield_now();
        };
        if asked {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    /// The page faults that KVM settled by itself, as far as it says; vCPUs in use are left out.
    pub(crate) fn settled_faults(&self) -> Option<u64> {
        let all = self.lists.lock().all.clone();
        let seats = all.iter().filter_map(|cell| cell.seat.try_lock());
        seats.map(|seat| seat.vcpu.settled_faults()).sum()
    }

    fn steal_parked(&self, machine: &Machine, fp: &Arc<SavedFp>) -> Result<Option<Arc<Cell>>, Error> {
        loop {
            let Some(cell) = self.lists.lock().parked.pop_front() else { return Ok(None) };
            cell.queued.store(false, Ordering::Release);
            let Some(mut seat) = cell.seat.try_lock() else { continue };
            if std::mem::take(&mut seat.parked) {
                seat.change_owner(machine, fp)?;
                drop(seat);
                return Ok(Some(cell));
            }
        }
    }

    fn steal_any(&self, machine: &Machine, fp: &Arc<SavedFp>) -> Result<Option<Arc<Cell>>, Error> {
        let all = self.lists.lock().all.clone();
        // Only recalls move the turn on: if this did too, a waiter alone would recall every second context for ever.
        let turn = machine.turn.load(Ordering::Relaxed);
        for i in 0..all.len() {
            let cell = &all[(turn + i) % all.len()];
            let Some(mut seat) = cell.seat.try_lock() else { continue };
            // One without an owner is in the free list: it is taken from there.
            if seat.owner.is_some() {
                seat.change_owner(machine, fp)?;
                drop(seat);
                return Ok(Some(cell.clone()));
            }
        }
        Ok(None)
    }
}

impl Cell {
    /// The seat, if it is still that of the context whose state is `fp`. Never waits for the stay of another context,
    /// which may not end unless somebody asks for it.
    pub(crate) fn sit(&self, fp: &Arc<SavedFp>) -> Option<MutexGuard<'_, Seat>> {
        let mut seat = loop {
            if let Some(seat) = self.seat.try_lock() {
                break seat;
            }
            // Whoever takes the vCPU saves our state first; others look at the seat for a moment only.
            if !matches!(*fp.lock(), Fp::Loaded) {
                return None;
            }
            std::thread::yield_now();
        };
        if !seat.owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, fp)) {
            return None;
        }
        seat.parked = false;
        Some(seat)
    }

    /// Says that the user will be away for long.
    pub(crate) fn park(self: &Arc<Self>, pool: &Pool, fp: &Arc<SavedFp>) {
        let Some(mut seat) = self.sit(fp) else { return };
        seat.parked = true;
        drop(seat);
        // One entry a cell: a thread that blocks a million times does not fill the list.
        if !self.queued.swap(true, Ordering::AcqRel) {
            pool.lists.lock().parked.push_back(self.clone());
        }
    }

    /// Ends the use by the context whose state is `fp`.
    pub(crate) fn give_back(self: Arc<Self>, pool: &Pool, fp: &Arc<SavedFp>) {
        let Some(mut seat) = self.sit(fp) else { return };
        seat.owner = None;
        drop(seat);
        pool.lists.lock().free.push(self);
    }
}

impl Seat {
    /// Saves the owner's state and loads that of `fp`.
    fn change_owner(&mut self, machine: &Machine, fp: &Arc<SavedFp>) -> Result<(), Error> {
        if let Some(owner) = self.owner.take() {
            let state = self.vcpu.xsave()?;
            *owner.lock() = Fp::Saved(Box::new(state));
            Counters::add(&machine.counters.vcpu_moves);
        }
        let mut state = fp.lock();
        match &*state {
            Fp::Initial if self.fresh => {}
            Fp::Initial => self.vcpu.set_xsave(&xsave::initial())?,
            Fp::Saved(saved) => self.vcpu.set_xsave(saved)?,
            Fp::Loaded => {
                return Err(Error::Broken("kvm: a floating-point state is on two vCPUs".into()));
            }
        }
        *state = Fp::Loaded;
        self.fresh = false;
        self.owner = Some(fp.clone());
        Ok(())
    }
}
