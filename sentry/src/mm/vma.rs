//! Virtual memory areas: what a guest mapped, as opposed to which pages are there ([`super::pma`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::mman::Prot;
use base::PAGE_SIZE;
use base::memmap::{Access, MappedFile};
use bitflags::bitflags;

use super::gaps::Gaps;
use super::policy::Policy;

/// The gap kept free below a stack: 256 pages, Linux's `stack_guard_gap`.
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;

bitflags! {
    /// Flags of an area, with Linux's `VM_*` names; the numbers are ours except for the first eight.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct VmFlags: u32 {
        /// Can be read now.
        const READ = 1;
        /// Can be written now.
        const WRITE = 2;
        /// Can be executed now.
        const EXEC = 4;
        /// Writes go to the file.
        const SHARED = 8;
        /// mprotect(2) may set `READ`.
        const MAYREAD = 0x10;
        /// mprotect(2) may set `WRITE`.
        const MAYWRITE = 0x20;
        /// mprotect(2) may set `EXEC`.
        const MAYEXEC = 0x40;
        /// `MAP_SHARED` was given, also for a file that is open for reading only.
        const MAYSHARE = 0x80;
        /// Grows down: a stack.
        const GROWSDOWN = 0x100;
        /// Locked in memory.
        const LOCKED = 0x200;
        /// Locked when faulted in.
        const LOCKONFAULT = 0x400;
        /// Not accounted against overcommit.
        const NORESERVE = 0x800;
        /// Accounted against overcommit.
        const ACCOUNT = 0x1000;
        /// Not copied by fork.
        const DONTCOPY = 0x2000;
        /// Empty in a child.
        const WIPEONFORK = 0x4000;
        /// Left out of core dumps.
        const DONTDUMP = 0x8000;
        /// mremap(2) may not expand it.
        const DONTEXPAND = 0x1_0000;
        /// `MADV_SEQUENTIAL`.
        const SEQ_READ = 0x2_0000;
        /// `MADV_RANDOM`.
        const RAND_READ = 0x4_0000;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 0x8_0000;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 0x10_0000;
        /// mseal(2).
        const SEALED = 0x20_0000;
        /// `MADV_GUARD_INSTALL`: no access, whatever the other flags say. Linux marks pages, and areas stay whole.
        const GUARD = 0x40_0000;
        /// `MADV_MERGEABLE`: equal pages may become one, which nobody looks for.
        const MERGEABLE = 0x80_0000;
        /// `READ | WRITE | EXEC`.
        const ACCESS = 7;
        /// `LOCKED | LOCKONFAULT`.
        const LOCKED_MASK = 0x600;
        /// `MAYREAD | MAYWRITE | MAYEXEC`.
        const MAY_ALL = 0x70;
    }
}

impl VmFlags {
    /// The access flags of `prot`.
    pub(super) fn of_prot(prot: Prot) -> Self {
        Self::from_bits_truncate(prot.bits() as u32) & Self::ACCESS
    }

    /// What a page with these flags may be mapped with; `writable` says whether the page itself may be written.
    ///
    /// x86 has no pages that can be written or executed but not read.
    pub(super) fn access(self, writable: bool) -> Access {
        if self.contains(Self::GUARD) {
            return Access::empty();
        }
        let mut access = Access::from_bits_truncate((self & Self::ACCESS).bits() as u8);
        if !access.is_empty() {
            access |= Access::READ;
        }
        if !writable {
            access -= Access::WRITE;
        }
        access
    }

    fn is_data(self) -> bool {
        self & (Self::WRITE | Self::SHARED | Self::GROWSDOWN) == Self::WRITE
    }

    fn is_exec(self) -> bool {
        self & (Self::EXEC | Self::WRITE | Self::GROWSDOWN) == Self::EXEC
    }

    /// Whether memory behind it counts as promised: private and writable.
    pub(super) fn is_accountable(self) -> bool {
        self & (Self::NORESERVE | Self::SHARED | Self::WRITE) == Self::WRITE
    }
}

