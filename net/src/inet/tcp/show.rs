//! What a connection would have put on the wire, for those who look at packets.

use std::sync::atomic::Ordering;

use super::end::{End, SEGMENT_DATA};
use crate::Namespace;
use crate::inet::ports::Tuple;
use crate::inet::wire::{Frame, Segment};

/// Flags of a segment.
pub(super) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const URG: u8 = 32;
}

/// The window that a listener offers.
const FIRST_WINDOW: u16 = 65_495;

impl End {
    /// The number of its first segment. What is not transmitted need not be hard to guess.
    fn first(&self) -> u32 {
        (self.common.ino as u32).wrapping_mul(0x9e37_79b1)
    }

    /// The number of the next byte that it sends, `before` bytes ago.
    fn next(&self, before: usize) -> u32 {
        let sent = self.sent_bytes.load(Ordering::Relaxed) as u32;
        let end = u32::from(self.has_sent_fin());
        self.first().wrapping_add(1 + end).wrapping_add(sent).wrapping_sub(before as u32)
    }

    pub(super) fn frame(&self, peer: &Self, flags: u8, before: usize, data: &[u8]) -> Frame {
        let segment = Segment {
            sequence: self.next(before),
            acknowledged: peer.next(0),
            flags,
            window: u16::try_from(self.common.receive_limit() / 2).unwrap_or(u16::MAX),
        };
        Frame::tcp(self.address, peer.address, &segment, data)
    }

    /// Shows a segment without data.
    pub(super) fn show(&self, peer: &Self, flags: u8) {
        // The end of the stream has a number of its own.
        let before = usize::from(flags & flag::FIN != 0);
        self.common.net.inet.show_if_watched(|| self.frame(peer, flags, before, &[]));
    }

    /// Shows what was just sent, and that it arrived.
    pub(super) fn show_data(&self, peer: &Self, data: &[u8], is_urgent: bool) {
        let inet = &self.common.net.inet;
        let mut left = data.len();
        for piece in data.chunks(SEGMENT_DATA as usize) {
            let urgent = if is_urgent && left == piece.len() { flag::URG } else { 0 };
            inet.show(&self.frame(peer, flag::PSH | flag::ACK | urgent, left, piece), None);
            left -= piece.len();
        }
        inet.show(&peer.frame(self, flag::ACK, 0, &[]), None);
    }

    /// Shows how a connection was made, by this end.
    pub(super) fn show_opening(&self, peer: &Self) {
        if !self.common.net.inet.is_watched() {
            return;
        }
        let inet = &self.common.net.inet;
        let opening = |end: &Self, other: &Self, flags, acknowledged| {
            let segment = Segment { sequence: end.first(), acknowledged, flags, window: FIRST_WINDOW };
            inet.show(&Frame::tcp(end.address, other.address, &segment, &[]), None);
        };
        opening(self, peer, flag::SYN, 0);
        opening(peer, self, flag::SYN | flag::ACK, self.first().wrapping_add(1));
        inet.show(&self.frame(peer, flag::ACK, 0, &[]), None);
    }
}

/// Shows an attempt to connect, and that it was refused.
pub(super) fn refused(net: &Namespace, ino: u64, (local, remote): Tuple) {
    if !net.inet.is_watched() {
        return;
    }
    let sequence = (ino as u32).wrapping_mul(0x9e37_79b1);
    let syn = Segment { sequence, acknowledged: 0, flags: flag::SYN, window: FIRST_WINDOW };
    net.inet.show(&Frame::tcp(local, remote, &syn, &[]), None);
    let acknowledged = sequence.wrapping_add(1);
    let reset = Segment { sequence: 0, acknowledged, flags: flag::RST | flag::ACK, window: 0 };
    net.inet.show(&Frame::tcp(remote, local, &reset, &[]), None);
}
