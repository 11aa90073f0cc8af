/* Interval timers and POSIX timers: signals, overruns, errors, processor time. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static volatile int n, over, code, val;
static volatile double last;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
static void h(int s, siginfo_t *i, void *u) {
  n++;
  over = i->si_overrun;
  code = i->si_code;
  val = i->si_value.sival_int;
  last = now();
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
#define NEAR(x, lo, hi) ((x) >= (lo) && (x) <= (hi))
static struct itimerspec its(double v, double i) {
  struct itimerspec s;
  s.it_value.tv_sec = v;
  s.it_value.tv_nsec = (v - (long)v) * 1e9;
  s.it_interval.tv_sec = i;
  s.it_interval.tv_nsec = (i - (long)i) * 1e9;
  return s;
}
static volatile int thr;
static void hth(int s) { thr = gettid(); }
static volatile int tid2;
static void *th(void *a) {
  tid2 = gettid();
  for (;;) pause();
}
int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  struct sigaction sa = {0};
  sa.sa_sigaction = h;
  sa.sa_flags = SA_SIGINFO;
  sigaction(SIGALRM, &sa, 0);
  sigaction(SIGUSR1, &sa, 0);
  sigaction(SIGVTALRM, &sa, 0);
  sigaction(SIGPROF, &sa, 0);
  sigaction(SIGRTMIN, &sa, 0);
  double t0 = now();
  alarm(1);
  printf("alarm left %d\n", alarm(1));
  pause();
  printf("alarm %d code %d %d\n", n, code == SI_KERNEL, NEAR(now() - t0, 0.99, 9));
  n = 0;
  struct itimerval iv = {{0, 50000}, {0, 50000}}, o;
  setitimer(ITIMER_REAL, &iv, 0);
  t0 = now();
  while (n < 4) pause();
  printf("itimer %d\n", NEAR(now() - t0, 0.19, 9));
  getitimer(ITIMER_REAL, &o);
  printf("get %ld %d\n", o.it_interval.tv_usec, o.it_value.tv_usec <= 50000 && o.it_value.tv_usec > 0);
  memset(&iv, 0, sizeof iv);
  setitimer(ITIMER_REAL, &iv, &o);
  printf("old int %ld\n", o.it_interval.tv_usec);
  iv.it_value.tv_usec = 1000000;
  printf("bad %d", setitimer(ITIMER_REAL, &iv, 0));
  printf(" %d\n", errno);
  printf("bad %d", setitimer(5, &o, 0));
  printf(" %d\n", errno);
  n = 0;
  iv = (struct itimerval){{0, 20000}, {0, 20000}};
  setitimer(ITIMER_PROF, &iv, 0);
  spin(150);
  memset(&iv, 0, sizeof iv);
  setitimer(ITIMER_PROF, &iv, 0);
  /* Ticks may be lost while the timer thread waits for a processor. */
  printf("prof some %d\n", n >= 1);
  n = 0;
  iv = (struct itimerval){{0, 20000}, {0, 20000}};
  setitimer(ITIMER_VIRTUAL, &iv, 0);
  ms(60);
  int idle = n;
  spin(150);
  memset(&iv, 0, sizeof iv);
  setitimer(ITIMER_VIRTUAL, &iv, 0);
  printf("virt idle %d some %d\n", idle, n > idle);
  n = 0;
  timer_t t;
  struct sigevent se = {0};
  se.sigev_notify = SIGEV_SIGNAL;
  se.sigev_signo = SIGUSR1;
  se.sigev_value.sival_int = 42;
  printf("create %d\n", timer_create(CLOCK_MONOTONIC, &se, &t));
  struct itimerspec s = its(0.05, 0), g;
  timer_settime(t, 0, &s, 0);
  t0 = now();
  pause();
  printf("fired %d val %d code %d over %d %d\n", n, val, code == SI_TIMER, over, NEAR(now() - t0, 0.049, 9));
  timer_gettime(t, &g);
  printf("after %ld %ld\n", g.it_value.tv_sec, g.it_value.tv_nsec);
  // overruns
  sigset_t b, ob;
  sigemptyset(&b);
  sigaddset(&b, SIGUSR1);
  sigprocmask(SIG_BLOCK, &b, &ob);
  s = its(0.01, 0.01);
  timer_settime(t, 0, &s, 0);
  ms(105);
  n = 0;
  sigprocmask(SIG_SETMASK, &ob, 0);
  printf("overrun n %d %d get %d\n", n > 0, NEAR(over, 8, 99), NEAR(timer_getoverrun(t), 8, 99));
  s = its(0, 0);
  timer_settime(t, 0, &s, &g);
  printf("old int %ld\n", g.it_interval.tv_nsec);
  n = 0;
  ms(30);
  printf("stopped %d\n", n);
  // settime invalidates a pending signal
  sigprocmask(SIG_BLOCK, &b, 0);
  s = its(0.01, 0);
  timer_settime(t, 0, &s, 0);
  ms(30);
  sigset_t p;
  sigpending(&p);
  int was = sigismember(&p, SIGUSR1);
  s = its(0, 0);
  timer_settime(t, 0, &s, 0);
  sigprocmask(SIG_SETMASK, &ob, 0);
  printf("pending %d then %d\n", was, n);
  // absolute
  struct timespec a;
  clock_gettime(CLOCK_REALTIME, &a);
  timer_t r;
  timer_create(CLOCK_REALTIME, &se, &r);
  a.tv_nsec += 50000000;
  if (a.tv_nsec >= 1000000000) {
    a.tv_sec++;
    a.tv_nsec -= 1000000000;
  }
  memset(&s, 0, sizeof s);
  s.it_value = a;
  timer_settime(r, TIMER_ABSTIME, &s, 0);
  t0 = now();
  n = 0;
  pause();
  printf("abs %d\n", NEAR(now() - t0, 0.04, 9));
  a.tv_sec -= 10;
  s.it_value = a;
  n = 0;
  timer_settime(r, TIMER_ABSTIME, &s, 0);
  ms(5);
  printf("past %d\n", n);
  // SIGEV_NONE
  timer_t z;
  se.sigev_notify = SIGEV_NONE;
  timer_create(CLOCK_MONOTONIC, &se, &z);
  s = its(10, 1);
  timer_settime(z, 0, &s, 0);
  timer_gettime(z, &g);
  printf("none %d %ld\n", (int)g.it_value.tv_sec, g.it_interval.tv_sec);
  s = its(0.01, 0);
  timer_settime(z, 0, &s, 0);
  ms(20);
  timer_gettime(z, &g);
  printf("none expired %ld %ld\n", g.it_value.tv_sec, g.it_value.tv_nsec);
  s = its(0.01, 0.03);
  timer_settime(z, 0, &s, 0);
  ms(20);
  timer_gettime(z, &g);
  printf("none rep %d %ld\n", g.it_value.tv_nsec < 30000000, g.it_interval.tv_nsec);
  // thread id
  pthread_t pt;
  pthread_create(&pt, 0, th, 0);
  while (!tid2) ms(1);
  struct sigaction s2 = {0};
  s2.sa_handler = hth;
  sigaction(SIGUSR2, &s2, 0);
  struct {
    union sigval v;
    int signo, notify, tid;
    char pad[44];
  } k = {0};
  k.signo = SIGUSR2;
  k.notify = 4;
  k.tid = tid2;
  int kid = -5;
  long rr = syscall(SYS_timer_create, CLOCK_MONOTONIC, &k, &kid);
  printf("kcreate %ld id %d\n", rr, kid);
  s = its(0.01, 0);
  syscall(SYS_timer_settime, kid, 0, &s, 0);
  ms(50);
  printf("thread %d\n", thr == tid2);
  k.tid = 99999999;
  errno = 0;
  rr = syscall(SYS_timer_create, CLOCK_MONOTONIC, &k, &kid);
  printf("bad tid %ld %d\n", rr, errno);
  // errors
  int bad[] = {-1, 4, 5, 6, 2, 3, 11, 7, 12, 16};
  for (int i = 0; i < 10; i++) {
    errno = 0;
    rr = syscall(SYS_timer_create, bad[i], 0, &kid);
    printf("clock %d %ld %d\n", bad[i], rr, errno);
    if (rr == 0) syscall(SYS_timer_delete, kid);
  }
  k.notify = 9;
  errno = 0;
  rr = syscall(SYS_timer_create, 1, &k, &kid);
  printf("notify %ld %d\n", rr, errno);
  k.notify = 0;
  k.signo = 65;
  rr = syscall(SYS_timer_create, 1, &k, &kid);
  printf("signo %ld %d\n", rr, errno);
  errno = 0;
  rr = syscall(SYS_timer_settime, 999, 0, &s, 0);
  printf("settime %ld %d\n", rr, errno);
  rr = syscall(SYS_timer_settime, 0, 0, 0, 0);
  printf("settime %ld %d\n", rr, errno);
  s.it_value.tv_nsec = 1000000000;
  errno = 0;
  rr = syscall(SYS_timer_settime, 0, 0, &s, 0);
  printf("settime %ld %d\n", rr, errno);
  errno = 0;
  rr = syscall(SYS_timer_create, 1, 0, 8);
  printf("efault %ld %d\n", rr, errno);
  // ignored then handled
  n = 0;
  signal(SIGUSR1, SIG_IGN);
  s = its(0.01, 0.01);
  timer_settime(t, 0, &s, 0);
  ms(50);
  sigaction(SIGUSR1, &sa, 0);
  ms(25);
  printf("unignored %d\n", n >= 1);
  s = its(0, 0);
  timer_settime(t, 0, &s, 0);
  // fork: not inherited; cpu timers
  pid_t c = fork();
  if (!c) {
    errno = 0;
    rr = timer_gettime(t, &g);
    printf("child %ld %d\n", rr, errno);
    getitimer(ITIMER_REAL, &o);
    _exit(o.it_value.tv_sec);
  }
  int st;
  waitpid(c, &st, 0);
  timer_t pc;
  se.sigev_notify = SIGEV_SIGNAL;
  timer_create(CLOCK_PROCESS_CPUTIME_ID, &se, &pc);
  s = its(0.05, 0);
  n = 0;
  timer_settime(pc, 0, &s, 0);
  ms(60);
  int before = n;
  spin(150);
  printf("cpu timer %d %d\n", before, n);
  timer_t tc;
  timer_create(CLOCK_THREAD_CPUTIME_ID, &se, &tc);
  n = 0;
  timer_settime(tc, 0, &s, 0);
  spin(150);
  printf("thread timer %d\n", n);
  return 0;
}
