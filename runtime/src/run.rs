//! `ringfence run`: a program in a fresh sandbox.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EACCES, EMFILE, ENFILE, ENOENT, ENOEXEC, ENOMEM, ENOTDIR};
use base::cred::Credentials;
use base::memmap::Memory;
use fs::vfs::{MountNamespace, Walk};
use platform::Platform;
use sentry::syscall::system::NR_OPEN;
use sentry::task::clone::{FirstTask, start_first};
use sentry::task::{FdTable, FsContext};
use sentry::{Kernel, Setup};

use crate::volume::Volume;
use crate::{FAILED, choose, complain};

/// Options of `ringfence run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The platform: auto, kvm or systrap.
    #[arg(long, env = "RINGFENCE_PLATFORM", default_value = "auto", value_parser = choose::NAMES)]
    platform: String,
    /// The host directory or erofs image that becomes the root, read-only beneath an in-memory overlay.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Show a directory or file of the host in the sandbox; OPTIONS are ro or rw (the default), and shared (the default:
    /// the host may change it meanwhile) or exclusive, separated by commas.
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:OPTIONS]")]
    volumes: Vec<Volume>,
    /// The working directory in the sandbox (default: the host's, if it exists there).
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// Set an environment variable; given once or more, the program gets these variables only.
    #[arg(long = "env", value_name = "K=V")]
    env: Vec<String>,
    /// User and group that the program runs as.
    #[arg(long, value_name = "UID[:GID]", default_value = "0:0")]
    user: String,
    /// The host name.
    #[arg(long, default_value = "ringfence")]
    hostname: String,
    /// The network: none (a loopback of the sandbox's own) or host (TCP and UDP through the host's network).
    #[arg(long, default_value = "none", value_parser = ["none", "host"])]
    net: String,
    /// No address space randomisation.
    #[arg(long)]
    no_aslr: bool,
    /// Memory that the sandbox may have, such as 512M or 4G: a process that wants more is killed.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Threads that the sandbox may have at once, all processes together.
    #[arg(long, value_name = "N", default_value_t = 32768, value_parser = clap::value_parser!(u32).range(1..=32768))]
    pids: u32,
    /// Write ringfence's own messages to FILE, at the level that RUST_LOG names (default: info).
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print system calls to stderr as strace does; with NAMES (separated by commas) only those.
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    strace: Option<String>,
    /// Print time, calls and errors for each system call at the end.
    #[arg(short = 'c', long)]
    strace_summary: bool,
    /// Patch no call sites: every system call leaves the guest.
    #[arg(long)]
    no_patch: bool,
    /// Print counters to stderr at the end.
    #[arg(long)]
    counters: bool,
    /// The KVM device.
    #[arg(long, default_value = "/dev/kvm")]
    kvm_device: PathBuf,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<std::ffi::OsString>,
}

/// A failure that ends `run` before the program starts: exit status and text.
struct Failure(u8, String);

impl Failure {
    fn own(text: impl Into<String>) -> Self {
        Self(FAILED, text.into())
    }
}

/// Runs the program; returns the exit status.
pub(crate) fn run(options: &Options) -> u8 {
    let result = try_run(options);
    host::terminal::restore();
    match result {
        Ok(status) => status,
        Err(Failure(status, text)) => {
            complain(&text);
            status
        }
    }
}

