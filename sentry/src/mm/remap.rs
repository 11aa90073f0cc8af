//! mremap(2): Linux 6.12 mm/mremap.c.

use std::ops::Range;

use abi::Errno;
use abi::errno::{EAGAIN, EFAULT, EINVAL, ENOMEM};
use abi::mman::RemapFlags;
use base::{PAGE_SIZE, page_up};

use super::map::Place;
use super::pma;
use super::vma::{Backing, VmFlags, Vma};
use super::{MAX_MAP_COUNT, MMAP_MIN_ADDR, MemoryManager, Privileges, State};

impl MemoryManager {
    /// Changes the length or the place of a mapping and returns its address.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: bad flags or combinations, `addr` not a multiple of the page size, `new_len` 0.
    /// - `EFAULT`: nothing is mapped at `addr`.
    /// - With `FIXED` or `DONTUNMAP`: `EINVAL` for a bad or overlapping target, `ENOMEM` for too many mappings.
    /// - `EINVAL`: `old_len` 0 for a private mapping.
    /// - `EFAULT`: `old_len` is longer than the area, or it cannot expand.
    /// - `EAGAIN`: the limit of locked memory.
    /// - `ENOMEM`: a limit, or no room.
    pub fn remap(
        &self,
        addr: u64,
        old_len: u64,
        new_len: u64,
        flags: u64,
        new_addr: u64,
        privileges: Privileges,
    ) -> Result<u64, Errno> {
        let flags = RemapFlags::from_bits(flags).ok_or(EINVAL)?;
        let (may_move, fixed, dontunmap) = (
            flags.contains(RemapFlags::MAYMOVE),
            flags.contains(RemapFlags::FIXED),
            flags.contains(RemapFlags::DONTUNMAP),
        );
        if fixed && !may_move || dontunmap && (!may_move || old_len != new_len) || addr % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        // An old length that overflows when rounded is 0 for Linux.
        let old_len = page_up(old_len).unwrap_or(0);
        let new_len = page_up(new_len).filter(|&len| len > 0).ok_or(EINVAL)?;
        let mut trash = Vec::new();
        let mut st = self.state.write();
        let st = &mut *st;
        if st.vmas.find(addr).is_none() {
            return Err(EFAULT);
        }
        if fixed || dontunmap {
            return self.remap_to(st, addr, old_len, new_len, flags, new_addr, privileges, &mut trash);
        }
        if old_len >= new_len {
            if old_len > new_len {
                let end = addr.checked_add(old_len).filter(|&e| e <= self.range.end).ok_or(EINVAL)?;
                self.unmap_checked(st, addr + new_len..end, &mut trash)?;
            }
            return Ok(addr);
        }
        let vma = self.resizable(st, addr, old_len, new_len, flags, privileges)?;
        if old_len == vma.end - addr && self.grow_in_place(st, &vma, new_len - old_len) {
            if vma.flags.contains(VmFlags::LOCKED) {
                let _ = self.populate_locked(st, vma.end..addr + new_len, None);
            }
            return Ok(addr);
        }
        if !may_move {
            return Err(ENOMEM);
        }
        let target = self.find_place(st, 0, new_len, Place::High, PAGE_SIZE)?;
        self.relocate(st, &vma, addr, old_len, new_len, target, Old::Unmap, &mut trash)
    }

    /// `MREMAP_FIXED` and `MREMAP_DONTUNMAP`.
    #[expect(clippy::too_many_arguments, reason = "they are the system call's")]
    fn remap_to(
        &self,
        st: &mut State,
        addr: u64,
        mut old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        new_addr: u64,
        privileges: Privileges,
        trash: &mut Vec<Vma>,
    ) -> Result<u64, Errno> {
        let end = self.range.end;
        if new_addr % PAGE_SIZE != 0 || new_len > end || new_addr > end - new_len {
            return Err(EINVAL);
        }
        let old_end = addr.checked_add(old_len).ok_or(EINVAL)?;
        if old_end > new_addr && new_addr + new_len > addr {
            return Err(EINVAL);
        }
        if st.vmas.count() + 2 >= MAX_MAP_COUNT {
            return Err(ENOMEM);
        }
        let fixed = flags.contains(RemapFlags::FIXED);
        if fixed {
            let too_low = new_addr < self.range.start
                || new_addr < MMAP_MIN_ADDR && !privileges.contains(Privileges::RAW_IO);
            if new_addr >= self.range.start {
                self.unmap_checked(st, new_addr..new_addr + new_len, trash)?;
            }
            if too_low {
                return Err(abi::errno::EPERM);
            }
        }
        if old_len > new_len {
            if old_end > end {
                return Err(EINVAL);
            }
            self.unmap_checked(st, addr + new_len..old_end, trash)?;
            old_len = new_len;
        }
        let vma = self.resizable(st, addr, old_len, new_len, flags, privileges)?;
        let dontunmap = flags.contains(RemapFlags::DONTUNMAP);
        if dontunmap && !self.may_expand(st, vma.flags, old_len) {
            return Err(ENOMEM);
        }
        let target =
            if fixed { new_addr } else { self.find_place(st, new_addr, new_len, Place::High, PAGE_SIZE)? };
        let old = if dontunmap { Old::Keep } else { Old::Unmap };
        self.relocate(st, &vma, addr, old_len, new_len, target, old, trash)
    }

