//! Socket filters: programs that decide what a socket receives (`SO_ATTACH_FILTER`), or which of the sockets that share a
//! port does (`SO_ATTACH_REUSEPORT_CBPF`).
//!
//! Source: socket(7); Linux 6.12 net/core/filter.c, `sk_attach_filter`, `sk_filter_trim_cap`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::errno::{EINVAL, ENOENT, ENOMEM, EPERM};
use base::bpf::{Instruction, Packet, Program};
use base::kept::Kept;
use base::lock::{Lock, rank};

/// A program, and what it takes of the sandbox's memory.
#[derive(Debug)]
pub struct Attached {
    program: Program,
    /// It asks for random numbers.
    asks_for_chance: bool,
    _kept: Kept,
}

impl Attached {
    /// Checks a program that a process gave.
    ///
    /// # Errors
    /// `EINVAL`: it is none; `ENOMEM`.
    pub fn new(list: Vec<Instruction>) -> Result<Arc<Self>, Errno> {
        let size = list.len() * Instruction::SIZE;
        let program = Program::for_packets(list)?;
        let kept = Kept::new(size).map_err(|_| ENOMEM)?;
        Ok(Arc::new(Self { asks_for_chance: program.asks_for_chance(), program, _kept: kept }))
    }

    /// What it says of a packet.
    pub(crate) fn run(&self, packet: &Packet<'_>) -> u32 {
        let mut random = [0; 4];
        if self.asks_for_chance {
            // Without it, every number is as good as another.
            let _ = host::file::random(&mut random);
        }
        let processor = host::system::current_cpu() as u32;
        self.program.run_on(&Packet { processor, random: u32::from_ne_bytes(random), ..*packet })
    }
}

/// The filters of a socket.
#[derive(Debug, Default)]
pub struct Filters {
    /// One is attached.
    is_on: AtomicBool,
    is_locked: AtomicBool,
    attached: Lock<Option<Arc<Attached>>, { rank::LEAF }>,
    /// What chooses among the sockets of a port that this one will be the first of.
    pub(crate) chooser: Lock<Option<Arc<Attached>>, { rank::LEAF }>,
}

impl Filters {
    /// Fails when the filter may not be changed any more.
    ///
    /// # Errors
    /// `EPERM`: it is locked (`SO_LOCK_FILTER`).
    pub fn check_lock(&self) -> Result<(), Errno> {
        if self.is_locked.load(Ordering::Relaxed) { Err(EPERM) } else { Ok(()) }
    }

    /// `SO_LOCK_FILTER`.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Relaxed)
    }

    /// Sets `SO_LOCK_FILTER`, which stays on once it is.
    pub(crate) fn lock(&self, is_on: bool) -> Result<(), Errno> {
        if !is_on {
            return self.check_lock();
        }
        self.is_locked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn set(&self, new: Option<Arc<Attached>>) -> Option<Arc<Attached>> {
        let mut attached = self.attached.lock();
        self.is_on.store(new.is_some(), Ordering::Release);
        std::mem::replace(&mut *attached, new)
    }

    /// `SO_ATTACH_FILTER`: `list` decides from now on.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`, `ENOMEM`.
    pub fn attach(&self, list: Vec<Instruction>) -> Result<(), Errno> {
        self.check_lock()?;
        let old = self.set(Some(Attached::new(list)?));
        drop(old);
        Ok(())
    }

    /// `SO_DETACH_FILTER`.
    ///
    /// # Errors
    /// `EPERM`; `ENOENT`: there is none.
    pub(crate) fn detach(&self) -> Result<(), Errno> {
        self.check_lock()?;
        self.set(None).map(drop).ok_or(ENOENT)
    }

    /// `SO_GET_FILTER`: the instructions, if there is a filter; `room` is for how many the caller has place, 0 to ask for
    /// their number.
    ///
    /// # Errors
    /// `EINVAL`: there are more.
    pub fn program(&self, room: usize) -> Result<(Vec<u8>, usize), Errno> {
        let Some(attached) = self.attached() else { return Ok((Vec::new(), 0)) };
        let list = attached.program.instructions();
        if room == 0 {
            return Ok((Vec::new(), list.len()));
        }
        if room < list.len() {
            return Err(EINVAL);
        }
        Ok((list.iter().flat_map(|i| i.to_bytes()).collect(), list.len()))
    }

    /// A new connection has the filter of its listener.
    pub(crate) fn inherit(&self, from: &Self) {
        if let Some(attached) = from.attached() {
            self.set(Some(attached));
        }
        self.is_locked.store(from.is_locked(), Ordering::Relaxed);
    }

    /// Sets or removes what chooses for a socket that does not receive yet.
    ///
    /// # Errors
    /// `EINVAL`: it will share its port with nobody; `ENOENT`: there is nothing to remove.
    pub(crate) fn choose_later(&self, shares: bool, new: Option<Arc<Attached>>) -> Result<(), Errno> {
        if !shares {
            return Err(EINVAL);
        }
        let is_new = new.is_some();
        let old = std::mem::replace(&mut *self.chooser.lock(), new);
        if is_new || old.is_some() { Ok(()) } else { Err(ENOENT) }
    }

    /// Whether there is one.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    fn attached(&self) -> Option<Arc<Attached>> {
        if self.is_on() { self.attached.lock().clone() } else { None }
    }

    /// How many bytes of a packet the socket gets, at least `least`: `None` when it does not get it at all. `judge` is
    /// given what asks the filter, and called only if there is one.
    pub(crate) fn keep(&self, judge: impl FnOnce(&dyn Fn(&Packet<'_>) -> u32) -> u32) -> Verdict {
        match self.attached() {
            None => Verdict::Whole,
            Some(attached) => match judge(&|packet| attached.run(packet)) {
                0 => Verdict::Nothing,
                n => Verdict::First(n as usize),
            },
        }
    }
}

/// What a filter says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The socket gets it.
    Whole,
    /// The socket gets so many bytes of it, counted from where the filter looks at it.
    First(usize),
    /// The socket does not get it.
    Nothing,
}

impl Verdict {
    /// How much of `len` bytes is left that begin `before` bytes behind what the filter saw first; `None` for nothing.
    pub(crate) fn left(self, before: usize, len: usize) -> Option<usize> {
        match self {
            Self::Whole => Some(len),
            Self::First(n) => Some(n.saturating_sub(before).min(len)),
            Self::Nothing => None,
        }
    }
}
