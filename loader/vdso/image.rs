//! The ELF file around the vDSO's code.
//!
//! Dynamic linkers, C libraries and Go find functions by `PT_DYNAMIC`, a hash table, symbols and their versions;
//! debuggers and unwinders by section headers and `.eh_frame`.

use abi::elf::{
    Dyn, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, Ehdr, PF_R, PF_X, PT_DYNAMIC, PT_GNU_EH_FRAME,
    PT_LOAD, PT_NOTE, Phdr, Shdr, Sym,
};
use iced_x86::IcedError;
use zerocopy::IntoBytes;

use crate::code::{Function, assemble};
use crate::{LINUX_VERSION_CODE, PAGE_SIZE, SONAME, VERSION};

const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_HASH: u32 = 5;
const SHT_DYNAMIC: u32 = 6;
const SHT_NOTE: u32 = 7;
const SHT_DYNSYM: u32 = 11;
const SHT_GNU_HASH: u32 = 0x6fff_fff6;
const SHT_GNU_VERDEF: u32 = 0x6fff_fffd;
const SHT_GNU_VERSYM: u32 = 0x6fff_ffff;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;

const SHN_ABS: u16 = 0xfff1;
const GLOBAL_OBJECT: u8 = 1 << 4 | 1;
const GLOBAL_FUNC: u8 = 1 << 4 | 2;
const WEAK_FUNC: u8 = 2 << 4 | 2;

const PHDRS: usize = 4;
/// Symbol version index of the object itself and of [`VERSION`].
const VERSION_BASE: u16 = 1;
const VERSION_INDEX: u16 = 2;
const GNU_BUCKETS: u32 = 4;
const GNU_BLOOM_SHIFT: u32 = 6;

/// Sections in the order of the file; the null section comes first in the table.
const SECTIONS: [(&str, u32, u64); 12] = [
    (".hash", SHT_HASH, SHF_ALLOC),
    (".gnu.hash", SHT_GNU_HASH, SHF_ALLOC),
    (".dynsym", SHT_DYNSYM, SHF_ALLOC),
    (".dynstr", SHT_STRTAB, SHF_ALLOC),
    (".gnu.version", SHT_GNU_VERSYM, SHF_ALLOC),
    (".gnu.version_d", SHT_GNU_VERDEF, SHF_ALLOC),
    (".dynamic", SHT_DYNAMIC, SHF_ALLOC),
    (".note", SHT_NOTE, SHF_ALLOC),
    (".eh_frame_hdr", SHT_PROGBITS, SHF_ALLOC),
    (".eh_frame", SHT_PROGBITS, SHF_ALLOC),
    (".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR),
    (".shstrtab", SHT_STRTAB, 0),
];
const HASH: usize = 0;
const GNU_HASH: usize = 1;
const DYNSYM: usize = 2;
const DYNSTR: usize = 3;
const VERSYM: usize = 4;
const VERDEF: usize = 5;
const DYNAMIC: usize = 6;
const NOTE: usize = 7;
const EH_FRAME_HDR: usize = 8;
const EH_FRAME: usize = 9;
const TEXT: usize = 10;
const SHSTRTAB: usize = 11;

/// A string table under construction.
struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend(text.as_bytes());
        self.0.push(0);
        at
    }
}

/// A symbol with its name.
struct Symbol {
    name: String,
    sym: Sym,
}

/// Builds the image. Sizes of all sections follow from the code alone, so a first round with addresses of zero finds the
/// places and a second one fills them in.
pub(crate) fn build() -> Result<Vec<u8>, IcedError> {
    let text_offset = place_sections(&contents(0, &[0; SECTIONS.len()])?).0[TEXT];
    let (offsets, _) = place_sections(&contents(text_offset, &[0; SECTIONS.len()])?);
    let sections = contents(text_offset, &offsets)?;
    let (offsets, end) = place_sections(&sections);
    Ok(write_file(&sections, &offsets, end))
}

/// The offset of each section, and that of the section headers.
fn place_sections(sections: &[Vec<u8>]) -> ([u64; SECTIONS.len()], u64) {
    let mut offsets = [0; SECTIONS.len()];
    let mut at = (size_of::<Ehdr>() + PHDRS * size_of::<Phdr>()) as u64;
    for (i, bytes) in sections.iter().enumerate() {
        at = at.next_multiple_of(alignment(i));
        offsets[i] = at;
        at += bytes.len() as u64;
    }
    (offsets, at.next_multiple_of(8))
}

