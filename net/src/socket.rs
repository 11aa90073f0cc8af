//! What a protocol family provides, and the file that a socket is.
//!
//! Nothing here blocks: an operation that would wait returns `EAGAIN` (`connect`: `EINPROGRESS` once it is under way),
//! and the syscall layer waits on the socket's queue and tries again.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::errno::{EINVAL, ENODEV, ENOTTY, EOPNOTSUPP};
use abi::socket::{Ucred, sock};
use base::cred::Credentials;
use base::io::{Sink, Source};
use base::memmap::Mappable;
use base::wait::{Events, WaitQueue};
use fs::file::{FileDescription, FileOps, IoctlMemory, Metadata, oflag};
use fs::vfs::{SetAttributes, Walk, mode};

use crate::Common;
use crate::filter::Attached;
use crate::message::{Incoming, Outgoing};
use crate::report::Report;
use crate::rights::Rights;

/// The device number of the internal file system that sockets live on; it only needs to differ from others.
const SOCKET_DEV: u64 = 0x8;

/// Who makes a call.
#[derive(Debug)]
pub struct Caller<'a> {
    /// Credentials.
    pub cred: &'a Credentials,
    /// The process ID, in the first PID namespace.
    pub pid: i32,
    /// The process ID in its own PID namespace.
    pub shown_pid: i32,
    /// For names that are paths; only there for such names.
    pub walk: Option<Walk<'a>>,
    /// `RLIMIT_NOFILE`.
    pub nofile: u64,
}

impl Caller<'_> {
    /// What `SCM_CREDENTIALS` and `SO_PEERCRED` tell of the caller.
    pub fn ucred(&self) -> Ucred {
        Ucred { pid: self.pid, uid: self.cred.uid, gid: self.cred.gid }
    }

    /// The same with effective ids, for `SO_PEERCRED`.
    pub fn peer_cred(&self) -> PeerCred {
        let ucred = Ucred { pid: self.pid, uid: self.cred.euid, gid: self.cred.egid };
        PeerCred { ucred, groups: self.cred.groups.clone() }
    }
}

/// Whom a connection was made with.
#[derive(Clone, Debug)]
pub struct PeerCred {
    /// `SO_PEERCRED`.
    pub ucred: Ucred,
    /// `SO_PEERGROUPS`.
    pub groups: Arc<[u32]>,
}

/// A socket of some family. The defaults are those of a socket without the operation.
pub trait Socket: Debug + Send + Sync + Any {
    /// What every socket has.
    fn common(&self) -> &Arc<Common>;

    /// For downcasts.
    fn as_any(&self) -> &dyn Any;

