/* Time namespaces: clocks with offsets. */
#include "../case.h"
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <linux/sched.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* Seconds that a clock shows, by the system call and by the vDSO. */
static long seconds(int clock) {
  struct timespec a, b;
  S(clock_gettime, clock, &a);
  clock_gettime(clock, &b);
  return b.tv_sec - a.tv_sec > 1 || a.tv_sec > b.tv_sec ? -1 : a.tv_sec;
}

static long set(const char *text) {
  int fd = open("/proc/self/timens_offsets", O_WRONLY);
  long r = write(fd, text, strlen(text));
  if (r < 0) r = -errno;
  close(fd);
  return r;
}

static const int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE,
                             CLOCK_BOOTTIME, CLOCK_TAI};

/* What the clocks show more than they did, in units of 1000 s. */
static void compare(const long *before) {
  for (int i = 0; i < 6; i++) {
    long now = seconds(clocks[i]);
    out("clock %d: %ld\n", clocks[i], now < 0 ? -1 : (now - before[i] + 500) / 1000);
  }
}

CASE(unshare, newtime) {
  long before[6];
  for (int i = 0; i < 6; i++) before[i] = seconds(clocks[i]);
  R(unshare, CLONE_NEWTIME);
  show("/proc/self/timens_offsets");
  P(set("monotonic 100000 0\nboottime 500000 999999999\n"));
  show("/proc/self/timens_offsets");
  compare(before);
  CHILD(compare(before); show("/proc/self/timens_offsets"));
  P(set("monotonic 5 0\n"));
  compare(before);
}

CASE(unshare, newtime_offsets) {
  P(set("monotonic 5 0\n"));
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 5\n"));
  P(set("monotonic x 0\n"));
  P(set("realtime 5 0\n"));
  P(set("0 5 0\n"));
  P(set("monotonic 5 1000000000\n"));
  P(set("monotonic 5 -1\n"));
  P(set("monotonic -900000000 0\n"));
  P(set("monotonic 9223372036 0\n"));
  P(set(""));
  P(set("monotonic 5 0\nboottime 6 0\nmonotonic 7 0\n"));
  P(set("1 77 5"));
  P(set("7 78 6\n"));
  show("/proc/self/timens_offsets");
  P(unshare(CLONE_NEWTIME));
  show("/proc/self/timens_offsets");
  CHILD(become(1000, 1000); P(set("monotonic 5 0\n") < 0));
}

CASE(unshare, newtime_needs_a_capability) {
  become(1000, 1000);
  R(unshare, CLONE_NEWTIME);
}

CASE(clone3, newtime) {
  long before[6];
  for (int i = 0; i < 6; i++) before[i] = seconds(clocks[i]);
  struct clone_args a = {.flags = CLONE_NEWTIME, .exit_signal = SIGCHLD};
  pid_t p = S(clone3, &a, sizeof a);
  if (p == 0) { compare(before); P(set("monotonic 5 0\n")); _exit(0); }
  WAIT(p);
}

CASE(setns, time) {
  long before[6];
  for (int i = 0; i < 6; i++) before[i] = seconds(clocks[i]);
  int own = open("/proc/self/ns/time", O_RDONLY);
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\nboottime 300000 0\n"));
  int other = open("/proc/self/ns/time_for_children", O_RDONLY);
  R(setns, other, CLONE_NEWPID);
  R(setns, other, CLONE_NEWTIME);
  compare(before);
  P(set("monotonic 200000 0\n"));
  R(setns, own, 0);
  compare(before);
}

static void *idle(void *x) { pause(); return 0; }
CASE(setns, time_with_threads) {
  P(unshare(CLONE_NEWTIME));
  int other = open("/proc/self/ns/time_for_children", O_RDONLY);
  pthread_t t;
  pthread_create(&t, 0, idle, 0);
  R(setns, other, 0);
}

CASE(execve, enters_time_for_children) {
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\nboottime 50000000 0\n"));
  char *v[] = {"sh", "-c", "read up rest </proc/uptime; echo $((${up%.*} > 50000000)); cat /proc/self/timens_offsets", 0};
  execv("/bin/sh", v);
}

