//! mmap(2) and munmap(2): Linux 6.12 mm/mmap.c, arch/x86/kernel/sys_x86_64.c.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EAGAIN, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM};
use abi::mman::{MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, MapFlags, Prot};
use base::memmap::{Access, FixedPages, LARGE_PAGE, MappedFile, MappingOrigin};
use base::{PAGE_SIZE, page_down, page_up};

use super::fault::Use;
use super::shared;
use super::vma::{Backing, VmFlags, VmName, Vma};
use super::{
    Fault, MMAP_MIN_ADDR, MemoryManager, Privileges, STACK_GUARD_GAP, SharedMemory, State, max_map_count,
};

/// Anonymous mappings up to this length get their pages at once: less than a microsecond each, where the guest's first
/// touch of one would cost twenty and more.
const EAGER: u64 = 128 << 10;

/// Of a file mapping, so much is mapped at once where the file has it in memory already.
const CACHED: u64 = 4 << 20;

/// A file for mmap(2), as its open file description allows.
#[derive(Clone)]
pub struct FileMapping {
    /// The file, or why it cannot be mapped (`ENODEV`).
    pub file: Result<MappedFile, Errno>,
    /// The byte offset; a multiple of the page size.
    pub offset: u64,
    /// Whether it is open for reading.
    pub readable: bool,
    /// Whether it is open for writing.
    pub writable: bool,
    /// Whether it may only be appended to (`chattr +a`).
    pub append_only: bool,
    /// Whether its mount has `noexec`.
    pub noexec: bool,
}

/// What mmap(2) is to map.
#[derive(Clone)]
pub enum MapBacking {
    /// `MAP_ANONYMOUS`.
    Anonymous,
    /// A file.
    File(FileMapping),
}

/// The type in mmap(2)'s flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// `MAP_SHARED`.
    Shared,
    /// `MAP_PRIVATE`.
    Private,
    /// `MAP_SHARED_VALIDATE`, with whether the flags held unknown bits.
    SharedValidate {
        /// Whether there were unknown flags.
        unknown: bool,
    },
}

/// A request to map something.
#[derive(Clone)]
pub struct MapRequest {
    /// Where, or a hint.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Access.
    pub prot: Prot,
    /// Shared or private; `None` when the type is none of those (`EINVAL`, at its place).
    pub kind: Option<MapType>,
    /// The other flags.
    pub flags: MapFlags,
    /// What.
    pub backing: MapBacking,
    /// What the caller's capabilities allow.
    pub privileges: Privileges,
    /// Area flags beyond those that follow from the request, for the loader.
    pub extra: VmFlags,
    /// A name for /proc.
    pub name: VmName,
}

impl MapRequest {
    /// A private anonymous mapping of `len` bytes at `addr` (a hint unless `flags` has `FIXED`).
    pub fn anonymous(addr: u64, len: u64, prot: Prot, flags: MapFlags) -> Self {
        Self {
            addr,
            len,
            prot,
            kind: Some(MapType::Private),
            flags: flags | MapFlags::ANONYMOUS,
            backing: MapBacking::Anonymous,
            privileges: Privileges::empty(),
            extra: VmFlags::empty(),
            name: VmName::None,
        }
    }

    /// Pages of the kernel's that programs may read, at `addr`, shown in maps as `name`.
    pub fn special(addr: u64, len: u64, pages: &Arc<FixedPages>, prot: Prot, name: &'static str) -> Self {
        Self {
            kind: Some(MapType::Shared),
            backing: MapBacking::File(FileMapping {
                file: Ok(shared::special(pages)),
                offset: 0,
                readable: true,
                writable: false,
                append_only: false,
                noexec: false,
            }),
            name: VmName::Special(name),
            ..Self::anonymous(addr, len, prot, MapFlags::FIXED)
        }
    }

