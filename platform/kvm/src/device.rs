//! Opening `/dev/kvm`: what must be there, and what to tell people when it is not.

use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use platform::Error;

/// The only API version there ever was since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// `KVM_CAP_SYNC_REGS` answers with the sets that can be synchronised: registers, system registers, events.
const SYNC_ALL: i32 = 7;

/// Opens the device and checks that it can do what the platform needs.
///
/// # Errors
/// One line for people: what is wrong and what to do.
pub(crate) fn open(path: &Path) -> Result<Kvm, Error> {
    let shown = path.display();
    let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Broken(format!("kvm: {shown:?}: the name has a NUL byte")))?;
    let kvm = Kvm::new_with_path(&c_path).map_err(|e| {
        Error::Broken(match e.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => format!(
                "kvm: {shown}: not present: load kvm_intel or kvm_amd, turn on virtualization in the firmware, or give \
                 this container the device"
            ),
            libc::EACCES | libc::EPERM => format!(
                "kvm: {shown}: permission denied: add the user to the group that owns it (usually kvm), or run as root"
            ),
            libc::EMFILE | libc::ENFILE => {
                format!("kvm: {shown}: {e}: raise the limit of open files (ulimit -n)")
            }
            _ => format!("kvm: {shown}: {e}"),
        })
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Error::Broken(format!(
            "kvm: {shown}: API version {version} instead of {API_VERSION}: is this the KVM device?"
        )));
    }
    let sync = kvm.check_extension_int(Cap::SyncRegs);
    if sync & SYNC_ALL != SYNC_ALL {
        return Err(lacks(&shown, "KVM_CAP_SYNC_REGS", "4.17"));
    }
    for (cap, name, since) in [
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "4.13"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "2.6.25"),
        (Cap::SyncMmu, "KVM_CAP_SYNC_MMU", "2.6.27"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR", "2.6.25"),
        (Cap::Xcrs, "KVM_CAP_XCRS", "2.6.36"),
        (Cap::Xsave, "KVM_CAP_XSAVE", "2.6.36"),
        (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS", "2.6.33"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(lacks(&shown, name, since));
        }
    }
    Ok(kvm)
}

fn lacks(shown: &impl std::fmt::Display, name: &str, since: &str) -> Error {
    Error::Broken(format!("kvm: {shown}: lacks {name}: use Linux {since} or later, or another platform"))
}
