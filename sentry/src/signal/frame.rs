//! The stack frame of a signal handler, `struct rt_sigframe`, and the way back from it.
//!
//! Source: Linux 6.12 arch/x86/kernel/signal.c (`get_sigframe`), signal_64.c (`x64_setup_rt_frame`,
//! `restore_sigcontext`), fpu/signal.c (`copy_fpstate_to_sigframe`, `__fpu_restore_sig`), kernel/signal.c
//! (`do_sigaltstack`). From high to low addresses: the red zone, the XSAVE area (64-byte aligned, a magic number behind
//! it), the frame (at 8 modulo 16, as after a call).

use abi::errno::{EINVAL, ENOMEM, EPERM};
use abi::regs::{FLAG_TF, USER_CS, USER_DS, USER_FIXED_FLAGS, USER32_CS, UserRegs};
use abi::signal::{
    FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FPX_SW_BYTES_OFFSET, FpxSwBytes, MINSIGSTKSZ, RtSigFrame,
    SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SaFlags, SigAction, SigContext, SigInfo, SigSet, StackT,
    UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS, UContext,
};
use abi::{Errno, UserAddr};
use platform::{FpState, XsaveLayout};
use zerocopy::{FromBytes, IntoBytes};

use crate::mm::MemoryManager;

/// What the x86-64 ABI lets leaf functions use below RSP.
const RED_ZONE: u64 = 128;
const FRAME_SIZE: u64 = size_of::<RtSigFrame>() as u64;
/// The FXSAVE area, and with the XSAVE header.
const FXSAVE_SIZE: usize = 512;
const XSAVE_MIN_SIZE: usize = 576;
const MAGIC2_SIZE: usize = 4;
/// XCR0 bits of x87 and SSE, which the FXSAVE area holds.
const XFEATURES_FPSSE: u64 = 3;
const FLAG_DF: u64 = 1 << 10;
const FLAG_RF: u64 = 1 << 16;
/// Linux's `FIX_EFLAGS`: CF PF AF ZF SF TF DF OF RF AC, which a frame restores.
const FIX_EFLAGS: u64 =
    1 | (1 << 2) | (1 << 4) | (1 << 6) | (1 << 7) | FLAG_TF | FLAG_DF | (1 << 11) | FLAG_RF | (1 << 18);
const MXCSR_DEFAULT: u32 = 0x1f80;
const FCW_DEFAULT: u16 = 0x37f;

/// A frame or its place in memory is bad: the thread gets `SIGSEGV` (`force_sigsegv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// The last exception of a thread, which the frame shows: Linux's `thread.trap_nr`, `error_code`, `cr2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapInfo {
    /// The vector.
    pub trapno: u64,
    /// The processor's error code; of a page fault: bit 0 protection, bit 1 write, bit 2 user, bit 4 instruction fetch.
    pub err: u64,
    /// The address of the last page fault.
    pub cr2: u64,
}

/// A signal about to be handled.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its action: a handler.
    pub action: &'a SigAction,
    /// Why.
    pub info: &'a SigInfo,
    /// The mask to return to: with the saved one of sigsuspend(2) and its like, that one.
    pub old_mask: SigSet,
    /// The floating-point state of the interrupted code.
    pub fp: &'a FpState,
    /// What is in it: [`XsaveLayout::features`].
    pub xfeatures: u64,
    /// The thread's last exception.
    pub trap: TrapInfo,
}

/// What [`pop`] found beside the integer registers.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The mask, without `SIGKILL` and `SIGSTOP`.
    pub mask: SigSet,
    /// The alternate stack: for [`set_altstack`], the result of which Linux ignores here.
    pub altstack: StackT,
    /// The floating-point state, checked; the initial one where the frame has none.
    pub fp: FpState,
}

/// The floating-point state of a new program, and of every signal handler at its start.
pub fn initial_fp(layout: XsaveLayout) -> FpState {
    let mut fp = FpState(vec![0; layout.size.max(XSAVE_MIN_SIZE)]);
    put(&mut fp.0, 0, &FCW_DEFAULT.to_ne_bytes());
    put(&mut fp.0, 24, &MXCSR_DEFAULT.to_ne_bytes());
    fp
}

