//! The seccomp filter that confines this process to [`crate::calls`] (seccomp(2)).
//!
//! A call that has no row does not happen: the thread that tried gets SIGSYS, whose handler says which call it was and
//! ends the process; where signals are blocked, the signal itself ends it. Somebody who has taken the process over may replace the handler; the call is refused all the same.
#![expect(unsafe_code, reason = "installs a signal handler")]

use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::calls::{Bound, CALLS, HostCall, When};

/// Exit status when a call was refused: ringfence itself failed.
const FAILED: libc::c_int = 125;

/// What the sandbox needs beyond the rows that every one has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// A host folder is granted for writing.
    pub writable: bool,
    /// A host folder is granted that the host may change meanwhile.
    pub shared: bool,
    /// Guests run in stub processes.
    pub stubs: bool,
    /// The sandbox shares the host's network.
    pub network: bool,
}

/// Confines all threads of this process, those that come later included, for good.
///
/// # Errors
/// What the host says against it, in words.
pub fn confine(needs: Needs) -> Result<(), String> {
    let list = list(needs).map_err(|e| e.to_string())?;
    let threads = thread_fallback().map_err(|e| e.to_string())?;
    install_handler()?;
    for program in [&threads, &list] {
        seccompiler::apply_filter_all_threads(program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn condition(argument: u8, bound: Bound) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (length, operator, value) = match bound {
        Bound::Is(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value),
        Bound::Bits(mask, value) => (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value),
        Bound::OwnProcess => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(std::process::id())),
    };
    SeccompCondition::new(argument, length, operator, value)
}

fn is_needed(row: &HostCall, needs: Needs) -> bool {
    match row.when {
        When::Always => true,
        When::Writable => needs.writable,
        When::Shared => needs.shared,
        When::Network => needs.network,
        When::Stubs => needs.stubs,
    }
}

/// The rows; everything else traps.
fn list(needs: Needs) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut free: Vec<i64> = Vec::new();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in CALLS.iter().filter(|row| is_needed(row, needs)) {
        let of_call = rules.entry(row.number).or_default();
        let conditions: Result<Vec<_>, _> =
            row.limits.iter().map(|limit| condition(limit.argument, limit.bound)).collect();
        match conditions? {
            none if none.is_empty() => free.push(row.number),
            some => of_call.push(SeccompRule::new(some)?),
        }
    }
    // A row without limits allows every form of its call; to the library, no rules mean that.
    for number in free {
        rules.insert(number, Vec::new());
    }
    // Left to the other filter: of two answers the harder one counts.
    rules.insert(libc::SYS_clone3, Vec::new());
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// clone3(2) passes its flags in memory, where no filter can look: it is absent, and the C library uses clone(2) instead.
fn thread_fallback() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, absent, TargetArch::x86_64)?.try_into()
}

fn install_handler() -> Result<(), String> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a valid `sigaction` (SIG_DFL, no flags, empty mask).
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = refused as extern "C" fn(libc::c_int, *const libc::siginfo_t, *const libc::c_void)
        as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is complete; the handler does only what signal-safety(7) lists.
    let r = unsafe { libc::sigaction(libc::SIGSYS, action, std::ptr::null_mut()) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

/// Says on standard error which call was refused, and ends the process.
extern "C" fn refused(_signal: libc::c_int, _info: *const libc::siginfo_t, context: *const libc::c_void) {
    // SAFETY: the kernel passes the interrupted thread's `ucontext_t`.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let [number, second] =
        [libc::REG_RAX, libc::REG_RSI].map(|name| registers.get(name as usize).copied().unwrap_or(-1));
    let mut line = Line { bytes: [0; 192], len: 0 };
    line.text(b"ringfence: internal error: host call ");
    line.number(number.cast_unsigned(), 10);
    line.text(b" (second argument 0x");
    line.number(second.cast_unsigned(), 16);
    line.text(b") is not in the table of host calls (host/src/calls.rs); please report it\n");
    // SAFETY: what was written of the array is passed.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
    // SAFETY: the call ends the process; it takes a number.
    unsafe { libc::_exit(FAILED) };
}

/// A line put together without allocating, as a signal handler must.
struct Line {
    bytes: [u8; 192],
    len: usize,
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, value: u64, base: u64) {
        if value >= base {
            self.number(value / base, base);
        }
        self.text(&[b"0123456789abcdef"[(value % base) as usize]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_makes_filters() {
        for writable in [false, true] {
            assert!(
                list(Needs { writable, shared: writable, stubs: writable, network: writable })
                    .is_ok_and(|program| program.len() < 4096)
            );
        }
        assert!(thread_fallback().is_ok());
    }

    #[test]
    fn no_row_lets_a_process_or_a_program_start() {
        for row in CALLS {
            assert!(!matches!(
                row.number,
                libc::SYS_execve | libc::SYS_execveat | libc::SYS_fork | libc::SYS_vfork | libc::SYS_clone3
            ));
            assert!(row.number != libc::SYS_clone || !row.limits.is_empty());
        }
    }
}
