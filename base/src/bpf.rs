//! Classic BPF: programs that decide about system calls (seccomp(2)) or packets (socket(7), `SO_ATTACH_FILTER`). The
//! checker and the interpreter.
//!
//! Source: Linux 6.12 net/core/filter.c, `bpf_check_classic`, `bpf_convert_filter`; kernel/seccomp.c,
//! `seccomp_check_filter`.

use abi::Errno;
use abi::errno::EINVAL;

/// `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;
/// Words of `struct seccomp_data`.
pub const DATA_WORDS: usize = 16;

/// Offsets from here on are no places in a packet but questions about it (`SKF_AD_OFF`).
const EXTENSIONS: u32 = (-0x1000i32).cast_unsigned();
/// What a program asks about a packet: the offset beyond `SKF_AD_OFF`.
mod ask {
    pub(super) const PROTOCOL: u32 = 0;
    pub(super) const KIND: u32 = 4;
    pub(super) const INTERFACE: u32 = 8;
    pub(super) const ATTRIBUTE: u32 = 12;
    pub(super) const NESTED_ATTRIBUTE: u32 = 16;
    pub(super) const MARK: u32 = 20;
    pub(super) const DEVICE_TYPE: u32 = 28;
    pub(super) const PROCESSOR: u32 = 36;
    pub(super) const XOR_X: u32 = 40;
    pub(super) const PAYLOAD: u32 = 52;
    pub(super) const RANDOM: u32 = 56;
    pub(super) const VLAN_PROTOCOL: u32 = 60;
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are Linux's, see bpf(4)")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl Instruction {
    /// Bytes of one.
    pub const SIZE: usize = 8;

    /// Reads one.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [c0, c1, jt, jf, k @ ..] = *bytes;
        Self { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes(k) }
    }

    /// As it was read.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }
}

/// Codes: class, then what the class allows.
mod code {
    pub(super) const LD_W_ABS: u16 = 0x20;
    pub(super) const LD_H_ABS: u16 = 0x28;
    pub(super) const LD_B_ABS: u16 = 0x30;
    pub(super) const LD_W_IND: u16 = 0x40;
    pub(super) const LD_H_IND: u16 = 0x48;
    pub(super) const LD_B_IND: u16 = 0x50;
    pub(super) const LDX_B_MSH: u16 = 0xb1;
    pub(super) const LD_W_LEN: u16 = 0x80;
    pub(super) const LDX_W_LEN: u16 = 0x81;
    pub(super) const LD_IMM: u16 = 0x00;
    pub(super) const LDX_IMM: u16 = 0x01;
    pub(super) const LD_MEM: u16 = 0x60;
    pub(super) const LDX_MEM: u16 = 0x61;
    pub(super) const ST: u16 = 0x02;
    pub(super) const STX: u16 = 0x03;
    pub(super) const RET_K: u16 = 0x06;
    pub(super) const RET_A: u16 = 0x16;
    pub(super) const TAX: u16 = 0x07;
    pub(super) const TXA: u16 = 0x87;
    pub(super) const NEG: u16 = 0x84;
    pub(super) const JA: u16 = 0x05;
    /// The class of arithmetic, and its operations; with 8 the operand is X.
    pub(super) const ALU: u16 = 0x04;
    pub(super) const ADD: u16 = 0x00;
    pub(super) const SUB: u16 = 0x10;
    pub(super) const MUL: u16 = 0x20;
    pub(super) const DIV: u16 = 0x30;
    pub(super) const OR: u16 = 0x40;
    pub(super) const AND: u16 = 0x50;
    pub(super) const LSH: u16 = 0x60;
    pub(super) const RSH: u16 = 0x70;
    pub(super) const MOD: u16 = 0x90;
    pub(super) const XOR: u16 = 0xa0;
    /// The class of jumps, and its conditions.
    pub(super) const JMP: u16 = 0x05;
    pub(super) const JEQ: u16 = 0x10;
    pub(super) const JGT: u16 = 0x20;
    pub(super) const JGE: u16 = 0x30;
    pub(super) const JSET: u16 = 0x40;
    pub(super) const X: u16 = 0x08;
    pub(super) const CLASS: u16 = 0x07;
    pub(super) const OPERATION: u16 = 0xf0;
}

