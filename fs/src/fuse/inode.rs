//! Files of a server.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EEXIST, EINVAL, EIO, ENODATA, ENOENT, ENOSYS, EOPNOTSUPP, ERANGE};
use base::lock::{Lock, rank};
use base::memmap::Memory;
use base::time::Time;
use host::clock::{HostClock, now_ns};

use super::device::Device;
use super::pages::Mapped;
use super::{Body, Connection, Reply, caller, file, op};
use crate::anon::pipe::Fifo;
use crate::file::{FileDescription, FileOps, Metadata, oflag};
use crate::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, XattrFlags, mode};

const MAGIC: u64 = 0x6573_5546;
const ROOT: u64 = 1;
/// Longest attribute, and list of names.
const XATTR_MAX: u32 = 65536;

/// What a mount is told of.
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    /// The type of the root, as `st_mode` has it.
    pub root_mode: u32,
    /// Who mounted it.
    pub uid: u32,
    /// The same.
    pub gid: u32,
    /// Others may use it.
    pub allow_other: bool,
    /// Bytes that one read may ask for; 0 for no limit of the server's.
    pub max_read: u32,
}

#[derive(Debug)]
pub(super) struct Fs {
    pub(super) connection: Arc<Connection>,
    pub(super) mount: Mount,
    dev: u64,
    pub(super) mapped: Mapped,
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.connection.end();
    }
}

/// What was told of a file, and until when it counts: monotonic ns.
#[derive(Clone, Copy, Debug)]
struct Known {
    meta: Metadata,
    until: i64,
}

/// A file of a server.
#[derive(Debug)]
pub(super) struct FuseInode {
    pub(super) fs: Arc<Fs>,
    pub(super) node: u64,
    kind: FileType,
    known: Lock<Option<Known>, { rank::LEAF }>,
    fifo: std::sync::OnceLock<Box<Fifo>>,
}

/// The root of a file system that the server behind `device` serves.
///
/// # Errors
/// `EINVAL`: no /dev/fuse, or one that is mounted already.
pub fn mount(
    device: &FileDescription,
    mount: Mount,
    memory: Arc<dyn Memory>,
) -> Result<Arc<dyn Inode>, Errno> {
    let device: &Device = device.ops.as_any().downcast_ref().ok_or(EINVAL)?;
    let connection = device.connection.clone();
    if connection.state.lock().is_mounted {
        return Err(EINVAL);
    }
    connection.begin();
    let mapped = Mapped::new(memory);
    let fs = Arc::new(Fs { connection, mount, dev: crate::vfs::new_dev(), mapped });
    Ok(Arc::new(FuseInode {
        fs,
        node: ROOT,
        kind: FileType::from_mode(mount.root_mode),
        known: Lock::default(),
        fifo: std::sync::OnceLock::new(),
    }))
}

impl Fs {
    /// What `struct fuse_attr` says.
    fn attributes(&self, reply: &mut Reply<'_>) -> Result<Metadata, Errno> {
        let (ino, size, blocks) = (reply.u64()?, reply.u64()?, reply.u64()?);
        let mut times = [Time::default(); 3];
        for time in &mut times {
            time.sec = reply.u64()?.cast_signed();
        }
        for time in &mut times {
            time.nsec = reply.u32()?.min(999_999_999);
        }
        let (mode, nlink, uid, gid) = (reply.u32()?, reply.u32()?, reply.u32()?, reply.u32()?);
        let (rdev, blksize, _) = (reply.u32()?, reply.u32()?, reply.u32()?);
        let is_known = matches!(
            mode & mode::IFMT,
            mode::IFREG | mode::IFDIR | mode::IFLNK | mode::IFCHR | mode::IFBLK | mode::IFIFO | mode::IFSOCK
        );
        if !is_known || size > i64::MAX as u64 {
            return Err(EIO);
        }
        Ok(Metadata {
            dev: self.dev,
            ino,
            mode: mode & 0o177_777,
            nlink: nlink.into(),
            uid,
            gid,
            rdev: rdev.into(),
            size,
            blksize: if blksize == 0 { 4096 } else { blksize.into() },
            blocks,
            atime: times[0],
            mtime: times[1],
            ctime: times[2],
            ..Metadata::default()
        })
    }

    /// # Errors
    /// `EACCES`: the file system is its mounter's alone.
    fn check_caller(&self) -> Result<(), Errno> {
        if self.mount.allow_other || caller().0 == self.mount.uid { Ok(()) } else { Err(EACCES) }
    }
}

fn until(sec: u64, nsec: u32) -> i64 {
    let length = i64::try_from(sec).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    now_ns(HostClock::Monotonic).saturating_add(length.saturating_add(nsec.into()))
}

impl FuseInode {
    pub(super) fn ask(&self, op: u32, body: Body) -> Result<Vec<u8>, Errno> {
        self.fs.connection.ask(op, self.node, body)
    }

