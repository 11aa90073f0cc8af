//! Memory management on a fake machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::UserAddr;
use abi::errno::{EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, ENAMETOOLONG, ENOMEM, EPERM};
use abi::mman::{MapFlags, Prot, RemapFlags, advice};
use base::PAGE_SIZE;
use base::io::{Sink, Source};
use base::memmap::{MemKind, Memory};

use super::*;
use fake::{BASE, FakeFile, FakeMemory, check, load, manager, manager_with, space, store};

pub(crate) mod fake;
mod model;

const P: u64 = PAGE_SIZE;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const AT: u64 = 0x10_0000_0000;

fn anon(mm: &MemoryManager, addr: u64, len: u64, prot: Prot) -> u64 {
    let flags = if addr == 0 { MapFlags::empty() } else { MapFlags::FIXED };
    mm.map(MapRequest::anonymous(addr, len, prot, flags)).expect("a mapping")
}

fn shared_file(addr: u64, len: u64, prot: Prot, file: &Arc<FakeFile>, writable: bool) -> MapRequest {
    MapRequest {
        kind: Some(MapType::Shared),
        backing: MapBacking::File(FileMapping {
            file: Ok(file.mapped()),
            offset: 0,
            readable: true,
            writable,
            append_only: false,
            noexec: false,
        }),
        ..MapRequest::anonymous(addr, len, prot, MapFlags::FIXED)
    }
}

fn lines(mm: &MemoryManager) -> Vec<(u64, u64, String)> {
    mm.regions(super::report::Detail::Areas)
        .iter()
        .map(|r| {
            let c = |f: VmFlags, c: char| if r.flags.contains(f) { c } else { '-' };
            let text: String =
                [c(VmFlags::READ, 'r'), c(VmFlags::WRITE, 'w'), c(VmFlags::EXEC, 'x')].iter().collect();
            ((r.range.start - AT) / P, (r.range.end - AT) / P, text)
        })
        .collect()
}

#[test]
fn mappings_split_and_join() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 10 * P, RW);
    anon(&mm, AT + 10 * P, 10 * P, RW);
    assert_eq!(lines(&mm), [(0, 20, "rw-".into())]);
    mm.protect(AT + 5 * P, 5 * P, 1).expect("protect");
    assert_eq!(lines(&mm), [(0, 5, "rw-".into()), (5, 10, "r--".into()), (10, 20, "rw-".into())]);
    mm.protect(AT + 5 * P, 5 * P, 3).expect("protect");
    assert_eq!(lines(&mm).len(), 1);
    mm.unmap(AT + 3 * P, P).expect("unmap");
    assert_eq!(lines(&mm), [(0, 3, "rw-".into()), (4, 20, "rw-".into())]);
    check(&mm);
    drop(mm);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn mmap_checks_in_linux_order() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let fixed = |addr, len, flags| mm.map(MapRequest::anonymous(addr, len, RW, flags | MapFlags::FIXED));
    let none = MapFlags::empty();
    assert_eq!(fixed(AT, 0, none), Err(EINVAL));
    assert_eq!(fixed(AT, u64::MAX, none), Err(ENOMEM));
    assert_eq!(fixed(!(P - 1), P, none), Err(ENOMEM));
    assert_eq!(fixed(AT + 1, P, none), Err(EINVAL));
    assert_eq!(fixed(0, P, none), Err(EPERM));
    assert_eq!(fixed(AT, P, none), Ok(AT));
    assert_eq!(fixed(AT, P, MapFlags::FIXED_NOREPLACE), Err(EEXIST));
    assert_eq!(fixed(AT + P, 1 << 40, none), Err(ENOMEM));
    assert_eq!(fixed(AT + P, 1 << 40, MapFlags::NORESERVE), Ok(AT + P));
    let bad = MapRequest { kind: None, ..MapRequest::anonymous(0, P, RW, none) };
    assert_eq!(mm.map(bad), Err(EINVAL));
    let file = FakeFile::new(&memory, 4);
    assert_eq!(mm.map(shared_file(AT, P, RW, &file, false)), Err(EACCES));
    assert_eq!(mm.map(shared_file(AT, P, Prot::READ, &file, false)), Ok(AT));
    assert_eq!(mm.protect(AT, P, 3), Err(EACCES));
    assert_eq!(mm.unmap(AT + 1, P), Err(EINVAL));
    assert_eq!(mm.unmap(AT, 0), Err(EINVAL));
    assert_eq!(mm.protect(AT - P, P, 3), Err(ENOMEM));
    assert_eq!(mm.protect(AT, P, 0x40), Err(EINVAL));
}

