//! The files of `/proc/sys` that can be written (sysctl(8)).
//!
//! Numbers are read as Linux's `proc_dointvec_minmax` and its kin read them: whole numbers apart by white space, each within
//! its bounds, else `EINVAL`, and what came before has been set; what is more than the file holds is not taken.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EINVAL, EPERM, ERANGE, ESRCH};
use base::cred::cap;
use base::lock::{Lock, rank};
use fs::generated::{Builder, Text};
use fs::vfs::Inode;

use crate::ipc::{IpcLimits, IpcNamespace};
use crate::kernel::Kernel;
use crate::task::Task;
use crate::task::current::current;

/// `CORENAME_MAX_SIZE`, with the final zero.
const CORE_PATTERN_MAX: usize = 128;
/// `IPCMNI`.
const IPC_OBJECTS_MAX: i128 = 32768;
/// The least value of `fs.nr_open`, and the largest (`sysctl_nr_open_min`, `_max`).
const NR_OPEN: RangeInclusive<i128> = 64..=0x7fff_ffc0;
/// `RESERVED_PIDS` + 1 and `PID_MAX_LIMIT`.
const PIDS: RangeInclusive<i128> = 301..=1 << 22;
/// `MIN_THREADS`, `MAX_THREADS`.
const THREADS: RangeInclusive<i128> = 20..=0x3fff_ffff;
const INT: RangeInclusive<i128> = i32::MIN as i128..=i32::MAX as i128;
const COUNT: RangeInclusive<i128> = 0..=i32::MAX as i128;
const UINT: RangeInclusive<i128> = 0..=u32::MAX as i128;
const ULONG: RangeInclusive<i128> = 0..=u64::MAX as i128;

/// Values that belong to the whole sandbox.
#[derive(Debug)]
pub struct Settings {
    /// `kernel.threads-max`.
    pub threads_max: AtomicU64,
    /// `fs.nr_open`.
    pub nr_open: AtomicU64,
    /// `kernel.core_pattern`: kept; no file is written.
    core_pattern: Lock<Vec<u8>, { rank::LEAF }>,
}

impl Settings {
    /// Those of a sandbox that may have `max_tasks` threads.
    pub fn new(max_tasks: usize) -> Self {
        Self {
            threads_max: AtomicU64::new(max_tasks.min(crate::kernel::PID_MAX as usize - 1) as u64),
            nr_open: AtomicU64::new(crate::syscall::system::NR_OPEN),
            core_pattern: Lock::new(b"core".to_vec()),
        }
    }
}

/// Who looks or writes, and where.
struct Place<'a> {
    kernel: &'a Kernel,
    task: &'a Task,
    ipc: Arc<IpcNamespace>,
}

