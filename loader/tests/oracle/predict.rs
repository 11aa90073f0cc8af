//! Foretells an execve(2) with the loader, in the way in which the sentry uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use abi::Errno;
use abi::errno::{EACCES, ELOOP, ENOENT};
use ringfence_loader::elf::{self, Access, Image, Kind, Placement, Source};
use ringfence_loader::layout::{Layout, PIE_BASE};
use ringfence_loader::{PAGE_SIZE, TASK_SIZE, script};

use crate::{Outcome, craft};

/// Opens a file for execution (Linux's `open_exec`).
fn open(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let path = String::from_utf8_lossy(path).into_owned();
    // An empty path is the working directory here.
    let path = if path.is_empty() { Path::new(".") } else { Path::new(&path) };
    let meta =
        fs::metadata(path).map_err(|e| e.raw_os_error().and_then(Errno::from_raw).unwrap_or(ENOENT))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(EACCES);
    }
    fs::read(path).map_err(|_| ENOENT)
}

/// What happens when `path` is executed with `args`.
pub(crate) fn predict(path: &Path, args: &[&str]) -> Outcome {
    match load(path, args) {
        Ok(outcome) => outcome,
        Err(errno) => Outcome::Errno(errno.raw()),
    }
}

fn load(path: &Path, args: &[&str]) -> Result<Outcome, Errno> {
    let mut path = path.as_os_str().as_encoded_bytes().to_vec();
    let mut args: Vec<Vec<u8>> = args.iter().map(|a| a.as_bytes().to_vec()).collect();
    let mut depth = 0;
    let bytes = loop {
        let bytes = open(&path)?;
        let head = script::read_head(&bytes)?;
        if !script::is_script(&head) {
            break bytes;
        }
        let line = script::parse(&head)?;
        args = line.arguments(&path, &args);
        path = line.interpreter;
        depth += 1;
        if depth > script::MAX_DEPTH {
            // The file is opened before Linux notices.
            open(&path)?;
            return Err(ELOOP);
        }
    };
    let image = elf::parse(&bytes)?;
    let interp = match &image.interp {
        Some(path) => {
            let bytes = open(path)?;
            Some((elf::parse_interpreter(&bytes)?, bytes))
        }
        None => None,
    };
    // From here on errors kill.
    let program = place(&image).filter(|p| can_be_mapped(p, &bytes));
    let (entered, bytes) = match (program, &interp) {
        (None, _) => return Ok(Outcome::Killed),
        (Some(program), None) => (program, &bytes),
        (Some(_), Some((interp, bytes))) => match place(interp).filter(|p| can_be_mapped(p, bytes)) {
            Some(placed) => (placed, bytes),
            None => return Ok(Outcome::Killed),
        },
    };
    if runs(&entered, bytes) {
        Ok(Outcome::Ran(args.iter().flat_map(|a| a.iter().copied().chain([0])).collect()))
    } else {
        Ok(Outcome::Killed)
    }
}

fn place(image: &Image) -> Option<Placement> {
    let layout = Layout::new(None, 8 << 20);
    let bias = match image.kind {
        Kind::Exec | Kind::Other => 0,
        Kind::Dyn if image.interp.is_some() => image.bias_for_base(PIE_BASE),
        Kind::Dyn => {
            let start = layout.mmap_base.checked_sub(image.span()).filter(|&start| start >= 1 << 16)?;
            image.bias_at(start & !(image.alignment().max(PAGE_SIZE) - 1))
        }
    };
    image.place(bias).ok()
}

/// Bytes that the host has: it refuses a larger private writable mapping.
fn memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name| {
        let line = info.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (kib("MemTotal:").unwrap_or(0) + kib("SwapTotal:").unwrap_or(0)) * 1024
}

/// Whether the host has the memory, and the file the bytes to clear.
fn can_be_mapped(placed: &Placement, file: &[u8]) -> bool {
    // The host's stack is somewhere in the last 16 GiB.
    if placed.reserved.start < TASK_SIZE - (17 << 30) && placed.reserved.end > TASK_SIZE - (16 << 20) {
        return false;
    }
    if placed.ops.iter().any(|op| op.access.contains(Access::WRITE) && op.len > memory()) {
        return false;
    }
    placed.ops.iter().all(|op| match (op.source, &op.clear) {
        (Source::File { offset }, Some(clear)) => {
            offset + (clear.start - op.addr) / PAGE_SIZE * PAGE_SIZE < file.len() as u64
        }
        _ => true,
    })
}

/// Whether the entry point has the code that crafted programs consist of.
fn runs(placed: &Placement, file: &[u8]) -> bool {
    let code = craft::code();
    let byte_at = |addr: u64| {
        let op = placed.ops.iter().rev().find(|op| (op.addr..op.addr + op.len).contains(&addr))?;
        let Source::File { offset } = op.source else { return None };
        if op.clear.as_ref().is_some_and(|c| c.contains(&addr)) || !op.access.contains(Access::EXEC) {
            return None;
        }
        file.get((offset + (addr - op.addr)) as usize).copied()
    };
    (0..code.len()).all(|i| byte_at(placed.entry.wrapping_add(i as u64)) == Some(code[i]))
}
