//! eventfd(2): a counter to wait for.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::errno::{EAGAIN, EFAULT, EINVAL};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::wait::{Events, WaitQueue};

use super::anon_metadata;
use crate::file::{FileDescription, FileOps, Metadata, oflag};

/// The counter's highest value that a write reaches.
const MAX: u64 = u64::MAX - 1;

/// An open eventfd.
#[derive(Debug)]
pub struct EventFd {
    semaphore: bool,
    count: Lock<u64, { rank::QUEUE }>,
    queue: WaitQueue,
}

/// Makes an eventfd; `semaphore` is `EFD_SEMAPHORE`, `flags` is `O_NONBLOCK` or 0.
pub fn new(initial: u64, semaphore: bool, flags: u32) -> Arc<FileDescription> {
    let ops = EventFd { semaphore, count: Lock::new(initial), queue: WaitQueue::new() };
    FileDescription::new(Box::new(ops), None, (flags & oflag::NONBLOCK) | oflag::RDWR)
}

impl FileOps for EventFd {
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(EINVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(EAGAIN);
        }
        let value = if self.semaphore { 1 } else { *count };
        *count -= value;
        drop(count);
        self.queue.notify(Events::WRITABLE);
        // As in Linux, the counter is taken even if the buffer turns out to be bad.
        match dst.put(&value.to_le_bytes())? {
            8 => Ok(8),
            _ => Err(EFAULT),
        }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if src.remaining() != 8 {
            return Err(EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take(&mut bytes)? != 8 {
            return Err(EFAULT);
        }
        let value = u64::from_le_bytes(bytes);
        if value == u64::MAX {
            return Err(EINVAL);
        }
        let mut count = self.count.lock();
        *count = count.checked_add(value).filter(|&sum| sum <= MAX).ok_or(EAGAIN)?;
        drop(count);
        self.queue.notify(Events::READABLE);
        Ok(8)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn ready(&self) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < MAX);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self) -> String {
        format!(
            "eventfd-count: {:16x}\neventfd-semaphore: {}\n",
            *self.count.lock(),
            u8::from(self.semaphore)
        )
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[eventfd]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_its_page_says() {
        let event = new(3, false, 0);
        let mut buf = [0u8; 8];
        assert_eq!(event.write(&mut &2u64.to_le_bytes()[..]), Ok(8));
        assert_eq!(event.read(&mut buf.as_mut_slice()), Ok(8));
        assert_eq!(u64::from_le_bytes(buf), 5);
        assert_eq!(event.read(&mut buf.as_mut_slice()), Err(EAGAIN));
        assert_eq!(event.write(&mut &u64::MAX.to_le_bytes()[..]), Err(EINVAL));
        assert_eq!(event.write(&mut &MAX.to_le_bytes()[..]), Ok(8));
        assert_eq!(event.write(&mut &1u64.to_le_bytes()[..]), Err(EAGAIN));
        let event = new(2, true, 0);
        assert_eq!(event.read(&mut buf.as_mut_slice()), Ok(8));
        assert_eq!(u64::from_le_bytes(buf), 1);
        assert!(event.ops.ready().contains(Events::READABLE));
    }
}
