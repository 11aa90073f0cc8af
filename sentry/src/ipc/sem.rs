//! Sets of semaphores (Linux ipc/sem.c).
//!
//! Whoever changes a set finishes the operations of those who wait and can go on now, in their order, and wakes them with
//! the result: nobody tries again for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EAGAIN, EIDRM, EINVAL, ENOSPC, ERANGE};
use base::cred::Credentials;
use base::lock::{Lock, rank};
use base::wait::{Events, Wake};

use super::{IPC_NOWAIT, Ident, IpcNamespace, Object, Perm, Share};
use crate::task::Parker;
use crate::time::{Clock, Timekeeper};

/// Most sets.
pub const SEMMNI: usize = 32000;
/// Most semaphores of a set.
pub const SEMMSL: i32 = 32000;
/// Most semaphores of all sets.
pub const SEMMNS: i32 = 1_024_000_000;
/// Most operations of one call.
pub const SEMOPM: u64 = 500;
/// The highest value.
pub const SEMVMX: i32 = 32767;
/// `SEM_UNDO`.
pub const SEM_UNDO: u16 = 0x1000;
/// The result of a waiter that still waits.
const PENDING: i32 = i32::MAX;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "semop(2) explains each")]
pub struct Operation {
    pub num: u16,
    pub op: i16,
    pub flags: u16,
}

/// One semaphore.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "semctl(2) explains each")]
pub struct Semaphore {
    pub value: i32,
    pub pid: i32,
}

/// Somebody who waits.
#[derive(Debug)]
pub struct Waiter {
    call: Call,
    /// 0, an error number, or `PENDING`.
    result: AtomicI32,
    parker: Arc<Parker>,
}

/// Operations that are done together or not at all.
#[derive(Debug)]
pub struct Call {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The process.
    pub pid: i32,
    /// Whose undo list they go to, when one has `SEM_UNDO`.
    pub undo: Option<u64>,
}

impl Call {
    fn alters(&self) -> bool {
        self.operations.iter().any(|o| o.op != 0)
    }
}

/// What changes of a set.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of struct semid_ds, see semctl(2)")]
pub struct SetState {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub semaphores: Vec<Semaphore>,
    /// What each undo list would add at its end.
    undo: HashMap<u64, (Vec<i16>, Share)>,
    /// With each waiter the operation that it is held up by.
    waiters: VecDeque<(Arc<Waiter>, usize)>,
    is_removed: bool,
}

/// A set of semaphores.
#[derive(Debug)]
pub struct SemSet {
    ident: Ident,
    budget: Arc<super::Budget>,
    time: Arc<Timekeeper>,
    _share: Share,
    /// The rest.
    pub state: Lock<SetState, { rank::IPC_OBJECT }>,
}

impl Object for SemSet {
    fn id(&self) -> i32 {
        self.ident.id
    }
}

/// What an attempt came to.
enum Attempt {
    Done,
    Failed(Errno),
    HeldUpBy(usize),
}

/// What semop(2) came to at first.
#[derive(Debug)]
pub enum Begun {
    /// All operations are done.
    Done,
    /// They will be; sleep until [`Waiter::result`].
    Waits(Arc<Waiter>),
}

impl Waiter {
    /// How the wait ended, if it did.
    pub fn result(&self) -> Option<Result<(), Errno>> {
        match self.result.load(Ordering::Acquire) {
            PENDING => None,
            0 => Some(Ok(())),
            raw => Some(Err(Errno::from_raw(raw).unwrap_or(EINVAL))),
        }
    }

    fn finish(&self, result: Result<(), Errno>) {
        self.result.store(result.map_or_else(|e| e.raw(), |()| 0), Ordering::Release);
        self.parker.wake(Events::IN);
    }
}

impl IpcNamespace {
    /// semget(2).
    ///
    /// # Errors
    /// `EINVAL`: a bad count; `ENOMEM`, `EACCES`; [`super::Table::find_or_make`]'s.
    pub fn semget(
        &self,
        key: i32,
        count: i32,
        flags: u32,
        cred: &Credentials,
        time: &Arc<Timekeeper>,
    ) -> Result<i32, Errno> {
        let count = usize::try_from(count)
            .ok()
            .filter(|&n| n as u64 <= self.limits.semmsl.load(std::sync::atomic::Ordering::Relaxed))
            .ok_or(EINVAL)?;
        let mut table = self.sem.lock();
        let most = self.limits.semmns.load(std::sync::atomic::Ordering::Relaxed);
        let is_limited = most < SEMMNS as u64;
        let used: usize =
            if is_limited { table.all().iter().map(|s| s.state.lock().semaphores.len()).sum() } else { 0 };
        let open = |s: &SemSet| {
            let state = s.state.lock();
            if count > state.semaphores.len() { Err(EINVAL) } else { state.perm.check(cred, flags) }
        };
        let make = |ident: Ident| {
            if count == 0 {
                return Err(EINVAL);
            }
            if (used + count) as u64 > most {
                return Err(ENOSPC);
            }
            let share = self.budget.take((count * size_of::<Semaphore>()) as u64 + 256)?;
            Ok(Arc::new(SemSet {
                ident,
                budget: self.budget.clone(),
                time: time.clone(),
                _share: share,
                state: Lock::new(SetState {
                    perm: Perm::new(key, flags, cred, ident.seq),
                    otime: 0,
                    ctime: seconds(time),
                    semaphores: vec![Semaphore::default(); count],
                    undo: HashMap::new(),
                    waiters: VecDeque::new(),
                    is_removed: false,
                }),
            }))
        };
        table.find_or_make(key, flags, open, make).map(|s| s.ident.id)
    }

