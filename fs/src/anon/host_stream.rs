//! The standard streams of the host, as the first program's descriptors 0, 1 and 2.
//!
//! A read asks the host's poll(2) first, so that it never waits inside the host; once somebody was told `EAGAIN`, a
//! thread of the stream's own waits there in their place. Writes wait in the host.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, ENOTTY};
use base::io::{Sink, Source};
use base::lock::{Condition, Lock, rank};
use base::time::Time;
use base::wait::{Events, WaitQueue};
use host::stdio::{self, When};

use super::pipe::FIONREAD;
use super::{new_ino, now};
use crate::devfs::makedev;
use crate::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;

/// `S_IFMT` and two of its values.
const IFMT: u32 = 0o170_000;
const IFSOCK: u32 = 0o140_000;
const IFIFO: u32 = 0o010_000;

/// How much is moved in one call; a longer write is made of several.
const PIECE: usize = 64 << 10;

/// Opens standard stream `number` of the host; one that is closed there reads as empty and swallows what is written.
pub fn standard(number: u8) -> Arc<FileDescription> {
    match stdio::duplicate(number) {
        Some((fd, access)) => FileDescription::new(Box::new(HostStream::new(fd)), None, access),
        None => FileDescription::new(Box::new(Null { ino: new_ino(), time: now() }), None, oflag::RDWR),
    }
}

#[derive(Debug)]
struct Watch {
    started: bool,
    /// Somebody was told that there is nothing to read.
    wanted: bool,
}

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    queue: WaitQueue,
    watch: Lock<Watch, { rank::LEAF }>,
    changed: Condition,
}

/// A stream of the host.
#[derive(Debug)]
pub struct HostStream(Arc<Shared>);

impl HostStream {
    fn new(fd: OwnedFd) -> Self {
        let watch = Lock::new(Watch { started: false, wanted: false });
        Self(Arc::new(Shared { fd, queue: WaitQueue::new(), watch, changed: Condition::new() }))
    }

    /// Asks the watcher to tell when there is something to read.
    fn watch(&self) {
        let mut watch = self.0.watch.lock();
        watch.wanted = true;
        let start = !watch.started;
        watch.started = true;
        drop(watch);
        if !start {
            self.0.changed.notify_one();
            return;
        }
        let shared = self.0.clone();
        if let Err(e) = std::thread::Builder::new().name("host-stream".into()).spawn(move || shared.run()) {
            log::error!("cannot watch a standard stream: {e}");
            self.0.watch.lock().started = false;
        }
    }

    fn events(&self) -> Events {
        let asked = Events::IN | Events::PRI | Events::RDNORM | Events::RDHUP;
        match stdio::poll(self.0.fd.as_fd(), asked.bits() as u16, false) {
            Ok(found) => Events::from_bits_truncate(u32::from(found)),
            Err(_) => Events::ERR,
        }
    }
}

impl Shared {
    /// The watcher's life: it ends with the process, since nothing can call it back from the host's poll(2).
    fn run(&self) {
        loop {
            let mut watch = self.watch.lock();
            while !watch.wanted {
                self.changed.wait(&mut watch);
            }
            watch.wanted = false;
            drop(watch);
            let asked = (Events::READABLE | Events::RDHUP).bits() as u16;
            let found = stdio::poll(self.fd.as_fd(), asked, true)
                .map_or(Events::ERR, |found| Events::from_bits_truncate(u32::from(found)));
            self.queue.notify(found | Events::READABLE);
        }
    }
}

impl FileOps for HostStream {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let wanted = dst.remaining().min(PIECE);
        if wanted == 0 {
            return Ok(0);
        }
        if !self.events().intersects(Events::READABLE | Events::HUP | Events::ERR) {
            self.watch();
            return Err(EAGAIN);
        }
        let mut buf = vec![0u8; wanted];
        let n = stdio::read(self.0.fd.as_fd(), &mut buf).inspect_err(|&e| {
            if e == EAGAIN {
                self.watch();
            }
        })?;
        match buf.get(..n) {
            Some([]) | None => Ok(0),
            Some(bytes) => dst.put(bytes),
        }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buf = vec![0u8; src.remaining().min(PIECE)];
        while src.remaining() > 0 {
            let result = src.take(&mut buf).and_then(|taken| {
                let mut bytes = buf.get(..taken).unwrap_or_default();
                let mut written = 0;
                while !bytes.is_empty() {
                    match stdio::write(self.0.fd.as_fd(), bytes) {
                        Ok(0) => break,
                        Ok(n) => {
                            written += n;
                            bytes = bytes.get(n..).unwrap_or_default();
                        }
                        Err(e) if written == 0 => return Err(e),
                        Err(_) => break,
                    }
                }
                Ok((taken, written))
            });
            match result {
                Ok((taken, written)) => {
                    done += written;
                    if written < taken || taken < buf.len() {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let s = host::file::stat(self.0.fd.as_fd())?;
        let time = |(sec, nsec)| Time { sec, nsec };
        Ok(Metadata {
            dev: s.dev,
            ino: s.ino,
            mode: s.mode,
            nlink: s.nlink,
            uid: s.uid,
            gid: s.gid,
            rdev: s.rdev,
            size: s.size,
            blksize: s.blksize,
            blocks: s.blocks,
            atime: time(s.atime),
            mtime: time(s.mtime),
            ctime: time(s.ctime),
            btime: Time::default(),
            flags: 0,
        })
    }

    fn ready(&self) -> Events {
        let found = self.events();
        if !found.intersects(Events::READABLE | Events::HUP | Events::ERR) {
            self.watch();
        }
        found | Events::WRITABLE
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        let fd = self.0.fd.as_fd();
        match request {
            TCGETS => memory.write(arg, &stdio::termios(fd)?)?,
            TCSETS | TCSETSW | TCSETSF => {
                // Whether it is a terminal comes before the argument.
                let mut data = stdio::termios(fd)?;
                memory.read(arg, &mut data)?;
                let when = match request {
                    TCSETS => When::Now,
                    TCSETSW => When::Drain,
                    _ => When::Flush,
                };
                stdio::set_termios(fd, when, data)?;
            }
            TIOCGWINSZ => memory.write(arg, &stdio::window_size(fd)?)?,
            TIOCSWINSZ => {
                let mut data = stdio::window_size(fd)?;
                memory.read(arg, &mut data)?;
                stdio::set_window_size(fd, data)?;
            }
            FIONREAD => memory.write(arg, &stdio::available(fd)?.to_le_bytes())?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        let stat = host::file::stat(self.0.fd.as_fd()).ok()?;
        let kind = match stat.mode & IFMT {
            IFIFO => "pipe",
            IFSOCK => "socket",
            _ => "host",
        };
        Some(format!("{kind}:[{}]", stat.ino).into_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Stands in for a stream that the host has closed, so that no file the guest opens takes its number.
#[derive(Debug)]
struct Null {
    ino: u64,
    time: Time,
}

impl FileOps for Null {
    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Ok(0)
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        Ok(src.remaining())
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(Metadata {
            dev: super::PIPE_DEV,
            ino: self.ino,
            mode: 0o020_666,
            nlink: 1,
            rdev: makedev(1, 3),
            blksize: 4096,
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: self.time,
            ..Metadata::default()
        })
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"/dev/null".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