    /// What the arguments of mmap(2) ask for. The system call's own checks come before: the offset's alignment, the
    /// descriptor, `MAP_HUGETLB`.
    pub fn from_raw(
        addr: u64,
        len: u64,
        prot: u64,
        flags: u64,
        backing: MapBacking,
        privileges: Privileges,
    ) -> Self {
        // Linux 6.12 include/linux/mman.h, LEGACY_MAP_MASK: what `MAP_SHARED_VALIDATE` knows; sizes of huge pages are
        // in the top six bits.
        let legacy = MapFlags::all() - MapFlags::FIXED_NOREPLACE;
        let kind = match flags & MAP_TYPE {
            MAP_SHARED => Some(MapType::Shared),
            MAP_PRIVATE => Some(MapType::Private),
            MAP_SHARED_VALIDATE => {
                let unknown = flags & !(MAP_TYPE | legacy.bits() | 0x3f << 26) != 0;
                Some(MapType::SharedValidate { unknown })
            }
            _ => None,
        };
        Self {
            addr,
            len,
            // Unknown bits of both are ignored by Linux, too.
            prot: Prot::from_bits_truncate(prot),
            kind,
            flags: MapFlags::from_bits_truncate(flags & !MAP_TYPE),
            backing,
            privileges,
            extra: VmFlags::empty(),
            name: VmName::None,
        }
    }

    /// A private mapping of `file`, which the sentry opened itself.
    pub fn private_file(
        addr: u64,
        len: u64,
        prot: Prot,
        flags: MapFlags,
        file: MappedFile,
        offset: u64,
    ) -> Self {
        Self {
            backing: MapBacking::File(FileMapping {
                file: Ok(file),
                offset,
                readable: true,
                writable: false,
                append_only: false,
                noexec: false,
            }),
            flags,
            ..Self::anonymous(addr, len, prot, flags)
        }
    }
}

/// Where mappings are placed downwards from (Linux's `mmap_base`): below the space a stack of `stack_limit` bytes may
/// take, less `random` bytes.
pub fn mmap_base(stack_limit: u64, random: u64, task_size: u64) -> u64 {
    // Linux 6.12 arch/x86/mm/mmap.c: the stack's own randomisation is up to 16 GiB.
    let pad = STACK_GUARD_GAP + (0x3f_ffff << 12);
    let gap = stack_limit.saturating_add(pad).clamp(128 << 20, task_size / 6 * 5);
    page_down(task_size.saturating_sub(gap).saturating_sub(random))
}

/// The arguments of mmap(2).
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "mmap(2) explains each")]
pub struct MapCall {
    pub addr: u64,
    pub len: u64,
    pub prot: u64,
    pub flags: u64,
    pub fd: i32,
    pub offset: u64,
}

impl MemoryManager {
    /// mmap(2). `file` looks a descriptor up; the offset in what it returns is replaced.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: the offset is not a multiple of the page size.
    /// - What `file` gives: `EBADF`.
    /// - `EINVAL`: `MAP_HUGETLB` for a file that is not of hugetlbfs; `ENOMEM`: for none, as there are no huge pages.
    /// - What [`MemoryManager::map`] gives.
    pub fn map_call(
        &self,
        call: MapCall,
        privileges: Privileges,
        file: impl FnOnce(i32) -> Result<FileMapping, Errno>,
    ) -> Result<u64, Errno> {
        let MapCall { addr, len, prot, flags, fd, offset } = call;
        if offset % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let known = MapFlags::from_bits_truncate(flags);
        let huge = known.contains(MapFlags::HUGETLB);
        let backing = if known.contains(MapFlags::ANONYMOUS) {
            if huge {
                // Linux 6.12 mm/mmap.c, ksys_mmap_pgoff: only the sizes of 2 MiB and 1 GiB exist.
                let size = flags >> 26 & 0x3f;
                return Err(if matches!(size, 0 | 21 | 30) { ENOMEM } else { EINVAL });
            }
            MapBacking::Anonymous
        } else {
            let file = file(fd)?;
            if huge {
                return Err(EINVAL);
            }
            MapBacking::File(FileMapping { offset, ..file })
        };
        self.map(MapRequest::from_raw(addr, len, prot, flags, backing, privileges))
    }

