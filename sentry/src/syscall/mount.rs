//! Mounts: mount(2), umount2(2), pivot_root(2). The newer calls are in `fsmount.rs`.

use std::sync::Arc;

use abi::errno::{EINVAL, ENOENT, ENOTDIR, EPERM, EROFS};
use abi::{Errno, UserAddr};
use base::cred::cap;
use fs::file::FileDescription;
use fs::vfs::{
    MountChange, MountFlags, MountNamespace, Onto, Propagation, Recursive, SuperBlock, Unmount, VfsPath,
};

use super::SysResult;
use super::path::AT_FDCWD;
use crate::filesystems;
use crate::task::Ctx;

pub(super) const MS_RDONLY: u64 = 1;
const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
pub(super) const MS_UNBINDABLE: u64 = 1 << 17;
pub(super) const MS_PRIVATE: u64 = 1 << 18;
pub(super) const MS_SLAVE: u64 = 1 << 19;
pub(super) const MS_SHARED: u64 = 1 << 20;
const MS_NOATIME: u64 = 1024;
const MS_NODIRATIME: u64 = 2048;
const MS_RELATIME: u64 = 1 << 21;
const MS_STRICTATIME: u64 = 1 << 24;
/// The attributes of a mount that `MS_*` flags mean.
///
/// Source: Linux 6.12 fs/namespace.c, `path_mount`.
fn attributes(flags: u64) -> MountFlags {
    let named = [
        (MS_RDONLY, MountFlags::RDONLY),
        (2, MountFlags::NOSUID),
        (4, MountFlags::NODEV),
        (8, MountFlags::NOEXEC),
        (256, MountFlags::NOSYMFOLLOW),
        (MS_NOATIME, MountFlags::NOATIME),
        (MS_NODIRATIME, MountFlags::NODIRATIME),
        (MS_STRICTATIME, MountFlags::STRICTATIME),
    ];
    let mut set: MountFlags = named.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, f)| *f).collect();
    if set.contains(MountFlags::STRICTATIME) {
        set.remove(MountFlags::NOATIME);
    }
    set
}

pub(super) fn propagation(kind: u64) -> Result<Propagation, Errno> {
    match kind {
        MS_SHARED => Ok(Propagation::Shared),
        MS_PRIVATE => Ok(Propagation::Private),
        MS_SLAVE => Ok(Propagation::Slave),
        MS_UNBINDABLE => Ok(Propagation::Unbindable),
        _ => Err(EINVAL),
    }
}

pub(super) fn recursive(yes: bool) -> Recursive {
    if yes { Recursive::Yes } else { Recursive::No }
}

impl Ctx<'_> {
    /// The mounts that the task sees.
    pub fn mounts(&self) -> Arc<MountNamespace> {
        self.fs.lock().mounts.clone()
    }

    /// # Errors
    /// `EPERM`: the task may not mount.
    pub(super) fn check_mount(&self) -> Result<(), Errno> {
        let ns = self.task.namespaces.lock().mount.clone();
        if ns.owner.grants(&self.cred, cap::SYS_ADMIN) { Ok(()) } else { Err(EPERM) }
    }

    /// # Errors
    /// `EPERM`: the task may not change the file system itself.
    pub(super) fn check_owner(&self, sb: &SuperBlock) -> Result<(), Errno> {
        if sb.owner().grants(&self.cred, cap::SYS_ADMIN) { Ok(()) } else { Err(EPERM) }
    }

    /// The place that `path` names from `dirfd`; with `empty` an empty path means `dirfd` itself.
    pub(super) fn place_at(
        &self,
        dirfd: i32,
        path: UserAddr,
        follow: bool,
        empty: bool,
    ) -> Result<VfsPath, Errno> {
        let path = if path.is_null() && empty { Vec::new() } else { self.path(path)? };
        if !path.is_empty() {
            return self.walk_at(dirfd, &path)?.resolve(&path, follow);
        }
        if !empty {
            return Err(ENOENT);
        }
        match dirfd {
            AT_FDCWD => Ok(self.fs.lock().cwd.clone()),
            fd => Ok(self.walk().place_of(&self.file(fd)?)),
        }
    }

    /// A string that may be missing.
    fn optional_string(&self, addr: UserAddr) -> Result<Option<Vec<u8>>, Errno> {
        if addr.is_null() { Ok(None) } else { self.mm.read_cstr(addr, 4096).map(Some) }
    }

    /// The data of mount(2): up to a page, as far as it can be read.
    fn mount_data(&self, addr: UserAddr) -> Result<Vec<u8>, Errno> {
        if addr.is_null() {
            return Ok(Vec::new());
        }
        let mut page = vec![0; 4096];
        let n = self.mm.copy_in(addr, &mut page)?;
        let text = page.get(..n).unwrap_or_default().split(|&b| b == 0).next();
        Ok(text.unwrap_or_default().to_vec())
    }
}