/// Numbers in one file.
struct Row {
    path: &'static str,
    /// How many, and the bounds of each.
    bounds: &'static [RangeInclusive<i128>],
    read: fn(&Place<'_>) -> Vec<i128>,
    /// Sets number `.1` to `.2`.
    write: fn(&Place<'_>, usize, i128) -> Result<(), Errno>,
}

fn load(value: &AtomicU64) -> Vec<i128> {
    vec![value.load(Ordering::Relaxed).into()]
}

fn store(value: &AtomicU64, number: i128) -> Result<(), Errno> {
    value.store(u64::try_from(number).map_err(|_| EINVAL)?, Ordering::Relaxed);
    Ok(())
}

fn load32(value: &AtomicU32) -> Vec<i128> {
    vec![value.load(Ordering::Relaxed).into()]
}

fn store32(value: &AtomicU32, number: i128) -> Result<(), Errno> {
    value.store(u32::try_from(number).map_err(|_| EINVAL)?, Ordering::Relaxed);
    Ok(())
}

macro_rules! ipc_row {
    ($path:literal, $field:ident, $bounds:expr) => {
        Row {
            path: $path,
            bounds: &[$bounds],
            read: |p| load(&p.ipc.limits.$field),
            write: |p, _, n| store(&p.ipc.limits.$field, n),
        }
    };
}

macro_rules! ipc_objects {
    ($count:literal, $next:literal, $table:ident) => {
        [
            Row {
                path: $count,
                bounds: &[0..=IPC_OBJECTS_MAX],
                read: |p| vec![p.ipc.$table.lock().max() as i128],
                write: |p, _, n| {
                    p.ipc.$table.lock().set_max(usize::try_from(n).map_err(|_| EINVAL)?);
                    Ok(())
                },
            },
            Row {
                path: $next,
                bounds: &[COUNT],
                read: |p| vec![p.ipc.$table.lock().wanted.into()],
                write: |p, _, n| {
                    let may = [cap::CHECKPOINT_RESTORE, cap::SYS_ADMIN];
                    if !may.iter().any(|&c| p.task.cred().has_here(c)) {
                        return Err(EPERM);
                    }
                    p.ipc.$table.lock().wanted = i32::try_from(n).map_err(|_| EINVAL)?;
                    Ok(())
                },
            },
        ]
    };
}

macro_rules! count_row {
    ($path:literal, $count:expr) => {
        Row {
            path: $path,
            bounds: &[COUNT],
            read: |_| vec![$count.load(Ordering::Relaxed) as i128],
            write: |_, _, n| {
                $count.store(usize::try_from(n).map_err(|_| EINVAL)?, Ordering::Relaxed);
                Ok(())
            },
        }
    };
}

macro_rules! key_row {
    ($path:literal, $field:ident, $bounds:expr) => {
        Row {
            path: $path,
            bounds: &[$bounds],
            read: |p| load32(&p.kernel.keys.settings.$field),
            write: |p, _, n| store32(&p.kernel.keys.settings.$field, n),
        }
    };
}

const HARD_MESSAGES: i128 = crate::ipc::mqueue::HARD_MSG_MAX as i128;
const HARD_SIZE: i128 = crate::ipc::mqueue::HARD_MSGSIZE_MAX as i128;

static SHM: [Row; 2] = ipc_objects!("kernel/shmmni", "kernel/shm_next_id", shm);
static MSG: [Row; 2] = ipc_objects!("kernel/msgmni", "kernel/msg_next_id", msg);
static SEM_NEXT: [Row; 2] = ipc_objects!("", "kernel/sem_next_id", sem);

/// `kernel.sem`: SEMMSL, SEMMNS, SEMOPM, SEMMNI.
fn semaphores(limits: &IpcLimits) -> [&AtomicU64; 3] {
    [&limits.semmsl, &limits.semmns, &limits.semopm]
}

static ROWS: &[Row] = &[
    count_row!("fs/inotify/max_queued_events", fs::anon::inotify::QUEUE_MAX),
    ipc_row!("fs/mqueue/msg_default", mq_msg_default, 1..=HARD_MESSAGES),
    ipc_row!("fs/mqueue/msg_max", mq_msg_max, 1..=HARD_MESSAGES),
    ipc_row!("fs/mqueue/msgsize_default", mq_msgsize_default, 128..=HARD_SIZE),
    ipc_row!("fs/mqueue/msgsize_max", mq_msgsize_max, 128..=HARD_SIZE),
    ipc_row!("fs/mqueue/queues_max", mq_queues_max, COUNT),
    Row {
        path: "fs/mount-max",
        bounds: &[1..=i32::MAX as i128],
        read: |_| load(&fs::vfs::MOUNT_MAX),
        write: |_, _, n| store(&fs::vfs::MOUNT_MAX, n),
    },
    Row {
        path: "fs/nr_open",
        bounds: &[NR_OPEN],
        read: |p| load(&p.kernel.settings.nr_open),
        write: |p, _, n| store(&p.kernel.settings.nr_open, n),
    },
    Row {
        path: "fs/pipe-max-size",
        bounds: &[UINT],
        read: |_| vec![fs::anon::pipe::CAPACITY_MAX.load(Ordering::Relaxed) as i128],
        write: |_, _, n| {
            // round_pipe_size: a power of two, a page at least; not more than INT_MAX + 1.
            const MOST: i128 = 1 << 31;
            let size = u64::try_from(n).map_err(|_| EINVAL)?.max(4096).next_power_of_two();
            if i128::from(size) > MOST || n == 0 {
                return Err(EINVAL);
            }
            fs::anon::pipe::CAPACITY_MAX.store(size as usize, Ordering::Relaxed);
            Ok(())
        },
    },
    Row {
        path: "kernel/dmesg_restrict",
        bounds: &[0..=1],
        read: |p| load(&p.kernel.log.restrict),
        write: |p, _, n| {
            if !p.task.cred().has(cap::SYS_ADMIN) {
                return Err(EPERM);
            }
            store(&p.kernel.log.restrict, n)
        },
    },
    key_row!("kernel/keys/gc_delay", gc_delay, COUNT),
    key_row!("kernel/keys/maxbytes", maxbytes, 1..=i32::MAX as i128),
    key_row!("kernel/keys/maxkeys", maxkeys, 1..=i32::MAX as i128),
    key_row!("kernel/keys/persistent_keyring_expiry", persistent_keyring_expiry, COUNT),
    key_row!("kernel/keys/root_maxbytes", root_maxbytes, 1..=i32::MAX as i128),
    key_row!("kernel/keys/root_maxkeys", root_maxkeys, 1..=i32::MAX as i128),
    ipc_row!("kernel/msgmax", msgmax, COUNT),
    ipc_row!("kernel/msgmnb", msgmnb, COUNT),
    Row {
        path: "kernel/pid_max",
        bounds: &[PIDS],
        read: |p| vec![p.kernel.tree.lock().id_limit().into()],
        write: |p, _, n| {
            p.kernel.tree.lock().pid_max = i32::try_from(n).map_err(|_| EINVAL)?;
            Ok(())
        },
    },
    Row {
        path: "kernel/printk",
        bounds: &[INT, INT, INT, INT],
        read: |p| p.kernel.log.levels.iter().map(|level| level.load(Ordering::Relaxed).into()).collect(),
        write: |p, i, n| {
            let level: &AtomicI32 = p.kernel.log.levels.get(i).ok_or(EINVAL)?;
            level.store(i32::try_from(n).map_err(|_| EINVAL)?, Ordering::Relaxed);
            Ok(())
        },
    },
    Row {
        path: "kernel/sem",
        bounds: &[COUNT, COUNT, COUNT, 0..=IPC_OBJECTS_MAX],
        read: |p| {
            let mut all: Vec<i128> = semaphores(&p.ipc.limits).into_iter().flat_map(load).collect();
            all.push(p.ipc.sem.lock().max() as i128);
            all
        },
        write: |p, i, n| match semaphores(&p.ipc.limits).get(i) {
            Some(value) => store(value, n),
            None => {
                p.ipc.sem.lock().set_max(usize::try_from(n).map_err(|_| EINVAL)?);
                Ok(())
            }
        },
    },
    ipc_row!("kernel/shmall", shmall, ULONG),
    ipc_row!("kernel/shmmax", shmmax, ULONG),
    Row {
        path: "kernel/threads-max",
        bounds: &[THREADS],
        read: |p| load(&p.kernel.settings.threads_max),
        write: |p, _, n| store(&p.kernel.settings.threads_max, n),
    },
    count_row!("vm/max_map_count", crate::mm::MAX_MAP_COUNT),
];

/// One number as `strtoul_lenient` with base 0 reads it.
fn number(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word),
    };
    // What parses integers here would take a second sign.
    if digits.contains('+') {
        return None;
    }
    let value = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => u64::from_str_radix(digits.get(2..)?, 16),
        [b'0', _, ..] => u64::from_str_radix(digits.get(1..)?, 8),
        [b'0'..=b'9', ..] => digits.parse(),
        _ => return None,
    };
    Some(sign * i128::from(value.ok()?))
}