/// Whether `sp` is on the alternate stack, as a range.
fn in_altstack(stack: &StackT, sp: u64) -> bool {
    sp > stack.sp && sp - stack.sp <= stack.size
}

/// Whether a thread with this RSP runs on its alternate stack (`on_sig_stack`); never true with `SS_AUTODISARM`.
pub fn on_altstack(stack: &StackT, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && in_altstack(stack, sp)
}

/// What sigaltstack(2) says of the present stack.
pub fn altstack_report(stack: &StackT, sp: u64) -> StackT {
    let state = if stack.size == 0 {
        SS_DISABLE
    } else if on_altstack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    };
    StackT { flags: state | (stack.flags & SS_AUTODISARM), pad: 0, ..*stack }
}

/// Replaces the alternate stack of a thread with this RSP.
///
/// # Errors
/// In the order checked: `EPERM`: the thread runs on it. `EINVAL`: unknown flags. `ENOMEM`: smaller than `MINSIGSTKSZ`.
pub fn set_altstack(stack: &mut StackT, new: &StackT, sp: u64) -> Result<(), Errno> {
    if on_altstack(stack, sp) {
        return Err(EPERM);
    }
    let mode = new.flags & !SS_AUTODISARM;
    if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
        return Err(EINVAL);
    }
    if (stack.sp, stack.size, stack.flags) == (new.sp, new.size, new.flags) {
        return Ok(());
    }
    if mode == SS_DISABLE {
        *stack = StackT { sp: 0, size: 0, flags: new.flags, pad: 0 };
        return Ok(());
    }
    if new.size < MINSIGSTKSZ {
        return Err(ENOMEM);
    }
    *stack = StackT { pad: 0, ..*new };
    Ok(())
}

/// Builds the frame of a handler and points the registers at the handler. On success an `SS_AUTODISARM` stack is taken
/// away, and the caller sets [`initial_fp`], resets the action when `SA_RESETHAND`, and blocks the action's mask.
///
/// # Errors
/// The stack cannot hold the frame, or the action has no restorer. Nothing but memory has changed.
pub fn push(
    mm: &MemoryManager,
    regs: &mut UserRegs,
    altstack: &mut StackT,
    d: &Delivery<'_>,
) -> Result<(), BadFrame> {
    let flags = d.action.sa_flags();
    if !flags.contains(SaFlags::RESTORER) {
        return Err(BadFrame);
    }
    let nested = on_altstack(altstack, regs.rsp);
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    let mut entering = false;
    if flags.contains(SaFlags::ONSTACK) && altstack.size != 0 && !on_altstack(altstack, sp) {
        sp = altstack.sp.wrapping_add(altstack.size);
        entering = true;
    }
    let area = fp_image(d.fp, d.xfeatures)?;
    let fpstate = sp.checked_sub(area.len() as u64).ok_or(BadFrame)? & !63;
    let frame_sp =
        ((fpstate.checked_sub(FRAME_SIZE).ok_or(BadFrame)?) & !15).checked_sub(8).ok_or(BadFrame)?;
    // A frame that would leave the alternate stack would overwrite whatever lies below it.
    if (nested || entering) && !in_altstack(altstack, frame_sp) {
        return Err(BadFrame);
    }
    let frame = RtSigFrame {
        pretcode: d.action.restorer,
        uc: UContext {
            flags: UC_FP_XSTATE
                | UC_SIGCONTEXT_SS
                | if regs.cs == USER_CS { UC_STRICT_RESTORE_SS } else { 0 },
            link: 0,
            stack: StackT { pad: 0, ..*altstack },
            mcontext: SigContext { fpstate, oldmask: d.old_mask.0, ..context(regs, d.trap) },
            sigmask: d.old_mask,
        },
        info: *d.info,
    };
    mm.write_all(UserAddr(fpstate), &area).map_err(|_| BadFrame)?;
    mm.write_value(UserAddr(frame_sp), &frame).map_err(|_| BadFrame)?;

    regs.rdi = u64::from(d.info.signo.unsigned_abs());
    regs.rsi = frame_sp + 8 + size_of::<UContext>() as u64;
    regs.rdx = frame_sp + 8;
    // Handlers without a prototype may be variadic: no vector registers are passed.
    regs.rax = 0;
    regs.orig_rax = u64::MAX;
    regs.rip = d.action.handler;
    regs.rsp = frame_sp;
    regs.cs = USER_CS;
    regs.ss = USER_DS;
    regs.rflags &= !(FLAG_DF | FLAG_RF | FLAG_TF);
    if altstack.flags & SS_AUTODISARM != 0 {
        *altstack = StackT::NONE;
    }
    Ok(())
}

