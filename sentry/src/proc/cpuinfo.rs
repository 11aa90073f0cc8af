//! `/proc/cpuinfo`: the processor as CPUID shows it to guests (Linux arch/x86/kernel/cpu/proc.c).

use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::kernel::Kernel;
use crate::task::attributes::cpu_numbers;

/// A register of a CPUID leaf and the names of its bits, lowest first; `-` where Linux shows none.
struct Word {
    leaf: u32,
    index: u32,
    register: usize,
    names: &'static str,
}

const fn word(leaf: u32, index: u32, register: usize, names: &'static str) -> Word {
    Word { leaf, index, register, names }
}

/// Linux arch/x86/include/asm/cpufeatures.h.
const WORDS: &[Word] = &[
    word(
        1,
        0,
        3,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    word(
        0x8000_0001,
        0,
        3,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    word(0x8000_0007, 0, 3, "- - - - - - - - constant_tsc"),
    word(
        1,
        0,
        2,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 \
         x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    ),
    word(
        0x8000_0001,
        0,
        2,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
         fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    ),
    word(
        7,
        0,
        1,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx \
         smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    word(0xd, 1, 0, "xsaveopt xsavec xgetbv1 xsaves"),
    word(7, 1, 0, "- - - - avx_vnni avx512_bf16 - - - - - - - - - - - - - - - - - avx_ifma"),
    word(
        0x8000_0008,
        0,
        1,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp",
    ),
    word(
        7,
        0,
        2,
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme \
         avx512_vpopcntdq - - - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc",
    ),
    word(
        7,
        0,
        3,
        "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig \
         arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities",
    ),
];

const AVX: u64 = 1 << 2;
const AVX512: u64 = 7 << 5;
const PKU: u64 = 1 << 9;
const AMX: u64 = 3 << 17;

/// The extended state (XCR0) that the instructions of a flag need.
fn needs(flag: &str) -> u64 {
    match flag {
        f if f.starts_with("avx512") => AVX | AVX512,
        f if f.starts_with("avx") => AVX,
        "fma" | "f16c" | "vaes" | "vpclmulqdq" | "xop" | "fma4" => AVX,
        f if f.starts_with("amx") => AMX,
        "pku" | "ospke" => PKU,
        _ => 0,
    }
}

/// What the rest of the kernel asks of CPUID.
pub(super) struct Cpu<'a>(pub(super) &'a Kernel);

/// A cache as CPUID's leaf 4 tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// 1 data, 2 instructions, 3 both.
    pub(super) kind: u32,
    pub(super) level: u32,
    pub(super) line: u64,
    pub(super) partitions: u64,
    pub(super) ways: u64,
    pub(super) sets: u64,
}

impl Cache {
    pub(super) fn bytes(&self) -> u64 {
        self.line * self.partitions * self.ways * self.sets
    }
}

impl Cpu<'_> {
    fn leaf(&self, leaf: u32, index: u32) -> [u32; 4] {
        let max = self.0.platform.cpuid(leaf & 0x8000_0000, 0)[0];
        if leaf > max { [0; 4] } else { self.0.platform.cpuid(leaf, index) }
    }

    /// The caches, from the first level on.
    pub(super) fn caches(&self) -> Vec<Cache> {
        let from = |leaf: u32| -> Vec<Cache> {
            (0..8)
                .map(|i| self.leaf(leaf, i))
                .take_while(|r| r[0] & 31 != 0)
                .map(|[eax, ebx, ecx, _]| Cache {
                    kind: eax & 31,
                    level: eax >> 5 & 7,
                    line: u64::from(ebx & 0xfff) + 1,
                    partitions: u64::from(ebx >> 12 & 0x3ff) + 1,
                    ways: u64::from(ebx >> 22) + 1,
                    sets: u64::from(ecx) + 1,
                })
                .collect()
        };
        let intel = from(4);
        if intel.is_empty() { from(0x8000_001d) } else { intel }
    }

    fn flags(&self) -> String {
        let enabled = self.0.platform.xsave_layout().features;
        let mut flags: Vec<&str> = Vec::new();
        for w in WORDS {
            let bits = self.leaf(w.leaf, w.index)[w.register];
            let named = w.names.split_whitespace().enumerate();
            flags.extend(named.filter(|(i, name)| bits >> i & 1 == 1 && *name != "-").map(|(_, name)| name));
            if w.leaf == 0x8000_0007 {
                // The invariant counter, under Linux's second name; and what every x86-64 processor has.
                flags.extend(["rep_good", "nopl"]);
                flags.extend((bits >> 8 & 1 == 1).then_some("nonstop_tsc"));
                flags.push("cpuid");
            }
        }
        flags.retain(|f| needs(f) & !enabled == 0);
        flags.join(" ")
    }

    fn name(&self, leaves: std::ops::RangeInclusive<u32>) -> String {
        let bytes: Vec<u8> =
            leaves.flat_map(|l| self.leaf(l, 0)).flat_map(u32::to_le_bytes).take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn vendor(&self) -> String {
        let [_, b, c, d] = self.leaf(0, 0);
        let bytes: Vec<u8> = [b, d, c].into_iter().flat_map(u32::to_le_bytes).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The counter's frequency, which is the processor's nominal one.
pub(super) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| host::clock::tsc_khz().unwrap_or_else(measure))
}

fn measure() -> u64 {
    let now = || (host::clock::tsc(), host::clock::now_ns(host::clock::HostClock::MonotonicRaw));
    let (tsc, ns) = now();
    std::thread::sleep(std::time::Duration::from_millis(10));
    let (tsc2, ns2) = now();
    let elapsed = u64::try_from(ns2.saturating_sub(ns)).unwrap_or(1).max(1);
    tsc2.saturating_sub(tsc).saturating_mul(1_000_000) / elapsed
}

/// `/proc/cpuinfo`.
pub(super) fn text(kernel: &Kernel) -> String {
    let cpu = Cpu(kernel);
    let max = cpu.leaf(0, 0)[0];
    let [version, misc, ..] = cpu.leaf(1, 0);
    // Intel SDM vol. 2, CPUID leaf 1.
    let base_family = version >> 8 & 15;
    let family = if base_family == 15 { base_family + (version >> 20 & 255) } else { base_family };
    let extended = if base_family == 6 || base_family == 15 { (version >> 16 & 15) << 4 } else { 0 };
    let model = (version >> 4 & 15) | extended;
    let stepping = version & 15;
    let line = (misc >> 8 & 255) * 8;
    let sizes = cpu.leaf(0x8000_0008, 0)[0];
    let caches = cpu.caches();
    let cache = caches.iter().max_by_key(|c| c.level).map_or(0, |c| c.bytes() / 1024);
    let khz = khz();
    let count = kernel.system.cpu_count();
    let flags = cpu.flags();
    let (vendor, name) = (cpu.vendor(), cpu.name(0x8000_0002..=0x8000_0004));
    let mut text = String::new();
    for n in cpu_numbers(&kernel.system.cpus) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {name}\nstepping\t: {stepping}\ncpu MHz\t\t: {}.{:03}\ncache size\t: {cache} KB\n\
             physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {n}\ncpu cores\t: {count}\napicid\t\t: {n}\n\
             initial apicid\t: {n}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {max}\nwp\t\t: yes\n\
             flags\t\t: {flags}\nbogomips\t: {}.{:02}\nclflush size\t: {line}\ncache_alignment\t: {line}\n\
             address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            khz / 1000,
            khz % 1000,
            khz * 2 / 1000,
            khz * 2 % 1000 / 10,
            sizes & 255,
            // Guests have four levels of page tables, whatever the processor knows.
            (sizes >> 8 & 255).min(48),
        );
    }
    text
}
