//! What a system call costs on a platform, measured in a moment: `--platform auto` goes by it.

use std::time::{Duration, Instant};

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, Memory};
use platform::{Error, Platform, Trap};

/// System calls at most.
const CALLS: u32 = 16;
/// Calls that are not counted: the first ones fill caches, and wake what sleeps.
const WARM: u32 = 2;
/// Time after which no further call is made.
const LIMIT: Duration = Duration::from_micros(800);

/// Where the measured code lies: an address that every guest can map.
const CODE: u64 = 0x40_0000;
/// `syscall`; `jmp` back to it.
const LOOP: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];

/// The shortest way of a system call out of user code and back: what disturbs makes it longer only.
///
/// # Errors
/// What the platform gives; `Broken` when user code does something else than to call.
pub(crate) fn trap(platform: &dyn Platform) -> Result<Duration, Error> {
    let memory = platform.memory();
    let page = memory
        .allocate(base::PAGE_SIZE, base::PAGE_SIZE, MemKind::Anonymous)
        .map_err(|e| Error::Exhausted(format!("{}: a page: {e}", platform.name())))?;
    memory.write(page.offset, &LOOP);
    let least = least(platform, page);
    memory.dec_ref(page);
    least
}

fn least(platform: &dyn Platform, page: base::memmap::MemRange) -> Result<Duration, Error> {
    let space = platform.new_address_space()?;
    space.map(CODE, page, Access::READ | Access::EXEC)?;
    let mut context = platform.new_context()?;
    let mut regs = UserRegs { rip: CODE, rsp: CODE, ..UserRegs::new_user64() };
    let began = Instant::now();
    let mut least = Duration::MAX;
    let mut calls = 0;
    while calls < CALLS && (calls <= WARM || began.elapsed() < LIMIT) {
        let before = Instant::now();
        match context.switch(&space, &mut regs)? {
            Trap::Syscall => {}
            Trap::Interrupted => continue,
            trap => {
                return Err(Error::Broken(format!(
                    "{}: {trap:?} instead of a system call at {:#x}",
                    platform.name(),
                    regs.rip
                )));
            }
        }
        if calls >= WARM {
            least = least.min(before.elapsed());
        }
        calls += 1;
    }
    Ok(least)
}
