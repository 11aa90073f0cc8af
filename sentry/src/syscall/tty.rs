//! Terminals as sessions and process groups see them: reading and writing from the background, the ioctls of job control,
//! setsid(2), vhangup(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EAGAIN, EINVAL, EIO, ENOTTY, EPERM, ESRCH};
use abi::{Errno, UserAddr};
use base::cred::cap;
use base::io::Sink;
use base::wait::Events;
use fs::file::{FileDescription, oflag};
use fs::tty::{MasterFile, SlaveFile, Terminal};
use fs::vfs::VfsPath;

use super::{Restart, Stop, SysResult};
use crate::kernel::Tree;
use crate::signal::{SIGTTIN, SIGTTOU};
use crate::task::Ctx;
use crate::task::block::Registration;
use crate::terminal::Leaving;

const NS_PER_DECISECOND: u64 = 100_000_000;

const TCSETS: u32 = 0x5402;
const TCSETAF: u32 = 0x5408;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCSTI: u32 = 0x5412;
const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TIOCGSID: u32 = 0x5429;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGPTPEER: u32 = 0x5441;

/// The terminal behind `file`.
pub(super) fn as_slave(file: &FileDescription) -> Option<&SlaveFile> {
    file.ops.as_any().downcast_ref()
}

/// A terminal that an ioctl came to.
struct Target {
    tty: Arc<Terminal>,
    /// Through the side of whoever is behind it.
    is_master: bool,
    /// The file is dead.
    is_hung_up: bool,
}

fn target(file: &FileDescription) -> Option<Target> {
    if let Some(slave) = as_slave(file) {
        let tty = slave.terminal().clone();
        return Some(Target { tty, is_master: false, is_hung_up: slave.is_hung_up() });
    }
    let master: &MasterFile = file.ops.as_any().downcast_ref()?;
    Some(Target { tty: master.terminal().clone(), is_master: true, is_hung_up: false })
}

