//! A deterministic fuzzer: real files, changed where it hurts, and the promises that must hold whatever they say.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use abi::Errno;
use abi::errno::EIO;
use ringfence_loader::elf::{self, Access, Image, Kind, Placement, ReadAt, Source};
use ringfence_loader::layout::{HeapPlace, Layout, PIE_BASE, Randomness};
use ringfence_loader::stack::{AuxInput, StackInput, StackPlan};
use ringfence_loader::{PAGE_SIZE, PATH_MAX, TASK_SIZE, script};

/// Files to start from; those that do not exist are left out.
const SEEDS: &[&str] = &[
    "/bin/true",
    "/bin/bash",
    "/bin/busybox",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/bin/python3",
];
const SCRIPTS: &[&str] = &[
    "#!/bin/sh\necho\n",
    "#! /usr/bin/env -S python3 -u\n",
    "#!/bin/sh",
    "#!\t \n",
    "#!/usr/bin/awk -f  \t\n",
];
/// No read of the loader is larger, nor are all reads of one parse together.
const READ_MAX: usize = 65536;
const READ_TOTAL: usize = 3 * READ_MAX;

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) executions: u64,
    pub(crate) parsed: u64,
    pub(crate) placed: u64,
    pub(crate) refused: u64,
    pub(crate) scripts: u64,
    pub(crate) stacks: u64,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} executions in {:.1} s: {} files refused, {} parsed, {} placements, {} scripts, {} stacks",
            self.executions,
            self.elapsed.as_secs_f64(),
            self.refused,
            self.parsed,
            self.placed,
            self.scripts,
            self.stacks
        )
    }
}

/// xorshift64*: small, fast, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number that programs tend to get wrong.
    fn number(&mut self) -> u64 {
        let near = self.below(5) as u64;
        let base = match self.below(12) {
            0 => 0,
            1 => 1 << self.below(64),
            2 => TASK_SIZE,
            3 => i64::MAX as u64,
            4 => u64::MAX,
            5 => PAGE_SIZE,
            6 => u64::from(u32::MAX),
            7 => self.below(0x1000) as u64,
            8 => self.below(0x100) as u64 * PAGE_SIZE,
            9 => PIE_BASE,
            10 => (!0u64) << self.below(64),
            _ => self.next(),
        };
        if self.one_in(2) { base } else { base.wrapping_add(near).wrapping_sub(2) }
    }
}

/// A file with changes on top.
struct Mutated<'a> {
    base: &'a [u8],
    len: u64,
    patches: Vec<(u64, Vec<u8>)>,
    /// Reads return less than asked for, or fail, now and then.
    trouble: Cell<u64>,
    read: Cell<usize>,
}

impl ReadAt for Mutated<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        assert!(buf.len() <= READ_MAX, "a read of {} bytes", buf.len());
        self.read.set(self.read.get() + buf.len());
        assert!(self.read.get() <= READ_TOTAL, "{} bytes read", self.read.get());
        let mut len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        if self.trouble.get() != 0 {
            self.trouble.set(self.trouble.get() - 1);
            match self.trouble.get() {
                0 => return Err(EIO),
                // Not so short that the total of all reads grows beyond reason.
                n if n % 3 == 0 && len > 64 => len -= 7,
                _ => {}
            }
        }
        let buf = &mut buf[..len];
        buf.fill(0);
        copy_overlap(buf, offset, self.base, 0);
        for (at, bytes) in &self.patches {
            copy_overlap(buf, offset, bytes, *at);
        }
        Ok(len)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// Copies the bytes that lie at `at` to where they meet `buf`, which lies at `offset`.
fn copy_overlap(buf: &mut [u8], offset: u64, bytes: &[u8], at: u64) {
    let start = offset.max(at);
    let end = offset.saturating_add(buf.len() as u64).min(at.saturating_add(bytes.len() as u64));
    if start < end {
        let (to, from) = ((start - offset) as usize, (start - at) as usize);
        let len = (end - start) as usize;
        buf[to..to + len].copy_from_slice(&bytes[from..from + len]);
    }
}

impl<'a> Mutated<'a> {
    fn new(base: &'a [u8], r: &mut Random) -> Self {
        let mut file = Self {
            base,
            len: base.len() as u64,
            patches: Vec::new(),
            trouble: Cell::new(if r.one_in(8) { 1 + r.below(12) as u64 } else { 0 }),
            read: Cell::new(0),
        };
        for _ in 0..=r.below(6) {
            if base.starts_with(b"#!") { file.change_text(r) } else { file.change_elf(r) }
        }
        if r.one_in(10) {
            file.len = if r.one_in(2) { r.below(4096) as u64 } else { r.number() };
        }
        file
    }

