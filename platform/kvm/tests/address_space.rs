//! What user code sees when its page tables change, one by one: the twin of the first KVM experiment.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/address_space.rs"]
mod contract;

use base::memmap::{Access, LARGE_PAGE, MemRange, Memory};
use contract::A;
use guest::*;
use platform::{Platform, Trap};

/// Byte `i` pages into a range.
fn at(range: MemRange, i: u64) -> MemRange {
    MemRange { offset: range.offset + i * PAGE, len: PAGE }
}

#[test]
fn a_large_page_changes_as_a_whole_and_in_parts() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let Some(mem) = g.large(2, 1) else { return };
    g.space.map(A, mem, RW).unwrap();
    let page = |i: u64| A + i * PAGE;
    for i in [0, 7, 511, 512, 1023] {
        assert_eq!((g.load(page(i)), g.al()), (Trap::Syscall, (i as u8).wrapping_add(1)));
        assert_eq!(g.store(page(i), i as u8), Trap::Syscall);
    }
    // As a whole.
    g.space.protect(A, LARGE_PAGE, Access::READ);
    assert_eq!(g.store(page(3), 0), fault(page(3), Access::WRITE));
    assert_eq!(g.store(page(600), 1), Trap::Syscall);
    g.space.protect(A, LARGE_PAGE, Access::empty());
    assert_eq!(g.load(page(3)), fault(page(3), Access::READ));
    g.space.protect(A, LARGE_PAGE, RW);
    assert_eq!((g.load(page(7)), g.al()), (Trap::Syscall, 7));
    assert_eq!(g.store(page(7), 77), Trap::Syscall);
    // In parts: the first change splits it.
    g.space.protect(page(5), PAGE, Access::READ);
    assert_eq!(g.store(page(5), 0), fault(page(5), Access::WRITE));
    assert_eq!((g.load(page(5)), g.al()), (Trap::Syscall, 6));
    for i in [0, 4, 6, 511, 512] {
        assert_eq!(g.store(page(i), 90), Trap::Syscall, "{i}");
    }
    g.space.unmap(page(6), 3 * PAGE);
    for i in [6, 7, 8] {
        assert_eq!(g.load(page(i)), fault(page(i), Access::READ));
    }
    assert_eq!((g.load(page(9)), g.al()), (Trap::Syscall, 10));
    assert_eq!(g.byte(at(mem, 7)), 77, "the bytes stay");
    g.space.map(page(7), at(mem, 7), Access::READ).unwrap();
    assert_eq!((g.load(page(7)), g.al()), (Trap::Syscall, 77));
    assert_eq!(g.store(page(7), 0), fault(page(7), Access::WRITE));
    // Over the border of the split one and a whole one.
    g.space.unmap(page(500), 100 * PAGE);
    for i in [500, 511, 512, 599] {
        assert_eq!(g.load(page(i)), fault(page(i), Access::READ));
    }
    assert_eq!((g.load(page(600)), g.al()), (Trap::Syscall, 1));
    g.space.unmap(A, mem.len);
    for i in [0, 7, 499, 600, 1023] {
        assert_eq!(g.load(page(i)), fault(page(i), Access::READ));
    }
    assert_eq!(g.byte(at(mem, 9)), 10);
}

#[test]
fn what_was_a_large_page_becomes_another_or_a_table_and_back() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let (Some(one), Some(two)) = (g.large(1, 10), g.large(1, 100)) else { return };
    let small = g.pages(512, 50);
    for round in 0..3 {
        for (range, fill, step) in
            [(one, 10u8, 1), (two, 100, 1), (small, 50, 0), (one, 10, 1), (small, 50, 0)]
        {
            if round != 1 {
                g.space.unmap(A, LARGE_PAGE);
                assert_eq!(g.load(A), fault(A, Access::READ));
            }
            g.space.map(A, range, RW).unwrap();
            for i in [0u8, 3, 200] {
                assert_eq!(g.load(A + u64::from(i) * PAGE), Trap::Syscall);
                assert_eq!(g.al(), fill.wrapping_add(i * step), "round {round}");
            }
        }
    }
    // A page of its own in the middle, and memory that does not lie as the addresses do.
    g.space.map(A, two, RW).unwrap();
    g.space.map(A + 9 * PAGE, at(small, 1), RW).unwrap();
    assert_eq!((g.load(A + 9 * PAGE), g.al()), (Trap::Syscall, 50));
    assert_eq!((g.load(A + 10 * PAGE), g.al()), (Trap::Syscall, 110));
    g.space.map(A + LARGE_PAGE + PAGE, one, Access::READ).unwrap();
    assert_eq!((g.load(A + LARGE_PAGE + 4 * PAGE), g.al()), (Trap::Syscall, 13));
    assert_eq!((g.load(A + 2 * LARGE_PAGE), g.al()), (Trap::Syscall, 10u8.wrapping_add(255)));
}