fn try_run(options: &Options) -> Result<u8, Failure> {
    host::terminal::block_signals(&crate::streams::FORWARDED);
    let calibration = sentry::time::Calibration::begin();
    let umask = host::system::creation_mask();
    let rlimits = inherited_limits()?;
    let nice = host::system::nice();
    host::system::raise_descriptor_limit().map_err(|e| Failure::own(format!("limit of descriptors: {e}")))?;
    start_log(options)?;
    let cred = parse_user(&options.user)?;
    // Tracing is to show every call.
    let patch = !options.no_patch && options.strace.is_none() && !options.strace_summary;
    let kvm = platform_kvm::Options { device: options.kvm_device.clone(), patch, ..Default::default() };
    let platform = choose::make(&options.platform, &kvm).map_err(Failure::own)?;
    if let Some(size) = options.memory {
        platform.memory().set_budget(size);
        // What files leave in memory is to be a part of it only: their pages, and 1 KiB or so for each name.
        fs::hostfs::set_cache_limit((size / 4).min(256 << 20));
        fs::vfs::cache::set_limit(usize::try_from(size >> 14).unwrap_or(usize::MAX).min(64 << 10));
    }
    let memory: Arc<dyn Memory> = platform.memory().clone();
    let terminals = fs::tty::Terminals::new();
    let mounts = make_mounts(options, &memory, &terminals)?;
    let kernel = Kernel::new(Setup {
        platform: platform.clone(),
        calibration,
        mounts: mounts.clone(),
        terminals: terminals.clone(),
        aslr: !options.no_aslr,
        hostname: options.hostname.clone(),
        max_tasks: options.pids as usize,
        tracer: make_tracer(options)?,
        net: make_network(options)?,
    })
    .map_err(|e| Failure::own(format!("kernel: {e}")))?;
    mount_kernel_files(&kernel)?;
    crate::volume::check_exclusive(&options.volumes).map_err(Failure::own)?;
    for volume in &options.volumes {
        volume.mount(&mounts, &memory).map_err(Failure::own)?;
    }

    let files = Arc::new(FdTable::default());
    let console = crate::streams::open(&kernel, &files, &cred)
        .map_err(|e| Failure::own(format!("standard streams: {e}")))?;
    crate::streams::forward_signals(&kernel).map_err(|e| Failure::own(format!("signals: {e}")))?;
    let root = mounts.root();
    let walk = Walk { root: root.clone(), base: root.clone(), cred: &cred, umask: 0 };
    let cwd = match &options.cwd {
        Some(dir) => walk
            .resolve(dir.as_os_str().as_bytes(), true)
            .map_err(|e| Failure::own(format!("--cwd: {}: {e}", dir.display())))?,
        None => std::env::current_dir()
            .ok()
            .and_then(|d| walk.resolve(d.as_os_str().as_bytes(), true).ok())
            .unwrap_or_else(|| root.clone()),
    };
    let env: Vec<Vec<u8>> = if options.env.is_empty() {
        std::env::vars_os().map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat()).collect()
    } else {
        options.env.iter().map(|e| e.clone().into_bytes()).collect()
    };
    let args: Vec<Vec<u8>> = options.program.iter().map(|a| a.clone().into_vec()).collect();
    let path = find_program(&root, &cwd, &cred, &args[0], &env)?;
    let shown = String::from_utf8_lossy(&args[0]).into_owned();
    let writable = options.volumes.iter().any(Volume::is_writable);
    host::filter::confine(host::filter::Needs {
        writable,
        shared: options.volumes.iter().any(Volume::is_shared),
        stubs: platform.name() == "systrap",
        network: options.net == "host",
    })
    .map_err(|e| Failure::own(format!("seccomp filter on ringfence itself: {e}")))?;
    start_first(FirstTask {
        kernel: kernel.clone(),
        files,
        terminal: console.as_ref().map(|c| c.terminal().clone()),
        fs: FsContext { mounts: mounts.clone(), root, cwd, umask },
        cred,
        path,
        args,
        env,
        rlimits,
        nice,
    })
    .map_err(|e| program_failure(&shown, e))?;
    log::info!("platform {}; running {shown}", platform.name());
    let status = kernel.wait_for_end();
    fs::hostfs::flush();
    if let Some(console) = console {
        console.finish();
    }
    log::info!("{shown} ended with wait status {status:#x}; counters: {:?}", platform.counters());
    if let Some(tracer) = kernel.tracer.as_ref().filter(|t| t.summary) {
        eprint!("{}", tracer.summary_text());
    }
    if options.counters {
        print_counters(&kernel, platform.as_ref());
    }
    platform.shutdown();
    let code = if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) };
    Ok(u8::try_from(code).unwrap_or(FAILED))
}

