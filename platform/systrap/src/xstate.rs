//! The floating-point state as signal frames have it: an XSAVE area in standard format, with the kernel's own words in the
//! part that software may use (Linux arch/x86/include/uapi/asm/sigcontext.h, `struct _fpx_sw_bytes`).

use host::mapping::Mapping;
use platform::{Error, FpState, XsaveLayout};

/// `FP_XSTATE_MAGIC1`.
const MAGIC: u64 = 0x4650_5853;
/// Where the words begin, and end.
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
const HEADER_END: usize = 576;
/// Control word: all exceptions masked, 64-bit precision.
const FCW: u16 = 0x37f;
/// All exceptions masked.
const MXCSR: u32 = 0x1f80;
/// MXCSR bits where the area gives no mask (Intel SDM vol. 1, 11.6.6).
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;
const MXCSR_AT: usize = 24;

/// What the host's frames have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Xstate {
    pub(crate) layout: XsaveLayout,
}

impl Xstate {
    /// Looks at the first frame's state at `at`, made before any user code ran.
    pub(crate) fn of_frame(m: &Mapping, at: u64) -> Result<Self, Error> {
        let word = |i: usize| m.load_u64(at + i as u64);
        let magic = word(SOFTWARE) & 0xffff_ffff;
        let features = word(SOFTWARE + 8);
        let size = usize::try_from(word(SOFTWARE + 16) & 0xffff_ffff).unwrap_or(0);
        if magic != MAGIC || !(HEADER_END..=2 * 4096).contains(&size) || features & 3 != 3 {
            return Err(Error::Broken(format!(
                "systrap: signal frames without XSAVE state (magic {magic:#x}, {size} bytes, features {features:#x})"
            )));
        }
        Ok(Self { layout: XsaveLayout { size, features } })
    }

    /// Copies the state at `at` out, fit for the sentry's eyes.
    pub(crate) fn read(&self, m: &Mapping, at: u64) -> FpState {
        let mut bytes = vec![0; self.layout.size];
        m.read(at, &mut bytes);
        self.sanitise(&mut bytes);
        FpState(bytes)
    }

    /// A state that XRSTOR takes.
    pub(crate) fn sanitised(&self, state: &FpState) -> FpState {
        let mut bytes = initial(self.layout).0;
        let len = state.0.len().min(bytes.len());
        bytes[..len].copy_from_slice(&state.0[..len]);
        self.sanitise(&mut bytes);
        FpState(bytes)
    }

    /// Copies a state to `at`; the kernel's own words there stay.
    pub(crate) fn write(&self, m: &Mapping, at: u64, state: &FpState) {
        let bytes = self.sanitised(state).0;
        m.write(at, &bytes[..SOFTWARE]);
        m.write(at + HEADER as u64, &bytes[HEADER..]);
    }

    /// Makes XRSTOR take the bytes, whatever they are.
    fn sanitise(&self, bytes: &mut [u8]) {
        let u32_at = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mask = match u32_at(bytes, MXCSR_AT + 4) & 0xffff {
            0 => MXCSR_DEFAULT_MASK,
            mask => mask | MXCSR_DEFAULT_MASK,
        };
        let mxcsr = u32_at(bytes, MXCSR_AT) & mask;
        bytes[MXCSR_AT..MXCSR_AT + 4].copy_from_slice(&mxcsr.to_le_bytes());
        bytes[SOFTWARE..HEADER].fill(0);
        for (byte, feature) in bytes[HEADER..HEADER + 8].iter_mut().zip(self.layout.features.to_le_bytes()) {
            *byte &= feature;
        }
        // Compacted format and the reserved words: XRSTOR faults on them.
        bytes[HEADER + 8..HEADER_END].fill(0);
    }
}

/// The state in which a program starts.
pub(crate) fn initial(layout: XsaveLayout) -> FpState {
    let mut bytes = vec![0; layout.size];
    bytes[..2].copy_from_slice(&FCW.to_le_bytes());
    bytes[MXCSR_AT..MXCSR_AT + 4].copy_from_slice(&MXCSR.to_le_bytes());
    FpState(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_contents_are_sanitised_and_the_kernels_words_stay() {
        let layout = XsaveLayout { size: 832, features: 7 };
        let x = Xstate { layout };
        let m = Mapping::anonymous(4096).unwrap();
        m.write(SOFTWARE as u64, &[9; 48]);
        x.write(&m, 0, &initial(layout));
        let mut software = [0; 48];
        m.read(SOFTWARE as u64, &mut software);
        assert_eq!(software, [9; 48]);
        assert_eq!(x.read(&m, 0), initial(layout));
        x.write(&m, 0, &FpState(vec![0xff; 2000]));
        let state = x.read(&m, 0);
        assert_eq!(state.0.len(), 832);
        assert_eq!(state.0[24..28], [0xff, 0xff, 0, 0]);
        assert_eq!(state.0[512..520], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(state.0[520..576], [0; 56]);
        assert_eq!(state.0[576..832], [0xff; 256]);
    }
}
