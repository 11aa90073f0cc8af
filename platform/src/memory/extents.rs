//! Free ranges of the memory file: first fit from the low end, neighbours joined.

use std::collections::{BTreeMap, BTreeSet};

/// Extents that first fit looks at before it takes the smallest that fits, so that a fragmented file stays fast.
const FIRST_FIT_LOOKS: usize = 64;

/// Free ranges by offset, and by length.
#[derive(Debug, Default)]
pub(super) struct Extents {
    by_offset: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Extents {
    /// Adds a free range, which overlaps no other.
    pub(super) fn insert(&mut self, mut offset: u64, mut len: u64) {
        if let Some((&before, &before_len)) = self.by_offset.range(..offset).next_back() {
            debug_assert!(before + before_len <= offset, "memory file: {offset:#x} is freed twice");
            if before + before_len == offset {
                self.remove(before, before_len);
                offset = before;
                len += before_len;
            }
        }
        if let Some(&next_len) = self.by_offset.get(&(offset + len)) {
            self.remove(offset + len, next_len);
            len += next_len;
        }
        self.by_offset.insert(offset, len);
        self.by_len.insert((len, offset));
    }

    /// Takes `len` bytes at a multiple of `align` out of the free ranges.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        // Beyond these bytes any alignment fits.
        let sure = len.checked_add(align - 4096)?;
        let fits = |offset: u64, have: u64| {
            let at = offset.next_multiple_of(align);
            (at - offset + len <= have).then_some(at)
        };
        let (extent, at) = self
            .by_offset
            .iter()
            .take(FIRST_FIT_LOOKS)
            .find_map(|(&offset, &have)| Some(((offset, have), fits(offset, have)?)))
            .or_else(|| {
                let &(have, offset) = self.by_len.range((sure, 0)..).next()?;
                Some(((offset, have), fits(offset, have)?))
            })
            .or_else(|| {
                self.by_len
                    .range((len, 0)..(sure, 0))
                    .take(FIRST_FIT_LOOKS)
                    .find_map(|&(have, offset)| Some(((offset, have), fits(offset, have)?)))
            })?;
        let (offset, have) = extent;
        self.remove(offset, have);
        if at > offset {
            self.put(offset, at - offset);
        }
        if offset + have > at + len {
            self.put(at + len, offset + have - at - len);
        }
        Some(at)
    }

    /// Takes all out: offsets and lengths.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, u64)> {
        self.by_len.clear();
        std::mem::take(&mut self.by_offset).into_iter()
    }

    fn put(&mut self, offset: u64, len: u64) {
        self.by_offset.insert(offset, len);
        self.by_len.insert((len, offset));
    }

    fn remove(&mut self, offset: u64, len: u64) {
        self.by_offset.remove(&offset);
        self.by_len.remove(&(len, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_range_that_fits_is_taken_and_neighbours_join() {
        let mut e = Extents::default();
        e.insert(0, 0x10000);
        assert_eq!(e.take(0x1000, 0x1000), Some(0));
        assert_eq!(e.take(0x2000, 0x4000), Some(0x4000));
        assert_eq!(e.take(0x3000, 0x1000), Some(0x1000));
        assert_eq!(e.take(0x20000, 0x1000), None);
        e.insert(0x4000, 0x2000);
        e.insert(0, 0x1000);
        e.insert(0x1000, 0x3000);
        assert_eq!(e.by_offset.len(), 1);
        assert_eq!(e.take(0x10000, 0x10000), Some(0));
        assert!(e.by_offset.is_empty() && e.by_len.is_empty());
    }

    #[test]
    fn a_fragmented_file_still_finds_the_big_range() {
        let mut e = Extents::default();
        for i in 0..1000 {
            e.insert(i * 0x2000, 0x1000);
        }
        e.insert(0x1000_0000, 0x40_0000);
        assert_eq!(e.take(0x20_0000, 0x20_0000), Some(0x1000_0000));
        // One that is just as long and at the right place.
        assert_eq!(e.take(0x20_0000, 0x20_0000), Some(0x1020_0000));
    }
}
