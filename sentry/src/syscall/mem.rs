//! Memory: mmap and its family.

use abi::errno::{EBADF, EINVAL, EPERM};
use abi::{Errno, UserAddr};

use fs::tmpfs::seal;

use super::SysResult;
use crate::mm::{MapCall, Privileges};
use crate::task::Ctx;

impl Ctx<'_> {
    /// What the caller's capabilities allow in memory management.
    pub fn privileges(&self) -> Privileges {
        let mut p = Privileges::empty();
        if self.cred.has(base::cred::cap::IPC_LOCK) {
            p |= Privileges::IPC_LOCK;
        }
        if self.cred.has(17) {
            p |= Privileges::RAW_IO;
        }
        p
    }
}

/// `mmap(2)`.
pub(super) fn sys_mmap(
    cx: &mut Ctx<'_>,
    addr: u64,
    len: u64,
    prot: u64,
    flags: u64,
    fd: i32,
    offset: u64,
) -> SysResult {
    const MAP_TYPE: u64 = 0xf;
    const MAP_PRIVATE: u64 = 2;
    const PROT_WRITE: u64 = 2;
    let call = MapCall { addr, len, prot, flags, fd, offset };
    let root = cx.fs.lock().root.clone();
    let files = cx.files.clone();
    let mapped = cx.mm.map_call(call, cx.privileges(), |fd| -> Result<_, Errno> {
        let file = files.file(fd)?;
        if let Some(ring) = super::uring::ring_of(&file) {
            ring.check_mapping(offset, len)?;
        }
        if let Some(socket) = net::SocketFile::of(&file) {
            socket.check_mapping(offset, len)?;
        }
        if file.flags() & fs::file::oflag::PATH != 0 {
            return Err(EBADF);
        }
        let mut mapping = crate::task::exec::file_mapping(&file, &root, offset);
        let may_be_written = flags & MAP_TYPE != MAP_PRIVATE && mapping.writable;
        file.ops.prepare_mapping(offset..offset.saturating_add(len), may_be_written)?;
        // A sealed file: mm/memfd.c, `memfd_check_seals_mmap`.
        if let Ok(seals) = file.ops.seals()
            && seals & (seal::WRITE | seal::FUTURE_WRITE) != 0
        {
            let is_shared = flags & MAP_TYPE != MAP_PRIVATE;
            if is_shared && prot & PROT_WRITE != 0 {
                return Err(EPERM);
            }
            mapping.writable = false;
        }
        Ok(mapping)
    })?;
    Ok(mapped)
}

/// `munmap(2)`.
pub(super) fn sys_munmap(cx: &mut Ctx<'_>, addr: u64, len: u64) -> SysResult {
    cx.mm.unmap(addr, len)?;
    Ok(0)
}

/// `mprotect(2)`.
pub(super) fn sys_mprotect(cx: &mut Ctx<'_>, addr: u64, len: u64, prot: u64) -> SysResult {
    cx.mm.protect(addr, len, prot)?;
    Ok(0)
}

/// `pkey_mprotect(2)`.
pub(super) fn sys_pkey_mprotect(cx: &mut Ctx<'_>, addr: u64, len: u64, prot: u64, key: i32) -> SysResult {
    cx.mm.protect_with_key(addr, len, prot, key)?;
    Ok(0)
}

/// `pkey_alloc(2)`: guests are shown a processor without protection keys, where Linux finds a key and then that it
/// cannot set its rights (Linux 6.12 arch/x86/kernel/fpu/xstate.c, `arch_set_user_pkey_access`).
pub(super) fn sys_pkey_alloc(_cx: &mut Ctx<'_>, _flags: u64, _rights: u64) -> SysResult {
    Err(EINVAL.into())
}

/// `pkey_free(2)`: none was ever allocated.
pub(super) fn sys_pkey_free(_cx: &mut Ctx<'_>, _key: i32) -> SysResult {
    Err(EINVAL.into())
}

/// `remap_file_pages(2)`.
pub(super) fn sys_remap_file_pages(
    cx: &mut Ctx<'_>,
    addr: u64,
    size: u64,
    prot: u64,
    offset: u64,
    flags: u64,
) -> SysResult {
    cx.mm.remap_file_pages(addr, size, prot, offset, flags, cx.privileges())?;
    Ok(0)
}

/// `mremap(2)`.
pub(super) fn sys_mremap(
    cx: &mut Ctx<'_>,
    addr: u64,
    old: u64,
    new: u64,
    flags: u64,
    new_addr: u64,
) -> SysResult {
    Ok(cx.mm.remap(addr, old, new, flags, new_addr, cx.privileges())?)
}

/// `brk(2)`.
pub(super) fn sys_brk(cx: &mut Ctx<'_>, addr: u64) -> SysResult {
    Ok(cx.mm.brk(addr))
}

/// `madvise(2)`.
pub(super) fn sys_madvise(cx: &mut Ctx<'_>, addr: u64, len: u64, advice: u64) -> SysResult {
    cx.mm.advise(addr, len, advice)?;
    Ok(0)
}

/// `msync(2)`.
pub(super) fn sys_msync(cx: &mut Ctx<'_>, addr: u64, len: u64, flags: u32) -> SysResult {
    cx.mm.sync(addr, len, flags.into())?;
    Ok(0)
}

/// `mincore(2)`.
pub(super) fn sys_mincore(cx: &mut Ctx<'_>, addr: u64, len: u64, vec: UserAddr) -> SysResult {
    cx.mm.in_core(addr, len, vec)?;
    Ok(0)
}

/// `mlock(2)`.
pub(super) fn sys_mlock(cx: &mut Ctx<'_>, addr: u64, len: u64) -> SysResult {
    sys_mlock2(cx, addr, len, 0)
}

/// `mlock2(2)`.
pub(super) fn sys_mlock2(cx: &mut Ctx<'_>, addr: u64, len: u64, flags: u32) -> SysResult {
    cx.mm.lock(addr, len, flags.into(), cx.privileges())?;
    Ok(0)
}

/// `munlock(2)`.
pub(super) fn sys_munlock(cx: &mut Ctx<'_>, addr: u64, len: u64) -> SysResult {
    cx.mm.unlock(addr, len)?;
    Ok(0)
}

/// `mlockall(2)`.
pub(super) fn sys_mlockall(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    cx.mm.lock_all(flags.into(), cx.privileges())?;
    Ok(0)
}

/// `munlockall(2)`.
pub(super) fn sys_munlockall(cx: &mut Ctx<'_>) -> SysResult {
    cx.mm.unlock_all();
    Ok(0)
}
