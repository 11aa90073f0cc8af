//! `ptrace(2)`: what a tracer asks of its tracee.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EFAULT, EINVAL, EIO, EPERM, ESRCH};
use abi::regs::{USER_FIXED_FLAGS, USER_SETTABLE_FLAGS, UserRegs};
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::landlock::Domain;
use platform::FpState;
use zerocopy::{FromBytes, IntoBytes};

use super::{Place, State, TraceStop, Tracer, event, flag, option};
use crate::mm::MemoryManager;
use crate::proc::may_attach;
use crate::signal::{SIGKILL, SIGSTOP};
use crate::syscall::SysResult;
use crate::task::{Ctx, Task};

const TRACEME: i64 = 0;
const PEEKTEXT: i64 = 1;
const PEEKDATA: i64 = 2;
const PEEKUSER: i64 = 3;
const POKETEXT: i64 = 4;
const POKEDATA: i64 = 5;
const POKEUSER: i64 = 6;
const CONT: i64 = 7;
const KILL: i64 = 8;
const SINGLESTEP: i64 = 9;
const GETREGS: i64 = 12;
const SETREGS: i64 = 13;
const GETFPREGS: i64 = 14;
const SETFPREGS: i64 = 15;
const ATTACH: i64 = 16;
const DETACH: i64 = 17;
const OLDSETOPTIONS: i64 = 21;
const SYSCALL: i64 = 24;
const ARCH_PRCTL: i64 = 30;
const SYSEMU: i64 = 31;
const SYSEMU_SINGLESTEP: i64 = 32;
const SETOPTIONS: i64 = 0x4200;
const GETEVENTMSG: i64 = 0x4201;
const GETSIGINFO: i64 = 0x4202;
const SETSIGINFO: i64 = 0x4203;
const GETREGSET: i64 = 0x4204;
const SETREGSET: i64 = 0x4205;
const SEIZE: i64 = 0x4206;
const INTERRUPT: i64 = 0x4207;
const LISTEN: i64 = 0x4208;
const PEEKSIGINFO: i64 = 0x4209;
const GETSIGMASK: i64 = 0x420a;
const SETSIGMASK: i64 = 0x420b;
const GET_SYSCALL_INFO: i64 = 0x420e;

const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;

/// `struct user`: its size, and where the debug registers are.
const USER_SIZE: u64 = 928;
const DEBUG_REGISTERS: std::ops::Range<u64> = 848..912;
/// The part of an XSAVE area that `PTRACE_GETFPREGS` shows.
const FXSAVE: usize = 512;
/// Where Linux stores XCR0 in the area that it shows.
const XCR0_AT: usize = 464;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

impl Task {
    /// Runs `f` in the stopped thread.
    fn ask<T: Send + 'static>(&self, f: impl FnOnce(&mut Ctx<'_>) -> T + Send + 'static) -> Result<T, Errno> {
        let (answer, answered) = std::sync::mpsc::channel();
        {
            let mut state = self.trace.state.lock();
            if state.stop.is_none() || state.resumed.is_some() {
                return Err(ESRCH);
            }
            state.requests.push_back(Box::new(move |cx| {
                // Whoever asked is there as long as it waits.
                let _ = answer.send(f(cx));
            }));
        }
        self.parker.interrupt();
        // A tracee that is killed drops the request.
        answered.recv().map_err(|_| ESRCH)
    }

    /// Lets a stopped thread go on.
    fn resume_traced(&self, flags: u32, signal: i32) -> Result<(), Errno> {
        let mut state = self.trace.state.lock();
        if state.stop.is_none() || state.resumed.is_some() {
            return Err(ESRCH);
        }
        for bit in [flag::CALLS, flag::EMULATE, flag::STEP] {
            self.trace.set(bit, flags & bit != 0);
        }
        state.resumed = Some(signal);
        drop(state);
        self.parker.interrupt();
        Ok(())
    }
}

