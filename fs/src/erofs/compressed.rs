//! Compressed files: LZ4, in clusters of one block or more.
//!
//! A file is cut into pieces that are compressed each for itself. For each *logical cluster*, as long as a block or some,
//! an entry says whether a piece begins in it (a *head*), at which byte of it and where the compressed bytes are, or how
//! far before it the head is. Only the short form of entries is known, which all images have but those for Linux before 5.3.
//!
//! Source: Linux 6.12 fs/erofs/zmap.c, erofs_fs.h.

use std::sync::Arc;

use abi::Errno;
use abi::errno::{EOPNOTSUPP, EUCLEAN};

use super::{ErofsInode, le16, le32};

/// The most bytes that one piece may give (`Z_EROFS_PCLUSTER_MAX_DSIZE`), and may be of.
const PIECE_MAX: u64 = 12 << 20;
const PACKED_MAX: u64 = 1 << 20;
/// The entry says how many blocks the piece takes (`Z_EROFS_LI_D0_CBLKCNT`).
const BLOCK_COUNT: u32 = 1 << 11;

/// Bits of `h_advise`.
const COMPACT_2B: u16 = 1;
const BIG: u16 = 2;
const INTERLACED: u16 = 0x10;
const KNOWN_ADVICE: u16 = COMPACT_2B | BIG | 4 | INTERLACED;

/// What is said behind the inode of how it is compressed.
struct Form {
    advise: u16,
    /// Bits of the length of a logical cluster.
    bits: u32,
    /// Where the entries begin.
    entries: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Head,
    NoHead,
}

impl Kind {
    fn of(bits: u32) -> Result<Self, Errno> {
        match bits & 3 {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Head),
            2 => Ok(Self::NoHead),
            // A second algorithm.
            _ => Err(EOPNOTSUPP),
        }
    }
}

/// What the entry of a logical cluster says.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    /// The byte at which the piece begins, of a head.
    begins: u64,
    /// The block of its compressed bytes, of a head.
    block: u32,
    /// How many clusters before it the head is, of what is none.
    back: u64,
    /// How many blocks the piece before takes, if it says so.
    blocks: Option<u32>,
}

/// One decompressed piece of a file.
pub(super) struct Piece {
    nid: u64,
    start: u64,
    bytes: Arc<[u8]>,
}

impl ErofsInode {
    fn form(&self) -> Result<Form, Errno> {
        const HEADER: u64 = 8;
        let at = self.xattr_at.checked_add(self.xattr_len).and_then(|n| n.checked_next_multiple_of(8));
        let at = at.ok_or(EUCLEAN)?;
        let mut raw = [0; HEADER as usize];
        self.fs.read(at, &mut raw)?;
        let advise = le16(&raw, 4);
        let [.., algorithm, cluster] = raw;
        if advise & !KNOWN_ADVICE != 0 || algorithm != 0 || cluster & 0x80 != 0 {
            return Err(EOPNOTSUPP);
        }
        let bits = self.fs.block_bits + u32::from(cluster & 7);
        if bits > 14 {
            return Err(EOPNOTSUPP);
        }
        Ok(Form { advise, bits, entries: at + HEADER })
    }

    fn entry(&self, form: &Form, cluster: u64) -> Result<Entry, Errno> {
        if cluster << form.bits >= self.size {
            return Err(EUCLEAN);
        }
        self.compact_entry(form, cluster)
    }

    /// Entries lie in packs: some bits for each, and then the block of the first head in the pack.
    fn compact_entry(&self, form: &Form, cluster: u64) -> Result<Entry, Errno> {
        let total = self.size.div_ceil(1 << form.bits);
        let first = ((32 - form.entries % 32) / 4) & 7;
        let small = if form.advise & COMPACT_2B != 0 && first < total { (total - first) & !15 } else { 0 };
        let (size, at) = if cluster < first {
            (4, form.entries + cluster * 4)
        } else if cluster - first < small {
            (2, form.entries + first * 4 + (cluster - first) * 2)
        } else {
            (4, form.entries + first * 4 + small * 2 + (cluster - first - small) * 4)
        };
        let in_pack: u64 = if size == 4 { 2 } else { 16 };
        if size == 2 && form.bits > 12 {
            return Err(EOPNOTSUPP);
        }
        let length = in_pack * size;
        let mut pack = [0; 32];
        let pack = pack.get_mut(..length as usize).ok_or(EUCLEAN)?;
        // The first pack of the short form begins at a multiple of its length, as all do.
        self.fs.read(at - at % length, pack)?;
        let index = (at % length / size) as usize;
        let low_bits = form.bits.max(12);
        let each = ((length - 4) * 8 / in_pack) as usize;
        let decode = |i: usize| -> Result<(Kind, u32), Errno> {
            let bit = each * i;
            let word = le32(pack, bit / 8) >> (bit % 8);
            Ok((Kind::of(word >> low_bits)?, word & ((1 << low_bits) - 1)))
        };
        let (kind, low) = decode(index)?;
        let is_big = form.advise & BIG != 0;
        if kind == Kind::NoHead {
            let none = Entry { kind, begins: 0, block: 0, back: 0, blocks: None };
            if low & BLOCK_COUNT != 0 {
                return Ok(Entry { back: 1, blocks: Some(low & !BLOCK_COUNT), ..none });
            }
            if index + 1 != in_pack as usize {
                return Ok(Entry { back: low.into(), ..none });
            }
            // The last of a pack says how far the next head is; the one before it tells about the last one.
            let (before, low) = decode(index - 1)?;
            let back = match before {
                Kind::NoHead if low & BLOCK_COUNT != 0 => 1,
                Kind::NoHead => low,
                _ => 0,
            };
            return Ok(Entry { back: u64::from(back) + 1, ..none });
        }
        let mut blocks = u32::from(!is_big);
        let mut i = index;
        while i > 0 {
            i -= 1;
            let (kind, low) = decode(i)?;
            let skip = |n: u32| usize::try_from(n).map_err(|_| EUCLEAN);
            match kind {
                Kind::NoHead if is_big && low & BLOCK_COUNT != 0 => {
                    blocks += low & !BLOCK_COUNT;
                    i = i.saturating_sub(1);
                }
                Kind::NoHead if is_big => {
                    i = i.saturating_sub(skip(low.checked_sub(2).ok_or(EUCLEAN)?)?);
                }
                Kind::NoHead => match i.checked_sub(skip(low)?) {
                    Some(head) => {
                        i = head;
                        blocks += 1;
                    }
                    None => break,
                },
                _ => blocks += 1,
            }
        }
        let base = le32(pack, length as usize - 4);
        let block = base.checked_add(blocks).ok_or(EUCLEAN)?;
        Ok(Entry { kind, begins: low.into(), block, back: 0, blocks: None })
    }

