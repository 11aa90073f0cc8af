//! The line discipline: what a terminal makes of typed and of written bytes (Linux drivers/tty/n_tty.c, termios(3)).
//!
//! It holds no lock and calls nobody: whoever feeds it gets told in [`Effects`] whom to signal and wake.

use std::collections::VecDeque;

use super::termios::{Termios, cc, iflag, lflag, oflag};

/// Bytes that wait to be read, a line's end included (`N_TTY_BUF_SIZE` - 1).
pub(super) const INPUT_MAX: usize = 4095;
/// Bytes written and not yet taken by the other side.
pub(super) const OUTPUT_MAX: usize = 64 << 10;
/// Echoes that wait while output is stopped.
const ECHO_MAX: usize = 4096;

/// So many echoes are sent before all that was typed at once is seen: a signal throws away those not yet sent.
const ECHO_WATERMARK: usize = 256;

/// Bits of an entry of the input beside its byte: a line ends with it; it stands for the end of the file.
const LINE_END: u16 = 0x100;
const EOF_MARK: u16 = 0x200;

/// What packet mode tells the other side (ioctl_tty(2), `TIOCPKT_*`).
pub(super) mod packet {
    pub(in super::super) const FLUSHREAD: u8 = 1;
    pub(in super::super) const FLUSHWRITE: u8 = 2;
    pub(in super::super) const STOP: u8 = 4;
    pub(in super::super) const START: u8 = 8;
    pub(in super::super) const NOSTOP: u8 = 16;
    pub(in super::super) const DOSTOP: u8 = 32;
    pub(in super::super) const IOCTL: u8 = 64;
}

/// What is to be done once the terminal's lock is free.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// For the foreground process group, in order.
    pub(super) signals: Vec<i32>,
    /// There may be something to read, or room to write, for the programs on the terminal.
    pub(super) wake_slave: bool,
    /// The same for the other side.
    pub(super) wake_master: bool,
    /// Bits of `TIOCPKT_*` that came and that went.
    pub(super) packet: u8,
    pub(super) packet_cleared: u8,
}

/// A step of an echo.
#[derive(Clone, Copy, Debug)]
enum Echo {
    Byte(u8),
    /// As `^X`.
    Control(u8),
    /// Input begins at this column.
    SetCanonColumn,
    MoveBack,
    EraseTab {
        columns: usize,
        after_tab: bool,
    },
}

/// The state of one terminal's line discipline.
#[derive(Debug, Default)]
pub(super) struct Discipline {
    pub(super) termios: Termios,
    input: VecDeque<u16>,
    /// How many entries of `input` belong to complete lines.
    complete: usize,
    /// The next byte is taken as it is.
    literal: bool,
    /// A hard-copy erasure is under way (`ECHOPRT`).
    erasing: bool,
    echoes: VecDeque<Echo>,
    column: usize,
    canon_column: usize,
    /// Output is held back (`VSTOP`, `TCOOFF`).
    pub(super) stopped: bool,
    /// What the other side will read.
    pub(super) output: VecDeque<u8>,
    /// How much of it the other side has in its own buffer, so that it cannot be thrown away here.
    delivered: usize,
}

/// Linux's `iscntrl`.
fn is_control(c: u8) -> bool {
    c < 0x20 || c == 0x7f
}

/// Linux's `isalnum`, which knows Latin-1.
fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || (c >= 0xc0 && c != 0xd7 && c != 0xf7)
}

/// Linux's `tolower`.
fn to_lower(c: u8) -> u8 {
    if c.is_ascii_uppercase() || (0xc0..=0xde).contains(&c) && c != 0xd7 { c + 0x20 } else { c }
}

/// Linux's `toupper`.
fn to_upper(c: u8) -> u8 {
    if c.is_ascii_lowercase() || c >= 0xdf && c != 0xf7 { c - 0x20 } else { c }
}

impl Discipline {
    fn is_continuation(&self, c: u8) -> bool {
        self.termios.i(iflag::IUTF8) && c & 0xc0 == 0x80
    }

    fn is_canonical(&self) -> bool {
        self.termios.l(lflag::ICANON)
    }

    /// How many bytes can be typed now; one more always can while no line is complete, or nobody could end the line.
    pub(super) fn input_room(&self) -> usize {
        let room = INPUT_MAX.saturating_sub(self.input.len());
        let room = if self.termios.i(iflag::PARMRK) { room / 3 } else { room };
        if room == 0 && self.is_canonical() && self.complete == 0 { 1 } else { room }
    }

    /// Room for what is written.
    pub(super) fn output_room(&self) -> usize {
        if self.stopped { 0 } else { OUTPUT_MAX.saturating_sub(self.output.len()) }
    }

