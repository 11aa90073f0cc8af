/* What cases about sockets share: a network of their own natively, addresses, connected pairs. */
#include "../case.h"
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/epoll.h>

typedef struct sockaddr SA;
typedef struct sockaddr_in IN4;
typedef struct sockaddr_in6 IN6;

/* Natively the host's own network may have ports in use and other settings. */
__attribute__((unused)) static void own_net(void) {
  if (unshare(CLONE_NEWNET) < 0) return;
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
  ioctl(s, SIOCSIFFLAGS, &r);
  close(s);
}

__attribute__((unused)) static IN4 v4(const char *ip, int port) {
  IN4 a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, ip, &a.sin_addr);
  return a;
}

__attribute__((unused)) static IN6 v6(const char *ip, int port) {
  IN6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  inet_pton(AF_INET6, ip, &a.sin6_addr);
  return a;
}

__attribute__((unused)) static struct sockaddr_un un(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  memcpy(a.sun_path, path, strlen(path + !*path) + !*path);
  return a;
}

__attribute__((unused)) static const char *ip_of(const void *address) {
  static char texts[4][80], ip[64];
  static int turn;
  char *text = texts[turn++ % 4];
  const SA *a = address;
  if (a->sa_family == AF_INET) {
    const IN4 *i = address;
    sprintf(text, "%s:%d", inet_ntop(AF_INET, &i->sin_addr, ip, sizeof ip), ntohs(i->sin_port));
  } else if (a->sa_family == AF_INET6) {
    const IN6 *i = address;
    sprintf(text, "[%s%%%d]:%d", inet_ntop(AF_INET6, &i->sin6_addr, ip, sizeof ip), i->sin6_scope_id, ntohs(i->sin6_port));
  } else sprintf(text, "family %d", a->sa_family);
  return text;
}

/* Prints own and peer's address; ports that nobody chose as 1. */
__attribute__((unused)) static void names(int fd) {
  struct sockaddr_storage a = {0};
  socklen_t n = sizeof a;
  long r = S(getsockname, fd, &a, &n);
  IN4 *i = (void *)&a;
  if (ntohs(i->sin_port) > 30000) i->sin_port = htons(1);
  out("name %ld len %d %s\n", r, n, ip_of(&a));
  n = sizeof a;
  memset(&a, 0, sizeof a);
  r = S(getpeername, fd, &a, &n);
  if (ntohs(i->sin_port) > 30000) i->sin_port = htons(1);
  if (r < 0) out("peer -%s\n", error_name(-r));
  else out("peer %ld len %d %s\n", r, n, ip_of(&a));
}

#define BIND4(s, ip, port) ({ IN4 a_ = v4(ip, port); report_result("bind " ip ":" #port, S(bind, s, &a_, sizeof a_), 0); })
#define BIND6(s, ip, port) ({ IN6 a_ = v6(ip, port); report_result("bind " ip ":" #port, S(bind, s, &a_, sizeof a_), 0); })
#define CONNECT4(s, ip, port) ({ IN4 a_ = v4(ip, port); report_result("connect " ip ":" #port, S(connect, s, &a_, sizeof a_), 0); })
#define CONNECT6(s, ip, port) ({ IN6 a_ = v6(ip, port); report_result("connect " ip ":" #port, S(connect, s, &a_, sizeof a_), 0); })

__attribute__((unused)) static int tcp(void) { return socket(AF_INET, SOCK_STREAM, 0); }
__attribute__((unused)) static int udp(void) { return socket(AF_INET, SOCK_DGRAM, 0); }

__attribute__((unused)) static int on(int s, int level, int name, int value) { return setsockopt(s, level, name, &value, sizeof value); }
__attribute__((unused)) static int get(int s, int level, int name) {
  int v = -12345;
  socklen_t n = sizeof v;
  return getsockopt(s, level, name, &v, &n) < 0 ? -errno : v;
}

__attribute__((unused)) static int listener(int port, int backlog) {
  int s = tcp();
  on(s, SOL_SOCKET, SO_REUSEADDR, 1);
  IN4 a = v4("127.0.0.1", port);
  bind(s, (SA *)&a, sizeof a);
  listen(s, backlog);
  return s;
}

/* A connection over TCP: fds[0] connected, fds[1] was accepted; the listener stays open. */
__attribute__((unused)) static int tcp_pair(int fds[2]) {
  int l = listener(4000, 9);
  IN4 a = v4("127.0.0.1", 4000);
  fds[0] = tcp();
  connect(fds[0], (SA *)&a, sizeof a);
  fds[1] = accept(l, 0, 0);
  return l;
}

__attribute__((unused)) static int events(int fd) {
  struct pollfd p = {fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0};
  poll(&p, 1, 0);
  return p.revents;
}

__attribute__((unused)) static int wait_for(int fd, int mask) {
  struct pollfd p = {fd, mask, 0};
  poll(&p, 1, 3000);
  return p.revents;
}

/* Prints the control messages of a message, sorted out by level and type. */
__attribute__((unused)) static void controls(struct msghdr *m) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
    out("control %d/%d len %d:", c->cmsg_level, c->cmsg_type, (int)(c->cmsg_len - sizeof *c));
    for (unsigned i = 0; i < c->cmsg_len - sizeof *c && i < 48; i++) out(" %02x", CMSG_DATA(c)[i]);
    out("\n");
  }
}
