//! The free ranges of an address space, found by size: the answer to "the highest hole of n pages" must not take a walk
//! over thousands of mappings.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use base::PAGE_SIZE;

/// Sizes up to this many pages have a class of their own.
const EXACT: u64 = 64;
/// Eight classes for each doubling beyond.
const CLASSES: usize = EXACT as usize + 8 * 48;

/// The free ranges of an address space, indexed by start and by size class.
pub(super) struct Gaps {
    /// Start to end.
    by_start: BTreeMap<u64, u64>,
    /// The starts of the gaps in each size class; every gap in a class is at least as long as all in the one before.
    classes: Vec<BTreeSet<u64>>,
}

/// The size class of a gap of `len` bytes.
fn class(len: u64) -> usize {
    let pages = len / PAGE_SIZE;
    if pages < EXACT {
        return pages as usize;
    }
    let log = u64::from(pages.ilog2());
    let eighth = (pages >> (log - 3)) & 7;
    ((EXACT + (log - 6) * 8 + eighth) as usize).min(CLASSES - 1)
}

impl Gaps {
    /// One gap over all of `range`.
    pub(super) fn new(range: Range<u64>) -> Self {
        let mut gaps = Self { by_start: BTreeMap::new(), classes: vec![BTreeSet::new(); CLASSES] };
        gaps.add(range.start, range.end);
        gaps
    }

    fn add(&mut self, start: u64, end: u64) {
        if start < end {
            self.by_start.insert(start, end);
            self.classes[class(end - start)].insert(start);
        }
    }

    fn take(&mut self, start: u64, end: u64) {
        self.by_start.remove(&start);
        self.classes[class(end - start)].remove(&start);
    }

    /// Marks a free range as used. What is not free in it stays as it is.
    pub(super) fn occupy(&mut self, range: Range<u64>) {
        let first = self.by_start.range(..=range.start).next_back().map_or(range.start, |(&s, _)| s);
        let hit: Vec<(u64, u64)> = self
            .by_start
            .range(first..range.end)
            .filter(|&(_, &e)| e > range.start)
            .map(|(&s, &e)| (s, e))
            .collect();
        for (s, e) in hit {
            self.take(s, e);
            self.add(s, range.start.min(e));
            self.add(range.end.max(s), e);
        }
    }

    /// Marks a used range as free.
    pub(super) fn release(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.by_start.range(..=start).next_back()
            && e >= start
        {
            self.take(s, e);
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.by_start.range(start..=end).next() {
            self.take(s, e);
            end = end.max(e);
        }
        self.add(start, end);
    }

    /// The highest place for `len` bytes in `within`; `usable` narrows a gap to what may be used of it.
    pub(super) fn highest(
        &self,
        len: u64,
        align: u64,
        within: &Range<u64>,
        usable: impl Fn(Range<u64>) -> Range<u64>,
    ) -> Option<u64> {
        let fit = |s: u64| -> Option<u64> {
            let gap = usable(s..*self.by_start.get(&s)?);
            let (low, high) = (gap.start.max(within.start), gap.end.min(within.end));
            let addr = high.checked_sub(len)? & !(align - 1);
            (addr >= low).then_some(addr)
        };
        let mut best: Option<u64> = None;
        for starts in &self.classes[class(len)..] {
            // Gaps in descending order; those wholly below the best so far cannot win.
            let low = best.unwrap_or(0);
            for &s in starts.range(..within.end).rev() {
                if best.is_some() && s < low && self.by_start.get(&s).is_some_and(|&e| e <= low) {
                    break;
                }
                if let Some(addr) = fit(s) {
                    best = Some(best.map_or(addr, |b| b.max(addr)));
                    break;
                }
            }
        }
        best
    }

    /// The lowest place for `len` bytes in `within`; `usable` as in [`Gaps::highest`].
    pub(super) fn lowest(
        &self,
        len: u64,
        within: &Range<u64>,
        usable: impl Fn(Range<u64>) -> Range<u64>,
    ) -> Option<u64> {
        let from = self.by_start.range(..=within.start).next_back().map_or(within.start, |(&s, _)| s);
        let mut best: Option<u64> = None;
        for starts in &self.classes[class(len)..] {
            for &s in starts.range(from..best.unwrap_or(within.end)) {
                let Some(&e) = self.by_start.get(&s) else { continue };
                let gap = usable(s..e);
                let (low, high) = (gap.start.max(within.start), gap.end.min(within.end));
                if low < high && high - low >= len {
                    best = Some(best.map_or(low, |b| b.min(low)));
                    break;
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_SIZE;

    fn all(g: &Gaps) -> Vec<(u64, u64)> {
        g.by_start.iter().map(|(&s, &e)| (s / P, e / P)).collect()
    }

    #[test]
    fn classes_rise_with_the_length() {
        let mut last = 0;
        for pages in (0..5000).chain((13..35).map(|n| (1 << n) - 1)).chain([1 << 35, 1 << 36]) {
            let c = class(pages * P);
            assert!(c >= last, "{pages}");
            last = c;
        }
    }

    #[test]
    fn what_is_released_joins_its_neighbours() {
        let mut g = Gaps::new(0..100 * P);
        g.occupy(10 * P..20 * P);
        g.occupy(30 * P..40 * P);
        assert_eq!(all(&g), [(0, 10), (20, 30), (40, 100)]);
        g.release(10 * P..20 * P);
        assert_eq!(all(&g), [(0, 30), (40, 100)]);
        g.occupy(5 * P..50 * P);
        assert_eq!(all(&g), [(0, 5), (50, 100)]);
        g.release(5 * P..50 * P);
        assert_eq!(all(&g), [(0, 100)]);
    }

    #[test]
    fn the_highest_and_the_lowest_fit_are_found() {
        let mut g = Gaps::new(0..1000 * P);
        g.occupy(100 * P..200 * P);
        g.occupy(210 * P..900 * P);
        g.occupy(950 * P..1000 * P);
        let any = |r: Range<u64>| r;
        assert_eq!(g.highest(10 * P, P, &(0..1000 * P), any), Some(940 * P));
        assert_eq!(g.highest(10 * P, P, &(0..905 * P), any), Some(200 * P));
        assert_eq!(g.highest(60 * P, P, &(0..1000 * P), any), Some(40 * P));
        assert_eq!(g.highest(60 * P, 64 * P, &(0..1000 * P), any), Some(0));
        assert_eq!(g.highest(101 * P, P, &(0..1000 * P), any), None);
        assert_eq!(g.lowest(10 * P, &(5 * P..1000 * P), any), Some(5 * P));
        assert_eq!(g.lowest(10 * P, &(95 * P..1000 * P), any), Some(200 * P));
        assert_eq!(g.lowest(50 * P, &(95 * P..1000 * P), any), Some(900 * P));
    }
}
