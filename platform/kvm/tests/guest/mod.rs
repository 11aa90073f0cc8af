//! The platform under test; the rest is what all platforms share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part, and an error fails it"
)]

use std::sync::Arc;

use ringfence_platform_kvm::{KvmPlatform, Options};

#[path = "../../../contract/guest.rs"]
mod shared;

pub use shared::*;

/// The platform under test.
pub type Tested = KvmPlatform;

/// Address spaces that are made and ended one after the other.
pub const MANY_SPACES: u64 = 3000;

/// The platform, or `None` after saying so where there is no KVM.
pub fn platform() -> Option<Arc<Tested>> {
    if !std::path::Path::new("/dev/kvm").exists() {
        eprintln!("skipped: no /dev/kvm");
        return None;
    }
    Some(KvmPlatform::new(&Options::default()).unwrap())
}

/// What the platform keeps for address spaces is bounded.
pub fn assert_bounded(p: &Tested) {
    assert!(p.table_bytes() < 64 << 20, "{} bytes of page tables", p.table_bytes());
}
