//! What a stub has to change so that it maps what it should.

use std::ops::Range;

use base::memmap::Access;

use crate::pieces::{Piece, Pieces};

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Map this piece, which begins here.
    Map(u64, Piece),
    /// Set the access from here to there.
    Protect(u64, u64, Access),
    /// Unmap from here to there.
    Unmap(u64, u64),
}

impl Change {
    /// Joins `next`, which lies above this one, if one call can do both.
    fn join(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Map(start, p), Self::Map(at, q)) if p.end == *at && p.is_continued_by(*start, q) => {
                p.end = q.end;
            }
            (Self::Protect(_, end, access), Self::Protect(from, to, wanted))
                if end == from && access == wanted =>
            {
                *end = *to;
            }
            _ => return false,
        }
        true
    }
}

/// Whether `made`, where it maps something in `range`, allows more than `wanted` or maps something else: that has to end
/// before anybody relies on `wanted`. Everything else can wait for a fault.
pub(crate) fn is_urgent(made: &Pieces, wanted: &Pieces, range: Range<u64>) -> bool {
    made.overlapping(range).any(|(start, m)| {
        let mut at = start;
        for (from, w) in wanted.overlapping(start..m.end) {
            if from != at || w.offset != m.offset + (from - start) || !w.access.contains(m.access) {
                return true;
            }
            at = w.end;
        }
        at != m.end
    })
}

/// The calls that make `made` what `wanted` is in `range`, in order.
pub(crate) fn changes(made: &Pieces, wanted: &Pieces, range: Range<u64>) -> Vec<Change> {
    let mut cuts: Vec<u64> = made
        .overlapping(range.clone())
        .chain(wanted.overlapping(range))
        .flat_map(|(start, p)| [start, p.end])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut list: Vec<Change> = Vec::new();
    // Holes between pieces that go do not end a call.
    let mut unmap: Option<Range<u64>> = None;
    for pair in cuts.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let at = |pieces: &Pieces| pieces.overlapping(from..to).next().map(|(_, p)| p);
        let change = match (at(wanted), at(made)) {
            (None, None) => continue,
            (None, Some(_)) => {
                unmap = Some(unmap.map_or(from, |r| r.start)..to);
                continue;
            }
            (Some(w), Some(m)) if w.offset == m.offset && w.access == m.access => None,
            (Some(w), Some(m)) if w.offset == m.offset => Some(Change::Protect(from, to, w.access)),
            (Some(w), _) => Some(Change::Map(from, w)),
        };
        if let Some(r) = unmap.take() {
            list.push(Change::Unmap(r.start, r.end));
        }
        if let Some(change) = change
            && !list.last_mut().is_some_and(|last| last.join(&change))
        {
            list.push(change);
        }
    }
    if let Some(r) = unmap {
        list.push(Change::Unmap(r.start, r.end));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: Access = Access::READ.union(Access::WRITE);
    const R: Access = Access::READ;

    fn pieces(list: &[(u64, u64, u64, Access)]) -> Pieces {
        let mut p = Pieces::default();
        for &(start, end, offset, access) in list {
            p.insert(start, Piece { end, offset, access });
        }
        p
    }

    #[test]
    fn only_what_takes_away_is_urgent() {
        let made = pieces(&[(0x1000, 0x4000, 0x1000, R)]);
        let all = 0..0x10_0000;
        let urgent = |wanted: &[(u64, u64, u64, Access)]| is_urgent(&made, &pieces(wanted), all.clone());
        assert!(!urgent(&[(0x1000, 0x4000, 0x1000, RW)]));
        assert!(!urgent(&[(0, 0x8000, 0, R)]));
        assert!(!urgent(&[(0x1000, 0x2000, 0x1000, R), (0x2000, 0x4000, 0x2000, RW)]));
        assert!(urgent(&[(0x1000, 0x3000, 0x1000, R)]));
        assert!(urgent(&[(0x2000, 0x4000, 0x2000, R)]));
        assert!(urgent(&[(0x1000, 0x2000, 0x1000, R), (0x3000, 0x4000, 0x3000, R)]));
        assert!(urgent(&[(0x1000, 0x4000, 0x2000, R)]));
        assert!(urgent(&[(0x1000, 0x4000, 0x1000, Access::EXEC)]));
        assert!(!is_urgent(&made, &pieces(&[]), 0x4000..0x9000));
    }

    #[test]
    fn each_run_takes_one_call() {
        let all = 0..0x10_0000;
        let made = pieces(&[(0x1000, 0x2000, 0x7000, R), (0x3000, 0x4000, 0x9000, R)]);
        assert_eq!(changes(&made, &pieces(&[]), all.clone()), [Change::Unmap(0x1000, 0x4000)]);
        assert_eq!(changes(&made, &made, all.clone()), []);
        let wanted = pieces(&[(0x1000, 0x2000, 0x7000, RW), (0x2000, 0x5000, 0x8000, RW)]);
        assert_eq!(
            changes(&made, &wanted, all.clone()),
            [
                Change::Protect(0x1000, 0x2000, RW),
                Change::Map(0x2000, Piece { end: 0x3000, offset: 0x8000, access: RW }),
                Change::Protect(0x3000, 0x4000, RW),
                Change::Map(0x4000, Piece { end: 0x5000, offset: 0xa000, access: RW }),
            ]
        );
        let moved = pieces(&[(0x1000, 0x4000, 0, R)]);
        assert_eq!(
            changes(&made, &moved, all),
            [Change::Map(0x1000, Piece { end: 0x4000, offset: 0, access: R })]
        );
    }
}
