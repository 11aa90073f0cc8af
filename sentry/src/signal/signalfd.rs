//! signalfd(2): signals as something to read (Linux fs/signalfd.c).
//!
//! A signalfd shows the signals of whichever thread reads or polls it. Each process whose threads have done so tells it of
//! new signals.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EAGAIN, EINVAL};
use abi::signal::{SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SigInfo, code};
use base::io::Sink;
use base::wait::{Events, WaitQueue};
use fs::file::{FileDescription, FileOps, Metadata, oflag};

use super::{GroupSignals, UNBLOCKABLE};
use crate::task::Task;

/// `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// What the file and the processes that tell it of signals share.
#[derive(Debug)]
pub struct Shared {
    mask: AtomicU64,
    queue: WaitQueue,
}

impl Shared {
    /// A signal was sent.
    pub(super) fn notify(&self) {
        self.queue.notify(Events::READABLE);
    }
}

/// An open signalfd.
#[derive(Debug)]
pub struct SignalFd(Arc<Shared>);

/// Makes a signalfd for the signals in `mask`; `flags` is `O_NONBLOCK` or 0.
pub fn new(mask: u64, flags: u32) -> Arc<FileDescription> {
    let shared = Shared { mask: AtomicU64::new(mask & !UNBLOCKABLE), queue: WaitQueue::new() };
    let ops = SignalFd(Arc::new(shared));
    FileDescription::new(Box::new(ops), None, (flags & oflag::NONBLOCK) | oflag::RDWR)
}

impl GroupSignals {
    pub(super) fn signalfd_listeners(&mut self) -> Vec<Arc<Shared>> {
        if self.signalfds.is_empty() {
            return Vec::new();
        }
        self.signalfds.retain(|l| l.strong_count() > 0);
        self.signalfds.iter().filter_map(std::sync::Weak::upgrade).collect()
    }

    fn listen(&mut self, listener: &Arc<Shared>) {
        let known = self.signalfds.iter().any(|l| std::ptr::eq(l.as_ptr(), Arc::as_ptr(listener)));
        if !known {
            self.signalfds.push(Arc::downgrade(listener));
        }
    }
}

impl SignalFd {
    /// Replaces the set of signals.
    pub fn set_mask(&self, mask: u64) {
        self.0.mask.store(mask & !UNBLOCKABLE, Ordering::SeqCst);
        self.0.notify();
    }

    fn take(&self, task: &Arc<Task>) -> Option<SigInfo> {
        let blocked = !self.0.mask.load(Ordering::SeqCst);
        loop {
            let mut is_shared = false;
            let mut p = {
                let mut signals = task.group.signals.lock();
                signals.listen(&self.0);
                let mut state = task.state.lock();
                let taken = state.pending.take(blocked).or_else(|| {
                    is_shared = true;
                    signals.pending.take(blocked)
                })?;
                task.recalc(&signals, &state);
                taken
            };
            if is_shared && p.signo == super::SIGALRM {
                task.group.timers.alarm_delivered();
            }
            match p.hook.take() {
                Some(hook) if !hook.dequeued(&mut p.info) => {}
                _ => return Some(p.info),
            }
        }
    }
}

impl FileOps for SignalFd {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let room = dst.remaining() / RECORD;
        if room == 0 {
            return Err(EINVAL);
        }
        let Some(task) = crate::task::current() else { return Err(EAGAIN) };
        let mut done = 0;
        for _ in 0..room {
            let Some(info) = self.take(&task) else { break };
            match dst.put(&record(&info)) {
                Ok(n) => {
                    done += n;
                    if n < RECORD {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        if done == 0 { Err(EAGAIN) } else { Ok(done) }
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(fs::anon::anon_metadata())
    }

    fn ready(&self) -> Events {
        let Some(task) = crate::task::current() else { return Events::empty() };
        let wanted = self.0.mask.load(Ordering::SeqCst);
        let mut signals = task.group.signals.lock();
        signals.listen(&self.0);
        let any = (signals.pending.set() | task.state.lock().pending.set()) & wanted != 0;
        if any { Events::READABLE } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[signalfd]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A `struct signalfd_siginfo` (fs/signalfd.c, `signalfd_copyinfo`).
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut out = [0u8; RECORD];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, &info.signo.to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    let sender = |put: &mut dyn FnMut(usize, &[u8])| {
        put(12, &info.pid().to_ne_bytes());
        put(16, &info.uid().to_ne_bytes());
    };
    let value = |put: &mut dyn FnMut(usize, &[u8])| {
        put(44, &(info.value() as u32).to_ne_bytes());
        put(48, &info.value().to_ne_bytes());
    };
    match info.signo as u32 {
        _ if info.code == code::SI_TIMER => {
            put(24, &info.pid().to_ne_bytes());
            put(32, &info.overrun().to_ne_bytes());
            value(&mut put);
        }
        SIGCHLD if info.code > 0 && info.code != code::SI_KERNEL => {
            sender(&mut put);
            put(40, &info.status().to_ne_bytes());
            put(56, &info.utime().to_ne_bytes());
            put(64, &info.stime().to_ne_bytes());
        }
        SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP if info.code > 0 && info.code != code::SI_KERNEL => {
            put(72, &info.addr().to_ne_bytes());
        }
        SIGSYS if info.code > 0 && info.code != code::SI_KERNEL => {
            put(84, &info.fd().to_ne_bytes());
            put(88, &info.addr().to_ne_bytes());
        }
        _ if info.code == code::SI_SIGIO || (info.signo == 29 && info.code > 0 && info.code <= 6) => {
            put(28, &(info.band() as u32).to_ne_bytes());
            put(20, &info.fd().to_ne_bytes());
        }
        _ if info.code < 0 && info.code != code::SI_TKILL => {
            sender(&mut put);
            value(&mut put);
        }
        _ => sender(&mut put),
    }
    out
}