/// The limits that the program inherits, as it would natively; descriptors stay within what the sentry's tables hold.
fn inherited_limits() -> Result<[(u64, u64); 16], Failure> {
    let mut limits =
        host::system::resource_limits().map_err(|e| Failure::own(format!("resource limits: {e}")))?;
    let (soft, hard) = &mut limits[7];
    *soft = (*soft).min(NR_OPEN);
    *hard = (*hard).min(NR_OPEN);
    Ok(limits)
}

fn start_log(options: &Options) -> Result<(), Failure> {
    let Some(path) = &options.log else { return Ok(()) };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| Failure::own(format!("--log: {}: {e}", path.display())))?;
    let level = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(level).target(env_logger::Target::Pipe(Box::new(file))).init();
    Ok(())
}

fn make_tracer(options: &Options) -> Result<Option<sentry::strace::Tracer>, Failure> {
    if options.strace.is_none() && !options.strace_summary {
        return Ok(None);
    }
    let names = options.strace.as_deref().unwrap_or("");
    sentry::strace::Tracer::new(options.strace.is_some(), names, options.strace_summary).map(Some).map_err(
        |name| Failure::own(format!("--strace: no system call is named {name}; see ringfence syscalls")),
    )
}

fn print_counters(kernel: &Kernel, platform: &dyn Platform) {
    use std::sync::atomic::Ordering;
    eprintln!("{:<24} {}", "syscalls", kernel.syscalls.load(Ordering::Relaxed));
    eprintln!("{:<24} {}", "page_faults", kernel.faults.load(Ordering::Relaxed));
    for (name, value) in platform.counters() {
        eprintln!("{name:<24} {value}");
    }
}

fn program_failure(name: &str, e: Errno) -> Failure {
    match e {
        ENOENT | ENOTDIR => Failure(127, format!("{name}: not found")),
        ENOEXEC => Failure(126, format!("{name}: not an ELF program or a script")),
        EMFILE | ENFILE | ENOMEM => Failure::own(format!("{name}: the host is out of resources: {e}")),
        EACCES => Failure(126, format!("{name}: not executable")),
        e => Failure(126, format!("{name}: cannot be run: {e}")),
    }
}

/// Bytes from a number with an optional K, M, G or T (powers of 1024).
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err("expected a size such as 512M or 4G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a size such as 512M or 4G".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or("the size is too large")?;
    if bytes < 16 << 20 { Err("at least 16M".to_owned()) } else { Ok(bytes & !4095) }
}

fn parse_user(text: &str) -> Result<Credentials, Failure> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(Credentials::user(uid, gid)),
        _ => Err(Failure::own(format!("--user: expected UID or UID:GID, got {text}"))),
    }
}

/// The network of the sandbox.
fn make_network(options: &Options) -> Result<Arc<net::Namespace>, Failure> {
    if options.net == "none" {
        return Ok(net::Namespace::new());
    }
    let host = net::hostnet::Host::start().map_err(|e| Failure::own(format!("--net host: {e}")))?;
    Ok(net::Namespace::with_host(host))
}

/// What `--root` names: a folder of the host, or an erofs image.
fn root_of(path: &Path, memory: &Arc<dyn Memory>) -> Result<Arc<dyn fs::vfs::Inode>, Failure> {
    let fail = |e: Errno| Failure::own(format!("--root: {}: {e}", path.display()));
    if !path.is_file() {
        return fs::hostfs::new(memory.clone(), path, fs::hostfs::Mode::READ_ONLY).map_err(fail);
    }
    let image =
        std::fs::File::open(path).map_err(|e| Failure::own(format!("--root: {}: {e}", path.display())))?;
    fs::erofs::new(memory.clone(), image.into()).map_err(|e| {
        let why = if e == abi::errno::EINVAL {
            "no erofs image, or one with compressed files".into()
        } else {
            e.to_string()
        };
        Failure::own(format!("--root: {}: {why}", path.display()))
    })
}