    /// Changes one field of the header or of a program header, or bytes of the head.
    fn change_elf(&mut self, r: &mut Random) {
        const HEADER: &[(u64, usize)] = &[
            (0, 4),
            (4, 1),
            (16, 2),
            (18, 2),
            (20, 4),
            (24, 8),
            (32, 8),
            (40, 8),
            (52, 2),
            (54, 2),
            (56, 2),
        ];
        const PHDR: &[(u64, usize)] = &[(0, 4), (4, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)];
        const TYPES: &[u64] = &[0, 1, 2, 3, 4, 6, 7, 0x6474_e551, 0x6474_e553, 0x7000_0000];
        let phdr = |r: &mut Random| 64 + 56 * r.below(14) as u64;
        match r.below(10) {
            0..2 => {
                let (at, size) = HEADER[r.below(HEADER.len())];
                self.set(at, r.number(), size);
            }
            2..6 => {
                let (at, size) = PHDR[r.below(PHDR.len())];
                let base = phdr(r);
                self.set(base + at, r.number(), size);
            }
            6 => {
                let at = phdr(r);
                self.set(at, TYPES[r.below(TYPES.len())], 4);
            }
            7 => {
                // One program header over another.
                let from = phdr(r) as usize;
                let to = phdr(r);
                if let Some(bytes) = self.base.get(from..from + 56) {
                    self.patches.push((to, bytes.to_vec()));
                }
            }
            8 => self.set(56, r.below(1200) as u64, 2),
            _ => {
                let at = r.below(1024) as u64;
                let bytes = (0..=r.below(8)).map(|_| r.next() as u8).collect();
                self.patches.push((at, bytes));
            }
        }
    }

    fn change_text(&mut self, r: &mut Random) {
        const BYTES: &[u8] = b"\0\n \t#!/a\r\xff";
        let at = if r.one_in(3) { 240 + r.below(20) } else { r.below(30) } as u64;
        let byte = BYTES[r.below(BYTES.len())];
        let count = if r.one_in(4) { r.below(260) } else { 1 };
        self.patches.push((at, vec![byte; count]));
        self.len = self.len.max(at + count as u64);
    }

    fn set(&mut self, at: u64, value: u64, size: usize) {
        self.patches.push((at, value.to_le_bytes()[..size].to_vec()));
    }
}

