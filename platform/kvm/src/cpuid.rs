//! What processor the guest sees: the host's features as KVM offers them, without what the platform does not support.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use platform::{Error, XsaveLayout};

/// XCR0: x87, SSE, AVX and the three parts of AVX-512.
const FEATURES: u64 = 0xe7;
/// The parts of AVX-512 come together or not at all.
const AVX512: u64 = 0xe0;
const AVX: u64 = 4;
/// Bytes of the legacy area and the XSAVE header.
const XSAVE_MIN: usize = 576;

/// CPUID.1:ECX.
const XSAVE_1C: u32 = 1 << 26;
const OSXSAVE_1C: u32 = 1 << 27;
/// Timers and the x2APIC need the interrupt controller that the machine does not have; MONITOR needs ring 0.
const NOT_1C: u32 = (1 << 3) | (1 << 5) | (1 << 21) | (1 << 24);
const AVX_1C: u32 = (1 << 12) | (1 << 28) | (1 << 29);
/// CPUID.7.0:EBX: MPX (its XCR0 bits are off).
const NOT_7B: u32 = 1 << 14;
const AVX2_7B: u32 = 1 << 5;
const AVX512_7B: u32 =
    (1 << 16) | (1 << 17) | (1 << 21) | (1 << 26) | (1 << 27) | (1 << 28) | (1 << 30) | (1 << 31);
/// CPUID.7.0:ECX: PKU, OSPKE, WAITPKG, CET shadow stacks, PKS.
const NOT_7C: u32 = (1 << 3) | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 31);
const AVX512_7C: u32 = (1 << 1) | (1 << 6) | (1 << 11) | (1 << 12) | (1 << 14);
const VAES_7C: u32 = (1 << 9) | (1 << 10);
/// CPUID.7.0:EDX: user interrupts, CET branch tracking, AMX.
const NOT_7D: u32 = (1 << 5) | (1 << 20) | (1 << 22) | (1 << 24) | (1 << 25);
const AVX512_7D: u32 = (1 << 2) | (1 << 3) | (1 << 8) | (1 << 23);

/// The processor model of the machine.
pub(crate) struct CpuModel {
    pub(crate) cpuid: CpuId,
    pub(crate) xsave: XsaveLayout,
    pub(crate) has_xsave: bool,
    /// Bits of a guest-physical address.
    pub(crate) physical_bits: u32,
}

impl CpuModel {
    /// Asks KVM what it supports.
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, Error> {
        let mut cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| Error::Broken(format!("kvm: KVM_GET_SUPPORTED_CPUID: {e}")))?;
        // Leaf 13 alone decides: the nested software KVM leaves XSAVE out of leaf 1, and there CPUID in the guest is not
        // intercepted at all.
        let offered = find(&cpuid, 0xd, 0).map_or(0, |e| u64::from(e.edx) << 32 | u64::from(e.eax));
        let has_xsave = offered & 3 == 3;
        let mut features = (offered & FEATURES) | 3;
        if features & AVX512 != AVX512 || features & AVX == 0 {
            features &= !AVX512;
        }
        let size = xsave_size(&cpuid, features);
        for entry in cpuid.as_mut_slice() {
            restrict(entry, features, size as u32);
        }
        let physical_bits = find(&cpuid, 0x8000_0008, 0).map_or(36, |e| e.eax & 0xff);
        Ok(Self { cpuid, xsave: XsaveLayout { size, features }, has_xsave, physical_bits })
    }

    /// The registers that a guest gets for a leaf; `None` where there is none.
    pub(crate) fn leaf(&self, function: u32, index: u32) -> Option<[u32; 4]> {
        const SIGNIFICANT_INDEX: u32 = 1;
        let is_it = |e: &&kvm_cpuid_entry2| {
            e.function == function && (e.flags & SIGNIFICANT_INDEX == 0 || e.index == index)
        };
        self.cpuid.as_slice().iter().find(is_it).map(|e| [e.eax, e.ebx, e.ecx, e.edx])
    }
}

fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).copied()
}

/// The size of the standard XSAVE area for `features` (Intel SDM vol. 1, 13.4.3).
fn xsave_size(cpuid: &CpuId, features: u64) -> usize {
    (2..63)
        .filter(|bit| features >> bit & 1 != 0)
        .filter_map(|bit| find(cpuid, 0xd, bit))
        .map(|e| e.eax as usize + e.ebx as usize)
        .fold(XSAVE_MIN, usize::max)
}

fn restrict(e: &mut kvm_cpuid_entry2, features: u64, size: u32) {
    let (avx, avx512) = (features & AVX != 0, features & AVX512 != 0);
    match (e.function, e.index) {
        (1, _) => {
            e.ecx &= !NOT_1C;
            if e.ecx & XSAVE_1C != 0 {
                // KVM keeps it equal to CR4.OSXSAVE, older versions only once CR4 is written.
                e.ecx |= OSXSAVE_1C;
            }
            if !avx {
                e.ecx &= !AVX_1C;
            }
        }
        (7, 0) => {
            e.ebx &= !NOT_7B;
            e.ecx &= !NOT_7C;
            e.edx &= !NOT_7D;
            if !avx {
                e.ebx &= !AVX2_7B;
                e.ecx &= !VAES_7C;
            }
            if !avx512 {
                e.ebx &= !AVX512_7B;
                e.ecx &= !AVX512_7C;
                e.edx &= !AVX512_7D;
            }
        }
        (7, 1) => {
            // AVX-VNNI, AVX-512-BF16, AMX-FP16, AVX-IFMA; the rest of the leaf is left out unknown.
            let mut keep = 0;
            if avx {
                keep |= (1 << 4) | (1 << 23);
            }
            if avx512 {
                keep |= 1 << 5;
            }
            // FZLRM, FSRS, FSRC: hints for string instructions.
            e.eax &= keep | (7 << 10);
            e.ebx = 0;
            e.ecx = 0;
            e.edx = 0;
        }
        (7, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        (0xd, 0) => {
            e.eax = features as u32;
            e.edx = (features >> 32) as u32;
            e.ebx = size;
            e.ecx = size;
        }
        // No supervisor state: XSAVES and its MSR need ring 0.
        (0xd, 1) => {
            e.eax &= 0b0111;
            e.ecx = 0;
            e.edx = 0;
        }
        (0xd, index) if index >= 63 || features >> index & 1 == 0 => {
            (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0);
        }
        // AMX, Processor Trace, SGX, and the hypervisor leaves: a guest finds no paravirtual devices here.
        (0x12 | 0x14 | 0x1d | 0x1e | 0x19 | 0x24, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        (0x4000_0000..=0x4fff_ffff, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_agree_with_the_enabled_features() {
        let mut e = kvm_cpuid_entry2 { function: 7, ebx: !0, ecx: !0, edx: !0, ..Default::default() };
        restrict(&mut e, 7, 832);
        assert_eq!(e.ebx & AVX512_7B, 0);
        assert_ne!(e.ebx & AVX2_7B, 0);
        assert_eq!(e.edx & ((1 << 22) | (1 << 24) | (1 << 25)), 0, "AMX");
        assert_eq!(e.ecx & (1 << 3), 0, "PKU");
        let mut e = kvm_cpuid_entry2 { function: 0xd, index: 9, eax: 8, ..Default::default() };
        restrict(&mut e, FEATURES, 2688);
        assert_eq!(e.eax, 0);
    }
}