const fn alignment(section: usize) -> u64 {
    match section {
        TEXT => 32,
        DYNSTR | SHSTRTAB => 1,
        NOTE | EH_FRAME_HDR => 4,
        _ => 8,
    }
}

/// The bytes of all sections, with addresses as in `offsets`.
fn contents(text_offset: u64, offsets: &[u64; SECTIONS.len()]) -> Result<Vec<Vec<u8>>, IcedError> {
    let (text, functions) = assemble(text_offset)?;
    let symbols = symbols(&functions);
    let mut strings = Strings(vec![0]);
    let soname = strings.add(SONAME);
    let version = strings.add(VERSION);
    let mut dynsym = Sym::default().as_bytes().to_vec();
    let mut versym = vec![0, 0];
    for symbol in &symbols {
        // The version's own symbol shares its name.
        let st_name = if symbol.name == VERSION { version } else { strings.add(&symbol.name) };
        dynsym.extend(Sym { st_name, ..symbol.sym }.as_bytes());
        versym.extend(VERSION_INDEX.to_le_bytes());
    }
    let dynamic: Vec<u8> = [
        (DT_SONAME, u64::from(soname)),
        (DT_HASH, offsets[HASH]),
        (DT_GNU_HASH, offsets[GNU_HASH]),
        (DT_STRTAB, offsets[DYNSTR]),
        (DT_SYMTAB, offsets[DYNSYM]),
        (DT_STRSZ, strings.0.len() as u64),
        (DT_SYMENT, size_of::<Sym>() as u64),
        (DT_VERDEF, offsets[VERDEF]),
        (DT_VERDEFNUM, 2),
        (DT_VERSYM, offsets[VERSYM]),
        (0, 0),
    ]
    .iter()
    .flat_map(|&(d_tag, d_val)| Dyn { d_tag, d_val }.as_bytes().to_vec())
    .collect();
    let (eh_frame, frames) = eh_frame(&functions, offsets[EH_FRAME]);
    let mut section_names = Strings(vec![0]);
    for (name, _, _) in SECTIONS {
        section_names.add(name);
    }
    Ok(vec![
        sysv_hash_table(&symbols),
        gnu_hash_table(&symbols),
        dynsym,
        strings.0,
        versym,
        version_definitions(soname, version),
        dynamic,
        note(),
        eh_frame_hdr(&frames, offsets[EH_FRAME_HDR], offsets[EH_FRAME]),
        eh_frame,
        text,
        section_names.0,
    ])
}

/// All symbols but the null symbol, ordered as `.gnu.hash` wants them: by bucket.
fn symbols(functions: &[Function]) -> Vec<Symbol> {
    let abs = Sym { st_info: GLOBAL_OBJECT, st_shndx: SHN_ABS, ..Sym::default() };
    let mut all = vec![Symbol { name: VERSION.to_string(), sym: abs }];
    for f in functions {
        let sym = Sym {
            st_info: GLOBAL_FUNC,
            // Section numbers count the null section.
            st_shndx: TEXT as u16 + 1,
            st_value: f.start,
            st_size: f.end - f.start,
            ..Sym::default()
        };
        all.push(Symbol { name: format!("__vdso_{}", f.name), sym });
        all.push(Symbol { name: f.name.to_string(), sym: Sym { st_info: WEAK_FUNC, ..sym } });
    }
    all.sort_by_key(|s| gnu_hash(&s.name) % GNU_BUCKETS);
    all
}

/// The hash function of `DT_HASH` and of version names (System V ABI, "Hash Table").
fn sysv_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |h, b| {
        let h = (h << 4).wrapping_add(u32::from(b));
        (h ^ (h >> 24 & 0xf0)) & 0x0fff_ffff
    })
}

