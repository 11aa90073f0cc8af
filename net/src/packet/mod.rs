//! AF_PACKET (packet(7)): sockets that see the packets of the loopback device, and send some.
//!
//! Sockets of a sandbox hand each other data without packets; as long as somebody looks, the packets that would have been
//! are made (`inet/packets.rs`).
//!
//! Reading order: this file (the socket), `ring.rs` (memory that it shares with its program), `transmit.rs` (what is sent from
//! there), `fanout.rs` (groups that share packets).

pub(crate) mod fanout;
mod ring;
mod transmit;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{
    EAGAIN, EBUSY, EFAULT, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENOPROTOOPT, ENXIO, EOPNOTSUPP,
};
use abi::socket::{af, msg, sock};
use base::io::Sink;
use base::kept::Kept;
use base::lock::{Lock, rank};
use base::memmap::{Mappable, Memory};
use base::time::Time;
use base::wait::Events;

use crate::common;
use crate::device::{INDEX, TYPE};
use crate::filter::Attached;
use crate::inet::packets;
use crate::inet::wire::{Frame, LINK};
use crate::message::{Control, Incoming, Outgoing};
use crate::options::int;
use crate::report::{PacketReport, Report};
use crate::socket::{Caller, Socket};
use crate::{Common, Namespace};
use fanout::{Fanout, Rollovers, Room};
use ring::{Arrival, Ring};
use transmit::Both;

/// `SOL_PACKET`.
pub const SOL_PACKET: i32 = 263;
/// `ETH_P_ALL`.
const ETH_ALL: u16 = 3;
/// Size of `struct sockaddr_ll`, and of its part before the hardware address.
const ADDRESS: usize = 20;
const ADDRESS_HEAD: usize = 12;
/// Bytes of a hardware address.
const HARDWARE: usize = 6;
/// What a packet takes of the receiver's buffer beside its bytes.
const OVERHEAD: usize = 768;
/// What a packet may be longer than the device's limit (`VLAN_HLEN`).
const VLAN_HEADER: usize = 4;
/// Memberships of one socket.
const MEMBERSHIPS_MAX: usize = 64;
/// The longest packet that is sent, whatever the device takes: Linux has no longer piece of memory (`KMALLOC_MAX_SIZE`).
const LEN_MAX: usize = 4 << 20;

/// For whom a packet is (`PACKET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "packet(7) explains each")]
pub enum Kind {
    Host = 0,
    Broadcast = 1,
    Multicast = 2,
    OtherHost = 3,
    Outgoing = 4,
}

/// Options of level `SOL_PACKET`.
mod option {
    pub(super) const ADD_MEMBERSHIP: i32 = 1;
    pub(super) const DROP_MEMBERSHIP: i32 = 2;
    pub(super) const RX_RING: i32 = 5;
    pub(super) const STATISTICS: i32 = 6;
    pub(super) const COPY_THRESHOLD: i32 = 7;
    pub(super) const AUXDATA: i32 = 8;
    pub(super) const ORIGDEV: i32 = 9;
    pub(super) const VERSION: i32 = 10;
    pub(super) const HDRLEN: i32 = 11;
    pub(super) const RESERVE: i32 = 12;
    pub(super) const TX_RING: i32 = 13;
    pub(super) const LOSS: i32 = 14;
    pub(super) const TIMESTAMP: i32 = 17;
    pub(super) const FANOUT: i32 = 18;
    pub(super) const TX_HAS_OFF: i32 = 19;
    pub(super) const QDISC_BYPASS: i32 = 20;
    pub(super) const ROLLOVER_STATS: i32 = 21;
    pub(super) const IGNORE_OUTGOING: i32 = 23;
}

#[derive(Debug)]
struct Packet {
    data: Box<[u8]>,
    /// Its length before the filter cut it.
    whole: usize,
    /// Where the network header begins in `data`.
    network: usize,
    protocol: u16,
    kind: Kind,
    time: Option<Time>,
    _kept: Kept,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
    /// Packets that came, and those of them for which there was no room, since somebody asked.
    seen: u32,
    drops: u32,
    is_closed: bool,
    /// Packets go there.
    ring: Option<Ring>,
    /// Packets after which the ring had no place, since somebody asked.
    freezes: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// `ETH_P_*`; 0 to see nothing.
    protocol: u16,
    /// The device; 0 for all.
    index: i32,
}

