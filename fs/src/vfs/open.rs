//! `open(2)`.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EPERM};

use base::cred::cap;
use base::landlock::access;

use super::acl::Inherited;
use super::dentry::Writer;
use super::mount::down;
use super::perm::{check_inode, is_owner, may};
use super::walk::{Follow, OpenFileInode, Parent, Progress, Rules, is_special};
use super::xattr::{any_capabilities, drop_capabilities};
use super::{
    Dentry, FileType, Inode, MountFlags, MountNamespace, Owner, SetAttributes, VfsPath, Walk, iflag, mode,
};
use crate::anon::fanotify;
use crate::file::{FileDescription, FileOps, Metadata, oflag};
use crate::leases;
use crate::notify::{self, event};

/// What `O_PATH` opens: a place, not a file.
#[derive(Debug)]
struct PathFile(Arc<dyn Inode>);

impl FileOps for PathFile {
    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What opens a tree that is mounted nowhere; it goes with the last descriptor, unless it was mounted.
#[derive(Debug)]
struct TreeFile(Arc<MountNamespace>);

impl FileOps for TreeFile {
    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.root_mount().root().inode().metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Opens the root of a tree that is mounted nowhere, as `O_PATH` does.
pub fn open_tree(tree: Arc<MountNamespace>) -> Arc<FileDescription> {
    let place = tree.root_mount().root_place();
    let kind = place.dentry.file_type().unwrap_or(FileType::Directory);
    FileDescription::opened(Box::new(TreeFile(tree)), place, oflag::PATH, kind, None)
}

/// `O_TMPFILE` without `O_DIRECTORY`, which it includes so that old kernels refuse it.
const TMPFILE_BIT: u32 = oflag::TMPFILE & !oflag::DIRECTORY;

impl Walk<'_> {
    /// Opens `path`, making it first when `flags` say so.
    ///
    /// # Errors
    /// Those of open(2).
    ///
    /// Source: Linux 6.12 fs/open.c, `build_open_flags`; fs/namei.c, `do_open`.
    pub fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Arc<FileDescription>, Errno> {
        self.open_with(path, flags, mode, Rules::empty())
    }

    /// As `open`, within `rules`; for `BENEATH` and `IN_ROOT` the walk's root and base are the directory meant.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn open_with(
        &self,
        path: &[u8],
        flags: u32,
        mode: u32,
        rules: Rules,
    ) -> Result<Arc<FileDescription>, Errno> {
        let flags = check_flags(flags)?;
        if flags & TMPFILE_BIT != 0 {
            return self.open_tmpfile(path, flags, mode, rules);
        }
        if flags & oflag::CREAT != 0 {
            return self.open_create(path, flags, mode, rules);
        }
        let place = self.resolve_with(path, flags & oflag::NOFOLLOW == 0, rules)?;
        self.open_place(place, flags)
    }

