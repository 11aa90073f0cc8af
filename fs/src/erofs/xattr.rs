//! Extended attributes: behind the inode, and shared ones in a table of the image.

use abi::Errno;
use abi::errno::EUCLEAN;

use super::{ErofsInode, le16, le32};

const HEADER: usize = 12;
const ENTRY: usize = 4;

/// A name and a value.
type Xattr = (Vec<u8>, Vec<u8>);

/// The attribute at the beginning of `bytes`, and its length there; `None` for one of a kind that is not known.
fn parse(bytes: &[u8]) -> Result<(Option<Xattr>, usize), Errno> {
    let name_len = usize::from(*bytes.first().ok_or(EUCLEAN)?);
    let index = *bytes.get(1).ok_or(EUCLEAN)?;
    let value_len = usize::from(le16(bytes, 2));
    let name = bytes.get(ENTRY..ENTRY + name_len).ok_or(EUCLEAN)?;
    let value = bytes.get(ENTRY + name_len..ENTRY + name_len + value_len).ok_or(EUCLEAN)?;
    let prefix: Option<&[u8]> = match index {
        1 => Some(b"user."),
        2 => Some(b"system.posix_acl_access"),
        3 => Some(b"system.posix_acl_default"),
        4 => Some(b"trusted."),
        6 => Some(b"security."),
        _ => None,
    };
    let len = (ENTRY + name_len + value_len).next_multiple_of(ENTRY);
    Ok((prefix.map(|prefix| ([prefix, name].concat(), value.to_vec())), len))
}

impl ErofsInode {
    /// All attributes.
    ///
    /// # Errors
    /// `EUCLEAN`.
    pub(super) fn xattrs(&self) -> Result<Vec<Xattr>, Errno> {
        /// The longest that one can be.
        const LONGEST: usize = ENTRY + 255 + 65535;
        if self.xattr_len == 0 {
            return Ok(Vec::new());
        }
        let mut body = vec![0; usize::try_from(self.xattr_len).map_err(|_| EUCLEAN)?];
        self.fs.read(self.xattr_at, &mut body)?;
        let shared = usize::from(*body.get(4).ok_or(EUCLEAN)?);
        let mut list = Vec::new();
        for i in 0..shared {
            let id = body.get(HEADER + i * 4..HEADER + i * 4 + 4).ok_or(EUCLEAN)?;
            let at = self.fs.xattrs.checked_add(u64::from(le32(id, 0)) * 4).ok_or(EUCLEAN)?;
            let room = self.fs.image.len().saturating_sub(at);
            let mut bytes = vec![0; usize::try_from(room).unwrap_or(LONGEST).min(LONGEST)];
            self.fs.read(at, &mut bytes)?;
            list.extend(parse(&bytes)?.0);
        }
        let mut rest = body.get(HEADER + shared * 4..).ok_or(EUCLEAN)?;
        while rest.len() >= ENTRY && rest.iter().take(ENTRY).any(|&b| b != 0) {
            let (xattr, len) = parse(rest)?;
            list.extend(xattr);
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(list)
    }
}
