//! The bytes of files, and their pages in the memory file.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EBADF, EINVAL, ENXIO, EUCLEAN};
use base::PAGE_SIZE;
use base::io::Sink;
use base::lock::{Lock, rank};
use base::memmap::{MapError, Mappable, MemKind, MemRange, Memory};

use super::{ErofsInode, Layout, le16, le32};
use crate::file::{FileOps, Metadata};
use crate::vfs::Inode;
use crate::vfs::pages::PageMap;

/// Bytes that are read from the image at a time.
const PIECE: u64 = 64 << 10;

/// Where a piece of a file is: in the image, or nowhere (a hole), and how long it is.
struct Piece {
    at: Option<u64>,
    len: u64,
}

impl ErofsInode {
    /// Where the bytes from `offset` on are.
    fn locate(&self, offset: u64) -> Result<Piece, Errno> {
        let fs = &self.fs;
        let block = fs.block_size();
        match self.layout {
            Layout::Plain => {
                let at = fs.block_at(self.union).checked_add(offset).ok_or(EUCLEAN)?;
                Ok(Piece { at: Some(at), len: self.size - offset })
            }
            Layout::Inline => {
                let last = self.size.div_ceil(block).saturating_sub(1) * block;
                if offset < last {
                    let at = fs.block_at(self.union).checked_add(offset).ok_or(EUCLEAN)?;
                    return Ok(Piece { at: Some(at), len: last - offset });
                }
                let tail = self.xattr_at.checked_add(self.xattr_len).ok_or(EUCLEAN)?;
                if tail % block + (self.size - last) > block {
                    return Err(EUCLEAN);
                }
                Ok(Piece { at: Some(tail + (offset - last)), len: self.size - offset })
            }
            // The bytes are nowhere as they are: see `read_bytes`. There are no holes.
            Layout::Compressed => Ok(Piece { at: Some(0), len: self.size - offset }),
            Layout::Chunks => {
                const BITS: u32 = 0x1f;
                const INDEXES: u32 = 0x20;
                let bits = fs.block_bits + (self.union & BITS);
                if bits > 40 || self.union & 0xffff & !(BITS | INDEXES) != 0 {
                    return Err(EUCLEAN);
                }
                let unit = if self.union & INDEXES != 0 { 8 } else { 4 };
                let table = self.xattr_at.checked_add(self.xattr_len).ok_or(EUCLEAN)?;
                let table = table.next_multiple_of(unit);
                let (chunk, inside) = (offset >> bits, offset & ((1 << bits) - 1));
                let at = chunk.checked_mul(unit).and_then(|n| n.checked_add(table)).ok_or(EUCLEAN)?;
                let mut raw = [0; 8];
                let entry = raw.get_mut(..unit as usize).ok_or(EUCLEAN)?;
                fs.read(at, entry)?;
                let address = if unit == 8 {
                    if le16(&raw, 2) != 0 {
                        // Another device.
                        return Err(EUCLEAN);
                    }
                    le32(&raw, 4)
                } else {
                    le32(&raw, 0)
                };
                let len = ((1 << bits) - inside).min(self.size - offset);
                let at = (address != u32::MAX).then(|| fs.block_at(address) + inside);
                Ok(Piece { at, len })
            }
        }
    }

    /// Reads all of `buf`, which lies in the file.
    pub(super) fn read_bytes(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if self.layout == Layout::Compressed {
            return self.read_compressed(offset, buf);
        }
        let mut done = 0;
        while done < buf.len() {
            let piece = self.locate(offset + done as u64)?;
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX).min(buf.len() - done);
            if len == 0 {
                return Err(EUCLEAN);
            }
            let part = buf.get_mut(done..done + len).ok_or(EUCLEAN)?;
            match piece.at {
                Some(at) => self.fs.read(at, part)?,
                None => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    fn read_compressed(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let (start, bytes) = self.piece_at(at)?;
            let from = bytes.get((at - start) as usize..).filter(|from| !from.is_empty()).ok_or(EUCLEAN)?;
            let len = from.len().min(rest.len());
            rest.get_mut(..len).ok_or(EUCLEAN)?.copy_from_slice(from.get(..len).ok_or(EUCLEAN)?);
            done += len;
        }
        Ok(())
    }

    fn pages(self: &Arc<Self>) -> &Arc<Pages> {
        self.pages.get_or_init(|| {
            Arc::new(Pages {
                inode: Arc::downgrade(self),
                memory: self.fs.memory.clone(),
                map: Lock::default(),
            })
        })
    }
}

/// What was read of one file.
pub(super) struct Pages {
    inode: Weak<ErofsInode>,
    memory: Arc<dyn Memory>,
    map: Lock<PageMap, { rank::PAGE_CACHE }>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    fn known(&self, page: u64, max_len: u64) -> Option<MemRange> {
        let map = self.map.lock();
        let mut run = map.find(page)?;
        run.len = run.len.min(max_len);
        self.memory.inc_ref(run);
        Some(run)
    }

