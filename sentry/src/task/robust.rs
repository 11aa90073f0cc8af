//! Robust futexes: locks whose owner ends while it holds them (Linux kernel/futex/core.c, `exit_robust_list`).

use std::sync::atomic::Ordering;

use abi::UserAddr;

use super::Ctx;
use crate::mm::FutexScope;

pub(super) const FUTEX_WAITERS: u32 = 0x8000_0000;
pub(super) const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
pub(super) const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// Entries looked at, so that a circle ends (`ROBUST_LIST_LIMIT`).
const LIMIT: usize = 2048;

impl Ctx<'_> {
    /// Marks the locks on the thread's robust list as left by their owner.
    pub(super) fn exit_robust_list(&mut self) {
        let head = self.task.robust_list.swap(0, Ordering::Relaxed);
        if head == 0 {
            return;
        }
        // struct robust_list_head { next; long futex_offset; list_op_pending; }; bit 0 of a pointer: a PI futex.
        let Ok([next, offset, pending]) = self.mm.read_value::<[u64; 3]>(UserAddr(head)) else { return };
        let mut entry = next;
        for _ in 0..LIMIT {
            if entry & !1 == head {
                break;
            }
            // The entry is freed once the waiter goes on, so the next one is read first.
            let following = self.mm.read_value::<u64>(UserAddr(entry & !1));
            if entry & !1 != pending & !1
                && !self.futex_death((entry & !1).wrapping_add(offset), entry & 1 != 0, false)
            {
                return;
            }
            match following {
                Ok(f) => entry = f,
                Err(_) => return,
            }
        }
        if pending & !1 != 0 {
            self.futex_death((pending & !1).wrapping_add(offset), pending & 1 != 0, true);
        }
    }

    /// Marks one lock; false when its memory is bad.
    fn futex_death(&self, addr: u64, is_pi: bool, is_pending: bool) -> bool {
        let addr = UserAddr(addr);
        let Ok(mut value) = self.mm.load_u32(addr) else { return false };
        loop {
            if is_pending && !is_pi && value == 0 {
                self.wake_one(addr);
                return true;
            }
            if value & FUTEX_TID_MASK != self.task.shown_tid as u32 {
                return true;
            }
            let new = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
            match self.mm.compare_exchange_u32(addr, value, new) {
                Ok(seen) if seen == value => break,
                Ok(seen) => value = seen,
                Err(_) => return false,
            }
        }
        if value & FUTEX_WAITERS != 0 && !is_pi {
            self.wake_one(addr);
        }
        true
    }

    fn wake_one(&self, addr: UserAddr) {
        if let Ok(key) = self.mm.futex_key(addr, FutexScope::Shared) {
            self.task.kernel.futexes.wake(&key, 1, u32::MAX);
        }
    }
}
