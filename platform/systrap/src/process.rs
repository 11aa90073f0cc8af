//! Stub processes, and the thread in each that changes its mappings.
//!
//! A batch of calls is written to the command page; the thread makes them and reports. Nothing of that can a guest forge:
//! it can read the command page and cannot write it, and the thread keeps what it needs in registers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::PAGE_SIZE;
use base::lock::{Condition, Lock, LockGuard, rank};
use host::system::{CpuMask, MAX_CPUS};
use platform::Error;

use crate::control::{Area, Control};
use crate::counters::Counters;
use crate::filter::{CLONE_PROCESS, CLONE_THREAD, MAP_GUEST};
use crate::layout::{
    AREA_LEN, AREAS, CONTROL_FD, MEMORY_FD, STUB_END, STUB_MM, STUB_TEXT, STUB_TEXT_LEN, area, mm,
};
use crate::lend::{self, Lender};
use crate::shared::Shared;
use crate::stub::{Kind, turn};
use crate::{sys, template};

/// One call for the thread that changes mappings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    words: [u64; 7],
    kind: Kind,
}

impl Command {
    fn call(number: libc::c_long, args: [u64; 6]) -> Self {
        let [a, b, c, d, e, f] = args;
        Self { words: [number as u64, a, b, c, d, e, f], kind: Kind::Call }
    }

    /// Maps `len` bytes of the memory file.
    pub(crate) fn map(addr: u64, len: u64, protection: u64, offset: u64) -> Self {
        Self::call(libc::SYS_mmap, [addr, len, protection, MAP_GUEST, MEMORY_FD.into(), offset])
    }

    /// The same, and has the host make the translations.
    pub(crate) fn map_filled(addr: u64, len: u64, protection: u64, offset: u64) -> Self {
        let flags = MAP_GUEST | libc::MAP_POPULATE as u64;
        Self::call(libc::SYS_mmap, [addr, len, protection, flags, MEMORY_FD.into(), offset])
    }

    pub(crate) fn unmap(addr: u64, len: u64) -> Self {
        Self::call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0])
    }

    pub(crate) fn protect(addr: u64, len: u64, protection: u64) -> Self {
        Self::call(libc::SYS_mprotect, [addr, len, protection, 0, 0, 0])
    }

    fn map_area(addr: u64, offset: u64) -> Self {
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        Self::call(libc::SYS_mmap, [addr, AREA_LEN, 3, flags, CONTROL_FD.into(), offset])
    }

    fn end() -> Self {
        Self::call(libc::SYS_exit_group, [0; 6])
    }

    fn thread(at: u64) -> Self {
        let args = [CLONE_THREAD, at + AREA_LEN, at + area::TID, at + area::TURN, 0, 0];
        Self { kind: Kind::Thread, ..Self::call(libc::SYS_clone, args) }
    }

    fn process(pid_at: u64) -> Self {
        let args = [CLONE_PROCESS, 0, pid_at, 0, 0, 0];
        Self { kind: Kind::Process, ..Self::call(libc::SYS_clone, args) }
    }
}

/// How a batch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A call failed with this error number; those before it are done.
    Call(i32),
    /// The stub has died.
    Dead,
}

impl Failure {
    pub(crate) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Call(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                Error::Exhausted(format!("systrap: {what}: {error}"))
            }
            Self::Dead => Error::Exhausted(format!("systrap: {what}: the stub process has died")),
        }
    }
}

/// Sends batches to one stub. One thread at a time.
struct Channel {
    seq: u32,
    /// The processors that the stub's thread is bound to.
    bound: Option<Bound>,
}

/// Processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    To(usize),
    AllBut(usize),
}

impl Bound {
    /// The mask of affinity, of what lies `within`; `None` where nothing is left.
    pub(crate) fn mask(self, within: &CpuMask) -> Option<CpuMask> {
        let (mut mask, cpu) = match self {
            Self::To(cpu) => ([0; MAX_CPUS / 64], cpu),
            Self::AllBut(cpu) => (*within, cpu),
        };
        let (word, bit) = (mask.get_mut(cpu / 64)?, 1 << (cpu % 64));
        *word = if matches!(self, Self::To(_)) { bit } else { *word & !bit };
        mask.iter().any(|&word| word != 0).then_some(mask)
    }
}

/// The threads' areas of a stub.
#[derive(Default)]
struct Areas {
    /// By position in the stub.
    list: Vec<Arc<Area>>,
    /// The stub has been reaped: the areas are nobody's.
    is_reaped: bool,
    /// The address space is gone: the areas can be given back once the stub is reaped.
    is_dropped: bool,
}

