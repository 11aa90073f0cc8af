//! The platform under test; the rest is what all platforms share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part, and an error fails it"
)]

use std::sync::Arc;

use ringfence_platform_systrap::{Options, SystrapPlatform};

#[path = "../../../contract/guest.rs"]
mod shared;

pub use shared::*;

/// The platform under test.
pub type Tested = SystrapPlatform;

/// Address spaces that are made and ended one after the other.
pub const MANY_SPACES: u64 = 300;

/// The platform: it works everywhere.
pub fn platform() -> Option<Arc<Tested>> {
    Some(SystrapPlatform::new(&Options::default()).unwrap())
}

/// Address spaces leave nothing here that could be counted.
pub fn assert_bounded(_platform: &Tested) {}
