//! `/proc/sys` (sysctl(8)).

use std::sync::{Arc, LazyLock, Weak};

use abi::Errno;
use abi::errno::{EINVAL, EPERM, ESRCH};
use base::cred::cap;
use base::wait::Changes;
use fs::generated::{Builder, Named, Text, Watched};
use fs::vfs::{Inode, StatFs};

use super::machine::made;
use crate::kernel::Kernel;
use crate::mm::MMAP_MIN_ADDR;
use crate::system::{Names, RELEASE, SYSNAME, VERSION, random_uuid};
use crate::task::current::current;

type Make = fn(&Kernel) -> String;

/// Files that nobody can write: path below `/proc/sys`, and text without its newline.
const FIXED: &[(&str, Make)] = &[
    ("fs/aio-nr", |k| k.aio.used().to_string()),
    ("fs/dir-notify-enable", |_| "1".to_owned()),
    ("fs/file-max", |_| i64::MAX.to_string()),
    ("fs/lease-break-time", |_| fs::leases::BREAK_SECONDS.to_string()),
    ("fs/leases-enable", |_| "1".to_owned()),
    ("fs/overflowgid", |_| OVERFLOW_ID.to_string()),
    ("fs/overflowuid", |_| OVERFLOW_ID.to_string()),
    ("fs/suid_dumpable", |_| "0".to_owned()),
    ("kernel/cap_last_cap", |_| cap::LAST.to_string()),
    ("kernel/ngroups_max", |_| crate::syscall::cred::NGROUPS_MAX.to_string()),
    ("kernel/osrelease", |_| RELEASE.to_owned()),
    ("kernel/ostype", |_| SYSNAME.to_owned()),
    ("kernel/overflowgid", |_| OVERFLOW_ID.to_string()),
    ("kernel/overflowuid", |_| OVERFLOW_ID.to_string()),
    ("kernel/random/boot_id", |k| k.system.boot_id.clone()),
    ("kernel/random/uuid", |_| random_uuid()),
    ("kernel/randomize_va_space", |k| if k.aslr { "2" } else { "0" }.to_owned()),
    ("kernel/shm_rmid_forced", |_| "0".to_owned()),
    ("kernel/tainted", |_| "0".to_owned()),
    ("kernel/version", |_| VERSION.to_owned()),
    ("vm/mmap_min_addr", |_| MMAP_MIN_ADDR.to_string()),
    ("vm/overcommit_memory", |_| "0".to_owned()),
    ("vm/overcommit_ratio", |_| "50".to_owned()),
];

/// The user and group that stand for those without a number of their own.
const OVERFLOW_ID: u32 = 65534;

/// One of the machine's names, as a file.
struct NameFile {
    pick: fn(&mut Names) -> &mut Vec<u8>,
    changes: fn() -> &'static Arc<Changes>,
}

impl Text for NameFile {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        let mut text = (self.pick)(&mut current().ok_or(ESRCH)?.uts().lock()).clone();
        text.push(b'\n');
        Ok(text)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let task = current().ok_or(ESRCH)?;
        let uts = task.uts();
        if !uts.owner.grants(&task.cred(), cap::SYS_ADMIN) {
            return Err(EPERM);
        }
        if offset != 0 {
            return Err(EINVAL);
        }
        // Linux kernel/sysctl.c `_proc_do_string`: up to a newline or a zero byte, and what is too long is cut.
        let end = bytes.iter().position(|&b| b == b'\n' || b == 0).unwrap_or(bytes.len()).min(64);
        *(self.pick)(&mut uts.lock()) = bytes[..end].to_vec();
        (self.changes)().tell();
        Ok(bytes.len())
    }

    fn watched(&self) -> Watched {
        Watched::Changing { changes: (self.changes)().clone(), writable: true }
    }
}

/// Told when a host name changes, in any namespace (Linux kernel/utsname_sysctl.c, `hostname_poll`).
pub fn host_name_changes() -> &'static Arc<Changes> {
    static CHANGES: LazyLock<Arc<Changes>> = LazyLock::new(Arc::default);
    &CHANGES
}

