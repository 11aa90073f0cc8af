/* What sockets tell of packets: times of arrival and of sending, sends without copying, the error queue. */
#include "../case.h"
#include "net.h"
#include <linux/net_tstamp.h>

static int bound(int port) { int s = udp(); IN4 a = v4("127.0.0.1", port); bind(s, (SA *)&a, sizeof a); return s; }
static void to(int s, int port) { IN4 a = v4("127.0.0.1", port); connect(s, (SA *)&a, sizeof a); }
static int stamping(int s, int flags) { return on(s, SOL_SOCKET, SO_TIMESTAMPING, flags) < 0 ? -errno : 0; }
enum { RX = SOF_TIMESTAMPING_RX_SOFTWARE, TX = SOF_TIMESTAMPING_TX_SOFTWARE, SOFT = SOF_TIMESTAMPING_SOFTWARE, ID = SOF_TIMESTAMPING_OPT_ID, ONLY = SOF_TIMESTAMPING_OPT_TSONLY, SCHED = SOF_TIMESTAMPING_TX_SCHED, ACK = SOF_TIMESTAMPING_TX_ACK };
/* Receives; prints result, flags and the controls, times as whether they are within ten minutes of now. */
static void told(int s, int flags) {
  char room[600] = {0};
  struct sockaddr_storage name;
  struct iovec v = {buf, 2000};
  struct msghdr m = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  long r = S(recvmsg, s, &m, flags | MSG_DONTWAIT);
  if (r < 0) { V("recvmsg", r); return; }
  out("got %ld flags %#x name %d\n", r, m.msg_flags, m.msg_namelen);
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    long *t = (long *)CMSG_DATA(c);
    int len = c->cmsg_len - sizeof *c;
    if (c->cmsg_level == SOL_SOCKET) {
      out("control %d len %d:", c->cmsg_type, len);
      for (int i = 0; i + 1 < len / 8; i += 2) out(" %s", t[i] == 0 && t[i + 1] == 0 ? "none" : t[i] > time(0) - 600 && t[i] < time(0) + 600 ? "now" : "wrong");
      out("\n");
    } else {
      struct sock_extended_err *e = (void *)t;
      out("error %d/%d len %d: errno %u origin %u type %u code %u info %u data %u from %d\n", c->cmsg_level, c->cmsg_type, len, e->ee_errno, e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data, ((SA *)SO_EE_OFFENDER(e))->sa_family);
    }
  }
}
/* The host begins to stamp a little after somebody has asked for it. */
static void begin(int from, int to) {
  for (int i = 0; i < 400; i++) {
    char room[300] = {0};
    struct iovec v = {buf, 99};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    send(from, "first", 5, 0);
    if (recvmsg(to, &m, 0) < 0) return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) if (c->cmsg_type == SO_TIMESTAMPING) return;
    nap(5);
  }
}
static void later(int s) { X(wait_for(s, 0) & POLLERR); told(s, MSG_ERRQUEUE); }

