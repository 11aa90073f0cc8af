//! madvise(2) and msync(2): Linux 6.12 mm/madvise.c, mm/msync.c.

use std::ops::Range;

use abi::Errno;
use abi::errno::{EACCES, EBADF, EBUSY, EFAULT, EINVAL, ENOMEM, EPERM};
use abi::mman::{SyncFlags, advice};
use base::memmap::{Access, LARGE_PAGE, MappedFile, MemRange};
use base::{PAGE_SIZE, page_up};

use super::pma;
use super::vma::{Backing, VmFlags, VmName};
use super::{Fault, MemoryManager, State, max_map_count};

/// Up to this length, pages that are given back keep their translations: the next touch costs no trap, but tens of
/// microseconds for each page, so that for more pages a fault that provides a window is cheaper.
const KEEP_MAPPED: u64 = 16 << 10;
/// How far `WILLNEED` reads ahead.
const READ_AHEAD: u64 = 1 << 20;

/// What an advice does to one area.
enum Act {
    Nothing,
    SetFlags { clear: VmFlags, set: VmFlags },
    Drop,
    Remove,
    ReadAhead,
    Populate(Access),
    Guard,
}

impl MemoryManager {
    /// Takes advice about the use of `addr..addr + len`. Areas beside holes are advised all the same.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: an unknown advice, `addr` not a multiple of the page size, or a range that overflows.
    /// - `EINVAL`: the advice does not suit an area (locked, a file, shared, not accessible).
    /// - `EACCES`: `REMOVE` for an area that cannot be shared and writable.
    /// - `EFAULT`: `POPULATE_READ`, `POPULATE_WRITE`: a page would give a signal.
    /// - `EOPNOTSUPP`: `REMOVE` for a file that cannot have holes.
    /// - `ENOMEM`: something in the range is not mapped, or no memory.
    pub fn advise(&self, addr: u64, len: u64, advice: u64) -> Result<(), Errno> {
        if !is_known(advice) || !addr.is_multiple_of(PAGE_SIZE) {
            return Err(EINVAL);
        }
        let len = page_up(len).ok_or(EINVAL)?;
        let end = addr.checked_add(len).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        // Files are called after the lock.
        let mut punch: Vec<(MappedFile, Range<u64>)> = Vec::new();
        let mut result = Ok(());
        {
            let mut st = self.state.write();
            let st = &mut *st;
            let mut at = addr;
            while at < end {
                let Some(vma) = st.vmas.find_from(at).filter(|v| v.start < end) else {
                    result = Err(ENOMEM);
                    break;
                };
                if vma.start > at {
                    result = Err(ENOMEM);
                    if matches!(advice, advice::POPULATE_READ | advice::POPULATE_WRITE) {
                        break;
                    }
                }
                let piece = vma.start.max(at)..vma.end.min(end);
                at = piece.end;
                if let Err(e) = self.advise_area(st, piece, advice, &mut punch) {
                    result = Err(e);
                    break;
                }
            }
        }
        for (file, range) in punch {
            file.pages.punch_hole(range)?;
        }
        result
    }