/// What a program looks at.
trait Data {
    /// Its length in bytes.
    fn len(&self) -> u32;

    /// `size` bytes at `offset`, as a number; `None` ends the program.
    fn load(&self, offset: u32, size: u8) -> Option<u32>;

    /// The answer to question `number` (`SKF_AD_*`); `None` ends the program.
    fn ask(&self, number: u32, a: u32, x: u32) -> Option<u32>;
}

/// Words of a system call that are known.
struct Words<F>(F);

impl<F: Fn(usize) -> Option<u32>> Data for Words<F> {
    fn len(&self) -> u32 {
        (DATA_WORDS * 4) as u32
    }

    fn load(&self, offset: u32, _size: u8) -> Option<u32> {
        (self.0)(offset as usize / 4)
    }

    fn ask(&self, _number: u32, _a: u32, _x: u32) -> Option<u32> {
        None
    }
}

/// A packet, as a program looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet<'a> {
    /// All its bytes, headers included.
    pub bytes: &'a [u8],
    /// Where offsets of programs begin.
    pub data: usize,
    /// Where the network header is (`SKF_NET_OFF`).
    pub network: usize,
    /// Where the link-layer header is (`SKF_LL_OFF`), if it has one.
    pub link: Option<usize>,
    /// Where the payload is, if the protocol is known.
    pub payload: Option<usize>,
    /// `ETH_P_*`.
    pub protocol: u16,
    /// `PACKET_*`: for whom it is.
    pub kind: u8,
    /// Number and type (`ARPHRD_*`) of the device that it came from.
    pub device: Option<(u32, u16)>,
    /// `SO_MARK` of the sender.
    pub mark: u32,
    /// The processor it is looked at on.
    pub processor: u32,
    /// A random number.
    pub random: u32,
}

impl Packet<'_> {
    fn seen(&self) -> &[u8] {
        self.bytes.get(self.data..).unwrap_or(&[])
    }

    /// The first attribute (`struct nlattr`) of type `kind` in `bytes[from..to]`.
    fn attribute(bytes: &[u8], mut from: usize, to: usize, kind: u32) -> usize {
        const HEADER: usize = 4;
        while let Some(&[l0, l1, k0, k1]) = bytes.get(from..to).and_then(|b| b.first_chunk::<HEADER>()) {
            let len = usize::from(u16::from_ne_bytes([l0, l1]));
            if len < HEADER || len > to - from {
                break;
            }
            // NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of the type.
            if u32::from(u16::from_ne_bytes([k0, k1]) & 0x3fff) == kind {
                return from;
            }
            from += len.next_multiple_of(4);
        }
        0
    }
}

impl Data for Packet<'_> {
    fn len(&self) -> u32 {
        self.seen().len() as u32
    }

    /// Source: Linux 6.12 net/core/filter.c, `bpf_internal_load_pointer_neg_helper`.
    fn load(&self, offset: u32, size: u8) -> Option<u32> {
        const NETWORK: i64 = -0x10_0000;
        const LINK: i64 = -0x20_0000;
        let offset = i64::from(offset.cast_signed());
        let (base, offset) = match offset {
            0.. => (self.data, offset),
            NETWORK..0 => (self.network, offset - NETWORK),
            LINK..NETWORK => (self.link?, offset - LINK),
            _ => return None,
        };
        let at = base.checked_add(usize::try_from(offset).ok()?)?;
        let bytes = self.bytes.get(at..at.checked_add(size.into())?)?;
        Some(bytes.iter().fold(0, |n, &b| n << 8 | u32::from(b)))
    }

    fn ask(&self, number: u32, a: u32, x: u32) -> Option<u32> {
        let seen = self.seen();
        let at = a as usize;
        Some(match number {
            ask::PROTOCOL => self.protocol.into(),
            ask::KIND => self.kind.into(),
            ask::INTERFACE => self.device?.0,
            ask::DEVICE_TYPE => self.device?.1.into(),
            ask::MARK => self.mark,
            ask::PROCESSOR => self.processor,
            ask::RANDOM => self.random,
            ask::PAYLOAD => self.payload.map_or(0, |p| p.saturating_sub(self.data) as u32),
            ask::ATTRIBUTE => Self::attribute(seen, at.min(seen.len()), seen.len(), x) as u32,
            ask::NESTED_ATTRIBUTE => {
                let head = seen.get(at..).and_then(|b| b.first_chunk::<2>());
                let len = head.map_or(0, |h| usize::from(u16::from_ne_bytes(*h)));
                match at.checked_add(len).filter(|&end| len >= 4 && end <= seen.len()) {
                    Some(end) => Self::attribute(seen, at + 4, end, x) as u32,
                    None => 0,
                }
            }
            // The queue of the device, a hash, tags of virtual networks: the loopback has none of them.
            _ => 0,
        })
    }
}

