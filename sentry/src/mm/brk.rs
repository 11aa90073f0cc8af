//! brk(2): Linux 6.12 mm/mmap.c, `SYSCALL_DEFINE1(brk)`.

use std::sync::atomic::Ordering;

use base::{PAGE_SIZE, page_up};

use super::vma::{Backing, VmFlags, VmName, Vma};
use super::{MemoryManager, Privileges, State, max_map_count};

/// Heap growth up to this length gets its pages at once: malloc grows by 132 KiB and uses it.
const EAGER: u64 = 256 << 10;

impl MemoryManager {
    /// Sets the end of the heap and returns it; where that is not possible it stays, and is returned.
    pub fn brk(&self, brk: u64) -> u64 {
        let mut trash = Vec::new();
        let mut st = self.state.write();
        if self.move_brk(&mut st, brk, &mut trash).is_some() {
            st.layout.brk = brk;
        }
        st.layout.brk
    }

    fn move_brk(&self, st: &mut State, brk: u64, trash: &mut Vec<Vma>) -> Option<()> {
        let layout = &st.layout;
        if brk < layout.start_brk || layout.start_brk == 0 {
            return None;
        }
        // check_data_rlimit
        let data = (brk - layout.start_brk).checked_add(layout.end_data.saturating_sub(layout.start_data))?;
        if data > self.limits.data.load(Ordering::Relaxed) {
            return None;
        }
        let old = page_up(layout.brk)?;
        let new = page_up(brk)?;
        if new == old {
            return Some(());
        }
        if new < old {
            return self.unmap_checked(st, new..old, trash).ok();
        }
        if new > self.range.end - PAGE_SIZE || old < self.range.start {
            return None;
        }
        if st.vmas.find_from(old).is_some_and(|next| new + PAGE_SIZE > next.start_gap())
            || st.vmas.is_reserved(&(old..new))
        {
            return None;
        }
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAY_ALL | VmFlags::ACCOUNT | st.def_flags;
        if flags.contains(VmFlags::LOCKED) && !self.lock_fits(st, new - old, Privileges::empty())
            || !self.may_expand(st, flags, new - old)
            || st.vmas.count() > max_map_count()
            || self.check_overcommit(new - old).is_err()
        {
            return None;
        }
        st.add_vma(Vma::new(old..new, flags, Backing::Anonymous, VmName::None));
        if flags.contains(VmFlags::LOCKED) {
            let _ = self.populate_locked(st, old..new, None);
        } else if new - old <= EAGER {
            self.fill_eagerly(st, old..new);
        }
        Some(())
    }
}
