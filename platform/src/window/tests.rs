use super::*;
use crate::memory::MemoryFile;

const BASE: u64 = 0xffff_ffff_c060_0000;

fn window() -> Window {
    let memory = MemoryFile::new(1 << 30).unwrap();
    Window::new(&memory, BASE, 7, None).unwrap()
}

#[test]
fn a_base_must_fit_the_jump_and_trap_in_its_middle() {
    let memory = MemoryFile::new(1 << 30).unwrap();
    for base in [0x7f61_0000, 0x7f60_1000, 0x1_7f60_0000, 0xffff_fffe_c060_0000] {
        assert_eq!(Window::new(&memory, base, 7, None).map(|_| ()), Err(EINVAL), "{base:#x}");
    }
    assert!(Window::new(&memory, 0x7f60_0000, 7, None).is_ok());
    let jump = window().jump(MAX_SITES - 1);
    assert_eq!((jump[..3].to_vec(), jump[5]), (vec![0xff, 0x24, 0x25], 0x60));
}

#[test]
fn every_stub_is_found_again_and_nothing_else_is_one() {
    let w = window();
    for index in [0, 1, SITES_IN_PAGE - 1, SITES_IN_PAGE, MAX_SITES - 1] {
        let at = w.stub(index) + stub::BEHIND;
        assert_eq!(w.stub_at(at), Some(StubAt { index, offset: stub::BEHIND }));
        let ((slot, _), (place, _)) = w.site(index, [0x90; 5], None, 0);
        assert!(slot < STUBS && place >= STUBS && place + STUB_LEN <= PAGE_SIZE);
        assert_eq!(w.stub(index) % PAGE_SIZE, place);
    }
    assert_eq!(w.stub_at(BASE), None);
    assert_eq!(w.stub_at(w.code_page().0 + 0x800), None);
}

#[test]
fn the_code_fits_a_page_and_each_of_its_zones_is_known() {
    for sleep in
        [None, Some(Sleep { ring: 0x7fff_c000_0100, rest: 0x7fff_c000_0200, lend: 0x7fff_c000_0300 })]
    {
        let memory = MemoryFile::new(1 << 30).unwrap();
        check_zones(&Window::new(&memory, BASE, 7, sleep).unwrap());
    }
}

fn check_zones(w: &Window) {
    assert!(w.code.bytes.len() < PAGE_SIZE as usize);
    assert_eq!(w.zone(w.code.any), Some(Zone::Before));
    assert_eq!(w.zone(w.code.mail), Some(Zone::Before));
    assert_eq!(w.zone(w.left()), Some(Zone::Requested));
    assert_eq!(w.zone(w.code_page().0 + PAGE_SIZE - 1), None);
    for pair in w.code.zones.windows(2) {
        assert!(pair[0].0.end <= pair[1].0.start && !pair[0].0.is_empty());
    }
}
