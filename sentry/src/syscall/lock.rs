//! Advisory locks: flock(2) and the record locks of fcntl(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EAGAIN, EBADF, EINVAL, EOVERFLOW};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::file::FileDescription;
use fs::locks::{self, FileId, Kind, LAST, Owner, Record, Waiting};

use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// Whether [`record_lock`] handles the command.
pub(super) fn is_command(command: u32) -> bool {
    matches!(command, F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW)
}

/// `flock(2)`.
pub(super) fn sys_flock(cx: &mut Ctx<'_>, fd: i32, operation: u32) -> SysResult {
    const LOCK_NB: u32 = 4;
    const LOCK_MAND: u32 = 32;
    if operation & LOCK_MAND != 0 {
        // What once were mandatory locks is ignored (fs/locks.c).
        return Ok(0);
    }
    let kind = match operation & !LOCK_NB {
        1 => Some(Kind::Shared),
        2 => Some(Kind::Exclusive),
        8 => None,
        _ => return Err(EINVAL.into()),
    };
    let file = cx.open_file(fd)?;
    let id = file.lock_id()?;
    let description = file.lock_owner(id);
    match locks::flock(id, description, kind) {
        Err(EAGAIN) if operation & LOCK_NB == 0 => {}
        other => {
            other?;
            return Ok(0);
        }
    }
    let waiting = Waiting::new(id);
    let _registration = Registration::new(waiting.queue(), cx.task.parker.clone(), Events::all());
    cx.sleep_until(None, Restart::Sys, |_| match locks::flock(id, description, kind) {
        Err(EAGAIN) => Ok(None),
        other => other.map(Some).map_err(Stop::Fail),
    })?;
    Ok(0)
}

/// `struct flock`.
#[derive(Clone, Copy)]
struct Flock {
    kind: i16,
    whence: i16,
    start: i64,
    len: i64,
    pid: i32,
}

impl Flock {
    fn read(cx: &Ctx<'_>, at: UserAddr) -> Result<Self, Errno> {
        let raw: [i64; 4] = cx.mm.read_value(at)?;
        let [head, start, len, tail] = raw;
        Ok(Self { kind: head as i16, whence: (head >> 16) as i16, start, len, pid: tail as i32 })
    }

    /// Stores it; the holes of the structure stay zero, as Linux's copy leaves them.
    fn write(&self, cx: &Ctx<'_>, at: UserAddr) -> Result<(), Errno> {
        let head = i64::from(self.kind as u16) | i64::from(self.whence as u16) << 16;
        cx.mm.write_value(at, &[head, self.start, self.len, i64::from(self.pid as u32)])
    }

    /// The first and the last byte.
    ///
    /// Source: Linux 6.12 fs/locks.c, `flock64_to_posix_lock`.
    fn range(&self, file: &FileDescription) -> Result<(u64, u64), Errno> {
        let base = match self.whence {
            0 => 0,
            1 => {
                if file.ops.is_seekable() {
                    file.seek(0, 1)?
                } else {
                    0
                }
            }
            2 => file.ops.metadata()?.size,
            _ => return Err(EINVAL),
        };
        let base = i64::try_from(base).map_err(|_| EOVERFLOW)?;
        let start = base.checked_add(self.start).ok_or(EOVERFLOW)?;
        if start < 0 {
            return Err(EINVAL);
        }
        let (first, last) = match self.len {
            0 => (start, i64::MAX),
            1.. => (start, start.checked_add(self.len - 1).ok_or(EOVERFLOW)?),
            _ => {
                let first = start.checked_add(self.len).filter(|&f| f >= 0).ok_or(EINVAL)?;
                (first, start - 1)
            }
        };
        Ok((first as u64, last as u64))
    }

    fn lock_kind(&self) -> Result<Option<Kind>, Errno> {
        match self.kind {
            F_RDLCK => Ok(Some(Kind::Shared)),
            F_WRLCK => Ok(Some(Kind::Exclusive)),
            F_UNLCK => Ok(None),
            _ => Err(EINVAL),
        }
    }
}

