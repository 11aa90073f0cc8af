//! The VFS: inodes, dentries, mounts, and the walk along a path.
//!
//! Reading order: `inode.rs` (what a file system provides), `dentry.rs` (the tree of names), `cache.rs` (which names are
//! remembered), `mount.rs`,
//! `propagate.rs`, `namespace.rs`, `attach.rs`, `unmount.rs`, `mountinfo.rs` (mounts), `walk.rs` (path resolution), `open.rs` and `change.rs` (what the system calls on paths do), `perm.rs`, `acl.rs` and `landlock.rs` (who may), `xattr.rs`,
//! `pages.rs` and `mappings.rs` (tools for file systems whose files can be mapped).
//!
//! Locks, outer to inner: mount table, rename, children of a dentry (held while the file system looks up or changes a
//! name in that directory, unless the directory is not cacheable), inodes, page caches, mappings.

mod acl;
mod attach;
pub mod cache;
mod change;
mod dentry;
mod handle;
mod inode;
mod landlock;
pub mod mappings;
mod mount;
mod mountinfo;
mod namespace;
mod open;
pub mod pages;
mod perm;
mod propagate;
mod ring;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unmount;
mod walk;
mod xattr;

pub(crate) use acl::{ACCESS, DEFAULT};
pub use attach::{MOUNT_MAX, Onto};
pub use change::SetTime;
pub(crate) use dentry::Writer;
pub use dentry::{Dentry, Running, VfsPath};
pub use handle::{HANDLE_LEN, HANDLE_TYPE};
pub use inode::{FileType, Inode, MagicTarget, Owner, SetAttributes, StatFs, XattrFlags, iflag, mode};
pub use landlock::Forbidden;
pub use mount::{Mount, MountFlags, ROOTFS_ID, SuperBlock, new_dev};
pub use mountinfo::root_in_fs;
pub use namespace::{MountNamespace, Recursive};
pub use open::open_tree;
pub use perm::{check_inode, check_permission, may};
pub use propagate::{MountChange, Propagation};
pub use unmount::Unmount;
pub use walk::{Rules, Walk};
pub(crate) use xattr::note_attribute;
