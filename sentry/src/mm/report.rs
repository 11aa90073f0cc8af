//! What /proc and getrusage(2) tell of an address space.

use std::fmt::Write as _;
use std::ops::Range;

use base::PAGE_SIZE;
use base::memmap::{Access, MappedFile};

use super::MemoryManager;
use super::pma::Pma;
use super::policy::Policy;
use super::vma::{Backing, VmFlags, VmName, VmSizes, Vma};

/// Numbers of `/proc/PID/status` and `statm`, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUse {
    /// Mapped, by kind.
    pub sizes: VmSizes,
    /// `VmPeak`.
    pub peak_vm: u64,
    /// `VmHWM`; an upper bound, since it counts promised pages, too.
    pub peak_rss: u64,
    /// `RssAnon`.
    pub rss_anon: u64,
    /// `RssFile` and `RssShmem` together.
    pub rss_file: u64,
    /// The program's own text in whole pages, of `sizes.exec`: `VmExe`.
    pub text: u64,
}

impl MemoryUse {
    /// `VmRSS`.
    pub fn rss(&self) -> u64 {
        self.rss_anon + self.rss_file
    }
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug)]
pub struct Region {
    /// The addresses.
    pub range: Range<u64>,
    /// The flags.
    pub flags: VmFlags,
    /// The offset in the file.
    pub offset: u64,
    /// Device of the file.
    pub dev: u64,
    /// Inode number of the file.
    pub ino: u64,
    /// Path, or name in brackets; may be empty.
    pub name: Vec<u8>,
    /// Bytes present of private, anonymous memory.
    pub anon: u64,
    /// Bytes present of files.
    pub file: u64,
    /// mbind(2).
    pub policy: Option<Policy>,
    /// How its pages are shared, where that was asked for.
    pub sharing: Sharing,
}

/// Bytes that are present, by who else has them and whether they were written.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "proc_pid_smaps(5) explains each")]
pub struct Sharing {
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    /// In `1 << PSS_SHIFT` parts of a byte, as Linux counts.
    pss: u64,
    pss_dirty: u64,
    pss_anon: u64,
}

impl Sharing {
    const PSS_SHIFT: u32 = 12;

    fn add_page(&mut self, users: u32, is_dirty: bool, is_anon: bool) {
        let field = match (users > 1, is_dirty) {
            (false, false) => &mut self.private_clean,
            (false, true) => &mut self.private_dirty,
            (true, false) => &mut self.shared_clean,
            (true, true) => &mut self.shared_dirty,
        };
        *field += PAGE_SIZE;
        let part = (PAGE_SIZE << Self::PSS_SHIFT) / u64::from(users.max(1));
        self.pss += part;
        self.pss_dirty += if is_dirty { part } else { 0 };
        self.pss_anon += if is_anon { part } else { 0 };
    }

    /// Counts what `other` counted as well.
    pub fn add(&mut self, other: &Self) {
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.pss += other.pss;
        self.pss_dirty += other.pss_dirty;
        self.pss_anon += other.pss_anon;
    }

    /// Of each page the part that falls to this process; of those that were written; of anonymous ones.
    pub fn pss(&self) -> [u64; 3] {
        [self.pss, self.pss_dirty, self.pss_anon].map(|parts| parts >> Self::PSS_SHIFT)
    }
}

/// Whether each page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only what the areas tell.
    Areas,
    /// Also how pages are shared.
    Pages,
}

impl MemoryManager {
    /// The numbers of `/proc/PID/status`.
    pub fn memory_use(&self) -> MemoryUse {
        let st = self.state.read();
        let (_, rss_file) = st.pmas.sizes();
        let all = st.pmas.overlapping(0..self.range.end);
        let rss_anon = all.filter(|(_, p)| p.anon).map(|(s, p)| self.provided(s, &p)).sum();
        MemoryUse {
            sizes: st.vmas.sizes(),
            peak_vm: st.peak_vm,
            peak_rss: st.peak_rss,
            rss_anon,
            rss_file,
            text: base::page_up(st.layout.end_code)
                .unwrap_or(0)
                .saturating_sub(base::page_down(st.layout.start_code)),
        }
    }

    /// How many bytes of an anonymous piece the host has provided; the rest is only promised.
    fn provided(&self, start: u64, p: &Pma) -> u64 {
        let mut bytes = 0;
        self.each_provided(start, p, |_| bytes += PAGE_SIZE);
        bytes
    }

    /// Calls `f` with the offset of each of those pages.
    fn each_provided(&self, start: u64, p: &Pma, mut f: impl FnMut(u64)) {
        let mut answers = [0; 512];
        let pages = ((p.end - start) / PAGE_SIZE) as usize;
        for first in (0..pages).step_by(answers.len()) {
            let answers = &mut answers[..(pages - first).min(512)];
            let offset = p.off + first as u64 * PAGE_SIZE;
            self.memory.provided(offset, answers);
            let present = answers.iter().enumerate().filter(|(_, a)| **a != 0);
            present.for_each(|(i, _)| f(offset + i as u64 * PAGE_SIZE));
        }
    }