/// `ptrace(2)`.
///
/// # Errors
/// `ESRCH`: no such thread, or it is not the caller's tracee, or not stopped; `EPERM`: it must not be traced, or is; `EIO`:
/// a bad request, address or signal; `EINVAL`: bad options or sets of registers; `EFAULT`.
pub fn sys_ptrace(cx: &mut Ctx<'_>, request: i64, pid: i64, addr: u64, data: u64) -> SysResult {
    match request {
        TRACEME => return trace_me(cx),
        ATTACH | SEIZE => return attach(cx, request, pid, addr, data),
        _ => {}
    }
    let tid = i32::try_from(pid).map_err(|_| ESRCH)?;
    let task = cx.task.find(tid).ok_or(ESRCH)?;
    if task.trace.tracer().is_none_or(|by| by.tid != cx.task.tid) {
        return Err(ESRCH.into());
    }
    match request {
        KILL => {
            let info = SigInfo::kernel(SIGKILL as u32);
            cx.task.kernel.signal_task(&task, SIGKILL, info);
            return Ok(0);
        }
        INTERRUPT => {
            if !task.trace.is_seized() {
                return Err(EIO.into());
            }
            task.trace.set(flag::INTERRUPT, true);
            task.signal_wake();
            return Ok(0);
        }
        _ => {}
    }
    let Some(stop) = task.trace.state.lock().stop.filter(|s| !s.is_listening) else {
        return Err(ESRCH.into());
    };
    stopped_request(cx, &task, stop, request, addr, data)
}

fn trace_me(cx: &mut Ctx<'_>) -> SysResult {
    let kernel = cx.task.kernel.clone();
    let tree = kernel.tree.lock();
    let me = tree.processes.get(&cx.task.group.pid).ok_or(EPERM)?;
    let parent = tree.processes.get(&me.parent).ok_or(EPERM)?;
    let thread = tree.tasks.get(&me.parent_tid).cloned();
    let by =
        thread.filter(|t| t.group.pid == me.parent).or_else(|| parent.group.first_thread()).ok_or(EPERM)?;
    let cred = by.state.lock().cred.clone();
    if !Domain::is_around(cred.landlock.as_ref(), cx.cred.landlock.as_ref()) {
        return Err(EPERM.into());
    }
    let tracer = Tracer { tid: by.tid, pid: me.parent, uid: cred.uid };
    if !cx.task.trace.begin(tracer, false, 0) {
        return Err(EPERM.into());
    }
    by.trace.tracees.fetch_add(1, Ordering::SeqCst);
    Ok(0)
}

/// Whether the caller may set these options: to switch restrictions off it must be privileged and have none itself.
///
/// Source: Linux 6.18 kernel/ptrace.c, `check_ptrace_options`.
fn check_options(cx: &Ctx<'_>, options: u32) -> Result<(), Errno> {
    if options & option::SUSPEND_SECCOMP == 0 {
        return Ok(());
    }
    let is_free = !cx.task.seccomp.is_on() && !cx.task.trace.suspends_seccomp();
    if cx.cred.has(cap::SYS_ADMIN) && is_free { Ok(()) } else { Err(EPERM) }
}

fn attach(cx: &mut Ctx<'_>, request: i64, pid: i64, addr: u64, data: u64) -> SysResult {
    let mut options = 0;
    if request == SEIZE {
        if addr != 0 || data & !u64::from(option::KNOWN) != 0 {
            return Err(EIO.into());
        }
        options = data as u32;
        check_options(cx, options)?;
    }
    let tid = i32::try_from(pid).map_err(|_| ESRCH)?;
    let kernel = cx.task.kernel.clone();
    let task = cx.task.find(tid).ok_or(ESRCH)?;
    if Arc::ptr_eq(&task.group, &cx.task.group) {
        return Err(EPERM.into());
    }
    may_attach(&cx.task, &task)?;
    {
        let _tree = kernel.tree.lock();
        let tracer = Tracer { tid: cx.task.tid, pid: cx.task.group.pid, uid: cx.cred.uid };
        if task.must_exit() || !task.trace.begin(tracer, request == SEIZE, options) {
            return Err(EPERM.into());
        }
        cx.task.trace.tracees.fetch_add(1, Ordering::SeqCst);
    }
    if request == ATTACH {
        kernel.signal_task(&task, SIGSTOP, SigInfo::kernel(SIGSTOP as u32));
    }
    // One that is stopped already stops for its tracer now.
    task.parker.interrupt();
    Ok(0)
}

