//! A tree of guest page tables, edited as plain memory.
//!
//! Rules that KVM's shadow paging imposes (design.md, section 4): an upper-level entry keeps its target for the life of
//! the tree; an entry that is cleared or restricted stays usable until the *data* page's translations are dropped or
//! the table leaves the tree ([`Tree::rebuild`]). Accessed and dirty are always set, so that KVM may prefetch and never
//! writes entries back.
//!
//! A leaf of the tree is a table of 512 pages or, for large memory, one large page. To the entry above it both are
//! targets: it may not change from one to the other, nor from one large page to another, and a large page may not be
//! restricted ([`Tree::set_large`]). So such a change only makes a leaf that is not *linked* yet, and whoever made it rebuilds the tree. Where many large pages are replaced one by one,
//! each time more of their neighbours are replaced with them ([`Tree::split_more`]), since a rebuild costs faults all over
//! the tree.

use std::collections::BTreeMap;
use std::ops::Range;

use base::PAGE_SIZE;
use base::memmap::{Access, LARGE_PAGE, MemRange};
use platform::Error;

use crate::layout::{MEMORY_GPA, ring0};
use crate::tables::{Table, TablePool};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In a page directory: the entry maps a large page.
const LARGE: u64 = 1 << 7;
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

/// The address bits of a leaf's reach.
const LEAF_SHIFT: u32 = 21;
const LEAF_LEN: u64 = 1 << LEAF_SHIFT;
const _: () = assert!(LEAF_LEN == LARGE_PAGE);
/// The pages of a leaf.
const ENTRIES: usize = 512;
/// Large pages that are split at once at most.
const SPLIT_MAX: usize = 512;
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

/// What the entry of a page directory leads to.
#[derive(Clone, Copy)]
enum Target {
    Table(Table),
    /// A large page: its entry. Without [`MAPPED`] it is not mapped any more, but its address is still the only one that
    /// the entry may have.
    Large(u64),
}

#[derive(Clone, Copy)]
struct Leaf {
    target: Target,
    /// Pages that are mapped.
    used: u16,
    /// Whether the page directory leads here.
    linked: bool,
}

impl Leaf {
    /// The entry that leads here.
    fn entry(&self) -> u64 {
        match self.target {
            Target::Table(table) => table_entry(table.gpa()),
            Target::Large(entry) if entry & MAPPED == 0 => 0,
            Target::Large(entry) => entry,
        }
    }

    /// The table, if it is one.
    fn table(&self) -> Option<Table> {
        match self.target {
            Target::Table(table) => Some(table),
            Target::Large(_) => None,
        }
    }
}

/// Data pages whose translations must be dropped, as runs of the memory file.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    runs: Vec<MemRange>,
}

