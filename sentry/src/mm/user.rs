//! Copies between the sentry and guest memory. A guest's address is translated through the table of present pages; what
//! is missing is faulted in as the guest's own access would be. The lock is held for reading while bytes move, so no
//! page can go away under the copy.

use abi::errno::{EFAULT, ENAMETOOLONG};
use abi::{Errno, UserAddr};
use base::memmap::{Access, MemRange};
use base::{PAGE_SIZE, page_down};
use std::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::pma;
use super::vma::VmFlags;
use super::{Fault, MemoryManager};

/// Bytes that are copied under one hold of the lock.
const HOLD: u64 = 4 << 20;
/// Bytes of a string looked at at once.
const STRING_PIECE: usize = 256;

impl MemoryManager {
    /// Whether `addr..addr + len` lies among the addresses of users; whether anything is mapped there is another matter.
    ///
    /// # Errors
    /// `EFAULT`: it does not.
    pub fn check_range(&self, addr: UserAddr, len: u64) -> Result<(), Errno> {
        match addr.raw().checked_add(len) {
            Some(end) if end <= abi::mman::TASK_SIZE => Ok(()),
            _ => Err(EFAULT),
        }
    }

    /// Calls `f` with memory-file offset, length and position of each contiguous piece of `addr..addr + len`, in order,
    /// and returns the bytes covered: fewer than `len` where an access fails.
    ///
    /// # Errors
    /// `EFAULT`: the range is not a user's, or not even the first byte can be accessed.
    pub(super) fn walk(
        &self,
        addr: UserAddr,
        len: usize,
        access: Access,
        mut f: impl FnMut(u64, usize, usize),
    ) -> Result<usize, Errno> {
        self.check_range(addr, len as u64)?;
        let end = addr.raw() + len as u64;
        let mut at = addr.raw();
        while at < end {
            // Faults of other threads must not wait for a copy of gigabytes.
            let stop = end.min(at + HOLD);
            {
                let st = self.state.read();
                while at < stop {
                    let Some((start, p)) = st.pmas.find(at).filter(|(_, p)| p.access.contains(access)) else {
                        break;
                    };
                    let piece = p.end.min(stop) - at;
                    f(p.off + (at - start), piece as usize, (at - addr.raw()) as usize);
                    at += piece;
                }
            }
            if at < stop && !self.make_accessible(at, access) {
                break;
            }
        }
        match (at - addr.raw()) as usize {
            0 if len > 0 => Err(EFAULT),
            done => Ok(done),
        }
    }

    /// Faults the page of `addr` in; says whether that worked.
    fn make_accessible(&self, addr: u64, access: Access) -> bool {
        let mut result = self.resolve(&mut self.state.write(), addr, access);
        if matches!(result, Err(Fault::OutOfMemory)) && fs::hostfs::reclaim() > 0 {
            result = self.resolve(&mut self.state.write(), addr, access);
        }
        match result {
            Ok(()) => true,
            Err(Fault::OutOfMemory) => {
                self.out_of_memory.store(true, Ordering::Relaxed);
                false
            }
            Err(Fault::Platform(e)) => {
                log::error!("mm: {e}");
                false
            }
            Err(Fault::NotMapped | Fault::Denied | Fault::Bus) => false,
        }
    }