#[test]
fn a_fork_shares_large_pages() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let Some(mem) = g.large(4, 0) else { return };
    g.space.map(A, mem, RW).unwrap();
    g.space.protect(A + 3 * LARGE_PAGE, LARGE_PAGE, Access::empty());
    for unit in 0..3 {
        assert_eq!(g.store(A + unit * LARGE_PAGE, 10 + unit as u8), Trap::Syscall);
    }
    let child = p.new_address_space().unwrap();
    // The border of a range lies in the third unit.
    let middle = A + 2 * LARGE_PAGE + 100 * PAGE;
    let ranges = [CODE..CODE + PAGE, STACK..STACK + PAGE, A..middle, A + 3 * LARGE_PAGE..A + 4 * LARGE_PAGE];
    g.space.fork_into(&*child, &ranges).unwrap();
    let mut c = g.thread();
    c.space = child;
    for unit in 0..3 {
        let addr = A + unit * LARGE_PAGE;
        for g in [&mut g, &mut c] {
            assert_eq!(g.store(addr, 99), fault(addr, Access::WRITE));
            assert_eq!((g.load(addr), g.al()), (Trap::Syscall, 10 + unit as u8));
        }
    }
    assert_eq!(g.store(middle, 5), Trap::Syscall);
    assert_eq!(c.load(middle), fault(middle, Access::READ));
    let closed = A + 3 * LARGE_PAGE;
    assert_eq!(c.load(closed), fault(closed, Access::READ));
    c.space.protect(closed, LARGE_PAGE, Access::READ);
    assert_eq!(c.load(closed), Trap::Syscall);
    // The child writes a page of its own, the parent gets one unit back.
    let own = c.page(55);
    c.space.map(A + 8 * PAGE, own, RW).unwrap();
    assert_eq!(c.store(A + 8 * PAGE, 56), Trap::Syscall);
    assert_eq!(c.store(A + 9 * PAGE, 99), fault(A + 9 * PAGE, Access::WRITE));
    g.space.map(A, MemRange { len: LARGE_PAGE, ..mem }, RW).unwrap();
    assert_eq!(g.store(A + 8 * PAGE, 57), Trap::Syscall);
    assert_eq!((c.load(A + 8 * PAGE), c.al()), (Trap::Syscall, 56));
    assert_eq!((c.load(A + 9 * PAGE), c.al()), (Trap::Syscall, 9));
    assert_eq!(g.store(A + LARGE_PAGE, 1), fault(A + LARGE_PAGE, Access::WRITE));
}

#[test]
fn many_large_pages_that_are_split_one_by_one_stay_right() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let Some(mem) = g.large(24, 3) else { return };
    g.space.map(A, mem, RW).unwrap();
    for unit in (0..24).rev() {
        let addr = A + unit * LARGE_PAGE + unit * PAGE;
        assert_eq!(g.store(addr, unit as u8), Trap::Syscall);
        g.space.unmap(addr, PAGE);
        assert_eq!(g.load(addr), fault(addr, Access::READ));
        assert_eq!((g.load(addr + PAGE), g.al()), (Trap::Syscall, 3 + unit as u8 + 1));
        assert_eq!(g.load(A + unit * 7 % 24 * LARGE_PAGE + 300 * PAGE), Trap::Syscall);
        assert_eq!(g.al(), 3u8.wrapping_add((300 % 256) as u8));
    }
    // Whole units, then all that is left.
    for unit in 0..12 {
        g.space.unmap(A + unit * LARGE_PAGE, LARGE_PAGE);
    }
    assert_eq!(g.load(A), fault(A, Access::READ));
    g.space.map(A, MemRange { len: 12 * LARGE_PAGE, ..mem }, RW).unwrap();
    for unit in 0..12 {
        assert_eq!((g.load(A + unit * LARGE_PAGE + unit * PAGE), g.al()), (Trap::Syscall, unit as u8));
    }
    g.space.unmap(A, mem.len);
    assert_eq!(g.load(A + 23 * LARGE_PAGE), fault(A + 23 * LARGE_PAGE, Access::READ));
}

#[test]
fn memory_under_a_large_page_is_given_back_in_place() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let Some(mem) = g.large(1, 1) else { return };
    g.space.map(A, mem, RW).unwrap();
    assert_eq!((g.load(A + 20 * PAGE), g.al()), (Trap::Syscall, 21));
    let before = g.memory().resident();
    g.memory().discard(MemRange { offset: mem.offset + 20 * PAGE, len: 5 * PAGE });
    assert_eq!(g.memory().resident(), before - 5 * PAGE);
    assert_eq!((g.load(A + 20 * PAGE), g.al()), (Trap::Syscall, 0));
    assert_eq!(g.store(A + 24 * PAGE, 8), Trap::Syscall);
    assert_eq!(g.byte(at(mem, 24)), 8);
    assert_eq!((g.load(A + 25 * PAGE), g.al()), (Trap::Syscall, 26));
    assert_eq!((g.load(A), g.al()), (Trap::Syscall, 1));
}

/// KVM keeps a table for a large page whose host pages are small, and shares it between all who map it.
#[test]
fn a_large_page_that_was_taken_away_stays_so_when_it_is_mapped_elsewhere() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let Some(mem) = g.large(1, 1) else { return };
    // The host makes small pages of its huge one.
    p.memory().discard(at(mem, 300));
    let b = A + 8 * LARGE_PAGE;
    g.space.map(A, mem, RW).unwrap();
    assert_eq!(g.store(A + 7 * PAGE, 70), Trap::Syscall);
    g.space.protect(A, LARGE_PAGE, Access::READ);
    g.space.map(b, mem, RW).unwrap();
    assert_eq!(g.store(b + 7 * PAGE, 71), Trap::Syscall);
    assert_eq!(g.store(A + 7 * PAGE, 72), fault(A + 7 * PAGE, Access::WRITE));
    assert_eq!((g.load(A + 7 * PAGE), g.al()), (Trap::Syscall, 71));
    g.space.unmap(A, LARGE_PAGE);
    assert_eq!((g.load(b + 7 * PAGE), g.al()), (Trap::Syscall, 71));
    assert_eq!(g.load(A + 7 * PAGE), fault(A + 7 * PAGE, Access::READ));
}
