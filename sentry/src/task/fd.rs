//! File descriptor tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::Errno;
use abi::errno::{EBADF, EMFILE, ENOMEM};
use base::kept::Kept;
use base::lock::{Lock, rank};
use fs::file::FileDescription;

/// A descriptor.
#[derive(Clone, Debug)]
pub struct Fd {
    /// The file description.
    pub file: Arc<FileDescription>,
    /// `FD_CLOEXEC`.
    pub cloexec: bool,
}

/// The descriptors of one or more tasks.
#[derive(Debug)]
pub struct FdTable {
    slots: Lock<Vec<Option<Fd>>, { rank::FD_TABLE }>,
    /// What a large table takes: `fs.nr_open` may be set to billions.
    kept: Lock<Kept, { rank::LEAF }>,
    /// No descriptor below this is free; changed with the slots locked. Without it each new descriptor would cost a look
    /// at all before it.
    used_below: AtomicUsize,
    /// Whom the record locks belong to that its tasks set.
    owner: u64,
    /// Whether there may be such locks: then each close must look.
    pub(crate) has_locks: AtomicBool,
}

impl Default for FdTable {
    fn default() -> Self {
        Self::with(Vec::new())
    }
}

impl FdTable {
    fn with(slots: Vec<Option<Fd>>) -> Self {
        Self {
            slots: Lock::new(slots),
            kept: Lock::default(),
            used_below: AtomicUsize::new(0),
            owner: fs::locks::new_owner(),
            has_locks: AtomicBool::new(false),
        }
    }

    /// An independent copy, for fork.
    ///
    /// # Errors
    /// `ENOMEM`: a large table, and no memory left for another.
    pub fn duplicate(&self) -> Result<Arc<Self>, Errno> {
        let slots = self.slots.lock();
        let end = slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let kept = Kept::new(Self::large(end)).map_err(|_| ENOMEM)?;
        let copy = Self::with(slots[..end].to_vec());
        *copy.kept.lock() = kept;
        Ok(Arc::new(copy))
    }

    /// Bytes that a table with room for `count` descriptors counts for.
    fn large(count: usize) -> usize {
        const SMALL: usize = 1024;
        if count > SMALL { count.saturating_mul(size_of::<Option<Fd>>()) } else { 0 }
    }

    /// Makes the table `len` long.
    fn grow(&self, slots: &mut Vec<Option<Fd>>, len: usize) -> Result<(), Errno> {
        if len > slots.capacity() {
            let room = len.max(slots.capacity().saturating_mul(2));
            self.kept.lock().resize(Self::large(room)).map_err(|_| ENOMEM)?;
            slots.try_reserve_exact(room - slots.len()).map_err(|_| ENOMEM)?;
        }
        slots.resize(len, None);
        Ok(())
    }

    /// The owner of the record locks that its tasks set.
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// Ends the descriptor `fd`, with the record locks on its file (fcntl(2): any descriptor's close releases them).
    pub fn finish_close(&self, fd: Fd) {
        if self.has_locks.load(Ordering::SeqCst)
            && let Ok(id) = fd.file.lock_id()
        {
            fs::locks::close(id, self.owner);
            fs::dnotify::end(&fd.file);
        }
        drop(fd);
    }

