use abi::errno::{EADDRINUSE, ECONNREFUSED, ECONNRESET, EINPROGRESS};
use abi::socket::shut;
use base::cred::Credentials;

use super::*;
use crate::rights::Rights;

fn with_caller<T>(f: impl FnOnce(&Caller<'_>) -> T) -> T {
    let cred = Credentials::root();
    f(&Caller { cred: &cred, pid: 7, shown_pid: 7, walk: None, nofile: 1024 })
}

fn at(port: u16) -> Vec<u8> {
    address::to_bytes(af::INET, ([127, 0, 0, 1], port).into())
}

fn socket(net: &Arc<Namespace>) -> Arc<TcpSocket> {
    new(net, af::INET, (0, 0))
}

fn listener(net: &Arc<Namespace>, port: u16, backlog: usize) -> Arc<TcpSocket> {
    let socket = socket(net);
    with_caller(|caller| socket.bind(caller, &at(port))).unwrap();
    socket.listen_for(backlog).unwrap();
    socket
}

fn connect(socket: &TcpSocket, port: u16) -> Result<(), Errno> {
    assert_eq!(socket.connect_to(&at(port)), Err(EINPROGRESS));
    socket.connect_result()
}

fn pair(net: &Arc<Namespace>) -> (Arc<TcpSocket>, Arc<TcpSocket>) {
    let listener = listener(net, 9, 1);
    let client = socket(net);
    connect(&client, 9).unwrap();
    let server = listener.accept_next().unwrap();
    listener.close();
    (client, server)
}

fn send(socket: &TcpSocket, mut bytes: &[u8], flags: u32) -> Result<usize, Errno> {
    let rights = &mut Rights::default();
    let mut message = Outgoing { data: &mut bytes, to: &[], flags, rights, cred: None, controls: &[] };
    socket.send(None, &mut message)
}

fn receive(socket: &TcpSocket, room: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; room];
    let incoming = socket.receive(&mut buf.as_mut_slice(), 0)?;
    buf.truncate(incoming.copied);
    Ok(buf)
}

#[test]
fn states_follow_the_two_ends() {
    let (a, b) = pair(&Namespace::new());
    assert_eq!((a.tcp_state(), b.tcp_state()), (state::ESTABLISHED, state::ESTABLISHED));
    send(&a, b"tail", 0).unwrap();
    a.shut(shut::WR).unwrap();
    assert_eq!((a.tcp_state(), b.tcp_state()), (state::FIN_WAIT2, state::CLOSE_WAIT));
    assert_eq!(receive(&b, 9), Ok(b"tail".to_vec()));
    assert_eq!(receive(&b, 9), Ok(Vec::new()));
    b.shut(shut::WR).unwrap();
    assert_eq!((a.tcp_state(), b.tcp_state()), (state::CLOSE, state::CLOSE));
    assert_eq!(a.shut(shut::RD), Err(ENOTCONN));
}

#[test]
fn closing_with_unread_data_resets() {
    let (a, b) = pair(&Namespace::new());
    send(&b, b"tail", 0).unwrap();
    send(&a, b"unread", 0).unwrap();
    b.close();
    assert_eq!(receive(&a, 9), Ok(b"tail".to_vec()));
    assert_eq!(receive(&a, 9), Err(ECONNRESET));
    assert_eq!(receive(&a, 9), Ok(Vec::new()));
    assert_eq!(send(&a, b"x", 0), Err(EPIPE));
}

#[test]
fn a_closed_peer_takes_one_write_and_resets() {
    let (a, b) = pair(&Namespace::new());
    b.close();
    assert_eq!(send(&a, b"x", 0), Ok(1));
    assert_eq!(send(&a, b"x", 0), Err(EPIPE));
    assert_eq!(receive(&a, 9), Ok(Vec::new()));
}

#[test]
fn a_full_backlog_lets_in_one_for_each_accepted() {
    let net = Namespace::new();
    let listener = listener(&net, 9, 1);
    let clients: Vec<_> = (0..4).map(|_| socket(&net)).collect();
    let results: Vec<_> = clients.iter().map(|c| connect(c, 9)).collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(EAGAIN), Err(EAGAIN)]);
    assert_eq!(clients[2].tcp_state(), state::SYN_SENT);
    listener.accept_next().unwrap();
    assert_eq!(clients[2].connect_result(), Ok(()));
    listener.close();
    assert_eq!(clients[3].connect_result(), Err(ECONNREFUSED));
    assert_eq!(receive(&clients[1], 9), Err(ECONNRESET));
}

#[test]
fn whoever_closes_first_lingers() {
    let net = Namespace::new();
    let (client, server) = pair(&net);
    server.close();
    client.close();
    let again = socket(&net);
    with_caller(|caller| {
        assert_eq!(again.bind(caller, &at(9)), Err(EADDRINUSE));
    });
    let net = Namespace::new();
    let (client, server) = pair(&net);
    client.close();
    server.close();
    with_caller(|caller| assert_eq!(socket(&net).bind(caller, &at(9)), Ok(())));
}

#[test]
fn urgent_data_stands_beside_the_stream() {
    let (a, b) = pair(&Namespace::new());
    send(&a, b"ab!", msg::OOB).unwrap();
    send(&a, b"cd", 0).unwrap();
    assert!(b.ready().contains(Events::PRI));
    assert_eq!(receive(&b, 9), Ok(b"ab".to_vec()));
    assert_eq!(b.at_mark(), Ok(true));
    let mut byte = [0];
    let incoming = b.receive(&mut &mut byte[..], msg::OOB).unwrap();
    assert_eq!((incoming.copied, byte), (1, *b"!"));
    assert_eq!(b.receive(&mut &mut byte[..], msg::OOB).unwrap_err(), EINVAL);
    assert_eq!(receive(&b, 9), Ok(b"cd".to_vec()));
}

#[test]
fn a_writer_waits_for_a_third_of_its_buffer() {
    let (a, b) = pair(&Namespace::new());
    let all = a.common.send_limit() + b.common.receive_limit() / 2;
    assert_eq!(send(&a, &vec![1; all + 9], 0), Ok(all));
    assert_eq!(send(&a, b"x", 0), Err(EAGAIN));
    assert!(!a.ready().contains(Events::OUT));
    receive(&b, a.common.send_limit() / 3 + 1).unwrap();
    assert!(a.ready().contains(Events::OUT));
}

#[test]
fn a_socket_can_connect_to_itself() {
    let net = Namespace::new();
    let one = socket(&net);
    with_caller(|caller| one.bind(caller, &at(9))).unwrap();
    assert_eq!(connect(&one, 9), Ok(()));
    send(&one, b"echo", 0).unwrap();
    assert_eq!(receive(&one, 9), Ok(b"echo".to_vec()));
    one.close();
}
