//! What is measured: whole programs here, single operations in `benches/guest`.

use std::path::Path;

use crate::target::PATH;

/// A program to run, and at most how often it is worth it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it needs beside its own program.
    pub needs: &'static [&'static str],
}

/// Starts a server, waits until it answers, and runs a client against it.
const REDIS: &str = "cd $(mktemp -d) && redis-server --port 7379 --save '' --daemonize no >/dev/null & \
    for i in $(seq 200); do redis-cli -p 7379 ping >/dev/null 2>&1 && break; sleep 0.02; done; \
    redis-benchmark -p 7379 -n 2000 -c 4 -t get,set -q >/dev/null; redis-cli -p 7379 shutdown nosave 2>/dev/null; wait";

/// The server takes the place of its shell: else it would outlive it, and keep the output open.
const NGINX: &str = "(d=$(mktemp -d) && cd $d && mkdir logs && head -c 4096 /dev/zero > index.html && chmod 755 $d && \
    printf 'daemon off; master_process off; pid %s/pid; events {} http { access_log off; server { listen 127.0.0.1:7380; root %s; } }' \
    $d $d > c.conf && exec nginx -p $d -c c.conf -e stderr 2>/dev/null) & p=$!; \
    python3 -c \"import socket, time
for i in range(300):
    for k in range(500):
        try: s = socket.create_connection(('127.0.0.1', 7380)); break
        except OSError: time.sleep(0.01)
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    n = 0
    while (c := len(s.recv(65536))): n += c
    assert n > 4096, n
\"; r=$?; kill $p; wait; exit $r";

const GCC: &str = "cd $(mktemp -d) && for i in 1 2 3 4; do printf '#include <stdio.h>\\n#include <stdlib.h>\\nint f%d(int a) { return a + %d; }\\n' \
    $i $i > f$i.c; done && printf 'all: f1.o f2.o f3.o f4.o\\n' > Makefile && make -s -j2";

const GIT: &str = "export HOME=/tmp GIT_CONFIG_NOSYSTEM=1; cd $(mktemp -d) && git init -q . && for i in $(seq 50); do echo $i > f$i; done && \
    git add . && git -c user.name=x -c user.email=x@x commit -qm one && git status --short && git log --oneline | wc -l";

const TAR: &str = "cd $(mktemp -d) && tar cf a.tar -C /usr/include linux && tar xf a.tar && find linux | wc -l && rm -rf linux";

const SQLITE: &str = "cd $(mktemp -d) && sqlite3 db \"create table t(a integer primary key, b text); \
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) insert into t select i, 'text ' || i from n; \
    create index x on t(b); select count(*), sum(a) from t where b like 'text 1%'\" && \
    for i in 1 2 3 4 5 6 7 8 9 10; do sqlite3 db \"insert into t(b) values ('more')\"; done";

const POSTGRESQL: &str = "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH; d=$(mktemp -d); chmod 755 $d; cd $d; \
    mkdir p; chown 65534:65534 p; chmod 700 p; cd p; p=$PWD; \
    run() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$p \"$@\"; }; \
    run initdb -D db -U me -A trust -N >/dev/null 2>&1 && \
    run pg_ctl -D db -w -t 60 -l log -o \"-p 7381 -k $p -c fsync=off\" start >/dev/null && run createdb -h $p -p 7381 -U me t && \
    run pgbench -h $p -p 7381 -U me -i -q t >/dev/null 2>&1 && \
    run pgbench -h $p -p 7381 -U me -c 4 -j 2 -t 50 t 2>/dev/null | grep processed; \
    r=$?; run pg_ctl -D db -m fast stop >/dev/null 2>&1; exit $r";

/// All rows.
pub fn all() -> Vec<Row> {
    let row = |name, argv: &[&str], needs| Row {
        name,
        argv: argv.iter().map(|s| (*s).to_owned()).collect(),
        needs,
    };
    let bash = |name, script, needs| row(name, &["/bin/bash", "-c", script], needs);
    vec![
        row("true", &["/bin/true"], &[]),
        row("python_pass", &["/usr/bin/python3", "-c", "pass"], &["python3"]),
        row(
            "python_cpu",
            &["/usr/bin/python3", "-c", "s = 0\nfor i in range(3000000): s += i * i\nprint(s)"],
            &["python3"],
        ),
        bash("sha256_64m", "head -c 64M /dev/zero | sha256sum", &[]),
        bash("fork_exec_50", "i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i+1)); done", &[]),
        bash("find_usr", "find /usr/include /usr/lib/python3 | wc -l", &[]),
        bash("tar", TAR, &["tar"]),
        bash("gcc_make", GCC, &["gcc", "make"]),
        bash("git", GIT, &["git"]),
        bash("sqlite", SQLITE, &["sqlite3"]),
        bash("redis", REDIS, &["redis-server", "redis-benchmark"]),
        bash("nginx", NGINX, &["nginx", "python3"]),
        bash("postgresql", POSTGRESQL, &["pg_ctlcluster", "setpriv"]),
    ]
}

/// The first program that is missing.
pub fn missing(row: &Row) -> Option<&'static str> {
    let there = |name: &str| PATH.split(':').any(|dir| Path::new(dir).join(name).exists());
    row.needs.iter().copied().find(|name| !there(name))
}
