//! fanotify(7).

use std::sync::Arc;

use abi::errno::{EBADF, EFAULT, EINVAL, ENODEV, ENOTDIR, EPERM};
use abi::{Errno, UserAddr};
use base::cred::{Credentials, cap};
use base::wait::Events;
use fs::anon::fanotify::{
    self, ACCESS_PERM, Change, Event, Fanotify, ON_CHILD, OPEN_EXEC, Object, QUESTIONS, RENAME, init,
};
use fs::file::{FileDescription, oflag};
use fs::notify::event;
use fs::vfs::{VfsPath, Walk, check_inode, may};

use super::SysResult;
use super::path::AT_FDCWD;
use crate::task::{Ctx, pidfd};

/// `FAN_EVENT_INFO_TYPE_PIDFD`.
const PIDFD: u8 = 4;
/// `FAN_NOFD`.
const NO_FD: i32 = -1;

/// Events that come with a descriptor of the file.
const FD_EVENTS: u32 = event::ACCESS
    | event::MODIFY
    | event::CLOSE_WRITE
    | event::CLOSE_NOWRITE
    | event::OPEN
    | OPEN_EXEC
    | QUESTIONS;
/// Events that only come with handles.
const FID_EVENTS: u32 = event::ATTRIB
    | event::MOVED_FROM
    | event::MOVED_TO
    | event::CREATE
    | event::DELETE
    | event::DELETE_SELF
    | event::MOVE_SELF
    | RENAME;
const EVENT_FLAGS: u32 = event::ISDIR | ON_CHILD;

/// `fanotify_init(2)`.
///
/// Source: Linux 6.18 fs/notify/fanotify/fanotify_user.c.
pub(super) fn sys_fanotify_init(cx: &mut Ctx<'_>, flags: u32, event_flags: u32) -> SysResult {
    const KNOWN: u32 = init::CLOEXEC
        | init::NONBLOCK
        | init::CLASS_CONTENT
        | init::CLASS_PRE_CONTENT
        | init::UNLIMITED_QUEUE
        | init::UNLIMITED_MARKS
        | init::REPORT_PIDFD
        | init::REPORT_TID
        | init::FIDS;
    const FOR_ADMINS: u32 = init::CLASS_CONTENT
        | init::CLASS_PRE_CONTENT
        | init::REPORT_PIDFD
        | init::REPORT_TID
        | init::UNLIMITED_QUEUE
        | init::UNLIMITED_MARKS;
    const EVENT_KNOWN: u32 = oflag::ACCMODE
        | oflag::APPEND
        | oflag::NONBLOCK
        | oflag::SYNC
        | oflag::CLOEXEC
        | oflag::LARGEFILE
        | oflag::NOATIME;
    const CLASSES: u32 = init::CLASS_CONTENT | init::CLASS_PRE_CONTENT;
    let fids = flags & init::FIDS;
    let is_unprivileged = !cx.cred.has(cap::SYS_ADMIN);
    if is_unprivileged && (flags & FOR_ADMINS != 0 || fids == 0) {
        return Err(EPERM.into());
    }
    const PROCESSES: u32 = init::REPORT_PIDFD | init::REPORT_TID;
    if flags & !KNOWN != 0 || flags & PROCESSES == PROCESSES {
        return Err(EINVAL.into());
    }
    if event_flags & !EVENT_KNOWN != 0 || event_flags & oflag::ACCMODE == 3 {
        return Err(EINVAL.into());
    }
    if fids != 0 && flags & CLASSES != 0 || flags & CLASSES == CLASSES {
        return Err(EINVAL.into());
    }
    if fids & init::REPORT_NAME != 0 && fids & init::REPORT_DIR_FID == 0 {
        return Err(EINVAL.into());
    }
    let all = init::REPORT_FID | init::REPORT_DIR_FID | init::REPORT_NAME;
    if fids & init::REPORT_TARGET_FID != 0 && fids & all != all {
        return Err(EINVAL.into());
    }
    let file = fanotify::new(flags & !init::CLOEXEC, event_flags, is_unprivileged);
    Ok(cx.install(file, flags & init::CLOEXEC != 0)? as u64)
}

fn group_of(file: &FileDescription) -> Option<&Fanotify> {
    file.ops.as_any().downcast_ref()
}