    /// Maps something and returns its address.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: the length is 0.
    /// - `ENOMEM`: the length is beyond all addresses.
    /// - `ENOMEM`: too many mappings, or no room.
    /// - `EINVAL`: a fixed address is not a multiple of the page size.
    /// - `EPERM`: a fixed address is too low.
    /// - `EEXIST`: with `FIXED_NOREPLACE`, something is mapped there.
    /// - `EPERM`, `EAGAIN`: `LOCKED`, and no or not enough memory may be locked.
    /// - `EOVERFLOW`: the end is beyond all file offsets.
    /// - `EOPNOTSUPP`, `EACCES`, `EPERM`, `ENODEV`, `EINVAL`: the file does not allow it.
    /// - `ENOMEM`: a resource limit, or an obvious overcommit.
    pub fn map(&self, mut req: MapRequest) -> Result<u64, Errno> {
        if req.len == 0 {
            return Err(EINVAL);
        }
        if req.flags.contains(MapFlags::FIXED_NOREPLACE) {
            req.flags |= MapFlags::FIXED;
        }
        let fixed = req.flags.contains(MapFlags::FIXED);
        if !fixed {
            req.addr = page_down(req.addr);
            if req.addr != 0 && req.addr < MMAP_MIN_ADDR {
                req.addr = MMAP_MIN_ADDR;
            }
        }
        let len = page_up(req.len).ok_or(ENOMEM)?;
        let mut trash = Vec::new();
        let mut st = self.state.write();
        if st.vmas.count() > max_map_count() {
            return Err(ENOMEM);
        }
        let def_flags = st.def_flags;
        let addr = self.place(&st, req.addr, len, &req)?;
        let range = addr..addr + len;
        if req.flags.contains(MapFlags::FIXED_NOREPLACE) && st.vmas.intersects(range.clone()) {
            return Err(EEXIST);
        }
        if req.flags.contains(MapFlags::LOCKED) && !self.may_lock(req.privileges) {
            return Err(EPERM);
        }
        let mut flags = VmFlags::of_prot(req.prot) | VmFlags::MAY_ALL | def_flags | req.extra;
        if self.denies_exec(VmFlags::EXEC, flags) {
            return Err(EACCES);
        }
        if req.flags.contains(MapFlags::LOCKED) {
            flags |= VmFlags::LOCKED;
        }
        if req.flags.contains(MapFlags::GROWSDOWN) {
            flags |= VmFlags::GROWSDOWN;
        }
        if req.flags.contains(MapFlags::STACK) {
            // Linux 6.7 mman.h, calc_vm_flag_bits: of a thread's stack only the end is used.
            flags |= VmFlags::NOHUGEPAGE;
        }
        if flags.contains(VmFlags::LOCKED) && !self.lock_fits(&st, len, req.privileges) {
            return Err(EAGAIN);
        }
        let backing = self.backing(&req, len, &mut flags)?;
        if req.flags.contains(MapFlags::NORESERVE) {
            flags |= VmFlags::NORESERVE;
        }
        self.check_room(&st, &range, len, flags)?;
        if st.vmas.splits_needed(&range) == 2 && st.vmas.count() >= max_map_count() {
            return Err(ENOMEM);
        }
        if st.vmas.cuts_whole_area(&range) {
            return Err(EINVAL);
        }
        let shared_memory = matches!(req.backing, MapBacking::Anonymous)
            && req.kind != Some(MapType::Private)
            && !flags.contains(VmFlags::NORESERVE);
        if flags.is_accountable() || shared_memory {
            self.check_overcommit(len)?;
        }
        if flags.is_accountable() {
            flags |= VmFlags::ACCOUNT;
        }
        self.unmap_locked(&mut st, range.clone(), &mut trash);
        if req.flags.contains(MapFlags::SYNC) && matches!(req.backing, MapBacking::File(_)) {
            // File systems refuse what only persistent memory can give, when the old mapping has gone already.
            return Err(EOPNOTSUPP);
        }
        st.add_vma(Vma::new(range.clone(), flags, backing, req.name.clone()));
        let populate = flags.contains(VmFlags::LOCKED) && !flags.contains(VmFlags::LOCKONFAULT)
            || req.flags.contains(MapFlags::POPULATE) && !req.flags.contains(MapFlags::NONBLOCK);
        if populate {
            // mmap(2): the call does not fail if this does.
            let _ = self.populate_locked(&mut st, range, None);
        } else if matches!(req.backing, MapBacking::File(_)) {
            self.map_ahead(&mut st, range, req.flags);
        } else if len <= EAGER {
            self.fill_eagerly(&mut st, range);
        }
        Ok(addr)
    }

