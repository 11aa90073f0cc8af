//! The template: the stub from which all others are cloned. It is a copy of the sentry that gives up everything it has:
//! memory, descriptors, capabilities, and the right to make system calls.
#![expect(unsafe_code, reason = "clones the process and sets the clone up")]

use std::os::fd::{AsRawFd, BorrowedFd};

use host::mapping::Mapping;
use platform::Error;

use crate::filter;
use crate::layout::{CONTROL_FD, MEMORY_FD, STUB_MM, STUB_TEXT, STUB_TEXT_LEN, mm};
use crate::obstacle::refused;
use crate::stub::SIGNALS;

/// What the clone needs; it lives in the sentry's memory until the clone runs in the stub's page.
pub(crate) struct Setup<'a> {
    pub(crate) memory: BorrowedFd<'a>,
    pub(crate) control: BorrowedFd<'a>,
    pub(crate) text: BorrowedFd<'a>,
    /// The control file as the sentry maps it; the clone has the same mapping until it is emptied.
    pub(crate) mapping: &'a Mapping,
    /// The sentry's process ID.
    pub(crate) parent: u32,
    /// The template's command page in the control file.
    pub(crate) page: u64,
    /// The signal handler's address in a stub.
    pub(crate) handler: u64,
}

struct Arguments<'a> {
    setup: &'a Setup<'a>,
    filter: libc::sock_fprog,
    inner_stack: *mut libc::c_void,
    pid: i32,
}

const STACK: u64 = 64 << 10;

/// The kernel's `struct sigaction`.
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// What went wrong, in words.
const STEPS: [&str; 10] = [
    "cloning the process",
    "passing the memory files",
    "closing descriptors",
    "no_new_privs",
    "dying with the parent",
    "giving up capabilities",
    "signal handlers",
    "mapping the stub",
    "the seccomp filter",
    "resource limits",
];

/// Makes the template as a child of the calling thread; returns its process ID. It sets itself up, which may fail yet (see
/// [`failure`]), and then waits for commands.
///
/// # Errors
/// The host makes no process.
pub(crate) fn start(setup: &Setup<'_>) -> Result<i32, Error> {
    let stacks = Mapping::anonymous(2 * STACK).map_err(|e| refused("stack of the template", e.raw()))?;
    let mut program = filter::wide();
    let mut arguments = Arguments {
        setup,
        filter: libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() },
        inner_stack: stacks.address(STACK) as *mut libc::c_void,
        pid: 0,
    };
    // In two steps: a clone that shares memory has none of the C library's registrations with the host (rseq), and so has
    // its child, the template.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    let top = (stacks.address(0) + 2 * STACK) as *mut libc::c_void;
    // SAFETY:
    // 1. `middle` runs on a stack of its own, and the caller sleeps until it has ended (CLONE_VFORK).
    // 2. `arguments` lives until then.
    let middle = unsafe { libc::clone(middle, top, flags, (&raw mut arguments).cast()) };
    if middle < 0 {
        return Err(refused("cloning the process", last_errno()));
    }
    // SAFETY: no pointers but null; `middle` is our child.
    unsafe { libc::waitpid(middle, std::ptr::null_mut(), libc::__WALL) };
    if arguments.pid <= 0 {
        return Err(refused("cloning the process", -arguments.pid));
    }
    Ok(arguments.pid)
}

/// Why a template has died, from what its set-up stored before.
pub(crate) fn failure(mapping: &Mapping, page: u64) -> Error {
    let step = mapping.load_u32(page + mm::SETUP_STEP) as usize;
    let errno = mapping.load_u32(page + mm::SETUP_ERRNO).cast_signed();
    let what = STEPS.get(step).copied().unwrap_or("set-up");
    refused(what, errno)
}

/// Clones the template, and ends.
extern "C" fn middle(arguments: *mut libc::c_void) -> libc::c_int {
    let arguments = arguments.cast::<Arguments<'_>>();
    // SAFETY: `start` passes them and sleeps meanwhile.
    let inner_stack = unsafe { (*arguments).inner_stack };
    // SAFETY: the child gets a copy of all memory, so its stack is its own; CLONE_PARENT makes it a child of `start`'s
    // thread.
    let pid = unsafe { libc::clone(template, inner_stack, libc::CLONE_PARENT, arguments.cast()) };
    let result = if pid < 0 { -last_errno() } else { pid };
    // SAFETY: as above.
    unsafe { (*arguments).pid = result };
    0
}

