//! Options of level `IPPROTO_TCP` (tcp(7)).
//!
//! Source: Linux 6.12 net/ipv4/tcp.c, `do_tcp_setsockopt`, `do_tcp_getsockopt`, `tcp_get_info`.

use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EINVAL, ENOENT, ENOPROTOOPT, EOPNOTSUPP, EPERM};
use base::cred::cap;

use super::{Phase, TcpSocket, state};
use crate::options::int;
use crate::socket::{Caller, Socket};
use crate::sysctl::{Sysctl, Value};

const NODELAY: i32 = 1;
const MAXSEG: i32 = 2;
const CORK: i32 = 3;
const KEEPIDLE: i32 = 4;
const KEEPINTVL: i32 = 5;
const KEEPCNT: i32 = 6;
const SYNCNT: i32 = 7;
const LINGER2: i32 = 8;
const DEFER_ACCEPT: i32 = 9;
const WINDOW_CLAMP: i32 = 10;
const INFO: i32 = 11;
const MD5SIG: i32 = 14;
const MD5SIG_EXT: i32 = 32;
const IS_MPTCP: i32 = 43;
const QUICKACK: i32 = 12;
const CONGESTION: i32 = 13;
const THIN_LINEAR_TIMEOUTS: i32 = 16;
const THIN_DUPACK: i32 = 17;
const USER_TIMEOUT: i32 = 18;
const REPAIR: i32 = 19;
const FASTOPEN: i32 = 23;
const TIMESTAMP: i32 = 24;
const NOTSENT_LOWAT: i32 = 25;
const SAVE_SYN: i32 = 27;
const SAVED_SYN: i32 = 28;
const FASTOPEN_CONNECT: i32 = 30;
const ULP: i32 = 31;
const FASTOPEN_NO_COOKIE: i32 = 34;
const INQ: i32 = 36;
const TX_DELAY: i32 = 37;

/// The segment size on the loopback, and what is told before there is a connection.
pub(super) const SEGMENT: i32 = 32_741;
const SEGMENT_DEFAULT: i32 = 536;
/// What the loopback advertises.
const SEGMENT_ADVERTISED: u32 = 65_483;
/// Longest name of a congestion control (`TCP_CA_NAME_MAX`).
const NAME_MAX: usize = 16;

/// What the options are set to.
#[derive(Clone, Debug)]
pub(super) struct TcpOptions {
    no_delay: bool,
    segment: i32,
    keep_idle: i32,
    keep_interval: i32,
    keep_count: i32,
    syn_count: i32,
    linger2: i32,
    defer_accept: i32,
    window_clamp: i32,
    quick_ack: bool,
    congestion: Vec<u8>,
    thin_timeouts: bool,
    user_timeout: i32,
    fast_open: i32,
    not_sent_low: i32,
    save_syn: i32,
    fast_open_connect: bool,
    fast_open_no_cookie: bool,
    tell_queue: bool,
    tx_delay: i32,
}

impl TcpOptions {
    pub(super) fn new(sysctl: &Sysctl) -> Self {
        let number = |value: &[Value; 1]| i32::try_from(value[0].get()).unwrap_or(i32::MAX);
        Self {
            no_delay: false,
            segment: 0,
            keep_idle: number(&sysctl.keepalive_time),
            keep_interval: number(&sysctl.keepalive_interval),
            keep_count: number(&sysctl.keepalive_probes),
            syn_count: number(&sysctl.syn_retries),
            linger2: number(&sysctl.fin_timeout),
            defer_accept: 0,
            window_clamp: 0,
            quick_ack: true,
            congestion: b"cubic".to_vec(),
            thin_timeouts: false,
            user_timeout: 0,
            fast_open: 0,
            not_sent_low: 0,
            save_syn: 0,
            fast_open_connect: false,
            fast_open_no_cookie: false,
            tell_queue: false,
            tx_delay: 0,
        }
    }
}

/// `TCP_DEFER_ACCEPT` in seconds, rounded up to whole periods of a SYN that is sent again: 1, 2, 4 and so on, at most 120.
///
/// Source: Linux 6.12 net/ipv4/tcp.c, `secs_to_retrans`, `retrans_to_secs`.
fn whole_periods(seconds: i32) -> i32 {
    if seconds <= 0 {
        return 0;
    }
    let (mut period, mut whole) = (1, 1);
    for _ in 1..255 {
        if whole >= seconds {
            break;
        }
        period = (period * 2).min(120);
        whole += period;
    }
    whole
}

fn within(number: i32, first: i32, last: i32) -> Result<i32, Errno> {
    if (first..=last).contains(&number) { Ok(number) } else { Err(EINVAL) }
}

