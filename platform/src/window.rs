//! The window: where patched call sites jump to, instead of making a system call that leaves the guest.
//!
//! A hot `mov $nr,%eax; syscall` becomes `jmp *[slot]` (`ff 24 25` and 32 bits of address). The slot leads to the site's
//! *stub*, which executes the five displaced bytes and goes on to the *code*, the same for all: it answers from the
//! thread's page, hands the call over through the [`mailbox`](thread), or goes back to the `syscall` in the stub.
//!
//! ```text
//! base            SITE_PAGES pages of slots and stubs, private to an address space; user code may read and execute
//! base + CODE     the code, one page for the whole sandbox
//! base + THREADS  a page for each thread; user code may read and write. GS leads to it while the guest has not set GS
//! ```
//!
//! The third byte of the base, counted from the lowest, is 0x60: an invalid instruction in 64-bit code. A thread whose
//! RIP was on the `syscall` when the site was patched traps on that byte, and the sentry makes the system call.
//!
//! All of it uses no guest stack (there may be a red zone), and no register but RAX, RCX and R11 that SYSCALL changes too;
//! RFLAGS stay. User code can read and jump to all of it, and write its threads' pages: nothing there is secret, and what
//! is read from there is a guest's claim.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::EINVAL;
use base::PAGE_SIZE;
use base::memmap::{MemKind, MemRange, Memory};
pub use mailbox::Mailbox;

use iced_x86::code_asm::{CodeAssembler, CodeLabel, dword_ptr, eax, ecx, edx, gpr64::*, ptr, qword_ptr};
use iced_x86::{BlockEncoderOptions, IcedError};

pub mod mailbox;

/// Pages of slots and stubs at most.
pub const SITE_PAGES: usize = 8;
/// Sites in a page.
pub const SITES_IN_PAGE: usize = 96;
/// Sites that an address space may have.
pub const MAX_SITES: usize = SITE_PAGES * SITES_IN_PAGE;
/// Pages for threads at most.
pub const MAX_THREADS: usize = 4096;
/// Bytes of a stub.
pub const STUB_LEN: u64 = 32;
/// Offset of the code's page.
const CODE: u64 = 0x8000;
/// Offset of the first thread's page.
const THREADS: u64 = 0x1_0000;
/// Offset of the stubs in a page of sites.
const STUBS: u64 = PAGE_SIZE - SITES_IN_PAGE as u64 * STUB_LEN;
/// Bytes of the window.
pub const LEN: u64 = THREADS + MAX_THREADS as u64 * PAGE_SIZE;

/// Offsets in a stub.
pub mod stub {
    /// The displaced instruction.
    pub const DISPLACED: u64 = 7;
    /// The jump to the code.
    pub const JUMP: u64 = 12;
    /// The system call that leaves the guest.
    pub const SYSCALL: u64 = 17;
    /// Behind it.
    pub const BEHIND: u64 = 19;
    /// The address behind the site's `syscall`; R11 holds the address of this.
    pub const RETURN: u64 = 24;
}