/// `fcntl(2)` with one of the lock commands.
pub(super) fn record_lock(cx: &mut Ctx<'_>, fd: i32, command: u32, arg: u64) -> SysResult {
    let at = UserAddr(arg);
    let file = cx.open_file(fd)?;
    let asked = Flock::read(cx, at)?;
    let is_ofd = matches!(command, F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW);
    if is_ofd && asked.pid != 0 {
        return Err(EINVAL.into());
    }
    if matches!(command, F_GETLK | F_OFD_GETLK) {
        return get(cx, &file, asked, is_ofd, at);
    }
    let (start, end) = asked.range(&file)?;
    let kind = asked.lock_kind()?;
    match kind {
        Some(Kind::Shared) if !file.is_readable() => return Err(EBADF.into()),
        Some(Kind::Exclusive) if !file.is_writable() => return Err(EBADF.into()),
        _ => {}
    }
    let id = file.lock_id()?;
    let owner = owner(cx, &file, id, is_ofd);
    let Some(kind) = kind else {
        locks::clear(id, owner, start, end);
        return Ok(0);
    };
    let pid = if is_ofd { -1 } else { cx.task.group.pid };
    let wanted = Record { owner, pid, kind, start, end };
    if !is_ofd {
        cx.files.has_locks.store(true, Ordering::SeqCst);
    }
    match locks::set(id, wanted) {
        Err(EAGAIN) if matches!(command, F_SETLKW | F_OFD_SETLKW) => wait(cx, id, wanted)?,
        other => other?,
    }
    // Another thread may have closed the descriptor meanwhile, and its lock would stay for ever.
    if !is_ofd && cx.file(fd).map_or(true, |now| !Arc::ptr_eq(&now, &file)) {
        locks::clear(id, owner, start, end);
        return Err(EBADF.into());
    }
    Ok(0)
}

fn owner(cx: &Ctx<'_>, file: &FileDescription, id: FileId, is_ofd: bool) -> Owner {
    if is_ofd { Owner::Description(file.lock_owner(id)) } else { Owner::Process(cx.files.owner()) }
}

fn wait(cx: &mut Ctx<'_>, id: FileId, wanted: Record) -> Result<(), Stop> {
    let queue = Waiting::new(id);
    let mut waiting = Waiting::new(id);
    let _registration = Registration::new(queue.queue(), cx.task.parker.clone(), Events::all());
    cx.sleep_until(None, Restart::Sys, |_| match waiting.set(wanted) {
        Err(EAGAIN) => Ok(None),
        other => other.map(Some).map_err(Stop::Fail),
    })?;
    Ok(())
}

fn get(cx: &Ctx<'_>, file: &Arc<FileDescription>, asked: Flock, is_ofd: bool, at: UserAddr) -> SysResult {
    let kind = asked.lock_kind()?;
    let (start, end) = match (kind, is_ofd) {
        (None, false) => return Err(EINVAL.into()),
        _ => asked.range(file)?,
    };
    let id = file.lock_id()?;
    let owner = owner(cx, file, id, is_ofd);
    let found = match kind {
        Some(kind) => locks::conflict(id, &Record { owner, pid: 0, kind, start, end }),
        // Linux 6.9: which lock of its own the description holds there.
        None => locks::own_record(id, owner, start, end),
    };
    let answer = match found {
        None => Flock { kind: F_UNLCK, ..asked },
        Some(r) => Flock {
            kind: if r.kind == Kind::Shared { F_RDLCK } else { F_WRLCK },
            whence: 0,
            start: r.start as i64,
            len: if r.end == LAST { 0 } else { (r.end - r.start + 1) as i64 },
            pid: cx.task.shown_id(r.pid),
        },
    };
    answer.write(cx, at)?;
    Ok(0)
}
