//! Open files and directories.

use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EBADF, EISDIR};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::memmap::Mappable;
use base::wait::{Events, WaitQueue};

use super::copy_up::Contents;
use super::{OverlayInode, is_whiteout, optional};
use crate::file::{DirEntry, FileOps, IoctlMemory, Metadata, oflag};
use crate::vfs::{FileType, Inode};

pub(super) fn open(inode: Arc<OverlayInode>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
    if inode.is_dir {
        return Ok(Box::new(OpenDirectory { inode, entries: Lock::new(None) }));
    }
    let top = inode.top()?;
    match top.metadata()?.file_type() {
        FileType::Regular => {}
        // Those who open a FIFO meet in the sandbox, never on the host.
        FileType::Fifo => return inode.copy_up()?.open(flags),
        _ => return top.open(flags),
    }
    let is_truncated = flags & oflag::TRUNC != 0;
    if flags & oflag::ACCMODE != oflag::RDONLY || is_truncated {
        let contents = if is_truncated { Contents::Dropped } else { Contents::Copied };
        let ops = inode.copy_up_with(contents)?.open(flags)?;
        return Ok(Box::new(OpenFile { inode, flags, ops, is_upper: true, later: OnceLock::new() }));
    }
    let is_upper = inode.has_upper.load(Ordering::Acquire);
    let ops = inode.top()?.open(flags)?;
    Ok(Box::new(OpenFile { inode, flags, ops, is_upper, later: OnceLock::new() }))
}

/// An open regular file. One that was opened before its copy up goes on with the copy, as in Linux; its mappings stay
/// with the lower file.
#[derive(Debug)]
struct OpenFile {
    inode: Arc<OverlayInode>,
    flags: u32,
    ops: Box<dyn FileOps>,
    is_upper: bool,
    later: OnceLock<Box<dyn FileOps>>,
}

impl OpenFile {
    fn ops(&self) -> Result<&dyn FileOps, Errno> {
        if self.is_upper || !self.inode.has_upper.load(Ordering::Acquire) {
            return Ok(&*self.ops);
        }
        if let Some(ops) = self.later.get() {
            return Ok(&**ops);
        }
        let ops = self.inode.top()?.open(self.flags)?;
        Ok(&**self.later.get_or_init(|| ops))
    }
}

impl FileOps for OpenFile {
    fn is_seekable(&self) -> bool {
        self.ops.is_seekable()
    }

    fn can_be_direct(&self) -> bool {
        self.ops.can_be_direct()
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        self.ops()?.read_at(offset, dst)
    }

    fn write_at(&self, offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if self.is_upper { self.ops.write_at(offset, src) } else { Err(EBADF) }
    }

    fn append(&self, src: &mut dyn Source) -> Result<(usize, u64), Errno> {
        if self.is_upper { self.ops.append(src) } else { Err(EBADF) }
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        if self.is_upper { self.ops.truncate(size) } else { Err(EBADF) }
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        if self.is_upper { self.ops.allocate(mode, offset, len) } else { Err(EBADF) }
    }

    fn seek_data(&self, offset: u64, size: u64) -> Result<u64, Errno> {
        self.ops()?.seek_data(offset, size)
    }

    fn seek_hole(&self, offset: u64, size: u64) -> Result<u64, Errno> {
        self.ops()?.seek_hole(offset, size)
    }

    fn sync(&self) -> Result<(), Errno> {
        self.ops()?.sync()
    }

    fn ready(&self) -> Events {
        self.ops.ready()
    }

    fn tells_of_readiness(&self) -> bool {
        self.ops.tells_of_readiness()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.ops.wait_queue()
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        self.ops()?.ioctl(request, arg, memory)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.ops()?.mappable()
    }

    fn set_flags(&self, flags: u32) {
        self.ops.set_flags(flags);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Entry {
    ino: u64,
    kind: u8,
    name: Box<[u8]>,
}

/// An open directory: the merged names, as they were when reading began.
struct OpenDirectory {
    inode: Arc<OverlayInode>,
    entries: Lock<Option<Arc<Vec<Entry>>>, { rank::LEAF }>,
}

impl std::fmt::Debug for OpenDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenDirectory").field(&self.inode).finish()
    }
}

fn dots(entry: &DirEntry<'_>) -> bool {
    matches!(entry.name, b"." | b"..")
}

/// The names in both layers.
fn merged(inode: &OverlayInode) -> Result<Vec<Entry>, Errno> {
    let layers = inode.layers();
    let fs = &inode.fs;
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    if let Some(upper) = &layers.upper {
        let dir = upper.clone().open(oflag::RDONLY | oflag::DIRECTORY)?;
        dir.read_dir(0, &mut |entry| {
            if !dots(&entry) {
                entries.push(Entry { ino: entry.ino, kind: entry.kind, name: entry.name.into() });
            }
            true
        })?;
        let has_lower = layers.lower.is_some();
        let mut kept = Vec::with_capacity(entries.len());
        for mut entry in entries {
            let hides = has_lower.then(|| entry.name.clone());
            let is_removed = entry.kind == FileType::Char.dt()
                && optional(upper.lookup(&entry.name))?
                    .map_or(Ok(true), |found| found.metadata().map(|m| is_whiteout(&m)))?;
            if !is_removed {
                entry.ino = fs.upper_ino(entry.ino);
                kept.push(entry);
            }
            seen.extend(hides);
        }
        entries = kept;
    }
    if let Some(lower) = &layers.lower {
        let dev = lower.metadata()?.dev;
        let dir = lower.clone().open(oflag::RDONLY | oflag::DIRECTORY)?;
        dir.read_dir(0, &mut |entry| {
            if !dots(&entry) && !seen.contains(entry.name) {
                let ino = fs.lower_ino(dev, entry.ino);
                entries.push(Entry { ino, kind: entry.kind, name: entry.name.into() });
            }
            true
        })?;
    }
    Ok(entries)
}

/// Whether a directory shows no names.
pub(super) fn is_empty(inode: &OverlayInode) -> Result<bool, Errno> {
    Ok(merged(inode)?.is_empty())
}

impl FileOps for OpenDirectory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _: u64, _: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let known = if offset == 0 { None } else { self.entries.lock().clone() };
        let entries = match known {
            Some(entries) => entries,
            None => {
                let entries = Arc::new(merged(&self.inode)?);
                let old = self.entries.lock().replace(entries.clone());
                drop(old);
                entries
            }
        };
        let above = self.inode.layers().parent.map_or(self.inode.ino, |p| p.ino);
        let dir = FileType::Directory.dt();
        let fixed: [(u64, u8, &[u8]); 2] = [(self.inode.ino, dir, b"."), (above, dir, b"..")];
        // Straight to the place: a step for each entry before it would make long directories quadratic.
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let first = fixed.get(at..).unwrap_or_default();
        let rest = entries.get(at.saturating_sub(fixed.len())..).unwrap_or_default();
        let all = first.iter().copied().chain(rest.iter().map(|e| (e.ino, e.kind, &*e.name)));
        for ((ino, kind, name), next) in all.zip(offset.saturating_add(1)..) {
            if !emit(DirEntry { ino, next, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
