//! The terminal that ringfence was started on, as the other side of a pair: what is typed there is typed here, what is
//! written here is written there.
//!
//! The host's terminal is raw meanwhile, so that all editing, echoing and signalling is ours. When only some of the
//! standard streams are that terminal, a neighbour in the host's pipeline may use it too (`ringfence run -- ls | less`):
//! then it is left alone until a program in the sandbox wants to read from it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use abi::Errno;
use abi::errno::EIO;
use base::lock::{Condition, Lock, rank};
use base::wait::{Events, Wake};
use host::{stdio, terminal};

use super::termios::Termios;
use super::{Terminal, Terminals};

/// How long the end waits for the host to take the last output.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Mode {
    /// The host's terminal is to be ours.
    wanted: bool,
    /// It is raw.
    is_raw: bool,
    /// There is something to write.
    has_output: bool,
    /// The writer has nothing left.
    is_idle: bool,
    /// The sandbox ends.
    is_closing: bool,
}

/// The host's terminal and the pair that it is behind.
pub struct Console {
    tty: Arc<Terminal>,
    /// Which of the standard streams are that terminal.
    streams: [bool; 3],
    input: OwnedFd,
    output: OwnedFd,
    mode: Lock<Mode, { rank::LEAF }>,
    changed: Condition,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("tty", &self.tty).finish_non_exhaustive()
    }
}