/// The hash function of `DT_GNU_HASH`.
fn gnu_hash(name: &str) -> u32 {
    name.bytes().fold(5381, |h: u32, b| h.wrapping_mul(33).wrapping_add(u32::from(b)))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn sysv_hash_table(symbols: &[Symbol]) -> Vec<u8> {
    let buckets = GNU_BUCKETS as usize;
    let mut table = vec![0; 2 + buckets + symbols.len() + 1];
    table[0] = GNU_BUCKETS;
    table[1] = symbols.len() as u32 + 1;
    for (i, symbol) in symbols.iter().enumerate() {
        let bucket = 2 + (sysv_hash(&symbol.name) % GNU_BUCKETS) as usize;
        // Puts the symbol in front of its chain.
        table[2 + buckets + i + 1] = table[bucket];
        table[bucket] = i as u32 + 1;
    }
    words(&table)
}

fn gnu_hash_table(symbols: &[Symbol]) -> Vec<u8> {
    let hashes: Vec<u32> = symbols.iter().map(|s| gnu_hash(&s.name)).collect();
    let bloom = hashes.iter().fold(0u64, |b, h| b | 1 << (h % 64) | 1 << ((h >> GNU_BLOOM_SHIFT) % 64));
    let mut buckets = [0; GNU_BUCKETS as usize];
    let mut chain = Vec::new();
    for (i, &h) in hashes.iter().enumerate() {
        let bucket = &mut buckets[(h % GNU_BUCKETS) as usize];
        if *bucket == 0 {
            *bucket = i as u32 + 1;
        }
        let is_last = hashes.get(i + 1).is_none_or(|next| next % GNU_BUCKETS != h % GNU_BUCKETS);
        chain.push(h & !1 | u32::from(is_last));
    }
    let mut bytes = words(&[GNU_BUCKETS, 1, 1, GNU_BLOOM_SHIFT]);
    bytes.extend(bloom.to_le_bytes());
    bytes.extend(words(&buckets));
    bytes.extend(words(&chain));
    bytes
}

/// Two `Elf64_Verdef`, each with its `Elf64_Verdaux`.
fn version_definitions(soname: u32, version: u32) -> Vec<u8> {
    const BASE_FLAG: u16 = 1;
    const VERDEF_SIZE: u32 = 20;
    let mut bytes = Vec::new();
    let definitions =
        [(BASE_FLAG, VERSION_BASE, SONAME, soname, VERDEF_SIZE + 8), (0, VERSION_INDEX, VERSION, version, 0)];
    for (flags, index, text, name, next) in definitions {
        bytes.extend([1, flags, index, 1].iter().flat_map(|h: &u16| h.to_le_bytes()));
        bytes.extend(words(&[sysv_hash(text), VERDEF_SIZE, next, name, 0]));
    }
    bytes
}

/// The note with the kernel's version, which glibc compares with the one it needs.
fn note() -> Vec<u8> {
    let mut bytes = words(&[6, 4, 0]);
    bytes.extend(b"Linux\0\0\0");
    bytes.extend(LINUX_VERSION_CODE.to_le_bytes());
    bytes
}

/// `.eh_frame`, and for each function its start and the offset of its entry. The functions push nothing: the return
/// address is at RSP from their first to their last instruction.
fn eh_frame(functions: &[Function], address: u64) -> (Vec<u8>, Vec<(u64, u64)>) {
    // Version 1, augmentation "zR": PC-relative signed 32-bit pointers. Code factor 1, data factor -8, return address in
    // column 16; the CFA is register 7 (RSP) plus 8, column 16 is saved at CFA - 8.
    const CIE: [u8; 20] =
        [0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x80 | 16, 1, 0, 0];
    let mut bytes = words(&[CIE.len() as u32]);
    bytes.extend(CIE);
    let mut frames = Vec::new();
    for f in functions {
        let entry = bytes.len() as u64;
        let length = 16u32;
        // Distance from this field back to the CIE.
        bytes.extend(words(&[length, entry as u32 + 4]));
        let relative = f.start.wrapping_sub(address + bytes.len() as u64) as u32;
        bytes.extend(words(&[relative, (f.end - f.start) as u32, 0]));
        frames.push((f.start, address + entry));
    }
    bytes.extend([0; 4]);
    (bytes, frames)
}

/// `.eh_frame_hdr`: a table of functions, sorted by address as `functions` is, for a binary search.
fn eh_frame_hdr(frames: &[(u64, u64)], address: u64, eh_frame: u64) -> Vec<u8> {
    // Version 1; the pointer is PC-relative, the count plain, the table relative to this section.
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    bytes.extend(words(&[eh_frame.wrapping_sub(address + 4) as u32, frames.len() as u32]));
    for &(start, entry) in frames {
        bytes.extend(words(&[start.wrapping_sub(address) as u32, entry.wrapping_sub(address) as u32]));
    }
    bytes
}

fn write_file(sections: &[Vec<u8>], offsets: &[u64; SECTIONS.len()], shoff: u64) -> Vec<u8> {
    let size = shoff + ((SECTIONS.len() + 1) * size_of::<Shdr>()) as u64;
    let file_size = size.next_multiple_of(PAGE_SIZE);
    let mut ident = [0; 16];
    ident[..4].copy_from_slice(&ELFMAG);
    ident[4..7].copy_from_slice(&[ELFCLASS64, ELFDATA2LSB, 1]);
    let header = Ehdr {
        e_ident: ident,
        e_type: ET_DYN,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: offsets[TEXT],
        e_phoff: size_of::<Ehdr>() as u64,
        e_shoff: shoff,
        e_flags: 0,
        e_ehsize: size_of::<Ehdr>() as u16,
        e_phentsize: size_of::<Phdr>() as u16,
        e_phnum: PHDRS as u16,
        e_shentsize: size_of::<Shdr>() as u16,
        e_shnum: SECTIONS.len() as u16 + 1,
        e_shstrndx: SHSTRTAB as u16 + 1,
    };
    let whole = Phdr {
        p_type: PT_LOAD,
        p_flags: PF_R | PF_X,
        p_filesz: file_size,
        p_memsz: file_size,
        p_align: PAGE_SIZE,
        ..Phdr::default()
    };
    let part = |p_type, section: usize| Phdr {
        p_type,
        p_flags: PF_R,
        p_offset: offsets[section],
        p_vaddr: offsets[section],
        p_paddr: offsets[section],
        p_filesz: sections[section].len() as u64,
        p_memsz: sections[section].len() as u64,
        p_align: alignment(section),
    };
    let phdrs: [Phdr; PHDRS] =
        [whole, part(PT_DYNAMIC, DYNAMIC), part(PT_NOTE, NOTE), part(PT_GNU_EH_FRAME, EH_FRAME_HDR)];

    let mut file = header.as_bytes().to_vec();
    file.extend(phdrs.as_bytes());
    for (bytes, &offset) in sections.iter().zip(offsets) {
        file.resize(offset as usize, 0);
        file.extend(bytes);
    }
    file.resize(shoff as usize, 0);
    file.extend(Shdr::default().as_bytes());
    let mut name = 1;
    for (i, (text, sh_type, sh_flags)) in SECTIONS.into_iter().enumerate() {
        let is_loaded = sh_flags & SHF_ALLOC != 0;
        let header = Shdr {
            sh_name: name,
            sh_type,
            sh_flags,
            sh_addr: if is_loaded { offsets[i] } else { 0 },
            sh_offset: offsets[i],
            sh_size: sections[i].len() as u64,
            sh_link: link(i),
            sh_info: info(i),
            sh_addralign: alignment(i),
            sh_entsize: entry_size(i),
        };
        name += text.len() as u32 + 1;
        file.extend(header.as_bytes());
    }
    file.resize(file_size as usize, 0);
    file
}

/// `sh_link`: the section that this one refers to.
const fn link(section: usize) -> u32 {
    match section {
        HASH | GNU_HASH | VERSYM => DYNSYM as u32 + 1,
        DYNSYM | VERDEF | DYNAMIC => DYNSTR as u32 + 1,
        _ => 0,
    }
}

/// `sh_info`: the first global symbol, or the number of version definitions.
const fn info(section: usize) -> u32 {
    match section {
        DYNSYM => 1,
        VERDEF => 2,
        _ => 0,
    }
}

const fn entry_size(section: usize) -> u64 {
    match section {
        HASH => 4,
        DYNSYM => size_of::<Sym>() as u64,
        VERSYM => 2,
        DYNAMIC => size_of::<Dyn>() as u64,
        _ => 0,
    }
}
