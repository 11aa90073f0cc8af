//! Commands of fcntl(2) about what others do with a file: leases, `F_NOTIFY`, hints about writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::errno::{EACCES, EINTR, EINVAL, EJUKEBOX, EPERM};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::wait::Events;
use fs::anon::fanotify;
use fs::dnotify;
use fs::file::FileDescription;
use fs::leases::{self, Kind};
use fs::vfs::FileType;

use super::{Restart, Stop, SysResult};
use crate::signal::async_io::{OWNER_PID, Owner};
use crate::task::Ctx;
use crate::task::block::Registration;

const F_RDLCK: u64 = 0;
const F_WRLCK: u64 = 1;
const F_UNLCK: u64 = 2;
/// The highest hint (`RWH_WRITE_LIFE_EXTREME`).
const HINT_MAX: u64 = 5;
/// How often an open that waits looks whether a lease's time has run out.
const WATCH_NS: u64 = 100_000_000;

impl Ctx<'_> {
    /// Runs `op`, which opens or truncates a file, again and again while leases stand against it.
    pub(super) fn past_leases<T>(
        &mut self,
        mut op: impl FnMut(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Stop> {
        match op(self) {
            // The answer to a question is waited for whatever comes.
            Err(EJUKEBOX) if fanotify::is_asking() => {
                return self.past_all_waits(op);
            }
            Err(EJUKEBOX) => {}
            other => return other.map_err(Stop::from),
        }
        let _registration = Registration::new(leases::queue(), self.task.parker.clone(), Events::all());
        loop {
            let limit = self.monotonic_ns().saturating_add(WATCH_NS);
            let done = self.sleep_until(Some(limit), Restart::Sys, |cx| match op(cx) {
                Err(EJUKEBOX) => Ok(None),
                other => other.map(Some).map_err(Stop::from),
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    /// Runs `op` until it says something other than `EJUKEBOX`; only the end of the thread ends that.
    ///
    /// # Errors
    /// Those of `op`; `EINTR`.
    pub fn past_waits<T>(&self, mut op: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        let result = match op() {
            Err(EJUKEBOX) => self.wait_past(&mut op),
            other => other,
        };
        fanotify::forget();
        result
    }

    fn wait_past<T>(&self, op: &mut dyn FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        let parker = self.task.parker.clone();
        let _registration = Registration::new(leases::queue(), parker.clone(), Events::all());
        loop {
            parker.prepare();
            match op() {
                Err(EJUKEBOX) if self.task.must_exit() => return Err(EINTR),
                Err(EJUKEBOX) => {}
                other => return other,
            }
            crate::signal::async_io::send_due();
            // A lease may run out without anybody telling.
            parker.park(Some(Duration::from_nanos(WATCH_NS)));
        }
    }

    fn past_all_waits<T>(&mut self, mut op: impl FnMut(&mut Self) -> Result<T, Errno>) -> Result<T, Stop> {
        let queue = leases::queue();
        let parker = self.task.parker.clone();
        let _registration = Registration::new(queue, parker.clone(), Events::all());
        let result = loop {
            parker.prepare();
            match op(self) {
                Err(EJUKEBOX) if self.task.must_exit() => break Err(EINTR),
                Err(EJUKEBOX) => {}
                other => break other,
            }
            self.park(Some(Duration::from_nanos(WATCH_NS)));
        };
        fanotify::forget();
        result.map_err(Stop::from)
    }

    /// Makes the caller's process hear of `file`, unless somebody does already.
    fn own(&self, file: &FileDescription) -> Result<(), Errno> {
        let owner = Owner::of(&self.task.kernel, file);
        if owner.get().1 == 0 {
            owner.set(&self.task.kernel, OWNER_PID, self.task.group.pid, &self.cred)?;
        }
        Ok(())
    }
}

/// `F_SETLEASE`.
///
/// Source: Linux 6.18 fs/locks.c, `fcntl_setlease`.
pub(super) fn set_lease(cx: &Ctx<'_>, file: &Arc<FileDescription>, fd: i32, arg: u64) -> SysResult {
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(EINVAL.into());
    }
    let kind = match arg & 0xffff_ffff {
        F_RDLCK => Some(Kind::Read),
        F_WRLCK => Some(Kind::Write),
        F_UNLCK => None,
        _ => return Err(EINVAL.into()),
    };
    if meta.uid != cx.cred.fsuid && !cx.cred.has(cap::LEASE) {
        return Err(EACCES.into());
    }
    if meta.file_type() != FileType::Regular {
        return Err(EINVAL.into());
    }
    if kind.is_some() {
        cx.own(file)?;
    }
    leases::set(file, fd, kind)?;
    Ok(0)
}

/// `F_GETLEASE`.
pub(super) fn lease(file: &Arc<FileDescription>) -> SysResult {
    Ok(match leases::get(file)? {
        Some(Kind::Read) => F_RDLCK,
        Some(Kind::Write) => F_WRLCK,
        None => F_UNLCK,
    })
}

/// `F_NOTIFY`.
pub(super) fn notify(cx: &Ctx<'_>, file: &Arc<FileDescription>, fd: i32, arg: u64) -> SysResult {
    cx.files.has_locks.store(true, Ordering::SeqCst);
    if file.path.as_ref().is_some_and(|place| place.dentry.is_dir()) {
        cx.own(file)?;
    }
    dnotify::set(file, fd, arg as u32)?;
    Ok(0)
}

/// `F_GET_RW_HINT`.
pub(super) fn write_hint(cx: &Ctx<'_>, file: &FileDescription, arg: u64) -> SysResult {
    cx.mm.write_value(UserAddr(arg), &u64::from(file.write_hint().load(Ordering::Relaxed)))?;
    Ok(0)
}

/// `F_SET_RW_HINT`: kept, and of no effect, as on file systems that do not place what is written.
pub(super) fn set_write_hint(cx: &Ctx<'_>, file: &FileDescription, arg: u64) -> SysResult {
    let meta = file.metadata()?;
    if meta.uid != cx.cred.fsuid && !cx.cred.has_over(meta.uid, meta.gid, cap::FOWNER) {
        return Err(EPERM.into());
    }
    let hint: u64 = cx.mm.read_value(UserAddr(arg))?;
    if hint > HINT_MAX {
        return Err(EINVAL.into());
    }
    file.write_hint().store(hint as u8, Ordering::Relaxed);
    Ok(0)
}
