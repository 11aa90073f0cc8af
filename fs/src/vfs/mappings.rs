//! Who maps a file where.

use std::fmt;
use std::ops::Range;
use std::sync::Weak;

use base::lock::{Lock, rank};
use base::memmap::MappingSpace;

struct Entry {
    space: Weak<dyn MappingSpace>,
    addr: u64,
    offset: u64,
    len: u64,
    write: bool,
}

/// The mappings of one file.
#[derive(Default)]
pub struct Mappings(Lock<Vec<Entry>, { rank::FILE_MAPPINGS }>);

impl fmt::Debug for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mappings")
    }
}

impl Mappings {
    /// `Mappable::add_mapping`.
    pub fn add(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        self.0.lock().push(Entry { space: space.clone(), addr, offset, len, write });
    }

    /// `Mappable::remove_mapping`: takes the piece out of the mapping that holds it.
    pub fn remove(&self, space: &Weak<dyn MappingSpace>, addr: u64, offset: u64, len: u64, write: bool) {
        let mut entries = self.0.lock();
        let end = addr.saturating_add(len);
        let found = entries.iter().position(|e| {
            e.write == write
                && e.addr <= addr
                && end <= e.addr + e.len
                && offset.wrapping_sub(e.offset) == addr - e.addr
                && Weak::ptr_eq(&e.space, space)
        });
        let Some(i) = found else { return };
        let e = entries.swap_remove(i);
        let (before, after) = (addr - e.addr, e.addr + e.len - end);
        if before > 0 {
            entries.push(Entry {
                space: e.space.clone(),
                addr: e.addr,
                offset: e.offset,
                len: before,
                write,
            });
        }
        if after > 0 {
            entries.push(Entry { space: e.space, addr: end, offset: offset + len, len: after, write });
        }
    }

    /// Whether somebody maps the file writable and shared.
    pub fn is_written(&self) -> bool {
        self.0.lock().iter().any(|e| e.write)
    }

    /// Tells all who map bytes in `range` (page bounds) that the pages are gone. Called without locks of rank
    /// `MM` or inner.
    pub fn invalidate(&self, range: Range<u64>, private_too: bool) {
        let mut hit = Vec::new();
        for e in self.0.lock().iter() {
            let (from, to) = (e.offset.max(range.start), (e.offset + e.len).min(range.end));
            if from < to
                && let Some(space) = e.space.upgrade()
            {
                hit.push((space, e.addr + (from - e.offset), to - from));
            }
        }
        for (space, addr, len) in hit {
            space.invalidate(addr, len, private_too);
        }
    }
}
