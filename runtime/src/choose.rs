//! Which platform a sandbox runs on.

use std::sync::Arc;
use std::time::Duration;

use platform::Platform;
use platform_kvm::KvmPlatform;
use platform_systrap::SystrapPlatform;

use crate::measure;

/// Names on the command line.
pub(crate) const NAMES: [&str; 3] = ["auto", "kvm", "systrap"];

/// A KVM whose system calls take no longer is taken without a look at systrap: there page faults and new processes, which
/// systrap leaves to the host's kernel and pays for with signals, are KVM's strength.
pub(crate) const CHEAP: Duration = Duration::from_micros(10);

/// Makes the platform `name`; for `auto` the one that is found to be faster.
///
/// # Errors
/// One line for people that says what to do.
pub(crate) fn make(name: &str, kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    match name {
        "kvm" => Ok(kvm(kvm_options)?),
        "systrap" => Ok(systrap(kvm_options.patch)?),
        _ => auto(kvm_options),
    }
}

fn kvm(options: &platform_kvm::Options) -> Result<Arc<KvmPlatform>, String> {
    let platform = KvmPlatform::new(options).map_err(|e| e.to_string())?;
    log::info!("platform kvm: SYSCALL leaves by {:?}", platform.entry());
    Ok(platform)
}

fn systrap(patch: bool) -> Result<Arc<SystrapPlatform>, String> {
    let options = platform_systrap::Options { patch, ..Default::default() };
    SystrapPlatform::new(&options).map_err(|e| e.to_string())
}

/// Whether `auto` takes KVM when a system call takes this long on it. Where it is not cheap, KVM is software and slower than
/// systrap, whose hand-overs are not measured for this: a busy host makes them look a hundred times longer than they are.
pub(crate) fn prefers_kvm(kvm: Duration) -> bool {
    kvm <= CHEAP
}

/// KVM where it works and its traps are cheap; else systrap; else KVM.
fn auto(kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    let timed =
        |kvm: Arc<KvmPlatform>| measure::trap(&*kvm).map(|time| (kvm, time)).map_err(|e| e.to_string());
    let (kvm, on_kvm) = match kvm(kvm_options).and_then(timed) {
        Ok(found) => found,
        Err(no_kvm) => {
            log::info!("auto: systrap, since {no_kvm}");
            let both = |no_systrap| format!("no platform works here: {no_kvm}; {no_systrap}");
            return Ok(systrap(kvm_options.patch).map_err(both)?);
        }
    };
    if prefers_kvm(on_kvm) {
        log::info!("auto: kvm, where a system call takes {on_kvm:?}");
        return Ok(kvm);
    }
    match systrap(kvm_options.patch) {
        Ok(systrap) => {
            log::info!("auto: systrap, since a system call on kvm takes {on_kvm:?}: more than {CHEAP:?}");
            // To close a machine takes the host's kernel a millisecond.
            let _ = std::thread::Builder::new().name("no-kvm".into()).spawn(move || drop(kvm));
            Ok(systrap)
        }
        Err(no_systrap) => {
            log::info!("auto: kvm, since {no_systrap}");
            Ok(kvm)
        }
    }
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

    #[test]
    fn cheap_traps_are_enough_for_kvm() {
        assert!(prefers_kvm(Duration::from_micros(2)));
        assert!(!prefers_kvm(Duration::from_micros(30)));
    }
}
