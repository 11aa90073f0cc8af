//! ioctls on terminals (ioctl_tty(2)), but for those about sessions and process groups, which are the sentry's.

use abi::Errno;
use abi::errno::{EINVAL, ENOTTY, EPERM};
use base::cred::cap;

use super::discipline::packet;
use super::termios::{SIZE, SIZE_OLD, SIZE2, Termios, cc};
use super::{Effects, State, Terminal};
use crate::file::IoctlMemory;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSF: u32 = 0x5404;
const TCGETA: u32 = 0x5405;
const TCSETA: u32 = 0x5406;
const TCSETAF: u32 = 0x5408;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
pub(super) const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCGSOFTCAR: u32 = 0x5419;
const TIOCSSOFTCAR: u32 = 0x541a;
const FIONREAD: u32 = 0x541b;
const TIOCPKT: u32 = 0x5420;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGLCKTRMIOS: u32 = 0x5456;
const TIOCSLCKTRMIOS: u32 = 0x5457;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGDEV: u32 = 0x8004_5432;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGEXCL: u32 = 0x8004_5440;

const CLOCAL: u32 = 0o4000;

/// Which side of the pair an ioctl came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Slave,
    Master,
}

fn write_int(memory: &mut dyn IoctlMemory, arg: u64, value: u32) -> Result<(), Errno> {
    memory.write(arg, &value.to_le_bytes())
}