/// Offsets in a thread's page, and what the words there mean.
pub mod thread {
    /// The mailbox's state, 32 bits: one of the values below. Its cache line has all that most calls and their answers
    /// need; a line that changes sides costs as much as the rest of a call.
    pub const STATE: u64 = 0;
    /// Nobody looks: the call leaves the guest. A page begins so.
    pub const CLOSED: u32 = 0;
    /// The sentry looks for a request, or has answered the last one.
    pub const OPEN: u32 = 1;
    /// The thread waits for an answer.
    pub const REQUEST: u32 = 2;
    /// The thread has waited long enough, and leaves the guest.
    pub const LEFT: u32 = 3;
    /// The thread does what it was asked to, and then waits on.
    pub const BUSY: u32 = 4;
    /// The sentry sleeps: it takes a request too, and wants to be woken for it.
    pub const ASLEEP: u32 = 5;
    /// How the thread goes on when it need not wait any more, 32 bits: one of the values below.
    pub const HOW: u64 = 4;
    /// With RAX from the page.
    pub const RESULT: u32 = 0;
    /// With all registers from the page.
    pub const RESTORE: u32 = 1;
    /// With all registers and the floating-point state from the page.
    pub const RESTORE_FP: u32 = 2;
    /// It stores its floating-point state, and waits on.
    pub const SAVE_FP: u32 = 3;
    /// It leaves the guest: the answer will take long.
    pub const LEAVE: u32 = 4;
    /// It does what [`super::Sleep::lend`] is for, and waits on.
    pub const LEND: u32 = 5;
    /// Rounds that the thread waits, 32 bits; it looks at this in each.
    pub const ROUNDS: u64 = 0xa8;
    /// Not 0: the thread sleeps on the state, and its floating-point state is stored; 32 bits.
    pub const SLEEPS: u64 = 0xac;
    /// What the routines of [`super::Sleep`] need to know, 64 bits.
    pub const AREA: u64 = 0xb0;
    /// The time stamp counter when the thread last woke the sentry, and when it last woke itself, 64 bits each.
    pub const RANG: u64 = 0xb8;
    /// See [`RANG`].
    pub const WOKE: u64 = 0xc0;
    /// Calls that were answered from the page, 64 bits.
    pub const ANSWERED: u64 = 0x180;
    /// FS base.
    pub const FS_BASE: u64 = 0xa0;
    /// RFLAGS.
    pub const RFLAGS: u64 = 8;
    /// RIP to go on at.
    pub const RIP: u64 = 0x10;
    /// RAX to R15 in the order of the encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15.
    pub const GPRS: [u64; 16] =
        [0x18, 0x40, 0x20, 0x48, 0x28, 0x50, 0x30, 0x38, 0x58, 0x60, 0x68, 0x70, 0x78, 0x80, 0x88, 0x90];
    /// Bytes that hold registers.
    pub const REGISTERS: u64 = FS_BASE + 8;
    /// Answers, 64 bits for each of [`super::ANSWERED_HERE`]: 0 for none, else `KNOWN` plus the value.
    pub const ANSWERS: u64 = 0x1c0;
    /// The XSAVE area, standard format, and the bytes there are for it.
    pub const FP: u64 = 0x400;
    /// See [`FP`].
    pub const FP_LEN: u64 = 0xc00;
    /// Marks an answer.
    pub const KNOWN: u64 = 1 << 32;
}

/// The calls that are answered from the thread's page: numbers of getpid, gettid, getuid, geteuid, getgid, getegid.
pub const ANSWERED_HERE: [u32; 6] = [39, 186, 102, 107, 104, 108];

/// What threads that wait for an answer do but wait awake: routines outside the window, which the window's code jumps to.
/// They may change RAX, RCX, RDX, RSI, RDI, R10 and R11, and go on where RBX says.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// Wakes the sentry for a request.
    pub ring: u64,
    /// Sleeps while the state is [`thread::REQUEST`].
    pub rest: u64,
    /// Lets another thread use the processor for a while.
    pub lend: u64,
}

/// What an interruption in the window means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The call has not been made: RAX holds its number, R11 the address of the stub's return address.
    Before,
    /// As `Before`, and RSP is in the thread's page.
    Borrowed,
    /// As `Borrowed`, and so is RFLAGS.
    Saved,
    /// The mailbox says how far the call is.
    Requested,
    /// The call has been answered, RAX holds the result, R11 the address of the stub's return address.
    Answered,
}

/// A site in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StubAt {
    /// Which.
    pub index: usize,
    /// Offset in the stub.
    pub offset: u64,
}

/// Where the window is, and its code.
#[derive(Debug)]
pub struct Window {
    base: u64,
    page: MemRange,
    code: Code,
    /// What happened.
    pub counts: Counts,
}

/// What happened in a window; exact only while nothing runs.
#[derive(Debug, Default)]
pub struct Counts {
    /// Call sites patched, those that a fork inherits not again.
    pub sites: AtomicU64,
    /// Calls answered from threads' pages; those of threads that still run are missing.
    pub answered: AtomicU64,
    /// Calls handed over and answered through mailboxes.
    pub mailed: AtomicU64,
    /// Times that a platform began to poll a thread's mailbox.
    pub polls: AtomicU64,
    /// Times that it found nothing there for so long that it gave up.
    pub poll_failures: AtomicU64,
    /// Requests whose threads left the guest before they were answered.
    pub left: AtomicU64,
}

