//! mlock(2), mlock2(2), munlock(2), mlockall(2), munlockall(2): Linux 6.12 mm/mlock.c. Guest memory is never swapped by
//! the sentry, so to lock pages is to make them present and to count them.

use std::ops::Range;
use std::sync::atomic::Ordering;

use abi::errno::{EAGAIN, EINVAL, ENOMEM, EPERM};
use abi::mman::{LockAllFlags, MLOCK_ONFAULT};
use abi::{Errno, UserAddr};
use base::{PAGE_SIZE, page_down, page_up};

use super::vma::VmFlags;
use super::{Fault, MemoryManager, Privileges, State, max_map_count};

impl MemoryManager {
    /// Whether any memory may be locked at all.
    pub(super) fn may_lock(&self, privileges: Privileges) -> bool {
        privileges.contains(Privileges::IPC_LOCK) || self.limits.memlock.load(Ordering::Relaxed) != 0
    }

    /// Whether `len` more bytes may be locked.
    pub(super) fn lock_fits(&self, st: &State, len: u64, privileges: Privileges) -> bool {
        privileges.contains(Privileges::IPC_LOCK)
            || st.vmas.sizes().locked.saturating_add(len)
                <= page_down(self.limits.memlock.load(Ordering::Relaxed))
    }

    /// Locks the pages that `addr..addr + len` touches; `flags` are mlock2(2)'s.
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: unknown flags.
    /// - `EPERM`: the limit is 0.
    /// - `ENOMEM`: over the limit.
    /// - `EINVAL`: the range overflows.
    /// - `ENOMEM`: something in the range is not mapped, or cannot be read.
    /// - `EAGAIN`: no memory for all pages.
    pub fn lock(&self, addr: u64, len: u64, flags: u64, privileges: Privileges) -> Result<(), Errno> {
        let lock = match flags {
            0 => VmFlags::LOCKED,
            MLOCK_ONFAULT => VmFlags::LOCKED_MASK,
            _ => return Err(EINVAL),
        };
        if !self.may_lock(privileges) {
            return Err(EPERM);
        }
        let start = page_down(addr);
        let len = len.checked_add(addr - start).and_then(page_up).unwrap_or(0);
        let mut st = self.state.write();
        if !self.lock_fits(&st, len, privileges) {
            let range = start..start.saturating_add(len);
            let already: u64 = st
                .vmas
                .overlapping(range.clone())
                .filter(|v| v.flags.contains(VmFlags::LOCKED))
                .map(|v| v.end.min(range.end) - v.start.max(range.start))
                .sum();
            if !self.lock_fits(&st, len - already, privileges) {
                return Err(ENOMEM);
            }
        }
        let range = self.set_lock(&mut st, start, len, lock)?;
        if lock.contains(VmFlags::LOCKONFAULT) {
            return Ok(());
        }
        self.populate_locked(&mut st, range, None).map_err(|fault| match fault {
            Fault::OutOfMemory => EAGAIN,
            _ => ENOMEM,
        })
    }

    /// Unlocks the pages that `addr..addr + len` touches.
    ///
    /// # Errors
    /// `EINVAL`: the range overflows. `ENOMEM`: something in it is not mapped.
    pub fn unlock(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let start = page_down(addr);
        let len = len.checked_add(addr - start).and_then(page_up).unwrap_or(0);
        self.set_lock(&mut self.state.write(), start, len, VmFlags::empty()).map(|_| ())
    }

    /// Linux's `apply_vma_lock_flags`: areas up to a hole are changed.
    fn set_lock(&self, st: &mut State, start: u64, len: u64, lock: VmFlags) -> Result<Range<u64>, Errno> {
        let end = start.checked_add(len).ok_or(EINVAL)?;
        let mut at = start;
        while at < end {
            let vma = st.vmas.find(at).ok_or(ENOMEM)?;
            let piece = at..vma.end.min(end);
            if vma.flags & VmFlags::LOCKED_MASK != lock {
                if st.vmas.count() + st.vmas.splits_needed(&piece) > max_map_count() {
                    return Err(ENOMEM);
                }
                st.vmas.update(piece.clone(), |v| v.flags = (v.flags - VmFlags::LOCKED_MASK) | lock);
            }
            at = piece.end;
        }
        Ok(start..end)
    }

