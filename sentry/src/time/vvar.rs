//! The clock parameters in the two places where they are read: the vDSO's data page and the sentry itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use abi::Errno;
use base::PAGE_SIZE;
use base::memmap::{MemKind, MemRange, Memory};
use loader::vdso::{ClockParams, VvarPage};
use zerocopy::IntoBytes;

/// How often a reader spins before it lets others run: the writer may have lost its processor.
const SPINS: u32 = 100;

/// One clock's parameters, for readers in the sentry.
#[derive(Debug, Default)]
struct AtomicParams {
    sec: AtomicI64,
    nsec: AtomicU64,
    mult: AtomicU64,
}

/// The published parameters. One thread at a time changes them; any number read, without a lock, so in any context.
pub struct Published {
    memory: Arc<dyn Memory>,
    page: MemRange,
    /// Guards the fields below, and counts in step with the page's own counter.
    seq: AtomicU32,
    tsc_base: AtomicU64,
    shift: AtomicU32,
    clocks: [AtomicParams; 8],
}

impl Published {
    /// Allocates the page; its vDSO makes system calls until the first `update`.
    ///
    /// # Errors
    /// `ENOMEM`: the limit of the sandbox is reached.
    pub fn new(memory: Arc<dyn Memory>) -> Result<Self, Errno> {
        let page = memory.allocate(PAGE_SIZE, PAGE_SIZE, MemKind::Shared)?;
        Ok(Self {
            memory,
            page,
            seq: AtomicU32::new(0),
            tsc_base: AtomicU64::new(0),
            shift: AtomicU32::new(0),
            clocks: Default::default(),
        })
    }

    /// The data page in the memory file, to be mapped read-only directly below the vDSO. The reference stays here.
    pub fn page(&self) -> MemRange {
        self.page
    }

    /// Replaces the parameters by what `make` returns.
    ///
    /// `make` runs while readers wait: a reader who got away with the old parameters read the counter before `make` was
    /// called, all others use the new ones. The caller makes sure that nobody else updates.
    pub fn update(&self, make: impl FnOnce() -> VvarPage) {
        self.begin();
        self.finish(make());
    }

    /// Makes readers wait until [`Published::finish`].
    pub fn begin(&self) {
        let old = self.seq.load(Ordering::Relaxed);
        let odd = old.wrapping_add(1);
        self.seq.store(odd, Ordering::Relaxed);
        self.memory.compare_exchange_u32(self.page.offset, old, odd);
        fence(Ordering::SeqCst);
    }

    /// Publishes `page`, after [`Published::begin`].
    pub fn finish(&self, page: VvarPage) {
        let odd = self.seq.load(Ordering::Relaxed);
        let even = odd.wrapping_add(1);
        let page = VvarPage { seq: odd, ..page };

        self.memory.write(self.page.offset + size_of::<u32>() as u64, &page.as_bytes()[size_of::<u32>()..]);
        self.tsc_base.store(page.tsc_base, Ordering::Relaxed);
        self.shift.store(page.shift, Ordering::Relaxed);
        for (to, from) in self.clocks.iter().zip(page.clocks) {
            to.sec.store(from.sec, Ordering::Relaxed);
            to.nsec.store(from.nsec, Ordering::Relaxed);
            to.mult.store(from.mult, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        // The sentry's copy first: a guest that has seen the new parameters and then makes a system call must not get the
        // old ones.
        self.seq.store(even, Ordering::Release);
        self.memory.compare_exchange_u32(self.page.offset, odd, even);
    }

    /// Calls `tsc` for the guest's counter and returns what clock `id` of [`VvarPage::clocks`] shows then.
    pub fn read(&self, id: usize, tsc: impl Fn() -> u64) -> Option<(i64, u32)> {
        let clock = self.clocks.get(id)?;
        let mut spins = 0;
        loop {
            let before = self.seq.load(Ordering::Acquire);
            if before & 1 == 0 {
                let now = tsc();
                let params = ClockParams {
                    sec: clock.sec.load(Ordering::Relaxed),
                    nsec: clock.nsec.load(Ordering::Relaxed),
                    mult: clock.mult.load(Ordering::Relaxed),
                    reserved: 0,
                };
                let (tsc_base, shift) =
                    (self.tsc_base.load(Ordering::Relaxed), self.shift.load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if self.seq.load(Ordering::Relaxed) == before {
                    return Some(params.time_at(tsc_base, shift, now));
                }
            }
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.memory.dec_ref(self.page);
    }
}
