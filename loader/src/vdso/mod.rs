//! The vDSO: a shared object in every process that answers clock questions without a system call.
//!
//! One page of data, [`VvarPage`], lies directly below the [`image`]; the sentry keeps it current, one page for the whole
//! sandbox. `code.rs` holds the machine code, `image.rs` the ELF file around it, `vvar.rs` the data and its meaning.
//!
//! Names, versions and behaviour are those of Linux's `linux-vdso.so.1` (vdso(7)). There is no signal return in it: on
//! x86-64 the C library brings its own.

mod code;
mod image;
mod vvar;

use std::sync::OnceLock;

pub use vvar::{CLOCKS_COVERED, COARSE_RESOLUTION_NS, ClockParams, CpuMode, TscMode, VvarPage};

/// Bytes of the data pages below the image.
pub const VVAR_SIZE: u64 = crate::PAGE_SIZE;

/// Symbol version of all functions.
const VERSION: &str = "LINUX_2.6";
/// Name of the shared object.
const SONAME: &str = "linux-vdso.so.1";
/// `LINUX_VERSION_CODE` in the note that dynamic linkers read.
const LINUX_VERSION_CODE: u32 = 6 << 16 | 12 << 8;

/// The image: a whole number of pages, to be mapped readable and executable [`VVAR_SIZE`] bytes above the data page.
///
/// # Panics
///
/// Never once the test of it has passed: it is made from constants.
pub fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| image::build().expect("the vDSO is assembled from constants"))
}

#[cfg(test)]
mod tests;
