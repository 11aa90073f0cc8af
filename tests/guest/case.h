/* The form of a file of cases: many small named cases about system calls, each run by `main` below in a process of its own,
 * so that a crash hurts only itself. A case says nothing about what is right: it prints what the kernel did, and the host
 * kernel is the oracle.
 *
 *   CASE(read, at_the_end) {              a case of the call read, named at_the_end
 *     int fd = S(open, "f", O_RDWR | O_CREAT, 0644);    S: the call's result, or the negative errno
 *     R(read, fd, buf, 10);                             R: the same, and prints "read(fd, buf, 10) = 0"
 *   }
 *
 * A case starts in an empty folder of its own, with /dev/null as standard input, 1 and 2 as its report, a session of its own
 * and umask 022. Usage: PROGRAM [--dir DIR] [--limit SECONDS] [--list] [--but NAME,NAME…] [NAME…]
 */
#ifndef CASE_H
#define CASE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Calls newer than the C library's headers. */
#define NEWER(name, nr) enum { SYS_##name = nr };
#ifndef SYS_cachestat
enum { SYS_cachestat = 451 };
#endif
#ifndef SYS_fchmodat2
enum { SYS_fchmodat2 = 452 };
#endif
#ifndef SYS_map_shadow_stack
enum { SYS_map_shadow_stack = 453, SYS_futex_wake, SYS_futex_wait, SYS_futex_requeue, SYS_statmount, SYS_listmount,
       SYS_lsm_get_self_attr, SYS_lsm_set_self_attr, SYS_lsm_list_modules, SYS_mseal };
#endif
#ifndef SYS_setxattrat
enum { SYS_setxattrat = 463, SYS_getxattrat, SYS_listxattrat, SYS_removexattrat, SYS_open_tree_attr, SYS_file_getattr,
       SYS_file_setattr };
#endif

typedef unsigned char u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

/* An address that no process has mapped, one that none may have, and one of the kernel. */
#define BAD ((void *)8)
#define HIGH ((void *)0x7ffffffff000ul)
#define KERNEL ((void *)0xffff800000000000ul)

struct case_ {
  const char *syscall, *name;
  int line;
  void (*run)(void);
};

#define CASE(call, title)                                                                            \
  static void case_##call##__##title(void);                                                         \
  static struct case_ entry_##call##__##title = {#call, #title, __LINE__, case_##call##__##title};  \
  static struct case_ *const link_##call##__##title                                                 \
      __attribute__((section("cases"), used)) = &entry_##call##__##title;                           \
  static void case_##call##__##title(void)

/* ---- calling the kernel ---- */

static inline long raw_call(long nr, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

#define CASE_CAT_(a, b) a##b
#define CASE_CAT(a, b) CASE_CAT_(a, b)
#define CASE_COUNT_(z, a, b, c, d, e, f, n, ...) n
#define CASE_COUNT(...) CASE_COUNT_(0, ##__VA_ARGS__, 6, 5, 4, 3, 2, 1, 0)
#define CASE_S0(n) raw_call(n, 0, 0, 0, 0, 0, 0)
#define CASE_S1(n, a) raw_call(n, (long)(a), 0, 0, 0, 0, 0)
#define CASE_S2(n, a, b) raw_call(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define CASE_S3(n, a, b, c) raw_call(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CASE_S4(n, a, b, c, d) raw_call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CASE_S5(n, a, b, c, d, e) raw_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define CASE_S6(n, a, b, c, d, e, f) raw_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* The call's result, or the negative errno. */
#define S(name, ...) CASE_CAT(CASE_S, CASE_COUNT(__VA_ARGS__))(SYS_##name, ##__VA_ARGS__)
/* The same; prints the call and its result. */
#define R(name, ...) report_result(#name "(" #__VA_ARGS__ ")", S(name, ##__VA_ARGS__), 0)
/* The same; prints only whether it succeeded or the errno: for results that differ from run to run. */
#define OK(name, ...) report_result(#name "(" #__VA_ARGS__ ")", S(name, ##__VA_ARGS__), 1)
/* Prints an integer. */
#define P(expr) out("%s = %ld\n", #expr, (long)(expr))
#define X(expr) out("%s = %#lx\n", #expr, (long)(expr))
/* Prints the same of a C library function that sets errno. */
#define L(call) ({ errno = 0; long r_ = (long)(call); report_result(#call, r_ == -1 && errno ? -errno : r_, 0); })
/* Prints a result (or negative errno) under a name. */
#define V(name, value) report_result(name, (long)(value), 0)
/* Ends the case as skipped. */
#define SKIP(why) (out("#skip %s\n", why), _exit(0))
#define NEED(condition) do { if (!(condition)) SKIP("needs " #condition); } while (0)

static void out(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int report_fd = 1;
static void out(const char *format, ...) {
  char line[1024];
  va_list list;
  va_start(list, format);
  int n = vsnprintf(line, sizeof line, format, list);
  va_end(list);
  if (n > (int)sizeof line - 1) n = sizeof line - 1;
  raw_call(SYS_write, report_fd, (long)line, n, 0, 0, 0);
}

static const char *error_name(long error) {
  static char number[24];
  const char *name = strerrorname_np((int)error);
  if (name) return name;
  snprintf(number, sizeof number, "E%ld", error);
  return number;
}

__attribute__((unused)) static long report_result(const char *what, long result, int brief) {
  if (result < 0 && result > -4096) out("%s = -%s\n", what, error_name(-result));
  else if (brief) out("%s = ok\n", what);
  else out("%s = %ld\n", what, result);
  return result;
}

/* ---- small tools ---- */

__attribute__((unused)) static char buf[65536];

/* Makes a file with the given text. */
__attribute__((unused)) static int make(const char *path, const char *text) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && *text && write(fd, text, strlen(text)) < 0) out("make %s: %s\n", path, error_name(errno));
  return fd;
}

