//! A tree of guest page tables, edited as plain memory.
//!
//! Rules that KVM's shadow paging imposes (design.md, section 4): an upper-level entry keeps its target for the life of
//! the tree; an entry that is cleared or restricted stays usable until the *data* page's translations are dropped or
//! the table leaves the tree ([`Tree::rebuild`]). Accessed and dirty are always set, so that KVM may prefetch and never
//! writes entries back.

use std::collections::BTreeMap;
use std::ops::Range;

use base::PAGE_SIZE;
use base::memmap::{Access, MemRange};
use platform::Error;

use crate::layout::{MEMORY_GPA, ring0};
use crate::tables::{Table, TablePool};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Ours (ignored by processors): the page is mapped, be it without access.
const MAPPED: u64 = 1 << 9;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry that leads to a table; leaves alone restrict.
pub(crate) const fn table_entry(gpa: u64) -> u64 {
    gpa | PRESENT | WRITABLE | USER | ACCESSED
}

/// A supervisor entry for the ring-0 region, or, with `user`, one that user code may reach.
pub(crate) const fn kernel_entry(gpa: u64, writable: bool, user: bool) -> u64 {
    gpa | PRESENT | ACCESSED | DIRTY | if writable { WRITABLE } else { 0 } | if user { USER } else { 0 }
}

/// The address bits of a leaf table's reach.
const LEAF_SHIFT: u32 = 21;
const LEAF_LEN: u64 = 1 << LEAF_SHIFT;
/// Empty leaves that a tree may keep, beyond as many as are in use, before it is rebuilt.
const EMPTY_KEPT: usize = 256;

fn page_entry(gpa: u64, access: Access) -> u64 {
    let mut entry = gpa | MAPPED | USER | ACCESSED | DIRTY;
    if !access.is_empty() {
        entry |= PRESENT;
    }
    if access.contains(Access::WRITE) {
        entry |= WRITABLE;
    }
    if !access.contains(Access::EXEC) {
        entry |= NO_EXECUTE;
    }
    entry
}

/// Whether a translation made from `old` may do what `new` forbids.
fn restricts(old: u64, new: u64) -> bool {
    old & PRESENT != 0
        && (new & PRESENT == 0
            || (old ^ new) & ADDRESS != 0
            || (old & WRITABLE != 0 && new & WRITABLE == 0)
            || (old & NO_EXECUTE == 0 && new & NO_EXECUTE != 0))
}

/// A page of the memory file behind an entry.
fn data_offset(entry: u64) -> u64 {
    (entry & ADDRESS) - MEMORY_GPA
}

#[derive(Clone, Copy)]
struct Leaf {
    table: Table,
    /// Entries that are mapped.
    used: u16,
}

/// Data pages whose translations must be dropped, as runs of the memory file.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    runs: Vec<MemRange>,
}

impl Stale {
    fn push(&mut self, entry: u64) {
        let offset = data_offset(entry);
        match self.runs.last_mut() {
            Some(last) if last.end() == offset => last.len += PAGE_SIZE,
            _ => self.runs.push(MemRange { offset, len: PAGE_SIZE }),
        }
    }

    /// The runs, as few as possible.
    pub(crate) fn into_runs(mut self) -> Vec<MemRange> {
        if self.runs.len() > 1 {
            self.runs.sort_unstable_by_key(|r| r.offset);
            self.runs.dedup_by(|next, run| {
                if next.offset > run.end() {
                    return false;
                }
                run.len = run.len.max(next.end() - run.offset);
                true
            });
        }
        self.runs
    }
}

/// The tables of one address space.
pub(crate) struct Tree {
    root: Table,
    /// Upper tables without the root.
    uppers: Vec<Table>,
    /// Leaf tables by address / 2 MiB.
    leaves: BTreeMap<u64, Leaf>,
    /// Leaves without a mapped entry.
    empty: usize,
}

impl Tree {
    pub(crate) fn new(pool: &TablePool) -> Result<Self, Error> {
        Ok(Self { root: new_root(pool)?, uppers: Vec::new(), leaves: BTreeMap::new(), empty: 0 })
    }

    pub(crate) fn root(&self) -> Table {
        self.root
    }

    /// Whether so many leaves are empty that a rebuild pays.
    pub(crate) fn is_sparse(&self) -> bool {
        self.empty > EMPTY_KEPT && self.empty > self.leaves.len() / 2
    }

