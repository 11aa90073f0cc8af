//! What one send or receive carries beside its bytes.

use abi::Errno;
use abi::errno::EINVAL;
use abi::socket::Ucred;
use base::io::{Sink, Source};

use crate::rights::Rights;

/// Size of `struct cmsghdr`.
pub const HEADER: usize = 16;

/// A control message (cmsg(3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `SOL_*`.
    pub level: i32,
    /// `SCM_*` and others, by level.
    pub kind: i32,
    /// What follows the header.
    pub data: Vec<u8>,
}

impl Control {
    /// A control message.
    pub fn new(level: i32, kind: i32, data: impl Into<Vec<u8>>) -> Self {
        Self { level, kind, data: data.into() }
    }

    /// Its length without padding.
    pub fn len(&self) -> usize {
        HEADER + self.data.len()
    }

    /// Whether it has no data.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// Takes a control buffer apart.
///
/// # Errors
/// `EINVAL`: a header's length is shorter than itself or leaves the buffer.
pub fn parse_controls(mut bytes: &[u8]) -> Result<Vec<Control>, Errno> {
    let mut list = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
        let [len, rest] = [&header[..8], &header[8..]];
        let len = u64::from_le_bytes(len.try_into().map_err(|_| EINVAL)?);
        let len = usize::try_from(len).map_err(|_| EINVAL)?;
        let data = bytes.get(HEADER..len).ok_or(EINVAL)?;
        let level = i32::from_le_bytes(rest[..4].try_into().map_err(|_| EINVAL)?);
        let kind = i32::from_le_bytes(rest[4..].try_into().map_err(|_| EINVAL)?);
        list.push(Control::new(level, kind, data));
        bytes = len.checked_next_multiple_of(8).and_then(|next| bytes.get(next..)).unwrap_or(&[]);
    }
    Ok(list)
}

/// What `sendmsg` is given.
pub struct Outgoing<'a> {
    /// The bytes.
    pub data: &'a mut dyn Source,
    /// Where to; empty when the caller named nobody.
    pub to: &'a [u8],
    /// `MSG_*`.
    pub flags: u32,
    /// `SCM_RIGHTS`; what is sent is taken out.
    pub rights: &'a mut Rights,
    /// `SCM_CREDENTIALS`.
    pub cred: Option<Ucred>,
    /// Other control messages.
    pub controls: &'a [Control],
}

/// What `recvmsg` gives.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes stored.
    pub copied: usize,
    /// Bytes that the message had; with `MSG_TRUNC` the call's result.
    pub full: usize,
    /// `MSG_*` for `msg_flags`.
    pub flags: u32,
    /// Where from; `None` when the family says nothing about it, empty for an unnamed sender.
    pub from: Option<Vec<u8>>,
    /// Control messages.
    pub controls: Vec<Control>,
    /// Files that were passed.
    pub rights: Rights,
    /// The process that sent it, when the receiver wants a descriptor of it (`SO_PASSPIDFD`).
    pub sender: Option<i32>,
    /// Whether the stream stops here although more may come: end of file, a boundary.
    pub stops: bool,
}

/// Where `MSG_TRUNC` puts the bytes of a TCP stream: nowhere.
#[derive(Debug)]
pub struct Discard(pub usize);

impl Sink for Discard {
    fn remaining(&self) -> usize {
        self.0
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(len: u64, data: &[u8]) -> Vec<u8> {
        [&len.to_le_bytes()[..], &1i32.to_le_bytes(), &2i32.to_le_bytes(), data].concat()
    }

    #[test]
    fn controls_are_taken_apart() {
        let two = [one(20, &[1, 2, 3, 4, 0, 0, 0, 0]), one(16, &[])].concat();
        let list = parse_controls(&two).unwrap();
        assert_eq!(list, [Control::new(1, 2, [1, 2, 3, 4]), Control::new(1, 2, [])]);
        assert_eq!(parse_controls(&one(17, &[])), Err(EINVAL));
        assert_eq!(parse_controls(&one(15, &[])), Err(EINVAL));
        assert_eq!(parse_controls(&one(u64::MAX, &[])), Err(EINVAL));
        assert_eq!(parse_controls(&[0; 15]), Ok(Vec::new()));
        assert_eq!(parse_controls(&[0; 16]), Err(EINVAL));
    }

    #[test]
    fn random_controls_are_survived() {
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..200_000 {
            let mut bytes: Vec<u8> = (0..next() % 100).map(|_| (next() % 40) as u8).collect();
            // Lengths are small numbers, now and then a huge one.
            for at in (0..bytes.len()).step_by(8) {
                let huge = next() % 9 == 0;
                bytes.iter_mut().skip(at + 1).take(7).for_each(|b| *b = if huge { 255 } else { 0 });
            }
            if let Ok(list) = parse_controls(&bytes) {
                assert!(list.iter().map(Control::len).sum::<usize>() <= bytes.len());
            }
        }
    }
}