/// A program that was checked: it ends, and touches nothing but its data and its scratch memory.
#[derive(Debug)]
pub struct Program(Box<[Instruction]>);

/// Whether the number after the offset is a question about a packet, if it is none of its bytes.
const fn is_question(number: u32) -> bool {
    number.is_multiple_of(4) && number <= ask::VLAN_PROTOCOL
}

/// Whether `i` may be part of a program.
fn is_allowed(i: Instruction, left: u64, is_for_packets: bool) -> bool {
    match i.code {
        code::LD_W_ABS if !is_for_packets => i.k.is_multiple_of(4) && (i.k / 4) < DATA_WORDS as u32,
        code::LD_W_ABS | code::LD_H_ABS | code::LD_B_ABS => {
            is_for_packets && (i.k < EXTENSIONS || is_question(i.k - EXTENSIONS))
        }
        code::LD_W_IND | code::LD_H_IND | code::LD_B_IND | code::LDX_B_MSH => is_for_packets,
        code::LD_MEM | code::LDX_MEM | code::ST | code::STX => i.k < MEMORY_WORDS as u32,
        code::LD_W_LEN
        | code::LDX_W_LEN
        | code::LD_IMM
        | code::LDX_IMM
        | code::RET_K
        | code::RET_A
        | code::TAX
        | code::TXA
        | code::NEG => true,
        code::JA => u64::from(i.k) < left,
        c if c & code::CLASS == code::JMP => {
            matches!(c & code::OPERATION, code::JEQ | code::JGT | code::JGE | code::JSET)
                && c & !(code::CLASS | code::OPERATION | code::X) == 0
                && u64::from(i.jt) < left
                && u64::from(i.jf) < left
        }
        c if c & code::CLASS == code::ALU && c & !(code::CLASS | code::OPERATION | code::X) == 0 => {
            let by_k = c & code::X == 0;
            match c & code::OPERATION {
                code::ADD | code::SUB | code::MUL | code::AND | code::OR | code::XOR => true,
                code::MOD if !is_for_packets => false,
                code::DIV | code::MOD => !by_k || i.k != 0,
                code::LSH | code::RSH => !by_k || i.k < 32,
                _ => false,
            }
        }
        _ => false,
    }
}

