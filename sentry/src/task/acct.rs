//! Process accounting (acct(2), acct(5); Linux kernel/acct.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::lock::{Lock, rank};
use fs::file::FileDescription;

use super::Ctx;
use crate::ns::pid::PidNs;
use crate::time::Clock;

/// `ACCT_VERSION`: records of `struct acct_v3`.
const VERSION: u8 = 3;
const RECORD: usize = 64;
/// Clock ticks per second of the records.
const TICK_NS: u64 = 10_000_000;

/// Where records of ended processes go.
#[derive(Debug, Default)]
pub struct Accounting {
    is_on: AtomicBool,
    /// By PID namespace.
    files: Lock<Vec<(Arc<PidNs>, Arc<FileDescription>)>, { rank::LEAF }>,
}

impl Accounting {
    /// Writes records of the processes in `ns` to `file`, or to none; returns where they went before.
    pub fn set(&self, ns: &Arc<PidNs>, file: Option<Arc<FileDescription>>) -> Option<Arc<FileDescription>> {
        let former = {
            let mut files = self.files.lock();
            let at = files.iter().position(|(other, _)| Arc::ptr_eq(other, ns));
            let former = at.map(|at| files.swap_remove(at));
            files.extend(file.map(|file| (ns.clone(), file)));
            self.is_on.store(!files.is_empty(), Ordering::Relaxed);
            former
        };
        former.map(|(_, file)| file)
    }

    /// Whether there is a file for anybody.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }
}

/// A number as 13 bits and an exponent of 8 (`encode_comp_t`).
fn comp(mut value: u64) -> u16 {
    const FRACTION: u64 = 0x1fff;
    let (mut exponent, mut round) = (0u16, 0);
    while value > FRACTION {
        round = value & 4;
        value >>= 3;
        exponent += 1;
    }
    if round != 0 {
        value += 1;
        if value > FRACTION {
            value >>= 3;
            exponent += 1;
        }
    }
    if exponent > 7 { u16::MAX } else { exponent << 13 | value as u16 }
}

impl Ctx<'_> {
    /// The last thread of a process ends: writes its record (`acct_process`).
    pub(super) fn account_end(&self) {
        let accounting = &self.task.kernel.accounting;
        if !accounting.is_on() {
            return;
        }
        let files: Vec<_> = accounting.files.lock().clone();
        for (ns, file) in files {
            // Of those that the namespace knows.
            let pid = ns.shown(self.task.group.pid);
            if pid != 0 {
                let record = self.record(&ns, pid);
                let _ = file.write(&mut &record[..]);
            }
        }
    }

    /// What a file of records ends with: one of who switches it off, who has not ended (`acct_pin_kill`).
    pub(crate) fn account_last(&self, file: &FileDescription) {
        let ns = self.task.pid_ns();
        let mut record = self.record(ns, ns.shown(self.task.group.pid));
        record[0] = 0;
        record[32..48].fill(0);
        let _ = file.write(&mut &record[..]);
    }

    fn record(&self, ns: &PidNs, pid: i32) -> [u8; RECORD] {
        const FORKED: u8 = 1;
        const DUMPED: u8 = 8;
        const SIGNALLED: u8 = 16;
        let (kernel, group) = (&self.task.kernel, &self.task.group);
        let status = group.exit_status.load(Ordering::SeqCst).max(0).cast_unsigned();
        let (has_execed, parent, tty) = {
            let tree = kernel.tree.lock();
            tree.processes.get(&group.pid).map_or((false, 0, 0), |p| {
                (p.has_execed, p.parent, p.tty.as_ref().map_or(0, |tty| tty.device()))
            })
        };
        let usage = kernel.group_usage(group);
        let lived_ns = kernel.boot_ns().saturating_sub(self.task.account.started_ns());
        let now = kernel.time.now(Clock::Realtime).as_ns();
        let begun = now.saturating_sub_unsigned(lived_ns) / 1_000_000_000;
        let mut flag = if has_execed { 0 } else { FORKED };
        if status & 0x7f != 0 {
            flag |= SIGNALLED;
        }
        if status & 0x80 != 0 {
            flag |= DUMPED;
        }
        let name = self.task.state.lock().name.clone();
        let memory_kib = self.mm.memory_use().sizes.total / 1024;
        let mut r = [0; RECORD];
        let mut put = |at: usize, bytes: &[u8]| r[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[flag, VERSION]);
        put(2, &(tty as u16).to_le_bytes());
        put(4, &status.to_le_bytes());
        put(8, &self.cred.uid.to_le_bytes());
        put(12, &self.cred.gid.to_le_bytes());
        put(16, &pid.to_le_bytes());
        put(20, &ns.shown(parent).to_le_bytes());
        put(24, &(begun as u32).to_le_bytes());
        put(28, &((lived_ns / TICK_NS) as f32).to_le_bytes());
        let numbers =
            [usage.user_ns / TICK_NS, usage.system_ns / TICK_NS, memory_kib, 0, 0, usage.faults, 0, 0];
        for (i, value) in numbers.into_iter().enumerate() {
            put(32 + 2 * i, &comp(value).to_le_bytes());
        }
        put(48, &name[..name.len().min(15)]);
        r
    }
}

#[cfg(test)]
mod tests {
    use super::comp;

    #[test]
    fn numbers_are_shortened_as_linux_does() {
        assert_eq!(comp(0), 0);
        assert_eq!(comp(0x1fff), 0x1fff);
        assert_eq!(comp(0x2000), 1 << 13 | 0x400);
        assert_eq!(comp(0x2004), 1 << 13 | 0x401);
        assert_eq!(comp(0xffff), 2 << 13 | 0x400);
        assert_eq!(comp(u64::MAX), u16::MAX);
    }
}
