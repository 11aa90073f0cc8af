//! Frames that a program wrote into a ring and has sent (`PACKET_TX_RING`).
//!
//! The program may change the ring at any time: each header is read once.
//!
//! Source: Linux 6.12 net/packet/af_packet.c, `tpacket_snd`, `tpacket_parse_header`.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, EMSGSIZE, ENETDOWN, ENXIO};
use base::kept::Kept;
use base::memmap::{FixedPages, MapError, Mappable, MemRange};

use super::ring::{Place, Ring};
use super::{ADDRESS, HARDWARE, LINK, PacketSocket, VLAN_HEADER, option, parse};
use crate::inet::packets;
use crate::inet::wire::Frame;
use crate::socket::Socket;

/// The pages of both rings of a socket, that for what arrives first.
pub(super) struct Both(pub(super) Arc<FixedPages>, pub(super) Arc<FixedPages>);

impl Mappable for Both {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        let first = self.0.pages().len;
        match offset.checked_sub(first) {
            None => self.0.translate(offset, max_len, write),
            Some(offset) => self.1.translate(offset, max_len, write),
        }
    }

    fn cached(&self, offset: u64, max_len: u64) -> Option<MemRange> {
        let first = self.0.pages().len;
        match offset.checked_sub(first) {
            None => self.0.cached(offset, max_len),
            Some(offset) => self.1.cached(offset, max_len),
        }
    }

    fn tracks_dirty(&self) -> bool {
        false
    }
}

impl PacketSocket {
    /// Sends what the ring has for it; `to` is whom the program names, if anybody.
    pub(super) fn send_frames(&self, to: &[u8]) -> Result<usize, Errno> {
        let state = *self.state.lock();
        let (protocol, index, hardware) = if to.is_empty() {
            (state.protocol, state.index, [0; HARDWARE])
        } else if to.len() < ADDRESS {
            return Err(EINVAL);
        } else {
            parse(to)?
        };
        if index != crate::device::INDEX {
            return Err(ENXIO);
        }
        let settings = self.common().net.inet.device.settings();
        if !settings.is_up() {
            return Err(ENETDOWN);
        }
        let head = if self.is_raw() { 0 } else { LINK };
        let most = settings.mtu as usize + LINK - head;
        let (skips_wrong, has_offset) = (self.has(option::LOSS), self.has(option::TX_HAS_OFF));
        let mut sent = 0;
        let mut left = self.tx.lock().as_ref().map_or(0, Ring::frames);
        // A program that fills frames while they are sent gets its turn with the next call.
        while left > 0 {
            left -= 1;
            let mut tx = self.tx.lock();
            let Some(ring) = tx.as_mut() else { break };
            let Some(place) = ring.wanted() else { break };
            let found = ring
                .length(place, has_offset.then_some(self.is_raw()))
                .and_then(|(at, len)| if len > most + VLAN_HEADER { Err(EMSGSIZE) } else { Ok((at, len)) })
                .and_then(|(at, len)| {
                    let kept = Kept::new(head + len)?;
                    let mut bytes = vec![0; head + len];
                    if head > 0 {
                        bytes[..HARDWARE].copy_from_slice(&hardware);
                        bytes[LINK - 2..LINK].copy_from_slice(&protocol.to_be_bytes());
                    }
                    ring.read(at, &mut bytes[head..]);
                    match (bytes.len() < LINK, len > most) {
                        (true, _) => Err(EINVAL),
                        (_, true) => Err(EMSGSIZE),
                        _ => Ok((bytes, len, kept)),
                    }
                });
            let (bytes, len, kept) = match found {
                Ok(found) => found,
                Err(_) if skips_wrong => {
                    ring.answer(place, Place::AVAILABLE);
                    ring.step();
                    continue;
                }
                Err(error) => {
                    ring.answer(place, Place::WRONG);
                    return Err(error);
                }
            };
            ring.answer(place, Place::SENDING);
            ring.step();
            drop(tx);
            let protocol = u16::from_be_bytes([bytes[LINK - 2], bytes[LINK - 1]]);
            packets::send(&self.common().net, &Frame::of_device(bytes, protocol), Some(self));
            drop(kept);
            sent += len;
            if let Some(ring) = self.tx.lock().as_ref() {
                ring.answer(place, Place::AVAILABLE);
            }
        }
        Ok(sent)
    }
}
