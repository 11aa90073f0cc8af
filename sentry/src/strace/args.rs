//! How each argument of each call is shown.

use abi::UserAddr;
use abi::signal::SigInfo;

use super::flags::{self, Names, bits, one};
use crate::syscall::{Stop, SysResult, table};
use crate::task::Ctx;

/// Bytes of a string that are shown, as strace's `-s 32`.
const STRING: usize = 32;

/// How an argument is shown.
#[derive(Clone, Copy)]
enum Kind {
    Signed,
    Unsigned,
    Pointer,
    Hex,
    Octal,
    DirFd,
    Path,
    /// Bytes that go in; the length is in the next argument.
    BytesIn,
    /// Bytes that come out; the length is the result.
    BytesOut,
    Argv,
    EnvP,
    OpenFlags,
    Bits(Names),
    One(Names),
    MapFlags,
    CloneFlags,
    FutexOp,
    SockType,
    Access,
    Signal,
    SigSetIn,
    SigSetOut,
    SigActionIn,
    SigActionOut,
    StatOut,
    TimespecIn,
    TimespecOut,
    RlimitIn,
    RlimitOut,
    FdPairOut,
    WaitStatusOut,
    IovecIn,
    PollFds,
    UtsOut,
}

/// The kind of argument `arg` (of Rust type `ty`) of call `name`.
fn kind(name: &str, arg: &str, ty: &str) -> Kind {
    use Kind::{
        Access, Argv, Bits, BytesIn, BytesOut, CloneFlags, DirFd, EnvP, FdPairOut, FutexOp, Hex, IovecIn,
        MapFlags, Octal, One, OpenFlags, Path, Pointer, PollFds, RlimitIn, RlimitOut, SigActionIn,
        SigActionOut, SigSetIn, SigSetOut, Signal, Signed, SockType, StatOut, TimespecIn, TimespecOut,
        Unsigned, UtsOut, WaitStatusOut,
    };
    match (name, arg) {
        (_, "dirfd" | "old_dir" | "new_dir") => DirFd,
        ("rt_sigaction", "new") => SigActionIn,
        ("rt_sigaction", "old") => SigActionOut,
        ("rt_sigprocmask", "new") | ("rt_sigsuspend" | "ppoll" | "epoll_pwait", "mask") => SigSetIn,
        ("rt_sigprocmask", "old") => SigSetOut,
        ("prlimit64", "new") | ("setrlimit", "limit") => RlimitIn,
        ("prlimit64", "old") | ("getrlimit", "limit") => RlimitOut,
        ("sigaltstack", _) => Pointer,
        (_, "path" | "target") if ty == "UserAddr" => Path,
        ("rename" | "renameat" | "renameat2" | "link" | "linkat", "old" | "new") => Path,
        ("read" | "pread64" | "readlink" | "readlinkat" | "getcwd" | "getrandom", "buf") => BytesOut,
        ("write" | "pwrite64", "buf") => BytesIn,
        ("stat" | "lstat" | "fstat" | "newfstatat", "buf") => StatOut,
        ("uname", "buf") => UtsOut,
        ("execve" | "execveat", "argv") => Argv,
        ("execve" | "execveat", "envp") => EnvP,
        ("open" | "openat" | "pipe2" | "dup3", "flags") => OpenFlags,
        ("access" | "faccessat" | "faccessat2", "mode") => Access,
        ("fallocate", "mode") => Bits(flags::FALLOCATE),
        (_, "mode") => Octal,
        ("mmap" | "mprotect", "prot") => Bits(flags::PROT),
        ("mmap", "flags") => MapFlags,
        ("mmap", "offset") => Hex,
        (
            "mmap" | "munmap" | "mprotect" | "madvise" | "brk" | "mremap" | "msync" | "mincore" | "mlock"
            | "munlock",
            "addr" | "new_addr",
        ) => Pointer,
        ("mremap", "flags") => Bits(flags::MREMAP),
        ("msync", "flags") => Bits(flags::MSYNC),
        ("madvise", "advice") => One(flags::MADVISE),
        ("newfstatat" | "statx" | "fchownat" | "utimensat" | "linkat", "flags") => Bits(flags::AT),
        ("unlinkat", "flags") => Bits(flags::AT_UNLINK),
        ("faccessat2", "flags") => Bits(flags::AT_ACCESS),
        ("renameat2", "flags") => Bits(flags::RENAME),
        ("lseek", "whence") => One(flags::WHENCE),
        ("fcntl", "command") => One(flags::FCNTL),
        ("flock", _) if arg != "fd" => Bits(flags::LOCK),
        ("ioctl", "request") => One(flags::IOCTL),
        ("ioctl" | "fcntl", "arg") => Hex,
        ("clone", "flags") => CloneFlags,
        ("clone", "stack" | "parent_tid" | "child_tid" | "tls") => Pointer,
        ("wait4", "options") | ("waitid", "options") => Bits(flags::WAIT),
        ("wait4", "status") => WaitStatusOut,
        ("clock_gettime" | "clock_getres", "buf") => TimespecOut,
        (_, "clock") => One(flags::CLOCK),
        ("clock_nanosleep", "flags") => Bits(flags::TIMER),
        ("nanosleep" | "clock_nanosleep", "request") | ("futex" | "ppoll", "timeout") => TimespecIn,
        ("rt_sigprocmask", "how") => One(flags::SIGMASK),
        (_, "signo") => Signal,
        (_, "resource") => One(flags::RLIMIT),
        ("arch_prctl", "code") => One(flags::ARCH),
        ("prctl", "option") => One(flags::PRCTL),
        ("prctl", _) => Hex,
        ("futex", "op") => FutexOp,
        ("getrandom", "flags") => Bits(flags::GRND),
        ("pipe" | "pipe2" | "socketpair", "fds") => FdPairOut,
        ("poll" | "ppoll", "fds") => PollFds,
        ("writev", "iov") => IovecIn,
        ("epoll_ctl", "op") => One(flags::EPOLL_CTL),
        ("epoll_create1", "flags") => Bits(flags::EPOLL_CREATE),
        ("eventfd2", "flags") => Bits(flags::EFD),
        ("memfd_create", "flags") => Bits(flags::MEMFD),
        ("close_range", "flags") => Bits(flags::CLOSE_RANGE),
        ("setitimer" | "getitimer", "which") => One(flags::ITIMER),
        ("socket" | "socketpair", "domain" | "family") => One(flags::FAMILY),
        ("socket" | "socketpair", "kind" | "ty") => SockType,
        ("shutdown", "how") => One(flags::SHUT),
        ("sendto" | "recvfrom" | "sendmsg" | "recvmsg" | "sendmmsg" | "recvmmsg", "flags") => {
            Bits(flags::MSG)
        }
        _ if ty == "UserAddr" => Pointer,
        _ if ty == "i32" || ty == "i64" => Signed,
        _ if arg == "flags" => Hex,
        _ => Unsigned,
    }
}