    /// The piece of the file that holds byte `offset`: where it begins, and its bytes.
    pub(super) fn piece_at(&self, offset: u64) -> Result<(u64, Arc<[u8]>), Errno> {
        if let Some(piece) = self.fs.last_piece.lock().as_ref()
            && piece.nid == self.nid
            && (piece.start..piece.start + piece.bytes.len() as u64).contains(&offset)
        {
            return Ok((piece.start, piece.bytes.clone()));
        }
        let form = self.form()?;
        // Back to the head.
        let mut cluster = offset >> form.bits;
        let mut entry = self.entry(&form, cluster)?;
        if entry.kind != Kind::NoHead && (cluster << form.bits) + entry.begins > offset {
            cluster = cluster.checked_sub(1).ok_or(EUCLEAN)?;
            entry = self.entry(&form, cluster)?;
        }
        while entry.kind == Kind::NoHead {
            if entry.back == 0 {
                return Err(EUCLEAN);
            }
            cluster = cluster.checked_sub(entry.back).ok_or(EUCLEAN)?;
            if offset - (cluster << form.bits) > PIECE_MAX + (1 << form.bits) {
                return Err(EUCLEAN);
            }
            entry = self.entry(&form, cluster)?;
        }
        let start = (cluster << form.bits) + entry.begins;
        if start > offset {
            return Err(EUCLEAN);
        }
        // On to the next one.
        let mut blocks = None;
        let mut next = cluster + 1;
        let end = loop {
            if next << form.bits >= self.size {
                break self.size;
            }
            if (next << form.bits).saturating_sub(start) > PIECE_MAX {
                return Err(EUCLEAN);
            }
            let after = self.entry(&form, next)?;
            if after.kind != Kind::NoHead {
                break ((next << form.bits) + after.begins).min(self.size);
            }
            if next == cluster + 1 {
                blocks = after.blocks;
            }
            next += 1;
        };
        if end <= offset || end - start > PIECE_MAX {
            return Err(EUCLEAN);
        }
        let is_big = form.advise & BIG != 0 && entry.kind == Kind::Head;
        let blocks = if is_big { blocks.unwrap_or(1) } else { 1 };
        let packed = u64::from(blocks) << self.fs.block_bits;
        if packed == 0 || packed > PACKED_MAX {
            return Err(EUCLEAN);
        }
        let mut input = vec![0; packed as usize];
        self.fs.read(self.fs.block_at(entry.block), &mut input)?;
        let len = (end - start) as usize;
        let bytes: Arc<[u8]> = match entry.kind {
            Kind::Plain => plain(&input, start, len, form.advise & INTERLACED != 0)?.into(),
            _ => unpack(&input, len)?.into(),
        };
        *self.fs.last_piece.lock() = Some(Piece { nid: self.nid, start, bytes: bytes.clone() });
        Ok((start, bytes))
    }
}

/// A piece that compression would not have made shorter; `is_interlaced` says that it lies in its block as in the file.
fn plain(input: &[u8], start: u64, len: usize, is_interlaced: bool) -> Result<Vec<u8>, Errno> {
    if len > input.len() {
        return Err(EUCLEAN);
    }
    let mut bytes = input.to_vec();
    if is_interlaced {
        bytes.rotate_left((start % input.len() as u64) as usize);
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// A block of LZ4, which ends with its last block: there are zeros before it.
fn unpack(input: &[u8], len: usize) -> Result<Vec<u8>, Errno> {
    let begins = input.iter().position(|&b| b != 0).ok_or(EUCLEAN)?;
    let packed = input.get(begins..).ok_or(EUCLEAN)?;
    let mut bytes = vec![0; len];
    let n = lz4_flex::block::decompress_into(packed, &mut bytes).map_err(|_| EUCLEAN)?;
    if n == len { Ok(bytes) } else { Err(EUCLEAN) }
}
