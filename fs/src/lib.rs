//! VFS.
pub mod vfs;
