//! Moving bytes between files without the program: copy_file_range, splice, tee, vmsplice.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EFBIG, EINVAL, EISDIR, EOVERFLOW, ESPIPE, EXDEV};
use abi::{Errno, UserAddr};
use base::io::{Sink, Source};
use base::wait::Events;
use fs::anon::pipe::PipeEnd;
use fs::file::{FileDescription, oflag};
use fs::notify::event;
use fs::vfs::FileType;

use super::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

/// Bytes that one step holds.
const PIECE: usize = 64 << 10;
/// `SPLICE_F_*`: MOVE, NONBLOCK, MORE, GIFT.
const KNOWN: u32 = 0xf;
const NONBLOCK: u32 = 2;

/// The offset that a call gives or finds in the file's position.
struct Position {
    given: Offset,
    at: u64,
}

/// Where a call's offset is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offset {
    /// It is the file's position, which moves.
    Own,
    /// The program keeps it.
    Stored(UserAddr),
    /// The program keeps it, and it has been read already.
    Read(UserAddr, i64),
    /// It is given, and nobody keeps it.
    Value(i64),
}

impl Offset {
    /// That of a pointer that may be NULL.
    pub(super) fn at(addr: UserAddr) -> Self {
        if addr.is_null() { Self::Own } else { Self::Stored(addr) }
    }

    fn is_own(self) -> bool {
        matches!(self, Self::Own)
    }
}

impl Position {
    /// `error` is what a negative offset gives.
    fn new(cx: &Ctx<'_>, file: &FileDescription, given: Offset, error: Errno) -> Result<Self, Errno> {
        let at: i64 = match given {
            Offset::Own => return Ok(Self { given, at: file.seek(0, 1)? }),
            Offset::Stored(addr) => cx.mm.read_value(addr)?,
            Offset::Value(at) | Offset::Read(_, at) => at,
        };
        Ok(Self { given, at: u64::try_from(at).map_err(|_| error)? })
    }

    fn store(&self, cx: &Ctx<'_>, file: &FileDescription) -> Result<(), Errno> {
        match self.given {
            Offset::Stored(addr) | Offset::Read(addr, _) => cx.mm.write_value(addr, &self.at),
            Offset::Value(_) => Ok(()),
            Offset::Own => file.seek(i64::try_from(self.at).map_err(|_| EOVERFLOW)?, 0).map(drop),
        }
    }
}

/// `copy_file_range(2)`.
///
/// Source: Linux 6.12 fs/read_write.c, `generic_copy_file_checks`.
pub(super) fn sys_copy_file_range(
    cx: &mut Ctx<'_>,
    in_fd: i32,
    in_offset: UserAddr,
    out_fd: i32,
    out_offset: UserAddr,
    len: u64,
    flags: u32,
) -> SysResult {
    let input = cx.open_file(in_fd)?;
    let output = cx.open_file(out_fd)?;
    let place = |file: &FileDescription, given: Offset| match file.ops.is_seekable() {
        true => Position::new(cx, file, given, EOVERFLOW),
        false if given.is_own() => Ok(Position { given, at: 0 }),
        false => Position::new(cx, file, given, EOVERFLOW),
    };
    let mut from = place(&input, Offset::at(in_offset))?;
    let mut to = place(&output, Offset::at(out_offset))?;
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let (a, b) = (input.metadata()?, output.metadata()?);
    if a.is_dir() || b.is_dir() {
        return Err(EISDIR.into());
    }
    if a.file_type() != FileType::Regular || b.file_type() != FileType::Regular {
        return Err(EINVAL.into());
    }
    if !input.is_readable() || !output.is_writable() || output.flags() & oflag::APPEND != 0 {
        return Err(EBADF.into());
    }
    if a.dev != b.dev {
        return Err(EXDEV.into());
    }
    from.at.checked_add(len).filter(|&e| i64::try_from(e).is_ok()).ok_or(EOVERFLOW)?;
    to.at.checked_add(len).filter(|&e| i64::try_from(e).is_ok()).ok_or(EFBIG)?;
    let len = len.min(a.size.saturating_sub(from.at)).min(0x7fff_f000);
    if a.ino == b.ino && from.at < to.at + len && to.at < from.at + len {
        return Err(EINVAL.into());
    }
    cx.before_write(&output, 1)?;
    let mut buf = vec![0u8; PIECE.min(len as usize)];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(buf.len());
        let mut sink = &mut buf[..want];
        let n = input.ops.read_at(from.at, &mut sink)?;
        if n == 0 {
            break;
        }
        let mut source = &buf[..n];
        let written = match output.ops.write_at(to.at, &mut source) {
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
            Ok(w) => w as u64,
        };
        done += written;
        from.at += written;
        to.at += written;
        if written < n as u64 || cx.has_signal() {
            break;
        }
    }
    if done > 0 {
        input.tell(event::ACCESS);
        output.tell(event::MODIFY);
    }
    from.store(cx, &input)?;
    to.store(cx, &output)?;
    Ok(done)
}