    /// The file that a reply with `struct fuse_entry_out` is about.
    fn entry(&self, bytes: &[u8]) -> Result<Arc<Self>, Errno> {
        let mut reply = Reply(bytes);
        let (node, _, _) = (reply.u64()?, reply.u64()?, reply.u64()?);
        let (sec, _, nsec) = (reply.u64()?, reply.u32()?, reply.u32()?);
        if node == 0 {
            return Err(ENOENT);
        }
        if node == ROOT {
            return Err(EIO);
        }
        let meta = self.fs.attributes(&mut reply)?;
        let known = Known { meta, until: until(sec, nsec) };
        Ok(Arc::new(Self {
            fs: self.fs.clone(),
            node,
            kind: meta.file_type(),
            known: Lock::new(Some(known)),
            fifo: std::sync::OnceLock::new(),
        }))
    }

    fn make(&self, op: u32, body: Body) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.check_caller()?;
        let bytes = self.ask(op, body)?;
        self.forget_known();
        Ok(self.entry(&bytes)?)
    }

    pub(super) fn forget_known(&self) {
        *self.known.lock() = None;
    }

    /// Takes a reply with `struct fuse_attr_out`.
    fn learn(&self, bytes: &[u8]) -> Result<Metadata, Errno> {
        let mut reply = Reply(bytes);
        let (sec, nsec, _) = (reply.u64()?, reply.u32()?, reply.u32()?);
        let meta = self.fs.attributes(&mut reply)?;
        if meta.file_type() != self.kind {
            return Err(EIO);
        }
        *self.known.lock() = Some(Known { meta, until: until(sec, nsec) });
        Ok(meta)
    }
}