impl Counts {
    /// Names and values.
    pub fn list(&self) -> [(&'static str, u64); 6] {
        [
            ("patched_sites", self.sites.load(Ordering::Relaxed)),
            ("answered_in_guest", self.answered.load(Ordering::Relaxed)),
            ("answered_by_mailbox", self.mailed.load(Ordering::Relaxed)),
            ("mailbox_polls", self.polls.load(Ordering::Relaxed)),
            ("mailbox_poll_failures", self.poll_failures.load(Ordering::Relaxed)),
            ("mailbox_requests_left", self.left.load(Ordering::Relaxed)),
        ]
    }
}

/// The code.
#[derive(Debug)]
struct Code {
    bytes: Vec<u8>,
    /// Where the calls of [`ANSWERED_HERE`] begin.
    answers: [u64; ANSWERED_HERE.len()],
    /// Where a call begins whose number is known only in RAX.
    any: u64,
    /// Where a call begins that cannot be answered from the page.
    mail: u64,
    /// Behind the `syscall` of a thread that has waited long enough.
    left: u64,
    zones: Vec<(Range<u64>, Zone)>,
}

impl Window {
    /// Makes the code for a window at `base` and puts it into a page of `memory`; `features` are the XCR0 bits of the
    /// floating-point state, 0 where there is no XSAVE. Threads that have waited long enough `sleep`, or leave the guest.
    ///
    /// # Errors
    /// `ENOMEM`: no page. `EINVAL`: the base cannot be encoded.
    pub fn new(memory: &dyn Memory, base: u64, features: u64, sleep: Option<Sleep>) -> Result<Self, Errno> {
        if base >> 16 & 0xff != 0x60 || base & 0xffff != 0 || base as i32 as i64 as u64 != base {
            return Err(EINVAL);
        }
        let code = Code::new(base + CODE, base + THREADS, features, sleep).map_err(|_| EINVAL)?;
        let page = memory.allocate(PAGE_SIZE, PAGE_SIZE, MemKind::Shared)?;
        memory.write(page.offset, &code.bytes);
        Ok(Self { base, page, code, counts: Counts::default() })
    }

    /// The first address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether `addr` lies in the window.
    pub fn contains(&self, addr: u64) -> bool {
        addr.wrapping_sub(self.base) < LEN
    }

    /// The page of the code and where it is to be mapped.
    pub fn code_page(&self) -> (u64, MemRange) {
        (self.base + CODE, self.page)
    }

    /// The address of a page of sites.
    pub fn site_page(&self, index: usize) -> u64 {
        self.base + index as u64 * PAGE_SIZE
    }

    /// The address of a thread's page.
    pub fn thread_page(&self, index: usize) -> u64 {
        self.base + THREADS + index as u64 * PAGE_SIZE
    }

    /// The jump to site `index`.
    pub fn jump(&self, index: usize) -> [u8; 7] {
        let slot = self.site_page(index / SITES_IN_PAGE) + (index % SITES_IN_PAGE) as u64 * 8;
        let [a, b, c, d] = (slot as u32).to_le_bytes();
        [0xff, 0x24, 0x25, a, b, c, d]
    }

    /// The address of a site's stub.
    pub fn stub(&self, index: usize) -> u64 {
        self.site_page(index / SITES_IN_PAGE) + STUBS + (index % SITES_IN_PAGE) as u64 * STUB_LEN
    }

    /// The stub that `addr` lies in.
    pub fn stub_at(&self, addr: u64) -> Option<StubAt> {
        let offset = addr.wrapping_sub(self.base);
        let page = (offset / PAGE_SIZE) as usize;
        let within = (offset % PAGE_SIZE).checked_sub(STUBS)?;
        (offset < SITE_PAGES as u64 * PAGE_SIZE).then(|| StubAt {
            index: page * SITES_IN_PAGE + (within / STUB_LEN) as usize,
            offset: within % STUB_LEN,
        })
    }

    /// What the page of a site gets: the slot, then the stub, each with its offset in the page.
    ///
    /// `number` is the system call's if the displaced bytes set it.
    pub fn site(
        &self,
        index: usize,
        displaced: [u8; 5],
        number: Option<u32>,
        back: u64,
    ) -> ((u64, [u8; 8]), (u64, [u8; STUB_LEN as usize])) {
        let start = self.stub(index);
        let target = match number {
            None => self.code.any,
            Some(nr) => {
                ANSWERED_HERE.iter().position(|&n| n == nr).map_or(self.code.mail, |i| self.code.answers[i])
            }
        };
        let mut bytes = [0xcc; STUB_LEN as usize];
        // lea RETURN(stub),%r11; the displaced instruction; jmp target; syscall
        bytes[..7].copy_from_slice(&[0x4c, 0x8d, 0x1d, (stub::RETURN - stub::DISPLACED) as u8, 0, 0, 0]);
        bytes[7..12].copy_from_slice(&displaced);
        bytes[12] = 0xe9;
        let jump = (target as i64 - (start + stub::SYSCALL) as i64) as i32;
        bytes[13..17].copy_from_slice(&jump.to_le_bytes());
        bytes[17..19].copy_from_slice(&[0x0f, 0x05]);
        bytes[24..].copy_from_slice(&back.to_le_bytes());
        let slot = (index % SITES_IN_PAGE) as u64;
        ((slot * 8, start.to_le_bytes()), (STUBS + slot * STUB_LEN, bytes))
    }

