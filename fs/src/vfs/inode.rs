//! What a file system provides.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, ENOTDIR, ENOTTY, ENXIO, EOPNOTSUPP, EPERM};
use base::time::Time;

use super::VfsPath;
use crate::file::{FileDescription, FileOps, Metadata};

/// Bits of `st_mode` (inode(7)).
#[expect(missing_docs, reason = "inode(7) explains each")]
pub mod mode {
    pub const IFMT: u32 = 0o170000;
    pub const IFSOCK: u32 = 0o140000;
    pub const IFLNK: u32 = 0o120000;
    pub const IFREG: u32 = 0o100000;
    pub const IFBLK: u32 = 0o060000;
    pub const IFDIR: u32 = 0o040000;
    pub const IFCHR: u32 = 0o020000;
    pub const IFIFO: u32 = 0o010000;
    pub const ISUID: u32 = 0o4000;
    pub const ISGID: u32 = 0o2000;
    pub const ISVTX: u32 = 0o1000;
}

/// Attributes of inodes (ioctl_iflags(2)), with the values of `FS_*_FL` and of `STATX_ATTR_*`.
#[expect(missing_docs, reason = "ioctl_iflags(2) explains each")]
pub mod iflag {
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NODUMP: u32 = 0x40;
    pub const NOATIME: u32 = 0x80;
    /// Not one of them: there is an access control list.
    pub const ACL: u32 = 1 << 31;
    /// The same of a directory's default list.
    pub const DEFAULT_ACL: u32 = 1 << 30;
    /// Those that a file system here can keep.
    pub const ALL: u32 = IMMUTABLE | APPEND | NODUMP | NOATIME;
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// No type: event counters and their like.
    Anonymous = 0,
    /// A pipe with a name.
    Fifo = 1,
    /// A character device.
    Char = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    Block = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// The type that `st_mode` holds; unknown values count as regular files, none as [`Self::Anonymous`].
    pub const fn from_mode(mode: u32) -> Self {
        match mode & mode::IFMT {
            0 => Self::Anonymous,
            mode::IFIFO => Self::Fifo,
            mode::IFCHR => Self::Char,
            mode::IFDIR => Self::Directory,
            mode::IFBLK => Self::Block,
            mode::IFLNK => Self::Symlink,
            mode::IFSOCK => Self::Socket,
            _ => Self::Regular,
        }
    }

    /// `DT_*` of `getdents64`.
    pub const fn dt(self) -> u8 {
        self as u8
    }
}

impl Metadata {
    /// The type of the file.
    pub const fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }

    /// Whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        self.mode & mode::IFMT == mode::IFDIR
    }
}

/// Whom a new file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain")]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes, of regular files.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last modification.
    pub mtime: Option<Time>,
}

/// What `setxattr` demands of an attribute that is or is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrFlags {
    /// Nothing.
    #[default]
    Any,
    /// `XATTR_CREATE`: it must not exist.
    Create,
    /// `XATTR_REPLACE`: it must exist.
    Replace,
}

/// Where a magic link (`/proc/PID/fd/N`, `/proc/PID/cwd`) leads.
#[derive(Clone, Debug)]
pub enum MagicTarget {
    /// To an open file.
    File(Arc<FileDescription>),
    /// To a place.
    Path(VfsPath),
}

/// What `statfs` tells of a file system, in its units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// The magic number (statfs(2)).
    pub kind: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users without privilege.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// The longest name.
    pub name_len: u64,
}

#[expect(missing_docs, reason = "linux/magic.h lists them")]
impl StatFs {
    pub const TMPFS: u64 = 0x0102_1994;
    pub const PROC: u64 = 0x9fa0;
    pub const SYSFS: u64 = 0x6265_6572;
    pub const OVERLAY: u64 = 0x794c_7630;
    pub const PIPEFS: u64 = 0x5049_5045;
    pub const SOCKFS: u64 = 0x534f_434b;
    pub const ANON_INODE: u64 = 0x0904_1934;
}

/// A file of a file system, whether it is open or not.
///
/// The VFS has checked permissions, read-only mounts, the lengths of names and that they are neither empty nor `.` nor
/// `..` nor contain `/`, before it calls. Names that must not exist do not exist in the dentry cache; the file system
/// still answers `EEXIST` and `ENOENT` itself.
pub trait Inode: Debug + Send + Sync + Any {
    /// `stat`.
    ///
    /// # Errors
    /// The file system's.
    fn metadata(&self) -> Result<Metadata, Errno>;

