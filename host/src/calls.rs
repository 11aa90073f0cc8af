//! The system calls that ringfence makes once the guest runs: which, with which arguments, and why.
//!
//! The table is the one source of the filter that confines this process ([`crate::filter`]) and of `docs/host-calls.md`.
//! What only the start needs (mapping libraries, opening `/dev/kvm` and the log) happens before the filter stands and has
//! no row.

use std::fmt::Write as _;

use libc::c_long;

/// A bound on one argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Equal to the number.
    Is(u64),
    /// The bits of the first number are as in the second.
    Bits(u64, u64),
    /// Equal to this process's id.
    OwnProcess,
}

/// One argument and its bound; all bounds of a row hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which argument, from 0.
    pub argument: u8,
    /// What it must be.
    pub bound: Bound,
    /// The bound in words.
    pub text: &'static str,
}

/// When a row is part of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In every sandbox.
    Always,
    /// When a host folder is granted for writing.
    Writable,
    /// When a host folder is granted that the host may change meanwhile.
    Shared,
    /// When the sandbox shares the host's network.
    Network,
    /// When guests run in stub processes: the platform systrap.
    Stubs,
}

/// One call, or one form of a call that has several rows.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    /// The name.
    pub name: &'static str,
    /// The x86-64 number.
    pub number: i64,
    /// Bounds on its arguments.
    pub limits: &'static [Limit],
    /// Which threads make it.
    pub threads: &'static str,
    /// In which sandboxes.
    pub when: When,
    /// What it is needed for.
    pub why: &'static str,
}

const fn limit(argument: u8, bound: Bound, text: &'static str) -> Limit {
    Limit { argument, bound, text }
}

