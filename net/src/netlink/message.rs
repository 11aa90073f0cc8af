//! Netlink messages: taking apart what a program sent, putting together what it receives (netlink(7), rtnetlink(7)).

use abi::Errno;

/// Size of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// Flags of a message.
#[expect(missing_docs, reason = "netlink(7) explains each")]
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const MULTI: u16 = 0x2;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const CAPPED: u16 = 0x100;
    pub const CREATE: u16 = 0x400;
    pub const EXCL: u16 = 0x200;
}

/// Types of messages that every protocol has.
#[expect(missing_docs, reason = "netlink(7) explains each")]
pub mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const MIN_TYPE: u16 = 16;
}

/// A number in the machine's byte order at `at`; 0 behind the end.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

/// The same of 16 bits.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_ne_bytes(*b))
}

/// The byte at `at`; 0 behind the end.
pub fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// A message that a program sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it asks.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Its number.
    pub seq: u32,
    /// The whole message, its header too.
    pub whole: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes the first message off `bytes`; `None` when what is there is none, as `netlink_rcv_skb` stops.
    pub fn next(bytes: &mut &'a [u8]) -> Option<Self> {
        let len = u32_at(bytes, 0) as usize;
        if bytes.len() < HEADER || len < HEADER {
            return None;
        }
        let whole = bytes.get(..len)?;
        *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Self { kind: u16_at(whole, 4), flags: u16_at(whole, 6), seq: u32_at(whole, 8), whole })
    }

    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        &self.whole[HEADER..]
    }

    /// The attributes behind a fixed part of `size` bytes.
    pub fn attributes(&self, size: usize) -> Vec<(u16, &'a [u8])> {
        attributes(self.body().get(size..).unwrap_or(&[]))
    }
}

/// Takes attributes apart, up to the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const MARKS: u16 = 0xc000;
    let mut list = Vec::new();
    while bytes.len() >= 4 {
        let (len, name) = (usize::from(u16_at(bytes, 0)), u16_at(bytes, 2));
        let Some(data) = bytes.get(4..len) else { break };
        list.push((name & !MARKS, data));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    list
}

/// The attribute `name`.
pub fn find<'a>(list: &[(u16, &'a [u8])], name: u16) -> Option<&'a [u8]> {
    list.iter().find(|(n, _)| *n == name).map(|(_, data)| *data)
}

/// A message that is put together.
#[derive(Debug)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// Begins a message for `port`.
    pub fn new(kind: u16, flags: u16, seq: u32, port: u32) -> Self {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&flags.to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&port.to_ne_bytes());
        Self(out)
    }

    /// Adds bytes of the fixed part.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute.
    pub fn attr(&mut self, name: u16, data: &[u8]) -> &mut Self {
        let len = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&name.to_ne_bytes());
        self.0.extend_from_slice(&data[..usize::from(len) - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute of 32 bits.
    pub fn attr32(&mut self, name: u16, value: u32) -> &mut Self {
        self.attr(name, &value.to_ne_bytes())
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// The answer to a request that has no other: an error, or an acknowledgement.
///
/// Source: Linux 6.12 net/netlink/af_netlink.c, `netlink_ack`.
pub fn acknowledge(request: &Request<'_>, result: Result<(), Errno>, port: u32, is_capped: bool) -> Vec<u8> {
    let is_whole = result.is_err() && !is_capped;
    let flags = if is_whole { 0 } else { flag::CAPPED };
    let mut out = Builder::new(kind::ERROR, flags, request.seq, port);
    let code = result.err().map_or(0, |e| -e.raw());
    out.put(&code.to_ne_bytes());
    out.put(if is_whole { request.whole } else { &request.whole[..HEADER] });
    let mut bytes = out.finish();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The end of a dump.
pub fn done(seq: u32, port: u32) -> Vec<u8> {
    let mut out = Builder::new(kind::DONE, flag::MULTI, seq, port);
    out.put(&0u32.to_ne_bytes());
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_apart() {
        let mut one = Builder::new(18, flag::REQUEST, 7, 0);
        one.put(&[0; 16]).attr(3, b"lo\0");
        let bytes = [one.finish(), vec![9; 3]].concat();
        let mut rest = &bytes[..];
        let request = Request::next(&mut rest).unwrap();
        assert_eq!((request.kind, request.seq, rest.len()), (18, 7, 3));
        assert_eq!(request.attributes(16), [(3, &b"lo\0"[..])]);
        assert!(Request::next(&mut rest).is_none());
        assert!(Request::next(&mut &[255; 20][..]).is_none());
        assert!(attributes(&[3, 0, 1, 0]).is_empty());
        assert_eq!(attributes(&[4, 0, 1, 0x80, 9]), [(1, &[][..])]);
    }
}
