//! ptrace(2): what a tracee keeps, and where it stops for its tracer (Linux kernel/ptrace.c, kernel/signal.c
//! `ptrace_stop`).
//!
//! Reading order: this file (state, stops), `calls.rs` (what a tracer asks), `debug.rs` (breakpoints), `ends.rs` (what becomes of tracees and tracers
//! that end, and what wait(2) reports).
//!
//! A stopped tracee sleeps in [`Ctx::trace_stop`] and serves its tracer's requests there itself, since the registers are
//! its own. [`Trace::flags`] says without a lock whether there is anything to do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::signal::{SaFlags, SigInfo, code};
use base::lock::{Lock, rank};
use base::wait::Events;

use crate::kernel::{Kernel, Tree};
use crate::signal::{SIG_IGN, SIGCHLD, SIGKILL, SIGTRAP};
use crate::syscall::Restart;
use crate::task::{Ctx, Task};

pub mod calls;
mod debug;
mod ends;

pub use ends::Ended;

/// `PTRACE_EVENT_*`.
pub(crate) mod event {
    pub(crate) const FORK: u32 = 1;
    pub(crate) const VFORK: u32 = 2;
    pub(crate) const CLONE: u32 = 3;
    pub(crate) const EXEC: u32 = 4;
    pub(crate) const VFORK_DONE: u32 = 5;
    pub(crate) const EXIT: u32 = 6;
    pub(crate) const SECCOMP: u32 = 7;
    pub(crate) const STOP: u32 = 128;
}

/// `PTRACE_O_*`.
pub(crate) mod option {
    pub(crate) const SYSGOOD: u32 = 1;
    pub(crate) const EXITKILL: u32 = 1 << 20;
    pub(crate) const SUSPEND_SECCOMP: u32 = 1 << 21;
    /// All that are known: those bits and the events'.
    pub(crate) const KNOWN: u32 = 0xff | EXITKILL | SUSPEND_SECCOMP;
}

/// What a tracee is to do, for a look without the lock.
mod flag {
    pub(super) const TRACED: u32 = 1;
    /// It stops at system calls.
    pub(super) const CALLS: u32 = 2;
    /// It does not make them.
    pub(super) const EMULATE: u32 = 4;
    /// It stops after each instruction.
    pub(super) const STEP: u32 = 8;
    /// It is to stop soon (`PTRACE_INTERRUPT`).
    pub(super) const INTERRUPT: u32 = 16;
    /// It has breakpoints.
    pub(super) const WATCH: u32 = 32;
}