/// What is behind an area.
#[derive(Clone)]
pub enum Backing {
    /// Nothing: zeros.
    Anonymous,
    /// A file, or shared anonymous memory as Linux has it: a file without a name.
    File {
        /// The file.
        file: MappedFile,
        /// The byte offset in the file of the area's first byte; a multiple of the page size.
        offset: u64,
    },
}

impl Backing {
    /// The backing `delta` bytes further.
    fn advanced(&self, delta: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::File { file, offset } => Self::File { file: file.clone(), offset: offset + delta },
        }
    }
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::File { offset, .. } => write!(f, "File({offset:#x})"),
        }
    }
}

/// The name of the area with the data of the vDSO.
pub const VVAR: &str = "[vvar]";
/// The name of the area with the code of the vDSO.
pub const VDSO: &str = "[vdso]";

/// A name for `/proc/PID/maps` that does not come from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VmName {
    /// None.
    #[default]
    None,
    /// Of the system, such as `[vdso]`.
    Special(&'static str),
    /// `PR_SET_VMA_ANON_NAME`, without the brackets.
    Anon(Arc<[u8]>),
}

/// What faults in an area have taught about how it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Where the last window began.
    pub(super) start: u64,
    /// Where it ended.
    pub(super) end: u64,
    /// Its intended length; 0 at first.
    pub(super) len: u64,
}

/// One area.
#[derive(Clone, Debug)]
pub struct Vma {
    /// The first address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// Flags.
    pub flags: VmFlags,
    /// What is behind it.
    pub backing: Backing,
    /// Its name, when that does not come from the file.
    pub name: VmName,
    /// mbind(2).
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) window: Window,
    pub(super) cow: Window,
}

impl Vma {
    pub(super) fn new(range: Range<u64>, flags: VmFlags, backing: Backing, name: VmName) -> Self {
        Self {
            start: range.start,
            end: range.end,
            flags,
            backing,
            name,
            policy: None,
            window: Window::default(),
            cow: Window::default(),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the area has no addresses; never true of one in an address space.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The byte offset in the file that `addr` shows; 0 for anonymous memory.
    pub fn file_offset(&self, addr: u64) -> u64 {
        match &self.backing {
            Backing::Anonymous => 0,
            Backing::File { offset, .. } => offset + (addr - self.start),
        }
    }

    /// Whether both areas show the same file.
    pub(super) fn has_file_of(&self, other: &Self) -> bool {
        match (&self.backing, &other.backing) {
            (Backing::File { file, .. }, Backing::File { file: theirs, .. }) => {
                std::sync::Arc::ptr_eq(&file.pages, &theirs.pages)
            }
            _ => false,
        }
    }

    /// Whether the area is anonymous and private.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous)
    }

    /// Where the area begins, with the guard gap of a stack.
    pub(super) fn start_gap(&self) -> u64 {
        if self.flags.contains(VmFlags::GROWSDOWN) {
            self.start.saturating_sub(STACK_GUARD_GAP)
        } else {
            self.start
        }
    }

    /// Whether writes may reach the file, now or after mprotect(2): the `write` of `Mappable::add_mapping`.
    pub(super) fn may_write_file(&self) -> bool {
        self.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE)
    }

    /// Whether it holds the vDSO's code or data, which are never cut and are private by what `/proc/PID/maps` says
    /// (Linux 6.18 mm/mmap.c, special_mapping_split).
    pub(super) fn is_vdso(&self) -> bool {
        matches!(self.name, VmName::Special(VVAR | VDSO))
    }

    /// Cuts off and returns what is at and beyond `at`.
    fn split_off(&mut self, at: u64) -> Self {
        let mut upper = self.clone();
        upper.backing = self.backing.advanced(at - self.start);
        upper.start = at;
        self.end = at;
        upper
    }

    /// Whether `next`, which begins where this ends, continues it.
    fn can_merge(&self, next: &Self) -> bool {
        self.flags == next.flags && self.goes_on_in(next)
    }

    /// Whether Linux would have one area where this one and `next` are: guard pages divide none there.
    pub(super) fn is_one_with(&self, next: &Self) -> bool {
        self.flags - VmFlags::GUARD == next.flags - VmFlags::GUARD
            && (self.flags | next.flags).contains(VmFlags::GUARD)
            && self.goes_on_in(next)
    }

