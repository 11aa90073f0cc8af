//! Memory for guest page tables: pages in slots of their own, outside the memory file.
//!
//! KVM shadows guest page tables and does not see our edits to them (design.md, section 4), so a page that served as a
//! table must not serve again while KVM may remember it. Freed pages are *retired*; when enough have gathered, one
//! flush of all translations makes KVM forget them and they are free again.

use std::sync::Arc;

use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use host::mapping::Mapping;
use platform::Error;

use crate::counters::Counters;
use crate::layout::{TABLES_GPA, TABLES_LEN, TABLES_SLOT};
use crate::slots::Slots;

/// Retired pages that wait for a flush: 8 MiB, the tables of one or two hundred processes.
const RETIRED_BATCH: usize = 2048;
/// Free pages that keep their memory.
const FREE_KEPT: usize = RETIRED_BATCH;

/// A page of page-table memory, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table(u32);

impl Table {
    /// The guest-physical address.
    pub(crate) fn gpa(self) -> u64 {
        TABLES_GPA + u64::from(self.0) * PAGE_SIZE
    }

    fn offset(self, index: usize) -> u64 {
        debug_assert!(index < 512);
        u64::from(self.0) * PAGE_SIZE + index as u64 * 8
    }
}

/// All page-table memory of the machine.
pub(crate) struct TablePool {
    mapping: Mapping,
    slots: Arc<Slots>,
    counters: Arc<Counters>,
    state: Lock<State, { rank::PLATFORM }>,
}

#[derive(Default)]
struct State {
    /// Pages from here on were never used.
    fresh: u32,
    /// Pages below are in a slot.
    in_slot: u32,
    /// Dirty pages that KVM has forgotten.
    free: Vec<Table>,
    /// The same, but without memory behind them.
    free_empty: Vec<Table>,
    retired: Vec<Table>,
}

impl TablePool {
    pub(crate) fn new(slots: Arc<Slots>, counters: Arc<Counters>) -> Result<Self, Error> {
        let mapping = Mapping::anonymous(TABLES_LEN)
            .map_err(|e| Error::Exhausted(format!("kvm: addresses for page tables: {e}")))?;
        Ok(Self { mapping, slots, counters, state: Lock::new(State::default()) })
    }

    /// Allocates a table without entries.
    pub(crate) fn allocate(&self) -> Result<Table, Error> {
        let mut state = self.state.lock();
        if state.free.is_empty() && state.free_empty.is_empty() && !self.has_fresh(&mut state)? {
            self.flush(&mut state)?;
        }
        if let Some(table) = state.free.pop() {
            drop(state);
            self.mapping.zero(table.offset(0), PAGE_SIZE);
            return Ok(table);
        }
        if let Some(table) = state.free_empty.pop() {
            return Ok(table);
        }
        if !self.has_fresh(&mut state)? {
            return Err(Error::Exhausted("kvm: page tables: all 2560 MiB are in use".into()));
        }
        let table = Table(state.fresh);
        state.fresh += 1;
        Ok(table)
    }

    /// Whether a never-used page is in a slot, after adding one where possible.
    fn has_fresh(&self, state: &mut State) -> Result<bool, Error> {
        if state.fresh < state.in_slot {
            return Ok(true);
        }
        let offset = u64::from(state.in_slot) * PAGE_SIZE;
        if offset >= TABLES_LEN {
            return Ok(false);
        }
        self.slots
            .add(TABLES_GPA + offset, &self.mapping, offset, TABLES_SLOT)
            .map_err(|e| Error::Exhausted(format!("kvm: memory slot for page tables: {e}")))?;
        state.in_slot += (TABLES_SLOT / PAGE_SIZE) as u32;
        Ok(true)
    }

    /// Takes tables back that no root in use leads to any more.
    pub(crate) fn retire(&self, tables: impl IntoIterator<Item = Table>) {
        let mut state = self.state.lock();
        state.retired.extend(tables);
        if state.retired.len() >= RETIRED_BATCH
            && let Err(e) = self.flush(&mut state)
        {
            // They stay retired; an allocation that needs them tries again and reports.
            log::warn!("{e}");
        }
    }

    fn flush(&self, state: &mut State) -> Result<(), Error> {
        self.slots
            .flush_translations()
            .map_err(|e| Error::Broken(format!("kvm: dropping all translations: {e}")))?;
        Counters::add(&self.counters.flushes);
        let retired = std::mem::take(&mut state.retired);
        state.free.extend(retired);
        if state.free.len() > FREE_KEPT {
            let mut surplus = state.free.split_off(FREE_KEPT);
            surplus.sort_unstable_by_key(|t| t.0);
            for run in surplus.chunk_by(|a, b| a.0 + 1 == b.0) {
                self.mapping.drop_pages(run[0].offset(0), run.len() as u64 * PAGE_SIZE);
            }
            state.free_empty.append(&mut surplus);
        }
        Ok(())
    }

    /// Pages that hold memory now: used, retired or kept for reuse.
    pub(crate) fn pages(&self) -> u64 {
        let state = self.state.lock();
        u64::from(state.fresh) - state.free_empty.len() as u64
    }

    #[inline]
    pub(crate) fn load(&self, table: Table, index: usize) -> u64 {
        self.mapping.load_u64(table.offset(index))
    }

    #[inline]
    pub(crate) fn store(&self, table: Table, index: usize, entry: u64) {
        self.mapping.store_u64(table.offset(index), entry);
    }

    /// Copies all entries of `from` to the fresh table `to`.
    pub(crate) fn copy(&self, from: Table, to: Table) {
        self.mapping.copy(from.offset(0), to.offset(0), PAGE_SIZE);
    }

    /// The table at `gpa`, an address that an entry made by us holds.
    pub(crate) fn table_at(gpa: u64) -> Table {
        debug_assert!((TABLES_GPA..TABLES_GPA + TABLES_LEN).contains(&gpa));
        Table(((gpa - TABLES_GPA) / PAGE_SIZE) as u32)
    }
}
