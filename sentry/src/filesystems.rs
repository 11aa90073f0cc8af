//! The kinds of file systems that a guest can mount.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, ENODEV, ENOTDIR, EPERM};
use base::cred::cap;
use base::userns::UserNamespace;
use fs::tty::devpts::{self, Devpts};
use fs::vfs::{Inode, StatFs, SuperBlock, VfsPath, Walk};

use crate::kernel::Kernel;
use crate::task::current;

/// Their names; none needs a device.
pub const NAMES: &[&str] =
    &["sysfs", "tmpfs", "proc", "devtmpfs", "ramfs", "devpts", "overlay", "cgroup2", "mqueue", "fuse"];

/// Makes a file system of kind `fstype`; `options` are separated by commas.
///
/// # Errors
/// `ENODEV`: no such kind; `EINVAL`: an option is not known; for overlay those of finding its layers.
pub fn make(
    kernel: &Arc<Kernel>,
    walk: &Walk<'_>,
    fstype: &[u8],
    options: &[u8],
    readonly: bool,
) -> Result<Arc<SuperBlock>, Errno> {
    if fstype == b"fuse" || fstype.starts_with(b"fuse.") {
        let root = fuse(kernel, options)?;
        let owner = walk.cred.user_ns.clone();
        return Ok(SuperBlock::owned(root, &String::from_utf8_lossy(fstype), readonly, owner));
    }
    let memory = kernel.memory.clone();
    // Who may change it: the root of the namespace that it shows, or of the one that it was made in.
    let mut owner = walk.cred.user_ns.clone();
    let device = || fs::devfs::open_device(memory.clone(), None);
    let (root, name) = match fstype {
        b"tmpfs" => (fs::tmpfs::mountable(memory.clone(), options, Some(device()))?, "tmpfs"),
        b"ramfs" => {
            // It has no limits: only the sandbox's memory bounds it.
            let mode = ramfs_mode(options)?;
            (fs::tmpfs::with_devices(memory.clone(), mode, Some(device())), "ramfs")
        }
        b"proc" => {
            check_proc(options)?;
            let ns = match crate::task::current() {
                Some(task) => task.namespaces.lock().pid_for_children.clone(),
                None => kernel.namespaces.pid_for_children.clone(),
            };
            owner = trusted(walk, &ns.owner)?;
            (crate::proc::new_procfs(kernel, ns, Vec::new(), Vec::new()), "proc")
        }
        b"sysfs" if options.is_empty() => {
            if let Some(task) = current() {
                owner = trusted(walk, &task.namespaces.lock().net.owner)?;
            }
            (crate::proc::new_sysfs(kernel), "sysfs")
        }
        // Not for the root of a user namespace (Linux: no FS_USERNS_MOUNT).
        b"devtmpfs" if !walk.cred.has(cap::SYS_ADMIN) => return Err(EPERM),
        b"devtmpfs" if options.is_empty() => {
            // There is one, wherever it is mounted.
            let mounts = kernel.mounts.mounts();
            let known = mounts.iter().find(|m| m.fstype() == "devtmpfs");
            return known.map(|m| m.sb().clone()).ok_or(ENODEV);
        }
        b"devpts" => (Devpts::new(&kernel.terminals, devpts_options(options)?).root(), "devpts"),
        b"overlay" => {
            let (root, is_writable) = overlay(walk, options)?;
            let owner = walk.cred.user_ns.clone();
            return Ok(SuperBlock::owned(root, "overlay", readonly || !is_writable, owner));
        }
        b"cgroup2" => {
            check_cgroup(options)?;
            let task = current().ok_or(EINVAL)?;
            let group = task.namespaces.lock().cgroup.clone();
            owner = trusted(walk, &group.owner)?;
            let root = (**group).clone();
            (crate::cgroup::new_root(kernel, &root), "cgroup2")
        }
        b"mqueue" if options.is_empty() => {
            let task = current().ok_or(EINVAL)?;
            owner = trusted(walk, &task.namespaces.lock().ipc.owner)?;
            (crate::ipc::mqueue_fs::new_root(&task), "mqueue")
        }
        b"sysfs" | b"devtmpfs" | b"mqueue" => return Err(EINVAL),
        _ => return Err(ENODEV),
    };
    Ok(SuperBlock::owned(root, name, readonly, owner))
}

