//! The machine and what was used of it: names, memory, file systems, time.

use abi::errno::{EINVAL, EPERM};
use abi::{Errno, UserAddr};
use base::cred::cap;
use fs::file::FileDescription;
use fs::vfs::{FileType, Mount, MountFlags, StatFs};

use super::SysResult;
use crate::proc::sysctl::{domain_name_changes, host_name_changes};
use crate::proc::ticks;
use crate::system::{MACHINE, Names, RELEASE, SYSNAME, VERSION};
use crate::task::{Ctx, Usage};

/// `fs.nr_open`: the most that `RLIMIT_NOFILE` can be.
pub const NR_OPEN: u64 = 1 << 20;

/// `PER_LINUX32` of personality(2).
const PER_LINUX32: u32 = 8;
const PER_MASK: u32 = 0xff;

/// `struct rusage`, in 64-bit words.
pub(super) fn rusage_words(usage: &Usage) -> [u64; 18] {
    let time = |ns: u64| (ns / 1_000_000_000, ns % 1_000_000_000 / 1000);
    let (user, system) = (time(usage.user_ns), time(usage.system_ns));
    let mut words = [0; 18];
    (words[0], words[1]) = user;
    (words[2], words[3]) = system;
    words[4] = usage.max_rss / 1024;
    words[8] = usage.faults;
    words[16] = usage.sleeps;
    words[17] = usage.interruptions;
    words
}

/// `getrusage(2)`.
///
/// # Errors
/// `EINVAL`: `who` is unknown; `EFAULT`.
pub(super) fn sys_getrusage(cx: &mut Ctx<'_>, who: i32, buf: UserAddr) -> SysResult {
    let group = &cx.task.group;
    let usage = match who {
        0 => {
            cx.task.note_rss();
            cx.task.kernel.group_usage(group)
        }
        -1 => *group.account.children.lock(),
        1 => {
            cx.task.note_rss();
            let max_rss = group.account.max_rss.load(std::sync::atomic::Ordering::Relaxed);
            Usage { max_rss, ..cx.task.account.usage() }
        }
        _ => return Err(EINVAL.into()),
    };
    cx.mm.write_value(buf, &rusage_words(&usage))?;
    Ok(0)
}

/// `times(2)`: the result counts ticks since the machine started.
pub(super) fn sys_times(cx: &mut Ctx<'_>, buf: UserAddr) -> SysResult {
    if !buf.is_null() {
        let own = cx.task.kernel.group_usage(&cx.task.group);
        let children = *cx.task.group.account.children.lock();
        let words = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(ticks);
        cx.mm.write_value(buf, &words)?;
    }
    Ok(ticks(cx.task.kernel.boot_ns()))
}

/// `sysinfo(2)`.
pub(super) fn sys_sysinfo(cx: &mut Ctx<'_>, buf: UserAddr) -> SysResult {
    let kernel = &cx.task.kernel;
    kernel.sample_load();
    let memory = kernel.memory_counts();
    let tasks = kernel.tree.lock().tasks.len();
    let mut words = [0u64; 14];
    // A second that has begun counts.
    words[0] = kernel.boot_ns().saturating_add_signed(cx.offsets.boottime_ns).div_ceil(1_000_000_000);
    for (word, load) in words[1..4].iter_mut().zip(kernel.system.load()) {
        *word = (load * 65536.0) as u64;
    }
    words[4] = memory.total;
    words[5] = memory.free();
    // sharedram, bufferram, totalswap, freeswap: there are none.
    words[10] = u64::from(u16::try_from(tasks).unwrap_or(u16::MAX));
    // mem_unit, behind totalhigh and freehigh.
    words[13] = 1;
    cx.mm.write_value(buf, &words)?;
    Ok(0)
}

/// `uname(2)`.
pub(super) fn sys_uname(cx: &mut Ctx<'_>, buf: UserAddr) -> SysResult {
    let mut out = [0u8; 65 * 6];
    let Names { host, domain } = cx.task.uts().lock().clone();
    let is_32 = cx.task.attributes.lock().personality & PER_MASK == PER_LINUX32;
    let machine = if is_32 { "i686" } else { MACHINE };
    let fields =
        [SYSNAME.as_bytes(), &host, RELEASE.as_bytes(), VERSION.as_bytes(), machine.as_bytes(), &domain];
    for (slot, text) in out.chunks_exact_mut(65).zip(fields) {
        let n = text.len().min(64);
        slot[..n].copy_from_slice(&text[..n]);
    }
    cx.mm.write_all(buf, &out)?;
    Ok(0)
}

fn set_name(cx: &mut Ctx<'_>, name: UserAddr, len: i32, pick: fn(&mut Names) -> &mut Vec<u8>) -> SysResult {
    let uts = cx.task.uts();
    if !uts.owner.grants(&cx.cred, cap::SYS_ADMIN) {
        return Err(EPERM.into());
    }
    let len = usize::try_from(len).ok().filter(|&n| n <= 64).ok_or(EINVAL)?;
    let mut bytes = vec![0; len];
    cx.mm.read_exact(name, &mut bytes)?;
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(len);
    bytes.truncate(end);
    *pick(&mut uts.lock()) = bytes;
    Ok(0)
}

/// `sethostname(2)`.
///
/// # Errors
/// `EPERM`: no `CAP_SYS_ADMIN`; `EINVAL`: `len` is not 0 to 64; `EFAULT`.
pub(super) fn sys_sethostname(cx: &mut Ctx<'_>, name: UserAddr, len: i32) -> SysResult {
    set_name(cx, name, len, |n| &mut n.host)?;
    host_name_changes().tell();
    Ok(0)
}

