use abi::elf::{PT_GNU_STACK, PT_PHDR};

use super::*;

/// An ELF file with these program headers right behind the ELF header.
fn file(e_type: u16, phdrs: &[Phdr]) -> Vec<u8> {
    let header = Ehdr {
        e_ident: *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
        e_type,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: 0x40_1000,
        e_phoff: 64,
        e_phentsize: 56,
        e_phnum: phdrs.len() as u16,
        ..Ehdr::default()
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(phdrs.as_bytes());
    bytes.resize(0x4000, 0);
    bytes
}

fn load(p_offset: u64, p_vaddr: u64, p_filesz: u64, p_memsz: u64, p_flags: u32) -> Phdr {
    Phdr { p_type: PT_LOAD, p_flags, p_offset, p_vaddr, p_paddr: 0, p_filesz, p_memsz, p_align: 0x1000 }
}

#[test]
fn segments_become_file_pages_cleared_tails_and_zero_pages() {
    let bytes = file(
        ET_EXEC,
        &[
            load(0, 0x40_0000, 0x1234, 0x1234, PF_R | PF_X),
            load(0x1e10, 0x40_2e10, 0x300, 0x5000, PF_R | PF_W),
        ],
    );
    let placed = parse(&bytes).unwrap().place(0).unwrap();
    let rx = Access::READ | Access::EXEC;
    let rw = Access::READ | Access::WRITE;
    assert_eq!(
        placed.ops,
        [
            MapOp {
                addr: 0x40_0000,
                len: 0x2000,
                source: Source::File { offset: 0 },
                access: rx,
                clear: None
            },
            MapOp {
                addr: 0x40_2000,
                len: 0x2000,
                source: Source::File { offset: 0x1000 },
                access: rw,
                clear: Some(0x40_3110..0x40_4000),
            },
            MapOp { addr: 0x40_4000, len: 0x4000, source: Source::Anonymous, access: rw, clear: None },
        ]
    );
    assert_eq!(placed.brk, 0x40_8000);
    assert_eq!(placed.phdr, 0x40_0040);
    assert_eq!(placed.entry, 0x40_1000);
    assert_eq!(placed.code, 0x40_0000..0x40_1234);
    assert_eq!(placed.data, 0x40_2e10..0x40_3110);
}

#[test]
fn a_segment_without_file_bytes_is_anonymous_and_writable() {
    let bytes = file(ET_DYN, &[load(0, 0x1000, 0, 0x1800, PF_R)]);
    let placed = parse(&bytes).unwrap().place(0x5555_5555_4000).unwrap();
    let access = Access::READ | Access::WRITE;
    assert_eq!(
        placed.ops,
        [MapOp { addr: 0x5555_5555_5000, len: 0x2000, source: Source::Anonymous, access, clear: None }]
    );
}

#[test]
fn the_bias_follows_the_base_and_the_alignment() {
    let mut wide = load(0, 0, 0x1000, 0x1000, PF_R);
    wide.p_align = 0x20_0000;
    let image = parse(&file(ET_DYN, &[wide])).unwrap();
    assert_eq!(image.alignment(), 0x20_0000);
    assert_eq!(image.bias_for_base(0x5555_5555_4aaa), 0x5555_5540_0000);
    let image = parse(&file(ET_DYN, &[load(0x1000, 0x3000, 0x10, 0x10, PF_R)])).unwrap();
    assert_eq!(image.span(), 0x1000);
    assert_eq!(image.bias_at(0x7fff_0000_0000), 0x7ffe_ffff_d000);
}

#[test]
fn headers_that_linux_ignores_do_not_matter() {
    let mut bytes = file(ET_EXEC, &[load(0, 0x40_0000, 0x1000, 0x1000, PF_R | PF_X)]);
    bytes[EI_CLASS_TO_VERSION].fill(9);
    bytes[20..24].fill(0xff);
    assert!(parse(&bytes).is_ok());
}

const EI_CLASS_TO_VERSION: std::ops::Range<usize> = 4..16;

#[test]
fn the_last_stack_header_counts() {
    let stack = |p_flags| Phdr { p_type: PT_GNU_STACK, p_flags, ..Phdr::default() };
    let exec = |phdrs: &[Phdr]| parse(&file(ET_DYN, phdrs)).unwrap().exec_stack;
    assert!(!exec(&[Phdr { p_type: PT_PHDR, ..Phdr::default() }]));
    assert!(exec(&[stack(PF_R | PF_W), stack(PF_R | PF_W | PF_X)]));
    assert!(!exec(&[stack(PF_R | PF_W | PF_X), stack(PF_R | PF_W)]));
}

#[test]
fn impossible_segments_cannot_be_placed() {
    let place = |p: Phdr| parse(&file(ET_EXEC, &[p])).unwrap().place(0).map(|_| ());
    for bad in [
        load(0, crate::TASK_SIZE, 0x1000, 0x1000, PF_R),
        load(0, 0x40_0000, 0x1000, u64::MAX, PF_R),
        load(0, 0x40_0000, 0x2000, 0x1000, PF_R),
        load(1, 0x40_0000, 0x1000, 0x1000, PF_R),
        load(u64::MAX - 0xfff, 0x40_0000, 0x1000, 0x1000, PF_R),
        load(i64::MAX as u64 - 0xfff, 0x40_0000, 0x1000, 0x1000, PF_R),
        load(0, crate::TASK_SIZE - 0x1000, 0x1000, 0x1001, PF_R),
    ] {
        assert!(place(bad).is_err(), "{bad:?}");
    }
    assert!(place(load(0, crate::TASK_SIZE - 0x1000, 0x1000, 0x1000, PF_R)).is_ok());
}

#[test]
fn the_debian_shell_is_parsed_like_goblin_parses_it() {
    let bytes = std::fs::read("/bin/bash").unwrap();
    let image = parse(&bytes).unwrap();
    let goblin = goblin::elf::Elf::parse(&bytes).unwrap();
    assert_eq!(image.interp.as_deref(), goblin.interpreter.map(str::as_bytes));
    assert_eq!(image.entry, goblin.entry);
    let loads: Vec<_> = goblin.program_headers.iter().filter(|p| p.p_type == PT_LOAD).collect();
    assert_eq!(image.segments.len(), loads.len());
    let bias = image.bias_for_base(crate::layout::PIE_BASE);
    let placed = image.place(bias).unwrap();
    assert_eq!(bias, 0x5555_5555_4000);
    assert_eq!(placed.phdr, bias + 64);
    assert_eq!(
        placed.brk,
        bias + page_up_wrapping(loads.last().unwrap().p_vaddr + loads.last().unwrap().p_memsz)
    );
}
