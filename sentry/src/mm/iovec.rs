//! Cursors over guest buffers: what `read` and `write` and their kin hand down to files and sockets.

use abi::errno::{EFAULT, EINVAL};
use abi::{Errno, UserAddr};
use base::io::{Sink, Source};
use base::memmap::{Access, Memory};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::MemoryManager;

/// The most bytes that one call moves (`MAX_RW_COUNT`).
pub const MAX_RW_COUNT: u64 = 0x7fff_f000;
/// The most pieces that one call takes (`UIO_MAXIOV`).
pub const UIO_MAXIOV: u64 = 1024;

/// `struct iovec`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct IoVec {
    base: u64,
    len: u64,
}

/// A list of guest buffers and a position in it.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    mm: &'a MemoryManager,
    addr: UserAddr,
    len: usize,
    rest: std::vec::IntoIter<(UserAddr, usize)>,
    remaining: usize,
}

impl<'a> Cursor<'a> {
    fn one(mm: &'a MemoryManager, addr: UserAddr, len: u64) -> Result<Self, Errno> {
        mm.check_range(addr, len)?;
        let len = len.min(MAX_RW_COUNT) as usize;
        Ok(Self { mm, addr, len, rest: Vec::new().into_iter(), remaining: len })
    }

    /// Linux 6.12 lib/iov_iter.c, `__import_iovec`.
    fn many(mm: &'a MemoryManager, iov: UserAddr, count: u64) -> Result<Self, Errno> {
        if count > UIO_MAXIOV {
            return Err(EINVAL);
        }
        let raw: Vec<IoVec> = mm.read_array(iov, count as usize)?;
        if raw.iter().any(|v| v.len > i64::MAX as u64) {
            return Err(EINVAL);
        }
        Self::of(mm, raw.iter().map(|v| (UserAddr(v.base), v.len)))
    }

    fn of(
        mm: &'a MemoryManager,
        mut list: impl ExactSizeIterator<Item = (UserAddr, u64)> + Clone,
    ) -> Result<Self, Errno> {
        if list.len() == 1
            && let Some((addr, len)) = list.next()
        {
            return Self::one(mm, addr, len);
        }
        if list.clone().any(|(_, len)| len > i64::MAX as u64) {
            return Err(EINVAL);
        }
        let mut left = MAX_RW_COUNT;
        let mut pieces = Vec::with_capacity(list.size_hint().0);
        for (addr, len) in list {
            mm.check_range(addr, len)?;
            let len = len.min(left);
            left -= len;
            if len > 0 {
                pieces.push((addr, len as usize));
            }
        }
        let remaining = (MAX_RW_COUNT - left) as usize;
        Ok(Self { mm, addr: UserAddr::NULL, len: 0, rest: pieces.into_iter(), remaining })
    }

    /// Calls `f` for pieces of guest memory, at most `len` bytes in all, and advances.
    fn advance(
        &mut self,
        len: usize,
        mut f: impl FnMut(&MemoryManager, UserAddr, usize, usize) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = len.min(self.remaining);
        let mut done = 0;
        while done < len {
            if self.len == 0 {
                let Some((addr, len)) = self.rest.next() else { break };
                (self.addr, self.len) = (addr, len);
                continue;
            }
            let piece = self.len.min(len - done);
            let moved = match f(self.mm, self.addr, piece, done) {
                Ok(n) => n,
                Err(_) if done > 0 => 0,
                Err(e) => return Err(e),
            };
            self.addr = self.addr.saturating_add(moved as u64);
            self.len -= moved;
            self.remaining -= moved;
            done += moved;
            if moved < piece {
                break;
            }
        }
        Ok(done)
    }
}

/// Guest buffers to read into.
#[derive(Debug)]
pub struct UserSink<'a>(Cursor<'a>);

/// Guest buffers to write from.
#[derive(Clone, Debug)]
pub struct UserSource<'a>(Cursor<'a>);

impl UserSource<'_> {
    /// Leaves out what comes after the next `len` bytes.
    pub fn limit(&mut self, len: usize) {
        self.0.remaining = self.0.remaining.min(len);
    }
}

