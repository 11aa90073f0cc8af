//! The sentry's side of the mailbox in a [thread's page](super::thread).
//!
//! The thread that polls owns the mailbox. It opens it, sees a request, takes the registers, and answers; when it stops
//! looking it closes the mailbox, and calls leave the guest again. Everything read from the page is a guest's claim: it
//! becomes user registers, which may hold anything. A guest that changes the page hurts itself: an answer then fails or
//! is lost, and whoever waits for one gets it by leaving the guest.

use abi::regs::UserRegs;
use base::memmap::Memory;

use super::{gpr, thread};
use crate::ThreadPage;

/// RFLAGS.TF: single steps begin behind the instruction that sets it.
const TRAP_FLAG: u64 = 1 << 8;

/// What a mailbox shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody waits.
    Idle,
    /// The thread waits for an answer.
    Request,
    /// The thread stores its floating-point state, or lends its processor, and will wait on.
    Busy,
    /// The thread has waited long enough: it leaves the guest, or has left.
    Left,
}

/// The mailbox in a page.
#[derive(Clone, Copy)]
pub struct Mailbox<'a> {
    memory: &'a dyn Memory,
    page: ThreadPage,
}

impl<'a> Mailbox<'a> {
    /// The mailbox of `page`.
    pub fn new(memory: &'a dyn Memory, page: ThreadPage) -> Self {
        Self { memory, page }
    }

    fn state_at(&self) -> u64 {
        self.page.offset + thread::STATE
    }

    /// What the mailbox shows now.
    pub fn state(&self) -> State {
        match self.memory.load_u32(self.state_at()) {
            thread::REQUEST => State::Request,
            thread::BUSY => State::Busy,
            thread::LEFT => State::Left,
            _ => State::Idle,
        }
    }

    fn set(&self, from: u32, to: u32) -> bool {
        self.memory.compare_exchange_u32(self.state_at(), from, to) == from
    }

    /// Lets the thread make requests and wait `rounds` rounds for each. Only while it is not in the guest.
    pub fn open(&self, rounds: u32) {
        self.admit(thread::OPEN, rounds);
    }

    /// The same for a sentry that sleeps: the thread is to wake it.
    pub fn open_asleep(&self, rounds: u32) {
        self.admit(thread::ASLEEP, rounds);
    }

    fn admit(&self, state: u32, rounds: u32) {
        self.set_rounds(rounds);
        self.memory.write(self.page.offset + thread::SLEEPS, &0u32.to_le_bytes());
        self.memory.write(self.state_at(), &state.to_le_bytes());
    }

    /// How many rounds the thread waits; one that waits already takes it to heart.
    pub fn set_rounds(&self, rounds: u32) {
        self.memory.write(self.page.offset + thread::ROUNDS, &rounds.to_le_bytes());
    }

    /// Tells the routines of [`super::Sleep`] what they need to know.
    pub fn set_area(&self, area: u64) {
        self.memory.write(self.page.offset + thread::AREA, &area.to_le_bytes());
    }

    /// The sentry is about to sleep. False: there is a request.
    pub fn fall_asleep(&self) -> bool {
        self.set(thread::OPEN, thread::ASLEEP) || self.state() == State::Idle
    }

    /// Whether the thread sleeps: it has to be woken at [`Mailbox::word_to_wake`], and its floating-point state is known.
    pub fn sleeps(&self) -> bool {
        self.memory.load_u32(self.page.offset + thread::SLEEPS) != 0
    }

    /// The time stamp counter when the thread last woke the sentry, as the guest has it.
    pub fn rang(&self) -> u64 {
        self.word(thread::RANG)
    }

    /// The time stamp counter when the thread was last woken, as the guest has it.
    pub fn woke(&self) -> u64 {
        self.word(thread::WOKE)
    }

    /// The offset of the word in the memory file that the thread sleeps on.
    pub fn word_to_wake(&self) -> u64 {
        self.state_at()
    }

    /// Stops looking. False: there is a request.
    pub fn close(&self) -> bool {
        self.set(thread::OPEN, thread::CLOSED) || self.state() == State::Idle
    }

    /// Closes a mailbox whose thread is not in the guest.
    pub fn reset(&self) {
        self.memory.write(self.state_at(), &thread::CLOSED.to_le_bytes());
    }

    /// Makes a waiting thread leave the guest: its answer will take long.
    pub fn dismiss(&self) {
        self.memory.write(self.page.offset + thread::HOW, &thread::LEAVE.to_le_bytes());
        self.set(thread::REQUEST, thread::LEFT);
    }