fn read_int(memory: &mut dyn IoctlMemory, arg: u64) -> Result<i32, Errno> {
    let mut bytes = [0; 4];
    memory.read(arg, &mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

/// Does what `request` says; job control has been checked.
pub(super) fn ioctl(
    tty: &Terminal,
    side: Side,
    request: u32,
    arg: u64,
    memory: &mut dyn IoctlMemory,
) -> Result<u64, Errno> {
    match request {
        TCGETS => memory.write(arg, &tty.termios().to_bytes()[..SIZE])?,
        TCGETS2 => memory.write(arg, &tty.termios().to_bytes())?,
        TCGETA => memory.write(arg, &tty.termios().to_old_bytes())?,
        TCSETS..=TCSETSF => {
            let mut bytes = [0; SIZE];
            memory.read(arg, &mut bytes)?;
            set(tty, Termios::from_bytes(&bytes), request == TCSETSF);
        }
        TCSETS2..=TCSETSF2 => {
            let mut bytes = [0; SIZE2];
            memory.read(arg, &mut bytes)?;
            set(tty, Termios::from_bytes(&bytes), request == TCSETSF2);
        }
        TCSETA..=TCSETAF => {
            let mut bytes = [0; SIZE_OLD];
            memory.read(arg, &mut bytes)?;
            set(tty, tty.termios().with_old_bytes(&bytes), request == TCSETAF);
        }
        TIOCGLCKTRMIOS => {
            let locked = tty.state.lock().locked;
            memory.write(arg, &locked.to_bytes()[..SIZE])?;
        }
        TIOCSLCKTRMIOS => {
            if !memory.has_capability(cap::SYS_ADMIN) && !memory.has_capability(cap::CHECKPOINT_RESTORE) {
                return Err(EPERM);
            }
            let mut bytes = [0; SIZE];
            memory.read(arg, &mut bytes)?;
            tty.state.lock().locked = Termios::from_bytes(&bytes);
        }
        TIOCGWINSZ => {
            let window = tty.state.lock().window;
            memory.write(arg, &window)?;
        }
        TIOCSWINSZ => {
            let mut window = [0; 8];
            memory.read(arg, &mut window)?;
            tty.set_window(window);
        }
        FIONREAD => {
            let n = {
                let state = tty.state.lock();
                match side {
                    Side::Slave => state.discipline.readable(),
                    Side::Master => state.discipline.output.len(),
                }
            };
            write_int(memory, arg, u32::try_from(n).unwrap_or(u32::MAX))?;
        }
        // What is written is with the other side at once.
        TIOCOUTQ => write_int(memory, arg, 0)?,
        // There is no line to break.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {}
        TCXONC => flow(tty, side, arg)?,
        TCFLSH => flush(tty, side, arg)?,
        TIOCEXCL | TIOCNXCL => tty.state.lock().is_exclusive = request == TIOCEXCL,
        TIOCGEXCL => {
            let exclusive = tty.state.lock().is_exclusive;
            write_int(memory, arg, exclusive.into())?;
        }
        TIOCGSOFTCAR => write_int(memory, arg, u32::from(tty.termios().cflag & CLOCAL != 0))?,
        TIOCSSOFTCAR => {
            let local = read_int(memory, arg)? != 0;
            tty.with(|state, _| {
                let cflag = &mut state.discipline.termios.cflag;
                *cflag = *cflag & !CLOCAL | if local { CLOCAL } else { 0 };
            });
        }
        TIOCGETD => write_int(memory, arg, 0)?,
        // There is one line discipline, N_TTY.
        TIOCSETD if read_int(memory, arg)? != 0 => return Err(EINVAL),
        TIOCSETD => {}
        TIOCGDEV => {
            let device = match side {
                Side::Slave => tty.device(),
                // Linux's masters have a major number of their own.
                Side::Master => crate::devfs::makedev(128, u64::from(tty.index)),
            };
            write_int(memory, arg, device as u32)?;
        }
        _ if side == Side::Master => return master(tty, request, arg, memory),
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

fn master(tty: &Terminal, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
    match request {
        TIOCGPTN => write_int(memory, arg, tty.index)?,
        TIOCSPTLCK => {
            let locked = read_int(memory, arg)? != 0;
            tty.state.lock().is_locked = locked;
        }
        TIOCGPTLCK => {
            let locked = tty.state.lock().is_locked;
            write_int(memory, arg, locked.into())?;
        }
        TIOCPKT => {
            let on = read_int(memory, arg)? != 0;
            let mut state = tty.state.lock();
            if on && !state.is_packet {
                state.packet = 0;
            }
            state.is_packet = on;
        }
        TIOCGPKT => {
            let on = tty.state.lock().is_packet;
            write_int(memory, arg, on.into())?;
        }
        TIOCSIG => {
            let signo = i32::try_from(arg).ok().filter(|n| (1..=64).contains(n)).ok_or(EINVAL)?;
            tty.type_signal(signo);
        }
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

fn set(tty: &Terminal, new: Termios, flush: bool) {
    if flush {
        tty.with(flush_typed);
    }
    tty.want_input();
    tty.set_termios(new);
}

/// Throws away what the programs have not yet read.
fn flush_typed(state: &mut State, effects: &mut Effects) {
    state.typed.clear();
    state.discipline.flush_input();
    effects.packet |= packet::FLUSHREAD;
    effects.wake_master = true;
}

/// `TCXONC`.
fn flow(tty: &Terminal, side: Side, action: u64) -> Result<(), Errno> {
    const TCOOFF: u64 = 0;
    const TCOON: u64 = 1;
    const TCIOFF: u64 = 2;
    const TCION: u64 = 3;
    tty.with(|state, effects| {
        match (action, side) {
            (TCOOFF, Side::Slave) => state.discipline.stop(effects),
            (TCOON, Side::Slave) => state.discipline.start(effects),
            (TCOOFF | TCOON, Side::Master) => {
                state.typing_stopped = action == TCOOFF;
                effects.wake_master = true;
            }
            (TCIOFF | TCION, _) => {
                let c = state.discipline.termios.cc[if action == TCIOFF { cc::STOP } else { cc::START }];
                match side {
                    _ if c == 0 => {}
                    Side::Slave => {
                        state.discipline.output.push_back(c);
                        effects.wake_master = true;
                    }
                    Side::Master => {
                        state.discipline.receive(c, effects);
                        state.discipline.send_echoes(effects);
                    }
                }
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    })
}

/// `TCFLSH`.
fn flush(tty: &Terminal, side: Side, what: u64) -> Result<(), Errno> {
    const TCIFLUSH: u64 = 0;
    const TCOFLUSH: u64 = 1;
    const TCIOFLUSH: u64 = 2;
    if what > TCIOFLUSH {
        return Err(EINVAL);
    }
    tty.with(|state, effects| {
        let input = what != TCOFLUSH;
        let output = what != TCIFLUSH;
        if side == Side::Slave && input {
            flush_typed(state, effects);
        }
        if side == Side::Slave && output {
            state.discipline.flush_output(effects);
        }
        if side == Side::Master && input {
            state.discipline.output.clear();
            effects.wake_slave = true;
        }
        if side == Side::Master && output {
            state.typed.clear();
            effects.wake_master = true;
        }
        Ok(())
    })
}
