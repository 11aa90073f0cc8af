//! Terminals: pseudoterminal pairs, their line discipline, `/dev/pts`, and the terminal that ringfence was started on.
//!
//! Reading order: this file (a pair, and what it asks of those who know processes); `termios.rs`; `discipline.rs` (what
//! becomes of typed and of written bytes); `file.rs` (the two sides as open files); `ioctl.rs`; `devpts.rs` (the file
//! system); `console.rs` (the host's terminal as the other side of a pair).
//!
//! Sessions and process groups are the sentry's: it keeps [`Terminal::session`] and [`Terminal::foreground`] under its
//! own lock, checks job control before it calls here, and answers [`Jobs`]. A terminal's lock is a leaf of all that: whom
//! to signal and to wake is told once it is free.

mod console;
pub mod devpts;
mod discipline;
mod file;
mod ioctl;
pub mod termios;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EBUSY, EIO, ENXIO};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use crate::devfs::{PTMX, TTY, makedev};
use crate::file::FileOps;
use crate::tmpfs::OpenDevice;
use crate::vfs::{Inode, Owner};
pub use console::Console;
use devpts::Devpts;
use discipline::{Discipline, Effects, OUTPUT_MAX};
pub use file::{MasterFile, SlaveFile};
use termios::Termios;

/// `/dev/console`.
pub const CONSOLE: u64 = makedev(5, 1);
/// The major number of terminals under `/dev/pts`.
const PTS_MAJOR: u64 = 136;

/// What terminals ask of those who know processes. Called without locks of terminals.
pub trait Jobs: Send + Sync {
    /// Sends a signal of the kernel's to a process group.
    fn signal_group(&self, pgid: i32, signo: i32);

    /// The caller opened `tty` with these flags: a session leader without a controlling terminal gets it as such.
    fn opened(&self, tty: &Arc<Terminal>, flags: u32);

    /// The caller's controlling terminal.
    fn controlling(&self) -> Option<Arc<Terminal>>;

    /// `tty` was hung up: its session is to hear of it. May be called with locks held, so it only takes note.
    fn hung_up(&self, tty: &Arc<Terminal>);

    /// Whom a file that the caller makes belongs to.
    fn owner(&self) -> Owner;

    /// Whether the caller has `CAP_SYS_ADMIN`.
    fn is_admin(&self) -> bool;
}

/// The terminals of a sandbox.
pub struct Terminals {
    jobs: OnceLock<Weak<dyn Jobs>>,
    /// What `/dev/ptmx` makes its terminals in.
    first: OnceLock<Arc<Devpts>>,
    console: OnceLock<Arc<Terminal>>,
}

impl fmt::Debug for Terminals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminals").finish_non_exhaustive()
    }
}

impl Terminals {
    /// No terminals yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { jobs: OnceLock::new(), first: OnceLock::new(), console: OnceLock::new() })
    }

    /// Says who knows processes; once.
    pub fn set_jobs(&self, jobs: Weak<dyn Jobs>) {
        let _ = self.jobs.set(jobs);
    }

    fn jobs(&self) -> Option<Arc<dyn Jobs>> {
        self.jobs.get().and_then(Weak::upgrade)
    }

    /// The file system that `/dev/ptmx` uses.
    pub fn first(self: &Arc<Self>) -> &Arc<Devpts> {
        self.first.get_or_init(|| Devpts::new(self, devpts::Options::default()))
    }

    /// Makes `tty` the one that `/dev/console` opens; once.
    pub fn set_console(&self, tty: &Arc<Terminal>) {
        let _ = self.console.set(tty.clone());
    }

    /// Opens the nodes `tty`, `ptmx` and `console` wherever they are.
    pub fn open_device(self: &Arc<Self>) -> OpenDevice {
        let all = self.clone();
        Arc::new(move |inode: &Arc<dyn Inode>, rdev, flags| -> Result<Box<dyn FileOps>, Errno> {
            match rdev {
                TTY => {
                    let tty = all.jobs().and_then(|j| j.controlling()).ok_or(ENXIO)?;
                    Ok(Box::new(SlaveFile::open(&tty, inode.clone(), flags | crate::file::oflag::NOCTTY)?))
                }
                CONSOLE => {
                    let tty = all.console.get().ok_or(ENXIO)?;
                    Ok(Box::new(SlaveFile::open(tty, inode.clone(), flags | crate::file::oflag::NOCTTY)?))
                }
                PTMX => all.first().open_master(inode.clone()),
                // A terminal is found by its name in a devpts only.
                rdev if rdev >> 8 == PTS_MAJOR => Err(EIO),
                _ => Err(ENXIO),
            }
        })
    }
}

