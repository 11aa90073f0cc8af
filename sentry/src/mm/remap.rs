//! mremap(2): Linux 6.18 mm/mremap.c.

use std::ops::Range;

use abi::Errno;
use abi::errno::{EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM};
use abi::mman::{MapFlags, Prot, RemapFlags};
use base::{PAGE_SIZE, page_down, page_up};

use super::map::{FileMapping, MapBacking, MapRequest, MapType, Place};
use super::pma;
use super::vma::{Backing, VmFlags, Vma};
use super::{MMAP_MIN_ADDR, MemoryManager, Privileges, State, max_map_count};

/// A call of mremap(2).
#[derive(Clone, Copy)]
struct Call {
    addr: u64,
    old_len: u64,
    new_len: u64,
    flags: RemapFlags,
    new_addr: u64,
    privileges: Privileges,
}

impl Call {
    /// Whether the caller says where the mapping is to go; with `DONTUNMAP` alone that is a hint.
    fn names_target(&self) -> bool {
        self.flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP)
    }
}

impl MemoryManager {
    /// Changes the length or the place of a mapping and returns its address. A move that keeps the length may comprise
    /// several areas and the holes between them.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: bad flags, `addr` not a multiple of the page size, `new_len` 0 or too large.
    /// - With `FIXED` or `DONTUNMAP`: `EINVAL` for a bad or overlapping target or bad combinations, `ENOMEM` for too many
    ///   mappings.
    /// - `EFAULT`: nothing is mapped at `addr`.
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
        let call = Call {
            addr,
            // A length that overflows when rounded is 0 for Linux.
            old_len: page_up(old_len).unwrap_or(0),
            new_len: page_up(new_len).unwrap_or(0),
            flags: RemapFlags::from_bits(flags).ok_or(EINVAL)?,
            new_addr,
            privileges,
        };
        let end = self.range.end;
        if !addr.is_multiple_of(PAGE_SIZE) || call.new_len == 0 || call.new_len > end {
            return Err(EINVAL);
        }
        let mut trash = Vec::new();
        let mut st = self.state.write();
        let st = &mut *st;
        let touched = call.addr..call.addr.saturating_add(call.old_len.max(1));
        if (call.names_target() || call.old_len != call.new_len) && st.is_sealed(&touched) {
            return Err(EPERM);
        }
        if call.names_target() {
            let dontunmap = call.flags.contains(RemapFlags::DONTUNMAP);
            if new_addr > end - call.new_len
                || !new_addr.is_multiple_of(PAGE_SIZE)
                || !call.flags.contains(RemapFlags::MAYMOVE)
                || dontunmap && call.old_len != call.new_len
                || addr.saturating_add(call.old_len) > new_addr && new_addr + call.new_len > addr
            {
                return Err(EINVAL);
            }
            let target = new_addr..new_addr + call.new_len;
            if st.vmas.count() + 5 >= max_map_count()
                || call.flags.contains(RemapFlags::FIXED) && st.vmas.is_reserved(&target)
            {
                return Err(ENOMEM);
            }
            if call.flags.contains(RemapFlags::FIXED) && call.old_len == call.new_len {
                return self.remap_move(st, call, &mut trash);
            }
            return self.remap_to(st, call, &mut trash);
        }
        self.remap_at(st, call, &mut trash)
    }

    /// Shows another part of the file in a part of a shared mapping: remap_file_pages(2), for which Linux makes a new
    /// mapping, too. `offset` is in pages.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: `prot` is not 0, a range is empty or overflows.
    /// - `EINVAL`: the range is not one shared mapping, be it in several areas that allow the same.
    /// - What mmap(2) gives.
    ///
    /// Source: Linux 6.12 mm/mmap.c, `remap_file_pages`.
    pub fn remap_file_pages(
        &self,
        start: u64,
        size: u64,
        prot: u64,
        offset: u64,
        flags: u64,
        privileges: Privileges,
    ) -> Result<(), Errno> {
        let (start, size) = (page_down(start), page_down(size));
        let end = start.checked_add(size).filter(|&end| end > start).ok_or(EINVAL)?;
        let fits = offset.checked_add(size / PAGE_SIZE).is_some_and(|end| end <= u64::MAX / PAGE_SIZE);
        if prot != 0 || !fits {
            return Err(EINVAL);
        }
        let st = self.state.read();
        let first = st.vmas.find(start).filter(|v| v.flags.contains(VmFlags::SHARED)).ok_or(EINVAL)?;
        let Backing::File { file, .. } = &first.backing else { return Err(EINVAL) };
        let mut at = first.end;
        while at < end {
            let next = st.vmas.find(at).filter(|v| v.flags == first.flags && v.has_file_of(first));
            at = next.ok_or(EINVAL)?.end;
        }
        let has = |flag, prot| if first.flags.contains(flag) { prot } else { Prot::empty() };
        let locked = if first.flags.contains(VmFlags::LOCKED) { MapFlags::LOCKED } else { MapFlags::empty() };
        let request = MapRequest {
            prot: has(VmFlags::READ, Prot::READ)
                | has(VmFlags::WRITE, Prot::WRITE)
                | has(VmFlags::EXEC, Prot::EXEC),
            kind: Some(MapType::Shared),
            backing: MapBacking::File(FileMapping {
                file: Ok(file.clone()),
                offset: offset * PAGE_SIZE,
                readable: true,
                writable: first.flags.contains(VmFlags::MAYWRITE),
                append_only: false,
                noexec: !first.flags.contains(VmFlags::MAYEXEC),
            }),
            privileges,
            ..MapRequest::anonymous(
                start,
                size,
                Prot::empty(),
                MapFlags::FIXED
                    | MapFlags::POPULATE
                    | locked
                    | MapFlags::from_bits_truncate(flags) & MapFlags::NONBLOCK,
            )
        };
        drop(st);
        self.map(request).map(drop)
    }

    /// Without a target: shrinks or grows in place, or moves to where there is room.
    fn remap_at(&self, st: &mut State, call: Call, trash: &mut Vec<Vma>) -> Result<u64, Errno> {
        let Call { addr, old_len, new_len, .. } = call;
        if st.vmas.find(addr).is_none() {
            return Err(EFAULT);
        }
        if old_len >= new_len {
            if old_len > new_len {
                self.shrink(st, call, trash)?;
            }
            return Ok(addr);
        }
        let vma = self.resizable(st, call)?;
        if old_len == vma.end - addr && self.grow_in_place(st, &vma, new_len - old_len) {
            if vma.flags.contains(VmFlags::LOCKED) {
                let _ = self.populate_locked(st, vma.end..addr + new_len, None);
            }
            return Ok(addr);
        }
        if !call.flags.contains(RemapFlags::MAYMOVE) {
            return Err(ENOMEM);
        }
        let target = self.find_place(st, 0, new_len, Place::High, PAGE_SIZE)?;
        self.relocate(st, &vma, call, target, trash)
    }

    /// Moves all areas of a range, each as far as the first.
    fn remap_move(&self, st: &mut State, call: Call, trash: &mut Vec<Vma>) -> Result<u64, Errno> {
        let end = call.addr + call.old_len;
        let pieces: Vec<Range<u64>> =
            st.vmas.overlapping(call.addr..end).map(|v| v.start.max(call.addr)..v.end.min(end)).collect();
        if pieces.first().is_none_or(|first| first.start > call.addr) {
            return Err(EFAULT);
        }
        for piece in pieces {
            let len = piece.end - piece.start;
            let new_addr = call.new_addr + (piece.start - call.addr);
            self.remap_to(
                st,
                Call { addr: piece.start, old_len: len, new_len: len, new_addr, ..call },
                trash,
            )?;
        }
        Ok(call.new_addr)
    }

    /// `MREMAP_FIXED` and `MREMAP_DONTUNMAP` for one area.
    fn remap_to(&self, st: &mut State, mut call: Call, trash: &mut Vec<Vma>) -> Result<u64, Errno> {
        self.resizable(st, call)?;
        let fixed = call.flags.contains(RemapFlags::FIXED);
        if fixed && call.new_addr >= self.range.start {
            self.unmap_checked(st, call.new_addr..call.new_addr + call.new_len, trash)?;
        }
        if call.old_len > call.new_len {
            self.shrink(st, call, trash)?;
            call.old_len = call.new_len;
        }
        let vma = st.vmas.find(call.addr).ok_or(EFAULT)?.clone();
        if call.flags.contains(RemapFlags::DONTUNMAP) && !self.may_expand(st, vma.flags, call.old_len) {
            return Err(ENOMEM);
        }
        let target = if !fixed {
            self.find_place(st, call.new_addr, call.new_len, Place::High, PAGE_SIZE)?
        } else if call.new_addr < self.range.start
            || call.new_addr < MMAP_MIN_ADDR && !call.privileges.contains(Privileges::RAW_IO)
        {
            return Err(EPERM);
        } else {
            call.new_addr
        };
        self.relocate(st, &vma, call, target, trash)
    }

    /// Unmaps the end of the range.
    fn shrink(&self, st: &mut State, call: Call, trash: &mut Vec<Vma>) -> Result<(), Errno> {
        let end = call.addr.checked_add(call.old_len).filter(|&e| e <= self.range.end).ok_or(EINVAL)?;
        self.unmap_checked(st, call.addr + call.new_len..end, trash)
    }

    /// Checks that the area at `addr` may get the new length: Linux's `check_prep_vma`. Returns a copy of the area,
    /// whose file reference is never the last one.
    fn resizable(&self, st: &State, call: Call) -> Result<Vma, Errno> {
        let Call { addr, old_len, new_len, flags, privileges, .. } = call;
        let vma = st.vmas.find(addr).ok_or(EFAULT)?;
        if old_len == 0 && !vma.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
            return Err(EINVAL);
        }
        if flags.contains(RemapFlags::DONTUNMAP) && vma.flags.contains(VmFlags::DONTEXPAND) {
            return Err(EINVAL);
        }
        // What a shrinking move cuts off may lie beyond the area.
        if old_len.min(new_len) > vma.end - addr {
            return Err(EFAULT);
        }
        if new_len > old_len {
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
        if st.vmas.intersects(vma.end..end) || st.vmas.is_reserved(&(vma.end..end)) {
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

    /// Moves the range, which lies in `vma`, to `target`, where nothing is mapped: Linux's `move_vma`.
    fn relocate(
        &self,
        st: &mut State,
        vma: &Vma,
        call: Call,
        target: u64,
        trash: &mut Vec<Vma>,
    ) -> Result<u64, Errno> {
        let Call { addr, old_len, new_len, .. } = call;
        if st.vmas.count() + 3 >= max_map_count() {
            return Err(ENOMEM);
        }
        let backing = match &vma.backing {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { file, .. } => Backing::File { file: file.clone(), offset: vma.file_offset(addr) },
        };
        let old_range = addr..addr + old_len;
        st.add_vma(Vma::new(target..target + new_len, vma.flags, backing, vma.name.clone()));
        self.move_pages(st, old_range.clone(), target);
        if call.flags.contains(RemapFlags::DONTUNMAP) {
            // Linux unlocks the whole area, not only what moved.
            st.vmas.update(vma.start..vma.end, |v| v.flags -= VmFlags::LOCKED_MASK);
        } else if old_len > 0 {
            self.unmap_locked(st, old_range, trash);
        }
        if vma.flags.contains(VmFlags::LOCKED) {
            let _ = self.populate_locked(st, target..target + new_len, None);
        }
        Ok(target)
    }

    /// Moves the pages of `range` to `target`, where there are none.
    fn move_pages(&self, st: &mut State, range: Range<u64>, target: u64) {
        self.restore_sites(st, range.clone());
        st.patches.forget(range.clone());
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
