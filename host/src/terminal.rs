//! The terminal that we were started on: raw mode that is undone at the end, and the signals that come from it.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use abi::Errno;

use crate::memory::last_errno;
use crate::stdio::{Termios, When, set_termios, termios};

/// What to bring back at the end.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Whether this process is in the foreground of the terminal `fd`.
pub fn is_foreground(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: both calls take numbers only.
    let pgid = unsafe { libc::tcgetpgrp(fd.as_raw_fd()) };
    // SAFETY: as above.
    pgid >= 0 && pgid == unsafe { libc::getpgrp() }
}

/// Makes terminal `fd` hand on every byte as it is in both directions, until [`restore`].
///
/// # Errors
/// What tcgetattr(3) and tcsetattr(3) give.
pub fn make_raw(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let old = termios(fd)?;
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    if saved.is_none() {
        let own = fd.as_fd().try_clone_to_owned().map_err(|_| abi::errno::EMFILE)?;
        *saved = Some((own, old));
    }
    let mut raw = old;
    for flags in [0, 4, 12] {
        raw[flags..flags + 4].fill(0);
    }
    // Input keeps its hint about UTF-8; VMIN 1, VTIME 0.
    raw[1] = old[1] & (libc::IUTF8 >> 8) as u8;
    raw[17 + libc::VMIN] = 1;
    raw[17 + libc::VTIME] = 0;
    set_termios(fd, When::Now, raw)
}

/// Brings back the settings from before [`make_raw`]; may be called from anywhere, also twice.
pub fn restore() {
    let taken = match SAVED.try_lock() {
        Ok(mut saved) => saved.take(),
        Err(_) => None,
    };
    if let Some((fd, old)) = taken {
        let _ = set_termios(fd.as_fd(), When::Now, old);
    }
}

/// Keeps these signals from their default effects, in this thread and all that it starts: [`next_signal`] gets them.
pub fn block_signals(signals: &[i32]) {
    let set = set_of(signals);
    // SAFETY: `set` is complete; no former mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for one of `signals`, which are blocked; returns it, and whether the kernel sent it (a terminal, say).
pub fn next_signal(signals: &[i32]) -> (i32, bool) {
    let set = set_of(signals);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `set` is complete and `info` has the room of a siginfo.
        let signo = unsafe { libc::sigwaitinfo(&raw const set, info.as_mut_ptr()) };
        if signo > 0 {
            // SAFETY: zeros are a siginfo, and the call filled it in.
            let info = unsafe { info.assume_init_ref() };
            return (signo, info.si_code == libc::SI_KERNEL);
        }
        if last_errno() != abi::errno::EINTR {
            // Only a bad set could fail so; an endless loop would be worse than a thread that sleeps.
            std::thread::park();
        }
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` has the room of a signal set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signo in signals {
        // SAFETY: the set was emptied; a number that is no signal changes nothing.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signo) };
    }
    // SAFETY: sigemptyset initialised it.
    unsafe { set.assume_init() }
}
