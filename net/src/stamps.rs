//! Times of arrival and of sending (`SO_TIMESTAMP`, `SO_TIMESTAMPNS`, `SO_TIMESTAMPING`).
//!
//! Source: socket(7); Linux Documentation/networking/timestamping.rst; net/core/sock.c, `sock_set_timestamping`;
//! net/socket.c, `__sock_recv_timestamp`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::EINVAL;
use abi::socket::{so, sol};
use base::time::Time;

use crate::common::now;
use crate::message::Control;

/// `SOF_TIMESTAMPING_*`: what `SO_TIMESTAMPING` asks for.
pub(crate) mod flag {
    pub(crate) const TX_SOFTWARE: u32 = 1 << 1;
    pub(crate) const RX_SOFTWARE: u32 = 1 << 3;
    pub(crate) const SOFTWARE: u32 = 1 << 4;
    pub(crate) const OPT_ID: u32 = 1 << 7;
    pub(crate) const TX_SCHED: u32 = 1 << 8;
    pub(crate) const TX_ACK: u32 = 1 << 9;
    pub(crate) const OPT_TSONLY: u32 = 1 << 11;
    pub(crate) const OPT_STATS: u32 = 1 << 12;
    pub(crate) const BIND_PHC: u32 = 1 << 15;
    pub(crate) const OPT_ID_TCP: u32 = 1 << 16;
    /// All that Linux 6.12 knows.
    pub(crate) const ALL: u32 = (1 << 18) - 1;
    /// What a control message may ask for: times of sending, those that only hardware tells among them.
    pub(crate) const RECORD: u32 = TX_SOFTWARE | TX_SCHED | TX_ACK | 1;
}

/// Bits of [`Stamps::how`].
const ON: u32 = 1;
const NANO: u32 = 2;
const NEW: u32 = 4;

/// A moment on a packet's way out (`SCM_TSTAMP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It left.
    Sent = 0,
    /// It was queued.
    Queued = 1,
    /// The peer has it.
    Acknowledged = 2,
}

/// How a socket wants to be told of times.
#[derive(Debug, Default)]
pub struct Stamps {
    how: AtomicU32,
    /// `SO_TIMESTAMPING`.
    flags: AtomicU32,
    /// `SOF_TIMESTAMPING_OPT_ID`: the next datagram's number.
    next: AtomicU32,
    /// The same for streams: bytes that had been sent when the option was set.
    base: AtomicU64,
}

