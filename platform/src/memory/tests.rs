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
        log.lock().push(at);
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
    m.drop_translations(r);
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