impl Inode for FuseInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let known = *self.known.lock();
        if let Some(known) = known.filter(|known| known.until > now_ns(HostClock::Monotonic)) {
            return Ok(known.meta);
        }
        if self.node == ROOT && self.fs.connection.max_write.load(Ordering::Acquire) == 0 {
            // The server does not answer yet; mount(2) asks.
            let Mount { root_mode, uid, gid, .. } = self.fs.mount;
            let mode = root_mode & mode::IFMT | 0o755;
            return Ok(Metadata {
                dev: self.fs.dev,
                ino: ROOT,
                mode,
                nlink: 1,
                uid,
                gid,
                ..Metadata::default()
            });
        }
        self.fs.check_caller()?;
        let bytes = self.ask(op::GETATTR, Body::default().u64(0).u64(0))?;
        self.learn(&bytes)
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(self.kind)
    }

    fn mount_options(&self) -> String {
        let m = &self.fs.mount;
        let other = if m.allow_other { ",allow_other" } else { "" };
        let read = if m.max_read > 0 { format!(",max_read={}", m.max_read) } else { String::new() };
        format!(",user_id={},group_id={}{other}{read}", m.uid, m.gid)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.make_lookup(name)
    }

    fn create(&self, name: &[u8], mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.check_caller()?;
        let flags = oflag::RDWR | oflag::CREAT | oflag::EXCL;
        let mode = mode::IFREG | mode & 0o7777;
        let body = Body::default().u32(flags).u32(mode).u32(0).u32(0).name(name);
        match self.ask(op::CREATE, body) {
            Ok(bytes) => {
                /// Bytes of the entry, before the open file.
                const ENTRY: usize = 128;
                let inode = self.entry(&bytes)?;
                let fh = Reply(bytes.get(ENTRY..).unwrap_or_default()).u64()?;
                // It is opened as its opener wants it.
                let body = Body::default().u64(fh).u32(oflag::RDWR).u32(0).u64(0);
                inode.fs.connection.release(op::RELEASE, inode.clone(), &body);
                self.forget_known();
                Ok(inode)
            }
            Err(ENOSYS) => self.make(op::MKNOD, Body::default().u32(mode).u32(0).u32(0).u32(0).name(name)),
            Err(e) => Err(e),
        }
    }

    fn mkdir(&self, name: &[u8], mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(op::MKDIR, Body::default().u32(mode & 0o7777).u32(0).name(name))
    }

    fn mknod(&self, name: &[u8], mode: u32, rdev: u64, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let rdev = u32::try_from(rdev).map_err(|_| EINVAL)?;
        self.make(op::MKNOD, Body::default().u32(mode).u32(rdev).u32(0).u32(0).name(name))
    }

    fn symlink(&self, name: &[u8], target: &[u8], _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(op::SYMLINK, Body::default().name(name).name(target))
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
        let old = inode.as_any().downcast_ref::<Self>().ok_or(abi::errno::EXDEV)?;
        old.forget_known();
        self.make(op::LINK, Body::default().u64(old.node).name(name))
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.ask(op::UNLINK, Body::default().name(name))?;
        self.forget_known();
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        self.ask(op::RMDIR, Body::default().name(name))?;
        self.forget_known();
        Ok(())
    }

    fn rename(
        &self,
        old_name: &[u8],
        new_parent: &Arc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let new = new_parent.as_any().downcast_ref::<Self>().ok_or(abi::errno::EXDEV)?;
        let body = Body::default().u64(new.node);
        let result = if flags == 0 {
            self.ask(op::RENAME, body.name(old_name).name(new_name))
        } else {
            let asked = self.ask(op::RENAME2, body.u32(flags).u32(0).name(old_name).name(new_name));
            asked.map_err(|e| if e == ENOSYS { EINVAL } else { e })
        };
        self.forget_known();
        new.forget_known();
        result.map(drop)
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        if self.kind != FileType::Symlink {
            return Err(EINVAL);
        }
        let target = self.ask(op::READLINK, Body::default())?;
        if target.len() > 4095 || target.contains(&0) { Err(EIO) } else { Ok(target) }
    }

    fn set_attributes(&self, set: &SetAttributes) -> Result<(), Errno> {
        let mut valid = 0;
        let mut bit = |is_set: bool, bit: u32| valid |= if is_set { bit } else { 0 };
        bit(set.mode.is_some(), 1);
        bit(set.uid.is_some(), 2);
        bit(set.gid.is_some(), 4);
        bit(set.size.is_some(), 8);
        bit(set.atime.is_some(), 0x10);
        bit(set.mtime.is_some(), 0x20);
        let (atime, mtime) = (set.atime.unwrap_or_default(), set.mtime.unwrap_or_default());
        let mode = set.mode.map_or(0, |m| m & 0o7777 | self.mode_bits());
        let body = Body::default().u32(valid).u32(0).u64(0).u64(set.size.unwrap_or(0)).u64(0);
        let body = body.u64(atime.sec.cast_unsigned()).u64(mtime.sec.cast_unsigned()).u64(0);
        let body = body.u32(atime.nsec).u32(mtime.nsec).u32(0).u32(mode).u32(0);
        let body = body.u32(set.uid.unwrap_or(0)).u32(set.gid.unwrap_or(0)).u32(0);
        let bytes = self.ask(op::SETATTR, body)?;
        self.learn(&bytes).map(drop)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let body = Body::default().u32(XATTR_MAX).u32(0).name(name);
        let value = self.ask(op::GETXATTR, body).map_err(without_xattrs)?;
        if value.len() > XATTR_MAX as usize { Err(EIO) } else { Ok(value) }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let flags = match flags {
            XattrFlags::Any => 0,
            XattrFlags::Create => 1,
            XattrFlags::Replace => 2,
        };
        let body = Body::default().u32(value.len() as u32).u32(flags).name(name).bytes(value);
        self.ask(op::SETXATTR, body).map_err(without_xattrs).map(drop)
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let body = Body::default().u32(XATTR_MAX).u32(0);
        match self.ask(op::LISTXATTR, body).map_err(without_xattrs) {
            Ok(list) if list.len() > XATTR_MAX as usize => Err(EIO),
            Ok(list) => Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()),
            Err(EOPNOTSUPP | ENODATA) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.ask(op::REMOVEXATTR, Body::default().name(name)).map_err(without_xattrs).map(drop)
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        self.fs.check_caller()?;
        match self.kind {
            FileType::Regular | FileType::Directory => file::open(self, flags),
            FileType::Symlink => Err(abi::errno::ELOOP),
            FileType::Fifo => {
                let inode: Arc<dyn Inode> = self.clone();
                self.fifo.get_or_init(Box::default).open(&inode, flags)
            }
            _ => Err(abi::errno::ENXIO),
        }
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let none = StatFs { kind: MAGIC, name_len: 255, block_size: 4096, ..StatFs::default() };
        if self.fs.connection.max_write.load(Ordering::Acquire) == 0 {
            return Ok(none);
        }
        let bytes = self.ask(op::STATFS, Body::default())?;
        let mut reply = Reply(&bytes);
        let (blocks, free, available) = (reply.u64()?, reply.u64()?, reply.u64()?);
        let (files, files_free) = (reply.u64()?, reply.u64()?);
        let (block_size, name_len) = (reply.u32()?.into(), reply.u32()?.into());
        Ok(StatFs { blocks, free, available, files, files_free, block_size, name_len, ..none })
    }

    /// The server is asked each time.
    fn cacheable(&self) -> bool {
        false
    }
}

/// A server without attributes.
fn without_xattrs(e: Errno) -> Errno {
    match e {
        ENOSYS => EOPNOTSUPP,
        ERANGE => EIO,
        EEXIST => EEXIST,
        e => e,
    }
}

impl FuseInode {
    fn make_lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.check_caller()?;
        let bytes = self.ask(op::LOOKUP, Body::default().name(name))?;
        Ok(self.entry(&bytes)?)
    }

    fn mode_bits(&self) -> u32 {
        u32::from(self.kind.dt()) << 12
    }
}

impl Drop for FuseInode {
    fn drop(&mut self) {
        if self.node != ROOT {
            self.fs.connection.tell(op::FORGET, self.node, &Body::default().u64(1));
        }
    }
}