fn stopped_request(
    cx: &mut Ctx<'_>,
    task: &Arc<Task>,
    stop: TraceStop,
    request: i64,
    addr: u64,
    data: u64,
) -> SysResult {
    match request {
        PEEKTEXT | PEEKDATA => {
            let mut word = [0; 8];
            peek(&memory(task), addr, &mut word)?;
            cx.mm.write_all(UserAddr(data), &word)?;
        }
        POKETEXT | POKEDATA => {
            let mm = memory(task);
            if mm.poke(UserAddr(addr), &data.to_le_bytes()).map_err(|_| EIO)? != 8 {
                return Err(EIO.into());
            }
        }
        PEEKUSER => {
            let word = peek_user(task, addr)?;
            cx.mm.write_value(UserAddr(data), &word)?;
        }
        POKEUSER => poke_user(task, addr, data)?,
        GETREGS => {
            let regs = task.ask(|t| t.regs)?;
            cx.mm.write_all(UserAddr(data), regs.as_bytes())?;
        }
        SETREGS => {
            let mut regs = UserRegs::default();
            cx.mm.read_exact(UserAddr(data), regs.as_mut_bytes())?;
            set_registers(task, regs)?;
        }
        GETFPREGS => {
            let bytes = fp_bytes(task)?;
            cx.mm.write_all(UserAddr(data), bytes.get(..FXSAVE).ok_or(EIO)?)?;
        }
        SETFPREGS => {
            let mut bytes = vec![0; FXSAVE];
            cx.mm.read_exact(UserAddr(data), &mut bytes)?;
            set_fp(task, bytes)?;
        }
        GETREGSET | SETREGSET => register_set(cx, task, request == SETREGSET, addr, data)?,
        GETSIGINFO => {
            let info = stop.info.ok_or(EINVAL)?;
            cx.mm.write_all(UserAddr(data), info.as_bytes())?;
        }
        SETSIGINFO => {
            let mut bytes = [0; 128];
            cx.mm.read_exact(UserAddr(data), &mut bytes)?;
            let info = SigInfo::read_from_bytes(&bytes).map_err(|_| EINVAL)?;
            let mut state = task.trace.state.lock();
            let stop = state.stop.as_mut().ok_or(ESRCH)?;
            *stop.info.as_mut().ok_or(EINVAL)? = info;
        }
        GETSIGMASK => {
            if addr != 8 {
                return Err(EINVAL.into());
            }
            let mask = task.ask(|t| t.saved_mask.unwrap_or_else(|| t.task.state.lock().mask))?;
            cx.mm.write_value(UserAddr(data), &mask)?;
        }
        SETSIGMASK => {
            if addr != 8 {
                return Err(EINVAL.into());
            }
            let mask: u64 = cx.mm.read_value(UserAddr(data))?;
            task.ask(move |t| t.set_mask(mask & !SigSet::UNBLOCKABLE.0))?;
        }
        GETEVENTMSG => {
            let message = task.trace.state.lock().message;
            cx.mm.write_value(UserAddr(data), &message)?;
        }
        SETOPTIONS | OLDSETOPTIONS => {
            if data & !u64::from(option::KNOWN) != 0 {
                return Err(EINVAL.into());
            }
            check_options(cx, data as u32)?;
            task.trace.state.lock().options = data as u32;
        }
        GET_SYSCALL_INFO => return call_info(cx, task, stop, addr, data),
        PEEKSIGINFO => return peek_signals(cx, task, addr, data),
        LISTEN => {
            let mut state = task.trace.state.lock();
            let State { stop: Some(stop), is_seized: true, .. } = &mut *state else { return Err(EIO.into()) };
            if stop.code >> 8 != event::STOP {
                return Err(EIO.into());
            }
            stop.is_listening = true;
            drop(state);
            task.parker.interrupt();
        }
        CONT | SYSCALL | SINGLESTEP | SYSEMU | SYSEMU_SINGLESTEP => {
            if data > 64 {
                return Err(EIO.into());
            }
            let flags = match request {
                SYSCALL => flag::CALLS,
                SINGLESTEP => flag::STEP,
                SYSEMU => flag::CALLS | flag::EMULATE,
                SYSEMU_SINGLESTEP => flag::CALLS | flag::EMULATE | flag::STEP,
                _ => 0,
            };
            task.resume_traced(flags, data as i32)?;
        }
        DETACH => {
            if data > 64 {
                return Err(EIO.into());
            }
            let kernel = cx.task.kernel.clone();
            let tree = kernel.tree.lock();
            if let Some(tracer) = task.trace.tracer() {
                kernel.forget_tracee(&tree, tracer);
            }
            task.trace.end(data as i32);
            task.parker.interrupt();
        }
        ARCH_PRCTL => arch_prctl(cx, task, addr, data)?,
        _ => return Err(EIO.into()),
    }
    Ok(0)
}

fn memory(task: &Task) -> Arc<MemoryManager> {
    task.mm.lock().clone()
}

fn peek(mm: &MemoryManager, addr: u64, word: &mut [u8; 8]) -> Result<(), Errno> {
    if mm.peek(UserAddr(addr), word).map_err(|_| EIO)? == 8 { Ok(()) } else { Err(EIO) }
}