/// Runs for `time`, from `seed`.
///
/// # Panics
///
/// When the loader breaks a promise.
pub(crate) fn run(seed: u64, time: Duration) -> Report {
    let seeds: Vec<Vec<u8>> = SEEDS.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    let scripts: Vec<Vec<u8>> = SCRIPTS.iter().map(|s| s.as_bytes().to_vec()).collect();
    let mut report = Report::default();
    let start = Instant::now();
    while report.executions % 256 != 0 || start.elapsed() < time {
        // Each round has its own seed, so it can be run again alone.
        let mut r = Random(seed.wrapping_add(report.executions).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        r.next();
        let base = if seeds.is_empty() || r.one_in(8) {
            &scripts[r.below(scripts.len())]
        } else {
            &seeds[r.below(seeds.len())]
        };
        let file = Mutated::new(base, &mut r);
        let round = report.executions;
        let result = catch_unwind(AssertUnwindSafe(|| exercise(&file, &mut r, &mut report)));
        if let Err(panic) = result {
            eprintln!("seed {seed}, round {round}: length {}, changes {:x?}", file.len, file.patches);
            resume_unwind(panic);
        }
        report.executions += 1;
    }
    report.elapsed = start.elapsed();
    report
}

/// Does with a file what execve(2) does, and more.
fn exercise(file: &Mutated<'_>, r: &mut Random, report: &mut Report) {
    if let Ok(head) = script::read_head(file)
        && let Ok(line) = script::parse(&head)
    {
        report.scripts += 1;
        for text in [Some(&line.interpreter), line.argument.as_ref()].into_iter().flatten() {
            assert!(text.len() < script::HEAD_SIZE && !text.contains(&0) && !text.contains(&b'\n'));
        }
        assert!(!line.interpreter.iter().any(|b| b" \t".contains(b)));
    }
    file.read.set(0);
    let program = elf::parse(file);
    file.read.set(0);
    let interpreter = elf::parse_interpreter(file);
    for image in [program, interpreter] {
        match image {
            Ok(image) => {
                report.parsed += 1;
                check_image(&image, r, report);
            }
            Err(_) => report.refused += 1,
        }
    }
    if r.one_in(16) {
        check_stack(r, report);
    }
}

fn check_image(image: &Image, r: &mut Random, report: &mut Report) {
    assert!(image.segments.len() <= 1170 && image.segments.len() <= usize::from(image.phdr_count));
    assert!(image.interp.as_ref().is_none_or(|path| path.len() < PATH_MAX && !path.contains(&0)));
    let random =
        Randomness { mmap: r.next(), pie: r.next(), stack: r.next(), stack_gap: r.next(), brk: r.next() };
    let layout = Layout::new((!r.one_in(4)).then_some(&random), r.number());
    let biases = [
        0,
        image.bias_for_base(layout.pie_base),
        image.bias_at(layout.mmap_base.wrapping_sub(image.span())),
        r.number(),
    ];
    for bias in biases {
        if let Ok(placed) = image.place(bias) {
            report.placed += 1;
            check_placement(image, &placed);
            let brk = layout.brk_start(placed.brk, HeapPlace::of(image));
            assert!(brk.is_multiple_of(PAGE_SIZE) && brk <= TASK_SIZE);
        }
    }
}

fn check_placement(image: &Image, placed: &Placement) {
    assert!(placed.ops.len() <= 2 * image.segments.len());
    assert!(placed.reserved.start <= placed.reserved.end && placed.reserved.end <= TASK_SIZE);
    for op in &placed.ops {
        assert!(op.len > 0 && op.addr % PAGE_SIZE == 0 && op.len % PAGE_SIZE == 0, "{op:?}");
        let end = op.addr.checked_add(op.len).filter(|&end| end <= TASK_SIZE);
        assert!(end.is_some(), "{op:?}");
        if let Source::File { offset } = op.source {
            assert!(offset % PAGE_SIZE == 0 && offset + op.len <= i64::MAX as u64, "{op:?}");
        }
        if let Some(clear) = &op.clear {
            assert!(op.access.contains(Access::WRITE) && clear.start < clear.end, "{op:?}");
            assert!(
                clear.start >= op.addr && Some(clear.end) == end && clear.end - clear.start < PAGE_SIZE,
                "{op:?}"
            );
        }
    }
    assert!(placed.brk.is_multiple_of(PAGE_SIZE));
    if image.interp.is_none() {
        assert!(placed.entry < TASK_SIZE);
    }
    assert!(image.kind != Kind::Other);
}

fn check_stack(r: &mut Random, report: &mut Report) {
    let mut strings = |n: usize| -> Vec<Vec<u8>> {
        let count = if r.one_in(20) { r.below(5000) } else { r.below(n) };
        let mut length = || if r.one_in(200) { r.below(140_000) } else { r.below(40) };
        (0..count).map(|i| vec![b'a' + (i % 26) as u8; length()]).collect()
    };
    let (args, env) = (strings(6), strings(30));
    let top = TASK_SIZE - r.below(1 << 20) as u64 * PAGE_SIZE;
    let input = StackInput {
        top,
        stack_limit: r.number(),
        path: b"/bin/true",
        args: &args,
        env: &env,
        random: [7; 16],
        gap: r.below(8192) as u64,
        aux: AuxInput {
            vdso: r.one_in(2).then_some(1),
            rseq: r.one_in(2).then_some((28, 32)),
            ..AuxInput::default()
        },
    };
    let Ok(plan) = StackPlan::new(&input) else { return };
    report.stacks += 1;
    assert!(plan.sp % 16 == 0 && plan.sp + plan.bytes.len() as u64 == top);
    let start = plan.mapping_start(top, input.stack_limit);
    assert!(start % PAGE_SIZE == 0 && start <= plan.sp);
    let word = |addr: u64| {
        let at = (addr - plan.sp) as usize;
        plan.bytes[at..at + 8].iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b))
    };
    let argc = word(plan.sp) as usize;
    assert_eq!(argc, args.len().max(1));
    let mut at = plan.sp + 8;
    for string in args.iter().chain(args.is_empty().then_some(&Vec::new())) {
        let from = (word(at) - plan.sp) as usize;
        assert!(plan.bytes[from..].starts_with(string) && plan.bytes[from + string.len()] == 0);
        at += 8;
    }
    assert_eq!(word(at), 0);
    at += 8;
    for string in &env {
        let from = (word(at) - plan.sp) as usize;
        assert!(plan.bytes[from..].starts_with(string) && plan.bytes[from + string.len()] == 0);
        at += 8;
    }
    assert_eq!(word(at), 0);
    assert_eq!((word(at + 8), word(at + 16)), plan.auxv[0]);
    assert!(plan.args.end == plan.env.start && plan.env.end < top);
}
