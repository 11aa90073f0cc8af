//! Real servers and clients on the loopback and on AF_UNIX: what they print in the sandbox is, byte for byte, what they
//! print natively. Each script runs in a network of its own where the host allows that, so that ports are free.

use std::time::Duration;

use ringfence_tests::outcome::same_as_native;
use ringfence_tests::{have_kvm, have_program, skipped};

/// What every script begins with: a network of its own, natively, and a folder that goes away.
const PRELUDE: &str = r#"
if [ -z "$OWN_NET" ] && unshare -n true 2>/dev/null; then
    OWN_NET=1 exec unshare -n bash -c "$0"
fi
ip link set lo up 2>/dev/null
d=$(mktemp -d) && cd "$d" || exit 99
trap 'cd /; rm -rf "$d"' EXIT
await() { for i in {1..400}; do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "no $*"; }
"#;

fn check(needs: &[&str], seconds: u64, script: &str) {
    if !needs.iter().all(|name| have_program(name)) || !have_kvm() {
        return;
    }
    let script = format!("{PRELUDE}{script}");
    let argv = ["/bin/bash", "-c", "exec bash -c \"$0\" \"$0\"", &script];
    let result = same_as_native(&argv, b"", Duration::from_secs(seconds));
    if let Err(report) = result {
        panic!("differs from the native run:\n{report}");
    }
}

#[test]
fn redis() {
    check(
        &["redis-server", "redis-cli", "redis-benchmark"],
        120,
        r#"
redis-server --port 7001 --unixsocket "$d/s" --save '' --logfile "$d/log" >/dev/null 2>&1 & p=$!
await redis-cli -p 7001 ping
redis-cli -p 7001 set a b; redis-cli -s "$d/s" get a; redis-cli -p 7001 incrby n 41
redis-cli -p 7001 eval 'return redis.call("incr", "n")' 0
seq 1 500 | sed 's/.*/rpush l &/' | redis-cli -p 7001 --pipe | tail -1; redis-cli -s "$d/s" llen l
redis-cli -p 7001 subscribe c >sub & s=$!
await bash -c '[ "$(redis-cli -p 7001 pubsub numsub c | tail -1)" = 1 ]'
redis-cli -p 7001 publish c message; await grep -q message sub; kill $s; cat sub
redis-benchmark -p 7001 -n 2000 -c 20 -t get,set -q | tr '\r' '\n' | grep -c 'requests per second'
redis-benchmark -s "$d/s" -n 2000 -c 20 -P 16 -t get,set -q | tr '\r' '\n' | grep -c 'requests per second'
redis-cli -p 7001 shutdown nosave; wait $p; echo $?
"#,
    );
}

