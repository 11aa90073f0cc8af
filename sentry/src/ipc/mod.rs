//! System V IPC (sysvipc(7); Linux ipc/): shared memory, semaphores, message queues; POSIX message queues.
//!
//! Reading order: this file (names, identifiers and permissions, which the three kinds share), `shm.rs`, `sem.rs`,
//! `msg.rs`, `report.rs` (/proc/sysvipc); `mqueue.rs` and `mqueue_fs.rs` (POSIX).
//!
//! Locks: the tables of a namespace (`IPC`), then one object (`IPC_OBJECT`). No guest memory is touched under either. The
//! last attachment of a segment goes when its areas are dropped, which happens without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EACCES, EEXIST, EIDRM, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM};
use base::cred::{Credentials, cap};
use base::lock::{Lock, rank};

pub mod mqueue;
pub mod mqueue_fs;
pub mod msg;
pub mod report;
pub mod sem;
pub mod shm;

/// `IPC_PRIVATE`: always a new object.
pub const IPC_PRIVATE: i32 = 0;
/// `IPC_CREAT`.
pub const IPC_CREAT: u32 = 0o1000;
/// `IPC_EXCL`.
pub const IPC_EXCL: u32 = 0o2000;
/// `IPC_NOWAIT`.
pub const IPC_NOWAIT: u32 = 0o4000;

/// Bits of an identifier that say which slot (`IPCMNI_SHIFT`).
const INDEX_BITS: u32 = 15;
/// Slots are given out in a circle of at least this many, so that an identifier does not come back soon.
const MIN_CYCLE: usize = 64;
/// Bytes of the sentry's own memory that all namespaces together may hold for messages and semaphores.
const BUDGET: u64 = 256 << 20;

/// Memory that messages and semaphores of a sandbox take from the sentry.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// Takes `bytes`.
    ///
    /// # Errors
    /// `ENOMEM`: nothing is left.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Result<Share, Errno> {
        let add = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= BUDGET);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| ENOMEM)?;
        Ok(Share { budget: self.clone(), bytes })
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Who owns an object and who may use it: `struct ipc64_perm`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are Linux's, see sysvipc(7)")]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
}

impl Perm {
    fn new(key: i32, flags: u32, cred: &Credentials, seq: u16) -> Self {
        Self {
            key,
            uid: cred.euid,
            gid: cred.egid,
            cuid: cred.euid,
            cgid: cred.egid,
            mode: flags & 0o777,
            seq,
        }
    }

    /// Whether `cred` may use the object as the permission bits `wanted` say (`ipcperms`).
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, cred: &Credentials, wanted: u32) -> Result<(), Errno> {
        let requested = wanted >> 6 | wanted >> 3 | wanted;
        let in_group = |gid| cred.egid == gid || cred.in_group(gid);
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if in_group(self.cgid) || in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if requested & !granted & 7 != 0 && !cred.has(cap::IPC_OWNER) { Err(EACCES) } else { Ok(()) }
    }

    /// Whether `cred` may change or remove the object.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_owner(&self, cred: &Credentials) -> Result<(), Errno> {
        let owns = cred.euid == self.cuid || cred.euid == self.uid || cred.has(cap::SYS_ADMIN);
        if owns { Ok(()) } else { Err(EPERM) }
    }

    /// `IPC_SET`.
    pub fn set(&mut self, uid: u32, gid: u32, mode: u32) {
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !0o777 | mode & 0o777;
    }

    /// The structure as 48 bytes.
    pub fn bytes(&self) -> [u8; 48] {
        let mut b = [0; 48];
        let words = [self.key.cast_unsigned(), self.uid, self.gid, self.cuid, self.cgid, self.mode];
        for (slot, word) in b.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        b[24..26].copy_from_slice(&self.seq.to_ne_bytes());
        b
    }
}

/// An object in a table.
pub trait Object {
    /// Its identifier.
    fn id(&self) -> i32;
}

/// What an identifier is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ident {
    /// The identifier.
    pub id: i32,
    /// How often the slots have gone round.
    pub seq: u16,
}

/// Objects of one kind by identifier and key.
#[derive(Debug)]
pub struct Table<T> {
    slots: BTreeMap<usize, Arc<T>>,
    keys: HashMap<i32, usize>,
    max: usize,
    seq: u16,
    last: Option<usize>,
    /// The identifier that the next object is to have (`/proc/sys/kernel/*_next_id`); -1 for any.
    pub wanted: i32,
}