#[test]
fn mappings_are_placed_top_down_and_hints_are_honoured() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, P, RW);
    let b = anon(&mm, 0, P, RW);
    assert_eq!((a, b), (BASE - P, BASE - 2 * P));
    mm.unmap(a, P).expect("unmap");
    assert_eq!(anon(&mm, 0, P, RW), a);
    let hint = |addr| mm.map(MapRequest::anonymous(addr, P, RW, MapFlags::empty()));
    assert_eq!(hint(AT + 5), Ok(AT));
    assert_eq!(hint(AT), Ok(BASE - 3 * P));
    let low = mm.map(MapRequest::anonymous(0, P, RW, MapFlags::BIT32)).expect("low");
    assert_eq!(low, 0x4000_0000);
    assert_eq!(anon(&mm, 0, 4 << 20, RW) % (2 << 20), 0);
}

/// What the calling thread has used of a processor: other than the time, it does not depend on who else is busy.
fn processor_time() -> std::time::Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the host has schedstat");
    let ns = stat.split_whitespace().next().and_then(|word| word.parse().ok());
    std::time::Duration::from_nanos(ns.expect("it begins with nanoseconds"))
}

#[test]
fn thousands_of_mappings_are_placed_quickly() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let start = processor_time();
    for i in 0..20_000u64 {
        // Alternating access keeps them apart.
        let prot = if i % 2 == 0 { Prot::READ } else { Prot::empty() };
        anon(&mm, 0, P, prot);
    }
    for i in (0..20_000).step_by(4) {
        mm.unmap(BASE - (i + 1) * P, P).expect("unmap");
    }
    for _ in 0..4000 {
        assert!(anon(&mm, 0, 2 * P, Prot::READ) < BASE - 20_000 * P);
    }
    let used = processor_time() - start;
    assert!(used.as_secs() < 10, "{used:?}");
    mm.state.read().vmas.check();
}

#[test]
fn too_many_mappings_are_refused() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 70_000 * 2 * P, Prot::empty());
    let mut refused = None;
    for i in 0..70_000u64 {
        if let Err(e) = mm.protect(AT + (2 * i + 1) * P, P, 1) {
            refused = Some((i, e));
            break;
        }
    }
    let (i, e) = refused.expect("a limit");
    assert_eq!(e, ENOMEM);
    assert!((32_760..32_770).contains(&i), "{i}");
    assert_eq!(mm.unmap(AT + 100_000 * P, P), Ok(()));
    assert_eq!(mm.unmap(AT + 110_000 * P, P), Err(ENOMEM));
}

#[test]
fn reservations_cost_nothing() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = mm.map(MapRequest::anonymous(0, 16 << 40, Prot::empty(), MapFlags::NORESERVE)).expect("16 TiB");
    assert_eq!(memory.in_use(), 0);
    assert!(matches!(store(&mm, a, 1), Err(Fault::Denied)));
    mm.protect(a + (8 << 40), 1 << 20, 3).expect("protect");
    store(&mm, a + (8 << 40) + 12345, 7).expect("store");
    assert!(memory.in_use() <= 64);
    mm.unmap(a, 16 << 40).expect("unmap");
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn small_mappings_need_no_fault_and_sequential_use_few() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 64 << 10, RW);
    for i in 0..16 {
        store(&mm, a + i * P, 1).expect("store");
    }
    assert_eq!(mm.fault_count(), 0);
    let b = anon(&mm, 0, 64 << 20, RW);
    for at in (b..b + (64 << 20)).step_by(P as usize) {
        store(&mm, at, 1).expect("store");
    }
    assert!(mm.fault_count() < 50, "{}", mm.fault_count());
    assert!(memory.populated.load(Ordering::Relaxed) > 60 << 20);
    check(&mm);
}

#[test]
fn a_sparse_use_provides_the_touched_pages_only() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = mm.map(MapRequest::anonymous(0, 4 << 30, RW, MapFlags::NORESERVE)).expect("4 GiB");
    let mut x = 12345u64;
    for _ in 0..1000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        store(&mm, a + (x >> 20) % (4 << 30), 1).expect("store");
    }
    assert!(memory.populated.load(Ordering::Relaxed) <= 1000 * P);
    // Windows: at most 64 KiB of promises for each place.
    assert!(memory.in_use() <= 16_000);
}

const LARGE: u64 = base::memmap::LARGE_PAGE;

/// Bytes of `mm` that are in large memory.
fn large_bytes(mm: &MemoryManager) -> u64 {
    let st = mm.state.read();
    st.pmas.iter().filter(|(_, p)| mm.memory.is_large(p.off)).map(|(s, p)| p.end - s).sum()
}