#[test]
fn nginx() {
    check(
        &["nginx", "curl", "openssl"],
        120,
        r#"
mkdir w logs; head -c 3000000 /dev/zero | tr '\0' x >w/big; echo hello >w/small; chmod -R a+rX "$d"
openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 3 -subj /CN=localhost >/dev/null 2>&1
cat >n.conf <<X
pid $d/pid; error_log $d/logs/e; worker_processes 2; daemon on;
events { worker_connections 128; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
client_body_temp_path $d/t1; proxy_temp_path $d/t2; fastcgi_temp_path $d/t3; uwsgi_temp_path $d/t4; scgi_temp_path $d/t5;
server { listen 7002 reuseport; listen 7003 ssl; listen [::1]:7004; listen unix:$d/s;
ssl_certificate $d/c.pem; ssl_certificate_key $d/k.pem; root $d/w; location /p { proxy_pass http://unix:$d/s:/small; } } }
X
nginx -c "$d/n.conf" -p "$d"; echo start $?
await curl -s http://127.0.0.1:7002/small
curl -s http://127.0.0.1:7002/small http://127.0.0.1:7002/small; curl -s http://127.0.0.1:7002/big | md5sum
curl -sk https://127.0.0.1:7003/big | md5sum; curl -s 'http://[::1]:7004/small'
curl -s --unix-socket "$d/s" http://x/small; curl -s http://127.0.0.1:7002/p
curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:7002/none; curl -s http://127.0.0.1:7009/; echo refused $?
for i in {1..20}; do curl -s http://127.0.0.1:7002/small & done | sort | uniq -c; wait
nginx -c "$d/n.conf" -p "$d" -s quit 2>/dev/null; await bash -c "! [ -e pid ]"; grep -c alert logs/e
"#,
    );
}

#[test]
fn load_on_nginx() {
    check(
        &["nginx", "wrk", "ab"],
        120,
        r#"
mkdir w; echo hello >w/small; chmod -R a+rX "$d"
cat >n.conf <<X
pid $d/pid; error_log $d/e; worker_processes 2; daemon on; events { worker_connections 512; }
http { access_log off; sendfile on; keepalive_requests 100000;
client_body_temp_path $d/t1; proxy_temp_path $d/t2; fastcgi_temp_path $d/t3; uwsgi_temp_path $d/t4; scgi_temp_path $d/t5;
server { listen 7002; root $d/w; } }
X
nginx -c "$d/n.conf" -p "$d"
await ab -q -n 1 http://127.0.0.1:7002/small
wrk -t2 -c32 -d1 http://127.0.0.1:7002/small | grep -oE 'Requests/sec|Socket errors.*|Non-2xx.*'
ab -q -k -n 1000 -c 10 http://127.0.0.1:7002/small 2>&1 | grep -E 'Complete|Failed|Keep-Alive req'
ab -q -n 200 -c 10 http://127.0.0.1:7002/small 2>&1 | grep -E 'Complete|Failed'
nginx -c "$d/n.conf" -p "$d" -s stop 2>/dev/null
"#,
    );
}

#[test]
fn memcached() {
    check(
        &["memcached"],
        60,
        r#"
memcached -u root -p 7005 -U 7005 -l 127.0.0.1 & p=$!
await bash -c 'exec 3<>/dev/tcp/127.0.0.1/7005'
exec 3<>/dev/tcp/127.0.0.1/7005
printf 'set a 0 0 3\r\nabc\r\nget a\r\nincr n 1\r\nadd n 0 0 2\r\n41\r\nincr n 1\r\nflush_all\r\nget a\r\nquit\r\n' >&3; cat <&3
kill $p; wait $p; echo $?
"#,
    );
}

#[test]
fn ssh() {
    check(
        &["sshd", "ssh", "ssh-keygen"],
        120,
        r#"
mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f hk; ssh-keygen -q -t ed25519 -N '' -f k; cp k.pub ak
printf 'Port 7007\nListenAddress 127.0.0.1\nHostKey %s/hk\nAuthorizedKeysFile %s/ak\nStrictModes no\nUsePAM no\nPidFile %s/pid\nPermitRootLogin yes\n' "$d" "$d" "$d" >c
$(command -v sshd || echo /usr/sbin/sshd) -f "$d/c" -E log -D & p=$!
await bash -c 'exec 3<>/dev/tcp/127.0.0.1/7007'
s=(ssh -i k -p 7007 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR)
"${s[@]}" root@127.0.0.1 'echo in; id -u; echo $((6*7)); exit 5' </dev/null; echo $?
head -c 1000000 /dev/zero | "${s[@]}" root@127.0.0.1 md5sum
"${s[@]}" -N -L 7017:127.0.0.1:7007 -o ExitOnForwardFailure=yes root@127.0.0.1 </dev/null & f=$!
await bash -c 'exec 3<>/dev/tcp/127.0.0.1/7017'
head -c 8 </dev/tcp/127.0.0.1/7017; echo
kill $f; wait $f; echo $?; kill $p; wait $p; echo $?
"#,
    );
}

#[test]
fn iperf() {
    check(
        &["iperf3"],
        60,
        r#"
for args in '-c 127.0.0.1 -n 50M' '-c ::1 -R -P 3 -n 20M' '-c 127.0.0.1 -u -b 20M -n 1M' '-c 127.0.0.1 -Z -n 20M -w 64K'; do
    iperf3 -s -p 7008 -1 >/dev/null & p=$!
    await grep -q ':1B60 .* 0A ' /proc/net/tcp6
    iperf3 -p 7008 $args -J >out; echo $?
    grep -E '"(bytes|lost_packets)"' out | tail -1 | tr -d ' ' | grep -c -E 'bytes|"lost_packets":0'; grep -c '"error"' out; wait $p; echo $?
done
"#,
    );
}

#[test]
fn node_http() {
    check(
        &["node"],
        120,
        r#"
cat >h.js <<'X'
const http = require('http'), net = require('net'), dgram = require('dgram');
const s = http.createServer((q, r) => r.end('hi ' + q.url)).listen(7010, '127.0.0.1', () => {
    let n = 0, N = 1000, ok = 0;
    const a = new http.Agent({keepAlive: true, maxSockets: 20});
    for (let i = 0; i < N; i++) http.get({port: 7010, host: '127.0.0.1', path: '/' + i, agent: a}, r => {
        let b = '';
        r.on('data', d => b += d);
        r.on('end', () => { if (b == 'hi /' + i) ok++; if (++n == N) { console.log(ok); s.close(); a.destroy(); more(); } });
    }).on('error', e => console.log(e.message));
});
function more() {
    const t = net.createServer(c => c.pipe(c)).listen('./sock', () => {
        const c = net.connect('./sock');
        let n = 0;
        c.on('data', d => n += d.length).on('end', () => { console.log('echoed', n); t.close(); udp(); });
        c.write(Buffer.alloc(2000000)); c.end();
    });
}
function udp() {
    const a = dgram.createSocket('udp6'), b = dgram.createSocket('udp6');
    a.on('message', (m, r) => { console.log(m.toString(), r.family, r.address); a.close(); b.close(); });
    a.bind(7011, '::1', () => b.send('datagram', 7011, '::1'));
}
X
node h.js
"#,
    );
}

#[test]
fn network_tools() {
    check(
        &["ip", "ss", "ifconfig", "netstat", "python3"],
        120,
        r#"
exec 2>&1
ip addr; ip -6 addr; ip route; ip -6 route; ip route show table local; ip link; ip rule; ip neigh; ip route get 127.0.0.5; ip route get 10.1.1.1
ip addr add 10.3.2.1/24 dev lo; ip addr show dev lo | grep -c 10.3.2.1; ip route get 10.3.2.99 | head -1; ip addr del 10.3.2.1/24 dev lo
ip link set lo mtu 9000; ip link show lo | head -1; ip link set lo mtu 65536
ifconfig | grep -v packets; netstat -rn; head -2 /proc/net/dev; cat /proc/net/route /proc/net/if_inet6
python3 -c "
import socket, subprocess as sp
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('127.0.0.1', 7777)); l.listen(5)
c = socket.socket(); c.bind(('127.0.0.1', 7776)); c.connect(('127.0.0.1', 7777)); a, _ = l.accept(); c.send(b'abc')
w = socket.socket(); w.bind(('127.0.0.1', 7775)); w.connect(('127.0.0.1', 7777))
l6 = socket.socket(socket.AF_INET6); l6.bind(('::', 7778)); l6.listen(7)
u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('127.0.0.1', 7779)); u.connect(('127.0.0.1', 7780))
x = socket.socket(socket.AF_UNIX); x.bind('\0abc'); x.listen(3)
for cmd in ['ss -tan', 'ss -tln', 'ss -uan', 'ss -tan sport = :7777', 'ss -tan dst 127.0.0.1:7777', 'ss -tan state established', 'ss -tnio', 'netstat -tan', 'netstat -uan', 'netstat -tuln']:
    out = sp.run(cmd.split(), capture_output=True, text=True).stdout.splitlines()
    print(cmd, len(out) if cmd == 'ss -tnio' else '\n'.join(out[:1] + sorted(out[1:])))
print([r.split()[:4] + r.split()[4:5] for r in sp.run(['ss', '-xl'], capture_output=True, text=True).stdout.splitlines()[1:]])
print(socket.if_nameindex(), socket.getaddrinfo('127.0.0.1', 80, 0, socket.SOCK_STREAM))
c.close(); a.close(); l.close()
print(sp.run(['ss', '-tan', 'state', 'time-wait'], capture_output=True, text=True).stdout)
"
sysctl -n net.core.somaxconn net.ipv4.ip_local_port_range 2>/dev/null
echo '5000 5009' >/proc/sys/net/ipv4/ip_local_port_range; cat /proc/sys/net/ipv4/ip_local_port_range
python3 -c "
import socket
list = []
try:
    for i in range(20):
        s = socket.socket(); s.bind(('127.0.0.1', 0)); list.append(s)
except OSError as e: print(len(list), e, sorted(s.getsockname()[1] for s in list))
"
"#,
    );
}

#[test]
fn ping() {
    check(
        &["ping", "setpriv"],
        60,
        r#"
cut_times() { sed 's/time[= ].*//' | grep -v rtt; }
for a in 127.0.0.1 ::1 127.9.9.9; do ping -c2 -i0.2 $a | cut_times; done
ping -c1 -s 60000 127.0.0.1 | cut_times; ping -c1 10.1.1.1 2>&1; echo $?
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all ping -c1 127.0.0.1 | cut_times
python3 -c "
import socket, struct
r = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); r.bind(('127.0.0.1', 0))
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); print(s.sendto(b'payload', ('127.0.0.1', 0)))
d, a = r.recvfrom(999); print(len(d), d[0], d[8], d[9], d[12:], a)
"
"#,
    );
}

