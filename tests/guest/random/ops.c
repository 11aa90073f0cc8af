/* A random but valid program of system calls, made from a seed: files, pipes, processes, signals, memory, sockets, timers, locks,
 * watches, terminals.
 * Every step prints its call and result, so that two kernels can be compared; a step depends on the seed and its own number
 * only, so that steps can be left out when a difference is made smaller.
 * Usage: ops [--dir DIR] [--steps LIST] COUNT SEED…      LIST: numbers with commas; all COUNT steps without it.
 */
#define CASE_NO_MAIN
#include "../case.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>

enum { FDS = 10, MAPS = 6, KIDS = 3 };
static int fds[FDS];
static struct { char *at; long len; } maps[MAPS];
static struct { pid_t pid; int to, from; } kids[KIDS];
static u64 rng;
static u32 pick(u32 n) {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  rng ^= rng << 17;
  return (u32)(rng >> 20) % n;
}
static int step, reserved;
static volatile int hits[65];
static void on_hit(int n) { hits[n]++; }

static const char *const paths[] = {"a", "b", "d", "d/a", "d/e", "l", "d/..", "d/e/f", "p", ".", "a/", "none/x", "m", "d/l", ""};
static const char *path(void) { return paths[pick(sizeof paths / sizeof *paths)]; }
static int slot(void) { return pick(FDS); }
static void put(int s, long fd) {
  if (fd < 0) return;
  if (fds[s] >= 0) S(close, fds[s]);
  fds[s] = fd;
}
/* Descriptors print as slots, so that a step left out does not change the others' output. */
#define SAY(format, ...) out("%d " format "\n", step, ##__VA_ARGS__)
static const char *result(long r) {
  static char t[32];
  if (r < 0 && r > -4096) snprintf(t, sizeof t, "-%s", error_name(-r));
  else snprintf(t, sizeof t, "%ld", r);
  return t;
}
static const char *yes(long r) { return r < 0 ? result(r) : "ok"; }
static u32 sum(const char *p, long n) {
  u32 h = 2166136261u;
  for (long i = 0; i < n; i++) h = (h ^ (u8)p[i]) * 16777619u;
  return h;
}
static void fill(char *p, int n, int with) { for (int i = 0; i < n; i++) p[i] = 'a' + (i * 7 + with) % 26; }