impl State {
    /// Whether packets like this one are seen.
    fn sees(&self, frame: &Frame, kind: Kind) -> bool {
        let is_ours = self.protocol == ETH_ALL || self.protocol == frame.protocol && kind != Kind::Outgoing;
        is_ours && matches!(self.index, 0 | INDEX)
    }
}

/// A group that the device takes packets for on the socket's behalf (`struct packet_mreq`), and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    kind: u16,
    address: Vec<u8>,
    count: u32,
}

#[derive(Debug, Default)]
struct Options {
    memberships: Vec<Membership>,
    /// Switches, by number.
    switches: u32,
    version: i32,
    reserve: u32,
    timestamp: i32,
}

/// The memory file.
struct Pages(Arc<dyn Memory>);

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

/// A socket of AF_PACKET.
#[derive(Debug)]
pub struct PacketSocket {
    this: Weak<Self>,
    /// Where rings are.
    memory: Pages,
    common: Arc<Common>,
    state: Lock<State, { rank::LEAF }>,
    queue: Lock<Queue, { rank::QUEUE }>,
    options: Lock<Options, { rank::LEAF }>,
    /// `PACKET_IGNORE_OUTGOING`, which is asked for each packet.
    ignores_outgoing: AtomicU32,
    /// `PACKET_COPY_THRESH`: whether packets that a ring cuts are kept whole beside it.
    copies: AtomicI32,
    /// What is sent from.
    tx: Lock<Option<Ring>, { rank::SOCKET }>,
    /// The group that it is in.
    fanout: Lock<Option<Arc<Fanout>>, { rank::SOCKET }>,
    rollovers: Rollovers,
}

/// Makes a socket that sees packets of `protocol` (`ETH_P_*`); its rings are in `memory`.
pub fn new(
    net: &Arc<Namespace>,
    memory: &Arc<dyn Memory>,
    kind: u32,
    protocol: u16,
    owner: (u32, u32),
) -> Arc<PacketSocket> {
    let common = Common::new(net, af::PACKET, kind, 0, owner);
    let socket = Arc::new_cyclic(|this| PacketSocket {
        this: this.clone(),
        memory: Pages(memory.clone()),
        common,
        state: Lock::new(State { protocol, index: 0 }),
        queue: Lock::default(),
        options: Lock::default(),
        ignores_outgoing: AtomicU32::new(0),
        copies: AtomicI32::new(0),
        tx: Lock::default(),
        fanout: Lock::default(),
        rollovers: Rollovers::default(),
    });
    if protocol != 0 {
        socket.common.net.inet.watchers.add_tap(&socket.this);
    }
    socket
}

/// A `sockaddr_ll` of `len` bytes of hardware address, all zeros on the loopback.
fn address(protocol: u16, index: i32, kind: u8, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(ADDRESS);
    out.extend_from_slice(&af::PACKET.to_ne_bytes());
    out.extend_from_slice(&protocol.to_be_bytes());
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&if index == 0 { 0 } else { TYPE }.to_ne_bytes());
    out.extend_from_slice(&[kind, if index == 0 { 0 } else { HARDWARE as u8 }]);
    out.resize(ADDRESS_HEAD + len, 0);
    out
}

/// Protocol, device and hardware address of a `sockaddr_ll`.
fn parse(bytes: &[u8]) -> Result<(u16, i32, [u8; HARDWARE]), Errno> {
    let head: &[u8; ADDRESS] = bytes.first_chunk().ok_or(EINVAL)?;
    if bytes.len() < ADDRESS_HEAD + usize::from(head[11]) {
        return Err(EINVAL);
    }
    let hardware = [head[12], head[13], head[14], head[15], head[16], head[17]];
    if u16::from_ne_bytes([head[0], head[1]]) != af::PACKET {
        return Err(EINVAL);
    }
    Ok((u16::from_be_bytes([head[2], head[3]]), int(&head[4..])?, hardware))
}

impl PacketSocket {
    fn is_raw(&self) -> bool {
        self.common.kind == sock::RAW
    }

    fn has(&self, name: i32) -> bool {
        self.options.lock().switches >> name & 1 == 1
    }

