//! The vDSO's machine code.
//!
//! No function touches the stack or a register that the caller wants back, so one unwind rule fits all of them.

use std::mem::offset_of;

use iced_x86::code_asm::{
    CodeAssembler, CodeLabel, cl, dword_ptr, eax, ecx, edi, edx, qword_ptr, r8, r9, r10b, r10d, r11, rax,
    rcx, rdi, rdx, rsi,
};
use iced_x86::{BlockEncoderOptions, Code, IcedError, Instruction, MemoryOperand, Register};

use crate::VVAR_SIZE;
use crate::vvar::{CLOCKS_COVERED, COARSE_RESOLUTION_NS, ClockParams, CpuMode, TscMode, VvarPage};

const NR_GETTIMEOFDAY: u32 = 96;
const NR_TIME: u32 = 201;
const NR_CLOCK_GETTIME: u32 = 228;
const NR_CLOCK_GETRES: u32 = 229;
const NR_GETCPU: u32 = 309;

const SECOND: u32 = 1_000_000_000;
const CLOCK_REALTIME: usize = 0;
const CLOCK_TAI: u32 = 11;
/// Bits of the coarse clocks.
const COARSE: u32 = 1 << 5 | 1 << 6;
/// Bits of the clocks with a resolution of a nanosecond.
const FINE: u32 = (CLOCKS_COVERED as u32 & !COARSE) | 1 << CLOCK_TAI;
/// How often a reader looks at a page under change before it makes the system call, which waits properly.
const SPINS: u32 = 256;

/// Address that the code is assembled for. It refers to nothing but itself and the data page, always relative to RIP, so any
/// base will do that leaves room below.
const BASE: u64 = 0x10_0000;

/// A function: its name without `__vdso_` and where it lies, relative to the start of the image.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Assembles all functions for a place `offset` bytes behind the start of the image.
pub(crate) fn assemble(offset: u64) -> Result<(Vec<u8>, Vec<Function>), IcedError> {
    type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let emitters: [(&str, Emit); 5] = [
        ("clock_gettime", clock_gettime),
        ("gettimeofday", gettimeofday),
        ("time", time),
        ("clock_getres", clock_getres),
        ("getcpu", getcpu),
    ];
    let mut code = Vec::new();
    let mut functions = Vec::new();
    for (name, emit) in emitters {
        code.resize(code.len().next_multiple_of(32), 0xcc);
        let start = offset + code.len() as u64;
        let mut a = CodeAssembler::new(64)?;
        emit(&mut a)?;
        let bytes = a.assemble_options(BASE + start, BlockEncoderOptions::NONE)?.inner.code_buffer;
        code.extend(bytes);
        functions.push(Function { name, start, end: offset + code.len() as u64 });
    }
    Ok((code, functions))
}

const fn field(offset: usize) -> u32 {
    offset as u32
}

/// r8 = the data page.
fn load_page(a: &mut CodeAssembler) -> Result<(), IcedError> {
    // A RIP-relative operand takes the absolute target; the encoder makes it relative.
    let page = MemoryOperand::with_base_displ(Register::RIP, (BASE - VVAR_SIZE) as i64);
    a.add_instruction(Instruction::with2(Code::Lea_r64_m, Register::R8, page)?)
}

/// Returns what the system call returns, with the caller's arguments.
fn system_call(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    a.syscall()?;
    a.ret()
}

/// The labels by which the straight path of `read_clock` and its rare cases refer to each other.
struct Rare {
    busy: CodeLabel,
    carry: CodeLabel,
    retry: CodeLabel,
    done: CodeLabel,
}