    /// What the file is; that never changes. Asked under the locks of mounts: it takes none that come before them.
    ///
    /// # Errors
    /// The file system's.
    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(self.metadata()?.file_type())
    }

    /// What /proc/mounts shows of the file system's options, each with a comma before it; asked of its root.
    fn mount_options(&self) -> String {
        String::new()
    }

    /// Whether it is a directory that will never have names: mounts on it hide nothing.
    fn is_always_empty(&self) -> bool {
        false
    }

    /// Somebody watches it for `mask` (inotify(7)) from now on, until what this gives is dropped: what changes it without
    /// the VFS is to be told to `notify::outside`.
    fn watched(&self, _mask: u32) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }

    /// Whether new files get the access control lists that their directory hands on without being told.
    fn inherits_lists(&self) -> bool {
        false
    }

    /// Takes new options (`MS_REMOUNT`), separated by commas; asked of the root.
    ///
    /// # Errors
    /// `EINVAL`: one is not known or cannot change.
    fn reconfigure(&self, options: &[u8]) -> Result<(), Errno> {
        if options.is_empty() { Ok(()) } else { Err(EINVAL) }
    }

    /// For downcasts.
    fn as_any(&self) -> &dyn Any;

    /// The file called `name` in this directory.
    ///
    /// # Errors
    /// `ENOENT`; `ENOTDIR` for what is no directory.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(ENOTDIR)
    }

    /// Makes a regular file; `mode` holds permission bits.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` where files cannot be made, and the file system's.
    fn create(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    /// Makes a regular file without a name (`O_TMPFILE`).
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    fn tmpfile(&self, _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EOPNOTSUPP)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As `create`.
    fn mkdir(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    /// Makes a device, FIFO or socket; `mode` holds the type too.
    ///
    /// # Errors
    /// As `create`.
    fn mknod(&self, _name: &[u8], _mode: u32, _rdev: u64, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As `create`.
    fn symlink(&self, _name: &[u8], _target: &[u8], _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    /// Gives `inode`, of the same file system, another name; returns the inode behind the new name.
    ///
    /// # Errors
    /// As `create`.
    fn link(&self, _name: &[u8], _inode: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    /// Removes the name of what is no directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EPERM`.
    fn unlink(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(EPERM)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EPERM`.
    fn rmdir(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(EPERM)
    }

    /// Moves `old_name` to `new_name` of `new_parent`, a directory of the same file system; `flags` are those of
    /// renameat2(2).
    ///
    /// # Errors
    /// As rename(2); `EINVAL` for flags that are not supported.
    fn rename(
        &self,
        _old_name: &[u8],
        _new_parent: &Arc<dyn Inode>,
        _new_name: &[u8],
        _flags: u32,
    ) -> Result<(), Errno> {
        Err(EPERM)
    }

    /// Tells the inode that a name of it was removed.
    fn lost_name(&self) {}

    /// Tells that a file system which stands on this one changes names without telling their inodes.
    fn is_changed_untold(&self) {}

    /// Tells the inode that the VFS knows under a name that `rename` gave it another.
    fn moved(&self, _new_parent: &Arc<dyn Inode>, _new_name: &[u8]) {}

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` when it is none.
    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        Err(EINVAL)
    }

    /// Where a magic link leads; `None` for everything else.
    fn magic_link(&self) -> Option<MagicTarget> {
        None
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// `EPERM` where they cannot change.
    fn set_attributes(&self, _attributes: &SetAttributes) -> Result<(), Errno> {
        Err(EPERM)
    }

    /// The attributes that `chattr` changes (`iflag`).
    ///
    /// # Errors
    /// `ENOTTY`: the file system keeps none.
    fn flags(&self) -> Result<u32, Errno> {
        Err(ENOTTY)
    }

    /// Replaces them.
    ///
    /// # Errors
    /// As `flags`.
    fn set_flags(&self, _flags: u32) -> Result<(), Errno> {
        Err(ENOTTY)
    }

    /// Writes everything that the file system holds back to where it is kept; asked of its root.
    ///
    /// # Errors
    /// The file system's.
    fn sync_fs(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODATA`.
    fn xattr(&self, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(EOPNOTSUPP)
    }

    /// Notes that a symbolic link was read or followed: what the file system tells of itself about that (`touch_atime`).
    fn accessed(&self) {}

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `EEXIST`, `ENODATA`.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: XattrFlags) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// The file system's.
    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(Vec::new())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODATA`.
    fn remove_xattr(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// Opens the file; `flags` are those of open(2). Permissions have been checked.
    ///
    /// # Errors
    /// `ENXIO` for what cannot be opened.
    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        Err(ENXIO)
    }

    /// `statfs` of the file system that the file is on.
    ///
    /// # Errors
    /// `ENOSYS`: the file system cannot say.
    fn statfs(&self) -> Result<StatFs, Errno> {
        Err(abi::errno::ENOSYS)
    }

    /// Whether the caller may do what `want` (`may::*`) says though the permission bits refuse it.
    fn allows(&self, _want: u32) -> bool {
        false
    }

    /// Whether a name that is not there is an error of the lookup, so that no call about new names comes further
    /// (Linux `proc_lookup`).
    fn fails_lookups(&self) -> bool {
        false
    }

    /// Whether names in this directory may be remembered; false where they come and go by themselves, as in procfs.
    fn cacheable(&self) -> bool {
        true
    }

    /// Whether the names in this directory may change behind our back: then each is asked for (`is_still`) before a
    /// remembered one is believed.
    fn names_change(&self) -> bool {
        false
    }

    /// Whether `name`, where this file was found, still leads to it.
    fn is_still(&self, _name: &[u8]) -> bool {
        true
    }
}
