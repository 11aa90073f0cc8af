use abi::elf::{
    EM_386, ET_CORE, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_GNU_PROPERTY, PT_GNU_STACK, PT_INTERP, PT_LOAD,
    PT_PHDR, Phdr,
};
use ringfence_loader::TASK_SIZE;

use crate::craft::{BASE, CODE_OFFSET, File};
use crate::predict::predict;
use crate::{Dir, Outcome, execute};

/// Executes a file natively and compares.
fn check(dir: &Dir, what: &str, bytes: &[u8]) -> Outcome {
    let path = dir.write("program", bytes);
    let expected = execute(&path, &["zero", "one"]);
    assert_eq!(predict(&path, &["zero", "one"]), expected, "{what}: the host says the latter");
    expected
}

type Change = (&'static str, fn(&mut File));

const HEADER: &[Change] = &[
    ("nothing wrong", |_| {}),
    ("magic", |f| f.header.e_ident[0] = 0x7e),
    ("class 32", |f| f.header.e_ident[4] = 1),
    ("class 0", |f| f.header.e_ident[4] = 0),
    ("big-endian", |f| f.header.e_ident[5] = 2),
    ("version in the identification", |f| f.header.e_ident[6] = 9),
    ("operating system", |f| f.header.e_ident[7] = 77),
    ("type none", |f| f.header.e_type = 0),
    ("type relocatable", |f| f.header.e_type = 1),
    ("type core", |f| f.header.e_type = ET_CORE),
    ("type 0xff00", |f| f.header.e_type = 0xff00),
    ("machine i386 in a 64-bit file", |f| f.header.e_machine = EM_386),
    ("machine none", |f| f.header.e_machine = 0),
    ("machine aarch64", |f| f.header.e_machine = 183),
    ("version", |f| f.header.e_version = 0),
    ("flags", |f| f.header.e_flags = !0),
    ("header size", |f| f.header.e_ehsize = 1),
    ("program header size 55", |f| f.header.e_phentsize = 55),
    ("program header size 32", |f| f.header.e_phentsize = 32),
    ("program header size 0", |f| f.header.e_phentsize = 0),
    ("no program headers", |f| f.header.e_phnum = 0),
    ("more program headers than the file holds", |f| f.header.e_phnum = 1000),
    ("as many program headers as possible", |f| f.header.e_phnum = 1170),
    ("too many program headers", |f| f.header.e_phnum = 1171),
    ("all program headers", |f| f.header.e_phnum = 0xffff),
    ("more than a page of program headers", |f| {
        f.header.e_phnum = 74;
        f.bytes.fill(0);
    }),
    ("program headers at 0", |f| f.header.e_phoff = 0),
    ("program headers unaligned", |f| f.header.e_phoff = 65),
    ("program headers at the end", |f| f.header.e_phoff = 0x3000 - 56),
    ("program headers across the end", |f| f.header.e_phoff = 0x3000 - 55),
    ("program headers behind the end", |f| f.header.e_phoff = 1 << 40),
    ("program headers at a negative offset", |f| f.header.e_phoff = u64::MAX - 100),
    ("program headers at the largest offset", |f| f.header.e_phoff = i64::MAX as u64),
    ("section headers anywhere", |f| {
        f.header.e_shoff = u64::MAX;
        f.header.e_shnum = 0xffff;
    }),
    ("entry 0", |f| f.header.e_entry = 0),
    ("entry at the end of user addresses", |f| f.header.e_entry = TASK_SIZE),
    ("entry in the kernel", |f| f.header.e_entry = u64::MAX),
    ("entry not in a segment", |f| f.header.e_entry = BASE * 16),
    ("length 0", |f| f.len = 0),
    ("length 3", |f| f.len = 3),
    ("length 16", |f| f.len = 16),
    ("length 63", |f| f.len = 63),
    ("length 64", |f| f.len = 64),
    ("length 119", |f| f.len = 119),
    ("length 120", |f| f.len = 120),
    ("length 1000", |f| f.len = 1000),
    ("length of the code", |f| f.len = 0x900),
];

const SEGMENTS: &[Change] = &[
    ("no segment to load", |f| f.phdrs[0].p_type = PT_PHDR),
    ("not executable", |f| f.phdrs[0].p_flags = PF_R),
    ("no access", |f| f.phdrs[0].p_flags = 0),
    ("execute only", |f| f.phdrs[0].p_flags = PF_X),
    ("write and execute", |f| f.phdrs[0].p_flags = PF_W | PF_X),
    ("other flags", |f| f.phdrs[0].p_flags = !0),
    ("offset not as address", |f| f.phdrs[0].p_offset = 1),
    ("address not as offset", |f| f.phdrs[0].p_vaddr += 0x10),
    ("both in the middle of a page", |f| {
        f.phdrs[0].p_vaddr += 0x700;
        f.phdrs[0].p_offset += 0x700;
        f.phdrs[0].p_filesz = 0x200;
        f.phdrs[0].p_memsz = 0x200;
    }),
    ("offset behind the end", |f| f.phdrs[0].p_offset = 0x10_0000),
    ("largest aligned offset", |f| f.phdrs[0].p_offset = i64::MAX as u64 & !0xfff),
    ("negative offset", |f| f.phdrs[0].p_offset = !0xfff),
    ("file size beyond the file", |f| {
        f.phdrs[0].p_filesz = 0x10_0000;
        f.phdrs[0].p_memsz = 0x10_0000;
    }),
    ("file size above memory size", |f| f.phdrs[0].p_memsz = 0xfff),
    ("file size 0", |f| f.phdrs[0].p_filesz = 0),
    ("both sizes 0", |f| {
        f.phdrs[0].p_filesz = 0;
        f.phdrs[0].p_memsz = 0;
    }),
    ("huge file size", |f| f.phdrs[0].p_filesz = u64::MAX),
    ("huge sizes", |f| {
        f.phdrs[0].p_filesz = u64::MAX;
        f.phdrs[0].p_memsz = u64::MAX;
    }),
    ("sizes that wrap to a page", |f| {
        f.phdrs[0].p_filesz = u64::MAX - 0xffe;
        f.phdrs[0].p_memsz = u64::MAX - 0xffe;
    }),
    ("huge memory size", |f| f.phdrs[0].p_memsz = u64::MAX),
    ("memory size of all user addresses", |f| f.phdrs[0].p_memsz = TASK_SIZE),
    ("memory size above user addresses", |f| f.phdrs[0].p_memsz = TASK_SIZE + 1),
    ("a tail in a read-only page", |f| f.phdrs[0].p_memsz = 0x1800),
    ("a tail that wipes the code", |f| {
        f.phdrs[0].p_flags |= PF_W;
        f.phdrs[0].p_filesz = 0x100;
    }),
    ("a tail that cannot wipe the code", |f| f.phdrs[0].p_filesz = 0x100),
    ("a tail behind the end of the file", |f| {
        f.phdrs[0].p_flags |= PF_W;
        f.phdrs[0].p_filesz = 0x4100;
        f.phdrs[0].p_memsz = 0x4200;
    }),
    ("a tail behind the end of the file, read-only", |f| {
        f.phdrs[0].p_filesz = 0x4100;
        f.phdrs[0].p_memsz = 0x4200;
    }),
    ("address at the end of user addresses", |f| f.phdrs[0].p_vaddr = TASK_SIZE),
    ("address in the kernel", |f| f.phdrs[0].p_vaddr = 0xffff_ffff_8000_0000),
    ("largest address", |f| f.phdrs[0].p_vaddr = !0xfff),
    ("alignment 0", |f| f.phdrs[0].p_align = 0),
    ("alignment 3", |f| f.phdrs[0].p_align = 3),
    ("alignment 2 MiB", |f| f.phdrs[0].p_align = 2 << 20),
    ("alignment 1 GiB", |f| f.phdrs[0].p_align = 1 << 30),
    ("a second segment over the first", |f| {
        let mut second = f.phdrs[0];
        second.p_offset = 0x1000;
        f.add(second);
    }),
    ("a second segment whose zero pages cover the first", |f| {
        let mut second = f.phdrs[0];
        second.p_filesz = 0;
        second.p_memsz = 0x1000;
        f.add(second);
    }),
    ("a second segment that is impossible", |f| {
        let mut second = f.phdrs[0];
        second.p_vaddr += 0x10_0000;
        second.p_memsz = 1;
        f.add(second);
    }),
    ("a second segment below the first", |f| {
        f.phdrs[0].p_vaddr += 0x5000;
        f.header.e_entry += 0x5000;
        let mut second = f.phdrs[0];
        second.p_vaddr -= 0x5000;
        f.add(second);
    }),
    ("a far second segment", |f| {
        let mut second = f.phdrs[0];
        second.p_vaddr += 1 << 40;
        f.add(second);
    }),
    ("an executable stack", |f| f.add(Phdr { p_type: PT_GNU_STACK, p_flags: 7, ..Phdr::default() })),
    ("a strange property header", |f| {
        f.add(Phdr { p_type: PT_GNU_PROPERTY, p_offset: u64::MAX, p_filesz: u64::MAX, ..Phdr::default() });
    }),
    ("processor-specific headers", |f| f.add(Phdr { p_type: 0x7000_0000, p_flags: !0, ..Phdr::default() })),
];

#[test]
fn headers() {
    let dir = Dir::new("headers");
    for e_type in [ET_EXEC, ET_DYN] {
        for (what, change) in HEADER.iter().chain(SEGMENTS) {
            let mut file = File::good(e_type);
            change(&mut file);
            check(&dir, &format!("type {e_type}, {what}"), &file.build());
        }
    }
}

#[test]
fn interpreters() {
    let dir = Dir::new("interpreters");
    for e_type in [ET_EXEC, ET_DYN] {
        for (what, change) in HEADER.iter().chain(SEGMENTS) {
            let mut interp = File::interpreter();
            change(&mut interp);
            let path = dir.write("interp", &interp.build());
            let mut path = path.as_os_str().as_encoded_bytes().to_vec();
            path.push(0);
            check(
                &dir,
                &format!("interpreter of type {e_type}, {what}"),
                &File::interpreted(e_type, &path).build(),
            );
        }
        // The program's own mistakes when there is an interpreter.
        let path = dir.write("interp", &File::interpreter().build());
        let mut path = path.as_os_str().as_encoded_bytes().to_vec();
        path.push(0);
        for (what, change) in HEADER.iter().chain(SEGMENTS) {
            let mut file = File::interpreted(e_type, &path);
            change(&mut file);
            check(&dir, &format!("interpreted type {e_type}, {what}"), &file.build());
        }
    }
}

#[test]
fn interpreter_paths() {
    let dir = Dir::new("paths");
    let good = dir.write("interp", &File::interpreter().build());
    let good = [good.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let text = dir.write("text", b"no program\n");
    let text = [text.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let empty = dir.write("empty", b"");
    let empty = [empty.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let script = dir.write("script", b"#!/bin/true\n");
    let script = [script.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let paths: [&[u8]; 12] = [
        &good,
        &good[..good.len() - 1],
        &[&good, &b"more\0"[..]].concat(),
        &text,
        &empty,
        &script,
        b"",
        b"\0",
        b"\0\0",
        b"/\0",
        b"/nonexistent\0",
        b"/dev/null\0",
    ];
    for path in paths {
        let what = String::from_utf8_lossy(path).into_owned();
        check(&dir, &what, &File::interpreted(ET_DYN, path).build());
    }
    for (what, size) in [("PATH_MAX", 4096), ("more than PATH_MAX", 4097), ("huge", u64::MAX), ("one", 1)] {
        let mut file = File::interpreted(ET_DYN, &good);
        file.phdrs[1].p_filesz = size;
        // Zeros behind the path, so it ends in NUL whatever its size.
        let end = 0x400 + good.len();
        let code = file.bytes[CODE_OFFSET as usize..][..100].to_vec();
        file.bytes[end..].fill(0);
        file.bytes[CODE_OFFSET as usize..][..100].copy_from_slice(&code);
        check(&dir, &format!("path size {what}"), &file.build());
    }
    for (what, offset) in [("behind the end", 1 << 30), ("negative", u64::MAX), ("largest", i64::MAX as u64)]
    {
        let mut file = File::interpreted(ET_DYN, &good);
        file.phdrs[1].p_offset = offset;
        check(&dir, &format!("path offset {what}"), &file.build());
    }
    // The first one counts.
    let mut file = File::interpreted(ET_DYN, &good);
    file.add(Phdr { p_type: PT_INTERP, p_filesz: 1, ..Phdr::default() });
    check(&dir, "two interpreters", &file.build());
}

/// Random changes of fields, from a fixed seed; `ORACLE_ROUNDS` asks for more of them.
#[test]
fn random_fields() {
    let rounds = std::env::var("ORACLE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(600u32);
    let dir = Dir::new("random");
    let interp = dir.write("interp", &File::interpreter().build());
    let interp = [interp.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    };
    let mut seen = [0; 3];
    for round in 0..rounds {
        let e_type = if random(2) == 0 { ET_EXEC } else { ET_DYN };
        let mut file = if random(3) == 0 { File::interpreted(e_type, &interp) } else { File::good(e_type) };
        if random(2) == 0 {
            let mut second = file.phdrs[0];
            second.p_vaddr += 0x1000 * random(8);
            second.p_flags = random(8) as u32;
            file.add(second);
        }
        for _ in 0..=random(3) {
            // Addresses below the first page that others may map are left to another test: root may map them.
            let value = match random(8) {
                0 => 0,
                1 => random(0x4000),
                2 => random(16) * 0x1000,
                3 => BASE + random(16) * 0x1000,
                4 => u64::MAX - random(0x4000),
                5 => TASK_SIZE - random(4) * 0x1000,
                6 => 1 << random(64),
                _ => i64::MAX as u64 - random(0x2000),
            };
            let which = random(file.phdrs.len() as u64) as usize;
            let phdr = &mut file.phdrs[which];
            match random(9) {
                0 => phdr.p_offset = value,
                1 => phdr.p_vaddr = value,
                2 => phdr.p_filesz = value,
                3 => phdr.p_memsz = value,
                4 => phdr.p_align = value,
                5 => phdr.p_flags = value as u32,
                6 => phdr.p_type = [PT_LOAD, PT_INTERP, PT_GNU_STACK, 0][random(4) as usize],
                7 => file.header.e_phoff = value,
                _ => file.header.e_phnum = random(4) as u16,
            }
        }
        match check(&dir, &format!("round {round}: {:x?} {:x?}", file.header, file.phdrs), &file.build()) {
            Outcome::Errno(_) => seen[0] += 1,
            Outcome::Killed => seen[1] += 1,
            Outcome::Ran(_) => seen[2] += 1,
        }
    }
    println!("{} errors, {} killed, {} ran", seen[0], seen[1], seen[2]);
}