    /// Puts a packet in the queue if it is for this socket.
    ///
    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_rcv`.
    pub(crate) fn hear(&self, frame: &Frame, kind: Kind) {
        let state = *self.state.lock();
        let is_ignored = kind == Kind::Outgoing && self.ignores_outgoing.load(Ordering::Relaxed) != 0;
        if !state.sees(frame, kind) || is_ignored {
            return;
        }
        let start = if self.is_raw() { 0 } else { LINK.min(frame.bytes.len()) };
        let data = frame.bytes.get(start..).unwrap_or(&[]);
        let view = base::bpf::Packet { kind: kind as u8, ..frame.view(start) };
        let Some(left) = self.common.filters.keep(|run| run(&view)).left(0, data.len()) else { return };
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return;
        }
        queue.seen = queue.seen.wrapping_add(1);
        let is_losing = queue.drops > 0;
        let has_room = queue.bytes <= self.common.receive_limit();
        if let Some(ring) = &mut queue.ring {
            let mut arrival = Arrival {
                data: &data[..left],
                whole: data.len(),
                link: (LINK - start) as u32,
                kind,
                address: &address(frame.protocol, INDEX, kind as u8, ADDRESS - ADDRESS_HEAD),
                time: common::now(),
                is_losing,
                is_copied: false,
            };
            arrival.is_copied = has_room && self.copies.load(Ordering::Relaxed) != 0 && ring.cuts(&arrival);
            if !ring.store(&arrival) {
                queue.drops = queue.drops.wrapping_add(1);
                queue.freezes = queue.freezes.wrapping_add(1);
                return;
            }
            if !arrival.is_copied {
                drop(queue);
                self.common.wait.notify(Events::READABLE);
                return;
            }
        }
        let kept = Kept::new(left + OVERHEAD).ok();
        let Some(kept) = kept.filter(|_| has_room) else {
            queue.drops = queue.drops.wrapping_add(1);
            return;
        };
        queue.bytes += left + OVERHEAD;
        queue.packets.push_back(Packet {
            data: data[..left].into(),
            whole: data.len(),
            network: LINK - start,
            protocol: frame.protocol,
            kind,
            time: self.common.stamps.wants_arrival().then(common::now),
            _kept: kept,
        });
        drop(queue);
        self.common.wait.notify(Events::READABLE);
    }

    /// `PACKET_ADD_MEMBERSHIP`, `PACKET_DROP_MEMBERSHIP`.
    ///
    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_mc_add`, `packet_mc_drop`.
    fn membership(&self, value: &[u8], is_added: bool) -> Result<(), Errno> {
        const SIZE: usize = 16;
        const HEAD: usize = 8;
        let head: &[u8; SIZE] = value.first_chunk().ok_or(EINVAL)?;
        let (kind, len) = (u16::from_ne_bytes([head[4], head[5]]), u16::from_ne_bytes([head[6], head[7]]));
        let address = value.get(HEAD..HEAD + usize::from(len)).ok_or(EINVAL)?.to_vec();
        let index = int(head)?;
        let mut options = self.options.lock();
        let same = |m: &Membership| m.kind == kind && m.address == address;
        let at = options.memberships.iter().position(same).filter(|_| index == INDEX);
        if !is_added {
            // Dropping what was not added is no error.
            if let Some(membership) = at.and_then(|at| options.memberships.get_mut(at)) {
                membership.count -= 1;
                options.memberships.retain(|m| m.count > 0);
            }
            return Ok(());
        }
        if index != INDEX {
            return Err(ENODEV);
        }
        if address.len() > HARDWARE {
            return Err(EINVAL);
        }
        match at {
            Some(at) => {
                if let Some(membership) = options.memberships.get_mut(at) {
                    membership.count = membership.count.checked_add(1).ok_or(EBUSY)?;
                }
            }
            None if options.memberships.len() >= MEMBERSHIPS_MAX => return Err(ENOBUFS),
            None => options.memberships.push(Membership { kind, address, count: 1 }),
        }
        Ok(())
    }

    /// How much room there is for packets.
    fn room(&self) -> Room {
        let queue = self.queue.lock();
        if let Some(ring) = &queue.ring {
            return ring.room();
        }
        let limit = self.common.receive_limit();
        match limit.saturating_sub(queue.bytes) {
            0 => Room::None,
            left if left > limit / 4 => Room::Normal,
            _ => Room::Low,
        }
    }