/// One word of `struct user`.
fn peek_user(task: &Task, addr: u64) -> Result<u64, Errno> {
    if !addr.is_multiple_of(8) || addr >= USER_SIZE {
        return Err(EIO);
    }
    if DEBUG_REGISTERS.contains(&addr) {
        return Ok(task.trace.debug(((addr - DEBUG_REGISTERS.start) / 8) as usize));
    }
    let regs = task.ask(|t| t.regs)?;
    let words: &[u8] = regs.as_bytes();
    let at = addr as usize;
    // All else Linux does not fill in either.
    Ok(words.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes))
}

fn poke_user(task: &Task, addr: u64, value: u64) -> Result<(), Errno> {
    if !addr.is_multiple_of(8) || addr >= USER_SIZE {
        return Err(EIO);
    }
    if DEBUG_REGISTERS.contains(&addr) {
        return task.trace.set_debug(((addr - DEBUG_REGISTERS.start) / 8) as usize, value);
    }
    let mut regs = task.ask(|t| t.regs)?;
    let at = addr as usize;
    let bytes: &mut [u8] = regs.as_mut_bytes();
    bytes.get_mut(at..at + 8).ok_or(EIO)?.copy_from_slice(&value.to_le_bytes());
    set_registers(task, regs)
}

/// Sets the registers; what user code could not set itself stays.
fn set_registers(task: &Task, new: UserRegs) -> Result<(), Errno> {
    let limit = abi::mman::TASK_SIZE;
    if new.fs_base >= limit || new.gs_base >= limit {
        return Err(EIO);
    }
    // Selectors are user code's: with privilege level 3, and code and stack have one.
    let is_users = |selector: u64| selector & 3 == 3;
    let data = [new.ds, new.es, new.fs, new.gs];
    if ![new.cs, new.ss].into_iter().all(is_users)
        || !data.into_iter().all(|s| s & 0xffff == 0 || is_users(s))
    {
        return Err(EIO);
    }
    task.ask(move |t| {
        let old = t.regs;
        t.regs = UserRegs {
            rflags: new.rflags & USER_SETTABLE_FLAGS & !abi::regs::FLAG_TF | USER_FIXED_FLAGS,
            cs: old.cs,
            ss: old.ss,
            ..new
        };
    })
}

fn fp_bytes(task: &Task) -> Result<Vec<u8>, Errno> {
    task.ask(|t| {
        let features = t.task.kernel.platform.xsave_layout().features;
        let mut bytes = t.context.fp_state().map_err(|_| EIO)?.0;
        if let Some(place) = bytes.get_mut(XCR0_AT..XCR0_AT + 8) {
            place.copy_from_slice(&features.to_le_bytes());
        }
        Ok(bytes)
    })?
}

/// Sets the beginning of the floating-point state; the rest stays.
fn set_fp(task: &Task, bytes: Vec<u8>) -> Result<(), Errno> {
    task.ask(move |t| {
        let mut state = t.context.fp_state().map_err(|_| EIO)?.0;
        let whole = bytes.len() > FXSAVE;
        let to = state.get_mut(..bytes.len()).ok_or(EFAULT)?;
        to.copy_from_slice(&bytes);
        if !whole {
            // x87 and SSE are in use now.
            if let Some(present) = state.get_mut(512) {
                *present |= 3;
            }
        }
        if let Some(place) = state.get_mut(XCR0_AT..XCR0_AT + 8) {
            place.fill(0);
        }
        t.context.set_fp_state(&FpState(state)).map_err(|_| EINVAL)
    })?
}

/// `PTRACE_GETREGSET`, `PTRACE_SETREGSET`: `addr` is the kind, `data` a `struct iovec`.
fn register_set(cx: &mut Ctx<'_>, task: &Task, set: bool, kind: u64, data: u64) -> Result<(), Errno> {
    let [base, len]: [u64; 2] = cx.mm.read_value(UserAddr(data))?;
    let current = match kind {
        NT_PRSTATUS => task.ask(|t| t.regs.as_bytes().to_vec())?,
        NT_PRFPREG => fp_bytes(task)?.get(..FXSAVE).ok_or(EIO)?.to_vec(),
        NT_X86_XSTATE => fp_bytes(task)?,
        _ => return Err(EINVAL),
    };
    if !len.is_multiple_of(8) {
        return Err(EINVAL);
    }
    let n = current.len().min(usize::try_from(len).unwrap_or(usize::MAX));
    if set {
        let mut bytes = current;
        cx.mm.read_exact(UserAddr(base), bytes.get_mut(..n).ok_or(EINVAL)?)?;
        match kind {
            NT_PRSTATUS => set_registers(task, UserRegs::read_from_bytes(&bytes).map_err(|_| EINVAL)?)?,
            NT_X86_XSTATE if n < bytes.len() => return Err(EFAULT),
            _ => set_fp(task, bytes)?,
        }
    } else {
        cx.mm.write_all(UserAddr(base), current.get(..n).unwrap_or_default())?;
    }
    cx.mm.write_value(UserAddr(data).checked_add(8).ok_or(EFAULT)?, &(n as u64))
}

