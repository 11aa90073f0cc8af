//! A growing ring of bytes: what a stream has sent and its peer has not read.

use abi::Errno;
use base::io::{Sink, Source};
use base::kept::Kept;

/// What a ring starts with.
const SMALLEST: usize = 4 << 10;
/// An empty ring larger than this is given back.
const LARGEST_IDLE: usize = 256 << 10;

/// A queue of bytes. An idle one holds no memory.
#[derive(Debug, Default)]
pub struct ByteRing {
    /// Zeroed memory, a power of two.
    buf: Vec<u8>,
    head: usize,
    len: usize,
    /// The size of `buf`.
    kept: Kept,
}

impl ByteRing {
    /// Bytes in the ring.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn grow(&mut self, needed: usize) -> Result<(), Errno> {
        if needed <= self.buf.len() {
            return Ok(());
        }
        let size = needed.next_power_of_two().max(SMALLEST);
        self.kept.resize(size)?;
        let mut larger = vec![0; size];
        let (front, back) = self.slices();
        larger[..front.len()].copy_from_slice(front);
        larger[front.len()..front.len() + back.len()].copy_from_slice(back);
        self.buf = larger;
        self.head = 0;
        Ok(())
    }

    /// A copy of the last `n` bytes.
    pub fn last(&self, n: usize) -> Vec<u8> {
        let (front, back) = self.slices();
        let skip = self.len.saturating_sub(n);
        front.iter().chain(back).skip(skip).copied().collect()
    }

    fn slices(&self) -> (&[u8], &[u8]) {
        let first = self.len.min(self.buf.len() - self.head);
        (&self.buf[self.head..self.head + first], &self.buf[..self.len - first])
    }

    /// Takes up to `max` bytes from `src`; returns how many.
    ///
    /// # Errors
    /// The source's, when nothing could be taken; `ENOBUFS`: the sandbox may keep no more.
    pub fn fill(&mut self, src: &mut dyn Source, max: usize) -> Result<usize, Errno> {
        let mut max = max.min(src.remaining());
        if let Err(e) = self.grow(self.len + max) {
            max = self.buf.len() - self.len;
            if max == 0 {
                return Err(e);
            }
        }
        let mut done = 0;
        while done < max {
            let size = self.buf.len();
            let tail = (self.head + self.len) & (size - 1);
            let room = (max - done).min(size - tail);
            match src.take(&mut self.buf[tail..tail + room]) {
                Ok(n) => {
                    self.len += n;
                    done += n;
                    if n < room {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies up to `max` bytes from position `skip` on to `dst`, and leaves them in the ring; returns how many.
    ///
    /// # Errors
    /// The sink's, when nothing could be stored.
    pub fn peek(&self, skip: usize, dst: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        let max = max.min(self.len.saturating_sub(skip)).min(dst.remaining());
        let (front, back) = self.slices();
        let front = front.get(skip..).unwrap_or(&[]);
        let back = back.get(skip.saturating_sub(self.buf.len() - self.head)..).unwrap_or(&[]);
        let mut done = 0;
        for slice in [front, back] {
            let piece = &slice[..slice.len().min(max - done)];
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
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Drops the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        if self.len == 0 {
            self.head = 0;
            if self.buf.len() > LARGEST_IDLE {
                self.clear();
            }
        } else {
            self.head = (self.head + n) & (self.buf.len() - 1);
        }
    }

    /// Drops the last `n` bytes.
    pub fn take_back(&mut self, n: usize) {
        self.len -= n.min(self.len);
    }

    /// Drops everything, the memory too.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_edge() {
        let mut ring = ByteRing::default();
        let all: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        let mut source = all.as_slice();
        let mut out = Vec::new();
        let mut step = 1;
        while out.len() < all.len() {
            ring.fill(&mut source, step * 3).unwrap();
            let mut piece = Vec::new();
            let n = ring.peek(0, &mut piece, step * 2).unwrap();
            ring.consume(n);
            out.extend_from_slice(&piece);
            step = step % 1500 + 17;
        }
        assert_eq!(out, all);
    }

    #[test]
    fn peek_skips() {
        let mut ring = ByteRing::default();
        ring.fill(&mut &[0; 4000][..], 4000).unwrap();
        ring.consume(3999);
        ring.fill(&mut &b"0123456789"[..].repeat(20)[..], 200).unwrap();
        for skip in 1..200 {
            let mut one = Vec::new();
            assert_eq!(ring.peek(skip, &mut one, 1), Ok(1));
            assert_eq!(one, [b'0' + ((skip - 1) % 10) as u8]);
        }
        assert_eq!(ring.peek(201, &mut Vec::new(), 9), Ok(0));
    }
}