/// The template's way into the stub's page. Nothing here allocates or locks: other threads of the sentry may have held
/// any lock when the memory was copied.
extern "C" fn template(arguments: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the copy of what `start` passed.
    let arguments = unsafe { &*arguments.cast::<Arguments<'_>>() };
    let step = match set_up(arguments) {
        Ok(never) => match never {},
        Err(step) => step,
    };
    let Setup { mapping, page, .. } = arguments.setup;
    mapping.swap_u32(page + mm::SETUP_ERRNO, last_errno().cast_unsigned());
    mapping.swap_u32(page + mm::SETUP_STEP, step);
    1
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

enum Never {}

/// Makes a system call.
fn call(number: libc::c_long, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> Option<u64> {
    // SAFETY: the callers pass what the calls want; this process has nothing to lose but itself.
    let r = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    u64::try_from(r).ok()
}

/// Moves the vDSO to a fixed address before it goes: SYSENTER returns to where the host's kernel believes it is, which
/// would tell guests a part of the sentry's own address.
fn hide_vdso() {
    const PLACE: u64 = 0x7000_0000_0000;
    // SAFETY: no pointers.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    // The host moves it as a whole only; its length differs between kernels.
    for len in (1..=8).map(|pages| pages * 4096) {
        if vdso != 0 && call(libc::SYS_mremap, vdso, len, len, flags, PLACE, 0).is_some() {
            return;
        }
    }
}

fn set_up(arguments: &Arguments<'_>) -> Result<Never, u32> {
    let setup = arguments.setup;
    // Out of the way of the numbers that they get.
    let up =
        |fd: BorrowedFd<'_>| call(libc::SYS_fcntl, fd.as_raw_fd() as u64, libc::F_DUPFD as u64, 16, 0, 0, 0);
    let (memory, control, text) = (up(setup.memory), up(setup.control), up(setup.text));
    let (memory, control, text) = (memory.ok_or(1u32)?, control.ok_or(1u32)?, text.ok_or(1u32)?);
    let dup = |from: u64, to: u32| call(libc::SYS_dup3, from, to.into(), 0, 0, 0, 0).ok_or(1u32);
    dup(memory, MEMORY_FD)?;
    dup(control, CONTROL_FD)?;
    dup(text, CONTROL_FD + 1)?;
    // Descriptors 0 to 2, then everything behind ours. Linux before 5.9 has no close_range.
    let close = |first: u32, last: u32| call(libc::SYS_close_range, first.into(), last.into(), 0, 0, 0, 0);
    close(0, 2).ok_or(2u32)?;
    close(CONTROL_FD + 2, u32::MAX).ok_or(2u32)?;

    let prctl = |option: libc::c_int, a: u64| call(libc::SYS_prctl, option as u64, a, 0, 0, 0, 0);
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).ok_or(3u32)?;
    // No terminal signals.
    call(libc::SYS_setsid, 0, 0, 0, 0, 0, 0);
    let name = c"ringfence-stub";
    prctl(libc::PR_SET_NAME, name.as_ptr() as u64).ok_or(4u32)?;
    // Guests that crash their stub leave no core files on the host.
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let core = libc::RLIMIT_CORE as u64;
    call(libc::SYS_prlimit64, 0, core, (&raw const limit) as u64, 0, 0, 0).ok_or(9u32)?;
    // _LINUX_CAPABILITY_VERSION_3: header, then three words of zeros, twice.
    let header = [0x2008_0522u32, 0];
    let data = [0u32; 6];
    call(libc::SYS_capset, header.as_ptr() as u64, data.as_ptr() as u64, 0, 0, 0, 0).ok_or(5u32)?;
    // Giving up capabilities clears the signal of the parent's death: set it afterwards.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).ok_or(4u32)?;
    // It may have died before.
    if call(libc::SYS_getppid, 0, 0, 0, 0, 0, 0) != Some(setup.parent.into()) {
        return Err(4);
    }

    let all = u64::MAX;
    call(libc::SYS_rt_sigprocmask, 2, (&raw const all) as u64, 0, 8, 0, 0).ok_or(6u32)?;
    let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | 0x0400_0000;
    let action = SigAction { handler: setup.handler, flags, restorer: setup.handler, mask: all };
    for signal in SIGNALS {
        call(libc::SYS_rt_sigaction, signal as u64, (&raw const action) as u64, 0, 8, 0, 0).ok_or(6u32)?;
    }

    hide_vdso();
    let map = |at: u64, len: u64, protection: i32, fd: u32, offset: u64| {
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        call(libc::SYS_mmap, at, len, protection as u64, flags, fd.into(), offset).ok_or(7u32)
    };
    map(STUB_TEXT, STUB_TEXT_LEN, libc::PROT_READ | libc::PROT_EXEC, CONTROL_FD + 1, 0)?;
    map(STUB_MM, 4096, libc::PROT_READ, CONTROL_FD, setup.page)?;
    call(libc::SYS_close, (CONTROL_FD + 1).into(), 0, 0, 0, 0, 0).ok_or(2u32)?;
    let program = (&raw const arguments.filter) as u64;
    // The last call from here: the filter lets only the stub's page make any.
    call(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER.into(), 0, program, 0, 0, 0).ok_or(8u32)?;
    // SAFETY: the stub's first instruction, mapped just now; it needs nothing of what is here and never returns.
    let enter: extern "C" fn() -> ! = unsafe { std::mem::transmute(STUB_TEXT as *const ()) };
    enter()
}