    fn advise_area(
        &self,
        st: &mut State,
        piece: Range<u64>,
        advice: u64,
        punch: &mut Vec<(MappedFile, Range<u64>)>,
    ) -> Result<(), Errno> {
        let Some(vma) = st.vmas.find(piece.start) else { return Err(ENOMEM) };
        let flags = vma.flags;
        let anonymous = vma.is_anonymous();
        let locked = flags.contains(VmFlags::LOCKED);
        if flags.contains(VmFlags::SEALED)
            && discards(advice)
            && !flags.intersects(VmFlags::SHARED | VmFlags::WRITE)
        {
            return Err(EPERM);
        }
        let change = |clear: VmFlags, set: VmFlags| Ok(Act::SetFlags { clear, set });
        let refused = |yes: bool, act: Act| if yes { Err(EINVAL) } else { Ok(act) };
        let reads = VmFlags::SEQ_READ | VmFlags::RAND_READ;
        let none = VmFlags::empty();
        let act = match advice {
            advice::NORMAL => change(reads, none),
            advice::RANDOM => change(reads, VmFlags::RAND_READ),
            advice::SEQUENTIAL => change(reads, VmFlags::SEQ_READ),
            advice::WILLNEED => Ok(Act::ReadAhead),
            advice::DONTNEED => refused(locked, Act::Drop),
            advice::DONTNEED_LOCKED => Ok(Act::Drop),
            advice::FREE => refused(locked || !anonymous, Act::Drop),
            advice::REMOVE => refused(locked || anonymous, Act::Remove),
            advice::DONTFORK => change(none, VmFlags::DONTCOPY),
            advice::DOFORK => change(VmFlags::DONTCOPY, none),
            advice::WIPEONFORK if !anonymous => Err(EINVAL),
            advice::WIPEONFORK => change(none, VmFlags::WIPEONFORK),
            advice::KEEPONFORK => change(VmFlags::WIPEONFORK, none),
            // What is shared cannot be merged: no flag, and no error.
            advice::MERGEABLE if flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) => Ok(Act::Nothing),
            advice::MERGEABLE => change(none, VmFlags::MERGEABLE),
            advice::UNMERGEABLE => change(VmFlags::MERGEABLE, none),
            advice::HUGEPAGE => change(VmFlags::NOHUGEPAGE, VmFlags::HUGEPAGE),
            advice::NOHUGEPAGE => change(VmFlags::HUGEPAGE, VmFlags::NOHUGEPAGE),
            advice::DONTDUMP => change(none, VmFlags::DONTDUMP),
            advice::DODUMP => change(VmFlags::DONTDUMP, none),
            advice::COLD | advice::PAGEOUT => refused(locked, Act::Nothing),
            advice::GUARD_INSTALL => refused(locked || matches!(vma.name, VmName::Special(_)), Act::Guard),
            advice::GUARD_REMOVE => refused(matches!(vma.name, VmName::Special(_)), Act::Nothing)
                .and(change(VmFlags::GUARD, none)),
            advice::POPULATE_READ | advice::POPULATE_WRITE if flags.contains(VmFlags::GUARD) => Err(EFAULT),
            advice::POPULATE_READ => Ok(Act::Populate(Access::READ)),
            advice::POPULATE_WRITE => Ok(Act::Populate(Access::WRITE)),
            _ => Err(EINVAL),
        }?;
        match act {
            Act::Nothing => Ok(()),
            Act::SetFlags { clear, set } => {
                if (flags - clear) | set == flags {
                    return Ok(());
                }
                if st.vmas.count() + st.vmas.splits_needed(&piece) > max_map_count() {
                    return Err(ENOMEM);
                }
                st.vmas.update(piece, |v| v.flags = (v.flags - clear) | set);
                Ok(())
            }
            Act::Drop => {
                self.give_back(st, piece);
                Ok(())
            }
            Act::Guard => {
                if st.vmas.count() + st.vmas.splits_needed(&piece) > max_map_count() {
                    return Err(ENOMEM);
                }
                self.drop_pages(st, piece.clone());
                st.vmas.update(piece, |v| v.flags |= VmFlags::GUARD);
                Ok(())
            }
            Act::Remove => {
                if !flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
                    return Err(EACCES);
                }
                if let Backing::File { file, .. } = &vma.backing {
                    punch.push((file.clone(), vma.file_offset(piece.start)..vma.file_offset(piece.end)));
                }
                Ok(())
            }
            Act::ReadAhead => {
                if !anonymous && flags.intersects(VmFlags::ACCESS) {
                    // Only advice: what cannot be read shows when it is touched.
                    let end = piece.end.min(piece.start + READ_AHEAD);
                    let _ = self.fill_range(st, piece.start..end, Some(Access::READ));
                }
                Ok(())
            }
            Act::Populate(access) => {
                self.populate_locked(st, piece, Some(access)).map_err(|fault| match fault {
                    Fault::Denied => EINVAL,
                    Fault::OutOfMemory | Fault::NotMapped => ENOMEM,
                    Fault::Bus | Fault::Platform(_) => EFAULT,
                })
            }
        }
    }

    /// Gives the pages of `range` back: anonymous memory reads as zeros, files are read again.
    fn give_back(&self, st: &mut State, range: Range<u64>) {
        let pieces: Vec<_> = st.pmas.overlapping(range).collect();
        for (start, p) in pieces {
            let own = p.anon && p.writable && st.vmas.find(start).is_some_and(|v| v.is_anonymous());
            let pages = pma::pages(start, &p);
            // What stays mapped.
            let (head, tail) = if own && pages.len <= KEEP_MAPPED {
                (pages.len, 0)
            } else if own && self.memory.is_large(p.off) {
                // To unmap a part of a large page would split it, which is dearer still.
                let head = p.off.next_multiple_of(LARGE_PAGE) - p.off;
                (head.min(pages.len), pages.end() % LARGE_PAGE)
            } else {
                (0, 0)
            };
            if head > 0 {
                self.memory.discard(MemRange { len: head, ..pages });
            }
            if head < pages.len && tail > 0 {
                self.memory.discard(MemRange { offset: pages.end() - tail, len: tail });
            }
            if head + tail < pages.len {
                self.drop_pages(st, start + head..p.end - tail);
            }
        }
    }

    /// Names the anonymous areas in `addr..addr + len` for /proc, or takes their names away: prctl(2)
    /// `PR_SET_VMA_ANON_NAME`. The caller checked the characters.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: `addr` is not a multiple of the page size, or the range overflows.
    /// - `EBADF`: an area is not anonymous.
    /// - `ENOMEM`: something in the range is not mapped, or too many mappings.
    pub fn set_anon_name(&self, addr: u64, len: u64, name: Option<&[u8]>) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(EINVAL);
        }
        let end = page_up(len).and_then(|len| addr.checked_add(len)).ok_or(EINVAL)?;
        let name = name.map_or(VmName::None, |name| VmName::Anon(name.into()));
        let mut st = self.state.write();
        let areas: Vec<(Range<u64>, bool)> = st
            .vmas
            .overlapping(addr..end)
            .map(|v| (v.start.max(addr)..v.end.min(end), v.is_anonymous()))
            .collect();
        let hole = !st.vmas.covers(addr..end);
        for (range, anonymous) in areas {
            if !anonymous {
                return Err(EBADF);
            }
            if st.vmas.count() + st.vmas.splits_needed(&range) > max_map_count() {
                return Err(ENOMEM);
            }
            st.vmas.update(range, |v| v.name = name.clone());
        }
        if hole { Err(ENOMEM) } else { Ok(()) }
    }

    /// Writes the changes of shared file mappings in `addr..addr + len` back: msync(2).
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: bad flags, or `addr` not a multiple of the page size.
    /// - `ENOMEM`: the range overflows.
    /// - `EBUSY`: `INVALIDATE` for a locked area.
    /// - What the file gives.
    /// - `ENOMEM`: something in the range is not mapped; the rest was written.
    pub fn sync(&self, addr: u64, len: u64, flags: u64) -> Result<(), Errno> {
        let flags = SyncFlags::from_bits(flags).ok_or(EINVAL)?;
        if !addr.is_multiple_of(PAGE_SIZE) || flags.contains(SyncFlags::ASYNC | SyncFlags::SYNC) {
            return Err(EINVAL);
        }
        // A length that overflows when rounded is 0 for Linux.
        let end = addr.checked_add(page_up(len).unwrap_or(0)).ok_or(ENOMEM)?;
        let mut hole = false;
        let mut files: Vec<(MappedFile, Range<u64>)> = Vec::new();
        let mut busy = false;
        {
            let st = self.state.read();
            let mut at = addr;
            for vma in st.vmas.overlapping(addr..end) {
                hole |= vma.start > at;
                at = vma.end;
                if flags.contains(SyncFlags::INVALIDATE) && vma.flags.contains(VmFlags::LOCKED) {
                    busy = true;
                    break;
                }
                if let Backing::File { file, .. } = &vma.backing
                    && flags.contains(SyncFlags::SYNC)
                    && vma.flags.contains(VmFlags::SHARED)
                {
                    let from = vma.file_offset(vma.start.max(addr));
                    let to = vma.file_offset(vma.end.min(end));
                    files.push((file.clone(), from..to));
                }
            }
            hole |= at < end;
        }
        for (file, range) in files {
            file.pages.sync(range)?;
        }
        if busy {
            return Err(EBUSY);
        }
        if hole { Err(ENOMEM) } else { Ok(()) }
    }
}