impl Ctx<'_> {
    /// A read from a terminal: `VMIN` and `VTIME` say when it ends (termios(3)).
    ///
    /// Source: Linux drivers/tty/n_tty.c, `n_tty_read`.
    pub(super) fn read_terminal(
        &mut self,
        file: &Arc<FileDescription>,
        slave: &SlaveFile,
        list: &[(UserAddr, u64)],
    ) -> SysResult {
        if slave.is_hung_up() {
            return Ok(0);
        }
        self.check_foreground(slave.terminal(), SIGTTIN)?;
        let mm = self.mm.clone();
        let mut sink = mm.sink_list(list)?;
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let (min, time) = slave.timing();
        let between = u64::from(time) * NS_PER_DECISECOND;
        let mut deadline = (min == 0).then(|| self.monotonic_ns() + between);
        let mut done = 0u64;
        let Some(queue) = file.ops.wait_queue() else { return Err(EIO.into()) };
        let _registration = Registration::new(queue, self.task.parker.clone(), Events::READABLE);
        loop {
            let step = self.sleep_until(deadline, Restart::Sys, |_| match slave.take(&mut sink) {
                Ok(found) => Ok(Some(found)),
                // A read without a minimum and a time never waits, and so never fails for that.
                Err(EAGAIN) if file.is_nonblocking() && !(min == 0 && time == 0) => Err(EAGAIN.into()),
                Err(EAGAIN) => Ok(None),
                Err(e) => Err(e.into()),
            });
            match step {
                Ok(Some((n, is_line))) => {
                    done += n as u64;
                    if n == 0 || is_line || done >= min.max(1) as u64 || sink.remaining() == 0 {
                        return Ok(done);
                    }
                    if time > 0 {
                        deadline = Some(self.monotonic_ns() + between);
                    }
                }
                Ok(None) => return Ok(done),
                Err(_) if done > 0 => return Ok(done),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Job control of a write to a terminal.
    pub(super) fn check_writer(&mut self, slave: &SlaveFile) -> Result<(), Stop> {
        if slave.stops_writers() && !slave.is_hung_up() {
            self.check_foreground(slave.terminal(), SIGTTOU)?;
        }
        Ok(())
    }

    /// What of an ioctl on a terminal is about processes; `None` leaves the rest to the file.
    ///
    /// Source: Linux drivers/tty/tty_io.c, `tty_ioctl`; drivers/tty/tty_jobctrl.c, `tty_jobctrl_ioctl`.
    pub(super) fn terminal_ioctl(
        &mut self,
        file: &Arc<FileDescription>,
        request: u32,
        arg: u64,
    ) -> Result<Option<u64>, Stop> {
        let Some(target) = target(file) else { return Ok(None) };
        if target.is_hung_up {
            return Ok(None);
        }
        let tty = &target.tty;
        let addr = UserAddr(arg);
        match request {
            TCSETS..=TCSETAF | TCSETS2..=TCSETSF2 | TCSBRK | TCXONC | TCFLSH | TIOCSETD | TCSBRKP
            | TIOCSBRK | TIOCCBRK
                // 0x5405, between them, only reads.
                if request != 0x5405 =>
            {
                if !target.is_master {
                    self.check_foreground(tty, SIGTTOU)?;
                }
                return Ok(None);
            }
            TIOCSPGRP => self.set_foreground(tty, addr)?,
            TIOCGPGRP => {
                self.check_own(&target)?;
                self.mm.write_value(addr, &self.task.shown_id(tty.foreground.load(Ordering::SeqCst)))?;
            }
            TIOCGSID => {
                self.check_own(&target)?;
                let sid = tty.session.load(Ordering::SeqCst);
                if sid == 0 {
                    return Err(ENOTTY.into());
                }
                self.mm.write_value(addr, &self.task.shown_id(sid))?;
            }
            // Asked of the master, it is about the terminal behind it.
            TIOCSCTTY => self.take_terminal(file, tty, arg)?,
            TIOCNOTTY if !target.is_master => self.give_terminal_up(tty)?,
            TIOCSTI => {
                // Without the sysctl dev.tty.legacy_tiocsti this takes a privilege (since Linux 6.2).
                if !self.cred.has(cap::SYS_ADMIN) {
                    return Err(EIO.into());
                }
                let c: u8 = self.mm.read_value(addr)?;
                tty.type_ahead(c);
            }
            TIOCVHANGUP => {
                if !self.cred.has(cap::SYS_ADMIN) {
                    return Err(EPERM.into());
                }
                tty.hang_up();
            }
            TIOCGPTPEER if !target.is_master => return Err(EIO.into()),
            TIOCGPTPEER => return self.open_peer(file, tty, arg).map(Some),
            _ => return Ok(None),
        }
        Ok(Some(0))
    }

    /// Through its own side only the caller's controlling terminal tells of its session.
    fn check_own(&self, target: &Target) -> Result<(), Errno> {
        if target.is_master {
            return Ok(());
        }
        let own = self.task.kernel.tree.lock().terminal_of(self.task.group.pid);
        if own.is_some_and(|own| Arc::ptr_eq(&own, &target.tty)) { Ok(()) } else { Err(ENOTTY) }
    }

    /// `TIOCSPGRP`, tcsetpgrp(3).
    fn set_foreground(&mut self, tty: &Arc<Terminal>, addr: UserAddr) -> Result<(), Errno> {
        self.check_foreground(tty, SIGTTOU).map_err(|e| if e == EIO { ENOTTY } else { e })?;
        let pgid: i32 = self.mm.read_value(addr)?;
        if pgid < 0 {
            return Err(EINVAL);
        }
        let pgid = self.task.id_of(pgid);
        let tree = self.task.kernel.tree.lock();
        let me = tree.processes.get(&self.task.group.pid).ok_or(ENOTTY)?;
        let is_own = me.tty.as_ref().is_some_and(|own| Arc::ptr_eq(own, tty));
        if !is_own || tty.session.load(Ordering::SeqCst) != me.sid {
            return Err(ENOTTY);
        }
        if session_of(&tree, pgid).ok_or(ESRCH)? != me.sid {
            return Err(EPERM);
        }
        tty.foreground.store(pgid, Ordering::SeqCst);
        Ok(())
    }

    /// `TIOCSCTTY`.
    fn take_terminal(
        &mut self,
        file: &FileDescription,
        tty: &Arc<Terminal>,
        force: u64,
    ) -> Result<(), Errno> {
        let is_admin = self.cred.has(cap::SYS_ADMIN);
        let pid = self.task.group.pid;
        let mut tree = self.task.kernel.tree.lock();
        let me = tree.processes.get(&pid).ok_or(EPERM)?;
        let is_leader = me.sid == pid;
        let session = tty.session.load(Ordering::SeqCst);
        if is_leader && session == pid {
            return Ok(());
        }
        if !is_leader || me.tty.is_some() {
            return Err(EPERM);
        }
        if session != 0 {
            if force != 1 || !is_admin {
                return Err(EPERM);
            }
            tree.clear_session(session);
        }
        if file.flags() & oflag::ACCMODE == oflag::WRONLY && !is_admin {
            return Err(EPERM);
        }
        tree.set_controlling(pid, tty);
        Ok(())
    }

    /// `TIOCNOTTY`.
    fn give_terminal_up(&mut self, tty: &Arc<Terminal>) -> Result<(), Errno> {
        let kernel = self.task.kernel.clone();
        let pid = self.task.group.pid;
        let mut tree = kernel.tree.lock();
        let own = tree.terminal_of(pid).is_some_and(|own| Arc::ptr_eq(&own, tty));
        if !own {
            return Err(ENOTTY);
        }
        kernel.leave_terminal(&mut tree, pid, Leaving::Request);
        if let Some(p) = tree.processes.get_mut(&pid) {
            p.tty = None;
        }
        Ok(())
    }

    /// `TIOCGPTPEER`: opens the terminal in the devpts that its other side was opened from.
    fn open_peer(&mut self, file: &Arc<FileDescription>, tty: &Arc<Terminal>, flags: u64) -> SysResult {
        let flags = (flags as u32) & (oflag::ACCMODE | oflag::NOCTTY | oflag::NONBLOCK | oflag::CLOEXEC);
        let place = file.path.clone().ok_or(EIO)?;
        let parent = place.dentry.parent().ok_or(EIO)?;
        let number = tty.index.to_string();
        let mut walk = self.walk();
        walk.base = VfsPath { mount: place.mount, dentry: parent };
        let is_it = |found: &Arc<FileDescription>| {
            as_slave(found).is_some_and(|slave| Arc::ptr_eq(slave.terminal(), tty))
        };
        let found = [number.clone(), format!("pts/{number}")]
            .iter()
            .filter_map(|path| walk.open(path.as_bytes(), flags & !oflag::CLOEXEC, 0).ok())
            .find(is_it)
            .ok_or(EIO)?;
        Ok(self.install(found, flags & oflag::CLOEXEC != 0)? as u64)
    }
}

/// The session of a process group, or of the process with this ID.
fn session_of(tree: &Tree, pgid: i32) -> Option<i32> {
    let member = tree.processes.values().find(|p| p.pgid == pgid);
    member.or_else(|| tree.processes.get(&pgid)).map(|p| p.sid)
}

/// `setsid(2)`.
pub(super) fn sys_setsid(cx: &mut Ctx<'_>) -> SysResult {
    let pid = cx.task.group.pid;
    let mut tree = cx.task.kernel.tree.lock();
    if tree.processes.values().any(|p| p.pgid == pid) {
        return Err(EPERM.into());
    }
    if let Some(p) = tree.processes.get_mut(&pid) {
        let former = [p.pgid, p.sid];
        p.pgid = pid;
        p.sid = pid;
        p.tty = None;
        p.hung_up_group = 0;
        former.into_iter().for_each(|id| tree.release_id(id));
    }
    Ok(cx.task.group.shown_pid as u64)
}

/// `vhangup(2)`: hangs the caller's controlling terminal up.
pub(super) fn sys_vhangup(cx: &mut Ctx<'_>) -> SysResult {
    if !cx.cred.has(cap::SYS_TTY_CONFIG) {
        return Err(EPERM.into());
    }
    let own = cx.task.kernel.tree.lock().terminal_of(cx.task.group.pid);
    if let Some(tty) = own {
        tty.hang_up();
    }
    Ok(0)
}
