//! The kernel's log: what syslog(2) reads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

/// Bytes that the log holds (`log_buf_len`).
pub const CAPACITY: usize = 1 << 17;

/// `KERN_NOTICE` and `KERN_INFO`.
pub const NOTICE: u8 = 5;
/// `KERN_INFO`.
pub const INFO: u8 = 6;

/// `console_loglevel`, `default_message_loglevel`, `minimum_console_loglevel`, `default_console_loglevel`.
const LEVELS: [i32; 4] = [7, 4, 1, 7];

#[derive(Debug, Default)]
struct Records {
    /// Whole lines, `<6>[    1.234567] text\n`, oldest first.
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The number of the first line there is, and of the first that was not cleared, and not read.
    first: u64,
    cleared: u64,
    read: u64,
    /// Bytes of the next line that were read.
    part: usize,
}

impl Records {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn from(&self, number: u64) -> impl DoubleEndedIterator<Item = &Vec<u8>> {
        self.lines
            .range(usize::try_from(number.saturating_sub(self.first)).unwrap_or(0).min(self.lines.len())..)
    }
}

/// The log.
#[derive(Debug)]
pub struct KernelLog {
    records: Lock<Records, { rank::LEAF }>,
    /// `/proc/sys/kernel/printk`.
    pub levels: [AtomicI32; 4],
    /// What `SYSLOG_ACTION_CONSOLE_ON` goes back to; -1 for nothing.
    saved_level: AtomicI32,
    /// `/proc/sys/kernel/dmesg_restrict`.
    pub restrict: AtomicU64,
    /// Woken for new lines.
    pub queue: WaitQueue,
}

impl Default for KernelLog {
    fn default() -> Self {
        Self {
            records: Lock::default(),
            levels: LEVELS.map(AtomicI32::new),
            saved_level: AtomicI32::new(-1),
            restrict: AtomicU64::new(1),
            queue: WaitQueue::new(),
        }
    }
}

impl KernelLog {
    /// Adds a line, said `ns` after the start.
    pub fn add(&self, level: u8, ns: u64, text: &str) {
        let (seconds, micros) = (ns / 1_000_000_000, ns % 1_000_000_000 / 1000);
        let line = format!("<{level}>[{seconds:5}.{micros:06}] {text}\n").into_bytes();
        {
            let mut records = self.records.lock();
            records.bytes += line.len();
            records.lines.push_back(line);
            while records.bytes > CAPACITY {
                let Some(gone) = records.lines.pop_front() else { break };
                records.bytes -= gone.len();
                records.first += 1;
            }
            if records.read < records.first {
                (records.read, records.part) = (records.first, 0);
            }
        }
        self.queue.notify(Events::IN);
    }

    /// The next unread bytes, at most `most`.
    pub fn take(&self, most: usize) -> Vec<u8> {
        let mut records = self.records.lock();
        let mut out = Vec::new();
        while out.len() < most {
            let (number, part) = (records.read, records.part);
            let Some(line) = records.from(number).next() else { break };
            let rest = line.get(part..).unwrap_or_default();
            let n = rest.len().min(most - out.len());
            out.extend_from_slice(&rest[..n]);
            if n == rest.len() {
                (records.read, records.part) = (number + 1, 0);
            } else {
                records.part += n;
            }
        }
        out
    }

    /// The last lines since the log was cleared that fit into `most` bytes; with `clear` they are the last that are shown.
    pub fn last(&self, most: usize, clear: bool) -> Vec<u8> {
        let mut records = self.records.lock();
        let mut left = most;
        let mut shown: Vec<&Vec<u8>> = Vec::new();
        for line in records.from(records.cleared).rev() {
            if line.len() > left {
                break;
            }
            left -= line.len();
            shown.push(line);
        }
        let out = shown.into_iter().rev().flatten().copied().collect();
        if clear {
            records.cleared = records.end();
        }
        out
    }

    /// Shows nothing of what there is any more.
    pub fn clear(&self) {
        let mut records = self.records.lock();
        records.cleared = records.end();
    }

    /// Bytes that were not read.
    pub fn unread(&self) -> usize {
        let records = self.records.lock();
        records.from(records.read).map(Vec::len).sum::<usize>() - records.part
    }

    /// `SYSLOG_ACTION_CONSOLE_OFF` and `_ON`.
    pub fn set_console(&self, is_on: bool) {
        let [level, _, least, _] = &self.levels;
        if is_on {
            let saved = self.saved_level.swap(-1, Ordering::Relaxed);
            if saved != -1 {
                level.store(saved, Ordering::Relaxed);
            }
        } else {
            let now = level.swap(least.load(Ordering::Relaxed), Ordering::Relaxed);
            let _ = self.saved_level.compare_exchange(-1, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// `SYSLOG_ACTION_CONSOLE_LEVEL`.
    pub fn set_level(&self, level: i32) {
        let least = self.levels[2].load(Ordering::Relaxed);
        self.levels[0].store(level.max(least), Ordering::Relaxed);
        self.saved_level.store(-1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_go_and_each_is_read_once() {
        let log = KernelLog::default();
        log.add(INFO, 1_500_000_000, "one");
        log.add(NOTICE, 0, "two");
        let all = b"<6>[    1.500000] one\n<5>[    0.000000] two\n";
        assert_eq!(log.last(1000, false), all);
        assert_eq!(log.last(all.len() - 1, false), b"<5>[    0.000000] two\n");
        assert_eq!(log.unread(), all.len());
        assert_eq!(log.take(3), b"<6>");
        assert_eq!(log.unread(), all.len() - 3);
        assert_eq!(log.take(1000), &all[3..]);
        assert_eq!(log.take(10), b"");
        log.clear();
        assert_eq!(log.last(1000, false), b"");
        for _ in 0..10_000 {
            log.add(INFO, 0, "0123456789");
        }
        assert!(log.unread() <= CAPACITY);
        assert!(log.last(CAPACITY, true).ends_with(b"0123456789\n"));
        assert_eq!(log.last(CAPACITY, false), b"");
    }
}
