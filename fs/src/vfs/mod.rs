//! The VFS: paths, dentries, mounts, inodes.

/// A place in the tree of mounts.
#[derive(Clone, Debug)]
pub struct VfsPath;
