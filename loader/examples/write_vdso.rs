//! Writes the vDSO image to a file, to be looked at with readelf and objdump.

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "linux-vdso.so.1".into());
    std::fs::write(path, ringfence_loader::vdso::IMAGE)
}
