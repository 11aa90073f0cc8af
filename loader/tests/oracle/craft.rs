//! Builds small programs, good and bad.

use abi::elf::{EM_X86_64, ET_DYN, ET_EXEC, Ehdr, PF_R, PF_X, PT_INTERP, PT_LOAD, Phdr};
use iced_x86::code_asm::{CodeAssembler, eax, edi, qword_ptr, rcx, rdx, rsi, rsp};
use zerocopy::IntoBytes;

/// How a crafted program exits.
pub(crate) const EXIT_CODE: i32 = 42;
/// Where its code lies in the file and, in `ET_EXEC`, in memory.
pub(crate) const CODE_OFFSET: u64 = 0x800;
pub(crate) const BASE: u64 = 0x40_0000;
const FILE_SIZE: usize = 0x3000;
/// The path of the interpreter lies here.
const INTERP_OFFSET: u64 = 0x400;

/// Code that writes the bytes from `argv[0]` to `envp[0]`, which are all arguments, and exits.
pub(crate) fn code() -> Vec<u8> {
    let assemble = || {
        let mut a = CodeAssembler::new(64)?;
        a.mov(rcx, qword_ptr(rsp))?;
        a.mov(rsi, qword_ptr(rsp + 8))?;
        a.mov(rdx, qword_ptr(rsp + rcx * 8 + 16))?;
        a.sub(rdx, rsi)?;
        a.mov(edi, 1)?;
        a.mov(eax, 1)?;
        a.syscall()?;
        a.mov(edi, EXIT_CODE)?;
        a.mov(eax, 231)?;
        a.syscall()?;
        a.assemble(0)
    };
    assemble().expect("code from constants")
}

/// A file in the making: header, program headers right behind it, then whatever the test needs.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) header: Ehdr,
    pub(crate) phdrs: Vec<Phdr>,
    pub(crate) bytes: Vec<u8>,
    /// The file ends here.
    pub(crate) len: usize,
}

impl File {
    /// A good program of one segment.
    pub(crate) fn good(e_type: u16) -> Self {
        let base = if e_type == ET_EXEC { BASE } else { 0 };
        let mut bytes = vec![0xcc; FILE_SIZE];
        let code = code();
        bytes[CODE_OFFSET as usize..][..code.len()].copy_from_slice(&code);
        let header = Ehdr {
            e_ident: *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
            e_type,
            e_machine: EM_X86_64,
            e_version: 1,
            e_entry: base + CODE_OFFSET,
            e_phoff: 64,
            e_ehsize: 64,
            e_phentsize: 56,
            e_phnum: 1,
            ..Ehdr::default()
        };
        let load = Phdr {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_X,
            p_vaddr: base,
            p_filesz: 0x1000,
            p_memsz: 0x1000,
            p_align: 0x1000,
            ..Phdr::default()
        };
        Self { header, phdrs: vec![load], bytes, len: FILE_SIZE }
    }

    /// A good program that is run by an interpreter with this path (the NUL included where there is to be one).
    pub(crate) fn interpreted(e_type: u16, path: &[u8]) -> Self {
        let mut file = Self::good(e_type);
        file.bytes[INTERP_OFFSET as usize..][..path.len()].copy_from_slice(path);
        file.add(Phdr {
            p_type: PT_INTERP,
            p_offset: INTERP_OFFSET,
            p_filesz: path.len() as u64,
            ..Phdr::default()
        });
        file
    }

    /// A good interpreter.
    pub(crate) fn interpreter() -> Self {
        Self::good(ET_DYN)
    }

    pub(crate) fn add(&mut self, phdr: Phdr) {
        self.phdrs.push(phdr);
        self.header.e_phnum += 1;
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..64].copy_from_slice(self.header.as_bytes());
        let phdrs = self.phdrs.as_bytes();
        bytes[64..64 + phdrs.len()].copy_from_slice(phdrs);
        bytes.resize(self.len, 0xcc);
        bytes
    }
}