    /// The file behind `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn file(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        self.entry(fd).map(|e| e.file)
    }

    /// The descriptor `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn entry(&self, fd: i32) -> Result<Fd, Errno> {
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        self.slots.lock().get(i).cloned().flatten().ok_or(EBADF)
    }

    /// Whether no descriptor below `limit` is free.
    pub fn is_full(&self, limit: u64) -> bool {
        let slots = self.slots.lock();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        slots.len() >= limit && slots[..limit].iter().all(Option::is_some)
    }

    /// Puts `file` at the lowest free descriptor from `min` on, below `limit`.
    ///
    /// # Errors
    /// `EMFILE`; `ENOMEM`: too large a table.
    pub fn install(
        &self,
        file: Arc<FileDescription>,
        cloexec: bool,
        min: usize,
        limit: u64,
    ) -> Result<i32, Errno> {
        let mut slots = self.slots.lock();
        let used = self.used_below.load(Ordering::Relaxed);
        let start = min.max(used).min(slots.len());
        let i = slots[start..].iter().position(Option::is_none).map_or(slots.len().max(min), |p| p + start);
        if i as u64 >= limit {
            return Err(EMFILE);
        }
        if i >= slots.len() {
            self.grow(&mut slots, i + 1)?;
        }
        slots[i] = Some(Fd { file, cloexec });
        if min <= used {
            self.used_below.store(i + 1, Ordering::Relaxed);
        }
        i32::try_from(i).map_err(|_| EMFILE)
    }

    /// Puts `file` at exactly `fd`; returns what was there, to be dropped by the caller.
    ///
    /// # Errors
    /// `EBADF`: `fd` is negative or at the limit; `ENOMEM`: too large a table.
    pub fn replace(
        &self,
        fd: i32,
        file: Arc<FileDescription>,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<Fd>, Errno> {
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        if i as u64 >= limit {
            return Err(EBADF);
        }
        let mut slots = self.slots.lock();
        if i >= slots.len() {
            self.grow(&mut slots, i + 1)?;
        }
        Ok(slots[i].replace(Fd { file, cloexec }))
    }

    /// Closes `fd`; returns what was there.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<Fd, Errno> {
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        let mut slots = self.slots.lock();
        let closed = slots.get_mut(i).and_then(Option::take).ok_or(EBADF)?;
        self.used_below.fetch_min(i, Ordering::Relaxed);
        Ok(closed)
    }

    /// Sets or clears `FD_CLOEXEC`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(i).and_then(Option::as_mut).ok_or(EBADF)?;
        slot.cloexec = cloexec;
        Ok(())
    }

    /// Closes what execve closes.
    pub fn close_on_exec(&self) {
        let closed: Vec<Option<Fd>> = {
            let mut slots = self.slots.lock();
            self.used_below.store(0, Ordering::Relaxed);
            slots.iter_mut().filter(|s| s.as_ref().is_some_and(|f| f.cloexec)).map(Option::take).collect()
        };
        closed.into_iter().flatten().for_each(|fd| self.finish_close(fd));
    }

    /// Closes, or with `mark` only marks, descriptors `first..=last`.
    pub fn close_range(&self, first: usize, last: usize, mark: bool) {
        let mut closed = Vec::new();
        let mut slots = self.slots.lock();
        self.used_below.fetch_min(first, Ordering::Relaxed);
        for slot in slots.iter_mut().skip(first).take(last.saturating_sub(first).saturating_add(1)) {
            if mark {
                if let Some(f) = slot {
                    f.cloexec = true;
                }
            } else {
                closed.push(slot.take());
            }
        }
        drop(slots);
        closed.into_iter().flatten().for_each(|fd| self.finish_close(fd));
    }

    /// How many descriptors Linux would have room for (fs/file.c, `alloc_fdtable`): select(2) looks at no more.
    pub fn capacity(&self) -> usize {
        match self.slots.lock().len() {
            0..=64 => 64,
            n => ((n - 1) / 128 + 1).next_power_of_two() * 128,
        }
    }

    /// The open descriptors, in order.
    pub fn numbers(&self) -> Vec<i32> {
        let slots = self.slots.lock();
        slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.is_some())
            .filter_map(|(i, _)| i32::try_from(i).ok())
            .collect()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        if *self.has_locks.get_mut() {
            let slots = std::mem::take(self.slots.get_mut());
            slots.into_iter().flatten().for_each(|fd| self.finish_close(fd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_descriptor_is_taken() {
        let table = FdTable::default();
        let install = |min| table.install(fs::anon::eventfd::new(0, false, 0), false, min, 100);
        assert_eq!((0..10).map(|_| install(0)).collect::<Vec<_>>(), (0..10).map(Ok).collect::<Vec<_>>());
        table.remove(3).unwrap();
        table.remove(7).unwrap();
        assert_eq!(install(5), Ok(7));
        assert_eq!(install(20), Ok(20));
        assert_eq!([install(0), install(0), install(0)], [Ok(3), Ok(10), Ok(11)]);
        table.close_range(1, 2, false);
        assert_eq!([install(0), install(0), install(0)], [Ok(1), Ok(2), Ok(12)]);
        assert_eq!(install(99), Ok(99));
        assert_eq!(install(99), Err(EMFILE));
    }
}