    /// Whether a read gets something: in non-canonical mode at least `amount` bytes.
    pub(super) fn has_input(&self, amount: usize) -> bool {
        if self.is_canonical() { self.complete > 0 } else { self.input.len() >= amount.max(1) }
    }

    /// `FIONREAD`.
    pub(super) fn readable(&self) -> usize {
        if !self.is_canonical() {
            return self.input.len();
        }
        self.input.iter().take(self.complete).filter(|&&e| e & EOF_MARK == 0).count()
    }

    /// `VMIN` and `VTIME` (tenths of a second); in canonical mode (1, 0).
    pub(super) fn timing(&self) -> (usize, u8) {
        match self.is_canonical() {
            true => (1, 0),
            false => (self.termios.cc[cc::MIN].into(), self.termios.cc[cc::TIME]),
        }
    }

    /// Takes what one read of up to `max` bytes gets; there is something ([`Discipline::has_input`]).
    pub(super) fn take(&mut self, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.is_canonical() {
            let n = max.min(self.input.len());
            out.extend(self.input.drain(..n).map(|e| e as u8));
            self.complete = 0;
            return out;
        }
        while self.complete > 0 {
            let Some(&entry) = self.input.front() else { break };
            // A full buffer swallows an end of file that follows, or the next read would find it.
            if out.len() == max && entry & EOF_MARK == 0 {
                break;
            }
            self.input.pop_front();
            self.complete -= 1;
            if entry & EOF_MARK == 0 {
                out.push(entry as u8);
            }
            if entry & (LINE_END | EOF_MARK) != 0 {
                break;
            }
        }
        out
    }

    /// Throws away what was typed.
    pub(super) fn flush_input(&mut self) {
        self.input.clear();
        self.complete = 0;
        self.literal = false;
        self.erasing = false;
    }

    /// Replaces the settings.
    pub(super) fn set_termios(&mut self, new: Termios, effects: &mut Effects) {
        let old = std::mem::replace(&mut self.termios, new);
        if (old.lflag ^ new.lflag) & (lflag::ICANON | lflag::EXTPROC) != 0 {
            for entry in &mut self.input {
                *entry &= 0xff;
            }
            self.complete = 0;
            if self.is_canonical()
                && let Some(last) = self.input.back_mut()
            {
                *last |= LINE_END;
                self.complete = self.input.len();
            }
            self.erasing = false;
            self.literal = false;
        }
        if old.i(iflag::IXON) && !new.i(iflag::IXON) {
            self.start(effects);
        }
        if old.has_usual_flow_control() != new.has_usual_flow_control() {
            let (now, before) = match new.has_usual_flow_control() {
                true => (packet::DOSTOP, packet::NOSTOP),
                false => (packet::NOSTOP, packet::DOSTOP),
            };
            effects.packet |= now;
            effects.packet_cleared |= before;
        }
        if (old.lflag | new.lflag) & lflag::EXTPROC != 0 {
            effects.packet |= packet::IOCTL;
        }
        effects.wake_slave = true;
        effects.wake_master = true;
    }

    /// Holds output back.
    pub(super) fn stop(&mut self, effects: &mut Effects) {
        if !self.stopped {
            self.stopped = true;
            effects.packet |= packet::STOP;
            effects.packet_cleared |= packet::START;
            effects.wake_master = true;
        }
    }

    /// Lets output go on.
    pub(super) fn start(&mut self, effects: &mut Effects) {
        if self.stopped {
            self.stopped = false;
            effects.packet |= packet::START;
            effects.packet_cleared |= packet::STOP;
            effects.wake_slave = true;
            effects.wake_master = true;
            self.send_echoes(effects);
        }
    }

    /// Whether typed bytes are taken as they are: no echo, no editing, no signals.
    fn is_transparent(&self) -> bool {
        let input = iflag::PARMRK
            | iflag::ISTRIP
            | iflag::INLCR
            | iflag::IGNCR
            | iflag::ICRNL
            | iflag::IUCLC
            | iflag::IXON;
        let local = lflag::ISIG | lflag::ICANON | lflag::ECHO;
        self.termios.iflag & input == 0 && self.termios.lflag & local == 0 && !self.literal
    }

    /// Takes typed bytes from `typed` while there is room for them.
    pub(super) fn receive_from(&mut self, typed: &mut VecDeque<u8>, effects: &mut Effects) {
        if typed.is_empty() {
            return;
        }
        if self.is_transparent() {
            let n = self.input_room().min(typed.len());
            self.input.extend(typed.drain(..n).map(u16::from));
            effects.wake_slave |= n > 0;
            return;
        }
        while self.input_room() > 0
            && let Some(c) = typed.pop_front()
        {
            self.receive(c, effects);
            if self.echoes.len() >= ECHO_WATERMARK {
                self.send_echoes(effects);
            }
        }
        self.send_echoes(effects);
    }