static void files(void) {
  static const int modes[] = {O_RDONLY, O_WRONLY, O_RDWR};
  static const int more[] = {0, O_CREAT, O_CREAT | O_EXCL, O_TRUNC, O_APPEND, O_CREAT | O_TRUNC, O_DIRECTORY, O_PATH, O_NOFOLLOW, O_CREAT | O_APPEND, O_DIRECTORY | O_CREAT};
  static const int lens[] = {0, 1, 10, 100, 4096, 5000, 12288};
  static const long places[] = {0, 1, 5, 4095, 4096, 8192, 20000, -1, 100000};
  int s = slot(), n = lens[pick(7)], k;
  long r, at = places[pick(9)];
  const char *p = path(), *q;
  struct stat st;
  switch (pick(34)) {
  case 0: case 1: case 2: case 3:
    k = modes[pick(3)] | more[pick(11)] | O_NONBLOCK;
    r = S(open, p, k, 0666 & ~pick(64));
    SAY("open(%s, %#o) = %s", p, k, yes(r));
    put(s, r);
    break;
  case 4: r = S(close, fds[s]); SAY("close(%d) = %s", s, result(r)); fds[s] = -1; break;
  case 5: case 6: memset(buf, 0, n + 1); r = S(read, fds[s], buf, n); SAY("read(%d, %d) = %s %x", s, n, result(r), sum(buf, r > 0 ? r : 0)); break;
  case 7: case 8: fill(buf, n, step); r = S(write, fds[s], buf, n); SAY("write(%d, %d) = %s", s, n, result(r)); break;
  case 9: r = S(pread64, fds[s], buf, n, at); SAY("pread(%d, %d, %ld) = %s %x", s, n, at, result(r), sum(buf, r > 0 ? r : 0)); break;
  case 10: fill(buf, n, step); r = S(pwrite64, fds[s], buf, n, at); SAY("pwrite(%d, %d, %ld) = %s", s, n, at, result(r)); break;
  case 11: k = pick(5); if (S(fstat, fds[s], &st) == 0 && S_ISDIR(st.st_mode)) k &= 1; /* differs between file systems, as does whether reserved space is data */ if (reserved && k > 2) k = SEEK_CUR; r = S(lseek, fds[s], at, k); SAY("lseek(%d, %ld, %d) = %s", s, at, k, k >= 3 ? yes(r) : result(r)); break;
  case 12: r = S(ftruncate, fds[s], at); SAY("ftruncate(%d, %ld) = %s", s, at, result(r)); break;
  case 13: r = S(truncate, p, at); SAY("truncate(%s, %ld) = %s", p, at, result(r)); break;
  case 14: r = S(mkdir, p, 0755); SAY("mkdir(%s) = %s", p, result(r)); break;
  case 15: r = S(rmdir, p); SAY("rmdir(%s) = %s", p, result(r)); break;
  case 16: r = S(unlink, p); SAY("unlink(%s) = %s", p, result(r)); break;
  case 17: case 18: q = path(); r = S(rename, p, q); SAY("rename(%s, %s) = %s", p, q, result(r)); break;
  case 19: q = path(); r = S(link, p, q); SAY("link(%s, %s) = %s", p, q, result(r)); break;
  case 20: q = path(); r = S(symlink, q, p); SAY("symlink(%s, %s) = %s", q, p, result(r)); break;
  case 21: memset(buf, 0, 64); r = S(readlink, p, buf, 60); SAY("readlink(%s) = %s %s", p, result(r), buf); break;
  case 22: case 23:
    k = pick(2) * AT_SYMLINK_NOFOLLOW;
    r = S(newfstatat, AT_FDCWD, p, &st, k);
    if (r) SAY("stat(%s, %d) = %s", p, k, result(r));
    else SAY("stat(%s, %d) = %o %ld %ld", p, k, st.st_mode, S_ISDIR(st.st_mode) ? 0 : (long)st.st_nlink, S_ISDIR(st.st_mode) ? 0 : (long)st.st_size);
    break;
  case 24: r = S(fstat, fds[s], &st); if (r) SAY("fstat(%d) = %s", s, result(r)); else SAY("fstat(%d) = %o %ld", s, st.st_mode, S_ISDIR(st.st_mode) ? 0 : (long)st.st_size); break;
  case 25: k = pick(0777); r = S(chmod, p, k | 0600); SAY("chmod(%s, %o) = %s", p, k | 0600, result(r)); break;
  case 26: k = slot(); r = S(dup, fds[s]); SAY("dup(%d to %d) = %s", s, k, yes(r)); put(k, r); break;
  case 27: k = pick(3); r = S(fcntl, fds[s], F_SETFL, (k == 1 ? O_APPEND : 0) | O_NONBLOCK); SAY("setfl(%d, %d) = %s %lx", s, k, result(r), S(fcntl, fds[s], F_GETFL)); break;
  case 28: k = slot(); { struct stat a, b; if (!fstat(fds[s], &a) && !fstat(fds[k], &b) && a.st_ino == b.st_ino) break; } r = S(sendfile, fds[s], fds[k], 0, n); SAY("sendfile(%d, %d, %d) = %s", s, k, n, result(r)); break;
  case 29: k = slot(); r = S(copy_file_range, fds[s], 0, fds[k], 0, n, 0); SAY("copy_file_range(%d, %d, %d) = %s", s, k, n, result(r)); break;
  case 30: k = slot(); r = S(splice, fds[s], 0, fds[k], 0, n, SPLICE_F_NONBLOCK); SAY("splice(%d, %d, %d) = %s", s, k, n, result(r)); break;
  case 31: reserved = 1; k = "\0\1\3\20\21"[pick(5)]; r = S(fallocate, fds[s], k, at < 0 ? 0 : at, n); SAY("fallocate(%d, %d, %ld, %d) = %s", s, k, at, n, result(r)); break;
  case 32: k = (LOCK_SH << pick(3)) >> pick(2) | LOCK_NB; if (k == (LOCK_NB | 4)) k = LOCK_UN; r = S(flock, fds[s], k); SAY("flock(%d, %d) = %s", s, k, result(r)); break;
  case 33: k = pick(2); r = S(access, p, k ? R_OK | X_OK : W_OK); SAY("access(%s, %d) = %s", p, k, result(r)); break;
  }
}