fn is_out(kind: Kind) -> bool {
    use Kind::{
        BytesOut, FdPairOut, PollFds, RlimitOut, SigActionOut, SigSetOut, StatOut, TimespecOut, UtsOut,
        WaitStatusOut,
    };
    matches!(
        kind,
        BytesOut
            | SigSetOut
            | SigActionOut
            | StatOut
            | TimespecOut
            | RlimitOut
            | FdPairOut
            | WaitStatusOut
            | PollFds
            | UtsOut
    )
}

/// How many of the declared arguments the call's other arguments make meaningful.
fn used(name: &str, raw: [u64; 6], count: usize) -> usize {
    match name {
        "open" if raw[1] & 0o100 == 0 && raw[1] & 0o20200000 != 0o20200000 => 2,
        "openat" if raw[2] & 0o100 == 0 && raw[2] & 0o20200000 != 0o20200000 => 3,
        "fcntl" if matches!(raw[1], 1 | 3 | 9 | 11 | 1025 | 1032 | 1034) => 2,
        "futex" => match raw[1] & 127 {
            1 => 3,
            0 => 4,
            _ => count,
        },
        "mremap" if raw[3] & 6 == 0 => 4,
        _ => count,
    }
}

/// The arguments as they stand before the call; `None` for those that the call fills.
pub(super) fn before(cx: &Ctx<'_>, name: &str, raw: [u64; 6]) -> Vec<Option<String>> {
    let Some(row) = table::ROWS.iter().find(|r| r.name == name && !r.arguments.is_empty()) else {
        let known = table::ROWS
            .iter()
            .any(|r| r.name == name && !matches!(r.support, crate::syscall::Support::Absent));
        return if known { Vec::new() } else { raw.iter().map(|a| Some(format!("{a:#x}"))).collect() };
    };
    let count = used(name, raw, row.arguments.len());
    let describe = |(i, (arg, ty)): (usize, &(&str, &str))| {
        let kind = kind(name, arg, ty);
        if is_out(kind) { None } else { Some(show(cx, kind, i, raw, None)) }
    };
    row.arguments.iter().enumerate().take(count).map(describe).collect()
}

