//! Landlock: landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).
//!
//! There is no audit log in the sandbox, so the flags that say what goes there have nothing to say.
//!
//! Source: Linux 6.18 security/landlock/syscalls.c.

use std::any::Any;
use std::sync::Arc;

use abi::errno::{E2BIG, EAFNOSUPPORT, EBADF, EBADFD, EFAULT, EINVAL, ENOMSG, EPERM};
use abi::socket::{af, ipproto, sock};
use abi::{Errno, UserAddr};
use base::cred::{Credentials, cap};
use base::landlock::{Domain, Rules, access, port, scope};
use base::lock::{Lock, rank};
use fs::anon::anon_metadata;
use fs::file::{FileDescription, FileOps, Metadata, oflag};
use net::socket::Socket;

use super::SysResult;
use crate::task::Ctx;

/// What `LANDLOCK_CREATE_RULESET_VERSION` answers.
const ABI: u64 = 7;
/// What `LANDLOCK_CREATE_RULESET_ERRATA` answers: all of that version.
const ERRATA: u64 = 0b111;
/// Size of `struct landlock_ruleset_attr`.
const ATTR_SIZE: usize = 24;

/// What landlock_create_ruleset(2) opens.
#[derive(Debug)]
struct RulesetFile(Lock<Arc<Rules>, { rank::LEAF }>);

