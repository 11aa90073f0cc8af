//! Settings of a terminal (termios(3), Linux include/uapi/asm-generic/termbits.h).

/// Input flags.
#[expect(missing_docs, reason = "termios(3) explains each")]
pub mod iflag {
    pub const PARMRK: u32 = 0o10;
    pub const ISTRIP: u32 = 0o40;
    pub const INLCR: u32 = 0o100;
    pub const IGNCR: u32 = 0o200;
    pub const ICRNL: u32 = 0o400;
    pub const IUCLC: u32 = 0o1000;
    pub const IXON: u32 = 0o2000;
    pub const IXANY: u32 = 0o4000;
    pub const IUTF8: u32 = 0o40000;
}

/// Output flags.
#[expect(missing_docs, reason = "termios(3) explains each")]
pub mod oflag {
    pub const OPOST: u32 = 0o1;
    pub const OLCUC: u32 = 0o2;
    pub const ONLCR: u32 = 0o4;
    pub const OCRNL: u32 = 0o10;
    pub const ONOCR: u32 = 0o20;
    pub const ONLRET: u32 = 0o40;
    /// Tabs become blanks.
    pub const XTABS: u32 = 0o14000;
}

/// Local flags.
#[expect(missing_docs, reason = "termios(3) explains each")]
pub mod lflag {
    pub const ISIG: u32 = 0o1;
    pub const ICANON: u32 = 0o2;
    pub const ECHO: u32 = 0o10;
    pub const ECHOE: u32 = 0o20;
    pub const ECHOK: u32 = 0o40;
    pub const ECHONL: u32 = 0o100;
    pub const NOFLSH: u32 = 0o200;
    pub const TOSTOP: u32 = 0o400;
    pub const ECHOCTL: u32 = 0o1000;
    pub const ECHOPRT: u32 = 0o2000;
    pub const ECHOKE: u32 = 0o4000;
    pub const IEXTEN: u32 = 0o100000;
    pub const EXTPROC: u32 = 0o200000;
}

/// Positions of the special characters.
#[expect(missing_docs, reason = "termios(3) explains each")]
pub mod cc {
    pub const INTR: usize = 0;
    pub const QUIT: usize = 1;
    pub const ERASE: usize = 2;
    pub const KILL: usize = 3;
    pub const EOF: usize = 4;
    pub const TIME: usize = 5;
    pub const MIN: usize = 6;
    pub const START: usize = 8;
    pub const STOP: usize = 9;
    pub const SUSP: usize = 10;
    pub const EOL: usize = 11;
    pub const REPRINT: usize = 12;
    pub const WERASE: usize = 14;
    pub const LNEXT: usize = 15;
    pub const EOL2: usize = 16;
}

/// `CBAUD`, `BOTHER`, and where the input speed's bits are.
const CBAUD: u32 = 0o10017;
const BOTHER: u32 = 0o10000;
const IBSHIFT: u32 = 16;
const CSIZE: u32 = 0o60;
const CS8: u32 = 0o60;
const CREAD: u32 = 0o200;
const PARENB: u32 = 0o400;
const B38400: u32 = 0o17;

/// Speeds by their code: `B0` to `B38400`, then those with `CBAUDEX`, `B57600` to `B4000000`.
const SPEEDS: [u32; 31] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115_200,
    230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000,
    3_000_000, 3_500_000, 4_000_000,
];

/// The settings of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "termios(3) explains each")]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; 19],
    /// Bits per second.
    pub ispeed: u32,
    /// Bits per second.
    pub ospeed: u32,
}

impl Default for Termios {
    /// Those of a new pseudoterminal (Linux drivers/tty/tty_io.c, `tty_std_termios`; drivers/tty/pty.c).
    fn default() -> Self {
        let mut chars = [0; 19];
        chars[..17].copy_from_slice(&[3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0]);
        Self {
            iflag: iflag::ICRNL | iflag::IXON,
            oflag: oflag::OPOST | oflag::ONLCR,
            cflag: B38400 | CS8 | CREAD,
            lflag: lflag::ISIG
                | lflag::ICANON
                | lflag::ECHO
                | lflag::ECHOE
                | lflag::ECHOK
                | lflag::ECHOCTL
                | lflag::ECHOKE
                | lflag::IEXTEN,
            line: 0,
            cc: chars,
            ispeed: 38400,
            ospeed: 38400,
        }
    }
}