    /// Takes one typed byte; its echo waits for [`Discipline::send_echoes`].
    pub(super) fn receive(&mut self, mut c: u8, effects: &mut Effects) {
        let t = self.termios;
        if t.i(iflag::ISTRIP) {
            c &= 0x7f;
        }
        if t.i(iflag::IUCLC) && t.l(lflag::IEXTEN) {
            c = to_lower(c);
        }
        if t.l(lflag::EXTPROC) {
            self.put(c, 0);
            effects.wake_slave = true;
            return;
        }
        if std::mem::take(&mut self.literal) {
            if t.l(lflag::ECHO) {
                self.echo_kept(c);
            }
            self.keep(c, effects);
        } else if !self.receive_special(c, effects) {
            // A newline that means nothing special is echoed as any control character.
            let is_plain = c == b'\n' && !self.is_canonical() && !t.i(iflag::INLCR);
            let c = match c {
                b'\r' if t.i(iflag::IGNCR) => return,
                b'\r' if t.i(iflag::ICRNL) => b'\n',
                b'\n' if t.i(iflag::INLCR) => b'\r',
                c => c,
            };
            if !(self.is_canonical() && self.receive_editing(c, effects)) {
                if t.l(lflag::ECHO) && c == b'\n' && !is_plain {
                    self.finish_erasing();
                    self.echo(Echo::Byte(c));
                } else if t.l(lflag::ECHO) {
                    self.echo_kept(c);
                }
                self.keep(c, effects);
            }
        }
    }

    /// Flow control and signals; says whether `c` was that.
    fn receive_special(&mut self, c: u8, effects: &mut Effects) -> bool {
        let t = self.termios;
        if t.i(iflag::IXON) {
            if t.is(cc::START, c) {
                self.start(effects);
                return true;
            }
            if t.is(cc::STOP, c) {
                self.stop(effects);
                return true;
            }
        }
        if t.l(lflag::ISIG) {
            // SIGINT, SIGQUIT, SIGTSTP.
            for (which, signo) in [(cc::INTR, 2), (cc::QUIT, 3), (cc::SUSP, 20)] {
                if t.is(which, c) {
                    self.signal(signo, effects);
                    if t.i(iflag::IXON) {
                        self.start(effects);
                    }
                    if t.l(lflag::ECHO) {
                        self.echo_char(c);
                    }
                    return true;
                }
            }
        }
        if self.stopped && t.i(iflag::IXON) && t.i(iflag::IXANY) {
            self.start(effects);
        }
        false
    }

    /// Signals the foreground; unless `NOFLSH`, what is under way in both directions is thrown away first.
    pub(super) fn signal(&mut self, signo: i32, effects: &mut Effects) {
        if !self.termios.l(lflag::NOFLSH) {
            self.echoes.clear();
            self.flush_output(effects);
            self.flush_input();
            effects.packet |= packet::FLUSHREAD;
        }
        effects.signals.push(signo);
    }

    /// Lets the other side have what was written, as far as its own buffer goes, which is as large as ours.
    pub(super) fn deliver(&mut self) {
        self.delivered = self.output.len().min(INPUT_MAX);
    }

    /// Throws away what was written and not yet delivered.
    pub(super) fn flush_output(&mut self, effects: &mut Effects) {
        self.output.truncate(self.delivered);
        effects.packet |= packet::FLUSHWRITE;
        effects.wake_slave = true;
        effects.wake_master = true;
    }