/// The owner of the namespace that a file system shows, if whoever mounts it is trusted there.
///
/// # Errors
/// `EPERM`.
fn trusted(walk: &Walk<'_>, owner: &Arc<UserNamespace>) -> Result<Arc<UserNamespace>, Errno> {
    if owner.grants(walk.cred, cap::SYS_ADMIN) { Ok(owner.clone()) } else { Err(EPERM) }
}

/// Whether a file system of kind `fstype` knows `option`; the memory has `total` bytes.
///
/// # Errors
/// `EINVAL`.
pub fn check_option(fstype: &[u8], option: &[u8], total: u64) -> Result<(), Errno> {
    match fstype {
        b"tmpfs" => fs::tmpfs::check_options(option, total),
        b"ramfs" => ramfs_mode(option).map(drop),
        b"proc" => check_proc(option),
        b"cgroup2" => check_cgroup(option),
        b"devpts" => devpts_options(option).map(drop),
        // Its layers are looked for when it is made.
        b"overlay" => Ok(()),
        _ => Err(EINVAL),
    }
}

/// `fd=N,rootmode=40000,user_id=0,group_id=0`: a file system that the server behind a descriptor serves.
fn fuse(kernel: &Kernel, options: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
    fn number(value: Option<&[u8]>, radix: u32) -> Result<u32, Errno> {
        let text = value.and_then(|v| std::str::from_utf8(v).ok()).ok_or(EINVAL)?;
        u32::from_str_radix(text, radix).map_err(|_| EINVAL)
    }
    let (mut fd, mut root_mode, mut uid, mut gid) = (None, None, None, None);
    let (mut allow_other, mut max_read) = (false, 0);
    for (key, value) in pairs(options) {
        match key {
            b"fd" => fd = Some(number(value, 10)?),
            b"rootmode" => root_mode = Some(number(value, 8)?),
            b"user_id" => uid = Some(number(value, 10)?),
            b"group_id" => gid = Some(number(value, 10)?),
            b"max_read" => max_read = number(value, 10)?,
            b"allow_other" => allow_other = true,
            // Permissions are always checked.
            b"default_permissions" => {}
            b"blksize" => drop(number(value, 10)?),
            _ => return Err(EINVAL),
        }
    }
    let (Some(fd), Some(root_mode), Some(uid), Some(gid)) = (fd, root_mode, uid, gid) else {
        return Err(EINVAL);
    };
    let task = current().ok_or(EINVAL)?;
    let files = task.state.lock().files.clone();
    let device = files.file(i32::try_from(fd).map_err(|_| EINVAL)?).map_err(|_| EINVAL)?;
    let mount = fs::fuse::Mount { root_mode, uid, gid, allow_other, max_read };
    fs::fuse::mount(&device, mount, kernel.memory.clone())
}

/// Options that say how limits are handed on: what is done is what each asks for.
fn check_cgroup(options: &[u8]) -> Result<(), Errno> {
    for (key, value) in pairs(options) {
        match (key, value) {
            (b"nsdelegate" | b"favordynmods" | b"memory_localevents" | b"memory_recursiveprot", None) => {}
            _ => return Err(EINVAL),
        }
    }
    Ok(())
}

fn pairs(options: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    options.split(|&b| b == b',').filter(|o| !o.is_empty()).map(|option| {
        match option.iter().position(|&b| b == b'=') {
            Some(i) => (option.get(..i).unwrap_or_default(), option.get(i + 1..)),
            None => (option, None),
        }
    })
}

