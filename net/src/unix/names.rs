//! Names of AF_UNIX sockets (unix(7)): paths, abstract names, and those without.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOSPC, EPROTOTYPE};
use abi::socket::af;
use base::lock::{Lock, rank};
use fs::vfs::{FileType, VfsPath, check_inode, may, mode};

use super::UnixSocket;
use crate::socket::Caller;

/// Size of `struct sockaddr_un`.
const SIZE: usize = 110;

/// An address that a program gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The family alone: `bind` picks an abstract name.
    Unnamed,
    /// Without the leading zero byte.
    Abstract(Vec<u8>),
    /// Without the terminating zero byte.
    Path(Vec<u8>),
}

impl Address {
    /// Takes a `struct sockaddr_un` apart.
    ///
    /// # Errors
    /// `EINVAL`: another family, or a length that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (family, path) = bytes.split_first_chunk::<2>().ok_or(EINVAL)?;
        if bytes.len() > SIZE || u16::from_le_bytes(*family) != af::UNIX {
            return Err(EINVAL);
        }
        match path {
            [] => Ok(Self::Unnamed),
            [0, name @ ..] => Ok(Self::Abstract(name.to_vec())),
            _ => Ok(Self::Path(path.split(|&b| b == 0).next().unwrap_or(path).to_vec())),
        }
    }

    /// The `struct sockaddr_un`, cut to its length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let family = &af::UNIX.to_le_bytes()[..];
        match self {
            Self::Unnamed => family.to_vec(),
            Self::Abstract(name) => [family, &[0], name].concat(),
            Self::Path(path) => [family, path, &[0]].concat(),
        }
    }
}

/// What a name is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Device and inode of the socket in the file system.
    Inode(u64, u64),
    /// Abstract names are apart for each type of socket.
    Abstract(u32, Vec<u8>),
}

/// A name that a socket is bound to.
#[derive(Debug)]
pub struct Bound {
    /// As it was given.
    pub address: Address,
    /// Keeps the inode, whose number is the key, from being used again.
    place: Option<VfsPath>,
}

impl Bound {
    /// Device and inode of the file that stands for the name.
    pub fn file(&self) -> Option<(u64, u64)> {
        let meta = self.place.as_ref()?.inode().metadata().ok()?;
        Some((meta.dev, meta.ino))
    }
}

/// All names of a namespace.
#[derive(Debug, Default)]
pub struct Names {
    table: Lock<HashMap<Key, Weak<UnixSocket>>, { rank::LEAF }>,
    next: AtomicU32,
}

impl Names {
    fn insert(&self, key: Key, socket: &Weak<UnixSocket>) -> Result<(), Errno> {
        let mut table = self.table.lock();
        if table.contains_key(&key) {
            return Err(EADDRINUSE);
        }
        table.insert(key, socket.clone());
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Arc<UnixSocket>, Errno> {
        self.table.lock().get(key).and_then(Weak::upgrade).ok_or(ECONNREFUSED)
    }

    /// Takes a name away from its socket.
    pub(super) fn remove(&self, key: &Key) {
        self.table.lock().remove(key);
    }

    /// The bound sockets.
    pub fn all(&self) -> Vec<Arc<UnixSocket>> {
        let weak: Vec<_> = self.table.lock().values().cloned().collect();
        weak.iter().filter_map(Weak::upgrade).collect()
    }

    /// Binds `socket` to `address`; the caller has checked that it has no name.
    ///
    /// # Errors
    /// `EADDRINUSE`; those of mknod(2) for a path.
    pub(super) fn bind(
        &self,
        caller: Option<&Caller<'_>>,
        socket: &UnixSocket,
        address: Address,
    ) -> Result<(Key, Bound), Errno> {
        let kind = socket.common.kind;
        let this = &socket.this;
        match address {
            Address::Unnamed => {
                // unix_autobind: five hexadecimal digits, counted up.
                for _ in 0..=0xf_ffff {
                    let number = self.next.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
                    let name = format!("{number:05x}").into_bytes();
                    let key = Key::Abstract(kind, name.clone());
                    if self.insert(key.clone(), this).is_ok() {
                        return Ok((key, Bound { address: Address::Abstract(name), place: None }));
                    }
                }
                Err(ENOSPC)
            }
            Address::Abstract(name) => {
                let key = Key::Abstract(kind, name.clone());
                self.insert(key.clone(), this)?;
                Ok((key, Bound { address: Address::Abstract(name), place: None }))
            }
            Address::Path(path) => {
                let walk = caller.and_then(|c| c.walk.as_ref()).ok_or(EINVAL)?;
                let bits = socket.common.mode.load(Ordering::Relaxed) & 0o7777;
                let exists = |e| if e == EEXIST { EADDRINUSE } else { e };
                walk.mknod(&path, mode::IFSOCK | bits, 0).map_err(exists)?;
                if socket.name().is_some() {
                    // unix_bind_bsd looks only now, and takes the file away again.
                    walk.unlink(&path)?;
                    return Err(EINVAL);
                }
                let place = walk.resolve(&path, false)?;
                let meta = place.dentry.inode().metadata()?;
                let key = Key::Inode(meta.dev, meta.ino);
                self.insert(key.clone(), this)?;
                Ok((key, Bound { address: Address::Path(path), place: Some(place) }))
            }
        }
    }

    /// The socket of type `kind` that `address` names.
    ///
    /// # Errors
    /// `ECONNREFUSED`: nobody is bound there; `EPROTOTYPE`: one of another type; those of path resolution.
    ///
    /// Source: Linux 6.12 net/unix/af_unix.c, `unix_find_other`.
    pub(super) fn find(
        &self,
        caller: &Caller<'_>,
        address: &Address,
        kind: u32,
    ) -> Result<Arc<UnixSocket>, Errno> {
        match address {
            Address::Unnamed => Err(ECONNREFUSED),
            Address::Abstract(name) => self.get(&Key::Abstract(kind, name.clone())),
            Address::Path(path) => {
                let walk = caller.walk.as_ref().ok_or(EINVAL)?;
                let place = walk.resolve(path, true)?;
                let meta = place.dentry.inode().metadata()?;
                check_inode(place.inode().as_ref(), &meta, may::WRITE, caller.cred)?;
                if meta.file_type() != FileType::Socket {
                    return Err(ECONNREFUSED);
                }
                let socket = self.get(&Key::Inode(meta.dev, meta.ino))?;
                if socket.common.kind != kind {
                    return Err(EPROTOTYPE);
                }
                Ok(socket)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_long_as_their_names() {
        assert_eq!(Address::parse(b"\x01\x00/a\0junk"), Ok(Address::Path(b"/a".to_vec())));
        assert_eq!(Address::parse(b"\x01\x00\0ab\0"), Ok(Address::Abstract(b"ab\0".to_vec())));
        assert_eq!(Address::parse(b"\x01\x00"), Ok(Address::Unnamed));
        assert_eq!(Address::parse(b"\x02\x00/a"), Err(EINVAL));
        assert_eq!(Address::parse(b"\x01"), Err(EINVAL));
        assert_eq!(Address::parse(&[1; 111]), Err(EINVAL));
        assert_eq!(Address::Path(b"/a".to_vec()).to_bytes(), b"\x01\x00/a\0");
    }
}
