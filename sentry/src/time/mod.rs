//! Time: the clocks that guests read, with and without a system call.
//!
//! Reading order: `clock.rs` (how the guest's clocks follow the host's), `vvar.rs` (how readers get at them).

pub mod clock;
pub mod vvar;

pub use clock::{Calibration, Clock, Timekeeper};
