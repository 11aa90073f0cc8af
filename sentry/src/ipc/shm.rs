//! Segments of shared memory (Linux ipc/shm.c).

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EINVAL, ENOMEM, ENOSPC};
use base::PAGE_SIZE;
use base::cred::Credentials;
use base::lock::{Lock, rank};
use base::memmap::{MapError, Mappable, MappedFile, MappingOrigin, MappingSpace, MemRange, Memory};

use super::{Ident, IpcNamespace, Object, Perm};
use crate::mm::SharedMemory;
use crate::task::current::current;
use crate::time::{Clock, Timekeeper};

/// Most segments.
pub const SHMMNI: usize = 4096;
/// Most bytes of a segment, and most pages of all.
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
/// In the mode: the segment goes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// In the mode: locked in memory.
pub const SHM_LOCKED: u32 = 0o2000;

/// What changes of a segment.
#[derive(Debug)]
pub struct ShmState {
    /// Owner and permissions.
    pub perm: Perm,
    /// When it was made or changed, s.
    pub ctime: i64,
    /// What all areas that show the segment hold: one count for each.
    origin: Weak<ShmOrigin>,
}

/// A segment.
pub struct Segment {
    ident: Ident,
    /// Its length as asked for, bytes.
    pub size: u64,
    /// Its maker's process ID.
    pub cpid: i32,
    /// The process that attached or detached it last; 0 for none.
    pub lpid: AtomicI32,
    /// When it was attached last, s.
    pub atime: AtomicI64,
    /// When it was detached last, s.
    pub dtime: AtomicI64,
    time: Arc<Timekeeper>,
    memory: Arc<SharedMemory>,
    namespace: Weak<IpcNamespace>,
    /// The rest.
    pub state: Lock<ShmState, { rank::IPC_OBJECT }>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("id", &self.ident.id)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Object for Segment {
    fn id(&self) -> i32 {
        self.ident.id
    }
}

/// What a segment is made from.
#[derive(Debug)]
pub struct NewSegment<'a> {
    /// The key.
    pub key: i32,
    /// Bytes.
    pub size: u64,
    /// `IPC_*` and mode.
    pub flags: u32,
    /// The maker.
    pub cred: &'a Credentials,
    /// The maker's process ID.
    pub pid: i32,
    /// RAM plus swap in bytes.
    pub total_memory: u64,
}

impl IpcNamespace {
    /// shmget(2).
    ///
    /// # Errors
    /// `EINVAL`: a size of 0, above the limit, or beyond an existing segment's; `ENOMEM`; and
    /// [`super::Table::find_or_make`]'s.
    pub fn shmget(
        self: &Arc<Self>,
        new: &NewSegment<'_>,
        memory: &Arc<dyn Memory>,
        time: &Arc<Timekeeper>,
    ) -> Result<i32, Errno> {
        let mut table = self.shm.lock();
        let is_limited = self.limits.shmall.load(std::sync::atomic::Ordering::Relaxed) < SHMMAX;
        let pages: u64 =
            if is_limited { table.all().iter().map(|s| s.size.div_ceil(PAGE_SIZE)).sum() } else { 0 };
        let open = |s: &Segment| {
            if s.size < new.size {
                return Err(EINVAL);
            }
            s.state.lock().perm.check(new.cred, new.flags)
        };
        let make = |ident: Ident| {
            if new.size == 0 || new.size > self.limits.shmmax.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(EINVAL);
            }
            if pages.saturating_add(new.size.div_ceil(PAGE_SIZE))
                > self.limits.shmall.load(std::sync::atomic::Ordering::Relaxed)
            {
                return Err(ENOSPC);
            }
            if new.size > new.total_memory {
                return Err(ENOMEM);
            }
            Ok(Arc::new(Segment {
                ident,
                size: new.size,
                cpid: new.pid,
                lpid: AtomicI32::new(0),
                atime: AtomicI64::new(0),
                dtime: AtomicI64::new(0),
                time: time.clone(),
                memory: SharedMemory::new(memory, new.size),
                namespace: Arc::downgrade(self),
                state: Lock::new(ShmState {
                    perm: Perm::new(new.key, new.flags, new.cred, ident.seq),
                    ctime: time.now(Clock::Realtime).as_ns().div_euclid(1_000_000_000),
                    origin: Weak::new(),
                }),
            }))
        };
        table.find_or_make(new.key, new.flags, open, make).map(|s| s.ident.id)
    }

    /// `IPC_RMID`: the segment goes, or is to go with its last attachment.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn remove_segment(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut table = self.shm.lock();
        let segment = table.get(id)?;
        let mut state = segment.state.lock();
        state.perm.check_owner(cred)?;
        let key = std::mem::replace(&mut state.perm.key, super::IPC_PRIVATE);
        state.perm.mode |= SHM_DEST;
        let attached = state.origin.strong_count() > 0;
        drop(state);
        table.forget_key(key, id);
        let gone = if attached { None } else { table.remove(key, id) };
        drop(table);
        drop(gone);
        Ok(())
    }
}

