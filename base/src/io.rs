//! I/O cursors: how bytes move between files and whoever asked, without either knowing the other.
//!
//! A file system fills a [`Sink`] and drains a [`Source`]. For a guest's buffers `sentry::mm` implements both over guest
//! memory; tests use a `Vec`. Bytes already moved win over an error: an implementation that moved some bytes reports
//! them, and the error comes up with the next call.

use abi::Errno;
use abi::errno::EFAULT;

use crate::memmap::Memory;

/// Where a read puts its bytes.
pub trait Sink {
    /// Bytes that still fit.
    fn remaining(&self) -> usize;

    /// Stores a prefix of `bytes` and advances; returns its length, which is less than
    /// `bytes.len().min(self.remaining())` only when memory behind it cannot be written.
    ///
    /// # Errors
    /// `EFAULT`: not even the first byte could be stored.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno>;

    /// Stores `len` zero bytes, as `put` does.
    ///
    /// # Errors
    /// As `put`.
    fn put_zeros(&mut self, len: usize) -> Result<usize, Errno> {
        copy_pieces(len.min(self.remaining()), |done, piece| {
            let _ = done;
            self.put(&[0; PIECE][..piece])
        })
    }

    /// Stores `len` bytes at `offset` of the memory file, as `put` does.
    ///
    /// # Errors
    /// As `put`.
    fn put_memory(&mut self, memory: &dyn Memory, offset: u64, len: usize) -> Result<usize, Errno> {
        copy_pieces(len.min(self.remaining()), |done, piece| {
            let mut buf = [0; PIECE];
            memory.read(offset + done as u64, &mut buf[..piece]);
            self.put(&buf[..piece])
        })
    }
}

/// Where a write takes its bytes.
pub trait Source {
    /// Bytes not yet taken.
    fn remaining(&self) -> usize;

    /// Copies up to `buf.len()` bytes out and advances; returns how many, which is less than
    /// `buf.len().min(self.remaining())` only when memory behind it cannot be read.
    ///
    /// # Errors
    /// `EFAULT`: not even the first byte could be read.
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Copies `len` bytes to `offset` of the memory file, as `take` does.
    ///
    /// # Errors
    /// As `take`.
    fn take_memory(&mut self, memory: &dyn Memory, offset: u64, len: usize) -> Result<usize, Errno> {
        copy_pieces(len.min(self.remaining()), |done, piece| {
            let mut buf = [0; PIECE];
            let n = self.take(&mut buf[..piece])?;
            memory.write(offset + done as u64, &buf[..n]);
            Ok(n)
        })
    }
}

const PIECE: usize = 4096;

/// Moves `len` bytes in pieces; stops at a short piece; an error counts only before the first byte.
fn copy_pieces(len: usize, mut f: impl FnMut(usize, usize) -> Result<usize, Errno>) -> Result<usize, Errno> {
    let mut done = 0;
    while done < len {
        let piece = (len - done).min(PIECE);
        match f(done, piece) {
            Ok(n) => {
                done += n;
                if n < piece {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

impl Sink for Vec<u8> {
    fn remaining(&self) -> usize {
        usize::MAX / 2 - self.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Sink for &mut [u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.len());
        if n == 0 && !bytes.is_empty() {
            return Err(EFAULT);
        }
        let (head, tail) = std::mem::take(self).split_at_mut(n);
        head.copy_from_slice(&bytes[..n]);
        *self = tail;
        Ok(n)
    }
}

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let n = buf.len().min(self.len());
        let (head, tail) = self.split_at(n);
        buf[..n].copy_from_slice(head);
        *self = tail;
        Ok(n)
    }
}
