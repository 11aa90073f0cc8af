//! A first guest: writes through a system call and exits through one. Runs wherever /dev/kvm is; the shortest program
//! that shows the platform at work.

use std::process::ExitCode;

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, MemRange, Memory};
use platform::{Error, Platform, Trap};
use ringfence_platform_kvm::{KvmPlatform, Options};

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x7fff_0000_0000;

/// `mov eax, 1; mov edi, 1; lea rsi, [rip+19]; mov edx, 13; syscall; mov eax, 60; xor edi, edi; syscall; text`.
const PROGRAM: [u8; 35] = [
    0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 0x10, 0, 0, 0, 0xba, 13, 0, 0, 0, 0x0f, 0x05, 0xb8,
    60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x90, 0x90,
];

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("hello: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Error> {
    let platform = KvmPlatform::new(&Options::default())?;
    println!("system calls leave as {:?}", platform.entry());
    let memory = platform.memory();
    let pages = memory
        .allocate(8192, 4096, MemKind::Anonymous)
        .map_err(|e| Error::Exhausted(format!("memory: {e}")))?;
    memory.write(pages.offset, &PROGRAM);
    memory.write(pages.offset + 33, b"hello, world\n");
    let space = platform.new_address_space()?;
    space.map(CODE, MemRange { len: 4096, ..pages }, Access::READ | Access::EXEC)?;
    let mut context = platform.new_context()?;
    let mut regs = UserRegs { rip: CODE, rsp: STACK, ..UserRegs::new_user64() };
    loop {
        match context.switch(&space, &mut regs)? {
            Trap::Syscall if regs.rax == 1 => {
                let mut text = vec![0; regs.rdx.min(4096) as usize];
                memory.read(pages.offset + (regs.rsi - CODE), &mut text);
                print!("{}", String::from_utf8_lossy(&text));
                regs.rax = regs.rdx;
            }
            Trap::Syscall if regs.rax == 60 => return Ok(ExitCode::from(regs.rdi as u8)),
            trap => return Err(Error::Broken(format!("unexpected {trap:?} at {:#x}", regs.rip))),
        }
    }
}
