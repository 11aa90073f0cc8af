/* FUTEX_WAKE_OP, owner-tracking futexes, membarrier, robust lists, clone3, execveat. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
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
    r_;                                                                                                      \
  })
static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
static uint32_t a, b;
static long fut(uint32_t *x, int op, uint32_t v, void *t, uint32_t *y, uint32_t v3) {
  return syscall(SYS_futex, x, op, v, t, y, v3);
}
static volatile int woke_a, woke_b;
static void *wa(void *p) {
  fut(&a, FUTEX_WAIT, 0, 0, 0, 0);
  __sync_fetch_and_add(&woke_a, 1);
  return 0;
}
static void *wb(void *p) {
  uint32_t v = b;
  fut(&b, FUTEX_WAIT, v, 0, 0, 0);
  __sync_fetch_and_add(&woke_b, 1);
  return 0;
}
static pthread_mutex_t m;
static volatile int cnt, order[8], no;
static void *pw(void *p) {
  pthread_mutex_lock(&m);
  order[no++] = (long)p;
  ms(5);
  pthread_mutex_unlock(&m);
  return 0;
}
static void *inc(void *p) {
  for (int i = 0; i < 3000; i++) {
    pthread_mutex_lock(&m);
    cnt++;
    pthread_mutex_unlock(&m);
  }
  return 0;
}
static uint32_t pi;
static void *pitake(void *p) {
  fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0);
  return 0;
}
static void *pitake_hold(void *p) {
  fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0);
  ms(500);
  fut(&pi, FUTEX_UNLOCK_PI, 0, 0, 0, 0);
  return 0;
}
static void *spin(void *p) {
  volatile int *x = p;
  while (!*x);
  return 0;
}
int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IONBF, 0);
  pthread_t t[8];
  int st;
  if (argc > 1) {
    printf("argv0 %s %s\n", argv[0], argv[1]);
    return 3;
  }
  // WAKE_OP
  for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, wa, 0);
  for (int i = 2; i < 5; i++) pthread_create(&t[i], 0, wb, 0);
  ms(400);
  E("wake_op", fut(&a, FUTEX_WAKE_OP, 1, (void *)2, &b, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 0)));
  // Who was woken says so when it runs.
  for (int i = 0; i < 4000 && woke_a + woke_b < 3; i++) ms(5);
  printf("b %u a woke %d b woke %d\n", b, woke_a, woke_b);
  E("wake_op", fut(&a, FUTEX_WAKE_OP, 9, (void *)9, &b, FUTEX_OP(FUTEX_OP_ANDN, 1, FUTEX_OP_CMP_GT, 100)));
  for (int i = 0; i < 4000 && woke_a + woke_b < 4; i++) ms(5);
  printf("b %u a woke %d b woke %d\n", b, woke_a, woke_b);
  E("wake", fut(&b, FUTEX_WAKE, 9, 0, 0, 0));
  while (woke_a + woke_b < 5) {
    ms(5);
    fut(&a, FUTEX_WAKE, 9, 0, 0, 0);
    fut(&b, FUTEX_WAKE, 9, 0, 0, 0);
  }
  for (int i = 0; i < 5; i++) pthread_join(t[i], 0);
  E("xor", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_XOR, 3, FUTEX_OP_CMP_LT, 0)));
  printf("%u\n", b);
  E("shift", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_SET | 8, 7, FUTEX_OP_CMP_NE, 0)));
  printf("%u\n", b);
  E("set-1", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_SET, -1, FUTEX_OP_CMP_NE, 0)));
  printf("%u\n", b);
  E("badop", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, 5u << 28));
  E("badcmp", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, 9u << 24));
  E("fault", fut(&a, FUTEX_WAKE_OP, 1, (void *)1, (void *)8, 0));
  E("align", fut((void *)((char *)&a + 1), FUTEX_WAKE, 1, 0, 0, 0));
  E("clockrt", fut(&a, FUTEX_WAIT | 256, 5, 0, 0, 0));
  E("op", fut(&a, 99, 5, 0, 0, 0));
  E("bitset0", fut(&a, FUTEX_WAIT_BITSET, 5, 0, 0, 0));
  // PI
  pthread_mutexattr_t at;
  pthread_mutexattr_init(&at);
  pthread_mutexattr_setprotocol(&at, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&m, &at);
  pthread_mutex_lock(&m);
  for (long i = 0; i < 4; i++) {
    pthread_create(&t[i], 0, pw, (void *)i);
    ms(80);
  }
  pthread_mutex_unlock(&m);
  for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
  printf("order %d %d %d %d\n", order[0], order[1], order[2], order[3]);
  for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, inc, 0);
  for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
  printf("cnt %d\n", cnt);
  E("unlock", fut(&pi, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
  E("lock", fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0));
  printf("own %d\n", pi == gettid());
  E("dead", fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0));
  E("unlock", fut(&pi, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
  printf("%u\n", pi);
  pi = 0x3ffffff0;
  E("esrch", fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0));
  pi = 0;
  pthread_create(&t[0], 0, pitake_hold, 0);
  ms(150);
  E("try", fut(&pi, FUTEX_TRYLOCK_PI, 0, 0, 0, 0));
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  now.tv_nsec += 20000000;
  if (now.tv_nsec >= 1000000000) {
    now.tv_sec++;
    now.tv_nsec -= 1000000000;
  }
  E("timed", fut(&pi, FUTEX_LOCK_PI, 0, &now, 0, 0));
  E("lock", fut(&pi, FUTEX_LOCK_PI, 0, 0, 0, 0));
  printf("own %d\n", (pi & 0x3fffffff) == gettid());
  pthread_join(t[0], 0);
  E("unlock", fut(&pi, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
  printf("pi %x\n", pi);
  pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&at, 1);
  pthread_mutex_t *sm = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutex_init(sm, &at);
  volatile int *held = (volatile int *)(sm + 1);
  pid_t c = fork();
  if (!c) {
    pthread_mutex_lock(sm);
    *held = 1;
    ms(100);
    _exit(0);
  }
  while (!*held) ms(1);
  int r = pthread_mutex_lock(sm);
  printf("robust pi %d\n", r == EOWNERDEAD);
  if (r == EOWNERDEAD) pthread_mutex_consistent(sm);
  printf("unlock %d\n", pthread_mutex_unlock(sm));
  wait(&st);
  // membarrier
  printf("mb %d\n", (int)(syscall(SYS_membarrier, 0, 0, 0) & 0x19));
  E("unreg", syscall(SYS_membarrier, 8, 0, 0));
  E("reg", syscall(SYS_membarrier, 16, 0, 0));
  E("priv", syscall(SYS_membarrier, 8, 0, 0));
  E("glob", syscall(SYS_membarrier, 1, 0, 0));
  E("bad", syscall(SYS_membarrier, 3, 0, 0));
  E("flags", syscall(SYS_membarrier, 1, 2, 0));
  E("sync", syscall(SYS_membarrier, 32, 0, 0));
  // get_robust_list
  void *h;
  size_t l;
  E("grl", syscall(SYS_get_robust_list, 0, &h, &l));
  printf("%zu %d\n", l, h != 0);
  E("grl", syscall(SYS_get_robust_list, 9999999, &h, &l));
  E("srl", syscall(SYS_set_robust_list, 0, 5));
  // clone3 with pidfd; clear sighand
  struct {
    uint64_t f, pidfd, ct, pt, sig, stk, ss, tls, st, sts, cg;
  } ca = {0};
  int fd = -1;
  ca.f = 0x1000;
  ca.pidfd = (uint64_t)&fd;
  ca.sig = SIGCHLD;
  long p = syscall(SYS_clone3, &ca, 88);
  if (p == 0) _exit(9);
  printf("clone3 %d fd %d cloexec %d\n", p > 0, fd >= 0, fcntl(fd, F_GETFD));
  siginfo_t si;
  r = waitid(P_PIDFD, fd, &si, WEXITED);
  printf("%d %d\n", r, si.si_status);
  close(fd);
  p = syscall(SYS_clone, 0x1000 | SIGCHLD, 0, &fd, 0, 0);
  if (p == 0) _exit(4);
  waitpid(p, &st, 0);
  printf("clone pidfd %d %x\n", fd >= 0, st);
  close(fd);
  E("both", syscall(SYS_clone, 0x1000 | 0x100000 | SIGCHLD, 0, &fd, 0, 0));
  signal(SIGUSR1, SIG_IGN);
  signal(SIGUSR2, (void *)main);
  memset(&ca, 0, sizeof ca);
  ca.f = 0x100000000ull;
  ca.sig = SIGCHLD;
  p = syscall(SYS_clone3, &ca, 88);
  if (p == 0) {
    struct sigaction o;
    sigaction(SIGUSR2, 0, &o);
    int x = o.sa_handler == SIG_DFL;
    sigaction(SIGUSR1, 0, &o);
    _exit(x * 2 + (o.sa_handler == SIG_IGN));
  }
  waitpid(p, &st, 0);
  printf("clear %x\n", st);
  E("small", syscall(SYS_clone3, &ca, 63));
  ca.f = 0x4000000000ull;
  E("flags", syscall(SYS_clone3, &ca, 88));
  ca.f = 0;
  ca.sig = 65;
  E("sig", syscall(SYS_clone3, &ca, 88));
  ca.sig = 0;
  ca.stk = 8;
  E("stack", syscall(SYS_clone3, &ca, 88));
  E("thread", syscall(SYS_clone, 0x10000, 0, 0, 0, 0));
  E("sighand", syscall(SYS_clone, 0x800, 0, 0, 0, 0));
  // execveat
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  char *av[] = {"me", "x", 0};
  char *ev[] = {0};
  c = fork();
  if (!c) {
    syscall(SYS_execveat, self, "", av, ev, 0x1000);
    _exit(99);
  }
  wait(&st);
  printf("execveat %x\n", st);
  int d = open("/bin", O_PATH | O_DIRECTORY);
  char *tv[] = {"true", 0};
  c = fork();
  if (!c) {
    syscall(SYS_execveat, d, "true", tv, ev, 0);
    _exit(99);
  }
  wait(&st);
  printf("dir %x\n", st);
  E("empty", syscall(SYS_execveat, d, "", tv, ev, 0));
  E("badfd", syscall(SYS_execveat, 99, "true", tv, ev, 0));
  E("flag", syscall(SYS_execveat, d, "true", tv, ev, 1));
  E("isdir", syscall(SYS_execveat, d, "", tv, ev, 0x1000));
  char lnk[64];
  sprintf(lnk, "/tmp/sl_exec.%d", getpid());
  symlink("/bin/true", lnk);
  E("link", syscall(SYS_execveat, -100, lnk, tv, ev, 0x100));
  unlink(lnk);
  char scr[64];
  sprintf(scr, "/tmp/sc_exec.%d", getpid());
  int sf = open(scr, O_CREAT | O_WRONLY, 0755);
  write(sf, "#!/bin/sh\necho script $0\n", 25);
  close(sf);
  sf = open(scr, O_RDONLY);
  dup2(sf, 50);
  close(sf);
  sf = 50;
  char *sv[] = {"s", 0};
  c = fork();
  if (!c) {
    syscall(SYS_execveat, sf, "", sv, ev, 0x1000);
    _exit(99);
  }
  wait(&st);
  printf("script %x\n", st);
  fcntl(sf, F_SETFD, 1);
  E("cloexec script", syscall(SYS_execveat, sf, "", sv, ev, 0x1000));
  unlink(scr);
  return 0;
}
