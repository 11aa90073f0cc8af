use abi::errno::{EADDRINUSE, EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, ENOTCONN, EPERM, EPIPE};
use abi::socket::{msg, shut};
use base::cred::Credentials;

use super::*;
use crate::SocketFile;

fn with_caller<T>(f: impl FnOnce(&Caller<'_>) -> T) -> T {
    let cred = Credentials::root();
    f(&Caller { cred: &cred, pid: 7, shown_pid: 7, walk: None, nofile: 1024 })
}

fn two(kind: u32) -> (Arc<UnixSocket>, Arc<UnixSocket>) {
    with_caller(|caller| pair(&Namespace::new(), kind, caller))
}

fn send_with(
    socket: &UnixSocket,
    mut bytes: &[u8],
    files: Vec<Arc<FileDescription>>,
) -> Result<usize, Errno> {
    let rights = &mut Rights::new(files);
    let mut message = Outgoing { data: &mut bytes, to: &[], flags: 0, rights, cred: None, controls: &[] };
    with_caller(|caller| socket.send(Some(caller), &mut message))
}

fn send(socket: &UnixSocket, bytes: &[u8]) -> Result<usize, Errno> {
    send_with(socket, bytes, Vec::new())
}

fn receive(socket: &UnixSocket, room: usize, flags: u32) -> Result<(Vec<u8>, Incoming), Errno> {
    let mut buf = vec![0; room];
    let incoming = socket.receive(&mut buf.as_mut_slice(), flags)?;
    buf.truncate(incoming.copied);
    Ok((buf, incoming))
}

fn bytes(socket: &UnixSocket, room: usize) -> Result<Vec<u8>, Errno> {
    receive(socket, room, 0).map(|(b, _)| b)
}

fn abstract_name(name: &[u8]) -> Vec<u8> {
    Address::Abstract(name.to_vec()).to_bytes()
}

#[test]
fn a_stream_has_no_boundaries_and_packets_have() {
    let (a, b) = two(sock::STREAM);
    assert_eq!(bytes(&b, 9), Err(EAGAIN));
    send(&a, b"one").unwrap();
    send(&a, b"two").unwrap();
    assert_eq!(bytes(&b, 4), Ok(b"onet".to_vec()));
    assert_eq!(bytes(&b, 9), Ok(b"wo".to_vec()));
    for kind in [sock::DGRAM, sock::SEQPACKET] {
        let (a, b) = two(kind);
        send(&a, b"one").unwrap();
        send(&a, b"two").unwrap();
        let (first, incoming) = receive(&b, 2, 0).unwrap();
        assert_eq!((&first[..], incoming.full, incoming.flags & msg::TRUNC), (&b"on"[..], 3, msg::TRUNC));
        assert_eq!(bytes(&b, 9), Ok(b"two".to_vec()));
    }
}

#[test]
fn a_full_stream_becomes_writable_when_three_quarters_are_read() {
    let (a, b) = two(sock::STREAM);
    let limit = a.common.send_limit();
    assert_eq!(send(&a, &vec![1; limit + 9]), Ok(limit));
    assert_eq!(send(&a, b"x"), Err(EAGAIN));
    assert!(!a.ready().contains(Events::OUT));
    bytes(&b, limit / 2).unwrap();
    assert!(!a.ready().contains(Events::OUT));
    bytes(&b, limit / 4).unwrap();
    assert!(a.ready().contains(Events::OUT));
}

#[test]
fn closing_with_unread_data_resets() {
    let (a, b) = two(sock::STREAM);
    send(&a, b"unread").unwrap();
    b.close();
    assert!(a.ready().contains(Events::ERR | Events::HUP | Events::RDHUP));
    assert_eq!(bytes(&a, 9), Err(ECONNRESET));
    assert_eq!(bytes(&a, 9), Ok(Vec::new()));
    assert_eq!(send(&a, b"x"), Err(EPIPE));
}

#[test]
fn half_a_stream_goes_on() {
    let (a, b) = two(sock::STREAM);
    send(&a, b"tail").unwrap();
    a.shutdown(shut::WR).unwrap();
    assert_eq!(send(&a, b"x"), Err(EPIPE));
    assert_eq!(bytes(&b, 9), Ok(b"tail".to_vec()));
    assert_eq!(bytes(&b, 9), Ok(Vec::new()));
    send(&b, b"back").unwrap();
    assert_eq!(bytes(&a, 9), Ok(b"back".to_vec()));
}

#[test]
fn connections_wait_in_the_backlog() {
    let net = Namespace::new();
    let new = |kind| new(&net, kind, (0, 0), None);
    let (listener, name) = (new(sock::STREAM), abstract_name(b"server"));
    with_caller(|caller| {
        assert_eq!(listener.listen(caller, 1), Err(EINVAL));
        assert_eq!(new(sock::STREAM).connect(caller, &name), Err(ECONNREFUSED));
        listener.bind(caller, &name).unwrap();
        assert_eq!(new(sock::STREAM).connect(caller, &name), Err(ECONNREFUSED));
        assert_eq!(new(sock::STREAM).bind(caller, &name), Err(EADDRINUSE));
        // Names of other types are apart.
        assert_eq!(new(sock::DGRAM).bind(caller, &name), Ok(()));
        listener.listen(caller, 1).unwrap();
        assert_eq!(listener.accept().unwrap_err(), EAGAIN);
        let clients = [new(sock::STREAM), new(sock::STREAM), new(sock::STREAM)];
        assert_eq!(clients[0].connect(caller, &name), Ok(()));
        assert_eq!(clients[1].connect(caller, &name), Ok(()));
        assert_eq!(clients[2].connect(caller, &name), Err(EAGAIN));
        // Linux looks for room first.
        assert_eq!(clients[0].connect(caller, &name), Err(EAGAIN));
        send(&clients[0], b"early").unwrap();
        let accepted = listener.accept_next().unwrap();
        assert_eq!(bytes(&accepted, 9), Ok(b"early".to_vec()));
        assert_eq!(clients[0].connect(caller, &name), Err(EISCONN));
        assert_eq!(clients[0].peer_name(), Ok(name.clone()));
        assert_eq!(accepted.peer_cred().map(|c| c.ucred.pid), Some(7));
        assert_eq!(clients[2].connect(caller, &name), Ok(()));
        listener.close();
        assert_eq!(bytes(&clients[2], 9), Err(ECONNRESET));
        assert_eq!(bytes(&clients[0], 9), Err(EAGAIN));
        assert_eq!(new(sock::STREAM).connect(caller, &name), Err(ECONNREFUSED));
    });
}

#[test]
fn datagrams_know_their_sender_and_queues_are_short() {
    let net = Namespace::new();
    let new = || new(&net, sock::DGRAM, (0, 0), None);
    let (a, b, other) = (new(), new(), new());
    with_caller(|caller| {
        a.bind(caller, &abstract_name(b"a")).unwrap();
        b.bind(caller, &abstract_name(b"b")).unwrap();
        b.connect(caller, &abstract_name(b"a")).unwrap();
        for _ in 0..11 {
            assert_eq!(send(&b, b"m"), Ok(1));
        }
        assert_eq!(send(&b, b"m"), Err(EAGAIN));
        assert!(!b.ready().contains(Events::OUT));
        let (_, incoming) = receive(&a, 9, 0).unwrap();
        assert_eq!(incoming.from, Some(abstract_name(b"b")));
        assert!(b.ready().contains(Events::OUT));
        // Whoever is connected hears its peer only.
        assert_eq!(other.connect(caller, &abstract_name(b"b")), Err(EPERM));
        a.close();
        assert_eq!(send(&b, b"m"), Err(ECONNREFUSED));
        assert_eq!(send(&b, b"m"), Err(ENOTCONN));
    });
}

#[test]
fn reading_stops_behind_passed_files() {
    let (a, b) = two(sock::STREAM);
    let file = fs::anon::eventfd::new(0, false, 0);
    send(&a, b"before").unwrap();
    send_with(&a, b"with", vec![file.clone()]).unwrap();
    send(&a, b"after").unwrap();
    let (peeked, incoming) = receive(&b, 99, msg::PEEK).unwrap();
    assert_eq!((&peeked[..], incoming.rights.files().len()), (&b"beforewith"[..], 1));
    drop(incoming);
    let (read, incoming) = receive(&b, 99, 0).unwrap();
    assert_eq!((&read[..], incoming.rights.files().len()), (&b"beforewith"[..], 1));
    drop(incoming);
    assert_eq!(bytes(&b, 99), Ok(b"after".to_vec()));
    assert_eq!(Arc::strong_count(&file), 1);
}

#[test]
fn a_long_chain_of_passed_sockets_is_taken_apart() {
    let net = Namespace::new();
    let mut inner: Option<Arc<FileDescription>> = None;
    for _ in 0..20_000 {
        let (a, b) = with_caller(|caller| pair(&net, sock::STREAM, caller));
        send_with(&a, b"x", inner.take().into_iter().collect()).unwrap();
        a.close();
        inner = Some(SocketFile::describe(b, 0));
    }
    let (a, b) = with_caller(|caller| pair(&net, sock::STREAM, caller));
    send_with(&a, b"x", inner.into_iter().collect()).unwrap();
    assert_eq!(net.socket_count(), 20_000);
    drop((SocketFile::describe(a, 0), SocketFile::describe(b, 0)));
    assert_eq!(net.socket_count(), 0);
}

#[test]
fn rings_of_passed_sockets_are_found() {
    let net = Namespace::new();
    let (a, b) = with_caller(|caller| pair(&net, sock::STREAM, caller));
    let files = [SocketFile::describe(a.clone(), 0), SocketFile::describe(b.clone(), 0)];
    send_with(&a, b"x", files.to_vec()).unwrap();
    send_with(&b, b"x", files.to_vec()).unwrap();
    drop((a, b));
    // While one of the two can be read from, nothing is lost.
    let [first, second] = files;
    drop(second);
    net.in_flight.collect();
    assert_eq!(net.socket_count(), 2);
    drop(first);
    // Nothing closes a socket that is in flight: the next socket that closes starts the search.
    drop(SocketFile::describe(new(&net, sock::STREAM, (0, 0), None), 0));
    assert_eq!(net.socket_count(), 0);
}