/// A stub process.
pub(crate) struct Process {
    control: Arc<Control>,
    pid: i32,
    page: u64,
    channel: Lock<Channel, { rank::PLATFORM }>,
    areas: Lock<Areas, { rank::LEAF }>,
    is_dead: AtomicBool,
}

impl Process {
    pub(crate) fn new(control: Arc<Control>, pid: i32, page: u64) -> Self {
        Self {
            control,
            pid,
            page,
            channel: Lock::new(Channel { seq: 0, bound: None }),
            areas: Lock::default(),
            is_dead: AtomicBool::new(false),
        }
    }

    /// Prepares a command page for a stub that is about to be made.
    pub(crate) fn prepare_page(control: &Control, page: u64) {
        control.mapping.store_u64(page + mm::REPORT_AT, page + mm::REPORT);
        control.mapping.store_u64(page + mm::ONE, 1);
    }

    /// Where its command page is in the control file.
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets a thread run on the processors in `mask` only, unless the stub is reaped.
    pub(crate) fn set_affinity(&self, tid: i32, mask: &CpuMask) {
        let areas = self.areas.lock();
        if !areas.is_reaped
            && let Err(e) = host::system::set_affinity(tid, mask)
        {
            log::debug!("systrap: affinity of a guest thread: {e}");
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Makes the stub make the calls of `commands`, in order, until one fails.
    pub(crate) fn run(&self, commands: &[Command]) -> Result<(), Failure> {
        let mut channel = self.channel.lock();
        for batch in commands.chunks(mm::MAX_COMMANDS) {
            self.write(batch, None);
            self.make(&mut channel)?;
        }
        Ok(())
    }

    /// The same, with the help of the guest thread of this stub that waits for the caller, if there is one.
    pub(crate) fn run_beside(&self, shared: &Shared, commands: &[Command]) -> Result<(), Failure> {
        let mut channel = self.channel.lock();
        for batch in commands.chunks(mm::MAX_COMMANDS) {
            self.write(batch, None);
            match lend::offered(self.page, shared) {
                Some(lender) => self.make_lent(&mut channel, shared, &lender)?,
                None => self.make(&mut channel)?,
            }
        }
        Ok(())
    }

    fn write(&self, commands: &[Command], new_page: Option<u64>) {
        let m = &self.control.mapping;
        for (i, command) in commands.iter().enumerate() {
            let at = self.page + mm::COMMANDS + i as u64 * mm::COMMAND_LEN;
            for (j, word) in command.words.iter().enumerate() {
                m.store_u64(at + j as u64 * 8, *word);
            }
            m.store_u64(at + 56, command.kind as u64);
        }
        m.store_u64(self.page + mm::NEW_PAGE, new_page.unwrap_or(0));
        m.swap_u32(self.page + mm::COUNT, commands.len() as u32);
    }

    /// Lets the stub's thread run there only.
    fn bind(&self, channel: &mut Channel, to: Bound, within: &CpuMask) {
        if channel.bound != Some(to)
            && let Some(mask) = to.mask(within)
        {
            self.set_affinity(self.pid, &mask);
            channel.bound = Some(to);
        }
    }

    /// Makes the stub make the calls that were written.
    fn make(&self, channel: &mut Channel) -> Result<(), Failure> {
        let m = &self.control.mapping;
        // On the same processor the hand-over is a switch; to wake another one costs many times that.
        self.bind(channel, Bound::To(host::system::current_cpu()), &[u64::MAX; MAX_CPUS / 64]);
        channel.seq = channel.seq.wrapping_add(1);
        m.swap_u32(self.page + mm::SEQ, channel.seq);
        host::futex::wake(m, self.page + mm::SEQ);
        self.wait(channel.seq)?;
        self.result()
    }

    /// The same, on the processor of a guest thread that waits awake.
    fn make_lent(&self, channel: &mut Channel, shared: &Shared, lender: &Lender<'_>) -> Result<(), Failure> {
        let m = &self.control.mapping;
        let mine = host::system::current_cpu();
        // What the guest says of it is not believed where it is the sentry's own, or not the sandbox's to use.
        let lent = lender.processor().filter(|&cpu| cpu != mine && shared.may_use(cpu));
        self.bind(channel, lent.map_or(Bound::AllBut(mine), Bound::To), &shared.processors);
        channel.seq = channel.seq.wrapping_add(1);
        m.swap_u32(self.page + mm::SEQ, channel.seq);
        if lender.ask() && lend::until(|| m.load_u32(self.page + mm::REPORT) == channel.seq) {
            Counters::add(&shared.counters.lent);
        } else {
            host::futex::wake(m, self.page + mm::SEQ);
            self.wait(channel.seq)?;
        }
        self.result()
    }

    /// How the last batch ended.
    fn result(&self) -> Result<(), Failure> {
        self.take_failure().map_or(Ok(()), |errno| Err(Failure::Call(errno)))
    }

    /// Waits for the report of batch `seq`.
    fn wait(&self, seq: u32) -> Result<(), Failure> {
        let m = &self.control.mapping;
        let at = self.page + mm::REPORT;
        // The wake-up may have given this processor away at once. To yield instead of sleeping would save a wake-up; but
        // on a busy host it gives the processor to others.
        loop {
            let now = m.load_u32(at);
            if now == seq {
                return Ok(());
            }
            if self.is_dead() {
                return Err(Failure::Dead);
            }
            // The death is told by a wake-up, which may come just before the sleep.
            host::futex::wait(m, at, now, Some(Duration::from_millis(100)));
        }
    }

    /// The error number of the command that failed in the last batch.
    fn take_failure(&self) -> Option<i32> {
        let m = &self.control.mapping;
        let at = self.page + mm::FAILED;
        let word = (0..mm::ERRNOS).step_by(8).find(|i| m.load_u64(at + i) != 0)?;
        let bytes = m.load_u64(at + word);
        m.store_u64(at + word, 0);
        Some(word as i32 + bytes.trailing_zeros() as i32 / 8)
    }

    /// Makes a guest thread, which stops before its first user instruction; returns its area, and where it is in the
    /// stub.
    pub(crate) fn new_thread(&self) -> Result<(Arc<Area>, u64), Error> {
        let area = self.control.take_area()?;
        let offset = area.offset();
        let position = {
            let mut areas = self.areas.lock();
            areas.list.push(area.clone());
            areas.list.len() as u64 - 1
        };
        if position >= crate::layout::MAX_AREAS {
            return Err(Error::Exhausted("systrap: too many threads in a process".into()));
        }
        let at = AREAS + position * AREA_LEN;
        let m = &self.control.mapping;
        m.store_u64(offset + area::STACK, at + PAGE_SIZE);
        // SS_AUTODISARM: each frame begins at the top of the stack, wherever the guest's stack pointer is.
        m.store_u64(offset + area::STACK + 8, 1 << 31);
        m.store_u64(offset + area::STACK + 16, AREA_LEN - PAGE_SIZE);
        m.swap_u32(offset + area::TURN, turn::GUEST);
        self.run(&[Command::map_area(at, offset), Command::thread(at)])
            .map_err(|e| e.into_error("a guest thread (limits on processes, RLIMIT_NPROC and pids.max)"))?;
        Ok((area, at))
    }

    /// Removes all guest memory and ends the stub. When it returns, no user code can reach guest memory.
    pub(crate) fn finish(&self) {
        let mut channel = self.channel.lock();
        self.write(&[Command::unmap(PAGE_SIZE, STUB_TEXT - PAGE_SIZE)], None);
        if self.make(&mut channel).is_err() {
            self.kill_and_wait();
        } else {
            let m = &self.control.mapping;
            let end = Command::end();
            for (j, word) in end.words.iter().enumerate() {
                m.store_u64(self.page + mm::COMMANDS + j as u64 * 8, *word);
            }
            m.swap_u32(self.page + mm::SEQ, channel.seq.wrapping_add(1));
            host::futex::wake(m, self.page + mm::SEQ);
        }
        drop(channel);
        let mut areas = self.areas.lock();
        areas.is_dropped = true;
        self.give_back(areas);
    }

    /// Kills the stub, unless it is reaped already.
    pub(crate) fn kill(&self) {
        let areas = self.areas.lock();
        if !areas.is_reaped {
            sys::kill(self.pid);
        }
    }

    /// Kills the stub and waits until it is dead: what it maps may be given to others then.
    pub(crate) fn kill_and_wait(&self) {
        self.kill();
        while !self.is_dead() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal to a thread, unless the stub is reaped.
    pub(crate) fn signal(&self, tid: i32, signal: i32) {
        // The caller may hold a leaf: who runs where. Nobody takes the two the other way round.
        let areas = self.areas.lock_same_rank();
        if !areas.is_reaped {
            sys::signal_thread(self.pid, tid, signal);
        }
    }

    /// The stub has ended and is about to be reaped.
    fn ended(&self) {
        let mut areas = self.areas.lock();
        areas.is_reaped = true;
        self.is_dead.store(true, Ordering::SeqCst);
        let m = &self.control.mapping;
        for area in &areas.list {
            m.swap_u32(area.offset() + area::TURN, turn::DEAD);
            host::futex::wake(m, area.offset() + area::TURN);
        }
        host::futex::wake(m, self.page + mm::REPORT);
        self.give_back(areas);
    }

    /// Gives areas and page back once neither the stub nor the address space needs them.
    fn give_back(&self, mut areas: LockGuard<'_, Areas, { rank::LEAF }>) {
        if areas.is_reaped && areas.is_dropped {
            let list = std::mem::take(&mut areas.list);
            drop(areas);
            drop(list);
            self.control.give_page(self.page);
        }
    }
}

/// All stubs that were made and not reaped.
pub(crate) struct Family {
    pub(crate) control: Arc<Control>,
    template: Process,
    /// The template's word for the process IDs of its clones.
    pid_area: OnceLock<Arc<Area>>,
    known: Lock<Known, { rank::LEAF }>,
    over: Condition,
    made: AtomicU64,
}

#[derive(Default)]
struct Known {
    living: HashMap<i32, Arc<Process>>,
    /// Reaped before they were known.
    unknown_dead: Vec<i32>,
    /// All are reaped, the template too.
    is_over: bool,
}

impl Family {
    /// The family of a template that waits for its first command.
    pub(crate) fn new(control: Arc<Control>, pid: i32, page: u64) -> Self {
        Self {
            template: Process::new(control.clone(), pid, page),
            control,
            pid_area: OnceLock::new(),
            known: Lock::default(),
            over: Condition::new(),
            made: AtomicU64::new(0),
        }
    }

    /// Takes from the template all that is left of the sentry.
    pub(crate) fn empty_template(&self) -> Result<(), Error> {
        let pid_area = self.control.take_area()?;
        let gone = |from: u64, to: u64| Command::unmap(from, to - from);
        self.template
            .run(&[
                gone(0, STUB_TEXT),
                gone(STUB_TEXT + STUB_TEXT_LEN, STUB_MM),
                gone(STUB_MM + PAGE_SIZE, STUB_END),
                Command::map_area(AREAS, pid_area.offset()),
            ])
            .map_err(|e| match e {
                Failure::Dead => template::failure(&self.control.mapping, self.template.page),
                e => e.into_error("emptying the template"),
            })?;
        self.pid_area.set(pid_area).map_err(|_| Error::Broken("systrap: the template is used twice".into()))
    }

    /// Stubs made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Makes a stub without guest memory.
    pub(crate) fn new_process(&self) -> Result<Arc<Process>, Error> {
        let pid_area = self.pid_area.get().ok_or_else(|| Error::Broken("systrap: no template".into()))?;
        let page = self.control.take_page()?;
        Process::prepare_page(&self.control, page);
        let mut channel = self.template.channel.lock();
        let pid_at = AREAS + area::TID;
        self.template.write(&[Command::process(pid_at)], Some(page));
        if let Err(e) = self.template.make(&mut channel) {
            drop(channel);
            self.control.give_page(page);
            return Err(e.into_error("a stub process (limits on processes, RLIMIT_NPROC and pids.max)"));
        }
        let pid = self.control.mapping.load_u32(pid_area.offset() + area::TID).cast_signed();
        drop(channel);
        self.made.fetch_add(1, Ordering::Relaxed);
        let process = Arc::new(Process::new(self.control.clone(), pid, page));
        let mut known = self.known.lock();
        if let Some(i) = known.unknown_dead.iter().position(|&p| p == pid) {
            known.unknown_dead.swap_remove(i);
            drop(known);
            process.ended();
        } else {
            known.living.insert(pid, process.clone());
            drop(known);
        }
        Ok(process)
    }

    /// Ends the template and all stubs.
    pub(crate) fn end(&self) {
        self.template.kill();
        let living: Vec<Arc<Process>> = self.known.lock().living.values().cloned().collect();
        for process in living {
            process.kill();
        }
    }

    /// Waits until all stubs are reaped, for `limit` at most; says whether they are.
    pub(crate) fn wait_for_end(&self, limit: Duration) -> bool {
        let mut known = self.known.lock();
        while !known.is_over && !self.over.wait_for(&mut known, limit) {}
        known.is_over
    }

    /// Reaps stubs as they end; returns when the template and all others have.
    pub(crate) fn reap(&self) {
        while let Some(pid) = sys::wait_for_stub() {
            let process = {
                let mut known = self.known.lock();
                let process = known.living.remove(&pid);
                if process.is_none() && pid != self.template.pid {
                    known.unknown_dead.push(pid);
                }
                process
            };
            if let Some(process) = process {
                process.ended();
            } else if pid == self.template.pid {
                self.template.ended();
            }
            sys::reap(pid);
        }
        self.known.lock().is_over = true;
        self.over.notify_all();
    }
}