CASE(timestamping, flags) { int s = udp(), t = tcp(); for (int i = 0; i < 15; i++) { if (i == 15) continue; out("%d: %s %s\n", i, error_name(-stamping(s, 1 << i)), error_name(-stamping(t, 1 << i))); } P(stamping(s, 1 << 30)); P(stamping(s, -1)); P(stamping(s, SOF_TIMESTAMPING_OPT_STATS | ONLY)); int v[2] = {9, 9}; socklen_t n = 8; P(stamping(s, RX | SOFT)); R(getsockopt, s, SOL_SOCKET, SO_TIMESTAMPING, v, &n); P(n); X(v[0]); P(v[1]); n = 4; R(getsockopt, s, SOL_SOCKET, SO_TIMESTAMPING, v, &n); P(n); R(setsockopt, s, SOL_SOCKET, SO_TIMESTAMPING, v, 3); }
CASE(timestamping, numbered_streams) { own_net(); int t = tcp(), fds[2]; P(stamping(t, ID | TX)); int l = tcp_pair(fds); P(stamping(l, ID | TX)); P(stamping(fds[0], ID | TX)); P(stamping(fds[1], ID | SOF_TIMESTAMPING_OPT_ID)); P(stamping(fds[1], 1 << 16)); }
CASE(timestamping, arrival) { own_net(); int a = bound(4100), b = udp(); to(b, 4100); P(stamping(a, RX | SOFT)); begin(b, a); send(b, "x", 1, 0); told(a, 0); P(stamping(a, RX)); send(b, "x", 1, 0); told(a, 0); on(a, SOL_SOCKET, SO_TIMESTAMPNS, 1); P(stamping(a, RX | SOFT)); send(b, "x", 1, 0); told(a, MSG_PEEK); told(a, 0); on(a, SOL_SOCKET, SO_TIMESTAMP, 0); P(stamping(a, 0)); send(b, "x", 1, 0); told(a, 0); }
CASE(timestamping, arrival_unix) { int f[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, f); P(stamping(f[1], RX | SOFT)); send(f[0], "x", 1, 0); told(f[1], 0); on(f[1], SOL_SOCKET, SO_TIMESTAMP, 1); send(f[0], "x", 1, 0); told(f[1], 0); P(stamping(f[0], TX | SOFT)); send(f[0], "x", 1, 0); told(f[0], MSG_ERRQUEUE); }
CASE(timestamp, forms) { own_net(); int a = bound(4100), b = udp(), names_[] = {29, 35, 63, 64}; to(b, 4100); for (int i = 0; i < 4; i++) { on(a, SOL_SOCKET, names_[i], 1); for (int k = 0; k < 4; k++) out(" %d", get(a, SOL_SOCKET, names_[k])); out("\n"); send(b, "x", 1, 0); told(a, 0); } on(a, SOL_SOCKET, 29, 0); for (int k = 0; k < 4; k++) out(" %d", get(a, SOL_SOCKET, names_[k])); out("\n"); }
CASE(timestamp, set_late) { own_net(); int a = bound(4100), b = udp(); to(b, 4100); send(b, "x", 1, 0); on(a, SOL_SOCKET, SO_TIMESTAMP, 1); told(a, 0); on(a, SOL_SOCKET, SO_TIMESTAMP, 0); send(b, "y", 1, 0); told(a, 0); }
CASE(timestamp, streams) { own_net(); int f[2]; tcp_pair(f); on(f[1], SOL_SOCKET, SO_TIMESTAMP, 1); send(f[0], "x", 1, 0); wait_for(f[1], POLLIN); told(f[1], 0); P(stamping(f[1], RX | SOFT)); begin(f[0], f[1]); send(f[0], "x", 1, 0); wait_for(f[1], POLLIN); told(f[1], 0); on(f[1], SOL_SOCKET, SO_TIMESTAMP, 0); P(stamping(f[1], 0)); send(f[0], "x", 1, 0); wait_for(f[1], POLLIN); told(f[1], 0); }
CASE(timestamping, sent) { own_net(); bound(4100); int b = udp(); to(b, 4100); P(stamping(b, TX | SOFT | ONLY)); send(b, "abc", 3, 0); later(b); told(b, MSG_ERRQUEUE); X(events(b)); send(b, "abc", 3, 0); later(b); P(stamping(b, TX | SOFT | ONLY | ID)); for (int i = 0; i < 3; i++) { send(b, "abc", 3, 0); later(b); } P(stamping(b, TX | ONLY)); send(b, "abc", 3, 0); later(b); }
CASE(timestamping, sent_packet) { own_net(); bound(4100); int b = udp(); to(b, 4100); P(stamping(b, TX | SOFT)); send(b, "tail", 4, 0); X(wait_for(b, 0)); told(b, MSG_ERRQUEUE); show_bytes("ethernet", buf, 14); show_bytes("addresses", buf + 26, 8); show_bytes("end", buf + 42, 4); int c = socket(AF_INET6, SOCK_DGRAM, 0); IN6 a = v6("::1", 4101); connect(c, (SA *)&a, sizeof a); int d = socket(AF_INET6, SOCK_DGRAM, 0); bind(d, (SA *)&a, sizeof a); P(stamping(c, TX | SOFT)); send(c, "tail", 4, 0); X(wait_for(c, 0)); told(c, MSG_ERRQUEUE); show_bytes("ethernet", buf, 14); show_bytes("end", buf + 62, 4); }
CASE(timestamping, queued_and_sent) { own_net(); bound(4100); int b = udp(); to(b, 4100); P(stamping(b, TX | SCHED | SOFT | ONLY | ID)); send(b, "abc", 3, 0); later(b); later(b); told(b, MSG_ERRQUEUE); }
CASE(timestamping, by_message) { own_net(); bound(4100); int b = udp(); to(b, 4100); P(stamping(b, SOFT | ONLY | ID)); struct { struct cmsghdr h; unsigned flags, pad; } c = {{CMSG_LEN(4), SOL_SOCKET, SO_TIMESTAMPING}, TX, 0}; struct iovec v = {"x", 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c}; R(sendmsg, b, &m, 0); later(b); send(b, "x", 1, 0); told(b, MSG_ERRQUEUE); c.flags = RX; R(sendmsg, b, &m, 0); c.flags = TX; c.h.cmsg_len = CMSG_LEN(5); R(sendmsg, b, &m, 0); c.h.cmsg_type = SCM_RIGHTS; c.h.cmsg_len = CMSG_LEN(4); R(sendmsg, b, &m, 0); c.h.cmsg_type = 99; R(sendmsg, b, &m, 0); c.h.cmsg_type = SO_TXTIME; R(sendmsg, b, &m, 0); int f[2]; tcp_pair(f); R(sendmsg, f[0], &m, 0); c.h.cmsg_level = 77; R(sendmsg, f[0], &m, 0); }
CASE(timestamping, sent_stream) { own_net(); int f[2]; tcp_pair(f); P(stamping(f[0], TX | ACK | SOFT | ONLY | ID)); send(f[0], "abcde", 5, 0); wait_for(f[0], 0); nap(60); int keys = 0; for (int i = 0; i < 2; i++) { char room[300]; struct iovec v = {buf, 99}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room}; if (S(recvmsg, f[0], &m, MSG_ERRQUEUE) < 0) break; for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) if (c->cmsg_level == SOL_IP) { struct sock_extended_err *e = (void *)CMSG_DATA(c); keys |= 1 << e->ee_info; P(e->ee_data); } } X(keys); }

