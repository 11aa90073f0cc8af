use super::*;
use crate::message::Outgoing;
use crate::rights::Rights;
use message::Builder;

fn ask(socket: &NetlinkSocket, data: &[u8]) -> Result<usize, Errno> {
    let cred = base::cred::Credentials::root();
    let caller = Caller { cred: &cred, pid: 7, shown_pid: 7, walk: None, nofile: 9 };
    let mut source = data;
    let rights = &mut Rights::default();
    let mut message = Outgoing { data: &mut source, to: &[], flags: 0, rights, cred: None, controls: &[] };
    socket.send(Some(&caller), &mut message)
}

fn answers(socket: &NetlinkSocket) -> Vec<(u16, Vec<u8>)> {
    let mut list = Vec::new();
    loop {
        let mut bytes = Vec::new();
        if socket.receive(&mut bytes, 0).is_err() {
            return list;
        }
        let mut rest = &bytes[..];
        while let Some(m) = Request::next(&mut rest) {
            list.push((m.kind, m.body().to_vec()));
        }
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Builder::new(kind, flag::REQUEST | flags, 1, 0);
    out.put(body);
    out.finish()
}

#[test]
fn the_device_and_its_addresses_are_told() {
    let net = Namespace::new();
    let socket = new(&net, 3, ROUTE, (0, 0)).unwrap();
    ask(&socket, &request(18, flag::DUMP, &[0; 16])).unwrap();
    ask(&socket, &request(22, flag::DUMP, &[0; 8])).unwrap();
    let list = answers(&socket);
    assert_eq!(list.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [kind::ERROR, 16, kind::DONE]);
    ask(&socket, &request(22, flag::DUMP, &[0; 8])).unwrap();
    let list = answers(&socket);
    assert_eq!(list.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [20, 20, kind::DONE]);
    assert_eq!(list[0].1[..4], [2, 8, 0x80, 254]);
}

#[test]
fn random_messages_are_survived() {
    let net = Namespace::new();
    let (route, diag) = (new(&net, 3, ROUTE, (0, 0)).unwrap(), new(&net, 3, SOCK_DIAG, (0, 0)).unwrap());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> =
            (0..next() % 120).map(|_| if next() % 3 == 0 { next() as u8 } else { 0 }).collect();
        if bytes.len() >= 16 {
            let len = if next() % 8 == 0 { next() as u32 % 200 } else { bytes.len() as u32 };
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes[4..6].copy_from_slice(&((next() % 100) as u16).to_ne_bytes());
            bytes[6..8].copy_from_slice(&((next() % 0x400) as u16 | 1).to_ne_bytes());
        }
        for socket in [&route, &diag] {
            let _ = ask(socket, &bytes);
            answers(socket);
        }
    }
}