/// `mount(2)`.
///
/// Source: Linux 6.12 fs/namespace.c, `do_mount`, `path_mount`.
pub(super) fn sys_mount(
    cx: &mut Ctx<'_>,
    source: UserAddr,
    target: UserAddr,
    fstype: UserAddr,
    flags: u64,
    data: UserAddr,
) -> SysResult {
    let fstype = cx.optional_string(fstype)?;
    let source = cx.optional_string(source)?;
    let data = cx.mount_data(data)?;
    let path = cx.path(target)?;
    let at = cx.walk().resolve(&path, true)?;
    let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
    cx.landlock_mounts()?;
    cx.check_mount()?;
    let mounts = cx.mounts();
    let mut set = attributes(flags);
    let says_atime = flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME) != 0;
    if flags & MS_REMOUNT != 0 && !says_atime {
        set |= at.mount.flags() & MountFlags::ATIME;
    }
    let all = recursive(flags & MS_REC != 0);
    if flags & MS_REMOUNT != 0 {
        if !Arc::ptr_eq(&at.dentry, at.mount.root()) {
            return Err(EINVAL.into());
        }
        let change = MountChange { set, clear: MountFlags::all(), propagation: None };
        mounts.may_change(&at, change)?;
        if flags & MS_BIND == 0 {
            cx.check_owner(at.mount.sb())?;
            reconfigure(at.mount.sb(), &data, flags & MS_RDONLY != 0)?;
        }
        mounts.change(&at, change, Recursive::No)?;
    } else if flags & MS_BIND != 0 {
        let source = source.filter(|s| !s.is_empty()).ok_or(EINVAL)?;
        let from = cx.walk().resolve(&source, true)?;
        mounts.bind(&at, &from, all)?;
    } else if flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 {
        // Nothing else may be asked at the same time (`flags_to_propagation_type`).
        let kind = propagation(flags & !(MS_REC | 0x8000))?;
        let change = MountChange { propagation: Some(kind), ..MountChange::default() };
        mounts.change(&at, change, all)?;
    } else if flags & MS_MOVE != 0 {
        let source = source.filter(|s| !s.is_empty()).ok_or(EINVAL)?;
        let from = cx.walk().resolve(&source, true)?;
        let root = cx.fs.lock().root.clone();
        mounts.move_mount(&at, &from, Onto::Top, &root)?;
    } else {
        let fstype = fstype.ok_or(EINVAL)?;
        let kernel = cx.task.kernel.clone();
        let sb = filesystems::make(&kernel, &cx.walk(), &fstype, &data, flags & MS_RDONLY != 0)?;
        let source = source.map_or_else(|| "none".to_owned(), |s| String::from_utf8_lossy(&s).into_owned());
        mounts.check_revealing(&sb, set)?;
        mounts.mount_sb(&at, &sb, &source, set)?;
    }
    Ok(0)
}

/// Gives a mounted file system other options.
pub(super) fn reconfigure(sb: &Arc<SuperBlock>, options: &[u8], readonly: bool) -> Result<(), Errno> {
    if !readonly && sb.fstype() == "overlay" && sb.options().contains(",lowerdir=") {
        let has_upper = sb.options().contains(",upperdir=");
        if !has_upper {
            return Err(EROFS);
        }
    }
    let was_readonly = sb.is_readonly();
    sb.set_readonly(readonly)?;
    sb.root().inode().reconfigure(options).or_else(|e| sb.set_readonly(was_readonly).and(Err(e)))
}

/// `umount2(2)`.
///
/// Source: Linux 6.12 fs/namespace.c, `ksys_umount`, `can_umount`, `do_umount`.
pub(super) fn sys_umount2(cx: &mut Ctx<'_>, target: UserAddr, flags: u32) -> SysResult {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    const NOFOLLOW: u32 = 8;
    if flags & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0 {
        return Err(EINVAL.into());
    }
    let path = cx.path(target)?;
    let at = cx.walk().resolve(&path, flags & NOFOLLOW == 0)?;
    cx.check_mount()?;
    let mounts = cx.mounts();
    let at = mounts.umount_target(at)?;
    if flags & FORCE != 0 && !cx.cred.has(cap::SYS_ADMIN) {
        return Err(EPERM.into());
    }
    cx.landlock_mounts()?;
    if flags & EXPIRE != 0 && flags & (FORCE | DETACH) != 0 {
        return Err(EINVAL.into());
    }
    let is_root = {
        let fs = cx.fs.lock();
        Arc::ptr_eq(&fs.root.mount, &at.mount)
    };
    if is_root && flags & (DETACH | EXPIRE) == 0 {
        // The root goes read-only instead (`do_umount_root`).
        cx.check_owner(at.mount.sb())?;
        at.mount.sb().set_readonly(true)?;
        return Ok(0);
    }
    let how = match flags & (DETACH | EXPIRE) {
        0 => Unmount::Now,
        DETACH => Unmount::Detach,
        _ => Unmount::Expire,
    };
    mounts.umount(at, how)?;
    Ok(0)
}

/// `pivot_root(2)`: tasks whose root or working directory was the old root are moved to the new one.
///
/// Source: Linux 6.12 fs/namespace.c, `pivot_root`; fs/fs_struct.c, `chroot_fs_refs`.
pub(super) fn sys_pivot_root(cx: &mut Ctx<'_>, new: UserAddr, put_old: UserAddr) -> SysResult {
    cx.check_mount()?;
    let (new, put_old) = (cx.path(new)?, cx.path(put_old)?);
    let (new, put_old) = (cx.walk().resolve(&new, true)?, cx.walk().resolve(&put_old, true)?);
    if !new.dentry.is_dir() || !put_old.dentry.is_dir() {
        return Err(ENOTDIR.into());
    }
    cx.landlock_mounts()?;
    let root = cx.fs.lock().root.clone();
    cx.mounts().pivot_root(&root, &new, &put_old)?;
    let tasks: Vec<_> = cx.task.kernel.tree.lock().tasks.values().cloned().collect();
    for task in tasks {
        let context = task.fs.lock().clone();
        let old = {
            let mut fs = context.lock();
            let mut old = Vec::new();
            let fs = &mut *fs;
            for place in [&mut fs.root, &mut fs.cwd] {
                if place.is_same(&root) {
                    old.push(std::mem::replace(place, new.clone()));
                }
            }
            old
        };
        drop(old);
    }
    Ok(0)
}

/// An open description that only names a place (`O_PATH`).
pub(super) fn path_file(cx: &Ctx<'_>, place: VfsPath) -> Result<Arc<FileDescription>, Errno> {
    cx.walk().open_place(place, fs::file::oflag::PATH)
}
