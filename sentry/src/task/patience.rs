//! How long a thread waits awake before it sleeps.
//!
//! To wake a thread costs some µs where its processor is awake, and tens of them where it idles in a virtual machine. So
//! a thread that usually waits no longer than that looks for its wake-up for a while, as long as no more threads are awake
//! than there are processors. It gives way at every turn: on a processor that somebody else wants, it costs two switches.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Threads of tasks that are not asleep, whether they run or look for a wake-up.
pub(super) static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Waits that usually take longer are slept through, in ticks of the time stamp counter.
const LONGEST: u64 = 250_000;
/// What is added to twice the usual time.
const MARGIN: u64 = 10_000;
/// Looks between two times of giving way.
const LOOKS: u32 = 32;
/// Waits that are slept through after waits awake that were in vain, at most.
const LONGEST_PAUSE: u32 = 512;

/// A thread is awake while this lives.
pub(super) struct Awake(());

impl Awake {
    pub(super) fn new() -> Self {
        AWAKE.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.fetch_sub(1, Ordering::Relaxed);
    }
}

fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// What a thread has seen of its waits; only the thread itself uses it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The usual wait, in ticks, as far as it was awake.
    usual: AtomicU64,
    /// Waits to be slept through, and how many after the next one in vain.
    pause: AtomicU32,
    next_pause: AtomicU32,
}

impl Patience {
    /// Waits awake, if that pays, until `is_over`; says whether it was.
    pub(super) fn wait(&self, is_over: impl Fn() -> bool) -> bool {
        if is_over() {
            return true;
        }
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Ordering::Relaxed);
            return false;
        }
        let count = processors();
        if count < 2 || AWAKE.load(Ordering::Relaxed) > count {
            return false;
        }
        let usual = self.usual.load(Ordering::Relaxed);
        let most = (2 * usual + MARGIN).min(LONGEST);
        let start = host::clock::tsc();
        loop {
            for _ in 0..LOOKS {
                if is_over() {
                    let took = host::clock::tsc().wrapping_sub(start);
                    self.usual.store(usual - usual / 8 + took.min(LONGEST) / 8, Ordering::Relaxed);
                    self.next_pause.store(self.next_pause.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
                    return true;
                }
                std::hint::spin_loop();
            }
            let took = host::clock::tsc().wrapping_sub(start);
            if took > most || AWAKE.load(Ordering::Relaxed) > count {
                break;
            }
            std::thread::yield_now();
        }
        // Longer next time, and later.
        self.usual.store((usual - usual / 8 + LONGEST / 8).min(LONGEST), Ordering::Relaxed);
        let pause = self.next_pause.load(Ordering::Relaxed);
        self.pause.store(pause, Ordering::Relaxed);
        self.next_pause.store((pause * 2).clamp(1, LONGEST_PAUSE), Ordering::Relaxed);
        false
    }
}