/// Linux ignores all but `mode`.
fn ramfs_mode(options: &[u8]) -> Result<u32, Errno> {
    let mode = pairs(options).find_map(|(key, value)| if key == b"mode" { value } else { None });
    let Some(text) = mode else { return Ok(0o755) };
    let text = std::str::from_utf8(text).map_err(|_| EINVAL)?;
    Ok(u32::from_str_radix(text, 8).map_err(|_| EINVAL)? & 0o7777)
}

/// Every mount is an instance of its own, whether `newinstance` says so or not.
fn devpts_options(options: &[u8]) -> Result<devpts::Options, Errno> {
    let mut made = devpts::Options { gid: None, uid: None, mode: 0o600, ptmx_mode: 0 };
    for (key, value) in pairs(options) {
        let number = |base: u32| {
            let text = std::str::from_utf8(value.unwrap_or_default()).map_err(|_| EINVAL)?;
            u32::from_str_radix(text, base).map_err(|_| EINVAL)
        };
        match key {
            b"uid" => made.uid = Some(number(10)?),
            b"gid" => made.gid = Some(number(10)?),
            b"mode" => made.mode = number(8)? & 0o7777,
            b"ptmxmode" => made.ptmx_mode = number(8)? & 0o7777,
            b"newinstance" if value.is_none() => {}
            b"max" if number(10)? <= 1 << 20 => {}
            _ => return Err(EINVAL),
        }
    }
    Ok(made)
}

/// Processes are shown to all: other values of `hidepid` are refused.
fn check_proc(options: &[u8]) -> Result<(), Errno> {
    for (key, value) in pairs(options) {
        match (key, value) {
            (b"hidepid", Some(b"0" | b"off")) => {}
            (b"gid", Some(gid)) if gid.iter().all(u8::is_ascii_digit) => {}
            _ => return Err(EINVAL),
        }
    }
    Ok(())
}

/// `lowerdir=A:B,upperdir=U,workdir=W`; says whether there is a layer to write to.
fn overlay(walk: &Walk<'_>, options: &[u8]) -> Result<(Arc<dyn Inode>, bool), Errno> {
    let (mut lower, mut upper, mut work) = (None, None, None);
    for (key, value) in pairs(options) {
        match key {
            b"lowerdir" => lower = value,
            b"upperdir" => upper = value,
            b"workdir" => work = value,
            // What is done is the safe value of each.
            b"index" | b"nfs_export" | b"xino" | b"metacopy" | b"redirect_dir" | b"uuid" | b"volatile"
            | b"userxattr" => {}
            _ => return Err(EINVAL),
        }
    }
    let dir = |path: &[u8]| -> Result<VfsPath, Errno> {
        let place = walk.resolve(path, true)?;
        if place.dentry.is_dir() { Ok(place) } else { Err(ENOTDIR) }
    };
    let mut lowers = Vec::new();
    for path in lower.ok_or(EINVAL)?.split(|&b| b == b':').filter(|p| !p.is_empty()) {
        let lower = dir(path)?.inode();
        // Its names are asked of a server, which must not happen under the locks of directories.
        if !lower.cacheable() {
            return Err(EINVAL);
        }
        lowers.push(lower);
    }
    let upper = match (upper, work) {
        (Some(upper), Some(work)) => {
            let (upper, work) = (dir(upper)?, dir(work)?);
            let is_apart =
                !upper.dentry.is_ancestor_of(&work.dentry) && !work.dentry.is_ancestor_of(&upper.dentry);
            if !Arc::ptr_eq(&upper.mount, &work.mount) || !is_apart {
                return Err(EINVAL);
            }
            // Whiteouts and private attributes are needed.
            if upper.inode().statfs()?.kind != StatFs::TMPFS {
                return Err(EINVAL);
            }
            Some(upper.inode())
        }
        (None, _) if lowers.len() > 1 => None,
        _ => return Err(EINVAL),
    };
    let shown = [b",", options].concat();
    let is_writable = upper.is_some();
    let root = fs::overlay::stack(lowers, upper, String::from_utf8_lossy(&shown).into_owned())?;
    Ok((root, is_writable))
}