impl Program {
    /// Checks a program that decides about system calls.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn for_calls(list: Vec<Instruction>) -> Result<Self, Errno> {
        Self::new(list, false)
    }

    /// Checks a program that decides about packets.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn for_packets(list: Vec<Instruction>) -> Result<Self, Errno> {
        Self::new(list, true)
    }

    fn new(list: Vec<Instruction>, is_for_packets: bool) -> Result<Self, Errno> {
        if list.is_empty() || list.len() > MAX_INSTRUCTIONS {
            return Err(EINVAL);
        }
        let len = list.len() as u64;
        let mut left = (0..len).rev();
        if !list.iter().all(|i| is_allowed(*i, left.next().unwrap_or(0), is_for_packets)) {
            return Err(EINVAL);
        }
        if !matches!(list.last().map(|i| i.code), Some(code::RET_K | code::RET_A)) {
            return Err(EINVAL);
        }
        check_memory(&list)?;
        Ok(Self(list.into_boxed_slice()))
    }

    /// Whether what it says may depend on chance.
    pub fn asks_for_chance(&self) -> bool {
        let is_load = |c| matches!(c, code::LD_W_ABS | code::LD_H_ABS | code::LD_B_ABS);
        self.0.iter().any(|i| is_load(i.code) && i.k == EXTENSIONS + ask::RANDOM)
    }

    /// The instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// How long the program is in Linux's own form, which it counts (net/core/filter.c, `bpf_convert_filter`).
    pub fn cost(&self) -> usize {
        let cost = |i: &Instruction| match i.code {
            code::JA | code::RET_A => 1,
            code::RET_K => 2,
            c if c & code::CLASS == code::JMP => {
                let wide = c & code::X == 0 && i.k.cast_signed() < 0;
                1 + usize::from(wide) + usize::from(i.jt != 0 && i.jf != 0)
            }
            c if c & code::CLASS == code::ALU
                && c & code::X != 0
                && matches!(c & code::OPERATION, code::DIV | code::MOD) =>
            {
                4
            }
            _ => 1,
        };
        3 + self.0.iter().map(cost).sum::<usize>()
    }

    /// What the program returns for `data`.
    pub fn run(&self, data: &[u32; DATA_WORDS]) -> u32 {
        self.evaluate(&Words(|word| data.get(word).copied())).unwrap_or(0)
    }

    /// What the program returns for `packet`: how much of it is kept, or 0.
    pub fn run_on(&self, packet: &Packet<'_>) -> u32 {
        self.evaluate(packet).unwrap_or(0)
    }

    /// What the program returns for call `number` of architecture `arch`, if that depends on nothing else.
    pub fn constant(&self, number: u32, arch: u32) -> Option<u32> {
        self.evaluate(&Words(|word| match word {
            0 => Some(number),
            1 => Some(arch),
            _ => None,
        }))
    }

    /// Runs the program; `None` when `data` does not have what it asks for.
    fn evaluate(&self, data: &impl Data) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY_WORDS]);
        let mut at = 0usize;
        // Jumps only go forwards, so this ends; the checker made sure that it ends with a return.
        while let Some(i) = self.0.get(at) {
            at += 1;
            let slot = i.k as usize;
            let operand = if i.code & code::X != 0 { x } else { i.k };
            match i.code {
                code::LD_W_ABS | code::LD_H_ABS | code::LD_B_ABS if i.k >= EXTENSIONS => {
                    a = match i.k - EXTENSIONS {
                        ask::XOR_X => a ^ x,
                        number => data.ask(number, a, x)?,
                    };
                }
                code::LD_W_ABS => a = data.load(i.k, 4)?,
                code::LD_H_ABS => a = data.load(i.k, 2)?,
                code::LD_B_ABS => a = data.load(i.k, 1)?,
                code::LD_W_IND => a = data.load(i.k.wrapping_add(x), 4)?,
                code::LD_H_IND => a = data.load(i.k.wrapping_add(x), 2)?,
                code::LD_B_IND => a = data.load(i.k.wrapping_add(x), 1)?,
                code::LDX_B_MSH => x = (data.load(i.k, 1)? & 0xf) * 4,
                code::LD_W_LEN => a = data.len(),
                code::LDX_W_LEN => x = data.len(),
                code::LD_IMM => a = i.k,
                code::LDX_IMM => x = i.k,
                code::LD_MEM => a = memory.get(slot).copied().unwrap_or(0),
                code::LDX_MEM => x = memory.get(slot).copied().unwrap_or(0),
                code::ST | code::STX => {
                    if let Some(word) = memory.get_mut(slot) {
                        *word = if i.code == code::ST { a } else { x };
                    }
                }
                code::RET_K => return Some(i.k),
                code::RET_A => return Some(a),
                code::TAX => x = a,
                code::TXA => a = x,
                code::NEG => a = a.wrapping_neg(),
                code::JA => at += slot,
                c if c & code::CLASS == code::JMP => {
                    let holds = match c & code::OPERATION {
                        code::JEQ => a == operand,
                        code::JGT => a > operand,
                        code::JGE => a >= operand,
                        _ => a & operand != 0,
                    };
                    at += usize::from(if holds { i.jt } else { i.jf });
                }
                c => {
                    a = match c & code::OPERATION {
                        code::ADD => a.wrapping_add(operand),
                        code::SUB => a.wrapping_sub(operand),
                        code::MUL => a.wrapping_mul(operand),
                        // A division by zero ends the program with 0.
                        code::DIV | code::MOD if operand == 0 => return Some(0),
                        code::DIV => a / operand,
                        code::MOD => a % operand,
                        code::OR => a | operand,
                        code::AND => a & operand,
                        code::LSH => a.wrapping_shl(operand),
                        code::RSH => a.wrapping_shr(operand),
                        _ => a ^ operand,
                    }
                }
            }
        }
        Some(0)
    }
}

