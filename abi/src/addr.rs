//! Addresses in a guest's memory.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An address that a guest gave: a claim, not a proof. It has only checked arithmetic; the memory manager alone turns
/// it into data.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// Address 0.
    pub const NULL: Self = Self(0);

    /// The number.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether this is address 0.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `n` bytes further, or `None` when that overflows.
    pub const fn checked_add(self, n: u64) -> Option<Self> {
        match self.0.checked_add(n) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    /// The address `n` bytes further; on overflow the last address, which no guest can map.
    pub const fn saturating_add(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The address `n` bytes before, or `None` when that is below 0.
    pub const fn checked_sub(self, n: u64) -> Option<Self> {
        match self.0.checked_sub(n) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `align`, a power of two.
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }
}

impl From<u64> for UserAddr {
    fn from(raw: u64) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
