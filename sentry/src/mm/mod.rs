//! Memory management: guest address spaces, page faults, copy on write, and the only door to guest memory.
//!
//! Reading order: this file; `vma.rs` (what is mapped) with `gaps.rs`; `pma.rs` (which pages are there); `map.rs`
//! (mmap, munmap); `brk.rs`; `protect.rs`; `remap.rs`; `advise.rs`; `mlock.rs`; `fault.rs` (faults, copy on write);
//! `fork.rs`; `user.rs` and `iovec.rs` (copies to and from guests); `futex.rs`; `shared.rs` (memory that is mapped like a
//! file); `report.rs` (/proc); `patch.rs` (call sites).
//!
//! Locks: one lock of rank `MM` guards areas and pages of one address space. Under it: the page cache and the mapping
//! list of a file, page tables, the memory file. A fork takes the child's under the parent's. Copies to and from guest
//! memory hold it for reading, so that no page goes away meanwhile. The last reference to a mapped file is never
//! dropped under it, because closing a file takes outer locks: what is unmapped goes to a list that outlives the guard.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::ENOMEM;
use abi::mman::TASK_SIZE;
use base::PAGE_SIZE;
use base::lock::{RwLock, rank};
use base::memmap::{Access, MappingOrigin, MappingSpace, MemRange, Memory};
use bitflags::bitflags;
use platform::window::Window;
use platform::{AddressSpace, Platform};

mod advise;
mod brk;
mod fault;
mod fork;
mod futex;
mod gaps;
mod iovec;
mod map;
mod mlock;
mod patch;
mod pma;
pub mod policy;
mod protect;
mod remap;
mod report;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod user;
mod vma;

pub use fork::Writers;
pub use futex::{FutexKey, FutexScope};
pub use iovec::{MAX_RW_COUNT, UIO_MAXIOV, UserSink, UserSource};
pub use map::{FileMapping, MapBacking, MapCall, MapRequest, MapType, mmap_base};
pub use patch::InWindow;
pub use report::{Detail, MemoryUse, Region, Sharing};
pub use shared::{SharedMemory, named};
pub use vma::{Backing, STACK_GUARD_GAP, VDSO, VVAR, VmFlags, VmName, VmSizes, Vma};

use patch::{Heat, Patches};
use pma::{Pma, PmaMap};
use vma::VmaSet;

/// `vm.max_map_count`. One process runs one sandbox.
pub static MAX_MAP_COUNT: AtomicUsize = AtomicUsize::new(65530);

/// How many areas an address space may have.
fn max_map_count() -> usize {
    MAX_MAP_COUNT.load(Ordering::Relaxed)
}

/// `vm.mmap_min_addr`.
pub const MMAP_MIN_ADDR: u64 = 65536;

/// The resource limits that memory management asks for, in bytes (`u64::MAX` is `RLIM_INFINITY`). The process that an
/// address space belongs to keeps them current; one that borrows it (vfork) has its own for later.
#[derive(Debug)]
pub struct Limits {
    /// `RLIMIT_AS`.
    pub address_space: AtomicU64,
    /// `RLIMIT_DATA`.
    pub data: AtomicU64,
    /// `RLIMIT_STACK`.
    pub stack: AtomicU64,
    /// `RLIMIT_MEMLOCK`.
    pub memlock: AtomicU64,
}

impl Limits {
    /// Those among a process's resource limits (soft and hard, by number: getrlimit(2)) that bound its memory.
    pub fn of(rlimits: &[(u64, u64); 16]) -> Self {
        let soft = |resource: usize| AtomicU64::new(rlimits[resource].0);
        Self { data: soft(2), stack: soft(3), memlock: soft(8), address_space: soft(9) }
    }
}

impl Default for Limits {
    /// Linux's: 8 MiB of stack and of locked memory, the rest unlimited.
    fn default() -> Self {
        Self {
            address_space: AtomicU64::new(u64::MAX),
            data: AtomicU64::new(u64::MAX),
            stack: AtomicU64::new(8 << 20),
            memlock: AtomicU64::new(8 << 20),
        }
    }
}