/// Refuses programs that read scratch memory which they have not written on every way there (`check_load_and_stores`).
fn check_memory(list: &[Instruction]) -> Result<(), Errno> {
    let mut known = vec![u16::MAX; list.len()];
    let mut valid = 0u16;
    for (at, i) in list.iter().enumerate() {
        valid &= known[at];
        let mut jump = |by: usize, valid: u16| {
            if let Some(mask) = known.get_mut(at + 1 + by) {
                *mask &= valid;
            }
        };
        match i.code {
            code::ST | code::STX => valid |= 1 << i.k,
            code::LD_MEM | code::LDX_MEM if valid & 1 << i.k == 0 => return Err(EINVAL),
            code::JA => {
                jump(i.k as usize, valid);
                valid = u16::MAX;
            }
            c if c & code::CLASS == code::JMP => {
                jump(usize::from(i.jt), valid);
                jump(usize::from(i.jf), valid);
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn programs_that_linux_refuses_are_refused() {
        let ret = op(0x06, 0, 0, 7);
        let bad = [
            vec![],
            vec![op(0x20, 0, 0, 0)],
            vec![op(0x20, 0, 0, 2), ret],
            vec![op(0x20, 0, 0, 64), ret],
            vec![op(0x28, 0, 0, 0), ret],
            vec![op(0x05, 0, 0, 1), ret],
            vec![op(0x15, 1, 0, 0), ret],
            vec![op(0x34, 0, 0, 0), ret],
            vec![op(0x94, 0, 0, 1), ret],
            vec![op(0x64, 0, 0, 32), ret],
            vec![op(0x60, 0, 0, 3), ret],
            vec![op(0x02, 0, 0, 16), ret],
            vec![op(0x15, 1, 0, 0), op(0x02, 0, 0, 1), op(0x60, 0, 0, 1), ret],
            vec![ret; MAX_INSTRUCTIONS + 1],
        ];
        for list in bad {
            assert_eq!(Program::for_calls(list.clone()).err(), Some(EINVAL), "{list:?}");
        }
    }

    #[test]
    fn arithmetic_memory_and_jumps_work() {
        // A = data[0] * 3; M[1] = A; X = 5; A = M[1] - X; if A > 0 return A else return data length.
        let program = Program::for_calls(vec![
            op(0x20, 0, 0, 0),
            op(0x24, 0, 0, 3),
            op(0x02, 0, 0, 1),
            op(0x01, 0, 0, 5),
            op(0x60, 0, 0, 1),
            op(0x1c, 0, 0, 0),
            op(0x25, 0, 1, 0),
            op(0x16, 0, 0, 0),
            op(0x80, 0, 0, 0),
            op(0x16, 0, 0, 0),
        ])
        .expect("a good program");
        let mut data = [0; DATA_WORDS];
        data[0] = 4;
        assert_eq!(program.run(&data), 7);
        assert_eq!(program.constant(4, 0), Some(7));
        let divides = Program::for_calls(vec![op(0x3c, 0, 0, 0), op(0x06, 0, 0, 9)]).expect("a good program");
        assert_eq!(divides.run(&data), 0);
        let looks = Program::for_calls(vec![op(0x20, 0, 0, 16), op(0x16, 0, 0, 0)]).expect("a good program");
        assert_eq!(looks.constant(1, 1), None);
    }

    #[test]
    fn programs_look_at_packets() {
        let bytes =
            [0u8; 14].iter().copied().chain([0x45, 1, 2, 3]).chain([9, 8, 7, 6, 5]).collect::<Vec<u8>>();
        let packet = Packet {
            bytes: &bytes,
            data: 18,
            network: 14,
            protocol: 0x800,
            processor: 3,
            ..Packet::default()
        };
        let run = |list: &[Instruction]| Program::for_packets(list.to_vec()).map(|p| p.run_on(&packet));
        let ret_a = op(0x16, 0, 0, 0);
        let load = |code, k| run(&[op(code, 0, 0, k), ret_a]);
        assert_eq!(load(0x30, 0), Ok(9));
        assert_eq!(load(0x28, 1), Ok(0x0807));
        assert_eq!(load(0x20, 1), Ok(0x0807_0605));
        assert_eq!(load(0x20, 2), Ok(0));
        assert_eq!(load(0x80, 0), Ok(5));
        // The network header; no link header; a question; no question.
        assert_eq!(load(0x30, (-0x10_0000i32).cast_unsigned()), Ok(0x45));
        assert_eq!(load(0x30, (-0x20_0000i32).cast_unsigned()), Ok(0));
        assert_eq!(load(0x20, EXTENSIONS), Ok(0x800));
        assert_eq!(load(0x20, EXTENSIONS + ask::PROCESSOR), Ok(3));
        assert_eq!(load(0x20, EXTENSIONS + ask::INTERFACE), Ok(0));
        assert_eq!(load(0x20, EXTENSIONS + 1), Err(EINVAL));
        assert_eq!(load(0x20, EXTENSIONS + 64), Err(EINVAL));
        assert_eq!(load(0x20, u32::MAX), Err(EINVAL));
        // X from the header's length; indirect, also beyond all.
        let msh = op(0xb1, 0, 0, (-0x10_0000i32).cast_unsigned());
        assert_eq!(run(&[msh, op(0x87, 0, 0, 0), ret_a]), Ok(20));
        assert_eq!(run(&[op(0x01, 0, 0, 2), op(0x50, 0, 0, 1), ret_a]), Ok(6));
        assert_eq!(run(&[op(0x01, 0, 0, u32::MAX), op(0x50, 0, 0, 1), ret_a]), Ok(9));
        assert_eq!(run(&[op(0x01, 0, 0, i32::MAX as u32), op(0x50, 0, 0, 0), ret_a]), Ok(0));
        assert_eq!(run(&[op(0x00, 0, 0, 7), op(0x94, 0, 0, 4), ret_a]), Ok(3));
        assert_eq!(run(&[op(0x94, 0, 0, 0), ret_a]), Err(EINVAL));
    }

    #[test]
    fn attributes_are_found() {
        // One of type 1 with a nested one of type 2.
        let bytes = [12u8, 0, 1, 0, 6, 0, 2, 0, 7, 7, 0, 0];
        let packet = Packet { bytes: &bytes, ..Packet::default() };
        assert_eq!(packet.ask(ask::ATTRIBUTE, 0, 1), Some(0));
        assert_eq!(packet.ask(ask::ATTRIBUTE, 4, 2), Some(4));
        assert_eq!(packet.ask(ask::NESTED_ATTRIBUTE, 0, 2), Some(4));
        assert_eq!(packet.ask(ask::NESTED_ATTRIBUTE, 0, 3), Some(0));
        assert_eq!(packet.ask(ask::NESTED_ATTRIBUTE, u32::MAX, 3), Some(0));
        assert_eq!(packet.ask(ask::ATTRIBUTE, u32::MAX, 3), Some(0));
    }
}
