//! Patched call sites: a `syscall` that traps often becomes a jump into the [window](platform::window).
//!
//! **Seven bytes**: an instruction of five (`mov $nr,%eax`, or the last load of glibc's `syscall()`) and
//! the `syscall` become `jmp *[slot]`; its sixth byte traps, so a thread that comes to the `syscall` from elsewhere, or
//! was there when the site changed, makes its call all the same ([`MemoryManager::patched_call_at`]). `mov $nr,%rax` has
//! seven bytes of its own, and its `syscall` stays. **Two bytes**: the
//! `syscall` becomes a short jump to seven bytes of padding behind a function, and the long jump goes there.
//!
//! A patch changes a copy of the page, which then takes the page's place: a thread executes the old bytes or the new ones
//! and never a mixture. Only private pages that cannot be written are patched. The process sees the new bytes if it reads
//! its code itself; reads through the sentry show the old ones.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::UserAddr;
use base::lock::{Lock, rank};
use base::memmap::{Access, MemKind, MemRange, Memory};
use base::{PAGE_SIZE, page_down};
use platform::window::{MAX_SITES, MAX_THREADS, SITES_IN_PAGE, Window, Zone, stub};
use platform::{ThreadPage, Trap};

use abi::regs::UserRegs;

use super::pma::Pma;
use super::vma::VmFlags;
use super::{Fault, MemoryManager, State};

mod encode;

use encode::{Encoding, find_encoding};

/// A call site is patched when it traps for this time.
const HOT: u32 = 6;
/// Sites that are counted at once.
const COUNTED: usize = 1024;
/// Calls after which the thread does not go on in the window: execve, exit, exit_group, execveat. Out of there it would
/// have to leave the guest once more.
const ENDS: [u64; 4] = [59, 60, 231, 322];

/// A patched piece of code.
#[derive(Clone, Debug)]
struct Piece {
    original: Vec<u8>,
    /// The address of the system call that traps, for the encoding of seven bytes.
    call: Option<u64>,
    /// The site this belongs to goes without it: padding stays when its site is restored.
    padding: bool,
}

/// Where a stub's site is.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// The first byte of the site.
    start: u64,
    /// The `syscall`.
    call: u64,
}

/// The patches of an address space; part of what its lock guards.
#[derive(Default)]
pub(super) struct Patches {
    /// By address of the first byte.
    pieces: BTreeMap<u64, Piece>,
    /// By number of the stub; never reused.
    sites: Vec<Site>,
    /// The stub of a site that was patched before, by address of the `syscall`.
    stubs: HashMap<u64, usize>,
    /// Pages of slots and stubs, and whether they are this address space's alone.
    pages: Vec<MemRange>,
    /// The code's page is mapped.
    has_code: bool,
    /// Threads' pages: offset in the memory file; the address follows from the index.
    threads: Vec<u64>,
    free_threads: Vec<usize>,
}

/// Sites that were hot already, for a look without the lock.
const SETTLED: usize = 64;

/// Counts how often sites trap.
pub(super) struct Heat {
    counts: Lock<HashMap<u64, u32>, { rank::LEAF }>,
    /// A site in each place, or 0.
    settled: [AtomicU64; SETTLED],
}

impl Default for Heat {
    fn default() -> Self {
        Self { counts: Lock::default(), settled: [const { AtomicU64::new(0) }; SETTLED] }
    }
}

impl Heat {
    /// Counts one more; says whether the site is to be patched now.
    fn is_hot(&self, call: u64) -> bool {
        let place = &self.settled[(call / 2) as usize % SETTLED];
        if place.load(Ordering::Relaxed) == call {
            return false;
        }
        let mut counts = self.counts.lock();
        if counts.len() >= COUNTED && !counts.contains_key(&call) {
            counts.clear();
        }
        let count = counts.entry(call).or_insert(0);
        *count = count.saturating_add(1);
        if *count > HOT {
            place.store(call, Ordering::Relaxed);
        }
        *count == HOT
    }
}