/// A tracer: the thread, and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tracer {
    pub(crate) tid: i32,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Where a tracee stands with respect to a system call, for `PTRACE_GET_SYSCALL_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    None,
    Entry,
    Exit,
    /// A filter asked for the tracer.
    Seccomp,
}

/// A stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceStop {
    /// What wait(2) shows, shifted right by 8.
    pub(crate) code: u32,
    /// The signal to be delivered; `None` in a group stop.
    pub(crate) info: Option<SigInfo>,
    pub(crate) is_reported: bool,
    /// `PTRACE_LISTEN`: stopped for the tracer no more, but not running either.
    pub(crate) is_listening: bool,
    pub(crate) place: Place,
}

type Request = Box<dyn FnOnce(&mut Ctx<'_>) + Send>;

/// The part of [`Trace`] that a lock guards.
#[derive(Default)]
struct State {
    tracer: Option<Tracer>,
    /// By `PTRACE_SEIZE`.
    is_seized: bool,
    options: u32,
    message: u64,
    stop: Option<TraceStop>,
    /// It may go on, with this signal.
    resumed: Option<i32>,
    requests: VecDeque<Request>,
    debug: debug::Debug,
}

/// What a thread has to do with ptrace.
#[derive(Default)]
pub struct Trace {
    flags: AtomicU32,
    /// How many threads this one traces.
    pub(crate) tracees: AtomicUsize,
    state: Lock<State, { rank::LEAF }>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl Trace {
    fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::SeqCst) & flag != 0
    }

    fn set(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::SeqCst);
        } else {
            self.flags.fetch_and(!flag, Ordering::SeqCst);
        }
    }

    /// Whether the thread is traced.
    pub fn is_traced(&self) -> bool {
        self.has(flag::TRACED)
    }

    /// Whether the thread is stopped for its tracer.
    pub fn is_stopped(&self) -> bool {
        self.is_traced() && self.state.lock().stop.is_some()
    }

    /// Whether the thread is to stop at system calls.
    pub(crate) fn stops_at_calls(&self) -> bool {
        self.has(flag::CALLS)
    }

    /// Whether the thread is to stop after each instruction.
    pub(crate) fn steps(&self) -> bool {
        self.has(flag::STEP)
    }

    /// Whether the thread is to stop soon.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.has(flag::INTERRUPT)
    }

    /// The tracer.
    pub(crate) fn tracer(&self) -> Option<Tracer> {
        if self.is_traced() { self.state.lock().tracer } else { None }
    }

    /// Whether the tracer has switched the restrictions of system calls off.
    pub(crate) fn suspends_seccomp(&self) -> bool {
        self.is_traced() && self.state.lock().options & option::SUSPEND_SECCOMP != 0
    }

    /// Whether the tracer wants to hear of an event.
    pub(crate) fn has_event(&self, event: u32) -> bool {
        self.is_traced() && self.state.lock().options & 1 << event != 0
    }

    fn is_seized(&self) -> bool {
        self.state.lock().is_seized
    }

    /// Begins tracing; false when somebody does already.
    fn begin(&self, tracer: Tracer, is_seized: bool, options: u32) -> bool {
        let mut state = self.state.lock();
        if state.tracer.is_some() {
            return false;
        }
        *state = State { tracer: Some(tracer), is_seized, options, ..State::default() };
        self.flags.store(flag::TRACED, Ordering::SeqCst);
        true
    }

    /// The same for a thread that takes this one's place.
    pub(crate) fn hand_over(&self) -> Self {
        let mut state = self.state.lock();
        let new = State {
            tracer: state.tracer.take(),
            is_seized: state.is_seized,
            options: state.options,
            ..State::default()
        };
        let flags = self.flags.swap(0, Ordering::SeqCst);
        let tracees = self.tracees.swap(0, Ordering::SeqCst);
        Self { flags: flags.into(), tracees: tracees.into(), state: Lock::new(new) }
    }

    /// Ends tracing; a stopped thread goes on with `signal`.
    fn end(&self, signal: i32) {
        let mut state = self.state.lock();
        let stopped = state.stop.is_some();
        let requests = std::mem::take(&mut state.requests);
        *state = State { resumed: stopped.then_some(signal), ..State::default() };
        self.flags.store(0, Ordering::SeqCst);
        drop(state);
        drop(requests);
    }
}

/// `ERESTARTSYS` and its like, as a tracer sees them.
pub(crate) fn restart_code(kind: Restart) -> u64 {
    let code: i64 = match kind {
        Restart::Sys => 512,
        Restart::NoIntr => 513,
        Restart::NoHand => 514,
        Restart::Block => 516,
    };
    code.wrapping_neg().cast_unsigned()
}

impl Kernel {
    /// Tells the tracer that its tracee stopped.
    fn tell_tracer(&self, tree: &Tree, task: &Task, tracer: Tracer, signo: i32) {
        let Some(process) = tree.processes.get(&tracer.pid) else { return };
        let action = process.group.signals.lock().handlers.get(SIGCHLD);
        if action.handler != SIG_IGN && !action.sa_flags().contains(SaFlags::NOCLDSTOP) {
            let uid = task.state.lock().cred.uid;
            let info = process.group.child_info(code::CLD_TRAPPED, task.tid, uid, signo, 0, 0);
            let _ = self.signal_process_in(tree, tracer.pid, SIGCHLD, info);
        }
        process.group.child_events.notify(Events::IN);
    }
}

impl Ctx<'_> {
    /// Stops for the tracer, if there is one; returns the signal that it lets the thread go on with.
    fn trace_stop(&mut self, code: u32, info: Option<SigInfo>, message: u64, place: Place) -> (i32, SigInfo) {
        let task = self.task.clone();
        let given = info.unwrap_or_else(|| SigInfo::kernel(code & 0x7f));
        let signo = (code & 0x7f) as i32;
        let killed = |task: &Task| {
            task.group.exit_status.load(Ordering::SeqCst) & 0x7f == SIGKILL
                && task.group.exit_status.load(Ordering::SeqCst) >= 0
                || (task.must_exit() && code >> 8 != event::EXIT)
        };
        if killed(&task) {
            return (0, given);
        }
        {
            let tree = task.kernel.tree.lock();
            let tracer = {
                let mut state = task.trace.state.lock();
                let Some(tracer) = state.tracer else { return (signo, given) };
                state.message = message;
                state.resumed = None;
                let stop = TraceStop { code, info, is_reported: false, is_listening: false, place };
                state.stop = Some(stop);
                tracer
            };
            self.regs.rflags &= !abi::regs::FLAG_TF;
            task.kernel.tell_tracer(&tree, &task, tracer, signo);
        }
        if let Err(e) = self.context.park() {
            log::warn!("task {}: {e}", task.tid);
        }
        let signal = loop {
            task.parker.prepare();
            let (request, resumed, again) = {
                let mut state = task.trace.state.lock();
                let stopped = task.trace.has(flag::TRACED);
                let listening = state.stop.is_some_and(|s| s.is_listening);
                (state.requests.pop_front(), state.resumed.take(), stopped && listening)
            };
            if let Some(request) = request {
                request(self);
                if let Some(signal) = resumed {
                    task.trace.state.lock().resumed = Some(signal);
                }
                continue;
            }
            if let Some(signal) = resumed {
                break signal;
            }
            if killed(&task) {
                break 0;
            }
            if again && !task.state.lock().stopped {
                self.trap_again();
                continue;
            }
            self.park(None);
        };
        let info = {
            let mut state = task.trace.state.lock();
            state.requests.clear();
            state.stop.take().and_then(|stop| stop.info).unwrap_or(given)
        };
        self.refresh_debug();
        if task.trace.steps() {
            self.regs.rflags |= abi::regs::FLAG_TF;
        }
        (signal, info)
    }

    /// The group stop that the tracer only listened to is over: tells it.
    fn trap_again(&mut self) {
        let tree = self.task.kernel.tree.lock();
        let tracer = {
            let mut state = self.task.trace.state.lock();
            if let Some(stop) = &mut state.stop {
                stop.code = SIGTRAP as u32 | event::STOP << 8;
                stop.is_reported = false;
                stop.is_listening = false;
            }
            state.tracer
        };
        if let Some(tracer) = tracer {
            self.task.kernel.tell_tracer(&tree, &self.task, tracer, SIGTRAP);
        }
    }

    /// A signal is about to be delivered: the tracer may see, change or swallow it (`ptrace_signal`).
    pub(crate) fn trace_signal(&mut self, info: SigInfo) -> Option<SigInfo> {
        let (signal, seen) = self.trace_stop(info.signo as u32, Some(info), 0, Place::None);
        match signal {
            0 => None,
            signal if signal == seen.signo => Some(seen),
            signal => {
                let (pid, uid) = self.task.trace.tracer().map_or((0, 0), |t| (t.pid, t.uid));
                Some(SigInfo::kill(signal as u32, 0, self.task.shown_id(pid), uid))
            }
        }
    }

    /// Takes part in a stop of the process by `signo` as a tracee does: the tracer says when it goes on.
    pub(crate) fn trace_group_stop(&mut self, signo: i32) {
        let code = signo as u32 | if self.task.trace.is_seized() { event::STOP << 8 } else { 0 };
        let (signal, _) = self.trace_stop(code, None, 0, Place::None);
        self.inject(signal);
    }

    /// Stops because of `PTRACE_INTERRUPT`.
    pub(crate) fn trace_interrupt(&mut self) {
        self.task.trace.set(flag::INTERRUPT, false);
        let (signal, _) = self.trace_stop(SIGTRAP as u32 | event::STOP << 8, None, 0, Place::None);
        self.inject(signal);
    }

    /// Reports an event, if the tracer wants to hear of it.
    pub(crate) fn trace_event(&mut self, event: u32, message: u64) {
        if self.task.trace.has_event(event) {
            let code = SIGTRAP as u32 | event << 8;
            let place = if event == event::SECCOMP { Place::Seccomp } else { Place::None };
            let (signal, _) = self.trace_stop(code, Some(self.trap_info(code)), message, place);
            self.inject(signal);
        }
    }

    /// What the tracer, if there is one, sees as the number of `id`.
    pub(crate) fn tracer_sees(&self, id: i32) -> u64 {
        let tracer = self.task.trace.tracer().and_then(|by| self.task.kernel.task(by.tid));
        tracer.map_or(0, |t| t.shown_id(id)) as u64
    }

    fn trap_info(&self, code: u32) -> SigInfo {
        let uid = self.cred.uid;
        SigInfo::kill(SIGTRAP as u32, code as i32, self.task.shown_tid, uid)
    }

    /// A new program runs: an event, or for tracers of the old kind a SIGTRAP.
    pub(crate) fn trace_exec(&mut self, former_tid: i32) {
        self.task.trace.forget_debug();
        if self.task.trace.has_event(event::EXEC) {
            let former = self.tracer_sees(former_tid);
            self.trace_event(event::EXEC, former);
        } else if self.task.trace.is_traced() && !self.task.trace.is_seized() {
            let info = SigInfo::kill(SIGTRAP as u32, 0, self.task.group.shown_pid, self.cred.uid);
            self.task.kernel.signal_task(&self.task.clone(), SIGTRAP, info);
        }
    }

    fn call_stop(&mut self, place: Place) {
        let good = self.task.trace.state.lock().options & option::SYSGOOD != 0;
        let code = SIGTRAP as u32 | if good { 0x80 } else { 0 };
        // PTRACE_EVENTMSG_SYSCALL_ENTRY and its counterpart.
        let message = if place == Place::Entry { 1 } else { 2 };
        let (signal, _) = self.trace_stop(code, Some(self.trap_info(code)), message, place);
        self.inject(signal);
    }

    /// Stops before a system call; false says that it must not be made.
    pub(crate) fn trace_call_entry(&mut self) -> bool {
        if !self.task.trace.stops_at_calls() {
            return true;
        }
        let emulate = self.task.trace.has(flag::EMULATE);
        self.call_stop(Place::Entry);
        !emulate && !self.task.must_exit()
    }

    /// Stops behind a system call; says whether the tracer left its result alone.
    pub(crate) fn trace_call_exit(&mut self) {
        if self.task.trace.steps() {
            self.force_signal(SigInfo::fault(SIGTRAP as u32, 1, self.regs.rip));
        }
        if self.task.trace.stops_at_calls() && !self.task.trace.has(flag::EMULATE) {
            self.call_stop(Place::Exit);
        }
    }

    /// A handler's frame was set up while each instruction is to stop.
    pub(crate) fn trace_handler(&mut self) {
        if self.task.trace.steps() {
            self.regs.rflags &= !abi::regs::FLAG_TF;
            let (signal, _) =
                self.trace_stop(SIGTRAP as u32, Some(self.trap_info(SIGTRAP as u32)), 0, Place::None);
            self.inject(signal);
        }
    }

    /// Sends the thread the signal that its tracer let it go on with.
    fn inject(&mut self, signal: i32) {
        if (1..=64).contains(&signal) && !self.task.must_exit() {
            let (pid, uid) = self.task.trace.tracer().map_or((0, 0), |t| (t.pid, t.uid));
            let info = SigInfo::kill(signal as u32, 0, self.task.shown_id(pid), uid);
            self.task.kernel.signal_task(&self.task.clone(), signal, info);
        }
    }
}
