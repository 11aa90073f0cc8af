/* Threads: exec, exit, stops, which thread gets a signal, robust locks, pidfds, vfork. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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
static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
static void *ex(void *a) {
  ms(50);
  char *av[] = {"/bin/sh", "-c", "echo pid same: $(( $$ == $P ))", 0};
  execv("/bin/sh", av);
  perror("exec");
  return 0;
}
static void *idle(void *a) {
  for (;;) pause();
}
static void *spin(void *a) { for (;;); }
static volatile int who;
static void h(int s) { who = gettid(); }
static void *wt(void *a) {
  int st;
  int r = waitpid(*(int *)a, &st, __WNOTHREAD);
  printf("nothread %d %d\n", r, errno == ECHILD);
  return 0;
}
static pthread_mutex_t *m;
static void *holder(void *a) {
  pthread_mutex_lock(m);
  return 0;
}
int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  int st;
  pthread_t t;
  pid_t c = fork();
  if (!c) {
    char b[20];
    sprintf(b, "%d", getpid());
    setenv("P", b, 1);
    pthread_create(&t, 0, idle, 0);
    pthread_create(&t, 0, spin, 0);
    pthread_create(&t, 0, ex, 0);
    pause();
    _exit(1);
  }
  int r = waitpid(c, &st, 0);
  printf("exec by thread %d %x\n", r == c, st);
  // leader exits first, other thread's exec
  c = fork();
  if (!c) {
    char b[20];
    sprintf(b, "%d", getpid());
    setenv("P", b, 1);
    pthread_create(&t, 0, ex, 0);
    syscall(SYS_exit, 3);
  }
  r = waitpid(c, &st, 0);
  printf("exec after leader %d %x\n", r == c, st);
  // leader exits, thread later exit code
  c = fork();
  if (!c) {
    pthread_create(&t, 0, idle, 0);
    ms(30);
    syscall(SYS_exit, 3);
  }
  ms(100);
  r = waitpid(c, &st, WNOHANG);
  printf("leader gone %d\n", r);
  printf("kill %d\n", kill(c, SIGTERM));
  r = waitpid(c, &st, 0);
  printf("st %x\n", st);
  // group stop with threads
  c = fork();
  if (!c) {
    pthread_create(&t, 0, idle, 0);
    pthread_create(&t, 0, spin, 0);
    for (;;) pause();
  }
  ms(50);
  kill(c, SIGSTOP);
  r = waitpid(c, &st, WUNTRACED);
  printf("stop %x\n", st);
  kill(c, SIGCONT);
  r = waitpid(c, &st, WCONTINUED);
  printf("cont %x\n", st);
  kill(c, SIGINT);
  waitpid(c, &st, 0);
  printf("int %x\n", st);
  // process signal goes to the thread that does not block
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGUSR1);
  signal(SIGUSR1, h);
  pthread_create(&t, 0, idle, 0);
  sigprocmask(SIG_BLOCK, &s, 0);
  kill(getpid(), SIGUSR1);
  ms(50);
  printf("other %d\n", who != 0 && who != getpid());
  pthread_kill(t, 0);
  // shared pending retarget
  who = 0;
  // nothread
  c = fork();
  if (!c) _exit(0);
  pthread_create(&t, 0, wt, &c);
  pthread_join(t, 0);
  r = waitpid(c, &st, __WNOTHREAD);
  printf("own %d\n", r == c);
  // robust mutex
  m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setrobust(&a, 1);
  pthread_mutexattr_setpshared(&a, 1);
  pthread_mutex_init(m, &a);
  pthread_create(&t, 0, holder, 0);
  pthread_join(t, 0);
  r = pthread_mutex_lock(m);
  printf("robust %d\n", r == EOWNERDEAD);
  pthread_mutex_consistent(m);
  pthread_mutex_unlock(m);
  c = fork();
  if (!c) {
    pthread_mutex_lock(m);
    ms(100);
    _exit(0);
  }
  ms(50);
  r = pthread_mutex_lock(m);
  printf("robust wait %d\n", r == EOWNERDEAD);
  waitpid(c, &st, 0);
  pthread_mutex_consistent(m);
  pthread_mutex_unlock(m);
  c = fork();
  if (!c) {
    pthread_mutex_lock(m);
    ms(100);
    execl("/bin/true", "true", NULL);
  }
  ms(50);
  r = pthread_mutex_lock(m);
  printf("robust exec %d\n", r == EOWNERDEAD);
  waitpid(c, &st, 0);
  // pidfd
  c = fork();
  if (!c) {
    ms(100);
    _exit(6);
  }
  int fd = syscall(SYS_pidfd_open, c, 0);
  struct pollfd pf = {fd, POLLIN, 0};
  printf("poll0 %d\n", poll(&pf, 1, 0));
  r = poll(&pf, 1, 2000);
  printf("pidfd poll %d %x\n", r, pf.revents);
  siginfo_t si;
  r = waitid(P_PIDFD, fd, &si, WEXITED);
  printf("waitid %d %d %d\n", r, si.si_code, si.si_status);
  pf.revents = 0;
  poll(&pf, 1, 0);
  printf("reaped %x\n", pf.revents);
  E("send", syscall(SYS_pidfd_send_signal, fd, 9, 0, 0));
  E("open", syscall(SYS_pidfd_open, c, 0));
  E("open", syscall(SYS_pidfd_open, 0, 0));
  E("open", syscall(SYS_pidfd_open, 1, 1));
  E("send", syscall(SYS_pidfd_send_signal, 1, 9, 0, 0));
  c = fork();
  if (!c)
    for (;;) pause();
  fd = syscall(SYS_pidfd_open, c, 0);
  printf("send %ld\n", syscall(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0));
  r = waitid(P_PIDFD, fd, &si, WEXITED);
  printf("pidfd %d %d %d\n", r, si.si_code, si.si_status);
  E("waitid bad", waitid(P_PIDFD, 1, &si, WEXITED));
  // vfork parent killed
  c = fork();
  if (!c) {
    if (!vfork()) {
      ms(300);
      _exit(0);
    }
    _exit(1);
  }
  ms(50);
  kill(c, SIGKILL);
  r = waitpid(c, &st, 0);
  printf("vfork parent killed %x\n", st);
  // CLONE_SIGHAND shared without THREAD
  char *stk = mmap(0, 65536, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  extern int clone(int (*)(void *), void *, int, void *, ...);
  int f(void *x) {
    signal(SIGUSR2, SIG_IGN);
    return 0;
  }
  c = clone(f, stk + 65536, 0x100 | 0x800 | SIGCHLD, 0);
  waitpid(c, &st, 0);
  struct sigaction o;
  sigaction(SIGUSR2, 0, &o);
  printf("sighand %d\n", o.sa_handler == SIG_IGN);
  return 0;
}
