//! Read-only images (Linux fs/erofs, Documentation/filesystems/erofs.rst): a root file system in one file of the host.
//!
//! Nothing in an image is believed: every place is checked against its length when it is read, names and counts when
//! they are used, and what does not add up is an `EUCLEAN` or `EIO` of the file concerned. Of compressed files those of LZ4
//! are known; an image that needs what is not known is refused as a whole.
//!
//! Reading order: this file (the super block, inodes), `data.rs` (the bytes of files), `compressed.rs`, `dir.rs`, `xattr.rs`.

mod compressed;
mod data;
mod dir;
#[cfg(test)]
mod tests;
mod xattr;

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::errno::{EINVAL, EIO, ELOOP, ENODATA, ENOENT, ENOTDIR, ENXIO, EOPNOTSUPP, EROFS, EUCLEAN};
use base::lock::{Lock, rank};
use base::memmap::Memory;
use base::time::Time;

use crate::anon::pipe::Fifo;
use crate::file::{FileOps, Metadata};
use crate::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, XattrFlags, iflag, mode};
use data::Pages;

const SUPER_OFFSET: u64 = 1024;
const SUPER_LEN: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Features without which an image cannot be read: LZ4 with zeros before it, without which compressed files are of an old
/// form; a list of algorithms, and pieces of several blocks; chunks.
const ZERO_PADDING: u32 = 1;
const ALGORITHMS: u32 = 2;
/// Those that are known.
const INCOMPAT_KNOWN: u32 = ZERO_PADDING | ALGORITHMS | 0x4;
const SLOT: u64 = 32;
/// Longest target of a symbolic link.
const LINK_MAX: u64 = 4096;

/// Where an image's bytes come from.
pub(crate) trait Image: Send + Sync {
    /// How many there are.
    fn len(&self) -> u64;
    /// Reads all of `buf` at `offset`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno>;
}

struct HostImage {
    fd: OwnedFd,
    len: u64,
}

impl Image for HostImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match host::file::read_at(self.fd.as_fd(), offset + done as u64, rest)? {
                // The host cut the file.
                0 => return Err(EIO),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// An image and what its super block says.
struct Fs {
    image: Box<dyn Image>,
    memory: Arc<dyn Memory>,
    dev: u64,
    block_bits: u32,
    /// Where inode 0 would be.
    meta: u64,
    /// Where shared attributes are.
    xattrs: u64,
    blocks: u64,
    inodes: u64,
    built: Time,
    has_padding: bool,
    /// What was decompressed last: reads come in parts of it.
    last_piece: Lock<Option<compressed::Piece>, { rank::LEAF }>,
}

impl Fs {
    /// Reads `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `EUCLEAN`: they are not in the image.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let end = offset.checked_add(buf.len() as u64).ok_or(EUCLEAN)?;
        if end > self.image.len() { Err(EUCLEAN) } else { self.image.read(offset, buf) }
    }

    fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// The byte at which block `block` begins.
    fn block_at(&self, block: u32) -> u64 {
        u64::from(block) << self.block_bits
    }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The root of the image in the host's file `fd`.
///
/// # Errors
/// `EINVAL`: no image, or one that needs what is not known; `EUCLEAN`: a damaged one.
pub fn new(memory: Arc<dyn Memory>, fd: OwnedFd) -> Result<Arc<dyn Inode>, Errno> {
    let len = host::file::stat(fd.as_fd())?.size;
    from_image(memory, Box::new(HostImage { fd, len }))
}

pub(crate) fn from_image(memory: Arc<dyn Memory>, image: Box<dyn Image>) -> Result<Arc<dyn Inode>, Errno> {
    let mut raw = [0; SUPER_LEN];
    if image.len() < SUPER_OFFSET + SUPER_LEN as u64 {
        return Err(EINVAL);
    }
    image.read(SUPER_OFFSET, &mut raw)?;
    let block_bits = u32::from(raw[12]);
    let incompat = le32(&raw, 80);
    let extra_devices = le16(&raw, 86);
    if le32(&raw, 0) != MAGIC || !(9..=16).contains(&block_bits) || incompat & !INCOMPAT_KNOWN != 0 {
        return Err(EINVAL);
    }
    if extra_devices != 0 {
        return Err(EINVAL);
    }
    // Bit 0 is LZ4.
    if incompat & ALGORITHMS != 0 && le16(&raw, 84) & !1 != 0 {
        return Err(EINVAL);
    }
    let built = i64::try_from(le64(&raw, 24)).unwrap_or(0);
    let fs = Arc::new(Fs {
        image,
        memory,
        dev: crate::vfs::new_dev(),
        block_bits,
        meta: u64::from(le32(&raw, 40)) << block_bits,
        xattrs: u64::from(le32(&raw, 44)) << block_bits,
        blocks: le32(&raw, 36).into(),
        inodes: le64(&raw, 16),
        built: Time { sec: built, nsec: le32(&raw, 32).min(999_999_999) },
        has_padding: incompat & ZERO_PADDING != 0,
        last_piece: Lock::default(),
    });
    let root = ErofsInode::read(&fs, le16(&raw, 14).into())?;
    if root.kind() != FileType::Directory {
        return Err(EUCLEAN);
    }
    Ok(root)
}

/// How the bytes of a file are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// In one piece.
    Plain,
    /// In one piece, with the last block behind the inode.
    Inline,
    /// Compressed.
    Compressed,
    /// In chunks, of which a table behind the inode tells.
    Chunks,
}