bitflags! {
    /// What a caller's capabilities allow here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Privileges: u8 {
        /// `CAP_IPC_LOCK`: no limit on locked memory.
        const IPC_LOCK = 1;
        /// `CAP_SYS_RAWIO`: addresses below [`MMAP_MIN_ADDR`].
        const RAW_IO = 2;
    }
}

/// Where things go in an address space, and what the machine has.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Mappings without an address are placed downwards from here; see [`mmap_base`].
    pub mmap_base: u64,
    /// RAM plus swap in bytes, for the overcommit heuristic.
    pub total_memory: u64,
}

/// What exec recorded about the program, for brk(2), prctl(2) `PR_SET_MM` and /proc.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "proc(5) explains each under /proc/PID/stat")]
pub struct ExecLayout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// The program's file, for /proc/PID/exe.
    pub exe: Option<Arc<dyn MappingOrigin>>,
    /// The auxiliary vector, for /proc/PID/auxv.
    pub auxv: Vec<u8>,
    /// What a core dump would hold, for /proc/PID/coredump_filter.
    pub coredump_filter: CoredumpFilter,
}

/// Kinds of memory that a core dump holds (core(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoredumpFilter(u32);

impl CoredumpFilter {
    /// The kinds that there are (`MMF_DUMP_FILTER_MASK`).
    const KNOWN: u32 = 0x1ff;

    /// The known kinds among `bits`.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & Self::KNOWN)
    }

    /// As bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for CoredumpFilter {
    /// Anonymous memory, private or shared, headers of programs, private huge pages.
    fn default() -> Self {
        Self(0x33)
    }
}

/// Why an access to guest memory cannot be made good.
#[derive(Debug)]
pub enum Fault {
    /// SIGSEGV with `SEGV_MAPERR`: nothing is mapped there.
    NotMapped,
    /// SIGSEGV with `SEGV_ACCERR`: the mapping does not allow it.
    Denied,
    /// SIGBUS with `BUS_ADRERR`: beyond the end of the mapped file.
    Bus,
    /// The sandbox has no memory left: the process is to be killed.
    OutOfMemory,
    /// The platform failed: the sandbox is to end.
    Platform(platform::Error),
}

impl From<platform::Error> for Fault {
    fn from(e: platform::Error) -> Self {
        match e {
            platform::Error::Exhausted(what) => {
                log::warn!("mm: {what}");
                Self::OutOfMemory
            }
            e @ platform::Error::Broken(_) => Self::Platform(e),
        }
    }
}

/// Makes empty page tables.
type NewSpace = Arc<dyn Fn() -> Result<Arc<dyn AddressSpace>, platform::Error> + Send + Sync>;

/// What the lock guards.
struct State {
    memory: Arc<dyn Memory>,
    this: Weak<dyn MappingSpace>,
    vmas: VmaSet,
    pmas: PmaMap,
    patches: Patches,
    layout: ExecLayout,
    /// `LOCKED` flags for new mappings, from mlockall(2).
    def_flags: VmFlags,
    /// Most bytes ever mapped and present.
    peak_vm: u64,
    peak_rss: u64,
}

impl Drop for State {
    /// The page tables are gone already ([`MemoryManager`]'s fields drop in order), so the pages can go.
    fn drop(&mut self) {
        for v in self.vmas.iter() {
            remove_mapping(&self.this, v);
        }
        for (start, p) in self.pmas.take_all() {
            self.memory.dec_ref(pma::pages(start, &p));
        }
        self.patches.release(&*self.memory);
    }
}

