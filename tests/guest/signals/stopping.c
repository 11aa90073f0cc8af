/* Stopping, continuing, waiting, restarted calls, temporary masks, orphans. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define E(name, call)                                                                                        \
  ({                                                                                                         \
    errno = 0;                                                                                               \
    long r_ = (call);                                                                                        \
    printf("%s %ld %d\n", name, r_, errno);                                                                  \
  })
static volatile int got, chld, code[20], stat_[20];
static void h(int s) { got++; }
static void hc(int s, siginfo_t *i, void *u) {
  code[chld] = i->si_code;
  stat_[chld] = i->si_status;
  chld++;
}
static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
/* A child that sends SIGUSR1 again and again: one of them finds the parent where it waits. */
static pid_t pester(void) {
  pid_t c = fork();
  while (!c) {
    ms(20);
    kill(getppid(), SIGUSR1);
  }
  return c;
}
static void leave_off(pid_t c) {
  kill(c, SIGKILL);
  waitpid(c, 0, 0);
}
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  struct sigaction sa = {0};
  sa.sa_sigaction = hc;
  sa.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGCHLD, &sa, 0);
  pid_t c = fork();
  if (!c) {
    for (;;) pause();
  }
  setpgid(c, c);
  int st;
  siginfo_t si;
  kill(c, SIGSTOP);
  memset(&si, 0, sizeof si);
  int r = waitid(P_PID, c, &si, WSTOPPED | WNOWAIT);
  printf("waitid %d code %d status %d signo %d pid %d\n", r, si.si_code, si.si_status, si.si_signo,
         si.si_pid == c);
  r = waitpid(c, &st, WUNTRACED);
  printf("wait %d %x\n", r == c, st);
  r = waitpid(c, &st, WUNTRACED | WNOHANG);
  printf("again %d\n", r);
  kill(c, SIGCONT);
  r = waitpid(c, &st, WCONTINUED);
  printf("cont %d %x\n", r == c, st);
  r = waitpid(c, &st, WCONTINUED | WNOHANG);
  printf("again %d\n", r);
  ms(30);
  kill(c, SIGTSTP);
  r = waitpid(c, &st, WUNTRACED);
  printf("tstp %d %x\n", r == c, st);
  kill(c, SIGTERM);
  ms(50);
  r = waitpid(c, &st, WNOHANG);
  printf("stopped ignores term %d\n", r);
  kill(c, SIGCONT);
  r = waitpid(c, &st, 0);
  printf("term %d %x\n", r == c, st);
  ms(20);
  printf("chld:");
  for (int i = 0; i < 3; i++) printf(" %d/%d", code[i], stat_[i]);
  printf("\n");
  E("none", waitpid(-1, &st, 0));
  memset(&si, 0xff, sizeof si);
  r = waitid(P_ALL, 0, &si, WEXITED);
  printf("waitid %d %d signo %d pid %d\n", r, errno, si.si_signo, si.si_pid);
  E("waitid", waitid(P_ALL, 0, &si, WNOHANG));
  E("waitid", waitid(P_PID, 0, &si, WEXITED));
  E("wait4", syscall(SYS_wait4, 0x80000000, 0, 0, 0));
  E("wait4", syscall(SYS_wait4, -1, 0, WEXITED, 0));
  // nocldstop
  sa.sa_flags |= SA_NOCLDSTOP;
  sigaction(SIGCHLD, &sa, 0);
  chld = 0;
  c = fork();
  if (!c)
    for (;;) pause();
  kill(c, SIGSTOP);
  waitpid(c, &st, WUNTRACED);
  printf("nocldstop %d\n", chld);
  kill(c, SIGKILL);
  r = waitpid(c, &st, 0);
  printf("kill stopped %x\n", st);
  // nanosleep across stop/continue: not interrupted
  c = fork();
  if (!c) {
    double a = now();
    struct timespec t = {0, 300000000}, rem = {0};
    int r = nanosleep(&t, &rem);
    double d = now() - a;
    _exit(r == 0 && d > 0.29 && d < 0.6 ? 7 : 8);
  }
  ms(50);
  kill(c, SIGSTOP);
  ms(100);
  kill(c, SIGCONT);
  waitpid(c, &st, 0);
  printf("sleep over stop %x\n", st);
  // nanosleep with handler, SA_RESTART: EINTR
  struct sigaction s2 = {0};
  s2.sa_handler = h;
  s2.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &s2, 0);
  c = pester();
  struct timespec t = {5, 0}, rem = {0};
  sa.sa_handler = SIG_DFL;
  sa.sa_flags = 0;
  sigaction(SIGCHLD, &sa, 0);
  r = nanosleep(&t, &rem);
  printf("ns %d %d rem %d\n", r, errno, rem.tv_sec < 5);
  leave_off(c);
  // read with SA_RESTART restarts; without: EINTR
  int p[2];
  pipe(p);
  c = fork();
  if (!c) {
    ms(50);
    kill(getppid(), SIGUSR1);
    ms(50);
    write(p[1], "x", 1);
    _exit(0);
  }
  char b;
  got = 0;
  r = read(p[0], &b, 1);
  printf("read %d got %d\n", r, got);
  waitpid(c, &st, 0);
  s2.sa_flags = 0;
  sigaction(SIGUSR1, &s2, 0);
  c = pester();
  r = read(p[0], &b, 1);
  E("read", r);
  leave_off(c);
  write(p[1], "x", 1);
  // poll: EINTR even with SA_RESTART
  s2.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &s2, 0);
  c = pester();
  read(p[0], &b, 1);
  struct pollfd pf = {p[0], POLLIN, 0};
  r = poll(&pf, 1, 2000);
  E("poll", r);
  leave_off(c);
  // waitpid restart
  c = fork();
  if (!c) {
    ms(50);
    kill(getppid(), SIGUSR1);
    ms(50);
    _exit(5);
  }
  r = waitpid(c, &st, 0);
  printf("wait %d %x\n", r == c, st);
  // sigsuspend restores mask
  sigset_t m, o, e;
  sigemptyset(&m);
  sigaddset(&m, SIGUSR1);
  sigprocmask(SIG_BLOCK, &m, 0);
  raise(SIGUSR1);
  sigemptyset(&e);
  got = 0;
  r = sigsuspend(&e);
  sigprocmask(0, 0, &o);
  printf("suspend %d %d got %d blocked %d\n", r, errno, got, sigismember(&o, SIGUSR1));
  // ppoll ready while signal pending under temp mask: not delivered
  write(p[1], "y", 1);
  raise(SIGUSR1);
  got = 0;
  t.tv_sec = 1;
  r = ppoll(&pf, 1, &t, &e);
  printf("ppoll %d got %d\n", r, got);
  sigset_t pe;
  sigpending(&pe);
  printf("pending %d\n", sigismember(&pe, SIGUSR1));
  read(p[0], &b, 1);
  r = ppoll(&pf, 1, &t, &e);
  printf("ppoll %d %d got %d\n", r, errno, got);
  sigprocmask(0, 0, &o);
  printf("blocked %d\n", sigismember(&o, SIGUSR1));
  sigprocmask(SIG_UNBLOCK, &m, 0);
  // ignored SIGCHLD: no zombies
  signal(SIGCHLD, SIG_IGN);
  c = fork();
  if (!c) {
    ms(30);
    _exit(1);
  }
  r = waitpid(c, &st, 0);
  E("ign", r);
  signal(SIGCHLD, SIG_DFL);
  // __WCLONE/__WALL
  c = syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (!c) _exit(4);
  ms(30);
  E("plain", waitpid(c, &st, 0));
  r = waitpid(c, &st, __WCLONE);
  printf("wclone %d %x\n", r == c, st);
  c = syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (!c) _exit(4);
  r = waitpid(-1, &st, __WALL);
  printf("wall %d %x\n", r == c, st);
  // pdeathsig & subreaper
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  int v = -1;
  prctl(PR_GET_CHILD_SUBREAPER, &v);
  printf("subreaper %d\n", v);
  c = fork();
  if (!c) {
    pid_t g = fork();
    if (!g) {
      prctl(PR_SET_PDEATHSIG, SIGUSR2);
      int w = 0;
      prctl(PR_GET_PDEATHSIG, &w);
      for (;;) pause();
    }
    ms(100);
    _exit(0);
  }
  r = waitpid(c, &st, 0);
  r = wait(&st);
  printf("orphan %d %x\n", r > 0, st);
  // orphaned pgrp: HUP+CONT
  int q[2];
  pipe(q);
  c = fork();
  if (!c) {
    setsid();
    pid_t g = fork();
    if (!g) {
      setpgid(0, 0);
      signal(SIGHUP, h);
      signal(SIGCONT, h);
      got = 0;
      raise(SIGSTOP);
      ms(20);
      char z = '0' + got;
      write(q[1], &z, 1);
      _exit(0);
    }
    waitpid(g, &st, WUNTRACED);
    _exit(0);
  }
  waitpid(c, &st, 0);
  r = read(q[0], &b, 1);
  printf("orphaned pgrp got %c\n", b);
  wait(&st);
  // orphaned pgrp ignores tstp
  c = fork();
  if (!c) {
    setsid();
    raise(SIGTSTP);
    _exit(9);
  }
  r = waitpid(c, &st, WUNTRACED);
  printf("tstp orphan %x\n", st);
  // sigcont removes pending stops and vice versa
  c = fork();
  if (!c) {
    sigset_t a;
    sigfillset(&a);
    sigprocmask(SIG_BLOCK, &a, 0);
    raise(SIGTSTP);
    raise(SIGTTIN);
    sigpending(&pe);
    int x = sigismember(&pe, SIGTSTP) + sigismember(&pe, SIGTTIN);
    raise(SIGCONT);
    sigpending(&pe);
    int y = sigismember(&pe, SIGTSTP) + sigismember(&pe, SIGTTIN) + 10 * sigismember(&pe, SIGCONT);
    printf("stops %d %d\n", x, y);
    _exit(0);
  }
  waitpid(c, &st, 0);
  // kill -1 and pgrp: errors
  E("kill pgrp", kill(-99999, 0));
  E("kill min", kill(0x80000000, 0));
  // RESETHAND, NODEFER
  c = fork();
  if (!c) {
    struct sigaction s = {0};
    s.sa_handler = h;
    s.sa_flags = SA_RESETHAND;
    sigaction(SIGUSR1, &s, 0);
    got = 0;
    raise(SIGUSR1);
    printf("got %d\n", got);
    raise(SIGUSR1);
    _exit(0);
  }
  waitpid(c, &st, 0);
  printf("resethand %x\n", st);
  // abort with ignored handler, segv blocked
  c = fork();
  if (!c) {
    signal(SIGABRT, SIG_IGN);
    abort();
  }
  waitpid(c, &st, 0);
  printf("abort %x\n", st & 0x7f);
  c = fork();
  if (!c) {
    sigset_t a;
    sigfillset(&a);
    sigprocmask(SIG_BLOCK, &a, 0);
    signal(SIGSEGV, h);
    *(volatile int *)8 = 1;
  }
  waitpid(c, &st, 0);
  printf("segv %x\n", st & 0x7f);
  c = fork();
  if (!c) {
    signal(SIGSEGV, SIG_IGN);
    *(volatile int *)8 = 1;
  }
  waitpid(c, &st, 0);
  printf("segv %x\n", st & 0x7f);
  return 0;
}