impl TcpSocket {
    pub(super) fn set_tcp_option(&self, caller: &Caller<'_>, name: i32, value: &[u8]) -> Result<(), Errno> {
        match name {
            CONGESTION => return self.set_congestion(value),
            ULP => return Err(ENOENT),
            _ => {}
        }
        let number = int(value)?;
        if name == CORK || name == NODELAY {
            self.set_pushing(name, number != 0);
            return Ok(());
        }
        let is_on = number != 0;
        let is_closed = matches!(self.state.lock().phase, Phase::Closed | Phase::Refused);
        let is_startable = is_closed || self.is_listening();
        let mut o = self.options.lock();
        match name {
            MAXSEG => o.segment = if number == 0 { 0 } else { within(number, 88, 32_767)? },
            KEEPIDLE => o.keep_idle = within(number, 1, 32_767)?,
            KEEPINTVL => o.keep_interval = within(number, 1, 32_767)?,
            KEEPCNT => o.keep_count = within(number, 1, 127)?,
            SYNCNT => o.syn_count = within(number, 1, 127)?,
            LINGER2 => o.linger2 = if number < 0 { -1 } else { number.min(120) },
            DEFER_ACCEPT => o.defer_accept = whole_periods(number),
            WINDOW_CLAMP if number == 0 && !is_closed => return Err(EINVAL),
            WINDOW_CLAMP => o.window_clamp = if number == 0 { 0 } else { number.max(1152) },
            QUICKACK => o.quick_ack = is_on,
            THIN_LINEAR_TIMEOUTS => o.thin_timeouts = within(number, 0, 1)? != 0,
            THIN_DUPACK => drop(within(number, 0, 1)?),
            USER_TIMEOUT => o.user_timeout = within(number, 0, i32::MAX)?,
            REPAIR if caller.cred.has(cap::NET_ADMIN) => return Err(EOPNOTSUPP),
            REPAIR => return Err(EPERM),
            FASTOPEN if number < 0 || !is_startable => return Err(EINVAL),
            FASTOPEN => {
                let most = i32::try_from(self.common.net.sysctl.somaxconn[0].get()).unwrap_or(i32::MAX);
                o.fast_open = number.min(most);
            }
            MD5SIG | MD5SIG_EXT => return Err(EINVAL),
            TIMESTAMP => return Err(EPERM),
            NOTSENT_LOWAT => o.not_sent_low = number,
            SAVE_SYN => o.save_syn = within(number, 0, 2)?,
            FASTOPEN_CONNECT if !is_closed => return Err(EINVAL),
            FASTOPEN_CONNECT => o.fast_open_connect = within(number, 0, 1)? != 0,
            FASTOPEN_NO_COOKIE => o.fast_open_no_cookie = within(number, 0, 1)? != 0,
            INQ => o.tell_queue = within(number, 0, 1)? != 0,
            TX_DELAY => o.tx_delay = within(number, 0, i32::MAX)?,
            _ => return Err(ENOPROTOOPT),
        }
        Ok(())
    }

    /// `TCP_CORK`, `TCP_NODELAY`: whoever takes the cork out, or wants no delay, sends what is held back.
    ///
    /// Source: Linux 6.12 net/ipv4/tcp.c, `__tcp_sock_set_cork`, `__tcp_sock_set_nodelay`.
    fn set_pushing(&self, name: i32, is_on: bool) {
        if name == CORK {
            self.cork.store(is_on, Ordering::Relaxed);
        } else {
            self.options.lock().no_delay = is_on;
        }
        if (name == CORK) != is_on
            && let Some(link) = self.link()
        {
            link.own.flush(&link.peer);
        }
    }

    /// Any of the algorithms that a Linux knows may be chosen: without packets there is no congestion.
    fn set_congestion(&self, value: &[u8]) -> Result<(), Errno> {
        if value.is_empty() {
            return Err(EINVAL);
        }
        let name = value[..value.len().min(NAME_MAX - 1)].split(|&b| b == 0).next().unwrap_or(&[]);
        if !matches!(name, b"cubic" | b"reno" | b"bbr") {
            return Err(ENOENT);
        }
        self.options.lock().congestion = name.to_vec();
        Ok(())
    }