/// `rt_sigreturn(2)`: takes the registers back from the frame below which RSP stands, since the handler's return popped
/// the first word. RAX is the frame's, and there is no system call to restart.
///
/// # Errors
/// The frame cannot be read or does not hold a state that a user may have. The registers are unchanged.
pub fn pop(mm: &MemoryManager, regs: &mut UserRegs, layout: XsaveLayout) -> Result<Restored, BadFrame> {
    let frame = regs.rsp.checked_sub(8).ok_or(BadFrame)?;
    let at = frame.checked_add(8).ok_or(BadFrame)?;
    let uc: UContext = mm.read_value(UserAddr(at)).map_err(|_| BadFrame)?;
    let sc = &uc.mcontext;
    let cs = u64::from(sc.cs | 3);
    if cs != USER_CS && cs != USER32_CS {
        return Err(BadFrame);
    }
    // Without the flag Linux mends a bad SS; with it the return faults.
    if uc.flags & UC_STRICT_RESTORE_SS != 0 && u64::from(sc.ss | 3) != USER_DS {
        return Err(BadFrame);
    }
    let fp = restore_fp(mm, sc.fpstate, layout)?;
    *regs = UserRegs {
        r15: sc.r15,
        r14: sc.r14,
        r13: sc.r13,
        r12: sc.r12,
        rbp: sc.rbp,
        rbx: sc.rbx,
        r11: sc.r11,
        r10: sc.r10,
        r9: sc.r9,
        r8: sc.r8,
        rax: sc.rax,
        rcx: sc.rcx,
        rdx: sc.rdx,
        rsi: sc.rsi,
        rdi: sc.rdi,
        orig_rax: u64::MAX,
        rip: sc.rip,
        cs,
        rflags: (regs.rflags & !FIX_EFLAGS) | (sc.rflags & FIX_EFLAGS) | USER_FIXED_FLAGS,
        rsp: sc.rsp,
        ss: USER_DS,
        ..*regs
    };
    Ok(Restored { mask: uc.sigmask.as_mask(), altstack: uc.stack, fp })
}

fn context(r: &UserRegs, trap: TrapInfo) -> SigContext {
    SigContext {
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rdi: r.rdi,
        rsi: r.rsi,
        rbp: r.rbp,
        rbx: r.rbx,
        rdx: r.rdx,
        rax: r.rax,
        rcx: r.rcx,
        rsp: r.rsp,
        rip: r.rip,
        rflags: r.rflags,
        cs: r.cs as u16,
        // Linux saves neither FS nor GS: their bases are not a handler's to change.
        gs: 0,
        fs: 0,
        ss: r.ss as u16,
        err: trap.err,
        trapno: trap.trapno,
        cr2: trap.cr2,
        ..SigContext::default()
    }
}