    /// Line editing; says whether `c` was part of it.
    fn receive_editing(&mut self, c: u8, effects: &mut Effects) -> bool {
        let t = self.termios;
        let extended = t.l(lflag::IEXTEN);
        if t.is(cc::ERASE, c) || t.is(cc::KILL, c) || (t.is(cc::WERASE, c) && extended) {
            self.erase(c);
        } else if t.is(cc::LNEXT, c) && extended {
            self.literal = true;
            if t.l(lflag::ECHO) {
                self.finish_erasing();
                if t.l(lflag::ECHOCTL) {
                    self.echo(Echo::Byte(b'^'));
                    self.echo(Echo::Byte(8));
                }
            }
        } else if t.is(cc::REPRINT, c) && t.l(lflag::ECHO) && extended {
            self.finish_erasing();
            self.echo_char(c);
            self.echo(Echo::Byte(b'\n'));
            let pending: Vec<u16> = self.input.iter().skip(self.complete).copied().collect();
            for entry in pending {
                self.echo_char(entry as u8);
            }
        } else if c == b'\n' {
            if t.l(lflag::ECHO) || t.l(lflag::ECHONL) {
                self.echo(Echo::Byte(b'\n'));
            }
            self.end_line(c, LINE_END, effects);
        } else if t.is(cc::EOF, c) {
            self.end_line(0, LINE_END | EOF_MARK, effects);
        } else if t.is(cc::EOL, c) || (t.is(cc::EOL2, c) && extended) {
            if t.l(lflag::ECHO) {
                self.mark_canon_column();
                self.echo_char(c);
            }
            self.end_line(c, LINE_END, effects);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, c: u8, bits: u16, effects: &mut Effects) {
        self.put(c, bits);
        self.complete = self.input.len();
        effects.wake_slave = true;
    }

    fn echo_kept(&mut self, c: u8) {
        self.finish_erasing();
        self.mark_canon_column();
        self.echo_char(c);
    }

    /// Adds an ordinary byte to the input.
    fn keep(&mut self, c: u8, effects: &mut Effects) {
        // With PARMRK a byte 0xff is told from a mark by being doubled.
        if c == 0xff && self.termios.i(iflag::PARMRK) && !self.termios.i(iflag::ISTRIP) {
            self.put(c, 0);
        }
        self.put(c, 0);
        if !self.is_canonical() {
            effects.wake_slave = true;
        }
    }

    fn put(&mut self, c: u8, bits: u16) {
        // A line that is too long keeps its beginning, and room for its end.
        if self.input.len() < INPUT_MAX + usize::from(bits != 0) {
            self.input.push_back(u16::from(c) | bits);
        }
    }

    fn mark_canon_column(&mut self) {
        if self.input.len() == self.complete {
            self.echo(Echo::SetCanonColumn);
        }
    }

    fn erase(&mut self, c: u8) {
        let t = self.termios;
        if self.input.len() == self.complete {
            return;
        }
        let is_erase = t.is(cc::ERASE, c);
        let is_word_erase = !is_erase && t.is(cc::WERASE, c);
        if !is_erase && !is_word_erase {
            if !t.l(lflag::ECHO) {
                self.input.truncate(self.complete);
                return;
            }
            if !(t.l(lflag::ECHOK) && t.l(lflag::ECHOKE) && t.l(lflag::ECHOE)) {
                self.input.truncate(self.complete);
                self.finish_erasing();
                self.echo_char(t.cc[cc::KILL]);
                if t.l(lflag::ECHOK) {
                    self.echo(Echo::Byte(b'\n'));
                }
                return;
            }
        }
        let mut seen_word = false;
        while self.input.len() > self.complete {
            let Some(start) = self.last_char() else { break };
            let first = self.input.get(start).map_or(0, |&e| e as u8);
            if is_word_erase {
                if is_word(first) {
                    seen_word = true;
                } else if seen_word {
                    break;
                }
            }
            let erased: Vec<u8> = self.input.drain(start..).map(|e| e as u8).collect();
            if t.l(lflag::ECHO) {
                self.echo_erased(&erased, is_erase);
            }
            if is_erase {
                break;
            }
        }
        if self.input.len() == self.complete && t.l(lflag::ECHO) {
            self.finish_erasing();
        }
    }

    /// Where the last character of the unfinished line begins; `None` when only a part of one is there.
    fn last_char(&self) -> Option<usize> {
        let mut at = self.input.len();
        while at > self.complete {
            at -= 1;
            if !self.is_continuation(self.input.get(at).map_or(0, |&e| e as u8)) {
                return Some(at);
            }
        }
        None
    }

    fn echo_erased(&mut self, erased: &[u8], is_erase: bool) {
        let t = self.termios;
        let first = erased.first().copied().unwrap_or(0);
        if t.l(lflag::ECHOPRT) {
            if !std::mem::replace(&mut self.erasing, true) {
                self.echo(Echo::Byte(b'\\'));
            }
            self.echo_char(first);
            for &c in erased.iter().skip(1) {
                self.echo(Echo::Byte(c));
                self.echo(Echo::MoveBack);
            }
        } else if is_erase && !t.l(lflag::ECHOE) {
            self.echo_char(t.cc[cc::ERASE]);
        } else if first == b'\t' {
            let (columns, after_tab) = self.columns_before();
            self.echo(Echo::EraseTab { columns, after_tab });
        } else {
            let columns = match (is_control(first), t.l(lflag::ECHOCTL)) {
                (true, true) => 2,
                (true, false) => 0,
                (false, _) => 1,
            };
            for _ in 0..columns {
                for c in *b"\x08 \x08" {
                    self.echo(Echo::Byte(c));
                }
            }
        }
    }

    /// Columns that the unfinished line uses behind its last tab, or in all.
    fn columns_before(&self) -> (usize, bool) {
        let mut columns = 0;
        for &entry in self.input.iter().skip(self.complete).rev() {
            match entry as u8 {
                b'\t' => return (columns, true),
                c if is_control(c) => columns += if self.termios.l(lflag::ECHOCTL) { 2 } else { 0 },
                c if self.is_continuation(c) => {}
                _ => columns += 1,
            }
        }
        (columns, false)
    }

    fn finish_erasing(&mut self) {
        if std::mem::take(&mut self.erasing) {
            self.echo(Echo::Byte(b'/'));
        }
    }

    fn echo_char(&mut self, c: u8) {
        let control = self.termios.l(lflag::ECHOCTL) && is_control(c) && c != b'\t';
        self.echo(if control { Echo::Control(c) } else { Echo::Byte(c) });
    }

    fn echo(&mut self, step: Echo) {
        if self.echoes.len() < ECHO_MAX {
            self.echoes.push_back(step);
        }
    }

    /// Writes the echoes that wait, as far as there is room.
    pub(super) fn send_echoes(&mut self, effects: &mut Effects) {
        while let Some(&step) = self.echoes.front() {
            // The longest step is a tab.
            if self.output_room() < 8 {
                return;
            }
            self.echoes.pop_front();
            effects.wake_master = true;
            match step {
                // Linux's mark of a step, which it takes out of the output flags' way.
                Echo::Byte(0xff) => {
                    self.output.push_back(0xff);
                    self.column += 1;
                }
                Echo::Byte(c) => {
                    self.write_byte(c);
                }
                Echo::Control(c) => {
                    self.output.extend([b'^', c ^ 0x40]);
                    self.column += 2;
                }
                Echo::SetCanonColumn => self.canon_column = self.column,
                Echo::MoveBack => self.column = self.column.saturating_sub(1),
                Echo::EraseTab { columns, after_tab } => {
                    let columns = if after_tab { columns } else { columns + self.canon_column };
                    for _ in 0..8 - columns % 8 {
                        self.output.push_back(8);
                        self.column = self.column.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// Writes one byte as the output flags say; false when there is no room for what it becomes.
    fn write_byte(&mut self, mut c: u8) -> bool {
        let t = self.termios;
        let room = self.output_room();
        if room == 0 {
            return false;
        }
        if !t.o(oflag::OPOST) {
            self.output.push_back(c);
            return true;
        }
        match c {
            b'\n' => {
                if t.o(oflag::ONLRET) {
                    self.column = 0;
                }
                if t.o(oflag::ONLCR) {
                    if room < 2 {
                        return false;
                    }
                    self.column = 0;
                    self.output.push_back(b'\r');
                }
                self.canon_column = self.column;
            }
            b'\r' => {
                if t.o(oflag::ONOCR) && self.column == 0 {
                    return true;
                }
                if t.o(oflag::OCRNL) {
                    c = b'\n';
                }
                if !t.o(oflag::OCRNL) || t.o(oflag::ONLRET) {
                    self.column = 0;
                    self.canon_column = 0;
                }
            }
            b'\t' => {
                let blanks = 8 - self.column % 8;
                if t.oflag & oflag::XTABS == oflag::XTABS {
                    if room < blanks {
                        return false;
                    }
                    self.output.extend(std::iter::repeat_n(b' ', blanks));
                    self.column += blanks;
                    return true;
                }
                self.column += blanks;
            }
            8 => self.column = self.column.saturating_sub(1),
            c if is_control(c) => {}
            plain => {
                if t.o(oflag::OLCUC) {
                    c = to_upper(plain);
                }
                if !self.is_continuation(plain) {
                    self.column += 1;
                }
            }
        }
        self.output.push_back(c);
        true
    }

    /// Writes what a program wrote; returns how many bytes of it were taken.
    pub(super) fn write(&mut self, bytes: &[u8], effects: &mut Effects) -> usize {
        self.send_echoes(effects);
        let mut done = 0;
        if self.termios.o(oflag::OPOST) {
            for &c in bytes {
                if !self.write_byte(c) {
                    break;
                }
                done += 1;
            }
        } else {
            done = bytes.len().min(self.output_room());
            self.output.extend(bytes.get(..done).unwrap_or_default());
        }
        effects.wake_master |= done > 0;
        done
    }
}
