//! Pipes (pipe(7)) and FIFOs (fifo(7)): a ring of bytes with reading and writing ends.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EBADF, EBUSY, EFAULT, ENOTTY, ENXIO, EPIPE};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::{new_ino, now};
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};
use crate::vfs::{Inode, Owner, SetAttributes};

/// How many bytes fit, as in Linux unless `F_SETPIPE_SZ` was used.
pub const CAPACITY: usize = 64 << 10;
/// Writes up to this length are not torn (`PIPE_BUF`).
pub const PIPE_BUF: usize = 4096;
/// The largest capacity without a privilege (`/proc/sys/fs/pipe-max-size`). One process runs one sandbox.
pub static CAPACITY_MAX: AtomicUsize = AtomicUsize::new(1 << 20);

/// The mode of a pipe's inode: `S_IFIFO`, readable and writable for the owner.
const MODE: u32 = 0o010_600;
/// `FIONREAD` of ioctl_pipe(2).
pub(super) const FIONREAD: u32 = 0x541b;

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    /// Bytes that were ever taken out.
    taken: u64,
    /// What was written with `O_DIRECT`, in order.
    packets: VecDeque<Packet>,
    /// Bytes in the last buffer, if writes may be added to it: 0 behind a packet, and when the pipe is empty.
    tail: usize,
    capacity: usize,
    readers: u32,
    writers: u32,
    /// Ends that were ever opened: a FIFO's open waits for a change.
    reader_opens: u64,
    writer_opens: u64,
}

/// A write that is read by itself: its bytes, counted from the pipe's first one.
#[derive(Clone, Copy, Debug)]
struct Packet {
    start: u64,
    end: u64,
}

impl Ring {
    /// A packet takes a whole buffer, however short it is.
    fn room(&self) -> usize {
        let waste: usize =
            self.packets.iter().map(|p| PIPE_BUF.saturating_sub((p.end - p.start) as usize)).sum();
        self.capacity.saturating_sub(self.bytes.len() + waste)
    }

    /// How many of `wanted` bytes one read may give, and how many it takes out: a packet ends it, and its rest is lost.
    fn extent(&self, wanted: usize) -> (usize, usize) {
        let wanted = wanted.min(self.bytes.len());
        match self.packets.front() {
            Some(packet) if packet.start < self.taken + wanted as u64 => {
                let end = (packet.end - self.taken) as usize;
                (wanted.min(end), end)
            }
            _ => (wanted, wanted),
        }
    }

    /// Whether `n` bytes go into the last buffer (fs/pipe.c, `pipe_write`): even a packet is none then.
    fn merges(&self, n: usize) -> bool {
        self.tail > 0 && !n.is_multiple_of(PIPE_BUF) && self.tail + n % PIPE_BUF <= PIPE_BUF
    }

    /// Takes `n` bytes out.
    fn consume(&mut self, n: usize) {
        self.bytes.drain(..n);
        self.taken += n as u64;
        if self.bytes.is_empty() {
            self.tail = 0;
        }
        while self.packets.front().is_some_and(|p| p.end <= self.taken) {
            self.packets.pop_front();
        }
        if let Some(first) = self.packets.front_mut() {
            first.start = first.start.max(self.taken);
        }
    }
}

#[derive(Debug)]
struct Pipe {
    ino: u64,
    attributes: Lock<Metadata, { rank::LEAF }>,
    ring: Lock<Ring, { rank::QUEUE }>,
    queue: WaitQueue,
}

impl Pipe {
    fn new(owner: Owner) -> Arc<Self> {
        let (ino, time) = (new_ino(), now());
        let attributes = Metadata {
            dev: super::PIPE_DEV,
            ino,
            mode: MODE,
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Metadata::default()
        };
        Arc::new(Self {
            ino,
            attributes: Lock::new(attributes),
            ring: Lock::new(Ring {
                bytes: VecDeque::new(),
                taken: 0,
                packets: VecDeque::new(),
                tail: 0,
                capacity: CAPACITY,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
            }),
            queue: WaitQueue::new(),
        })
    }