/// Linux's `madvise_behavior_valid`, less what needs memory failures or huge page collapse.
fn is_known(advice: u64) -> bool {
    matches!(
        advice,
        advice::NORMAL
            | advice::RANDOM
            | advice::SEQUENTIAL
            | advice::WILLNEED
            | advice::DONTNEED
            | advice::DONTNEED_LOCKED
            | advice::FREE
            | advice::REMOVE
            | advice::DONTFORK
            | advice::DOFORK
            | advice::WIPEONFORK
            | advice::KEEPONFORK
            | advice::HUGEPAGE
            | advice::MERGEABLE
            | advice::UNMERGEABLE
            | advice::NOHUGEPAGE
            | advice::DONTDUMP
            | advice::DODUMP
            | advice::COLD
            | advice::PAGEOUT
            | advice::POPULATE_READ
            | advice::POPULATE_WRITE
            | advice::GUARD_INSTALL
            | advice::GUARD_REMOVE
    )
}

/// What destroys contents, as mseal(2) sees it (`is_discard`).
fn discards(advice: u64) -> bool {
    matches!(
        advice,
        advice::DONTNEED
            | advice::DONTNEED_LOCKED
            | advice::FREE
            | advice::REMOVE
            | advice::DONTFORK
            | advice::WIPEONFORK
            | advice::GUARD_INSTALL
    )
}
