//! Which platform a sandbox runs on.

use std::sync::Arc;

use platform::Platform;
use platform_kvm::KvmPlatform;
use platform_systrap::SystrapPlatform;

/// Names on the command line.
pub(crate) const NAMES: [&str; 3] = ["auto", "kvm", "systrap"];

/// Makes the platform `name`; for `auto` the best one that works.
///
/// # Errors
/// One line for people that says what to do.
pub(crate) fn make(name: &str, kvm_options: &platform_kvm::Options) -> Result<Arc<dyn Platform>, String> {
    let kvm = || -> Result<Arc<dyn Platform>, String> {
        let platform = KvmPlatform::new(kvm_options).map_err(|e| e.to_string())?;
        log::info!("platform kvm: SYSCALL leaves by {:?}", platform.entry());
        Ok(platform)
    };
    let systrap = || -> Result<Arc<dyn Platform>, String> {
        Ok(SystrapPlatform::new(&platform_systrap::Options::default()).map_err(|e| e.to_string())?)
    };
    match name {
        "kvm" => kvm(),
        "systrap" => systrap(),
        _ => kvm().or_else(|no_kvm| {
            log::info!("platform systrap, since {no_kvm}");
            systrap().map_err(|no_systrap| format!("no platform works here: {no_kvm}; {no_systrap}"))
        }),
    }
}