/// All arguments once the call is done.
pub(super) fn after(
    cx: &Ctx<'_>,
    name: &str,
    raw: [u64; 6],
    shown: Vec<Option<String>>,
    result: SysResult,
) -> Vec<String> {
    let row = table::ROWS.iter().find(|r| r.name == name);
    let value = result.ok();
    let finish = |(i, text): (usize, Option<String>)| {
        let declared = row.and_then(|r| r.arguments.get(i));
        match (text, declared) {
            (Some(text), _) => text,
            (None, Some((arg, ty)))
                if value.is_some() || name == "wait4" && !matches!(result, Err(Stop::Fail(_))) =>
            {
                show(cx, kind(name, arg, ty), i, raw, value)
            }
            _ => pointer(raw[i]),
        }
    };
    shown.into_iter().enumerate().map(finish).collect()
}

fn pointer(v: u64) -> String {
    if v == 0 { "NULL".to_owned() } else { format!("{v:#x}") }
}

/// A C string literal of `bytes`, cut after [`STRING`] bytes.
pub(super) fn quote(bytes: &[u8], limit: usize) -> String {
    let mut out = String::from("\"");
    let cut = &bytes[..bytes.len().min(limit)];
    for (i, &b) in cut.iter().enumerate() {
        match b {
            b'"' => out += "\\\"",
            b'\\' => out += "\\\\",
            b'\n' => out += "\\n",
            b'\t' => out += "\\t",
            b'\r' => out += "\\r",
            0x0b => out += "\\v",
            0x0c => out += "\\f",
            0x20..=0x7e => out.push(b as char),
            // Three digits when a digit follows, as strace does.
            _ if cut.get(i + 1).is_some_and(u8::is_ascii_digit) => out += &format!("\\{b:03o}"),
            _ => out += &format!("\\{b:o}"),
        }
    }
    out.push('"');
    if bytes.len() > limit {
        out += "...";
    }
    out
}

fn words<const N: usize>(cx: &Ctx<'_>, addr: u64) -> Option<[u64; N]> {
    let mut out = [0u64; N];
    for (i, w) in out.iter_mut().enumerate() {
        *w = cx.mm.read_value(UserAddr(addr).checked_add(8 * i as u64)?).ok()?;
    }
    Some(out)
}

fn string_list(cx: &Ctx<'_>, addr: u64) -> Option<Vec<Vec<u8>>> {
    let mut list = Vec::new();
    for i in 0..32 {
        let [p] = words::<1>(cx, addr.checked_add(8 * i)?)?;
        if p == 0 {
            break;
        }
        list.push(cx.mm.read_cstr(UserAddr(p), 4096).ok()?);
    }
    Some(list)
}

/// The name of a signal, such as `SIGINT` or `SIGRT_3`.
pub(super) fn signal_name(signo: i32) -> String {
    match u32::try_from(signo) {
        Ok(n) if (32..=64).contains(&n) => format!("SIGRT_{}", n - 32),
        Ok(n) => abi::signal::name(n).map_or_else(|| signo.to_string(), str::to_owned),
        Err(_) => signo.to_string(),
    }
}