/// A file of an image.
struct ErofsInode {
    fs: Arc<Fs>,
    nid: u64,
    layout: Layout,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: Time,
    /// Where the bytes are, the number of a device, or the form of chunks.
    union: u32,
    /// Where its attributes begin, and how many bytes they take.
    xattr_at: u64,
    xattr_len: u64,
    pages: OnceLock<Arc<Pages>>,
    fifo: OnceLock<Box<Fifo>>,
}

impl fmt::Debug for ErofsInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsInode").field("nid", &self.nid).finish_non_exhaustive()
    }
}

impl ErofsInode {
    fn read(fs: &Arc<Fs>, nid: u64) -> Result<Arc<Self>, Errno> {
        const COMPACT: u64 = 32;
        const EXTENDED: u64 = 64;
        let at = nid.checked_mul(SLOT).and_then(|n| n.checked_add(fs.meta)).ok_or(EUCLEAN)?;
        let mut raw = [0; EXTENDED as usize];
        let format = {
            fs.read(at, &mut raw[..COMPACT as usize])?;
            le16(&raw, 0)
        };
        let is_extended = format & 1 != 0;
        if is_extended {
            fs.read(at, &mut raw)?;
        }
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain,
            2 => Layout::Inline,
            4 => Layout::Chunks,
            3 if fs.has_padding => Layout::Compressed,
            1 | 3 => return Err(EOPNOTSUPP),
            _ => return Err(EUCLEAN),
        };
        let xattr_len = match le16(&raw, 2) {
            0 => 0,
            n => 12 + (u64::from(n) - 1) * 4,
        };
        let len = if is_extended { EXTENDED } else { COMPACT };
        let (size, uid, gid, nlink, mtime) = if is_extended {
            let sec = i64::try_from(le64(&raw, 32)).unwrap_or(0);
            let mtime = Time { sec, nsec: le32(&raw, 40).min(999_999_999) };
            (le64(&raw, 8), le32(&raw, 24), le32(&raw, 28), le32(&raw, 44), mtime)
        } else {
            let id = |at| u32::from(le16(&raw, at));
            (le32(&raw, 8).into(), id(24), id(26), id(6), fs.built)
        };
        let mode = u32::from(le16(&raw, 4));
        let is_known = matches!(
            mode & mode::IFMT,
            mode::IFREG | mode::IFDIR | mode::IFLNK | mode::IFCHR | mode::IFBLK | mode::IFIFO | mode::IFSOCK
        );
        if !is_known || size > i64::MAX as u64 {
            return Err(EUCLEAN);
        }
        Ok(Arc::new(Self {
            fs: fs.clone(),
            nid,
            layout,
            mode,
            uid,
            gid,
            nlink,
            size,
            mtime,
            union: le32(&raw, 16),
            xattr_at: at + len,
            xattr_len,
            pages: OnceLock::new(),
            fifo: OnceLock::new(),
        }))
    }

    fn kind(&self) -> FileType {
        FileType::from_mode(self.mode)
    }
}

impl Inode for ErofsInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let has_device = matches!(self.kind(), FileType::Char | FileType::Block);
        Ok(Metadata {
            dev: self.fs.dev,
            ino: self.nid,
            mode: self.mode,
            nlink: self.nlink.into(),
            uid: self.uid,
            gid: self.gid,
            rdev: if has_device { self.union.into() } else { 0 },
            size: if has_device { 0 } else { self.size },
            blksize: self.fs.block_size(),
            blocks: match self.layout {
                Layout::Compressed => u64::from(self.union) << (self.fs.block_bits - 9),
                _ => self.size.div_ceil(512),
            },
            atime: self.mtime,
            mtime: self.mtime,
            ctime: self.mtime,
            btime: Time::default(),
            // Where there are attributes, there may be an access list: `acl::check` looks.
            flags: if self.xattr_len == 0 { 0 } else { iflag::ACL },
        })
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(self.kind())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs {
            kind: MAGIC.into(),
            block_size: self.fs.block_size(),
            blocks: self.fs.blocks,
            files: self.fs.inodes,
            name_len: 255,
            ..StatFs::default()
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.kind() != FileType::Directory {
            return Err(ENOTDIR);
        }
        let nid = self.find(name)?.ok_or(ENOENT)?;
        Ok(Self::read(&self.fs, nid)?)
    }

    fn create(&self, _: &[u8], _: u32, _: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EROFS)
    }

    fn mkdir(&self, _: &[u8], _: u32, _: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EROFS)
    }

    fn set_attributes(&self, _: &SetAttributes) -> Result<(), Errno> {
        Err(EROFS)
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        if self.kind() != FileType::Symlink {
            return Err(EINVAL);
        }
        if self.size > LINK_MAX {
            return Err(EUCLEAN);
        }
        let mut target = vec![0; self.size as usize];
        self.read_bytes(0, &mut target)?;
        if target.contains(&0) { Err(EUCLEAN) } else { Ok(target) }
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let found = self.xattrs()?.into_iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value).ok_or(ENODATA)
    }

    fn set_xattr(&self, _: &[u8], _: &[u8], _: XattrFlags) -> Result<(), Errno> {
        Err(EROFS)
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.xattrs()?.into_iter().map(|(name, _)| name).collect())
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        match self.kind() {
            FileType::Regular => Ok(Box::new(data::OpenFile::new(self))),
            FileType::Directory => Ok(Box::new(dir::OpenDirectory::new(self))),
            FileType::Symlink => Err(ELOOP),
            FileType::Fifo => {
                let inode: Arc<dyn Inode> = self.clone();
                self.fifo.get_or_init(Box::default).open(&inode, flags)
            }
            _ => Err(ENXIO),
        }
    }
}