/// r11 = seconds, rax = nanoseconds of the clock whose entry r9 points to; r8 is the data page. Changes rcx, rdx and r10,
/// keeps rdi and rsi for `fallback`. `rare_cases` must follow behind the function's return.
fn read_clock(a: &mut CodeAssembler, fallback: CodeLabel) -> Result<Rare, IcedError> {
    let (mut retry, mut done) = (a.create_label(), a.create_label());
    let (busy, carry) = (a.create_label(), a.create_label());
    a.set_label(&mut retry)?;
    a.mov(r10d, dword_ptr(r8 + field(offset_of!(VvarPage, seq))))?;
    a.test(r10b, 1)?;
    a.jne(busy)?;
    a.cmp(dword_ptr(r8 + field(offset_of!(VvarPage, mode))), TscMode::Tsc as u32)?;
    a.jne(fallback)?;
    // The counter must not be read before the sequence number (Linux's rdtsc_ordered).
    a.lfence()?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    // A counter that is a little behind on another processor must not wrap around.
    a.mov(edx, 0)?;
    a.sub(rax, qword_ptr(r8 + field(offset_of!(VvarPage, tsc_base))))?;
    a.cmovb(rax, rdx)?;
    a.mul(qword_ptr(r9 + field(offset_of!(ClockParams, mult))))?;
    a.mov(ecx, dword_ptr(r8 + field(offset_of!(VvarPage, shift))))?;
    a.shrd(rax, rdx, cl)?;
    a.add(rax, qword_ptr(r9 + field(offset_of!(ClockParams, nsec))))?;
    a.mov(r11, qword_ptr(r9 + field(offset_of!(ClockParams, sec))))?;
    a.cmp(dword_ptr(r8 + field(offset_of!(VvarPage, seq))), r10d)?;
    a.jne(retry)?;
    a.mov(ecx, SECOND)?;
    a.cmp(rax, rcx)?;
    a.jae(carry)?;
    a.set_label(&mut done)?;
    // A label needs an instruction of its own: the caller may set another one right here.
    a.nop()?;
    Ok(Rare { busy, carry, retry, done })
}

/// What `read_clock` jumps to seldom.
fn rare_cases(a: &mut CodeAssembler, mut rare: Rare, fallback: CodeLabel) -> Result<(), IcedError> {
    // The page is under change: it takes a microsecond, unless the writer lost its processor.
    let mut spin = a.create_label();
    a.set_label(&mut rare.busy)?;
    a.mov(ecx, SPINS)?;
    a.set_label(&mut spin)?;
    a.pause()?;
    a.test(dword_ptr(r8 + field(offset_of!(VvarPage, seq))), 1)?;
    a.je(rare.retry)?;
    a.dec(ecx)?;
    a.jne(spin)?;
    a.jmp(fallback)?;

    // The page is renewed about once a second, so one step does; a division follows a long pause only.
    a.set_label(&mut rare.carry)?;
    a.sub(rax, rcx)?;
    a.inc(r11)?;
    a.cmp(rax, rcx)?;
    a.jb(rare.done)?;
    a.xor(edx, edx)?;
    a.div(rcx)?;
    a.add(r11, rax)?;
    a.mov(rax, rdx)?;
    a.jmp(rare.done)
}

/// r9 = the entry of a clock with a constant ID.
fn select_clock(a: &mut CodeAssembler, clock: usize) -> Result<(), IcedError> {
    a.lea(r9, qword_ptr(r8 + field(offset_of!(VvarPage, clocks) + clock * size_of::<ClockParams>())))
}

/// `int clock_gettime(clockid_t clock, struct timespec *ts)`
fn clock_gettime(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut fallback = a.create_label();
    a.cmp(edi, 7)?;
    a.ja(fallback)?;
    a.mov(eax, u32::from(CLOCKS_COVERED))?;
    a.bt(eax, edi)?;
    a.jae(fallback)?;
    load_page(a)?;
    a.mov(ecx, edi)?;
    a.shl(ecx, size_of::<ClockParams>().trailing_zeros())?;
    a.lea(r9, qword_ptr(r8 + rcx + field(offset_of!(VvarPage, clocks))))?;
    let rare = read_clock(a, fallback)?;
    a.mov(qword_ptr(rsi), r11)?;
    a.mov(qword_ptr(rsi + 8), rax)?;
    a.xor(eax, eax)?;
    a.ret()?;
    rare_cases(a, rare, fallback)?;
    a.set_label(&mut fallback)?;
    system_call(a, NR_CLOCK_GETTIME)
}