impl Segment {
    fn now(&self) -> i64 {
        self.time.now(Clock::Realtime).as_ns().div_euclid(1_000_000_000)
    }

    /// `CLOCK_REALTIME` as the segment's change time.
    pub fn touch(&self, state: &mut ShmState) {
        state.ctime = self.now();
    }

    /// How many areas show it.
    pub fn attachments(state: &ShmState) -> u64 {
        state.origin.strong_count() as u64
    }

    /// Bytes that it takes now.
    pub fn allocated(&self) -> u64 {
        self.memory.allocated()
    }

    /// As something to map; `state` is this segment's.
    pub fn mapped(self: &Arc<Self>, state: &mut ShmState) -> MappedFile {
        let origin = state.origin.upgrade().unwrap_or_else(|| {
            let origin = Arc::new(ShmOrigin { segment: self.clone(), key: state.perm.key });
            state.origin = Arc::downgrade(&origin);
            origin
        });
        MappedFile { pages: self.clone(), origin }
    }

    fn note(&self, time: &AtomicI64) {
        time.store(self.now(), Ordering::Relaxed);
        if let Some(task) = current() {
            self.lpid.store(task.group.pid, Ordering::Relaxed);
        }
    }
}

impl Mappable for Segment {
    fn translate(&self, offset: u64, max_len: u64, write: bool) -> Result<MemRange, MapError> {
        self.memory.translate(offset, max_len, write)
    }

    fn tracks_dirty(&self) -> bool {
        false
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        self.memory.punch_hole(range)
    }

    fn add_mapping(&self, _: &Weak<dyn MappingSpace>, _: u64, _: u64, _: u64, _: bool) {
        self.note(&self.atime);
    }

    fn remove_mapping(&self, _: &Weak<dyn MappingSpace>, _: u64, _: u64, _: u64, _: bool) {
        self.note(&self.dtime);
    }

    fn sync(&self, _range: Range<u64>) -> Result<(), Errno> {
        Ok(())
    }
}

/// What an area that shows a segment holds.
pub struct ShmOrigin {
    segment: Arc<Segment>,
    key: i32,
}

impl ShmOrigin {
    /// The segment's length, bytes.
    pub fn size(&self) -> u64 {
        self.segment.size
    }
}

impl Drop for ShmOrigin {
    fn drop(&mut self) {
        let Some(namespace) = self.segment.namespace.upgrade() else { return };
        let mut table = namespace.shm.lock();
        let state = self.segment.state.lock();
        // Somebody may have attached it again before we came here.
        let is_over = state.perm.mode & SHM_DEST != 0 && state.origin.strong_count() == 0;
        drop(state);
        let gone = if is_over { table.remove(super::IPC_PRIVATE, self.segment.ident.id) } else { None };
        drop(table);
        drop(gone);
    }
}

impl MappingOrigin for ShmOrigin {
    fn path(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.key).into_bytes()
    }

    fn id(&self) -> (u64, u64) {
        (1, u64::from(self.segment.ident.id.cast_unsigned()))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