/// As `host_name_changes`, of domain names.
pub fn domain_name_changes() -> &'static Arc<Changes> {
    static CHANGES: LazyLock<Arc<Changes>> = LazyLock::new(Arc::default);
    &CHANGES
}

/// `/proc/sys/fs/aio-max-nr`.
struct AioMaxNr(Weak<Kernel>);

impl Text for AioMaxNr {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", self.0.upgrade().ok_or(ESRCH)?.aio.max()).into_bytes())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        // proc_first_pos_non_zero_ignore: what follows the first write is swallowed.
        if offset == 0 {
            let text = std::str::from_utf8(bytes).map_err(|_| EINVAL)?;
            let max = text.trim().parse().map_err(|_| EINVAL)?;
            self.0.upgrade().ok_or(ESRCH)?.aio.set_max(max);
        }
        Ok(bytes.len())
    }
}

/// A value of `/proc/sys/net`, of the network that the reader is in.
struct NetValue {
    kernel: Weak<Kernel>,
    file: &'static net::sysctl::File,
}

impl Text for NetValue {
    fn read(&self) -> Result<Vec<u8>, Errno> {
        let kernel = self.kernel.upgrade().ok_or(ESRCH)?;
        Ok(self.file.read(&super::net::of_reader(&kernel)).into_bytes())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        // proc_first_pos_non_zero_ignore: what follows the first write is swallowed.
        if offset == 0 {
            let kernel = self.kernel.upgrade().ok_or(ESRCH)?;
            self.file.write(&super::net::of_reader(&kernel), bytes)?;
        }
        Ok(bytes.len())
    }
}

/// A directory that is being built.
#[derive(Default)]
struct Dir {
    files: Vec<Named>,
    dirs: Vec<(String, Dir)>,
}

impl Dir {
    fn add(&mut self, path: &str, inode: Arc<dyn Inode>) {
        let Some((first, rest)) = path.split_once('/') else {
            self.files.push((path.to_owned(), inode));
            return;
        };
        let at = self.dirs.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.dirs.push((first.to_owned(), Self::default()));
            self.dirs.len() - 1
        });
        self.dirs[at].1.add(rest, inode);
    }

    fn build(self, builder: &Builder) -> Arc<dyn Inode> {
        let mut children = self.files;
        for (name, dir) in self.dirs {
            children.push((name, dir.build(builder)));
        }
        builder.dir(children)
    }
}

/// Builds a tree from paths.
pub(super) fn tree_of(builder: &Builder, files: Vec<(String, Arc<dyn Inode>)>) -> Arc<dyn Inode> {
    let mut root = Dir::default();
    for (path, inode) in files {
        root.add(&path, inode);
    }
    root.build(builder)
}

/// `/proc/sys`.
pub(super) fn tree(kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
    let builder = Builder::new(fs::procfs::DEV, StatFs::PROC, fs::procfs::FIRST_INO + 0x1000).strict();
    let weak = Arc::downgrade(kernel);
    let mut files: Vec<(String, Arc<dyn Inode>)> = FIXED
        .iter()
        .map(|&(path, make)| (path.to_owned(), builder.text(made(&weak, move |k| make(k) + "\n"))))
        .collect();
    let host = NameFile { pick: |n| &mut n.host, changes: host_name_changes };
    let domain = NameFile { pick: |n| &mut n.domain, changes: domain_name_changes };
    files.push(("kernel/hostname".to_owned(), builder.file(0o644, host)));
    files.push(("kernel/domainname".to_owned(), builder.file(0o644, domain)));
    files.push(("fs/aio-max-nr".to_owned(), builder.file(0o644, AioMaxNr(weak.clone()))));
    files.extend(super::tunable::files(kernel, &builder));
    for file in net::sysctl::FILES {
        files.push((file.path.to_owned(), builder.file(0o644, NetValue { kernel: weak.clone(), file })));
    }
    tree_of(&builder, files)
}