    /// Makes all pages of `range` present and writable, as pinning them would.
    ///
    /// # Errors
    /// `EFAULT`: some cannot be.
    pub fn make_writable(&self, range: std::ops::Range<u64>) -> Result<(), Errno> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| EFAULT)?;
        let done = self.walk(UserAddr(range.start), len, Access::WRITE, |_, _, _| {})?;
        if done == len { Ok(()) } else { Err(EFAULT) }
    }

    /// Copies from guest memory; returns the bytes copied, fewer than asked where memory ends.
    ///
    /// # Errors
    /// `EFAULT`: not even the first byte can be read.
    pub fn copy_in(&self, addr: UserAddr, buf: &mut [u8]) -> Result<usize, Errno> {
        let done = self.walk(addr, buf.len(), Access::READ, |off, n, done| {
            if let Some(to) = buf.get_mut(done..done + n) {
                self.memory.read(off, to);
            }
        })?;
        self.show_original(addr, &mut buf[..done]);
        Ok(done)
    }

    /// Copies to guest memory; returns the bytes copied, fewer than asked where memory ends.
    ///
    /// # Errors
    /// `EFAULT`: not even the first byte can be written.
    pub fn copy_out(&self, addr: UserAddr, bytes: &[u8]) -> Result<usize, Errno> {
        self.walk(addr, bytes.len(), Access::WRITE, |off, n, done| {
            if let Some(from) = bytes.get(done..done + n) {
                self.memory.write(off, from);
            }
        })
    }

    /// Stores zeros in guest memory; returns how many, fewer than asked where memory ends.
    ///
    /// # Errors
    /// `EFAULT`: not even the first byte can be written.
    pub fn zero_out(&self, addr: UserAddr, len: usize) -> Result<usize, Errno> {
        self.walk(addr, len, Access::WRITE, |off, n, _| {
            self.memory.zero(MemRange { offset: off, len: n as u64 });
        })
    }

    /// Fills `buf` from guest memory.
    ///
    /// # Errors
    /// `EFAULT`: not all of it can be read.
    pub fn read_exact(&self, addr: UserAddr, buf: &mut [u8]) -> Result<(), Errno> {
        if self.copy_in(addr, buf)? == buf.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// Stores all of `bytes` in guest memory.
    ///
    /// # Errors
    /// `EFAULT`: not all of it can be written; a part may have been.
    pub fn write_all(&self, addr: UserAddr, bytes: &[u8]) -> Result<(), Errno> {
        if self.copy_out(addr, bytes)? == bytes.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// `EFAULT`: not all of it can be read.
    pub fn read_value<T: FromBytes + IntoBytes>(&self, addr: UserAddr) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_exact(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Stores a value.
    ///
    /// # Errors
    /// `EFAULT`: not all of it can be written.
    pub fn write_value<T: IntoBytes + Immutable>(&self, addr: UserAddr, value: &T) -> Result<(), Errno> {
        self.write_all(addr, value.as_bytes())
    }

    /// Reads `count` values that lie one behind the other. The caller bounds `count`.
    ///
    /// # Errors
    /// `EFAULT`: not all of them can be read.
    pub fn read_array<T: FromBytes + IntoBytes>(
        &self,
        addr: UserAddr,
        count: usize,
    ) -> Result<Vec<T>, Errno> {
        let bytes = (count as u64).checked_mul(size_of::<T>() as u64).ok_or(EFAULT)?;
        self.check_range(addr, bytes)?;
        let mut values: Vec<T> = std::iter::repeat_with(T::new_zeroed).take(count).collect();
        self.read_exact(addr, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Reads a string of at most `max` bytes with its final zero, which is not returned.
    ///
    /// # Errors
    /// `EFAULT`: memory ends before the string. `ENAMETOOLONG`: there is no zero in `max` bytes.
    pub fn read_cstr(&self, addr: UserAddr, max: usize) -> Result<Vec<u8>, Errno> {
        let mut string = Vec::new();
        let mut at = addr;
        let mut buf = [0; STRING_PIECE];
        while string.len() < max {
            // Up to the end of the page: what lies behind may not be there and need not be.
            let page_left = (PAGE_SIZE - at.raw() % PAGE_SIZE) as usize;
            let piece = (max - string.len()).min(page_left).min(STRING_PIECE);
            self.read_exact(at, &mut buf[..piece])?;
            if let Some(n) = buf[..piece].iter().position(|&b| b == 0) {
                string.extend_from_slice(&buf[..n]);
                return Ok(string);
            }
            string.extend_from_slice(&buf[..piece]);
            at = at.checked_add(piece as u64).ok_or(EFAULT)?;
        }
        Err(ENAMETOOLONG)
    }

    /// Reads memory whatever its protection: ptrace(2), /proc/PID/mem. Returns the bytes copied.
    ///
    /// # Errors
    /// `EFAULT`: nothing is mapped at the first byte.
    pub fn peek(&self, addr: UserAddr, buf: &mut [u8]) -> Result<usize, Errno> {
        let done = self.forced(addr, buf.len(), Access::READ, |off, n, done| {
            if let Some(to) = buf.get_mut(done..done + n) {
                self.memory.read(off, to);
            }
        })?;
        self.show_original(addr, &mut buf[..done]);
        Ok(done)
    }

    /// Writes memory whatever its protection, as ptrace(2) and /proc/PID/mem do: private pages get a copy, shared ones
    /// must be writable. Returns the bytes copied.
    ///
    /// # Errors
    /// `EFAULT`: the first byte is not mapped, or must not be written.
    pub fn poke(&self, addr: UserAddr, bytes: &[u8]) -> Result<usize, Errno> {
        self.forced(addr, bytes.len(), Access::WRITE, |off, n, done| {
            if let Some(from) = bytes.get(done..done + n) {
                self.memory.write(off, from);
            }
        })
    }

    /// [`MemoryManager::walk`] with `FOLL_FORCE`.
    fn forced(
        &self,
        addr: UserAddr,
        len: usize,
        access: Access,
        mut f: impl FnMut(u64, usize, usize),
    ) -> Result<usize, Errno> {
        self.check_range(addr, len as u64)?;
        let end = addr.raw() + len as u64;
        let mut at = addr.raw();
        let mut st = self.state.write();
        if access.contains(Access::WRITE) {
            self.restore_sites(&mut st, at..end);
        }
        while at < end {
            let write = access.contains(Access::WRITE);
            let fits = |p: &pma::Pma| !write || p.writable;
            let mut found = st.pmas.find(at).filter(|(_, p)| fits(p));
            let Some(flags) = st.vmas.find(at).map(|v| v.flags) else { break };
            // Linux 6.12 mm/gup.c check_vma_flags: a shared mapping is not written by force, nor is one that could never
            // become writable.
            let refused = write
                && !flags.contains(VmFlags::WRITE)
                && (flags.contains(VmFlags::MAYSHARE) || !flags.contains(VmFlags::MAYWRITE));
            if refused || !flags.contains(VmFlags::MAYREAD) {
                break;
            }
            if found.is_none() {
                let page = page_down(at);
                if self.force_page(&mut st, page, access).is_err() {
                    break;
                }
                found = st.pmas.find(at).filter(|(_, p)| fits(p));
            }
            let Some((start, p)) = found else { break };
            let piece = (p.end.min(end) - at).min(PAGE_SIZE - at % PAGE_SIZE);
            f(p.off + (at - start), piece as usize, (at - addr.raw()) as usize);
            at += piece;
        }
        match (at - addr.raw()) as usize {
            0 if len > 0 => Err(EFAULT),
            done => Ok(done),
        }
    }
}
