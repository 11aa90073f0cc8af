//! Calls on ranges of files: vectors at an offset, allocation, advice, synchronisation.

use std::sync::Arc;

use abi::errno::{EBADF, EFBIG, EINVAL, EISDIR, ENODEV, EOPNOTSUPP, EPERM, ESPIPE};
use abi::{Errno, UserAddr};
use fs::file::{FileDescription, oflag};
use fs::vfs::FileType;

use super::SysResult;
use crate::mm::UserSource;
use crate::task::Ctx;

/// `RWF_*` of preadv2(2).
const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 16;
const RWF_NOAPPEND: u32 = 32;
/// Those that ask for synchronous writes.
pub(super) const RWF_SYNCS: u32 = RWF_DSYNC | RWF_SYNC;

/// Whether the flags of a request are known and go together.
///
/// # Errors
/// `EOPNOTSUPP`: an unknown one; `EINVAL`: to append and not to.
///
/// Source: Linux 6.18 include/linux/fs.h, `kiocb_set_rw_flags`.
pub(super) fn check_flags(flags: u32) -> Result<(), Errno> {
    const KNOWN: u32 = RWF_HIPRI | RWF_SYNCS | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND;
    if flags & !KNOWN != 0 {
        return Err(EOPNOTSUPP);
    }
    if flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

fn at(offset: i64) -> Result<u64, Errno> {
    u64::try_from(offset).map_err(|_| EINVAL)
}

/// `preadv(2)`. The second half of the offset is empty on 64-bit machines.
pub(super) fn sys_preadv(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    offset: i64,
    _high: u64,
) -> SysResult {
    let offset = at(offset)?;
    let file = cx.file(fd)?;
    file.check_position()?;
    if !file.is_readable() {
        return Err(EBADF.into());
    }
    cx.ask_to_read(&file)?;
    let mut sink = cx.mm.sink_iovec(iov, count)?;
    Ok(file.read_at(offset, &mut sink)? as u64)
}

/// `pwritev(2)`.
pub(super) fn sys_pwritev(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    offset: i64,
    _high: u64,
) -> SysResult {
    let offset = at(offset)?;
    let file = cx.file(fd)?;
    file.check_position()?;
    if !file.is_writable() {
        return Err(EBADF.into());
    }
    let mut source = cx.mm.source_iovec(iov, count)?;
    cx.limit_write(&file, Some(offset), &mut source)?;
    Ok(file.write_at(offset, &mut source)? as u64)
}

/// `preadv2(2)`.
pub(super) fn sys_preadv2(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    offset: i64,
    high: u64,
    flags: u32,
) -> SysResult {
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(EOPNOTSUPP.into());
    }
    if offset != -1 {
        return sys_preadv(cx, fd, iov, count, offset, high);
    }
    if flags & RWF_NOWAIT == 0 {
        return super::file::sys_readv(cx, fd, iov, count);
    }
    let file = cx.file(fd)?;
    if !file.is_readable() {
        return Err(EBADF.into());
    }
    let mut sink = cx.mm.sink_iovec(iov, count)?;
    Ok(file.read(&mut sink)? as u64)
}

/// `pwritev2(2)`.
pub(super) fn sys_pwritev2(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    offset: i64,
    high: u64,
    flags: u32,
) -> SysResult {
    check_flags(flags)?;
    let special = flags & (RWF_APPEND | RWF_NOAPPEND | RWF_NOWAIT) != 0;
    let done = if special {
        let offset = if offset == -1 { None } else { Some(at(offset)?) };
        write_special(cx, fd, iov, count, offset, flags)?
    } else if offset == -1 {
        super::file::sys_writev(cx, fd, iov, count)?
    } else {
        sys_pwritev(cx, fd, iov, count, offset, high)?
    };
    if flags & RWF_SYNCS != 0 {
        let _ = cx.file(fd)?.ops.sync();
    }
    Ok(done)
}