/// An area of large pages, each page of which begins with the low byte of its number plus one.
fn large_area(mm: &MemoryManager, units: u64) -> u64 {
    let a = anon(mm, 0, units * LARGE, RW);
    mm.advise(a, units * LARGE, advice::HUGEPAGE).expect("madvise");
    for i in 0..units * LARGE / P {
        store(mm, a + i * P, (i as u8).wrapping_add(1)).expect("store");
    }
    assert_eq!(large_bytes(mm), units * LARGE);
    assert_eq!(mm.fault_count(), units);
    a
}

#[test]
fn areas_that_are_used_all_over_get_large_pages() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 8 * LARGE, RW);
    for at in (a..a + 8 * LARGE).step_by(P as usize) {
        store(&mm, at, 1).expect("store");
    }
    assert_eq!(large_bytes(&mm), 7 * LARGE, "all but the first, while the windows grow");
    mm.unmap(a, 8 * LARGE).expect("unmap");
    let a = anon(&mm, 0, 8 * LARGE, RW);
    mm.advise(a, 8 * LARGE, advice::NOHUGEPAGE).expect("madvise");
    for at in (a..a + 8 * LARGE).step_by(P as usize) {
        store(&mm, at, 1).expect("store");
    }
    assert_eq!(large_bytes(&mm), 0);
    let one = MapRequest::anonymous(AT + P, 3 * LARGE, RW, MapFlags::FIXED | MapFlags::POPULATE);
    mm.map(one).expect("mmap");
    assert_eq!(large_bytes(&mm), 2 * LARGE, "what is aligned");
    memory.set_limit(memory.in_use() + 256);
    let b = anon(&mm, 0, 2 * LARGE, RW);
    mm.advise(b, 2 * LARGE, advice::HUGEPAGE).expect("madvise");
    store(&mm, b, 1).expect("no room for a large page, but for this one");
    check(&mm);
}

#[test]
fn parts_of_large_pages_are_given_back_in_place_and_whole_ones_go() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = large_area(&mm, 4);
    mm.advise(a + LARGE - 100 * P, 2 * LARGE, advice::DONTNEED).expect("madvise");
    check(&mm);
    assert_eq!(large_bytes(&mm), 3 * LARGE, "the unit in the middle is gone");
    assert_eq!(memory.in_use() as u64 * P, 3 * LARGE);
    for i in 0..4 * LARGE / P {
        let gone = (512 - 100..3 * 512 - 100).contains(&i);
        assert_eq!(load(&mm, a + i * P).expect("load"), if gone { 0 } else { (i as u8).wrapping_add(1) });
    }
    mm.advise(a + 9 * P, 20 * P, advice::DONTNEED).expect("madvise");
    assert_eq!(load(&mm, a + 9 * P).expect("load"), 0);
    assert_eq!(load(&mm, a + 29 * P).expect("load"), 30);
    check(&mm);
}