impl Patches {
    /// The pieces that meet `range`.
    fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Piece)> {
        // No piece is longer than seven bytes.
        self.pieces
            .range(range.start.saturating_sub(6)..range.end)
            .map(|(&start, piece)| (start, piece))
            .filter(move |(start, piece)| start + piece.original.len() as u64 > range.start)
    }

    /// Forgets what lies in `range`, whose pages are gone.
    pub(super) fn forget(&mut self, range: Range<u64>) {
        if self.pieces.is_empty() {
            return;
        }
        let gone: Vec<u64> = self.overlapping(range).map(|(start, _)| start).collect();
        for start in gone {
            self.pieces.remove(&start);
        }
    }

    /// Puts the original bytes over what was read at `addr`.
    fn overlay(&self, addr: u64, buf: &mut [u8]) {
        let end = addr.saturating_add(buf.len() as u64);
        for (start, piece) in self.overlapping(addr..end) {
            for (at, byte) in (start..).zip(&piece.original) {
                if let Some(to) = at.checked_sub(addr).and_then(|i| buf.get_mut(i as usize)) {
                    *to = *byte;
                }
            }
        }
    }

    /// Gives the pages' references back.
    pub(super) fn release(&mut self, memory: &dyn Memory) {
        for page in self.pages.drain(..) {
            memory.dec_ref(page);
        }
        for offset in self.threads.drain(..) {
            memory.dec_ref(MemRange { offset, len: PAGE_SIZE });
        }
    }
}

/// What a trap inside the window means.
#[derive(Debug, PartialEq, Eq)]
pub enum InWindow {
    /// This trap, with the registers changed to what they are at the site.
    Trap(Trap),
    /// RIP is at the site again, or behind it; there is nothing to report.
    Resume,
    /// A jump into the window that no site made.
    Stray,
}

impl MemoryManager {
    /// Counts a system call that was trapped at `call`, the address of the instruction, with number `nr`; patches the
    /// site when it is hot.
    pub fn count_call(&self, call: u64, nr: u64) {
        let Some(window) = &self.window else { return };
        if !window.contains(call) && !ENDS.contains(&nr) && self.heat.is_hot(call) {
            let patched = self.patch(window, call, nr);
            log::debug!("mm {}: call site {call:#x}, number {nr}: {patched:?}", self.id);
        }
    }

    /// Whether the window is in use.
    pub fn is_patched(&self) -> bool {
        self.patched.load(Ordering::Relaxed)
    }

    /// Whether an invalid instruction at `rip` is the `syscall` of a patched site.
    pub fn patched_call_at(&self, rip: u64) -> bool {
        self.is_patched()
            && self
                .state
                .read()
                .patches
                .pieces
                .range(..=rip)
                .next_back()
                .is_some_and(|(_, piece)| piece.call == Some(rip))
    }