impl Stamps {
    /// What an accepted connection has from its listener.
    pub(crate) fn inherit(&self, from: &Self) {
        self.how.store(from.how.load(Ordering::Relaxed), Ordering::Relaxed);
        self.flags.store(from.flags.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Sets `SO_TIMESTAMP`, `SO_TIMESTAMPNS` or their newer forms.
    pub(crate) fn set(&self, name: i32, is_on: bool) {
        let nano = if matches!(name, so::TIMESTAMPNS | so::TIMESTAMPNS_NEW) { NANO } else { 0 };
        let new = if matches!(name, so::TIMESTAMP_NEW | so::TIMESTAMPNS_NEW) { NEW } else { 0 };
        let old = self.how.load(Ordering::Relaxed);
        let how = if is_on { ON | nano | new } else { old & NEW };
        self.how.store(how, Ordering::Relaxed);
    }

    /// What `SO_TIMESTAMP` and the others are.
    pub(crate) fn get(&self, name: i32) -> bool {
        let how = self.how.load(Ordering::Relaxed);
        how & ON != 0
            && match name {
                so::TIMESTAMP => how & (NANO | NEW) == 0,
                so::TIMESTAMPNS => how & (NANO | NEW) == NANO,
                so::TIMESTAMP_NEW => how & NEW != 0,
                _ => how & (NANO | NEW) == NANO | NEW,
            }
    }

    /// Sets `SO_TIMESTAMPING`; `base` says what a stream has sent so far, and fails where nothing can be counted.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags, or flags that need others.
    pub(crate) fn set_flags(
        &self,
        name: i32,
        flags: u32,
        base: impl FnOnce() -> Result<u64, Errno>,
    ) -> Result<(), Errno> {
        let needs = |flag: u32, other: u32| flags & flag != 0 && flags & other == 0;
        // There is no hardware clock to bind to.
        if flags & !flag::ALL != 0 || needs(flag::OPT_ID_TCP, flag::OPT_ID) {
            return Err(EINVAL);
        }
        if flags & flag::OPT_ID != 0 && self.flags() & flag::OPT_ID == 0 {
            self.base.store(base()?, Ordering::Relaxed);
            self.next.store(0, Ordering::Relaxed);
        }
        if needs(flag::OPT_STATS, flag::OPT_TSONLY) || flags & flag::BIND_PHC != 0 {
            return Err(EINVAL);
        }
        self.flags.store(flags, Ordering::Relaxed);
        if name == so::TIMESTAMPING_NEW {
            self.how.fetch_or(NEW, Ordering::Relaxed);
        } else {
            self.how.fetch_and(!NEW, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `SO_TIMESTAMPING`.
    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// The same as `getsockopt` tells it.
    pub(crate) fn shown_flags(&self, name: i32) -> u32 {
        let is_new = self.how.load(Ordering::Relaxed) & NEW != 0;
        if name == so::TIMESTAMPING || is_new { self.flags() } else { 0 }
    }

    /// Whether what arrives is to be stamped.
    pub(crate) fn wants_arrival(&self) -> bool {
        self.is_on() || self.flags() & flag::RX_SOFTWARE != 0
    }

    /// Whether `SO_TIMESTAMP` or its like is on; AF_UNIX stamps for no other.
    pub(crate) fn is_on(&self) -> bool {
        self.how.load(Ordering::Relaxed) & ON != 0
    }

    /// What is said of a message that arrived at `time`.
    pub(crate) fn tell(&self, time: Option<Time>) -> Vec<Control> {
        let how = self.how.load(Ordering::Relaxed);
        let flags = self.flags();
        let mut list = Vec::new();
        if how & ON != 0 {
            // One that came before the option was set is stamped late.
            let time = time.unwrap_or_else(now);
            let (old, new) = match how & NANO {
                0 => (so::TIMESTAMP, so::TIMESTAMP_NEW),
                _ => (so::TIMESTAMPNS, so::TIMESTAMPNS_NEW),
            };
            let fraction = i64::from(if how & NANO == 0 { time.nsec / 1000 } else { time.nsec });
            let kind = if how & NEW == 0 { old } else { new };
            let data = [time.sec.to_le_bytes(), fraction.to_le_bytes()].concat();
            list.push(Control::new(sol::SOCKET, kind, data));
        }
        if let Some(time) = time
            && flags & flag::SOFTWARE != 0
            && flags & flag::RX_SOFTWARE != 0
        {
            list.push(self.three(time));
        }
        list
    }

    /// `struct scm_timestamping`: software's time, one that is not used any more, hardware's.
    pub(crate) fn three(&self, time: Time) -> Control {
        let is_new = self.how.load(Ordering::Relaxed) & NEW != 0;
        let mut data = [time.sec.to_le_bytes(), i64::from(time.nsec).to_le_bytes()].concat();
        data.resize(48, 0);
        let kind = if is_new { so::TIMESTAMPING_NEW } else { so::TIMESTAMPING };
        Control::new(sol::SOCKET, kind, data)
    }

    /// The number of a datagram that is stamped.
    pub(crate) fn next_key(&self) -> u32 {
        if self.flags() & flag::OPT_ID == 0 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// The number of the last of `sent` bytes of a stream.
    pub(crate) fn key_of(&self, sent: u64) -> u32 {
        if self.flags() & flag::OPT_ID == 0 {
            return 0;
        }
        sent.wrapping_sub(self.base.load(Ordering::Relaxed)).wrapping_sub(1) as u32
    }
}