/// One guest address space; the threads that live in it share it. To drop the last reference unmaps all files, and may
/// close them: no lock may be held then.
pub struct MemoryManager {
    /// Unique for the life of the sandbox.
    id: u64,
    /// The page tables. Before `state`: dropped first.
    space: Arc<dyn AddressSpace>,
    state: RwLock<State, { rank::MM }>,
    memory: Arc<dyn Memory>,
    new_space: NewSpace,
    limits: Arc<Limits>,
    params: Params,
    /// The addresses that guests may use.
    range: Range<u64>,
    faults: AtomicU64,
    /// Where patched call sites lead.
    window: Option<Arc<Window>>,
    /// There are patched sites, or were.
    patched: AtomicBool,
    /// How often call sites trapped.
    heat: Heat,
    /// Which thread was told which processor.
    pub cpu_numbers: crate::task::rseq::CpuNumbers,
    /// `PR_SET_MDWE`.
    pub(crate) mdwe: AtomicU8,
    /// The contexts of Linux AIO.
    pub(crate) aio: crate::aio::Contexts,
    /// A copy for the sentry's sake ran out of memory; see [`MemoryManager::take_out_of_memory`].
    out_of_memory: AtomicBool,
}

impl std::fmt::Debug for MemoryManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryManager").field("id", &self.id).finish_non_exhaustive()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl MemoryManager {
    /// Makes an empty address space on `platform`.
    ///
    /// # Errors
    /// `ENOMEM`: the platform has no more address spaces.
    pub fn new(
        platform: &Arc<dyn Platform>,
        limits: Arc<Limits>,
        params: Params,
    ) -> Result<Arc<Self>, Errno> {
        let memory: Arc<dyn Memory> = platform.memory().clone();
        let range = platform.guest_range();
        let window = platform.window().cloned();
        let platform = platform.clone();
        Self::on(memory, Arc::new(move || platform.new_address_space()), range, window, limits, params)
    }

    /// Makes an empty address space from parts.
    fn on(
        memory: Arc<dyn Memory>,
        new_space: NewSpace,
        range: Range<u64>,
        window: Option<Arc<Window>>,
        limits: Arc<Limits>,
        params: Params,
    ) -> Result<Arc<Self>, Errno> {
        let space = new_space().map_err(|e| {
            log::warn!("mm: no address space: {e}");
            ENOMEM
        })?;
        let range = range.start.max(PAGE_SIZE)..range.end.min(TASK_SIZE);
        let mut vmas = VmaSet::new(range.clone());
        if let Some(window) = window.as_ref().filter(|w| w.base() < range.end) {
            vmas.reserve(window.base()..window.base() + platform::window::LEN);
        }
        Ok(Arc::new_cyclic(|this: &Weak<Self>| Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            space,
            state: RwLock::new(State {
                memory: memory.clone(),
                this: this.clone(),
                vmas,
                pmas: PmaMap::default(),
                patches: Patches::default(),
                layout: ExecLayout::default(),
                def_flags: VmFlags::empty(),
                peak_vm: 0,
                peak_rss: 0,
            }),
            memory,
            new_space,
            limits,
            params,
            range,
            faults: AtomicU64::new(0),
            window,
            patched: AtomicBool::new(false),
            heat: Heat::default(),
            cpu_numbers: crate::task::rseq::CpuNumbers::default(),
            mdwe: AtomicU8::new(0),
            aio: crate::aio::Contexts::default(),
            out_of_memory: AtomicBool::new(false),
        }))
    }

    /// A number that no other address space of the sandbox has, now or later.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The page tables, for `Context::switch`.
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// The memory file.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// The limits given to `new`.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The end of the usable addresses: `TASK_SIZE`.
    pub fn task_size(&self) -> u64 {
        self.range.end
    }

    /// What exec recorded.
    pub fn layout(&self) -> ExecLayout {
        self.state.read().layout.clone()
    }

    /// Changes what exec recorded: for exec itself and for prctl(2) `PR_SET_MM`.
    pub fn set_layout(&self, change: impl FnOnce(&mut ExecLayout)) {
        let mut st = self.state.write();
        // A file that is replaced is dropped after the lock.
        let old = st.layout.exe.clone();
        change(&mut st.layout);
        drop(st);
        drop(old);
    }

    /// Page faults handled so far, for getrusage(2).
    pub fn fault_count(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Whether a copy to or from guest memory found no memory left since the last call: the process is to be killed.
    pub fn take_out_of_memory(&self) -> bool {
        self.out_of_memory.swap(false, Ordering::Relaxed)
    }

    /// What the platform's tables are to map: nothing for an empty access.
    fn map_piece(&self, start: u64, p: &Pma) -> Result<(), Fault> {
        if p.access.is_empty() {
            return Ok(());
        }
        Ok(self.space.map(start, pma::pages(start, p), p.access)?)
    }

    /// Forgets the pages in `range`; afterwards no guest thread can reach them.
    fn drop_pages(&self, st: &mut State, range: Range<u64>) {
        st.patches.forget(range.clone());
        let removed = st.pmas.remove(range);
        self.release(&removed);
    }

    /// Unmaps pieces, which are in order and not in the table any more, and drops their references.
    fn release(&self, removed: &[(u64, Pma)]) {
        let (Some(&(first, _)), Some(&(_, last))) = (removed.first(), removed.last()) else { return };
        self.space.unmap(first, last.end - first);
        self.drop_refs(removed);
    }

    /// Drops the references of pieces that nobody can reach any more: adjacent ones in one call.
    fn drop_refs(&self, removed: &[(u64, Pma)]) {
        let mut run: Option<MemRange> = None;
        for (start, p) in removed {
            let next = pma::pages(*start, p);
            match &mut run {
                Some(r) if r.end() == next.offset => r.len += next.len,
                _ => {
                    if let Some(r) = run.replace(next) {
                        self.memory.dec_ref(r);
                    }
                }
            }
        }
        if let Some(r) = run {
            self.memory.dec_ref(r);
        }
    }
}

