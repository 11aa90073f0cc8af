/* Socket filters: what is a program, who may attach it, what it sees and what it leaves. */
#include "../case.h"
#include "net.h"
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#define N(list) (sizeof(list) / sizeof *(list))
static long attach(int s, struct sock_filter *list, int n) { struct sock_fprog p = {n, list}; return S(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p); }
#define ATTACH(s, ...) ({ struct sock_filter l_[] = {__VA_ARGS__}; V("attach", attach(s, l_, N(l_))); })
#define ST_ BPF_STMT
static int bound(int port) { int s = socket(AF_INET, SOCK_DGRAM, 0); BIND4(s, "127.0.0.1", port); return s; }
static void take(int s) { memset(buf, 0, 64); long r = S(recvfrom, s, buf, 64, MSG_DONTWAIT, 0, 0); if (r < 0) out("received -%s\n", error_name(-r)); else out("received %ld %.10s\n", r, buf); }
CASE(attach, checks) {
  int s = socket(AF_UNIX, SOCK_DGRAM, 0); struct sock_filter one[] = {ST_(BPF_RET | BPF_K, 1)}; struct sock_fprog p = {1, one};
  R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 3); R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 15); R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 17); R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, BAD, 16);
  p.len = 0; R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 16); p.len = 4097; R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 16); p.len = 1; p.filter = 0; R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 16); p.filter = BAD; R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 16);
  ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0)); ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0xfffff000), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0xfffff001), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0xfffff040), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0xffffffff), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_W | BPF_ABS, 0xfff00000), ST_(BPF_RET | BPF_A, 0));
  ATTACH(s, ST_(BPF_ALU | BPF_MOD | BPF_K, 0), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_ALU | BPF_MOD | BPF_K, 3), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_ALU | BPF_DIV | BPF_K, 0), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_ALU | BPF_LSH | BPF_K, 32), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_MEM, 16), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_MEM, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_ST, 1), ST_(BPF_LD | BPF_MEM, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_JMP | BPF_JA, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_JMP | BPF_JA, 0xffffffff), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(0xff, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LDX | BPF_W | BPF_ABS, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_LD | BPF_H | BPF_LEN, 1), ST_(BPF_RET | BPF_A, 0)); ATTACH(s, ST_(BPF_RET | BPF_X, 0));
}
CASE(attach, detach_lock_and_read) {
  int s = socket(AF_UNIX, SOCK_DGRAM, 0); struct sock_filter got[4] = {0}; socklen_t n = 0; int zero = 0;
  R(setsockopt, s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 4); R(setsockopt, s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 3); R(getsockopt, s, SOL_SOCKET, SO_GET_FILTER, got, &n); P(n);
  ATTACH(s, ST_(BPF_LD | BPF_W | BPF_LEN, 0), ST_(BPF_RET | BPF_A, 0)); n = 0; R(getsockopt, s, SOL_SOCKET, SO_GET_FILTER, got, &n); P(n); n = 1; R(getsockopt, s, SOL_SOCKET, SO_GET_FILTER, got, &n); P(n); n = 4; R(getsockopt, s, SOL_SOCKET, SO_GET_FILTER, got, &n); P(n); X(got[0].code); X(got[1].code); X(got[2].code); n = 2; R(getsockopt, s, SOL_SOCKET, SO_GET_FILTER, BAD, &n);
  R(setsockopt, s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 4); R(setsockopt, s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 4); ATTACH(s, ST_(BPF_RET | BPF_K, 9));
  P(get(s, SOL_SOCKET, SO_LOCK_FILTER)); P(on(s, SOL_SOCKET, SO_LOCK_FILTER, 0)); P(on(s, SOL_SOCKET, SO_LOCK_FILTER, 2)); P(get(s, SOL_SOCKET, SO_LOCK_FILTER)); P(on(s, SOL_SOCKET, SO_LOCK_FILTER, 0)); P(on(s, SOL_SOCKET, SO_LOCK_FILTER, 1)); ATTACH(s, ST_(BPF_RET | BPF_K, 9)); ATTACH(s, ST_(BPF_RET | BPF_X, 9)); R(setsockopt, s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 4); R(setsockopt, s, SOL_SOCKET, SO_ATTACH_FILTER, BAD, 16);
}
CASE(filter, udp) {
  own_net(); int a = bound(4100), b = socket(AF_INET, SOCK_DGRAM, 0); CONNECT4(b, "127.0.0.1", 4100);
  /* Those whose first byte is 'y'. */
  ATTACH(a, ST_(BPF_LD | BPF_B | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), ST_(BPF_RET | BPF_K, ~0), ST_(BPF_RET | BPF_K, 0));
  P(send(b, "yes", 3, 0)); P(send(b, "no", 2, 0)); P(send(b, "", 0, 0)); P(send(b, "yea", 3, 0)); take(a); take(a); take(a);
  /* Four bytes; less than a header; the ports; lengths in UDP's and IP's header; questions. */
  ATTACH(a, ST_(BPF_RET | BPF_K, 12)); send(b, "abcdefgh", 8, 0); take(a); ATTACH(a, ST_(BPF_RET | BPF_K, 1)); send(b, "abcdefgh", 8, 0); take(a);
#define SEEN(...) ATTACH(a, __VA_ARGS__, ST_(BPF_ALU | BPF_ADD | BPF_K, 8), ST_(BPF_RET | BPF_A, 0)); send(b, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 62, 0); take(a)
  SEEN(ST_(BPF_LD | BPF_H | BPF_ABS, 2), ST_(BPF_ALU | BPF_SUB | BPF_K, 4099)); SEEN(ST_(BPF_LD | BPF_H | BPF_ABS, 4)); SEEN(ST_(BPF_LD | BPF_W | BPF_LEN, 0)); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 9)); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 19)); SEEN(ST_(BPF_LDX | BPF_B | BPF_MSH, SKF_NET_OFF), ST_(BPF_MISC | BPF_TXA, 0)); SEEN(ST_(BPF_LD | BPF_H | BPF_ABS, SKF_LL_OFF + 12), ST_(BPF_ALU | BPF_RSH | BPF_K, 8)); SEEN(ST_(BPF_LD | BPF_H | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL), ST_(BPF_ALU | BPF_RSH | BPF_K, 8)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_IFINDEX)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_HATYPE), ST_(BPF_ALU | BPF_SUB | BPF_K, 770)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PAY_OFFSET)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT));
  SEEN(ST_(BPF_LD | BPF_IMM, 6), ST_(BPF_LDX | BPF_IMM, 5), ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_ALU_XOR_X)); SEEN(ST_(BPF_LDX | BPF_IMM, 2), ST_(BPF_LD | BPF_H | BPF_IND, 2)); SEEN(ST_(BPF_LDX | BPF_IMM, -2), ST_(BPF_LD | BPF_H | BPF_IND, 6)); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, 69)); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, 70)); SEEN(ST_(BPF_LD | BPF_IMM, 7), ST_(BPF_ALU | BPF_MOD | BPF_X, 0)); SEEN(ST_(BPF_LD | BPF_IMM, 13), ST_(BPF_ALU | BPF_MOD | BPF_K, 5)); SEEN(ST_(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_RANDOM), ST_(BPF_ALU | BPF_AND | BPF_K, 0));
}
CASE(filter, udp6) { own_net(); int a = socket(AF_INET6, SOCK_DGRAM, 0), b = socket(AF_INET6, SOCK_DGRAM, 0); BIND6(a, "::1", 4100); IN6 to = v6("::1", 4100); connect(b, (SA *)&to, sizeof to); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 6)); SEEN(ST_(BPF_LD | BPF_H | BPF_ABS, 2), ST_(BPF_ALU | BPF_SUB | BPF_K, 4090)); SEEN(ST_(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 39)); }
CASE(filter, unix) {
  int p[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, p); int a = p[0], b = p[1]; ATTACH(a, ST_(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), ST_(BPF_RET | BPF_K, 2), ST_(BPF_RET | BPF_K, 0)); P(send(b, "yes", 3, 0)); P(send(b, "no", 2, 0)); P(send(b, "", 0, 0)); P(send(b, "yea", 3, 0)); take(a); take(a); take(a);
  socketpair(AF_UNIX, SOCK_SEQPACKET, 0, p); ATTACH(p[0], ST_(BPF_LD | BPF_W | BPF_LEN, 0), ST_(BPF_ALU | BPF_SUB | BPF_K, 1), ST_(BPF_RET | BPF_A, 0)); P(send(p[1], "abc", 3, 0)); P(send(p[1], "a", 1, 0)); P(send(p[1], "ab", 2, 0)); take(p[0]); take(p[0]); take(p[0]);
  socketpair(AF_UNIX, SOCK_STREAM, 0, p); ATTACH(p[0], ST_(BPF_RET | BPF_K, 0)); P(send(p[1], "abc", 3, 0)); take(p[0]);
}
CASE(filter, netlink) {
  own_net(); int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); ATTACH(s, ST_(BPF_LD | BPF_H | BPF_ABS, 4), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1000, 0, 1), ST_(BPF_RET | BPF_K, ~0), ST_(BPF_RET | BPF_K, 0));
  struct { struct nlmsghdr h; struct ifinfomsg i; } q = {{sizeof q, RTM_GETLINK, NLM_F_REQUEST, 7}, {.ifi_index = 1}}; P(send(s, &q, sizeof q, 0)); out("%s\n", error_name(-S(recvfrom, s, buf, 64, MSG_DONTWAIT, 0, 0))); q.i.ifi_index = 99; P(send(s, &q, sizeof q, 0)); out("%s\n", error_name(-S(recvfrom, s, buf, 64, MSG_DONTWAIT, 0, 0))); int zero = 0; setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &zero, 4); P(send(s, &q, sizeof q, 0)); P(recv(s, buf, 64, MSG_DONTWAIT) > 0);
}
CASE(filter, reuse_port) {
  own_net(); int s[3], c = socket(AF_INET, SOCK_DGRAM, 0); struct sock_filter first[] = {ST_(BPF_LD | BPF_B | BPF_ABS, 0), ST_(BPF_ALU | BPF_SUB | BPF_K, '0'), ST_(BPF_RET | BPF_A, 0)}; struct sock_fprog p = {3, first}; int zero = 0;
  int x = socket(AF_INET, SOCK_DGRAM, 0); R(setsockopt, x, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16); R(setsockopt, x, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, 4); BIND4(x, "127.0.0.1", 4200); R(setsockopt, x, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16); on(x, SOL_SOCKET, SO_REUSEPORT, 1); R(setsockopt, x, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16);
  for (int i = 0; i < 3; i++) { s[i] = socket(AF_INET, SOCK_DGRAM, 0); on(s[i], SOL_SOCKET, SO_REUSEPORT, 1); BIND4(s[i], "127.0.0.1", 4100); }
  R(setsockopt, s[1], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, 4); R(setsockopt, s[1], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 3); R(setsockopt, s[1], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 15); p.len = 1; R(setsockopt, s[1], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16); p.len = 3; R(setsockopt, s[1], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16);
  CONNECT4(c, "127.0.0.1", 4100); send(c, "2", 1, 0); send(c, "0", 1, 0); send(c, "1", 1, 0); send(c, "0again", 6, 0); for (int i = 0; i < 3; i++) { take(s[i]); take(s[i]); }
  R(setsockopt, s[0], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, 4); R(setsockopt, s[0], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, 4); int u = socket(AF_UNIX, SOCK_DGRAM, 0); R(setsockopt, u, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16);
}
CASE(filter, reuse_port_before_bind) {
  own_net(); int s[2], l[2]; struct sock_filter second[] = {ST_(BPF_RET | BPF_K, 1)}; struct sock_fprog p = {1, second};
  for (int i = 0; i < 2; i++) { s[i] = socket(AF_INET, SOCK_DGRAM, 0); on(s[i], SOL_SOCKET, SO_REUSEPORT, 1); if (!i) R(setsockopt, s[i], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16); BIND4(s[i], "127.0.0.1", 4100); }
  for (int i = 0; i < 9; i++) { int c = socket(AF_INET, SOCK_DGRAM, 0); CONNECT4(c, "127.0.0.1", 4100); send(c, "x", 1, 0); close(c); } int n = 0; while (recv(s[0], buf, 9, MSG_DONTWAIT) > 0) n++; P(n); n = 0; while (recv(s[1], buf, 9, MSG_DONTWAIT) > 0) n++; P(n);
  for (int i = 0; i < 2; i++) { l[i] = socket(AF_INET, SOCK_STREAM, 0); on(l[i], SOL_SOCKET, SO_REUSEPORT, 1); BIND4(l[i], "127.0.0.1", 4300); listen(l[i], 9); } R(setsockopt, l[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, 16); for (int i = 0; i < 5; i++) { int c = socket(AF_INET, SOCK_STREAM, 0); CONNECT4(c, "127.0.0.1", 4300); } fcntl(l[0], F_SETFL, O_NONBLOCK); fcntl(l[1], F_SETFL, O_NONBLOCK); n = 0; while (accept(l[0], 0, 0) >= 0) n++; P(n); n = 0; while (accept(l[1], 0, 0) >= 0) n++; P(n);
}