    pub(super) fn tcp_option(&self, name: i32, given: &[u8]) -> Result<Vec<u8>, Errno> {
        let is_linked = matches!(self.state.lock().phase, Phase::Linked(_));
        let o = self.options.lock().clone();
        let number = match name {
            NODELAY => o.no_delay.into(),
            MAXSEG if is_linked => SEGMENT,
            MAXSEG if o.segment != 0 => o.segment,
            MAXSEG => SEGMENT_DEFAULT,
            CORK => self.cork.load(Ordering::Relaxed).into(),
            KEEPIDLE => o.keep_idle,
            KEEPINTVL => o.keep_interval,
            KEEPCNT => o.keep_count,
            SYNCNT => o.syn_count,
            LINGER2 if o.linger2 == 0 => {
                i32::try_from(self.common.net.sysctl.fin_timeout[0].get()).unwrap_or(i32::MAX)
            }
            LINGER2 => o.linger2,
            DEFER_ACCEPT => o.defer_accept,
            WINDOW_CLAMP if o.window_clamp == 0 && is_linked => 65_536,
            WINDOW_CLAMP => o.window_clamp,
            INFO => return Ok(self.info()),
            QUICKACK => o.quick_ack.into(),
            CONGESTION => {
                let mut name = o.congestion;
                name.resize(NAME_MAX, 0);
                return Ok(name);
            }
            THIN_LINEAR_TIMEOUTS => o.thin_timeouts.into(),
            THIN_DUPACK | REPAIR => 0,
            USER_TIMEOUT => o.user_timeout,
            20 | 21 | 29 => return Err(EINVAL),
            FASTOPEN => o.fast_open,
            TIMESTAMP => (host::clock::now_ns(host::clock::HostClock::Monotonic) / 1_000_000) as i32,
            NOTSENT_LOWAT => o.not_sent_low,
            SAVE_SYN => o.save_syn,
            SAVED_SYN | ULP | 33 => return Ok(Vec::new()),
            FASTOPEN_CONNECT => o.fast_open_connect.into(),
            FASTOPEN_NO_COOKIE => o.fast_open_no_cookie.into(),
            INQ => o.tell_queue.into(),
            IS_MPTCP => 0,
            TX_DELAY => o.tx_delay,
            _ => return Err(ENOPROTOOPT),
        };
        let _ = given;
        Ok(number.to_le_bytes().to_vec())
    }

    /// The name of the congestion control.
    pub(super) fn congestion(&self) -> Vec<u8> {
        self.options.lock().congestion.clone()
    }

    /// `struct tcp_info`.
    pub(super) fn info(&self) -> Vec<u8> {
        let tcp_state = self.tcp_state();
        let link = self.link();
        let (queued, limit) = match &self.state.lock().phase {
            Phase::Listening(backlog) => backlog.fill(),
            _ => (0, 0),
        };
        let is_listening = tcp_state == state::LISTEN;
        // Timestamps, selective acknowledgements and window scaling, as every connection on the loopback has them.
        let (flags, scales) = if link.is_some() { (0b111, 0x77) } else { (0, 0) };
        let mut out = vec![tcp_state, 0, 0, 0, 0, flags, scales, 0];
        let segment = if link.is_some() { SEGMENT as u32 } else { SEGMENT_DEFAULT as u32 };
        let words: [u32; 24] = [
            201_000,
            40_000,
            segment,
            segment.min(SEGMENT_DEFAULT as u32),
            if is_listening { queued as u32 } else { 0 },
            if is_listening { limit as u32 } else { 0 },
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            if link.is_some() { 65_536 } else { 0 },
            65_483,
            30,
            15,
            i32::MAX as u32,
            10,
            if link.is_some() { SEGMENT_ADVERTISED } else { SEGMENT_DEFAULT as u32 },
            3,
            0,
            65_483,
            0,
        ];
        out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        let (sent, received) = link.as_ref().map_or((0, 0), |l| {
            let load = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
            (load(&l.own.sent_bytes), load(&l.own.received_bytes))
        });
        let unsent = self.unsent_bytes().unwrap_or(0) as u32;
        let longs = |out: &mut Vec<u8>, list: &[u64]| out.extend(list.iter().flat_map(|w| w.to_le_bytes()));
        let ints = |out: &mut Vec<u8>, list: &[u32]| out.extend(list.iter().flat_map(|w| w.to_le_bytes()));
        let segments =
            |bytes: u64| u32::try_from(bytes.div_ceil(u64::from(segment.max(1)))).unwrap_or(u32::MAX);
        longs(&mut out, &[0, u64::MAX, sent, received]);
        ints(
            &mut out,
            &[segments(sent) + 2, segments(received) + 1, unsent, 10, segments(received), segments(sent)],
        );
        longs(&mut out, &[0, 0, 0, 0]);
        ints(&mut out, &[segments(sent), 0]);
        longs(&mut out, &[sent, 0]);
        ints(&mut out, &[0, 0, 0, 65_536, 65_536, 0]);
        out
    }
}