impl State {
    /// Adds an area, and tells its file.
    fn add_vma(&mut self, vma: Vma) {
        if let Backing::File { file, offset } = &vma.backing {
            file.pages.add_mapping(&self.this, vma.start, *offset, vma.len(), vma.may_write_file());
        }
        self.vmas.insert(vma);
        self.peak_vm = self.peak_vm.max(self.vmas.sizes().total);
    }

    /// Takes areas out, and tells their files. The caller drops them after the lock.
    fn remove_vmas(&mut self, range: Range<u64>) -> Vec<Vma> {
        let removed = self.vmas.remove(range);
        for v in &removed {
            remove_mapping(&self.this, v);
        }
        removed
    }

    /// Adds pages.
    fn add_pages(&mut self, start: u64, p: Pma) {
        self.pmas.insert(start, p);
        let (anon, file) = self.pmas.sizes();
        self.peak_rss = self.peak_rss.max(anon + file);
    }
}

/// Tells the file behind `v`, if any, that the area is gone.
fn remove_mapping(this: &Weak<dyn MappingSpace>, v: &Vma) {
    if let Backing::File { file, offset } = &v.backing {
        file.pages.remove_mapping(this, v.start, *offset, v.len(), v.may_write_file());
    }
}

impl MappingSpace for MemoryManager {
    fn invalidate(&self, addr: u64, len: u64, private_too: bool) {
        let mut st = self.state.write();
        let range = addr..addr.saturating_add(len).min(self.range.end);
        let areas: Vec<Range<u64>> = st
            .vmas
            .overlapping(range.clone())
            .filter(|v| !v.is_anonymous())
            .map(|v| v.start.max(range.start)..v.end.min(range.end))
            .collect();
        for area in areas {
            let gone: Vec<Range<u64>> = st
                .pmas
                .overlapping(area)
                .filter(|(_, p)| private_too || !p.anon)
                .map(|(s, p)| s..p.end)
                .collect();
            for piece in gone {
                self.drop_pages(&mut st, piece);
            }
        }
    }
}

/// Whether a mapping with `flags` allows `access`.
fn allows(flags: VmFlags, access: Access) -> bool {
    if flags.contains(VmFlags::GUARD) {
        false
    } else if access.contains(Access::WRITE) {
        flags.contains(VmFlags::WRITE)
    } else if access.contains(Access::EXEC) {
        flags.contains(VmFlags::EXEC)
    } else {
        flags.intersects(VmFlags::ACCESS)
    }
}
