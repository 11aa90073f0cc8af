//! Prints what the ways in and out of the guest cost now. Compare within one run of the machine: costs drift with its
//! load. `trap_cost [N]` times N system calls as well (default 20000), as `probes/kvm_exits e N` does.

use std::process::ExitCode;
use std::time::Instant;

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, Memory};
use platform::{Error, Platform};
use ringfence_platform_kvm::check::check;
use ringfence_platform_kvm::{KvmPlatform, Options};

fn main() -> ExitCode {
    let calls = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20_000u32);
    match run(calls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("trap_cost: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(calls: u32) -> Result<(), Error> {
    let started = Instant::now();
    let report = check(&Options::default())?;
    let took = started.elapsed();
    println!("{report:#?}\ncheck took {took:?}");
    let platform = KvmPlatform::new(&Options::default())?;
    let page = platform
        .memory()
        .allocate(4096, 4096, MemKind::Anonymous)
        .map_err(|e| Error::Exhausted(format!("memory: {e}")))?;
    platform.memory().write(page.offset, &[0x0f, 0x05, 0xeb, 0xfc]);
    let space = platform.new_address_space()?;
    space.map(0x40_0000, page, Access::READ | Access::EXEC)?;
    let mut context = platform.new_context()?;
    let mut regs = UserRegs { rip: 0x40_0000, ..UserRegs::new_user64() };
    let started = Instant::now();
    for _ in 0..calls {
        context.switch(&space, &mut regs)?;
    }
    println!("{calls} system calls: {:.1} ns each", started.elapsed().as_nanos() as f64 / f64::from(calls));
    Ok(())
}
