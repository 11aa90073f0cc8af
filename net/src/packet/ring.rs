//! Rings that a packet socket shares with its program (`PACKET_RX_RING`), in the three versions of their headers.
//!
//! The program may change the memory at any time: only the words that say who owns a frame or block are read back.
//! A block of version 3 is given to the program when it is full, or when somebody asks whether there is something to read.
//!
//! Source: packet(7), Linux's Documentation/networking/packet_mmap.rst; Linux 6.12 net/packet/af_packet.c,
//! `packet_set_ring`, `tpacket_rcv`, `prb_open_block`.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EINVAL, EMSGSIZE, ENOMEM};
use base::PAGE_SIZE;
use base::memmap::{FixedPages, Memory};
use base::time::Time;

use super::Kind;
use super::fanout::Room;
use crate::options::int;

/// `TP_STATUS_*`.
const KERNEL: u32 = 0;
const USER: u32 = 1;
const COPIED: u32 = 2;
const LOSING: u32 = 4;
const CHECKED: u32 = 1 << 7;
const SOFTWARE_TIME: u32 = 1 << 29;
/// `TPACKET_ALIGNMENT`.
const ALIGNMENT: u32 = 16;
/// What the link-layer header takes at least.
const LINK_ROOM: u32 = 16;
/// Size of `struct sockaddr_ll`.
const ADDRESS: u32 = 20;
/// Size of the head of a block, and where its status is.
const BLOCK_HEAD: u32 = 48;
const BLOCK_STATUS: u64 = 8;
/// Where the status of a frame of version 3 is.
const FRAME_STATUS: u64 = 20;
/// Most bytes of a ring.
const BYTES_MAX: u64 = 1 << 30;

/// A version's header.
const fn header(version: i32) -> u32 {
    if version == 2 { 48 } else { 32 }
}

/// The block of version 3 that is being filled.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Where the next packet goes.
    cursor: u32,
    packets: u32,
    /// Where the last one is, which has no successor as long as there is none.
    last: u32,
    time: Time,
}

/// A packet for a ring.
pub(super) struct Arrival<'a> {
    pub(super) data: &'a [u8],
    /// Its length before the filter cut it.
    pub(super) whole: usize,
    /// Bytes before its network header: none for sockets that do not see link-layer headers.
    pub(super) link: u32,
    pub(super) kind: Kind,
    pub(super) address: &'a [u8],
    pub(super) time: Time,
    /// Packets were lost, of which the program has not asked yet.
    pub(super) is_losing: bool,
    /// The program gets the whole of it as a message too.
    pub(super) is_copied: bool,
}

/// A ring.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) pages: Arc<FixedPages>,
    version: i32,
    frame_size: u32,
    per_block: u32,
    block_size: u32,
    block_count: u32,
    reserve: u32,
    /// Bytes of each block that are the program's.
    private: u32,
    /// The frame, or with version 3 the block, that is used next.
    next: u32,
    open: Option<Open>,
    sequence: u64,
    /// What is in it is to be sent.
    sends: bool,
}

/// A frame of a ring that is sent from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

impl Place {
    pub(super) const AVAILABLE: u32 = 0;
    const WANTED: u32 = 1;
    pub(super) const SENDING: u32 = 2;
    pub(super) const WRONG: u32 = 4;
}

impl Ring {
    /// Makes the ring that a `struct tpacket_req` or `tpacket_req3` asks for; `None` when it asks for none.
    ///
    /// # Errors
    /// `EINVAL`: it cannot be; `ENOMEM`.
    pub(super) fn new(
        memory: &Arc<dyn Memory>,
        version: i32,
        reserve: u32,
        value: &[u8],
        sends: bool,
    ) -> Result<Option<Self>, Errno> {
        let word = |i: usize| int(value.get(i * 4..).ok_or(EINVAL)?).map(i32::cast_unsigned);
        let (block_size, block_count, frame_size, frame_count) = (word(0)?, word(1)?, word(2)?, word(3)?);
        let private = if version == 2 { word(6).and(word(5))? } else { 0 };
        if version == 2 && sends && block_count > 0 && (word(4)?, private, word(6)?) != (0, 0, 0) {
            return Err(EINVAL);
        }
        if block_count == 0 {
            return if frame_count == 0 { Ok(None) } else { Err(EINVAL) };
        }
        let least = u64::from(header(version) + ADDRESS) + u64::from(reserve);
        let head = u64::from(BLOCK_HEAD) + u64::from(private).next_multiple_of(8);
        if block_size == 0
            || block_size > i32::MAX as u32
            || u64::from(block_size) % PAGE_SIZE != 0
            || version == 2 && u64::from(block_size) < head + least
            || u64::from(frame_size) < least
            || !frame_size.is_multiple_of(ALIGNMENT)
        {
            return Err(EINVAL);
        }
        let per_block = block_size / frame_size;
        if per_block == 0 || per_block.checked_mul(block_count) != Some(frame_count) {
            return Err(EINVAL);
        }
        let len = u64::from(block_size) * u64::from(block_count);
        if len > BYTES_MAX {
            return Err(ENOMEM);
        }
        let pages = Arc::new(FixedPages::allocate(memory, len)?);
        let mut ring = Self {
            pages,
            version,
            frame_size,
            per_block,
            block_size,
            block_count,
            reserve,
            private,
            next: 0,
            open: None,
            sequence: 1,
            sends,
        };
        if ring.has_blocks() {
            ring.open_block();
        }
        Ok(Some(ring))
    }