    fn goes_on_in(&self, next: &Self) -> bool {
        self.end == next.start
            && self.name == next.name
            && self.policy == next.policy
            && match (&self.backing, &next.backing) {
                (Backing::Anonymous, Backing::Anonymous) => true,
                (Backing::File { file: a, offset: x }, Backing::File { file: b, offset: y }) => {
                    Arc::ptr_eq(&a.pages, &b.pages)
                        && (Arc::ptr_eq(&a.origin, &b.origin) || a.origin.is_same_file(&*b.origin))
                        && x.checked_add(self.end - self.start) == Some(*y)
                }
                _ => false,
            }
    }
}

/// Bytes mapped, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmSizes {
    /// All areas (`VmSize`).
    pub total: u64,
    /// Private writable ones without stacks (`VmData`).
    pub data: u64,
    /// Stacks (`VmStk`).
    pub stack: u64,
    /// Executable, not writable (`VmExe` and `VmLib`).
    pub exec: u64,
    /// Locked (`VmLck`).
    pub locked: u64,
}

impl VmSizes {
    fn count(&mut self, flags: VmFlags, len: u64, op: fn(u64, u64) -> u64) {
        self.total = op(self.total, len);
        if flags.is_exec() {
            self.exec = op(self.exec, len);
        } else if flags.contains(VmFlags::GROWSDOWN) {
            self.stack = op(self.stack, len);
        } else if flags.is_data() {
            self.data = op(self.data, len);
        }
        if flags.contains(VmFlags::LOCKED) {
            self.locked = op(self.locked, len);
        }
    }
}

/// The areas of an address space in order, the holes between them, and sums over them.
pub(super) struct VmaSet {
    map: BTreeMap<u64, Vma>,
    gaps: Gaps,
    sizes: VmSizes,
    /// Where no area may be, though it lies between addresses where areas may be.
    reserved: Range<u64>,
}