static void streams(void) {
  int s = slot(), t = slot(), two[2], k, n;
  long r;
  struct pollfd f[3];
  switch (pick(14)) {
  case 0: r = S(pipe2, two, O_NONBLOCK); SAY("pipe(%d, %d) = %s", s, t, result(r)); if (!r) { put(s, two[0]); put(t, two[1]); } break;
  case 1: case 2: k = pick(3); r = S(socketpair, AF_UNIX, (k == 0 ? SOCK_STREAM : k == 1 ? SOCK_DGRAM : SOCK_SEQPACKET) | SOCK_NONBLOCK, 0, two); SAY("socketpair(%d, %d, %d) = %s", s, t, k, result(r)); if (!r) { put(s, two[0]); put(t, two[1]); } break;
  case 3: r = S(eventfd2, pick(4), EFD_NONBLOCK | pick(2)); SAY("eventfd(%d) = %s", s, yes(r)); put(s, r); break;
  case 4: case 5:
    for (k = 0; k < 3; k++) f[k] = (struct pollfd){fds[slot()], POLLIN | POLLOUT | POLLRDHUP, 0};
    r = S(poll, f, 3, 0);
    SAY("poll = %s %x %x %x", result(r), f[0].revents, f[1].revents, f[2].revents);
    break;
  case 6: k = pick(3); r = S(shutdown, fds[s], k); SAY("shutdown(%d, %d) = %s", s, k, result(r)); break;
  case 7: n = pick(300); fill(buf, n, step); r = S(sendto, fds[s], buf, n, MSG_NOSIGNAL, 0, 0); SAY("send(%d, %d) = %s", s, n, result(r)); break;
  case 8: n = pick(300); k = (int[]){0, MSG_PEEK, MSG_TRUNC, MSG_PEEK | MSG_TRUNC, MSG_WAITALL}[pick(5)]; r = S(recvfrom, fds[s], buf, n, k | MSG_DONTWAIT, 0, 0); SAY("recv(%d, %d, %x) = %s %x", s, n, k, result(r), sum(buf, r > 0 ? r < n ? r : n : 0)); break;
  case 9: n = -1; r = S(ioctl, fds[s], FIONREAD, &n); SAY("fionread(%d) = %s %d", s, result(r), n); break;
  case 10: r = S(tee, fds[s], fds[t], 100, SPLICE_F_NONBLOCK); SAY("tee(%d, %d) = %s", s, t, result(r)); break;
  case 11: { struct iovec v[2] = {{buf, pick(50)}, {buf + 100, pick(50)}}; fill(buf, 200, step); r = S(writev, fds[s], v, 2); SAY("writev(%d) = %s", s, result(r)); break; }
  case 12: { struct iovec v[2] = {{buf, pick(50)}, {buf + 100, pick(50)}}; r = S(readv, fds[s], v, 2); SAY("readv(%d) = %s", s, result(r)); break; }
  case 13: n = 4096 << pick(3); r = S(fcntl, fds[s], F_SETPIPE_SZ, n); SAY("setpipe(%d, %d) = %s", s, n, result(r)); break;
  }
}