/// The tests of CPython's own library that concern sockets, by test: what is not skipped natively has the same result.
#[test]
fn python_suites() {
    let python = "/usr/bin/python3";
    if std::process::Command::new(python)
        .args(["-c", "import test.test_socket"])
        .output()
        .is_ok_and(|o| !o.status.success())
    {
        skipped("python_suites", "no CPython test suite (libpython3-testsuite)");
        return;
    }
    check(
        &[python],
        300,
        r#"
for t in test_select test_selectors test_socketserver test_httpservers test_httplib test_socket; do
    echo "== $t"
    case $t in
    # What needs a name server, hardware or another family.
    test_socket) but='-i *Hostname* -i *VSOCK* -i *CAN* -i *Bluetooth* -i *TIPC* -i *RDS* -i *Qipc* -i *testSockName*' ;;
    *) but= ;;
    esac
    set -f
    /usr/bin/python3 -m test -v --timeout 200 -m 'test*' $but $t >"$t.out" 2>&1; echo $?
    grep -aoE '^(ERROR|FAIL): .*' "$t.out" | sort
    tail -1 "$t.out"
done
"#,
    );
}

/// The same of asyncio's sockets and streams, and of TLS; the rest of asyncio has no business here.
#[test]
fn python_asyncio_and_tls() {
    let python = "/usr/bin/python3";
    let has_suite = std::process::Command::new(python).args(["-c", "import test.test_asyncio"]).output();
    if !has_suite.is_ok_and(|o| o.status.success()) {
        skipped("python_asyncio_and_tls", "no CPython test suite (libpython3-testsuite)");
        return;
    }
    check(
        &[python],
        300,
        r#"
for t in test_asyncio.test_streams test_asyncio.test_sock_lowlevel test_asyncio.test_server test_asyncio.test_sendfile \
    test_asyncio.test_buffered_proto test_ssl; do
    echo "== $t"
    /usr/bin/python3 -m unittest test.$t >"$d/out" 2>&1; echo $?
    grep -aoE '^(ERROR|FAIL): .*' "$d/out" | sort
    grep -aoE '^Ran [0-9]+ tests' "$d/out"
done
"#,
    );
}

