//! Threads of the host: ids, and the signal that interrupts one.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use abi::Errno;

use crate::memory::last_errno;

/// The calling thread's id.
pub fn current_id() -> i32 {
    thread_local! {
        static ID: Cell<i32> = const { Cell::new(0) };
    }
    let known = ID.get();
    if known != 0 {
        return known;
    }
    // SAFETY: the call has no arguments and cannot fail.
    let id = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    ID.set(id);
    id
}

/// The signal that [`interrupt`] sends: a real-time one that nothing else here uses.
pub fn interrupt_signal() -> i32 {
    libc::SIGRTMAX() - 1
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Installs the empty handler of [`interrupt_signal`], once for the process.
///
/// There is no `SA_RESTART`: the point of the signal is that the interrupted call returns `EINTR`.
///
/// # Errors
/// What sigaction(2) gives.
pub fn install_interrupt_handler() -> Result<(), Errno> {
    static DONE: OnceLock<Result<(), Errno>> = OnceLock::new();
    *DONE.get_or_init(|| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all zeros is a valid `sigaction` (SIG_DFL, no flags, empty mask).
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: `action` is complete; the handler does nothing, so it is async-signal-safe.
        let r = unsafe { libc::sigaction(interrupt_signal(), action, std::ptr::null_mut()) };
        if r != 0 { Err(last_errno()) } else { Ok(()) }
    })
}

/// Interrupts the call that thread `id` of this process sleeps in. A thread that has ended is ignored.
pub fn interrupt(id: i32) {
    // SAFETY: no pointers; a stale id gives ESRCH, and tgkill never reaches another process.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), id, interrupt_signal()) };
}

/// Stops this process as SIGSTOP does; returns once somebody has continued it.
pub fn stop_process() {
    let me = std::process::id().cast_signed();
    // SAFETY: no pointers; the signal goes to this process.
    unsafe { libc::kill(me, libc::SIGSTOP) };
}

/// Sets how late the calling thread's timeouts may be, in ns.
pub fn set_timer_slack(ns: u64) {
    // SAFETY: the option takes a number; a failure leaves the slack as it was, which only makes timeouts later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ns, 0, 0, 0) };
}

/// Makes every running thread of this process pass a memory barrier that also serialises its instructions
/// (membarrier(2)); vCPUs leave the guest for it.
///
/// # Errors
/// `ENOSYS`, `EINVAL`: the host has no such barrier.
pub fn barrier() -> Result<(), Errno> {
    static REGISTERED: OnceLock<Result<(), Errno>> = OnceLock::new();
    const EXPEDITED_SYNC_CORE: libc::c_int = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE;
    const REGISTER: libc::c_int = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
    let call = |command: libc::c_int| {
        // SAFETY: the call takes numbers only.
        let r = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        if r < 0 { Err(last_errno()) } else { Ok(()) }
    };
    (*REGISTERED.get_or_init(|| call(REGISTER)))?;
    call(EXPEDITED_SYNC_CORE)
}