fn sigset(mask: u64) -> String {
    let names = |m: u64| -> Vec<String> {
        let short = |n: i32| {
            let name = signal_name(n);
            name.strip_prefix("SIG").map_or(name.clone(), str::to_owned)
        };
        (1..=64).filter(|n| m >> (n - 1) & 1 == 1).map(short).collect()
    };
    // strace shows a mostly full set by what is missing.
    if mask.count_ones() > 42 {
        format!("~[{}]", names(!mask).join(" "))
    } else {
        format!("[{}]", names(mask).join(" "))
    }
}

/// Flags of an open file, access mode first.
pub(super) fn open_flags(v: u64) -> String {
    let mode = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(v & 3) as usize];
    let rest = v & !3;
    if rest == 0 { mode.to_owned() } else { format!("{mode}|{}", bits(rest, flags::OPEN)) }
}

fn timespec(cx: &Ctx<'_>, addr: u64) -> Option<String> {
    let [sec, nsec] = words::<2>(cx, addr)?;
    Some(format!("{{tv_sec={}, tv_nsec={}}}", sec.cast_signed(), nsec.cast_signed()))
}

fn rlimit(cx: &Ctx<'_>, addr: u64) -> Option<String> {
    let amount = |v: u64| match v {
        u64::MAX => "RLIM64_INFINITY".to_owned(),
        v if v > 1024 && v.is_multiple_of(1024) => format!("{}*1024", v / 1024),
        v => v.to_string(),
    };
    let [soft, hard] = words::<2>(cx, addr)?;
    Some(format!("{{rlim_cur={}, rlim_max={}}}", amount(soft), amount(hard)))
}

fn sigaction(cx: &Ctx<'_>, addr: u64) -> Option<String> {
    let [handler, flag, restorer, mask] = words::<4>(cx, addr)?;
    let handler = match handler {
        0 => "SIG_DFL".to_owned(),
        1 => "SIG_IGN".to_owned(),
        h => format!("{h:#x}"),
    };
    let tail = if flag & 0x400_0000 != 0 { format!(", sa_restorer={restorer:#x}") } else { String::new() };
    Some(format!(
        "{{sa_handler={handler}, sa_mask={}, sa_flags={}{tail}}}",
        sigset(mask),
        bits(flag, flags::SA)
    ))
}

fn stat(cx: &Ctx<'_>, addr: u64) -> Option<String> {
    let w = words::<7>(cx, addr)?;
    let mode = w[3] & 0xffff_ffff;
    let kind = one(mode & 0o170_000, flags::MODE_TYPE);
    let what = if matches!(mode & 0o170_000, 0o020_000 | 0o060_000) {
        format!("st_rdev=makedev({:#x}, {:#x})", w[5] >> 8 & 0xfff, (w[5] & 0xff) | (w[5] >> 12 & 0xf_ff00))
    } else {
        format!("st_size={}", w[6])
    };
    Some(format!("{{st_mode={kind}|{:#05o}, {what}, ...}}", mode & 0o7777).replace("|0o", "|0"))
}

fn wait_status(v: u32) -> String {
    let signal = v & 0x7f;
    if v & 0xff == 0x7f {
        format!("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}]", signal_name((v >> 8 & 0xff) as i32))
    } else if signal == 0 {
        format!("[{{WIFEXITED(s) && WEXITSTATUS(s) == {}}}]", v >> 8 & 0xff)
    } else {
        let core = if v & 0x80 != 0 { " && WCOREDUMP(s)" } else { "" };
        format!("[{{WIFSIGNALED(s) && WTERMSIG(s) == {}{core}}}]", signal_name(signal as i32))
    }
}

fn poll_fds(cx: &Ctx<'_>, addr: u64, count: u64) -> Option<String> {
    let mut list = Vec::new();
    for i in 0..count.min(16) {
        let [w] = words::<1>(cx, addr.checked_add(8 * i)?)?;
        list.push(format!("{{fd={}, events={}}}", w as u32 as i32, bits(w >> 32 & 0xffff, flags::POLL)));
    }
    Some(format!("[{}]", list.join(", ")))
}