CASE(zerocopy, option) { int list[] = {tcp(), udp(), socket(AF_INET6, SOCK_STREAM, 0), socket(AF_UNIX, SOCK_STREAM, 0), socket(AF_UNIX, SOCK_DGRAM, 0)}; for (int i = 0; i < 5; i++) { int v = 1; R(setsockopt, list[i], SOL_SOCKET, SO_ZEROCOPY, &v, 4); P(get(list[i], SOL_SOCKET, SO_ZEROCOPY)); v = 2; R(setsockopt, list[i], SOL_SOCKET, SO_ZEROCOPY, &v, 4); v = -1; R(setsockopt, list[i], SOL_SOCKET, SO_ZEROCOPY, &v, 4); v = 0; R(setsockopt, list[i], SOL_SOCKET, SO_ZEROCOPY, &v, 4); } }
CASE(zerocopy, stream) { own_net(); int f[2]; tcp_pair(f); P(send(f[0], "not yet", 7, MSG_ZEROCOPY)); told(f[0], MSG_ERRQUEUE); P(on(f[0], SOL_SOCKET, SO_ZEROCOPY, 1)); P(send(f[0], "plain", 5, 0)); told(f[0], MSG_ERRQUEUE); P(send(f[0], buf, 40000, MSG_ZEROCOPY)); P(recv(f[1], buf, 40012, MSG_WAITALL)); later(f[0]); told(f[0], MSG_ERRQUEUE); X(events(f[0]) & POLLERR); P(get(f[0], SOL_SOCKET, SO_ERROR)); P(send(f[0], buf, 100, MSG_ZEROCOPY)); P(recv(f[1], buf, 100, MSG_WAITALL)); later(f[0]); P(send(f[0], "", 0, MSG_ZEROCOPY)); told(f[0], MSG_ERRQUEUE); }
CASE(zerocopy, ranges) { own_net(); int f[2], first = -1, next = 0, joined = 1; tcp_pair(f); on(f[0], SOL_SOCKET, SO_ZEROCOPY, 1); for (int i = 0; i < 5; i++) { send(f[0], buf, 100, MSG_ZEROCOPY); recv(f[1], buf, 100, MSG_WAITALL); } for (int i = 0; i < 200 && next < 5; i++) { char room[300]; struct iovec v = {buf, 99}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room}; if (S(recvmsg, f[0], &m, MSG_ERRQUEUE) < 0) { nap(10); continue; } struct sock_extended_err *e = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m)); if (first < 0) first = e->ee_info; joined &= (int)e->ee_info == next && e->ee_data >= e->ee_info; next = e->ee_data + 1; } P(first); P(next); P(joined); }
CASE(zerocopy, datagram) { own_net(); int a = bound(4100), b = udp(); to(b, 4100); P(on(b, SOL_SOCKET, SO_ZEROCOPY, 1)); P(send(b, buf, 1000, MSG_ZEROCOPY)); P(recv(a, buf, 2000, 0)); later(b); P(send(b, buf, 1000, 0)); told(b, MSG_ERRQUEUE); }
CASE(txtime, option) { int s = udp(); struct { int clock; unsigned flags; } t = {CLOCK_MONOTONIC, 0}; R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 8); t.flags = 4; R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 8); t.flags = 3; t.clock = CLOCK_TAI; R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 8); R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 4); R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 9); socklen_t n = 8; memset(&t, 9, 8); R(getsockopt, s, SOL_SOCKET, SO_TXTIME, &t, &n); P(t.clock); P(t.flags); if (fork() == 0) { become(1000, 1000); t.clock = CLOCK_TAI; R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 8); t.clock = CLOCK_MONOTONIC; R(setsockopt, s, SOL_SOCKET, SO_TXTIME, &t, 8); _exit(0); } wait(0); }
CASE(errqueue, select) { own_net(); int s = udp(); on(s, SOL_IP, IP_RECVERR, 1); to(s, 4199); P(on(s, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1)); send(s, "x", 1, 0); X(wait_for(s, POLLPRI)); told(s, MSG_ERRQUEUE); X(events(s)); P(get(s, SOL_SOCKET, SO_SELECT_ERR_QUEUE)); told(s, MSG_ERRQUEUE); }
CASE(errqueue, order) { own_net(); int s = udp(); on(s, SOL_IP, IP_RECVERR, 1); IN4 a = v4("127.0.0.1", 4191), b = v4("127.0.0.1", 4192); sendto(s, "one", 3, 0, (SA *)&a, sizeof a); sendto(s, "three", 5, 0, (SA *)&b, sizeof b); sendto(s, "three", 5, 0, (SA *)&b, sizeof b); told(s, MSG_ERRQUEUE); told(s, MSG_ERRQUEUE); told(s, MSG_ERRQUEUE); X(events(s)); told(s, 0); }
