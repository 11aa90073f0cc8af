//! Directories: blocks, each with entries in the order of their names, and the names behind them.

use std::any::Any;
use std::cmp::Ordering;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EISDIR, EUCLEAN};
use base::io::Sink;

use super::{ErofsInode, le16, le64};
use crate::file::{DirEntry, FileOps, Metadata};
use crate::vfs::{FileType, Inode};

const ENTRY: usize = 12;

/// An entry: the number of the inode, `DT_*`, the name.
type Found<'a> = (u64, u8, &'a [u8]);

/// The entries of a block.
///
/// # Errors
/// `EUCLEAN`: places or names that cannot be.
fn entries(block: &[u8]) -> Result<Vec<Found<'_>>, Errno> {
    let first = usize::from(le16(block, 8));
    if first < ENTRY || !first.is_multiple_of(ENTRY) || first > block.len() {
        return Err(EUCLEAN);
    }
    let count = first / ENTRY;
    let mut list = Vec::with_capacity(count);
    for i in 0..count {
        let at = i * ENTRY;
        let start = usize::from(le16(block, at + 8));
        let end = if i + 1 < count { usize::from(le16(block, at + ENTRY + 8)) } else { block.len() };
        let name = block.get(start..end).filter(|_| start >= first).ok_or(EUCLEAN)?;
        // Behind the last name there may be zeros.
        let len = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        let name = name.get(..len).filter(|n| !n.is_empty() && n.len() <= 255).ok_or(EUCLEAN)?;
        if name.contains(&b'/') {
            return Err(EUCLEAN);
        }
        let kind = match block.get(at + 10).copied().unwrap_or(0) {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::Char,
            4 => FileType::Block,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => FileType::Anonymous,
        };
        list.push((le64(block, at), kind.dt(), name));
    }
    Ok(list)
}

impl ErofsInode {
    fn blocks(&self) -> u64 {
        self.size.div_ceil(self.fs.block_size())
    }

    fn block(&self, index: u64) -> Result<Vec<u8>, Errno> {
        let size = self.fs.block_size();
        let start = index.checked_mul(size).filter(|&s| s < self.size).ok_or(EUCLEAN)?;
        let mut block = vec![0; (self.size - start).min(size) as usize];
        self.read_bytes(start, &mut block)?;
        Ok(block)
    }

    /// The number of the inode called `name`: the block by halves, as its first name says.
    pub(super) fn find(&self, name: &[u8]) -> Result<Option<u64>, Errno> {
        let (mut low, mut high) = (0, self.blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.block(middle)?;
            let list = entries(&block)?;
            if let Some((nid, _, _)) = list.iter().find(|(_, _, n)| *n == name) {
                return Ok(Some(*nid));
            }
            match list.first().map(|(_, _, first)| name.cmp(first)) {
                Some(Ordering::Less) => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(None)
    }
}

/// An open directory. A position is the block's number and the entry's in it.
#[derive(Debug)]
pub(super) struct OpenDirectory(Arc<ErofsInode>);

/// More entries than a block can have.
const STRIDE: u64 = 1 << 16;

impl OpenDirectory {
    pub(super) fn new(inode: Arc<ErofsInode>) -> Self {
        Self(inode)
    }
}

impl FileOps for OpenDirectory {
    fn is_seekable(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let mut skip = usize::try_from(offset % STRIDE).unwrap_or(usize::MAX);
        for index in offset / STRIDE..self.0.blocks() {
            let block = self.0.block(index)?;
            let list = entries(&block)?;
            for (i, (nid, kind, name)) in list.iter().enumerate().skip(skip) {
                let is_last = i + 1 == list.len();
                let next = if is_last { (index + 1) * STRIDE } else { index * STRIDE + i as u64 + 1 };
                if !emit(DirEntry { ino: *nid, next, kind: *kind, name }) {
                    return Ok(());
                }
            }
            skip = 0;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