/// `fanotify_mark(2)`.
///
/// Source: Linux 6.18 fs/notify/fanotify/fanotify_user.c, `do_fanotify_mark`.
pub(super) fn sys_fanotify_mark(
    cx: &mut Ctx<'_>,
    fd: i32,
    flags: u32,
    mask: u64,
    dirfd: i32,
    path: UserAddr,
) -> SysResult {
    const ADD: u32 = 1;
    const REMOVE: u32 = 2;
    const DONT_FOLLOW: u32 = 4;
    const ONLYDIR: u32 = 8;
    const MOUNT: u32 = 0x10;
    const IGNORED_MASK: u32 = 0x20;
    const SURVIVES: u32 = 0x40;
    const FLUSH: u32 = 0x80;
    const FILESYSTEM: u32 = 0x100;
    const EVICTABLE: u32 = 0x200;
    const IGNORE: u32 = 0x400;
    const KINDS: u32 = MOUNT | FILESYSTEM;
    const KNOWN: u32 =
        ADD | REMOVE | DONT_FOLLOW | ONLYDIR | KINDS | IGNORED_MASK | SURVIVES | FLUSH | EVICTABLE | IGNORE;
    let mask = u32::try_from(mask).map_err(|_| EINVAL)?;
    if flags & !KNOWN != 0 || flags & KINDS == KINDS {
        return Err(EINVAL.into());
    }
    match flags & (ADD | REMOVE | FLUSH) {
        ADD | REMOVE if mask == 0 => return Err(EINVAL.into()),
        ADD | REMOVE => {}
        FLUSH if flags & !(KINDS | FLUSH) != 0 => return Err(EINVAL.into()),
        FLUSH => {}
        _ => return Err(EINVAL.into()),
    }
    if mask & !(FD_EVENTS | FID_EVENTS | EVENT_FLAGS) != 0 {
        return Err(EINVAL.into());
    }
    let ignores = flags & (IGNORED_MASK | IGNORE) != 0;
    if flags & (IGNORED_MASK | IGNORE) == IGNORED_MASK | IGNORE {
        return Err(EINVAL.into());
    }
    // The older form knows no flags in the mask.
    let mask = if flags & IGNORED_MASK != 0 { mask & !EVENT_FLAGS } else { mask };
    let file = cx.open_file(fd)?;
    let group = group_of(&file).ok_or(EINVAL)?;
    if group.is_unprivileged && flags & KINDS != 0 {
        return Err(EPERM.into());
    }
    if mask & QUESTIONS != 0 && group.flags() & (init::CLASS_CONTENT | init::CLASS_PRE_CONTENT) == 0 {
        return Err(EINVAL.into());
    }
    let fids = group.flags() & init::FIDS;
    if mask & FID_EVENTS != 0 && (fids == 0 || flags & MOUNT != 0) {
        return Err(EINVAL.into());
    }
    // Both names are told, or none.
    if mask & RENAME != 0 && fids & init::REPORT_NAME == 0 {
        return Err(EINVAL.into());
    }
    if flags & IGNORE != 0 && flags & KINDS != 0 && flags & SURVIVES == 0 {
        return Err(EINVAL.into());
    }
    if flags & FLUSH != 0 {
        group.flush(|object| match object {
            Object::Inode(_) => flags & KINDS == 0,
            Object::Mount(_) => flags & MOUNT != 0,
            Object::FileSystem(_) => flags & FILESYSTEM != 0,
        });
        return Ok(0);
    }
    let place = mark_place(cx, dirfd, path, flags & DONT_FOLLOW == 0, flags & ONLYDIR != 0)?;
    if fids != 0 {
        place.handle().map_err(|_| ENODEV)?;
    }
    let object = match flags & KINDS {
        MOUNT => Object::Mount(place.mount),
        FILESYSTEM => Object::FileSystem(place.mount),
        _ => Object::Inode(place),
    };
    let change = Change { adds: flags & ADD != 0, mask, ignores, survives: flags & SURVIVES != 0 };
    group.mark(object, change)?;
    Ok(0)
}

fn mark_place(
    cx: &Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    follow: bool,
    only_dir: bool,
) -> Result<VfsPath, Errno> {
    let place = if path.is_null() {
        if dirfd == AT_FDCWD {
            cx.fs.lock().cwd.clone()
        } else {
            cx.file(dirfd)?.path.clone().ok_or(EINVAL)?
        }
    } else {
        let path = cx.path(path)?;
        cx.walk_at(dirfd, &path)?.resolve(&path, follow)?
    };
    if only_dir && !place.dentry.is_dir() {
        return Err(ENOTDIR);
    }
    let inode = place.inode();
    check_inode(inode.as_ref(), &inode.metadata()?, may::READ, &cx.cred)?;
    Ok(place)
}

