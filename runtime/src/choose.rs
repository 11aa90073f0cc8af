//! Which platform a sandbox runs on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::regs::UserRegs;
use base::memmap::{Access, MemKind, Memory};
use platform::{Platform, Trap};
use platform_kvm::{Entry, KvmPlatform};
use platform_systrap::SystrapPlatform;

/// Names on the command line.
pub(crate) const NAMES: [&str; 3] = ["auto", "kvm", "systrap"];

/// Traps that a measurement takes the least of.
const TRAPS: u32 = 12;

/// Makes the platform `name`; for `auto` the one where a system call takes less time now.
///
/// # Errors
/// One line for people that says what to do.
pub(crate) fn make(name: &str, kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    match name {
        "kvm" => Ok(kvm(kvm_options)?),
        "systrap" => Ok(systrap()?),
        _ => auto(kvm_options),
    }
}

fn kvm(options: &platform_kvm::Options) -> Result<Arc<KvmPlatform>, String> {
    let platform = KvmPlatform::new(options).map_err(|e| e.to_string())?;
    log::info!("platform kvm: SYSCALL leaves by {:?}", platform.entry());
    Ok(platform)
}

fn systrap() -> Result<Arc<SystrapPlatform>, String> {
    SystrapPlatform::new(&platform_systrap::Options::default()).map_err(|e| e.to_string())
}

fn auto(kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    let kvm = match kvm(kvm_options) {
        Ok(kvm) if kvm.entry() == Entry::Stub => {
            log::info!("auto: kvm, since the processor's own virtualization runs the guest");
            return Ok(kvm);
        }
        Ok(kvm) => kvm,
        Err(no_kvm) => {
            log::info!("auto: systrap, since {no_kvm}");
            let both = |no_systrap| format!("no platform works here: {no_kvm}; {no_systrap}");
            return Ok(systrap().map_err(both)?);
        }
    };
    let systrap = match systrap() {
        Ok(systrap) => systrap,
        Err(e) => {
            log::info!("auto: kvm, since {e}");
            return Ok(kvm);
        }
    };
    match (trap_cost(kvm.as_ref()), trap_cost(systrap.as_ref())) {
        (Ok(by_kvm), Ok(by_systrap)) => {
            let name = if by_kvm <= by_systrap { "kvm" } else { "systrap" };
            log::info!("auto: {name}: a system call takes {by_kvm:?} on kvm, {by_systrap:?} on systrap");
            if by_kvm > by_systrap {
                return Ok(systrap);
            }
        }
        (Err(e), Ok(_)) => {
            log::info!("auto: systrap, since {e}");
            return Ok(systrap);
        }
        (_, Err(e)) => log::info!("auto: kvm, since {e}"),
    }
    systrap.shutdown();
    Ok(kvm)
}

/// The least time that a system call takes to the sentry and back.
fn trap_cost(platform: &dyn Platform) -> Result<Duration, platform::Error> {
    const CODE: u64 = 0x40_0000;
    let memory = platform.memory();
    let page = memory
        .allocate(base::PAGE_SIZE, base::PAGE_SIZE, MemKind::Anonymous)
        .map_err(|e| platform::Error::Exhausted(format!("{}: memory file: {e}", platform.name())))?;
    // 1: syscall; jmp 1b
    memory.write(page.offset, &[0x0f, 0x05, 0xeb, 0xfc]);
    let space = platform.new_address_space()?;
    space.map(CODE, page, Access::READ | Access::EXEC)?;
    let mut context = platform.new_context()?;
    let mut regs = UserRegs { rip: CODE, ..UserRegs::new_user64() };
    let mut least = Duration::MAX;
    for _ in 0..TRAPS {
        let started = Instant::now();
        let trap = context.switch(&space, &mut regs)?;
        if trap != Trap::Syscall {
            return Err(platform::Error::Broken(format!("{}: {trap:?} at {:#x}", platform.name(), regs.rip)));
        }
        least = least.min(started.elapsed());
    }
    drop((context, space));
    memory.dec_ref(page);
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_systrap_where_there_is_no_kvm() {
        let options = platform_kvm::Options { device: "/nonexistent".into(), ..Default::default() };
        assert_eq!(make("auto", &options).map(|p| p.name()), Ok("systrap"));
        assert!(make("kvm", &options).is_err());
    }
}
