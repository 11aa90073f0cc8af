use base::bpf::Instruction;
use base::cred::Credentials;

use super::*;
use crate::inet::groups::Place;

fn with_caller<T>(f: impl FnOnce(&Caller<'_>) -> T) -> T {
    let cred = Credentials::root();
    f(&Caller { cred: &cred, pid: 7, shown_pid: 7, walk: None, nofile: 1024 })
}

fn at(ip: &str, port: u16) -> Vec<u8> {
    let ip: IpAddr = ip.parse().unwrap();
    address::to_bytes(if ip.is_ipv4() { af::INET } else { af::INET6 }, (ip, port).into())
}

fn unspecified() -> Vec<u8> {
    vec![0; 16]
}

#[test]
fn what_chooses_follows_its_socket() {
    let net = Namespace::new();
    let ret = Instruction { code: 6, jt: 0, jf: 0, k: 0 };
    let socket = new(&net, af::INET, ipproto::UDP, (0, 0));
    socket.common.reuse_port.store(true, Ordering::Relaxed);
    socket.set_chooser(Some(Attached::new(vec![ret]).unwrap())).unwrap();
    with_caller(|caller| {
        socket.bind(caller, &at("0.0.0.0", 9)).unwrap();
        assert_eq!(net.inet.udp.choosers(9), 1);
        for _ in 0..3 {
            socket.connect(caller, &at("127.0.0.1", 10)).unwrap();
            socket.connect(caller, &unspecified()).unwrap();
            assert_eq!(net.inet.udp.choosers(9), 1);
        }
    });
    // It can still be removed, and only once.
    assert_eq!(socket.set_chooser(None), Ok(()));
    assert_eq!(net.inet.udp.choosers(9), 0);
}

#[test]
fn groups_are_forgotten_with_the_family() {
    let net = Namespace::new();
    let socket = new(&net, af::INET6, ipproto::UDP, (0, 0));
    let group = [&[0xff, 0x15], &[0; 13][..], &[1], &1i32.to_ne_bytes()].concat();
    with_caller(|caller| {
        socket.set_option(caller, sol::IPV6, ipv6::JOIN_GROUP, &group).unwrap();
        assert_eq!(net.inet.groups.lock().len(), 1);
        socket.connect(caller, &at("::ffff:127.0.0.1", 9)).unwrap();
        let family = i32::from(af::INET).to_ne_bytes();
        socket.set_option(caller, sol::IPV6, ipv6::ADDRFORM, &family).unwrap();
    });
    assert_eq!(net.inet.groups.lock().len(), 0);
    socket.close();
    assert_eq!(net.inet.groups.lock().len(), 0);
}

#[test]
fn groups_are_counted_in_any_order() {
    let net = Namespace::new();
    let socket = new(&net, af::INET, ipproto::UDP, (0, 0));
    let place = Place { group: "239.1.1.1".parse().unwrap(), index: 1 };
    let (none, mut one) = (Memberships::default(), Memberships::default());
    one.join(place).unwrap();
    socket.count_groups(&one, &none);
    socket.count_groups(&none, &one);
    assert!(net.inet.groups.lock().is_empty());
}
