//! Bytes that were written and are not there yet: a sender waits for a whole segment (`MSG_MORE`, `TCP_CORK`), or the
//! receiver's filter (`SO_ATTACH_FILTER`) dropped the segment that they came in, and they are sent again after a while.
//!
//! The receiver's queue holds them already, at its end.
//!
//! Source: tcp(7); Linux 6.12 net/ipv4/tcp_output.c, `tcp_nagle_test`, `tcp_write_wakeup`; tcp_ipv4.c, `tcp_filter`.

use std::sync::{Arc, Weak};

use base::alarm::{Alarm, AlarmClock, AlarmKey};

use super::end::{Arrived, End, SEGMENT_DATA};
use super::options::SEGMENT;
use super::show::flag;
use crate::filter::Verdict;
use crate::inet::wire::TCP_STAMPED;

/// After which time a sender waits no more, and sends again what was dropped, in ns (`TCP_RTO_MIN`).
const RETRY_NS: i64 = 200_000_000;
/// The longest time until it sends again, in ns (`TCP_RTO_MAX`).
const RETRY_MAX_NS: i64 = 120_000_000_000;
/// The largest segment that is filled, in bytes.
const WHOLE: usize = SEGMENT as usize;

/// Whether a write waits for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waits {
    /// It goes at once.
    #[default]
    Not,
    /// `MSG_MORE`: until a segment is full, or the next sign of life of the peer, such as the acknowledgement of a segment.
    More,
    /// `TCP_CORK`: whole segments go.
    Cork,
}

/// What is held back.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// Bytes at the queue's end that cannot be read.
    pub(super) hidden: usize,
    /// How many of those, at the end, are not even sent.
    pub(super) corked: usize,
    waits: Waits,
    /// The end of the stream was sent and has not come.
    pub(super) has_fin: bool,
    /// When the sender sends again what was dropped, and how long it waited, in ns.
    again: Option<(i64, i64)>,
    /// When the sender waits no more.
    until: Option<i64>,
    alarm: Option<AlarmKey>,
}

impl Hold {
    /// `n` bytes were written; returns how many of all that waited are sent now.
    pub(super) fn add(&mut self, n: usize, waits: Waits) -> usize {
        self.hidden += n;
        let waiting = self.corked + n;
        self.waits = waits;
        self.corked = match waits {
            Waits::Cork => waiting % WHOLE,
            Waits::More if waiting < WHOLE => waiting,
            Waits::More | Waits::Not => 0,
        };
        if self.corked == 0 {
            self.until = None;
        }
        waiting - self.corked
    }

    /// Sends everything that waited; returns how many bytes that was.
    fn uncork(&mut self) -> usize {
        self.until = None;
        std::mem::take(&mut self.corked)
    }
}

impl End {
    /// Whether the filter lets a segment without data through.
    pub(super) fn takes_segment(&self, from: &Self, flags: u8) -> bool {
        let filters = &self.common.filters;
        filters.keep(|run| {
            let frame = from.frame(self, flags, 0, &[]);
            run(&frame.view(frame.transport))
        }) != Verdict::Nothing
    }

    /// Lets in what `from` has sent, as far as the filter does; says whether there is more to read than before.
    pub(super) fn judge(&self, from: &Self, arrived: &mut Arrived) -> bool {
        let sent = arrived.hold.hidden - arrived.hold.corked;
        if arrived.hold.again.is_some() || arrived.is_closed {
            // What was sent before comes first.
            return false;
        }
        let came = if self.common.filters.is_on() { self.judge_pieces(from, arrived, sent) } else { sent };
        arrived.hold.hidden -= came;
        if came < sent {
            let wait = arrived.hold.again.map_or(RETRY_NS, |(_, wait)| wait);
            arrived.hold.again = Some((self.now().saturating_add(wait), wait));
        }
        came > 0
    }

    /// How many of the next `sent` bytes come through the filter: segments until one is dropped, or cut.
    fn judge_pieces(&self, from: &Self, arrived: &Arrived, sent: usize) -> usize {
        let mut came = 0;
        while came < sent {
            let len = (sent - came).min(SEGMENT_DATA as usize);
            let at = arrived.ring.len() - (arrived.hold.hidden - came);
            let mut data = Vec::with_capacity(len);
            if !matches!(arrived.ring.peek(at, &mut data, len), Ok(n) if n == len) {
                break;
            }
            let verdict = self.common.filters.keep(|run| {
                let frame = from.frame(self, flag::PSH | flag::ACK, sent - came, &data);
                run(&frame.view(frame.transport))
            });
            let left = verdict.left(TCP_STAMPED, len).unwrap_or(0);
            came += left;
            if left < len {
                break;
            }
        }
        came
    }