fn iovec(cx: &Ctx<'_>, addr: u64, count: u64) -> Option<String> {
    let mut list = Vec::new();
    for i in 0..count.min(16) {
        let [base, len] = words::<2>(cx, addr.checked_add(16 * i)?)?;
        list.push(format!("{{iov_base={}, iov_len={len}}}", input(cx, base, len)?));
    }
    Some(format!("[{}]", list.join(", ")))
}

fn input(cx: &Ctx<'_>, addr: u64, len: u64) -> Option<String> {
    let mut buf = vec![0; usize::try_from(len).ok()?.min(STRING + 1)];
    if buf.is_empty() {
        return Some("\"\"".to_owned());
    }
    cx.mm.read_exact(UserAddr(addr), &mut buf).ok()?;
    Some(quote(&buf, STRING))
}

fn show(cx: &Ctx<'_>, kind: Kind, i: usize, raw: [u64; 6], result: Option<u64>) -> String {
    let v = raw[i];
    let next = raw.get(i + 1).copied().unwrap_or(0);
    let or_pointer = |text: Option<String>| if v == 0 { None } else { text }.unwrap_or_else(|| pointer(v));
    match kind {
        Kind::Signed => if v >> 32 == 0 { i64::from(v as u32 as i32) } else { v.cast_signed() }.to_string(),
        Kind::Unsigned => v.to_string(),
        Kind::Pointer => pointer(v),
        Kind::Hex => {
            if v == 0 {
                "0".to_owned()
            } else {
                format!("{v:#x}")
            }
        }
        Kind::Octal => format!("{:#o}", v & 0o177_777).replacen("0o", "0", 1),
        Kind::DirFd => match v as u32 as i32 {
            -100 => "AT_FDCWD".to_owned(),
            fd => fd.to_string(),
        },
        Kind::Path => or_pointer(cx.mm.read_cstr(UserAddr(v), 4096).ok().map(|s| quote(&s, 4096))),
        Kind::BytesIn => or_pointer(input(cx, v, next)),
        Kind::BytesOut => or_pointer(result.and_then(|n| input(cx, v, n))),
        Kind::Argv => or_pointer(
            string_list(cx, v)
                .map(|l| format!("[{}]", l.iter().map(|s| quote(s, STRING)).collect::<Vec<_>>().join(", "))),
        ),
        Kind::EnvP => or_pointer(string_list(cx, v).map(|l| {
            let more = if l.len() == 32 { "32 vars or more".to_owned() } else { format!("{} vars", l.len()) };
            format!("{v:#x} /* {more} */")
        })),
        Kind::OpenFlags => {
            // dup3 and pipe2 have no access mode.
            if matches!(cx.regs.orig_rax, 292 | 293) {
                bits(v, flags::OPEN)
            } else {
                open_flags(v & 0xffff_ffff)
            }
        }
        Kind::Bits(names) if std::ptr::eq(names, flags::PROT) && v == 0 => "PROT_NONE".to_owned(),
        Kind::Bits(names) => bits(v, names),
        Kind::One(names) => one(v & 0xffff_ffff, names),
        Kind::MapFlags => {
            let kind = ["MAP_FILE", "MAP_SHARED", "MAP_PRIVATE", "MAP_SHARED_VALIDATE"][(v & 3) as usize];
            if v & !3 == 0 { kind.to_owned() } else { format!("{kind}|{}", bits(v & !3, flags::MMAP)) }
        }
        Kind::CloneFlags => {
            let signal = (v & 0xff) as i32;
            let rest = v & !0xff;
            match (rest, signal) {
                (0, s) => signal_name(s),
                (r, 0) => bits(r, flags::CLONE),
                (r, s) => format!("{}|{}", bits(r, flags::CLONE), signal_name(s)),
            }
        }
        Kind::FutexOp => {
            let base = one(v & 127, flags::FUTEX);
            let private = if v & 128 != 0 { "_PRIVATE" } else { "" };
            let clock = if v & 256 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
            format!("{base}{private}{clock}")
        }
        Kind::SockType => {
            let base = one(v & 0xf, flags::SOCK);
            if v & !0xf == 0 { base } else { format!("{base}|{}", bits(v & !0xf, flags::SOCK_FLAGS)) }
        }
        Kind::Access => {
            if v == 0 {
                "F_OK".to_owned()
            } else {
                bits(v, flags::ACCESS)
            }
        }
        Kind::Signal => {
            if v == 0 {
                "0".to_owned()
            } else {
                signal_name(v as u32 as i32)
            }
        }
        Kind::SigSetIn | Kind::SigSetOut => or_pointer(words::<1>(cx, v).map(|w| sigset(w[0]))),
        Kind::SigActionIn | Kind::SigActionOut => or_pointer(sigaction(cx, v)),
        Kind::StatOut => or_pointer(stat(cx, v)),
        Kind::TimespecIn | Kind::TimespecOut => or_pointer(timespec(cx, v)),
        Kind::RlimitIn | Kind::RlimitOut => or_pointer(rlimit(cx, v)),
        Kind::FdPairOut => {
            or_pointer(words::<1>(cx, v).map(|w| format!("[{}, {}]", w[0] as u32, w[0] >> 32)))
        }
        Kind::WaitStatusOut => {
            if result == Some(0) {
                return pointer(v);
            }
            or_pointer(cx.mm.read_value::<u32>(UserAddr(v)).ok().map(wait_status))
        }
        Kind::IovecIn => or_pointer(iovec(cx, v, next)),
        Kind::PollFds => or_pointer(poll_fds(cx, v, next)),
        Kind::UtsOut => or_pointer(uts(cx, v)),
    }
}