impl FileOps for RulesetFile {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[landlock-ruleset]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `landlock_create_ruleset(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EFAULT`: no attributes; `EINVAL`: too few of them; `E2BIG`: more than a page, or
/// unknown ones; `EFAULT`; `EINVAL`: unknown rights; `ENOMSG`: none.
pub(super) fn sys_landlock_create_ruleset(
    cx: &mut Ctx<'_>,
    attr: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    const VERSION: u32 = 1;
    const ERRATA_QUERY: u32 = 2;
    if flags != 0 {
        return match flags {
            _ if !attr.is_null() || size != 0 => Err(EINVAL.into()),
            VERSION => Ok(ABI),
            ERRATA_QUERY => Ok(ERRATA),
            _ => Err(EINVAL.into()),
        };
    }
    if attr.is_null() {
        return Err(EFAULT.into());
    }
    let size = usize::try_from(size).map_err(|_| E2BIG)?;
    if size < 8 {
        return Err(EINVAL.into());
    }
    if size > 4096 {
        return Err(E2BIG.into());
    }
    let mut bytes = vec![0; size];
    cx.mm.read_exact(attr, &mut bytes)?;
    if bytes.get(ATTR_SIZE..).is_some_and(|rest| rest.iter().any(|&b| b != 0)) {
        return Err(E2BIG.into());
    }
    bytes.resize(ATTR_SIZE, 0);
    let mut fields = bytes.chunks_exact(8).filter_map(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let mut field = || fields.next().unwrap_or(0);
    let files = u16::try_from(field()).map_err(|_| EINVAL)?;
    let ports = u8::try_from(field()).ok().filter(|p| p & !port::ALL == 0).ok_or(EINVAL)?;
    let scoped = u8::try_from(field()).ok().filter(|s| s & !scope::ALL == 0).ok_or(EINVAL)?;
    if files == 0 && ports == 0 && scoped == 0 {
        return Err(ENOMSG.into());
    }
    let rules = Arc::new(Rules::new(files, ports, scoped));
    let file = FileDescription::new(Box::new(RulesetFile(Lock::new(rules))), None, oflag::RDWR);
    Ok(cx.install(file, true)? as u64)
}

/// The rule set behind a descriptor.
fn ruleset(file: &FileDescription) -> Result<&RulesetFile, Errno> {
    if file.flags() & oflag::PATH != 0 {
        return Err(EBADF);
    }
    file.ops.as_any().downcast_ref().ok_or(EBADFD)
}

/// `landlock_add_rule(2)`.
///
/// # Errors
/// In the order checked: `EINVAL`: flags; `EBADF`, `EBADFD`: the rule set; `EINVAL`: the type; `EFAULT`; `ENOMSG`: no
/// right; `EINVAL`: rights that the set does not deny; of a file `EBADF`, `EBADFD`, and `EINVAL` for a directory's rights to
/// something else; of a port `EINVAL`; `ENOMEM`.
pub(super) fn sys_landlock_add_rule(
    cx: &mut Ctx<'_>,
    fd: i32,
    kind: u32,
    rule: UserAddr,
    flags: u32,
) -> SysResult {
    const PATH_BENEATH: u32 = 1;
    const NET_PORT: u32 = 2;
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let file = cx.file(fd)?;
    let set = ruleset(&file)?;
    match kind {
        PATH_BENEATH => add_file(cx, set, rule)?,
        NET_PORT => add_port(cx, set, rule)?,
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

/// The rights that a rule grants, of those that its set denies.
fn granted(given: u64, denied: u64) -> Result<u64, Errno> {
    match given {
        0 => Err(ENOMSG),
        _ if given & !denied != 0 => Err(EINVAL),
        _ => Ok(given),
    }
}

fn add_file(cx: &Ctx<'_>, set: &RulesetFile, rule: UserAddr) -> Result<(), Errno> {
    let [low, high, fd]: [u32; 3] = cx.mm.read_value(rule)?;
    let given = u64::from(low) | u64::from(high) << 32;
    let files = set.0.lock().files;
    let rights = u16::try_from(granted(given, files.into())?).map_err(|_| EINVAL)?;
    let file = cx.file(fd.cast_signed())?;
    let place = file.path.as_ref().ok_or(EBADFD)?;
    // What no path leads to, and what the kernel alone mounts.
    if place.mount.fstype() == "mqueue" && place.mount.parent().is_none() {
        return Err(EBADFD);
    }
    let meta = place.dentry.inode().metadata()?;
    if !meta.is_dir() && rights & !access::FILE != 0 {
        return Err(EINVAL);
    }
    let inode = Arc::new(place.inode());
    set.change(|rules| rules.grant_file((meta.dev, meta.ino), rights, inode))
}

fn add_port(cx: &Ctx<'_>, set: &RulesetFile, rule: UserAddr) -> Result<(), Errno> {
    let [given, port]: [u64; 2] = cx.mm.read_value(rule)?;
    let ports = set.0.lock().ports;
    let rights = u8::try_from(granted(given, ports.into())?).map_err(|_| EINVAL)?;
    let port = u16::try_from(port).map_err(|_| EINVAL)?;
    set.change(|rules| rules.grant_port(port, rights))
}

impl RulesetFile {
    /// Changes the set, but not the layers that were made of it.
    fn change(&self, change: impl FnOnce(&mut Rules) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut shared = self.0.lock();
        let old = match Arc::get_mut(&mut shared) {
            Some(rules) => return change(rules),
            None => {
                let mut copy = shared.duplicate()?;
                change(&mut copy)?;
                std::mem::replace(&mut *shared, Arc::new(copy))
            }
        };
        drop(shared);
        // The last domain may have ended meanwhile, and the inodes go here.
        drop(old);
        Ok(())
    }
}

/// `landlock_restrict_self(2)`.
///
/// # Errors
/// In the order checked: `EPERM`: neither `no_new_privs` nor `CAP_SYS_ADMIN`; `EINVAL`: flags; `EBADF`, `EBADFD`; `E2BIG`:
/// too many layers.
pub(super) fn sys_landlock_restrict_self(cx: &mut Ctx<'_>, fd: i32, flags: u32) -> SysResult {
    const LOG_SUBDOMAINS_OFF: u32 = 4;
    const KNOWN: u32 = 7;
    if !cx.task.attributes.lock().no_new_privs && !cx.cred.has_here(cap::SYS_ADMIN) {
        return Err(EPERM.into());
    }
    if flags & !KNOWN != 0 {
        return Err(EINVAL.into());
    }
    if fd == -1 && flags == LOG_SUBDOMAINS_OFF {
        return Ok(0);
    }
    let file = cx.file(fd)?;
    let rules = ruleset(&file)?.0.lock().clone();
    let domain = Domain::new(cx.cred.landlock.clone(), rules)?;
    cx.set_cred(Credentials { landlock: Some(domain), ..(*cx.cred).clone() });
    Ok(0)
}

impl Ctx<'_> {
    /// Whether the task may change the tree of mounts.
    ///
    /// # Errors
    /// `EPERM`: it is in a domain.
    pub(super) fn landlock_mounts(&self) -> Result<(), Errno> {
        if self.cred.landlock.is_some() { Err(EPERM) } else { Ok(()) }
    }

    /// Whether the task may bind or connect `socket` to `address`; `right` is one of `port::*`.
    ///
    /// # Errors
    /// `EACCES`; `EINVAL`, `EAFNOSUPPORT`: the address.
    ///
    /// Source: Linux 6.18 security/landlock/net.c, `current_check_access_socket`.
    pub(in crate::syscall) fn landlock_port(
        &self,
        socket: &dyn Socket,
        address: &[u8],
        right: u8,
    ) -> Result<(), Errno> {
        const IN_SIZE: usize = 16;
        const IN6_SIZE: usize = 24;
        let Some(domain) = self.cred.landlock.as_ref().filter(|d| d.restricts_ports()) else { return Ok(()) };
        let common = socket.common();
        let is_tcp = matches!(common.domain(), af::INET | af::INET6)
            && common.kind == sock::STREAM
            && matches!(common.protocol, ipproto::IP | ipproto::TCP);
        if !is_tcp {
            return Ok(());
        }
        let (family, rest) = address.split_first_chunk::<2>().ok_or(EINVAL)?;
        let family = u16::from_le_bytes(*family);
        if family == af::UNSPEC && right == port::CONNECT_TCP {
            // It dissolves an association, which is always allowed.
            return Ok(());
        }
        let least = match family {
            af::UNSPEC | af::INET => IN_SIZE,
            af::INET6 => IN6_SIZE,
            _ => return Ok(()),
        };
        if address.len() < least {
            return Err(EINVAL);
        }
        if family == af::UNSPEC {
            // It means AF_INET, for any address.
            if common.domain() != af::INET {
                return Err(EINVAL);
            }
            if rest.get(2..6).is_some_and(|host| host != [0; 4]) {
                return Err(EAFNOSUPPORT);
            }
        } else if family != common.domain() {
            return Err(EINVAL);
        }
        let number = rest.first_chunk::<2>().map_or(0, |b| u16::from_be_bytes(*b));
        if domain.allows_port(number, right) { Ok(()) } else { Err(abi::errno::EACCES) }
    }
}

/// Whether somebody who has forbidden itself ioctl(2) of devices may make this request: those that the VFS answers for any file.
///
/// Source: Linux 6.18 security/landlock/fs.c, `is_masked_device_ioctl`.
pub(super) fn is_common_ioctl(request: u32) -> bool {
    /// `FIOCLEX`, `FIONCLEX`, `FIONBIO`, `FIOASYNC`, `FIOQSIZE`, `FIFREEZE`, `FITHAW`, `FS_IOC_FIEMAP`, `FIGETBSZ`, `FICLONE`,
    /// `FICLONERANGE`, `FIDEDUPERANGE`, `FS_IOC_GETFSUUID`, `FS_IOC_GETFSSYSFSPATH`.
    const COMMON: [u32; 14] = [
        0x5451,
        0x5450,
        0x5421,
        0x5452,
        0x5460,
        0xc004_5877,
        0xc004_5878,
        0xc020_660b,
        2,
        0x4004_9409,
        0x4020_940d,
        0xc018_9436,
        0x8011_1500,
        0x8081_1501,
    ];
    COMMON.contains(&request)
}