#[test]
fn a_fork_shares_large_pages_and_gives_them_back_as_a_whole() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = large_area(&mm, 2);
    let child = mm.fork(Arc::default(), Writers::Others).expect("fork");
    check(&child);
    store(&child, a + 5 * P, 77).expect("store");
    store(&mm, a + 6 * P, 88).expect("store");
    assert_eq!((load(&mm, a + 5 * P).expect("load"), load(&child, a + 6 * P).expect("load")), (6, 7));
    assert!(memory.in_use() <= 1024 + 32, "small copies");
    check(&mm);
    check(&child);
    drop(child);
    let faults = mm.fault_count();
    for i in 512..1024 {
        store(&mm, a + i * P, 9).expect("store");
    }
    assert_eq!(mm.fault_count(), faults + 1);
    check(&mm);
    drop(mm);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn a_fork_shares_until_written() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 32 * P, RW);
    for i in 0..32 {
        store(&mm, a + i * P, i as u8).expect("store");
    }
    let used = memory.in_use();
    let child = mm.fork(Arc::default(), Writers::Others).expect("fork");
    assert_eq!(memory.in_use(), used);
    assert_eq!(load(&child, a + 9 * P).expect("load"), 9);
    assert_eq!(child.fault_count(), 0);
    store(&child, a + 9 * P, 100).expect("store");
    store(&mm, a + 9 * P + 1, 50).expect("store");
    assert_eq!(load(&mm, a + 9 * P).expect("load"), 9);
    assert_eq!(load(&child, a + 9 * P).expect("load"), 100);
    assert_eq!(load(&child, a + 9 * P + 1).expect("load"), 0);
    check(&mm);
    check(&child);
    let faults = mm.fault_count();
    drop(child);
    assert_eq!(memory.in_use(), used);
    // Alone again: one fault restores write access for the whole run.
    for i in 16..32 {
        store(&mm, a + i * P, 1).expect("store");
    }
    assert_eq!(mm.fault_count(), faults + 1);
    check(&mm);
    drop(mm);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn shared_mappings_stay_shared_over_a_fork() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let req =
        MapRequest { kind: Some(MapType::Shared), ..MapRequest::anonymous(0, 64 * P, RW, MapFlags::empty()) };
    let a = mm.map(req).expect("map");
    store(&mm, a + P, 1).expect("store");
    let child = mm.fork(Arc::default(), Writers::Others).expect("fork");
    store(&child, a + P, 2).expect("store");
    store(&child, a + 40 * P, 3).expect("store");
    assert_eq!(load(&mm, a + P).expect("load"), 2);
    assert_eq!(load(&mm, a + 40 * P).expect("load"), 3);
    let key = |mm: &MemoryManager, addr| mm.futex_key(UserAddr(addr), FutexScope::Shared).expect("key");
    assert_eq!(key(&mm, a + 4), key(&child, a + 4));
    assert_ne!(key(&mm, a + 4), key(&child, a + 8));
    let b = anon(&mm, 0, P, RW);
    assert_eq!(key(&mm, b), FutexKey::Private { mm: mm.id(), addr: b, scope: FutexScope::Shared });
    assert_eq!(mm.futex_key(UserAddr(b + 1), FutexScope::Shared), Err(EINVAL));
    assert_eq!(mm.futex_key(UserAddr(AT), FutexScope::Shared), Err(EFAULT));
    let line = String::from_utf8(mm.maps_text()).expect("text");
    assert!(line.contains("rw-s 00000000 00:01") && line.contains("/dev/zero (deleted)"), "{line}");
}

#[test]
fn a_private_file_page_is_copied_when_written() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let file = FakeFile::new(&memory, 20);
    let req = MapRequest::private_file(AT, 20 * P, RW, MapFlags::FIXED, file.mapped(), 0);
    mm.map(req).expect("map");
    assert_eq!(load(&mm, AT + 5 * P).expect("load"), 6);
    store(&mm, AT + 5 * P, 200).expect("store");
    assert_eq!(load(&mm, AT + 5 * P).expect("load"), 200);
    // The neighbours came along.
    let faults = mm.fault_count();
    store(&mm, AT + 6 * P, 201).expect("store");
    assert_eq!(mm.fault_count(), faults);
    assert_eq!(file.dirtied.load(Ordering::Relaxed), 0);
    mm.advise(AT, 20 * P, advice::DONTNEED).expect("advise");
    assert_eq!(load(&mm, AT + 5 * P).expect("load"), 6);
    check(&mm);
    drop(mm);
    assert!(file.mappings.lock().is_empty());
    drop(file);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn a_shared_file_is_told_of_writes_and_ends_in_sigbus() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let file = FakeFile::new(&memory, 10);
    mm.map(shared_file(AT, 12 * P, RW, &file, true)).expect("map");
    assert_eq!(load(&mm, AT).expect("load"), 1);
    assert_eq!(file.dirtied.load(Ordering::Relaxed), 0);
    store(&mm, AT, 9).expect("store");
    assert!(file.dirtied.load(Ordering::Relaxed) > 0);
    assert!(matches!(load(&mm, AT + 10 * P), Err(Fault::Bus)));
    file.truncate(3);
    assert!(matches!(load(&mm, AT + 4 * P), Err(Fault::Bus)));
    assert_eq!(load(&mm, AT + 2 * P).expect("load"), 3);
    check(&mm);
    let text = String::from_utf8(mm.maps_text()).expect("text");
    let head = format!("{:08x}-{:08x} rw-s 00000000 08:01 7 ", AT, AT + 12 * P);
    assert_eq!(text, format!("{head:<73}/fake\n"));
}

