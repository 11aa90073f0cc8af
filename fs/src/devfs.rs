//! `/dev`: a tmpfs with the devices that every Linux system has.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{ENOSPC, ENXIO};
use base::io::{Sink, Source};
use base::memmap::{Mappable, Memory};

use crate::file::{FileOps, Metadata};
use crate::tmpfs::{self, OpenDevice};
use crate::vfs::{FileType, Inode, Owner, mode};

/// The number of a device, as `st_rdev` shows it.
pub const fn makedev(major: u64, minor: u64) -> u64 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

const NULL: u64 = makedev(1, 3);
const ZERO: u64 = makedev(1, 5);
const FULL: u64 = makedev(1, 7);
const RANDOM: u64 = makedev(1, 8);
const URANDOM: u64 = makedev(1, 9);
/// `/dev/tty`: the controlling terminal.
pub const TTY: u64 = makedev(5, 0);
/// `/dev/ptmx`: makes pseudoterminals.
pub const PTMX: u64 = makedev(5, 2);

const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Opens the memory devices wherever their nodes are; everything else (terminals) is handed on to `other`.
pub fn open_device(memory: Arc<dyn Memory>, other: Option<OpenDevice>) -> OpenDevice {
    Arc::new(move |inode: &Arc<dyn Inode>, rdev, flags| {
        let is_char = inode.metadata()?.file_type() == FileType::Char;
        let kind = match rdev {
            NULL => Kind::Null,
            ZERO => Kind::Zero,
            FULL => Kind::Full,
            RANDOM | URANDOM => Kind::Random,
            crate::fuse::DEVICE if is_char => return Ok(crate::fuse::open(inode)),
            _ => return other.as_ref().ok_or(ENXIO)?(inode, rdev, flags),
        };
        if !is_char {
            return other.as_ref().ok_or(ENXIO)?(inode, rdev, flags);
        }
        Ok(Box::new(MemoryDevice { kind, inode: inode.clone(), memory: memory.clone() }))
    })
}

/// Makes `/dev`; returns its root. `open` opens the nodes in it: see [`open_device`].
///
/// # Errors
/// None but those of a tmpfs without memory.
pub fn new(memory: Arc<dyn Memory>, open: OpenDevice) -> Result<Arc<dyn Inode>, Errno> {
    let root = tmpfs::with_devices(memory, 0o755, Some(open));
    let devices: [(&[u8], u64); 9] = [
        (b"fuse", crate::fuse::DEVICE),
        (b"null", NULL),
        (b"zero", ZERO),
        (b"full", FULL),
        (b"random", RANDOM),
        (b"urandom", URANDOM),
        (b"tty", TTY),
        (b"ptmx", PTMX),
        (b"console", crate::tty::CONSOLE),
    ];
    for (name, rdev) in devices {
        root.mknod(name, mode::IFCHR | 0o666, rdev, ROOT)?;
    }
    let links: [(&[u8], &[u8]); 4] = [
        (b"fd", b"/proc/self/fd"),
        (b"stdin", b"/proc/self/fd/0"),
        (b"stdout", b"/proc/self/fd/1"),
        (b"stderr", b"/proc/self/fd/2"),
    ];
    for (name, target) in links {
        root.symlink(name, target, ROOT)?;
    }
    root.mkdir(b"pts", 0o755, ROOT)?;
    root.mkdir(b"shm", 0o1777, ROOT)?;
    root.mkdir(b"mqueue", 0o1777, ROOT)?;
    Ok(root)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

/// An open memory device (null(4), full(4), random(4)).
struct MemoryDevice {
    kind: Kind,
    inode: Arc<dyn Inode>,
    memory: Arc<dyn Memory>,
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryDevice").field(&self.kind).finish()
    }
}

impl FileOps for MemoryDevice {
    fn is_seekable(&self) -> bool {
        true
    }

    /// Linux 6.12 drivers/char/mem.c, `null_lseek`; random.c has `noop_llseek`.
    fn stays_at_the_start(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => dst.put_zeros(dst.remaining()),
            Kind::Random => {
                let mut buf = [0u8; 256];
                let mut done = 0;
                // One call gives at most what Linux's does.
                while dst.remaining() > 0 && done < (32 << 20) {
                    let len = buf.len().min(dst.remaining());
                    let piece = &mut buf[..len];
                    host::file::random(piece)?;
                    match dst.put(piece) {
                        Ok(n) => {
                            done += n;
                            if n < len {
                                break;
                            }
                        }
                        Err(e) if done == 0 => return Err(e),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
        }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        match self.kind {
            Kind::Full => Err(ENOSPC),
            // Nothing is read from the buffer, as in Linux.
            Kind::Null | Kind::Zero | Kind::Random => Ok(src.remaining()),
        }
    }

    fn append(&self, src: &mut dyn Source) -> Result<(usize, u64), Errno> {
        Ok((self.write_at(0, src)?, 0))
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        match self.kind {
            Kind::Zero => Ok(tmpfs::zero_pages(self.memory.clone())),
            _ => Err(abi::errno::ENODEV),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::oflag;
    use crate::vfs::testing::TestMemory;

    #[test]
    fn devices_read_and_write_as_their_pages_say() {
        let memory = TestMemory::new();
        let root = new(memory.clone(), open_device(memory, None)).unwrap();
        let open = |name: &[u8]| root.lookup(name).and_then(|inode| inode.open(oflag::RDWR));
        let mut buf = [1u8; 64];
        assert_eq!(open(b"null").unwrap().read_at(0, &mut buf.as_mut_slice()), Ok(0));
        assert_eq!(open(b"zero").unwrap().read_at(0, &mut buf.as_mut_slice()), Ok(64));
        assert_eq!(buf, [0; 64]);
        assert_eq!(open(b"urandom").unwrap().read_at(0, &mut buf.as_mut_slice()), Ok(64));
        assert_ne!(buf, [0; 64]);
        assert_eq!(open(b"full").unwrap().write_at(0, &mut &b"x"[..]), Err(ENOSPC));
        assert_eq!(open(b"null").unwrap().write_at(0, &mut &b"xyz"[..]), Ok(3));
        assert_eq!(open(b"tty").map(drop), Err(ENXIO));
    }
}
