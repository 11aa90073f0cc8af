//! An address space: a tree of tables, and the gate through which contexts enter it.
//!
//! Lock order: the tree (`PAGE_TABLE`; a parent's before its child's), then the table pool (`PLATFORM`).

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use base::memmap::{Access, MemRange, Memory};
use platform::{AddressSpace, Error};

use crate::counters::Counters;
use crate::layout::{MEMORY_GPA, USER_END, WINDOW};
use crate::machine::Machine;
use crate::paging::{Stale, Tree, leaf_meets};
use crate::tables::Table;

/// What happened to pages whose translations are stale, for the cheapest way to end these.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// They left the address space; nobody needs them soon.
    Removed,
    /// They stay in use, with less access, or in another address space.
    Restricted,
}

impl Change {
    /// More runs of stale pages than this are shot down by new tables instead of `madvise` for each: after that, all
    /// pages of the changed tables come back by faults.
    fn runs_by_advice(self) -> usize {
        match self {
            Self::Removed => 48,
            Self::Restricted => 8,
        }
    }
}

/// Set in the gate while the root changes.
const CLOSED: u64 = 1 << 63;

/// The tables of one guest process.
pub(crate) struct KvmSpace {
    machine: Arc<Machine>,
    /// Differs from that of every other space of the machine, dead ones included.
    id: u64,
    /// The root's guest-physical address; changes only while the gate is closed and nobody is inside.
    root: AtomicU64,
    /// How many contexts run in here, and whether others must wait.
    gate: AtomicU64,
    tree: Lock<Option<Tree>, { rank::PAGE_TABLE }>,
}