fn write_special(
    cx: &Ctx<'_>,
    fd: i32,
    iov: UserAddr,
    count: u64,
    offset: Option<u64>,
    flags: u32,
) -> SysResult {
    let file = cx.file(fd)?;
    if !file.is_writable() {
        return Err(EBADF.into());
    }
    let mut source = cx.mm.source_iovec(iov, count)?;
    write_flagged(cx, &file, &mut source, offset, flags)
}

/// Writes with `RWF_*` flags, at the file's position if `offset` is none.
pub(super) fn write_flagged(
    cx: &Ctx<'_>,
    file: &Arc<FileDescription>,
    source: &mut UserSource<'_>,
    offset: Option<u64>,
    flags: u32,
) -> SysResult {
    cx.limit_write(file, offset, source)?;
    if !file.ops.is_seekable() {
        return match offset {
            Some(_) => Err(ESPIPE.into()),
            None => Ok(file.write(source)? as u64),
        };
    }
    let appends = flags & RWF_APPEND != 0 || file.flags() & oflag::APPEND != 0 && flags & RWF_NOAPPEND == 0;
    let n = match (appends, offset) {
        (true, None) => {
            let (n, end) = file.ops.append(source)?;
            file.seek(i64::try_from(end).map_err(|_| EINVAL)?, 0)?;
            n
        }
        (true, Some(_)) => file.ops.append(source)?.0,
        (false, Some(offset)) => file.ops.write_at(offset, source)?,
        (false, None) => {
            let offset = file.seek(0, 1)?;
            let n = file.ops.write_at(offset, source)?;
            file.seek(i64::try_from(offset + n as u64).map_err(|_| EINVAL)?, 0)?;
            n
        }
    };
    Ok(n as u64)
}

/// `fallocate(2)`.
///
/// Source: Linux 6.12 fs/open.c, `vfs_fallocate`.
pub(super) fn sys_fallocate(cx: &mut Ctx<'_>, fd: i32, mode: u32, offset: i64, len: i64) -> SysResult {
    let file = cx.open_file(fd)?;
    allocate(cx, &file, mode, offset, len)
}

/// `fallocate(2)` of an open file.
pub(super) fn allocate(
    cx: &Ctx<'_>,
    file: &Arc<FileDescription>,
    mode: u32,
    offset: i64,
    len: i64,
) -> SysResult {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const COLLAPSE: u32 = 8;
    const ZERO: u32 = 0x10;
    const INSERT: u32 = 0x20;
    const UNSHARE: u32 = 0x40;
    if offset < 0 || len <= 0 {
        return Err(EINVAL.into());
    }
    match mode & !KEEP_SIZE {
        0 | ZERO => {}
        PUNCH_HOLE if mode & KEEP_SIZE != 0 => {}
        COLLAPSE | INSERT | UNSHARE if mode & KEEP_SIZE == 0 || mode & UNSHARE != 0 => {}
        _ => return Err(EOPNOTSUPP.into()),
    }
    if !file.is_writable() {
        return Err(EBADF.into());
    }
    match file.metadata()?.file_type() {
        FileType::Regular | FileType::Block => {}
        FileType::Fifo => return Err(ESPIPE.into()),
        FileType::Directory => return Err(EISDIR.into()),
        _ => return Err(ENODEV.into()),
    }
    let end = offset.checked_add(len).ok_or(EFBIG)?;
    if mode & (KEEP_SIZE | PUNCH_HOLE) == 0 {
        cx.check_size(file, end as u64)?;
    }
    cx.before_write(file, 1)?;
    file.ops.allocate(mode, offset as u64, len as u64)?;
    file.tell(fs::notify::event::MODIFY);
    Ok(0)
}

/// A file that has pages: regular files and block devices.
fn has_pages(file: &Arc<FileDescription>) -> Result<bool, Errno> {
    Ok(matches!(file.metadata()?.file_type(), FileType::Regular | FileType::Block))
}

/// `fadvise64(2)`.
pub(super) fn sys_fadvise64(cx: &mut Ctx<'_>, fd: i32, _offset: i64, len: i64, advice: u32) -> SysResult {
    let file = cx.open_file(fd)?;
    advise(&file, len, advice)
}

