use super::*;
use crate::page_down;

const STACK_8M: u64 = 8 << 20;

#[test]
fn without_aslr_the_addresses_are_linuxs() {
    let layout = Layout::new(None, STACK_8M);
    assert_eq!(layout.mmap_base, 0x7fff_f7ff_f000);
    assert_eq!(layout.stack_top, 0x7fff_ffff_f000);
    assert_eq!(page_down(layout.pie_base), 0x5555_5555_4000);
    assert_eq!(layout.stack_gap, 0);
    assert_eq!(layout.brk_start(0x5555_5556_0000, HeapPlace::BehindProgram), 0x5555_5556_0000);
    assert_eq!(layout.brk_start(0x7fff_f7ff_0000, HeapPlace::Apart), 0x5555_5555_5000);
}

#[test]
fn stack_and_mmap_region_keep_off_the_platforms_addresses() {
    let whole = Layout::new(None, STACK_8M);
    assert_eq!(whole.ending_at(TASK_SIZE), whole);
    assert_eq!(whole.ending_at(TASK_SIZE + PAGE_SIZE), whole);
    let layout = whole.ending_at(0x7fff_c000_0000);
    assert_eq!((layout.stack_top, layout.pie_base), (0x7fff_c000_0000, whole.pie_base));
    assert_eq!(whole.stack_top - layout.stack_top, whole.mmap_base - layout.mmap_base);
}

#[test]
fn every_random_number_keeps_the_order_of_the_regions() {
    for n in [0, 1, 0xfff, 0x1234_5678_9abc_def0, u64::MAX / 2, u64::MAX] {
        for limit in [0, STACK_8M, 1 << 40, u64::MAX - 1, u64::MAX] {
            let random = Randomness { mmap: n, pie: n, stack: n, stack_gap: n, brk: n };
            let layout = Layout::new(Some(&random), limit);
            assert_eq!(layout.mmap_base % PAGE_SIZE, 0);
            assert_eq!(layout.stack_top % PAGE_SIZE, 0);
            assert!(layout.mmap_base < layout.stack_top && layout.stack_top <= TASK_SIZE);
            assert!(layout.stack_gap < 8192);
            let brk = layout.brk_start(layout.pie_base + 0x10000, HeapPlace::BehindProgram);
            assert!(brk > layout.pie_base && brk < layout.pie_base + (2 << 30));
        }
    }
}