impl<T: Object> Table<T> {
    fn new(max: usize) -> Self {
        Self { slots: BTreeMap::new(), keys: HashMap::new(), max, seq: 0, last: None, wanted: -1 }
    }

    /// The object with identifier `id`.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `EIDRM`: its slot has another one now.
    pub fn get(&self, id: i32) -> Result<Arc<T>, Errno> {
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        let object = self.slots.get(&((id & ((1 << INDEX_BITS) - 1)) as usize)).ok_or(EINVAL)?;
        if object.id().cast_unsigned() == id { Ok(object.clone()) } else { Err(EIDRM) }
    }

    /// The object in slot `index`, for the `*_STAT` commands.
    ///
    /// # Errors
    /// `EINVAL`: the slot is empty.
    pub fn at(&self, index: i32) -> Result<Arc<T>, Errno> {
        let index = usize::try_from(index).map_err(|_| EINVAL)? & ((1 << INDEX_BITS) - 1);
        self.slots.get(&index).cloned().ok_or(EINVAL)
    }

    /// The object that `key` and `flags` ask for (`ipcget`): `open` checks one that exists, `make` makes one.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`; what `open` and `make` give; `ENOSPC`: the table is full.
    pub fn find_or_make(
        &mut self,
        key: i32,
        flags: u32,
        open: impl FnOnce(&T) -> Result<(), Errno>,
        make: impl FnOnce(Ident) -> Result<Arc<T>, Errno>,
    ) -> Result<Arc<T>, Errno> {
        let known = if key == IPC_PRIVATE { None } else { self.keys.get(&key) };
        if let Some(object) = known.and_then(|index| self.slots.get(index)) {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(EEXIST);
            }
            open(object)?;
            return Ok(object.clone());
        }
        if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
            return Err(ENOENT);
        }
        let wanted = std::mem::replace(&mut self.wanted, -1);
        let (index, ident) = if wanted < 0 { self.next_ident()? } else { self.chosen_ident(wanted)? };
        let object = make(ident)?;
        if wanted < 0 {
            self.last = Some(index);
            self.seq = ident.seq;
        }
        self.slots.insert(index, object.clone());
        if key != IPC_PRIVATE {
            self.keys.insert(key, index);
        }
        Ok(object)
    }

    /// Linux ipc/util.c, `ipc_idr_alloc`: slots go round, and each round has another sequence number.
    fn next_ident(&self) -> Result<(usize, Ident), Errno> {
        if self.slots.len() >= self.max {
            return Err(ENOSPC);
        }
        let cycle = (self.slots.len() * 3 / 2).max(MIN_CYCLE).min(self.max);
        let start = self.last.map_or(0, |last| if last + 1 < cycle { last + 1 } else { 0 });
        let free = |i: &usize| !self.slots.contains_key(i);
        let index = (start..cycle).find(free).or_else(|| (0..start).find(free)).ok_or(ENOSPC)?;
        let wrapped = self.last.is_some_and(|last| index <= last);
        let seq = if wrapped { (self.seq + 1) & 0x7fff } else { self.seq };
        let id = (u32::from(seq) << INDEX_BITS) as usize + index;
        Ok((index, Ident { id: i32::try_from(id).map_err(|_| ENOSPC)?, seq }))
    }

    /// The identifier that was asked for, or the next one whose slot is free.
    fn chosen_ident(&self, wanted: i32) -> Result<(usize, Ident), Errno> {
        if self.slots.len() >= self.max {
            return Err(ENOSPC);
        }
        let (seq, from) = (wanted >> INDEX_BITS, (wanted & ((1 << INDEX_BITS) - 1)) as usize);
        let index = (from..1 << INDEX_BITS).find(|i| !self.slots.contains_key(i)).ok_or(ENOSPC)?;
        let id = (seq << INDEX_BITS) | index as i32;
        Ok((index, Ident { id, seq: seq as u16 }))
    }

    /// Sets how many objects there may be.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// How many objects there may be.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Makes a key free again; the object stays until its users have gone.
    pub fn forget_key(&mut self, key: i32, id: i32) {
        let index = (id.cast_unsigned() & ((1 << INDEX_BITS) - 1)) as usize;
        if self.keys.get(&key) == Some(&index) {
            self.keys.remove(&key);
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: i32, id: i32) -> Option<Arc<T>> {
        self.forget_key(key, id);
        let index = (id.cast_unsigned() & ((1 << INDEX_BITS) - 1)) as usize;
        self.slots.get(&index).filter(|o| o.id() == id)?;
        self.slots.remove(&index)
    }

    /// All objects, by slot.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.slots.values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The highest slot in use; 0 for none.
    pub fn highest(&self) -> u64 {
        self.slots.last_key_value().map_or(0, |(&i, _)| i as u64)
    }
}