    /// Opens a place that was already found, as `open` without `O_CREAT` does.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_place(&self, place: VfsPath, flags: u32) -> Result<Arc<FileDescription>, Errno> {
        let meta = place.dentry.inode().metadata()?;
        let kind = meta.mode & mode::IFMT;
        if flags & oflag::DIRECTORY != 0 && kind != mode::IFDIR {
            // With O_NOFOLLOW a link is no directory either.
            return Err(ENOTDIR);
        }
        if flags & oflag::PATH != 0 {
            let ops = Box::new(PathFile(place.inode()));
            return Ok(FileDescription::opened(ops, place, flags, meta.file_type(), None));
        }
        if kind == mode::IFLNK {
            return Err(ELOOP);
        }
        let want = wanted(flags);
        if kind == mode::IFDIR && want & may::WRITE != 0 {
            return Err(EISDIR);
        }
        if want & may::WRITE != 0 && !is_special(&meta) {
            place.mount.want_write()?;
        }
        // Device nodes count only where the sandbox's first root mounted (`SB_I_NODEV`).
        let is_foreign = || {
            let sb = place.mount.sb();
            !sb.owner().is_first() && sb.fstype() != "devpts"
        };
        let has_no_devices = || place.mount.flags().contains(MountFlags::NODEV) || is_foreign();
        if matches!(kind, mode::IFCHR | mode::IFBLK) && has_no_devices() {
            return Err(EACCES);
        }
        check_inode(place.dentry.inode().as_ref(), &meta, want, self.cred)?;
        if meta.flags & iflag::APPEND != 0
            && (want & may::WRITE != 0 && flags & oflag::APPEND == 0 || flags & oflag::TRUNC != 0)
        {
            return Err(EPERM);
        }
        if flags & oflag::NOATIME != 0 && !is_owner(&meta, self.cred) {
            return Err(EPERM);
        }
        let forbidden = self.landlock_open(&place, flags, meta.file_type())?;
        if kind == mode::IFSOCK {
            return Err(ENXIO);
        }
        if fanotify::asks() && flags & oflag::NONOTIFY == 0 {
            if flags & oflag::EXEC != 0 {
                fanotify::ask(&place, fanotify::OPEN_EXEC_PERM)?;
            }
            fanotify::ask(&place, fanotify::OPEN_PERM)?;
        }
        let inode = place.inode();
        if let Some(open) = inode.as_any().downcast_ref::<OpenFileInode>() {
            return match open.0.ops.reopen(flags)? {
                Some(ops) => {
                    check_direct(ops.as_ref(), flags)?;
                    Ok(FileDescription::new(ops, None, flags))
                }
                None if is_anonymous(&open.0) => Err(ENXIO),
                None => Ok(open.0.clone()),
            };
        }
        if kind == mode::IFREG {
            leases::breaks(|| (meta.dev, meta.ino), flags)?;
        }
        let writer = match kind == mode::IFREG && want & may::WRITE != 0 {
            true => Some(Writer::new(&place)?),
            false => None,
        };
        let keeps_atime = place.mount.keeps_atime(kind == mode::IFDIR);
        let ops = inode.open(if keeps_atime { flags | oflag::NOATIME } else { flags })?;
        check_direct(ops.as_ref(), flags)?;
        if flags & oflag::TRUNC != 0 && kind == mode::IFREG {
            if forbidden.truncate {
                return Err(EACCES);
            }
            self.drop_privileges(&place)?;
            ops.truncate(0)?;
        }
        let file = FileDescription::opened_with(ops, place, flags, meta.file_type(), writer, forbidden);
        file.tell(event::OPEN);
        if flags & oflag::TRUNC != 0 && kind == mode::IFREG {
            file.tell(event::MODIFY);
        }
        Ok(file)
    }

    fn open_create(
        &self,
        path: &[u8],
        flags: u32,
        create_mode: u32,
        rules: Rules,
    ) -> Result<Arc<FileDescription>, Errno> {
        let mut progress = Progress { rules, ..Progress::default() };
        let mut start = self.start(path, &progress)?;
        let mut path = Cow::Borrowed(path);
        loop {
            let Parent { dir, name, trailing } = self.parent_from(start, &path, &mut progress)?;
            let is_dots = matches!(name.as_slice(), b"" | b"." | b"..");
            if trailing || is_dots {
                // Something is there, or a file cannot be made with such a name.
                return match flags & oflag::EXCL != 0 && is_dots {
                    true => Err(EEXIST),
                    false => Err(EISDIR),
                };
            }
            self.check_search(&dir)?;
            let may_make = self.landlock(&dir, access::MAKE_REG);
            let dentry = {
                let mut children = dir.dentry.lock_cached();
                let found = match &mut children {
                    Some(children) => dir.dentry.child_locked(children, &name),
                    None => dir.dentry.child(&name),
                };
                match found {
                    Ok(child) => child,
                    Err(ENOENT) if dir.dentry.inode().fails_lookups() => return Err(ENOENT),
                    Err(ENOENT) => {
                        may_make.or_else(|e| dir.mount.want_write().and(Err(e)))?;
                        let (owner, bits, lists) = self.prepare(&dir, create_mode & 0o7777, false)?;
                        let made = dir.dentry.inode().create(&name, bits, owner)?;
                        lists.give(&made)?;
                        let child = match &mut children {
                            Some(children) => dir.dentry.insert(children, &name, made.clone()),
                            None => Dentry::new(Some(dir.dentry.clone()), &name, made.clone()),
                        };
                        drop(children);
                        let ops = made.open(flags & !oflag::TRUNC)?;
                        check_direct(ops.as_ref(), flags)?;
                        let place = VfsPath { mount: dir.mount.clone(), dentry: child };
                        let forbidden = self.landlock_open(&place, flags, FileType::Regular)?;
                        let writes = wanted(flags) & may::WRITE != 0;
                        let writer = if writes { Some(Writer::new(&place)?) } else { None };
                        let flags = flags | oflag::CREATED;
                        let kind = FileType::Regular;
                        let file = FileDescription::opened_with(ops, place, flags, kind, writer, forbidden);
                        let child = file.path.as_ref().map(|place| &place.dentry);
                        notify::in_directory(&dir.mount, &dir.dentry, event::CREATE, 0, &name, child);
                        file.tell(event::OPEN);
                        return Ok(file);
                    }
                    Err(e) => return Err(e),
                }
            };
            if flags & oflag::EXCL != 0 {
                return Err(EEXIST);
            }
            let place = down(VfsPath { mount: dir.mount.clone(), dentry });
            progress.check_mount(&dir, &place)?;
            let meta = place.dentry.inode().metadata()?;
            if meta.mode & mode::IFMT == mode::IFLNK && flags & oflag::NOFOLLOW == 0 {
                match self.follow(&place, &mut progress)? {
                    Follow::Place(place) => return self.open_existing(place, flags),
                    Follow::Text(text) => {
                        start = self.start_of_link(&dir, &text, &progress)?;
                        path = Cow::Owned(text);
                        continue;
                    }
                }
            }
            return self.open_existing(place, flags);
        }
    }

    fn open_existing(&self, place: VfsPath, flags: u32) -> Result<Arc<FileDescription>, Errno> {
        if place.dentry.inode().metadata()?.is_dir() {
            return Err(EISDIR);
        }
        self.open_place(place, flags)
    }

    fn open_tmpfile(
        &self,
        path: &[u8],
        flags: u32,
        create_mode: u32,
        rules: Rules,
    ) -> Result<Arc<FileDescription>, Errno> {
        let dir = self.resolve_with(path, flags & oflag::NOFOLLOW == 0, rules)?;
        if !dir.dentry.inode().metadata()?.is_dir() {
            return Err(ENOTDIR);
        }
        let (owner, bits, lists) = self.prepare(&dir, create_mode & 0o7777, false)?;
        let inode = dir.dentry.inode().tmpfile(bits, owner)?;
        lists.give(&inode)?;
        let ino = inode.metadata()?.ino;
        let dentry = Dentry::new(Some(dir.dentry.clone()), format!("#{ino}").as_bytes(), inode.clone());
        dentry.kill();
        dentry.is_linkable.store(flags & oflag::EXCL == 0, Ordering::Release);
        let ops = inode.open(flags)?;
        let place = VfsPath { mount: dir.mount, dentry };
        let forbidden = self.landlock_open(&place, flags, FileType::Regular)?;
        let writer = Some(Writer::new(&place)?);
        Ok(FileDescription::opened_with(ops, place, flags, FileType::Regular, writer, forbidden))
    }

    /// Checks that a name may be made in `dir`; returns the owner, the mode and the lists of the new file.
    ///
    /// Source: Linux 6.12 fs/inode.c, `inode_init_owner`.
    pub(super) fn prepare(
        &self,
        dir: &VfsPath,
        bits: u32,
        is_dir: bool,
    ) -> Result<(Owner, u32, Inherited), Errno> {
        let meta = dir.dentry.inode().metadata()?;
        if dir.dentry.is_dead() {
            return Err(ENOENT);
        }
        dir.mount.want_write()?;
        check_inode(dir.dentry.inode().as_ref(), &meta, may::WRITE | may::EXEC, self.cred)?;
        let mut owner = Owner { uid: self.cred.fsuid, gid: self.cred.fsgid };
        let (lists, mut bits) = Inherited::from(dir.dentry.inode().as_ref(), &meta, bits, self.umask, is_dir);
        if meta.mode & mode::ISGID != 0 {
            owner.gid = meta.gid;
            let lends = bits & (mode::ISGID | 0o010) == mode::ISGID | 0o010;
            if is_dir {
                bits |= mode::ISGID;
            } else if lends
                && !self.cred.in_group(meta.gid)
                && !self.cred.has_over(meta.uid, meta.gid, cap::FSETID)
            {
                // fs/inode.c, `mode_strip_sgid`.
                bits &= !mode::ISGID;
            }
        }
        Ok((owner, bits, lists))
    }

    /// Whether [`Self::drop_privileges`] could have something to do.
    pub fn may_drop_privileges(&self) -> bool {
        !self.cred.has(cap::FSETID) || any_capabilities()
    }

    /// Takes the bits that lend rights from a file that is going to be written by somebody who may not keep them, and its
    /// capabilities, whoever writes.
    ///
    /// # Errors
    /// The file system's.
    ///
    /// Source: Linux 6.12 fs/inode.c, `file_remove_privs`; fs/attr.c, `setattr_should_drop_suidgid`.
    pub fn drop_privileges(&self, place: &VfsPath) -> Result<(), Errno> {
        drop_capabilities(place)?;
        if self.cred.has(cap::FSETID) {
            return Ok(());
        }
        let meta = place.dentry.inode().metadata()?;
        if meta.mode & mode::IFMT != mode::IFREG || meta.mode & (mode::ISUID | mode::ISGID) == 0 {
            return Ok(());
        }
        let mut bits = meta.mode & 0o7777 & !mode::ISUID;
        if bits & 0o010 != 0 || !self.cred.in_group(meta.gid) {
            bits &= !mode::ISGID;
        }
        if bits == meta.mode & 0o7777 {
            return Ok(());
        }
        let set = SetAttributes { mode: Some(bits), ..SetAttributes::default() };
        place.dentry.inode().set_attributes(&set)
    }

    /// `truncate(2)`; `check_size` is asked last whether the file may have the new size.
    ///
    /// # Errors
    /// Those of truncate(2).
    pub fn truncate(
        &self,
        path: &[u8],
        size: u64,
        check_size: impl FnOnce(&Metadata) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let place = self.resolve(path, true)?;
        let meta = place.dentry.inode().metadata()?;
        match meta.mode & mode::IFMT {
            mode::IFREG => {}
            mode::IFDIR => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
        place.mount.want_write()?;
        check_inode(place.dentry.inode().as_ref(), &meta, may::WRITE, self.cred)?;
        if meta.flags & iflag::APPEND != 0 {
            return Err(EPERM);
        }
        let _writer = Writer::new(&place)?;
        leases::breaks(|| (meta.dev, meta.ino), oflag::WRONLY)?;
        self.landlock(&place, access::TRUNCATE)?;
        check_size(&meta)?;
        self.drop_privileges(&place)?;
        place
            .dentry
            .inode()
            .set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })?;
        notify::changed(&place.mount, &place.dentry, event::MODIFY);
        Ok(())
    }
}