    /// How the pages of a piece are shared. Those of a file are also the file's.
    fn sharing(&self, start: u64, p: &Pma, sharing: &mut Sharing) {
        if p.anon {
            self.each_provided(start, p, |offset| {
                sharing.add_page(self.memory.references(offset), true, true);
            });
            return;
        }
        let is_dirty = p.access.contains(Access::WRITE);
        for offset in (p.off..p.off + (p.end - start)).step_by(PAGE_SIZE as usize) {
            sharing.add_page(self.memory.references(offset).saturating_sub(1), is_dirty, false);
        }
    }

    /// The number of areas.
    pub fn region_count(&self) -> usize {
        self.state.read().vmas.count()
    }

    /// All areas in order.
    pub fn regions(&self, detail: Detail) -> Vec<Region> {
        // Paths are asked for after the lock: they need outer ones.
        let mut files: Vec<Option<MappedFile>> = Vec::new();
        let mut regions: Vec<Region> = Vec::new();
        let mut last: Option<&Vma> = None;
        {
            let st = self.state.read();
            let layout = &st.layout;
            for v in st.vmas.iter() {
                let (mut anon, mut file) = (0, 0);
                let mut sharing = Sharing::default();
                for (s, p) in st.pmas.overlapping(v.start..v.end) {
                    if p.anon {
                        anon += self.provided(s, &p);
                    } else {
                        file += p.end - s;
                    }
                    if detail == Detail::Pages {
                        self.sharing(s, &p, &mut sharing);
                    }
                }
                if let Some(region) = regions.last_mut()
                    && last.is_some_and(|l| l.is_one_with(v))
                {
                    region.range.end = v.end;
                    region.anon += anon;
                    region.file += file;
                    region.sharing.add(&sharing);
                    last = Some(v);
                    continue;
                }
                last = Some(v);
                // Linux 6.12 fs/proc/task_mmu.c, get_vma_name.
                let name = match (&v.name, &v.backing) {
                    (VmName::Special(name), _) => name.as_bytes().to_vec(),
                    (_, Backing::File { .. }) => Vec::new(),
                    _ if v.start <= layout.brk
                        && v.end >= layout.start_brk
                        && layout.brk > layout.start_brk =>
                    {
                        b"[heap]".to_vec()
                    }
                    _ if v.start <= layout.start_stack && v.end >= layout.start_stack => b"[stack]".to_vec(),
                    (VmName::Anon(name), _) => [b"[anon:", &**name, b"]"].concat(),
                    (VmName::None, _) => Vec::new(),
                };
                files.push(match (&v.name, &v.backing) {
                    (VmName::Special(_), _) | (_, Backing::Anonymous) => None,
                    (_, Backing::File { file, .. }) => Some(file.clone()),
                });
                regions.push(Region {
                    range: v.start..v.end,
                    flags: if v.is_vdso() {
                        v.flags - (VmFlags::SHARED | VmFlags::MAYSHARE)
                    } else {
                        v.flags
                    },
                    offset: v.file_offset(v.start),
                    dev: 0,
                    ino: 0,
                    name,
                    anon,
                    file,
                    policy: v.policy.as_deref().copied(),
                    sharing,
                });
            }
        }
        for (region, file) in regions.iter_mut().zip(files) {
            if let Some(file) = file {
                (region.dev, region.ino) = file.origin.id();
                region.name = file.origin.path();
            } else {
                region.offset = 0;
            }
        }
        regions
    }