impl Console {
    /// Looks which of the standard streams are the host's terminal. `None` when none is.
    ///
    /// # Errors
    /// `ENOSPC`, and what the host gives when it has no room for threads.
    pub fn start(all: &Arc<Terminals>) -> Result<Option<Arc<Self>>, Errno> {
        let streams =
            [0, 1, 2].map(|n| stdio::duplicate(n).filter(|(fd, _)| stdio::termios(fd.as_fd()).is_ok()));
        let device = |fd: &OwnedFd| host::file::stat(fd.as_fd()).map(|s| s.rdev).ok();
        let Some(first) = streams.iter().flatten().next().and_then(|(fd, _)| device(fd)) else {
            return Ok(None);
        };
        let ours = [0, 1, 2].map(|i: usize| {
            streams.get(i).and_then(Option::as_ref).is_some_and(|(fd, _)| device(fd) == Some(first))
        });
        let pick = |wanted: u32| {
            let own = streams.iter().zip(ours).filter(|(_, ours)| *ours).filter_map(|(s, _)| s.as_ref());
            let fits = |access: u32| access == 2 || access == wanted;
            own.clone().find(|(_, access)| fits(*access)).or_else(|| own.clone().next())
        };
        let (Some((input, _)), Some((output, _))) = (pick(0), pick(1)) else { return Ok(None) };
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| abi::errno::EMFILE);
        let tty = all.first().allocate()?;
        tty.state.lock().is_locked = false;
        if let Ok(bytes) = stdio::termios(input.as_fd()) {
            tty.set_termios(Termios::from_bytes(&bytes));
        }
        let console = Arc::new(Self {
            tty: tty.clone(),
            streams: ours,
            input: copy(input)?,
            output: copy(output)?,
            mode: Lock::default(),
            changed: Condition::new(),
        });
        console.resize();
        all.set_console(&tty);
        let _ = tty.typist.set(Arc::downgrade(&console));
        tty.master_queue.register(console.clone(), Events::READABLE);
        for (name, body) in [("console-in", Self::read_host as fn(&Self)), ("console-out", Self::write_host)]
        {
            let own = console.clone();
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || body(&own))
                .map_err(|_| abi::errno::EAGAIN)?;
        }
        if ours[0] && ours[1] && terminal::is_foreground(console.input.as_fd()) {
            console.acquire();
        }
        Ok(Some(console))
    }

    /// The terminal.
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.tty
    }

    /// Whether standard stream `number` is the terminal.
    pub fn has_stream(&self, number: u8) -> bool {
        self.streams.get(usize::from(number)).copied().unwrap_or(false)
    }

    /// Takes the host's window size over.
    pub fn resize(&self) {
        if let Ok(window) = stdio::window_size(self.output.as_fd()) {
            self.tty.set_window(window);
        }
    }

    /// Takes the host's terminal.
    fn acquire(&self) {
        let result = terminal::make_raw(self.input.as_fd());
        let mut mode = self.mode.lock();
        mode.wanted = true;
        mode.is_raw = result.is_ok();
        drop(mode);
        self.changed.notify_all();
    }

    /// A program wants what is typed.
    pub(super) fn want(&self) {
        if self.mode.lock().wanted {
            return;
        }
        if terminal::is_foreground(self.input.as_fd()) {
            self.acquire();
        } else {
            // As a program of the host's that reads in the background: whoever started us is to bring us to the front.
            self.mode.lock().wanted = true;
            host::thread::stop_process();
        }
    }

    /// Leaves the host's terminal as it was found, to stop or to end.
    pub fn release(&self) {
        self.mode.lock().is_raw = false;
        terminal::restore();
    }

    /// Takes the host's terminal again after a stop, if it was ours and we are in its foreground.
    pub fn resume(&self) {
        if self.mode.lock().wanted && terminal::is_foreground(self.input.as_fd()) {
            self.acquire();
        }
        self.resize();
    }

    /// The host's terminal sent a signal, since it was not ours: it is meant for the programs.
    pub fn signal(&self, signo: i32) {
        self.tty.type_signal(signo);
    }

    /// Writes what is left and leaves the host's terminal as it was found.
    pub fn finish(&self) {
        let mut mode = self.mode.lock();
        mode.is_closing = true;
        mode.is_idle = false;
        mode.has_output = true;
        self.changed.notify_all();
        while !mode.is_idle {
            if self.changed.wait_for(&mut mode, LAST_OUTPUT) {
                break;
            }
        }
        drop(mode);
        self.release();
    }

    /// The life of the thread that reads from the host.
    fn read_host(&self) {
        let mut buf = vec![0; 4096];
        loop {
            let mut mode = self.mode.lock();
            while !mode.is_raw {
                self.changed.wait(&mut mode);
            }
            drop(mode);
            match stdio::read(self.input.as_fd(), &mut buf) {
                Ok(n) if n > 0 => self.type_all(buf.get(..n).unwrap_or_default()),
                // In the background: wait to be brought to the front.
                Err(EIO) if !terminal::is_foreground(self.input.as_fd()) && self.is_alive() => {
                    self.mode.lock().is_raw = false;
                }
                Err(abi::errno::EAGAIN) => {
                    let _ = stdio::poll(self.input.as_fd(), Events::IN.bits() as u16, true);
                }
                _ => {
                    self.tty.remove_master();
                    return;
                }
            }
        }
    }

    fn is_alive(&self) -> bool {
        stdio::poll(self.input.as_fd(), 0, false).is_ok_and(|found| {
            !Events::from_bits_truncate(found.into()).intersects(Events::HUP | Events::ERR)
        })
    }

    fn type_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.tty.type_bytes(bytes);
            bytes = bytes.get(n..).unwrap_or_default();
            if n == 0 {
                // Nobody reads: the host's terminal keeps the rest meanwhile.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// The life of the thread that writes to the host.
    fn write_host(&self) {
        loop {
            match self.tty.take_output(64 << 10) {
                Ok(bytes) => {
                    let is_raw = self.mode.lock().is_raw;
                    let bytes = if is_raw { bytes } else { without_returns(bytes) };
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        match stdio::write(self.output.as_fd(), rest) {
                            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                            Err(_) => break,
                        }
                    }
                }
                Err(_) => {
                    let mut mode = self.mode.lock();
                    if !std::mem::take(&mut mode.has_output) {
                        mode.is_idle = mode.is_closing;
                        self.changed.notify_all();
                        while !mode.has_output {
                            self.changed.wait(&mut mode);
                        }
                    }
                }
            }
        }
    }
}

impl Wake for Console {
    fn wake(&self, _events: Events) {
        self.mode.lock().has_output = true;
        self.changed.notify_all();
    }
}

/// The host's terminal adds a return to each newline itself while it is not raw.
fn without_returns(bytes: Vec<u8>) -> Vec<u8> {
    let next = bytes.iter().skip(1).copied().map(Some).chain([None]);
    bytes
        .iter()
        .copied()
        .zip(next)
        .filter(|&(c, next)| !(c == b'\r' && next == Some(b'\n')))
        .map(|(c, _)| c)
        .collect()
}
