//! Restartable sequences (rseq(2); Linux kernel/rseq.c).
//!
//! A sequence must not run at once on two threads that were told the same processor, nor go on after another such thread
//! ran. The host preempts and moves guest threads without a word, so numbers of real processors promise nothing. Hence a
//! thread's number is its own while it runs: where threads share memory, each holds a number of its process's
//! ([`CpuNumbers`]) until it sleeps, the processor's that it was last seen on if that is free. Where more threads run
//! than there are numbers, the rest are told none (`RSEQ_CPU_ID_UNINITIALIZED`), with which no sequence commits, as long
//! as nobody was seen to use sequences; from then on they take turns.
//!
//! What is alone in its memory has the number of the processor it was last seen on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use abi::errno::{EBUSY, EINVAL, EPERM};
use abi::{Errno, UserAddr};
use base::lock::{Lock, rank};
use base::wait::{Events, Wake};
use host::system::CpuMask;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Ctx, Parker, Phase, Task};
use crate::kernel::Kernel;

/// Bytes that the kernel knows of `struct rseq`, up to `node_id`: `AT_RSEQ_FEATURE_SIZE`.
pub const FEATURE_SIZE: u32 = 24;
/// `AT_RSEQ_ALIGN`, and the least size.
pub const ALIGN: u32 = 32;

const CPU_ID_UNINITIALIZED: u32 = u32::MAX;
const UNREGISTER: u32 = 1;
/// How long a thread keeps its number while others wait for one, in ticks of the time stamp counter: some milliseconds.
const SLICE_TICKS: u64 = 8_000_000;
const SLICE: Duration = Duration::from_millis(3);
/// How often threads without a number are asked whether they use sequences: ms, at first and at most.
const ASK_FIRST: u32 = 10;
const ASK_MOST: u32 = 1280;

/// `struct rseq`, what the kernel reads and writes of it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Area {
    cpu_id_start: u32,
    cpu_id: u32,
    rseq_cs: u64,
    flags: u32,
    node_id: u32,
}

/// `struct rseq_cs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sequence {
    version: u32,
    flags: u32,
    start_ip: u64,
    post_commit_offset: u64,
    abort_ip: u64,
}

/// What a thread has registered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rseq {
    /// Where its `struct rseq` is; 0 without.
    addr: u64,
    len: u32,
    signature: u32,
    /// The number that it was told.
    number: Option<u32>,
    /// It must look, whatever its number is.
    is_due: bool,
    /// Others may have taken the number.
    is_released: bool,
    /// The number is the thread's in its address space's [`CpuNumbers`]; else it was alone when it got it.
    is_held: bool,
    /// When it got its number, in ticks.
    since: u64,
}

impl Rseq {
    /// What a forked process starts with.
    pub fn forked(&self) -> Self {
        Self { addr: self.addr, len: self.len, signature: self.signature, is_due: true, ..Self::default() }
    }

    /// Where it is, its length and the signature, if there is one.
    pub fn registered(&self) -> Option<(u64, u32, u32)> {
        (self.addr != 0).then_some((self.addr, self.len, self.signature))
    }

    /// The number of the processor that the thread was told.
    pub fn number(&self) -> Option<u32> {
        self.number.filter(|_| self.addr != 0)
    }
}

/// A thread holds the number and runs.
const HELD: u64 = 1 << 32;

/// Which thread of an address space has which processor's number.
#[derive(Debug, Default)]
pub struct CpuNumbers {
    /// By number: the thread's ID, with [`HELD`] while it runs; 0 for nobody. Empty while one thread is alone.
    slots: OnceLock<Box<[AtomicU64]>>,
    /// A thread was seen to use sequences.
    in_use: AtomicBool,
    /// Who waits for a number.
    waiters: AtomicU32,
    queue: Lock<VecDeque<(i32, Arc<Parker>)>, { rank::LEAF }>,
}

impl CpuNumbers {
    /// Gives out numbers below `limit` from now on: a second thread comes.
    pub fn share(&self, limit: usize) {
        self.slots.get_or_init(|| (0..limit).map(|_| AtomicU64::new(0)).collect());
    }

