//! ELF64 structures and constants (`linux/elf.h`, elf(5)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first four bytes of an ELF file.
pub const ELFMAG: [u8; 4] = *b"\x7fELF";
/// `e_ident` index of the class.
pub const EI_CLASS: usize = 4;
/// `e_ident` class: 32 bits.
pub const ELFCLASS32: u8 = 1;
/// `e_ident` class: 64 bits.
pub const ELFCLASS64: u8 = 2;
/// `e_ident` data encoding: little-endian.
pub const ELFDATA2LSB: u8 = 1;

/// A program at fixed addresses.
pub const ET_EXEC: u16 = 2;
/// A position-independent program or a shared object.
pub const ET_DYN: u16 = 3;
/// A core dump.
pub const ET_CORE: u16 = 4;

/// Machine: i386.
pub const EM_386: u16 = 3;
/// Machine: x86-64.
pub const EM_X86_64: u16 = 62;

/// Segment: to be mapped.
pub const PT_LOAD: u32 = 1;
/// Segment: dynamic linking information.
pub const PT_DYNAMIC: u32 = 2;
/// Segment: path of the interpreter.
pub const PT_INTERP: u32 = 3;
/// Segment: notes.
pub const PT_NOTE: u32 = 4;
/// Segment: the program headers.
pub const PT_PHDR: u32 = 6;
/// Segment: the table for unwinding.
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// Segment: whether the stack is executable.
pub const PT_GNU_STACK: u32 = 0x6474_e551;
/// Segment: properties such as the use of shadow stacks.
pub const PT_GNU_PROPERTY: u32 = 0x6474_e553;

/// Segment flag: executable.
pub const PF_X: u32 = 1;
/// Segment flag: writable.
pub const PF_W: u32 = 2;
/// Segment flag: readable.
pub const PF_R: u32 = 4;

/// The ELF header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of Elf64_Ehdr, see elf(5)")]
pub struct Ehdr {
    pub e_ident: [u8; 16],
    pub e_type: u16,
    pub e_machine: u16,
    pub e_version: u32,
    pub e_entry: u64,
    pub e_phoff: u64,
    pub e_shoff: u64,
    pub e_flags: u32,
    pub e_ehsize: u16,
    pub e_phentsize: u16,
    pub e_phnum: u16,
    pub e_shentsize: u16,
    pub e_shnum: u16,
    pub e_shstrndx: u16,
}

/// A program header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of Elf64_Phdr, see elf(5)")]
pub struct Phdr {
    pub p_type: u32,
    pub p_flags: u32,
    pub p_offset: u64,
    pub p_vaddr: u64,
    pub p_paddr: u64,
    pub p_filesz: u64,
    pub p_memsz: u64,
    pub p_align: u64,
}

/// A section header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of Elf64_Shdr, see elf(5)")]
pub struct Shdr {
    pub sh_name: u32,
    pub sh_type: u32,
    pub sh_flags: u64,
    pub sh_addr: u64,
    pub sh_offset: u64,
    pub sh_size: u64,
    pub sh_link: u32,
    pub sh_info: u32,
    pub sh_addralign: u64,
    pub sh_entsize: u64,
}

/// A symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of Elf64_Sym, see elf(5)")]
pub struct Sym {
    pub st_name: u32,
    pub st_info: u8,
    pub st_other: u8,
    pub st_shndx: u16,
    pub st_value: u64,
    pub st_size: u64,
}

/// An entry of the dynamic section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of Elf64_Dyn, see elf(5)")]
pub struct Dyn {
    pub d_tag: u64,
    pub d_val: u64,
}