#[test]
fn brk_moves_within_its_limits() {
    let memory = FakeMemory::new();
    let limits = Arc::new(Limits::default());
    let mm = manager_with(&memory, limits.clone());
    mm.set_layout(|l| (l.start_brk, l.brk) = (AT + 100, AT + 100));
    assert_eq!(mm.brk(0), AT + 100);
    assert_eq!(mm.brk(AT + 0x21000), AT + 0x21000);
    store(&mm, AT + 0x20fff, 5).expect("store");
    assert_eq!(mm.fault_count(), 0);
    assert_eq!(mm.brk(AT + 0x1800), AT + 0x1800);
    assert!(matches!(load(&mm, AT + 0x20fff), Err(Fault::NotMapped)));
    assert_eq!(mm.brk(AT + 0x21000), AT + 0x21000);
    assert_eq!(load(&mm, AT + 0x20fff).expect("load"), 0);
    anon(&mm, AT + 0x30000, P, RW);
    assert_eq!(mm.brk(AT + 0x30000), AT + 0x21000);
    limits.data.store(0x22000, Ordering::Relaxed);
    assert_eq!(mm.brk(AT + 0x28000), AT + 0x21000);
    assert!(String::from_utf8(mm.maps_text()).expect("text").contains("[heap]"));
}

#[test]
fn a_stack_grows_to_its_limit_and_keeps_its_gap() {
    let memory = FakeMemory::new();
    let limits = Arc::new(Limits::default());
    let mm = manager_with(&memory, limits.clone());
    let top = AT + (64 << 20);
    anon(&mm, top - P, P, RW);
    mm.unmap(top - P, P).expect("unmap");
    mm.map(MapRequest::anonymous(top - 4 * P, 4 * P, RW, MapFlags::FIXED | MapFlags::GROWSDOWN))
        .expect("stack");
    store(&mm, top - 100 * P, 1).expect("store");
    store(&mm, top - (8 << 20), 1).expect("store");
    assert!(matches!(store(&mm, top - (8 << 20) - 1, 1), Err(Fault::NotMapped)));
    limits.stack.store(u64::MAX, Ordering::Relaxed);
    anon(&mm, AT, 16 << 20, RW);
    store(&mm, AT + (17 << 20), 1).expect("store");
    assert!(matches!(store(&mm, AT + (17 << 20) - 1, 1), Err(Fault::NotMapped)));
    // The sentry's copies grow it too.
    let mm = manager(&memory);
    mm.map(MapRequest::anonymous(top - 4 * P, 4 * P, RW, MapFlags::FIXED | MapFlags::GROWSDOWN))
        .expect("stack");
    assert_eq!(mm.copy_out(UserAddr(top - 40 * P), &[1; 100]), Ok(100));
    check(&mm);
}

#[test]
fn mremap_has_all_its_forms() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let none = Privileges::empty();
    let remap = |addr, old, new, flags: RemapFlags, to| mm.remap(addr, old, new, flags.bits(), to, none);
    let (mv, fixed) = (RemapFlags::MAYMOVE, RemapFlags::MAYMOVE | RemapFlags::FIXED);
    anon(&mm, AT, 8 * P, RW);
    for i in 0..8 {
        store(&mm, AT + i * P, i as u8 + 1).expect("store");
    }
    assert_eq!(remap(AT, 8 * P, 4 * P, RemapFlags::empty(), 0), Ok(AT));
    assert!(matches!(load(&mm, AT + 5 * P), Err(Fault::NotMapped)));
    assert_eq!(remap(AT, 4 * P, 6 * P, RemapFlags::empty(), 0), Ok(AT));
    assert_eq!(load(&mm, AT + 5 * P).expect("load"), 0);
    anon(&mm, AT + 6 * P, P, Prot::READ);
    assert_eq!(remap(AT, 6 * P, 9 * P, RemapFlags::empty(), 0), Err(ENOMEM));
    let to = remap(AT, 6 * P, 9 * P, mv, 0).expect("moved");
    assert_eq!(to, BASE - 9 * P);
    assert_eq!(load(&mm, to + 3 * P).expect("load"), 4);
    assert!(matches!(load(&mm, AT), Err(Fault::NotMapped)));
    assert_eq!(remap(to, 2 * P, 2 * P, fixed, AT + 20 * P), Ok(AT + 20 * P));
    assert_eq!(load(&mm, AT + 21 * P).expect("load"), 2);
    let keep = fixed | RemapFlags::DONTUNMAP;
    assert_eq!(remap(AT + 20 * P, 2 * P, 2 * P, keep, AT + 40 * P), Ok(AT + 40 * P));
    assert_eq!(load(&mm, AT + 41 * P).expect("load"), 2);
    assert_eq!(load(&mm, AT + 21 * P).expect("load"), 0);
    assert_eq!(remap(AT + 40 * P, 2 * P, 2 * P, fixed, AT + 41 * P), Err(EINVAL));
    assert_eq!(remap(AT + 40 * P, 3 * P, 4 * P, mv, 0), Err(EFAULT));
    assert_eq!(remap(AT + 60 * P, P, P, mv, 0), Err(EFAULT));
    assert_eq!(remap(AT + 40 * P, 0, P, mv, 0), Err(EINVAL));
    assert_eq!(remap(AT + 40 * P, P, 0, mv, 0), Err(EINVAL));
    assert_eq!(remap(AT + 40 * P, P, P, RemapFlags::FIXED, AT), Err(EINVAL));
    let shared =
        MapRequest { kind: Some(MapType::Shared), ..MapRequest::anonymous(0, 4 * P, RW, MapFlags::empty()) };
    let a = mm.map(shared).expect("shared");
    store(&mm, a + P, 77).expect("store");
    let twin = remap(a, 0, 4 * P, mv, 0).expect("twin");
    assert_eq!(load(&mm, twin + P).expect("load"), 77);
    check(&mm);
}

