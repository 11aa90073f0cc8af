//! Classic BPF as seccomp(2) takes it: the checker and the interpreter (Linux net/core/filter.c `bpf_check_classic`,
//! kernel/seccomp.c `seccomp_check_filter`).

use abi::Errno;
use abi::errno::EINVAL;

/// `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;
/// Words of `struct seccomp_data`.
pub const DATA_WORDS: usize = 16;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are Linux's, see bpf(4)")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Codes: class, then what the class allows.
mod code {
    pub(super) const LD_W_ABS: u16 = 0x20;
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

/// A program that was checked: it ends, and touches nothing but its data and its scratch memory.
#[derive(Debug)]
pub struct Program(Box<[Instruction]>);

impl Program {
    /// Checks a program.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(list: Vec<Instruction>) -> Result<Self, Errno> {
        if list.is_empty() || list.len() > MAX_INSTRUCTIONS {
            return Err(EINVAL);
        }
        let len = list.len() as u64;
        for (at, i) in list.iter().enumerate() {
            let left = len - at as u64 - 1;
            let fits = match i.code {
                code::LD_W_ABS => i.k % 4 == 0 && (i.k / 4) < DATA_WORDS as u32,
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
                        code::DIV => !by_k || i.k != 0,
                        code::LSH | code::RSH => !by_k || i.k < 32,
                        _ => false,
                    }
                }
                _ => false,
            };
            if !fits {
                return Err(EINVAL);
            }
        }
        if !matches!(list.last().map(|i| i.code), Some(code::RET_K | code::RET_A)) {
            return Err(EINVAL);
        }
        check_memory(&list)?;
        Ok(Self(list.into_boxed_slice()))
    }

    /// How long the program is in Linux's own form, which it counts (net/core/filter.c, `bpf_convert_filter`).
    pub fn len(&self) -> usize {
        let cost = |i: &Instruction| match i.code {
            code::JA | code::RET_A => 1,
            code::RET_K => 2,
            c if c & code::CLASS == code::JMP => {
                let wide = c & code::X == 0 && i.k.cast_signed() < 0;
                1 + usize::from(wide) + usize::from(i.jt != 0 && i.jf != 0)
            }
            c if c & code::CLASS == code::ALU && c & code::X != 0 && c & code::OPERATION == code::DIV => 4,
            _ => 1,
        };
        3 + self.0.iter().map(cost).sum::<usize>()
    }

    /// Whether there are no instructions; never so.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the program returns for `data`.
    pub fn run(&self, data: &[u32; DATA_WORDS]) -> u32 {
        self.evaluate(|word| data.get(word).copied()).unwrap_or(0)
    }

    /// What the program returns for call `number` of architecture `arch`, if that depends on nothing else.
    pub fn constant(&self, number: u32, arch: u32) -> Option<u32> {
        self.evaluate(|word| match word {
            0 => Some(number),
            1 => Some(arch),
            _ => None,
        })
    }

    /// Runs the program; `None` when `load` does not know a word.
    fn evaluate(&self, load: impl Fn(usize) -> Option<u32>) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY_WORDS]);
        let mut at = 0usize;
        // Jumps only go forwards, so this ends; the checker made sure that it ends with a return.
        while let Some(i) = self.0.get(at) {
            at += 1;
            let slot = i.k as usize;
            let operand = if i.code & code::X != 0 { x } else { i.k };
            match i.code {
                code::LD_W_ABS => a = load(slot / 4)?,
                code::LD_W_LEN => a = (DATA_WORDS * 4) as u32,
                code::LDX_W_LEN => x = (DATA_WORDS * 4) as u32,
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
                        code::DIV => match a.checked_div(operand) {
                            Some(quotient) => quotient,
                            None => return Some(0),
                        },
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
            assert_eq!(Program::new(list.clone()).err(), Some(EINVAL), "{list:?}");
        }
    }

    #[test]
    fn arithmetic_memory_and_jumps_work() {
        // A = data[0] * 3; M[1] = A; X = 5; A = M[1] - X; if A > 0 return A else return data length.
        let program = Program::new(vec![
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
        let divides = Program::new(vec![op(0x3c, 0, 0, 0), op(0x06, 0, 0, 9)]).expect("a good program");
        assert_eq!(divides.run(&data), 0);
        let looks = Program::new(vec![op(0x20, 0, 0, 16), op(0x16, 0, 0, 0)]).expect("a good program");
        assert_eq!(looks.constant(1, 1), None);
    }
}