/// A database for an ordinary user, over AF_UNIX and TCP.
#[test]
fn postgresql() {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let Some(bin) = versions.map(|v| v.path().join("bin")).filter(|b| b.join("initdb").exists()).max() else {
        skipped("postgresql", "no initdb (postgresql)");
        return;
    };
    let script = format!("PATH={}:$PATH{POSTGRESQL}", bin.display());
    check(&["setpriv"], 300, &script);
}

const POSTGRESQL: &str = r#"
chmod 755 "$d"; mkdir p; chown 65534:65534 p; chmod 700 p; cd p; p=$PWD
run() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$p PATH=$PATH LC_ALL=C "$@"; }
run initdb -D db -U me -A trust -N >log 2>&1; echo $?
run pg_ctl -D db -w -t 200 -l server.log -o "-p 5544 -k $p -c fsync=off" start >/dev/null; echo $?
run createdb -h "$p" -p 5544 -U me t
run pgbench -h "$p" -p 5544 -U me -i -q t >/dev/null 2>&1; echo $?
for h in "$p" 127.0.0.1; do
    run pgbench -h $h -p 5544 -U me -c 4 -j 2 -t 25 t 2>/dev/null | grep -E 'actually|failed'
done
run psql -h 127.0.0.1 -p 5544 -U me t -Atc 'select count(*) from pgbench_history' \
    -c "select inet_server_addr(), inet_client_addr()" -c 'copy (select generate_series(1, 3)) to stdout' \
    -c 'begin; lock pgbench_accounts; rollback' -c 'select 1 / 0' 2>&1
