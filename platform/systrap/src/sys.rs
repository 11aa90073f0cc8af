//! Host calls about processes.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::mem::MaybeUninit;

/// Waits until a stub that the calling thread made has ended, and leaves it a zombie; `None`: there is none.
///
/// Stubs send no signal when they end, which makes them "clone" children: others that the sentry's process may have are
/// not looked at.
pub(crate) fn wait_for_stub() -> Option<i32> {
    let options = libc::WEXITED | libc::__WCLONE | libc::__WNOTHREAD | libc::WNOWAIT;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is room for a `siginfo_t`, which the call fills.
        let r = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
        if r == 0 {
            // SAFETY: all zeros is a valid `siginfo_t`, and the call has filled it.
            let info = unsafe { info.assume_init() };
            // SAFETY: waitid fills the fields of SIGCHLD.
            return Some(unsafe { info.si_pid() });
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// Reaps a stub that has ended, from the thread that made it.
pub(crate) fn reap(pid: i32) {
    // SAFETY: no pointers but null.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
}

/// Kills a stub that was not reaped.
pub(crate) fn kill(pid: i32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Sends `signal` to thread `tid` of the stub `pid`, which was not reaped. A thread that has ended, or that is not the
/// stub's, gets nothing.
pub(crate) fn signal_thread(pid: i32, tid: i32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
}

/// Processor time that thread `tid` of process `pid` has used, ns; `None` when the host does not say.
///
/// Source: proc(5), `/proc/pid/schedstat`. The clocks of threads of other processes cannot be read.
pub(crate) fn thread_cpu_ns(pid: i32, tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Whether user code may use RDFSBASE and its like (`HWCAP2_FSGSBASE`).
pub(crate) fn has_fsgsbase() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// Whether there is RDTSCP (Intel manual volume 2, CPUID, leaf 80000001H, EDX bit 27). Every 64-bit processor has the leaf.
pub(crate) fn has_rdtscp() -> bool {
    std::arch::x86_64::__cpuid(0x8000_0001).edx >> 27 & 1 == 1
}