impl Ctx<'_> {
    /// Asks those who want to be asked whether the file may be read.
    ///
    /// # Errors
    /// `EPERM`; `EINTR`: the thread must end.
    pub(super) fn ask_to_read(&self, file: &FileDescription) -> Result<(), Errno> {
        match &file.path {
            Some(place) if fanotify::asks() && !file.is_silent() => {
                self.past_waits(|| fanotify::ask(place, ACCESS_PERM))
            }
            _ => Ok(()),
        }
    }

    /// `read` of a group: as many events as fit, with descriptors of their files.
    ///
    /// # Errors
    /// `EAGAIN`, `EINVAL`, `EFAULT`.
    pub(super) fn read_fanotify(
        &mut self,
        file: &Arc<FileDescription>,
        list: &[(UserAddr, u64)],
    ) -> SysResult {
        let group = group_of(file).ok_or(EBADF)?;
        let room: u64 = list.iter().map(|(_, len)| *len).sum();
        let mut room = usize::try_from(room).unwrap_or(usize::MAX).min(1 << 20);
        let mut out = Vec::new();
        let mut fds = Vec::new();
        let first = self.blocking(file, Events::READABLE, |_| group.take(room))?;
        let mut next = Some(first);
        while let Some(told) = next.take() {
            let fd = self.open_event(group, &told);
            let (number, lost) = match fd {
                Ok(fd) => (fd, false),
                Err(_) => (NO_FD, told.place.is_some()),
            };
            group.taken(&told, (!lost).then_some(number));
            if number >= 0 {
                fds.push(number);
            }
            let pid = if group.is_unprivileged && told.pid != self.task.group.pid {
                0
            } else {
                self.task.shown_id(told.pid)
            };
            let size = told.size(group.flags());
            out.extend_from_slice(&(size as u32).to_le_bytes());
            out.extend_from_slice(&[3, 0]);
            out.extend_from_slice(&(fanotify::METADATA_LEN as u16).to_le_bytes());
            out.extend_from_slice(&u64::from(told.mask).to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&pid.to_le_bytes());
            out.extend_from_slice(&told.records);
            if group.flags() & init::REPORT_PIDFD != 0 {
                let pidfd = self.event_process(told.pid);
                if pidfd >= 0 {
                    fds.push(pidfd);
                }
                out.extend_from_slice(&[PIDFD, 0, 8, 0]);
                out.extend_from_slice(&pidfd.to_le_bytes());
            }
            room -= size;
            next = group.take(room).ok();
        }
        let mut sink = self.mm.sink_list(list)?;
        match base::io::Sink::put(&mut sink, &out) {
            Ok(n) if n == out.len() => Ok(n as u64),
            _ => {
                for fd in fds {
                    // Nobody can answer what was not seen.
                    let _ = group.answer(fd, false);
                    drop(self.files.remove(fd));
                }
                Err(EFAULT.into())
            }
        }
    }

    /// A descriptor of the file that an event is about, whose use is told to nobody.
    fn open_event(&self, group: &Fanotify, told: &Event) -> Result<i32, Errno> {
        let Some(place) = &told.place else { return Ok(NO_FD) };
        // Modes are not asked about; what the reader has forbidden itself is.
        let root = Credentials { landlock: self.cred.landlock.clone(), ..Credentials::root() };
        let flags = group.event_flags & !oflag::CLOEXEC | oflag::NONOTIFY;
        let walk = Walk { cred: &root, ..self.walk() };
        let file = walk.open_place(place.clone(), flags)?;
        self.install(file, group.event_flags & oflag::CLOEXEC != 0)
    }

    /// A descriptor of the process with number `pid`, which did what is told; negative without one.
    fn event_process(&self, pid: i32) -> i32 {
        const NO_PROCESS: i32 = -1;
        const FAILED: i32 = -2;
        let group = self.task.kernel.tree.lock().processes.get(&pid).map(|p| p.group.clone());
        let Some(group) = group.filter(|_| self.task.pid_ns().sees(pid)) else { return NO_PROCESS };
        self.install(pidfd::new(group, 0), true).unwrap_or(FAILED)
    }

    /// `write` to a group: an answer.
    ///
    /// # Errors
    /// `EINVAL`: no answer; `ENOENT`: to no question.
    pub(super) fn write_fanotify(&self, file: &FileDescription, list: &[(UserAddr, u64)]) -> SysResult {
        const ALLOW: u32 = 1;
        const DENY: u32 = 2;
        const AUDIT: u32 = 0x10;
        let group = group_of(file).ok_or(EBADF)?;
        let Some(&(addr, len)) = list.first() else { return Err(EINVAL.into()) };
        if len < 8 {
            return Err(EINVAL.into());
        }
        let [fd, response]: [u32; 2] = self.mm.read_value(addr)?;
        if fd.cast_signed() < 0 {
            return Err(EINVAL.into());
        }
        let allows = match response & !AUDIT {
            ALLOW => true,
            DENY => false,
            _ => return Err(EINVAL.into()),
        };
        group.answer(fd.cast_signed(), allows)?;
        Ok(len)
    }
}

/// Whether reads and writes of `file` are the functions above.
pub(super) fn is_group(file: &FileDescription) -> bool {
    group_of(file).is_some()
}
