//! ELF executables and interpreters, judged as Linux judges them.
//!
//! Linux looks at less than a linker does: class, data encoding and version bytes are ignored, section headers are never
//! read. So the headers are read here by hand, in the order of Linux 6.18 fs/binfmt_elf.c, `load_elf_binary`; a stricter
//! parser would refuse what Linux runs.

mod place;

pub use place::{MapOp, Placement, Source};

use abi::Errno;
use abi::elf::{
    ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, Ehdr, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, Phdr,
};
use abi::errno::{EINVAL, EIO, ELIBBAD, ENOEXEC};
use bitflags::bitflags;
use zerocopy::{FromBytes, IntoBytes};

use crate::{PATH_MAX, page_down, page_offset, page_up_wrapping};

bitflags! {
    /// What a mapping allows. The values are `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXEC = 4;
    }
}

impl Access {
    /// From the `p_flags` of a program header.
    const fn from_segment_flags(p_flags: u32) -> Self {
        let mut bits = 0;
        if p_flags & PF_R != 0 {
            bits |= Self::READ.bits();
        }
        if p_flags & PF_W != 0 {
            bits |= Self::WRITE.bits();
        }
        if p_flags & PF_X != 0 {
            bits |= Self::EXEC.bits();
        }
        Self::from_bits_retain(bits)
    }
}

/// A file to be executed, as the loader reads it.
pub trait ReadAt {
    /// Reads up to `buf.len()` bytes at `offset`; 0 means that the file ends there.
    ///
    /// # Errors
    /// Whatever the file system gives; it becomes the result of execve(2) or `ENOEXEC`, as in Linux.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Bytes in the file. A hint: it bounds nothing.
    fn len(&self) -> u64;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let start = usize::try_from(offset).map_or(<[u8]>::len(self), |o| o.min(<[u8]>::len(self)));
        let n = buf.len().min(<[u8]>::len(self) - start);
        buf[..n].copy_from_slice(&self[start..start + n]);
        Ok(n)
    }

    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.as_slice().read_at(offset, buf)
    }

    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
}

/// How a file chooses its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: at the addresses in the file.
    Exec,
    /// `ET_DYN`: anywhere, shifted by a bias.
    Dyn,
    /// Any other type: an interpreter only; it cannot be placed, which Linux notices late.
    Other,
}

/// What a file is executed as: Linux checks an interpreter a little differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program that execve(2) was asked for.
    Program,
    /// What the program's `PT_INTERP` names.
    Interpreter,
}

/// A `PT_LOAD` segment, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory; those behind `file_size` are zero.
    pub mem_size: u64,
    /// Address, without the bias.
    pub vaddr: u64,
    /// Alignment that the file asks for.
    pub align: u64,
    /// What the mapping allows.
    pub access: Access,
}

/// An ELF file that passed the checks which come before Linux's point of no return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Program or interpreter.
    pub role: Role,
    /// How it chooses its addresses.
    pub kind: Kind,
    /// Entry point, without the bias.
    pub entry: u64,
    /// Where the program headers start in the file.
    pub phdr_offset: u64,
    /// How many program headers there are.
    pub phdr_count: u16,
    /// The segments to map, in the order of the file.
    pub segments: Vec<Segment>,
    /// Path of the interpreter without its NUL; may be empty, may lack a leading slash.
    pub interp: Option<Vec<u8>>,
    /// Whether `PT_GNU_STACK` asks for an executable stack; without that header x86-64 has none.
    pub exec_stack: bool,
}

/// Size of a program header: `AT_PHENT`.
pub const PHDR_SIZE: u16 = size_of::<Phdr>() as u16;

/// Linux's limit on the size of all program headers together.
const PHDRS_MAX: usize = 65536;

/// Judges `file` as the program of an execve(2).
///
/// # Errors
/// In Linux's order:
/// - `ENOEXEC`: not an ELF file, not for x86-64, neither `ET_EXEC` nor `ET_DYN`; bad or unreadable program headers;
///   an interpreter path that is shorter than 2 or longer than `PATH_MAX` bytes or does not end in NUL.
/// - `EINVAL`, `EIO`: the interpreter path lies at an impossible offset or behind the end of the file. Other errors of
///   reading it are passed on.
///
/// Source: Linux 6.18 fs/binfmt_elf.c, `load_elf_binary`.
pub fn parse(file: &dyn ReadAt) -> Result<Image, Errno> {
    let mut header = Ehdr::default();
    // Linux reads the head of the file into a zeroed buffer, so a short file is a strange header, not an error.
    read_up_to(file, 0, header.as_mut_bytes())?;
    if header.e_ident[..4] != ELFMAG || header.e_machine != EM_X86_64 {
        return Err(ENOEXEC);
    }
    let kind = match header.e_type {
        ET_EXEC => Kind::Exec,
        ET_DYN => Kind::Dyn,
        _ => return Err(ENOEXEC),
    };
    let phdrs = read_phdrs(file, &header).map_err(|_| ENOEXEC)?;
    let interp = match phdrs.iter().find(|p| p.p_type == PT_INTERP) {
        Some(p) => Some(read_interp(file, p)?),
        None => None,
    };
    Ok(image(Role::Program, kind, &header, &phdrs, interp))
}

