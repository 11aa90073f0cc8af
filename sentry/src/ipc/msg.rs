//! Message queues (Linux ipc/msg.c).

use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{E2BIG, EAGAIN, EIDRM, EINVAL, ENOMSG};
use base::cred::Credentials;
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::{Ident, IpcNamespace, Object, Perm, Share};

/// Most queues.
pub const MSGMNI: usize = 32000;
/// Most bytes of a message.
pub const MSGMAX: u64 = 8192;
/// Most bytes in a queue at first.
pub const MSGMNB: u64 = 16384;
/// What the sentry keeps for a message beside its text, about.
const OVERHEAD: u64 = 64;

/// A message.
#[derive(Debug)]
pub struct Message {
    /// `mtype`.
    pub kind: i64,
    /// `mtext`.
    pub text: Vec<u8>,
    _share: Share,
}

/// What changes of a queue.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of struct msqid_ds, see msgctl(2)")]
pub struct MsgState {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    messages: VecDeque<Message>,
    is_removed: bool,
}

/// A message queue.
#[derive(Debug)]
pub struct MsgQueue {
    ident: Ident,
    /// The rest.
    pub state: Lock<MsgState, { rank::IPC_OBJECT }>,
    /// Those who wait for a message (`IN`) or for room (`OUT`).
    pub waiters: WaitQueue,
}

impl Object for MsgQueue {
    fn id(&self) -> i32 {
        self.ident.id
    }
}

/// Which message msgrcv(2) asks for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// The first.
    Any,
    /// The first of a type.
    Equal(i64),
    /// The first of another type.
    NotEqual(i64),
    /// The first of the lowest type up to this.
    LessEqual(i64),
    /// The one at this place.
    Number(u64),
}

impl IpcNamespace {
    /// msgget(2).
    ///
    /// # Errors
    /// [`super::Table::find_or_make`]'s; `EACCES`; `ENOMEM`.
    pub fn msgget(&self, key: i32, flags: u32, cred: &Credentials, now: i64) -> Result<i32, Errno> {
        let open = |q: &MsgQueue| q.state.lock().perm.check(cred, flags);
        let make = |ident: Ident| {
            Ok(Arc::new(MsgQueue {
                ident,
                state: Lock::new(MsgState {
                    perm: Perm::new(key, flags, cred, ident.seq),
                    stime: 0,
                    rtime: 0,
                    ctime: now,
                    cbytes: 0,
                    qbytes: self.limits.msgmnb.load(std::sync::atomic::Ordering::Relaxed),
                    lspid: 0,
                    lrpid: 0,
                    messages: VecDeque::new(),
                    is_removed: false,
                }),
                waiters: WaitQueue::new(),
            }))
        };
        self.msg.lock().find_or_make(key, flags, open, make).map(|q| q.ident.id)
    }

    /// `IPC_RMID`: all who wait get `EIDRM`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn remove_queue(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut table = self.msg.lock();
        let queue = table.get(id)?;
        let mut state = queue.state.lock();
        state.perm.check_owner(cred)?;
        state.is_removed = true;
        let messages = std::mem::take(&mut state.messages);
        let key = state.perm.key;
        drop(state);
        table.remove(key, id);
        drop(table);
        drop(messages);
        queue.waiters.notify(Events::IN | Events::OUT);
        Ok(())
    }
}

impl MsgQueue {
    /// How many messages there are.
    pub fn len(state: &MsgState) -> u64 {
        state.messages.len() as u64
    }

    /// Queues a message; takes it out of `message` then.
    ///
    /// # Errors
    /// `EACCES`, `EIDRM`; `EAGAIN`: no room.
    pub fn send(
        &self,
        cred: &Credentials,
        pid: i32,
        now: i64,
        message: &mut Option<Message>,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(EIDRM);
        }
        state.perm.check(cred, 0o222)?;
        let len = message.as_ref().map_or(0, |m| m.text.len() as u64);
        if state.cbytes + len > state.qbytes || state.messages.len() as u64 + 1 > state.qbytes {
            return Err(EAGAIN);
        }
        let Some(message) = message.take() else { return Ok(()) };
        state.cbytes += len;
        state.messages.push_back(message);
        (state.lspid, state.stime) = (pid, now);
        drop(state);
        self.waiters.notify(Events::IN);
        Ok(())
    }

    /// Takes the message that is wanted, of at most `max` bytes unless `cut`.
    ///
    /// # Errors
    /// `EACCES`, `EIDRM`; `ENOMSG`: there is none; `E2BIG`.
    pub fn receive(
        &self,
        cred: &Credentials,
        pid: i32,
        now: i64,
        wanted: Wanted,
        max: u64,
        cut: bool,
    ) -> Result<Message, Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(EIDRM);
        }
        state.perm.check(cred, 0o444)?;
        let at = find(&state.messages, wanted).ok_or(ENOMSG)?;
        if !cut && state.messages.get(at).is_some_and(|m| m.text.len() as u64 > max) {
            return Err(E2BIG);
        }
        let message = state.messages.remove(at).ok_or(ENOMSG)?;
        state.cbytes -= message.text.len() as u64;
        (state.lrpid, state.rtime) = (pid, now);
        drop(state);
        self.waiters.notify(Events::OUT);
        Ok(message)
    }

    /// Copies the text of a message without taking it: `MSG_COPY`.
    ///
    /// # Errors
    /// As [`MsgQueue::receive`]; `EINVAL`: the text is longer than `max`, and was to be cut (Linux ipc/msgutil.c,
    /// `copy_msg`).
    pub fn copy(
        &self,
        cred: &Credentials,
        number: u64,
        max: u64,
        cut: bool,
    ) -> Result<(i64, Vec<u8>), Errno> {
        let state = self.state.lock();
        if state.is_removed {
            return Err(EIDRM);
        }
        state.perm.check(cred, 0o444)?;
        let at = find(&state.messages, Wanted::Number(number)).ok_or(ENOMSG)?;
        let message = state.messages.get(at).ok_or(ENOMSG)?;
        if message.text.len() as u64 > max {
            return Err(if cut { EINVAL } else { E2BIG });
        }
        Ok((message.kind, message.text.clone()))
    }
}

impl Message {
    /// A message that was copied in.
    ///
    /// # Errors
    /// `ENOMEM`: messages hold too much already.
    pub fn new(budget: &Arc<super::Budget>, kind: i64, text: Vec<u8>) -> Result<Self, Errno> {
        let share = budget.take(text.len() as u64 + OVERHEAD)?;
        Ok(Self { kind, text, _share: share })
    }
}

fn find(messages: &VecDeque<Message>, wanted: Wanted) -> Option<usize> {
    match wanted {
        Wanted::Any => (!messages.is_empty()).then_some(0),
        Wanted::Equal(kind) => messages.iter().position(|m| m.kind == kind),
        Wanted::NotEqual(kind) => messages.iter().position(|m| m.kind != kind),
        Wanted::LessEqual(most) => {
            let lowest = messages.iter().map(|m| m.kind).filter(|&k| k <= most).min()?;
            messages.iter().position(|m| m.kind == lowest)
        }
        Wanted::Number(n) => usize::try_from(n).ok().filter(|&n| n < messages.len()),
    }
}