    fn take(&self, number: u32, tid: i32) -> bool {
        let Some(slot) = self.slots.get().and_then(|s| s.get(number as usize)) else { return false };
        let now = slot.load(Ordering::SeqCst);
        let mine = u64::from(tid.cast_unsigned()) | HELD;
        now & HELD == 0 && slot.compare_exchange(now, mine, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Takes back the number that the thread has released; not if another took it.
    fn retake(&self, number: u32, tid: i32) -> bool {
        let Some(slot) = self.slots.get().and_then(|s| s.get(number as usize)) else { return false };
        let tid = u64::from(tid.cast_unsigned());
        slot.compare_exchange(tid, tid | HELD, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Lets others have the number; `to` is whose it is until then.
    fn release(&self, number: u32, from: i32, to: i32) {
        let held = u64::from(from.cast_unsigned()) | HELD;
        if let Some(slot) = self.slots.get().and_then(|s| s.get(number as usize)) {
            // It may have been taken away.
            let to = to.cast_unsigned().into();
            let _ = slot.compare_exchange(held, to, Ordering::SeqCst, Ordering::SeqCst);
        }
        if self.waiters.load(Ordering::SeqCst) > 0 {
            let first = self.queue.lock().front().map(|(_, parker)| parker.clone());
            if let Some(parker) = first {
                parker.wake(Events::IN);
            }
        }
    }

    /// Gives the number to whoever has waited longest.
    fn pass_on(&self, number: u32, from: i32) {
        let next = self.queue.lock().front().map_or(0, |&(tid, _)| tid);
        self.release(number, from, next);
    }

    /// A number that the thread may have now: `best`, its own, or any in `allowed` that nobody runs with.
    fn find(&self, tid: i32, best: u32, allowed: &CpuMask) -> Option<u32> {
        let count = self.slots.get().map_or(0, |s| s.len() as u32);
        std::iter::once(best).chain(0..count).find(|&n| is_allowed(allowed, n) && self.take(n, tid))
    }

    /// Takes the number from the thread `from`, which looks before it runs again; not if another was faster.
    fn take_from(&self, number: u32, from: i32, tid: i32) -> bool {
        let Some(slot) = self.slots.get().and_then(|s| s.get(number as usize)) else { return false };
        let held = |tid: i32| u64::from(tid.cast_unsigned()) | HELD;
        slot.compare_exchange(held(from), held(tid), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn is_held(&self, number: u32, tid: i32) -> bool {
        let slot = self.slots.get().and_then(|s| s.get(number as usize));
        slot.is_some_and(|slot| slot.load(Ordering::SeqCst) == u64::from(tid.cast_unsigned()) | HELD)
    }

    /// The numbers in `allowed` that threads run with, and the threads.
    fn holders(&self, allowed: &CpuMask) -> Vec<(u32, i32)> {
        let slots = self.slots.get().map_or(&[][..], |s| s);
        let held = (0u32..).zip(slots).filter(|(n, _)| is_allowed(allowed, *n));
        held.map(|(n, slot)| (n, slot.load(Ordering::SeqCst)))
            .filter(|(_, v)| v & HELD != 0)
            .map(|(n, v)| (n, (v as u32).cast_signed()))
            .collect()
    }
}

fn is_allowed(mask: &CpuMask, number: u32) -> bool {
    mask.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
}

impl Ctx<'_> {
    /// rseq(2), to register.
    ///
    /// # Errors
    /// In the order checked: with one registered: `EINVAL`: another, `EPERM`: another signature, `EBUSY`; `EINVAL`: too
    /// short or not aligned; `EFAULT`.
    pub(crate) fn register_rseq(&mut self, addr: u64, len: u32, signature: u32) -> Result<(), Errno> {
        let now = &self.rseq;
        if now.addr != 0 {
            return Err(match () {
                () if now.addr != addr || now.len != len => EINVAL,
                () if now.signature != signature => EPERM,
                () => EBUSY,
            });
        }
        if len < ALIGN || !addr.is_multiple_of(ALIGN.into()) {
            return Err(EINVAL);
        }
        self.mm.check_range(UserAddr(addr), len.into())?;
        self.mm.write_value(field(addr, 8), &0u64)?;
        // The child of vfork(2) shares memory with threads that do not know of it.
        if Arc::strong_count(&self.mm) > 2 {
            self.mm.cpu_numbers.share(self.task.kernel.system.cpu_limit());
        }
        self.rseq = Rseq { addr, len, signature, is_due: true, ..Rseq::default() };
        Ok(())
    }

    /// rseq(2), to unregister.
    ///
    /// # Errors
    /// In the order checked: `EINVAL`: not what is registered; `EPERM`: another signature; `EFAULT`.
    pub(crate) fn unregister_rseq(&mut self, addr: u64, len: u32, signature: u32) -> Result<(), Errno> {
        let now = &self.rseq;
        if now.addr == 0 || now.addr != addr || now.len != len {
            return Err(EINVAL);
        }
        if now.signature != signature {
            return Err(EPERM);
        }
        self.tell_number(None)?;
        self.leave_rseq();
        Ok(())
    }

    /// The thread has no rseq any more: it leaves its address space.
    pub(super) fn leave_rseq(&mut self) {
        if let Some(n) = self.rseq.number.filter(|_| self.rseq.is_held && !self.rseq.is_released) {
            self.mm.cpu_numbers.pass_on(n, self.task.tid);
        }
        self.rseq = Rseq::default();
    }

    /// The thread goes to sleep: others may have its number.
    pub(crate) fn release_number(&mut self) {
        if let Some(n) = self.rseq.number
            && self.rseq.is_held
            && !self.rseq.is_released
        {
            self.mm.cpu_numbers.release(n, self.task.tid, self.task.tid);
            self.rseq.is_released = true;
        }
    }

    /// Before user code runs; false: there is a signal to look at first.
    pub(super) fn prepare_rseq(&mut self) -> bool {
        let rseq = &self.rseq;
        if rseq.addr == 0 {
            return true;
        }
        let cpu = self.task.account.cpu();
        let is_own = rseq.is_held || self.mm.cpu_numbers.slots.get().is_none();
        let is_current = rseq.number == Some(cpu) && is_own && !rseq.is_due && !rseq.is_released;
        if is_current && !self.task.rseq_event.load(Ordering::Relaxed) {
            return true;
        }
        self.renew_number(cpu)
    }

    fn renew_number(&mut self, cpu: u32) -> bool {
        let event = self.task.rseq_event.swap(false, Ordering::SeqCst);
        let mm = self.mm.clone();
        let numbers = &mm.cpu_numbers;
        let before = self.rseq.number;
        let mut number = Some(cpu);
        if numbers.slots.get().is_some() {
            if !self.rseq.is_held && before.is_some() {
                // It was alone so far: what it was told is nobody's yet.
                self.rseq.number = None;
                self.rseq.is_due = true;
            }
            number = self.settle_number(numbers, cpu, event);
            if number.is_none() && numbers.in_use.load(Ordering::SeqCst) {
                let Some(got) = self.wait_for_number(numbers, cpu) else { return false };
                number = Some(got);
            }
            if number.is_none() && (event || before.is_some() || self.rseq.is_due) {
                self.task.kernel.note_without_number(&self.task);
            }
            if number != before {
                self.rseq.since = host::clock::tsc();
            }
        }
        self.rseq.is_released = false;
        self.rseq.is_held = number.is_some() && numbers.slots.get().is_some();
        if number == before && number.is_some() && !event && !self.rseq.is_due {
            return true;
        }
        self.rseq.number = number;
        let is_new = number != before || self.rseq.is_due;
        self.rseq.is_due = false;
        let told =
            self.restart_sequence().and_then(|()| if is_new { self.tell_number(number) } else { Ok(()) });
        if told.is_err() {
            self.force_segv(0);
            return false;
        }
        !self.has_signal()
    }

    /// The number that the thread has or can have at once.
    fn settle_number(&mut self, numbers: &CpuNumbers, cpu: u32, event: bool) -> Option<u32> {
        let tid = self.task.tid;
        let mut number = self.rseq.number;
        if let Some(n) = number
            && !match self.rseq.is_released {
                true => numbers.retake(n, tid),
                false => !event || numbers.is_held(n, tid),
            }
        {
            // Somebody ran with it.
            self.rseq.is_due = true;
            number = None;
        }
        if event && let Some(n) = number {
            let is_over = numbers.waiters.load(Ordering::SeqCst) > 0
                && host::clock::tsc().wrapping_sub(self.rseq.since) >= SLICE_TICKS;
            if is_over {
                numbers.pass_on(n, tid);
                return None;
            }
            if !is_allowed(&self.task.attributes.lock().cpus, n) {
                numbers.pass_on(n, tid);
                number = None;
            }
        }
        match number {
            Some(n) if n == cpu => return number,
            Some(n) => {
                // Where it runs is where it should say it does.
                if numbers.take(cpu, tid) {
                    numbers.pass_on(n, tid);
                    return Some(cpu);
                }
                return number;
            }
            None => {}
        }
        let allowed = self.task.attributes.lock().cpus;
        numbers.find(tid, cpu, &allowed)
    }

    /// Waits for its turn; `None`: a signal came.
    fn wait_for_number(&mut self, numbers: &CpuNumbers, cpu: u32) -> Option<u32> {
        let tid = self.task.tid;
        let allowed = self.task.attributes.lock().cpus;
        self.rseq.number = None;
        self.rseq.is_due = true;
        numbers.queue.lock().push_back((tid, self.task.parker.clone()));
        numbers.waiters.fetch_add(1, Ordering::SeqCst);
        let mut got = None;
        while !self.has_signal() {
            self.task.parker.prepare();
            got = numbers.find(tid, cpu, &allowed);
            if got.is_some() {
                break;
            }
            if !self.park(Some(SLICE)) {
                got = self.ask_holders(numbers, &allowed);
                if got.is_some() {
                    break;
                }
            }
        }
        numbers.waiters.fetch_sub(1, Ordering::SeqCst);
        numbers.queue.lock().retain(|&(waiter, _)| waiter != tid);
        got
    }

    /// Has those who hold numbers look whether their turn is over. Who sleeps with one, for a server of a file system say
    /// or a child of vfork(2), loses it: it has been kicked, and looks before it runs again.
    fn ask_holders(&self, numbers: &CpuNumbers, allowed: &CpuMask) -> Option<u32> {
        let mut got = None;
        for (number, holder) in numbers.holders(allowed) {
            let Some(task) = self.task.kernel.task(holder) else { continue };
            task.restart_soon();
            if got.is_none()
                && task.account.phase() == Phase::Asleep
                && numbers.take_from(number, holder, self.task.tid)
            {
                got = Some(number);
                // It may have woken and looked in between.
                task.restart_soon();
                while task.is_yet_to_look() && !self.task.must_exit() {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
        got
    }

    /// Before a signal's handler runs (`rseq_signal_deliver`).
    pub(crate) fn restart_for_signal(&mut self, signo: i32) {
        if self.rseq.addr != 0 && self.restart_sequence().is_err() {
            self.force_segv(signo);
        }
    }

    /// Goes to the abort handler of a sequence that the thread is in (`rseq_ip_fixup`).
    fn restart_sequence(&mut self) -> Result<(), Errno> {
        let area: Area = self.mm.read_value(UserAddr(self.rseq.addr))?;
        if area.rseq_cs == 0 {
            return Ok(());
        }
        self.mm.cpu_numbers.in_use.store(true, Ordering::SeqCst);
        let end = self.mm.task_size();
        if area.rseq_cs >= end {
            return Err(EINVAL);
        }
        let cs: Sequence = self.mm.read_value(UserAddr(area.rseq_cs))?;
        let post_commit = cs.start_ip.checked_add(cs.post_commit_offset).ok_or(EINVAL)?;
        if cs.start_ip >= end
            || post_commit >= end
            || cs.abort_ip >= end
            || cs.version > 0
            || cs.abort_ip.wrapping_sub(cs.start_ip) < cs.post_commit_offset
        {
            return Err(EINVAL);
        }
        let signature: u32 = self.mm.read_value(UserAddr(cs.abort_ip.wrapping_sub(4)))?;
        if signature != self.rseq.signature {
            return Err(EINVAL);
        }
        let is_inside = self.regs.rip.wrapping_sub(cs.start_ip) < cs.post_commit_offset;
        // The flags that would keep it from being restarted are no more.
        if is_inside && (cs.flags != 0 || area.flags != 0) {
            return Err(EINVAL);
        }
        self.mm.write_value(field(self.rseq.addr, 8), &0u64)?;
        if is_inside {
            self.regs.rip = cs.abort_ip;
        }
        Ok(())
    }

    fn tell_number(&self, number: Option<u32>) -> Result<(), Errno> {
        let ids = [number.unwrap_or(0), number.unwrap_or(CPU_ID_UNINITIALIZED)];
        self.mm.write_value(UserAddr(self.rseq.addr), &ids)?;
        // There is one node.
        self.mm.write_value(field(self.rseq.addr, 20), &0u32)
    }

    /// `MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ`: all sequences that other threads of the process are in, start again.
    ///
    /// Returns whether it is done; else there is a signal to look at first.
    pub(crate) fn restart_others(&self) -> bool {
        let others: Vec<Arc<Task>> = {
            let signals = self.task.group.signals.lock();
            signals.threads.iter().filter(|t| !Arc::ptr_eq(t, &self.task)).cloned().collect()
        };
        others.iter().for_each(|t| t.restart_soon());
        // Once kicked, none runs a user's instruction before it has looked.
        for task in others {
            while task.is_yet_to_look() {
                if self.has_signal() {
                    return false;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        true
    }
}

impl Task {
    /// Makes the thread look at its number, and start a sequence again, before it goes on.
    pub(crate) fn restart_soon(&self) {
        self.rseq_event.store(true, Ordering::SeqCst);
        self.kicker.kick();
    }

    /// Whether it may still run what it ran when [`Task::restart_soon`] was called.
    fn is_yet_to_look(&self) -> bool {
        self.rseq_event.load(Ordering::SeqCst) && self.account.phase() == Phase::User
    }
}

/// Threads that run without a number, and may spin for want of one.
#[derive(Debug, Default)]
pub struct WithoutNumber {
    any: AtomicBool,
    tids: Lock<BTreeSet<i32>, { rank::LEAF }>,
    pause_ms: AtomicU32,
}

impl Kernel {
    fn note_without_number(&self, task: &Arc<Task>) {
        self.without_number.tids.lock().insert(task.tid);
        if !self.without_number.any.swap(true, Ordering::SeqCst) {
            self.wake_main();
        }
    }

    /// When to call [`Kernel::ask_without_number`].
    pub(crate) fn ask_without_number_in(&self) -> Option<Duration> {
        let w = &self.without_number;
        let pause = w.pause_ms.load(Ordering::Relaxed).clamp(ASK_FIRST, ASK_MOST);
        w.any.load(Ordering::SeqCst).then(|| Duration::from_millis(pause.into()))
    }

    /// Makes threads without a number look for one, and tell whether they use sequences.
    pub(crate) fn ask_without_number(&self) {
        let w = &self.without_number;
        if !w.any.swap(false, Ordering::SeqCst) {
            // Nobody is short of numbers any more.
            w.pause_ms.store(ASK_FIRST, Ordering::Relaxed);
            return;
        }
        let tids = std::mem::take(&mut *w.tids.lock());
        for task in tids.into_iter().filter_map(|tid| self.task(tid)) {
            if task.account.phase() == Phase::User {
                task.restart_soon();
            } else {
                task.rseq_event.store(true, Ordering::SeqCst);
            }
        }
        let pause = w.pause_ms.load(Ordering::Relaxed).clamp(ASK_FIRST, ASK_MOST);
        w.pause_ms.store((pause * 2).min(ASK_MOST), Ordering::Relaxed);
    }
}

/// `rseq(2)`.
///
/// # Errors
/// Those of [`Ctx::register_rseq`] and [`Ctx::unregister_rseq`]; `EINVAL`: unknown flags.
pub(crate) fn sys_rseq(
    cx: &mut Ctx<'_>,
    area: u64,
    len: u32,
    flags: u32,
    signature: u32,
) -> crate::syscall::SysResult {
    match flags {
        UNREGISTER => cx.unregister_rseq(area, len, signature)?,
        0 => cx.register_rseq(area, len, signature)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

fn field(addr: u64, offset: u64) -> UserAddr {
    UserAddr(addr.wrapping_add(offset))
}
