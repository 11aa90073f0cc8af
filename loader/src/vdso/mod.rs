//! The vDSO: a shared object in every process that answers clock questions without a system call.
//!
//! One page of data, [`VvarPage`], lies directly below the [`IMAGE`]; the sentry keeps it current, one page for the whole
//! sandbox. The build script in `loader/vdso` makes the image: machine code and the ELF file around it.
//!
//! Names, versions and behaviour are those of Linux's `linux-vdso.so.1` (vdso(7)). There is no signal return in it: on
//! x86-64 the C library brings its own.

mod vvar;

pub use vvar::{CLOCKS_COVERED, COARSE_RESOLUTION_NS, ClockParams, CpuMode, TscMode, VvarPage};

/// Bytes of the data pages below the image.
pub const VVAR_SIZE: u64 = 4 * crate::PAGE_SIZE;

/// The image: a whole number of pages, to be mapped readable and executable [`VVAR_SIZE`] bytes above the data page.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

#[cfg(test)]
mod tests;
