//! Page faults: growing stacks, pages on first use, copy on write.
//!
//! A guest's fault costs tens of microseconds, so each one brings in a whole window of pages, larger when faults come
//! one after the other. A window of anonymous memory is only *promised*: the host provides a page when it is touched, so
//! that a sparse use costs the touched pages and no more. Once the windows of an area have grown to the length of a large
//! page, or its owner asked for huge pages, it gets large pages.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::memmap::{Access, LARGE_PAGE, MapError, Mappable, MemKind, MemRange};
use base::{PAGE_SIZE, page_down};

use super::pma::{self, Pma};
use super::vma::{Backing, STACK_GUARD_GAP, VmFlags, Window};
use super::{Fault, MMAP_MIN_ADDR, MemoryManager, State, allows};

/// The first window of an area.
const WINDOW: u64 = 64 << 10;
/// The largest.
const WINDOW_MAX: u64 = LARGE_PAGE;
/// The first window of a file mapping: a copy of it costs less than the faults that it saves.
const WINDOW_FILE: u64 = 256 << 10;
/// Writable private mappings of files up to this length are taken for data segments.
const DATA_SEGMENT: u64 = 2 << 20;
/// The first window of copies: a fork's child or parent often writes a page or two and is done.
const COPY: u64 = 32 << 10;
/// The largest.
const COPY_MAX: u64 = 128 << 10;
/// The first window of copies of a private file mapping: data segments.
const COPY_FILE: u64 = 64 << 10;
/// How far write access is given back around a page that has become unique.
const RESTORE_MAX: u64 = 1 << 20;
/// The step in which a stack grows where limits and neighbours allow.
const STACK_STEP: u64 = 64 << 10;
/// In areas up to this length the pages of a window are provided at once; longer ones may be sparse.
const DENSE: u64 = 1 << 20;
/// Pages are allocated in pieces of at most this length.
const PIECE: u64 = 1 << 30;

impl Window {
    /// The window for a fault at `page`: naturally aligned, twice as long as the last one when the fault continues it.
    /// Says also whether it does.
    fn next(&self, page: u64, first: u64, max: u64) -> (Range<u64>, bool) {
        let sequential = self.len > 0 && (page == self.end || page + PAGE_SIZE == self.start);
        let len = if sequential { (self.len * 2).min(max) } else { first };
        let start = page & !(len - 1);
        (start..start + len, sequential)
    }

    /// What is remembered of a window that became `range`.
    fn remember(range: &Range<u64>, wanted: &Range<u64>) -> Self {
        Self { start: range.start, end: range.end, len: wanted.end - wanted.start }
    }
}

/// What the fault code needs of an area while it changes the page table.
struct Area {
    range: Range<u64>,
    flags: VmFlags,
    /// File, and the offset that the area's first byte shows.
    file: Option<(Arc<dyn Mappable>, u64)>,
    window: Window,
    cow: Window,
}

impl Area {
    fn at(st: &State, addr: u64) -> Option<Self> {
        let v = st.vmas.find(addr)?;
        let file = match &v.backing {
            Backing::Anonymous => None,
            Backing::File { file, offset } => Some((file.pages.clone(), *offset)),
        };
        Some(Self { range: v.start..v.end, flags: v.flags, file, window: v.window, cow: v.cow })
    }

    /// Whether stores go to the file.
    fn is_shared(&self) -> bool {
        self.flags.contains(VmFlags::MAYSHARE)
    }

    fn clip(&self, range: Range<u64>) -> Range<u64> {
        range.start.max(self.range.start)..range.end.min(self.range.end)
    }
}