#[test]
fn limits_are_kept() {
    let memory = FakeMemory::new();
    let limits = Arc::new(Limits::default());
    let mm = manager_with(&memory, limits.clone());
    limits.address_space.store(100 * P, Ordering::Relaxed);
    anon(&mm, AT, 90 * P, Prot::READ);
    let fixed = |addr, n: u64, flags| mm.map(MapRequest::anonymous(addr, n * P, RW, flags | MapFlags::FIXED));
    assert_eq!(fixed(AT + 90 * P, 11, MapFlags::empty()), Err(ENOMEM));
    assert_eq!(fixed(AT + 80 * P, 20, MapFlags::empty()), Ok(AT + 80 * P));
    limits.address_space.store(u64::MAX, Ordering::Relaxed);
    limits.data.store(25 * P, Ordering::Relaxed);
    assert_eq!(fixed(AT + 200 * P, 6, MapFlags::empty()), Err(ENOMEM));
    assert_eq!(mm.protect(AT, 6 * P, 3), Err(ENOMEM));
    limits.data.store(u64::MAX, Ordering::Relaxed);
    limits.memlock.store(10 * P, Ordering::Relaxed);
    let none = Privileges::empty();
    assert_eq!(mm.lock(AT, 11 * P, 0, none), Err(ENOMEM));
    assert_eq!(mm.lock(AT, 11 * P, 2, none), Err(EINVAL));
    assert_eq!(mm.lock(AT + 5, 10 * P - 5, 0, none), Ok(()));
    assert_eq!(mm.lock(AT, 10 * P, 0, none), Ok(()));
    assert_eq!(mm.memory_use().sizes.locked, 10 * P);
    assert_eq!(fixed(AT + 300 * P, 1, MapFlags::LOCKED), Err(EAGAIN));
    assert_eq!(mm.advise(AT, P, advice::DONTNEED), Err(EINVAL));
    assert_eq!(mm.unlock(AT, 10 * P), Ok(()));
    assert_eq!(mm.unlock(AT + 99 * P, 2 * P), Err(ENOMEM));
    limits.memlock.store(0, Ordering::Relaxed);
    assert_eq!(mm.lock(AT, P, 0, none), Err(EPERM));
    assert_eq!(mm.lock_all(1, none), Err(EPERM));
    assert_eq!(mm.lock_all(0, none), Err(EINVAL));
    assert_eq!(mm.lock_all(3, Privileges::IPC_LOCK), Ok(()));
    assert_eq!(mm.memory_use().sizes.locked, mm.memory_use().sizes.total);
    mm.unlock_all();
    assert_eq!(mm.memory_use().sizes.locked, 0);
    check(&mm);
}

