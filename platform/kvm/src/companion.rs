//! Host threads that stay in the guest for a context whose own thread polls its mailbox meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::regs::UserRegs;
use base::lock::{Condition, Lock, rank};
use host::system::CpuMask;
use platform::{AddressSpace, Error, Trap};

use crate::engine::Engine;
use crate::space::KvmSpace;

/// How long a companion looks for more work before it sleeps, in ticks of the time stamp counter.
const LINGER: u64 = 60_000;
/// The owner yields this often before it sleeps until its companion is out of the guest.
const YIELDS: u32 = 200;

const IDLE: u32 = 0;
const WORK: u32 = 1;
const DONE: u32 = 2;
const QUIT: u32 = 3;
/// The companion has the work in hand.
const RUNNING: u32 = 4;

/// What a companion is to run.
pub(crate) struct Job {
    pub(crate) engine: Box<Engine>,
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) regs: UserRegs,
    /// The processors that the owner may run on.
    pub(crate) processors: CpuMask,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) engine: Box<Engine>,
    pub(crate) regs: UserRegs,
    /// `None`: it was stopped.
    pub(crate) trap: Result<Option<Trap>, Error>,
}

#[derive(Default)]
struct Exchange {
    job: Option<Job>,
    outcome: Option<Outcome>,
}

/// A companion, as the context sees it that has it.
#[derive(Default)]
pub(crate) struct Companion {
    /// Changes to `WORK`, `IDLE` and `QUIT` by the owner, to `RUNNING` and `DONE` by the companion, under the lock.
    state: AtomicU32,
    /// Leave the guest.
    pub(crate) stop: AtomicBool,
    exchange: Lock<Exchange, { rank::PLATFORM }>,
    changed: Condition,
}

impl Companion {
    /// Starts a thread.
    fn start() -> Option<Arc<Self>> {
        let companion = Arc::new(Self::default());
        let own = companion.clone();
        std::thread::Builder::new()
            .name("companion".into())
            .stack_size(256 << 10)
            .spawn(move || own.serve())
            .inspect_err(|e| log::info!("kvm: no companion thread: {e}"))
            .ok()?;
        Some(companion)
    }

    /// Gives it work; it has none.
    pub(crate) fn begin(&self, job: Job) {
        self.stop.store(false, Ordering::SeqCst);
        let mut exchange = self.exchange.lock();
        exchange.job = Some(job);
        self.state.store(WORK, Ordering::SeqCst);
        drop(exchange);
        self.changed.notify_all();
    }

    /// Whether the work is done.
    pub(crate) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Whether the companion has begun, or has even finished.
    pub(crate) fn has_begun(&self) -> bool {
        self.state.load(Ordering::Acquire) != WORK
    }

    /// Takes the work back from a companion that has not begun.
    pub(crate) fn cancel(&self) -> Option<Job> {
        let mut exchange = self.exchange.lock();
        let job = exchange.job.take()?;
        self.state.store(IDLE, Ordering::SeqCst);
        Some(job)
    }

    /// Waits until the work is done.
    pub(crate) fn finish(&self) -> Option<Outcome> {
        for _ in 0..YIELDS {
            if self.is_done() {
                break;
            }
            std::thread::yield_now();
        }
        let mut exchange = self.exchange.lock();
        while matches!(self.state.load(Ordering::SeqCst), WORK | RUNNING) {
            self.changed.wait(&mut exchange);
        }
        self.state.store(IDLE, Ordering::SeqCst);
        exchange.outcome.take()
    }

    fn serve(&self) {
        let mut processors = None;
        loop {
            let began = host::clock::tsc();
            while self.state.load(Ordering::Acquire) != WORK
                && host::clock::tsc().wrapping_sub(began) < LINGER
            {
                std::hint::spin_loop();
            }
            let mut exchange = self.exchange.lock();
            let job = loop {
                match self.state.load(Ordering::SeqCst) {
                    QUIT => return,
                    WORK => {
                        self.state.store(RUNNING, Ordering::SeqCst);
                        break exchange.job.take();
                    }
                    _ => self.changed.wait(&mut exchange),
                }
            };
            drop(exchange);
            if let Some(job) = &job
                && processors != Some(job.processors)
            {
                // A failure leaves it where it is, which is slower at worst.
                let _ = host::system::set_affinity(0, &job.processors);
                processors = Some(job.processors);
            }
            let outcome = job.map(|job| self.run(job));
            let mut exchange = self.exchange.lock();
            exchange.outcome = outcome;
            self.state.store(DONE, Ordering::SeqCst);
            drop(exchange);
            self.changed.notify_all();
        }
    }

    fn run(&self, job: Job) -> Outcome {
        let Job { mut engine, space, mut regs, processors: _ } = job;
        let trap = match space.as_any().downcast_ref::<KvmSpace>() {
            Some(space) => engine.run(space, &mut regs, &self.stop),
            None => Err(Error::Broken("kvm: an address space of another platform".into())),
        };
        Outcome { engine, regs, trap }
    }

    fn quit(&self) {
        let exchange = self.exchange.lock();
        self.state.store(QUIT, Ordering::SeqCst);
        drop(exchange);
        self.changed.notify_all();
    }
}

/// The companions without work, and how many cores are in use.
#[derive(Default)]
pub(crate) struct Companions {
    idle: Lock<Vec<Arc<Companion>>, { rank::PLATFORM }>,
    /// Contexts that poll: each uses two cores.
    polling: AtomicUsize,
    /// Contexts that are in the guest with their own threads.
    direct: AtomicUsize,
}

/// Companions that are kept.
const KEPT: usize = 4;

impl Companions {
    /// A companion for a context that is about to poll, if there are cores for it.
    pub(crate) fn take(&self, cores: usize) -> Option<Arc<Companion>> {
        if self.polling.fetch_add(1, Ordering::SeqCst) * 2 + self.direct.load(Ordering::Relaxed) + 2 > cores {
            self.polling.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let idle = self.idle.lock().pop();
        let companion = idle.or_else(Companion::start);
        if companion.is_none() {
            self.polling.fetch_sub(1, Ordering::SeqCst);
        }
        companion
    }

    /// Whether more threads want cores than there are.
    pub(crate) fn is_crowded(&self, cores: usize) -> bool {
        self.polling.load(Ordering::Relaxed) * 2 + self.direct.load(Ordering::Relaxed) > cores
    }

    /// The context does not poll any more.
    pub(crate) fn give(&self, companion: Arc<Companion>) {
        self.polling.fetch_sub(1, Ordering::SeqCst);
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(companion);
        } else {
            drop(idle);
            companion.quit();
        }
    }

    /// A stay by the context's own thread begins.
    pub(crate) fn enter(&self) {
        self.direct.fetch_add(1, Ordering::Relaxed);
    }

    /// It ends.
    pub(crate) fn leave(&self) {
        self.direct.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Companions {
    fn drop(&mut self) {
        for companion in self.idle.get_mut().drain(..) {
            companion.quit();
        }
    }
}
