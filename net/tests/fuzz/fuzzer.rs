//! A deterministic fuzzer: what programs hand to sockets, changed where it hurts. Netlink requests, ancillary data, options
//! and addresses may be refused, but never break a promise:
//!
//! - nothing panics;
//! - an answer of netlink is a chain of whole messages, and dumps come to an end;
//! - what is received is no more than there was room for, and no control message is longer than what Linux makes;
//! - nothing is kept once all sockets are closed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::socket::{af, ipproto, msg, shut, sock, sol};
use base::cred::Credentials;
use ringfence_net::message::{Outgoing, parse_controls};
use ringfence_net::rights::Rights;
use ringfence_net::socket::Socket;
use ringfence_net::{Caller, Namespace, inet, netlink, options, unix};

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rounds: u64,
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    pub(crate) answers: u64,
    pub(crate) options: u64,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "{} rounds in {seconds:.1} s: {} messages sent, {} calls refused, {} answers of netlink, {} options set",
            self.rounds, self.sent, self.refused, self.answers, self.options
        )
    }
}

/// xorshift64*: small, fast, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// A number that programs tend to get wrong.
    fn number(&mut self) -> u64 {
        let base = match self.below(8) {
            0 => 0,
            1 => 1 << self.below(64),
            2 => u64::MAX,
            3 => u64::from(u32::MAX),
            4 => i32::MAX as u64,
            5 => self.next(),
            _ => self.below(64) as u64,
        };
        base.wrapping_add(self.below(5) as u64).wrapping_sub(2)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| if self.one_in(3) { self.next() as u8 } else { 0 }).collect()
    }

    /// Changes some of `bytes`, and now and then their length.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes.truncate(at),
                2 => bytes.extend_from_slice(&self.number().to_le_bytes()),
                _ => {
                    let number = self.number().to_le_bytes();
                    let at = at & !3;
                    let len = (bytes.len() - at).min(self.pick(&[2, 4, 8]));
                    bytes[at..at + len].copy_from_slice(&number[..len]);
                }
            }
        }
    }
}

/// Runs for `time`.
pub(crate) fn run(seed: u64, time: Duration) -> Report {
    let began = Instant::now();
    let mut report = Report::default();
    let mut random = Random(seed.wrapping_mul(2).wrapping_add(1));
    while began.elapsed() < time {
        let state = random.0;
        let round = catch_unwind(AssertUnwindSafe(|| one_round(&mut random, &mut report)));
        if let Err(panic) = round {
            eprintln!("fuzz_net: round {} of seed {seed} broke a promise (state {state:#x})", report.rounds);
            resume_unwind(panic);
        }
        report.rounds += 1;
    }
    report.elapsed = began.elapsed();
    report
}

fn one_round(random: &mut Random, report: &mut Report) {
    let root = Credentials::root();
    let caller = Caller { cred: &root, pid: 7, walk: None, nofile: 1024, shown_pid: 7 };
    let net = Namespace::new();
    let sockets = make_sockets(&net, &caller);
    for _ in 0..20 {
        let socket = &sockets[random.below(sockets.len())];
        if socket.common().domain() == af::NETLINK {
            let request = netlink_request(random);
            talk(&**socket, &caller, &request, report);
        } else {
            match random.below(4) {
                0 => set_option(&**socket, &caller, random, report),
                1 => name(&**socket, &caller, random),
                _ => exchange(&**socket, &caller, random, report),
            }
        }
    }
    for socket in &sockets {
        socket.close();
    }
    drop(sockets);
    assert_eq!(base::kept::bytes(), 0, "bytes are kept though all sockets are closed");
}

