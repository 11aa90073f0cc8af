//! What user code sees when its page tables change, one by one: the twin of the first KVM experiment.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/address_space.rs"]
mod contract;

use base::memmap::{Access, MemRange};
use contract::A;
use guest::*;
use platform::{Platform, Trap};

#[test]
fn more_pieces_than_the_host_allows_cost_time_only() {
    let Some(p) = platform() else { return };
    let mut g = Guest::new(&p);
    let pages = g.pages(2, 7);
    let limit: u64 =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap_or(65530);
    // Neighbours that are no continuation of each other.
    let at = |i: u64| A + i * PAGE;
    let page = |i: u64| MemRange { offset: pages.offset + i % 2 * PAGE, len: PAGE };
    for i in (0..limit + 1000).step_by(2) {
        g.space.map(at(i), page(0), Access::READ).unwrap();
        g.space.map(at(i + 1), page(0), RW).unwrap();
    }
    let evictions = p.counters().into_iter().find(|(name, _)| *name == "evictions").unwrap().1;
    assert!(evictions > 0);
    assert_eq!(g.load(at(limit)), fault(CODE, Access::EXEC), "the program's own page went with the others");
    g.space.map(CODE, MemRange { len: PAGE, ..g.code }, RX).unwrap();
    g.space.map(STACK, MemRange { offset: g.code.offset + PAGE, len: PAGE }, RW).unwrap();
    assert_eq!((g.load(at(limit)), g.al()), (Trap::Syscall, 7));
    g.space.protect(at(0), limit * PAGE, Access::empty());
    assert_eq!(g.load(at(limit - 1)), fault(at(limit - 1), Access::READ));
}
