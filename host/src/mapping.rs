//! Memory mappings whose bytes others change at any time: guest memory and guest page tables.
//!
//! No reference into such a mapping ever exists, only copies and atomic words: a guest may change the bytes between
//! two reads, and Rust's references promise that nobody does.
#![expect(unsafe_code, reason = "maps memory and touches it through raw pointers")]

use std::arch::asm;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;

use crate::memory::last_errno;

/// Copies of at least this many bytes use `rep movsb`; shorter ones go word by word, or byte by byte.
const STRING_COPY: usize = 64;
/// The same where both sides are aligned to words.
const ALIGNED_STRING_COPY: usize = 256;

/// The size of the host's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPages {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Huge,
}

/// A range of the host's virtual addresses that this object owns, with changing contents.
///
/// Offsets count from its start. A range outside the mapping panics: offsets are never a guest's own numbers. Pages
/// that are not yet backed ([`Mapping::reserve`]) must not be touched; the caller keeps the watermark.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to the process, not to a thread, and every access is a raw copy or an atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above; concurrent accesses may tear, which the type's contract allows.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `len` bytes of addresses without memory or access.
    ///
    /// # Errors
    /// What mmap(2) gives.
    pub fn reserve(len: u64) -> Result<Self, Errno> {
        Self::map_new(len, libc::PROT_NONE)
    }

    /// As [`Mapping::reserve`], at an address that is a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// What mmap(2) gives.
    pub fn reserve_aligned(len: u64, align: u64) -> Result<Self, Errno> {
        let mut mapping = Self::reserve(len.checked_add(align).ok_or(abi::errno::ENOMEM)?)?;
        let (raw, whole, len) = (mapping.base.as_ptr(), mapping.len, len as usize);
        let skip = raw.addr().next_multiple_of(align as usize) - raw.addr();
        mapping.base = NonNull::new(raw.wrapping_add(skip)).ok_or(abi::errno::ENOMEM)?;
        mapping.len = len;
        for unused in [0..skip, skip + len..whole] {
            if !unused.is_empty() {
                // SAFETY: these pages were reserved above, and lie outside what `mapping` is now.
                unsafe { libc::munmap(raw.wrapping_add(unused.start).cast(), unused.len()) };
            }
        }
        Ok(mapping)
    }

    /// Maps `len` bytes of zeroed private memory that the host provides when touched.
    ///
    /// # Errors
    /// What mmap(2) gives.
    pub fn anonymous(len: u64) -> Result<Self, Errno> {
        let mapping = Self::map_new(len, libc::PROT_READ | libc::PROT_WRITE)?;
        // Huge pages would be split and collapsed under the guest's translations, each time dropping them.
        mapping.advise(0, len, libc::MADV_NOHUGEPAGE);
        Ok(mapping)
    }

    fn map_new(len: u64, prot: i32) -> Result<Self, Errno> {
        let len = usize::try_from(len).map_err(|_| abi::errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let base = NonNull::new(at.cast::<u8>()).ok_or(abi::errno::ENOMEM)?;
        Ok(Self { base, len })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether the mapping has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of `offset`, for memory slots; not for use as a pointer.
    pub fn address(&self, offset: u64) -> u64 {
        self.at(offset, 0) as u64
    }

    /// The pointer to `offset`, after the check that `len` bytes from there are inside.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let end = (offset as usize).checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "mapping: {offset:#x}+{len:#x} is outside");
        self.base.as_ptr().wrapping_add(offset as usize)
    }

    /// Puts `len` bytes of `file` from `file_offset` at `offset`, shared, readable and writable.
    ///
    /// # Errors
    /// What mmap(2) gives.
    pub fn map_file(
        &self,
        offset: u64,
        file: BorrowedFd<'_>,
        file_offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        let at = self.at(offset, len as usize);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY:
        // 1. MAP_FIXED replaces only pages of this mapping: `at` checked the range.
        // 2. No reference into the mapping exists, so changing what is behind it breaks none.
        let r = unsafe {
            libc::mmap(at.cast(), len as usize, prot, flags, file.as_raw_fd(), file_offset as libc::off_t)
        };
        if r == libc::MAP_FAILED { Err(last_errno()) } else { Ok(()) }
    }

    /// Puts `len` bytes of zeroed private memory at `offset`, readable and writable; what was there is gone.
    ///
    /// # Errors
    /// What mmap(2) gives.
    pub fn map_zeroed(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let at = self.at(offset, len as usize);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY:
        // 1. MAP_FIXED replaces only pages of this mapping: `at` checked the range.
        // 2. No reference into the mapping exists, so changing what is behind it breaks none.
        let r = unsafe { libc::mmap(at.cast(), len as usize, prot, flags, -1, 0) };
        if r == libc::MAP_FAILED { Err(last_errno()) } else { Ok(()) }
    }

    /// Makes the host provide private memory in huge pages where it can, or in small ones. Afterwards it leaves the pages
    /// as they are: it does not make huge ones of small ones where a part was dropped.
    pub fn populate_private(&self, offset: u64, len: u64, pages: HostPages) {
        if pages == HostPages::Huge {
            self.advise(offset, len, libc::MADV_HUGEPAGE);
            self.populate(offset, len);
        }
        self.advise(offset, len, libc::MADV_NOHUGEPAGE);
        if pages == HostPages::Small {
            self.populate(offset, len);
        }
    }

    /// Drops every guest's translations of the pages, and keeps the bytes and the host's own use of them: for private
    /// memory, whose bytes [`Mapping::drop_pages`] would lose. False: the host refused.
    ///
    /// mprotect(2) tells KVM to forget the range whenever the protection changes, whatever the change. Without
    /// `PROT_READ` the processor and the host's kernel go on reading, since x86 has no pages for writing only; but KVM
    /// can be refused a page that a guest wants to read meanwhile (Linux `check_vma_flags`), so who runs guests tries
    /// again then.
    pub fn renew_translations(&self, offset: u64, len: u64) -> bool {
        let at = self.at(offset, len as usize);
        let protect = |prot: i32| {
            // SAFETY: the range is ours (`at` checked it), and our own accesses stay possible.
            unsafe { libc::mprotect(at.cast(), len as usize, prot) == 0 }
        };
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        protect(libc::PROT_WRITE) && (protect(read_write) || protect(read_write))
    }

    /// Takes all access from `len` bytes at `offset`.
    ///
    /// # Errors
    /// What mprotect(2) gives.
    pub fn protect_none(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let at = self.at(offset, len as usize);
        // SAFETY: the range is ours (`at` checked it) and no reference into it exists.
        let r = unsafe { libc::mprotect(at.cast(), len as usize, libc::PROT_NONE) };
        if r != 0 { Err(last_errno()) } else { Ok(()) }
    }

    fn advise(&self, offset: u64, len: u64, advice: i32) -> bool {
        let at = self.at(offset, len as usize);
        // SAFETY: the range is ours; the advices used here change only when pages are provided, or (DONTNEED on
        // private memory) zero them, which the contract of the type allows at any time.
        unsafe { libc::madvise(at.cast(), len as usize, advice) == 0 }
    }

    /// Drops the host's translations of the pages, and with them those of every guest. File-backed bytes stay in the
    /// file; anonymous ones become zero. False: the host refused.
    pub fn drop_pages(&self, offset: u64, len: u64) -> bool {
        self.advise(offset, len, libc::MADV_DONTNEED)
    }

    /// Makes the host provide the pages now.
    pub fn populate(&self, offset: u64, len: u64) {
        // Linux before 5.14 does not know this advice: the pages then come when touched.
        self.advise(offset, len, libc::MADV_POPULATE_WRITE);
    }

    /// Says for each page from `offset` on whether the host has it in memory: a byte of `pages` becomes 1 or 0. When
    /// the host does not say, 1.
    pub fn residency(&self, offset: u64, pages: &mut [u8]) {
        let len = pages.len() * 4096;
        let start = self.at(offset, len);
        // SAFETY: the range is ours, and `pages` has a byte for each of its pages.
        let r = unsafe { libc::mincore(start.cast(), len, pages.as_mut_ptr()) };
        pages.iter_mut().for_each(|p| *p = if r == 0 { *p & 1 } else { 1 });
    }

    /// Makes the host's translations again for those pages that it has in memory; provides none.
    pub fn repopulate(&self, offset: u64, len: u64) {
        const PAGE: u64 = 4096;
        let mut resident = [0u8; 512];
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(resident.len() as u64 * PAGE);
            let start = self.at(at, piece as usize);
            // SAFETY: the range is ours, and `resident` has a byte for each of its pages.
            let r = unsafe { libc::mincore(start.cast(), piece as usize, resident.as_mut_ptr()) };
            if r != 0 {
                return;
            }
            let mut page = at;
            for run in resident[..(piece / PAGE) as usize].chunk_by(|a, b| a & 1 == b & 1) {
                let bytes = run.len() as u64 * PAGE;
                if run[0] & 1 != 0 {
                    self.advise(page, bytes, libc::MADV_POPULATE_READ);
                }
                page += bytes;
            }
            at += piece;
        }
    }

    /// Copies out.
    #[inline]
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let from = self.at(offset, buf.len());
        // SAFETY: `from` has `buf.len()` bytes behind it; `buf` is a slice of that length elsewhere.
        unsafe { copy_bytes(from, buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies in.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { copy_bytes(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Copies `len` bytes within the mapping; the ranges do not overlap.
    pub fn copy(&self, from: u64, to: u64, len: u64) {
        let (from, to) = (self.at(from, len as usize), self.at(to, len as usize));
        // SAFETY: both ranges were checked.
        unsafe { copy_bytes(from, to, len as usize) }
    }

    /// Copies `len` bytes from here to another mapping.
    pub fn copy_to(&self, from: u64, other: &Self, to: u64, len: u64) {
        let (from, to) = (self.at(from, len as usize), other.at(to, len as usize));
        // SAFETY: both ranges were checked.
        unsafe { copy_bytes(from, to, len as usize) }
    }

    /// Stores zeros.
    pub fn zero(&self, offset: u64, len: u64) {
        let to = self.at(offset, len as usize);
        // SAFETY:
        // 1. The range was checked and is writable (watermark: the caller's).
        // 2. The compiler sees opaque assembly, so bytes that change meanwhile are no data race to it.
        unsafe {
            asm!("rep stosb", inout("rcx") len as usize => _, inout("rdi") to => _, in("al") 0u8,
                 options(nostack, preserves_flags));
        }
    }

    #[inline]
    fn word32(&self, offset: u64) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "mapping: {offset:#x} is not aligned");
        let at = self.at(offset, 4).cast::<AtomicU32>();
        // SAFETY: inside the mapping and aligned; an atomic may be shared with anybody, guests included.
        unsafe { &*at }
    }

    #[inline]
    fn word64(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "mapping: {offset:#x} is not aligned");
        let at = self.at(offset, 8).cast::<AtomicU64>();
        // SAFETY: as in `word32`.
        unsafe { &*at }
    }

    /// Loads an aligned word atomically.
    pub fn load_u32(&self, offset: u64) -> u32 {
        self.word32(offset).load(Ordering::SeqCst)
    }

    /// Replaces an aligned word if it equals `old`; returns what was there.
    pub fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32 {
        match self.word32(offset).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(v) | Err(v) => v,
        }
    }

    /// Stores an aligned word atomically; what was stored before is visible to who sees it, and later loads come later.
    #[inline]
    pub fn swap_u32(&self, offset: u64, value: u32) -> u32 {
        self.word32(offset).swap(value, Ordering::SeqCst)
    }

    /// Loads an aligned word atomically.
    #[inline]
    pub fn load_u64(&self, offset: u64) -> u64 {
        self.word64(offset).load(Ordering::Relaxed)
    }

    /// Stores an aligned word atomically; what was stored before is visible to who sees it.
    #[inline]
    pub fn store_u64(&self, offset: u64, value: u64) {
        self.word64(offset).store(value, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the pages are ours alone and nobody can name them after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Copies `len` bytes that others may change meanwhile.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; they do not overlap.
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    let is_aligned = from.addr().is_multiple_of(8) && to.addr().is_multiple_of(8);
    if len >= if is_aligned { ALIGNED_STRING_COPY } else { STRING_COPY } {
        // SAFETY:
        // 1. The caller promises both ranges.
        // 2. The compiler sees opaque assembly, so bytes that change meanwhile are no data race to it.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                 options(nostack, preserves_flags));
        }
        return;
    }
    let mut done = 0;
    // An aligned word is read in one piece, so that a guest's own atomic stores are seen whole.
    if is_aligned {
        while len - done >= 8 {
            let (f, t) = (from.wrapping_add(done).cast::<u64>(), to.wrapping_add(done).cast::<u64>());
            // SAFETY: inside the range that the caller promises, and aligned.
            let word = unsafe { f.read_volatile() };
            // SAFETY: as above.
            unsafe { t.write_volatile(word) };
            done += 8;
        }
    }
    while done < len {
        // SAFETY: inside the range that the caller promises.
        let byte = unsafe { from.wrapping_add(done).read_volatile() };
        // SAFETY: as above.
        unsafe { to.wrapping_add(done).write_volatile(byte) };
        done += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_size_and_alignment_arrive() {
        let m = Mapping::anonymous(1 << 16).unwrap();
        for len in [0usize, 1, 3, 7, 8, 9, 15, 16, 63, 64, 65, 168, 255, 256, 257, 4096, 5000] {
            for at in 0..9u64 {
                let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + at as usize) as u8).collect();
                m.write(at, &bytes);
                let mut back = vec![0; len];
                m.read(at, &mut back);
                assert_eq!(back, bytes);
                m.copy(at, 0x8000 + at, len as u64);
                m.read(0x8000 + at, &mut back);
                assert_eq!(back, bytes);
            }
        }
        m.zero(3, 100);
        let mut back = [1; 100];
        m.read(3, &mut back);
        assert_eq!(back, [0; 100]);
    }

    #[test]
    fn private_memory_keeps_its_bytes_over_a_renewal_and_is_zero_after_a_new_mapping() {
        let m = Mapping::reserve_aligned(8 << 20, 2 << 20).unwrap();
        assert!(m.address(0).is_multiple_of(2 << 20) && m.len() == 8 << 20);
        m.map_zeroed(2 << 20, 4 << 20).unwrap();
        m.populate_private(2 << 20, 2 << 20, HostPages::Huge);
        m.populate_private(4 << 20, 2 << 20, HostPages::Small);
        let mut pages = [0; 1024];
        m.residency(2 << 20, &mut pages);
        assert!(pages.iter().all(|&p| p == 1));
        m.write(3 << 20, b"kept");
        assert!(m.renew_translations(2 << 20, 4 << 20) && m.renew_translations(3 << 20, 4096));
        let mut back = [0; 4];
        m.read(3 << 20, &mut back);
        assert_eq!(&back, b"kept");
        m.map_zeroed(2 << 20, 2 << 20).unwrap();
        m.read(3 << 20, &mut back);
        assert_eq!(back, [0; 4]);
    }

    #[test]
    #[should_panic(expected = "is outside")]
    fn a_range_outside_panics() {
        Mapping::anonymous(4096).unwrap().read(4090, &mut [0; 8]);
    }
}