    /// The pages from `page` on, at most `max_len` bytes of them; the caller gets a reference on each.
    fn get(&self, page: u64, max_len: u64) -> Result<MemRange, MapError> {
        if let Some(run) = self.known(page, max_len) {
            return Ok(run);
        }
        let inode = self.inode.upgrade().ok_or(MapError::Bus)?;
        let end = inode.size.next_multiple_of(PAGE_SIZE);
        let next = self.map.lock().next(page).unwrap_or(end).min(end);
        let len = PIECE.min(next.saturating_sub(page));
        if len == 0 {
            return Err(MapError::Bus);
        }
        let mut bytes = vec![0; len as usize];
        let filled = usize::try_from(inode.size - page).unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.get_mut(..filled).ok_or(MapError::Bus)?;
        inode.read_bytes(page, part).map_err(|_| MapError::Bus)?;
        let run = self.memory.allocate(len, PAGE_SIZE, MemKind::Shared).map_err(|_| MapError::NoMemory)?;
        self.memory.write(run.offset, &bytes);
        let mut map = self.map.lock();
        // Somebody may have been faster with some of the pages.
        let is_free = map.find(page).is_none() && map.next(page).is_none_or(|next| next >= page + len);
        if is_free {
            map.insert(page, run);
            let run = MemRange { len: len.min(max_len), ..run };
            self.memory.inc_ref(run);
            return Ok(run);
        }
        drop(map);
        self.memory.dec_ref(run);
        self.known(page, max_len).ok_or(MapError::NoMemory)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.map.get_mut().clear(&*self.memory);
    }
}

impl Mappable for Pages {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        // Nobody can have it open for writing.
        if write { Err(MapError::Bus) } else { self.get(offset, max_len) }
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        self.known(offset, max_len)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, _range: Range<u64>) -> Result<(), Errno> {
        Err(EBADF)
    }
}

/// What is mapped stays readable when nobody refers to the inode otherwise.
#[derive(Debug)]
struct Mapped {
    pages: Arc<Pages>,
    _inode: Arc<ErofsInode>,
}

impl Mappable for Mapped {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        self.pages.translate(offset, max_len, write)
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        self.pages.cached(offset, max_len)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, _range: Range<u64>) -> Result<(), Errno> {
        Err(EBADF)
    }
}

/// An open regular file.
#[derive(Debug)]
pub(super) struct OpenFile(Arc<ErofsInode>);

impl OpenFile {
    pub(super) fn new(inode: Arc<ErofsInode>) -> Self {
        Self(inode)
    }
}

impl FileOps for OpenFile {
    fn is_seekable(&self) -> bool {
        true
    }

    fn can_be_direct(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let inode = &self.0;
        let end = inode.size.min(offset.saturating_add(dst.remaining() as u64));
        let mut at = offset;
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            let skip = at - page;
            let run = match inode.pages().get(page, (end - page).next_multiple_of(PAGE_SIZE)) {
                Ok(run) => run,
                Err(_) if at > offset => break,
                Err(MapError::Bus) => return Err(EUCLEAN),
                Err(_) => return Err(abi::errno::ENOMEM),
            };
            let want = (run.len - skip).min(end - at);
            let result = dst.put_memory(&*inode.fs.memory, run.offset + skip, want as usize);
            inode.fs.memory.dec_ref(run);
            match result {
                Ok(n) => {
                    at += n as u64;
                    if (n as u64) < want {
                        break;
                    }
                }
                Err(e) if at == offset => return Err(e),
                Err(_) => break,
            }
        }
        Ok((at - offset.min(at)) as usize)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(EINVAL)
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn seek_data(&self, offset: u64, size: u64) -> Result<u64, Errno> {
        let mut at = offset;
        while at < size {
            let piece = self.0.locate(at)?;
            if piece.at.is_some() {
                return Ok(at);
            }
            at += piece.len.max(1);
        }
        Err(ENXIO)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::new(Mapped { pages: self.0.pages().clone(), _inode: self.0.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
