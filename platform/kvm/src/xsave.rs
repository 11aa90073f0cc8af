//! The floating-point state as KVM passes it: an XSAVE area in standard format (Intel SDM vol. 1, 13.4).

use kvm_bindings::kvm_xsave;
use platform::{FpState, XsaveLayout};

/// Control word: all exceptions masked, 64-bit precision.
const FCW: u32 = 0x37f;
/// All exceptions masked.
const MXCSR: u32 = 0x1f80;
/// Word index of MXCSR.
const MXCSR_AT: usize = 6;
/// MXCSR bits that processors may have; the rest would make XRSTOR fault.
const MXCSR_MASK: u32 = 0xffff;
/// MXCSR bits where the area gives no mask (Intel SDM vol. 1, 11.6.6).
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;
/// Word index of the header's state bitmap.
const HEADER_AT: usize = 128;
/// Words of the header.
const HEADER_WORDS: usize = 16;

/// The state in which a program starts.
pub(crate) fn initial() -> kvm_xsave {
    let mut state = kvm_xsave::default();
    state.region[0] = FCW;
    state.region[MXCSR_AT] = MXCSR;
    state
}

/// The bytes that the sentry sees.
pub(crate) fn to_bytes(state: &kvm_xsave, layout: XsaveLayout) -> FpState {
    let mut bytes: Vec<u8> = state.region.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(layout.size, 0);
    FpState(bytes)
}

/// What KVM may load, whatever the bytes say.
pub(crate) fn from_bytes(state: &FpState, layout: XsaveLayout) -> kvm_xsave {
    let mut area = initial();
    let size = layout.size.min(size_of_val(&area.region));
    for (word, bytes) in area.region.iter_mut().zip(state.0[..state.0.len().min(size)].chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let mask = match area.region[MXCSR_AT + 1] & MXCSR_MASK {
        0 => MXCSR_DEFAULT_MASK,
        mask => mask | MXCSR_DEFAULT_MASK,
    };
    area.region[MXCSR_AT] &= mask;
    area.region[HEADER_AT] &= layout.features as u32;
    area.region[HEADER_AT + 1] &= (layout.features >> 32) as u32;
    // Compacted format and the reserved words: XRSTOR faults on them.
    area.region[HEADER_AT + 2..HEADER_AT + HEADER_WORDS].fill(0);
    area
}

/// The state with what XRSTOR would refuse taken out.
pub(crate) fn sanitised(state: &FpState, layout: XsaveLayout) -> FpState {
    to_bytes(&from_bytes(state, layout), layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: XsaveLayout = XsaveLayout { size: 832, features: 7 };

    #[test]
    fn bad_contents_are_sanitised_and_good_ones_stay() {
        let mut state = to_bytes(&initial(), LAYOUT);
        assert_eq!(state.0.len(), 832);
        assert_eq!(to_bytes(&from_bytes(&state, LAYOUT), LAYOUT), state);
        state.0[24..28].copy_from_slice(&[0xff; 4]);
        state.0[512..576].fill(0xff);
        state.0[700] = 7;
        let area = from_bytes(&state, LAYOUT);
        assert_eq!(area.region[MXCSR_AT], MXCSR_DEFAULT_MASK);
        assert_eq!(area.region[HEADER_AT], 7);
        assert_eq!(area.region[HEADER_AT + 1..HEADER_AT + 16], [0; 15]);
        assert_eq!(area.region[175], 7);
        assert_eq!(from_bytes(&FpState(Vec::new()), LAYOUT).region[0], FCW);
    }
}