CASE(timerfd_settime, absolute_in_a_namespace) {
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\nboottime 300000 0\n"));
  CHILD(
      struct timespec when;
      int id[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
      for (int i = 0; i < 2; i++) {
        clock_gettime(id[i], &when);
        int fd = timerfd_create(id[i], 0);
        struct itimerspec t = {.it_value = when};
        t.it_value.tv_nsec += 200000000;
        if (t.it_value.tv_nsec >= 1000000000) { t.it_value.tv_nsec -= 1000000000; t.it_value.tv_sec++; }
        u64 n = 0;
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, 0);
        TAKES(100, read(fd, &n, 8));
        out("%lu\n", n);
        t.it_value.tv_sec = 1000;
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, 0);
        read(fd, &n, 8);
        out("%lu\n", n);
        t.it_value.tv_sec = when.tv_sec + 1000;
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, 0);
        timerfd_gettime(fd, &t);
        out("left %d\n", t.it_value.tv_sec >= 900 && t.it_value.tv_sec <= 1000);
      });
}

CASE(clock_nanosleep, absolute_in_a_namespace) {
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\nboottime 300000 0\n"));
  CHILD(
      struct timespec when;
      int id[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
      for (int i = 0; i < 2; i++) {
        clock_gettime(id[i], &when);
        when.tv_nsec += 200000000;
        if (when.tv_nsec >= 1000000000) { when.tv_nsec -= 1000000000; when.tv_sec++; }
        TAKES(100, P(clock_nanosleep(id[i], TIMER_ABSTIME, &when, 0)));
        when.tv_sec = 100000;
        P(clock_nanosleep(id[i], TIMER_ABSTIME, &when, 0));
      });
}

CASE(timer_settime, absolute_in_a_namespace) {
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\nboottime 300000 0\n"));
  CHILD(
      sigset_t set_;
      sigemptyset(&set_);
      sigaddset(&set_, SIGALRM);
      sigprocmask(SIG_BLOCK, &set_, 0);
      struct timespec when;
      timer_t id;
      P(timer_create(CLOCK_MONOTONIC, 0, &id));
      clock_gettime(CLOCK_MONOTONIC, &when);
      when.tv_nsec += 200000000;
      if (when.tv_nsec >= 1000000000) { when.tv_nsec -= 1000000000; when.tv_sec++; }
      struct itimerspec t = {.it_value = when};
      P(timer_settime(id, TIMER_ABSTIME, &t, 0));
      TAKES(100, P(sigwaitinfo(&set_, 0) == SIGALRM)));
}

CASE(futex, absolute_in_a_namespace) {
  P(unshare(CLONE_NEWTIME));
  P(set("monotonic 200000 0\n"));
  CHILD(
      struct timespec when;
      int word = 0;
      clock_gettime(CLOCK_MONOTONIC, &when);
      when.tv_nsec += 200000000;
      if (when.tv_nsec >= 1000000000) { when.tv_nsec -= 1000000000; when.tv_sec++; }
      TAKES(100, R(futex, &word, 9, 0, &when, 0, -1));
      when.tv_sec = 100000;
      R(futex, &word, 9, 0, &when, 0, -1));
}

CASE(sysinfo, in_a_namespace) {
  struct sysinfo a, b;
  P(unshare(CLONE_NEWTIME));
  P(set("boottime 300000 0\n"));
  sysinfo(&a);
  CHILD(sysinfo(&b); P((b.uptime - a.uptime + 500) / 1000));
}

CASE(readlink, ns_time) {
  char a[64], b[64];
  long n = readlink("/proc/self/ns/time", a, 63), m = readlink("/proc/self/ns/time_for_children", b, 63);
  P(n == m && !memcmp(a, b, n));
  P(unshare(CLONE_NEWTIME));
  m = readlink("/proc/self/ns/time_for_children", b, 63);
  P(n == m && !memcmp(a, b, n));
  CHILD(m = readlink("/proc/self/ns/time", a, 63); P(n == m && !memcmp(a, b, n)));
}
