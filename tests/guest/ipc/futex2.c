/* futex_waitv, futex_wake, futex_wait, futex_requeue; waiting that ends with an owner-tracking lock. */
#include "print.h"
#include <linux/futex.h>
#ifndef SYS_futex_wake
#define SYS_futex_wake 454
#define SYS_futex_wait 455
#define SYS_futex_requeue 456
#endif
#define U32 2
#define PRIV 128

struct waitv {
  uint64_t val, addr;
  uint32_t flags, reserved;
};
static uint32_t w[130];
static volatile int started, index_got;
static long waitv(struct waitv *v, unsigned n, unsigned flags, struct timespec *t, int clock) {
  return syscall(SYS_futex_waitv, v, n, flags, t, clock);
}
static void after(struct timespec *t, int clock, int millis) {
  clock_gettime(clock, t);
  t->tv_nsec += millis * 1000000L;
  t->tv_sec += t->tv_nsec / 1000000000;
  t->tv_nsec %= 1000000000;
}
static void wait_thread_asleep(int tid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  for (int i = 0; i < 2000; i++) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (n > 0) {
      text[n] = 0;
      char *p = strrchr(text, ')');
      if (p && p[2] == 'S') return;
    }
    ms(2);
  }
}
static volatile int tid;
static void *vwaiter(void *a) {
  tid = syscall(SYS_gettid);
  struct waitv v[128] = {0};
  for (int i = 0; i < 128; i++) v[i] = (struct waitv){0, (uintptr_t)&w[i], U32 | PRIV, 0};
  index_got = waitv(v, 128, 0, 0, 0);
  return 0;
}
static void *waiter(void *a) {
  tid = syscall(SYS_gettid);
  return (void *)syscall(SYS_futex_wait, &w[0], 0, 4, U32 | PRIV, 0, 0);
}
static uint32_t lock, cond;
static volatile long got;
static void *pi_waiter(void *a) {
  tid = syscall(SYS_gettid);
  got = syscall(SYS_futex, &cond, FUTEX_WAIT_REQUEUE_PI | PRIV, 0, 0, &lock, 0);
  printf("pi waiter %ld owns %d\n", got, (lock & FUTEX_TID_MASK) == syscall(SYS_gettid));
  syscall(SYS_futex, &lock, FUTEX_UNLOCK_PI | PRIV, 0, 0, 0, 0);
  return 0;
}
int main(void) {
  struct waitv v[2] = {{0, (uintptr_t)&w[0], U32 | PRIV, 0}, {0, (uintptr_t)&w[1], U32 | PRIV, 0}};
  struct timespec t = {0, 0};
  E("flags", waitv(v, 2, 1, 0, 0));
  E("none", waitv(v, 0, 0, 0, 0));
  E("many", waitv(v, 129, 0, 0, 0));
  E("null", waitv(0, 1, 0, 0, 0));
  E("clock", waitv(v, 1, 0, &t, 7));
  E("bad fault", waitv((void *)8, 1, 0, 0, 0));
  t.tv_nsec = 1000000000;
  E("bad time", waitv(v, 1, 0, &t, 1));
  after(&t, CLOCK_MONOTONIC, 20);
  E("timeout", waitv(v, 2, 0, &t, CLOCK_MONOTONIC));
  after(&t, CLOCK_REALTIME, 20);
  E("real timeout", waitv(v, 2, 0, &t, CLOCK_REALTIME));
  v[1].val = 5;
  E("other value", waitv(v, 2, 0, 0, 0));
  v[1].val = 1ull << 32;
  E("wide value", waitv(v, 2, 0, 0, 0));
  v[1].val = 0;
  v[1].flags = 0;
  E("size", waitv(v, 2, 0, 0, 0));
  v[1].flags = U32 | 0x40;
  E("entry flags", waitv(v, 2, 0, 0, 0));
  v[1].flags = U32;
  v[1].reserved = 1;
  E("reserved", waitv(v, 2, 0, 0, 0));
  v[1].reserved = 0;
  v[1].addr = 2;
  E("unaligned", waitv(v, 2, 0, 0, 0));
  v[1].addr = 8;
  E("unmapped", waitv(v, 2, 0, 0, 0));
  pthread_t th;
  for (int i = 0; i < 128; i += 63) {
    tid = 0;
    pthread_create(&th, 0, vwaiter, 0);
    while (!tid) sched_yield();
    wait_thread_asleep(tid);
    long woke;
    /* It sleeps by its state before the last word is queued. */
    while (!(woke = syscall(SYS_futex_wake, &w[i], -1, 1, U32 | PRIV))) ms(1);
    printf("woke %ld ", woke);
    pthread_join(th, 0);
    printf("index %d\n", index_got);
  }
  E("wake flags", syscall(SYS_futex_wake, &w[0], 1, 1, 0));
  E("wake no bits", syscall(SYS_futex_wake, &w[0], 0, 1, U32));
  E("wake unmapped", syscall(SYS_futex_wake, 8, 1, 1, U32));
  E("wake none", syscall(SYS_futex_wake, &w[0], 1, 0, U32 | PRIV));
  E("wait value", syscall(SYS_futex_wait, &w[0], 1, 1, U32 | PRIV, 0, 0));
  E("wait no bits", syscall(SYS_futex_wait, &w[0], 0, 0, U32 | PRIV, 0, 0));
  E("wait flags", syscall(SYS_futex_wait, &w[0], 0, 1, PRIV, 0, 0));
  E("wait clock", syscall(SYS_futex_wait, &w[0], 0, 1, U32 | PRIV, &t, 7));
  after(&t, CLOCK_MONOTONIC, 20);
  E("wait timeout", syscall(SYS_futex_wait, &w[0], 0, 1, U32 | PRIV, &t, CLOCK_MONOTONIC));
  tid = 0;
  pthread_create(&th, 0, waiter, 0);
  while (!tid) sched_yield();
  wait_thread_asleep(tid);
  E("other bits", syscall(SYS_futex_wake, &w[0], 3, 1, U32 | PRIV));
  struct waitv rq[2] = {{0, (uintptr_t)&w[0], U32 | PRIV, 0}, {0, (uintptr_t)&w[1], U32 | PRIV, 0}};
  E("requeue flags", syscall(SYS_futex_requeue, rq, 1, 0, 1));
  E("requeue null", syscall(SYS_futex_requeue, 0, 0, 0, 1));
  E("requeue negative", syscall(SYS_futex_requeue, rq, 0, -1, 1));
  rq[0].val = 9;
  E("requeue value", syscall(SYS_futex_requeue, rq, 0, 0, 1));
  rq[0].val = 0;
  E("requeue", syscall(SYS_futex_requeue, rq, 0, 0, 1));
  E("old word", syscall(SYS_futex_wake, &w[0], -1, 1, U32 | PRIV));
  E("new word", syscall(SYS_futex_wake, &w[1], 4, 1, U32 | PRIV));
  void *r;
  pthread_join(th, &r);
  printf("waiter %ld\n", (long)r);

  E("pi same word", syscall(SYS_futex, &cond, FUTEX_WAIT_REQUEUE_PI | PRIV, 0, 0, &cond, 0));
  E("pi wake 2", syscall(SYS_futex, &cond, FUTEX_CMP_REQUEUE_PI | PRIV, 2, 1L, &lock, 0));
  E("pi value", syscall(SYS_futex, &cond, FUTEX_CMP_REQUEUE_PI | PRIV, 1, 1L, &lock, 7));
  E("pi requeue same", syscall(SYS_futex, &cond, FUTEX_CMP_REQUEUE_PI | PRIV, 1, 1L, &cond, 0));
  pthread_t three[3];
  E("lock", syscall(SYS_futex, &lock, FUTEX_LOCK_PI | PRIV, 0, 0, 0, 0));
  for (int i = 0; i < 3; i++) {
    tid = 0;
    pthread_create(&three[i], 0, pi_waiter, 0);
    while (!tid) sched_yield();
    wait_thread_asleep(tid);
  }
  E("requeue pi", syscall(SYS_futex, &cond, FUTEX_CMP_REQUEUE_PI | PRIV, 1, 10L, &lock, 0));
  ms(20);
  long unlocked = syscall(SYS_futex, &lock, FUTEX_UNLOCK_PI | PRIV, 0, 0, 0, 0);
  for (int i = 0; i < 3; i++) pthread_join(three[i], 0);
  printf("unlock %ld\n", unlocked);
  printf("free %d\n", lock & FUTEX_TID_MASK);
  return 0;
}