run psql -h "$p" -p 5544 -U me t -Atc 'select inet_server_addr() is null'
run pg_ctl -D db -w -m fast stop >/dev/null; echo $?
"#;

/// The tests of Go's package `net` that need no outside, by test.
#[test]
fn go_net() {
    if !have_program("go") {
        return;
    }
    let root = std::process::Command::new("go").args(["env", "GOROOT"]).output();
    let root = root.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let source = std::path::Path::new(&root).join("src/net");
    if !source.join("net_test.go").exists() {
        skipped("go_net", "no tests of Go's library (golang-src)");
        return;
    }
    let program = std::env::temp_dir().join(format!("go-net-{}.test", std::process::id()));
    let built = std::process::Command::new("nice")
        .args(["go", "test", "-c", "-o"])
        .arg(&program)
        .arg("net")
        .current_dir(&source)
        .status();
    assert!(built.is_ok_and(|s| s.success()), "go test -c net");
    let script = format!(
        r#"
cd {}
{} -test.short -test.v -test.timeout 250s -test.run '{GO_TESTS}' >"$d/out" 2>&1; echo $?
grep -aoE '^--- (PASS|FAIL|SKIP): [^ ]*' "$d/out" | sort
"#,
        source.display(),
        program.display()
    );
    check(&[], 300, &script);
    let _ = std::fs::remove_file(program);
}

/// What connects, listens, sends and closes; names and interfaces depend on the machine.
const GO_TESTS: &str =
    "TCP|UDP|Unix|Listen|Dial|Conn|Packet|Accept|Close|Read|Write|Sendfile|Splice|File|Pipe";

/// Answers every connection with what `answer` makes of its first bytes, on a port of the host's loopback.
fn host_server(answer: fn(&[u8]) -> Vec<u8>) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buf = vec![0; 4096];
            let n = stream.read(&mut buf).unwrap_or(0);
            let _ = stream.write_all(&answer(&buf[..n]));
        }
    });
    port
}

fn sandbox(options: &[&str], script: &str) -> ringfence_tests::outcome::Outcome {
    let mut command = std::process::Command::new(ringfence_tests::ringfence());
    command.arg("run").args(options).args(["--", "/bin/bash", "-c", script]);
    ringfence_tests::outcome::run(command, b"", Duration::from_secs(60))
}