    /// `IPC_RMID`: all who wait get `EIDRM`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn remove_set(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut table = self.sem.lock();
        let set = table.get(id)?;
        let mut state = set.state.lock();
        state.perm.check_owner(cred)?;
        state.is_removed = true;
        let waiters = std::mem::take(&mut state.waiters);
        state.undo.clear();
        let key = state.perm.key;
        drop(state);
        table.remove(key, id);
        drop(table);
        for (waiter, _) in waiters {
            waiter.finish(Err(EIDRM));
        }
        Ok(())
    }
}

fn seconds(time: &Timekeeper) -> i64 {
    time.now(Clock::Realtime).as_ns().div_euclid(1_000_000_000)
}

impl SemSet {
    /// semop(2).
    ///
    /// # Errors
    /// `EIDRM`; `EFBIG`: there is no such semaphore; `EACCES`; `ERANGE`; `EAGAIN`: it would wait, and must not; `ENOMEM`.
    pub fn begin(&self, call: Call, cred: &Credentials, parker: &Arc<Parker>) -> Result<Begun, Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(EIDRM);
        }
        let highest = call.operations.iter().map(|o| o.num).max().unwrap_or(0);
        if usize::from(highest) >= state.semaphores.len() {
            return Err(abi::errno::EFBIG);
        }
        let alters = call.alters();
        state.perm.check(cred, if alters { 0o222 } else { 0o444 })?;
        if let Some(list) = call.undo
            && !state.undo.contains_key(&list)
        {
            let count = state.semaphores.len();
            let share = self.budget.take(count as u64 * 2 + 64)?;
            state.undo.insert(list, (vec![0; count], share));
        }
        match state.attempt(&call) {
            Attempt::Done => {
                state.otime = seconds(&self.time);
                if alters {
                    state.update();
                }
                Ok(Begun::Done)
            }
            Attempt::Failed(e) => Err(e),
            Attempt::HeldUpBy(at) => {
                let waiter =
                    Arc::new(Waiter { call, result: AtomicI32::new(PENDING), parker: parker.clone() });
                state.waiters.push_back((waiter.clone(), at));
                Ok(Begun::Waits(waiter))
            }
        }
    }

    /// Stops waiting; false when it was over already.
    pub fn cancel(&self, waiter: &Arc<Waiter>) -> bool {
        let mut state = self.state.lock();
        let before = state.waiters.len();
        state.waiters.retain(|(w, _)| !Arc::ptr_eq(w, waiter));
        state.waiters.len() < before
    }

    /// `SETVAL` and `SETALL`: new values from semaphore `first` on.
    pub fn set_values(&self, state: &mut SetState, first: usize, values: &[i32], pid: i32) {
        for (i, &value) in values.iter().enumerate() {
            if let Some(s) = state.semaphores.get_mut(first + i) {
                *s = Semaphore { value, pid };
            }
        }
        for (adjust, _) in state.undo.values_mut() {
            adjust.iter_mut().skip(first).take(values.len()).for_each(|a| *a = 0);
        }
        state.ctime = seconds(&self.time);
        if state.update() {
            state.otime = seconds(&self.time);
        }
    }

    /// `IPC_SET` was done.
    pub fn touch(&self, state: &mut SetState) {
        state.ctime = seconds(&self.time);
    }

    /// Adds what the list would undo: its last process has ended.
    fn undo(&self, list: u64, pid: i32) {
        let mut state = self.state.lock();
        let Some((adjust, _share)) = state.undo.remove(&list) else { return };
        for (s, by) in state.semaphores.iter_mut().zip(adjust) {
            if by != 0 {
                s.value = (s.value + i32::from(by)).clamp(0, SEMVMX);
                s.pid = pid;
            }
        }
        state.update();
        state.otime = seconds(&self.time);
    }
}