fn make_mounts(
    options: &Options,
    memory: &Arc<dyn Memory>,
    terminals: &Arc<fs::tty::Terminals>,
) -> Result<Arc<MountNamespace>, Failure> {
    let dir = options.root.as_path();
    let fail = |what: &str, e: Errno| Failure::own(format!("{what}: {e}"));
    let devices = fs::devfs::open_device(memory.clone(), Some(terminals.open_device()));
    let lower = root_of(dir, memory)?;
    let upper = fs::tmpfs::with_devices(memory.clone(), 0o755, Some(devices.clone()));
    let root = fs::overlay::new(lower, upper).map_err(|e| fail("overlay", e))?;
    let mounts = MountNamespace::with_root(root, "overlay", "overlay", false);
    let cred = Credentials::root();
    let top = mounts.root();
    let walk = Walk { root: top.clone(), base: top, cred: &cred, umask: 0 };
    if walk.resolve(b"/dev", true).is_err() {
        walk.mkdir(b"/dev", 0o755).map_err(|e| fail("/dev", e))?;
    }
    let at = walk.resolve(b"/dev", true).map_err(|e| fail("/dev", e))?;
    let dev = fs::devfs::new(memory.clone(), devices).map_err(|e| fail("/dev", e))?;
    mounts.mount(&at, dev, "devtmpfs", "dev", false).map_err(|e| fail("/dev", e))?;
    let at = walk.resolve(b"/dev/pts", true).map_err(|e| fail("/dev/pts", e))?;
    mounts
        .mount(&at, terminals.first().root(), "devpts", "devpts", false)
        .map_err(|e| fail("/dev/pts", e))?;
    for name in [&b"/proc"[..], b"/sys"] {
        let shown = String::from_utf8_lossy(name).into_owned();
        if walk.resolve(name, true).is_err() {
            walk.mkdir(name, 0o755).map_err(|e| fail(&shown, e))?;
        }
    }
    Ok(mounts)
}

/// Covers the host's /proc and /sys, which tell of the host and reach into it (/proc/self is ringfence itself).
fn mount_kernel_files(kernel: &Arc<Kernel>) -> Result<(), Failure> {
    let mounts = &kernel.mounts;
    let cred = Credentials::root();
    let top = mounts.root();
    let walk = Walk { root: top.clone(), base: top, cred: &cred, umask: 0 };
    let proc =
        sentry::proc::new_procfs(kernel, kernel.namespaces.pid_for_children.clone(), Vec::new(), Vec::new());
    let sys = sentry::proc::new_sysfs(kernel);
    let groups = sentry::cgroup::new_root(kernel, &kernel.cgroups);
    let all = [
        ("/proc", proc, "proc", false),
        ("/sys", sys, "sysfs", true),
        ("/sys/fs/cgroup", groups, "cgroup2", false),
    ];
    for (path, root, fstype, readonly) in all {
        let mount = |at| mounts.mount(&at, root, fstype, fstype, readonly);
        walk.resolve(path.as_bytes(), true)
            .and_then(mount)
            .map_err(|e| Failure::own(format!("{path}: {e}")))?;
    }
    Ok(())
}

/// Finds a program as execvp(3) does.
fn find_program(
    root: &fs::vfs::VfsPath,
    cwd: &fs::vfs::VfsPath,
    cred: &Credentials,
    name: &[u8],
    env: &[Vec<u8>],
) -> Result<Vec<u8>, Failure> {
    if name.contains(&b'/') {
        return Ok(name.to_vec());
    }
    let walk = Walk { root: root.clone(), base: cwd.clone(), cred, umask: 0 };
    let path = env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let mut denied = false;
    for dir in path.split(|&b| b == b':') {
        let candidate = if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() };
        match walk.stat(&candidate, true) {
            Ok(m) if m.mode & 0o170_000 == 0o100_000 && m.mode & 0o111 != 0 => return Ok(candidate),
            Ok(_) => denied = true,
            Err(_) => {}
        }
    }
    let shown = String::from_utf8_lossy(name);
    Err(if denied {
        Failure(126, format!("{shown}: not executable"))
    } else {
        Failure(127, format!("{shown}: not found in PATH"))
    })
}