    /// `PACKET_TX_RING`.
    fn set_send_ring(&self, value: &[u8]) -> Result<(), Errno> {
        let (version, reserve) = {
            let options = self.options.lock();
            (options.version, options.reserve)
        };
        let new = Ring::new(&self.memory.0, version, reserve, value, true)?;
        let is_mapped = self.queue.lock().ring.as_ref().is_some_and(Ring::is_mapped);
        let mut tx = self.tx.lock();
        let is_used = is_mapped || tx.as_ref().is_some_and(|ring| new.is_some() || ring.is_mapped());
        let old = if is_used { new } else { std::mem::replace(&mut *tx, new) };
        drop(tx);
        drop(old);
        if is_used { Err(EBUSY) } else { Ok(()) }
    }

    /// `PACKET_FANOUT_DATA`.
    pub(crate) fn set_fanout_program(&self, program: Arc<Attached>) -> Result<(), Errno> {
        self.fanout.lock().as_ref().ok_or(EINVAL)?.set_program(program)
    }

    /// `PACKET_RX_RING`.
    fn set_ring(&self, value: &[u8]) -> Result<(), Errno> {
        let (version, reserve) = {
            let options = self.options.lock();
            (options.version, options.reserve)
        };
        let new = Ring::new(&self.memory.0, version, reserve, value, false)?;
        let is_mapped = self.tx.lock().as_ref().is_some_and(Ring::is_mapped);
        let mut queue = self.queue.lock();
        let is_used = is_mapped || queue.ring.as_ref().is_some_and(|ring| new.is_some() || ring.is_mapped());
        let old = if is_used { new } else { std::mem::replace(&mut queue.ring, new) };
        drop(queue);
        drop(old);
        if is_used { Err(EBUSY) } else { Ok(()) }
    }

    /// Fails when the ring's form is settled.
    fn check_no_ring(&self) -> Result<(), Errno> {
        let is_used = self.tx.lock().is_some() || self.queue.lock().ring.is_some();
        if is_used { Err(EBUSY) } else { Ok(()) }
    }

    /// `struct tpacket_auxdata` of a packet.
    fn auxiliary(packet: &Packet) -> Vec<u8> {
        /// `TP_STATUS_USER`, `TP_STATUS_CSUM_VALID`.
        const USER: u32 = 1;
        const CHECKED: u32 = 1 << 7;
        let status = if packet.kind == Kind::Outgoing { USER } else { USER | CHECKED };
        let words = [status, packet.whole as u32, packet.data.len() as u32];
        let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        for half in [0, packet.network as u16, 0, 0] {
            out.extend_from_slice(&half.to_ne_bytes());
        }
        out
    }
}