impl SetState {
    /// Does all operations or none.
    fn attempt(&mut self, call: &Call) -> Attempt {
        let mut adjust = call.undo.and_then(|list| self.undo.get_mut(&list));
        let mut outcome = Attempt::Done;
        let mut done = 0;
        for (i, o) in call.operations.iter().enumerate() {
            let Some(s) = self.semaphores.get_mut(usize::from(o.num)) else { break };
            let op = i32::from(o.op);
            let result = s.value + op;
            if (op == 0 && s.value != 0) || result < 0 {
                let refuse = u32::from(o.flags) & IPC_NOWAIT != 0;
                outcome = if refuse { Attempt::Failed(EAGAIN) } else { Attempt::HeldUpBy(i) };
                break;
            }
            if result > SEMVMX {
                outcome = Attempt::Failed(ERANGE);
                break;
            }
            if o.flags & SEM_UNDO != 0
                && let Some((adjust, _)) = &mut adjust
                && let Some(a) = adjust.get_mut(usize::from(o.num))
            {
                let by = i32::from(*a) - op;
                if !(-SEMVMX - 1..=SEMVMX).contains(&by) {
                    outcome = Attempt::Failed(ERANGE);
                    break;
                }
                *a = by as i16;
            }
            s.value = result;
            done = i + 1;
        }
        if matches!(outcome, Attempt::Done) {
            for o in &call.operations {
                if let Some(s) = self.semaphores.get_mut(usize::from(o.num)) {
                    s.pid = call.pid;
                }
            }
            return outcome;
        }
        for o in call.operations[..done].iter().rev() {
            let num = usize::from(o.num);
            if let Some(s) = self.semaphores.get_mut(num) {
                s.value -= i32::from(o.op);
            }
            if o.flags & SEM_UNDO != 0
                && let Some(a) = adjust.as_mut().and_then(|(adjust, _)| adjust.get_mut(num))
            {
                *a = a.wrapping_add(o.op);
            }
        }
        outcome
    }

    /// Whether the operation that held a waiter up still does.
    fn is_held_up(&self, waiter: &Waiter, at: usize) -> bool {
        let Some(o) = waiter.call.operations.get(at) else { return false };
        let value = self.semaphores.get(usize::from(o.num)).map_or(0, |s| s.value);
        if o.op == 0 { value != 0 } else { value + i32::from(o.op) < 0 }
    }

    /// Finishes what can be finished now: those who wait for zeros first, then the others, each in their order. Says
    /// whether there was any.
    fn update(&mut self) -> bool {
        let mut any = false;
        loop {
            any |= self.finish_waiters(false).0;
            let (some, altered) = self.finish_waiters(true);
            any |= some;
            if !altered {
                return any;
            }
        }
    }

    /// One pass over those who wait and whose operations alter the set, or do not; stops after one that altered it while
    /// somebody waits for zeros. Says whether anybody was finished, and whether something changed.
    fn finish_waiters(&mut self, altering: bool) -> (bool, bool) {
        let zeros = self.waiters.iter().any(|(w, _)| !w.call.alters());
        let (mut some, mut altered) = (false, false);
        let mut i = 0;
        while let Some((waiter, at)) = self.waiters.get(i).cloned() {
            if waiter.call.alters() != altering || self.is_held_up(&waiter, at) {
                i += 1;
                continue;
            }
            let result = match self.attempt(&waiter.call) {
                Attempt::Done => Ok(()),
                Attempt::Failed(e) => Err(e),
                Attempt::HeldUpBy(at) => {
                    if let Some(entry) = self.waiters.get_mut(i) {
                        entry.1 = at;
                    }
                    i += 1;
                    continue;
                }
            };
            self.waiters.remove(i);
            some = true;
            altered |= altering && result.is_ok();
            waiter.finish(result);
            if altered && zeros {
                break;
            }
        }
        (some, altered)
    }

    /// How many wait for semaphore `num` to rise, or to become zero (`GETNCNT`, `GETZCNT`).
    pub fn waiting(&self, num: usize, for_zero: bool) -> u64 {
        let counts = |(w, at): &&(Arc<Waiter>, usize)| {
            w.call.operations.get(*at).is_some_and(|o| usize::from(o.num) == num && (o.op == 0) == for_zero)
        };
        self.waiters.iter().filter(counts).count() as u64
    }
}

static NEXT_LIST: AtomicU64 = AtomicU64::new(1);

/// What is to be undone at the end of the last task that shares it (`CLONE_SYSVSEM`).
#[derive(Debug)]
pub struct UndoList {
    id: u64,
    pid: i32,
    sets: Lock<Vec<Weak<SemSet>>, { rank::LEAF }>,
}

impl UndoList {
    /// An empty list of process `pid`.
    pub fn new(pid: i32) -> Arc<Self> {
        Arc::new(Self { id: NEXT_LIST.fetch_add(1, Ordering::Relaxed), pid, sets: Lock::default() })
    }

    /// Says that the list has something to undo in `set`; returns the list's number.
    pub fn join(&self, set: &Arc<SemSet>) -> u64 {
        let mut sets = self.sets.lock();
        if !sets.iter().any(|s| s.as_ptr() == Arc::as_ptr(set)) {
            sets.retain(|s| s.strong_count() > 0);
            sets.push(Arc::downgrade(set));
        }
        self.id
    }
}

impl Drop for UndoList {
    fn drop(&mut self) {
        for set in std::mem::take(self.sets.get_mut()) {
            if let Some(set) = set.upgrade() {
                set.undo(self.id, self.pid);
            }
        }
    }
}