    /// What it means that a thread was interrupted at `rip` in the code.
    pub fn zone(&self, rip: u64) -> Option<Zone> {
        self.code.zones.iter().find(|(range, _)| range.contains(&rip)).map(|(_, zone)| *zone)
    }

    /// Where a thread that has waited long enough leaves the guest: behind its `syscall`.
    pub fn left(&self) -> u64 {
        self.code.left
    }
}

/// Registers in the order of [`thread::GPRS`].
const GPRS: [iced_x86::code_asm::AsmRegister64; 16] =
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

/// The offset of register `index` in a thread's page.
pub const fn gpr(index: usize) -> u64 {
    thread::GPRS[index]
}

/// A 64-bit word of the thread's page.
fn word(offset: u64) -> iced_x86::code_asm::AsmMemoryOperand {
    qword_ptr(offset).gs()
}

/// The thread's XSAVE area.
fn xsave_area() -> iced_x86::code_asm::AsmMemoryOperand {
    ptr(thread::FP).gs()
}

/// A 32-bit word of the thread's page.
fn half(offset: u64) -> iced_x86::code_asm::AsmMemoryOperand {
    dword_ptr(offset).gs()
}

impl Code {
    /// For the code at `start` and threads' pages from `threads` on.
    fn new(start: u64, threads: u64, features: u64, sleep: Option<Sleep>) -> Result<Self, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        let mut any = a.create_label();
        let mut mail = a.create_label();
        let mut answers = [any; ANSWERED_HERE.len()];
        let mut committed = [any; ANSWERED_HERE.len()];
        let mut ends = [any; ANSWERED_HERE.len()];
        let mut picks = [any; ANSWERED_HERE.len()];
        for label in answers.iter_mut().chain(&mut committed).chain(&mut ends).chain(&mut picks) {
            *label = a.create_label();
        }

        a.set_label(&mut any)?;
        for (nr, pick) in ANSWERED_HERE.iter().zip(&picks) {
            a.lea(rcx, qword_ptr(rax) - *nr as i32)?;
            a.jrcxz(*pick)?;
        }
        a.jmp(mail)?;
        for (pick, answer) in picks.iter_mut().zip(&answers) {
            a.set_label(pick)?;
            a.jmp(*answer)?;
        }
        for i in 0..ANSWERED_HERE.len() {
            a.set_label(&mut answers[i])?;
            let leave = find_page(&mut a, threads)?;
            a.mov(rcx, word(thread::ANSWERS + 8 * i as u64))?;
            a.jrcxz(leave)?;
            a.mov(eax, ecx)?;
            a.set_label(&mut committed[i])?;
            a.mov(rcx, word(thread::ANSWERED))?;
            a.lea(rcx, qword_ptr(rcx + 1))?;
            a.mov(word(thread::ANSWERED), rcx)?;
            a.jmp(qword_ptr(r11))?;
            a.set_label(&mut ends[i])?;
            a.nop()?;
        }

