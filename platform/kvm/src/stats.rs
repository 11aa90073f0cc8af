//! What KVM itself counts for a vCPU: binary statistics, as `KVM_GET_STATS_FD` describes them (Linux
//! `Documentation/virt/kvm/api.rst`, 4.133).
#![expect(unsafe_code, reason = "KVM_GET_STATS_FD makes a descriptor that kvm-ioctls does not know")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of a descriptor before its name: flags, exponent, size, offset, bucket size.
const DESCRIPTOR: usize = 16;
/// Longest names and most statistics that are believed.
const NAME_MAX: usize = 256;
const COUNT_MAX: usize = 4096;

/// The page faults that KVM settled without the sentry. `None` where it does not say.
pub(crate) fn settled_faults(vcpu: &VcpuFd) -> Option<u64> {
    // SAFETY: the descriptor is a vCPU's, and the call has no argument.
    let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the call made this descriptor, so it is ours alone.
    let file = unsafe { File::from_raw_fd(fd) };
    value(&file, b"pf_fixed")
}

/// The first value of the statistic `name`.
fn value(file: &File, name: &[u8]) -> Option<u64> {
    let u32_at = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0).ok()?;
    let [name_size, count] = [u32_at(&header, 4)? as usize, u32_at(&header, 8)? as usize];
    let [descriptors, data] = [u32_at(&header, 16)?, u32_at(&header, 20)?].map(u64::from);
    if name_size > NAME_MAX || count > COUNT_MAX {
        return None;
    }
    let mut bytes = vec![0; count * (DESCRIPTOR + name_size)];
    file.read_exact_at(&mut bytes, descriptors).ok()?;
    let found = bytes.chunks_exact(DESCRIPTOR + name_size).find(|d| {
        d[DESCRIPTOR..].strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|&b| b == 0))
    })?;
    let mut value = [0; 8];
    file.read_exact_at(&mut value, data + u64::from(u32_at(found, 8)?)).ok()?;
    Some(u64::from_ne_bytes(value))
}