fn make_sockets(net: &Arc<Namespace>, caller: &Caller<'_>) -> Vec<Arc<dyn Socket>> {
    let mut list: Vec<Arc<dyn Socket>> = Vec::new();
    for kind in [sock::STREAM, sock::DGRAM, sock::SEQPACKET] {
        let (a, b) = unix::pair(net, kind, caller);
        list.push(a);
        list.push(b);
    }
    let local4 =
        |port: u16| [&af::INET.to_le_bytes()[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat();
    let mut local6 = vec![0; 28];
    local6[..4].copy_from_slice(&[af::INET6 as u8, 0, 0x10, 0x01]);
    local6[23] = 1;
    let udp = inet::udp::new(net, af::INET, ipproto::UDP, (0, 0));
    udp.bind(caller, &local4(4096)).expect("a free port");
    udp.connect(caller, &local4(4096)).expect("itself");
    let udp6 = inet::udp::new(net, af::INET6, ipproto::UDP, (0, 0));
    udp6.bind(caller, &local6).expect("a free port");
    udp6.connect(caller, &local6).expect("itself");
    let listener = inet::tcp::new(net, af::INET, (0, 0));
    listener.bind(caller, &local4(4097)).expect("a free port");
    listener.listen(caller, 4).expect("it is bound");
    let client = inet::tcp::new(net, af::INET, (0, 0));
    // It says that it is under way, and is done.
    let _ = client.connect(caller, &local4(4097));
    let accepted = listener.accept().expect("a connection");
    let raw = inet::raw::new(net, af::INET, 200, (0, 0));
    list.extend([udp as Arc<dyn Socket>, udp6, listener, client, accepted, raw]);
    for protocol in [0, 4] {
        list.extend(netlink::new(net, sock::RAW, protocol, (0, 0)).map(|s| s as Arc<dyn Socket>));
    }
    list
}

/// A request with attributes, as `ip` and `ss` make them, and worse.
fn netlink_request(random: &mut Random) -> Vec<u8> {
    let mut body = match random.below(5) {
        0 => vec![0; 16],
        1 => vec![0; 20],
        2 => vec![0; 56],
        3 => vec![random.pick(&[2u8, 10, 1]), random.pick(&[6u8, 17, 0, 255]), 0, 0, 255, 255, 255, 255],
        _ => random.bytes(80),
    };
    for _ in 0..random.below(4) {
        let data = random.bytes(24);
        let len = if random.one_in(6) { random.number() as u16 } else { data.len() as u16 + 4 };
        body.extend_from_slice(&len.to_le_bytes());
        body.extend_from_slice(&(random.below(40) as u16).to_le_bytes());
        body.extend_from_slice(&data);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let kind = if random.one_in(5) {
        random.number() as u16
    } else {
        random.pick(&[16, 17, 18, 20, 21, 22, 24, 26, 28, 30, 32, 36, 38, 66, 88, 94])
    };
    let flags = random.pick(&[1u16, 5, 0x301, 0x305, 0x605, 0]);
    let len = if random.one_in(8) { random.number() as u32 } else { body.len() as u32 + 16 };
    let mut request = len.to_le_bytes().to_vec();
    request.extend_from_slice(&kind.to_le_bytes());
    request.extend_from_slice(&flags.to_le_bytes());
    request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend_from_slice(&body);
    if random.one_in(2) {
        random.mutate(&mut request);
    }
    request
}

/// Sends a request and reads all answers.
fn talk(socket: &dyn Socket, caller: &Caller<'_>, request: &[u8], report: &mut Report) {
    if !send(socket, caller, request, &[], &[], 0) {
        report.refused += 1;
        return;
    }
    report.sent += 1;
    for turn in 0.. {
        assert!(turn < 1000, "an answer without end");
        let mut buf = vec![0; 65536];
        let Ok(incoming) = socket.receive(&mut buf.as_mut_slice(), msg::DONTWAIT) else { return };
        let mut rest = &buf[..incoming.copied];
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[..4].try_into().expect("a whole header")) as usize;
            assert!(len >= 16 && len <= rest.len(), "a message of {len} bytes in {}", rest.len());
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
        report.answers += 1;
    }
}

fn send(
    socket: &dyn Socket,
    caller: &Caller<'_>,
    mut data: &[u8],
    to: &[u8],
    control: &[u8],
    flags: u32,
) -> bool {
    let Ok(controls) = parse_controls(control) else { return false };
    assert!(
        controls.iter().map(|c| c.len()).sum::<usize>() <= control.len(),
        "controls longer than their buffer"
    );
    let rights = &mut Rights::default();
    let mut message = Outgoing {
        data: &mut data,
        to,
        flags: flags | msg::DONTWAIT,
        rights,
        cred: None,
        controls: &controls,
    };
    socket.send(Some(caller), &mut message).is_ok()
}

/// Ancillary data: several messages, most of them with a level, type and length that mean something.
fn ancillary(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(4) {
        let (level, kind, len) = random.pick(&[
            (sol::SOCKET, 1i32, 4),
            (sol::SOCKET, 2, 12),
            (sol::SOCKET, 36, 4),
            (sol::SOCKET, 37, 4),
            (sol::SOCKET, 61, 8),
            (sol::IP, 1, 1),
            (sol::IP, 2, 4),
            (sol::IP, 8, 12),
            (sol::IPV6, 50, 20),
            (sol::IPV6, 52, 4),
            (sol::IPV6, 67, 4),
            (sol::UDP, 103, 2),
            (99, 1, 8),
        ]);
        let data: Vec<u8> = if random.one_in(2) {
            (random.number() as u32).to_le_bytes().iter().copied().cycle().take(len).collect()
        } else {
            random.bytes(32)
        };
        let stated = if random.one_in(8) { random.number() } else { 16 + data.len() as u64 };
        bytes.extend_from_slice(&stated.to_le_bytes());
        bytes.extend_from_slice(&level.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    if random.one_in(4) {
        random.mutate(&mut bytes);
    }
    bytes
}

const FLAGS: &[u32] = &[
    0,
    msg::OOB,
    msg::PEEK,
    msg::TRUNC,
    msg::MORE,
    msg::ZEROCOPY,
    msg::WAITALL,
    msg::ERRQUEUE,
    msg::DONTROUTE,
];

fn address(random: &mut Random) -> Vec<u8> {
    let family = random.pick(&[0u16, af::UNIX, af::INET, af::INET6, af::NETLINK, 99]);
    let mut bytes = family.to_le_bytes().to_vec();
    bytes.extend_from_slice(&random.pick(&[0u16, 4096, 4097, 4098, 9]).to_be_bytes());
    bytes.extend_from_slice(&random.pick(&[[127, 0, 0, 1], [0; 4], [224, 0, 0, 1], [255; 4]]));
    bytes.resize(random.pick(&[2, 3, 16, 28, 28, 110]), 0);
    if random.one_in(3) {
        random.mutate(&mut bytes);
    }
    bytes.truncate(128);
    // A path would be looked up.
    if bytes.len() > 2 && bytes[..2] == af::UNIX.to_le_bytes() {
        bytes[2] = 0;
    }
    bytes
}

fn exchange(socket: &dyn Socket, caller: &Caller<'_>, random: &mut Random, report: &mut Report) {
    let most = random.pick(&[0, 1, 10, 3000, 70_000]);
    let data = vec![7; random.below(most + 1)];
    let to = if random.one_in(4) { address(random) } else { Vec::new() };
    let flags = random.pick(FLAGS) | random.pick(FLAGS);
    if send(socket, caller, &data, &to, &ancillary(random), flags) {
        report.sent += 1;
    } else {
        report.refused += 1;
    }
    for _ in 0..random.below(3) {
        let mut buf = vec![0; random.pick(&[0, 1, 100, 70_000])];
        let flags = random.pick(FLAGS) | random.pick(FLAGS) | msg::DONTWAIT;
        let room = buf.len();
        if let Ok(incoming) = socket.receive(&mut buf.as_mut_slice(), flags) {
            assert!(incoming.copied <= room, "{} bytes in a room of {room}", incoming.copied);
            assert!(incoming.controls.iter().all(|c| c.len() <= 512), "{:?}", incoming.controls);
            assert!(incoming.from.as_ref().is_none_or(|from| from.len() <= 128));
        }
    }
    socket.ready();
    let _ = (socket.readable_bytes(), socket.unsent_bytes(), socket.at_mark());
}

fn set_option(socket: &dyn Socket, caller: &Caller<'_>, random: &mut Random, report: &mut Report) {
    let level =
        random.pick(&[sol::SOCKET, sol::SOCKET, sol::IP, sol::IPV6, sol::TCP, sol::UDP, sol::RAW, 99]);
    let name = if random.one_in(10) { random.number() as i32 } else { random.below(110) as i32 };
    let mut value = random.number().to_le_bytes().repeat(1 + random.below(18));
    value.truncate(random.pick(&[0, 1, 4, 4, 8, 12, 16, 20, 136]));
    if options::set(socket, caller, level, name, &value).is_ok() {
        report.options += 1;
    }
    let _ = options::get(socket, level, name, &vec![0; random.pick(&[0, 1, 4, 8, 300])]);
}

fn name(socket: &dyn Socket, caller: &Caller<'_>, random: &mut Random) {
    let address = address(random);
    match random.below(8) {
        0 => drop(socket.bind(caller, &address)),
        1 => drop(socket.listen(caller, random.below(5))),
        2 => drop(socket.shutdown(random.pick(&[shut::RD, shut::WR, shut::RDWR]))),
        3 => drop(socket.accept().map(|accepted| accepted.close())),
        4 | 5 => drop(socket.connect(caller, &address)),
        _ => drop((socket.local_name(), socket.peer_name(), socket.connected())),
    }
    let mut list = Vec::new();
    socket.report(&mut list);
}
