//! Pipes (pipe(7)): a ring of bytes with a reading and a writing end.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EFAULT, ENOTTY, EPIPE};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::{new_ino, now};
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};

/// How many bytes fit, as in Linux unless `F_SETPIPE_SZ` was used.
pub const CAPACITY: usize = 64 << 10;
/// Writes up to this length are not torn (`PIPE_BUF`).
pub const PIPE_BUF: usize = 4096;

/// The mode of a pipe's inode: `S_IFIFO`, readable and writable for the owner.
const MODE: u32 = 0o010_600;
/// `FIONREAD` of ioctl_pipe(2).
pub(super) const FIONREAD: u32 = 0x541b;

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    readers: bool,
    writers: bool,
}

#[derive(Debug)]
struct Pipe {
    ino: u64,
    created: base::time::Time,
    ring: Lock<Ring, { rank::QUEUE }>,
    /// One queue for each end, so that a write does not wake writers.
    read_queue: WaitQueue,
    write_queue: WaitQueue,
}

/// One end of a pipe.
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    is_reader: bool,
}

/// Makes a pipe; returns its reading and its writing end. `flags` is `O_NONBLOCK` or 0.
pub fn new(flags: u32) -> (Arc<FileDescription>, Arc<FileDescription>) {
    let pipe = Arc::new(Pipe {
        ino: new_ino(),
        created: now(),
        ring: Lock::new(Ring { bytes: VecDeque::new(), readers: true, writers: true }),
        read_queue: WaitQueue::new(),
        write_queue: WaitQueue::new(),
    });
    let flags = flags & oflag::NONBLOCK;
    let end = |is_reader, access| {
        let ops = Box::new(PipeEnd { pipe: pipe.clone(), is_reader });
        FileDescription::new(ops, None, flags | access)
    };
    (end(true, oflag::RDONLY), end(false, oflag::WRONLY))
}

impl FileOps for PipeEnd {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let wanted = dst.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.ring.lock();
        if ring.bytes.is_empty() {
            return if ring.writers { Err(EAGAIN) } else { Ok(0) };
        }
        let mut done = 0;
        let mut failed = None;
        let (front, back) = ring.bytes.as_slices();
        for slice in [front, back] {
            let Some(piece) = slice.get(..slice.len().min(wanted - done)) else { break };
            if piece.is_empty() {
                continue;
            }
            match dst.put(piece) {
                Ok(n) => {
                    done += n;
                    if n < piece.len() {
                        break;
                    }
                }
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        ring.bytes.drain(..done);
        drop(ring);
        if done == 0 {
            return Err(failed.unwrap_or(EFAULT));
        }
        self.pipe.write_queue.notify(Events::WRITABLE);
        Ok(done)
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let wanted = src.remaining();
        // Linux's pipe_write looks at the length first: an empty write succeeds even without readers.
        if wanted == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.ring.lock();
        if !ring.readers {
            return Err(EPIPE);
        }
        let room = CAPACITY.saturating_sub(ring.bytes.len());
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            return Err(EAGAIN);
        }
        let mut done = 0;
        let mut failed = None;
        let mut buf = [0u8; PIPE_BUF];
        while done < room.min(wanted) {
            let len = buf.len().min(room.min(wanted) - done);
            let Some(piece) = buf.get_mut(..len) else { break };
            match src.take(piece) {
                Ok(n) => {
                    ring.bytes.extend(piece.iter().take(n));
                    done += n;
                    if n < len {
                        break;
                    }
                }
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        drop(ring);
        if done == 0 {
            return Err(failed.unwrap_or(EFAULT));
        }
        self.pipe.read_queue.notify(Events::READABLE);
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let time = self.pipe.created;
        Ok(Metadata {
            dev: super::PIPE_DEV,
            ino: self.pipe.ino,
            mode: MODE,
            nlink: 1,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Metadata::default()
        })
    }

    fn ready(&self) -> Events {
        let ring = self.pipe.ring.lock();
        let mut events = Events::empty();
        if self.is_reader {
            if !ring.bytes.is_empty() {
                events |= Events::READABLE;
            }
            if !ring.writers {
                events |= Events::HUP;
            }
        } else {
            // Linux's pipes are writable while one of their buffers, a page each, is free.
            if CAPACITY.saturating_sub(ring.bytes.len()) >= PIPE_BUF {
                events |= Events::WRITABLE;
            }
            if !ring.readers {
                events |= Events::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(if self.is_reader { &self.pipe.read_queue } else { &self.pipe.write_queue })
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        if request != FIONREAD {
            return Err(ENOTTY);
        }
        let len = self.pipe.ring.lock().bytes.len() as u32;
        memory.write(arg, &len.to_le_bytes())?;
        Ok(0)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(format!("pipe:[{}]", self.pipe.ino).into_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut ring = self.pipe.ring.lock();
        if self.is_reader {
            ring.readers = false;
            // What nobody can read any more need not be kept.
            ring.bytes = VecDeque::new();
        } else {
            ring.writers = false;
        }
        drop(ring);
        if self.is_reader {
            self.pipe.write_queue.notify(Events::ERR | Events::WRITABLE);
        } else {
            self.pipe.read_queue.notify(Events::HUP | Events::READABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_and_closing_is_seen() {
        let (r, w) = new(0);
        let mut buf = [0u8; 8];
        assert_eq!(r.read(&mut buf.as_mut_slice()), Err(EAGAIN));
        assert_eq!(w.write(&mut &b"hello"[..]), Ok(5));
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(5));
        assert_eq!(&buf[..5], b"hello");
        drop(w);
        assert_eq!(r.ops.ready(), Events::HUP);
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(0));
        let (r, w) = new(0);
        drop(r);
        assert!(w.ops.ready().contains(Events::ERR));
        assert_eq!(w.write(&mut &b"x"[..]), Err(EPIPE));
    }

    #[test]
    fn short_writes_are_whole_and_long_ones_fill_up() {
        let (r, w) = new(0);
        let long = vec![7u8; CAPACITY + 10];
        assert_eq!(w.write(&mut long.as_slice()), Ok(CAPACITY));
        assert_eq!(w.write(&mut &b"x"[..]), Err(EAGAIN));
        let mut buf = [0u8; 100];
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(100));
        assert_eq!(w.write(&mut &long[..101]), Err(EAGAIN));
        assert_eq!(w.write(&mut &long[..PIPE_BUF + 1]), Ok(100));
    }
}
