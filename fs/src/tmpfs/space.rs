//! How much a tmpfs may hold, and the options that say so (tmpfs(5)).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EINVAL, ENOSPC};
use base::PAGE_SIZE;

/// What a tmpfs may hold and holds.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes; `u64::MAX` for what only the sandbox's memory bounds.
    max_bytes: AtomicU64,
    bytes: AtomicU64,
    max_inodes: AtomicU64,
    inodes: AtomicU64,
    /// What the limits are without options: not shown.
    default_bytes: u64,
    default_inodes: u64,
}

fn limit(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

impl Space {
    /// Without a limit of its own.
    pub(super) fn unlimited() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    fn new(bytes: u64, inodes: u64) -> Self {
        Self {
            max_bytes: AtomicU64::new(bytes),
            bytes: AtomicU64::new(0),
            max_inodes: AtomicU64::new(inodes),
            inodes: AtomicU64::new(0),
            default_bytes: bytes,
            default_inodes: inodes,
        }
    }

    /// That of one of the sandbox's own: whatever memory is left, and as many inodes as the memory has pages.
    pub(super) fn all_of(total: u64) -> Self {
        Self::new(u64::MAX, total / PAGE_SIZE)
    }

    /// That of a mounted tmpfs: half of the memory, and as many inodes as that has pages.
    pub(super) fn half_of(total: u64) -> Self {
        let half = (total / 2) & !(PAGE_SIZE - 1);
        Self::new(half, half / PAGE_SIZE)
    }

    /// Takes at most `len` bytes, whole pages; returns how many.
    ///
    /// # Errors
    /// `ENOSPC`: not one page is left.
    pub(super) fn take(&self, len: u64) -> Result<u64, Errno> {
        let max = self.max_bytes.load(Ordering::Relaxed);
        if max == u64::MAX {
            return Ok(len);
        }
        let mut taken = 0;
        let take = |used: u64| {
            taken = max.saturating_sub(used).min(len) & !(PAGE_SIZE - 1);
            (taken > 0).then(|| used + taken)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| ENOSPC)?;
        Ok(taken)
    }

    /// Gives bytes back.
    pub(super) fn give(&self, len: u64) {
        if self.max_bytes.load(Ordering::Relaxed) != u64::MAX {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
        }
    }

    /// Whether `len` more bytes would fit.
    pub(super) fn has_room(&self, len: u64) -> bool {
        limit(self.max_bytes.load(Ordering::Relaxed))
            .is_none_or(|max| max.saturating_sub(self.bytes.load(Ordering::Relaxed)) >= len)
    }

    pub(super) fn add_inode(&self) {
        self.inodes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_inode(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// # Errors
    /// `ENOSPC`: there are more inodes than may be.
    pub(super) fn check_inodes(&self) -> Result<(), Errno> {
        let too_many = self.inodes.load(Ordering::Relaxed) > self.max_inodes.load(Ordering::Relaxed);
        if too_many { Err(ENOSPC) } else { Ok(()) }
    }

    /// Limit and use of bytes, if there is a limit.
    pub(super) fn bytes(&self) -> Option<(u64, u64)> {
        limit(self.max_bytes.load(Ordering::Relaxed)).map(|max| (max, self.bytes.load(Ordering::Relaxed)))
    }

    /// Limit and use of inodes, if there is a limit.
    pub(super) fn inodes(&self) -> Option<(u64, u64)> {
        limit(self.max_inodes.load(Ordering::Relaxed)).map(|max| (max, self.inodes.load(Ordering::Relaxed)))
    }

    /// Takes over what the options say of limits; a file system without limits gets none later.
    ///
    /// # Errors
    /// `EINVAL`: less than is used.
    pub(super) fn apply(&self, options: &Options) -> Result<(), Errno> {
        let is_limited = self.bytes().is_some();
        let is_too_small = |bytes| !is_limited || bytes < self.bytes.load(Ordering::Relaxed);
        if options.bytes.is_some_and(is_too_small) {
            return Err(EINVAL);
        }
        if options.inodes.is_some_and(|max| max < self.inodes.load(Ordering::Relaxed)) {
            return Err(EINVAL);
        }
        if let Some(bytes) = options.bytes {
            self.max_bytes.store(bytes, Ordering::Relaxed);
        }
        if let Some(inodes) = options.inodes {
            self.max_inodes.store(inodes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As /proc/mounts shows it (Linux 6.12 mm/shmem.c, `shmem_show_options`).
    pub(super) fn show(&self) -> String {
        let mut text = String::new();
        if let Some((max, _)) = self.bytes()
            && max != self.default_bytes
        {
            let _ = write!(text, ",size={}k", max >> 10);
        }
        if let Some((max, _)) = self.inodes()
            && max != self.default_inodes
        {
            let _ = write!(text, ",nr_inodes={max}");
        }
        text
    }
}

/// The options of a mount.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) bytes: Option<u64>,
    pub(super) inodes: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) huge: Option<String>,
}

/// A number with a suffix of `memparse`; `%` means of `whole`.
fn size(text: &str, whole: u64) -> Result<u64, Errno> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.parse().map_err(|_| EINVAL)?;
        return (whole / 100).checked_mul(percent).ok_or(EINVAL);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(EINVAL),
    };
    let number: u64 = digits.parse().map_err(|_| EINVAL)?;
    number.checked_mul(1 << shift).ok_or(EINVAL)
}

/// No limit, as 0 says in Linux: what the sandbox's memory bounds stays bounded by that.
fn or_all(value: u64) -> u64 {
    if value == 0 { !(PAGE_SIZE - 1) } else { value }
}

impl Options {
    /// Reads options separated by commas; `total` is the sandbox's memory in bytes.
    ///
    /// # Errors
    /// `EINVAL`: an option or value is not known.
    pub(super) fn parse(text: &[u8], total: u64) -> Result<Self, Errno> {
        let text = std::str::from_utf8(text).map_err(|_| EINVAL)?;
        let mut options = Self::default();
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
            let value = |()| value.ok_or(EINVAL);
            match key {
                "size" => {
                    let bytes = size(value(())?, total)?;
                    let pages = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(EINVAL)?;
                    options.bytes = Some(or_all(pages));
                }
                "nr_blocks" => {
                    let bytes = size(value(())?, 0)?.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
                    options.bytes = Some(or_all(bytes));
                }
                "nr_inodes" => options.inodes = Some(or_all(size(value(())?, 0)?)),
                "mode" => {
                    options.mode = Some(u32::from_str_radix(value(())?, 8).map_err(|_| EINVAL)? & 0o7777);
                }
                "uid" => options.uid = Some(value(())?.parse().map_err(|_| EINVAL)?),
                "gid" => options.gid = Some(value(())?.parse().map_err(|_| EINVAL)?),
                // Memory comes in small pages all the same.
                "huge" => match value(())? {
                    kind @ ("never" | "always" | "within_size" | "advise") => {
                        options.huge = Some(kind.to_owned());
                    }
                    _ => return Err(EINVAL),
                },
                "mpol" => drop(value(())?),
                "inode32" | "inode64" | "noswap" => {}
                _ => return Err(EINVAL),
            }
        }
        Ok(options)
    }
}