/// What changes of a pair.
struct State {
    discipline: Discipline,
    /// Typed, and not yet seen by the line discipline, which has no room.
    typed: VecDeque<u8>,
    window: [u8; 8],
    has_master: bool,
    /// Files open on the programs' side.
    slaves: usize,
    /// The last of them was closed.
    is_left: bool,
    /// `TIOCSPTLCK`.
    is_locked: bool,
    /// `TIOCEXCL`.
    is_exclusive: bool,
    /// Settings that cannot be changed, marked by bits (characters: by anything but 0).
    locked: Termios,
    /// `TIOCPKT`.
    is_packet: bool,
    /// What packet mode has to tell.
    packet: u8,
    /// The other side's own writes are held back (`TCOOFF` on it).
    typing_stopped: bool,
    /// Counts hang-ups: files opened before one are dead.
    generation: u64,
}

/// A pseudoterminal pair: a terminal, and the side of whoever is behind it (the "master").
pub struct Terminal {
    /// The number under `/dev/pts`.
    pub index: u32,
    /// The session whose controlling terminal it is; 0 for none. Changes under the sentry's lock of processes.
    pub session: AtomicI32,
    /// The foreground process group; 0 for none. Changes as `session` does.
    pub foreground: AtomicI32,
    all: Weak<Terminals>,
    home: Weak<Devpts>,
    /// The host's terminal, when that is behind this one.
    typist: OnceLock<Weak<Console>>,
    /// Mode, owner, times.
    attributes: Lock<devpts::Attributes, { rank::LEAF }>,
    state: Lock<State, { rank::QUEUE }>,
    slave_queue: WaitQueue,
    master_queue: WaitQueue,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Terminal {
    fn new(
        all: Weak<Terminals>,
        home: Weak<Devpts>,
        index: u32,
        attributes: devpts::Attributes,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            session: AtomicI32::new(0),
            foreground: AtomicI32::new(0),
            all,
            home,
            typist: OnceLock::new(),
            attributes: Lock::new(attributes),
            state: Lock::new(State {
                discipline: Discipline::default(),
                typed: VecDeque::new(),
                window: [0; 8],
                has_master: true,
                slaves: 0,
                is_left: false,
                is_locked: true,
                is_exclusive: false,
                locked: Termios::from_bytes(&[0; termios::SIZE]),
                is_packet: false,
                packet: 0,
                typing_stopped: false,
                generation: 0,
            }),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// `st_rdev` of the terminal, and field `tty_nr` of `/proc/PID/stat`.
    pub fn device(&self) -> u64 {
        makedev(PTS_MAJOR, u64::from(self.index))
    }

    fn jobs(&self) -> Option<Arc<dyn Jobs>> {
        self.all.upgrade().and_then(|all| all.jobs())
    }

    /// Runs `f` on the pair and does afterwards what came of it.
    fn with<T>(&self, f: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let mut state = self.state.lock();
        let result = f(&mut state, &mut effects);
        state.discipline.deliver();
        if state.is_packet && effects.packet != 0 {
            state.packet = state.packet & !effects.packet_cleared | effects.packet;
            effects.wake_master = true;
        }
        drop(state);
        self.apply(&effects);
        result
    }

    fn apply(&self, effects: &Effects) {
        let foreground = self.foreground.load(Ordering::SeqCst);
        if foreground != 0
            && !effects.signals.is_empty()
            && let Some(jobs) = self.jobs()
        {
            for &signo in &effects.signals {
                jobs.signal_group(foreground, signo);
            }
        }
        if effects.wake_slave {
            self.slave_queue.notify(Events::READABLE | Events::WRITABLE);
        }
        if effects.wake_master {
            self.master_queue.notify(Events::READABLE | Events::WRITABLE | Events::PRI);
        }
    }

    /// A program waits for what is typed.
    fn want_input(&self) {
        if let Some(console) = self.typist.get().and_then(Weak::upgrade) {
            console.want();
        }
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        self.state.lock().discipline.termios
    }

    /// Replaces the settings.
    pub fn set_termios(&self, new: Termios) {
        self.with(|state, effects| {
            let old = state.discipline.termios;
            state.discipline.set_termios(new.for_pty().keeping(&state.locked, &old), effects);
            state.settle(effects);
        });
    }

    /// Sets the window size (`struct winsize`); the foreground hears of a change.
    pub fn set_window(&self, window: [u8; 8]) {
        self.with(|state, effects| {
            if state.window != window {
                state.window = window;
                // SIGWINCH.
                effects.signals.push(28);
            }
        });
    }

    /// Signals the foreground as if the signal's character had been typed.
    pub fn type_signal(&self, signo: i32) {
        self.with(|state, effects| state.discipline.signal(signo, effects));
    }

    /// Types bytes; returns how many there was room for.
    pub fn type_bytes(&self, bytes: &[u8]) -> usize {
        self.with(|state, effects| {
            let n = bytes.len().min(state.typing_room());
            state.typed.extend(bytes.get(..n).unwrap_or_default());
            state.settle(effects);
            n
        })
    }

    /// Types one byte for `TIOCSTI`, past what waits.
    pub fn type_ahead(&self, c: u8) {
        self.with(|state, effects| {
            state.discipline.receive(c, effects);
            state.discipline.send_echoes(effects);
        });
    }

    /// Takes what was written, up to `max` bytes; in packet mode with what there is to tell in front.
    ///
    /// # Errors
    /// `EAGAIN`: nothing; `EIO`: nothing, and no program has the terminal open any more.
    fn take_output(&self, max: usize) -> Result<Vec<u8>, Errno> {
        self.with(|state, effects| {
            if state.is_packet && state.packet != 0 {
                return Ok(vec![std::mem::take(&mut state.packet)]);
            }
            let output = &mut state.discipline.output;
            if output.is_empty() {
                return Err(if state.is_left { EIO } else { EAGAIN });
            }
            let header = usize::from(state.is_packet);
            let mut bytes = vec![0; header];
            bytes.extend(output.drain(..output.len().min(max.saturating_sub(header))));
            state.discipline.send_echoes(effects);
            effects.wake_slave = true;
            Ok(bytes)
        })
    }

    /// One more file on the programs' side; returns the count of hang-ups.
    ///
    /// # Errors
    /// `EIO`: locked, or nobody is behind the terminal; `EBUSY`: it is somebody's alone.
    fn add_slave(&self) -> Result<u64, Errno> {
        let is_admin = || self.jobs().is_none_or(|j| j.is_admin());
        let exclusive = self.state.lock().is_exclusive;
        if exclusive && !is_admin() {
            return Err(EBUSY);
        }
        let mut state = self.state.lock();
        if state.is_locked || !state.has_master {
            return Err(EIO);
        }
        state.slaves += 1;
        state.is_left = false;
        Ok(state.generation)
    }

    fn remove_slave(&self) {
        let mut state = self.state.lock();
        state.slaves -= 1;
        if state.slaves > 0 {
            return;
        }
        state.is_left = true;
        state.is_exclusive = false;
        let gone = !state.has_master;
        drop(state);
        self.master_queue.notify(Events::READABLE | Events::HUP);
        if gone && let Some(home) = self.home.upgrade() {
            home.free(self.index);
        }
    }

    /// Nobody is behind the terminal any more.
    fn remove_master(self: &Arc<Self>) {
        let gone = {
            let mut state = self.state.lock();
            state.has_master = false;
            state.slaves == 0
        };
        self.hang_up();
        if gone && let Some(home) = self.home.upgrade() {
            home.free(self.index);
        }
    }

    /// Hangs up: files open on the programs' side are dead, and the session hears of it (vhangup(2)).
    pub fn hang_up(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            state.generation += 1;
            state.discipline.flush_input();
            state.typed.clear();
        }
        if let Some(jobs) = self.jobs() {
            jobs.hung_up(self);
        }
        self.slave_queue.notify(Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR);
    }

    fn has_master(&self) -> bool {
        self.state.lock().has_master
    }
}

impl State {
    /// How much can be typed.
    fn typing_room(&self) -> usize {
        if self.typing_stopped { 0 } else { OUTPUT_MAX.saturating_sub(self.typed.len()) }
    }

    /// Lets the line discipline have what was typed.
    fn settle(&mut self, effects: &mut Effects) {
        let before = self.typed.len();
        self.discipline.receive_from(&mut self.typed, effects);
        effects.wake_master |= self.typed.len() < before;
    }
}
