//! System calls: the table, and the handlers by theme.
//!
//! Reading order: `table.rs`; then the handlers: `file.rs` (reading and writing), `path.rs` (names), `fd.rs` (descriptors,
//! pipes), `poll.rs` (waiting for descriptors), `mem.rs`, `task.rs` (processes, limits), `futex.rs`, `wait.rs`,
//! `sig.rs`, `time.rs`, `timer.rs`,
//! `mount.rs` and `fsmount.rs` (mounts), `cred.rs` (users, capabilities), `landlock.rs`, `prctl.rs`, `sched.rs`, `system.rs` (names, usage, file systems), `sock.rs` and
//! `sockmsg.rs` (sockets), `uring/` (io_uring), `aio.rs` (Linux AIO), `tty.rs` (terminals and sessions); `shm.rs`, `sem.rs`, `msg.rs` (System V IPC).

use abi::errno::{EFAULT, ERESTARTSYS};
use abi::{Errno, UserAddr};

use crate::task::Ctx;

mod admin;
pub mod aio;
pub mod cred;
mod fanotify;
pub mod fd;
pub mod file;
mod fileattr;
mod fsmount;
pub mod futex;
pub mod futex2;
mod handle;
pub mod inotify;
pub mod ioprio;
mod keys;
mod landlock;
pub mod limits;
pub mod lock;
pub mod mem;
pub mod mempolicy;
mod mount;
pub mod mqueue;
pub mod msg;
pub mod ns;
pub mod open;
pub mod path;
pub mod poll;
mod prctl;
pub mod process;
pub mod range;
pub mod sched;
pub mod seccomp;
pub mod sem;
pub mod shm;
pub mod sig;
pub mod sock;
pub mod sockmsg;
pub mod splice;
pub mod system;
pub mod table;
pub mod task;
pub mod time;
pub mod timer;
pub mod tty;
pub mod uring;
pub mod wait;
mod watch;
pub mod xattr;

/// How an interrupted call goes on (Linux include/linux/errno.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// `ERESTARTSYS`: again, unless a handler without `SA_RESTART` ran.
    Sys,
    /// `ERESTARTNOINTR`: again in any case.
    NoIntr,
    /// `ERESTARTNOHAND`: again, unless a handler ran.
    NoHand,
    /// `ERESTART_RESTARTBLOCK`: again with the same deadline, unless a handler ran.
    Block,
}

/// Why a handler has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An error for the guest.
    Fail(Errno),
    /// A signal came.
    Restart(Restart),
    /// The registers are set already (`rt_sigreturn`, `execve`) or the thread has ended.
    NoReturn,
}

impl From<Errno> for Stop {
    fn from(e: Errno) -> Self {
        match e {
            ERESTARTSYS => Self::Restart(Restart::Sys),
            e => Self::Fail(e),
        }
    }
}

/// What a handler returns: the value for RAX.
pub type SysResult = Result<u64, Stop>;

/// How far a call is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As Linux.
    Full,
    /// With gaps: which.
    Partial(&'static str),
    /// `ENOSYS`.
    Absent,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The number in RAX.
    pub number: u64,
    /// The name.
    pub name: &'static str,
    /// How far it is implemented.
    pub support: Support,
    /// Names and types of the arguments.
    pub arguments: &'static [(&'static str, &'static str)],
}

/// A type that a register holds; decoding cannot fail.
pub trait Argument {
    /// Takes the value as Linux's C prototype does.
    fn decode(raw: u64) -> Self;
}

impl Argument for u64 {
    fn decode(raw: u64) -> Self {
        raw
    }
}

impl Argument for i64 {
    fn decode(raw: u64) -> Self {
        raw as Self
    }
}

impl Argument for u32 {
    fn decode(raw: u64) -> Self {
        raw as Self
    }
}

impl Argument for i32 {
    fn decode(raw: u64) -> Self {
        raw as Self
    }
}

impl Argument for UserAddr {
    fn decode(raw: u64) -> Self {
        Self(raw)
    }
}

/// The name of call `number`, if it has one.
pub fn name(number: u64) -> Option<&'static str> {
    table::ROWS.binary_search_by_key(&number, |r| r.number).ok().map(|i| table::ROWS[i].name)
}

/// Handles system call `number`.
///
/// # Errors
/// The handler's.
pub fn dispatch(cx: &mut Ctx<'_>, number: u64, args: [u64; 6]) -> SysResult {
    if cx.task.kernel.tracer.is_none() {
        return table::call(cx, number, args);
    }
    let kernel = cx.task.kernel.clone();
    match &kernel.tracer {
        Some(tracer) => tracer.call(cx, number, args),
        None => table::call(cx, number, args),
    }
}

impl Ctx<'_> {
    /// Copies in a path.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub fn path(&self, addr: UserAddr) -> Result<Vec<u8>, Errno> {
        self.mm.read_cstr(addr, 4096)
    }

    /// Copies in a NULL-terminated array of strings (`argv`).
    ///
    /// # Errors
    /// `EFAULT`, `E2BIG`.
    pub fn strings(&self, addr: UserAddr) -> Result<Vec<Vec<u8>>, Errno> {
        let mut list = Vec::new();
        let mut total = 0usize;
        if addr.is_null() {
            return Ok(list);
        }
        let mut at = addr;
        loop {
            let p: u64 = self.mm.read_value(at)?;
            if p == 0 {
                return Ok(list);
            }
            let s = self
                .mm
                .read_cstr(UserAddr(p), 128 << 10)
                .map_err(|e| if e == EFAULT { EFAULT } else { abi::errno::E2BIG })?;
            total += s.len() + 9;
            if total > 8 << 20 {
                return Err(abi::errno::E2BIG);
            }
            list.push(s);
            at = at.checked_add(8).ok_or(EFAULT)?;
        }
    }
}
