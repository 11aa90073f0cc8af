//! Pipes (pipe(7)) and FIFOs (fifo(7)): a ring of bytes with reading and writing ends.
//!
//! How much fits is counted as in Linux, by buffers of a page each (fs/pipe.c): a write goes into the last buffer if it or its
//! last part fits there, else into new ones, and a buffer is free again when its last byte was read.

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

/// A buffer: where its bytes are in its page.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    offset: u16,
    len: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes may be added (`PIPE_BUF_FLAG_CAN_MERGE`).
    Open,
    /// Nothing is added: what was spliced.
    Closed,
    /// A write that is read by itself (`PIPE_BUF_FLAG_PACKET`).
    Packet,
}

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    /// Those in use, the first to be read in front; their lengths add up to that of `bytes`.
    buffers: VecDeque<Buffer>,
    capacity: usize,
    readers: u32,
    writers: u32,
    /// Ends that were ever opened: a FIFO's open waits for a change.
    reader_opens: u64,
    writer_opens: u64,
}

impl Ring {
    /// Buffers that are free.
    fn free(&self) -> usize {
        (self.capacity / PIPE_BUF).saturating_sub(self.buffers.len())
    }

    /// How many of `wanted` bytes one read may give, and how many it takes out: a packet ends it, and its rest is lost.
    fn extent(&self, wanted: usize) -> (usize, usize) {
        let (mut given, mut taken) = (0, 0);
        for buffer in &self.buffers {
            let len = usize::from(buffer.len);
            let part = len.min(wanted - given);
            given += part;
            if buffer.kind == Kind::Packet {
                return (given, taken + len);
            }
            taken += part;
            if given == wanted {
                break;
            }
        }
        (given, taken)
    }

    /// How many of the next `n` bytes are in buffers that end there, twice: to give and to take.
    fn whole_buffers(&self, n: usize) -> (usize, usize) {
        let mut sum = 0;
        for buffer in &self.buffers {
            match sum + usize::from(buffer.len) {
                end if end <= n => sum = end,
                _ => break,
            }
        }
        (sum, sum)
    }

    /// How many of `n` bytes go into the last buffer: those that fill no page, if they fit.
    fn merged(&self, n: usize) -> usize {
        let rest = n % PIPE_BUF;
        match self.buffers.back() {
            Some(last) if last.kind == Kind::Open => {
                let end = usize::from(last.offset) + usize::from(last.len);
                if end + rest <= PIPE_BUF { rest } else { 0 }
            }
            _ => 0,
        }
    }

    /// Takes `n` bytes out.
    fn consume(&mut self, n: usize) {
        self.bytes.drain(..n);
        let mut left = n;
        while left > 0 {
            let Some(first) = self.buffers.front_mut() else { return };
            if left < usize::from(first.len) {
                // Less than a page.
                first.offset += left as u16;
                first.len -= left as u16;
                return;
            }
            left -= usize::from(first.len);
            self.buffers.pop_front();
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
                buffers: VecDeque::new(),
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
        if bytes.is_empty() {
            return;
        }
        let mut ring = self.pipe.ring.lock();
        for &b in bytes.iter().rev() {
            ring.bytes.push_front(b);
        }
        // They came from the beginning of the first buffer, and of others that are gone.
        let mut left = bytes.len();
        if let Some(first) = ring.buffers.front_mut().filter(|b| b.offset > 0) {
            let part = left.min(first.offset.into());
            first.offset -= part as u16;
            first.len += part as u16;
            left -= part;
        }
        while left > 0 {
            let part = left.min(PIPE_BUF);
            ring.buffers.push_front(Buffer { offset: 0, len: part as u16, kind: Kind::Closed });
            left -= part;
        }
        drop(ring);
        self.pipe.queue.notify(Events::READABLE);
    }

    /// How many bytes can be spliced into it now.
    ///
    /// # Errors
    /// `EPIPE`: nobody reads; `EAGAIN`: none.
    pub fn room(&self) -> Result<usize, Errno> {
        let ring = self.pipe.ring.lock();
        match ring.free() {
            _ if ring.readers == 0 => Err(EPIPE),
            0 => Err(EAGAIN),
            n => Ok(n * PIPE_BUF),
        }
    }

    /// Puts bytes in that were spliced: buffers of their own, to which nothing is added. Returns how many found room.
    ///
    /// # Errors
    /// As `room`.
    pub fn splice_in(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut ring = self.pipe.ring.lock();
        let room = match ring.free() {
            _ if ring.readers == 0 => return Err(EPIPE),
            0 => return Err(EAGAIN),
            n => n * PIPE_BUF,
        };
        let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        ring.bytes.extend(bytes);
        for page in bytes.chunks(PIPE_BUF) {
            ring.buffers.push_back(Buffer { offset: 0, len: page.len() as u16, kind: Kind::Closed });
        }
        drop(ring);
        if !bytes.is_empty() {
            self.pipe.queue.notify(Events::READABLE);
        }
        Ok(bytes.len())
    }

    /// `F_GETPIPE_SZ`.
    pub fn capacity(&self) -> usize {
        self.pipe.ring.lock().capacity
    }

    /// `F_SETPIPE_SZ`, size already rounded; returns the new capacity.
    ///
    /// # Errors
    /// `EBUSY`: more buffers are in use.
    pub fn set_capacity(&self, capacity: usize) -> Result<usize, Errno> {
        let mut ring = self.pipe.ring.lock();
        if ring.buffers.len() > capacity / PIPE_BUF {
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
        // Of a buffer that could not be copied whole nothing is taken.
        let (given, taken) = if done == wanted { (done, end) } else { ring.whole_buffers(done) };
        done = given;
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
        let merged = ring.merged(wanted);
        if merged == 0 && ring.free() == 0 {
            return Err(EAGAIN);
        }
        let kind = if self.packets.load(Ordering::Relaxed) { Kind::Packet } else { Kind::Open };
        let mut done = 0;
        let mut failed = None;
        let mut buf = [0u8; PIPE_BUF];
        // A part that goes into the last buffer comes first (fs/pipe.c, `pipe_write`).
        let mut part = merged;
        while done < wanted {
            let merges = done < merged;
            if !merges {
                if ring.free() == 0 {
                    break;
                }
                part = (wanted - done).min(PIPE_BUF);
            }
            let Some(piece) = buf.get_mut(..part) else { break };
            // A part that cannot be had whole is not written.
            match src.take(piece) {
                Ok(n) if n == part => {}
                Ok(_) => failed = Some(EFAULT),
                Err(e) => failed = Some(e),
            }
            if failed.is_some() {
                break;
            }
            ring.bytes.extend(&*piece);
            match ring.buffers.back_mut() {
                Some(last) if merges => last.len += part as u16,
                _ => ring.buffers.push_back(Buffer { offset: 0, len: part as u16, kind }),
            }
            done += part;
        }
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
            if ring.free() > 0 {
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
        // No buffer is free before all of one was read.
        assert_eq!(r.read(&mut buf.as_mut_slice()), Ok(100));
        assert_eq!(w.write(&mut &b"x"[..]), Err(EAGAIN));
        let mut rest = vec![0u8; PIPE_BUF - 100];
        assert_eq!(r.read(&mut rest.as_mut_slice()), Ok(PIPE_BUF - 100));
        assert_eq!(w.write(&mut &long[..PIPE_BUF + 1]), Ok(PIPE_BUF));
    }
}
