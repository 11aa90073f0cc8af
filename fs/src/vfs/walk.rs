//! Path resolution (path_resolution(7)).

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EXDEV};
use base::cred::{Credentials, cap};
use bitflags::bitflags;

use super::mount::down;
use super::perm::{check_inode, may};
use super::{
    Dentry, FileType, Inode, MagicTarget, Mount, MountFlags, SetAttributes, VfsPath, XattrFlags, cache, mode,
};
use crate::file::{FileDescription, FileOps, Metadata};

/// Longest path without its terminating zero byte.
const PATH_MAX: usize = 4095;
/// Longest name.
const NAME_MAX: usize = 255;
/// Symbolic links that one resolution follows at most.
const LINKS_MAX: u32 = 40;

/// From where, and for whom, paths are resolved.
#[derive(Debug)]
pub struct Walk<'a> {
    /// What `/` means.
    pub root: VfsPath,
    /// Where relative paths begin: the working directory or a directory descriptor.
    pub base: VfsPath,
    /// Who asks.
    pub cred: &'a Credentials,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

/// The directory that holds a path's last name, and the name.
pub(super) struct Parent {
    pub(super) dir: VfsPath,
    /// Empty when the path is `/`.
    pub(super) name: Vec<u8>,
    /// Whether slashes follow the name.
    pub(super) trailing: bool,
}

bitflags! {
    /// What a resolution may not do (`RESOLVE_*` of openat2(2)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rules: u32 {
        /// Pass into another mount.
        const NO_XDEV = 1;
        /// Follow magic links.
        const NO_MAGICLINKS = 2;
        /// Follow any link.
        const NO_SYMLINKS = 4;
        /// Leave the root of the walk: an error.
        const BENEATH = 8;
        /// Leave the root of the walk: its `..` is itself, and `/` means it.
        const IN_ROOT = 16;
    }
}

/// How far a resolution has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) links: u32,
    pub(super) rules: Rules,
}

impl Progress {
    pub(super) fn check_mount(&self, from: &VfsPath, to: &VfsPath) -> Result<(), Errno> {
        let stays = !self.rules.contains(Rules::NO_XDEV) || Arc::ptr_eq(&from.mount, &to.mount);
        if stays { Ok(()) } else { Err(EXDEV) }
    }
}

/// Where a symbolic link leads.
pub(super) enum Follow {
    Text(Vec<u8>),
    Place(VfsPath),
}

/// An open file without a path, reached through a magic link.
#[derive(Debug)]
pub(super) struct OpenFileInode(pub(super) Arc<FileDescription>);

impl Inode for OpenFileInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.ops.metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        self.0.ops.set_attributes(attributes)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.0.ops.inode().ok_or(EOPNOTSUPP)?.xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        self.0.ops.inode().ok_or(EOPNOTSUPP)?.set_xattr(name, value, flags)
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        self.0.ops.inode().map_or(Ok(Vec::new()), Inode::list_xattrs)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.0.ops.inode().ok_or(EOPNOTSUPP)?.remove_xattr(name)
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        Err(abi::errno::ENXIO)
    }

    fn cacheable(&self) -> bool {
        false
    }
}