__attribute__((unused)) static void touch(const char *path) { close(make(path, "")); }

/* Prints the text of a file, escaped. */
__attribute__((unused)) static void show_bytes(const char *what, const void *bytes, long n) {
  char text[900];
  int at = 0;
  for (long i = 0; i < n && at < 860; i++) {
    u8 c = ((const u8 *)bytes)[i];
    at += c >= 32 && c < 127 && c != '\\' ? sprintf(text + at, "%c", c) : sprintf(text + at, "\\%02x", c);
  }
  text[at] = 0;
  out("%s: %ld \"%s\"\n", what, n, text);
}

__attribute__((unused)) static void show(const char *path) {
  char bytes[800];
  int fd = open(path, O_RDONLY);
  if (fd < 0) { out("%s: %s\n", path, error_name(errno)); return; }
  long n = read(fd, bytes, sizeof bytes);
  close(fd);
  show_bytes(path, bytes, n < 0 ? 0 : n);
}

/* Prints how a child ended. */
__attribute__((unused)) static void show_status(const char *what, int status) {
  if (WIFEXITED(status)) out("%s: exit %d\n", what, WEXITSTATUS(status));
  else if (WIFSIGNALED(status)) out("%s: signal %d%s\n", what, WTERMSIG(status), WCOREDUMP(status) ? " core" : "");
  else if (WIFSTOPPED(status)) out("%s: stopped by %d\n", what, WSTOPSIG(status));
  else if (WIFCONTINUED(status)) out("%s: continued\n", what);
  else out("%s: status %#x\n", what, status);
}

__attribute__((unused)) static int reap(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR);
  return status;
}

/* Runs statements in a child, waits, and prints how it ended unless it was exit 0. */
#define CHILD(...)                                                    \
  do {                                                                \
    pid_t child_ = fork();                                            \
    if (child_ == 0) { __VA_ARGS__; _exit(0); }                       \
    int status_ = reap(child_);                                       \
    if (status_ != 0) show_status("child", status_);                  \
  } while (0)

/* Starts statements in a child that is waited for later with WAIT. */
#define SPAWN(...) ({ pid_t child_ = fork(); if (child_ == 0) { __VA_ARGS__; _exit(0); } child_; })
#define WAIT(pid) show_status(#pid, reap(pid))

__attribute__((unused)) static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((unused)) static void nap(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
  while (nanosleep(&t, &t) < 0 && errno == EINTR);
}

