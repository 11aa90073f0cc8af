//! Prints what a process costs the platform: address space, a few pages in places as a program has them, one stay in
//! the guest, the end; with the flushes of retired page tables in it. `process_cost [N]`.

use std::process::ExitCode;
use std::time::Instant;

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, MemRange, Memory};
use platform::{Error, Platform, Trap};
use ringfence_platform_kvm::{KvmPlatform, Options};

const PAGE: u64 = 4096;

fn main() -> ExitCode {
    let processes = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(3000u64);
    match run(processes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("process_cost: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(processes: u64) -> Result<(), Error> {
    let platform = KvmPlatform::new(&Options::default())?;
    let memory = platform.memory();
    let pages = memory
        .allocate(600 * PAGE, PAGE, MemKind::Anonymous)
        .map_err(|e| Error::Exhausted(format!("memory: {e}")))?;
    memory.populate(pages);
    // mov [rdi], al; add rdi, 4096; dec rsi; jnz; syscall
    let code = [0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xce, 0x75, 0xf2, 0x0f, 0x05];
    memory.write(pages.offset, &code);
    let rw = Access::READ | Access::WRITE;
    let mut context = platform.new_context()?;
    let at = |i: u64, n: u64| MemRange { offset: pages.offset + i * PAGE, len: n * PAGE };
    let mut parent = platform.new_address_space()?;
    let (mut worst, started) = (0, Instant::now());
    let mut forks = std::time::Duration::ZERO;
    for i in 0..processes {
        let one = Instant::now();
        // Image, heap, library, stack: at other places each time.
        let image = 0x5500_0000_0000 + i * 0x7_1000;
        let library = 0x7f00_0000_0000 + i * 0x31_5000;
        let space = platform.new_address_space()?;
        space.map(image, at(0, 1), Access::READ | Access::EXEC)?;
        space.map(image + 0x20_0000, at(100, 100), rw)?;
        space.map(library, at(200, 300), rw)?;
        space.map(0x7fff_f000_0000 - i * PAGE, at(500, 30), rw)?;
        let mut regs = UserRegs { rip: image, rdi: library, rsi: 64, ..UserRegs::new_user64() };
        let trap = context.switch(&space, &mut regs)?;
        if trap != Trap::Syscall {
            return Err(Error::Broken(format!("{trap:?} at {:#x}", regs.rip)));
        }
        let fork = Instant::now();
        let child = platform.new_address_space()?;
        let whole = 0..platform.guest_range().end;
        space.fork_into(&*child, std::slice::from_ref(&whole))?;
        forks += fork.elapsed();
        parent = space;
        worst = worst.max(one.elapsed().as_micros());
    }
    drop(parent);
    let us = |d: std::time::Duration| d.as_nanos() as f64 / 1000.0 / processes as f64;
    println!(
        "{processes} processes: {:.1} us each (fork {:.1}), worst {worst} us, {} KiB of tables; {:?}",
        us(started.elapsed()),
        us(forks),
        platform.table_bytes() / 1024,
        platform.counters()
    );
    Ok(())
}
