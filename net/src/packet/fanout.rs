//! Groups of packet sockets that share the packets of a device among them (`PACKET_FANOUT`): each packet goes to one member.
//!
//! Source: packet(7); Linux 6.12 net/packet/af_packet.c, `fanout_add`, `packet_rcv_fanout`, `fanout_demux_rollover`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EALREADY, EINVAL, ENOMEM, ENOSPC};
use base::lock::{Lock, rank};

use super::{Kind, PacketSocket, State};
use crate::filter::Attached;
use crate::inet::wire::Frame;
use crate::options::int;
use crate::socket::Socket;

/// Ways to choose a member.
mod way {
    pub(super) const HASH: u8 = 0;
    pub(super) const ROLLOVER: u8 = 3;
    pub(super) const ROUND_ROBIN: u8 = 1;
    pub(super) const PROCESSOR: u8 = 2;
    pub(super) const RANDOM: u8 = 4;
    pub(super) const QUEUE: u8 = 5;
    pub(super) const PROGRAM: u8 = 6;
    pub(super) const EBPF: u8 = 7;
}

/// Flags of a group, as its option has them shifted by 8.
const ROLLS_OVER: u8 = 0x10;
const UNIQUE: u8 = 0x20;
const IGNORES_OUTGOING: u8 = 0x40;
/// Members of a group: most, and where nothing is said.
const MEMBERS_MAX: u32 = 1 << 16;
const MEMBERS_DEFAULT: u32 = 256;

/// A member, and where it looked last for one with room.
#[derive(Debug)]
struct Member {
    socket: Weak<PacketSocket>,
    last: usize,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Fanout {
    id: u16,
    way: u8,
    flags: u8,
    most: u32,
    /// What all members are bound to.
    bound: State,
    members: Lock<Vec<Member>, { rank::LEAF }>,
    turn: AtomicU32,
    /// What chooses, with `PACKET_FANOUT_CBPF`.
    program: Lock<Option<Arc<Attached>>, { rank::LEAF }>,
}

/// `struct tpacket_rollover_stats` of a member.
#[derive(Debug, Default)]
pub(super) struct Rollovers {
    all: AtomicU64,
    failed: AtomicU64,
}

/// How much room a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    None,
    Low,
    Normal,
}

impl Fanout {
    /// What `PACKET_FANOUT` tells.
    pub(super) fn value(&self) -> i32 {
        (u32::from(self.id) | u32::from(self.way) << 16 | u32::from(self.flags) << 24).cast_signed()
    }

    /// Whether members keep account of packets that others took for them.
    pub(super) fn rolls_over(&self) -> bool {
        self.way == way::ROLLOVER || self.flags & ROLLS_OVER != 0
    }

    /// `PACKET_FANOUT_DATA`.
    pub(super) fn set_program(&self, program: Arc<Attached>) -> Result<(), Errno> {
        if self.way != way::PROGRAM {
            return Err(EINVAL);
        }
        let old = self.program.lock().replace(program);
        drop(old);
        Ok(())
    }

    /// Whether `socket` is a member, which does not see what members send.
    pub(crate) fn has(&self, socket: &PacketSocket) -> bool {
        self.members.lock().iter().any(|m| std::ptr::eq(m.socket.as_ptr(), socket))
    }

    /// Removes a member; says whether there are none left.
    pub(crate) fn remove(&self, socket: &PacketSocket) -> bool {
        let mut members = self.members.lock();
        if let Some(at) = members.iter().position(|m| std::ptr::eq(m.socket.as_ptr(), socket)) {
            members.swap_remove(at);
        }
        members.is_empty()
    }

    /// Gives a packet to the member whose turn it is.
    pub(crate) fn hear(&self, frame: &Frame, kind: Kind) {
        let is_ignored = kind == Kind::Outgoing && self.flags & IGNORES_OUTGOING != 0;
        let count = self.members.lock().len();
        if count == 0 || is_ignored || !self.bound.sees(frame, kind) {
            return;
        }
        let chosen = self.choose(frame, kind, count) % count;
        let found = if self.way == way::ROLLOVER {
            self.roll_over(0, None)
        } else if self.flags & ROLLS_OVER != 0 {
            self.roll_over(chosen, Some(chosen))
        } else {
            chosen
        };
        let member = self.members.lock().get(found).and_then(|m| m.socket.upgrade());
        if let Some(member) = member {
            member.hear(frame, kind);
        }
    }