/// What sockets hold counts as the sandbox's memory: who fills them all is told so, and the sandbox goes on.
#[test]
fn sockets_hold_no_more_than_the_memory_limit() {
    let python = "/usr/bin/python3";
    if !have_kvm() || !have_program(python) {
        return;
    }
    let script = format!(
        r#"{python} - <<'E'
import errno, resource, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
def fill(make):
    total, kept = 0, []
    try:
        for _ in range(1000):
            a, b = make()
            a.setblocking(False)
            kept += [a, b]
            try:
                while True: total += a.send(bytes(60000))
            except BlockingIOError: pass
    except OSError as e: return total >> 20, errno.errorcode[e.errno]
    return total >> 20, None
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    held, why = fill(lambda: socket.socketpair(socket.AF_UNIX, kind))
    print(why, 20 < held < 60)
a, b = socket.socketpair()
a.send(b"still there")
print(b.recv(99).decode())
E"#
    );
    let outcome = sandbox(&["--memory", "120M"], &script);
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert_eq!(said, "ENOBUFS True\nENOBUFS True\nstill there\n", "{}", outcome.stderr_text());
}

/// `--net host`: what listens on the host is reached, and only then.
#[test]
fn the_host_is_reached_only_with_its_network() {
    if !have_kvm() || !have_program("curl") {
        return;
    }
    let port = host_server(|_| {
        let body = "from the host\n".repeat(100_000);
        format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let script =
        format!("curl -s http://127.0.0.1:{port}/ | sort | uniq -c; curl -s http://127.0.0.1:1/; echo $?");
    let outcome = sandbox(&["--net", "host"], &script);
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        " 100000 from the host\n7\n",
        "{}",
        outcome.stderr_text()
    );
    let outcome = sandbox(&[], &format!("curl -s http://127.0.0.1:{port}/; echo $?"));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "7\n", "{}", outcome.stderr_text());
}

/// A program in the sandbox may serve on the host's network, exchange datagrams, and set options that are listed.
#[test]
fn a_sandbox_serves_on_the_hosts_network() {
    if !have_kvm() || !have_program("/usr/bin/python3") {
        return;
    }
    const PROGRAM: &str = r"
import socket, threading, asyncio, select
l = socket.create_server(('127.0.0.1', 0))
def serve():
    c, _ = l.accept(); n = 0
    while d := c.recv(100000): n += len(d)
    c.sendall(b'%d' % n); c.close()
t = threading.Thread(target=serve); t.start()
c = socket.create_connection(l.getsockname()); c.sendall(bytes(8000000)); c.shutdown(1); print(c.recv(99)); t.join()
u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))
v = socket.socket(type=socket.SOCK_DGRAM); v.connect(u.getsockname()); v.send(b'x' * 60000); d, a = u.recvfrom(70000); print(len(d), a == v.getsockname())
u.sendto(b'back', a); print(v.recv(9))
try: v.send(bytes(70000))
except OSError as e: print(e)
c.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, 1); print(c.getsockopt(socket.SOL_TCP, socket.TCP_NODELAY))
try: c.setsockopt(socket.SOL_TCP, 19, 1)
except OSError as e: print(e)
s = socket.socket(); s.setblocking(False); r = s.connect_ex(l.getsockname()); print(select.select([], [s], [], 5)[1] == [s], s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
async def main():
    async def h(r, w):
        while d := await r.read(65536): w.write(d.upper()); await w.drain()
        w.close()
    srv = await asyncio.start_server(h, '127.0.0.1', 0)
    async def client(i):
        r, w = await asyncio.open_connection(*srv.sockets[0].getsockname()); w.write(b'hello' * 50000); w.write_eof()
        d = await r.read(); w.close(); return len(d), d[:5]
    print(set(await asyncio.gather(*(client(i) for i in range(20))))); srv.close()
asyncio.run(main())
";
    let mut command = std::process::Command::new(ringfence_tests::ringfence());
    command.args(["run", "--net", "host", "--", "/usr/bin/python3", "-c", PROGRAM]);
    let outcome = ringfence_tests::outcome::run(command, b"", Duration::from_secs(90));
    let expected = "b'8000000'\n60000 True\nb'back'\n[Errno 90] Message too long\n1\n[Errno 92] Protocol not available\nTrue 0\n{(250000, b'HELLO')}\n";
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), expected, "{}", outcome.stderr_text());
}