impl MemoryManager {
    /// A cursor that fills `addr..addr + len`; at most [`MAX_RW_COUNT`] bytes of it.
    ///
    /// # Errors
    /// `EFAULT`: the range is not a user's.
    pub fn sink(&self, addr: UserAddr, len: u64) -> Result<UserSink<'_>, Errno> {
        Cursor::one(self, addr, len).map(UserSink)
    }

    /// A cursor that drains `addr..addr + len`; at most [`MAX_RW_COUNT`] bytes of it.
    ///
    /// # Errors
    /// `EFAULT`: the range is not a user's.
    pub fn source(&self, addr: UserAddr, len: u64) -> Result<UserSource<'_>, Errno> {
        Cursor::one(self, addr, len).map(UserSource)
    }

    /// A cursor that fills the `count` buffers that the `struct iovec`s at `iov` name.
    ///
    /// # Errors
    /// In the order checked: `EINVAL` for more than [`UIO_MAXIOV`], `EFAULT` when the list cannot be read, `EINVAL` for a
    /// negative length, `EFAULT` for a range that is not a user's.
    pub fn sink_iovec(&self, iov: UserAddr, count: u64) -> Result<UserSink<'_>, Errno> {
        Cursor::many(self, iov, count).map(UserSink)
    }

    /// A cursor that drains the `count` buffers that the `struct iovec`s at `iov` name.
    ///
    /// # Errors
    /// As [`MemoryManager::sink_iovec`].
    pub fn source_iovec(&self, iov: UserAddr, count: u64) -> Result<UserSource<'_>, Errno> {
        Cursor::many(self, iov, count).map(UserSource)
    }

    /// A cursor that fills the listed buffers, which another address space's owner may have named
    /// (process_vm_readv(2)) or a 32-bit program.
    ///
    /// # Errors
    /// `EINVAL` for a negative length, `EFAULT` for a range that is not a user's.
    pub fn sink_list(&self, list: &[(UserAddr, u64)]) -> Result<UserSink<'_>, Errno> {
        Cursor::of(self, list.iter().copied()).map(UserSink)
    }

    /// A cursor that drains the listed buffers; see [`MemoryManager::sink_list`].
    ///
    /// # Errors
    /// As [`MemoryManager::sink_list`].
    pub fn source_list(&self, list: &[(UserAddr, u64)]) -> Result<UserSource<'_>, Errno> {
        Cursor::of(self, list.iter().copied()).map(UserSource)
    }

    /// Reads the `struct iovec`s at `iov` as addresses and lengths, without looking at what they name.
    ///
    /// # Errors
    /// `EINVAL` for more than [`UIO_MAXIOV`], `EFAULT` when the list cannot be read.
    pub fn read_iovec(&self, iov: UserAddr, count: u64) -> Result<Vec<(UserAddr, u64)>, Errno> {
        if count > UIO_MAXIOV {
            return Err(EINVAL);
        }
        let raw: Vec<IoVec> = self.read_array(iov, count as usize)?;
        if raw.iter().any(|v| v.len > i64::MAX as u64) {
            return Err(EINVAL);
        }
        Ok(raw.iter().map(|v| (UserAddr(v.base), v.len)).collect())
    }
}

impl Sink for UserSink<'_> {
    fn remaining(&self) -> usize {
        self.0.remaining
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.0.advance(bytes.len(), |mm, addr, n, done| {
            mm.copy_out(addr, bytes.get(done..done + n).ok_or(EFAULT)?)
        })
    }

    fn put_zeros(&mut self, len: usize) -> Result<usize, Errno> {
        self.0.advance(len, |mm, addr, n, _| mm.zero_out(addr, n))
    }

    fn put_memory(&mut self, memory: &dyn Memory, offset: u64, len: usize) -> Result<usize, Errno> {
        self.0.advance(len, |mm, addr, n, done| {
            let from = offset + done as u64;
            mm.walk(addr, n, Access::WRITE, |to, n, done| copy_within(memory, from + done as u64, to, n))
        })
    }
}

impl Source for UserSource<'_> {
    fn remaining(&self) -> usize {
        self.0.remaining
    }

    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        self.0.advance(buf.len(), |mm, addr, n, done| {
            mm.copy_in(addr, buf.get_mut(done..done + n).ok_or(EFAULT)?)
        })
    }

    fn take_memory(&mut self, memory: &dyn Memory, offset: u64, len: usize) -> Result<usize, Errno> {
        self.0.advance(len, |mm, addr, n, done| {
            let to = offset + done as u64;
            mm.walk(addr, n, Access::READ, |from, n, done| copy_within(memory, from, to + done as u64, n))
        })
    }
}

/// Copies within the memory file; a guest can make the ranges overlap by reading a file into its own mapping.
fn copy_within(memory: &dyn Memory, from: u64, to: u64, len: usize) {
    let n = len as u64;
    if from + n <= to || to + n <= from {
        return memory.copy(from, to, n);
    }
    let mut buf = [0; 4096];
    let pieces = len.div_ceil(buf.len());
    for i in 0..pieces {
        // As memmove: what is overwritten was read before.
        let i = if from < to { pieces - 1 - i } else { i };
        let at = i * buf.len();
        let piece = &mut buf[..(len - at).min(4096)];
        memory.read(from + at as u64, piece);
        memory.write(to + at as u64, piece);
    }
}