/// Whether the file has one of the inodes that cannot be opened (`anon_inode_getfile`); that of a process can.
fn is_anonymous(file: &FileDescription) -> bool {
    let name = file.ops.anonymous_name().unwrap_or_default();
    name.starts_with(b"anon_inode:") && name != b"anon_inode:[pidfd]"
}

fn wanted(flags: u32) -> u32 {
    let mut want = match flags & oflag::ACCMODE {
        oflag::RDONLY => may::READ,
        oflag::WRONLY => may::WRITE,
        _ => may::READ | may::WRITE,
    };
    if flags & oflag::TRUNC != 0 {
        want |= may::WRITE;
    }
    want
}

/// `EINVAL` for `O_DIRECT` where the file knows no such thing (`do_dentry_open`).
fn check_direct(ops: &dyn FileOps, flags: u32) -> Result<(), Errno> {
    if flags & oflag::DIRECT != 0 && !ops.can_be_direct() { Err(EINVAL) } else { Ok(()) }
}

fn check_flags(flags: u32) -> Result<u32, Errno> {
    let flags = if flags & oflag::PATH != 0 {
        flags & (oflag::PATH | oflag::DIRECTORY | oflag::NOFOLLOW | oflag::CLOEXEC)
    } else {
        flags
    };
    if flags & TMPFILE_BIT != 0 {
        let writes = matches!(flags & oflag::ACCMODE, oflag::WRONLY | oflag::RDWR);
        if flags & oflag::DIRECTORY == 0 || flags & oflag::CREAT != 0 || !writes {
            return Err(EINVAL);
        }
    } else if flags & (oflag::CREAT | oflag::DIRECTORY) == oflag::CREAT | oflag::DIRECTORY {
        return Err(EINVAL);
    }
    Ok(flags)
}