impl VmaSet {
    /// No areas in `range`.
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { map: BTreeMap::new(), gaps: Gaps::new(range), sizes: VmSizes::default(), reserved: 0..0 }
    }

    /// Keeps areas away from `range`, where none is yet. Once.
    pub(super) fn reserve(&mut self, range: Range<u64>) {
        self.gaps.occupy(range.clone());
        self.reserved = range;
    }

    /// Whether `range` meets what areas are kept away from.
    pub(super) fn is_reserved(&self, range: &Range<u64>) -> bool {
        range.start < self.reserved.end && self.reserved.start < range.end
    }

    pub(super) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    pub(super) fn sizes(&self) -> VmSizes {
        self.sizes
    }

    pub(super) fn count(&self) -> usize {
        self.map.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.map.values()
    }

    /// The area that contains `addr`.
    pub(super) fn find(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    pub(super) fn find_mut(&mut self, addr: u64) -> Option<&mut Vma> {
        self.map.range_mut(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The first area that ends above `addr`: Linux's `find_vma`.
    pub(super) fn find_from(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.map.range(addr..).next().map(|(_, v)| v))
    }

    /// The last area that ends at or below `addr`.
    pub(super) fn find_before(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..addr).next_back().map(|(_, v)| v)
    }

    /// The areas that meet `range`.
    pub(super) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Vma> {
        let first = if range.is_empty() { None } else { self.find(range.start) };
        let first = first.map_or(range.start, |v| v.start);
        self.map.range(first..range.end.max(first)).map(|(_, v)| v).filter(move |v| v.end > range.start)
    }

    /// Whether any area meets `range`.
    pub(super) fn intersects(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_some()
    }

    /// Whether areas cover all of `range`.
    pub(super) fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for v in self.overlapping(range.clone()) {
            if v.start > at {
                return false;
            }
            at = v.end;
        }
        at >= range.end
    }

    /// How many more areas there are after cutting at both ends of `range`.
    pub(super) fn splits_needed(&self, range: &Range<u64>) -> usize {
        let cut = |at: u64| usize::from(self.find(at).is_some_and(|v| v.start < at));
        cut(range.start) + cut(range.end)
    }

    /// Whether a boundary of `range` lies within an area that cannot be cut.
    pub(super) fn cuts_whole_area(&self, range: &Range<u64>) -> bool {
        let cut = |at: u64| self.find(at).is_some_and(|v| v.start < at && v.is_vdso());
        cut(range.start) || cut(range.end)
    }

    /// Makes `at` a boundary between areas.
    fn split(&mut self, at: u64) {
        let Some(v) = self.find_mut(at).filter(|v| v.start < at) else { return };
        let upper = v.split_off(at);
        self.map.insert(at, upper);
    }

    /// Adds an area where there is none and joins it with its neighbours. Returns where the joined one starts.
    pub(super) fn insert(&mut self, vma: Vma) -> u64 {
        debug_assert!(!vma.is_empty() && !self.intersects(vma.start..vma.end));
        self.sizes.count(vma.flags, vma.len(), |a, b| a + b);
        self.gaps.occupy(vma.start..vma.end);
        let (start, end) = (vma.start, vma.end);
        self.map.insert(start, vma);
        self.merge(end);
        self.merge(start);
        self.find(start).map_or(start, |v| v.start)
    }

    /// Joins the areas that meet at `at`, if they can be one.
    fn merge(&mut self, at: u64) {
        let Some(upper) = self.map.get(&at) else { return };
        let Some((&low, lower)) = self.map.range(..at).next_back() else { return };
        if lower.can_merge(upper) {
            let end = upper.end;
            self.map.remove(&at);
            if let Some(lower) = self.map.get_mut(&low) {
                lower.end = end;
            }
        }
    }

    /// Takes out what lies in `range`, in order.
    pub(super) fn remove(&mut self, range: Range<u64>) -> Vec<Vma> {
        self.split(range.start);
        self.split(range.end);
        let starts: Vec<u64> = self.map.range(range).map(|(&s, _)| s).collect();
        let removed: Vec<Vma> = starts.iter().filter_map(|s| self.map.remove(s)).collect();
        for v in &removed {
            self.sizes.count(v.flags, v.len(), |a, b| a - b);
            self.gaps.release(v.start..v.end);
        }
        removed
    }

    /// Applies `f` to each area in `range` (cut at its ends), then joins what can be joined. Starts, ends and backings
    /// stay.
    pub(super) fn update(&mut self, range: Range<u64>, mut f: impl FnMut(&mut Vma)) {
        self.split(range.start);
        self.split(range.end);
        let mut bounds = Vec::new();
        for (&s, v) in self.map.range_mut(range.clone()) {
            self.sizes.count(v.flags, v.end - v.start, |a, b| a - b);
            f(v);
            self.sizes.count(v.flags, v.end - v.start, |a, b| a + b);
            bounds.push(s);
        }
        for s in bounds {
            self.merge(s);
        }
        self.merge(range.end);
    }

    /// Moves the start of the area at `start` down to `to`, for a stack.
    pub(super) fn grow_down(&mut self, start: u64, to: u64) {
        let Some(mut v) = self.map.remove(&start) else { return };
        debug_assert!(to < start && v.is_anonymous());
        self.gaps.occupy(to..start);
        self.sizes.count(v.flags, start - to, |a, b| a + b);
        v.start = to;
        self.map.insert(to, v);
        self.merge(to);
    }

    /// Panics unless all that is derived equals what it is derived from.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut sizes = VmSizes::default();
        let mut last: Option<&Vma> = None;
        for (&s, v) in &self.map {
            assert!(s == v.start && v.start < v.end && s % PAGE_SIZE == 0 && v.end % PAGE_SIZE == 0);
            if let Some(last) = last {
                assert!(last.end <= s, "areas overlap");
                assert!(!last.can_merge(v), "areas not joined: {last:?} {v:?}");
            }
            sizes.count(v.flags, v.len(), |a, b| a + b);
            last = Some(v);
        }
        assert_eq!(sizes, self.sizes);
    }
}
