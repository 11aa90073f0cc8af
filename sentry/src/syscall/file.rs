//! Reading and writing open files.

use std::sync::Arc;

use abi::errno::{EACCES, EBADF, EFAULT, EFBIG, EINVAL, ENOENT, ENOTTY, EOVERFLOW, EPIPE};
use abi::signal::{SigInfo, code};
use abi::{Errno, UserAddr};
use base::cred::Credentials;
use base::io::Source;
use base::userns::IdKind;
use base::wait::Events;
use fs::anon::eventfd::EventFd;
use fs::file::{FileDescription, IoctlMemory, oflag};
use fs::notify::event;
use fs::vfs::FileType;

use super::{Stop, SysResult};
use crate::mm::{MemoryManager, UserSource};
use crate::signal::{SIGPIPE, SIGXFSZ};
use crate::task::Ctx;

impl Ctx<'_> {
    /// The file behind `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn file(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        self.files.file(fd)
    }

    /// Turns `EPIPE` of writing to `file` into SIGPIPE and `EPIPE`. Sockets of some kinds raise no signal.
    pub(super) fn broken_pipe<T>(
        &mut self,
        file: &Arc<FileDescription>,
        result: Result<T, Stop>,
    ) -> Result<T, Stop> {
        let raises = || super::sockmsg::as_socket(file).is_none_or(|socket| socket.raises_sigpipe());
        if matches!(result, Err(Stop::Fail(EPIPE))) && raises() {
            self.signal_self(SIGPIPE);
        }
        result
    }

    /// Takes the set-user-ID and set-group-ID bits from a file that the task is going to write `len` bytes to.
    pub(super) fn before_write(&self, file: &FileDescription, len: usize) -> Result<(), Errno> {
        match &file.path {
            Some(path) if len > 0 && file.is_writable() && self.walk().may_drop_privileges() => {
                self.walk().drop_privileges(path)
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::before_write`], and holds the write to `RLIMIT_FSIZE`: what lies beyond is left out of `source`.
    /// `offset` is none for a write at the file's position.
    ///
    /// # Errors
    /// `EFBIG`, and SIGXFSZ: nothing lies below the limit.
    ///
    /// Source: Linux 6.12 fs/read_write.c, `generic_write_check_limits`.
    pub(super) fn limit_write(
        &self,
        file: &FileDescription,
        offset: Option<u64>,
        source: &mut UserSource<'_>,
    ) -> Result<(), Errno> {
        self.before_write(file, source.remaining())?;
        let limit = self.size_limit();
        if limit == u64::MAX || source.remaining() == 0 || !file.is_writable() || !is_regular(file)? {
            return Ok(());
        }
        let at = match offset {
            _ if file.flags() & oflag::APPEND != 0 => file.ops.metadata()?.size,
            Some(offset) => offset,
            None => file.seek(0, 1)?,
        };
        if at >= limit {
            return Err(self.too_large());
        }
        source.limit(usize::try_from(limit - at).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Whether a file may grow to `size` bytes.
    ///
    /// # Errors
    /// `EFBIG`, and SIGXFSZ: that is more than it has now and more than `RLIMIT_FSIZE`.
    pub(super) fn check_size(&self, file: &FileDescription, size: u64) -> Result<(), Errno> {
        if self.size_limit() == u64::MAX || !is_regular(file)? {
            return Ok(());
        }
        self.check_growth(file.ops.metadata()?.size, size)
    }

    /// Whether a regular file of `old` bytes may get `new`.
    ///
    /// # Errors
    /// As `check_size`.
    pub(super) fn check_growth(&self, old: u64, new: u64) -> Result<(), Errno> {
        if new > old && new > self.size_limit() { Err(self.too_large()) } else { Ok(()) }
    }

    /// `RLIMIT_FSIZE`.
    fn size_limit(&self) -> u64 {
        self.task.group.rlimits.lock()[1].0
    }

    fn too_large(&self) -> Errno {
        self.signal_self(SIGXFSZ);
        EFBIG
    }

    /// Sends the calling thread a signal about what it did, which shows it as the sender (`send_sig`).
    pub(super) fn signal_self(&self, signo: i32) {
        let uid = self.cred.user_ns.shown(IdKind::User, self.cred.uid);
        let info = SigInfo::kill(signo as u32, code::SI_USER, self.task.group.shown_pid, uid);
        self.task.kernel.signal_task(&self.task.clone(), signo, info);
    }

    /// `read(2)` into the listed buffers at the file's position.
    pub(super) fn read_into(&mut self, file: &Arc<FileDescription>, list: &[(UserAddr, u64)]) -> SysResult {
        if let Some(socket) = super::sockmsg::as_socket(file) {
            return self.read_socket(file, &socket, list);
        }
        self.ask_to_read(file)?;
        if super::fanotify::is_group(file) {
            return self.read_fanotify(file, list);
        }
        if let Some(tty) = super::tty::as_slave(file) {
            return self.read_terminal(file, tty, list);
        }
        let mm = self.mm.clone();
        let n = self.blocking(file, Events::READABLE, |_| {
            let mut sink = mm.sink_list(list)?;
            file.read(&mut sink)
        })?;
        Ok(n as u64)
    }

    /// Writes everything, unless the file is non-blocking or a signal or an error comes; then what was written.
    pub(super) fn write_from(&mut self, file: &Arc<FileDescription>, list: &[(UserAddr, u64)]) -> SysResult {
        if let Some(socket) = super::sockmsg::as_socket(file) {
            return self.write_socket(file, &socket, list);
        }
        if super::fanotify::is_group(file) {
            return self.write_fanotify(file, list);
        }
        if let Some(tty) = super::tty::as_slave(file) {
            self.check_writer(tty)?;
        }
        let mm = self.mm.clone();
        let mut source = mm.source_list(list)?;
        self.limit_write(file, None, &mut source)?;
        let mut done = 0u64;
        loop {
            // A failed attempt may have taken bytes: the next one begins where this one did.
            let result = self.blocking(file, Events::WRITABLE, |_| {
                let mut attempt = source.clone();
                let n = file.write(&mut attempt)?;
                source = attempt;
                Ok(n)
            });
            match self.broken_pipe(file, result) {
                Ok(n) => {
                    done += n as u64;
                    if n == 0 || source.remaining() == 0 || file.is_nonblocking() || file.ops.is_seekable() {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(stop) => return Err(stop),
            }
        }
    }
}

fn is_regular(file: &FileDescription) -> Result<bool, Errno> {
    Ok(file.ops.metadata()?.file_type() == FileType::Regular)
}

/// Linux 6.12 fs/read_write.c, `rw_verify_area`.
pub(super) fn check_end(offset: u64, len: u64) -> Result<(), Errno> {
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(EINVAL),
    }
}

/// The same of bytes of `file`, whose positions may be addresses.
fn check_area(file: &FileDescription, at: u64, count: u64) -> Result<(), Errno> {
    let wraps = i64::try_from(count).is_ok() && at.checked_add(count).is_none();
    if wraps && file.ops.is_memory() { Err(EOVERFLOW) } else { check_end(at, count) }
}

fn check_readable(file: &FileDescription) -> Result<(), Errno> {
    if file.is_readable() { Ok(()) } else { Err(EBADF) }
}

/// `read(2)`.
pub(super) fn sys_read(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u64) -> SysResult {
    let file = cx.file(fd)?;
    check_readable(&file)?;
    cx.read_into(&file, &[(buf, len)])
}

/// `write(2)`.
pub(super) fn sys_write(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u64) -> SysResult {
    let file = cx.file(fd)?;
    cx.write_from(&file, &[(buf, len)])
}

/// `readv(2)`.
pub(super) fn sys_readv(cx: &mut Ctx<'_>, fd: i32, iov: UserAddr, count: u64) -> SysResult {
    let file = cx.file(fd)?;
    check_readable(&file)?;
    let list = cx.mm.read_iovec(iov, count)?;
    cx.read_into(&file, &list)
}

/// `writev(2)`.
pub(super) fn sys_writev(cx: &mut Ctx<'_>, fd: i32, iov: UserAddr, count: u64) -> SysResult {
    let file = cx.file(fd)?;
    let list = cx.mm.read_iovec(iov, count)?;
    if !file.ops.as_any().is::<EventFd>() {
        return cx.write_from(&file, &list);
    }
    // A counter takes each buffer as a write of its own (Linux 6.18 fs/read_write.c, do_loop_readv_writev).
    let mut done = 0;
    for &piece in list.iter().filter(|(_, len)| *len > 0) {
        match cx.write_from(&file, &[piece]) {
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}

/// `pread64(2)`.
pub(super) fn sys_pread64(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u64, offset: i64) -> SysResult {
    let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
    let file = cx.file(fd)?;
    let mut sink = cx.mm.sink(buf, len)?;
    file.check_position()?;
    check_readable(&file)?;
    check_end(offset, len)?;
    cx.ask_to_read(&file)?;
    Ok(file.read_at(offset, &mut sink)? as u64)
}

/// `pwrite64(2)`.
pub(super) fn sys_pwrite64(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u64, offset: i64) -> SysResult {
    let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
    let file = cx.file(fd)?;
    let mut source = cx.mm.source(buf, len)?;
    file.check_position()?;
    if file.is_writable() {
        check_end(offset, len)?;
    }
    cx.limit_write(&file, Some(offset), &mut source)?;
    Ok(file.write_at(offset, &mut source)? as u64)
}

/// `lseek(2)`.
pub(super) fn sys_lseek(cx: &mut Ctx<'_>, fd: i32, offset: i64, whence: u32) -> SysResult {
    Ok(cx.file(fd)?.seek(offset, whence)?)
}

struct GuestMemory<'a>(&'a MemoryManager, &'a Credentials);

impl IoctlMemory for GuestMemory<'_> {
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.0.read_exact(UserAddr(addr), buf)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.write_all(UserAddr(addr), bytes)
    }

    fn has_capability(&self, capability: u32) -> bool {
        // Only networks ask: their owner's capabilities count.
        crate::task::current().is_some_and(|t| t.net().grants(self.1, capability))
    }
}

/// `ioctl(2)`.
pub(super) fn sys_ioctl(cx: &mut Ctx<'_>, fd: i32, request: u32, arg: u64) -> SysResult {
    const FIOCLEX: u32 = 0x5451;
    const FIONCLEX: u32 = 0x5450;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    const FIONREAD: u32 = 0x541b;
    const FIGETBSZ: u32 = 2;
    const FIOSETOWN: u32 = 0x8901;
    const SIOCSPGRP: u32 = 0x8902;
    const FIOGETOWN: u32 = 0x8903;
    const SIOCGPGRP: u32 = 0x8904;
    let file = cx.file(fd)?;
    if file.flags() & oflag::PATH != 0 {
        return Err(EBADF.into());
    }
    if file.forbidden().ioctl && !super::landlock::is_common_ioctl(request) {
        return Err(EACCES.into());
    }
    match request {
        FIOCLEX | FIONCLEX => {
            cx.files.set_cloexec(fd, request == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => {
            let on: i32 = cx.mm.read_value(UserAddr(arg))?;
            let flags = file.flags();
            file.set_flags(if on != 0 { flags | oflag::NONBLOCK } else { flags & !oflag::NONBLOCK });
            Ok(0)
        }
        FIOASYNC => {
            let on: i32 = cx.mm.read_value(UserAddr(arg))?;
            if !file.ops.tells_of_readiness() {
                return Err(ENOTTY.into());
            }
            let flags = if on != 0 { oflag::ASYNC } else { 0 };
            crate::signal::async_io::set_async(&cx.task.kernel, &file, fd, flags);
            Ok(0)
        }
        FIOSETOWN | SIOCSPGRP if net::SocketFile::of(&file).is_some() => {
            let who: i32 = cx.mm.read_value(UserAddr(arg))?;
            super::fd::set_owner(cx, &file, who)?;
            Ok(0)
        }
        FIOGETOWN | SIOCGPGRP if net::SocketFile::of(&file).is_some() => {
            cx.mm.write_value(UserAddr(arg), &super::fd::owner(cx, &file))?;
            Ok(0)
        }
        _ if let Some(ns) = crate::ns::file::namespace_of(&file) => {
            crate::ns::file::ioctl(cx, &ns.clone(), request, UserAddr(arg))
        }
        FIONREAD if is_regular(&file)? => {
            // Behind the end it is negative, as in Linux.
            let left = file.ops.metadata()?.size.wrapping_sub(file.seek(0, 1)?);
            cx.mm.write_value(UserAddr(arg), &(left as u32))?;
            Ok(0)
        }
        FIGETBSZ if is_regular(&file)? => {
            cx.mm.write_value(UserAddr(arg), &(file.ops.metadata()?.blksize as u32))?;
            Ok(0)
        }
        _ if let Some(result) = super::fileattr::ioctl(cx, &file, request, arg)? => Ok(result),
        _ if let Some(notifier) = crate::seccomp::notify::notifier_of(&file) => {
            super::seccomp::listener_ioctl(cx, notifier, request, UserAddr(arg))
        }
        _ => match cx.terminal_ioctl(&file, request, arg)? {
            Some(result) => Ok(result),
            None => Ok(file.ops.ioctl(request, arg, &mut GuestMemory(&cx.mm, &cx.cred))?),
        },
    }
}

/// Whether whoever opened a regular file may have it truncated.
///
/// # Errors
/// `EACCES`.
pub(super) fn check_truncate(file: &FileDescription) -> Result<(), Errno> {
    let is_kept = file.forbidden().truncate && file.metadata()?.file_type() == FileType::Regular;
    if is_kept { Err(EACCES) } else { Ok(()) }
}

/// `ftruncate(2)`.
pub(super) fn sys_ftruncate(cx: &mut Ctx<'_>, fd: i32, len: i64) -> SysResult {
    let len = u64::try_from(len).map_err(|_| EINVAL)?;
    let file = cx.open_file(fd)?;
    if !file.is_writable() {
        return Err(EINVAL.into());
    }
    check_truncate(&file)?;
    cx.check_size(&file, len)?;
    cx.before_write(&file, 1)?;
    file.ops.truncate(len)?;
    file.tell_changed(event::MODIFY);
    Ok(0)
}

/// `fsync(2)`.
pub(super) fn sys_fsync(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    cx.open_file(fd)?.ops.sync()?;
    Ok(0)
}

/// `fdatasync(2)`.
pub(super) fn sys_fdatasync(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    sys_fsync(cx, fd)
}

/// `sendfile(2)`.
pub(super) fn sys_sendfile(
    cx: &mut Ctx<'_>,
    out_fd: i32,
    in_fd: i32,
    offset: UserAddr,
    count: u64,
) -> SysResult {
    // Linux 6.18 fs/read_write.c, `do_sendfile`: all of the input comes before the output.
    let given: Option<i64> = if offset.is_null() { None } else { Some(cx.mm.read_value(offset)?) };
    let input = cx.file(in_fd)?;
    if !input.is_readable() {
        return Err(EBADF.into());
    }
    if given.is_some() {
        input.check_position()?;
    }
    let mut at = match given {
        Some(at) => at.cast_unsigned(),
        None if input.ops.is_seekable() => input.seek(0, 1)?,
        None => 0,
    };
    check_area(&input, at, count)?;
    let count = count.min(0x7fff_f000);
    let output = cx.file(out_fd)?;
    if !output.is_writable() {
        return Err(EBADF.into());
    }
    if let Some(pipe) = super::splice::pipe_of(&output) {
        let len = usize::try_from(count).unwrap_or(usize::MAX);
        let waits = !output.is_nonblocking();
        let moved = super::splice::into_pipe(
            cx,
            &input,
            given.map_or(super::splice::Offset::Own, |at| super::splice::Offset::Read(offset, at)),
            (&output, pipe),
            len,
            waits,
        )?;
        if moved > 0 {
            input.tell(event::ACCESS);
            output.tell(event::MODIFY);
        }
        return Ok(moved);
    }
    let out_at = if output.ops.is_seekable() { output.seek(0, 1)? } else { 0 };
    check_area(&output, out_at, count)?;
    let kind = input.ops.metadata()?.file_type();
    let has_position = input.ops.is_seekable() || kind == FileType::Anonymous;
    if !has_position || output.flags() & oflag::APPEND != 0 {
        return Err(EINVAL.into());
    }
    if matches!(kind, FileType::Anonymous | FileType::Directory) {
        return if count == 0 { Ok(0) } else { Err(EINVAL.into()) };
    }
    cx.before_write(&output, 1)?;
    let mut done = 0u64;
    let mut buf = vec![0u8; 64 << 10];
    'copy: while done < count {
        let want = usize::try_from(count - done).unwrap_or(usize::MAX).min(buf.len());
        let n = {
            let mut sink = &mut buf[..want];
            input.ops.read_at(at, &mut sink)?
        };
        if n == 0 {
            break;
        }
        if done == 0 {
            // Before what the writes tell of.
            input.tell(event::ACCESS);
        }
        let mut rest = &buf[..n];
        // By the counts: /dev/null takes bytes without looking at them.
        while !rest.is_empty() {
            let result = cx.blocking(&output, Events::WRITABLE, |_| output.write(&mut { rest }));
            match cx.broken_pipe(&output, result) {
                Ok(0) => break 'copy,
                Ok(w) => {
                    rest = rest.get(w..).unwrap_or_default();
                    done += w as u64;
                    at += w as u64;
                }
                Err(stop) if done == 0 => return Err(stop),
                Err(_) => break 'copy,
            }
        }
        if cx.has_signal() {
            break;
        }
    }
    if given.is_some() {
        cx.mm.write_value(offset, &at)?;
    } else {
        input.seek(i64::try_from(at).map_err(|_| EINVAL)?, 0)?;
    }
    Ok(done)
}

/// The layouts of directory entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dirent {
    /// `struct linux_dirent`: the type in the last byte.
    Old,
    /// `struct linux_dirent64`.
    New,
}

fn read_entries(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u32, layout: Dirent) -> SysResult {
    let file = cx.open_file(fd)?;
    // A server's count of links says nothing: the name counts.
    if file.path.as_ref().is_some_and(|place| place.dentry.is_dir() && place.dentry.is_dead()) {
        return Err(ENOENT.into());
    }
    cx.ask_to_read(&file)?;
    // To Linux the size is a signed number, which no entry fits into when it is negative.
    let limit = usize::try_from(len.cast_signed()).unwrap_or(0).min(1 << 20);
    let head = if layout == Dirent::Old { 18 } else { 19 };
    let mut out = Vec::with_capacity(limit.min(64 << 10));
    let mut too_small = false;
    let start = file.position();
    file.read_dir(&mut |e| {
        // The name's zero, and in the old layout the type behind it.
        let tail = if layout == Dirent::Old { 2 } else { 1 };
        let size = (head + e.name.len() + tail + 7) & !7;
        if out.len() + size > limit {
            too_small = true;
            return false;
        }
        let start = out.len();
        out.extend_from_slice(&e.ino.to_le_bytes());
        out.extend_from_slice(&e.next.to_le_bytes());
        out.extend_from_slice(&(size as u16).to_le_bytes());
        if layout == Dirent::New {
            out.push(e.kind);
        }
        out.extend_from_slice(e.name);
        out.resize(start + size, 0);
        if layout == Dirent::Old
            && let Some(last) = out.last_mut()
        {
            *last = e.kind;
        }
        true
    })?;
    if out.is_empty() && too_small {
        return Err(EINVAL.into());
    }
    let stored = cx.mm.copy_out(buf, &out).unwrap_or(0);
    if stored == out.len() {
        return Ok(stored as u64);
    }
    // Whole entries count; those that nobody got come again.
    let (mut done, mut next) = (0, start);
    while let Some(&[o0, o1, o2, o3, o4, o5, o6, o7, s0, s1]) = out.get(done + 8..done + 18) {
        let end = done + usize::from(u16::from_le_bytes([s0, s1]));
        if end > stored {
            break;
        }
        (done, next) = (end, u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]));
    }
    file.seek(next.cast_signed(), 0)?;
    if done > 0 { Ok(done as u64) } else { Err(EFAULT.into()) }
}

/// `getdents(2)`.
pub(super) fn sys_getdents(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u32) -> SysResult {
    read_entries(cx, fd, buf, len, Dirent::Old)
}

/// `getdents64(2)`.
pub(super) fn sys_getdents64(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr, len: u32) -> SysResult {
    read_entries(cx, fd, buf, len, Dirent::New)
}
