//! How a call site can be patched: which bytes may become a jump.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// Bytes of the jump into the window.
const JUMP: usize = 7;
/// `mov imm32, %eax`.
const MOV_EAX: u8 = 0xb8;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// glibc's `syscall()` up to and with its `syscall`: the last instruction before is `mov 8(%rsp),%r9`.
const GLIBC: [u8; 25] = [
    0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xca, 0x4d, 0x89, 0xc2, 0x4d, 0x89,
    0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05,
];

/// How a site is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The five bytes before the `syscall` and itself become the jump; `number`: they set it.
    Seven {
        /// The system call's number, if the five bytes set it.
        number: Option<u32>,
    },
    /// The seven bytes before the `syscall`, `mov $nr,%rax`, become the jump.
    Nine {
        /// The system call's number.
        number: u32,
    },
    /// The `syscall` becomes a short jump to the padding at this offset in the page.
    Two {
        /// Where.
        padding: usize,
    },
}

impl Encoding {
    /// The offset of the first changed byte of a site whose `syscall` is at `at`.
    pub(super) fn start(self, at: usize) -> usize {
        match self {
            Self::Seven { .. } => at - 5,
            Self::Nine { .. } => at - 7,
            Self::Two { .. } => at,
        }
    }

    /// The instruction that the stub executes instead, and the number if it is known.
    pub(super) fn displaced(self, page: &[u8], at: usize) -> ([u8; 5], Option<u32>) {
        // nopl 0(%rax,%rax,1)
        let nop = [0x0f, 0x1f, 0x44, 0, 0];
        match self {
            Self::Seven { number } => {
                (page.get(at - 5..at).and_then(|b| b.try_into().ok()).unwrap_or(nop), number)
            }
            Self::Nine { number } => {
                let [a, b, c, d] = number.to_le_bytes();
                ([MOV_EAX, a, b, c, d], Some(number))
            }
            Self::Two { .. } => (nop, None),
        }
    }
}

/// How the `syscall` at offset `at` of `page`, which trapped with number `nr`, can be patched. `is_taken` says whether
/// bytes belong to another patch.
pub(super) fn find_encoding(
    page: &[u8],
    at: usize,
    nr: u64,
    is_taken: impl Fn(Range<usize>) -> bool,
) -> Option<Encoding> {
    if page.get(at..at + 2)? != SYSCALL || is_taken(at..at + 2) {
        return None;
    }
    if at >= 5 && !is_taken(at - 5..at) {
        if let Some(number) = number_before(page, at, nr) {
            return Some(Encoding::Seven { number: Some(number) });
        }
        if page[..at + 2].ends_with(&GLIBC) {
            return Some(Encoding::Seven { number: None });
        }
    }
    if at >= 7
        && !is_taken(at - 7..at)
        && let [0x48, 0xc7, 0xc0, immediate @ ..] = &page[at - 7..at]
        && let Ok(immediate) = immediate.try_into()
        && let number = u32::from_le_bytes(immediate)
        && u64::from(number) == nr
        && number <= i32::MAX as u32
    {
        return Some(Encoding::Nine { number });
    }
    find_padding(page, at, is_taken).map(|padding| Encoding::Two { padding })
}

/// The number that `mov $nr,%eax` before the `syscall` sets.
fn number_before(page: &[u8], at: usize, nr: u64) -> Option<u32> {
    let (opcode, immediate) = page.get(at - 5..at)?.split_first()?;
    let number = u32::from_le_bytes(immediate.try_into().ok()?);
    // A prefix would make it another instruction; if the byte belongs to the one before, little is lost.
    let prefix =
        at.checked_sub(6).and_then(|i| page.get(i)).is_some_and(|b| matches!(b, 0x40..=0x4f | 0x66 | 0xc7));
    (*opcode == MOV_EAX && u64::from(number) == nr && !prefix).then_some(number)
}

/// The offset of seven bytes of padding within reach of a short jump at `at`: the first behind an instruction that ends a
/// function, as a decoder finds them that starts behind the `syscall`.
fn find_padding(page: &[u8], at: usize, is_taken: impl Fn(Range<usize>) -> bool) -> Option<usize> {
    let reach = (at + 2 + 127 + JUMP).min(page.len());
    let code = page.get(at + 2..reach)?;
    let mut decoder = Decoder::with_ip(64, code, (at + 2) as u64, DecoderOptions::NONE);
    // Behind this offset lies nothing that can be reached by falling through.
    let mut ended: Option<usize> = None;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        let end = instruction.next_ip() as usize;
        let is_padding = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
        if !is_padding {
            let ends = matches!(instruction.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp);
            ended = ends.then_some(end);
            continue;
        }
        if let Some(start) = ended
            && end - start >= JUMP
            && start <= at + 2 + 127
            && !is_taken(start..start + JUMP)
        {
            return Some(start);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: &[u8]) -> Vec<u8> {
        let mut page = vec![0xcc; 64];
        page.extend(bytes);
        page.resize(4096, 0x90);
        page
    }

    #[test]
    fn a_number_in_eax_makes_seven_bytes() {
        let p = page(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        assert_eq!(find_encoding(&p, 69, 39, |_| false), Some(Encoding::Seven { number: Some(39) }));
        // Another number: the bytes are not what set it.
        assert_eq!(find_encoding(&p, 69, 40, |_| false), Some(Encoding::Two { padding: 72 }));
        // mov $39,%r8d
        let p = page(&[0x41, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        assert_eq!(find_encoding(&p, 70, 39, |_| false), Some(Encoding::Two { padding: 73 }));
    }

    #[test]
    fn a_number_in_rax_leaves_the_syscall() {
        let p = page(&[0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        let encoding = find_encoding(&p, 71, 39, |_| false);
        assert_eq!(encoding, Some(Encoding::Nine { number: 39 }));
        assert_eq!(encoding.map(|e| e.displaced(&p, 71)), Some(([0xb8, 39, 0, 0, 0], Some(39))));
        assert_eq!(find_encoding(&p, 71, 40, |_| false), Some(Encoding::Two { padding: 74 }));
    }

    #[test]
    fn padding_counts_behind_the_end_of_a_function_only() {
        // syscall; nop of nine bytes (an aligned loop); ret; int3…
        let nop9 = [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let mut code = vec![0x31, 0xc0, 0x0f, 0x05];
        code.extend(nop9);
        code.push(0xc3);
        code.extend([0xcc; 10]);
        let p = page(&code);
        assert_eq!(find_encoding(&p, 66, 0, |_| false), Some(Encoding::Two { padding: 64 + 14 }));
        assert_eq!(find_encoding(&p, 66, 0, |r| r.contains(&80)), None);
        // Six bytes do not suffice.
        let mut code = vec![0x0f, 0x05, 0xc3];
        code.extend([0xcc; 6]);
        code.extend([0x31; 200]);
        assert_eq!(find_encoding(&page(&code), 64, 0, |_| false), None);
    }

    #[test]
    fn a_site_at_the_border_of_a_page_does_not_panic() {
        for at in [0, 1, 4, 4090, 4094, 4095] {
            let mut p = vec![0; 4096];
            for (i, b) in [0x0f, 0x05].into_iter().enumerate() {
                if let Some(to) = p.get_mut(at + i) {
                    *to = b;
                }
            }
            let _ = find_encoding(&p, at, 0, |_| false);
        }
    }
}