    /// Checks that the area at `addr` may get the new length: Linux's `vma_to_resize`. Returns a copy of the area,
    /// whose file reference is never the last one.
    fn resizable(
        &self,
        st: &State,
        addr: u64,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        privileges: Privileges,
    ) -> Result<Vma, Errno> {
        let vma = st.vmas.find(addr).ok_or(EFAULT)?;
        if old_len == 0 && !vma.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
            return Err(EINVAL);
        }
        if flags.contains(RemapFlags::DONTUNMAP) && vma.flags.contains(VmFlags::DONTEXPAND) {
            return Err(EINVAL);
        }
        if old_len > vma.end - addr {
            return Err(EFAULT);
        }
        if new_len != old_len {
            vma.file_offset(addr).checked_add(new_len).ok_or(EINVAL)?;
            if vma.flags.contains(VmFlags::DONTEXPAND) {
                return Err(EFAULT);
            }
            let more = new_len - old_len;
            if vma.flags.contains(VmFlags::LOCKED) && !self.lock_fits(st, more, privileges) {
                return Err(EAGAIN);
            }
            if !self.may_expand(st, vma.flags, more) {
                return Err(ENOMEM);
            }
            if vma.flags.contains(VmFlags::ACCOUNT) {
                self.check_overcommit(more)?;
            }
        }
        Ok(vma.clone())
    }

    /// Appends `more` bytes to the area if there is room.
    fn grow_in_place(&self, st: &mut State, vma: &Vma, more: u64) -> bool {
        let Some(end) = vma.end.checked_add(more).filter(|&e| e <= self.range.end) else { return false };
        if st.vmas.intersects(vma.end..end) {
            return false;
        }
        let backing = match &vma.backing {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { file, .. } => {
                Backing::File { file: file.clone(), offset: vma.file_offset(vma.end) }
            }
        };
        st.add_vma(Vma::new(vma.end..end, vma.flags, backing, vma.name.clone()));
        true
    }

    /// Moves `addr..addr + old_len` of `vma` to `target`, where nothing is mapped, with a new length: Linux's `move_vma`.
    #[expect(clippy::too_many_arguments, reason = "one call of two places")]
    fn relocate(
        &self,
        st: &mut State,
        vma: &Vma,
        addr: u64,
        old_len: u64,
        new_len: u64,
        target: u64,
        old: Old,
        trash: &mut Vec<Vma>,
    ) -> Result<u64, Errno> {
        if st.vmas.count() + 3 >= MAX_MAP_COUNT {
            return Err(ENOMEM);
        }
        let backing = match &vma.backing {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { file, .. } => Backing::File { file: file.clone(), offset: vma.file_offset(addr) },
        };
        let old_range = addr..addr + old_len;
        st.add_vma(Vma::new(target..target + new_len, vma.flags, backing, vma.name.clone()));
        self.move_pages(st, old_range.clone(), target);
        if old_len > 0 {
            match old {
                Old::Unmap => self.unmap_locked(st, old_range, trash),
                Old::Keep => st.vmas.update(old_range, |v| v.flags -= VmFlags::LOCKED_MASK),
            }
        }
        if vma.flags.contains(VmFlags::LOCKED) {
            let _ = self.populate_locked(st, target..target + new_len, None);
        }
        Ok(target)
    }

    /// Moves the pages of `range` to `target`, where there are none.
    fn move_pages(&self, st: &mut State, range: Range<u64>, target: u64) {
        let pieces = st.pmas.remove(range.clone());
        let (Some(&(first, _)), Some(&(_, last))) = (pieces.first(), pieces.last()) else { return };
        self.space.unmap(first, last.end - first);
        for (start, p) in pieces {
            let to = target + (start - range.start);
            let moved = pma::Pma { end: to + (p.end - start), ..p };
            st.pmas.insert(to, moved);
            // A failure is found again when the page is touched.
            let _ = self.map_piece(to, &moved);
        }
    }
}

/// What becomes of the range that a mapping leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// It is unmapped.
    Unmap,
    /// It stays mapped, without pages.
    Keep,
}