impl Stale {
    /// Adds the page, or the large page, behind an entry.
    fn push(&mut self, entry: u64, len: u64) {
        let offset = data_offset(entry);
        match self.runs.last_mut() {
            Some(last) if last.end() == offset => last.len += len,
            _ => self.runs.push(MemRange { offset, len }),
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
    /// Leaves by address / 2 MiB.
    leaves: BTreeMap<u64, Leaf>,
    /// Leaves without a mapped page.
    empty: usize,
    /// Leaves that are not linked.
    unlinked: usize,
    /// Tables that were leaves; the page directory still leads to them.
    replaced: Vec<Table>,
    /// How many large pages the next split splits.
    split_next: usize,
}

impl Tree {
    pub(crate) fn new(pool: &TablePool) -> Result<Self, Error> {
        let (root, kernel) = new_root(pool)?;
        Ok(Self::with_root(root, kernel))
    }

    fn with_root(root: Table, kernel: Table) -> Self {
        Self {
            root,
            uppers: vec![kernel],
            leaves: BTreeMap::new(),
            empty: 0,
            unlinked: 0,
            replaced: Vec::new(),
            split_next: 1,
        }
    }

    pub(crate) fn root(&self) -> Table {
        self.root
    }

    /// Whether so many leaves are empty that a rebuild pays.
    pub(crate) fn is_sparse(&self) -> bool {
        self.empty > EMPTY_KEPT && self.empty > self.leaves.len() / 2
    }

    /// Whether the processors' tables differ from the tree until [`Tree::rebuild`] or [`Tree::relink`].
    pub(crate) fn has_unlinked(&self) -> bool {
        self.unlinked > 0
    }

    /// The table for `key`, made if it is missing; a large page is replaced by one with the same pages.
    fn leaf(&mut self, pool: &TablePool, key: u64) -> Result<Table, Error> {
        let leaf = self.leaves.get(&key).copied();
        if let Some(Leaf { target: Target::Table(table), .. }) = leaf {
            return Ok(table);
        }
        let table = pool.allocate()?;
        if let Some(old) = leaf {
            self.split(pool, key, old, table);
            if old.used > 0 {
                self.split_more(pool, key);
            }
            return Ok(table);
        }
        let new = Leaf { target: Target::Table(table), used: 0, linked: true };
        if let Err(e) = self.link(pool, key, new.entry()) {
            // Nothing leads to it yet, but it may have been zeroed only: retiring is always right.
            pool.retire([table]);
            return Err(e);
        }
        self.leaves.insert(key, new);
        self.empty += 1;
        Ok(table)
    }

    /// Replaces the large page `old` at `key` by the fresh `table`.
    fn split(&mut self, pool: &TablePool, key: u64, old: Leaf, table: Table) {
        if let Target::Large(entry) = old.target
            && old.used > 0
        {
            let first = entry & !LARGE;
            for index in 0..ENTRIES {
                pool.store(table, index, first + index as u64 * PAGE_SIZE);
            }
        }
        self.replace(key, Target::Table(table), old.used);
    }

    /// Splits the neighbours of a large page that was split, twice as many each time.
    fn split_more(&mut self, pool: &TablePool, key: u64) {
        let is_large = |(_, leaf): &(&u64, &Leaf)| leaf.used > 0 && matches!(leaf.target, Target::Large(_));
        let above = self.leaves.range(key + 1..).filter(is_large);
        let below = self.leaves.range(..key).rev().filter(is_large);
        let more: Vec<(u64, Leaf)> =
            above.chain(below).take(self.split_next - 1).map(|(&key, &leaf)| (key, leaf)).collect();
        self.split_next = (self.split_next * 2).min(SPLIT_MAX);
        for (key, leaf) in more {
            // Only in advance: without memory they stay.
            let Ok(table) = pool.allocate() else { return };
            self.split(pool, key, leaf, table);
        }
    }

    /// Puts another leaf in the place of the one at `key`, not yet for processors.
    fn replace(&mut self, key: u64, target: Target, used: u16) {
        let new = Leaf { target, used, linked: false };
        let Some(old) = self.leaves.insert(key, new) else { return };
        if let Target::Table(table) = old.target {
            self.replaced.push(table);
        }
        self.unlinked += usize::from(old.linked);
        match (old.used, used) {
            (0, 1..) => self.empty -= 1,
            (1.., 0) => self.empty += 1,
            _ => {}
        }
    }

    /// The table and index of the entry that leads to `key`, made if it is missing.
    fn entry_of(&mut self, pool: &TablePool, key: u64) -> Result<(Table, usize), Error> {
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
        Ok((table, key as usize & 511))
    }

    /// Makes the upper levels lead to a leaf; there is no entry for it yet.
    fn link(&mut self, pool: &TablePool, key: u64, entry: u64) -> Result<(), Error> {
        let (table, index) = self.entry_of(pool, key)?;
        debug_assert!(pool.load(table, index) & PRESENT == 0);
        pool.store(table, index, entry);
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

    /// Changes the entry of the large page at `key`, whose address stays, and says what it was.
    ///
    /// Where the host has small pages, KVM's translation of the entry leads to a table of its own, which it shares between
    /// all entries with this address and access. To drop the data's translations empties that table; whoever has the page
    /// next fills it again, for this entry, too. So a restricted entry has to leave the tree: the leaf is not linked.
    fn set_large(&mut self, pool: &TablePool, key: u64, entry: u64, stale: &mut Stale) -> Result<(), Error> {
        let Some(leaf) = self.leaves.get_mut(&key) else { return Ok(()) };
        let old = leaf.entry();
        leaf.target = Target::Large(entry);
        let new = leaf.entry();
        if restricts(old, new) {
            stale.push(old, LARGE_PAGE);
            self.unlinked += usize::from(leaf.linked);
            leaf.linked = false;
        }
        let linked = leaf.linked;
        self.set_used(key, if new & MAPPED != 0 { ENTRIES as u16 } else { 0 });
        if linked {
            // The way there exists, so this does not fail.
            let (table, index) = self.entry_of(pool, key)?;
            pool.store(table, index, new);
        }
        Ok(())
    }

    /// Maps a large page.
    fn map_large(&mut self, pool: &TablePool, key: u64, entry: u64, stale: &mut Stale) -> Result<(), Error> {
        self.split_next = 1;
        match self.leaves.get(&key).map(|leaf| leaf.target) {
            None => {
                self.link(pool, key, entry)?;
                let leaf = Leaf { target: Target::Large(entry), used: ENTRIES as u16, linked: true };
                self.leaves.insert(key, leaf);
            }
            Some(Target::Large(old)) if (old ^ entry) & ADDRESS == 0 => {
                self.set_large(pool, key, entry, stale)?;
            }
            Some(Target::Large(old)) => {
                if old & PRESENT != 0 {
                    stale.push(old, LARGE_PAGE);
                }
                self.replace(key, Target::Large(entry), ENTRIES as u16);
            }
            Some(Target::Table(table)) => {
                let present = (0..ENTRIES).map(|index| pool.load(table, index)).filter(|e| e & PRESENT != 0);
                present.for_each(|old| stale.push(old, PAGE_SIZE));
                self.replace(key, Target::Large(entry), ENTRIES as u16);
            }
        }
        Ok(())
    }

    /// Whether a large page may be mapped at `key` for `indices`. A table in use stays one: to replace it would cost
    /// more than its pages' faults.
    fn takes_large(&self, key: u64, indices: &Range<usize>) -> bool {
        *indices == (0..ENTRIES)
            && self.leaves.get(&key).is_none_or(|leaf| leaf.used == 0 || leaf.table().is_none())
    }

    /// The table for a change of some pages of `key`. A large page that cannot be split for want of memory is unmapped:
    /// the pages come back by faults.
    fn table_to_change(&mut self, pool: &TablePool, key: u64, stale: &mut Stale) -> Option<Table> {
        self.leaf(pool, key)
            .inspect_err(|e| {
                log::debug!("kvm: splitting a large page: {e}");
                let _ = self.drop_large(pool, key, stale);
            })
            .ok()
    }

    /// Unmaps the large page at `key`.
    fn drop_large(&mut self, pool: &TablePool, key: u64, stale: &mut Stale) -> Result<(), Error> {
        match self.leaves.get(&key).map(|leaf| leaf.target) {
            Some(Target::Large(entry)) => self.set_large(pool, key, entry & !(MAPPED | PRESENT), stale),
            _ => Ok(()),
        }
    }

    /// Whether nothing is mapped at `key`.
    fn is_empty(&self, key: u64) -> bool {
        self.leaves.get(&key).is_none_or(|leaf| leaf.used == 0)
    }

    /// The entry of the large page at `key`, if it is mapped there and `indices` are all of its pages.
    fn whole_large(&self, key: u64, indices: &Range<usize>) -> Option<u64> {
        match self.leaves.get(&key) {
            Some(&Leaf { target: Target::Large(entry), used: 1.., .. }) if *indices == (0..ENTRIES) => {
                Some(entry)
            }
            _ => None,
        }
    }

    /// Maps guest-physical `gpa..gpa + len` at `addr`, as large pages where that is possible and `large` says so. What it
    /// replaces is in `stale`, also after an error.
    #[expect(clippy::too_many_arguments, reason = "what, where, how, and what became of it")]
    pub(crate) fn map(
        &mut self,
        pool: &TablePool,
        addr: u64,
        gpa: u64,
        len: u64,
        access: Access,
        large: impl Fn(u64) -> bool,
        stale: &mut Stale,
    ) -> Result<(), Error> {
        let mut gpa = gpa;
        for (key, indices) in pieces(addr, len) {
            let mut entry = page_entry(gpa, access);
            if gpa.is_multiple_of(LARGE_PAGE) && large(gpa) && self.takes_large(key, &indices) {
                self.map_large(pool, key, entry | LARGE, stale)?;
                gpa += LARGE_PAGE;
                continue;
            }
            gpa += indices.len() as u64 * PAGE_SIZE;
            let table = self.leaf(pool, key)?;
            let mut used = self.leaves.get(&key).map_or(0, |l| l.used);
            // With nothing used all entries are zero: no need to look.
            let fresh = used == 0;
            for index in indices {
                let old = if fresh { 0 } else { pool.load(table, index) };
                pool.store(table, index, entry);
                if restricts(old, entry) {
                    stale.push(old, PAGE_SIZE);
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
            if self.whole_large(key, &indices).is_some() {
                let _ = self.drop_large(pool, key, &mut stale);
                continue;
            }
            if self.is_empty(key) {
                continue;
            }
            let Some(table) = self.table_to_change(pool, key, &mut stale) else { continue };
            let mut used = self.leaves.get(&key).map_or(0, |l| l.used);
            for index in indices {
                let old = pool.load(table, index);
                if old & MAPPED == 0 {
                    continue;
                }
                pool.store(table, index, 0);
                used -= 1;
                if old & PRESENT != 0 {
                    stale.push(old, PAGE_SIZE);
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
            if let Some(old) = self.whole_large(key, &indices) {
                let entry = page_entry(old & ADDRESS, access) | LARGE;
                let _ = self.set_large(pool, key, entry, &mut stale);
                continue;
            }
            if self.is_empty(key) {
                continue;
            }
            let Some(table) = self.table_to_change(pool, key, &mut stale) else { continue };
            for index in indices {
                let old = pool.load(table, index);
                if old & MAPPED == 0 {
                    continue;
                }
                let new = page_entry(old & ADDRESS, access);
                pool.store(table, index, new);
                if restricts(old, new) {
                    stale.push(old, PAGE_SIZE);
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
            if let Some(entry) = self.whole_large(key, &indices) {
                self.set_large(pool, key, entry & !WRITABLE, stale)?;
                child.map_large(pool, key, entry & !WRITABLE, child_stale)?;
                continue;
            }
            if self.is_empty(key) {
                continue;
            }
            let Some(table) = self.table_to_change(pool, key, stale) else {
                return Err(Error::Exhausted("kvm: no memory for page tables".into()));
            };
            let is_mapped = |index| pool.load(table, index) & MAPPED != 0;
            if !indices.clone().any(is_mapped) {
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
                        stale.push(entry, PAGE_SIZE);
                    }
                    entry &= !WRITABLE;
                    pool.store(table, index, entry);
                }
                let old = pool.load(copy, index);
                pool.store(copy, index, entry);
                if restricts(old, entry) {
                    child_stale.push(old, PAGE_SIZE);
                }
                if old & MAPPED == 0 {
                    child_used += 1;
                }
            }
            child.set_used(key, child_used);
        }
        Ok(())
    }

    /// Puts the tree under a new root: tables in `changed` are copied to new ones, empty leaves left out, the others
    /// kept. Nobody may run in the tree meanwhile. Returns the tables that left; on an error nothing has changed.
    pub(crate) fn rebuild(
        &mut self,
        pool: &TablePool,
        changed: impl Fn(u64) -> bool,
    ) -> Result<Vec<Table>, Error> {
        let mut new = Self { split_next: self.split_next, ..Self::new(pool)? };
        let mut copies = Vec::new();
        let mut gone = Vec::new();
        let result = self.leaves.iter().filter(|(_, leaf)| leaf.used > 0).try_for_each(|(&key, leaf)| {
            let mut leaf = *leaf;
            if let Target::Table(table) = leaf.target
                && leaf.linked
                && changed(key)
            {
                let copy = pool.allocate()?;
                copies.push(copy);
                pool.copy(table, copy);
                gone.push(table);
                leaf.target = Target::Table(copy);
            }
            leaf.linked = true;
            new.leaves.insert(key, leaf);
            new.link(pool, key, leaf.entry())
        });
        if let Err(e) = result {
            copies.push(new.root);
            copies.append(&mut new.uppers);
            pool.retire(copies);
            return Err(e);
        }
        gone.extend(self.leaves.values().filter(|l| l.used == 0).filter_map(Leaf::table));
        gone.push(self.root);
        gone.append(&mut self.uppers);
        gone.append(&mut self.replaced);
        *self = new;
        Ok(gone)
    }

    /// Links all leaves in place. Nobody may run in the tree meanwhile, and before somebody does again all of KVM's
    /// translations have to be dropped. Returns the tables that left.
    pub(crate) fn relink(&mut self, pool: &TablePool) -> Vec<Table> {
        let keys: Vec<u64> = self.leaves.iter().filter(|(_, l)| !l.linked).map(|(&key, _)| key).collect();
        for key in keys {
            // The way there exists, since another leaf was linked.
            let Ok((table, index)) = self.entry_of(pool, key) else { continue };
            if let Some(leaf) = self.leaves.get_mut(&key) {
                leaf.linked = true;
                pool.store(table, index, leaf.entry());
            }
        }
        self.unlinked = 0;
        std::mem::take(&mut self.replaced)
    }

    /// All tables, when the tree ends.
    pub(crate) fn into_tables(self) -> Vec<Table> {
        let mut tables = self.uppers;
        tables.push(self.root);
        tables.extend(self.replaced);
        tables.extend(self.leaves.values().filter_map(Leaf::table));
        tables
    }

    /// The guest-physical address that user code reads at `addr`, if it may.
    pub(crate) fn translate(&self, pool: &TablePool, addr: u64) -> Option<u64> {
        match self.leaves.get(&(addr >> LEAF_SHIFT))?.target {
            Target::Table(table) => {
                let entry = pool.load(table, (addr >> 12) as usize & 511);
                (entry & PRESENT != 0).then_some((entry & ADDRESS) + addr % PAGE_SIZE)
            }
            Target::Large(entry) => (entry & PRESENT != 0).then_some((entry & ADDRESS) + addr % LARGE_PAGE),
        }
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

/// A root with nothing but the kernel half, and the table of the latter's pointers: each space has its own, as the
/// [window](platform::window) differs.
fn new_root(pool: &TablePool) -> Result<(Table, Table), Error> {
    let root = pool.allocate()?;
    let kernel = match pool.allocate() {
        Ok(table) => table,
        Err(e) => {
            pool.retire([root]);
            return Err(e);
        }
    };
    pool.store(kernel, 510, table_entry(ring0::PD));
    pool.store(root, 511, table_entry(kernel.gpa()));
    Ok((root, kernel))
}
