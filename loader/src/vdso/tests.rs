use goblin::elf::Elf;

use super::*;

#[test]
fn the_image_is_a_shared_object_as_linuxs() {
    let bytes = IMAGE;
    assert_eq!(bytes.len() as u64 % crate::PAGE_SIZE, 0);
    let elf = Elf::parse(bytes).unwrap();
    assert_eq!(elf.soname, Some("linux-vdso.so.1"));
    assert!(elf.is_lib);
    let names = ["clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"];
    for name in names {
        for (full, is_weak) in [(format!("__vdso_{name}"), false), (name.to_string(), true)] {
            let sym = elf.dynsyms.iter().find(|s| elf.dynstrtab.get_at(s.st_name) == Some(&full)).unwrap();
            assert!(sym.is_function() && sym.st_size > 0 && sym.st_shndx != 0);
            assert_eq!(sym.st_bind() == goblin::elf::sym::STB_WEAK, is_weak, "{full}");
        }
    }
    let verdef = elf.verdef.as_ref().unwrap();
    let versions: Vec<_> = verdef
        .iter()
        .map(|d| (d.vd_ndx, d.vd_hash, elf.dynstrtab.get_at(d.iter().next().unwrap().vda_name).unwrap()))
        .collect();
    // The hash is the one that Go has as a constant.
    assert_eq!(versions[1], (2, 0x03ae_75f6, "LINUX_2.6"));
    assert!(elf.versym.unwrap().iter().skip(1).all(|v| v.version() == 2));
}

#[test]
fn both_hash_tables_find_every_symbol() {
    let bytes = IMAGE;
    let elf = Elf::parse(bytes).unwrap();
    let dynamic = elf.dynamic.as_ref().unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let name_of = |i: usize| elf.dynstrtab.get_at(elf.dynsyms.get(i).unwrap().st_name).unwrap();
    let hash = dynamic.info.hash.unwrap() as usize;
    let gnu = dynamic.info.gnu_hash.unwrap() as usize;
    let (buckets, chains) = (word(hash) as usize, word(hash + 4) as usize);
    assert_eq!(chains, elf.dynsyms.len());
    for wanted in 1..elf.dynsyms.len() {
        let name = name_of(wanted);
        let mut h = 0u32;
        for b in name.bytes() {
            h = (h << 4) + u32::from(b);
            let g = h & 0xf000_0000;
            h = (h ^ g >> 24) & !g;
        }
        let mut i = word(hash + 8 + 4 * (h as usize % buckets)) as usize;
        while i != 0 && name_of(i) != name {
            i = word(hash + 8 + 4 * (buckets + i)) as usize;
        }
        assert_eq!(i, wanted, "DT_HASH {name}");

        let h = name.bytes().fold(5381u32, |h, b| h.wrapping_mul(33).wrapping_add(u32::from(b)));
        let (buckets, first) = (word(gnu) as usize, word(gnu + 4) as usize);
        let bloom = u64::from_le_bytes(bytes[gnu + 16..gnu + 24].try_into().unwrap());
        assert!(bloom >> (h % 64) & 1 == 1 && bloom >> ((h >> word(gnu + 12)) % 64) & 1 == 1);
        let mut i = word(gnu + 24 + 4 * (h as usize % buckets)) as usize;
        loop {
            let chain = word(gnu + 24 + 4 * buckets + 4 * (i - first));
            if chain | 1 == h | 1 && name_of(i) == name {
                break;
            }
            assert_eq!(chain & 1, 0, "DT_GNU_HASH {name}");
            i += 1;
        }
        assert_eq!(i, wanted);
    }
}

#[test]
fn times_are_those_of_a_linear_function() {
    let mut page = VvarPage { tsc_base: 1000, shift: 48, ..VvarPage::default() };
    page.clocks[1] = ClockParams { sec: 5, nsec: 999_999_990, mult: 1 << 47, reserved: 0 };
    assert_eq!(page.time_at(1, 1000), Some((5, 999_999_990)));
    assert_eq!(page.time_at(1, 10), Some((5, 999_999_990)));
    assert_eq!(page.time_at(1, 1020), Some((6, 0)));
    assert_eq!(page.time_at(1, 1000 + 20_000_000_000), Some((15, 999_999_990)));
    assert_eq!(page.time_at(2, 1000), None);
    assert_eq!(page.time_at(8, 1000), None);
    assert_eq!(size_of::<VvarPage>(), 320);
}