        a.set_label(&mut mail)?;
        let leave = find_page(&mut a, threads)?;
        let mut open = a.create_label();
        let mut borrowed = a.create_label();
        let mut saved = a.create_label();
        let mut popped = a.create_label();
        let mut requested = a.create_label();
        let mut given_up = a.create_label();
        let mut own_stack = a.create_label();
        let mut waiting = a.create_label();
        let mut again = a.create_label();
        let mut leaving = a.create_label();
        let mut other = a.create_label();
        let mut restore_fp = a.create_label();
        let mut beyond = a.create_label();
        let mut left = a.create_label();
        let mut answered = a.create_label();
        let mut restore = a.create_label();
        let mut ring = a.create_label();
        let mut end = a.create_label();
        a.mov(ecx, half(thread::STATE))?;
        a.lea(ecx, qword_ptr(rcx) - thread::OPEN as i32)?;
        a.jrcxz(open)?;
        if sleep.is_some() {
            a.lea(ecx, qword_ptr(rcx) - (thread::ASLEEP - thread::OPEN) as i32)?;
            a.jrcxz(open)?;
        }
        a.jmp(leave)?;
        a.set_label(&mut open)?;
        for i in [RAX, RSP, RDI, RSI, RDX] {
            a.mov(word(gpr(i)), GPRS[i])?;
        }
        a.mov(rcx, qword_ptr(r11))?;
        a.mov(word(thread::RIP), rcx)?;
        a.rdgsbase(rcx)?;
        a.lea(rsp, qword_ptr(rcx) + (thread::RFLAGS + 8) as i32)?;
        a.set_label(&mut borrowed)?;
        a.pushfq()?;
        a.set_label(&mut saved)?;
        a.rdfsbase(rcx)?;
        // In other cache lines: stored only when they differ from what is there.
        let others = [RBX, RBP, 8, 9, 10, 12, 13, 14, 15].map(|i| (gpr(i), GPRS[i]));
        for (offset, register) in others.into_iter().chain([(thread::FS_BASE, rcx)]) {
            let mut same = a.create_label();
            a.cmp(word(offset), register)?;
            a.je(same)?;
            a.mov(word(offset), register)?;
            a.set_label(&mut same)?;
        }
        a.mov(ecx, thread::REQUEST)?;
        a.xchg(half(thread::STATE), ecx)?;
        a.set_label(&mut requested)?;
        a.lea(ecx, qword_ptr(rcx) - thread::OPEN as i32)?;
        a.jrcxz(waiting)?;
        if sleep.is_some() {
            a.lea(ecx, qword_ptr(rcx) - (thread::ASLEEP - thread::OPEN) as i32)?;
            a.jrcxz(ring)?;
        }
        a.mov(half(thread::STATE), thread::CLOSED)?;
        a.set_label(&mut given_up)?;
        a.popfq()?;
        a.set_label(&mut popped)?;
        a.mov(rsp, word(gpr(RSP)))?;
        a.set_label(&mut own_stack)?;
        a.jmp(leave)?;
        a.set_label(&mut waiting)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut again)?;
        a.mov(eax, half(thread::STATE))?;
        a.cmp(eax, thread::REQUEST as i32)?;
        a.jne(answered)?;
        a.pause()?;
        a.add(ecx, 1)?;
        a.cmp(ecx, half(thread::ROUNDS))?;
        a.jb(again)?;
        match sleep {
            None => {
                a.mov(eax, thread::REQUEST)?;
                a.mov(ecx, thread::LEFT)?;
                a.lock().cmpxchg(half(thread::STATE), ecx)?;
                a.jne(answered)?;
            }
            Some(Sleep { ring: ring_at, rest, .. }) => {
                // Stored ahead, so that the sentry need not wake the thread to learn it.
                a.mov(eax, features as u32)?;
                a.mov(edx, (features >> 32) as u32)?;
                if features != 0 {
                    a.xsave64(xsave_area())?;
                }
                call_routine(&mut a, rest)?;
                a.jmp(answered)?;
                a.set_label(&mut ring)?;
                call_routine(&mut a, ring_at)?;
                a.jmp(waiting)?;
            }
        }
        a.set_label(&mut leaving)?;
        a.syscall()?;
        a.set_label(&mut left)?;
        a.ud2()?;
        a.set_label(&mut answered)?;
        a.mov(ecx, half(thread::HOW))?;
        a.cmp(ecx, thread::RESTORE as i32)?;
        a.je(restore)?;
        a.ja(other)?;
        a.popfq()?;
        a.mov(rax, word(gpr(RAX)))?;
        a.mov(rsp, word(gpr(RSP)))?;
        a.jmp(word(thread::RIP))?;
        a.set_label(&mut other)?;
        a.cmp(ecx, thread::SAVE_FP as i32)?;
        a.ja(beyond)?;
        // The guest's features: the register that limits them may be the host's. RDX is in the page.
        a.mov(eax, features as u32)?;
        a.mov(edx, (features >> 32) as u32)?;
        a.jb(restore_fp)?;
        a.xsave64(xsave_area())?;
        a.mov(rdx, word(gpr(RDX)))?;
        a.mov(half(thread::STATE), thread::REQUEST)?;
        a.jmp(waiting)?;
        a.set_label(&mut beyond)?;
        if let Some(Sleep { lend, .. }) = sleep {
            a.cmp(ecx, thread::LEND as i32)?;
            a.jne(leaving)?;
            call_routine(&mut a, lend)?;
            a.mov(half(thread::STATE), thread::REQUEST)?;
            a.jmp(waiting)?;
        } else {
            a.jmp(leaving)?;
        }
        a.set_label(&mut restore_fp)?;
        a.xrstor64(xsave_area())?;
        a.set_label(&mut restore)?;
        a.popfq()?;
        for (i, register) in GPRS.into_iter().enumerate() {
            a.mov(register, word(gpr(i)))?;
        }
        a.jmp(word(thread::RIP))?;
        a.set_label(&mut end)?;
        a.nop()?;

