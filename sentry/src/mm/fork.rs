//! fork(2): a copy of an address space whose private pages are shared until written.

use std::ops::Range;
use std::sync::Arc;

use abi::Errno;
use abi::errno::ENOMEM;
use base::memmap::Access;

use super::pma;
use super::vma::{VmFlags, Vma};
use super::{Limits, MemoryManager};

impl MemoryManager {
    /// Makes the child's address space: private pages are shared and write-protected on both sides, shared ones are
    /// shared, `DONTFORK` areas are left out and `WIPEONFORK` areas are empty. Locks are not inherited.
    ///
    /// # Errors
    /// `ENOMEM`: the platform has no room for another address space.
    pub fn fork(&self, limits: Arc<Limits>) -> Result<Arc<Self>, Errno> {
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
        let mut with_pages = Vec::with_capacity(private.len());
        for range in private {
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
        Ok(child)
    }
}