impl MemoryManager {
    /// Makes good a guest's access to `addr` that its page tables did not allow.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn handle_fault(&self, addr: u64, access: Access) -> Result<(), Fault> {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.resolve(&mut self.state.write(), addr, access)
    }

    /// [`MemoryManager::handle_fault`] under the lock.
    pub(super) fn resolve(&self, st: &mut State, addr: u64, access: Access) -> Result<(), Fault> {
        if !self.range.contains(&addr) {
            return Err(Fault::NotMapped);
        }
        let page = page_down(addr);
        if st.vmas.find(page).is_none() {
            self.grow_stack(st, page)?;
        }
        let area = Area::at(st, page).ok_or(Fault::NotMapped)?;
        if area.flags.contains(VmFlags::GUARD) {
            return Err(Fault::NotMapped);
        }
        if !allows(area.flags, access) {
            return Err(Fault::Denied);
        }
        let write = access.contains(Access::WRITE);
        match st.pmas.find(page) {
            Some((_, p)) if !write || p.writable => {
                // Another thread was faster, or the platform could not map it before.
                let (start, p) = st.pmas.overlapping(page..page + PAGE_SIZE).next().unwrap_or((page, p));
                self.map_piece(start, &p)
            }
            Some(_) if area.is_shared() => self.write_shared(st, &area, page),
            Some(_) => self.break_cow(st, &area, page),
            None => match &area.file {
                None => self.fault_anonymous(st, &area, page),
                Some(_) if area.is_shared() => self.fault_shared(st, &area, page, write),
                Some(_) => self.fault_private_file(st, &area, page, write),
            },
        }
    }

    /// Brings in the page at `page` for the sentry's own access, whatever its protection. The caller checked that the
    /// area may be accessed by force.
    pub(super) fn force_page(&self, st: &mut State, page: u64, access: Access) -> Result<(), Fault> {
        let area = Area::at(st, page).ok_or(Fault::NotMapped)?;
        let one = page..page + PAGE_SIZE;
        if st.pmas.find(page).is_none() {
            match &area.file {
                None => self.fill_anonymous(st, one.clone(), Use::Sparse)?,
                Some(_) => self.fill_from_file(st, &area, one.clone(), page, false, Show::Map)?,
            }
        }
        match st.pmas.find(page) {
            Some((_, p)) if access.contains(Access::WRITE) && !p.writable => {
                if area.is_shared() {
                    self.write_shared(st, &area, page)
                } else if p.anon {
                    self.break_cow(st, &area, page)
                } else {
                    self.copy_range(st, &area, one)
                }
            }
            _ => Ok(()),
        }
    }

    /// Grows the stack above `page` down to it.
    fn grow_stack(&self, st: &mut State, page: u64) -> Result<(), Fault> {
        let stack = st.vmas.find_from(page).filter(|v| v.flags.contains(VmFlags::GROWSDOWN));
        let Some((start, end, flags)) = stack.map(|v| (v.start, v.end, v.flags)) else {
            return Err(Fault::NotMapped);
        };
        let allowed = |to: u64| {
            let free = st.vmas.find_before(to).is_none_or(|below| {
                below.flags.contains(VmFlags::GROWSDOWN)
                    || !below.flags.intersects(VmFlags::ACCESS)
                    || to.saturating_sub(below.end) >= STACK_GUARD_GAP
            });
            free && to >= MMAP_MIN_ADDR.max(self.range.start)
                && !st.vmas.is_reserved(&(to..start))
                && end - to <= self.limits.stack.load(Ordering::Relaxed)
                && self.may_expand(st, flags, start - to)
                && (!flags.contains(VmFlags::LOCKED)
                    || self.lock_fits(st, start - to, super::Privileges::empty()))
        };
        // Linux grows by the page; for the program's own stack a step saves faults and shows in /proc only. Areas
        // without access may be nearer than the gap, so a step must also stay off them.
        let main = (start..=end).contains(&st.layout.start_stack);
        let step = page & !(STACK_STEP - 1);
        let to = if main && allowed(step) && !st.vmas.intersects(step..start) { step } else { page };
        if !allowed(to) {
            return Err(Fault::NotMapped);
        }
        st.vmas.grow_down(start, to);
        st.peak_vm = st.peak_vm.max(st.vmas.sizes().total);
        Ok(())
    }

    /// First use of private anonymous memory.
    fn fault_anonymous(&self, st: &mut State, area: &Area, page: u64) -> Result<(), Fault> {
        let (mut wanted, sequential) = area.window.next(page, WINDOW, WINDOW_MAX);
        let mut range = st.pmas.hole(page, area.clip(wanted.clone()));
        let mut usage = if sequential && area.window.len == LARGE_PAGE {
            Use::Dense
        } else if sequential || area.range.end - area.range.start <= DENSE {
            Use::Soon
        } else {
            Use::Sparse
        };
        if area.flags.contains(VmFlags::HUGEPAGE) {
            let large = page & !(LARGE_PAGE - 1)..(page & !(LARGE_PAGE - 1)) + LARGE_PAGE;
            if st.pmas.hole(page, area.clip(large.clone())) == large {
                (wanted, range, usage) = (large.clone(), large, Use::Dense);
            }
        }
        // A page that is mapped but not provided costs a guest's touch some 20 µs, to provide it here costs one.
        let range = match self.fill_anonymous(st, range.clone(), usage) {
            Ok(()) => range,
            // Near the limit a single page may still fit.
            Err(Fault::OutOfMemory) if range.end - range.start > PAGE_SIZE => {
                let one = page..page + PAGE_SIZE;
                if st.pmas.find(page).is_none() {
                    self.fill_anonymous(st, one.clone(), Use::Sparse)?;
                }
                one
            }
            Err(e) => return Err(e),
        };
        self.provide(st, if usage == Use::Sparse { page..page + PAGE_SIZE } else { range.clone() });
        if let Some(v) = st.vmas.find_mut(page) {
            v.window = Window::remember(&range, &wanted);
        }
        Ok(())
    }

    /// Has the host provide the pages of `range` that are present.
    pub(super) fn provide(&self, st: &State, range: Range<u64>) {
        for (start, p) in st.pmas.overlapping(range) {
            if !self.space.provide(start, p.end - start) {
                self.memory.populate(pma::pages(start, &p));
            }
        }
    }

    /// Allocates pages for a range of one private area that has none, and maps them. Unless the use is sparse the
    /// caller has the host provide them; large pages are provided already.
    pub(super) fn fill_anonymous(&self, st: &mut State, range: Range<u64>, usage: Use) -> Result<(), Fault> {
        let Some(flags) = st.vmas.find(range.start).map(|v| v.flags) else { return Ok(()) };
        let large = usage == Use::Dense && !flags.contains(VmFlags::NOHUGEPAGE);
        let mut at = range.start;
        while at < range.end {
            let mut len = (range.end - at).min(PIECE);
            let mut pages = None;
            let first = at.next_multiple_of(LARGE_PAGE);
            let last = (at + len) & !(LARGE_PAGE - 1);
            if large && first < last {
                if at < first {
                    len = first - at;
                } else {
                    len = last - at;
                    pages = self.memory.allocate_large(len);
                }
            }
            let align =
                if at.is_multiple_of(LARGE_PAGE) && len >= LARGE_PAGE { LARGE_PAGE } else { PAGE_SIZE };
            if usage == Use::Soon && align == PAGE_SIZE {
                pages = self.memory.recycle(len).inspect(|pages| self.memory.zero(*pages));
            }
            let pages = match pages {
                Some(pages) => pages,
                None => {
                    self.memory.allocate(len, align, MemKind::Anonymous).map_err(|_| Fault::OutOfMemory)?
                }
            };
            let p = Pma {
                end: at + len,
                off: pages.offset,
                anon: true,
                writable: true,
                access: flags.access(true),
            };
            st.add_pages(at, p);
            self.map_piece(at, &p)?;
            at += len;
        }
        Ok(())
    }

    /// A missing page of a shared mapping.
    fn fault_shared(&self, st: &mut State, area: &Area, page: u64, write: bool) -> Result<(), Fault> {
        let Some((file, _)) = &area.file else { return Err(Fault::NotMapped) };
        let write = area.flags.contains(VmFlags::SHARED) && (write || may_dirty(file, area.flags));
        let first = if write && file.tracks_dirty() { COPY } else { WINDOW };
        let (wanted, sequential) = area.window.next(page, first, WINDOW_MAX);
        let range = st.pmas.hole(page, area.clip(wanted.clone()));
        self.fill_from_file(st, area, range.clone(), page, write, Show::Map)?;
        self.provide(st, if sequential { range.clone() } else { page..page + PAGE_SIZE });
        if let Some(v) = st.vmas.find_mut(page) {
            v.window = Window::remember(&range, &wanted);
        }
        Ok(())
    }

    /// A missing page of a private file mapping.
    fn fault_private_file(&self, st: &mut State, area: &Area, page: u64, write: bool) -> Result<(), Fault> {
        let (wanted, _) = area.window.next(page, WINDOW_FILE, WINDOW_MAX);
        let range = st.pmas.hole(page, area.clip(wanted.clone()));
        // A data segment is going to be written: its relocations, if nothing else. One fault does for both.
        let is_data =
            area.flags.contains(VmFlags::WRITE) && area.range.end - area.range.start <= DATA_SEGMENT;
        let copies = write || is_data;
        let show = if copies { Show::Later } else { Show::Map };
        let mut result = self.fill_from_file(st, area, range.clone(), page, false, show);
        if result.is_ok()
            && let Some(v) = st.vmas.find_mut(page)
        {
            v.window = Window::remember(&range, &wanted);
        }
        if copies {
            result = result.and_then(|()| self.break_cow(st, area, page));
            for (start, p) in st.pmas.overlapping(range).filter(|(_, p)| !p.anon) {
                self.map_piece(start, &p)?;
            }
        }
        result
    }

    /// Gets the pages of `range`, which has none, from the file. Only `must` has to succeed.
    fn fill_from_file(
        &self,
        st: &mut State,
        area: &Area,
        range: Range<u64>,
        must: u64,
        write: bool,
        show: Show,
    ) -> Result<(), Fault> {
        let Some((file, base)) = &area.file else { return Err(Fault::NotMapped) };
        let mut at = range.start;
        while at < range.end {
            let offset = base + (at - area.range.start);
            match file.translate(offset, range.end - at, write) {
                Ok(pages) => {
                    let p = Pma {
                        end: at + pages.len,
                        off: pages.offset,
                        anon: false,
                        writable: write,
                        access: area.flags.access(write),
                    };
                    st.add_pages(at, p);
                    if show == Show::Map {
                        self.map_piece(at, &p)?;
                    }
                    at = p.end;
                }
                // What lies before the page that is needed may be unreadable without harm.
                Err(_) if at < must => at = must,
                Err(_) if at > must => return Ok(()),
                Err(MapError::Bus) => return Err(Fault::Bus),
                Err(MapError::NoMemory) => return Err(Fault::OutOfMemory),
            }
        }
        Ok(())
    }

    /// A write to a page of a shared mapping that was present for reading: the file is told, then it is writable.
    fn write_shared(&self, st: &mut State, area: &Area, page: u64) -> Result<(), Fault> {
        let (wanted, _) = area.cow.next(page, COPY, WINDOW_MAX);
        let range = area.clip(wanted.clone());
        let old = st.pmas.remove(range.clone());
        let result = self.fill_from_file(st, area, range.clone(), page, true, Show::Map);
        // Translations without pages behind them now would outlive the pages.
        for (start, p) in &old {
            for hole in st.pmas.missing(*start..p.end) {
                self.space.unmap(hole.start, hole.end - hole.start);
            }
        }
        self.drop_refs(&old);
        if let Some(v) = st.vmas.find_mut(page) {
            v.cow = Window::remember(&range, &wanted);
        }
        result
    }

    /// A write to a page of a private mapping that may not be written: the process gets a page of its own, and some
    /// neighbours' with it.
    fn break_cow(&self, st: &mut State, area: &Area, page: u64) -> Result<(), Fault> {
        let Some((start, p)) = st.pmas.find(page) else { return Ok(()) };
        if p.anon && self.memory.is_unique(p.off + (page - start)) {
            return self.restore_write(st, area, page);
        }
        let first = if p.anon { COPY } else { COPY_FILE };
        let (wanted, _) = area.cow.next(page, first, COPY_MAX);
        let range = self.copyable(st, page, area.clip(wanted.clone()));
        let range = match self.copy_range(st, area, range.clone()) {
            Ok(()) => range,
            Err(Fault::OutOfMemory) if range.end - range.start > PAGE_SIZE => {
                let one = page..page + PAGE_SIZE;
                self.copy_range(st, area, one.clone())?;
                one
            }
            Err(e) => return Err(e),
        };
        if let Some(v) = st.vmas.find_mut(page) {
            v.cow = Window::remember(&range, &wanted);
        }
        Ok(())
    }

    /// The pages around `page` in `within` that a write would copy.
    fn copyable(&self, st: &State, page: u64, within: Range<u64>) -> Range<u64> {
        let copies = |at: u64| {
            st.pmas
                .find(at)
                .is_some_and(|(s, p)| !(p.writable || p.anon && self.memory.is_unique(p.off + (at - s))))
        };
        let mut range = page..page + PAGE_SIZE;
        while range.end < within.end && copies(range.end) {
            range.end += PAGE_SIZE;
        }
        while range.start > within.start && copies(range.start - PAGE_SIZE) {
            range.start -= PAGE_SIZE;
        }
        range
    }

    /// Allocates pages that hold anything, for a caller that overwrites them all.
    pub(super) fn pages_for_copies(&self, len: u64) -> Result<MemRange, Fault> {
        if let Some(pages) = self.memory.recycle(len) {
            return Ok(pages);
        }
        let pages =
            self.memory.allocate(len, PAGE_SIZE, MemKind::Anonymous).map_err(|_| Fault::OutOfMemory)?;
        if len > PAGE_SIZE {
            self.memory.populate(pages);
        }
        Ok(pages)
    }

    /// Replaces the pages of `range`, all present, by copies of the process's own.
    fn copy_range(&self, st: &mut State, area: &Area, range: Range<u64>) -> Result<(), Fault> {
        let len = range.end - range.start;
        let pages = self.pages_for_copies(len)?;
        let old = st.pmas.remove(range.clone());
        let copied: u64 = old.iter().map(|(start, p)| p.end - start).sum();
        debug_assert_eq!(copied, len, "mm: copies of pages that are not there");
        if copied != len {
            // What the pages hold is nobody's here.
            self.memory.zero(pages);
        }
        for (start, p) in &old {
            self.memory.copy(p.off, pages.offset + (start - range.start), p.end - start);
        }
        let p = Pma {
            end: range.end,
            off: pages.offset,
            anon: true,
            writable: true,
            access: area.flags.access(true),
        };
        st.add_pages(range.start, p);
        self.space.provide(range.start, len);
        let result = self.map_piece(range.start, &p);
        if result.is_err() {
            self.space.unmap(range.start, len);
        }
        self.drop_refs(&old);
        result
    }

    /// Gives write access back to the run of unique pages around `page`.
    fn restore_write(&self, st: &mut State, area: &Area, page: u64) -> Result<(), Fault> {
        let Some((start, p)) = st.pmas.find(page) else { return Ok(()) };
        // A large page comes back as one.
        let around = if self.memory.is_large(p.off + (page - start)) {
            let first = page & !(LARGE_PAGE - 1);
            first..first + LARGE_PAGE
        } else {
            page.saturating_sub(RESTORE_MAX / 2)..page + RESTORE_MAX / 2
        };
        let within = area.clip(start.max(around.start)..p.end.min(around.end));
        let unique = |at: u64| self.memory.is_unique(p.off + (at - start));
        let mut range = page..page + PAGE_SIZE;
        while range.end < within.end && unique(range.end) {
            range.end += PAGE_SIZE;
        }
        while range.start > within.start && unique(range.start - PAGE_SIZE) {
            range.start -= PAGE_SIZE;
        }
        let access = area.flags.access(true);
        st.pmas.update(range.clone(), |_, p| {
            p.writable = true;
            p.access = access;
        });
        if !access.is_empty() {
            let pages = MemRange { offset: p.off + (range.start - start), len: range.end - range.start };
            self.space.map(range.start, pages, access)?;
        }
        Ok(())
    }

    /// Makes all pages of `range` present: for `access`, or for what each area allows when that is `None`. Stops at the
    /// first page that cannot be had; with `None` goes on with the next area, and reports at the end.
    pub(super) fn fill_range(
        &self,
        st: &mut State,
        range: Range<u64>,
        access: Option<Access>,
    ) -> Result<(), Fault> {
        let mut at = range.start;
        let mut result = Ok(());
        while at < range.end {
            let Some(area) = Area::at(st, at) else { return Err(Fault::NotMapped) };
            let want = match access {
                Some(access) => access,
                // Linux's populate_vma_page_range: a private writable page is written at once, so that it need not be
                // copied later; a shared one only read.
                None if area.flags.contains(VmFlags::WRITE) && !area.is_shared() => Access::WRITE,
                None => Access::READ,
            };
            let end = area.range.end.min(range.end);
            // Linux 6.12 mm/gup.c, check_vma_flags: unlike a load, this asks for `READ` itself.
            let denied = access.is_some_and(|a| a == Access::READ && !area.flags.contains(VmFlags::READ));
            let filled = if denied || !allows(area.flags, want) {
                Err(Fault::Denied)
            } else {
                self.fill_area(st, &area, at..end, want.contains(Access::WRITE))
            };
            match filled {
                Ok(()) => {}
                Err(fault @ (Fault::Denied | Fault::Bus)) if access.is_none() => {
                    result = result.and(Err(fault));
                }
                Err(fault) => return Err(fault),
            }
            at = end;
        }
        result
    }

    /// [`MemoryManager::fill_range`] within one area.
    fn fill_area(&self, st: &mut State, area: &Area, range: Range<u64>, write: bool) -> Result<(), Fault> {
        let mut at = range.start;
        while at < range.end {
            match st.pmas.find(at) {
                Some((_, p)) if p.writable || !write => at = p.end,
                Some(_) if area.is_shared() => {
                    self.write_shared(st, area, at)?;
                    at += PAGE_SIZE;
                }
                Some((_, p)) if !p.anon => {
                    let piece = at..p.end.min(range.end).min(at + WINDOW_MAX);
                    self.copy_range(st, area, piece.clone())?;
                    at = piece.end;
                }
                Some(_) => {
                    self.break_cow(st, area, at)?;
                    at += PAGE_SIZE;
                }
                None => {
                    let hole = st.pmas.hole(at, at..range.end);
                    match &area.file {
                        None => {
                            self.fill_anonymous(st, hole.clone(), Use::Dense)?;
                            at = hole.end;
                        }
                        Some((file, _)) => {
                            let piece = hole.start..hole.end.min(at + WINDOW_MAX);
                            let shared = area.flags.contains(VmFlags::SHARED);
                            let dirty = shared && (write || may_dirty(file, area.flags));
                            let show = if write && !area.is_shared() { Show::Later } else { Show::Map };
                            self.fill_from_file(st, area, piece, at, dirty, show)?;
                            // Private pages to be written are found again, as present, and copied.
                            if show == Show::Map {
                                at = st.pmas.find(at).map_or(at + PAGE_SIZE, |(_, p)| p.end);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the pages of `range` present and has the host provide them: `MAP_POPULATE`, mlock(2).
    pub(super) fn populate_locked(
        &self,
        st: &mut State,
        range: Range<u64>,
        access: Option<Access>,
    ) -> Result<(), Fault> {
        let result = self.fill_range(st, range.clone(), access);
        for (start, p) in st.pmas.overlapping(range) {
            // Now, whatever the platform does later: the process may ask what is there.
            self.space.provide(start, p.end - start);
            self.memory.populate(pma::pages(start, &p));
        }
        result
    }

    /// Maps what a private or shared file mapping can have without filling any page.
    pub(super) fn fill_cached(&self, st: &mut State, range: Range<u64>) {
        let Some(area) = Area::at(st, range.start) else { return };
        let Some((file, base)) = &area.file else { return };
        let mut at = range.start;
        while at < range.end {
            let hole = st.pmas.hole(at, at..range.end);
            if hole.start >= hole.end {
                return;
            }
            match file.cached(base + (at - area.range.start), hole.end - at) {
                Some(pages) => {
                    let p = Pma {
                        end: at + pages.len,
                        off: pages.offset,
                        anon: false,
                        writable: false,
                        access: area.flags.access(false),
                    };
                    st.add_pages(at, p);
                    if self.map_piece(at, &p).is_err() {
                        return;
                    }
                    at = p.end;
                }
                None => at = (at & !(WINDOW - 1)) + WINDOW,
            }
        }
    }
}

/// What new anonymous pages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Who knows which of them will be touched.
    Sparse,
    /// They are going to be provided.
    Soon,
    /// They are, and so many that large pages pay.
    Dense,
}

/// Whether pages fetched from a file go to the page tables at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Map,
    /// They are going to be replaced at once.
    Later,
}

/// Whether a read of a shared mapping may fetch pages for writing already, which saves a fault.
fn may_dirty(file: &Arc<dyn Mappable>, flags: VmFlags) -> bool {
    flags.contains(VmFlags::WRITE) && !file.tracks_dirty()
}
