//! Memory that the sentry keeps for guests: what they put into queues and nobody has taken yet. It counts as the
//! sandbox's memory; no guest can make the sentry grow beyond the limit by it.
//!
//! A process runs one sandbox, so there is one account.

use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::ENOBUFS;

static BYTES: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Bytes that are kept.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Sets how many bytes may be kept.
pub fn set_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

fn add(more: u64) -> Result<(), Errno> {
    let before = BYTES.fetch_add(more, Ordering::Relaxed);
    if before.saturating_add(more) > LIMIT.load(Ordering::Relaxed) {
        BYTES.fetch_sub(more, Ordering::Relaxed);
        return Err(ENOBUFS);
    }
    Ok(())
}

/// A part of what is kept, given back when dropped.
#[derive(Debug, Default)]
pub struct Kept(u64);

impl Kept {
    /// Keeps `bytes`.
    ///
    /// # Errors
    /// `ENOBUFS`: the limit is reached.
    pub fn new(bytes: usize) -> Result<Self, Errno> {
        add(bytes as u64).map(|()| Self(bytes as u64))
    }

    /// Keeps `bytes` from now on, more or less than before.
    ///
    /// # Errors
    /// `ENOBUFS`: the limit is reached, and nothing has changed.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Errno> {
        let bytes = bytes as u64;
        if bytes > self.0 {
            add(bytes - self.0)?;
        } else {
            BYTES.fetch_sub(self.0 - bytes, Ordering::Relaxed);
        }
        self.0 = bytes;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the account is the process's.
    #[test]
    fn what_is_kept_has_a_limit() {
        let mut a = Kept::new(1000).unwrap();
        assert_eq!(bytes(), 1000);
        set_limit(1500);
        assert_eq!(Kept::new(501).map(drop), Err(ENOBUFS));
        assert_eq!(a.resize(1501), Err(ENOBUFS));
        assert_eq!(a.resize(1500), Ok(()));
        assert_eq!(a.resize(10), Ok(()));
        let b = Kept::new(1490).unwrap();
        assert_eq!(Kept::new(1).map(drop), Err(ENOBUFS));
        drop((a, b));
        assert_eq!(bytes(), 0);
        set_limit(u64::MAX);
    }
}
