//! Frames on a fake machine.

use abi::mman::{MapFlags, Prot};

use super::*;
use crate::mm::MapRequest;
use crate::mm::tests::fake::{FakeMemory, manager};

const AT: u64 = 0x10_0000_0000;
const LEN: u64 = 0x8000;
const LAYOUT: XsaveLayout = XsaveLayout { size: 832, features: 7 };

fn machine() -> std::sync::Arc<MemoryManager> {
    let mm = manager(&FakeMemory::new());
    mm.map(MapRequest::anonymous(AT, LEN, Prot::READ | Prot::WRITE, MapFlags::FIXED)).expect("map");
    mm
}

fn action(flags: SaFlags) -> SigAction {
    SigAction {
        handler: 0x1234,
        flags: (flags | SaFlags::RESTORER).bits(),
        restorer: 0x5678,
        mask: SigSet::EMPTY,
    }
}

fn delivery<'a>(action: &'a SigAction, info: &'a SigInfo, fp: &'a FpState) -> Delivery<'a> {
    Delivery { action, info, old_mask: SigSet(0x55), fp, xfeatures: 7, trap: TrapInfo::default() }
}

#[test]
fn a_frame_comes_back_as_it_went() {
    let mm = machine();
    let mut regs = UserRegs { rsp: AT + 0x4003, rax: 7, r15: 9, rcx: 5, ..UserRegs::new_user64() };
    regs.rflags |= FLAG_DF;
    let before = regs;
    let mut fp = initial_fp(LAYOUT);
    put(&mut fp.0, 512, &7u64.to_ne_bytes());
    put(&mut fp.0, 600, &[1, 2, 3]);
    let (act, info) = (action(SaFlags::SIGINFO), SigInfo::kill(10, 0, 3, 4));
    let mut alt = StackT::NONE;
    push(&mm, &mut regs, &mut alt, &delivery(&act, &info, &fp)).expect("push");
    assert_eq!((regs.rip, regs.rdi, regs.rax, regs.rsp % 16), (0x1234, 10, 0, 8));
    assert_eq!(regs.rflags & FLAG_DF, 0);
    let frame: RtSigFrame = mm.read_value(UserAddr(regs.rsp)).expect("frame");
    assert_eq!((frame.pretcode, frame.info, frame.uc.flags), (0x5678, info, 7));
    assert_eq!(frame.uc.mcontext.fpstate % 64, 0);
    assert_eq!(mm.read_value::<SigInfo>(UserAddr(regs.rsi)), Ok(info));
    regs.rsp += 8;
    let back = pop(&mm, &mut regs, LAYOUT).expect("pop");
    assert_eq!(regs, before);
    assert_eq!((back.mask, back.altstack), (SigSet(0x55), StackT::NONE));
    assert_eq!(back.fp, fp);
}

#[test]
fn the_alternate_stack_is_entered_once_and_never_left_at_the_bottom() {
    let mm = machine();
    let fp = initial_fp(LAYOUT);
    let (act, info) = (action(SaFlags::ONSTACK), SigInfo::kernel(11));
    let mut alt = StackT { sp: AT, size: 0x1000, flags: 0, pad: 0 };
    let mut regs = UserRegs { rsp: AT + 0x4000, ..UserRegs::new_user64() };
    push(&mm, &mut regs, &mut alt, &delivery(&act, &info, &fp)).expect("first");
    let first = regs.rsp;
    assert!(on_altstack(&alt, first));
    assert_eq!(set_altstack(&mut alt, &StackT::NONE, first), Err(EPERM));
    push(&mm, &mut regs, &mut alt, &delivery(&act, &info, &fp)).expect("second");
    assert!(regs.rsp < first && on_altstack(&alt, regs.rsp));
    regs.rsp = AT + 0x200;
    assert_eq!(push(&mm, &mut regs, &mut alt, &delivery(&act, &info, &fp)), Err(BadFrame));
}

#[test]
fn an_autodisarm_stack_is_taken_away_and_given_back() {
    let mm = machine();
    let fp = initial_fp(LAYOUT);
    let (act, info) = (action(SaFlags::ONSTACK), SigInfo::kernel(11));
    let armed = StackT { sp: AT, size: 0x2000, flags: SS_AUTODISARM, pad: 0 };
    let mut alt = armed;
    let mut regs = UserRegs { rsp: AT + 0x4000, ..UserRegs::new_user64() };
    push(&mm, &mut regs, &mut alt, &delivery(&act, &info, &fp)).expect("push");
    assert_eq!(alt, StackT::NONE);
    regs.rsp += 8;
    assert_eq!(pop(&mm, &mut regs, LAYOUT).expect("pop").altstack, armed);
}

#[test]
fn a_forged_frame_is_refused_or_made_harmless() {
    let mm = machine();
    let fp = initial_fp(LAYOUT);
    let (act, info) = (action(SaFlags::empty()), SigInfo::kernel(11));
    let mut regs = UserRegs { rsp: AT + 0x4000, ..UserRegs::new_user64() };
    push(&mm, &mut regs, &mut StackT::NONE.clone(), &delivery(&act, &info, &fp)).expect("push");
    regs.rsp += 8;
    let good: UContext = mm.read_value(UserAddr(regs.rsp)).expect("read");
    let attempt = |change: &dyn Fn(&mut UContext)| {
        let (mut uc, mut r) = (good, regs);
        change(&mut uc);
        mm.write_value(UserAddr(regs.rsp), &uc).expect("write");
        pop(&mm, &mut r, LAYOUT).map(|back| (r, back))
    };
    assert!(attempt(&|uc| uc.mcontext.cs = 0x10).is_err());
    assert!(attempt(&|uc| uc.mcontext.ss = 0).is_err());
    assert!(attempt(&|uc| uc.mcontext.fpstate += 1).is_err());
    assert!(attempt(&|uc| uc.mcontext.fpstate = u64::MAX).is_err());
    let (r, back) = attempt(&|uc| {
        uc.mcontext.rflags = u64::MAX;
        uc.mcontext.fpstate = 0;
        uc.sigmask = SigSet::ALL;
    })
    .expect("pop");
    assert_eq!(r.rflags, FIX_EFLAGS | USER_FIXED_FLAGS);
    assert_eq!(back.fp, initial_fp(LAYOUT));
    assert_eq!(back.mask.iter().count(), 62);
}