/// Judges `file` as the interpreter that a program's `PT_INTERP` names.
///
/// # Errors
/// In Linux's order:
/// - `EIO`: shorter than an ELF header. Other errors of reading it are passed on.
/// - `ELIBBAD`: not an ELF file, not for x86-64, bad or unreadable program headers.
///
/// Source: Linux 6.18 fs/binfmt_elf.c, `load_elf_binary`.
pub fn parse_interpreter(file: &dyn ReadAt) -> Result<Image, Errno> {
    let mut header = Ehdr::default();
    read_exact(file, 0, header.as_mut_bytes())?;
    if header.e_ident[..4] != ELFMAG || header.e_machine != EM_X86_64 {
        return Err(ELIBBAD);
    }
    let kind = match header.e_type {
        ET_EXEC => Kind::Exec,
        ET_DYN => Kind::Dyn,
        _ => Kind::Other,
    };
    let phdrs = read_phdrs(file, &header).map_err(|_| ELIBBAD)?;
    Ok(image(Role::Interpreter, kind, &header, &phdrs, None))
}

fn image(role: Role, kind: Kind, header: &Ehdr, phdrs: &[Phdr], interp: Option<Vec<u8>>) -> Image {
    let segments = phdrs
        .iter()
        .filter(|p| p.p_type == PT_LOAD)
        .map(|p| Segment {
            offset: p.p_offset,
            file_size: p.p_filesz,
            mem_size: p.p_memsz,
            vaddr: p.p_vaddr,
            align: p.p_align,
            access: Access::from_segment_flags(p.p_flags),
        })
        .collect();
    // The last one counts.
    let exec_stack =
        phdrs.iter().rev().find(|p| p.p_type == PT_GNU_STACK).is_some_and(|p| p.p_flags & PF_X != 0);
    Image {
        role,
        kind,
        entry: header.e_entry,
        phdr_offset: header.e_phoff,
        phdr_count: header.e_phnum,
        segments,
        interp,
        exec_stack,
    }
}

/// Reads the program headers; any failure is the same to the callers (`load_elf_phdrs` returns NULL).
fn read_phdrs(file: &dyn ReadAt, header: &Ehdr) -> Result<Vec<Phdr>, Errno> {
    let size = usize::from(header.e_phnum) * size_of::<Phdr>();
    if header.e_phentsize != PHDR_SIZE || size == 0 || size > PHDRS_MAX {
        return Err(ENOEXEC);
    }
    let mut bytes = vec![0; size];
    read_exact(file, header.e_phoff, &mut bytes)?;
    let read_one = |chunk| Phdr::read_from_bytes(chunk).map_err(|_| EIO);
    bytes.chunks_exact(size_of::<Phdr>()).map(read_one).collect()
}

fn read_interp(file: &dyn ReadAt, phdr: &Phdr) -> Result<Vec<u8>, Errno> {
    let size = usize::try_from(phdr.p_filesz).map_err(|_| ENOEXEC)?;
    if !(2..=PATH_MAX).contains(&size) {
        return Err(ENOEXEC);
    }
    let mut path = vec![0; size];
    read_exact(file, phdr.p_offset, &mut path)?;
    if path.last() != Some(&0) {
        return Err(ENOEXEC);
    }
    let len = path.iter().position(|&b| b == 0).unwrap_or(size);
    path.truncate(len);
    Ok(path)
}

/// Fills `buf` as far as the file goes; returns the number of bytes read.
pub(crate) fn read_up_to(file: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        let Some(at) = offset.checked_add(done as u64) else { break };
        match file.read_at(at, &mut buf[done..])? {
            0 => break,
            n => done += n.min(buf.len() - done),
        }
    }
    Ok(done)
}

/// Fills `buf` or fails: `EINVAL` for a range that is not below the largest `loff_t`, `EIO` at the end of the file (Linux's
/// `elf_read` and `rw_verify_area`).
fn read_exact(file: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
    let end = offset.checked_add(buf.len() as u64);
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(EINVAL);
    }
    if read_up_to(file, offset, buf)? == buf.len() { Ok(()) } else { Err(EIO) }
}

impl Image {
    /// Largest `p_align` of the segments that is a power of two, rounded up to a page; 0 when none has one (Linux's
    /// `maximum_alignment`).
    pub fn alignment(&self) -> u64 {
        let max = self.segments.iter().map(|s| s.align).filter(|a| a.is_power_of_two()).max();
        page_up_wrapping(max.unwrap_or(0))
    }

    /// Bytes from the first page to the last of all segments, rounded up to pages; 0 without segments (Linux's
    /// `total_mapping_size`). May be absurd for a malformed file: [`Self::place`] tells.
    pub fn span(&self) -> u64 {
        let low = self.segments.iter().map(|s| page_down(s.vaddr)).min();
        let high = self.segments.iter().map(|s| s.vaddr.wrapping_add(s.mem_size)).max();
        page_up_wrapping(high.unwrap_or(0).wrapping_sub(low.unwrap_or(0)))
    }

    /// Page of the first segment: where Linux would like to put an interpreter whose program has a bias of 0.
    pub fn first_page(&self) -> u64 {
        self.segments.first().map_or(0, |s| page_down(s.vaddr))
    }

    /// The bias with which the first segment starts in the page at `addr`, where a free range of [`Self::span`] bytes was
    /// found. For interpreters and for `ET_DYN` programs without an interpreter.
    pub fn bias_at(&self, addr: u64) -> u64 {
        match self.kind {
            Kind::Exec => 0,
            Kind::Dyn | Kind::Other => page_down(addr).wrapping_sub(self.first_page()),
        }
    }

    /// The bias that Linux computes from a chosen base, such as [`crate::layout::Layout::pie_base`]: the alignment of the
    /// segments is applied to the base. For programs with an interpreter, and for those that ask for more alignment than
    /// a page.
    pub fn bias_for_base(&self, base: u64) -> u64 {
        if self.kind == Kind::Exec {
            return 0;
        }
        let vaddr = self.segments.first().map_or(0, |s| s.vaddr);
        let base = match self.alignment() {
            0 => base,
            a => base & !(a - 1),
        };
        page_down(base.wrapping_sub(vaddr))
    }
}

#[cfg(test)]
mod tests;