/// The XSAVE area as a frame holds it, with the magic number behind.
fn fp_image(fp: &FpState, xfeatures: u64) -> Result<Vec<u8>, BadFrame> {
    let size = fp.0.len();
    if size < XSAVE_MIN_SIZE {
        return Err(BadFrame);
    }
    let mut area = Vec::with_capacity(size + MAGIC2_SIZE);
    area.extend_from_slice(&fp.0);
    let present = xstate_bv(&area);
    // Programs read x87 and SSE whatever the header says, so the parts in their initial state are written out.
    if present & 1 == 0 {
        for range in [0..24, 32..160] {
            area.get_mut(range).into_iter().flatten().for_each(|b| *b = 0);
        }
        put(&mut area, 0, &FCW_DEFAULT.to_ne_bytes());
    }
    if present & 2 == 0 {
        area.get_mut(160..416).into_iter().flatten().for_each(|b| *b = 0);
    }
    put(&mut area, FXSAVE_SIZE, &(present | XFEATURES_FPSSE).to_ne_bytes());
    let sw = FpxSwBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: u32::try_from(size + MAGIC2_SIZE).map_err(|_| BadFrame)?,
        xfeatures: xfeatures | XFEATURES_FPSSE,
        xstate_size: u32::try_from(size).map_err(|_| BadFrame)?,
        padding: [0; 7],
    };
    put(&mut area, FPX_SW_BYTES_OFFSET, sw.as_bytes());
    area.extend_from_slice(&FP_XSTATE_MAGIC2.to_ne_bytes());
    Ok(area)
}

fn restore_fp(mm: &MemoryManager, at: u64, layout: XsaveLayout) -> Result<FpState, BadFrame> {
    let mut fp = initial_fp(layout);
    if at == 0 {
        return Ok(fp);
    }
    let sw_at = at.checked_add(FPX_SW_BYTES_OFFSET as u64).ok_or(BadFrame)?;
    let mut sw = FpxSwBytes::default();
    mm.read_exact(UserAddr(sw_at), sw.as_mut_bytes()).map_err(|_| BadFrame)?;
    let size = sw.xstate_size as usize;
    let mut extended = sw.magic1 == FP_XSTATE_MAGIC1
        && (XSAVE_MIN_SIZE..=fp.0.len()).contains(&size)
        && sw.xstate_size <= sw.extended_size;
    if extended {
        let end = at.checked_add(u64::from(sw.xstate_size)).ok_or(BadFrame)?;
        extended = mm.read_value::<u32>(UserAddr(end)).map_err(|_| BadFrame)? == FP_XSTATE_MAGIC2;
    }
    // The processor faults on other addresses: XRSTOR wants 64, FXRSTOR 16.
    let (len, align) = if extended { (size, 64) } else { (FXSAVE_SIZE, 16) };
    if !UserAddr(at).is_aligned(align) {
        return Err(BadFrame);
    }
    let to = fp.0.get_mut(..len).ok_or(BadFrame)?;
    mm.read_exact(UserAddr(at), to).map_err(|_| BadFrame)?;
    if u32_at(&fp.0, 24) & 0xffff_0000 != 0 {
        return Err(BadFrame);
    }
    let present = if extended {
        let present = xstate_bv(&fp.0);
        let reserved = fp.0.get(FXSAVE_SIZE + 8..FXSAVE_SIZE + 24).ok_or(BadFrame)?;
        if present & !layout.features != 0 || reserved.iter().any(|&b| b != 0) {
            return Err(BadFrame);
        }
        present & sw.xfeatures
    } else {
        XFEATURES_FPSSE
    };
    // What software put there is no state.
    for range in [FPX_SW_BYTES_OFFSET..FXSAVE_SIZE, FXSAVE_SIZE..XSAVE_MIN_SIZE] {
        fp.0.get_mut(range).into_iter().flatten().for_each(|b| *b = 0);
    }
    put(&mut fp.0, FXSAVE_SIZE, &present.to_ne_bytes());
    Ok(fp)
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = area.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn u32_at(area: &[u8], at: usize) -> u32 {
    area.get(at..).and_then(|a| u32::read_from_prefix(a).ok()).map_or(0, |(v, _)| v)
}

fn xstate_bv(area: &[u8]) -> u64 {
    area.get(FXSAVE_SIZE..).and_then(|a| u64::read_from_prefix(a).ok()).map_or(0, |(v, _)| v)
}

#[cfg(test)]
mod tests;