impl Walk<'_> {
    /// The place that `path` names; `follow_last` says whether a symbolic link at its end is followed.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`, and the file system's.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<VfsPath, Errno> {
        self.resolve_with(path, follow_last, Rules::empty())
    }

    pub(super) fn resolve_with(
        &self,
        path: &[u8],
        follow_last: bool,
        rules: Rules,
    ) -> Result<VfsPath, Errno> {
        let mut progress = Progress { links: 0, rules };
        let mut start = self.start(path, &progress)?;
        let mut path = Cow::Borrowed(path);
        loop {
            let Parent { dir, name, trailing } = self.parent_from(start, &path, &mut progress)?;
            if name.is_empty() {
                return Ok(dir);
            }
            let mut found = self.step(&dir, &name, &progress)?;
            let mut is_link = false;
            if follow_last || trailing {
                is_link = found.dentry.file_type()? == FileType::Symlink;
            }
            if is_link {
                match self.follow(&found, &mut progress)? {
                    Follow::Place(place) => found = place,
                    Follow::Text(mut text) => {
                        if trailing {
                            text.push(b'/');
                        }
                        start = self.start_of_link(&dir, &text, &progress)?;
                        path = Cow::Owned(text);
                        continue;
                    }
                }
            }
            if trailing && found.dentry.file_type()? != FileType::Directory {
                return Err(ENOTDIR);
            }
            return Ok(found);
        }
    }

    /// The directory of the last name of `path`, the name (empty for `/`), and whether slashes follow it. The name may
    /// be `.` or `..`; whether it exists is not looked at.
    ///
    /// # Errors
    /// As `resolve`.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<(VfsPath, Vec<u8>, bool), Errno> {
        let parent = self.parent(path)?;
        Ok((parent.dir, parent.name, parent.trailing))
    }

    pub(super) fn parent(&self, path: &[u8]) -> Result<Parent, Errno> {
        let mut progress = Progress::default();
        self.parent_from(self.start(path, &progress)?, path, &mut progress)
    }

    pub(super) fn start(&self, path: &[u8], progress: &Progress) -> Result<VfsPath, Errno> {
        cache::trim();
        if path.first() != Some(&b'/') {
            return Ok(self.base.clone());
        }
        if progress.rules.contains(Rules::BENEATH) { Err(EXDEV) } else { Ok(self.root.clone()) }
    }

    pub(super) fn start_of_link(
        &self,
        dir: &VfsPath,
        text: &[u8],
        progress: &Progress,
    ) -> Result<VfsPath, Errno> {
        if text.first() != Some(&b'/') {
            return Ok(dir.clone());
        }
        if progress.rules.contains(Rules::BENEATH) {
            return Err(EXDEV);
        }
        progress.check_mount(dir, &self.root)?;
        Ok(self.root.clone())
    }

    /// Walks all of `path` but its last name.
    pub(super) fn parent_from(
        &self,
        start: VfsPath,
        path: &[u8],
        progress: &mut Progress,
    ) -> Result<Parent, Errno> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        if path.len() > PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        let mut at = start;
        let mut path = Cow::Borrowed(path);
        let mut pos = 0;
        loop {
            while path.get(pos) == Some(&b'/') {
                pos += 1;
            }
            let rest = path.get(pos..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Parent { dir: at, name: Vec::new(), trailing: false });
            }
            let len = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at(len);
            if after.iter().all(|&b| b == b'/') {
                if name.len() > NAME_MAX {
                    self.check_search(&at)?;
                    return Err(ENAMETOOLONG);
                }
                return Ok(Parent { dir: at, name: name.to_vec(), trailing: !after.is_empty() });
            }
            let found = self.step(&at, name, progress)?;
            match found.dentry.file_type()? {
                FileType::Directory => {
                    at = found;
                    pos += len;
                    continue;
                }
                FileType::Symlink => {}
                _ => return Err(ENOTDIR),
            }
            match self.follow(&found, progress)? {
                Follow::Place(place) => {
                    at = place;
                    pos += len;
                }
                Follow::Text(mut text) => {
                    at = self.start_of_link(&at, &text, progress)?;
                    text.extend_from_slice(after);
                    path = Cow::Owned(text);
                    pos = 0;
                }
            }
        }
    }

    /// Whether names in `dir` may be looked up.
    pub(super) fn check_search(&self, dir: &VfsPath) -> Result<(), Errno> {
        if dir.dentry.file_type()? != FileType::Directory {
            return Err(ENOTDIR);
        }
        if self.cred.has(cap::DAC_READ_SEARCH) || self.cred.has(cap::DAC_OVERRIDE) {
            return Ok(());
        }
        let meta = dir.dentry.inode().metadata()?;
        check_inode(dir.dentry.inode().as_ref(), &meta, may::EXEC, self.cred)
    }

    /// Goes from `dir` to `name`, which may be `.` or `..`.
    pub(super) fn step(&self, dir: &VfsPath, name: &[u8], progress: &Progress) -> Result<VfsPath, Errno> {
        self.check_search(dir)?;
        match name {
            b"." => return Ok(dir.clone()),
            b".." => {
                if dir.is_same(&self.root) {
                    let leaves = progress.rules.contains(Rules::BENEATH);
                    return if leaves { Err(EXDEV) } else { Ok(dir.clone()) };
                }
                let up = dir.up().map_or_else(|| dir.clone(), down);
                progress.check_mount(dir, &up)?;
                return Ok(up);
            }
            _ => {}
        }
        if name.len() > NAME_MAX {
            return Err(ENAMETOOLONG);
        }
        let dentry = dir.dentry.child(name)?;
        let found = down(VfsPath { mount: dir.mount.clone(), dentry });
        progress.check_mount(dir, &found)?;
        Ok(found)
    }

    /// Where the symbolic link `link` leads.
    ///
    /// Source: Linux 6.12 fs/namei.c, `pick_link`, `nd_jump_link`.
    pub(super) fn follow(&self, link: &VfsPath, progress: &mut Progress) -> Result<Follow, Errno> {
        progress.links += 1;
        if link.mount.flags().contains(MountFlags::NOSYMFOLLOW) {
            return Err(ELOOP);
        }
        if progress.links > LINKS_MAX || progress.rules.contains(Rules::NO_SYMLINKS) {
            return Err(ELOOP);
        }
        match link.dentry.inode().magic_link() {
            Some(target) => {
                if progress.rules.contains(Rules::NO_MAGICLINKS) {
                    return Err(ELOOP);
                }
                if progress.rules.intersects(Rules::BENEATH | Rules::IN_ROOT) {
                    return Err(EXDEV);
                }
                let place = match target {
                    MagicTarget::Path(place) => place,
                    MagicTarget::File(file) => place_in(&link.mount, &file),
                };
                progress.check_mount(link, &place)?;
                Ok(Follow::Place(place))
            }
            None => {
                let text = link.dentry.link_target()?;
                if !link.mount.keeps_atime(false) {
                    link.dentry.inode().accessed();
                }
                if text.is_empty() { Err(ENOENT) } else { Ok(Follow::Text(text)) }
            }
        }
    }

    /// Where an open file is; one without a path gets a place of its own.
    pub fn place_of(&self, file: &Arc<FileDescription>) -> VfsPath {
        place_in(&self.root.mount, file)
    }

    /// `readlink`; an empty path means the base itself.
    ///
    /// # Errors
    /// `EINVAL`: no symbolic link; and those of `resolve`.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let found = if path.is_empty() { self.base.clone() } else { self.resolve(path, false)? };
        if found.dentry.inode().metadata()?.mode & mode::IFMT != mode::IFLNK {
            return Err(if path.is_empty() { ENOENT } else { EINVAL });
        }
        if !found.mount.keeps_atime(false) {
            found.dentry.inode().accessed();
        }
        found.dentry.inode().read_link()
    }

    /// `stat` and `lstat`.
    ///
    /// # Errors
    /// As `resolve`.
    pub fn stat(&self, path: &[u8], follow_last: bool) -> Result<Metadata, Errno> {
        self.resolve(path, follow_last)?.dentry.inode().metadata()
    }

    /// `access`: `want` holds `may::*` bits, 0 for mere existence. The caller sets real ids in `cred` where the call
    /// wants those.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`, and those of `resolve`.
    pub fn access(&self, path: &[u8], want: u32) -> Result<(), Errno> {
        self.access_at(&self.resolve(path, true)?, want)
    }

    /// `access` of a place.
    ///
    /// # Errors
    /// As `access`.
    pub fn access_at(&self, place: &VfsPath, want: u32) -> Result<(), Errno> {
        let meta = place.dentry.inode().metadata()?;
        if want & may::EXEC != 0 && meta.mode & mode::IFMT == mode::IFREG {
            let is_denied = place.mount.flags().contains(MountFlags::NOEXEC);
            if is_denied {
                return Err(EACCES);
            }
        }
        if want & may::WRITE != 0 && !is_special(&meta) {
            place.mount.want_write()?;
        }
        check_inode(place.dentry.inode().as_ref(), &meta, want, self.cred)
    }
}

/// Whether writing to the file does not write to its file system.
pub(super) fn is_special(meta: &Metadata) -> bool {
    !matches!(meta.mode & mode::IFMT, mode::IFREG | mode::IFDIR | mode::IFLNK)
}

fn place_in(mount: &Arc<Mount>, file: &Arc<FileDescription>) -> VfsPath {
    match &file.path {
        Some(path) => path.clone(),
        None => VfsPath {
            mount: mount.clone(),
            dentry: Dentry::new(None, b"", Arc::new(OpenFileInode(file.clone()))),
        },
    }
}