    fn patch(&self, window: &Arc<Window>, call: u64, nr: u64) -> Result<&'static str, Fault> {
        let page = page_down(call);
        let mut st = self.state.write();
        let Some(flags) = st.vmas.find(call).map(|v| v.flags) else { return Ok("not mapped") };
        if !flags.contains(VmFlags::EXEC) || flags.intersects(VmFlags::WRITE | VmFlags::MAYSHARE) {
            return Ok("writable or shared");
        }
        let Some((start, pma)) = st.pmas.find(page) else { return Ok("no page") };
        let mut bytes = vec![0; PAGE_SIZE as usize];
        self.memory.read(pma.off + (page - start), &mut bytes);
        let at = (call - page) as usize;
        let is_patched = |range: Range<usize>| {
            st.patches.overlapping(page + range.start as u64..page + range.end as u64).next().is_some()
        };
        let Some(encoding) = find_encoding(&bytes, at, nr, is_patched) else { return Ok("no encoding") };
        let index = match st.patches.stubs.get(&call) {
            Some(&index) => index,
            None if st.patches.sites.len() < MAX_SITES => st.patches.sites.len(),
            None => return Ok("too many sites"),
        };
        let (displaced, number) = encoding.displaced(&bytes, at);
        let site_start = page + encoding.start(at) as u64;
        self.add_site(window, &mut st, index, Site { start: site_start, call }, displaced, number)?;
        let jump = window.jump(index);
        let mut pieces = Vec::new();
        match encoding {
            Encoding::Seven { .. } => pieces.push((at - 5, jump.to_vec(), Some(call), false)),
            Encoding::Nine { .. } => pieces.push((at - 7, jump.to_vec(), None, false)),
            Encoding::Two { padding } => {
                let offset = (padding as i64 - (at as i64 + 2)) as i8;
                pieces.push((at, vec![0xeb, offset.cast_unsigned()], None, false));
                pieces.push((padding, jump.to_vec(), None, true));
            }
        }
        for (at, new, call, padding) in pieces {
            let old = &mut bytes[at..at + new.len()];
            let original = old.to_vec();
            old.copy_from_slice(&new);
            st.patches.pieces.insert(page + at as u64, Piece { original, call, padding });
        }
        self.replace_page(&mut st, page, &bytes)?;
        self.patched.store(true, Ordering::Relaxed);
        window.counts.sites.fetch_add(1, Ordering::Relaxed);
        Ok("patched")
    }

    /// Puts a page with `bytes` in the place of the one at `page`, which is present.
    fn replace_page(&self, st: &mut State, page: u64, bytes: &[u8]) -> Result<(), Fault> {
        let Some(flags) = st.vmas.find(page).map(|v| v.flags) else { return Ok(()) };
        let new = self.pages_for_copies(PAGE_SIZE)?;
        self.memory.write(new.offset, bytes);
        let old = st.pmas.remove(page..page + PAGE_SIZE);
        let pma = Pma {
            end: page + PAGE_SIZE,
            off: new.offset,
            anon: true,
            writable: true,
            access: flags.access(true),
        };
        st.add_pages(page, pma);
        let result = self.map_piece(page, &pma);
        if result.is_err() {
            self.space.unmap(page, PAGE_SIZE);
        }
        self.drop_refs(&old);
        result
    }

    /// Writes slot and stub of a site.
    fn add_site(
        &self,
        window: &Arc<Window>,
        st: &mut State,
        index: usize,
        site: Site,
        displaced: [u8; 5],
        number: Option<u32>,
    ) -> Result<(), Fault> {
        let patches = &mut st.patches;
        if !patches.has_code {
            let (addr, page) = window.code_page();
            self.space.map(addr, page, Access::READ | Access::EXEC)?;
            patches.has_code = true;
        }
        let page_index = index / SITES_IN_PAGE;
        let allocate =
            || self.memory.allocate(PAGE_SIZE, PAGE_SIZE, MemKind::Anonymous).map_err(|_| Fault::OutOfMemory);
        let addr = window.site_page(page_index);
        match patches.pages.get_mut(page_index) {
            None => {
                let page = allocate()?;
                patches.pages.push(page);
                self.space.map(addr, page, Access::READ | Access::EXEC)?;
            }
            // After a fork both sides use the page; each adds sites of its own.
            Some(page) if !self.memory.is_unique(page.offset) => {
                let copy = allocate()?;
                self.memory.copy(page.offset, copy.offset, PAGE_SIZE);
                let old = std::mem::replace(page, copy);
                let result = self.space.map(addr, copy, Access::READ | Access::EXEC);
                self.memory.dec_ref(old);
                result?;
            }
            Some(_) => {}
        }
        let page = patches.pages[page_index];
        let ((slot_at, slot), (stub_at, stub)) = window.site(index, displaced, number, site.call + 2);
        self.memory.write(page.offset + stub_at, &stub);
        self.memory.write(page.offset + slot_at, &slot);
        match patches.sites.get_mut(index) {
            Some(old) => *old = site,
            None => patches.sites.push(site),
        }
        patches.stubs.insert(site.call, index);
        Ok(())
    }

    /// Brings the original bytes back in the pages of `range`: they are about to become writable, to move, or to be
    /// written by force. What is left is padding, which threads may be about to execute and nobody else does.
    pub(super) fn restore_sites(&self, st: &mut State, range: Range<u64>) {
        if st.patches.pieces.is_empty() {
            return;
        }
        let pages = page_down(range.start)..range.end;
        let mut found: Vec<u64> =
            st.patches.overlapping(pages).filter(|(_, p)| !p.padding).map(|(start, _)| start).collect();
        found.sort_unstable();
        for sites in found.chunk_by(|a, b| page_down(*a) == page_down(*b)) {
            let page = page_down(sites[0]);
            let Some((start, pma)) = st.pmas.find(page) else { continue };
            let mut bytes = vec![0; PAGE_SIZE as usize];
            self.memory.read(pma.off + (page - start), &mut bytes);
            for site in sites {
                let Some(piece) = st.patches.pieces.remove(site) else { continue };
                let at = (site - page) as usize;
                bytes[at..at + piece.original.len()].copy_from_slice(&piece.original);
            }
            if self.replace_page(st, page, &bytes).is_err() {
                // Without memory the page goes; a file's comes back from the file.
                self.drop_pages(st, page..page + PAGE_SIZE);
            }
        }
    }

    /// Puts the original bytes over patched ones that were read at `addr`.
    pub(super) fn show_original(&self, addr: UserAddr, buf: &mut [u8]) {
        if self.is_patched() {
            self.state.read().patches.overlay(addr.raw(), buf);
        }
    }

    /// Gives a child, which has the pages already, the patches.
    pub(super) fn fork_patches(&self, st: &State, child: &Self, to: &mut State) -> Result<(), Fault> {
        let Some(window) = self.window.as_ref().filter(|_| !st.patches.sites.is_empty()) else {
            return Ok(());
        };
        let mine = &st.patches;
        let (addr, code) = window.code_page();
        let rx = Access::READ | Access::EXEC;
        child.space.map(addr, code, rx)?;
        to.patches.has_code = true;
        for (i, page) in mine.pages.iter().enumerate() {
            self.memory.inc_ref(*page);
            to.patches.pages.push(*page);
            child.space.map(window.site_page(i), *page, rx)?;
        }
        let is_there = |start: u64| to.pmas.find(start).is_some();
        to.patches.pieces =
            mine.pieces.iter().filter(|(start, _)| is_there(**start)).map(|(s, p)| (*s, p.clone())).collect();
        to.patches.sites.clone_from(&mine.sites);
        to.patches.stubs.clone_from(&mine.stubs);
        child.patched.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A thread's page, closed and without answers; `None` when there is no window or no memory.
    pub fn take_thread_page(&self) -> Option<ThreadPage> {
        let window = self.window.as_ref()?;
        let mut st = self.state.write();
        let patches = &mut st.patches;
        if let Some(index) = patches.free_threads.pop() {
            let offset = *patches.threads.get(index)?;
            return Some(ThreadPage { addr: window.thread_page(index), offset });
        }
        let index = patches.threads.len();
        if index >= MAX_THREADS {
            return None;
        }
        let page = self.memory.allocate(PAGE_SIZE, PAGE_SIZE, MemKind::Anonymous).ok()?;
        let addr = window.thread_page(index);
        if let Err(e) = self.space.map(addr, page, Access::READ | Access::WRITE) {
            log::warn!("mm: a thread's page: {e}");
            self.memory.dec_ref(page);
            return None;
        }
        patches.threads.push(page.offset);
        Some(ThreadPage { addr, offset: page.offset })
    }

    /// Takes a thread's page back.
    pub fn give_thread_page(&self, page: ThreadPage) {
        self.memory.zero(MemRange { offset: page.offset, len: PAGE_SIZE });
        let mut st = self.state.write();
        if let Some(index) = st.patches.threads.iter().position(|&offset| offset == page.offset) {
            st.patches.free_threads.push(index);
        }
    }

    /// What `trap` with RIP in the window means; `None`: RIP is elsewhere.
    pub fn in_window(&self, trap: Trap, regs: &mut UserRegs) -> Option<InWindow> {
        let window = self.window.as_ref().filter(|w| w.contains(regs.rip))?;
        let (index, before) = match window.stub_at(regs.rip) {
            Some(at) => (at.index, Some(at.offset)),
            None => {
                let zone = window.zone(regs.rip);
                let base = window.stub(0) + stub::RETURN;
                let Some(at) = window.stub_at(regs.r11).filter(|_| regs.r11 >= base) else {
                    return Some(InWindow::Stray);
                };
                if at.offset != stub::RETURN {
                    return Some(InWindow::Stray);
                }
                match zone {
                    // The platform has put RSP and RFLAGS right.
                    Some(Zone::Before | Zone::Borrowed | Zone::Saved) => (at.index, Some(stub::SYSCALL)),
                    Some(Zone::Answered) => (at.index, None),
                    _ => return Some(InWindow::Stray),
                }
            }
        };
        let st = self.state.read();
        let Some(site) = st.patches.sites.get(index).copied() else { return Some(InWindow::Stray) };
        drop(st);
        let stepped = trap == (Trap::Exception { vector: 1, code: 0 });
        Some(match (trap, before) {
            (Trap::Syscall, Some(stub::BEHIND)) => {
                regs.rip = site.call + 2;
                regs.rcx = regs.rip;
                InWindow::Trap(trap)
            }
            (_, None) => {
                regs.rip = site.call + 2;
                InWindow::Trap(trap)
            }
            // Single steps end behind the site.
            (_, Some(_)) if stepped => InWindow::Resume,
            (Trap::Interrupted, Some(offset)) if offset <= stub::DISPLACED => {
                regs.rip = site.start;
                InWindow::Trap(trap)
            }
            (Trap::Interrupted, Some(_)) => {
                regs.rip = site.call;
                InWindow::Trap(trap)
            }
            // The window's instructions fault only where the processor lacks one of them: the call is made from here.
            (Trap::Exception { .. } | Trap::Fault { .. }, Some(offset)) if offset > stub::DISPLACED => {
                regs.rip = site.call + 2;
                InWindow::Trap(Trap::Syscall)
            }
            (Trap::Fault { .. } | Trap::Exception { .. }, Some(stub::DISPLACED)) => {
                regs.rip = site.start;
                InWindow::Trap(trap)
            }
            _ => InWindow::Stray,
        })
    }
}