    /// Maps what the file behind a new area has in memory already.
    ///
    /// A loader (which says `MAP_DENYWRITE`) maps a whole library first and then its segments over that. What was mapped
    /// and is replaced again would cost every process its translations of these pages, so the first part waits for the
    /// second.
    fn map_ahead(&self, st: &mut State, range: Range<u64>, flags: MapFlags) {
        let is_loader = flags.contains(MapFlags::DENYWRITE);
        let is_fixed = flags.contains(MapFlags::FIXED);
        if is_loader && !is_fixed {
            return;
        }
        if is_loader
            && let Some(before) = st.vmas.find(range.start.wrapping_sub(PAGE_SIZE))
            && let Some(here) = st.vmas.find(range.start)
            && before.has_file_of(here)
        {
            let before = before.start..before.end;
            if st.pmas.overlapping(before.clone()).next().is_none() {
                self.fill_cached(st, before.start..before.end.min(before.start + CACHED));
            }
        }
        self.fill_cached(st, range.start..range.end.min(range.start + CACHED));
    }

    /// Decides what is behind a new area and what it may become.
    fn backing(&self, req: &MapRequest, len: u64, flags: &mut VmFlags) -> Result<Backing, Errno> {
        let kind = req.kind.ok_or(EINVAL);
        match &req.backing {
            MapBacking::Anonymous => match kind? {
                MapType::Private => Ok(Backing::Anonymous),
                MapType::Shared => {
                    if flags.contains(VmFlags::GROWSDOWN) {
                        return Err(EINVAL);
                    }
                    *flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
                    Ok(Backing::File { file: SharedMemory::anonymous(&self.memory, len), offset: 0 })
                }
                MapType::SharedValidate { .. } => Err(EINVAL),
            },
            MapBacking::File(f) => {
                // Linux 6.12 mm/mmap.c, file_mmap_ok: file offsets are signed.
                if f.offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
                    return Err(EOVERFLOW);
                }
                let kind = kind?;
                if kind != MapType::Private {
                    if (kind == MapType::SharedValidate { unknown: true }) {
                        return Err(EOPNOTSUPP);
                    }
                    if flags.contains(VmFlags::WRITE) && (!f.writable || f.append_only) {
                        return Err(EACCES);
                    }
                    *flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
                    if !f.writable {
                        *flags -= VmFlags::SHARED | VmFlags::MAYWRITE;
                    }
                }
                if !f.readable {
                    return Err(EACCES);
                }
                if f.noexec {
                    if flags.contains(VmFlags::EXEC) {
                        return Err(EPERM);
                    }
                    *flags -= VmFlags::MAYEXEC;
                }
                let file = f.file.clone()?;
                if flags.contains(VmFlags::GROWSDOWN) {
                    return Err(EINVAL);
                }
                Ok(Backing::File { file, offset: f.offset })
            }
        }
    }

    /// Chooses the address of a new mapping.
    fn place(&self, st: &State, addr: u64, len: u64, req: &MapRequest) -> Result<u64, Errno> {
        if len > self.range.end {
            return Err(ENOMEM);
        }
        if req.flags.contains(MapFlags::FIXED) {
            if addr > self.range.end - len {
                return Err(ENOMEM);
            }
            if !addr.is_multiple_of(PAGE_SIZE) {
                return Err(EINVAL);
            }
            if addr < MMAP_MIN_ADDR && !req.privileges.contains(Privileges::RAW_IO) {
                return Err(EPERM);
            }
            if st.vmas.is_reserved(&(addr..addr + len)) {
                let replaces = !req.flags.contains(MapFlags::FIXED_NOREPLACE);
                return Err(if replaces { ENOMEM } else { EEXIST });
            }
            if !req.flags.contains(MapFlags::FIXED_NOREPLACE) && st.is_sealed(&(addr..addr + len)) {
                return Err(EPERM);
            }
            // What the platform cannot map is not there for anybody.
            return if addr < self.range.start { Err(EPERM) } else { Ok(addr) };
        }
        let large =
            matches!(req.backing, MapBacking::Anonymous) && addr == 0 && len.is_multiple_of(LARGE_PAGE);
        self.find_place(
            st,
            addr,
            len,
            if req.flags.contains(MapFlags::BIT32) { Place::Low } else { Place::High },
            // As Linux does since 6.7.
            if large { LARGE_PAGE } else { PAGE_SIZE },
        )
    }

    /// Finds room for `len` bytes: at the hint if it is free, else as high as possible below `mmap_base`, else as low
    /// as possible above a third of all addresses.
    pub(super) fn find_place(
        &self,
        st: &State,
        hint: u64,
        len: u64,
        place: Place,
        align: u64,
    ) -> Result<u64, Errno> {
        if len > self.range.end {
            return Err(ENOMEM);
        }
        let lowest = self.range.start.max(MMAP_MIN_ADDR);
        let usable = |gap: Range<u64>| {
            let end =
                st.vmas.find_from(gap.end).filter(|v| v.start == gap.end).map_or(gap.end, Vma::start_gap);
            gap.start..end.max(gap.start)
        };
        let limit = if place == Place::Low { (1 << 31).min(self.range.end) } else { self.range.end };
        if hint >= lowest && hint <= limit.saturating_sub(len) {
            let free = match st.vmas.find_from(hint) {
                Some(v) => hint + len <= v.start_gap() && v.start > hint,
                None => true,
            };
            if free && !st.vmas.is_reserved(&(hint..hint + len)) {
                return Ok(hint);
            }
        }
        if place == Place::Low {
            // Linux 6.12 find_start_end: the second GiB.
            return st.vmas.gaps().lowest(len, &(0x4000_0000..limit), usable).ok_or(ENOMEM);
        }
        let base = self.params.mmap_base.clamp(lowest, self.range.end);
        if align > PAGE_SIZE
            && let Some(addr) = st.vmas.gaps().highest(len, align, &(lowest..base), usable)
        {
            return Ok(addr);
        }
        st.vmas
            .gaps()
            .highest(len, PAGE_SIZE, &(lowest..base), usable)
            .or_else(|| {
                let low = page_down(self.range.end / 3);
                st.vmas.gaps().lowest(len, &(low..self.range.end), usable)
            })
            .ok_or(ENOMEM)
    }

    /// Refuses `len` more bytes of an area with `flags` in `range` beyond the limits; what lies there already is going
    /// to be replaced. Linux's `may_expand_vm`.
    fn check_room(&self, st: &State, range: &Range<u64>, len: u64, flags: VmFlags) -> Result<(), Errno> {
        if self.may_expand(st, flags, len) {
            return Ok(());
        }
        let replaced: u64 =
            st.vmas.overlapping(range.clone()).map(|v| v.end.min(range.end) - v.start.max(range.start)).sum();
        if self.may_expand(st, flags, len - replaced) { Ok(()) } else { Err(ENOMEM) }
    }

    /// Whether the limits allow `len` more bytes with `flags`.
    pub(super) fn may_expand(&self, st: &State, flags: VmFlags, len: u64) -> bool {
        let sizes = st.vmas.sizes();
        let is_data = flags & (VmFlags::WRITE | VmFlags::SHARED | VmFlags::GROWSDOWN) == VmFlags::WRITE;
        sizes.total.saturating_add(len) <= page_down(self.limits.address_space.load(Ordering::Relaxed))
            && (!is_data
                || sizes.data.saturating_add(len) <= page_down(self.limits.data.load(Ordering::Relaxed)))
    }

    /// Refuses obvious overcommits: one mapping larger than the machine (`vm.overcommit_memory` 0).
    pub(super) fn check_overcommit(&self, len: u64) -> Result<(), Errno> {
        if len > self.params.total_memory { Err(ENOMEM) } else { Ok(()) }
    }

    /// Gives a small new private area its pages.
    pub(super) fn fill_eagerly(&self, st: &mut State, range: Range<u64>) {
        let wanted = st.vmas.find(range.start).is_some_and(|v| {
            v.is_anonymous() && v.flags.contains(VmFlags::WRITE) && !v.flags.contains(VmFlags::GROWSDOWN)
        });
        if wanted {
            // Whatever fails here fails again, and is reported, when the page is touched.
            let _ = self.fill_anonymous(st, range.clone(), Use::Soon);
            self.provide(st, range);
        }
    }

    /// Removes the mappings in `addr..addr + len`.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: `addr` is not a multiple of the page size, the range is not a user's, or `len` is 0.
    /// - `ENOMEM`: too many mappings.
    /// - `EINVAL`: it would cut the vDSO in two.
    pub fn unmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE_SIZE) || addr > self.range.end || len > self.range.end - addr {
            return Err(EINVAL);
        }
        let len = page_up(len).filter(|&len| len > 0).ok_or(EINVAL)?;
        let mut trash = Vec::new();
        let mut st = self.state.write();
        self.unmap_checked(&mut st, addr..addr + len, &mut trash)
    }

    /// shmdt(2): removes the areas that show a segment as attached at `addr`; `size_of` tells a segment's length by what
    /// its areas hold.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn detach(
        &self,
        addr: u64,
        size_of: impl Fn(&dyn MappingOrigin) -> Option<u64>,
    ) -> Result<(), Errno> {
        let mut trash = Vec::new();
        let mut st = self.state.write();
        // Linux 6.12 ipc/shm.c, ksys_shmdt: of what was mapped as one, pieces may be left.
        let mut found: Option<(MappedFile, u64)> = None;
        let mut pieces = Vec::new();
        for v in st.vmas.overlapping(addr..self.range.end) {
            let end = found.as_ref().map(|(_, end)| *end);
            if end.is_some_and(|end| v.end > end) {
                break;
            }
            let Backing::File { file, offset } = &v.backing else { continue };
            let Some(size) = size_of(&*file.origin) else { continue };
            if v.start < addr || v.start - addr != *offset {
                continue;
            }
            match &found {
                Some((f, _)) if !std::sync::Arc::ptr_eq(&f.origin, &file.origin) => continue,
                Some(_) => {}
                None => {
                    let len = page_up(size).ok_or(EINVAL)?;
                    found = Some((file.clone(), addr.saturating_add(len)));
                }
            }
            pieces.push(v.start..v.end);
        }
        for piece in pieces {
            self.unmap_locked(&mut st, piece, &mut trash);
        }
        drop(st);
        drop(trash);
        if found.is_some() { Ok(()) } else { Err(EINVAL) }
    }

    /// Removes mappings unless a hole in an area would make too many.
    pub(super) fn unmap_checked(
        &self,
        st: &mut State,
        range: Range<u64>,
        trash: &mut Vec<Vma>,
    ) -> Result<(), Errno> {
        let middle = st.vmas.find(range.start).is_some_and(|v| v.start < range.start && v.end > range.end);
        if middle && st.vmas.count() >= max_map_count() {
            return Err(ENOMEM);
        }
        if st.vmas.cuts_whole_area(&range) {
            return Err(EINVAL);
        }
        if st.is_sealed(&range) {
            return Err(EPERM);
        }
        self.unmap_locked(st, range, trash);
        Ok(())
    }

    /// Removes mappings; the caller drops `trash` after the lock.
    pub(super) fn unmap_locked(&self, st: &mut State, range: Range<u64>, trash: &mut Vec<Vma>) {
        if !st.vmas.intersects(range.clone()) {
            return;
        }
        trash.extend(st.remove_vmas(range.clone()));
        self.drop_pages(st, range);
    }

    /// Makes the pages of `range` present and provided, as for `access` or, when that is `None`, for what each area
    /// allows: for what is known to be used soon.
    ///
    /// # Errors
    /// What a fault on the first page that cannot be had would be.
    pub fn prefault(&self, range: Range<u64>, access: Option<Access>) -> Result<(), Fault> {
        let range = page_down(range.start)..page_up(range.end).unwrap_or(self.range.end).min(self.range.end);
        self.populate_locked(&mut self.state.write(), range, access)
    }
}

/// Where a mapping without a usable hint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below `mmap_base`.
    High,
    /// Below 2 GiB: `MAP_32BIT`.
    Low,
}
