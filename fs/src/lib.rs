//! Files: open files, the VFS, every file system, and the anonymous files (pipes, eventfd, epoll, terminals).

pub mod anon;
pub mod devfs;
pub mod dnotify;
pub mod erofs;
pub mod file;
pub mod fuse;
pub mod generated;
pub mod hostfs;
pub mod leases;
pub mod locks;
pub mod notify;
pub mod overlay;
pub mod procfs;
pub mod tmpfs;
pub mod tty;
pub mod vfs;