struct Numbers {
    kernel: Weak<Kernel>,
    row: &'static Row,
}

impl Numbers {
    fn with<T>(&self, f: impl FnOnce(&Place<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let kernel = self.kernel.upgrade().ok_or(ESRCH)?;
        let task = current().ok_or(ESRCH)?;
        let ipc = task.ipc();
        f(&Place { kernel: &kernel, task: &task, ipc })
    }
}

impl Text for Numbers {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        let numbers = self.with(|place| Ok((self.row.read)(place)))?;
        let words: Vec<String> = numbers.iter().map(i128::to_string).collect();
        Ok((words.join("\t") + "\n").into_bytes())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        // proc_first_pos_non_zero_ignore: what follows the first write is swallowed.
        if offset != 0 {
            return Ok(bytes.len());
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| EINVAL)?;
        self.with(|place| {
            let mut rest = text.trim_ascii_start();
            for (i, bounds) in self.row.bounds.iter().enumerate() {
                if rest.is_empty() && i > 0 {
                    break;
                }
                let len = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(len);
                let value = number(word).ok_or(EINVAL)?;
                if !bounds.contains(&value) {
                    return Err(self.row.beyond(i));
                }
                (self.row.write)(place, i, value)?;
                rest = behind.trim_ascii_start();
            }
            // What does not fit is not taken.
            Ok(bytes.len() - rest.len())
        })
    }
}

impl Row {
    /// What a number beyond its bounds gets: the count of sets is checked by itself (`sem_check_semmni`).
    fn beyond(&self, i: usize) -> Errno {
        if self.path == "kernel/sem" && i == 3 { ERANGE } else { EINVAL }
    }
}

/// `kernel.core_pattern`.
struct CorePattern(Weak<Kernel>);

impl Text for CorePattern {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        let kernel = self.0.upgrade().ok_or(ESRCH)?;
        let mut text = kernel.settings.core_pattern.lock().clone();
        text.push(b'\n');
        Ok(text)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if offset == 0 {
            let kernel = self.0.upgrade().ok_or(ESRCH)?;
            let end = bytes.iter().position(|&b| b == b'\n' || b == 0).unwrap_or(bytes.len());
            *kernel.settings.core_pattern.lock() = bytes[..end.min(CORE_PATTERN_MAX - 1)].to_vec();
        }
        Ok(bytes.len())
    }
}

/// All of them, by path below `/proc/sys`.
pub(super) fn files(kernel: &Arc<Kernel>, builder: &Builder) -> Vec<(String, Arc<dyn Inode>)> {
    let weak = Arc::downgrade(kernel);
    let more = [&SHM[..], &MSG, &SEM_NEXT[1..]];
    let rows = ROWS.iter().chain(more.into_iter().flatten());
    let mut files: Vec<(String, Arc<dyn Inode>)> = rows
        .map(|row| (row.path.to_owned(), builder.file(0o644, Numbers { kernel: weak.clone(), row })))
        .collect();
    files.push(("kernel/core_pattern".to_owned(), builder.file(0o644, CorePattern(weak))));
    files
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_read_in_any_base() {
        assert_eq!(number("10"), Some(10));
        assert_eq!(number("-3"), Some(-3));
        assert_eq!(number("0x1f"), Some(31));
        assert_eq!(number("017"), Some(15));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number(""), None);
        assert_eq!(number("1x"), None);
        assert_eq!(number("x"), None);
        assert_eq!(number("18446744073709551615"), Some(u64::MAX.into()));
        assert_eq!(number("18446744073709551616"), None);
    }
}
