use super::discipline::{Discipline, Effects};
use super::termios::{Termios, cc, lflag};

fn typed(discipline: &mut Discipline, bytes: &[u8]) -> Effects {
    let mut effects = Effects::default();
    let mut queue = bytes.iter().copied().collect();
    discipline.receive_from(&mut queue, &mut effects);
    effects
}

fn output(discipline: &mut Discipline) -> Vec<u8> {
    discipline.output.drain(..).collect()
}

#[test]
fn a_line_is_read_when_it_is_complete() {
    let mut d = Discipline::default();
    typed(&mut d, b"ab\x7fc");
    assert!(!d.has_input(1));
    assert_eq!(output(&mut d), b"ab\x08 \x08c");
    typed(&mut d, b"\nx\x04");
    assert_eq!(d.take(2), b"ac");
    assert_eq!(d.take(100), b"\n");
    assert_eq!(d.take(100), b"x");
    typed(&mut d, b"\x04");
    assert!(d.has_input(1));
    assert_eq!(d.take(100), b"");
}

#[test]
fn a_signal_throws_away_what_was_typed() {
    let mut d = Discipline::default();
    let effects = typed(&mut d, b"abc\x03");
    assert_eq!(effects.signals, [2]);
    assert_eq!(output(&mut d), b"^C");
    assert_eq!(d.readable(), 0);
}

#[test]
fn input_is_bounded() {
    let mut d = Discipline::default();
    typed(&mut d, &[b'x'; 10_000]);
    typed(&mut d, b"\n");
    assert_eq!(d.take(100_000).len(), super::discipline::INPUT_MAX + 1);
    let raw = Termios { lflag: 0, iflag: 0, ..Termios::default() };
    d.set_termios(raw, &mut Effects::default());
    let mut queue = [b'y'; 10_000].into_iter().collect();
    d.receive_from(&mut queue, &mut Effects::default());
    assert_eq!(queue.len(), 10_000 - super::discipline::INPUT_MAX);
}

#[test]
fn echoes_wait_while_output_is_stopped_and_do_not_pile_up() {
    let mut d = Discipline::default();
    typed(&mut d, b"\x13");
    for _ in 0..100 {
        typed(&mut d, &[b'z'; 1000]);
    }
    assert!(output(&mut d).is_empty());
    typed(&mut d, b"\x11");
    assert!(output(&mut d).len() <= 4096);
}

#[test]
fn a_disabled_character_is_an_ordinary_one() {
    let mut chars = Termios::default().cc;
    chars[cc::INTR] = 0;
    let mut d = Discipline::default();
    d.set_termios(Termios { cc: chars, lflag: lflag::ISIG, ..Termios::default() }, &mut Effects::default());
    let effects = typed(&mut d, b"\0\x03");
    assert!(effects.signals.is_empty());
    assert_eq!(d.take(10), b"\0\x03");
}
