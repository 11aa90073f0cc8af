//! What the machine has: memory and processors.
#![expect(unsafe_code, reason = "calls the C library")]

use std::mem::{MaybeUninit, size_of};

use abi::Errno;

use crate::memory::last_errno;

/// Processors that an affinity mask here can name.
pub const MAX_CPUS: usize = 1024;

/// A set of processors, by bit.
pub type CpuMask = [u64; MAX_CPUS / 64];

/// Bytes of memory that the host has.
pub fn total_memory() -> u64 {
    let mut info = MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: `info` is room for one `sysinfo`, which the call fills.
    let r = unsafe { libc::sysinfo(info.as_mut_ptr()) };
    // SAFETY: all zeros is a valid `sysinfo` as well, so it is initialised whether the call worked or not.
    let info = unsafe { info.assume_init() };
    if r == 0 { info.totalram.saturating_mul(u64::from(info.mem_unit)) } else { u64::MAX }
}

/// Whether the host gives private memory pages of 2 MiB when asked (`MADV_HUGEPAGE`). False when it does not say.
pub fn has_huge_pages() -> bool {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
        text.unwrap_or_default()
    };
    let enabled = read("enabled");
    (enabled.contains("[always]") || enabled.contains("[madvise]"))
        && read("hpage_pmd_size").trim() == (2 << 20).to_string()
}

unsafe extern "C" {
    /// The first byte of the program in memory, and the first behind its code (end(3)).
    static __executable_start: u8;
    static etext: u8;
}

/// Lets go of the pages of ringfence's own code and constants: what is still used comes back from the file. Start-up needs
/// most of them, a sandbox that sleeps few.
pub fn drop_code() {
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr() & !(PAGE - 1);
    if start.is_multiple_of(PAGE) && start < end {
        // SAFETY: nobody writes to what lies before the end of the code (relocated data lies behind it), so the file has
        // the same bytes.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// The processor that the calling thread runs on at the moment.
pub fn current_cpu() -> usize {
    // SAFETY: the call has no arguments.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or(0)
}

/// The processors that thread `tid` (0: the calling one) may run on.
///
/// # Errors
/// What sched_getaffinity(2) gives.
pub fn affinity(tid: i32) -> Result<CpuMask, Errno> {
    let mut mask: CpuMask = [0; MAX_CPUS / 64];
    // SAFETY: `mask` is as many bytes as the call is told, and any bytes are a valid mask.
    let r = unsafe { libc::sched_getaffinity(tid, size_of::<CpuMask>(), mask.as_mut_ptr().cast()) };
    if r == 0 { Ok(mask) } else { Err(last_errno()) }
}

/// Lets thread `tid` of this process run on the processors in `mask` only.
///
/// # Errors
/// What sched_setaffinity(2) gives.
pub fn set_affinity(tid: i32, mask: &CpuMask) -> Result<(), Errno> {
    // SAFETY: the call reads `mask` only, which is as many bytes as it is told.
    let r = unsafe { libc::sched_setaffinity(tid, size_of::<CpuMask>(), mask.as_ptr().cast()) };
    if r == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The resource limits of this process, soft and hard, by number (`RLIMIT_CPU` is 0); unlimited is `u64::MAX`.
///
/// # Errors
/// What getrlimit(2) gives.
pub fn resource_limits() -> Result<[(u64, u64); 16], Errno> {
    let mut limits = [(u64::MAX, u64::MAX); 16];
    for (resource, limit) in (0_u32..).zip(&mut limits) {
        let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `value` is an `rlimit` of our own, which the call fills.
        let r = unsafe { libc::getrlimit(resource, &raw mut value) };
        if r != 0 {
            return Err(last_errno());
        }
        *limit = (value.rlim_cur, value.rlim_max);
    }
    Ok(limits)
}

/// The nice value of this process (getpriority(2)): -20 to 19.
pub fn nice() -> i32 {
    // SAFETY: the call takes numbers only. It cannot fail for the caller itself, so -1 is a value and no error.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Raises this process's limit of descriptors to the hard limit, for what the sandbox's files and vCPUs take.
///
/// # Errors
/// What setrlimit(2) gives.
pub fn raise_descriptor_limit() -> Result<(), Errno> {
    let (_, hard) = resource_limits()?[libc::RLIMIT_NOFILE as usize];
    let value = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the call reads `value` only.
    let r = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const value) };
    if r == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The file mode creation mask of this process (umask(2)). It is unset for an instant: call it while no other thread runs.
pub fn creation_mask() -> u32 {
    // SAFETY: the call has no memory arguments.
    let mask = unsafe { libc::umask(0o077) };
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    mask
}

/// How long the host lets the calling thread run before another one's turn comes, ns (sched_rr_get_interval(2)).
///
/// # Errors
/// What the call gives.
pub fn time_slice_ns() -> Result<i64, Errno> {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a `timespec` of our own, which the call fills.
    let r = unsafe { libc::sched_rr_get_interval(0, &raw mut ts) };
    if r != 0 {
        return Err(last_errno());
    }
    Ok(ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec))
}

/// Bytes and inodes of the file system that a descriptor is on (statfs(2)).
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "statfs(2) explains each")]
pub struct FsSpace {
    pub block_size: u64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_len: u64,
    pub kind: u64,
}

/// fstatfs(2).
///
/// # Errors
/// What the call gives.
pub fn fs_space(fd: std::os::fd::BorrowedFd<'_>) -> Result<FsSpace, Errno> {
    use std::os::fd::AsRawFd;
    let mut buf = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `fd` is open, and `buf` is room for one `statfs`, which the call fills.
    let r = unsafe { libc::fstatfs(fd.as_raw_fd(), buf.as_mut_ptr()) };
    if r != 0 {
        return Err(last_errno());
    }
    // SAFETY: all zeros is a valid `statfs`, and the call has filled it.
    let s = unsafe { buf.assume_init() };
    Ok(FsSpace {
        block_size: u64::try_from(s.f_bsize).unwrap_or(4096),
        blocks: s.f_blocks,
        free: s.f_bfree,
        available: s.f_bavail,
        files: s.f_files,
        files_free: s.f_ffree,
        name_len: u64::try_from(s.f_namelen).unwrap_or(255),
        kind: u64::try_from(s.f_type).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_processors() {
        assert!(total_memory() > 64 << 20);
        let mask = affinity(0).unwrap();
        let cpu = current_cpu();
        assert!(mask[cpu / 64] >> (cpu % 64) & 1 == 1);
        set_affinity(0, &mask).unwrap();
    }
}