    /// The leaf for `key`, made if it is missing.
    fn leaf(&mut self, pool: &TablePool, key: u64) -> Result<Table, Error> {
        if let Some(leaf) = self.leaves.get(&key) {
            return Ok(leaf.table);
        }
        let table = pool.allocate()?;
        if let Err(e) = self.link(pool, key, table) {
            // Nothing leads to it yet, but it may have been zeroed only: retiring is always right.
            pool.retire([table]);
            return Err(e);
        }
        self.leaves.insert(key, Leaf { table, used: 0 });
        self.empty += 1;
        Ok(table)
    }

    /// Makes the upper levels lead to `leaf`; there is no entry for it yet.
    fn link(&mut self, pool: &TablePool, key: u64, leaf: Table) -> Result<(), Error> {
        let mut table = self.root;
        for shift in [18, 9] {
            let index = (key >> shift) as usize & 511;
            let entry = pool.load(table, index);
            table = if entry & PRESENT != 0 {
                TablePool::table_at(entry & ADDRESS)
            } else {
                let next = pool.allocate()?;
                self.uppers.push(next);
                pool.store(table, index, table_entry(next.gpa()));
                next
            };
        }
        let index = key as usize & 511;
        debug_assert!(pool.load(table, index) & PRESENT == 0);
        pool.store(table, index, table_entry(leaf.gpa()));
        Ok(())
    }

    fn set_used(&mut self, key: u64, used: u16) {
        if let Some(leaf) = self.leaves.get_mut(&key) {
            match (leaf.used, used) {
                (0, 1..) => self.empty -= 1,
                (1.., 0) => self.empty += 1,
                _ => {}
            }
            leaf.used = used;
        }
    }

    /// Maps guest-physical `gpa..gpa + len` at `addr`. What it replaces is in `stale`, also after an error.
    pub(crate) fn map(
        &mut self,
        pool: &TablePool,
        addr: u64,
        gpa: u64,
        len: u64,
        access: Access,
        stale: &mut Stale,
    ) -> Result<(), Error> {
        let mut entry = page_entry(gpa, access);
        for (key, indices) in pieces(addr, len) {
            let table = self.leaf(pool, key)?;
            let mut used = self.leaves.get(&key).map_or(0, |l| l.used);
            // With nothing used all entries are zero: no need to look.
            let fresh = used == 0;
            for index in indices {
                let old = if fresh { 0 } else { pool.load(table, index) };
                pool.store(table, index, entry);
                if restricts(old, entry) {
                    stale.push(old);
                }
                entry += PAGE_SIZE;
                if old & MAPPED == 0 {
                    used += 1;
                }
            }
            self.set_used(key, used);
        }
        Ok(())
    }

    /// Removes what is mapped in `addr..addr + len`.
    pub(crate) fn unmap(&mut self, pool: &TablePool, addr: u64, len: u64) -> Stale {
        let mut stale = Stale::default();
        for (key, indices) in self.present(addr, len) {
            let Some(&Leaf { table, mut used }) = self.leaves.get(&key) else { continue };
            for index in indices {
                let old = pool.load(table, index);
                if old & MAPPED == 0 {
                    continue;
                }
                pool.store(table, index, 0);
                used -= 1;
                if old & PRESENT != 0 {
                    stale.push(old);
                }
            }
            self.set_used(key, used);
        }
        stale
    }

    /// Sets the access of what is mapped in `addr..addr + len`.
    pub(crate) fn protect(&mut self, pool: &TablePool, addr: u64, len: u64, access: Access) -> Stale {
        let mut stale = Stale::default();
        for (key, indices) in self.present(addr, len) {
            let Some(&Leaf { table, .. }) = self.leaves.get(&key) else { continue };
            for index in indices {
                let old = pool.load(table, index);
                if old & MAPPED == 0 {
                    continue;
                }
                let new = page_entry(old & ADDRESS, access);
                pool.store(table, index, new);
                if restricts(old, new) {
                    stale.push(old);
                }
            }
        }
        stale
    }

    /// Copies the entries of `range` to `child` and takes the write access from both.
    ///
    /// The first stale set is this tree's, the second the child's; both also after an error.
    pub(crate) fn share(
        &mut self,
        pool: &TablePool,
        child: &mut Self,
        range: Range<u64>,
        stale: &mut Stale,
        child_stale: &mut Stale,
    ) -> Result<(), Error> {
        for (key, indices) in self.present(range.start, range.end - range.start) {
            let Some(&Leaf { table, used }) = self.leaves.get(&key) else { continue };
            let is_mapped = |index| pool.load(table, index) & MAPPED != 0;
            if used == 0 || !indices.clone().any(is_mapped) {
                continue;
            }
            let copy = child.leaf(pool, key)?;
            let mut child_used = child.leaves.get(&key).map_or(0, |l| l.used);
            for index in indices {
                let mut entry = pool.load(table, index);
                if entry & MAPPED == 0 {
                    continue;
                }
                if entry & WRITABLE != 0 {
                    if entry & PRESENT != 0 {
                        stale.push(entry);
                    }
                    entry &= !WRITABLE;
                    pool.store(table, index, entry);
                }
                let old = pool.load(copy, index);
                pool.store(copy, index, entry);
                if restricts(old, entry) {
                    child_stale.push(old);
                }
                if old & MAPPED == 0 {
                    child_used += 1;
                }
            }
            child.set_used(key, child_used);
        }
        Ok(())
    }

