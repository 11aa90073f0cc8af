//! The pages that are there: which range of guest addresses shows which range of the memory file.
//!
//! Every piece holds one reference on each of its pages, and the guest's page tables map it with `access` (nothing when
//! that is empty). That invariant is what makes the table good for copying user memory without asking anybody.

use std::collections::BTreeMap;
use std::ops::Range;

use base::memmap::{Access, MemRange};

/// One contiguous piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pma {
    /// The address behind the last.
    pub(super) end: u64,
    /// The offset of the first page in the memory file.
    pub(super) off: u64,
    /// Whether the pages belong to processes, not to a file.
    pub(super) anon: bool,
    /// Whether a store may go to these very pages. False for pages of a file under a private mapping, for pages that a
    /// fork may have left shared, and for pages of a shared file that the file was not told would be written.
    pub(super) writable: bool,
    /// How the page tables map it.
    pub(super) access: Access,
}

impl Pma {
    fn continues(&self, start: u64, next: &Self, at: u64) -> bool {
        self.end == at
            && self.off + (at - start) == next.off
            && self.anon == next.anon
            && self.writable == next.writable
            && self.access == next.access
    }
}

/// The pieces in order.
#[derive(Default)]
pub(super) struct PmaMap {
    map: BTreeMap<u64, Pma>,
    /// Bytes of anonymous pages.
    anon: u64,
    /// Bytes of files' pages.
    file: u64,
}

impl PmaMap {
    /// Bytes of anonymous pages and of files' pages.
    pub(super) fn sizes(&self) -> (u64, u64) {
        (self.anon, self.file)
    }

    /// The piece that contains `addr`, with its start.
    pub(super) fn find(&self, addr: u64) -> Option<(u64, Pma)> {
        self.map.range(..=addr).next_back().map(|(&s, &p)| (s, p)).filter(|(_, p)| addr < p.end)
    }

    /// The pieces that meet `range`, cut to it.
    pub(super) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Pma)> {
        let first = self.find(range.start).map_or(range.start, |(s, _)| s);
        self.map.range(first..range.end.max(first)).filter_map(move |(&s, &p)| {
            let from = s.max(range.start);
            let end = p.end.min(range.end);
            (from < end).then_some((from, Pma { end, off: p.off + (from - s), ..p }))
        })
    }

    /// The largest range around `addr`, inside `range`, without pages. `addr` has none.
    pub(super) fn hole(&self, addr: u64, range: Range<u64>) -> Range<u64> {
        let low = self.map.range(..=addr).next_back().map_or(0, |(_, p)| p.end);
        let high = self.map.range(addr..).next().map_or(u64::MAX, |(&s, _)| s);
        low.max(range.start)..high.min(range.end)
    }

    /// The parts of `range` without pages.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = range.start;
        for (s, p) in self.overlapping(range.clone()) {
            if at < s {
                holes.push(at..s);
            }
            at = p.end;
        }
        if at < range.end {
            holes.push(at..range.end);
        }
        holes
    }

    fn count(&mut self, pma: &Pma, len: u64, op: fn(u64, u64) -> u64) {
        let sum = if pma.anon { &mut self.anon } else { &mut self.file };
        *sum = op(*sum, len);
    }

    fn split(&mut self, at: u64) {
        let Some((s, p)) = self.map.range_mut(..at).next_back() else { return };
        if at < p.end {
            let upper = Pma { off: p.off + (at - s), ..*p };
            p.end = at;
            self.map.insert(at, upper);
        }
    }

    fn merge(&mut self, at: u64) {
        let Some(&upper) = self.map.get(&at) else { return };
        let Some((&s, lower)) = self.map.range_mut(..at).next_back() else { return };
        if lower.continues(s, &upper, at) {
            lower.end = upper.end;
            self.map.remove(&at);
        }
    }

    /// Adds a piece where there is none.
    pub(super) fn insert(&mut self, start: u64, pma: Pma) {
        debug_assert!(start < pma.end && self.overlapping(start..pma.end).next().is_none());
        self.count(&pma, pma.end - start, |a, b| a + b);
        self.map.insert(start, pma);
        self.merge(pma.end);
        self.merge(start);
    }

    /// Takes out what lies in `range`, in order.
    pub(super) fn remove(&mut self, range: Range<u64>) -> Vec<(u64, Pma)> {
        // The common case by far: nothing is there.
        if self.overlapping(range.clone()).next().is_none() {
            return Vec::new();
        }
        self.split(range.start);
        self.split(range.end);
        let starts: Vec<u64> = self.map.range(range).map(|(&s, _)| s).collect();
        let removed: Vec<(u64, Pma)> =
            starts.iter().filter_map(|s| Some((*s, self.map.remove(s)?))).collect();
        for (s, p) in &removed {
            self.count(p, p.end - s, |a, b| a - b);
        }
        removed
    }

    /// Applies `f` to each piece in `range` (cut at its ends), then joins what can be joined. Ends, offsets and kinds
    /// stay.
    pub(super) fn update(&mut self, range: Range<u64>, mut f: impl FnMut(u64, &mut Pma)) {
        if self.overlapping(range.clone()).next().is_none() {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        let mut bounds = Vec::new();
        for (&s, p) in self.map.range_mut(range.clone()) {
            f(s, p);
            bounds.push(s);
        }
        for s in bounds {
            self.merge(s);
        }
        self.merge(range.end);
    }

    /// All pieces.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Pma)> + '_ {
        self.map.iter().map(|(&s, &p)| (s, p))
    }

    /// Takes everything out.
    pub(super) fn take_all(&mut self) -> Vec<(u64, Pma)> {
        (self.anon, self.file) = (0, 0);
        std::mem::take(&mut self.map).into_iter().collect()
    }

    /// Panics unless the sums are right and everything that can be joined is.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (mut anon, mut file) = (0, 0);
        let mut last: Option<(u64, Pma)> = None;
        for (s, p) in self.iter() {
            assert!(s < p.end);
            if let Some((ls, l)) = last {
                assert!(l.end <= s && !l.continues(ls, &p, s), "pieces overlap or are not joined");
            }
            *(if p.anon { &mut anon } else { &mut file }) += p.end - s;
            last = Some((s, p));
        }
        assert_eq!((anon, file), (self.anon, self.file));
    }
}

/// The pages of `pma`, which starts at `start`.
pub(super) fn pages(start: u64, pma: &Pma) -> MemRange {
    MemRange { offset: pma.off, len: pma.end - start }
}