pub(super) fn pipe_of(file: &FileDescription) -> Option<&PipeEnd> {
    file.ops.as_any().downcast_ref()
}

impl Ctx<'_> {
    /// Runs `op`, and waits on `file` while it says `EAGAIN`, unless the call or the file says not to.
    fn splice_wait<T>(
        &mut self,
        file: &Arc<FileDescription>,
        mask: Events,
        waits: bool,
        mut op: impl FnMut(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Stop> {
        match op(self) {
            Err(EAGAIN) if waits => {}
            other => return other.map_err(Stop::Fail),
        }
        let Some(queue) = file.ops.wait_queue() else { return Err(EAGAIN.into()) };
        let _registration = Registration::new(queue, self.task.parker.clone(), mask);
        let done = self.sleep_until(None, Restart::Sys, |cx| match op(cx) {
            Err(EAGAIN) => Ok(None),
            other => other.map(Some).map_err(Stop::Fail),
        })?;
        done.ok_or(Stop::Fail(EAGAIN))
    }
}

/// `splice(2)`.
///
/// Source: Linux 6.12 fs/splice.c, `__do_splice`, `do_splice`.
pub(super) fn sys_splice(
    cx: &mut Ctx<'_>,
    in_fd: i32,
    in_offset: UserAddr,
    out_fd: i32,
    out_offset: UserAddr,
    len: u64,
    flags: u32,
) -> SysResult {
    if len == 0 {
        return Ok(0);
    }
    if flags & !KNOWN != 0 {
        return Err(EINVAL.into());
    }
    let input = cx.open_file(in_fd)?;
    let output = cx.open_file(out_fd)?;
    splice(cx, (&input, Offset::at(in_offset)), (&output, Offset::at(out_offset)), len, flags)
}

/// `splice(2)` between open files, its flags and length checked.
///
/// Source: Linux 6.12 fs/splice.c, `do_splice`.
pub(super) fn splice(
    cx: &mut Ctx<'_>,
    (input, in_offset): (&Arc<FileDescription>, Offset),
    (output, out_offset): (&Arc<FileDescription>, Offset),
    len: u64,
    flags: u32,
) -> SysResult {
    let (in_pipe, out_pipe) = (pipe_of(input), pipe_of(output));
    if in_pipe.is_some() && !in_offset.is_own() || out_pipe.is_some() && !out_offset.is_own() {
        return Err(ESPIPE.into());
    }
    if !input.is_readable() || !output.is_writable() {
        return Err(EBADF.into());
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let moved = match (in_pipe, out_pipe) {
        (Some(a), Some(b)) => {
            if a.is_same_pipe(b) {
                return Err(EINVAL.into());
            }
            let waits = flags & NONBLOCK == 0 && !input.is_nonblocking() && !output.is_nonblocking();
            move_between(cx, (input, a), (output, b), len, waits)
        }
        (Some(_), None) if !is_spliced(output)? => Err(EINVAL.into()),
        (Some(pipe), None) => {
            let waits = flags & NONBLOCK == 0;
            from_pipe(cx, (input, pipe), output, out_offset, len, waits)
        }
        (None, Some(pipe)) => {
            let waits = flags & NONBLOCK == 0 && !output.is_nonblocking();
            into_pipe(cx, input, in_offset, (output, pipe), len, waits)
        }
        (None, None) => Err(EINVAL.into()),
    }?;
    if moved > 0 {
        output.tell(event::MODIFY);
        input.tell(event::ACCESS);
    }
    Ok(moved)
}

type End<'a> = (&'a Arc<FileDescription>, &'a PipeEnd);

fn move_between(cx: &mut Ctx<'_>, input: End<'_>, output: End<'_>, len: usize, waits: bool) -> SysResult {
    loop {
        // Bytes, or the end of them, first; then room; then that somebody reads, even if there are no bytes.
        cx.splice_wait(input.0, Events::READABLE, waits, |_| input.1.peek(1))?;
        let room = cx.splice_wait(output.0, Events::WRITABLE, waits, |_| output.1.room());
        let room = cx.broken_pipe(output.0, room)?;
        let bytes =
            cx.splice_wait(input.0, Events::READABLE, waits, |_| input.1.take_bytes(len.min(room)))?;
        if bytes.is_empty() {
            return Ok(0);
        }
        match output.1.splice_in(&bytes) {
            Ok(n) => {
                input.1.put_back(&bytes[n..]);
                return Ok(n as u64);
            }
            Err(e) => {
                input.1.put_back(&bytes);
                if e != EAGAIN || !waits {
                    return cx.broken_pipe(output.0, Err(e.into()));
                }
            }
        }
    }
}

fn from_pipe(
    cx: &mut Ctx<'_>,
    input: End<'_>,
    output: &Arc<FileDescription>,
    offset: Offset,
    len: usize,
    waits: bool,
) -> SysResult {
    if output.flags() & oflag::APPEND != 0 {
        return Err(EINVAL.into());
    }
    cx.before_write(output, 1)?;
    let mut position = None;
    if !offset.is_own() {
        if !output.ops.is_seekable() {
            return Err(EINVAL.into());
        }
        position = Some(Position::new(cx, output, offset, EINVAL)?);
    }
    let mut done = 0;
    while done < len {
        let want = (len - done).min(PIECE);
        // What is there is taken; only the first byte is waited for.
        let taken =
            cx.splice_wait(input.0, Events::READABLE, waits && done == 0, |_| input.1.take_bytes(want));
        let bytes = match taken {
            Ok(bytes) => bytes,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        };
        if bytes.is_empty() {
            break;
        }
        let mut source = bytes.as_slice();
        let written = match &position {
            Some(p) => output.ops.write_at(p.at, &mut source).map_err(Stop::Fail),
            None => cx.blocking(output, Events::WRITABLE, |_| {
                source = bytes.as_slice();
                output.write(&mut source)
            }),
        };
        let n = match cx.broken_pipe(output, written) {
            Ok(n) => n,
            Err(stop) => {
                input.1.put_back(&bytes);
                if done == 0 {
                    return Err(stop);
                }
                break;
            }
        };
        done += n;
        if let Some(p) = &mut position {
            p.at += n as u64;
        }
        if n < bytes.len() {
            input.1.put_back(&bytes[n..]);
            break;
        }
    }
    if let Some(p) = position {
        p.store(cx, output)?;
    }
    Ok(done as u64)
}

/// Whether a file can be spliced at all: those without an inode of their own cannot.
fn is_spliced(file: &FileDescription) -> Result<bool, Errno> {
    Ok(!matches!(file.metadata()?.file_type(), FileType::Anonymous | FileType::Directory))
}

/// Moves what `input` has into a pipe: splice(2), and sendfile(2) to a pipe.
pub(super) fn into_pipe(
    cx: &mut Ctx<'_>,
    input: &Arc<FileDescription>,
    offset: Offset,
    output: End<'_>,
    len: usize,
    waits: bool,
) -> SysResult {
    if !offset.is_own() && !input.ops.is_seekable() {
        return Err(EINVAL.into());
    }
    let mut position = match input.ops.is_seekable() {
        true => Some(Position::new(cx, input, offset, EINVAL)?),
        false => None,
    };
    let room = cx.splice_wait(output.0, Events::WRITABLE, waits, |_| output.1.room());
    let room = cx.broken_pipe(output.0, room)?;
    if len == 0 {
        return Ok(0);
    }
    if !is_spliced(input)? || pipe_of(input).is_some() {
        return Err(EINVAL.into());
    }
    let mut bytes = vec![0u8; len.min(room).min(PIECE)];
    let n = match &position {
        Some(p) => {
            let mut sink = bytes.as_mut_slice();
            input.ops.read_at(p.at, &mut sink)?
        }
        None => cx.splice_wait(input, Events::READABLE, waits && !input.is_nonblocking(), |_| {
            let mut sink = bytes.as_mut_slice();
            input.read(&mut sink)
        })?,
    };
    let mut source = &bytes[..n];
    let mut done = 0;
    while !source.is_empty() {
        // What came from a stream cannot go back: it is written, however long that takes.
        let written = cx.splice_wait(output.0, Events::WRITABLE, waits || position.is_none(), |_| {
            let n = output.1.splice_in(source)?;
            source = source.get(n..).unwrap_or_default();
            Ok(n)
        });
        match cx.broken_pipe(output.0, written) {
            Ok(n) => done += n,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
    }
    if let Some(p) = &mut position {
        p.at += done as u64;
        p.store(cx, input)?;
    }
    Ok(done as u64)
}

/// `tee(2)`.
pub(super) fn sys_tee(cx: &mut Ctx<'_>, in_fd: i32, out_fd: i32, len: u64, flags: u32) -> SysResult {
    if flags & !KNOWN != 0 {
        return Err(EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let input = cx.open_file(in_fd)?;
    let output = cx.open_file(out_fd)?;
    tee(cx, &input, &output, len, flags)
}

/// `tee(2)` between open files, its flags and length checked.
pub(super) fn tee(
    cx: &mut Ctx<'_>,
    input: &Arc<FileDescription>,
    output: &Arc<FileDescription>,
    len: u64,
    flags: u32,
) -> SysResult {
    if !input.is_readable() || !output.is_writable() {
        return Err(EBADF.into());
    }
    let (Some(a), Some(b)) = (pipe_of(input), pipe_of(output)) else { return Err(EINVAL.into()) };
    if a.is_same_pipe(b) {
        return Err(EINVAL.into());
    }
    let waits = flags & NONBLOCK == 0 && !input.is_nonblocking() && !output.is_nonblocking();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    loop {
        // In the order of move_between.
        cx.splice_wait(input, Events::READABLE, waits, |_| a.peek(1))?;
        let room = cx.splice_wait(output, Events::WRITABLE, waits, |_| b.room());
        let room = cx.broken_pipe(output, room)?;
        let bytes = match a.peek(len.min(room)) {
            Ok(bytes) if bytes.is_empty() => return Ok(0),
            Ok(bytes) => bytes,
            // Somebody else was faster.
            Err(_) if waits => continue,
            Err(e) => return Err(e.into()),
        };
        match b.splice_in(&bytes) {
            Ok(0) => {}
            Ok(n) => return Ok(n as u64),
            Err(EAGAIN) if waits => {}
            Err(e) => return cx.broken_pipe(output, Err(e.into())),
        }
    }
}

/// `vmsplice(2)`.
pub(super) fn sys_vmsplice(cx: &mut Ctx<'_>, fd: i32, iov: UserAddr, count: u64, flags: u32) -> SysResult {
    if flags & !KNOWN != 0 {
        return Err(EINVAL.into());
    }
    let file = cx.open_file(fd)?;
    let writes = file.is_writable();
    if !writes && !file.is_readable() {
        return Err(EBADF.into());
    }
    let list = cx.mm.read_iovec(iov, count)?;
    let Some(pipe) = pipe_of(&file) else { return Err(EBADF.into()) };
    let waits = flags & NONBLOCK == 0 && !file.is_nonblocking();
    let mm = cx.mm.clone();
    if !writes {
        let n = cx.splice_wait(&file, Events::READABLE, waits, |_| {
            let mut sink = mm.sink_list(&list)?;
            if sink.remaining() == 0 { Ok(0) } else { file.read(&mut sink) }
        })?;
        return Ok(n as u64);
    }
    let mut source = mm.source_list(&list)?;
    let mut done = 0u64;
    while source.remaining() > 0 {
        let written = cx.splice_wait(&file, Events::WRITABLE, waits && done == 0, |_| {
            let room = pipe.room()?;
            let want = source.remaining().min(room).min(PIECE);
            let mut attempt = source.clone();
            let mut bytes = vec![0u8; want];
            let n = attempt.take(&mut bytes)?;
            let n = pipe.splice_in(&bytes[..n])?;
            // A short write leaves the rest for the next round.
            let mut taken = vec![0u8; n];
            source.take(&mut taken)?;
            Ok(n)
        });
        match cx.broken_pipe(&file, written) {
            Ok(n) => done += n as u64,
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}