    /// Puts the tree under a new root: leaves in `changed` are copied to new tables, empty ones left out, the others
    /// kept. Nobody may run in the tree meanwhile. Returns the tables that left; on an error nothing has changed.
    pub(crate) fn rebuild(
        &mut self,
        pool: &TablePool,
        changed: impl Fn(u64) -> bool,
    ) -> Result<Vec<Table>, Error> {
        let mut new = Self { root: new_root(pool)?, uppers: Vec::new(), leaves: BTreeMap::new(), empty: 0 };
        let mut copies = Vec::new();
        let mut gone = Vec::new();
        let result = self.leaves.iter().filter(|(_, leaf)| leaf.used > 0).try_for_each(|(&key, leaf)| {
            let table = if changed(key) {
                let copy = pool.allocate()?;
                copies.push(copy);
                pool.copy(leaf.table, copy);
                gone.push(leaf.table);
                copy
            } else {
                leaf.table
            };
            new.leaves.insert(key, Leaf { table, used: leaf.used });
            new.link(pool, key, table)
        });
        if let Err(e) = result {
            copies.push(new.root);
            copies.append(&mut new.uppers);
            pool.retire(copies);
            return Err(e);
        }
        gone.extend(self.leaves.values().filter(|l| l.used == 0).map(|l| l.table));
        gone.push(self.root);
        gone.append(&mut self.uppers);
        *self = new;
        Ok(gone)
    }

    /// All tables, when the tree ends.
    pub(crate) fn into_tables(self) -> Vec<Table> {
        let mut tables = self.uppers;
        tables.push(self.root);
        tables.extend(self.leaves.into_values().map(|l| l.table));
        tables
    }

    /// The guest-physical address that user code reads at `addr`, if it may.
    pub(crate) fn translate(&self, pool: &TablePool, addr: u64) -> Option<u64> {
        let leaf = self.leaves.get(&(addr >> LEAF_SHIFT))?;
        let entry = pool.load(leaf.table, (addr >> 12) as usize & 511);
        (entry & PRESENT != 0).then_some((entry & ADDRESS) + addr % PAGE_SIZE)
    }

    /// The pieces of `addr..addr + len` that have a leaf.
    fn present(&self, addr: u64, len: u64) -> Vec<(u64, Range<usize>)> {
        let Some(end) = addr.checked_add(len).filter(|&end| end > addr) else { return Vec::new() };
        let keys = addr >> LEAF_SHIFT..((end - 1) >> LEAF_SHIFT) + 1;
        self.leaves
            .range(keys)
            .map(|(&key, _)| {
                let start = addr.max(key << LEAF_SHIFT) % LEAF_LEN;
                let stop = end.min((key + 1) << LEAF_SHIFT) - (key << LEAF_SHIFT);
                (key, (start / PAGE_SIZE) as usize..(stop / PAGE_SIZE) as usize)
            })
            .collect()
    }
}

/// `addr..addr + len` cut at the leaf tables' borders: key and indices.
fn pieces(addr: u64, len: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = addr + len;
    let mut at = addr;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let key = at >> LEAF_SHIFT;
        let stop = end.min((key + 1) << LEAF_SHIFT);
        let first = (at % LEAF_LEN / PAGE_SIZE) as usize;
        let indices = first..first + ((stop - at) / PAGE_SIZE) as usize;
        at = stop;
        Some((key, indices))
    })
}

/// Whether a leaf's reach meets `range`.
pub(crate) fn leaf_meets(key: u64, range: &Range<u64>) -> bool {
    key << LEAF_SHIFT < range.end && range.start < (key + 1) << LEAF_SHIFT
}

/// A root with nothing but the kernel half.
fn new_root(pool: &TablePool) -> Result<Table, Error> {
    let root = pool.allocate()?;
    pool.store(root, 511, table_entry(ring0::PDPT));
    Ok(root)
}