#[test]
fn out_of_memory_is_reported_and_leaks_nothing() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 1 << 20, RW);
    memory.set_limit(40);
    let mut stored = 0;
    let fault = loop {
        match store(&mm, a + stored * P, 1) {
            Ok(()) => stored += 1,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, Fault::OutOfMemory));
    assert_eq!(stored, 40);
    assert!(!mm.take_out_of_memory());
    assert_eq!(mm.copy_out(UserAddr(a + 50 * P), &[1]), Err(EFAULT));
    assert!(mm.take_out_of_memory());
    drop(mm);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn copies_stop_where_memory_ends() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 2 * P, RW);
    anon(&mm, AT + 3 * P, P, Prot::READ);
    let mut buf = [0; 10_000];
    assert_eq!(mm.copy_in(UserAddr(AT), &mut buf), Ok(8192));
    assert_eq!(mm.copy_in(UserAddr(AT + 2 * P), &mut buf), Err(EFAULT));
    assert_eq!(mm.copy_in(UserAddr(AT + 2 * P), &mut []), Ok(0));
    assert_eq!(mm.copy_out(UserAddr(AT + 3 * P), &[1]), Err(EFAULT));
    assert_eq!(mm.poke(UserAddr(AT + 3 * P), &[42]), Ok(1));
    assert_eq!(mm.copy_in(UserAddr(AT + 3 * P), &mut buf[..1]), Ok(1));
    assert_eq!(buf[0], 42);
    assert_eq!(mm.copy_in(UserAddr(u64::MAX - 5), &mut buf[..10]), Err(EFAULT));
    assert_eq!(mm.sink(UserAddr(0x7fff_ffff_f000), 1).err(), Some(EFAULT));
    mm.write_all(UserAddr(AT + 2 * P - 3), b"abc").expect("write");
    assert_eq!(mm.read_cstr(UserAddr(AT + 2 * P - 3), 100), Err(EFAULT));
    assert_eq!(mm.read_cstr(UserAddr(AT + 2 * P - 3), 3), Err(ENAMETOOLONG));
    mm.write_all(UserAddr(AT + P - 3), b"abcdef\0").expect("write");
    assert_eq!(mm.read_cstr(UserAddr(AT + P - 3), 100), Ok(b"abcdef".to_vec()));
    mm.write_value(UserAddr(AT + 8), &7u32).expect("write");
    assert_eq!(mm.compare_exchange_u32(UserAddr(AT + 8), 7, 9), Ok(7));
    assert_eq!(mm.fetch_update_u32(UserAddr(AT + 8), |v| v + 1), Ok(9));
    assert_eq!(mm.load_u32(UserAddr(AT + 8)), Ok(10));
    assert_eq!(mm.read_value::<u64>(UserAddr(AT + 8)), Ok(10));
    assert_eq!(mm.fetch_update_u32(UserAddr(AT + 3 * P), |v| v), Err(EFAULT));
    check(&mm);
}

#[test]
fn cursors_go_through_lists_of_buffers() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 4 * P, RW);
    let iov = [AT + 100, 5, AT + 200, 0, AT + P - 2, 4, AT + 4 * P - 1, 2];
    mm.write_all(UserAddr(AT + P), zerocopy::IntoBytes::as_bytes(&iov)).expect("write");
    let mut sink = mm.sink_iovec(UserAddr(AT + P), 4).expect("sink");
    assert_eq!(sink.remaining(), 11);
    assert_eq!(sink.put(b"0123"), Ok(4));
    assert_eq!(sink.put(b"456"), Ok(3));
    assert_eq!(sink.put_zeros(1), Ok(1));
    assert_eq!(sink.put(b"89abc"), Ok(2));
    assert_eq!(sink.put(b"z"), Err(EFAULT));
    assert_eq!(mm.sink_iovec(UserAddr(AT + P), 1025).err(), Some(EINVAL));
    assert_eq!(mm.sink_iovec(UserAddr(AT + 5 * P), 1).err(), Some(EFAULT));
    let mut buf = [0; 5];
    mm.read_exact(UserAddr(AT + 100), &mut buf).expect("read");
    assert_eq!(&buf, b"01234");
    let at = memory.allocate(P, P, MemKind::Shared).expect("a page");
    memory.write(at.offset, b"hello");
    assert_eq!(mm.sink(UserAddr(AT + 10), 5).expect("sink").put_memory(&*memory, at.offset, 9), Ok(5));
    let mut source = mm.source(UserAddr(AT + 11), 9).expect("source");
    assert_eq!(source.take_memory(&*memory, at.offset + 1, 2), Ok(2));
    assert_eq!(source.take(&mut buf[..2]), Ok(2));
    assert_eq!(&buf[..2], b"lo");
    memory.read(at.offset, &mut buf);
    assert_eq!(&buf, b"hello");
    memory.dec_ref(at);
}

