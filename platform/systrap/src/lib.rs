//! The systrap platform: guest processes as processes of the host that may make no system call, their threads as threads
//! whose system calls, faults and exceptions become signals.
//!
//! Reading order: `layout.rs` (where things lie), `stub.rs` (the code in the guest's process), `filter.rs` (what it may ask
//! of the host), `template.rs` (the first stub), `control.rs` (shared pages), `process.rs` (stubs and their commands),
//! `nursery.rs` (stubs made ahead), `pieces.rs`, `plan.rs` (what changes), `space.rs` (address spaces), `thread.rs` (registers and turns), `context.rs` (a stay in the guest and its
//! end), `spin.rs`, `kick.rs`, `xstate.rs`, `obstacle.rs` (what a host does not allow); `sys.rs`, `shared.rs`, `counters.rs`.
//!
//! Locks, outer to inner: a space's state (`PAGE_TABLE`; a parent's before its child's), a stub's command page
//! (`PLATFORM`), a runner's state, then a stub's areas (`LEAF`), and the lists of the control file and of living stubs.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use platform::memory::MemoryFile;
use platform::window::Window;
use platform::window::thread::FP_LEN;
use platform::{AddressSpace, Context, Error, Platform, XsaveLayout};

pub mod check;
mod context;
mod control;
mod counters;
mod filter;
mod kick;
pub mod layout;
mod lend;
mod nursery;
mod obstacle;
mod pieces;
mod plan;
mod process;
mod shared;
mod space;
mod spin;
mod stub;
mod sys;
mod template;
mod thread;
mod xstate;

use control::Control;
use nursery::{Nursery, Stub};
use obstacle::refused;
use process::{Family, Process};
use shared::Shared;

/// How to make the platform.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of offsets that the memory file may have.
    pub memory_limit: u64,
    /// Whether system calls are caught by syscall user dispatch where the host has it; else by the filter.
    pub user_dispatch: bool,
    /// Whether hot call sites are patched.
    pub patch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory_limit: 1 << 40, user_dispatch: true, patch: true }
    }
}

/// How long the end of all stubs is waited for; they have been killed then, and die without us.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// The platform.
pub struct SystrapPlatform {
    shared: Arc<Shared>,
}

impl SystrapPlatform {
    /// Makes the template of all guest processes.
    ///
    /// # Errors
    /// One line for people that says what to do.
    pub fn new(options: &Options) -> Result<Arc<Self>, Error> {
        host::thread::install_interrupt_handler()
            .map_err(|e| refused("handler of the interrupt signal", e.raw()))?;
        if !sys::has_fsgsbase() {
            return Err(Error::Broken(
                "systrap: user code may not set FS.base here: Linux 5.9 or later without nofsgsbase is needed".into(),
            ));
        }
        let memory = MemoryFile::new(options.memory_limit).map_err(|e| refused("memory file", e.raw()))?;
        let family = start_keeper(&memory, options)?;
        let start = number("/proc/sys/vm/mmap_min_addr").unwrap_or(65536).max(base::PAGE_SIZE);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processors = host::system::affinity(0).map_err(|e| refused("its own affinity", e.raw()))?;
        let shared = Arc::new(Shared {
            memory: Arc::new(memory),
            family,
            counters: counters::Counters::default(),
            range: start.next_multiple_of(base::PAGE_SIZE)..layout::STUB_TEXT,
            map_limit: number("/proc/sys/vm/max_map_count")
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(65530)
                .max(256),
            cpus,
            processors,
            lends: cpus > 1 && sys::has_rdtscp(),
            nursery: Nursery::default(),
            frame: OnceLock::new(),
            window: OnceLock::new(),
            round: spin::round_ticks(),
            running: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            has_affinity: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            started: (host::clock::tsc(), host::clock::now_ns(host::clock::HostClock::MonotonicRaw)),
        });
        let platform = Arc::new(Self { shared });
        // The first thread shows what signal frames look like, and whether threads can be made at all.
        platform.shared.nursery.give(Stub::new(&platform.shared)?);
        if options.patch {
            let shared = &platform.shared;
            let xsave = shared.xsave_layout();
            // What does not fit a thread's page is not stored there.
            let features = if xsave.size as u64 <= FP_LEN { xsave.features } else { 0 };
            let window = Window::new(&*shared.memory, layout::WINDOW.start, features, Some(stub::sleep()))
                .map_err(|e| Error::Exhausted(format!("systrap: window of call sites: {e}")))?;
            shared.window.get_or_init(|| Arc::new(window));
        }
        Ok(platform)
    }
}

