//! fork(2): a copy of an address space whose private pages are shared until written.
//!
//! To write a shared page costs a fault on each side, and to take the write access away costs the parent its
//! translations. Both sides will write what the parent wrote since its last fork: its stack, its libraries' data, what it
//! works on. So a little of that is copied at once, and not shared at all.

use std::ops::Range;
use std::sync::Arc;

use abi::Errno;
use abi::errno::ENOMEM;
use base::PAGE_SIZE;
use base::memmap::{Access, MemRange};

use super::pma::{self, Pma};
use super::vma::{VmFlags, Vma};
use super::{Limits, MemoryManager, State};

/// Pieces of at most this length are copied at once,
const AHEAD_PIECE: u64 = 256 << 10;
/// and so much in all: it costs as much as three or four faults.
const AHEAD: u64 = 768 << 10;

/// Who may write to an address space while it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody: its only thread is in fork.
    None,
    /// Other threads. What is copied page by page would not be the memory of one moment.
    Others,
}

impl MemoryManager {
    /// Makes the child's address space: private pages are copied, or shared and write-protected on both sides; shared
    /// ones are shared, `DONTFORK` areas are left out and `WIPEONFORK` areas are empty. Locks are not inherited.
    ///
    /// # Errors
    /// `ENOMEM`: the platform has no room for another address space.
    pub fn fork(&self, limits: Arc<Limits>, writers: Writers) -> Result<Arc<Self>, Errno> {
        let child = Self::on(
            self.memory.clone(),
            self.new_space.clone(),
            self.range.clone(),
            self.window.clone(),
            limits,
            self.params,
        )?;
        let mut st = self.state.write();
        // Parent before child. The child is complete before anybody can invalidate a page of it.
        let mut to = child.state.write_same_rank();
        to.layout = st.layout.clone();
        let areas: Vec<Vma> =
            st.vmas.iter().filter(|v| !v.flags.contains(VmFlags::DONTCOPY)).cloned().collect();
        // Neighbours are told to the platform as one range.
        let mut private: Vec<Range<u64>> = Vec::new();
        let mut shared: Vec<Range<u64>> = Vec::new();
        for mut vma in areas {
            let range = vma.start..vma.end;
            if !vma.flags.contains(VmFlags::WIPEONFORK) {
                let list = if vma.flags.contains(VmFlags::MAYSHARE) { &mut shared } else { &mut private };
                match list.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => list.push(range),
                }
            }
            vma.flags -= VmFlags::LOCKED_MASK;
            to.add_vma(vma);
        }
        let (kept, copies) = match writers {
            Writers::None => self.copy_ahead(&st, &private),
            Writers::Others => (Vec::new(), Vec::new()),
        };
        for &(start, p) in &copies {
            to.add_pages(start, p);
        }
        let mut with_pages = Vec::with_capacity(private.len());
        for range in without(private, &kept) {
            let mut found = None;
            st.pmas.update(range.clone(), |start, p| {
                p.writable = false;
                p.access -= Access::WRITE;
                let first = found.map_or(start, |(first, _)| first);
                found = Some((first, p.end));
            });
            let Some((first, last)) = found else { continue };
            for (start, p) in st.pmas.overlapping(range) {
                self.memory.inc_ref(pma::pages(start, &p));
                to.add_pages(start, p);
            }
            with_pages.push(first..last);
        }
        if !with_pages.is_empty() {
            self.space.fork_into(&*child.space, &with_pages).map_err(|e| {
                log::warn!("mm: fork: {e}");
                ENOMEM
            })?;
        }
        for (start, p) in copies {
            // A failure is found again when the page is touched.
            let _ = child.map_piece(start, &p);
        }
        for range in shared {
            for (start, p) in st.pmas.overlapping(range) {
                self.memory.inc_ref(pma::pages(start, &p));
                to.add_pages(start, p);
                // A failure is found again when the page is touched.
                let _ = child.map_piece(start, &p);
            }
        }
        self.fork_patches(&st, &child, &mut to).map_err(|_| ENOMEM)?;
        drop(to);
        child.mdwe.store(self.inherited_mdwe(), std::sync::atomic::Ordering::Relaxed);
        Ok(child)
    }

    /// Copies some of the pages in `ranges` that only this address space has. Returns, in order, the ranges that stay its
    /// own, and the child's pieces in them: where it gets none, the pages were promised and never touched.
    fn copy_ahead(&self, st: &State, ranges: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<(u64, Pma)>) {
        let (mut kept, mut touched, mut total) = (Vec::new(), Vec::new(), 0);
        for (start, p) in ranges.iter().flat_map(|range| st.pmas.overlapping(range.clone())) {
            let pages = pma::pages(start, &p);
            let written = p.anon && p.writable && p.access.contains(Access::WRITE);
            if !written || pages.len > AHEAD_PIECE || self.memory.is_large(p.off) {
                continue;
            }
            let mut answers = [0; (AHEAD_PIECE / PAGE_SIZE) as usize];
            let answers = &mut answers[..(pages.len / PAGE_SIZE) as usize];
            self.memory.provided(p.off, answers);
            let before = touched.len();
            let mut at = start;
            for run in answers.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
                let end = at + run.len() as u64 * PAGE_SIZE;
                let piece = Pma { end, off: p.off + (at - start), ..p };
                if run[0] != 0 || !self.memory.is_untouched(pma::pages(at, &piece)) {
                    touched.push((at, piece));
                }
                at = end;
            }
            let bytes: u64 = touched[before..].iter().map(|(start, p)| p.end - start).sum();
            if total + bytes > AHEAD {
                touched.truncate(before);
                break;
            }
            total += bytes;
            kept.push(start..p.end);
        }
        if total == 0 {
            return (kept, touched);
        }
        // Without memory for copies the pages are shared like all others.
        let Ok(copies) = self.pages_for_copies(total) else { return (Vec::new(), Vec::new()) };
        let mut off = copies.offset;
        for (start, p) in &mut touched {
            let MemRange { offset, len } = pma::pages(*start, p);
            self.memory.copy(offset, off, len);
            p.off = off;
            off += len;
        }
        (kept, touched)
    }
}

/// `ranges` without `holes`; both are in order, and each hole lies in one range.
fn without(ranges: Vec<Range<u64>>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = Vec::with_capacity(ranges.len() + holes.len());
    let mut holes = holes.iter().peekable();
    for range in ranges {
        let mut at = range.start;
        while let Some(hole) = holes.next_if(|hole| hole.start < range.end) {
            rest.push(at..hole.start);
            at = hole.end;
        }
        rest.push(at..range.end);
    }
    rest.retain(|range| !range.is_empty());
    rest
}