/// What one IPC namespace may hold, beside the numbers of objects: `/proc/sys/kernel`, `/proc/sys/fs/mqueue`.
#[derive(Debug)]
#[expect(missing_docs, reason = "proc(5) and mq_overview(7) explain each")]
pub struct IpcLimits {
    pub msgmax: AtomicU64,
    pub msgmnb: AtomicU64,
    pub shmmax: AtomicU64,
    /// In pages.
    pub shmall: AtomicU64,
    pub semmsl: AtomicU64,
    pub semmns: AtomicU64,
    pub semopm: AtomicU64,
    pub mq_msg_default: AtomicU64,
    pub mq_msg_max: AtomicU64,
    pub mq_msgsize_default: AtomicU64,
    pub mq_msgsize_max: AtomicU64,
    pub mq_queues_max: AtomicU64,
}

impl Default for IpcLimits {
    fn default() -> Self {
        let (messages, size) = (mqueue::MSG_MAX.cast_unsigned(), mqueue::MSGSIZE_MAX.cast_unsigned());
        Self {
            msgmax: AtomicU64::new(msg::MSGMAX),
            msgmnb: AtomicU64::new(msg::MSGMNB),
            shmmax: AtomicU64::new(shm::SHMMAX),
            shmall: AtomicU64::new(shm::SHMMAX),
            semmsl: AtomicU64::new(sem::SEMMSL as u64),
            semmns: AtomicU64::new(sem::SEMMNS as u64),
            semopm: AtomicU64::new(sem::SEMOPM),
            mq_msg_default: AtomicU64::new(messages),
            mq_msg_max: AtomicU64::new(messages),
            mq_msgsize_default: AtomicU64::new(size),
            mq_msgsize_max: AtomicU64::new(size),
            mq_queues_max: AtomicU64::new(mqueue::QUEUES_MAX as u64),
        }
    }
}

/// All objects of one IPC namespace.
#[derive(Debug)]
pub struct IpcNamespace {
    /// Segments of shared memory.
    pub shm: Lock<Table<shm::Segment>, { rank::IPC }>,
    /// Sets of semaphores.
    pub sem: Lock<Table<sem::SemSet>, { rank::IPC }>,
    /// Message queues.
    pub msg: Lock<Table<msg::MsgQueue>, { rank::IPC }>,
    /// POSIX message queues.
    pub mq: Lock<mqueue::Queues, { rank::IPC }>,
    /// What it may hold.
    pub limits: IpcLimits,
    /// Where their memory comes from.
    pub budget: Arc<Budget>,
}

impl IpcNamespace {
    /// A namespace without objects.
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            shm: Lock::new(Table::new(shm::SHMMNI)),
            sem: Lock::new(Table::new(sem::SEMMNI)),
            msg: Lock::new(Table::new(msg::MSGMNI)),
            mq: Lock::default(),
            limits: IpcLimits::default(),
            budget,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(i32);

    impl Object for Thing {
        fn id(&self) -> i32 {
            self.0
        }
    }

    #[test]
    fn identifiers_go_round_and_old_ones_are_told_apart() {
        let mut table: Table<Thing> = Table::new(100);
        let mut make = || {
            let made = table.find_or_make(0, 0, |_| Ok(()), |i| Ok(Arc::new(Thing(i.id))));
            let id = made.expect("there is room").0;
            table.remove(0, id);
            id
        };
        let ids: Vec<i32> = (0..130).map(|_| make()).collect();
        assert_eq!(ids[..3], [0, 1, 2]);
        assert_eq!(ids[64], 1 << 15);
        assert_eq!(ids[128], 2 << 15);
        let made = table.find_or_make(0, 0, |_| Ok(()), |i| Ok(Arc::new(Thing(i.id)))).expect("room");
        assert_eq!(table.get(made.0 - (1 << 15)).err(), Some(EIDRM));
        assert_eq!(table.get(99).err(), Some(EINVAL));
    }
}