/// `PTRACE_GET_SYSCALL_INFO`: returns the size of what there is to tell.
fn call_info(cx: &mut Ctx<'_>, task: &Task, stop: TraceStop, size: u64, data: u64) -> SysResult {
    let regs = task.ask(|t| t.regs)?;
    let op: u8 = match stop.place {
        Place::None => 0,
        Place::Entry => 1,
        Place::Exit => 2,
        Place::Seccomp => 3,
    };
    let mut bytes = vec![op, 0, 0, 0];
    bytes.extend(AUDIT_ARCH_X86_64.to_le_bytes());
    bytes.extend(regs.rip.to_le_bytes());
    bytes.extend(regs.rsp.to_le_bytes());
    match stop.place {
        Place::None => {}
        Place::Entry | Place::Seccomp => {
            let words = [regs.orig_rax, regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            if stop.place == Place::Seccomp {
                let message = task.trace.state.lock().message;
                bytes.extend((message as u32).to_le_bytes());
            }
        }
        Place::Exit => {
            let is_error = regs.rax.cast_signed() < 0 && regs.rax.cast_signed() >= -4095;
            bytes.extend(regs.rax.to_le_bytes());
            bytes.push(u8::from(is_error));
        }
    }
    let n = bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    cx.mm.write_all(UserAddr(data), bytes.get(..n).unwrap_or_default())?;
    Ok(bytes.len() as u64)
}

/// `PTRACE_PEEKSIGINFO`: looks at queued signals.
fn peek_signals(cx: &mut Ctx<'_>, task: &Task, args: u64, data: u64) -> SysResult {
    const SHARED: u32 = 1;
    let off: u64 = cx.mm.read_value(UserAddr(args))?;
    let [flags, count]: [u32; 2] = cx.mm.read_value(UserAddr(args).checked_add(8).ok_or(EFAULT)?)?;
    if flags & !SHARED != 0 || count.cast_signed() < 0 {
        return Err(EINVAL.into());
    }
    let infos: Vec<SigInfo> = {
        let signals = task.group.signals.lock();
        match flags & SHARED {
            0 => task.state.lock().pending.infos(),
            _ => signals.pending.infos(),
        }
    };
    let mut done = 0u64;
    let from = usize::try_from(off).unwrap_or(usize::MAX);
    for info in infos.iter().skip(from).take(count as usize) {
        let to = UserAddr(data).checked_add(done * 128).ok_or(EFAULT)?;
        match cx.mm.write_all(to, info.as_bytes()) {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `PTRACE_ARCH_PRCTL`: the FS and GS bases.
fn arch_prctl(cx: &mut Ctx<'_>, task: &Task, addr: u64, code: u64) -> Result<(), Errno> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let mut regs = task.ask(|t| t.regs)?;
    match code {
        SET_FS => regs.fs_base = addr,
        SET_GS => regs.gs_base = addr,
        GET_FS => return cx.mm.write_value(UserAddr(addr), &regs.fs_base),
        GET_GS => return cx.mm.write_value(UserAddr(addr), &regs.gs_base),
        _ => return Err(EINVAL),
    }
    set_registers(task, regs).map_err(|_| EPERM)
}

/// A new task of a tracee's: the tracer gets it too, if it wants to hear of event `wanted`. Says whether it does.
pub(crate) fn adopt(parent: &Task, child: &Task, wanted: u32) -> bool {
    let (tracer, is_seized, options) = {
        let state = parent.trace.state.lock();
        let Some(tracer) = state.tracer else { return false };
        if state.options & 1 << wanted == 0 {
            return false;
        }
        (tracer, state.is_seized, state.options)
    };
    if !child.trace.begin(tracer, is_seized, options) {
        return false;
    }
    if is_seized {
        child.trace.set(flag::INTERRUPT, true);
    } else {
        let info = SigInfo::kernel(SIGSTOP as u32);
        child.state.lock().pending.push(crate::signal::Pending::new(info, None));
    }
    child.signal_pending.store(true, Ordering::SeqCst);
    true
}