/// `int gettimeofday(struct timeval *tv, struct timezone *tz)`
fn gettimeofday(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut fallback, mut zone, mut out) = (a.create_label(), a.create_label(), a.create_label());
    load_page(a)?;
    a.test(rdi, rdi)?;
    a.je(zone)?;
    select_clock(a, CLOCK_REALTIME)?;
    let rare = read_clock(a, fallback)?;
    a.mov(qword_ptr(rdi), r11)?;
    // Division by 1000, exact below 2^32.
    a.imul_3(rax, rax, 274_877_907)?;
    a.shr(rax, 38)?;
    a.mov(qword_ptr(rdi + 8), rax)?;
    a.set_label(&mut zone)?;
    a.test(rsi, rsi)?;
    a.je(out)?;
    a.mov(rax, qword_ptr(r8 + field(offset_of!(VvarPage, tz_minuteswest))))?;
    a.mov(qword_ptr(rsi), rax)?;
    a.set_label(&mut out)?;
    a.xor(eax, eax)?;
    a.ret()?;
    rare_cases(a, rare, fallback)?;
    a.set_label(&mut fallback)?;
    system_call(a, NR_GETTIMEOFDAY)
}

/// `time_t time(time_t *t)`
fn time(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut fallback, mut out) = (a.create_label(), a.create_label());
    load_page(a)?;
    select_clock(a, CLOCK_REALTIME)?;
    let rare = read_clock(a, fallback)?;
    a.mov(rax, r11)?;
    a.test(rdi, rdi)?;
    a.je(out)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.set_label(&mut out)?;
    a.ret()?;
    rare_cases(a, rare, fallback)?;
    a.set_label(&mut fallback)?;
    system_call(a, NR_TIME)
}

/// `int clock_getres(clockid_t clock, struct timespec *res)`
fn clock_getres(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut fallback, mut store, mut out) = (a.create_label(), a.create_label(), a.create_label());
    a.cmp(edi, CLOCK_TAI)?;
    a.ja(fallback)?;
    a.mov(ecx, 1)?;
    a.mov(eax, FINE)?;
    a.bt(eax, edi)?;
    a.jb(store)?;
    a.mov(ecx, COARSE_RESOLUTION_NS)?;
    a.mov(eax, COARSE)?;
    a.bt(eax, edi)?;
    a.jae(fallback)?;
    a.set_label(&mut store)?;
    a.test(rsi, rsi)?;
    a.je(out)?;
    a.mov(qword_ptr(rsi), 0)?;
    a.mov(qword_ptr(rsi + 8), rcx)?;
    a.set_label(&mut out)?;
    a.xor(eax, eax)?;
    a.ret()?;
    a.set_label(&mut fallback)?;
    system_call(a, NR_CLOCK_GETRES)
}

/// `int getcpu(unsigned *cpu, unsigned *node, void *unused)`
fn getcpu(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut fallback, mut aux, mut store) = (a.create_label(), a.create_label(), a.create_label());
    let (mut node, mut out) = (a.create_label(), a.create_label());
    load_page(a)?;
    a.mov(eax, dword_ptr(r8 + field(offset_of!(VvarPage, cpu_mode))))?;
    a.cmp(eax, CpuMode::TscAux as u32)?;
    a.je(aux)?;
    a.cmp(eax, CpuMode::Fixed as u32)?;
    a.jne(fallback)?;
    a.mov(ecx, dword_ptr(r8 + field(offset_of!(VvarPage, cpu))))?;
    a.mov(edx, dword_ptr(r8 + field(offset_of!(VvarPage, node))))?;
    a.set_label(&mut store)?;
    a.test(rdi, rdi)?;
    a.je(node)?;
    a.mov(dword_ptr(rdi), ecx)?;
    a.set_label(&mut node)?;
    a.test(rsi, rsi)?;
    a.je(out)?;
    a.mov(dword_ptr(rsi), edx)?;
    a.set_label(&mut out)?;
    a.xor(eax, eax)?;
    a.ret()?;
    a.set_label(&mut aux)?;
    a.rdtscp()?;
    a.mov(edx, ecx)?;
    a.shr(edx, 12)?;
    a.and(ecx, 0xfff)?;
    a.jmp(store)?;
    a.set_label(&mut fallback)?;
    system_call(a, NR_GETCPU)
}