    /// Asks a waiting thread for its floating-point state. False: it does not wait.
    pub fn ask_fp(&self) -> bool {
        self.memory.write(self.page.offset + thread::HOW, &thread::SAVE_FP.to_le_bytes());
        self.set(thread::REQUEST, thread::BUSY)
    }

    /// Asks a waiting thread to lend its processor ([`super::Sleep::lend`]). False: it does not wait.
    pub fn ask_to_lend(&self) -> bool {
        self.memory.write(self.page.offset + thread::HOW, &thread::LEND.to_le_bytes());
        self.set(thread::REQUEST, thread::BUSY)
    }

    /// The floating-point state that the thread stored, `len` bytes.
    pub fn fp(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.min(thread::FP_LEN as usize)];
        self.memory.read(self.page.offset + thread::FP, &mut bytes);
        bytes
    }

    /// RSP of a thread that is in [`super::Zone::Borrowed`] or `Saved`.
    pub fn borrowed_rsp(&self) -> u64 {
        self.word(gpr(4))
    }

    /// RFLAGS of a thread that is in [`super::Zone::Saved`].
    pub fn saved_rflags(&self) -> u64 {
        self.word(thread::RFLAGS)
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(self.page.offset + offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The registers of a thread that has made a request, as SYSCALL would leave them; `regs` has the thread's segments
    /// already.
    pub fn take(&self, regs: &mut UserRegs) {
        let mut page = Registers([0; thread::REGISTERS as usize]);
        self.memory.read(self.page.offset, &mut page.0);
        let word = |offset: u64| {
            let at = offset as usize;
            let word = page.0.get(at..at + 8).and_then(|b| b.try_into().ok());
            word.map_or(0, u64::from_le_bytes)
        };
        for (i, register) in gprs(regs).into_iter().enumerate() {
            *register = word(gpr(i));
        }
        regs.fs_base = word(thread::FS_BASE);
        regs.rflags = word(thread::RFLAGS);
        regs.rip = word(thread::RIP);
        regs.rcx = regs.rip;
        regs.r11 = regs.rflags;
    }

    /// Makes a waiting thread, whose registers were `taken`, go on with `regs`. False: not by the mailbox, it has to leave
    /// the guest (or does so just now).
    ///
    /// `fp` is the floating-point state to go on with, if it changes: an XSAVE area that XRSTOR takes. `stays_awake` says
    /// that the sentry looks for the next request.
    pub fn answer(&self, taken: &UserRegs, regs: &UserRegs, fp: Option<&[u8]>, stays_awake: bool) -> bool {
        let mut same = *taken;
        (same.rax, same.rcx, same.r11, same.orig_rax) = (regs.rax, regs.rcx, regs.r11, regs.orig_rax);
        let offset = self.page.offset;
        if regs.rflags & TRAP_FLAG != 0 {
            return false;
        }
        let result_only = same == *regs && fp.is_none();
        if result_only {
            self.memory.write(offset + gpr(0), &regs.rax.to_le_bytes());
        } else {
            let mut plain = *regs;
            let segments = |r: &UserRegs| (r.cs, r.ss, r.ds, r.es, r.fs, r.gs, r.fs_base, r.gs_base);
            if segments(taken) != segments(regs) || regs.rip >> 47 != 0 {
                return false;
            }
            for (i, register) in gprs(&mut plain).into_iter().enumerate() {
                self.memory.write(offset + gpr(i), &register.to_le_bytes());
            }
            self.memory.write(offset + thread::RFLAGS, &regs.rflags.to_le_bytes());
            self.memory.write(offset + thread::RIP, &regs.rip.to_le_bytes());
        }
        if let Some(fp) = fp {
            if fp.len() as u64 > thread::FP_LEN {
                return false;
            }
            self.memory.write(offset + thread::FP, fp);
        }
        let how = match fp {
            Some(_) => thread::RESTORE_FP,
            None if result_only => thread::RESULT,
            None => thread::RESTORE,
        };
        self.memory.write(offset + thread::HOW, &how.to_le_bytes());
        self.set(thread::REQUEST, if stays_awake { thread::OPEN } else { thread::ASLEEP })
    }
}

/// The page's registers, aligned like there: words are copied faster than bytes.
#[repr(align(8))]
struct Registers([u8; thread::REGISTERS as usize]);

/// The general registers in the order of [`thread::GPRS`].
fn gprs(r: &mut UserRegs) -> [&mut u64; 16] {
    [
        &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rsp, &mut r.rbp, &mut r.rsi, &mut r.rdi,
        &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ]
}
