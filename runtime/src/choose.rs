//! Which platform a sandbox runs on.

use std::sync::Arc;

use platform::Platform;
use platform_kvm::KvmPlatform;
use platform_systrap::SystrapPlatform;

/// Names on the command line.
pub(crate) const NAMES: [&str; 3] = ["auto", "kvm", "systrap"];

/// Makes the platform `name`; for `auto` KVM where it works, else systrap.
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

/// KVM where it works.
fn auto(kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    match kvm(kvm_options) {
        Ok(kvm) => Ok(kvm),
        Err(no_kvm) => {
            log::info!("auto: systrap, since {no_kvm}");
            let both = |no_systrap| format!("no platform works here: {no_kvm}; {no_systrap}");
            Ok(systrap(kvm_options.patch).map_err(both)?)
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
}