        let result = a.assemble_options(start, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
        let at = |label: &CodeLabel| result.label_ip(label);
        let mut zones = vec![(at(&any)?..at(&answers[0])?, Zone::Before)];
        let mut entries = [0; ANSWERED_HERE.len()];
        for i in 0..entries.len() {
            entries[i] = at(&answers[i])?;
            zones.push((entries[i]..at(&committed[i])?, Zone::Before));
            zones.push((at(&committed[i])?..at(&ends[i])?, Zone::Answered));
        }
        zones.push((at(&mail)?..at(&borrowed)?, Zone::Before));
        zones.push((at(&borrowed)?..at(&saved)?, Zone::Borrowed));
        zones.push((at(&saved)?..at(&requested)?, Zone::Saved));
        zones.push((at(&requested)?..at(&given_up)?, Zone::Requested));
        zones.push((at(&given_up)?..at(&popped)?, Zone::Saved));
        zones.push((at(&popped)?..at(&own_stack)?, Zone::Borrowed));
        zones.push((at(&own_stack)?..at(&waiting)?, Zone::Before));
        zones.push((at(&waiting)?..at(&end)?, Zone::Requested));
        Ok(Self {
            answers: entries,
            any: at(&any)?,
            mail: at(&mail)?,
            left: at(&left)?,
            zones,
            bytes: result.inner.code_buffer,
        })
    }
}

/// Goes to one of the routines of [`Sleep`] and comes back with the thread's registers.
fn call_routine(a: &mut CodeAssembler, routine: u64) -> Result<(), IcedError> {
    let mut back = a.create_label();
    a.lea(rbx, qword_ptr(back))?;
    a.mov(rcx, routine)?;
    a.jmp(rcx)?;
    a.set_label(&mut back)?;
    for i in [RDX, RBX, RSI, RDI, R10] {
        a.mov(GPRS[i], word(gpr(i)))?;
    }
    Ok(())
}

/// Indices of registers in [`GPRS`].
const RAX: usize = 0;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;
const R10: usize = 10;

/// Goes on if GS leads to a thread's page, which lie from `threads` on. Else, and for who jumps to the label that is
/// returned, the call leaves the guest by the stub's `syscall`.
fn find_page(a: &mut CodeAssembler, threads: u64) -> Result<CodeLabel, IcedError> {
    let mut leave = a.create_label();
    let mut found = a.create_label();
    // RFLAGS must stay, so RCX becomes 0 by instructions that change none.
    a.rdgsbase(rcx)?;
    if threads >> 32 == 0xffff_ffff {
        // In the highest 4 GiB, where no program's GS leads: the upper half is all ones.
        a.bswap(rcx)?;
        a.lea(ecx, qword_ptr(rcx + 1))?;
    } else {
        // Among the program's own addresses: bits 24 to 55 of the distance are zero. The pages take 16 MiB.
        a.lea(rcx, qword_ptr(rcx) - threads as i32)?;
        a.lea(rcx, qword_ptr(rcx * 8))?;
        a.lea(rcx, qword_ptr(rcx * 8))?;
        a.lea(rcx, qword_ptr(rcx * 4))?;
        a.bswap(rcx)?;
        a.mov(ecx, ecx)?;
    }
    a.jrcxz(found)?;
    a.set_label(&mut leave)?;
    a.lea(rcx, qword_ptr(r11) - (stub::RETURN - stub::SYSCALL) as i32)?;
    a.jmp(rcx)?;
    a.set_label(&mut found)?;
    Ok(leave)
}

#[cfg(test)]
mod tests;
