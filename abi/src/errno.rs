//! Linux error numbers (`asm-generic/errno-base.h`, `asm-generic/errno.h`).

use std::fmt;
use std::num::NonZeroU16;

/// A Linux error number as a guest sees it: two bytes, no text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

impl Errno {
    /// Makes an error number from its value, or `None` when `raw` is not in `1..=4095`.
    pub const fn from_raw(raw: i32) -> Option<Self> {
        if raw <= 0 || raw > 4095 {
            return None;
        }
        match NonZeroU16::new(raw as u16) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    const fn known(raw: u16) -> Self {
        match NonZeroU16::new(raw) {
            Some(v) => Self(v),
            None => panic!("an error number is not zero"),
        }
    }

    /// The positive number, as in `errno`.
    pub const fn raw(self) -> i32 {
        self.0.get() as i32
    }

    /// The name in C, such as `ENOENT`; `EUNKNOWN` for a number without one.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(e, _, _)| *e == self).map_or("EUNKNOWN", |(_, name, _)| name)
    }

    /// What `strerror` says, such as `No such file or directory`.
    pub fn text(self) -> &'static str {
        NAMES.iter().find(|(e, _, _)| *e == self).map_or("Unknown error", |(_, _, text)| text)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Errno {}

/// Internal to the kernel, and never seen by a guest: a signal interrupted the call, which starts again afterwards unless
/// a handler without `SA_RESTART` ran.
pub const ERESTARTSYS: Errno = Errno::known(512);
/// Internal to the kernel: the call must wait for somebody and starts over then.
pub const EJUKEBOX: Errno = Errno::known(528);
/// Operation not permitted.
pub const EPERM: Errno = Errno::known(1);
/// No such file or directory.
pub const ENOENT: Errno = Errno::known(2);
/// No such process.
pub const ESRCH: Errno = Errno::known(3);
/// Interrupted system call.
pub const EINTR: Errno = Errno::known(4);
/// Input/output error.
pub const EIO: Errno = Errno::known(5);
/// No such device or address.
pub const ENXIO: Errno = Errno::known(6);
/// Argument list too long.
pub const E2BIG: Errno = Errno::known(7);
/// Exec format error.
pub const ENOEXEC: Errno = Errno::known(8);
/// Bad file descriptor.
pub const EBADF: Errno = Errno::known(9);
/// No child processes.
pub const ECHILD: Errno = Errno::known(10);
/// Resource temporarily unavailable.
pub const EAGAIN: Errno = Errno::known(11);
/// Cannot allocate memory.
pub const ENOMEM: Errno = Errno::known(12);
/// Permission denied.
pub const EACCES: Errno = Errno::known(13);
/// Bad address.
pub const EFAULT: Errno = Errno::known(14);
/// Block device required.
pub const ENOTBLK: Errno = Errno::known(15);
/// Device or resource busy.
pub const EBUSY: Errno = Errno::known(16);
/// File exists.
pub const EEXIST: Errno = Errno::known(17);
/// Invalid cross-device link.
pub const EXDEV: Errno = Errno::known(18);
/// No such device.
pub const ENODEV: Errno = Errno::known(19);
/// Not a directory.
pub const ENOTDIR: Errno = Errno::known(20);
/// Is a directory.
pub const EISDIR: Errno = Errno::known(21);
/// Invalid argument.
pub const EINVAL: Errno = Errno::known(22);
/// Too many open files in system.
pub const ENFILE: Errno = Errno::known(23);
/// Too many open files.
pub const EMFILE: Errno = Errno::known(24);
/// Inappropriate ioctl for device.
pub const ENOTTY: Errno = Errno::known(25);
/// Text file busy.
pub const ETXTBSY: Errno = Errno::known(26);
/// File too large.
pub const EFBIG: Errno = Errno::known(27);
/// No space left on device.
pub const ENOSPC: Errno = Errno::known(28);
/// Illegal seek.
pub const ESPIPE: Errno = Errno::known(29);
/// Read-only file system.
pub const EROFS: Errno = Errno::known(30);
/// Too many links.
pub const EMLINK: Errno = Errno::known(31);
/// Broken pipe.
pub const EPIPE: Errno = Errno::known(32);
/// Numerical argument out of domain.
pub const EDOM: Errno = Errno::known(33);
/// Numerical result out of range.
pub const ERANGE: Errno = Errno::known(34);
/// Resource deadlock avoided.
pub const EDEADLK: Errno = Errno::known(35);
/// File name too long.
pub const ENAMETOOLONG: Errno = Errno::known(36);
/// No locks available.
pub const ENOLCK: Errno = Errno::known(37);
/// Function not implemented.
pub const ENOSYS: Errno = Errno::known(38);
/// Directory not empty.
pub const ENOTEMPTY: Errno = Errno::known(39);
/// Too many levels of symbolic links.
pub const ELOOP: Errno = Errno::known(40);
/// Same as `EAGAIN`.
pub const EWOULDBLOCK: Errno = Errno::known(11);
/// No message of desired type.
pub const ENOMSG: Errno = Errno::known(42);
/// Identifier removed.
pub const EIDRM: Errno = Errno::known(43);
/// Channel number out of range.
pub const ECHRNG: Errno = Errno::known(44);
/// Level 2 not synchronized.
pub const EL2NSYNC: Errno = Errno::known(45);
/// Level 3 halted.
pub const EL3HLT: Errno = Errno::known(46);
/// Level 3 reset.
pub const EL3RST: Errno = Errno::known(47);
/// Link number out of range.
pub const ELNRNG: Errno = Errno::known(48);
/// Protocol driver not attached.
pub const EUNATCH: Errno = Errno::known(49);
/// No CSI structure available.
pub const ENOCSI: Errno = Errno::known(50);
/// Level 2 halted.
pub const EL2HLT: Errno = Errno::known(51);
/// Invalid exchange.
pub const EBADE: Errno = Errno::known(52);
/// Invalid request descriptor.
pub const EBADR: Errno = Errno::known(53);
/// Exchange full.
pub const EXFULL: Errno = Errno::known(54);
/// No anode.
pub const ENOANO: Errno = Errno::known(55);
/// Invalid request code.
pub const EBADRQC: Errno = Errno::known(56);
/// Invalid slot.
pub const EBADSLT: Errno = Errno::known(57);
/// Same as `EDEADLK`.
pub const EDEADLOCK: Errno = Errno::known(35);
/// Bad font file format.
pub const EBFONT: Errno = Errno::known(59);
/// Device not a stream.
pub const ENOSTR: Errno = Errno::known(60);
/// No data available.
pub const ENODATA: Errno = Errno::known(61);
/// Timer expired.
pub const ETIME: Errno = Errno::known(62);
/// Out of streams resources.
pub const ENOSR: Errno = Errno::known(63);
/// Machine is not on the network.
pub const ENONET: Errno = Errno::known(64);
/// Package not installed.
pub const ENOPKG: Errno = Errno::known(65);
/// Object is remote.
pub const EREMOTE: Errno = Errno::known(66);
/// Link has been severed.
pub const ENOLINK: Errno = Errno::known(67);
/// Advertise error.
pub const EADV: Errno = Errno::known(68);
/// Srmount error.
pub const ESRMNT: Errno = Errno::known(69);
/// Communication error on send.
pub const ECOMM: Errno = Errno::known(70);
/// Protocol error.
pub const EPROTO: Errno = Errno::known(71);
/// Multihop attempted.
pub const EMULTIHOP: Errno = Errno::known(72);
/// RFS specific error.
pub const EDOTDOT: Errno = Errno::known(73);
/// Bad message.
pub const EBADMSG: Errno = Errno::known(74);
/// Value too large for defined data type.
pub const EOVERFLOW: Errno = Errno::known(75);
/// Name not unique on network.
pub const ENOTUNIQ: Errno = Errno::known(76);
/// File descriptor in bad state.
pub const EBADFD: Errno = Errno::known(77);
/// Remote address changed.
pub const EREMCHG: Errno = Errno::known(78);
/// Can not access a needed shared library.
pub const ELIBACC: Errno = Errno::known(79);
/// Accessing a corrupted shared library.
pub const ELIBBAD: Errno = Errno::known(80);
/// .lib section in a.out corrupted.
pub const ELIBSCN: Errno = Errno::known(81);
/// Attempting to link in too many shared libraries.
pub const ELIBMAX: Errno = Errno::known(82);
/// Cannot exec a shared library directly.
pub const ELIBEXEC: Errno = Errno::known(83);
/// Invalid or incomplete multibyte or wide character.
pub const EILSEQ: Errno = Errno::known(84);
/// Interrupted system call should be restarted.
pub const ERESTART: Errno = Errno::known(85);
/// Streams pipe error.
pub const ESTRPIPE: Errno = Errno::known(86);
/// Too many users.
pub const EUSERS: Errno = Errno::known(87);
/// Socket operation on non-socket.
pub const ENOTSOCK: Errno = Errno::known(88);
/// Destination address required.
pub const EDESTADDRREQ: Errno = Errno::known(89);
/// Message too long.
pub const EMSGSIZE: Errno = Errno::known(90);
/// Protocol wrong type for socket.
pub const EPROTOTYPE: Errno = Errno::known(91);
/// Protocol not available.
pub const ENOPROTOOPT: Errno = Errno::known(92);
/// Protocol not supported.
pub const EPROTONOSUPPORT: Errno = Errno::known(93);
/// Socket type not supported.
pub const ESOCKTNOSUPPORT: Errno = Errno::known(94);
/// Operation not supported.
pub const EOPNOTSUPP: Errno = Errno::known(95);
/// Protocol family not supported.
pub const EPFNOSUPPORT: Errno = Errno::known(96);
/// Address family not supported by protocol.
pub const EAFNOSUPPORT: Errno = Errno::known(97);
/// Address already in use.
pub const EADDRINUSE: Errno = Errno::known(98);
/// Cannot assign requested address.
pub const EADDRNOTAVAIL: Errno = Errno::known(99);
/// Network is down.
pub const ENETDOWN: Errno = Errno::known(100);
/// Network is unreachable.
pub const ENETUNREACH: Errno = Errno::known(101);
/// Network dropped connection on reset.
pub const ENETRESET: Errno = Errno::known(102);
/// Software caused connection abort.
pub const ECONNABORTED: Errno = Errno::known(103);
/// Connection reset by peer.
pub const ECONNRESET: Errno = Errno::known(104);
/// No buffer space available.
pub const ENOBUFS: Errno = Errno::known(105);
/// Transport endpoint is already connected.
pub const EISCONN: Errno = Errno::known(106);
/// Transport endpoint is not connected.
pub const ENOTCONN: Errno = Errno::known(107);
/// Cannot send after transport endpoint shutdown.
pub const ESHUTDOWN: Errno = Errno::known(108);
/// Too many references: cannot splice.
pub const ETOOMANYREFS: Errno = Errno::known(109);
/// Connection timed out.
pub const ETIMEDOUT: Errno = Errno::known(110);
/// Connection refused.
pub const ECONNREFUSED: Errno = Errno::known(111);
/// Host is down.
pub const EHOSTDOWN: Errno = Errno::known(112);
/// No route to host.
pub const EHOSTUNREACH: Errno = Errno::known(113);
/// Operation already in progress.
pub const EALREADY: Errno = Errno::known(114);
/// Operation now in progress.
pub const EINPROGRESS: Errno = Errno::known(115);
/// Stale file handle.
pub const ESTALE: Errno = Errno::known(116);
/// Structure needs cleaning.
pub const EUCLEAN: Errno = Errno::known(117);
/// Not a XENIX named type file.
pub const ENOTNAM: Errno = Errno::known(118);
/// No XENIX semaphores available.
pub const ENAVAIL: Errno = Errno::known(119);
/// Is a named type file.
pub const EISNAM: Errno = Errno::known(120);
/// Remote I/O error.
pub const EREMOTEIO: Errno = Errno::known(121);
/// Disk quota exceeded.
pub const EDQUOT: Errno = Errno::known(122);
/// No medium found.
pub const ENOMEDIUM: Errno = Errno::known(123);
/// Wrong medium type.
pub const EMEDIUMTYPE: Errno = Errno::known(124);
/// Operation canceled.
pub const ECANCELED: Errno = Errno::known(125);
/// Required key not available.
pub const ENOKEY: Errno = Errno::known(126);
/// Key has expired.
pub const EKEYEXPIRED: Errno = Errno::known(127);
/// Key has been revoked.
pub const EKEYREVOKED: Errno = Errno::known(128);
/// Key was rejected by service.
pub const EKEYREJECTED: Errno = Errno::known(129);
/// Owner died.
pub const EOWNERDEAD: Errno = Errno::known(130);
/// State not recoverable.
pub const ENOTRECOVERABLE: Errno = Errno::known(131);
/// Operation not possible due to RF-kill.
pub const ERFKILL: Errno = Errno::known(132);
/// Memory page has hardware error.
pub const EHWPOISON: Errno = Errno::known(133);

const NAMES: &[(Errno, &str, &str)] = &[
    (EPERM, "EPERM", "Operation not permitted"),
    (ENOENT, "ENOENT", "No such file or directory"),
    (ESRCH, "ESRCH", "No such process"),
    (EINTR, "EINTR", "Interrupted system call"),
    (EIO, "EIO", "Input/output error"),
    (ENXIO, "ENXIO", "No such device or address"),
    (E2BIG, "E2BIG", "Argument list too long"),
    (ENOEXEC, "ENOEXEC", "Exec format error"),
    (EBADF, "EBADF", "Bad file descriptor"),
    (ECHILD, "ECHILD", "No child processes"),
    (EAGAIN, "EAGAIN", "Resource temporarily unavailable"),
    (ENOMEM, "ENOMEM", "Cannot allocate memory"),
    (EACCES, "EACCES", "Permission denied"),
    (EFAULT, "EFAULT", "Bad address"),
    (ENOTBLK, "ENOTBLK", "Block device required"),
    (EBUSY, "EBUSY", "Device or resource busy"),
    (EEXIST, "EEXIST", "File exists"),
    (EXDEV, "EXDEV", "Invalid cross-device link"),
    (ENODEV, "ENODEV", "No such device"),
    (ENOTDIR, "ENOTDIR", "Not a directory"),
    (EISDIR, "EISDIR", "Is a directory"),
    (EINVAL, "EINVAL", "Invalid argument"),
    (ENFILE, "ENFILE", "Too many open files in system"),
    (EMFILE, "EMFILE", "Too many open files"),
    (ENOTTY, "ENOTTY", "Inappropriate ioctl for device"),
    (ETXTBSY, "ETXTBSY", "Text file busy"),
    (EFBIG, "EFBIG", "File too large"),
    (ENOSPC, "ENOSPC", "No space left on device"),
    (ESPIPE, "ESPIPE", "Illegal seek"),
    (EROFS, "EROFS", "Read-only file system"),
    (EMLINK, "EMLINK", "Too many links"),
    (EPIPE, "EPIPE", "Broken pipe"),
    (EDOM, "EDOM", "Numerical argument out of domain"),
    (ERANGE, "ERANGE", "Numerical result out of range"),
    (EDEADLK, "EDEADLK", "Resource deadlock avoided"),
    (ENAMETOOLONG, "ENAMETOOLONG", "File name too long"),
    (ENOLCK, "ENOLCK", "No locks available"),
    (ENOSYS, "ENOSYS", "Function not implemented"),
    (ENOTEMPTY, "ENOTEMPTY", "Directory not empty"),
    (ELOOP, "ELOOP", "Too many levels of symbolic links"),
    (ENOMSG, "ENOMSG", "No message of desired type"),
    (EIDRM, "EIDRM", "Identifier removed"),
    (ECHRNG, "ECHRNG", "Channel number out of range"),
    (EL2NSYNC, "EL2NSYNC", "Level 2 not synchronized"),
    (EL3HLT, "EL3HLT", "Level 3 halted"),
    (EL3RST, "EL3RST", "Level 3 reset"),
    (ELNRNG, "ELNRNG", "Link number out of range"),
    (EUNATCH, "EUNATCH", "Protocol driver not attached"),
    (ENOCSI, "ENOCSI", "No CSI structure available"),
    (EL2HLT, "EL2HLT", "Level 2 halted"),
    (EBADE, "EBADE", "Invalid exchange"),
    (EBADR, "EBADR", "Invalid request descriptor"),
    (EXFULL, "EXFULL", "Exchange full"),
    (ENOANO, "ENOANO", "No anode"),
    (EBADRQC, "EBADRQC", "Invalid request code"),
    (EBADSLT, "EBADSLT", "Invalid slot"),
    (EBFONT, "EBFONT", "Bad font file format"),
    (ENOSTR, "ENOSTR", "Device not a stream"),
    (ENODATA, "ENODATA", "No data available"),
    (ETIME, "ETIME", "Timer expired"),
    (ENOSR, "ENOSR", "Out of streams resources"),
    (ENONET, "ENONET", "Machine is not on the network"),
    (ENOPKG, "ENOPKG", "Package not installed"),
    (EREMOTE, "EREMOTE", "Object is remote"),
    (ENOLINK, "ENOLINK", "Link has been severed"),
    (EADV, "EADV", "Advertise error"),
    (ESRMNT, "ESRMNT", "Srmount error"),
    (ECOMM, "ECOMM", "Communication error on send"),
    (EPROTO, "EPROTO", "Protocol error"),
    (EMULTIHOP, "EMULTIHOP", "Multihop attempted"),
    (EDOTDOT, "EDOTDOT", "RFS specific error"),
    (EBADMSG, "EBADMSG", "Bad message"),
    (EOVERFLOW, "EOVERFLOW", "Value too large for defined data type"),
    (ENOTUNIQ, "ENOTUNIQ", "Name not unique on network"),
    (EBADFD, "EBADFD", "File descriptor in bad state"),
    (EREMCHG, "EREMCHG", "Remote address changed"),
    (ELIBACC, "ELIBACC", "Can not access a needed shared library"),
    (ELIBBAD, "ELIBBAD", "Accessing a corrupted shared library"),
    (ELIBSCN, "ELIBSCN", ".lib section in a.out corrupted"),
    (ELIBMAX, "ELIBMAX", "Attempting to link in too many shared libraries"),
    (ELIBEXEC, "ELIBEXEC", "Cannot exec a shared library directly"),
    (EILSEQ, "EILSEQ", "Invalid or incomplete multibyte or wide character"),
    (ERESTART, "ERESTART", "Interrupted system call should be restarted"),
    (ESTRPIPE, "ESTRPIPE", "Streams pipe error"),
    (EUSERS, "EUSERS", "Too many users"),
    (ENOTSOCK, "ENOTSOCK", "Socket operation on non-socket"),
    (EDESTADDRREQ, "EDESTADDRREQ", "Destination address required"),
    (EMSGSIZE, "EMSGSIZE", "Message too long"),
    (EPROTOTYPE, "EPROTOTYPE", "Protocol wrong type for socket"),
    (ENOPROTOOPT, "ENOPROTOOPT", "Protocol not available"),
    (EPROTONOSUPPORT, "EPROTONOSUPPORT", "Protocol not supported"),
    (ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT", "Socket type not supported"),
    (EOPNOTSUPP, "EOPNOTSUPP", "Operation not supported"),
    (EPFNOSUPPORT, "EPFNOSUPPORT", "Protocol family not supported"),
    (EAFNOSUPPORT, "EAFNOSUPPORT", "Address family not supported by protocol"),
    (EADDRINUSE, "EADDRINUSE", "Address already in use"),
    (EADDRNOTAVAIL, "EADDRNOTAVAIL", "Cannot assign requested address"),
    (ENETDOWN, "ENETDOWN", "Network is down"),
    (ENETUNREACH, "ENETUNREACH", "Network is unreachable"),
    (ENETRESET, "ENETRESET", "Network dropped connection on reset"),
    (ECONNABORTED, "ECONNABORTED", "Software caused connection abort"),
    (ECONNRESET, "ECONNRESET", "Connection reset by peer"),
    (ENOBUFS, "ENOBUFS", "No buffer space available"),
    (EISCONN, "EISCONN", "Transport endpoint is already connected"),
    (ENOTCONN, "ENOTCONN", "Transport endpoint is not connected"),
    (ESHUTDOWN, "ESHUTDOWN", "Cannot send after transport endpoint shutdown"),
    (ETOOMANYREFS, "ETOOMANYREFS", "Too many references: cannot splice"),
    (ETIMEDOUT, "ETIMEDOUT", "Connection timed out"),
    (ECONNREFUSED, "ECONNREFUSED", "Connection refused"),
    (EHOSTDOWN, "EHOSTDOWN", "Host is down"),
    (EHOSTUNREACH, "EHOSTUNREACH", "No route to host"),
    (EALREADY, "EALREADY", "Operation already in progress"),
    (EINPROGRESS, "EINPROGRESS", "Operation now in progress"),
    (ESTALE, "ESTALE", "Stale file handle"),
    (EUCLEAN, "EUCLEAN", "Structure needs cleaning"),
    (ENOTNAM, "ENOTNAM", "Not a XENIX named type file"),
    (ENAVAIL, "ENAVAIL", "No XENIX semaphores available"),
    (EISNAM, "EISNAM", "Is a named type file"),
    (EREMOTEIO, "EREMOTEIO", "Remote I/O error"),
    (EDQUOT, "EDQUOT", "Disk quota exceeded"),
    (ENOMEDIUM, "ENOMEDIUM", "No medium found"),
    (EMEDIUMTYPE, "EMEDIUMTYPE", "Wrong medium type"),
    (ECANCELED, "ECANCELED", "Operation canceled"),
    (ENOKEY, "ENOKEY", "Required key not available"),
    (EKEYEXPIRED, "EKEYEXPIRED", "Key has expired"),
    (EKEYREVOKED, "EKEYREVOKED", "Key has been revoked"),
    (EKEYREJECTED, "EKEYREJECTED", "Key was rejected by service"),
    (EOWNERDEAD, "EOWNERDEAD", "Owner died"),
    (ENOTRECOVERABLE, "ENOTRECOVERABLE", "State not recoverable"),
    (ERFKILL, "ERFKILL", "Operation not possible due to RF-kill"),
    (EHWPOISON, "EHWPOISON", "Memory page has hardware error"),
];
