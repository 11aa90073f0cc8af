//! `IOCB_CMD_POLL`: a request that ends when its file is ready.
//!
//! A file tells of readiness with its locks held. So the request is only noted as due then, and ends when the thread that
//! noted it holds none ([`async_io`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::EINVAL;
use base::lock::{Lock, rank};
use base::wait::{Events, WaitKey, Wake};
use fs::file::FileDescription;

use super::{Context, Ticket};
use crate::kernel::Kernel;
use crate::signal::async_io::{self, Tell};

/// See the module.
#[derive(Debug)]
pub struct Poll {
    this: Weak<Self>,
    kernel: Weak<Kernel>,
    context: Weak<Context>,
    id: u64,
    file: Arc<FileDescription>,
    wanted: Events,
    ticket: Ticket,
    registration: Lock<Option<WaitKey>, { rank::LEAF }>,
    /// Somebody has noted it.
    is_due: AtomicBool,
}

impl Poll {
    /// Begins to wait until `file` is ready for `events`; it may be so already.
    ///
    /// # Errors
    /// `EINVAL`: it never is.
    ///
    /// Source: Linux 6.18 fs/aio.c, `aio_poll`.
    pub fn start(
        kernel: &Arc<Kernel>,
        context: &Arc<Context>,
        file: &Arc<FileDescription>,
        events: Events,
        ticket: Ticket,
    ) -> Result<(), Errno> {
        let wanted = events | Events::ERR | Events::HUP;
        let Some(queue) = file.ops.wait_queue() else {
            let found = file.ops.ready() & wanted;
            if found.is_empty() {
                return Err(EINVAL);
            }
            context.complete(&ticket, found.bits().into());
            return Ok(());
        };
        let poll = {
            let mut st = context.state.lock();
            st.last_poll += 1;
            let id = st.last_poll;
            let poll = Arc::new_cyclic(|this| Self {
                this: this.clone(),
                kernel: Arc::downgrade(kernel),
                context: Arc::downgrade(context),
                id,
                file: file.clone(),
                wanted,
                ticket,
                registration: Lock::default(),
                is_due: AtomicBool::new(false),
            });
            st.polls.insert(id, poll.clone());
            poll
        };
        let key = queue.register(poll.clone(), wanted);
        *poll.registration.lock() = Some(key);
        // What came before nobody has told of; and another thread may have ended it before it was registered.
        poll.end(context, poll.file.ops.ready() & wanted);
        // Who destroyed the context may not have seen it.
        if context.is_dead() {
            poll.finish(context, Events::empty());
        }
        let is_over = !context.state.lock().polls.contains_key(&poll.id);
        if is_over {
            poll.unregister();
        }
        Ok(())
    }

    /// The address of the request.
    pub fn obj(&self) -> u64 {
        self.ticket.obj
    }

    fn unregister(&self) {
        let key = self.registration.lock().take();
        if let (Some(key), Some(queue)) = (key, self.file.ops.wait_queue()) {
            queue.unregister(key);
        }
    }

    /// Ends the request, which `context` has, unless somebody else did, or nothing was found.
    fn end(&self, context: &Context, found: Events) {
        if !found.is_empty() {
            self.finish(context, found);
        }
    }

    /// Ends the request, which `context` has, unless somebody else did.
    pub(super) fn finish(&self, context: &Context, found: Events) {
        let mine = context.state.lock().polls.remove(&self.id);
        if mine.is_some() {
            self.unregister();
            context.complete(&self.ticket, found.bits().into());
        }
    }
}

impl Wake for Poll {
    fn wake(&self, events: Events) {
        if events.intersects(self.wanted)
            && !self.is_due.swap(true, Ordering::SeqCst)
            && let Some(this) = self.this.upgrade()
        {
            async_io::due(&self.kernel, this, events);
        }
    }
}

impl Tell for Poll {
    /// The result is what has come, as in Linux, be it wanted or not; the end of a file comes without a reason there, and
    /// the file is asked.
    fn tell(&self, events: Events) {
        self.is_due.store(false, Ordering::SeqCst);
        let found = self.file.ops.ready() & self.wanted;
        let is_end = events.intersects(Events::HUP | Events::ERR);
        if !found.is_empty()
            && let Some(context) = self.context.upgrade()
        {
            self.end(&context, if is_end { found } else { events });
        }
    }

    fn is_noted_once(&self) -> bool {
        true
    }
}
