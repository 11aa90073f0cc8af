//! The build script of the loader: makes the vDSO image, so that no program start has to.
//!
//! `code.rs` holds the machine code, `image.rs` the ELF file around it. They share `vvar.rs`, the layout of the data page,
//! with the crate.

mod code;
mod image;
#[path = "../src/vdso/vvar.rs"]
#[expect(dead_code, unreachable_pub, reason = "the crate uses and exports all of it")]
mod vvar;

use std::path::Path;

const PAGE_SIZE: u64 = 4096;
/// Bytes of the data pages below the image.
const VVAR_SIZE: u64 = 4 * PAGE_SIZE;
/// Symbol version of all functions.
const VERSION: &str = "LINUX_2.6";
/// Name of the shared object.
const SONAME: &str = "linux-vdso.so.1";
/// `LINUX_VERSION_CODE` in the note that dynamic linkers read.
const LINUX_VERSION_CODE: u32 = 6 << 16 | 12 << 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=vdso");
    println!("cargo::rerun-if-changed=src/vdso/vvar.rs");
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR: not set")?;
    std::fs::write(Path::new(&out).join("vdso.so"), image::build()?)?;
    Ok(())
}