    /// `bind(2)`.
    ///
    /// # Errors
    /// The family's.
    fn bind(&self, _caller: &Caller<'_>, _address: &[u8]) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// `listen(2)`; `backlog` is at most `somaxconn`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for types without connections.
    fn listen(&self, _caller: &Caller<'_>, _backlog: usize) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// The next connection.
    ///
    /// # Errors
    /// `EAGAIN`: there is none; `EINVAL`: not listening.
    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        Err(EOPNOTSUPP)
    }

    /// `connect(2)`.
    ///
    /// # Errors
    /// `EAGAIN`: nothing has begun, try again once writable; `EINPROGRESS`: it is under way; `EALREADY`: it was before.
    fn connect(&self, _caller: &Caller<'_>, _address: &[u8]) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// How a connection that was under way went.
    ///
    /// # Errors
    /// `EAGAIN`: it still is; the connection's error.
    fn connected(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// `getsockname(2)`.
    ///
    /// # Errors
    /// The family's.
    fn local_name(&self) -> Result<Vec<u8>, Errno>;

    /// `getpeername(2)`.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn peer_name(&self) -> Result<Vec<u8>, Errno>;

    /// `shutdown(2)`; `how` is one of `SHUT_*`.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn shutdown(&self, how: u32) -> Result<(), Errno>;

    /// What is found out before the control messages of a message that is sent are looked at.
    ///
    /// # Errors
    /// Those of `send`.
    fn before_send(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Sends a message, or as much of a stream as fits; `caller` is `None` for `sendfile` and its like.
    ///
    /// # Errors
    /// `EAGAIN`, without having taken anything from the source.
    fn send(&self, caller: Option<&Caller<'_>>, message: &mut Outgoing<'_>) -> Result<usize, Errno>;

    /// Receives a message, or as much of a stream as is there.
    ///
    /// # Errors
    /// `EAGAIN`.
    fn receive(&self, dst: &mut dyn Sink, flags: u32) -> Result<Incoming, Errno>;

    /// Whether a send that fails with `EPIPE` raises SIGPIPE.
    fn raises_sigpipe(&self) -> bool {
        self.common().is_stream()
    }

    /// What the socket is ready for.
    fn ready(&self) -> Events;

    /// `setsockopt(2)` for levels other than `SOL_SOCKET`.
    ///
    /// # Errors
    /// `ENOPROTOOPT`.
    fn set_option(&self, _caller: &Caller<'_>, _level: i32, _name: i32, _value: &[u8]) -> Result<(), Errno> {
        Err(EOPNOTSUPP)
    }

    /// Whether an option of level `SOL_SOCKET` is the family's own business.
    fn owns_option(&self, _level: i32, _name: i32) -> bool {
        false
    }

    /// `getsockopt(2)` for levels other than `SOL_SOCKET`; `given` is what the caller's buffer holds.
    ///
    /// # Errors
    /// `ENOPROTOOPT`.
    fn option(&self, _level: i32, _name: i32, _given: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(EOPNOTSUPP)
    }

    /// `SO_PEERCRED` and `SO_PEERGROUPS`.
    fn peer_cred(&self) -> Option<PeerCred> {
        None
    }

    /// `SO_ACCEPTCONN`.
    fn is_listening(&self) -> bool {
        false
    }

    /// From which of its bytes on a stream numbers its time stamps (`SOF_TIMESTAMPING_OPT_ID`).
    ///
    /// # Errors
    /// `EINVAL`: it is not connected.
    fn stamp_base(&self) -> Result<u64, Errno> {
        Ok(0)
    }

    /// Whether it has ports, so that `SO_REUSEPORT` means something.
    fn has_ports(&self) -> bool {
        false
    }

    /// Sets or removes what chooses among the sockets that share its port.
    ///
    /// # Errors
    /// `EINVAL`: it shares none; `ENOENT`: there was nothing to remove.
    fn set_chooser(&self, _chooser: Option<Arc<Attached>>) -> Result<(), Errno> {
        Err(EINVAL)
    }

    /// The pages that it shares with programs.
    ///
    /// # Errors
    /// `ENODEV`: it has none, nor ever will; `EINVAL`: it has none now.
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Err(ENODEV)
    }

    /// Whether `len` bytes of them may be mapped from `offset`.
    ///
    /// # Errors
    /// `EINVAL`.
    fn check_mapping(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// `SO_PEEK_OFF` is supported.
    fn has_peek_offset(&self) -> bool {
        false
    }

    /// Bytes that can be read (`FIONREAD`).
    ///
    /// # Errors
    /// `EINVAL`: the socket listens.
    fn readable_bytes(&self) -> Result<usize, Errno>;

    /// Bytes sent that were not read (`SIOCOUTQ`).
    ///
    /// # Errors
    /// `EINVAL`: the socket listens.
    fn unsent_bytes(&self) -> Result<usize, Errno>;

    /// Whether the next byte to read is behind urgent data (`SIOCATMARK`).
    ///
    /// # Errors
    /// `ENOTTY` for families without urgent data.
    fn at_mark(&self) -> Result<bool, Errno> {
        Err(ENOTTY)
    }

    /// Other ioctls.
    ///
    /// # Errors
    /// `ENOTTY`.
    fn ioctl(&self, _request: u32, _arg: u64, _memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        Err(ENOTTY)
    }

    /// Adds what the socket tells of itself, and of connections that wait to be accepted.
    fn report(&self, _list: &mut Vec<Report>) {}

    /// Files in messages that wait to be received, for the search for rings of passed sockets.
    fn queued_files(&self, _each: &mut dyn FnMut(&Arc<FileDescription>)) {}

    /// Takes all passed files out of the queue of a socket that nobody can receive from.
    fn take_queue(&self) -> Vec<Rights> {
        Vec::new()
    }

    /// The last descriptor is gone.
    fn close(&self);
}

/// A socket as a file.
#[derive(Debug)]
pub struct SocketFile(pub Arc<dyn Socket>);

impl SocketFile {
    /// Makes a description; `flags` may hold `O_NONBLOCK`.
    pub fn describe(socket: Arc<dyn Socket>, flags: u32) -> Arc<FileDescription> {
        socket.common().net.add_socket(&socket);
        FileDescription::new(Box::new(Self(socket)), None, oflag::RDWR | flags & oflag::NONBLOCK)
    }

    /// The socket that `file` is, if it is one.
    pub fn of(file: &FileDescription) -> Option<&Arc<dyn Socket>> {
        file.ops.as_any().downcast_ref::<Self>().map(|file| &file.0)
    }
}

const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
const SIOCATMARK: u32 = 0x8905;

impl FileOps for SocketFile {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        // sock_read_iter: nothing to read into is no read.
        if dst.remaining() == 0 {
            return Ok(0);
        }
        self.0.receive(dst, 0).map(|incoming| incoming.copied)
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let rights = &mut Rights::default();
        let mut message = Outgoing { data: src, to: &[], flags: 0, rights, cred: None, controls: &[] };
        self.0.send(None, &mut message)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        let common = self.0.common();
        let time = common.created;
        Ok(Metadata {
            dev: SOCKET_DEV,
            ino: common.ino,
            mode: mode::IFSOCK | common.mode.load(Ordering::Relaxed),
            nlink: 1,
            uid: common.uid.load(Ordering::Relaxed),
            gid: common.gid.load(Ordering::Relaxed),
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Metadata::default()
        })
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        let common = self.0.common();
        let set = |at: &AtomicU32, value: Option<u32>| {
            if let Some(value) = value {
                at.store(value, Ordering::Relaxed);
            }
        };
        set(&common.mode, attributes.mode);
        set(&common.uid, attributes.uid);
        set(&common.gid, attributes.gid);
        Ok(())
    }

    fn ready(&self) -> Events {
        self.0.ready()
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.0.mappable()
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.common().wait)
    }

    fn ioctl(&self, request: u32, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
        let value = match request {
            FIONREAD => self.0.readable_bytes()?,
            SIOCOUTQ => self.0.unsent_bytes()?,
            SIOCATMARK => usize::from(self.0.at_mark()?),
            _ => {
                let common = self.0.common();
                return match crate::ioctl::ioctl(&common.net, common.domain(), request, arg, memory) {
                    Err(ENOTTY) => self.0.ioctl(request, arg, memory),
                    other => other,
                };
            }
        };
        memory.write(arg, &i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(format!("socket:[{}]", self.0.common().ino).into_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let common = self.0.common();
        common.net.remove_socket(common.ino);
        self.0.close();
    }
}

/// Whether `kind` has connections that are accepted.
pub(crate) const fn has_connections(kind: u32) -> bool {
    matches!(kind, sock::STREAM | sock::SEQPACKET)
}