impl KvmSpace {
    pub(crate) fn new(machine: Arc<Machine>) -> Result<Self, Error> {
        let tree = Tree::new(&machine.tables)?;
        let id = machine.counters.spaces.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Self {
            id,
            root: AtomicU64::new(tree.root().gpa()),
            gate: AtomicU64::new(0),
            tree: Lock::new(Some(tree)),
            machine,
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Waits until the gate is open, and goes in; returns the root to run with.
    pub(crate) fn enter(&self) -> u64 {
        loop {
            // The order matters: `close` sets the bit and then reads the count.
            let gate = self.gate.fetch_add(1, Ordering::SeqCst);
            if gate & CLOSED == 0 {
                return self.root.load(Ordering::SeqCst);
            }
            self.leave();
            // Closed for some tens of microseconds, by a thread that is running.
            std::thread::yield_now();
        }
    }

    /// Goes out.
    pub(crate) fn leave(&self) {
        self.gate.fetch_sub(1, Ordering::SeqCst);
    }

    /// Reads up to two bytes at `addr` as user code sees them.
    pub(crate) fn peek(&self, addr: u64) -> Option<[u8; 2]> {
        let tree = self.tree.lock();
        let tree = tree.as_ref()?;
        let byte = |addr: u64| {
            if addr >= USER_END {
                return None;
            }
            let gpa = tree.translate(&self.machine.tables, addr)?;
            let mut byte = [0];
            self.machine.read_memory(gpa.checked_sub(MEMORY_GPA)?, &mut byte);
            Some(byte[0])
        };
        Some([byte(addr)?, byte(addr + 1)?])
    }

    /// Maps a page of the ring-0 region for user code: for the start-up probe.
    pub(crate) fn map_raw(&self, addr: u64, gpa: u64, access: Access) -> Result<(), Error> {
        let mut tree = self.tree.lock();
        let Some(tree) = tree.as_mut() else { return Ok(()) };
        tree.map(&self.machine.tables, addr, gpa, PAGE_SIZE, access, |_| false, &mut Stale::default())
    }

    /// Makes what was cleared or restricted unusable. `changed` covers all addresses where that happened.
    fn shoot_down(&self, tree: &mut Tree, stale: Stale, change: Change, changed: &[Range<u64>]) {
        let runs = stale.into_runs();
        let by_tables = runs.len() > change.runs_by_advice() || tree.is_sparse() || tree.has_unlinked();
        if by_tables
            && self
                .rebuild(tree, |key| !runs.is_empty() && changed.iter().any(|range| leaf_meets(key, range)))
        {
            return;
        }
        if tree.has_unlinked() {
            self.relink(tree);
            return;
        }
        let mut refused = false;
        for run in runs {
            Counters::add(&self.machine.counters.shootdowns);
            refused |= !match change {
                Change::Removed => self.machine.memory.drop_translations(run),
                Change::Restricted => self.machine.memory.revoke(run),
            };
        }
        if refused {
            self.flush();
        }
    }

    /// Makes KVM forget everything.
    fn flush(&self) {
        Counters::add(&self.machine.counters.flushes);
        if let Err(e) = self.machine.slots.flush_translations() {
            // Guest processes could reach memory that is no longer theirs: better none at all.
            log::error!("kvm: dropping all translations: {e}");
            std::process::abort();
        }
    }

    /// Gives the processors the tree as it is, when there is no memory to rebuild it.
    fn relink(&self, tree: &mut Tree) {
        self.close();
        let gone = tree.relink(&self.machine.tables);
        self.flush();
        self.gate.fetch_and(!CLOSED, Ordering::SeqCst);
        self.machine.tables.retire(gone);
    }

    /// Puts the tree under a new root while nobody runs in it. False: there was no memory for it.
    fn rebuild(&self, tree: &mut Tree, changed: impl Fn(u64) -> bool) -> bool {
        self.close();
        let result = tree.rebuild(&self.machine.tables, changed);
        if result.is_ok() {
            self.root.store(tree.root().gpa(), Ordering::SeqCst);
        }
        self.gate.fetch_and(!CLOSED, Ordering::SeqCst);
        match result {
            Ok(gone) => {
                Counters::add(&self.machine.counters.rebuilds);
                self.machine.tables.retire(gone);
                true
            }
            Err(e) => {
                log::debug!("rebuilding page tables: {e}");
                false
            }
        }
    }

    /// Closes the gate and waits until nobody is inside.
    fn close(&self) {
        let mut waited = 0u32;
        self.gate.fetch_or(CLOSED, Ordering::SeqCst);
        while self.gate.load(Ordering::SeqCst) & !CLOSED != 0 {
            // Again from time to time: a context that first had to finish an exit cleared the flag of the last recall.
            if waited.is_multiple_of(64) {
                self.machine.runners.recall_space(self.id);
            }
            waited = waited.wrapping_add(1);
            std::thread::yield_now();
        }
    }
}

impl AddressSpace for KvmSpace {
    fn map(&self, addr: u64, range: MemRange, access: Access) -> Result<(), Error> {
        check(addr, range.len);
        let mut tree = self.tree.lock();
        let Some(tree) = tree.as_mut() else { return Ok(()) };
        let mut stale = Stale::default();
        let gpa = MEMORY_GPA + range.offset;
        let is_large = |gpa: u64| self.machine.memory.is_large(gpa - MEMORY_GPA);
        let result = tree.map(&self.machine.tables, addr, gpa, range.len, access, is_large, &mut stale);
        self.shoot_down(tree, stale, Change::Restricted, std::slice::from_ref(&(addr..addr + range.len)));
        result
    }

    fn unmap(&self, addr: u64, len: u64) {
        check(addr, len);
        let mut tree = self.tree.lock();
        let Some(tree) = tree.as_mut() else { return };
        let stale = tree.unmap(&self.machine.tables, addr, len);
        self.shoot_down(tree, stale, Change::Removed, std::slice::from_ref(&(addr..addr + len)));
    }

    fn protect(&self, addr: u64, len: u64, access: Access) {
        check(addr, len);
        let mut tree = self.tree.lock();
        let Some(tree) = tree.as_mut() else { return };
        let stale = tree.protect(&self.machine.tables, addr, len, access);
        self.shoot_down(tree, stale, Change::Restricted, std::slice::from_ref(&(addr..addr + len)));
    }

    fn fork_into(&self, child: &dyn AddressSpace, ranges: &[Range<u64>]) -> Result<(), Error> {
        let Some(child) = child.as_any().downcast_ref::<Self>() else {
            return Err(Error::Broken("kvm: fork into another platform's address space".into()));
        };
        let mut parent_tree = self.tree.lock();
        let mut child_tree = child.tree.lock_same_rank();
        let (Some(tree), Some(copy)) = (parent_tree.as_mut(), child_tree.as_mut()) else { return Ok(()) };
        let (mut stale, mut child_stale) = (Stale::default(), Stale::default());
        let result = ranges.iter().try_for_each(|range| {
            check(range.start, range.end - range.start);
            tree.share(&self.machine.tables, copy, range.clone(), &mut stale, &mut child_stale)
        });
        // Also after an error: what lost its write access must lose it everywhere.
        child.shoot_down(copy, child_stale, Change::Restricted, ranges);
        self.shoot_down(tree, stale, Change::Restricted, ranges);
        result
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for KvmSpace {
    fn drop(&mut self) {
        // Nobody runs in here: a running context holds a reference.
        if let Some(tree) = self.tree.get_mut().take() {
            let tables: Vec<Table> = tree.into_tables();
            self.machine.tables.retire(tables);
        }
    }
}

/// Panics on a range that no guest can have asked for: the sentry checks what guests ask.
fn check(addr: u64, len: u64) {
    let fits = |end: u64| end <= USER_END || WINDOW.start <= addr && end <= WINDOW.end;
    assert!(
        addr.is_multiple_of(PAGE_SIZE)
            && len.is_multiple_of(PAGE_SIZE)
            && addr.checked_add(len).is_some_and(fits),
        "kvm: {addr:#x}+{len:#x} is outside the guest's range"
    );
}