#[test]
fn advice_and_in_core_behave() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 4 * P, RW);
    store(&mm, AT, 1).expect("store");
    assert_eq!(mm.advise(AT, 4 * P, 999), Err(EINVAL));
    assert_eq!(mm.advise(AT + 1, P, advice::DONTNEED), Err(EINVAL));
    assert_eq!(mm.advise(AT, 6 * P, advice::DONTNEED), Err(ENOMEM));
    assert_eq!(load(&mm, AT).expect("load"), 0);
    assert_eq!(mm.advise(AT, 0, advice::FREE), Ok(()));
    assert_eq!(mm.advise(AT, P, advice::REMOVE), Err(EINVAL));
    assert_eq!(mm.advise(AT, 4 * P, advice::POPULATE_WRITE), Ok(()));
    let vec = UserAddr(AT + 100);
    assert_eq!(mm.in_core(AT, 4 * P - 5, vec), Ok(()));
    assert_eq!(mm.read_value::<[u8; 5]>(vec), Ok([1, 1, 1, 1, 0]));
    assert_eq!(mm.in_core(AT, 5 * P, vec), Err(ENOMEM));
    assert_eq!(mm.in_core(AT + 1, P, vec), Err(EINVAL));
    assert_eq!(mm.in_core(AT, P, UserAddr(AT + 9 * P)), Err(EFAULT));
    assert_eq!(mm.in_core(AT, u64::MAX - P, vec), Err(ENOMEM));
    assert_eq!(mm.set_anon_name(AT, P, Some(b"arena")), Ok(()));
    assert_eq!(mm.set_anon_name(AT + 4 * P, P, None), Err(ENOMEM));
    assert!(String::from_utf8(mm.maps_text()).expect("text").contains("[anon:arena]"));
    assert_eq!(mm.set_anon_name(AT, P, None), Ok(()));
    mm.protect(AT, P, 1).expect("protect");
    assert_eq!(mm.advise(AT, 4 * P, advice::POPULATE_WRITE), Err(EINVAL));
    let shared =
        MapRequest { kind: Some(MapType::Shared), ..MapRequest::anonymous(0, 4 * P, RW, MapFlags::empty()) };
    let a = mm.map(shared).expect("shared");
    store(&mm, a, 5).expect("store");
    assert_eq!(mm.advise(a, P, advice::DONTNEED), Ok(()));
    assert_eq!(load(&mm, a).expect("load"), 5);
    assert_eq!(mm.advise(a, P, advice::REMOVE), Ok(()));
    assert_eq!(load(&mm, a).expect("load"), 0);
    assert_eq!(mm.sync(a, P, 4), Ok(()));
    assert_eq!(mm.sync(a, P, 5), Err(EINVAL));
    assert_eq!(mm.sync(AT, 100 * P, 4), Err(ENOMEM));
    assert!(space(&mm).maps.load(Ordering::Relaxed) > 0);
    check(&mm);
}

#[test]
fn what_was_written_since_the_last_fork_is_copied_at_once() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 1024 * P, RW);
    for i in 0..1024 {
        store(&mm, a + i * P, 1).expect("store");
    }
    let first = mm.fork(Arc::default(), Writers::Others).expect("fork");
    store(&mm, a + 9 * P, 2).expect("store");
    let faults = mm.fault_count();
    let child = mm.fork(Arc::default(), Writers::None).expect("fork");
    store(&mm, a + 9 * P, 3).expect("store");
    store(&child, a + 9 * P, 4).expect("store");
    assert_eq!((mm.fault_count(), child.fault_count()), (faults, 0));
    for (mm, value) in [(&mm, 3), (&first, 1), (&child, 4)] {
        assert_eq!(load(mm, a + 9 * P).expect("load"), value);
        assert_eq!(load(mm, a + 900 * P).expect("load"), 1);
        check(mm);
    }
    drop((mm, first, child));
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn a_child_gets_no_pages_that_were_never_touched() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    let a = anon(&mm, 0, 1024 * P, RW);
    store(&mm, a + 600 * P, 1).expect("store");
    store(&mm, a + 3 * P, 1).expect("store");
    let used = memory.in_use();
    let child = mm.fork(Arc::default(), Writers::None).expect("fork");
    assert_eq!(memory.in_use(), used + 2);
    assert_eq!((load(&child, a).expect("load"), load(&child, a + 3 * P).expect("load")), (0, 1));
    check(&mm);
    check(&child);
}

#[test]
fn threads_share_an_address_space() {
    let memory = FakeMemory::new();
    let mm = manager(&memory);
    anon(&mm, AT, 64 * P, RW);
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let mm = &mm;
            scope.spawn(move || {
                let mut x = t * 7919 + 1;
                for _ in 0..3000 {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = AT + (x >> 33) % 64 * P;
                    let own = at + 8 + t;
                    match (x >> 20) % 8 {
                        0 => drop(mm.fork(Arc::default(), Writers::Others).expect("fork")),
                        1 => mm.advise(at, P, advice::DONTNEED).unwrap_or(()),
                        2 => {
                            anon(mm, at, P, RW);
                        }
                        3 => mm.protect(at, P, 1 + (x >> 60) % 2 * 2).unwrap_or(()),
                        4 => drop(mm.copy_in(UserAddr(own), &mut [0; 5000])),
                        _ => drop(mm.copy_out(UserAddr(own), &[1])),
                    }
                }
            });
        }
    });
    check(&mm);
    drop(mm);
    assert_eq!(memory.in_use(), 0);
}
