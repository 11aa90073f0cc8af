//! The two sides of a pair as open files.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EIO, ENOTTY};
use base::io::{Sink, Source};
use base::wait::{Events, WaitQueue};

use super::Terminal;
use super::ioctl::{self, Side};
use super::termios::lflag;
use crate::file::{FileOps, IoctlMemory, Metadata, oflag};
use crate::vfs::Inode;

/// Most bytes that one step of a read or a write moves.
const PIECE: usize = 4096;
/// Below so many bytes of output the terminal counts as writable (Linux `WAKEUP_CHARS`, against its own buffer).
const OUTPUT_LOW: usize = 256;

/// A terminal, opened by a program.
#[derive(Debug)]
pub struct SlaveFile {
    tty: Arc<Terminal>,
    inode: Arc<dyn Inode>,
    generation: u64,
}

impl SlaveFile {
    /// Opens the terminal; it may become the caller's controlling one.
    ///
    /// # Errors
    /// `EIO`: locked or hung up; `EBUSY`: opened exclusively.
    pub(super) fn open(tty: &Arc<Terminal>, inode: Arc<dyn Inode>, flags: u32) -> Result<Self, Errno> {
        let generation = tty.add_slave()?;
        let file = Self { tty: tty.clone(), inode, generation };
        if flags & oflag::NOCTTY == 0
            && let Some(jobs) = tty.jobs()
        {
            jobs.opened(tty, flags);
        }
        Ok(file)
    }

    /// The terminal.
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.tty
    }

    /// Whether the terminal was hung up since this file was opened.
    pub fn is_hung_up(&self) -> bool {
        self.tty.state.lock().generation != self.generation
    }

    /// `VMIN` and `VTIME` (tenths of a second) as they bear on a read; (1, 0) in canonical mode.
    pub fn timing(&self) -> (usize, u8) {
        self.tty.state.lock().discipline.timing()
    }

    /// Whether a write from the background stops its process group (`TOSTOP`).
    pub fn stops_writers(&self) -> bool {
        self.tty.termios().l(lflag::TOSTOP)
    }

    /// Reads what there is; says too whether it was a line, which a read ends with.
    ///
    /// # Errors
    /// `EAGAIN`: nothing; `EIO`: nothing, and nobody will type any more.
    pub fn take(&self, dst: &mut dyn Sink) -> Result<(usize, bool), Errno> {
        let (bytes, is_line) = self
            .tty
            .with(|state, effects| {
                if state.generation != self.generation {
                    // Who was already waiting when the other side went hears of it.
                    return if state.has_master { Ok((Vec::new(), true)) } else { Err(EIO) };
                }
                if !state.discipline.has_input(1) {
                    return Err(if state.has_master { EAGAIN } else { EIO });
                }
                let is_line = state.discipline.termios.l(lflag::ICANON);
                let bytes = state.discipline.take(dst.remaining().min(PIECE));
                state.settle(effects);
                Ok((bytes, is_line))
            })
            .inspect_err(|_| self.tty.want_input())?;
        match bytes.is_empty() {
            true => Ok((0, true)),
            false => Ok((dst.put(&bytes)?, is_line)),
        }
    }
}

impl Drop for SlaveFile {
    fn drop(&mut self) {
        self.tty.remove_slave();
    }
}

impl FileOps for SlaveFile {
    /// A read as by those who know no `VMIN` and `VTIME`: the syscall layer uses [`SlaveFile::take`] and keeps time.
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        self.take(dst).map(|(n, _)| n)
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        while src.remaining() > 0 {
            // What is taken from the source must be written: a byte becomes eight at most, as a tab does.
            let step = self.tty.with(|state, effects| {
                if state.generation != self.generation || !state.has_master {
                    return Err(EIO);
                }
                state.discipline.send_echoes(effects);
                let room = state.discipline.output_room() / 8;
                if room == 0 {
                    return Err(EAGAIN);
                }
                let mut buf = [0; 512];
                let n = src.take(&mut buf[..room.min(512)])?;
                state.discipline.write(buf.get(..n).unwrap_or_default(), effects);
                Ok(n)
            });
            match step {
                Ok(n) => done += n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn ready(&self) -> Events {
        let state = self.tty.state.lock();
        if state.generation != self.generation {
            return Events::READABLE | Events::WRITABLE | Events::ERR | Events::HUP;
        }
        let mut events = Events::empty();
        let (min, time) = state.discipline.timing();
        if state.discipline.has_input(if time == 0 { min } else { 1 }) {
            events |= Events::READABLE;
        }
        if !state.has_master {
            events |= Events::HUP;
        }
        if state.discipline.output_room() > OUTPUT_LOW {
            events |= Events::WRITABLE;
        }
        drop(state);
        if !events.contains(Events::READABLE) {
            self.tty.want_input();
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.slave_queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        if self.is_hung_up() {
            return Err(if request == ioctl::TIOCSPGRP { ENOTTY } else { EIO });
        }
        ioctl::ioctl(&self.tty, Side::Slave, request, arg, memory)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The side of whoever is behind a terminal: what opening `/dev/ptmx` gives.
#[derive(Debug)]
pub struct MasterFile {
    tty: Arc<Terminal>,
    inode: Arc<dyn Inode>,
}

impl MasterFile {
    pub(super) fn new(tty: Arc<Terminal>, inode: Arc<dyn Inode>) -> Self {
        Self { tty, inode }
    }

    /// The terminal.
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.tty
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        self.tty.remove_master();
    }
}

impl FileOps for MasterFile {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        match dst.remaining().min(PIECE) {
            0 => Ok(0),
            max => dst.put(&self.tty.take_output(max)?),
        }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        while src.remaining() > 0 {
            let step = self.tty.with(|state, effects| {
                let room = state.typing_room();
                if room == 0 {
                    return Err(EAGAIN);
                }
                let mut buf = [0; 512];
                let n = src.take(&mut buf[..room.min(512)])?;
                state.typed.extend(buf.get(..n).unwrap_or_default());
                state.settle(effects);
                Ok(n)
            });
            match step {
                Ok(n) => done += n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn ready(&self) -> Events {
        let state = self.tty.state.lock();
        let mut events = Events::empty();
        if !state.discipline.output.is_empty() {
            events |= Events::READABLE;
        }
        if state.is_packet && state.packet != 0 {
            events |= Events::READABLE | Events::PRI;
        }
        if state.is_left {
            events |= Events::HUP;
        }
        if state.typing_room() > 0 {
            events |= Events::WRITABLE;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.master_queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        ioctl::ioctl(&self.tty, Side::Master, request, arg, memory)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