/// `PROT_EXEC` of the third argument is not set: no new code in this process.
const NOT_EXECUTABLE: &[Limit] = &[limit(2, Bound::Bits(libc::PROT_EXEC as u64, 0), "never PROT_EXEC")];
const READ_ONLY: &[Limit] = &[limit(
    2,
    Bound::Bits(
        (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64,
        0,
    ),
    "O_RDONLY or O_PATH",
)];
const A_THREAD: &[Limit] = &[limit(
    0,
    Bound::Bits(THREAD_FLAGS, THREAD_FLAGS),
    "CLONE_VM, CLONE_THREAD and CLONE_SIGHAND: a thread, never a process",
)];
const THREAD_FLAGS: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
const OWN_PROCESS: &[Limit] = &[limit(0, Bound::OwnProcess, "this process")];
const OWN_THREADS: &[Limit] = &[limit(0, Bound::OwnProcess, "threads of this process")];

const fn call(
    name: &'static str,
    number: c_long,
    limits: &'static [Limit],
    threads: &'static str,
    why: &'static str,
) -> HostCall {
    HostCall { name, number, limits, threads, when: When::Always, why }
}

const fn writable(
    name: &'static str,
    number: c_long,
    limits: &'static [Limit],
    why: &'static str,
) -> HostCall {
    HostCall { name, number, limits, threads: "tasks", when: When::Writable, why }
}

const fn shared(name: &'static str, number: c_long, threads: &'static str, why: &'static str) -> HostCall {
    HostCall { name, number, limits: &[], threads, when: When::Shared, why }
}

const fn stubs(
    name: &'static str,
    number: c_long,
    limits: &'static [Limit],
    threads: &'static str,
    why: &'static str,
) -> HostCall {
    HostCall { name, number, limits, threads, when: When::Stubs, why }
}

const fn network(
    name: &'static str,
    number: c_long,
    limits: &'static [Limit],
    why: &'static str,
) -> HostCall {
    HostCall { name, number, limits, threads: "tasks", when: When::Network, why }
}

/// A socket's family and type; both flags are always set.
macro_rules! sockets {
    ($family:ident, $kind:ident, $text:literal) => {
        network(
            "socket",
            libc::SYS_socket,
            &[
                limit(0, Bound::Is(libc::$family as u64), stringify!($family)),
                limit(
                    1,
                    Bound::Is((libc::$kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64),
                    stringify!($kind),
                ),
                limit(2, Bound::Is(0), "the family's own protocol"),
            ],
            $text,
        )
    };
}

/// An option of sockets that programs may set.
macro_rules! settable {
    ($level:literal, $value:expr, $name:ident) => {
        network(
            "setsockopt",
            libc::SYS_setsockopt,
            &[
                limit(1, Bound::Is($value as u64), $level),
                limit(2, Bound::Is(libc::$name as u64), stringify!($name)),
            ],
            "options that programs set",
        )
    };
}

/// An ioctl by its request.
macro_rules! request {
    ($name:literal, $request:expr, $threads:literal, $why:literal) => {
        call("ioctl", libc::SYS_ioctl, &[limit(1, Bound::Is($request), $name)], $threads, $why)
    };
}

/// A call whose second argument is a command.
macro_rules! command {
    ($name:literal, $number:expr, $argument:literal, $command:literal, $value:expr, $threads:literal, $why:literal) => {
        call($name, $number, &[limit($argument, Bound::Is($value as u64), $command)], $threads, $why)
    };
}

/// Every call, by what it serves.
pub const CALLS: &[HostCall] = &[
    // Running guests.
    request!("KVM_RUN", 0xae80, "tasks", "runs guest code"),
    request!("KVM_CREATE_VCPU", 0xae41, "tasks", "a guest thread more than ever ran at once"),
    request!(
        "KVM_SET_USER_MEMORY_REGION",
        0x4020_ae46,
        "all",
        "grows the guest's memory, and drops stale tables"
    ),
    request!("KVM_GET_VCPU_MMAP_SIZE", 0xae04, "tasks", "maps a vCPU's registers"),
    request!("KVM_SET_CPUID2", 0x4008_ae90, "tasks", "sets a vCPU up"),
    request!("KVM_SET_MSRS", 0x4008_ae89, "tasks", "sets a vCPU up"),
    request!("KVM_GET_SREGS", 0x8138_ae83, "tasks", "sets a vCPU up"),
    request!("KVM_SET_SREGS", 0x4138_ae84, "tasks", "sets a vCPU up"),
    request!("KVM_SET_XCRS", 0x4188_aea7, "tasks", "sets a vCPU up"),
    request!("KVM_GET_XSAVE", 0x9000_aea4, "tasks", "reads floating-point state"),
    request!("KVM_SET_XSAVE", 0x5000_aea5, "tasks", "writes floating-point state"),
    request!("KVM_SET_MP_STATE", 0x4004_ae99, "tasks", "repairs a vCPU after a triple fault"),
    request!("KVM_SET_VCPU_EVENTS", 0x4040_aea0, "tasks", "repairs a vCPU after a triple fault"),
    request!("KVM_SET_DEVICE_ATTR", 0x4018_aee1, "tasks", "sets a vCPU's time stamp counter"),
    request!("KVM_GET_STATS_FD", 0xaece, "main", "asks what KVM counted, for --counters"),
    request!("KVM_SET_NR_MMU_PAGES", 0xae44, "all", "bounds the memory that KVM's shadow tables take"),
    stubs(
        "tgkill",
        libc::SYS_tgkill,
        &[limit(2, Bound::Is(libc::SIGUSR1 as u64), "SIGUSR1")],
        "all",
        "interrupts a guest thread",
    ),
    stubs(
        "kill",
        libc::SYS_kill,
        &[limit(1, Bound::Is(libc::SIGKILL as u64), "SIGKILL")],
        "all",
        "ends a stub process",
    ),
    stubs("waitid", libc::SYS_waitid, &[], "stub keeper", "learns that a stub process has ended"),
    stubs("wait4", libc::SYS_wait4, &[], "stub keeper", "reaps a stub process"),
    // Memory.
    call(
        "mmap",
        libc::SYS_mmap,
        NOT_EXECUTABLE,
        "all",
        "maps the memory file, a vCPU's registers, stacks, heap",
    ),
    call(
        "mprotect",
        libc::SYS_mprotect,
        NOT_EXECUTABLE,
        "all",
        "guard pages of stacks; heap; takes large pages away from running guests",
    ),
    call("munmap", libc::SYS_munmap, &[], "all", "the reverse"),
    call("mremap", libc::SYS_mremap, &[], "all", "grows large allocations of the heap"),
    call("brk", libc::SYS_brk, &[], "all", "heap"),
    call("madvise", libc::SYS_madvise, &[], "all", "takes pages away from running guests; gives memory back"),
    call("mincore", libc::SYS_mincore, &[], "all", "asks which pages of the memory file exist"),
    call("fallocate", libc::SYS_fallocate, &[], "all", "gives pages of the memory file back"),
    call("ftruncate", libc::SYS_ftruncate, &[], "all", "grows the memory file"),
    call(
        "membarrier",
        libc::SYS_membarrier,
        &[],
        "tasks",
        "orders what vCPUs execute after code has changed",
    ),
    // Files.
    call("openat", libc::SYS_openat, READ_ONLY, "tasks", "opens names beneath handles of granted folders"),
    call("close", libc::SYS_close, &[], "all", "gives handles back"),
    call("newfstatat", libc::SYS_newfstatat, &[], "tasks", "metadata of host files"),
    call("statx", libc::SYS_statx, &[], "tasks", "metadata of host files"),
    call("fstat", libc::SYS_fstat, &[], "tasks", "metadata of host files"),
    call("fstatfs", libc::SYS_fstatfs, &[], "tasks", "statfs of host files"),
    call("getdents64", libc::SYS_getdents64, &[], "tasks", "lists host folders"),
    call("readlinkat", libc::SYS_readlinkat, &[], "tasks", "reads symbolic links; vDSO set-up"),
    call("pread64", libc::SYS_pread64, &[], "all", "reads host files, and KVM's counts"),
    call("fgetxattr", libc::SYS_fgetxattr, &[], "tasks", "extended attributes of host files"),
    call("flistxattr", libc::SYS_flistxattr, &[], "tasks", "extended attributes of host files"),
    call("lseek", libc::SYS_lseek, &[], "tasks", "finds holes of host files and of the memory file"),
    writable("openat", libc::SYS_openat, &[], "opens and makes files in writable folders"),
    writable("pwrite64", libc::SYS_pwrite64, &[], "writes host files"),
    writable("fsync", libc::SYS_fsync, &[], "fsync of host files"),
    writable("syncfs", libc::SYS_syncfs, &[], "sync and syncfs of volumes"),
    writable("fdatasync", libc::SYS_fdatasync, &[], "fdatasync of host files"),
    writable("mkdirat", libc::SYS_mkdirat, &[], "makes folders"),
    writable("mknodat", libc::SYS_mknodat, &[], "makes FIFOs and sockets' names"),
    writable("symlinkat", libc::SYS_symlinkat, &[], "makes symbolic links"),
    writable("linkat", libc::SYS_linkat, &[], "makes hard links"),
    writable("unlinkat", libc::SYS_unlinkat, &[], "removes names"),
    writable("renameat2", libc::SYS_renameat2, &[], "renames"),
    writable("fchmod", libc::SYS_fchmod, &[], "changes modes"),
    writable("fchmodat2", crate::file::SYS_FCHMODAT2, &[], "changes modes of FIFOs and sockets"),
    writable("fchownat", libc::SYS_fchownat, &[], "changes owners"),
    writable("utimensat", libc::SYS_utimensat, &[], "changes times"),
    writable("fsetxattr", libc::SYS_fsetxattr, &[], "changes extended attributes"),
    writable("fremovexattr", libc::SYS_fremovexattr, &[], "removes extended attributes"),
    shared(
        "fanotify_init",
        libc::SYS_fanotify_init,
        "tasks",
        "tells guests of the host's changes of volumes",
    ),
    shared("fanotify_mark", libc::SYS_fanotify_mark, "tasks", "watches what guests watch in volumes"),
    shared("name_to_handle_at", libc::SYS_name_to_handle_at, "tasks", "finds what the host tells of"),
    shared("read", libc::SYS_read, "volume watcher", "the host's changes of volumes"),
    // The standard streams.
    call("read", libc::SYS_read, &[], "tasks", "the standard streams"),
    call("write", libc::SYS_write, &[], "all", "the standard streams; ringfence's own messages"),
    call("writev", libc::SYS_writev, &[], "all", "ringfence's own messages"),
    call("poll", libc::SYS_poll, &[], "tasks, stream watchers", "readiness of the standard streams"),
    command!(
        "fcntl",
        libc::SYS_fcntl,
        1,
        "F_GETFL",
        libc::F_GETFL,
        "tasks",
        "access modes of the standard streams"
    ),
    command!(
        "fcntl",
        libc::SYS_fcntl,
        1,
        "F_DUPFD_CLOEXEC",
        libc::F_DUPFD_CLOEXEC,
        "tasks",
        "duplicates handles"
    ),
    command!(
        "fcntl",
        libc::SYS_fcntl,
        1,
        "F_GETFD",
        libc::F_GETFD,
        "tasks",
        "checks of the standard library"
    ),
    request!("FIONREAD", 0x541b, "tasks", "bytes that wait in a standard stream"),
    request!("TCGETS", 0x5401, "tasks", "settings of the terminal behind the streams"),
    request!("TCSETS", 0x5402, "tasks", "settings of the terminal behind the streams"),
    request!("TCSETSW", 0x5403, "tasks", "settings of the terminal behind the streams"),
    request!("TCSETSF", 0x5404, "tasks", "settings of the terminal behind the streams"),
    request!("TIOCGWINSZ", 0x5413, "tasks", "size of the terminal"),
    request!("TIOCSWINSZ", 0x5414, "tasks", "size of the terminal"),
    request!("TIOCGPGRP", 0x540f, "tasks, console", "whether ringfence is in the terminal's foreground"),
    call(
        "getpgrp",
        libc::SYS_getpgrp,
        &[],
        "tasks, console",
        "whether ringfence is in the terminal's foreground",
    ),
    // The host's network.
    sockets!(AF_INET, SOCK_STREAM, "TCP over IPv4"),
    sockets!(AF_INET6, SOCK_STREAM, "TCP over IPv6"),
    sockets!(AF_INET, SOCK_DGRAM, "UDP over IPv4"),
    sockets!(AF_INET6, SOCK_DGRAM, "UDP over IPv6"),
    network("bind", libc::SYS_bind, &[], "names of sockets"),
    network("connect", libc::SYS_connect, &[], "connections"),
    network("listen", libc::SYS_listen, &[], "connections"),
    network("accept4", libc::SYS_accept4, &[], "connections"),
    network("shutdown", libc::SYS_shutdown, &[], "connections"),
    network("getsockname", libc::SYS_getsockname, &[], "names of sockets"),
    network("getpeername", libc::SYS_getpeername, &[], "names of sockets"),
    network("sendmsg", libc::SYS_sendmsg, &[], "data"),
    network("recvmsg", libc::SYS_recvmsg, &[], "data"),
    network("getsockopt", libc::SYS_getsockopt, &[], "options of sockets"),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_REUSEADDR),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_REUSEPORT),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_KEEPALIVE),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_BROADCAST),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_LINGER),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_OOBINLINE),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_SNDBUF),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_RCVBUF),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_RCVLOWAT),
    settable!("SOL_SOCKET", libc::SOL_SOCKET, SO_TIMESTAMP),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_NODELAY),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_CORK),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_KEEPIDLE),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_KEEPINTVL),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_KEEPCNT),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_QUICKACK),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_DEFER_ACCEPT),
    settable!("IPPROTO_TCP", libc::IPPROTO_TCP, TCP_USER_TIMEOUT),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_TOS),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_TTL),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_PKTINFO),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_RECVERR),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_RECVTTL),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_RECVTOS),
    settable!("IPPROTO_IP", libc::IPPROTO_IP, IP_MTU_DISCOVER),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_V6ONLY),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_UNICAST_HOPS),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_TCLASS),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_RECVPKTINFO),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_RECVERR),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_RECVHOPLIMIT),
    settable!("IPPROTO_IPV6", libc::IPPROTO_IPV6, IPV6_RECVTCLASS),
    network("epoll_ctl", libc::SYS_epoll_ctl, &[], "readiness of sockets"),
    network("epoll_wait", libc::SYS_epoll_wait, &[], "readiness of sockets"),
    network("ioctl", libc::SYS_ioctl, &[limit(1, Bound::Is(0x5411), "SIOCOUTQ")], "bytes on their way"),
    network("ioctl", libc::SYS_ioctl, &[limit(1, Bound::Is(0x8905), "SIOCATMARK")], "urgent data"),
    // Threads, time, signals.
    call(
        "rt_sigtimedwait",
        libc::SYS_rt_sigtimedwait,
        &[],
        "signals",
        "gets the signals that are the program's",
    ),
    call("clone", libc::SYS_clone, A_THREAD, "all", "a host thread for each guest thread"),
    call("exit", libc::SYS_exit, &[], "all", "ends a thread"),
    call("exit_group", libc::SYS_exit_group, &[], "all", "ends the sandbox"),
    call("futex", libc::SYS_futex, &[], "all", "locks, and waiting for other threads"),
    call("rseq", libc::SYS_rseq, &[], "all", "the C library's start of a thread"),
    call("set_robust_list", libc::SYS_set_robust_list, &[], "all", "the C library's start of a thread"),
    call("sigaltstack", libc::SYS_sigaltstack, &[], "all", "start and end of a thread"),
    command!("prctl", libc::SYS_prctl, 0, "PR_SET_NAME", libc::PR_SET_NAME, "all", "names of threads"),
    command!(
        "prctl",
        libc::SYS_prctl,
        0,
        "PR_SET_TIMERSLACK",
        libc::PR_SET_TIMERSLACK,
        "tasks",
        "precise timers"
    ),
    call("gettid", libc::SYS_gettid, &[], "all", "addresses interrupts of threads"),
    call("getpid", libc::SYS_getpid, &[], "all", "addresses interrupts of threads"),
    call("tgkill", libc::SYS_tgkill, OWN_THREADS, "all", "interrupts a vCPU or a wait"),
    call("kill", libc::SYS_kill, OWN_PROCESS, "tasks", "stops this process with the guest's first one"),
    call("rt_sigaction", libc::SYS_rt_sigaction, &[], "all", "handlers of interrupts"),
    call("rt_sigprocmask", libc::SYS_rt_sigprocmask, &[], "all", "start and end of a thread"),
    call("rt_sigreturn", libc::SYS_rt_sigreturn, &[], "all", "leaves a handler"),
    call("restart_syscall", libc::SYS_restart_syscall, &[], "all", "goes on waiting after a stop"),
    call("sched_yield", libc::SYS_sched_yield, &[], "all", "waits for a vCPU that leaves its guest"),
    call("sched_getaffinity", libc::SYS_sched_getaffinity, &[], "all", "the processors that there are"),
    call(
        "sched_setaffinity",
        libc::SYS_sched_setaffinity,
        &[],
        "tasks",
        "sched_setaffinity of guest threads",
    ),
    call(
        "sched_rr_get_interval",
        libc::SYS_sched_rr_get_interval,
        &[],
        "tasks",
        "the guest's call of that name",
    ),
    call("getcpu", libc::SYS_getcpu, &[], "all", "the processor that a thread runs on"),
    call("clock_gettime", libc::SYS_clock_gettime, &[], "all", "clocks that the host's vDSO does not answer"),
    call("clock_nanosleep", libc::SYS_clock_nanosleep, &[], "all", "waits"),
    call("getrandom", libc::SYS_getrandom, &[], "all", "random bytes; seeds of hash tables"),
    call("sysinfo", libc::SYS_sysinfo, &[], "tasks", "memory of the host"),
];

/// The page `docs/host-calls.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Host calls\n\nMade by `cargo run -p ringfence-host --example host_calls` from the table in \
         `host/src/calls.rs`. Once the guest runs, ringfence makes these calls to the host, and a seccomp filter in every \
         one of its threads refuses all others.\n\n| call | arguments | threads | when | why |\n|---|---|---|---|---|\n",
    );
    for row in CALLS {
        let limits: Vec<_> = row.limits.iter().map(|l| l.text).collect();
        let when = match row.when {
            When::Always => "always",
            When::Writable => "a folder is writable",
            When::Shared => "a folder is shared with the host",
            When::Network => "the network is the host's",
            When::Stubs => "on systrap",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {when} | {} |",
            row.name,
            limits.join("; "),
            row.threads,
            row.why
        );
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        let stored = include_str!("../../docs/host-calls.md");
        let current = stored == super::page();
        assert!(current, "run: cargo run -p ringfence-host --example host_calls >docs/host-calls.md");
    }
}