fn uts(cx: &Ctx<'_>, addr: u64) -> Option<String> {
    let field = |i: u64| cx.mm.read_cstr(UserAddr(addr).checked_add(65 * i)?, 65).ok();
    Some(format!("{{sysname={}, nodename={}, ...}}", quote(&field(0)?, 65), quote(&field(1)?, 65)))
}

/// `--- SIGINT {si_signo=SIGINT, …} ---`.
pub(super) fn signal_text(info: &SigInfo) -> String {
    let name = signal_name(info.signo);
    let code = match info.code {
        0 => "SI_USER".to_owned(),
        0x80 => "SI_KERNEL".to_owned(),
        -1 => "SI_QUEUE".to_owned(),
        -2 => "SI_TIMER".to_owned(),
        -6 => "SI_TKILL".to_owned(),
        1 if info.signo == 11 => "SEGV_MAPERR".to_owned(),
        2 if info.signo == 11 => "SEGV_ACCERR".to_owned(),
        1 if info.signo == 17 => "CLD_EXITED".to_owned(),
        2 if info.signo == 17 => "CLD_KILLED".to_owned(),
        3 if info.signo == 17 => "CLD_DUMPED".to_owned(),
        c => c.to_string(),
    };
    let rest = match (info.signo, info.code) {
        (17, 1..) => format!(", si_pid={}, si_uid={}, si_status={}", info.pid(), info.uid(), info.status()),
        (4 | 7 | 8 | 11, 1..0x80) => format!(", si_addr={}", pointer(info.addr())),
        (_, 0 | -6 | -1) => format!(", si_pid={}, si_uid={}", info.pid(), info.uid()),
        _ => String::new(),
    };
    format!("--- {name} {{si_signo={name}, si_code={code}{rest}}} ---")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_in_c() {
        assert_eq!(quote(b"a\"b\n\x01\x002\xff", 32), "\"a\\\"b\\n\\1\\0002\\377\"");
        assert_eq!(quote(&[b'x'; 40], 4), "\"xxxx\"...");
    }

    #[test]
    fn sets_of_signals_show_what_is_missing_when_they_are_mostly_full() {
        assert_eq!(sigset(0b10), "[INT]");
        assert_eq!(sigset(0), "[]");
        assert_eq!(sigset(!0b10), "~[INT]");
    }

    #[test]
    fn open_flags_begin_with_the_access_mode() {
        assert_eq!(open_flags(0o2000000), "O_RDONLY|O_CLOEXEC");
        assert_eq!(open_flags(0o1102), "O_RDWR|O_CREAT|O_TRUNC");
    }
}
