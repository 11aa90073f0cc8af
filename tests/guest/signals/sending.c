/* Queues, order, values, masks, sigtimedwait, signalfd, limits and errors of sending. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
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
static volatile int order[100], n;
static void h(int s, siginfo_t *i, void *u) { order[n++] = s; }
static void p(void) {
  for (int k = 0; k < n; k++) printf("%d ", order[k]);
  printf("\n");
  n = 0;
}
static void hs(int s, siginfo_t *i, void *u) {
  printf("sig %d code %d val %d pidok %d\n", s, i->si_code, i->si_value.sival_int, i->si_pid == getpid());
}
int main(void) {
  struct sigaction sa = {0};
  sa.sa_sigaction = h;
  sa.sa_flags = SA_SIGINFO | 0x400;
  sigfillset(&sa.sa_mask);
  for (int s = 1; s <= 64; s++)
    if (s != 9 && s != 19 && s != 32 && s != 33) sigaction(s, &sa, 0);
  struct sigaction old;
  sigaction(1, 0, &old);
  printf("flags %x mask %lx\n", old.sa_flags, *(long *)&old.sa_mask);
  sigset_t all, o, pend;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &o);
  kill(getpid(), 40);
  kill(getpid(), 35);
  kill(getpid(), 15);
  kill(getpid(), 11);
  kill(getpid(), 2);
  raise(12);
  raise(50);
  kill(getpid(), 40);
  kill(getpid(), 2);
  raise(34);
  kill(getpid(), 34);
  sigpending(&pend);
  printf("pend %lx\n", *(long *)&pend);
  sigprocmask(SIG_SETMASK, &o, 0);
  p();
  // queue values
  sa.sa_sigaction = hs;
  sa.sa_flags = SA_SIGINFO;
  sigaction(40, &sa, 0);
  sigaction(10, &sa, 0);
  sigprocmask(SIG_BLOCK, &all, &o);
  for (int i = 0; i < 3; i++) {
    union sigval v;
    v.sival_int = i;
    sigqueue(getpid(), 40, v);
    sigqueue(getpid(), 10, v);
  }
  sigprocmask(SIG_SETMASK, &o, 0);
  // sigtimedwait
  sigset_t s1;
  sigemptyset(&s1);
  sigaddset(&s1, 40);
  sigaddset(&s1, 10);
  sigprocmask(SIG_BLOCK, &s1, 0);
  struct timespec ts = {0, 10000000};
  siginfo_t si;
  int r = sigtimedwait(&s1, &si, &ts);
  printf("stw %d %s\n", r, r < 0 ? strerror(errno) : "");
  union sigval v;
  v.sival_int = 77;
  sigqueue(getpid(), 40, v);
  r = sigtimedwait(&s1, &si, &ts);
  printf("stw %d code %d val %d\n", r, si.si_code, si.si_value.sival_int);
  pid_t c = fork();
  if (!c) {
    usleep(50000);
    kill(getppid(), 10);
    _exit(3);
  }
  struct sigaction ign = {0};
  ign.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &ign, 0);
  r = sigwaitinfo(&s1, &si);
  printf("swi %d code %d pid %d\n", r, si.si_code, si.si_pid == c);
  int st;
  waitpid(c, &st, 0);
  printf("st %x\n", st);
  // signalfd
  int fd = signalfd(-1, &s1, SFD_NONBLOCK | SFD_CLOEXEC);
  struct signalfd_siginfo fi[3];
  memset(fi, 0xee, sizeof fi);
  r = read(fd, fi, sizeof fi);
  printf("sfd %d %s\n", r, strerror(errno));
  r = read(fd, fi, 10);
  printf("sfd %d %s\n", r, strerror(errno));
  v.sival_int = 5;
  sigqueue(getpid(), 40, v);
  kill(getpid(), 10);
  struct pollfd pf = {fd, POLLIN | POLLOUT, 0};
  r = poll(&pf, 1, 1000);
  printf("poll %d %x\n", r, pf.revents);
  r = read(fd, fi, sizeof fi);
  printf("sfd %d: %d %d %d | %d %d %d\n", r, fi[0].ssi_signo, fi[0].ssi_code, fi[0].ssi_int, fi[1].ssi_signo,
         fi[1].ssi_code, fi[1].ssi_pid == getpid());
  c = fork();
  if (!c) {
    usleep(50000);
    kill(getppid(), 10);
    _exit(3);
  }
  pf.revents = 0;
  r = poll(&pf, 1, 2000);
  printf("poll %d %x\n", r, pf.revents);
  r = read(fd, fi, sizeof fi);
  printf("r %d code %d\n", r, fi[0].ssi_code);
  waitpid(c, &st, 0);
  // errors
  E("kill", kill(getpid(), 65));
  E("kill", kill(99999999, 65));
  E("kill", kill(99999999, 0));
  E("tgk", syscall(SYS_tgkill, -1, 1, 1));
  E("tgk", syscall(SYS_tgkill, getpid(), getpid(), 99));
  E("act", syscall(SYS_rt_sigaction, 9, &sa, 0, 8));
  printf("act %ld\n", syscall(SYS_rt_sigaction, 9, 0, &old, 8));
  E("act", syscall(SYS_rt_sigaction, 0, 0, 0, 8));
  E("act", syscall(SYS_rt_sigaction, 9, 1, 0, 8));
  E("mask", syscall(SYS_rt_sigprocmask, 9, 0, 0, 8));
  E("mask", syscall(SYS_rt_sigprocmask, 9, &o, 0, 8));
  siginfo_t qi = {0};
  qi.si_code = SI_TKILL;
  E("q", syscall(SYS_rt_sigqueueinfo, getppid(), 10, &qi));
  qi.si_code = 0;
  E("q", syscall(SYS_rt_sigqueueinfo, getppid(), 0, &qi));
  qi.si_code = -1;
  printf("q %ld\n", syscall(SYS_rt_sigqueueinfo, getpid(), 0, &qi));
  // rlimit sigpending
  struct rlimit rl = {3, 3};
  setrlimit(RLIMIT_SIGPENDING, &rl);
  int okc = 0;
  for (int i = 0; i < 6; i++) {
    r = sigqueue(getpid(), 40, v);
    if (r) {
      printf("eagain %d\n", errno);
      break;
    }
    okc++;
  }
  printf("queued %d\n", okc <= 3);
  r = kill(getpid(), 41);
  printf("kill over limit %d\n", r);
  return 0;
}