impl Socket for PacketSocket {
    fn common(&self) -> &Arc<Common> {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_bind`, `packet_do_bind`.
    fn bind(&self, _caller: &Caller<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let head: &[u8; ADDRESS] = bytes.first_chunk().ok_or(EINVAL)?;
        if u16::from_ne_bytes([head[0], head[1]]) != af::PACKET {
            return Err(EINVAL);
        }
        let (protocol, index) = (u16::from_be_bytes([head[2], head[3]]), int(&head[4..])?);
        if self.fanout.lock().is_some() {
            return Err(EINVAL);
        }
        if !matches!(index, 0 | INDEX) {
            return Err(ENODEV);
        }
        let mut state = self.state.lock();
        let had = state.protocol != 0;
        *state = State { protocol: if protocol == 0 { state.protocol } else { protocol }, index };
        let has = state.protocol != 0;
        drop(state);
        if has && !had {
            self.common.net.inet.watchers.add_tap(&self.this);
        }
        if has && index != 0 && !self.common.net.inet.device.settings().is_up() {
            self.common.set_error(ENETDOWN);
        }
        Ok(())
    }

    fn local_name(&self) -> Result<Vec<u8>, Errno> {
        let state = *self.state.lock();
        Ok(address(state.protocol, state.index, 0, if state.index == 0 { 0 } else { HARDWARE }))
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        Err(EOPNOTSUPP)
    }

    fn shutdown(&self, _how: u32) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_snd`.
    fn send(&self, _caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno> {
        if self.tx.lock().is_some() {
            return self.send_frames(message.to);
        }
        let state = *self.state.lock();
        let (protocol, index, hardware) = if message.to.is_empty() {
            (state.protocol, state.index, [0; HARDWARE])
        } else {
            parse(message.to)?
        };
        if index != INDEX {
            return Err(ENXIO);
        }
        let settings = self.common.net.inet.device.settings();
        if !settings.is_up() {
            return Err(ENETDOWN);
        }
        let len = message.data.remaining();
        let head = if self.is_raw() { 0 } else { LINK };
        let most = settings.mtu as usize + LINK - head;
        if len > most + VLAN_HEADER {
            return Err(EMSGSIZE);
        }
        if len > LEN_MAX {
            return Err(ENOBUFS);
        }
        let kept = Kept::new(head + len)?;
        let mut bytes = vec![0; head + len];
        if head > 0 {
            bytes[..HARDWARE].copy_from_slice(&hardware);
            bytes[LINK - 2..LINK].copy_from_slice(&protocol.to_be_bytes());
        }
        if len > 0 && message.data.take(&mut bytes[head..])? < len {
            return Err(EFAULT);
        }
        if len > most {
            return Err(EMSGSIZE);
        }
        if bytes.len() < LINK {
            return Err(EINVAL);
        }
        // The receiving side goes by what the header says.
        let protocol = u16::from_be_bytes([bytes[LINK - 2], bytes[LINK - 1]]);
        packets::send(&self.common.net, &Frame::of_device(bytes, protocol), Some(self));
        drop(kept);
        Ok(len)
    }

    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_recvmsg`.
    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno> {
        const KNOWN: u32 = msg::PEEK | msg::DONTWAIT | msg::TRUNC | msg::ERRQUEUE | msg::CMSG_CLOEXEC;
        if flags & !KNOWN != 0 {
            return Err(EINVAL);
        }
        if flags & msg::ERRQUEUE != 0 {
            return Err(EAGAIN);
        }
        self.common.check_error()?;
        let mut queue = self.queue.lock();
        let packet = queue.packets.front().ok_or(EAGAIN)?;
        let piece = &packet.data[..packet.data.len().min(dst.remaining())];
        let stored = if piece.is_empty() { Ok(0) } else { dst.put(piece) };
        let mut incoming = Incoming {
            copied: piece.len(),
            full: packet.data.len(),
            flags: if piece.len() < packet.data.len() { msg::TRUNC } else { 0 },
            from: Some(address(packet.protocol, INDEX, packet.kind as u8, ADDRESS - ADDRESS_HEAD)),
            stops: true,
            ..Incoming::default()
        };
        let time = packet.time;
        if self.has(option::AUXDATA) {
            incoming.controls.push(Control::new(SOL_PACKET, option::AUXDATA, Self::auxiliary(packet)));
        }
        if flags & msg::PEEK == 0
            && let Some(taken) = queue.packets.pop_front()
        {
            queue.bytes = queue.bytes.saturating_sub(taken.data.len() + OVERHEAD);
        }
        drop(queue);
        if stored? < incoming.copied {
            return Err(EFAULT);
        }
        let stamps = self.common.stamps.tell(time);
        incoming.controls.splice(0..0, stamps);
        Ok(incoming)
    }

    fn ready(&self) -> Events {
        let mut events = Events::WRITABLE | Events::WRBAND;
        let mut queue = self.queue.lock();
        let has_packets = match &mut queue.ring {
            Some(ring) => ring.is_readable(),
            None => false,
        } || !queue.packets.is_empty();
        drop(queue);
        if has_packets {
            events |= Events::READABLE;
        }
        if self.common.has_error() {
            events |= Events::ERR;
        }
        events
    }

    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_setsockopt`.
    fn set_option(&self, _caller: &Caller<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if level != SOL_PACKET {
            return Err(ENOPROTOOPT);
        }
        let exact = || if value.len() == 4 { int(value) } else { Err(EINVAL) };
        match name {
            option::ADD_MEMBERSHIP => return self.membership(value, true),
            option::DROP_MEMBERSHIP => return self.membership(value, false),
            option::AUXDATA | option::ORIGDEV | option::LOSS | option::TX_HAS_OFF | option::QDISC_BYPASS => {
                let number =
                    if matches!(name, option::AUXDATA | option::ORIGDEV) { int(value)? } else { exact()? };
                match (name, self.check_no_ring()) {
                    (option::LOSS, Err(e)) => return Err(e),
                    (option::TX_HAS_OFF, Err(_)) => return Ok(()),
                    _ => {}
                }
                let mut options = self.options.lock();
                options.switches = options.switches & !(1 << name) | u32::from(number != 0) << name;
            }
            option::RX_RING => return self.set_ring(value),
            option::TX_RING => return self.set_send_ring(value),
            option::FANOUT => return self.join_fanout(value),
            option::COPY_THRESHOLD => self.copies.store(exact()?, Ordering::Relaxed),
            option::VERSION | option::RESERVE if value.len() == 4 => {
                let number = int(value)?;
                if number < 0 || name == option::VERSION && number > 2 {
                    return Err(EINVAL);
                }
                self.check_no_ring()?;
                let mut options = self.options.lock();
                match name {
                    option::VERSION => options.version = number,
                    _ => options.reserve = number.cast_unsigned(),
                }
            }
            option::VERSION | option::RESERVE => return Err(EINVAL),
            option::TIMESTAMP => self.options.lock().timestamp = exact()?,
            option::IGNORE_OUTGOING => match exact()? {
                on @ 0..=1 => self.ignores_outgoing.store(on.cast_unsigned(), Ordering::Relaxed),
                _ => return Err(EINVAL),
            },
            _ => return Err(ENOPROTOOPT),
        }
        Ok(())
    }

    /// Source: Linux 6.12 net/packet/af_packet.c, `packet_getsockopt`.
    fn option(&self, level: i32, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        if level != SOL_PACKET {
            return Err(ENOPROTOOPT);
        }
        if name == option::STATISTICS {
            let mut queue = self.queue.lock();
            let (seen, drops) = (std::mem::take(&mut queue.seen), std::mem::take(&mut queue.drops));
            let freezes = std::mem::take(&mut queue.freezes);
            drop(queue);
            let mut out = [seen.to_ne_bytes(), drops.to_ne_bytes()].concat();
            if self.options.lock().version == 2 {
                out.extend_from_slice(&freezes.to_ne_bytes());
            }
            return Ok(out);
        }
        let fanout = self.fanout.lock().clone();
        if name == option::ROLLOVER_STATS {
            fanout.filter(|group| group.rolls_over()).ok_or(EINVAL)?;
            return Ok(self.rollovers.to_bytes());
        }
        let options = self.options.lock();
        let number = match name {
            option::FANOUT => fanout.map_or(0, |group| group.value()),
            option::AUXDATA | option::ORIGDEV | option::LOSS | option::TX_HAS_OFF | option::QDISC_BYPASS => {
                (options.switches >> name & 1).cast_signed()
            }
            option::VERSION => options.version,
            option::RESERVE => options.reserve.cast_signed(),
            option::TIMESTAMP => options.timestamp,
            option::COPY_THRESHOLD => self.copies.load(Ordering::Relaxed),
            option::IGNORE_OUTGOING => self.ignores_outgoing.load(Ordering::Relaxed).cast_signed(),
            option::HDRLEN => match int(given)? {
                0 | 1 => 32,
                2 => 48,
                _ => return Err(EINVAL),
            },
            _ => return Err(ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        let sent = self.tx.lock().as_ref().map(|ring| ring.pages.clone());
        let received = self.queue.lock().ring.as_ref().map(|ring| ring.pages.clone());
        Ok(match (received, sent) {
            (Some(received), Some(sent)) => Arc::new(Both(received, sent)),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(EINVAL),
        })
    }

    fn check_mapping(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let size = |ring: Option<&Ring>| ring.map_or(0, |ring| ring.pages.pages().len);
        let both = size(self.tx.lock().as_ref()) + size(self.queue.lock().ring.as_ref());
        // All of it, or nothing.
        if offset == 0 && both > 0 && base::page_up(len) == Some(both) { Ok(()) } else { Err(EINVAL) }
    }

    fn raises_sigpipe(&self) -> bool {
        false
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.queue.lock().packets.front().map_or(0, |p| p.data.len()))
    }

    fn unsent_bytes(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn report(&self, list: &mut Vec<Report>) {
        let state = *self.state.lock();
        list.push(Report::Packet(PacketReport {
            kind: self.common.kind,
            protocol: state.protocol,
            index: state.index,
            receive_queue: self.queue.lock().bytes,
            uid: self.common.owner().0,
            ino: self.common.ino,
        }));
    }

    fn close(&self) {
        let watchers = &self.common.net.inet.watchers;
        watchers.remove_tap(self);
        if let Some(group) = self.fanout.lock().take() {
            watchers.change_groups(|groups| {
                if group.remove(self) {
                    groups.retain(|g| !Arc::ptr_eq(g, &group));
                }
            });
        }
        let tx = self.tx.lock().take();
        drop(tx);
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        let packets = std::mem::take(&mut queue.packets);
        let ring = queue.ring.take();
        drop(queue);
        drop((packets, ring));
    }
}
