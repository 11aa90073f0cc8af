//! mprotect(2): Linux 6.12 mm/mprotect.c.

use std::ops::Range;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ENOMEM, EPERM};
use abi::mman::Prot;
use base::memmap::Access;
use base::{PAGE_SIZE, page_up};

use super::pma;
use super::vma::VmFlags;
use super::{MemoryManager, State, max_map_count};

/// Anonymous memory that becomes usable gets its pages at once up to this length (a new malloc arena)…
const EAGER: u64 = 256 << 10;
/// …and the top of longer ranges does: they are thread stacks.
const STACK_TOP: u64 = 64 << 10;

impl MemoryManager {
    /// Changes what may be done with the pages of `addr..addr + len`. Areas before one that fails stay changed.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: `GROWSDOWN` and `GROWSUP` together, or `addr` is not a multiple of the page size.
    /// - `ENOMEM`: the range overflows.
    /// - `EINVAL`: unknown bits in `prot`.
    /// - `ENOMEM`: something in the range is not mapped.
    /// - `EINVAL`: `GROWSDOWN` for an area that does not grow down; `GROWSUP`.
    /// - `EACCES`: the file was not opened so.
    /// - `ENOMEM`: too many mappings, `RLIMIT_DATA`, or an obvious overcommit.
    pub fn protect(&self, addr: u64, len: u64, prot: u64) -> Result<(), Errno> {
        self.protect_with_key(addr, len, prot, -1)
    }

    /// pkey_mprotect(2) on a processor without protection keys: -1 is the only key.
    ///
    /// # Errors
    /// Those of [`MemoryManager::protect`], and `EINVAL` for another key after the check of `prot`.
    pub fn protect_with_key(&self, addr: u64, len: u64, prot: u64, key: i32) -> Result<(), Errno> {
        let grows = Prot::from_bits_retain(prot) & (Prot::GROWSDOWN | Prot::GROWSUP);
        let prot = prot & !grows.bits();
        if grows == Prot::GROWSDOWN | Prot::GROWSUP || !addr.is_multiple_of(PAGE_SIZE) {
            return Err(EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let end =
            page_up(len).and_then(|len| addr.checked_add(len)).filter(|&end| end > addr).ok_or(ENOMEM)?;
        let prot = Prot::from_bits(prot).ok_or(EINVAL)?;
        if key != -1 {
            return Err(EINVAL);
        }
        let mut st = self.state.write();
        let first = st.vmas.find_from(addr).ok_or(ENOMEM)?;
        let mut start = addr;
        if grows.contains(Prot::GROWSDOWN) {
            if first.start >= end {
                return Err(ENOMEM);
            }
            if !first.flags.contains(VmFlags::GROWSDOWN) {
                return Err(EINVAL);
            }
            start = first.start;
        } else {
            if first.start > addr {
                return Err(ENOMEM);
            }
            if grows.contains(Prot::GROWSUP) {
                return Err(EINVAL);
            }
        }
        let new = VmFlags::of_prot(prot);
        let mut at = start;
        while at < end {
            let vma = st.vmas.find(at).ok_or(ENOMEM)?;
            let piece = at..vma.end.min(end);
            let old = vma.flags;
            let may = VmFlags::from_bits_truncate(new.bits() << 4);
            if !old.contains(may) {
                return Err(EACCES);
            }
            if self.denies_exec(old, new) {
                return Err(EACCES);
            }
            if old.contains(VmFlags::SEALED) {
                return Err(EPERM);
            }
            let flags = (old - VmFlags::ACCESS) | new;
            if flags != old {
                self.protect_area(&mut st, piece.clone(), old, flags)?;
            }
            at = piece.end;
        }
        Ok(())
    }

    /// Whether `PR_SET_MDWE` forbids what had access `old` to have `new` (`map_deny_write_exec`).
    pub(super) fn denies_exec(&self, old: VmFlags, new: VmFlags) -> bool {
        const REFUSE_EXEC_GAIN: u8 = 1;
        self.mdwe.load(Ordering::Relaxed) & REFUSE_EXEC_GAIN != 0
            && new.contains(VmFlags::EXEC)
            && (new.contains(VmFlags::WRITE) || !old.contains(VmFlags::EXEC))
    }

    /// [`MemoryManager::protect`] within one area.
    fn protect_area(
        &self,
        st: &mut State,
        range: Range<u64>,
        old: VmFlags,
        mut new: VmFlags,
    ) -> Result<(), Errno> {
        let len = range.end - range.start;
        let charged = new.contains(VmFlags::WRITE)
            && !old.intersects(VmFlags::ACCOUNT | VmFlags::WRITE | VmFlags::SHARED | VmFlags::NORESERVE);
        if new.contains(VmFlags::WRITE) && !self.may_expand(st, new, len) && self.may_expand(st, old, len) {
            return Err(ENOMEM);
        }
        if charged {
            self.check_overcommit(len)?;
            new |= VmFlags::ACCOUNT;
        }
        if st.vmas.count() + st.vmas.splits_needed(&range) > max_map_count() {
            return Err(ENOMEM);
        }
        if st.vmas.cuts_whole_area(&range) {
            return Err(EINVAL);
        }
        if new.contains(VmFlags::WRITE) {
            self.restore_sites(st, range.clone());
        }
        st.vmas.update(range.clone(), |v| v.flags = new);
        self.protect_pages(st, range.clone(), new);
        let opens = !old.intersects(VmFlags::ACCESS) && new.contains(VmFlags::READ | VmFlags::WRITE);
        if opens {
            let start = if len <= EAGER { range.start } else { range.end - STACK_TOP };
            if st.pmas.overlapping(start..range.end).next().is_none() {
                self.fill_eagerly(st, start..range.end);
            }
        }
        Ok(())
    }

    /// Brings the page table entries of `range`, which lies in one area, in line with `flags`.
    fn protect_pages(&self, st: &mut State, range: Range<u64>, flags: VmFlags) {
        // Runs of pieces whose entries exist and change alike take one call.
        let mut run: Option<(Range<u64>, Access)> = None;
        let flush = |run: Option<(Range<u64>, Access)>| match run {
            Some((r, access)) if access.is_empty() => self.space.unmap(r.start, r.end - r.start),
            Some((r, access)) => self.space.protect(r.start, r.end - r.start, access),
            None => {}
        };
        let pieces: Vec<_> = st.pmas.overlapping(range.clone()).collect();
        for (start, p) in pieces {
            let access = flags.access(p.writable);
            if access == p.access {
                flush(run.take());
            } else if p.access.is_empty() {
                flush(run.take());
                // A failure is found again when the page is touched.
                let _ = self.space.map(start, pma::pages(start, &p), access);
            } else {
                match &mut run {
                    Some((r, a)) if *a == access => r.end = p.end,
                    _ => flush(run.replace((start..p.end, access))),
                }
            }
        }
        flush(run);
        st.pmas.update(range, |_, p| p.access = flags.access(p.writable));
    }
}
