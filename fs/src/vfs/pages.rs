//! The pages of one file, as runs in the memory file.

use std::collections::BTreeMap;

use base::memmap::{MemRange, Memory};

/// Maps byte offsets of a file (multiples of the page size) to runs of the memory file. Holds one reference on each page.
#[derive(Debug, Default)]
pub struct PageMap {
    runs: BTreeMap<u64, MemRange>,
    bytes: u64,
}

impl PageMap {
    /// The memory from `offset` on that is contiguous in both, if the page is there.
    pub fn find(&self, offset: u64) -> Option<MemRange> {
        let (&start, run) = self.runs.range(..=offset).next_back()?;
        let skip = offset - start;
        (skip < run.len).then(|| MemRange { offset: run.offset + skip, len: run.len - skip })
    }

    /// The offset of the first page at or behind `offset`.
    pub fn next(&self, offset: u64) -> Option<u64> {
        if self.find(offset).is_some() {
            return Some(offset);
        }
        self.runs.range(offset..).next().map(|(&start, _)| start)
    }

    /// The end of the last page below `offset`, 0 when there is none.
    pub fn end_below(&self, offset: u64) -> u64 {
        self.runs.range(..offset).next_back().map_or(0, |(&start, run)| start + run.len)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds pages where none are; takes over their references.
    pub fn insert(&mut self, offset: u64, run: MemRange) {
        self.bytes += run.len;
        if let Some((_, before)) = self
            .runs
            .range_mut(..offset)
            .next_back()
            .filter(|(s, r)| **s + r.len == offset && r.end() == run.offset)
        {
            before.len += run.len;
            return;
        }
        self.runs.insert(offset, run);
    }

    /// Takes the pages in `from..to` out and drops their references.
    pub fn remove(&mut self, from: u64, to: u64, memory: &dyn Memory) {
        while let Some((start, run)) = self.runs.range(..to).next_back().map(|(&s, &r)| (s, r)) {
            let end = start + run.len;
            if end <= from {
                break;
            }
            self.runs.remove(&start);
            let (cut_from, cut_to) = (start.max(from), end.min(to));
            if cut_to < end {
                let keep = MemRange { offset: run.offset + (cut_to - start), len: end - cut_to };
                self.runs.insert(cut_to, keep);
            }
            if start < cut_from {
                self.runs.insert(start, MemRange { offset: run.offset, len: cut_from - start });
            }
            self.bytes -= cut_to - cut_from;
            memory.dec_ref(MemRange { offset: run.offset + (cut_from - start), len: cut_to - cut_from });
        }
    }

    /// Drops all references.
    pub fn clear(&mut self, memory: &dyn Memory) {
        for run in std::mem::take(&mut self.runs).into_values() {
            memory.dec_ref(run);
        }
        self.bytes = 0;
    }

    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = (u64, MemRange)> + '_ {
        self.runs.iter().map(|(&start, &run)| (start, run))
    }
}