    /// Adds an end.
    fn open(self: &Arc<Self>, reads: bool, writes: bool, inode: Option<Arc<dyn Inode>>) -> PipeEnd {
        let mut ring = self.ring.lock();
        let before = (ring.reader_opens, ring.writer_opens);
        let is_unwritten = ring.writers == 0;
        if reads {
            ring.readers += 1;
            ring.reader_opens += 1;
        }
        if writes {
            ring.writers += 1;
            ring.writer_opens += 1;
        }
        let missing = match (reads, writes) {
            (true, false) if ring.writers == 0 => Some(before.1),
            (false, true) if ring.readers == 0 => Some(before.0),
            _ => None,
        };
        drop(ring);
        self.queue.notify(Events::READABLE | Events::WRITABLE);
        let unseen = if is_unwritten { before.1 } else { u64::MAX };
        let packets = AtomicBool::new(false);
        PipeEnd { pipe: self.clone(), reads, writes, inode, missing, unseen, packets }
    }
}

/// The pipe behind a FIFO while somebody has it open.
#[derive(Debug, Default)]
pub struct Fifo(Lock<Weak<Pipe>, { rank::LEAF }>);

impl Fifo {
    /// Opens the FIFO `inode`. Whether the open must wait, [`FileOps::finish_open`] says.
    ///
    /// # Errors
    /// `ENXIO`: `O_WRONLY | O_NONBLOCK`, and nobody reads.
    pub fn open(&self, inode: &Arc<dyn Inode>, flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let pipe = {
            let mut slot = self.0.lock();
            match slot.upgrade() {
                Some(pipe) => pipe,
                None => {
                    let pipe = Pipe::new(Owner { uid: 0, gid: 0 });
                    *slot = Arc::downgrade(&pipe);
                    pipe
                }
            }
        };
        open_end(&pipe, flags, Some(inode.clone()))
    }
}

fn open_end(pipe: &Arc<Pipe>, flags: u32, inode: Option<Arc<dyn Inode>>) -> Result<Box<dyn FileOps>, Errno> {
    let (reads, writes) = match flags & oflag::ACCMODE {
        oflag::RDONLY => (true, false),
        oflag::WRONLY => (false, true),
        _ => (true, true),
    };
    let waits = flags & oflag::NONBLOCK == 0;
    if !waits && !reads && pipe.ring.lock().readers == 0 {
        return Err(ENXIO);
    }
    let mut end = pipe.open(reads, writes, inode);
    if waits {
        end.unseen = u64::MAX;
    } else {
        end.missing = None;
    }
    Ok(Box::new(end))
}

/// One end of a pipe.
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// The FIFO's inode.
    inode: Option<Arc<dyn Inode>>,
    /// The open is complete once the count of the other side's opens differs from this.
    missing: Option<u64>,
    /// No hang-up is shown while the count of writers' opens is this: none was there yet.
    unseen: u64,
    /// `O_DIRECT`: each write is a packet.
    packets: AtomicBool,
}

/// Makes a pipe; returns its reading and its writing end. `flags` holds `O_NONBLOCK` and `O_DIRECT`.
pub fn new(flags: u32, owner: Owner) -> (Arc<FileDescription>, Arc<FileDescription>) {
    let pipe = Pipe::new(owner);
    let flags = flags & (oflag::NONBLOCK | oflag::DIRECT);
    // Both ends are there before either is seen.
    let (mut read, write) = (pipe.open(true, false, None), pipe.open(false, true, None));
    read.missing = None;
    read.unseen = u64::MAX;
    write.set_flags(flags);
    (
        FileDescription::new(Box::new(read), None, flags | oflag::RDONLY),
        FileDescription::new(Box::new(write), None, flags | oflag::WRONLY),
    )
}