    fn choose(&self, frame: &Frame, kind: Kind, count: usize) -> usize {
        match self.way {
            way::HASH => flow(frame) as usize,
            way::ROUND_ROBIN => self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1) as usize,
            way::PROCESSOR => host::system::current_cpu() as usize,
            way::RANDOM => {
                let mut random = [0; 4];
                // Without it, any is as good as another.
                let _ = host::file::random(&mut random);
                u32::from_ne_bytes(random) as usize
            }
            way::PROGRAM => {
                let program = self.program.lock().clone();
                let view = base::bpf::Packet { kind: kind as u8, ..frame.view(0) };
                program.map_or(0, |program| program.run(&view) as usize % count)
            }
            // The loopback has one queue.
            _ => 0,
        }
    }

    /// A member with room: `own` if it has some, else the next after the one that `of` found last; without any `of`.
    fn roll_over(&self, of: usize, own: Option<usize>) -> usize {
        let sockets: Vec<Option<Arc<PacketSocket>>> =
            self.members.lock().iter().map(|m| m.socket.upgrade()).collect();
        let room = |at: usize| sockets.get(at).and_then(Option::as_ref).map_or(Room::None, |s| s.room());
        if own.is_some_and(|own| room(own) >= Room::Low) {
            return of;
        }
        let Some(account) = sockets.get(of).and_then(Option::as_ref).map(|s| &s.rollovers) else { return of };
        let last = self.members.lock().get(of).map_or(0, |m| m.last).min(sockets.len().saturating_sub(1));
        for at in (last..sockets.len()).chain(0..last) {
            if Some(at) != own && room(at) == Room::Normal {
                if let Some(member) = self.members.lock().get_mut(of) {
                    member.last = at;
                }
                account.all.fetch_add(1, Ordering::Relaxed);
                return at;
            }
        }
        account.failed.fetch_add(1, Ordering::Relaxed);
        of
    }
}

/// A number that both directions of a flow have.
fn flow(frame: &Frame) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Some(ip) = frame.ip_header() else { return 0 };
    let port = |at: usize| frame.bytes.get(frame.transport + at..frame.transport + at + 2);
    let mut ends = [(ip.from, port(0)), (ip.to, port(2))];
    ends.sort();
    (ends, ip.protocol).hash(&mut hasher);
    hasher.finish()
}

impl Rollovers {
    /// `PACKET_ROLLOVER_STATS`; no flow counts as huge.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let words = [self.all.load(Ordering::Relaxed), 0, self.failed.load(Ordering::Relaxed)];
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }
}

impl PacketSocket {
    /// `PACKET_FANOUT`: joins a group, or makes it.
    pub(super) fn join_fanout(&self, value: &[u8]) -> Result<(), Errno> {
        if !matches!(value.len(), 4 | 8) {
            return Err(EINVAL);
        }
        let word = int(value)?.cast_unsigned();
        let most = value.get(4..8).map_or(Ok(0), int)?.cast_unsigned();
        let (mut id, way, mut flags) = (word as u16, (word >> 16) as u8, (word >> 24) as u8);
        match way {
            way::ROLLOVER if flags & ROLLS_OVER != 0 => return Err(EINVAL),
            way::HASH..=way::QUEUE | way::PROGRAM | way::EBPF => {}
            _ => return Err(EINVAL),
        }
        let bound = *self.state.lock();
        let watchers = &self.common().net.inet.watchers;
        let mut own = self.fanout.lock();
        watchers.change_groups(|groups| {
            if own.is_some() {
                return Err(EALREADY);
            }
            if flags & UNIQUE != 0 {
                if id != 0 {
                    return Err(EINVAL);
                }
                let is_free = |id: &u16| !groups.iter().any(|g| g.id == *id);
                id = (1..=u16::MAX).chain([0]).find(is_free).ok_or(ENOMEM)?;
                flags &= !UNIQUE;
            }
            let group = match groups.iter().find(|g| g.id == id) {
                Some(group) => {
                    if group.flags != flags || most != 0 && most != group.most {
                        return Err(EINVAL);
                    }
                    group.clone()
                }
                None if most > MEMBERS_MAX => return Err(EINVAL),
                None => Arc::new(Fanout {
                    id,
                    way,
                    flags,
                    most: if most == 0 { MEMBERS_DEFAULT } else { most },
                    bound,
                    members: Lock::default(),
                    turn: AtomicU32::new(0),
                    program: Lock::default(),
                }),
            };
            if bound.protocol == 0 || group.way != way || group.bound != bound {
                return Err(EINVAL);
            }
            let mut members = group.members.lock();
            if members.len() >= group.most as usize {
                return Err(ENOSPC);
            }
            members.push(Member { socket: self.this.clone(), last: 0 });
            drop(members);
            if !groups.iter().any(|g| Arc::ptr_eq(g, &group)) {
                groups.push(group.clone());
            }
            *own = Some(group);
            Ok(())
        })?;
        watchers.remove_tap(self);
        Ok(())
    }
}
