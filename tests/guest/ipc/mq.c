/* POSIX message queues: order, limits, notification, waiting, errors. */
#include "print.h"
#include <mqueue.h>
#include <poll.h>
#include <sys/resource.h>

static char name[64], buf[9000];
static void nothing(int s) {}
static volatile int told;
static void on_told(int s, siginfo_t *i, void *c) {
  told = i->si_code == SI_MESGQ ? i->si_value.sival_int : -1;
}
static void attr(mqd_t q) {
  struct mq_attr a;
  if (mq_getattr(q, &a)) printf("getattr %d\n", errno);
  else printf("flags %lx max %ld size %ld now %ld\n", a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
}
static void rcv(mqd_t q) {
  unsigned p = 99;
  memset(buf, 0, sizeof buf);
  errno = 0;
  ssize_t n = mq_receive(q, buf, sizeof buf, &p);
  printf("got %zd %d <%s> prio %u\n", n, errno, buf, p);
}
static void after(struct timespec *t, int millis) {
  clock_gettime(CLOCK_REALTIME, t);
  t->tv_nsec += millis * 1000000L;
  t->tv_sec += t->tv_nsec / 1000000000;
  t->tv_nsec %= 1000000000;
}
int main(void) {
  sprintf(name, "/rf-mq-%d", getpid());
  struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 100};
  E("none", mq_open(name, O_RDWR));
  E("slash", syscall(SYS_mq_open, "a/b", O_CREAT | O_RDWR, 0600, 0));
  E("dot", syscall(SYS_mq_open, "..", O_CREAT | O_RDWR, 0600, 0));
  E("empty", syscall(SYS_mq_open, "", O_CREAT | O_RDWR, 0600, 0));
  char longname[300];
  memset(longname, 'x', 299);
  longname[299] = 0;
  E("long", syscall(SYS_mq_open, longname, O_CREAT | O_RDWR, 0600, 0));
  E("fault", syscall(SYS_mq_open, 8, O_CREAT | O_RDWR, 0600, 0));
  E("attr fault", syscall(SYS_mq_open, name + 1, O_CREAT | O_RDWR, 0600, 8));
  a.mq_maxmsg = 0;
  E("maxmsg 0", mq_open(name, O_CREAT | O_RDWR, 0600, &a));
  a.mq_maxmsg = 70000;
  E("maxmsg 70000", mq_open(name, O_CREAT | O_RDWR, 0600, &a));
  a.mq_maxmsg = 4;
  a.mq_msgsize = 1 << 25;
  E("msgsize", mq_open(name, O_CREAT | O_RDWR, 0600, &a));
  a.mq_msgsize = 100;
  mqd_t q = OK("open", mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0640, &a));
  E("excl", mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &a));
  E("access 3", mq_open(name, 3));
  printf("cloexec %d\n", fcntl(q, F_GETFD));
  struct stat st;
  fstat(q, &st);
  printf("mode %o size %ld uid %d\n", st.st_mode, (long)st.st_size, st.st_uid);
  attr(q);
  E("empty", mq_receive(q, buf, sizeof buf, 0));
  E("small buffer", mq_receive(q, buf, 99, 0));
  E("too long", mq_send(q, buf, 101, 0));
  E("priority", mq_send(q, buf, 1, 32768));
  E("send fault", syscall(SYS_mq_timedsend, q, 8, 10, 0, 0));
  E("low", mq_send(q, "low", 3, 1));
  E("high", mq_send(q, "high", 4, 9));
  E("low again", mq_send(q, "low again", 9, 1));
  E("top", mq_send(q, "", 0, 32767));
  E("full", mq_send(q, "x", 1, 0));
  attr(q);
  struct pollfd pf = {q, POLLIN | POLLOUT, 0};
  poll(&pf, 1, 0);
  printf("poll %x\n", pf.revents);
  char line[100] = "";
  pread(q, line, 99, 0);
  fputs(line, stdout);
  rcv(q);
  rcv(q);
  poll(&pf, 1, 0);
  printf("poll %x\n", pf.revents);
  rcv(q);
  rcv(q);
  rcv(q);
  poll(&pf, 1, 0);
  printf("poll %x\n", pf.revents);
  mqd_t r = OK("read only", mq_open(name, O_RDONLY)), w = OK("write only", mq_open(name, O_WRONLY));
  E("send to read only", mq_send(r, "x", 1, 0));
  E("receive from write only", mq_receive(w, buf, sizeof buf, 0));
  E("no queue", mq_send(0, "x", 1, 0));
  E("closed", mq_send(99, "x", 1, 0));
  struct timespec t;
  after(&t, 30);
  E("timed out", mq_timedreceive(r, buf, sizeof buf, 0, &t));
  t.tv_sec = 1;
  E("past", mq_timedreceive(r, buf, sizeof buf, 0, &t));
  t.tv_nsec = 1000000000;
  E("bad time", mq_timedreceive(r, buf, sizeof buf, 0, &t));
  E("time fault", syscall(SYS_mq_timedreceive, r, buf, sizeof buf, 0, 8));
  fflush(stdout);
  pid_t p = fork();
  if (!p) _exit(mq_receive(r, buf, sizeof buf, 0) == 5 && !strcmp(buf, "hello") ? 77 : errno);
  wait_asleep(p);
  E("wakes", mq_send(w, "hello", 5, 3));
  int status;
  waitpid(p, &status, 0);
  printf("receiver %d\n", WEXITSTATUS(status));
  for (int i = 0; i < 4; i++) mq_send(w, "fill", 4, 0);
  fflush(stdout);
  p = fork();
  if (!p) _exit(mq_send(w, "late", 4, 0) ? errno : 78);
  wait_asleep(p);
  rcv(q);
  waitpid(p, &status, 0);
  printf("sender %d\n", WEXITSTATUS(status));
  for (int i = 0; i < 4; i++) rcv(q);
  struct sigaction sa = {.sa_handler = nothing};
  sigaction(SIGUSR1, &sa, 0);
  p = fork();
  if (!p) _exit(mq_receive(r, buf, sizeof buf, 0) < 0 ? errno : 1);
  wait_asleep(p);
  kill(p, SIGUSR1);
  waitpid(p, &status, 0);
  printf("interrupted %d\n", WEXITSTATUS(status));

  struct sigaction ta = {.sa_sigaction = on_told, .sa_flags = SA_SIGINFO};
  sigaction(SIGUSR2, &ta, 0);
  struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value = {.sival_int = 4711}};
  E("notify", mq_notify(q, &ev));
  E("busy", mq_notify(q, &ev));
  CHILD(E("busy for others", mq_notify(q, &ev)));
  pread(q, line, 99, 0);
  printf("registered %d\n", strstr(line, "SIGNO:12") != 0);
  E("send", mq_send(w, "tell", 4, 0));
  printf("told %d\n", told);
  told = 0;
  E("send", mq_send(w, "tell", 4, 0));
  printf("once %d\n", told);
  rcv(q);
  rcv(q);
  E("notify", mq_notify(q, &ev));
  E("end", mq_notify(q, 0));
  E("send", mq_send(w, "tell", 4, 0));
  printf("ended %d\n", told);
  rcv(q);
  ev.sigev_notify = 77;
  E("bad kind", mq_notify(q, &ev));
  ev.sigev_notify = SIGEV_SIGNAL;
  ev.sigev_signo = 99;
  E("bad signal", mq_notify(q, &ev));
  ev.sigev_notify = SIGEV_NONE;
  E("none", mq_notify(q, &ev));
  E("none busy", mq_notify(q, &ev));
  E("end", mq_notify(q, 0));
  E("notify of no queue", mq_notify(0, &ev));

  a.mq_flags = O_NONBLOCK | 1;
  E("set bad", mq_setattr(r, &a, 0));
  a.mq_flags = O_NONBLOCK;
  E("set", mq_setattr(r, &a, 0));
  attr(r);
  E("now empty", mq_receive(r, buf, sizeof buf, 0));
  CHILD({
    setgid(1234);
    setuid(1234);
    E("other user", mq_open(name, O_RDONLY));
    E("unlink of others", syscall(SYS_mq_unlink, name + 1));
    struct mq_attr big = {.mq_maxmsg = 11, .mq_msgsize = 10};
    E("more than 10", mq_open("/rf-mq-user", O_CREAT | O_RDWR, 0600, &big));
    big.mq_maxmsg = 10;
    big.mq_msgsize = 8193;
    E("more than 8192", mq_open("/rf-mq-user", O_CREAT | O_RDWR, 0600, &big));
    struct rlimit rl = {10000, 10000};
    setrlimit(RLIMIT_MSGQUEUE, &rl);
    E("limit", mq_open("/rf-mq-user", O_CREAT | O_RDWR, 0600, 0));
    big.mq_msgsize = 904;
    E("just fits", mq_open("/rf-mq-user", O_CREAT | O_RDWR, 0600, &big) < 0);
    E("second", mq_open("/rf-mq-user2", O_CREAT | O_RDWR, 0600, &big));
    mq_unlink("/rf-mq-user");
  });
  E("unlink", mq_unlink(name));
  E("unlink again", mq_unlink(name));
  E("still usable", mq_send(w, "on", 2, 0));
  rcv(q);
  return 0;
}