    /// Locks everything mapped now, or later, or both.
    ///
    /// # Errors
    /// In the order checked: `EINVAL` for bad flags, `EPERM` when the limit is 0, `ENOMEM` over the limit.
    pub fn lock_all(&self, flags: u64, privileges: Privileges) -> Result<(), Errno> {
        let flags = LockAllFlags::from_bits(flags).ok_or(EINVAL)?;
        if flags.is_empty() || flags == LockAllFlags::ONFAULT {
            return Err(EINVAL);
        }
        if !self.may_lock(privileges) {
            return Err(EPERM);
        }
        let mut lock = VmFlags::LOCKED;
        if flags.contains(LockAllFlags::ONFAULT) {
            lock |= VmFlags::LOCKONFAULT;
        }
        let mut st = self.state.write();
        let current = flags.contains(LockAllFlags::CURRENT);
        let limit = self.limits.memlock.load(Ordering::Relaxed);
        if current && st.vmas.sizes().total > limit && !privileges.contains(Privileges::IPC_LOCK) {
            return Err(ENOMEM);
        }
        st.def_flags = if flags.contains(LockAllFlags::FUTURE) { lock } else { VmFlags::empty() };
        if !current {
            return Ok(());
        }
        let areas: Vec<Range<u64>> = st.vmas.iter().map(|v| v.start..v.end).collect();
        st.vmas.update(0..self.range.end, |v| v.flags = (v.flags - VmFlags::LOCKED_MASK) | lock);
        if !lock.contains(VmFlags::LOCKONFAULT) {
            for area in areas {
                // mlockall ignores what cannot be had.
                let _ = self.populate_locked(&mut st, area, None);
            }
        }
        Ok(())
    }

    /// Unlocks everything, now and later.
    pub fn unlock_all(&self) {
        let mut st = self.state.write();
        st.def_flags = VmFlags::empty();
        st.vmas.update(0..self.range.end, |v| v.flags -= VmFlags::LOCKED_MASK);
    }

    /// Stores in `vec`, for each page of `addr..addr + len`, a byte that is 1 if the page is present, else 0: mincore(2).
    ///
    /// # Errors
    /// In the order checked:
    /// - `EINVAL`: `addr` is not a multiple of the page size.
    /// - `ENOMEM`: the range is not a user's.
    /// - `EFAULT`: `vec` is not a user's.
    /// - `ENOMEM`: a part of the range is not mapped; what lies before was answered.
    /// - `EFAULT`: `vec` cannot be written.
    pub fn in_core(&self, addr: u64, len: u64, vec: UserAddr) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(EINVAL);
        }
        self.check_range(UserAddr(addr), len).map_err(|_| ENOMEM)?;
        let end = page_up(addr + len).ok_or(ENOMEM)?;
        self.check_range(vec, (end - addr) / PAGE_SIZE)?;
        // A page of answers at a time, so that the guest does not choose how much we allocate.
        let (mut at, mut vec) = (addr, vec);
        while at < end {
            let stop = end.min(at + PAGE_SIZE * PAGE_SIZE);
            let (answers, hole) = self.in_core_piece(at..stop);
            self.write_all(vec, &answers)?;
            if hole {
                return Err(ENOMEM);
            }
            at = stop;
            vec = vec.saturating_add(answers.len() as u64);
        }
        Ok(())
    }

    /// The answers up to the first hole, and whether there is one.
    fn in_core_piece(&self, range: Range<u64>) -> (Vec<u8>, bool) {
        let st = self.state.read();
        let mut covered = range.start;
        for v in st.vmas.overlapping(range.clone()) {
            if v.start > covered {
                break;
            }
            covered = v.end.min(range.end);
        }
        let page = |at: u64| ((at - range.start) / PAGE_SIZE) as usize;
        let mut present = vec![0; page(covered)];
        for (start, p) in st.pmas.overlapping(range.start..covered) {
            let answers = &mut present[page(start)..page(p.end)];
            if p.anon { self.memory.provided(p.off, answers) } else { answers.fill(1) }
        }
        (present, covered < range.end)
    }
}