/// The size of `struct termios` and of `struct termios2`, the same with two speeds behind it.
pub const SIZE: usize = 36;
/// See [`SIZE`].
pub const SIZE2: usize = 44;
/// The size of the old `struct termio`.
pub const SIZE_OLD: usize = 18;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl Termios {
    /// `struct termios2`, which `struct termios` is the first part of.
    pub fn to_bytes(&self) -> [u8; SIZE2] {
        let mut out = [0; SIZE2];
        for (i, v) in [self.iflag, self.oflag, self.cflag, self.lflag].into_iter().enumerate() {
            out[i * 4..i * 4 + 4].copy_from_slice(&v.to_le_bytes());
        }
        out[16] = self.line;
        out[17..36].copy_from_slice(&self.cc);
        out[36..40].copy_from_slice(&self.ispeed.to_le_bytes());
        out[40..44].copy_from_slice(&self.ospeed.to_le_bytes());
        out
    }

    /// From `struct termios` or `struct termios2`: the speeds come from the flags, unless those say `BOTHER` and the
    /// structure has them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut chars = [0; 19];
        if let Some(given) = bytes.get(17..36) {
            chars.copy_from_slice(given);
        }
        let mut new = Self {
            iflag: word(bytes, 0),
            oflag: word(bytes, 4),
            cflag: word(bytes, 8),
            lflag: word(bytes, 12),
            line: bytes.get(16).copied().unwrap_or(0),
            cc: chars,
            ispeed: word(bytes, 36),
            ospeed: word(bytes, 40),
        };
        new.settle_speeds();
        new
    }

    /// `struct termio`.
    pub fn to_old_bytes(&self) -> [u8; SIZE_OLD] {
        let mut out = [0; SIZE_OLD];
        for (i, v) in [self.iflag, self.oflag, self.cflag, self.lflag].into_iter().enumerate() {
            out[i * 2..i * 2 + 2].copy_from_slice(&(v as u16).to_le_bytes());
        }
        out[8] = self.line;
        out[9..17].copy_from_slice(&self.cc[..8]);
        out
    }

    /// These settings with what `struct termio` can change of them.
    pub fn with_old_bytes(&self, bytes: &[u8; SIZE_OLD]) -> Self {
        let low = |old: u32, at: usize| {
            old & 0xffff_0000 | u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
        };
        let mut new = *self;
        new.iflag = low(self.iflag, 0);
        new.oflag = low(self.oflag, 2);
        new.cflag = low(self.cflag, 4);
        new.lflag = low(self.lflag, 6);
        new.line = bytes[8];
        new.cc[..8].copy_from_slice(&bytes[9..17]);
        new.settle_speeds();
        new
    }

    fn settle_speeds(&mut self) {
        let of = |code: u32, given: u32| match code {
            BOTHER => given,
            code => {
                let index = if code & BOTHER != 0 { (code & !BOTHER) + 15 } else { code };
                SPEEDS.get(index as usize).copied().unwrap_or(0)
            }
        };
        self.ospeed = of(self.cflag & CBAUD, self.ospeed);
        let input = self.cflag >> IBSHIFT & CBAUD;
        self.ispeed = if input == 0 { self.ospeed } else { of(input, self.ispeed) };
    }

    /// What a pseudoterminal makes of new settings (Linux drivers/tty/pty.c, `pty_set_termios`).
    pub(super) fn for_pty(mut self) -> Self {
        self.cflag = self.cflag & !(CSIZE | PARENB) | CS8 | CREAD;
        self
    }

    /// Whether an input flag is set.
    pub fn i(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }

    /// Whether an output flag is set.
    pub fn o(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }

    /// Whether a local flag is set.
    pub fn l(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }

    /// Whether `c` is the special character at `which`; a zero there disables it.
    pub fn is(&self, which: usize, c: u8) -> bool {
        c != 0 && self.cc[which] == c
    }

    /// Keeps of `old` what `locked` marks (Linux drivers/tty/tty_ioctl.c, `unset_locked_termios`).
    pub(super) fn keeping(mut self, locked: &Self, old: &Self) -> Self {
        let keep = |new: u32, locked: u32, old: u32| new & !locked | old & locked;
        self.iflag = keep(self.iflag, locked.iflag, old.iflag);
        self.oflag = keep(self.oflag, locked.oflag, old.oflag);
        self.cflag = keep(self.cflag, locked.cflag, old.cflag);
        self.lflag = keep(self.lflag, locked.lflag, old.lflag);
        if locked.line != 0 {
            self.line = old.line;
        }
        for ((new, locked), old) in self.cc.iter_mut().zip(locked.cc).zip(old.cc) {
            if locked != 0 {
                *new = old;
            }
        }
        self
    }

    /// Whether output stops at `^S` and goes on at `^Q`, which is what packet mode tells of.
    pub(super) fn has_usual_flow_control(&self) -> bool {
        self.i(iflag::IXON) && self.cc[cc::STOP] == 0o23 && self.cc[cc::START] == 0o21
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_way_through_bytes() {
        let t = Termios::default();
        assert_eq!(Termios::from_bytes(&t.to_bytes()), t);
        assert_eq!(Termios::from_bytes(&t.to_bytes()[..SIZE]), t);
        assert_eq!(t.with_old_bytes(&t.to_old_bytes()), t);
        let mut fast = t.to_bytes();
        fast[8..12].copy_from_slice(&(0o10002 | CS8).to_le_bytes());
        assert_eq!(Termios::from_bytes(&fast).ospeed, 115_200);
    }
}