    /// The text of `/proc/PID/maps`.
    pub fn maps_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for region in self.regions(Detail::Areas) {
            push_line(&mut text, &region);
        }
        text
    }

    /// The text of `/proc/PID/numa_maps`: Linux 6.18 fs/proc/task_mmu.c, show_numa_map. `own` is the policy of the thread.
    pub fn numa_maps_text(&self, own: Option<Policy>) -> Vec<u8> {
        let mut text = Vec::new();
        for r in self.regions(Detail::Areas) {
            let policy = r.policy.or(own).map_or_else(|| "default".to_owned(), |p| p.text());
            text.extend_from_slice(format!("{:08x} {policy}", r.range.start).as_bytes());
            match &*r.name {
                b"[heap]" => text.extend_from_slice(b" heap"),
                b"[stack]" => text.extend_from_slice(b" stack"),
                name if name.first() == Some(&b'/') => {
                    text.extend_from_slice(b" file=");
                    for &b in name {
                        match b {
                            b'\n' | b'\t' | b'=' | b' ' => {
                                text.extend_from_slice(format!("\\{b:03o}").as_bytes())
                            }
                            _ => text.push(b),
                        }
                    }
                }
                _ => {}
            }
            let (anon, all) = (r.anon / PAGE_SIZE, (r.anon + r.file) / PAGE_SIZE);
            if all > 0 {
                let mut rest = String::new();
                if anon > 0 {
                    // What a program has written, nobody has cleaned.
                    let _ = write!(rest, " anon={anon} dirty={anon}");
                }
                if all != anon {
                    let _ = write!(rest, " mapped={all}");
                }
                let _ = write!(rest, " N0={all} kernelpagesize_kB={}", PAGE_SIZE / 1024);
                text.extend_from_slice(rest.as_bytes());
            }
            text.push(b'\n');
        }
        text
    }

    /// The text of `/proc/PID/smaps`.
    pub fn smaps_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for r in self.regions(Detail::Pages) {
            push_line(&mut text, &r);
            let mut s = String::new();
            let shared = r.flags.contains(VmFlags::MAYSHARE);
            let rss = r.anon + r.file;
            let [pss, pss_dirty, _] = r.sharing.pss();
            let of = |yes: bool, n: u64| if yes { n } else { 0 };
            let rows = [
                ("Size", r.range.end - r.range.start),
                ("KernelPageSize", PAGE_SIZE),
                ("MMUPageSize", PAGE_SIZE),
                ("Rss", rss),
                ("Pss", pss),
                ("Pss_Dirty", pss_dirty),
                ("Shared_Clean", r.sharing.shared_clean),
                ("Shared_Dirty", r.sharing.shared_dirty),
                ("Private_Clean", r.sharing.private_clean),
                ("Private_Dirty", r.sharing.private_dirty),
                ("Referenced", rss),
                ("Anonymous", of(!shared, r.anon)),
                ("KSM", 0),
                ("LazyFree", 0),
                ("AnonHugePages", 0),
                ("ShmemPmdMapped", 0),
                ("FilePmdMapped", 0),
                ("Shared_Hugetlb", 0),
                ("Private_Hugetlb", 0),
                ("Swap", 0),
                ("SwapPss", 0),
                ("Locked", of(r.flags.contains(VmFlags::LOCKED), rss)),
            ];
            for (name, bytes) in rows {
                // Writing to a String cannot fail.
                let _ = writeln!(s, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
            }
            let _ = writeln!(s, "THPeligible:           0");
            let _ = writeln!(s, "VmFlags:{} ", vm_flags(r.flags));
            text.extend_from_slice(s.as_bytes());
        }
        text
    }
}

/// Appends a line of `/proc/PID/maps`: Linux 6.12 fs/proc/task_mmu.c, show_map_vma.
fn push_line(text: &mut Vec<u8>, r: &Region) {
    let bit = |flag: VmFlags, c: char| if r.flags.contains(flag) { c } else { '-' };
    let start = text.len();
    let head = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        r.range.start,
        r.range.end,
        bit(VmFlags::READ, 'r'),
        bit(VmFlags::WRITE, 'w'),
        bit(VmFlags::EXEC, 'x'),
        if r.flags.contains(VmFlags::MAYSHARE) { 's' } else { 'p' },
        r.offset,
        // The kernel's own encoding of a device: minor in the low 20 bits. `id` gives the one of stat(2).
        (r.dev >> 8) & 0xfff,
        (r.dev & 0xff) | ((r.dev >> 12) & !0xff),
        r.ino,
    );
    text.extend_from_slice(head.as_bytes());
    if !r.name.is_empty() {
        // seq_pad: the name begins in column 73.
        while text.len() - start < 73 {
            text.push(b' ');
        }
        for &b in &r.name {
            if b == b'\n' { text.extend_from_slice(b"\\012") } else { text.push(b) }
        }
    }
    text.push(b'\n');
}

/// The two-letter codes of `VmFlags:` in smaps.
fn vm_flags(flags: VmFlags) -> String {
    let codes = [
        (VmFlags::READ, "rd"),
        (VmFlags::WRITE, "wr"),
        (VmFlags::EXEC, "ex"),
        (VmFlags::SHARED, "sh"),
        (VmFlags::MAYREAD, "mr"),
        (VmFlags::MAYWRITE, "mw"),
        (VmFlags::MAYEXEC, "me"),
        (VmFlags::MAYSHARE, "ms"),
        (VmFlags::GROWSDOWN, "gd"),
        (VmFlags::LOCKED, "lo"),
        (VmFlags::SEQ_READ, "sr"),
        (VmFlags::RAND_READ, "rr"),
        (VmFlags::DONTCOPY, "dc"),
        (VmFlags::DONTEXPAND, "de"),
        (VmFlags::ACCOUNT, "ac"),
        (VmFlags::NORESERVE, "nr"),
        (VmFlags::WIPEONFORK, "wf"),
        (VmFlags::DONTDUMP, "dd"),
        (VmFlags::HUGEPAGE, "hg"),
        (VmFlags::NOHUGEPAGE, "nh"),
        (VmFlags::MERGEABLE, "mg"),
        (VmFlags::SEALED, "sl"),
    ];
    codes.iter().filter(|(f, _)| flags.contains(*f)).fold(String::new(), |s, (_, code)| s + " " + code)
}
