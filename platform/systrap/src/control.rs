//! The control file: command pages and thread areas, which the sentry sees all and each stub sees its own of.

use std::sync::Arc;

use base::PAGE_SIZE;
use base::lock::{Lock, rank};
use host::mapping::Mapping;
use host::memory::Memfd;
use platform::Error;

use crate::layout::{AREA_LEN, AREAS_AT, CONTROL_LEN, MAX_SPACES, MAX_THREADS};
use crate::obstacle::refused;

/// The control file, mapped.
pub(crate) struct Control {
    pub(crate) file: Memfd,
    pub(crate) mapping: Mapping,
    pages: Lock<Numbers, { rank::LEAF }>,
    areas: Lock<Numbers, { rank::LEAF }>,
}

/// A guest thread's area. It is held by who maps it (a stub that is not yet reaped) and by who reads it, and goes back to
/// the control file after the last of them.
pub(crate) struct Area {
    control: Arc<Control>,
    offset: u64,
}

impl Area {
    /// Its offset in the control file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The control file.
    pub(crate) fn memory(&self) -> &Mapping {
        &self.control.mapping
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.control.clear(self.offset, AREA_LEN);
        self.control.areas.lock().free.push((self.offset - AREAS_AT) / AREA_LEN);
    }
}

/// Numbers below a limit, given out and taken back.
struct Numbers {
    free: Vec<u64>,
    next: u64,
    limit: u64,
}

impl Numbers {
    fn new(limit: u64) -> Self {
        Self { free: Vec::new(), next: 0, limit }
    }

    fn take(&mut self) -> Option<u64> {
        if let Some(n) = self.free.pop() {
            return Some(n);
        }
        let n = self.next;
        (n < self.limit).then(|| {
            self.next += 1;
            n
        })
    }
}

impl Control {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |e: abi::Errno| refused("control file", e.raw());
        let file = Memfd::create(c"ringfence-control").map_err(failed)?;
        file.set_len(CONTROL_LEN).map_err(failed)?;
        let mapping = Mapping::reserve(CONTROL_LEN).map_err(failed)?;
        mapping.map_file(0, std::os::fd::AsFd::as_fd(&file), 0, CONTROL_LEN).map_err(failed)?;
        Ok(Self {
            file,
            mapping,
            pages: Lock::new(Numbers::new(MAX_SPACES)),
            areas: Lock::new(Numbers::new(MAX_THREADS)),
        })
    }

    /// A fresh command page: its offset. All zeros.
    pub(crate) fn take_page(&self) -> Result<u64, Error> {
        let number = self.pages.lock().take();
        let number = number.ok_or_else(|| Error::Exhausted("systrap: too many address spaces".into()))?;
        Ok(number * PAGE_SIZE)
    }

    /// Gives a command page back that no process maps any more.
    pub(crate) fn give_page(&self, offset: u64) {
        self.clear(offset, PAGE_SIZE);
        self.pages.lock().free.push(offset / PAGE_SIZE);
    }

    /// A fresh area, all zeros.
    pub(crate) fn take_area(self: &Arc<Self>) -> Result<Arc<Area>, Error> {
        let number = self.areas.lock().take();
        let number = number.ok_or_else(|| Error::Exhausted("systrap: too many guest threads".into()))?;
        Ok(Arc::new(Area { control: self.clone(), offset: AREAS_AT + number * AREA_LEN }))
    }

    fn clear(&self, offset: u64, len: u64) {
        if self.file.punch_hole(offset, len).is_err() {
            self.mapping.zero(offset, len);
        }
    }
}