    fn now(&self) -> i64 {
        self.common.net.alarms().map_or(0, |alarms| alarms.now(AlarmClock::Monotonic))
    }

    /// Sees to it that what is held back comes in the end.
    pub(super) fn watch(self: &Arc<Self>, arrived: &mut Arrived) {
        let hold = &mut arrived.hold;
        if hold.corked == 0 && hold.again.is_none() && !hold.has_fin {
            // An alarm that is set finds nothing to do: setting it anew for each write would cost more.
            return;
        }
        let now = self.now();
        if hold.corked > 0 && hold.until.is_none() {
            hold.until = Some(now.saturating_add(RETRY_NS));
        }
        if hold.has_fin && hold.again.is_none() && hold.hidden == 0 {
            hold.again = Some((now.saturating_add(RETRY_NS), RETRY_NS));
        }
        let times = [hold.until, hold.again.map(|(at, _)| at)];
        let Some(next) = times.into_iter().flatten().min() else { return };
        if hold.alarm.is_some_and(|alarm| alarm.at <= next) {
            return;
        }
        let Some(alarms) = self.common.net.alarms() else { return };
        if let Some(old) = hold.alarm.take() {
            alarms.cancel(&old);
        }
        let own = Arc::downgrade(self);
        let own: Weak<dyn Alarm> = own;
        hold.alarm = Some(alarms.set(AlarmClock::Monotonic, next, own));
    }

    /// Sends what this end has held back.
    pub(super) fn flush(&self, peer: &Arc<Self>) {
        let mut arrived = peer.arrived.lock();
        let going = arrived.hold.uncork();
        if going == 0 {
            return;
        }
        if arrived.is_closed {
            drop(arrived);
            self.reset(peer);
            return;
        }
        self.go(peer, arrived, going, false);
    }

    /// A sign of life came from `peer`, upon which what does not wait in a cork goes.
    pub(super) fn flush_more(&self, peer: &Arc<Self>) {
        let arrived = peer.arrived.lock();
        let is_due = arrived.hold.corked > 0 && arrived.hold.waits == Waits::More;
        drop(arrived);
        if is_due {
            self.flush(peer);
        }
    }

    /// Looks again at what was dropped, once the time has come.
    fn again(self: &Arc<Self>, from: &Arc<Self>) {
        let mut arrived = self.arrived.lock();
        let Some((at, waited)) = arrived.hold.again else { return };
        if at > self.now() || arrived.is_closed || arrived.is_reset {
            return;
        }
        let sent = arrived.hold.hidden - arrived.hold.corked;
        arrived.hold.again = None;
        let has_come = self.judge(from, &mut arrived);
        let is_stuck = !has_come && sent > 0;
        if let Some((at, wait)) = &mut arrived.hold.again
            && is_stuck
        {
            *wait = waited.saturating_mul(2).min(RETRY_MAX_NS);
            *at = self.now().saturating_add(*wait);
        }
        if arrived.hold.has_fin && arrived.hold.hidden == 0 {
            if self.takes_segment(from, flag::FIN | flag::ACK) {
                arrived.hold.has_fin = false;
                from.finished(self, arrived);
                return;
            }
            let wait = waited.saturating_mul(2).min(RETRY_MAX_NS);
            arrived.hold.again = Some((self.now().saturating_add(wait), wait));
        }
        self.watch(&mut arrived);
        drop(arrived);
        if has_come {
            self.common.wait.notify(base::wait::Events::READABLE);
        }
    }
}

impl Alarm for End {
    fn ring(&self) {
        // What is held back lies in the queue of this end.
        let Some(from) = self.other.get().and_then(Weak::upgrade) else { return };
        let Some(own) = from.other.get().and_then(Weak::upgrade) else { return };
        let mut arrived = own.arrived.lock();
        arrived.hold.alarm = None;
        let now = own.now();
        let is_late = arrived.hold.until.is_some_and(|until| until <= now);
        drop(arrived);
        if is_late {
            from.flush(&own);
        }
        own.again(&from);
        own.watch(&mut own.arrived.lock());
    }
}
