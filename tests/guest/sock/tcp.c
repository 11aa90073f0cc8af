/* What TCP holds back: `MSG_MORE` and `TCP_CORK`; what filters drop, which is sent again. */
#include "../case.h"
#include "net.h"
#include <linux/filter.h>
#include <linux/sockios.h>
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
/* The kernel holds nothing back for longer than 200 ms: what took longer is done again with a new pair. */
#define SOON(...) do { for (int turn_ = 0;; turn_++) { int p[2], l = tcp_pair(p); text[0] = 0; long t_ = now_ms(); __VA_ARGS__; if (now_ms() - t_ < 150 || turn_ == 50) { out("%s", text); AFTER; close(p[0]); close(p[1]); close(l); break; } close(p[0]); close(p[1]); close(l); } } while (0)
static char text[1000], big[200000];
#define NOTE(...) sprintf(text + strlen(text), __VA_ARGS__)
static void look(int *p) { int n = -1, q = -1; ioctl(p[1], FIONREAD, &n); ioctl(p[0], SIOCOUTQ, &q); long r = S(recvfrom, p[1], buf, 1, MSG_DONTWAIT | MSG_PEEK, 0, 0); NOTE("to read %d, sent %d, events %x, %s\n", n, q, events(p[1]), r < 0 ? error_name(-r) : "there"); }
/* All that comes until the end, or until n bytes came. */
static void all(int s, int n) { int got = 0; long r = 1; while (got < n && (wait_for(s, POLLIN), r = S(recvfrom, s, big + got, n - got, MSG_DONTWAIT, 0, 0)) > 0) got += r; big[got < 20 ? got : 20] = 0; out("got %d %s %s\n", got, big, r < 0 ? error_name(-r) : r ? "" : "end"); }
CASE(more, waits_for_the_next) {
  own_net();
#define AFTER all(p[1], 3)
  SOON(NOTE("%zd\n", send(p[0], "a", 1, MSG_MORE)); look(p); NOTE("%zd\n", send(p[0], "b", 1, MSG_MORE)); look(p); NOTE("%zd\n", send(p[0], "c", 1, 0)));
#undef AFTER
}
CASE(more, comes_in_the_end) {
  own_net(); int p[2]; tcp_pair(p); P(send(p[0], "late", 4, MSG_MORE)); all(p[1], 4);
  P(send(p[0], "over", 4, MSG_MORE)); shutdown(p[0], SHUT_WR); all(p[1], 9);
}
CASE(more, ends_with_the_sender) { own_net(); int p[2]; tcp_pair(p); P(send(p[0], "last", 4, MSG_MORE)); close(p[0]); all(p[1], 9); }
CASE(more, whole_segments_go) {
  own_net(); int n = 0; for (int i = 0; i < (int)sizeof big; i++) big[i] = 'a' + i % 23;
#define AFTER all(p[1], 100001)
  SOON(on(p[0], IPPROTO_TCP, TCP_CORK, 1); send(p[0], big, 100000, 0); for (int i = 0; i < 2000 && n <= 0; i++) ioctl(p[1], FIONREAD, &n); NOTE("something %d, not all %d\n", n > 0, n < 100000); on(p[0], IPPROTO_TCP, TCP_CORK, 0); send(p[0], "z", 1, 0));
#undef AFTER
}
CASE(more, urgent_data_goes) { own_net(); int p[2]; tcp_pair(p); P(send(p[0], "ab", 2, MSG_MORE | MSG_OOB)); X(wait_for(p[1], POLLPRI)); R(recvfrom, p[1], buf, 9, 0, 0, 0); R(recvfrom, p[1], buf, 9, MSG_OOB, 0, 0); }
CASE(cork, holds_until_it_is_out) {
  own_net(); int t = tcp(); P(get(t, IPPROTO_TCP, TCP_CORK)); P(on(t, IPPROTO_TCP, TCP_CORK, 7)); P(get(t, IPPROTO_TCP, TCP_CORK));
#define AFTER all(p[1], 2)
  SOON(on(p[0], IPPROTO_TCP, TCP_CORK, 1); send(p[0], "a", 1, 0); look(p); send(p[0], "b", 1, 0); look(p); on(p[0], IPPROTO_TCP, TCP_CORK, 0));
  SOON(on(p[0], IPPROTO_TCP, TCP_CORK, 1); send(p[0], "a", 1, 0); look(p); on(p[0], IPPROTO_TCP, TCP_CORK, 1); look(p); write(p[0], "b", 1); NOTE("%d\n", on(p[0], IPPROTO_TCP, TCP_NODELAY, 0)); look(p); on(p[0], IPPROTO_TCP, TCP_NODELAY, 1); NOTE("%d\n", get(p[0], IPPROTO_TCP, TCP_CORK)));
#undef AFTER
}
CASE(cork, of_a_listener) { own_net(); int l = listener(4010, 3), c = tcp(); on(l, IPPROTO_TCP, TCP_CORK, 1); CONNECT4(c, "127.0.0.1", 4010); int a = accept(l, 0, 0); P(get(a, IPPROTO_TCP, TCP_CORK)); P(get(c, IPPROTO_TCP, TCP_CORK)); send(a, "x", 1, 0); all(c, 1); }
CASE(cork, the_reader_goes_away) {
  own_net();
#define AFTER out("%s\n", error_name(wait_for(p[0], POLLHUP) & POLLHUP ? -S(recvfrom, p[0], buf, 9, 0, 0, 0) : 0))
  SOON(send(p[0], "a", 1, MSG_MORE); close(p[1]); p[1] = dup(0); NOTE("%zd\n", S(sendto, p[0], "b", 1, MSG_NOSIGNAL, 0, 0)));
#undef AFTER
}
static int filter(int s, int length) { struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, length)}; struct sock_fprog p = {1, f}; return setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p); }
static int no_filter(int s) { int zero = 0; return setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof zero); }
CASE(filter, drops_data) {
  own_net(); int p[2]; tcp_pair(p); P(filter(p[1], 0)); P(send(p[0], "abc", 3, 0)); look(p); out("%s", text); P(send(p[0], "def", 3, 0)); P(no_filter(p[1])); all(p[1], 6); P(send(p[0], "ghi", 3, 0)); all(p[1], 3);
  /* What came before stays; the end of the stream is dropped as well. */
  P(send(p[0], "old", 3, 0)); X(wait_for(p[1], POLLIN)); P(filter(p[1], 0)); P(send(p[0], "new", 3, 0)); shutdown(p[0], SHUT_WR); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); P(no_filter(p[1])); all(p[1], 9);
}
CASE(filter, drops_the_end) { own_net(); int p[2]; tcp_pair(p); P(filter(p[1], 0)); shutdown(p[0], SHUT_WR); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); X(events(p[1])); P(no_filter(p[1])); all(p[1], 9); }
CASE(filter, cuts_data) {
  own_net(); int p[2]; tcp_pair(p); P(filter(p[1], 34)); P(send(p[0], "abcdefgh", 8, 0)); X(wait_for(p[1], POLLIN)); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); P(no_filter(p[1])); all(p[1], 6);
  P(filter(p[1], 1)); P(send(p[0], "abcdefgh", 8, 0)); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); P(no_filter(p[1])); all(p[1], 8);
}
CASE(filter, sees_segments) {
  own_net(); int p[2]; tcp_pair(p); struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PAY_OFFSET), BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), BPF_STMT(BPF_RET | BPF_K, -1), BPF_STMT(BPF_RET | BPF_K, 0)}; struct sock_fprog prog = {6, f};
  R(setsockopt, p[1], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog); P(send(p[0], "yes", 3, 0)); all(p[1], 3); P(send(p[0], "no", 2, 0)); R(recvfrom, p[1], buf, 9, MSG_DONTWAIT, 0, 0); X(events(p[1]));
}
CASE(filter, of_a_listener) {
  own_net(); int l = listener(4020, 3), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); P(filter(l, 0)); CONNECT4(c, "127.0.0.1", 4020); P(get(c, SOL_SOCKET, SO_ERROR)); X(events(c)); X(events(l)); CONNECT4(c, "127.0.0.1", 4020); P(no_filter(l)); X(wait_for(c, POLLOUT)); P(get(c, SOL_SOCKET, SO_ERROR)); P(accept(l, 0, 0) >= 0);
  int d = tcp(); P(filter(l, 999)); CONNECT4(d, "127.0.0.1", 4020); int a = accept(l, 0, 0); P(no_filter(a)); P(no_filter(a)); P(no_filter(l));
}