/// `setdomainname(2)`.
///
/// # Errors
/// As `sethostname`.
pub(super) fn sys_setdomainname(cx: &mut Ctx<'_>, name: UserAddr, len: i32) -> SysResult {
    set_name(cx, name, len, |n| &mut n.domain)?;
    domain_name_changes().tell();
    Ok(0)
}

/// `personality(2)`: returns the former one.
pub(super) fn sys_personality(cx: &mut Ctx<'_>, new: u32) -> SysResult {
    let mut attributes = cx.task.attributes.lock();
    let old = attributes.personality;
    if new != u32::MAX {
        attributes.personality = new;
    }
    Ok(old.into())
}

/// `getcpu(2)`.
pub(super) fn sys_getcpu(cx: &mut Ctx<'_>, cpu: UserAddr, node: UserAddr) -> SysResult {
    if !cpu.is_null() {
        let number = cx.rseq.number().unwrap_or_else(|| cx.task.account.cpu());
        cx.mm.write_value(cpu, &number)?;
    }
    if !node.is_null() {
        cx.mm.write_value(node, &0u32)?;
    }
    Ok(0)
}

/// `ustat(2)`.
pub(super) fn sys_ustat(cx: &mut Ctx<'_>, dev: u32, buf: UserAddr) -> SysResult {
    let mounts = cx.fs.lock().mounts.clone();
    let mount = mounts.mounts().into_iter().find(|m| m.sb().dev() == u64::from(dev)).ok_or(EINVAL)?;
    let space = mount.sb().root().inode().statfs()?;
    // Free blocks as an `int`, free inodes, and names that nobody fills in.
    cx.mm.write_value(buf, &[u64::from(space.free as u32), space.files_free, 0, 0])?;
    Ok(0)
}

/// `sysfs(2)`: the kinds of file systems by number.
pub(super) fn sys_sysfs(cx: &mut Ctx<'_>, option: i32, arg: u64, buf: UserAddr) -> SysResult {
    let names = crate::filesystems::NAMES;
    match option {
        1 => {
            let name = cx.path(UserAddr(arg))?;
            Ok(names.iter().position(|n| n.as_bytes() == name).ok_or(EINVAL)? as u64)
        }
        2 => {
            let name = names.get(usize::from(u8::try_from(arg).map_err(|_| EINVAL)?)).ok_or(EINVAL)?;
            cx.mm.write_all(buf, &[name.as_bytes(), b"\0"].concat())?;
            Ok(0)
        }
        3 => Ok(names.len() as u64),
        _ => Err(EINVAL.into()),
    }
}

/// `struct statfs`, in 64-bit words.
fn statfs_words(s: &StatFs, dev: u64, mount: Option<&Mount>) -> [u64; 15] {
    const ST_RDONLY: u64 = 1;
    const ST_VALID: u64 = 0x20;
    const ST_RELATIME: u64 = 0x1000;
    // ST_NOSUID, ST_NODEV, ST_NOEXEC, ST_NOATIME, ST_NODIRATIME, ST_NOSYMFOLLOW.
    const NAMED: [(MountFlags, u64); 6] = [
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 0x400),
        (MountFlags::NODIRATIME, 0x800),
        (MountFlags::NOSYMFOLLOW, 0x2000),
    ];
    let mut flags = ST_VALID;
    if let Some(m) = mount {
        let set = m.flags();
        flags |= NAMED.iter().filter(|(flag, _)| set.contains(*flag)).map(|(_, bit)| bit).sum::<u64>();
        if !set.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
            flags |= ST_RELATIME;
        }
        flags |= if m.is_readonly() { ST_RDONLY } else { 0 };
    }
    [
        s.kind,
        s.block_size,
        s.blocks,
        s.free,
        s.available,
        s.files,
        s.files_free,
        dev,
        s.name_len,
        s.block_size,
        flags,
        0,
        0,
        0,
        0,
    ]
}

/// `statfs(2)`.
pub(super) fn sys_statfs(cx: &mut Ctx<'_>, path: UserAddr, buf: UserAddr) -> SysResult {
    let path = cx.path(path)?;
    let place = cx.walk().resolve(&path, true)?;
    let inode = place.inode();
    let words = statfs_words(&inode.statfs()?, inode.metadata()?.dev, Some(&place.mount));
    cx.mm.write_value(buf, &words)?;
    Ok(0)
}

/// What a file without a path is on.
fn anonymous(file: &FileDescription) -> Result<StatFs, Errno> {
    let kind = match file.ops.metadata()?.file_type() {
        FileType::Fifo => StatFs::PIPEFS,
        FileType::Socket => StatFs::SOCKFS,
        FileType::Regular if file.ops.mappable().is_ok() => StatFs::TMPFS,
        _ => StatFs::ANON_INODE,
    };
    Ok(StatFs { kind, block_size: 4096, name_len: 255, ..StatFs::default() })
}

/// `fstatfs(2)`.
pub(super) fn sys_fstatfs(cx: &mut Ctx<'_>, fd: i32, buf: UserAddr) -> SysResult {
    let file = cx.file(fd)?;
    let words = match &file.path {
        Some(place) => {
            let inode = place.inode();
            statfs_words(&inode.statfs()?, inode.metadata()?.dev, Some(&place.mount))
        }
        None => statfs_words(&anonymous(&file)?, file.ops.metadata()?.dev, None),
    };
    cx.mm.write_value(buf, &words)?;
    Ok(0)
}