    /// Whether the program is given whole blocks.
    const fn has_blocks(&self) -> bool {
        self.version == 2 && !self.sends
    }

    fn at(&self, offset: u64) -> u64 {
        self.pages.pages().offset + offset
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.pages.memory().write(self.at(offset), bytes);
    }

    fn put_words(&self, offset: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.put(offset, &bytes);
    }

    /// Where frame `index` begins.
    fn frame(&self, index: u32) -> u64 {
        let (block, frame) = (index / self.per_block, index % self.per_block);
        u64::from(block) * u64::from(self.block_size) + u64::from(frame) * u64::from(self.frame_size)
    }

    fn block(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.block_size)
    }

    /// Where the status of frame or block `index` is.
    fn status_of(&self, index: u32) -> u64 {
        if self.has_blocks() {
            self.block(index) + BLOCK_STATUS
        } else {
            self.frame(index) + if self.version == 2 { FRAME_STATUS } else { 0 }
        }
    }

    fn status(&self, index: u32) -> u32 {
        self.pages.memory().load_u32(self.at(self.status_of(index)))
    }

    fn set_status(&self, index: u32, status: u32) {
        self.pages.memory().store_u32(self.at(self.status_of(index)), status);
    }

    /// How many frames there are.
    pub(super) const fn frames(&self) -> u32 {
        self.per_block * self.block_count
    }

    /// How many frames or blocks there are.
    fn count(&self) -> u32 {
        if self.has_blocks() { self.block_count } else { self.frames() }
    }

    /// Where link-layer and network header of a packet go, from the beginning of its header.
    fn places(&self, link: u32) -> (u32, u32) {
        let head = header(self.version) + ADDRESS;
        let network = if link == 0 {
            head.next_multiple_of(ALIGNMENT) + LINK_ROOM
        } else {
            (head + link.max(LINK_ROOM)).next_multiple_of(ALIGNMENT)
        };
        // Bounded by the frame's size, which was checked.
        let network = network.saturating_add(self.reserve);
        (network - link, network)
    }

    /// Stores a packet. False: there is no room.
    pub(super) fn store(&mut self, packet: &Arrival<'_>) -> bool {
        if self.version == 2 { self.store_in_block(packet) } else { self.store_in_frame(packet) }
    }

    fn flags(&self, packet: &Arrival<'_>) -> u32 {
        let checked = if packet.kind == Kind::Outgoing { 0 } else { CHECKED };
        let losing = if packet.is_losing && self.version != 2 { LOSING } else { 0 };
        let copied = if packet.is_copied { COPIED } else { 0 };
        USER | SOFTWARE_TIME | checked | losing | copied
    }

    fn store_in_frame(&mut self, packet: &Arrival<'_>) -> bool {
        let index = self.next;
        if self.status(index) != KERNEL {
            return false;
        }
        let (link, network) = self.places(packet.link);
        let len = (packet.data.len() as u32).min(self.frame_size.saturating_sub(link));
        let start = self.frame(index);
        let flags = self.flags(packet);
        if len > 0 {
            self.put(start + u64::from(link), &packet.data[..len as usize]);
        }
        let (sec, nsec) = (packet.time.sec as u32, packet.time.nsec);
        let places = (network & 0xffff) << 16 | link & 0xffff;
        let whole = packet.whole as u32;
        if self.version == 0 {
            self.put_words(start + 4, &[0, whole, len, places, sec, nsec / 1000]);
        } else {
            self.put_words(start + 4, &[whole, len, places, sec, nsec, 0, 0]);
        }
        self.put(start + u64::from(header(self.version)), packet.address);
        self.set_status(index, flags);
        self.next = (index + 1) % self.count();
        true
    }

    fn first(&self) -> u32 {
        BLOCK_HEAD + self.private.next_multiple_of(8)
    }

    /// Begins to fill the next block, if it is the kernel's.
    fn open_block(&mut self) -> bool {
        if self.status(self.next) & USER != 0 {
            return false;
        }
        let start = self.block(self.next);
        let sequence = self.sequence;
        self.sequence += 1;
        let [low, high] = [sequence as u32, (sequence >> 32) as u32];
        // Version, offset of the program's bytes; then all but the status.
        self.put_words(start, &[2, BLOCK_HEAD]);
        self.put_words(start + 12, &[0, self.first(), self.first(), low, high, 0, 0, 0, 0]);
        self.open = Some(Open { cursor: self.first(), packets: 0, last: 0, time: Time::default() });
        true
    }

    /// Gives the block that is being filled to the program.
    fn close_block(&mut self, status: u32) {
        let Some(open) = self.open.take() else { return };
        let start = self.block(self.next);
        self.put_words(start + 12, &[open.packets, self.first(), open.cursor]);
        self.put_words(start + 40, &[open.time.sec as u32, open.time.nsec]);
        self.set_status(self.next, USER | status);
        self.next = (self.next + 1) % self.block_count;
    }

    fn store_in_block(&mut self, packet: &Arrival<'_>) -> bool {
        let (link, network) = self.places(packet.link);
        let most = self.block_size.saturating_sub(self.first()).saturating_sub(link);
        let len = (packet.data.len() as u32).min(most);
        let size = (link + len).next_multiple_of(8).min(self.block_size - self.first());
        let is_full = |open: &Open, ring: &Self| open.cursor + size > ring.block_size;
        if self.open.is_some_and(|open| is_full(&open, self)) {
            self.close_block(0);
        }
        if self.open.is_none() && !self.open_block() {
            return false;
        }
        let Some(mut open) = self.open else { return false };
        let start = self.block(self.next) + u64::from(open.cursor);
        let (sec, nsec) = (packet.time.sec as u32, packet.time.nsec);
        if open.packets > 0 {
            // Its predecessor gets to know where it is.
            let before = self.block(self.next) + u64::from(open.last);
            self.put_words(before, &[open.cursor - open.last]);
        } else {
            self.put_words(self.block(self.next) + 32, &[sec, nsec]);
        }
        if len > 0 {
            self.put(start + u64::from(link), &packet.data[..len as usize]);
        }
        let places = (network & 0xffff) << 16 | link & 0xffff;
        let flags = self.flags(packet);
        self.put_words(start, &[0, sec, nsec, len, packet.whole as u32, flags, places, 0, 0, 0, 0, 0]);
        self.put(start + u64::from(header(self.version)), packet.address);
        open.last = open.cursor;
        open.cursor += size;
        open.packets += 1;
        open.time = packet.time;
        self.open = Some(open);
        true
    }

    /// The frame to be sent next, if the program has filled it.
    pub(super) fn wanted(&self) -> Option<Place> {
        (self.status(self.next) == Place::WANTED).then_some(Place(self.next))
    }

    /// Where the bytes of a frame are that is sent, and how many. With `TX_HAS_OFF` its header says where: `raw` with the
    /// link-layer header, or without.
    ///
    /// # Errors
    /// `EINVAL`, `EMSGSIZE`: what its header says cannot be.
    pub(super) fn length(&self, place: Place, has_offset: Option<bool>) -> Result<(u64, usize), Errno> {
        let mut head = [0; 28];
        self.read(self.frame(place.0), &mut head);
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len_at, mac_at) = match self.version {
            0 => (8, 16),
            1 => (4, 12),
            _ => (16, 24),
        };
        if self.version == 2 && word(0) != 0 {
            return Err(EINVAL);
        }
        let (least, len) = (header(self.version), word(len_at));
        let most = self.frame_size - least;
        if len > most {
            return Err(EMSGSIZE);
        }
        let offset = match has_offset {
            None => least,
            Some(is_raw) => {
                let places = word(mac_at);
                let offset = if is_raw { places & 0xffff } else { places >> 16 };
                if offset < least || offset > self.frame_size - len {
                    return Err(EINVAL);
                }
                offset
            }
        };
        Ok((self.frame(place.0) + u64::from(offset), len as usize))
    }

    /// Copies bytes out.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.pages.memory().read(self.at(offset), bytes);
    }

    /// Tells the program what became of a frame.
    pub(super) fn answer(&self, place: Place, status: u32) {
        if place.0 < self.count() {
            self.set_status(place.0, status);
        }
    }

    /// Goes on to the next frame.
    pub(super) fn step(&mut self) {
        self.next = (self.next + 1) % self.count();
    }

    /// How much room there is for packets.
    pub(super) fn room(&self) -> Room {
        let count = self.count();
        let is_free = |index: u32| self.status(index % count) == KERNEL;
        match (is_free(self.next), is_free(self.next + count / 4)) {
            (_, true) => Room::Normal,
            (true, false) => Room::Low,
            (false, false) => Room::None,
        }
    }

    /// Whether a packet is longer than its frame.
    pub(super) fn cuts(&self, packet: &Arrival<'_>) -> bool {
        let (link, _) = self.places(packet.link);
        self.version != 2 && packet.data.len() > self.frame_size.saturating_sub(link) as usize
    }

    /// Whether a program has mapped it.
    pub(super) fn is_mapped(&self) -> bool {
        Arc::strong_count(&self.pages) > 1
    }

    /// Whether the program has something to look at.
    pub(super) fn is_readable(&mut self) -> bool {
        /// `TP_STATUS_BLK_TMO`: the block was not full.
        const NOT_FULL: u32 = 1 << 5;
        if self.open.is_some_and(|open| open.packets > 0) {
            self.close_block(NOT_FULL);
        }
        let count = self.count();
        self.status((self.next + count - 1) % count) != KERNEL
    }
}
