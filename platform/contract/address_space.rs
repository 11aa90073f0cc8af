//! What user code sees when its page tables change, one by one: the twin of the first KVM experiment.

use base::memmap::{Access, MemRange};
use platform::{Platform, Trap};

use super::guest::*;

pub(super) const A: u64 = 0x1000_0000;

#[test]
fn access_follows_every_change_of_the_page() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let (one, two) = (g.page(0x11), g.page(0x22));
    assert_eq!(g.load(A), fault(A, Access::READ));
    assert_eq!(g.regs.rip, CODE);
    g.space.map(A, one, Access::READ).unwrap();
    assert_eq!(g.load(A), Trap::Syscall);
    assert_eq!((g.al(), g.regs.rip), (0x11, CODE + 4));
    assert_eq!(g.store(A, 1), fault(A, Access::WRITE));
    g.space.protect(A, PAGE, RW);
    assert_eq!(g.store(A, 0x33), Trap::Syscall);
    assert_eq!(g.byte(one), 0x33);
    g.space.unmap(A, PAGE);
    assert_eq!(g.load(A), fault(A, Access::READ));
    assert_eq!(g.byte(one), 0x33, "the bytes stay in the file");
    g.space.map(A, one, RW).unwrap();
    assert_eq!(g.load(A), Trap::Syscall);
    g.space.protect(A, PAGE, Access::READ);
    assert_eq!(g.store(A, 1), fault(A, Access::WRITE));
    g.space.map(A, two, Access::READ).unwrap();
    assert_eq!(g.load(A), Trap::Syscall);
    assert_eq!(g.al(), 0x22);
    g.memory().write(two.offset, &[0xc3]);
    assert_eq!(g.call(A), fault(A, Access::EXEC));
    assert_eq!(g.regs.rip, A);
    g.space.protect(A, PAGE, RX);
    assert_eq!(g.call(A), Trap::Syscall);
    g.space.protect(A, PAGE, Access::READ);
    assert_eq!(g.call(A), fault(A, Access::EXEC));
    g.space.protect(A, PAGE, Access::empty());
    assert_eq!(g.load(A), fault(A, Access::READ));
    g.space.protect(A, PAGE, Access::READ);
    assert_eq!(g.load(A), Trap::Syscall, "a page without access stays mapped");
}

#[test]
fn address_spaces_do_not_see_each_other() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let other = p.new_address_space().unwrap();
    let (one, two) = (g.page(0x11), g.page(0x77));
    g.space.map(A, one, RW).unwrap();
    other.map(CODE, MemRange { len: PAGE, ..g.code }, RX).unwrap();
    other.map(A, two, RW).unwrap();
    assert_eq!((g.load(A), g.al()), (Trap::Syscall, 0x11));
    let first = std::mem::replace(&mut g.space, other);
    assert_eq!((g.load(A), g.al()), (Trap::Syscall, 0x77));
    g.space = first;
    assert_eq!((g.load(A), g.al()), (Trap::Syscall, 0x11));
}

#[test]
fn runs_over_table_borders_are_mapped_and_scattered_pages_are_shot_down() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    // 3 MiB around a 2 MiB and a 1 GiB border.
    let base = (1u64 << 30) - (1 << 20) - 5 * PAGE;
    let n = 768;
    let run = g.pages(n, 0);
    for i in 0..n {
        g.memory().write(run.offset + i * PAGE, &[i as u8]);
    }
    g.space.map(base, run, RW).unwrap();
    for i in [0, 1, 4, 5, 260, 261, 511, 512, 767] {
        assert_eq!((g.load(base + i * PAGE), g.al()), (Trap::Syscall, i as u8));
    }
    // Every second page: more runs than single shoot-downs are made for.
    for i in (0..n).step_by(2) {
        let page = MemRange { offset: run.offset + (n - 1 - i) * PAGE, len: PAGE };
        g.space.map(base + i * PAGE, page, Access::READ).unwrap();
    }
    for i in [0, 4, 260, 512, 766] {
        assert_eq!((g.load(base + i * PAGE), g.al()), (Trap::Syscall, (n - 1 - i) as u8));
        assert_eq!(g.store(base + i * PAGE, 1), fault(base + i * PAGE, Access::WRITE));
    }
    g.space.unmap(base, n * PAGE);
    for i in [0, 1, 4, 5, 260, 261, 512, 766, 767] {
        assert_eq!(g.load(base + i * PAGE), fault(base + i * PAGE, Access::READ));
    }
    let end = p.guest_range().end;
    g.space.map(end - PAGE, MemRange { len: PAGE, ..run }, RW).unwrap();
    assert_eq!(g.load(end - PAGE), Trap::Syscall);
    let start = p.guest_range().start;
    g.space.unmap(start, end - start);
    assert_eq!(g.load(end - PAGE), fault(CODE, Access::EXEC));
}

#[test]
fn a_fork_shares_pages_and_takes_the_write_access_from_both() {
    let Some(p) = platform() else { return };
    for scattered in [false, true] {
        let mut g = Guest::new(&p);
        let pages: Vec<MemRange> = (0..64).map(|i| g.page(i)).collect();
        let at = |i: usize| A + (if scattered { (i * 37 % 64) * 3 } else { i }) as u64 * PAGE;
        for (i, page) in pages.iter().enumerate() {
            g.space.map(at(i), *page, RW).unwrap();
            assert_eq!(g.store(at(i), i as u8), Trap::Syscall);
        }
        let child = p.new_address_space().unwrap();
        let rest = A..A + 256 * PAGE;
        g.space.fork_into(&*child, &[CODE..CODE + PAGE, STACK..STACK + PAGE, rest]).unwrap();
        for i in [0, 1, 33, 63] {
            assert_eq!(g.store(at(i), 99), fault(at(i), Access::WRITE), "scattered: {scattered}");
            assert_eq!((g.load(at(i)), g.al()), (Trap::Syscall, i as u8));
        }
        let mut c = g.thread();
        c.space = child;
        for i in [0, 1, 33, 63] {
            assert_eq!(c.store(at(i), 99), fault(at(i), Access::WRITE));
            assert_eq!((c.load(at(i)), c.al()), (Trap::Syscall, i as u8));
        }
        c.space.protect(at(1), PAGE, RW);
        assert_eq!(c.store(at(1), 99), Trap::Syscall);
        assert_eq!(g.store(at(1), 98), fault(at(1), Access::WRITE));
    }
}

#[test]
fn many_processes_and_many_addresses() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let page = g.page(5);
    let code = MemRange { len: PAGE, ..g.code };
    for i in 0..MANY_SPACES {
        g.space = p.new_address_space().unwrap();
        g.space.map(CODE, code, RX).unwrap();
        // Elsewhere each time, so that tables of all levels change their roles.
        let addr = (i * 0x1_2345_6000) % (1 << 46) + A;
        g.space.map(addr, page, Access::READ).unwrap();
        if i % 50 == 0 {
            assert_eq!((g.load(addr), g.al()), (Trap::Syscall, 5), "process {i}");
            assert_eq!(g.load(addr + PAGE), fault(addr + PAGE, Access::READ));
        }
    }
    for i in 0..20_000u64 {
        let addr = (i * 0x1_2345_6000) % (1 << 46) + A;
        g.space.map(addr, page, Access::READ).unwrap();
        if i % 1000 == 0 {
            assert_eq!((g.load(addr), g.al()), (Trap::Syscall, 5), "address {i}");
        }
        g.space.unmap(addr, PAGE);
        if i % 1000 == 0 {
            assert_eq!(g.load(addr), fault(addr, Access::READ), "address {i}");
        }
    }
    assert_bounded(&p);
}
