//! /dev/fuse: what the server reads and writes.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EINVAL, EIO, ENODEV, ENOENT, EPERM};
use base::io::{Sink, Source};
use base::wait::{Events, WaitQueue};

use super::{Connection, DATA_MAX, OUT_HEADER, Request};
use crate::devfs::makedev;
use crate::file::{FileOps, Metadata};
use crate::vfs::Inode;

/// The number of the device.
pub const DEVICE: u64 = makedev(10, 229);
/// A server must be ready to read as much (`FUSE_MIN_READ_BUFFER`).
const READ_MIN: usize = 8192;

/// An open device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) connection: Arc<Connection>,
    inode: Arc<dyn Inode>,
}

/// Opens the device: a connection that is mounted nowhere.
pub fn open(inode: &Arc<dyn Inode>) -> Box<dyn FileOps> {
    Box::new(Device { connection: Arc::default(), inode: inode.clone() })
}

impl FileOps for Device {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.connection.state.lock().is_mounted {
            return Err(EPERM);
        }
        let room = dst.remaining();
        if room < READ_MIN {
            return Err(EINVAL);
        }
        loop {
            let Request { unique, bytes, slot } = {
                let mut state = self.connection.state.lock();
                if !state.is_mounted {
                    return Err(EPERM);
                }
                if state.is_over {
                    return Err(ENODEV);
                }
                let request = state.unread.pop_front().ok_or(EAGAIN)?;
                if let Some(slot) = &request.slot {
                    state.asked.insert(request.unique, slot.clone());
                }
                request
            };
            let result = if bytes.len() > room { Err(EIO) } else { dst.put(&bytes) };
            match result {
                Ok(n) if n == bytes.len() => return Ok(n),
                Err(EIO) if bytes.len() > room => {
                    // Too long for this server: only who asked is told.
                    self.connection.state.lock().asked.remove(&unique);
                    if let Some(slot) = slot {
                        slot.fill(Err(EIO));
                    }
                }
                _ => {
                    self.connection.state.lock().asked.remove(&unique);
                    if let Some(slot) = slot {
                        slot.fill(Err(EIO));
                    }
                    return Err(abi::errno::EFAULT);
                }
            }
        }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if !self.connection.state.lock().is_mounted {
            return Err(EPERM);
        }
        let len = src.remaining();
        if !(OUT_HEADER..=OUT_HEADER + DATA_MAX as usize + 4096).contains(&len) {
            return Err(EINVAL);
        }
        let mut bytes = vec![0; len];
        if src.take(&mut bytes)? != len {
            return Err(EINVAL);
        }
        let mut head = super::Reply(&bytes);
        let (told, error, unique) = (head.u32()?, head.u32()?.cast_signed(), head.u64()?);
        if told as usize != len {
            return Err(EINVAL);
        }
        if unique == 0 {
            // Nothing is remembered that a server could have to correct.
            return Ok(len);
        }
        if error > 0 || error <= -512 || error != 0 && len != OUT_HEADER {
            return Err(EINVAL);
        }
        let slot = {
            let mut state = self.connection.state.lock();
            state.asked.remove(&unique).ok_or(ENOENT)?
        };
        let reply = match Errno::from_raw(-error) {
            Some(e) => Err(e),
            None => Ok(bytes.get(OUT_HEADER..).unwrap_or_default().to_vec()),
        };
        // The first request is the one that nobody waits for.
        if self.connection.max_write.load(std::sync::atomic::Ordering::Acquire) == 0 {
            self.connection.init(&reply);
        }
        slot.fill(reply);
        Ok(len)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.inode.metadata()
    }

    fn ready(&self) -> Events {
        let state = self.connection.state.lock();
        if !state.is_mounted {
            return Events::ERR;
        }
        match (state.is_over, state.unread.is_empty()) {
            (true, _) => Events::ERR,
            (false, true) => Events::WRITABLE,
            (false, false) => Events::WRITABLE | Events::READABLE,
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.connection.queue)
    }

    fn tells_of_readiness(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.connection.end();
    }
}