/// `fadvise64(2)` of an open file.
pub(super) fn advise(file: &FileDescription, len: i64, advice: u32) -> SysResult {
    if file.metadata()?.file_type() == FileType::Fifo {
        return Err(ESPIPE.into());
    }
    if len < 0 || advice > 5 {
        return Err(EINVAL.into());
    }
    // Files of the sandbox are in memory, and the host reads ahead for the others by itself.
    Ok(0)
}

/// `readahead(2)`.
pub(super) fn sys_readahead(cx: &mut Ctx<'_>, fd: i32, _offset: i64, _count: u64) -> SysResult {
    let file = cx.file(fd)?;
    if !file.is_readable() {
        return Err(EBADF.into());
    }
    if !has_pages(&file)? {
        return Err(EINVAL.into());
    }
    Ok(0)
}

/// `sync_file_range(2)`.
pub(super) fn sys_sync_file_range(cx: &mut Ctx<'_>, fd: i32, offset: i64, len: i64, flags: u32) -> SysResult {
    let file = cx.open_file(fd)?;
    sync_range(&file, offset, len, flags)
}

/// `sync_file_range(2)` of an open file.
pub(super) fn sync_range(file: &FileDescription, offset: i64, len: i64, flags: u32) -> SysResult {
    if flags & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(EINVAL.into());
    }
    match file.metadata()?.file_type() {
        FileType::Regular | FileType::Block | FileType::Directory | FileType::Symlink => {}
        _ => return Err(ESPIPE.into()),
    }
    if flags != 0 {
        file.ops.sync()?;
    }
    Ok(0)
}

/// `syncfs(2)`.
pub(super) fn sys_syncfs(cx: &mut Ctx<'_>, fd: i32) -> SysResult {
    let file = cx.open_file(fd)?;
    if let Some(place) = &file.path {
        place.mount.sb().root().inode().sync_fs()?;
    }
    Ok(0)
}

/// `sync(2)`.
pub(super) fn sys_sync(cx: &mut Ctx<'_>) -> SysResult {
    let mut synced: Vec<u64> = Vec::new();
    for mount in cx.task.kernel.mounts.mounts() {
        let sb = mount.sb();
        if !synced.contains(&sb.dev()) {
            synced.push(sb.dev());
            // The call has no way to tell of errors.
            let _ = sb.root().inode().sync_fs();
        }
    }
    Ok(0)
}

/// `cachestat(2)`: pages of the sandbox are never written back, and none is remembered once it was given up.
///
/// Source: Linux 6.18 mm/filemap.c.
pub(super) fn sys_cachestat(
    cx: &mut Ctx<'_>,
    fd: i32,
    range: UserAddr,
    stat: UserAddr,
    flags: u32,
) -> SysResult {
    let file = cx.open_file(fd)?;
    let [offset, len]: [u64; 2] = cx.mm.read_value(range)?;
    if !file.is_writable() {
        let meta = file.metadata()?;
        let may_write = fs::vfs::check_permission(&meta, fs::vfs::may::WRITE, &cx.cred).is_ok();
        if meta.uid != cx.cred.fsuid && !may_write {
            return Err(EPERM.into());
        }
    }
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let size = file.ops.metadata()?.size;
    let end = if len == 0 { size } else { offset.saturating_add(len).min(size) };
    let mut pages = 0;
    if let Ok(mappable) = file.ops.mappable() {
        let mut at = offset & !(base::PAGE_SIZE - 1);
        while at < end && !cx.task.must_exit() {
            match mappable.cached(at, end - at) {
                Some(run) => {
                    cx.task.kernel.memory.dec_ref(run);
                    pages += run.len.div_ceil(base::PAGE_SIZE);
                    at += run.len.max(base::PAGE_SIZE);
                }
                // Holes can be long.
                None => match file.ops.seek_data(at, size) {
                    Ok(data) => at = (data & !(base::PAGE_SIZE - 1)).max(at + base::PAGE_SIZE),
                    Err(_) => break,
                },
            }
        }
    }
    cx.mm.write_value(stat, &[pages, 0, 0, 0, 0])?;
    Ok(0)
}
