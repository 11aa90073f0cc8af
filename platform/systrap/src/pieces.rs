//! What a stub maps, as the host's kernel has it: pieces of the memory file, neighbours that continue each other joined.

use std::collections::BTreeMap;
use std::ops::Range;

use base::memmap::Access;

/// A piece, from its key on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) end: u64,
    /// Offset in the memory file.
    pub(crate) offset: u64,
    pub(crate) access: Access,
}

impl Piece {
    /// Whether `next`, which begins at this one's end, is its continuation; this one begins at `start`.
    pub(crate) fn is_continued_by(&self, start: u64, next: &Self) -> bool {
        self.access == next.access && self.offset + (self.end - start) == next.offset
    }
}

/// The pieces of an address space, by address.
#[derive(Debug, Default)]
pub(crate) struct Pieces(BTreeMap<u64, Piece>);

impl Pieces {
    /// How many: what the host's limit on mappings counts.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The parts of pieces inside `range`.
    pub(crate) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Piece)> {
        // An empty range meets nothing, not even a piece that it lies within.
        let before =
            self.0.range(..range.start).next_back().filter(|(_, p)| p.end > range.start && !range.is_empty());
        let inside = self.0.range(range.start..range.end.max(range.start));
        before.into_iter().chain(inside).map(move |(&start, p)| {
            let from = start.max(range.start);
            (from, Piece { end: p.end.min(range.end), offset: p.offset + (from - start), ..*p })
        })
    }

    /// Whether anything in `range` is mapped.
    pub(crate) fn intersects(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_some()
    }

    /// Makes a piece begin at `at` if one lies across it.
    fn split(&mut self, at: u64) {
        let Some((&start, piece)) = self.0.range_mut(..at).next_back() else { return };
        if piece.end <= at {
            return;
        }
        let rest = Piece { offset: piece.offset + (at - start), ..*piece };
        piece.end = at;
        self.0.insert(at, rest);
    }

    /// Forgets what is in `range`.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, _)) = self.0.range(range.clone()).next() {
            self.0.remove(&start);
        }
    }

    /// Puts a piece where nothing is, or in the place of what is there.
    pub(crate) fn insert(&mut self, start: u64, piece: Piece) {
        self.remove(start..piece.end);
        self.0.insert(start, piece);
        self.join(piece.end);
        self.join(start);
    }

    /// Joins the pieces that meet at `at` if the second continues the first.
    fn join(&mut self, at: u64) {
        let Some(&second) = self.0.get(&at) else { return };
        let Some((&start, first)) = self.0.range_mut(..at).next_back() else { return };
        if first.end == at && first.is_continued_by(start, &second) {
            first.end = second.end;
            self.0.remove(&at);
        }
    }

    /// Sets the access in `range`; returns the runs, without holes, that had another one somewhere.
    pub(crate) fn protect(&mut self, range: Range<u64>, access: Access) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (start, piece) in self.overlapping(range.clone()) {
            if piece.access == access {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = piece.end,
                _ => runs.push(start..piece.end),
            }
        }
        for run in &runs {
            self.split(run.start);
            self.split(run.end);
            let starts: Vec<u64> = self.0.range(run.clone()).map(|(&s, _)| s).collect();
            for start in &starts {
                if let Some(p) = self.0.get_mut(start) {
                    p.access = access;
                }
            }
            for start in starts {
                self.join(start);
            }
            self.join(run.end);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: Access = Access::READ;
    const RW: Access = Access::READ.union(Access::WRITE);

    fn list(p: &Pieces) -> Vec<(u64, u64, u64, bool)> {
        p.0.iter().map(|(&s, p)| (s, p.end, p.offset, p.access == RW)).collect()
    }

    #[test]
    fn an_empty_range_meets_nothing() {
        let mut p = Pieces::default();
        p.insert(0x1000, Piece { end: 0x3000, offset: 0x9000, access: RW });
        assert!(!p.intersects(0x2000..0x2000));
        assert!(p.protect(0x2000..0x2000, R).is_empty());
        assert_eq!(list(&p), [(0x1000, 0x3000, 0x9000, true)]);
    }

    #[test]
    fn pieces_that_continue_each_other_are_one() {
        let mut p = Pieces::default();
        p.insert(0x1000, Piece { end: 0x2000, offset: 0x9000, access: RW });
        p.insert(0x3000, Piece { end: 0x4000, offset: 0xb000, access: RW });
        assert_eq!(p.len(), 2);
        p.insert(0x2000, Piece { end: 0x3000, offset: 0xa000, access: RW });
        assert_eq!(list(&p), [(0x1000, 0x4000, 0x9000, true)]);
        let middle = 0x2000..0x3000;
        assert_eq!(p.protect(middle.clone(), R), std::slice::from_ref(&middle));
        assert_eq!(p.len(), 3);
        assert!(p.protect(0x2000..0x3000, R).is_empty());
        assert_eq!(p.protect(0..0x8000, RW), std::slice::from_ref(&middle));
        assert_eq!(p.len(), 1);
        p.remove(0x2000..0x3000);
        assert_eq!(list(&p), [(0x1000, 0x2000, 0x9000, true), (0x3000, 0x4000, 0xb000, true)]);
        assert_eq!(p.protect(0..0x8000, R), [0x1000..0x2000, 0x3000..0x4000]);
        assert!(p.intersects(0x1fff..0x2001) && !p.intersects(0x2000..0x3000));
        p.insert(0x1000, Piece { end: 0x5000, offset: 0, access: R });
        assert_eq!(list(&p), [(0x1000, 0x5000, 0, false)]);
        let inside: Vec<_> = p.overlapping(0x2000..0x3000).collect();
        assert_eq!(inside, [(0x2000, Piece { end: 0x3000, offset: 0x1000, access: R })]);
    }
}