/* Whether statements take at least so many milliseconds (an upper bound would depend on the load). */
#define TAKES(ms, ...)                                                                                   \
  do {                                                                                                   \
    double start_ = now();                                                                               \
    __VA_ARGS__;                                                                                         \
    double took_ = (now() - start_) * 1000;                                                              \
    if (took_ >= (ms) - 1) out("takes %s ms or more\n", #ms); else out("takes only %.1f of %s ms\n", took_, #ms); \
  } while (0)

/* A page and the unmapped one after it: a place whose end is the end of memory. */
__attribute__((unused)) static char *edge(void) {
  char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(p + 4096, 4096);
  return p + 4096;
}

__attribute__((unused)) static char *pages(int n) {
  return mmap(0, n * 4096ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

__attribute__((unused)) static char *shared_pages(int n) {
  return mmap(0, n * 4096ul, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

__attribute__((unused)) static void become(uid_t uid, gid_t gid) {
  raw_call(SYS_setgroups, 0, 0, 0, 0, 0, 0);
  raw_call(SYS_setresgid, gid, gid, gid, 0, 0, 0);
  raw_call(SYS_setresuid, uid, uid, uid, 0, 0, 0);
}

/* Counts signals. */
static volatile sig_atomic_t caught, caught_number;
__attribute__((unused)) static void on_signal(int number) { caught++; caught_number = number; }
__attribute__((unused)) static void catch_signal(int number, int flags) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
  sigaction(number, &action, 0);
}

/* Sends SIGALRM every so many milliseconds: on a busy machine the first may come before the call that it is to interrupt. */
__attribute__((unused)) static void ticks(int ms) {
  struct itimerval t = {{0, ms * 1000}, {0, ms * 1000}};
  setitimer(ITIMER_REAL, &t, 0);
}

__attribute__((unused)) static u64 bit(int number) { return 1ull << (number - 1); }

/* ---- running the cases ---- */

#ifndef CASE_NO_MAIN
extern struct case_ *const __start_cases[], *const __stop_cases[];

static int by_line(const void *a, const void *b) {
  return (*(struct case_ *const *)a)->line - (*(struct case_ *const *)b)->line;
}

static int is_named(const char *list, const struct case_ *c) {
  char full[256];
  snprintf(full, sizeof full, "%s.%s", c->syscall, c->name);
  size_t n = strlen(full);
  for (const char *at = list; (at = strstr(at, full)); at += n)
    if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == 0)) return 1;
  return 0;
}

/* Removes the folder that this program made itself; one that it was given is its giver's to remove. */
static void sweep(const char *dir) {
  pid_t pid = fork();
  if (pid == 0) {
    int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    execl("/bin/rm", "rm", "-rf", dir, (char *)0);
    _exit(127);
  }
  reap(pid);
}

static void run_case(const struct case_ *c, const char *dir, int seconds) {
  int ends[2];
  char place[512], block[4096];
  snprintf(place, sizeof place, "%s/%s.%s", dir, c->syscall, c->name);
  out("=== %s.%s\n", c->syscall, c->name);
  mkdir(place, 0755);
  if (pipe2(ends, O_CLOEXEC) < 0) { out("--- exit 98\n"); return; }
  pid_t pid = fork();
  if (pid == 0) {
    setsid();
    umask(022);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    if (chdir(place) < 0) { out("chdir %s: %s\n", place, error_name(errno)); _exit(97); }
    c->run();
    _exit(0);
  }
  close(ends[1]);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  double end = now() + seconds;
  int status = -1, ended = 0, timed_out = 0, last = '\n';
  long room = 1 << 16;
  for (;;) {
    struct pollfd p = {ends[0], POLLIN, 0};
    poll(&p, 1, 20);
    /* In this order, so that everything the child wrote before it ended is read. */
    if (!ended && waitpid(pid, &status, WNOHANG) == pid) ended = 1;
    long n;
    while ((n = read(ends[0], block, sizeof block)) > 0) {
      last = block[n - 1];
      if (n > room) n = room;
      room -= n;
      if (n > 0 && write(1, block, n) < 0) _exit(99);
    }
    if (n == 0 && !ended) { /* every writer is gone: the child has ended or closed its report */
      nap(1);
    }
    if (ended) break;
    if (now() > end) {
      timed_out = 1;
      kill(-pid, SIGKILL);
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      break;
    }
  }
  close(ends[0]);
  kill(-pid, SIGKILL); /* what the case left behind */
  while (waitpid(-1, 0, WNOHANG) > 0);
  if (last != '\n') out("\n");
  if (timed_out) out("--- timeout\n");
  else if (WIFEXITED(status)) out("--- exit %d\n", WEXITSTATUS(status));
  else out("--- signal %d\n", WTERMSIG(status));
}

int main(int argc, char **argv) {
  const char *dir = 0, *but = "", *only = 0;
  int list = 0, seconds = 20;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--list")) list = 1;
    else if (!strcmp(argv[i], "--dir") && i + 1 < argc) dir = argv[++i];
    else if (!strcmp(argv[i], "--limit") && i + 1 < argc) seconds = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--but") && i + 1 < argc) but = argv[++i];
    else only = argv[i];
  }
  long count = __stop_cases - __start_cases;
  const struct case_ *all[count];
  memcpy(all, __start_cases, sizeof all);
  qsort(all, count, sizeof *all, by_line);
  char made[] = "/tmp/case.XXXXXX";
  if (!dir && !list) dir = mkdtemp(made);
  if (dir) mkdir(dir, 0755);
  close(0);
  if (open("/dev/null", O_RDWR) != 0) return 96;
  raw_call(SYS_close_range, 3, ~0u, 0, 0, 0, 0); /* what the runner left open */
  /* A runner may have left signals blocked or ignored. */
  u64 none = 0, action[4] = {0};
  for (int number = 1; number <= 64; number++) raw_call(SYS_rt_sigaction, number, (long)action, 0, 8, 0, 0);
  raw_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, 8, 0, 0);
  for (long i = 0; i < count; i++) {
    if (is_named(but, all[i]) || (only && !is_named(only, all[i]))) continue;
    if (list) out("%s.%s %s\n", all[i]->syscall, all[i]->name, all[i]->syscall);
    else run_case(all[i], dir, seconds);
  }
  if (dir == made) sweep(made);
  return 0;
}
#endif
#endif
