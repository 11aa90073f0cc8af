//! Tests of the memory file.

use super::*;

const PAGE: u64 = PAGE_SIZE;

fn file() -> MemoryFile {
    MemoryFile::new(4 * STEP).unwrap()
}

fn word(m: &MemoryFile, offset: u64) -> u32 {
    m.load_u32(offset)
}

#[test]
fn a_freed_page_goes_back_to_the_host_and_reads_as_zeros_again() {
    let m = file();
    let r = m.allocate(64 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.write(r.offset, &vec![7; r.len as usize]);
    assert_eq!(m.resident(), 64 * PAGE);
    m.inc_ref(MemRange { offset: r.offset, len: PAGE });
    assert!(!m.is_unique(r.offset) && m.is_unique(r.offset + PAGE));
    m.dec_ref(r);
    assert_eq!(m.allocated(), PAGE);
    assert_eq!(m.resident(), PAGE);
    m.dec_ref(MemRange { offset: r.offset, len: PAGE });
    assert_eq!(m.resident(), 0);
    let again = m.allocate(64 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    assert_eq!(again, r);
    assert_eq!(word(&m, r.offset), 0);
}

#[test]
fn freed_pages_are_recycled_as_they_are_until_nobody_wants_them() {
    let m = file();
    assert_eq!(m.recycle(PAGE), None);
    let r = m.allocate(8 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.write(r.offset, &vec![7; r.len as usize]);
    m.dec_ref(MemRange { offset: r.offset, len: 4 * PAGE });
    m.dec_ref(MemRange { offset: r.offset + 4 * PAGE, len: 4 * PAGE });
    let again = m.recycle(6 * PAGE).unwrap();
    assert_eq!((again.offset, m.allocated()), (r.offset, 6 * PAGE));
    assert_eq!(word(&m, again.offset), 0x0707_0707);
    assert!(m.is_unique(again.offset) && m.recycle(4 * PAGE).is_none());
    // Whoever asks for zeros gets zeros.
    let fresh = m.allocate(2 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    assert_eq!(word(&m, fresh.offset), 0);
    m.dec_ref(fresh);
    // Used since the last look, then not.
    m.settle();
    assert!(m.recycle(PAGE).is_some());
    m.settle();
    m.settle();
    assert_eq!(m.recycle(PAGE), None);
    assert_eq!(m.resident(), 7 * PAGE);
    // The budget is for what is kept too.
    m.set_budget(m.allocated() + 64 * PAGE);
    let r = m.allocate(48 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.populate(r);
    m.dec_ref(r);
    let other = m.allocate(32 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.populate(other);
    assert!(m.file.allocated().unwrap() <= m.budget());
    m.dec_ref(other);
    m.set_budget(u64::MAX);
    // More than is kept goes back at once.
    let big = m.allocate(KEPT_MAX * 2, PAGE, MemKind::Anonymous).unwrap();
    m.populate(big);
    for offset in (big.offset..big.end()).step_by(16 * PAGE as usize) {
        m.dec_ref(MemRange { offset, len: 16 * PAGE });
    }
    assert!(m.file.allocated().unwrap() <= 7 * PAGE + KEPT_MAX + 2 * FREED_BATCH);
    assert!(m.recycle(KEPT_LEN).is_some() && m.recycle(KEPT_LEN + PAGE).is_none());
}

#[test]
fn untouched_memory_takes_none_and_the_limit_holds() {
    let m = file();
    let r = m.allocate(3 * STEP, 1 << 21, MemKind::Shared).unwrap();
    assert_eq!(m.resident(), 0);
    assert_eq!(m.allocate(2 * STEP, PAGE, MemKind::Shared), Err(ENOMEM));
    m.dec_ref(r);
    m.allocate(4 * STEP, PAGE, MemKind::Shared).unwrap();
}

#[test]
fn each_step_is_announced_before_it_is_used() {
    let m = file();
    let seen = std::sync::Arc::new(Lock::<Vec<u64>, { rank::LEAF }>::new(Vec::new()));
    let log = seen.clone();
    m.set_on_grow(Box::new(move |_, at| {
        log.lock().push(at.offset);
        Ok(())
    }));
    m.allocate(PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.allocate(STEP, PAGE, MemKind::Anonymous).unwrap();
    assert_eq!(*seen.lock(), [0, STEP]);
}

#[test]
fn discard_populate_copy_and_zero_do_what_they_say() {
    let m = file();
    let r = m.allocate(8 * PAGE, PAGE, MemKind::Anonymous).unwrap();
    m.populate(r);
    assert_eq!(m.resident(), r.len);
    m.write(r.offset + 10, b"hello");
    m.copy(r.offset, r.offset + 4 * PAGE, PAGE);
    let mut back = [0; 5];
    m.read(r.offset + 4 * PAGE + 10, &mut back);
    assert_eq!(&back, b"hello");
    m.zero(MemRange { offset: r.offset + 10, len: 2 });
    m.read(r.offset + 10, &mut back);
    assert_eq!(&back, b"\0\0llo");
    assert!(m.drop_translations(r));
    m.read(r.offset + 10, &mut back);
    assert_eq!(&back, b"\0\0llo");
    m.discard(r);
    assert_eq!(m.resident(), 0);
    assert!(m.is_unique(r.offset));
    assert_eq!(m.compare_exchange_u32(r.offset, 0, 9), 0);
    assert_eq!(m.compare_exchange_u32(r.offset, 0, 8), 9);
    assert_eq!(word(&m, r.offset), 9);
}

#[test]
fn threads_that_allocate_and_free_do_not_meet() {
    let m = file();
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let m = &m;
            s.spawn(move || {
                for i in 0..300u64 {
                    let r = m.allocate((1 + i % 7) * PAGE, PAGE, MemKind::Anonymous).unwrap();
                    let mut got = vec![1; r.len as usize];
                    m.read(r.offset, &mut got);
                    assert!(got.iter().all(|&b| b == 0));
                    m.write(r.offset, &vec![t + 1; r.len as usize]);
                    m.read(r.offset, &mut got);
                    assert!(got.iter().all(|&b| b == t + 1));
                    m.dec_ref(r);
                }
            });
        }
    });
    assert_eq!(m.allocated(), 0);
    assert_eq!(m.resident(), 0);
}

#[test]
#[should_panic(expected = "beyond the end")]
fn an_offset_beyond_the_end_panics() {
    file().load_u32(0);
}

/// A file with large memory, whatever the host says of huge pages.
fn file_with_large() -> MemoryFile {
    let mut m = file();
    m.large = Large::new(m.limit(), true);
    m
}

fn bytes(m: &MemoryFile, r: MemRange) -> Vec<u8> {
    let mut bytes = vec![0; r.len as usize];
    m.read(r.offset, &mut bytes);
    bytes
}

#[test]
fn large_memory_comes_in_units_from_the_upper_end() {
    let m = file_with_large();
    let small = m.allocate(PAGE, PAGE, MemKind::Anonymous).unwrap();
    let one = m.allocate_large(LARGE_PAGE).unwrap();
    let three = m.allocate_large(3 * LARGE_PAGE).unwrap();
    assert!(m.is_large(one.offset) && m.is_large(three.end() - 1) && !m.is_large(small.offset));
    assert!(one.offset.is_multiple_of(LARGE_PAGE) && three.offset.is_multiple_of(LARGE_PAGE));
    assert!(m.host_address(one.offset).is_multiple_of(LARGE_PAGE));
    assert_eq!(m.allocated(), PAGE + 4 * LARGE_PAGE);
    assert_eq!(m.resident(), 4 * LARGE_PAGE);
    m.dec_ref(one);
    m.dec_ref(three);
    assert_eq!((m.allocated(), m.resident()), (PAGE, 0));
    assert_eq!(m.allocate_large(4 * LARGE_PAGE).map(|r| r.offset), Some(one.offset.min(three.offset)));
}

#[test]
fn parts_of_a_unit_go_back_to_the_host_and_the_rest_keeps_its_bytes() {
    let m = file_with_large();
    let r = m.allocate_large(2 * LARGE_PAGE).unwrap();
    m.write(r.offset, &vec![7; r.len as usize]);
    let part = |page: u64, pages: u64| MemRange { offset: r.offset + page * PAGE, len: pages * PAGE };
    m.discard(part(3, 2));
    assert_eq!(m.resident(), r.len - 2 * PAGE);
    assert!(bytes(&m, part(3, 1)).iter().all(|&b| b == 0) && bytes(&m, part(5, 600)).iter().all(|&b| b == 7));
    m.write(part(3, 1).offset, &[1; PAGE_SIZE as usize]);
    assert_eq!(m.resident(), r.len - PAGE);
    m.inc_ref(part(511, 1));
    m.dec_ref(part(500, 100));
    assert_eq!(m.resident(), r.len - 100 * PAGE);
    assert!(m.is_unique(part(511, 1).offset) && bytes(&m, part(511, 1)) == [7; 4096]);
    assert_eq!(m.allocated(), r.len - 99 * PAGE);
    let before = m.renewals();
    assert!(before.is_multiple_of(2) && m.drop_translations(part(0, 500)) && m.revoke(part(600, 424)));
    assert_eq!(m.renewals(), before + 4);
    assert!(
        bytes(&m, part(6, 494)).iter().all(|&b| b == 7) && bytes(&m, part(600, 424)) == vec![7; 424 << 12]
    );
    m.dec_ref(part(0, 500));
    m.dec_ref(part(600, 424));
    assert_eq!(m.resident(), PAGE);
    // The broken unit is mended before it is used again, the other one is not free.
    let again = m.allocate_large(LARGE_PAGE).unwrap();
    assert_eq!(again.offset, r.offset + LARGE_PAGE);
    assert!(bytes(&m, again).iter().all(|&b| b == 0));
    assert_eq!(m.resident(), PAGE + LARGE_PAGE);
    m.dec_ref(again);
    m.dec_ref(part(511, 1));
    assert_eq!((m.allocated(), m.resident()), (0, 0));
}

#[test]
fn file_and_large_memory_share_the_offsets() {
    let m = file_with_large();
    m.allocate_large(LARGE_PAGE).unwrap();
    let r = m.allocate(3 * STEP, PAGE, MemKind::Shared).unwrap();
    assert_eq!(m.allocate(STEP, PAGE, MemKind::Shared), Err(ENOMEM));
    assert!(m.allocate_large(STEP + LARGE_PAGE).is_none());
    m.dec_ref(r);
    let m = file_with_large();
    m.allocate(4 * STEP, PAGE, MemKind::Shared).unwrap();
    assert!(m.allocate_large(LARGE_PAGE).is_none());
}

#[test]
fn the_budget_holds_for_large_memory() {
    let m = file_with_large();
    m.set_budget(6 << 20);
    let r = m.allocate_large(2 * LARGE_PAGE).unwrap();
    assert!(m.allocate_large(2 * LARGE_PAGE).is_none());
    m.discard(MemRange { offset: r.offset, len: LARGE_PAGE });
    let more = m.allocate_large(2 * LARGE_PAGE).unwrap();
    assert!(!m.is_over_budget());
    m.populate(r);
    assert!(m.is_over_budget());
    m.dec_ref(more);
    assert!(!m.is_over_budget());
}

#[test]
fn threads_that_use_parts_of_units_do_not_meet() {
    let m = file_with_large();
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let m = &m;
            s.spawn(move || {
                for i in 0..20u64 {
                    let r = m.allocate_large(LARGE_PAGE).unwrap();
                    assert!(bytes(m, r).iter().all(|&b| b == 0));
                    m.write(r.offset, &vec![t + 1; r.len as usize]);
                    let (low, high) = (128 + i * 16, 128 + i * 16 + 7);
                    let lower = MemRange { offset: r.offset, len: low * PAGE };
                    let upper = MemRange { offset: r.offset + high * PAGE, len: r.len - high * PAGE };
                    m.dec_ref(MemRange { offset: lower.end(), len: (high - low) * PAGE });
                    assert!(m.revoke(lower) && m.drop_translations(upper));
                    assert!(bytes(m, lower).iter().chain(&bytes(m, upper)).all(|&b| b == t + 1));
                    m.dec_ref(upper);
                    assert!(bytes(m, lower).iter().all(|&b| b == t + 1));
                    m.dec_ref(lower);
                }
            });
        }
    });
    assert_eq!((m.allocated(), m.resident()), (0, 0));
}