static void memory(void) {
  int m = pick(MAPS), s = slot(), k;
  long pages_ = 1 + pick(8), off = pick(8) * 4096, len = (1 + pick(4)) * 4096, r;
  char *p = maps[m].at;
  switch (pick(11)) {
  case 0: case 1:
    if (p) S(munmap, p, maps[m].len);
    maps[m].at = 0;
    r = S(mmap, 0, pages_ * 4096, PROT_READ | PROT_WRITE, (pick(2) ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS, -1, 0);
    SAY("mmap(%d, %ld) = %s", m, pages_, r < 0 && r > -4096 ? result(r) : "ok");
    if (!(r < 0 && r > -4096)) maps[m].at = (char *)r, maps[m].len = pages_ * 4096;
    break;
  case 2: case 3:
    if (p) S(munmap, p, maps[m].len);
    maps[m].at = 0;
    k = pick(2) ? MAP_PRIVATE : MAP_SHARED;
    r = S(mmap, 0, pages_ * 4096, PROT_READ | (k == MAP_PRIVATE || pick(2) ? PROT_WRITE : 0), k, fds[s], off);
    SAY("mmap(%d, %ld, file %d at %ld, %d) = %s", m, pages_, s, off, k, r < 0 && r > -4096 ? result(r) : "ok");
    if (!(r < 0 && r > -4096)) maps[m].at = (char *)r, maps[m].len = pages_ * 4096;
    break;
  case 4: if (p) { r = S(munmap, p + off % maps[m].len, len); SAY("munmap(%d, %ld, %ld) = %s", m, off, len, result(r)); if (off % maps[m].len == 0) maps[m].at = 0; else maps[m].len = off % maps[m].len; } break;
  case 5: if (p) { k = (int[]){PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}[pick(3)]; r = S(mprotect, p, len < maps[m].len ? len : maps[m].len, k); SAY("mprotect(%d, %ld, %d) = %s", m, len, k, result(r)); } break;
  case 6: case 7: /* write through the kernel: a bad page is an error, not a signal */
    if (p) { int q[2]; pipe(q); fill(buf, 64, step); write(q[1], buf, 64); r = S(read, q[0], p + off % maps[m].len + 100, 64); SAY("store(%d, %ld) = %s", m, off, result(r)); close(q[0]); close(q[1]); }
    break;
  case 8: if (p) { int q[2]; pipe(q); r = S(write, q[1], p + off % maps[m].len + 90, 100); long g = r > 0 ? S(read, q[0], buf, 100) : 0; SAY("load(%d, %ld) = %s %x", m, off, result(r), sum(buf, g)); close(q[0]); close(q[1]); } break;
  case 9: if (p) { r = S(mremap, p, maps[m].len, pages_ * 4096, MREMAP_MAYMOVE); SAY("mremap(%d, %ld) = %s", m, pages_, r < 0 && r > -4096 ? result(r) : "ok"); if (!(r < 0 && r > -4096)) maps[m].at = (char *)r, maps[m].len = pages_ * 4096; } break;
  case 10: if (p) { k = (int[]){MADV_DONTNEED, MADV_WILLNEED, MADV_FREE, MADV_REMOVE, MADV_POPULATE_WRITE}[pick(5)]; if (k == MADV_FREE) k = MADV_COLD; r = S(madvise, p, len < maps[m].len ? len : maps[m].len, k); SAY("madvise(%d, %ld, %d) = %s", m, len, k, result(r)); } break;
  }
}

static void signals(void) {
  static const int numbers[] = {SIGUSR1, SIGUSR2, SIGCHLD, SIGURG, 34, 35};
  int n = numbers[pick(6)], k;
  u64 set = 0, old = 0;
  long r;
  siginfo_t i;
  struct timespec zero = {0, 0};
  switch (pick(7)) {
  case 0: k = pick(3); r = (long)signal(n, k == 0 ? SIG_IGN : on_hit); SAY("signal(%d, %d) = %s", n, k, r == (long)SIG_ERR ? "error" : "ok"); break;
  case 1: case 2: for (k = 0; k < 6; k++) if (pick(2)) set |= bit(numbers[k]); k = pick(3); r = S(rt_sigprocmask, k, &set, &old, 8); SAY("sigprocmask(%d, %lx) = %s %lx", k, (long)set, result(r), (long)old); break;
  case 3: r = S(rt_sigpending, &set, 8); SAY("sigpending = %s %lx", result(r), (long)set); break;
  case 4: if ((long)signal(n, on_hit) != (long)SIG_ERR) { r = S(tgkill, getpid(), getpid(), n); SAY("tgkill(%d) = %s %d", n, result(r), hits[n]); } break;
  case 5: signal(n, on_hit); memset(&i, 0, sizeof i); i.si_code = SI_QUEUE; i.si_value.sival_int = step; r = S(rt_sigqueueinfo, getpid(), n, &i); SAY("sigqueue(%d) = %s %d", n, result(r), hits[n]); break;
  case 6: for (k = 0; k < 6; k++) set |= bit(numbers[k]); r = S(rt_sigtimedwait, &set, &i, &zero, 8); SAY("sigtimedwait = %s %d", result(r), r > 0 ? i.si_code : 0); break;
  }
}

/* A child that does what a byte says, one at a time. */
static void serve(int in, int out_fd) {
  char c;
  while (read(in, &c, 1) == 1) {
    long r = 0;
    switch (c) {
    case 'r': r = S(read, fds[0], buf, 50); break;
    case 'w': fill(buf, 50, 3); r = S(write, fds[1], buf, 50); break;
    case 'c': r = S(close, fds[2]); break;
    case 'm': { int q[2]; pipe(q); r = maps[0].at ? S(write, q[1], maps[0].at, 64) : 0; close(q[0]); close(q[1]); break; }
    case 's': { int q[2]; pipe(q); fill(buf, 64, 9); write(q[1], buf, 64); r = maps[1].at ? S(read, q[0], maps[1].at, 64) : 0; close(q[0]); close(q[1]); break; }
    case 'l': r = S(lseek, fds[3], 17, SEEK_SET); break;
    case 'f': r = S(flock, fds[4], LOCK_EX | LOCK_NB); break;
    case 'u': r = S(chdir, "d"); break;
    case 'k': { struct flock l = {F_WRLCK, SEEK_SET, 0, 20, 0}; r = S(fcntl, fds[0], F_SETLK, &l); break; }
    case 'o': { struct flock l = {F_RDLCK, SEEK_SET, 10, 20, 0}; r = S(fcntl, fds[1], F_OFD_SETLK, &l); break; }
    case 'y': r = maps[2].at ? S(msync, maps[2].at, maps[2].len, MS_SYNC) : 0; break;
    case 't': r = S(ftruncate, fds[0], 100); break;
    case 'x': _exit(7);
    }
    write(out_fd, &r, sizeof r);
  }
  _exit(0);
}

static void processes(void) {
  int k = pick(KIDS), status = 0, a[2], b[2];
  long r = 0;
  char c = "rwcmslfukoytx"[pick(13)];
  switch (pick(5)) {
  case 0:
    if (kids[k].pid) break;
    pipe(a);
    pipe(b);
    kids[k].pid = fork();
    if (kids[k].pid == 0) { close(a[1]); close(b[0]); for (int i = 0; i < KIDS; i++) if (i != k && kids[i].pid) { close(kids[i].to); close(kids[i].from); } serve(a[0], b[1]); }
    close(a[0]);
    close(b[1]);
    fcntl(a[1], F_SETFD, 1);
    kids[k].to = a[1];
    kids[k].from = b[0];
    SAY("fork(%d)", k);
    break;
  case 1: case 2:
    if (!kids[k].pid) break;
    signal(SIGPIPE, SIG_IGN);
    if (write(kids[k].to, &c, 1) != 1 || read(kids[k].from, &r, sizeof r) != sizeof r) {
      siginfo_t i; /* its signal comes before the next step */
      waitid(P_PID, kids[k].pid, &i, WEXITED | WNOWAIT);
      SAY("child(%d, %c) has ended", k, c);
    }
    else SAY("child(%d, %c) = %s", k, c, c == 'c' || c == 'f' || c == 'u' ? yes(r) : result(r));
    break;
  case 3:
    if (!kids[k].pid) break;
    close(kids[k].to);
    close(kids[k].from);
    status = reap(kids[k].pid);
    kids[k].pid = 0;
    SAY("wait(%d) = %x", k, status);
    break;
  case 4: {
    pid_t p = vfork();
    if (p == 0) _exit(step & 63);
    r = S(wait4, p, &status, 0, 0);
    SAY("vfork = %d %x", r == p, status);
    break;
  }
  }
}

#include "kinds.h"

static void run(u64 seed, const char *steps, int count) {
  reserved = 0;
  kinds_begin();
  for (int i = 0; i < FDS; i++) fds[i] = -1;
  for (step = 0; step < count; step++) {
    rng = (seed * 0x9e3779b97f4a7c15ull + step * 0xbf58476d1ce4e5b9ull) | 1;
    for (int i = 0; i < 4; i++) pick(1);
    char number[24];
    snprintf(number, sizeof number, ",%d,", step);
    if (steps && !strstr(steps, number)) continue;
    /* The first steps make something for the others to use. */
    if (step < 5) {
      long fd = S(open, paths[step == 3 ? 3 : step % 2], O_RDWR | O_CREAT | O_NONBLOCK, 0644);
      SAY("first open = %s", yes(fd));
      put(step, fd);
    } else if (step == 5) {
      SAY("first mkdir = %s", result(S(mkdir, "d", 0755)));
    } else switch (pick(26)) {
    case 0: case 1: case 2: case 3: case 4: case 5: files(); break;
    case 6: case 7: case 8: streams(); break;
    case 9: case 10: memory(); break;
    case 11: signals(); break;
    case 12: case 13: case 14: processes(); break;
    case 15: case 16: attributes(); break;
    case 17: locks(); break;
    case 18: watches(); break;
    case 19: clocks(); break;
    case 20: case 21: readiness(); break;
    case 22: case 23: messages(); break;
    case 24: descriptors(); break;
    case 25: if (pick(2)) terminals(); else shared(); break;
    }
  }
}

int main(int argc, char **argv) {
  const char *dir = "/tmp", *steps = 0;
  int i = 1, count = 0;
  for (; i < argc; i++) {
    if (!strcmp(argv[i], "--dir")) dir = argv[++i];
    else if (!strcmp(argv[i], "--steps")) steps = argv[++i];
    else break;
  }
  if (i + 1 >= argc) return 2;
  count = atoi(argv[i++]);
  mkdir(dir, 0755);
  close(0);
  open("/dev/null", O_RDWR);
  raw_call(SYS_close_range, 3, ~0u, 0, 0, 0, 0);
  for (; i < argc; i++) {
    char place[512];
    snprintf(place, sizeof place, "%s/%s", dir, argv[i]);
    mkdir(place, 0755);
    out("=== %s\n", argv[i]);
    pid_t pid = fork();
    if (pid == 0) {
      setsid();
      umask(022);
      signal(SIGPIPE, SIG_IGN); /* else most programs would end early */
      if (chdir(place)) _exit(97);
      alarm(20);
      run(strtoull(argv[i], 0, 0), steps, count);
      for (int k = 0; k < KIDS; k++) if (kids[k].pid) kill(kids[k].pid, SIGKILL);
      _exit(0);
    }
    int status = reap(pid);
    kill(-pid, SIGKILL);
    show_status("--- end", status);
  }
  return 0;
}
