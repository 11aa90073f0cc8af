/* timerfd, sleeping by every clock, processor-time clocks. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
static double cpu(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
static void spin(int m) {
  double e = cpu() + m / 1e3;
  while (cpu() < e)
    for (volatile int i = 0; i < 20000; i++);
}
static volatile int n;
static void h(int s) { n++; }
#define NEAR(x, lo, hi) ((x) >= (lo) && (x) <= (hi))
static struct itimerspec its(double v, double i) {
  struct itimerspec s;
  s.it_value.tv_sec = v;
  s.it_value.tv_nsec = (v - (long)v) * 1e9;
  s.it_interval.tv_sec = i;
  s.it_interval.tv_nsec = (i - (long)i) * 1e9;
  return s;
}
#define E(name, call)                                                                                        \
  ({                                                                                                         \
    errno = 0;                                                                                               \
    long r_ = (call);                                                                                        \
    printf("%s %ld %d\n", name, r_, errno);                                                                  \
    r_;                                                                                                      \
  })
int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  uint64_t v;
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  printf("fl %x\n", fcntl(fd, F_GETFL));
  E("read", read(fd, &v, 8));
  E("short", read(fd, &v, 4));
  E("write", write(fd, &v, 8));
  struct itimerspec s = its(0.05, 0.02), g;
  timerfd_settime(fd, 0, &s, 0);
  timerfd_gettime(fd, &g);
  printf("get %d %ld\n", g.it_value.tv_nsec <= 50000000,
         g.it_interval.tv_nsec);
  struct pollfd p = {fd, POLLIN | POLLOUT, 0};
  double t0;
  int r = poll(&p, 1, 1000);
  printf("poll %d %x\n", r, p.revents);
  ms(50);
  r = read(fd, &v, 8);
  printf("read %d %d\n", r, v >= 3);
  s = its(1000, 0.02);
  timerfd_settime(fd, 0, &s, 0);
  E("again", read(fd, &v, 8));
  timerfd_gettime(fd, &g);
  printf("left %d\n", g.it_value.tv_sec > 500);
  s = its(0, 0);
  timerfd_settime(fd, 0, &s, &g);
  printf("old int %ld\n", g.it_interval.tv_nsec);
  timerfd_gettime(fd, &g);
  printf("off %ld %ld %ld\n", g.it_value.tv_sec, g.it_value.tv_nsec, g.it_interval.tv_nsec);
  int ep = epoll_create1(0);
  struct epoll_event ev = {EPOLLIN, {.u32 = 7}};
  epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
  s = its(0.02, 0);
  timerfd_settime(fd, 0, &s, 0);
  t0 = now();
  r = epoll_wait(ep, &ev, 1, 1000);
  printf("epoll %d %x %d\n", r, ev.events, ev.data.u32);
  r = epoll_wait(ep, &ev, 1, 0);
  printf("level %d\n", r);
  read(fd, &v, 8);
  printf("v %ld\n", (long)v);
  timerfd_gettime(fd, &g);
  printf("after %ld\n", g.it_value.tv_nsec);
  fcntl(fd, F_SETFL, 0);
  s = its(0.03, 0);
  timerfd_settime(fd, 0, &s, 0);
  t0 = now();
  r = read(fd, &v, 8);
  printf("block %d %ld\n", r, (long)v);
  int rt = timerfd_create(CLOCK_REALTIME, 0);
  struct timespec a;
  clock_gettime(CLOCK_REALTIME, &a);
  a.tv_sec -= 300;
  memset(&s, 0, sizeof s);
  s.it_value = a;
  s.it_interval.tv_sec = 100;
  timerfd_settime(rt, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &s, 0);
  r = read(rt, &v, 8);
  printf("abs past %d %ld\n", r, (long)v);
  E("create", timerfd_create(2, 0));
  E("create", timerfd_create(1, 1));
  E("create", timerfd_create(11, 0));
  E("set", timerfd_settime(1, 0, &s, 0));
  E("set", timerfd_settime(99, 0, &s, 0));
  E("set", timerfd_settime(fd, 8, &s, 0));
  s.it_value.tv_nsec = -1;
  E("set", timerfd_settime(fd, 0, &s, 0));
  E("set", timerfd_settime(fd, 0, (void *)8, 0));
  E("get", timerfd_gettime(1, &g));
  E("lseek", lseek(fd, 0, SEEK_SET));
  // clock_nanosleep
  int ck[] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, -1, -6};
  struct timespec sm = {0, 1000000}, rem;
  for (int i = 0; i < 13; i++) {
    errno = 0;
    struct timespec res;
    long r1 = syscall(SYS_clock_getres, ck[i], &res);
    int e1 = errno;
    struct timespec cur;
    errno = 0;
    long r2 = syscall(SYS_clock_gettime, ck[i], &cur);
    int e2 = errno;
    errno = 0;
    long r3 = 0;
    if (ck[i] != 2 && ck[i] != -6) r3 = syscall(SYS_clock_nanosleep, ck[i], 0, &sm, &rem);
    printf("ck %d res %ld %d get %ld %d sleep %ld %d\n", ck[i], r1, e1, r2, e2, r3, errno);
  }
  t0 = now();
  clock_gettime(CLOCK_REALTIME, &a);
  a.tv_nsec += 60000000;
  if (a.tv_nsec >= 1000000000) {
    a.tv_sec++;
    a.tv_nsec -= 1000000000;
  }
  r = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &a, 0);
  printf("abs real %d %d\n", r, NEAR(now() - t0, 0.05, 9));
  t0 = now();
  clock_gettime(CLOCK_BOOTTIME, &a);
  a.tv_nsec += 60000000;
  if (a.tv_nsec >= 1000000000) {
    a.tv_sec++;
    a.tv_nsec -= 1000000000;
  }
  r = clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &a, 0);
  printf("abs boot %d %d\n", r, NEAR(now() - t0, 0.05, 9));
  t0 = now();
  clock_gettime(CLOCK_TAI, &a);
  a.tv_nsec += 60000000;
  if (a.tv_nsec >= 1000000000) {
    a.tv_sec++;
    a.tv_nsec -= 1000000000;
  }
  r = clock_nanosleep(CLOCK_TAI, TIMER_ABSTIME, &a, 0);
  printf("abs tai %d %d\n", r, NEAR(now() - t0, 0.05, 9));
  // EINTR of absolute sleep; remaining of relative
  struct sigaction sa = {0};
  sa.sa_handler = h;
  sigaction(SIGUSR1, &sa, 0);
  pid_t c = fork();
  if (!c)
    for (;;) { // again: the first may come before it sleeps
      ms(50);
      kill(getppid(), SIGUSR1);
    }
  clock_gettime(CLOCK_MONOTONIC, &a);
  a.tv_sec += 500;
  r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &a, &rem);
  printf("abs eintr %d\n", r);
  int st;
  kill(c, 9);
  while (wait(&st) != c);
  c = fork();
  if (!c)
    for (;;) { // again: the first may come before it sleeps
      ms(50);
      kill(getppid(), SIGUSR1);
    }
  a.tv_sec = 500;
  a.tv_nsec = 0;
  r = clock_nanosleep(CLOCK_MONOTONIC, 0, &a, &rem);
  printf("rel eintr %d %d\n", r, rem.tv_sec > 300);
  kill(c, 9);
  while (wait(&st) != c);
  E("inval", syscall(SYS_clock_nanosleep, 1, 0, &(struct timespec){0, 1000000000}, 0));
  E("fault", syscall(SYS_clock_nanosleep, 1, 0, 8, 0));
  E("neg", syscall(SYS_clock_nanosleep, 1, 0, &(struct timespec){-1, 0}, 0));
  E("nano", syscall(SYS_nanosleep, &(struct timespec){0, -1}, 0));
  // cpu clocks
  struct timespec b;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  spin(50);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  double d = b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9;
  printf("thread cpu %d\n", d > 0.04 && d < 5);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
  printf("proc %d\n", b.tv_sec < 5);
  int ready[2];
  pipe(ready);
  c = fork();
  if (!c) {
    spin(100);
    write(ready[1], "x", 1);
    ms(60000);
    _exit(0);
  }
  clockid_t cid;
  clock_getcpuclockid(c, &cid);
  read(ready[0], &v, 1);
  r = clock_gettime(cid, &b);
  printf("other %d %d\n", r, b.tv_nsec > 30000000 && b.tv_sec == 0);
  kill(c, 9);
  wait(&st);
  t0 = now();
  c = fork();
  if (!c) { for (;;); }
  clock_getcpuclockid(c, &cid);
  b.tv_sec = 0;
  b.tv_nsec = 60000000;
  r = syscall(SYS_clock_nanosleep, cid, 0, &b, 0);
  printf("cpu sleep %d %d\n", r, now() - t0 > 0.05);
  kill(c, 9);
  wait(&st);
  struct timespec set = {1, 0};
  E("settime", syscall(SYS_clock_settime, 1, &set));
  E("settime", syscall(SYS_clock_settime, 99, &set));
  return 0;
}
