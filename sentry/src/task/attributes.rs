//! What a thread keeps for prctl(2), sched(7), personality(2) and nice(2).

use std::sync::Arc;

use base::cred::Credentials;
use host::system::{CpuMask, MAX_CPUS};

use super::{Ctx, Task};
use crate::mm::policy::Policy;

/// `SCHED_DEADLINE` of sched(7).
pub const SCHED_DEADLINE: u32 = 6;
/// `SCHED_OTHER` of sched(7).
pub const SCHED_OTHER: u32 = 0;

/// `struct sched_attr`'s fields for `SCHED_DEADLINE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "sched_setattr(2) explains each")]
pub struct Deadline {
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// `SCHED_FLAG_RECLAIM` and `SCHED_FLAG_DL_OVERRUN`.
    pub flags: u64,
}

impl Deadline {
    /// The share of a processor that is asked for, in units of 2^-20 (`to_ratio`).
    pub fn bandwidth(&self) -> u64 {
        let ratio = (u128::from(self.runtime) << 20).checked_div(self.period.into()).unwrap_or(0);
        u64::try_from(ratio).unwrap_or(u64::MAX)
    }
}

/// How a thread is to be scheduled. It is kept and shown; the host schedules as it sees fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// The nice value, -20 to 19.
    pub nice: i32,
    /// The real-time priority; 0 for other policies.
    pub priority: u32,
    /// `SCHED_RESET_ON_FORK`.
    pub reset_on_fork: bool,
    /// Of `SCHED_DEADLINE`.
    pub deadline: Deadline,
}

/// Attributes of a thread that a new one inherits from its maker.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `PR_SET_TIMERSLACK`, ns.
    pub timer_slack_ns: u64,
    /// What `PR_SET_TIMERSLACK` 0 goes back to: the maker's.
    pub default_timer_slack_ns: u64,
    /// personality(2).
    pub personality: u32,
    /// sched(7).
    pub scheduling: Scheduling,
    /// The processors that the thread may use.
    pub cpus: CpuMask,
    /// ioprio_set(2); 0 where it was not set.
    pub io_priority: u32,
    /// set_mempolicy(2).
    pub policy: Option<Policy>,
}

impl Attributes {
    /// Those of the first task.
    pub fn new(cpus: CpuMask) -> Self {
        Self {
            no_new_privs: false,
            timer_slack_ns: 50_000,
            default_timer_slack_ns: 50_000,
            personality: 0,
            scheduling: Scheduling::default(),
            cpus,
            io_priority: 0,
            policy: None,
        }
    }

    /// Those of a new thread or process (Linux kernel/fork.c `copy_process`, kernel/sched/core.c `sched_fork`).
    pub fn inherit(&self) -> Self {
        let mut new = self.clone();
        new.default_timer_slack_ns = self.timer_slack_ns;
        if self.scheduling.reset_on_fork {
            let nice = if self.scheduling.policy == SCHED_OTHER { self.scheduling.nice.max(0) } else { 0 };
            new.scheduling = Scheduling { nice, ..Scheduling::default() };
        }
        new
    }
}

/// Attributes of a process.
#[derive(Clone, Copy, Debug)]
pub struct GroupAttributes {
    /// `/proc/PID/oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// The least value that a process without `CAP_SYS_RESOURCE` may set.
    pub oom_score_adj_min: i32,
    /// `PR_SET_DUMPABLE`: 0, 1 or 2.
    pub dumpable: u8,
    /// `PR_SET_THP_DISABLE`; there are no transparent huge pages to keep away.
    pub no_huge_pages: bool,
    /// `PR_MCE_KILL`; no failing memory is told to guests.
    pub machine_check_kill: u8,
}

impl Default for GroupAttributes {
    fn default() -> Self {
        Self {
            oom_score_adj: 0,
            oom_score_adj_min: 0,
            dumpable: 1,
            no_huge_pages: false,
            machine_check_kill: 2,
        }
    }
}

/// The numbers of the processors in `mask`, in order.
pub fn cpu_numbers(mask: &CpuMask) -> impl Iterator<Item = usize> + '_ {
    (0..MAX_CPUS).filter(|&i| mask[i / 64] >> (i % 64) & 1 == 1)
}

/// The text of a list of numbers in order, such as `0-3,5` (Linux `%*pbl`).
pub fn list_text(numbers: impl Iterator<Item = usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => ranges.push((n, n)),
        }
    }
    let pieces: Vec<String> =
        ranges.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    pieces.join(",")
}

/// The text of a mask for `bits` processors: 32-bit words in hexadecimal, the highest first (Linux `%*pb`).
pub fn mask_text(mask: &CpuMask, bits: usize) -> String {
    let words = bits.clamp(1, MAX_CPUS).div_ceil(32);
    let first_width = (bits - (words - 1) * 32).div_ceil(4);
    let mut text = String::new();
    for i in (0..words).rev() {
        let word = (mask[i / 2] >> (i % 2 * 32)) as u32;
        let width = if i + 1 == words { first_width } else { 8 };
        text += &format!("{word:0width$x}");
        if i > 0 {
            text.push(',');
        }
    }
    text
}

impl Ctx<'_> {
    /// Changes the thread's credentials.
    pub fn set_cred(&mut self, cred: Credentials) {
        let cred = Arc::new(cred);
        self.cred = cred.clone();
        let old = std::mem::replace(&mut self.task.state.lock().cred, cred);
        drop(old);
    }
}

impl Task {
    /// The credentials.
    pub fn cred(&self) -> Arc<Credentials> {
        self.state.lock().cred.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_lists_read_as_linux_prints_them() {
        let mut mask: CpuMask = [0; MAX_CPUS / 64];
        mask[0] = 0b1011_1011;
        assert_eq!(list_text(cpu_numbers(&mask)), "0-1,3-5,7");
        assert_eq!(mask_text(&mask, 8), "bb");
        assert_eq!(mask_text(&mask, 2), "bb");
        mask[0] = 1 << 40 | 1;
        assert_eq!(mask_text(&mask, 44), "100,00000001");
        assert_eq!(mask_text(&mask, 64), "00000100,00000001");
        assert_eq!(list_text(std::iter::empty()), "");
    }

    #[test]
    fn a_reset_on_fork_goes_back_to_the_ordinary_policy() {
        let mut a = Attributes::new([1; 16]);
        a.scheduling = Scheduling { policy: 1, priority: 5, reset_on_fork: true, ..Scheduling::default() };
        let b = a.inherit();
        assert_eq!(b.scheduling, Scheduling::default());
    }
}