impl PipeEnd {
    /// Whether both are ends of one pipe.
    pub fn is_same_pipe(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    /// Copies up to `max` bytes without taking them: `tee`.
    ///
    /// # Errors
    /// `EAGAIN`: it is empty; with no writers left, no bytes are returned.
    pub fn peek(&self, max: usize) -> Result<Vec<u8>, Errno> {
        let ring = self.pipe.ring.lock();
        if ring.bytes.is_empty() && ring.writers > 0 {
            return Err(EAGAIN);
        }
        Ok(ring.bytes.iter().take(max).copied().collect())
    }

    /// Takes up to `max` bytes, as `read` does.
    ///
    /// # Errors
    /// As `peek`.
    pub fn take_bytes(&self, max: usize) -> Result<Vec<u8>, Errno> {
        let mut ring = self.pipe.ring.lock();
        if ring.bytes.is_empty() && ring.writers > 0 && max > 0 {
            return Err(EAGAIN);
        }
        let n = max.min(ring.bytes.len());
        let bytes = ring.bytes.iter().take(n).copied().collect();
        ring.consume(n);
        drop(ring);
        if n > 0 {
            self.pipe.queue.notify(Events::WRITABLE);
        }
        Ok(bytes)
    }

    /// Puts bytes back that `take_bytes` gave and nobody wanted.
    pub fn put_back(&self, bytes: &[u8]) {
        let mut ring = self.pipe.ring.lock();
        for &b in bytes.iter().rev() {
            ring.bytes.push_front(b);
        }
        ring.taken -= bytes.len() as u64;
        drop(ring);
        self.pipe.queue.notify(Events::READABLE);
    }

    /// How many bytes can be spliced into it now: as for poll, one of Linux's buffers, a page each, must be free.
    ///
    /// # Errors
    /// `EPIPE`: nobody reads; `EAGAIN`: none.
    pub fn room(&self) -> Result<usize, Errno> {
        let ring = self.pipe.ring.lock();
        match ring.room() {
            _ if ring.readers == 0 => Err(EPIPE),
            n if n < PIPE_BUF => Err(EAGAIN),
            n => Ok(n),
        }
    }

    /// `F_GETPIPE_SZ`.
    pub fn capacity(&self) -> usize {
        self.pipe.ring.lock().capacity
    }

    /// `F_SETPIPE_SZ`, size already rounded; returns the new capacity.
    ///
    /// # Errors
    /// `EBUSY`: there is more in it.
    pub fn set_capacity(&self, capacity: usize) -> Result<usize, Errno> {
        let mut ring = self.pipe.ring.lock();
        if ring.bytes.len() > capacity {
            return Err(EBUSY);
        }
        let grows = capacity > ring.capacity;
        ring.capacity = capacity;
        drop(ring);
        if grows {
            self.pipe.queue.notify(Events::WRITABLE);
        }
        Ok(capacity)
    }
}

impl FileOps for PipeEnd {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.reads {
            return Err(EBADF);
        }
        let wanted = dst.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.ring.lock();
        if ring.bytes.is_empty() {
            return if ring.writers > 0 { Err(EAGAIN) } else { Ok(0) };
        }
        let (wanted, end) = ring.extent(wanted);
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
        let taken = if done == wanted { end } else { done };
        ring.consume(taken);
        drop(ring);
        if done == 0 {
            return Err(failed.unwrap_or(EFAULT));
        }
        self.pipe.queue.notify(Events::WRITABLE);
        Ok(done)
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if !self.writes {
            return Err(EBADF);
        }
        let wanted = src.remaining();
        // Linux's pipe_write looks at the length first: an empty write succeeds even without readers.
        if wanted == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.ring.lock();
        if ring.readers == 0 {
            return Err(EPIPE);
        }
        let merges = ring.merges(wanted);
        let is_packet = self.packets.load(Ordering::Relaxed) && !merges;
        let room = ring.room();
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) || is_packet && room < PIPE_BUF {
            return Err(EAGAIN);
        }
        // Packets are pages, and only whole ones.
        let room = if is_packet { room - room % PIPE_BUF } else { room };
        let mut done = 0;
        let mut failed = None;
        let mut buf = [0u8; PIPE_BUF];
        while done < room.min(wanted) {
            let len = buf.len().min(room.min(wanted) - done);
            let Some(piece) = buf.get_mut(..len) else { break };
            match src.take(piece) {
                Ok(n) => {
                    let start = ring.taken + ring.bytes.len() as u64;
                    ring.bytes.extend(piece.get(..n).unwrap_or_default());
                    if is_packet && n > 0 {
                        ring.packets.push_back(Packet { start, end: start + n as u64 });
                    }
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
        ring.tail = match done % PIPE_BUF {
            _ if is_packet => 0,
            rest if merges => ring.tail + rest,
            0 => PIPE_BUF,
            rest => rest,
        };
        drop(ring);
        if done == 0 {
            return Err(failed.unwrap_or(EFAULT));
        }
        self.pipe.queue.notify(Events::READABLE);
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        if let Some(inode) = &self.inode {
            return inode.metadata();
        }
        Ok(*self.pipe.attributes.lock())
    }

    fn set_attributes(&self, set: &SetAttributes) -> Result<(), Errno> {
        if let Some(inode) = &self.inode {
            return inode.set_attributes(set);
        }
        let mut a = self.pipe.attributes.lock();
        a.mode = set.mode.map_or(a.mode, |m| MODE & !0o7777 | m & 0o7777);
        a.uid = set.uid.unwrap_or(a.uid);
        a.gid = set.gid.unwrap_or(a.gid);
        a.atime = set.atime.unwrap_or(a.atime);
        a.mtime = set.mtime.unwrap_or(a.mtime);
        a.ctime = now();
        Ok(())
    }

    fn ready(&self) -> Events {
        let ring = self.pipe.ring.lock();
        let mut events = Events::empty();
        if self.reads {
            if !ring.bytes.is_empty() {
                events |= Events::READABLE;
            }
            if ring.writers == 0 && ring.writer_opens != self.unseen {
                events |= Events::HUP;
            }
        }
        if self.writes {
            // Linux's pipes are writable while one of their buffers, a page each, is free.
            if ring.room() >= PIPE_BUF {
                events |= Events::WRITABLE;
            }
            if ring.readers == 0 {
                events |= Events::ERR;
            }
        }
        events
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn set_flags(&self, flags: u32) {
        self.packets.store(flags & oflag::DIRECT != 0, Ordering::Relaxed);
    }

    fn finish_open(&self) -> Result<(), Errno> {
        let Some(count) = self.missing else { return Ok(()) };
        let ring = self.pipe.ring.lock();
        let now = if self.reads { ring.writer_opens } else { ring.reader_opens };
        if now == count { Err(EAGAIN) } else { Ok(()) }
    }

    fn reopen(&self, flags: u32) -> Result<Option<Box<dyn FileOps>>, Errno> {
        let mut flags = flags;
        if self.inode.is_none() {
            // An open of a pipe through /proc finds both sides or goes on without (fs/pipe.c, `fifo_open`).
            let ring = self.pipe.ring.lock();
            if flags & oflag::ACCMODE != oflag::WRONLY || ring.readers > 0 {
                flags |= oflag::NONBLOCK;
            }
        }
        open_end(&self.pipe, flags, self.inode.clone()).map(Some)
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
        self.inode.is_none().then(|| format!("pipe:[{}]", self.pipe.ino).into_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut ring = self.pipe.ring.lock();
        let mut events = Events::empty();
        if self.reads {
            ring.readers -= 1;
            if ring.readers == 0 {
                events |= Events::ERR | Events::WRITABLE;
            }
        }
        if self.writes {
            ring.writers -= 1;
            if ring.writers == 0 {
                events |= Events::HUP | Events::READABLE;
            }
        }
        drop(ring);
        if !events.is_empty() {
            self.pipe.queue.notify(events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_and_closing_is_seen() {
        let (r, w) = new(0, Owner { uid: 0, gid: 0 });
        let mut buf = [0u8; 8];
        assert_eq!(r.read(&mut buf.as_mut_slice()), Err(EAGAIN));
        assert_eq!(w.write(&mut &b"hello"[..]), Ok(5));
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(5));
        assert_eq!(&buf[..5], b"hello");
        drop(w);
        assert_eq!(r.ops.ready(), Events::HUP);
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(0));
        let (r, w) = new(0, Owner { uid: 0, gid: 0 });
        drop(r);
        assert!(w.ops.ready().contains(Events::ERR));
        assert_eq!(w.write(&mut &b"x"[..]), Err(EPIPE));
    }

    #[test]
    fn short_writes_are_whole_and_long_ones_fill_up() {
        let (r, w) = new(0, Owner { uid: 0, gid: 0 });
        let long = vec![7u8; CAPACITY + 10];
        assert_eq!(w.write(&mut long.as_slice()), Ok(CAPACITY));
        assert_eq!(w.write(&mut &b"x"[..]), Err(EAGAIN));
        let mut buf = [0u8; 100];
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(100));
        assert_eq!(w.write(&mut &long[..101]), Err(EAGAIN));
        assert_eq!(w.write(&mut &long[..PIPE_BUF + 1]), Ok(100));
    }
}