/// A number in a file of the host's /proc.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Starts the thread that makes the template and reaps stubs: they die with the thread that is their parent.
fn start_keeper(memory: &MemoryFile, options: &Options) -> Result<Arc<Family>, Error> {
    let broken = |e: abi::Errno| refused("the stub's code", e.raw());
    let image = stub::Image::new(std::process::id(), options.user_dispatch);
    let text = host::memory::Memfd::create(c"ringfence-stub").map_err(broken)?;
    text.set_len(layout::STUB_TEXT_LEN).map_err(broken)?;
    host::file::write_at(std::os::fd::AsFd::as_fd(&text), 0, image.bytes()).map_err(broken)?;
    let control = Arc::new(Control::new()?);
    let page = control.take_page()?;
    Process::prepare_page(&control, page);
    let thread = |e: std::io::Error| refused("a thread", e.raw_os_error().unwrap_or(0));
    let memory = memory.file().try_clone_to_owned().map_err(thread)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let keeper = move || {
        use std::os::fd::AsFd;
        let setup = template::Setup {
            memory: memory.as_fd(),
            control: control.file.as_fd(),
            mapping: &control.mapping,
            parent: std::process::id(),
            text: text.as_fd(),
            page,
            handler: image.handler(),
        };
        let family = match template::start(&setup) {
            Ok(pid) => Arc::new(Family::new(control.clone(), pid, page)),
            Err(e) => {
                let _ = sender.send(Err(e));
                return;
            }
        };
        drop((text, memory, image));
        let _ = sender.send(Ok(family.clone()));
        family.reap();
    };
    std::thread::Builder::new().name("stub-keeper".into()).spawn(keeper).map_err(thread)?;
    let ended = |_| Error::Broken("systrap: the keeper of stubs has ended".into());
    let family = receiver.recv().map_err(ended)??;
    family.empty_template().inspect_err(|_| {
        family.end();
        let _ = family.wait_for_end(SHUTDOWN_LIMIT);
    })?;
    Ok(family)
}

impl Platform for SystrapPlatform {
    fn name(&self) -> &'static str {
        "systrap"
    }

    fn memory(&self) -> &Arc<MemoryFile> {
        &self.shared.memory
    }

    fn guest_range(&self) -> Range<u64> {
        self.shared.range.clone()
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(space::SystrapSpace::new(self.shared.clone()))
    }

    fn new_context(&self) -> Result<Box<dyn Context>, Error> {
        Ok(Box::new(context::SystrapContext::new(self.shared.clone())))
    }

    fn xsave_layout(&self) -> XsaveLayout {
        self.shared.xsave_layout()
    }

    fn window(&self) -> Option<&Arc<Window>> {
        self.shared.window.get()
    }

    fn tsc_offset(&self) -> Option<i64> {
        Some(0)
    }

    fn shutdown(&self) {
        self.shared.is_ending.store(true, Ordering::SeqCst);
        self.shared.nursery.end();
        self.shared.family.end();
        let _ = self.shared.family.wait_for_end(SHUTDOWN_LIMIT);
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut list = self.shared.counters.list();
        list.push(("stubs", self.shared.family.made()));
        list.extend(self.shared.window.get().iter().flat_map(|window| window.counts.list()));
        list
    }
}

impl Drop for SystrapPlatform {
    fn drop(&mut self) {
        // Also waits until the keeper has made its last host call: the filter of a sandbox on another platform would end
        // the process at the next one.
        self.shutdown();
    }
}
